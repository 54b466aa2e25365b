"""The whole build job: days add up to ranges, nothing unknown is a label, the same bytes again."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any

import polars as pl
import pytest

from pipelines import build
from tests import jobs
from transforms import building, finishing, manifest

D5, D6, D7, D8 = (datetime.date(2026, 1, day) for day in (5, 6, 7, 8))
ONE_DAY = datetime.timedelta(days=1)
SPEC = "kind: ranking\nname: ranking\noutput: {shards: 4}\n"
QUICK = f"{SPEC}labels: {{lateness_days: 0, horizon_hours: 2}}\n"


@pytest.fixture
def spec(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def quick(tmp_path: pathlib.Path) -> pathlib.Path:
    """A spec whose labels need two hours and wait for nothing late."""
    path = tmp_path / "quick.yaml"
    path.write_text(QUICK)
    return path


@pytest.fixture(scope="module")
def whole(
    simulated_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, manifest.Manifest]:
    """Dataset folder and manifest of one build of all three days."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "spec.yaml").write_text(SPEC)
    built = jobs.build(simulated_store, folder / "spec.yaml", D5, D7, folder / "dataset")
    return folder / "dataset", built


def day_store(tmp_path: pathlib.Path, days: dict[datetime.date, list[dict[str, Any]]]) -> Any:
    store = tmp_path / "store"
    for day, events in days.items():
        raw = jobs.write(tmp_path / "raw" / f"{day}.parquet", events)
        jobs.ingest(raw, store, "--date", day, "--buckets", 4)
    return store


def after(instant: datetime.datetime, **delta: float) -> datetime.datetime:
    return instant + datetime.timedelta(**delta)


# --- what is published ----------------------------------------------------------------------------


def test_every_number_of_the_manifest_can_be_recounted(
    whole: tuple[pathlib.Path, manifest.Manifest], simulated_store: pathlib.Path
) -> None:
    dataset, built = whole
    rows = jobs.rows(dataset, built, "train")
    assert built.status == "OK"
    assert built.counts["examples"] == rows.height
    assert [column.name for column in built.columns] == rows.columns
    events = pl.concat(
        jobs.stored(simulated_store, D5 + ONE_DAY * i, "events") for i in range(8)
    ).unique(["user_id", "event_id"])
    shown = events.filter(
        (pl.col("event_type") == "impression") & ~pl.col("near_duplicate")
        & (pl.col("received_time") - pl.col("event_time") < datetime.timedelta(days=2))
    )  # fmt: skip
    assert set(rows["event_id"]) == set(shown["event_id"])
    assert rows["event_id"].n_unique() == rows.height
    assert built.counts["immature"] == 0
    for column in built.columns:
        if not column.nullable:
            assert rows[column.name].null_count() == 0, column.name
    for name, tally in built.counts["labels"].items():
        if rows[f"label_{name}"].dtype == pl.Boolean:
            assert tally["true"] == rows[f"label_{name}"].sum()
            assert tally["unknown"] == rows[f"label_{name}"].null_count()


def test_a_shard_holds_its_users_whole_and_each_user_once(
    whole: tuple[pathlib.Path, manifest.Manifest],
) -> None:
    dataset, built = whole
    seen: set[str] = set()
    entries = built.files_of("train")
    assert [(e.first_bucket, e.last_bucket) for e in entries] == [(i, i) for i in range(4)]
    for entry in entries:
        users = set(pl.read_parquet(manifest.file_path(str(dataset), built, entry))["user_id"])
        assert not users & seen
        seen |= users


def test_nothing_lies_there_that_the_manifest_does_not_list(
    whole: tuple[pathlib.Path, manifest.Manifest],
) -> None:
    dataset, built = whole
    listed = {f"{built.version}/{built.run.attempt}/{entry.path}" for entry in built.files}
    expected = {*listed, f"{built.version}/manifest.json", "CURRENT.json"}
    assert set(jobs.files_below(dataset)) == expected


