"""Whatever is registered is held against the future, the past and its own declaration.

A new signal is covered the moment it is registered: nothing here names a feature.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests import jobs
from transforms import store
from transforms.buckets import user_hash
from transforms.datasets.rows import READ_COLUMNS
from transforms.events import NEAR_DUPLICATE, sort_events
from transforms.features import FEATURES, item, registry
from transforms.features.context import FeatureContext
from transforms.features.registry import FAMILIES, WEEK_US, Feature, compute, feature
from transforms.listening import Listening
from transforms.specs import RankingSpec

SPEC = RankingSpec(kind="ranking")
NAMES = tuple(FEATURES)
START = datetime.datetime(2026, 1, 5, 22, tzinfo=datetime.UTC)  # midnight is in the middle
TYPES = ("play", "play", "play", "impression", "impression", "like", "unlike", "save", "hide")
REASONS = ("trackdone", "fwdbtn", None)


def make_events(count: int = 400) -> list[dict[str, Any]]:
    """Events of three users with ties, overlaps, unknown fields, and a burst."""
    rng = np.random.default_rng(3)
    events = []
    for i in range(count):
        kind = TYPES[rng.integers(len(TYPES))]
        minutes = int(rng.integers(0, 60 * 26) if i % 3 else rng.integers(0, 90))
        time = START + datetime.timedelta(minutes=minutes)
        if i % 2:
            time += datetime.timedelta(microseconds=int(rng.integers(0, 3)))
        played = {"played_ms": None, "track_duration_ms": None, "reason_end": None}
        if kind == "play" and i % 11:
            length = int(rng.integers(20_000, 400_000))
            played = {
                "played_ms": int(length * rng.random()),
                "track_duration_ms": length,
                "reason_end": REASONS[rng.integers(3)],
            }
        events.append(
            jobs.event(
                event_id=f"e{i}",
                event_type=kind,
                user_id=f"u{i % 3}",
                track_id=f"t{rng.integers(6)}",
                artist_id=None if i % 7 == 0 else f"a{rng.integers(3)}",
                event_time=time,
                surface=("home", "radio", None)[rng.integers(3)],
                **played,
            )
        )
    return events


def table_of(events: list[dict[str, Any]]) -> pl.DataFrame:
    """A bucket as a build reads it."""
    table = jobs.table(events).with_columns(
        user_hash(pl.col("user_id"), 0), pl.lit(value=False).alias(NEAR_DUPLICATE)
    )
    return sort_events(table)


EVENTS = make_events()
TABLE = table_of(EVENTS)


def features_of(
    table: pl.DataFrame, ids: list[str], names: tuple[str, ...] = NAMES
) -> pl.DataFrame:
    """Features of some examples, in the order of `ids`."""
    day, one = START.date(), datetime.timedelta(days=1)
    snapshots = item.snapshots(store.item_day_counts(TABLE), day - one, day + 3 * one)
    listening = Listening.of(table.select(READ_COLUMNS), SPEC.sessions.rule, SPEC.labels.play_rule)
    where = {each: row for row, each in enumerate(table["event_id"].to_list())}
    rows = np.array([where[each] for each in ids], dtype=np.int64)
    return compute(FeatureContext.at(listening, rows, 10, snapshots, ("canonical",)), names)


def examples() -> Iterator[dict[str, Any]]:
    """Plays and impressions, those at one instant with others among them."""
    shown = [event for event in EVENTS if event["event_type"] in ("play", "impression")]
    yield from itertools.islice(shown, 0, None, 4)


@pytest.fixture(scope="module")
def compared() -> dict[str, pl.DataFrame]:
    """The features of the examples: as they are, and each in a world with another future."""
    wanted = list(examples())
    ids = [event["event_id"] for event in wanted]
    worlds: dict[str, list[pl.DataFrame]] = {"nothing else": [], "another": [], "forgotten": []}
    for own in wanted:
        now = own["event_time"]
        before = [event for event in EVENTS if event["event_time"] < now]
        # How its own play ends is not known yet either.
        blank = {**own, "played_ms": None, "reason_end": None, "skipped": None}
        worlds["nothing else"].append(features_of(table_of([*before, blank]), [own["event_id"]]))
        flipped = {**own, "played_ms": 1, "reason_end": "fwdbtn", "skipped": True}
        noise = [
            jobs.event(
                event_id=f"n{i}",
                event_type=TYPES[i % len(TYPES)],
                user_id=own["user_id"],
                track_id=own["track_id"],
                artist_id=own["artist_id"],
                event_time=now + datetime.timedelta(microseconds=i // 2),
                played_ms=29_999 + i,
            )
            for i in range(40)
        ]
        worlds["another"].append(
            features_of(table_of([*before, flipped, *noise]), [own["event_id"]])
        )
        reach = datetime.timedelta(microseconds=SPEC.left_context_us)
        old = [event for event in EVENTS if event["event_time"] >= now - reach]
        ancient = [
            {**event, "event_id": f"old{i}", "event_time": event["event_time"] - 2 * reach}
            for i, event in enumerate(EVENTS)
        ]
        worlds["forgotten"].append(features_of(table_of([*old, *ancient]), [own["event_id"]]))
    # A play that is over by t shows how it went, so what is cut is only what is not: see `blank`.
    return {"as it is": features_of(TABLE, ids)} | {
        name: pl.concat(parts) for name, parts in worlds.items()
    }


@pytest.mark.parametrize("world", ["nothing else", "another", "forgotten"])
@pytest.mark.parametrize("name", NAMES)
def test_a_feature_knows_nothing_of_the_future_and_of_what_is_long_past(
    compared: dict[str, pl.DataFrame], name: str, world: str
) -> None:
    as_it_is, other = compared["as it is"][name], compared[world][name]
    assert as_it_is.to_list() == other.to_list()


@pytest.mark.parametrize("name", NAMES)
def test_a_feature_is_what_it_declares(compared: dict[str, pl.DataFrame], name: str) -> None:
    declared, column = FEATURES[name].feature, compared["as it is"][name]
    assert column.dtype == declared.type
    assert declared.nullable or column.null_count() == 0
    assert declared.family in FAMILIES
    assert declared.description.endswith(".")
    assert declared.unit
    if name.rsplit("_", 1)[-1] in ("ms", "h"):
        assert declared.unit == name.rsplit("_", 1)[-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_feature_tells_examples_apart(compared: dict[str, pl.DataFrame], name: str) -> None:
    """One that is the same everywhere here is not tested by anything above."""
    if FEATURES[name].feature.family != "item":  # no snapshot knows of the first day
        assert compared["as it is"][name].n_unique() > 1


def test_the_order_of_input_rows_does_not_matter(compared: dict[str, pl.DataFrame]) -> None:
    shuffled = table_of(list(reversed(EVENTS)))
    ids = [event["event_id"] for event in examples()]
    assert features_of(shuffled, ids).equals(compared["as it is"])


def test_the_rig_catches_a_feature_that_counts_its_own_play(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def played_so_far(context: FeatureContext) -> dict[str, Any]:
        ends = context.end_us[context.rows]
        return {"leaky": context.plays.count(context.row_user, ends + 1, WEEK_US)}

    monkeypatch.setattr(registry, "FEATURES", dict(FEATURES))
    feature(Feature("leaky", pl.Int64(), "user", "Plays until the end of this one."))(played_so_far)
    differ = 0
    for own in examples():
        before = [event for event in EVENTS if event["event_time"] < own["event_time"]]
        ids = [own["event_id"]]
        other = features_of(table_of([*before, own]), ids, ("leaky",))
        differ += not features_of(TABLE, ids, ("leaky",)).equals(other)
    assert differ > 5


def test_a_declaration_that_is_wrong_is_refused_at_import() -> None:
    with pytest.raises(ValueError, match="family"):
        feature(Feature("x", pl.Int64(), "fortune", "What will be."))(lambda _: {})
    with pytest.raises(ValueError, match="registered twice"):
        feature(Feature(NAMES[0], pl.Int64(), "user", "Again."))(lambda _: {})
    assert "x" not in FEATURES
