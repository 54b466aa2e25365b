"""Days and ranges are the same rows: what a scheduler may do in any order, in parallel, and again.

One store of 30 days of listening (with offline phones, wrong clocks, retransmissions) is built in
steps, with more and with less context, from partitions that arrive in any order, and as of earlier
instants. Names P1 to P16 are those of docs/promises.md.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import functools
import hashlib
import itertools
import json
import pathlib
import random
import shutil

import polars as pl
import pytest

from tests import jobs, planned, strategies
from transforms.building import BuildPlan
from transforms.coverage import day_start_us
from transforms.planning import Planned
from transforms.specs import DatasetSpec
from transforms.timeline import DAY_US

FIRST = datetime.date(2026, 1, 5)
DAYS, LATENESS_DAYS = 30, 5
ONE_DAY = datetime.timedelta(days=1)
LABELS = {"horizon_hours": 24, "lateness_days": LATENESS_DAYS}
BORDERS = {
    "validation_from": FIRST + ONE_DAY * 20,
    "test_from": FIRST + ONE_DAY * 25,
    "gap_hours": 6,
    "holdout_user_share": 0.1,
}
FIELDS: dict[str, dict] = {
    "ranking": {},
    "retrieval": {"negatives": strategies._ALL_NEGATIVES},
    "sequences": {"length": 20, "stride": 5, "period": "day", "history_days": 2},
    "sessions": {"min_plays": 2},
}


# What item counts decide: they are of what had arrived by a midnight, by definition.
COUNTED = ["is_cold_item", "item_index", "positive_log_q", "positive_in_batch_log_q"]


def spec_of(kind: str, **fields) -> DatasetSpec:
    shared = {"labels": LABELS, "splits": BORDERS, "output": {"shards": 1}}
    return strategies.make_spec({**shared, **FIELDS[kind], **fields}, kind)


def day(number: int) -> datetime.date:
    """The day of that number, from 0."""
    return FIRST + ONE_DAY * number


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """<folder>/received=<day>/*.parquet of every day that something arrived on, and to the end."""
    folder = tmp_path_factory.mktemp("raw")
    config = {"seed": 3, "users": 24, "days": DAYS, "tracks": 400, "artists": 60,
              "start_date": FIRST.isoformat(), "duplicate_share": 0.05, "offline_share": 0.2,
              "skewed_user_share": 0.1, "near_duplicate_share": 0.02}  # fmt: skip
    (folder / "world.yaml").write_text(json.dumps(config))
    jobs.ok("simulate", "--output", folder / "sim", "--config", folder / "world.yaml")
    made = folder / "sim" / "raw" / "parquet"
    for number in range(DAYS + LATENESS_DAYS + 1):
        if not (made / f"received={day(number)}").exists():
            jobs.write(made / f"received={day(number)}" / "none.parquet", [])
    return made


def ingest(raw: pathlib.Path, store: pathlib.Path, number: int) -> None:
    files = raw / f"received={day(number)}" / "*"
    jobs.ingest(files, store, "--date", day(number), "--buckets", 2)


@pytest.fixture(scope="module")
def store(raw: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("stored") / "store"
    for number in range(DAYS + LATENESS_DAYS + 1):
        ingest(raw, folder, number)
    return folder


@pytest.fixture(scope="module")
def vocabulary(store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A version whose item indices all builds of sequences take over."""
    folder = tmp_path_factory.mktemp("vocabulary")
    shared = {"splits": {**BORDERS, "holdout_user_share": 0.0}, "labels": LABELS}
    text = json.dumps({"kind": "sequences", **shared, "output": {"shards": 1}}, default=str)
    (folder / "spec.yaml").write_text(text)
    jobs.build(store, folder / "spec.yaml", day(0), day(3), folder / "dataset")
    return str(folder / "dataset")


def build(
    store: pathlib.Path, spec: DatasetSpec, first: int, last: int, vocabulary: str, **more
) -> planned.Tables:
    if spec.kind == "sequences":
        more["vocabulary"] = vocabulary
    return planned.build(store, spec, day(first), day(last), **more)


@pytest.fixture(scope="module")
def daily(store: pathlib.Path, vocabulary: str):
    """(kind, day number) -> rows of the build of that day alone."""
    return functools.cache(
        lambda kind, number: build(store, spec_of(kind), number, number, vocabulary)
    )


# --- P1, P2: unions and owners --------------------------------------------------------------------


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize(
    ("first", "count", "step"), [(0, 30, 30), (0, 30, 5), (16, 7, 7), (18, 2, 2)]
)
def test_days_add_up_to_the_range(
    store: pathlib.Path, vocabulary: str, daily, kind: str, first: int, count: int, step: int
) -> None:
    """P1: 2, 7 and 30 days in steps of 1, 5 and 30; the range lies over two borders."""
    alone = planned.union(daily(kind, number) for number in range(first, first + count))
    steps = planned.union(
        build(store, spec_of(kind), at, at + step - 1, vocabulary)
        for at in range(first, first + count, step)
    )
    assert planned.digests(alone) == planned.digests(steps)
    if count == 30:
        assert all(table.height for table in alone.values())


@pytest.mark.parametrize("kind", FIELDS)
def test_every_row_is_owned_by_the_day_it_began_on(daily, kind: str) -> None:
    """P2: by exactly one, and no row is made twice."""
    keys: list = []
    for number in range(DAYS):
        for table in daily(kind, number).values():
            if kind == "sequences":  # the newest play is the row's
                began = table["event_times"].list.max()
                keys += zip(table["user_id"], began, strict=True)
            elif kind == "sessions":
                began = table["session_start"]
                keys += table["session_id"].to_list()
            else:
                began = table["event_time"]
                keys += zip(table["user_id"], table["event_id"], strict=True)
            assert set(began.dt.date()) <= {day(number)}
    assert len(keys) == len(set(keys)) > 400


# --- P3, P7, P15, P16: what a job leaves alone ----------------------------------------------------


def snapshot(root: pathlib.Path) -> dict[str, tuple[str, int]]:
    return {
        path: (
            hashlib.sha256((root / path).read_bytes()).hexdigest(),
            (root / path).stat().st_mtime_ns,
        )
        for path in jobs.files_below(root)
    }


def test_a_build_or_an_ingest_writes_its_own_day_and_nothing_else(
    raw: pathlib.Path, store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """P3 and P15: files of other versions keep bytes and times; P7: the same again writes nothing;
    P16: another spec is another version beside it."""
    copy, root = tmp_path / "store", tmp_path / "dataset"
    shutil.copytree(store, copy)
    spec = tmp_path / "spec.yaml"
    spec.write_text(json.dumps({"kind": "ranking", "labels": LABELS, "output": {"shards": 1}}))
    first = jobs.build(copy, spec, day(3), day(3), root)
    before, stored = snapshot(root), snapshot(copy)
    second = jobs.build(copy, spec, day(4), day(4), root)
    after = snapshot(root)
    own = {path for path in after if path.startswith(second.version) or path == "CURRENT.json"}
    assert {path: after[path] for path in after if path not in own} == {
        path: before[path] for path in before if path != "CURRENT.json"
    }
    assert snapshot(copy) == stored
    jobs.build(copy, spec, day(4), day(4), root)
    assert snapshot(root) == after
    assert first.version != second.version
    text = {"kind": "ranking", "seed": 1, "labels": LABELS, "output": {"shards": 1}}
    spec.write_text(json.dumps(text))
    third = jobs.build(copy, spec, day(4), day(4), root)
    assert third.fingerprint != second.fingerprint
    assert third.version != second.version
    # A partition ingested anew from more files leaves all the others.
    jobs.write(raw / f"received={day(6)}" / "more.parquet", jobs.plays(5, day=day(6)))
    try:
        ingest(raw, copy, 6)
    finally:
        (raw / f"received={day(6)}" / "more.parquet").unlink()
    changed = {path for path, seen in snapshot(copy).items() if stored.get(path) != seen}
    assert {path.split("/")[1] for path in changed} == {f"dt={day(6)}"}
    assert {path for path in stored if path not in snapshot(copy)} == set()


# --- P4: as much context as is needed, and no less ------------------------------------------------


def with_context(left_us: int, right_us: int, planned_build: Planned) -> BuildPlan:
    """The plan, with so much more read on each side."""
    plan = planned_build.plan
    return dataclasses.replace(
        plan, read_first_us=plan.read_first_us - left_us, read_end_us=plan.read_end_us + right_us
    )


@pytest.mark.parametrize("kind", FIELDS)
def test_more_context_changes_nothing(
    store: pathlib.Path, vocabulary: str, daily, kind: str
) -> None:
    """P4: a week more before, two days more after."""
    more = functools.partial(with_context, 7 * DAY_US, 2 * DAY_US)
    for number in (10, 19):
        wide = build(store, spec_of(kind), number, number, vocabulary, change=more)
        for split, table in daily(kind, number).items():
            assert wide[split].equals(table)


# --- P6, P8, P10: how and when it arrived ---------------------------------------------------------


def test_days_may_be_ingested_in_any_order_and_at_once(
    raw: pathlib.Path, store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """P6: processes side by side, shuffled, from nothing."""
    numbers = list(range(4))
    random.Random(4).shuffle(numbers)
    empty = tmp_path / "store"

    def run(number: int) -> None:
        files = raw / f"received={day(number)}" / "*"
        argv = jobs.ingest_argv(files, empty, "--date", day(number), "--buckets", 2)
        ended = jobs.wait(jobs.spawn(*argv))
        assert ended.code == 0, ended.err

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(run, numbers))
    for number in numbers:
        ours, theirs = (jobs.partition(each, day(number)) for each in (empty, store))
        assert ours.digest() == theirs.digest()


def events_of(raw: pathlib.Path, numbers: range) -> pl.DataFrame:
    return pl.concat(
        pl.read_parquet(path)
        for number in numbers
        for path in sorted((raw / f"received={day(number)}").glob("*.parquet"))
    )


@pytest.mark.parametrize("kind", FIELDS)
def test_when_it_arrived_within_the_lateness_does_not_matter(
    raw: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    """P8: every event at once, or up to the lateness later and twice (P10): the same rows. What
    comes later still is left out and counted."""
    days = range(7)
    events = events_of(raw, days).unique("event_id", keep="first", maintain_order=True)
    # Two clients' reports of one play are told among the arrivals of one day: not here.
    reported_twice = pl.read_parquet(raw.parent.parent / "truth" / "near_duplicates-*.parquet")
    events = events.join(reported_twice.select("event_id"), on="event_id", how="anti")
    events = events.filter(
        pl.col("event_time") < day_start(7), pl.col("event_time") >= day_start(0)
    )
    sent_us = pl.col("event_time").dt.epoch("us")
    wait = pl.col("event_id").hash(7) % 3 * DAY_US
    schedules = {
        "at once": events.with_columns(received_time=sent_us.cast(pl.Datetime("us", "UTC"))),
        "late": events.with_columns(received_time=(sent_us + wait).cast(pl.Datetime("us", "UTC"))),
    }
    again = schedules["late"].filter(pl.col("event_id").hash(9) % 5 == 0)
    again = again.with_columns(pl.col("received_time") + datetime.timedelta(days=1))
    schedules["late and twice"] = pl.concat([schedules["late"], again])
    features = [f for f in spec_of(kind).features if not f.startswith("item_")]
    fields = (
        {"negatives": {"sources": [{"type": "exposed", "count": 2}]}} if kind == "retrieval" else {}
    )
    labels = {"horizon_hours": 6, "lateness_days": 3}
    shared = {"labels": labels, "splits": {}, "features": tuple(features), **fields}
    spec = spec_of(kind, **shared)
    found = {}
    for name, table in schedules.items():
        folder = tmp_path / name
        arrived = (pl.col("received_time").dt.epoch("us") - day_start_us(FIRST)) // DAY_US
        for number in range(10):
            part = table.filter(arrived == number)
            part.write_parquet(file_of(folder, number))
            jobs.ingest(
                file_of(folder, number), folder / "store", "--date", day(number), "--buckets", 2
            )
        rows = planned.build(folder / "store", spec, day(4), day(5))
        found[name] = planned.digests({k: t.drop(COUNTED, strict=False) for k, t in rows.items()})
    assert found["at once"]["train"][0] > 40
    assert found["at once"] == found["late"] == found["late and twice"]


def file_of(folder: pathlib.Path, number: int) -> pathlib.Path:
    path = folder / f"received={day(number)}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def day_start(number: int) -> datetime.datetime:
    return datetime.datetime.combine(day(number), datetime.time(), tzinfo=datetime.UTC)


# --- P9, P13: what was known ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", FIELDS)
def test_later_arrivals_change_rows_of_those_they_are_of(
    store: pathlib.Path, vocabulary: str, kind: str
) -> None:
    """P9: as of two instants, only users of whom something arrived between them differ."""
    spec = spec_of(kind, labels={"horizon_hours": 6, "lateness_days": 1}, splits={})
    early, late = (day_start_us(day(number)) - 1 for number in (16, 19))
    rows = [build(store, spec, 12, 13, vocabulary, as_of_us=as_of_us) for as_of_us in (early, late)]
    arrived = set()
    for number in range(16, 19):
        arrived |= set(jobs.stored(store, day(number))["user_id"])
    everyone = set(rows[0]["train"]["user_id"]) | set(rows[1]["train"]["user_id"])
    assert everyone - arrived or kind == "sequences"
    for table_of in everyone - arrived:
        one, other = (t["train"].filter(pl.col("user_id") == table_of) for t in rows)
        assert jobs.row_digest(one) == jobs.row_digest(other)


@pytest.mark.parametrize("kind", FIELDS)
def test_rows_that_were_ripe_stay_as_they_were(
    store: pathlib.Path, vocabulary: str, daily, kind: str
) -> None:
    """P13: built as soon as their labels are known, and built when everything has arrived."""
    number = 12
    ripe = number + 1 + LATENESS_DAYS + 1 + (kind == "sessions")  # a session may last for a day
    soon = day_start_us(day(ripe + 1)) - 1
    then = build(store, spec_of(kind), number, number, vocabulary, as_of_us=soon)
    assert then["train"].height > 0
    assert planned.digests(then) == planned.digests(daily(kind, number))


# --- P12: nothing is lost -------------------------------------------------------------------------


def test_counts_of_thirty_days_add_up_to_the_files(raw: pathlib.Path, store: pathlib.Path) -> None:
    """P12: rows of the files = kept + each reason to leave one out, day by day and in all."""
    totals: dict[str, int] = {}
    for number in range(DAYS):
        counts = jobs.partition(store, day(number)).counts
        files = pl.read_parquet(raw / f"received={day(number)}" / "*.parquet").height
        parts = {name: counts[name] for name in ("kept", "duplicate", "other_day")}
        for name in ("quarantined", "excluded", "set_aside"):
            parts[name] = sum(counts[name].values())
        assert counts["read"] == files == sum(parts.values())
        assert jobs.stored(store, day(number)).height == counts["kept"]
        for name, count in itertools.chain(parts.items(), [("read", counts["read"])]):
            totals[name] = totals.get(name, 0) + count
    assert totals["duplicate"] > 100
    assert totals["read"] > 20_000
