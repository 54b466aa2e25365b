"""The numbers of a signal report against slow ones, and what they say of signals made up for it."""

from __future__ import annotations

import collections
import datetime
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import signals
from transforms.manifest import ColumnEntry

START = datetime.datetime(2026, 1, 5, tzinfo=datetime.UTC)
Maybe = float | None
VALUES = st.lists(st.sampled_from([None, math.nan, -1.0, 0.0, 0.0, 0.0, 0.5, 1.0, 2.0, 7.0]))


def slow_ranks(values: Sequence[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def slow_spearman(left: Sequence[Maybe], right: Sequence[Maybe]) -> float | None:
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if known(a) and known(b)]
    if len(pairs) < 3:
        return None
    a, b = (slow_ranks(side) for side in zip(*pairs, strict=True))
    if len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def known(value: Maybe) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)


def of(value: float | None) -> float:
    """The value, which is there."""
    assert value is not None
    return value


def slow_bin(reference: Sequence[Maybe], value: Maybe) -> Any:
    """A name for the bin of a value: missing, a border, or between which borders."""
    if not known(value):
        return "missing"
    numbers = sorted(v for v in reference if known(v))
    borders = {numbers[i * (len(numbers) - 1) // 10] for i in range(1, 10)} if numbers else set()
    if value in borders:
        return ("is", value)
    return ("above", max((b for b in borders if b < value), default=None))


def slow_information(left: Sequence[Any], right: Sequence[Any]) -> float | None:
    n = len(left)
    a, b = collections.Counter(left), collections.Counter(right)
    if min(len(a), len(b)) < 2:
        return None
    bits = sum(
        count / n * math.log2(count * n / (a[x] * b[y]))
        for (x, y), count in collections.Counter(zip(left, right, strict=True)).items()
    )
    return max(0.0, bits - (len(a) - 1) * (len(b) - 1) / (2 * n * math.log(2)))


def slow_divergence(left: Sequence[Any], right: Sequence[Any]) -> float:
    p, q = ({k: v / len(s) for k, v in collections.Counter(s).items()} for s in (left, right))
    total = 0.0
    for key in {*p, *q}:
        a, b = p.get(key, 0.0), q.get(key, 0.0)
        for share in (a, b):
            if share:
                total += share * math.log2(share / ((a + b) / 2)) / 2
    return total


def slow_auc(score: Sequence[float], is_true: Sequence[bool]) -> float | None:
    pairs = [
        (a > b) + (a == b) / 2
        for a, t in zip(score, is_true, strict=True)
        for b, f in zip(score, is_true, strict=True)
        if t and not f
    ]
    return sum(pairs) / len(pairs) if pairs else None


def approximately(value: float | None) -> Any:
    return None if value is None else pytest.approx(value, abs=1e-9)


def table(
    candidate: Sequence[Any],
    target: Sequence[Any],
    features: dict[str, Sequence[Any]] | None = None,
    split: Callable[[int], str] | str = "train",
    per_day: int = 10**9,
) -> pl.DataFrame:
    """Rows of a version, `per_day` a day."""
    n = len(candidate)
    return pl.DataFrame(
        {
            "event_time": [START + datetime.timedelta(days=i // per_day) for i in range(n)],
            "split": [split if isinstance(split, str) else split(i) for i in range(n)],
            "signal": candidate,
            "label_reward": target,
            **(features or {}),
        },
        schema_overrides={
            "event_time": pl.Datetime("us", "UTC"),
            "split": pl.String,
            **({} if any(isinstance(v, str) for v in candidate) else {"signal": pl.Float64}),
            **({} if any(isinstance(v, bool) for v in target) else {"label_reward": pl.Float64}),
        },
    )


def report(rows: pl.DataFrame, *features: str) -> signals.SignalReport:
    return signals.report(rows, "signal", "label_reward", features)


@given(VALUES, st.randoms(use_true_random=False))
def test_association_with_a_number(values: list[Maybe], shuffler: random.Random) -> None:
    target = [v if known(v) else shuffler.choice([0.0, 1.0, 3.0]) for v in values]
    shuffler.shuffle(target)
    if not values:
        return
    found = report(table(values, target)).association
    assert found.rows == sum(known(v) for v in values)
    assert found.spearman == approximately(slow_spearman(values, target))
    assert found.auc is None
    bins = [slow_bin(values, v) for v in values]
    goals = [slow_bin(target, v) for v in target]
    assert found.information_bits == approximately(slow_information(bins, goals))


@given(st.lists(st.tuples(st.sampled_from([0, 1, 1, 2, 9, None]), st.booleans()), min_size=1))
def test_association_with_a_flag(pairs: list[tuple[int | None, bool]]) -> None:
    values, target = [v for v, _ in pairs], [t for _, t in pairs]
    found = report(table(values, target)).association
    both = [(v, t) for v, t in pairs if v is not None]
    assert found.auc == approximately(slow_auc([v for v, _ in both], [t for _, t in both]))
    assert found.spearman == approximately(slow_spearman(values, [float(t) for t in target]))


@given(VALUES)
def test_coverage(values: list[Maybe]) -> None:
    if not values:
        return
    found = report(table(values, [0.0] * len(values))).coverage
    counted = collections.Counter(v for v in values if known(v))
    assert found.rows == len(values)
    assert found.known == approximately(sum(counted.values()) / len(values))
    assert found.distinct == len(counted)
    modal = max(counted.values(), default=0) / max(sum(counted.values()), 1)
    assert found.modal == approximately(modal)


@given(VALUES, st.integers(1, 5))
def test_days(values: list[Maybe], per_day: int) -> None:
    if not values:
        return
    days = report(table(values, [1.0] * len(values), per_day=per_day)).days
    parts = [values[i : i + per_day] for i in range(0, len(values), per_day)]
    binned = [[slow_bin(parts[0], v) for v in part] for part in parts]
    assert [day.day for day in days] == [
        (START + datetime.timedelta(days=i)).date() for i in range(len(parts))
    ]
    assert (days[0].drift_first, days[0].drift_before) == (None, None)
    before: list[Any] = []
    for i, (day, part) in enumerate(zip(days, parts, strict=True)):
        assert day.rows == len(part)
        assert day.known == approximately(sum(known(v) for v in part) / len(part))
        if i:
            assert day.drift_first == approximately(slow_divergence(binned[0], binned[i]))
            assert day.drift_before == approximately(slow_divergence(before, binned[i]))
        before += binned[i]


def test_drift_of_a_column_that_moves() -> None:
    rng = np.random.default_rng(1)
    steady = [float(v) for v in rng.normal(size=3000)]
    moved = steady[:2000] + [v + 4 for v in steady[2000:]]
    gone = steady[:2000] + [math.nan] * 1000
    target = [0.0] * 3000
    assert all(
        of(d.drift_first) < 0.02 for d in report(table(steady, target, per_day=1000)).days[1:]
    )
    for values in (moved, gone):
        days = report(table(values, target, per_day=1000)).days
        assert of(days[1].drift_first) < 0.02
        assert of(days[2].drift_first) > 0.7
        assert of(days[2].drift_before) > 0.7


def test_association_by_day() -> None:
    values = [float(i % 50) for i in range(200)]
    target = values[:100] + [-v for v in values[100:]]
    days = report(table(values, target, per_day=100)).days
    assert [day.association.spearman for day in days] == [approximately(1), approximately(-1)]


def two_splits(row: int) -> str:
    return "train" if row % 2 else ("validation" if row % 4 else "test")


def test_fitted_on_train_and_measured_on_the_others() -> None:
    # The signal tells the target of the held-out rows only.
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(2, 4000))
    target = [float(a if i % 2 else b) for i, (a, b) in enumerate(zip(*noise, strict=True))]
    values = [float(b) for b in noise[1]]
    found = report(table(values, target, split=two_splits))
    assert (found.fitted_on, found.measured_on) == (("train",), ("validation", "test"))
    assert found.association.rows == 2000
    assert found.association.spearman == approximately(1.0)
    assert report(table(values, target)).measured_on == ("train",)
    only_test = report(table(values, target, split="test"))
    assert (only_test.fitted_on, only_test.measured_on) == (("test",), ("test",))


def test_names_are_scored_by_the_mean_target_of_train() -> None:
    names = ["a", "b", "c", "d"] * 2
    target = [1.0, 5.0, 3.0, 0.0] * 2
    rows = table(names, target, split=lambda row: "train" if row < 4 else "test")
    found = report(rows)
    assert found.association.spearman == approximately(1.0)
    assert found.coverage == signals.Coverage(8, 1.0, 4, 0.25)
    # A name that train lacks counts as the mean of train (2.25): between the others.
    rows = rows.with_columns(signal=pl.Series([*names[:4], "a", "new", "c", "d"]))
    assert report(rows).association.spearman == approximately(
        slow_spearman([1.0, 2.25, 3.0, 0.0], target[4:])
    )


def test_rare_names_share_a_bin() -> None:
    names = [f"n{i % 100:02}" for i in range(300)] + [f"rare{i}" for i in range(50)]
    days = report(table(names, [0.0] * 350, per_day=350)).days
    other = [f"n{i % 100:02}" for i in range(300)] + [f"unseen{i}" for i in range(50)]
    moved = report(table(names + other, [0.0] * 700, per_day=350)).days
    assert days[0].rows == 350
    assert moved[1].drift_first == approximately(0.0)


def test_redundancy_names_the_closest_features() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=500)
    features = {f"f{i}": (base + rng.normal(size=500) * i).tolist() for i in (1, 2, 4, 8, 16)}
    features["opposite"] = (-base).tolist()
    features["constant"] = [1.0] * 500
    found = report(table(base.tolist(), [0.0] * 500, features), *features).redundancy
    assert [near.feature for near in found] == ["opposite", "f1", "f2", "f4", "f8"]
    for near in found:
        assert near.spearman == approximately(
            slow_spearman(base.tolist(), list(features[near.feature]))
        )


def slow_quantile(reference: Sequence[Maybe], value: Maybe) -> float:
    numbers = [v for v in reference if known(v)]
    return sum((v < of(value)) + (v == value) / 2 for v in numbers) / len(numbers)


def test_increment_equals_two_fits() -> None:
    """The long way round: residuals one by one, and a second fit with the candidate in it."""
    rng = np.random.default_rng(4)
    n = 240
    one, two = rng.normal(size=n), rng.integers(0, 4, size=n).astype(float)
    two[rng.random(n) < 0.2] = math.nan
    values = one + np.nan_to_num(two) + rng.normal(size=n)
    values[rng.random(n) < 0.1] = math.nan
    target = 2 * one - values * 0.5 + rng.normal(size=n)
    target[np.isnan(values)] = 1.0
    is_train = np.arange(n) % 2 == 1
    rows = table(values.tolist(), target.tolist(), {"one": one.tolist(), "two": two.tolist()},
                 split=two_splits)  # fmt: skip
    found = report(rows, "one", "two").increment

    kept = ~np.isnan(values)
    fit, held = np.flatnonzero(is_train & kept), np.flatnonzero(~is_train & kept)

    def design(which: Any) -> Any:
        return np.array(
            [
                [
                    1.0,
                    slow_quantile(one[fit].tolist(), one[i]),
                    slow_quantile(two[fit].tolist(), two[i]) if known(two[i]) else 0.5,
                    float(math.isnan(two[i])),
                ]
                for i in which
            ]
        )

    signal = np.array([slow_quantile(values[fit].tolist(), v) if known(v) else 0 for v in values])
    x, x_held = design(fit), design(held)
    solve = np.linalg.pinv(x.T @ x) @ x.T
    left_target = target[held] - x_held @ (solve @ target[fit])
    left_signal = signal[held] - x_held @ (solve @ signal[fit])
    wide, wide_held = np.c_[x, signal[fit]], np.c_[x_held, signal[held]]
    left_both = target[held] - wide_held @ (np.linalg.pinv(wide.T @ wide) @ wide.T @ target[fit])
    spread = ((target[held] - target[fit].mean()) ** 2).sum()
    assert found is not None
    assert (found.features, found.rows) == (2, len(held))
    assert found.partial_spearman == pytest.approx(
        slow_spearman(left_signal.tolist(), left_target.tolist()), abs=1e-6
    )
    assert found.explained_before == pytest.approx(1 - (left_target**2).sum() / spread, abs=1e-6)
    assert found.explained_after == pytest.approx(1 - (left_both**2).sum() / spread, abs=1e-6)


def made_up(seed: int = 5) -> tuple[Any, Any, Any]:
    """A feature, a cause that no feature tells, and a target of both."""
    rng = np.random.default_rng(seed)
    feature, cause = rng.normal(size=4000), rng.normal(size=4000)
    return feature, cause, feature + cause + rng.normal(size=4000)


def increment(values: Any, target: Any, feature: Any) -> signals.Increment:
    rows = table(values.tolist(), target.tolist(), {"f": feature.tolist()}, split=two_splits)
    found = report(rows, "f").increment
    assert found is not None
    return found


def test_a_new_cause_has_an_increment() -> None:
    feature, cause, target = made_up()
    found = increment(cause, target, feature)
    assert of(found.partial_spearman) > 0.5
    assert found.explained_before == pytest.approx(1 / 3, abs=0.05)
    assert found.explained_after == pytest.approx(2 / 3, abs=0.05)


def test_a_worse_copy_of_a_feature_has_none() -> None:
    feature, _, target = made_up()
    copy = feature + np.random.default_rng(6).normal(size=4000)
    rows = table(copy.tolist(), target.tolist())
    assert of(report(rows).association.spearman) > 0.35
    found = increment(copy, target, feature)
    assert abs(of(found.partial_spearman)) < 0.06
    assert found.explained_after == pytest.approx(found.explained_before, abs=0.005)


def test_a_function_of_a_feature_leaves_nothing() -> None:
    feature, _, target = made_up()
    found = increment(np.exp(feature), target, feature)
    assert found.partial_spearman is None
    assert found.explained_after == found.explained_before


def test_increment_needs_rows_to_fit() -> None:
    assert report(table([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], {"f": [1.0, 3.0, 2.0]}), "f").increment \
        is None  # fmt: skip
    assert report(table([None] * 50, [1.0] * 50)).increment is None


def test_unknown_targets_count_for_coverage_and_drift_only() -> None:
    values = [float(i) for i in range(40)]
    target = [float(i) if i % 2 else None for i in range(40)]
    found = report(table(values, target, per_day=20))
    assert found.coverage.rows == 40
    assert found.association.rows == 20
    assert [(day.rows, day.association.rows) for day in found.days] == [(20, 10), (20, 10)]
    nothing = report(table(values, [None] * 40))
    assert nothing.association == signals.Association(0, None, None, None)
    assert nothing.increment is None
    assert nothing.fitted_on == ()


def test_a_report_is_plain_json() -> None:
    plain = report(table([1.0, 2.0, None], [1.0, 0.0, 1.0])).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["days"][0]["day"] == "2026-01-05"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"type": "string"}, None),
        ({"family": "label"}, "known only after"),
        ({"family": "negative"}, "known only after"),
        ({"identifier": True}, "is an id"),
        ({"type": "list<string>"}, "list<string>"),
        ({"type": "timestamp[us, tz=UTC]"}, "timestamp"),
    ],
)
def test_what_can_be_a_candidate(changes: dict[str, Any], problem: str | None) -> None:
    column = ColumnEntry(**{"name": "x", "type": "double", "family": "user", **changes})
    found = signals.why_not(column)
    assert found is None if problem is None else problem in str(found)
