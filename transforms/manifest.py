"""The manifest of a published version: the commit point, and all that readers trust.

A version lies in one folder:

    <root>/CURRENT.json                      names the current version
    <root>/<version>/manifest.json           created last, create-if-absent: the commit
    <root>/<version>/<attempt>/...           the files of the attempt that won
    <root>/<version>/withdrawn.json          it was replaced to forget a user: not to be read

Readers open what the manifest lists and nothing else. Files of attempts that lost or died are
invisible to them. A version is immutable; `CURRENT.json` is replaced to move between versions.

A version that was made by leaving users out of another one (transforms.forgetting) refers to the
other's files where nothing changed: their entries name the folder they lie in.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from typing import Any, Literal, Protocol

import pydantic

from transforms import storage
from transforms.config import StrictModel
from transforms.errors import DataRefusedError, PlayheadError, UnsettledError, UsageError

MANIFEST_NAME = "manifest.json"
POINTER_NAME = "CURRENT.json"
WITHDRAWN_NAME = "withdrawn.json"
# In the folder of an attempt that a gate refused: what its manifest would have been.
AUDIT_NAME = "audit.json"
# Folders of attempts are told from everything else by their name.
ATTEMPT_PREFIX = "attempt-"
# In the folder of an attempt: tables on their way through a shuffle, gone before it commits.
SPILL_FOLDER = "spill"

# Side files that say how a version differs from the one before it.
COMPARING_ROLES = ("anomalies", "report")

# What a path in a manifest may look like, so that a forged one cannot leave its folder.
_SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,199}")


def _check_relative(path: str) -> str:
    if not all(_SAFE_PART.fullmatch(part) for part in path.split("/")):
        raise ValueError(f"expected a plain relative path, got {path!r}")
    return path


def _check_part(name: str) -> str:
    if not _SAFE_PART.fullmatch(name):
        raise ValueError(f"expected the name of a folder, got {name!r}")
    return name


class InputFileEntry(StrictModel):
    """A raw file that was read: its path, size in bytes and `storage.checksum`."""

    path: str
    bytes: int
    checksum: str


class InputVersionEntry(StrictModel):
    """A published version that was read: its name (such as `events/dt=2026-01-05`), the version,
    and the digest of its manifest."""

    name: str
    version: str
    digest: str


class FileEntry(StrictModel):
    """A file of the version.

    Attributes:
      path: relative to the attempt's folder, or to `folder`.
      role: what it holds: in a store partition "events", "item_day", "quarantine", "set_aside"; in
        a dataset the split's name, or the kind of a side file ("statistics", "report", ...).
      format: how it is encoded; a split that is written in two formats has the same rows in both.
      rows: rows counted in the file after it was written; 0 for what is not a table.
      bytes: size.
      sha256: hex digest of the bytes as read back.
      first_bucket, last_bucket: inclusive range of user buckets in it; null where users do not
        order the file.
      folder: `<version>/<attempt>` that the file lies in; null for the version's own attempt.
    """

    path: str
    role: str
    format: Literal["parquet", "tfrecord", "other"] = "parquet"
    rows: int = pydantic.Field(ge=0)
    bytes: int = pydantic.Field(ge=0)
    sha256: str = pydantic.Field(pattern="^[0-9a-f]{64}$")
    first_bucket: int | None = None
    last_bucket: int | None = None
    folder: str | None = None

    @pydantic.field_validator("path")
    @classmethod
    def _path_is_plain(cls, value: str) -> str:
        return _check_relative(value)

    @pydantic.field_validator("folder")
    @classmethod
    def _folder_is_an_attempt(cls, value: str | None) -> str | None:
        if value is not None and _check_relative(value).count("/") != 1:
            raise ValueError(f"expected <version>/<attempt>, got {value!r}")
        return value

    @property
    def link(self) -> str:
        """The path as a page in the attempt's folder links to it."""
        return self.path if self.folder is None else f"../../{self.folder}/{self.path}"


