"""Ranking rows: one a recommendation decision, with what was known before it and what came of it.

A row stands for an impression, or for a play of a source that logs no impressions. Its instant t is
the event's event_time. Features see events strictly before t; labels see [t, t + horizon). Rows are
owned by the UTC day of t, so the rows of a range are the union of the rows of its days.
"""

from __future__ import annotations

import dataclasses
import datetime

import numpy as np
import polars as pl

from schemas import LISTENING_EVENT, forms
from schemas.forms import field_description
from transforms import attribution, features, hashing, labels, sessions, timeline
from transforms.buckets import USER_HASH
from transforms.counts import Counts
from transforms.events import NEAR_DUPLICATE, drop_duplicates, sort_events
from transforms.features.context import FeatureContext
from transforms.features.registry import FEATURES
from transforms.manifest import ColumnEntry
from transforms.specs import RankingSpec
from transforms.timeline import BoolArray, IntArray, SortedGroups

# Columns of the example's own event that a row carries. Nothing that is known only after it.
_CARRIED = (
    "event_id", "event_type", "event_time", "user_id", "track_id", "artist_id", "album_id",
    "surface", "shelf", "position", "request_id", "candidate_set_size", "policy_id",
    "model_version", "propensity", "is_exploration", "experiment_id", "variant", "context_uri",
    "shuffle", "premium", "platform", "country", "source",
)  # fmt: skip
assert not any(LISTENING_EVENT[name].post_decision for name in _CARRIED)

_LABEL_COLUMNS: dict[str, tuple[pl.DataType, str]] = {
    "label_played": (pl.Boolean(), "The impression led to a play; true for a play row."),
    "label_play_delay_ms": (
        pl.Int64(),
        "Milliseconds from the impression to the play it led to; null without one. Unit: ms.",
    ),
    "label_streamed_30s": (pl.Boolean(), "The play lasted at least 30 s."),
    "label_completion": (pl.Float64(), "Share of the track that was played, up to the cap."),
    "label_skipped": (pl.Boolean(), "The play was cut short by the listener."),
    "label_liked": (pl.Boolean(), "The track was liked within the horizon, and still is."),
    "label_saved": (pl.Boolean(), "The track was saved within the horizon, and still is."),
    "label_reward": (pl.Float64(), "Weighted sum of labels; null if one of them is unknown."),
}

# What a build reads of the store.
READ_COLUMNS = [
    *_CARRIED,
    "received_time",
    "time_quality",
    "played_ms",
    "track_duration_ms",
    "reason_end",
    "source_skip_level",
    "source_session_id",
    USER_HASH,
    NEAR_DUPLICATE,
]


def schema(spec: RankingSpec) -> dict[str, pl.DataType]:
    """Column name -> Polars type of the rows of a spec, in order."""
    events = forms.polars_schema(LISTENING_EVENT)
    return {
        **{name: events[name] for name in _CARRIED},
        "session_id": pl.Int64(),
        **{name: FEATURES[name].feature.type for name in spec.features},
        **{name: kind for name, (kind, _) in _LABEL_COLUMNS.items()},
    }


