"""Files wherever Beam can reach them: the few operations that Playhead needs.

Everything goes through Beam's FileSystems, except the one operation that Beam does not have and
publishing stands on: creating a file only if it does not exist.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import secrets
import shutil
import stat
from collections.abc import Iterator
from typing import BinaryIO, cast

from transforms.errors import UsageError

_CHUNK_BYTES = 1 << 20


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


def create_if_absent(path: str, data: bytes) -> bool:
    """Creates `path` with all of `data`, or leaves an existing file alone, atomically.

    Of any number of concurrent callers exactly one gets True. A reader sees no file or the whole
    file, never a part: locally the bytes are synced under another name and then linked.

    Raises:
      UsageError: for a scheme whose conditional create is not supported.
    """
    if not is_local(path):
        scheme = path.split("://", 1)[0]
        raise UsageError(
            f"{path}: cannot publish to {scheme}:// (no conditional create); "
            "expected a path of this machine"
        )
    temporary = _write_synced_sibling(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    _sync_folder(path)
    return True


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
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def delete_tree(path: str) -> None:
    """Deletes a folder and all below it; a missing one is fine."""
    if is_local(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    from apache_beam.io.filesystems import FileSystems

    FileSystems.delete([path.rstrip("/") + "/"])


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
