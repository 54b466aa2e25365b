"""Signal report: what a column of a dataset tells about a target that the features do not tell yet.

Splits. What is fitted (bins, category means, least squares) is fitted on train; association and
increment are measured on the other splits, and on train only where a version has no others
(`measured_on` says so). Coverage and the days are of all rows. Rows whose target is null take part
in coverage and drift only.

A candidate is a number, a flag (0 or 1) or a name. NaN and infinities count as missing. Where an
order is needed, a name stands for the mean target of its rows in train (all of train for a name
that is not there).

Bins. Numbers are cut at the deciles of the rows that the bins are fitted on; a value that is a
border itself, as the 0 of many counts is, has a bin of its own. Names: the 100 most frequent, and
one bin for the rest. Missing is a bin.

| measure                     | definition                                                         |
|-----------------------------|--------------------------------------------------------------------|
| drift                       | Jensen-Shannon divergence in bits, 0 to 1, of a day's bins and     |
|                             | those of the first day, or of all days before; bins of the first   |
| Spearman                    | Pearson correlation of the ranks, ties at their mean rank          |
| mutual information          | of the bins of both, in bits, less its bias (r-1)(c-1) / (2n ln 2) |
|                             | over the r by c bins in use (Miller 1955, Panzeri 1996); not < 0   |
| AUC                         | P(value of a true row > of a false one) + P(equal) / 2             |
| redundancy                  | Spearman of candidate and feature, on train                        |
| increment: partial Spearman | Spearman of what least squares on the features leaves of the       |
|                             | candidate's quantile and of the target                             |
| increment: explained        | 1 - squared error / squared error of train's mean target, with the |
|                             | features alone, and with the candidate too                         |

Least squares sees each feature as its quantile among the rows of train, so no heavy tail rules it,
and a flag for its missing values. It is linear: what a candidate adds to it, a model with
interactions may have already.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms import manifest
from transforms.manifest import ColumnEntry, FileEntry, Manifest
from transforms.splits import SPLITS
from transforms.timeline import BoolArray, IntArray

FloatArray = npt.NDArray[np.float64]

SPLIT = "split"
TIME = "event_time"
NEIGHBOURS = 5
_BINS = 10
_NAMES = 100
_MIN_ROWS = 3
# What is left of a candidate's quantiles below this standard deviation is rounding.
_NOTHING = 1e-9

_NUMBERS = ("bool", "int32", "int64", "uint64", "double")


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Rows, the share of them with a value, distinct values, and the most frequent one's share of
    the values."""

    rows: int
    known: float
    distinct: int
    modal: float


@dataclasses.dataclass(frozen=True)
class Association:
    """Candidate and target over `rows` with both; None where it is not defined (AUC: the target is
    no flag; else: one of them is constant).

    Attributes:
      rows: with candidate and target.
      spearman, auc: see the module; `information_bits` also tells what a missing value tells.
    """

    rows: int
    spearman: float | None
    information_bits: float | None
    auc: float | None


@dataclasses.dataclass(frozen=True)
class Day:
    """A UTC day: its rows, and drift against the first day and all before; None on the first."""

    day: datetime.date
    rows: int
    known: float
    drift_first: float | None
    drift_before: float | None
    association: Association


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A feature of the current set that goes with the candidate."""

    feature: str
    spearman: float


@dataclasses.dataclass(frozen=True)
class Increment:
    """What is left of the association after the features; see the module.

    Attributes:
      features: number of them.
      rows: with candidate and target.
      partial_spearman: None if the features determine the candidate.
      explained_before, explained_after: share of the target's squared deviations.
    """

    features: int
    rows: int
    partial_spearman: float | None
    explained_before: float
    explained_after: float


@dataclasses.dataclass(frozen=True)
class SignalReport:
    """See the module. `increment` is None where there are too few rows to fit."""

    candidate: str
    target: str
    fitted_on: tuple[str, ...]
    measured_on: tuple[str, ...]
    coverage: Coverage
    association: Association
    days: tuple[Day, ...]
    redundancy: tuple[Neighbour, ...]
    increment: Increment | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; days as YYYY-MM-DD."""
        plain = dataclasses.asdict(self)
        for day in plain["days"]:
            day["day"] = day["day"].isoformat()
        return plain


def why_not(column: ColumnEntry) -> str | None:
    """Why a column cannot be a candidate; None if it can."""
    if column.family in ("label", "negative"):
        return f"is a {column.family} column, known only after the row's instant"
    if column.identifier:
        return "is an id: it names things and measures nothing"
    if column.type not in (*_NUMBERS, "string"):
        return f"is of type {column.type}; expected a number, a flag or a name"
    return None


