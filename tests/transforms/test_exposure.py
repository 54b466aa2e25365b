"""Exposure counts against plain Python, and what each check refuses and lets pass."""

from __future__ import annotations

import collections
import fractions
import math
import random
import unittest.mock
from typing import Any

import polars as pl
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import counts, exposure
from transforms.exposure import COLUMNS, ExposureSpec
from transforms.findings import Finding

SCHEMA = {
    **dict.fromkeys(COLUMNS, pl.String),
    "position": pl.Int32,
    "candidate_set_size": pl.Int32,
    "propensity": pl.Float64,
    "is_exploration": pl.Boolean,
}
Row = dict[str, Any]


def table(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def findings(rows: list[Row], **spec: Any) -> list[Finding]:
    return exposure.check(counts.total([exposure.count(table(rows))]), ExposureSpec(**spec))


def valid(row: Row) -> bool:
    return row["propensity"] is not None and 0 < row["propensity"] <= 1


def oracle(rows: list[Row]) -> dict[str, Any]:
    """`count`, row by row."""
    slots = collections.defaultdict(list)
    exploration: dict[str, collections.Counter[str]] = {}
    users: dict[str, dict[str, set[str]]] = {}
    bare: collections.Counter[str] = collections.Counter()
    for row in rows:
        usable = valid(row) and row["candidate_set_size"] is not None
        sized = usable and row["candidate_set_size"] > 1
        if sized and row["request_id"] is not None and row["position"] is not None:
            key = ("user_id", "request_id", "shelf", "position")
            slots[tuple(row[name] for name in key)].append(row)
        if row["is_exploration"]:
            seen = exploration.setdefault(row["policy_id"] or "", collections.Counter())
            seen["rows"] += 1
            seen["unusable"] += not usable
            if usable:
                deviation = min(1 / row["propensity"], 1e9) - row["candidate_set_size"]
                seen["candidates"] += row["candidate_set_size"]
                seen["deviation_micro"] += round(deviation * 1e6)
                seen["deviation_squared_micro"] += round(deviation**2 * 1e6)
        if row["experiment_id"] is not None:
            arms = users.setdefault(row["experiment_id"], {})
            arms.setdefault(row["user_id"], set())
            if row["variant"] is None:
                bare[row["experiment_id"]] += 1
            else:
                arms[row["user_id"]].add(row["variant"])
    whole = [
        slot
        for slot in slots.values()
        if {row["candidate_set_size"] for row in slot} == {len(slot)}
        and len({row["track_id"] for row in slot}) == len(slot)
    ]
    fields = ("rows", "unusable", "candidates", "deviation_micro", "deviation_squared_micro")
    return {
        "propensities": {
            "logged": sum(row["propensity"] is not None for row in rows),
            "out_of_range": sum(row["propensity"] is not None and not valid(row) for row in rows),
        },
        "slots": {
            "whole": len(whole),
            "wrong_sum": sum(
                abs(float(sum(fractions.Fraction(row["propensity"]) for row in slot)) - 1) > 1e-6
                for slot in whole
            ),
        },
        "exploration": {
            policy: {name: seen[name] for name in fields} for policy, seen in exploration.items()
        },
        "experiments": {
            name: {
                "users": len(arms),
                "two_variants": sum(len(variants) > 1 for variants in arms.values()),
                "without_variant": bare[name],
                "variants": dict(
                    collections.Counter(v for variants in arms.values() for v in variants)
                ),
            }
            for name, arms in users.items()
        },
    }


PROPENSITIES = [0.5, 0.5, 0.5, 0.25, 0.75, 1.0, 1 / 3, 0.0, -0.5, 1.5, math.nan, 5e-324, None]
IMPRESSIONS = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u1", "u2", "u3"]),
        "track_id": st.sampled_from(["t1", "t2", "t3"]),
        "request_id": st.sampled_from(["r1", "r1", "r2", None]),
        "shelf": st.sampled_from(["top", "top", None]),
        "position": st.sampled_from([0, 0, 1, None]),
        "candidate_set_size": st.sampled_from([2, 2, 3, 1, None]),
        "propensity": st.sampled_from(PROPENSITIES),
        "is_exploration": st.sampled_from([True, False, None]),
        "policy_id": st.sampled_from(["p", "q", None]),
        "experiment_id": st.sampled_from(["x", "y", None]),
        "variant": st.sampled_from(["a", "b", None]),
    }
)


