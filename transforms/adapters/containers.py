"""The containers of raw logs, read into `RawTable`s in bounded memory.

Parquet, Avro, JSON lines, a JSON array, and delimited text. What holds for all of them:

* A table has at most `TABLE_ROWS` records (rows and rejects together) and about
  `TABLE_BYTES`; OFFSET is the 0-based number of the record in its file.
* A record that cannot be read is a reject with a reason; the records around it are unharmed.
* A file that cannot be trusted to its end raises `InputFileError`: truncated, damaged, not of the
  stated format, or expanding beyond the caps below. Messages never hold what is in a record.
* A text file of 0 bytes has no records. A 0-byte Parquet, Avro, .gz or .zst file is a truncated
  one, and raises.
* Reject reasons: `line_too_long`, `bad_utf8`, `bad_json`, `bad_<column>`, `column_count`,
  `bad_quotes`.

What cannot be noticed: a .gz or .zst cut exactly between two members, a change of bytes that a
container without a checksum (plain text, Avro's null codec) still decodes.
"""

from __future__ import annotations

import bz2
import csv
import dataclasses
import io
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeVar

import fastavro
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from polars.datatypes import DataTypeClass

from transforms.adapters.base import OFFSET, REJECT_REASON, TABLE_ROWS, InputFile, RawTable
from transforms.errors import InputFileError, PlayheadError

# A table is closed when it holds this much, however few its rows.
TABLE_BYTES = 64 << 20
# Records that exist as Python objects at one time.
BATCH_ROWS = 16_384

MAX_LINE_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 512 << 20

# A compressed text may expand 200 times beyond its first 64 MiB, to 256 GiB at most. Listening
# logs compress 5 to 30 times.
MAX_TEXT_BYTES = 256 << 30
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 << 20

# Avro: writers use blocks of 16 KiB to 16 MiB.
MAX_BLOCK_BYTES = 64 << 20
_DOCUMENT_BYTES = 8 << 20  # what is decoded at a time, unless one block is larger
_MAX_FLAT_ROWS = 1 << 20  # a forged block of tiny records is decoded a few at a time
MAX_SCHEMA_DEPTH = 16
MAX_SCHEMA_FIELDS = 512

# Parquet: a footer that claims more rows than this is forged. A log's times and ids take more than
# a hundredth of a bit each however well they are packed.
FREE_ROWS = 1_000_000
MAX_ROWS_PER_BYTE = 1_000

_COPY_AGAIN = "copy it again from its source"
_READ_BYTES = 1 << 20

ItemT = TypeVar("ItemT")


class Column(NamedTuple):
    """A column to read: its name in the table, its dotted path in the record, its type."""

    name: str
    path: str
    dtype: pl.DataType


# --- tables ---------------------------------------------------------------------------------------


def _rejects(offsets: Sequence[int], reasons: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {OFFSET: offsets, REJECT_REASON: reasons},
        schema={OFFSET: pl.Int64, REJECT_REASON: pl.String},
    )


def _gather(parts: Iterable[RawTable]) -> Iterator[RawTable]:
    """Joins parts of at most BATCH_ROWS records to tables of at most TABLE_ROWS."""
    held: list[RawTable] = []
    records = size = 0

    def table() -> RawTable:
        return RawTable(
            pl.concat([part.rows for part in held], rechunk=True),
            pl.concat([part.rejects for part in held], rechunk=True),
        )

    for part in parts:
        count = part.rows.height + part.rejects.height
        if held and (records + count > TABLE_ROWS or size > TABLE_BYTES):
            yield table()
            held, records, size = [], 0, 0
        if count:
            held.append(part)
            records += count
            size += int(part.rows.estimated_size())
    if held:
        yield table()


def _text(value: Any) -> str:
    kind: type = type(value)
    if kind is str:
        value.encode()  # raises for a lone surrogate
        return str(value)
    if kind is bytes:
        return bytes(value).decode()
    if kind is int:
        return str(value)
    # Above 2^53 a double no longer is the number that was written: two ids could become one.
    if kind is float and abs(value) < 2**53:
        return repr(value)
    raise ValueError


def _integer(value: Any) -> int:
    kind: type = type(value)
    if kind is int and -(2**63) <= value < 2**63:
        return int(value)
    if kind is float and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    raise ValueError


