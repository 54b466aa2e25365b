"""A log format described in a YAML file instead of code.

`--format plays.yaml`, with for example:

    name: acme_plays                 # becomes the `source` of the events
    container: csv                   # parquet | avro | jsonl | json (one array) | csv | tsv
    quoted: true                     # csv, tsv: fields may stand in double quotes; default false
    time_is: end                     # the time column is the end of the play; default start
    fields:
      event_type: {value: play}      # the same for every row
      user_id: uid                   # short for {column: uid}
      track_id: track
      event_time: {column: ended_at, unit: iso8601}
      played_ms: {column: seconds, unit: s}
      reason_end: {column: why, map: {done: trackdone, next: fwdbtn}, default: unknown}
      skipped: {column: skip, map: {"Y": true, "N": false}}

and a service's own JSON log, which has event ids and arrival times:

    name: acme_events
    container: jsonl
    fields:
      event_id: id
      event_type: {column: action, map: {heard: play, shown: impression}}
      user_id: listener.id           # a dotted path into the object
      track_id: item.id
      event_time: {column: client_ms, unit: ms}
      received_time: {column: server_ms, unit: ms}
      played_ms: {column: listened, unit: ms}

and a table without header, whose column names are given in order:

    name: acme_table
    container: tsv
    columns: [user, time, artist, track]
    fields:
      event_type: {value: play}
      user_id: user
      event_time: {column: time, unit: s}
      track_id: track
      artist_id: artist

Rules:

* `fields` names fields of ListeningEvent. `event_type`, `user_id` and `event_time` are needed.
* Event ids are the source's if `event_id` is given, else derived from content. Arrival is known
  if `received_time` is given; else it equals `event_time`.
* A time needs `unit`: s, ms, us, ns since 1970 UTC; iso8601 text with `Z` or an offset; or
  timestamp, a Parquet or Avro column of that type (without zone: UTC). Nothing is guessed.
* `played_ms` and `track_duration_ms` need `unit`: s or ms. Fractions round to the millisecond.
* With `time_is: end`, `event_time` is the time less `played_ms` (needed then; a row without it is
  rejected as `bad_event_time`) and `time_quality` is `derived`; else it is `reported`.
* `map` replaces values; its keys are compared as text. `default` stands for null and, with `map`,
  for a value the map does not have, which otherwise stays as it is (`surface` and the reasons are
  then repaired to `unknown`, other closed sets reject the row).
* Text is stripped; empty text is null. A Boolean takes true/false, t/f, yes/no, 1/0 in any case.
* A column that the file lacks fails the file; in JSON it is null, for keys come and go there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import polars as pl
import pydantic

from schemas import LISTENING_EVENT, Kind
from schemas.listening_event import EVENT_TYPES
from transforms.adapters.base import (
    EVENT_SCHEMA,
    Adapter,
    InputFile,
    Parsed,
    RawTable,
    conform,
    epoch_time,
    iso_time,
    non_empty,
)
from transforms.adapters.canonical import stored_time
from transforms.adapters.containers import (
    read_avro_columns,
    read_delimited,
    read_json_array,
    read_json_lines,
    read_parquet,
)
from transforms.config import StrictModel, load_yaml, parse_yaml
from transforms.errors import InputFileError

Scalar = bool | int | float | str
_DURATIONS = ("played_ms", "track_duration_ms")
_NEEDED = ("event_type", "user_id", "event_time")
_TIME_UNITS = ("s", "ms", "us", "ns", "iso8601", "timestamp")
_SEPARATORS = {"csv": ",", "tsv": "\t"}
_TRUE, _FALSE = ["true", "t", "yes", "1"], ["false", "f", "no", "0"]


def _as_text(value: Scalar) -> str:
    """A YAML scalar as the column's value prints."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class FieldMapping(StrictModel):
    """Where one event field comes from: a column, or one value for all rows.

    Attributes:
      column: name of the column; in JSON a dotted path.
      value: the value of every row, instead of a column.
      unit: of a time or a duration; see the module's rules.
      map: column value -> event value.
      default: for nulls and values that `map` does not have.
    """

    column: str | None = None
    value: Scalar | None = None
    unit: Literal["s", "ms", "us", "ns", "iso8601", "timestamp"] | None = None
    map: dict[str, Scalar] | None = None
    default: Scalar | None = None

    @pydantic.field_validator("map", mode="before")
    @classmethod
    def _keys_as_text(cls, given: Any) -> Any:
        return {_as_text(k): v for k, v in given.items()} if isinstance(given, dict) else given

    @pydantic.model_validator(mode="after")
    def _one_origin(self) -> FieldMapping:
        if (self.column is None) == (self.value is None):
            raise ValueError("expected either `column` or `value`, not both and not none")
        if self.value is not None and (self.unit or self.map or self.default is not None):
            raise ValueError("`unit`, `map` and `default` go with `column`, not with `value`")
        return self


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        raise ValueError(f"expected at most 64 of a-z, 0-9 and _, the first a letter, got {name!r}")
    return name


