"""Checks of what a build must be, computed from the raw world: for channels that leave no fact to
compare before and after. Each returns findings as the machines of `lab` do.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from schemas import LISTENING_EVENT
from tests.leakage.facts import INPUTS
from tests.leakage.lab import Finding, Lab, compare
from tests.leakage.worlds import ONE_DAY, Built, World
from transforms import building, files, manifest, publish, semantic_ids
from transforms.coverage import day_start_us
from transforms.errors import PlayheadError
from transforms.negatives import DRAWN
from transforms.specs import RetrievalSpec
from transforms.timeline import DAY_US


def _us(column: str) -> pl.Expr:
    return pl.col(column).to_physical()


def _examples(built: Built) -> pl.DataFrame:
    """`split`, `t`, `closes` and ids of everything that a label is of: rows, or targets of rows."""
    spec, rows = built.plan.spec, built.rows
    if spec.kind == "sequences":
        lists = ("event_ids", "event_times", "is_target")
        targets = rows.select("split", "user_id", *lists).explode(*lists).filter("is_target")
        named = targets.rename({"event_ids": "event_id"}).with_columns(t=_us("event_times"))
    elif spec.kind == "sessions":
        last_us = pl.col("offsets_ms").list.last() * 1000
        named = rows.with_columns(t=_us("session_start"), last=_us("session_start") + last_us)
        named = named.with_columns(closes=pl.col("last") + spec.label_reach_us)
        return named.select("split", "user_id", "session_id", "t", "closes")
    else:
        named = rows.with_columns(t=_us("event_time"))
    closes = (pl.col("t") + spec.label_reach_us).alias("closes")
    ids = [name for name in ("event_id", "session_id", "track_id") if name in named.columns]
    return named.select("split", "user_id", *ids, "t", closes)


def maturity(lab: Lab) -> Iterator[Finding]:
    """No label window reaches beyond the last day whose late events have all arrived."""
    assert lab.world.arrivals is not None
    for name, built in lab.base.items():
        late = built.plan.spec.labels.lateness_days
        end_us = day_start_us(lab.world.arrivals[1] - late * ONE_DAY + ONE_DAY)
        for row in _examples(built).filter(pl.col("closes") > end_us).iter_rows(named=True):
            change = f"its labels are open until {row['closes']}, known is {end_us}"
            yield Finding("check of maturity", name, "row", _key(row), "label_status", change)


def borders(lab: Lab) -> Iterator[Finding]:
    """Every row of train and validation lies, label window included, before the border behind it,
    and before the gap; every row behind a border is of the split behind it; no session and no event
    is in two splits."""
    for name, built in lab.base.items():
        spec, rows = built.plan.spec, _examples(built)
        finding = functools.partial(Finding, "check of borders", name, "row")
        days = spec.splits.validation_from, spec.splits.test_from
        starts = dict(zip(("validation", "test"), map(day_start_us, days), strict=True))
        ends = {"train": starts["validation"], "validation": starts["test"]}
        for row in rows.iter_rows(named=True):
            end_us = ends.get(row["split"], 1 << 62)
            if row["closes"] > end_us or row["t"] >= end_us - spec.splits.gap_us:
                yield finding(_key(row), "split", f"{row['split']} reaches behind its border")
            if row["t"] < starts.get(row["split"], 0):
                yield finding(_key(row), "split", f"{row['split']} reaches before its border")
        for column in ("session_id", "event_id"):
            if column in rows.columns:
                known = rows.drop_nulls(column).group_by("user_id", column)
                several = known.agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
                for user, value, count in several.iter_rows():
                    yield finding((user, value), column, f"is in {count} splits")


def once(lab: Lab) -> Iterator[Finding]:
    """What was heard once is one row, in one split, however often it was sent."""
    for name, built in lab.base.items():
        rows = _examples(built)
        if "event_id" not in rows.columns:
            continue
        for key in (["user_id", "event_id"], ["user_id", "track_id", "t"]):
            if not set(key) <= set(rows.columns) or ("track_id" in key and name == "ranking"):
                continue
            several = rows.group_by(key).agg(pl.len(), pl.col("split").unique().sort())
            for row in several.filter(pl.col("len") > 1).iter_rows(named=True):
                change = f"is {row['len']} rows, of {', '.join(row['split'])}"
                yield Finding("check of retransmissions", name, "row", _key(row), key[1], change)


def declared(lab: Lab) -> Iterator[Finding]:
    """Every column says what it is for, and none that may be an input is a field of the event that
    is known only after it was shown or played."""
    after = {field.name for field in LISTENING_EVENT.fields if field.post_decision}
    for name, built in lab.base.items():
        for column in built.plan.columns:
            finding = functools.partial(Finding, "check of declarations", name, "column", ())
            if column.family is None:
                yield finding(column.name, "has no family")
            if column.family in INPUTS and column.name.removeprefix("first_") in after:
                yield finding(column.name, "is known only after the decision")


def negatives(lab: Lab) -> Iterator[Finding]:
    """Each negative is of a source of the spec. What is said to be drawn from the catalog existed
    at the midnight before, is none of the listener's positives, and has the probability that a draw
    from the catalog has; what is said to be shown was shown to this listener before."""
    for name, built in lab.base.items():
        spec = built.plan.spec
        if not isinstance(spec, RetrievalSpec):
            continue
        log = _Log(lab.world, spec)
        types = {source.type for source in spec.negatives.sources}
        columns = ("neg_track_ids", "neg_types", "neg_log_q")
        for row in built.rows.with_columns(t=_us("event_time")).iter_rows(named=True):
            finding = functools.partial(Finding, "check of negatives", name, "row", _key(row))
            pool = log.existing(row["t"])
            barred = {row["track_id"], *log.positives(row["user_id"], row["t"])}
            log_q = -math.log(max(1, len(pool - barred)))
            for track, kind, said in zip(*(row[each] for each in columns), strict=True):
                if kind not in types:
                    yield finding("neg_types", f"{kind} is no source of the spec")
                if kind in DRAWN and track not in pool:
                    yield finding("neg_track_ids", f"{track} did not exist at midnight")
                if track in barred:
                    yield finding("neg_track_ids", f"{track} is a positive of the listener")
                if kind == "uniform" and abs(said - log_q) > 1e-9:
                    yield finding("neg_log_q", f"a draw of {track} has {log_q:.4f}, not {said:.4f}")
                if kind == "exposed" and track not in log.shown(row["user_id"], row["t"]):
                    yield finding("neg_track_ids", f"{track} was not shown")


class _Log:
    """The events that count, and what negatives may be, by looking at all of them."""

    def __init__(self, world: World, spec: RetrievalSpec) -> None:
        received, happened = _us("received_time"), _us("event_time")
        first = world.events.sort("received_time").unique(["user_id", "event_id"], keep="first")
        in_time = received // DAY_US - happened // DAY_US <= spec.labels.lateness_days
        clamped = pl.min_horizontal(received, happened).alias("us")
        self._all = world.events.with_columns(clamped, known=received).to_dicts()
        self._events = first.filter(in_time).with_columns(clamped).to_dicts()
        self._spec = spec
        self._released: dict[str, int] = {}
        if world.catalog is not None:
            for track, us in world.catalog.with_columns(_us("release_time")).iter_rows():
                self._released[track] = min(us, self._released.get(track, us))

    @functools.cache  # noqa: B019
    def existing(self, t_us: int) -> frozenset[str]:
        """At the midnight before t: by the catalog; what it does not have, once it was seen."""
        midnight_us = t_us // DAY_US * DAY_US
        begin_us = midnight_us - self._spec.negatives.popularity_days * DAY_US
        seen = {
            event["track_id"]
            for event in self._all
            if event["event_type"] in ("play", "impression", "like")
            and begin_us <= event["us"] < midnight_us
            and event["known"] < midnight_us
        }
        released = {track for track, us in self._released.items() if us <= midnight_us}
        return frozenset(released | (seen - set(self._released)))

    def positives(self, user: str, t_us: int) -> set[str]:
        width_us = self._spec.negatives.exclude_days * DAY_US
        return {
            event["track_id"]
            for event in self._events
            if event["user_id"] == user
            and event["event_type"] == "play"
            and (event["played_ms"] or 0) >= 30_000
            and t_us - width_us <= event["us"] < t_us
        }

    def shown(self, user: str, t_us: int) -> set[str]:
        return {
            event["track_id"]
            for event in self._events
            if event["user_id"] == user
            and event["event_type"] == "impression"
            and t_us - DAY_US <= event["us"] < t_us
        }


def order(lab: Lab) -> Iterator[Finding]:
    """The order of raw rows decides nothing: not a value, not a row, not a place in a file."""
    shuffled = lab.world.of(lab.world.events.sample(fraction=1.0, shuffle=True, seed=7))
    again = lab.build(shuffled)
    yield from compare("check of input order", lab.base_facts, lab.facts(shuffled), None)
    for name, built in lab.base.items():
        if not built.rows.equals(again[name].rows):
            yield Finding(
                "check of input order", name, "file", (), "", "rows or their order differ"
            )


def days_in_any_order(lab: Lab) -> Iterator[Finding]:
    """A build of early days is the same after one of later days in the same worker. (Sequences of
    days behind train take a vocabulary from elsewhere.)"""
    first, last = lab.world.days
    world = lab.world.only(*(name for name in lab.world.specs if name != "sequences"))
    early = dataclasses.replace(world, days=(first, first + ONE_DAY))
    late = dataclasses.replace(world, days=(last - ONE_DAY, last))
    building._loaded.clear()
    alone = lab.facts(early)
    building._loaded.clear()
    lab.build(late)
    yield from compare("check of run order", alone, lab.facts(early), None)


def artefacts(lab: Lab) -> Iterator[Finding]:
    """Codes of items that were learned from what happened after train are refused; and so are those
    of which nobody says what they were learned from."""
    split = lab.world.specs["sequences"].splits
    assert split.validation_from is not None
    train_end_us = day_start_us(split.validation_from) - split.gap_us
    cases: list[tuple[str, int | None, bool]] = [
        ("until train's end", train_end_us, True),
        ("a microsecond longer", train_end_us + 1, False),
        ("nobody knows until when", None, False),
    ]
    for what, until_us, allowed in cases:
        folder = tempfile.mkdtemp(prefix="playhead-leakage-")
        try:
            path = _write_codes(folder, until_us)
            world = dataclasses.replace(lab.world, semantic_ids=path).only("sequences")
            try:
                lab.build(world)
                was_allowed = True
            except (PlayheadError, KeyError):
                was_allowed = False
        finally:
            shutil.rmtree(folder)
        if was_allowed != allowed:
            verb = "was taken" if was_allowed else "was refused"
            yield Finding("check of artefacts", "sequences", "semantic ids", (what,), "", verb)


def _write_codes(folder: str, trained_until_us: int | None) -> str:
    """A version of semantic ids; `trained_until_us` None: it does not say."""
    tracks = pl.Series([f"t{number}" for number in range(8)])
    table = semantic_ids.codes_table(tracks, np.arange(8).reshape(8, 1) % 4)
    config = {"levels": 1, "codebook_size": 4, "trained_until_us": trained_until_us}
    if trained_until_us is None:
        del config["trained_until_us"]
    draft = publish.Draft(
        root=folder,
        kind=semantic_ids.KIND,
        name="codes",
        version="v-0",
        fingerprint="0",
        code_version="0",
        config=config,
        columns=semantic_ids.columns(1),
        inputs=(),
        attempt="attempt-0",
        started_at="",
        runner="none",
    )
    entry = files.write_table(table, draft.attempt_root, "codes.parquet", semantic_ids.CODES_ROLE)
    manifest.commit(folder, draft.manifest([entry], {}, table.height))
    return folder


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("user_id", "event_id", "session_id") if row.get(name))


CHECKS: dict[str, Callable[[Lab], Iterator[Finding]]] = {
    check.__name__: check
    for check in (
        maturity, borders, once, declared, negatives, order, days_in_any_order, artefacts,
    )
}  # fmt: skip
