"""Files wherever Beam can reach them: the few operations that Playhead needs.

Everything goes through Beam's FileSystems, except the one operation that Beam does not have and
publishing stands on: writing a file only if nobody wrote it meanwhile. Each scheme that can do that
registers how (`register_conditional_put`); the others cannot be published to.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import posixpath
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from transforms.errors import UsageError

_CHUNK_BYTES = 1 << 20
_SYNC_THREADS = 16  # a file system's journal takes many at once

# (path, data, expected) -> whether `path` now holds `data`: written as a whole, in one step, if it
# held `expected` (None: if it was not there), else left alone. If it raises, nobody knows.
ConditionalPut = Callable[[str, bytes, bytes | None], bool]
_conditional_puts: dict[str, ConditionalPut] = {}


def register_conditional_put(scheme: str, put: ConditionalPut) -> None:
    """Makes a scheme one that can be published to."""
    _conditional_puts[scheme] = put


def _conditional_put(path: str) -> ConditionalPut:
    if is_local(path):
        return _put_local
    scheme = path.split("://", 1)[0]
    if scheme not in _conditional_puts:
        known = ", ".join(f"{each}://" for each in sorted(_conditional_puts))
        raise UsageError(
            f"{path}: cannot publish to {scheme}:// (no conditional create); "
            f"expected a path of this machine{known and f' or {known}'}"
        )
    return _conditional_puts[scheme]


def check_can_publish(root: str) -> None:
    """Refuses a folder in which nothing could be committed, before any work.

    Raises:
      UsageError: naming it.
    """
    _conditional_put(root)


def is_local(path: str) -> bool:
    """True for a path of this machine's file system."""
    return "://" not in path


def absolute(path: str) -> str:
    """The one name of a file however it was named: local paths from the root, without `..`."""
    return os.path.abspath(path) if is_local(path) else path


def join(base: str, *parts: str) -> str:
    """Joins path parts with `/` for object stores and local paths alike."""
    return posixpath.join(base, *parts)


def open_read(path: str) -> BinaryIO:
    """A seekable stream of a file's raw bytes; nothing is decompressed by suffix."""
    if is_local(path):
        return open(path, "rb")
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    return cast(BinaryIO, FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED))


def read_bytes(path: str) -> bytes:
    """The whole of a small file.

    Raises:
      FileNotFoundError: if there is none.
    """
    if not is_local(path) and not exists(path):
        raise FileNotFoundError(path)
    with open_read(path) as stream:
        return stream.read()


def size(path: str) -> int:
    """Bytes of a file; 0 for what is none, such as a device or a pipe.

    Raises:
      FileNotFoundError: if there is nothing.
    """
    if is_local(path):
        found = os.stat(path)
        return found.st_size if stat.S_ISREG(found.st_mode) else 0
    if not exists(path):
        raise FileNotFoundError(path)
    from apache_beam.io.filesystems import FileSystems

    (match,) = FileSystems.match([path])
    return sum(int(entry.size_in_bytes) for entry in match.metadata_list)


def exists(path: str) -> bool:
    """Whether a file or local folder is there."""
    if is_local(path):
        return os.path.exists(path)
    from apache_beam.io.filesystems import FileSystems

    return bool(FileSystems.exists(path))


def create_writer(path: str) -> BinaryIO:
    """A stream that writes a new file, creating local parent folders."""
    if is_local(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return open(path, "wb")
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    return cast(BinaryIO, FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED))


# How libraries that write through a stream repeat what the system said.
_ERRNO = re.compile(r"(?:os error |\[Errno )(\d+)")


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """`create_writer` for one block; an error of writing names the path.

    Raises:
      OSError: with an errno and the path as its filename.
    """
    with _naming(path), create_writer(path) as stream:
        yield stream


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is not None:
            raise
        said = _ERRNO.search(str(error))
        code = error.errno or (int(said[1]) if said else errno.EIO)
        raise OSError(code, os.strerror(code) if said else str(error), path) from error


def create_if_absent(path: str, data: bytes) -> bool:
    """Creates `path` with all of `data`, or leaves an existing file alone, atomically.

    Of any number of concurrent callers exactly one gets True. A reader sees no file or the whole
    file, never a part: locally the bytes are synced under another name and then linked.

    Raises:
      UsageError: for a scheme whose conditional create is not supported.
    """
    return _conditional_put(path)(path, data, None)


def swap(path: str, expected: bytes | None, data: bytes) -> bool:
    """Replaces `path` by `data` if it still holds `expected` (None: if there is none), atomically
    for readers and among callers of this function; whether it did.

    Raises:
      UsageError: for a scheme whose conditional create is not supported.
    """
    return _conditional_put(path)(path, data, expected)


