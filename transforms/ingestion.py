"""The steps of ingest: raw files to the sorted, deduplicated files of one store partition."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import polars as pl
from apache_beam.metrics import Metrics

from transforms import buckets, events, files, hashing, progress, pseudonyms, storage, store
from transforms.adapters.base import EVENT_COLUMNS, OFFSET, REJECT_REASON, Adapter, InputFile
from transforms.adapters.containers import limits
from transforms.counts import Counts
from transforms.errors import InputFileError
from transforms.events import ValidityRules
from transforms.findings import apart
from transforms.manifest import FileEntry
from transforms.tables import typed
from transforms.tombstones import Forgotten

QUARANTINE = "quarantine"
REPORTS = "reports"
FILE_ERRORS = "file-errors"
ITEM_DAYS = "item-days"

_ITEM_PARTS = 4
_QUARANTINE_PARTS = 4


@dataclasses.dataclass(frozen=True)
class AdaptConfig:
    """How rows of a format become events of a partition.

    Attributes:
      adapter: of the format; travels to the workers as it is.
      rules: validity.
      hash_seed: of the store.
      user_key: reference to the pseudonym key, or None to keep user ids as they are.
      forgotten: users whose events are left out, by when they were received.
    """

    adapter: Adapter
    rules: ValidityRules
    hash_seed: int = 0
    user_key: str | None = None
    forgotten: Forgotten = dataclasses.field(default_factory=Forgotten)


@dataclasses.dataclass(frozen=True)
class Adapted:
    """What became of one raw table.

    Attributes:
      kept: EVENT_COLUMNS and USER_HASH, in file order.
      rejected: OFFSET, REJECT_REASON.
      counts: `read`, `quarantined` and `excluded` by reason, `other_day`, `repaired` by kind, and
        `forgotten` if anybody is.
    """

    kept: pl.DataFrame
    rejected: pl.DataFrame
    counts: Counts


def adapt_table(
    rows: pl.DataFrame,
    unparsed: pl.DataFrame,
    config: AdaptConfig,
    key: bytes | None,
) -> Adapted:
    """Adapts, validates and repairs one raw table; every row ends up in exactly one count.

    Args:
      rows: the source's columns and OFFSET.
      unparsed: OFFSET, REJECT_REASON of records the container could not parse.
      config: adapter, rules and seeds.
      key: pseudonym key, or None.
    """
    adapter = config.adapter
    table = adapter.to_events(rows)
    table = table.filter(~events.of_other_day(config.rules))
    other_day = rows.height - table.height
    if key is not None:
        table = pseudonyms.pseudonymize(table, key)
    if not adapter.has_event_id:
        table = events.derive_event_ids(table)
    table, repaired = events.repair(table)
    table = events.mark_invalid(table, config.rules)
    valid = pl.col(REJECT_REASON).is_null()
    kept = table.filter(valid)
    rejected = pl.concat(
        [unparsed, table.filter(~valid).select(OFFSET, REJECT_REASON)], how="vertical"
    )
    kept, clamped = events.clamp_clock(kept)
    if clamped:
        repaired["clock_ahead"] = clamped
    reasons = dict(rejected.group_by(REJECT_REASON).len().iter_rows())
    excluded = {name: reasons.pop(name) for name in adapter.excluded_reasons if name in reasons}
    read = rows.height + unparsed.height
    counts = {
        "read": read,
        "quarantined": reasons,
        "excluded": excluded,
        "other_day": other_day,
        "repaired": repaired,
    }
    kept = kept.select(*EVENT_COLUMNS, buckets.user_hash(pl.col("user_id"), config.hash_seed))
    if config.forgotten:
        gone = config.forgotten.flags(kept)
        kept = kept.filter(~gone)
        counts["forgotten"] = int(gone.sum())
    return Adapted(kept, rejected, counts)


def _checksum(path: str) -> str:
    try:
        return storage.checksum(path)
    except FileNotFoundError:
        raise InputFileError(path, "is gone since this run began") from None


class _ReadEventsFn(beam.DoFn):
    def __init__(self, config: AdaptConfig) -> None:
        self._config = config
        self._key: bytes | None = None
        self._rows_read = Metrics.counter("ingest", "read-rows")
        self._rows_rejected = Metrics.counter("ingest", "quarantined-rows")
        self._read_msec = Metrics.counter("ingest", "read-msec")

    def setup(self) -> None:
        if self._config.user_key is not None:
            self._key = pseudonyms.read_key(self._config.user_key)

    def process(self, element: tuple[str, int, str]) -> Iterator[Any]:
        path, size, checksum = element
        file = InputFile(path, functools.partial(storage.open_read, path))
        position, started = 0, time.monotonic()
        read = invalid = 0
        try:
            if _checksum(path) != checksum:
                raise InputFileError(path, "was changed since this run began; run it again")
            for raw in self._config.adapter.read(file):
                adapted = adapt_table(raw.rows, raw.rejects, self._config, self._key)
                rows = adapted.counts["read"]
                read, invalid = read + rows, invalid + sum(adapted.counts["quarantined"].values())
                if invalid > limits.MAX_REJECTS and 2 * invalid > read:
                    raise InputFileError(
                        path,
                        f"{invalid:,} of its first {read:,} rows are not an event; is it of the "
                        "stated --format?",
                    )
                self._rows_read.inc(rows)
                yield beam.pvalue.TaggedOutput(REPORTS, json.dumps(adapted.counts))
                if adapted.rejected.height:
                    self._rows_rejected.inc(adapted.rejected.height)
                    yield beam.pvalue.TaggedOutput(QUARANTINE, (path, adapted.rejected))
                if adapted.kept.height:
                    yield path, position, adapted.kept
                position += 1
                progress.advance("read", rows)
        except InputFileError as error:
            yield beam.pvalue.TaggedOutput(FILE_ERRORS, str(error))
        except OSError as error:
            if not storage.is_local(path):
                raise  # object stores fail for a moment; the runner tries again
            yield beam.pvalue.TaggedOutput(FILE_ERRORS, f"{path}: {error.strerror or error}")
        self._read_msec.inc(int((time.monotonic() - started) * 1000))
        progress.advance("read", 0, size)
        yield beam.pvalue.TaggedOutput(REPORTS, json.dumps({"files": 1}))


@dataclasses.dataclass
class ReadEvents(beam.PTransform):
    """PCollection of (path, bytes, checksum) -> a dict of PCollections.

    `tables`: (path, position, table of EVENT_COLUMNS and USER_HASH); `rejected`: (path, table of
    OFFSET and REJECT_REASON); `counts`: JSON; `file_errors`: text, one for each file that could not
    be read to its end. Reading and columnarizing is one step: no event is ever an element.
    """

    config: AdaptConfig

    def expand(self, paths: beam.PCollection[tuple[str, int, str]]) -> dict[str, beam.PCollection]:
        outputs = (
            paths
            # Files are spread anew over workers: the step before made all of them in one place.
            | "SpreadFiles" >> beam.Reshuffle()
            | "AdaptFile"
            >> beam.ParDo(_ReadEventsFn(self.config)).with_outputs(
                QUARANTINE, REPORTS, FILE_ERRORS, main="tables"
            )
        )
        return {
            "tables": typed(outputs["tables"], tuple[str, int, pl.DataFrame]),
            "rejected": typed(outputs[QUARANTINE], tuple[str, pl.DataFrame]),
            "counts": typed(outputs[REPORTS], str),
            "file_errors": typed(outputs[FILE_ERRORS], str),
        }


@dataclasses.dataclass(frozen=True)
class BucketConfig:
    """How a bucket's rows become stored events.

    Attributes:
      max_user_events_per_day: see `events.above_cap`.
      near_duplicate_ms: see `events.mark_near_duplicates`.
    """

    max_user_events_per_day: int
    near_duplicate_ms: int


@dataclasses.dataclass(frozen=True)
class Bucketed:
    """What became of a bucket's rows.

    Attributes:
      kept: STORE_SCHEMA, in store order.
      set_aside: STORE_SCHEMA, rows of users above the cap, in store order.
      counts: `duplicate`, `conflicting_duplicate`, `set_aside`, `near_duplicate`, `kept`, and kept
        rows `by_source` and type, and `by_event_day`.
    """

    kept: pl.DataFrame
    set_aside: pl.DataFrame
    counts: Counts


@dataclasses.dataclass(frozen=True)
class IngestPlan:
    """What an ingest reads and how, decided before the pipeline exists.

    Attributes:
      paths: (path, bytes, checksum) of every input file.
      adapt, bucket: rules of the two stages.
      bucket_count: of the store.
      max_quarantine: see `IngestGate`.
    """

    paths: tuple[tuple[str, int, str], ...]
    adapt: AdaptConfig
    bucket: BucketConfig
    bucket_count: int
    max_quarantine: float


def store_bucket(table: pl.DataFrame, config: BucketConfig) -> Bucketed:
    """Deduplicates, flags, caps and sorts all rows of one bucket.

    Args:
      table: EVENT_COLUMNS and USER_HASH; any order.
      config: cap and windows.

    Raises:
      ValueError: if two users share a user hash; the store then needs another hash seed.
    """
    # A bucket arrives in as many chunks as there were tables; everything below is quicker on one.
    table, dropped, conflicting = events.drop_duplicates(table.rechunk())
    capped = events.above_cap(table, config.max_user_events_per_day)
    marked = events.mark_near_duplicates(table, config.near_duplicate_ms)
    kept = events.sort_events(marked.filter(~capped))
    if events.users_collide(kept):
        raise ValueError("two users share a user hash; start a store with another hash seed")
    set_aside = events.sort_events(marked.filter(capped))
    counts = {
        "duplicate": dropped,
        "conflicting_duplicate": conflicting,
        **count_stored(kept, set_aside),
    }
    return Bucketed(kept, set_aside, counts)


def count_stored(kept: pl.DataFrame, set_aside: pl.DataFrame) -> Counts:
    """What a bucket's files add to the counts of their partition."""
    by_source: Counts = {}
    for source, kind, n in kept.group_by("source", "event_type").len().iter_rows():
        by_source.setdefault(source, {})[kind] = n
    days = kept.group_by(pl.col("event_time").dt.date()).len().iter_rows()
    return {
        "set_aside": {"user_event_cap": set_aside.height} if set_aside.height else {},
        "near_duplicate": int(kept[events.NEAR_DUPLICATE].sum()),
        "kept": kept.height,
        "by_source": by_source,
        "by_event_day": {day.isoformat(): n for day, n in days},
    }


