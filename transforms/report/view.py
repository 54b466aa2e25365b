"""What a report is drawn from, and the few derived things that several of its sections need."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transforms import counts as row_counts
from transforms.counts import Counts
from transforms.findings import Finding
from transforms.manifest import Manifest
from transforms.report import figures
from transforms.report.markup import Markup
from transforms.splits import SPLITS
from transforms.tallies import MICRO

SPLIT_TONES = {"train": 0, "validation": 1, "test": 2}  # the same colour in all charts

_MOST_PERIODS = 60  # places of a time axis; more days than that are drawn in groups


@dataclasses.dataclass(frozen=True)
class ReportInput:
    """Everything about a version that its report tells.

    Attributes:
      manifest: of the version; `run` is not read, so equal data has an equal report.
      tallies: split -> `tallies.tally` of its rows.
      statistics: split -> the bytes of its `statistics/<split>.pb`; empty where there are none.
      previous: manifest and tallies of the version before; None for the first one.
      findings: what the checks found.
      drift: column -> distance of its values from those of the version before.
    """

    manifest: Manifest
    tallies: Mapping[str, Counts]
    statistics: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    previous: tuple[Manifest, Mapping[str, Counts]] | None = None
    findings: Sequence[Finding] = ()
    drift: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def kind(self) -> str:
        return str(self.manifest.config["spec"]["kind"])

    @property
    def splits(self) -> list[str]:
        """Splits that have rows, in the order of time."""
        return [split for split in SPLITS if self.tallies.get(split, {}).get("rows")]

    @functools.cached_property
    def whole(self) -> Counts:
        """The tallies of all splits; a listener counts once in each split it is in."""
        return row_counts.total(self.tallies.values())


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page. One without a body is left out, and `absent` says why."""

    anchor: str
    title: str
    body: Markup | None
    absent: str = ""


@dataclasses.dataclass(frozen=True)
class Period:
    """A place of a time axis: one day, or a few where there are many."""

    name: str
    tick: str
    days: tuple[str, ...]


def periods(days: Iterable[str]) -> list[Period]:
    """All days from the first to the last, those without rows too, in at most 60 equal periods."""
    known = sorted(days)
    if not known:
        return []
    first, last = (datetime.date.fromisoformat(day) for day in (known[0], known[-1]))
    every = [
        (first + datetime.timedelta(days=number)).isoformat()
        for number in range((last - first).days + 1)
    ]
    step = math.ceil(len(every) / _MOST_PERIODS)
    grouped = [tuple(every[start : start + step]) for start in range(0, len(every), step)]
    return [
        Period(
            figures.long_day(group[0])
            if len(group) == 1
            else f"{figures.long_day(group[0])} to {figures.long_day(group[-1])}",
            figures.short_day(group[0]),
            group,
        )
        for group in grouped
    ]


@dataclasses.dataclass(frozen=True)
class Measure:
    """How the tallies of a label are read: as the share of true rows, or as a mean in a unit."""

    total: str  # key of what is divided by the known rows
    divisor: int
    unit: str
    is_share: bool = False

    @classmethod
    def of(cls, name: str, entry: Counts) -> Measure:
        """Args: the label's name, which tells its unit, and any entry of its tallies."""
        if "true" in entry:
            return cls("true", 1, "%", is_share=True)
        if "sum_micro" in entry:
            return cls("sum_micro", MICRO, "")
        return cls("sum", 1000, " s") if name.endswith("_ms") else cls("sum", 1, "")

    def rate(self, entry: Counts) -> float | None:
        """None where nothing is known."""
        known = entry.get("known", 0)
        return entry[self.total] / known / self.divisor if known else None

    def text(self, value: float | None) -> str:
        """For a table."""
        if value is None or self.is_share:
            return figures.percent(value)
        return figures.number(value) + self.unit

    def tick(self, value: float) -> str:
        """For an axis."""
        return figures.axis_percent(value) if self.is_share else figures.exact(value) + self.unit


def in_column_order(given: ReportInput, names: Iterable[str]) -> list[str]:
    """Names of columns as the manifest orders them, then those it does not have."""
    order = {column.name: index for index, column in enumerate(given.manifest.columns)}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def over_days(tallied: Counts) -> Counts:
    """Sum of a column's tallies over its days."""
    return row_counts.total(tallied["days"].values())


def edges(histograms: Iterable[Counts]) -> list[int]:
    """Lower edges of doubling bins, from the lowest that any histogram has to the highest."""
    found = sorted({int(edge) for histogram in histograms for edge in histogram})
    if not found:
        return []
    doubling = [0, *(1 << bit for bit in range(found[-1].bit_length()))]
    return [edge for edge in doubling if edge >= found[0]]


def bin_name(edge: int) -> str:
    """8 -> "8 to 15"."""
    return str(edge) if edge < 2 else f"{figures.count(edge)} to {figures.count(2 * edge - 1)}"


def edge_tick(edge: int) -> str:
    """2048 -> "2k"."""
    for size, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k")):
        if edge >= size:
            return f"{edge // size}{letter}"
    return str(edge)


def median_bin(histogram: Counts) -> int:
    """Lower edge of the bin that holds the median."""
    left = sum(histogram.values()) / 2
    for edge, number in sorted((int(edge), number) for edge, number in histogram.items()):
        left -= number
        if left <= 0:
            return edge
    raise ValueError("an empty histogram has no median")


def spec_value(manifest: Manifest, *path: str) -> Any:
    """A value of the spec, or None if it does not say."""
    value: Any = manifest.config.get("spec", {})
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
