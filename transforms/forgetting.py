"""Forgetting users: which files hold them, and the steps that rewrite those files and no others.

Of a store, each partition that holds somebody; of a dataset, each version that was built from such
a partition. A bucket's files and a shard are read and written by one worker; what has none of the
users is not copied: the new version's manifest refers to it where it lies. So the work is that of
the buckets, whatever the size of the store. A version goes through

    1  its files are rewritten into an attempt of the version that takes its place
    2  that version's manifest is created: the commit
    3  `CURRENT.json` names it, if it named the old one
    4  `withdrawn.json` is created beside the old manifest: who reads the old version by its name
       gets one line that names the new one
    5  the old version's files that the new one does not refer to are deleted

A reader sees the old version or the new one, whole, at any moment. A run that is cut off is taken
up by the next: the name of the new version depends on the old one and on who is forgotten, so what
is done is found; 3 to 5 do nothing where they were done.

A bucket of a partition is what ingest makes of its events without the forgotten ones, byte for byte
(an event that was received again, once before the instant and once after it on one day, is gone
until that day is ingested again). Shards keep the bytes of their other rows, in their order. A row
of packed sequences that has a segment of the user goes as a whole.

What stays: counts over all users (`item_day`, counts, tallies, statistics, the report, vocabulary),
and values of other users' events. The most frequent ids that statistics list are left out. An
attempt that a gate refused, and that holds somebody, is deleted.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
from collections.abc import Callable, Iterable, Iterator

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.metrics import Metrics

from transforms import (
    buckets,
    card,
    files,
    ingestion,
    manifest,
    shards,
    statistics,
    storage,
    store,
    tfrecord,
    tombstones,
)
from transforms import counts as row_counts
from transforms.adapters.base import EVENT_COLUMNS
from transforms.buckets import USER_HASH
from transforms.building import BuildGate
from transforms.counts import Counts
from transforms.errors import DataRefusedError, UsageError
from transforms.ingestion import BucketConfig, IngestGate
from transforms.manifest import FileEntry, InputVersionEntry, Manifest, RunInfo, Withdrawn
from transforms.publish import utc_now
from transforms.splits import SPLITS
from transforms.store import StoreConfig
from transforms.timeline import DAY_US
from transforms.tombstones import Forgotten
from transforms.version import __version__

METRICS = "forget"
COUNTERS = ("versions", "rows", "refused-attempts")  # of it
UsersOf = Callable[[Manifest], Forgotten]
STORED_ROLES = ("events", "set_aside")
# Side files that are made anew; of those that only repeat them, some are left out.
_LEFT_OUT = ("croissant",)
_USER_COLUMNS = ("user_id", "user_ids")


@dataclasses.dataclass(frozen=True)
class Rewriting:
    """A version, and what takes its place. All text, for it keys the shuffle.

    Attributes:
      root, version: the version's.
      refused_attempt: the attempt, of a version that a gate refused; else empty.
      successor: version that takes its place.
      attempt: that writes it.
      runner: for its manifest.
    """

    root: str
    version: str
    refused_attempt: str
    successor: str
    attempt: str
    runner: str

    @property
    def attempt_root(self) -> str:
        return manifest.attempt_root(self.root, self.successor, self.attempt)

    def load(self) -> Manifest:
        """The manifest of the old version."""
        found = (
            manifest.load_refused(self.root, self.version, self.refused_attempt)
            if self.refused_attempt
            else manifest.load(self.root, self.version, withdrawn_too=True)
        )
        assert found is not None
        return found


@dataclasses.dataclass(frozen=True)
class Piece:
    """Files of a version that are read and rewritten together: of a bucket, or one of a shard.

    Attributes:
      of: the version.
      files: full path and entry of each.
      users: who is to go, of its buckets; of a dataset all their rows.
      seed, bucket_count: of the store.
      rules: how the store's bucket was made; None for a shard.
      columns: of the rows.
    """

    of: Rewriting
    files: tuple[tuple[str, FileEntry], ...]
    users: Forgotten
    seed: int
    bucket_count: int
    rules: BucketConfig | None
    columns: tuple[manifest.ColumnEntry, ...]


@dataclasses.dataclass(frozen=True)
class Found:
    """Rows of a piece that are to go: how many, and whose (user hashes)."""

    rows: int
    users: frozenset[int]


@dataclasses.dataclass(frozen=True)
class RootPlan:
    """What is to be done under one root of versions.

    Attributes:
      pieces: to look through, and to rewrite where somebody is found.
      finished: (root, old version, its successor) of a run that was cut off after a commit.
      left: full paths of files that such a run was to delete.
    """

    pieces: tuple[Piece, ...] = ()
    finished: tuple[tuple[str, Manifest, Manifest], ...] = ()
    left: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    """A run: whom it forgets, in which store.

    Attributes:
      store, config: the event store.
      users: who, and until when.
      attempt, runner: of the run.
    """

    store: str
    config: StoreConfig
    users: Forgotten
    attempt: str
    runner: str


def received_within(found: Manifest, users: Forgotten) -> Forgotten:
    """Those who can have forgotten events in a store partition."""
    if not found.config["one_day_only"]:
        return users
    day = datetime.date.fromisoformat(found.config["date"])
    first = (day - datetime.date(1970, 1, 1)).days * DAY_US
    return users.touching(first, first + DAY_US - 1)


def plan_partition(job: Job, day: datetime.date) -> RootPlan:
    """What is to be done in a day's partition."""
    root = store.partition_root(job.store, day)
    return _plan_root(job, root, "events", lambda found: received_within(found, job.users))


