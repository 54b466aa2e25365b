"""`playhead forget` against stores and datasets that never saw the user."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest

from pipelines import forget as forget_job
from tests import jobs
from transforms import forgetting, manifest, pseudonyms, storage, store, tombstones
from transforms.manifest import Manifest
from transforms.store import PartitionRef

SPECS = {
    "ranking": {"kind": "ranking", "formats": "[parquet, tfrecord]", "more": ""},
    "sequences": {
        "kind": "sequences",
        "formats": "[parquet]",
        "more": "packing: pack\nlength: 20\nvocabulary: {min_plays: 1}",
    },
    "sessions": {"kind": "sessions", "formats": "[tfrecord]", "more": ""},
}
FIRST, LAST = "2026-01-05", "2026-01-07"


def write_spec(folder: pathlib.Path, name: str) -> pathlib.Path:
    spec = SPECS[name]
    path = folder / f"{name}.yaml"
    path.write_text(
        f"kind: {spec['kind']}\nname: {name}\nlabels: {{horizon_hours: 2}}\n"
        f"splits: {{validation_days: 1, test_days: 1, gap_hours: 0}}\n{spec['more']}\n"
        f"output: {{shards: 4, formats: {spec['formats']}, tfrecord_gzip: true}}\n"
    )
    return path


def busiest(events: pl.DataFrame, rank: int = 3) -> str:
    """A user with many events."""
    counted = events.group_by("user_id").len().sort("len", "user_id", descending=True)
    return str(counted["user_id"][rank])


def parquet_rows(root: pathlib.Path, published: Manifest, split: str) -> pl.DataFrame:
    """Rows of a split in the order of its files, read where the manifest says they are."""
    entries = [entry for entry in published.files_of(split) if entry.format == "parquet"]
    paths = [manifest.file_path(str(root), published, entry) for entry in entries]
    return pl.concat([pl.read_parquet(path) for path in paths])


def line(ended: jobs.Ended, name: str) -> str:
    """The value of the first line of that name in the table at the end."""
    (found, *_) = [text for text in ended.out.splitlines() if text.startswith(f"  {name} ")]
    return found.split()[-1]


def raw_days(simulated: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    folders = sorted(simulated.glob("received=*"))
    return [(folder.name.removeprefix("received="), folder) for folder in folders]


@dataclasses.dataclass(frozen=True)
class World:
    """A store that forgot a user, and one that never saw the user.

    Attributes:
      user: the id.
      raw: raw logs, with the user.
      store, without: the two stores.
      datasets: roots, built of `store` before the user was forgotten.
      before: their manifests then.
      rows: their rows then, by split, where they are Parquet.
    """

    user: str
    raw: pathlib.Path
    store: pathlib.Path
    without: pathlib.Path
    datasets: dict[str, pathlib.Path]
    before: dict[str, Manifest]
    rows: dict[str, dict[str, pl.DataFrame]]
    ended: jobs.Ended


@pytest.fixture(scope="module")
def world(
    simulated: pathlib.Path,
    simulated_store: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    folder = tmp_path_factory.mktemp("forget")
    target = shutil.copytree(simulated_store, folder / "store")
    user = busiest(jobs.stored(target, "2026-01-06"))
    without = folder / "without"
    for day, raw in raw_days(simulated):
        table = pl.concat([pl.read_parquet(path) for path in sorted(raw.glob("*.parquet"))])
        path = folder / "raw" / day / "a.parquet"
        path.parent.mkdir(parents=True)
        table.filter(pl.col("user_id") != user).write_parquet(path)
        jobs.ingest(path, without, "--date", day, "--buckets", 4)
    datasets = {name: folder / name for name in SPECS}
    before = {
        name: jobs.build(target, write_spec(folder, name), FIRST, LAST, root)
        for name, root in datasets.items()
    }
    rows = {
        name: {split: parquet_rows(root, before[name], split) for split in ("train", "test")}
        for name, root in datasets.items()
        if name != "sessions"
    }
    given = [word for root in datasets.values() for word in ("--dataset", root)]
    ended = jobs.ok("forget", "--store", target, "--user", user, *given, "--scan", "all")
    return World(user, simulated, target, without, datasets, before, rows, ended)


def data(published: Manifest, root: pathlib.Path, *roles: str) -> dict[str, bytes]:
    """Path -> bytes of files of some roles."""
    return {
        entry.path: pathlib.Path(manifest.file_path(str(root), published, entry)).read_bytes()
        for entry in published.files
        if entry.role in roles
    }


SPLIT_ROLES = ("train", "validation", "test")


def texts(path: pathlib.Path) -> Iterator[bytes]:
    """What can be read in a file, whatever it is; in no way as the job reads it."""
    content = path.read_bytes()
    if path.suffix == ".parquet" and content:  # an attempt that was cut off leaves empty ones
        for column in pl.read_parquet(path).get_columns():
            yield "\n".join(map(str, column.to_list())).encode()
    yield zlib.decompress(content, 31) if path.suffix == ".gz" else content


def files_with(user: str, *roots: pathlib.Path) -> list[str]:
    return [
        str(path)
        for root in roots
        for path in sorted(root.rglob("*"))
        if path.is_file() and any(user.encode() in text for text in texts(path))
    ]


def test_store_is_what_ingest_makes_of_the_log_without_the_user(world: World) -> None:
    for day, _ in raw_days(world.raw):
        mine, other = jobs.partition(world.store, day), jobs.partition(world.without, day)
        assert jobs.checksums(mine, "events", "set_aside") == jobs.checksums(
            other, "events", "set_aside"
        )
        for key in ("kept", "near_duplicate", "by_source", "by_event_day", "set_aside"):
            assert mine.counts[key] == other.counts[key], key
        gone = mine.counts.get("forgotten", 0)
        assert mine.counts["read"] == other.counts["read"] + gone + (
            mine.counts["duplicate"] - other.counts["duplicate"]
        )
    assert jobs.partition(world.store, "2026-01-06").counts["forgotten"] > 50


def test_only_the_bucket_is_rewritten(world: World) -> None:
    found = jobs.partition(world.store, "2026-01-06")
    own = [entry.path for entry in found.files if entry.folder is None]
    assert len(own) == 1
    assert own[0].startswith("events/bucket-")
    for name, root in world.datasets.items():
        published = manifest.require_current(str(root), "a dataset")
        own = [e for e in published.files if e.folder is None and e.role in SPLIT_ROLES]
        assert len({entry.first_bucket for entry in own}) == 1, name
        kept = [e.path for e in published.files if e.folder is not None and e.role in SPLIT_ROLES]
        assert kept, name
        assert published.version != world.before[name].version


def test_user_is_nowhere(world: World) -> None:
    assert files_with(world.user, world.store, *world.datasets.values()) == []
    assert line(world.ended, "  hits") == "0"


def with_item_counts_of(monkeypatch: pytest.MonkeyPatch, counted: pathlib.Path) -> None:
    """Builds take item counts, which still count the user, from another store."""
    real = PartitionRef.item_days

    def item_days(self: PartitionRef) -> list[pl.DataFrame]:
        root = str(counted / "events" / pathlib.Path(self.root).name)
        current = manifest.require_current(root, "a partition")
        return real(PartitionRef(root, current.version, current.digest(), self.lateness_days))

    monkeypatch.setattr(PartitionRef, "item_days", item_days)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_dataset_is_what_a_build_of_the_log_without_the_user_makes(
    world: World, name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(tmp_path, name)
    rewritten = manifest.require_current(str(world.datasets[name]), "a dataset")
    again = jobs.build(world.store, spec, FIRST, LAST, tmp_path / "again")
    with_item_counts_of(monkeypatch, world.store)
    other = jobs.build(world.without, spec, FIRST, LAST, tmp_path / "other")
    wanted = data(other, tmp_path / "other", *SPLIT_ROLES)
    assert data(again, tmp_path / "again", *SPLIT_ROLES) == wanted
    assert again.counts["splits"] == other.counts["splits"]
    if name == "sequences":  # packed rows go as a whole
        return
    found = data(rewritten, world.datasets[name], *SPLIT_ROLES)
    assert found == wanted
    assert rewritten.counts["splits"] == other.counts["splits"]
    assert rewritten.counts["examples"] == other.counts["examples"]


def test_rows_of_others_keep_their_order(world: World) -> None:
    for name, splits in world.rows.items():
        published = manifest.require_current(str(world.datasets[name]), "a dataset")
        for split, before in splits.items():
            column = pl.col("user_ids" if name == "sequences" else "user_id")
            has = column.list.contains(world.user) if name == "sequences" else column == world.user
            kept = before.filter(~has)
            assert 0 < kept.height < before.height
            found = parquet_rows(world.datasets[name], published, split)
            assert found.equals(kept)


def test_old_version_is_withdrawn_in_one_line(world: World) -> None:
    root, old = world.datasets["ranking"], world.before["ranking"]
    ended = jobs.call("inspect", root / old.version)
    current = manifest.require_current(str(root), "a dataset")
    today = datetime.datetime.now(datetime.UTC).date()
    assert ended.code == 3
    assert ended.err == (
        f"playhead inspect: {root}/{old.version}: withdrawn on {today} for a deletion; "
        f"use {current.version}\n"
    )
    assert jobs.ok("inspect", root).out.count(current.version)
    assert jobs.ok("diff", root, root).code == 0


@pytest.mark.parametrize("day", ["2026-01-06", "2026-01-08"])
def test_backfill_does_not_bring_the_user_back(
    world: World, day: str, tmp_path: pathlib.Path
) -> None:
    target = shutil.copytree(world.store, tmp_path / "store")
    if day == "2026-01-08":  # a day that was not ingested yet
        shutil.rmtree(jobs.partition_root(target, day))
    found = jobs.ingest(world.raw / f"received={day}" / "*", target, "--date", day)
    other = jobs.partition(world.without, day)
    assert jobs.checksums(found, "events") == jobs.checksums(other, "events")
    assert found.counts["kept"] == other.counts["kept"]
    assert found.counts["forgotten"] >= (1 if day == "2026-01-06" else 0)
    assert files_with(world.user, target) == []
    ended = jobs.ok(
        "ingest", *jobs.ingest_argv(world.raw / f"received={day}" / "*", target, "--date", day)[1:]
    )
    assert "already published" in ended.out


def test_again_changes_nothing(world: World, tmp_path: pathlib.Path) -> None:
    target = shutil.copytree(world.store, tmp_path / "store")
    before = set(jobs.files_below(target))
    ended = jobs.ok("forget", "--store", target, "--user", world.user)
    new = set(jobs.files_below(target)) - before
    assert set(map(pathlib.Path, new)) == {
        path for path in map(pathlib.Path, new) if path.parts[0] == "tombstones"
    }
    assert before <= set(jobs.files_below(target))
    assert line(ended, "  rows left out") == "0"
    jobs.ok("forget", "--store", target, "--user", world.user, "--verify-only")


# --- a store of seven listeners -------------------------------------------------------------------

DAYS = [datetime.date(2026, 1, 5), datetime.date(2026, 1, 6), datetime.date(2026, 1, 7)]
LISTENING = """
kind: ranking
name: listening
examples: {rows: play}
labels: {horizon_hours: 1, lateness_days: 0, reward: {streamed_30s: 1.0}}
output: {shards: 2, formats: [parquet, tfrecord]}
"""


@dataclasses.dataclass(frozen=True)
class Small:
    """Raw logs of three days, the store of the first two and a dataset of the first."""

    folder: pathlib.Path

    @property
    def store(self) -> pathlib.Path:
        return self.folder / "store"

    @property
    def dataset(self) -> pathlib.Path:
        return self.folder / "dataset"

    def raw(self, day: datetime.date) -> pathlib.Path:
        return self.folder / "raw" / f"{day}.parquet"

    def argv(self, *more: Any) -> list[Any]:
        return ["--store", self.store, "--dataset", self.dataset, *more]

    def build(self, output: pathlib.Path) -> Manifest:
        return jobs.build(self.store, self.folder / "spec.yaml", DAYS[0], DAYS[1], output)

    def read(self) -> tuple[list[pl.DataFrame], pl.DataFrame]:
        """Events of the two days, and the dataset, as readers get them."""
        found = manifest.require_current(str(self.dataset), "a dataset")
        return (
            [jobs.stored(self.store, day) for day in DAYS[:2]],
            pl.concat([parquet_rows(self.dataset, found, "train")]),
        )


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Read it; a test that writes takes `small`."""
    made = Small(tmp_path_factory.mktemp("seven"))
    for day in DAYS:
        jobs.write(made.raw(day), jobs.plays(70, day=day))
    for day in DAYS[:2]:
        jobs.ingest(made.raw(day), made.store, "--date", day, "--buckets", 4)
    (made.folder / "spec.yaml").write_text(LISTENING)
    made.build(made.dataset)
    return made


