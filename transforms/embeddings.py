"""Item embeddings in Parquet files: one row an item, its id and a vector of finite numbers.

The id column holds text, or whole numbers, whose decimal text is then the id. The vector column is
a list, or a list of fixed length, of numbers; all vectors have one length. Other columns are not
read. A file may say in its key-value metadata, under `playhead.trained_until`, until when data went
into the vectors.

A file is read in tables of 131,072 rows: that many vectors, as the file has them, are in memory at
a time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from transforms import storage
from transforms.adapters.base import InputFile
from transforms.adapters.containers import read_parquet
from transforms.adapters.containers.tables import COPY_AGAIN, damage_is
from transforms.errors import DataRefusedError, UsageError

FloatArray = npt.NDArray[np.float64]

TRAINED_UNTIL_KEY = b"playhead.trained_until"
BATCH_ROWS = 16_384


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embedding files whose footers were read. Made by `describe`.

    Attributes:
      paths: the files.
      id_column, vector_column: names of the columns.
      items: rows in all files.
      dimensions: length of the first vector, which all others have to have.
      trained_until: (path, what its metadata says), of the files that say it.
    """

    paths: tuple[str, ...]
    id_column: str
    vector_column: str
    items: int
    dimensions: int
    trained_until: tuple[tuple[str, str], ...]

    def batches(self) -> Iterator[tuple[pl.Series, FloatArray]]:
        """Ids (String, no nulls) and vectors (one row an item) of up to BATCH_ROWS items.

        Raises:
          InputFileError: a file that is cut or damaged.
          DataRefusedError: a null id, a vector that is null, of another length, or not finite.
        """
        for path in self.paths:
            for table in _tables(path, self.id_column, self.vector_column):
                for rows in table.iter_slices(BATCH_ROWS):
                    ids = _ids(path, rows[self.id_column])
                    yield ids, _vectors(path, ids, rows[self.vector_column], self.dimensions)


def describe(paths: tuple[str, ...], id_column: str, vector_column: str) -> Embeddings:
    """What the footers and the first row of the files say.

    Raises:
      InputFileError: not a Parquet file, or a damaged one.
      UsageError: a file lacks a column, or one has another type than the module docstring says.
      DataRefusedError: the files hold no row, or the first vector is null or empty.
    """
    if id_column == vector_column:
        raise UsageError(f"--vector-column: expected another column than the ids', {id_column!r}")
    items, dimensions, said = 0, 0, []
    for path in paths:
        damaged = f"truncated or damaged Parquet file, or not Parquet at all; {COPY_AGAIN}"
        with storage.open_read(path) as stream, damage_is(damaged, path):
            footer = pq.read_metadata(stream)
            names = footer.schema.to_arrow_schema().names
        for option, name in (("--id-column", id_column), ("--vector-column", vector_column)):
            if name not in names:
                raise UsageError(
                    f"{option}: {path} has no column {name!r}; it has {', '.join(names)}"
                )
        text = (footer.metadata or {}).get(TRAINED_UNTIL_KEY)
        if text is not None:
            said.append((path, text.decode("utf-8", "replace")))
        items += footer.num_rows
        if footer.num_rows and not dimensions:
            dimensions = _first_length(path, id_column, vector_column)
    if not items:
        raise DataRefusedError(f"{paths[0]}: holds no item")
    return Embeddings(paths, id_column, vector_column, items, dimensions, tuple(said))


def _tables(path: str, id_column: str, vector_column: str) -> Iterator[pl.DataFrame]:
    file = InputFile(path, functools.partial(storage.open_read, path))
    for table in read_parquet(file, [id_column, vector_column]):
        if table.rejects.height:
            raise DataRefusedError(f"{path}: {id_column}: row {table.rejects[0, 0]} is not UTF-8")
        _check_types(path, table.rows[id_column].dtype, table.rows[vector_column].dtype)
        yield table.rows.with_columns(pl.col(vector_column).cast(pl.List(pl.Float64)))


def _check_types(path: str, id_type: pl.DataType, vector_type: pl.DataType) -> None:
    if not (id_type == pl.String or id_type.is_integer()):
        raise UsageError(f"--id-column: {path}: expected text or whole numbers, got {id_type}")
    inner = vector_type.inner if isinstance(vector_type, pl.List | pl.Array) else pl.Null()
    if not pl.Series(dtype=inner).dtype.is_numeric():
        raise UsageError(f"--vector-column: {path}: expected lists of numbers, got {vector_type}")


def _first_length(path: str, id_column: str, vector_column: str) -> int:
    first = next(_tables(path, id_column, vector_column))[vector_column][:1]
    length = first.list.len()[0]
    if not length:
        raise DataRefusedError(f"{path}: {vector_column}: the first vector is null or empty")
    return int(length)


def _ids(path: str, column: pl.Series) -> pl.Series:
    ids = column.cast(pl.String)
    if ids.null_count():
        raise DataRefusedError(f"{path}: {column.name}: {ids.null_count()} ids are null")
    return ids


def _vectors(path: str, ids: pl.Series, column: pl.Series, dimensions: int) -> FloatArray:
    lengths = column.list.len()
    ragged = (lengths.is_null() | (lengths != dimensions)).fill_null(True)
    if ragged.any():
        row = ragged.arg_max() or 0
        got = "null" if lengths[row] is None else f"{lengths[row]} numbers"
        raise DataRefusedError(
            f"{path}: {column.name} of {ids[row]!r}: expected {dimensions} numbers as in the first "
            f"vector, got {got}"
        )
    vectors: FloatArray = column.explode().to_numpy().reshape(-1, dimensions)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataRefusedError(
            f"{path}: {column.name} of {ids[int(bad[0])]!r}: expected finite numbers, got null, "
            "NaN or infinity"
        )
    return vectors
