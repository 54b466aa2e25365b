"""Writing the same rows as TFRecord and as Parquet, in one run.

    python -m benchmarks.tfrecord --rows 200000 --runs 3

Contenders, each to a file that is read back and hashed where Playhead does so:

  parquet        transforms.files.write_table, zstd level 1: Polars, on all cores
  parquet shard  transforms.shards.write_shard: Arrow, with what readers of a dataset want
  tfrecord       transforms.tfrecord.write_tfrecord
  tfrecord.gz    the same, compressed
  blocks         transforms.tfrecord.file_blocks alone: encoded and framed, not written
  tfx_bsl        RecordBatchToExamplesEncoder, framed record by record, not written

The table is like ranking rows: ids, categories, counters, instants, flags, floats, two histories;
half of the columns have nulls. Prints rows a second, and time and CPU time over those of Parquet,
best of `--runs`; CPU time is what counts where buckets already keep all cores busy. Exit code 1 if
the first rows of tfx_bsl and Playhead differ.
"""

from __future__ import annotations

import argparse
import pathlib
import struct
import sys
import tempfile
import time
from collections.abc import Callable

import google_crc32c
import numpy as np
import polars as pl
import pyarrow as pa
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder, RecordBatchToExamplesEncoder

from schemas import forms
from transforms import files, shards, tfrecord
from transforms.manifest import ColumnEntry
from transforms.specs import OutputSpec

SEED = 7
START_US = 1_767_571_200_000_000  # 2026-01-05
HISTORY = 10
COMPARED_ROWS = 1_000
BATCH_ROWS = 10_000


