"""Sessions: the edges of the gap, the cap and the day, on logs small enough to read."""

import random

import numpy as np
import polars as pl
import pytest

from tests import oracle
from transforms.sessions import SessionRule, session_ids, sessionize

MINUTE, HOUR, DAY = oracle.MINUTE_US, oracle.HOUR_US, oracle.DAY_US
GAP = 30 * MINUTE
RULE = SessionRule(gap_us=GAP, cap_us=24 * HOUR)


def starts(rows, rule=RULE):
    """(start, overflow) lists of rows of (time, end) or (user, time, end, given)."""
    full = [row if len(row) == 4 else (0, row[0], row[1], -1) for row in rows]
    user, time, end, given = (np.array([row[i] for row in full], dtype=np.int64) for i in range(4))
    made = sessionize(user, time, end, given, rule)
    return made.start.tolist(), made.overflow.tolist()


def test_no_event():
    assert starts([]) == ([], [])


def test_one_event():
    assert starts([(5, 5)]) == ([0], [False])


@pytest.mark.parametrize(("apart", "start"), [(GAP - 1, 0), (GAP, 1), (GAP + 1, 1)])
def test_exactly_the_gap_starts_a_session(apart, start):
    assert starts([(0, 0), (apart, apart)])[0] == [0, start]


@pytest.mark.parametrize(("apart", "start"), [(GAP - 1, 0), (GAP, 1), (GAP + 1, 1)])
def test_the_gap_is_measured_from_the_end_of_the_play(apart, start):
    end = 20 * MINUTE
    assert starts([(0, end), (end + apart, end + apart)])[0] == [0, start]


def test_the_gap_is_measured_from_the_latest_end_not_from_the_last_event():
    long, short = (0, 2 * HOUR), (MINUTE, MINUTE)
    next_time = 2 * HOUR + GAP
    assert starts([long, short, (next_time - 1, next_time - 1)])[0] == [0, 0, 0]
    assert starts([long, short, (next_time, next_time)])[0] == [0, 0, 2]


def test_an_event_before_the_end_of_a_play_is_in_its_session():
    assert starts([(0, HOUR), (10, 10)])[0] == [0, 0]


def test_events_at_one_instant_are_one_session():
    assert starts([(7, 7), (7, 7), (7, 7)])[0] == [0, 0, 0]


def test_midnight_does_not_end_a_session():
    before, after = DAY - 1, DAY + 1
    assert starts([(before, before), (DAY, DAY), (after, after)])[0] == [0, 0, 0]


def test_the_last_event_can_start_a_session():
    assert starts([(0, 0), (1, 1), (DAY, DAY)])[0] == [0, 0, 2]


def test_users_do_not_share_sessions():
    rows = [(0, 0, HOUR, -1), (1, 1, 1, -1), (2, 1, 1, -1), (2, 2, 2, -1)]
    assert starts(rows)[0] == [0, 1, 2, 2]


def test_a_long_chain_is_flagged_past_the_cap_and_not_split():
    step = GAP - MINUTE
    times = [i * step for i in range(60)]
    start, overflow = starts([(time, time) for time in times])
    assert start == [0] * 60
    assert overflow == [time > 24 * HOUR for time in times]
    assert any(overflow)


@pytest.mark.parametrize(("last", "flagged"), [(-1, False), (0, False), (1, True)])
def test_exactly_the_cap_is_not_past_it(last, flagged):
    rule = SessionRule(gap_us=GAP, cap_us=HOUR)
    rows = [(0, 50 * MINUTE), (40 * MINUTE, HOUR), (HOUR + last, HOUR + last)]
    assert starts(rows, rule) == ([0, 0, 0], [False, False, flagged])


def test_a_session_after_one_past_its_cap_starts_anew():
    rule = SessionRule(gap_us=GAP, cap_us=MINUTE)
    rows = [(0, 0), (2 * MINUTE, 2 * MINUTE), (2 * MINUTE + GAP, 2 * MINUTE + GAP)]
    assert starts(rows, rule) == ([0, 0, 2], [False, True, False])


def test_given_sessions_are_taken_as_they_are():
    rows = [(0, 0, 0, 1), (0, HOUR, HOUR, 1), (0, HOUR, HOUR, 2), (0, HOUR + 1, HOUR + 1, 2)]
    assert starts(rows)[0] == [0, 0, 2, 2]


def test_a_given_session_that_comes_back_is_the_same_one():
    assert starts([(0, 0, 0, 1), (0, 1, 1, 2), (0, 2, 2, 1), (0, 3, 3, -1)])[0] == [0, 1, 0, 3]


