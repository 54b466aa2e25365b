"""Row counts of a run: nested dicts of integers that add up.

Every stage reports what came in and where it went; the totals go into the manifest and are checked
for conservation before anything is published.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Counts = dict[str, Any]  # str -> int or Counts


def add(left: Counts, right: Counts) -> Counts:
    """Key by key sum; a key that one side lacks counts as zero."""
    total = dict(left)
    for key, value in right.items():
        if isinstance(value, dict):
            total[key] = add(total.get(key, {}), value)
        else:
            total[key] = total.get(key, 0) + value
    return total


def total(parts: Iterable[Counts]) -> Counts:
    """Sum of any number of counts, with sorted keys so that it is the same in any order."""
    result: Counts = {}
    for part in parts:
        result = add(result, part)
    return _sorted(result)


def difference(left: Counts, right: Counts) -> Counts:
    """Key by key, `left` less `right`; a key that one side lacks counts as zero."""
    return add(left, _negated(right))


def _negated(counts: Counts) -> Counts:
    return {
        key: _negated(value) if isinstance(value, dict) else -value for key, value in counts.items()
    }


def _sorted(counts: Counts) -> Counts:
    return {
        key: _sorted(value) if isinstance(value, dict) else value
        for key, value in sorted(counts.items())
    }


# Keys in the counts of a build: events that it reads and does not use.
NOT_USED = ("late", "after_as_of", "duplicate_across_partitions", "near_duplicate", "forgotten")


def events_read(counts: Counts) -> int:
    """Events that a build read: those it used, and those it left out for a reason."""
    left_out: int = sum(counts.get(key, 0) for key in NOT_USED)
    return int(counts.get("events", 0)) + left_out
