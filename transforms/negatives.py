"""Negatives of retrieval rows: tracks that a row's positive is compared with, and how likely each
was to be drawn.

Sources, for a row of a user with a positive play at t:

* `uniform`, `popularity`, `mixed`: draws with replacement from the pool of t's UTC day
  (`transforms.item_pools`). `log_q` of a `mixed` draw is that of the mixture, not of a branch.
* `exposed`: distinct tracks that the user was shown in t's session in [t - 24 h, t) and that led to
  no play. Whether they did is a label: it may be decided after t, within the attribution window.
* `skipped`: distinct tracks of plays in t's session that started before t and were skipped.

Of the last two the `count` tracks with the smallest keyed hashes are kept, out of n:
`log_q = -log(n)`, and the weight is n over the number kept, so that weighted sums are those of all
n. Draws have the weight 1.

Never a negative: the positive's own track, and tracks with a positive of the user in
[t - exclude_days, t), or in [t - exclude_days, t + horizon) if `later_positives` is `exclude`.
Positives in [t, t + horizon) are flagged in any case; nothing after that has a part. A draw that
hits an excluded track is drawn again, so what really drew is the proposal given that it did not:
`log_q = log(weight) - log(total - excluded weight)`, exact for each row. (Source: Yi et al. 2019,
whose corrected score is the score less log q.)

A draw is a keyed hash of (row, seed, source, slot, try) mapped to the integer weights, so it
depends on nothing but the row, its user's positives, and the pool. The map is monotone: a track
that joins the pool with a small weight moves few draws, each to a neighbour.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pydantic

from transforms import hashing, timeline
from transforms.config import StrictModel
from transforms.counts import Counts
from transforms.item_pools import ItemPools, Proposal
from transforms.timeline import DAY_US, BoolArray, IntArray, SortedGroups

UIntArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float64]

DRAWN = ("uniform", "popularity", "mixed")

# Which option belongs to which type, and its default; None: it must be given.
_OPTIONS: dict[str, tuple[str, float | None]] = {
    "popularity": ("alpha", 0.75),
    "mixed": ("in_batch_share", None),
}

# A slot whose draws were all refused stays empty.
MAX_TRIES = 64

_NEVER = np.iinfo(np.int64).max
_EVER = -(1 << 62)  # before all times
_EPOCH = datetime.date(1970, 1, 1)

# Slots, and candidates, that are handled at a time: their arrays fit into a core's cache.
_CHUNK = 1 << 15

SCHEMA: dict[str, pl.DataType] = {
    "neg_track_ids": pl.List(pl.String()),
    "neg_types": pl.List(pl.String()),
    "neg_log_q": pl.List(pl.Float64()),
    "neg_weights": pl.List(pl.Float64()),
    "neg_is_later_positive": pl.List(pl.Boolean()),
    "positive_log_q": pl.Float64(),
    "positive_in_batch_log_q": pl.Float64(),
}


class NegativeSource(StrictModel):
    """One kind of negatives.

    Attributes:
      type: see the module.
      count: how many a row gets, at most.
      alpha: of `popularity`: probabilities are in proportion to plays ^ alpha.
      in_batch_share: of `mixed`: share of the mixture that is by plays.
    """

    type: Literal["uniform", "popularity", "mixed", "exposed", "skipped"]
    count: int = pydantic.Field(ge=1, le=10_000)
    alpha: float | None = pydantic.Field(None, gt=0, le=1)
    in_batch_share: float | None = pydantic.Field(None, gt=0, lt=1)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _options_of_type(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for owner, (name, default) in _OPTIONS.items():
            if value.get("type") != owner:
                if value.get(name) is not None:
                    raise ValueError(
                        f"{name}: only for type {owner}, got it for type {value.get('type')!r}; "
                        "remove it"
                    )
            elif value.get(name) is None:
                if default is None:
                    raise ValueError(f"{name}: expected a number in (0, 1), got nothing")
                value = {**value, name: default}
        return value

    @property
    def option(self) -> float:
        """The number that the proposal of a drawn type takes."""
        return self.alpha or self.in_batch_share or 0.0


class NegativesSpec(StrictModel):
    """Which negatives rows get.

    Attributes:
      sources: in the order in which a row lists them; each type once.
      popularity_days: days whose plays make the pool of a day.
      exclude_days: a user's positives this long before t are no negatives.
      later_positives: whether positives in [t, t + horizon) may be negatives.
    """

    sources: tuple[NegativeSource, ...] = pydantic.Field(min_length=1)
    popularity_days: int = pydantic.Field(28, ge=1, le=90)
    exclude_days: int = pydantic.Field(7, ge=1, le=28)
    later_positives: Literal["keep", "exclude"] = "keep"

    @pydantic.field_validator("sources")
    @classmethod
    def _each_type_once(cls, sources: tuple[NegativeSource, ...]) -> tuple[NegativeSource, ...]:
        types = [source.type for source in sources]
        for name in types:
            if types.count(name) > 1:
                raise ValueError(f"type {name} is named twice; add up the counts")
        return sources


@dataclasses.dataclass(frozen=True)
class RowsAsked:
    """Rows that want negatives, in any order.

    Attributes:
      user: user code, from 0.
      time_us: t.
      session: session code, from 0; -1 for a row without a session.
      track_id: the positive.
      key: what identifies the row, `user_id` and `event_id` joined.
    """

    user: IntArray
    time_us: IntArray
    session: IntArray
    track_id: pl.Series
    key: pl.Series


@dataclasses.dataclass(frozen=True)
class Encounters:
    """Events at which somebody met a track, in any order.

    Attributes:
      group: user or session code, as in RowsAsked; those of sessions may be -1 and are not used.
      time_us: event_time.
      track_id: not null.
    """

    group: IntArray
    time_us: IntArray
    track_id: pl.Series


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a bucket's users did, as far as negatives depend on it.

    Attributes:
      positives: positive plays by user, from `exclude_days` before the first row to the horizon
        after the last.
      exposed: impressions that led to no play, by session.
      skipped: plays that were skipped, by session.
    """

    positives: Encounters
    exposed: Encounters
    skipped: Encounters


