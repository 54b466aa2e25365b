"""The whole build job for every kind of dataset: bytes, days, formats, what was known, mistakes."""

from __future__ import annotations

import datetime
import gzip
import json
import pathlib
import shutil
from typing import Any

import polars as pl
import pytest

from tests import jobs
from transforms import manifest, tfrecord
from transforms.manifest import Manifest
from transforms.splits import SPLITS

D5, D6, D7, D8 = (datetime.date(2026, 1, day) for day in (5, 6, 7, 8))
ONE_DAY = datetime.timedelta(days=1)

SHARED = """\
labels: {horizon_hours: 6}
splits: {validation_from: 2026-01-06, test_from: 2026-01-07, gap_hours: 1, holdout_user_share: 0.2}
output: {shards: 4, formats: [parquet, tfrecord]}
gates: {drift: null, rows_fall: null, label_shift: null}
"""
SPECS = {
    "ranking": "kind: ranking\n",
    "retrieval": """\
kind: retrieval
negatives:
  sources:
    - {type: uniform, count: 2}
    - {type: popularity, count: 2}
    - {type: mixed, count: 2, in_batch_share: 0.3}
    - {type: exposed, count: 2}
    - {type: skipped, count: 2}
""",
    "sequences": "kind: sequences\nlength: 20\nstride: 5\nperiod: day\nhistory_days: 2\n",
    "packed": "kind: sequences\nname: packed\nlength: 40\nstride: 8\nperiod: day\npacking: pack\n",
    "sessions": "kind: sessions\nmin_plays: 2\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("specs")
    for name, text in SPECS.items():
        # A vocabulary needs a day that lies whole in train.
        shared = SHARED.replace("gap_hours: 1", "gap_hours: 0") if "length" in text else SHARED
        (folder / f"{name}.yaml").write_text(text + shared)
    return folder


@pytest.fixture(scope="module")
def built(
    specs: pathlib.Path, simulated_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[pathlib.Path, Manifest]]:
    """A version of each spec over all three days."""
    root = tmp_path_factory.mktemp("built")
    return {
        name: (
            root / name,
            jobs.build(simulated_store, specs / f"{name}.yaml", D5, D7, root / name),
        )
        for name in SPECS
    }


def data_rows(root: Any, published: Manifest, role: str) -> pl.DataFrame:
    tables = [
        pl.read_parquet(manifest.file_path(str(root), published, entry))
        for entry in published.files_of(role)
        if entry.format == "parquet"
    ]
    return pl.concat(tables) if tables else pl.DataFrame()


@pytest.mark.parametrize("name", SPECS)
def test_every_split_has_rows_and_the_counts_of_the_manifest(
    built: dict[str, tuple[pathlib.Path, Manifest]], name: str
) -> None:
    root, published = built[name]
    for split in SPLITS:
        rows = data_rows(root, published, split)
        assert rows.height == published.counts["splits"][split] > 0
        assert rows.columns == [column.name for column in published.columns]
        required = [c.name for c in published.columns if not c.nullable]
        assert sum(rows.select(pl.col(required).null_count()).row(0)) == 0
        key = rows.select(published.key)
        assert key.is_unique().all()
    dropped = published.counts["split_dropped"]
    assert dropped["label_window"] > 0
    # Sequences have no gap here; of sessions a whole one lies before it or goes with its window.
    if name in ("ranking", "retrieval"):
        assert dropped["gap"] > 0
    assert dropped["user_holdout"] > 0


@pytest.mark.parametrize("name", SPECS)
def test_no_user_of_the_holdout_and_no_session_of_another_split_is_in_train(
    built: dict[str, tuple[pathlib.Path, Manifest]], name: str
) -> None:
    root, published = built[name]
    column = "user_ids" if name == "packed" else "user_id"
    users = {}
    for split in SPLITS:
        values = data_rows(root, published, split)[column]
        users[split] = set((values.explode() if name == "packed" else values).to_list())
    assert users["test"] - users["train"], "nobody is held out"
    if "session_id" in [c.name for c in published.columns]:
        ids = [set(data_rows(root, published, s)["session_id"].drop_nulls()) for s in SPLITS]
        assert not ids[0] & ids[1]
        assert not ids[1] & ids[2]
        assert not ids[0] & ids[2]


@pytest.mark.parametrize("name", SPECS)
def test_another_run_makes_the_same_bytes(
    built: dict[str, tuple[pathlib.Path, Manifest]],
    specs: pathlib.Path,
    simulated_store: pathlib.Path,
    tmp_path: pathlib.Path,
    name: str,
) -> None:
    _, published = built[name]
    again = jobs.build(simulated_store, specs / f"{name}.yaml", D5, D7, tmp_path / name)
    assert again.digest() == published.digest()
    assert [e.sha256 for e in again.files] == [e.sha256 for e in published.files]


@pytest.mark.parametrize("name", [name for name in SPECS if name != "packed"])
def test_days_add_up_to_the_range(
    built: dict[str, tuple[pathlib.Path, Manifest]],
    specs: pathlib.Path,
    simulated_store: pathlib.Path,
    tmp_path: pathlib.Path,
    name: str,
) -> None:
    root, published = built[name]
    taken = ["--vocabulary", root] if "sequences" in name else []
    if taken:  # indices are one vocabulary's; that of the range is fitted on more days than the 5th
        published = jobs.build(
            simulated_store, specs / f"{name}.yaml", D5, D7, tmp_path / "range", *taken
        )
        root = tmp_path / "range"
    daily: dict[str, list[pl.DataFrame]] = {split: [] for split in SPLITS}
    for day in (D5, D6, D7):
        output = tmp_path / str(day)
        one = jobs.build(simulated_store, specs / f"{name}.yaml", day, day, output, *taken)
        for split in SPLITS:
            daily[split].append(data_rows(output, one, split))
    for split in SPLITS:
        parts = pl.concat([part for part in daily[split] if part.height])
        assert jobs.row_digest(parts) == jobs.row_digest(data_rows(root, published, split))


TWO_DAYS_OF_TRAIN = (
    SPECS["sequences"] + "labels: {horizon_hours: 6}\noutput: {shards: 4}\n"
    "splits: {validation_from: 2026-01-07, gap_hours: 0}\n"
)


def test_days_add_up_to_the_range_whose_vocabulary_they_take(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Train's 5th takes the indices of all of train, the 6th included; so does validation."""
    spec, root = tmp_path / "spec.yaml", tmp_path / "range"
    spec.write_text(TWO_DAYS_OF_TRAIN)
    whole = jobs.build(simulated_store, spec, D5, D7, root)
    (entry,) = whole.files_of("vocabulary")
    assert entry.rows > 0
    assert whole.config["vocabulary_days"] == ["2026-01-05", "2026-01-07"]
    parts: dict[str, list[pl.DataFrame]] = {"train": [], "validation": []}
    for day in (D5, D6, D7):
        output = tmp_path / str(day)
        one = jobs.build(simulated_store, spec, day, day, output, "--vocabulary", root)
        assert one.config["vocabulary_days"] == whole.config["vocabulary_days"]
        assert one.files_of("vocabulary")[0].sha256 == entry.sha256
        for split, tables in parts.items():
            tables += [data_rows(output, one, split)] if one.counts["splits"][split] else []
    for split, tables in parts.items():
        wanted = jobs.row_digest(data_rows(root, whole, split))
        assert jobs.row_digest(pl.concat(tables)) == wanted
    assert (data_rows(root, whole, "train")["item_index"].explode() >= 4).any()


def test_a_vocabulary_of_days_behind_train_is_refused_whoever_handed_it_on(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(TWO_DAYS_OF_TRAIN)
    jobs.build(simulated_store, spec, D5, D6, tmp_path / "fitted")
    jobs.build(simulated_store, spec, D7, D7, tmp_path / "on", "--vocabulary", tmp_path / "fitted")
    spec.write_text(TWO_DAYS_OF_TRAIN.replace("01-07", "01-06"))
    argv = jobs.build_argv(simulated_store, spec, D5, D6, tmp_path / "dataset")
    for given in ("fitted", "on"):
        ended = jobs.call(*argv, "--vocabulary", tmp_path / given)
        assert ended.code == 2
        assert "fitted on days until 2026-01-06, but train ends 2026-01-06 00:00" in ended.err


@pytest.mark.parametrize(("first", "gap"), [(D6, 0), (D5, 1)])
def test_sequences_without_a_day_of_train_need_a_vocabulary(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path, first: datetime.date, gap: int
) -> None:
    spec = tmp_path / "spec.yaml"
    text = TWO_DAYS_OF_TRAIN.replace("01-07", "01-06")
    spec.write_text(text.replace("gap_hours: 0", f"gap_hours: {gap}"))
    argv = jobs.build_argv(simulated_store, spec, first, D7, tmp_path / "dataset")
    ended = jobs.call(*argv)
    assert ended.code == 2
    (line,) = ended.err.strip().splitlines()
    assert f"--vocabulary: no day from {first} to 2026-01-07 lies whole in train" in line
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("name", SPECS)
def test_both_formats_hold_the_same_rows_in_the_same_order(
    built: dict[str, tuple[pathlib.Path, Manifest]], name: str
) -> None:
    root, published = built[name]
    files = {e.path: e for e in published.files if e.role in SPLITS}
    pairs = [(e, files[e.path.replace(".parquet", ".tfrecord")]) for e in files.values()
             if e.format == "parquet"]  # fmt: skip
    assert len(pairs) * 2 == len(files)
    column = "user_ids" if name == "packed" else "user_id"
    for parquet, other in pairs:
        assert other.rows == parquet.rows
        rows = pl.read_parquet(manifest.file_path(str(root), published, parquet))
        path = pathlib.Path(manifest.file_path(str(root), published, other))
        records = list(tfrecord.read_records(path.read_bytes()))
        assert len(records) == rows.height
        for record, user in zip(records, rows[column], strict=True):
            for text in user.to_list() if name == "packed" else [user]:
                assert text.encode() in record


def test_gzip_holds_the_same_records(
    built: dict[str, tuple[pathlib.Path, Manifest]],
    specs: pathlib.Path,
    simulated_store: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    spec = tmp_path / "gzip.yaml"
    text = (specs / "sessions.yaml").read_text()
    spec.write_text(text.replace("tfrecord]", "tfrecord], tfrecord_gzip: true"))
    zipped = jobs.build(simulated_store, spec, D5, D7, tmp_path / "zipped")
    root, plain = built["sessions"]
    plain_files = {e.path: e for e in plain.files if e.format == "tfrecord"}
    for entry in (e for e in zipped.files if e.format == "tfrecord"):
        path = pathlib.Path(manifest.file_path(str(tmp_path / "zipped"), zipped, entry))
        other = plain_files[entry.path.removesuffix(".gz")]
        raw = pathlib.Path(manifest.file_path(str(root), plain, other)).read_bytes()
        assert gzip.decompress(path.read_bytes()) == raw


def assert_equal_versions(now: Manifest, then: Manifest) -> None:
    """All but the name of the version: rows, statistics, findings, counts, inputs."""
    assert {**now.config, "as_of_us": None} == then.config
    assert (now.inputs, now.counts, now.status) == (then.inputs, then.counts, then.status)
    named = ("report", "card", "croissant")
    files = [[e for e in each.files if e.role not in named] for each in (now, then)]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", ["ranking", "retrieval", "sequences", "sessions"])
def test_as_of_knows_what_the_store_knew_then(
    specs: pathlib.Path, simulated_store: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    """The 5th as it stood when the 8th had arrived, built then, and from today's store."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPECS[name] + "labels: {horizon_hours: 2}\noutput: {shards: 4}\n")
    store = tmp_path / "then"
    shutil.copytree(simulated_store, store)
    for folder in (store / "events").iterdir():
        if folder.name > "dt=2026-01-08":
            shutil.rmtree(folder)
    then = jobs.build(store, spec, D5, D5, tmp_path / "a")
    now = jobs.build(simulated_store, spec, D5, D5, tmp_path / "b", "--as-of", "2026-01-08")
    assert_equal_versions(now, then)
    # On a day that is not over nothing of it is known.
    noon = jobs.build(
        simulated_store, spec, D5, D5, tmp_path / "c", "--as-of", "2026-01-09T12:00:00Z"
    )
    assert_equal_versions(noon, then)


def test_as_of_does_not_see_what_a_source_logs_on_the_day_of_the_instant(
    tmp_path: pathlib.Path,
) -> None:
    """A source of plays alone, which begins to log what it shows in the evening of the 8th."""
    shown = jobs.event(
        event_type="impression", played_ms=None, event_time=jobs.NOON + ONE_DAY * 3.25
    )
    days = {D5: jobs.plays(60), D6: jobs.plays(60, day=D6), D7: [], D8: [shown]}
    for day, events in days.items():
        if day == D8:
            shutil.copytree(tmp_path / "now", tmp_path / "then")
        raw = jobs.write(tmp_path / "raw" / f"{day}.parquet", events)
        jobs.ingest(raw, tmp_path / "now", "--date", day, "--buckets", 4)
    spec = tmp_path / "spec.yaml"
    for name in ("ranking", "retrieval"):
        spec.write_text(
            SPECS[name] + "labels: {horizon_hours: 2, lateness_days: 1}\noutput: {shards: 4}\n"
        )
        then = jobs.build(tmp_path / "then", spec, D5, D6, tmp_path / f"then-{name}")
        noon = ("--as-of", "2026-01-08T12:00:00Z")
        now = jobs.build(tmp_path / "now", spec, D5, D6, tmp_path / f"now-{name}", *noon)
        assert then.counts["examples"] > 0
        assert_equal_versions(now, then)


def test_gates_see_the_version_before_and_leave_a_refused_one_readable(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    spec = tmp_path / "spec.yaml"
    text = "kind: ranking\nlabels: {horizon_hours: 6}\noutput: {shards: 4}\n"
    spec.write_text(text)
    first = jobs.build(simulated_store, spec, D5, D6, tmp_path / "dataset")
    spec.write_text(f"{text}examples: {{surfaces: [radio]}}\n")
    ended = jobs.call(*jobs.build_argv(simulated_store, spec, D5, D6, tmp_path / "dataset"))
    assert ended.code == 3
    assert "rows_fall" in ended.err
    assert jobs.files_below(tmp_path / "dataset")
    assert manifest.load_current(str(tmp_path / "dataset")) == first
    attempt = pathlib.Path(ended.err.strip().splitlines()[-1].split(" at ")[-1])
    assert "report.html" in ended.err or (attempt / "report.html").exists()
    findings = json.loads((attempt / "anomalies.json").read_text())["findings"]
    assert [f["gate"] for f in findings if f["severity"] == "error"] == ["rows_fall"]
    assert "0 rows" in jobs.ok("inspect", attempt).out


# --- mistakes are refused before any work ---------------------------------------------------------

RETRIEVAL = "kind: retrieval\nnegatives: {{sources: [{{type: popularity, count: 2, alpha: {}}}]}}\n"
MISTAKES = {
    "an unknown feature": ("kind: ranking\nfeatures: [user_plays_8d]\n", "features",
                           "unknown feature 'user_plays_8d'"),
    "a feature that negatives cannot have": (
        RETRIEVAL.format(0.5) + "features: [item_plays_7d]\n", "features", "family item"),
    "an attribution window longer than the horizon": (
        "kind: ranking\nattribution: {window_minutes: 90}\nlabels: {horizon_hours: 1}\n",
        "attribution.window_minutes", "got 1.5 h"),
    "a window of no time": ("kind: ranking\nsessions: {gap_minutes: 0}\n", "sessions.gap_minutes",
                            "greater than 0"),
    "an alpha of NaN": (RETRIEVAL.format(".nan"), "negatives.sources.0.alpha", "nan"),
    "an alpha above one": (RETRIEVAL.format("1.5"), "negatives.sources.0.alpha", "1.5"),
    "splits that overlap": (
        "kind: ranking\nsplits: {validation_from: 2026-01-07, test_from: 2026-01-06}\n",
        "test_from", "overlap"),
    "a validation that is all gap": (
        "kind: ranking\nsplits: {validation_days: 1, test_days: 1, gap_hours: 24}\n", "splits",
        "gap_hours"),
    "a validation shorter than its label windows": (
        "kind: ranking\nsplits: {validation_days: 1, test_days: 1}\n", "labels.horizon_hours",
        "24 h"),
    "no day for train": (
        "kind: ranking\nlabels: {horizon_hours: 1}\nsplits: {validation_days: 2, test_days: 1}\n",
        "splits.validation_days", "no day for train"),
    "a horizon beyond the store": ("kind: ranking\nlabels: {horizon_hours: 720}\n",
                                   "labels.horizon_hours", "beyond the store"),
    "skip levels that are not nested": (
        "kind: ranking\nlabels: {skip_1_below_ms: 40000}\n", "skip_1_below_ms", "nested"),
    "a reward of an unknown label": ("kind: ranking\nlabels: {reward: {loved: 1.0}}\n",
                                     "labels.reward", "unknown label 'loved'"),
    "a reward that its horizon cannot tell": (
        "kind: ranking\nlabels: {horizon_hours: 6, reward: {returned_24h: 1.0}}\n",
        "returned_24h", "at least 24"),
    "a format nobody knows": ("kind: ranking\noutput: {formats: [csv]}\n", "output.formats.0",
                              "'csv'"),
    "a stride longer than a row": ("kind: sequences\nlength: 10\nstride: 11\n", "stride", "11"),
    "rows that cannot be censored": (
        "kind: sessions\nsplits: {open_labels: censor}\n", "splits.open_labels", "drop"),
    "retrieval without negatives": ("kind: retrieval\n", "negatives", "expected a value"),
    "a gate that is no number": ("kind: ranking\ngates: {drift: much}\n", "gates.drift", "'much'"),
    "a schema that is not there": ("kind: ranking\ngates: {schema_file: none.pbtxt}\n",
                                   "gates.schema_file", "none.pbtxt"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_spec_is_one_line_that_names_the_field(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path, case: str
) -> None:
    text, field, what = MISTAKES[case]
    spec = tmp_path / "spec.yaml"
    spec.write_text(text if "output" in text else f"{text}output: {{shards: 4}}\n")
    ended = jobs.call(*jobs.build_argv(simulated_store, spec, D5, D7, tmp_path / "dataset"))
    assert ended.code == 2
    (line,) = ended.err.strip().splitlines()
    assert field in line
    assert what in line
    assert not (tmp_path / "dataset").exists()


WRONG_FILES = {
    "--semantic-ids": "--semantic-ids",
    "--vocabulary": "--vocabulary",
    "--catalog": "--catalog",
    "--serving-log": "--serving-log",
}


@pytest.mark.parametrize("option", WRONG_FILES)
def test_a_wrong_file_is_one_line_that_names_the_option(
    specs: pathlib.Path, simulated_store: pathlib.Path, tmp_path: pathlib.Path, option: str
) -> None:
    kind = "retrieval" if option == "--catalog" else "sequences"
    argv = jobs.build_argv(simulated_store, specs / f"{kind}.yaml", D5, D7, tmp_path / "dataset")
    for path in (specs / "sessions.yaml", tmp_path / "none"):
        ended = jobs.call(*argv, option, path)
        assert ended.code in (2, 3)
        (line,) = ended.err.strip().splitlines()
        assert WRONG_FILES[option] in line
        assert path.name in line
    assert not (tmp_path / "dataset").exists()


def test_options_of_sequences_are_refused_for_other_kinds(
    specs: pathlib.Path, simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    argv = jobs.build_argv(simulated_store, specs / "ranking.yaml", D5, D7, tmp_path / "dataset")
    for option in ("--semantic-ids", "--vocabulary"):
        ended = jobs.call(*argv, option, tmp_path)
        assert ended.code == 2
        assert f"{option}: only datasets of kind sequences" in ended.err
    for kind in ("ranking", "sequences", "sessions"):
        argv = jobs.build_argv(simulated_store, specs / f"{kind}.yaml", D5, D7, tmp_path / "d")
        ended = jobs.call(*argv, "--catalog", tmp_path)
        assert ended.code == 2
        assert "--catalog: only datasets that draw negatives (retrieval) use it" in ended.err


def test_days_without_a_partition_are_named_in_the_middle_of_the_context_too(
    specs: pathlib.Path, simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(simulated_store, store)
    shutil.rmtree(store / "events" / "dt=2026-01-06")
    argv = jobs.build_argv(store, specs / "ranking.yaml", D7, D7, tmp_path / "dataset")
    ended = jobs.call(*argv)
    assert ended.code == 3
    assert "2026-01-06" in ended.err
    assert jobs.call(*argv, "--allow-missing").code == 0


@pytest.mark.parametrize("name", SPECS)
def test_a_listener_alone_makes_rows_and_empty_buckets_none(
    specs: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    """Three of four buckets hold nobody, and splits are empty."""
    for day in range(4):
        events = jobs.plays(12, users=1, day=D5 + ONE_DAY * day) if day < 2 else []
        raw = jobs.write(tmp_path / "raw" / f"{day}.parquet", events)
        jobs.ingest(raw, tmp_path / "store", "--date", D5 + ONE_DAY * day, "--buckets", 4)
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPECS[name] + "labels: {horizon_hours: 2}\noutput: {shards: 4}\n")
    built = jobs.build(tmp_path / "store", spec, D5, D5, tmp_path / "dataset")
    assert built.counts["splits"]["train"] > 0
    assert len(built.files_of("train")) == 1
