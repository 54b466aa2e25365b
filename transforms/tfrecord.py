"""Tables as TFRecord files of `tf.train.Example` or `tf.train.SequenceExample`.

A file holds the rows of a table in order, a record a row, as `tf.data.TFRecordDataset` reads it.
Features are in the byte order of their names: same rows, same bytes.

| Column                     | Feature      | Value                                               |
|----------------------------|--------------|-----------------------------------------------------|
| String                     | `bytes_list` | UTF-8                                               |
| Boolean                    | `int64_list` | 0 or 1                                              |
| Int8 to Int64, UInt8 to 32 | `int64_list` | the number                                          |
| UInt64                     | `int64_list` | two's complement: 2^63 and above are negative       |
| Date                       | `int64_list` | days since 1970-01-01                               |
| Datetime, microseconds     | `int64_list` | microseconds since 1970-01-01 UTC                   |
| Float32, Float64           | `float_list` | rounded to 32 bits: 7 digits, infinite from 3.41e38 |

- A null value or list: the feature is absent.
- Layout "example": a list is a feature with a value an item; an empty one is there, of its type.
- Layout "sequence_example": scalars are the context; a list is a feature list, a step an item.
- A null in a list keeps its place: NaN among floats, no bytes among texts. An integer has no value
  to spare, so there it is refused.

Formats: tensorflow/core/lib/io/record_writer.h, tensorflow/core/example/example.proto and
feature.proto, https://protobuf.dev/programming-guides/encoding. A compressed file is one gzip
member without time or name; its bytes are those of one release of zlib, its rows those of any.

How: only checksums are made a row at a time. A column becomes the encoded map entries of its
distinct values (of all its values where they hardly repeat) and a code for each row. The codes of
all columns, a line a row, make the records of a block by one Arrow `take`: 0.2 us a row of 52
columns, where `binary_join_element_wise` of headers and values took 1.5 us.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import itertools
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal, TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from transforms import storage
from transforms.errors import DataRefusedError
from transforms.manifest import FileEntry
from transforms.timeline import BoolArray, IntArray

Layout = Literal["example", "sequence_example"]
_Item = TypeVar("_Item")

_GZIP_LEVEL = 1
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # 16: gzip framing, with neither time nor name

# Columns are encoded for a chunk of rows, by size in memory; records are put together for a block
# of them, by size in the file. Of 52 columns, chunks a quarter as large took 40 % more time.
_CHUNK_BYTES = 32 << 20
_CELL_BYTES = 8  # what a value takes at least while it is encoded
# Items of lists are encoded by the part: a chunk's would not stay in the cache, and each of its
# arrays would be given back to the system and asked for again (twice the time).
_PART_ITEMS = 1 << 14
_BLOCK_BYTES = 2 << 20
_BLOCK_RECORDS = 1024  # of those that are written as they are
# Each distinct value is encoded once if at most half of this many first ones are distinct.
_SAMPLE_ROWS = 1024

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEAD_BYTES = _LENGTH.size + _CHECKSUM.size
_MASK = 0xA282EAD8
_LARGEST_RECORD = (1 << 31) - 1  # no protobuf message is longer
_READ_BYTES = 1 << 20

# Protobuf tags: field number << 3 | 2, "bytes of stated length" (packed numbers are that too).
_FIELD_1, _FIELD_2, _FIELD_3 = b"\x0a", b"\x12", b"\x1a"
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = _FIELD_1, _FIELD_2, _FIELD_3  # fields of a Feature
_VALUE = _FIELD_1  # the field of each of the three lists

_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
_OFFSETS_AND_BYTES = pl.CompatLevel.oldest()  # of texts; the newest is views
_TEXT = pa.large_binary()
_NO_BYTES = pa.scalar(b"", _TEXT)


def write_tfrecord(
    table: pl.DataFrame,
    attempt_root: str,
    path: str,
    role: str,
    buckets: tuple[int, int] | None = None,
    layout: Layout = "example",
    gzip: bool = False,
) -> FileEntry:
    """Writes a table as a TFRecord file and describes the file as it can be read back.

    Args:
      table: what to write.
      attempt_root: the attempt's folder.
      path: relative to it.
      role: see `FileEntry`.
      buckets: inclusive range of user buckets in the table.
      layout: what a record is.
      gzip: whether to compress.

    Raises:
      ValueError: as `encode_records`.
      DataRefusedError: if the file does not hold the records that were written.
    """
    blocks = file_blocks(table, layout, gzip)
    return _write(blocks, table.height, attempt_root, path, role, buckets, gzip)


def write_records(
    records: Sequence[bytes],
    attempt_root: str,
    path: str,
    role: str,
    buckets: tuple[int, int] | None = None,
    gzip: bool = False,
) -> FileEntry:
    """Writes records as they are; arguments, result and errors as of `write_tfrecord`. Records of
    a file give the bytes of that file."""
    starts = range(0, len(records), _BLOCK_RECORDS)
    parts = (pa.array(records[start : start + _BLOCK_RECORDS], _TEXT) for start in starts)
    blocks = _compressed((memoryview(_framed(part)) for part in parts), gzip)
    return _write(blocks, len(records), attempt_root, path, role, buckets, gzip)


def _write(
    blocks: Iterator[memoryview | bytes],
    height: int,
    attempt_root: str,
    path: str,
    role: str,
    buckets: tuple[int, int] | None,
    gzip: bool,
) -> FileEntry:
    full_path = storage.join(attempt_root, path)
    with storage.writing(full_path) as stream:
        for block in blocks:
            stream.write(block)
    with storage.open_read(full_path) as stream:
        whole = _Hashing(stream)
        try:
            rows = sum(1 for _ in _walk(whole, gzip))
        except DataRefusedError as error:
            raise DataRefusedError(f"{full_path}: {error}") from None
    if rows != height:
        raise DataRefusedError(f"{full_path}: wrote {height} rows, read back {rows}")
    first, last = buckets or (None, None)
    return FileEntry(
        path=path,
        role=role,
        format="tfrecord",
        rows=rows,
        bytes=whole.size,
        sha256=whole.digest.hexdigest(),
        first_bucket=first,
        last_bucket=last,
    )


def file_blocks(table: pl.DataFrame, layout: Layout, gzip: bool) -> Iterator[memoryview | bytes]:
    """The bytes of a table's file, in blocks of some megabytes.

    The next block is encoded while the caller writes this one.
    """
    blocks = (memoryview(_framed(records)) for records in _ahead(encode_records(table, layout)))
    return _compressed(blocks, gzip)


def _compressed(blocks: Iterator[memoryview], gzip: bool) -> Iterator[memoryview | bytes]:
    if not gzip:
        yield from blocks
        return
    compressor = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW)
    for block in blocks:
        yield compressor.compress(block)
    yield compressor.flush()


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items, none of them None; another thread makes the next one while one is used."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def encode_records(table: pl.DataFrame, layout: Layout) -> Iterator[pa.LargeBinaryArray]:
    """The records of a table's rows, in order and without framing, in blocks of some megabytes.

    A record depends on its row alone, not on where a block ends.

    Raises:
      ValueError: naming the column, if its type has no place in a feature or if a null stands in a
        list of integers.
    """
    if table.is_empty():
        return
    row_bytes = int(table.estimated_size()) // table.height + _CELL_BYTES * table.width
    for chunk in table.iter_slices(max(1, _CHUNK_BYTES // row_bytes)):
        yield from _encode_chunk(chunk, layout)


def read_records(source: bytes | BinaryIO, gzip: bool = False) -> Iterator[bytes]:
    """The records of a TFRecord file, each checked against both of its checksums.

    What a header claims is not allocated: memory follows the bytes that are there.

    Raises:
      DataRefusedError: at the first record that is damaged or cut, saying which. A file that ends
        between two records is whole, unless it is compressed.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    for row, (data, start, end) in enumerate(_walk(stream, gzip)):
        record = data[start:end]
        if _masked(google_crc32c.value(record)) != _CHECKSUM.unpack_from(data, end)[0]:
            raise DataRefusedError(f"record {row}: its bytes do not fit their checksum")
        yield record


