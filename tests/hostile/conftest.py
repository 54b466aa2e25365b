"""Adds what the tests here tried to the summary of pytest."""

from __future__ import annotations

import collections
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for report in terminalreporter.stats.get("passed", []):
        for name, found in report.user_properties:
            if isinstance(found, dict):
                counts[name].update(found)
    for name, found in sorted(counts.items()):
        said = ", ".join(f"{n:,} {what}" for what, n in found.items())
        terminalreporter.write_line(f"{name}: {said}")
