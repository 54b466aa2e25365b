"""Labels: every rule of the table in `transforms.labels`, one row at a time."""

import itertools

import numpy as np
import polars as pl
import pytest

from schemas.listening_event import REASONS_END
from tests import oracle
from transforms import labels
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


def of_play(skip_below_ms=30_000, cap=1.0, **fields):
    table = pl.DataFrame([{**PLAY, **fields}], schema=TYPES)
    return labels.play_labels(table, skip_below_ms, cap).to_dicts()[0]


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
    got = of_play(played_ms=played_ms, track_duration_ms=duration_ms, cap=cap)
    assert got["completion"] == share


@pytest.mark.parametrize(
    ("fields", "skipped"),
    [
        ({"played_ms": 0, "reason_end": "fwdbtn"}, True),
        ({"played_ms": 29_999, "reason_end": "fwdbtn"}, True),
        ({"played_ms": 30_000, "reason_end": "fwdbtn"}, False),
        ({"played_ms": 1_000, "reason_end": "trackdone"}, False),
        ({"played_ms": 1_000, "reason_end": "trackerror"}, False),
        ({"played_ms": 1_000, "reason_end": "logout"}, False),
        ({"played_ms": 1_000, "reason_end": "unknown"}, True),
        ({"played_ms": 1_000, "reason_end": None}, True),
        ({"played_ms": 30_000, "reason_end": None}, False),
        ({"played_ms": 1_000, "reason_end": "fwdbtn", "time_quality": "sync"}, None),
        ({"played_ms": 90_000, "reason_end": "trackdone", "time_quality": "sync"}, None),
        ({"played_ms": None, "reason_end": "fwdbtn"}, None),
        ({"played_ms": None, "reason_end": None}, None),
        ({"played_ms": None, "reason_end": "trackdone"}, None),
        ({"played_ms": None, "reason_end": "fwdbtn", "source_skip_level": 0}, False),
        ({"played_ms": None, "reason_end": "fwdbtn", "source_skip_level": 1}, False),
        ({"played_ms": None, "reason_end": "fwdbtn", "source_skip_level": 2}, True),
        ({"played_ms": None, "reason_end": "fwdbtn", "source_skip_level": 3}, True),
        ({"played_ms": None, "reason_end": None, "source_skip_level": 2}, True),
        ({"played_ms": None, "source_skip_level": 3, "time_quality": "sync"}, None),
        ({"played_ms": 90_000, "reason_end": "fwdbtn", "source_skip_level": 3}, False),
        ({"played_ms": 1_000, "reason_end": "fwdbtn", "source_skip_level": 0}, True),
    ],
)
def test_skips(fields, skipped):
    assert of_play(**fields)["skipped"] is skipped


@pytest.mark.parametrize("threshold", [1, 5_000, 60_000])
def test_the_threshold_of_a_skip_is_exclusive(threshold):
    def skipped(played_ms):
        return of_play(threshold, played_ms=played_ms, reason_end="fwdbtn")["skipped"]

    assert skipped(threshold - 1) is True
    assert skipped(threshold) is False


def test_every_combination_equals_the_oracle():
    rows = [
        dict(zip(TYPES, values, strict=True))
        for values in itertools.product(
            [None, 0, 999, 29_999, 30_000, 30_001, 200_000],
            [None, 1_000, 30_000, 210_007],
            [None, *REASONS_END],
            [None, 0, 1, 2, 3],
            ["reported", "derived", "sync", "synthetic"],
        )
    ]
    got = labels.play_labels(pl.DataFrame(rows, schema=TYPES), 30_000, 1.5).to_dicts()
    differing = {}
    for row, found in zip(rows, got, strict=True):
        wanted = {
            "streamed_30s": oracle.is_streamed(row),
            "completion": oracle.completion(row, 1.5),
            "skipped": oracle.is_skipped(row, 30_000),
        }
        if found != wanted:
            differing.setdefault(str((found["skipped"], wanted["skipped"])), []).append(row)
    assert not differing, {key: (len(some), some[0]) for key, some in differing.items()}


def resolved(actions, t, horizon=100, group=0):
    """Whether the example is liked, given actions of (group, time, liked) in store order."""
    groups, times = (np.array([row[i] for row in actions], dtype=np.int64) for i in (0, 1))
    positive = np.array([row[2] for row in actions], dtype=bool)
    made = labels.resolved_within(
        SortedGroups.of(groups, times),
        positive,
        np.array([group], dtype=np.int64),
        np.array([t], dtype=np.int64),
        horizon,
    )
    return bool(made[0])


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
    assert resolved(actions, t=0) is liked


def rewarded(weights, **values):
    table = pl.DataFrame(
        {f"label_{name}": [value] for name, value in values.items()},
        schema={
            f"label_{name}": pl.Float64 if name == "completion" else pl.Boolean for name in values
        },
    )
    # The columns are named with or without the prefix; either way they are the labels.
    expr = labels.reward(weights)
    if not set(expr.meta.root_names()) <= set(table.columns):
        table = table.rename({name: name.removeprefix("label_") for name in table.columns})
    return table.select(expr.alias("r"))["r"][0]


def test_reward_is_the_weighted_sum_in_order_of_name():
    weights = {"saved": 0.3, "completion": 0.1, "liked": 0.2}
    got = rewarded(weights, saved=True, completion=1.0, liked=True)
    assert got == (0.1 * 1.0 + 0.2) + 0.3
    assert got == rewarded(dict(sorted(weights.items())), saved=True, completion=1.0, liked=True)


def test_reward_of_no_outcome_is_zero():
    assert rewarded({"liked": 2.0, "skipped": -1.0}, liked=False, skipped=False) == 0.0


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_reward_is_null_where_a_label_in_it_is(weight):
    assert rewarded({"skipped": weight, "liked": 1.0}, skipped=None, liked=True) is None
    assert rewarded({"liked": 1.0}, skipped=None, liked=True) == 1.0
