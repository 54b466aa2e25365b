"""Broken records, of every kind that a format can express, made from good ones.

A broken record is a copy of a good record with one fault, ADDED beside it; it keeps the good
record's received_time, so it lies in the same file. Where the format has event ids, the copy has
its own. The truth counts each kind, and says what ingest should make of it: `reject` with the
reason named here, or `repair` (an unknown value of an open enumeration becomes `unknown`).

A fault that would make the whole file unreadable (a cut Parquet footer, a broken JSON array) is
no broken record and is left out here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from transforms.simulation.formats import TYPE, Format

REJECT, REPAIR = "reject", "repair"

_UTC_US = pl.Datetime("us", "UTC")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
      name: of the kind.
      reason: what ingest should count it under.
      edit: source column to its broken value; columns of the raw table may be used.
      corrupt: fault of the encoded record (text formats).
      of: event type whose records can have the fault; empty for any.
      outcome: REJECT or REPAIR.
    """

    name: str
    reason: str
    edit: dict[str, pl.Expr] = dataclasses.field(default_factory=dict)
    corrupt: Callable[[bytes], bytes] | None = None
    of: str = "play"
    outcome: str = REJECT


@dataclasses.dataclass(frozen=True)
class Broken:
    """Broken records of one kind.

    Attributes:
      kind: the kind.
      table: raw table, helper columns included, with the edits of the kind.
      records: the same rows encoded and corrupted; None for typed formats.
    """

    kind: Kind
    table: pl.DataFrame
    records: list[bytes] | None


def _value(value: object, dtype: pl.DataType | None = None) -> pl.Expr:
    return pl.lit(value, dtype)


def _instant(micros: int) -> pl.Expr:
    return pl.lit(micros).cast(_UTC_US)


def _insert_bad_utf8(record: bytes) -> bytes:
    """0xFF, which no UTF-8 text has, inside the record's first value."""
    match = re.search(rb"[0-9a-z]{2}", record)
    at = match.start() + 1 if match else 0
    return record[:at] + b"\xff" + record[at:]


