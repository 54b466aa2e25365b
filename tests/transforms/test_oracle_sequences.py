"""Sequence rows equal those of the oracle, whatever the log; see tests/oracle.py."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import built, oracle, strategies
from tests.built import build, examples
from transforms.datasets import sequences
from transforms.splits import SPLITS

SPECS = strategies.SPECS["sequences"]
OF_DAYS = [fields for fields in SPECS if fields.get("period") == "day"]
LONG_LOGS = 12  # a spec; more when hunting
T = strategies.FIRST_US + 12 * oracle.HOUR_US
MINUTE, HOUR, DAY = oracle.MINUTE_US, oracle.HOUR_US, oracle.DAY_US


def test_the_oracle_knows_every_column():
    log = strategies.log_of([strategies.event()], {"min_length": 1}, "sequences")
    (row,) = built.wanted_rows(log)[0]
    assert set(sequences.schema(log.spec)) == (set(row) - {"split"}) | {"window_id"}
    assert oracle.BITS == sequences.BITS


@pytest.mark.parametrize("fields", SPECS, ids=range(len(SPECS)))
@pytest.mark.parametrize("given_sessions", [False, True], ids=["gaps", "given"])
def test_rows_of_long_logs_equal_the_oracle(fields, given_sessions):
    built.check_long_logs("sequences", fields, given_sessions, built.check_rows, LONG_LOGS)


@examples(50)
@given(strategies.logs("sequences"))
def test_rows_equal_the_oracle(log):
    built.check_rows(log)


@examples(20)
@given(strategies.partitioned("sequences"))
def test_rows_of_several_partitions_equal_the_oracle(case):
    built.check_partitions(*case)


@examples(20)
@given(strategies.partitioned("sequences"), st.randoms(use_true_random=False))
def test_order_and_partition_do_not_matter(case, random):
    built.check_order(*case, random)


@pytest.mark.parametrize("given_sessions", [False, True], ids=["gaps", "given"])
@pytest.mark.parametrize("fields", OF_DAYS, ids=range(len(OF_DAYS)))
def test_daily_equals_full_where_the_period_is_a_day(fields, given_sessions):
    for packing in ("none", "pack"):
        packed = {**fields, "packing": packing}
        built.check_long_logs("sequences", packed, given_sessions, built.check_daily, 5)


@examples(50)
@given(strategies.logs("sequences"))
def test_every_target_is_one_of_one_row(log):
    rows, counts = build(log)
    targets = Counter(
        (row["user_id"], event_id)
        for row in rows
        for event_id, is_target in zip(row["event_ids"], row["is_target"], strict=True)
        if is_target
    )
    assert set(targets.values()) <= {1}
    assert len({row["window_id"] for row in rows}) == len(rows)
    assert all(row["is_target"][-1] for row in rows)
    assert len(targets) == counts["targets"] == counts["labelled"]
    unknown = Counter(
        row["split"]
        for row in rows
        for index, is_target in zip(row["item_index"], row["is_target"], strict=True)
        if is_target and index == 1
    )
    assert counts["targets_unknown_track"] == {name: unknown[name] for name in SPLITS}
    for name, bit in sequences.BITS.items():
        masks, known = (
            [
                mask & bit
                for row in rows
                for mask, is_target in zip(row[column], row["is_target"], strict=True)
                if is_target
            ]
            for column in ("label_masks", "label_known_masks")
        )
        said = {"unknown": known.count(0), "true": len(masks) - masks.count(0)}
        assert counts["labels"][name] == said


def unpacked(rows):
    """The windows in packed rows, in the form of rows that are not packed, without their ids."""
    windows = []
    for row in rows:
        lists = {name: value for name, value in row.items() if isinstance(value, list)}
        users = lists.pop("user_ids")
        segments, positions = lists.pop("segment_ids"), lists.pop("positions")
        assert sorted(set(segments)) == list(range(1, len(users) + 1))
        for segment, user_id in enumerate(users, start=1):
            at = [place for place, of in enumerate(segments) if of == segment]
            assert at == list(range(at[0], at[-1] + 1)), "a segment is not in one piece"
            assert [positions[place] for place in at] == list(range(len(at)))
            steps = {name: [value[place] for place in at] for name, value in lists.items()}
            windows.append({"split": row["split"], "user_id": user_id, **steps})
    return sorted(windows, key=repr)


@pytest.mark.parametrize("fields", SPECS, ids=range(len(SPECS)))
def test_packed_rows_are_windows_side_by_side(fields):
    for seed in range(8):
        log = strategies.random_log(seed, fields, "sequences")
        packing = log.spec.model_copy(update={"packing": "pack"})
        windows, counts = build(log)
        packed, packed_counts = build(log, spec=packing)
        alone = [
            {name: value for name, value in row.items() if name not in ("window_id", "end_time")}
            for row in windows
        ]
        assert repr(unpacked(packed)) == repr(sorted(alone, key=repr))
        assert all(len(row["event_ids"]) <= packing.length for row in packed)
        assert len({row["window_id"] for row in packed}) == len(packed)
        assert packed_counts["targets"] == counts["targets"]
        assert packed_counts["examples"] == len(packed)


def test_windows_of_two_days_do_not_share_a_packed_row():
    plays = [play(1), play(2, HOUR, user_id="u2"), play(3, DAY)]
    fields = {"packing": "pack", "min_length": 1, "history_days": 1, "length": 10}
    log = strategies.log_of(plays, {**fields, "period": "day"}, "sequences", days=2)
    built.check_daily(log)
    assert [sorted(row["user_ids"]) for row in build(log)[0]] == [["u1"], ["u1", "u2"]]
    log = strategies.log_of(plays, {**fields, "period": "range"}, "sequences", days=2)
    assert [sorted(row["user_ids"]) for row in build(log)[0]] == [["u1", "u2"]]


def one_row(*events, **fields):
    """The only row of some events."""
    log = strategies.log_of(list(events), {"min_length": 1, **fields}, "sequences")
    built.check_rows(log)
    (row,) = build(log)[0]
    return row


def play(number=0, after_us=0, **fields):
    """A play some time after T."""
    return strategies.event(number, event_time=T + after_us, **fields)


@pytest.mark.parametrize(
    ("next_us", "ratio", "actions"),
    [
        (0, 0.0, 0),
        (29_999_999, 0.29999 / 2, 0),
        (30_000_000, 0.15, 1),
        (99_999_999, 0.99999 / 2, 1),
        (100_000_000, 0.5, 1 + 2 + 16),
        (HOUR, 0.5, 1 + 2 + 16),
        (None, 0.5, 1 + 2 + 16),
    ],
)
def test_inputs_say_what_was_known_when_the_next_play_started(next_us, ratio, actions):
    first = play(1, played_ms=100_000, track_duration_ms=200_000, reason_end="fwdbtn")
    following = [] if next_us is None else [play(2, next_us)]
    row = one_row(first, *following)
    assert row["played_ratios"][0] == pytest.approx(ratio)
    assert row["action_masks"][0] == actions
    assert row["label_masks"][0] & 31 == 1 + 2 + 16


@pytest.mark.parametrize(("like_us", "known"), [(0, 32), (MINUTE - 1, 32), (MINUTE, 0)])
def test_a_like_is_an_input_if_it_came_before_the_next_play(like_us, known):
    like = play(2, like_us, event_type="like")
    row = one_row(play(1), like, play(3, MINUTE))
    assert row["action_masks"][0] == known
    assert row["label_masks"][0] & 32 == 32


def test_an_unknown_played_time_stays_unknown_however_long_nothing_followed():
    row = one_row(play(1, track_duration_ms=200_000), play(2, HOUR, track_duration_ms=200_000))
    assert all(math.isnan(ratio) for ratio in row["played_ratios"])
    assert row["action_masks"] == [0, 0]


def test_plays_that_are_not_targets_of_the_row_have_no_labels():
    skip = {"played_ms": 1_000, "reason_end": "fwdbtn"}
    row = one_row(play(1, -2 * DAY, **skip), play(2, **skip))
    assert row["is_target"] == [False, True]
    assert row["label_masks"][0] == row["label_known_masks"][0] == 0
    assert math.isnan(row["rewards"][0])
    assert row["action_masks"] == [28, 28]


@pytest.mark.parametrize("ends", ["trackdone", "fwdbtn"])
def test_the_inputs_of_a_play_longer_than_the_horizon_do_not_depend_on_what_is_built(ends):
    """A later day's first play may start behind everything that this day's build reads."""
    fields = {"period": "day", "min_length": 1, "labels": {"horizon_hours": 1}}
    long = {"played_ms": 7_200_000, "track_duration_ms": 10_800_000, "reason_end": ends}
    first = strategies.event(1, event_time=strategies.FIRST_US + DAY - MINUTE, **long)
    second = strategies.event(2, event_time=strategies.FIRST_US + DAY + 65 * MINUTE)
    log = strategies.log_of([first, second], fields, "sequences", days=2)
    built.check_daily(log)


@pytest.mark.parametrize(("next_us", "actions"), [(HOUR, 1 + 2), (2 * HOUR, 1 + 2 + 16)])
def test_a_play_longer_than_the_session_cap_is_a_skip_when_it_is_over(next_us, actions):
    long = {"played_ms": 7_200_000, "track_duration_ms": 10_800_000, "reason_end": "fwdbtn"}
    fields = {"sessions": {"cap_hours": 1}, "labels": {"horizon_hours": 3}}
    row = one_row(play(1, **long), play(2, next_us), **fields)
    assert row["action_masks"][0] == actions


@pytest.mark.parametrize("hours", [24, 48])
def test_the_oldest_plays_of_a_row_do_not_depend_on_what_is_built(hours):
    """They are further back than sessions look from the day itself."""
    fields = {"period": "day", "min_length": 1, "history_days": 8, "labels": {"horizon_hours": 24}}
    begin = strategies.FIRST_US - 8 * DAY - hours * HOUR
    chain = [
        strategies.event(number, event_time=begin + number * 20 * MINUTE)
        for number in range(hours * 3 + 3)
    ]
    log = strategies.log_of([*chain, play(999)], fields, "sequences")
    assert len(build(log)[0][0]["event_ids"]) > 1
    built.check_daily(log)


def test_no_row_of_train_holds_a_play_of_a_held_out_arm():
    fields = {
        "splits": {"test_from": "2026-01-06", "experiment_holdouts": {"x": ["a"]}},
        "labels": {"horizon_hours": 1},
    }
    old = [
        play(1, -9 * DAY, experiment_id="x", variant="a"),
        play(2, -8 * DAY, experiment_id="x", variant="b"),
        play(3, -8 * DAY),
    ]
    row = one_row(*old, play(4), **fields)
    assert row["split"] == "train"
    assert row["event_ids"] == ["e002", "e003", "e004"]


@pytest.mark.parametrize(("back_us", "is_in"), [(2 * DAY, True), (2 * DAY + 1, False)])
def test_a_row_reaches_back_its_history_days_from_the_start_of_its_period(back_us, is_in):
    old = strategies.event(1, event_time=strategies.FIRST_US - back_us)
    row = one_row(old, play(2), history_days=2)
    assert row["event_ids"] == (["e001", "e002"] if is_in else ["e002"])


def test_the_newest_row_is_full_and_chunks_count_back_from_it():
    plays = [play(number, number * MINUTE) for number in range(7)]
    log = strategies.log_of(plays, {"length": 4, "stride": 3, "min_length": 1}, "sequences")
    built.check_rows(log)
    rows = [("".join(i[-1] for i in row["event_ids"]), row["is_target"]) for row in build(log)[0]]
    assert rows == [
        ("0", [True]),
        ("0123", [False, True, True, True]),
        ("3456", [False, True, True, True]),
    ]
