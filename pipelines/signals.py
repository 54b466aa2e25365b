"""Signals: the registered features, or a report on a column that might become one.

    playhead signals                                               # what is registered
    playhead signals --report datasets/ranking --candidate user_plays_7d
    playhead signals --report datasets/ranking --candidate a --candidate b --against label_played

What the numbers mean: transforms/signals.py. Only what the manifest lists is opened.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines import cli
from transforms.errors import UsageError, closest

if TYPE_CHECKING:
    from transforms.signals import SignalReport

EXAMPLE = "playhead signals --report datasets/ranking --candidate user_plays_7d"
_DECIMALS = 6  # in JSON; beyond them, sums depend on the machine


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead signals",
        "Lists the registered features, or reports what columns of a version tell about a target "
        "that its features do not tell yet.",
        EXAMPLE,
    )
    parser.add_argument("--report", metavar="PATH", help="a dataset, or one of its versions")
    parser.add_argument(
        "--candidate", action="append", default=[], metavar="COLUMN",
        help="column to report on; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--against", default="label_reward", metavar="LABEL", help="target (default label_reward)"
    )
    parser.add_argument(
        "--max-rows", type=cli.positive_int, default=200_000, metavar="N",
        help="rows of a split that are looked at (default 200000)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(argv: list[str] | None = None) -> int:
    """Runs the tool with the given command line; returns the exit code."""
    args = build_parser().parse_args(argv)
    if args.report and not args.candidate:
        raise UsageError("--report: expected --candidate COLUMN with it, got none")
    if args.candidate and not args.report:
        raise UsageError("--candidate: expected --report PATH with it, the version to look at")
    if args.report:
        _report(args)
    else:
        _list(as_json=args.json)
    return 0


def _list(as_json: bool) -> None:
    from schemas import forms
    from transforms.features import FEATURES

    features: list[dict[str, Any]] = [
        {
            "name": name,
            "family": entry.feature.family,
            "type": forms.type_name(entry.feature.type),
            "unit": entry.feature.unit,
            "window_us": entry.feature.window_us,
            "nullable": entry.feature.nullable,
            "description": entry.feature.description,
        }
        for name, entry in FEATURES.items()
    ]
    if as_json:
        print(json.dumps(features, indent=1))
        return
    head = ["name", "family", "type", "unit", "window", "null", "description"]
    rows = [
        {
            **feature,
            "window": _span(feature["window_us"]),
            "null": "null" if feature["nullable"] else "",
        }
        for feature in features
    ]
    _print_table(head, [[row[name] for name in head] for row in rows], str.ljust)


def _report(args: argparse.Namespace) -> None:
    from transforms import manifest, signals

    root, found = manifest.resolve(args.report)
    names = [column.name for column in found.columns]
    if signals.TIME not in names or "spec" not in found.config:
        raise UsageError(f"--report {args.report}: expected a ranking or retrieval dataset")
    problems = {column.name: signals.why_not(column) for column in found.columns}
    for name in args.candidate:
        _check_named("--candidate", name, names, [name for name in names if not problems[name]])
        if problems[name]:
            raise UsageError(f"--candidate {name}: {problems[name]}")
    target = args.against if args.against.startswith("label_") else f"label_{args.against}"
    possible = signals.targets(found)
    _check_named("--against", target, possible, possible)
    features = signals.current_features(found, args.candidate)
    rows = signals.read(root, found, [*args.candidate, target, *features], args.max_rows)
    if rows.is_empty():
        raise UsageError(f"--report {args.report}: the version has no rows in Parquet files")
    reports = [signals.report(rows, name, target, features) for name in args.candidate]
    if args.json:
        print(json.dumps(_rounded([report.to_dict() for report in reports]), indent=1))
        return
    total = sum(entry.rows for entry in signals.data_files(found))
    print(f"{found.name}, version {found.version}: {rows.height:,} of {total:,} rows looked at")
    for report in reports:
        print()
        _print_report(report)


def _check_named(option: str, name: str, known: list[str], suggested: list[str]) -> None:
    if name not in known:
        close = closest(name, suggested)
        hint = f"did you mean {close}?" if close else f"expected one of {', '.join(suggested)}"
        raise UsageError(f"{option}: no such column {name!r}; {hint}")


def _print_report(report: SignalReport) -> None:
    fitted, measured = ", ".join(report.fitted_on), ", ".join(report.measured_on)
    coverage, found, added = report.coverage, report.association, report.increment
    print(f"{report.candidate} against {report.target}")
    print(f"  fitted on    {fitted or '-'}; measured on {measured or '-'}")
    print(
        f"  coverage     {coverage.known:.1%} known, {coverage.distinct:,} values, the most "
        f"frequent one {coverage.modal:.1%}"
    )
    print(
        f"  association  Spearman {_number(found.spearman)}, mutual information "
        f"{_number(found.information_bits)} bits, AUC {_number(found.auc)} ({found.rows:,} rows)"
    )
    if added is None:
        print("  increment    too few rows to fit")
    else:
        print(
            f"  increment    beyond {added.features} features: Spearman "
            f"{_number(added.partial_spearman)}, explained {added.explained_before:.2%} -> "
            f"{added.explained_after:.2%} ({added.rows:,} rows)"
        )
    near = [f"{near.feature} {near.spearman:+.3f}" for near in report.redundancy]
    print(f"  goes with    {', '.join(near) or '-'}")
    print()
    _print_table(
        ["  day", "rows", "known", "drift (first)", "drift (before)", "Spearman", "bits", "AUC"],
        [
            [
                f"  {day.day}",
                f"{day.rows:,}",
                f"{day.known:.1%}",
                _number(day.drift_first),
                _number(day.drift_before),
                _number(day.association.spearman),
                _number(day.association.information_bits),
                _number(day.association.auc),
            ]
            for day in report.days
        ],
        str.rjust,
    )


def _print_table(
    head: list[str], rows: list[list[str]], justify: Callable[[str, int], str]
) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [justify(text, width) for text, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _span(window_us: int) -> str:
    hours = window_us / 3_600_000_000
    if hours < 24:
        return f"{hours:g} h" if hours else "-"
    return f"{hours / 24:g} d"


def _rounded(plain: Any) -> Any:
    """The same values, floats without the digits that differ between machines."""
    if isinstance(plain, dict):
        return {key: _rounded(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_rounded(value) for value in plain]
    return round(plain, _DECIMALS) if isinstance(plain, float) else plain


def main() -> int:
    return cli.main("playhead signals", run)


if __name__ == "__main__":
    sys.exit(main())