def plan_dataset(
    job: Job, root: str, held: dict[tuple[str, str], frozenset[int]] | None = None
) -> RootPlan:
    """What is to be done in the versions of a dataset, once the store's partitions are done.

    Args:
      job: the run.
      root: of the dataset.
      held: (name, version) of input partitions -> whom they hold, where they are not done yet.
    """
    inputs = _Inputs(job, held or {})
    return _plan_root(job, root, "dataset", inputs.users_of)


def check_dataset(root: str) -> None:
    """Refuses a folder that holds no versions of a dataset.

    Raises:
      UsageError: naming it.
    """
    names = manifest.versions(root)
    kinds = {
        found.kind for name in names if (found := manifest.load(root, name, withdrawn_too=True))
    }
    if not kinds and not manifest.refused(root):
        raise UsageError(f"--dataset: {root}: nothing is published here; expected a dataset")
    if other := sorted(kinds - {"dataset"}):
        raise UsageError(f"--dataset: {root}: expected a dataset, got {other[0]}")


def users_of_dataset(job: Job, found: Manifest) -> Forgotten:
    """Those of a run whose forgotten events a version of a dataset was built from."""
    return _Inputs(job, {}).users_of(found)


def held_by(
    job: Job, found: dict[tuple[str, str], frozenset[int]]
) -> dict[tuple[str, str], frozenset[int]]:
    """What `plan_dataset` takes before partitions are rewritten: whom a look `found` in them."""
    inputs = _Inputs(job, {})
    return {key: users | inputs.left_out(*key) for key, users in found.items()}


@dataclasses.dataclass
class _Inputs:
    """Who was in the partitions that a dataset was built from."""

    job: Job
    held: dict[tuple[str, str], frozenset[int]]

    def users_of(self, found: Manifest) -> Forgotten:
        """Those whose forgotten events a version can hold; all, if an input is not there now."""
        users: set[int] = set()
        for entry in found.inputs:
            if isinstance(entry, InputVersionEntry) and entry.name.startswith("events/"):
                key = entry.name, entry.version
                if key not in self.held:
                    self.held[key] = self.left_out(*key)
                users |= self.held[key]
        # A build that ran while a request was at work had left its users out by itself.
        applied = tombstones.union(
            request.forgotten
            for request in tombstones.load(self.job.store, found.config.get("forgotten", []))
        )
        wanted = self.job.users.only(sorted(users)).until_us
        return Forgotten(
            {user: 0 for user, until in wanted.items() if applied.until_us.get(user, -1) < until}
        )

    def left_out(self, name: str, version: str) -> frozenset[int]:
        """Whom the versions that took a partition's place, one after the other, have no more."""
        root = storage.join(self.job.store, name)
        found = manifest.load(root, version, withdrawn_too=True)
        users: set[int] = set()
        while found is not None:
            gone = manifest.load_withdrawn(root, found.version)
            if gone is None:
                return frozenset(users)
            found = manifest.load(root, gone.successor, withdrawn_too=True)
            if found is not None:
                users |= {int(text, 16) for text in found.config["rewritten"]["users"]}
        return frozenset(self.job.users.until_us)


