"""Spotify exports: golden rows in the shapes of real files, and rows that are broken."""

from __future__ import annotations

import datetime
import io
import json
from typing import Any

import polars as pl
import pytest

from transforms.adapters.base import EVENT_COLUMNS, EVENT_SCHEMA, InputFile
from transforms.adapters.spotify import ADAPTERS
from transforms.errors import InputFileError

TRACK = "spotify:track:4iV5W9uYEdYUVa79Axb7Rh"


def stream(**changes: Any) -> dict[str, Any]:
    """One element of an extended history, personal fields included."""
    return {
        "ts": "2023-05-01T10:03:20Z",
        "username": "secret-user",
        "platform": "Android OS 9 API 28 (HUAWEI, ANE-LX1)",
        "ms_played": 200_000,
        "conn_country": "DE",
        "ip_addr_decrypted": "203.0.113.7",
        "user_agent_decrypted": "secret-agent",
        "master_metadata_track_name": "Song",
        "master_metadata_album_artist_name": "Beyonce\u0301",
        "master_metadata_album_album_name": "Album",
        "spotify_track_uri": TRACK,
        "episode_name": None,
        "episode_show_name": None,
        "spotify_episode_uri": None,
        "reason_start": "clickrow",
        "reason_end": "trackdone",
        "shuffle": True,
        "skipped": None,
        "offline": False,
        "offline_timestamp": 0,
        "incognito_mode": False,
        **changes,
    }


def small(**changes: Any) -> dict[str, Any]:
    base = {"endTime": "2023-05-01 10:03", "artistName": "A", "trackName": "T", "msPlayed": 180_000}
    return {**base, **changes}


