"""Builds of drawn logs, bucket by bucket as a job makes them, and their comparison with the oracle.

Rows are dicts with the name of their split under `split`; times are integer microseconds.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Callable, Sequence

import polars as pl
from hypothesis import HealthCheck, Phase, settings

from tests import oracle, strategies
from transforms import building, store, vocabulary
from transforms import events as events_module
from transforms.counts import Counts
from transforms.datasets import rows
from transforms.features import item
from transforms.item_pools import ItemPools, item_pools
from transforms.listening import Listening, merge_partitions
from transforms.specs import DatasetSpec, SequencesSpec
from transforms.splits import Borders

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
    """An order of rows that both sides have."""
    for time, name in (
        ("event_time", "event_id"),
        ("end_time", "event_ids"),
        ("session_start", "session_id"),
    ):
        if time in row:
            # Sessions of one start, given by the source, have ids that mean nothing to the other.
            last = row["track_ids"] if name == "session_id" else row[name]
            return row["user_id"], row[time], last, row["split"]
    raise AssertionError(f"not a row: {row}")


def same(left: object, right: object) -> bool:
    """Equality in which NaN equals NaN."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right


def assert_equal_rows(got: list[dict], wanted: list[dict], ids: Sequence[str] = ("session_id",)):
    """Row for row, column for column, types included; `ids` as a partition of the rows."""
    names = [(row["user_id"], row["split"], order(row)[1:3]) for row in got]
    assert names == [(row["user_id"], row["split"], order(row)[1:3]) for row in wanted]
    for left, right, name in zip(got, wanted, names, strict=True):
        assert set(left) == set(right)
        differing = {
            column: (left[column], right[column])
            for column in left
            if column not in ids and not same(left[column], right[column])
        }
        assert not differing, f"{name}: (built, oracle) {differing}"
    for column in ids:
        pairs = {(left[column], right[column]) for left, right in zip(got, wanted, strict=True)}
        assert len({left for left, _ in pairs}) == len(pairs), f"{column}: one id of two"
        assert len({right for _, right in pairs}) == len(pairs), f"{column}: two ids of one"
        assert all((left is None) == (right is None) for left, right in pairs), f"{column}: null"


def daily(log: strategies.Log, cut: bool) -> list[dict]:
    """Rows of the days of the range, built one by one; `cut`: from what the spec says it reads."""
    found = []
    within = log.within
    for first_us in range(within.first_us, within.end_us, oracle.DAY_US):
        end_us = first_us + oracle.DAY_US
        part = log.events
        if cut:
            left, right = log.spec.left_context_us, log.spec.right_context_us
            part = [
                event for event in part if first_us - left <= event["event_time"] < end_us + right
            ]
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
    kind: str,
    check: Callable[[strategies.Log], None],
    seeds: Sequence[int],
    fields: dict,
    **options: object,
) -> None:
    """Runs a check on random logs; of one that fails it shows the part that it takes to fail."""
    for seed in seeds:
        log = strategies.random_log(seed, fields, kind, **options)
        found = smallest(log, check)
        if found is not None:
            print(found.rules, found.within, *map(shown, found.events), sep="\n")
            check(found)


def shown(event: dict) -> dict:
    """An event without what it does not say, and its time from the first day on."""
    said = {name: value for name, value in event.items() if value is not None}
    return {**said, "event_time": (event["event_time"] - strategies.FIRST_US) / oracle.HOUR_US}
