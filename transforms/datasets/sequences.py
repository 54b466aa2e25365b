"""Sequence rows: windows of a listener's plays in order, for sequential and generative models.

A user's plays are in the order of (event_time, event id). A play is a target if it is mature and in
a split; whatever came before it is its history. For each user, split and period (a UTC day, or the
whole range) the targets are cut into chunks of `stride` positions, counted back from the newest
target. A row is the window of at most `length` plays that ends at the newest target of a chunk:

    plays     . . . h h h h h h T T T T T T T T       length 10, stride 4
    row 1                 h h h h h h T T T T         (newest: full)
    row 2         h h h h h h T T T T                 T: is_target in this row

Each target is a target of exactly one row. A window holds no play older than `history_days` before
its period, and a row of train none of a held-out arm of an experiment.

Two kinds of columns describe a play in a row. What an input may use is what was known when the next
play started, or when the horizon ended if that was earlier: `played_ratios` and `action_masks`
count a play no further than that, and the last play of a row, if its labels are censored, no
further than the border behind the row's split. Labels are what was known at the end of the horizon:
`label_masks`, `label_known_masks`, `rewards`; only targets have them. NaN stands for an unknown
ratio or reward.
(Sources: SASRec's newest-N windows; action bit masks as in Meta's generative recommenders; row
aligned label columns as in X's algorithm.)
"""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from schemas import forms
from transforms import hashing, labels, timeline, vocabulary
from transforms.counts import Counts
from transforms.datasets import rows
from transforms.datasets.rows import BuildRange, Built, Chosen, SideTables
from transforms.features.context import FeatureContext
from transforms.listening import Listening
from transforms.manifest import ColumnEntry
from transforms.semantic_ids import join_codes
from transforms.specs import SequencesSpec
from transforms.splits import SPLITS
from transforms.timeline import DAY_US, BoolArray, IntArray

KEY = ("user_id", "window_id")

# Bits of action_masks, label_masks and label_known_masks.
BITS = {
    "streamed_30s": 1, "scrobble": 2, "skip_1": 4, "skip_2": 8, "skip_3": 16, "liked": 32,
    "saved": 64, "returned_24h": 128, "session_continued": 256,
}  # fmt: skip

_LISTS: dict[str, tuple[pl.DataType, str, str]] = {
    "event_ids": (pl.String(), "sequence", "Ids of the plays, oldest first."),
    "track_ids": (pl.String(), "sequence", "Tracks of the plays."),
    "item_index": (
        pl.Int64(),
        "sequence",
        "Index of each track: 0 padding, 1 unknown, 2 mask, 3 separator, tracks from 4 on.",
    ),
    "event_times": (pl.Datetime("us", "UTC"), "sequence", "Starts of the plays."),
    "surfaces": (
        pl.String(),
        "sequence",
        "Surface of each play; unknown where there is none.",
    ),
    "played_ratios": (
        pl.Float64(),
        "sequence",
        "Share of the track played until the next play started; NaN if unknown.",
    ),
    "action_masks": (
        pl.Int64(),
        "sequence",
        "What was known of the play when the next one started, a bit each: "
        + ", ".join(f"{name} {bit}" for name, bit in BITS.items()),
    ),
    "is_target": (pl.Boolean(), "split", "The play is a target of this row and of no other."),
    "label_masks": (pl.Int64(), "label", "Labels of targets that are true, a bit each as above."),
    "label_known_masks": (pl.Int64(), "label", "Labels of targets that are known, a bit each."),
    "rewards": (pl.Float64(), "label", "Reward of targets; NaN if unknown, and for other plays."),
}

# What the label columns hold for plays that are no target of the row.
_UNKNOWN_LABELS = {"label_masks": 0, "label_known_masks": 0, "rewards": float("nan")}

_SCALARS: dict[str, tuple[pl.DataType, str, str]] = {
    "user_id": (pl.String(), "context", "Listener."),
    "window_id": (pl.Int64(), "sequence", "Hash of the user, the split and the newest target."),
    "end_time": (pl.Datetime("us", "UTC"), "context", "Start of the newest target."),
}

_PACKED: dict[str, tuple[pl.DataType, str, str]] = {
    "user_ids": (pl.String(), "context", "Listener of each segment."),
    "segment_ids": (pl.Int64(), "sequence", "Segment (user and window) of each play, from 1."),
    "positions": (pl.Int64(), "sequence", "Position of each play in its segment, from 0."),
}


