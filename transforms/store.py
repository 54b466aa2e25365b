"""The event store: user-bucketed, sorted, deduplicated partitions, one a day of arrival.

    <store>/store.json                                   bucket count and hash seed, written once
    <store>/events/dt=2026-01-05/                        a published version (transforms.manifest)
        <version>/<attempt>/events/bucket-00012.parquet  STORE_SCHEMA, sorted by `sort_events`
        <version>/<attempt>/item_day/part-00000.parquet  ITEM_DAY_SCHEMA
        <version>/<attempt>/quarantine/part-00000.parquet  QUARANTINE_SCHEMA
        <version>/<attempt>/set_aside/bucket-00012.parquet users above the event cap

A bucket without events has no file.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import io
import json
from typing import Literal

import polars as pl
import pydantic

from transforms import hashing, labels, manifest, storage
from transforms.adapters.base import OFFSET, InputFile
from transforms.adapters.containers import read_parquet
from transforms.buckets import MAX_BUCKETS, check_bucket_count
from transforms.config import StrictModel
from transforms.counts import Counts
from transforms.errors import DataRefusedError, InputFileError, PlayheadError, UsageError
from transforms.events import NEAR_DUPLICATE, STORE_SCHEMA
from transforms.manifest import FileEntry, Manifest, Published
from transforms.timeline import DAY_US

DEFAULT_BUCKETS = 32
STORE_FILE = "store.json"

# Counts of a track by the day it was played and the day the server knew. Near duplicates do not
# count. A snapshot "as known at midnight before day D" is the sum over known_day < D. An event
# counts once in each partition that it arrived in (docs/datasets.md, "Two clocks").
ITEM_DAY_SCHEMA: dict[str, pl.DataType] = {
    "track_id": pl.String(),
    "event_day": pl.Date(),
    "known_day": pl.Date(),
    "plays": pl.Int64(),
    "streams": pl.Int64(),  # plays of at least 30 s
    "timed_plays": pl.Int64(),  # plays whose played time is known
    "impressions": pl.Int64(),
    "likes": pl.Int64(),
}
ITEM_DAY_KEY = ["track_id", "event_day", "known_day"]

# Where a rejected row lies; its content is never copied, so no personal data is in here.
QUARANTINE_SCHEMA: dict[str, pl.DataType] = {
    "reason": pl.String(),
    "file": pl.String(),
    "offset": pl.Int64(),
}


class StoreConfig(StrictModel):
    """What all partitions of a store share. Written by the first ingest, never changed.

    Attributes:
      bucket_count: user buckets, a power of two.
      hash_seed: key of the user hash.
      user_key_id: id of the pseudonym key, or null if user ids are stored as they came.
    """

    format_version: Literal[1] = 1
    bucket_count: int = pydantic.Field(ge=1, le=MAX_BUCKETS)
    hash_seed: int = 0
    user_key_id: str | None = None

    @pydantic.field_validator("bucket_count")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        return check_bucket_count(value)


def load_config(store: str) -> StoreConfig | None:
    """The store's configuration, or None if there is no store at this path yet."""
    path = storage.join(store, STORE_FILE)
    if not storage.exists(path):
        return None
    try:
        return StoreConfig.model_validate_json(storage.read_bytes(path))
    except pydantic.ValidationError as error:
        raise DataRefusedError(f"{path}: not a valid store: {error.errors()[0]['msg']}") from None


def require_config(store: str) -> StoreConfig:
    """`load_config`, or a one-line error if `store` is not a store."""
    config = load_config(store)
    if config is None:
        raise UsageError(
            f"--store: {store} is not an event store (no {STORE_FILE}); run `playhead ingest` first"
        )
    return config


def config_file(store: str, config: StoreConfig) -> tuple[str, str]:
    """Path and text of the file that makes a folder a store; written with the first partition."""
    text = json.dumps(config.model_dump(), indent=1, sort_keys=True) + "\n"
    return storage.join(store, STORE_FILE), text


def plan_config(store: str, buckets: int | None, user_key_id: str | None) -> StoreConfig:
    """The store's configuration, or that of a store to be; refuses options that contradict it."""
    config = load_config(store)
    if config is None:
        return StoreConfig(bucket_count=buckets or DEFAULT_BUCKETS, user_key_id=user_key_id)
    if buckets is not None and buckets != config.bucket_count:
        raise UsageError(
            f"--buckets: the store at {store} has {config.bucket_count}, got {buckets}; "
            "leave the option out, or start a new store"
        )
    if user_key_id != config.user_key_id:
        raise UsageError(
            f"--user-key: the store at {store} was made with key {config.user_key_id or '(none)'}, "
            f"got {user_key_id or '(none)'}; one store has one key"
        )
    return config


