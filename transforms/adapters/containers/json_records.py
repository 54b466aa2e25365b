"""JSON objects: one a line, or the elements of one array.

* `schema` maps a dotted path ("track_metadata.additional_info.duration_ms") to a type. A key that
  itself contains a dot cannot be reached. Members that it does not name are ignored. Of a repeated
  key the last one counts.
* What a type takes is said in `records`; Int32 is read as Int64, for `conform` checks the range.
  Integers of 64 bits are exact.
* Not JSON: NaN and infinities, lone surrogates, over 1024 levels, numbers that overflow a double.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import polars as pl

from transforms.adapters.base import InputFile, RawTable
from transforms.adapters.containers import limits
from transforms.adapters.containers.records import Column, columnar
from transforms.adapters.containers.tables import COPY_AGAIN, gather
from transforms.adapters.containers.text import is_utf8, line_batches, open_text, without_bom
from transforms.errors import InputFileError


def _columns(schema: Mapping[str, pl.DataType]) -> list[Column]:
    return [
        Column(path, path, pl.Int64() if dtype == pl.Int32 else dtype)
        for path, dtype in schema.items()
    ]


def _table(number: int, found: Sequence[Any], columns: Sequence[Column]) -> RawTable:
    """`found`: an object, the reason against it, or None for nothing; the first is `number`."""
    if set(map(type, found)) <= {dict}:
        return columnar(found, range(number, number + len(found)), columns)
    objects = {at: each for at, each in enumerate(found, number) if type(each) is dict}
    refused = {at: each for at, each in enumerate(found, number) if type(each) is str}
    return columnar(list(objects.values()), list(objects), columns, refused)


def _parsed(lines: list[bytes | None]) -> list[Any]:
    try:
        found = list(map(orjson.loads, lines))  # type: ignore[arg-type]
        if set(map(type, found)) <= {dict}:
            return found
    except orjson.JSONDecodeError:
        pass  # some line is bad, blank or too long: find it
    return list(map(_parsed_line, lines))


def _parsed_line(line: bytes | None) -> Any:
    if line is None:
        return "line_too_long"
    if not line.strip():
        return None
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "bad_json" if is_utf8(line) else "bad_utf8"
    return found if type(found) is dict else "bad_json"


def read_json_lines(file: InputFile, schema: Mapping[str, pl.DataType]) -> Iterator[RawTable]:
    """One JSON object a line; .gz and .zst are decompressed.

    Blank lines are skipped (and counted by OFFSET, the 0-based line number). CRLF, a byte order
    mark at the start, and a last line without line feed are fine.

    Args:
      file: the file.
      schema: path to type; see the module docstring.

    Yields:
      Columns OFFSET and those of `schema`, all nullable; Int32 comes as Int64.
      Rejects: `line_too_long` (more than 1 MiB), `bad_utf8`, `bad_json` (also for anything but one
      object), `bad_<path>` where a value does not fit the type, or a part of the path is not an
      object.

    Raises:
      InputFileError: see `open_text`.
    """
    columns = _columns(schema)
    with open_text(file) as stream:
        yield from gather(
            _table(number, _parsed(lines), columns) for number, lines in line_batches(stream)
        )


def read_json_array(file: InputFile, schema: Mapping[str, pl.DataType]) -> Iterator[RawTable]:
    """One JSON document that is an array of objects; .gz and .zst are decompressed.

    The document is held whole: about 8 times its size in memory, at most 16 times.

    Args:
      file: the file.
      schema: path to type; see the module docstring.

    Yields:
      As `read_json_lines`; OFFSET is the index of the element. An element that is not an object is
      a reject `bad_json`.

    Raises:
      InputFileError: see `open_text`; a document that is not a JSON array, is truncated, is larger
        than MAX_DOCUMENT_BYTES, or has more arrays and objects than one in MIN_BYTES_PER_OBJECT.
    """
    columns = _columns(schema)
    with open_text(file) as stream:
        document = without_bom(stream.read(limits.MAX_DOCUMENT_BYTES + 1))
    if not document:
        return
    if len(document) > limits.MAX_DOCUMENT_BYTES:
        raise InputFileError(
            file.path,
            f"one JSON document of more than {limits.MAX_DOCUMENT_BYTES >> 20} MiB; split it",
        )
    objects = document.count(b"{") + document.count(b"[")  # and those in text: never fewer
    if objects > limits.FREE_OBJECTS + len(document) // limits.MIN_BYTES_PER_OBJECT:
        raise InputFileError(
            file.path,
            f"more than {limits.FREE_OBJECTS:,} objects and lists, of a few bytes each, which no "
            "log has; check where it came from",
        )
    try:
        elements = orjson.loads(document)
    except orjson.JSONDecodeError:
        raise InputFileError(
            file.path, f"truncated, or not a valid JSON document; {COPY_AGAIN}"
        ) from None
    del document
    if type(elements) is not list:
        raise InputFileError(file.path, "expected a JSON array of objects, got another JSON value")
    found = [each if type(each) is dict else "bad_json" for each in elements]
    del elements
    yield from gather(
        _table(at, found[at : at + limits.BATCH_ROWS], columns)
        for at in range(0, len(found), limits.BATCH_ROWS)
    )
