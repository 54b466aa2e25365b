"""Ranking rows equal those of the oracle, whatever the log; see tests/oracle.py."""

import dataclasses
import datetime

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests import oracle, strategies
from transforms import events as events_module
from transforms import store
from transforms.datasets import ranking
from transforms.features import FEATURES, item

LONG_LOGS = 50  # a spec; more when hunting


def examples(count):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        # Add Phase.shrink when hunting: it takes minutes on logs.
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def table_of(part):
    """A partition's bucket as a build reads it."""
    return events_module.sort_events(strategies.to_table(part)).select(ranking.READ_COLUMNS)


def build(log, parts, known=None, within=None, spec=None):
    """(rows, counts) of a build over parts; `known`: what the item counts see."""
    within = within or log.within
    seen = [row for part in parts for row in part] if known is None else known
    day = datetime.timedelta(days=1)
    snapshots = item.snapshots(
        store.sum_item_days([store.item_day_counts(strategies.to_table(seen))]),
        strategies.FIRST_DAY - day,
        strategies.FIRST_DAY + 5 * day,
    )
    prepared, _ = ranking.prepare_events([table_of(part) for part in parts])
    built = ranking.build_rows(
        prepared, spec or log.spec, ranking.BuildRange(**dataclasses.asdict(within)), snapshots
    )
    assert dict(built.rows.schema) == ranking.schema(spec or log.spec)
    order = [(row["user_id"], row["event_id"]) for row in prepared.to_dicts()]
    rows = strategies.to_dicts(built.rows)
    places = [order.index((row["user_id"], row["event_id"])) for row in rows]
    assert places == sorted(places), "rows are not in the order of the events"
    rows.sort(key=lambda row: (row["user_id"], row["event_time"], row["event_id"]))
    return rows, built.counts


def assert_equal_rows(got, wanted):
    """Row for row, column for column; session ids as a partition of the rows."""
    assert [row["event_id"] for row in got] == [row["event_id"] for row in wanted]
    got_of, wanted_of = {}, {}
    for left, right in zip(got, wanted, strict=True):
        assert set(left) == set(right)
        differing = {
            name: (left[name], right[name])
            for name in left
            if name != "session_id" and left[name] != right[name]
        }
        assert not differing, f"{left['event_id']}: (built, oracle) {differing}"
        a, b = left["session_id"], right["session_id"]
        assert (a is None) == (b is None), f"{left['event_id']}: session {a}, oracle {b}"
        assert got_of.setdefault(b, a) == a, f"{left['event_id']}: one session has two ids"
        assert wanted_of.setdefault(a, b) == b, f"{left['event_id']}: two sessions share an id"


def test_the_oracle_knows_every_column():
    assert set(FEATURES) == set(oracle.FEATURES)
    assert set(ranking.schema(strategies.make_spec({}))) == {
        *oracle.CARRIED,
        "session_id",
        *oracle.FEATURES,
        *oracle.LABELS,
    }


def check_rows(log):
    """Rows and counts of a build equal the oracle's."""
    counted = oracle.prepared(log.events)
    rows, counts = build(log, [log.events])
    assert_equal_rows(rows, oracle.ranking_rows(counted, log.rules, log.within))
    possible = [event for event in counted if oracle.is_example(event, log.rules, log.within)]
    assert counts.get("examples", 0) + counts.get("immature", 0) == len(possible)
    assert counts.get("examples", 0) == len(rows)


def smallest(log, check):
    """The log without every event that the failure of `check` does not need, or None."""

    def fails(events):
        try:
            check(dataclasses.replace(log, events=events))
        except AssertionError:
            return True
        return False

    kept = log.events
    if not fails(kept):
        return None
    for event in list(kept):
        without = [other for other in kept if other is not event]
        if fails(without):
            kept = without
    return dataclasses.replace(log, events=kept)


@pytest.mark.parametrize("spec", strategies.SPECS, ids=range(len(strategies.SPECS)))
@pytest.mark.parametrize("given_sessions", [False, True], ids=["gaps", "given"])
def test_rows_of_long_logs_equal_the_oracle(spec, given_sessions):
    for seed in range(LONG_LOGS):
        log = strategies.random_log(seed, spec, given=given_sessions)
        found = smallest(log, check_rows)
        if found is not None:
            print(found.rules, found.within, *found.events, sep="\n")
            check_rows(found)


@examples(100)
@given(strategies.logs())
def test_rows_equal_the_oracle(log):
    check_rows(log)


@examples(100)
@given(strategies.partitioned())
def test_rows_of_several_partitions_equal_the_oracle(case):
    log, parts = case
    counted = oracle.prepared(log.events)
    rows, _ = build(log, parts, known=counted)
    assert_equal_rows(rows, oracle.ranking_rows(counted, log.rules, log.within))


@examples(60)
@given(strategies.partitioned(), st.randoms(use_true_random=False))
def test_order_and_partition_do_not_matter(case, random):
    log, parts = case
    once, counts = build(log, parts)
    for part in parts:
        random.shuffle(part)
    random.shuffle(parts)
    assert build(log, parts) == (once, counts)


@examples(40)
@given(strategies.partitioned())
def test_prepare_events_counts_what_it_leaves_out(case):
    log, parts = case
    prepared, counts = ranking.prepare_events([table_of(part) for part in parts])
    kept = oracle.drop_duplicates(log.events)
    counted = oracle.prepared(log.events)
    assert prepared.height == len(counted)
    assert counts["duplicate_across_partitions"] == len(log.events) - len(kept)
    assert counts["near_duplicate"] == len(kept) - len(counted)


