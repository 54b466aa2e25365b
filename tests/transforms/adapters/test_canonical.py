"""The canonical formats: the same events from every container, and the dirty ones told apart."""

from __future__ import annotations

import datetime
import io
import json
import pickle

import fastavro
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import LISTENING_EVENT, Kind, forms
from transforms.adapters.base import EVENT_SCHEMA, OFFSET, REJECT_REASON, InputFile
from transforms.adapters.canonical import AVRO, JSONL, PARQUET
from transforms.errors import InputFileError

NOON = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z


def event(**changes) -> dict:
    return {
        "event_id": "e1",
        "event_type": "play",
        "user_id": "u1",
        "event_time": NOON,
        "received_time": NOON + 1,
        "time_quality": "reported",
        "source": "app",
    } | changes


def read(adapter, data: bytes) -> tuple[pl.DataFrame, list[str]]:
    """Events, and the reasons the container gave."""
    tables = list(adapter.read(InputFile("f", lambda: io.BytesIO(data))))
    events = pl.concat([adapter.to_events(table.rows) for table in tables])
    return events, [r for table in tables for r in table.rejects[REJECT_REASON]]


def jsonl(*events: dict) -> bytes:
    return "\n".join(json.dumps(each) for each in events).encode()


def avro(*events: dict, schema=None) -> bytes:
    sink = io.BytesIO()
    fastavro.writer(sink, schema or forms.avro_schema(LISTENING_EVENT), events)
    return sink.getvalue()


def parquet(*events: dict, schema=None, **options) -> bytes:
    sink = io.BytesIO()
    schema = schema or forms.arrow_schema(LISTENING_EVENT)
    pq.write_table(pa.Table.from_pylist(list(events), schema), sink, **options)
    return sink.getvalue()


def test_contract():
    for adapter in (AVRO, PARQUET, JSONL):
        assert adapter.has_event_id
        assert adapter.arrival_known
        assert pickle.loads(pickle.dumps(adapter)).name == adapter.name


STRATEGIES = {
    Kind.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    Kind.BOOL: st.booleans(),
    Kind.INT32: st.integers(-(2**31), 2**31 - 1),
    Kind.INT64: st.integers(-(2**63), 2**63 - 1),
    Kind.FLOAT64: st.floats(allow_nan=False, allow_infinity=False),
    Kind.TIMESTAMP_US: st.integers(-(10**15), 4 * 10**15),
}
EVENTS = st.fixed_dictionaries(
    {
        field.name: STRATEGIES[field.kind] if field.required else st.none() | STRATEGIES[field.kind]
        for field in LISTENING_EVENT.fields
    }
)


@settings(max_examples=25, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=5))
def test_every_container_gives_the_same_events(events):
    expected = pl.DataFrame(
        [
            pl.Series(name, [each[name] for each in events], pl.Int64).cast(dtype)
            if isinstance(dtype, pl.Datetime)
            else pl.Series(name, [each[name] for each in events], dtype)
            for name, dtype in EVENT_SCHEMA.items()
        ]
    )
    for adapter, write in ((JSONL, jsonl), (AVRO, avro), (PARQUET, parquet)):
        got, rejects = read(adapter, write(*events))
        assert rejects == []
        assert got[REJECT_REASON].null_count() == len(events)
        assert got.drop(OFFSET, REJECT_REASON).equals(expected), adapter.name
        assert got.drop(OFFSET, REJECT_REASON).schema == expected.schema


def test_json_times_and_rejects():
    events = [
        event(event_time="2026-01-01T13:00:00+01:00"),
        event(event_time=str(NOON)),
        event(event_time="2026-01-01T12:00:00"),  # no zone
        event(event_time=NOON / 1e6 + 0.5),  # a fraction is no microsecond
        event(event_time=None),  # missing: the validity rules' matter
        event(position=2**31),
        event(played_ms=-5, extra={"ignored": True}),  # judged later
        event(event_type="teleport"),  # judged later
        {"event_time": NOON},
    ]
    got, rejects = read(JSONL, jsonl(*events))
    assert rejects == []
    assert got[REJECT_REASON].to_list() == [
        None, None, "bad_event_time", "bad_event_time", None, "bad_position", None, None, None,
    ]  # fmt: skip
    noon = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    assert got["event_time"].to_list()[:2] == [noon, noon]
    assert got["played_ms"][6] == -5
    assert got["event_type"][7] == "teleport"
    assert got["user_id"][8] is None


