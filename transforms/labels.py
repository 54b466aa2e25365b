"""What happened after an example: outcomes, reward, maturity.

Every label of an example at t looks at events in [t, t + horizon); every feature looks at events
before t. No event is both.

| label               | rule                                                   | source        |
|---------------------|--------------------------------------------------------|---------------|
| `played`            | the impression has an outcome; true for a play         | `attribution` |
| `streamed_30s`      | played_ms >= 30,000                                    | BaRT, 2018    |
| `scrobble`          | half of the track or four minutes; see `is_scrobble`   | Last.fm       |
| `completion`        | clip(played_ms / track_duration_ms, 0, cap)            | Yambda        |
| `skip_1` to `_3`    | cut very early, early, before the end; see `skips`     | MSSD          |
| `liked`             | the latest like or unlike in the horizon is a like     | Yambda        |
| `saved`             | the same for save and unsave                           |               |
| `returned_24h`      | the user starts another session in (t, t + 24 h)       |               |
| `session_continued` | another play than the outcome starts in the session    |               |
|                     | after t                                                |               |
| `reward`            | sum of weight x label over the spec's weights          |               |

An impression that was not played was not streamed, not skipped, and has completion 0. A label of a
play whose source does not say what it needs (Last.fm has no played time) is null, never false, and
a reward with such a label in it is null. A row is mature when its horizon ends at or before the
watermark, the instant before which every event that will ever count is known, late ones included:
the label of a row that was published never changes. Immature rows are withheld and counted. A row
whose horizon ends behind the border of its split is dropped, or kept as censored, with all labels
null (`splits`).
"""

from __future__ import annotations

import dataclasses
import functools
import operator

import numpy as np
import polars as pl

from transforms.timeline import HOUR_US, BoolArray, IntArray, SortedGroups

STREAM_MS = 30_000  # the 30 s rule of streaming counts (McInerney et al. 2018, BaRT)

# The rule of scrobbling services: half of the track or four minutes, of tracks above half a minute.
SCROBBLE_SHARE = 0.5
SCROBBLE_MS = 240_000
SCROBBLE_MIN_TRACK_MS = 30_000

RETURN_US = 24 * HOUR_US

# Ends of a play that say nothing about taste: it ended by itself, or by a technical fault.
NOT_A_SKIP = (
    "trackdone", "trackerror", "logout", "unexpected-exit", "unexpected-exit-while-paused",
    "appload", "reload", "switched-to-audio", "switched-to-video",
)  # fmt: skip

LABELS = (
    "played", "streamed_30s", "scrobble", "completion", "skip_1", "skip_2", "skip_3", "liked",
    "saved", "returned_24h", "session_continued",
)  # fmt: skip

MATURE, CENSORED = "mature", "censored"


@dataclasses.dataclass(frozen=True)
class PlayRule:
    """Thresholds of what a play says by itself.

    Attributes:
      skip_1_below_ms, skip_2_below_ms: a play cut before this is a skip of level 1, 2.
      skip_3_below_share: a play cut before this share of its track is a skip of level 3.
      completion_cap: largest completion.
    """

    skip_1_below_ms: int
    skip_2_below_ms: int
    skip_3_below_share: float
    completion_cap: float


def skips(rule: PlayRule) -> dict[str, pl.Expr]:
    """`skip_1`, `skip_2`, `skip_3` over event columns; null where it cannot be told.

    A play is skipped if it was cut below the level's threshold and did not end by itself or by a
    fault; a skip of one level is one of all higher levels. The source's `skipped` flag is not
    trusted: real exports have it false on plays of a second that end with the forward button. Where
    the played time is unknown but the source gives a level (MSSD: 3 very brief, 2 brief, 1 most
    played), that decides. Plays stamped at sync time (`time_quality = sync`) are never judged.
    """
    by_itself = pl.col("reason_end").is_in(list(NOT_A_SKIP)).fill_null(value=False)
    played, track = pl.col("played_ms"), pl.col("track_duration_ms")
    below = [played < rule.skip_1_below_ms, played < rule.skip_2_below_ms]
    below.append(below[1] | (played < track * rule.skip_3_below_share))
    judged = pl.col("time_quality") != "sync"
    return {
        f"skip_{level}": pl.when(judged).then(
            pl.when(played.is_not_null())
            .then(cut & ~by_itself)
            .otherwise(pl.col("source_skip_level") >= 4 - level)
        )
        for level, cut in enumerate(below, start=1)
    }


def is_scrobble() -> pl.Expr:
    """Played for half of the track or four minutes, of a track longer than half a minute.

    Null where the played time is unknown, or the length is and the play is shorter than that.
    """
    played, track = pl.col("played_ms"), pl.col("track_duration_ms")
    is_long = track > SCROBBLE_MIN_TRACK_MS
    by_share = pl.when(played.is_not_null()).then((played >= track * SCROBBLE_SHARE) & is_long)
    return pl.when(played >= SCROBBLE_MS).then(is_long.fill_null(value=True)).otherwise(by_share)


def play_labels(plays: pl.DataFrame, rule: PlayRule) -> pl.DataFrame:
    """What plays say by themselves, row by row.

    Args:
      plays: `played_ms`, `track_duration_ms`, `reason_end`, `source_skip_level`, `time_quality`.
      rule: thresholds.

    Returns:
      `streamed_30s`, `scrobble`, `completion`, `skip_1`, `skip_2`, `skip_3`.
    """
    ratio = pl.col("played_ms") / pl.col("track_duration_ms")
    return plays.select(
        (pl.col("played_ms") >= STREAM_MS).alias("streamed_30s"),
        is_scrobble().alias("scrobble"),
        ratio.clip(0.0, rule.completion_cap).alias("completion"),
        **skips(rule),
    )


def resolve_within(
    actions: SortedGroups,
    is_positive: BoolArray,
    group: IntArray,
    t_us: IntArray,
    horizon_us: int | IntArray,
) -> IntArray:
    """The latest action of a group in [t, t + horizon) if it is a positive one, else -1.

    Args:
      actions: likes and unlikes (or saves and unsaves) by (user, track), in store order.
      is_positive: like rather than unlike, for each action.
      group, t_us: of each example.
      horizon_us: length of the window, one for all or one for each example.

    Returns:
      Index of the action, in the order of `actions`.
    """
    if len(is_positive) == 0:
        return np.full(len(group), -1, dtype=np.int64)
    first = actions.count_before(group, t_us)
    after = actions.count_before(group, t_us + horizon_us)
    last = np.where(after > first, after - 1, 0)
    return np.where((after > first) & is_positive[last], last, -1)


def reward(weights: dict[str, float]) -> pl.Expr:
    """Weighted sum of label columns; null if one of them is null. Terms are added by name order."""
    terms = [
        pl.col(f"label_{name}").cast(pl.Float64) * weight
        for name, weight in sorted(weights.items())
    ]
    total = functools.reduce(operator.add, terms)
    # Whether `0.0 + -0.0` is computed or left out depends on the number of rows (Polars 2.1), so
    # the sign of zero is set by hand: a row's bytes do not depend on the rows beside it.
    return pl.when(total == 0.0).then(0.0).otherwise(total)