def _expand(given: Any) -> Any:
    return {"column": given} if isinstance(given, str) else given


class Mapping(StrictModel):
    """A column mapping; see the module docstring."""

    name: Annotated[str, pydantic.AfterValidator(_plain_name)]
    container: Literal["parquet", "avro", "jsonl", "json", "csv", "tsv"]
    summary: str = "described in a mapping file"
    columns: tuple[str, ...] | None = None
    quoted: bool = False
    time_is: Literal["start", "end"] = "start"
    fields: dict[str, Annotated[FieldMapping, pydantic.BeforeValidator(_expand)]]

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Mapping:
        problems = [
            f"fields.{name}: expected a column or a value, got nothing"
            for name in _NEEDED
            if name not in self.fields
        ]
        for name, entry in self.fields.items():
            problems += [f"fields.{name}: {problem}" for problem in self._problems(name, entry)]
        if self.container not in _SEPARATORS and (self.columns or self.quoted):
            name = "columns" if self.columns else "quoted"
            problems.append(f"{name}: only for csv and tsv, got container {self.container}")
        if self.columns and len(set(self.columns)) < len(self.columns):
            problems.append("columns: a name stands twice")
        if self.time_is == "end" and "played_ms" not in self.fields:
            problems.append("time_is: end needs fields.played_ms, to know when a play started")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self, name: str, entry: FieldMapping) -> Iterator[str]:
        if name not in LISTENING_EVENT or name == "source":
            yield "not a field of ListeningEvent that a mapping can set"
            return
        if entry.column is not None and self.columns and entry.column not in self.columns:
            yield f"{entry.column!r} is not one of `columns`"
        field = LISTENING_EVENT[name]
        allowed: tuple[str, ...] = ()
        if field.kind is Kind.TIMESTAMP_US:
            allowed = _TIME_UNITS
            if entry.map or entry.default is not None or entry.value is not None:
                yield "a time takes a `column` and its `unit`, nothing else"
        elif name in _DURATIONS:
            allowed = ("s", "ms")
        if entry.unit is not None and entry.unit not in allowed:
            yield f"unit {entry.unit}: expected {' or '.join(allowed) or 'no unit'}"
        if allowed and entry.column is not None and entry.unit is None:
            yield f"`unit` is needed: {' or '.join(allowed)}"
        if entry.unit == "timestamp" and self.container not in ("parquet", "avro"):
            yield "unit timestamp is for parquet and avro; give the unit of the number, or iso8601"
        given = [entry.value, entry.default, *(entry.map or {}).values()]
        for value in given:
            if value is not None and field.symbols and value not in field.symbols:
                yield f"{value!r} is not one of {', '.join(field.symbols)}"
            if value is not None and field.kind is Kind.BOOL and not isinstance(value, bool):
                yield f"{value!r} is not true or false"

    @property
    def source_columns(self) -> list[str]:
        """The columns that are read, each once, in the order of `fields`."""
        named = (entry.column for entry in self.fields.values() if entry.column is not None)
        return list(dict.fromkeys(named))


def parse_mapping(text: str, name: str) -> Adapter:
    """`load_mapping` of the text of a mapping file; `name` is what errors call it."""
    return _adapter(parse_yaml(text, Mapping, name))


def load_mapping(path: str) -> Adapter:
    """The adapter that a YAML mapping file describes. It can be pickled.

    Raises:
      UsageError: with one line for each problem of the file.
    """
    return _adapter(load_yaml(path, Mapping))


def _adapter(mapping: Mapping) -> Adapter:
    only = mapping.fields["event_type"].value  # what it says of every row; else it may say anything
    return Adapter(
        mapping.name,
        mapping.summary,
        functools.partial(_read, mapping),
        functools.partial(_to_events, mapping),
        has_event_id="event_id" in mapping.fields,
        arrival_known="received_time" in mapping.fields,
        event_types=EVENT_TYPES if only is None else (str(only),),
    )


