"""Ranking rows: one a recommendation decision, with what was known before it and what came of it.

A row stands for an impression, or for a play of a source that logs no impressions.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms.datasets import rows
from transforms.datasets.rows import BuildRange, Built, SideTables
from transforms.features.context import FeatureContext
from transforms.listening import Listening
from transforms.manifest import ColumnEntry
from transforms.specs import RankingSpec
from transforms.timeline import BoolArray

KEY = ("user_id", "event_id")


def schema(spec: RankingSpec) -> dict[str, pl.DataType]:
    """Column name -> Polars type of the rows of a spec, in order."""
    return rows.row_schema(spec)


def columns(spec: RankingSpec) -> tuple[ColumnEntry, ...]:
    """The columns as the manifest lists them."""
    return rows.row_columns(spec)


def build(listening: Listening, spec: RankingSpec, within: BuildRange, side: SideTables) -> Built:
    """The ranking rows that a bucket's users have in the range."""
    wanted = _examples(listening, spec, within)
    closes_us = listening.time_us + spec.labels.horizon_us
    outcome = rows.outcomes(listening, spec.attribution.windows)
    known_us = rows.outcome_over_us(listening, outcome)
    chosen = rows.choose(listening, wanted, closes_us, known_us, spec, within)
    context = FeatureContext.at(
        listening, chosen.rows, spec.history_length, side.item_snapshots, within.like_sources
    )
    table = rows.event_rows(context, outcome, chosen, spec, within)
    counts = {
        **chosen.counts,
        **rows.session_counts(listening, chosen.rows),
        **rows.label_counts(table),
    }
    return Built(rows.by_split(table, chosen.split), counts)


def _examples(listening: Listening, spec: RankingSpec, within: BuildRange) -> BoolArray:
    """Which events are examples, in whatever range."""
    events = listening.events
    by_play = events["source"].is_in(list(within.play_sources)).to_numpy()
    chosen = np.where(by_play, listening.is_play, listening.is_impression)
    if spec.examples.surfaces is not None:
        surface = events["surface"].is_in(list(spec.examples.surfaces)).fill_null(value=False)
        chosen &= surface.to_numpy()
    return chosen
