"""Containers: exact values, one rule for each kind of damage, and never silently fewer rows."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterable

import fastavro
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.adapters import containers
from transforms.adapters.base import OFFSET, REJECT_REASON, TABLE_ROWS, InputFile, RawTable
from transforms.adapters.containers import avro_blocks, avro_file, limits
from transforms.errors import InputFileError

SCHEMA = {"id": pl.String(), "n": pl.Int64(), "x": pl.Float64(), "b": pl.Boolean()}


def file_of(data: bytes, path: str = "log.jsonl") -> InputFile:
    return InputFile(path, lambda: io.BytesIO(data))


def rows_of(tables: Iterable[RawTable]) -> list[dict]:
    return [row for table in tables for row in table.rows.to_dicts()]


def rejects_of(tables: Iterable[RawTable]) -> dict[int, str]:
    return {row[OFFSET]: row[REJECT_REASON] for table in tables for row in table.rejects.to_dicts()}


def json_lines(data: bytes, schema=SCHEMA, path="log.jsonl") -> list[RawTable]:
    return list(containers.read_json_lines(file_of(data, path), schema))


# --- compression ----------------------------------------------------------------------------------

TEXT = b"".join(b'{"id":"line %d"}\n' % at for at in range(200))
COMPRESS = {".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_text_and_several_members_are_one_text(suffix):
    data = COMPRESS[suffix](TEXT) + COMPRESS[suffix](b"") + COMPRESS[suffix](b"tail")
    assert containers.open_text(file_of(data, "a" + suffix)).read() == TEXT + b"tail"


@pytest.mark.parametrize("suffix", COMPRESS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_truncation_raises(suffix, data):
    whole = COMPRESS[suffix](TEXT)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(InputFileError, match=r"truncated|damaged"):
        containers.open_text(file_of(whole[:cut], "a" + suffix)).read()


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("garbage", [b"x", b"\0" * 20, b"garbage after the end"])
def test_bytes_after_the_end_raise(suffix, garbage):
    with pytest.raises(InputFileError):
        containers.open_text(file_of(COMPRESS[suffix](TEXT) + garbage, "a" + suffix)).read()


def test_flipped_byte_in_gzip_raises():
    whole = bytearray(gzip.compress(TEXT))
    whole[len(whole) // 2] ^= 0xFF
    with pytest.raises(InputFileError):
        containers.open_text(file_of(bytes(whole), "a.gz")).read()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_bomb_stops_at_the_ratio(suffix, monkeypatch):
    monkeypatch.setattr(limits, "RATIO_FREE_BYTES", 1 << 20)
    bomb = COMPRESS[suffix](bytes(64 << 20))
    with pytest.raises(InputFileError, match="expands"):
        containers.open_text(file_of(bomb, "a" + suffix)).read()


def test_compressed_data_under_a_plain_name_says_what_to_do():
    with pytest.raises(InputFileError, match=r"rename it to end in \.gz"):
        json_lines(gzip.compress(TEXT))


def test_not_compressed_under_a_compressed_name():
    with pytest.raises(InputFileError, match="gzip"):
        json_lines(TEXT, path="a.gz")


# --- JSON lines -----------------------------------------------------------------------------------


def test_empty_text_has_no_tables():
    assert json_lines(b"") == []
    assert list(containers.read_json_array(file_of(b""), SCHEMA)) == []
    assert list(containers.read_delimited(file_of(b""), ["a"], ",", has_header=True)) == []


def test_bom_crlf_blank_lines_extra_keys_and_a_last_line_without_feed():
    data = b'\xef\xbb\xbf{"id":"a","more":[1]}\r\n\r\n  \n{"id":"b"}'
    tables = json_lines(data)
    assert [(row[OFFSET], row["id"]) for row in rows_of(tables)] == [(0, "a"), (3, "b")]
    assert rejects_of(tables) == {}


BAD_LINES = [
    (b'{"id":"\xff"}', "bad_utf8"),
    (b'{"id":"\xed\xa0\x80"}', "bad_utf8"),
    (b'{"n":NaN}', "bad_json"),
    (b'{"x":Infinity}', "bad_json"),
    (b'{"x":1e999}', "bad_json"),
    (b'{"other":' + b"9" * 5000 + b"}", "bad_json"),
    (b'{"id":"\\ud800"}', "bad_json"),
    (b'{"id":"nul \0"}', "bad_json"),
    (b"[" * 100_000, "bad_json"),
    (b'{"a":' * 3000 + b"1" + b"}" * 3000, "bad_json"),
    (b"[1]", "bad_json"),
    (b"null", "bad_json"),
    (b'{"id":"a"}{"id":"b"}', "bad_json"),
    (b'{"id":"a"', "bad_json"),
    (b'{"n":"7"}', "bad_n"),
    (b'{"n":1.5}', "bad_n"),
    (b'{"n":true}', "bad_n"),
    (b'{"n":9223372036854775808}', "bad_n"),
    (b'{"n":99999999999999999999999}', "bad_n"),
    (b'{"id":{}}', "bad_id"),
    (b'{"id":true}', "bad_id"),
    (b'{"id":99999999999999999999999}', "bad_id"),
    (b'{"x":"1"}', "bad_x"),
    (b'{"x":false}', "bad_x"),
    (b'{"b":1}', "bad_b"),
    (b'{"b":"true","n":"x"}', "bad_n"),
    (b'{"id":"' + b"x" * limits.MAX_LINE_BYTES + b'"}', "line_too_long"),
]


def test_a_bad_line_is_a_reject_and_its_neighbours_are_not():
    lines = []
    for line, _ in BAD_LINES:
        lines += [b'{"id":"good"}', line]
    tables = json_lines(b"\n".join([*lines, b'{"id":"last"}']))
    assert rejects_of(tables) == {2 * at + 1: why for at, (_, why) in enumerate(BAD_LINES)}
    assert [row[OFFSET] for row in rows_of(tables)] == list(range(0, 2 * len(BAD_LINES) + 1, 2))


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_the_verdict_on_a_line_does_not_depend_on_the_others(line, reason):
    assert rejects_of(json_lines(line)) == {0: reason}


def test_a_line_of_many_chunks_is_skipped_without_being_held():
    data = b'{"id":"a"}\n' + b"x" * (5 << 20) + b'\n{"id":"b"}\n' + b"y" * (3 << 20)
    tables = json_lines(data)
    assert rejects_of(tables) == {1: "line_too_long", 3: "line_too_long"}
    assert [row[OFFSET] for row in rows_of(tables)] == [0, 2]


def test_a_line_of_exactly_the_cap_is_read():
    line = b'{"id":"' + b"x" * (limits.MAX_LINE_BYTES - 9) + b'"}'
    assert len(line) == limits.MAX_LINE_BYTES
    assert rejects_of(json_lines(b"{}\n" + line + b"\n{}")) == {}


def test_numbers_are_exact_and_a_repeated_key_counts_last():
    data = b"\n".join(
        [
            b'{"id":9007199254740993,"n":9007199254740993}',
            b'{"id":"a","n":-9223372036854775808}',
            b'{"n":180000.0,"x":3}',
            b'{"n":1,"n":2,"id":1.5}',
            b'{"n":1e3,"id":18446744073709551615}',
        ]
    )
    tables = json_lines(data)
    assert rejects_of(tables) == {}
    got = [(row["id"], row["n"]) for row in rows_of(tables)]
    assert got == [
        ("9007199254740993", 2**53 + 1),
        ("a", -(2**63)),
        (None, 180000),
        ("1.5", 2),
        ("18446744073709551615", 1000),
    ]


def test_dotted_paths():
    schema = {"a.b.c": pl.Int64(), "a.l": pl.List(pl.String()), "id": pl.String()}
    data = b"\n".join(
        [
            b'{"a":{"b":{"c":5},"l":["x",null]},"id":"ok"}',
            b'{"a":null}',
            b'{"a":{"b":null}}',
            b"{}",
            b'{"a":"text"}',
            b'{"a":{"b":[1]}}',
            b'{"a":{"b":{"c":"5"}}}',
            b'{"a":{"l":"x"}}',
            b'{"a":{"l":[{}]}}',
        ]
    )
    tables = json_lines(data, schema)
    rows = rows_of(tables)
    assert rows[0] == {OFFSET: 0, "a.b.c": 5, "a.l": ["x", None], "id": "ok"}
    assert [row[OFFSET] for row in rows] == [0, 1, 2, 3]
    assert rejects_of(tables) == {4: "bad_a", 5: "bad_a.b", 6: "bad_a.b.c", 7: "bad_a.l",
                                  8: "bad_a.l"}  # fmt: skip


def test_tables_are_cut_and_conserve_lines():
    count = TABLE_ROWS + 5
    tables = json_lines(b"".join(b'{"n":%d}\n' % at if at % 7 else b"?\n" for at in range(count)))
    assert len(tables) == 2
    assert all(t.rows.height + t.rejects.height <= TABLE_ROWS for t in tables)
    assert sum(t.rows.height + t.rejects.height for t in tables) == count
    joined = pl.concat([t.rows for t in tables])
    assert joined["n"].equals(joined[OFFSET].alias("n"))


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "id": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "b": st.none() | st.booleans(),
        "ignored": st.lists(st.integers()),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, max_size=20))
def test_json_round_trip(records):
    data = "\n".join(json.dumps(record) for record in records).encode()
    expected = [
        {OFFSET: at} | {name: record.get(name) for name in SCHEMA}
        for at, record in enumerate(records)
    ]
    assert rows_of(json_lines(data)) == expected
    array = json.dumps(records).encode()
    assert rows_of(containers.read_json_array(file_of(array), SCHEMA)) == expected


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_conserve_lines(data):
    if data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        return
    tables = json_lines(data)
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert sum(t.rows.height + t.rejects.height for t in tables) == sum(
        bool(line.strip()) for line in lines
    )


# --- JSON array -----------------------------------------------------------------------------------


def test_array_elements_and_rejects():
    data = b'[{"id":"a","n":1}, 7, null, {"id":"b","n":"x"}, {}]'
    tables = list(containers.read_json_array(file_of(data), SCHEMA))
    assert [row[OFFSET] for row in rows_of(tables)] == [0, 4]
    assert rejects_of(tables) == {1: "bad_json", 2: "bad_json", 3: "bad_n"}


def test_every_truncation_of_an_array_raises():
    data = b'[{"id":"a"},{"id":"b","n":12}]'
    for cut in range(1, len(data)):
        with pytest.raises(InputFileError):
            list(containers.read_json_array(file_of(data[:cut]), SCHEMA))


@pytest.mark.parametrize("data", [b"{}", b'"secret"', b'[{"id":"secret \xff"}]', b"  ", b"[] []"])
def test_other_documents_raise_without_their_contents(data):
    with pytest.raises(InputFileError) as caught:
        list(containers.read_json_array(file_of(data), SCHEMA))
    assert "secret" not in str(caught.value)


def test_a_document_over_the_cap_raises(monkeypatch):
    monkeypatch.setattr(limits, "MAX_DOCUMENT_BYTES", 10)
    with pytest.raises(InputFileError, match="split it"):
        list(containers.read_json_array(file_of(b"[{},{},{},{}]"), SCHEMA))


# --- delimited text -------------------------------------------------------------------------------


def delimited(data: bytes, columns, separator="\t", has_header=False, quoted=False):
    return list(
        containers.read_delimited(file_of(data, "a.tsv"), columns, separator, has_header, quoted)
    )


def test_tsv_keeps_empty_text_and_rejects_by_line():
    data = b'a\t\tc\r\n\nx\ty\n1\t2\t3\t4\n\xff\tb\tc\n"p\tq\tr\n\t\t\nn\0\tu\tl'
    tables = delimited(data, ["i", "j", "k"])
    assert [tuple(row.values()) for row in rows_of(tables)] == [
        (0, "a", "", "c"),
        (5, '"p', "q", "r"),
        (6, "", "", ""),
        (7, "n\0", "u", "l"),
    ]
    assert rejects_of(tables) == {2: "column_count", 3: "column_count", 4: "bad_utf8"}


def test_header_selects_by_name():
    data = b"\xef\xbb\xbfx,y,z\n1,2,3\n4,5\n"
    tables = delimited(data, ["z", "x"], ",", has_header=True)
    assert rows_of(tables) == [{OFFSET: 1, "z": "3", "x": "1"}]
    assert rejects_of(tables) == {2: "column_count"}


@pytest.mark.parametrize(
    ("header", "message"), [(b"a,b", "no column 'c'"), (b"c,c", "more than once"), (b"\xff", "UTF")]
)
def test_bad_headers(header, message):
    with pytest.raises(InputFileError, match=message):
        delimited(header + b"\n1,2\n", ["c"], ",", has_header=True)


def test_quoted_fields_never_swallow_the_next_line():
    data = b'"a,1",b\n"say ""hi""",c\n"open,d\ne,f\n"x"y,z\n5" disc,g\n"p","q","r"\n'
    tables = delimited(data, ["s", "t"], ",", quoted=True)
    assert [tuple(row.values()) for row in rows_of(tables)] == [
        (0, "a,1", "b"),
        (1, 'say "hi"', "c"),
        (3, "e", "f"),
        (5, '5" disc', "g"),
    ]
    assert rejects_of(tables) == {2: "bad_quotes", 4: "bad_quotes", 6: "column_count"}


