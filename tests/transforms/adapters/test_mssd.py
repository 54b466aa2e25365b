"""MSSD: golden rows of a session, and rows that are broken."""

from __future__ import annotations

import datetime
import io
from typing import Any

import polars as pl
import pytest

from transforms.adapters.base import EVENT_COLUMNS, EVENT_SCHEMA, InputFile
from transforms.adapters.mssd import ADAPTERS
from transforms.errors import InputFileError

ADAPTER = ADAPTERS["mssd"]
SESSION = "0_00006f66-33e5-4de7-a324-2d18e439fc1e"
TRACK = "t_0479f24c-27d2-46d6-a00c-7ec928f2b539"
ROW = {
    "session_id": SESSION,
    "session_position": "1",
    "session_length": "20",
    "track_id_clean": TRACK,
    "skip_1": "false",
    "skip_2": "false",
    "skip_3": "false",
    "not_skipped": "true",
    "context_switch": "0",
    "no_pause_before_play": "0",
    "short_pause_before_play": "0",
    "long_pause_before_play": "0",
    "hist_user_behavior_n_seekfwd": "0",
    "hist_user_behavior_n_seekback": "0",
    "hist_user_behavior_is_shuffle": "true",
    "hour_of_day": "16",
    "date": "2018-07-15",
    "premium": "true",
    "context_type": "editorial_playlist",
    "hist_user_behavior_reason_start": "trackdone",
    "hist_user_behavior_reason_end": "trackdone",
}
FLAGS = ("skip_1", "skip_2", "skip_3", "not_skipped")


def csv(*rows: dict[str, str]) -> bytes:
    lines = [",".join(ROW), *(",".join(row.values()) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def read_bytes(data: bytes) -> tuple[pl.DataFrame, list[Any]]:
    """Events and unparsed lines of a file."""
    (table,) = ADAPTER.read(InputFile("log_0.csv", lambda: io.BytesIO(data)))
    events = ADAPTER.to_events(table.rows)
    assert dict(events.select(EVENT_COLUMNS).schema) == EVENT_SCHEMA
    assert events["offset"].to_list() == table.rows["offset"].to_list()
    return events, table.rejects.rows()


def read(*changes: dict[str, str]) -> pl.DataFrame:
    """Events of a file with one row for each dict of changes to ROW."""
    return read_bytes(csv(*({**ROW, **change} for change in changes)))[0]


def flags(pattern: str) -> dict[str, str]:
    """skip_1, skip_2, skip_3, not_skipped from text like `0110`."""
    values = ("true" if digit == "1" else "false" for digit in pattern)
    return dict(zip(FLAGS, values, strict=True))


def test_golden_row() -> None:
    assert len(ROW) == 21
    event = read({}).row(0, named=True)
    start = datetime.datetime(2018, 7, 15, 16, tzinfo=datetime.UTC)
    assert {name: value for name, value in event.items() if value is not None} == {
        "event_type": "play",
        "user_id": SESSION,
        "track_id": TRACK,
        "event_time": start,
        "received_time": start,
        "time_quality": "synthetic",
        "reason_start": "trackdone",
        "reason_end": "trackdone",
        "skipped": False,
        "source_skip_level": 0,
        "surface": "playlist",
        "shuffle": True,
        "premium": True,
        "source_session_id": SESSION,
        "source": "mssd",
        "offset": 1,
    }


def test_positions_stay_in_order_and_inside_the_hour() -> None:
    changes = [{"session_position": str(i)} for i in range(1, 21)]
    # The hour changes inside a session, over midnight too.
    later = {"session_position": "20", "hour_of_day": "0", "date": "2018-07-16"}
    times = read(*changes, later)["event_time"]
    assert times.is_sorted()
    assert times.n_unique() == 21
    assert times[:20].dt.hour().unique().to_list() == [16]


@pytest.mark.parametrize(
    ("pattern", "level", "skipped"),
    [("1110", 3, True), ("0110", 2, True), ("0010", 1, False), ("0001", 0, False),
     ("0000", None, False)],
)  # fmt: skip
def test_skip_levels(pattern: str, level: int | None, skipped: bool) -> None:
    event = read(flags(pattern)).row(0, named=True)
    assert (event["source_skip_level"], event["skipped"]) == (level, skipped)
    assert event["reject_reason"] is None


def test_every_other_combination_of_flags_is_rejected() -> None:
    patterns = [f"{i:04b}" for i in range(16)]
    events = read(*(flags(pattern) for pattern in patterns))
    reasons = dict(zip(patterns, events["reject_reason"], strict=True))
    fine = [pattern for pattern, reason in reasons.items() if reason is None]
    assert fine == ["0000", "0001", "0010", "0110", "1110"]
    assert set(reasons.values()) == {None, "inconsistent_skip_flags"}


@pytest.mark.parametrize(
    ("context", "surface"),
    [
        ("personalized_playlist", "playlist"),
        ("charts", "playlist"),
        ("user_collection", "library"),
        ("radio", "radio"),
        ("catalog", "other"),
        ("hologram", "hologram"),  # repaired downstream
        ("", None),
    ],
)
def test_surface(context: str, surface: str | None) -> None:
    assert read({"context_type": context})["surface"].to_list() == [surface]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"session_position": "0"}, "bad_session_position"),
        ({"session_position": "21"}, "bad_session_position"),
        ({"session_position": "-1"}, "bad_session_position"),
        ({"session_position": "1.5"}, "bad_session_position"),
        ({"session_position": "NaN"}, "bad_session_position"),
        ({"session_position": ""}, "bad_session_position"),
        ({"hour_of_day": "24"}, "bad_event_time"),
        ({"hour_of_day": "inf"}, "bad_event_time"),
        ({"hour_of_day": ""}, "bad_event_time"),
        ({"date": "2018-02-30"}, "bad_event_time"),
        ({"date": "1531612800"}, "bad_event_time"),
        ({"date": ""}, "bad_event_time"),
        ({"skip_2": ""}, "bad_source_skip_level"),
        ({"not_skipped": "2"}, "bad_source_skip_level"),
        ({"premium": "maybe"}, "bad_premium"),
        ({"hist_user_behavior_is_shuffle": "1.0"}, "bad_shuffle"),
        ({"skip_1": "FALSE", "not_skipped": "True"}, None),
        # Judged by the rules that hold for all sources:
        ({"date": "9999-07-15"}, None),
        ({"session_id": ""}, None),
        ({"track_id_clean": ""}, None),
        ({"hist_user_behavior_reason_end": "teleported"}, None),
        ({"premium": ""}, None),
    ],
)
def test_broken_values(changes: dict[str, str], reason: str | None) -> None:
    assert read({}, changes)["reject_reason"].to_list() == [None, reason]


