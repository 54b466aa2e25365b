"""The steps of a build: store partitions to the shards of a dataset version, without a shuffle.

The unit of work is a shard: a contiguous range of user buckets, read, computed and written by one
worker. Only small tables about items are shared: made first, read by all.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import functools
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import apache_beam as beam
import polars as pl
from apache_beam.metrics import Metrics

from transforms import counts as row_counts
from transforms import (
    exposure,
    files,
    progress,
    semantic_ids,
    shards,
    storage,
    store,
    tallies,
    vocabulary,
)
from transforms.counts import Counts
from transforms.coverage import day_of
from transforms.datasets import ranking, retrieval, rows, sequences, sessions
from transforms.datasets.rows import BuildRange, Built, SideTables
from transforms.features import item
from transforms.item_pools import ItemPools, item_pools
from transforms.listening import Listening, merge_partitions
from transforms.manifest import ColumnEntry, FileEntry
from transforms.shards import Shard
from transforms.specs import DatasetSpec, SequencesSpec
from transforms.splits import SPLITS
from transforms.statistics import SplitStatistics
from transforms.store import BucketFile, PartitionRef
from transforms.tables import typed
from transforms.tfrecord import Layout
from transforms.tombstones import Forgotten

COUNTS, SUMMARIES, SIDE_FILES = "counts", "summaries", "side_files"

KINDS: dict[str, ModuleType] = {
    "ranking": ranking,
    "retrieval": retrieval,
    "sequences": sequences,
    "sessions": sessions,
}
# Kinds whose rows depend on impressions: their exposure is checked.
_EXPOSED = ("ranking", "retrieval")
# Kinds of lists: their TFRecords are SequenceExamples.
_SEQUENTIAL = ("sequences", "sessions")


@dataclasses.dataclass(frozen=True)
class BuildPlan:
    """What a build reads and makes, decided before the pipeline exists.

    Attributes:
      spec: of the dataset.
      within: range, watermark and borders.
      columns: of the rows.
      key: columns that identify a row.
      read_first_us, read_end_us: range of event_time that is read.
      as_of_us: events received later are not there; None if all are.
      event_partitions: whose events are read, by day. Their files are not listed: workers ask the
        manifests for them, so that the graph does not grow with the number of buckets.
      item_day_partitions: whose item counts are read.
      catalog: path of a table of CatalogTrack; None if items exist from when they were seen.
      vocabulary: path of the vocabulary of an earlier version; None to fit one.
      semantic_ids: path of the version of item codes; None if there is none.
      attempt_root: where to write.
      side_root: folder of the tables that buckets share.
      threads: buckets that one worker computes at a time; each takes its memory.
      forgotten: users whom the partitions may still hold, since a run that forgets them is at
        work or was cut off.
    """

    spec: DatasetSpec
    within: BuildRange
    columns: tuple[ColumnEntry, ...]
    key: tuple[str, ...]
    read_first_us: int
    read_end_us: int
    as_of_us: int | None
    event_partitions: tuple[PartitionRef, ...]
    item_day_partitions: tuple[PartitionRef, ...]
    catalog: str | None
    vocabulary: tuple[str, FileEntry] | None
    semantic_ids: str | None
    attempt_root: str
    side_root: str
    threads: int
    forgotten: Forgotten = dataclasses.field(default_factory=Forgotten)

    @property
    def days(self) -> tuple[datetime.date, datetime.date]:
        """First and last UTC day of the rows."""
        return day_of(self.within.first_us), day_of(self.within.end_us - 1)

    @property
    def train_days(self) -> tuple[datetime.date, datetime.date]:
        """Half open range of the days that lie whole in train."""
        first, last = self.days
        return first, min(self.within.borders.train_end_day, last + datetime.timedelta(days=1))


def write_side_tables(plan: BuildPlan) -> list[str]:
    """Makes what all buckets share; returns the vocabulary's FileEntry as JSON, if there is one."""
    tables = [table for each in plan.item_day_partitions for table in each.item_days()]
    counts = pl.concat(tables) if tables else pl.DataFrame(schema=store.ITEM_DAY_SCHEMA)
    if plan.as_of_us is not None:
        counts = counts.filter(pl.col("known_day") < day_of(plan.as_of_us + 1))
    first, last = plan.days
    snapshots = item.snapshots(counts, first, last)
    train_end = plan.within.borders.train_end_day
    if train_end < first:  # the day that items of later splits are cold by
        snapshots = pl.concat([item.snapshots(counts, train_end, train_end), snapshots])
    _write_side(plan, "item_snapshots", snapshots)
    if plan.spec.pool_days:
        catalog = None if plan.catalog is None else store.read_catalog(plan.catalog)
        last_train_day = train_end - datetime.timedelta(days=1)
        pools = item_pools(counts, catalog, first, last, last_train_day, plan.spec.pool_days)
        _write_side(plan, "item_pools", pools)
    if not isinstance(plan.spec, SequencesSpec):
        return []
    if plan.vocabulary is None:
        fitted = vocabulary.fit(counts, *plan.train_days, plan.spec.vocabulary)
    else:
        fitted = store.read_table(*plan.vocabulary)
    _write_side(plan, "vocabulary", fitted)
    entry = files.write_table(fitted, plan.attempt_root, "vocabulary.parquet", "vocabulary")
    return [entry.model_dump_json()]