@dataclasses.dataclass(frozen=True)
class NegativeColumns:
    """`table`: SCHEMA columns, row by row of what was asked; lists of a row have one length.

    `counts`: negatives by type, and slots left empty by type; they add up to rows x count.
    """

    table: pl.DataFrame
    counts: Counts


def draw(
    asked: RowsAsked,
    evidence: Evidence,
    pools: ItemPools,
    spec: NegativesSpec,
    seed: int,
    horizon_us: int,
) -> NegativeColumns:
    """The negatives of rows. They do not depend on which other rows are asked for, or their order.

    Memory: 25 bytes a slot (row x count), and about twice that for the result.

    Args:
      asked: the rows.
      evidence: of their users.
      pools: of the rows' days.
      spec: which negatives.
      seed: of the dataset.
      horizon_us: of the labels.

    Returns:
      `positive_log_q` is the log of the mixture of the drawing sources, weighted by their counts,
      at the positive's own track, without exclusions; null where that is zero or nothing is drawn.
      `positive_in_batch_log_q` is the log of its share of the pool's plays; null without plays.
    """
    met: dict[str, Encounters] = {
        source.type: getattr(evidence, source.type)
        for source in spec.sources
        if source.type not in DRAWN
    }
    names = [asked.track_id, evidence.positives.track_id, *(of.track_id for of in met.values())]
    (own, positive, *tracks), others = _number_tracks(pools, names)
    span = pools.size + len(others)
    positives = _Meetings.of(evidence.positives, positive, span)
    barred_end_us, barred_us = asked.time_us, spec.exclude_days * DAY_US
    if spec.later_positives == "exclude":
        barred_end_us, barred_us = asked.time_us + horizon_us, barred_us + horizon_us
    rows = _Rows(asked, own, positives, barred_end_us, barred_us, horizon_us, seed)

    whole, slots = _Slots.of(len(own), spec.sources)
    positive_q, in_batch_q = _fill_drawn(rows, spec, slots, pools)
    for (name, encounters), track in zip(met.items(), tracks, strict=True):
        meetings = _Meetings.of(encounters, track, span)
        first_us = asked.time_us - DAY_US if name == "exposed" else np.full(len(own), _EVER)
        _fill_met(rows, name, encounters.track_id, meetings, first_us, slots[name])

    columns = _as_lists(whole, spec.sources, pools, others)
    columns["positive_log_q"] = _log_or_null(positive_q)
    columns["positive_in_batch_log_q"] = _log_or_null(in_batch_q)
    filled = {name: int((of.track >= 0).sum()) for name, of in slots.items()}
    empty = {name: of.track.size - filled[name] for name, of in slots.items()}
    counts = {"negatives": filled, "negatives_unfilled": empty}
    return NegativeColumns(pl.DataFrame(columns, schema=SCHEMA), counts)