def _plan_root(job: Job, root: str, kind: str, users_of: UsersOf) -> RootPlan:
    pieces: list[Piece] = []
    finished: list[tuple[str, Manifest, Manifest]] = []
    left: list[str] = []
    for name in manifest.versions(root):
        gone = manifest.load_withdrawn(root, name)
        if gone is not None:
            paths = [storage.join(root, path) for path in gone.files]
            left += [path for path in paths if storage.exists(path)]
            continue
        found = manifest.load(root, name)
        assert found is not None
        users = users_of(found)
        if not users:
            continue
        of = _rewriting(job, root, found, users)
        done = manifest.load(root, of.successor, withdrawn_too=True)
        if done is not None:
            finished.append((root, found, done))
        else:
            pieces += _pieces(job, of, found, users)
    if kind == "dataset":
        for version, attempt in manifest.refused(root):
            found = manifest.load_refused(root, version, attempt)
            if users := users_of(found):
                of = dataclasses.replace(
                    _rewriting(job, root, found, users), refused_attempt=attempt
                )
                pieces += _pieces(job, of, found, users)
    return RootPlan(tuple(pieces), tuple(finished), tuple(left))


def _rewriting(job: Job, root: str, found: Manifest, users: Forgotten) -> Rewriting:
    digest = manifest.fingerprint(
        {"job": "forget", "of": found.digest(), "users": users.digest(), "code": __version__}
    )
    successor = found.version.removesuffix(found.fingerprint) + digest
    return Rewriting(root, found.version, "", successor, job.attempt, job.runner)


def _pieces(job: Job, of: Rewriting, found: Manifest, users: Forgotten) -> Iterator[Piece]:
    by_bucket = users.by_bucket(job.config.bucket_count)
    grouped: dict[object, list[FileEntry]] = {}
    for entry in found.files:
        if entry.role in STORED_ROLES:
            grouped.setdefault(entry.first_bucket, []).append(entry)
        elif entry.role in SPLITS:
            grouped[entry.path] = [entry]
    for entries in grouped.values():
        first, last = bucket_range(entries[0], job.config.bucket_count)
        inside = [each for bucket, each in by_bucket.items() if first <= bucket <= last]
        if inside:
            yield Piece(
                of=of,
                files=tuple((manifest.file_path(of.root, found, e), e) for e in entries),
                users=tombstones.union(inside),
                seed=job.config.hash_seed,
                bucket_count=job.config.bucket_count,
                rules=_rules(found) if found.kind == "events" else None,
                columns=found.columns,
            )


def bucket_range(entry: FileEntry, bucket_count: int) -> tuple[int, int]:
    """First and last bucket whose users a file can hold."""
    if entry.first_bucket is None or entry.last_bucket is None:
        return 0, bucket_count - 1
    return entry.first_bucket, entry.last_bucket


def _rules(found: Manifest) -> BucketConfig:
    return BucketConfig(found.config["max_user_events_per_day"], found.config["near_duplicate_ms"])


# --- one piece ------------------------------------------------------------------------------------


def look(piece: Piece) -> Found:
    """Who is in a piece, and in how many rows, without writing anything."""
    rows, users = 0, set[int]()
    for path, entry in piece.files:
        data = manifest.read_verified(path, entry)
        if piece.rules is not None:
            table = pl.read_parquet(io.BytesIO(data), columns=[USER_HASH, "received_time"])
            gone = piece.users.flags(table)
            users |= set(table.filter(gone)[USER_HASH].to_list())
        else:
            gone, found = _rows_of_users(piece, path, entry, data)
            users |= found
        rows += int(gone.sum())
    return Found(rows, frozenset(users))


