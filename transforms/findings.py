"""What a check of a dataset found: one finding a line of a report, of anomalies.json and of a log.

An `error` keeps a version from being published, a `warning` only shows in its reports. A check
that finds nothing returns an empty list.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

_SHOWN = 12

Severity = Literal["error", "warning"]


def apart(one: float, other: float, form: str = "%", least: int = 2) -> tuple[str, str]:
    """Two numbers as text, with so many decimals that their last place is no larger than what is
    between them, and `least` at least: 2.6% and 2.5%, never 3% and 2%. `form` is % or f."""
    difference = abs(one - other) * (100 if form == "%" else 1)
    for decimals in range(least, 20):
        texts = f"{one:.{decimals}{form}}", f"{other:.{decimals}{form}}"
        if not difference or (texts[0] != texts[1] and difference >= 0.99 * 10**-decimals):
            break
    return texts


@dataclasses.dataclass(frozen=True)
class Finding:
    """`gate` is the check, `feature` the column, policy or experiment it is about (None: the whole
    dataset), `value` what was measured and `limit` what the configuration allows."""

    gate: str
    feature: str | None
    severity: Severity
    message: str
    value: float | None = None
    limit: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain values for JSON, its fields in order."""
        return dataclasses.asdict(self)


def counted(findings: Iterable[Finding]) -> str:
    """How many there are, such as `3 findings of 2 gates`."""
    gates = [each.gate for each in findings]
    parts = ((len(gates), "finding"), (len(set(gates)), "gate"))
    return " of ".join(f"{number:,} {noun}{'' if number == 1 else 's'}" for number, noun in parts)


def describe(findings: Iterable[Finding]) -> list[str]:
    """A line for each finding, as many as fit on a screen."""
    lines = [f"{each.gate}: {each.message}" for each in findings]
    more = len(lines) - _SHOWN
    return lines if more <= 0 else [*lines[:_SHOWN], f"... and {more} more in anomalies.json"]
