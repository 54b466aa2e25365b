"""Pairs of rows and differences of values, against plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.row_diff import A_ROW, A_SPLIT, B_ROW, B_SPLIT, RowTally, compare_values, pair_rows

NAN, INF = math.nan, math.inf
DOUBLES = [0.0, -0.0, 1.0, 1.05, 1.2, -1.0, 1e300, -1e308, 1e308, INF, -INF, NAN, None]
INTEGERS = [0, 1, -1, 2**62, 2**62 + 1, -(2**63), 2**63 - 1, None]
TEXTS = ["", "a", "b", None]


def lists_of(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(st.sampled_from(values), max_size=3)


COLUMNS: dict[str, tuple[pl.DataType, st.SearchStrategy[Any]]] = {
    "double": (pl.Float64(), st.sampled_from(DOUBLES)),
    "int64": (pl.Int64(), st.sampled_from(INTEGERS)),
    "text": (pl.String(), st.sampled_from(TEXTS)),
    "bool": (pl.Boolean(), st.sampled_from([True, False, None])),
    "doubles": (pl.List(pl.Float64()), lists_of(DOUBLES)),
    "integers": (pl.List(pl.Int64()), lists_of(INTEGERS)),
    "texts": (pl.List(pl.String()), lists_of(TEXTS)),
}


def equal(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two values are equal, one after the other."""
    if a is None or b is None:
        return a is b
    if isinstance(a, list):
        return len(a) == len(b) and all(equal(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        if math.isnan(a) or math.isnan(b):
            return math.isnan(a) and math.isnan(b)
        if a == b:
            return True
        if math.isinf(a) or math.isinf(b):
            return False
        return abs(a - b) <= tolerance * max(abs(a), abs(b))
    return bool(a == b)


def gaps(a: Any, b: Any, tolerance: float) -> list[float]:
    """Absolute differences of the finite numbers in two values that differ."""
    if a is None or b is None or equal(a, b, tolerance):
        return []
    if isinstance(a, list):
        pairs = zip(a, b, strict=True) if len(a) == len(b) else ()
        return [gap for x, y in pairs for gap in gaps(x, y, tolerance)]
    if isinstance(a, bool | str) or not (math.isfinite(a) and math.isfinite(b)):
        return []
    return [float(abs(a - b))]


@pytest.mark.parametrize("name", COLUMNS)
@given(data=st.data(), tolerance=st.sampled_from([0.0, 0.1, 1.0]))
def test_values_differ_as_they_do_one_by_one(
    name: str, data: st.DataObject, tolerance: float
) -> None:
    kind, values = COLUMNS[name]
    pairs = data.draw(st.lists(st.tuples(values, values), max_size=8))
    a, b = (pl.Series([pair[side] for pair in pairs], dtype=kind) for side in (0, 1))
    differs, found = compare_values(a, b, tolerance)
    assert differs.tolist() == [not equal(x, y, tolerance) for x, y in pairs]
    expected = [gap for x, y in pairs for gap in gaps(x, y, tolerance)]
    assert found.numbers == len(expected)
    assert found.largest == max(expected, default=0.0)
    assert found.total == pytest.approx(sum(expected))


KEYS = st.lists(
    st.tuples(st.sampled_from(["u", "v", None]), st.integers(0, 3), st.sampled_from("xy")),
    max_size=9,
)


@given(KEYS, KEYS)
def test_rows_are_paired_by_key_and_then_by_order(a: list[Any], b: list[Any]) -> None:
    schema = {"user_id": pl.String, "n": pl.Int64}
    pairs = pair_rows(
        pl.DataFrame(a, {**schema, A_SPLIT: pl.String}, orient="row"),
        pl.DataFrame(b, {**schema, B_SPLIT: pl.String}, orient="row"),
        ["user_id", "n"],
    )
    expected = []
    for key in sorted({row[:2] for row in a + b}, key=lambda k: (k[0] is not None, k)):
        sides = [[(i, row[2]) for i, row in enumerate(rows) if row[:2] == key] for rows in (a, b)]
        for again in range(max(map(len, sides))):
            left, right = (side[again] if again < len(side) else (None, None) for side in sides)
            expected.append((*key, again, *left, *right))
    assert pairs.rows() == expected


def test_an_identifier_has_no_gap_and_examples_have_the_smallest_keys() -> None:
    tally = RowTally(("n",), {"id"}, 0.0, limit=2)
    for keys in ([7, 8, 9], [4, 5, 6], [1, 2, 3]):  # groups in any order
        table = pl.DataFrame({"n": keys})
        pairs = pair_rows(
            table.with_columns(pl.lit("train").alias(A_SPLIT)),
            table.with_columns(pl.lit("train").alias(B_SPLIT)),
            ["n"],
        )
        ours = pl.Series([key * 10 for key in keys])
        theirs = pl.Series([0, *(key * 10 for key in keys[1:])])
        differs = np.zeros(3, dtype=bool)
        for name in ("id", "value"):
            differs |= tally.add_column(name, pairs, ours[pairs[A_ROW]], theirs[pairs[B_ROW]])
        tally.add_pairs(pairs, differs)
    found = tally.result(["train"])
    assert (found.total.same, found.total.different) == (6, 3)
    assert [example.key for example in found.examples["different"]] == [(1,), (4,)]
    assert [(e.key, e.a, e.b) for e in found.columns["value"].examples] == [
        ((1,), 10, 0), ((4,), 40, 0),
    ]  # fmt: skip
    assert found.columns["value"].max_abs == 70
    assert found.columns["value"].mean_abs == 40
    assert found.columns["id"].rows == 3
    assert found.columns["id"].max_abs is None
    assert list(found.columns) == ["id", "value"]
    assert not found.same
