"""What rows of every kind of dataset share: the event's own columns, labels, splits.

A row's instant t is its event's event_time. Features see events strictly before t; labels see
[t, t + horizon). Rows are owned by the UTC day of t, so the rows of a range are the union of the
rows of its days.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from schemas import LISTENING_EVENT, forms
from schemas.forms import field_description
from transforms import attribution, hashing, labels, splits, timeline
from transforms.buckets import USER_HASH
from transforms.counts import Counts
from transforms.events import NEAR_DUPLICATE
from transforms.features.context import FeatureContext
from transforms.features.item import cold_items
from transforms.features.registry import FEATURES, compute
from transforms.item_pools import ItemPools
from transforms.listening import Listening
from transforms.manifest import ColumnEntry
from transforms.semantic_ids import SemanticIds
from transforms.specs import DatasetSpec
from transforms.splits import SPLITS, Borders
from transforms.timeline import BoolArray, IntArray, Occurrences, SortedGroups

# Columns of the example's own event that a row carries. Nothing that is known only after it.
CARRIED = (
    "event_id", "event_type", "event_time", "user_id", "track_id", "artist_id", "album_id",
    "surface", "shelf", "position", "request_id", "candidate_set_size", "policy_id",
    "model_version", "propensity", "is_exploration", "experiment_id", "variant", "context_uri",
    "shuffle", "premium", "platform", "country", "source",
)  # fmt: skip
assert not any(LISTENING_EVENT[name].post_decision for name in CARRIED)

IDENTIFIERS = ("event_id", "user_id", "track_id", "artist_id", "album_id", "request_id",
               "context_uri")  # fmt: skip

# What a build reads of the store.
READ_COLUMNS = [
    *CARRIED, "received_time", "time_quality", "played_ms", "track_duration_ms", "reason_end",
    "source_skip_level", "source_session_id", USER_HASH, NEAR_DUPLICATE,
]  # fmt: skip

_B, _MS, _F = pl.Boolean(), pl.Int64(), pl.Float64()
LABEL_COLUMNS: dict[str, tuple[pl.DataType, str]] = {
    "label_status": (
        pl.String(),
        "mature; or censored: the label window is cut by a border, and all labels are null.",
    ),
    "label_played": (_B, "The impression led to a play; true for a play row."),
    "label_play_delay_ms": (
        _MS,
        "Milliseconds from the impression to the play it led to; null without one.",
    ),
    "label_played_ms": (_MS, "Milliseconds of audio of that play; 0 without one."),
    "label_streamed_30s": (_B, "The play lasted at least 30 s."),
    "label_scrobble": (_B, "Half of the track or four minutes were played, of a track over 30 s."),
    "label_completion": (_F, "Share of the track that was played, up to the cap."),
    "label_skip_1": (_B, "The listener cut the play very early (labels.skip_1_below_ms)."),
    "label_skip_2": (_B, "The listener cut the play early (labels.skip_2_below_ms)."),
    "label_skip_3": (_B, "The listener cut the play before its end (labels.skip_3_below_share)."),
    "label_liked": (_B, "The track was liked within the horizon, and still is."),
    "label_like_delay_ms": (_MS, "Milliseconds to that like; null without one."),
    "label_saved": (_B, "The track was saved within the horizon, and still is."),
    "label_save_delay_ms": (_MS, "Milliseconds to that save; null without one."),
    "label_returned_24h": (
        _B,
        "The user started another session in the 24 h after; null if the horizon is shorter.",
    ),
    "label_session_continued": (
        _B,
        "Another play started in the session after this; null without a session.",
    ),
    "label_reward": (_F, "Weighted sum of labels; null if one of them is unknown."),
}

SPLIT_COLUMNS: dict[str, tuple[pl.DataType, str]] = {
    "is_cold_user": (_B, "The user played nothing in the 7 days before, train's days only."),
    "is_cold_item": (_B, "Nobody played the track in the 7 days before, train's days only."),
}


@dataclasses.dataclass(frozen=True)
class BuildRange:
    """The time that a build covers, in UTC microseconds, and what it may know.

    Attributes:
      first_us: start of the first day.
      end_us: end of the last day, exclusive.
      watermark_us: every event before this instant that will ever count is known, late ones
        included; rows whose horizon ends later are immature.
      borders: of the splits.
      play_sources: sources whose plays are examples of a ranking dataset; impressions are those of
        all others.
      like_sources, save_sources: sources that tell of likes and of saves; the labels of all others
        are unknown, not false.
    """

    first_us: int
    end_us: int
    watermark_us: int
    borders: Borders
    play_sources: tuple[str, ...]
    like_sources: tuple[str, ...]
    save_sources: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SideTables:
    """What all buckets of a build share, made once before them.

    Attributes:
      item_snapshots: `features.item.SNAPSHOT_SCHEMA` for the days of the range.
      pools: items to draw negatives from, day by day; None where the kind draws none.
      vocabulary: `vocabulary.SCHEMA`; None where the kind has no item index.
      semantic_ids: codes of items; None where none were given.
    """

    item_snapshots: pl.DataFrame
    pools: ItemPools | None = None
    vocabulary: pl.DataFrame | None = None
    semantic_ids: SemanticIds | None = None


@dataclasses.dataclass(frozen=True)
class Built:
    """Rows of a bucket by split, in no order that means anything, and counts of where rows went."""

    tables: dict[str, pl.DataFrame]
    counts: Counts


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Events that become rows.

    Attributes:
      rows: index of each event.
      split: its split, index in SPLITS.
      censored: its label window is cut by a border.
      counts: of those that do not become rows.
    """

    rows: IntArray
    split: IntArray
    censored: BoolArray
    counts: Counts

    def only(self, keep: BoolArray) -> Chosen:
        """Some of the rows."""
        return Chosen(self.rows[keep], self.split[keep], self.censored[keep], self.counts)


