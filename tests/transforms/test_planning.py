"""What a build may read and know, asked of stores that are manifests alone."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import pickle
import tempfile
from typing import Any

import apache_beam as beam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import build
from tests.built import examples
from transforms import manifest, planning, specs, store
from transforms.coverage import Coverage
from transforms.errors import DataRefusedError, PlayheadError, UsageError
from transforms.manifest import FileEntry, Manifest, RunInfo
from transforms.planning import Planned, Request

D1 = datetime.date(2026, 1, 1)
ONE_DAY = datetime.timedelta(days=1)
SPEC = "kind: ranking\noutput: {shards: 1}\nlabels: {horizon_hours: 24, lateness_days: 2}\n"


def day(number: int) -> datetime.date:
    return D1 + ONE_DAY * (number - 1)


def midnight_us(of: datetime.date) -> int:
    return (of - datetime.date(1970, 1, 1)).days * 86_400_000_000


def put(
    root: Any,
    on: int,
    events: tuple[int, int] | None = None,
    daily: bool = True,
    sources: dict[str, dict[str, int]] | None = None,
    buckets: int = 4,
    quarantined: int = 0,
) -> None:
    """A partition of the store at `root`: its manifest, and none of the files that it lists."""
    path = pathlib.Path(root)
    path.mkdir(exist_ok=True)
    config = store.StoreConfig(bucket_count=buckets)
    (path / store.STORE_FILE).write_text(config.model_dump_json())
    first, last = events or (on, on)
    sources = {"app": {"play": 9}} if sources is None else sources
    kinds = sorted({kind for each in sources.values() for kind in each})
    manifest.commit(
        store.partition_root(str(root), day(on)),
        Manifest(
            kind="events",
            name=str(day(on)),
            version="v-daily" if daily else "v-import",
            fingerprint="0",
            code_version="0",
            status="OK",
            config={"one_day_only": daily, "event_types": kinds},
            columns=(),
            inputs=(),
            files=tuple(
                FileEntry(path=f"events/bucket-{i:05d}.parquet", role="events", rows=1, bytes=1,
                          sha256=f"{i:064x}", first_bucket=i, last_bucket=i)
                for i in range(buckets)
            ),
            counts={
                "read": 100,
                "quarantined": {"reason": quarantined},
                "by_source": sources,
                "by_event_day": {str(day(i)): 1 for i in range(first, last + 1)},
            },
            run=RunInfo(attempt="a", started_at="", finished_at="", runner=""),
        ),
    )  # fmt: skip


def plan(root: Any, first: int, last: int, text: str = SPEC, **options: Any) -> Planned:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        spec = specs.load_spec(file.name)
    return planning.plan_build(
        Request(str(root), spec, "spec.yaml", day(first), day(last), **options)
    )


def watermark(planned: Planned) -> datetime.date:
    assert planned.plan.within.watermark_us % 86_400_000_000 in (0, 60_000_000)
    return datetime.date(1970, 1, 1) + ONE_DAY * (
        planned.plan.within.watermark_us // (86_400 * 10**6)
    )


# --- which days are known -------------------------------------------------------------------------


def test_an_import_does_not_hide_a_missing_daily_partition(tmp_path: pathlib.Path) -> None:
    for on in (4, 5, 6, 8, 9, 10):
        put(tmp_path, on)
    put(tmp_path, 11, events=(1, 10), daily=False)
    with pytest.raises(DataRefusedError, match=r"1 of the days .*\(2026-01-07\)"):
        plan(tmp_path, 5, 6)
    with pytest.raises(DataRefusedError, match=r"\(2026-01-07\)"):
        plan(tmp_path, 7, 7)


def test_an_import_stands_for_the_days_before_the_first_daily_partition(
    tmp_path: pathlib.Path,
) -> None:
    put(tmp_path, 9, events=(1, 4), daily=False)
    put(tmp_path, 6)
    with pytest.raises(DataRefusedError, match=r"\(2026-01-05\)"):
        plan(tmp_path, 4, 4)
    put(tmp_path, 5)
    # Its last days get late events of the daily partitions behind it.
    assert watermark(plan(tmp_path, 3, 3)) == day(5)
    put(tmp_path, 7)
    assert watermark(plan(tmp_path, 3, 4)) == day(6)


def test_a_store_of_imports_has_no_missing_day(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 20, events=(3, 3), daily=False)
    planned = plan(tmp_path, 1, 9)
    assert watermark(planned) == day(8)
    assert planned.config["days_taken_for_empty"] == []


@given(
    st.sets(st.integers(1, 12)),
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), max_size=3),
    st.integers(1, 12),
    st.integers(0, 3),
)
@examples(300)
def test_a_day_is_complete_when_no_event_that_counts_can_still_arrive(
    daily: set[int], imports: list[tuple[int, int]], start: int, lateness: int
) -> None:
    """Told arrival by arrival: which partition brings what arrives on a day."""
    begin = min(daily, default=99)
    imported = {d for first, more in imports for d in range(first, first + more + 1) if d < begin}

    def may_still_bring(event_day: int) -> bool:
        for arrival in range(event_day, event_day + lateness + 1):
            if arrival in daily or arrival in imported:
                continue
            if event_day in imported and arrival < begin:
                continue  # the import has all of its days' events that came before there were days
            return True
        return False

    wanted = start
    while not may_still_bring(wanted):
        wanted += 1
    found = Coverage(frozenset(map(day, daily)), frozenset(map(day, imported)))
    assert found.complete_until(day(start), lateness) == day(wanted)


# --- --allow-missing ------------------------------------------------------------------------------


def test_days_taken_for_empty_are_those_of_the_context_and_lateness_too(
    tmp_path: pathlib.Path,
) -> None:
    for on in (1, 2, 4, 5, 7, 9, 12):
        put(tmp_path, on)
    planned = plan(tmp_path, 5, 6, allow_missing=True)
    # Left context 3; asked for 6; labels of the 6th end on the 7th, whose late events come until 9.
    assert planned.config["days_taken_for_empty"] == [str(day(each)) for each in (3, 6, 8)]
    assert watermark(planned) == day(8)


def test_days_that_are_still_to_come_are_not_taken_for_empty(tmp_path: pathlib.Path) -> None:
    for on in (1, 2, 3, 5):
        put(tmp_path, on)
    planned = plan(tmp_path, 2, 2, allow_missing=True)
    assert planned.config["days_taken_for_empty"] == [str(day(4))]
    assert watermark(planned) == day(4)  # the late events of the 4th come until the 6th
    with pytest.raises(UsageError, match="beyond the store"):
        plan(tmp_path, 4, 4, allow_missing=True)


# --- --as-of --------------------------------------------------------------------------------------

SOURCES = st.dictionaries(
    st.sampled_from(["app", "export"]),
    st.dictionaries(
        st.sampled_from(["play", "impression", "like", "save"]), st.just(3), min_size=1
    ),
    min_size=1,
)
KINDS = {
    "ranking": SPEC,
    "retrieval": SPEC.replace("ranking", "retrieval")
    + "negatives: {sources: [{type: popularity, count: 1, alpha: 0.5}]}\n",
}


@pytest.mark.parametrize("kind", KINDS)
@given(
    st.dictionaries(
        st.integers(1, 9), st.tuples(st.booleans(), st.integers(0, 5), SOURCES, st.integers(0, 9)),
        min_size=3,
    ),
    st.integers(2, 8),
    st.sampled_from([0, 1, 43_200_000_000, 86_399_999_998, 86_399_999_999]),
)  # fmt: skip
@examples(20)
def test_a_build_as_of_an_instant_is_planned_as_it_would_have_been_then(
    kind: str, held: dict[int, tuple[bool, int, Any, int]], at: int, more_us: int
) -> None:
    as_of_us = midnight_us(day(at)) + more_us
    over = at if more_us == 86_399_999_999 else at - 1
    with tempfile.TemporaryDirectory() as folder:
        for on, (daily, back, sources, quarantined) in held.items():
            events = None if daily else (max(on - back, 1), on)
            for name in ("now", *(["then"] if on <= over else [])):
                put(f"{folder}/{name}", on, events, daily, sources, quarantined=quarantined)
        if not pathlib.Path(folder, "then").exists():
            return
        found: list[Any] = []
        for name, instant in (("now", as_of_us), ("then", None)):
            try:
                planned = plan(f"{folder}/{name}", 2, 2, KINDS[kind], as_of_us=instant)
            except PlayheadError as error:
                found.append(type(error))
                continue
            within = dataclasses.asdict(planned.plan.within)
            config = {**planned.config, "as_of_us": None}
            refs = [
                [(r.version, r.digest, r.root.rsplit("/", 1)[1]) for r in each]
                for each in (planned.plan.event_partitions, planned.plan.item_day_partitions)
            ]
            found.append((within, config, planned.inputs, refs, planned.quarantine_share))
    assert found[0] == found[1]


def test_what_as_of_cuts_is_said_to_be_cut_by_it(tmp_path: pathlib.Path) -> None:
    for on in range(1, 9):
        put(tmp_path, on)
    noon = midnight_us(day(4)) + 43_200_000_000
    with pytest.raises(
        UsageError, match=r"beyond what --as-of knows.* until 2026-01-03; .*--as-of"
    ):
        plan(tmp_path, 2, 2, as_of_us=noon)
    with pytest.raises(
        DataRefusedError, match="known by --as-of it holds 2026-01-01 to 2026-01-03"
    ):
        plan(tmp_path, 3, 4, as_of_us=noon)
    with pytest.raises(
        UsageError, match=r"beyond the store, which holds .* until 2026-01-08; ingest"
    ):
        plan(tmp_path, 8, 8, as_of_us=midnight_us(day(20)))


# --- the size of a plan ---------------------------------------------------------------------------


def test_plan_and_graph_do_not_grow_with_the_buckets_of_the_store(tmp_path: pathlib.Path) -> None:
    sizes = []
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    for buckets in (8, 4096):
        root = tmp_path / str(buckets)
        for on in range(1, 6):
            put(root, on, buckets=buckets)
        argv = ["--store", root, "--spec", spec, "--start-date", day(1), "--end-date", day(1),
                "--output", tmp_path / "dataset"]  # fmt: skip
        args = build.build_parser().parse_args([str(each) for each in argv])
        draft, build_plan, finish, bucket_count = build.plan(args, "FnApiRunner")
        pipeline = beam.Pipeline()
        build.build_graph(pipeline, draft, build_plan, finish, bucket_count)
        graph = pipeline.to_runner_api().SerializeToString()
        sizes.append((len(pickle.dumps(build_plan)), len(graph)))
        listed = [each.event_files() for each in build_plan.event_partitions]
        assert [len(each) for each in listed] == [buckets] * 3
    assert abs(sizes[0][0] - sizes[1][0]) < 200
    assert abs(sizes[0][1] - sizes[1][1]) < 2000


def test_a_manifest_that_changed_since_planning_is_refused(tmp_path: pathlib.Path) -> None:
    for on in range(1, 6):
        put(tmp_path, on)
    (reference, *_) = plan(tmp_path, 2, 2).plan.event_partitions
    path = pathlib.Path(reference.root, reference.version, "manifest.json")
    path.write_text(path.read_text().replace('"read": 100', '"read": 101'))
    with pytest.raises(DataRefusedError, match="not the one that this build was planned with"):
        reference.event_files()
