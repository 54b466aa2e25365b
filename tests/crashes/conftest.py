"""The counts of faults and kills, shown at the end of a test run."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counted = [
        text
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, text in getattr(report, "user_properties", [])
        if name == "counted" and getattr(report, "when", "") == "call"
    ]
    if counted:
        terminalreporter.section("crashes")
        for line in counted:
            terminalreporter.line(line)
