"""The main job on real-shaped logs, from nothing to a published dataset, in one go.

    python -m pipelines.demo [--output demo] [--events 300000]

It runs what a user would type, and prints each command before it runs it.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable

from pipelines import build, cli, ingest, inspect, simulate
from transforms import manifest
from transforms.errors import PlayheadError, UsageError

EXAMPLE = "playhead demo --output demo"
_MARKER = ".playhead-demo"
_FIRST_DAY = datetime.date(2026, 1, 5)
_DAYS = 8
_BUILT_DAYS = 6  # the label windows of the last one are over, and late events have arrived
_KINDS = ("ranking", "retrieval", "sequences", "sessions")


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead demo",
        "Simulates a few days of listening, ingests them and builds a dataset of each kind.",
        EXAMPLE,
    )
    parser.add_argument(
        "--output", default="demo", metavar="DIR", help="folder to write (default demo)"
    )
    parser.add_argument(
        "--events",
        type=cli.positive_int,
        default=300_000,
        metavar="N",
        help="about how many events to simulate (default 300000)",
    )
    return parser


def _fresh_folder(path: pathlib.Path) -> None:
    """Empties an earlier demo's folder; refuses one that holds anything else."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"--output: {path} is a file; expected a new or empty folder")
    if path.exists() and any(path.iterdir()):
        if not (path / _MARKER).exists():
            raise UsageError(f"--output: {path} holds other files; expected a new or empty folder")
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / _MARKER).touch()


def _call(command: str, run: Callable[[list[str] | None], int], argv: list[str]) -> None:
    print(f"\n$ playhead {command} {shlex.join(argv)}", flush=True)
    code = run(argv)
    if code:
        raise PlayheadError(f"`playhead {command}` ended with exit code {code}")


def run(argv: list[str] | None = None) -> int:
    """Runs the demo; returns the exit code."""
    started = time.monotonic()
    args = build_parser().parse_args(argv)
    folder = pathlib.Path(args.output)
    _fresh_folder(folder)
    raw, store, datasets = (str(folder / name) for name in ("sim", "store", "datasets"))

    _call(
        "simulate",
        simulate.run,
        [
            *("--output", raw, "--events", str(args.events), "--days", str(_DAYS)),
            *("--start-date", _FIRST_DAY.isoformat(), "--seed", "7", "--files", "2"),
            *("--format", "jsonl", "--compression", "zstd", "--broken-share", "0.0005"),
        ],
    )
    received = sorted(path.name for path in pathlib.Path(raw, "raw", "jsonl").iterdir())
    for name in received:
        day = name.removeprefix("received=")
        if datetime.date.fromisoformat(day) >= _FIRST_DAY + datetime.timedelta(days=_DAYS + 3):
            break  # phones that were offline for longer; the last days' builds do not wait for them
        files = f"{raw}/raw/jsonl/{name}/*"
        _call(
            "ingest",
            ingest.run,
            [
                *("--input", files, "--format", "jsonl", "--store", store, "--date", day),
                *(
                    "--max-quarantine",
                    "0.02",
                ),  # few rows: a handful of broken ones is a large share
            ],
        )
    last = _FIRST_DAY + datetime.timedelta(days=_BUILT_DAYS - 1)
    for kind in _KINDS:
        _call(
            "build",
            build.run,
            [
                *("--store", store, "--spec", kind, "--start-date", _FIRST_DAY.isoformat()),
                *("--end-date", last.isoformat(), "--output", f"{datasets}/{kind}"),
            ],
        )
    shown = "event_time,surface,track_id,propensity,user_plays_7d,session_plays,label_reward"
    _call("inspect", inspect.run, [f"{datasets}/ranking", "--rows", "2", "--columns", shown])
    print(f"\nDone in {time.monotonic() - started:.0f} s. What was made:")
    print(
        f"  {raw}/raw    raw logs as a product would write them; {raw}/truth what is true of them"
    )
    print(f"  {store}      the event store, one partition a day")
    print(f"  {datasets}   a dataset of each kind; `playhead inspect {datasets}/KIND` shows one")
    for kind in _KINDS:
        root, found = manifest.resolve(f"{datasets}/{kind}")
        (page,) = found.files_of("report")
        print(f"  {os.path.relpath(manifest.file_path(root, found, page))}")
    return 0


def main() -> int:
    return cli.main("playhead demo", run)


if __name__ == "__main__":
    sys.exit(main())
