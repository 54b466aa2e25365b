"""What listeners did, as the rows have it: labels, sessions and plays, popularity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from transforms import counts as row_counts
from transforms.counts import Counts
from transforms.report import charts, figures, tables, view
from transforms.report.charts import Axes, Series
from transforms.report.figures import count, percent, plural
from transforms.report.markup import Markup, join, tag
from transforms.report.view import SPLIT_TONES, Measure, ReportInput, Section
from transforms.tallies import PERCENT_STEP

# Group of `popularity` -> colour.
_GROUP_TONES = {
    "positive": 6, "not played": 1, "uniform": 0, "popularity": 1, "mixed": 2, "exposed": 3,
    "skipped": 4,
}  # fmt: skip

# Histogram -> title, what is counted, what its bins are of.
_HISTOGRAMS = {
    "session_rows": ("Sessions by how many rows they have", "sessions", "rows"),
    "session_tracks": ("Sessions by how many tracks were played", "sessions", "distinct tracks"),
    "session_minutes": ("Sessions by how long they lasted", "sessions", "minutes"),
    "window_events": ("Rows by how many plays they have", "rows", "plays"),
    "play_percent": ("Plays by how much of the track was heard", "plays", "share of the track"),
}
_PERCENT = "play_percent"

_FULL_SHADE = math.log(1.5)


def labels(given: ReportInput) -> Section:
    """Rates by split and surface as a shaded table, and by day as small charts."""
    found = given.whole.get("labels", {})
    names = [name for name in found if view.over_days(found[name])["known"]]
    if not names:
        return Section("labels", "Labels", None, "no label of any row is known.")
    names = view.in_column_order(given, names)
    censored = given.whole["status"].get("censored", 0)
    remark = f"{plural(censored, 'row')} of a censored label window have no label at all."
    return Section(
        "labels",
        "Labels",
        join(
            _by_part(given, names, found),
            tables.note(remark) if censored else None,
            _by_day(given, names, found),
        ),
    )


def _by_part(given: ReportInput, names: Sequence[str], found: Counts) -> Markup:
    by_rows = sorted(given.whole["surfaces"].items(), key=lambda item: (-item[1], item[0]))
    surfaces = [name for name, _ in by_rows] if len(by_rows) > 1 else []
    splits = given.splits if len(given.splits) > 1 else []
    labelled = sum(given.whole["surfaces"].values())

    def row(name: str) -> Markup:
        overall = view.over_days(found[name])
        measure = Measure.of(name, overall)
        rate = measure.rate(overall)
        parts = [
            *(view.over_days(given.tallies[split]["labels"][name]) for split in splits),
            *(found[name]["surfaces"].get(surface, {}) for surface in surfaces),
        ]
        return tables.row(
            tag("code", name.removeprefix("label_")),
            percent(overall["known"] / labelled),
            tag("td", tag("b", measure.text(rate)), class_="number"),
            *(_shaded(measure, part, rate) for part in parts),
        )

    about = "Share of true rows among the known ones, or their mean."
    if splits or surfaces:
        about += (
            " Blue is above that of all rows, orange below; the shade is full at one and a half "
            "times, and at two thirds."
        )
    return tables.table(
        about,
        ("label", "known", "all", *splits, *surfaces),
        tables.body(map(row, names)),
        kind="heat-table",
    )


def _shaded(measure: Measure, part: Counts, overall: float | None) -> Markup:
    """A cell that is shaded by how far its rate is from that of all rows."""
    rate, heat = measure.rate(part), 0.0
    if rate is not None and overall is not None and overall > 0:
        heat = math.log(rate / overall) / _FULL_SHADE if rate > 0 else -1.0
    return tag(
        "td",
        measure.text(rate),
        class_=f"number heat {'above' if heat > 0 else 'below'}",
        style=f"--heat:{min(1.0, abs(heat)):.2f}",
        title=plural(part.get("known", 0), "known row"),
    )


def _by_day(given: ReportInput, names: Iterable[str], found: Counts) -> Markup:
    when = view.periods(given.whole["days"])
    ends = (0, len(when) - 1)

    def chart(name: str) -> Markup:
        overall = view.over_days(found[name])
        measure = Measure.of(name, overall)
        days = found[name]["days"]
        entries = (row_counts.total(days.get(d, {}) for d in period.days) for period in when)
        axes = Axes(
            title=name.removeprefix("label_"),
            x="day (UTC)",
            y="share of known rows" if measure.is_share else "mean of known rows",
            places=[period.name for period in when],
            ticks=[period.tick if at in ends else "" for at, period in enumerate(when)],
            format=measure.text,
            tick=measure.tick,
            note=measure.text(measure.rate(overall)),
            small=True,
        )
        return charts.lines([Series(axes.title, list(map(measure.rate, entries)), 0)], axes)

    return join(
        tag("h3", "By day"),
        tables.note("From zero up, beside the figure of all days. What broke on a day is a step."),
        tag("div", *map(chart, names), class_="many"),
    )


def listening(given: ReportInput) -> Section:
    """Histograms of sessions, windows and plays; a line a split, so that splits can be compared."""
    drawn = [
        _histogram(name, found)
        for name in _HISTOGRAMS
        for found in [{s: given.tallies[s]["histograms"].get(name) for s in given.splits}]
        if any(found.values())
    ]
    if not drawn:
        return Section("listening", "Sessions and plays", None, "no histogram was tallied.")
    return Section("listening", "Sessions and plays", tag("div", *drawn, class_="pair"))


def _histogram(name: str, found: Mapping[str, Counts | None]) -> Markup:
    title, counted, measured = _HISTOGRAMS[name]
    by_split = {split: histogram for split, histogram in found.items() if histogram}
    if name == _PERCENT:
        edges = list(range(0, 101, PERCENT_STEP))
        places = [f"{edge} to {edge + PERCENT_STEP}%" for edge in edges[:-1]] + ["all of it"]
        ticks = [f"{edge}%" if edge % 25 == 0 else "" for edge in edges]
    else:
        edges = view.edges(by_split.values())
        places = [f"{view.bin_name(edge)} {measured}" for edge in edges]
        ticks = [view.edge_tick(edge) for edge in edges]
        measured += ", in bins that double"
    axes = Axes(
        title=title,
        x=measured,
        y=f"share of {counted}",
        places=places,
        ticks=ticks,
        format=percent,
        tick=figures.axis_percent,
    )
    return charts.lines(_shares(by_split, edges, SPLIT_TONES), axes)


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
    found = given.whole.get("popularity", {})
    groups = {name: found[name] for name in [*_GROUP_TONES, *sorted(found)] if found.get(name)}
    if len(groups) < 2:
        why = "there is not one group of positives and one of negatives to compare."
        return Section("popularity", "Popularity", None, why)
    edges = view.edges(groups.values())
    axes = Axes(
        title="Rows and negatives by how often their track was played",
        x="plays of the track, in bins that double",
        y="share of the group",
        places=[f"{view.bin_name(edge)} plays" for edge in edges],
        ticks=[view.edge_tick(edge) for edge in edges],
        format=percent,
        tick=figures.axis_percent,
    )
    heads = ("group", "size", "median plays", "never played")
    rows = (
        tables.row(
            name,
            count(sum(histogram.values())),
            view.bin_name(view.median_bin(histogram)),
            percent(histogram.get("0", 0) / sum(histogram.values())),
        )
        for name, histogram in groups.items()
    )
    return Section(
        "popularity",
        "Popularity",
        join(
            charts.lines(_shares(groups, edges, _GROUP_TONES), axes),
            tables.table("How often the tracks of a group were played.", heads, tables.body(rows)),
        ),
    )
