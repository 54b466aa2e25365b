"""ListenBrainz public dumps: JSON lines (`listens/YYYY/M.listens`) and the Spark Parquet dump.

Sources: the ListenBrainz JSON documentation, `listenbrainz/webserver/views/api_tools.py` for the
validation bounds, and the dump's own columns. The data is public (CC0); `user_name` is never read.

Time. `listened_at` is when the listen STARTED: Unix seconds in JSON, a timestamp without zone that
is UTC in Parquet (INT96). time_quality `reported`. `inserted_at` (Unix seconds, may carry a
fraction) and `created` are received_time: the source tells arrival (`arrival_known`). A row
without one, as in older dumps, has received_time = event_time. Imports of old history arrive years
after they were listened to; that is the truth of this source.
A `listened_at` before 2002-10-01 (1033410600), which ListenBrainz itself refuses, is rejected
`event_time_out_of_range`; times in the future are judged downstream.

Units. `duration_ms`, `ms_played`: milliseconds. `duration`, `duration_played`: seconds. Both
durations on one listen is an error of the client that ListenBrainz refuses: `both_durations`.
`ms_played` wins over `duration_played`. The Parquet dump has none of them.

Ids. user_id is the number of the account as text. track_id is the MusicBrainz recording the mapping
found, else `recording_msid`; the same track can thus have a mapped and an unmapped id. artist_id is
the first artist MBID of the mapping, album_id the release MBID; else the names in NFC. client_id is
`submission_client`, which tells two scrobblers of one play apart.
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
    non_empty,
)
from transforms.adapters.containers import read_json_lines, read_parquet
from transforms.errors import InputFileError

FIRST_LISTEN = datetime.datetime(2002, 9, 30, 18, 30, tzinfo=datetime.UTC)  # 1033410600

_TRACK = "track_metadata."
_INFO = _TRACK + "additional_info."
_MAPPING = _TRACK + "mbid_mapping."
_JSON: dict[str, pl.DataType] = {
    "user_id": pl.Int64(),
    "listened_at": pl.Int64(),
    "inserted_at": pl.Float64(),
    "recording_msid": pl.String(),
    _TRACK + "artist_name": pl.String(),
    _TRACK + "release_name": pl.String(),
    _MAPPING + "recording_mbid": pl.String(),
    _MAPPING + "release_mbid": pl.String(),
    _MAPPING + "artist_mbids": pl.List(pl.String()),
    _INFO + "duration_ms": pl.Float64(),
    _INFO + "duration": pl.Float64(),
    _INFO + "ms_played": pl.Float64(),
    _INFO + "duration_played": pl.Float64(),
    _INFO + "submission_client": pl.String(),
}
_SPARK: dict[str, pl.DataType] = {
    "listened_at": pl.Datetime("us"),
    "created": pl.Datetime("us"),
    "user_id": pl.Int64(),
    "recording_msid": pl.String(),
    "recording_mbid": pl.String(),
    "artist_name": pl.String(),
    "artist_credit_mbids": pl.List(pl.String()),
    "release_name": pl.String(),
    "release_mbid": pl.String(),
}


def _first_of(*texts: pl.Expr) -> pl.Expr:
    """The first that is not empty, in NFC (ids are ASCII, so it changes names only)."""
    return pl.coalesce(*(non_empty(text) for text in texts)).str.normalize()


def _milliseconds(ms: str, seconds: str) -> Parsed:
    """Whole milliseconds from the one or the other field of `additional_info`."""
    value = pl.coalesce(pl.col(_INFO + ms), pl.col(_INFO + seconds) * 1000)
    return Parsed(value.round(), value)


def _conform(
    raw: pl.DataFrame,
    start: Parsed,
    fields: dict[str, pl.Expr | Parsed],
    reason: pl.Expr,
    source: str,
) -> pl.DataFrame:
    """What the two dumps share."""
    too_early = pl.when(start.value < FIRST_LISTEN).then(pl.lit("event_time_out_of_range"))
    return conform(
        raw,
        {
            "event_type": pl.lit("play"),
            "user_id": pl.col("user_id"),
            "event_time": start,
            "time_quality": pl.lit("reported"),
            **fields,
        },
        source,
        reject=pl.coalesce(reason, too_early),
    )


def _json_events(raw: pl.DataFrame) -> pl.DataFrame:
    start = epoch_time(pl.col("listened_at"), "s")
    inserted = epoch_time(pl.col("inserted_at"), "s")
    both = pl.all_horizontal(
        pl.col(_INFO + "duration_ms").is_not_null(), pl.col(_INFO + "duration").is_not_null()
    )
    return _conform(
        raw,
        start,
        {
            "track_id": _first_of(pl.col(_MAPPING + "recording_mbid"), pl.col("recording_msid")),
            "artist_id": _first_of(
                pl.col(_MAPPING + "artist_mbids").list.first(), pl.col(_TRACK + "artist_name")
            ),
            "album_id": _first_of(
                pl.col(_MAPPING + "release_mbid"), pl.col(_TRACK + "release_name")
            ),
            "received_time": Parsed(
                pl.when(inserted.raw.is_null()).then(start.value).otherwise(inserted.value),
                inserted.raw,
            ),
            "played_ms": _milliseconds("ms_played", "duration_played"),
            "track_duration_ms": _milliseconds("duration_ms", "duration"),
            "client_id": non_empty(pl.col(_INFO + "submission_client")),
        },
        reason=pl.when(both).then(pl.lit("both_durations")),
        source="listenbrainz",
    )


def _spark_events(raw: pl.DataFrame) -> pl.DataFrame:
    return _conform(
        raw,
        Parsed(pl.col("listened_at").cast(pl.Datetime("us", "UTC")), pl.col("listened_at")),
        {
            "track_id": _first_of(pl.col("recording_mbid"), pl.col("recording_msid")),
            "artist_id": _first_of(
                pl.col("artist_credit_mbids").list.first(), pl.col("artist_name")
            ),
            "album_id": _first_of(pl.col("release_mbid"), pl.col("release_name")),
            # One of them may have a zone and the other none; both are UTC.
            "received_time": pl.coalesce(
                pl.col(name).cast(pl.Datetime("us", "UTC")) for name in ("created", "listened_at")
            ),
        },
        reason=pl.lit(None, pl.String),
        source="listenbrainz_spark",
    )


def _read_spark(file: InputFile) -> Iterator[RawTable]:
    """Columns the dump did not have yet are null; without a start time it is another file."""
    for table in read_parquet(file, tuple(_SPARK)):
        found = table.rows.schema
        if "listened_at" not in found:
            raise InputFileError(file.path, "lacks the column listened_at of a ListenBrainz dump")
        for name, dtype in found.items():
            due = _SPARK.get(name, dtype)
            # A number in place of a time would be cast as microseconds: a guess at its unit.
            if dtype.base_type() is not due.base_type() and not (
                dtype.is_integer() and due.is_integer()
            ):
                raise InputFileError(file.path, f"column {name}: expected {due}, got {dtype}")
        missing = [pl.lit(None, _SPARK[name]).alias(name) for name in _SPARK if name not in found]
        yield RawTable(table.rows.with_columns(missing), table.rejects)


ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        Adapter(
            "listenbrainz",
            "ListenBrainz dump, .listens (JSON lines, also .gz and .zst)",
            functools.partial(read_json_lines, schema=_JSON),
            _json_events,
            arrival_known=True,
            event_types=("play",),
        ),
        Adapter(
            "listenbrainz_spark",
            "ListenBrainz Spark dump (Parquet)",
            _read_spark,
            _spark_events,
            arrival_known=True,
            event_types=("play",),
        ),
    )
}
