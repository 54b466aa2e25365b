"""A small dataset version: files with a column of every type, and the manifest that lists them.

Train has two files with rows and one without, validation one, and test has no rows, as when few
listeners are spread over many shards.
"""

from __future__ import annotations

import datetime
import hashlib
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.manifest import ColumnEntry, FileEntry, InputVersionEntry, Manifest, RunInfo

DAY_US = 86_400_000_000
FIRST_US = 20_458 * DAY_US  # 2026-01-05
SHA = "0" * 64


def column(name: str, kind: str, family: str, **more: Any) -> ColumnEntry:
    said = f"What {name} is."
    return ColumnEntry(name=name, type=kind, family=family, description=said, **more)


COLUMNS = (
    column("user_id", "string", "context", nullable=False, identifier=True),
    column("event_id", "string", "context", nullable=False, identifier=True),
    column("event_time", "timestamp[us, tz=UTC]", "context", nullable=False),
    column("day", "date32", "context", nullable=False),
    column("position", "int32", "context"),
    column("shuffle", "bool", "context"),
    column("propensity", "double", "context"),
    column("session_id", "int64", "session", nullable=False),
    column("bucket", "uint64", "user", nullable=False, unit="1"),
    column("history_track_ids", "list<string>", "history", nullable=False),
    column("history_ms_ago", "list<int64>", "history", nullable=False, unit="ms"),
    column("label_liked", "bool", "label"),
    column("label_rewards", "list<double>", "label", nullable=False),
)
TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "timestamp[us, tz=UTC]": pa.timestamp("us", tz="UTC"),
    "date32": pa.date32(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
    "double": pa.float64(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "list<string>": pa.list_(pa.string()),
    "list<int64>": pa.list_(pa.int64()),
    "list<double>": pa.list_(pa.float64()),
}
SPEC: dict[str, Any] = {
    "kind": "ranking",
    "name": "ranking",
    "seed": 0,
    "labels": {"horizon_hours": 24.0, "lateness_days": 2, "reward": {"liked": 2.0}},
}
COUNTS: dict[str, Any] = {
    "events": 20_214,
    "late": 38,
    "immature": 1_203,
    "examples": 5,
    "labels": {"liked": {"unknown": 1, "true": 2}},
    "split_dropped": {"gap": 17, "label_window": 4},
    "negatives": {"uniform": 451},
    "exposure": {"propensities": {"rows": 70_007}},
    "unheard_of": 333,
}


def row(number: int) -> dict[str, Any]:
    """Row `number` of all, with what loses something in a careless reader."""
    time = datetime.datetime(2026, 1, 5 + number // 2, 23, 59, 59, 999_999, datetime.UTC)
    odd = number % 2 == 1
    return {
        "user_id": f"listener|{number}",
        "event_id": f"æ“{number}”",
        "event_time": time,
        "day": time.date(),
        "position": None if odd else number,
        "shuffle": None if number == 0 else odd,
        "propensity": None if odd else 1 / 3,
        "session_id": (1 << 62) + number,
        "bucket": (1 << 64) - 1 - number,
        "history_track_ids": ["a", "", "b"][:number],
        "history_ms_ago": [3, 2, (1 << 53) + 1][:number],
        "label_liked": None if number == 3 else odd,
        "label_rewards": [0.5, float("nan")][:number],
    }


PARTS = {
    "train/part-00000-of-00003.parquet": [0, 1, 2],
    "train/part-00001-of-00003.parquet": [],
    "train/part-00002-of-00003.parquet": [3],
    "validation/part-00000-of-00003.parquet": [4],
    "test/part-00000-of-00003.parquet": [],
}


def manifest(**changes: Any) -> Manifest:
    """The manifest of PARTS, unwritten."""
    fields: dict[str, Any] = {
        "kind": "dataset",
        "name": "ranking",
        "version": "2026-01-05_2026-01-07-0123456789ab",
        "fingerprint": "0123456789ab",
        "code_version": "0.2.0",
        "status": "OK",
        "config": config(),
        "columns": COLUMNS,
        "inputs": (InputVersionEntry(name="events/dt=2026-01-05", version="v-1", digest=SHA),),
        "files": tuple(
            FileEntry(
                path=path,
                role=path.split("/")[0],
                rows=len(rows),
                bytes=100 + len(rows),
                sha256=SHA,
            )
            for path, rows in sorted(PARTS.items())
        ),
        "counts": COUNTS,
        "run": RunInfo(attempt="attempt-1", started_at="then", finished_at="now", runner="r"),
    }
    return Manifest(**(fields | changes))


def config(**changes: Any) -> dict[str, Any]:
    return {
        "spec": SPEC,
        "start_date": "2026-01-05",
        "end_date": "2026-01-07",
        "watermark_us": FIRST_US + 6 * DAY_US,
        "as_of_us": None,
        "splits": {
            "train": [-(1 << 62), FIRST_US + 2 * DAY_US - DAY_US // 48],
            "validation": [FIRST_US + 2 * DAY_US, 1 << 62],
            "test": [FIRST_US + 9 * DAY_US, 1 << 62],
        },
    } | changes


def write(folder: pathlib.Path) -> Manifest:
    """Writes PARTS under a folder; the manifest that lists them."""
    schema = pa.schema([pa.field(entry.name, TYPES[entry.type]) for entry in COLUMNS])
    files = []
    for path, numbers in sorted(PARTS.items()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row(n) for n in numbers], schema), target)
        data = target.read_bytes()
        files.append(
            FileEntry(
                path=path,
                role=path.split("/")[0],
                rows=len(numbers),
                bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    return manifest(files=tuple(files))