def _put_local(path: str, data: bytes, expected: bytes | None) -> bool:
    if expected is not None:
        with _locked_folder(path):
            if not os.path.exists(path) or read_bytes(path) != expected:
                return False
            replace(path, data)
            return True
    temporary = _write_synced_sibling(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    _sync_folder(path)
    return True


@contextlib.contextmanager
def _locked_folder(path: str) -> Iterator[None]:
    """Keeps other callers out of the folder of `path`; a process that dies lets go of it."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def replace(path: str, data: bytes) -> None:
    """Writes `path` as a whole, replacing what was there, atomically for readers."""
    if is_local(path):
        os.replace(_write_synced_sibling(path, data), path)
        _sync_folder(path)
        return
    with create_writer(path) as stream:  # a single put is atomic on object stores
        stream.write(data)


def _write_synced_sibling(path: str, data: bytes) -> str:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with _naming(path), open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def _sync_folder(path: str) -> None:
    _sync(os.path.dirname(path) or ".")


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_below(root: str, paths: list[str]) -> None:
    """Waits until local files below a folder, and the folders they are in up to the parent of it,
    would survive a power cut. What an object store has taken does anyway."""
    if not is_local(root) or not paths:
        return
    folders = {os.path.dirname(root) or "."}
    for path in paths:
        while len(path := os.path.dirname(path)) >= len(root):
            folders.add(path)
    with concurrent.futures.ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(_sync, paths))
        list(pool.map(_sync, sorted(folders)))


def delete_tree(path: str) -> None:
    """Deletes a folder and all below it; a missing one is fine, and what cannot be deleted stays:
    nobody reads it, and `playhead fsck` finds it."""
    if is_local(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        delete_files([listed.path for listed in list_tree(path)], path)


def delete_files(paths: list[str], root: str) -> None:
    """Deletes files below a folder, and with them local folders in it that this leaves empty; files
    that are not there are fine."""
    if not paths:
        return
    if not is_local(root):
        from apache_beam.io.filesystems import FileSystems

        FileSystems.delete([path for path in paths if FileSystems.exists(path)])
        return
    for path in paths:
        if not path.endswith("/"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        folder = os.path.dirname(path)
        while len(folder) > len(root):
            delete_if_empty(folder)
            folder = os.path.dirname(folder)


def delete_file(path: str) -> None:
    """Deletes a file; a missing one is fine."""
    if is_local(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    from apache_beam.io.filesystems import FileSystems

    if FileSystems.exists(path):
        FileSystems.delete([path])


def delete_if_empty(path: str) -> None:
    """Removes a local folder if nothing is in it; object stores have no folders."""
    if is_local(path):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def list_files(pattern: str) -> list[tuple[str, int]]:
    """(path, size in bytes) of every file that matches a pattern, sorted by path.

    A local file whose name looks like a pattern is that file. For raw input only: what Playhead
    publishes is read from manifests, never by a pattern.
    """
    if is_local(pattern) and os.path.isfile(pattern):
        return [(pattern, os.path.getsize(pattern))]
    from apache_beam.io.filesystems import FileSystems

    (match,) = FileSystems.match([pattern])
    return sorted(
        (entry.path, int(entry.size_in_bytes))
        for entry in match.metadata_list
        if not (is_local(entry.path) and os.path.isdir(entry.path))
    )


def list_folder(path: str) -> list[str]:
    """Names directly under a folder, sorted; empty if there is no such folder."""
    if is_local(path):
        return sorted(os.listdir(path)) if os.path.isdir(path) else []
    prefix = path.rstrip("/") + "/"
    names = {name[len(prefix) :].split("/", 1)[0] for name, _ in list_files(prefix + "**")}
    return sorted(names)


@dataclasses.dataclass(frozen=True)
class Listed:
    """What a listing says of a file.

    Attributes:
      path: full; ends in `/` for a local folder that has nothing in it.
      bytes: size.
      modified_s: when it was last written, seconds since 1970; None if the file system cannot tell.
    """

    path: str
    bytes: int
    modified_s: float | None


def list_tree(root: str) -> list[Listed]:
    """Every file below a folder, however deep, sorted by path; links are not followed."""
    if not is_local(root):
        from apache_beam.io.filesystems import FileSystems

        (match,) = FileSystems.match([root.rstrip("/") + "/**"])
        return sorted(
            (
                Listed(
                    entry.path,
                    int(entry.size_in_bytes),
                    float(entry.last_updated_in_seconds or 0) or None,
                )
                for entry in match.metadata_list
            ),
            key=lambda listed: listed.path,
        )
    found = []
    for folder, folders, names in os.walk(root):
        links = [name for name in folders if os.path.islink(join(folder, name))]
        empty = [] if folders or names or folder == root else [""]
        for name in names + links + empty:
            path = join(folder, name)
            with contextlib.suppress(FileNotFoundError):  # gone since its folder was read
                stat = os.lstat(path)
                found.append(Listed(path, stat.st_size if name else 0, stat.st_mtime))
    return sorted(found, key=lambda listed: listed.path)


def _chunks(path: str) -> Iterator[bytes]:
    with open_read(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def sha256(path: str) -> tuple[str, int]:
    """(hex digest, size in bytes) of a file as it can be read back now."""
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(path):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def checksum(path: str) -> str:
    """What tells one content of an input file from another: hex CRC-32C of a local file, the
    checksum that an object store keeps for the others, which costs no reading."""
    if not is_local(path):
        from apache_beam.io.filesystems import FileSystems

        return str(FileSystems.checksum(path))
    import google_crc32c

    value = 0
    for chunk in _chunks(path):
        value = google_crc32c.extend(value, chunk)
    return f"{value:08x}"
