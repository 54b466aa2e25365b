"""The coder of tables: what goes in comes out, and no table ever travels as pickle."""

from __future__ import annotations

import datetime
import pathlib
from typing import Any, NoReturn

import apache_beam as beam
import polars as pl
import pytest
from apache_beam.coders import coders, registry
from apache_beam.pipeline import PipelineVisitor
from polars.testing import assert_frame_equal

from pipelines import build, cli, ingest
from tests import jobs
from transforms import tables
from transforms.adapters.base import EVENT_SCHEMA
from transforms.events import STORE_SCHEMA
from transforms.store import ITEM_DAY_SCHEMA, QUARANTINE_SCHEMA

CODER = tables.TableCoder()
EVERYTHING = pl.DataFrame(
    {
        "string": ["a", None, "", "\x00", "ü🎵"],
        "int64": [-(2**63), 2**63 - 1, None, 0, 1],
        "uint64": pl.Series([2**64 - 1, 0, None, 1, 2], dtype=pl.UInt64),
        "int8": pl.Series([-128, 127, None, 0, 1], dtype=pl.Int8),
        "float": [float("nan"), float("inf"), -0.0, None, 5e-324],
        "float32": pl.Series([0.1, None, 1.0, 2.0, 3.0], dtype=pl.Float32),
        "bool": [True, False, None, True, False],
        "date": [datetime.date(1, 1, 1), None, *[datetime.date(9999, 12, 31)] * 3],
        "time": pl.Series([0, -1, None, 2**53, 1]).cast(pl.Datetime("us", "UTC")),
        "span": pl.Series([0, -1, None, 2**53, 1]).cast(pl.Duration("us")),
        "category": pl.Series(["x", "y", None, "x", "z"], dtype=pl.Categorical),
        "enum": pl.Series(["x", "y", None, "x", "x"], dtype=pl.Enum(["x", "y"])),
        "list": [["a"], [], None, [None], ["b", "c"]],
        "struct": [{"a": 1, "b": None}, None, *[{"a": None, "b": "x"}] * 3],
        "bytes": [b"", b"\xff", None, b"a", b"b"],
        "null": pl.Series([None] * 5, dtype=pl.Null),
    }
)


def assert_round_trip(table: pl.DataFrame) -> None:
    again = CODER.decode(CODER.encode(table))
    assert again.schema == table.schema
    assert_frame_equal(again, table)


def test_every_type_and_null_survives() -> None:
    assert_round_trip(EVERYTHING)
    for name in EVERYTHING.columns:
        assert_round_trip(EVERYTHING.select(name))


def test_a_table_of_several_chunks_and_slices_of_it_survive() -> None:
    chunked = pl.concat([EVERYTHING, EVERYTHING[1:4], EVERYTHING[:0]], rechunk=False)
    for table in (chunked, chunked[2:7], chunked[4:4], chunked[::2], chunked.tail(1)):
        assert_round_trip(table)


@pytest.mark.parametrize(
    "schema", [EVENT_SCHEMA, STORE_SCHEMA, ITEM_DAY_SCHEMA, QUARANTINE_SCHEMA, {}]
)
def test_an_empty_table_keeps_its_schema(schema: dict[str, Any]) -> None:
    assert_round_trip(pl.DataFrame(schema=schema))


def test_a_large_sliced_table_is_encoded_without_the_rest_of_it() -> None:
    large = pl.select(pl.int_range(1_000_000).alias("n"))
    assert len(CODER.encode(large[:10])) < 10_000