def _json_type(name: str, entry: FieldMapping) -> pl.DataType:
    kind = LISTENING_EVENT[name].kind
    if entry.map or entry.unit == "iso8601":
        return pl.String()
    if entry.unit == "s" or (name in _DURATIONS and entry.unit == "ms"):
        return pl.Float64()
    return pl.Int64() if kind in (Kind.TIMESTAMP_US, Kind.INT32) else EVENT_SCHEMA[name]


def _json_schema(mapping: Mapping) -> dict[str, pl.DataType]:
    """A column that two fields read as different types is text."""
    schema: dict[str, pl.DataType] = {}
    for name, entry in mapping.fields.items():
        if entry.column is not None:
            dtype = _json_type(name, entry)
            known = schema.setdefault(entry.column, dtype)
            if known != dtype:
                schema[entry.column] = pl.String()
    return schema


def _read(mapping: Mapping, file: InputFile) -> Iterator[RawTable]:
    columns = mapping.source_columns
    if mapping.container == "jsonl":
        yield from read_json_lines(file, _json_schema(mapping))
    elif mapping.container == "json":
        yield from read_json_array(file, _json_schema(mapping))
    elif mapping.container in _SEPARATORS:
        yield from read_delimited(
            file,
            mapping.columns or columns,
            _SEPARATORS[mapping.container],
            has_header=mapping.columns is None,
            quoted=mapping.quoted,
        )
    else:
        read = read_parquet if mapping.container == "parquet" else read_avro_columns
        first = True
        for table in read(file, columns):
            if first:
                _check_types(mapping, file, table.rows.schema)
                first = False
            yield table


def _check_types(mapping: Mapping, file: InputFile, schema: pl.Schema) -> None:
    for entry in mapping.fields.values():
        if entry.column is None:
            continue
        if entry.column not in schema:
            raise InputFileError(file.path, f"has no column {entry.column!r}")
        dtype = schema[entry.column]
        if dtype.is_nested():
            raise InputFileError(
                file.path, f"column {entry.column!r} is {dtype}, expected one value a row"
            )
        if isinstance(dtype, pl.Datetime) != (entry.unit == "timestamp") and dtype != pl.Null:
            raise InputFileError(
                file.path,
                f"column {entry.column!r} is {dtype}, but the mapping's unit is "
                f"{entry.unit or 'not a time'}",
            )


def _to_events(mapping: Mapping, raw: pl.DataFrame) -> pl.DataFrame:
    fields: dict[str, pl.Expr | Parsed] = {
        name: _field(name, entry, raw.schema) for name, entry in mapping.fields.items()
    }
    quality = "reported"
    if mapping.time_is == "end":
        end, played = fields["event_time"], fields["played_ms"]
        assert isinstance(end, Parsed)
        milliseconds = played.value if isinstance(played, Parsed) else played
        start = end.value - pl.duration(milliseconds=milliseconds.cast(pl.Int64, strict=False))
        fields["event_time"] = Parsed(start, end.raw)
        quality = "derived"
    fields.setdefault("received_time", fields["event_time"])
    fields.setdefault("time_quality", pl.lit(quality))
    return conform(raw, fields, mapping.name)


def _field(name: str, entry: FieldMapping, schema: pl.Schema) -> pl.Expr | Parsed:
    if entry.column is None:
        return pl.lit(entry.value)
    dtype, column = schema[entry.column], pl.col(entry.column)
    kind = LISTENING_EVENT[name].kind
    if dtype == pl.String:
        column = non_empty(column)
    if kind is Kind.TIMESTAMP_US:
        if entry.unit == "timestamp":
            return stored_time(column, dtype)
        if entry.unit == "iso8601":
            return iso_time(column)
        return epoch_time(column, entry.unit or "us")
    value = column
    if entry.map:
        replaced = {key: _as_text(new) for key, new in entry.map.items()}
        text = column.cast(pl.String, strict=False)
        rest = text if entry.default is None else pl.lit(_as_text(entry.default))
        value = text.replace_strict(replaced, default=rest, return_dtype=pl.String)
    if kind is Kind.BOOL and (entry.map or dtype != pl.Boolean):
        lower = value.cast(pl.String, strict=False).str.to_lowercase()
        value = (
            pl.when(lower.is_in(_TRUE))
            .then(pl.lit(True))
            .when(lower.is_in(_FALSE))
            .then(pl.lit(False))
        )
    elif name in _DURATIONS:
        number = value.cast(pl.Float64, strict=False) * (1000.0 if entry.unit == "s" else 1.0)
        value = number.round().cast(pl.Int64, strict=False)
    if entry.default is None:
        return Parsed(value, column)
    filled = pl.when(column.is_null()).then(pl.lit(entry.default)).otherwise(value)
    return Parsed(filled, column)
