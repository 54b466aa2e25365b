"""Files that already hold `ListeningEvent`s: formats `avro`, `parquet`, `jsonl`.

Columns are the fields of `schemas.LISTENING_EVENT` by name (an older writer's alias counts too);
other columns are ignored and optional ones may be missing. Event ids and arrival times are the
source's own; where `source` is missing or null, it is the name of the format.

Times:

* Avro: `timestamp-micros`, `-millis` or `-nanos`; a plain long is microseconds.
* Parquet: a timestamp of any unit or INT96, or an integer, which is microseconds since 1970 UTC. A
  timestamp without a zone is UTC.
* JSON lines: a string is ISO 8601 with `Z` or an offset; an integer, or a string of digits alone,
  is microseconds.

What cannot be an instant or does not fit its field rejects the row (`bad_<field>`). A Parquet or
Avro file that lacks a required column raises `InputFileError`; in JSON lines a missing key is null
like any other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl

from schemas import LISTENING_EVENT, Field, Kind, forms
from transforms.adapters.base import (
    EVENT_SCHEMA,
    Adapter,
    InputFile,
    Parsed,
    RawTable,
    conform,
    epoch_time,
    iso_time,
)
from transforms.adapters.containers import read_avro, read_json_lines, read_parquet
from transforms.errors import InputFileError

_TIMES = [field.name for field in LISTENING_EVENT.fields if field.kind is Kind.TIMESTAMP_US]


def _names(field: Field) -> tuple[str, ...]:
    return (field.name, *field.aliases)


def stored_time(stored: pl.Expr, dtype: pl.DataType) -> Parsed:
    """The instant in a column of a typed file: Datetime of any unit (naive is UTC), or int64 us."""
    if isinstance(dtype, pl.Datetime):
        return epoch_time(stored.to_physical(), dtype.time_unit)
    return epoch_time(stored, "us")


def text_time(text: pl.Expr) -> Parsed:
    """The instant in text: digits alone are microseconds, all else is ISO 8601."""
    digits = text.str.contains(r"^-?[0-9]+$")
    value = pl.when(digits).then(epoch_time(text, "us").value).otherwise(iso_time(text).value)
    return Parsed(value, text)


def _to_events(raw: pl.DataFrame, name: str) -> pl.DataFrame:
    fields: dict[str, pl.Expr | Parsed] = {}
    for field in LISTENING_EVENT.fields:
        present = [each for each in _names(field) if each in raw.columns]
        if not present:
            continue
        dtype, given = raw.schema[present[0]], pl.coalesce(present)
        if field.kind is not Kind.TIMESTAMP_US:
            fields[field.name] = given
        elif dtype == pl.String:
            fields[field.name] = text_time(given)
        else:
            fields[field.name] = stored_time(given, dtype)
    events = conform(raw, fields, name)
    if "source" not in raw.columns:
        return events
    # An event that names who first adapted it keeps that name.
    source = raw["source"].cast(pl.String)
    return events.with_columns(source=pl.coalesce(source, "source"))


def _read_parquet(file: InputFile) -> Iterator[RawTable]:
    columns = [name for field in LISTENING_EVENT.fields for name in _names(field)]
    first = True
    for table in read_parquet(file, columns):
        if first:
            check_columns(file, table.rows)
            first = False
        yield table


def check_columns(file: InputFile, rows: pl.DataFrame) -> None:
    """Raises InputFileError where a required column is missing or a column's type cannot be read.

    Types are those that cast: a time is a timestamp or an integer, a number is not text or a time.
    """
    for field in LISTENING_EVENT.fields:
        present = [name for name in _names(field) if name in rows.columns]
        if not present:
            if field.required and field.name != "source":
                raise InputFileError(file.path, f"has no column {field.name!r}, which is required")
            continue
        dtype = rows.schema[present[0]]
        if not _fits(field.kind, dtype):
            raise InputFileError(
                file.path,
                f"column {present[0]!r} is {dtype}, expected {EVENT_SCHEMA[field.name]}",
            )


def _fits(kind: Kind, dtype: pl.DataType) -> bool:
    if dtype == pl.Null:
        return True
    if kind is Kind.TIMESTAMP_US:
        return isinstance(dtype, pl.Datetime) or dtype.is_integer()
    if kind is Kind.STRING:
        return dtype == pl.String or dtype.is_integer()
    if kind is Kind.BOOL:
        return dtype == pl.Boolean
    return dtype.is_numeric()


_JSON_SCHEMA: dict[str, pl.DataType] = {
    name: pl.String() if field.name in _TIMES else EVENT_SCHEMA[field.name]
    for field in LISTENING_EVENT.fields
    for name in _names(field)
}


def _avro_schema() -> dict[str, Any]:
    schema = forms.avro_schema(LISTENING_EVENT)
    for field in schema["fields"]:
        if field["name"] == "source":
            field |= {"type": ["null", "string"], "default": None}
    return schema


def _adapter(name: str, summary: str, read: Callable[[InputFile], Iterator[RawTable]]) -> Adapter:
    to_events = functools.partial(_to_events, name=name)
    return Adapter(name, summary, read, to_events, has_event_id=True, arrival_known=True)


AVRO = _adapter(
    "avro",
    "ListeningEvents in Avro container files",
    functools.partial(read_avro, reader_schema=_avro_schema()),
)
PARQUET = _adapter("parquet", "ListeningEvents in Parquet files", _read_parquet)
JSONL = _adapter(
    "jsonl",
    "ListeningEvents as JSON, one a line (also .gz, .zst)",
    functools.partial(read_json_lines, schema=_JSON_SCHEMA),
)

ADAPTERS = {adapter.name: adapter for adapter in (AVRO, PARQUET, JSONL)}
