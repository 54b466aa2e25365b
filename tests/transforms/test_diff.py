"""Two published versions compared: against rows in dicts, whatever the shards they lie in."""

from __future__ import annotations

import collections
import hashlib
import io
import pathlib
import tempfile
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import forms
from transforms import diff, manifest, statistics
from transforms.buckets import USER_HASH, split_by_bucket, user_hash
from transforms.diff import ABSENT, Change, Group, Options, SchemaChange, Version
from transforms.errors import DataRefusedError, UsageError
from transforms.manifest import ColumnEntry, FileEntry, Manifest, RunInfo
from transforms.row_diff import RowCounts

SPLITS = ("train", "validation", "test")
KEY = ("user_id", "event_id")
SCHEMA: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "event_id": pl.String(),
    "score": pl.Float64(),
    "history": pl.List(pl.String()),
}
SHA = "0" * 64
Row = tuple[str, str, str, float | None, list[str] | None]  # split, user, event, score, history


def publish(
    root: Any,
    rows: list[Row],
    shards: int = 1,
    seed: int = 0,
    stated: bool = True,
    files: tuple[tuple[str, bytes], ...] = (),
    **changes: Any,
) -> Version:
    """A version of the rows in `shards` bucket ranges; buckets without rows have no file.

    `seed` keys the buckets; `stated`: the manifest says which; `files`: side files, by path.
    """
    version, entries = str(changes.pop("version", "v-1")), []
    schema = changes.pop("schema", SCHEMA)
    folder = pathlib.Path(root) / version / "attempt"

    def write(path: str, role: str, data: bytes, **fields: Any) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        entries.append(FileEntry(path=path, role=role, bytes=len(data), sha256=digest, **fields))

    for split in SPLITS:
        of_split = [row[1:] for row in rows if row[0] == split]
        table = pl.DataFrame(of_split, schema, orient="row")
        hashed = table.with_columns(user_hash(pl.col("user_id"), seed).alias(USER_HASH))
        for bucket, part in split_by_bucket(hashed, shards):
            buffer = io.BytesIO()
            part.drop(USER_HASH).write_parquet(buffer)
            buckets = {"first_bucket": bucket, "last_bucket": bucket} if stated else {}
            path = f"{split}/part-{bucket:05}.parquet"
            write(path, split, buffer.getvalue(), rows=part.height, **buckets)
    for path, data in files:
        write(path, path.split("/")[0], data, rows=0, format="other")
    fields: dict[str, Any] = {
        "kind": "dataset", "name": "d", "version": version, "fingerprint": "f",
        "code_version": "1", "status": "OK", "config": {}, "key": KEY, "inputs": (), "counts": {},
        "columns": tuple(ColumnEntry(name=n, type=forms.type_name(t)) for n, t in schema.items()),
        "run": RunInfo(attempt="attempt", started_at="", finished_at="", runner=""),
    }  # fmt: skip
    made = Manifest(files=tuple(entries), **(fields | changes))
    return Version(str(root), manifest.commit(str(root), made))


def row(event: str, split: str = "train", user: str = "u", score: float | None = 1.0) -> Row:
    return (split, user, event, score, ["a"])


def compare(a: Version, b: Version, **options: Any) -> diff.Diff:
    return diff.compare(a, b, Options(**options))


# --- rows -----------------------------------------------------------------------------------------

USERS = [f"u{number}" for number in range(6)]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(SPLITS[:2]),
        st.sampled_from(USERS),
        st.sampled_from(["e0", "e1"]),
        st.sampled_from([0.0, 1.0, 1.05, float("nan"), float("inf"), None]),
        st.sampled_from([None, [], ["a"], ["a", "b"]]),
    ),
    max_size=14,
)
SHARDS = st.sampled_from([1, 2, 4, 8])


def equal(a: float | None, b: float | None, tolerance: float) -> bool:
    if a is None or b is None or a != a or b != b or a == b:
        return repr(a) == repr(b)
    return abs(a - b) <= tolerance * max(a, b) < float("inf")