def texts_of(record: bytes, name: str) -> list[bytes]:
    """The texts of one feature of an Example or SequenceExample, of all its steps if it has some;
    empty where it is absent.

    Raises:
      DataRefusedError: if the record is no such message.
    """
    key = name.encode()
    found = []
    for group, start, end in _fields(record, 0, len(record)):  # features or context; feature_lists
        for _, first, last in _fields(record, start, end):
            parts = dict.fromkeys((1, 2), (first, first))
            parts |= {tag: (a, b) for tag, a, b in _fields(record, first, last)}
            if record[slice(*parts[1])] != key:
                continue
            features = [parts[2]]
            if group == 2:
                features = [(a, b) for _, a, b in _fields(record, *parts[2])]
            for a, b in features:
                for kind, c, d in _fields(record, a, b):
                    if kind == 1:
                        found += [record[e:f] for _, e, f in _fields(record, c, d)]
    return found


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each field of a message of texts and messages only."""
    at = start
    while at < end:
        tag = data[at]
        size, shift, at = 0, 0, at + 1
        while at < end:
            byte = data[at]
            size |= (byte & 127) << shift
            shift, at = shift + 7, at + 1
            if byte < 128:
                break
        if tag & 7 != 2 or tag > 127 or at + size > end:
            raise DataRefusedError("a record is no tf.train.Example")
        yield tag >> 3, at, at + size
        at += size


def text_needle(text: bytes) -> bytes:
    """What the bytes of a file that is not compressed hold wherever this text is a value."""
    return _VALUE + _varint(len(text)) + text


def plain_bytes(data: bytes, gzip: bool) -> bytes:
    """A file's bytes, decompressed."""
    return b"".join(_inflated(iter([data]))) if gzip else data