def rewrite(piece: Piece) -> Counts | None:
    """Writes a piece without those who are to go.

    Returns:
      What `commit` needs of it; None, and nothing is written, if it has none of them.
    """
    found = look(piece)
    if not found.rows:
        return None
    if piece.rules is not None:
        entries, counts = _rewrite_bucket(piece, piece.rules)
    else:
        entries, counts = _rewrite_shard(piece), {}
    return {
        "old": [entry.path for _, entry in piece.files],
        "new": [entry.model_dump() for entry in entries],
        "users": sorted(map(tombstones.hash_text, found.users)),
        "rows": found.rows,
        "counts": counts,
    }


def _rewrite_bucket(piece: Piece, rules: BucketConfig) -> tuple[list[FileEntry], Counts]:
    tables = {entry.role: store.read_table(path, entry) for path, entry in piece.files}
    none = next(iter(tables.values())).clear()
    events, set_aside = (tables.get(role, none) for role in STORED_ROLES)
    whole = pl.concat([events, set_aside])
    rest = whole.filter(~piece.users.flags(whole)).select(*EVENT_COLUMNS, USER_HASH)
    # Who comes back may have had too many events only together with those that are gone.
    stored = ingestion.store_bucket(rest, rules)
    bucket = piece.files[0][1].first_bucket
    assert bucket is not None
    entries = ingestion.write_bucket(stored, bucket, piece.of.attempt_root)
    after = ingestion.count_stored(stored.kept, stored.set_aside)
    return entries, row_counts.difference(after, ingestion.count_stored(events, set_aside))


def _rewrite_shard(piece: Piece) -> list[FileEntry]:
    ((path, entry),) = piece.files
    data = manifest.read_verified(path, entry)
    gone, _ = _rows_of_users(piece, path, entry, data)
    if gone.all():
        return []
    span = bucket_range(entry, piece.bucket_count)
    if entry.format == "tfrecord":
        gzip = entry.path.endswith(".gz")
        records = tfrecord.read_records(data, gzip)
        kept = [record for record, is_gone in zip(records, gone, strict=True) if not is_gone]
        root = piece.of.attempt_root
        return [tfrecord.write_records(kept, root, entry.path, entry.role, span, gzip)]
    table = pl.read_parquet(io.BytesIO(data)).filter(~gone)
    target = storage.join(piece.of.attempt_root, entry.path)
    shards.write_parquet(table, piece.columns, target)
    return [files.describe(piece.of.attempt_root, entry.path, entry.role, table.height, span)]


def _rows_of_users(
    piece: Piece, path: str, entry: FileEntry, data: bytes
) -> tuple[pl.Series, set[int]]:
    """Which rows of a shard have a user who is to go, and the hashes of those users.

    Raises:
      DataRefusedError: if the shard holds a user of another bucket: it is of another store.
    """
    column = next(c.name for c in piece.columns if c.name in _USER_COLUMNS)
    if entry.format == "tfrecord":
        records = tfrecord.read_records(data, entry.path.endswith(".gz"))
        texts = [[t.decode() for t in tfrecord.texts_of(record, column)] for record in records]
        ids = pl.Series(texts, dtype=pl.List(pl.String))
    else:
        ids = pl.read_parquet(io.BytesIO(data), columns=[column])[column]
    listed = isinstance(ids.dtype, pl.List)
    distinct = (ids.explode(empty_as_null=False) if listed else ids).unique().alias("user_id")
    hashed = distinct.to_frame().select(buckets.user_hash(pl.col("user_id"), piece.seed))
    hashes = hashed[USER_HASH]
    of_user = buckets.bucket_of(hashes.to_numpy(), piece.bucket_count)
    first, last = bucket_range(entry, piece.bucket_count)
    if np.any((of_user < first) | (of_user > last)):
        raise DataRefusedError(
            f"{path}: was built from another store: its users are of other buckets"
        )
    is_gone = hashes.is_in(pl.Series(list(piece.users.until_us), dtype=pl.UInt64).implode())
    gone = distinct.filter(is_gone)
    if listed:
        of_row = pl.element().is_in(gone.implode())
        rows = ids.to_frame("ids").select(pl.col("ids").list.eval(of_row).list.any()).to_series()
    else:
        rows = ids.is_in(gone.implode())
    return rows, set(hashes.filter(is_gone).to_list())


