"""Statistics of a dataset split, in TFDV's form, fast enough to be made in every build.

`SplitStatistics` is an accumulator as TFDV's `CombinerStatsGenerator` is one (create, add, merge,
extract), over Polars tables and without Beam or TensorFlow. What it extracts is the
`DatasetFeatureStatistics` of TensorFlow Metadata: TFDV validates it and Facets shows it. A column
gives

- counts of missing and of present values, and how many values a list has;
- numbers (INT and FLOAT; booleans are 0 and 1, dates days, timestamps microseconds since 1970):
  mean, standard deviation, zeros, extremes, and one mergeable histogram of narrow cells, from which
  median, STANDARD and QUANTILES histogram come;
- texts (STRING): distinct values, the most frequent ones, and the mean length in bytes.

Counts, extremes, mean and standard deviation agree with TFDV's. The rest is approximate:

- A cell is the upper bits of a 32-bit float: every integer below 512 in absolute value is alone in
  its cell, wider cells span 0.4 % (timestamps: 15 minutes). Counts of cells add up exactly, so the
  histogram is the same however the rows are cut into tables. (The idea of HdrHistogram and of
  DDSketch, Masson et al. 2019; measured 1.5 ns a value, the quantiles sketch of tfx_bsl 25 to 60.)
- Distinct values are exact below 4,096, else estimated from the 4,096 smallest hashes (k minimum
  values, Bar-Yossef et al. 2002), with a standard error of 1.6 %.
- The most frequent texts are exact while a column has no more than 10,000. An identifier column
  keeps 1,000, in which a count is too low by at most 0.2 % of the values (Misra and Gries 1982,
  merged after Agarwal et al. 2012; measured 8 to 15 ns a value, the sketches of tfx_bsl 60 to 100).

A feature of numbers also has a custom statistic CELLS: the histogram of wider cells (12 %; integers
below 16 alone), whose borders are the same in all samples. The edges of TFDV's histograms move from
sample to sample, which its divergence takes for a difference.

Determinism: the same tables added and merged in the same order give the same bytes, on any machine.
NaN counts as `num_nan`, infinity as `num_undefined`; both are left out of everything else, but an
infinity is an extreme. A null in a list is a value that is not summarized.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl
from tensorflow_metadata.proto.v0 import statistics_pb2

from transforms import hashing
from transforms.manifest import ColumnEntry
from transforms.timeline import MINUTE_US, BoolArray, IntArray

CELLS = "cells"

HISTOGRAM_BUCKETS = 10
TOP_VALUES = 20
RANKS = 1000  # values in a rank histogram, which TFDV compares; identifiers have none

# What the name of an identifier column holds if it names items, not users or what they did.
_OF_ITEMS = ("track", "artist", "album", "item")

TEXTS_KEPT = 10_000
IDENTIFIERS_KEPT = 1_000
SMALLEST_HASHES = 4_096

# Bits of a 32-bit float that a cell does not see: 8 of the 23 of the fraction remain.
_UNSEEN_BITS = 15
_COARSER_BITS = 5  # what a cell of CELLS sees less of
_ONE = int(np.float32(1).view(np.int32)) >> _UNSEEN_BITS  # the cell of 1
_INFINITY_BITS = int(np.float32(np.inf).view(np.int32))
_DENSE_SPAN = 1 << 20  # widest range of cells that is counted in an array of this size

# The fastest stable hash that there is; `transforms.hashing` registers the expressions.
_HASH: pl.Expr = (
    pl.col("text").nchash.xxh3_64(seed=hashing.key_of("statistics")).alias("hash")  # type: ignore[attr-defined]
)
_HASH_CELL_BITS = 16  # upper bits of a hash that are its cell
_BYTES = pl.col("text").str.len_bytes().cast(pl.Int64).alias("bytes")

_Type = statistics_pb2.FeatureNameStatistics
_FloatArray = npt.NDArray[np.float64]
_HashArray = npt.NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How a type is summarized: its TFMD type, and the fixed width of its cells if it has one."""

    type: Any
    width: int | None = None


_KINDS = {
    "string": _Kind(_Type.STRING),
    "bool": _Kind(_Type.INT),
    "int32": _Kind(_Type.INT),
    "int64": _Kind(_Type.INT),
    "uint64": _Kind(_Type.INT),
    "double": _Kind(_Type.FLOAT),
    "date32": _Kind(_Type.INT, 1),
    "timestamp[us, tz=UTC]": _Kind(_Type.INT, 15 * MINUTE_US),
}


