"""What the leakage lab says at the end of a test run: each mutant, and what caught it.

A test records it as a property, which pytest-xdist carries from its workers to the terminal.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

PROPERTY = "leakage mutant"
TABLE_FILE = "PLAYHEAD_LEAKAGE_TABLE"  # environment variable: write the table there as well

_HEAD = ("Channel", "Opened by", "Caught by", "First evidence")
_EVIDENCE = 110


def show_mutants(terminalreporter: Any) -> None:
    """Shows the table of the mutants that ran."""
    ran = [
        json.loads(value)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in getattr(report, "user_properties", [])
        if name == PROPERTY and report.when == "call"
    ]
    if not ran:
        return
    ran.sort(key=lambda each: int(each["channel"][1:]))
    caught = sum(bool(each["by"]) for each in ran)
    terminalreporter.section(f"leakage lab: {caught} of {len(ran)} mutants caught")
    for each in ran:
        by = each["by"] or "SURVIVED"
        terminalreporter.write_line(f"{each['channel']:>3}  {each['what']:<58}  {by}")
    path = os.environ.get(TABLE_FILE)
    if path:
        pathlib.Path(path).write_text(markdown(ran), encoding="utf-8")
        terminalreporter.write_line(f"with evidence: {path}")


def markdown(ran: list[dict[str, str]]) -> str:
    lines = [_HEAD, ("---",) * len(_HEAD)]
    lines += [
        (each["channel"], each["what"], each["by"] or "**survived**", f"`{each['evidence']}`")
        for each in ran
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shortened(evidence: str) -> str:
    """One line of a finding, fit for a table."""
    line = " ".join(evidence.split()).replace("|", "/").replace("`", "'")
    return line if len(line) <= _EVIDENCE else line[: _EVIDENCE - 3] + "..."