def daily(log, cut):
    """Rows of the days of the range, built one by one; `cut`: from what the spec says it reads."""
    rows = []
    within = log.within
    for first_us in range(within.first_us, within.end_us, oracle.DAY_US):
        end_us = first_us + oracle.DAY_US
        part = log.events
        if cut:
            left, right = log.spec.left_context_us, log.spec.right_context_us
            part = [
                event for event in part if first_us - left <= event["event_time"] < end_us + right
            ]
        day = dataclasses.replace(within, first_us=first_us, end_us=end_us)
        rows += build(log, [part], known=log.events, within=day)[0]
    return sorted(rows, key=lambda row: (row["user_id"], row["event_time"], row["event_id"]))


@examples(60)
@given(strategies.logs())
def test_daily_equals_full(log):
    assert daily(log, cut=False) == build(log, [log.events])[0]


@examples(60)
@given(strategies.logs(given=False))
def test_daily_equals_full_from_the_days_context_alone(log):
    assert daily(log, cut=True) == build(log, [log.events])[0]


@examples(40)
@given(strategies.logs())
def test_daily_equals_full_from_the_days_context_alone_where_sessions_are_given(log):
    assert daily(log, cut=True) == build(log, [log.events])[0]


@pytest.mark.parametrize("given_sessions", [False, True], ids=["gaps", "given"])
def test_daily_equals_full_on_long_logs(given_sessions):
    def check(log):
        assert daily(log, cut=True) == build(log, [log.events])[0]

    for seed, spec in enumerate(strategies.SPECS * 8):
        log = strategies.random_log(seed, spec, given=given_sessions)
        found = smallest(log, check)
        if found is not None:
            print(found.rules, found.within, *found.events, sep="\n")
            check(found)


@pytest.mark.parametrize("spec", [{}, {"sessions": {"cap_hours": 1}}], ids=["cap24h", "cap1h"])
def test_a_play_that_started_before_the_window_and_ended_in_it_counts(spec):
    """Also in a daily build: its context holds the start of such a play."""
    t = strategies.FIRST_US
    old = strategies.event(1, event_time=t - oracle.WEEK_US - 1, played_ms=60_000)
    row = strategies.event(2, event_time=t, event_type="impression")
    made = strategies.make_spec(spec)
    within = oracle.Range(t, t + oracle.DAY_US, t + 30 * oracle.DAY_US)
    log = strategies.Log(made, strategies.rules_of(made), within, [old, row])
    assert build(log, [log.events])[0][0]["user_streams_7d"] == 1
    assert daily(log, cut=True)[0]["user_streams_7d"] == 1


def test_a_given_session_that_was_silent_before_the_days_context_starts_again():
    """What is known of an event depends on its left context alone, in given sessions too."""
    t = strategies.FIRST_US
    spec = strategies.make_spec({})
    log = strategies.Log(
        spec,
        strategies.rules_of(spec),
        oracle.Range(t, t + oracle.DAY_US, t + 30 * oracle.DAY_US),
        [
            strategies.event(
                number, event_time=time_us, event_type="impression", source_session_id="x"
            )
            for number, time_us in enumerate([t - 8 * oracle.DAY_US, t - oracle.HOUR_US, t])
        ],
    )
    full, _ = build(log, [log.events])
    assert full[0]["session_age_ms"] == 3_600_000
    assert daily(log, cut=True) == full


@examples(100)
@given(st.data())
def test_features_do_not_see_the_present_or_the_future(data):
    check_point_in_time(data, data.draw(strategies.logs(mature=True, given=False)))


@examples(100)
@given(st.data())
def test_features_do_not_see_the_present_or_the_future_where_sessions_are_given(data):
    check_point_in_time(data, data.draw(strategies.logs(mature=True)))


def check_point_in_time(data, log):
    """Features of a row stay, whatever happens at its instant and after."""
    rows, _ = build(log, [log.events])
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
    changed = dataclasses.replace(log, events=[*past, other, *later])
    again = next(
        found
        for found in build(changed, [changed.events])[0]
        if oracle.key(found) == oracle.key(row)
    )
    assert {name: again[name] for name in oracle.FEATURES} == {
        name: row[name] for name in oracle.FEATURES
    }
    assert (again["session_id"] is None) == (row["session_id"] is None)
    at_once = [event for event in [*log.events, *later] if event["event_time"] == t]
    if all(event["user_id"] != row["user_id"] for event in at_once if event is not itself):
        assert again["session_id"] == row["session_id"]


def one_row(*events, **rules):
    """The row of the last event; rules are those of the default spec."""
    spec = strategies.make_spec(rules)
    within = oracle.Range(
        strategies.FIRST_US,
        strategies.FIRST_US + oracle.DAY_US,
        strategies.FIRST_US + 30 * oracle.DAY_US,
    )
    log = strategies.Log(spec, strategies.rules_of(spec), within, list(events))
    rows, _ = build(log, [log.events])
    assert_equal_rows(rows, oracle.ranking_rows(log.events, log.rules, within))
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
    full, _ = build(log, [log.events])
    some, _ = build(log, [log.events], spec=spec)
    columns = ranking.schema(spec)
    assert some == [{name: row[name] for name in columns} for row in full]


def test_an_empty_log_has_no_rows():
    spec = strategies.make_spec({})
    within = oracle.Range(strategies.FIRST_US, strategies.FIRST_US + oracle.DAY_US, 0)
    log = strategies.Log(spec, strategies.rules_of(spec), within, [])
    assert build(log, [[]])[0] == []
    assert isinstance(ranking.prepare_events([table_of([]), table_of([])])[0], pl.DataFrame)