def choose(
    listening: Listening,
    wanted: BoolArray,
    closes_us: IntArray,
    known_us: IntArray,
    spec: DatasetSpec,
    within: BuildRange,
) -> Chosen:
    """Which of the wanted events are rows: mature, and in a split.

    Args:
      listening: of the bucket.
      wanted: events that the kind makes rows of.
      closes_us: end of each event's label window, exclusive.
      known_us: when the plays that its labels judge were over, which may be later: a play that
        began in the window may end behind a border.
      spec, within: of the build.
    """
    in_range = (listening.time_us >= within.first_us) & (listening.time_us < within.end_us)
    owned = wanted & in_range
    mature = closes_us <= within.watermark_us
    rows = np.flatnonzero(owned & mature)
    held_user = listening.events[rows].select(
        splits.is_held_out(pl.col("user_id"), spec.splits.holdout_user_share, spec.seed)
    )
    assigned = splits.assign(
        within.borders,
        listening.time_us[rows],
        listening.session_start_us[rows],
        np.maximum(closes_us, known_us)[rows],
        held_user.to_series().to_numpy(),
        # What happens behind the border decides nothing of train.
        near_held_out_arm(
            listening, rows, np.minimum(closes_us[rows], within.borders.train_border_us), spec
        ),
        spec.splits.open_labels,
    )
    kept = assigned.split >= 0
    counts = {
        "examples": int(kept.sum()),
        "censored": int(assigned.censored.sum()),
        "immature": int((owned & ~mature).sum()),
        "split_dropped": assigned.counts,
    }
    return Chosen(rows[kept], assigned.split[kept], assigned.censored[kept], counts)


def near_held_out_arm(
    listening: Listening, rows: IntArray, until_us: IntArray, spec: DatasetSpec
) -> BoolArray:
    """Whether the user has an event of a held-out arm in [t - 7 d, until)."""
    held = held_out_events(listening, spec)
    window_us = until_us - listening.time_us[rows] + splits.MEMORY_US
    return listening.by_user.count(listening.user[rows], until_us, window_us, held) > 0