def test_one_column():
    assert rows_of(delimited(b"a\nb", ["c"])) == [{OFFSET: 0, "c": "a"}, {OFFSET: 1, "c": "b"}]


FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n\ufeff"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=20))
def test_tsv_round_trip(rows):
    data = "".join("\t".join(row) + "\n" for row in rows).encode()
    got = rows_of(delimited(data, ["a", "b", "c"]))
    assert got == [{OFFSET: at, "a": a, "b": b, "c": c} for at, (a, b, c) in enumerate(rows)]


# --- Parquet --------------------------------------------------------------------------------------


def parquet(table: pa.Table, **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def read_parquet(data: bytes, columns=None) -> list[RawTable]:
    return list(containers.read_parquet(file_of(data, "a.parquet"), columns))


PLAIN = pa.table({"id": [f"r{at}" for at in range(300)], "n": list(range(300))})


def test_parquet_offsets_order_and_missing_columns():
    tables = read_parquet(parquet(PLAIN, row_group_size=70), ["n", "absent", "id"])
    assert [*tables[0].rows.columns] == [OFFSET, "n", "id"]
    assert [row["n"] for row in rows_of(tables)] == list(range(300))
    assert [row[OFFSET] for row in rows_of(tables)] == list(range(300))


def test_parquet_without_any_expected_column():
    with pytest.raises(InputFileError, match="none of the expected columns"):
        read_parquet(parquet(PLAIN), ["absent"])


def test_parquet_of_no_rows():
    assert read_parquet(parquet(PLAIN.slice(0, 0))) == []


def test_every_truncation_of_parquet_raises():
    data = parquet(PLAIN.slice(0, 20))
    for cut in range(0, len(data), 7):
        with pytest.raises(InputFileError):
            read_parquet(data[:cut])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bytes_in_parquet_raise_or_change_nothing_with_checksums(data):
    whole = bytearray(parquet(PLAIN, write_page_checksum=True, compression="NONE"))
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    at = data.draw(st.integers(4, footer - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        rows = rows_of(read_parquet(bytes(whole)))
    except InputFileError:
        return
    assert [(row["id"], row["n"]) for row in rows] == [(f"r{at}", at) for at in range(300)]


def test_forged_footer_counts(monkeypatch):
    monkeypatch.setattr(limits, "FREE_ROWS", 10)
    monkeypatch.setattr(limits, "MAX_ROWS_PER_BYTE", 0)
    with pytest.raises(InputFileError, match="footer contradicts"):
        read_parquet(parquet(PLAIN))


def test_every_flipped_bit_of_a_footer_gives_rows_or_an_input_file_error():
    """In a process of its own: Arrow has places where a damaged footer ends the process."""
    code = """
import io, sys
from transforms.adapters.base import InputFile
from transforms.adapters.containers import read_parquet
from transforms.errors import InputFileError
whole = sys.stdin.buffer.read()
start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
for at in range(start, len(whole)):
    for bit in range(8):
        data = bytearray(whole)
        data[at] ^= 1 << bit
        try:
            list(read_parquet(InputFile("a", lambda: io.BytesIO(bytes(data)))))
        except InputFileError:
            pass
"""
    data = parquet(pa.table({"id": ["a", None], "l": [["a"], []]}), store_schema=False)
    subprocess.run([sys.executable, "-c", code], input=data, check=True)


def test_a_forged_length_of_a_chunk_is_not_allocated():
    asked = []

    class Watched(io.BytesIO):
        def read(self, size=-1):
            asked.append(size)
            return super().read(size)

    data = parquet(PLAIN.select(["n"]), compression="NONE", use_dictionary=False)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    chunk = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0)
    size = avro_blocks.encode("long", chunk.total_compressed_size)  # Thrift's numbers are Avro's
    forged = data[start:-8].replace(size, avro_blocks.encode("long", 1 << 40))
    data = data[:start] + forged + len(forged).to_bytes(4, "little") + b"PAR1"
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0)
    assert column.total_compressed_size == 1 << 40
    with pytest.raises(InputFileError, match="damaged Parquet"):
        list(containers.read_parquet(InputFile("a", lambda: Watched(data))))
    assert max(asked) <= len(data)


def test_times_of_all_units_int96_and_dictionaries():
    micros = pa.array([1_767_225_600_000_001], pa.timestamp("us", tz="UTC"))
    table = pa.table(
        {
            "us": micros,
            "ms": micros.cast(pa.timestamp("ms"), safe=False),
            "ns": micros.cast(pa.timestamp("ns", tz="UTC")),
            "word": pa.array(["a"]).dictionary_encode(),
        }
    )
    (got,) = read_parquet(parquet(table))
    assert got.rows.schema["word"] == pl.String
    assert got.rows["ns"].dt.timestamp("us").to_list() == [1_767_225_600_000_001]
    (old,) = read_parquet(parquet(table.select(["ns"]), use_deprecated_int96_timestamps=True))
    assert old.rows["ns"].dt.timestamp("us").to_list() == [1_767_225_600_000_001]


def test_binary_and_text_that_is_not_utf8():
    raw = pa.array([b"a", b"\xff", None], pa.binary())
    forged = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    for array in (raw, forged):
        tables = read_parquet(parquet(pa.table({"id": array})))
        assert [(row[OFFSET], row["id"]) for row in rows_of(tables)] == [(0, "a"), (2, None)]
        assert rejects_of(tables) == {1: "bad_utf8"}


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all, but text"])
def test_not_parquet(data):
    with pytest.raises(InputFileError, match="Parquet"):
        read_parquet(data)


def test_a_failing_storage_is_not_a_damaged_file():
    class Failing(io.BytesIO):
        def read(self, *_):
            raise OSError(5, "input/output error")

    with pytest.raises(OSError, match="input/output"):
        list(containers.read_parquet(InputFile("a", lambda: Failing(b"x" * 100))))


# --- Avro -----------------------------------------------------------------------------------------


def record(*fields, name="R") -> dict:
    return {
        "type": "record",
        "name": name,
        "fields": [
            {"name": each[0], "type": each[1], **(each[2] if len(each) > 2 else {})}
            for each in fields
        ],
    }


NULLABLE = {"default": None}
READER = record(
    ("id", "string"), ("n", ["null", "long"], NULLABLE), ("x", ["null", "double"], NULLABLE)
)


def avro(schema: dict, records: list[dict], **options) -> bytes:
    sink = io.BytesIO()
    fastavro.writer(sink, schema, records, **options)
    return sink.getvalue()


def read_avro(data: bytes, reader=READER) -> list[RawTable]:
    return list(containers.read_avro(file_of(data, "a.avro"), reader))


RECORDS = [{"id": f"r{at}", "n": at if at % 3 else None, "x": at / 4} for at in range(500)]


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_avro_codecs(codec):
    rows = rows_of(read_avro(avro(READER, RECORDS, codec=codec, sync_interval=500)))
    assert rows == [{OFFSET: at} | record for at, record in enumerate(RECORDS)]


def repack(data: bytes, codec: str, pack) -> bytes:
    """An Avro file of one null-codec block, with the block packed otherwise."""
    schema = json.dumps(READER).encode()
    (block,) = fastavro.block_reader(io.BytesIO(data))
    body, sync = pack(block.bytes_.getvalue()), b"0123456789abcdef"
    head = io.BytesIO()
    fastavro.schemaless_writer(
        head,
        {"type": "map", "values": "bytes"},
        {"avro.schema": schema, "avro.codec": codec.encode()},
    )
    numbers = io.BytesIO()
    fastavro.schemaless_writer(numbers, "long", block.num_records)
    fastavro.schemaless_writer(numbers, "long", len(body))
    return b"Obj\x01" + head.getvalue() + sync + numbers.getvalue() + body + sync


def snappy(data: bytes) -> bytes:
    import zlib

    return pa.compress(data, codec="snappy", asbytes=True) + zlib.crc32(data).to_bytes(4, "big")


@pytest.mark.parametrize(("codec", "pack"), [("snappy", snappy), ("zstandard", zstandard.compress)])
def test_avro_codecs_that_spark_writes(codec, pack):
    data = repack(avro(READER, RECORDS[:20]), codec, pack)
    assert [row["id"] for row in rows_of(read_avro(data))] == [f"r{at}" for at in range(20)]
    damaged = bytearray(data)
    damaged[-30] ^= 0x55
    if codec == "snappy":  # it has a checksum
        with pytest.raises(InputFileError):
            read_avro(bytes(damaged))


def test_both_decoders_agree(monkeypatch):
    fast = read_avro(avro(READER, RECORDS))
    monkeypatch.setattr(avro_file._Flat, "decode", lambda *_: None)
    slow = read_avro(avro(READER, RECORDS))
    assert fast[0].rows.equals(slow[0].rows)
    assert fast[0].rows.schema == slow[0].rows.schema


def test_older_and_newer_writers_and_aliases():
    reader = record(
        ("id", "string", {"aliases": ["uuid"]}),
        ("n", ["null", "long"], NULLABLE),
        ("at", {"type": "long", "logicalType": "timestamp-micros"}),
    )
    millis = {"type": "long", "logicalType": "timestamp-millis"}
    older = record(("uuid", "string"), ("at", "long"))
    newer = record(
        ("id", ["null", {"type": "enum", "name": "E", "symbols": ["p", "q"]}]),
        ("n", "int"),
        ("at", millis),
        ("tags", {"type": "map", "values": record(("v", "int"), name="V")}),
    )
    (old,) = read_avro(avro(older, [{"uuid": "a", "at": 1_000_000}]), reader)
    row = {"id": "q", "n": 3, "at": 1000, "tags": {"k": {"v": 1}}}
    (new,) = read_avro(avro(newer, [row, row | {"id": None}]), reader)
    assert old.rows.select("id", "n").rows() == [("a", None)]
    assert new.rows.select("id", "n").rows() == [("q", 3), (None, 3)]
    for table in (old, new):
        assert table.rows["at"].dt.timestamp("us").unique().to_list() == [1_000_000]


@pytest.mark.parametrize(
    ("writer", "message"),
    [
        (record(("other", "string")), "no field 'id'"),
        (record(("id", "long")), "field 'id'"),
        (record(("id", "string"), ("n", "double")), "field 'n'"),
        (record(("id", "string"), ("x", {"type": "array", "items": "int"})), "field 'x'"),
        (record(("id", "string"), ("n", ["long", "string"])), "field 'n'"),
    ],
)
def test_incompatible_writers_name_the_field(writer, message):
    with pytest.raises(InputFileError, match=message):
        read_avro(avro(writer, []))


def hostile(schema: object) -> bytes:
    """A file whose header alone has the schema; fastavro would refuse to write some."""
    head = io.BytesIO()
    fastavro.schemaless_writer(
        head, {"type": "map", "values": "bytes"}, {"avro.schema": json.dumps(schema).encode()}
    )
    return b"Obj\x01" + head.getvalue() + b"s" * 16


def nested(depth: int) -> object:
    return "int" if not depth else {"type": "array", "items": nested(depth - 1)}


def doubling(levels: int) -> dict:
    """Each level holds the one below twice: 2^levels fields in a few bytes."""
    fields = [("a", record(("v", "int"), name="L0")), ("b", "L0")]
    for level in range(1, levels):
        fields = [("a", record(*fields, name=f"L{level}")), ("b", f"L{level}")]
    return record(("id", "string"), *fields)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (record(("id", "string"), ("next", ["null", "R"])), "recursive"),
        (record(("id", "string"), ("deep", nested(20))), "deep"),
        (record(*[(f"f{at}", "int") for at in range(600)]), "600 fields"),
        (doubling(12), "fields"),
        (doubling(12) | {"__fastavro_parsed": True, "__named_schemas": {}}, "fields"),
        (record(("id", "string"), ("a", {"type": "array", "items": "null"})), "no bytes"),
        (record(("id", "string"), ("a", {"type": "array", "items": record(name="Z")})), "no bytes"),
        (record(("id", "string"), ("a", "Unknown")), "does not define"),
        ("string", "not a record"),
        ({"type": "record", "name": "R", "fields": 3}, "not valid"),
        ({"type": "record", "name": "R"}, "not valid"),
        (record(("id", {})), "not valid"),
    ],
)
def test_hostile_writer_schemas(schema, message):
    with pytest.raises(InputFileError, match=message):
        read_avro(hostile(schema))


