"""What an adapter is, and the one way from a source's columns to `ListeningEvent` columns.

An adapter is one small module with an `ADAPTER`. It has two halves:

* `read(file)` frames and parses the container (Parquet, Avro, JSON lines, ...) into `RawTable`s.
  A row that cannot be parsed is a reject with a reason; a file that cannot be trusted to the end
  (truncated, corrupt) raises `InputFileError`, after however many tables were already yielded: the
  job then publishes nothing.
* `to_events(raw)` is a pure function from those columns to event columns, most often one call of
  `conform` with an expression a field. It states the source's contract for units, time and nulls in
  its module docstring. It never touches personal columns: `read` does not even load them.

What follows is common to all sources and lives in `transforms.events`: pseudonyms, derived event
ids, enum repairs, validity rules, duplicates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import polars as pl

from schemas import LISTENING_EVENT, Kind, forms
from schemas.listening_event import EVENT_TYPES

# Columns that travel beside the source's own columns.
OFFSET = "offset"  # Int64: 0-based record number in the file (line, array element, or row)
REJECT_REASON = "reject_reason"  # String: why the row is not an event; null = it is one

EVENT_SCHEMA = forms.polars_schema(LISTENING_EVENT)
EVENT_COLUMNS = list(EVENT_SCHEMA)

# Rows a table is cut to while reading: about 30 MB of events.
TABLE_ROWS = 131_072


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A file to read.

    Attributes:
      path: as the user wrote it or as the file system listed it; shown in messages.
      open: opens a fresh seekable binary stream of the raw (still compressed) bytes.
    """

    path: str
    open: Callable[[], BinaryIO]


