"""What the columns hold, and how far they moved since the version before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

from transforms import statistics
from transforms.counts import Counts
from transforms.manifest import ColumnEntry
from transforms.report import charts, figures, tables, view
from transforms.report.figures import NONE, count, percent, plural
from transforms.report.markup import Markup, join, tag
from transforms.report.view import Measure, Period, ReportInput, Section

# Family -> heading, in the order of the page.
_FAMILIES = {
    "user": "Listener", "item": "Item", "user-item": "Listener and item", "session": "Session",
    "history": "History", "sequence": "Sequence", "negative": "Negatives", "context": "Context",
    "split": "Split",
}  # fmt: skip

_MOST_DRIFTS = 15
_TOP_VALUES = 10

Cell = tuple[str, str | Markup | None, str]  # heading, content, class


def features(given: ReportInput) -> Section:
    """Every column but labels and ids: what it is, its values, how often it says something."""
    title = "Columns" if given.kind == "sequences" else "Features"
    found = given.whole.get("features", {})
    described = [column for column in given.manifest.columns if column.name in found]
    if not described:
        return Section("features", title, None, "no column was tallied.")
    split = next((split for split in given.splits if split in given.statistics), None)
    ids = {column.name for column in described if column.identifier}
    shapes = _shapes(given.statistics[split], ids) if split else {}
    when = view.periods(given.whole["days"])
    suspects = {each.feature for each in given.findings}

    def row(column: ColumnEntry) -> Markup:
        flag = tag("a", "finding", href="#findings", class_="badge")
        name = join(
            tag("code", column.name),
            flag if column.name in suspects else None,
            tag("small", column.description) if column.description else None,
        )
        cells = _cells(given, column, when, shapes)
        # On a narrow screen each cell stands below its heading.
        return tables.row(name, *(tag("td", c, class_=k, data_label=h) for h, c, k in cells))

    head = ["feature", *(heading for heading, _, _ in _cells(given, described[0], when, shapes))]
    bodies = []
    for family in dict.fromkeys([*_FAMILIES, *(column.family for column in described)]):
        rows = [row(column) for column in described if column.family == family]
        if rows:
            heading = _FAMILIES.get(family or "", family or "Other")
            first = tag("th", heading, colspan=len(head), scope="rowgroup")
            bodies.append(tables.body([tag("tr", first, class_="family"), *rows]))
    about = (
        "Known: not null. Not zero: neither null nor 0, false or empty. By day, light is what is "
        "known and dark what is not zero."
    )
    return Section(
        "features",
        title,
        tables.table(about, head, *bodies, kind="features", texts=3 if shapes else 2),
    )


def _cells(
    given: ReportInput, column: ColumnEntry, when: Sequence[Period], shapes: Mapping[str, Markup]
) -> list[Cell]:
    tallied = given.whole["features"][column.name]
    cells: list[Cell] = []
    if shapes:
        cells.append(("values", shapes.get(column.name), "shape"))
    cells.append(("by day", _by_day(given, tallied, when), "shape"))
    for split in given.splits:
        known = view.over_days(given.tallies[split]["features"][column.name])["known"]
        share = known / given.tallies[split]["rows"]
        heading = f"known in {split}" if len(given.splits) > 1 else "known"
        cells.append((heading, percent(share), "number full" if share == 1 else "number part"))
    nonzero = view.over_days(tallied)["nonzero"] / given.whole["rows"]
    cells.append(("not zero", percent(nonzero), "number"))
    if given.drift:
        cells.append(("drift", figures.distance(given.drift.get(column.name)), "number"))
    return cells


def _by_day(given: ReportInput, tallied: Counts, when: Sequence[Period]) -> Markup:
    rows, days = given.whole["days"], tallied["days"]
    layers = [
        [
            sum(days.get(day, {}).get(what, 0) for day in period.days)
            / max(1, sum(rows.get(day, 0) for day in period.days))
            for period in when
        ]
        for what in ("known", "nonzero")
    ]
    known, nonzero = (f"{percent(min(layer))} to {percent(max(layer))}" for layer in layers)
    return charts.steps(layers, f"known {known}, not zero {nonzero} of a day's rows")


def _shapes(data: bytes, identifiers: Set[str]) -> dict[str, Markup]:
    """Column -> tiny histogram of its values: of numbers in equal bins, of texts the top ones.

    The page shows who listens no more than it must: ids are counted, not named.
    """
    shapes = {}
    for feature in statistics.decode(data).features:
        name = feature.name or feature.path.step[0]
        if feature.HasField("num_stats"):
            numbers = feature.num_stats
            standard = [found for found in numbers.histograms if found.type == found.STANDARD]
            heights = [bucket.sample_count for found in standard for bucket in found.buckets]
            if numbers.min == numbers.max:  # the bins of one value are all as high
                heights[1:] = [0.0] * (len(heights) - 1)
            label = (
                f"from {figures.number(numbers.min)} to {figures.number(numbers.max)}, "
                f"mean {figures.number(numbers.mean)}, median {figures.number(numbers.median)}"
            )
        else:
            top = feature.string_stats.top_values[:_TOP_VALUES]
            heights = [value.frequency for value in top]
            heights += [0.0] * (_TOP_VALUES - len(top))
            label = ", ".join(f"{value.value} {count(round(value.frequency))}" for value in top)
            if name in identifiers:
                label = f"the most frequent of {count(feature.string_stats.unique)} distinct ids"
        highest = max(heights, default=0.0)
        if highest > 0:
            shapes[name] = charts.steps([[height / highest for height in heights]], label)
    return shapes


def changes(given: ReportInput) -> Section:
    """Sizes and label rates beside those of the version before."""
    title = "Since the version before"
    if given.previous is None:
        return Section("changes", title, None, "there is no earlier version.")
    manifest, tallies = given.previous
    before = ReportInput(manifest, tallies)
    rows = [
        _change(
            f"{noun} in {split}",
            before.tallies.get(split, {}).get(key),
            given.tallies[split][key],
            figures.rounded,
        )
        for key, noun in (("rows", "rows"), ("users", "listeners"))
        for split in given.splits
    ]
    found, earlier = given.whole.get("labels", {}), before.whole.get("labels", {})
    for name in view.in_column_order(given, found):
        entry = view.over_days(found[name])
        measure = Measure.of(name, entry)
        then = measure.rate(view.over_days(earlier[name])) if name in earlier else None
        rows.append(
            _change(
                tag("code", name.removeprefix("label_")), then, measure.rate(entry), measure.text
            )
        )
    table = tables.table(
        f"Against version {manifest.version}.", ("", "before", "now", "change"), tables.body(rows)
    )
    return Section("changes", title, table)


def _change(
    name: str | Markup,
    then: float | None,
    now: float | None,
    text: Callable[[float | None], str],
) -> Markup:
    if not then or now is None:
        change = NONE
    else:
        percents = round(100 * (now / then - 1), 1)
        change = f"{percents:+.1f}%".replace("-", "−") if percents else "0%"
    return tables.row(name, text(then), text(now), change)


def drift(given: ReportInput) -> Section:
    """Columns by how far their values moved since the version before."""
    if not given.drift:
        why = "there is no earlier version." if given.previous is None else "none was measured."
        return Section("drift", "Drift", None, why)
    order = sorted(given.drift.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = order[:_MOST_DRIFTS], order[_MOST_DRIFTS:]
    longest = max(shown[0][1], 1e-9)
    rows = (
        tables.row(
            tag("code", name),
            figures.distance(value),
            tables.bar_cell(charts.bar(value / longest, 0, f"{name}: {figures.number(value)}")),
        )
        for name, value in shown
    )
    table = tables.table(
        "Distance of a column's values from those of the version before; 0 is no change.",
        ("column", "drift", ""),
        tables.body(rows),
    )
    more = None
    if rest:
        more = tables.note(
            f"{plural(len(rest), 'column')} more, {figures.distance(rest[0][1])} or less."
        )
    return Section("drift", "Drift", join(table, more))
