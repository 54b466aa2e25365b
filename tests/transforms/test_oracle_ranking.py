"""Ranking rows equal those of the oracle, whatever the log; see tests/oracle.py."""

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import built, oracle, strategies
from tests.built import build, daily, examples
from transforms.datasets import ranking
from transforms.features import FEATURES
from transforms.listening import merge_partitions

SPECS = strategies.SPECS["ranking"]
ORACLE_FEATURES = {name for names in oracle.FEATURES.values() for name in names}
LONG_LOGS = 12  # a spec; more when hunting


def test_the_oracle_knows_every_column():
    assert {name: entry.feature.family for name, entry in FEATURES.items()} == {
        name: family for family, names in oracle.FEATURES.items() for name in names
    }
    assert set(ranking.schema(strategies.make_spec({}))) == {
        *oracle.CARRIED,
        "session_id",
        *ORACLE_FEATURES,
        "is_cold_user",
        "is_cold_item",
        *oracle.LABELS,
    }


@pytest.mark.parametrize("fields", SPECS, ids=range(len(SPECS)))
@pytest.mark.parametrize("given_sessions", [False, True], ids=["gaps", "given"])
def test_rows_of_long_logs_equal_the_oracle(fields, given_sessions):
    built.check_long_logs("ranking", fields, given_sessions, built.check_rows, LONG_LOGS)


@examples(60)
@given(strategies.logs())
def test_rows_equal_the_oracle(log):
    built.check_rows(log)


@examples(40)
@given(strategies.partitioned())
def test_rows_of_several_partitions_equal_the_oracle(case):
    built.check_partitions(*case)


@examples(30)
@given(strategies.partitioned(), st.randoms(use_true_random=False))
def test_order_and_partition_do_not_matter(case, random):
    built.check_order(*case, random)


@examples(30)
@given(strategies.partitioned())
def test_merge_partitions_counts_what_it_leaves_out(case):
    log, parts = case
    merged, counts = merge_partitions([built.table_of(part) for part in parts])
    kept = oracle.drop_duplicates(log.events)
    counted = oracle.prepared(log.events)
    assert merged.height == counts["events"] == len(counted)
    assert counts["duplicate_across_partitions"] == len(log.events) - len(kept)
    assert counts["near_duplicate"] == len(kept) - len(counted)


@examples(40)
@given(strategies.logs())
def test_daily_equals_full(log):
    built.check_daily(log)


@pytest.mark.parametrize("given_sessions", [False, True], ids=["gaps", "given"])
def test_daily_equals_full_on_long_logs(given_sessions):
    for fields in SPECS:
        built.check_long_logs("ranking", fields, given_sessions, built.check_daily, 4)


@pytest.mark.parametrize("fields", [{}, {"sessions": {"cap_hours": 1}}], ids=["cap24h", "cap1h"])
def test_a_play_that_started_before_the_window_and_ended_in_it_counts(fields):
    """Also in a daily build: its context holds the start of such a play."""
    t = strategies.FIRST_US
    old = strategies.event(1, event_time=t - oracle.WEEK_US - 1, played_ms=60_000)
    row = strategies.event(2, event_time=t, event_type="impression")
    log = strategies.log_of([old, row], fields)
    assert build(log)[0][0]["user_streams_7d"] == 1
    assert daily(log)[0]["user_streams_7d"] == 1


def test_a_given_session_that_was_silent_before_the_days_context_starts_again():
    """What is known of an event depends on its left context alone, in given sessions too."""
    t = strategies.FIRST_US
    shown = {"event_type": "impression", "source_session_id": "x"}
    times = [t - 8 * oracle.DAY_US, t - oracle.HOUR_US, t]
    log = strategies.log_of(
        [strategies.event(number, event_time=us, **shown) for number, us in enumerate(times)]
    )
    full, _ = build(log)
    assert full[0]["session_age_ms"] == 3_600_000
    assert daily(log) == full


def test_a_sync_burst_across_midnight_is_one_in_both_days():
    """Its plays have no session and end none, whichever day is built alone."""
    t = strategies.FIRST_US + oracle.DAY_US
    near = 10 * oracle.SECOND_US
    times = [t - 2 * near, t - near, t - 1, t + near - 1]
    plays = [
        strategies.event(number, event_time=us, played_ms=60_000) for number, us in enumerate(times)
    ]
    row = strategies.event(9, event_time=t + oracle.MINUTE_US, event_type="impression")
    log = strategies.log_of([*plays, row], days=2)
    full, _ = build(log)
    assert full[-1]["session_age_ms"] == 0
    assert daily(log) == full
    alone = dataclasses.replace(log, events=[*plays[:2], row])
    assert build(alone)[0][-1]["session_age_ms"] == 80_000


@examples(40)
@given(st.data())
def test_features_do_not_see_the_present_or_the_future(data):
    check_point_in_time(data, data.draw(strategies.logs(mature=True, given=False)))


