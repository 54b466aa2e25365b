"""What lies under a root that no reader sees, and what readers would look for in vain.

A *stray* is a file that no manifest lists: of an attempt that died, lost, was refused, or is at
work just now. A *problem* is a published version that is not what its manifest says. Which files
are referenced is computed over every manifest at once, since a version may list files that an
earlier one made.

Only what Playhead makes is ever removed: folders of attempts and temporary files. Anything else is
reported as foreign. While a manifest cannot be read nobody knows what it lists, and nothing under
its root is removed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from transforms import manifest, storage, store, tombstones
from transforms.errors import DataRefusedError, UsageError
from transforms.manifest import (
    ATTEMPT_PREFIX,
    AUDIT_NAME,
    MANIFEST_NAME,
    POINTER_NAME,
    SPILL_FOLDER,
    WITHDRAWN_NAME,
    FileEntry,
    Manifest,
    Withdrawn,
)
from transforms.storage import Listed

_TEMPORARY = re.compile(r".+\.[0-9a-f]{8}\.tmp")


@dataclasses.dataclass(frozen=True)
class Stray:
    """Files that belong together and that no manifest lists.

    Attributes:
      kind: "attempt" (died, lost, or at work), "refused attempt" (kept for who asks why), "spill"
        (of a shuffle), "file" (beside those of a published attempt), "temporary", "foreign" (not
        Playhead's).
      path: of the file, or of the folder, which ends in `/`.
      files: all of them.
      removable: whether it may be removed when it is old enough.
    """

    kind: str
    path: str
    files: tuple[Listed, ...]
    removable: bool

    @property
    def bytes(self) -> int:
        return sum(listed.bytes for listed in self.files)

    @property
    def newest_s(self) -> float | None:
        """When the newest of its files was written; None if that is not known of every file."""
        times = [listed.modified_s for listed in self.files]
        return None if None in times else max(time for time in times if time is not None)

    def is_older(self, seconds: float, now_s: float) -> bool:
        return self.newest_s is not None and now_s - self.newest_s > seconds


@dataclasses.dataclass(frozen=True)
class Root:
    """A folder of versions as it was found.

    Attributes:
      path: of the folder.
      listing: every file below.
      versions: name -> manifest of what is published there.
      withdrawn: name -> why a version is not read any more; what it lists counts for nothing.
      current: the version that `CURRENT.json` names; None if there is none.
      problems: manifests and pointers that cannot be read or followed.
    """

    path: str
    listing: list[Listed]
    versions: dict[str, Manifest]
    withdrawn: dict[str, Withdrawn]
    current: Manifest | None
    problems: list[str]


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was found under a root.

    Attributes:
      strays: by path.
      problems: a line each.
      notes: what is no problem, but good to know; a line each.
    """

    strays: list[Stray]
    problems: list[str]
    notes: list[str]


def roots(path: str) -> tuple[list[Root], list[Stray]]:
    """The folders of versions that a path stands for, and what lies between them.

    Args:
      path: an event store, or the folder of a dataset's or of semantic ids' versions.

    Raises:
      UsageError: if it is none of these.
    """
    path = path.rstrip("/") or path
    listing = storage.list_tree(path)
    names = {_relative(path, listed.path)[0] for listed in listing}
    if MANIFEST_NAME in names:
        raise UsageError(f"{path}: is one version; expected the folder of all of them, or a store")
    partitions = {
        storage.join(path, *parts[:2])
        for listed in listing
        for parts in [_relative(path, listed.path)]
        if len(parts) > 2 and parts[0] == "events" and parts[1].startswith("dt=")
    }
    if store.STORE_FILE in names or partitions:
        inside: dict[str, list[Listed]] = {root: [] for root in sorted(partitions)}
        between: list[Listed] = []
        for listed in listing:
            root = storage.join(path, *_relative(path, listed.path)[:2])
            inside.get(root, between).append(listed)
        between = [
            listed
            for listed in between
            if _relative(path, listed.path)[0] not in (store.STORE_FILE, tombstones.FOLDER)
        ]
        return [_look(root, found) for root, found in inside.items()], _loose(path, between)
    one = _look(path, listing)
    if POINTER_NAME not in names and not _version_folders(one):
        raise UsageError(
            f"{path}: expected an event store or the folder of a dataset, got "
            + ("other files" if listing else "nothing")
        )
    return [one], []


def _relative(root: str, path: str) -> list[str]:
    return path.removeprefix(root).strip("/").split("/")


def _look(path: str, listing: list[Listed]) -> Root:
    """Reads the manifests and the pointer of a root."""
    versions, withdrawn, problems, current = {}, {}, [], None
    for listed in listing:
        parts = _relative(path, listed.path)
        if len(parts) == 2 and parts[1] == MANIFEST_NAME:
            try:
                said = manifest.load_withdrawn(path, parts[0])
                if said is not None:
                    withdrawn[parts[0]] = said
                    continue
                found = manifest.load(path, parts[0])
            except (DataRefusedError, OSError) as error:
                problems.append(str(error))
                continue
            if found is not None:
                versions[parts[0]] = found
    try:
        current = manifest.load_current(path)
    except (DataRefusedError, OSError) as error:
        if str(error) not in problems:
            problems.append(str(error))
    return Root(path, listing, versions, withdrawn, current, problems)


def _version_folders(root: Root) -> set[str]:
    """Names of the folders that are of versions, published or not."""
    return {
        parts[0]
        for listed in root.listing
        for parts in [_relative(root.path, listed.path)]
        if len(parts) > 1 and (parts[1] == MANIFEST_NAME or parts[1].startswith(ATTEMPT_PREFIX))
    }


def referenced(found: Iterable[Root]) -> dict[str, FileEntry]:
    """Path -> entry of every file that some manifest lists: all that readers may open."""
    return {
        manifest.file_path(root.path, version, entry): entry
        for root in found
        for version in root.versions.values()
        for entry in version.files
    }


def examine(root: Root, wanted: dict[str, FileEntry]) -> Findings:
    """What is astray, wrong and odd under a root.

    Args:
      root: as it was found.
      wanted: see `referenced`; of all roots.
    """
    sizes = {listed.path: listed.bytes for listed in root.listing}
    problems = list(root.problems)
    for path, entry in sorted(referenced([root]).items()):
        if path not in sizes:
            problems.append(f"{path}: is listed in the manifest, but is not there")
        elif sizes[path] != entry.bytes:
            problems.append(
                f"{path}: has {sizes[path]:,} bytes, but the manifest says {entry.bytes:,}"
            )
    return Findings(_strays(root, wanted), problems, _notes(root))


def _strays(root: Root, wanted: dict[str, FileEntry]) -> list[Stray]:
    folders = _version_folders(root)
    attempts: dict[str, list[Listed]] = {}
    loose = []
    used = {tuple(_relative(root.path, path)[:2]) for path in wanted if path.startswith(root.path)}
    for listed in root.listing:
        parts = _relative(root.path, listed.path)
        if listed.path in wanted or parts == [POINTER_NAME]:
            continue
        if parts[0] in folders and parts[1:] in ([MANIFEST_NAME], [WITHDRAWN_NAME]):
            continue
        if parts[0] in folders and len(parts) > 1 and parts[1].startswith(ATTEMPT_PREFIX):
            depth = 2
            if tuple(parts[:2]) in used:  # beside what is published: the spill folder, or one file
                depth = 3 if parts[2:3] == [SPILL_FOLDER] else len(parts)
            folder = storage.join(root.path, *parts[:depth])
            attempts.setdefault(folder, []).append(listed)
        else:
            loose.append(listed)
    found = _loose(root.path, loose)
    for path, files in attempts.items():
        parts = _relative(root.path, path)
        kind = "attempt"
        if len(parts) > 2:
            kind = "spill" if parts[2:] == [SPILL_FOLDER] else "file"
        elif any(_relative(path, listed.path) == [AUDIT_NAME] for listed in files):
            kind = "refused attempt"
        named = path if kind == "file" else path + "/"
        found.append(Stray(kind, named, tuple(files), True))
    if root.problems:
        found = [dataclasses.replace(stray, removable=False) for stray in found]
    return sorted(found, key=lambda stray: stray.path)


def _loose(root: str, files: list[Listed]) -> list[Stray]:
    """Temporary files of interrupted writes, and what Playhead does not make."""
    found: list[Stray] = []
    foreign: dict[str, list[Listed]] = {}
    for listed in files:
        parts = _relative(root, listed.path)
        if _TEMPORARY.fullmatch(parts[-1]) and len(parts) < 3:
            found.append(Stray("temporary", listed.path, (listed,), True))
        else:
            top = storage.join(root, parts[0]) + ("/" if len(parts) > 1 else "")
            foreign.setdefault(top, []).append(listed)
    return found + [Stray("foreign", path, tuple(each), False) for path, each in foreign.items()]


def _notes(root: Root) -> list[str]:
    """Versions that were withdrawn; and one that a run published, but died before it made it
    current."""
    gone = [
        f"{root.path}/{name}: withdrawn for a deletion; {said.successor} takes its place"
        for name, said in sorted(root.withdrawn.items())
    ]
    return gone + _not_current(root)


def _not_current(root: Root) -> list[str]:
    with_rows = [
        each for each in root.versions.values() if each.kind == "events" or each.status == "OK"
    ]
    latest = max(with_rows, key=lambda each: each.run.started_at, default=None)
    if root.problems or latest is None:
        return []
    if root.current is None:
        return [f"{root.path}: {latest.version} is published, but none is current; run it again"]
    if latest.run.started_at > root.current.run.started_at:
        return [f"{root.path}: {latest.version} is published and later than the current version"]
    return []


def verify(root: Root) -> list[str]:
    """Reads every published file of a root; a line for each that is not what was published."""
    problems = []
    for path, entry in sorted(referenced([root]).items()):
        try:
            digest, size = storage.sha256(path)
        except FileNotFoundError:
            continue  # `examine` says so
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error}")
            continue
        if size == entry.bytes and digest != entry.sha256:
            problems.append(f"{path}: was changed after it was published (other SHA-256)")
    return problems


def removable(strays: list[Stray], older_than_s: float, now_s: float) -> list[Stray]:
    """Those that may be removed and are old enough."""
    return [each for each in strays if each.removable and each.is_older(older_than_s, now_s)]


def remove(path: str, strays: list[Stray], older_than_s: float, now_s: float) -> list[Stray]:
    """Removes those strays that may be and are old enough, and returns them.

    Everything is looked at again first: what a run has touched, or some manifest has come to list,
    since the strays were found is left alone.

    Args:
      path: as for `roots`.
      strays: as found there.
      older_than_s: age in seconds that the newest file of a stray has to exceed.
      now_s: seconds since 1970.
    """
    found, still = roots(path)
    wanted = referenced(found)
    for root in found:
        still += _strays(root, wanted)
    removed = [stray for stray in removable(strays, older_than_s, now_s) if stray in still]
    for stray in removed:
        storage.delete_files([listed.path for listed in stray.files], path)
    return removed
