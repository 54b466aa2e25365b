"""Item indices: small integers for tracks, fitted on train alone.

    0 padding   1 unknown (a track outside the vocabulary)   2 mask   3 separator   4.. tracks

Tracks are numbered by falling number of plays on the days that lie whole in train, then by id.
Plays are counted by whole days, so with a gap of half an hour before the border its last day does
not count: its counts would hold what was played in the gap. The vocabulary is a file of the
version; a later build takes it over with `--vocabulary`, so that the indices of a model that goes
on training stay what they are.
"""

from __future__ import annotations

import datetime

import polars as pl
import pydantic

from transforms.config import StrictModel

PADDING, UNKNOWN, MASK, SEPARATOR = range(4)
FIRST_ITEM = 4

SCHEMA: dict[str, pl.DataType] = {
    "track_id": pl.String(),
    "item_index": pl.Int64(),
    "plays": pl.Int64(),
}


class VocabularySpec(StrictModel):
    """min_plays: plays that a track needs on train's days; max_items: at most so many, the most
    played; null takes all."""

    min_plays: int = pydantic.Field(1, ge=1)
    max_items: int | None = pydantic.Field(None, ge=1)


def fit(
    item_days: pl.DataFrame,
    first_day: datetime.date,
    end_day: datetime.date,
    spec: VocabularySpec,
) -> pl.DataFrame:
    """SCHEMA rows by item_index.

    Args:
      item_days: `store.ITEM_DAY_SCHEMA` rows of any partitions.
      first_day, end_day: half open range of train's days. Only what was also known by the end
        counts.
      spec: what to keep.
    """
    in_train = (pl.col("event_day") >= first_day) & (pl.col("event_day") < end_day)
    return (
        item_days.lazy()
        .filter(in_train & (pl.col("known_day") < end_day))
        .group_by("track_id")
        .agg(pl.col("plays").sum())
        .filter(pl.col("plays") >= spec.min_plays)
        .sort(["plays", "track_id"], descending=[True, False])
        .slice(0, spec.max_items)
        .with_row_index("item_index", offset=FIRST_ITEM)
        .select("track_id", pl.col("item_index").cast(pl.Int64), "plays")
        .collect()
    )


def look_up(tracks: pl.Series, vocabulary: pl.DataFrame) -> pl.Series:
    """Int64 item index of each track; UNKNOWN for those outside the vocabulary."""
    joined = tracks.to_frame("track_id").join(
        vocabulary.select("track_id", "item_index"),
        on="track_id",
        how="left",
        maintain_order="left",
    )
    return joined["item_index"].fill_null(UNKNOWN)