@settings(deadline=None)
@given(st.lists(IMPRESSIONS, max_size=30))
def test_counts_equal_those_of_plain_python(rows: list[Row]) -> None:
    assert exposure.count(table(rows)) == oracle(rows)
    # Slots are told apart when all of them share two cells, too.
    with unittest.mock.patch.object(exposure, "_CELL_BITS", 1):
        assert exposure.count(table(rows)) == oracle(rows)


@settings(deadline=None)
@given(st.lists(IMPRESSIONS, max_size=30), st.randoms(use_true_random=False))
def test_counts_of_disjoint_users_add_up_in_any_order(rows: list[Row], shuffler: Any) -> None:
    parts = [[row for row in rows if row["user_id"] == user] for user in ("u3", "u1", "u2")]
    for part in parts:
        shuffler.shuffle(part)
    added = counts.total(exposure.count(table(part)) for part in parts)
    assert added == counts.total([exposure.count(table(rows))])


def impression(number: int = 0, **changes: Any) -> Row:
    """Slot `number` filled by uniform exploration of ten candidates; a user of arm a or b."""
    return {
        "user_id": f"u{number}",
        "track_id": f"t{number % 10}",
        "request_id": f"r{number}",
        "shelf": "top",
        "position": 0,
        "candidate_set_size": 10,
        "propensity": 0.1,
        "is_exploration": True,
        "policy_id": "uniform",
        "experiment_id": "x",
        "variant": "ab"[number % 2],
        **changes,
    }


def impressions(size: int = 200, **changes: Any) -> list[Row]:
    return [impression(number, **changes) for number in range(size)]


def test_a_good_log_has_no_findings() -> None:
    assert findings(impressions()) == []
    assert findings([]) == []
    assert exposure.check({}, ExposureSpec()) == []


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.0000001, math.nan, math.inf])
def test_a_propensity_out_of_range(wrong: float) -> None:
    rows = [*impressions(199), impression(199, propensity=wrong)]
    range_error, unusable = findings(rows)
    assert (range_error.gate, range_error.severity) == ("propensity_range", "error")
    assert (range_error.value, range_error.limit) == (1 / 200, 0.0)
    assert "1 of 200" in range_error.message
    assert (unusable.gate, unusable.severity) == ("exploration_propensity", "warning")
    assert [f.severity for f in findings(rows, max_out_of_range_share=0.005)] == ["warning"]
    assert [f.severity for f in findings(rows, max_out_of_range_share=None)] == ["warning"]


def slot(propensities: list[float], **changes: Any) -> list[Row]:
    """All candidates of one slot."""
    return [
        impression(7, track_id=f"t{number}", propensity=propensity, is_exploration=False,
                   candidate_set_size=len(propensities), **changes)
        for number, propensity in enumerate(propensities)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        (slot([0.2, 0.3, 0.5]), False),
        (slot([1 / 34] * 34), False),
        (slot([0.2, 0.3, 0.5 + 9e-7]), False),
        (slot([0.2, 0.3, 0.5 + 2e-6]), True),
        (slot([0.2, 0.3, 0.4]), True),
        (slot([1.0, 1.0]), True),
        # Not the whole slot: a candidate is not logged, or one stands twice.
        (slot([0.2, 0.3, 0.4])[:2], False),
        ([*slot([0.2, 0.3, 0.4])[:2], slot([0.2, 0.3, 0.4])[0]], False),
        # Two shelves of one request have slots of their own.
        (slot([0.2, 0.3], shelf="a")[:1] + slot([0.2, 0.3], shelf="b")[1:], False),
        (slot([0.4]), False),
    ],
)
def test_propensities_of_a_whole_slot_sum_to_one(rows: list[Row], wrong: bool) -> None:
    found = findings(rows)
    assert [finding.gate for finding in found] == ["propensity_sum"] * wrong
    assert findings(rows, max_wrong_sum_share=1.0) == []
    assert findings(rows, max_wrong_sum_share=None) == []