def element_type(column: ColumnEntry) -> str:
    """The Arrow type of a column's values: of a list, that of its elements."""
    return column.type.removeprefix("list<").removesuffix(">")


def feature_type(column: ColumnEntry) -> Any:
    """`FeatureNameStatistics.Type` of a column: INT, FLOAT or STRING."""
    return _KINDS[element_type(column)].type


class SplitStatistics:
    """Summary of the rows of a split that were added so far; empty when new.

    Args:
      columns: as the manifest lists them. `type` says how a column is summarized, `identifier` that
        its texts are too many to list.
    """

    def __init__(self, columns: Sequence[ColumnEntry]) -> None:
        self._columns = tuple(columns)
        self._rows = 0
        self._summaries = [_Summary.empty(column) for column in self._columns]

    def add(self, table: pl.DataFrame) -> None:
        """Adds the rows of a table that has all the columns, in any order."""
        self._rows += table.height
        for column, summary in zip(self._columns, self._summaries, strict=True):
            summary.merge(_Summary.of(column, table[column.name]))

    def merge(self, other: SplitStatistics) -> None:
        """Adds the rows of another accumulator of the same columns; the order of merges counts.

        Raises:
          ValueError: if it has other columns (a mistake in the code).
        """
        if self._columns != other._columns:
            raise ValueError("statistics of different columns do not merge")
        self._rows += other._rows
        for summary, others in zip(self._summaries, other._summaries, strict=True):
            summary.merge(others)

    def extract(self, name: str) -> statistics_pb2.DatasetFeatureStatistics:
        """The statistics, features in column order. `name` is the split's."""
        result = statistics_pb2.DatasetFeatureStatistics(name=name, num_examples=self._rows)
        result.features.extend(
            summary.feature(column, self._rows)
            for column, summary in zip(self._columns, self._summaries, strict=True)
        )
        return result

    def to_bytes(self) -> bytes:
        """JSON, the same for equal content; a few MB at most."""
        return orjson.dumps(
            {
                "columns": [column.model_dump() for column in self._columns],
                "rows": self._rows,
                "summaries": [summary.to_json() for summary in self._summaries],
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> SplitStatistics:
        """Inverse of `to_bytes`."""
        content = orjson.loads(data)
        result = cls([ColumnEntry.model_validate(column) for column in content["columns"]])
        result._rows = content["rows"]
        result._summaries = [
            _Summary.from_json(column, summary)
            for column, summary in zip(result._columns, content["summaries"], strict=True)
        ]
        return result


def encode(statistics: statistics_pb2.DatasetFeatureStatistics) -> bytes:
    """The file `statistics/<split>.pb`: a binary `DatasetFeatureStatisticsList` of one dataset."""
    listed = statistics_pb2.DatasetFeatureStatisticsList(datasets=[statistics])
    return listed.SerializeToString(deterministic=True)


def decode(data: bytes) -> statistics_pb2.DatasetFeatureStatistics:
    """Inverse of `encode`."""
    return statistics_pb2.DatasetFeatureStatisticsList.FromString(data).datasets[0]


def without_names(data: bytes, columns: Sequence[ColumnEntry]) -> bytes:
    """An encoded file that lists no id of a user or of what a user did: the most frequent values of
    identifier columns are left out, but for those of tracks, artists and albums."""
    listed = statistics_pb2.DatasetFeatureStatisticsList.FromString(data)
    named = {c.name for c in columns if c.identifier and not any(t in c.name for t in _OF_ITEMS)}
    for dataset in listed.datasets:
        for feature in dataset.features:
            if (feature.name or feature.path.step[0]) in named:
                del feature.string_stats.top_values[:]
                feature.string_stats.ClearField("rank_histogram")
    return listed.SerializeToString(deterministic=True)


def _listed(counter: Counter[Any]) -> list[list[Any]]:
    """Keys in order, and their counts: two lists, for JSON of many small ones is slow to read."""
    keys = sorted(counter)
    return [keys, [counter[key] for key in keys]]


def _counter(listed: list[list[Any]]) -> Counter[Any]:
    """Inverse of `_listed`."""
    keys, counts = listed
    return Counter(dict(zip(keys, counts, strict=True)))


class _Stored:
    """A dataclass that is stored as JSON, but for its first field, which the column gives."""

    def to_json(self) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(self)[1:]]  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in names}
        return {
            name: _listed(value) if isinstance(value, Counter) else value
            for name, value in values.items()
        }

    def restore(self, data: dict[str, Any]) -> None:
        for name, value in data.items():
            empty = getattr(self, name)
            if isinstance(empty, Counter):
                value = _counter(value)
            elif isinstance(empty, np.ndarray):
                value = np.array(value, dtype=empty.dtype)
            setattr(self, name, value)


