"""ListenBrainz dumps: golden rows in the shapes of the dumps, and rows that are broken."""

from __future__ import annotations

import datetime
import gzip
import io
import json
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from transforms.adapters.base import EVENT_COLUMNS, EVENT_SCHEMA, InputFile
from transforms.adapters.listenbrainz import ADAPTERS
from transforms.errors import InputFileError

MSID = "0f1a1b9e-5d9c-4a80-9c7e-2f5a8f1f0001"
MBID = "1f1a1b9e-5d9c-4a80-9c7e-2f5a8f1f0002"
ARTIST = "2f1a1b9e-5d9c-4a80-9c7e-2f5a8f1f0003"
RELEASE = "3f1a1b9e-5d9c-4a80-9c7e-2f5a8f1f0004"


def at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def listen(
    info: dict[str, Any] | None = None, mapping: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """One line of a dump, the user's name included."""
    return {
        "user_id": 42,
        "user_name": "secret-user",
        "listened_at": 1682935200,
        "inserted_at": 1682935460.25,
        "recording_msid": MSID,
        "track_metadata": {
            "artist_name": "Beyonce\u0301",
            "track_name": "Song",
            "release_name": "Album",
            "mbid_mapping": mapping,
            "additional_info": info if info is not None else {},
        },
        **changes,
    }


def read_bytes(data: bytes, name: str = "listenbrainz") -> tuple[pl.DataFrame, list[Any]]:
    """Events and unparsed records of a file."""
    adapter = ADAPTERS[name]
    suffix = ".gz" if data[:2] == b"\x1f\x8b" else ".zst" if data[:4] == b"\x28\xb5\x2f\xfd" else ""
    (table,) = adapter.read(InputFile("1.listens" + suffix, lambda: io.BytesIO(data)))
    events = adapter.to_events(table.rows)
    assert dict(events.select(EVENT_COLUMNS).schema) == EVENT_SCHEMA
    assert events["offset"].to_list() == table.rows["offset"].to_list()
    return events, table.rejects.rows()


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(*rows: Any) -> pl.DataFrame:
    return read_bytes(lines(*rows))[0]


def test_golden_listen() -> None:
    event = read(
        listen(
            {
                "duration_ms": 201_000,
                "duration_played": 180,
                "submission_client": "navidrome",
                "isrc": "X",
            },
            {
                "recording_mbid": MBID,
                "release_mbid": RELEASE,
                "artist_mbids": [ARTIST, MSID],
                "artists": [{"artist_mbid": ARTIST}],
            },
        )
    ).row(0, named=True)
    assert {name: value for name, value in event.items() if value is not None} == {
        "event_type": "play",
        "user_id": "42",
        "track_id": MBID,
        "artist_id": ARTIST,
        "album_id": RELEASE,
        "event_time": at("2023-05-01T10:00:00"),
        "received_time": at("2023-05-01T10:04:20.250"),
        "time_quality": "reported",
        "played_ms": 180_000,
        "track_duration_ms": 201_000,
        "client_id": "navidrome",
        "source": "listenbrainz",
        "offset": 0,
    }


def test_unmapped_listen_of_an_older_dump() -> None:
    row = listen(mapping=None)
    del row["inserted_at"]
    event = read(row).row(0, named=True)
    assert event["track_id"] == MSID
    assert event["artist_id"] == "Beyonc\u00e9"
    assert event["album_id"] == "Album"
    assert event["received_time"] == event["event_time"]
    assert event["played_ms"] is None
    assert event["track_duration_ms"] is None


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed(compress: Any) -> None:
    assert read_bytes(compress(lines(listen(), listen())))[0].height == 2


def test_the_name_of_the_user_is_not_read() -> None:
    data = lines(listen({"listening_from": "secret-place"}))
    (table,) = ADAPTERS["listenbrainz"].read(InputFile("f", lambda: io.BytesIO(data)))
    for frame in (table.rows, ADAPTERS["listenbrainz"].to_events(table.rows)):
        assert "secret" not in frame.write_json()
        assert "user_name" not in frame.columns


@pytest.mark.parametrize(
    ("info", "played", "duration"),
    [
        ({"duration": 201, "ms_played": 180_000}, 180_000, 201_000),
        ({"duration": 201.5, "duration_played": 180.25}, 180_250, 201_500),
        ({"duration_ms": 201_000.4}, None, 201_000),
        ({"ms_played": 1000, "duration_played": 180}, 1000, None),
        # Seconds where milliseconds are due stay what they say; the rules downstream judge.
        ({"duration_ms": 201}, None, 201),
        ({"ms_played": -5, "duration": -1}, -5, -1000),
    ],
)
def test_units(info: dict[str, Any], played: int | None, duration: int | None) -> None:
    event = read(listen(info)).row(0, named=True)
    assert (event["played_ms"], event["track_duration_ms"]) == (played, duration)
    assert event["reject_reason"] is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (listen({"duration": 201, "duration_ms": 201_000}), "both_durations"),
        (listen(listened_at=1033410599), "event_time_out_of_range"),
        (listen(listened_at=1033410600), None),
        (listen(listened_at=0), "event_time_out_of_range"),
        (listen(listened_at=-(10**15)), "bad_event_time"),
        (listen(listened_at=2**62), "bad_event_time"),
        (listen(inserted_at=1e300), "bad_received_time"),
        (listen({"duration": 1e300}), "bad_track_duration_ms"),
        (listen({"ms_played": 1e300}), "bad_played_ms"),
        # Judged by the rules that hold for all sources:
        (listen(listened_at=1682935200_000), None),  # milliseconds: the year 55299
        (listen(recording_msid=None), None),
        (listen(user_id=None), None),
        (listen(listened_at=None), None),
        (listen(a_new_field={"of": "tomorrow"}), None),
        (listen({"music_service": ["of", "tomorrow"]}), None),
    ],
)
def test_rejects(row: dict[str, Any], reason: str | None) -> None:
    assert read(listen(), row)["reject_reason"].to_list() == [None, reason]