def test_missing_ids_are_null() -> None:
    event = read({"session_id": "", "track_id_clean": " "}).row(0, named=True)
    assert [event[name] for name in ("user_id", "track_id", "source_session_id")] == [None] * 3


def test_broken_lines_are_the_containers_rejects() -> None:
    data = csv(ROW) + b"one,two\n" + csv(ROW).splitlines()[1] + b",extra\n"
    events, rejects = read_bytes(data)
    assert events["offset"].to_list() == [1]
    assert rejects == [(2, "column_count"), (3, "column_count")]


def test_text_that_is_not_utf8() -> None:
    data = csv(ROW, {**ROW, "track_id_clean": "@"}).replace(b"@", b"\xff")
    events, rejects = read_bytes(data)
    assert events["offset"].to_list() == [1]
    assert rejects == [(2, "bad_utf8")]


def test_a_column_more_in_the_header_is_ignored() -> None:
    head, row = csv(ROW).splitlines()
    events = read_bytes(head + b",secret\n" + row + b",x\n")[0]
    assert events["reject_reason"].to_list() == [None]
    assert "secret" not in events.columns


def test_a_header_that_lacks_a_column_is_refused() -> None:
    with pytest.raises(InputFileError, match="skip_2"):
        read_bytes(csv(ROW).replace(b"skip_2", b"skip_x"))


@pytest.mark.parametrize("data", [b"", csv()])
def test_files_without_rows(data: bytes) -> None:
    tables = list(ADAPTER.read(InputFile("f", lambda: io.BytesIO(data))))
    assert sum(table.rows.height for table in tables) == 0
