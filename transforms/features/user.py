"""What the listener did lately."""

from __future__ import annotations

import polars as pl

from transforms.features.context import FeatureContext, known_count
from transforms.features.registry import WEEK_US, Columns, Feature, feature
from transforms.timeline import nullable


@feature(
    Feature("user_plays_7d", pl.Int64(), "user", "Plays the user started in the 7 days before."),
    Feature("user_impressions_7d", pl.Int64(), "user", "Impressions in the 7 days before."),
    Feature(
        "user_likes_7d",
        pl.Int64(),
        "user",
        "Likes in the 7 days before; null if no source of the events then and now tells of likes.",
        nullable=True,
    ),
)
def user_activity(context: FeatureContext) -> Columns:
    """Counts by event_time in [t - 7 d, t)."""
    flags = {
        "user_plays_7d": context.is_play,
        "user_impressions_7d": context.is_impression,
        "user_likes_7d": context.of_type("like"),
        "tells": context.tells_like,
    }
    counts = {
        name: context.by_user.count(context.row_user, context.row_time_us, WEEK_US, flag)
        for name, flag in flags.items()
    }
    tells = (counts.pop("tells") > 0) | context.tells_like[context.rows]
    return {**counts, "user_likes_7d": nullable(counts["user_likes_7d"], tells)}


@feature(
    Feature(
        "user_streams_7d",
        pl.Int64(),
        "user",
        "Plays of at least 30 s that ended in the 7 days before; null if there were plays and the "
        "played time of none is known.",
        nullable=True,
    ),
    Feature(
        "user_skips_7d",
        pl.Int64(),
        "user",
        "Skipped plays that ended in the 7 days before; null if there were plays and neither "
        "played time nor skip level of any is known.",
        nullable=True,
    ),
)
def user_outcomes(context: FeatureContext) -> Columns:
    """Counts by the end of the play in [t - 7 d, t)."""
    asked = context.play_ends, context.row_user, context.row_time_us, WEEK_US
    return {
        "user_streams_7d": nullable(*known_count(*asked, context.is_stream, context.tells_stream)),
        "user_skips_7d": nullable(*known_count(*asked, context.is_skip, context.tells_skip)),
    }
