"""Nothing behind the border of a split has a part in its rows: not what happens there, nor how a
play goes that is not over by then. Held against every kind of dataset.
"""

import dataclasses
import random

import pytest

from tests import built, oracle, strategies

LOGS = 25  # a spec; more when hunting
MINUTE, HOUR, DAY = oracle.MINUTE_US, oracle.HOUR_US, oracle.DAY_US
BORDER_US = strategies.FIRST_US + DAY
_TEST = {"test_from": "2026-01-06"}

CENSORED = {"splits": {**_TEST, "open_labels": "censor"}, "min_length": 1}
DRAWN = {"negatives": {"sources": [{"type": "uniform", "count": 1}]}}
# A session is over at its cap, whatever goes on.
OF_KIND = {
    "sequences": {"min_length": 1},
    "sessions": {"sessions": {"cap_hours": 1}},
    "retrieval": DRAWN,
}
CASES = [
    (kind, fields)
    for kind, specs in strategies.SPECS.items()
    for fields in specs
    if {"validation_from", "test_from"} & fields.get("splits", {}).keys()
]


def other_future(log, border_us, seed):
    """The log with other events at and behind an instant, and other ends of the plays that go on
    then."""
    rng = random.Random(seed)
    kept = []
    for event in log.events:
        if event["event_time"] >= border_us:
            continue
        if oracle.over_us(event) > border_us:
            least_ms = (border_us - event["event_time"]) // 1000 + 1
            event = {
                **event,
                "played_ms": least_ms + rng.choice([0, 1, 30_000, 240_000, 3_600_000]),
                "reason_end": rng.choice([None, "fwdbtn", "trackdone"]),
            }
        kept.append(event)
    size, deltas = rng.choice([0, 5, 20]), [0, 1, MINUTE, HOUR, 5 * HOUR, DAY]
    new = strategies.events(rng.choice, size, log.rules, [border_us], deltas, prefix="~~")
    return dataclasses.replace(log, events=[*kept, *new])


def marked(log, border_us):
    """Keys of the plays before an instant that are marked as stamped when a device came online."""
    counted = [event for event in log.events if not event["near_duplicate"]]
    early = {oracle.key(event) for event in counted if event["event_time"] < border_us}
    return oracle.sync_bursts(counted) & early


def rows_before(log, splits):
    return [row for row in built.build(log)[0] if row["split"] in splits]


@pytest.mark.parametrize(("kind", "fields"), CASES, ids=range(len(CASES)))
def test_no_row_depends_on_what_comes_behind_the_border_of_its_split(kind, fields):
    compared = 0
    for seed in range(LOGS):
        log = strategies.random_log(seed, fields, kind, size=40)
        for splits, border_us in [
            (("train",), log.within.validation_us or log.within.test_us),
            (("train", "validation"), log.within.test_us),
        ]:
            if border_us is None:
                continue
            other = other_future(log, border_us, seed)
            if marked(other, border_us) != marked(log, border_us):
                continue  # the one exception: see docs/datasets.md, "What may look ahead"
            found = rows_before(log, splits)
            built.assert_same(rows_before(other, splits), found)
            compared += len(found)
    assert compared


def only_row(*events, kind="sequences", fields=CENSORED):
    log = strategies.log_of(list(events), fields, kind, days=2)
    built.check_rows(log)
    return next(row for row in built.build(log)[0] if row["split"] == "train")


@pytest.mark.parametrize("next_us", [None, 1, MINUTE])
def test_the_newest_play_of_a_censored_row_is_known_up_to_the_border(next_us):
    """It started 40 minutes before, and a like and its own end come after."""
    long = {"played_ms": 45 * 60_000, "track_duration_ms": 50 * 60_000, "reason_end": "fwdbtn"}
    first = strategies.event(1, event_time=BORDER_US - 40 * MINUTE, **long)
    like = strategies.event(2, event_time=BORDER_US, event_type="like")
    later = [] if next_us is None else [strategies.event(3, event_time=BORDER_US + next_us)]
    row = only_row(first, like, *later)
    assert row["played_ratios"] == [40 / 50]
    assert row["action_masks"] == [1 + 2]
    assert row["label_known_masks"] == [0]


