"""Tallies: the same counts as those made row by row, however the rows are bundled."""

import datetime
import json
import math
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import counts, tallies
from transforms.datasets.sequences import BITS
from transforms.manifest import ColumnEntry

UTC = datetime.UTC
MONDAY = datetime.datetime(2026, 1, 5, tzinfo=UTC)


def column(name, kind, family, identifier=False):
    return ColumnEntry(name=name, type=kind, family=family, identifier=identifier)


COLUMNS = (
    column("event_time", "timestamp[us, tz=UTC]", "context"),
    column("user_id", "string", "context", identifier=True),
    column("track_id", "string", "context", identifier=True),
    column("surface", "string", "context"),
    column("experiment_id", "string", "context"),
    column("variant", "string", "context"),
    column("session_id", "int64", "session", identifier=True),
    column("premium", "bool", "context"),
    column("item_plays_7d", "int64", "item"),
    column("share", "double", "user"),
    column("history_track_ids", "list<string>", "history", identifier=True),
    column("label_status", "string", "label"),
    column("label_played", "bool", "label"),
    column("label_played_ms", "int64", "label"),
    column("label_completion", "double", "label"),
    column("label_reward", "double", "label"),
)
SCHEMA = {
    "event_time": pl.Datetime("us", "UTC"),
    "session_id": pl.Int64,
    "premium": pl.Boolean,
    "item_plays_7d": pl.Int64,
    "share": pl.Float64,
    "history_track_ids": pl.List(pl.String),
    "label_played": pl.Boolean,
    "label_played_ms": pl.Int64,
    "label_completion": pl.Float64,
    "label_reward": pl.Float64,
}
SCHEMA = {c.name: SCHEMA.get(c.name, pl.String) for c in COLUMNS}
COVERED = ("surface", "experiment_id", "variant", "premium", "item_plays_7d", "share",
           "history_track_ids")  # fmt: skip
LABELS = ("label_played", "label_played_ms", "label_completion", "label_reward")


def maybe(values):
    return st.one_of(st.none(), values)


@st.composite
def ranking_rows(draw):
    rows = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "event_time": st.sampled_from([0, 1, 86_399, 86_400, 200_000]).map(
                        lambda s: MONDAY + datetime.timedelta(seconds=s)
                    ),
                    "user_id": st.sampled_from(["u1", "u2", "u3"]),
                    "track_id": st.sampled_from(["t1", "t2"]),
                    "surface": maybe(st.sampled_from(["home", "radio"])),
                    "experiment_id": maybe(st.sampled_from(["e1", "e2"])),
                    "variant": maybe(st.sampled_from(["a", "b"])),
                    "session_id": maybe(st.integers(1, 2)),
                    "premium": maybe(st.booleans()),
                    "item_plays_7d": maybe(st.integers(0, 9)),
                    "share": maybe(st.sampled_from([0.0, -0.0, 0.5])),
                    "history_track_ids": maybe(st.lists(st.just("t1"), max_size=2)),
                    "label_status": st.sampled_from(["mature", "censored"]),
                    "label_played": maybe(st.booleans()),
                    "label_played_ms": maybe(st.integers(0, 1 << 40)),
                    "label_completion": maybe(st.floats(0, 1.5)),
                    "label_reward": maybe(st.floats(-5, 5)),
                }
            ),
            max_size=12,
        )
    )
    for row in rows:  # a session is of one user
        if row["session_id"] is not None:
            row["session_id"] += 10 * int(row["user_id"][1:])
    return rows


def table(rows):
    return pl.DataFrame(rows, schema=SCHEMA)


def bin_of(number):
    """The lower edge of a doubling bin, by counting up."""
    edge = 0
    while number >= (edge * 2 or 1):
        edge = edge * 2 or 1
    return str(edge)


def is_nonzero(value):
    return value is not None and bool(value)


