"""Do two outputs hold the same rows?

A row is known by (user_id, event_id). Each column of an output gets a digest that depends on which
value belongs to which row but not on the order of rows or files: the sum, modulo 2^64, of a hash of
(key, value) over the rows; `(row)` is the same over all columns at once. Values are compared as 64
bit integers, booleans, texts, lists of these, UTC microseconds, and floats after rounding to 1e-9.
Session ids are compared as a partition of the rows: each id is replaced by the smallest hash of an
event id that has it.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import polars as pl
import pyarrow.parquet as pq

KEY = ("user_id", "event_id")
SESSION = "session_id"
ROW = "(row)"

_BATCH_ROWS = 262_144
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Digest:
    """rows: how many; columns: digest by column name, in name order, ROW last."""

    rows: int
    columns: dict[str, int]


def parquet_files(output: pathlib.Path) -> list[pathlib.Path]:
    """Data files of an output folder; Spark's and Playhead's helper files start with _ or a dot."""
    files = sorted(p for p in output.rglob("*.parquet") if p.name[0] not in "_.")
    if not files:
        raise FileNotFoundError(f"{output}: no Parquet file")
    return files


def _tables(output: pathlib.Path, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
    for path in parquet_files(output):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                table = pl.from_arrow(batch)
                assert isinstance(table, pl.DataFrame)
                if table.height:
                    yield table


def _canonical(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.List):
        inner = dtype.inner
        assert isinstance(inner, pl.DataType)
        return column.list.eval(_plain(pl.element(), inner).cast(pl.String)).list.join(
            "\x1f", ignore_nulls=False
        )
    return _plain(column, dtype)


def _plain(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype.is_float():
        # + 0.0 makes -0.0 a plain zero.
        return (column.cast(pl.Float64) * 1e9).round() / 1e9 + 0.0
    if isinstance(dtype, pl.Datetime):
        return column.dt.cast_time_unit("us").to_physical()
    if dtype.is_integer():
        return column.cast(pl.Int64, wrap_numerical=True)
    return column


def _sessions(output: pathlib.Path) -> pl.DataFrame:
    """SESSION and `session`: the smallest hash of an event id of each session."""
    parts = [
        table.group_by(SESSION).agg(pl.col("event_id").hash().min().alias("session"))
        for table in _tables(output, [SESSION, "event_id"])
    ]
    return pl.concat(parts).group_by(SESSION).agg(pl.col("session").min())


def _canonical_tables(output: pathlib.Path) -> Iterator[pl.DataFrame]:
    """All rows with comparable values, columns in name order."""
    sessions = _sessions(output)
    for table in _tables(output):
        joined = table.join(sessions, on=SESSION, how="left", maintain_order="left")
        yield joined.select(
            pl.when(pl.col(SESSION).is_not_null()).then("session").alias(name)
            if name == SESSION
            else _canonical(name, table.schema[name]).alias(name)
            for name in sorted(table.columns)
        )


def columns_of(output: pathlib.Path) -> set[str]:
    """Columns that an output has."""
    return set(pq.read_schema(parquet_files(output)[0]).names)


def digest(output: pathlib.Path, only: set[str] | None = None) -> Digest:
    """The digest of all Parquet files under a folder, or of one file's folder.

    `only`: leave all other columns out, as if they were not there.
    """
    rows, sums = 0, {}
    for table in _canonical_tables(output):
        rows += table.height
        table = table if only is None else table.select(n for n in table.columns if n in only)
        key = pl.struct(KEY).hash()
        hashes = table.select(
            *(pl.struct(key.alias("key"), name).hash().alias(name) for name in table.columns),
            pl.struct(table.columns).hash().alias(ROW),
        )
        for name in hashes.columns:
            # In two halves: a sum of 64 bit hashes would overflow, and not wrap in every version.
            low = int((hashes[name] & 0xFFFFFFFF).sum())
            high = int((hashes[name] // (1 << 32)).sum())
            sums[name] = (sums.get(name, 0) + low + (high << 32)) % (1 << 64)
    return Digest(rows, sums)


def differences(expected: Digest, got: Digest) -> list[str]:
    """Names of the columns that differ; `(rows)` stands for another number of rows."""
    names = [] if expected.rows == got.rows else ["(rows)"]
    names += sorted(expected.columns.keys() ^ got.columns.keys())
    common = expected.columns.keys() & got.columns.keys()
    names += sorted(n for n in common - {ROW} if expected.columns[n] != got.columns[n])
    if not names and expected.columns[ROW] != got.columns[ROW]:
        names.append(ROW)
    return names


def describe(expected: pathlib.Path, got: pathlib.Path, columns: list[str]) -> str:
    """For each differing column how many rows differ, and three of them; reads both outputs."""
    left = pl.concat(list(_canonical_tables(expected)))
    right = pl.concat(list(_canonical_tables(got)))
    lines = []
    for name, a, b in (("missing", left, right), ("unexpected", right, left)):
        only = a.join(b, on=KEY, how="anti")
        if only.height:
            examples = only.select(KEY).head(_SHOWN).rows()
            lines.append(f"  {only.height:,} rows {name}, such as {examples}")
    both = left.join(right, on=KEY, suffix=" got")
    for name in columns:
        if name not in left.columns or name not in right.columns:
            if not name.startswith("("):
                lines.append(f"  {name}: only in one of them")
            continue
        if name in KEY:
            continue
        other = both.filter(pl.col(name).ne_missing(pl.col(f"{name} got")))
        if other.height:
            lines.append(f"  {name}: {other.height:,} of {both.height:,} rows differ")
            lines += (
                f"    {row[0]} {row[1]}: expected {row[2]!r}, got {row[3]!r}"
                for row in other.select(*KEY, name, f"{name} got").head(_SHOWN).rows()
            )
    return "\n".join(lines)
