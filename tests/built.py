"""Builds of drawn logs, bucket by bucket as a job makes them, and their comparison with the oracle.

Rows are dicts with the name of their split under `split`; times are integer microseconds.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from random import Random

import polars as pl
from hypothesis import HealthCheck, Phase, settings

from tests import oracle, strategies
from transforms import building, negatives, splits, store, vocabulary
from transforms import events as events_module
from transforms.counts import Counts
from transforms.datasets import rows
from transforms.features import item
from transforms.item_pools import ItemPools, item_pools
from transforms.listening import Listening, merge_partitions
from transforms.specs import DatasetSpec, SequencesSpec
from transforms.splits import Borders

ORACLES = {
    "ranking": oracle.ranking_rows,
    "retrieval": oracle.retrieval_rows,
    "sequences": oracle.sequence_rows,
    "sessions": oracle.session_rows,
}
# Columns of which the oracle says what they may be, not what they are.
CHOSEN = (*negatives.SCHEMA, "window_id")

ONE_DAY = datetime.timedelta(days=1)


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        # Add Phase.shrink when hunting: it takes minutes on logs.
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def day_of(instant_us: int) -> datetime.date:
    return strategies.FIRST_DAY + ONE_DAY * ((instant_us - strategies.FIRST_US) // oracle.DAY_US)


def table_of(part: list[dict]) -> pl.DataFrame:
    """A partition's bucket as a build reads it."""
    return events_module.sort_events(strategies.to_table(part)).select(rows.READ_COLUMNS)


def build_range(log: strategies.Log, within: oracle.Range) -> rows.BuildRange:
    """The range as the pipeline has it."""
    fields = dataclasses.asdict(within)
    borders = Borders(fields.pop("validation_us"), fields.pop("test_us"), log.rules.border_gap_us)
    return rows.BuildRange(**fields, borders=borders)


def side_tables(
    log: strategies.Log, spec: DatasetSpec, within: oracle.Range, known: list[dict]
) -> rows.SideTables:
    """What buckets share, made as `building.write_side_tables` does."""
    borders = build_range(log, within).borders
    counts = store.sum_item_days([store.item_day_counts(strategies.to_table(known))])
    first, last = day_of(within.first_us), day_of(within.end_us - 1)
    train_end = borders.train_end_day
    snapshots = item.snapshots(counts, first, last)
    if train_end < first:
        snapshots = pl.concat([item.snapshots(counts, train_end, train_end), snapshots])
    pools = fitted = None
    if spec.pool_days:
        pools = ItemPools(
            item_pools(counts, catalog_of(log), first, last, train_end - ONE_DAY, spec.pool_days)
        )
    if isinstance(spec, SequencesSpec):
        # One vocabulary for all builds of a log: that of its whole range.
        whole = day_of(log.within.first_us), min(train_end, day_of(log.within.end_us))
        fitted = vocabulary.fit(counts, *whole, spec.vocabulary)
    return rows.SideTables(snapshots, pools, fitted)


def catalog_of(log: strategies.Log) -> pl.DataFrame | None:
    if log.released is None:
        return None
    return pl.DataFrame(
        {"track_id": list(log.released), "release_time": list(log.released.values())}
    ).with_columns(pl.col("release_time").cast(pl.Datetime("us", "UTC")))


def build(
    log: strategies.Log,
    parts: list[list[dict]] | None = None,
    known: list[dict] | None = None,
    within: oracle.Range | None = None,
    spec: DatasetSpec | None = None,
) -> tuple[list[dict], Counts]:
    """Rows and counts of a build.

    Args:
      log: what to build.
      parts: its partitions; all events are one if left out.
      known: what item counts see, if not all events of the parts.
      within: another range than the log's.
      spec: another spec than the log's.
    """
    parts = [log.events] if parts is None else parts
    within, spec = within or log.within, spec or log.spec
    side = side_tables(
        log, spec, within, [row for part in parts for row in part] if known is None else known
    )
    merged, _ = merge_partitions([table_of(part) for part in parts])
    listening = Listening.of(merged, spec.sessions.rule, spec.labels.play_rule)
    kind = building.KINDS[spec.kind]
    made = kind.build(listening, spec, build_range(log, within), side)
    for table in made.tables.values():
        assert dict(table.schema) == kind.schema(spec)
    found = [
        {"split": split, **row}
        for split, table in made.tables.items()
        for row in strategies.to_dicts(table)
    ]
    return sorted(found, key=order), made.counts


def order(row: dict) -> tuple:
    """What tells rows apart, on both sides: an order of them."""
    if "user_ids" in row:
        return row["user_ids"], row["event_times"], row["event_ids"], row["split"]
    if "end_time" in row:
        return row["user_id"], row["end_time"], row["event_ids"], row["split"]
    if "event_time" in row:
        return row["user_id"], row["event_time"], row["event_id"], row["split"]
    # Two sessions of one start have ids that mean nothing to the other side.
    return row["user_id"], row["session_start"], row["track_ids"], row["split"]