def held_out_events(listening: Listening, spec: DatasetSpec) -> BoolArray:
    """Events of a held-out arm of an experiment."""
    held = np.zeros(listening.events.height, dtype=bool)
    for experiment, arms in spec.splits.experiment_holdouts.items():
        for arm in arms:
            held |= _events_of_arm(listening, experiment, arm)
    return held


def held_out_counts(listening: Listening, spec: DatasetSpec) -> Counts:
    """Experiment -> held-out arm -> events of it, those of the context included."""
    return {
        experiment: {arm: int(_events_of_arm(listening, experiment, arm).sum()) for arm in arms}
        for experiment, arms in spec.splits.experiment_holdouts.items()
    }


def _events_of_arm(listening: Listening, experiment: str, arm: str) -> BoolArray:
    of_arm = (pl.col("experiment_id") == experiment) & (pl.col("variant") == arm)
    return listening.events.select(of_arm.fill_null(value=False)).to_series().to_numpy()


def split_flags(context: FeatureContext, borders: Borders) -> pl.DataFrame:
    """`is_cold_user`, `is_cold_item` of the context's examples.

    Both look at the 7 days before t, but never behind the end of train: a user or a track that only
    a later split has seen is cold to a model of train.
    """
    until_us = np.minimum(context.row_time_us, borders.train_end_us)
    played = context.plays.count(context.row_user, until_us, splits.MEMORY_US)
    keys = context.events[context.rows].select(
        pl.min_horizontal(pl.col("event_time").dt.date(), pl.lit(borders.train_end_day)).alias(
            "day"
        ),
        "track_id",
    )
    return pl.DataFrame(
        {"is_cold_user": played == 0, "is_cold_item": cold_items(keys, context.item_snapshots)}
    )


def outcomes(listening: Listening, windows: attribution.Windows) -> IntArray:
    """For each event its outcome: the play an impression led to, a play itself, else -1."""
    events = listening.events
    seen = np.flatnonzero(listening.is_play | listening.is_impression)
    tracks, surface = listening.tracks[seen], events["surface"][seen]
    surfaces = timeline.value_codes(surface)
    credited = attribution.credit_plays(
        tracks * (int(surfaces.max()) + 1 if len(surfaces) else 1) + surfaces,
        listening.time_us[seen],
        listening.is_impression[seen],
        windows.of(surface),
    )
    outcome = np.full(events.height, -1, dtype=np.int64)
    outcome[seen] = np.where(credited >= 0, seen[credited], -1)
    plays = np.flatnonzero(listening.is_play)
    outcome[plays] = plays
    return outcome


def outcome_over_us(listening: Listening, outcome: IntArray) -> IntArray:
    """When the outcome of each event was over; event_time where there is none."""
    over_us = listening.played_out_us[np.maximum(outcome, 0)]
    return np.where(outcome >= 0, over_us, listening.time_us)


