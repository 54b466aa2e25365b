"""The sections of a report, in the order of the page: each from a `ReportInput`, each on its own.

A section whose data is not there has no body and says why; it is then named at the end of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from transforms import counts as row_counts
from transforms.counts import Counts
from transforms.exposure import chi_square_tail
from transforms.manifest import ColumnEntry
from transforms.report import charts, figures, view
from transforms.report.charts import Axes, Series
from transforms.report.figures import NONE, count, percent, plural
from transforms.report.markup import Markup, join, tag
from transforms.report.view import Measure, ReportInput, Section
from transforms.tallies import HISTOGRAMS, MICRO, PERCENT_STEP

# Colour of each split and each group of popularity, the same in all charts.
_SPLIT_TONES = {"train": 0, "validation": 1, "test": 2}
_GROUP_TONES = {
    "positive": 6, "not played": 1, "uniform": 0, "popularity": 1, "mixed": 2, "exposed": 3,
    "skipped": 4,
}  # fmt: skip

_CHANCE = 0.001  # below this probability a deviation is not taken for chance
_MOST_DRIFTS = 15
_TOP_VALUES = 10
_FAMILIES = {
    "context": "Context", "session": "Session", "user": "Listener", "item": "Item",
    "user-item": "Listener and item", "history": "History", "negative": "Negatives",
    "sequence": "Sequence", "split": "Split",
}  # fmt: skip


def _table(
    head: Sequence[str], body: Iterable[Markup], caption: str, kind: str = "", left: int = 1
) -> Markup:
    """A table in a frame that scrolls sideways; all but the `left` first columns are numbers."""
    cells = (
        tag("th", text, scope="col", class_=None if index < left else "number")
        for index, text in enumerate(head)
    )
    table = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *cells)),
        *body,
        class_=kind or None,
    )
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _row(name: str | Markup, *cells: str | Markup, kind: str | None = None) -> Markup:
    """A row of numbers; a cell that is a `td` already stays as it is."""
    written = (
        cell if isinstance(cell, Markup) and cell.startswith("<td") else tag("td", cell, class_="number")
        for cell in cells
    )  # fmt: skip
    return tag("tr", tag("th", name, scope="row"), *written, class_=kind)


def _note(*text: str) -> Markup:
    return tag("p", *text, class_="note")


# Findings


def findings(given: ReportInput) -> Section:
    """Errors first, in the order in which the checks found them."""
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
                    None if each.limit is None else f", allowed {figures.number(each.limit)}",
                    class_="quiet",
                ),
            ),
            class_=each.severity,
        )
        for each in found
    )
    return Section("findings", "Findings", tag("ul", *items, class_="findings"))


# Where the rows come from


def splits(given: ReportInput) -> Section:
    """Rows by day, and what each split holds."""
    when = view.periods(given.all.get("days", {}))
    if not when:
        return Section("splits", "Splits", None, "the version has no rows.")
    series = [
        Series(
            split,
            [sum(given.tallies[split]["days"].get(day, 0) for day in p.days) for p in when],
            _SPLIT_TONES[split],
        )
        for split in given.splits
    ]
    length = len(when[0].days)
    axes = Axes(
        title="Rows by day" if length == 1 else f"Rows by {length} days",
        x="day (UTC)",
        y="rows",
        places=[p.name for p in when],
        ticks=charts.thinned([p.tick for p in when], 6),
        format=figures.exact,
        tick=figures.exact,
    )
    total = given.all["rows"]
    borders: Mapping[str, Sequence[int]] = given.manifest.config.get("splits") or {}

    def border(split: str, end: int) -> str:
        return figures.instant(borders[split][end]) if split in borders else NONE

    rows = (
        _row(
            join(charts.key(_SPLIT_TONES[split]), split),
            tag("td", border(split, 0)),
            tag("td", border(split, 1)),
            count(given.tallies[split]["rows"]),
            percent(figures.ratio(given.tallies[split]["rows"], total)),
            count(given.tallies[split]["users"]),
        )
        for split in given.splits
    )
    table = _table(
        ("split", "from", "before", "rows", "share", "listeners"),
        [tag("tbody", *rows)],
        "Splits. Times are UTC; a listener counts once in each split.",
        left=3,
    )
    return Section("splits", "Splits and days", join(charts.columns(series, axes), table))


_LOSSES = {
    "late": "arrived later than the lateness that counts",
    "duplicate_across_partitions": "duplicates in several days' files",
    "near_duplicate": "near duplicates of a play",
}
_REASONS = {
    "immature": "withheld: the label window is not over",
    "gap": "in the gap before a split",
    "session_straddles": "session began in the split before",
    "label_window": "label window crosses the end of the split",
    "user_holdout": "held-out listener, not for train",
    "experiment_holdout": "held-out arm, not for train",
}


def funnel(given: ReportInput) -> Section:
    """From the events that were read to the rows of the splits, every loss with its reason."""
    counts = given.manifest.counts
    if "events" not in counts:
        return Section("funnel", "From events to rows", None, "the manifest has no event counts.")
    used = counts["events"]
    read = used + sum(counts.get(name, 0) for name in _LOSSES)
    dropped = {"immature": counts.get("immature", 0), **counts.get("split_dropped", {})}
    kept = counts.get("targets", counts.get("examples", 0))
    candidates = kept + sum(dropped.values())
    rows = given.all.get("rows", 0)
    lines = [("Events read", read, "main")]
    lines += [(text, counts.get(name, 0), "loss") for name, text in _LOSSES.items()]
    lines += [("Events used", used, "main")]
    if given.kind in ("ranking", "retrieval"):
        lines += [("context: other days and other kinds of events", used - candidates, "loss")]
    lines += [("Candidates", candidates, "main")]
    lines += [(_REASONS.get(name, name), lost, "loss") for name, lost in dropped.items()]
    if "targets" in counts:
        lines += [("Targets", kept, "main")]
    lines += [("Rows", rows, "main")]
    lines += [(f"in {s}", given.tallies[s]["rows"], "part") for s in given.splits]
    body = (
        _row(
            join("− " if kind == "loss" else None, text),
            count(number),
            percent(figures.ratio(number, read)),
            tag(
                "td",
                charts.bar(
                    number / max(read, 1), 3 if kind == "loss" else 0, f"{count(number)} {text}"
                ),
                class_="bar-cell",
            ),
            kind=kind,
        )
        for text, number, kind in lines
        if number or kind == "main"
    )
    table = _table(
        ("", "number", "of events read", ""),
        [tag("tbody", *body)],
        "Every event that was read and did not become a row, with the reason.",
        "funnel",
    )
    return Section("funnel", "From events to rows", table)


# What the rows say


def labels(given: ReportInput) -> Section:
    """Rates by split and surface as a shaded table, and by day as small charts."""
    found = given.all.get("labels", {})
    names = [name for name in found if any(e["known"] for e in found[name]["days"].values())]
    if not names:
        return Section("labels", "Labels", None, "no row of this version has a label.")
    names = _in_column_order(given, names)
    body = join(_label_table(given, names, found), _label_days(given, names, found))
    return Section("labels", "Labels", body)


def _in_column_order(given: ReportInput, names: Iterable[str]) -> list[str]:
    order = {column.name: index for index, column in enumerate(given.manifest.columns)}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def _label_table(given: ReportInput, names: Sequence[str], found: Counts) -> Markup:
    by_rows = sorted(given.all["surfaces"].items(), key=lambda item: (-item[1], item[0]))
    surfaces = [name for name, _ in by_rows] if len(by_rows) > 1 else []
    splits = given.splits if len(given.splits) > 1 else []
    labelled = sum(given.all["surfaces"].values())

    def row(name: str) -> Markup:
        overall = view.over_days(found[name])
        measure = Measure.of(name, overall)
        whole = measure.rate(overall)
        parts = [
            *(view.over_days(given.tallies[split]["labels"][name]) for split in splits),
            *(found[name]["surfaces"].get(surface, {}) for surface in surfaces),
        ]
        return _row(
            tag("code", name.removeprefix("label_")),
            percent(overall["known"] / labelled),
            tag("td", tag("b", measure.text(whole)), class_="number"),
            *(_heat(measure, entry, whole) for entry in parts),
        )

    return _table(
        ("label", "known", "all", *splits, *surfaces),
        [tag("tbody", *map(row, names))],
        "Share of true rows among the known ones, or their mean. Blue is above all rows taken "
        "together, orange below; the shade is full at half as much again, and at two thirds.",
        "heat-table",
    )


def _heat(measure: Measure, entry: Counts, whole: float | None) -> Markup:
    """A cell that is shaded by how far its rate is from that of the whole."""
    rate = measure.rate(entry)
    heat = 0.0
    if rate is not None and whole and rate / whole > 0:
        heat = max(-1.0, min(1.0, math.log(rate / whole) / math.log(1.5)))
    return tag(
        "td",
        measure.text(rate),
        class_="number heat above" if heat > 0 else "number heat below",
        style=f"--heat:{abs(heat):.2f}",
        title=plural(entry.get("known", 0), "known row"),
    )


def _label_days(given: ReportInput, names: Sequence[str], found: Counts) -> Markup:
    when = view.periods(given.all["days"])

    def chart(name: str) -> Markup:
        overall = view.over_days(found[name])
        measure = Measure.of(name, overall)
        days = found[name]["days"]
        entries = [row_counts.total(days.get(day, {}) for day in period.days) for period in when]
        axes = Axes(
            title=name.removeprefix("label_"),
            x="day (UTC)",
            y="share of known rows" if measure.unit == "%" else "mean of known rows",
            places=[period.name for period in when],
            ticks=[p.tick if i in (0, len(when) - 1) else "" for i, p in enumerate(when)],
            format=measure.text,
            tick=measure.tick,
            note=measure.text(measure.rate(overall)),
            small=True,
        )
        return charts.lines([Series(axes.title, list(map(measure.rate, entries)), 0)], axes)

    return join(
        tag("h3", "By day"),
        _note("From zero up, beside the figure of all days. A label that breaks shows as a step."),
        tag("div", *map(chart, names), class_="many"),
    )


def listening(given: ReportInput) -> Section:
    """Histograms of sessions, windows and plays, one line a split, so that splits can be compared."""
    drawn = []
    for name, (what, measure) in HISTOGRAMS.items():
        histograms = {
            split: given.tallies[split]["histograms"][name]
            for split in given.splits
            if given.tallies[split]["histograms"].get(name)
        }
        if histograms:
            drawn.append(_histogram(name, what, measure, histograms))
    if not drawn:
        return Section("listening", "Sessions and plays", None, "no histogram was tallied.")
    return Section("listening", "Sessions and plays", tag("div", *drawn, class_="pair"))


def _histogram(name: str, what: str, measure: str, histograms: Mapping[str, Counts]) -> Markup:
    title = f"{what.capitalize()} by {measure}"
    if name == "play_percent":
        edges = list(range(0, 101, PERCENT_STEP))
        places = [f"{e} to {e + PERCENT_STEP}%" if e < 100 else "100%" for e in edges]
        ticks = [f"{e}%" if e % 25 == 0 else "" for e in edges]
        title = "Plays by how much of the track was played"
    else:
        edges = view.edges(histograms.values())
        places, ticks = _doubling_places(edges)
    series = _shares(histograms, edges, _SPLIT_TONES)
    x = measure if name == "play_percent" else f"{measure}, in bins that double"
    return charts.lines(
        series, Axes(title, x, f"share of {what}", places, ticks, percent, figures.axis_percent)
    )


def _doubling_places(edges: Sequence[int]) -> tuple[list[str], list[str]]:
    ticks = charts.thinned([view.edge_tick(edge) for edge in edges], 12)
    return [view.bin_name(edge) for edge in edges], ticks


def _shares(
    histograms: Mapping[str, Counts], edges: Sequence[int], tones: Mapping[str, int]
) -> list[Series]:
    return [
        Series(
            name,
            [histogram.get(str(edge), 0) / sum(histogram.values()) for edge in edges],
            tones.get(name, 5),
        )
        for name, histogram in histograms.items()
    ]


def popularity(given: ReportInput) -> Section:
    """How popular the tracks of positives are, against those of each type of negative."""
    title = "Popularity"
    found = given.all.get("popularity", {})
    groups = {name: found[name] for name in [*_GROUP_TONES, *sorted(found)] if found.get(name)}
    if len(groups) < 2:
        why = f"rows of kind {given.kind} are not told apart as positives and negatives."
        return Section("popularity", title, None, why)
    edges = view.edges(groups.values())
    places, ticks = _doubling_places(edges)
    axes = Axes(
        title="Rows by the plays of their track",
        x="plays of the track as known at the midnight before, in bins that double",
        y="share of the group's rows",
        places=places,
        ticks=ticks,
        format=percent,
        tick=figures.axis_percent,
    )
    medians = ", ".join(
        f"{name} {view.bin_name(view.median_bin(histogram))}" for name, histogram in groups.items()
    )
    return Section(
        "popularity",
        title,
        join(
            _note("Median plays of the track: ", medians, "."),
            charts.lines(_shares(groups, edges, _GROUP_TONES), axes),
        ),
    )


# Features


def features(given: ReportInput) -> Section:
    """Every column but labels and ids: what it is, what it looks like, how often it says something."""
    found = given.all.get("features", {})
    if not found:
        return Section("features", "Features", None, "no feature was tallied.")
    when = view.periods(given.all["days"])
    shapes = {split: _shapes(data) for split, data in given.statistics.items()}
    shape_of = next((shapes[split] for split in given.splits if split in shapes), {})
    suspects = {each.feature for each in given.findings}
    splits = given.splits
    bodies = []
    for family in dict.fromkeys(column.family for column in given.manifest.columns):
        rows = [
            _feature(given, column, found[column.name], when, shape_of, column.name in suspects)
            for column in given.manifest.columns
            if column.family == family and column.name in found
        ]
        if rows:
            width = 4 + len(splits) + bool(given.drift)
            name = _FAMILIES.get(family or "", family or "Other")
            head = tag("tr", tag("th", name, colspan=width, scope="rowgroup"), class_="family")
            bodies.append(tag("tbody", head, *rows))
    known = [f"known in {split}" for split in splits] if len(splits) > 1 else ["known"]
    table = _table(
        ("feature", "values", "by day", *known, "not zero", *(["drift"] if given.drift else [])),
        bodies,
        "Known: not null. Not zero: neither null nor 0, false or empty. By day: light is known, "
        "dark is not zero.",
        "features",
        left=3,
    )
    absent = "" if shape_of else " Their values are not drawn: the version has no statistics."
    return Section("features", "Features", join(_note(absent) if absent else None, table))


def _feature(
    given: ReportInput,
    column: ColumnEntry,
    tallied: Counts,
    when: Sequence[view.Period],
    shape_of: Mapping[str, Markup],
    is_suspect: bool,
) -> Markup:
    name = join(
        tag("code", column.name),
        tag("a", "finding", href="#findings", class_="badge") if is_suspect else None,
        tag("small", column.description) if column.description else None,
    )
    shares = [
        (figures.ratio(part, given.tallies[split]["rows"]), split)
        for split in given.splits
        for part in [_of(given.tallies[split]["features"][column.name]["days"], "known")]
    ]
    nonzero = figures.ratio(_of(tallied["days"], "nonzero"), given.all["rows"])
    days = given.all["days"]
    layers = [
        [
            (figures.ratio(_of({d: tallied["days"].get(d, {}) for d in p.days}, what), rows) or 0.0)
            for p in when
            for rows in [sum(days.get(day, 0) for day in p.days)]
        ]
        for what in ("known", "nonzero")
    ]
    lowest = [f"{min(layer):.1%} to {max(layer):.1%}" for layer in layers]
    by_day = charts.steps(layers, f"known {lowest[0]}, not zero {lowest[1]} of a day's rows")
    cells = [
        tag("td", shape_of.get(column.name, ""), class_="shape", data_label="values"),
        tag("td", by_day, class_="shape", data_label="by day"),
        *(
            tag("td", percent(share), class_=_level(share), data_label=f"known in {split}")
            for share, split in shares
        ),
        tag("td", percent(nonzero), class_="number", data_label="not zero"),
    ]
    if given.drift:
        drift = figures.number(given.drift.get(column.name))
        cells.append(tag("td", drift, class_="number", data_label="drift"))
    return _row(name, *cells)


def _of(days: Counts, what: str) -> int:
    return sum(entry.get(what, 0) for entry in days.values())


def _level(share: float | None) -> str:
    """The class of a coverage: what is not full stands out."""
    return "number full" if share == 1 else "number part"


def _shapes(data: bytes) -> dict[str, Markup]:
    """Column -> tiny histogram of its values, from a binary `DatasetFeatureStatisticsList`."""
    from tensorflow_metadata.proto.v0 import statistics_pb2

    parsed = statistics_pb2.DatasetFeatureStatisticsList.FromString(data)
    shapes = {}
    for feature in parsed.datasets[0].features if parsed.datasets else ():
        name = feature.name or ".".join(feature.path.step)
        if feature.HasField("num_stats"):
            numbers = feature.num_stats
            standard = [h for h in numbers.histograms if h.type == h.STANDARD]
            heights = [bucket.sample_count for h in standard[:1] for bucket in h.buckets]
            label = (
                f"from {figures.number(numbers.min)} to {figures.number(numbers.max)}, "
                f"mean {figures.number(numbers.mean)}, median {figures.number(numbers.median)}"
            )
        else:
            top = feature.string_stats.top_values
            heights = [value.frequency for value in top[:_TOP_VALUES]]
            heights += [0.0] * (_TOP_VALUES - len(heights))
            label = "most frequent: " + ", ".join(
                f"{value.value} {count(round(value.frequency))}" for value in top[:5]
            )
        if max(heights, default=0) > 0:
            highest = max(heights)
            shapes[name] = charts.steps([[height / highest for height in heights]], label)
    return shapes


# Against the version before


def drift(given: ReportInput) -> Section:
    """Columns by how far their values moved since the version before."""
    if not given.drift:
        why = "there is no earlier version." if given.previous is None else "none was measured."
        return Section("drift", "Drift", None, why)
    order = sorted(given.drift.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = order[:_MOST_DRIFTS], order[_MOST_DRIFTS:]
    scale = max(shown[0][1], 1e-12)
    rows = (
        _row(
            tag("code", name),
            figures.number(value),
            tag("td", charts.bar(value / scale, 0, f"{name}: {value:.4g}"), class_="bar-cell"),
        )
        for name, value in shown
    )
    table = _table(
        ("column", "drift", ""),
        [tag("tbody", *rows)],
        "Distance of a column's values from those of the version before; 0 is no change.",
        "bars",
    )
    more = (
        f"{plural(len(rest), 'column')} more, at most {figures.number(rest[0][1])}." if rest else ""
    )
    return Section("drift", "Drift", join(table, _note(more) if more else None))


def changes(given: ReportInput) -> Section:
    """Sizes and label rates beside those of the version before."""
    title = "Since the version before"
    if given.previous is None:
        return Section("changes", title, None, "there is no earlier version.")
    manifest, tallies = given.previous
    before = ReportInput(manifest, tallies)
    lines: list[tuple[str, float | None, float | None, Callable[[float | None], str]]] = []
    for split in given.splits:
        for what in ("rows", "users"):
            now, then = given.tallies[split][what], before.tallies.get(split, {}).get(what)
            text = f"{'listeners' if what == 'users' else what} in {split}"
            lines.append((text, then, now, figures.exact))
    for name in _in_column_order(given, given.all["labels"]):
        entry = view.over_days(given.all["labels"][name])
        measure = Measure.of(name, entry)
        earlier = before.all.get("labels", {}).get(name)
        then = measure.rate(view.over_days(earlier)) if earlier else None
        lines.append((name.removeprefix("label_"), then, measure.rate(entry), measure.text))
    rows = (
        _row(name, write(then), write(now), _change(then, now)) for name, then, now, write in lines
    )
    table = _table(
        ("", "before", "now", "change"),
        [tag("tbody", *rows)],
        f"Against version {manifest.version}.",
    )
    return Section("changes", title, table)


def _change(then: float | None, now: float | None) -> str:
    if not then or now is None:
        return NONE
    return "0%" if now == then else f"{100 * (now / then - 1):+.1f}%".replace("-", "−")


# Experiments


def experiments(given: ReportInput) -> Section:
    """Listeners of each arm against the shares that were to be, and what came of it."""
    found = given.all.get("experiments", {})
    if not found:
        return Section("experiments", "Experiments", None, "no row was in an experiment.")
    return Section(
        "experiments",
        "Experiments",
        join(*(_experiment(given, name, found[name]) for name in sorted(found))),
    )


def _experiment(given: ReportInput, name: str, found: Counts) -> Markup:
    # Listeners do not add up over splits, so their balance is judged in the split with most.
    split, seen = max(
        ((s, given.tallies[s]["experiments"].get(name, {"users": 0})) for s in given.splits),
        key=lambda item: item[1]["users"],
    )
    stated = view.spec_value(given.manifest, "exposure", "experiments", name) or {}
    arms = sorted(found["variants"])
    expected = stated or dict.fromkeys(arms, 1 / len(arms))
    users = {arm: seen["variants"].get(arm, {}).get("users", 0) for arm in arms}
    total = sum(users.values())

    def row(arm: str) -> Markup:
        share, part = figures.ratio(users[arm], total), found["variants"][arm]
        reward = figures.ratio(part["reward_sum_micro"], part["reward_known"] * MICRO)
        label = f"{arm}: {percent(share)}, expected {percent(expected.get(arm))}"
        return _row(
            arm,
            count(users[arm]),
            tag("td", charts.bar(share or 0, 0, label, expected.get(arm)), class_="bar-cell"),
            percent(share),
            percent(expected.get(arm)),
            count(part["rows"]),
            figures.number(reward),
        )

    table = _table(
        ("variant", f"listeners in {split}", "", "share", "expected", "rows", "mean reward"),
        [tag("tbody", *map(row, arms))],
        f"Arms of {name}.",
    )
    return join(tag("h3", name), table, _note(_balance(users, expected), _in_two(seen, total)))


def _balance(users: Mapping[str, int], expected: Mapping[str, float]) -> str:
    total = sum(users.values())
    if len(users) < 2 or not total or set(users) - set(expected):
        return "The arms cannot be compared with expected shares."
    distances = (
        (users[arm] - total * expected[arm]) ** 2 / (total * expected[arm]) for arm in users
    )
    statistic = sum(distances)
    p_value = chi_square_tail(statistic, len(users) - 1)
    verdict = (
        "differ by more than chance: look for what loses the listeners of an arm"
        if p_value < _CHANCE
        else "are within chance of what was expected"
    )
    p_text = "p < 0.0001" if p_value < 0.0001 else f"p = {figures.number(p_value)}"
    return f"The sizes of the arms {verdict} (chi-square {figures.number(statistic)}, {p_text}). "


def _in_two(seen: Counts, total: int) -> str:
    twice = total - seen["users"]
    return f"{plural(twice, 'listener')} in more than one arm." if twice else ""