def test_avro_bomb_and_forged_counts(monkeypatch):
    data = avro(READER, [{"id": "x" * 100_000}], codec="deflate")
    monkeypatch.setattr(limits, "MAX_BLOCK_BYTES", 50_000)
    with pytest.raises(InputFileError, match="block of more than"):
        read_avro(data)
    with pytest.raises(InputFileError, match="more records than it has bytes"):
        read_avro(hostile(READER) + b"\xfe\xff\xff\xff\x0f\x00" + b"s" * 16)
    with pytest.raises(InputFileError):
        read_avro(hostile(READER) + b"\xff" * 12)


def test_every_truncation_of_avro_raises_or_ends_at_a_block():
    whole = avro(READER, RECORDS[:40], codec="deflate", sync_interval=200)
    sizes = [(block.offset, block.size) for block in fastavro.block_reader(io.BytesIO(whole))]
    borders = {offset for offset, _ in sizes}
    for cut in range(len(whole)):
        if cut not in borders:
            with pytest.raises(InputFileError):
                read_avro(whole[:cut])


def test_text_that_is_not_utf8_spoils_its_row_only():
    data = bytearray(avro(READER, [{"id": "good"}, {"id": "evil"}, {"id": "fine"}]))
    data[data.index(b"evil")] = 0xFF
    tables = read_avro(bytes(data))
    assert [row["id"] for row in rows_of(tables)] == ["good", "fine"]
    assert rejects_of(tables) == {1: "bad_utf8"}


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_flipped_bytes_in_avro_give_rows_or_an_input_file_error(data):
    whole = bytearray(avro(READER, RECORDS[:30], sync_interval=200))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InputFileError):  # an error of any other kind fails the test
        read_avro(bytes(whole))


