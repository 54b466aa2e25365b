"""The items that the negatives of a day are drawn from, and with which probabilities.

The pool of a UTC day D is what was known at its midnight, for all rows of D alike. With a catalog
an item exists from its release on; without one, or if the catalog does not have it, from the
midnight after it was first seen (for as long as that is within the window). Its count is the plays
on the `window_days` days before D that were known before D, those of train's days only. So neither
an item of the future nor a play of the future has a part in a draw. A play that arrived again on a
later day counts once more from the midnight after: counts are made a partition at a time.

Probabilities are integer weights over their sum. Sums of integers do not depend on their order, so
that a probability, and what is left of the total when some items are excluded, is exact, and a day
built alone has the same bits as in a range.

    uniform      1
    popularity   count ^ alpha, in units of 2^-16
    mixed        share * count / plays + (1 - share) / items, in units of about 2^-60

(Sources: word2vec and RecBole raise the count to alpha; `mixed` is what a batch of B1 positives and
B2 uniform items holds, share = B1 / (B1 + B2).)
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms import timeline
from transforms.timeline import DAY_US, BoolArray, IntArray

_EPOCH = datetime.date(1970, 1, 1)
_NEVER = np.iinfo(np.int64).max

_ALPHA_BITS = 30
_POPULARITY_UNIT = 1 << 16
_MIXED_TOTAL = 1 << 60

# Days whose arrays a worker holds at a time.
_DAYS_HELD = 16


def item_pools(
    item_days: pl.DataFrame,
    catalog: pl.DataFrame | None,
    first_day: datetime.date,
    last_day: datetime.date,
    last_train_day: datetime.date | None,
    window_days: int,
) -> pl.DataFrame:
    """The pools of a range of days, one row an item, sorted by `track_id`.

    Args:
      item_days: `store.ITEM_DAY_SCHEMA` rows of any partitions.
      catalog: `track_id` and `release_time`; None if there is none. Of an item that is listed twice
        the earlier release counts.
      first_day, last_day: inclusive range of the rows' days.
      last_train_day: plays of later days do not count; None if all count.
      window_days: days before D that D's pool looks at.

    Returns:
      `track_id` and an Int64 column for each day, named by its ISO date: plays of the item, null
      where it does not exist. Items that exist on no day are left out. Memory while made: about
      20 bytes an item and day.
    """
    start, days = _number(first_day), (last_day - first_day).days + 1
    event = item_days["event_day"].to_physical().to_numpy().astype(np.int64) - start
    known = item_days["known_day"].to_physical().to_numpy().astype(np.int64) - start
    first = np.maximum(np.maximum(event, known) + 1, 0)
    after = np.minimum(event + window_days + 1, days)
    visible = np.flatnonzero(first < after)
    first, after, event = first[visible], after[visible], event[visible]
    plays = item_days["plays"].to_numpy()[visible]
    if last_train_day is not None:
        plays = np.where(event <= _number(last_train_day) - start, plays, 0)

    tracks = item_days["track_id"][visible]
    listed = pl.Series("track_id", [], pl.String) if catalog is None else catalog["track_id"]
    items = pl.concat([tracks, listed]).unique().sort()
    size, row = len(items), pl.DataFrame([items]).with_row_index("row")
    at = _rows_of(tracks, row)
    counts = _running(size, days, at, first, after, plays)
    exists = _running(size, days, at, first, after, np.ones_like(plays)) > 0
    if catalog is not None:
        released = np.full(size, _NEVER)
        # The first midnight that is not before the release.
        midnight = -(-timeline.times_us(catalog["release_time"]) // DAY_US) - start
        at = _rows_of(listed, row)
        np.minimum.at(released, at, midnight)
        exists[:, at] = np.arange(days)[:, np.newaxis] >= released[at]
    columns = [
        timeline.nullable(counts[day], exists[day]).alias(
            (first_day + datetime.timedelta(days=day)).isoformat()
        )
        for day in range(days)
    ]
    table = pl.DataFrame([items, *columns])
    return table if exists.any(axis=0).all() else table.filter(pl.Series(exists.any(axis=0)))


def _number(day: datetime.date) -> int:
    return (day - _EPOCH).days


def _rows_of(tracks: pl.Series, rows: pl.DataFrame) -> IntArray:
    joined = tracks.to_frame().join(rows, on="track_id", how="left", maintain_order="left")
    return joined["row"].to_numpy().astype(np.int64)


def _running(
    size: int, days: int, at: IntArray, first: IntArray, after: IntArray, value: IntArray
) -> IntArray:
    """(days, items): the sum of the values of each item that hold on the day, [first, after)."""
    sums = np.zeros((days + 1) * size, dtype=np.int64)
    np.add.at(sums, first * size + at, value)
    np.subtract.at(sums, after * size + at, value)
    by_day = sums.reshape(days + 1, size)
    return np.cumsum(by_day, axis=0, out=by_day)[:days]


@dataclasses.dataclass(frozen=True)
class Proposal:
    """Integer weights of the items; an item that does not exist has none.

    Attributes:
      cumulative: sums of the weights of the first 0, 1, ..., n items.
    """

    cumulative: IntArray

    @property
    def total(self) -> int:
        """Sum of all weights."""
        return int(self.cumulative[-1])

    def weight(self, item: IntArray) -> IntArray:
        """Weight of each item; 0 for numbers behind the table's items."""
        size = len(self.cumulative) - 1
        inside = item < size
        if inside.all():
            return self.cumulative[item + 1] - self.cumulative[item]
        weights = np.zeros(len(item), dtype=np.int64)
        weights[inside] = self.weight(item[inside])
        return weights

    def items(self, bits: npt.NDArray[np.uint64]) -> tuple[IntArray, BoolArray]:
        """An item for each 64 bits, and whether it may be used; the total is not 0.

        The bits are a number in [0, 1), and an item has a part of this range in proportion to its
        weight, in order. So that uniform bits give each item exactly its probability, up to
        total / 2^64 of them may not be used. (Source: Lemire, "Fast random integer generation in an
        interval", 2019.)
        """
        total = self.total
        ticket = _high_product(bits, total)
        fair = bits * np.uint64(total) >= np.uint64((1 << 64) % total)
        # Sorted, they are found several times as fast.
        order = np.argsort(ticket)
        item = np.empty(len(bits), dtype=np.int64)
        item[order] = np.searchsorted(self.cumulative, ticket[order], side="right") - 1
        return item, fair