def test_milliseconds_in_place_of_seconds_are_never_rescaled() -> None:
    far = read(listen(listened_at=1682935200_000)).filter(
        pl.col("event_time") > at("9999-01-01T00:00:00")
    )
    assert far.height == 1


def test_missing_ids_are_null() -> None:
    event = read(listen(recording_msid=" ", user_id=None), listen()).row(0, named=True)
    assert event["track_id"] is None
    assert event["user_id"] is None


def test_records_that_do_not_fit_are_the_containers_rejects() -> None:
    bad = [
        lines(listen(listened_at="soon")),
        lines(listen({"duration_ms": "long"})),
        b'{"listened_at": NaN}\n',
        b'{"listened_at": 1e999}\n',
        b'{"recording_msid": "\xff"}\n',
        b"[1, 2]\n",
        b'{"listened_at": 16829\n',
    ]
    events, rejects = read_bytes(b"".join([*bad, lines(listen())]))
    assert events["offset"].to_list() == [7]
    assert rejects == [
        (0, "bad_listened_at"),
        (1, "bad_track_metadata.additional_info.duration_ms"),
        (2, "bad_json"),
        (3, "bad_json"),
        (4, "bad_utf8"),
        (5, "bad_json"),
        (6, "bad_json"),
    ]


def test_empty_file() -> None:
    assert not list(ADAPTERS["listenbrainz"].read(InputFile("f", lambda: io.BytesIO(b""))))


def test_a_truncated_gzip_is_refused() -> None:
    with pytest.raises(InputFileError):
        read_bytes(gzip.compress(lines(listen()) * 100)[:-20])


# --- the Spark dump -------------------------------------------------------------------------------

NAIVE = datetime.datetime(2023, 5, 1, 10, 0, 0, 250_000)  # noqa: DTZ001 (the dump has no zone)
SPARK = pa.schema(
    [
        ("listened_at", pa.timestamp("ns")),
        ("created", pa.timestamp("ns")),
        ("user_id", pa.int64()),
        ("recording_msid", pa.string()),
        ("artist_name", pa.string()),
        ("artist_credit_id", pa.int64()),
        ("release_name", pa.string()),
        ("release_mbid", pa.string()),
        ("recording_name", pa.string()),
        ("recording_mbid", pa.string()),
        ("artist_credit_mbids", pa.list_(pa.string())),
    ]
)


def spark(rows: list[dict[str, Any]], schema: pa.Schema = SPARK) -> bytes:
    base = {"listened_at": NAIVE, "user_id": 42, "recording_msid": MSID, "artist_name": "A"}
    sink = io.BytesIO()
    table = pa.Table.from_pylist([{**base, **row} for row in rows], schema=schema)
    pq.write_table(table, sink, use_deprecated_int96_timestamps=True)
    return sink.getvalue()


def test_golden_spark_rows() -> None:
    rows: list[dict[str, Any]] = [
        {
            "created": NAIVE + datetime.timedelta(days=1),
            "recording_mbid": MBID,
            "release_mbid": RELEASE,
            "artist_credit_mbids": [ARTIST],
        },
        {"release_name": "Album", "artist_credit_mbids": []},
    ]
    events, rejects = read_bytes(spark(rows), "listenbrainz_spark")
    assert not rejects
    columns = ["user_id", "track_id", "artist_id", "album_id", "event_time", "received_time"]
    start = at("2023-05-01T10:00:00.250")
    assert events.select(columns).rows() == [
        ("42", MBID, ARTIST, RELEASE, start, start + datetime.timedelta(days=1)),
        ("42", MSID, "A", "Album", start, start),
    ]
    assert events["time_quality"].unique().to_list() == ["reported"]
    assert events["reject_reason"].null_count() == 2


def test_spark_bounds_and_missing_ids() -> None:
    rows: list[dict[str, Any]] = [
        {"listened_at": datetime.datetime(1970, 1, 1)},  # noqa: DTZ001
        {"listened_at": None},
        {"recording_msid": None},
    ]
    events = read_bytes(spark(rows), "listenbrainz_spark")[0]
    assert events["reject_reason"].to_list() == ["event_time_out_of_range", None, None]
    assert events["track_id"].to_list() == [MSID, MSID, None]


def test_spark_columns_that_a_dump_lacks_are_null() -> None:
    schema = pa.schema([SPARK.field(name) for name in ("listened_at", "user_id", "recording_msid")])
    event = read_bytes(spark([{}], schema), "listenbrainz_spark")[0].row(0, named=True)
    assert event["received_time"] == event["event_time"]
    assert event["track_id"] == MSID
    assert event["artist_id"] is None


@pytest.mark.parametrize(
    "schema",
    [
        pa.schema([("user_id", pa.int64())]),
        pa.schema([("listened_at", pa.int64())]),
        pa.schema([SPARK.field("listened_at"), ("artist_credit_mbids", pa.string())]),
    ],
)
def test_spark_of_another_shape_is_refused(schema: pa.Schema) -> None:
    row: dict[str, None] = dict.fromkeys(schema.names)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row], schema=schema), sink)
    with pytest.raises(InputFileError):
        read_bytes(sink.getvalue(), "listenbrainz_spark")


def test_spark_without_rows() -> None:
    data = spark([])
    assert not list(ADAPTERS["listenbrainz_spark"].read(InputFile("f", lambda: io.BytesIO(data))))
