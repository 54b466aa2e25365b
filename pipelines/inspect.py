"""What a published version holds: schema, counts and a few rows.

    playhead inspect datasets/ranking               # the current version
    playhead inspect datasets/ranking/<version>     # another one
    playhead inspect datasets/ranking/<version>/<attempt>   # one that a gate refused
    playhead inspect store                          # the partitions of an event store

Only what the manifest lists is opened.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from pipelines import cli
from transforms.errors import UsageError, closest

if TYPE_CHECKING:
    from transforms.manifest import Manifest

EXAMPLE = "playhead inspect datasets/ranking --rows 3"
_MAX_TEXT = 60


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead inspect",
        "Prints the schema, counts and some rows of a published version, or what a store holds.",
        EXAMPLE,
    )
    parser.add_argument(
        "path", metavar="PATH", help="a dataset, one of its versions, or an event store"
    )
    parser.add_argument(
        "--rows", type=cli.positive_int, default=3, metavar="N", help="rows to show (default 3)"
    )
    parser.add_argument(
        "--columns", metavar="A,B", help="show only these columns of the schema and the rows"
    )
    return parser


def run(argv: list[str] | None = None) -> int:
    """Runs the tool with the given command line; returns the exit code."""
    _inspect(build_parser().parse_args(argv))
    return 0


def _inspect(args: argparse.Namespace) -> None:
    from transforms import manifest, storage, store

    path = args.path.rstrip("/")
    if storage.exists(storage.join(path, store.STORE_FILE)):
        _print_store(path)
        return
    root, found = manifest.resolve(path, "a dataset or an event store")
    _print_version(root, found, args)


def _print_store(path: str) -> None:
    from transforms import store

    config = store.require_config(path)
    print(f"event store {path}: {config.bucket_count} buckets")
    total = 0
    for partition in store.partitions(path):
        counts = partition.manifest.counts
        days = partition.event_days
        span = f"events of {days[0]} to {days[1]}" if days else "no events"
        quarantined = sum(counts.get("quarantined", {}).values())
        total += counts.get("kept", 0)
        print(
            f"  dt={partition.day}  {counts.get('kept', 0):>12,} kept  {quarantined:>8,} "
            f"quarantined  {span}  {partition.manifest.version}"
        )
    print(f"  {total:,} events in all")


def _print_version(root: str, found: Manifest, args: argparse.Namespace) -> None:
    import polars as pl

    from transforms import manifest

    wanted = args.columns.split(",") if args.columns else None
    names = [column.name for column in found.columns]
    for name in wanted or []:
        if name not in names:
            close = closest(name, names)
            hint = f"; did you mean {close}?" if close else ""
            raise UsageError(f"--columns: no column {name!r}{hint}")
    rows = sum(entry.rows for entry in found.files if entry.role in _DATA_ROLES)
    size = sum(entry.bytes for entry in found.files)
    print(f"{found.kind} {found.name}, version {found.version}: {found.status}")
    for line in _refusal(root, found):
        print(f"  {line}")
    print(f"  {len(found.files)} files, {rows:,} rows, {size / 1e6:,.1f} MB in {root}")
    print(
        f"  built by playhead {found.code_version}, {found.run.runner}, "
        f"{found.run.finished_at[:19]}Z"
    )
    print(f"  from {', '.join(_inputs(found))}")
    print("\nschema")
    width = max(len(name) for name in wanted or names)
    widest = max(len(column.type) for column in found.columns)
    for column in found.columns:
        if wanted is None or column.name in wanted:
            null = "null" if column.nullable else ""
            print(
                f"  {column.name:<{width}}  {column.type:<{widest}} {null:<5} {column.description}"
            )
    print("\ncounts")
    # What the exposure checks count is for the report.
    for line in _count_lines({k: v for k, v in found.counts.items() if k != "exposure"}):
        print(f"  {line}")
    pages = [entry for entry in found.files if entry.role in _PAGES]
    if pages:
        print("\npages")
        for entry in pages:
            print(f"  {manifest.file_path(root, found, entry)}")
    data = [e for e in found.files if e.role in _DATA_ROLES and e.format == "parquet" and e.rows]
    data.sort(key=lambda entry: _DATA_ROLES.index(entry.role))
    if data:
        print(f"\nrows of {data[0].path}")
        path = manifest.file_path(root, found, data[0])
        bytes_read = io.BytesIO(manifest.read_verified(path, data[0]))
        table = pl.read_parquet(bytes_read, n_rows=args.rows, columns=wanted)
        for number, row in enumerate(table.iter_rows(named=True)):
            if number:
                print()
            for name, value in row.items():
                print(f"  {name:<{width}}  {_short(value)}")


def _refusal(root: str, found: Manifest) -> list[str]:
    """Why a gate refused the version; no lines for one that is published."""
    from transforms import findings, manifest

    if found.status != "REFUSED":
        return []
    errors = []
    for entry in found.files_of("anomalies"):
        path = manifest.file_path(root, found, entry)
        read = json.loads(manifest.read_verified(path, entry))["findings"]
        errors += [findings.Finding(**each) for each in read if each["severity"] == "error"]
    return [f"not published: {findings.counted(errors)}", *findings.describe(errors), ""]


_DATA_ROLES = ("events", "train", "validation", "test", "codes")
_PAGES = ("report", "card")
_ON_A_LINE = 3


def _inputs(found: Manifest) -> list[str]:
    from transforms.manifest import InputFileEntry

    names = [
        entry.path if isinstance(entry, InputFileEntry) else entry.name for entry in found.inputs
    ]
    shown = [os.path.basename(name) for name in names[:4]]
    return [*shown, f"{len(names) - 4} more"] if len(names) > 4 else shown


def _count_lines(counts: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in counts.items():
        if not isinstance(value, dict):
            lines.append(f"{indent}{name}: {value:,}")
        elif value and all(isinstance(n, int) for n in value.values()) and len(value) <= _ON_A_LINE:
            lines.append(f"{indent}{name}: {', '.join(f'{k} {n:,}' for k, n in value.items())}")
        elif len(value) > 12:
            lines.append(f"{indent}{name}: {len(value)} entries, {min(value)} to {max(value)}")
        elif value:
            lines.append(f"{indent}{name}:")
            lines += _count_lines(value, indent + "  ")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return "null" if value is None else str(value)


def _short(value: Any) -> str:
    """A value as it fits on a line; of a list the first values and how many there are."""
    if isinstance(value, list):
        text, count = ", ".join(map(_plain, value[:_MAX_TEXT])), f"  ({len(value):,} values)"
        return _cut(text) + (count if len(text) > _MAX_TEXT else "")
    return _cut(_plain(value))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 3]}..."


def main() -> int:
    return cli.main("playhead inspect", run)


if __name__ == "__main__":
    sys.exit(main())
