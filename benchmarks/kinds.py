"""Every kind of dataset from one store: events a second, what statistics and gates add, TFRecord
against Parquet, memory of a bucket.

    python -m benchmarks.kinds --events 4000000 --runs 5 [--write-docs]

Makes the input of `benchmarks.run` and stores of it, then runs each task of
`benchmarks.kind_tasks` for each shipped spec in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import run
from pipelines import ingest

KINDS = ("ranking", "retrieval", "sequences", "sessions")
BUCKETS = 32
PAGE = run.REPOSITORY / "docs" / "benchmarks_kinds.md"
LAST = run.START + datetime.timedelta(days=run.DAYS - 1)


def make_store(folder: pathlib.Path, data: run.Data, buckets: int) -> pathlib.Path:
    """One import of all raw files, unless it is there already."""
    store = folder / f"store-{buckets}"
    if not store.exists():
        words = [word for pattern in data.patterns for word in ("--input", pattern)]
        words += ["--format", "parquet", "--store", str(store), "--all-days"]
        words += ["--date", data.import_date.isoformat(), "--buckets", str(buckets)]
        words += ["--max-quarantine", "0.01"]  # of few events, one may be more than the default
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            ingest.run(words)
    return store


def perform(task: str, kind: str, store: pathlib.Path, out: pathlib.Path, runs: int) -> Any:
    """What a task reports.

    Raises:
      ContenderError: if it fails.
    """
    command = [
        sys.executable, "-W", "ignore", "-m", "benchmarks.kind_tasks", task, "--store", str(store),
        "--spec", kind, "--out", str(out), "--start-date", run.START.isoformat(),
        "--end-date", LAST.isoformat(), "--runs", str(runs),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=run.REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise run.ContenderError(f"{task} of {kind} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], form: str) -> str:
    """Median, smallest and largest."""
    low, middle, high = (format(f(values), form) for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


def builds(store: pathlib.Path, out: pathlib.Path, runs: int) -> list[list[str]]:
    """A line a kind: one build as a user runs it; kinds take turns."""
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for _ in range(runs):
        for kind in KINDS:
            found[kind].append(perform("build", kind, store, out, 1))
    lines = [["kind", "events/s", "work s", "CPU s", "peak MiB", "rows"]]
    for kind, each in found.items():
        lines.append(
            [
                kind,
                spread([one["events"] / one["work_s"] for one in each], ",.0f"),
                spread([one["work_s"] for one in each], ".1f"),
                spread([one["work_cpu_s"] for one in each], ".1f"),
                spread([one["peak_mib"] for one in each], ",.0f"),
                f"{each[0]['rows']:,}",
            ]
        )
    return lines


def summaries(store: pathlib.Path, out: pathlib.Path, runs: int) -> list[list[str]]:
    """What statistics, tallies, exposure, gates and pages add, pair by pair."""
    lines = [["kind", "work s without", "added time", "added CPU"]]
    for kind in KINDS:
        timed = perform("summary", kind, store, out, runs)
        pairs = list(zip(timed["with"], timed["without"], strict=True))
        added = [
            spread([a[what] / b[what] - 1 for a, b in pairs], ".0%")
            for what in ("work_s", "work_cpu_s")
        ]
        lines.append([kind, spread([b["work_s"] for _, b in pairs], ".1f"), *added])
    return lines


def formats(store: pathlib.Path, out: pathlib.Path, runs: int) -> list[list[str]]:
    """TFRecord against Parquet for the same rows, written and read back."""
    lines = [
        [
            "kind",
            "rows",
            "Parquet rows/s",
            "TFRecord rows/s",
            "TFRecord",
            "its CPU",
            "stock TFRecord",
        ]
    ]
    for kind in KINDS:
        told = perform("formats", kind, store, out, runs)
        rows, seconds = told["rows"], told["seconds"]
        rates = [[rows / each for each in seconds[name]] for name in ("parquet", "tfrecord")]
        against = [
            [a / b for a, b in zip(clock[name], clock["parquet"], strict=True)]
            for name, clock in (
                ("tfrecord", seconds),
                ("tfrecord", told["cpu_seconds"]),
                ("stock", seconds),
            )
        ]
        lines.append(
            [
                kind,
                f"{rows:,}",
                *(spread(each, ",.0f") for each in rates),
                *(spread(each, ".2f") for each in against),
            ]
        )
    return lines


def buckets(stores: list[pathlib.Path], out: pathlib.Path) -> list[list[str]]:
    """Memory of a build that holds one bucket at a time, over what was there before."""
    lines = [
        ["kind", "events", "buckets", "events of the largest", "added MiB", "bytes an event of it"]
    ]
    for kind in KINDS:
        for store in stores:
            told = perform("bucket", kind, store, out, 1)
            each = told["added_mib"] * (1 << 20) / told["largest_bucket"]
            lines.append(
                [
                    kind,
                    f"{told['events']:,}",
                    f"{told['buckets']}",
                    f"{told['largest_bucket']:,}",
                    f"{told['added_mib']:,.0f}",
                    f"{each:,.0f}",
                ]
            )
    return lines


NOTES = {
    "Builds": "As a user runs them, on all cores; work is without start-up and imports.",
    "What statistics, gates and pages add": """\
