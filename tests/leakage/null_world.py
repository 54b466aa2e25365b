"""M4: a world in which nothing can be predicted, and what predicts something in it all the same.

Whether an impression is played, and whether a play is a stream or a skip, are coins; when somebody
comes and what is shown was fixed before the first coin fell. So whatever is known before an example
is independent of its label, and a model that does better than chance on later days has been told.
Probes, for each dataset: a linear model and boosted trees on all inputs; the same on which of them
are null; trees on where a row stands (shard, place in the file, place modulo small numbers, size of
the file); and a small tree on each column alone, identifiers included.

How far from 0.5 an AUC may be: with n+ positives and n- negatives in test, and labels that are
coins, its standard deviation is sqrt((n+ + n- + 1) / (12 n+ n-)) whatever the scores (ties make it
smaller). A single AUC is held against 3 sigma, two-sided: a chance of 0.0027. Of m AUCs the largest
would pass that by luck, so each is held against the z with a chance of 0.0027 / m (Bonferroni): for
m of about 300, z is 4.4.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from tests.leakage.facts import INPUTS
from tests.leakage.lab import Finding, Lab
from tests.leakage.worlds import UTC_US, Built, D, World, instant_us, make_specs
from transforms.adapters.base import EVENT_SCHEMA
from transforms.timeline import DAY_US, HOUR_US

Floats = npt.NDArray[np.float64]
CHANCE = math.erfc(3 / math.sqrt(2))  # of 3 sigma, two-sided

_SLATE, _TRACKS = 4, 40


def make(seed: int = 0, users: int = 60, visits: int = 6) -> World:
    """Listeners who visit Home `visits` times a day; each slot of a slate is played or not."""
    rng = np.random.default_rng(seed)
    shape = (users, 7, visits, _SLATE)
    user, day, _, slot = (axis.ravel() for axis in np.indices(shape))
    hours = np.sort(rng.uniform(1, 22.5, shape[:3]), axis=2)[..., np.newaxis]
    time_us = day * DAY_US + (np.broadcast_to(hours, shape) * HOUR_US).astype(np.int64).ravel()
    time_us += slot * 40_000_000 + instant_us(0)
    count = len(user)
    track = rng.integers(0, _TRACKS, count)
    order = rng.permutation(2 * count)  # ids are in no order of anything
    played = rng.random(count) < 0.5
    streamed = rng.random(count) < 0.5
    shown = pl.DataFrame(
        {
            "event_id": pl.Series(order[:count]).cast(pl.String).str.zfill(7),
            "event_type": pl.repeat("impression", count, eager=True),
            "user_id": pl.Series(user).cast(pl.String).str.zfill(3),
            "track_id": pl.Series(track).cast(pl.String),
            "artist_id": pl.Series(track % 9).cast(pl.String),
            "us": time_us,
            "surface": pl.repeat("home", count, eager=True),
            "position": pl.Series(slot).cast(pl.Int32),
            "request_id": pl.Series(rng.permutation(count) // _SLATE).cast(pl.String).str.zfill(6),
            "shelf": pl.Series(np.where(rng.random(count) < 0.1, None, "top"), dtype=pl.String),
            "platform": pl.Series(user % 3).cast(pl.String),
            "premium": pl.Series(rng.random(count) < 0.5),
        }
    )
    plays = shown.with_columns(
        pl.Series("event_id", order[count:]).cast(pl.String).str.zfill(7),
        pl.lit("play").alias("event_type"),
        pl.Series("us", time_us + rng.integers(0, 20_000_000, count)),
        pl.lit(None, pl.String).alias("request_id"),
        pl.Series("played_ms", np.where(streamed, 50_000, 10_000)),
        pl.Series("reason_end", np.where(streamed, "trackdone", "fwdbtn")),
        pl.lit(200_000, pl.Int64).alias("track_duration_ms"),
    ).filter(pl.Series(played))
    events = pl.concat([shown, plays], how="diagonal").with_columns(
        event_time=pl.col("us").cast(UTC_US),
        received_time=(pl.col("us") + 60_000_000).cast(UTC_US),
        time_quality=pl.lit("reported"),
        source=pl.lit("parquet"),
        country=pl.lit("SE"),
    )
    missing = [n for n in EVENT_SCHEMA if n not in events.columns]
    events = events.with_columns(pl.lit(None, EVENT_SCHEMA[n]).alias(n) for n in missing)
    specs = make_specs(labels={"horizon_hours": 1, "lateness_days": 0})
    specs["retrieval"] = specs["retrieval"].model_copy(update={"positive": "played"})
    specs["sessions"] = specs["sessions"].model_copy(update={"min_plays": 1})
    return World(
        events.select(pl.col(name).cast(dtype) for name, dtype in EVENT_SCHEMA.items()),
        specs,
        days=(D[1], D[5]),
        arrivals=(D[0], D[6]),
    )


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows with a coin for a label. `inputs` are columns that may be used to tell it."""

    split: pl.Series
    label: npt.NDArray[np.bool_]
    inputs: pl.DataFrame
    place: pl.DataFrame


