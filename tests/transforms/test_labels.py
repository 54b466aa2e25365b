"""Labels: every rule of the table in `transforms.labels`, one row at a time."""

import dataclasses
import itertools

import numpy as np
import polars as pl
import pytest

from schemas.listening_event import REASONS_END
from tests import oracle
from transforms import labels
from transforms.labels import PlayRule
from transforms.timeline import SortedGroups

PLAY = {
    "played_ms": 100_000,
    "track_duration_ms": 200_000,
    "reason_end": "trackdone",
    "source_skip_level": None,
    "time_quality": "reported",
}
TYPES = {
    "played_ms": pl.Int64,
    "track_duration_ms": pl.Int64,
    "reason_end": pl.String,
    "source_skip_level": pl.Int32,
    "time_quality": pl.String,
}


RULE = PlayRule(
    skip_1_below_ms=5_000, skip_2_below_ms=30_000, skip_3_below_share=0.95, completion_cap=1.0
)


def of_play(rule=RULE, **fields):
    table = pl.DataFrame([{**PLAY, **fields}], schema=TYPES)
    return labels.play_labels(table, rule).to_dicts()[0]


@pytest.mark.parametrize(
    ("played_ms", "streamed"), [(0, False), (29_999, False), (30_000, True), (None, None)]
)
def test_a_stream_is_thirty_seconds(played_ms, streamed):
    assert of_play(played_ms=played_ms)["streamed_30s"] is streamed


@pytest.mark.parametrize(
    ("played_ms", "duration_ms", "cap", "share"),
    [
        (0, 200_000, 1.0, 0.0),
        (50_000, 200_000, 1.0, 0.25),
        (200_000, 200_000, 1.0, 1.0),
        (500_000, 200_000, 1.0, 1.0),
        (300_000, 200_000, 2.0, 1.5),
        (500_000, 200_000, 2.0, 2.0),
        (1, 3_000, 1.0, 1 / 3_000),
        (None, 200_000, 1.0, None),
        (1, None, 1.0, None),
        (None, None, 1.0, None),
    ],
)
def test_completion(played_ms, duration_ms, cap, share):
    rule = dataclasses.replace(RULE, completion_cap=cap)
    got = of_play(rule, played_ms=played_ms, track_duration_ms=duration_ms)
    assert got["completion"] == share


@pytest.mark.parametrize(
    ("played_ms", "duration_ms", "scrobble"),
    [
        (15_000, 30_001, False),
        (15_001, 30_001, True),
        (30_000, 30_000, False),  # too short a track
        (240_000, 30_000, False),
        (99_999, 200_000, False),
        (100_000, 200_000, True),
        (239_999, 480_001, False),
        (240_000, 480_001, True),
        (240_000, 10_800_000, True),
        (240_000, None, True),
        (239_999, None, None),
        (0, None, None),
        (None, 200_000, None),
        (None, 30_000, None),
        (None, None, None),
    ],
)
def test_a_scrobble_is_half_of_the_track_or_four_minutes(played_ms, duration_ms, scrobble):
    got = of_play(played_ms=played_ms, track_duration_ms=duration_ms)
    assert got["scrobble"] is scrobble


NONE, ALL, UNKNOWN = [False] * 3, [True] * 3, [None] * 3


def skips(rule=RULE, **fields):
    got = of_play(rule, **fields)
    return [got[f"skip_{level}"] for level in (1, 2, 3)]


