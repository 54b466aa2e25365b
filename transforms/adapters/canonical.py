"""Files that already hold `ListeningEvent`s: formats `avro`, `parquet`, `jsonl`.

Columns are the fields of `schemas.LISTENING_EVENT` by name (an older writer's alias counts too);
other columns are ignored and optional ones may be missing. Event ids and arrival times are the
source's own.

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
from collections.abc import Iterator

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

_SOURCE = "source"
_TIMES = [field.name for field in LISTENING_EVENT.fields if field.kind is Kind.TIMESTAMP_US]
_AVRO_SCHEMA = forms.avro_schema(LISTENING_EVENT)


def _names(field: Field) -> tuple[str, ...]:
    return (field.name, *field.aliases)


def stored_time(column: str, dtype: pl.DataType) -> Parsed:
    """The instant in a column of a typed file: Datetime of any unit (naive is UTC), or int64 us."""
    stored = pl.col(column)
    if isinstance(dtype, pl.Datetime):
        return epoch_time(stored.to_physical(), dtype.time_unit)
    return epoch_time(stored, "us")


def text_time(column: str) -> Parsed:
    """The instant in a text column: digits alone are microseconds, all else is ISO 8601."""
    text = pl.col(column)
    digits = text.str.contains(r"^-?[0-9]+$")
    value = pl.when(digits).then(epoch_time(text, "us").value).otherwise(iso_time(text).value)
    return Parsed(value, text)


def _to_events(raw: pl.DataFrame) -> pl.DataFrame:
    fields: dict[str, pl.Expr | Parsed] = {}
    for field in LISTENING_EVENT.fields:
        present = [name for name in _names(field) if name in raw.columns]
        if not present:
            continue
        dtype = raw.schema[present[0]]
        if field.kind is not Kind.TIMESTAMP_US:
            fields[field.name] = pl.col(present[0])
        elif dtype == pl.String:
            fields[field.name] = text_time(present[0])
        else:
            fields[field.name] = stored_time(present[0], dtype)
    events = conform(raw, fields, "")
    # `source` names who first adapted the event, and stays what it is.
    source = fields.get(_SOURCE, pl.lit(None, pl.String))
    return events.with_columns(raw.select(pl.col(source)).to_series().alias(_SOURCE))


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
            if field.required:
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


def _adapter(name: str, summary: str, read: functools.partial[Iterator[RawTable]]) -> Adapter:
    return Adapter(name, summary, read, _to_events, has_event_id=True, arrival_known=True)


AVRO = _adapter(
    "avro",
    "ListeningEvents in Avro container files",
    functools.partial(read_avro, reader_schema=_AVRO_SCHEMA),
)
PARQUET = _adapter(
    "parquet", "ListeningEvents in Parquet files", functools.partial(_read_parquet)
)
JSONL = _adapter(
    "jsonl",
    "ListeningEvents as JSON, one a line (also .gz, .zst)",
    functools.partial(read_json_lines, schema=_JSON_SCHEMA),
)

ADAPTERS = {adapter.name: adapter for adapter in (AVRO, PARQUET, JSONL)}
