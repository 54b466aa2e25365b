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
import secrets
from collections.abc import Iterable

import apache_beam as beam
import polars as pl

from transforms import storage, tables
from transforms.buckets import split_by_bucket


class ExchangeMode(enum.Enum):
    """How tables travel through the shuffle."""

    BY_VALUE = "value"
    BY_REFERENCE = "reference"


@dataclasses.dataclass(frozen=True, order=True)
class _Slice:
    """Where a spilled table lies; ordered by (source, position)."""

    source: str
    position: int
    path: str
    offset: int
    length: int


class _SpillFn(beam.DoFn):
    """Appends each table's buckets to one spill file and yields references to them."""

    def __init__(self, spill_root: str, bucket_count: int) -> None:
        self._spill_root = spill_root
        self._bucket_count = bucket_count

    def process(
        self, element: tuple[str, int, pl.DataFrame]
    ) -> Iterable[tuple[int, tuple[str, int, str, int, int]]]:
        source, position, table = element
        # A retried element writes a new file; the references of the lost try are never emitted.
        path = storage.join(self._spill_root, f"{secrets.token_hex(8)}.arrow")
        references, offset = [], 0
        with storage.create_writer(path) as stream:
            for bucket, rows in split_by_bucket(table, self._bucket_count):
                data = tables.to_ipc(rows)
                stream.write(data)
                references.append((bucket, (source, position, path, offset, len(data))))
                offset += len(data)
        return references


def _encode_slices(
    element: tuple[str, int, pl.DataFrame], bucket_count: int
) -> Iterable[tuple[int, tuple[str, int, bytes]]]:
    source, position, table = element
    for bucket, rows in split_by_bucket(table, bucket_count):
        yield bucket, (source, position, tables.to_ipc(rows))


def _load_values(values: Iterable[tuple[str, int, bytes]]) -> list[pl.DataFrame]:
    return [tables.from_ipc(data) for _, _, data in sorted(values, key=lambda value: value[:2])]


def _load_references(
    references: Iterable[tuple[str, int, str, int, int]],
) -> list[pl.DataFrame]:
    loaded = []
    for reference in sorted(_Slice(*fields) for fields in references):
        with storage.open_read(reference.path) as stream:
            stream.seek(reference.offset)
            loaded.append(tables.from_ipc(stream.read(reference.length)))
    return loaded


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
        if self.mode is ExchangeMode.BY_REFERENCE:
            keyed = pcoll | "SpillTables" >> beam.ParDo(
                _SpillFn(self.spill_root, self.bucket_count)
            ).with_output_types(tuple[int, tuple[str, int, str, int, int]])
            load = _load_references
        else:
            keyed = pcoll | "EncodeTables" >> beam.FlatMap(
                _encode_slices, self.bucket_count
            ).with_output_types(tuple[int, tuple[str, int, bytes]])
            load = _load_values  # type: ignore[assignment]
        return (
            keyed
            | "GroupByBucket" >> beam.GroupByKey()
            | "LoadBucket"
            >> beam.MapTuple(
                lambda bucket, slices: (bucket, pl.concat(load(slices)))
            ).with_output_types(tuple[int, pl.DataFrame])
        )
