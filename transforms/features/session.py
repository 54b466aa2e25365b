"""The session so far. All null where the session is longer than its cap."""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms import timeline
from transforms.features.context import FeatureContext, Occurrences
from transforms.features.registry import Columns, Feature, feature
from transforms.timeline import HOUR_US, BoolArray, IntArray

_SESSION_US = 24 * HOUR_US  # a session's cap: how far back it can reach


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
    start_us = context.time_us[makers[start]]
    # Events at the same instant as the example are not before it.
    user, time_us = context.user[makers], context.time_us[makers]
    after = timeline.SortedGroups.of(user, time_us).count_before(
        context.row_user, context.row_time_us
    )
    after = np.maximum(after, start)
    plays = timeline.prefix_sums(context.is_play[makers])
    play_count = plays[after] - plays[start]
    shown = timeline.prefix_sums(context.is_impression[makers])

    # Index of the last play before `after`: the play that made the prefix sum what it is there.
    play_rows = makers[context.is_play[makers]]
    has_play = play_count > 0
    last = np.where(has_play, plays[after] - 1, 0)
    last_us = context.time_us[play_rows[last]] if len(play_rows) else context.row_time_us

    # A skip is known at the end of its play, and plays end in another order than they start.
    is_play = context.is_play[makers]
    rows = makers[is_play]
    ends = Occurrences.of(sessions.start[is_play], context.end_us[rows], rows)
    skips = ends.count(start, context.row_time_us, _SESSION_US + 1, context.is_skip)
    return {
        "session_age_ms": _nullable((context.row_time_us - start_us) // 1000, valid),
        "session_plays": _nullable(play_count, valid),
        "session_impressions": _nullable(shown[after] - shown[start], valid),
        "session_skips": _nullable(skips, valid),
        "session_ms_since_play": _nullable(
            (context.row_time_us - last_us) // 1000, valid & has_play
        ),
    }  # fmt: skip