def label_table(
    context: FeatureContext,
    outcome: IntArray,
    censored: BoolArray,
    spec: DatasetSpec,
    within: BuildRange,
) -> pl.DataFrame:
    """LABEL_COLUMNS of the context's examples.

    Args:
      context: the examples.
      outcome: `outcomes` of all events.
      censored: examples whose label window is cut; all their labels are null.
      spec, within: of the build.
    """
    events, rows = context.events, context.rows
    result = outcome[rows]
    played = result >= 0
    play = np.where(played, result, rows)
    judged = labels.play_labels(events[play], spec.labels.play_rule).with_columns(
        events["played_ms"].gather(play).alias("played_ms")
    )
    delay_ms = (context.time_us[play] - context.row_time_us) // 1000
    source = events["source"].gather(rows)
    like_at, like_ms = _resolve(context, spec, "like", "unlike")
    save_at, save_ms = _resolve(context, spec, "save", "unsave")
    tells_like, tells_save = (
        source.is_in(list(told)).to_numpy() for told in (within.like_sources, within.save_sources)
    )
    known_return = np.full(len(rows), spec.labels.horizon_us >= labels.RETURN_US)
    continued = _continues(context, result, spec.labels.horizon_us)
    absent = {"completion": pl.lit(0.0), "played_ms": pl.lit(0)}
    table = judged.select(
        pl.Series(played).alias("label_played"),
        timeline.nullable(delay_ms, played & context.is_impression[rows]).alias(
            "label_play_delay_ms"
        ),
        *(
            pl.when(pl.Series(played))
            .then(name)
            .otherwise(absent.get(name, pl.lit(value=False)))
            .alias(f"label_{name}")
            for name in judged.columns
        ),
        timeline.nullable(like_at, tells_like).alias("label_liked"),
        timeline.nullable(like_ms, tells_like & like_at).alias("label_like_delay_ms"),
        timeline.nullable(save_at, tells_save).alias("label_saved"),
        timeline.nullable(save_ms, tells_save & save_at).alias("label_save_delay_ms"),
        timeline.nullable(_returns(context), known_return).alias("label_returned_24h"),
        timeline.nullable(continued, context.row_in_session).alias("label_session_continued"),
    ).with_columns(labels.reward(spec.labels.reward).alias("label_reward"))
    cut = pl.Series(censored)
    status = pl.when(cut).then(pl.lit(labels.CENSORED)).otherwise(pl.lit(labels.MATURE))
    return table.select(
        status.alias("label_status"),
        pl.when(~cut).then(pl.all()),
    ).select(list(LABEL_COLUMNS))


def _actions(listening: Listening, yes: str, no: str) -> tuple[SortedGroups, IntArray, BoolArray]:
    """Actions by (user, track), the event of each, and whether it is a `yes`."""
    positive = listening.of_type(yes)
    found = np.flatnonzero(positive | listening.of_type(no))
    order = np.lexsort((found, listening.time_us[found], listening.tracks[found]))
    found = found[order]
    groups = SortedGroups.of(listening.tracks[found], listening.time_us[found])
    return groups, found, positive[found]


def resolve_actions(
    context: FeatureContext, yes: str, no: str, horizon_us: int | IntArray
) -> IntArray:
    """The `yes` event that is the latest action on the example's track in [t, t + horizon), or
    -1."""
    groups, found, positive = _actions(context, yes, no)
    tracks = context.tracks[context.rows]
    at = labels.resolve_within(groups, positive, tracks, context.row_time_us, horizon_us)
    return np.where(at >= 0, found[at], -1) if len(found) else at


def _resolve(
    context: FeatureContext, spec: DatasetSpec, yes: str, no: str
) -> tuple[BoolArray, IntArray]:
    event = resolve_actions(context, yes, no, spec.labels.horizon_us)
    done = event >= 0
    when_us = context.time_us[np.where(done, event, context.rows)]
    return done, (when_us - context.row_time_us) // 1000


def _returns(context: FeatureContext) -> BoolArray:
    starts = context.makers[np.unique(context.sessions.start)]
    begun = Occurrences.of(context.user[starts], context.time_us[starts], starts)
    until_us = context.row_time_us + labels.RETURN_US
    return begun.count(context.row_user, until_us, labels.RETURN_US - 1) > 0


def _continues(context: FeatureContext, outcome: IntArray, horizon_us: int) -> BoolArray:
    session = context.session_start
    plays = np.flatnonzero(context.is_play & (session >= 0))
    begun = Occurrences.of(session[plays], context.time_us[plays], plays)
    now_us, of_row = context.row_time_us, context.row_session
    after = begun.count(of_row, now_us + horizon_us, horizon_us - 1)
    own = np.maximum(outcome, 0)
    counted = (outcome >= 0) & (context.time_us[own] > now_us) & (session[own] == of_row)
    return after - counted > 0