def read(rows: Any, name: str = "spotify") -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events and unparsed records of a file of `rows`."""
    data = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    adapter = ADAPTERS[name]
    tables = list(adapter.read(InputFile("endsong_0.json", lambda: io.BytesIO(data))))
    assert len(tables) == 1
    events = adapter.to_events(tables[0].rows)
    assert dict(events.select(EVENT_COLUMNS).schema) == EVENT_SCHEMA
    assert events["offset"].to_list() == tables[0].rows["offset"].to_list()
    return events, tables[0].rejects


def reasons(rows: Any, name: str = "spotify") -> list[str | None]:
    return read(rows, name)[0]["reject_reason"].to_list()


def at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def test_golden_play() -> None:
    event = read([stream()])[0].row(0, named=True)
    assert {name: value for name, value in event.items() if value is not None} == {
        "event_type": "play",
        "user_id": "me",
        "track_id": "4iV5W9uYEdYUVa79Axb7Rh",
        "artist_id": "Beyonc\u00e9",
        "album_id": "Album",
        "event_time": at("2023-05-01T10:00:00"),
        "received_time": at("2023-05-01T10:03:20"),
        "time_quality": "derived",
        "played_ms": 200_000,
        "reason_start": "clickrow",
        "reason_end": "trackdone",
        "shuffle": True,
        "offline": False,
        "platform": "android",
        "country": "DE",
        "source": "spotify",
        "offset": 0,
    }


@pytest.mark.parametrize("name", ["spotify", "spotify_small"])
def test_personal_fields_are_not_read(name: str) -> None:
    rows = [stream(ip_addr="203.0.113.7", **small())]
    file = InputFile("f", lambda: io.BytesIO(json.dumps(rows).encode()))
    (table,) = ADAPTERS[name].read(file)
    for secret in ("secret", "203.0.113.7", "username", "ip_addr", "user_agent"):
        assert secret not in table.rows.write_json()
        # Not even the device model, which is in a column that is read.
        events = ADAPTERS[name].to_events(table.rows).write_json()
        assert secret not in events
        assert "HUAWEI" not in events


@pytest.mark.parametrize(
    ("offline", "stamp", "start", "quality"),
    [
        (True, 1682935195, "2023-05-01T09:59:55", "reported"),  # seconds
        (True, 1682935195500, "2023-05-01T09:59:55.500", "reported"),  # milliseconds
        (True, 1648800000, "2022-04-01T08:00:00", "reported"),  # synced a year later
        (False, 1682935195, "2023-05-01T10:00:00", "derived"),
        (None, 1682935195, "2023-05-01T10:00:00", "derived"),
        (True, 0, "2023-05-01T10:00:00", "derived"),
        (True, None, "2023-05-01T10:00:00", "derived"),
        (True, 1682935259, "2023-05-01T10:00:59", "reported"),  # clocks differ
        (True, 1682935261, "2023-05-01T10:00:00", "derived"),  # would end after the end
        (True, 1, "2023-05-01T10:00:00", "derived"),  # before there was a Spotify
        (True, 2**62, "2023-05-01T10:00:00", "derived"),
        (True, -1682935195, "2023-05-01T10:00:00", "derived"),
    ],
)
def test_offline_timestamp(
    offline: bool | None, stamp: int | None, start: str, quality: str
) -> None:
    event = read([stream(offline=offline, offline_timestamp=stamp)])[0].row(0, named=True)
    assert (event["event_time"], event["time_quality"]) == (at(start), quality)
    assert event["received_time"] == at("2023-05-01T10:03:20")


def test_sync_burst_keeps_the_order_of_the_file() -> None:
    burst = [
        stream(ts="2020-01-27T00:13:00Z", ms_played=170_000 + i, spotify_track_uri=f"{TRACK}{i}")
        for i in range(27)
    ]
    events = read([stream(), *burst, stream(ts="2020-01-27T00:16:20Z")])[0]
    assert events["time_quality"].to_list() == ["derived"] + ["sync"] * 27 + ["derived"]
    times = events["event_time"][1:28]
    assert times.is_sorted()
    assert times.n_unique() == 27
    assert times[26] == at("2020-01-27T00:13:00")
    assert times[26] - times[0] == datetime.timedelta(microseconds=26)
    assert (events["event_time"] <= events["received_time"]).all()


@pytest.mark.parametrize(
    ("stamps_and_ms", "quality"),
    [
        # One long play, then skips within seconds: one device can do that.
        ([("10:00:00", 240_000), ("10:00:02", 1_900), ("10:00:04", 1_500)], "derived"),
        # A crossfade of 12 s and whole-second stamps are not a burst; a little more is.
        ([("10:00:00", 240_000), ("10:00:10", 23_000)], "derived"),
        ([("10:00:00", 240_000), ("10:00:10", 23_001)], "sync"),
        # 11 s apart is no run.
        ([("10:00:00", 240_000), ("10:00:11", 240_000)], "derived"),
        # Older exports are not sorted by time.
        ([("10:00:05", 240_000), ("10:00:00", 240_000)], "sync"),
    ],
)
def test_sync_rule(stamps_and_ms: list[tuple[str, int]], quality: str) -> None:
    rows = [stream(ts=f"2020-01-27T{time}Z", ms_played=ms) for time, ms in stamps_and_ms]
    assert read(rows)[0]["time_quality"].unique().to_list() == [quality]


def test_the_same_record_twice_is_no_burst_and_gets_the_same_start() -> None:
    once = read([stream()])[0].select(EVENT_COLUMNS)
    twice = read([stream(), stream()])[0].select(EVENT_COLUMNS)
    assert twice.rows() == once.rows() * 2
    burst = [stream(spotify_track_uri=f"{TRACK}{i}") for i in (0, 1, 1, 2)]
    times = read(burst)[0]["event_time"]
    assert times[1] == times[2]
    assert times.n_unique() == 3


def test_plays_with_a_client_start_are_not_part_of_a_burst() -> None:
    rows = [
        stream(offline=True, offline_timestamp=1682900000 + 300 * i, spotify_track_uri=f"x{i}")
        for i in range(3)
    ]
    events = read([*rows, stream()])[0]
    assert events["time_quality"].to_list() == ["reported"] * 3 + ["derived"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"incognito_mode": True}, "incognito"),
        ({"incognito_mode": True, "ts": "junk"}, "incognito"),
        ({"incognito_mode": None}, None),
        ({"spotify_track_uri": None, "spotify_episode_uri": "spotify:episode:1"}, "not_music"),
        ({"spotify_track_uri": None, "audiobook_uri": "spotify:show:1"}, "not_music"),
        ({"spotify_track_uri": "", "audiobook_chapter_uri": "spotify:e:1"}, "not_music"),
        ({"ts": "2023-13-01T00:00:00Z"}, "bad_event_time"),
        ({"ts": "2023-05-01 10:03:20"}, "bad_event_time"),  # no zone
        ({"ts": ""}, "bad_event_time"),
        ({"ms_played": None}, "missing_played_ms"),
        # Judged by the rules that hold for all sources, not here:
        ({"ts": None}, None),
        ({"spotify_track_uri": None}, None),
        ({"ms_played": -5}, None),
        ({"ms_played": 2**62}, None),
        ({"ts": "9999-01-01T00:00:00Z"}, None),
        ({"reason_end": "teleported"}, None),
        ({"a_new_field": {"of": "tomorrow"}}, None),
    ],
)
def test_rejects(changes: dict[str, Any], reason: str | None) -> None:
    # The broken row harms neither neighbour.
    assert reasons([stream(ts="2022-01-01T00:00:00Z"), stream(**changes)]) == [None, reason]


def test_values_are_passed_on_for_the_rules_downstream() -> None:
    event = read(
        [stream(ms_played=-5, reason_end="teleported", reason_start="", conn_country="ZZ")]
    )[0].row(0, named=True)
    assert event["played_ms"] == -5
    assert event["event_time"] == event["received_time"]
    assert event["reason_end"] == "teleported"
    assert event["reason_start"] is None
    assert event["country"] is None
    # Seconds where milliseconds are due are milliseconds: the unit is never guessed.
    assert read([stream(ms_played=200)])[0]["played_ms"].to_list() == [200]


@pytest.mark.parametrize(
    ("uri", "track"),
    [
        (TRACK, "4iV5W9uYEdYUVa79Axb7Rh"),
        ("4iV5W9uYEdYUVa79Axb7Rh", "4iV5W9uYEdYUVa79Axb7Rh"),
        ("spotify:local:Artist:Album:Title:213", "spotify:local:Artist:Album:Title:213"),
        ("  ", None),
    ],
)
def test_track_id(uri: str, track: str | None) -> None:
    assert read([stream(spotify_track_uri=uri)])[0]["track_id"].to_list() == [track]


@pytest.mark.parametrize(
    ("platform", "family"),
    [
        ("iOS 12.1 (iPhone8,1)", "ios"),
        ("Windows 10 (10.0.19042; x64)", "windows"),
        ("OS X 10.14 [x86 8]", "macos"),
        ("osx", "macos"),
        ("Linux [x86-64 0]", "linux"),
        ("web_player windows 10;chrome 87.0;desktop", "web"),
        ("WebPlayer (websocket RFC6455)", "web"),
        ("Partner android_tv Sony;BRAVIA", "other"),
        ("not_applicable", "other"),
        ("", None),
        (None, None),
    ],
)
def test_platform_is_a_family(platform: str | None, family: str | None) -> None:
    assert read([stream(platform=platform)])[0]["platform"].to_list() == [family]


def test_records_that_do_not_fit_their_type_are_the_containers_rejects() -> None:
    rows = [stream(ms_played=1.5), stream(ms_played="many"), stream(shuffle="x"), 7, stream()]
    events, rejects = read(rows)
    assert events["offset"].to_list() == [4]
    assert rejects.rows() == [
        (0, "bad_ms_played"),
        (1, "bad_ms_played"),
        (2, "bad_shuffle"),
        (3, "bad_json"),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b'[{"ts": NaN}]',
        b'[{"ms_played": Infinity}]',
        b'[{"ts": "2023',
        b'[{"ts": "\xff"}]',
        b'{"ts": "2023"}',
    ],
)
def test_files_that_cannot_be_trusted(data: bytes) -> None:
    with pytest.raises(InputFileError):
        read(data)


@pytest.mark.parametrize("name", ["spotify", "spotify_small"])
@pytest.mark.parametrize("data", [b"", b"[]"])
def test_empty_files(name: str, data: bytes) -> None:
    assert not list(ADAPTERS[name].read(InputFile("f", lambda: io.BytesIO(data))))


def test_a_table_without_rows() -> None:
    record = b'[{"ts": "2020-01-27T00:13:00Z"}]'
    (table,) = ADAPTERS["spotify"].read(InputFile("f", lambda: io.BytesIO(record)))
    assert ADAPTERS["spotify"].to_events(table.rows.clear()).height == 0


def test_the_small_form_is_not_taken_for_the_extended_one() -> None:
    small = b'[{"endTime": "2020-01-27 00:13", "trackName": "T", "msPlayed": 1}]'
    with pytest.raises(InputFileError, match="spotify_small"):
        list(ADAPTERS["spotify"].read(InputFile("f", lambda: io.BytesIO(small))))


def test_the_whole_file_is_one_table() -> None:
    # More than one table of the container; the first and last rows are one run.
    count = 140_000
    rows = [{"ts": "2020-01-27T00:13:00Z", "ms_played": 60_000 + i} for i in range(count)]
    assert read(rows)[0]["time_quality"].unique().to_list() == ["sync"]


def test_small_form() -> None:
    event = read([small(artistName="Beyonce\u0301")], "spotify_small")[0].row(0, named=True)
    assert event["event_time"] == at("2023-05-01T10:00:00")
    assert event["received_time"] == at("2023-05-01T10:03:00")
    assert event["time_quality"] == "derived"
    assert event["track_id"] == "Beyonc\u00e9 - T"
    assert event["artist_id"] == "Beyonc\u00e9"
    assert event["played_ms"] == 180_000
    assert event["user_id"] == "me"
    assert event["source"] == "spotify_small"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"endTime": "2023-05-01 24:00"}, "bad_event_time"),
        ({"endTime": "2023-05-01T10:03:00Z"}, "bad_event_time"),
        ({"msPlayed": None}, "missing_played_ms"),
        ({"trackName": None, "podcastName": "Show", "episodeName": "1"}, "not_music"),
        ({"trackName": ""}, None),
        ({"msPlayed": -1}, None),
    ],
)
def test_small_form_rejects(changes: dict[str, Any], reason: str | None) -> None:
    rows = [small(endTime="2022-01-01 00:00"), small(**changes)]
    assert reasons(rows, "spotify_small") == [None, reason]


def test_small_form_without_a_name_has_no_track() -> None:
    events = read([small(trackName=" "), small(artistName=None)], "spotify_small")[0]
    assert events["track_id"].to_list() == [None, None]


def test_small_form_burst_allows_for_whole_minutes() -> None:
    # 60 s for the stamp and 12 s for the crossfade: two plays of 72 s fit into one minute.
    fits = [small(msPlayed=72_000), small(msPlayed=72_000, trackName="U")]
    assert read(fits, "spotify_small")[0]["time_quality"].to_list() == ["derived"] * 2
    burst = [small(msPlayed=72_001), small(msPlayed=72_001, trackName="U")]
    assert read(burst, "spotify_small")[0]["time_quality"].to_list() == ["sync"] * 2
