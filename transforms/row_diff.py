"""What differs between the rows of two tables that are two versions of one.

Rows are paired by the columns that identify them, rows of equal keys in their order. A pair is the
same, different in some column, or moved to another split; other rows are only in A or only in B.
Null equals null and NaN equals NaN; lists are equal if their elements are.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from transforms.timeline import BoolArray

# Columns of a table of pairs, beside the key.
OCCURRENCE = "occurrence"  # number of a row among those of its version with the same key
A_ROW, A_SPLIT, B_ROW, B_SPLIT = "a_row", "a_split", "b_row", "b_split"


@dataclasses.dataclass(frozen=True)
class Example:
    """A row: its key, its split in A and in B (None where it is not), and, of a column that
    differs, its two values."""

    key: tuple[Any, ...]
    split_a: str | None
    split_b: str | None
    a: Any = None
    b: Any = None


@dataclasses.dataclass(frozen=True)
class RowCounts:
    """Where the rows of a split, or of all, went.

    rows_a = same + different + moved_out + only_a; rows_b = same + different + moved_in + only_b.
    """

    rows_a: int = 0
    rows_b: int = 0
    same: int = 0
    different: int = 0
    moved_out: int = 0
    moved_in: int = 0
    only_a: int = 0
    only_b: int = 0


@dataclasses.dataclass
class ColumnDiff:
    """How the values of a column differ in paired rows.

    Attributes:
      rows: pairs with another value.
      null_a, null_b: of these, null in A (B) only.
      max_abs, mean_abs: absolute difference of the numbers that differ and are finite in both,
        elements of lists of one length each on their own; None if there are none.
      examples: pairs that differ, those with the smallest keys.
    """

    rows: int = 0
    null_a: int = 0
    null_b: int = 0
    max_abs: float | None = None
    mean_abs: float | None = None
    examples: list[Example] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class RowDiff:
    """The rows of two versions.

    Attributes:
      key: columns that identify a row.
      total, splits: counts over all splits, and of each.
      moves: "from -> to" -> rows that moved between these splits.
      moved_different: rows that moved and also differ in a column.
      duplicates_a, duplicates_b: rows whose key an earlier row of the version has.
      columns: those that differ, the most different first.
      examples: kind (different, moved, only_a, only_b, duplicate_a, duplicate_b) -> rows with the
        smallest keys.
    """

    key: tuple[str, ...]
    total: RowCounts
    splits: dict[str, RowCounts]
    moves: dict[str, int]
    moved_different: int
    duplicates_a: int
    duplicates_b: int
    columns: dict[str, ColumnDiff]
    examples: dict[str, list[Example]]

    @property
    def same(self) -> bool:
        return self.total.rows_a == self.total.rows_b == self.total.same


def pair_rows(a: pl.DataFrame, b: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Pairs the rows of two tables by key, equal keys by their order.

    Args:
      a: the key's columns and `a_split` (String).
      b: the same with `b_split`.
      key: columns that identify a row.

    Returns:
      A row for each pair or single row: the key, `occurrence` (UInt32), `a_row` and `b_row` (UInt32
      positions) and the splits, the latter four null where there is no row; sorted by key.
    """
    on = [*key, OCCURRENCE]
    joined = _numbered(a, key, A_ROW).join(
        _numbered(b, key, B_ROW), on=on, how="full", coalesce=True, nulls_equal=True
    )
    return joined.select(*on, A_ROW, A_SPLIT, B_ROW, B_SPLIT).sort(on)


def _numbered(table: pl.DataFrame, key: Sequence[str], row: str) -> pl.DataFrame:
    """The table with its row numbers and the number of each row among those of its key."""
    occurrence = pl.lit(0, pl.UInt32)
    if table.select(key).n_unique() < table.height:
        occurrence = pl.int_range(pl.len(), dtype=pl.UInt32).over(key)
    return table.with_row_index(row).with_columns(occurrence.alias(OCCURRENCE))


@dataclasses.dataclass
class Gaps:
    """Absolute differences of numbers: how many, their sum, the largest."""

    numbers: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, other: Gaps) -> None:
        self.numbers += other.numbers
        self.total += other.total
        self.largest = max(self.largest, other.largest)


@np.errstate(over="ignore")  # the gap of two very large doubles is infinite
def compare_values(a: pl.Series, b: pl.Series, tolerance: float) -> tuple[BoolArray, Gaps]:
    """Which values of two columns of one type and length differ, and by how much.

    Args:
      a, b: of any type; numbers and lists of numbers have gaps.
      tolerance: doubles, also in lists, that differ by at most this share of the larger are equal.

    Returns:
      A mask of what differs, and the gaps of the finite numbers that do.
    """
    differs = a.ne_missing(b).to_numpy().copy()
    at = np.flatnonzero(differs & (a.is_not_null() & b.is_not_null()).to_numpy())
    left, right = a.gather(at), b.gather(at)
    if isinstance(a.dtype, pl.List):
        lengths = left.list.len().to_numpy()
        of_one_length = lengths == right.list.len().to_numpy()
        at, lengths = at[of_one_length], lengths[of_one_length]
        if not len(at):
            return differs, Gaps()
        elements, gaps = compare_values(a.gather(at).explode(), b.gather(at).explode(), tolerance)
        owner = np.repeat(np.arange(len(at)), lengths)
        differs[at] = np.bincount(owner, weights=elements, minlength=len(at)) > 0
        return differs, gaps
    if a.dtype.is_float():
        x, y = left.to_numpy(), right.to_numpy()
        finite = np.isfinite(x) & np.isfinite(y)
        at, x, y = at[finite], x[finite], y[finite]
        gap = np.abs(x - y)
        close = gap <= tolerance * np.maximum(np.abs(x), np.abs(y))
        differs[at[close]] = False
        gap = gap[~close]
    elif a.dtype.is_integer():  # 64 bits are too few for the difference of two
        gap = (left.cast(pl.Int128) - right.cast(pl.Int128)).abs().cast(pl.Float64).to_numpy()
    else:
        return differs, Gaps()
    return differs, Gaps(len(gap), float(gap.sum()), float(gap.max(initial=0.0)))