@pytest.mark.parametrize(
    ("fields", "levels"),
    [
        ({"played_ms": 0, "reason_end": "fwdbtn"}, ALL),
        ({"played_ms": 4_999, "reason_end": "fwdbtn"}, ALL),
        ({"played_ms": 5_000, "reason_end": "fwdbtn"}, [False, True, True]),
        ({"played_ms": 29_999, "reason_end": "fwdbtn"}, [False, True, True]),
        ({"played_ms": 30_000, "reason_end": "fwdbtn"}, [False, False, True]),
        ({"played_ms": 189_999, "reason_end": "fwdbtn"}, [False, False, True]),
        ({"played_ms": 190_000, "reason_end": "fwdbtn"}, NONE),
        ({"played_ms": 900_000, "reason_end": "fwdbtn"}, NONE),
        # A short track: 29 s of 30 s is not below its share, but below the threshold of level 2.
        ({"played_ms": 29_000, "track_duration_ms": 30_000, "reason_end": "fwdbtn"}, [0, 1, 1]),
        ({"played_ms": 30_000, "track_duration_ms": None, "reason_end": "fwdbtn"}, [0, 0, None]),
        ({"played_ms": 29_999, "track_duration_ms": None, "reason_end": "fwdbtn"}, [0, 1, 1]),
        ({"played_ms": 30_000, "track_duration_ms": None, "reason_end": "trackdone"}, NONE),
        ({"played_ms": 1_000, "reason_end": "trackdone"}, NONE),
        ({"played_ms": 1_000, "reason_end": "trackerror"}, NONE),
        ({"played_ms": 1_000, "reason_end": "logout"}, NONE),
        ({"played_ms": 1_000, "reason_end": "unknown"}, ALL),
        ({"played_ms": 1_000, "reason_end": None}, ALL),
        ({"played_ms": 30_000, "reason_end": None}, [False, False, True]),
        ({"played_ms": 1_000, "reason_end": "fwdbtn", "time_quality": "sync"}, UNKNOWN),
        ({"played_ms": 90_000, "reason_end": "trackdone", "time_quality": "sync"}, UNKNOWN),
        ({"played_ms": None, "reason_end": "fwdbtn"}, UNKNOWN),
        ({"played_ms": None, "reason_end": None}, UNKNOWN),
        ({"played_ms": None, "reason_end": "trackdone"}, UNKNOWN),
        ({"played_ms": None, "reason_end": "fwdbtn", "source_skip_level": 0}, NONE),
        ({"played_ms": None, "reason_end": "fwdbtn", "source_skip_level": 1}, [0, 0, 1]),
        ({"played_ms": None, "reason_end": "fwdbtn", "source_skip_level": 2}, [0, 1, 1]),
        ({"played_ms": None, "reason_end": "fwdbtn", "source_skip_level": 3}, ALL),
        ({"played_ms": None, "reason_end": None, "source_skip_level": 2}, [0, 1, 1]),
        ({"played_ms": None, "source_skip_level": 3, "time_quality": "sync"}, UNKNOWN),
        ({"played_ms": 190_000, "reason_end": "fwdbtn", "source_skip_level": 3}, NONE),
        ({"played_ms": 1_000, "reason_end": "fwdbtn", "source_skip_level": 0}, ALL),
    ],
)
def test_skips(fields, levels):
    assert skips(**fields) == levels


@pytest.mark.parametrize("threshold", [1, 5_000, 60_000])
def test_the_thresholds_of_skips_are_exclusive(threshold):
    rule = dataclasses.replace(RULE, skip_1_below_ms=threshold, skip_2_below_ms=threshold)
    assert skips(rule, played_ms=threshold - 1, reason_end="fwdbtn") == ALL
    assert skips(rule, played_ms=threshold, reason_end="fwdbtn") == [False, False, True]


def test_every_combination_equals_the_oracle():
    rows = [
        dict(zip(TYPES, values, strict=True))
        for values in itertools.product(
            [None, 0, 999, 4_999, 5_000, 15_000, 29_999, 30_000, 30_001, 199_507, 200_000, 240_000],
            [None, 1_000, 30_000, 30_001, 210_007],
            [None, *REASONS_END],
            [None, 0, 1, 2, 3],
            ["reported", "derived", "sync", "synthetic"],
        )
    ]
    rule = dataclasses.replace(RULE, completion_cap=1.5)
    rules = oracle.Rules(completion_cap=1.5)
    got = labels.play_labels(pl.DataFrame(rows, schema=TYPES), rule).to_dicts()
    differing = {}
    for row, found in zip(rows, got, strict=True):
        wanted = {
            "streamed_30s": oracle.is_streamed(row),
            "scrobble": oracle.is_scrobble(row),
            "completion": oracle.completion(row, 1.5),
            **oracle.skips(row, rules),
        }
        for name in wanted:
            if found[name] != wanted[name]:
                case = f"{name}: built {found[name]}, oracle {wanted[name]}"
                differing.setdefault(case, []).append(row)
        levels = [found[f"skip_{level}"] for level in (1, 2, 3)]
        known = [level for level in levels if level is not None]
        assert known == sorted(known), "a skip of one level is one of all higher levels"
    assert not differing, {key: (len(some), some[0]) for key, some in differing.items()}


