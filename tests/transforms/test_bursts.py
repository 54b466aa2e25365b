"""Sync bursts against a slow reading of the rule, and what must not be taken for one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.bursts import BURST_CONTEXT_US, LONG_US, NEAR_US, sync_bursts

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE

Event = tuple[int, int, int, bool]  # user, start, played, is a play


def flags(events: list[Event]) -> list[bool]:
    """`sync_bursts` of events in any order, answered in their order."""
    order = sorted(range(len(events)), key=lambda row: events[row][:2])
    columns = zip(*(events[row] for row in order), strict=True) if events else [(), (), (), ()]
    user, time, played, is_play = (list(column) for column in columns)
    found = sync_bursts(
        np.array(user, np.int64),
        np.array(time, np.int64),
        np.array(played, np.int64),
        np.array(is_play, bool),
    )
    answer = [False] * len(events)
    for row, flag in zip(order, found.tolist(), strict=True):
        answer[row] = flag
    return answer


def oracle(events: list[Event]) -> list[bool]:
    """The rule, read out: grow a run from each long play, then look for one nearby."""
    long = [event for event in events if event[3] and event[2] >= 60 * SECOND]

    def run_of(play: Event) -> set[int]:
        times = [time for user, time, _, _ in long if user == play[0]]
        reached = {index for index, time in enumerate(times) if time == play[1]}
        while True:
            more = {
                index
                for index, time in enumerate(times)
                if any(abs(time - times[other]) <= 10 * SECOND for other in reached)
            }
            if more == reached:
                return reached
            reached = more

    cores = [(user, time) for user, time, _, _ in long if len(run_of((user, time, 0, True))) >= 3]
    return [
        is_play and any(user == who and abs(time - when) <= 10 * SECOND for who, when in cores)
        for user, time, _, is_play in events
    ]


_STEPS = [0, 0, 1, SECOND, 5 * SECOND, NEAR_US - 1, NEAR_US, NEAR_US, NEAR_US + 1, MINUTE]
_PLAYED = [0, SECOND, LONG_US - 1, LONG_US, LONG_US, 3 * MINUTE, 3 * MINUTE]


@st.composite
def event_lists(draw: st.DrawFn) -> list[Event]:
    time, made = DAY - 30 * SECOND, []
    for _ in range(draw(st.integers(0, 12))):
        time += draw(st.sampled_from(_STEPS))
        user = draw(st.sampled_from([0, 0, 0, 1]))
        is_play = draw(st.sampled_from([True, True, True, True, False]))
        made.append((user, time, draw(st.sampled_from(_PLAYED)), is_play))
    return made


@given(event_lists())
def test_equals_the_slow_reading_of_the_rule(events: list[Event]) -> None:
    assert flags(events) == oracle(events)


@given(event_lists(), st.randoms(use_true_random=False))
def test_order_of_ties_does_not_matter(events: list[Event], shuffler: random.Random) -> None:
    shuffled = list(events)
    shuffler.shuffle(shuffled)
    by_event = dict(zip(shuffled, flags(shuffled), strict=True))
    assert flags(events) == [by_event[event] for event in events]


@given(event_lists())
def test_a_flag_depends_on_nothing_beyond_its_context(events: list[Event]) -> None:
    whole = flags(events)
    for row, (user, time, _, _) in enumerate(events):
        near = [
            other
            for other in range(len(events))
            if events[other][0] == user and abs(events[other][1] - time) <= BURST_CONTEXT_US
        ]
        assert flags([events[other] for other in near])[near.index(row)] == whole[row]


def test_the_context_is_needed_to_its_end() -> None:
    chain = [(0, step * NEAR_US, 0 if step == 0 else LONG_US, True) for step in range(4)]
    assert flags(chain) == [True] * 4
    assert chain[3][1] - chain[0][1] == BURST_CONTEXT_US
    assert not any(flags(chain[:3]))


def test_the_real_burst_of_27_plays() -> None:
    burst = [(0, 13 * MINUTE + i * 59 * SECOND // 26, 171 * SECOND, True) for i in range(27)]
    before, after = (0, 9 * MINUTE, 4 * MINUTE, True), (0, 17 * MINUTE, 3 * MINUTE, True)
    assert flags([before, *burst, after]) == [False] + [True] * 27 + [False]
    at_once = [(0, 13 * MINUTE, played, True) for _, _, played, _ in burst]
    assert flags([before, *at_once, after]) == [False] + [True] * 27 + [False]


def test_short_plays_of_a_burst_belong_to_it() -> None:
    stamp = 13 * MINUTE
    plays = [(0, stamp, played, True) for played in (2 * SECOND, MINUTE, MINUTE, MINUTE, 0)]
    assert flags(plays) == [True] * 5
    impression = (0, stamp, 0, False)
    someone_else = (1, stamp, 3 * MINUTE, True)
    assert flags([*plays, impression, someone_else])[5:] == [False, False]


def test_short_plays_belong_to_a_burst_up_to_ten_seconds_from_it() -> None:
    burst = [(0, time, MINUTE, True) for time in (MINUTE, MINUTE, MINUTE + NEAR_US)]
    around = [-NEAR_US - 1, -NEAR_US, 2 * NEAR_US, 2 * NEAR_US + 1]
    short = [(0, MINUTE + step, SECOND, True) for step in around]
    assert flags([*burst, *short]) == [True] * 3 + [False, True, True, False]


@pytest.mark.parametrize("crossfade", [0, 12 * SECOND])
def test_no_device_makes_a_burst_and_neither_do_two(crossfade: int) -> None:
    """Two devices, each skipping, listening to the end and crossfading as it likes."""
    rng = np.random.default_rng(5)
    events: list[Event] = []
    for _ in range(2):
        time = 0
        for _ in range(3000):
            played = int(rng.choice([1, 2, 9, 20, 59, 60, 61, 75, 180, 240])) * SECOND
            events.append((0, time, played, True))
            time += max(played - crossfade, int(rng.choice([0, 1, 2])) * SECOND)
    assert not any(flags(events))


def test_three_devices_started_together_cannot_be_told_from_a_burst() -> None:
    assert flags([(0, device * SECOND, 3 * MINUTE, True) for device in range(3)]) == [True] * 3
    assert not any(flags([(0, device * SECOND, 3 * MINUTE, True) for device in range(2)]))


def test_skipping_through_twenty_tracks_in_forty_seconds_is_no_burst() -> None:
    skips = [(0, 2 * SECOND * i, 1_900_000, True) for i in range(20)]
    assert not any(flags([*skips, (0, 40 * SECOND, 4 * MINUTE, True)]))


def test_whole_minute_stamps_of_one_device_are_no_burst() -> None:
    rng = np.random.default_rng(6)
    time, events = 0, []
    for _ in range(3000):
        played = int(rng.integers(1, 200)) * SECOND
        end = time + played
        events.append((0, end // MINUTE * MINUTE - played, played, True))
        time = end - min(played // 2, 12 * SECOND)
    assert not any(flags(events))


def test_a_burst_over_midnight_is_one() -> None:
    times = [DAY - 9 * SECOND, DAY - 1, DAY, DAY + 9 * SECOND]
    assert flags([(0, time, 3 * MINUTE, True) for time in times]) == [True] * 4


def test_unknown_played_time_is_never_a_burst() -> None:
    assert not any(flags([(0, 0, 0, True)] * 10))


def test_no_events() -> None:
    assert flags([]) == []