class ColumnEntry(StrictModel):
    """A column of the data files.

    Attributes:
      name, type: column name and Arrow type.
      nullable: whether null means something.
      description: what it is.
      family: what it is for ("context", "user", "label", ...); null in a store partition.
      unit: unit of a number; null where there is none to say.
      identifier: values are ids of many things (users, tracks, requests): statistics count them by
        sketches and never list them all.
      minimum: smallest value that a whole number may have; null where the column does not say.
    """

    name: str
    type: str
    nullable: bool = True
    description: str = ""
    family: str | None = None
    unit: str | None = None
    identifier: bool = False
    minimum: int | None = None


class RunInfo(StrictModel):
    """What differs between two runs of the same work; not part of the digest."""

    attempt: str
    started_at: str
    finished_at: str
    runner: str

    @pydantic.field_validator("attempt")
    @classmethod
    def _attempt_is_plain(cls, value: str) -> str:
        return _check_part(value)


class Manifest(StrictModel):
    """Everything about one version.

    Attributes:
      format_version: of this file's layout.
      kind: "events" (a store partition), "dataset", or "semantic_ids" (item -> code digits).
      name: partition day or dataset name.
      version: folder name; ends in the fingerprint, so equal work has an equal name.
      fingerprint: digest of inputs, configuration and code version.
      code_version: of Playhead.
      status: "OK", or "EMPTY" when there are no rows; then only a partition can be current. In the
        audit manifest of what a gate did not let pass "REFUSED", never in a published one.
      config: options and spec that decide the data.
      columns: of the data files.
      key: columns that identify a row.
      inputs: raw files or store versions that were read.
      files: every file of the version.
      counts: rows in and out of every stage.
      run: attempt and times.
    """

    format_version: Literal[1] = 1
    kind: Literal["events", "dataset", "semantic_ids"]
    name: str
    version: str
    fingerprint: str
    code_version: str
    status: Literal["OK", "EMPTY", "REFUSED"]
    config: dict[str, Any]
    columns: tuple[ColumnEntry, ...]
    key: tuple[str, ...] = ("user_id", "event_id")
    inputs: tuple[InputFileEntry | InputVersionEntry, ...]
    files: tuple[FileEntry, ...]
    counts: dict[str, Any]
    run: RunInfo

    @pydantic.field_validator("version")
    @classmethod
    def _version_is_plain(cls, value: str) -> str:
        return _check_part(value)

    def to_json(self) -> bytes:
        return (json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n").encode()

    def digest(self) -> str:
        """SHA-256 of everything but `run` and files that compare with other versions: equal for
        equal data, whenever and wherever built. A field that a later Playhead adds does not change
        it: what has its default takes no part."""
        own = [entry for entry in self.files if entry.role not in COMPARING_ROLES]
        body = self.model_copy(update={"files": tuple(own)}).model_dump(
            exclude={"run"}, exclude_defaults=True
        )
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def files_of(self, role: str) -> list[FileEntry]:
        return [entry for entry in self.files if entry.role == role]


class Pointer(StrictModel):
    """`CURRENT.json`."""

    version: str
    digest: str

    @pydantic.field_validator("version")
    @classmethod
    def _version_is_plain(cls, value: str) -> str:
        return _check_part(value)


class Withdrawn(StrictModel):
    """`withdrawn.json`: the version held a user who was forgotten, and another took its place.

    Attributes:
      withdrawn_at: wall-clock time, for people.
      successor: the version to use.
      files: what was deleted, relative to the root; the rest is part of the successor.
    """

    withdrawn_at: str
    successor: str
    files: tuple[str, ...]

    @pydantic.field_validator("successor")
    @classmethod
    def _successor_is_plain(cls, value: str) -> str:
        return _check_part(value)

    @pydantic.field_validator("files")
    @classmethod
    def _files_are_plain(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_check_relative(path) for path in value)


def refused(root: str) -> list[tuple[str, str]]:
    """(version, attempt) of everything under `root` that a gate refused; for maintenance only."""
    return [
        (version, attempt)
        for version in storage.list_folder(root)
        for attempt in storage.list_folder(storage.join(root, version))
        if _SAFE_PART.fullmatch(version)
        and _SAFE_PART.fullmatch(attempt)
        and storage.exists(storage.join(root, version, attempt, AUDIT_NAME))
    ]


def load_refused(root: str, version: str, attempt: str) -> Manifest:
    """What the manifest of a refused attempt would have been."""
    found: Manifest = _parse(storage.join(root, version, attempt, AUDIT_NAME), Manifest)
    return found


def current_version(root: str) -> str | None:
    """Name of the current version; None if there is none. For maintenance: nothing is checked."""
    path = storage.join(root, POINTER_NAME)
    return str(_parse(path, Pointer).version) if storage.exists(path) else None


def fingerprint(parts: dict[str, Any]) -> str:
    """12 hex digits that stand for everything that decides a version's data."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def version_root(root: str, version: str) -> str:
    """Folder of a version."""
    return storage.join(root, version)


def new_attempt() -> str:
    """Name of an attempt that no other has."""
    return f"{ATTEMPT_PREFIX}{secrets.token_hex(6)}"


def attempt_root(root: str, version: str, attempt: str) -> str:
    """Folder that an attempt writes into; nobody else ever writes there."""
    return storage.join(root, version, attempt)


def load(root: str, version: str, *, withdrawn_too: bool = False) -> Manifest | None:
    """The manifest of a committed version, or None if it is not committed.

    Args:
      root, version: where it is.
      withdrawn_too: whether one that was withdrawn may be had; some of its files are gone.

    Raises:
      DataRefusedError: if the file is there but is not the manifest of this version, or if the
        version was withdrawn.
    """
    path = storage.join(root, version, MANIFEST_NAME)
    try:
        found: Manifest = _parse(path, Manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if found.version != version:
        raise DataRefusedError(f"{path}: is the manifest of another version, {found.version}")
    gone = None if withdrawn_too else load_withdrawn(root, version)
    if gone is not None:
        raise DataRefusedError(
            f"{root}/{version}: withdrawn on {gone.withdrawn_at[:10]} for a deletion; "
            f"use {gone.successor}"
        )
    return found


def load_withdrawn(root: str, version: str) -> Withdrawn | None:
    """What is said of a version that was withdrawn; None if it was not."""
    path = storage.join(root, version, WITHDRAWN_NAME)
    if not storage.exists(path):
        return None
    found: Withdrawn = _parse(path, Withdrawn)
    return found


def withdraw(root: str, version: str, said: Withdrawn) -> None:
    """Marks a committed version as not to be read; the first mark stays."""
    data = (json.dumps(said.model_dump(), indent=1, sort_keys=True) + "\n").encode()
    storage.create_if_absent(storage.join(root, version, WITHDRAWN_NAME), data)


def versions(root: str) -> list[str]:
    """Names of all committed versions under `root`, those that were withdrawn too.

    For maintenance only: readers go by the pointer, or by a version's name.
    """
    return [
        name
        for name in storage.list_folder(root)
        if _SAFE_PART.fullmatch(name) and storage.exists(storage.join(root, name, MANIFEST_NAME))
    ]


def load_current(root: str) -> Manifest | None:
    """The manifest that `CURRENT.json` names; None if nothing was published under `root`.

    Raises:
      DataRefusedError: if the pointer or the manifest is damaged or they disagree.
    """
    return _follow(root, _read_pointer(root))


def _read_pointer(root: str) -> bytes | None:
    try:
        return storage.read_bytes(storage.join(root, POINTER_NAME))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _follow(root: str, data: bytes | None) -> Manifest | None:
    """`load_current`, given what is in the pointer."""
    if data is None:
        return None
    path = storage.join(root, POINTER_NAME)
    pointer = _validate(path, data, Pointer)
    manifest = load(root, pointer.version)
    if manifest is None:
        raise DataRefusedError(f"{path}: names version {pointer.version}, which is not committed")
    if manifest.digest() != pointer.digest:
        raise DataRefusedError(
            f"{root}/{pointer.version}/{MANIFEST_NAME}: was changed after it was published "
            f"(digest {manifest.digest()[:12]}, expected {pointer.digest[:12]})"
        )
    return manifest


def _parse(path: str, model: type[Any]) -> Any:
    return _validate(path, storage.read_bytes(path), model)


def _validate(path: str, data: bytes, model: type[Any]) -> Any:
    try:
        return model.model_validate_json(data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise DataRefusedError(
            f"{path}: not a valid {model.__name__.lower()}: {where}: {first['msg']}"
        ) from None


def commit(root: str, manifest: Manifest, keep_inputs: bool = False) -> Manifest:
    """Publishes `manifest` under `root` and makes it current as `set_current` says.

    Create-if-absent decides between concurrent attempts: exactly one manifest exists for a version.
    If another attempt of the same work was first, its manifest is returned: the caller deletes its
    own files. The pointer is written after the manifest, so it never names an uncommitted version.

    Raises:
      DataRefusedError: if the committed version holds other data than ours. Equal fingerprints must
        give equal data; this is a bug or damaged files, never to be papered over.
      UnsettledError: if a write failed and the version may be published, or is but not current; no
        file of the attempt may then be deleted.
    """
    path = storage.join(root, manifest.version, MANIFEST_NAME)
    if _create(root, path, manifest):
        winner = manifest
    else:
        winner = _parse(path, Manifest)
        if winner.digest() != manifest.digest():
            raise DataRefusedError(
                f"{path}: already published with other data (digest {winner.digest()[:12]}, "
                f"this attempt has {manifest.digest()[:12]}); nothing was changed"
            )
    try:
        set_current(root, winner, keep_inputs)
    except PlayheadError:
        raise
    except Exception as error:
        raise UnsettledError(
            f"{root}: version {winner.version} is published, but writing {POINTER_NAME} failed: "
            f"{error}; run this again to make it current"
        ) from error
    return winner


def _create(root: str, path: str, manifest: Manifest) -> bool:
    """Whether we created the manifest. If the answer was lost, it is looked up."""
    try:
        return storage.create_if_absent(path, manifest.to_json())
    except BaseException as error:
        unsettled = UnsettledError(
            f"{path}: cannot tell whether it is published: {error or type(error).__name__}; all "
            "files are kept, run this again"
        )
        try:
            there = load(root, manifest.version)
        except Exception:
            raise unsettled from error
        ours = there is not None and there.run == manifest.run
        if there and not ours:
            return False
        local = storage.is_local(path)
        if ours and not local:
            return True
        if local and not there:
            raise  # it did not happen, and will not happen later
        # On a local disk, what can be seen may not be on the disk yet. Elsewhere, what was sent may
        # still arrive.
        raise unsettled from error


def point_to(root: str, manifest: Manifest) -> None:
    """Points `CURRENT.json` at a committed version, whatever is current."""
    data = _pointer_to(manifest)
    while not storage.swap(storage.join(root, POINTER_NAME), _read_pointer(root), data):
        pass


def _pointer_to(manifest: Manifest) -> bytes:
    pointer = Pointer(version=manifest.version, digest=manifest.digest())
    return (json.dumps(pointer.model_dump(), sort_keys=True) + "\n").encode()


def set_current(root: str, manifest: Manifest, keep_inputs: bool = False) -> Manifest | None:
    """Points `CURRENT.json` at a committed version, if the current one gives way to it.

    It does not if its run began later, since what began later knew more; or if `keep_inputs` and it
    was made of files that this one was not made of. A dataset without rows never becomes current,
    for nobody can train on it; a partition without events does: it stands for its day. Any number
    of callers at once leave the pointer as some order of them would.

    Returns:
      The version that is current then; None if there is none.

    Raises:
      DataRefusedError: if the pointer is damaged; see `load_current`.
    """
    data = _pointer_to(manifest)
    while True:
        before = _read_pointer(root)
        if before == data:
            return manifest
        current = _follow(root, before)
        if manifest.kind != "events" and manifest.status == "EMPTY":
            return current
        if current is not None and (
            current.run.started_at > manifest.run.started_at
            or (keep_inputs and lacking_inputs(current, manifest.inputs))
        ):
            return current
        if storage.swap(storage.join(root, POINTER_NAME), before, data):
            return manifest


def lacking_inputs(
    before: Manifest, inputs: Iterable[InputFileEntry | InputVersionEntry]
) -> list[str]:
    """Raw files that a version was made of and that are not among `inputs`."""
    given = {entry.path for entry in inputs if isinstance(entry, InputFileEntry)}
    made_of = [entry.path for entry in before.inputs if isinstance(entry, InputFileEntry)]
    return [path for path in made_of if path not in given]


def file_path(root: str, manifest: Manifest, entry: FileEntry) -> str:
    """Full path of one file of a committed version."""
    return storage.join(root, relative_path(manifest, entry))


def relative_path(manifest: Manifest, entry: FileEntry) -> str:
    """Path of one file of a version, relative to the root of versions."""
    return f"{entry.folder or f'{manifest.version}/{manifest.run.attempt}'}/{entry.path}"


def require_current(root: str, what: str) -> Manifest:
    """`load_current`, or a one-line error that says what is missing."""
    manifest = load_current(root)
    if manifest is None:
        raise UsageError(f"{root}: nothing is published here; expected {what}")
    return manifest


def resolve(path: str, expected: str = "a dataset") -> tuple[str, Manifest]:
    """The root and manifest of what a path names.

    Args:
      path: the folder of a version; or of versions, whose current one is taken; or of an attempt
        that a gate refused (its audit manifest is read).
      expected: what should be there, for the error.

    Raises:
      UsageError: if nothing is published there.
      DataRefusedError: if what is there is damaged.
    """
    path = path.rstrip("/") or path
    path = storage.absolute(path)
    folder, name = path.rsplit("/", 1) if "/" in path else ("", path)
    if storage.exists(storage.join(path, AUDIT_NAME)):
        refused: Manifest = _parse(storage.join(path, AUDIT_NAME), Manifest)
        return folder.rsplit("/", 1)[0], refused
    if storage.exists(storage.join(path, MANIFEST_NAME)):
        found = load(folder, name)
        if found is not None:
            return folder, found
    return path, require_current(path, expected)


class Published(Protocol):
    """What tells the bytes of a published file from others."""

    @property
    def bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...


def read_verified(path: str, entry: Published) -> bytes:
    """All bytes of a file of a version, if they are those that were published.

    Raises:
      DataRefusedError: naming the file, if it is gone, cut, or changed.
    """
    try:
        size = storage.size(path)  # first: what lies there now may be endless
        data = storage.read_bytes(path) if size == entry.bytes else b""
    except FileNotFoundError:
        raise DataRefusedError(f"{path}: is listed in the manifest, but is not there") from None
    _check_bytes(path, entry, hashlib.sha256(data).hexdigest(), len(data))
    return data


def verify(path: str, entry: Published) -> None:
    """`read_verified` of a file of any size, which is not held."""
    try:
        digest, size = storage.sha256(path)
    except FileNotFoundError:
        raise DataRefusedError(f"{path}: is listed in the manifest, but is not there") from None
    _check_bytes(path, entry, digest, size)


def _check_bytes(path: str, entry: Published, digest: str, size: int) -> None:
    if (size, digest) != (entry.bytes, entry.sha256):
        raise DataRefusedError(
            f"{path}: was changed after it was published (expected {entry.bytes} bytes with "
            f"SHA-256 {entry.sha256[:12]}..., got {size} others)"
        )
