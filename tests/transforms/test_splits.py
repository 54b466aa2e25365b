"""Splits: the edges of borders, gaps, sessions and label windows."""

import datetime

import numpy as np
import polars as pl
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import built, oracle, strategies
from transforms import splits
from transforms.splits import REASONS, SPLITS, Borders, SplitsSpec

SECOND, MINUTE, HOUR, DAY = (
    oracle.SECOND_US,
    oracle.MINUTE_US,
    oracle.HOUR_US,
    oracle.DAY_US,
)
GAP = 30 * MINUTE
V, T = 10 * DAY, 12 * DAY
BOTH = Borders(V, T, GAP)
FIRST, LAST = datetime.date(2026, 1, 5), datetime.date(2026, 1, 9)


def midnight(month, day):
    instant = datetime.datetime(2026, month, day, tzinfo=datetime.UTC)
    return int(instant.timestamp()) * SECOND


def assigned(borders, rows, open_labels="drop"):
    """(split or reason, censored) of rows of (t, start, closes, held-out user, held-out arm)."""
    columns = [np.array([row[i] for row in rows], dtype=np.int64) for i in range(3)]
    flags = [np.array([row[i] for row in rows], dtype=bool) for i in (3, 4)]
    made = splits.assign(borders, *columns, *flags, open_labels)
    names = [
        SPLITS[split] if split >= 0 else REASONS[reason]
        for split, reason in zip(made.split, made.reason, strict=True)
    ]
    assert sum(made.counts.values()) == sum(name in REASONS for name in names)
    return list(zip(names, made.censored.tolist(), strict=True))


def place(t, start=None, closes=None, borders=BOTH, open_labels="drop", user=False, arm=False):
    """Where one row goes; it is its own session, and its labels close at once, if not said."""
    start = t if start is None else start
    row = (t, start, t if closes is None else closes, user, arm)
    ((name, censored),) = assigned(borders, [row], open_labels)
    return f"{name} censored" if censored else name


@pytest.mark.parametrize(
    ("t", "split"),
    [
        (-DAY, "train"),
        (V - GAP - 1, "train"),
        (V - GAP, "gap"),
        (V - 1, "gap"),
        (V, "validation"),
        (T - GAP - 1, "validation"),
        (T - GAP, "gap"),
        (T, "test"),
        (T + 1000 * DAY, "test"),
    ],
)
def test_splits_are_cut_at_midnight_with_a_gap_before(t, split):
    assert place(t) == split


@pytest.mark.parametrize(
    ("borders", "t", "split"),
    [
        (Borders(None, None, GAP), 1 << 60, "train"),
        (Borders(None, T, GAP), T - GAP - 1, "train"),
        (Borders(None, T, GAP), T - 1, "gap"),
        (Borders(None, T, GAP), T, "test"),
        (Borders(V, None, GAP), V - 1, "gap"),
        (Borders(V, None, GAP), 1 << 60, "validation"),
        (Borders(V, T, 0), V - 1, "train"),
        (Borders(V, T, 0), T - 1, "validation"),
    ],
)
def test_any_border_may_be_missing(borders, t, split):
    assert place(t, borders=borders) == split


@pytest.mark.parametrize(
    ("start", "t", "split"),
    [
        (V - GAP - 1, V - GAP - 1, "train"),
        (V - GAP - 1, V - GAP, "session_straddles"),
        (V - GAP - 1, V - 1, "session_straddles"),
        (V - GAP - 1, V, "session_straddles"),
        (V - GAP, V, "gap"),
        (V - 1, V + HOUR, "gap"),
        (V, V + HOUR, "validation"),
        (V - DAY, T, "session_straddles"),
        (T - GAP - 1, T, "session_straddles"),
        (T, T + DAY, "test"),
    ],
)
def test_a_row_is_in_the_split_of_its_sessions_start(start, t, split):
    assert place(t, start) == split


@pytest.mark.parametrize(
    ("t", "closes", "dropped", "censored"),
    [
        (V - DAY, V, "train", "train"),
        (V - DAY, V + 1, "label_window", "train censored"),
        (V - DAY, T + DAY, "label_window", "train censored"),
        (V, T, "validation", "validation"),
        (V, T + 1, "label_window", "validation censored"),
        (T, T + 99 * DAY, "test", "test"),
        (V - 1, V + 1, "gap", "gap"),
    ],
)
def test_a_label_window_closes_at_the_next_border_or_is_cut(t, closes, dropped, censored):
    assert place(t, closes=closes) == dropped
    assert place(t, closes=closes, open_labels="censor") == censored


