"""The session so far. All null past the cap of the session, and for plays stamped at sync time."""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms.features.context import FeatureContext, known_count
from transforms.features.registry import Columns, Feature, feature
from transforms.timeline import HOUR_US, Occurrences, nullable

_SESSION_US = 24 * HOUR_US  # the usual cap of a session; `SessionRule` bounds what is read
_EVER_US = 1 << 60  # a session's own events are bounded by the session


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
        "Plays started in the session that were skipped and ended before now; null if there were "
        "plays and neither played time nor skip level of any is known.",
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
    start, valid, now_us = context.row_session, context.row_in_session, context.row_time_us
    begun = Occurrences.of(sessions.start, context.time_us[makers], makers)

    is_play = context.is_play[makers]
    plays = makers[is_play]
    played = Occurrences.of(sessions.start[is_play], context.time_us[plays], plays)
    first, after = played.bounds(start, now_us, _EVER_US)
    has_play = after > first
    last_us = played.time_us[np.where(has_play, after - 1, 0)] if len(plays) else now_us

    # A skip is known at the end of its play, and plays end in another order than they start.
    ended = Occurrences.of(sessions.start[is_play], context.end_us[plays], plays)
    age_us = now_us - context.session_start_us[context.rows]
    impressions = begun.count(start, now_us, _EVER_US, context.is_impression)
    skips, known = known_count(ended, start, now_us, _EVER_US, context.is_skip, context.tells_skip)
    return {
        "session_age_ms": nullable(age_us // 1000, valid),
        "session_plays": nullable(after - first, valid),
        "session_impressions": nullable(impressions, valid),
        "session_skips": nullable(skips, valid & known),
        "session_ms_since_play": nullable((now_us - last_us) // 1000, valid & has_play),
    }