@pytest.fixture
def small(seven: Small, tmp_path: pathlib.Path) -> Small:
    return Small(shutil.copytree(seven.folder, tmp_path / "small"))


def without_beam(pieces: list[forgetting.Piece], _options: Any) -> dict[str, int]:
    """The steps of the graph, in its order."""
    parts: dict[forgetting.Rewriting, list[Any]] = {}
    for piece in pieces:
        part = forgetting.rewrite(piece)
        if part is not None:
            parts.setdefault(piece.of, []).append(part)
    for of, each in parts.items():
        forgetting.commit(of, each)
    return {}


class Crash(BaseException):
    """The process is gone."""


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int, after: bool) -> list[str]:
    """The operation of that number that changes files raises, before or after it acted; the list
    has all that were tried."""
    tried: list[str] = []

    def wrap(name: str) -> Callable[..., Any]:
        real = getattr(storage, name)

        def wrapped(path: str, *args: Any) -> Any:
            tried.append(name)
            if len(tried) > number + 1:
                raise Crash  # nothing is done by a process that is gone
            if len(tried) == number + 1 and not after:
                raise Crash
            result = real(path, *args)
            if len(tried) == number + 1:
                raise Crash
            return result

        return wrapped

    for name in ("create_if_absent", "replace", "create_writer", "delete_files", "delete_tree"):
        monkeypatch.setattr(storage, name, wrap(name))
    return tried


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_cut_off_anywhere_and_run_again(
    seven: Small, tmp_path: pathlib.Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each operation on files: readers see all of the old or all of the new, and the same
    command finishes the work."""
    monkeypatch.setattr(forget_job, "_run", without_beam)
    events, rows = seven.read()
    gone = pl.col("user_id") == "u3"
    new_events, new_rows = [table.filter(~gone) for table in events], rows.filter(~gone)
    number, crashed = 0, True
    while crashed:
        copy = Small(shutil.copytree(seven.folder, tmp_path / "copy"))
        with monkeypatch.context() as patch:
            tried = crash_at(patch, number, after)
            with contextlib.suppress(Crash):
                jobs.call("forget", *copy.argv("--user", "u3"))
        found, dataset = copy.read()
        assert all(
            a.equals(b) or a.equals(c) for a, b, c in zip(found, events, new_events, strict=True)
        )
        assert dataset.equals(rows) or dataset.equals(new_rows)
        jobs.ok("forget", *copy.argv("--user", "u3", "--scan", "all"))
        found, dataset = copy.read()
        assert all(a.equals(b) for a, b in zip(found, new_events, strict=True))
        assert dataset.equals(new_rows)
        assert files_with("u3", copy.store, copy.dataset) == []
        assert tombstones.pending(str(copy.store)) == []
        shutil.rmtree(copy.folder)
        number, crashed = number + 1, len(tried) > number
    assert number > 20


def test_failed_step_leaves_nothing_and_the_next_run_finishes(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real pipeline: a shard cannot be written."""
    before = jobs.files_below(small.store), jobs.files_below(small.dataset)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device", "disk")

    with monkeypatch.context() as patch:
        patch.setattr("transforms.shards.write_parquet", refuse)
        ended = jobs.call("forget", *small.argv("--user", "u3"))
    assert ended.code == 1
    assert "No space left on device" in ended.err
    assert jobs.files_below(small.dataset) == before[1]
    events, rows = small.read()
    assert all("u3" not in set(table["user_id"]) for table in events)
    assert "u3" in set(rows["user_id"])
    jobs.ok("forget", *small.argv("--user", "u3", "--scan", "all"))
    assert "u3" not in set(small.read()[1]["user_id"])
    assert files_with("u3", small.store, small.dataset) == []


def test_build_between_tombstone_and_rewriting_leaves_the_user_out(
    small: Small, tmp_path: pathlib.Path
) -> None:
    config = store.require_config(str(small.store))
    (user,) = tombstones.hashes_of(["u3"], config.hash_seed)
    request = tombstones.Request(
        forgotten_at_us=1_800_000_000_000_000,
        recorded_at="then",
        users=(tombstones.hash_text(user),),
    )
    whole = small.build(tmp_path / "dataset")
    tombstones.record(str(small.store), request)
    between = small.build(tmp_path / "dataset")
    assert between.version != whole.version
    assert between.counts["forgotten"] == 20
    rows = parquet_rows(tmp_path / "dataset", between, "train")
    assert "u3" not in set(rows["user_id"])
    jobs.ok("forget", "--store", small.store, "--user", "u3", "--dataset", tmp_path / "dataset")
    after = small.build(tmp_path / "after")
    assert rows.equals(parquet_rows(tmp_path / "after", after, "train"))
    # The version that was built between had left the user out by itself.
    assert manifest.load_withdrawn(str(tmp_path / "dataset"), between.version) is None
    assert manifest.load_withdrawn(str(tmp_path / "dataset"), whole.version) is not None
    assert manifest.current_version(str(tmp_path / "dataset")) == between.version


def test_user_who_comes_back_counts_from_then_on(small: Small, tmp_path: pathlib.Path) -> None:
    """Forgotten until the end of the second day; the third day is of a user who returned."""
    jobs.ok("forget", *small.argv("--user", "u3", "--at", DAYS[1]))
    third = jobs.ingest(small.raw(DAYS[2]), small.store, "--date", DAYS[2])
    assert "forgotten" not in third.counts
    assert jobs.stored(small.store, DAYS[2]).filter(user_id="u3").height == 10
    built = jobs.build(small.store, small.folder / "spec.yaml", DAYS[0], DAYS[2], small.dataset)
    assert parquet_rows(small.dataset, built, "train").filter(user_id="u3").height == 10
    # Asked for again with the same instant, nothing of what came later goes.
    ended = jobs.ok("forget", *small.argv("--user", "u3", "--at", DAYS[1]))
    assert line(ended, "  users who came back") == "1"
    assert manifest.current_version(str(small.dataset)) == built.version
    # What was received before and is given again stays out; so does all of it after a later wish.
    again = jobs.ingest(small.raw(DAYS[0]), small.store, "--date", DAYS[0], "--replace")
    assert again.counts["forgotten"] == 10
    jobs.ok("forget", *small.argv("--user", "u3", "--at", DAYS[2], "--scan", "all"))
    assert jobs.stored(small.store, DAYS[2]).filter(user_id="u3").is_empty()
    assert files_with("u3", small.store, small.dataset) == []


def test_instant_in_the_middle_of_a_day(small: Small) -> None:
    """Received until noon goes, and what came after it stays."""
    noon = datetime.datetime(2026, 1, 5, 0, 25, 3, tzinfo=datetime.UTC)
    mine = jobs.stored(small.store, DAYS[0]).filter(user_id="u3")
    assert mine["received_time"].is_in([noon]).any()
    jobs.ok("forget", *small.argv("--user", "u3", "--at", noon.isoformat()))
    left = jobs.stored(small.store, DAYS[0]).filter(user_id="u3")
    assert left.equals(mine.filter(pl.col("received_time") > noon))
    assert 0 < left.height < mine.height
    found = manifest.require_current(str(small.dataset), "a dataset")
    # Rows of later plays had seen the earlier ones: all rows of the user go.
    assert parquet_rows(small.dataset, found, "train").filter(user_id="u3").is_empty()


def test_many_users_rewrite_each_bucket_once(small: Small, tmp_path: pathlib.Path) -> None:
    (tmp_path / "users").write_text("u1\nu2\nu3\nnobody\n")
    before = jobs.partition(small.store, DAYS[0])
    jobs.ok("forget", *small.argv("--users-file", tmp_path / "users", "--scan", "all"))
    after = jobs.partition(small.store, DAYS[0])
    assert len(manifest.versions(str(jobs.partition_root(small.store, DAYS[0])))) == 2
    assert after.counts["forgotten"] == 30
    assert after.counts["kept"] == before.counts["kept"] - 30
    assert set(small.read()[1]["user_id"]) == {"u0", "u4", "u5", "u6"}
    assert len(tombstones.names(str(small.store))) == 1
    # Who was not there is kept out when a log brings them.
    log = [jobs.event(event_id=f"n{i}", user_id=user) for i, user in enumerate(["nobody", "u0"])]
    brought = jobs.ingest(
        jobs.write(tmp_path / "new.parquet", log), small.store, "--date", DAYS[0], "--replace"
    )
    assert (brought.counts["forgotten"], brought.counts["kept"]) == (1, 1)


def test_one_after_the_other(small: Small) -> None:
    """Versions that refer to files of versions that refer to files; and a dataset that is named
    only when its partitions were rewritten twice."""
    users = ["u0", "u3", "u5"]
    for user in users[:2]:
        jobs.ok("forget", "--store", small.store, "--user", user)
    assert {"u0", "u3", "u5"} <= set(small.read()[1]["user_id"])
    jobs.ok("forget", *small.argv("--user", "u0", "--user", "u3", "--user", "u5"))
    left = {"u1", "u2", "u4", "u6"}
    events, rows = small.read()
    assert set(rows["user_id"]) == set(events[0]["user_id"]) == left
    assert all(files_with(user, small.store, small.dataset) == [] for user in users)
    for user in sorted(left):
        jobs.ok("forget", *small.argv("--user", user, "--scan", "all"))
    # A dataset without rows is current as well: there is nothing else that may be read.
    current = manifest.require_current(str(small.dataset), "a dataset")
    assert (current.status, current.counts["examples"]) == ("EMPTY", 0)
    assert jobs.partition(small.store, DAYS[0]).status == "EMPTY"


def test_refused_attempt_that_holds_the_user_is_deleted(
    small: Small, tmp_path: pathlib.Path
) -> None:
    root = small.dataset
    found = manifest.require_current(str(root), "a dataset")
    old = root / found.version
    refused = root / f"x-{found.version}"
    shutil.copytree(old, refused)
    (refused / "manifest.json").rename(refused / found.run.attempt / manifest.AUDIT_NAME)
    audit = refused / found.run.attempt / manifest.AUDIT_NAME
    audit.write_text(audit.read_text().replace(found.version, refused.name))
    ended = jobs.ok("forget", *small.argv("--user", "u3", "--scan", "all"))
    assert "refused attempts deleted 1" in " ".join(ended.out.split())
    assert not refused.exists()
    assert files_with("u3", small.store, small.dataset) == []


def test_pseudonyms(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "k" * 32
    monkeypatch.setenv("FORGET_KEY", key)
    log = jobs.write(tmp_path / "a.parquet", jobs.plays(40))
    root = tmp_path / "store"
    jobs.ingest(log, root, "--user-key", "env:FORGET_KEY", "--buckets", 2)
    pseudonym = pseudonyms.pseudonym(key.encode(), "u3")
    assert files_with(pseudonym, root) != []
    ended = jobs.call("forget", "--store", root, "--user", "u3")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "--user-key" in ended.err
    jobs.ok("forget", "--store", root, "--user", "u3", "--user-key", "env:FORGET_KEY")
    assert files_with(pseudonym, root) == []
    assert files_with("u3", root / "tombstones") == []
    other = pseudonyms.pseudonym(key.encode(), "u4")
    jobs.ok("forget", "--store", root, "--user-id", other, "--scan", "all")
    assert files_with(other, root) == []


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--user", "u99"], 2, "has no event of the user"),
        (["--user", "u1", "--user", "u99"], 2, "has no event of 1 of the 2 users"),
        (["--user", "u1", "--verify-only"], 2, "were never forgotten in this store"),
        (["--user", "u1", "--at", "2999-01-01"], 2, "--at: expected an instant that has passed"),
        (["--user", "u1", "--user-id", "u2"], 2, "not allowed with"),
        (["--users-file", "/nowhere"], 2, "--users-file: cannot read /nowhere"),
        (["--user", "u1", "--dataset", "/nowhere"], 2, "nothing is published here"),
    ],
)
def test_one_line_for_a_mistake(seven: Small, argv: list[str], code: int, said: str) -> None:
    before = jobs.files_below(seven.folder)
    ended = jobs.call("forget", "--store", seven.store, *argv)
    assert ended.code == code
    assert ended.err.count("\n") == 1
    assert said in ended.err
    assert jobs.files_below(seven.folder) == before


