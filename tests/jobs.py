"""Helpers to run commands as a user does, in this process or another, and to compare what came."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import polars as pl

from pipelines import cli
from pipelines import main as playhead_main
from transforms import manifest
from transforms.adapters.base import EVENT_SCHEMA
from transforms.manifest import Manifest

REPOSITORY = pathlib.Path(__file__).parent.parent
DAY = datetime.date(2026, 1, 5)
NOON = datetime.datetime(2026, 1, 5, 12, tzinfo=datetime.UTC)
OWN_HOSTS = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", b"localhost", None, ""}


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def call(*argv: Any) -> Ended:
    """`playhead ARGV...` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main("playhead", playhead_main.run, [str(each) for each in argv])
    return Ended(code, out.getvalue(), err.getvalue())


def ok(*argv: Any) -> Ended:
    ended = call(*argv)
    assert ended.code == 0, ended.err
    return ended


def spawn(*argv: Any, env: dict[str, str] | None = None, **kwargs: Any) -> subprocess.Popen[str]:
    """`playhead ARGV...` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.main", *(str(each) for each in argv)],
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        stdout=kwargs.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def wait(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=120)
    return Ended(process.returncode, out or "", err)


def ingest_argv(pattern: Any, store: Any, *more: Any, format: str = "parquet") -> list[Any]:
    day = [] if "--date" in more else ["--date", DAY]
    return ["ingest", "--input", pattern, "--format", format, "--store", store, *day, *more]


def ingest(pattern: Any, store: Any, *more: Any, format: str = "parquet") -> Manifest:
    """Ingests, which must succeed; the manifest of the partition."""
    argv = ingest_argv(pattern, store, *more, format=format)
    ok(*argv)
    return partition(store, str(argv[argv.index("--date") + 1]))


def partition_root(store: Any, day: Any = DAY) -> pathlib.Path:
    return pathlib.Path(store) / "events" / f"dt={day}"


def partition(store: Any, day: Any = DAY) -> Manifest:
    return manifest.require_current(str(partition_root(store, day)), "a partition")


def build_argv(store: Any, spec: Any, start: Any, end: Any, output: Any, *more: Any) -> list[Any]:
    return [
        *("build", "--store", store, "--spec", spec, "--start-date", start, "--end-date", end),
        *("--output", output, *more),
    ]


def build(store: Any, spec: Any, start: Any, end: Any, output: Any, *more: Any) -> Manifest:
    """Builds, which must succeed; the manifest of the version, of one without rows too."""
    ended = ok(*build_argv(store, spec, start, end, output, *more))
    if "the version is EMPTY" not in ended.err:
        return manifest.require_current(str(output), "a dataset")
    root, version = ended.out.splitlines()[0].removeprefix("Published ").rsplit("/", 1)
    found = manifest.load(root, version)
    assert found is not None
    return found


def rows(root: Any, published: Manifest, role: str) -> pl.DataFrame:
    """All rows of a role, as a reader gets them: what the manifest lists, checked."""
    tables = []
    for entry in published.files_of(role):
        path = pathlib.Path(manifest.file_path(str(root), published, entry))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
        tables.append(pl.read_parquet(path))
        assert tables[-1].height == entry.rows
    return pl.concat(tables) if tables else pl.DataFrame()


def stored(store: Any, day: Any = DAY, role: str = "events") -> pl.DataFrame:
    return rows(partition_root(store, day), partition(store, day), role)


def checksums(published: Manifest, *roles: str) -> dict[str, str]:
    """Path -> SHA-256 of the data files: equal bytes in equal places."""
    wanted = roles or ("events", "item_day", "set_aside", "train")
    return {entry.path: entry.sha256 for entry in published.files if entry.role in wanted}


def row_digest(table: pl.DataFrame) -> tuple[int, str]:
    """Stands for the multiset of rows, whatever their order."""
    lines = sorted(json.dumps(row, default=str) for row in table.iter_rows(named=True))
    return table.height, hashlib.sha256("\n".join(lines).encode()).hexdigest()


def event(**changes: Any) -> dict[str, Any]:
    """A good play of noon."""
    return {
        "event_id": "e0",
        "event_type": "play",
        "user_id": "u0",
        "track_id": "t0",
        "event_time": NOON,
        "received_time": changes.get("event_time", NOON),
        "time_quality": "reported",
        "played_ms": 60_000,
        "track_duration_ms": 180_000,
        "surface": "library",
        "source": "canonical",
        **changes,
    }


def plays(count: int, users: int = 7, day: datetime.date = DAY) -> list[dict[str, Any]]:
    """Good plays of some users, five minutes apart, one after the other."""
    start = datetime.datetime.combine(day, datetime.time(), tzinfo=datetime.UTC)
    return [
        event(
            event_id=f"{day}-{i}",
            user_id=f"u{i % users}",
            track_id=f"t{i * 7 % 23}",
            event_time=start
            + datetime.timedelta(minutes=5 * (i // users % 280), seconds=i % users),
        )
        for i in range(count)
    ]


def table(events: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(events, schema=EVENT_SCHEMA)


def write(path: pathlib.Path, events: list[dict[str, Any]]) -> pathlib.Path:
    """A canonical Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table(events).write_parquet(path)
    return path


def files_below(root: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