def table_of(built: Built) -> Table:
    """The rows of a build, and the coin that each is labelled with."""
    spec, rows = built.plan.spec, built.rows
    names = [entry.name for entry in built.plan.columns if entry.family in INPUTS]
    if spec.kind == "sequences":
        label, rows = _last_targets(rows)
        names = [name for name in rows.columns if name.startswith("input_")]
    elif spec.kind == "sessions":
        label = rows["completions"].list.first() > 0.1
        families = {entry.name: entry.family for entry in built.plan.columns}
        names = [name for name in names if families[name] != "session"]
    else:
        name = "label_streamed_30s" if rows["label_played"].all() else "label_played"
        label = rows[name]
    return Table(rows["split"], label.to_numpy(), rows.select(names), _place(built, rows))


def _last_targets(rows: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
    """The newest target of each window, and what came before it: the plays so far, and of the
    target itself what is known when it starts."""

    def before(name: str) -> pl.Expr:
        return pl.col(name).list.slice(0, pl.col(name).list.len() - 1)

    said = ["played_ratios", "action_masks"]
    known = ["item_index", "track_ids", "surfaces", "event_times", "event_ids"]
    label = rows["label_masks"].list.last() & 1 > 0
    kept = rows.with_columns(
        *(before(name).alias(f"input_{name}") for name in said),
        *(pl.col(name).alias(f"input_{name}") for name in known),
        *(pl.col(name).alias(f"input_{name}") for name in ("user_id", "window_id", "end_time")),
    )
    return label, kept


def _place(built: Built, rows: pl.DataFrame) -> pl.DataFrame:
    """Where a row stands: all that a reader sees without a column."""
    sizes = {
        (entry.role, int(entry.path.split("part-")[1][:5])): entry.bytes
        for entry in built.files
        if "part-" in entry.path and entry.format == "parquet"
    }
    size = [sizes.get((split, shard), 0) for split, shard in rows.select("split", "shard").rows()]
    of_file = pl.len().over("split", "shard")
    return rows.select(
        "shard",
        "index",
        pl.Series("bytes", size),
        (pl.col("index") / of_file).alias("share"),
        *((pl.col("index") % k).alias(f"mod_{k}") for k in (2, 3, 4, 5, 6, 7, 8, 16)),
    )


def encode(table: pl.DataFrame) -> dict[str, Floats]:
    """Numbers of columns: a text is its place in the order of all texts and its length, a list its
    length, its first and its last element. NaN where null."""
    found: dict[str, Floats] = {}
    for column in table.iter_columns():
        name = column.name
        if isinstance(column.dtype, pl.List):
            found[f"{name}.len"] = _numbers(column.list.len())
            for end, values in (("first", column.list.first()), ("last", column.list.last())):
                found |= encode(values.alias(f"{name}.{end}").to_frame())
        elif column.dtype == pl.String():
            found[name] = _numbers(column.rank("dense"))
            found[f"{name}.length"] = _numbers(column.str.len_bytes())
        else:
            found[name] = _numbers(column.to_physical())
    return found


def _numbers(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def null_mask(table: pl.DataFrame) -> dict[str, Floats]:
    return {name: table[name].is_null().cast(pl.Float64).to_numpy() for name in table.columns}


@dataclasses.dataclass(frozen=True)
class Auc:
    """A probe's held-out AUC; `sigma` of one by chance."""

    dataset: str
    probe: str
    auc: float
    sigma: float


def probe(dataset: str, table: Table, probes: tuple[str, ...]) -> Iterator[Auc]:
    """The AUCs of some probes: `all`, `nulls`, `position`, `columns`."""
    train = (table.split == "train").to_numpy()
    test = ~train
    y = table.label
    positives = int(y[test].sum())
    rest = int(test.sum()) - positives
    assert min(positives, rest, y[train].sum(), (~y[train]).sum()) > 50, dataset
    sigma = math.sqrt((positives + rest + 1) / (12 * positives * rest))

    def held_out(name: str, model: Any, columns: dict[str, Floats]) -> Auc:
        # What is the same in every row of train tells nothing.
        telling = [values for values in columns.values() if _varies(values[train])]
        if not telling:
            return Auc(dataset, name, 0.5, sigma)
        x = np.column_stack(telling)
        with threadpool_limits(1):  # tests share processors: threads that wait would spin
            model.fit(x[train], y[train])
            score = model.predict_proba(x[test])[:, 1]
        return Auc(dataset, name, float(roc_auc_score(y[test], score)), sigma)

    trees = HistGradientBoostingClassifier(
        max_iter=25, max_leaf_nodes=15, early_stopping=False, random_state=0
    )
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    values, mask = encode(table.inputs), null_mask(table.inputs)
    if "all" in probes:
        whole = {
            **{n: np.nan_to_num(v) for n, v in values.items()},
            **{f"{n}?": m for n, m in mask.items()},
        }
        yield held_out("all inputs, linear", linear, whole)
        yield held_out("all inputs, trees", trees, values)
    if "nulls" in probes:
        yield held_out("null mask, linear", linear, mask)
        yield held_out("null mask, trees", trees, mask)
    if "position" in probes:
        place = encode(table.place)
        yield held_out("row position, linear", linear, place)
        yield held_out("row position, trees", trees, place)
    if "columns" in probes:
        small = DecisionTreeClassifier(max_depth=4, min_samples_leaf=40, random_state=0)
        for name, column in values.items():
            yield held_out(f"column {name}", small, {name: column})


def _varies(values: Floats) -> bool:
    nulls = np.isnan(values)
    return bool(nulls.any() and not nulls.all()) or len(np.unique(values[~nulls])) > 1


def candidates(built: Built) -> Table:
    """Retrieval rows as a ranker of candidates reads them: the positive and each drawn negative,
    with the columns of the row, but without those of the track for tracks that have none."""
    families = {entry.name: entry.family for entry in built.plan.columns}
    names = [n for n, family in families.items() if family in INPUTS]
    of_track = [n for n in names if families[n] in ("item", "user-item")]
    positive = built.rows.select("split", *names)
    negative = (
        built.rows.select("split", *names, drawn="neg_track_ids")
        .explode("drawn")
        .drop_nulls("drawn")
        .with_columns(pl.lit(None).alias(n) for n in of_track)
        .select(positive.columns)
    )
    both = pl.concat([positive, negative], how="vertical_relaxed")
    label = np.arange(both.height) < positive.height
    return Table(both["split"], label, both.select(names), both.select("split"))


def judge(aucs: list[Auc]) -> list[Finding]:
    """The AUCs that chance does not explain, by the rule of this module."""
    z = statistics.NormalDist().inv_cdf(1 - CHANCE / 2 / max(1, len(aucs)))
    return [
        Finding(
            "M4 null world", each.dataset, each.probe, (), "AUC",
            f"{each.auc:.3f} is {abs(each.auc - 0.5) / each.sigma:.1f} sigma from 0.5, "
            f"{z:.1f} are allowed",
        )
        for each in aucs
        if abs(each.auc - 0.5) > z * each.sigma
    ]  # fmt: skip


PROBES = ("all", "nulls", "position", "columns")


def aucs_of(lab: Lab, probes: tuple[str, ...] = PROBES) -> list[Auc]:
    """Every probe of every dataset of a null world."""
    found: list[Auc] = []
    for name, built in lab.build(lab.world, write="position" in probes).items():
        found += probe(name, table_of(built), probes)
        if built.plan.spec.kind == "retrieval" and "nulls" in probes:
            found += probe(f"{name}, as candidates", candidates(built), ("nulls",))
    return found


def null_world(lab: Lab, probes: tuple[str, ...] = PROBES) -> list[Finding]:
    """M4 on the world of a lab, made by `make`."""
    return judge(aucs_of(lab, probes))
