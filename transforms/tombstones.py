"""Tombstones: users who are forgotten, each with the instant until which.

    <store>/tombstones/<instant>-<digest>.json        a request; created once, never changed
    <store>/tombstones/<instant>-<digest>.done.json   all partitions of the store are rewritten
    <store>/tombstones/lock.json                      a run of `playhead forget` is at work

A tombstone of a user with an instant T says that everything the server RECEIVED of the user up to
and including T is to be gone. What it receives later counts again: a user who comes back has a
history that begins then. `received_time` is what the adapter says it is. A source that tells no
arrival has the earliest moment at which the server can have known of an event, so an import of an
old history that is given again stays out, whenever it is given. Of several tombstones of a user the
latest instant counts.

A user is written down as `user_hash`, the column that orders and buckets the events of the store:
never as the id, nor as its pseudonym. No two users of a bucket of a partition share a hash (ingest
refuses that); that a tombstone means a second one of 500 million has a probability of 3 in 10^11.

The tombstones of a store are small: 16 bytes a user. They are kept for good, for a log of any age
may be ingested again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import polars as pl
import pydantic

from transforms import buckets, storage
from transforms.buckets import USER_HASH
from transforms.config import StrictModel
from transforms.errors import DataRefusedError, UsageError

FOLDER = "tombstones"
_LOCK = "lock.json"
_REQUEST = re.compile(r"(\d{17}-[0-9a-f]{12})\.json")
_HASH = re.compile(r"[0-9a-f]{16}")


class Request(StrictModel):
    """What somebody asked to have forgotten.

    Attributes:
      forgotten_at_us: last microsecond (UTC, since 1970) whose arrivals are forgotten.
      recorded_at: wall-clock time of the request, for people; it decides nothing.
      users: `hash_text` of each, in order.
    """

    format_version: Literal[1] = 1
    forgotten_at_us: int = pydantic.Field(ge=0, lt=10**17)
    recorded_at: str
    users: tuple[str, ...] = pydantic.Field(min_length=1)

    @pydantic.field_validator("users")
    @classmethod
    def _users_are_hashes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not _HASH.fullmatch(text) for text in value) or list(value) != sorted(set(value)):
            raise ValueError("expected distinct hashes of 16 hex digits, in order")
        return value

    @property
    def name(self) -> str:
        """Equal requests have one name, whenever they are made."""
        digest = hashlib.sha256("\n".join(self.users).encode()).hexdigest()
        return f"{self.forgotten_at_us:017d}-{digest[:12]}"

    @property
    def forgotten(self) -> Forgotten:
        return Forgotten({int(text, 16): self.forgotten_at_us for text in self.users})


@dataclasses.dataclass(frozen=True)
class Forgotten:
    """Whose events are forgotten: user hash -> last `received_time` that is, UTC microseconds."""

    until_us: Mapping[int, int] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.until_us)

    def flags(self, table: pl.DataFrame) -> pl.Series:
        """Which rows are forgotten, as booleans; `table` has USER_HASH and `received_time`."""
        users = pl.Series(list(self.until_us), dtype=pl.UInt64)
        until = pl.Series(list(self.until_us.values()), dtype=pl.Int64)
        of_row = pl.col(USER_HASH).replace_strict(users, until, default=None, return_dtype=pl.Int64)
        received = pl.col("received_time").to_physical()
        return table.select((received <= of_row).fill_null(value=False)).to_series()

    def touching(self, first_us: int, last_us: int) -> Forgotten:
        """What of it can matter to events that were received in [first, last]."""
        known = self.until_us.items()
        return Forgotten({user: min(until, last_us) for user, until in known if until >= first_us})

    def only(self, users: Iterable[int]) -> Forgotten:
        return Forgotten({user: self.until_us[user] for user in users if user in self.until_us})

    def by_bucket(self, bucket_count: int) -> dict[int, Forgotten]:
        """Bucket -> those of its users."""
        users = pl.Series(list(self.until_us), dtype=pl.UInt64)
        found: dict[int, dict[int, int]] = {}
        of_user = buckets.bucket_of(users.to_numpy(), bucket_count).tolist()
        for bucket, (user, until) in zip(of_user, self.until_us.items(), strict=True):
            found.setdefault(bucket, {})[user] = until
        return {bucket: Forgotten(users) for bucket, users in sorted(found.items())}

    def digest(self) -> str:
        """Stands for all of it, in a fingerprint."""
        text = json.dumps(sorted(self.until_us.items()))
        return hashlib.sha256(text.encode()).hexdigest()


def union(parts: Iterable[Forgotten]) -> Forgotten:
    """Of each user the latest instant."""
    found: dict[int, int] = {}
    for part in parts:
        for user, until in part.until_us.items():
            found[user] = max(until, found.get(user, until))
    return Forgotten(found)


def hash_text(user_hash: int) -> str:
    """A user hash as it is written down."""
    return f"{user_hash:016x}"


def hashes_of(user_ids: Iterable[str], seed: int) -> dict[int, str]:
    """User hash -> user id, for ids as the store has them."""
    ids = pl.Series("user_id", list(user_ids), dtype=pl.String).unique().sort()
    hashed = ids.to_frame().select(buckets.user_hash(pl.col("user_id"), seed)).to_series()
    return dict(zip(hashed.to_list(), ids.to_list(), strict=True))


def _path(store: str, name: str) -> str:
    return storage.join(store, FOLDER, name)


def names(store: str) -> tuple[str, ...]:
    """Names of all requests of a store, by instant."""
    found = map(_REQUEST.fullmatch, storage.list_folder(storage.join(store, FOLDER)))
    return tuple(match[1] for match in found if match)


def load(store: str, which: Iterable[str]) -> list[Request]:
    """Some requests of a store.

    Raises:
      DataRefusedError: if a file is not what its name says.
    """
    found = []
    for name in which:
        path = _path(store, f"{name}.json")
        try:
            request = Request.model_validate_json(storage.read_bytes(path))
        except pydantic.ValidationError as error:
            raise DataRefusedError(
                f"{path}: not a valid tombstone: {error.errors()[0]['msg']}"
            ) from None
        if request.name != name:
            raise DataRefusedError(f"{path}: was changed; expected the content that its name says")
        found.append(request)
    return found


def all_of(store: str) -> Forgotten:
    """Everybody whom the store is not to hold, whatever is ingested."""
    return union(request.forgotten for request in load(store, names(store)))


def pending(store: str) -> list[Request]:
    """Requests that not all partitions of the store are rewritten for: a run that is at work, or
    was cut off."""
    folder = set(storage.list_folder(storage.join(store, FOLDER)))
    return load(store, [name for name in names(store) if f"{name}.done.json" not in folder])


def record(store: str, request: Request) -> bool:
    """Writes a request down; False if it was before."""
    data = (json.dumps(request.model_dump(), indent=1, sort_keys=True) + "\n").encode()
    return storage.create_if_absent(_path(store, f"{request.name}.json"), data)


def mark_done(store: str, request: Request, now: str) -> None:
    """Says that all partitions of the store are rewritten for a request."""
    data = (json.dumps({"done_at": now}) + "\n").encode()
    storage.create_if_absent(_path(store, f"{request.name}.done.json"), data)


def check_unchanged(store: str, known: tuple[str, ...]) -> None:
    """Refuses to publish what was planned before somebody was forgotten.

    Raises:
      DataRefusedError: if the store has other requests than those that were `known`.
    """
    if names(store) != known:
        raise DataRefusedError(
            f"{store}: a user was forgotten while this ran; nothing was published; run it again"
        )


@contextlib.contextmanager
def lock(store: str, now: str, take_over: bool) -> Iterator[None]:
    """Keeps other runs of `playhead forget` away from a store: two that rewrite one partition for
    different users would each bring the other's user back.

    The lock of a process of this machine that is dead does not count.

    Raises:
      UsageError: if another run holds it, unless `take_over`.
    """
    path = _path(store, _LOCK)
    own = {"host": socket.gethostname(), "pid": os.getpid(), "started_at": now}
    data = (json.dumps(own) + "\n").encode()
    if not storage.create_if_absent(path, data):
        holder = json.loads(storage.read_bytes(path))
        if not take_over and not _is_dead(holder):
            raise UsageError(
                f"{path}: another `playhead forget` is at work since {holder['started_at'][:19]}Z "
                f"(process {holder['pid']} on {holder['host']}); if it is not, give --take-over"
            )
        storage.replace(path, data)
    try:
        yield
    finally:
        storage.delete_file(path)


def _is_dead(holder: dict[str, object]) -> bool:
    if holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(str(holder["pid"])), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return int(str(holder["pid"])) == os.getpid()