def label_counts(table: pl.DataFrame) -> Counts:
    """Of the rows that were labelled: the unknown ones of each label, and the true ones of the
    boolean labels; and how many have no reward."""
    counts: Counts = {}
    for name in labels.LABELS:
        column = table[f"label_{name}"]
        counts[name] = {"unknown": column.null_count()}
        if column.dtype == pl.Boolean():
            counts[name]["true"] = int(column.sum())
    return {
        "labelled": table.height,
        "labels": counts,
        "reward_unknown": table["label_reward"].null_count(),
    }


def by_split(table: pl.DataFrame, split: IntArray) -> dict[str, pl.DataFrame]:
    """The rows of each split; every split is there, also without rows."""
    return {
        name: table.filter(pl.Series(split == code)) for code, name in enumerate(SPLITS)
    }  # fmt: skip


def row_schema(spec: DatasetSpec) -> dict[str, pl.DataType]:
    """Columns of a row that stands for an event: its own, session, features, flags, labels."""
    events = forms.polars_schema(LISTENING_EVENT)
    return {
        **{name: events[name] for name in CARRIED},
        "session_id": pl.Int64(),
        **{name: FEATURES[name].feature.type for name in spec.features},
        **{name: kind for name, (kind, _) in SPLIT_COLUMNS.items()},
        **{name: kind for name, (kind, _) in LABEL_COLUMNS.items()},
    }


def row_columns(spec: DatasetSpec) -> tuple[ColumnEntry, ...]:
    """Those columns as the manifest lists them."""
    entries = []
    for name, kind in row_schema(spec).items():
        entry = {"name": name, "type": forms.type_name(kind), "identifier": name in IDENTIFIERS}
        if name in CARRIED:
            field = LISTENING_EVENT[name]
            entry |= {
                "description": field_description(field),
                "family": "context",
                "nullable": not field.required,
                "unit": field.unit,
            }
        elif name == "session_id":
            entry |= {
                "description": "Session of the example; null past the session cap and for plays "
                "stamped at sync time. See transforms.sessions.",
                "family": "session",
                "identifier": True,
            }
        elif name in FEATURES:
            feature = FEATURES[name].feature
            entry |= {
                "description": feature.description,
                "family": feature.family,
                "nullable": feature.nullable,
                "unit": feature.unit,
                "identifier": feature.identifier,
            }
        elif name in SPLIT_COLUMNS:
            entry |= {"description": SPLIT_COLUMNS[name][1], "family": "split", "nullable": False}
        else:
            entry |= {
                "description": LABEL_COLUMNS[name][1],
                "family": "label",
                "nullable": name != "label_status",
                "unit": "ms" if name.endswith("_ms") else None,
            }
        entries.append(ColumnEntry.model_validate(entry))
    return tuple(entries)


def event_rows(
    context: FeatureContext,
    outcome: IntArray,
    chosen: Chosen,
    spec: DatasetSpec,
    within: BuildRange,
) -> pl.DataFrame:
    """`row_schema` rows of the context's examples, in their order."""
    return pl.concat(
        [
            context.events[context.rows].select(CARRIED),
            context.session_id[context.rows].to_frame(),
            compute(context, spec.features),
            split_flags(context, within.borders),
            label_table(context, outcome, chosen.censored, spec, within),
        ],
        how="horizontal",
    ).select(list(row_schema(spec)))


def session_counts(listening: Listening, rows: IntArray) -> Counts:
    """Sessions that rows are in, and rows that are past the cap of theirs or have none."""
    start = listening.session_start[rows]
    return {
        "sessions": len(np.unique(start[start >= 0])),
        "without_session": int((start < 0).sum()),
    }


def order_rows(table: pl.DataFrame, key: tuple[str, ...], seed: int) -> pl.DataFrame:
    """Rows in the order of a keyed hash of their key, so that position tells nothing."""
    text = pl.concat_str([pl.col(name).cast(pl.String) for name in key], separator="\x1f")
    return table.sort(hashing.hash64(text, "row-order", seed), *key)
