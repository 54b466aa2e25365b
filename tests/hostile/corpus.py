"""Hostile files: a generator of small files that attack a reader, and what has to become of each.

Every file is at most 1 MB on disk; the same code makes the same bytes. A case says how it ends:

* `Rows(rejects, kept)`: the ingest publishes; the quarantine has exactly these reasons, and the
  rows of the file that are good are kept.
* `Refused(part)`: the command ends with the stated exit code and one message that names the file
  and contains `part`; nothing is published.
"""

from __future__ import annotations

import base64
import bz2
import dataclasses
import io
import json
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from schemas import LISTENING_EVENT, forms
from transforms.adapters.containers.avro_blocks import encode

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Rows:
    """Published: reason -> rejected rows of the file, and its kept rows."""

    rejects: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kept: int = 0


@dataclasses.dataclass(frozen=True)
class Refused:
    """Not published: what the message says beside the file's name."""

    part: str


@dataclasses.dataclass(frozen=True)
class Case:
    """A file to ingest.

    Attributes:
      name: of the file; unique.
      format: `--format`, or a key of MAPPINGS.
      data: its bytes.
      ends: what has to become of it.
    """

    name: str
    format: str
    data: bytes
    ends: Rows | Refused


# --- good files: what every hostile one is ingested beside ----------------------------------------