@pytest.mark.parametrize("reason", ["user", "arm"])
def test_what_is_held_out_is_never_in_train_alone(reason):
    where = [place(t, **{reason: True}) for t in (V - DAY, V, T)]
    assert where == [REASONS[3 if reason == "user" else 4], "validation", "test"]


times = st.sampled_from([0, V - DAY, V - GAP, V - HOUR, V, V + HOUR, T - DAY, T - GAP, T, T + DAY])
edges = st.tuples(times, st.sampled_from([-1, 0, 1])).map(sum)


@settings(deadline=None)
@given(
    st.sampled_from([BOTH, Borders(None, T, 0), Borders(V, None, HOUR), Borders(None, None, GAP)]),
    st.lists(st.tuples(edges, edges, edges, st.booleans(), st.booleans()), min_size=1, max_size=20),
    st.sampled_from(["drop", "censor"]),
)
def test_rows_go_where_the_oracle_says(borders, drawn, open_labels):
    rows = []
    for a, b, c, user, arm in drawn:
        start, t, closes = sorted((a, b, c))
        rows.append((t, start, closes, user, arm))
    rules = oracle.Rules(
        border_gap_us=borders.gap_us,
        censor=open_labels == "censor",
        held_out_users=frozenset({"user"}),
        held_out_arms=frozenset({("x", "a")}),
    )
    within = oracle.Range(0, 0, 0, validation_us=borders.validation_us, test_us=borders.test_us)
    for (t, start, closes, user, arm), (name, censored) in zip(
        rows, assigned(borders, rows, open_labels), strict=True
    ):
        row = strategies.event(event_time=t, user_id="user" if user else "u1")
        event = {**row, "experiment_id": "x" if arm else None, "variant": "a"}
        world = oracle.World([event], rules, within, [])
        split, what = oracle.split_of(event, start, t + 1, closes, world)
        assert (split, what) == (name, censored) if name in SPLITS else split is None


def test_the_end_of_train():
    assert BOTH.train_end_us == V - GAP
    assert Borders(None, T, 0).train_end_us == T
    assert Borders(V, None, GAP).train_end_day == datetime.date(1970, 1, 10)
    assert Borders(V, None, 0).train_end_day == datetime.date(1970, 1, 11)
    assert Borders(None, None, GAP).train_end_day > datetime.date(4000, 1, 1)


def resolve(horizon_us=HOUR, first=FIRST, last=LAST, **fields):
    return splits.resolve(SplitsSpec(**fields), first, last, horizon_us)


@pytest.mark.parametrize(
    ("fields", "validation", "test"),
    [
        ({}, None, None),
        ({"validation_from": "2026-01-07"}, 7, None),
        ({"validation_from": "2026-01-07", "test_from": "2026-01-08"}, 7, 8),
        ({"test_days": 1}, None, 9),
        ({"validation_days": 1}, 9, None),
        ({"validation_days": 1, "test_days": 1}, 8, 9),
        ({"validation_days": 2, "test_days": 2}, 6, 8),
        ({"validation_days": 1, "test_from": "2026-01-08"}, 7, 8),
        ({"validation_from": "2025-12-31", "test_from": "2026-02-01"}, -1, 32),
    ],
)
def test_borders_are_dates_or_count_back_from_the_end(fields, validation, test):
    fields = {
        name: datetime.date.fromisoformat(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    made = resolve(**fields)
    days = [
        None if us is None else (us - midnight(1, 1)) // DAY + 1
        for us in (made.validation_us, made.test_us)
    ]
    assert days == [validation if validation != -1 else 0, test]
    assert made.gap_us == GAP


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"test_days": 5}, "test_days"),
        ({"validation_days": 3, "test_days": 2}, "validation_days"),
        ({"validation_days": 1, "test_days": 1, "horizon_us": DAY}, "horizon_hours"),
        ({"validation_days": 1, "test_days": 1, "gap_hours": 24}, "gap_hours"),
        ({"validation_from": FIRST, "test_days": 5}, "test_days"),
    ],
)
def test_splits_that_cannot_hold_a_row_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        resolve(**fields)