def by_key(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows of each key in the order in which a reader meets them."""
    found = collections.defaultdict(list)
    for split in SPLITS:
        for each in rows:
            if each[0] == split:
                found[each[1], each[2]].append(each)
    return found


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS, SHARDS, SHARDS, st.sampled_from([0.0, 0.1]), st.booleans())
def test_rows_differ_as_dicts_of_them_do(
    rows_a: list[Row], rows_b: list[Row], shards_a: int, shards_b: int, tolerance: float,
    like_a: bool,
) -> None:  # fmt: skip
    rows_b = rows_a + rows_b[:2] if like_a else rows_b
    went: collections.Counter[str] = collections.Counter()
    moves: collections.Counter[str] = collections.Counter()
    columns: dict[str, list[tuple[Any, Any, Any]]] = {"score": [], "history": []}
    of_a, of_b = by_key(rows_a), by_key(rows_b)
    for key in sorted(of_a.keys() | of_b.keys()):
        left, right = of_a.get(key, []), of_b.get(key, [])
        went["only_a"] += max(0, len(left) - len(right))
        went["only_b"] += max(0, len(right) - len(left))
        went["duplicates_a"] += max(0, len(left) - 1)
        went["duplicates_b"] += max(0, len(right) - 1)
        for a, b in zip(left, right, strict=False):
            other = [not equal(a[3], b[3], tolerance), a[4] != b[4]]
            for name, differs, at in zip(columns, other, (3, 4), strict=True):
                if differs:
                    columns[name].append((key, a[at], b[at]))
            if a[0] != b[0]:
                moves[f"{a[0]} -> {b[0]}"] += 1
                went["moved_different"] += any(other)
            else:
                went["different" if any(other) else "same"] += 1
    with tempfile.TemporaryDirectory() as folder:
        compared = compare(
            publish(f"{folder}/a", rows_a, shards_a),
            publish(f"{folder}/b", rows_b, shards_b),
            tolerance=tolerance,
            examples=2,
        )
    found = compared.rows
    assert found is not None
    assert found.total == RowCounts(
        rows_a=len(rows_a), rows_b=len(rows_b), same=went["same"], different=went["different"],
        moved_out=moves.total(), moved_in=moves.total(),
        only_a=went["only_a"], only_b=went["only_b"],
    )  # fmt: skip
    for split, counts in found.splits.items():
        assert counts.rows_a == sum(each[0] == split for each in rows_a)
        assert counts.rows_b == sum(each[0] == split for each in rows_b)
        stayed = counts.same + counts.different
        assert counts.rows_a == stayed + counts.moved_out + counts.only_a
        assert counts.rows_b == stayed + counts.moved_in + counts.only_b
    assert found.moves == moves
    for name in ("moved_different", "duplicates_a", "duplicates_b"):
        assert getattr(found, name) == went[name]
    assert found.columns.keys() == {name for name, listed in columns.items() if listed}
    for name, column in found.columns.items():
        listed = columns[name]
        assert column.rows == len(listed)
        assert column.null_a == sum(a is None for _, a, _ in listed)
        assert column.null_b == sum(b is None for _, _, b in listed)
        shown = [(each.key, repr(each.a), repr(each.b)) for each in column.examples]
        assert shown == [(key, repr(a), repr(b)) for key, a, b in listed[:2]]
    assert compared.same == (went["same"] == len(rows_a) == len(rows_b))


def test_a_version_is_the_same_in_other_shards_and_row_orders(tmp_path: pathlib.Path) -> None:
    rows = [row(f"e{i}", SPLITS[i % 3], f"u{i % 7}", i / 7) for i in range(60)]
    a, b = publish(tmp_path / "a", rows, 8), publish(tmp_path / "b", rows[::-1], 2)
    found = compare(a, b)
    assert found.same
    assert found.statistics == []
    assert found.split_rows == dict.fromkeys(SPLITS, (20, 20))


@pytest.mark.parametrize("how", ["other hash seed", "no buckets stated", "wrong bucket count"])
def test_rows_find_their_partners_where_buckets_do_not_tell(
    tmp_path: pathlib.Path, how: str
) -> None:
    rows = [row(f"e{i}", user=f"u{i}") for i in range(40)]
    if how == "wrong bucket count":  # the upper half of 8 buckets is empty, as if there were 4
        of = user_hash(pl.col("user_id"), 0) // 2**61
        users = pl.DataFrame({"user_id": [each[1] for each in rows]}).filter(of < 4)["user_id"]
        rows = [each for each in rows if each[1] in set(users)]
    b = publish(tmp_path / "b", rows, 4)
    changes: dict[str, Any] = {
        "other hash seed": {"shards": 4, "seed": 9},
        "no buckets stated": {"shards": 4, "stated": False},
        "wrong bucket count": {"shards": 8},
    }[how]
    found = compare(publish(tmp_path / "a", rows, **changes), b)
    assert found.rows is not None
    assert found.rows.total.same == len(rows) > 5


def test_only_files_that_may_hold_the_same_users_are_in_memory_together(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(f"e{i}", SPLITS[i % 2], f"u{i}") for i in range(200)]
    a, b = publish(tmp_path / "a", rows, 8), publish(tmp_path / "b", rows, 2)
    groups: list[int] = []
    whole = diff._compare_group

    def watched(a: Version, b: Version, group: Group, *rest: Any) -> None:
        groups.append(sum(entry.rows for entry in group.a))
        whole(a, b, group, *rest)

    monkeypatch.setattr(diff, "_compare_group", watched)
    assert compare(a, b).same
    assert len(groups) == 2
    assert sum(groups) == 200


def entry(first: int, last: int, role: str = "train") -> FileEntry:
    path = f"{role}/{first}-{last}.parquet"
    return FileEntry(
        path=path, role=role, rows=1, bytes=1, sha256=SHA, first_bucket=first, last_bucket=last
    )


def test_groups_are_the_smallest_that_hold_users_whole() -> None:
    a = [entry(0, 1), entry(2, 3), entry(4, 7), entry(0, 3, "test"), entry(4, 7, "test")]
    b = [entry(0, 0), entry(1, 1)]  # of two buckets
    first, second = diff.align(a, b)
    assert (first.a, first.b, first.first, first.end, first.of) == (
        [a[0], a[3], a[1]], [b[0]], 0, 4, 8,
    )  # fmt: skip
    assert (second.a, second.b, second.first, second.end) == ([a[2], a[4]], [b[1]], 4, 8)
    assert len(diff.align([entry(i, i) for i in range(8)], [])) == 8
    assert len(diff.align([entry(i, i) for i in range(8)], [entry(0, 3), entry(4, 7)])) == 2
    assert diff.align([], []) == []


def test_columns_that_are_asked_for_decide_alone(tmp_path: pathlib.Path) -> None:
    a, b = publish(tmp_path / "a", [row("e")]), publish(tmp_path / "b", [row("e", score=2.0)])
    assert compare(a, b, columns=("history",)).same
    found = compare(a, b, columns=("score",))
    assert not found.same
    assert found.rows is not None
    assert (found.rows.columns["score"].max_abs, found.rows.columns["score"].rows) == (1.0, 1)
    assert not compare(a, b, columns=("score",), tolerance=0.4).same
    assert compare(a, b, columns=("score",), tolerance=0.5).same


def test_a_file_that_was_changed_is_refused(tmp_path: pathlib.Path) -> None:
    a, b = publish(tmp_path / "a", [row("e")]), publish(tmp_path / "b", [row("e")])
    path = pathlib.Path(manifest.file_path(b.root, b.manifest, b.data()[0]))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataRefusedError, match="changed after it was published"):
        compare(a, b)


# --- settings, schema, counts, statistics ---------------------------------------------------------


def test_settings_and_counts_differ_by_their_paths() -> None:
    a = {"spec": {"seed": 0, "labels": {"cap": 1.0, "old": None}, "list": [1, 2]}, "same": 1}
    b = {"spec": {"seed": 0, "labels": {"cap": 2.0}, "list": [2, 1]}, "same": 1, "new": {"x": 5}}
    assert diff.changes(a, b) == [
        Change("spec.labels.cap", 1.0, 2.0),
        Change("spec.labels.old", None, ABSENT),
        Change("spec.list", [1, 2], [2, 1]),
        Change("new.x", ABSENT, 5),
    ]


def test_settings_are_what_decided_the_data(tmp_path: pathlib.Path) -> None:
    part = manifest.InputVersionEntry(name="events/dt=2026-01-05", version="v-1", digest=SHA)
    raw = manifest.InputFileEntry(path="raw/a", bytes=1, checksum="00")
    a = publish(tmp_path / "a", [row("e")], inputs=(part, raw), config={"spec": {"seed": 0}})
    later = part.model_copy(update={"version": "v-2"})
    b = publish(tmp_path / "b", [row("e")], inputs=(later,), counts={"n": {"x": 1}})
    found = compare(a, b)
    assert found.settings == [
        Change("spec.seed", 0, ABSENT),
        Change("inputs.events/dt=2026-01-05", "v-1", "v-2"),
        Change("inputs.raw/a", "00", ABSENT),
    ]
    assert found.counts == [Change("n.x", ABSENT, 1)]
    assert found.same  # they explain a difference, they are none


def test_schema_changes_decide_the_verdict_and_are_not_compared_by_row(
    tmp_path: pathlib.Path,
) -> None:
    a = publish(tmp_path / "a", [row("e")])
    narrow = {**SCHEMA, "score": pl.Int64(), "new": pl.Int64()}
    del narrow["history"]
    rows: Any = [("train", "u", "e", 1, 2)]
    b = publish(tmp_path / "b", rows, schema=narrow)
    found = compare(a, b)
    assert found.schema == [
        SchemaChange("score", "type", "double", "int64"),
        SchemaChange("history", "removed", "list<string>", None),
        SchemaChange("new", "added", None, "int64"),
    ]
    assert found.rows is not None
    assert found.rows.same
    assert not found.same
    required = [column.model_copy(update={"nullable": False}) for column in a.manifest.columns]
    assert diff.schema_changes(a.manifest.columns[:1], required[:1]) == [
        SchemaChange("user_id", "nullable", "nullable", "required")
    ]


def test_statistics_are_those_published_or_the_same_of_the_rows(tmp_path: pathlib.Path) -> None:
    rows_a = [row(f"e{i}", user=f"u{i % 5}", score=i / 3) for i in range(40)]
    rows_b = [row(f"e{i}", user=f"u{i % 4}", score=i / 3 if i else None) for i in range(40)]
    versions = []
    for name, rows in (("a", rows_a), ("b", rows_b)):
        plain = publish(tmp_path / name, rows, 4)
        tally = statistics.SplitStatistics(plain.manifest.columns)
        tally.add(pl.DataFrame([each[1:] for each in rows], SCHEMA, orient="row"))
        data = statistics.encode(tally.extract("train"))
        told = publish(tmp_path / f"{name}told", rows, files=(("statistics/train.pb", data),))
        versions.append((plain, told))
    results = [compare(a, b, rows=False).statistics for a in versions[0] for b in versions[1]]
    expected = [
        ("user_id", "distinct", 5, 4, 0.2),
        ("score", "mean", 6.5, 20 / 3, 0.025),
        ("score", "missing", 0.0, 0.025, 0.025),
    ]
    for found in results:
        assert [(each.column, each.measure) for each in found] == [e[:2] for e in expected]
        for each, (_, _, left, right, change) in zip(found, expected, strict=True):
            assert (each.a, each.b, each.change) == pytest.approx((left, right, change))
    a, b = versions[0][0], versions[1][0]
    measures = [each.measure for each in compare(a, b, rows=False, tolerance=0.03).statistics]
    assert measures == ["distinct", "missing"]


def test_a_change_of_a_measure_has_a_size() -> None:
    a: diff.Measures = {"mean": 0.0, "missing": 0.5, "distinct": 4}
    assert list(diff.measure_changes(a, {"mean": -2.0, "missing": 0.25}, 0.0)) == [
        ("mean", 0.0, -2.0, 1.0), ("missing", 0.5, 0.25, 0.25),
    ]  # fmt: skip
    assert list(diff.measure_changes(a, a, 0.0)) == []
    summed: diff.Measures = {"mean": 0.1 + 0.2 + 0.3}
    assert list(diff.measure_changes(summed, {"mean": 0.3 + 0.2 + 0.1}, 0.0)) == []


def test_the_mean_of_ids_and_times_says_nothing(tmp_path: pathlib.Path) -> None:
    schema = {
        "user_id": pl.String(), "event_id": pl.String(), "session_id": pl.Int64(),
        "at": pl.Datetime("us", "UTC"), "n": pl.Int64(),
    }  # fmt: skip
    columns = tuple(
        ColumnEntry(name=name, type=forms.type_name(kind), identifier=name == "session_id")
        for name, kind in schema.items()
    )
    a, b = (
        publish(tmp_path / f"{n}", [("train", "u", "e", n, n, n)], schema=schema, columns=columns)  # type: ignore[list-item]
        for n in (1, 2)
    )
    assert [each.column for each in compare(a, b).statistics] == ["n"]


def test_without_rows_their_number_and_the_statistics_decide(tmp_path: pathlib.Path) -> None:
    a = publish(tmp_path / "a", [row("e0"), row("e1")])
    fewer, other = publish(tmp_path / "b", [row("e0")]), publish(tmp_path / "c", [row("e2")] * 2)
    assert not compare(a, fewer, rows=False).same
    assert compare(a, a, rows=False).same
    assert compare(a, a, rows=False).rows is None
    assert not compare(a, other, rows=False).same  # one event_id where there were two


# --- what cannot be compared ----------------------------------------------------------------------


def test_versions_without_a_common_key_are_compared_but_for_rows(tmp_path: pathlib.Path) -> None:
    a = publish(tmp_path / "a", [row("e")])
    b = publish(tmp_path / "b", [row("e")], key=("user_id", "window_id"))
    with pytest.raises(UsageError, match=r"\(user_id string, event_id string\), B has \(user_id"):
        compare(a, b)
    found = compare(a, b, rows=False)
    assert found.settings == [Change("key", list(KEY), ["user_id", "window_id"])]


def test_a_partition_is_no_dataset(tmp_path: pathlib.Path) -> None:
    a = publish(tmp_path / "a", [row("e")])
    with pytest.raises(UsageError, match="of one kind, got dataset and events"):
        compare(a, publish(tmp_path / "b", [row("e")], kind="events"))


def test_rows_in_tfrecord_alone_are_counted_not_read(tmp_path: pathlib.Path) -> None:
    made = publish(tmp_path / "a", [row("e")])
    record = made.data()[0].model_copy(
        update={"format": "tfrecord", "path": "train/part-0.tfrecord"}
    )
    both = made.manifest.model_copy(update={"files": (*made.manifest.files, record)})
    assert Version(made.root, both).data() == made.data()
    only = Version(made.root, made.manifest.model_copy(update={"files": (record,)}))
    with pytest.raises(UsageError, match="v-1 has no Parquet files to compare rows of"):
        compare(only, only)
    assert compare(only, made, rows=False).split_rows == {"train": (1, 1)}
