"""Yambda: golden rows of each table, and rows and files that are broken."""

from __future__ import annotations

import datetime
import io
from typing import Any

import polars as pl
import pytest

from transforms.adapters.base import EVENT_COLUMNS, EVENT_SCHEMA, InputFile
from transforms.adapters.yambda import ADAPTERS, START
from transforms.errors import InputFileError

COMMON = {
    "uid": pl.UInt32,
    "timestamp": pl.UInt32,
    "item_id": pl.UInt32,
    "is_organic": pl.UInt8,
}
LISTENS = {**COMMON, "played_ratio_pct": pl.UInt16, "track_length_seconds": pl.UInt32}
MULTI = {**LISTENS, "event_type": pl.Enum(["listen", "dislike", "like", "undislike", "unlike"])}
ROW = {"uid": 10, "timestamp": 15_929_455, "item_id": 6_928_395, "is_organic": 1}
LISTEN = {**ROW, "played_ratio_pct": 100, "track_length_seconds": 180}


def parquet(rows: list[dict[str, Any]], schema: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pl.DataFrame(rows, schema=schema).write_parquet(sink)
    return sink.getvalue()


def read(table: str, rows: list[dict[str, Any]], schema: dict[str, Any]) -> pl.DataFrame:
    adapter = ADAPTERS[f"yambda_{table}"]
    data = parquet(rows, schema)
    (raw,) = adapter.read(InputFile(f"{table}.parquet", lambda: io.BytesIO(data)))
    assert raw.rejects.height == 0
    events = adapter.to_events(raw.rows)
    assert dict(events.select(EVENT_COLUMNS).schema) == EVENT_SCHEMA
    assert events["offset"].to_list() == list(range(len(rows)))
    return events


def test_golden_listen() -> None:
    event = read("listens", [LISTEN], LISTENS).row(0, named=True)
    start = START + datetime.timedelta(seconds=15_929_455)
    assert {name: value for name, value in event.items() if value is not None} == {
        "event_type": "play",
        "user_id": "10",
        "track_id": "6928395",
        "event_time": start,
        "received_time": start,
        "time_quality": "synthetic",
        "played_ms": 180_000,
        "track_duration_ms": 180_000,
        "surface": "unknown",
        "source": "yambda_listens",
        "offset": 0,
    }


@pytest.mark.parametrize(
    ("table", "event_type", "reason"),
    [
        ("likes", "like", None),
        ("unlikes", "unlike", None),
        ("dislikes", "hide", None),
        ("undislikes", "undislike", "undislike_not_supported"),
    ],
)
def test_golden_actions(table: str, event_type: str, reason: str | None) -> None:
    event = read(table, [{**ROW, "is_organic": 0}], COMMON).row(0, named=True)
    assert (event["event_type"], event["reject_reason"]) == (event_type, reason)
    assert event["surface"] == "home"
    assert event["played_ms"] is None
    assert event["source"] == f"yambda_{table}"


def test_golden_multi_event() -> None:
    rows: list[dict[str, Any]] = [
        {**LISTEN, "event_type": "listen"},
        *({**ROW, "event_type": kind} for kind in ("like", "unlike", "dislike", "undislike")),
    ]
    events = read("multi_event", rows, MULTI)
    assert events.select("event_type", "played_ms", "reject_reason").rows() == [
        ("play", 180_000, None),
        ("like", None, None),
        ("unlike", None, None),
        ("hide", None, None),
        ("undislike", None, "undislike_not_supported"),
    ]


def test_an_unknown_action_is_left_to_the_rules_downstream() -> None:
    schema = {**MULTI, "event_type": pl.String}
    rows: list[dict[str, Any]] = [{**LISTEN, "event_type": "share"}, {**LISTEN, "event_type": None}]
    events = read("multi_event", rows, schema)
    assert events["event_type"].to_list() == ["share", None]
    assert events["played_ms"].to_list() == [None, None]
    assert events["reject_reason"].to_list() == [None, None]


@pytest.mark.parametrize(
    ("ratio", "length", "played", "duration"),
    [
        (50, 181, 90_500, 181_000),
        (140, 200, 280_000, 200_000),  # rewound
        (0, 200, 0, 200_000),
        (None, 200, None, 200_000),
        (50, None, None, None),
        (65_535, 2**32 - 1, 65_535 * (2**32 - 1) * 10, (2**32 - 1) * 1000),  # does not wrap
        (100, 0, 0, 0),  # a length of none is judged downstream
    ],
)
def test_played_ms(
    ratio: int | None, length: int | None, played: int | None, duration: int | None
) -> None:
    row = {**LISTEN, "played_ratio_pct": ratio, "track_length_seconds": length}
    event = read("listens", [row], LISTENS).row(0, named=True)
    assert (event["played_ms"], event["track_duration_ms"]) == (played, duration)
    assert event["reject_reason"] is None


def test_time_is_seconds_and_ties_stay() -> None:
    rows = [{**ROW, "timestamp": seconds} for seconds in (0, 5, 5, 26_000_000)]
    events = read("likes", rows, COMMON)
    offsets = (events["event_time"] - START).dt.total_seconds().to_list()
    assert offsets == [0, 5, 5, 26_000_000]
    assert events["event_time"].is_sorted()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_organic": 2}, "bad_surface"),
        ({"timestamp": -(2**62)}, "bad_event_time"),
        ({"timestamp": 2**63 - 1}, "bad_event_time"),
        # Judged by the rules that hold for all sources:
        ({"timestamp": 26_000_000_000}, None),  # milliseconds: centuries ahead
        ({"is_organic": None}, None),
        ({"uid": None}, None),
        ({"timestamp": None}, None),
        ({"item_id": None}, None),
        ({"played_ratio_pct": -50}, None),
    ],
)
def test_broken_values(changes: dict[str, Any], reason: str | None) -> None:
    schema = dict.fromkeys(LISTENS, pl.Int64)
    events = read("listens", [LISTEN, {**LISTEN, **changes}], schema)
    assert events["reject_reason"].to_list() == [None, reason]


def test_missing_ids_are_null() -> None:
    row = {**LISTEN, "uid": None, "item_id": None, "timestamp": None}
    event = read("listens", [row], LISTENS).row(0, named=True)
    assert [event[name] for name in ("user_id", "track_id", "event_time")] == [None] * 3


@pytest.mark.parametrize("nothing", [float("nan"), float("inf")])
def test_a_copy_with_fractions_is_refused(nothing: float) -> None:
    schema = {**LISTENS, "played_ratio_pct": pl.Float64}
    with pytest.raises(InputFileError, match="played_ratio_pct"):
        read("listens", [{**LISTEN, "played_ratio_pct": nothing}], schema)


def test_another_table_is_refused() -> None:
    with pytest.raises(InputFileError, match="lacks the Yambda column"):
        read("listens", [ROW], COMMON)


def test_extra_columns_are_ignored() -> None:
    events = read("likes", [{**LISTEN, "secret": "x"}], {**LISTENS, "secret": pl.String})
    assert events["played_ms"].to_list() == [None]
    assert "secret" not in events.columns


@pytest.mark.parametrize("data", [b"", b"PAR1 not really PAR1"])
def test_files_that_are_not_parquet(data: bytes) -> None:
    with pytest.raises(InputFileError):
        list(ADAPTERS["yambda_likes"].read(InputFile("f", lambda: io.BytesIO(data))))


def test_a_file_without_rows() -> None:
    data = parquet([], LISTENS)
    assert not list(ADAPTERS["yambda_listens"].read(InputFile("f", lambda: io.BytesIO(data))))