def _side_path(plan: BuildPlan, name: str) -> str:
    return storage.join(plan.side_root, f"{name}.arrow")


def _write_side(plan: BuildPlan, name: str, table: pl.DataFrame) -> None:
    with storage.writing(_side_path(plan, name)) as stream:
        table.write_ipc(stream, compression="uncompressed")


def _read_side(plan: BuildPlan, name: str) -> pl.DataFrame:
    """A table that buckets share; a local file is mapped into memory, not read."""
    path = _side_path(plan, name)
    if storage.is_local(path):
        return pl.read_ipc(path)
    with storage.open_read(path) as stream:
        return pl.read_ipc(stream)


_loaded: dict[str, SideTables] = {}
_loading = threading.Lock()


def load_side_tables(plan: BuildPlan) -> SideTables:
    """Once a worker process and build."""
    with _loading:
        return _load_side_tables(plan)


def _load_side_tables(plan: BuildPlan) -> SideTables:
    if plan.side_root not in _loaded:
        _loaded.clear()
        pools = ItemPools(_read_side(plan, "item_pools")) if plan.spec.pool_days else None
        codes = semantic_ids.load(plan.semantic_ids) if plan.semantic_ids else None
        is_sequences = isinstance(plan.spec, SequencesSpec)
        _loaded[plan.side_root] = SideTables(
            item_snapshots=_read_side(plan, "item_snapshots"),
            pools=pools,
            vocabulary=_read_side(plan, "vocabulary") if is_sequences else None,
            semantic_ids=codes,
        )
    return _loaded[plan.side_root]


_listed: dict[tuple[PartitionRef, ...], list[dict[int, BucketFile]]] = {}


def event_files(plan: BuildPlan) -> list[dict[int, BucketFile]]:
    """The file of each bucket in each partition, in partition order; read once a worker process and
    build."""
    with _loading:
        if plan.event_partitions not in _listed:
            _listed.clear()
            _listed[plan.event_partitions] = [each.event_files() for each in plan.event_partitions]
        return _listed[plan.event_partitions]


def build_bucket(bucket: int, plan: BuildPlan, side: SideTables) -> Built:
    """All rows of a bucket by split, and its counts."""
    parts, left_out = [], {"late": 0, "after_as_of": 0}
    for file in (by_bucket[bucket] for by_bucket in event_files(plan) if bucket in by_bucket):
        part, skipped = store.read_events(
            file, rows.READ_COLUMNS, plan.read_first_us, plan.read_end_us, plan.as_of_us
        )
        left_out = row_counts.add(left_out, skipped)
        if plan.forgotten:
            gone = plan.forgotten.flags(part)
            part = part.filter(~gone)
            left_out = row_counts.add(left_out, {"forgotten": int(gone.sum())})
        if part.height:
            parts.append(part)
    table, merged = merge_partitions(parts)
    built = build_rows(table, plan, side)
    progress.advance("build", table.height, 1)
    return Built(built.tables, row_counts.total([left_out, merged, built.counts]))