def test_given_sessions_take_no_part_in_the_gap_rule():
    rows = [(0, 0, 0, -1), (0, GAP - 1, GAP - 1, 7), (0, GAP, GAP, -1)]
    assert starts(rows)[0] == [0, 1, 2]
    rows = [(0, 0, 0, -1), (0, 5, 9 * HOUR, 7), (0, GAP - 1, GAP - 1, -1)]
    assert starts(rows)[0] == [0, 1, 0]


@pytest.mark.parametrize(("apart", "start"), [(24 * HOUR, 0), (24 * HOUR + 1, 1)])
def test_a_given_session_ends_where_two_events_are_more_than_the_cap_apart(apart, start):
    assert starts([(0, 0, 0, 1), (0, apart, apart, 1)]) == ([0, start], [False, False])
    # However long the play in it was.
    assert starts([(0, 0, 2 * HOUR, 1), (0, apart, apart, 1)])[0] == [0, start]


def test_a_given_session_does_not_reach_into_the_next_user():
    assert starts([(0, 0, 0, 1), (1, 1, 1, 1)])[0] == [0, 1]


def test_a_given_session_past_the_cap_is_flagged():
    rows = [(0, 0, 0, 1), (0, 24 * HOUR, 24 * HOUR, 1), (0, 24 * HOUR + 1, 24 * HOUR + 1, 1)]
    assert starts(rows) == ([0, 0, 0], [False, False, True])


def test_random_logs_equal_the_rule_word_for_word():
    rng = random.Random(0)
    for _ in range(200):
        events = [
            {
                "event_id": f"{number:02}",
                "user_id": rng.choice("ab"),
                "event_type": rng.choice(["play", "impression"]),
                "event_time": rng.randrange(12) * 10 * MINUTE + rng.choice([-1, 0, 0, 1]),
                "played_ms": rng.choice([None, 0, 600_000, 1_200_000, 7_200_000]),
                "source_session_id": rng.choice([None, None, None, "x", "y"]),
            }
            for number in range(rng.randrange(8))
        ]
        events.sort(key=lambda event: (event["user_id"], *oracle.store_order(event)))
        rule = SessionRule(gap_us=GAP, cap_us=HOUR)
        wanted = oracle.sessions(events, rule.gap_us, rule.cap_us)
        users = sorted({event["user_id"] for event in events})
        start, overflow = starts(
            [
                (
                    users.index(event["user_id"]),
                    event["event_time"],
                    oracle.end_of(event, rule.cap_us),
                    {None: -1, "x": 4, "y": 9}[event["source_session_id"]],
                )
                for event in events
            ],
            rule,
        )
        got = [(events[i]["event_id"], past) for i, past in zip(start, overflow, strict=True)]
        assert got == [
            (first["event_id"], past)
            for first, past in (wanted[oracle.key(event)] for event in events)
        ]


def ids(rows, users, events, rule=RULE):
    full = [row if len(row) == 4 else (0, row[0], row[1], -1) for row in rows]
    user, time, end, given = (np.array([row[i] for row in full], dtype=np.int64) for i in range(4))
    table = pl.DataFrame({"user_id": users, "event_id": events})
    return session_ids(table, sessionize(user, time, end, given, rule))


def test_session_ids_are_those_of_the_first_event():
    made = ids([(0, 0), (1, 1), (DAY, DAY)], ["u", "u", "u"], ["a", "b", "c"])
    assert made.name == "session_id"
    assert made.dtype == pl.Int64()
    assert made[0] == made[1] != made[2]
    alone = ids([(5, 5)], ["u"], ["a"])
    assert alone[0] == made[0]
    assert ids([(5, 5)], ["v"], ["a"])[0] != made[0]


def test_an_id_does_not_run_user_and_event_together():
    assert ids([(0, 0)], ["ab"], ["c"])[0] != ids([(0, 0)], ["a"], ["bc"])[0]


def test_events_past_the_cap_have_no_id():
    rule = SessionRule(gap_us=GAP, cap_us=MINUTE)
    made = ids([(0, 0), (MINUTE, MINUTE), (MINUTE + 1, MINUTE + 1)], ["u"] * 3, list("abc"), rule)
    assert made.is_null().to_list() == [False, False, True]


def test_left_context_reaches_a_play_that_ends_within_the_gap_before_the_earliest_start():
    assert SessionRule(GAP, 24 * HOUR).left_context_us >= 48 * HOUR + GAP