def test_a_row_of_the_next_split_knows_how_a_censored_play_went_on():
    long = {"played_ms": 45 * 60_000, "track_duration_ms": 50 * 60_000, "reason_end": "fwdbtn"}
    first = strategies.event(1, event_time=BORDER_US - 40 * MINUTE, **long)
    second = strategies.event(2, event_time=BORDER_US + HOUR)
    log = strategies.log_of([first, second], CENSORED, "sequences", days=2)
    built.check_rows(log)
    ratios = {row["split"]: row["played_ratios"][0] for row in built.build(log)[0]}
    assert ratios == {"train": 40 / 50, "test": 45 / 50}


@pytest.mark.parametrize(("over_us", "is_open"), [(0, False), (1000, True)])
@pytest.mark.parametrize("kind", ["ranking", "sequences", "sessions", "retrieval"])
def test_a_row_whose_play_is_over_behind_the_border_has_open_labels(kind, over_us, is_open):
    """Its label window closes before it."""
    fields = {"labels": {"horizon_hours": 0.5}, "splits": {**_TEST, "gap_hours": 0}}
    fields |= OF_KIND.get(kind, {})
    begun_us = BORDER_US - 2 * HOUR
    play = strategies.event(1, event_time=begun_us, played_ms=(2 * HOUR + over_us) // 1000)
    shown = strategies.event(2, event_time=begun_us, event_type="impression")
    log = strategies.log_of([shown, play][kind != "ranking" :], fields, kind, days=2)
    built.check_rows(log)
    rows, counts = built.build(log)
    assert counts["split_dropped"]["label_window"] == is_open
    assert len(rows) == (not is_open)


@pytest.mark.parametrize("positive", ["liked", "saved"])
@pytest.mark.parametrize(
    ("after_us", "is_train"), [(2 * HOUR - 1, False), (HOUR, False), (2 * HOUR, True)]
)
def test_an_arm_within_both_horizons_of_a_liked_play_keeps_it_out_of_train(
    positive, after_us, is_train
):
    """A later positive may be liked only then, and the row says whether it is one."""
    kind = {"liked": "like", "saved": "save"}[positive]
    t = strategies.FIRST_US + HOUR
    play = strategies.event(1, event_time=t)
    like = strategies.event(2, event_time=t + MINUTE, event_type=kind)
    held = strategies.event(
        3, event_time=t + after_us, event_type="hide", experiment_id="x", variant="a"
    )
    fields = {
        "positive": positive,
        "labels": {"horizon_hours": 1},
        **DRAWN,
        "splits": {**_TEST, "experiment_holdouts": {"x": ["a"]}},
    }
    log = strategies.log_of([play, like, held], fields, "retrieval", days=2)
    built.check_rows(log)
    rows, counts = built.build(log)
    assert len(rows) == is_train
    assert counts["split_dropped"]["experiment_holdout"] == (not is_train)


@pytest.mark.parametrize(("after_us", "is_train"), [(-1, False), (0, True)])
def test_an_arm_behind_the_border_does_not_decide_about_a_censored_row(after_us, is_train):
    fields = {
        "splits": {**_TEST, "open_labels": "censor", "experiment_holdouts": {"x": ["a"]}},
        "labels": {"horizon_hours": 6},
    }
    row = strategies.event(1, event_time=BORDER_US - HOUR, event_type="impression")
    held = strategies.event(
        2, event_time=BORDER_US + after_us, event_type="like", experiment_id="x", variant="a"
    )
    log = strategies.log_of([row, held], fields, days=2)
    built.check_rows(log)
    assert len(built.build(log)[0]) == is_train