def _number_tracks(pools: ItemPools, columns: list[pl.Series]) -> tuple[list[IntArray], pl.Series]:
    """Each column as numbers: a track's row in the pools' table, or one behind these; and the names
    of the latter, in order."""
    texts = pl.concat(columns).rechunk().to_arrow().cast(pa.large_string())
    encoded = pc.dictionary_encode(texts)
    names = pl.Series("track_id", encoded.dictionary, dtype=pl.String)
    number = pools.find(names)
    missing = np.flatnonzero(number < 0)
    number[missing] = pools.size + np.arange(len(missing))
    numbers = number[encoded.indices.to_numpy(zero_copy_only=False)]
    ends = np.cumsum([len(column) for column in columns])
    return np.split(numbers, ends[:-1]), names.gather(missing)


def _order(group: IntArray, time_us: IntArray) -> IntArray:
    """Indices that sort by (group, time), equal ones in any order."""
    if not len(group):
        return np.zeros(0, dtype=np.int64)
    low_us = int(time_us.min())
    width = int(time_us.max()) - low_us + 1
    if (int(group.max()) + 1) * width > _NEVER:
        return np.lexsort((time_us, group))
    return np.argsort(group * width + (time_us - low_us))  # a third of the time


@dataclasses.dataclass(frozen=True)
class _Meetings:
    """Encounters, sorted by (group, track) and then by time. Such a pair may meet many times.

    Attributes:
      rows: index of each in the Encounters.
      key: `group * span + track`. Tracks are fewer than 2^32, as rows of a table are, so 63 bits
        are enough for two thousand million groups.
      group, track, time_us: of each.
      span: numbers of tracks.
    """

    rows: IntArray
    key: IntArray
    group: IntArray
    track: IntArray
    time_us: IntArray
    span: int

    @classmethod
    def of(cls, encounters: Encounters, track: IntArray, span: int) -> _Meetings:
        rows = np.flatnonzero(encounters.group >= 0)
        key = encounters.group[rows] * span + track[rows]
        by_key = np.argsort(key)
        rows, key = rows[by_key], key[by_key]
        by_time = _order(_number_runs(key), encounters.time_us[rows])
        rows = rows[by_time]
        return cls(rows, key, encounters.group[rows], track[rows], encounters.time_us[rows], span)

    @functools.cached_property
    def next_us(self) -> IntArray:
        """When the pair meets next; _NEVER if it does not."""
        following = np.full(len(self.key), _NEVER)
        again = np.flatnonzero(self.key[1:] == self.key[:-1])
        following[again] = self.time_us[again + 1]
        return following

    @functools.cached_property
    def _pair_keys(self) -> IntArray:
        return np.append(np.unique(self.key), _NEVER)

    @functools.cached_property
    def _by_pair(self) -> SortedGroups:
        return SortedGroups.of(_number_runs(self.key), self.time_us)

    def pair(self, group: IntArray, track: IntArray) -> IntArray:
        """Number of each pair; -1 if it never meets."""
        key = group * self.span + track
        pair = np.searchsorted(self._pair_keys, key)
        pair[self._pair_keys[pair] != key] = -1
        return pair

    def met(self, pair: IntArray, row: IntArray, end_us: IntArray, width_us: int) -> BoolArray:
        """Whether each pair met in [end - width, end) of a row."""
        met = pair >= 0
        known = np.flatnonzero(met)
        pair, end_us = pair[known], end_us[row[known]]
        first = self._by_pair.count_before(pair, end_us - width_us)
        met[known] = self._by_pair.count_before(pair, end_us) > first
        return met