def slowly(rows):
    """The tallies of ranking rows, one row at a time."""

    def by(axis, subset=rows):
        keys = {
            "days": lambda row: row["event_time"].date().isoformat(),
            "surfaces": lambda row: row["surface"] or "unknown",
        }
        groups = {}
        for row in subset:
            groups.setdefault(keys[axis](row), []).append(row)
        return groups

    def label(name, group):
        known = [row[name] for row in group if row[name] is not None]
        if name == "label_played":
            return {"known": len(known), "true": sum(known)}
        if name == "label_played_ms":
            return {"known": len(known), "sum": sum(known)}
        return {"known": len(known), "sum_micro": sum(round(value * 1e6) for value in known)}

    def coverage(name, group):
        values = [row[name] for row in group]
        return {
            "known": sum(value is not None for value in values),
            "nonzero": sum(map(is_nonzero, values)),
        }

    def arm(group):
        rewards = [row["label_reward"] for row in group if row["label_reward"] is not None]
        return {
            "rows": len(group),
            "users": len({row["user_id"] for row in group}),
            "reward_known": len(rewards),
            "reward_sum_micro": sum(round(reward * 1e6) for reward in rewards),
        }

    experiments = {}
    for name in {row["experiment_id"] for row in rows} - {None}:
        inside = [row for row in rows if row["experiment_id"] == name]
        arms = {row["variant"] or "unknown" for row in inside}
        experiments[name] = {
            "users": len({row["user_id"] for row in inside}),
            "variants": {
                v: arm([row for row in inside if (row["variant"] or "unknown") == v]) for v in arms
            },
        }
    sessions = Counter(row["session_id"] for row in rows if row["session_id"] is not None)
    heard = [row["label_completion"] for row in rows if row["label_played"]]
    groups = {True: "positive", False: "not played"}
    popularity = {}
    for row in rows:
        if row["label_played"] is not None:
            group = popularity.setdefault(groups[row["label_played"]], Counter())
            group[bin_of(row["item_plays_7d"] or 0)] += 1
    return {
        "rows": len(rows),
        "users": len({row["user_id"] for row in rows}),
        "days": {key: len(group) for key, group in by("days").items()},
        "surfaces": {key: len(group) for key, group in by("surfaces").items()},
        "status": dict(Counter(row["label_status"] for row in rows)),
        "labels": {
            name: {
                axis: {key: label(name, group) for key, group in by(axis).items()}
                for axis in ("days", "surfaces")
            }
            for name in LABELS
        },
        "features": {
            name: {"days": {key: coverage(name, group) for key, group in by("days").items()}}
            for name in COVERED
        },
        "histograms": {
            "session_rows": dict(Counter(bin_of(number) for number in sessions.values())),
            "play_percent": dict(
                Counter(
                    str(min(100, 5 * math.floor(share * 20)))
                    for share in heard
                    if share is not None
                )
            ),
        },
        "popularity": popularity,
        "experiments": experiments,
    }


@given(ranking_rows())
def test_it_counts_what_counting_row_by_row_counts(rows):
    assert tallies.tally(table(rows), "ranking", COLUMNS) == slowly(rows)


@given(ranking_rows(), st.permutations(["u1", "u2", "u3"]), st.integers(0, 3))
def test_tallies_of_disjoint_listeners_add_up(rows, users, cut):
    whole = tallies.tally(table(rows), "ranking", COLUMNS)
    parts = [
        tallies.tally(table([r for r in rows if r["user_id"] in some]), "ranking", COLUMNS)
        for some in (users[:cut], users[cut:])
    ]
    added = counts.total(parts)
    assert counts.total([whole]) == added
    assert json.loads(json.dumps(added)) == added  # keys are strings


@given(ranking_rows())
def test_everything_is_an_integer(rows):
    def walk(value):
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
            for each in value.values():
                walk(each)
        else:
            assert type(value) is int

    walk(tallies.tally(table(rows), "ranking", COLUMNS))


def test_sums_are_wide_enough_and_rounded_row_by_row():
    rows = [
        {"event_time": MONDAY, "user_id": "u", "label_reward": 4e-7, "label_played_ms": 1 << 61}
    ] * 3
    found = tallies.tally(pl.DataFrame(rows, schema=SCHEMA), "ranking", COLUMNS)["labels"]
    assert found["label_reward"]["days"]["2026-01-05"] == {"known": 3, "sum_micro": 0}
    assert found["label_played_ms"]["days"]["2026-01-05"]["sum"] == 3 << 61


@pytest.mark.parametrize("power", [1, 2, 10, 31, 52])
def test_doubling_bins_are_exact_at_their_edges(power):
    edge = 1 << power
    plays = [edge - 1, edge, edge + 1]
    rows = table(
        [
            {"event_time": MONDAY, "user_id": "u", "label_played": True, "item_plays_7d": number}
            for number in plays
        ]
    )
    found = tallies.tally(rows, "ranking", COLUMNS)["popularity"]["positive"]
    assert found == Counter(map(bin_of, plays))


def test_popularity_of_negatives_is_that_of_their_tracks():
    rows = table(
        [
            {"event_time": MONDAY, "user_id": "u", "track_id": "hit", "label_played": True},
            {"event_time": MONDAY, "user_id": "u", "track_id": "new", "label_played": True},
        ]
    ).with_columns(
        neg_track_ids=pl.Series([["rare", "hit"], []], dtype=pl.List(pl.String)),
        neg_types=pl.Series([["uniform", "popularity"], []], dtype=pl.List(pl.String)),
    )
    plays = pl.DataFrame({"track_id": ["hit", "rare"], "plays": [1000, 3]})
    found = tallies.tally(rows, "retrieval", COLUMNS, plays)["popularity"]
    assert found == {
        "positive": {"512": 1, "0": 1},
        "uniform": {"2": 1},
        "popularity": {"512": 1},
    }