def drawn(weights: list[float], size: int, seed: int, **changes: Any) -> list[Row]:
    """Slots filled by a policy that draws by weight and logs what it did."""
    choices = random.Random(seed).choices(weights, weights, k=size)
    return [
        impression(number, candidate_set_size=len(weights), propensity=p, **changes)
        for number, p in enumerate(choices)
    ]


def test_exploration_that_logs_what_it_did_passes() -> None:
    assert findings(impressions(500, propensity=1 / 34, candidate_set_size=34)) == []
    assert findings(impressions(500, propensity=0.0294, candidate_set_size=34)) == []  # rounded
    for seed in range(20):
        assert findings(drawn([0.4, 0.3, 0.2, 0.05, 0.05], 400, seed)) == []


@pytest.mark.parametrize(
    "rows",
    [
        impressions(150, propensity=1 / 20),  # 20 items in truth, 10 in the log
        impressions(150, propensity=1.0),  # the probability of the slot, not of the item
        impressions(150, propensity=0.102),  # 2 % off, without any variance
        drawn([0.7, 0.1, 0.1, 0.1], 3000, 1)[:2000] + impressions(1000, propensity=0.7),
        [{**row, "candidate_set_size": 5} for row in drawn([0.4, 0.3, 0.2, 0.1], 3000, 1)],
    ],
)
def test_exploration_that_logs_something_else_is_found(rows: list[Row]) -> None:
    (found,) = findings(rows)
    assert (found.gate, found.feature, found.severity) == (
        "exploration_propensity", "uniform", "error",
    )  # fmt: skip
    assert findings(rows, inverse_tolerance=None) == []
    assert findings([{**row, "is_exploration": False} for row in rows]) == []


def test_exploration_is_checked_by_policy() -> None:
    rows = impressions(150) + impressions(150, policy_id="broken", propensity=0.05)
    (found,) = findings(rows)
    assert (found.feature, found.value, found.limit) == ("broken", 20.0, 10.0)
    assert "20" in found.message


def test_exploration_within_four_standard_errors_passes() -> None:
    # Half the rows 1/p = 2, half 50: mean 26, standard deviation 24, 240 rows: error 1.55.
    rows = [impression(number, propensity=[0.5, 0.02][number % 2]) for number in range(240)]
    sized = [{**row, "candidate_set_size": 20} for row in rows]
    assert findings(sized, inverse_standard_errors=4.0) == []  # 6 away, 6.2 allowed
    assert len(findings(sized, inverse_standard_errors=3.8)) == 1  # 5.9 allowed


def test_few_exploration_rows_are_not_judged() -> None:
    assert findings(impressions(99, propensity=0.5)) == []
    assert len(findings(impressions(100, propensity=0.5))) == 1


def arms(a: int, b: int, **changes: Any) -> list[Row]:
    """Users of each arm, three impressions each."""
    variants = ["a"] * a + ["b"] * b
    return [
        impression(number, variant=variant, request_id=f"r{number}-{again}", **changes)
        for number, variant in enumerate(variants)
        for again in range(3)
    ]


def test_sample_ratio() -> None:
    assert findings(arms(500, 500)) == []
    assert findings(arms(540, 460)) == []  # chi-square 6.4, p = 0.011
    (found,) = findings(arms(560, 440))  # chi-square 14.4, p = 0.00015
    assert (found.gate, found.feature, found.severity) == ("sample_ratio", "x", "error")
    assert found.value == pytest.approx(0.000148, rel=0.01)
    assert found.limit == 0.001
    assert "`experiments`" in found.message
    assert findings(arms(560, 440), min_ratio_p_value=1e-4) == []
    assert findings(arms(560, 440), min_ratio_p_value=None) == []