def targets(found: Manifest) -> list[str]:
    """Columns of a version that a candidate can be compared with: labels that are numbers."""
    return [c.name for c in found.columns if c.family == "label" and c.type in _NUMBERS]


def current_features(found: Manifest, candidates: Sequence[str]) -> list[str]:
    """The numeric features of a version's spec, without the candidates."""
    declared = found.config["spec"]["features"]
    return [
        column.name
        for column in found.columns
        if column.name in declared
        and column.name not in candidates
        and column.type in _NUMBERS
        and not column.identifier
    ]


def data_files(found: Manifest) -> list[FileEntry]:
    """The Parquet files of a version that have rows, split by split."""
    files = [entry for split in SPLITS for entry in found.files_of(split)]
    return [entry for entry in files if entry.format == "parquet" and entry.rows]


def read(root: str, found: Manifest, columns: Sequence[str], max_rows: int) -> pl.DataFrame:
    """Rows of a version: TIME, the columns named, and SPLIT.

    A split with more than `max_rows` is sampled: rows lie in the order of a hash, so the first ones
    of each file are as good as any. One file is held at a time.

    Raises:
      DataRefusedError: if a file is not as it was published.
    """
    entries = data_files(found)
    names = list(dict.fromkeys([TIME, *columns]))
    totals: collections.Counter[str] = collections.Counter()
    for entry in entries:
        totals[entry.role] += entry.rows
    tables = []
    for entry in entries:
        data = manifest.read_verified(manifest.file_path(root, found, entry), entry)
        size = math.ceil(entry.rows * min(1.0, max_rows / totals[entry.role]))
        table = pl.read_parquet(io.BytesIO(data), columns=names, n_rows=size)
        tables.append(table.with_columns(pl.lit(entry.role).alias(SPLIT)))
    return pl.concat(tables) if tables else pl.DataFrame()


def report(
    rows: pl.DataFrame, candidate: str, target: str, features: Sequence[str]
) -> SignalReport:
    """The report of one candidate.

    Args:
      rows: at least one; TIME, SPLIT, candidate, target and features, as `read` returns them.
      candidate: a column that `why_not` has nothing against.
      target: one of `targets`.
      features: numeric columns, the current set.
    """
    known = rows.filter(pl.col(target).is_not_null())
    is_train = known[SPLIT] == SPLITS[0]
    fit = known.filter(is_train) if is_train.any() else known
    held = known.filter(~is_train) if is_train.any() and not is_train.all() else fit
    values = rows[candidate]
    scores = _Scores.fitted(fit[candidate], fit[target])
    pair = _Pair(_Bins.fitted(fit[candidate]), _Bins.fitted(fit[target]), scores)
    return SignalReport(
        candidate=candidate,
        target=target,
        fitted_on=_splits(fit),
        measured_on=_splits(held),
        coverage=_coverage(values),
        association=pair.association(held[candidate], held[target]),
        days=tuple(_days(rows, candidate, target, pair)),
        redundancy=tuple(_neighbours(fit, scores.of(fit[candidate]), features)),
        increment=_increment(fit, held, scores, candidate, target, features),
    )


def _splits(rows: pl.DataFrame) -> tuple[str, ...]:
    present = set(rows[SPLIT].unique())
    return tuple(split for split in SPLITS if split in present)


def _numbers(values: pl.Series) -> FloatArray:
    """As doubles; what is missing or not finite is NaN."""
    numbers = values.cast(pl.Float64).fill_null(math.nan).to_numpy()
    return np.where(np.isfinite(numbers), numbers, math.nan)


def _is_known(values: pl.Series) -> pl.Series:
    return values.is_not_null() & (values.is_finite() if values.dtype.is_float() else True)


def _coverage(values: pl.Series) -> Coverage:
    known = values.filter(_is_known(values))
    if not len(known):
        return Coverage(len(values), 0.0, 0, 0.0)
    frequency = known.value_counts()["count"]
    modal = int(frequency.sort()[-1]) / len(known)
    return Coverage(len(values), len(known) / len(values), len(frequency), modal)