@examples(40)
@given(st.data())
def test_features_do_not_see_the_present_or_the_future_where_sessions_are_given(data):
    check_point_in_time(data, data.draw(strategies.logs(mature=True)))


def check_point_in_time(data, log):
    """Features of a row stay, whatever happens at its instant and after."""
    rows, _ = build(log)
    assume(rows)
    row = data.draw(st.sampled_from(rows))
    t = row["event_time"]
    itself = next(event for event in log.events if oracle.key(event) == oracle.key(row))
    past = [event for event in log.events if event["event_time"] < t]
    other = dict(itself)
    if itself["event_type"] == "play":  # nor how its own play went
        other.update(played_ms=29_000, reason_end="fwdbtn", source_skip_level=3, skipped=True)
    given_ids = sorted({event["source_session_id"] for event in log.events}, key=str)
    later = data.draw(strategies.later_events(log.rules, t, given_ids or [None]))
    for event in later:
        # Three long plays at once tell that those just before were stamped too, and an event of a
        # held-out arm that the row is no row of train.
        if event["played_ms"] is not None:
            event["played_ms"] = min(event["played_ms"], 59_999)
        event["experiment_id"] = None
    changed = dataclasses.replace(log, events=[*past, other, *later])
    again = next(found for found in build(changed)[0] if oracle.key(found) == oracle.key(row))
    assert {name: again[name] for name in ORACLE_FEATURES} == {
        name: row[name] for name in ORACLE_FEATURES
    }
    assert (again["session_id"] is None) == (row["session_id"] is None)
    at_once = [event for event in [*log.events, *later] if event["event_time"] == t]
    if all(event["user_id"] != row["user_id"] for event in at_once if event is not itself):
        assert again["session_id"] == row["session_id"]


def one_row(*events, **fields):
    """The row of the last event; `fields` are those of the spec."""
    log = strategies.log_of(list(events), fields)
    rows, _ = build(log)
    built.assert_equal_rows(rows, built.wanted_rows(log)[0])
    return next(row for row in rows if row["event_id"] == events[-1]["event_id"])


def test_an_event_at_the_same_instant_does_not_end_the_rows_given_session():
    t = strategies.FIRST_US + oracle.HOUR_US
    shown = {"event_type": "impression"}
    before = strategies.event(1, event_time=t - oracle.MINUTE_US, source_session_id="x", **shown)
    at_once = strategies.event(2, event_time=t, source_session_id="y", **shown)
    row = strategies.event(3, event_time=t, source_session_id="x", **shown)
    assert one_row(before, row)["session_impressions"] == 1
    assert one_row(before, at_once, row)["session_impressions"] == 1


def test_session_skips_are_of_plays_that_started_in_the_session():
    t = strategies.FIRST_US + oracle.HOUR_US
    skip = {"played_ms": 20_000, "reason_end": "fwdbtn"}
    other = strategies.event(1, event_time=t, source_session_id="y", **skip)
    first = strategies.event(2, event_time=t + 1, source_session_id="x", event_type="impression")
    row = strategies.event(
        3, event_time=t + oracle.MINUTE_US, source_session_id="x", event_type="impression"
    )
    assert one_row(other, first, row)["session_skips"] == 0


def test_a_skip_counts_from_its_end_on():
    t = strategies.FIRST_US + oracle.HOUR_US
    skip = strategies.event(1, event_time=t, played_ms=20_000, reason_end="fwdbtn")
    end_us = t + 20_000_000
    for row_us, skips in [(end_us - 1, 0), (end_us, 0), (end_us + 1, 1)]:
        row = one_row(skip, strategies.event(2, event_time=row_us, event_type="impression"))
        assert (row["session_skips"], row["user_skips_7d"]) == (skips, skips)
        assert row["session_plays"] == 1


def test_the_window_of_play_ends_is_half_open():
    t = strategies.FIRST_US + oracle.HOUR_US
    row = strategies.event(2, event_time=t, event_type="impression")
    for end_us, streams in [(-1, 0), (0, 1), (1, 1)]:
        start_us = t - oracle.WEEK_US + end_us - 40_000_000
        play = strategies.event(1, event_time=start_us, played_ms=40_000)
        assert one_row(play, row)["user_streams_7d"] == streams


@examples(30)
@given(strategies.logs(), st.sampled_from([["user_skips_7d", "history_ms_ago"], ["session_plays"]]))
def test_a_spec_of_some_features_has_the_same_values(log, names):
    spec = log.spec.model_copy(update={"features": tuple(names)})
    full, _ = build(log)
    some, _ = build(log, spec=spec)
    columns = ["split", *ranking.schema(spec)]
    assert some == [{name: row[name] for name in columns} for row in full]


def test_an_empty_log_has_no_rows():
    assert build(strategies.log_of([]))[0] == []
    assert build(strategies.log_of([]), [[], []])[0] == []
    assert merge_partitions([])[0].is_empty()