def ranking_rows(rows: int) -> pl.DataFrame:
    """55 columns; values and cardinalities as the simulator's."""
    random = np.random.Generator(np.random.PCG64(SEED))

    def ids(prefix: str, count: int) -> pl.Series:
        names = np.array([f"{prefix}{i:08x}" for i in range(count)])
        return pl.Series(names[(count * random.random(rows) ** 3).astype(np.int64)])

    def counts(top: int) -> pl.Series:
        return pl.Series((top * random.random(rows) ** 4).astype(np.int64))

    columns = {
        "event_id": pl.Series([f"{value:016x}" for value in random.integers(0, 2**62, rows)]),
        "event_time": pl.Series(START_US + random.integers(0, 5 * 86_400_000_000, rows)).cast(
            pl.Datetime("us", "UTC")
        ),
        "session_id": pl.Series(random.integers(-(2**62), 2**62, rows // 25 + 1)).sample(
            rows, with_replacement=True, seed=SEED
        ),
        **{f"{name}_id": ids(name, 20_000) for name in ("user", "track", "artist", "album")},
        "request_id": ids("request", rows // 8 + 1),
        **{f"category_{i}": ids("", 1 + i) for i in range(10)},
        **{f"user_count_{i}_7d": counts(4 ** (i + 1)) for i in range(6)},
        **{f"item_count_{i}_7d": counts(4 ** (i + 1)) for i in range(6)},
        **{f"session_count_{i}": counts(2 ** (i + 2)) for i in range(5)},
        **{f"label_or_flag_{i}": pl.Series(random.random(rows) < i / 20) for i in range(10)},
        **{f"gap_{i}_ms": counts(10 ** (6 + i)) for i in range(4)},
        **{f"share_{i}": pl.Series(np.round(random.random(rows), 2 + 4 * i)) for i in range(4)},
    }
    for i, name in enumerate(columns):
        if i % 2 and not name.endswith("_id"):
            known = pl.Series(random.random(rows) < 0.2 + 0.016 * i)
            columns[name] = pl.select(pl.when(known).then(columns[name])).to_series()
    lengths = random.integers(0, HISTORY + 1, rows)
    offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int64())
    items = int(lengths.sum())
    for name, values in (
        ("history_track_ids", columns["track_id"].sample(items, with_replacement=True, seed=SEED)),
        ("history_ms_ago", pl.Series(random.integers(0, 7 * 86_400_000, items))),
    ):
        columns[name] = pl.Series(pa.LargeListArray.from_arrays(offsets, values.to_arrow()))
    return pl.DataFrame(columns)


def stock_examples(table: pl.DataFrame) -> list[bytes]:
    """What tfx_bsl makes of a table, its columns as it wants them: lists of three types."""
    arrays = []
    for column in table:
        values = column
        if not isinstance(column.dtype, pl.List):
            values = column.to_physical().reshape((len(column), 1)).cast(pl.List(column.dtype))
            values = pl.select(pl.when(column.is_not_null()).then(values)).to_series()
        inner = values.dtype.inner  # type: ignore[attr-defined]
        kind = pa.large_binary() if inner == pl.String else pa.int64()
        kind = pa.float32() if inner == pl.Float64 else kind
        arrays.append(values.to_arrow().cast(pa.large_list(kind)))
    return RecordBatchToExamplesEncoder().encode(pa.RecordBatch.from_arrays(arrays, table.columns))


def stock_file(table: pl.DataFrame) -> bytes:
    def masked(data: bytes) -> bytes:
        checksum = google_crc32c.value(data)
        return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    framed = []
    for batch in table.iter_slices(BATCH_ROWS):
        for record in stock_examples(batch):
            length = struct.pack("<Q", len(record))
            framed += [length, masked(length), record, masked(record)]
    return b"".join(framed)


def same_rows(table: pl.DataFrame) -> bool:
    def decoded(records: list[bytes]) -> pa.RecordBatch:
        batch = ExamplesToRecordBatchDecoder().DecodeBatch(records)
        return batch.select(sorted(batch.schema.names))

    ours = [each.as_py() for block in tfrecord.encode_records(table, "example") for each in block]
    return decoded(ours).equals(decoded(stock_examples(table)))


def measure(runs: int, contenders: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Best wall and CPU seconds; the contenders take turns."""
    best = {name: [float("inf")] * 2 for name in contenders}
    for _ in range(runs):
        for name, work in contenders.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            work()
            spent = [time.perf_counter() - wall_s, time.process_time() - cpu_s]
            best[name] = [min(pair) for pair in zip(best[name], spent, strict=True)]
    return best


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(argv)
    table = ranking_rows(options.rows)
    if not same_rows(table[:COMPARED_ROWS]):
        print("tfx_bsl and Playhead disagree")
        return 1
    columns = tuple(
        ColumnEntry(name=name, type=forms.type_name(kind), identifier="_id" in name)
        for name, kind in table.schema.items()
    )
    shard = shards.Shard(0, 1, 0, 31)
    output = OutputSpec(formats=("parquet",))
    with tempfile.TemporaryDirectory() as folder:
        best = measure(
            options.runs,
            {
                "parquet": lambda: files.write_table(table, folder, "a.parquet", "train"),
                "parquet shard": lambda: shards.write_shard(
                    table, columns, shard, "train", folder, output, "example"
                ),
                "tfrecord": lambda: tfrecord.write_tfrecord(table, folder, "a.tfrecord", "train"),
                "tfrecord.gz": lambda: tfrecord.write_tfrecord(
                    table, folder, "a.tfrecord.gz", "train", gzip=True
                ),
                "blocks": lambda: sum(map(len, tfrecord.file_blocks(table, "example", False))),
                "tfx_bsl": lambda: stock_file(table),
            },
        )
        sizes = {path.name[2:]: path.stat().st_size for path in pathlib.Path(folder).glob("a.*")}
    print(f"{table.height:,} rows of {table.width} columns; both encoders made the same rows")
    print(f"{'':13} {'rows/s':>10} {'x time':>7} {'x CPU':>6} {'bytes/row':>10}")
    for name, (wall_s, cpu_s) in best.items():
        size = f"{sizes[name] / table.height:,.0f}" if name in sizes else ""
        print(
            f"{name:13} {table.height / wall_s:10,.0f} {wall_s / best['parquet'][0]:7.1f} "
            f"{cpu_s / best['parquet'][1]:6.1f} {size:>10}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
