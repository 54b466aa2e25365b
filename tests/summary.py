"""What tests counted, at the end of a run: faults, kills, hostile files, flipped bytes, mutants.

Tests record properties, which pytest-xdist carries from its workers to the terminal: `counted` is a
line, a dict of numbers is added up under its name, and the leakage lab has a table of its own.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import pytest

from tests.leakage import summary as leakage


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    leakage.show_mutants(terminalreporter)
    lines: list[str] = []
    sums: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name, value in _properties(terminalreporter):
        if name == "counted":
            lines.append(value)
        elif isinstance(value, dict):
            sums[name].update(value)
    for name, found in sorted(sums.items()):
        lines.append(f"{name}: {', '.join(f'{n:,} {what}' for what, n in found.items())}")
    if lines:
        terminalreporter.section("counted")
        for line in lines:
            terminalreporter.line(line)


def _properties(terminalreporter: pytest.TerminalReporter) -> Iterator[tuple[str, Any]]:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call":
                yield from report.user_properties
