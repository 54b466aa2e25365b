"""What the columns hold, and how far they moved since the version before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from transforms import statistics
from transforms.counts import Counts
from transforms.manifest import ColumnEntry
from transforms.report import charts, figures, tables, view
from transforms.report.figures import NONE, count, percent, plural
from transforms.report.markup import Markup, join, tag
from transforms.report.view import Measure, Period, ReportInput, Section

_FAMILIES = {
    "user": "Listener", "item": "Item", "user-item": "Listener and item", "session": "Session",
    "history": "History", "sequence": "Sequence", "negative": "Negatives", "context": "Context",
    "split": "Split",
}  # fmt: skip

_MOST_DRIFTS = 15
_TOP_VALUES = 10


def features(given: ReportInput) -> Section:
    """Every column but labels and ids: what it is, its values, how often it says something."""
    found = given.whole.get("features", {})
    if not found:
        return Section("features", "Features", None, "no column was tallied.")
    split = next((split for split in given.splits if split in given.statistics), None)
    shapes = {} if split is None else _shapes(given.statistics[split])
    when = view.periods(given.whole["days"])
    suspects = {each.feature for each in given.findings}
    known = [f"known in {s}" for s in given.splits] if len(given.splits) > 1 else ["known"]
    head = [
        "feature",
        *(["values"] if shapes else []),
        "by day",
        *known,
        "not zero",
        *(["drift"] if given.drift else []),
    ]

    def row(column: ColumnEntry) -> Markup:
        tallied = found[column.name]
        flag = tag("a", "finding", href="#findings", class_="badge")
        cells = [
            *([tag("td", shapes.get(column.name), class_="shape")] if shapes else []),
            tag("td", _by_day(given, tallied, when), class_="shape"),
            *(_coverage(given.tallies[s], column.name) for s in given.splits),
            tag("td", percent(_sum(tallied, "nonzero") / given.whole["rows"]), class_="number"),
        ]
        if given.drift:
            drift = figures.distance(given.drift.get(column.name))
            cells.append(tag("td", drift, class_="number"))
        # On a narrow screen each cell stands below what it is.
        named = [cell.with_attribute("data-label", text) for cell, text in zip(cells, head[1:], strict=True)]
        return tables.row(
            join(
                tag("code", column.name),
                flag if column.name in suspects else None,
                tag("small", column.description),
            ),
            *named,
        )

    bodies = []
    for family, name in _FAMILIES.items():
        columns = [c for c in given.manifest.columns if c.family == family and c.name in found]
        if columns:
            heading = tag("th", name, colspan=len(head), scope="rowgroup")
            bodies.append(tables.body([tag("tr", heading, class_="family"), *map(row, columns)]))
    return Section("features", "Features", tables.table("", head, *bodies))