A build with statistics, tallies, exposure checks, gates, report and card over one that only writes
the same rows, in turn in one process. To be at most 20 % of the time.""",
    "TFRecord against Parquet": """\
The train rows of a shard, written, read back and hashed, in turn in one process. The last three
columns are seconds over those of Parquet, and ours are to be at most 2. Stock is the encoder of
tfx_bsl with Beam's framing, without reading back; it has no SequenceExample, which sequences and
sessions are, and makes Examples of them.""",
    "Memory": """\
A shard a bucket, one at a time; what the process held before is left out. The peak follows the
events of a bucket, not those of the input.""",
}


# What the page begins with, of each kind's first line of a section.
GLANCE = {
    "events/s": ("Builds", "events/s"),
    "added by statistics, gates, pages": ("What statistics, gates and pages add", "added time"),
    "TFRecord over Parquet": ("TFRecord against Parquet", "TFRecord"),
    "MiB added by a bucket": ("Memory", "added MiB"),
    "bytes an event of it": ("Memory", "bytes an event of it"),
}


def glance(sections: dict[str, list[list[str]]]) -> list[list[str]]:
    """The figures of GLANCE, a line a kind."""

    def figure(kind: str, title: str, column: str) -> str:
        head, *lines = sections[title]
        return next(line[head.index(column)] for line in lines if line[0] == kind)

    return [
        ["kind", *GLANCE],
        *([kind, *(figure(kind, *where) for where in GLANCE.values())] for kind in KINDS),
    ]


def _markdown(table: list[list[str]]) -> list[str]:
    head, *lines = (f"| {' | '.join(cells)} |" for cells in table)
    return [head, "| --- |" + " ---: |" * (len(table[0]) - 1), *lines, ""]


def page(events: int, runs: int, sections: dict[str, list[list[str]]]) -> str:
    """The measurements as Markdown."""
    lines = [
        "# Benchmarks of the kinds", "",
        f"{events:,} raw events of {run.DAYS} days in a store of {BUCKETS} buckets, the shipped",
        f"specs: medians of {runs} runs, with the smallest and the largest. Written by",
        "`make bench KINDS_ARGS=--write-docs`.", "",
    ]  # fmt: skip
    lines += _markdown(glance(sections))
    for title, table in sections.items():
        lines += [f"## {title}", "", NOTES[title], "", *_markdown(table)]
    return "\n".join([*lines, *run.machine_lines(), ""])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.kinds", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=4_000_000, metavar="N")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("bench"))
    parser.add_argument("--write-docs", action="store_true", help=f"write docs/{PAGE.name}")
    args = parser.parse_args(argv)
    workdir, runs = args.workdir.resolve(), args.runs
    # A quarter of the input in a quarter of the buckets: buckets as large as those of the whole.
    inputs = [run.make_data(workdir / f"data-{n}", n) for n in (args.events, args.events // 4)]
    (data, quarter), out = inputs, workdir / "out-kinds"
    folders = [workdir / f"stores-{n}" for n in (args.events, args.events // 4)]
    store, *others = (make_store(folders[0], data, n) for n in (BUCKETS, 2 * BUCKETS, BUCKETS // 4))
    small = make_store(folders[1], quarter, BUCKETS // 4)
    measures: dict[str, Callable[[], list[list[str]]]] = {
        "Builds": lambda: builds(store, out, runs),
        "What statistics, gates and pages add": lambda: summaries(store, out, runs),
        "TFRecord against Parquet": lambda: formats(store, out, runs),
        "Memory": lambda: buckets([store, *others, small], out),
    }
    sections: dict[str, list[list[str]]] = {}
    try:
        for title, measured in measures.items():
            sections[title] = measured()
            print(f"\n{title} (load {os.getloadavg()[0]:.1f})")
            run.print_table(sections[title])
            sys.stdout.flush()
        print("\nAt a glance")
        run.print_table(glance(sections))
    except run.ContenderError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(out, ignore_errors=True)
    if args.write_docs:
        PAGE.write_text(page(data.rows, runs, sections))
    return 0


if __name__ == "__main__":
    sys.exit(main())