@dataclasses.dataclass
class _Summary:
    """A column's rows.

    Attributes:
      present: rows that are not null.
      lengths: number of values -> present rows that have it.
      values: summary of the values.
    """

    present: int
    lengths: Counter[int]
    values: _Numbers | _Texts

    @classmethod
    def empty(cls, column: ColumnEntry) -> _Summary:
        kind = _KINDS[element_type(column)]
        if kind.type == _Type.STRING:
            kept = IDENTIFIERS_KEPT if column.identifier else TEXTS_KEPT
            return cls(0, Counter(), _Texts(kept))
        return cls(0, Counter(), _Numbers(kind))

    @classmethod
    def of(cls, column: ColumnEntry, rows: pl.Series) -> _Summary:
        values = _without_nulls(rows)
        present, lengths = len(values), Counter({1: len(values)})
        if isinstance(values.dtype, pl.List):
            lengths = _counted(values.list.len().to_numpy().astype(np.int64))
            values = _without_nulls(values.explode(empty_as_null=False))
        elif not present:
            lengths = Counter()
        result = cls.empty(column)
        result.present, result.lengths = present, lengths
        if isinstance(result.values, _Texts):
            result.values = _Texts.of(values, column.identifier, result.values.kept)
        else:
            result.values = _Numbers.of(_physical(values), result.values.kind)
        return result

    def merge(self, other: _Summary) -> None:
        self.present += other.present
        self.lengths.update(other.lengths)
        self.values.merge(other.values)  # type: ignore[arg-type]  # of one column, so of one class

    def feature(self, column: ColumnEntry, rows: int) -> Any:
        kind = _KINDS[element_type(column)]
        result = _Type(type=kind.type)
        result.path.step.append(column.name)
        common = statistics_pb2.CommonStatistics(
            num_non_missing=self.present, num_missing=rows - self.present
        )
        if self.present:
            total = sum(length * count for length, count in self.lengths.items())
            common.tot_num_values = total
            common.avg_num_values = total / self.present
            common.min_num_values = min(self.lengths)
            common.max_num_values = max(self.lengths)
            common.num_values_histogram.CopyFrom(_length_quantiles(self.lengths))
        if isinstance(self.values, _Texts):
            result.string_stats.CopyFrom(self.values.statistics(column.identifier))
            result.string_stats.common_stats.CopyFrom(common)
        else:
            result.num_stats.CopyFrom(self.values.statistics())
            result.num_stats.common_stats.CopyFrom(common)
            if self.values.count and not kind.width:
                result.custom_stats.add(name=CELLS).histogram.CopyFrom(self.values.comparable())
        return result

    def to_json(self) -> dict[str, Any]:
        return {
            "present": self.present,
            "lengths": _listed(self.lengths),
            "values": self.values.to_json(),
        }

    @classmethod
    def from_json(cls, column: ColumnEntry, data: dict[str, Any]) -> _Summary:
        result = cls.empty(column)
        result.present = data["present"]
        result.lengths = _counter(data["lengths"])
        result.values.restore(data["values"])
        return result