def same(left: object, right: object) -> bool:
    """Equality of type and value, bit for bit: NaN equals NaN, and 0.0 does not equal -0.0."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return repr(left) == repr(right)
    return type(left) is type(right) and left == right


def assert_equal_rows(got: list[dict], wanted: list[dict]) -> None:
    """Row for row, column for column, types included; session ids as a partition of the rows."""
    names = [order(row) for row in got]
    assert names == [order(row) for row in wanted]
    for left, right, name in zip(got, wanted, names, strict=True):
        assert set(left) - set(CHOSEN) == set(right)
        differing = {
            column: (left[column], right[column])
            for column in right
            if column != "session_id" and not same(left[column], right[column])
        }
        assert not differing, f"{name}: (built, oracle) {differing}"
    pairs = {
        (left["session_id"], right["session_id"])
        for left, right in zip(got, wanted, strict=True)
        if "session_id" in right
    }
    assert len({left for left, _ in pairs}) == len(pairs), "two sessions share an id"
    assert len({right for _, right in pairs}) == len(pairs), "one session has two ids"
    assert all((left is None) == (right is None) for left, right in pairs)


def wanted_rows(log: strategies.Log, known: list[dict] | None = None) -> tuple[list[dict], Counts]:
    """Rows and counts of the oracle."""
    found, counts = ORACLES[log.spec.kind](log.world(known))
    return sorted(found, key=order), counts


def check_rows(log: strategies.Log) -> None:
    """Rows and counts of a build equal the oracle's."""
    found, counts = build(log)
    wanted, left_out = wanted_rows(log)
    assert_equal_rows(found, wanted)
    assert counts["examples"] == len(wanted)
    assert counts["immature"] == left_out["immature"]
    assert sum(counts["split_dropped"].values()) == left_out["dropped"]
    for name in ("too_short", "targets_too_short"):
        assert counts.get(name, 0) == left_out[name]


def check_partitions(log: strategies.Log, parts: list[list[dict]]) -> None:
    """Rows of a build of several partitions equal the oracle's."""
    counted = oracle.prepared(log.events)
    found, _ = build(log, parts, known=counted)
    assert_equal_rows(found, wanted_rows(log, counted)[0])


def check_order(log: strategies.Log, parts: list[list[dict]], random: Random) -> None:
    """Neither the order of partitions nor that of their rows changes a build."""
    once = build(log, parts)
    for part in parts:
        random.shuffle(part)
    random.shuffle(parts)
    again = build(log, parts)
    assert_same(again[0], once[0])
    assert again[1] == once[1]


def check_daily(log: strategies.Log) -> None:
    """Builds of single days, from what the spec says they read, add up to that of their range."""
    assert_same(daily(log), build(log)[0])


def assert_same(left: list[dict], right: list[dict]) -> None:
    """Two builds have the same rows, chosen columns and NaN included."""
    assert [order(row) for row in left] == [order(row) for row in right]
    for one, other in zip(left, right, strict=True):
        assert list(one) == list(other)
        differing = {
            name: (one[name], other[name]) for name in one if not same(one[name], other[name])
        }
        assert not differing, f"{order(one)}: {differing}"


def daily(log: strategies.Log) -> list[dict]:
    """Rows of the days of the range, built one by one from what `planning` reads for each."""
    found = []
    spec, within = log.spec, log.within
    remembered_us = build_range(log, within).borders.train_end_us - splits.MEMORY_US
    for first_us in range(within.first_us, within.end_us, oracle.DAY_US):
        end_us = first_us + oracle.DAY_US
        left_us = min(first_us - spec.left_context_us, remembered_us - spec.sessions.rule.cap_us)
        right_us = end_us + spec.right_context_us
        part = [event for event in log.events if left_us <= event["event_time"] < right_us]
        day = dataclasses.replace(within, first_us=first_us, end_us=end_us)
        found += build(log, [part], known=log.events, within=day)[0]
    return sorted(found, key=order)


def smallest(log: strategies.Log, check: Callable[[strategies.Log], None]) -> strategies.Log | None:
    """The log without every event that the failure of `check` does not need, or None."""

    def fails(events: list[dict]) -> bool:
        try:
            check(dataclasses.replace(log, events=events))
        except AssertionError:
            return True
        return False

    kept = log.events
    if not fails(kept):
        return None
    for event in list(kept):
        without = [other for other in kept if other is not event]
        if fails(without):
            kept = without
    return dataclasses.replace(log, events=kept)


def check_long_logs(
    kind: str, fields: dict, given: bool, check: Callable[[strategies.Log], None], count: int
) -> None:
    """Runs a check on random logs; of one that fails it shows the part that it takes to fail.

    Args:
      kind, fields: of the spec.
      given: whether sources may give sessions.
      check: raises AssertionError.
      count: of logs.
    """
    for seed in range(count):
        log = strategies.random_log(seed, fields, kind, given=given)
        found = smallest(log, check)
        if found is not None:
            print(found.rules, found.within, *map(shown, found.events), sep="\n")
            check(found)


def shown(event: dict) -> dict:
    """An event without what it does not say; its time in hours from the first day on."""
    said = {name: value for name, value in event.items() if value is not None}
    return {**said, "event_time": (event["event_time"] - strategies.FIRST_US) / oracle.HOUR_US}
