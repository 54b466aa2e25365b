"""Records that exist as Python objects (from JSON or Avro), typed and laid out in columns.

What a column's type takes, apart from null and absence, which are null:

| Type         | Values                                                                            |
|--------------|-----------------------------------------------------------------------------------|
| String       | text; UTF-8 bytes; a number as its decimal text (below 2^53 if not an integer)    |
| Int64        | an integer of 64 bits; a number without fraction up to 2^53 (180000.0 is 180000)  |
| Float64      | a number                                                                          |
| Boolean      | true, false                                                                       |
| List(scalar) | a list of such values or nulls                                                    |

Anything else rejects its record: `bad_utf8` for text that is none, else `bad_<path>`. A true is no
number, and text is never parsed. The first column that does not fit names the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import polars as pl

from transforms.adapters.base import OFFSET, RawTable
from transforms.adapters.containers.tables import rejects


class Column(NamedTuple):
    """A column to read.

    Attributes:
      name: in the table.
      path: dotted, in the record; a key that itself contains a dot cannot be reached.
      dtype: one of those of the module docstring.
    """

    name: str
    path: str
    dtype: pl.DataType


def _text(value: Any) -> str:
    kind: type = type(value)
    if kind is str:
        value.encode()  # raises for a lone surrogate
        return value
    if kind is bytes:
        return value.decode()
    # Above 2^53 a double no longer is the number that was written: two ids could become one.
    if kind is int or (kind is float and abs(value) < 2**53):
        return str(value)
    raise ValueError


def _integer(value: Any) -> int:
    kind: type = type(value)
    if kind is int and -(2**63) <= value < 2**63:
        return value
    if kind is float and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    raise ValueError


def _floating(value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    raise ValueError


def _boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise ValueError


# Polars type -> (Python types it takes as they are, conversion of one value of another type).
_SCALARS: dict[pl.DataType, tuple[set[type], Callable[[Any], Any]]] = {
    pl.String(): ({str}, _text),
    pl.Int64(): ({int}, _integer),
    pl.Float64(): ({int, float}, _floating),
    pl.Boolean(): ({bool}, _boolean),
}


def _rule(dtype: pl.DataType) -> tuple[set[type], Callable[[Any], Any]]:
    if not isinstance(dtype, pl.List):
        return _SCALARS[dtype]
    _, convert = _SCALARS[cast("pl.DataType", dtype.inner)]  # its class is equal to it

    def convert_list(value: Any) -> list[Any]:
        if type(value) is not list:
            raise ValueError
        return [None if item is None else convert(item) for item in value]

    return set(), convert_list


def _series(column: Column, values: list[Any], bad: dict[int, str]) -> pl.Series:
    """The column; a value that does not fit becomes null and its row is entered in `bad`."""
    plain, convert = _rule(column.dtype)
    if set(map(type, values)) <= plain | {type(None)}:
        try:
            return pl.Series(column.name, values, dtype=column.dtype, strict=True)
        except (TypeError, OverflowError, UnicodeError):
            pass  # an integer beyond 64 bits, or a lone surrogate: find the row
    for row, value in enumerate(values):
        if value is None:
            continue
        try:
            values[row] = convert(value)
        except ValueError as error:
            values[row] = None
            is_text = isinstance(error, UnicodeError)
            bad.setdefault(row, "bad_utf8" if is_text else f"bad_{column.path}")
    return pl.Series(column.name, values, dtype=column.dtype, strict=True)


def columnar(
    records: Sequence[Mapping[str, Any]],
    offsets: Sequence[int],
    columns: Sequence[Column],
    refused: Mapping[int, str] | None = None,
) -> RawTable:
    """The records as OFFSET and `columns`, all nullable.

    Args:
      records: one a row; keys that no column names are ignored.
      offsets: the OFFSET of each record.
      columns: what to take. A part of a path that is null or absent makes the column null; one that
        is neither that nor an object rejects the record, `bad_<that part of the path>`.
      refused: offset -> reason of records that are not among `records`; they join the rejects.
    """
    bad: dict[int, str] = {}
    parents: dict[str, Sequence[Mapping[str, Any]]] = {"": records}

    def inside(path: str) -> Sequence[Mapping[str, Any]]:
        if path not in parents:
            found = values_at(path)
            for row, value in enumerate(found):
                if type(value) is not dict:
                    if value is not None:
                        bad.setdefault(row, f"bad_{path}")
                    found[row] = {}
            parents[path] = found
        return parents[path]

    def values_at(path: str) -> list[Any]:
        head, _, leaf = path.rpartition(".")
        return [record.get(leaf) for record in inside(head)]

    rows = pl.DataFrame(
        [
            pl.Series(OFFSET, offsets, dtype=pl.Int64),
            *(_series(column, values_at(column.path), bad) for column in columns),
        ]
    )
    if bad:
        rows = rows.filter(pl.Series([row not in bad for row in range(len(records))]))
    found = dict(refused or {}) | {offsets[row]: reason for row, reason in bad.items()}
    return RawTable(rows, rejects(found))
