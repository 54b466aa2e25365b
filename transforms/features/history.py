"""The listener's latest plays, as lists."""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms.features.context import FeatureContext, Occurrences
from transforms.features.registry import WEEK_US, Columns, Feature, feature
from transforms.timeline import IntArray


@feature(
    Feature(
        "history_track_ids",
        pl.List(pl.String()),
        "history",
        "Tracks of the latest plays in the 7 days before, oldest first; empty if there were none.",
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
    rows = np.flatnonzero(context.is_play)
    plays = Occurrences.of(context.user[rows], context.time_us[rows], rows)
    first, after = plays.bounds(context.row_user, context.row_time_us, WEEK_US)
    first = np.maximum(first, after - context.history_length)
    lengths = after - first
    ends = np.cumsum(lengths)
    # 0, 1, ..., length - 1 within each list, then shifted to where the list begins.
    flat = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    flat += np.repeat(first, lengths)
    ago_ms = (np.repeat(context.row_time_us, lengths) - plays.time_us[flat]) // 1000
    offsets = np.concatenate(([0], ends))
    tracks = context.events["track_id"].gather(plays.rows[flat])
    return {
        "history_track_ids": _as_lists(tracks, offsets),
        "history_ms_ago": _as_lists(pl.Series(ago_ms), offsets),
    }  # fmt: skip


def _as_lists(values: pl.Series, offsets: IntArray) -> pl.Series:
    import pyarrow as pa

    array = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values.to_arrow())
    return pl.Series(array)
