"""Sessions, by one rule.

Rule version 1. Plays and impressions make sessions; other events do not. In the order (event_time,
event_id), an event starts a session if and only if its user has no play that ended, and no
impression that was shown, within the gap before it: that is, if
`event_time - max(end of every earlier event of the user) >= gap`. The end of a play is
`event_time + played_ms` (at most the cap later; at once where played_ms is unknown), the end of an
impression its event_time. Exactly the gap apart starts a new session.

Plays stamped at sync time (`time_quality = sync`, `bursts`) take no part: their times say when a
device came online, not when it played. They belong to no session and end no gap.

Where the source gives sessions (MSSD), a user's events with the same `source_session_id` are one
session, whatever lies between them, until two of them are more than the cap apart; they take no
part in the gap rule of other events.

A session's owner is the UTC day of its start; its id is a hash of the user, the first event's id
and the rule version. A chain longer than the cap is not split: its events more than the cap after
the start are flagged as overflow, without an id, so that what is known of an event never depends on
more than `left_context_us` before it. (Source: ListenBrainz measures the gap from the end of the
track, and design rules make "daily equals full" decidable.)
"""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from transforms import hashing
from transforms.timeline import HOUR_US, MINUTE_US, BoolArray, IntArray, running_max

RULE_VERSION = 1


@dataclasses.dataclass(frozen=True)
class SessionRule:
    """gap_us: silence that ends a session. cap_us: longest session, and longest play."""

    gap_us: int = 30 * MINUTE_US
    cap_us: int = 24 * HOUR_US

    @property
    def left_context_us(self) -> int:
        """How far before an event its session can depend on: a start up to the cap before it, and
        a play up to the cap long that ends within the gap before that start (for given sessions,
        an event up to the cap before it)."""
        return 2 * self.cap_us + self.gap_us


@dataclasses.dataclass(frozen=True)
class Sessions:
    """Sessions of a sorted table, row by row.

    Attributes:
      start: index of the row that starts the row's session.
      overflow: the row is more than the cap after its session's start.
    """

    start: IntArray
    overflow: BoolArray


def sessionize(
    user: IntArray, time_us: IntArray, end_us: IntArray, given: IntArray, rule: SessionRule
) -> Sessions:
    """Applies the rule to plays and impressions sorted by (user, event_time, event_id).

    Args:
      user: non-decreasing user codes from 0.
      time_us: event_time, non-decreasing within a user.
      end_us: end of the event, >= time_us.
      given: code of the session that the source gives, -1 where it gives none.
      rule: gap and cap.
    """
    n = len(user)
    if n == 0:
        return Sessions(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool))
    # One lane a user for the gap rule, and one for each session that the source gives.
    lane, order = user, np.arange(n, dtype=np.int64)
    if (given >= 0).any():
        width = int(given.max()) + 2
        order = np.argsort(user * width + given + 1, kind="stable")
        lane = np.unique((user * width + given + 1)[order], return_inverse=True)[1]
    time, is_given = time_us[order], given[order] >= 0
    ends = running_max(lane, np.minimum(end_us, time_us + rule.cap_us)[order])
    by_gap = time[1:] - ends[:-1] >= rule.gap_us
    by_cap = time[1:] - time[:-1] > rule.cap_us
    starts = np.ones(n, dtype=bool)
    starts[1:] = (lane[1:] != lane[:-1]) | np.where(is_given[1:], by_cap, by_gap)
    start = np.empty(n, dtype=np.int64)
    start[order] = order[np.maximum.accumulate(np.where(starts, np.arange(n), 0))]
    return Sessions(start, time_us - time_us[start] > rule.cap_us)


def session_ids(events: pl.DataFrame, sessions: Sessions) -> pl.Series:
    """Int64 `session_id` of each row; null where it overflows the cap.

    Args:
      events: `user_id` and `event_id` of the rows that were sessionized.
      sessions: of the same rows.
    """
    starts = np.unique(sessions.start)
    text = pl.concat_str(
        pl.lit(str(RULE_VERSION)), pl.col("user_id"), pl.col("event_id"), separator="\x1f"
    )
    hashed = events[starts].select(hashing.hash64(text, "session").reinterpret(signed=True))
    ids = hashed.to_series()[np.searchsorted(starts, sessions.start)]
    overflow = pl.Series(sessions.overflow)
    return ids.to_frame("session_id").select(pl.when(~overflow).then("session_id")).to_series()