def build_rows(table: pl.DataFrame, plan: BuildPlan, side: SideTables) -> Built:
    """The rows of one bucket's events, by split."""
    kind = KINDS[plan.spec.kind]
    if table.is_empty():
        table = pl.DataFrame(schema=store.schema_of(rows.READ_COLUMNS))
    listening = Listening.of(table, plan.spec.sessions.rule, plan.spec.labels.play_rule)
    built: Built = kind.build(listening, plan.spec, plan.within, side)
    held = {"held_out_arms": rows.held_out_counts(listening, plan.spec)}
    if plan.spec.splits.experiment_holdouts:
        built = Built(built.tables, {**built.counts, **held})
    if plan.spec.kind not in _EXPOSED:
        return built
    shown = table.filter(
        (pl.col("event_type") == "impression")
        & (pl.col("event_time").to_physical() >= plan.within.first_us)
        & (pl.col("event_time").to_physical() < plan.within.end_us)
    )
    return Built(built.tables, {**built.counts, "exposure": exposure.count(shown)})


def build_shard(shard: Shard, plan: BuildPlan, side: SideTables) -> Built:
    """All rows of a shard in their order, and the summed counts of its buckets.

    Buckets are computed `plan.threads` at a time: Polars and NumPy let go of the interpreter lock
    in what takes long. The result does not depend on how many.
    """
    buckets = range(shard.first_bucket, shard.last_bucket + 1)
    with concurrent.futures.ThreadPoolExecutor(plan.threads) as pool:
        built = list(pool.map(lambda bucket: build_bucket(bucket, plan, side), buckets))
    tables = {
        split: rows.order_rows(
            pl.concat([part.tables[split] for part in built]).rechunk(), plan.key, plan.spec.seed
        )
        for split in SPLITS
    }
    counts = row_counts.total(part.counts for part in built)
    counts["splits"] = {split: table.height for split, table in tables.items()}
    return Built(tables, counts)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a shard says of its rows of a split, for the statistics and the report of the whole."""

    shard: int
    split: str
    tallies: Counts
    statistics: bytes

    def to_bytes(self) -> bytes:
        head = {"shard": self.shard, "split": self.split, "tallies": self.tallies}
        return json.dumps(head, sort_keys=True).encode() + b"\n" + self.statistics

    @classmethod
    def from_bytes(cls, data: bytes) -> Summary:
        head, statistics = data.split(b"\n", 1)
        return cls(**json.loads(head), statistics=statistics)


def summarize(
    table: pl.DataFrame, plan: BuildPlan, shard: Shard, split: str, popularity: pl.DataFrame | None
) -> Summary:
    """Statistics and tallies of the rows that a shard has of a split."""
    statistics = SplitStatistics(plan.columns)
    statistics.add(table)
    return Summary(
        shard.index,
        split,
        tallies.tally(table, plan.spec.kind, plan.columns, popularity),
        statistics.to_bytes(),
    )


def write_rows(
    built: Built, plan: BuildPlan, shard: Shard, popularity: pl.DataFrame | None
) -> tuple[list[FileEntry], list[Summary]]:
    """Writes the tables of a shard and summarizes them, the two at the same time."""
    layout: Layout = "sequence_example" if plan.spec.kind in _SEQUENTIAL else "example"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        filled = [(split, table) for split, table in built.tables.items() if table.height]
        summaries = [
            pool.submit(summarize, table, plan, shard, split, popularity) for split, table in filled
        ]
        written = [
            entry
            for split, table in filled
            for entry in shards.write_shard(
                table, plan.columns, shard, split, plan.attempt_root, plan.spec.output, layout
            )
        ]
        return written, [summary.result() for summary in summaries]


@functools.lru_cache(maxsize=1)
def _popularity(pools: ItemPools | None, day: datetime.date) -> pl.DataFrame | None:
    """Plays of each item on the last day of the range, by which the report groups negatives."""
    if pools is None:
        return None
    return pl.DataFrame({"track_id": pools.track_id, "plays": pools.day(day).counts})


class _BuildShardFn(beam.DoFn):
    def __init__(self, plan: BuildPlan) -> None:
        self._plan = plan
        self._rows = Metrics.counter("build", "rows")
        self._msec = Metrics.counter("build", "shard-msec")

    def process(self, shard: Shard) -> Iterator[Any]:
        started = time.monotonic()
        side = load_side_tables(self._plan)
        built = build_shard(shard, self._plan, side)
        popularity = _popularity(side.pools, self._plan.days[1])
        written, summaries = write_rows(built, self._plan, shard, popularity)
        self._rows.inc(sum(table.height for table in built.tables.values()))
        self._msec.inc(int((time.monotonic() - started) * 1000))
        for entry in written:
            yield entry.model_dump_json()
        yield beam.pvalue.TaggedOutput(COUNTS, json.dumps({"shards": 1, **built.counts}))
        for summary in summaries:
            yield beam.pvalue.TaggedOutput(SUMMARIES, summary.to_bytes())


class _WriteSideTablesFn(beam.DoFn):
    """All shards at once -> the same one by one, when what they share is there."""

    def __init__(self, plan: BuildPlan) -> None:
        self._plan = plan

    def process(self, listed: list[Shard]) -> Iterator[Any]:
        for entry in write_side_tables(self._plan):
            yield beam.pvalue.TaggedOutput(SIDE_FILES, entry)
        yield from listed


@dataclasses.dataclass
class BuildShards(beam.PTransform):
    """PCollection of one list of Shard -> dict of `files` (FileEntry) and `counts`, both JSON text,
    and `summaries` (Summary as bytes).

    Shards wait for the side tables by passing through the step that writes them, not by a side
    input: Beam's bundle runner loses outputs of a step with a side input and several outputs.
    """

    plan: BuildPlan

    def expand(self, pcoll: beam.PCollection[list[Shard]]) -> dict[str, beam.PCollection[Any]]:
        started = pcoll | "WriteSideTables" >> beam.ParDo(
            _WriteSideTablesFn(self.plan)
        ).with_outputs(SIDE_FILES, main="shards")
        outputs = (
            typed(started["shards"], Shard)
            | "SpreadShards" >> beam.Reshuffle()
            | "BuildShard"
            >> beam.ParDo(_BuildShardFn(self.plan)).with_outputs(COUNTS, SUMMARIES, main="files")
        )
        side_files = typed(started[SIDE_FILES], str)
        files_of_shards = typed(outputs["files"], str)
        return {
            "files": (files_of_shards, side_files) | "AllFiles" >> beam.Flatten(),
            "counts": typed(outputs[COUNTS], str),
            "summaries": typed(outputs[SUMMARIES], bytes),
        }


@dataclasses.dataclass(frozen=True)
class BuildGate:
    """Refuses a version whose files do not hold the examples that were counted, and one that lacks
    a shard: an engine that loses what was made of one must not go unnoticed."""

    shards: int

    def __call__(self, counts: Counts, entries: Iterable[FileEntry]) -> list[str]:
        if counts.get("shards", 0) != self.shards:
            built = counts.get("shards", 0)
            return [f"conservation: {self.shards} shards were planned, but {built} built"]
        problems = []
        written: dict[tuple[str, str], int] = {}
        for entry in entries:
            if entry.role in SPLITS:
                key = (entry.format, entry.role)
                written[key] = written.get(key, 0) + entry.rows
        forms = {form for form, _ in written} or {"parquet"}
        for form, split in itertools.product(sorted(forms), SPLITS):
            found, made = written.get((form, split), 0), counts["splits"][split]
            if found != made:
                problems.append(
                    f"conservation: {made} rows of {split} were made, but {found} written as {form}"
                )
        made, examples = sum(counts["splits"].values()), counts["examples"]
        if made != examples:
            problems.append(f"conservation: {examples} examples were counted, but {made} rows made")
        return problems