@dataclasses.dataclass(frozen=True)
class _Bins:
    """Where values are cut, for numbers, or which names have a bin."""

    edges: FloatArray
    names: pl.Series | None

    @classmethod
    def fitted(cls, values: pl.Series) -> _Bins:
        if values.dtype == pl.String():
            frequency = values.drop_nulls().rename("name").value_counts()
            top = frequency.sort("count", "name", descending=[True, False]).head(_NAMES)
            return cls(np.empty(0), top["name"])
        numbers = _numbers(values)
        numbers = numbers[~np.isnan(numbers)]
        steps = np.linspace(0, 1, _BINS + 1)[1:-1]
        # An observed value, not one between two: a border has to be able to be a bin.
        edges = np.quantile(numbers, steps, method="lower") if len(numbers) else np.empty(0)
        return cls(np.unique(edges), None)

    @property
    def size(self) -> int:
        """Bins, that of missing values included."""
        return 2 + (2 * len(self.edges) if self.names is None else len(self.names))

    def codes(self, values: pl.Series) -> IntArray:
        """Bin of each value; the last one is missing."""
        if self.names is not None:
            places = pl.DataFrame({"name": self.names, "bin": range(len(self.names))})
            table = values.to_frame("name").join(places, "name", "left", maintain_order="left")
            rest, missing = len(self.names), len(self.names) + 1
            code = (
                pl.when(pl.col("name").is_null())
                .then(missing)
                .otherwise(pl.col("bin").fill_null(rest))
            )
            return table.select(code.cast(pl.Int64)).to_series().to_numpy()
        numbers = _numbers(values)
        below = np.searchsorted(self.edges, numbers, "left")
        not_above = np.searchsorted(self.edges, numbers, "right")
        return np.where(np.isnan(numbers), self.size - 1, below + not_above)

    def histogram(self, values: pl.Series) -> IntArray:
        return np.bincount(self.codes(values), minlength=self.size)


@dataclasses.dataclass(frozen=True)
class _Scores:
    """A candidate as a number: itself, or the mean target of a name."""

    means: pl.DataFrame | None
    overall: float

    @classmethod
    def fitted(cls, values: pl.Series, target: pl.Series) -> _Scores:
        if values.dtype != pl.String():
            return cls(None, math.nan)
        table = pl.DataFrame({"name": values, "mean": target.cast(pl.Float64)})
        overall = table["mean"].mean()
        means = table.drop_nulls().group_by("name").agg(pl.col("mean").mean())
        return cls(means, float(overall) if isinstance(overall, float) else math.nan)

    def of(self, values: pl.Series) -> FloatArray:
        """NaN where missing."""
        if self.means is None:
            return _numbers(values)
        table = values.to_frame("name").join(self.means, "name", "left", maintain_order="left")
        score = pl.when(pl.col("name").is_not_null()).then(pl.col("mean").fill_null(self.overall))
        return _numbers(table.select(score).to_series())


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Candidate and target, made comparable on the rows that everything is fitted on."""

    candidate: _Bins
    target: _Bins
    scores: _Scores

    def association(self, values: pl.Series, target: pl.Series) -> Association:
        """Over rows whose target is known."""
        score, goal = self.scores.of(values), _numbers(target)
        both = ~np.isnan(score)
        bins = self.candidate.codes(values) * self.target.size + self.target.codes(target)
        shape = (self.candidate.size, self.target.size)
        table = np.bincount(bins, minlength=shape[0] * shape[1]).reshape(shape)
        return Association(
            rows=int(both.sum()),
            spearman=spearman(score, goal),
            information_bits=mutual_information(table),
            auc=auc(score[both], goal[both] > 0) if target.dtype == pl.Boolean() else None,
        )


def _days(rows: pl.DataFrame, candidate: str, target: str, pair: _Pair) -> list[Day]:
    by_day = rows.select(candidate, target, pl.col(TIME).dt.date().alias("_day"))
    days = by_day.partition_by("_day", as_dict=True)
    result: list[Day] = []
    for (day,), table in sorted(days.items()):
        if not result:
            bins = _Bins.fitted(table[candidate])
            first = before = np.zeros(bins.size, dtype=np.int64)
        found = bins.histogram(table[candidate])
        known = table.filter(pl.col(target).is_not_null())
        result.append(
            Day(
                day=day,
                rows=table.height,
                known=int(_is_known(table[candidate]).sum()) / table.height,
                drift_first=jensen_shannon(first, found) if result else None,
                drift_before=jensen_shannon(before, found) if result else None,
                association=pair.association(known[candidate], known[target]),
            )
        )
        first = first if len(result) > 1 else found
        before = before + found
    return result


def _neighbours(fit: pl.DataFrame, score: FloatArray, features: Sequence[str]) -> list[Neighbour]:
    """The features that go with the candidate most, closest first."""
    found = [(name, spearman(score, _numbers(fit[name]))) for name in features]
    close = [Neighbour(name, value) for name, value in found if value is not None]
    return sorted(close, key=lambda near: (-abs(near.spearman), near.feature))[:NEIGHBOURS]


def _quantiles(reference: FloatArray, values: FloatArray) -> FloatArray:
    """Share of the reference's numbers below each value, plus half of those equal; NaN for NaN."""
    ordered = np.sort(reference[~np.isnan(reference)])
    below, not_above = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.where(np.isnan(values), math.nan, (below + not_above) / (2 * max(len(ordered), 1)))