def _fields(spec: SequencesSpec, levels: int) -> dict[str, tuple[pl.DataType, str, str]]:
    """Column -> type, family and description."""
    lists = dict(_LISTS)
    for digit in (*range(levels), "dedup") if levels else ():
        text = f"Digit {digit} of each track's semantic id; -1 for a track without one."
        lists[f"sid_{digit}"] = (pl.Int64(), "sequence", text)
    scalars = dict(_SCALARS)
    if spec.packing == "pack":
        del scalars["user_id"], scalars["end_time"]
        lists |= _PACKED
    wrapped = {name: (pl.List(kind), *rest) for name, (kind, *rest) in lists.items()}
    return {**scalars, **wrapped}  # type: ignore[dict-item]


def schema(spec: SequencesSpec, levels: int = 0) -> dict[str, pl.DataType]:
    """Column name -> Polars type; `levels` digits of semantic ids."""
    return {name: kind for name, (kind, _, _) in _fields(spec, levels).items()}


def columns(spec: SequencesSpec, levels: int = 0) -> tuple[ColumnEntry, ...]:
    """The columns as the manifest lists them."""
    identifiers = {"user_id", "window_id", "event_ids", "track_ids", "item_index", "user_ids"}
    return tuple(
        ColumnEntry(
            name=name,
            type=forms.type_name(kind),
            nullable=False,
            description=text,
            family=family,
            identifier=name in identifiers,
            minimum=-1 if name.startswith("sid_") else None,
        )
        for name, (kind, family, text) in _fields(spec, levels).items()
    )


def key(spec: SequencesSpec) -> tuple[str, ...]:
    """Columns that identify a row; a packed row has no one user."""
    return KEY[1:] if spec.packing == "pack" else KEY


def build(listening: Listening, spec: SequencesSpec, within: BuildRange, side: SideTables) -> Built:
    """The windows of a bucket's users."""
    closes_us = listening.time_us + spec.labels.horizon_us
    known_us = listening.played_out_us
    chosen = rows.choose(listening, listening.is_play, closes_us, known_us, spec, within)
    held = rows.held_out_events(listening, spec)
    steps = _Steps(listening, spec, within, side, chosen)
    tables, short, published = {}, 0, [np.zeros(0, dtype=np.int64)]
    for code, name in enumerate(SPLITS):
        usable = listening.is_play & ~held if name == "train" else listening.is_play
        made = steps.windows(name, chosen.only(chosen.split == code), usable)
        tables[name] = made.table
        short += made.too_short
        published.append(made.targets)
    unknown = {
        name: steps.unknown_tracks(targets)
        for name, targets in zip(SPLITS, published[1:], strict=True)
    }
    targets = np.concatenate(published)
    counts: Counts = {
        **chosen.counts,
        "targets": len(targets),
        "examples": sum(table.height for table in tables.values()),
        "too_short": short,
        "targets_too_short": len(chosen.rows) - len(targets),
        "targets_unknown_track": unknown,
        **rows.session_counts(listening, targets),
        **steps.label_counts(targets),
    }
    return Built(tables, counts)


@dataclasses.dataclass(frozen=True)
class _Windows:
    """Rows of one split, the events that are targets in them, and how many windows were left out
    for being too short."""

    table: pl.DataFrame
    targets: IntArray
    too_short: int