def test_dry_run_says_what_a_run_does(small: Small) -> None:
    before = jobs.files_below(small.folder)
    ended = jobs.ok("forget", *small.argv("--user", "u3", "--dry-run"))
    assert jobs.files_below(small.folder) == before
    words = " ".join(ended.out.split())
    assert "partitions 2 files 2 rows 20 dataset versions 1 files 2 rows 40" in words
    done = " ".join(jobs.ok("forget", *small.argv("--user", "u3")).out.split())
    assert "versions of partitions rewritten 2 rows left out 20" in done
    assert "versions of datasets rewritten 1 rows left out 40" in done


def test_dataset_of_another_store_is_refused(small: Small, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    path, text = store.config_file(str(other), store.StoreConfig(bucket_count=4, hash_seed=7))
    other.mkdir()
    pathlib.Path(path).write_text(text)
    jobs.ingest(small.raw(DAYS[0]), other, "--date", DAYS[0])
    ended = jobs.call("forget", "--store", other, "--user", "u3", "--dataset", small.dataset)
    assert ended.code == 3
    assert "was built from another store" in ended.err


def test_two_runs_at_a_time(small: Small) -> None:
    folder = small.store / "tombstones"
    folder.mkdir()
    held = {"host": "elsewhere", "pid": 1, "started_at": "2026-01-05T00:00:00"}
    (folder / "lock.json").write_text(json.dumps(held))
    ended = jobs.call("forget", *small.argv("--user", "u3"))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "process 1 on elsewhere" in ended.err
    assert tombstones.names(str(small.store)) == ()
    jobs.ok("forget", *small.argv("--user", "u3", "--take-over"))
    assert not (folder / "lock.json").exists()


def test_what_was_planned_before_is_not_published(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody is forgotten while a day is ingested and while a dataset is built."""
    real = tombstones.check_unchanged

    def meanwhile(folder: str, known: tuple[str, ...]) -> None:
        request = tombstones.Request(forgotten_at_us=5, recorded_at="now", users=("0" * 16,))
        tombstones.record(folder, request)
        real(folder, known)

    monkeypatch.setattr(tombstones, "check_unchanged", meanwhile)
    ended = jobs.call(*jobs.ingest_argv(small.raw(DAYS[2]), small.store, "--date", DAYS[2]))
    assert ended.code == 3
    assert "a user was forgotten while this ran" in ended.err
    assert not (jobs.partition_root(small.store, DAYS[2]) / manifest.POINTER_NAME).exists()
    shutil.rmtree(small.store / "tombstones")
    ended = jobs.call(
        *jobs.build_argv(small.store, small.folder / "spec.yaml", DAYS[0], DAYS[0], small.dataset)
    )
    assert ended.code == 3
    assert "a user was forgotten while this ran" in ended.err


# --- time is that of the bucket -------------------------------------------------------------------


def count_bytes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes of data files that are read and written, by what they are."""
    touched = {"read": 0, "written": 0}
    read, describe = storage.read_bytes, storage.sha256

    def read_bytes(path: str) -> bytes:
        found = read(path)
        touched["read"] += 0 if path.endswith(".json") else len(found)
        return found

    def sha256(path: str) -> tuple[str, int]:  # everything that is written is hashed
        touched["written"] += os.path.getsize(path)
        return describe(path)

    monkeypatch.setattr(storage, "read_bytes", read_bytes)
    monkeypatch.setattr(storage, "sha256", sha256)
    return touched


def test_bytes_touched_are_those_of_the_bucket(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = jobs.write(tmp_path / "a.parquet", jobs.plays(24_000, users=2_000))
    touched, bucket = {}, {}
    for count in (4, 64):
        root = tmp_path / str(count)
        found = jobs.ingest(raw, root, "--buckets", count)
        with monkeypatch.context() as patch:
            patch.setattr(forget_job, "_run", without_beam)
            counted = count_bytes(patch)
            jobs.ok("forget", "--store", root, "--user", "u7")
        after = jobs.partition(root)
        ((path, written),) = ((e.path, e.bytes) for e in after.files if e.folder is None)
        bucket[count] = next(e.bytes for e in found.files if e.path == path)
        quarantine = sum(e.bytes for e in found.files if e.role == "quarantine")
        # To see whether the user is there, to find the rows, to rewrite; and to search the result.
        assert counted["read"] <= 3 * bucket[count] + written + quarantine
        assert counted["written"] == written
        touched[count] = counted["read"] + counted["written"]
    assert bucket[4] / bucket[64] > 4  # a file has 10 kB, whatever its rows
    assert touched[4] / touched[64] > 4
