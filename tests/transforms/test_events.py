"""From adapted rows to stored events: every reason, repair and kind of duplicate."""

import dataclasses
import datetime
import itertools

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import oracle, strategies
from transforms import events
from transforms.adapters.base import EVENT_SCHEMA, OFFSET, REJECT_REASON

DAY = datetime.date(2026, 1, 5)
NOON = strategies.FIRST_US + 12 * oracle.HOUR_US
DAYS = events.ValidityRules(day=DAY, one_day_only=True)
IMPORT = events.ValidityRules(day=DAY, one_day_only=False)
DAY_US, HOUR_US, MS = oracle.DAY_US, oracle.HOUR_US, 1000
EARLIEST_US = int(datetime.datetime(2002, 1, 1, tzinfo=datetime.UTC).timestamp()) * 10**6
LATEST_US = strategies.FIRST_US + 367 * DAY_US


def adapted(*rows):
    """A table as an adapter returns it."""
    made = [strategies.event(number, **row) for number, row in enumerate(rows)]
    return (
        strategies.to_table(made)
        .select(list(EVENT_SCHEMA))
        .with_columns(
            pl.int_range(pl.len(), dtype=pl.Int64).alias(OFFSET),
            pl.lit(None, pl.String()).alias(REJECT_REASON),
        )
    )


def reason(rules=DAYS, **fields):
    return events.mark_invalid(adapted(fields), rules)[REJECT_REASON][0]


def at(time_us, received_us=None):
    return {"event_time": time_us, "received_time": time_us if received_us is None else received_us}


LONG = "é" * 512  # 1,024 bytes, the longest id
INVALID = {
    "missing_event_id": [{"event_id": None}, {"event_id": ""}],
    "missing_event_type": [{"event_type": None}, {"event_type": ""}],
    "unknown_event_type": [{"event_type": "scrobble"}, {"event_type": "Play"}],
    "missing_user_id": [{"user_id": None}, {"user_id": ""}],
    "missing_event_time": [{"event_time": None, "received_time": NOON}],
    "missing_received_time": [{"received_time": None}],
    "missing_time_quality": [{"time_quality": None}, {"time_quality": ""}],
    "unknown_time_quality": [{"time_quality": "guessed"}],
    "missing_source": [{"source": None}, {"source": ""}],
    "missing_track_id": [
        {"track_id": None},
        {"track_id": ""},
        {"track_id": None, "event_type": "like"},
        {"track_id": None, "artist_id": None, "event_type": "follow"},
    ],
    "event_id_too_long": [{"event_id": LONG + "x"}],
    "user_id_too_long": [{"user_id": LONG + "x"}],
    "track_id_too_long": [{"track_id": LONG + "x"}],
    "received_time_out_of_range": [at(NOON, EARLIEST_US - 1), at(NOON, LATEST_US + 1)],
    "event_time_out_of_range": [at(EARLIEST_US - 1, NOON), at(LATEST_US + 1, NOON)],
    "event_time_ahead_of_received_time": [at(NOON + DAY_US + 1, NOON)],
    "event_time_too_old": [at(NOON - 90 * DAY_US - 1, NOON)],
    "event_time_after_import_day": [],  # below: an import's rule
    "negative_played_ms": [{"played_ms": -1}],
    "played_ms_too_long": [{"played_ms": 86_400_001}],
    "track_duration_ms_not_positive": [{"track_duration_ms": 0}, {"track_duration_ms": -1}],
    "track_duration_ms_too_short": [{"track_duration_ms": 999}],
    "track_duration_ms_too_long": [{"track_duration_ms": 86_400_001}],
    "propensity_out_of_range": [
        {"propensity": 0.0},
        {"propensity": -0.5},
        {"propensity": 1.0000001},
        {"propensity": float("nan")},
    ],
    "negative_position": [{"position": -1}],
    "candidate_set_size_not_positive": [{"candidate_set_size": 0}],
    "source_skip_level_out_of_range": [{"source_skip_level": -1}, {"source_skip_level": 4}],
}
VALID = [
    {},
    {"event_type": "follow", "track_id": None, "artist_id": "a"},
    {"event_id": LONG, "track_id": LONG, "user_id": LONG},
    at(NOON + DAY_US, NOON),
    at(NOON - 90 * DAY_US, NOON),
    {"played_ms": 0},
    {"played_ms": 86_400_000, "track_duration_ms": 86_400_000},
    {"track_duration_ms": 1_000},
    {"propensity": 1.0},
    {"propensity": 5e-324},
    {"position": 0, "candidate_set_size": 1, "source_skip_level": 0},
    {"source_skip_level": 3},
    {"played_ms": None, "track_duration_ms": None, "propensity": None, "artist_id": None},
]


