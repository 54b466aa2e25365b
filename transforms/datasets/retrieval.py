"""Retrieval rows: a positive play, what was known of its listener before it, and negatives.

A row stands for a play whose `positive` label is true; its instant t is the start of the play.
Features are of the user, the moment, the session and the history: what a query tower may see. What
negatives are and how likely each was to be drawn: `transforms.negatives`.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from schemas import forms
from transforms import labels, negatives
from transforms.datasets import rows
from transforms.datasets.rows import BuildRange, Built, SideTables
from transforms.features.context import FeatureContext
from transforms.listening import Listening
from transforms.manifest import ColumnEntry
from transforms.negatives import Encounters, Evidence, RowsAsked
from transforms.specs import RetrievalSpec
from transforms.timeline import BoolArray, IntArray

KEY = ("user_id", "event_id")

# How long after the start of a play it is known at the latest whether it is a positive. A like or a
# save may come as late as the horizon allows: see `RetrievalSpec.label_reach_us`.
_DECIDED_MS = {
    "played": 0, "streamed_30s": labels.STREAM_MS, "scrobble": labels.SCROBBLE_MS, "liked": 0,
    "saved": 0,
}  # fmt: skip

_DESCRIPTIONS = {
    "neg_track_ids": "Tracks that are negatives of the row.",
    "neg_types": "Where each came from: uniform, popularity, mixed, exposed, skipped.",
    "neg_log_q": "Log of the probability with which its proposal drew it.",
    "neg_weights": "Weight of each: 1 for draws; candidates over kept for exposed and skipped.",
    "neg_is_later_positive": "The user had a positive with it in [t, t + horizon).",
    "positive_log_q": "Log probability of the positive under the drawing sources, weighted by "
    "their counts; null if they could not draw it.",
    "positive_in_batch_log_q": "Log of the positive's share of all plays of its pool; null without "
    "plays.",
}  # fmt: skip


def schema(spec: RetrievalSpec) -> dict[str, pl.DataType]:
    """Column name -> Polars type of the rows of a spec, in order."""
    return {**rows.row_schema(spec), **negatives.SCHEMA}


def columns(spec: RetrievalSpec) -> tuple[ColumnEntry, ...]:
    """The columns as the manifest lists them."""
    drawn = tuple(
        ColumnEntry(
            name=name,
            type=forms.type_name(kind),
            nullable=name.startswith("positive_"),
            description=_DESCRIPTIONS[name],
            family="negative",
            identifier=name == "neg_track_ids",
        )
        for name, kind in negatives.SCHEMA.items()
    )
    return (*rows.row_columns(spec), *drawn)


def build(listening: Listening, spec: RetrievalSpec, within: BuildRange, side: SideTables) -> Built:
    """The retrieval rows that a bucket's users have in the range."""
    outcome = rows.outcomes(listening, spec.attribution.windows)
    positive = _positives(listening, outcome, spec, within, side)
    wanted = positive.copy()
    if spec.surfaces is not None:
        surface = listening.events["surface"].is_in(list(spec.surfaces)).fill_null(value=False)
        wanted &= surface.to_numpy()
    closes_us = listening.time_us + spec.label_reach_us
    # Whether a play of the horizon is a later positive is known this much after its start.
    decided_us = listening.time_us + spec.labels.horizon_us + _DECIDED_MS[spec.positive] * 1000
    known_us = np.maximum(listening.played_out_us, decided_us)
    chosen = rows.choose(listening, wanted, closes_us, known_us, spec, within)
    context = FeatureContext.at(
        listening, chosen.rows, spec.history_length, side.item_snapshots, within.like_sources
    )
    assert side.pools is not None
    drawn = negatives.draw(
        _asked(context),
        _evidence(listening, outcome, positive),
        side.pools,
        spec.negatives,
        spec.seed,
        spec.labels.horizon_us,
    )
    labelled = rows.event_rows(context, outcome, chosen, spec, within)
    table = pl.concat([labelled, drawn.table], how="horizontal")
    counts = {
        **chosen.counts,
        **rows.session_counts(listening, chosen.rows),
        **rows.label_counts(table),
        **drawn.counts,
    }
    return Built(rows.by_split(table, chosen.split), counts)


def _positives(
    listening: Listening,
    outcome: IntArray,
    spec: RetrievalSpec,
    within: BuildRange,
    side: SideTables,
) -> BoolArray:
    """Plays whose `positive` label is true, in the whole table; unknown counts as no."""
    plays = listening.plays.rows
    positive = np.zeros(listening.events.height, dtype=bool)
    context = FeatureContext.at(
        listening, plays, spec.history_length, side.item_snapshots, within.like_sources
    )
    whole = np.zeros(len(plays), dtype=bool)
    labelled = rows.label_table(context, outcome, whole, spec, within)
    positive[plays] = labelled[f"label_{spec.positive}"].fill_null(value=False).to_numpy()
    return positive


def _asked(context: FeatureContext) -> RowsAsked:
    events = context.events[context.rows]
    key = pl.concat_str("user_id", "event_id", separator="\x1f")
    return RowsAsked(
        user=context.row_user,
        time_us=context.row_time_us,
        session=context.session_start[context.rows],
        track_id=events["track_id"],
        key=events.select(key.alias("key")).to_series(),
    )


def _evidence(listening: Listening, outcome: IntArray, positive: BoolArray) -> Evidence:
    def met(which: BoolArray, group: IntArray) -> Encounters:
        at = np.flatnonzero(which)
        tracks = listening.events["track_id"].gather(at)
        return Encounters(group[at], listening.time_us[at], tracks)

    return Evidence(
        positives=met(positive, listening.user),
        exposed=met(listening.is_impression & (outcome < 0), listening.session_start),
        skipped=met(listening.is_skip, listening.session_start),
    )
