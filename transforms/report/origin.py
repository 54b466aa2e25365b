"""Whether to trust a version and where its rows come from: findings, splits, the funnel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        body = tag("p", "No check found anything to object to.", class_="quiet")
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
    title, counts = "From events to rows", given.manifest.counts
    if "events" not in counts:
        return Section("funnel", title, None, "the manifest has no counts of events.")
    lines = _funnel_lines(given)
    read = max(1, lines[0][1])
    rows = (
        tables.row(
            join("− " if kind == "loss" else None, text),
            count(number),
            percent(number / read),
            tables.bar_cell(
                charts.bar(
                    number / read, _LOST if kind == "loss" else _KEPT, f"{count(number)} {text}"
                )
            ),
            kind=kind,
        )
        for text, number, kind in lines
        if number or kind == "main"
    )
    table = tables.table(
        "Every event that was read and is no row, with the reason.",
        ("", "number", "of events read", ""),
        tables.body(rows),
        kind="funnel",
    )
    return Section("funnel", title, table)


def _funnel_lines(given: ReportInput) -> list[tuple[str, int, str]]:
    """(text, number, kind): kind `main` for what is left, `loss` for what is not, `part` of it."""
    counts = given.manifest.counts
    not_used = [(text, counts.get(key, 0), "loss") for key, text in _NOT_USED.items()]
    dropped = {"immature": counts.get("immature", 0), **counts.get("split_dropped", {})}
    # What is split by time: of sequences that is the targets, of which several share a row.
    kept = counts.get("targets", counts.get("examples", 0))
    candidates = kept + sum(dropped.values())
    used = counts["events"]
    of_events = given.kind != "sessions"
    return [
        ("Events read", used + sum(number for _, number, _ in not_used), "main"),
        *not_used,
        ("Events used", used, "main"),
        ("context: other days and other kinds", used - candidates if of_events else 0, "loss"),
        ("Candidates" if of_events else "Sessions in the range", candidates, "main"),
        *((_REASONS.get(reason, reason), lost, "loss") for reason, lost in dropped.items()),
        *([("Targets", kept, "main")] if "targets" in counts else []),
        ("Rows", given.whole.get("rows", 0), "main"),
        *((f"in {split}", given.tallies[split]["rows"], "part") for split in given.splits),
    ]
