"""The machines M1, M2, M3 and M5: what each says of a build is a list of findings, and an empty
list means that it found no leak. M4 is in `null_world`; what leaves nothing to compare in `checks`.

A machine builds a world, changes what had not happened or was not known by some instant, builds
again, and compares the facts (`facts`) that were known by then. None of them names a feature.

One exception is granted, the documented one (docs/datasets.md): whether plays are a sync burst may
rest on what comes shortly after. `_burst_rows` says of whom that can be true at an instant, and
only rows of the 90 seconds before it are let off.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from tests import built as comparing
from tests.leakage import worlds
from tests.leakage.facts import Facts, facts_of, shared
from tests.leakage.worlds import UTC_US, Built, World, event, table_of
from transforms.building import Summary
from transforms.bursts import BURST_CONTEXT_US, LONG_US
from transforms.coverage import ONE_DAY, day_start_us
from transforms.events import ValidityRules
from transforms.timeline import DAY_US, HOUR_US, MINUTE_US

CANARY = "LEAK_CANARY"

# A burst is told by starts within BURST_CONTEXT_US, and by whether these plays last for LONG_US.
BURST_KNOWN_US = BURST_CONTEXT_US + LONG_US


@dataclasses.dataclass(frozen=True)
class Finding:
    """A leak: which machine saw it, in which dataset, of which fact, and what changed."""

    machine: str
    dataset: str
    sort: str
    key: tuple[Any, ...]
    column: str
    change: str

    def __str__(self) -> str:
        key = "/".join(map(str, self.key))
        return f"{self.machine}: {self.dataset}, {self.sort} {key}: {self.column}: {self.change}"


class Lab:
    """A world and its build, which every machine starts from."""

    def __init__(self, world: World, build: Callable[..., dict[str, Built]] = worlds.build):
        self.world = world
        self.build = build

    @functools.cached_property
    def base(self) -> dict[str, Built]:
        return self.build(self.world)

    def facts(self, world: World) -> dict[str, list[Facts]]:
        built = self.base if world is self.world else self.build(world)
        return {name: facts_of(each, world) for name, each in built.items()}

    @functools.cached_property
    def base_facts(self) -> dict[str, list[Facts]]:
        return self.facts(self.world)


def instant() -> pl.Expr:
    """When an event had happened at the latest: by either clock."""
    return pl.min_horizontal(*(pl.col(n).to_physical() for n in ("event_time", "received_time")))


def day_of(instant_us: int) -> datetime.date:
    return datetime.date(1970, 1, 1) + datetime.timedelta(days=instant_us // DAY_US)


# --- comparison -----------------------------------------------------------------------------------


def compare(
    machine: str,
    before: dict[str, list[Facts]],
    after: dict[str, list[Facts]],
    cut_us: int | None,
    let_off: Callable[[dict[str, Any]], bool] | None = None,
) -> list[Finding]:
    """Facts known by the cut that changed, came or went; None: all facts, whenever known."""
    found: list[Finding] = []
    for dataset, sorts in before.items():
        for one, other in zip(sorts, after[dataset], strict=True):
            found += _compare(machine, dataset, one, other, cut_us, let_off)
    return found


def _compare(
    machine: str,
    dataset: str,
    one: Facts,
    other: Facts,
    cut_us: int | None,
    let_off: Callable[[dict[str, Any]], bool] | None,
) -> Iterator[Finding]:
    left, right = _by_key(one), _by_key(other)
    finding = functools.partial(Finding, machine, dataset, one.name)
    for facts, rows in ((one, left), (other, right)):
        if len(rows) != facts.table.height:
            yield finding((), "", f"{facts.table.height} rows have {len(rows)} keys")

    def known(row: dict[str, Any]) -> bool:
        return (cut_us is None or row["known_us"] <= cut_us) and not (let_off and let_off(row))

    for key, row in left.items():
        if not known(row):
            continue
        again = right.get(key)
        if again is None:
            if one.exists:
                yield finding(key, "existence", "is gone")
            continue
        for column, value in row.items():
            if column != "known_us" and not comparing.same(value, again.get(column)):
                yield finding(key, column, f"{value!r} became {again.get(column)!r}")
    if one.exists:
        for key, row in right.items():
            # What is put at the instant itself may be a row of it.
            if key not in left and known(row) and row["known_us"] != cut_us:
                yield finding(key, "existence", "appeared")


def _by_key(facts: Facts) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = facts.table.to_dicts()
    return {tuple(row[name] for name in facts.key): row for row in rows}


# --- M1: perturb the future -----------------------------------------------------------------------


def perturb_future(lab: Lab, cuts: Iterable[int] | None = None, seed: int = 0) -> list[Finding]:
    """M1 by event_time. Of everything that happened from an instant on some is dropped, the rest is
    changed, and noise is put beside it; nothing that was known by then may change.

    What is also changed: how plays went that were running at the instant; copies and late uploads
    that arrived after it and do not count.
    """
    found: list[Finding] = []
    for number, cut_us in enumerate(cuts or instants(lab)):
        rng = np.random.default_rng([seed, number])
        other = lab.world.of(perturbed(lab.world, cut_us, rng))
        let_off = _burst_rows(lab.world, other, cut_us)
        found += compare("M1 event time", lab.base_facts, lab.facts(other), cut_us, let_off)
    return found


def instants(lab: Lab, count: int = 6) -> list[int]:
    """Instants to cut at: of rows, a microsecond before and after them; and between the two times
    of an event whose clock ran ahead."""
    first = next(iter(lab.base_facts.values()))
    (inputs,) = (each for each in first if each.name in ("input", "play"))
    times = inputs.table["known_us"].unique().sort()
    if not len(times):
        return []
    picked = times.gather(np.linspace(0, len(times) - 1, count + 2).astype(int)[1:-1]).to_list()
    ahead = lab.world.events.filter(pl.col("event_time") > pl.col("received_time"))
    skewed = ahead.select(instant() + 4 * MINUTE_US).to_series().sort().to_list()
    offsets = (0, -1, 1)
    return [us + offsets[i % 3] for i, us in enumerate(picked)] + skewed[len(skewed) // 2 :][:1]


def perturbed(world: World, cut_us: int, rng: np.random.Generator) -> pl.DataFrame:
    """The events with another future, as clients send them."""
    lateness_days = next(iter(world.specs.values())).labels.lateness_days
    event_us, received_us = (pl.col(n).to_physical() for n in ("event_time", "received_time"))
    copies = pl.struct("user_id", "event_id")
    first = received_us == received_us.min().over(copies)
    too_late = received_us // DAY_US - event_us // DAY_US > lateness_days
    if world.arrivals is None:  # of an import everything counts
        too_late = pl.lit(value=False)
    later = (instant() >= cut_us) & (pl.col("user_id") != worlds.MARK)
    unknown = (received_us >= cut_us) & (~first | too_late)
    table = world.events.with_columns(
        future=later | unknown,
        row=(instant() == cut_us) & pl.col("event_type").is_in(["play", "impression"]) & ~unknown,
        running=~later
        & ~unknown
        & (pl.col("event_type") == "play")
        & (received_us >= cut_us)
        & (event_us + pl.col("played_ms") * 1000 >= cut_us),
    )
    past = table.filter(~pl.col("future"))
    # How plays that are running will end is not known, unless somebody said so; that they are not
    # over is.
    so_far_ms = (cut_us - event_us) // 1000 + 1
    more = pl.Series("more", rng.integers(0, 90_000, past.height))
    longer = pl.min_horizontal(so_far_ms + more, ValidityRules.max_played_ms)
    flags = ["future", "row", "running"]
    past = past.with_columns(
        played_ms=pl.when("running").then(longer).otherwise("played_ms"),
        reason_end=pl.when("running").then(pl.lit("backbtn")).otherwise("reason_end"),
    ).drop(flags)
    rest = table.filter("future")
    kept = rest["row"].to_numpy() | (rng.random(rest.height) < 0.5)
    rest = rest.filter(pl.Series(kept))
    went = pl.Series("went", rng.integers(0, 59_000, rest.height))
    is_play, is_row = pl.col("event_type") == "play", pl.col("row")
    rest = rest.with_columns(
        played_ms=pl.when(is_play).then(went),
        reason_end=pl.when(is_play).then(pl.lit("clickrow")),
        skipped=pl.when(is_play).then(went < 30_000),
        track_id=pl.when(is_row).then("track_id").otherwise(pl.col("track_id").reverse()),
    ).drop(flags)
    return pl.concat([past, rest, noise(world, cut_us)])


def noise(world: World, cut_us: int) -> pl.DataFrame:
    """Events of every listener from an instant on, also ones that arrive too late to count."""
    tracks = world.events["track_id"].drop_nulls().unique().sort()
    made = []
    for place, user in enumerate(world.events["user_id"].unique().sort().to_list()):
        for number, after_us in enumerate(
            (0, 0, 1, 1, 7_000_000, MINUTE_US, 3 * MINUTE_US, 20 * MINUTE_US, HOUR_US, 3 * HOUR_US)
        ):
            kind = ("play", "impression", "play", "like", "play")[number % 5]
            track = tracks[(place + number * 3) % len(tracks)]
            # Ids sort before and after those that are there.
            name = f"{'!~'[number % 2]}{user}-{number}"
            made.append(
                event(name, user, kind, 0, cut_us + after_us, track_id=track, artist_id="a1")
                | ({"played_ms": 59_000} if kind == "play" and number % 4 else {})
            )
        if world.arrivals is not None:
            happened_us, late_us = cut_us - HOUR_US, cut_us + 3 * DAY_US
            late = event(f"~{user}-late", user, "play", 1, happened_us, received_us=late_us)
            made.append(late | {"track_id": tracks[place % len(tracks)]})
    return table_of(made).with_columns(source=pl.lit(world.events["source"].min()))


def _burst_rows(world: World, other: World, cut_us: int) -> Callable[[dict[str, Any]], bool]:
    """Rows shortly before an instant of listeners who start three plays or more around it."""
    near = pl.concat([world.events, other.events.select(world.events.columns)]).filter(
        (pl.col("event_type") == "play")
        & pl.col("event_time")
        .to_physical()
        .is_between(cut_us - BURST_KNOWN_US, cut_us + BURST_KNOWN_US)
    )
    long = pl.col("played_ms") >= LONG_US // 1000
    many = near.filter(long).group_by("user_id").agg(pl.col("event_id").n_unique().alias("n"))
    users = set(many.filter(pl.col("n") >= 3)["user_id"].to_list())

    def let_off(row: dict[str, Any]) -> bool:
        return row.get("user_id") in users and row["known_us"] > cut_us - BURST_KNOWN_US

    return let_off


def perturb_unknown(lab: Lab, cuts: Iterable[int] | None = None) -> list[Finding]:
    """M1 by received_time: a build `--as-of` an instant does not depend, in any fact, on what was
    received after it."""
    found: list[Finding] = []
    for number, cut_us in enumerate(cuts or as_of_instants(lab.world)):
        rng = np.random.default_rng([9, number])
        # Days that were over by then: a build as of it asks for no later ones.
        days = lab.world.days[0], min(day_of(cut_us + 1) - ONE_DAY, lab.world.days[1])
        asked = dataclasses.replace(lab.world, as_of_us=cut_us, days=days)
        unknown = pl.col("received_time").to_physical() > cut_us
        rest = asked.events.filter(unknown)
        rest = rest.filter(pl.Series(rng.random(rest.height) < 0.5)).with_columns(
            pl.col("track_id").reverse(), pl.col("played_ms").reverse()
        )
        late = noise(asked, cut_us - 2 * HOUR_US).with_columns(
            pl.max_horizontal("received_time", pl.lit(cut_us + 1).cast(UTC_US))
        )
        known = asked.events.filter(~unknown)
        # Another client's report of what was known, and another version of it: both come too late.
        plays = known.filter(pl.col("event_type") == "play").sort("received_time").tail(40)
        later = pl.lit(cut_us + 1).cast(UTC_US).alias("received_time")
        rivals = plays.with_columns(
            later,
            pl.concat_str(pl.lit("!"), "event_id").alias("event_id"),
            pl.col("event_time") - datetime.timedelta(seconds=1),
            client_id=pl.lit("c9"),
        )
        versions = plays.with_columns(
            later, track_id=pl.lit("t0"), played_ms=pl.lit(1_000, pl.Int64)
        )
        other = asked.of(pl.concat([known, rest, late, rivals, versions]))
        found += compare("M1 received time", lab.facts(asked), lab.facts(other), None)
    return found


def as_of_instants(world: World) -> list[int]:
    """The end of a day, and an instant within one."""
    end_us = day_start_us(world.days[1])
    return [end_us - 1, end_us + 9 * HOUR_US]


# --- M2: truncate to what was known ---------------------------------------------------------------


def truncate(lab: Lab, cuts: Iterable[int] | None = None) -> list[Finding]:
    """A store that holds only what was received by the end of a day builds rows that are there in
    the build of everything, just so, labels included; and none is missing whose labels were over.

    And a build of everything `--as-of` that instant is that build.
    """
    found: list[Finding] = []
    world = lab.world
    for cut_us in cuts or [
        day_start_us(world.days[1]) - 1,
        day_start_us(world.days[1]) + DAY_US - 1,
    ]:
        day = day_of(cut_us)
        known = world.events.filter(pl.col("received_time").to_physical() <= cut_us)
        assert world.arrivals is not None
        shorter = dataclasses.replace(
            world,
            events=known,
            days=(world.days[0], min(day, world.days[1])),
            arrivals=(world.arrivals[0], min(day, world.arrivals[1])),
        )
        made = lab.build(shorter)
        then = {name: facts_of(each, shorter) for name, each in made.items()}
        watermark_us = min(each.plan.within.watermark_us for each in made.values())
        whole_us = watermark_us - max(spec.label_reach_us for spec in world.specs.values())
        # Windows are cut from the newest target of a day, so those of a day that is not over yet
        # are other windows later.
        over_then = {
            name: [
                dataclasses.replace(one, table=one.table.filter(pl.col("known_us") <= whole_us))
                if one.name == "window"
                else one
                for one in sorts
            ]
            for name, sorts in then.items()
        }
        found += compare("M2 truncated", over_then, _of_keys(lab.base_facts, over_then), None)
        over = compare("M2 truncated", lab.base_facts, then, whole_us)
        found += [each for each in over if each.change == "is gone"]
        asked = dataclasses.replace(
            shorter, events=world.events, arrivals=world.arrivals, as_of_us=cut_us
        )
        found += compare("M2 as of", then, lab.facts(asked), None)
    return found


def _of_keys(
    facts: dict[str, list[Facts]], wanted: dict[str, list[Facts]]
) -> dict[str, list[Facts]]:
    """The facts whose keys are among the wanted ones."""
    return {
        name: [
            dataclasses.replace(
                one,
                table=one.table.join(
                    other.table.select(one.key).unique(),
                    on=one.key,
                    how="semi",
                    maintain_order="left",
                ),
            )
            for one, other in zip(facts[name], sorts, strict=True)
        ]
        for name, sorts in wanted.items()
    }


# --- M3: canaries ---------------------------------------------------------------------------------


def canaries(lab: Lab) -> list[Finding]:
    """Listeners, tracks, artists and albums that exist in the test split alone are in nothing that
    is earlier: no row, negative, statistic or tally of train and validation, no vocabulary, no
    snapshot and no pool of an earlier day."""
    border_us = next(iter(lab.base.values())).plan.within.borders.test_us
    assert border_us is not None
    seeded = with_canaries(lab.world, border_us)
    found: list[Finding] = []
    for name, built in lab.build(seeded, write=True).items():
        found += _canaries_of(name, built, border_us)
    return found


def with_canaries(world: World, first_us: int) -> World:
    """The world with canaries from an instant on; its catalog knows of them before."""
    made = []
    for number in range(12):
        ids = {
            name: f"{CANARY}_{name}_{number % 3}" for name in ("track_id", "artist_id", "album_id")
        }
        user = f"u{number % 4}" if number % 2 else f"{CANARY}_user"
        kind = ("play", "impression", "play", "like")[number % 4]
        at_us = first_us + number * 40 * MINUTE_US
        made.append(event(f"{CANARY}_{number}", user, kind, 0, at_us, **ids))
    catalog = world.catalog
    if catalog is not None:
        names = [f"{CANARY}_track_id_{number}" for number in range(3)] + [f"{CANARY}_unplayed"]
        released = pl.lit(first_us + MINUTE_US).cast(UTC_US).alias("release_time")
        catalog = pl.concat([catalog, pl.DataFrame({"track_id": names}).with_columns(released)])
    events = pl.concat([world.events, table_of(made)])
    return dataclasses.replace(world, events=events, catalog=catalog)


def _canaries_of(dataset: str, built: Built, border_us: int) -> Iterator[Finding]:
    finding = functools.partial(Finding, "M3 canary", dataset)
    earlier = built.rows.filter(pl.col("split") != "test")
    for column in _columns_with_canary(earlier):
        yield finding("row", (), column, "holds a canary")
    for facts in shared(built):
        known = facts.table.filter(pl.col("known_us") <= border_us)
        for column in _columns_with_canary(known):
            yield finding(facts.name, (), column, "holds a canary")
    for data in built.summaries:
        split = Summary.from_bytes(data).split
        if split != "test" and CANARY.encode() in data:
            yield finding("statistics", (split,), "", "hold a canary")


def _columns_with_canary(table: pl.DataFrame) -> Iterator[str]:
    for column in table.iter_columns():
        values = column.explode() if isinstance(column.dtype, pl.List) else column
        if values.dtype == pl.String() and values.str.contains(CANARY).any():
            yield column.name


# --- M5: flip an outcome --------------------------------------------------------------------------


def flip_outcomes(lab: Lab, count: int = 4) -> list[Finding]:
    """M5. One play goes another way, or one play or like does not happen, and nothing that was
    known before that could be seen may change: not the features of the row that it labels, nor
    those of any row so far."""
    first_us, end_us = (day_start_us(day) for day in lab.world.days)
    events = lab.world.events.filter(instant().is_between(first_us, end_us))
    plays = events.filter((pl.col("event_type") == "play") & (pl.col("played_ms") >= 30_000))
    acts = events.filter(pl.col("event_type").is_in(["like", "save"]))
    found: list[Finding] = []
    for number in range(count):
        play = plays.sort(instant())[(number + 1) * plays.height // (count + 2)]
        found += _flipped(lab, play, went=True)
        if number % 2:
            act = acts.sort(instant())[(number + 1) * acts.height // (count + 2)]
            found += _flipped(lab, act, went=False)
            found += _flipped(lab, play, went=False)
    return found


def _flipped(lab: Lab, one: pl.DataFrame, went: bool) -> list[Finding]:
    """`one` is an event; `went`: it goes another way, else it does not happen."""
    user, name = one["user_id"].item(), one["event_id"].item()
    is_it = (pl.col("user_id") == user) & (pl.col("event_id") == name)
    cut_us = one.select(instant()).item()
    events = lab.world.events
    if went:
        short_ms = 29_000
        cut_us += short_ms * 1000
        changed = {"played_ms": short_ms, "reason_end": "fwdbtn", "skipped": True}
        events = events.with_columns(
            pl.when(is_it).then(pl.lit(value)).otherwise(column).alias(column)
            for column, value in changed.items()
        )
    else:
        events = events.filter(~is_it)
    other = lab.world.of(events)
    let_off = _burst_rows(lab.world, other, cut_us)
    before, after = lab.base_facts, lab.facts(other)
    if not went:  # the row that it is goes with it
        before = _without(before, user, name)
    return compare("M5 own outcome", before, after, cut_us, let_off)


def _without(facts: dict[str, list[Facts]], user: str, name: str) -> dict[str, list[Facts]]:
    def other(one: Facts) -> Facts:
        if "event_id" not in one.key:
            return one
        is_it = (pl.col("user_id") == user) & (pl.col("event_id") == name)
        return dataclasses.replace(one, table=one.table.filter(~is_it))

    return {dataset: [other(one) for one in sorts] for dataset, sorts in facts.items()}