def test_every_reason_has_a_case():
    reasons = {name for rules in (DAYS, IMPORT) for name, _ in events._invalid_when(rules)}
    assert reasons == set(INVALID)


@pytest.mark.parametrize(
    ("wanted", "fields"), [(name, row) for name, rows in INVALID.items() for row in rows]
)
def test_an_invalid_row_has_its_reason(wanted, fields):
    assert reason(**fields) == wanted


@pytest.mark.parametrize("fields", VALID)
def test_a_row_at_the_edge_of_the_valid_has_no_reason(fields):
    assert reason(**fields) is None


def test_an_import_takes_any_age_and_nothing_after_its_day():
    end_us = strategies.FIRST_US + DAY_US
    assert reason(IMPORT, **at(EARLIEST_US)) is None
    assert reason(IMPORT, **at(end_us - 1)) is None
    assert reason(IMPORT, **at(end_us)) == "event_time_after_import_day"
    assert reason(DAYS, **at(NOON - 100 * DAY_US, NOON)) == "event_time_too_old"


def test_the_first_reason_in_the_order_of_the_checks_wins():
    names = [name for name, _ in events._invalid_when(DAYS)]
    for first, second in itertools.combinations([name for name in names if INVALID[name]], 2):
        fields = {**INVALID[second][0], **INVALID[first][0]}
        got = reason(**fields)
        assert names.index(got) <= names.index(second), (first, second, got)


def test_a_reason_that_an_adapter_gave_stays_and_rows_keep_their_order():
    table = adapted({"played_ms": -1}, {}, {"position": -1}, {"played_ms": -1}).with_columns(
        pl.Series(REJECT_REASON, ["bad_played_ms", None, None, "other"], dtype=pl.String())
    )
    marked = events.mark_invalid(table, DAYS)
    assert marked[REJECT_REASON].to_list() == ["bad_played_ms", None, "negative_position", "other"]
    assert marked.drop(REJECT_REASON).equals(table.drop(REJECT_REASON))


def test_bounds_are_those_of_the_rules():
    rules = dataclasses.replace(
        DAYS, max_ahead_ms=5, max_delay_ms=7, max_played_ms=11, max_track_duration_ms=2_000
    )
    assert reason(rules, **at(NOON + 5 * MS, NOON)) is None
    assert reason(rules, **at(NOON + 5 * MS + 1, NOON)) == "event_time_ahead_of_received_time"
    assert reason(rules, **at(NOON - 7 * MS, NOON)) is None
    assert reason(rules, **at(NOON - 7 * MS - 1, NOON)) == "event_time_too_old"
    assert reason(rules, played_ms=11) is None
    assert reason(rules, played_ms=12) == "played_ms_too_long"
    assert reason(rules, track_duration_ms=2_001) == "track_duration_ms_too_long"


def test_an_empty_table_is_marked():
    assert events.mark_invalid(adapted(), DAYS).height == 0


@pytest.mark.parametrize(
    ("received_us", "other"),
    [(-1, True), (0, False), (DAY_US - 1, False), (DAY_US, True)],
)
def test_rows_received_on_another_day_are_of_another_partition(received_us, other):
    table = events.mark_invalid(adapted(at(strategies.FIRST_US + received_us)), DAYS)
    assert table.select(events.of_other_day(DAYS)).to_series()[0] is other


