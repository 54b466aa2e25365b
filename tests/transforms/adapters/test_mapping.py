"""A format described in YAML: what it makes of rows, and what it says about its own mistakes."""

from __future__ import annotations

import datetime
import io
import pathlib
import pickle
import re
import textwrap

import fastavro
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.adapters import mapping
from transforms.adapters.base import OFFSET, REJECT_REASON, InputFile
from transforms.errors import InputFileError, UsageError

UTC = datetime.UTC
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_S = 1_767_268_800


def adapter_of(text: str):
    """By way of pickle, as a worker gets it."""
    adapter = mapping.parse_mapping(textwrap.dedent(text), "m.yaml")
    return pickle.loads(pickle.dumps(adapter))


def events_of(adapter, data: bytes | str) -> pl.DataFrame:
    raw = data.encode() if isinstance(data, str) else data
    tables = list(adapter.read(InputFile("f", lambda: io.BytesIO(raw))))
    return pl.concat([adapter.to_events(table.rows) for table in tables])


def rejects_of(adapter, data: str) -> list[str]:
    tables = list(adapter.read(InputFile("f", lambda: io.BytesIO(data.encode()))))
    return [reason for table in tables for reason in table.rejects[REJECT_REASON]]


EXAMPLES = re.findall(r"(?:^    name: .*\n)(?:    .*\n)+", mapping.__doc__, re.MULTILINE)


def test_the_documented_examples_work():
    csv, events, table = (adapter_of(text) for text in EXAMPLES)
    got = events_of(
        csv,
        'uid,track,ended_at,seconds,why,skip\nu,"a,b",2026-01-01T12:00:10Z,9.5,done,Y\n'
        "u,,2026-01-01T12:00:00Z,,odd,N\n",
    )
    assert got["event_time"].to_list() == [NOON + datetime.timedelta(seconds=0.5), None]
    assert got[REJECT_REASON].to_list() == [None, "bad_event_time"]
    assert got["time_quality"].to_list() == ["derived", "derived"]
    assert got["track_id"].to_list() == ["a,b", None]
    assert got["played_ms"].to_list() == [9500, None]
    assert got["reason_end"].to_list() == ["trackdone", "unknown"]
    assert got["skipped"].to_list() == [True, False]
    assert got["received_time"].equals(got["event_time"].alias("received_time"))
    assert not csv.has_event_id
    assert not csv.arrival_known

    got = events_of(
        events,
        '{"id":1,"action":"heard","listener":{"id":9007199254740993},"item":{"id":"t"},'
        f'"client_ms":{NOON_S}000,"server_ms":{NOON_S}001,"listened":12.6}}\n'
        '{"id":"x","action":"odd","listener":null}',
    )
    assert got["user_id"].to_list() == ["9007199254740993", None]
    assert got["event_type"].to_list() == ["play", "odd"]
    assert got["played_ms"].to_list() == [13, None]
    assert got["received_time"][0] == NOON + datetime.timedelta(milliseconds=1)
    assert events.has_event_id
    assert events.arrival_known

    got = events_of(table, f"u\t{NOON_S}\ta\tt\n")
    assert got.select("user_id", "track_id", "artist_id", "source").rows() == [
        ("u", "t", "a", "acme_table")
    ]
    assert got["event_time"].to_list() == [NOON]


PLAIN = """
    name: plain
    container: {container}
    fields:
      event_type: {{value: play}}
      user_id: u
      event_time: {{column: t, unit: {unit}}}
      {more}
"""


def plain(container="csv", unit="s", more="track_id: i"):
    return adapter_of(PLAIN.format(container=container, unit=unit, more=more))


@pytest.mark.parametrize("container", ["csv", "jsonl", "parquet", "avro"])
@pytest.mark.parametrize(
    ("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)]
)
def test_the_unit_is_the_contract_in_every_container(container, unit, factor):
    row = {"u": "a", "t": NOON_S * factor, "i": "x"}
    assert events_of(plain(container, unit), write(container, row))["event_time"].to_list() == [
        NOON
    ]


def write(container: str, row: dict) -> bytes:
    sink = io.BytesIO()
    if container == "csv":
        return f"u,t,i\n{row['u']},{row['t']},{row['i']}\n".encode()
    if container == "jsonl":
        return f'{{"u":"{row["u"]}","t":{row["t"]},"i":"{row["i"]}"}}'.encode()
    if container == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), sink)
    else:
        fields = [{"name": n, "type": "long" if n == "t" else "string"} for n in row]
        fastavro.writer(sink, {"type": "record", "name": "R", "fields": fields}, [row])
    return sink.getvalue()


def test_seconds_where_milliseconds_are_promised_are_not_guessed():
    got = events_of(plain(unit="ms"), f"u,t,i\na,{NOON_S},x\n")
    assert got["event_time"][0].year == 1970  # the validity rules reject it, with a reason
    assert got[REJECT_REASON].to_list() == [None]


def test_unparsable_and_far_off_times():
    got = events_of(plain(), "u,t,i\na,soon,x\na,nan,x\na,inf,x\na,1e30,x\na,,x\na,-1,x\n")
    bad = "bad_event_time"
    assert got[REJECT_REASON].to_list() == [bad, bad, bad, bad, None, None]
    assert got["event_time"].null_count() == 5


def test_naive_text_time_is_rejected():
    got = events_of(plain(unit="iso8601"), "u,t,i\na,2026-01-01T12:00:00,x\n")
    assert got[REJECT_REASON].to_list() == ["bad_event_time"]