def test_json_values_of_the_wrong_type_never_become_events():
    bad = [event(played_ms="180000"), event(skipped="no"), event(propensity=True)]
    data = jsonl(*bad, event()) + b'\n{"propensity": NaN}'
    got, rejects = read(JSONL, data)
    assert rejects == ["bad_played_ms", "bad_skipped", "bad_propensity", "bad_json"]
    assert got[OFFSET].to_list() == [3]


def test_times_out_of_range_are_rejected_not_wrapped():
    got, _ = read(JSONL, jsonl(event(event_time=2**63 - 1), event(event_time=-(2**63))))
    assert got[REJECT_REASON].to_list() == ["bad_event_time"] * 2
    schema = pa.schema(
        [
            pa.field(f.name, pa.timestamp("ms")) if f.name == "event_time" else f
            for f in forms.arrow_schema(LISTENING_EVENT)
        ]
    )
    got, _ = read(PARQUET, parquet(event(event_time=2**62), schema=schema))
    assert got[REJECT_REASON].to_list() == ["bad_event_time"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.timestamp("s"), NOON // 10**6),
        (pa.timestamp("ms", tz="UTC"), NOON // 1000),
        (pa.timestamp("us"), NOON),
        (pa.timestamp("ns", tz="Europe/Berlin"), NOON * 1000),
        (pa.int64(), NOON),
        (pa.uint64(), NOON),
    ],
)
def test_parquet_times_of_any_unit(kind, value):
    plain = {f.name: f.type for f in forms.arrow_schema(LISTENING_EVENT)}
    names = [*event()]
    schema = pa.schema([(name, kind if name == "event_time" else plain[name]) for name in names])
    got, _ = read(PARQUET, parquet(event(event_time=value), schema=schema))
    assert got["event_time"].dt.timestamp("us").to_list() == [NOON]
    assert got["shuffle"].to_list() == [None]


def test_parquet_dictionary_columns_and_extra_columns():
    table = pa.Table.from_pylist([event(extra=1)])
    at = table.schema.get_field_index("event_type")
    table = table.set_column(at, "event_type", table["event_type"].dictionary_encode())
    sink = io.BytesIO()
    pq.write_table(table, sink)
    got, _ = read(PARQUET, sink.getvalue())
    assert got["event_type"].to_list() == ["play"]
    assert "extra" not in got.columns


@pytest.mark.parametrize("missing", ["event_id", "user_id", "received_time", "time_quality"])
def test_a_file_without_a_required_column(missing):
    row = event()
    del row[missing]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row]), sink)
    with pytest.raises(InputFileError, match=missing):
        read(PARQUET, sink.getvalue())
    schema = forms.avro_schema(LISTENING_EVENT)
    schema["fields"] = [each for each in schema["fields"] if each["name"] != missing]
    with pytest.raises(InputFileError, match=missing):
        read(AVRO, avro(row, schema=schema))


@pytest.mark.parametrize(
    ("column", "kind", "value"),
    [
        ("event_time", pa.string(), "2026-01-01T12:00:00Z"),
        ("event_time", pa.float64(), 1.0),
        ("user_id", pa.float64(), 1.0),
        ("user_id", pa.timestamp("us"), 1),
        ("played_ms", pa.string(), "1"),
    ],
)
def test_a_column_of_an_unreadable_type_names_itself(column, kind, value):
    plain = {f.name: f.type for f in forms.arrow_schema(LISTENING_EVENT)}
    row = event(**{column: value})
    schema = pa.schema([(name, kind if name == column else plain[name]) for name in row])
    with pytest.raises(InputFileError, match=column):
        read(PARQUET, parquet(row, schema=schema))


def test_not_a_number_is_rejected():
    for value in (float("nan"), float("inf")):
        got, _ = read(PARQUET, parquet(event(propensity=value), event(propensity=0.5)))
        assert got[REJECT_REASON].to_list() == ["bad_propensity", None]
        got, _ = read(AVRO, avro(event(propensity=value)))
        assert got[REJECT_REASON].to_list() == ["bad_propensity"]


def test_source_is_the_files_own_or_the_format():
    row = event()
    del row["source"]
    got, _ = read(JSONL, jsonl(event(), row))
    assert got["source"].to_list() == ["app", "jsonl"]
    schema = forms.avro_schema(LISTENING_EVENT)
    schema["fields"] = [each for each in schema["fields"] if each["name"] != "source"]
    got, _ = read(AVRO, avro(row, schema=schema))
    assert got["source"].to_list() == ["avro"]
