"""The steps of a build: store partitions to the shards of a dataset version, without a shuffle.

The unit of work is a shard: a contiguous range of user buckets, read, computed and written by one
worker. Only the item snapshots are shared: one small table, made first, read by all.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import polars as pl
from apache_beam.metrics import Metrics

from transforms import counts as row_counts
from transforms import files, progress, storage, store
from transforms.counts import Counts
from transforms.datasets import ranking
from transforms.features import item
from transforms.manifest import FileEntry
from transforms.specs import RankingSpec
from transforms.store import BucketFile
from transforms.tables import typed

COUNTS = "counts"
SPLIT = "train"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to be: `index` of `total`, and its inclusive range of buckets."""

    index: int
    total: int
    first_bucket: int
    last_bucket: int

    @property
    def path(self) -> str:
        return f"{SPLIT}/part-{self.index:05d}-of-{self.total:05d}.parquet"


def plan_shards(bucket_count: int, wanted: int) -> list[Shard]:
    """Splits buckets into equal contiguous ranges; both counts are powers of two."""
    total = min(wanted, bucket_count)
    width = bucket_count // total
    return [Shard(i, total, i * width, (i + 1) * width - 1) for i in range(total)]


@dataclasses.dataclass(frozen=True)
class BuildPlan:
    """What a build reads and makes, decided before the pipeline exists.

    Attributes:
      spec: of the dataset.
      within: range and watermark.
      read_first_us, read_end_us: range of event_time that is read.
      event_files: for each bucket the files of all partitions, in partition order.
      item_day_files: (path, entry) of the item counts of the partitions.
      attempt_root: where to write.
      snapshot_path: where the item snapshots go.
      threads: buckets that one worker computes at a time; each takes its memory.
    """

    spec: RankingSpec
    within: ranking.BuildRange
    read_first_us: int
    read_end_us: int
    event_files: dict[int, list[BucketFile]]
    item_day_files: list[tuple[str, FileEntry]]
    attempt_root: str
    snapshot_path: str
    threads: int


def write_snapshots(plan: BuildPlan) -> str:
    """Computes the item snapshots of the range's days and writes them as one Arrow file."""
    tables = [store.read_table(path, entry) for path, entry in plan.item_day_files]
    counts = pl.concat(tables) if tables else pl.DataFrame(schema=store.ITEM_DAY_SCHEMA)
    first, last = _day_of(plan.within.first_us), _day_of(plan.within.end_us - 1)
    snapshots = item.snapshots(counts, first, last)
    with storage.create_writer(plan.snapshot_path) as stream:
        snapshots.write_ipc(stream, compression="uncompressed")
    return plan.snapshot_path


def _day_of(instant_us: int) -> Any:
    days = pl.select(pl.from_epoch(pl.lit(instant_us), time_unit="us").dt.date())
    return days.item()


@functools.lru_cache(maxsize=1)
def _load_snapshots(path: str) -> pl.DataFrame:
    """The snapshots, once a worker process; a local file is mapped into memory, not read."""
    if storage.is_local(path):
        return pl.read_ipc(path)
    with storage.open_read(path) as stream:
        return pl.read_ipc(stream)


def build_bucket(
    bucket: int, plan: BuildPlan, snapshots: pl.DataFrame
) -> tuple[pl.DataFrame, Counts]:
    """All rows of a bucket, by user and time, and its counts."""
    parts, late = [], 0
    for file in plan.event_files.get(bucket, []):
        part, left_out = store.read_events(
            file, ranking.READ_COLUMNS, plan.read_first_us, plan.read_end_us
        )
        late += left_out
        if part.height:
            parts.append(part)
    table, prepared = ranking.prepare_events(parts)
    built = ranking.build_rows(table, plan.spec, plan.within, snapshots)
    progress.advance("build", table.height, 1)
    return built.rows, row_counts.total([{"late": late}, prepared, built.counts])


def build_shard(
    shard: Shard, plan: BuildPlan, snapshots: pl.DataFrame
) -> tuple[pl.DataFrame, Counts]:
    """All rows of a shard in their order, and the summed counts of its buckets.

    Buckets are computed `plan.threads` at a time: Polars and NumPy let go of the interpreter lock
    in what takes long. The result does not depend on how many.
    """
    buckets = range(shard.first_bucket, shard.last_bucket + 1)
    with concurrent.futures.ThreadPoolExecutor(plan.threads) as pool:
        built = list(pool.map(lambda bucket: build_bucket(bucket, plan, snapshots), buckets))
    rows = pl.concat([table for table, _ in built]).rechunk()
    counts = row_counts.total([ranking.no_counts(), *(counts for _, counts in built)])
    return ranking.order_rows(rows, plan.spec), counts


class _BuildShardFn(beam.DoFn):
    def __init__(self, plan: BuildPlan) -> None:
        self._plan = plan
        self._rows = Metrics.counter("build", "rows")
        self._msec = Metrics.counter("build", "shard-msec")

    def process(self, shard: Shard, snapshot_path: str) -> Iterator[Any]:
        started = time.monotonic()
        rows, counts = build_shard(shard, self._plan, _load_snapshots(snapshot_path))
        entry = files.write_table(
            rows,
            self._plan.attempt_root,
            shard.path,
            SPLIT,
            (shard.first_bucket, shard.last_bucket),
        )
        self._rows.inc(rows.height)
        self._msec.inc(int((time.monotonic() - started) * 1000))
        yield entry.model_dump_json()
        yield beam.pvalue.TaggedOutput(COUNTS, json.dumps(counts))


@dataclasses.dataclass
class BuildShards(beam.PTransform):
    """PCollection of Shard -> dict of `files` (FileEntry) and `counts`, both JSON text."""

    plan: BuildPlan

    def expand(self, shards: beam.PCollection[Shard]) -> dict[str, beam.PCollection[str]]:
        snapshot_path = (
            shards.pipeline
            | "StartSnapshots" >> beam.Create([self.plan])
            | "WriteItemSnapshots" >> beam.Map(write_snapshots).with_output_types(str)
        )
        outputs = (
            shards
            | "SpreadShards" >> beam.Reshuffle()
            | "BuildShard"
            >> beam.ParDo(
                _BuildShardFn(self.plan), beam.pvalue.AsSingleton(snapshot_path)
            ).with_outputs(COUNTS, main="files")
        )
        return {"files": typed(outputs["files"], str), "counts": typed(outputs[COUNTS], str)}


@dataclasses.dataclass(frozen=True)
class BuildGate:
    """Refuses a version whose files do not hold the examples that were counted."""

    def __call__(self, counts: Counts, entries: Iterable[FileEntry]) -> list[str]:
        written = sum(entry.rows for entry in entries)
        examples = counts.get("examples", 0)
        if written != examples:
            return [f"conservation: {examples} examples were made, but {written} rows written"]
        return []
