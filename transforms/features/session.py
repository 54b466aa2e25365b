"""The session so far. All null where the session is longer than its cap."""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms.features.context import FeatureContext, Occurrences
from transforms.features.registry import Columns, Feature, feature
from transforms.timeline import HOUR_US, BoolArray, IntArray

_SESSION_US = 24 * HOUR_US  # the usual cap of a session; `SessionRule` bounds what is read
_EVER_US = 1 << 60  # a session's own events are bounded by the session


def _nullable(values: IntArray, valid: BoolArray) -> pl.Series:
    return pl.select(pl.when(pl.Series(valid)).then(pl.Series(values))).to_series()


@feature(
    Feature(
        "session_age_ms",
        pl.Int64(),
        "session",
        "Milliseconds since the session started.",
        unit="ms",
        window_us=_SESSION_US,
        nullable=True,
    ),
    Feature(
        "session_plays",
        pl.Int64(),
        "session",
        "Plays started so far in the session.",
        window_us=_SESSION_US,
        nullable=True,
    ),
    Feature(
        "session_impressions",
        pl.Int64(),
        "session",
        "Impressions so far in the session.",
        window_us=_SESSION_US,
        nullable=True,
    ),
    Feature(
        "session_skips",
        pl.Int64(),
        "session",
        "Plays started in the session that were skipped and ended before now.",
        window_us=_SESSION_US,
        nullable=True,
    ),
    Feature(
        "session_ms_since_play",
        pl.Int64(),
        "session",
        "Milliseconds since the last play of the session started; null if there was none.",
        unit="ms",
        window_us=_SESSION_US,
        nullable=True,
    ),
)
def session_so_far(context: FeatureContext) -> Columns:
    """Events of the example's session strictly before t."""
    makers, sessions = context.makers, context.sessions
    at = np.searchsorted(makers, context.rows)
    start = sessions.start[at]
    valid = ~sessions.overflow[at]
    begun = Occurrences.of(sessions.start, context.time_us[makers], makers)

    is_play = context.is_play[makers]
    plays = makers[is_play]
    played = Occurrences.of(sessions.start[is_play], context.time_us[plays], plays)
    first, after = played.bounds(start, context.row_time_us, _EVER_US)
    has_play = after > first
    last_us = played.time_us[np.where(has_play, after - 1, 0)] if len(plays) else start

    # A skip is known at the end of its play, and plays end in another order than they start.
    ended = Occurrences.of(sessions.start[is_play], context.end_us[plays], plays)
    age_us = context.row_time_us - context.time_us[makers[start]]
    return {
        "session_age_ms": _nullable(age_us // 1000, valid),
        "session_plays": _nullable(after - first, valid),
        "session_impressions": _nullable(
            begun.count(start, context.row_time_us, _EVER_US, context.is_impression), valid
        ),
        "session_skips": _nullable(
            ended.count(start, context.row_time_us, _EVER_US, context.is_skip), valid
        ),
        "session_ms_since_play": _nullable(
            (context.row_time_us - last_us) // 1000, valid & has_play
        ),
    }  # fmt: skip
