"""Statistics of ranking-like rows: `transforms.statistics` against TFDV, in one process.

    python -m benchmarks.statistics --rows 200000 --runs 3

Both summarize the same 55 columns (identifiers, categories, counts, durations, labels, two lists
of ten) on one core, turn by turn; TFDV by `generate_statistics_in_memory`, its fastest way, on
Arrow lists that are made before the clock starts. Prints rows a second and the ratio of medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # before Polars is imported

import numpy as np
import polars as pl
import pyarrow as pa

from schemas import forms
from transforms.manifest import ColumnEntry
from transforms.statistics import SplitStatistics, element_type

HISTORY = 10
_CATALOG = 50_000
_CATEGORIES = {
    "event_type": 1, "surface": 5, "shelf": 12, "policy_id": 2, "model_version": 3,
    "experiment_id": 2, "variant": 2, "platform": 4, "country": 30, "source": 1,
}  # fmt: skip
_FLAGS = (
    "is_exploration", "shuffle", "premium", "label_played", "label_streamed_30s", "label_skip_1",
    "label_skip_2", "label_skip_3", "label_liked", "label_saved",
)  # fmt: skip
_COUNTS = 14
_DURATIONS = 5


def ranking_like(rows: int, seed: int = 1) -> tuple[pl.DataFrame, tuple[ColumnEntry, ...]]:
    """Rows with the kinds of columns of a ranking dataset, and these columns."""
    draw = np.random.default_rng(seed)
    tracks = np.minimum(draw.zipf(1.3, rows), _CATALOG)
    heard = np.minimum(draw.zipf(1.3, (rows, HISTORY)), _CATALOG)
    names = np.array([f"track-{i:08d}" for i in range(_CATALOG + 1)])

    def ids(prefix: str, numbers: Any) -> pl.Series:
        return pl.Series([f"{prefix}-{number:012x}" for number in numbers.tolist()])

    def some(values: Any, share: float) -> pl.Series:
        given = pl.Series(draw.random(rows) < share)
        return pl.select(pl.when(given).then(pl.Series(values))).to_series()

    identifiers = {
        "event_id": ids("event", draw.integers(0, 1 << 62, rows)),
        "user_id": ids("user", draw.integers(0, rows // 60 + 10, rows)),
        "track_id": pl.Series(names[tracks]),
        "artist_id": ids("artist", tracks // 10),
        "album_id": ids("album", tracks // 3),
        "request_id": ids("request", draw.integers(0, rows // 8 + 1, rows)),
        "context_uri": ids("playlist", draw.integers(0, 3_000, rows)),
        "session_id": pl.Series(draw.integers(0, 1 << 62, rows)),
        "history_track_ids": pl.Series(names[heard].tolist()),
    }
    week_us = 7 * 86_400 * 1_000_000
    others: dict[str, pl.Series] = {
        "event_time": pl.Series(draw.integers(0, week_us, rows)).cast(pl.Datetime("us", "UTC")),
        "history_ms_ago": pl.Series(draw.integers(0, week_us // 1_000, heard.shape).tolist()),
        "position": pl.Series(draw.integers(0, 20, rows).astype(np.int32)),
        "candidate_set_size": pl.Series(draw.integers(100, 600, rows).astype(np.int32)),
        "propensity": some(draw.beta(2, 5, rows), 0.7),
        "label_completion": some(np.minimum(1.4 * draw.random(rows), 1), 0.9),
        "label_reward": pl.Series(draw.normal(0, 1, rows).round(1)),
        **{
            name: some([f"{name}-{i}" for i in draw.integers(0, distinct, rows)], 0.8)
            for name, distinct in _CATEGORIES.items()
        },
        **{name: pl.Series(draw.random(rows) < 0.2) for name in _FLAGS},
        **{f"plays_{i}": pl.Series(draw.poisson(3 * i, rows)) for i in range(_COUNTS)},
        **{
            f"ms_{i}": some(draw.lognormal(10, 2, rows).astype(np.int64), 0.8)
            for i in range(_DURATIONS)
        },
    }
    table = pl.DataFrame({**identifiers, **others})
    return table, tuple(
        ColumnEntry(name=name, type=forms.type_name(kind), identifier=name in identifiers)
        for name, kind in table.schema.items()
    )


def tfdv_batch(table: pl.DataFrame, columns: tuple[ColumnEntry, ...]) -> pa.RecordBatch:
    """The table as TFDV takes it: every column a list of bytes, of int64 or of float64."""
    kinds = {"string": pa.large_binary(), "double": pa.float64()}
    arrays = []
    for column in columns:
        values, kind = table[column.name], kinds.get(element_type(column), pa.int64())
        if isinstance(values.dtype, pl.List):
            arrays.append(values.to_arrow().cast(pa.large_list(kind)))
        else:
            flat = values.to_physical().to_arrow().cast(kind)
            offsets = np.append(0, np.cumsum(values.is_not_null().to_numpy()))
            lists = pa.LargeListArray.from_arrays(
                pa.array(offsets, mask=np.append(values.is_null().to_numpy(), False)),
                flat.drop_null(),
            )
            arrays.append(lists)
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.statistics", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rows", type=int, default=200_000, metavar="N")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    args = parser.parse_args(argv)

    import tensorflow_data_validation as tfdv
    from tensorflow_data_validation.statistics import stats_impl

    table, columns = ranking_like(args.rows)
    batch = tfdv_batch(table, columns)

    def ours() -> None:
        made = SplitStatistics(columns)
        made.add(table)
        made.extract("train")

    def theirs() -> None:
        stats_impl.generate_statistics_in_memory(batch, tfdv.StatsOptions())

    seconds: dict[str, list[float]] = {"transforms.statistics": [], "TFDV in memory": []}
    for _ in range(args.runs):
        for name, work in zip(seconds, (ours, theirs), strict=True):
            # CPU time: another process on the machine must not decide.
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, middle in medians.items():
        print(f"{name:<24}{args.rows / middle:>12,.0f} rows/s of {len(columns)} columns")
    first, second = medians.values()
    print(f"ratio {second / first:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
