"""The one shuffle of Playhead: the tables of one user bucket are brought together.

`ExchangeByBucket` has two modes of one meaning:

* by value: compressed tables as bytes through GroupByKey, for engines with a shuffle service;
* by reference: tables lie in files under the attempt's folder and GroupByKey carries (file, offset,
  length). On the local runner, whose GroupByKey is a dict in memory, a machine's data limit is then
  its disk. The files belong to the attempt and go with it.

Both give the same tables in the same order (by source, then position in it).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import secrets
from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
import polars as pl

from transforms import storage, tables
from transforms.buckets import split_by_bucket


class ExchangeMode(enum.Enum):
    """How tables travel through the shuffle."""

    BY_VALUE = "value"
    BY_REFERENCE = "reference"


# A table on its way, with where it came from: (source, position, its bytes) by value, and
# (source, position, file, offset, length) by reference.
_Value = tuple[str, int, bytes]
_Reference = tuple[str, int, str, int, int]


class _SpillFn(beam.DoFn):
    """Appends each table's buckets to one spill file and yields references to them."""

    def __init__(self, spill_root: str, bucket_count: int) -> None:
        self._spill_root = spill_root
        self._bucket_count = bucket_count

    def process(self, element: tuple[str, int, pl.DataFrame]) -> Iterable[tuple[int, _Reference]]:
        source, position, table = element
        # A retried element writes a new file; the references of the lost try are never emitted.
        path = storage.join(self._spill_root, f"{secrets.token_hex(8)}.arrow")
        references, offset = [], 0
        with storage.writing(path) as stream:
            for bucket, rows in split_by_bucket(table, self._bucket_count):
                data = tables.to_ipc(rows)
                stream.write(data)
                references.append((bucket, (source, position, path, offset, len(data))))
                offset += len(data)
        return references


def _encode_slices(
    element: tuple[str, int, pl.DataFrame], bucket_count: int
) -> Iterable[tuple[int, _Value]]:
    source, position, table = element
    for bucket, rows in split_by_bucket(table, bucket_count):
        yield bucket, (source, position, tables.to_ipc(rows))


def _load_value(value: _Value) -> pl.DataFrame:
    return tables.from_ipc(value[2])


def _load_reference(reference: _Reference) -> pl.DataFrame:
    _, _, path, offset, length = reference
    with storage.open_read(path) as stream:
        stream.seek(offset)
        return tables.from_ipc(stream.read(length))


def _load_bucket(
    bucket: int, sent: Iterable[Any], load: Callable[[Any], pl.DataFrame]
) -> tuple[int, pl.DataFrame]:
    in_order = sorted(sent, key=lambda table: table[:2])
    return bucket, pl.concat([load(table) for table in in_order])


@dataclasses.dataclass
class ExchangeByBucket(beam.PTransform):
    """PCollection of (source, position, table) -> PCollection of (bucket, one table).

    The table of a bucket is the concatenation of all its rows, ordered by (source, position) and
    then as they were: the same whatever the mode, the runner or the number of workers. A bucket
    must fit into a worker's memory; buckets without rows are absent.

    Attributes:
      bucket_count: a power of two.
      mode: by value or by reference.
      spill_root: folder for the spill files; only read in mode BY_REFERENCE.
    """

    bucket_count: int
    mode: ExchangeMode
    spill_root: str

    def expand(
        self, pcoll: beam.PCollection[tuple[str, int, pl.DataFrame]]
    ) -> beam.PCollection[tuple[int, pl.DataFrame]]:
        load: Callable[[Any], pl.DataFrame]
        if self.mode is ExchangeMode.BY_REFERENCE:
            spill = _SpillFn(self.spill_root, self.bucket_count)
            keyed = pcoll | "SpillTables" >> beam.ParDo(spill).with_output_types(
                tuple[int, _Reference]
            )
            load = _load_reference
        else:
            keyed = pcoll | "EncodeTables" >> beam.FlatMap(
                _encode_slices, self.bucket_count
            ).with_output_types(tuple[int, _Value])
            load = _load_value
        return (
            keyed
            | "GroupByBucket" >> beam.GroupByKey()
            | "LoadBucket"
            >> beam.MapTuple(functools.partial(_load_bucket, load=load)).with_output_types(
                tuple[int, pl.DataFrame]
            )
        )