def _number_runs(values: IntArray) -> IntArray:
    """0, 0, 1, 1, 1, 2, ...: the number of the run of equal values each one is in."""
    return np.cumsum(np.diff(values, prepend=values[:1]) != 0)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The rows that are asked for, and what they may not have.

    Attributes:
      own: number of the track of each row's positive.
      positives: by user.
      barred_end_us, barred_us: end and width of the window whose positives are no negatives.
      horizon_us: width of the window from t on whose positives are flagged.
    """

    asked: RowsAsked
    own: IntArray
    positives: _Meetings
    barred_end_us: IntArray
    barred_us: int
    horizon_us: int
    seed: int

    def bars(self, row: IntArray, track: IntArray, pair: IntArray) -> BoolArray:
        """Whether the track, its pair with the row's user, may not be a negative of the row."""
        met = self.positives.met(pair, row, self.barred_end_us, self.barred_us)
        return met | (track == self.own[row])

    def flags(self, row: IntArray, pair: IntArray) -> BoolArray:
        """Whether the row's user has a positive of the pair in [t, t + horizon)."""
        end_us = self.asked.time_us + self.horizon_us
        return self.positives.met(pair, row, end_us, self.horizon_us)

    def barred_weights(self, at: IntArray, proposals: list[Proposal]) -> list[IntArray]:
        """Weight that each proposal gives to what is barred, for some rows.

        A play at s, with the next one of its user and track at n, is the latest of them in
        [end - width, end) while the end of the window is in (s, min(n, s + width)]. So the weight
        is that of the plays whose time in it has begun, less that of those whose time is over.
        """
        weights = [np.zeros(len(at), dtype=np.int64) for _ in proposals]
        if not proposals:
            return weights
        plays, user, end_us = self.positives, self.asked.user[at], self.barred_end_us[at]
        over_us = np.minimum(plays.next_us, plays.time_us + self.barred_us)
        alive = np.flatnonzero((plays.time_us < end_us.max()) & (over_us >= end_us.min()))
        group, track = plays.group[alive], plays.track[alive]
        for sign, instant_us in ((1, plays.time_us[alive]), (-1, over_us[alive])):
            order = _order(group, instant_us)
            groups = SortedGroups.of(group[order], instant_us[order])
            before = groups.count_before(user, end_us)
            for weight, proposal in zip(weights, proposals, strict=True):
                sums = timeline.prefix_sums(proposal.weight(track[order]))
                weight += sign * sums[before]
        own = self.own[at]
        counted = plays.met(plays.pair(user, own), at, self.barred_end_us, self.barred_us)
        for weight, proposal in zip(weights, proposals, strict=True):
            weight += np.where(counted, 0, proposal.weight(own))
        return weights

    def streams(self, source: str) -> UIntArray:
        """The 64 bits that key all choices of a source for each row."""
        return _hash(self.asked.key, f"negatives-{source}", self.seed)


@dataclasses.dataclass(frozen=True)
class _Slots:
    """(rows, count) arrays of negatives; in an empty slot the track is -1, the rest anything."""

    track: IntArray
    log_q: FloatArray
    weight: FloatArray
    later: BoolArray

    @classmethod
    def of(cls, rows: int, sources: tuple[NegativeSource, ...]) -> tuple[_Slots, dict[str, _Slots]]:
        """Empty slots of all sources side by side, and the part of each source in them."""
        shape = (rows, sum(source.count for source in sources))
        whole = cls(np.full(shape, -1), np.zeros(shape), np.ones(shape), np.zeros(shape, bool))
        parts: dict[str, _Slots] = {}
        start = 0
        for source in sources:
            part = np.s_[:, start : start + source.count]
            parts[source.type] = cls(
                whole.track[part], whole.log_q[part], whole.weight[part], whole.later[part]
            )
            start += source.count
        return whole, parts


