"""Which version of a dataset is current, and the way back to an older one.

    playhead current --root datasets/ranking                  # names it
    playhead current --root datasets/ranking --set VERSION    # makes another one current

Nothing of any version is touched: `CURRENT.json` alone is replaced, once every file of the version
is there with the bytes that its manifest lists.
"""

from __future__ import annotations

import argparse
import sys

from pipelines import cli
from transforms.errors import UsageError, closest

EXAMPLE = "playhead current --root datasets/ranking --set 2026-01-06_2026-01-07-0123456789ab"


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead current", "Names the current version, or makes another one current.", EXAMPLE
    )
    parser.add_argument("--root", required=True, metavar="DIR", help="folder of the versions")
    parser.add_argument(
        "--set", metavar="VERSION", help="version of it that readers get from now on"
    )
    return parser


def run(argv: list[str] | None = None) -> int:
    """Runs the tool with the given command line; returns the exit code."""
    args = build_parser().parse_args(argv)
    return _name(args.root) if args.set is None else _move(args)


def _name(root: str) -> int:
    from transforms import manifest

    found = manifest.require_current(root, "a folder of versions")
    print(f"{found.version}  {found.kind} {found.name}, published {found.run.finished_at[:19]}Z")
    return 0


def _move(args: argparse.Namespace) -> int:
    from transforms import manifest

    wanted = args.set.rstrip("/")
    # Not `resolve`: the pointer may be what is damaged.
    found = manifest.load(args.root, wanted) if "/" not in wanted else None
    if found is None:
        names = manifest.versions(args.root)
        close = closest(wanted, names)
        hint = f"; did you mean {close}?" if close else f" ({len(names)} versions are)"
        raise UsageError(f"--set: no version {wanted!r} is published in {args.root}{hint}")
    if found.kind != "events" and found.status == "EMPTY":
        raise UsageError(f"--set: {wanted} is EMPTY: nobody can train on it")
    for entry in found.files:
        manifest.verify(manifest.file_path(args.root, found, entry), entry)
    manifest.point_to(args.root, found)
    print(f"{found.version} is the current version of {args.root}")
    return 0


def main() -> int:
    return cli.main("playhead current", run)


if __name__ == "__main__":
    sys.exit(main())