def columns(spec: RankingSpec) -> tuple[ColumnEntry, ...]:
    """The columns as the manifest lists them."""
    described = {name: ("context", field_description(LISTENING_EVENT[name])) for name in _CARRIED}
    described["session_id"] = (
        "session",
        "Session of the example; null past the session cap. See transforms.sessions.",
    )
    for name in spec.features:
        feature = FEATURES[name].feature
        described[name] = (feature.family, feature.description)
    for name, (_, text) in _LABEL_COLUMNS.items():
        described[name] = ("label", text)
    required = {field.name for field in LISTENING_EVENT.fields if field.required}
    required |= {n for n in spec.features if not FEATURES[n].feature.nullable}
    required.add("label_played")
    return tuple(
        ColumnEntry(
            name=name,
            type=forms.type_name(kind),
            nullable=name not in required,
            description=described[name][1],
            family=described[name][0],
        )
        for name, kind in schema(spec).items()
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BuildRange:
    """The time that a build covers, in UTC microseconds, and what it may know.

    Attributes:
      first_us: start of the first day.
      end_us: end of the last day, exclusive.
      watermark_us: every event before this instant that will ever count is known, late ones
        included; rows whose horizon ends later are immature.
      play_sources: sources whose plays are examples; impressions are examples of all others.
      like_sources, save_sources: sources that tell of likes and of saves; the labels of all others
        are unknown, not false.
    """

    first_us: int
    end_us: int
    watermark_us: int
    play_sources: tuple[str, ...]
    like_sources: tuple[str, ...]
    save_sources: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RankingRows:
    """Rows of `schema(spec)`, by user and time, and counts of where examples went."""

    rows: pl.DataFrame
    counts: Counts


def prepare_events(parts: list[pl.DataFrame]) -> tuple[pl.DataFrame, Counts]:
    """One sorted table without duplicates from a bucket's tables of several partitions.

    Args:
      parts: READ_COLUMNS, each in store order.

    Returns:
      The events that count (near duplicates left out), and the counts of those that do not.
    """
    table = pl.concat(parts) if parts else pl.DataFrame()
    dropped = 0
    if len(parts) > 1:
        table, dropped, _ = drop_duplicates(table)
        table = sort_events(table)
    near = int(table[NEAR_DUPLICATE].sum()) if table.height else 0
    if near:
        table = table.filter(~pl.col(NEAR_DUPLICATE))
    counts = {
        "events": table.height,
        "duplicate_across_partitions": dropped,
        "near_duplicate": near,
    }
    return table, counts


def build_rows(
    events: pl.DataFrame, spec: RankingSpec, within: BuildRange, item_snapshots: pl.DataFrame
) -> RankingRows:
    """The ranking rows that a bucket's users have in the range.

    Args:
      events: of `prepare_events`, over the range and its contexts on both sides.
      spec: of the dataset.
      within: range, watermark and which sources' plays are rows.
      item_snapshots: `features.item.SNAPSHOT_SCHEMA` for the days of the range.
    """
    if events.is_empty():
        return RankingRows(pl.DataFrame(schema=schema(spec)), {})
    user = timeline.run_codes(events[USER_HASH])
    time_us = timeline.times_us(events["event_time"])
    kind = events["event_type"]
    is_play = (kind == "play").to_numpy()
    is_shown = (kind == "impression").to_numpy()

    # Near duplicates are gone, so plays and impressions are what makes sessions.
    rule = spec.sessions.rule
    played_us = timeline.filled(events["played_ms"], 0) * 1000
    end_us = np.where(is_play, time_us + np.minimum(played_us, rule.cap_us), time_us)
    makers = np.flatnonzero(is_play | is_shown)
    given = timeline.value_codes(events["source_session_id"][makers])
    given[events["source_session_id"][makers].is_null().to_numpy()] = -1
    in_sessions = sessions.sessionize(user[makers], time_us[makers], end_us[makers], given, rule)

    owned = _examples(events, spec, within, is_play, is_shown, time_us)
    mature = time_us + spec.labels.horizon_us <= within.watermark_us
    rows = np.flatnonzero(owned & mature)
    immature = int((owned & ~mature).sum())

    context = FeatureContext(
        events=events,
        user=user,
        time_us=time_us,
        end_us=end_us,
        rows=rows,
        makers=makers,
        sessions=in_sessions,
        skip_below_ms=spec.labels.skip_below_ms,
        history_length=spec.history_length,
        item_snapshots=item_snapshots,
    )
    session_id = sessions.session_ids(events[makers].select("user_id", "event_id"), in_sessions)
    at = np.searchsorted(makers, rows)
    table = pl.concat(
        [
            events[rows].select(_CARRIED),
            session_id[at].to_frame(),
            features.compute(context, spec.features),
            _labels(context, spec, within, is_shown),
        ],
        how="horizontal",
    ).select(list(schema(spec)))
    started = in_sessions.start[at]
    counts = {
        "examples": len(rows),
        "immature": immature,
        "sessions": len(np.unique(started)),
        "session_overflow": int(in_sessions.overflow[at].sum()),
        "labels": _label_counts(table),
        "reward_unknown": table["label_reward"].null_count(),
    }
    return RankingRows(table, counts)


def order_rows(table: pl.DataFrame, spec: RankingSpec) -> pl.DataFrame:
    """Rows in the order of a keyed hash of (user, event), so that position tells nothing."""
    key = pl.concat_str("user_id", "event_id", separator="\x1f")
    order = hashing.hash64(key, "row-order", spec.seed)
    return table.sort(order, "event_id", "user_id")


def _examples(
    events: pl.DataFrame,
    spec: RankingSpec,
    within: BuildRange,
    is_play: BoolArray,
    is_shown: BoolArray,
    time_us: IntArray,
) -> BoolArray:
    """Which events are examples of the range, mature or not."""
    by_play = events["source"].is_in(list(within.play_sources)).to_numpy()
    chosen = np.where(by_play, is_play, is_shown)
    chosen &= (time_us >= within.first_us) & (time_us < within.end_us)
    if spec.examples.surfaces is not None:
        surface = events["surface"].is_in(list(spec.examples.surfaces)).fill_null(value=False)
        chosen &= surface.to_numpy()
    return chosen


def _labels(
    context: FeatureContext, spec: RankingSpec, within: BuildRange, is_shown: BoolArray
) -> pl.DataFrame:
    """The label columns of the context's examples."""
    events, rows = context.events, context.rows
    outcome = _outcomes(context, spec)[rows]
    played = outcome >= 0
    play = np.where(played, outcome, rows)
    delay = pl.Series((context.time_us[play] - context.row_time_us) // 1000)
    judged = labels.play_labels(events[play], spec.labels.skip_below_ms, spec.labels.completion_cap)
    shown = is_shown[rows]
    table = judged.select(
        pl.Series(played).alias("label_played"),
        pl.when(pl.Series(played & shown)).then(delay).alias("label_play_delay_ms"),
        *(
            pl.when(pl.Series(played)).then(name).otherwise(absent).alias(f"label_{name}")
            for name, absent in (
                ("streamed_30s", pl.lit(value=False)),
                ("completion", pl.lit(0.0)),
                ("skipped", pl.lit(value=False)),
            )
        ),
        *(
            pl.when(events["source"].gather(rows).is_in(list(sources)))
            .then(pl.Series(_resolved(context, spec, yes, no)))
            .alias(name)
            for name, yes, no, sources in (
                ("label_liked", "like", "unlike", within.like_sources),
                ("label_saved", "save", "unsave", within.save_sources),
            )
        ),
    )
    return table.with_columns(labels.reward(spec.labels.reward).alias("label_reward"))


def _outcomes(context: FeatureContext, spec: RankingSpec) -> IntArray:
    """For each event its outcome: the play an impression led to, a play itself, else -1."""
    events, makers = context.events, context.makers
    tracks = context.tracks[makers]
    surface = events["surface"][makers]
    surfaces = timeline.value_codes(surface)
    credited = attribution.credit_plays(
        tracks * (int(surfaces.max()) + 1 if len(surfaces) else 1) + surfaces,
        context.time_us[makers],
        context.is_impression[makers],
        spec.attribution.windows.of(surface),
    )
    outcome = np.full(events.height, -1, dtype=np.int64)
    outcome[makers] = np.where(credited >= 0, makers[credited], -1)
    plays = np.flatnonzero(context.is_play)
    outcome[plays] = plays
    return outcome


def _resolved(context: FeatureContext, spec: RankingSpec, yes: str, no: str) -> BoolArray:
    positive = context.of_type(yes)
    rows = np.flatnonzero(positive | context.of_type(no))
    order = np.lexsort((rows, context.time_us[rows], context.tracks[rows]))
    rows = rows[order]
    return labels.resolved_within(
        SortedGroups.of(context.tracks[rows], context.time_us[rows]),
        positive[rows],
        context.tracks[context.rows],
        context.row_time_us,
        spec.labels.horizon_us,
    )


def _label_counts(table: pl.DataFrame) -> Counts:
    """Unknown rows of each label, and true rows of the boolean ones."""
    counts: Counts = {}
    for name in labels.LABELS:
        column = table[f"label_{name}"]
        counts[name] = {"unknown": column.null_count()}
        if column.dtype == pl.Boolean():
            counts[name]["true"] = int(column.sum())
    return counts


def no_counts() -> Counts:
    """The counts of a bucket without events."""
    empty = pl.DataFrame(schema={name: kind for name, (kind, _) in _LABEL_COLUMNS.items()})
    return {
        **dict.fromkeys(("late", "events", "duplicate_across_partitions", "near_duplicate"), 0),
        **dict.fromkeys(("examples", "immature", "sessions", "session_overflow"), 0),
        "reward_unknown": 0,
        "labels": _label_counts(empty),
    }


def day_start_us(day: datetime.date) -> int:
    """UTC microseconds of a day's first instant."""
    return (day - datetime.date(1970, 1, 1)).days * timeline.DAY_US