def _fill_drawn(
    rows: _Rows, spec: NegativesSpec, slots: dict[str, _Slots], pools: ItemPools
) -> tuple[FloatArray, FloatArray]:
    """Fills the slots of the drawing sources; returns the probability of each row's positive in
    their mixture, and its share of plays."""
    mixture, share = np.zeros(len(rows.own)), np.zeros(len(rows.own))
    drawing = [source for source in spec.sources if source.type in DRAWN]
    streams = {source.type: rows.streams(source.type) for source in drawing}
    day_number = rows.asked.time_us // DAY_US
    for number in np.unique(day_number).tolist():
        at = np.flatnonzero(day_number == number)
        pool = pools.day(_EPOCH + datetime.timedelta(days=number))
        share[at] = pool.share_of_plays(rows.own[at])
        # Nothing is drawn by popularity on a day without plays, and nothing at all without items.
        able = [(source, pool.proposal(source.type, source.option)) for source in drawing]
        able = [(source, proposal) for source, proposal in able if proposal.total]
        barred = rows.barred_weights(at, [proposal for _, proposal in able])
        for (source, proposal), weight in zip(able, barred, strict=True):
            _draw(rows, at, proposal, weight, streams[source.type], slots[source.type])
            mixture[at] += source.count * (proposal.weight(rows.own[at]) / proposal.total)
        mixture[at] /= max(1, sum(source.count for source, _ in able))
    return mixture, share


