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

_MOST_DOTS = 30  # of a line; more would be a band
_INTERVALS = 4  # of a y axis, about


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


@dataclasses.dataclass(frozen=True)
class _Scale:
    """A y axis: multiples of `step` from `low` to `high`, zero among them."""

    low: int
    high: int
    step: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> _Scale:
        """The axis that holds all values, with steps of 1, 2, 2.5 or 5 times a power of ten."""
        known = [0.0, *(value for value in values if value is not None)]
        lowest, highest = min(known), max(known)
        if lowest == highest:
            return cls(0, 1, 1.0)
        wanted = (highest - lowest) / _INTERVALS
        power = 10.0 ** math.floor(math.log10(wanted))
        step = next(m for m in (1, 2, 2.5, 5, 10, 20) if m * power >= wanted * (1 - 1e-9)) * power
        slack = 1e-9  # a value on a line is not past it
        return cls(math.floor(lowest / step + slack), math.ceil(highest / step - slack), step)

    def y(self, value: float) -> float:
        """Place of a value in a chart, from 0 at the top to 100."""
        return 100 * (self.high - value / self.step) / (self.high - self.low)

    def lines(self, few: bool) -> list[float]:
        """Values with a grid line; `few` are the ends and zero."""
        every = sorted({self.low, 0, self.high}) if few else range(self.low, self.high + 1)
        return [line * self.step for line in every]


def thinned(ticks: Sequence[str], most: int) -> list[str]:
    """The ticks with all but about `most` blanked out, at equal distances from the first."""
    step = max(1, math.ceil(len(ticks) / most))
    return [text if index % step == 0 else "" for index, text in enumerate(ticks)]


def lines(series: Sequence[Series], axes: Axes) -> Markup:
    """A line with dots for each series, on an axis that has zero; broken where a value is None."""
    scale = _Scale.of(value for each in series for value in each.values)
    drawn = []
    for each in series:
        path, dots, command = "", "", "M"
        for index, value in enumerate(each.values):
            if value is None:
                command = "M"
                continue
            point = f"{_middle(index, axes):.2f} {scale.y(value):.2f}"
            path += command + point
            dots += f"M{point}h0"  # no length, but round caps: a dot that does not stretch
            command = "L"
        drawn.append(tag("path", class_=f"line s{each.tone}", d=path))
        if len(each.values) <= _MOST_DOTS:
            drawn.append(tag("path", class_=f"dots s{each.tone}", d=dots))
    return _chart(series, axes, scale, join(*drawn), _legend(series, _dash))


def columns(series: Sequence[Series], axes: Axes) -> Markup:
    """A column a place, the series stacked from the first one up."""
    heights = [sum(each.values[index] or 0 for each in series) for index in range(len(axes.places))]
    scale = _Scale.of(heights)
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
                        y=scale.y(base[index]),
                        width=filled * width,
                        height=100 - scale.y(value),
                    )
                )
    return _chart(series, axes, scale, join(*drawn), _legend(series, key))


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


def _chart(
    series: Sequence[Series], axes: Axes, scale: _Scale, drawn: Markup, legend: Markup | None
) -> Markup:
    """The frame of a chart: heading, axis texts, grid, what is drawn, tooltips, legend."""
    shown = scale.lines(few=axes.small)
    grid = "".join(f"M0 {scale.y(line):.2f}H100" for line in shown)
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
    ticks = [axes.tick(line) for line in shown]
    y_texts = (
        tag("span", text, style=f"top:{scale.y(line):.2f}%")
        for text, line in zip(ticks, shown, strict=True)
    )
    longest = max(map(len, ticks))
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