def _design(fit: pl.DataFrame, rows: pl.DataFrame, features: Sequence[str]) -> FloatArray:
    """Columns for least squares: 1, and for each feature its quantile less 1/2 and, where the
    fitted rows miss some, a flag; missing is in the middle."""
    columns = [np.ones(rows.height)]
    for name in features:
        reference = _numbers(fit[name])
        quantile = _quantiles(reference, _numbers(rows[name])) - 0.5
        columns.append(np.nan_to_num(quantile))
        if np.isnan(reference).any():
            columns.append(np.isnan(quantile).astype(np.float64))
    return np.column_stack(columns)


def _increment(
    fit: pl.DataFrame,
    held: pl.DataFrame,
    scores: _Scores,
    candidate: str,
    target: str,
    features: Sequence[str],
) -> Increment | None:
    """What the candidate adds on rows that have one.

    With the residuals c of the candidate and y of the target on the fitted rows, the coefficient of
    the candidate in a fit that has the features too is (c y) / (c c) (Frisch and Waugh 1933).
    """
    fit, held = (t.filter(~pl.Series(np.isnan(scores.of(t[candidate])))) for t in (fit, held))
    reference = scores.of(fit[candidate])

    def both(rows: pl.DataFrame) -> FloatArray:
        """Target and the candidate's quantile, side by side."""
        quantile = _quantiles(reference, scores.of(rows[candidate]))
        return np.column_stack([_numbers(rows[target]), quantile])

    design, fitted, measured = _design(fit, fit, features), both(fit), both(held)
    if len(fitted) < 2 * design.shape[1] or len(measured) < _MIN_ROWS:
        return None
    coefficients = np.linalg.lstsq(design, fitted, rcond=None)[0]
    goal, own = (fitted - design @ coefficients).T
    explains_all = own.std() < _NOTHING
    slope = 0.0 if explains_all else float(own @ goal / (own @ own))
    goal, own = (measured - _design(fit, held, features) @ coefficients).T
    spread = float(((measured[:, 0] - fitted[:, 0].mean()) ** 2).sum())

    def explained(left: FloatArray) -> float:
        return 1.0 - float(left @ left) / spread if spread else 0.0

    return Increment(
        features=len(features),
        rows=len(measured),
        partial_spearman=None if explains_all else spearman(own, goal),
        explained_before=explained(goal),
        explained_after=explained(goal - slope * own),
    )


def _ranks(values: FloatArray) -> FloatArray:
    return pl.Series(values).rank("average").cast(pl.Float64).to_numpy()


def spearman(left: FloatArray, right: FloatArray) -> float | None:
    """Rank correlation over the rows where neither is NaN; None if one is constant there."""
    both = ~(np.isnan(left) | np.isnan(right))
    if both.sum() < _MIN_ROWS:
        return None
    a, b = _ranks(left[both]), _ranks(right[both])
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread else None


def auc(score: FloatArray, is_true: BoolArray) -> float | None:
    """Area under the ROC curve (Mann-Whitney); None if all rows are of one class."""
    positives = int(is_true.sum())
    negatives = len(is_true) - positives
    if not positives or not negatives:
        return None
    rank_sum = float(_ranks(score)[is_true].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def mutual_information(table: IntArray) -> float | None:
    """Bits that row and column of a contingency table tell of each other, corrected for bias.

    None of fewer than two rows or columns in use.
    """
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    if min(table.shape) < 2:
        return None
    total = table.sum()
    joint = table / total
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    used = joint > 0
    bits = float((joint[used] * np.log2(joint[used] / independent[used])).sum())
    bias = (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * total * math.log(2))
    return max(bits - float(bias), 0.0)


def jensen_shannon(left: IntArray, right: IntArray) -> float:
    """Divergence of two histograms, in bits: 0 for the same shares, 1 for no bin in common."""
    p, q = left / left.sum(), right / right.sum()
    middle = (p + q) / 2

    def divergence(of: FloatArray) -> float:
        used = of > 0
        return float((of[used] * np.log2(of[used] / middle[used])).sum())

    return max((divergence(p) + divergence(q)) / 2, 0.0)
