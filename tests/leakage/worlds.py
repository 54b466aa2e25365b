"""Worlds: raw events with both clocks, side tables and specs; and builds of them.

A build here takes the way of a job without a runner: rows are adapted, stored in partitions by the
day they arrived, planned, merged, built bucket by bucket, ordered, and, if asked, written.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from transforms import building, files, ingestion, manifest, publish, shards, store
from transforms import counts as row_counts
from transforms.adapters import get_adapter
from transforms.adapters.base import EVENT_SCHEMA, OFFSET, RawTable
from transforms.buckets import split_by_bucket
from transforms.building import BuildPlan
from transforms.counts import Counts
from transforms.coverage import day_start_us
from transforms.datasets.rows import SideTables
from transforms.events import ValidityRules
from transforms.manifest import FileEntry
from transforms.planning import Request, plan_build
from transforms.specs import (
    DatasetSpec,
    RankingSpec,
    RetrievalSpec,
    SequencesSpec,
    SessionsSpec,
)
from transforms.store import StoreConfig
from transforms.timeline import DAY_US, HOUR_US, MINUTE_US

D = [datetime.date(2026, 1, 5) + datetime.timedelta(days=number) for number in range(12)]
ONE_DAY = datetime.timedelta(days=1)
BUCKETS = 2
UTC_US = pl.Datetime("us", "UTC")
MARK = "mark"  # a listener whose events only mark where a log begins and ends

_BORDERS = {"validation_from": D[4], "test_from": D[5], "gap_hours": 0.5}
_LABELS = {"horizon_hours": 6, "lateness_days": 1}
_SHARED: dict[str, Any] = {"labels": _LABELS, "splits": _BORDERS, "output": {"shards": 2}}
_NEGATIVES = {
    "sources": [
        {"type": "uniform", "count": 3},
        {"type": "popularity", "count": 2, "alpha": 0.75},
        {"type": "exposed", "count": 2},
        {"type": "skipped", "count": 1},
    ],
    "popularity_days": 7,
    "exclude_days": 1,
}
NAMES = ("ranking", "plays", "retrieval", "sequences", "sessions")


def make_specs(**shared: Any) -> dict[str, DatasetSpec]:
    """A spec of each kind, of ranking one for either sort of row; windows of targets are of one
    day. They have all features that are registered when this is called."""
    common = {**_SHARED, **shared}
    return {
        "ranking": RankingSpec(kind="ranking", examples={"rows": "impression"}, **common),
        "plays": RankingSpec(kind="ranking", examples={"rows": "play"}, **common),
        "retrieval": RetrievalSpec(kind="retrieval", negatives=_NEGATIVES, **common),
        "sequences": SequencesSpec(
            kind="sequences", length=8, stride=4, history_days=2, period="day", **common
        ),
        "sessions": SessionsSpec(kind="sessions", **common),
    }


@dataclasses.dataclass(frozen=True)
class World:
    """What happened, when it became known, and what is to be built of it.

    Attributes:
      events: EVENT_SCHEMA rows as clients sent them, in any order.
      specs: by name.
      days: inclusive range of the days that are built.
      arrivals: inclusive range of the days that are ingested, each a partition; None for a source
        that does not tell when events arrived, which is one import.
      catalog: `track_id` and `release_time`; None if there is none.
      as_of_us: of the build.
      semantic_ids: path of a version of item codes, for sequences.
    """

    events: pl.DataFrame
    specs: dict[str, DatasetSpec]
    days: tuple[datetime.date, datetime.date] = (D[2], D[6])
    arrivals: tuple[datetime.date, datetime.date] | None = (D[0], D[7])
    catalog: pl.DataFrame | None = None
    as_of_us: int | None = None
    semantic_ids: str | None = None

    def of(self, events: pl.DataFrame) -> World:
        """Another course of events."""
        return dataclasses.replace(self, events=events)

    def only(self, *names: str) -> World:
        """Some of the specs."""
        return dataclasses.replace(self, specs={name: self.specs[name] for name in names})

    @functools.cached_property
    def happened(self) -> pl.DataFrame:
        """`user_id`, `event_id`, `happened_us`: when each event had happened at the latest.

        No event happens after the server got it, whatever its client's clock says.
        """
        both = pl.min_horizontal(
            *(pl.col(n).to_physical() for n in ("event_time", "received_time"))
        )
        return self.events.group_by("user_id", "event_id").agg(both.min().alias("happened_us"))


@dataclasses.dataclass(frozen=True)
class Built:
    """A build of one kind.

    Attributes:
      plan: what it read and knew.
      shards: of each shard its rows by split, in the order of the file.
      side: tables that all buckets shared.
      counts: of all shards.
      files: what was written, if it was; `summaries` what the shards say for statistics and report.
    """

    plan: BuildPlan
    shards: list[dict[str, pl.DataFrame]]
    side: SideTables
    counts: list[Counts]
    files: list[FileEntry] = dataclasses.field(default_factory=list)
    summaries: list[bytes] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def rows(self) -> pl.DataFrame:
        """All rows, with `split`, `shard` and `index` (place in the file) before the columns."""
        tables = [
            table.select(
                pl.lit(split).alias("split"),
                pl.lit(number).alias("shard"),
                pl.int_range(pl.len()).alias("index"),
                pl.all(),
            )
            for number, by_split in enumerate(self.shards)
            for split, table in by_split.items()
        ]
        return pl.concat(tables)


def build(world: World, write: bool = False) -> dict[str, Built]:
    """Ingests a world and builds all of its specs, by name."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = pathlib.Path(tempfile.mkdtemp(prefix="playhead-leakage-", dir=memory))
    try:
        ingest(world, str(folder / "store"))
        return build_store(world, str(folder), write)
    finally:
        shutil.rmtree(folder)


