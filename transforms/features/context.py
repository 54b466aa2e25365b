"""What feature functions see: the events of one bucket and the examples among them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import polars as pl

from transforms.listening import Listening
from transforms.timeline import BoolArray, IntArray


@dataclasses.dataclass(frozen=True)
class FeatureContext(Listening):
    """A bucket's events and its examples.

    Derived arrays are computed when first asked for and shared by all functions.

    Attributes:
      rows: which events are examples.
      history_length: most recent plays in a history list.
      item_snapshots: `day` (Date), `track_id` and one column a feature: what was known of a track
        at midnight before the day.
    """

    rows: IntArray
    history_length: int
    item_snapshots: pl.DataFrame

    @classmethod
    def at(
        cls, listening: Listening, rows: IntArray, history_length: int, item_snapshots: pl.DataFrame
    ) -> FeatureContext:
        """The examples at some events of a bucket."""
        shared = {f.name: getattr(listening, f.name) for f in dataclasses.fields(Listening)}
        return cls(
            **shared, rows=rows, history_length=history_length, item_snapshots=item_snapshots
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
    def row_in_session(self) -> BoolArray:
        """Which examples are in a session, and not past its cap."""
        return self.session_start[self.rows] >= 0