# --- the same rows, the same bytes ----------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        [], ["--runner", "DirectRunner"], ["--direct_runner_bundle_repeat", "2"],
        ["--direct_running_mode", "multi_threading", "--direct_num_workers", "3"],
    ],
    ids=["again", "DirectRunner", "repeat", "threads"],
)  # fmt: skip
def test_another_run_makes_the_same_bytes(
    whole: tuple[pathlib.Path, manifest.Manifest],
    simulated_store: pathlib.Path,
    spec: pathlib.Path,
    tmp_path: pathlib.Path,
    options: list[str],
) -> None:
    again = jobs.build(simulated_store, spec, D5, D7, tmp_path / "dataset", *options)
    assert again.digest() == whole[1].digest()
    assert len(jobs.files_below(tmp_path / "dataset")) == len(again.files) + 2


def test_days_add_up_to_the_range_row_for_row(
    whole: tuple[pathlib.Path, manifest.Manifest],
    simulated_store: pathlib.Path,
    spec: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    parts = []
    for day in (D7, D5, D6):  # in any order
        output = tmp_path / str(day)
        built = jobs.build(simulated_store, spec, day, day, output)
        rows = jobs.rows(output, built, "train")
        assert rows["event_time"].dt.date().unique().to_list() == [day]
        parts.append(rows)
    expected = jobs.rows(*whole, "train")
    assert jobs.row_digest(pl.concat(parts)) == jobs.row_digest(expected)


def test_the_number_of_shards_and_buckets_moves_rows_and_changes_none(
    whole: tuple[pathlib.Path, manifest.Manifest],
    simulated: pathlib.Path,
    simulated_store: pathlib.Path,
    spec: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    expected = jobs.row_digest(jobs.rows(*whole, "train"))
    spec.write_text(SPEC.replace("shards: 4", "shards: 1"))
    one = jobs.build(simulated_store, spec, D5, D7, tmp_path / "one")
    assert len(one.files_of("train")) == 1
    assert jobs.row_digest(jobs.rows(tmp_path / "one", one, "train")) == expected
    finer = tmp_path / "finer"
    for folder in sorted(simulated.glob("received=*")):
        day = folder.name.removeprefix("received=")
        jobs.ingest(folder / "*", finer, "--date", day, "--buckets", 16)
    spec.write_text(SPEC)
    other = jobs.build(finer, spec, D5, D7, tmp_path / "other")
    assert jobs.row_digest(jobs.rows(tmp_path / "other", other, "train")) == expected
    assert jobs.checksums(other) == jobs.checksums(whole[1])


def test_a_user_more_changes_no_row_of_the_others(quick: pathlib.Path, tmp_path: Any) -> None:
    events = jobs.plays(200)
    more = [*events, *[{**e, "user_id": "new", "track_id": f"n{i}", "event_id": f"n{i}"}
                       for i, e in enumerate(events[:50])]]  # fmt: skip
    found = []
    for name, each in (("a", events), ("b", more)):
        store = day_store(tmp_path / name, {D5: each, D6: []})
        built = jobs.build(store, quick, D5, D5, tmp_path / name / "dataset")
        rows = jobs.rows(tmp_path / name / "dataset", built, "train")
        found.append(rows.filter(pl.col("user_id") != "new").sort("event_id"))
    assert found[0].height == 200
    assert jobs.row_digest(found[0]) == jobs.row_digest(found[1])


def test_the_same_build_again_does_nothing_and_says_so(
    whole: tuple[pathlib.Path, manifest.Manifest],
    simulated_store: pathlib.Path,
    spec: pathlib.Path,
) -> None:
    before = jobs.files_below(whole[0])
    ended = jobs.ok(*jobs.build_argv(simulated_store, spec, D5, D7, whole[0]))
    assert "nothing to do" in ended.out
    assert jobs.files_below(whole[0]) == before


def test_versions_live_side_by_side_and_the_last_one_built_is_current(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store = day_store(tmp_path, {D5: jobs.plays(50), D6: jobs.plays(50, day=D6)})
    output = tmp_path / "dataset"
    first = jobs.build(store, quick, D5, D5, output, "--allow-missing")
    bytes_before = jobs.rows(output, first, "train")
    second = jobs.build(store, quick, D5, D6, output)
    assert second.version != first.version
    assert jobs.rows(output, first, "train").equals(bytes_before)
    assert f"version {second.version}" in jobs.ok("inspect", output).out
    assert f"version {first.version}" in jobs.ok("inspect", output / first.version).out


# --- days -----------------------------------------------------------------------------------------


def test_a_missing_partition_is_refused_or_allowed_by_name(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store = day_store(tmp_path, {D5: jobs.plays(50), D7: jobs.plays(50, day=D7), D8: []})
    argv = jobs.build_argv(store, quick, D5, D7, tmp_path / "dataset")
    ended = jobs.call(*argv)
    assert ended.code == 3
    assert "no partition for 1 of the days that are read (2026-01-06)" in ended.err
    assert "--allow-missing" in ended.err
    assert not (tmp_path / "dataset").exists()
    ended = jobs.ok(*argv, "--allow-missing")
    assert "note: --allow-missing: days without a partition are taken" in ended.err
    assert ended.err.count("2026-01-06") == 1
    built = manifest.require_current(str(tmp_path / "dataset"), "it")
    assert built.counts["examples"] == 100


def test_an_empty_day_is_a_day(quick: pathlib.Path, tmp_path: pathlib.Path) -> None:
    store = day_store(tmp_path, {D5: jobs.plays(20), D6: [], D7: []})
    built = jobs.build(store, quick, D5, D6, tmp_path / "dataset")
    assert built.counts["examples"] == 20
    ended = jobs.ok(*jobs.build_argv(store, quick, D6, D6, tmp_path / "nothing"))
    assert "the version is EMPTY: of 20 events that were read none is an example" in ended.err
    assert "does not become current: nothing is current here" in ended.err
    assert manifest.load_current(str(tmp_path / "nothing")) is None
    again = jobs.ok(*jobs.build_argv(store, quick, D6, D6, tmp_path / "nothing"))
    assert "nothing to do" in again.out
    assert manifest.load_current(str(tmp_path / "nothing")) is None
    (page,) = (tmp_path / "nothing").rglob("report.html")
    assert "All checks passed" not in page.read_text()
    assert "train has days in the range, but no rows" in page.read_text()


def test_an_empty_version_says_what_was_lost_to_which_reason(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    quick.write_text(f"{QUICK}splits: {{validation_from: 2026-01-06, gap_hours: 24}}\n")
    events = jobs.plays(20) + jobs.plays(5, users=1, day=D6)
    store = day_store(tmp_path, {D5: events[:20], D6: events[20:]})
    shutil.rmtree(store / "events" / "dt=2026-01-06")
    ended = jobs.ok(*jobs.build_argv(store, quick, D5, D5, tmp_path / "dataset"))
    assert "of 20 events that were read all examples were left out: gap 20" in ended.err
    assert "immature" not in ended.err


def test_censored_rows_are_a_line_of_their_own(quick: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = "splits: {validation_from: 2026-01-06, gap_hours: 0, open_labels: censor}\n"
    quick.write_text(QUICK + text)
    store = day_store(tmp_path, {D5: jobs.plays(7 * 280), D6: jobs.plays(7, day=D6), D7: []})
    ended = jobs.ok(*jobs.build_argv(store, quick, D5, D6, tmp_path / "dataset"))
    built = manifest.require_current(str(tmp_path / "dataset"), "it")
    status = jobs.rows(tmp_path / "dataset", built, "train")["label_status"]
    censored = status.to_list().count("censored")
    assert censored > 0
    (line,) = (line for line in ended.out.splitlines() if "censored, labels" in line)
    assert line.split()[-1] == f"{censored:,}"


def test_a_held_out_arm_that_nobody_is_in_is_a_warning(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    quick.write_text(f"{QUICK}splits: {{experiment_holdouts: {{e: [held, misspelt], f: [a]}}}}\n")
    events = jobs.plays(20)
    events[0] |= {"experiment_id": "e", "variant": "held"}
    store = day_store(tmp_path, {D5: events, D6: []})
    ended = jobs.ok(*jobs.build_argv(store, quick, D5, D5, tmp_path / "dataset"))
    built = manifest.require_current(str(tmp_path / "dataset"), "it")
    assert built.counts["held_out_arms"] == {"e": {"held": 1, "misspelt": 0}, "f": {"a": 0}}
    (entry,) = built.files_of("anomalies")
    path = pathlib.Path(manifest.file_path(str(tmp_path / "dataset"), built, entry))
    found = json.loads(path.read_text())["findings"]
    told = [each["message"] for each in found if each["gate"] == "experiment_holdouts"]
    assert [("'misspelt'" in each, "'f'" in each) for each in told] == [
        (True, False),
        (False, True),
    ]
    printed = {line.split("  ")[1]: line.split("  ")[-1] for line in ended.out.splitlines()[1:]}
    assert pathlib.Path(printed["report"].strip()).exists()
    assert int(printed["warnings of the checks"]) == len(found)


# --- one folder, one dataset ----------------------------------------------------------------------


def test_a_folder_of_something_else_is_refused_before_any_work(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store, mine = day_store(tmp_path, {D5: jobs.plays(20), D6: []}), tmp_path / "dataset"
    built = jobs.build(store, quick, D5, D5, mine)
    other = tmp_path / "other.yaml"
    other.write_text(QUICK.replace("name: ranking", "name: other"))
    empty = tmp_path / "empty"
    jobs.build(store, quick, D6, D6, empty)
    before = jobs.files_below(tmp_path)
    raw = tmp_path / "raw" / f"{D5}.parquet"
    for argv, text in (
        (jobs.build_argv(store, other, D5, D5, mine), "--output"),
        (jobs.build_argv(store, other, D5, D5, empty), "--output"),
        (jobs.build_argv(store, quick, D5, D5, store), "is an event store"),
        (jobs.build_argv(store, quick, D5, D5, jobs.partition_root(store, D5)), "event store's"),
        (jobs.build_argv(store, quick, D5, D5, mine / built.version), "is a version"),
        (jobs.ingest_argv(raw, mine), "--store"),
        (
            ["semantic-ids", "--embeddings", raw, "--trained-until", D5, "--output", mine],
            "--output",
        ),
    ):
        ended = jobs.call(*argv)
        assert ended.code == 2, argv
        (line,) = ended.err.strip().splitlines()
        assert text in line
    assert jobs.files_below(tmp_path) == before


def test_drift_is_measured_against_rows_of_the_same_unit(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store = day_store(tmp_path, {D5: jobs.plays(20), D6: []})
    root = tmp_path / "dataset"
    built = jobs.build(store, quick, D5, D5, root)
    argv = [str(each) for each in jobs.build_argv(store, quick, D5, D5, root)[1:]]
    for more, comparable in (
        ("", True),
        ("examples: {surfaces: [library]}\n", True),  # a fall of rows is for the gate to see
        ("examples: {rows: impression}\n", False),
    ):
        quick.write_text(QUICK + more)
        draft, *_ = build.plan(build.build_parser().parse_args(argv), "FnApiRunner")
        found = finishing.Previous.of(str(root), draft)
        assert (found is not None and found.manifest == built) == comparable


def test_the_pointer_goes_back_to_a_version_whose_files_are_whole(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store = day_store(tmp_path, {D5: jobs.plays(20), D6: jobs.plays(20, day=D6), D7: []})
    root = tmp_path / "dataset"
    old = jobs.build(store, quick, D5, D5, root)
    new = jobs.build(store, quick, D5, D6, root)
    assert new.version in jobs.ok("current", "--root", root).out
    jobs.ok("current", "--root", root, "--set", old.version)
    assert manifest.load_current(str(root)) == old
    jobs.ok("current", "--root", root, "--set", new.version)
    path = pathlib.Path(manifest.file_path(str(root), old, old.files_of("train")[0]))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    for version, code, text in (
        (old.version, 3, path.name),
        (old.version[:-1], 2, f"did you mean {old.version}?"),
        ("../dataset", 2, "--set: no version"),
    ):
        ended = jobs.call("current", "--root", root, "--set", version)
        assert (ended.code, len(ended.err.strip().splitlines())) == (code, 1)
        assert text in ended.err
        assert manifest.load_current(str(root)) == new


def test_the_end_before_the_start(quick: pathlib.Path, simulated_store: pathlib.Path) -> None:
    ended = jobs.call(*jobs.build_argv(simulated_store, quick, D6, D5, "unused"))
    assert ended.code == 2
    assert "--end-date: expected 2026-01-06 or later, got 2026-01-05" in ended.err


def test_rows_whose_labels_are_not_ripe_are_withheld_and_counted(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    events = jobs.plays(7 * 280)
    store = day_store(tmp_path, {D5: events})
    built = jobs.build(store, quick, D5, D5, tmp_path / "dataset")
    end = datetime.datetime.combine(D6, datetime.time(), tzinfo=datetime.UTC)
    young = sum(event["event_time"] > after(end, hours=-2) for event in events)
    assert young > 0
    assert built.counts["immature"] == young
    assert built.counts["examples"] == len(events) - young
    rows = jobs.rows(tmp_path / "dataset", built, "train")
    assert rows["event_time"].max() <= after(end, hours=-2)
    day_store(tmp_path, {D6: []})  # the day ends, nothing came: now they are ripe
    later = jobs.build(store, quick, D5, D5, tmp_path / "dataset")
    assert later.counts["immature"] == 0
    ripe = jobs.rows(tmp_path / "dataset", later, "train")
    old = ripe.filter(pl.col("event_id").is_in(rows["event_id"].implode()))
    assert jobs.row_digest(old) == jobs.row_digest(rows)  # an emitted row never changes


def test_plays_that_arrive_a_day_late_are_rows_of_the_day_they_happened(
    tmp_path: pathlib.Path,
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"{SPEC}labels: {{lateness_days: 1, horizon_hours: 2}}\n")
    late = jobs.event(event_id="late", user_id="late", received_time=after(jobs.NOON, hours=23))
    store = day_store(tmp_path, {D5: jobs.plays(20), D6: [late], D7: []})
    built = jobs.build(store, spec, D5, D5, tmp_path / "dataset")
    assert [entry.name for entry in built.inputs] == [
        "events/dt=2026-01-05",
        "events/dt=2026-01-06",
    ]
    rows = jobs.rows(tmp_path / "dataset", built, "train")
    assert "late" in set(rows["event_id"])
    assert rows.height == 21


def test_waiting_for_nothing_late_still_takes_what_arrives_within_its_day(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A play is sent when it ends; `lateness_days: 0` must not leave out every one of them."""
    ended = jobs.event(received_time=after(jobs.NOON, minutes=3))
    store = day_store(tmp_path, {D5: [ended], D6: []})
    built = jobs.build(store, quick, D5, D5, tmp_path / "dataset")
    assert built.counts.get("examples", 0) == 1


def test_an_event_in_two_partitions_is_one_row(quick: pathlib.Path, tmp_path: pathlib.Path) -> None:
    again = {**jobs.plays(20)[-1], "received_time": after(jobs.NOON, hours=20)}
    again["event_time"] = jobs.plays(20)[-1]["event_time"]
    store = day_store(tmp_path, {D5: jobs.plays(20), D6: [again]})
    built = jobs.build(store, quick, D5, D5, tmp_path / "dataset")
    rows = jobs.rows(tmp_path / "dataset", built, "train")
    assert rows.height == rows["event_id"].n_unique() == 20
    # Left out twice over: as a duplicate, or as later than the spec waits.
    assert built.counts["duplicate_across_partitions"] + built.counts["late"] == 1


def test_an_event_in_two_partitions_within_the_lateness_is_counted_as_a_duplicate(
    tmp_path: pathlib.Path,
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"{SPEC}labels: {{lateness_days: 1, horizon_hours: 2}}\n")
    first = jobs.event()
    again = {**first, "received_time": after(jobs.NOON, hours=20)}
    store = day_store(tmp_path, {D5: [first], D6: [again], D7: []})
    built = jobs.build(store, spec, D5, D5, tmp_path / "dataset")
    assert built.counts["duplicate_across_partitions"] == 1
    assert built.counts["conflicting_across_partitions"] == 0
    assert built.counts["examples"] == 1
    moved = {**again, "event_id": "e0", "event_time": after(jobs.NOON, hours=3)}
    day_store(tmp_path, {D6: [moved]})
    built = jobs.build(store, spec, D5, D5, tmp_path / "dataset")
    assert built.counts["conflicting_across_partitions"] == 1
    rows = jobs.rows(tmp_path / "dataset", built, "train")
    assert rows["event_time"].to_list() == [first["event_time"]]  # as it first arrived


def test_sources_without_impressions_make_rows_of_their_plays(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shown = [
        jobs.event(event_id=f"i{i}", event_type="impression", played_ms=None, source="app",
                   surface="home", event_time=after(jobs.NOON, minutes=i))
        for i in range(3)
    ]  # fmt: skip
    app = [jobs.event(event_id="p", source="app", event_time=after(jobs.NOON, minutes=1.5))]
    store = day_store(tmp_path, {D5: [*shown, *app, *jobs.plays(20)], D6: []})
    built = jobs.build(store, quick, D5, D5, tmp_path / "auto")
    rows = jobs.rows(tmp_path / "auto", built, "train")
    assert dict(rows.group_by("source", "event_type").len().select(
        pl.concat_str("source", pl.lit("/"), "event_type"), "len").iter_rows()
    ) == {"app/impression": 3, "canonical/play": 20}  # fmt: skip
    for kind, expected in (("play", 21), ("impression", 3)):
        quick.write_text(f"{QUICK}examples: {{rows: {kind}}}\n")
        built = jobs.build(store, quick, D5, D5, tmp_path / kind)
        assert built.counts["examples"] == expected


def test_days_add_up_even_if_a_source_begins_to_log_impressions(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """What a source can tell must not depend on which partitions a build happens to read."""
    quick.write_text(f"{QUICK}features: [session_plays]\n")
    last = D5 + ONE_DAY * 5
    shown = jobs.event(
        event_id="i",
        event_type="impression",
        played_ms=None,
        event_time=after(jobs.NOON, days=5),
    )
    store = day_store(tmp_path, {D5: jobs.plays(20), last: [shown]})
    daily = [
        jobs.build(store, quick, day, day, tmp_path / str(day), "--allow-missing").counts[
            "examples"
        ]
        for day in (D5, last)
    ]
    ranged = jobs.build(store, quick, D5, last, tmp_path / "range", "--allow-missing")
    assert sum(daily) == ranged.counts["examples"]


# --- wrong specs and stores -----------------------------------------------------------------------

WRONG = {
    "a feature with a typo": ("kind: ranking\nfeatures: [user_play_7d]\n", ":2: features",
                              "user_play_7d"),
    "a field with a typo": ("kind: ranking\nlabels:\n  horizon_hour: 3\n",
                            ":3: labels.horizon_hour", "unknown field"),
    "text for a number": ("kind: ranking\nseed: 1\nlabels:\n  completion_cap: big\n",
                          ":4: labels.completion_cap", "'big'"),
    "another kind": ("kind: rank\n", ":1: kind", "did you mean ranking?"),
    "no kind": ("name: ranking\n", ":1: kind", "expected a value"),
    "not YAML": ("kind: [ranking\n", ":", "not valid YAML"),
    "a list": ("- ranking\n", "", "expected a mapping"),
    "nothing": ("", "", "got nothing"),
    "binary": ("\x00\x01", "", "not valid YAML"),
    "a name that is a path": ("kind: ranking\nname: ../x\n", ":2: name", "../x"),
    "shards not a power of two": ("kind: ranking\noutput: {shards: 3}\n", ":2: output.shards", "3"),
    "more shards than buckets": ("kind: ranking\noutput: {shards: 8}\n", "shards", "4 buckets"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_spec_is_one_line_that_says_where(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path, case: str
) -> None:
    text, where, what = WRONG[case]
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    ended = jobs.call(*jobs.build_argv(simulated_store, path, D5, D5, tmp_path / "dataset"))
    assert ended.code == 2
    (line,) = ended.err.strip().splitlines()
    assert f"{path}" in line
    assert where in line
    assert what in line
    assert not (tmp_path / "dataset").exists()


def test_every_mistake_of_a_spec_is_shown_at_once(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("kind: ranking\nseed: -1\nhistory_length: 0\nshard: 4\n")
    ended = jobs.call(*jobs.build_argv(simulated_store, path, D5, D5, tmp_path / "dataset"))
    assert len(ended.err.strip().splitlines()) == 3


def test_files_that_are_no_spec_or_store_are_one_line(
    quick: pathlib.Path, simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for store, spec, what in (
        (simulated_store, tmp_path / "none.yaml", "none.yaml: no such file"),
        (simulated_store, tmp_path, "cannot read it"),
        (tmp_path, quick, "is not an event store"),
        (tmp_path / "none", quick, "is not an event store"),
    ):
        ended = jobs.call(*jobs.build_argv(store, spec, D5, D5, tmp_path / "dataset"))
        assert (ended.code, len(ended.err.strip().splitlines())) == (2, 1)
        assert what in ended.err


def test_a_partition_file_that_was_changed_after_publishing_is_never_read_in_silence(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store = day_store(tmp_path, {D5: jobs.plays(200), D6: []})
    published = jobs.partition(store, D5)
    entry = published.files_of("events")[0]
    path = pathlib.Path(manifest.file_path(str(jobs.partition_root(store, D5)), published, entry))
    table = pl.read_parquet(path)
    argv = jobs.build_argv(store, quick, D5, D5, tmp_path / "dataset")
    for break_it in (
        lambda: table.head(table.height - 1).write_parquet(path),
        lambda: path.write_bytes(path.read_bytes()[:-7]),
        path.unlink,
    ):
        break_it()
        ended = jobs.call(*argv)
        assert ended.code in (3, 4), ended.err[-500:]
        assert path.name in ended.err
        assert "Traceback" not in ended.err
        assert not (tmp_path / "dataset" / "CURRENT.json").exists()


def test_a_damaged_partition_manifest_is_one_line(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store = day_store(tmp_path, {D5: jobs.plays(20)})
    published = jobs.partition(store, D5)
    path = jobs.partition_root(store, D5) / published.version / "manifest.json"
    path.write_text(path.read_text().replace('"kept": 20', '"kept": 21'))
    ended = jobs.call(*jobs.build_argv(store, quick, D5, D5, tmp_path / "dataset"))
    assert ended.code == 3
    (line,) = ended.err.strip().splitlines()
    assert "changed after it was published" in line


def test_a_shard_that_lost_rows_refuses_the_version(
    quick: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = day_store(tmp_path, {D5: jobs.plays(100), D6: []})
    whole = building.rows.order_rows

    def lossy(rows: pl.DataFrame, *args: Any) -> pl.DataFrame:
        return whole(rows, *args).head(max(rows.height - 1, 0))

    monkeypatch.setattr(building.rows, "order_rows", lossy)
    ended = jobs.call(*jobs.build_argv(store, quick, D5, D5, tmp_path / "dataset"))
    assert ended.code == 3
    assert "conservation: 100 examples were counted, but" in ended.err
    assert not (tmp_path / "dataset").exists()


# --- killed, and two at once ----------------------------------------------------------------------

# Loads everything once and forks a process for each run, before any thread is started.
FORKER = """
import json, os, pathlib, signal, sys, time
import apache_beam
from pipelines import build, cli, console, main
from transforms import building, files, manifest, publish, storage
from transforms.datasets import ranking

def die(): os.kill(os.getpid(), signal.SIGKILL)

def meet(): # until both are here
    folder = pathlib.Path(os.environ["MEET"])
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2: time.sleep(0.01)

def at(module, name, number, then, after=False):
    whole, seen = getattr(module, name), []
    def call(*args, **kwargs):
        seen.append(0)
        if not after and len(seen) == number: then()
        result = whole(*args, **kwargs)
        if after and len(seen) == number: then()
        return result
    setattr(module, name, call)

POINTS = {
    "half": lambda: at(files, "describe", 3, die),
    "linking": lambda: at(storage, "_write_synced_sibling", 1, die, after=True),
    "committed": lambda: at(manifest, "set_current", 1, die),
    "meet": lambda: at(manifest, "commit", 1, meet),
}
children = []
for number, (point, argv) in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        for stream, name in ((1, "out"), (2, "err")):
            log = os.open(f"{sys.argv[2]}/{number}.{name}", os.O_CREAT | os.O_WRONLY)
            os.dup2(log, stream)
        POINTS[point]()
        code = cli.main("playhead", main.run, argv)
        sys.stdout.flush()
        os._exit(code)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(json.dumps([codes, [name for name in sys.modules if name == "tensorflow"]]))
"""


def test_killed_or_raced_the_published_data_are_whole_and_the_same(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """SIGKILL in the middle, between writing and linking the manifest, and before the pointer; and
    two builds that reach the commit together."""
    store = day_store(tmp_path, {D5: jobs.plays(300), D6: jobs.plays(300, day=D6), D7: []})
    clean = jobs.build(store, quick, D5, D6, tmp_path / "clean")
    old = jobs.build(store, quick, D5, D5, tmp_path / "old")
    for name in ("half", "linking", "committed", "meet"):
        shutil.copytree(tmp_path / "old", tmp_path / name)
    for name in ("logs", "meeting"):
        (tmp_path / name).mkdir()
    points = ["half", "linking", "committed", "meet", "meet"]
    cases = [
        (point, [str(each) for each in jobs.build_argv(store, quick, D5, D6, tmp_path / point)])
        for point in points
    ]
    done = subprocess.run(
        [sys.executable, "-c", FORKER, json.dumps(cases), str(tmp_path / "logs")],
        cwd=jobs.REPOSITORY, env={**os.environ, "MEET": str(tmp_path / "meeting")},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    codes, tensorflow = json.loads(done.stdout)
    assert codes == [-signal.SIGKILL] * 3 + [0, 0], sorted((tmp_path / "logs").glob("*.err"))
    assert tensorflow == [], "a build that computes no statistics loads TensorFlow"
    for point in points[:3]:
        output = tmp_path / point
        assert manifest.load_current(str(output)) == old
        assert jobs.rows(output, old, "train").height == old.counts["examples"]
        assert (manifest.load(str(output), clean.version) is not None) == (point == "committed")
        again = jobs.build(store, quick, D5, D6, output)
        assert again.digest() == clean.digest(), point
        assert jobs.checksums(again) == jobs.checksums(clean)
        jobs.rows(output, again, "train")
    built = manifest.require_current(str(tmp_path / "meet"), "it")
    assert built.digest() == clean.digest()
    jobs.rows(tmp_path / "meet", built, "train")
    attempts = [path for path in (tmp_path / "meet" / built.version).iterdir() if path.is_dir()]
    assert [path.name for path in attempts] == [built.run.attempt]  # the loser cleaned up


def test_an_empty_version_does_not_take_the_place_of_one_with_rows(
    quick: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store = day_store(tmp_path, {D5: jobs.plays(30), D6: [], D7: []})
    good = jobs.build(store, quick, D5, D5, tmp_path / "dataset")
    ended = jobs.call(*jobs.build_argv(store, quick, D6, D6, tmp_path / "dataset"))
    assert ended.code == 0
    assert f"{good.version} stays current" in ended.err
    assert manifest.load_current(str(tmp_path / "dataset")) == good


def test_a_personal_history_is_built_over_any_range_by_the_shipped_spec(
    tmp_path: pathlib.Path,
) -> None:
    raw = tmp_path / "a.tsv"
    raw.write_text("".join(f"u\t2026-01-05T10:{i:02d}:00Z\t\tA\t\tT{i}\n" for i in range(9)))
    jobs.ingest(raw, tmp_path / "store", "--date", "2026-02-01", format="lastfm1k")
    built = jobs.build(tmp_path / "store", "listening", "2025-12-01", "2026-01-31", tmp_path / "d")
    assert built.counts["examples"] + built.counts["immature"] == 9
    assert built.config["left_context_missing_days"] == 0
