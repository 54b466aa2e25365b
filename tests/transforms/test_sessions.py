"""Sessions: the edges of the gap, the cap and the day, on logs small enough to read."""

import itertools
import random

import numpy as np
import polars as pl
import pytest

from tests import built, oracle, strategies
from transforms.labels import PlayRule
from transforms.listening import Listening, merge_partitions
from transforms.sessions import SessionRule, session_ids, sessionize

MINUTE, HOUR, DAY = oracle.MINUTE_US, oracle.HOUR_US, oracle.DAY_US
GAP = 30 * MINUTE
NOON = strategies.FIRST_US + 12 * HOUR
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
                "time_quality": "reported",
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


def test_a_session_of_a_day_is_one_up_to_its_last_microsecond():
    step = 20 * MINUTE
    times = [*range(0, DAY, step), DAY - 1, DAY, DAY + 1]
    start, overflow = starts([(time, time) for time in times])
    assert start == [0] * len(times)
    assert overflow == [False] * (len(times) - 1) + [True]


def test_ties_belong_to_the_session_that_the_first_of_them_starts():
    rows = [(0, 0), (GAP, GAP), (GAP, GAP), (GAP, GAP + HOUR), (GAP, GAP)]
    assert starts(rows)[0] == [0, 1, 1, 1, 1]


def heard(*events, rule=RULE):
    """Events of `Listening`, in the order given: first event of each one's session, or None."""
    parts = [built.table_of([event]) for event in events]
    merged, _ = merge_partitions(parts)
    listening = Listening.of(merged, rule, PlayRule(5_000, 30_000, 0.95, 1.0))
    firsts = {}
    for event_id, at in zip(merged["event_id"], listening.session_start, strict=True):
        firsts[event_id] = None if at < 0 else merged["event_id"][int(listening.makers[at])]
    return [firsts[event["event_id"]] for event in events]


def play(number, minutes, **fields):
    return strategies.event(number, event_time=NOON + round(minutes * MINUTE), **fields)


def test_the_order_in_which_events_come_does_not_matter():
    chain = [play(1, 0), play(2, 29), play(3, 58), play(4, 88)]
    firsts = ["e001", "e001", "e001", "e004"]
    for order in itertools.permutations(range(4)):
        assert heard(*(chain[i] for i in order)) == [firsts[i] for i in order]


def test_only_plays_and_impressions_make_sessions():
    like = play(2, 20, event_type="like")
    follow = play(3, 20, event_type="follow", track_id=None)
    shown = play(4, 20, event_type="impression")
    assert heard(play(1, 0), like, play(5, 40)) == ["e001", None, "e005"]
    assert heard(play(1, 0), follow, play(5, 40)) == ["e001", None, "e005"]
    assert heard(play(1, 0), shown, play(5, 40)) == ["e001", "e001", "e001"]


@pytest.mark.parametrize("event_type", ["play", "impression"])
def test_what_is_stamped_at_sync_is_in_no_session_and_ends_no_gap(event_type):
    synced = play(2, 20, time_quality="sync", event_type=event_type)
    assert heard(play(1, 0), synced, play(3, 40)) == ["e001", None, "e003"]
    # Nor does it end a session, or start one.
    assert heard(play(1, 0), synced, play(3, 29)) == ["e001", None, "e001"]
    assert heard(synced) == [None]


def test_a_burst_is_in_no_session():
    burst = [play(number, 10, played_ms=60_000) for number in (2, 3, 4)]
    assert heard(play(1, 0), *burst, play(5, 35)) == ["e001", None, None, None, "e005"]
    # Two plays at once are not one: two devices may play.
    two = [play(number, 10, played_ms=60_000) for number in (2, 3)]
    assert heard(play(1, 0), *two, play(5, 35)) == ["e001"] * 4


@pytest.mark.parametrize(("apart_us", "is_burst"), [(10_000_000, True), (10_000_001, False)])
def test_plays_of_a_burst_start_at_most_ten_seconds_apart(apart_us, is_burst):
    plays = [
        strategies.event(number, event_time=NOON + number * apart_us, played_ms=60_000)
        for number in range(3)
    ]
    assert heard(*plays) == [None if is_burst else "e000"] * 3
    short = strategies.event(9, event_time=NOON + 2 * apart_us + 10_000_000, played_ms=1_000)
    assert heard(*plays, short)[-1] == (None if is_burst else "e000")
    later = {**short, "event_time": short["event_time"] + 1}
    assert heard(*plays, later)[-1] == ("e009" if is_burst else "e000")


@pytest.mark.parametrize(("played_ms", "is_burst"), [(60_000, True), (59_999, False)])
def test_plays_of_a_burst_are_a_minute_long(played_ms, is_burst):
    plays = [play(number, 0, played_ms=played_ms) for number in range(3)]
    assert heard(*plays) == [None if is_burst else "e000"] * 3


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