@dataclasses.dataclass(frozen=True)
class RawTable:
    """A slice of a file as its container gives it.

    Attributes:
      rows: the source's own columns, plus OFFSET.
      rejects: OFFSET, REJECT_REASON of records that could not be parsed at all.
    """

    rows: pl.DataFrame
    rejects: pl.DataFrame

    @staticmethod
    def no_rejects() -> pl.DataFrame:
        return pl.DataFrame(schema={OFFSET: pl.Int64, REJECT_REASON: pl.String})


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A log format.

    Attributes:
      name: what `--format` takes.
      summary: one line for `playhead formats`.
      read: see the module docstring.
      to_events: RawTable.rows -> EVENT_COLUMNS + OFFSET + REJECT_REASON, row for row, in order.
      has_event_id: the source has ids; otherwise `transforms.events` derives them from content,
        so that the same record read twice is one event.
      arrival_known: the source tells when the server received an event. Where it does not,
        received_time is the earliest moment it can have known, and one import stands for all the
        days of its events.
      event_types: what the source can tell of. A source without impressions makes rows of its
        plays; one without likes never says that something was not liked.
      excluded_reasons: reject reasons that are a rule of the format and no fault of the data
        (podcasts, private sessions). They are counted apart and never fail a run.
    """

    name: str
    summary: str
    read: Callable[[InputFile], Iterator[RawTable]]
    to_events: Callable[[pl.DataFrame], pl.DataFrame]
    has_event_id: bool = False
    arrival_known: bool = False
    event_types: tuple[str, ...] = EVENT_TYPES
    excluded_reasons: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Parsed:
    """An expression together with what it was parsed from.

    A row where `raw` is not null and `value` is null could not be parsed: reject `bad_<field>`.
    """

    value: pl.Expr
    raw: pl.Expr


def conform(
    raw: pl.DataFrame,
    fields: Mapping[str, pl.Expr | Parsed],
    source: str,
    reject: pl.Expr | None = None,
) -> pl.DataFrame:
    """Builds event columns from a source's columns.

    Args:
      raw: source columns plus OFFSET (Int64).
      fields: event field name to expression over `raw`. Fields left out become null. A value that
        is not null but cannot be cast to the field's type rejects the row with `bad_<field>`; the
        first such field in schema order names the reason. Cast as Polars does it:
        * Integer: a fraction is cut off (1.7 ms is 1; an adapter that wants it rounded rounds it);
          text must be digits; NaN, infinity and what is out of range are rejected.
        * Float: text that is a number is one; NaN and infinity are rejected.
        * String: a number becomes its text.
        * Boolean: 0 is false, any other number true.
        * Time: a number is microseconds, so use `epoch_time`; a naive Datetime is UTC.
      source: value of the `source` column.
      reject: over `raw`, the adapter's own reason against a row, null for none; it comes before
        `bad_<field>`.

    Returns:
      EVENT_COLUMNS with EVENT_SCHEMA types, OFFSET, REJECT_REASON; same rows, same order.

    Raises:
      KeyError: for a name that is not a field of ListeningEvent (a mistake in the adapter).
      polars.exceptions.InvalidOperationError: for a type that never casts to the field's, such as
        text to a time or a Boolean, or a list to text (likewise).
    """
    for name in fields:
        if name not in LISTENING_EVENT:
            raise KeyError(f"{name!r} is not a field of ListeningEvent")
    exprs: list[pl.Expr] = []
    bad: list[pl.Expr] = [] if reject is None else [reject]
    for field in LISTENING_EVENT.fields:
        given = fields.get(field.name)
        if field.name == "source":
            exprs.append(pl.lit(source, pl.String).alias(field.name))
            continue
        if given is None:
            exprs.append(pl.lit(None, EVENT_SCHEMA[field.name]).alias(field.name))
            continue
        parsed = given if isinstance(given, Parsed) else Parsed(given, given)
        value = parsed.value.cast(EVENT_SCHEMA[field.name], strict=False)
        if field.kind is Kind.FLOAT64:
            value = pl.when(value.is_finite()).then(value)
        exprs.append(value.alias(field.name))
        bad.append(
            pl.when(parsed.raw.is_not_null() & value.is_null()).then(pl.lit(f"bad_{field.name}"))
        )
    reason = pl.coalesce(*bad) if bad else pl.lit(None, pl.String)
    return raw.select(
        *exprs, pl.col(OFFSET).cast(pl.Int64), reason.cast(pl.String).alias(REJECT_REASON)
    )


def epoch_time(expr: pl.Expr, unit: str) -> Parsed:
    """A UTC instant from a number of `unit` since 1970.

    NaN, infinity, text that is no number, and values that do not fit into 64-bit microseconds
    become null, so the row is rejected. The unit is the adapter's contract and never guessed from
    the magnitude.

    Args:
      expr: a number, or text of one. Seconds may carry a fraction, rounded to the microsecond; of
        other units a fraction is cut off in a number, and makes text null.
      unit: "s", "ms", "us" or "ns". What ns have below a microsecond is rounded down.

    Raises:
      KeyError: for another unit (a mistake in the adapter).
    """
    if unit == "s":
        # Doubles hold microseconds until the year 2255.
        micros = (expr.cast(pl.Float64, strict=False) * 1e6).round()
        value: pl.Expr = pl.when(micros.abs() < 9e18).then(micros)  # NaN is above all numbers
    elif unit == "ns":
        value = expr.cast(pl.Int64, strict=False) // 1000
    else:
        factor = {"ms": 1000, "us": 1}[unit]
        whole, limit = expr.cast(pl.Int64, strict=False), 9 * 10**18 // factor
        value = pl.when(whole.is_between(-limit, limit)).then(whole * factor)
    return Parsed(value.cast(pl.Int64, strict=False).cast(pl.Datetime("us", "UTC")), expr)


def iso_time(expr: pl.Expr) -> Parsed:
    """A UTC instant from ISO 8601 text with `Z` or an offset (`2026-01-05T10:00:00.5+01:00`).

    Between date and time stands `T` or a space. Text without a zone or seconds, `24:00` and
    impossible dates become null: the row is rejected, never guessed. A leap second (`:60`) is the
    first second of the next minute. Digits beyond the microsecond are cut off.
    """
    text = expr.cast(pl.String, strict=False)
    value = pl.coalesce(
        text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="us", strict=False),
        text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%#z", time_unit="us", strict=False),
    )
    return Parsed(value, expr)


def non_empty(expr: pl.Expr) -> pl.Expr:
    """The text (or a number as text) without white space around it; null where nothing is left."""
    text = expr.cast(pl.String, strict=False).str.strip_chars()
    return pl.when(text != "").then(text)
