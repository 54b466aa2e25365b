"""The rules by which an adapter's columns become event columns."""

from __future__ import annotations

import datetime
import math

import polars as pl
import pytest

from transforms.adapters.base import (
    EVENT_COLUMNS,
    EVENT_SCHEMA,
    OFFSET,
    REJECT_REASON,
    Parsed,
    conform,
    epoch_time,
    iso_time,
    non_empty,
)


def column(values: list, dtype: pl.DataType | None = None) -> pl.DataFrame:
    return pl.DataFrame({OFFSET: range(len(values)), "c": pl.Series(values, dtype=dtype)})


def cast(field: str, values: list, dtype: pl.DataType | None = None) -> list[tuple]:
    """(value, reject reason) of each row."""
    events = conform(column(values, dtype), {field: pl.col("c")}, "test")
    return events.select(field, REJECT_REASON).rows()


def instants(parsed, values: list, dtype: pl.DataType | None = None) -> list[int | None]:
    """In microseconds since 1970."""
    return column(values, dtype).select(parsed(pl.col("c")).value.dt.timestamp("us"))[
        "c"
    ].to_list()  # fmt: skip


# --- conform --------------------------------------------------------------------------------------


def test_columns_types_and_order_are_those_of_events():
    raw = pl.DataFrame({"who": ["b", "a"], OFFSET: pl.Series([7, 3], dtype=pl.Int32)})
    events = conform(raw, {"user_id": pl.col("who"), "event_type": pl.lit("play")}, "test")
    assert events.columns == [*EVENT_COLUMNS, OFFSET, REJECT_REASON]
    assert dict(events.schema) == {**EVENT_SCHEMA, OFFSET: pl.Int64, REJECT_REASON: pl.String}
    assert events.select("user_id", "event_type", "source", OFFSET, REJECT_REASON).rows() == [
        ("b", "play", "test", 7, None),
        ("a", "play", "test", 3, None),
    ]
    assert events["track_id"].null_count() == 2


