"""What a day's build reads before and after the day is enough, and not a microsecond more.

Each case is a log in which the event furthest away decides about a row: it makes a sync burst of
the play that the row's window ends with. That it is enough, `test_oracle_*.py` and
`test_incremental.py` hold too.
"""

from __future__ import annotations

import dataclasses

import pytest

from tests import built, oracle, strategies
from transforms.bursts import BURST_CONTEXT_US, NEAR_US

DAY_US, HOUR_US, SECOND_US = oracle.DAY_US, oracle.HOUR_US, oracle.SECOND_US
FIRST_US = strategies.FIRST_US
END_US = FIRST_US + DAY_US
CAP_US = 30 * SECOND_US
SHARED = {
    "sessions": {"cap_hours": CAP_US / HOUR_US, "gap_minutes": 1},
    # A short play is no part of a burst by itself, and can yet be a skip.
    "labels": {"horizon_hours": 24, "skip_1_below_ms": 1000, "skip_2_below_ms": 60_000},
}
RETRIEVAL = {"positive": "played", "negatives": strategies._ALL_NEGATIVES}
FIELDS: dict[str, dict] = {
    "ranking": {},
    "retrieval": RETRIEVAL,
    "sequences": {"min_length": 1, "history_days": 8},
    "sessions": {},
}


def row_at(kind: str, time_us: int) -> dict:
    shown = {"event_type": "impression"} if kind == "ranking" else {"played_ms": 200_000}
    return strategies.event(0, event_time=time_us, track_id="t9", **shown)


def chain(time_us: int, step_us: int, played_ms: int = 50_000) -> list[dict]:
    """A short play, and three long ones in steps from it that make it part of a burst."""
    first = strategies.event(100, event_time=time_us, played_ms=played_ms)
    return [first] + [
        strategies.event(100 + n, event_time=time_us + n * step_us, played_ms=61_000)
        for n in (1, 2, 3)
    ]


def build(log: strategies.Log, left_us: int, right_us: int) -> list[dict]:
    """The first day's rows, from the events that are so near to it."""
    read = range(FIRST_US - left_us, END_US + right_us)
    part = [event for event in log.events if event["event_time"] in read]
    within = dataclasses.replace(log.within, end_us=END_US)
    return built.build(log, [part], known=log.events, within=within)[0]


def rows_are_same(one: list[dict], other: list[dict]) -> bool:
    return len(one) == len(other) and all(
        built.same(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a
    )


# How far before the day the short play starts whose mark decides about the day's first row.
BEFORE = {
    "ranking": oracle.WEEK_US + CAP_US,  # it ends as the week before the row begins: a skip of it
    "retrieval": oracle.WEEK_US + CAP_US,
    "sequences": 8 * DAY_US,  # the oldest play of the row
    "sessions": oracle.WEEK_US + CAP_US,
}


@pytest.mark.parametrize("kind", BEFORE)
def test_context_before_is_tight(kind: str) -> None:
    events = [row_at(kind, FIRST_US), *chain(FIRST_US - BEFORE[kind], -NEAR_US)]
    log = strategies.log_of(events, {**SHARED, **FIELDS[kind]}, kind, days=2)
    stated_us = log.spec.left_context_us
    assert stated_us == BEFORE[kind] + BURST_CONTEXT_US
    check_before(log, stated_us)


def check_before(log: strategies.Log, stated_us: int) -> None:
    whole = build(log, 30 * DAY_US, 30 * DAY_US)
    assert whole
    assert rows_are_same(build(log, stated_us, 30 * DAY_US), whole)
    assert not rows_are_same(build(log, stated_us - 1, 30 * DAY_US), whole)


def test_context_of_exclusions_is_tight() -> None:
    """The oldest positive that keeps its track from being a negative, where that reaches further
    than features do: without it the only track of the pool would be drawn."""
    negatives = {**strategies._ALL_NEGATIVES, "exclude_days": 8}
    had = strategies.event(1, event_time=FIRST_US - 8 * DAY_US, played_ms=60_000)
    pool = strategies.event(2, event_time=FIRST_US - DAY_US, played_ms=60_000, user_id="u2")
    fields = {**SHARED, **RETRIEVAL, "negatives": negatives}
    log = strategies.log_of([row_at("retrieval", FIRST_US), had, pool], fields, "retrieval", 2)
    assert log.spec.left_context_us == 8 * DAY_US
    check_before(log, 8 * DAY_US)


# How far after the day's last row the short play starts whose mark decides about that row.
AFTER = {
    "ranking": DAY_US - 1,  # the last instant of the label window: the user returned
    "retrieval": DAY_US - 1,
    "sequences": DAY_US - 1,
}


@pytest.mark.parametrize("kind", AFTER)
def test_context_after_is_tight(kind: str) -> None:
    last_us = END_US - 1
    events = [row_at(kind, last_us), *chain(last_us + AFTER[kind], NEAR_US, played_ms=40_000)]
    log = strategies.log_of(events, {**SHARED, **FIELDS[kind]}, kind, days=2)
    stated_us = log.spec.right_context_us
    whole = build(log, 30 * DAY_US, 30 * DAY_US)
    assert whole
    assert rows_are_same(build(log, 30 * DAY_US, stated_us), whole)
    assert not rows_are_same(build(log, 30 * DAY_US, stated_us - 1), whole)