def check_place(store: str) -> None:
    """Refuses a folder that holds something else, before any work."""
    for name in (manifest.POINTER_NAME, manifest.MANIFEST_NAME):
        if storage.exists(storage.join(store, name)):
            raise UsageError(
                f"--store: {store} holds published versions ({name}); expected an event store, or "
                "a folder of its own"
            )


def partition_root(store: str, day: datetime.date) -> str:
    """Folder of a day's partition."""
    return storage.join(store, "events", f"dt={day.isoformat()}")


def partition_days(store: str) -> list[datetime.date]:
    """Days that have a published partition, in order."""
    days = []
    for name in storage.list_folder(storage.join(store, "events")):
        if not name.startswith("dt="):
            continue
        try:
            day = datetime.date.fromisoformat(name.removeprefix("dt="))
        except ValueError:
            continue
        if storage.exists(storage.join(partition_root(store, day), manifest.POINTER_NAME)):
            days.append(day)
    return sorted(days)


@dataclasses.dataclass(frozen=True)
class Partition:
    """A published partition of the store.

    Attributes:
      root: its folder.
      day: UTC day of arrival, or of the import.
      manifest: of its current version.
    """

    root: str
    day: datetime.date
    manifest: Manifest

    @functools.cached_property
    def digest(self) -> str:
        """Of the manifest: that of a partition of many files takes a while."""
        return self.manifest.digest()

    @property
    def is_daily(self) -> bool:
        """It holds what arrived on its day; otherwise it is an import of many days."""
        return bool(self.manifest.config["one_day_only"])

    @property
    def event_days(self) -> tuple[datetime.date, datetime.date] | None:
        """First and last UTC day of event_time in it; None if it has no events."""
        days = list(self.manifest.counts.get("by_event_day", {}))
        if not days:
            return None
        return datetime.date.fromisoformat(min(days)), datetime.date.fromisoformat(max(days))

    @property
    def sources(self) -> set[str]:
        """Sources of its events."""
        return set(self.manifest.counts.get("by_source", {}))

    def count_of(self, source: str, event_type: str) -> int:
        """Events of a source and type in it."""
        return int(self.manifest.counts["by_source"][source].get(event_type, 0))

    def files(self, role: str) -> list[tuple[str, FileEntry]]:
        """(full path, entry) of its files of a role."""
        entries = self.manifest.files_of(role)
        return [(manifest.file_path(self.root, self.manifest, entry), entry) for entry in entries]


def partitions(store: str) -> list[Partition]:
    """Every published partition, by day."""
    found = []
    for day in partition_days(store):
        root = partition_root(store, day)
        current = manifest.load_current(root)
        if current is not None:
            found.append(Partition(root, day, current))
    return found


@dataclasses.dataclass(frozen=True)
class PartitionRef:
    """A published partition as a plan carries it to the workers: of one size however many buckets
    it has. The manifest's digest pins every file that it lists.

    Attributes:
      root, version, digest: of the partition.
      lateness_days: how late an event of it may have arrived to count; None: however late.
    """

    root: str
    version: str
    digest: str
    lateness_days: int | None

    def open(self) -> Manifest:
        """The manifest that was planned with.

        Raises:
          DataRefusedError: if it is gone or another one.
        """
        found = manifest.load(self.root, self.version)
        if found is None or found.digest() != self.digest:
            raise DataRefusedError(
                f"{self.root}/{self.version}/{manifest.MANIFEST_NAME}: is not the one that this "
                "build was planned with; build again"
            )
        return found

    def event_files(self) -> dict[int, BucketFile]:
        """The file of each bucket that has events."""
        found = self.open()
        return {
            entry.first_bucket or 0: BucketFile(
                manifest.file_path(self.root, found, entry),
                entry.bytes,
                entry.sha256,
                self.lateness_days,
            )
            for entry in found.files_of("events")
        }

    def item_days(self) -> list[pl.DataFrame]:
        """ITEM_DAY_SCHEMA tables of it."""
        found = self.open()
        return [
            read_table(manifest.file_path(self.root, found, entry), entry)
            for entry in found.files_of("item_day")
        ]


@dataclasses.dataclass(frozen=True, slots=True)
class BucketFile:
    """A published file of events: where it is, what the manifest says of its bytes, and how late an
    event of it may have arrived to count (None: however late, for imports).

    A worker holds one for every bucket and partition, so it is small.
    """

    path: str
    bytes: int
    sha256: str
    lateness_days: int | None


def read_table(path: str, entry: Published, columns: list[str] | None = None) -> pl.DataFrame:
    """Some columns of a published Parquet file, after checking its bytes."""
    return pl.read_parquet(io.BytesIO(manifest.read_verified(path, entry)), columns=columns)