def _floating(value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    raise ValueError


def _boolean(value: Any) -> bool:
    if type(value) is bool:
        return bool(value)
    raise ValueError


# Polars type -> (Python types it takes as they are, conversion of one value of another type).
_SCALARS: dict[pl.DataType, tuple[set[type], Callable[[Any], Any]]] = {
    pl.String(): ({str}, _text),
    pl.Int64(): ({int}, _integer),
    pl.Float64(): ({int, float}, _floating),
    pl.Boolean(): ({bool}, _boolean),
}


def _list_of(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def convert_list(value: Any) -> list[Any]:
        if type(value) is not list:
            raise ValueError
        return [None if item is None else convert(item) for item in value]

    return convert_list


def _series(column: Column, values: list[Any], bad: dict[int, str]) -> pl.Series:
    """The column; a value that does not fit becomes null and its row is entered in `bad`."""
    dtype = column.dtype
    if isinstance(dtype, pl.List):
        plain, convert = set[type](), _list_of(_SCALARS[_instance(dtype.inner)][1])
    else:
        plain, convert = _SCALARS[dtype]
    if set(map(type, values)) <= plain | {type(None)}:
        try:
            return pl.Series(column.name, values, dtype=dtype, strict=True)
        except (TypeError, OverflowError, UnicodeError):
            pass  # an integer beyond 64 bits, or a lone surrogate: find the row
    for row, value in enumerate(values):
        if value is None:
            continue
        try:
            values[row] = convert(value)
        except UnicodeError:
            values[row] = None
            bad.setdefault(row, "bad_utf8")
        except ValueError:
            values[row] = None
            bad.setdefault(row, f"bad_{column.path}")
    return pl.Series(column.name, values, dtype=dtype, strict=True)


def _columnar(
    records: list[dict[str, Any]],
    offsets: Sequence[int],
    columns: Sequence[Column],
    refused: Mapping[int, str] | None = None,
) -> RawTable:
    """Rows of `records`, typed; `refused` (offset -> reason) joins the rejects."""
    bad: dict[int, str] = {}
    parents: dict[str, list[dict[str, Any]]] = {"": records}

    def inside(path: str) -> list[dict[str, Any]]:
        if path not in parents:
            head, _, leaf = path.rpartition(".")
            found = [record.get(leaf) for record in inside(head)]
            for row, value in enumerate(found):
                if type(value) is not dict:
                    if value is not None:
                        bad.setdefault(row, f"bad_{path}")
                    found[row] = {}
            parents[path] = found  # type: ignore[assignment]
        return parents[path]

    series = [pl.Series(OFFSET, offsets, dtype=pl.Int64)]
    for column in columns:
        head, _, leaf = column.path.rpartition(".")
        series.append(_series(column, [record.get(leaf) for record in inside(head)], bad))
    rows = pl.DataFrame(series)
    failed = dict(refused or {})
    if bad:
        rows = rows.filter(pl.Series([row not in bad for row in range(len(records))]))
        failed |= {offsets[row]: reason for row, reason in bad.items()}
    found = sorted(failed.items())
    return RawTable(rows, _rejects([at for at, _ in found], [reason for _, reason in found]))


def _guarded(path: str, items: Iterable[ItemT], problem: str) -> Iterator[ItemT]:
    """`items`, with whatever a decoder raises on damaged bytes turned into `InputFileError`."""
    iterator = iter(items)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except PlayheadError:
            raise
        except Exception as error:  # decoders answer damage with any exception there is
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the storage failed, not the format: the caller may try again
            raise InputFileError(path, problem) from None
        yield item


# --- text: compression and lines ------------------------------------------------------------------


class _ChunkStream(io.RawIOBase):
    """A readable stream of the bytes that a generator gives."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        if not self.closed and hasattr(self._chunks, "close"):
            self._chunks.close()
        super().close()


class _Codec(NamedTuple):
    name: str
    suffixes: tuple[str, ...]
    magic: bytes
    new: Callable[[], Any]  # an object with decompress(bytes), eof, unused_data
    feed: int  # compressed bytes a call: so small that what one call can give is bounded


_CODECS = (
    _Codec("gzip", (".gz", ".gzip"), b"\x1f\x8b", lambda: zlib.decompressobj(31), 16 << 10),
    _Codec(
        "Zstandard",
        (".zst", ".zstd"),
        b"\x28\xb5\x2f\xfd",
        # A window of 128 MiB is the most that `zstd` itself accepts unasked.
        lambda: zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj(),
        2 << 10,
    ),
)


def _decompressed(path: str, raw: BinaryIO, codec: _Codec) -> Iterator[bytes]:
    taken = given = 0
    decoder = None
    with raw:
        while chunk := raw.read(codec.feed):
            taken += len(chunk)
            while chunk:
                decoder = decoder or codec.new()
                try:
                    out = decoder.decompress(chunk)
                except (zlib.error, zstandard.ZstdError, MemoryError):
                    raise InputFileError(
                        path,
                        f"damaged {codec.name} data, or bytes after its end, near byte {taken}; "
                        + _COPY_AGAIN,
                    ) from None
                given += len(out)
                if given > MAX_TEXT_BYTES or given > max(RATIO_FREE_BYTES, MAX_RATIO * taken):
                    raise InputFileError(
                        path,
                        f"expands from {taken} to more than {given} bytes, which no log does; "
                        "check where it came from",
                    )
                if out:
                    yield out
                chunk = b""
                if decoder.eof:  # the next member or frame starts in what is left
                    chunk, decoder = decoder.unused_data, None
    if decoder is not None or not taken:
        raise InputFileError(path, f"truncated {codec.name} data; {_COPY_AGAIN}")


def open_text(file: InputFile) -> BinaryIO:
    """The bytes of a text file, decompressed by the suffix .gz, .gzip, .zst, .zstd, else as is.

    Several gzip members or Zstandard frames in a row are one text.

    Raises:
      InputFileError: when opened, for compressed data under another suffix; while reading, for
        truncated or damaged data, bytes after its end, or expansion beyond MAX_RATIO.
    """
    raw = file.open()
    for codec in _CODECS:
        if file.path.lower().endswith(codec.suffixes):
            chunks = _decompressed(file.path, raw, codec)
            return io.BufferedReader(_ChunkStream(chunks), _READ_BYTES)
    start = raw.read(4)
    raw.seek(0)
    for codec in _CODECS:
        if start.startswith(codec.magic):
            raw.close()
            raise InputFileError(
                file.path, f"is {codec.name} data; rename it to end in {codec.suffixes[0]}"
            )
    return raw


def _without_bom(data: bytes) -> bytes:
    return data.removeprefix(b"\xef\xbb\xbf")


def _line_batches(stream: BinaryIO) -> Iterator[tuple[int, list[bytes | None]]]:
    """Batches of at most BATCH_ROWS lines without their line feed, with the number of the first.

    None stands for a line of more than MAX_LINE_BYTES, which is never held whole.
    """
    number = 0
    tail = b""
    overlong = False  # the line that `tail` continues is already too long
    first = True
    while chunk := stream.read(_READ_BYTES):
        lines: list[bytes | None] = [*(tail + chunk).split(b"\n")]
        if first:
            lines[0] = _without_bom(lines[0] or b"")
            first = False
        tail = lines.pop() or b""
        if lines and overlong:
            lines[0], overlong = None, False
        if len(tail) > MAX_LINE_BYTES:
            overlong = True
        if overlong:
            tail = b""
        lines = [None if line is None or len(line) > MAX_LINE_BYTES else line for line in lines]
        for at in range(0, len(lines), BATCH_ROWS):
            batch = lines[at : at + BATCH_ROWS]
            yield number, batch
            number += len(batch)
    if overlong or tail:
        yield number, [None if overlong else tail]


# --- JSON -----------------------------------------------------------------------------------------


def _columns(schema: Mapping[str, pl.DataType]) -> list[Column]:
    """Dotted paths as columns; Int32 is read as Int64, for `conform` checks the range."""
    return [
        Column(path, path, pl.Int64() if dtype == pl.Int32 else _instance(dtype))
        for path, dtype in schema.items()
    ]


def _instance(dtype: pl.DataType | DataTypeClass) -> pl.DataType:
    return dtype() if isinstance(dtype, type) else dtype


def _json_table(number: int, lines: list[bytes | None], columns: Sequence[Column]) -> RawTable:
    try:
        records = list(map(orjson.loads, lines))  # type: ignore[arg-type]
        if set(map(type, records)) <= {dict}:
            return _columnar(records, range(number, number + len(records)), columns)
    except orjson.JSONDecodeError:
        pass  # some line is bad or blank: find it
    records, offsets, refused = [], [], {}
    for offset, line in enumerate(lines, start=number):
        if line is None:
            refused[offset] = "line_too_long"
        elif line.strip():
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                record = None
            if type(record) is dict:
                records.append(record)
                offsets.append(offset)
            else:
                refused[offset] = "bad_json" if _is_utf8(line) else "bad_utf8"
    return _columnar(records, offsets, columns, refused)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded(raw: pl.Series) -> pl.Series:
    """Bytes as text; null where they are not UTF-8."""
    try:
        return raw.cast(pl.String)
    except pl.exceptions.ComputeError:  # also with strict=False: find the values ourselves
        good = [None if data is None or not _is_utf8(data) else data.decode() for data in raw]
        return pl.Series(raw.name, good, dtype=pl.String)


def read_json_lines(file: InputFile, schema: Mapping[str, pl.DataType]) -> Iterator[RawTable]:
    """One JSON object a line; .gz and .zst are decompressed.

    Blank lines are skipped (and counted by OFFSET, the 0-based line number). CRLF, a byte order
    mark at the start, and a last line without line feed are fine. Members that `schema` does not
    name are ignored. Of a repeated key the last one counts.

    Args:
      file: the file.
      schema: dotted path ("track_metadata.additional_info.duration_ms") to type. A key that itself
        contains a dot cannot be reached. What a type takes, apart from null and absence:

        | Type          | JSON values                                                            |
        |---------------|------------------------------------------------------------------------|
        | String        | a string; a number as its decimal text (below 2^53 if not a 64-bit int) |
        | Int64, Int32  | a number of 64 bits without fraction (180000.0 is 180000); exact        |
        | Float64       | a number                                                               |
        | Boolean       | true, false                                                            |
        | List(scalar)  | an array of such values or nulls                                       |

    Yields:
      Columns OFFSET and those of `schema`, all nullable; Int32 comes as Int64.
      Rejects: `line_too_long` (more than 1 MiB), `bad_utf8`, `bad_json` (NaN and infinities, lone
      surrogates, over 1024 levels, numbers that overflow a double, anything but one object),
      `bad_<path>` where a value does not fit the type, or a part of the path is not an object.

    Raises:
      InputFileError: see `open_text`.
    """
    columns = _columns(schema)
    with open_text(file) as stream:
        yield from _gather(
            _json_table(number, lines, columns) for number, lines in _line_batches(stream)
        )


def read_json_array(file: InputFile, schema: Mapping[str, pl.DataType]) -> Iterator[RawTable]:
    """One JSON document that is an array of objects; .gz and .zst are decompressed.

    The document is held whole: about 8 times its size in memory.

    Args:
      file: the file.
      schema: as in `read_json_lines`.

    Yields:
      As `read_json_lines`; OFFSET is the index of the element. An element that is not an object is
      a reject `bad_json`.

    Raises:
      InputFileError: see `open_text`; a document that is not a JSON array, is truncated, or is
        larger than MAX_DOCUMENT_BYTES.
    """
    columns = _columns(schema)
    with open_text(file) as stream:
        document = _without_bom(stream.read(MAX_DOCUMENT_BYTES + 1))
    if not document:
        return
    if len(document) > MAX_DOCUMENT_BYTES:
        raise InputFileError(
            file.path, f"one JSON document of more than {MAX_DOCUMENT_BYTES >> 20} MiB; split it"
        )
    try:
        elements = orjson.loads(document)
    except orjson.JSONDecodeError:
        raise InputFileError(
            file.path, f"truncated, or not a valid JSON document; {_COPY_AGAIN}"
        ) from None
    del document
    if type(elements) is not list:
        raise InputFileError(file.path, "expected a JSON array of objects, got another JSON value")

    def parts() -> Iterator[RawTable]:
        for start in range(0, len(elements), BATCH_ROWS):
            batch = list(enumerate(elements[start : start + BATCH_ROWS], start=start))
            yield _columnar(
                [element for _, element in batch if type(element) is dict],
                [offset for offset, element in batch if type(element) is dict],
                columns,
                {offset: "bad_json" for offset, element in batch if type(element) is not dict},
            )

    yield from _gather(parts())


# --- delimited text -------------------------------------------------------------------------------


def _split_quoted(line: str, separator: str) -> list[str] | None:
    try:
        return next(csv.reader([line], delimiter=separator, strict=True))
    except (csv.Error, StopIteration):
        return None


def _header(
    path: str, line: bytes | None, columns: Sequence[str], separator: str, quoted: bool
) -> tuple[int, dict[str, int]]:
    """Number of columns, and where each of `columns` stands."""
    try:
        text = (line or b"").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise InputFileError(path, "the header line is not UTF-8 text") from None
    names = (_split_quoted(text, separator) or []) if quoted else text.split(separator)
    for column in columns:
        if names.count(column) != 1:
            how = "has no column" if column not in names else "names more than once the column"
            raise InputFileError(path, f"the header {how} {column!r}")
    return len(names), {column: names.index(column) for column in columns}


def _delimited_table(
    number: int,
    lines: list[bytes | None],
    where: Mapping[str, int],
    width: int,
    separator: str,
    quoted: bool,
) -> RawTable:
    raw = pl.Series("raw", lines, dtype=pl.Binary)
    text, count, fields = pl.col("text"), pl.col("count"), pl.col("fields")
    frame = (
        pl.DataFrame({OFFSET: range(number, number + len(lines)), "raw": raw})
        .with_columns(text=_decoded(raw).str.strip_suffix("\r"))
        .filter(text.is_null() | (text != ""))
        .with_columns(count=text.str.count_matches(separator, literal=True).cast(pl.Int64) + 1)
    )
    is_quoted = text.str.contains('"', literal=True).fill_null(False) if quoted else pl.lit(False)
    reason = (
        pl.when(pl.col("raw").is_null())
        .then(pl.lit("line_too_long"))
        .when(text.is_null())
        .then(pl.lit("bad_utf8"))
        .when(~is_quoted & (count != width))
        .then(pl.lit("column_count"))
    )
    frame = frame.with_columns(reason.alias(REJECT_REASON), is_quoted=is_quoted)
    good = pl.col(REJECT_REASON).is_null()
    rejects = [frame.filter(~good).select(OFFSET, REJECT_REASON)]
    plain = frame.filter(good & ~pl.col("is_quoted"))
    if width == 1:
        split = plain.select(OFFSET, *(text.alias(name) for name in where))
    else:
        split = plain.select(OFFSET, fields=text.str.split_exact(separator, width - 1)).select(
            OFFSET, *(fields.struct.field(f"field_{at}").alias(name) for name, at in where.items())
        )
    hard = frame.filter(good & pl.col("is_quoted"))
    if hard.height:
        rows = [_split_quoted(line, separator) for line in hard["text"]]
        kept = [
            (at, row)
            for at, row in zip(hard[OFFSET], rows, strict=True)
            if row is not None and len(row) == width
        ]
        failed = [
            (at, "bad_quotes" if row is None else "column_count")
            for at, row in zip(hard[OFFSET], rows, strict=True)
            if row is None or len(row) != width
        ]
        extra = {OFFSET: [at for at, _ in kept]} | {
            name: [row[at] for _, row in kept] for name, at in where.items()
        }
        split = pl.concat([split, pl.DataFrame(extra, schema=split.schema)]).sort(OFFSET)
        rejects.append(_rejects([at for at, _ in failed], [why for _, why in failed]))
    return RawTable(split, pl.concat(rejects).sort(OFFSET))


def read_delimited(
    file: InputFile,
    columns: Sequence[str],
    separator: str,
    has_header: bool,
    quoted: bool = False,
) -> Iterator[RawTable]:
    """Delimited text, one record a line; .gz and .zst are decompressed.

    A record never spans lines: a stray quote spoils its own line at most. Empty lines are skipped.
    NUL is a character like any other. CRLF and a byte order mark at the start are fine.

    Args:
      file: the file.
      columns: with a header, the columns to read, in any order (others are ignored); without one,
        the names of all columns of the file, in order.
      separator: one character.
      has_header: the first line names the columns; it is record 0.
      quoted: a field may stand in double quotes (RFC 4180, without line breaks inside);
        otherwise a quote is an ordinary character.

    Yields:
      OFFSET (0-based line number) and `columns`, all String and never null: an empty field is "".
      Rejects: `line_too_long` (more than 1 MiB), `bad_utf8`, `column_count`, `bad_quotes`.

    Raises:
      InputFileError: see `open_text`; the header lacks one of `columns`, or has it twice.
    """
    if len(separator) != 1:
        raise ValueError("a separator is one character")

    def parts(stream: BinaryIO) -> Iterator[RawTable]:
        width, where = len(columns), {name: at for at, name in enumerate(columns)}
        for number, lines in _line_batches(stream):
            skip = 0
            if number == 0 and has_header:
                width, where = _header(file.path, lines[0], columns, separator, quoted)
                skip = 1
            yield _delimited_table(number + skip, lines[skip:], where, width, separator, quoted)

    with open_text(file) as stream:
        yield from _gather(parts(stream))


# --- Parquet --------------------------------------------------------------------------------------


def _check_footer(path: str, footer: pq.FileMetaData, size: int) -> None:
    groups = [footer.row_group(at) for at in range(footer.num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    if (
        footer.num_rows != sum(group.num_rows for group in groups)
        or any(group.num_rows < 0 for group in groups)
        or any(not 0 <= chunk.total_compressed_size <= size for chunk in chunks)
        or footer.num_rows > FREE_ROWS + MAX_ROWS_PER_BYTE * size
    ):
        raise InputFileError(path, f"the Parquet footer contradicts the file; {_COPY_AGAIN}")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _parquet_part(batch: pa.RecordBatch, offset: int) -> RawTable:
    """The batch with dictionaries resolved and text checked: Arrow itself does not."""
    arrays: dict[str, pa.Array] = {}
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(array.type):
            array.validate(full=True)
            array = array.dictionary_decode()
        if _is_text(array.type):
            try:
                array.validate(full=True)
            except pa.ArrowInvalid:
                array.validate()  # not only the text: offsets are wrong too
                large = pa.types.is_large_string(array.type)
                array = array.view(pa.large_binary() if large else pa.binary())
        elif not _is_bytes(array.type):
            array.validate(full=True)
        arrays[name] = array
    columns = [pl.Series(name, array) for name, array in arrays.items()]
    rows = pl.DataFrame([pl.Series(OFFSET, range(offset, offset + len(batch))), *columns])
    binary = [column.name for column in columns if column.dtype == pl.Binary]
    if not binary:
        return RawTable(rows, RawTable.no_rejects())
    # Text that is not UTF-8, and text that an old writer did not mark as text.
    decoded = rows.with_columns(_decoded(rows[name]) for name in binary)
    bad = rows.select(
        pl.any_horizontal(rows[name].is_not_null() & decoded[name].is_null() for name in binary)
    ).to_series()
    offsets = rows[OFFSET].filter(bad).to_list()
    return RawTable(decoded.filter(~bad), _rejects(offsets, ["bad_utf8"] * len(offsets)))


def read_parquet(file: InputFile, columns: Sequence[str] | None = None) -> Iterator[RawTable]:
    """A Parquet file, batch by batch; page checksums are verified where the writer put them.

    Args:
      file: the file.
      columns: the top-level columns to read; those the file lacks are left out. None reads all.

    Yields:
      OFFSET (row number in the file) and the columns that exist, in the order of `columns`, with
      the file's own types, but: INT96 is Datetime("us"), dictionary-encoded columns are plain,
      BYTE_ARRAY without a text annotation is read as String. A row with text that is not UTF-8 is
      a reject `bad_utf8`.

    Raises:
      InputFileError: empty, truncated, damaged or encrypted file, a footer that contradicts it,
        none of `columns` exists, or a column of a type that tables cannot hold.
    """
    with file.open() as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if not size:
            raise InputFileError(file.path, f"empty file, not Parquet; {_COPY_AGAIN}")
        damaged = f"truncated or damaged Parquet file, or not Parquet at all; {_COPY_AGAIN}"

        def opened() -> Iterator[pq.ParquetFile]:
            yield pq.ParquetFile(
                stream,
                coerce_int96_timestamp_unit="us",
                page_checksum_verification=True,
                arrow_extensions_enabled=False,
            )

        def schema_names(source: pq.ParquetFile) -> Iterator[list[str]]:
            _check_footer(file.path, source.metadata, size)
            yield source.schema_arrow.names

        def parts(source: pq.ParquetFile, names: list[str]) -> Iterator[RawTable]:
            offset = 0
            for batch in source.iter_batches(batch_size=TABLE_ROWS, columns=names):
                if len(batch):
                    yield _parquet_part(batch.select(names), offset)
                offset += len(batch)
            if offset != source.metadata.num_rows:
                raise InputFileError(
                    file.path,
                    f"the footer promises {source.metadata.num_rows} rows, the file has {offset}; "
                    + _COPY_AGAIN,
                )

        (source,) = _guarded(file.path, opened(), damaged)
        (present,) = _guarded(file.path, schema_names(source), damaged)
        names = present if columns is None else [name for name in columns if name in present]
        if not names:
            raise InputFileError(
                file.path,
                "has none of the expected columns; the first is " + repr((columns or ["?"])[0]),
            )
        yield from _guarded(file.path, parts(source, names), damaged)


# --- Avro -----------------------------------------------------------------------------------------


_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_LOGICAL_TIMES: dict[str, pl.Datetime] = {
    f"{prefix}timestamp-{suffix}": pl.Datetime(unit, zone)  # type: ignore[arg-type]
    for prefix, zone in (("", "UTC"), ("local-", None))
    for suffix, unit in (("millis", "ms"), ("micros", "us"), ("nanos", "ns"))
}
# Reader type -> the writer types it takes (Avro's promotions; an enum's symbol is text to us).
_PROMOTIONS = {
    "string": {"string", "bytes", "enum"},
    "boolean": {"boolean"},
    "int": {"int"},
    "long": {"int", "long"},
    "float": {"int", "long", "float", "double"},
    "double": {"int", "long", "float", "double"},
}
_AVRO_DTYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "bytes": pl.String(),
    "enum": pl.String(),
    "boolean": pl.Boolean(),
    "int": pl.Int64(),
    "long": pl.Int64(),
    "float": pl.Float64(),
    "double": pl.Float64(),
}


class _AvroFramingError(Exception):
    """The file's own framing is wrong; the message is the problem."""


class _AvroBytes:
    """The primitive reads of Avro's container framing, each checked."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def exactly(self, size: int) -> bytes:
        if not 0 <= size <= MAX_BLOCK_BYTES:
            raise _AvroFramingError(
                f"damaged Avro file, or a block of more than {MAX_BLOCK_BYTES >> 20} MiB"
            )
        data = self._stream.read(size)
        if len(data) < size:
            raise _AvroFramingError(f"truncated Avro file; {_COPY_AGAIN}")
        return data

    def long(self, at_end: int | None = None) -> int:
        """A zigzag number; `at_end` instead if the file ends before it."""
        value = shift = 0
        while shift < 64:
            if shift == 0 and at_end is not None:
                byte = self._stream.read(1)
                if not byte:
                    return at_end
            else:
                byte = self.exactly(1)
            value |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                return (value >> 1) ^ -(value & 1)
        raise _AvroFramingError(f"damaged Avro file; {_COPY_AGAIN}")


def _bounded(decoder: Any, data: bytes) -> bytes:
    out: bytes = decoder.decompress(data, MAX_BLOCK_BYTES + 1)
    if len(out) <= MAX_BLOCK_BYTES and not decoder.eof:
        raise ValueError("truncated")
    return out


def _unsnappy(data: bytes) -> bytes:
    size = shift = 0
    for byte in data[:5]:  # the raw format starts with the size of what it holds
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if size > MAX_BLOCK_BYTES:
        return bytes(MAX_BLOCK_BYTES + 1)
    out: bytes = pa.decompress(data[:-4], decompressed_size=size, codec="snappy", asbytes=True)
    if zlib.crc32(out) != int.from_bytes(data[-4:], "big"):
        raise ValueError("checksum")
    return out


def _unzstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data) as reader:
        return bytes(reader.read(MAX_BLOCK_BYTES + 1))


_AVRO_CODECS: dict[str, Callable[[bytes], bytes]] = {
    "null": lambda data: data,
    "deflate": lambda data: _bounded(zlib.decompressobj(-15), data),
    "bzip2": lambda data: _bounded(bz2.BZ2Decompressor(), data),
    "xz": lambda data: _bounded(lzma.LZMADecompressor(), data),
    "snappy": _unsnappy,
    "zstandard": _unzstd,
}


def _zigzag(value: int) -> bytes:
    value <<= 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@dataclasses.dataclass(frozen=True)
class _Shape:
    """What decoding a type can cost: fields and depth with references resolved, and whether a
    value can take no bytes (an array of such values is a bomb of any length)."""

    fields: int = 0
    depth: int = 1
    empty: bool = False


class _WriterSchema:
    """The schema of an Avro file, checked before anything is decoded with it."""

    def __init__(self, path: str, text: bytes) -> None:
        self._path = path
        self._shapes: dict[str, _Shape | None] = {}  # None while being defined
        self._definitions: dict[str, dict[str, Any]] = {}
        try:
            root = orjson.loads(text)
        except orjson.JSONDecodeError:
            self._refuse("is not valid JSON")
        if not isinstance(root, dict) or root.get("type") != "record":
            self._refuse("is not a record")
        shape = self._shape(root, "", 1)
        if shape.fields > MAX_SCHEMA_FIELDS:
            self._refuse(f"has {shape.fields} fields, more than {MAX_SCHEMA_FIELDS}")
        self.fields: dict[str, Any] = {field["name"]: field["type"] for field in root["fields"]}
        if len(self.fields) < len(root["fields"]):
            self._refuse("names a field twice")
        self._space = str(root.get("namespace") or str(root["name"]).rpartition(".")[0])
        self.text = orjson.dumps(_without_logical_types(root))

    def _refuse(self, why: str) -> NoReturn:
        raise InputFileError(self._path, f"the writer's Avro schema {why}")

    def _full_name(self, name: str, space: str) -> str:
        return name if "." in name or not space else f"{space}.{name}"

    def _shape(self, node: Any, space: str, depth: int) -> _Shape:
        if depth > MAX_SCHEMA_DEPTH:
            self._refuse(f"is nested more than {MAX_SCHEMA_DEPTH} deep")
        if isinstance(node, str):
            if node in _PRIMITIVES:
                return _Shape(empty=node == "null")
            name = self._full_name(node, space)
            if name not in self._shapes:
                self._refuse("refers to a type that it does not define")
            found = self._shapes[name]
            if found is None:
                self._refuse("is recursive; flatten the record")
            if depth + found.depth - 1 > MAX_SCHEMA_DEPTH:
                self._refuse(f"is nested more than {MAX_SCHEMA_DEPTH} deep")
            return found
        if isinstance(node, list):
            branches = [self._shape(branch, space, depth) for branch in node]
            return _Shape(
                sum(branch.fields for branch in branches),
                max((branch.depth for branch in branches), default=1),
            )
        kind = node.get("type") if isinstance(node, dict) else None
        if kind in ("array", "map"):
            items = node.get("items" if kind == "array" else "values")
            inner = self._shape(items, space, depth + 1)
            if kind == "array" and inner.empty:
                self._refuse("has an array whose items take no bytes")
            return _Shape(inner.fields, inner.depth + 1)
        if kind in ("record", "enum", "fixed"):
            return self._named(node, kind, space, depth)
        if kind is None:
            self._refuse("is not valid")
        return self._shape(kind, space, depth)

    def _named(self, node: dict[str, Any], kind: str, space: str, depth: int) -> _Shape:
        if not isinstance(node.get("name"), str):
            self._refuse("is not valid")
        own = node.get("namespace")
        name = self._full_name(node["name"], own if isinstance(own, str) else space)
        if name in self._shapes:
            self._refuse("defines a type twice")
        self._shapes[name], self._definitions[name] = None, node
        shape = _Shape(empty=kind == "fixed" and not node.get("size"))
        if kind == "record":
            fields = node.get("fields")
            if not isinstance(fields, list) or not all(
                isinstance(field, dict) and isinstance(field.get("name"), str) and "type" in field
                for field in fields
            ):
                self._refuse("is not valid")
            inner = [
                self._shape(field["type"], name.rpartition(".")[0], depth + 1) for field in fields
            ]
            shape = _Shape(
                len(fields) + sum(child.fields for child in inner),
                1 + max((child.depth for child in inner), default=0),
                all(child.empty for child in inner),
            )
        self._shapes[name] = shape
        return shape

    @property
    def is_flat(self) -> bool:
        """Every field is a primitive or null-or-a-primitive: what Polars decodes."""
        plain = set(_PRIMITIVES) - {"null", "bytes"}
        physical = _without_logical_types(self.fields)
        for node in physical.values():
            branches = node if isinstance(node, list) else [node]
            named = [each["type"] if isinstance(each, dict) else each for each in branches]
            values = [each for each in named if each != "null"]
            if len(values) != 1 or len(named) > 2 or values[0] not in plain:
                return False
        return True

    def kinds(self, node: Any) -> set[tuple[str, str | None]]:
        """(type, logical type) of the branches of a field's type, without null."""
        if isinstance(node, list):
            return set().union(*(self.kinds(branch) for branch in node)) if node else set()
        if isinstance(node, str):
            if node in _PRIMITIVES:
                return set() if node == "null" else {(node, None)}
            return self.kinds(self._definitions[self._full_name(node, self._space)])
        logical = node.get("logicalType")
        if isinstance(node["type"], str):
            return {(node["type"], logical if isinstance(logical, str) else None)}
        return self.kinds(node["type"])


def _without_logical_types(node: Any) -> Any:
    """Logical types make fastavro build a Python object a value; numbers become columns faster."""
    if isinstance(node, dict):
        return {
            key: _without_logical_types(value)
            for key, value in node.items()
            if key != "logicalType"
        }
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    return node


class _AvroColumn(NamedTuple):
    column: Column
    time: pl.Datetime | None


# From the checked writer schema to the columns to read; raises InputFileError.
_Choice = Callable[[str, _WriterSchema], list[_AvroColumn]]


def _avro_column(
    path: str, name: str, field: str, writer: _WriterSchema, allowed: set[str]
) -> _AvroColumn:
    kinds = writer.kinds(writer.fields[field])
    types = {kind for kind, _ in kinds}
    times = {_LOGICAL_TIMES.get(logical or "") for kind, logical in kinds}
    dtypes = {_AVRO_DTYPES.get(kind) for kind in types}
    if {pl.Int64(), pl.Float64()} == dtypes:
        dtypes = {pl.Float64()}
    if not types <= allowed or len(dtypes) > 1 or None in dtypes or len(times) > 1:
        raise InputFileError(
            path,
            f"the writer's Avro schema has {'/'.join(sorted(types))} in field {field!r}, "
            f"expected {' or '.join(sorted(allowed))}",
        )
    dtype = dtypes.pop() if dtypes else pl.String()
    time = times.pop() if times and dtype == pl.Int64 else None
    return _AvroColumn(Column(name, field, dtype or pl.String()), time)


class _AvroFile:
    """The header of an Avro file, and its blocks uncompressed with every length checked."""

    def __init__(self, path: str, stream: BinaryIO) -> None:
        self._stream = stream
        self._source = _AvroBytes(stream)
        metadata = self._metadata()
        self._sync = self._source.exactly(16)
        codec = metadata.get(b"avro.codec", b"null").decode(errors="replace")
        if codec not in _AVRO_CODECS:
            raise _AvroFramingError(
                f"unknown Avro codec; write it with one of {', '.join(_AVRO_CODECS)}"
            )
        self._codec = _AVRO_CODECS[codec]
        if b"avro.schema" not in metadata:
            raise _AvroFramingError("damaged Avro file: it holds no schema")
        self.writer = _WriterSchema(path, metadata[b"avro.schema"])
        entries = ((b"avro.schema", self.writer.text), (b"avro.codec", b"null"))
        packed = b"".join(_zigzag(len(part)) + part for entry in entries for part in entry)
        self._header = b"Obj\x01" + _zigzag(len(entries)) + packed + b"\x00" + self._sync

    def _metadata(self) -> dict[bytes, bytes]:
        source = self._source
        if source.exactly(4) != b"Obj\x01":
            raise _AvroFramingError("not an Avro container file")
        metadata: dict[bytes, bytes] = {}
        while count := source.long():
            if count < 0:
                source.long()
            for _ in range(abs(count)):
                key = source.exactly(source.long())
                metadata[key] = source.exactly(source.long())
        return metadata

    def documents(self) -> Iterator[tuple[int, bytes]]:
        """(number of records, a whole uncompressed Avro file of them), some blocks at a time."""
        held, records, size = [self._header], 0, 0
        for count, block in self._blocks():
            held.append(block)
            records += count
            size += len(block)
            if records >= BATCH_ROWS or size >= _DOCUMENT_BYTES:
                yield records, b"".join(held)
                held, records, size = [self._header], 0, 0
        if records:
            yield records, b"".join(held)

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        source = self._source
        while (count := source.long(at_end=0)) > 0:
            packed = source.exactly(source.long())
            if source.exactly(16) != self._sync:
                raise _AvroFramingError(
                    f"damaged Avro file: a block does not end where it says; {_COPY_AGAIN}"
                )
            try:
                data = self._codec(packed)
            except Exception:  # each codec has its own idea of an error
                raise _AvroFramingError(f"damaged Avro block; {_COPY_AGAIN}") from None
            if len(data) > MAX_BLOCK_BYTES:
                raise _AvroFramingError(f"an Avro block of more than {MAX_BLOCK_BYTES >> 20} MiB")
            if count > len(data):
                raise _AvroFramingError("an Avro block promises more records than it has bytes")
            yield count, _zigzag(count) + _zigzag(len(data)) + data + self._sync
        if count or self._stream.read(1):
            raise _AvroFramingError(f"damaged Avro file; {_COPY_AGAIN}")


def _avro_by_columns(
    document: bytes, count: int, columns: Sequence[Column], present: Sequence[str]
) -> pl.DataFrame | None:
    """The records, decoded by Polars (ten times faster); None where it cannot."""
    try:
        table = pl.read_avro(io.BytesIO(document), columns=list(present))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None  # damaged, or one text is not UTF-8: the other decoder tells which
    if table.height != count:
        return None
    return table.select(
        (pl.col(each.path) if each.path in present else pl.lit(None))
        .cast(each.dtype)
        .alias(each.name)
        for each in columns
    )


def _avro_by_records(
    path: str, document: bytes, offset: int, columns: Sequence[Column]
) -> Iterator[RawTable]:
    # A byte that is not UTF-8 becomes a lone surrogate and spoils its row, not the file.
    for block in fastavro.block_reader(
        io.BytesIO(document), handle_unicode_errors="surrogateescape"
    ):
        records = iter(block)
        while batch := list(itertools.islice(records, BATCH_ROWS)):
            yield _columnar(batch, range(offset, offset + len(batch)), columns)  # type: ignore[arg-type]
            offset += len(batch)
        if block.bytes_.read(1):  # type: ignore[attr-defined]
            raise InputFileError(path, f"damaged Avro records; {_COPY_AGAIN}")


def _avro_tables(path: str, raw: BinaryIO, choose: _Choice) -> Iterator[RawTable]:
    source = _AvroFile(path, raw)
    chosen = choose(path, source.writer)
    columns = [entry.column for entry in chosen]
    times = [pl.col(entry.column.name).cast(entry.time) for entry in chosen if entry.time]
    present = list(dict.fromkeys(c.path for c in columns if c.path in source.writer.fields))
    if not present:
        raise InputFileError(path, "has none of the expected fields")
    flat = source.writer.is_flat
    offset = 0
    for count, document in source.documents():
        table = None
        if flat and count <= _MAX_FLAT_ROWS:
            table = _avro_by_columns(document, count, columns, present)
        if table is not None:
            for start in range(0, count, TABLE_ROWS):
                part = table.slice(start, TABLE_ROWS).with_columns(times)
                first = offset + start
                index = pl.Series(OFFSET, range(first, first + part.height), dtype=pl.Int64)
                yield RawTable(part.insert_column(0, index), RawTable.no_rejects())
        else:
            for slow in _avro_by_records(path, document, offset, columns):
                yield RawTable(slow.rows.with_columns(times), slow.rejects)
        offset += count


def _read_avro(file: InputFile, choose: _Choice) -> Iterator[RawTable]:
    def tables(raw: BinaryIO) -> Iterator[RawTable]:
        try:
            yield from _avro_tables(file.path, raw, choose)
        except _AvroFramingError as error:
            raise InputFileError(file.path, str(error)) from None

    with file.open() as raw:
        if not raw.read(1):
            raise InputFileError(file.path, f"empty file, not Avro; {_COPY_AGAIN}")
        raw.seek(0)

        damaged = f"damaged Avro records; {_COPY_AGAIN}"
        yield from _gather(_guarded(file.path, tables(raw), damaged))


def read_avro(file: InputFile, reader_schema: Mapping[str, Any]) -> Iterator[RawTable]:
    """An Avro container file, resolved against a reader schema.

    Resolution is Avro's: a field is found by its name or one of its aliases; one the writer lacks
    takes its default; one only the writer has is ignored; int widens to long, and numbers to
    double. Beyond Avro: an enum is read where text is due, a nullable writer where null is not
    allowed (validity is decided later), and an integer without a logical type is a time of the
    reader's unit.

    Args:
      file: the file.
      reader_schema: a record of scalar fields (null unions allowed), as `forms.avro_schema` makes.

    Yields:
      OFFSET (record number) and the reader's fields, all nullable: String, Boolean, Int64, Float64,
      and Datetime in the WRITER's unit (UTC, or naive for local-timestamp). Rejects: `bad_utf8`.

    Raises:
      InputFileError: empty, truncated or damaged file; an incompatible writer schema (the message
        names the field); a writer schema that is recursive, over MAX_SCHEMA_DEPTH or
        MAX_SCHEMA_FIELDS, or has an array of nothing; a block over MAX_BLOCK_BYTES.
    """

    def choose(path: str, writer: _WriterSchema) -> list[_AvroColumn]:
        chosen = []
        for field in reader_schema["fields"]:
            name, node = field["name"], field["type"]
            branches = node if isinstance(node, list) else [node]
            (own,) = [branch for branch in branches if branch != "null"]
            kind, logical = (own, None) if isinstance(own, str) else (own["type"], own)
            time = _LOGICAL_TIMES.get(logical["logicalType"]) if logical else None
            names = [each for each in (name, *field.get("aliases", ())) if each in writer.fields]
            if not names:
                if "default" not in field:
                    raise InputFileError(path, f"the writer's Avro schema has no field {name!r}")
                # An absent key reads as null, the default of every optional field.
                chosen.append(_AvroColumn(Column(name, name, _AVRO_DTYPES[kind]), time))
                continue
            entry = _avro_column(path, name, names[0], writer, _PROMOTIONS[kind])
            column = entry.column._replace(dtype=_AVRO_DTYPES[kind])
            chosen.append(_AvroColumn(column, (entry.time or time) if time else None))
        return chosen

    return _read_avro(file, choose)


def read_avro_columns(file: InputFile, columns: Sequence[str]) -> Iterator[RawTable]:
    """Top-level scalar fields of an Avro container file, in the writer's own types.

    Args:
      file: the file.
      columns: names of fields; those the file lacks are left out.

    Yields, Raises:
      As `read_avro`; a field that is not a scalar raises.
    """

    def choose(path: str, writer: _WriterSchema) -> list[_AvroColumn]:
        return [
            _avro_column(path, name, name, writer, set(_AVRO_DTYPES))
            for name in columns
            if name in writer.fields
        ]

    return _read_avro(file, choose)
