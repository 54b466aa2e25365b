"""Proof that users are gone: what is published is read again, and searched for them.

| File                        | What is searched                                                  |
|-----------------------------|-------------------------------------------------------------------|
| events, set_aside           | rows of the user's hash received until the instant; in rows of    |
|                             | others any text that is the id                                    |
| shards, other Parquet files | any text, or item of a list of texts, that is the id              |
| TFRecord                    | the bytes, decompressed: the id with the length before it         |
| all others                  | the bytes; not for ids shorter than 8 bytes, which are everywhere |

The id is the one that the store has: the pseudonym, where it has a key. What is searched is what
manifests list: for each user the files that can hold the user (of the user's bucket), and files
that no user orders. `everything` adds all other files, also those that no manifest lists. The
search itself shares no code with what rewrites. A user who came back is searched for only in the
versions that were built before.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping

import polars as pl

from transforms import forgetting, manifest, storage, store, tfrecord
from transforms.buckets import USER_HASH
from transforms.forgetting import STORED_ROLES, Job
from transforms.manifest import FileEntry, Manifest
from transforms.splits import SPLITS
from transforms.tombstones import Forgotten

MIN_BYTES = 8
_SHOWN = 5
# Of files that no manifest lists: where work was cut off.
_UNREADABLE = (".arrow", ".ipc", ".tmp")


@dataclasses.dataclass
class Scan:
    """What was searched, and what was found.

    Attributes:
      files, bytes: that were searched.
      hits: a line each.
      returned: users (hashes) who have events that were received after their instant.
      unread: paths of files that cannot be searched: left by work that was cut off.
    """

    files: int = 0
    bytes: int = 0
    hits: list[str] = dataclasses.field(default_factory=list)
    returned: set[int] = dataclasses.field(default_factory=set)
    unread: list[str] = dataclasses.field(default_factory=list)

    def describe(self) -> str:
        """The hits, one a line."""
        more = len(self.hits) - _SHOWN
        return "\n".join(
            [f"  {hit}" for hit in self.hits[:_SHOWN]]
            + ([f"  and {more} more"] if more > 0 else [])
        )


def scan(job: Job, ids: Mapping[int, str], datasets: Iterable[str], everything: bool) -> Scan:
    """Searches a store and datasets for forgotten users.

    Args:
      job: names the store, and the users with their instants.
      ids: user hash -> id as the store has it, of all of them.
      datasets: roots of datasets.
      everything: search all files, not only those that can hold the users.
    """
    result = Scan()
    listed: set[str] = set()
    for day in store.partition_days(job.store):
        root = store.partition_root(job.store, day)
        for found in _live(root):
            users = forgetting.received_within(found, job.users)
            _scan_partition(result, root, found, job, users, ids, everything)
            listed |= {manifest.file_path(root, found, entry) for entry in found.files}
    for root in datasets:
        for found in _live(root):
            held = forgetting.users_of_dataset(job, found).until_us
            users = job.users.only(
                user for user in job.users.until_us if user in held or user not in result.returned
            )
            _scan_dataset(result, root, found, job, users, ids, everything)
            listed |= {manifest.file_path(root, found, entry) for entry in found.files}
    if everything:
        for root in (job.store, *datasets):
            for path, _ in storage.list_files(storage.join(root, "**")):
                if path not in listed:
                    _scan_unlisted(result, path, ids.values())
    return result


def _live(root: str) -> list[Manifest]:
    """Versions that can be read, and attempts that a gate refused."""
    published = [
        manifest.load(root, name)
        for name in manifest.versions(root)
        if manifest.load_withdrawn(root, name) is None
    ]
    refused = [manifest.load_refused(root, *which) for which in manifest.refused(root)]
    return [found for found in published if found is not None] + refused


def _scan_partition(
    result: Scan,
    root: str,
    found: Manifest,
    job: Job,
    users: Forgotten,
    ids: Mapping[int, str],
    everything: bool,
) -> None:
    own_buckets = set(job.users.by_bucket(job.config.bucket_count))
    for entry in found.files:
        if entry.role == "item_day" and not everything:
            continue
        if entry.role in STORED_ROLES and entry.first_bucket not in own_buckets and not everything:
            continue
        path = manifest.file_path(root, found, entry)
        table = pl.read_parquet(io.BytesIO(_read(result, path, entry)))
        if entry.role in STORED_ROLES:
            own = table[USER_HASH].is_in(pl.Series(list(ids), dtype=pl.UInt64).implode())
            gone = users.flags(table)
            _note(result, path, int(gone.sum()), "rows")
            result.returned |= set(table.filter(own & ~gone)[USER_HASH].unique().to_list())
            table = table.filter(~own)
        _note(result, path, _cells(table, ids.values()), "values")


def _scan_dataset(
    result: Scan,
    root: str,
    found: Manifest,
    job: Job,
    users: Forgotten,
    ids: Mapping[int, str],
    everything: bool,
) -> None:
    by_bucket = users.by_bucket(job.config.bucket_count)
    for entry in found.files:
        first, last = forgetting.bucket_range(entry, job.config.bucket_count)
        wanted = [
            ids[user]
            for bucket, inside in by_bucket.items()
            if everything or entry.role not in SPLITS or first <= bucket <= last
            for user in inside.until_us
        ]
        if wanted:
            path = manifest.file_path(root, found, entry)
            _search(result, path, entry.format, _read(result, path, entry), wanted)


def _scan_unlisted(result: Scan, path: str, ids: Iterable[str]) -> None:
    if path.endswith(_UNREADABLE):
        result.unread.append(path)
        return
    data = storage.read_bytes(path)
    result.files, result.bytes = result.files + 1, result.bytes + len(data)
    forms = {".parquet": "parquet", ".tfrecord": "tfrecord", ".tfrecord.gz": "tfrecord"}
    form = next((form for suffix, form in forms.items() if path.endswith(suffix)), "other")
    try:
        _search(result, path, form, data, ids)
    except Exception:  # what died in the middle of a write is of any form
        result.unread.append(path)


def _search(result: Scan, path: str, form: str, data: bytes, ids: Iterable[str]) -> None:
    if form == "parquet":
        _note(result, path, _cells(pl.read_parquet(io.BytesIO(data)), ids), "values")
    elif form == "tfrecord":
        plain = tfrecord.plain_bytes(data, path.endswith(".gz"))
        needles = [tfrecord.text_needle(text.encode()) for text in ids]
        _note(result, path, sum(plain.count(needle) for needle in needles), "values")
    else:
        long = [text.encode() for text in ids if len(text.encode()) >= MIN_BYTES]
        _note(result, path, sum(data.count(text) for text in long), "places")


def _read(result: Scan, path: str, entry: FileEntry) -> bytes:
    data = manifest.read_verified(path, entry)
    result.files, result.bytes = result.files + 1, result.bytes + len(data)
    return data


def _note(result: Scan, path: str, count: int, what: str) -> None:
    if count:
        result.hits.append(f"{path}: {count:,} {what}")


def _cells(table: pl.DataFrame, ids: Iterable[str]) -> int:
    """Texts, and items of lists of texts, that are one of the ids."""
    wanted = pl.Series(list(ids), dtype=pl.String).implode()
    count = 0
    for column in table.get_columns():
        if column.dtype == pl.List(pl.String):
            column = column.explode(empty_as_null=False)
        if column.dtype == pl.String:
            count += int(column.is_in(wanted).sum())
    return count