def write_bucket(stored: Bucketed, bucket: int, attempt_root: str) -> list[FileEntry]:
    """Writes the files of a bucket; one without rows has none."""
    return [
        files.write_table(
            rows, attempt_root, f"{role}/bucket-{bucket:05d}.parquet", role, (bucket, bucket)
        )
        for role, rows in (("events", stored.kept), ("set_aside", stored.set_aside))
        if rows.height
    ]


class _WriteBucketFn(beam.DoFn):
    def __init__(self, config: BucketConfig, attempt_root: str) -> None:
        self._config = config
        self._attempt_root = attempt_root
        self._rows_kept = Metrics.counter("ingest", "kept-rows")
        self._store_msec = Metrics.counter("ingest", "store-msec")

    def process(self, element: tuple[int, pl.DataFrame]) -> Iterator[Any]:
        bucket, table = element
        started = time.monotonic()
        result = store_bucket(table, self._config)
        for entry in write_bucket(result, bucket, self._attempt_root):
            yield entry.model_dump_json()
        yield beam.pvalue.TaggedOutput(REPORTS, json.dumps(result.counts))
        items = store.item_day_counts(result.kept)
        parts = items.with_columns(
            store.item_part(pl.col("track_id"), _ITEM_PARTS).alias("part")
        ).partition_by("part", as_dict=True, include_key=False)
        for (part,), rows in parts.items():
            yield beam.pvalue.TaggedOutput(ITEM_DAYS, (part, rows))
        self._rows_kept.inc(result.kept.height)
        self._store_msec.inc(int((time.monotonic() - started) * 1000))
        progress.advance("store", table.height, 1)


