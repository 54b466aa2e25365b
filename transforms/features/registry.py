"""The registry of features: each declares what it is before it may be in a dataset.

Schema, statistics, docs and dataset card come from the declaration, and a test of the registry runs
every registered feature against the future, so a new signal is one decorated function.

A feature function takes a `FeatureContext` and returns one column for each feature it declares, row
by row of the context's examples. It sees the events of one bucket; whatever it counts must have
happened before the example's instant, strictly:

    @feature(Feature("user_plays_7d", pl.Int64(), "user", "Plays started ...", window_us=WEEK_US))
    def user_plays(context: FeatureContext) -> Columns: ...

What is known only when a play ended (skips, streams) counts from that end on, not from its start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from transforms.features.context import FeatureContext
from transforms.timeline import DAY_US

WEEK_US = 7 * DAY_US

Columns = Mapping[str, Any]  # feature name -> pl.Series or NumPy array of the examples' length
Function = Callable[[FeatureContext], Columns]

FAMILIES = ("context", "user", "item", "user-item", "session", "history")


@dataclasses.dataclass(frozen=True)
class Feature:
    """A declared feature.

    Attributes:
      name: column name; the window is part of it.
      type: Polars type.
      family: one of FAMILIES.
      description: what it is and when it is null.
      unit: unit of the number ("1" for counts).
      window_us: how far before the example it looks; bounds what a day's build has to read.
      nullable: whether null means something.
      identifier: values are ids of many things, or lists of them.
    """

    name: str
    type: pl.DataType
    family: str
    description: str
    unit: str = "1"
    window_us: int = WEEK_US
    nullable: bool = False
    identifier: bool = False


@dataclasses.dataclass(frozen=True)
class _Entry:
    feature: Feature
    function: Function


FEATURES: dict[str, _Entry] = {}


def feature(*declared: Feature) -> Callable[[Function], Function]:
    """Registers a function for the features it computes, in the order of declaration.

    Raises:
      ValueError: for an unknown family or a name that is taken (a mistake in the code).
    """

    def register(function: Function) -> Function:
        for item in declared:
            if item.family not in FAMILIES:
                raise ValueError(f"{item.name}: family {item.family!r} is not one of {FAMILIES}")
            if item.name in FEATURES:
                raise ValueError(f"{item.name}: is registered twice")
            FEATURES[item.name] = _Entry(item, function)
        return function

    return register


def compute(context: FeatureContext, names: tuple[str, ...]) -> pl.DataFrame:
    """The named features of the context's examples, one row an example, in order of `names`.

    Each function runs once, whichever of its features are asked for.
    """
    results: dict[Function, Columns] = {}
    columns = []
    for name in names:
        entry = FEATURES[name]
        if entry.function not in results:
            results[entry.function] = entry.function(context)
        column = pl.Series(name, results[entry.function][name])
        columns.append(column.cast(entry.feature.type))
    return pl.DataFrame(columns, height=len(context.rows)) if columns else pl.DataFrame()
