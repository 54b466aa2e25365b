"""The events of one bucket, made ready for any kind of dataset: sorted, without duplicates,
sessionized, with the arrays that kernels work on.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import polars as pl

from transforms import bursts, labels, sessions, timeline
from transforms.buckets import USER_HASH
from transforms.counts import Counts
from transforms.events import NEAR_DUPLICATE, drop_duplicates, sort_events
from transforms.labels import PlayRule
from transforms.sessions import SessionRule, Sessions
from transforms.timeline import BoolArray, IntArray, Occurrences, SortedGroups


def merge_partitions(parts: list[pl.DataFrame]) -> tuple[pl.DataFrame, Counts]:
    """One sorted table without duplicates from a bucket's tables of several partitions.

    Of an event id that arrived again the earliest arrival counts, whatever the later one says: its
    `event_time`, too. That holds for what is read together. A partition knows ids only of its own
    arrivals, so an id that is sent again with an event_time further away than the build's context
    counts on both days; within it such events are counted as `conflicting_across_partitions`.

    Args:
      parts: the same store columns each, in store order.

    Returns:
      The events that count (near duplicates left out), and the counts of those that do not.
    """
    table = pl.concat(parts) if parts else pl.DataFrame()
    dropped = conflicting = 0
    if len(parts) > 1:
        table, dropped, conflicting = drop_duplicates(table)
        table = sort_events(table)
    near = int(table[NEAR_DUPLICATE].sum()) if table.height else 0
    if near:
        table = table.filter(~pl.col(NEAR_DUPLICATE))
    counts = {
        "events": table.height,
        "duplicate_across_partitions": dropped,
        "conflicting_across_partitions": conflicting,
        "near_duplicate": near,
    }
    return table, counts


@dataclasses.dataclass(frozen=True)
class Listening:
    """A bucket's events.

    Attributes:
      events: STORE columns that the build reads, sorted in store order; near duplicates left out.
        `time_quality` of plays in a sync burst is `sync`.
      user: user code of each event, from 0, non-decreasing.
      time_us: event_time of each event.
      end_us: end of each play; event_time for other events.
      makers: rows that make sessions: plays and impressions with a time of their own, increasing.
      sessions: sessions of `makers`.
      play_rule: what a play says by itself.
    """

    events: pl.DataFrame
    user: IntArray
    time_us: IntArray
    end_us: IntArray
    makers: IntArray
    sessions: Sessions
    play_rule: PlayRule

    @classmethod
    def of(cls, events: pl.DataFrame, rule: SessionRule, play_rule: PlayRule) -> Listening:
        """Args: `events` of `merge_partitions`, at least one; the rules of the spec."""
        user = timeline.run_codes(events[USER_HASH])
        time_us = timeline.times_us(events["event_time"])
        is_play = (events["event_type"] == "play").to_numpy()
        is_shown = (events["event_type"] == "impression").to_numpy()
        played_us = timeline.filled(events["played_ms"], 0) * 1000
        burst = bursts.sync_bursts(user, time_us, played_us, is_play)
        if burst.any():
            quality = pl.when(pl.Series(burst)).then(pl.lit("sync")).otherwise("time_quality")
            events = events.with_columns(quality.alias("time_quality"))
        end_us = np.where(is_play, time_us + np.minimum(played_us, rule.cap_us), time_us)
        synced = (events["time_quality"] == "sync").to_numpy()
        makers = np.flatnonzero((is_play | is_shown) & ~synced)
        given = timeline.value_codes(events["source_session_id"][makers])
        given[events["source_session_id"][makers].is_null().to_numpy()] = -1
        found = sessions.sessionize(user[makers], time_us[makers], end_us[makers], given, rule)
        return cls(events, user, time_us, end_us, makers, found, play_rule)

    @functools.cached_property
    def session_start(self) -> IntArray:
        """Of each event the index in `makers` of its session's start; -1 for an event that makes
        no session, or is past its session's cap."""
        start = np.full(len(self.user), -1, dtype=np.int64)
        start[self.makers] = np.where(self.sessions.overflow, -1, self.sessions.start)
        return start

    @functools.cached_property
    def session_start_us(self) -> IntArray:
        """When the session of each event started; its own time where it has none."""
        start = self.session_start
        if not len(self.makers):
            return self.time_us
        return np.where(start >= 0, self.time_us[self.makers[start]], self.time_us)

    @functools.cached_property
    def session_id(self) -> pl.Series:
        """Int64 `session_id` of each event; null where it has no session."""
        of_makers = sessions.session_ids(
            self.events[self.makers].select("user_id", "event_id"), self.sessions
        )
        where = np.full(len(self.user), -1, dtype=np.int64)
        where[self.makers] = np.arange(len(self.makers))
        at = timeline.nullable(where, where >= 0)
        return of_makers.gather(at).alias("session_id")

    def of_type(self, event_type: str) -> BoolArray:
        """Which events are of a type."""
        return (self.events["event_type"] == event_type).to_numpy()

    @functools.cached_property
    def is_play(self) -> BoolArray:
        return self.of_type("play")

    @functools.cached_property
    def is_impression(self) -> BoolArray:
        return self.of_type("impression")

    @functools.cached_property
    def played_out_us(self) -> IntArray:
        """When each play was over, however long it was; event_time for other events."""
        played_us = timeline.filled(self.events["played_ms"], 0) * 1000
        return self.time_us + np.where(self.is_play, played_us, 0)

    @functools.cached_property
    def is_stream(self) -> BoolArray:
        """Plays of at least 30 s; unknown counts as no."""
        streamed = (self.events["played_ms"] >= labels.STREAM_MS).fill_null(value=False)
        return streamed.to_numpy() & self.is_play

    @functools.cached_property
    def tells_stream(self) -> BoolArray:
        """Plays whose played time is known."""
        return self.events["played_ms"].is_not_null().to_numpy() & self.is_play

    @functools.cached_property
    def tells_skip(self) -> BoolArray:
        """Plays whose played time or skip level is known."""
        level = self.events["source_skip_level"].is_not_null().to_numpy()
        return self.tells_stream | (level & self.is_play)

    @functools.cached_property
    def is_skip(self) -> BoolArray:
        """Plays skipped at level 2; unknown counts as no."""
        skipped = labels.skips(self.play_rule)["skip_2"].fill_null(value=False)
        return self.events.select(skipped).to_series().to_numpy() & self.is_play

    @functools.cached_property
    def by_user(self) -> Occurrences:
        """All events by (user, event_time): the store order itself."""
        rows = np.arange(len(self.user), dtype=np.int64)
        return Occurrences(SortedGroups.of(self.user, self.time_us), rows, self.time_us)

    @functools.cached_property
    def plays(self) -> Occurrences:
        """Plays by (user, event_time); ties in store order."""
        rows = np.flatnonzero(self.is_play)
        return Occurrences(
            SortedGroups.of(self.user[rows], self.time_us[rows]), rows, self.time_us[rows]
        )

    @functools.cached_property
    def play_ends(self) -> Occurrences:
        """Plays by (user, end): what is known of how a play went."""
        rows = np.flatnonzero(self.is_play)
        return Occurrences.of(self.user[rows], self.end_us[rows], rows)

    @functools.cached_property
    def tracks(self) -> IntArray:
        """Code of (user, track) of each event; equal tracks of one user have equal codes."""
        return self._user_codes("track_id")

    @functools.cached_property
    def artists(self) -> IntArray:
        """Code of (user, artist) of each event; -1 where the artist is unknown."""
        codes = self._user_codes("artist_id")
        return np.where(self.events["artist_id"].is_null().to_numpy(), -1, codes)

    def _user_codes(self, column: str) -> IntArray:
        codes = timeline.value_codes(self.events[column])
        width = int(codes.max()) + 1 if len(codes) else 1
        return np.unique(self.user * width + codes, return_inverse=True)[1]
