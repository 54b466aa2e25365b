"""Attribution: which play an impression led to, on a few rows."""

import random

import numpy as np
import polars as pl
import pytest

from tests import oracle
from transforms.attribution import Windows, credit_plays

WINDOW = 1000


def credit(rows, window=WINDOW):
    """Outcome of each row of (key, time, "i" or "p"), given in store order."""
    key, time = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    shown = np.array([row[2] == "i" for row in rows], dtype=bool)
    windows = np.full(len(rows), window, dtype=np.int64)
    return credit_plays(key, time, shown, windows).tolist()


def test_no_rows():
    assert credit([]) == []


def test_a_play_after_an_impression():
    assert credit([(0, 0, "i"), (0, 5, "p")]) == [1, -1]


def test_a_play_before_an_impression_is_not_its_outcome():
    assert credit([(0, 0, "p"), (0, 5, "i")]) == [-1, -1]


def test_two_impressions_then_a_play_credit_the_latest():
    assert credit([(0, 0, "i"), (0, 3, "i"), (0, 5, "p")]) == [-1, 2, -1]


def test_one_impression_and_two_plays_has_the_first():
    assert credit([(0, 0, "i"), (0, 3, "p"), (0, 5, "p")]) == [1, -1, -1]


def test_each_impression_has_the_first_play_before_the_next():
    rows = [(0, 0, "i"), (0, 1, "p"), (0, 2, "p"), (0, 3, "i"), (0, 4, "p")]
    assert credit(rows) == [1, -1, -1, 4, -1]


@pytest.mark.parametrize(("delay", "played"), [(WINDOW - 1, 1), (WINDOW, -1), (WINDOW + 1, -1)])
def test_the_window_is_half_open(delay, played):
    assert credit([(0, 0, "i"), (0, delay, "p")]) == [played, -1]


def test_a_play_at_the_same_instant_is_an_outcome_in_either_order():
    assert credit([(0, 7, "i"), (0, 7, "p")]) == [1, -1]
    assert credit([(0, 7, "p"), (0, 7, "i")]) == [-1, 0]


def test_of_two_impressions_at_one_instant_the_later_in_store_order_is_credited():
    assert credit([(0, 7, "i"), (0, 7, "i"), (0, 7, "p")]) == [-1, 2, -1]
    assert credit([(0, 7, "i"), (0, 7, "p"), (0, 7, "i")]) == [-1, -1, 1]


def test_of_two_plays_at_one_instant_the_earlier_in_store_order_is_the_outcome():
    assert credit([(0, 0, "i"), (0, 7, "p"), (0, 7, "p")]) == [1, -1, -1]


def test_a_play_of_another_user_track_or_surface_is_not_an_outcome():
    assert credit([(0, 0, "i"), (1, 5, "p")]) == [-1, -1]
    assert credit([(1, 0, "i"), (0, 5, "p")]) == [-1, -1]


@pytest.mark.parametrize("apart", [WINDOW - 1, WINDOW, WINDOW + 1])
def test_a_play_is_credited_to_the_latest_impression_in_reach(apart):
    """Whether the earlier one is still in reach or not."""
    rows = [(0, 0, "i"), (0, apart - 1, "i"), (0, apart, "p")]
    assert credit(rows) == [-1, 2, -1]


def test_the_order_of_plays_and_impressions_of_other_keys_does_not_matter():
    rows = [(0, 0, "i"), (1, 0, "i"), (0, 1, "p"), (1, 1, "p")]
    assert credit(rows) == [2, 3, -1, -1]
    mixed = [rows[i] for i in (1, 0, 3, 2)]
    assert credit(mixed) == [2, 3, -1, -1]


def test_the_last_row_may_be_an_impression():
    assert credit([(0, 0, "p"), (0, 9, "i")]) == [-1, -1]
    assert credit([(0, 9, "i")]) == [-1]


def test_a_late_impression_out_of_reach_does_not_take_the_play_of_an_earlier_key():
    assert credit([(0, 0, "i"), (0, 5, "p"), (1, 3, "i")]) == [1, -1, -1]


def test_rows_of_several_keys_may_be_mixed():
    rows = [(1, 0, "i"), (0, 0, "i"), (0, 1, "p"), (1, 2, "p"), (0, 3, "p")]
    assert credit(rows) == [3, 2, -1, -1, -1]


def test_windows_of_surfaces():
    windows = Windows(default_us=5, by_surface_us={"radio": 9})
    assert windows.widest_us == 9
    assert windows.of(pl.Series(["home", "radio", None], dtype=pl.String)).tolist() == [5, 9, 5]
    assert Windows(default_us=5, by_surface_us={"radio": 2}).widest_us == 5


def test_random_rows_equal_the_rule_word_for_word():
    rng = random.Random(0)
    rules = oracle.Rules(window_us=4)
    for _ in range(300):
        events = [
            {
                "event_id": f"{number:02}",
                "event_type": rng.choice(["play", "impression"]),
                "event_time": rng.randrange(8),
                "user_id": "u",
                "track_id": rng.choice("ab"),
                "surface": None,
            }
            for number in range(rng.randrange(9))
        ]
        events.sort(key=oracle.store_order)
        got = credit(
            [
                ("ab".index(event["track_id"]), event["event_time"], event["event_type"][0])
                for event in events
            ],
            window=4,
        )
        wanted = [
            oracle.outcome_of(event, events, rules) if event["event_type"] == "impression" else None
            for event in events
        ]
        assert [None if i < 0 else events[i]["event_id"] for i in got] == [
            None if play is None else play["event_id"] for play in wanted
        ]