@dataclasses.dataclass
class WriteBuckets(beam.PTransform):
    """PCollection of (bucket, table) -> dict of `files` and `counts` (JSON) and `item_days`."""

    config: BucketConfig
    attempt_root: str

    def expand(
        self, bucketed: beam.PCollection[tuple[int, pl.DataFrame]]
    ) -> dict[str, beam.PCollection]:
        outputs = bucketed | "WriteBucket" >> beam.ParDo(
            _WriteBucketFn(self.config, self.attempt_root)
        ).with_outputs(REPORTS, ITEM_DAYS, main="files")
        return {
            "files": typed(outputs["files"], str),
            "counts": typed(outputs[REPORTS], str),
            "item_days": typed(outputs[ITEM_DAYS], tuple[int, pl.DataFrame]),
        }


def _write_item_part(part: int, tables: Iterable[pl.DataFrame], attempt_root: str) -> str:
    rows = store.sum_item_days(list(tables))
    entry = files.write_table(rows, attempt_root, f"item_day/part-{part:05d}.parquet", "item_day")
    return entry.model_dump_json()


@dataclasses.dataclass
class WriteItemDays(beam.PTransform):
    """PCollection of (part, ITEM_DAY_SCHEMA table) -> FileEntry JSON, one file a part."""

    attempt_root: str

    def expand(
        self, item_days: beam.PCollection[tuple[int, pl.DataFrame]]
    ) -> beam.PCollection[str]:
        return (
            item_days
            | "GroupByItemPart" >> beam.GroupByKey()
            | "SumItemDays"
            >> beam.MapTuple(
                functools.partial(_write_item_part, attempt_root=self.attempt_root)
            ).with_output_types(str)
        )


