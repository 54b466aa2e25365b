"""TFRecord files against protobuf itself, tfx_bsl and tf.data, and against damage."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import io
import pathlib
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any
from unittest import mock

import google_crc32c
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import files, storage, tfrecord
from transforms.errors import DataRefusedError
from transforms.tfrecord import Layout

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECOND = datetime.timedelta(microseconds=1)
LAYOUTS: tuple[Layout, ...] = ("example", "sequence_example")


# example.proto and feature.proto: message, field, number, type. TensorFlow's own classes take seven
# seconds to import. A map is written as the list of entries that it is in the file, so that their
# order is ours; tfx_bsl and tf.data read them as maps below.
PROTO = """
BytesList value 1 bytes*
FloatList value 1 float*
Int64List value 1 int64*
Feature bytes_list 1 BytesList
Feature float_list 2 FloatList
Feature int64_list 3 Int64List
FeatureEntry key 1 string
FeatureEntry value 2 Feature
Features feature 1 FeatureEntry*
FeatureList feature 1 Feature*
FeatureListEntry key 1 string
FeatureListEntry value 2 FeatureList
FeatureLists feature_list 1 FeatureListEntry*
Example features 1 Features
SequenceExample context 1 Features
SequenceExample feature_lists 2 FeatureLists
"""


@functools.cache
def message_class(layout: Layout) -> Any:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", syntax="proto3")
    found: dict[str, descriptor_pb2.DescriptorProto] = {}
    for line in PROTO.split("\n")[1:-1]:
        name, field, number, kind = line.split()
        message = found.setdefault(name, descriptor_pb2.DescriptorProto(name=name))
        plain = kinds.Type.DESCRIPTOR.values_by_name.get(f"TYPE_{kind.strip('*').upper()}")
        message.field.add(
            name=field,
            number=int(number),
            label=kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL,
            type=plain.number if plain else kinds.TYPE_MESSAGE,
            type_name=None if plain else "." + kind.strip("*"),
            oneof_index=0 if name == "Feature" else None,
        )
    found["Feature"].oneof_decl.add(name="kind")
    file.message_type.extend(found.values())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    name = {"example": "Example", "sequence_example": "SequenceExample"}[layout]
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def fill(feature: Any, dtype: Any, values: list[Any]) -> None:
    """The oracle: a feature from Python values, one at a time."""
    if dtype == pl.String:
        feature.bytes_list.SetInParent()
        feature.bytes_list.value.extend([(v or "").encode() for v in values])
    elif dtype in (pl.Float32, pl.Float64):
        feature.float_list.SetInParent()
        with np.errstate(over="ignore"):
            values = [float(np.float32("nan" if v is None else v)) for v in values]
        feature.float_list.value.extend(values)
    else:
        feature.int64_list.SetInParent()
        for value in values:
            if isinstance(value, datetime.datetime):
                value = (value.replace(tzinfo=datetime.UTC) - EPOCH) // MICROSECOND
            elif isinstance(value, datetime.date):
                value = (value - EPOCH.date()).days
            feature.int64_list.value.append((int(value) + 2**63) % 2**64 - 2**63)


def expected(table: pl.DataFrame, layout: Layout) -> list[bytes]:
    records = []
    for row in table.iter_rows(named=True):
        message = message_class(layout)()
        if layout == "example":
            message.features.SetInParent()
            features = message.features.feature
        else:
            message.context.SetInParent()
            message.feature_lists.SetInParent()
            features = message.context.feature
        for name in sorted(table.columns, key=str.encode):
            value, dtype = row[name], table.schema[name]
            if value is None:
                continue
            if not isinstance(dtype, pl.List):
                fill(features.add(key=name).value, dtype, [value])
            elif layout == "example":
                fill(features.add(key=name).value, dtype.inner, value)
            else:
                steps = message.feature_lists.feature_list.add(key=name).value
                steps.SetInParent()
                for step in value:
                    fill(steps.feature.add(), dtype.inner, [step])
        records.append(message.SerializeToString())
    return records


def records_of(table: pl.DataFrame, layout: Layout = "example") -> list[bytes]:
    return [r.as_py() for block in tfrecord.encode_records(table, layout) for r in block]


def file_of(table: pl.DataFrame, layout: Layout = "example", gzip: bool = False) -> bytes:
    return b"".join(bytes(block) for block in tfrecord.file_blocks(table, layout, gzip))


@contextlib.contextmanager
def cut_into(chunk_bytes: int, block_bytes: int, sample_rows: int) -> Iterator[None]:
    with (
        mock.patch.object(tfrecord, "_CHUNK_BYTES", chunk_bytes),
        mock.patch.object(tfrecord, "_BLOCK_BYTES", block_bytes),
        mock.patch.object(tfrecord, "_SAMPLE_ROWS", sample_rows),
    ):
        yield


# 1 cuts after each row; of 1 sampled row all are distinct, of more than there are few.
CUTS = st.builds(
    cut_into,
    st.sampled_from([1, 300, 1 << 24]),
    st.sampled_from([1, 300, 1 << 21]),
    st.sampled_from([1, 6, 1 << 10]),
)

# Names and texts on both sides of where a length takes one more byte.
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["a", "b", "", "\x00", "🎵" * 31, "🎵" * 32, "x" * 127, "x" * 128, "y" * 16_400]
    ),
)
NAMES = TEXTS.filter(lambda name: len(name) < 200 and "\x00" not in name)  # Arrow's are C strings
EDGES = sorted({min(2**k + d, 2**64 - 1) for k in range(65) for d in (-1, 0, 1)})


def integers(low: int, high: int) -> st.SearchStrategy[int]:
    edges = [e for edge in EDGES for e in (edge, -edge) if low <= e <= high]
    return st.one_of(st.integers(low, high), st.sampled_from(edges), st.integers(0, 3))


FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 0.1, 3.4e38, 1e300, -1e300, 5e-324]))
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    pl.String(): TEXTS,
    pl.Boolean(): st.booleans(),
    pl.Int8(): integers(-(2**7), 2**7 - 1),
    pl.Int16(): integers(-(2**15), 2**15 - 1),
    pl.Int32(): integers(-(2**31), 2**31 - 1),
    pl.Int64(): integers(-(2**63), 2**63 - 1),
    pl.UInt8(): integers(0, 2**8 - 1),
    pl.UInt16(): integers(0, 2**16 - 1),
    pl.UInt32(): integers(0, 2**32 - 1),
    pl.UInt64(): integers(0, 2**64 - 1),
    pl.Float32(): st.floats(width=32),
    pl.Float64(): FLOATS,
    pl.Date(): st.dates(),
    pl.Datetime("us"): st.datetimes(),
    pl.Datetime("us", "UTC"): st.datetimes(timezones=st.just(datetime.UTC)),
}
NULL_IN_LIST = (pl.String(), pl.Float32(), pl.Float64())


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    rows = draw(st.integers(0, 12))
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    columns = []
    for name in names:
        dtype = draw(st.sampled_from(list(SCALARS)))
        values, kind = SCALARS[dtype], dtype
        if draw(st.booleans()):
            items = st.none() | values if dtype in NULL_IN_LIST else values
            values, kind = st.lists(items, max_size=4), pl.List(dtype)
        if draw(st.booleans()):
            values = st.none() | values
        column = draw(st.lists(values, min_size=rows, max_size=rows))
        columns.append(pl.Series(name, column, dtype=kind))
    table = pl.DataFrame(columns)
    first = draw(st.integers(0, rows))
    return table[first:] if draw(st.booleans()) else pl.concat([table[:first], table[first:]])


@settings(deadline=None)
@given(tables(), st.sampled_from(LAYOUTS), CUTS)
def test_records_are_those_of_protobuf(table: pl.DataFrame, layout: Layout, cut: Any) -> None:
    with cut:
        assert records_of(table, layout) == expected(table, layout)


@settings(deadline=None, max_examples=40)
@given(tables(), st.sampled_from(LAYOUTS), st.booleans(), CUTS)
def test_the_bytes_of_a_file_depend_on_its_rows_alone(
    table: pl.DataFrame, layout: Layout, gzip: bool, cut: Any
) -> None:
    whole = file_of(table, layout, gzip)
    with cut:
        assert file_of(table, layout, gzip) == whole
    assert file_of(table.select(sorted(table.columns, reverse=True)), layout, gzip) == whole
    assert list(tfrecord.read_records(whole, gzip)) == expected(table, layout)


def many_rows(rows: int = 3_000) -> pl.DataFrame:
    """Columns that repeat, columns that do not, and both with nulls."""
    at = np.arange(rows)
    spread = (at * 2_654_435_761) % 2**32
    return pl.DataFrame(
        {
            "track_id": [f"t{value:010d}" for value in spread.tolist()],
            "title": ["🎵" * (value % 70) for value in spread.tolist()],
            "country": np.array(["SE", "US", "Other"])[spread % 3],
            "context": [None if value % 3 else f"c{value % 5}" for value in spread.tolist()],
            "position": (spread % 40).astype(np.int32),
            "gap_ms": [None if value % 7 == 0 else value for value in spread.tolist()],
            "session_id": (spread * 4_294_967_291).astype(np.int64) * np.where(at % 2, 1, -1),
            "time": pl.Series(1_767_571_200_000_000 + spread).cast(pl.Datetime("us", "UTC")),
            "score": np.where(at % 2, spread / 2**32, 0.5),
            "liked": [[True, False, None][value % 3] for value in spread.tolist()],
            "history": [[f"t{value % k}" for k in range(1, value % 6)] for value in at.tolist()],
            "history_ms": [[value * k for k in range(value % 5)] for value in at.tolist()],
        },
        schema_overrides={"history": pl.List(pl.String), "history_ms": pl.List(pl.Int64)},
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_rows_of_all_shapes(layout: Layout) -> None:
    table = many_rows()
    records = expected(table, layout)
    with cut_into(100_000, 50_000, 64):
        blocks = list(tfrecord.encode_records(table, layout))
        assert [r.as_py() for block in blocks for r in block] == records
        assert len(blocks) > 10
    with cut_into(1 << 24, 1 << 21, 1024):
        assert records_of(table, layout) == records


def test_a_slice_of_a_large_table_is_encoded_as_its_rows() -> None:
    table = many_rows()
    assert records_of(table[1_500:1_510]) == records_of(table)[1_500:1_510]


def test_the_documented_form_of_a_small_record() -> None:
    table = pl.DataFrame({"b": [[7, 300]], "a": ["x"], "c": [None], "d": [[]]}, schema={
        "b": pl.List(pl.Int64), "a": pl.String, "c": pl.Int64, "d": pl.List(pl.Float64),
    })  # fmt: skip
    (record,) = records_of(table)
    a = "0a0a 0a0161 1205 0a03 0a0178"  # one text
    b = "0a0c 0a0162 1207 1a05 0a0307ac02"  # two packed integers
    d = "0a07 0a0164 1202 1200"  # no floats; c is absent
    assert record == bytes.fromhex(f"0a23 {a} {b} {d}")


NOT_IN_A_FEATURE = [
    pl.Series("x", [[[1]]]),
    pl.Series("x", [{"a": 1}]),
    pl.Series("x", [b"\xff"]),
    pl.Series("x", [None], dtype=pl.Null),
    pl.Series("x", ["a"], dtype=pl.Categorical),
    pl.Series("x", [1], dtype=pl.Int128),
    pl.Series("x", [1]).cast(pl.Datetime("ms")),
    pl.Series("x", [1]).cast(pl.Duration("us")),
    pl.Series("x", [[1, 2]], dtype=pl.Array(pl.Int64, 2)),
    pl.Series("x", [[1, None]]),
    pl.Series("x", [[True, None]]),
    pl.Series("x", [[datetime.date(2026, 1, 5), None]]),
]


@pytest.mark.parametrize("column", NOT_IN_A_FEATURE, ids=lambda column: str(column.dtype))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_has_no_place_in_a_feature_is_refused_by_name(
    column: pl.Series, layout: Layout
) -> None:
    with pytest.raises(ValueError, match="column x: "):
        records_of(pl.DataFrame([column]), layout)


def decoded(records: list[bytes]) -> dict[str, list[Any]]:
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    batch = ExamplesToRecordBatchDecoder().DecodeBatch(records)
    return dict(zip(batch.schema.names, (each.to_pylist() for each in batch.columns), strict=True))


def test_tfx_bsl_reads_the_rows_that_parquet_holds(tmp_path: pathlib.Path) -> None:
    table = many_rows(200)
    files.write_table(table, str(tmp_path), "part.parquet", "train")
    tfrecord.write_tfrecord(table, str(tmp_path), "part.tfrecord", "train")
    found = decoded(list(tfrecord.read_records((tmp_path / "part.tfrecord").read_bytes())))
    for column in pl.read_parquet(tmp_path / "part.parquet"):
        if column.dtype in (pl.Boolean, pl.Datetime("us", "UTC"), pl.Int32):
            column = column.cast(pl.Int64)
        if column.dtype == pl.Float64:
            column = column.cast(pl.Float32)
        if not isinstance(column.dtype, pl.List):
            column = pl.Series(column.name, [None if v is None else [v] for v in column.to_list()])
        values = [
            v and [each.encode() if isinstance(each, str) else each for each in v]
            for v in column.to_list()
        ]
        assert found[column.name] == values, column.name


@pytest.mark.slow
@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tf_data_reads_it(layout: Layout, gzip: bool, tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    table = many_rows(500)
    tfrecord.write_tfrecord(table, str(tmp_path), "part", "train", None, layout, gzip)
    dataset = tf.data.TFRecordDataset(
        str(tmp_path / "part"), compression_type="GZIP" if gzip else None
    ).batch(table.height)
    (records,) = dataset
    assert records.numpy().tolist() == expected(table, layout)
    context = {
        "gap_ms": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
        "track_id": tf.io.FixedLenFeature([], tf.string),
        "score": tf.io.FixedLenFeature([], tf.float32),
    }
    lists = {
        "history": tf.io.RaggedFeature(tf.string),
        "history_ms": tf.io.RaggedFeature(tf.int64),
    }
    if layout == "example":
        found = tf.io.parse_example(records, {**context, **lists})
    else:
        first, second, _ = tf.io.parse_sequence_example(records, context, lists)
        found = {**first, **second}
    assert found["gap_ms"].numpy().tolist() == table["gap_ms"].fill_null(-1).to_list()
    assert found["track_id"].numpy().tolist() == [v.encode() for v in table["track_id"]]
    assert found["score"].numpy().tolist() == table["score"].cast(pl.Float32).to_list()
    ragged = {name: found[name].to_list() for name in lists}
    if layout == "sequence_example":  # of a step's values, which are one
        ragged = {
            name: [[value for step in row for value in step] for row in rows]
            for name, rows in ragged.items()
        }
    assert ragged["history_ms"] == table["history_ms"].to_list()
    assert ragged["history"] == [[each.encode() for each in row] for row in table["history"]]


SMALL = pl.DataFrame({"user_id": ["u1", "u2", "u3"], "plays": [1, 300, None]})


@pytest.mark.parametrize("gzip", [False, True])
def test_a_written_file_is_described_as_it_is(gzip: bool, tmp_path: pathlib.Path) -> None:
    path = "train/part-00000-of-00001.tfrecord" + ".gz" * gzip
    entry = tfrecord.write_tfrecord(SMALL, str(tmp_path), path, "train", (4, 7), gzip=gzip)
    data = (tmp_path / path).read_bytes()
    assert data == file_of(SMALL, gzip=gzip)
    assert entry.model_dump(exclude_none=True) == {
        "path": path,
        "role": "train",
        "format": "tfrecord",
        "rows": 3,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "first_bucket": 4,
        "last_bucket": 7,
    }


@pytest.mark.parametrize("gzip", [False, True])
def test_a_table_without_rows_is_a_file_without_records(gzip: bool, tmp_path: pathlib.Path) -> None:
    entry = tfrecord.write_tfrecord(SMALL[:0], str(tmp_path), "part", "test", gzip=gzip)
    assert entry.rows == 0
    assert list(tfrecord.read_records((tmp_path / "part").read_bytes(), gzip)) == []


def test_a_compressed_file_tells_neither_time_nor_name() -> None:
    header = file_of(SMALL, gzip=True)[:10]
    assert header[:4] == b"\x1f\x8b\x08\x00"  # deflate; no name, no comment
    assert header[4:8] == bytes(4)  # no time


class Losing(io.FileIO):
    """A file that keeps its first `kept` bytes and reports success."""

    kept = 0

    def write(self, data: Any) -> int:  # type: ignore[override]
        super().write(memoryview(data)[: max(0, self.kept - self.tell())])
        return len(data)


RECORD_ENDS = np.cumsum([len(record) + 16 for record in records_of(SMALL)]).tolist()


@pytest.mark.parametrize(
    ("gzip", "kept", "problem"),
    [
        (False, RECORD_ENDS[1], "wrote 3 rows, read back 2"),
        (False, 0, "wrote 3 rows, read back 0"),
        (False, RECORD_ENDS[1] + 5, "record 2: is cut: 5 of 12 bytes"),
        (False, RECORD_ENDS[1] + 20, "record 2: is cut: 20 of"),
        (True, 40, "is cut"),
        (True, 0, "is cut"),
    ],
)
def test_a_file_that_did_not_arrive_whole_is_refused(
    gzip: bool, kept: int, problem: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Losing, "kept", kept)
    monkeypatch.setattr(storage, "create_writer", lambda path: Losing(path, "w"))
    with pytest.raises(DataRefusedError, match=f"part: {problem}"):
        tfrecord.write_tfrecord(SMALL, str(tmp_path), "part", "train", gzip=gzip)


def given_out(data: bytes, gzip: bool) -> tuple[list[bytes], bool]:
    """The records before damage is found, and whether it is."""
    records = []
    try:
        for record in tfrecord.read_records(data, gzip):
            records.append(record)  # noqa: PERF402
    except DataRefusedError:
        return records, True
    return records, False


@pytest.mark.parametrize("gzip", [False, True])
def test_no_flipped_bit_reaches_a_reader(gzip: bool) -> None:
    data, records = file_of(SMALL, gzip=gzip), records_of(SMALL)
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        found, refused = given_out(bytes(damaged), gzip)
        assert found == records[: len(found)]
        # Some bits of gzip say nothing of the data: time, system, what fills the last byte.
        assert refused or (gzip and found == records)


@pytest.mark.parametrize("gzip", [False, True])
def test_a_cut_file_is_refused(gzip: bool) -> None:
    data, records = file_of(SMALL, gzip=gzip), records_of(SMALL)
    for size in range(len(data)):
        found, refused = given_out(data[:size], gzip)
        assert found == records[: len(found)]
        assert refused or (not gzip and size in (0, *RECORD_ENDS))


def test_bytes_after_a_compressed_file_are_refused() -> None:
    data = file_of(SMALL, gzip=True)
    for more in (b"\x00", data):
        assert given_out(data + more, gzip=True) == (records_of(SMALL), True)


def forged(length: int) -> bytes:
    head = struct.pack("<Q", length)
    checksum = google_crc32c.value(head)
    masked = (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) % 2**32
    return head + struct.pack("<I", masked) + b"9 bytes .."[:9]


@pytest.mark.parametrize("length", [6, 10**7, 2**31 - 1, 2**31, 2**62, 2**64 - 1])
def test_a_forged_length_allocates_nothing(length: int) -> None:
    tracemalloc.start()
    try:
        assert given_out(forged(length), gzip=False) == ([], True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    assert given_out(forged(5), gzip=False) == ([], True)  # 5 bytes are there, their sum is not


def test_records_longer_than_a_part_that_is_read(tmp_path: pathlib.Path) -> None:
    table = pl.DataFrame({"text": ["a" * 2_500_000, "b", "c" * 1_100_000]})
    for gzip in (False, True):
        entry = tfrecord.write_tfrecord(table, str(tmp_path), "part", "train", gzip=gzip)
        assert entry.rows == 3
        with (tmp_path / "part").open("rb") as stream:
            assert list(tfrecord.read_records(stream, gzip)) == records_of(table)


def test_arrow_takes_blocks_as_they_are() -> None:
    (block,) = tfrecord.encode_records(SMALL, "example")
    block.validate(full=True)
    assert isinstance(block, pa.LargeBinaryArray)


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_records_written_as_they_are_give_the_same_bytes(
    layout: Layout, gzip: bool, tmp_path: pathlib.Path
) -> None:
    table = pl.DataFrame(
        {"user_id": [f"u{n % 7}" for n in range(3000)], "n": range(3000), "l": [["a", "b"]] * 3000}
    )
    root = str(tmp_path)
    made = tfrecord.write_tfrecord(table, root, "a", "train", (0, 3), layout, gzip)
    records = list(tfrecord.read_records((tmp_path / "a").read_bytes(), gzip))
    again = tfrecord.write_records(records, root, "b", "train", (0, 3), gzip)
    assert again == made.model_copy(update={"path": "b"})
    some = tfrecord.write_records(records[1::2], root, "c", "train", None, gzip)
    wanted = tfrecord.write_tfrecord(table[1::2], root, "d", "train", None, layout, gzip)
    assert some.sha256 == wanted.sha256


texts = st.lists(st.text(max_size=200), max_size=3)


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=200), listed=texts, other=texts, layout=st.sampled_from(LAYOUTS))
def test_texts_of_a_feature(text: str, listed: list[str], other: list[str], layout: Layout) -> None:
    table = pl.DataFrame(
        {"user_id": [text], "user_ids": [listed], "user": [other], "z": [1.5], "n": [[1, 2]]},
        schema_overrides={"user_ids": pl.List(pl.String), "user": pl.List(pl.String)},
    )
    (block,) = tfrecord.encode_records(table, layout)
    record = block[0].as_py()
    for name, wanted in (("user_id", [text]), ("user_ids", listed), ("user", other), ("no", [])):
        assert tfrecord.texts_of(record, name) == [each.encode() for each in wanted]
    assert tfrecord.texts_of(record, "z") == tfrecord.texts_of(record, "n") == []
    assert tfrecord.text_needle(text.encode()) in record


@given(st.binary(max_size=60))
def test_texts_of_what_is_no_example(record: bytes) -> None:
    with contextlib.suppress(DataRefusedError):  # and nothing else
        tfrecord.texts_of(record, "user_id")
