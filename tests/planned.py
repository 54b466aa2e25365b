"""Builds as a job plans them, without Beam and without publishing: for what takes many of them."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

from tests import jobs
from transforms import building, shards
from transforms.building import BuildPlan
from transforms.planning import Planned, Request, plan_build
from transforms.specs import DatasetSpec
from transforms.splits import SPLITS

Tables = dict[str, pl.DataFrame]


def build(
    store: pathlib.Path,
    spec: DatasetSpec,
    first: datetime.date,
    last: datetime.date,
    change: Callable[[Planned], BuildPlan] | None = None,
    **request: Any,
) -> Tables:
    """Rows of each split, shard after shard.

    Args:
      store, spec, first, last: what to build.
      change: makes another plan of what was planned.
      request: further fields of the Request.
    """
    planned = plan_build(Request(str(store), spec, "spec", first, last, **request))
    if change is not None:
        planned = dataclasses.replace(planned, plan=change(planned))
    with tempfile.TemporaryDirectory() as folder:
        plan = planned.placed(folder, folder, threads=1)
        building.write_side_tables(plan)
        side = building.load_side_tables(plan)
        made = [
            building.build_shard(shard, plan, side).tables
            for shard in shards.plan_shards(planned.store.bucket_count, spec.output.shards)
        ]
    return union(made)


def union(made: Iterable[Tables]) -> Tables:
    """The tables of several builds, one after the other."""
    parts = list(made)
    return {split: pl.concat([part[split] for part in parts]) for split in SPLITS}


def digests(tables: Tables) -> dict[str, tuple[int, str]]:
    """Stands for the multiset of rows of each split."""
    return {split: jobs.row_digest(table) for split, table in tables.items()}
