"""What a build says, as facts: each with its key, its value, and the instant from which it is
known.

A machine changes what happened from some instant on. A fact that is known by then must not change,
and must not come or go. When a column is known follows from the kind of dataset and the family that
the manifest declares for it; so a new feature is covered the moment it is registered, and a column
that claims to be known earlier than it is is found out.

| Kind      | A row is there       | Its inputs | Its labels  | The rest                           |
|-----------|----------------------|------------|-------------|------------------------------------|
| ranking   | just after t         | t          | t + horizon | session id: just after t           |
| retrieval | t + reach of labels  | t          | t + horizon | negatives: as the row              |
| sessions  | when closed          | its start  | when closed | content: when closed               |
| sequences | the midnight after t |            | t + horizon | a play: its start; how it went: at |
|           |                      |            |             | the next start, or t + horizon     |

Labels of what was played are known when it is over, if that is later. "Just after": of events at
one instant the smallest id names the session, and is the report of a play that stands. Tables that
buckets share: a day's item snapshot and pool are known at its midnight, the vocabulary when train
ends.
"""

from __future__ import annotations

import dataclasses

import polars as pl

from tests.leakage.worlds import Built, World, day_us
from transforms.coverage import day_start_us
from transforms.labels import SCROBBLE_MS
from transforms.timeline import DAY_US