@pytest.mark.parametrize("tz", [None, "UTC", "America/New_York"])
def test_stored_timestamps(tz):
    table = pa.table({"u": ["a"], "i": ["x"], "t": pa.array([NOON], pa.timestamp("ms", tz))})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    data = sink.getvalue()
    assert events_of(plain("parquet", "timestamp"), data)["event_time"].to_list() == [NOON]
    with pytest.raises(InputFileError, match="'t' is Datetime"):
        events_of(plain("parquet", "ms"), data)
    with pytest.raises(InputFileError, match="no column 'j'"):
        events_of(plain("parquet", "timestamp", "track_id: j"), data)


@pytest.mark.parametrize(
    ("more", "cell", "expected"),
    [
        ("played_ms: {column: i, unit: ms}", "180000", (180000, None)),
        ("played_ms: {column: i, unit: s}", "0.0015", (2, None)),
        ("played_ms: {column: i, unit: s}", "-3", (-3000, None)),
        ("played_ms: {column: i, unit: s}", "nan", (None, "bad_played_ms")),
        ("played_ms: {column: i, unit: s}", "1e300", (None, "bad_played_ms")),
        ("played_ms: {column: i, unit: s}", "3:20", (None, "bad_played_ms")),
        ("played_ms: {column: i, unit: s}", " ", (None, None)),
        ("position: i", "1.5", (None, "bad_position")),
        ("position: {column: i, default: 0}", "", (0, None)),
        ("skipped: i", "TRUE", (True, None)),
        ("skipped: i", "0", (False, None)),
        ("skipped: i", "perhaps", (None, "bad_skipped")),
        ("shuffle: {column: i, map: {1: true}, default: false}", "2", (False, None)),
        ("shuffle: {column: i, map: {1: true}, default: false}", "", (False, None)),
        ("surface: {column: i, map: {main: home}}", "main", ("home", None)),
        ("surface: {column: i, map: {main: home}}", "attic", ("attic", None)),
        ("surface: {column: i, map: {main: home}}", "", (None, None)),
        ("surface: {column: i, map: {main: home}, default: other}", "attic", ("other", None)),
        ("premium: {value: true}", "", (True, None)),
        ("track_id: i", "  x ", ("x", None)),
    ],
)
def test_values(more, cell, expected):
    got = events_of(plain(more=more), f"u,t,i\na,{NOON_S},{cell}\n")
    field = more.split(":")[0]
    assert (got[field][0], got[REJECT_REASON][0]) == expected


def test_json_column_read_as_two_types_is_text():
    adapter = plain("jsonl", "s", "received_time: {column: t, unit: ms}\n      track_id: t")
    got = events_of(adapter, '{"u":"a","t":1767268800}')
    assert got["event_time"].to_list() == [NOON]
    assert got["track_id"].to_list() == ["1767268800"]


def test_rejects_of_the_container_come_through():
    assert rejects_of(plain(), f"u,t,i\na,{NOON_S}\nb,{NOON_S},x\n") == ["column_count"]
    assert rejects_of(plain("jsonl"), '{"u":[],"t":1}\n{"u":"a","t":"1"}') == ["bad_u", "bad_t"]


def test_extra_columns_are_not_read():
    adapter = plain()
    (table,) = adapter.read(
        InputFile("f", lambda: io.BytesIO(b"mail,u,t,i\nx@example.org,a,1,x\n"))
    )
    assert set(table.rows.columns) == {OFFSET, "u", "t", "i"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x", "container: expected a value"),
        (PLAIN.format(container="xls", unit="s", more="track_id: i"), "container"),
        (PLAIN.format(container="csv", unit="hours", more="track_id: i"), "unit"),
        (PLAIN.format(container="csv", unit="timestamp", more="track_id: i"), "parquet and avro"),
        (PLAIN.format(container="csv", unit="s", more="trackid: i"), "trackid"),
        (PLAIN.format(container="csv", unit="s", more="source: i"), "source"),
        (PLAIN.format(container="csv", unit="s", more="played_ms: i"), "`unit` is needed: s or ms"),
        (PLAIN.format(container="csv", unit="s", more="track_id: {}"), "`column` or `value`"),
        (PLAIN.format(container="csv", unit="s", more="surface: {value: attic}"), "'attic'"),
        (PLAIN.format(container="csv", unit="s", more="track_id: {colum: i}"), "unknown field"),
        (PLAIN.format(container="csv", unit="s", more="skipped: {column: i, default: 3}"), "true"),
        (PLAIN.format(container="jsonl", unit="s", more="track_id: i") + "    quoted: true", "csv"),
        (PLAIN.format(container="csv", unit="s", more="track_id: i") + "    time_is: end",
         "played_ms"),
        (PLAIN.format(container="tsv", unit="s", more="track_id: i") + "    columns: [u, t]",
         "'i' is not one of"),
        ("name: x\ncontainer: csv\nfields: {user_id: u}",
         "m.yaml:3: fields.event_time: expected a column or a value, got nothing"),
    ],
)  # fmt: skip
def test_mistakes_are_usage_errors_that_say_what_was_expected(text, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        adapter_of(text)
    assert str(caught.value).startswith("m.yaml")


def test_load_mapping_reads_a_file(tmp_path: pathlib.Path):
    path = tmp_path / "plays.yaml"
    path.write_text(textwrap.dedent(EXAMPLES[0]), encoding="utf-8")
    assert mapping.load_mapping(str(path)).name == "acme_plays"
    with pytest.raises(UsageError, match="cannot read it"):
        mapping.load_mapping(str(tmp_path / "absent.yaml"))