def event(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A good event, as JSON has it."""
    time = f"2026-01-05T12:00:{number:02d}Z"
    return {
        "event_id": f"good-{number}",
        "event_type": "play",
        "user_id": "u",
        "track_id": "t",
        "event_time": time,
        "received_time": time,
        "time_quality": "reported",
        "played_ms": 60_000,
        **changes,
    }


def line(**changes: Any) -> bytes:
    return json.dumps(event(**changes)).encode()


def columns(count: int = 3, **changes: Any) -> dict[str, pa.Array]:
    """Good events as the columns of a Parquet file; `changes` replace or add some."""
    times = pa.array([1_767_614_400_000_000 + at for at in range(count)], pa.timestamp("us", "UTC"))
    text = {"event_type": "play", "user_id": "u", "track_id": "t", "time_quality": "reported"}
    return {
        "event_id": pa.array([f"good-{at}" for at in range(count)]),
        **{name: pa.array([value] * count) for name, value in text.items()},
        "event_time": times,
        "received_time": times,
        **changes,
    }


def parquet(table: Mapping[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(dict(table)), sink, **options)
    return sink.getvalue()


AVRO_SCHEMA = forms.avro_schema(LISTENING_EVENT)
NEEDED = [field["name"] for field in AVRO_SCHEMA["fields"] if "default" not in field]
SMALL_AVRO = {
    "type": "record",
    "name": "Small",
    "fields": [{"name": name, "type": "string"} for name in NEEDED if not name.endswith("_time")]
    + [{"name": name, "type": "long"} for name in NEEDED if name.endswith("_time")]
    + [{"name": "track_id", "type": "string"}],
}


def avro_event(number: int = 0) -> dict[str, Any]:
    micros = 1_767_614_400_000_000 + number
    return event(number) | {"event_time": micros, "received_time": micros, "source": "x"}


def avro(schema: Any, records: list[dict[str, Any]], **options: Any) -> bytes:
    sink = io.BytesIO()
    fastavro.writer(sink, schema, records, sync_marker=b"s" * 16, **options)
    return sink.getvalue()


def avro_head(schema: Any, codec: str = "null", raw: bytes | None = None) -> bytes:
    """The header alone, with any schema."""
    text = json.dumps(schema).encode() if raw is None else raw
    metadata = {"avro.schema": text, "avro.codec": codec.encode()}
    return b"Obj\x01" + encode({"type": "map", "values": "bytes"}, metadata) + b"s" * 16


def avro_block(count: int, packed: bytes, size: int | None = None) -> bytes:
    lengths = encode("long", count) + encode("long", len(packed) if size is None else size)
    return lengths + packed + b"s" * 16


SPOTIFY = {
    "ts": "2026-01-05T12:00:00Z", "platform": "ios", "ms_played": 60_000, "conn_country": "SE",
    "spotify_track_uri": "spotify:track:4uLU6hMCjMI75M1A2tKUQC", "reason_start": "clickrow",
    "reason_end": "trackdone", "shuffle": False, "skipped": False, "offline": False,
    "offline_timestamp": None, "incognito_mode": False,
}  # fmt: skip
SPOTIFY_SMALL = {"endTime": "2026-01-05 12:00", "artistName": "A", "trackName": "T",
                 "msPlayed": 60_000}  # fmt: skip
LISTEN = {
    "user_id": 42, "user_name": "n", "listened_at": 1_767_614_400,
    "inserted_at": 1_767_614_460.25, "recording_msid": "3b1a1a5e-0000-4000-8000-000000000001",
    "track_metadata": {"artist_name": "A", "track_name": "T", "additional_info": {}},
}  # fmt: skip
LASTFM = "user_000001\t2009-05-04T12:08:57Z\t\tAn Artist\t\tA Track\n"
MSSD = (
    "session_id,session_position,track_id_clean,skip_1,skip_2,skip_3,not_skipped,"
    "hist_user_behavior_is_shuffle,hour_of_day,date,premium,context_type,"
    "hist_user_behavior_reason_start,hist_user_behavior_reason_end\n"
)
MSSD_ROW = [
    "0_a",
    "1",
    "t_1",
    "false",
    "false",
    "false",
    "true",
    "true",
    "16",
    "2018-07-15",
    "true",
    "radio",
    "trackdone",
    "trackdone",
]
YAMBDA = {"uid": 10, "timestamp": 500, "item_id": 69, "is_organic": 1,
          "played_ratio_pct": 100, "track_length_seconds": 180}  # fmt: skip
SPARK = {
    "listened_at": pa.array([1_767_614_400_000_000], pa.timestamp("us", "UTC")),
    "user_id": pa.array([42], pa.int32()),
    "recording_msid": pa.array(["3b1a1a5e-0000-4000-8000-000000000001"]),
}
FIELDS = """
  event_type: {value: play}
  user_id: uid
  track_id: track
"""
MAPPINGS = {
    "csv": f"name: m_csv\ncontainer: csv\nquoted: true\nfields:{FIELDS}"
    "  event_time: {column: at, unit: s}\n  played_ms: {column: s, unit: s}\n",
    "json": f"name: m_json\ncontainer: json\nfields:{FIELDS}"
    "  event_time: {column: at, unit: iso8601}\n",
    "avro_mapping": f"name: m_avro\ncontainer: avro\nfields:{FIELDS}"
    "  event_time: {column: at, unit: ms}\n",
    "parquet_mapping": f"name: m_parquet\ncontainer: parquet\ntime_is: end\nfields:{FIELDS}"
    "  event_time: {column: at, unit: ms}\n  played_ms: {column: ms, unit: ms}\n",
}
MAPPED = {"uid": "u", "track": "t", "at": "2026-01-05T12:00:00Z"}
MAPPED_AVRO = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "uid", "type": "string"},
        {"name": "track", "type": "string"},
        {"name": "at", "type": "long"},
    ],
}
MAPPED_ROW = {"uid": "u", "track": "t", "at": 1_767_614_400_000}
BESIDE = [f"beside-{at}" for at in range(3)]
GOOD: dict[str, tuple[str, bytes]] = {
    "jsonl": ("good.jsonl", b"\n".join(line(event_id=f"beside-{at}") for at in range(3))),
    "parquet": ("good.parquet", parquet(columns(event_id=pa.array(BESIDE)))),
    "avro": ("good.avro", avro(SMALL_AVRO, [avro_event() | {"event_id": id} for id in BESIDE])),
    "lastfm1k": ("good.tsv", LASTFM.encode()),
    "mssd": ("good.csv", (MSSD + ",".join(MSSD_ROW)).encode()),
    "spotify": ("good.json", json.dumps([SPOTIFY]).encode()),
    "spotify_small": ("good.json", json.dumps([SPOTIFY_SMALL]).encode()),
    "listenbrainz": ("good.listens", json.dumps(LISTEN).encode()),
    "listenbrainz_spark": ("good.parquet", parquet(SPARK)),
    "yambda_listens": ("good.parquet", parquet({name: [n] for name, n in YAMBDA.items()})),
    "csv": ("good.csv", b"uid,track,at,s\nu,t,1767614400,60\n"),
    "json": ("good.json", json.dumps([MAPPED]).encode()),
    "avro_mapping": ("good.avro", avro(MAPPED_AVRO, [MAPPED_ROW])),
    "parquet_mapping": (
        "good.parquet", parquet({name: [n] for name, n in MAPPED_ROW.items()} | {"ms": [60_000]})
    ),
}  # fmt: skip
WITH_IDS = ("jsonl", "parquet", "avro")  # their good files have the events BESIDE, others have one


# --- helpers of attack ----------------------------------------------------------------------------


def repeated(pack: Any, piece: bytes, times: int) -> bytes:
    """`piece` x `times`, packed without ever being held whole."""
    parts = [pack.compress(piece) for _ in range(times)]
    return b"".join([*parts, pack.flush()])


def gzip_of(piece: bytes, times: int = 1) -> bytes:
    return repeated(zlib.compressobj(1, wbits=31), piece, times)


def zstd_of(piece: bytes, times: int = 1) -> bytes:
    return repeated(zstandard.ZstdCompressor(level=3).compressobj(), piece, times)


def cuts(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The data cut at its start, head, middle and end."""
    ends = {"1": 1, "4": 4, "12": 12, "quarter": len(data) // 4, "half": len(data) // 2}
    ends |= {"less_9": len(data) - 9, "less_8": len(data) - 8, "less_1": len(data) - 1}
    for name, end in ends.items():
        yield name, data[:end]


def nested(levels: int, kind: str) -> Any:
    found: Any = "int"
    for _ in range(levels):
        key = "items" if kind == "array" else "values"
        found = {"type": kind, key: found}
    return found


def footer_of(data: bytes) -> tuple[bytes, bytes]:
    """What stands before the footer of a Parquet file, and the footer."""
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:start], data[start:-8]


def with_footer(body: bytes, footer: bytes, claimed: int | None = None) -> bytes:
    size = len(footer) if claimed is None else claimed
    return body + footer + struct.pack("<I", size) + b"PAR1"


def forged(data: bytes, old: int, new: int, last: bool = False) -> bytes:
    """A Parquet file whose footer has another number (Thrift's numbers are Avro's)."""
    body, footer = footer_of(data)
    was, now = encode("long", old), encode("long", new)
    assert was in footer
    at = footer.rindex(was) if last else footer.index(was)
    return with_footer(body, footer[:at] + now + footer[at + len(was) :])


def footer_of_lie(data: bytes, told: list[int], lie: list[int]) -> tuple[bytes, bytes]:
    """`footer_of`, with other numbers in the description of the one chunk that has `told`."""
    fields = (b"\x16", b"\x16", b"\x16", b"\x26")  # how far on the field is, and that it is a long
    was, now = (
        b"".join(field + encode("long", n) for field, n in zip(fields, numbers, strict=True))
        for numbers in (told, lie)
    )
    body, footer = footer_of(data)
    assert footer.count(was) == 1
    return body, footer.replace(was, now)


# --- text -----------------------------------------------------------------------------------------


def compressed_text() -> Iterator[Case]:
    good = GOOD["jsonl"][1]
    packers: dict[str, Callable[..., bytes]] = {"gz": gzip_of, "zst": zstd_of}
    for suffix, pack in packers.items():
        name = f"jsonl.{suffix}"

        def case(what: str, data: bytes, ends: Rows | Refused, name: str = name) -> Case:
            return Case(f"{what}.{name}", "jsonl", data, ends)

        yield case("zeros", pack(bytes(MIB), 70), Refused("expands"))
        yield case("bomb_after_rows", pack(good + b"\n" + bytes(MIB), 70), Refused("expands"))
        bomb = pack(bytes(MIB), 70)
        yield case("nested", pack(bomb), Refused("inside"))
        yield case("many_bad_lines", pack(b"x\n" * (MIB // 2), 2), Refused("not an event"))
        yield case("many_objects", pack(b"{}\n" * (MIB // 3), 3), Refused("not an event"))
        yield case("long_line", pack(b"x" * MIB, 50), Rows({"line_too_long": 1}))
        yield case("long_line_of_brackets", pack(b"[" * MIB, 50), Rows({"line_too_long": 1}))
        yield case("empty_members", pack(b"") * 9000, Rows())
        yield case("members", pack(good + b"\n") + pack(b"") + pack(b"?"), Rows({"bad_json": 1}, 3))
        yield case("garbage_after", pack(good) + b"garbage", Refused("damaged"))
        yield case("zeros_after", pack(good) + bytes(512), Refused("damaged"))
        for cut, data in cuts(pack(good)):
            yield case(f"cut_{cut}", data, Refused("truncated"))
        yield case("empty", b"", Refused("truncated"))
        yield case("plain_text", good, Refused("damaged"))
        yield Case(f"hidden_{suffix}.jsonl", "jsonl", pack(good), Refused("rename it"))
        yield Case(f"hidden_{suffix}.json", "spotify", pack(good), Refused("rename it"))
        yield Case(f"bomb.tsv.{suffix}", "lastfm1k", pack(b"\t" * MIB, 70), Refused("expands"))
        yield Case(f"bomb.csv.{suffix}", "mssd", pack(b"," * MIB, 70), Refused("expands"))
        yield Case(f"bomb.json.{suffix}", "spotify", pack(b" " * MIB, 70), Refused("expands"))
        yield Case(
            f"objects.json.{suffix}", "spotify", pack(b"[" + b"{}," * (MIB // 3), 5),
            Refused("more than"),
        )  # fmt: skip
        for cut, data in cuts(pack(GOOD["spotify"][1])):
            yield Case(f"cut_{cut}.json.{suffix}", "spotify", data, Refused("truncated"))
    whole = bytearray(gzip_of(good))
    for what, at in (("crc", -8), ("size", -4), ("middle", len(whole) // 2)):
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        yield Case(f"wrong_{what}.jsonl.gz", "jsonl", bytes(changed), Refused("damaged"))
    name_field = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 500_000
    yield Case("endless_name.jsonl.gz", "jsonl", name_field, Refused("truncated"))
    yield Case(
        "extra_field.jsonl.gz", "jsonl", b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff" + b"e" * 99,
        Refused("truncated"),
    )  # fmt: skip
    magic = b"\x28\xb5\x2f\xfd"
    yield Case("window.jsonl.zst", "jsonl", magic + b"\x00\xf8" + bytes(64), Refused("damaged"))
    yield Case(
        "claims_2_60.jsonl.zst", "jsonl", magic + b"\xe0" + struct.pack("<Q", 1 << 60) + bytes(64),
        Refused("damaged"),
    )  # fmt: skip
    yield Case("dictionary.jsonl.zst", "jsonl", magic + b"\x23\xff\xff\xff\x7f" + bytes(32),
               Refused("damaged"))  # fmt: skip
    yield Case("reserved_block.jsonl.zst", "jsonl", magic + b"\x00\x58" + b"\xff" * 64,
               Refused("damaged"))  # fmt: skip
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr(zipfile.ZipInfo("a.jsonl"), good)
    others = {
        "bz2": bz2.compress(good), "xz": lzma.compress(good), "zip": archive.getvalue(),
        "lz4": pa.compress(good, codec="lz4", asbytes=True),
    }  # fmt: skip
    for suffix, data in others.items():
        yield Case(f"other.jsonl.{suffix}", "jsonl", data, Refused("data; Playhead reads"))
    yield Case("bomb.jsonl.bz2", "jsonl", repeated(bz2.BZ2Compressor(), bytes(MIB), 70),
               Refused("data; Playhead reads"))  # fmt: skip


# What a JSON line is rejected for; None: it is kept.
BAD_LINES: dict[str, tuple[bytes, str | None]] = {
    "brackets": (b"[" * 100_000, "bad_json"),
    "braces": (b'{"a":' * 100_000, "bad_json"),
    "closed_brackets": (b"[" * 100_000 + b"]" * 100_000, "bad_json"),
    "deep_extra": (line(extra=0).replace(b": 0}", b": " + b"[" * 1020 + b"]" * 1020 + b"}"),
                   None),
    "deeper_extra": (line(extra=0).replace(b": 0}", b": " + b"[" * 1100 + b"]" * 1100 + b"}"),
                     "bad_json"),
    "nan": (line(propensity=math.nan), "bad_json"),
    "infinity": (line(propensity=math.inf), "bad_json"),
    "1e999": (line(propensity=0).replace(b'propensity": 0', b'propensity": 1e999'), "bad_json"),
    "5000_digits": (line(played_ms=0).replace(b": 0}", b": " + b"9" * 5000 + b"}"), "bad_json"),
    "300_digits": (line(played_ms=0).replace(b": 0}", b": " + b"9" * 300 + b"}"), "bad_played_ms"),
    "lone_surrogate": (line(user_id="\ud800"), "bad_json"),
    "lone_surrogate_key": (line(**{"\udfff": 1}), "bad_json"),
    "reversed_surrogates": (line(user_id="\udc00\ud800"), "bad_json"),
    "utf8_surrogate": (line(user_id="U").replace(b'"U"', b'"\xed\xa0\x80"'), "bad_utf8"),
    "overlong": (line(user_id="U").replace(b'"U"', b'"\xc0\xaf"'), "bad_utf8"),
    "overlong_nul": (line(user_id="U").replace(b'"U"', b'"\xc0\x80"'), "bad_utf8"),
    "invalid_utf8": (line(user_id="U").replace(b'"U"', b'"\xff\xfe"'), "bad_utf8"),
    "beyond_unicode": (line(user_id="U").replace(b'"U"', b'"\xf4\x90\x80\x80"'), "bad_utf8"),
    "cut_utf8": (line(user_id="U").replace(b'"U"', b'"\xe2\x82"'), "bad_utf8"),
    "utf16": (line().decode().encode("utf-16"), "bad_utf8"),
    "utf32": (line().decode().encode("utf-32-be"), "bad_json"),
    "raw_nul": (line(user_id="U").replace(b"U", b"\0"), "bad_json"),
    "escaped_nul": (line(user_id="a\0b"), None),
    "rtl_override": (line(user_id="\u202eresu"), None),
    "zero_width": (line(user_id="\u200b\ufeff"), None),
    "decomposed": (line(track_id="e\u0301"), None),
    "composed": (line(track_id="\u00e9"), None),
    "cr_inside": (line(user_id="U").replace(b"U", b"\r"), "bad_json"),
    "crlf": (line() + b"\r", None),
    "bom_in_the_middle": (b"\xef\xbb\xbf" + line(), "bad_json"),
    "duplicate_keys": (line()[:-1] + b', "user_id": 7, "user_id": "v"}', None),
    "duplicate_keys_bad_last": (line()[:-1] + b', "user_id": "v", "user_id": []}', "bad_user_id"),
    "two_objects": (line() + line(), "bad_json"),
    "trailing_comma": (line()[:-1] + b",}", "bad_json"),
    "comment": (line() + b"// x", "bad_json"),
    "single_quotes": (line().replace(b'"', b"'"), "bad_json"),
    "array": (b"[" + line() + b"]", "bad_json"),
    "text": (b'"' + b"x" * 99 + b'"', "bad_json"),
    "number": (b"1", "bad_json"),
    "null": (b"null", "bad_json"),
    "cut": (line()[:-1], "bad_json"),
    "empty_object": (b"{}", "missing_event_id"),
    "id_beyond_2_53": (line(user_id=9_007_199_254_740_993), None),
    "id_beyond_2_64": (line(user_id=1 << 64), "bad_user_id"),
    "id_of_float": (line(user_id=1e300), "bad_user_id"),
    "id_true": (line(user_id=True), "bad_user_id"),
    "id_object": (line(user_id={"$oid": "x"}), "bad_user_id"),
    "id_empty": (line(user_id=""), "missing_user_id"),
    "id_null": (line(user_id=None), "missing_user_id"),
    "id_of_2000": (line(user_id="u" * 2000), "user_id_too_long"),
    "id_of_900_kb": (line(track_id="t" * 900_000), "track_id_too_long"),
    "type_unknown": (line(event_type="__proto__"), "unknown_event_type"),
    "type_number": (line(event_type=1), "unknown_event_type"),
    "quality_unknown": (line(time_quality="'; DROP TABLE"), "unknown_time_quality"),
    "position_2_31": (line(position=1 << 31), "bad_position"),
    "position_negative": (line(position=-1), "negative_position"),
    "played_2_63": (line(played_ms=1 << 63), "bad_played_ms"),
    "played_max": (line(played_ms=(1 << 63) - 1), "played_ms_too_long"),
    "played_min": (line(played_ms=-(1 << 63)), "negative_played_ms"),
    "played_fraction": (line(played_ms=1.5), "bad_played_ms"),
    "played_text": (line(played_ms="60000"), "bad_played_ms"),
    "duration_seconds": (line(track_duration_ms=180), "track_duration_ms_too_short"),
    "duration_max": (line(track_duration_ms=(1 << 63) - 1), "track_duration_ms_too_long"),
    "propensity_zero": (line(propensity=0.0), "propensity_out_of_range"),
    "propensity_tiny": (line(propensity=5e-324), None),
    "propensity_two": (line(propensity=2), "propensity_out_of_range"),
    "skipped_text": (line(skipped="true"), "bad_skipped"),
    "formula": (line(user_id="=HYPERLINK(1)", track_id="@SUM(1+1)|cmd"), None),
    "many_keys": (json.dumps(event() | {f"k{at}": at for at in range(40_000)}).encode(), None),
    "long_key": (json.dumps(event() | {"k" * 900_000: 1}).encode(), None),
}  # fmt: skip

TIMES: dict[str, tuple[Any, str | None]] = {
    "zero": (0, "event_time_out_of_range"),
    "negative": (-1, "event_time_out_of_range"),
    "seconds": (1_767_614_400, "event_time_out_of_range"),
    "milliseconds": (1_767_614_400_000, "event_time_out_of_range"),
    "nanoseconds": (1_767_614_400_000_000_000, "event_time_out_of_range"),
    "int64_max": ((1 << 63) - 1, "bad_event_time"),
    "int64_min": (-(1 << 63), "bad_event_time"),
    "uint64": (1 << 63, "bad_event_time"),
    "digits_of_300": ("9" * 300, "bad_event_time"),
    "float": (1.7676144e15, "bad_event_time"),
    "exponent": ("1e15", "bad_event_time"),
    "text_of_micros": ("1767614400000000", None),
    "year_55840": ("+55840-01-05T12:00:00Z", "event_time_out_of_range"),
    "year_9999": ("9999-12-31T23:59:59Z", "event_time_out_of_range"),
    "year_0": ("0000-01-01T00:00:00Z", "event_time_out_of_range"),
    "year_minus_1": ("-0001-01-01T00:00:00Z", "event_time_out_of_range"),
    "year_1970": ("1970-01-01T00:00:00Z", "event_time_out_of_range"),
    "no_zone": ("2026-01-05T12:00:00", "bad_event_time"),
    "day_alone": ("2026-01-05", "bad_event_time"),
    "offset": ("2026-01-05T13:30:00+01:30", None),
    "offset_99": ("2026-01-05T12:00:00+99:99", "bad_event_time"),
    "hour_24": ("2026-01-05T24:00:00Z", "bad_event_time"),
    "leap_second": ("2026-01-05T11:59:60Z", None),
    "second_61": ("2026-01-05T11:59:61Z", "bad_event_time"),
    "february_30": ("2026-02-30T00:00:00Z", "bad_event_time"),
    "month_13": ("2026-13-01T00:00:00Z", "bad_event_time"),
    "lower_case": ("2026-01-05t12:00:00z", "bad_event_time"),
    "arabic_digits": ("\u0662\u0660\u0662\u0666-01-05T12:00:00Z", "bad_event_time"),
    "words": ("now", "bad_event_time"),
    "empty": ("", "bad_event_time"),
    "nul": ("2026-01-05T12:00:00Z\0", "bad_event_time"),
    "1_mb_of_digits": ("2026-01-05T12:00:00." + "1" * 900_000 + "Z", None),
    "object": ({"$date": 1}, "bad_event_time"),
    "true": (True, "bad_event_time"),
    "null": (None, "missing_event_time"),
    "a_day_ahead": ("2026-01-07T12:00:00Z", "event_time_ahead_of_received_time"),
    "a_year_ahead": ("2027-01-05T12:00:00Z", "event_time_ahead_of_received_time"),
}


def json_lines() -> Iterator[Case]:
    for name, (data, reason) in BAD_LINES.items():
        ends = Rows({reason: 1}) if reason else Rows(kept=1)
        around = [line(event_id="before"), data, line(event_id="after")]
        yield Case(
            f"line_{name}.jsonl", "jsonl", b"\n".join(around), Rows(ends.rejects, ends.kept + 2)
        )
    for name, (value, reason) in TIMES.items():
        rows = [line(event_id="before"), line(event_id="odd", event_time=value)]
        ends = Rows({reason: 1}, 1) if reason else Rows(kept=2)
        yield Case(f"time_{name}.jsonl", "jsonl", b"\n".join(rows), ends)
    yield Case("bom.jsonl", "jsonl", b"\xef\xbb\xbf" + line(event_id="b"), Rows(kept=1))
    yield Case("zeros.jsonl", "jsonl", bytes(MIB - 1), Rows({"bad_json": 1}))
    yield Case("no_feed.jsonl", "jsonl", line(event_id="b") + b"\r", Rows(kept=1))
    yield Case("old_mac.jsonl", "jsonl", line() + b"\r" + line(), Rows({"bad_json": 1}))
    yield Case("blank.jsonl", "jsonl", b"\n \n\t\n\r\n" * 100_000, Rows())
    yield Case("empty.jsonl", "jsonl", b"", Rows())
    yield Case("utf16.jsonl", "jsonl", (line() + b"\n" + line()).decode().encode("utf-16"),
               Rows({"bad_utf8": 1, "bad_json": 1}))  # fmt: skip
    yield Case("is_parquet.jsonl", "jsonl", b"PAR1\xff\xfe" + bytes(99), Rows({"bad_utf8": 1}))
    same = line(event_id="one")
    yield Case("same_row.jsonl", "jsonl", b"\n".join([same] * 4000), Rows(kept=4000))
    listen = {
        "user_object": (LISTEN | {"user_id": {}}, "bad_user_id"),
        "metadata_text": (LISTEN | {"track_metadata": "x"}, "bad_track_metadata"),
        "metadata_list": (LISTEN | {"track_metadata": [[]]}, "bad_track_metadata"),
        "time_2_62": (LISTEN | {"listened_at": 1 << 62}, "bad_event_time"),
        "time_negative": (LISTEN | {"listened_at": -5}, "event_time_out_of_range"),
        "time_text": (LISTEN | {"listened_at": "now"}, "bad_listened_at"),
    }
    for name, (value, reason) in listen.items():
        data = json.dumps(value).encode()
        yield Case(f"listen_{name}.listens", "listenbrainz", data, Rows({reason: 1}))


def json_arrays() -> Iterator[Case]:
    def spotify(name: str, ends: Rows | Refused, *rows: Any, data: bytes | None = None) -> Case:
        data = json.dumps(list(rows)).encode() if data is None else data
        return Case(f"{name}.json", "spotify", data, ends)

    end = "not a valid JSON document"
    yield spotify("brackets", Refused(end), data=b"[" * 100_000)
    yield spotify("closed_brackets", Refused(end), data=b"[" * 100_000 + b"]" * 100_000)
    yield spotify("deep", Rows({"bad_json": 1}), data=b"[" + b"[" * 1000 + b"]" * 1000 + b"]")
    yield spotify("nan", Refused(end), SPOTIFY | {"ms_played": math.nan})
    yield spotify("surrogate", Refused(end), SPOTIFY | {"spotify_track_uri": "\ud800"})
    yield spotify("two_documents", Refused(end), data=b"[] []")
    yield spotify("object", Refused("expected a JSON array"), data=json.dumps(SPOTIFY).encode())
    yield spotify("text", Refused("expected a JSON array"), data=b'"x"')
    yield spotify("null", Refused("expected a JSON array"), data=b"null")
    yield spotify("blank", Refused(end), data=b"  ")
    yield spotify("empty", Rows(), data=b"")
    yield spotify("empty_array", Rows(), data=b"[]")
    yield spotify("bom", Rows(kept=1), data=b"\xef\xbb\xbf" + json.dumps([SPOTIFY]).encode())
    yield spotify("utf16", Refused(end), data=json.dumps([SPOTIFY]).encode("utf-16"))
    yield spotify("scalars", Rows({"bad_json": 4}, 1), 1, None, "x", [], SPOTIFY)
    yield spotify(
        "played_huge", Rows({"event_time_out_of_range": 1}), SPOTIFY | {"ms_played": 1 << 62}
    )
    yield spotify("played_negative", Rows({"negative_played_ms": 1}),
                  SPOTIFY | {"ms_played": -(1 << 63)})  # fmt: skip
    yield spotify("played_null", Rows({"missing_played_ms": 1}), SPOTIFY | {"ms_played": None})
    yield spotify("stamp_bad", Rows({"bad_event_time": 1}), SPOTIFY | {"ts": "2026-01-05"})
    yield spotify("stamp_year_9999", Rows({"event_time_out_of_range": 1}),
                  SPOTIFY | {"ts": "9999-12-31T23:59:59Z"})  # fmt: skip
    for name, stamp in {
        "max": (1 << 63) - 1,
        "min": -(1 << 63),
        "ns": 1_767_614_400 * 10**9,
    }.items():
        odd = SPOTIFY | {"offline": True, "offline_timestamp": stamp}
        yield spotify(f"offline_{name}", Rows(kept=1), odd)
    yield spotify(
        "sync_burst", Rows(kept=2000), *[SPOTIFY | {"ms_played": 60_000 + at} for at in range(2000)]
    )
    for cut, data in cuts(GOOD["spotify"][1]):
        yield spotify(f"cut_{cut}", Refused(end), data=data)
    small = SPOTIFY_SMALL
    for name, (row, reason) in {
        "wrong_form": (small | {"endTime": "2026-01-05T12:00:00Z"}, "bad_event_time"),
        "no_track": (small | {"trackName": None}, "missing_track_id"),
        "huge": (small | {"msPlayed": 1 << 60}, "event_time_out_of_range"),
    }.items():
        yield Case(f"small_{name}.json", "spotify_small", json.dumps([row]).encode(),
                   Rows({reason: 1}))  # fmt: skip
    yield Case("small_is_extended.json", "spotify_small", json.dumps([SPOTIFY]).encode(),
               Refused("no record has `endTime`"))  # fmt: skip
    yield Case("mapped.json", "json", json.dumps([MAPPED, MAPPED | {"at": 5}]).encode(),
               Rows({"bad_event_time": 1}, 1))  # fmt: skip
    yield Case("mapped_deep.json", "json", b'[{"uid":' + b"[" * 900 + b"]" * 900 + b"}]",
               Rows({"bad_uid": 1}))  # fmt: skip


def delimited() -> Iterator[Case]:
    parts = LASTFM.strip("\n").split("\t")

    def lastfm(name: str, ends: Rows | Refused, data: bytes | str) -> Case:
        data = data.encode() if isinstance(data, str) else data
        return Case(f"{name}.tsv", "lastfm1k", data, ends)

    def row(at: int, value: str) -> str:
        return "\t".join([*parts[:at], value, *parts[at + 1 :]])

    yield lastfm("tabs", Rows({"column_count": 1}), "\t" * 900_000)
    yield lastfm("too_few", Rows({"column_count": 1}, 1), "a\tb\n" + LASTFM)
    yield lastfm("too_many", Rows({"column_count": 1}, 1), row(5, "x\ty") + "\n" + LASTFM)
    yield lastfm("quotes", Rows(kept=2), row(5, '"open') + "\n" + LASTFM)
    yield lastfm("nul", Rows(kept=1), row(5, "a\0b"))
    yield lastfm("not_utf8", Rows({"bad_utf8": 1}, 1), b"\xff" + LASTFM.encode() + LASTFM.encode())
    yield lastfm("utf16", Rows({"bad_utf8": 1, "column_count": 1}), LASTFM.encode("utf-16"))
    yield lastfm("bom", Rows(kept=1), b"\xef\xbb\xbf" + LASTFM.encode())
    yield lastfm("crlf", Rows(kept=2), LASTFM.replace("\n", "\r\n") * 2)
    yield lastfm("old_mac", Rows({"column_count": 1}), LASTFM.replace("\n", "\r") * 2)
    yield lastfm("no_user", Rows({"missing_user_id": 1}), row(0, "  "))
    yield lastfm("rtl", Rows(kept=1), row(0, "\u202eresu"))
    yield lastfm("long_name", Rows({"track_id_too_long": 1}), row(5, "x" * 900_000))
    yield lastfm("empty", Rows(), "")
    yield lastfm("feeds", Rows(), "\n" * 900_000)
    for name, (value, reason) in {
        "none": ("", "missing_event_time"),
        "no_zone": ("2009-05-04T12:08:57", "bad_event_time"),
        "micros": ("1767614400000000", "bad_event_time"),
        "year_0": ("0000-05-04T12:08:57Z", "event_time_out_of_range"),
        "future": ("2038-01-19T03:14:08Z", "event_time_out_of_range"),
    }.items():
        yield lastfm(f"time_{name}", Rows({reason: 1}), row(1, value))

    def mssd(name: str, ends: Rows | Refused, data: bytes | str) -> Case:
        data = data.encode() if isinstance(data, str) else data
        return Case(f"mssd_{name}.csv", "mssd", data, ends)

    names = MSSD.strip().split(",")
    for name, (column, value, reason) in {
        "position": ("session_position", "9" * 40, "bad_session_position"),
        "position_text": ("session_position", "x", "bad_session_position"),
        "hour": ("hour_of_day", "24", "bad_event_time"),
        "date": ("date", "2018-02-30", "bad_event_time"),
        "date_huge": ("date", "99999-01-01", "bad_event_time"),
        "flag": ("skip_1", "maybe", "bad_source_skip_level"),
        "flags": ("skip_1", "true", "inconsistent_skip_flags"),
        "premium": ("premium", "2", "bad_premium"),
    }.items():
        cells = [
            value if each == column else cell for each, cell in zip(names, MSSD_ROW, strict=True)
        ]
        yield mssd(name, Rows({reason: 1}), MSSD + ",".join(cells))
    yield mssd("no_header", Refused("the header has no column"), ",".join(MSSD_ROW))
    yield mssd("header_twice", Refused("more than once"), MSSD.strip() + ",date\n")
    yield mssd("header_not_utf8", Refused("not UTF-8"), b"\xff" + MSSD.encode())
    yield mssd("header_long", Refused("the header has no column"), "h" * (MIB - 8))
    yield mssd("header_of_names", Refused("the header has no column"), "a," * 450_000)
    for name, (data, ends) in {
        "open_quote": ('u,"t,1767614400,60\nu,t,1767614400,60', Rows({"bad_quotes": 1}, 1)),
        "line_in_quotes": ('u,"t\nt",1767614400,60', Rows({"bad_quotes": 1, "column_count": 1})),
        "quote_inside": ('u,"t"x,1767614400,60', Rows({"bad_quotes": 1})),
        "field_of_200_kb": (f'u,"{"t" * 200_000}",1767614400,60', Rows({"bad_quotes": 1})),
        "nan": ("u,t,nan,60", Rows({"bad_event_time": 1})),
        "inf": ("u,t,inf,60", Rows({"bad_event_time": 1})),
        "hex": ("u,t,0x10,60", Rows({"bad_event_time": 1})),
        "1e300": ("u,t,1e300,60", Rows({"bad_event_time": 1})),
        "played_nan": ("u,t,1767614400,nan", Rows({"bad_played_ms": 1})),
        "played_1e300": ("u,t,1767614400,1e300", Rows({"bad_played_ms": 1})),
        "formula": ('=1+1,"@SUM(1)",1767614400,60', Rows(kept=1)),
    }.items():
        yield Case(f"csv_{name}.csv", "csv", b"uid,track,at,s\n" + data.encode(), ends)


# --- Parquet --------------------------------------------------------------------------------------


def parquet_files() -> Iterator[Case]:
    def case(name: str, data: bytes, ends: Rows | Refused, format: str = "parquet") -> Case:
        return Case(f"{name}.parquet", format, data, ends)

    damaged = Refused("Parquet")
    good = parquet(columns(), compression="NONE", write_page_checksum=True)
    for cut, data in cuts(good):
        yield case(f"cut_{cut}", data, damaged)
    yield case("empty", b"", damaged)
    yield case("magic", b"PAR1", damaged)
    yield case("magic_twice", b"PAR1PAR1", damaged)
    yield case("text", b"event_id,user_id\n1,2\n", damaged)
    yield case("encrypted", b"PARE" + good[4:-4] + b"PARE", damaged)
    yield case("tail_after", good + b"x", damaged)
    yield case("front_cut", good[100:], damaged)
    body, footer = footer_of(good)
    for name, claimed in {"0": 0, "1": 1, "more": len(good) + 1, "2_31": 1 << 31,
                          "2_32": (1 << 32) - 1}.items():  # fmt: skip
        yield case(f"footer_size_{name}", with_footer(body, footer, claimed), damaged)
    yield case("footer_of_zeros", with_footer(body, bytes(len(footer))), damaged)
    yield case("footer_of_ones", with_footer(body, b"\xff" * len(footer)), damaged)
    yield case("footer_nested", with_footer(body, b"\x1c" * 500_000), damaged)
    yield case("footer_lists", with_footer(body, b"\x19\xfc\xff\xff\xff\xff\x07" * 1000), damaged)
    rows = parquet(columns(1237), compression="NONE")
    for name, value in {"less": 7, "more": 9999, "1e9": 10**9, "2_62": 1 << 62, "negative": -5,
                        "zero": 0}.items():  # fmt: skip
        yield case(f"rows_{name}", forged(rows, 1237, value), damaged)
        yield case(f"group_rows_{name}", forged(rows, 1237, value, last=True), damaged)
    source = pq.ParquetFile(io.BytesIO(rows)).metadata.row_group(0)
    for at, what in ((0, "id"), (5, "time")):
        # In a footer stand one after the other: values, bytes, compressed bytes, first page.
        chunk = source.column(at)
        size, place = chunk.total_compressed_size, chunk.data_page_offset
        told = [chunk.num_values, chunk.total_uncompressed_size, size, place]
        for name, value in {"zero": 0, "2_40": 1 << 40, "negative": -1, "2_62": 1 << 62}.items():
            for part, change in {"values": 0, "size": 2, "page": 3}.items():
                if part == "page" and chunk.dictionary_page_offset is not None:
                    continue  # reading starts at the dictionary then
                lie = [value if which == change else true for which, true in enumerate(told)]
                data = with_footer(*footer_of_lie(rows, told, lie))
                # How many values a chunk has is read in the headers of its pages.
                right = part == "values" and value > 0
                ends: Rows | Refused = Rows(kept=1237) if right else Refused("")
                yield case(f"{what}_chunk_{part}_{name}", data, ends)
    # A page header is Thrift too: its sizes are its second and third number.
    at = source.column(0).dictionary_page_offset or 4
    for name, change in {"zeros": bytes(20), "ones": b"\xff" * 20, "2_gb": b"\x15\x00\x15"
                         + encode("long", (1 << 31) - 1) * 2}.items():  # fmt: skip
        broken = bytearray(rows)
        broken[at : at + len(change)] = change
        yield case(f"page_header_{name}", bytes(broken), damaged)
    flipped = bytearray(good)
    flipped[len(body) // 2] ^= 0xFF
    yield case("flipped_page", bytes(flipped), damaged)
    big = pa.array(["x" * MIB])
    yield case("one_value_of_20_mb", parquet(columns(1, user_id=pa.array(["x" * 20 * MIB])),
               compression="zstd", use_dictionary=False, write_statistics=False),
               Rows({"user_id_too_long": 1}))  # fmt: skip
    wide = columns(4000, shelf=pa.DictionaryArray.from_arrays(
        pa.array([0] * 4000, pa.int32()), big))  # fmt: skip
    yield case("dictionary_bomb", parquet(wide, compression="zstd", write_statistics=False,
               dictionary_pagesize_limit=2 * MIB), Refused("more memory"))  # fmt: skip
    same = pa.array([0] * 8_000_000, pa.int32())
    long = {name: pa.DictionaryArray.from_arrays(same, column[:1]) if column.type == pa.string()
            else column[:1].take(same) for name, column in columns(1).items()}  # fmt: skip
    yield case("a_row_8_million_times", parquet(long), damaged)
    many = {f"c{at}": pa.array([1]) for at in range(2500)}
    yield case("columns_2500", parquet(columns(1) | many), Rows(kept=1))
    deep: pa.DataType = pa.int32()
    for _ in range(90):
        deep = pa.struct([("a", deep)])
    yield case("deep_extra", parquet(columns(1, extra=pa.nulls(1, deep))), Rows(kept=1))
    twice = pa.table([*columns(1).values(), pa.array(["b"])], [*columns(1), "event_id"])
    yield case("column_twice", parquet(twice), damaged)
    lacking = columns(1)
    del lacking["user_id"]
    yield case("column_lacking", parquet(lacking), Refused("has no column 'user_id'"))
    yield case("no_columns", parquet({"x": pa.array([1])}), Refused("none of the expected"))
    yield case("no_rows", parquet(columns(0)), Rows())
    stamps = pa.array([0], pa.int64())
    odd: dict[str, pa.Array] = {
        "struct": pa.array([{"a": 1}]), "list": pa.array([["x"]]), "map": pa.array(
            [[("a", 1)]], pa.map_(pa.string(), pa.int32())), "decimal": pa.array(
            ["1"], pa.string()).cast(pa.decimal128(38, 2)), "decimal256": pa.array(
            ["1"]).cast(pa.decimal256(76, 2)), "half": pa.array([1.0], pa.float32()).cast(
            pa.float16()), "fixed": pa.array([b"ab"], pa.binary(2)), "date": stamps.cast(
            pa.int32()).cast(pa.date32()), "time": stamps.cast(pa.time64("us")),
        "duration": stamps.cast(pa.duration("us")), "bool": pa.array([True]),
        "double": pa.array([1.5]), "uint64": pa.array([(1 << 64) - 1], pa.uint64()),
        "list_of_null": pa.array([[None]]),
    }  # fmt: skip
    for name, column in odd.items():
        wrong = "column 'event_time' is"
        if name == "decimal256":
            ends = damaged
        elif name == "uint64":
            ends = Rows({"bad_event_time": 1})
        else:
            ends = Refused(wrong)
        yield case(f"time_is_{name}", parquet(columns(1, event_time=column)), ends)
        if name == "uint64" or name == "fixed":
            ends = Rows(kept=1)
        elif name != "decimal256":
            ends = Refused("column 'user_id' is")
        yield case(f"user_is_{name}", parquet(columns(1, user_id=column)), ends)
    yield case(
        "user_is_null", parquet(columns(1, user_id=pa.nulls(1))), Rows({"missing_user_id": 1})
    )
    for name, (unit, value, reason) in {
        "s_max": ("s", (1 << 63) - 1, "bad_event_time"),
        "ms_max": ("ms", (1 << 63) - 1, "bad_event_time"),
        "us_max": ("us", (1 << 63) - 1, "bad_event_time"),
        "us_min": ("us", -(1 << 63), "bad_event_time"),
        "ns_max": ("ns", (1 << 63) - 1, "event_time_out_of_range"),
        "ns_min": ("ns", -(1 << 63), "event_time_out_of_range"),
    }.items():
        stamp = pa.array([value], pa.int64()).cast(pa.timestamp(unit, "UTC"))
        data = parquet(columns(1, event_time=stamp)) if unit != "s" else parquet(
            columns(1, event_time=pa.array([value], pa.int64())))  # fmt: skip
        yield case(f"stamp_{name}", data, Rows({reason: 1}))
    raw = pa.array([b"u\xff", b"u\xed\xa0\x80", b"u"], pa.binary())
    yield case("bytes_not_utf8", parquet(columns(3, user_id=raw)), Rows({"bad_utf8": 2}, 1))
    texts = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    yield case("text_not_utf8", parquet(columns(3, user_id=texts)), Rows({"bad_utf8": 2}, 1))
    for name, value in {"garbage": b"!!!", "short": base64.b64encode(b"\xff\xff\xff\xff\x10\0\0\0"),
                        "random": base64.b64encode(bytes(range(256)) * 40)}.items():  # fmt: skip
        table = pa.table(columns(1)).replace_schema_metadata({})
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, table.schema, store_schema=False) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"ARROW:schema": value})
        yield case(f"arrow_schema_{name}", sink.getvalue(), damaged)
    yambda = {name: pa.array([n]) for name, n in YAMBDA.items()}
    for name, (column, values, reason) in {
        "time_max": ("timestamp", pa.array([(1 << 63) - 1]), "bad_event_time"),
        "time_negative": ("timestamp", pa.array([-(1 << 40)]), "event_time_out_of_range"),
        "ratio": ("played_ratio_pct", pa.array([1 << 62]), "bad_played_ms"),
        "ratio_wraps": ("played_ratio_pct", pa.array([(1 << 61) + 1]), "bad_played_ms"),
        "length": ("track_length_seconds", pa.array([1 << 62]), "bad_played_ms"),
    }.items():
        data = parquet(yambda | {column: values})
        yield case(f"yambda_{name}", data, Rows({reason: 1}), "yambda_listens")
    yield case("spark_time_number", parquet(SPARK | {"listened_at": pa.array([5])}),
               Refused("column listened_at"), "listenbrainz_spark")  # fmt: skip
    mapped = {"uid": pa.array(["u"]), "track": pa.array(["t"]), "at": pa.array([1_767_614_400_000])}
    for name, played, reason in (("max", (1 << 63) - 1, "bad_event_time"),
                                 ("min", -(1 << 63), "negative_played_ms")):  # fmt: skip
        yield case(f"mapped_played_{name}", parquet(mapped | {"ms": pa.array([played])}),
                   Rows({reason: 1}), "parquet_mapping")  # fmt: skip
    yield case("mapped_list", parquet(mapped | {"ms": pa.array([[1]])}),
               Refused("expected one value a row"), "parquet_mapping")  # fmt: skip


# --- Avro -----------------------------------------------------------------------------------------


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [
        {"name": each, "type": kind} for each, kind in fields], **more}  # fmt: skip


def with_extra(kind: Any) -> dict[str, Any]:
    return {**SMALL_AVRO, "fields": [*SMALL_AVRO["fields"], {"name": "extra", "type": kind}]}


def avro_files() -> Iterator[Case]:
    def case(name: str, data: bytes, ends: Rows | Refused, format: str = "avro") -> Case:
        return Case(f"{name}.avro", format, data, ends)

    rows = [avro_event(at) for at in range(3)]
    one = encode(SMALL_AVRO, rows[0])
    good = avro(SMALL_AVRO, rows)
    for cut, data in cuts(good):
        yield case(f"cut_{cut}", data, Refused("Avro"))
    yield case("empty", b"", Refused("empty file"))
    yield case("text", b"{}", Refused("Avro"))
    yield case("tail_after", good + b"x", Refused("Avro"))
    yield case("no_blocks", avro_head(SMALL_AVRO), Rows())
    for codec in ("null", "deflate", "bzip2", "xz", "snappy", "zstandard"):
        yield case(f"garbage_{codec}", avro_head(SMALL_AVRO, codec) + avro_block(1, b"\xa5" * 500),
                   Refused("Avro"))  # fmt: skip
        yield case(f"nothing_{codec}", avro_head(SMALL_AVRO, codec) + avro_block(1, b""),
                   Refused("Avro"))  # fmt: skip
    yield case("codec_unknown", avro_head(SMALL_AVRO, "rot13"), Refused("unknown Avro codec"))
    yield case("codec_long", avro_head(SMALL_AVRO, "x" * 900_000), Refused("unknown Avro codec"))
    raw = zlib.compressobj(1, wbits=-15)
    zeros = repeated(raw, bytes(MIB), 70)
    yield case("deflate_bomb", avro_head(SMALL_AVRO, "deflate") + avro_block(9, zeros),
               Refused("block of more than"))  # fmt: skip
    full = repeated(zlib.compressobj(9, wbits=-15), bytes(MIB), 60)
    yield case("deflate_bombs", avro_head(SMALL_AVRO, "deflate") + avro_block(9, full) * 12,
               Refused("Avro"))  # fmt: skip
    yield case("bzip2_bomb", avro_head(SMALL_AVRO, "bzip2") + avro_block(
        9, repeated(bz2.BZ2Compressor(), bytes(MIB), 70)), Refused("block of more"))  # fmt: skip
    yield case("xz_bomb", avro_head(SMALL_AVRO, "xz") + avro_block(
        9, repeated(lzma.LZMACompressor(), bytes(MIB), 70)), Refused("block of more"))  # fmt: skip
    yield case("zstd_bomb", avro_head(SMALL_AVRO, "zstandard") + avro_block(
        9, zstd_of(bytes(MIB), 70)), Refused("block of more"))  # fmt: skip
    for name, size in {"2_31": 1 << 31, "2_35": (1 << 35) - 1}.items():
        claim = bytearray()
        while size > 0x7F:
            claim.append(size & 0x7F | 0x80)
            size >>= 7
        claim.append(size)
        yield case(f"snappy_claims_{name}", avro_head(SMALL_AVRO, "snappy") + avro_block(
            1, bytes(claim) + b"\0abcd1234"), Refused("Avro"))  # fmt: skip
    for name, count in {"0": 0, "minus_1": -1, "2_40": 1 << 40, "2_62": 1 << 62, "2": 2}.items():
        yield case(f"block_count_{name}", avro_head(SMALL_AVRO) + avro_block(count, one),
                   Refused("Avro"))  # fmt: skip
    yield case("block_count_less", avro_head(SMALL_AVRO) + avro_block(1, one * 5), Refused("Avro"))
    for name, size in {"0": 0, "minus_1": -1, "2_40": 1 << 40, "2_62": 1 << 62,
                       "less": len(one) - 1, "more": len(one) + 1}.items():  # fmt: skip
        yield case(f"block_size_{name}", avro_head(SMALL_AVRO) + avro_block(1, one, size),
                   Refused("Avro"))  # fmt: skip
    yield case("endless_number", avro_head(SMALL_AVRO) + b"\xff" * 500_000, Refused("Avro"))
    yield case("sync_wrong", good[:-1] + b"!", Refused("does not end where it says"))
    head = b"Obj\x01"
    yield case("header_2_60_entries", head + encode("long", 1 << 60) + bytes(900_000),
               Refused("Avro"))  # fmt: skip
    yield case("header_negative", head + encode("long", -5) + encode("long", -5) + bytes(99),
               Refused("Avro"))  # fmt: skip
    yield case("header_key_2_50", head + encode("long", 1) + encode("long", 1 << 50) + bytes(99),
               Refused("Avro"))  # fmt: skip
    empty = encode({"type": "map", "values": "bytes"}, {"a": b""})
    yield case("no_schema", head + empty + b"s" * 16, Refused("holds no schema"))
    schemas: dict[str, tuple[Any, str]] = {
        "recursive": (with_extra(["null", "Small"]), "recursive"),
        "recursive_array": (with_extra({"type": "array", "items": "Small"}), "recursive"),
        "deep_arrays": (with_extra(nested(300, "array")), "deep"),
        "deep_maps": (with_extra(nested(300, "map")), "deep"),
        "fields_3000": (record(*[(f"f{at}", "int") for at in range(3000)]), "3000 fields"),
        "array_of_null": (with_extra({"type": "array", "items": "null"}), "no bytes"),
        "array_of_empty": (with_extra({"type": "array", "items": record(name="Z")}), "no bytes"),
        "array_of_fixed_0": (with_extra({"type": "array", "items": {
            "type": "fixed", "name": "F", "size": 0}}), "no bytes"),
        "unknown_type": (with_extra("Nothing"), "does not define"),
        "not_a_record": ("string", "not a record"),
        "no_fields": ({"type": "record", "name": "R"}, "not valid"),
        "fields_number": ({"type": "record", "name": "R", "fields": 3}, "not valid"),
        "fields_null": ({"type": "record", "name": "R", "fields": None}, "not valid"),
        "fields_text": ({"type": "record", "name": "R", "fields": "abc"}, "not valid"),
        "field_number": ({"type": "record", "name": "R", "fields": [3]}, "not valid"),
        "type_object": (with_extra({}), "not valid"),
        "type_number": (with_extra(7), "not valid"),
        "type_null": (with_extra(None), "not valid"),
        "type_list_of_lists": (with_extra([["null", "int"]]), "Avro"),
        "fixed_negative": (with_extra({"type": "fixed", "name": "F", "size": -1}), "not valid"),
        "fixed_text": (with_extra({"type": "fixed", "name": "F", "size": "9"}), "not valid"),
        "enum_number": (with_extra({"type": "enum", "name": "E", "symbols": 3}), "not valid"),
        "name_number": (record(("a", "int"), name=3), "not valid"),  # type: ignore[arg-type]
        "field_twice": (record(("event_id", "string"), ("event_id", "string")), "twice"),
        "other_types": (record(*[(name, "int") for name in NEEDED]), "expected"),
        "nothing_known": (record(("x", "int")), "no field"),
    }  # fmt: skip
    for name, (schema, part) in schemas.items():
        yield case(f"schema_{name}", avro_head(schema) + avro_block(1, one), Refused(part))
    for name, text in {"not_json": b"{", "brackets": b"[" * 100_000, "deep_json": b'{"type":' * 1000
                       + b"1" + b"}" * 1000, "utf8": b'{"type":"\xff"}', "nul": b"\0",
                       "empty": b"", "nan": b'{"type":NaN}'}.items():  # fmt: skip
        yield case(f"schema_{name}", avro_head(None, raw=text) + avro_block(1, one),
                   Refused("schema"))  # fmt: skip
    fields: list[Any] = [("a", record(("v", "int"), name="L0")), ("b", "L0")]
    for level in range(1, 40):
        fields = [("a", record(*fields, name=f"L{level}")), ("b", f"L{level}")]
    yield case("schema_doubling", avro_head(record(*fields)), Refused("deep"))
    # Values that cost a decoder far more than their bytes; none of them is a column we read.
    for name, kind in {
        "lists": {"type": "array", "items": {"type": "array", "items": "int"}},
        "maps": {"type": "array", "items": {"type": "map", "values": "int"}},
        "records": {"type": "array", "items": record(("v", ["null", "int"]), name="V")},
    }.items():
        schema = with_extra(kind)
        count = 20 * MIB
        packed = zlib.compressobj(1, wbits=-15)
        parts = [packed.compress(one + encode("long", count))]
        parts += [packed.compress(bytes(MIB)) for _ in range(20)]
        parts += [packed.compress(encode("long", 0)), packed.flush()]
        yield case(f"costly_{name}", avro_head(schema, "deflate") + avro_block(1, b"".join(parts)),
                   Rows(kept=1))  # fmt: skip
    for name, count in {"2_40": 1 << 40, "2_62": 1 << 62, "minus_2_62": -(1 << 62)}.items():
        extra = with_extra({"type": "array", "items": "int"})
        forged_count = one + encode("long", count) + bytes(64)
        yield case(f"array_claims_{name}", avro_head(extra) + avro_block(1, forged_count),
                   Refused("damaged Avro records"))  # fmt: skip
    for name, count in {"2_40": 1 << 40, "2_62": 1 << 62, "minus_1": -1}.items():
        text = encode("long", count) + b"abc" * 30
        yield case(f"text_claims_{name}", avro_head(SMALL_AVRO) + avro_block(1, text),
                   Refused("damaged Avro records"))  # fmt: skip
        extra = with_extra(["null", {"type": "array", "items": "string"}])
        yield case(f"slow_text_claims_{name}", avro_head(extra) + avro_block(1, text),
                   Refused("damaged Avro records"))  # fmt: skip
    unions = record(*[(name, ["null", "string"]) for name in NEEDED if not name.endswith("_time")],
                    *[(f, ["null", "long"]) for f in NEEDED if f.endswith("_time")])  # fmt: skip
    yield case("union_branch_9", avro_head(unions) + avro_block(1, encode("long", 9) * 20),
               Refused("damaged Avro records"))  # fmt: skip
    nulls = zlib.compressobj(1, wbits=-15)
    width = len(NEEDED)
    block = avro_block(4_000_000, repeated(nulls, bytes(width * 400_000), 10))
    yield case("null_rows_4_million", avro_head(unions, "deflate") + block, Refused("not an event"))
    bad = avro(SMALL_AVRO, rows).replace(b"good-1", b"\xff\xfeod-1")
    yield case("text_not_utf8", bad, Rows({"bad_utf8": 1}, 2))
    for name, value in {"max": (1 << 63) - 1, "min": -(1 << 63)}.items():
        odd = avro(SMALL_AVRO, [rows[0] | {"event_time": value}])
        yield case(f"time_{name}", odd, Rows({"bad_event_time": 1}))
    millis = {"type": "long", "logicalType": "timestamp-millis"}
    schema = {**SMALL_AVRO, "fields": [each | {"type": millis} if each["name"] == "event_time" else
                                       each for each in SMALL_AVRO["fields"]]}  # fmt: skip
    body = encode(SMALL_AVRO, rows[0] | {"event_time": (1 << 63) - 1})
    yield case("millis_max", avro_head(schema) + avro_block(1, body), Rows({"bad_event_time": 1}))
    yield case("mapped_max", avro(MAPPED_AVRO, [MAPPED_ROW | {"at": (1 << 63) - 1}]),
               Rows({"bad_event_time": 1}), "avro_mapping")  # fmt: skip
    yield case("mapped_lacks", avro(record(("uid", "string")), [{"uid": "u"}]),
               Refused("has no column"), "avro_mapping")  # fmt: skip


# What is hostile in a file -> its cases.
PARTS: dict[str, Callable[[], Iterator[Case]]] = {
    "compressed text": compressed_text,
    "JSON lines": json_lines,
    "JSON arrays": json_arrays,
    "delimited text": delimited,
    "Parquet": parquet_files,
    "Avro": avro_files,
}
