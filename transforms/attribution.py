"""Which play, if any, an impression led to.

An impression's outcome is the first play of the same user, track and surface that starts at or
after it and less than the surface's window later, among the plays credited to it; each play is
credited once, to the latest such impression before it. (Source: an exposure is answered within a
short time on its own surface; crediting the latest one keeps a play from counting twice.)
"""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from transforms.timeline import BoolArray, IntArray


@dataclasses.dataclass(frozen=True)
class Windows:
    """default_us: attribution window; by_surface_us: windows of the surfaces that differ."""

    default_us: int
    by_surface_us: dict[str, int]

    @property
    def widest_us(self) -> int:
        return max([self.default_us, *self.by_surface_us.values()])

    def of(self, surface: pl.Series) -> IntArray:
        """Window of each row's surface."""
        if not self.by_surface_us:
            return np.full(len(surface), self.default_us, dtype=np.int64)
        return surface.replace_strict(
            self.by_surface_us, default=self.default_us, return_dtype=pl.Int64
        ).to_numpy()


def credit_plays(
    key: IntArray,
    time_us: IntArray,
    is_impression: BoolArray,
    window_us: IntArray,
) -> IntArray:
    """For each impression the index of the play that is its outcome, -1 if there is none.

    Args:
      key: code of (user, track, surface) of each row; rows are impressions and plays, in store
        order within a key.
      time_us: event_time.
      is_impression: impressions; all other rows are plays.
      window_us: attribution window of each row's surface.

    Returns:
      One index a row (of the input); -1 for plays. A play at the same microsecond as an impression
      can be its outcome; of two impressions at one instant the later in store order is credited.
    """
    n = len(key)
    outcome = np.full(n, -1, dtype=np.int64)
    if n == 0:
        return outcome
    # At one instant impressions come before plays, so that they are eligible.
    order = np.lexsort((np.arange(n), ~is_impression, time_us, key))
    sorted_key, sorted_time = key[order], time_us[order]
    shown = is_impression[order]
    position = np.arange(n, dtype=np.int64)
    latest = np.maximum.accumulate(np.where(shown, position, -1))
    candidate = np.maximum(latest, 0)
    eligible = (
        ~shown
        & (latest >= 0)
        & (sorted_key[candidate] == sorted_key)
        & (sorted_time - sorted_time[candidate] < window_us[order][candidate])
    )
    plays = np.flatnonzero(eligible)
    # The first play of each impression: credits come in time order, so write them backwards.
    outcome[order[candidate[plays[::-1]]]] = order[plays[::-1]]
    return outcome
