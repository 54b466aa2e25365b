"""What feature functions see: the events of one bucket and the examples among them.

Derived arrays are computed when first asked for and shared by all functions.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms import labels, timeline
from transforms.sessions import Sessions
from transforms.timeline import BoolArray, IntArray, SortedGroups


@dataclasses.dataclass(frozen=True)
class Occurrences:
    """Some events by (group, instant), with prefix sums over flags of them.

    Attributes:
      index: searchable by (group, instant).
      rows: row of the event table of each, in that order.
      time_us: instant of each, in that order.
    """

    index: SortedGroups
    rows: IntArray
    time_us: IntArray

    @classmethod
    def of(cls, group: IntArray, time_us: IntArray, rows: IntArray) -> Occurrences:
        """Sorts `rows` by (group, time, row)."""
        order = np.lexsort((rows, time_us, group))
        return cls(SortedGroups.of(group[order], time_us[order]), rows[order], time_us[order])

    def bounds(
        self, group: IntArray, instant_us: IntArray, window_us: int
    ) -> tuple[IntArray, IntArray]:
        """[first, after) of the group's occurrences in [instant - window, instant)."""
        after = self.index.count_before(group, instant_us)
        return self.index.count_before(group, instant_us - window_us), after

    def count(
        self,
        group: IntArray,
        instant_us: IntArray,
        window_us: int,
        flag: npt.NDArray[np.bool_] | None = None,
    ) -> IntArray:
        """Occurrences of the group in [instant - window, instant); only those with `flag`.

        `flag` is over the rows of the event table.
        """
        first, after = self.bounds(group, instant_us, window_us)
        if flag is None:
            return after - first
        sums = timeline.prefix_sums(flag[self.rows])
        return sums[after] - sums[first]


@dataclasses.dataclass(frozen=True)
class FeatureContext:
    """A bucket's events and its examples.

    Attributes:
      events: STORE columns that the build reads, sorted in store order; near duplicates left out.
      user: user code of each event, from 0, non-decreasing.
      time_us: event_time of each event.
      end_us: end of each play; event_time for other events.
      rows: which events are examples.
      makers: rows that make sessions (plays and impressions), increasing.
      sessions: sessions of `makers`.
      skip_below_ms: threshold of the skip rule.
      history_length: most recent plays in a history list.
      item_snapshots: `day` (Date), `track_id` and one column a feature: what was known of a track
        at midnight before the day.
    """

    events: pl.DataFrame
    user: IntArray
    time_us: IntArray
    end_us: IntArray
    rows: IntArray
    makers: IntArray
    sessions: Sessions
    skip_below_ms: int
    history_length: int
    item_snapshots: pl.DataFrame

    @functools.cached_property
    def row_user(self) -> IntArray:
        """User code of each example."""
        return self.user[self.rows]

    @functools.cached_property
    def row_time_us(self) -> IntArray:
        """Instant of each example."""
        return self.time_us[self.rows]

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
    def is_stream(self) -> BoolArray:
        """Plays of at least 30 s; unknown counts as no."""
        streamed = (self.events["played_ms"] >= labels.STREAM_MS).fill_null(value=False)
        return streamed.to_numpy() & self.is_play

    @functools.cached_property
    def is_skip(self) -> BoolArray:
        """Skipped plays; unknown counts as no."""
        skipped = self.events.select(labels.is_skipped(self.skip_below_ms).fill_null(value=False))
        return skipped.to_series().to_numpy() & self.is_play

    @functools.cached_property
    def by_user(self) -> Occurrences:
        """All events by (user, event_time): the store order itself."""
        rows = np.arange(len(self.user), dtype=np.int64)
        return Occurrences(SortedGroups.of(self.user, self.time_us), rows, self.time_us)

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
