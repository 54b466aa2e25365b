"""`playhead`: one command in front of every job and tool."""

from __future__ import annotations

import importlib
import sys

from pipelines import cli
from transforms.errors import UsageError, closest
from transforms.version import __version__

# Command -> (module with `run(argv)`, one line of help). Modules are imported when called.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("pipelines.demo", "simulate, ingest, and build a small dataset of each kind"),
    "simulate": ("pipelines.simulate", "make raw listening logs with a known truth"),
    "ingest": ("pipelines.ingest", "raw logs of a day -> a partition of the event store"),
    "build": ("pipelines.build", "event store -> a published dataset version"),
    "forget": ("pipelines.forget", "users -> rewritten buckets and shards, and the proof by scan"),
    "diff": ("pipelines.diff", "schema, counts, statistics and rows of two versions compared"),
    "signals": ("pipelines.signals", "the registered features; a report on a candidate signal"),
    "semantic-ids": ("pipelines.semantic_ids", "item embeddings -> a versioned table of codes"),
    "schema": ("pipelines.schema", "the schema inferred from a version, to curate"),
    "inspect": ("pipelines.inspect", "schema, counts and a few rows of a published version"),
    "current": ("pipelines.current", "the current version; the way back to an older one"),
    "fsck": ("pipelines.fsck", "files that no version lists; whether every version is whole"),
    "formats": ("pipelines.formats", "the log formats that ingest reads"),
}


def usage() -> str:
    lines = [
        "usage: playhead COMMAND [options]",
        "",
        "Raw listening logs to training data as it stood at the playhead.",
        "",
        "commands:",
        *(f"  {name:<12} {text}" for name, (_, text) in COMMANDS.items()),
        "",
        "`playhead COMMAND --help` shows the options and an example.",
    ]
    return "\n".join(lines)


def run(argv: list[str] | None = None) -> int:
    """Dispatches to the command; returns its exit code."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"playhead {__version__}")
        return 0
    if args[0] not in COMMANDS:
        close = closest(args[0], list(COMMANDS))
        hint = f"; did you mean {close}?" if close else ""
        raise UsageError(f"unknown command {args[0]!r}{hint} (see `playhead --help`)")
    module = importlib.import_module(COMMANDS[args[0]][0])
    return cli.main(f"playhead {args[0]}", module.run, args[1:])


def main() -> int:
    return cli.main("playhead", run)


if __name__ == "__main__":
    sys.exit(main())
