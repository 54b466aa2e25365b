"""Every kind of dataset from one store: events a second, what statistics and gates add, TFRecord
against Parquet, memory of a bucket.

    python -m benchmarks.kinds --events 4000000 --runs 3 [--write-docs]

Makes the input of `benchmarks.run` and one store of it, then runs each task of
`benchmarks.kind_tasks` for each shipped spec in a process of its own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
from typing import Any

from benchmarks import run
from pipelines import ingest

KINDS = ("ranking", "retrieval", "sequences", "sessions")
PAGE = run.REPOSITORY / "docs" / "benchmarks_kinds.md"
_LAST = run.START + datetime.timedelta(days=run.DAYS - 1)


def make_store(folder: pathlib.Path, data: run.Data, buckets: int) -> pathlib.Path:
    """One import of all raw files, unless it is there already."""
    store = folder / f"store-{buckets}"
    if not (store / "store.json").exists():
        words = [word for pattern in data.patterns for word in ("--input", pattern)]
        words += ["--format", "parquet", "--store", str(store), "--all-days"]
        words += ["--date", data.import_date.isoformat(), "--buckets", str(buckets)]
        ingest.run(words)
    return store


def perform(task: str, kind: str, store: pathlib.Path, out: pathlib.Path, runs: int) -> Any:
    """What a task reports, and `peak_mib` of its process."""
    command = [
        sys.executable, "-W", "ignore", "-m", "benchmarks.kind_tasks", task, "--store", str(store),
        "--spec", kind, "--out", str(out), "--start-date", run.START.isoformat(),
        "--end-date", _LAST.isoformat(), "--runs", str(runs),
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=run.REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise run.ContenderError(f"{task} of {kind} ended with {process.returncode}")
    return {**json.loads(printed.splitlines()[-1]), "peak_mib": usage.ru_maxrss / 1024}


def spread(values: list[float], form: str) -> str:
    """Median, smallest and largest."""
    low, middle, high = (format(f(values), form) for f in (min, statistics.median, max))
    return f"{middle} ({low}-{high})"


def builds(store: pathlib.Path, out: pathlib.Path, runs: int) -> list[str]:
    """A line a kind: one build as a user runs it; kinds take turns."""
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for _ in range(runs):
        for kind in KINDS:
            found[kind].append(perform("build", kind, store, out, 1))
    lines = ["| kind | events/s | work s | CPU s | peak MiB | rows |", "| --- |" + " ---: |" * 5]
    for kind, each in found.items():
        rate = [one["events"] / one["work_s"] for one in each]
        cells = [spread(rate, ",.0f"), spread([one["work_s"] for one in each], ".1f")]
        cells += [spread([one["work_cpu_s"] for one in each], ".1f")]
        cells += [spread([one["peak_mib"] for one in each], ",.0f"), f"{each[0]['rows']:,}"]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def summaries(store: pathlib.Path, out: pathlib.Path, runs: int) -> list[str]:
    """What statistics, tallies, exposure, gates and pages add, pair by pair."""
    lines = ["| kind | time with / without | CPU with / without |", "| --- | ---: | ---: |"]
    for kind in KINDS:
        timed = perform("summary", kind, store, out, runs)
        ratios = [
            [a[what] / b[what] for a, b in zip(timed["with"], timed["without"], strict=True)]
            for what in ("work_s", "work_cpu_s")
        ]
        lines.append(f"| {kind} | {spread(ratios[0], '.2f')} | {spread(ratios[1], '.2f')} |")
    return lines


def formats(store: pathlib.Path, out: pathlib.Path, runs: int) -> list[str]:
    """TFRecord against Parquet for the same rows, written and read back."""
    lines = [
        "| kind | rows | Parquet rows/s | TFRecord / Parquet | stock TFRecord / Parquet |",
        "| --- |" + " ---: |" * 4,
    ]
    for kind in KINDS:
        told = perform("formats", kind, store, out, runs)
        seconds = told["seconds"]
        against = [
            [a / b for a, b in zip(seconds[name], seconds["parquet"], strict=True)]
            for name in ("tfrecord", "stock")
        ]
        rate = [told["rows"] / each for each in seconds["parquet"]]
        lines.append(
            f"| {kind} | {told['rows']:,} | {spread(rate, ',.0f')} | "
            f"{spread(against[0], '.2f')} | {spread(against[1], '.2f')} |"
        )
    return lines


def buckets(stores: list[pathlib.Path], out: pathlib.Path) -> list[str]:
    """Memory of a build that holds one bucket at a time, over what was there before."""
    lines = [
        "| kind | buckets | events of the largest | added peak MiB | bytes an event |",
        "| --- |" + " ---: |" * 4,
    ]
    for kind in KINDS:
        for store in stores:
            told = perform("bucket", kind, store, out, 1)
            each = told["added_mib"] * (1 << 20) / told["largest_bucket"]
            lines.append(
                f"| {kind} | {told['buckets']} | {told['largest_bucket']:,} | "
                f"{told['added_mib']:,.0f} | {each:,.0f} |"
            )
    return lines


def page(events: int, runs: int, sections: dict[str, list[str]]) -> str:
    """The measurements as Markdown."""
    lines = [
        "# Benchmarks of the kinds", "",
        f"{events:,} raw events of {run.DAYS} days, one store, the shipped specs, {runs} runs:",
        "medians, with the smallest and the largest. Written by",
        "`python -m benchmarks.kinds --write-docs`.", "",
    ]  # fmt: skip
    for title, table in sections.items():
        lines += [f"## {title}", "", *table, ""]
    return "\n".join([*lines, *run.machine_lines(), ""])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.kinds", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=4_000_000, metavar="N")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("bench"))
    parser.add_argument("--write-docs", action="store_true", help=f"write docs/{PAGE.name}")
    args = parser.parse_args(argv)
    workdir = args.workdir.resolve()
    data = run.make_data(workdir / f"raw-{args.events}", args.events)
    folder = workdir / f"stores-{args.events}"
    stores = [make_store(folder, data, buckets) for buckets in (32, 64)]
    out = workdir / "out-kinds"
    sections: dict[str, list[str]] = {}
    for title, table in (
        ("Builds, as a user runs them", lambda: builds(stores[0], out, args.runs)),
        ("What statistics, gates and pages add", lambda: summaries(stores[0], out, args.runs)),
        ("TFRecord against Parquet", lambda: formats(stores[0], out, args.runs)),
        ("Memory, one bucket at a time", lambda: buckets(stores, out)),
    ):
        sections[title] = table()
        print(f"\n{title}", *sections[title], sep="\n", flush=True)
    if args.write_docs:
        PAGE.write_text(page(data.rows, args.runs, sections), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
