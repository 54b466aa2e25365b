"""Retrieval rows equal those of the oracle, and each negative is one that the row may have, with
the probability that its draw had; see tests/oracle.py."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import built, oracle, strategies
from tests.built import build, examples
from transforms import negatives
from transforms.datasets import retrieval

SPECS = strategies.SPECS["retrieval"]
LONG_LOGS = 12  # a spec; more when hunting
DRAWN = ("uniform", "popularity", "mixed")
T = strategies.FIRST_US + 12 * oracle.HOUR_US
ONE_US = 1 / oracle.HOUR_US  # in hours


def check(log):
    built.check_rows(log)
    check_negatives(log, build(log)[0])


def check_negatives(log, rows):
    world = log.world()
    of_events = {oracle.key(event): event for event in world.events}
    for row in rows:
        allowed = oracle.negatives_of(of_events[oracle.key(row)], world)
        names = ["neg_track_ids", "neg_types", "neg_log_q", "neg_weights", "neg_is_later_positive"]
        slots = list(zip(*(row[name] for name in names), strict=True))
        order = [source for source, _, _ in log.rules.sources]
        places = [order.index(kind) for _, kind, _, _, _ in slots]
        assert places == sorted(places), "not in the order of the sources"
        for kind, count, _ in log.rules.sources:
            mine = [slot for slot in slots if slot[1] == kind]
            if kind in DRAWN:
                check_draws(mine, count, allowed.draws[kind], allowed.free[kind])
            else:
                check_kept(mine, count, getattr(allowed, kind))
        for track, _, _, _, is_later in slots:
            assert is_later == (track in allowed.later)
        for name in ("positive_log_q", "positive_in_batch_log_q"):
            assert_log(row[name], getattr(allowed, name))


def check_draws(slots, count, log_q_of, free):
    """Every slot holds a track that may be drawn, with its exact probability.

    A slot whose 64 tries hit nothing that is free stays empty, which is no question of chance where
    half of the proposal is free.
    """
    for track, _, log_q, weight, _ in slots:
        assert track in log_q_of
        assert_log(log_q, log_q_of[track])
        assert weight == 1.0
    assert len(slots) <= count
    if free == 0 or free >= 0.5:
        assert len(slots) == (count if free else 0)


def check_kept(slots, count, candidates):
    """The candidates, or `count` of them, each once, with their share."""
    kept = [track for track, *_ in slots]
    assert len(kept) == len(set(kept)) == min(count, len(candidates))
    assert set(kept) <= candidates
    for _, _, log_q, weight, _ in slots:
        assert_log(log_q, -math.log(len(candidates)))
        assert weight == len(candidates) / len(kept)


def assert_log(found, wanted):
    if wanted is None:
        assert found is None
    else:
        assert found == pytest.approx(wanted, rel=0, abs=1e-12)


def test_the_oracle_knows_every_column():
    families = ("context", "user", "session", "history")
    assert set(retrieval.schema(strategies.make_spec(SPECS[0], "retrieval"))) == {
        *oracle.CARRIED,
        "session_id",
        *(name for family in families for name in oracle.FEATURES[family]),
        "is_cold_user",
        "is_cold_item",
        *oracle.LABELS,
        *negatives.SCHEMA,
    }


@pytest.mark.parametrize("fields", SPECS, ids=range(len(SPECS)))
@pytest.mark.parametrize("given_sessions", [False, True], ids=["gaps", "given"])
def test_rows_of_long_logs_equal_the_oracle(fields, given_sessions):
    built.check_long_logs("retrieval", fields, given_sessions, check, LONG_LOGS)


@examples(50)
@given(strategies.logs("retrieval"))
def test_rows_equal_the_oracle(log):
    check(log)


@examples(20)
@given(strategies.partitioned("retrieval"))
def test_rows_of_several_partitions_equal_the_oracle(case):
    built.check_partitions(*case)


@examples(20)
@given(strategies.partitioned("retrieval"), st.randoms(use_true_random=False))
def test_order_and_partition_do_not_matter(case, random):
    """Not for the draws either."""
    built.check_order(*case, random)


@examples(20)
@given(strategies.logs("retrieval"))
def test_daily_equals_full(log):
    built.check_daily(log)


@pytest.mark.parametrize("given_sessions", [False, True], ids=["gaps", "given"])
def test_daily_equals_full_on_long_logs(given_sessions):
    for fields in SPECS:
        built.check_long_logs("retrieval", fields, given_sessions, built.check_daily, 4)


def stream(number, hours, track, **fields):
    """A play of 30 s, some hours before T."""
    time_us = T - round(hours * oracle.HOUR_US)
    return strategies.event(number, event_time=time_us, track_id=track, played_ms=30_000, **fields)


def negatives_of(*events, sources, **fields):
    """(track, type) of the negatives of the play at T, the first event."""
    spec = {"negatives": {"sources": sources, **fields}}
    log = strategies.log_of(list(events), spec, "retrieval")
    rows, _ = build(log)
    check(log)
    row = next(row for row in rows if row["event_id"] == events[0]["event_id"])
    return Counter(zip(row["neg_track_ids"], row["neg_types"], strict=True))


def test_exposed_tracks_were_shown_in_the_session_and_led_to_no_play():
    def shown(number, minutes, track):
        return stream(number, minutes / 60, track, event_type="impression") | {"played_ms": None}

    found = negatives_of(
        stream(0, 0, "own"),
        shown(1, 5, "own"),
        shown(2, 6, "not played"),
        shown(3, 7, "played after t"),
        strategies.event(4, event_time=T + 1, track_id="played after t", played_ms=1_000),
        shown(5, 60, "an earlier session"),
        shown(6, 0, "at t"),
        sources=[{"type": "exposed", "count": 9}],
    )
    assert found == {("not played", "exposed"): 1}


def test_skipped_tracks_were_skipped_in_the_session_before():
    def skipped(number, minutes, track, **fields):
        return stream(number, minutes / 60, track, reason_end="fwdbtn") | {
            "played_ms": 29_999,
            **fields,
        }

    found = negatives_of(
        stream(0, 0, "own"),
        skipped(1, 5, "skipped"),
        skipped(2, 6, "skipped"),
        skipped(3, 7, "own"),
        skipped(4, 8, "by itself", reason_end="trackdone"),
        skipped(5, 9, "at sync", time_quality="sync"),
        skipped(6, 60, "an earlier session"),
        skipped(7, 0, "at t"),
        sources=[{"type": "skipped", "count": 9}],
    )
    assert found == {("skipped", "skipped"): 1}


@pytest.mark.parametrize(
    ("hours", "later", "can_be_drawn"),
    [
        (24, "keep", False),
        (24 + ONE_US, "keep", True),
        (1, "keep", False),
        (0, "keep", True),
        (0, "exclude", False),
        (-24 + ONE_US, "exclude", False),
        (-24, "exclude", True),
    ],
)
def test_which_positives_are_no_negatives(hours, later, can_be_drawn):
    found = negatives_of(
        stream(0, 0, "own"),
        stream(1, hours, "positive"),
        stream(2, 48, "positive", user_id="u2"),
        sources=[{"type": "uniform", "count": 3}],
        exclude_days=1,
        later_positives=later,
    )
    assert found == ({("positive", "uniform"): 3} if can_be_drawn else {})


@pytest.mark.parametrize(
    ("event_hours", "received_hours", "is_known"),
    [
        (13, 13, True),
        (13, 12 + ONE_US, True),
        (13, 12, False),  # received at midnight
        (12, 12, False),  # happened on the day itself
        (12 + ONE_US, 12 + ONE_US, True),
        (12 + 24 * 28, 13, True),
        (12 + 24 * 28 + ONE_US, 13, False),  # before the days of the pool
    ],
)
def test_only_what_was_known_at_midnight_is_in_the_pool(event_hours, received_hours, is_known):
    other = stream(1, event_hours, "other", user_id="u2")
    other["received_time"] = T - round(received_hours * oracle.HOUR_US)
    found = negatives_of(stream(0, 0, "own"), other, sources=[{"type": "uniform", "count": 1}])
    assert found == ({("other", "uniform"): 1} if is_known else {})
