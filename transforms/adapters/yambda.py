"""Yambda: Yandex Music, `flat/{50m,500m,5b}/*.parquet`, one adapter a table.

Source: the data set's card and its benchmark code (constants). Columns: `uid`, `timestamp`,
`item_id` (u32), `is_organic` (u8); listens add `played_ratio_pct`, `track_length_seconds`;
`multi_event` adds `event_type` and repeats the rows of all other tables: take it or them, not both.
Numbers are ids: user_id and track_id are their decimal text.

Time. `timestamp` is SECONDS since an unknown start, rounded to 5 (the last one is 26,000,000, or
301 days; copies of the data set that multiply by 5 are wrong). It is laid on Monday 2024-01-01
00:00 UTC so that days are whole, with time_quality `synthetic`: order and distances are true,
calendar and hour are not. Ties are common. The source does not say whether a listen is stamped at
its start or its end; it is taken as the START. Were it the end, plays would stand late by their own
length, which never shows a feature something early. Arrival is not told: received_time is
event_time.

Units. played_ms = track_length_seconds x 1000 x played_ratio_pct / 100; the ratio may exceed 100
(rewinds) and is not clipped. A null length or ratio makes it null.

Actions. listen -> `play`, like -> `like`, unlike -> `unlike`, dislike -> `hide`. An undislike takes
a dislike back; no event type says so, and passing it off as something else would be false, so it is
excluded as `undislike_not_supported` and counted. An unknown action is rejected downstream.

Surface. is_organic 0 means that recommendations led to the action: `home`, the nearest word for it.
is_organic 1 (the user's own choice) says nothing of the place: `unknown`.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator

import polars as pl

from transforms.adapters.base import (
    Adapter,
    InputFile,
    Parsed,
    RawTable,
    conform,
    epoch_time,
)
from transforms.adapters.containers import read_parquet
from transforms.errors import InputFileError

START = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)

UNDISLIKE = "undislike_not_supported"

_ACTIONS = {"listen": "play", "dislike": "hide"}  # like and unlike keep their names
_SURFACES = {0: "home", 1: "unknown"}
_COMMON = ("uid", "timestamp", "item_id", "is_organic")
_LISTEN_BITS = {"played_ratio_pct": 16, "track_length_seconds": 32}
_LISTEN = tuple(_LISTEN_BITS)


def _integer(name: str) -> pl.Expr:
    """Any integer width as Int64."""
    return pl.col(name).cast(pl.Int64, strict=False)


def _factor(name: str) -> pl.Expr:
    """`_integer`; null beyond the source's own width, so that no product wraps."""
    return pl.when(_integer(name).abs() < 1 << _LISTEN_BITS[name]).then(_integer(name))


def _events(raw: pl.DataFrame, source: str, action: pl.Expr) -> pl.DataFrame:
    time = Parsed(
        epoch_time(_integer("timestamp") + int(START.timestamp()), "s").value, pl.col("timestamp")
    )
    fields: dict[str, pl.Expr | Parsed] = {
        "event_type": action.replace(_ACTIONS),
        "user_id": pl.col("uid"),
        "track_id": pl.col("item_id"),
        "event_time": time,
        "received_time": time,
        "time_quality": pl.lit("synthetic"),
        "surface": Parsed(
            _integer("is_organic").replace_strict(_SURFACES, default=None, return_dtype=pl.String),
            pl.col("is_organic"),
        ),
    }
    if set(_LISTEN) <= set(raw.columns):
        ratio, length = (pl.when(action == "listen").then(_factor(name)) for name in _LISTEN)
        given = pl.all_horizontal(pl.col(*_LISTEN).is_not_null(), action == "listen")
        fields["played_ms"] = Parsed(length * ratio * 10, pl.when(given).then(pl.lit(1)))
        fields["track_duration_ms"] = Parsed(
            length * 1000, pl.when(action == "listen").then(pl.col("track_length_seconds"))
        )
    undislike = pl.when(action == "undislike").then(pl.lit(UNDISLIKE))
    return conform(raw, fields, source, reject=undislike)


def _read(file: InputFile, columns: tuple[str, ...]) -> Iterator[RawTable]:
    for table in read_parquet(file, columns):
        found = table.rows.schema
        for name in columns:
            if name not in found:
                raise InputFileError(file.path, f"lacks the Yambda column {name}")
            # A copy with fractions or NaN was rewritten by some other tool.
            if name != "event_type" and not found[name].is_integer():
                raise InputFileError(
                    file.path, f"column {name}: expected an integer, got {found[name]}"
                )
        yield table


def _adapter(table: str, action: pl.Expr, more_columns: tuple[str, ...] = ()) -> Adapter:
    name = f"yambda_{table}"
    columns = (*_COMMON, *more_columns)
    return Adapter(
        name,
        f"Yambda {table}.parquet",
        functools.partial(_read, columns=columns),
        functools.partial(_events, source=name, action=action),
        event_types=("play", "like", "unlike", "hide"),
        excluded_reasons=(UNDISLIKE,),
    )


ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        _adapter("listens", pl.lit("listen"), _LISTEN),
        _adapter("likes", pl.lit("like")),
        _adapter("dislikes", pl.lit("dislike")),
        _adapter("unlikes", pl.lit("unlike")),
        _adapter("undislikes", pl.lit("undislike")),
        _adapter("multi_event", pl.col("event_type").cast(pl.String), ("event_type", *_LISTEN)),
    )
}
