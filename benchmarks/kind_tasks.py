"""What `benchmarks.kinds` measures of a kind of dataset, each task in a process of its own.

    python -m benchmarks.kind_tasks build --store DIR --spec ranking --out DIR \
        --start-date D --end-date D

| Task    | Does                                                                             |
|---------|----------------------------------------------------------------------------------|
| build   | one build as a user would run it                                                 |
| bucket  | one build with a bucket a shard and a bucket at a time                           |
| summary | builds in turn with and without all that tells of the rows: statistics, tallies, |
|         | exposure, gates, report, card; the first one, with, is not timed                 |
| formats | the train rows of the first shard in turn as Parquet, as TFRecord, and as stock  |
|         | tools make TFRecord: the encoder of tfx_bsl, which knows Example alone, and      |
|         | Beam's framing, from Arrow lists that are made before the clock starts           |

The last line printed is JSON; clocks start after imports.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import pathlib
import shutil
import sys
import time
import unittest.mock
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from benchmarks.statistics import tfdv_batch
from pipelines import build, cli

cli.quiet_imports()
OPTIONS = cli.beam_options([])

from apache_beam.io.tfrecordio import _TFRecordUtil  # noqa: E402
from tfx_bsl.coders import example_coder  # noqa: E402

from transforms import building, finishing, shards, storage  # noqa: E402
from transforms.building import BuildPlan, Summary  # noqa: E402
from transforms.finishing import FinishDataset  # noqa: E402
from transforms.publish import Draft, Finished  # noqa: E402
from transforms.tfrecord import Layout  # noqa: E402

Planned = tuple[Draft, BuildPlan, FinishDataset, int]


def plan(args: argparse.Namespace, out: pathlib.Path) -> Planned:
    """What `playhead build` would do."""
    words = ["--store", args.store, "--spec", args.spec, "--output", str(out)]
    words += ["--start-date", args.start_date, "--end-date", args.end_date]
    shutil.rmtree(out, ignore_errors=True)
    return build.plan(build.build_parser().parse_args(words), cli.runner_name(OPTIONS))


def run(planned: Planned) -> dict[str, Any]:
    """Builds; returns seconds and counts."""
    draft, build_plan, finish, bucket_count = planned
    wall, cpu = time.monotonic(), time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):  # progress
        published = cli.run_and_publish(
            draft,
            OPTIONS,
            {"build": float(bucket_count)},
            lambda pipeline: build.build_graph(pipeline, draft, build_plan, finish, bucket_count),
        )
    assert published is not None
    return {
        "work_s": time.monotonic() - wall,
        "work_cpu_s": time.process_time() - cpu,
        "events": published.counts["events"],
        "rows": published.counts["examples"],
    }


def build_once(args: argparse.Namespace) -> dict[str, Any]:
    return {**run(plan(args, args.out)), "peak_mib": _memory_mib("VmHWM")}


def build_by_bucket(args: argparse.Namespace) -> dict[str, Any]:
    draft, build_plan, finish, bucket_count = plan(args, args.out)
    output = build_plan.spec.output.model_copy(update={"shards": bucket_count})
    spec = build_plan.spec.model_copy(update={"output": output})
    build_plan = dataclasses.replace(build_plan, spec=spec, threads=1)
    before = _memory_mib("VmRSS")
    result = run((draft, build_plan, finish, bucket_count))
    in_bucket: collections.Counter[int] = collections.Counter()
    for each in build_plan.event_partitions:
        for entry in each.open().files_of("events"):
            in_bucket[entry.first_bucket or 0] += entry.rows
    return {
        **result,
        "buckets": bucket_count,
        "largest_bucket": max(in_bucket.values()),
        "added_mib": _memory_mib("VmHWM") - before,
    }


def _memory_mib(name: str) -> float:
    """VmRSS (now) or VmHWM (the most) of this process. What getrusage calls the largest counts the
    process that started this one."""
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(x.split()[1]) / 1024 for x in status.splitlines() if x.startswith(name))


def compare_summaries(args: argparse.Namespace) -> dict[str, Any]:
    run(plan(args, args.out))
    timed: dict[str, list[dict[str, Any]]] = {"with": [], "without": []}
    ways = {"with": contextlib.nullcontext, "without": nothing_told}
    for turn in range(args.runs):
        # Each way is first every other time: the machine may grow faster or slower.
        for name in sorted(ways, reverse=turn % 2 > 0):
            with ways[name]():
                timed[name].append(run(plan(args, args.out)))
    return timed


@contextlib.contextmanager
def nothing_told() -> Any:
    """Builds write rows and manifest, and nothing about the rows."""

    def bare(
        _: FinishDataset, draft: Draft, counts: Any, entries: Any, _summaries: Any
    ) -> Finished:
        return Finished(draft.manifest(entries, counts, sum(counts["splits"].values())), [])

    def empty(_table: Any, _plan: Any, shard: shards.Shard, split: str, _plays: Any) -> Summary:
        return Summary(shard.index, split, {}, b"")

    with (
        unittest.mock.patch.object(building, "summarize", empty),
        unittest.mock.patch.object(building, "_popularity", return_value=None),
        unittest.mock.patch.object(building, "_EXPOSED", ()),
        unittest.mock.patch.object(finishing.FinishDataset, "__call__", bare),
    ):
        yield


def compare_formats(args: argparse.Namespace) -> dict[str, Any]:
    _, build_plan, _, bucket_count = plan(args, args.out)
    building.write_side_tables(build_plan)
    shard = shards.plan_shards(bucket_count, build_plan.spec.output.shards)[0]
    side = building.load_side_tables(build_plan)
    table = building.build_shard(shard, build_plan, side).tables["train"]
    columns, root = build_plan.columns, build_plan.attempt_root
    layout: Layout = (
        "sequence_example" if build_plan.spec.kind in building._SEQUENTIAL else "example"
    )
    batch = _stock_batch(tfdv_batch(table, columns))

    def write(form: str) -> None:
        output = build_plan.spec.output.model_copy(update={"formats": (form,)})
        shards.write_shard(table, columns, shard, "train", root, output, layout)

    def write_stock() -> None:
        with storage.create_writer(storage.join(root, "train", "stock.tfrecord")) as stream:
            for record in example_coder.RecordBatchToExamplesEncoder().encode(batch):
                _TFRecordUtil.write_record(stream, record)

    work: dict[str, Callable[[], None]] = {
        "parquet": lambda: write("parquet"),
        "tfrecord": lambda: write("tfrecord"),
        "stock": write_stock,
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(args.runs + 1):
        for name, do in work.items():
            shutil.rmtree(storage.join(root, "train"), ignore_errors=True)  # replacing costs more
            wall, cpu = time.monotonic(), time.process_time()
            do()
            if turn:  # the first one is not timed
                seconds[name].append(time.monotonic() - wall)
                cpu_seconds[name].append(time.process_time() - cpu)
    return {
        "rows": table.height,
        "columns": len(columns),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def _stock_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """With the types that tfx_bsl's encoder takes: 32-bit floats and bytes."""
    known = {pa.float64(): pa.float32(), pa.string(): pa.binary(), pa.large_string(): pa.binary()}
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        inner = getattr(column.type, "value_type", None)
        columns[name] = column.cast(pa.list_(known[inner])) if inner in known else column
    return pa.RecordBatch.from_pydict(columns)


TASKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "build": build_once,
    "bucket": build_by_bucket,
    "summary": compare_summaries,
    "formats": compare_formats,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.kind_tasks")
    parser.add_argument("task", choices=TASKS)
    for name in ("--store", "--spec", "--start-date", "--end-date"):
        parser.add_argument(name, required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    started = time.monotonic()
    result = TASKS[args.task](args)
    print(json.dumps({"work_s": time.monotonic() - started, **result}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
