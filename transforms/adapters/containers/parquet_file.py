"""Parquet files.

* Columns are top-level ones and keep the file's own types, but: INT96 is Datetime("us"),
  dictionary-encoded columns are plain, BYTE_ARRAY without a text annotation is read as String.
* Text is checked to be UTF-8, which Arrow does not: a row with other bytes in a text column is a
  reject `bad_utf8`. Inside lists, structs and dictionaries it spoils the file.
* A table is what one batch of TABLE_ROWS rows holds, however wide they are.
* Page checksums are verified where the writer put them.
* The footer is compared with the file, and the rows with the footer.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.adapters.base import OFFSET, TABLE_ROWS, InputFile, RawTable
from transforms.adapters.containers import limits
from transforms.adapters.containers.tables import COPY_AGAIN, damage_is, rejects
from transforms.adapters.containers.text import decoded
from transforms.errors import InputFileError

_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}


class _Clamped:
    """A stream of which no more is asked than it holds: a forged length must not be allocated."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._stream.tell())
        return self._stream.read(left if size < 0 else min(size, left))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _check_footer(path: str, footer: pq.FileMetaData, size: int) -> None:
    # Not the columns of a group: where a footer is damaged, asking for them ends the process
    # (Arrow's C++ exception is not translated). Reading them raises.
    groups = [footer.row_group(at).num_rows for at in range(footer.num_row_groups)]
    if (
        footer.num_rows != sum(groups)
        or any(rows < 0 for rows in groups)
        or footer.num_rows > limits.FREE_ROWS + limits.MAX_ROWS_PER_BYTE * size
    ):
        raise InputFileError(path, f"the Parquet footer contradicts the file; {COPY_AGAIN}")


def _checked(array: pa.Array) -> pa.Array:
    """The array with all that it points to checked, plain, and its text as bytes to be decoded."""
    if pa.types.is_dictionary(array.type):
        array.validate(full=True)
        array = array.dictionary_decode()
    if array.type in _BYTES:
        array = array.view(_BYTES[array.type])
    array.validate(full=True)
    return array


def _part(batch: pa.RecordBatch, offset: int) -> RawTable:
    raw = pl.DataFrame(
        [
            pl.Series(OFFSET, range(offset, offset + len(batch))),
            *(
                pl.Series(name, _checked(array))
                for name, array in zip(batch.schema.names, batch.columns, strict=True)
            ),
        ]
    )
    texts = [column for column in raw if column.dtype == pl.Binary]
    rows = raw.with_columns(map(decoded, texts))
    bad = [text.is_not_null() & rows[text.name].is_null() for text in texts]
    if not any(each.any() for each in bad):
        return RawTable(rows, RawTable.no_rejects())
    spoilt = pl.select(pl.any_horizontal(bad)).to_series()
    return RawTable(
        rows.filter(~spoilt), rejects(dict.fromkeys(rows[OFFSET].filter(spoilt), "bad_utf8"))
    )


def read_parquet(file: InputFile, columns: Sequence[str] | None = None) -> Iterator[RawTable]:
    """A Parquet file, batch by batch.

    Args:
      file: the file.
      columns: the top-level columns to read; those the file lacks are left out. None reads all.

    Yields:
      OFFSET (row number in the file) and the columns that exist, in the order of `columns`; types
      as in the module docstring. Rejects: `bad_utf8`.

    Raises:
      InputFileError: empty, truncated, damaged or encrypted file, a footer that contradicts it,
        none of `columns` exists, or a column of a type that tables cannot hold.
    """
    damaged = f"truncated or damaged Parquet file, or not Parquet at all; {COPY_AGAIN}"
    with file.open() as stream, damage_is(damaged, file.path):
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if not size:
            raise InputFileError(file.path, f"empty file, not Parquet; {COPY_AGAIN}")
        source = pq.ParquetFile(
            _Clamped(stream, size),
            coerce_int96_timestamp_unit="us",
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        )
        _check_footer(file.path, source.metadata, size)
        present = source.schema_arrow.names
        names = present if columns is None else [name for name in columns if name in present]
        if not names:
            raise InputFileError(
                file.path,
                "has none of the expected columns; the first is " + repr((columns or ["?"])[0]),
            )
        offset = 0
        for batch in source.iter_batches(batch_size=TABLE_ROWS, columns=names):
            if len(batch):
                yield _part(batch.select(names), offset)
            offset += len(batch)
        if offset != source.metadata.num_rows:
            raise InputFileError(
                file.path,
                f"the footer promises {source.metadata.num_rows} rows, the file has {offset}; "
                + COPY_AGAIN,
            )