class _Hashing:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest, self.size = hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        self.size += len(data)
        return data


def _walk(stream: BinaryIO | _Hashing, gzip: bool) -> Iterator[tuple[bytes, int, int]]:
    """Where each record lies in what is read: (bytes, start, end); its checksum follows there.

    The checksums of lengths are checked, those of records are not.
    """
    parts = iter(functools.partial(stream.read, _READ_BYTES), b"")
    if gzip:
        parts = _inflated(parts)
    data, at, row = b"", 0, 0  # data[at:] is read and not yet walked over
    while True:
        if len(data) - at < _HEAD_BYTES:
            data, at = _read_on(parts, data[at:], _HEAD_BYTES, row), 0
            if not data:
                return
        length = _claimed_length(data[at : at + _HEAD_BYTES])
        if length is None:
            raise DataRefusedError(f"record {row}: has no valid length")
        size = _HEAD_BYTES + length + _CHECKSUM.size
        if at + size > len(data):
            data, at = _read_on(parts, data[at:], size, row), 0
        yield data, at + _HEAD_BYTES, at + _HEAD_BYTES + length
        at, row = at + size, row + 1


def _inflated(parts: Iterator[bytes]) -> Iterator[bytes]:
    """What one gzip member holds, in parts that are no larger than those of a plain file."""
    inflater = zlib.decompressobj(wbits=_GZIP_WINDOW)
    while not inflater.eof:
        part = inflater.unconsumed_tail or next(parts, b"")
        if not part:
            raise DataRefusedError("is cut: its compressed data has no end")
        try:
            plain = inflater.decompress(part, _READ_BYTES)
        except zlib.error as error:
            raise DataRefusedError(f"cannot be decompressed: {error}") from None
        if plain:
            yield plain
    if inflater.unused_data or next(parts, b""):
        raise DataRefusedError("has bytes after the end of its compressed data")


def _read_on(parts: Iterator[bytes], data: bytes, wanted: int, row: int) -> bytes:
    """`data` and what follows it, `wanted` bytes or more; no bytes at the end of the file."""
    found, have = [data], len(data)
    while have < wanted:
        part = next(parts, b"")
        if not part and not have:
            return b""
        if not part:
            raise DataRefusedError(f"record {row}: is cut: {have} of {wanted} bytes are there")
        found.append(part)
        have += len(part)
    return b"".join(found)


@functools.lru_cache(maxsize=1024)  # lengths repeat
def _claimed_length(head: bytes) -> int | None:
    """The length in a record's header; None if it fails its checksum or no record has as many."""
    (length,) = _LENGTH.unpack_from(head)
    (checksum,) = _CHECKSUM.unpack_from(head, _LENGTH.size)
    intact = _masked(google_crc32c.value(head[: _LENGTH.size])) == checksum
    return length if intact and length <= _LARGEST_RECORD else None


