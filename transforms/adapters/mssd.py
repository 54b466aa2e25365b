"""MSSD: Spotify's Music Streaming Sessions Dataset (skip prediction challenge), CSV with header.

Source: "The Music Streaming Sessions Dataset" (Brost et al., 2019) and its schema page: 21 columns,
comma separated, of which those below are read. Booleans are `true`/`false` in any case.

Person. There is none: sessions are given and anonymous. user_id and source_session_id are the
`session_id`, so a user has one session and no history.

Time. `date` and `hour_of_day` (taken as UTC) are all that is known. event_time = that hour plus
3 minutes for each position after the first: 1..20 stay in order and inside the hour, time_quality
`synthetic`. Gaps mean nothing: where the hour changes inside a session they exceed a session gap,
so use source_session_id. Arrival is not told: received_time = event_time.

Skips. source_skip_level: 3 = `skip_1` (very briefly played), 2 = `skip_2` but not `skip_1`
(briefly), 1 = `skip_3` alone (most played), 0 = `not_skipped`; null if none of the four is set. The
flags are nested (skip_1 => skip_2 => skip_3, not_skipped => none); a row that breaks this is
rejected as `inconsistent_skip_flags`. `skipped` is `skip_2`, what the challenge predicts. There are
no durations: played_ms is null.

Surface from `context_type`: editorial_playlist, personalized_playlist, charts -> `playlist`;
user_collection -> `library`; radio -> `radio`; catalog (artist and album pages) -> `other`. Another
type passes as it is and is repaired downstream, as are unknown reason codes.

Rejects: `bad_session_position` outside 1..20; a date or hour that is none is `bad_event_time`.
"""

from __future__ import annotations

import functools

import polars as pl

from transforms.adapters.base import Adapter, Parsed, conform, non_empty
from transforms.adapters.containers import read_delimited

COLUMNS = (
    "session_id",
    "session_position",
    "track_id_clean",
    "skip_1",
    "skip_2",
    "skip_3",
    "not_skipped",
    "hist_user_behavior_is_shuffle",
    "hour_of_day",
    "date",
    "premium",
    "context_type",
    "hist_user_behavior_reason_start",
    "hist_user_behavior_reason_end",
)

_MINUTES_A_TRACK = 3
_SURFACES = {
    "editorial_playlist": "playlist",
    "personalized_playlist": "playlist",
    "charts": "playlist",
    "user_collection": "library",
    "radio": "radio",
    "catalog": "other",
}


def _boolean(name: str) -> Parsed:
    text = non_empty(pl.col(name))
    value = text.str.to_lowercase().replace_strict(
        {"true": True, "false": False}, default=None, return_dtype=pl.Boolean
    )
    return Parsed(value, text)


def _integer(name: str, low: int, high: int) -> pl.Expr:
    value = non_empty(pl.col(name)).cast(pl.Int64, strict=False)
    return pl.when(value.is_between(low, high)).then(value)


def _events(raw: pl.DataFrame) -> pl.DataFrame:
    position = _integer("session_position", 1, 20)
    start = pl.col("date").str.to_date("%Y-%m-%d", strict=False).cast(
        pl.Datetime("us", "UTC")
    ) + pl.duration(
        hours=_integer("hour_of_day", 0, 23),
        # A position out of range has a reason of its own.
        minutes=(position.fill_null(1) - 1) * _MINUTES_A_TRACK,
        time_unit="us",
    )
    time = Parsed(pl.col("_time"), pl.col("date"))
    flags = [_boolean(name) for name in ("skip_1", "skip_2", "skip_3", "not_skipped")]
    skip_1, skip_2, skip_3, not_skipped = (flag.value for flag in flags)
    level = (
        pl.when(skip_1).then(3).when(skip_2).then(2).when(skip_3).then(1).when(not_skipped).then(0)
    )
    reason = (
        pl.when(position.is_null())
        .then(pl.lit("bad_session_position"))
        .when(pl.any_horizontal(*(flag.value.is_null() for flag in flags)))
        .then(pl.lit("bad_source_skip_level"))
        .when((skip_1 & ~skip_2) | (skip_2 & ~skip_3) | (skip_3 & not_skipped))
        .then(pl.lit("inconsistent_skip_flags"))
    )
    session = non_empty(pl.col("session_id"))
    return conform(
        raw.with_columns(_time=start),
        {
            "event_type": pl.lit("play"),
            "user_id": session,
            "track_id": non_empty(pl.col("track_id_clean")),
            "event_time": time,
            "received_time": time,
            "time_quality": pl.lit("synthetic"),
            "reason_start": non_empty(pl.col("hist_user_behavior_reason_start")),
            "reason_end": non_empty(pl.col("hist_user_behavior_reason_end")),
            "skipped": flags[1],
            "source_skip_level": level,
            "surface": non_empty(pl.col("context_type")).replace(_SURFACES),
            "shuffle": _boolean("hist_user_behavior_is_shuffle"),
            "premium": _boolean("premium"),
            "source_session_id": session,
        },
        "mssd",
        reject=reason,
    )


ADAPTERS = {
    "mssd": Adapter(
        "mssd",
        "Music Streaming Sessions Dataset, session logs (CSV with header)",
        functools.partial(read_delimited, columns=COLUMNS, separator=",", has_header=True),
        _events,
        event_types=("play",),
    )
}