def build_store(world: World, folder: str, write: bool = False) -> dict[str, Built]:
    """Builds all specs from the store in a folder."""
    catalog = None
    if world.catalog is not None:
        catalog = f"{folder}/catalog.parquet"
        world.catalog.write_parquet(catalog)
    made = {}
    for name, spec in world.specs.items():
        request = Request(
            store=f"{folder}/store",
            spec=spec,
            spec_name=name,
            first_day=world.days[0],
            last_day=world.days[1],
            as_of_us=world.as_of_us,
            catalog=catalog if spec.kind == "retrieval" else None,
            semantic_ids=world.semantic_ids if spec.kind == "sequences" else None,
        )
        root = tempfile.mkdtemp(dir=folder)
        made[name] = build_plan(plan_build(request).placed(root, f"{root}/side", 1), write)
    return made


def build_plan(plan: BuildPlan, write: bool = False) -> Built:
    """What the workers of a build make."""
    entries = [FileEntry.model_validate_json(text) for text in building.write_side_tables(plan)]
    side = building.load_side_tables(plan)
    tables, counts, summaries = [], [], []
    for shard in shards.plan_shards(BUCKETS, plan.spec.output.shards):
        built = building.build_shard(shard, plan, side)
        tables.append(built.tables)
        counts.append(built.counts)
        if write:
            written, said = building.write_rows(built, plan, shard, None)
            entries += written
            summaries += [summary.to_bytes() for summary in said]
    return Built(plan, tables, side, counts, entries, summaries)


def ingest(world: World, root: str) -> None:
    """Makes the store of a world."""
    config = StoreConfig(bucket_count=BUCKETS)
    pathlib.Path(root).mkdir(parents=True)
    path, text = store.config_file(root, config)
    pathlib.Path(path).write_text(text)
    if world.arrivals is None:
        _ingest_day(world.events, root, config, world.days[1] + 30 * ONE_DAY, one_day_only=False)
        return
    first, last = world.arrivals
    arrived = dict(world.events.group_by(pl.col("received_time").dt.date()))
    for number in range((last - first).days + 1):
        day = first + number * ONE_DAY
        part = arrived.get((day,), world.events.clear())
        _ingest_day(part, root, config, day, one_day_only=True)


