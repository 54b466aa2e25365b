"""Avro container files: top-level scalar fields as columns.

* Blocks are decoded some at a time: by Polars where all fields are flat (ten times faster), else,
  and where Polars fails, record by record. Fields that are not read are skipped, never built: a
  list of empty lists takes seventy times its bytes.
* A block's records end where the block ends. Polars does not look: a record of ours is put at the
  end of what it decodes, and must come out as the last one.
* Text that is not UTF-8 spoils its row (`bad_utf8`), never the file.
* A field's type is one scalar type or a union of some that fit each other: string, bytes and enum;
  boolean; int and long; and these with float and double. Null makes a column nullable, as all are.
* Times keep the writer's unit: Datetime, UTC or (local-timestamp) naive.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import fastavro
import polars as pl

from transforms.adapters.base import OFFSET, TABLE_ROWS, InputFile, RawTable
from transforms.adapters.containers import limits
from transforms.adapters.containers.avro_blocks import AvroBlocks, container, encode
from transforms.adapters.containers.avro_schema import WriterSchema
from transforms.adapters.containers.records import Column, columnar
from transforms.adapters.containers.tables import COPY_AGAIN, damage_is, gather
from transforms.errors import InputFileError

_DAMAGED = f"damaged Avro records; {COPY_AGAIN}"
_DTYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "bytes": pl.String(),
    "enum": pl.String(),
    "boolean": pl.Boolean(),
    "int": pl.Int64(),
    "long": pl.Int64(),
    "float": pl.Float64(),
    "double": pl.Float64(),
}
_TIMES: dict[str, pl.Datetime] = {
    f"{prefix}timestamp-{suffix}": pl.Datetime(unit, zone)  # type: ignore[arg-type]
    for prefix, zone in (("", "UTC"), ("local-", None))
    for suffix, unit in (("millis", "ms"), ("micros", "us"), ("nanos", "ns"))
}
# Reader type -> the writer types it takes (Avro's promotions; an enum's symbol is text to us).
_NUMBERS = {"int", "long", "float", "double"}
_PROMOTIONS = {
    "string": {"string", "bytes", "enum"},
    "boolean": {"boolean"},
    "int": {"int"},
    "long": {"int", "long"},
    "float": _NUMBERS,
    "double": _NUMBERS,
}
# A flat record that no log has.
_LAST = {
    "string": "\0end",
    "boolean": True,
    "int": -(2**31),
    "long": -(2**63),
    "float": -1.0,
    "double": -1.0,
}


class _Chosen(NamedTuple):
    """A column to read, and the type of time that its numbers are."""

    column: Column
    time: pl.Datetime | None


# From the checked writer schema to the columns to read; raises InputFileError.
_Choice = Callable[[WriterSchema], list[_Chosen]]


def _choose(path: str, name: str, field: str, writer: WriterSchema, allowed: set[str]) -> _Chosen:
    """The writer's `field` as column `name`, in the writer's type."""
    kinds = writer.kinds(field)
    types = {kind for kind, _ in kinds}
    times = {_TIMES.get(logical) for _, logical in kinds}
    dtypes = {_DTYPES[kind] for kind in types & allowed}
    if dtypes == {pl.Int64(), pl.Float64()}:
        dtypes = {pl.Float64()}
    if not types <= allowed or len(dtypes) > 1 or len(times) > 1:
        raise InputFileError(
            path,
            f"the writer's Avro schema has {'/'.join(sorted(types))} in field {field!r}, "
            f"expected {' or '.join(sorted(allowed))}",
        )
    dtype = dtypes.pop() if dtypes else pl.String()  # a field that is always null
    time = times.pop() if dtype == pl.Int64 else None
    return _Chosen(Column(name, field, dtype), time)


def _documents(blocks: AvroBlocks) -> Iterator[tuple[int, bytes]]:
    """(number of records, their bytes), some blocks at a time."""
    held, records, size = [], 0, 0
    for count, block in blocks:
        held.append(block)
        records += count
        size += len(block)
        if records >= limits.BATCH_ROWS or size >= limits.DECODE_BYTES:
            yield records, b"".join(held)
            held, records, size = [], 0, 0
    if records:
        yield records, b"".join(held)


class _Flat:
    """Decodes the `names` of a flat schema by Polars."""

    def __init__(self, writer: WriterSchema, names: Sequence[str]) -> None:
        self._schema = writer.plain
        self._names = list(names)
        kinds = {field: next(iter(writer.kinds(field)))[0] for field in writer.fields}
        self._last = encode(self._schema, {field: _LAST[kind] for field, kind in kinds.items()})
        self._last_row = self._read(0, b"")

    def _read(self, count: int, records: bytes) -> pl.DataFrame:
        document = container(self._schema, count + 1, records + self._last)
        return pl.read_avro(io.BytesIO(document), columns=self._names)

    def decode(self, count: int, records: bytes) -> pl.DataFrame | None:
        """The records; None where they are damaged or one text is not UTF-8."""
        try:
            table = self._read(count, records)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return None
        if table.height != count + 1 or not table[-1:].equals(self._last_row):
            return None
        return table[:-1]


def _by_records(
    path: str,
    writer: WriterSchema,
    names: Sequence[str],
    count: int,
    records: bytes,
    offset: int,
    columns: Sequence[Column],
) -> Iterator[RawTable]:
    # A byte that is not UTF-8 becomes a lone surrogate and spoils its row, not the file.
    (block,) = fastavro.block_reader(
        io.BytesIO(container(writer.plain, count, records)),
        reader_schema=writer.reduced(names),
        handle_unicode_errors="surrogateescape",
    )
    found = iter(block)
    while batch := list(itertools.islice(found, limits.BATCH_ROWS)):
        yield columnar(batch, range(offset, offset + len(batch)), columns)  # type: ignore[arg-type]
        offset += len(batch)
    if block.bytes_.read(1):  # type: ignore[attr-defined]
        raise InputFileError(path, _DAMAGED)


def _parts(path: str, stream: BinaryIO, choice: _Choice) -> Iterator[RawTable]:
    blocks = AvroBlocks(path, stream)
    writer = WriterSchema(path, blocks.schema)
    chosen = choice(writer)
    columns = [each.column for each in chosen]
    times = [pl.col(each.column.name).cast(each.time) for each in chosen if each.time]
    present = list(dict.fromkeys(c.path for c in columns if c.path in writer.fields))
    if not present:
        raise InputFileError(path, "has none of the expected fields")
    selected = [
        (pl.col(each.path) if each.path in present else pl.lit(None))
        .cast(each.dtype)
        .alias(each.name)
        for each in columns
    ]
    flat = _Flat(writer, present) if writer.is_flat else None
    offset = 0
    for count, records in _documents(blocks):
        table = flat.decode(count, records) if flat and count <= limits.MAX_FLAT_ROWS else None
        if table is not None:
            rows = table.select(selected).with_columns(times).with_row_index(OFFSET, offset)
            rows = rows.with_columns(pl.col(OFFSET).cast(pl.Int64))
            for part in rows.iter_slices(TABLE_ROWS):
                yield RawTable(part, RawTable.no_rejects())
        else:
            for slow in _by_records(path, writer, present, count, records, offset, columns):
                yield RawTable(slow.rows.with_columns(times), slow.rejects)
        offset += count


def _read(file: InputFile, choice: _Choice) -> Iterator[RawTable]:
    def parts(stream: BinaryIO) -> Iterator[RawTable]:
        with damage_is(_DAMAGED, file.path):
            if not stream.read(1):
                raise InputFileError(file.path, f"empty file, not Avro; {COPY_AGAIN}")
            stream.seek(0)
            yield from _parts(file.path, stream, choice)

    with file.open() as stream:
        yield from gather(parts(stream))


def _scalar(node: Any) -> tuple[str, pl.Datetime | None]:
    """The type of a reader's field, and of its time."""
    (own,) = [each for each in (node if isinstance(node, list) else [node]) if each != "null"]
    if isinstance(own, str):
        own = {"type": own}
    kind = own["type"]
    if kind not in _PROMOTIONS:
        raise ValueError(f"a reader's field cannot be of type {kind!r}")
    return kind, _TIMES.get(own.get("logicalType", ""))


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
        A default must be null.

    Yields:
      OFFSET (record number) and the reader's fields, all nullable: String, Boolean, Int64, Float64,
      and Datetime in the WRITER's unit (UTC, or naive for local-timestamp). Rejects: `bad_utf8`.

    Raises:
      InputFileError: empty, truncated or damaged file; an incompatible writer schema (the message
        names the field); a writer schema that breaks the rules of `avro_schema`; a block over
        MAX_BLOCK_BYTES.
      ValueError: for a reader's field that is not a scalar.
    """
    fields = [(field, *_scalar(field["type"])) for field in reader_schema["fields"]]

    def choice(writer: WriterSchema) -> list[_Chosen]:
        chosen = []
        for field, kind, time in fields:
            name = path = field["name"]
            found = [each for each in (name, *field.get("aliases", ())) if each in writer.fields]
            if found:
                path = found[0]
                given = _choose(file.path, name, path, writer, _PROMOTIONS[kind])
                time = (given.time or time) if time else None
            elif "default" not in field:
                raise InputFileError(file.path, f"the writer's Avro schema has no field {name!r}")
            # An absent key reads as null, the default of every optional field.
            chosen.append(_Chosen(Column(name, path, _DTYPES[kind]), time))
        return chosen

    return _read(file, choice)


def read_avro_columns(file: InputFile, columns: Sequence[str]) -> Iterator[RawTable]:
    """Top-level scalar fields of an Avro container file, in the writer's own types.

    Args:
      file: the file.
      columns: names of fields; those the file lacks are left out.

    Yields:
      OFFSET (record number) and the fields, all nullable; types as in `read_avro`. Rejects:
      `bad_utf8`.

    Raises:
      InputFileError: as `read_avro`; a field that is not a scalar; none of `columns` is there.
    """

    def choice(writer: WriterSchema) -> list[_Chosen]:
        return [
            _choose(file.path, name, name, writer, set(_DTYPES))
            for name in columns
            if name in writer.fields
        ]

    return _read(file, choice)