def _cut(record: bytes) -> bytes:
    return record[: len(record) // 2]


def _nan(record: bytes) -> bytes:
    return re.sub(rb'"played_ms":[^,}]*', b'"played_ms":NaN', record)


def _infinity(record: bytes) -> bytes:
    return re.sub(rb'"played_ms":[^,}]*', b'"played_ms":-Infinity', record)


def _array(record: bytes) -> bytes:
    return b"[" + record + b"]"


_HOUR_US = 90_000_000_000  # 25 hours in microseconds, taken for milliseconds

_CANONICAL = (
    Kind("missing_event_id", "missing_event_id", {"event_id": _value("")}, of=""),
    Kind("missing_user_id", "missing_user_id", {"user_id": _value("")}, of=""),
    Kind("missing_track_id", "missing_track_id", {"track_id": _value(None, pl.String())}),
    Kind("unknown_event_type", "unknown_event_type", {"event_type": _value("listened")}, of=""),
    Kind("negative_played_ms", "negative_played_ms", {"played_ms": -pl.col("played_ms") - 1}),
    Kind("microseconds_played", "played_ms_too_long",
         {"played_ms": _value(_HOUR_US, pl.Int64())}),
    Kind("seconds_duration", "track_duration_ms_too_short",
         {"track_duration_ms": pl.col("track_duration_ms") // 1000}),
    Kind("negative_duration", "track_duration_ms_not_positive",
         {"track_duration_ms": -pl.col("track_duration_ms")}),
    Kind("propensity_zero", "propensity_out_of_range",
         {"propensity": _value(0.0)}, of="impression"),
    Kind("propensity_above_one", "propensity_out_of_range",
         {"propensity": pl.col("propensity") + 1.0}, of="impression"),
    Kind("propensity_negative", "propensity_out_of_range",
         {"propensity": -pl.col("propensity")}, of="impression"),
    Kind("negative_position", "negative_position",
         {"position": -pl.col("position") - 1}, of="impression"),
    Kind("no_candidates", "candidate_set_size_not_positive",
         {"candidate_set_size": _value(0, pl.Int32())}, of="impression"),
    Kind("unknown_surface", "surface_unknown", {"surface": _value("car")}, of="play",
         outcome=REPAIR),
    Kind("unknown_reason_end", "reason_end_unknown", {"reason_end": _value("battery")},
         outcome=REPAIR),
)  # fmt: skip

_TYPED_CANONICAL = (
    Kind("event_time_far_past", "event_time_out_of_range",
         {"event_time": _instant(1_767_571_200_000)}, of=""),  # ms of 2026 read as us: 1970
    Kind("event_time_far_future", "event_time_out_of_range",
         {"event_time": _instant(32_503_680_000_000_000)}, of=""),  # 3000-01-01
    Kind("propensity_nan", "bad_propensity", {"propensity": _value(float("nan"))},
         of="impression"),
    Kind("propensity_infinite", "bad_propensity", {"propensity": _value(float("inf"))},
         of="impression"),
)  # fmt: skip

_JSON_FAULTS = (
    Kind("truncated_json", "bad_json", corrupt=_cut),
    Kind("not_an_object", "bad_json", corrupt=_array),
    Kind("bad_utf8", "bad_utf8", corrupt=_insert_bad_utf8),
)

_JSON_CANONICAL = (
    Kind("event_time_far_past", "event_time_out_of_range",
         {"event_time": _value("1970-01-21T10:59:31.200Z")}, of=""),
    Kind("event_time_far_future", "event_time_out_of_range",
         {"event_time": _value("3000-01-01T00:00:00.000Z")}, of=""),
    Kind("event_time_without_zone", "bad_event_time",
         {"event_time": pl.col("event_time").str.strip_suffix("Z")}, of=""),
    Kind("impossible_date", "bad_event_time",
         {"event_time": _value("2026-02-30T10:00:00.000Z")}, of=""),
    Kind("number_as_text", "bad_played_ms", {"played_ms": _value("long")}),
    Kind("nan", "bad_json", corrupt=_nan),
    Kind("infinity", "bad_json", corrupt=_infinity),
    *_JSON_FAULTS,
)  # fmt: skip

_LASTFM = (
    Kind("too_few_columns", "column_count", corrupt=lambda r: r.rsplit(b"\t", 1)[0]),
    Kind("too_many_columns", "column_count", corrupt=lambda r: r + b"\tmore"),
    Kind("bad_utf8", "bad_utf8", corrupt=_insert_bad_utf8),
    Kind("missing_user_id", "missing_user_id", {"user_id": _value("")}),
    Kind("missing_track", "missing_track_id",
         {"track_mbid": _value(""), "track_name": _value("")}),
    Kind("impossible_date", "bad_event_time", {"timestamp": _value("2026-02-30T10:00:00Z")}),
    Kind("timestamp_without_zone", "bad_event_time",
         {"timestamp": pl.col("timestamp").str.strip_suffix("Z")}),
    Kind("missing_timestamp", "missing_event_time", {"timestamp": _value("")}),
    Kind("timestamp_far_past", "event_time_out_of_range",
         {"timestamp": _value("1970-01-21T10:59:31Z")}),
)  # fmt: skip

_SPOTIFY = (
    Kind("missing_played", "missing_played_ms", {"ms_played": _value(None, pl.Int64())}),
    Kind("negative_played", "negative_played_ms", {"ms_played": -pl.col("ms_played") - 1}),
    Kind("number_as_text", "bad_ms_played", {"ms_played": _value("long")}),
    Kind("missing_track", "missing_track_id", {"spotify_track_uri": _value(None, pl.String())}),
    Kind("impossible_date", "bad_event_time", {"ts": _value("2026-02-30T10:00:00Z")}),
    Kind("ts_far_past", "event_time_out_of_range", {"ts": _value("1970-01-21T10:59:31Z")}),
)

_LISTENBRAINZ = (
    Kind("missing_user_id", "missing_user_id", {"user_id": _value(None, pl.Int64())}),
    Kind("missing_listened_at", "missing_event_time", {"listened_at": _value(None, pl.Int64())}),
    Kind("listened_at_far_past", "event_time_out_of_range",
         {"listened_at": _value(1_767_571, pl.Int64())}),
    Kind("listened_at_in_ms", "event_time_out_of_range",
         {"listened_at": pl.col("listened_at") * 1000}),
    Kind("number_as_text", "bad_listened_at", {"listened_at": _value("now")}),
    *_JSON_FAULTS,
)  # fmt: skip

_YAMBDA = (
    Kind("missing_uid", "missing_user_id", {"uid": _value(None, pl.UInt32())}),
    Kind("missing_item", "missing_track_id", {"item_id": _value(None, pl.UInt32())}),
    Kind("missing_timestamp", "missing_event_time", {"timestamp": _value(None, pl.UInt32())}),
    Kind("unknown_event_type", "unknown_event_type", {"event_type": _value("listened")}),
    Kind("timestamp_far_future", "event_time_out_of_range",
         {"timestamp": _value(4_000_000_000, pl.UInt32())}),
    Kind("zero_length", "track_duration_ms_not_positive",
         {"track_length_seconds": _value(0, pl.UInt32())}),
)  # fmt: skip

KINDS: dict[str, tuple[Kind, ...]] = {
    "parquet": _CANONICAL + _TYPED_CANONICAL,
    "avro": _CANONICAL + _TYPED_CANONICAL,
    "jsonl": _CANONICAL + _JSON_CANONICAL,
    "lastfm1k": _LASTFM,
    "spotify": _SPOTIFY,
    "listenbrainz": _LISTENBRAINZ,
    "yambda_multi_event": _YAMBDA,
}


def broken_records(
    raw_format: Format, raw: pl.DataFrame, share: float, rng: np.random.Generator, tag: str
) -> Iterator[Broken]:
    """Broken copies of some records of a raw table, all kinds equally likely.

    Args:
      raw_format: the format.
      raw: its table, helper columns included.
      share: broken records as a fraction of the good ones (their mean).
      rng: decides number, kinds and records.
      tag: prefix of the event ids of copies; no other call may use it.

    Yields:
      One Broken a kind that occurs, in the order of KINDS.
    """
    if not share or not raw.height:
        return
    kinds = KINDS[raw_format.name]
    counts = rng.multinomial(rng.binomial(raw.height, share), [1.0 / len(kinds)] * len(kinds))
    types = raw[TYPE]
    made = 0
    for kind, count in zip(kinds, counts, strict=True):
        ticket = rng.random(count)
        able = (types == kind.of).arg_true() if kind.of else pl.Series(np.arange(raw.height))
        if not count or not len(able):
            continue
        chosen = able.gather(pl.Series((ticket * len(able)).astype(np.uint32)))
        table = raw[chosen]
        if "event_id" in raw.columns:
            own = [f"{tag}{made + number:05x}" for number in range(count)]
            table = table.with_columns(pl.Series("event_id", own))
        made += count
        table = table.with_columns(**kind.edit)
        records = None
        if raw_format.encode is not None:
            records = raw_format.encode(table)
            if kind.corrupt is not None:
                records = [kind.corrupt(record) for record in records]
        yield Broken(kind, table, records)
