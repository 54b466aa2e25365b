"""Playhead against its peers: the same rows from the same raw files, in one run.

    python -m benchmarks.run --events 4000000 --runs 3

Makes the input once, runs every contender `--runs` times in turn (A B C, A B C, ...; the slow ones
once), each in a process of its own, compares what they wrote, and prints medians and ratios. The
row-wise Beam pipeline runs on the raw files whose rows come nearest to a tenth; its time and CPU
time are scaled to all rows, its memory is not. Exit code 1 if two contenders disagree or one fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import pyarrow.parquet as pq

from benchmarks import compare

try:
    import psutil
except ImportError:  # in the test environment; peak memory is then the largest process's
    psutil = None

CONTENDERS = {
    "playhead": "Playhead",
    "duckdb": "DuckDB, one script",
    "polars_script": "Polars, one script",
    "pyspark_script": "PySpark, local[2]",
    "beam_rows": "Beam, row by row",
}
ALIASES = {"polars": "polars_script", "pyspark": "pyspark_script"}
SAMPLED = {"beam_rows"}
SLOW = {"pyspark_script", "beam_rows"}  # minutes each: measured once, whatever --runs says
SAMPLE_SHARE = 0.1
PACKAGES = ("apache-beam", "polars", "duckdb", "pyspark", "pyarrow", "numpy")

REPOSITORY = pathlib.Path(__file__).parents[1]
START = datetime.date(2026, 1, 5)
DAYS = 7
SEED = 7
BROKEN_SHARE = 0.0005
_SAMPLE_S = 0.05


@dataclasses.dataclass(frozen=True)
class Data:
    """Generated input.

    Attributes:
      patterns: globs of all raw files.
      sample: globs of about a tenth of the rows, whole users.
      rows, sample_rows: raw rows in both.
      import_date: day of the last arrival.
    """

    patterns: list[str]
    sample: list[str]
    rows: int
    sample_rows: int
    import_date: datetime.date

    @property
    def scale(self) -> float:
        return self.rows / self.sample_rows


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One run of one contender.

    Attributes:
      work_s: seconds of the work, start-up and imports left out.
      wall_s: seconds of the whole process.
      cpu_s: CPU seconds of the whole process and its children, start-up included.
      peak_mib: largest sum of the proportional set sizes of the process tree.
      written_mib: bytes under its output folder.
    """

    work_s: float
    wall_s: float
    cpu_s: float
    peak_mib: float
    written_mib: float

    def scaled(self, factor: float) -> Measurement:
        """As if all rows had been read; memory stays what was seen."""
        return Measurement(
            self.work_s * factor,
            self.wall_s * factor,
            self.cpu_s * factor,
            self.peak_mib,
            self.written_mib * factor,
        )


class ContenderError(Exception):
    """A contender failed; the message is the end of what it printed."""


def make_data(folder: pathlib.Path, events: int) -> Data:
    """The input, made by the simulator unless it is there already."""
    if not (folder / "truth" / "summary.json").exists():
        command = [
            sys.executable, "-W", "ignore", "-m", "pipelines.simulate", "--output", str(folder),
            "--overwrite", "--events", str(events), "--days", str(DAYS), "--start-date",
            START.isoformat(), "--seed", str(SEED), "--files", str(_file_numbers(events)),
            "--broken-share", str(BROKEN_SHARE), "--truth", "small",
        ]  # fmt: skip
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    raw = folder / "raw" / "parquet"
    rows: dict[str, int] = {}  # by file number
    for path in raw.glob("received=*/part-*.parquet"):
        rows[path.name] = rows.get(path.name, 0) + pq.read_metadata(path).num_rows
    total = sum(rows.values())
    # Files hold whole users, so one file number is a sample of users.
    tenth = min(rows, key=lambda name: (abs(rows[name] - total * SAMPLE_SHARE), name))
    last = max(path.name for path in raw.iterdir()).removeprefix("received=")
    return Data(
        patterns=[str(raw / "received=*" / "*.parquet")],
        sample=[str(raw / "received=*" / tenth)],
        rows=total,
        sample_rows=rows[tenth],
        import_date=datetime.date.fromisoformat(last),
    )


