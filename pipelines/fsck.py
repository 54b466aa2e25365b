"""What lies in a store or dataset that no version lists, and whether every version is whole.

    playhead fsck store                                # strays, problems, what would be removed
    playhead fsck datasets/ranking --verify            # reads every published file, too
    playhead fsck store --delete --older-than 7d       # removes strays older than a week

Nothing that a manifest lists is ever removed, and nothing younger than the age.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING

from pipelines import cli

if TYPE_CHECKING:
    from transforms.fsck import Stray

EXAMPLE = "playhead fsck store --verify"
_UNITS = {"h": 3600, "d": 86_400}
_REFUSED = 3


def age(text: str) -> int:
    """argparse type: an age such as 3d or 36h, in seconds; at least an hour, for a run that is at
    work has strays."""
    match = re.fullmatch(r"([0-9]{1,6})([hd])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not seconds:
        raise argparse.ArgumentTypeError(
            f"expected an age of at least 1h, such as 3d or 36h, got {text!r}"
        )
    return seconds


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead fsck", "Lists files that no version lists, and versions that lack some.", EXAMPLE
    )
    parser.add_argument("path", metavar="PATH", help="an event store, or a folder of versions")
    parser.add_argument(
        "--verify", action="store_true", help="read every published file and compare its SHA-256"
    )
    parser.add_argument(
        "--delete",
        action="store_true",
        help="remove strays older than --older-than (default: only say which)",
    )
    parser.add_argument(
        "--older-than",
        type=age,
        default="3d",
        metavar="AGE",
        help="age of a stray's newest file from which it may be removed: 3d, 36h (default 3d); "
        "longer than any run takes",
    )
    return parser


def run(argv: list[str] | None = None) -> int:
    """Runs the tool with the given command line; returns the exit code."""
    return check(build_parser().parse_args(argv))


def check(args: argparse.Namespace) -> int:
    """Prints what was found, removes what may be; 3 if a version is not whole."""
    from transforms import fsck

    found, strays = fsck.roots(args.path)
    wanted = fsck.referenced(found)
    problems: list[str] = []
    for root in found:
        findings = fsck.examine(root, wanted)
        problems += findings.problems
        if args.verify:
            problems += fsck.verify(root)
        strays += findings.strays
        for note in findings.notes:
            print(f"note: {note}")
    versions = sum(len(root.versions) for root in found)
    size = sum(entry.bytes for entry in wanted.values())
    print(f"{args.path}: {versions:,} versions, {len(wanted):,} files, {_megabytes(size)}")
    for problem in problems:
        print(f"problem: {problem}")
    now_s = time.time()
    if args.delete:
        chosen = fsck.remove(args.path, strays, args.older_than, now_s)
    else:
        chosen = [
            each for each in strays if each.removable and each.is_older(args.older_than, now_s)
        ]
    for stray in strays:
        print(_line(stray, now_s, stray in chosen, args.delete))
    print(_summary(strays, chosen, args.delete))
    if problems:
        print(f"playhead fsck: {len(problems)} problems of published versions", file=sys.stderr)
    return _REFUSED if problems else 0


def _line(stray: Stray, now_s: float, chosen: bool, delete: bool) -> str:
    fate = ("removed" if delete else "would be removed") if chosen else "kept"
    return (
        f"stray: {stray.kind:<15}  {_age(stray.newest_s, now_s):>8}  {len(stray.files):>5} files  "
        f"{_megabytes(stray.bytes):>10}  {fate:<16}  {stray.path}"
    )


def _summary(strays: list[Stray], chosen: list[Stray], delete: bool) -> str:
    if not strays:
        return "no strays"
    kept = len(strays) - len(chosen)
    size = _megabytes(sum(stray.bytes for stray in chosen))
    if delete:
        return f"{len(strays)} strays: {len(chosen)} removed ({size}), {kept} kept"
    hint = "; --delete removes them" if chosen else ""
    return f"{len(strays)} strays: {len(chosen)} would be removed ({size}), {kept} kept{hint}"


def _age(newest_s: float | None, now_s: float) -> str:
    if newest_s is None:
        return "unknown"
    seconds = max(now_s - newest_s, 0.0)
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.0f} days"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def main() -> int:
    return cli.main("playhead fsck", run)


if __name__ == "__main__":
    sys.exit(main())