def test_a_fraction_in_an_integer_is_cut_off():
    assert cast("played_ms", [1.7, -1.7, 2.0]) == [(1, None), (-1, None), (2, None)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_an_integer_has_to_be_finite_and_in_range(value):
    assert cast("played_ms", [value]) == [(None, "bad_played_ms")]


def test_an_integer_of_fewer_bits_has_a_smaller_range():
    assert cast("position", [2**31 - 1, 2**31]) == [(2**31 - 1, None), (None, "bad_position")]


def test_text_of_digits_is_an_integer_and_other_text_is_not():
    assert cast("played_ms", ["12"]) == [(12, None)]
    assert cast("played_ms", ["1.7", " 1", "x", ""]) == [(None, "bad_played_ms")] * 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_has_to_be_finite(value):
    assert cast("propensity", [value, 0.5]) == [(None, "bad_propensity"), (0.5, None)]


def test_a_number_becomes_text_and_a_truth_value():
    assert cast("user_id", [5, None]) == [("5", None), (None, None)]
    assert cast("skipped", [0, 1, 2]) == [(False, None), (True, None), (True, None)]


def test_a_naive_time_is_utc_and_a_number_is_microseconds():
    at = datetime.datetime(2026, 1, 5, 10)  # noqa: DTZ001
    assert cast("event_time", [at]) == [(at.replace(tzinfo=datetime.UTC), None)]
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert cast("event_time", [5]) == [(epoch + datetime.timedelta(microseconds=5), None)]


@pytest.mark.parametrize(
    ("field", "value"), [("event_time", "2026-01-05"), ("skipped", "true"), ("user_id", ["a"])]
)
def test_a_type_that_never_casts_is_a_mistake_of_the_adapter(field, value):
    with pytest.raises(pl.exceptions.InvalidOperationError):
        cast(field, [value])


def test_null_is_never_bad():
    assert cast("played_ms", [None], pl.String()) == [(None, None)]


def test_the_adapters_reason_comes_first_then_fields_in_schema_order():
    raw = pl.DataFrame({OFFSET: [0, 1, 2], "a": ["x", "x", "1"], "b": ["y", "y", "y"]})
    events = conform(
        raw,
        {"track_duration_ms": pl.col("b"), "played_ms": pl.col("a")},
        "test",
        reject=pl.when(pl.col(OFFSET) == 0).then(pl.lit("own")),
    )
    assert events[REJECT_REASON].to_list() == ["own", "bad_played_ms", "bad_track_duration_ms"]


def test_parsed_is_bad_where_its_origin_is_not_null():
    raw = column(["a", None])
    fields = {"played_ms": Parsed(pl.lit(None, pl.Int64), pl.col("c"))}
    assert conform(raw, fields, "test")[REJECT_REASON].to_list() == ["bad_played_ms", None]


def test_an_unknown_field_is_a_mistake_of_the_adapter():
    with pytest.raises(KeyError, match="'nonsense' is not a field"):
        conform(column([1]), {"nonsense": pl.col("c")}, "test")


def test_no_rows():
    assert cast("played_ms", [], pl.Int64()) == []


# --- times ----------------------------------------------------------------------------------------


def epoch(unit: str):
    return lambda expr: epoch_time(expr, unit)


def test_whole_numbers_of_each_unit():
    values = [0, 3, -1500, None]
    assert instants(epoch("s"), values) == [0, 3_000_000, -1_500_000_000, None]
    assert instants(epoch("ms"), values) == [0, 3000, -1_500_000, None]
    assert instants(epoch("us"), values) == [0, 3, -1500, None]
    assert instants(epoch("ns"), values) == [0, 0, -2, None]


def test_fractions_count_in_seconds_only():
    assert instants(epoch("s"), [1.5, 0.000_000_6]) == [1_500_000, 1]
    assert instants(epoch("ms"), [1.7, -1.7]) == [1000, -1000]
    assert instants(epoch("us"), [1.7]) == [1]
    assert instants(epoch("s"), ["1.5"]) == [1_500_000]
    assert instants(epoch("ms"), ["15", "1.5"]) == [15_000, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_what_is_no_instant_is_null(unit):
    assert instants(epoch(unit), [math.nan, math.inf, -math.inf, 1e300]) == [None] * 4
    assert instants(epoch(unit), ["x", ""]) == [None, None]
    assert instants(epoch(unit), [2**64 - 1], pl.UInt64()) == [None]


def test_what_does_not_fit_into_microseconds_is_null():
    most = 9 * 10**18
    assert instants(epoch("s"), [2**63 - 1, -(2**63)]) == [None, None]
    assert instants(epoch("ms"), [most // 1000, most // 1000 + 1]) == [most, None]
    assert instants(epoch("us"), [most, most + 1]) == [most, None]
    assert instants(epoch("ns"), [2**63 - 1]) == [(2**63 - 1) // 1000]


def test_an_unknown_unit_is_a_mistake_of_the_adapter():
    with pytest.raises(KeyError):
        epoch_time(pl.col("c"), "minutes")


def test_iso_text():
    ten = 1_767_607_200_000_000  # 2026-01-05T10:00:00Z
    assert instants(
        iso_time,
        [
            "2026-01-05T10:00:00Z",
            "2026-01-05 10:00:00Z",
            "2026-01-05T11:00:00.5+01:00",
            "2026-01-05T10:00:00.1234567Z",
            "2026-01-05T09:59:60Z",
        ],
    ) == [ten, ten, ten + 500_000, ten + 123_456, ten]


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-05T10:00:00",
        "2026-01-05T10:00Z",
        "2026-01-05T24:00:00Z",
        "2026-02-30T10:00:00Z",
        "2026-01-05",
        "1767607200",
        "",
    ],
)
def test_text_that_is_no_instant_is_null_and_rejects(text):
    assert instants(iso_time, [text]) == [None]
    events = conform(column([text]), {"event_time": iso_time(pl.col("c"))}, "test")
    assert events[REJECT_REASON].to_list() == ["bad_event_time"]


def test_non_empty():
    values = [" a b ", "", " \t\r\n", "\u00a0x", None]
    assert column(values).select(non_empty(pl.col("c")))["c"].to_list() == [
        "a b", None, None, "x", None
    ]  # fmt: skip
    assert column([7]).select(non_empty(pl.col("c")))["c"].to_list() == ["7"]