def resolve(actions, t, horizon=100, group=0):
    """Index of the like that decides, given actions of (group, time, liked) in store order."""
    groups, times = (np.array([row[i] for row in actions], dtype=np.int64) for i in (0, 1))
    positive = np.array([row[2] for row in actions], dtype=bool)
    made = labels.resolve_within(
        SortedGroups.of(groups, times),
        positive,
        np.array([group], dtype=np.int64),
        np.array([t], dtype=np.int64),
        horizon,
    )
    return int(made[0])


@pytest.mark.parametrize(
    ("actions", "liked"),
    [
        ([], False),
        ([(0, 50, True)], True),
        ([(0, 50, False)], False),
        ([(0, 50, True), (0, 60, False)], False),
        ([(0, 50, False), (0, 60, True)], True),
        ([(0, -1, True)], False),
        ([(0, 0, True)], True),
        ([(0, 99, True)], True),
        ([(0, 100, True)], False),
        ([(0, 50, True), (0, 100, False)], True),
        ([(0, -1, True), (0, 50, False)], False),
        ([(0, 50, False), (0, 50, True)], True),
        ([(0, 50, True), (0, 50, False)], False),
        ([(1, 50, True)], False),
        ([(0, 10, True), (1, 50, False)], True),
    ],
)
def test_the_latest_action_in_the_horizon_decides(actions, liked):
    found = resolve(actions, t=0)
    assert (found >= 0) is liked
    if liked:
        latest = max(i for i, (group, us, _) in enumerate(actions) if group == 0 and 0 <= us < 100)
        assert found == latest


def test_each_example_may_have_a_window_of_its_own():
    times = np.array([0, 10, 20], dtype=np.int64)
    made = labels.resolve_within(
        SortedGroups.of(np.zeros(3, dtype=np.int64), times),
        np.array([True, False, True]),
        np.zeros(4, dtype=np.int64),
        np.array([0, 0, 0, 1], dtype=np.int64),
        np.array([10, 11, 21, 9], dtype=np.int64),
    )
    assert made.tolist() == [0, -1, 2, -1]


def rewarded(weights, **values):
    table = pl.DataFrame(
        {f"label_{name}": [value] for name, value in values.items()},
        schema={
            f"label_{name}": pl.Float64 if name == "completion" else pl.Boolean for name in values
        },
    )
    return table.select(labels.reward(weights).alias("r"))["r"][0]


def test_reward_is_the_weighted_sum_in_order_of_name():
    weights = {"saved": 0.3, "completion": 0.1, "liked": 0.2}
    got = rewarded(weights, saved=True, completion=1.0, liked=True)
    assert got == (0.1 * 1.0 + 0.2) + 0.3
    assert got == rewarded(dict(sorted(weights.items())), saved=True, completion=1.0, liked=True)


def test_reward_of_no_outcome_is_zero():
    assert rewarded({"liked": 2.0, "skip_2": -1.0}, liked=False, skip_2=False) == 0.0


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_a_reward_of_nothing_has_one_sign_however_many_rows_there_are(rows):
    """A row's bytes must not depend on the rows beside it."""
    table = pl.DataFrame({"label_skip_2": [False] * rows})
    values = table.select(labels.reward({"skip_2": -1.0}).alias("r"))["r"].to_list()
    assert {str(value) for value in values} == {"0.0"}


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_reward_is_null_where_a_label_in_it_is(weight):
    assert rewarded({"skip_2": weight, "liked": 1.0}, skip_2=None, liked=True) is None
    assert rewarded({"liked": 1.0}, skip_2=None, liked=True) == 1.0