def schema_of(columns: list[str]) -> dict[str, pl.DataType]:
    """Types of some store columns."""
    return {name: STORE_SCHEMA[name] for name in columns}


def read_outside_table(path: str, columns: list[str]) -> pl.DataFrame:
    """Those of the columns that a Parquet file of somebody else has, checked as raw logs are.

    Raises:
      InputFileError: see `containers.read_parquet`; text that is not UTF-8.
    """
    file = InputFile(path, functools.partial(storage.open_read, path))
    parts = list(read_parquet(file, columns))
    if any(part.rejects.height for part in parts):
        raise InputFileError(path, "has text that is not UTF-8")
    if parts:
        return pl.concat([part.rows.drop(OFFSET) for part in parts])
    return pl.read_parquet(path, columns=columns)  # no rows: the schema alone


def read_catalog(path: str) -> pl.DataFrame:
    """`track_id` and `release_time` of a Parquet file of CatalogTrack.

    Raises:
      UsageError: if it is no such file.
    """
    wanted = {"track_id": pl.String(), "release_time": pl.Datetime("us", "UTC")}
    try:
        table = read_outside_table(path, list(wanted)).select(list(wanted))
    except (OSError, PlayheadError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"--catalog: {path}: expected a Parquet file with {', '.join(wanted)} "
            f"(schemas/catalog.py), got: {reason}"
        ) from None
    for name, kind in wanted.items():
        if table[name].dtype != kind or table[name].null_count():
            raise UsageError(
                f"--catalog: {path}: {name}: expected {kind} without nulls, got "
                f"{table[name].dtype} with {table[name].null_count()}"
            )
    return table


def read_events(
    file: BucketFile, columns: list[str], first_us: int, end_us: int, as_of_us: int | None
) -> tuple[pl.DataFrame, Counts]:
    """Some columns of a bucket's events with event_time in [first, end).

    Args:
      file: of the bucket. Events received on a later day than its `lateness_days` after the day
        they happened on are left out, so that what a day's build sees does not depend on how long
        after the day it runs.
      columns: to read; event_time and received_time are among them.
      first_us, end_us: UTC microseconds.
      as_of_us: events received after this instant are not known yet; None if all are.

    Returns:
      The table in store order, and how many events were left out: `late` ones, else those
      `after_as_of`.

    Raises:
      DataRefusedError: if the file is not the one that was published.
    """
    table = read_table(file.path, file, columns)
    event, received = (pl.col(name).to_physical() for name in ("event_time", "received_time"))
    inside = (event >= first_us) & (event < end_us)
    late = after = pl.lit(value=False)
    if file.lateness_days is not None:
        late = received // DAY_US - event // DAY_US > file.lateness_days
    if as_of_us is not None:
        after = received > as_of_us
    flags = table.select(
        wanted=inside & ~late & ~after, late=inside & late, after=inside & after & ~late
    )
    wanted = flags["wanted"]
    kept = table if wanted.all() else table.filter(wanted)
    left_out = {"late": int(flags["late"].sum()), "after_as_of": int(flags["after"].sum())}
    return kept.select(columns), left_out


def item_day_counts(table: pl.DataFrame) -> pl.DataFrame:
    """ITEM_DAY_SCHEMA rows of a table of stored events, in no particular order."""
    kind = pl.col("event_type")
    counted = ~pl.col(NEAR_DUPLICATE) & kind.is_in(["play", "impression", "like"])
    play = kind == "play"
    return (
        table.lazy()
        .filter(counted & pl.col("track_id").is_not_null())
        .group_by(
            "track_id",
            pl.col("event_time").dt.date().alias("event_day"),
            pl.col("received_time").dt.date().alias("known_day"),
        )
        .agg(
            play.sum().cast(pl.Int64).alias("plays"),
            (play & (pl.col("played_ms") >= labels.STREAM_MS))
            .sum()
            .cast(pl.Int64)
            .alias("streams"),
            (play & pl.col("played_ms").is_not_null()).sum().cast(pl.Int64).alias("timed_plays"),
            (kind == "impression").sum().cast(pl.Int64).alias("impressions"),
            (kind == "like").sum().cast(pl.Int64).alias("likes"),
        )
        .select(list(ITEM_DAY_SCHEMA))
        .collect()
    )


def sum_item_days(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """One ITEM_DAY_SCHEMA row a key, sorted by key."""
    return pl.concat(parts).group_by(ITEM_DAY_KEY).sum().sort(ITEM_DAY_KEY)


def item_part(track_id: pl.Expr, parts: int) -> pl.Expr:
    """Which of `parts` files counts of a track go to."""
    return (hashing.hash64(track_id, "item-part") % parts).cast(pl.Int64)