def test_an_import_has_no_other_day_and_a_row_without_arrival_is_of_none():
    far = at(strategies.FIRST_US - 9 * DAY_US)
    assert not adapted(far).select(events.of_other_day(IMPORT).alias("x").any())["x"][0]
    table = adapted({"received_time": None}, {})
    assert table.filter(~events.of_other_day(DAYS)).height == 2


# Repairs


def test_values_outside_an_enumeration_become_its_fallback():
    table = adapted(
        {"reason_end": "exploded", "surface": "fridge", "reason_start": "trackdone"},
        {"reason_end": "trackdone", "surface": None, "reason_start": None},
        {"reason_end": "", "surface": "home", "reason_start": "TRACKDONE"},
    )
    repaired, counts = events.repair(table)
    assert repaired["reason_end"].to_list() == ["unknown", "trackdone", "unknown"]
    assert repaired["surface"].to_list() == ["unknown", None, "home"]
    assert repaired["reason_start"].to_list() == ["trackdone", None, "unknown"]
    assert counts == {"reason_end_unknown": 2, "surface_unknown": 1, "reason_start_unknown": 1}


def test_an_enumeration_without_a_fallback_is_not_repaired():
    repaired, counts = events.repair(adapted({"event_type": "scrobble", "time_quality": "x"}))
    assert repaired["event_type"].to_list() == ["scrobble"]
    assert repaired["time_quality"].to_list() == ["x"]
    assert counts == {}


def test_countries_are_upper_case_and_not_counted():
    repaired, counts = events.repair(adapted({"country": "de"}, {"country": "FR"}, {}))
    assert repaired["country"].to_list() == ["DE", "FR", None]
    assert counts == {}


def test_a_clock_ahead_is_moved_to_the_arrival():
    table = adapted(at(NOON + 1, NOON), at(NOON, NOON), at(NOON - 1, NOON))
    clamped, moved = events.clamp_clock(table)
    assert moved == 1
    assert [row["event_time"] for row in strategies.to_dicts(clamped)] == [NOON, NOON, NOON - 1]
    assert clamped["time_quality"].to_list() == ["derived", "reported", "reported"]
    assert clamped["event_id"].to_list() == table["event_id"].to_list()


# Event ids


def derived(**fields):
    return events.derive_event_ids(adapted({"event_id": None, **fields}))["event_id"][0]


def test_the_same_content_has_the_same_id_and_a_given_id_stays():
    made = events.derive_event_ids(
        adapted({"event_id": None}, {"event_id": "mine"}, {"event_id": None})
    )["event_id"].to_list()
    assert made[0] == made[2] is not None
    assert made[1] == "mine"
    assert made[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "other"},
        {"user_id": "u2"},
        {"event_type": "like"},
        {"track_id": "t2"},
        {"event_time": NOON + 1, "received_time": NOON},
        {"played_ms": 1},
        {"client_id": "c"},
    ],
)
def test_what_tells_two_events_apart_tells_their_ids_apart(fields):
    base = {"event_time": NOON, "received_time": NOON}
    assert derived(**base) != derived(**{**base, **fields})


def test_a_listen_that_was_received_again_later_is_the_same_event():
    base = {"event_time": NOON, "received_time": NOON}
    assert derived(**base) == derived(**{**base, "received_time": NOON + 1})


def test_null_empty_and_zero_are_three_contents():
    assert derived(client_id=None) != derived(client_id="")
    assert derived(played_ms=None) != derived(played_ms=0)
    assert derived(track_id=None) != derived(track_id="")


def test_columns_do_not_run_together():
    assert derived(user_id="ab", track_id="c") != derived(user_id="a", track_id="bc")
    assert derived(track_id=None, client_id="x") != derived(track_id="x", client_id=None)


def test_an_id_does_not_depend_on_the_other_rows_or_the_offset():
    table = adapted({"event_id": None}, {"event_id": None, "track_id": "t2"})
    both = events.derive_event_ids(table)["event_id"].to_list()
    alone = events.derive_event_ids(table[1:])["event_id"].to_list()
    assert both[1:] == alone


# Duplicates