def test_a_validation_of_censored_rows_may_be_shorter_than_the_horizon():
    made = resolve(DAY, validation_days=1, test_days=1, open_labels="censor")
    assert made.test_us - made.validation_us == DAY


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"test_from": LAST, "test_days": 1}, "one of the two"),
        ({"validation_from": LAST, "test_from": LAST}, "overlap"),
        ({"open_labels": "keep"}, "open_labels"),
        ({"holdout_user_share": 0.51}, "holdout_user_share"),
        ({"gap_hours": -1}, "gap_hours"),
    ],
)
def test_specs_that_contradict_themselves_are_refused(fields, said):
    with pytest.raises(pydantic.ValidationError, match=said):
        SplitsSpec(**fields)


def held_out(users, share, seed=0):
    table = pl.DataFrame({"user_id": users}, schema={"user_id": pl.String})
    return set(table.filter(splits.is_held_out(pl.col("user_id"), share, seed))["user_id"])


def test_held_out_users_are_a_share_that_grows_and_depends_on_the_seed_alone():
    users = [f"user {number}" for number in range(4000)]
    tenth, half = held_out(users, 0.1), held_out(users, 0.5)
    assert held_out(users, 0.0) == set()
    assert 320 < len(tenth) < 480
    assert 1900 < len(half) < 2100
    assert tenth < half
    assert held_out(users[::-1], 0.1) == tenth
    assert held_out(users[:1], 0.5) == half & set(users[:1])
    assert held_out(users, 0.1, seed=1) != tenth


@pytest.mark.parametrize(
    ("after_us", "is_train"),
    [
        (-7 * DAY - 1, True),
        (-7 * DAY, False),
        (0, False),
        (HOUR - 1, False),
        (HOUR, True),
    ],
)
def test_a_row_near_an_event_of_a_held_out_arm_is_not_in_train(after_us, is_train):
    t = strategies.FIRST_US + 12 * HOUR
    row = strategies.event(1, event_time=t, event_type="impression")
    arm = {"experiment_id": "x", "variant": "a", "event_type": "like"}
    fields = {"splits": {"experiment_holdouts": {"x": ["a"]}}, "labels": {"horizon_hours": 1}}
    for changes, kept in [({}, is_train), ({"variant": "b"}, True), ({"user_id": "u2"}, True)]:
        event = strategies.event(2, event_time=t + after_us, **{**arm, **changes})
        log = strategies.log_of([row, event], fields)
        built.check_rows(log)
        assert len(built.build(log)[0]) == kept


def cold(*events, **fields):
    """(user, item) flags of the last event's row."""
    log = strategies.log_of(list(events), fields, days=3)
    built.check_rows(log)
    row = next(row for row in built.build(log)[0] if row["event_id"] == events[-1]["event_id"])
    return row["is_cold_user"], row["is_cold_item"]


@pytest.mark.parametrize(
    ("back_us", "is_cold"), [(0, True), (1, False), (7 * DAY, False), (7 * DAY + 1, True)]
)
def test_a_user_is_cold_without_a_play_in_seven_days(back_us, is_cold):
    t = strategies.FIRST_US + 12 * HOUR
    row = strategies.event(2, event_time=t, event_type="impression")
    assert cold(strategies.event(1, event_time=t - back_us), row)[0] is is_cold
    shown = strategies.event(1, event_time=t - back_us, event_type="impression")
    assert cold(shown, row)[0] is True


@pytest.mark.parametrize(("back_us", "is_cold"), [(0, True), (1, False), (6 * DAY, False)])
def test_a_track_is_cold_if_nobody_had_played_it_by_midnight(back_us, is_cold):
    midnight_us = strategies.FIRST_US
    row = strategies.event(2, event_time=midnight_us + 12 * HOUR, event_type="impression")
    play = strategies.event(1, event_time=midnight_us - back_us, user_id="u2")
    assert cold(play, row)[1] is is_cold
    late = {**play, "received_time": midnight_us}
    assert cold(late, row)[1] is True


@pytest.mark.parametrize(
    ("before_end_us", "flags"),
    [(-1, (True, True)), (0, (True, True)), (1, (False, True)), (DAY, (False, False))],
)
def test_flags_of_later_splits_see_train_alone(before_end_us, flags):
    """The user's up to its end without the gap, the track's up to the last midnight before."""
    border_us = strategies.FIRST_US + DAY
    row = strategies.event(2, event_time=border_us + 12 * HOUR, event_type="impression")
    play = strategies.event(1, event_time=border_us - GAP - before_end_us)
    fields = {"splits": {"test_from": "2026-01-06"}, "labels": {"horizon_hours": 1}}
    assert cold(play, row, **fields) == flags
