"""What gates found, as lines that fit on a screen and numbers that tell what they are about."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.findings import Finding, apart, counted, describe


def test_what_was_found_fits_on_a_screen() -> None:
    found = [Finding("drift", f"f{i}", "error", f"f{i} is far") for i in range(40)]
    assert describe([]) == []
    assert describe(found[:2]) == ["drift: f0 is far", "drift: f1 is far"]
    assert len(describe(found[:12])) == 12
    lines = describe(found)
    assert len(lines) == 13
    assert lines[-1] == "... and 28 more in anomalies.json"


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        (["drift"], "1 finding of 1 gate"),
        (["drift", "skew", "drift"], "3 findings of 2 gates"),
        (["drift"] * 1_400, "1,400 findings of 1 gate"),
    ],
)
def test_findings_are_not_gates(gates: list[str], said: str) -> None:
    assert counted(Finding(gate, None, "error", "") for gate in gates) == said


@pytest.mark.parametrize(
    ("numbers", "form", "said"),
    [
        ((0.026, 0.025), ("%", 0), ("2.6%", "2.5%")),
        ((0.5, 0.25), ("%", 0), ("50%", "25%")),
        ((0.010000001, 0.01), ("%", 2), ("1.0000001%", "1.0000000%")),
        ((0.15004, 0.15), ("f", 3), ("0.15004", "0.15000")),
        ((0.15, 0.15), ("f", 3), ("0.150", "0.150")),
    ],
)
def test_a_number_and_its_limit_are_told_apart(
    numbers: tuple[float, float], form: tuple[str, int], said: tuple[str, str]
) -> None:
    assert apart(*numbers, *form) == said


@given(st.floats(0, 1), st.floats(0, 1))
def test_texts_differ_where_shares_do(one: float, other: float) -> None:
    texts = apart(one, other, "%", 0)
    if abs(one - other) > 1e-18:
        assert texts[0] != texts[1]
    assert [float(text[:-1]) for text in texts] == pytest.approx([100 * one, 100 * other], abs=0.51)
