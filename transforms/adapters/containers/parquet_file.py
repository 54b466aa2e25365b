"""Parquet files.

* Columns are top-level ones and keep the file's own types, but: INT96 is Datetime("us"),
  dictionary-encoded columns are plain, BYTE_ARRAY without a text annotation is read as String.
* Text is checked to be UTF-8, which Arrow does not: a row with other bytes in a text column is a
  reject `bad_utf8`. Inside lists and structs there is no such reject: there it raises.
* Page checksums are verified where the writer put them.
* The footer is compared with the file, and the rows with the footer.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.adapters.base import OFFSET, TABLE_ROWS, InputFile, RawTable
from transforms.adapters.containers import limits
from transforms.adapters.containers.tables import COPY_AGAIN, damage_is, rejects
from transforms.adapters.containers.text import decoded
from transforms.errors import InputFileError


def _check_footer(path: str, footer: pq.FileMetaData, size: int) -> None:
    groups = [footer.row_group(at) for at in range(footer.num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    if (
        footer.num_rows != sum(group.num_rows for group in groups)
        or any(group.num_rows < 0 for group in groups)
        or any(not 0 <= chunk.total_compressed_size <= size for chunk in chunks)
        or footer.num_rows > limits.FREE_ROWS + limits.MAX_ROWS_PER_BYTE * size
    ):
        raise InputFileError(path, f"the Parquet footer contradicts the file; {COPY_AGAIN}")


def _text_as_bytes(array: pa.Array) -> pa.Array:
    if pa.types.is_string(array.type):
        return array.view(pa.binary())
    if pa.types.is_large_string(array.type):
        return array.view(pa.large_binary())
    return array


def _checked(array: pa.Array) -> pa.Array:
    """The array with what it points to checked, plain, and its text as bytes yet to be decoded."""
    if pa.types.is_dictionary(array.type):
        # Checks that the indices are inside the dictionary.
        array = pa.DictionaryArray.from_arrays(array.indices, _checked(array.dictionary))
        array = array.dictionary_decode()
    array = _text_as_bytes(array)
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
            stream,
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