def _draw(
    rows: _Rows,
    at: IntArray,
    proposal: Proposal,
    barred: IntArray,
    streams: UIntArray,
    slots: _Slots,
) -> None:
    """Fills the slots of one source for some rows of one day; `barred` weight cannot be drawn."""
    count = slots.track.shape[1]
    counters = _mix64(np.arange(count * MAX_TRIES, dtype=np.uint64))
    rest = proposal.total - barred
    at, log_rest = at[rest > 0], _log(rest[rest > 0])
    step = max(1, _CHUNK // count)
    for start in range(0, len(at), step):
        chunk = at[start : start + step]
        row = np.repeat(chunk, count)
        stream, user = streams[row], rows.asked.user[row]
        counter = np.tile(np.arange(count) * MAX_TRIES, len(chunk))
        track, pair = np.full(len(row), -1), np.full(len(row), -1)
        left = np.arange(len(row))
        for attempt in range(MAX_TRIES):
            bits = _mix64(stream[left] ^ counters[counter[left] + attempt])
            drawn, fair = proposal.items(bits)
            drawn_pair = rows.positives.pair(user[left], drawn)
            good = fair & ~rows.bars(row[left], drawn, drawn_pair)
            track[left[good]], pair[left[good]] = drawn[good], drawn_pair[good]
            left = left[~good]
            if not len(left):
                break
        log_weight = _log(proposal.weight(np.maximum(track, 0))).reshape(-1, count)
        slots.track[chunk] = track.reshape(-1, count)
        slots.log_q[chunk] = log_weight - log_rest[start : start + step, np.newaxis]
        slots.later[chunk] = rows.flags(row, pair).reshape(-1, count)


def _fill_met(
    rows: _Rows,
    source: str,
    track_id: pl.Series,
    meetings: _Meetings,
    first_us: IntArray,
    slots: _Slots,
) -> None:
    """Fills the slots of one source with the tracks of smallest hash among those that each row's
    session met in [first, t)."""
    by_time = _order(meetings.group, meetings.time_us)
    session, time_us = meetings.group[by_time], meetings.time_us[by_time]
    track, next_us = meetings.track[by_time], meetings.next_us[by_time]
    bits = _hash(track_id, f"negatives-{source}-track", rows.seed)[meetings.rows[by_time]]
    groups = SortedGroups.of(session, time_us)
    asked, streams, count = rows.asked, rows.streams(source), slots.track.shape[1]
    first = groups.count_before(asked.session, first_us)
    after = groups.count_before(asked.session, asked.time_us)
    some = np.flatnonzero((asked.session >= 0) & (after > first))
    # Chunks of rows with about _CHUNK meetings.
    chunk_of = np.cumsum(after[some] - first[some]) // _CHUNK
    for chunk in np.split(some, np.flatnonzero(np.diff(chunk_of)) + 1):
        met, offsets = timeline.flat_ranges(first[chunk], after[chunk])
        row = np.repeat(chunk, np.diff(offsets))
        pair = rows.positives.pair(asked.user[row], track[met])
        # A track that is met again before t stands there, not here.
        good = (next_us[met] >= asked.time_us[row]) & ~rows.bars(row, track[met], pair)
        row, met, pair = row[good], met[good], pair[good]
        by_hash = np.lexsort((_mix64(streams[row] ^ bits[met]), row))
        row, met, pair = row[by_hash], met[by_hash], pair[by_hash]
        begins = np.flatnonzero(np.diff(row, prepend=-1))
        found = np.diff(np.append(begins, len(row)))
        slot, n = np.arange(len(row)) - np.repeat(begins, found), np.repeat(found, found)
        kept = slot < count
        row, met, pair, slot, n = row[kept], met[kept], pair[kept], slot[kept], n[kept]
        slots.track[row, slot] = track[met]
        slots.log_q[row, slot] = -_log(n)
        slots.weight[row, slot] = n / np.minimum(n, count)
        slots.later[row, slot] = rows.flags(row, pair)


def _hash(text: pl.Series, purpose: str, seed: int) -> UIntArray:
    hashed = hashing.hash64(pl.col("text"), purpose, seed)
    return text.alias("text").to_frame().select(hashed).to_series().to_numpy()


def _mix64(bits: UIntArray) -> UIntArray:
    """A one-to-one map of 64 bits in which each bit depends on all (the finalizer of SplitMix64;
    Steele, Lea and Flood 2014).

    A library hash of each (row, slot, try) as a text takes twenty times as long. So only the row's
    text goes through the library's, once a source, and the counters through this.
    """
    bits = bits ^ (bits >> np.uint64(30))
    bits *= np.uint64(0xBF58_476D_1CE4_E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D0_49BB_1331_11EB)
    bits ^= bits >> np.uint64(31)
    return bits


def _log(values: IntArray | FloatArray) -> FloatArray:
    """Natural logarithm, by the C library: NumPy's last bit differs from processor to processor."""
    return pl.Series(values).cast(pl.Float64).log().to_numpy()


def _log_or_null(probability: FloatArray) -> pl.Series:
    positive = probability > 0
    return timeline.nullable(_log(np.where(positive, probability, 1.0)), positive)


def _as_lists(
    slots: _Slots, sources: tuple[NegativeSource, ...], pools: ItemPools, others: pl.Series
) -> dict[str, pl.Series]:
    """The list columns of SCHEMA: the filled slots of each row."""
    filled = slots.track >= 0
    offsets = timeline.prefix_sums(filled.sum(axis=1))
    source = np.repeat(np.arange(len(sources)), [source.count for source in sources])
    types = pl.Series([source.type for source in sources])
    names = pl.concat([pools.track_id, others], rechunk=False)
    values = {
        "neg_track_ids": names.gather(slots.track[filled]),
        "neg_types": types.gather(np.broadcast_to(source, filled.shape)[filled]),
        "neg_log_q": pl.Series(slots.log_q[filled]),
        "neg_weights": pl.Series(slots.weight[filled]),
        "neg_is_later_positive": pl.Series(slots.later[filled]),
    }
    return {name: timeline.as_lists(column, offsets) for name, column in values.items()}
