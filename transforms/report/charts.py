"""Charts as inline SVG, without script, that stay readable at any width.

Only the shapes are SVG: drawn in a square of 100 by 100 that is stretched to the width there is,
with strokes that do not stretch. All text is HTML beside it, so it keeps its size. Colours are the
classes `s0` to `s6` of style.css, one a series, after Okabe and Ito; lines also differ by their
dashes. Each chart says what it shows in `<title>` and `<desc>`, each mark what it stands for in a
`<title>` of its own, which browsers show as a tooltip.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from transforms.report.markup import Markup, join, tag

Format = Callable[[float | None], str]

_GRID_LINES = 4


@dataclasses.dataclass(frozen=True)
class Series:
    """One value for each place of the x axis; None where there is none. `tone` is its colour."""

    name: str
    values: Sequence[float | None]
    tone: int


@dataclasses.dataclass(frozen=True)
class Axes:
    """What a chart's axes say.

    Attributes:
      title: what the chart shows, in a few words.
      x, y: what the axes measure, with the unit.
      places: name of each place of the x axis, for tooltips.
      ticks: text under each place; "" for none.
      format: writes a value, for tooltips.
      tick: writes a value, for the y axis.
      note: stands beside the title; `y`, if there is none.
      small: one of many, with fewer lines.
    """

    title: str
    x: str
    y: str
    places: Sequence[str]
    ticks: Sequence[str]
    format: Format
    tick: Callable[[float], str]
    note: str = ""
    small: bool = False


def thinned(ticks: Sequence[str], most: int) -> list[str]:
    """The ticks with all but about `most` blanked out, at equal distances from the first."""
    step = max(1, math.ceil(len(ticks) / most))
    return [text if index % step == 0 else "" for index, text in enumerate(ticks)]


def lines(series: Sequence[Series], axes: Axes) -> Markup:
    """A line with dots for each series, from zero up."""
    top = _nice_top(value for each in series for value in each.values)
    drawn = []
    for each in series:
        points = [
            (_middle(index, axes), 100 - 100 * value / top)
            for index, value in enumerate(each.values)
            if value is not None
        ]
        path = "L".join(f"{x:.2f} {y:.2f}" for x, y in points)
        if points:
            drawn.append(tag("path", class_=f"line s{each.tone}", d="M" + path))
            # A stroke of no length with round caps is a dot that does not stretch.
            dots = "".join(f"M{x:.2f} {y:.2f}h0" for x, y in points)
            drawn.append(tag("path", class_=f"dots s{each.tone}", d=dots))
    return _chart(series, axes, top, join(*drawn), _legend(series, _dash))


def columns(series: Sequence[Series], axes: Axes) -> Markup:
    """A column a place, the series stacked from the first one up."""
    heights = [sum(v or 0 for v in values) for values in zip(*(s.values for s in series))]  # noqa: B905
    top = _nice_top(heights)
    width = 100 / max(1, len(axes.places))
    filled = 0.6 if len(heights) < 10 else 0.84
    drawn, base = [], [0.0] * len(heights)
    for each in series:
        for index, value in enumerate(each.values):
            if value:
                base[index] += value
                drawn.append(
                    tag(
                        "rect",
                        class_=f"fill s{each.tone}",
                        x=(index + 0.5 - filled / 2) * width,
                        y=100 - 100 * base[index] / top,
                        width=filled * width,
                        height=100 * value / top,
                    )
                )
    return _chart(series, axes, top, join(*drawn), _legend(series, key))


def bar(share: float, tone: int, label: str, mark: float | None = None) -> Markup:
    """A horizontal bar for a table's cell: `share` of the cell's width, with a mark to compare."""
    at = None if mark is None else f"M{100 * mark:.2f} -30V130"
    return _shape(
        "bar",
        label,
        tag("rect", class_="track", width=100, height=100),
        tag("rect", class_=f"fill s{tone}", width=100 * min(1.0, share), height=100),
        None if at is None else tag("path", class_="line s6", d=at),
    )


def steps(layers: Sequence[Sequence[float]], label: str) -> Markup:
    """Tiny columns for a table's cell, without gaps, each layer (0 to 1 high) over the one before;
    the last one is the darkest."""
    drawn = []
    for depth, heights in enumerate(layers, start=1 if len(layers) == 1 else 0):
        width = 100 / max(1, len(heights))
        path = "".join(
            f"V{100 - 100 * height:.1f}H{(index + 1) * width:.2f}"
            for index, height in enumerate(heights)
        )
        drawn.append(tag("path", class_=f"layer{depth}", d=f"M0 100{path}V100Z"))
    return _shape("steps", label, *drawn)


def key(tone: int) -> Markup:
    """A small square in the colour of a series."""
    return tag("i", class_=f"key s{tone}", aria_hidden="true")


def _dash(tone: int) -> Markup:
    stroke = tag("path", class_=f"line s{tone}", d="M0 50H100")
    return tag("svg", stroke, class_="swatch", aria_hidden="true", **_STRETCHED)


def _legend(series: Sequence[Series], sample: Callable[[int], Markup]) -> Markup | None:
    """Names of the series beside a sample of each; one alone needs none."""
    if len(series) < 2:
        return None
    return tag("ul", *(tag("li", sample(each.tone), each.name) for each in series), class_="legend")


_STRETCHED = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none"}


def _shape(kind: str, label: str, *shapes: Markup | None) -> Markup:
    return tag("svg", tag("title", label), *shapes, class_=kind, role="img", **_STRETCHED)


def _middle(index: int, axes: Axes) -> float:
    return 100 * (index + 0.5) / len(axes.places)


def _nice_top(values: Iterable[float | None]) -> float:
    """The smallest 1, 2, 2.5 or 5 times a power of ten, times the grid lines, above all values."""
    highest = max((value for value in values if value is not None), default=0.0)
    if highest <= 0:
        return 1.0
    step = highest / _GRID_LINES
    power = 10.0 ** math.floor(math.log10(step))
    nice = next(m for m in (1, 2, 2.5, 5, 10, 20) if m * power >= step * (1 - 1e-9))
    return nice * power * _GRID_LINES


def _chart(
    series: Sequence[Series], axes: Axes, top: float, drawn: Markup, legend: Markup | None
) -> Markup:
    """The frame of a chart: heading, axis texts, grid, what is drawn, tooltips, legend."""
    shown = range(0, _GRID_LINES + 1, _GRID_LINES if axes.small else 1)
    grid = "".join(f"M0 {100 * line / _GRID_LINES:.2f}H100" for line in shown)
    width = 100 / max(1, len(axes.places))
    tooltips = (
        tag(
            "rect",
            tag("title", _tooltip(index, series, axes)),
            class_="hit",
            x=index * width,
            width=width,
            height=100,
        )
        for index in range(len(axes.places))
    )
    svg = tag(
        "svg",
        tag("title", axes.title),
        tag("desc", f"{axes.y}, by {axes.x}. {axes.note}".strip()),
        tag("path", class_="grid", d=grid),
        drawn,
        *tooltips,
        role="img",
        **_STRETCHED,
    )
    y_texts = (
        tag("span", axes.tick(top * i / _GRID_LINES), style=f"bottom:{100 * i / _GRID_LINES:g}%")
        for i in shown
    )
    longest = max(len(axes.tick(top * i / _GRID_LINES)) for i in shown)
    x_texts = (
        tag("span", text, style=f"left:{_middle(index, axes):.2f}%")
        for index, text in enumerate(axes.ticks)
        if text
    )
    return tag(
        "figure",
        tag("figcaption", tag("b", axes.title), tag("span", axes.note or axes.y)),
        legend,
        tag(
            "div",
            tag("div", *y_texts, class_="y", style=f"width:{longest + 0.5}ch", aria_hidden="true"),
            tag("div", svg, class_="area"),
            tag("div", *x_texts, class_="x", aria_hidden="true"),
            class_="plot",
        ),
        None if axes.small else tag("p", axes.x, class_="x-title"),
        class_="chart small" if axes.small else "chart",
    )


def _tooltip(index: int, series: Sequence[Series], axes: Axes) -> str:
    values = "\n".join(f"{s.name}: {axes.format(s.values[index])}" for s in series)
    return f"{axes.places[index]}\n{values}"
