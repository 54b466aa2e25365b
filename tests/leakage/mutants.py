"""The 26 channels by which the future leaks into training data from listening logs, each opened in
the real pipeline by one small change. The lab has to catch every one.

A mutant changes a function that the pipeline calls (or what a feature's function sees), and names
the detectors that have to catch it. Its rows must differ from those of the pipeline as it is.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from transforms import (
    building,
    coverage,
    events,
    hashing,
    item_pools,
    listening,
    negatives,
    semantic_ids,
    splits,
    store,
    vocabulary,
)
from transforms.datasets import rows
from transforms.features import FEATURES, item
from transforms.features.context import FeatureContext
from transforms.features.registry import FAMILIES
from transforms.specs import RetrievalSpec
from transforms.timeline import DAY_US, MINUTE_US, IntArray, Occurrences

Patch = pytest.MonkeyPatch


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A channel, opened.

    Attributes:
      channel: L1 to L26.
      what: the mistake, in a few words.
      open: makes it.
      datasets: specs of the world that it is built with.
      detectors: who has to catch it, each of them; names of `test_lab.DETECTORS`.
      is_in_rows: the rows of one build are others; else it takes several builds, or a build of
        what should have been refused.
    """

    channel: str
    what: str
    open: Callable[[Patch], None]
    datasets: tuple[str, ...]
    detectors: tuple[str, ...]
    is_in_rows: bool = True


MUTANTS: list[Mutant] = []


