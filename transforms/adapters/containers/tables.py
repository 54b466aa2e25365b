"""What all readers do with tables and with damage: rejects, parts joined to tables, errors.

A part is a `RawTable` of few records. Parts of one file have the same columns and types.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import polars as pl

from transforms.adapters.base import OFFSET, REJECT_REASON, TABLE_ROWS, RawTable
from transforms.adapters.containers import limits
from transforms.errors import InputFileError, PlayheadError

COPY_AGAIN = "copy it again from its source"


def rejects(reasons: Mapping[int, str]) -> pl.DataFrame:
    """OFFSET, REJECT_REASON of `reasons` (offset -> reason), by offset."""
    return pl.DataFrame(
        {OFFSET: reasons.keys(), REJECT_REASON: reasons.values()},
        schema={OFFSET: pl.Int64, REJECT_REASON: pl.String},
    ).sort(OFFSET)


def gather(parts: Iterable[RawTable]) -> Iterator[RawTable]:
    """Joins parts of at most TABLE_ROWS records each to tables of at most TABLE_ROWS.

    A table is also closed once it holds TABLE_BYTES. Empty parts vanish.
    """
    held: list[RawTable] = []
    records = size = 0

    def table() -> RawTable:
        return RawTable(
            pl.concat([part.rows for part in held], rechunk=True),
            pl.concat([part.rejects for part in held], rechunk=True),
        )

    for part in parts:
        count = part.rows.height + part.rejects.height
        if held and (records + count > TABLE_ROWS or size > limits.TABLE_BYTES):
            yield table()
            held, records, size = [], 0, 0
        if count:
            held.append(part)
            records += count
            size += int(part.rows.estimated_size())
    if held:
        yield table()


@contextlib.contextmanager
def damage_is(problem: str, path: str) -> Iterator[None]:
    """Turns whatever a decoder raises on damaged bytes into an `InputFileError` of `problem`.

    Playhead's own errors pass, and so does an OSError with an errno: there the storage failed, not
    the format, and the caller may try again.
    """
    try:
        yield
    except PlayheadError:
        raise
    except MemoryError:
        raise InputFileError(
            path, "takes more memory to read than there is; check where it came from, or split it"
        ) from None
    # Decoders answer damage with any exception there is, and Polars with one that is none.
    except (Exception, pl.exceptions.PanicException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputFileError(path, problem) from None