def _file_numbers(events: int) -> int:
    """Files a day: ten, so that one is a tenth; more where that keeps files below 1 M events."""
    return max(10, -(-events // (DAYS * 1_000_000)))


class _TreeSampler(threading.Thread):
    """Largest memory of a process and its children, and the CPU time that they used."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid) if psutil else None
        self._stop_event = threading.Event()
        self.peak = 0
        self._cpu_s: dict[int, float] = {}  # by process

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all processes seen, a child that nobody waits for (Java) included."""
        return sum(self._cpu_s.values())

    def run(self) -> None:
        while self._root and not self._stop_event.wait(_SAMPLE_S):
            self.peak = max(self.peak, self._memory())

    def stop(self) -> None:
        self._stop_event.set()
        self.join()

    def _memory(self) -> int:
        assert self._root is not None
        try:
            family = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return 0
        total = 0
        for process in family:
            try:
                times = process.cpu_times()
                self._cpu_s[process.pid] = times.user + times.system
                # A process alone shares nothing that counts: its RSS is quicker to read.
                total += (
                    process.memory_info().rss
                    if len(family) == 1
                    else process.memory_full_info().pss
                )
            except psutil.Error:
                continue  # it has ended
        return total


def measure(
    name: str, raw: list[str], out: pathlib.Path, import_date: datetime.date
) -> Measurement:
    """Runs a contender in a fresh process and an empty folder.

    Raises:
      ContenderError: if it fails.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    last_day = START + datetime.timedelta(days=DAYS - 1)
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.contenders.{name}"]
    command += [word for pattern in raw for word in ("--raw", pattern)]
    command += ["--out", str(out), "--start-date", START.isoformat()]
    command += ["--end-date", last_day.isoformat(), "--import-date", import_date.isoformat()]
    started = time.monotonic()
    with (out.parent / f"{name}.log").open("w+") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=log, text=True
        )
        sampler = _TreeSampler(process.pid)
        sampler.start()
        assert process.stdout is not None
        printed = process.stdout.read()
        # wait4 also gives the CPU time and the largest RSS of the process and what it waited for.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.monotonic() - started
        sampler.stop()
        log.seek(0)
        if process.returncode != 0:
            raise ContenderError(f"{name} failed: {log.read()[-2000:]}")
    written = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    return Measurement(
        work_s=json.loads(printed.strip().splitlines()[-1])["work_s"],
        wall_s=wall_s,
        cpu_s=max(sampler.cpu_s, usage.ru_utime + usage.ru_stime),
        peak_mib=max(sampler.peak, usage.ru_maxrss * 1024) / 2**20,
        written_mib=written / 2**20,
    )


def run_all(
    data: Data, names: list[str], runs: int, workdir: pathlib.Path
) -> tuple[dict[str, list[Measurement]], list[str]]:
    """All measurements by contender, and what disagrees with the first contender."""
    measured: dict[str, list[Measurement]] = {name: [] for name in names}
    problems: list[str] = []
    for turn in range(runs):
        for name in names:
            if turn and name in SLOW:
                continue
            raw = data.sample if name in SAMPLED else data.patterns
            found = measure(name, raw, workdir / "out" / name, data.import_date)
            load = os.getloadavg()[0]
            print(f"run {turn + 1} {name}: {found.work_s:.1f} s of work, load {load:.1f}")
            sys.stdout.flush()
            measured[name].append(found.scaled(data.scale) if name in SAMPLED else found)
    whole = [name for name in names if name not in SAMPLED]
    problems += check([workdir / "out" / name / "rows" for name in whole])
    sampled = [name for name in names if name in SAMPLED]
    if sampled and whole:
        # Item counts are over all users of the input, so the sample needs its own expectation.
        expected = workdir / "out" / "expected_of_sample"
        measure(whole[0], data.sample, expected, data.import_date)
        outputs = [workdir / "out" / name / "rows" for name in sampled]
        problems += check([expected / "rows", *outputs])
    return measured, problems


def check(outputs: list[pathlib.Path]) -> list[str]:
    """What the outputs after the first have other than it; the first may have more columns."""
    if not outputs:
        return []
    problems = []
    for output in outputs[1:]:
        expected = compare.digest(outputs[0], compare.columns_of(output))
        different = compare.differences(expected, compare.digest(output))
        if different:
            report = compare.describe(outputs[0], output, different)
            problems.append(
                f"{output.parent.name} and {outputs[0].parent.name} disagree on "
                f"{', '.join(different)}\n{report}"
            )
        else:
            print(f"{output.parent.name}: the same {expected.rows:,} rows as Playhead")
    return problems


_COLUMNS = (
    ("work s", "work_s", ".1f"),
    ("process s", "wall_s", ".1f"),
    ("CPU s", "cpu_s", ".1f"),
    ("peak MiB", "peak_mib", ",.0f"),
    ("written MiB", "written_mib", ",.0f"),
)


def _spread(values: list[float], form: str) -> str:
    middle = f"{statistics.median(values):{form}}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}}-{max(values):{form}})"


def table(measured: dict[str, list[Measurement]]) -> list[list[str]]:
    """Header and a row a contender; ratios are medians over Playhead's (the first's) medians."""
    first = next(iter(measured))
    header = ["", *(title for title, _, _ in _COLUMNS), "time ratio", "CPU ratio", "memory ratio"]
    rows = [header]
    for name, runs in measured.items():
        row = [CONTENDERS[name] + (" (scaled)" if name in SAMPLED else "")]
        row += [_spread([getattr(run, field) for run in runs], f) for _, field, f in _COLUMNS]
        for field in ("work_s", "cpu_s", "peak_mib"):
            own, base = (
                statistics.median(getattr(run, field) for run in each)
                for each in (runs, measured[first])
            )
            row.append(f"{own / base:.2f}")
        rows.append(row)
    return rows


def print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def environment() -> dict[str, Any]:
    """Machine, versions, commit; nothing that names the machine."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "versions": versions,
    }


