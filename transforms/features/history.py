"""The listener's latest plays, as lists."""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms import timeline
from transforms.features.context import FeatureContext
from transforms.features.registry import WEEK_US, Columns, Feature, feature


@feature(
    Feature(
        "history_track_ids",
        pl.List(pl.String()),
        "history",
        "Tracks of the latest plays in the 7 days before, oldest first; empty if there were none.",
        identifier=True,
    ),
    Feature(
        "history_ms_ago",
        pl.List(pl.Int64()),
        "history",
        "How long ago each of those plays started.",
        unit="ms",
    ),
)
def play_history(context: FeatureContext) -> Columns:
    """The last `history_length` plays by event_time in [t - 7 d, t); ties in store order."""
    plays = context.plays
    first, after = plays.bounds(context.row_user, context.row_time_us, WEEK_US)
    first = np.maximum(first, after - context.history_length)
    flat, offsets = timeline.flat_ranges(first, after)
    ago_ms = (np.repeat(context.row_time_us, after - first) - plays.time_us[flat]) // 1000
    tracks = context.events["track_id"].gather(plays.rows[flat])
    return {
        "history_track_ids": timeline.as_lists(tracks, offsets),
        "history_ms_ago": timeline.as_lists(pl.Series(ago_ms), offsets),
    }