@pytest.mark.parametrize("kind", ["string", {"type": "enum", "name": "E", "symbols": ["r"]}])
def test_a_block_that_holds_more_records_than_it_says_raises(kind):
    """Whichever decoder reads it; the flat one would stop there and leave out the rest."""
    writer = record(("id", kind), ("n", ["null", "long"]))
    data = avro(writer, [{"id": "r", "n": at} for at in range(50)])
    (block,) = fastavro.block_reader(io.BytesIO(data))
    count_at = data.index(b"\x64", block.offset)
    forged = bytearray(data)
    forged[count_at] = 2 * 16
    with pytest.raises(InputFileError, match="damaged Avro records"):
        read_avro(bytes(forged))


def test_a_decimal_is_no_text():
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}
    data = avro(record(("id", "string"), ("x", decimal)), [])
    with pytest.raises(InputFileError, match="has decimal in field 'x'"):
        list(containers.read_avro_columns(file_of(data), ["id", "x"]))


@pytest.mark.parametrize("extra", [[], [("tags", {"type": "array", "items": "int"})]])
def test_a_default_that_is_not_of_its_type_does_no_harm(extra):
    """Many writers give `string` the default null; it is the reader's business."""
    fields = [("id", "string"), *((name, kind) for name, kind in extra)]
    data = avro(record(*fields), [{"id": "a", "tags": [1]}])
    wrong = json.loads(json.dumps(record(*fields)))
    wrong["fields"][0]["default"] = None
    (block,) = fastavro.block_reader(io.BytesIO(data))
    body = block.bytes_.getvalue()
    numbers = avro_blocks.encode("long", 1) + avro_blocks.encode("long", len(body))
    forged = hostile(wrong) + numbers + body + b"s" * 16
    assert rows_of(containers.read_avro_columns(file_of(forged), ["id"])) == [
        {OFFSET: 0, "id": "a"}
    ]


