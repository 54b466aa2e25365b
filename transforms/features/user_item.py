"""What the listener did lately with this track and this artist."""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms import timeline
from transforms.features.context import FeatureContext
from transforms.features.registry import WEEK_US, Columns, Feature, feature
from transforms.timeline import Occurrences


@feature(
    Feature(
        "user_track_plays_7d",
        pl.Int64(),
        "user-item",
        "Plays of this track by the user in the 7 days before.",
    ),
    Feature(
        "user_track_ms_since_play",
        pl.Int64(),
        "user-item",
        "Milliseconds since the user last started this track; null if not in the 7 days before.",
        unit="ms",
        nullable=True,
    ),
)
def user_track_plays(context: FeatureContext) -> Columns:
    """By event_time of plays in [t - 7 d, t)."""
    rows = np.flatnonzero(context.is_play)
    plays = Occurrences.of(context.tracks[rows], context.time_us[rows], rows)
    first, after = plays.bounds(context.tracks[context.rows], context.row_time_us, WEEK_US)
    found = after > first
    last_us = plays.time_us[np.where(found, after - 1, 0)] if len(rows) else context.row_time_us
    since_ms = (context.row_time_us - last_us) // 1000
    return {
        "user_track_plays_7d": after - first,
        "user_track_ms_since_play": timeline.nullable(since_ms, found),
    }


@feature(
    Feature(
        "user_track_impressions_7d",
        pl.Int64(),
        "user-item",
        "Impressions of this track to the user in the 7 days before.",
    ),
)
def user_track_impressions(context: FeatureContext) -> Columns:
    """By event_time in [t - 7 d, t)."""
    rows = np.flatnonzero(context.is_impression)
    shown = Occurrences.of(context.tracks[rows], context.time_us[rows], rows)
    count = shown.count(context.tracks[context.rows], context.row_time_us, WEEK_US)
    return {"user_track_impressions_7d": count}


@feature(
    Feature(
        "user_artist_plays_7d",
        pl.Int64(),
        "user-item",
        "Plays of this artist by the user in the 7 days before; null if the artist is unknown.",
        nullable=True,
    ),
)
def user_artist_plays(context: FeatureContext) -> Columns:
    """By event_time in [t - 7 d, t)."""
    rows = np.flatnonzero(context.is_play & (context.artists >= 0))
    plays = Occurrences.of(context.artists[rows], context.time_us[rows], rows)
    artist = context.artists[context.rows]
    count = plays.count(np.maximum(artist, 0), context.row_time_us, WEEK_US)
    return {"user_artist_plays_7d": timeline.nullable(count, artist >= 0)}
