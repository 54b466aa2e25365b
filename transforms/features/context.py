"""What feature functions see: the events of one bucket and the examples among them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import polars as pl

from transforms.listening import Listening
from transforms.timeline import BoolArray, IntArray, Occurrences


def known_count(
    plays: Occurrences,
    group: IntArray,
    instant_us: IntArray,
    window_us: int,
    flag: BoolArray,
    tells: BoolArray,
) -> tuple[IntArray, BoolArray]:
    """How many of the group's plays in [instant - window, instant) have a flag, and whether that is
    known: one of them tells, or there are none."""
    count, told = (plays.count(group, instant_us, window_us, f) for f in (flag, tells))
    return count, (told > 0) | (plays.count(group, instant_us, window_us) == 0)


@dataclasses.dataclass(frozen=True)
class FeatureContext(Listening):
    """A bucket's events and its examples.

    Derived arrays are computed when first asked for and shared by all functions.

    Attributes:
      rows: which events are examples.
      history_length: most recent plays in a history list.
      item_snapshots: `day` (Date), `track_id` and one column a feature: what was known of a track
        at midnight before the day.
      like_sources: sources that tell of likes.
    """

    rows: IntArray
    history_length: int
    item_snapshots: pl.DataFrame
    like_sources: tuple[str, ...]

    @classmethod
    def at(
        cls,
        listening: Listening,
        rows: IntArray,
        history_length: int,
        item_snapshots: pl.DataFrame,
        like_sources: tuple[str, ...],
    ) -> FeatureContext:
        """The examples at some events of a bucket."""
        shared = {f.name: getattr(listening, f.name) for f in dataclasses.fields(Listening)}
        return cls(
            **shared,
            rows=rows,
            history_length=history_length,
            item_snapshots=item_snapshots,
            like_sources=like_sources,
        )

    @functools.cached_property
    def row_user(self) -> IntArray:
        """User code of each example."""
        return self.user[self.rows]

    @functools.cached_property
    def row_time_us(self) -> IntArray:
        """Instant of each example."""
        return self.time_us[self.rows]

    @functools.cached_property
    def row_session(self) -> IntArray:
        """Index in `makers` of the start of each example's session; 0 where it has none."""
        return np.maximum(self.session_start[self.rows], 0)

    @functools.cached_property
    def tells_like(self) -> BoolArray:
        """Events of a source that tells of likes."""
        return self.events["source"].is_in(list(self.like_sources)).to_numpy()

    @functools.cached_property
    def row_in_session(self) -> BoolArray:
        """Which examples are in a session, and not past its cap."""
        return self.session_start[self.rows] >= 0
