"""One shard of a split, as model code reads it: Parquet, and the same rows as TFRecord.

    <split>/part-00003-of-00008.parquet
    <split>/part-00003-of-00008.tfrecord[.gz]

Parquet is written for its readers: row groups of 65,536 rows (a worker of a training job reads one
at a time), a checksum on every page, and dictionaries for what repeats but not for ids, whose
dictionary is as large as the column.
"""

from __future__ import annotations

import dataclasses

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import files, storage
from transforms.manifest import ColumnEntry, FileEntry
from transforms.specs import OutputSpec
from transforms.tfrecord import Layout, write_tfrecord

ROW_GROUP_ROWS = 65_536


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to be: `index` of `total`, and its inclusive range of buckets."""

    index: int
    total: int
    first_bucket: int
    last_bucket: int

    @property
    def buckets(self) -> tuple[int, int]:
        return self.first_bucket, self.last_bucket

    def path(self, split: str, suffix: str) -> str:
        """Of a split's file, relative to the attempt."""
        return f"{split}/part-{self.index:05d}-of-{self.total:05d}.{suffix}"


def plan_shards(bucket_count: int, wanted: int) -> list[Shard]:
    """Splits buckets into equal contiguous ranges; both counts are powers of two."""
    total = min(wanted, bucket_count)
    width = bucket_count // total
    return [Shard(i, total, i * width, (i + 1) * width - 1) for i in range(total)]


def write_shard(
    table: pl.DataFrame,
    columns: tuple[ColumnEntry, ...],
    shard: Shard,
    split: str,
    attempt_root: str,
    output: OutputSpec,
    layout: Layout,
) -> list[FileEntry]:
    """Writes a split's rows of a shard in every format of the spec, and reads them back.

    Args:
      table: rows in the order in which they are written.
      columns: of the table.
      shard, split: where they belong.
      attempt_root: the attempt's folder.
      output: formats.
      layout: of a TFRecord.
    """
    entries = []
    if "parquet" in output.formats:
        path = shard.path(split, "parquet")
        write_parquet(table, columns, storage.join(attempt_root, path))
        entries.append(files.describe(attempt_root, path, split, table.height, shard.buckets))
    if "tfrecord" in output.formats:
        suffix = "tfrecord.gz" if output.tfrecord_gzip else "tfrecord"
        path = shard.path(split, suffix)
        entries.append(
            write_tfrecord(
                table, attempt_root, path, split, shard.buckets, layout, output.tfrecord_gzip
            )
        )
    return entries


def write_parquet(table: pl.DataFrame, columns: tuple[ColumnEntry, ...], path: str) -> None:
    """Writes a Parquet file; same table, same bytes."""
    arrow = table.to_arrow(compat_level=pl.CompatLevel.oldest())
    arrow = arrow.cast(pa.schema([_plain(field) for field in arrow.schema]))
    repeating = [
        leaf
        for column in columns
        if not column.identifier and "double" not in column.type
        for leaf in [f"{column.name}.list.element" if "list" in column.type else column.name]
    ]
    with storage.writing(path) as stream:
        pq.write_table(
            arrow,
            stream,
            row_group_size=ROW_GROUP_ROWS,
            use_dictionary=repeating,
            compression="zstd",
            compression_level=1,
            write_page_checksum=True,
            store_schema=False,
        )


def _plain(field: pa.Field) -> pa.Field:
    """Without 64-bit offsets, which readers other than Arrow's have no name for."""
    kind = field.type
    if pa.types.is_large_string(kind):
        kind = pa.string()
    elif pa.types.is_large_list(kind):
        inner = kind.value_type
        kind = pa.list_(pa.string() if pa.types.is_large_string(inner) else inner)
    return pa.field(field.name, kind)