def _ingest_day(
    events: pl.DataFrame, root: str, config: StoreConfig, day: datetime.date, one_day_only: bool
) -> None:
    adapter = get_adapter("parquet")
    rules = ValidityRules(day, one_day_only)
    adapted = ingestion.adapt_table(
        events.with_row_index(OFFSET).cast({OFFSET: pl.Int64}),
        RawTable.no_rejects(),
        ingestion.AdaptConfig(adapter, rules, config.hash_seed),
        None,
    )
    settings = {
        "format": adapter.name,
        "event_types": list(adapter.event_types),
        "date": day.isoformat(),
        "one_day_only": one_day_only,
    }
    draft = publish.Draft(
        root=store.partition_root(root, day),
        kind="events",
        name=day.isoformat(),
        version="v-0",
        fingerprint="0",
        code_version="0",
        config=settings,
        columns=(),
        inputs=(),
        attempt="attempt-0",
        started_at="",
        runner="none",
    )
    bucket_config = ingestion.BucketConfig(max_user_events_per_day=1000, near_duplicate_ms=10_000)
    entries, counts, items = [], [adapted.counts], []
    for bucket, table in split_by_bucket(adapted.kept, config.bucket_count):
        stored = ingestion.store_bucket(table, bucket_config)
        counts.append(stored.counts)
        items.append(store.item_day_counts(stored.kept))
        if stored.kept.height:
            path = f"events/bucket-{bucket:05d}.parquet"
            entries.append(
                files.write_table(stored.kept, draft.attempt_root, path, "events", (bucket, bucket))
            )
    if items:
        entries.append(
            files.write_table(
                store.sum_item_days(items), draft.attempt_root, "item_day/0.parquet", "item_day"
            )
        )
    total = row_counts.total(counts)
    manifest.commit(draft.root, draft.manifest(entries, total, total.get("kept", 0)))


# --- a world in which every channel is open if the pipeline opens it ------------------------------

_TRACKS, _ARTISTS, _USERS = 14, 5, 6
UNRELEASED = "t13"  # released after the range, though the catalog knows of it


def instant_us(day: int, hour: float = 0.0) -> int:
    """UTC microseconds of an hour of a day, counted from D[0]."""
    return day_start_us(D[0]) + day * DAY_US + round(hour * HOUR_US)


def event(event_id: str, user: str, kind: str, track: int, time_us: int, **more: Any) -> dict:
    """A raw event; it is received 3 s after it was over unless `received_us` says otherwise."""
    given = {"surface": "home", "platform": "ios", "country": "SE", "premium": True, **more}
    if kind == "play":
        given = {"played_ms": 25_000, "track_duration_ms": 200_000, "reason_end": "fwdbtn"} | given
    over_us = time_us + given.get("played_ms", 0) * 1000
    received_us = given.pop("received_us", over_us + 3_000_000)
    if kind == "impression":
        given = {"request_id": f"r-{event_id}", "position": track % 4, "shelf": "top"} | given
    return {
        **dict.fromkeys(EVENT_SCHEMA),
        "event_id": event_id,
        "event_type": kind,
        "user_id": user,
        "track_id": f"t{track}",
        "artist_id": f"a{track % _ARTISTS}",
        "time_quality": "reported",
        "client_id": "c1",
        "source": "parquet",
        "event_time": time_us,
        "received_time": received_us,
        **given,
    }


def table_of(events: Sequence[dict]) -> pl.DataFrame:
    """EVENT_SCHEMA rows; times are integer microseconds."""
    times = ("event_time", "received_time")
    raw = {**EVENT_SCHEMA, **dict.fromkeys(times, pl.Int64())}
    return pl.DataFrame(events, schema=raw, orient="row").with_columns(
        pl.col(name).cast(UTC_US) for name in times
    )


def crafted(seed: int = 1) -> World:
    """Six listeners over eight days: visits of Home with plays at once and later, likes; and what
    goes wrong in logs: equal instants, late and too late uploads, clocks that run ahead,
    retransmissions, corrections, a second client's report, a burst at sync."""
    rng = np.random.default_rng(seed)
    events = [each for user in range(_USERS) for each in _listener(rng, user)]
    releases = [instant_us(-30)] * _TRACKS
    releases[11], releases[12], releases[13] = instant_us(3, 10), instant_us(5, 1), instant_us(10)
    tracks = [f"t{number}" for number in range(_TRACKS)]
    catalog = pl.DataFrame(
        # One track is listed twice, with another release.
        {"track_id": [*tracks, "t3"], "release_time": [*releases, instant_us(9)]}
    ).with_columns(pl.col("release_time").cast(UTC_US))
    order = rng.permutation(len(events))
    return World(table_of([events[at] for at in order]), make_specs(), catalog=catalog)


