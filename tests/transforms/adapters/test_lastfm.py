"""Last.fm 1K: golden rows, rows that are broken, and an excerpt of the real file."""

from __future__ import annotations

import datetime
import io
import pathlib

import polars as pl
import pytest

from transforms.adapters.base import EVENT_COLUMNS, EVENT_SCHEMA, InputFile
from transforms.adapters.lastfm import ADAPTERS

ADAPTER = ADAPTERS["lastfm1k"]
ARTIST = "f1b1cf71-bd35-4e99-8624-24a6e15f133a"
TRACK = "2ee1d5ae-7a0e-4a08-8f8c-9f3a2b1c0001"
LINE = f"user_000001\t2009-05-04T23:08:57Z\t{ARTIST}\tDeep Dish\t{TRACK}\tFlashdance"
EXCERPT = (
    pathlib.Path(__file__).resolve().parents[4]
    / "shared/data/lastfm1k/userid-timestamp-artid-artname-traid-traname.tsv"
)


def read(data: bytes) -> tuple[pl.DataFrame, list[tuple[int, str]]]:
    """Events and unparsed lines of a file."""
    (table,) = ADAPTER.read(InputFile("f.tsv", lambda: io.BytesIO(data)))
    events = ADAPTER.to_events(table.rows)
    assert dict(events.select(EVENT_COLUMNS).schema) == EVENT_SCHEMA
    assert events["offset"].to_list() == table.rows["offset"].to_list()
    return events, table.rejects.rows()


def test_golden_line() -> None:
    event = read(LINE.encode() + b"\n")[0].row(0, named=True)
    start = datetime.datetime(2009, 5, 4, 23, 8, 57, tzinfo=datetime.UTC)
    assert {name: value for name, value in event.items() if value is not None} == {
        "event_type": "play",
        "user_id": "user_000001",
        "track_id": TRACK,
        "artist_id": ARTIST,
        "event_time": start,
        "received_time": start,
        "time_quality": "reported",
        "source": "lastfm1k",
        "offset": 0,
    }


def test_names_stand_in_for_missing_ids_in_one_normal_form() -> None:
    lines = [
        "u\t2009-05-04T23:08:57Z\t\tBeyonce\u0301\t\t\u53f6\u6708",
        "u\t2009-05-04T23:08:56Z\t\tBeyonc\u00e9\t\t\u53f6\u6708",
    ]
    events = read("\n".join(lines).encode())[0]
    assert events["track_id"].to_list() == ["Beyonc\u00e9 - \u53f6\u6708"] * 2
    assert events["artist_id"].to_list() == ["Beyonc\u00e9"] * 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("u\t2009-05-04T23:08:57\ta\tA\tt\tT", "bad_event_time"),  # no zone
        ("u\t2009-05-04T24:00:00Z\ta\tA\tt\tT", "bad_event_time"),
        ("u\t2009-02-30T23:08:57Z\ta\tA\tt\tT", "bad_event_time"),
        ("u\t1241478537\ta\tA\tt\tT", "bad_event_time"),  # a number where ISO is due
        ("u\tNaN\ta\tA\tt\tT", "bad_event_time"),
        # Judged by the rules that hold for all sources:
        ("\t2009-05-04T23:08:57Z\ta\tA\tt\tT", None),
        ("u\t\ta\tA\tt\tT", None),
        ("u\t9999-05-04T23:08:57Z\ta\tA\tt\tT", None),
        ("u\t2009-05-04T23:08:57Z\t\t\t\tT", None),
        ('u\t2009-05-04T23:08:57Z\ta\tA\tt\tAn "odd" title', None),
    ],
)
def test_broken_fields(line: str, reason: str | None) -> None:
    assert read(f"{LINE}\n{line}\n".encode())[0]["reject_reason"].to_list() == [None, reason]


def test_missing_ids_are_null() -> None:
    event = read(b"\t\t\t\t\tT\n")[0].row(0, named=True)
    names = ["user_id", "event_time", "track_id", "artist_id", "reject_reason"]
    assert [event[name] for name in names] == [None] * 5


def test_broken_lines_are_the_containers_rejects() -> None:
    lines = [LINE + "\textra", LINE.rpartition("\t")[0], "", LINE, LINE]
    data = "\n".join(lines).encode() + b"\xff"
    events, rejects = read(data)
    assert events["offset"].to_list() == [3]
    assert rejects == [(0, "column_count"), (1, "column_count"), (4, "bad_utf8")]


def test_empty_file() -> None:
    assert not list(ADAPTER.read(InputFile("f.tsv", lambda: io.BytesIO(b""))))


def test_columns_are_only_those_of_the_log() -> None:
    # The profile's gender, age and country have no way in.
    events = read(LINE.encode())[0]
    filled = [name for name in EVENT_COLUMNS if events[name].null_count() == 0]
    assert "country" not in filled
    assert len(filled) == 8


@pytest.mark.skipif(not EXCERPT.exists(), reason="no excerpt of Last.fm 1K beside the checkout")
def test_real_excerpt() -> None:
    tables = list(ADAPTER.read(InputFile(str(EXCERPT), lambda: EXCERPT.open("rb"))))
    events = pl.concat([ADAPTER.to_events(table.rows) for table in tables])
    assert sum(table.rejects.height for table in tables) == 0
    assert events.height == 5000
    assert events["reject_reason"].null_count() == 5000
    assert events["user_id"].value_counts(sort=True)["count"].to_list() == [4997, 3]
    # Ids that are not MBIDs come from names: 353 artists and 1,396 tracks have no MBID.
    mbid = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
    by_name = events.select((~pl.col("artist_id", "track_id").str.contains(mbid)).sum())
    assert by_name.row(0) == (353, 1396)
    times = events.group_by("user_id", maintain_order=True).agg("event_time")["event_time"]
    assert all(series.is_sorted(descending=True) for series in times)
    assert events.select("user_id", "event_time", "artist_id", "track_id").is_unique().all()
    same_second = events.select(
        (
            (pl.col("event_time") == pl.col("event_time").shift())
            & (pl.col("user_id") == pl.col("user_id").shift())
        ).sum()
    ).item()
    assert same_second == 166
    # The counts of sessions are those of the first listener.
    first = events.filter(pl.col("user_id") == "user_000001").sort("event_time")
    day = pl.col("event_time").dt.date()
    for minutes, sessions in ((30, 322), (20, 374)):
        new = pl.col("event_time").diff() > datetime.timedelta(minutes=minutes)
        found = first.with_columns(session=new.fill_null(value=True).cum_sum())
        assert found["session"].n_unique() == sessions
        days = found.group_by("session").agg(day.n_unique())["event_time"]
        assert (days > 1).sum() == 1