def test_named_types_are_found_in_their_namespace():
    kind = {"type": "enum", "name": "Kind", "symbols": ["p", "q"]}
    writer = record(("a", kind), ("b", "Kind"), ("c", "acme.Kind"), name="R")
    writer["namespace"] = "acme"
    data = avro(writer, [{"a": "p", "b": "q", "c": "p"}])
    (table,) = containers.read_avro_columns(file_of(data), ["c", "b"])
    assert table.rows.select("b", "c").rows() == [("q", "p")]


def test_a_field_twice():
    with pytest.raises(InputFileError, match="names a field twice"):
        read_avro(hostile(record(("id", "string"), ("id", "string"))))


def test_closing_a_compressed_text_closes_the_file():
    raw = io.BytesIO(gzip.compress(TEXT))
    containers.open_text(InputFile("a.gz", lambda: raw)).close()
    assert raw.closed


def test_not_a_number_passes_through_avro_for_the_adapter_to_judge():
    (table,) = read_avro(avro(READER, [{"id": "a", "x": math.nan}]))
    assert math.isnan(table.rows["x"][0])


def test_empty_avro():
    with pytest.raises(InputFileError, match="empty file"):
        read_avro(b"")
    assert read_avro(avro(READER, [])) == []


def test_avro_columns_in_the_writers_types():
    writer = record(
        ("user", "long"),
        ("at", {"type": "long", "logicalType": "local-timestamp-millis"}),
        ("x", ["null", "int", "double"]),
    )
    data = avro(writer, [{"user": 2**60, "at": 5, "x": 1}, {"user": 1, "at": 6, "x": 0.5}])
    (table,) = containers.read_avro_columns(file_of(data), ["x", "user", "at", "absent"])
    assert table.rows.columns == [OFFSET, "x", "user", "at"]
    assert table.rows["at"].dtype == pl.Datetime("ms")
    assert table.rows.select("x", "user").rows() == [(1.0, 2**60), (0.5, 1)]
