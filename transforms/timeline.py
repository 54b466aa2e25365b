"""Arrays over the events of one bucket, and the two primitives every kernel is made of.

A timeline is sorted by (group, time). A query asks, for its group and instant, about the events
strictly before it. Both are answered by run starts, prefix sums and binary search on one sorted
64-bit key: no window expression, no loop over users.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

_MAX_KEY = (1 << 63) - 1


def times_us(column: pl.Series) -> IntArray:
    """Microseconds since 1970 of a Datetime column without nulls."""
    return column.to_physical().to_numpy().astype(np.int64, copy=False)


def filled(column: pl.Series, missing: int) -> IntArray:
    """An integer column as int64 with nulls replaced."""
    return column.cast(pl.Int64).fill_null(missing).to_numpy()


def value_codes(column: pl.Series) -> IntArray:
    """A code from 0 for each distinct value of a String column; null has a code of its own."""
    texts = pc.cast(column.to_arrow(), pa.large_string())
    indices = pc.dictionary_encode(texts, null_encoding="encode").indices
    return indices.to_numpy(zero_copy_only=False).astype(np.int64)


def run_codes(*sorted_columns: pl.Series) -> IntArray:
    """0, 0, 1, 1, 1, 2, ...: the number of the run of equal values each row is in."""
    height = len(sorted_columns[0])
    if height == 0:
        return np.empty(0, dtype=np.int64)
    starts = np.zeros(height, dtype=bool)
    for column in sorted_columns:
        changed = column.ne_missing(column.shift(1)).to_numpy()
        starts |= changed
    starts[0] = True
    return np.cumsum(starts, dtype=np.int64) - 1


def _stack(group: IntArray, value: IntArray, span: int) -> IntArray | None:
    """`group * span + value`, which orders by (group, value); None if 63 bits are too few."""
    if len(group) and (int(group[-1]) + 1) * span > _MAX_KEY:
        return None
    return group * span + value


def running_max(group: IntArray, value: IntArray) -> IntArray:
    """Largest value so far within each group; `group` is non-decreasing from 0."""
    if len(value) == 0:
        return value
    low = int(value.min())
    span = int(value.max()) - low + 1
    stacked = _stack(group, value - low, span)
    if stacked is not None:
        return np.maximum.accumulate(stacked) - group * span + low
    distinct, rank = np.unique(value, return_inverse=True)
    stacked = group * len(distinct) + rank
    return distinct[np.maximum.accumulate(stacked) - group * len(distinct)]


@dataclasses.dataclass(frozen=True)
class SortedGroups:
    """Events of many groups, sorted by (group, time), that can be searched by (group, instant).

    Made by `of`. Holds one sorted 64-bit key an event: group and time stacked, or, where years of
    microseconds times the groups do not fit into it, group and the rank of the time.
    """

    _key: IntArray
    _low_us: int
    _span: int
    _distinct_us: IntArray | None

    @classmethod
    def of(cls, group: IntArray, time_us: IntArray) -> SortedGroups:
        """Args: `group` codes from 0, non-decreasing; `time_us` non-decreasing within a group."""
        if len(time_us) == 0:
            return cls(group, 0, 1, None)
        low = int(time_us.min())
        span = int(time_us.max()) - low + 2
        key = _stack(group, time_us - low, span)
        if key is not None:
            return cls(key, low, span, None)
        distinct, rank = np.unique(time_us, return_inverse=True)
        span = len(distinct) + 1
        return cls(group * span + rank, 0, span, distinct)

    def count_before(self, group: IntArray, instant_us: IntArray) -> IntArray:
        """Index of the first event of `group` at or after each instant.

        Events of the group strictly before the instant lie directly below that index, and those of
        lower groups below them. Groups without events are allowed.
        """
        if len(self._key) == 0:
            return np.zeros(len(group), dtype=np.int64)
        if self._distinct_us is None:
            ticks = np.clip(instant_us - self._low_us, 0, self._span - 1)
        else:
            ticks = np.searchsorted(self._distinct_us, instant_us, side="left")
        # Groups above the last one have no events; their product could leave 64 bits.
        inside = np.minimum(group, int(self._key[-1]) // self._span + 1)
        return np.searchsorted(self._key, inside * self._span + ticks, side="left")


def prefix_sums(values: npt.NDArray[Any]) -> IntArray:
    """Sums of the first 0, 1, ..., n values; `sums[b] - sums[a]` is the sum of rows a to b - 1."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


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
        self, group: IntArray, instant_us: IntArray, window_us: int | IntArray
    ) -> tuple[IntArray, IntArray]:
        """[first, after) of the group's occurrences in [instant - window, instant)."""
        after = self.index.count_before(group, instant_us)
        return self.index.count_before(group, instant_us - window_us), after

    def count(
        self,
        group: IntArray,
        instant_us: IntArray,
        window_us: int | IntArray,
        flag: BoolArray | None = None,
    ) -> IntArray:
        """Occurrences of the group in [instant - window, instant); only those with `flag`.

        `flag` is over the rows of the event table.
        """
        first, after = self.bounds(group, instant_us, window_us)
        if flag is None:
            return after - first
        sums = prefix_sums(flag[self.rows])
        return sums[after] - sums[first]


def flat_ranges(first: IntArray, after: IntArray) -> tuple[IntArray, IntArray]:
    """Indices first, first + 1, ..., after - 1 of every range in one array, and where each range
    begins in it (one more offset than ranges)."""
    lengths = after - first
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    flat = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - first, lengths)
    return flat, offsets


def as_lists(values: pl.Series, offsets: IntArray) -> pl.Series:
    """A List column whose lists are cut out of `values` at the offsets."""
    array = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values.to_arrow())
    lists = pl.Series(array)
    assert isinstance(lists, pl.Series)
    return lists.cast(pl.List(values.dtype))


def nullable(values: npt.NDArray[Any], valid: BoolArray) -> pl.Series:
    """A column of the values, null where they are not valid."""
    return pl.select(pl.when(pl.Series(valid)).then(pl.Series(values))).to_series()