class _Steps:
    """The plays of a bucket with what is said of each, and the windows cut out of them."""

    def __init__(
        self,
        listening: Listening,
        spec: SequencesSpec,
        within: BuildRange,
        side: SideTables,
        chosen: Chosen,
    ) -> None:
        self._spec, self._within, self._side = spec, within, side
        plays = listening.plays.rows
        context = FeatureContext.at(
            listening, plays, spec.history_length, side.item_snapshots, within.like_sources
        )
        horizon_us = spec.labels.horizon_us
        outcome = rows.outcomes(listening, spec.attribution.windows)
        censored = np.zeros(listening.events.height, dtype=bool)
        censored[chosen.rows[chosen.censored]] = True
        self._labelled = rows.label_table(context, outcome, censored[plays], spec, within)
        self._listening = listening
        self._plays = plays
        until_us = np.minimum(self._next_start_us(context), context.row_time_us + horizon_us)
        inputs = self._inputs(context, until_us)
        self._table = self._describe(context, inputs)
        # A censored target in the rows of its own split: what was known of it before the border.
        self._cut = np.searchsorted(plays, chosen.rows[chosen.censored])
        if len(self._cut):
            border_us = within.borders.behind_us(chosen.split[chosen.censored])
            of_cut = FeatureContext.at(
                listening,
                plays[self._cut],
                spec.history_length,
                side.item_snapshots,
                within.like_sources,
            )
            known = self._inputs(of_cut, np.minimum(until_us[self._cut], border_us))
            again = self._table[self._cut].with_columns(known)
            self._table = pl.concat([self._table, again])

    def label_counts(self, targets: IntArray) -> Counts:
        """`rows.label_counts` of some plays."""
        at = np.searchsorted(self._plays, np.sort(targets))
        return rows.label_counts(self._labelled[at])

    def unknown_tracks(self, targets: IntArray) -> int:
        """How many of some plays are of tracks outside the vocabulary."""
        at = np.searchsorted(self._plays, targets)
        return int((self._table["item_index"].gather(at) == vocabulary.UNKNOWN).sum())

    def _inputs(self, context: FeatureContext, until_us: IntArray) -> pl.DataFrame:
        """`played_ratios` and `action_masks` of the context's plays, as known at an instant of
        each."""
        events, spec = context.events[context.rows], self._spec
        after_us = until_us - context.row_time_us
        # What a play says of itself, had it been looked at by then.
        so_far = pl.min_horizontal("played_ms", pl.Series(after_us // 1000))
        played_ms = pl.when(pl.col("played_ms").is_not_null()).then(so_far)
        ended = events["played_ms"].fill_null(0) * 1000 <= pl.Series(after_us)
        early = events.with_columns(played_ms.alias("played_ms"))
        said = labels.play_labels(early, spec.labels.play_rule).with_columns(
            *(pl.when(ended).then(f"skip_{level}").alias(f"skip_{level}") for level in (1, 2, 3)),
            *(
                pl.Series(name, rows.resolve_actions(context, yes, no, after_us) >= 0)
                for name, yes, no in (("liked", "like", "unlike"), ("saved", "save", "unsave"))
            ),
        )
        known = [name for name in BITS if name in said.columns]
        return said.select(
            pl.col("completion").fill_null(float("nan")).alias("played_ratios"),
            _mask({name: pl.col(name) for name in known}).alias("action_masks"),
        )

    def _describe(self, context: FeatureContext, inputs: pl.DataFrame) -> pl.DataFrame:
        """One row a play: `_LISTS` without `is_target`."""
        events, labelled = context.events[context.rows], self._labelled
        tracks = events["track_id"]
        described = pl.DataFrame(
            {
                "event_ids": events["event_id"],
                "track_ids": tracks,
                "item_index": vocabulary.look_up(tracks, self._vocabulary),
                "event_times": events["event_time"],
                "surfaces": events["surface"].fill_null("unknown"),
                "played_ratios": inputs["played_ratios"],
                "action_masks": inputs["action_masks"],
                "label_masks": labelled.select(
                    _mask({n: pl.col(f"label_{n}") for n in BITS})
                ).to_series(),
                "label_known_masks": labelled.select(
                    _mask({n: pl.col(f"label_{n}").is_not_null() for n in BITS})
                ).to_series(),
                "rewards": labelled["label_reward"].fill_null(float("nan")),
            }
        )
        if self._side.semantic_ids is None:
            return described
        return pl.concat([described, join_codes(tracks, self._side.semantic_ids)], how="horizontal")

    @property
    def _vocabulary(self) -> pl.DataFrame:
        assert self._side.vocabulary is not None
        return self._side.vocabulary

    def _next_start_us(self, context: FeatureContext) -> IntArray:
        """When the user's next play started; far in the future after the last."""
        following = np.full(len(self._plays), 1 << 62, dtype=np.int64)
        same = context.row_user[1:] == context.row_user[:-1]
        following[:-1] = np.where(same, context.row_time_us[1:], 1 << 62)
        return following

    def windows(self, split: str, chosen: Chosen, usable: BoolArray) -> _Windows:
        """Rows of one split.

        Args:
          split: its name.
          chosen: the events that are targets in it.
          usable: events that may be in a row of it.
        """
        targets = chosen.rows
        spec, listening = self._spec, self._listening
        levels = 0 if self._side.semantic_ids is None else self._side.semantic_ids.levels
        empty = pl.DataFrame(schema=schema(spec, levels))
        at = np.flatnonzero(usable[self._plays])  # positions that count, in the order of plays
        place = np.searchsorted(self._plays[at], targets)  # of each target among them
        if not len(targets):
            return _Windows(empty, targets, 0)
        user = listening.user[self._plays[at]]
        time_us = listening.time_us[self._plays[at]]
        by_day = spec.period == "day"
        period = time_us[place] // DAY_US if by_day else np.zeros(len(place), dtype=np.int64)
        group = _codes(user[place], period)
        # Targets are in order, so the last one of a run is the newest of its group.
        newest = place[_last_of_runs(group)][group]
        chunk = _codes(group, (newest - place) // spec.stride_or_length * -1)
        last = place[_last_of_runs(chunk)]
        begin_us = np.full(len(last), self._within.first_us, dtype=np.int64)
        if by_day:
            begin_us = period[_last_of_runs(chunk)] * DAY_US
        oldest = timeline.SortedGroups.of(user, time_us).count_before(
            user[last], begin_us - spec.history_days * DAY_US
        )
        first = np.maximum(last + 1 - spec.length, oldest)
        long_enough = last + 1 - first >= spec.min_length
        kept = np.flatnonzero(long_enough)
        if not len(kept):
            return _Windows(empty, targets[:0], len(last))

        flat, offsets = timeline.flat_ranges(first[kept], last[kept] + 1)
        chunk_at = np.full(len(at), -1, dtype=np.int64)
        chunk_at[place] = chunk
        is_target = chunk_at[flat] == np.repeat(kept, last[kept] + 1 - first[kept])
        described = np.arange(len(self._plays))
        here = np.isin(self._plays[self._cut], targets)
        described[self._cut[here]] = len(self._plays) + np.flatnonzero(here)
        cut = self._table[described[at[flat]]].with_columns(pl.Series("is_target", is_target))
        cut = cut.with_columns(
            pl.when("is_target").then(name).otherwise(pl.lit(unknown)).alias(name)
            for name, unknown in _UNKNOWN_LABELS.items()
        )
        events = listening.events[self._plays[at[last[kept]]]]
        text = pl.concat_str(pl.lit(split), "user_id", "event_id", separator="\x1f")
        table = pl.DataFrame(
            {
                "user_id": events["user_id"],
                "window_id": events.select(
                    hashing.hash64(text, "window").reinterpret(signed=True)
                ).to_series(),
                "end_time": events["event_time"],
                **{name: timeline.as_lists(cut[name], offsets) for name in cut.columns},
            }
        )
        if spec.packing == "pack":
            table = pack(table, spec, period[_last_of_runs(chunk)][kept])
        table = table.select(list(schema(spec, levels)))
        return _Windows(table, targets[long_enough[chunk]], len(last) - len(kept))


def _codes(*parts: IntArray) -> IntArray:
    """0, 0, 1, ...: the number of the run of equal values that each position is in."""
    changed = np.zeros(len(parts[0]), dtype=bool)
    for part in parts:
        changed[1:] |= part[1:] != part[:-1]
    return np.cumsum(changed)


def _last_of_runs(codes: IntArray) -> IntArray:
    """Position of the last element of each run of `_codes`."""
    return np.flatnonzero(np.append(codes[1:] != codes[:-1], True))


def _mask(flags: dict[str, pl.Expr]) -> pl.Expr:
    """Sum of the bits of the flags that are true."""
    return pl.sum_horizontal(
        flag.fill_null(value=False).cast(pl.Int64) * BITS[name] for name, flag in flags.items()
    )


def pack(table: pl.DataFrame, spec: SequencesSpec, period: IntArray) -> pl.DataFrame:
    """Several windows in a row, as many as fit into `length`, in keyed order (next fit).

    Windows of different periods do not share a row, so that builds of days add up. The id of a
    packed row is that of its first window.

    Args:
      table: windows of a bucket and split.
      spec: of the dataset.
      period: of each window.
    """
    table = rows.order_rows(table.with_columns(pl.Series("period", period)), KEY, spec.seed)
    table = table.sort("period", maintain_order=True)
    lengths = table["track_ids"].list.len().to_list()
    periods = table["period"].to_list()
    packs, pack_of, room = -1, [], 0
    for i, length in enumerate(lengths):
        if length > room or periods[i] != periods[i - 1] or i == 0:
            packs, room = packs + 1, spec.length
        pack_of.append(packs)
        room -= length
    lists = [name for name, kind in table.schema.items() if isinstance(kind, pl.List)]
    return (
        table.with_columns(
            pl.Series("pack", pack_of),
            pl.int_ranges(0, pl.col("track_ids").list.len()).alias("positions"),
        )
        .with_columns((pl.int_range(1, pl.len() + 1).over("pack")).alias("segment"))
        .with_columns(
            pl.col("segment").repeat_by(pl.col("track_ids").list.len()).alias("segment_ids")
        )
        .group_by("pack", maintain_order=True)
        .agg(
            pl.col("window_id").first(),
            pl.col("user_id").alias("user_ids"),
            *(pl.col(name).explode() for name in [*lists, "positions", "segment_ids"]),
        )
        .cast({"positions": pl.List(pl.Int64()), "segment_ids": pl.List(pl.Int64())})
    )