# --- one version ----------------------------------------------------------------------------------


def commit(of: Rewriting, parts: Iterable[Counts]) -> Manifest | None:
    """Publishes what takes a version's place, and withdraws it. Does nothing twice.

    Args:
      of: the version.
      parts: what `rewrite` said of each piece that had somebody.

    Returns:
      The new manifest; None for a refused attempt, which is deleted.

    Raises:
      DataRefusedError: if the rows do not add up; nothing is published then.
    """
    if of.refused_attempt:
        storage.delete_tree(manifest.attempt_root(of.root, of.version, of.refused_attempt))
        storage.delete_if_empty(manifest.version_root(of.root, of.version))
        return None
    old = of.load()
    ours = _successor(of, old, list(parts))
    path = storage.join(of.root, of.successor, manifest.MANIFEST_NAME)
    if storage.create_if_absent(path, ours.to_json()):
        winner = ours
    else:
        found = manifest.load(of.root, of.successor, withdrawn_too=True)
        assert found is not None
        winner = found
        if winner.digest() != ours.digest():
            raise DataRefusedError(f"{path}: already published with other data")
        if winner.run.attempt != of.attempt:
            storage.delete_tree(of.attempt_root)
    finish(of.root, old, winner)
    return winner


def _successor(of: Rewriting, old: Manifest, parts: list[Counts]) -> Manifest:
    """The manifest that takes the place of `old`; writes the side files that are made anew."""
    parts = sorted(parts, key=lambda part: part["old"])
    replaced = {path for part in parts for path in part["old"]}
    new = [FileEntry.model_validate(entry) for part in parts for entry in part["new"]]
    own = f"{old.version}/{old.run.attempt}"
    kept = [
        entry.model_copy(update={"folder": entry.folder or own})
        for entry in old.files
        if entry.path not in replaced and entry.role not in _LEFT_OUT
    ]
    is_store = old.kind == "events"
    counts = _store_counts(old, parts) if is_store else _dataset_counts(old, parts)
    data = [entry for entry in (*kept, *new) if entry.role in (*STORED_ROLES, *SPLITS)]
    gate = (
        IngestGate(datetime.date.min, counts["files"], 1.0, "")
        if is_store
        else BuildGate(counts["shards"])
    )
    problems = gate(counts, data)
    if problems:
        raise DataRefusedError("; ".join(problems))
    rows = sum(entry.rows for entry in data if entry.role != "set_aside")
    rewritten: Counts = {"of": old.version}
    if is_store:
        rewritten["users"] = sorted({user for part in parts for user in part["users"]})
    result = old.model_copy(
        update={
            "version": of.successor,
            "fingerprint": of.successor[-len(old.fingerprint) :],
            "status": "OK" if rows else "EMPTY",
            "config": {**old.config, "rewritten": rewritten},
            "files": tuple(sorted([*kept, *new], key=lambda entry: entry.path)),
            "counts": counts,
            "run": RunInfo(
                attempt=of.attempt, started_at=utc_now(), finished_at=utc_now(), runner=of.runner
            ),
        }
    )
    return result if is_store else _with_side_files(of, old, result)


def _store_counts(old: Manifest, parts: list[Counts]) -> Counts:
    changes = row_counts.total(part["counts"] for part in parts)
    forgotten = {"forgotten": sum(part["rows"] for part in parts)}
    counts = row_counts.total([old.counts, changes, forgotten])
    # A source, a day or a reason that has no row any more was never there.
    counts["by_source"] = {
        source: kept for source, kinds in counts["by_source"].items() if (kept := _filled(kinds))
    }
    for key in ("by_event_day", "set_aside"):
        counts[key] = _filled(counts[key])
    return counts


def _filled(counts: Counts) -> Counts:
    return {key: n for key, n in counts.items() if n}


