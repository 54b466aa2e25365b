"""Delimited text: CSV, TSV and their like.

* One record a line. A record never spans lines: a stray quote spoils its own line at most.
* Every value is String and never null; an empty field is "". NUL is a character like any other.
* Quotes are ordinary characters unless `quoted`: then a field may stand in double quotes (RFC 4180,
  without line breaks inside), in which the separator is text and "" is one quote. A quoted field
  has at most 131,072 characters.
* CRLF and a byte order mark at the start are fine. Empty lines are skipped (and counted by OFFSET).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import polars as pl
import pyarrow as pa

from transforms.adapters.base import OFFSET, REJECT_REASON, InputFile, RawTable
from transforms.adapters.containers.tables import gather
from transforms.adapters.containers.text import decoded, line_batches, open_text
from transforms.errors import InputFileError


def _split_quoted(line: str, separator: str) -> list[str] | None:
    """The fields of a line; null for wrong quotes."""
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


def _table(
    number: int,
    lines: list[bytes | None],
    where: Mapping[str, int],
    width: int,
    separator: str,
    quoted: bool,
) -> RawTable:
    raw = pl.Series("raw", lines, dtype=pl.Binary)
    text, fields = pl.col("text"), pl.col("fields")
    frame = (
        pl.DataFrame({OFFSET: range(number, number + len(lines)), "raw": raw})
        .with_columns(text=decoded(raw).str.strip_suffix("\r"))
        .filter(text.is_null() | (text != ""))
        .with_columns(fields=text.str.split(separator))
    )
    has_quote = frame["text"].str.contains('"', literal=True).fill_null(value=False)
    if quoted and has_quote.any():
        hard = [
            _split_quoted(line, separator) if has else None
            for line, has in zip(frame["text"], has_quote, strict=True)
        ]
        # By way of Arrow: Polars takes twenty times longer over lists of text.
        split = pl.Series(pa.array(hard, pa.list_(pa.large_string())))
        frame = frame.with_columns(fields=pl.when(has_quote).then(split).otherwise(fields))
    reason = (
        pl.when(pl.col("raw").is_null())
        .then(pl.lit("line_too_long"))
        .when(text.is_null())
        .then(pl.lit("bad_utf8"))
        .when(fields.is_null())
        .then(pl.lit("bad_quotes"))
        .when(fields.list.len() != width)
        .then(pl.lit("column_count"))
    )
    frame = frame.with_columns(reason.alias(REJECT_REASON))
    good = pl.col(REJECT_REASON).is_null()
    return RawTable(
        frame.filter(good).select(
            OFFSET, *(fields.list.get(at).alias(name) for name, at in where.items())
        ),
        frame.filter(~good).select(OFFSET, REJECT_REASON),
    )


def read_delimited(
    file: InputFile,
    columns: Sequence[str],
    separator: str,
    has_header: bool,
    quoted: bool = False,
) -> Iterator[RawTable]:
    """Delimited text, one record a line; .gz and .zst are decompressed.

    Args:
      file: the file.
      columns: with a header, the columns to read, in any order (others are ignored); without one,
        the names of all columns of the file, in order.
      separator: one character.
      has_header: the first line names the columns; it is record 0.
      quoted: a field may stand in double quotes; see the module docstring.

    Yields:
      OFFSET (0-based line number) and `columns`, all String and never null.
      Rejects: `line_too_long` (more than 1 MiB), `bad_utf8`, `column_count`, `bad_quotes`.

    Raises:
      InputFileError: see `open_text`; the header lacks one of `columns`, or has it twice.
      ValueError: for a separator that is not one character.
    """
    if len(separator) != 1:
        raise ValueError("a separator is one character")

    def parts(stream: BinaryIO) -> Iterator[RawTable]:
        width, where = len(columns), {name: at for at, name in enumerate(columns)}
        for number, lines in line_batches(stream):
            skip = 0
            if number == 0 and has_header:
                width, where = _header(file.path, lines[0], columns, separator, quoted)
                skip = 1
            yield _table(number + skip, lines[skip:], where, width, separator, quoted)

    with open_text(file) as stream:
        yield from gather(parts(stream))