@dataclasses.dataclass
class _Numbers(_Stored):
    """Numbers of a column.

    Attributes:
      kind: says which cells there are.
      count, zeros, mean, low, high: of the finite numbers; low and high are null without one.
      squares: sum of the squared differences from the mean.
      nan, above, below: numbers that are NaN, infinite, minus infinite.
      cells: code of a cell -> numbers in it.
    """

    kind: _Kind
    count: int = 0
    zeros: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float | None = None
    high: float | None = None
    nan: int = 0
    above: int = 0
    below: int = 0
    cells: Counter[int] = dataclasses.field(default_factory=Counter)

    @classmethod
    def of(cls, values: pl.Series, kind: _Kind) -> _Numbers:
        result = cls(kind)
        if values.dtype == pl.Boolean():
            return cls._of_flags(len(values), int(values.sum()), kind)
        if values.dtype.is_float():
            finite = values.is_finite()
            if not finite.all():
                result.nan = int(values.is_nan().sum())
                result.above = int((values == math.inf).sum())
                result.below = int((values == -math.inf).sum())
                values = values.filter(finite)
        if values.is_empty():
            return result
        # Polars' own sums, which do not depend on the processor, as NumPy's may.
        result.count, result.mean = len(values), float(values.mean())  # type: ignore[arg-type]
        result.squares = float(values.var(ddof=0)) * result.count  # type: ignore[arg-type]
        result.low, result.high = values.min(), values.max()  # type: ignore[assignment]
        numbers = values.to_numpy()
        result.zeros = result.count - int(np.count_nonzero(numbers))
        if kind.width:
            result.cells = _counted(numbers.astype(np.int64) // kind.width)
        else:
            with np.errstate(over="ignore"):
                bits = (numbers.astype(np.float32) + np.float32(0)).view(np.int32)  # -0 as 0
            result.cells = _counted(bits >> _UNSEEN_BITS)
        return result

    @classmethod
    def _of_flags(cls, count: int, true: int, kind: _Kind) -> _Numbers:
        """The same of `count` zeros and ones without looking at each: a row has many booleans."""
        if not count:
            return cls(kind)
        cells = Counter({0: count - true, _ONE: true})
        return cls(
            kind,
            count=count,
            zeros=count - true,
            mean=true / count,
            squares=true * (count - true) / count,
            low=int(true == count),
            high=int(true > 0),
            cells=+cells,
        )

    def merge(self, other: _Numbers) -> None:
        self.nan += other.nan
        self.above += other.above
        self.below += other.below
        if not other.count:
            return
        count = self.count + other.count
        # Chan, Golub and LeVeque 1979.
        share, apart = other.count / count, other.mean - self.mean
        self.squares += other.squares + apart * apart * self.count * share
        self.mean += apart * share
        self.count, self.zeros = count, self.zeros + other.zeros
        assert other.low is not None
        assert other.high is not None
        self.low = other.low if self.low is None else min(self.low, other.low)
        self.high = other.high if self.high is None else max(self.high, other.high)
        self.cells.update(other.cells)

    def statistics(self) -> statistics_pb2.NumericStatistics:
        result = statistics_pb2.NumericStatistics()
        standard, quantiles = (
            result.histograms.add(type=t, num_nan=self.nan, num_undefined=self.above + self.below)
            for t in (statistics_pb2.Histogram.STANDARD, statistics_pb2.Histogram.QUANTILES)
        )
        if not self.count and not self.above and not self.below:
            if not self.nan:
                del result.histograms[:]
            return result
        result.min = -math.inf if self.below else math.inf if self.low is None else self.low
        result.max = math.inf if self.above else -math.inf if self.high is None else self.high
        if self.low is None or self.high is None:
            return result
        result.mean, result.num_zeros = self.mean, self.zeros
        result.std_dev = math.sqrt(self.squares / self.count)

        cells = self._in_order()
        low, high = float(self.low), float(self.high)
        held, borders = np.histogram(
            cells.middles.clip(low, high),
            HISTOGRAM_BUCKETS if high > low else [low, high],
            (low, high),
            weights=cells.counts,
        )
        _fill(standard, borders, held)
        result.median = cells.quantiles(2).clip(low, high)[1]
        borders = cells.quantiles(HISTOGRAM_BUCKETS).clip(low, high)
        _fill(quantiles, borders, [self.count / HISTOGRAM_BUCKETS] * HISTOGRAM_BUCKETS)
        return result

    def comparable(self) -> statistics_pb2.Histogram:
        """The histogram CELLS. It has no gaps: TFDV takes histograms with the same edges for ones
        with the same buckets, and ends the process if they are not."""
        cells = self._in_order(_COARSER_BITS)
        result = statistics_pb2.Histogram(num_nan=self.nan, num_undefined=self.above + self.below)
        end = cells.left[0]
        for low, high, count in zip(cells.left, cells.right, cells.counts, strict=True):
            if low > end:
                result.buckets.add(low_value=end, high_value=low, sample_count=0)
            result.buckets.add(low_value=low, high_value=high, sample_count=count)
            end = high
        return result

    def _in_order(self, coarser_bits: int = 0) -> _Cells:
        """All cells in order of value."""
        fine = np.fromiter(self.cells.keys(), np.int64, len(self.cells))
        in_fine = np.fromiter(self.cells.values(), np.int64, len(self.cells))
        codes, cell = np.unique(fine >> coarser_bits, return_inverse=True)
        counts = np.zeros(len(codes), np.int64)
        np.add.at(counts, cell, in_fine)
        unit = 1.0 if self.kind.type == _Type.INT else 0.0
        if self.kind.width:
            left = codes * float(self.kind.width)
            right = left + self.kind.width
        else:
            unseen = _UNSEEN_BITS + coarser_bits
            magnitudes = codes & ((1 << (31 - unseen)) - 1)
            near, far = _float32(magnitudes << unseen), _float32((magnitudes + 1) << unseen)
            # Integers of a cell end one before `far`, and the last of them takes up a whole unit.
            far = np.maximum(far, near + unit)
            left = np.where(codes < 0, unit - far, near)
            right = np.where(codes < 0, unit - near, far)
        order = np.argsort(left, kind="stable")
        left, right, counts = left[order], right[order], counts[order]
        is_point = right - left <= max(unit, float(np.finfo(np.float32).tiny))  # an integer, or 0
        return _Cells(left, right, counts, is_point)


@dataclasses.dataclass(frozen=True)
class _Cells:
    """Cells in order of value: their edges, the numbers in them, and whether all are at `left`."""

    left: _FloatArray
    right: _FloatArray
    counts: IntArray
    is_point: BoolArray

    @property
    def middles(self) -> _FloatArray:
        return np.where(self.is_point, self.left, (self.left + self.right) / 2)

    def quantiles(self, parts: int) -> _FloatArray:
        """The `parts + 1` edges of equally full parts; numbers are spread evenly over a cell."""
        reached = np.cumsum(self.counts)
        ranks = np.linspace(0, reached[-1], parts + 1)
        at = np.searchsorted(reached, ranks)
        inside = (ranks - reached[at] + self.counts[at]) / self.counts[at]
        width = np.where(self.is_point, 0.0, self.right - self.left)
        return self.left[at] + inside * width[at]


@dataclasses.dataclass(frozen=True)
class _Hashes:
    """Distinct hashes, in no order: a place where each stands, and how often it does."""

    hashes: _HashArray
    at: IntArray
    counts: IntArray

    @classmethod
    def of(cls, hashes: _HashArray, cells: IntArray) -> _Hashes:
        """Of hashes and the cell of each.

        One hash of every cell is counted without sorting, by its cell. Only what shares a cell with
        it is sorted: little, for what is frequent has mostly a cell of its own.
        """
        at = np.zeros(1 << _HASH_CELL_BITS, np.int64)
        at[cells] = np.arange(len(cells))
        is_first = hashes.take(at.take(cells)) == hashes
        counts = np.bincount(cells[is_first], minlength=len(at))
        filled = np.flatnonzero(counts)
        others = np.flatnonzero(~is_first)
        rest, rest_at, rest_counts = np.unique(
            hashes[others], return_index=True, return_counts=True
        )
        return cls(
            np.append(hashes[at[filled]], rest),
            np.append(at[filled], others[rest_at]),
            np.append(counts[filled], rest_counts),
        )


@dataclasses.dataclass
class _Texts(_Stored):
    """Texts of a column.

    Attributes:
      kept: most texts in `counts`.
      count: texts.
      total_bytes: their length in UTF-8.
      counts: text -> times it occurs, less what was taken off when others were left out.
      hashes: the SMALLEST_HASHES smallest distinct hashes, ascending.
    """

    kept: int
    count: int = 0
    total_bytes: int = 0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    hashes: _HashArray = dataclasses.field(default_factory=lambda: np.empty(0, np.uint64))

    @classmethod
    def of(cls, texts: pl.Series, identifier: bool, kept: int) -> _Texts:
        texts, count = texts.alias("text"), len(texts)
        if identifier:
            return cls._of_identifiers(texts, kept)
        counted = texts.value_counts(name="n").with_columns(_HASH, _BYTES)
        total_bytes = int((counted["bytes"] * counted["n"].cast(pl.Int64)).sum())
        hashes = np.unique(counted["hash"].to_numpy())[:SMALLEST_HASHES]
        counts = Counter(dict(counted.select("text", "n").iter_rows()))
        result = cls(kept, count, total_bytes, counts, hashes)
        result._shorten()
        return result

    @classmethod
    def _of_identifiers(cls, texts: pl.Series, kept: int) -> _Texts:
        """The same without counting each text, by the cells of their hashes."""
        measured = texts.to_frame().select(_HASH, _BYTES)
        hashes = measured["hash"].to_numpy()
        cells = (hashes >> np.uint64(64 - _HASH_CELL_BITS)).view(np.int64)
        in_cell = np.bincount(cells, minlength=1 << _HASH_CELL_BITS)
        # Few need counting: a text that is frequent is in a cell that is full, and the smallest
        # hashes that are asked for lie in the first as many cells that are not empty.
        least = max(-(-len(texts) // kept), 1)
        chosen = in_cell >= least
        filled = np.flatnonzero(in_cell)[:SMALLEST_HASHES]
        chosen[: filled[-1] + 1 if len(filled) == SMALLEST_HASHES else None] = True
        rows = np.flatnonzero(chosen.take(cells))
        found = _Hashes.of(hashes.take(rows), cells.take(rows))
        frequent = np.flatnonzero(found.counts >= least)
        names = texts.gather(rows[found.at[frequent]]).to_list()
        result = cls(
            kept,
            len(texts),
            int(measured["bytes"].sum()),
            Counter(dict(zip(names, found.counts[frequent].tolist(), strict=True))),
            np.sort(found.hashes)[:SMALLEST_HASHES],
        )
        result._shorten()
        return result

    def merge(self, other: _Texts) -> None:
        self.count += other.count
        self.total_bytes += other.total_bytes
        self.counts.update(other.counts)
        self._shorten()
        self.hashes = np.union1d(self.hashes, other.hashes)[:SMALLEST_HASHES]

    def _shorten(self) -> None:
        if len(self.counts) > self.kept:
            left_out = sorted(self.counts.values(), reverse=True)[self.kept]
            self.counts = Counter({t: n - left_out for t, n in self.counts.items() if n > left_out})

    def _distinct(self) -> int:
        if len(self.hashes) < SMALLEST_HASHES:
            return len(self.hashes)
        return round((SMALLEST_HASHES - 1) * 2.0**64 / float(self.hashes[-1]))

    def statistics(self, identifier: bool) -> statistics_pb2.StringStatistics:
        result = statistics_pb2.StringStatistics(unique=self._distinct())
        if self.count:
            result.avg_length = self.total_bytes / self.count
        # TFDV's order: of two texts that are equally frequent, the greater one is first.
        ranked = sorted(self.counts.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
        for text, count in ranked[:TOP_VALUES]:
            result.top_values.add(value=text, frequency=count)
        if not identifier:
            for rank, (text, count) in enumerate(ranked[:RANKS]):
                result.rank_histogram.buckets.add(
                    low_rank=rank, high_rank=rank, label=text, sample_count=count
                )
        return result


def _without_nulls(values: pl.Series) -> pl.Series:
    """In one piece, so that no sum depends on the pieces a table came in."""
    return (values.drop_nulls() if values.null_count() else values).rechunk()


def _physical(values: pl.Series) -> pl.Series:
    """Dates as days, timestamps as microseconds since 1970; other values as they are."""
    if isinstance(values.dtype, pl.Datetime):
        return values.dt.cast_time_unit("us").to_physical()
    return values.to_physical()


def _counted(codes: npt.NDArray[Any]) -> Counter[int]:
    """Code -> times it occurs."""
    if not len(codes):
        return Counter()
    first = int(codes.min())
    if int(codes.max()) - first < _DENSE_SPAN:
        counts = np.bincount(codes - first)
        distinct = np.flatnonzero(counts)
        counts = counts[distinct]
        distinct += first
    else:
        distinct, counts = np.unique(codes, return_counts=True)
    return Counter(dict(zip(distinct.tolist(), counts.tolist(), strict=True)))


def _float32(bits: IntArray) -> _FloatArray:
    """The positive 32-bit floats with these bits; the largest one in place of infinity."""
    values = np.minimum(bits, _INFINITY_BITS).astype(np.int32).view(np.float32)
    return np.minimum(values.astype(np.float64), float(np.finfo(np.float32).max))


def _length_quantiles(lengths: Counter[int]) -> statistics_pb2.Histogram:
    """TFDV's histogram of the number of values: ten quantiles, each an actual number."""
    numbers = np.array(sorted(lengths), dtype=np.float64)
    counts = np.array([lengths[number] for number in sorted(lengths)])
    edges = _Cells(numbers, numbers, counts, counts > 0).quantiles(HISTOGRAM_BUCKETS)
    result = statistics_pb2.Histogram(type=statistics_pb2.Histogram.QUANTILES)
    _fill(result, edges, [int(counts.sum()) / HISTOGRAM_BUCKETS] * HISTOGRAM_BUCKETS)
    return result


def _fill(histogram: statistics_pb2.Histogram, edges: Any, counts: Any) -> None:
    for (low, high), count in zip(itertools.pairwise(edges), counts, strict=True):
        histogram.buckets.add(low_value=low, high_value=high, sample_count=count)