def _dataset_counts(old: Manifest, parts: list[Counts]) -> Counts:
    """Rows of the splits; what else was counted in the build stays as it was."""
    gone: dict[tuple[str, str], int] = {}
    entries = {entry.path: entry for entry in old.files}
    for part in parts:
        (path,) = part["old"]
        key = entries[path].format, entries[path].role
        gone[key] = gone.get(key, 0) + part["rows"]
    by_split = dict.fromkeys(SPLITS, 0) | {split: n for (_, split), n in gone.items()}
    total = sum(by_split.values())
    splits = {split: n - by_split.get(split, 0) for split, n in old.counts["splits"].items()}
    return {
        **old.counts,
        "splits": splits,
        "examples": old.counts["examples"] - total,
        "forgotten": old.counts.get("forgotten", 0) + total,
    }


def _with_side_files(of: Rewriting, old: Manifest, result: Manifest) -> Manifest:
    """The manifest with statistics that name no user, and the card of the new version."""
    entries = {entry.path: entry for entry in result.files}
    for entry in old.files_of("statistics"):
        data = manifest.read_verified(manifest.file_path(of.root, old, entry), entry)
        nameless = statistics.without_names(data, old.columns)
        if nameless != data:
            entries[entry.path] = files.write_bytes(
                nameless, of.attempt_root, entry.path, entry.role
            )
    described = result.model_copy(
        update={"files": tuple(e for e in entries.values() if e.role != "card")}
    )
    for entry in old.files_of("card"):
        text = card.render_card(described).encode()
        entries[entry.path] = files.write_bytes(text, of.attempt_root, entry.path, entry.role)
    ordered = sorted(entries.values(), key=lambda entry: entry.path)
    return result.model_copy(update={"files": tuple(ordered)})


def finish(root: str, old: Manifest, new: Manifest) -> None:
    """Steps 3 to 5 of a version whose successor is committed."""
    if manifest.current_version(root) == old.version:
        manifest.point_to(root, new)
    needed: set[str] = set()
    for name in manifest.versions(root):
        if name != old.version and manifest.load_withdrawn(root, name) is None:
            other = manifest.load(root, name)
            assert other is not None
            needed |= {manifest.relative_path(other, entry) for entry in other.files}
    own = {manifest.relative_path(old, entry) for entry in old.files}
    said = Withdrawn(
        withdrawn_at=utc_now(), successor=new.version, files=tuple(sorted(own - needed))
    )
    manifest.withdraw(root, old.version, said)
    storage.delete_files([storage.join(root, path) for path in said.files], root)


# --- Beam -----------------------------------------------------------------------------------------


class _RewriteFn(beam.DoFn):
    def __init__(self) -> None:
        self._rows = Metrics.counter(METRICS, "rows")

    def process(self, piece: Piece) -> Iterator[tuple[str, str]]:
        part = rewrite(piece)
        if part is not None:
            self._rows.inc(part["rows"])
            yield json.dumps(dataclasses.asdict(piece.of), sort_keys=True), json.dumps(part)


class _CommitFn(beam.DoFn):
    def __init__(self) -> None:
        self._versions = Metrics.counter(METRICS, "versions")
        self._refused = Metrics.counter(METRICS, "refused-attempts")

    def process(self, element: tuple[str, Iterable[str]]) -> Iterator[str]:
        key, parts = element
        of = Rewriting(**json.loads(key))
        made = commit(of, [json.loads(part) for part in parts])
        (self._refused if made is None else self._versions).inc()
        yield of.version if made is None else made.version


@dataclasses.dataclass
class RewriteVersions(beam.PTransform):
    """PCollection of Piece -> names of the versions that took the place of others.

    No version is committed before all pieces of all versions are written: a piece may be shared by
    versions, and a commit deletes.
    """

    def expand(self, pieces: beam.PCollection[Piece]) -> beam.PCollection[str]:
        return (
            pieces
            | "SpreadPieces" >> beam.Reshuffle()
            | "RewritePiece" >> beam.ParDo(_RewriteFn()).with_output_types(tuple[str, str])
            | "GroupByVersion" >> beam.GroupByKey()
            | "CommitVersion" >> beam.ParDo(_CommitFn()).with_output_types(str)
        )