def _masked(checksum: int) -> int:
    """What TFRecord stores of a CRC-32C."""
    return ((checksum >> 15 | checksum << 17) + _MASK) & 0xFFFFFFFF


def _framed(records: pa.LargeBinaryArray) -> pa.Buffer:
    """Records as a file has them: length, its checksum, bytes, their checksum."""
    offsets, checksum = _offsets(records), google_crc32c.value
    data = records.buffers()[2].to_pybytes()  # google_crc32c takes no views
    bounds = itertools.pairwise(offsets.tolist())
    sums = np.fromiter((checksum(data[a:b]) for a, b in bounds), np.uint32, len(records))
    feet = (sums >> np.uint32(15) | sums << np.uint32(17)) + np.uint32(_MASK)
    distinct, codes = _distinct(np.diff(offsets))
    lengths = [_LENGTH.pack(length) for length in distinct.tolist()]
    heads = [length + _CHECKSUM.pack(_masked(checksum(length))) for length in lengths]
    framed = pc.binary_join_element_wise(
        _taken(pa.array(heads, _TEXT), codes), records, _even(feet.astype("<u4")), _NO_BYTES
    )
    return framed.buffers()[2]


@dataclasses.dataclass(frozen=True)
class _Cells:
    """What a column adds to each record: `texts[codes[i]]` to that of row i."""

    texts: pa.LargeBinaryArray
    codes: npt.NDArray[np.int32]

    def sizes(self) -> IntArray:
        """Bytes in each row."""
        return np.diff(_offsets(self.texts))[self.codes]