def _listener(rng: np.random.Generator, user: int) -> Iterator[dict]:
    name, serial = f"u{user}", itertools.count()

    def made(kind: str, track: int, time_us: int, **more: Any) -> dict:
        # Ids are in no order of time.
        number = next(serial)
        return event(f"e{number * 7919 % 9973:04d}", name, kind, track, time_us, **more)

    for day in range(8):
        for _ in range(int(rng.integers(1, 3))):
            at_us = instant_us(day, float(rng.choice([7, 11, 12, 18, 21])) + float(rng.random()))
            for _ in range(int(rng.integers(1, 4))):
                yield from _visit(rng, made, at_us)
                at_us += int(rng.integers(2, 25)) * MINUTE_US
    for day in (3, 4):  # over the midnight of a border
        for hour in (23.4, 23.8, 24.1):
            yield from _visit(rng, made, instant_us(day, hour))
    # A phone was offline: it happened today, and arrives tomorrow; or too late to count.
    for day, days_late in ((1, 1), (3, 1), (4, 1), (2, 3), (3, 2)):
        at_us = instant_us(day, 20 + user / 10)
        yield made("play", user, at_us, received_us=at_us + days_late * DAY_US, played_ms=90_000)
    # The play that an impression led to arrives a day after it.
    at_us = instant_us(5, 19 + user / 10)
    yield made("impression", 3, at_us)
    yield made("play", 3, at_us + MINUTE_US, received_us=at_us + DAY_US, played_ms=55_000)
    # What was heard is sent again the day after: as it was, and with another time and track.
    for day, hour, moved in ((2, 15, 0), (3, 15, 0), (4, 15, DAY_US), (2, 13, DAY_US)):
        at_us = instant_us(day, hour + user / 10)
        first = made("play", 7, at_us, played_ms=45_000)
        yield first
        again = {**first, "event_time": at_us + moved, "received_time": at_us + DAY_US + 5_000_000}
        yield again if not moved else again | {"track_id": "t8", "played_ms": 1_000}
    # Two versions of one play arrive on the day itself.
    at_us = instant_us(3, 9 + user / 10)
    first = made("play", 1, at_us, played_ms=70_000)
    yield first
    yield first | {"received_time": first["received_time"] + 60_000_000, "track_id": "t9"}
    # A clock that runs two hours ahead of the server's.
    for day in (3, 4):
        at_us = instant_us(day, 10 + user / 10)
        shown = made("impression", 5, at_us + 2 * HOUR_US, received_us=at_us)
        yield shown
        yield made("play", 5, at_us + 5 * MINUTE_US, played_ms=50_000)
    # A second client reports the same play.
    at_us = instant_us(3, 16 + user / 10)
    yield made("play", 2, at_us, played_ms=40_000)
    yield made("play", 2, at_us + 2_000_000, played_ms=40_000, client_id="c2")
    if user == 0:
        for number in range(4):
            at_us = instant_us(4, 22) + number * 5_000_000
            yield made("play", number, at_us, played_ms=180_000, reason_end="trackdone")


def _visit(rng: np.random.Generator, made: Any, at_us: int) -> Iterator[dict]:
    """A slate of Home, and what came of it."""
    slate = rng.choice(_TRACKS - 3, 3, replace=False)
    for track in slate.tolist():
        yield made("impression", track, at_us)
    for track in slate.tolist():
        if rng.random() < 0.45:
            delay_us = int(rng.choice([0, 1, 4_000_000, 90_000_000]))
            long = rng.random() < 0.6
            played = {"played_ms": 50_000, "reason_end": "trackdone"} if long else {}
            yield made("play", track, at_us + delay_us, **played)
            if rng.random() < 0.3:
                kind = str(rng.choice(["like", "save", "unlike"]))
                yield made(kind, track, at_us + delay_us + 30_000_000)


def day_us(column: str) -> pl.Expr:
    """First instant of a Date column's days."""
    return pl.col(column).cast(pl.Datetime("us")).to_physical()
