"""Whether to trust a version and where its rows come from: findings, splits, the funnel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from transforms import counts as row_counts
from transforms.report import charts, figures, tables, view
from transforms.report.charts import Axes, Series
from transforms.report.figures import NONE, count, percent
from transforms.report.markup import Markup, join, tag
from transforms.report.view import SPLIT_TONES, ReportInput, Section

# Key in the manifest's counts, or reason of `splits`, -> what a reader is told.
_NOT_USED = {
    "late": "arrived later than the lateness that counts",
    "after_as_of": "received after the instant that is built as of",
    "duplicate_across_partitions": "duplicates in files of several days",
    "near_duplicate": "near duplicates of a play",
    "forgotten": "of users that are forgotten",
}
_REASONS = {
    "immature": "withheld: the label window is not over",
    "gap": "in the gap before a split",
    "session_straddles": "session began in the split before",
    "label_window": "label window crosses the end of the split",
    "user_holdout": "held-out listener, never in train",
    "experiment_holdout": "held-out arm, never in train",
}

_KEPT, _LOST = 0, 3  # colours


def findings(given: ReportInput) -> Section:
    """Errors first, each group in the order in which the checks found them."""
    found = sorted(given.findings, key=lambda each: each.severity != "error")
    if not found:
        quiet = "No check found anything to object to." if given.splits else "No row was checked."
        body = tag("p", quiet, class_="quiet")
        return Section("findings", "Findings", body)
    items = (
        tag(
            "li",
            tag("span", each.severity, class_="badge"),
            tag(
                "div",
                tag("p", each.message),
                tag(
                    "p",
                    tag("code", each.gate),
                    None if each.feature is None else join(" on ", tag("code", each.feature)),
                    None if each.value is None else f", measured {figures.number(each.value)}",
                    None if each.limit is None else f", limit {figures.number(each.limit)}",
                    class_="quiet",
                ),
            ),
            class_=each.severity,
        )
        for each in found
    )
    return Section("findings", "Findings", tag("ul", *items, class_="findings"))


def splits(given: ReportInput) -> Section:
    """Rows by day, and what each split holds."""
    title = "Splits and days"
    if not given.splits:
        return Section("splits", title, None, "the version has no rows.")
    borders: Mapping[str, Sequence[int]] = given.manifest.config.get("splits") or {}

    def row(split: str) -> Markup:
        tallied = given.tallies[split]
        edges = (figures.instant(us) for us in borders[split]) if split in borders else (NONE, NONE)
        return tables.row(
            join(charts.key(SPLIT_TONES[split]), split),
            *(tag("td", text) for text in edges),
            count(tallied["rows"]),
            percent(tallied["rows"] / given.whole["rows"]),
            count(tallied["users"]),
        )

    table = tables.table(
        "Times are UTC. A listener counts once in each split.",
        ("split", "from", "before", "rows", "share", "listeners"),
        tables.body(map(row, given.splits)),
        texts=3,
    )
    return Section("splits", title, join(_rows_by_day(given), table))


def _rows_by_day(given: ReportInput) -> Markup:
    when = view.periods(given.whole["days"])
    series = [
        Series(
            split,
            [
                sum(given.tallies[split]["days"].get(day, 0) for day in period.days)
                / len(period.days)
                for period in when
            ],
            SPLIT_TONES[split],
        )
        for split in given.splits
    ]
    axes = Axes(
        title="Rows a day",
        x="day (UTC)",
        y="rows" if len(when[0].days) == 1 else f"mean of {len(when[0].days)} days",
        places=[period.name for period in when],
        ticks=charts.thinned([period.tick for period in when], 6),
        format=figures.rounded,
        tick=figures.exact,
    )
    return charts.columns(series, axes)


def funnel(given: ReportInput) -> Section:
    """From the events that were read to the rows of the splits, every loss with its reason."""
    title = "From events to rows"
    if "events" not in given.manifest.counts:
        return Section("funnel", title, None, "the manifest has no counts of events.")
    stages, bodies = _stages(given), []
    for unit, lines in stages:
        whole = max([1, *(line.number for line in lines)])
        heading = tag("tr", tag("th", unit, scope="rowgroup", colspan="4"), class_="stage")
        rows = (_line(line, whole) for line in lines if line.number or line.kind == "main")
        bodies.append(tables.body([heading, *rows] if len(stages) > 1 else rows))
    table = tables.table(
        "What was read and is in no row, with the reason.",
        ("", "number", "share", ""),
        *bodies,
        kind="funnel",
    )
    return Section("funnel", title, table)


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of the funnel: `main` what is left, `loss` what is not, `part` a part of what is."""

    text: str
    number: int
    kind: str


def _line(line: _Line, whole: int) -> Markup:
    tone = _LOST if line.kind == "loss" else _KEPT
    bar = charts.bar(line.number / whole, tone, f"{count(line.number)} {line.text}")
    return tables.row(
        join("− " if line.kind == "loss" else None, line.text),
        count(line.number),
        percent(line.number / whole),
        tables.bar_cell(bar),
        kind=line.kind,
    )


def _stages(given: ReportInput) -> list[tuple[str, list[_Line]]]:
    """(what is counted, lines): events, and sessions or windows where those are the rows."""
    counts = given.manifest.counts
    used = counts["events"]
    not_used = [_Line(_NOT_USED[k], counts.get(k, 0), "loss") for k in row_counts.NOT_USED]
    events = [
        _Line("Events read", row_counts.events_read(counts), "main"),
        *not_used,
        _Line("Events used", used, "main"),
    ]
    reasons = {"immature": counts.get("immature", 0), **counts.get("split_dropped", {})}
    dropped = [_Line(_REASONS.get(key, key), lost, "loss") for key, lost in reasons.items()]
    if given.kind == "sequences":
        short = counts.get("targets_too_short", 0)
        dropped.append(_Line("only in windows that are too short", short, "loss"))
    kept = counts.get("targets", counts.get("examples", 0))
    candidates = kept + sum(line.number for line in dropped)
    too_short = counts.get("too_short", 0)
    rows = [
        _Line("Rows", given.whole.get("rows", 0), "main"),
        *(_Line(f"in {split}", given.tallies[split]["rows"], "part") for split in given.splits),
    ]
    if given.kind == "sessions":
        sessions = [
            _Line("Sessions that start in the range", candidates + too_short, "main"),
            _Line("with too few plays", too_short, "loss"),
        ]
        return [("Events", events), ("Sessions", [*sessions, *dropped, *rows])]
    events += [
        _Line("context: of other days or another kind", used - candidates, "loss"),
        _Line("Candidates", candidates, "main"),
        *dropped,
    ]
    if given.kind == "sequences":
        windows = [_Line("windows that are too short", too_short, "loss"), *rows]
        unknown = counts.get("targets_unknown_track", {})
        targets = [
            _Line("Targets", kept, "main"),
            *(
                _Line(f"of tracks outside the vocabulary, in {split}", number, "part")
                for split, number in unknown.items()
            ),
        ]
        return [("Events", [*events, *targets]), ("Windows", windows)]
    return [("Events", [*events, *rows])]
