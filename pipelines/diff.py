"""What differs between two versions: settings, schema, counts, statistics and rows.

    playhead diff datasets/ranking/<version> datasets/ranking    # another one and the current one
    playhead diff before after --columns label_reward --rows 10  # one column, more examples
    playhead diff before after --tolerance 1e-6 --exit-code      # as a check in a script
    playhead diff store/events/dt=2026-01-05 copy/events/dt=2026-01-05    # partitions of stores

The first line is the verdict: SAME if schema and rows are. Settings and counts that differ are
shown, but do not decide it; with --no-rows, rows of each split and statistics do. Rows are paired
by the columns that identify them. The exit code is 0 whatever the verdict; with --exit-code it is
5 for DIFFERENT.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipelines import cli
from transforms.errors import UsageError, closest

if TYPE_CHECKING:
    from transforms.diff import Change, Diff, SchemaChange, StatisticChange, Version
    from transforms.row_diff import ColumnDiff, Example, RowDiff

EXAMPLE = "playhead diff datasets/ranking/2026-01-05_2026-01-05-0123456789ab datasets/ranking"
_DIFFERENT = 5
_EXPECTED = "a dataset, one of its versions, or a partition of a store (store/events/dt=...)"
_MAX_LINES = 10
_MAX_COLUMNS = 4  # of a row that differs
_MAX_TEXT = 40
_MAX_KEY = 200
_FAR_US = 1 << 61  # borders beyond are those of a split that has none
_KINDS = {
    "different": "rows that differ, from the smallest key",
    "moved": "rows in another split",
    "only_a": "rows only in A",
    "only_b": "rows only in B",
    "duplicate_a": "rows of A whose key is not their own",
    "duplicate_b": "rows of B whose key is not their own",
}


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead diff",
        "Compares two published versions: settings, schema, counts, statistics and rows.",
        EXAMPLE,
    )
    for name in ("a", "b"):
        parser.add_argument(
            name,
            metavar=name.upper(),
            help="a dataset (its current version), a version, or a partition of a store",
        )
    parser.add_argument("--columns", metavar="X,Y", help="compare only these columns")
    parser.add_argument(
        "--rows",
        type=cli.positive_int,
        default=3,
        metavar="N",
        help="rows to show of each kind of difference (default 3)",
    )
    parser.add_argument(
        "--tolerance",
        type=cli.share,
        default=0.0,
        metavar="REL",
        help="doubles that differ by at most this share of the larger are equal (default 0)",
    )
    parser.add_argument(
        "--no-rows", action="store_true", help="leave out the comparison of rows, which reads all"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--exit-code",
        action="store_true",
        help=f"end with exit code {_DIFFERENT} if the versions differ; without it, a comparison "
        "that finished ends with 0",
    )
    return parser


def run(argv: list[str] | None = None) -> int:
    """Runs the tool with the given command line; returns the exit code."""
    args = build_parser().parse_args(argv)
    from transforms import diff, manifest

    a, b = (diff.Version(*manifest.resolve(path, _EXPECTED)) for path in (args.a, args.b))
    columns = tuple(args.columns.split(",")) if args.columns else None
    _check_columns(columns or (), (a, b))
    found = diff.compare(a, b, diff.Options(columns, args.rows, args.tolerance, not args.no_rows))
    if args.json:
        print(json.dumps(to_json(found, a, b), indent=1))
    else:
        print("\n".join(report(found, a, b, columns)))
    return _DIFFERENT if args.exit_code and not found.same else 0


def _check_columns(columns: Sequence[str], versions: Iterable[Version]) -> None:
    known = [column.name for version in versions for column in version.manifest.columns]
    for name in columns:
        if name not in known:
            close = closest(name, known)
            hint = f"; did you mean {close}?" if close else ""
            raise UsageError(f"--columns: no column {name!r} in A or B{hint}")


# --- JSON -----------------------------------------------------------------------------------------


def to_json(found: Diff, a: Version, b: Version) -> dict[str, Any]:
    """Everything as plain values. Times are ISO 8601 texts; NaN and infinity are texts too."""
    described = {
        name: {
            "root": version.root,
            "version": version.manifest.version,
            "digest": version.manifest.digest(),
        }
        for name, version in (("a", a), ("b", b))
    }
    return {"verdict": _verdict(found), **described, **_plain(dataclasses.asdict(found))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | int):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


# --- text -----------------------------------------------------------------------------------------


def report(found: Diff, a: Version, b: Version, columns: Sequence[str] | None) -> list[str]:
    """The lines that a person reads; the first says whether the versions differ."""
    only = f" (only columns {', '.join(columns)})" if columns else ""
    lines = [f"{_verdict(found)}{only}: {'; '.join(_summary(found))}"]
    rows = [sum(counts[side] for counts in found.split_rows.values()) for side in (0, 1)]
    lines += _table(
        [name, version.root, version.manifest.version, f"{count:,} rows"]
        for name, version, count in zip("AB", (a, b), rows, strict=True)
    )
    lines += _section("settings", [_setting_row(change) for change in found.settings])
    lines += _section("schema", [_schema_row(change) for change in found.schema])
    lines += _section("counts", [[c.name, _change(c.a, c.b)] for c in found.counts])
    lines += _section(
        "statistics, the largest change first",
        [_statistic_row(change) for change in found.statistics],
    )
    if found.rows is not None:
        lines += _row_lines(found.rows)
    else:
        moved = [(split, a, b) for split, (a, b) in found.split_rows.items() if a != b]
        lines += _section("rows", [[split, _change(a, b)] for split, a, b in moved])
    return lines


def _verdict(found: Diff) -> str:
    return "SAME" if found.same else "DIFFERENT"


def _summary(found: Diff) -> list[str]:
    """What the verdict rests on, and how much else there is to see."""
    if found.rows is None:
        parts = ["rows were not compared"]
    else:
        total = found.rows.total
        paired = total.same + total.different + total.moved_out
        parts = [
            f"{total.same:,} of {paired:,} paired rows are the same",
            *_counted(
                ("in another split", total.moved_out),
                ("only in A", total.only_a),
                ("only in B", total.only_b),
                ("duplicate keys", found.rows.duplicates_a + found.rows.duplicates_b),
            ),
        ]
    others = {
        "schema": len(found.schema),
        "settings": len(found.settings),
        "counts": len(found.counts),
        "statistics": len(found.statistics),
    }
    listed = [f"{name} {count}" for name, count in others.items() if count]
    return [*parts, f"differences in {', '.join(listed)}"] if listed else parts


def _counted(*parts: tuple[str, int]) -> list[str]:
    return [f"{count:,} {text}" for text, count in parts if count]


def _setting_row(change: Change) -> list[str]:
    """Instants as such, though settings keep them as microseconds."""
    if change.name.endswith("_us"):
        a, b = map(_instant, (change.a, change.b))
        return [change.name.removesuffix("_us"), _change(a, b)]
    if change.name.startswith("splits."):
        a, b = map(_span, (change.a, change.b))
        return [change.name, _change(a, b, 2 * _MAX_TEXT)]
    return [change.name, _change(change.a, change.b)]


def _span(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return " to ".join(_text(_instant(time_us), _MAX_TEXT) for time_us in value)


def _instant(value: Any) -> Any:
    """UTC microseconds as an instant; far in the past or the future stands for no border."""
    if not isinstance(value, int):
        return value
    if abs(value) > _FAR_US:
        return "the end" if value > 0 else "the beginning"
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return epoch + datetime.timedelta(microseconds=value)


def _schema_row(change: SchemaChange) -> list[str]:
    if change.a is None or change.b is None:
        return [change.column, change.what, change.a or change.b or ""]
    return [change.column, change.what, _change(change.a, change.b)]


def _statistic_row(change: StatisticChange) -> list[str]:
    values = f"{change.a:.6g} -> {change.b:.6g}"
    return [change.split, change.column, change.measure, values, f"{change.change:.2%}"]


def _row_lines(rows: RowDiff) -> list[str]:
    """Counts of rows, columns that differ, and examples."""
    counts = {**rows.splits, "all": rows.total} if len(rows.splits) > 1 else rows.splits
    head = ["", "A", "B", "same", "different", "moved out", "moved in", "only A", "only B"]
    lines = ["", f"rows, by {', '.join(rows.key)}"]
    lines += _table(
        ([name, *(f"{n:,}" for n in dataclasses.astuple(each))] for name, each in counts.items()),
        head,
    )
    if rows.moves:
        moves = ", ".join(f"{count:,} {way}" for way, count in rows.moves.items())
        lines.append(f"  moved: {moves}; {rows.moved_different:,} of them differ")
    if rows.duplicates_a or rows.duplicates_b:
        lines.append(
            f"  rows whose key the version already has: {rows.duplicates_a:,} in A, "
            f"{rows.duplicates_b:,} in B"
        )
    lines += _section(
        "columns that differ",
        [_column_row(name, column) for name, column in rows.columns.items()],
        ["", "rows", "null in A", "null in B", "max |A-B|", "mean |A-B|", "first"],
    )
    for kind, examples in rows.examples.items():
        lines += ["", _KINDS[kind]]
        for example in examples:
            lines += _example_lines(example, rows if kind == "different" else None)
    return lines


def _column_row(name: str, column: ColumnDiff) -> list[str]:
    gaps = ("" if gap is None else f"{gap:.6g}" for gap in (column.max_abs, column.mean_abs))
    first = column.examples[0]
    counts = (f"{n:,}" for n in (column.rows, column.null_a, column.null_b))
    return [name, *counts, *gaps, _change(first.a, first.b, _MAX_TEXT // 2)]


def _example_lines(example: Example, rows: RowDiff | None) -> list[str]:
    """The key and splits of a row, and the columns that differ in it."""
    splits = dict.fromkeys(split for split in (example.split_a, example.split_b) if split)
    lines = [
        f"  {', '.join(_text(each, _MAX_KEY) for each in example.key)}  ({' -> '.join(splits)})"
    ]
    differing = [
        [name, _change(same_row.a, same_row.b)]
        for name, column in (rows.columns if rows else {}).items()
        for same_row in column.examples
        if dataclasses.replace(same_row, a=None, b=None) == example
    ]
    return lines + [f"  {line}" for line in _cut(_table(differing), _MAX_COLUMNS)]


def _section(title: str, rows: list[list[str]], head: list[str] | None = None) -> list[str]:
    """A titled table after an empty line; nothing if it has no rows."""
    if not rows:
        return []
    top = [] if head is None else [head]
    return ["", title, *_cut(_table(rows, head), _MAX_LINES + len(top))]


def _cut(lines: list[str], most: int = _MAX_LINES) -> list[str]:
    more = len(lines) - most
    return lines if more <= 0 else [*lines[:most], f"  ... and {more:,} more; --json has all"]


def _table(rows: Iterable[list[str]], head: list[str] | None = None) -> list[str]:
    """Aligned columns, indented; columns of numbers to the right."""
    padded = []
    for number, column in enumerate(zip(*rows, strict=True)):
        cells = [head[number], *column] if head else list(column)
        pad = str.rjust if all(map(_is_number, column)) else str.ljust
        width = max(map(len, cells))
        padded.append([pad(text, width) for text in cells])
    return [f"  {'  '.join(cells)}".rstrip() for cells in zip(*padded, strict=True)]


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "") or "0")
    except ValueError:
        return False
    return True


def _change(a: Any, b: Any, most: int = _MAX_TEXT) -> str:
    """`a -> b`; of long lists the first value that differs, or their lengths."""
    if isinstance(a, list) and isinstance(b, list) and max(len(str(a)), len(str(b))) > most:
        if len(a) != len(b):
            return f"{len(a):,} -> {len(b):,} values"
        at = next((i for i in range(len(a)) if str(a[i]) != str(b[i])), 0)
        return f"value {at:,}: {_change(a[at], b[at], most)}"
    return f"{_text(a, most)} -> {_text(b, most)}"


def _text(value: Any, most: int) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}"
    elif isinstance(value, datetime.datetime):
        text = value.isoformat().replace("+00:00", "Z")
    else:
        text = "null" if value is None else str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def main() -> int:
    return cli.main("playhead diff", run)


if __name__ == "__main__":
    sys.exit(main())