def _encode_chunk(table: pl.DataFrame, layout: Layout) -> Iterator[pa.LargeBinaryArray]:
    columns = [table[name] for name in sorted(table.columns, key=str.encode)]
    groups = {_FIELD_1: columns}  # Example.features
    if layout == "sequence_example":
        groups = {_FIELD_1: [], _FIELD_2: []}  # context, feature_lists
        for column in columns:
            groups[_FIELD_2 if isinstance(column.dtype, pl.List) else _FIELD_1].append(column)
    parts: list[_Cells] = []
    total = 0
    for tag, group in groups.items():
        cells = [_encode_column(column, layout) for column in group]
        sizes = sum((each.sizes() for each in cells), np.zeros(table.height, np.int64))
        parts += [_openings(sizes, (tag,)), *cells]
        total += int(sizes.sum())

    texts = pa.concat_arrays([each.texts for each in parts])
    codes = np.empty((table.height, len(parts)), np.int32)
    first = 0
    for i, each in enumerate(parts):
        np.add(each.codes, first, out=codes[:, i])
        first += len(each.texts)
    rows = max(1, _BLOCK_BYTES * table.height // max(1, total))
    for start in range(0, table.height, rows):
        block = _taken(texts, codes[start : start + rows].reshape(-1))
        yield _ragged(block.buffers()[2], _offsets(block)[:: len(parts)])


def _encode_column(column: pl.Series, layout: Layout) -> _Cells:
    """A column as entries of the map it belongs to, no bytes where it is null."""
    key = column.name.encode()
    entry = (_FIELD_1, _FIELD_1 + _varint(len(key)) + key + _FIELD_2)
    codes = np.arange(len(column), dtype=np.int32)
    if isinstance(column.dtype, pl.List):
        present = column.is_not_null().to_numpy()
        counts = column.list.len().fill_null(0).to_numpy().astype(np.int64)
        items = column.explode(empty_as_null=False, keep_nulls=False)
        kind, values = _wire_values(_without_nulls(items))
        if layout == "sequence_example":
            bodies = _grouped(_encode_items(kind, values, (_FIELD_1, kind, _VALUE)), counts)
            return _Cells(_wrapped(bodies, entry, present), codes)
        if kind == _BYTES_LIST:
            bodies = _grouped(_encode_items(kind, values, (_VALUE,)), counts)
            return _Cells(_wrapped(bodies, (*entry, kind), present), codes)
        bodies = _grouped(_encode_items(kind, values, ()), counts)
        return _Cells(_wrapped(bodies, (*entry, kind, _VALUE), present, packed=True), codes)

    kind, values = _wire_values(column)
    if 2 * len(values[:_SAMPLE_ROWS].unique()) <= _SAMPLE_ROWS:
        encoded = values.dictionary_encode(null_encoding="encode")
        values, codes = encoded.dictionary, encoded.indices.to_numpy()
    bodies = _encode_values(kind, values.drop_null())
    present = values.is_valid().to_numpy(zero_copy_only=False)
    bodies = _grouped(bodies, present.astype(np.int64))
    return _Cells(_wrapped(bodies, (*entry, kind, _VALUE), present), codes)


def _encode_items(kind: bytes, values: pa.Array, nesting: Sequence[bytes]) -> pa.LargeBinaryArray:
    """Each item of a list column, by itself in messages of this nesting."""
    parts = []
    for start in range(0, max(1, len(values)), _PART_ITEMS):
        bodies = _encode_values(kind, values[start : start + _PART_ITEMS])
        parts.append(_wrapped(bodies, nesting) if nesting else bodies)
    return pa.concat_arrays(parts)


def _without_nulls(items: pl.Series) -> pl.Series:
    if not items.null_count():
        return items
    if items.dtype.is_float():
        return items.fill_null(float("nan"))
    if items.dtype == pl.String:
        return items.fill_null("")
    raise ValueError(
        f"column {items.name}: a list holds a null where TFRecord needs a value of {items.dtype}; "
        "fill it with a value that means unknown"
    )


def _wire_values(column: pl.Series) -> tuple[bytes, pa.Array]:
    """The list of a Feature that values go to, and their form there: texts, integers, or the bits
    of floats as integers, so that -0.0 is not 0.0 and each NaN itself when they are compared."""
    dtype = column.dtype
    if dtype == pl.String:
        return _BYTES_LIST, column.to_arrow(compat_level=_OFFSETS_AND_BYTES).cast(_TEXT)
    if dtype in (pl.Float32, pl.Float64):
        return _FLOAT_LIST, column.cast(pl.Float32).to_arrow().view(pa.uint32())
    if dtype == pl.Boolean:
        column = column.cast(pl.UInt8)
    elif dtype == pl.Date or (isinstance(dtype, pl.Datetime) and dtype.time_unit == "us"):
        column = column.to_physical()
    elif dtype not in _INTEGERS:
        raise ValueError(
            f"column {column.name}: a TFRecord feature holds texts, numbers, booleans, dates and "
            f"microseconds or lists of these, got {dtype}"
        )
    return _INT64_LIST, column.to_arrow()


def _encode_values(kind: bytes, values: pa.Array) -> pa.LargeBinaryArray:
    """Each value of `_wire_values`, without nulls, as the bytes that stand for it."""
    if kind == _BYTES_LIST:
        return values
    numbers = values.to_numpy()
    if kind == _FLOAT_LIST:
        return _even(numbers.astype("<u4"))
    if numbers.dtype != np.uint64:
        numbers = numbers.astype(np.int64).view(np.uint64)
    return _varints(numbers)


def _varint(number: int) -> bytes:
    groups = [number >> shift & 127 for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


# Spreads the low 56 bits of a word over its 8 bytes by halves: (stays, moves up, by so many bits).
_SPREAD = (
    (0x000000000FFFFFFF, 0x00FFFFFFF0000000, 4),
    (0x00003FFF00003FFF, 0x0FFFC0000FFFC000, 2),
    (0x007F007F007F007F, 0x3F803F803F803F80, 1),
)
# By the number of bytes of a varint, in two words: which bytes there are, as booleans, and the top
# bit of those that another one follows.
_KEPT = (np.arange(16) < np.arange(11)[:, None]).view("<u8")
_FOLLOWED = np.where(np.arange(1, 17) < np.arange(11)[:, None], 128, 0).astype("u1").view("<u8")


def _varints(numbers: npt.NDArray[np.uint64]) -> pa.LargeBinaryArray:
    """Base 128 varints: 7 bits a byte, the lowest first, the top bit set in all but the last."""
    top = int(numbers.max(initial=0))
    if top < 128:
        return _even(numbers.astype(np.uint8))
    lengths = np.ones(len(numbers), np.int64)
    for bits in range(7, top.bit_length(), 7):
        lengths += numbers >= np.uint64(1 << bits)
    words = 1 if top < 1 << 56 else 2
    spread = np.empty((len(numbers), words), "<u8")
    for i, word in enumerate((numbers, numbers >> np.uint64(56))[:words]):
        for stays, moves, by in _SPREAD:
            word = (word & np.uint64(stays)) | ((word & np.uint64(moves)) << np.uint64(by))
        spread[:, i] = word
    spread |= _FOLLOWED[:, :words].take(lengths, axis=0)
    kept = _KEPT[:, :words].take(lengths, axis=0).view(np.bool_)
    return _ragged(np.compress(kept.reshape(-1), spread.view(np.uint8)), _ends(lengths))


def _openings(
    sizes: IntArray,
    nesting: Sequence[bytes],
    present: BoolArray | None = None,
    packed: bool = False,
) -> _Cells:
    """What opens nested messages, outermost first, around contents of these sizes in bytes.

    Each of `nesting` is what stands before the length of a message. No bytes where not present. The
    innermost is a packed field, if `packed`, which is left out if there is nothing in it.
    """
    distinct, codes = _distinct(sizes if present is None else np.where(present, sizes, -1))
    texts = []
    for size in distinct.tolist():
        text = b""
        for tag in reversed(nesting[:-1] if packed and size == 0 else nesting):
            text = tag + _varint(len(text) + size) + text
        texts.append(text if size >= 0 else b"")
    return _Cells(pa.array(texts, _TEXT), codes)


def _wrapped(
    bodies: pa.LargeBinaryArray,
    nesting: Sequence[bytes],
    present: BoolArray | None = None,
    packed: bool = False,
) -> pa.LargeBinaryArray:
    """Each body in its `_openings`."""
    sizes = np.diff(_offsets(bodies))
    opening = _openings(sizes, nesting, present, packed)
    if len(opening.texts) == 1 and sizes[0]:
        # Equal sizes, as of ids, instants and floats: a tenth of the time of the join below.
        head, size, first = opening.texts[0].as_py(), int(sizes[0]), int(_offsets(bodies)[0])
        form = np.dtype([("head", f"V{len(head)}"), ("body", f"V{size}")])
        whole = np.frombuffer(bytearray((head + bytes(size)) * len(sizes)), form)
        whole["body"] = np.frombuffer(bodies.buffers()[2], form["body"], len(sizes), first)
        return _even(whole)
    return pc.binary_join_element_wise(_taken(opening.texts, opening.codes), bodies, _NO_BYTES)


def _grouped(items: pa.LargeBinaryArray, counts: IntArray) -> pa.LargeBinaryArray:
    """The first `counts[0]` items as one text, the next `counts[1]` as another, ..."""
    return _ragged(items.buffers()[2], _offsets(items)[_ends(counts)])


def _distinct(numbers: IntArray) -> tuple[IntArray, npt.NDArray[np.int32]]:
    """The distinct ones of numbers from -1 up, sorted, and the position there of each."""
    seen = np.zeros(int(numbers.max(initial=-1)) + 2, np.bool_)
    seen[numbers + 1] = True
    codes = np.cumsum(seen, dtype=np.int32) - 1
    return np.flatnonzero(seen) - 1, codes[numbers + 1]


def _ends(counts: IntArray) -> IntArray:
    """0 and the running sums of counts."""
    return np.concatenate(([0], np.cumsum(counts)))


def _offsets(texts: pa.LargeBinaryArray) -> IntArray:
    """Where each text begins, and where the last one ends."""
    return np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, 8 * texts.offset)


def _ragged(data: Any, offsets: IntArray) -> pa.LargeBinaryArray:
    """Texts from where they begin in `data`; `offsets` has one more, where the last one ends."""
    data = b"" if data is None else data
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(data)]
    return pa.Array.from_buffers(_TEXT, len(offsets) - 1, buffers)


def _even(rows: npt.NDArray[Any]) -> pa.LargeBinaryArray:
    """Texts of equal size: the bytes of each row of an array."""
    width = rows.itemsize * math.prod(rows.shape[1:])
    return _ragged(rows.reshape(-1), np.arange(len(rows) + 1) * width)


def _taken(texts: pa.LargeBinaryArray, codes: npt.NDArray[np.int32]) -> pa.LargeBinaryArray:
    return pc.take(texts, pa.array(codes), boundscheck=False)