def copies(*rows):
    """STORE_SCHEMA rows of one event id."""
    return [strategies.event(**{"event_id": "e", **row}) for row in rows]


def winners(rows):
    table, dropped, conflicting = events.drop_duplicates(strategies.to_table(rows))
    return strategies.to_dicts(table), dropped, conflicting


def test_the_copy_received_first_wins():
    rows = copies(at(NOON, NOON + 2), at(NOON, NOON + 1), at(NOON, NOON + 3))
    kept, dropped, _ = winners(rows)
    assert [row["received_time"] for row in kept] == [NOON + 1]
    assert dropped == 2


def test_a_retransmission_is_no_conflict_and_another_content_is():
    same = copies(at(NOON, NOON), at(NOON, NOON + 1))
    assert winners(same)[1:] == (1, 0)
    other = copies(at(NOON, NOON), {**at(NOON, NOON + 1), "played_ms": 7})
    assert winners(other)[1:] == (1, 1)
    three = copies({"played_ms": 7}, {"played_ms": 8}, {"played_ms": 8})
    assert winners(three)[1] == 2
    assert winners(three)[2] in (1, 2)  # as either content may win


def test_null_and_empty_are_another_content():
    assert winners(copies({"client_id": None}, {"client_id": ""}))[1:] == (1, 1)
    assert winners(copies({}, {}))[1:] == (1, 0)


def test_ids_are_of_a_user():
    rows = [*copies({}), *copies({"user_id": "u2"})]
    assert winners(rows)[1:] == (0, 0)


def test_the_winner_does_not_depend_on_the_order():
    rows = copies(
        {"track_id": "t1"},
        {"track_id": "t2"},
        {"played_ms": 5},
        {"client_id": ""},
        at(NOON, NOON + 1),
        {"surface": None},
    )
    first = None
    for order in itertools.islice(itertools.permutations(rows), 0, None, 17):
        kept, dropped, conflicting = winners(list(order))
        assert len(kept) == 1
        first = first or (kept, dropped, conflicting)
        assert (kept, dropped, conflicting) == first


def test_nothing_is_dropped_from_an_empty_table():
    assert winners([]) == ([], 0, 0)


def settled(count):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@settled(80)
@given(strategies.partitioned(), st.randoms(use_true_random=False))
def test_duplicates_of_a_log_equal_the_oracle(case, rng):
    log, _ = case
    rows = list(log.events)
    rng.shuffle(rows)
    kept, dropped, _ = winners(rows)
    wanted = oracle.drop_duplicates(log.events)
    assert dropped == len(rows) - len(wanted)

    def plain(some):
        return sorted(
            ({k: v for k, v in row.items() if k != "user_hash"} for row in some), key=oracle.key
        )

    assert plain(kept) == plain(wanted)


# Near duplicates


def flags(*plays, window_ms=54_000):
    rows = [strategies.event(number, **play) for number, play in enumerate(plays)]
    marked = events.mark_near_duplicates(strategies.to_table(rows), window_ms)
    assert marked["event_id"].to_list() == [row["event_id"] for row in rows]
    return marked[events.NEAR_DUPLICATE].to_list()


def play(after_us, client, **fields):
    return {**at(NOON + after_us), "client_id": client, **fields}


@pytest.mark.parametrize(
    ("first", "second", "flagged"),
    [
        (play(0, "a"), play(54_000_000, "b"), True),
        (play(0, "a"), play(54_000_001, "b"), False),
        (play(0, "a"), play(53_999_999, "b"), True),
        (play(0, "a"), play(0, "b"), True),
        (play(0, "a"), play(1, "a"), False),
        (play(0, None), play(1, None), False),
        (play(0, None), play(1, "a"), True),
        (play(0, "a"), play(1, None), True),
        (play(0, "a"), play(1, "b", track_id="t2"), False),
        (play(0, "a"), play(1, "b", user_id="u2"), False),
        (play(0, "a"), play(1, "b", event_type="impression"), False),
        (play(0, "a", event_type="impression"), play(1, "b"), False),
        (play(0, "a"), play(1, "b", surface="radio"), True),
    ],
)
def test_near_duplicates(first, second, flagged):
    assert flags(first, second) == [False, flagged]