def _quarantine_part(path: str, rejected: pl.DataFrame) -> tuple[int, pl.DataFrame]:
    rows = rejected.select(
        pl.col(REJECT_REASON).alias("reason"),
        pl.lit(path).alias("file"),
        pl.col(OFFSET).alias("offset"),
    )
    return hashing.hash_text(path, "quarantine") % _QUARANTINE_PARTS, rows


def _write_quarantine_part(part: int, tables: Iterable[pl.DataFrame], attempt_root: str) -> str:
    rows = pl.concat(list(tables)).sort("file", "offset", "reason")
    entry: FileEntry = files.write_table(
        rows, attempt_root, f"quarantine/part-{part:05d}.parquet", "quarantine"
    )
    return entry.model_dump_json()


@dataclasses.dataclass
class WriteQuarantine(beam.PTransform):
    """PCollection of (path, rejected rows) -> FileEntry JSON; QUARANTINE_SCHEMA, sorted."""

    attempt_root: str

    def expand(self, rejected: beam.PCollection[tuple[str, pl.DataFrame]]) -> beam.PCollection[str]:
        return (
            rejected
            | "KeyByFile"
            >> beam.MapTuple(_quarantine_part).with_output_types(tuple[int, pl.DataFrame])
            | "GroupByFile" >> beam.GroupByKey()
            | "WriteQuarantinePart"
            >> beam.MapTuple(
                functools.partial(_write_quarantine_part, attempt_root=self.attempt_root)
            ).with_output_types(str)
        )


@dataclasses.dataclass(frozen=True)
class IngestGate:
    """Reasons not to publish a partition.

    Attributes:
      day: of the partition.
      files: how many were given; an engine that loses what was made of one must not go unnoticed.
      max_quarantine: largest allowed share of rows of this day that are invalid, 0 to 1.
      quarantine_root: where the rejected rows can be looked up, for the message.
    """

    day: datetime.date
    files: int
    max_quarantine: float
    quarantine_root: str

    def __call__(self, counts: Counts, entries: list[FileEntry]) -> list[str]:
        problems = []
        stored = sum(entry.rows for entry in entries if entry.role == "events")
        quarantined = sum(counts.get("quarantined", {}).values())
        excluded = sum(counts.get("excluded", {}).values())
        accounted = (
            counts.get("kept", 0)
            + counts.get("duplicate", 0)
            + sum(counts.get("set_aside", {}).values())
            + counts.get("other_day", 0)
            + counts.get("forgotten", 0)
            + quarantined
            + excluded
        )
        read = counts.get("read", 0)
        if counts.get("files", 0) != self.files:
            problems.append(
                f"conservation: {self.files} files were given, but {counts.get('files', 0)} read"
            )
        if accounted != read:
            problems.append(f"conservation: read {read} rows, but accounted for {accounted}")
        if stored != counts.get("kept", 0):
            problems.append(f"conservation: kept {counts['kept']} rows, but stored {stored}")
        of_this_day = read - counts.get("other_day", 0) - excluded
        if accounted - quarantined == counts.get("other_day", 0) > 0:
            problem = (
                f"no valid row was received on {self.day}, but {counts['other_day']:,} on other "
                "days; is --date right? (--all-days takes rows of any day)"
            )
            return [problem]
        share = quarantined / of_this_day if of_this_day else 0.0
        if share > self.max_quarantine:
            worst = sorted(counts["quarantined"].items(), key=lambda item: (-item[1], item[0]))
            reasons = ", ".join(f"{reason} {n:,}" for reason, n in worst[:5])
            got, most = apart(share, self.max_quarantine)
            problems.append(
                f"{quarantined:,} of {of_this_day:,} rows ({got}) are invalid, more than "
                f"--max-quarantine {most}: {reasons}; the rows are listed in "
                f"{self.quarantine_root}"
            )
        return problems