def _high_product(bits: npt.NDArray[np.uint64], factor: int) -> IntArray:
    """floor(bits * factor / 2^64) of 64-bit integers, in halves of 32 bits."""
    half, mask = np.uint64(32), np.uint64(0xFFFF_FFFF)
    factor_high, factor_low = np.uint64(factor) >> half, np.uint64(factor) & mask
    high, low = bits >> half, bits & mask
    middle = high * factor_low + (low * factor_low >> half)
    carry = (low * factor_high + (middle & mask)) >> half
    return (high * factor_high + (middle >> half) + carry).astype(np.int64)


class DayPool:
    """The pool of one day. Items are numbered by their row in the table.

    Memory: 9 bytes an item of the table, and 8 for each proposal once it was asked for.

    Attributes:
      exists: items of the pool.
      counts: plays; 0 for items that are not in it.
      plays: their sum.
    """

    def __init__(self, counts: IntArray, exists: BoolArray) -> None:
        self.counts = counts
        self.exists = exists
        self.plays = int(counts.sum())
        self._made: dict[tuple[str, float], Proposal] = {}

    def share_of_plays(self, item: IntArray) -> npt.NDArray[np.float64]:
        """Of each item; 0 for numbers behind the table's items, and on a day without plays."""
        share = np.zeros(len(item))
        listed = item < len(self.counts)
        share[listed] = self.counts[item[listed]] / max(1, self.plays)
        return share

    def proposal(self, kind: str, option: float = 0.0) -> Proposal:
        """`uniform`, `popularity` with its alpha, or `mixed` with its share of plays.

        On a day without plays `popularity` has no weight at all, and `mixed` is uniform.
        """
        key = (kind, option)
        if key not in self._made:
            self._made[key] = Proposal(timeline.prefix_sums(self._weights(kind, option)))
        return self._made[key]

    def _weights(self, kind: str, option: float) -> npt.NDArray[Any]:
        if kind == "uniform":
            return self.exists
        if kind == "popularity":
            scaled = _power(self.counts.astype(np.float64), option) * _POPULARITY_UNIT
            return np.where(self.counts > 0, np.rint(scaled).astype(np.int64), 0)
        by_plays = int(option * _MIXED_TOTAL)
        per_play = max(1, by_plays // max(1, self.plays))
        per_item = max(1, (_MIXED_TOTAL - by_plays) // max(1, int(self.exists.sum())))
        return np.where(self.exists, self.counts * per_play + per_item, 0)


def _power(base: npt.NDArray[np.float64], alpha: float) -> npt.NDArray[np.float64]:
    """base ^ alpha for 0 < alpha <= 1, alpha to 30 binary digits.

    Made of square roots and products alone, which IEEE 754 defines to the last bit: those of a
    library's power function differ from machine to machine.
    """
    digits = round(alpha * (1 << _ALPHA_BITS))
    result = base if digits >> _ALPHA_BITS else np.ones_like(base)
    root = base
    for place in reversed(range(_ALPHA_BITS)):
        if not digits & ((2 << place) - 1):
            break
        root = np.sqrt(root)
        if digits >> place & 1:
            result = result * root
    return result


class ItemPools:
    """The pools of some days, made once a worker from a table of `item_pools`.

    The table may be mapped from a file. The arrays of the days used last are held: see DayPool.

    Attributes:
      track_id: of each item, sorted.
    """

    def __init__(self, table: pl.DataFrame) -> None:
        self.track_id = table["track_id"]
        self._table = table
        self._held = functools.lru_cache(maxsize=_DAYS_HELD)(self._load)

    @property
    def size(self) -> int:
        """Items of all days."""
        return len(self.track_id)

    def day(self, day: datetime.date) -> DayPool:
        """The pool of a day of the table."""
        return self._held(day)

    def find(self, track_id: pl.Series) -> IntArray:
        """Number of each track; -1 if it is not in the table."""
        if not self.size:
            return np.full(len(track_id), -1, dtype=np.int64)
        at = self.track_id.search_sorted(track_id).to_numpy().astype(np.int64)
        inside = np.minimum(at, self.size - 1)
        return np.where((self.track_id.gather(inside) == track_id).to_numpy(), inside, -1)

    def _load(self, day: datetime.date) -> DayPool:
        counts = self._table[day.isoformat()]
        return DayPool(counts.fill_null(0).to_numpy(), counts.is_not_null().to_numpy())
