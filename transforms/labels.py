"""What happened after an example: outcomes, reward, maturity.

Every label of an example at t looks at events in [t, t + horizon); every feature looks at events
before t. No event is both.

| label          | rule                                                                | source |
|----------------|---------------------------------------------------------------------|--------|
| `played`       | the impression has an outcome (`attribution`); true for a play row  |        |
| `streamed_30s` | played_ms >= 30,000                              | BaRT, McInerney et al. 2018 |
| `completion`   | clip(played_ms / track_duration_ms, 0, cap); cap > 1 keeps replays  | Yambda |
| `skipped`      | see `is_skipped`                                   | Spotify history, MSSD |
| `liked`        | the latest like or unlike of (user, track) in the horizon is a like | Yambda |
| `saved`        | the same for save and unsave                                        |        |
| `reward`       | sum of weight x label over the spec's weights                       |        |

An impression that was not played was not streamed, not skipped, and has completion 0. A label of a
play whose source does not say what it needs (Last.fm has no played time) is null, never false, and
a reward with such a label in it is null. A row is mature when its horizon ends at or before the
watermark, the instant before which every event that will ever count is known, late ones included:
the label of a row that was published never changes. Immature rows are withheld and counted.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms.timeline import BoolArray, IntArray, SortedGroups

STREAM_MS = 30_000  # the 30 s rule of streaming counts (McInerney et al. 2018, BaRT)

# Ends of a play that say nothing about taste: it ended by itself, or by a technical fault.
NOT_A_SKIP = (
    "trackdone", "trackerror", "logout", "unexpected-exit", "unexpected-exit-while-paused",
    "appload", "reload", "switched-to-audio", "switched-to-video",
)  # fmt: skip

LABELS = ("played", "streamed_30s", "completion", "skipped", "liked", "saved")


def is_skipped(skip_below_ms: int) -> pl.Expr:
    """Whether a play was skipped, over event columns; null where it cannot be told.

    A play is skipped if it was cut below `skip_below_ms` and did not end by itself or by a fault.
    The source's `skipped` flag is not trusted: real exports have it false on plays of a second that
    end with the forward button. Where the played time is unknown but the source gives a skip level
    (MSSD), levels 2 and 3 are skips. Plays stamped at sync time (`time_quality = sync`) are never
    judged.
    """
    by_itself = pl.col("reason_end").is_in(list(NOT_A_SKIP)).fill_null(value=False)
    cut = (pl.col("played_ms") < skip_below_ms) & ~by_itself
    by_time = pl.when(pl.col("played_ms").is_not_null()).then(cut)
    by_level = pl.col("source_skip_level") >= 2
    return pl.when(pl.col("time_quality") != "sync").then(pl.coalesce(by_time, by_level))


def play_labels(plays: pl.DataFrame, skip_below_ms: int, completion_cap: float) -> pl.DataFrame:
    """`streamed_30s`, `completion`, `skipped` of plays, row by row.

    Args:
      plays: `played_ms`, `track_duration_ms`, `reason_end`, `source_skip_level`, `time_quality`.
      skip_below_ms: see `is_skipped`.
      completion_cap: largest completion.
    """
    ratio = pl.col("played_ms") / pl.col("track_duration_ms")
    return plays.select(
        (pl.col("played_ms") >= STREAM_MS).alias("streamed_30s"),
        ratio.clip(0.0, completion_cap).alias("completion"),
        is_skipped(skip_below_ms).alias("skipped"),
    )


def resolved_within(
    actions: SortedGroups,
    is_positive: BoolArray,
    group: IntArray,
    t_us: IntArray,
    horizon_us: int,
) -> BoolArray:
    """Whether the latest action of a group in [t, t + horizon) is a positive one.

    Args:
      actions: likes and unlikes (or saves and unsaves) by (user, track), in store order.
      is_positive: like rather than unlike, for each action.
      group, t_us: of each example.
      horizon_us: length of the window.
    """
    first = actions.count_before(group, t_us)
    after = actions.count_before(group, t_us + horizon_us)
    found = after > first
    last = np.where(found, after - 1, 0)
    if len(is_positive) == 0:
        return np.zeros(len(group), dtype=bool)
    return found & is_positive[last]


def reward(weights: dict[str, float]) -> pl.Expr:
    """Weighted sum of label columns; null if one of them is null. Terms are added by name order."""
    terms = [
        pl.col(f"label_{name}").cast(pl.Float64) * weight
        for name, weight in sorted(weights.items())
    ]
    total = pl.lit(0.0)
    for term in terms:
        total = total + term
    return total