def test_sample_ratio_counts_users_not_rows() -> None:
    heavy = [impression(0, request_id=f"h{n}", variant="a") for n in range(1000)]
    assert findings(heavy + arms(500, 500)) == []


def test_sample_ratio_with_stated_shares() -> None:
    stated = {"x": {"a": 0.9, "b": 0.1}}
    assert findings(arms(900, 100), experiments=stated) == []
    (found,) = findings(arms(500, 500), experiments=stated)
    assert "0.9, 0.1" in found.message
    assert "`experiments`" not in found.message
    # An arm without a single user, and an arm that nobody stated.
    stated = {"x": {"a": 0.4, "b": 0.4, "c": 0.2}}
    assert len(findings(arms(100, 100), experiments=stated)) == 1
    stated = {"x": {"a": 0.5, "c": 0.5}}
    (found,) = findings(arms(100, 100), experiments=stated, min_ratio_p_value=1e-300)
    assert "variant 'b' has 100 users; expected one of a, c" in found.message


def test_sample_ratio_of_few_users_or_one_arm_is_not_judged() -> None:
    assert findings(arms(9, 0)) == []
    assert findings(arms(1000, 0)) == []  # one arm: it may be all that reached this log
    assert findings(arms(8, 1), min_ratio_p_value=0.99) == []  # 4.5 expected
    assert len(findings(arms(8, 2), min_ratio_p_value=0.99)) == 1  # 5 expected


def test_users_in_two_variants() -> None:
    rows = [*arms(500, 500), impression(3, variant="b")]
    assert findings(rows) == []  # 1 of 1000 is the limit
    (found,) = findings([*rows, impression(4, variant="b")])
    assert (found.gate, found.feature, found.value) == ("two_variants", "x", 0.002)
    assert "2 of 1,000" in found.message
    assert findings([*rows, impression(4, variant="b")], max_two_variants_share=None) == []
    # Two experiments at once are nothing special.
    assert findings(arms(500, 500) + arms(500, 500, experiment_id="y")) == []


# Critical values of the chi-square distribution, from any statistics book.
@pytest.mark.parametrize(
    ("statistic", "freedom", "p_value"),
    [
        (3.841, 1, 0.05), (10.828, 1, 0.001), (5.991, 2, 0.05), (13.816, 2, 0.001),
        (7.815, 3, 0.05), (16.266, 3, 0.001), (18.307, 10, 0.05), (29.588, 10, 0.001),
        (43.773, 30, 0.05), (149.449, 100, 0.001), (44.985, 31, 0.05),
    ],
)  # fmt: skip
def test_chi_square_tail(statistic: float, freedom: int, p_value: float) -> None:
    assert exposure.chi_square_tail(statistic, freedom) == pytest.approx(p_value, rel=2e-3)


def test_chi_square_tail_at_the_ends() -> None:
    assert exposure.chi_square_tail(0.0, 3) == 1.0
    assert exposure.chi_square_tail(1e-12, 4) == pytest.approx(1.0)
    assert exposure.chi_square_tail(1e6, 5) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"experiments": {"x": {"a": 0.5, "b": 0.6}}},
        {"experiments": {"x": {"a": 1.5, "b": -0.5}}},
        {"experiments": {"x": {}}},
        {"min_ratio_p_value": 0.0},
        {"max_two_variants_share": 1.1},
        {"limit": 1},
    ],
)
def test_a_wrong_spec_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        ExposureSpec(**wrong)


def test_findings_are_plain_values() -> None:
    (found,) = findings(arms(560, 440))
    assert set(found.to_dict()) == {"gate", "feature", "severity", "message", "value", "limit"}
