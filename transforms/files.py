"""Writing one file of an attempt, and reading it back before it counts.

Parquet here is for Playhead's own store; what model code reads is written by `transforms.shards`.
"""

from __future__ import annotations

import io

import polars as pl
import pyarrow.parquet as pq

from transforms import storage
from transforms.errors import DataRefusedError
from transforms.manifest import FileEntry

# zstd level 1: two thirds of lz4's size for a third more time (measured on 4 M events).
_COMPRESSION_LEVEL = 1
_ROW_GROUP_ROWS = 262_144


def write_table(
    table: pl.DataFrame,
    attempt_root: str,
    path: str,
    role: str,
    buckets: tuple[int, int] | None = None,
) -> FileEntry:
    """Writes a table as Parquet and describes the file as it can be read back.

    Same table, same bytes. A retried write replaces the file with equal bytes.

    Args:
      table: what to write.
      attempt_root: the attempt's folder.
      path: relative to it.
      role: see `FileEntry`.
      buckets: inclusive range of user buckets in the table.
    """
    full_path = storage.join(attempt_root, path)
    buffer = io.BytesIO()
    table.write_parquet(
        buffer,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        row_group_size=_ROW_GROUP_ROWS,
    )
    with storage.writing(full_path) as stream:
        stream.write(buffer.getbuffer())
    return describe(attempt_root, path, role, table.height, buckets)


def write_bytes(data: bytes, attempt_root: str, path: str, role: str) -> FileEntry:
    """Writes a file that is no table, and hashes it as it can be read back."""
    full_path = storage.join(attempt_root, path)
    with storage.writing(full_path) as stream:
        stream.write(data)
    digest, size = storage.sha256(full_path)
    return FileEntry(path=path, role=role, format="other", rows=0, bytes=size, sha256=digest)


def describe(
    attempt_root: str,
    path: str,
    role: str,
    expected_rows: int,
    buckets: tuple[int, int] | None = None,
) -> FileEntry:
    """Re-opens a Parquet file, counts its rows, hashes its bytes.

    Raises:
      DataRefusedError: if the file does not hold the rows that were written.
    """
    full_path = storage.join(attempt_root, path)
    digest, size = storage.sha256(full_path)
    with storage.open_read(full_path) as stream:
        rows = pq.read_metadata(stream).num_rows
    if rows != expected_rows:
        raise DataRefusedError(f"{full_path}: wrote {expected_rows} rows, read back {rows}")
    first, last = buckets or (None, None)
    return FileEntry(
        path=path,
        role=role,
        rows=rows,
        bytes=size,
        sha256=digest,
        first_bucket=first,
        last_bucket=last,
    )