def test_damaged_bytes_never_decode_to_fewer_rows() -> None:
    table = pl.select(pl.int_range(100_000).alias("n"))
    data = CODER.encode(table)
    for end in range(0, len(data), len(data) // 50):
        try:
            height = CODER.decode(data[:end]).height
        except Exception:
            continue
        assert height == table.height, f"{end} of {len(data)} bytes gave {height} rows in silence"


def test_a_table_is_never_a_grouping_key() -> None:
    assert not CODER.is_deterministic()
    with pytest.raises(ValueError, match="deterministic"):
        CODER.as_deterministic_coder("GroupSomething")


def parts_of(coder: Any) -> list[Any]:
    found = [coder]
    inner = getattr(coder, "_coders", None) or [
        getattr(coder, name) for name in ("_elem_coder", "_value_coder") if hasattr(coder, name)
    ]
    for each in inner:
        found += parts_of(each)
    return found


class AllValues(PipelineVisitor):
    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def visit_value(self, value: Any, producer: Any) -> None:
        self.found[f"{producer.full_label} -> {value.tag}"] = value


def collections_of(pipeline: beam.Pipeline) -> dict[str, Any]:
    visitor = AllValues()
    pipeline.visit(visitor)
    return visitor.found


def ingest_graph(raw: pathlib.Path, store: pathlib.Path, shuffle: str) -> beam.Pipeline:
    argv = [str(each) for each in jobs.ingest_argv(raw, store)][1:]
    draft, plan = ingest.plan(ingest.build_parser().parse_args(argv), "FnApiRunner")
    pipeline = beam.Pipeline(runner="FnApiRunner")
    ingest.build_graph(pipeline, draft, plan, shuffle)
    return pipeline


def build_graph(store: pathlib.Path, output: pathlib.Path) -> beam.Pipeline:
    spec = output.with_suffix(".yaml")
    spec.write_text("kind: ranking\noutput: {shards: 4}\n")
    argv = [str(each) for each in jobs.build_argv(store, spec, jobs.DAY, jobs.DAY, output)][1:]
    draft, plan, finish, buckets = build.plan(build.build_parser().parse_args(argv), "FnApiRunner")
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build.build_graph(pipeline, draft, plan, finish, buckets)
    return pipeline


# The steps whose elements are tables; a step that is not here must have a plain type.
TABLE_STEPS = {
    "ReadEvents/AdaptFile/ParDo(_ReadEventsFn) -> None",
    "ReadEvents/AdaptFile/ParDo(_ReadEventsFn) -> quarantine",
    "ExchangeByBucket/LoadBucket -> None",
    "WriteBuckets/WriteBucket/ParDo(_WriteBucketFn) -> item-days",
    "WriteItemDays/GroupByItemPart -> None",
    "WriteQuarantine/KeyByFile -> None",
    "WriteQuarantine/GroupByFile -> None",
}


@pytest.mark.parametrize("shuffle", ["value", "reference"])
def test_every_table_of_the_ingest_graph_has_our_coder(
    tmp_path: pathlib.Path, shuffle: str
) -> None:
    raw = jobs.write(tmp_path / "raw" / "a.parquet", jobs.plays(3))
    found = collections_of(ingest_graph(raw, tmp_path / "store", shuffle))
    with_tables = set()
    for label, value in found.items():
        coder = registry.get_coder(value.element_type)
        kinds = {type(part) for part in parts_of(coder)}
        if "DataFrame" in str(value.element_type):
            assert tables.TableCoder in kinds, label
            assert not any("Pickle" in kind.__name__ for kind in kinds), label
            assert coders.FastPrimitivesCoder not in kinds, label
            with_tables.add(label)
        elif "/SpreadFiles/" not in label:
            assert coders.FastPrimitivesCoder not in kinds, label  # Any: could be anything
    assert with_tables == TABLE_STEPS


def test_no_element_of_the_build_graph_is_a_table_or_of_unknown_type(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for label, value in collections_of(build_graph(simulated_store, tmp_path / "d")).items():
        assert "DataFrame" not in str(value.element_type), label
        assert "Any" not in str(value.element_type), label


def test_no_table_is_pickled_while_the_jobs_run(
    simulated: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: pl.DataFrame) -> NoReturn:
        raise AssertionError("a table is pickled")

    for shuffle in ("value", "reference"):
        store = tmp_path / shuffle
        with monkeypatch.context() as patched:
            patched.setattr(pl.DataFrame, "__getstate__", refuse)
            jobs.ingest(simulated / f"received={jobs.DAY}" / "*", store, "--shuffle", shuffle)
    monkeypatch.setattr(pl.DataFrame, "__getstate__", refuse)
    spec = tmp_path / "spec.yaml"
    spec.write_text("kind: ranking\nlabels: {lateness_days: 0}\n")
    jobs.build(tmp_path / "value", spec, jobs.DAY, jobs.DAY, tmp_path / "dataset")


def test_make_pipeline_uses_the_one_registered_coder() -> None:
    assert isinstance(registry.get_coder(pl.DataFrame), tables.TableCoder)
    assert cli.LOCAL_RUNNER == "FnApiRunner"
