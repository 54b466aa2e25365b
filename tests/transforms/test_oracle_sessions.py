"""Session rows equal those of the oracle, whatever the log; see tests/oracle.py."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import built, oracle, strategies
from tests.built import build, examples
from transforms.datasets import sessions

SPECS = strategies.SPECS["sessions"]
LONG_LOGS = 12  # a spec; more when hunting
T = strategies.FIRST_US + 12 * oracle.HOUR_US
MINUTE, HOUR, DAY = oracle.MINUTE_US, oracle.HOUR_US, oracle.DAY_US


def test_the_oracle_knows_every_column():
    log = strategies.log_of([strategies.event()], {}, "sessions")
    (row,) = built.wanted_rows(log)[0]
    assert set(sessions.schema(log.spec)) == set(row) - {"split"}


@pytest.mark.parametrize("fields", SPECS, ids=range(len(SPECS)))
@pytest.mark.parametrize("given_sessions", [False, True], ids=["gaps", "given"])
def test_rows_of_long_logs_equal_the_oracle(fields, given_sessions):
    built.check_long_logs("sessions", fields, given_sessions, built.check_rows, LONG_LOGS)


@examples(50)
@given(strategies.logs("sessions"))
def test_rows_equal_the_oracle(log):
    built.check_rows(log)


@examples(20)
@given(strategies.partitioned("sessions"))
def test_rows_of_several_partitions_equal_the_oracle(case):
    built.check_partitions(*case)


@examples(20)
@given(strategies.partitioned("sessions"), st.randoms(use_true_random=False))
def test_order_and_partition_do_not_matter(case, random):
    built.check_order(*case, random)


@examples(20)
@given(strategies.logs("sessions"))
def test_daily_equals_full(log):
    built.check_daily(log)


@pytest.mark.parametrize("given_sessions", [False, True], ids=["gaps", "given"])
def test_daily_equals_full_on_long_logs(given_sessions):
    for fields in SPECS:
        built.check_long_logs("sessions", fields, given_sessions, built.check_daily, 4)


def play(number=0, after_us=0, **fields):
    """A play some time after T."""
    return strategies.event(number, event_time=T + after_us, **fields)


def shown(number=0, after_us=0, **fields):
    return play(number, after_us, event_type="impression", **fields)


def rows_of(*events, watermark_us=None, **fields):
    """Rows of some events; checked against the oracle."""
    log = strategies.log_of(list(events), fields, "sessions", days=2)
    if watermark_us is not None:
        within = dataclasses.replace(log.within, watermark_us=watermark_us)
        log = dataclasses.replace(log, within=within)
    built.check_rows(log)
    return build(log)[0]


def test_a_row_is_a_session():
    (row,) = rows_of(
        shown(1, surface="radio", premium=True),
        play(2, MINUTE, track_id="a", played_ms=60_000, track_duration_ms=120_000),
        play(3, 3 * MINUTE, track_id="b", artist_id=None, surface=None),
        play(4, 4 * MINUTE, track_id="a", played_ms=1_000, reason_end="fwdbtn"),
    )
    wanted = {
        "session_start": T,
        "session_end": T + 4 * MINUTE + oracle.SECOND_US,
        "plays": 3,
        "impressions": 1,
        "tracks": 2,
        "streams": 1,
        "skips": 1,
        "first_surface": "radio",
        "first_premium": True,
        "track_ids": ["a", "b", "a"],
        "artist_ids": ["a1", "", "a1"],
        "surfaces": ["home", "unknown", "home"],
        "offsets_ms": [60_000, 180_000, 240_000],
        "user_plays_7d": 0,
        "label_returned_24h": False,
    }
    assert {name: row[name] for name in wanted} == wanted
    assert row["completions"][0] == 0.5
    assert all(math.isnan(share) for share in row["completions"][1:])


def test_the_end_is_that_of_the_play_that_ends_last():
    (row,) = rows_of(play(1, played_ms=600_000), play(2, MINUTE, played_ms=1_000))
    assert row["session_end"] == T + 10 * MINUTE


@pytest.mark.parametrize(("last_us", "plays"), [(0, 4), (1, 3)])
def test_what_comes_later_than_the_cap_is_not_in_it(last_us, plays):
    times = [0, 20 * MINUTE, 40 * MINUTE, HOUR + last_us]
    chain = [play(number, us) for number, us in enumerate(times)]
    (row,) = rows_of(*chain, sessions={"cap_hours": 1})
    assert row["plays"] == plays


@pytest.mark.parametrize(("apart_us", "sessions"), [(30 * MINUTE - 1, 1), (30 * MINUTE, 2)])
def test_exactly_the_gap_makes_two_rows(apart_us, sessions):
    assert len(rows_of(play(1), play(2, apart_us))) == sessions


def test_a_session_over_midnight_is_one_row_of_the_day_it_starts_on():
    rows = rows_of(play(1, 12 * HOUR - 1), play(2, 12 * HOUR), play(3, 12 * HOUR + MINUTE))
    assert [row["plays"] for row in rows] == [3]


def test_plays_stamped_at_sync_are_in_no_row():
    burst = [play(number, number, played_ms=60_000) for number in range(3)]
    rows = rows_of(*burst, play(3, 30 * MINUTE, time_quality="sync"), play(4, HOUR))
    assert [row["plays"] for row in rows] == [1]


@pytest.mark.parametrize("late_us", [-1, 0])
def test_a_session_is_mature_when_it_is_over_and_its_labels_are_known(late_us):
    chain = [play(1, played_ms=600_000), shown(2, MINUTE)]
    horizon_counts = T + MINUTE + HOUR + late_us
    rows = rows_of(*chain, watermark_us=horizon_counts, labels={"horizon_hours": 1})
    assert len(rows) == 1 + late_us
    gap_counts = T + 10 * MINUTE + 2 * HOUR + late_us
    fields = {"sessions": {"gap_minutes": 120}, "labels": {"horizon_hours": 0.5}}
    assert len(rows_of(*chain, watermark_us=gap_counts, **fields)) == 1 + late_us


@pytest.mark.parametrize("late_us", [-1, 0])
@pytest.mark.parametrize("events", [1, 2, 3])
def test_a_session_is_over_when_the_cap_is_past(events, late_us):
    """While a play lasts, and where it went on behind the cap: later events are not in it."""
    chain = [play(number, number * 80 * MINUTE, played_ms=7_200_000) for number in range(events)]
    fields = {"sessions": {"cap_hours": 2}, "labels": {"horizon_hours": 0.5}}
    rows = rows_of(*chain, watermark_us=T + 2 * HOUR + 1 + late_us, **fields)
    assert len(rows) == 1 + late_us


@pytest.mark.parametrize("late_us", [-1, 0])
def test_a_given_session_is_over_when_the_cap_is_past(late_us):
    """However long nothing happened, one more event of it may come."""
    fields = {"sessions": {"cap_hours": 2}, "labels": {"horizon_hours": 0.5}}
    watermark_us = T + 2 * HOUR + 1 + late_us
    rows = rows_of(play(1, source_session_id="x"), watermark_us=watermark_us, **fields)
    assert len(rows) == 1 + late_us


@pytest.mark.parametrize("after_us", [HOUR, 5 * HOUR])
def test_no_session_of_train_holds_a_play_of_a_held_out_arm(after_us):
    """Nor do labels of its plays look at one: an arm may begin long after the session's start."""
    hours = range(6)
    chain = [play(number, number * HOUR, played_ms=3_600_000) for number in hours]
    arm = play(9, after_us, experiment_id="x", variant="a")
    splits = {"test_from": "2026-01-06", "experiment_holdouts": {"x": ["a"]}}
    fields = {"splits": splits, "labels": {"horizon_hours": 1}}
    assert [row["split"] for row in rows_of(*chain, **fields)] == ["train"]
    assert rows_of(*chain, arm, **fields) == []


@pytest.mark.parametrize(("plays", "rows"), [(1, 0), (2, 1)])
def test_short_sessions_are_left_out(plays, rows):
    chain = [shown(0), *(play(number, number) for number in range(1, plays + 1))]
    assert len(rows_of(*chain, min_plays=2)) == rows