def mutant(
    channel: str, what: str, datasets: str, detectors: str, is_in_rows: bool = True
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def add(opens: Callable[[Patch], None]) -> Callable[[Patch], None]:
        MUTANTS.append(
            Mutant(
                channel, what, opens, tuple(datasets.split()), tuple(detectors.split()), is_in_rows
            )
        )
        return opens

    return add


# --- what features see ----------------------------------------------------------------------------


def _see_until(patch: Patch, feature: str, until: Callable[[FeatureContext], IntArray]) -> None:
    """The function of a feature takes another instant for now."""
    of = FEATURES[feature].function

    def later(context: FeatureContext) -> Any:
        moved = dataclasses.replace(context)
        moved.__dict__["row_time_us"] = until(context)
        return of(moved)

    for name, entry in list(FEATURES.items()):
        if entry.function is of:
            patch.setitem(FEATURES, name, dataclasses.replace(entry, function=later))


@mutant("L1", "events at t count as before t", "ranking", "M1")
def _(patch: Patch) -> None:
    bounds = Occurrences.bounds
    patch.setattr(
        Occurrences,
        "bounds",
        lambda self, group, us, window_us: bounds(self, group, us + 1, window_us + 1),
    )


@mutant("L2", "session features are those of the whole session", "ranking", "M1")
def _(patch: Patch) -> None:
    def end(context: FeatureContext) -> IntArray:
        last = np.zeros(len(context.makers), dtype=np.int64)
        np.maximum.at(last, context.sessions.start, context.time_us[context.makers])
        ends = last[context.row_session] + 1
        return np.where(context.row_in_session, ends, context.row_time_us)

    _see_until(patch, "session_plays", end)


@mutant("L3", "the row's own play counts in its features", "plays", "M5")
def _(patch: Patch) -> None:
    _see_until(patch, "user_streams_7d", lambda context: context.end_us[context.rows] + 1)


@mutant("L4", "received_time is not looked at", "ranking", "M1-received")
def _(patch: Patch) -> None:
    read = store.read_events

    def whenever(file: Any, columns: Any, first: int, end: int, _as_of: Any) -> Any:
        return read(dataclasses.replace(file, lateness_days=None), columns, first, end, None)

    patch.setattr(store, "read_events", whenever)
    patch.setattr(coverage, "is_over", lambda _day, _as_of_us: True)


@mutant("L5", "item counts are those at the end of the day", "ranking", "M1")
def _(patch: Patch) -> None:
    made = item.snapshots
    patch.setattr(item, "snapshots", lambda counts, *days: made(_known_earlier(counts, 1), *days))


def _known_earlier(counts: pl.DataFrame, days: int) -> pl.DataFrame:
    moved = pl.col("event_day", "known_day") - datetime.timedelta(days=days)
    return counts.with_columns(moved)


@mutant("L6", "the vocabulary is fitted on all days", "sequences", "M3")
def _(patch: Patch) -> None:
    fit = vocabulary.fit
    ever = datetime.date(2100, 1, 1)
    patch.setattr(
        vocabulary, "fit", lambda counts, first, _end, spec: fit(counts, first, ever, spec)
    )


@mutant("L7", "only listeners with many events in all of the log", "ranking", "M2 M1")
def _(patch: Patch) -> None:
    choose = rows.choose

    def of_the_active(heard: Any, wanted: Any, *rest: Any, **more: Any) -> Any:
        active = np.bincount(heard.user)[heard.user] >= 150
        return choose(heard, wanted & active, *rest, **more)

    patch.setattr(rows, "choose", of_the_active)


@mutant("L8", "a track's share of streams, its own and later ones included", "ranking", "M5")
def _(patch: Patch) -> None:
    def encoded(context: FeatureContext) -> Any:
        tracks = context.events["track_id"]
        of_track = pl.DataFrame({"track": tracks, "streamed": context.is_stream})
        streams = of_track.select(pl.col("streamed").sum().over("track")).to_series()
        return {"item_streams_7d": streams.gather(context.rows).cast(pl.Int64)}

    entry = FEATURES["item_streams_7d"]
    patch.setitem(FEATURES, "item_streams_7d", dataclasses.replace(entry, function=encoded))


@mutant("L20", "counts of the calendar day", "ranking", "M1")
def _(patch: Patch) -> None:
    _see_until(patch, "user_plays_7d", lambda c: (c.row_time_us // DAY_US + 1) * DAY_US)


@mutant("L21", "the instant is rounded up to five minutes", "ranking", "M1")
def _(patch: Patch) -> None:
    step = 5 * MINUTE_US
    _see_until(patch, "user_track_plays_7d", lambda c: -(-c.row_time_us // step) * step)


# --- what is given from outside -------------------------------------------------------------------


@mutant("L9", "codes learned after train are taken", "sequences", "artefacts", is_in_rows=False)
def _(patch: Patch) -> None:
    patch.setattr(semantic_ids, "check_border", lambda *_: None)


# --- negatives ------------------------------------------------------------------------------------


@mutant("L10", "tracks are negatives before their release", "retrieval", "M3 negatives")
def _(patch: Patch) -> None:
    made = item_pools.item_pools
    long_ago = pl.lit(0).cast(pl.Datetime("us", "UTC")).alias("release_time")

    def of_all(counts: Any, catalog: pl.DataFrame, *rest: Any) -> Any:
        return made(counts, catalog.with_columns(long_ago), *rest)

    patch.setattr(building, "item_pools", of_all)


@mutant("L11", "what the listener ever plays is no negative", "retrieval", "M1")
def _(patch: Patch) -> None:
    def bars(self: Any, row: IntArray, track: IntArray, pair: IntArray) -> Any:
        ever = np.full(len(self.own), 1 << 61)
        return self.positives.met(pair, row, ever, 1 << 61) | (track == self.own[row])

    patch.setattr(negatives._Rows, "bars", bars)


@mutant("L12", "popularity counts the plays of the days after", "retrieval", "M1")
def _(patch: Patch) -> None:
    made = item_pools.item_pools
    patch.setattr(
        building, "item_pools", lambda counts, *rest: made(_known_earlier(counts, 2), *rest)
    )


@mutant("L26", "what was shown passes for drawn from the catalog", "retrieval", "negatives")
def _(patch: Patch) -> None:
    as_lists = negatives._as_lists

    def renamed(*args: Any) -> Any:
        lists = as_lists(*args)
        kinds = lists["neg_types"]
        lists["neg_types"] = kinds.list.eval(pl.element().replace("exposed", "uniform"))
        return lists

    patch.setattr(negatives, "_as_lists", renamed)


# --- rows and splits ------------------------------------------------------------------------------


@mutant("L13", "labels that are open are written", "ranking plays", "maturity M2")
def _(patch: Patch) -> None:
    choose = rows.choose

    def at_once(heard: Any, wanted: Any, closes: Any, over: Any, spec: Any, within: Any) -> Any:
        known = dataclasses.replace(within, watermark_us=1 << 61)
        return choose(heard, wanted, closes, over, spec, known)

    patch.setattr(rows, "choose", at_once)


@mutant("L14", "rows are split at random", "ranking", "borders")
def _(patch: Patch) -> None:
    def at_random(_borders: Any, time_us: IntArray, *_: Any) -> splits.Assigned:
        text = pl.Series(time_us).cast(pl.String).to_frame("t")
        drawn = text.select(hashing.hash64(pl.col("t"), "split") % 3).to_series()
        nothing = np.full(len(time_us), -1)
        return splits.Assigned(drawn.to_numpy().astype(np.int64), nothing, nothing > 0)

    patch.setattr(splits, "assign", at_random)


@mutant("L15", "rows are in the order of the label", "ranking", "M4-position")
def _(patch: Patch) -> None:
    patch.setattr(rows, "order_rows", lambda table, key, _seed: table.sort("label_played", *key))


@mutant("L16", "only what was played keeps its request id", "ranking", "M4-columns")
def _(patch: Patch) -> None:
    _after_rows(patch, pl.when("label_played").then("request_id").alias("request_id"))


@mutant("L17", "rows with negatives have features of the track", "retrieval", "M4-nulls")
def _(patch: Patch) -> None:
    patch.setattr(RetrievalSpec, "families", FAMILIES)


@mutant("L18", "how the play ended is a column of its context", "plays", "declared M5 M1")
def _(patch: Patch) -> None:
    patch.setattr(rows, "CARRIED", (*rows.CARRIED, "reason_end"))


def _after_rows(patch: Patch, change: pl.Expr) -> None:
    made = rows.event_rows
    patch.setattr(rows, "event_rows", lambda *args: made(*args).with_columns(change))


# --- the log --------------------------------------------------------------------------------------


@mutant("L19", "the client's clock is believed", "ranking", "M1")
def _(patch: Patch) -> None:
    patch.setattr(events, "clamp_clock", lambda table: (table, 0))


@mutant("L22", "the latest version of an event counts", "ranking plays", "M1 M2")
def _(patch: Patch) -> None:
    def latest(table: pl.DataFrame) -> Any:
        kept = table.sort("received_time").unique(["user_id", "event_id"], keep="last")
        return kept, table.height - kept.height, 0

    _deduplicate(patch, latest)


@mutant(
    "L23",
    "tables of the days built before are used again",
    "ranking",
    "days_in_any_order",
    is_in_rows=False,
)
def _(patch: Patch) -> None:
    load = building._load_side_tables
    held: dict[str, Any] = {}

    def once(plan: Any) -> Any:
        if not building._loaded:  # a worker that has just started
            held.clear()
        loaded = load(plan)
        return held.setdefault(plan.spec.name, loaded)

    patch.setattr(building, "_load_side_tables", once)


@mutant("L24", "of two versions the first that is read counts", "plays", "order")
def _(patch: Patch) -> None:
    def first(table: pl.DataFrame) -> Any:
        kept = table.unique(["user_id", "event_id"], keep="first", maintain_order=True)
        return kept, table.height - kept.height, 0

    _deduplicate(patch, first)


@mutant("L25", "what is sent again on another day is another row", "plays", "once")
def _(patch: Patch) -> None:
    patch.setattr(listening, "drop_duplicates", lambda table: (table, 0, 0))


def _deduplicate(patch: Patch, how: Callable[[pl.DataFrame], Any]) -> None:
    patch.setattr(events, "drop_duplicates", how)
    patch.setattr(listening, "drop_duplicates", how)


MUTANTS.sort(key=lambda each: int(each.channel[1:]))