# Families of columns that a model may use as inputs, as the manifest declares them.
INPUTS = ("context", "user", "item", "user-item", "session", "history", "split")


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts of one sort.

    Attributes:
      name: of the sort.
      key: columns that identify one.
      table: the key, `known_us`, and values.
      exists: whether that the key is there is a fact too.
    """

    name: str
    key: tuple[str, ...]
    table: pl.DataFrame
    exists: bool


def facts_of(built: Built, world: World) -> list[Facts]:
    """All facts of a build."""
    kind = built.plan.spec.kind
    if kind == "sequences":
        return [*_sequences(built, world), *shared(built)]
    if kind == "sessions":
        return [*_sessions(built, world), *shared(built)]
    return [*_event_rows(built, world), *shared(built)]


def _us(column: str) -> pl.Expr:
    return pl.col(column).to_physical()


def _by_family(built: Built, *families: str) -> list[str]:
    return [entry.name for entry in built.plan.columns if entry.family in families]


def _event_rows(built: Built, world: World) -> list[Facts]:
    spec = built.plan.spec
    key = ("user_id", "event_id")
    rows = built.rows.join(world.happened, on=key, how="left", maintain_order="left")
    # The row's event had happened by the time the server got it, whatever the row's clock says.
    rows = rows.with_columns(t=pl.min_horizontal(_us("event_time"), "happened_us").fill_null(0))
    # Whether a play is a stream, a scrobble or a skip is known so long after its start.
    judged_us = max(SCROBBLE_MS, spec.labels.skip_2_below_ms) * 1000
    # A row of train must not be near a held-out arm, also not within its horizon.
    is_known_at_once = spec.kind == "ranking" and not spec.splits.experiment_holdouts
    # Of two reports of a play at one instant, one stands, so a row exists from just after t.
    exists_us = 1 if is_known_at_once else spec.label_reach_us + judged_us
    # What was played is known when it is over, and that may be after the horizon.
    played_us = (pl.col("label_play_delay_ms").fill_null(0) + pl.col("label_played_ms")) * 1000
    after_us = pl.max_horizontal(played_us.fill_null(0) + 1000, spec.labels.horizon_us)

    def part(name: str, columns: list[str], after: int | pl.Expr, exists: bool = False) -> Facts:
        values = [name for name in columns if name not in key]
        known = (pl.col("t") + after).alias("known_us")
        return Facts(name, key, rows.select(*key, known, *values), exists)

    inputs = [name for name in _by_family(built, *INPUTS) if name != "session_id"]
    return [
        part("row", ["split"], exists_us, exists=True),
        part("input", inputs, 0),
        # Of events at one instant the smallest id starts the session, and names it.
        part("session", ["session_id"], 1),
        part("label", _by_family(built, "label"), after_us),
        part("negative", _by_family(built, "negative"), spec.label_reach_us + judged_us),
    ]


def _sessions(built: Built, world: World) -> list[Facts]:
    spec = built.plan.spec
    key = ("user_id", "session_id")
    rule, horizon_us = spec.sessions.rule, spec.labels.horizon_us
    end = _us("session_end")
    if world.events["source_session_id"].null_count() < world.events.height:
        end = pl.max_horizontal(end, _us("session_start") + rule.cap_us)  # given ones stay open
    rows = built.rows.with_columns(
        start=_us("session_start"), closed=end + max(rule.gap_us, horizon_us)
    )
    # A session row is the session: of the family session are what happened in it, not inputs.
    content = _by_family(built, "session", "label")
    inputs = [name for name in _by_family(built, *INPUTS) if name not in content]

    def part(name: str, columns: list[str], known: str, exists: bool = False) -> Facts:
        values = [name for name in columns if name not in key]
        return Facts(name, key, rows.select(*key, pl.col(known).alias("known_us"), *values), exists)

    return [
        part("row", ["split"], "closed", exists=True),
        part("input", inputs, "start"),
        part("content", content, "closed"),
    ]


def _sequences(built: Built, world: World) -> list[Facts]:
    plan, horizon_us = built.plan, built.plan.spec.labels.horizon_us
    lists = [name for name, dtype in built.rows.schema.items() if isinstance(dtype, pl.List)]
    held = horizon_us if plan.spec.splits.experiment_holdouts else 0
    midnight = (_us("end_time") // DAY_US + 1) * DAY_US + held
    whole = built.rows.select(
        "user_id", "window_id", midnight.alias("known_us"), "split", "event_ids", "is_target"
    )
    plays = (
        built.rows.select("split", "user_id", "window_id", *lists)
        .with_columns(next_us=pl.col("event_times").list.eval(pl.element().shift(-1)))
        .explode(*lists, "next_us")
        .rename({"event_ids": "event_id"})
        .with_columns(t=_us("event_times"), next_us=_us("next_us"))
    )
    train_end_us = day_start_us(plan.train_days[1])
    key = ("user_id", "event_id", "window_id")

    def part(name: str, columns: list[str], known: pl.Expr, rows: pl.DataFrame = plays) -> Facts:
        return Facts(name, key, rows.select(*key, known.alias("known_us"), *columns), exists=False)

    t, closed = pl.col("t"), pl.col("t") + horizon_us
    length = world.events.group_by("user_id", event_id="event_id").agg(pl.col("played_ms").max())
    targets = plays.filter("is_target").join(length, on=("user_id", "event_id"), how="left")
    over = t + (pl.col("played_ms").fill_null(0) + 1) * 1000
    said = ["played_ratios", "action_masks"]
    labels = _by_family(built, "label")
    others = [n for n in lists if n not in (*said, *labels, "event_ids", "is_target", "item_index")]
    return [
        Facts("window", ("user_id", "window_id"), whole, exists=True),
        part("play", others, t),
        part("index", ["item_index"], pl.max_horizontal(t, pl.lit(train_end_us))),
        part("so far", said, pl.min_horizontal(pl.col("next_us").fill_null(1 << 62), closed)),
        part("label", labels, pl.max_horizontal(closed, over), targets),
    ]


def shared(built: Built) -> list[Facts]:
    """Facts of the tables that buckets share."""
    side, plan = built.side, built.plan
    snapshots = side.item_snapshots.with_columns(known_us=day_us("day"))
    found = [Facts("item snapshot", ("day", "track_id"), snapshots, exists=True)]
    if side.pools is not None:
        pool = side.pools._table.unpivot(index="track_id", variable_name="day", value_name="plays")
        pool = pool.drop_nulls("plays").with_columns(pl.col("day").str.to_date())
        pool = pool.with_columns(known_us=day_us("day"))
        found.append(Facts("pool", ("day", "track_id"), pool, exists=True))
    if side.vocabulary is not None:
        end_us = day_start_us(plan.train_days[1])
        known = side.vocabulary.with_columns(known_us=pl.lit(end_us))
        found.append(Facts("vocabulary", ("track_id",), known, exists=True))
    return found
