"""What was known of the track at the last midnight before the example.

Snapshots of day D count what happened on the 7 days before D and had been received before D (the
store's `item_day` counts). They are visible from D's midnight on, to all of D's examples alike, so
nothing of the day itself can leak into them.
"""

from __future__ import annotations

import datetime

import polars as pl

from transforms.features.context import FeatureContext
from transforms.features.registry import WEEK_US, Columns, Feature, feature

WINDOW_DAYS = 7
_COUNTS = ("plays", "streams", "impressions")

SNAPSHOT_SCHEMA: dict[str, pl.DataType] = {
    "day": pl.Date(),
    "track_id": pl.String(),
    **{f"item_{name}_{WINDOW_DAYS}d": pl.Int64() for name in _COUNTS},
}


def snapshots(
    item_days: pl.DataFrame, first_day: datetime.date, last_day: datetime.date
) -> pl.DataFrame:
    """SNAPSHOT_SCHEMA rows for every day and every track with a count, sorted by (day, track).

    Args:
      item_days: ITEM_DAY_SCHEMA rows of any partitions.
      first_day, last_day: inclusive range of the examples' days.
    """
    one_day = pl.duration(days=1)
    # A count of event day e, known on day k, is in the snapshots of the days from the morning after
    # both to e + 7.
    visible = pl.max_horizontal("event_day", "known_day") + one_day
    return (
        item_days.lazy()
        .with_columns(
            pl.max_horizontal(visible, pl.lit(first_day)).alias("from"),
            pl.min_horizontal(
                pl.col("event_day") + pl.duration(days=WINDOW_DAYS), pl.lit(last_day)
            ).alias("to"),
        )
        .filter(pl.col("from") <= pl.col("to"))
        .with_columns(pl.date_ranges("from", "to").alias("day"))
        .explode("day")
        .group_by("day", "track_id")
        .agg(pl.col(*_COUNTS, "timed_plays").sum())
        .with_columns(
            # Plays without a played time say nothing about streams.
            streams=pl.when((pl.col("timed_plays") > 0) | (pl.col("plays") == 0)).then("streams")
        )
        .rename({name: f"item_{name}_{WINDOW_DAYS}d" for name in _COUNTS})
        .select(list(SNAPSHOT_SCHEMA))
        .sort("day", "track_id")
        .collect()
    )


def known_before(keys: pl.DataFrame, item_snapshots: pl.DataFrame) -> pl.DataFrame:
    """The snapshot of each (day, track_id), row by row; nulls for a track that has none."""
    return keys.join(item_snapshots, on=["day", "track_id"], how="left", maintain_order="left")


def cold_items(keys: pl.DataFrame, item_snapshots: pl.DataFrame) -> pl.Series:
    """Whether nobody is known to have played the track in the week before the day."""
    return known_before(keys, item_snapshots)[f"item_plays_{WINDOW_DAYS}d"].fill_null(0) == 0


@feature(
    Feature(
        "item_plays_7d",
        pl.Int64(),
        "item",
        "Plays of the track by anyone in the 7 days before this day, as known at midnight.",
        window_us=WEEK_US,
    ),
    Feature(
        "item_streams_7d",
        pl.Int64(),
        "item",
        "Plays of at least 30 s by anyone in the 7 days before this day, as known at midnight; "
        "null if there were plays and the played time of none is known.",
        nullable=True,
    ),
    Feature(
        "item_impressions_7d",
        pl.Int64(),
        "item",
        "Impressions of the track to anyone in the 7 days before this day, as known at midnight.",
    ),
)
def item_popularity(context: FeatureContext) -> Columns:
    """A track without a row in the snapshot counts zero; streams are null where that says so."""
    keys = context.events[context.rows].select(
        pl.col("event_time").dt.date().alias("day"), "track_id"
    )
    known = known_before(keys, context.item_snapshots)
    listed = pl.col("item_plays_7d").is_not_null()
    names = [name for name in SNAPSHOT_SCHEMA if name.startswith("item_")]
    counts = known.select(pl.when(listed).then(name).otherwise(0).alias(name) for name in names)
    return counts.to_dict()