def machine_lines() -> list[str]:
    """A bullet that says when, what and on which machine."""
    where = environment()
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return [
        f"* {where['date']}, commit {where['commit']}, {where['cores']} cores ({where['cpu']}),",
        f"  {where['memory_gib']} GiB; {versions}.",
    ]


def markdown(results: dict[str, Any]) -> str:
    """docs/benchmarks.md."""
    rows = results["table"]
    agreement = "**no, see below.**" if results["problems"] else "checked by digest in this run."
    machine = "\n".join(machine_lines())
    header = "| " + " | ".join(rows[0]) + " |\n| --- |" + " ---: |" * (len(rows[0]) - 1)
    body = "\n".join("| " + " | ".join(row) + " |" for row in rows[1:])
    sampled = ""
    if any(name in SAMPLED for name in results["measured"]):
        sampled = f"""
* Row-wise Beam ran on {results["sample_rows"]:,} of the events (whole users); its times and bytes
  are multiplied by {results["rows"] / results["sample_rows"]:.2f}, its memory is as it was seen."""
    problems = "".join(f"\n```\n{problem}\n```\n" for problem in results["problems"])
    return f"""# Benchmarks

{results["rows"]:,} raw events of {DAYS} days to the ranking rows of `specs/ranking.yaml`: medians
of {results["runs"]} runs, with the smallest and the largest (PySpark and row-wise Beam, which take
minutes, run once). Written by
`make bench ARGS=--write-docs`.

{header}
{body}

* Work is from the first byte read to the last byte written, without start-up and imports; process
  and CPU seconds and peak memory are of the whole process tree, start-up included.
* Ratios are a contender's median over that of the first line.
* All write the same rows: {agreement}
* Only Playhead also writes an event store, quarantine and counts, hashes its files, and puts the
  rows into keyed order.{sampled}
{machine}
{problems}"""


def _names(text: str) -> list[str]:
    names = [ALIASES.get(name, name) for name in text.split(",")]
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(CONTENDERS)}, got {unknown}")
    return names


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=4_000_000, metavar="N")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--contenders", type=_names, default=list(CONTENDERS), metavar="A,B")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("bench"))
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--keep", action="store_true", help="keep what the contenders wrote")
    args = parser.parse_args(argv)
    workdir = args.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    data = make_data(workdir / f"data-{args.events}", args.events)
    print(f"{data.rows:,} raw events; sample for row-wise Beam {data.sample_rows:,}", flush=True)
    try:
        measured, problems = run_all(data, args.contenders, args.runs, workdir)
    except ContenderError as error:
        print(error, file=sys.stderr)
        return 1
    results = {
        "environment": environment(),
        "rows": data.rows,
        "sample_rows": data.sample_rows,
        "runs": args.runs,
        "table": table(measured),
        "measured": {
            name: [dataclasses.asdict(run) for run in runs] for name, runs in measured.items()
        },
        "problems": problems,
    }
    (workdir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print_table(results["table"])
    for problem in problems:
        print(problem, file=sys.stderr)
    if args.write_docs:
        (REPOSITORY / "docs" / "benchmarks.md").write_text(markdown(results))
    if not args.keep:
        shutil.rmtree(workdir / "out")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