SEQUENCE_COLUMNS = (
    column("user_id", "string", "context", identifier=True),
    column("window_id", "int64", "sequence", identifier=True),
    column("track_ids", "list<string>", "sequence", identifier=True),
    column("event_times", "list<timestamp[us, tz=UTC]>", "sequence"),
    column("surfaces", "list<string>", "sequence"),
    column("played_ratios", "list<double>", "sequence"),
    column("is_target", "list<bool>", "split"),
    column("label_masks", "list<int64>", "label"),
    column("label_known_masks", "list<int64>", "label"),
    column("rewards", "list<double>", "label"),
)


def sequences():
    """One window over midnight: a play before, and a target on each side."""
    minutes = [-600, -1, 1]
    liked, streamed = BITS["liked"], BITS["streamed_30s"]
    midnight = MONDAY + datetime.timedelta(days=1)
    return pl.DataFrame(
        {
            "user_id": ["u"],
            "window_id": [7],
            "track_ids": [["a", "b", "a"]],
            "event_times": [[midnight + datetime.timedelta(minutes=m) for m in minutes]],
            "surfaces": [["home", "home", "radio"]],
            "played_ratios": [[1.0, 0.5, float("nan")]],
            "is_target": [[False, True, True]],
            "label_masks": [[liked, streamed, 0]],
            "label_known_masks": [[liked, streamed | liked, streamed]],
            "rewards": [[9.0, 1.5, float("nan")]],
        },
        schema_overrides={"event_times": pl.List(pl.Datetime("us", "UTC"))},
    )


def test_labels_of_sequences_are_those_of_targets_on_their_own_days():
    found = tallies.tally(sequences(), "sequences", SEQUENCE_COLUMNS)
    assert found["rows"] == 1
    assert found["users"] == 1
    assert found["days"] == {"2026-01-06": 1}  # of the last play
    assert found["surfaces"] == {"home": 1, "radio": 1}  # of the targets
    labels = found["labels"]
    assert labels["label_streamed_30s"]["days"] == {
        "2026-01-05": {"known": 1, "true": 1},
        "2026-01-06": {"known": 1, "true": 0},
    }
    assert labels["label_liked"]["surfaces"] == {
        "home": {"known": 1, "true": 0},
        "radio": {"known": 0, "true": 0},
    }
    assert labels["label_reward"]["days"]["2026-01-05"] == {"known": 1, "sum_micro": 1_500_000}
    assert labels["label_reward"]["days"]["2026-01-06"] == {"known": 0, "sum_micro": 0}
    assert found["histograms"] == {
        "window_events": {"2": 1},
        "play_percent": {"100": 1, "50": 1},
    }


def test_packed_sequences_count_the_listeners_of_their_segments():
    packed = sequences().drop("user_id").with_columns(user_ids=pl.lit(["u", "v", "u"]))
    columns = tuple(c for c in SEQUENCE_COLUMNS if c.name != "user_id")
    assert tallies.tally(packed, "sequences", columns)["users"] == 2


def test_sessions_stand_on_the_day_of_their_start():
    rows = pl.DataFrame(
        {
            "user_id": ["u", "v"],
            "session_start": [MONDAY, MONDAY + datetime.timedelta(hours=23)],
            "session_end": [MONDAY, MONDAY + datetime.timedelta(hours=25)],
            "first_surface": ["home", None],
            "tracks": [1, 40],
            "completions": [[0.99], [1.0, 0.0]],
            "label_returned_24h": [True, None],
        },
        schema_overrides={
            "session_start": pl.Datetime("us", "UTC"),
            "session_end": pl.Datetime("us", "UTC"),
        },
    )
    columns = (
        column("tracks", "int64", "session"),
        column("label_returned_24h", "bool", "label"),
    )
    found = tallies.tally(rows, "sessions", columns)
    assert found["days"] == {"2026-01-05": 2}
    assert found["surfaces"] == {"home": 1, "unknown": 1}
    assert found["labels"]["label_returned_24h"]["days"]["2026-01-05"] == {"known": 1, "true": 1}
    assert found["histograms"] == {
        "session_tracks": {"1": 1, "32": 1},
        "session_minutes": {"0": 1, "64": 1},
        "play_percent": {"0": 1, "95": 1, "100": 1},
    }