class RowTally:
    """Accumulates the row differences of groups of rows; no key is in two groups.

    Args:
      key: columns that identify a row.
      identifiers: columns whose numbers are ids: no gaps are kept of them.
      tolerance: see `compare_values`.
      limit: examples to keep of each kind.
    """

    def __init__(
        self, key: tuple[str, ...], identifiers: set[str], tolerance: float, limit: int
    ) -> None:
        self._key = key
        self._identifiers = identifiers
        self._tolerance = tolerance
        self._limit = limit
        # (split in A, split in B, whether a column differs) -> rows
        self._went: collections.Counter[tuple[str | None, str | None, bool]] = collections.Counter()
        self._duplicates: collections.Counter[str] = collections.Counter()
        self._columns: dict[str, ColumnDiff] = {}
        self._gaps: dict[str, Gaps] = {}
        self._examples: dict[str, list[Example]] = {}

    def add_column(self, name: str, both: pl.DataFrame, a: pl.Series, b: pl.Series) -> BoolArray:
        """Which pairs differ in a column.

        Args:
          name: of the column.
          both: rows of `pair_rows` that have both sides.
          a, b: the column's values in these rows.
        """
        differs, gaps = compare_values(a, b, self._tolerance)
        at = np.flatnonzero(differs)
        if len(at):
            found = self._columns.setdefault(name, ColumnDiff())
            found.rows += len(at)
            found.null_a += a.gather(at).null_count()
            found.null_b += b.gather(at).null_count()
            if name not in self._identifiers:
                self._gaps.setdefault(name, Gaps()).add(gaps)
            shown = at[: self._limit]
            rows = zip(
                self._rows(both[shown]), a.gather(shown).to_list(), b.gather(shown).to_list(),
                strict=True,
            )  # fmt: skip
            more = [dataclasses.replace(row, a=left, b=right) for row, left, right in rows]
            found.examples = self._first(found.examples, more)
        return differs

    def add_pairs(self, pairs: pl.DataFrame, differs: BoolArray) -> None:
        """Counts the rows of a group.

        Args:
          pairs: of `pair_rows`.
          differs: whether some column differs, for each row of `pairs`.
        """
        told = pairs.with_columns(differs=pl.Series(differs))
        went = told.group_by(A_SPLIT, B_SPLIT, "differs").len()
        for split_a, split_b, other, count in went.iter_rows():
            self._went[split_a, split_b, other] += count
        in_a, in_b = (pl.col(name).is_not_null() for name in (A_SPLIT, B_SPLIT))
        again = pl.col(OCCURRENCE) > 0
        for kind, chosen in {
            "different": pl.col("differs"),
            "moved": pl.col(A_SPLIT) != pl.col(B_SPLIT),
            "only_a": in_a & ~in_b,
            "only_b": in_b & ~in_a,
            "duplicate_a": in_a & again,
            "duplicate_b": in_b & again,
        }.items():
            rows = told.filter(chosen)
            if kind.startswith("duplicate"):
                self._duplicates[kind] += rows.height
            found = self._first(self._examples.get(kind, []), self._rows(rows.head(self._limit)))
            if found:
                self._examples[kind] = found

    def result(self, splits: Iterable[str]) -> RowDiff:
        """The differences of all groups, with counts of the given splits."""
        for name, gaps in self._gaps.items():
            if gaps.numbers:
                self._columns[name].max_abs = gaps.largest
                self._columns[name].mean_abs = gaps.total / gaps.numbers
        moves: collections.Counter[str] = collections.Counter()
        moved_different = 0
        for (a, b, differs), count in self._went.items():
            if a is not None and b is not None and a != b:
                moves[f"{a} -> {b}"] += count
                moved_different += count * differs
        return RowDiff(
            key=self._key,
            total=self._counts(None),
            splits={split: self._counts(split) for split in splits},
            moves=dict(sorted(moves.items())),
            moved_different=moved_different,
            duplicates_a=self._duplicates["duplicate_a"],
            duplicates_b=self._duplicates["duplicate_b"],
            columns=dict(sorted(self._columns.items(), key=lambda item: (-item[1].rows, item[0]))),
            examples=self._examples,
        )

    def _counts(self, split: str | None) -> RowCounts:
        """Where rows of a split went; None: of all splits."""
        counts: collections.Counter[str] = collections.Counter()
        for (a, b, differs), count in self._went.items():
            in_a = a is not None and split in (None, a)
            in_b = b is not None and split in (None, b)
            counts["rows_a"] += count * in_a
            counts["rows_b"] += count * in_b
            if a == b:
                counts["different" if differs else "same"] += count * in_a
            else:
                counts["only_a" if b is None else "moved_out"] += count * in_a
                counts["only_b" if a is None else "moved_in"] += count * in_b
        return RowCounts(**counts)

    def _rows(self, pairs: pl.DataFrame) -> list[Example]:
        columns = [*self._key, A_SPLIT, B_SPLIT]
        return [Example(tuple(key), a, b) for *key, a, b in pairs.select(columns).iter_rows()]

    def _first(self, examples: list[Example], more: list[Example]) -> list[Example]:
        """The examples with the smallest keys, null first: whatever the order of the groups."""

        def order(example: Example) -> Any:
            return [(part is not None, part) for part in example.key]

        return sorted(examples + more, key=order)[: self._limit]