def test_a_chain_of_near_duplicates_is_flagged_play_by_play():
    plays = [play(i * 50_000_000, "ab"[i % 2]) for i in range(4)]
    assert flags(*plays) == [False, True, True, True]


def test_only_the_previous_play_of_the_track_counts():
    assert flags(play(0, "a"), play(10, "b"), play(20, "b")) == [False, True, False]
    assert flags(play(0, "a"), play(5, "b", track_id="t2"), play(10, "b")) == [False, False, True]


def test_flags_that_were_there_are_replaced():
    assert flags(play(0, "a", near_duplicate=True)) == [False]


@settled(80)
@given(strategies.logs())
def test_near_duplicates_of_a_log_equal_the_oracle(log):
    table = events.sort_events(strategies.to_table(log.events))
    marked = events.mark_near_duplicates(table, strategies.NEAR_WINDOW_US // 1000)
    rows = strategies.to_dicts(marked)
    assert [row["event_id"] for row in rows] == table["event_id"].to_list()
    wanted = oracle.near_duplicates(log.events, strategies.NEAR_WINDOW_US)
    assert {oracle.key(row) for row in rows if row["near_duplicate"]} == wanted


# Users above the cap, order, collisions


def test_a_user_above_the_cap_on_one_day_is_set_aside_whole():
    midnight = strategies.FIRST_US + DAY_US
    rows = [
        *[strategies.event(i, user_id="u1", **at(midnight - 1 - i)) for i in range(2)],
        *[strategies.event(i + 2, user_id="u1", **at(midnight + i)) for i in range(2)],
        *[strategies.event(i, user_id="u2", **at(midnight + i)) for i in range(3)],
        strategies.event(9, user_id="u2", **at(midnight + 5 * DAY_US)),
    ]
    table = events.sort_events(strategies.to_table(rows))

    def aside(cap):
        return sorted(set(table.filter(events.above_cap(table, cap))["user_id"].to_list()))

    assert aside(1) == ["u1", "u2"]
    assert aside(2) == ["u2"]
    assert aside(3) == []
    assert table.filter(events.above_cap(table, 2)).height == 4


@settled(40)
@given(strategies.logs(), st.integers(1, 4))
def test_users_above_the_cap_equal_the_oracle(log, cap):
    table = events.sort_events(strategies.to_table(log.events))
    above = events.above_cap(table, cap)
    assert len(above) == table.height
    wanted = oracle.above_cap(log.events, cap)
    assert above.to_list() == [user in wanted for user in table["user_id"].to_list()]


def test_store_order_is_user_hash_time_event_id():
    rows = [
        strategies.event(event_id=name, user_id=user, **at(NOON + time))
        for name, user, time in [
            ("b", "u1", 0),
            ("a", "u1", 0),
            ("B", "u1", 0),
            ("z", "u1", -1),
            ("é", "u1", 0),
            ("c", "u2", 5),
            ("c", "u3", -5),
        ]
    ]
    table = events.sort_events(strategies.to_table(rows))
    wanted = sorted(
        strategies.to_dicts(strategies.to_table(rows)),
        key=lambda row: (row["user_hash"], *oracle.store_order(row)),
    )
    assert strategies.to_dicts(table) == wanted
    assert table.equals(events.sort_events(strategies.to_table(rows[::-1])))


def test_users_collide_where_two_share_a_hash():
    rows = [strategies.event(i, user_id=f"u{i // 2}") for i in range(6)]
    table = events.sort_events(strategies.to_table(rows))
    assert events.users_collide(table) is False
    assert events.users_collide(table[:0]) is False
    assert events.users_collide(table[:1]) is False
    clash = table.with_columns(
        pl.when(pl.col("user_id") == "u1")
        .then(table.filter(pl.col("user_id") == "u0")["user_hash"][0])
        .otherwise(pl.col("user_hash"))
        .alias("user_hash")
    )
    assert events.users_collide(events.sort_events(clash)) is True
