"""What the listener did lately."""

from __future__ import annotations

import polars as pl

from transforms.features.context import FeatureContext
from transforms.features.registry import WEEK_US, Columns, Feature, feature


@feature(
    Feature("user_plays_7d", pl.Int64(), "user", "Plays the user started in the 7 days before."),
    Feature("user_impressions_7d", pl.Int64(), "user", "Impressions in the 7 days before."),
    Feature("user_likes_7d", pl.Int64(), "user", "Likes in the 7 days before."),
)
def user_activity(context: FeatureContext) -> Columns:
    """Counts by event_time in [t - 7 d, t)."""
    flags = {
        "user_plays_7d": context.is_play,
        "user_impressions_7d": context.is_impression,
        "user_likes_7d": context.of_type("like"),
    }
    return {
        name: context.by_user.count(context.row_user, context.row_time_us, WEEK_US, flag)
        for name, flag in flags.items()
    }


@feature(
    Feature(
        "user_streams_7d",
        pl.Int64(),
        "user",
        "Plays of at least 30 s that ended in the 7 days before.",
    ),
    Feature("user_skips_7d", pl.Int64(), "user", "Skipped plays that ended in the 7 days before."),
)
def user_outcomes(context: FeatureContext) -> Columns:
    """Counts by the end of the play in [t - 7 d, t)."""
    flags = {"user_streams_7d": context.is_stream, "user_skips_7d": context.is_skip}
    return {
        name: context.play_ends.count(context.row_user, context.row_time_us, WEEK_US, flag)
        for name, flag in flags.items()
    }  # fmt: skip
