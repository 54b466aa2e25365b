"""Numbers and days as a reader wants to see them."""

from __future__ import annotations

import datetime
import math

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip

NONE = "–"  # in place of a number that there is not


def count(number: int) -> str:
    """A whole number: 168416 -> 168,416."""
    return f"{number:,}"


def percent(share: float | None) -> str:
    """A share: 0.1675 -> 16.8%; what is not all or nothing never reads as 100% or 0%."""
    if share is None:
        return NONE
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{100 * share:.{0 if share in (0, 1) else 1}f}%"


def number(value: float | None) -> str:
    """Three significant digits, with separators: 0.1813 -> 0.181, 18734.2 -> 18,734."""
    if value is None or math.isnan(value):
        return NONE
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def distance(value: float | None) -> str:
    """A distance between distributions, 0 to 1: 0.0421 -> 0.042."""
    if value is None:
        return NONE
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def size(byte_count: int) -> str:
    """Bytes: 17058821 -> 16.3 MiB."""
    value, units = float(byte_count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, _ = value / 1024, units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def plural(number: int, noun: str) -> str:
    """A count with its noun: 1 row, 2 rows."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def short_day(day: str) -> str:
    """A day of ISO form: 2026-01-05 -> 5 Jan."""
    date = datetime.date.fromisoformat(day)
    return f"{date.day} {_MONTHS[date.month - 1][:3]}"


def long_day(day: str) -> str:
    """A day of ISO form: 2026-01-05 -> 5 January 2026."""
    date = datetime.date.fromisoformat(day)
    return f"{date.day} {_MONTHS[date.month - 1]} {date.year}"


def instant(time_us: int) -> str:
    """UTC microseconds -> 2026-01-05 13:30."""
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return f"{epoch + datetime.timedelta(microseconds=time_us):%Y-%m-%d %H:%M}"


def ratio(part: int, whole: int) -> float | None:
    """None where there is nothing to be a part of."""
    return part / whole if whole else None


def exact(value: float) -> str:
    """For an axis: 12500 -> 12,500, 0.25 -> 0.25."""
    return f"{value:,.10g}"


def rounded(value: float | None) -> str:
    """A count, or a mean of counts: 12499.7 -> 12,500."""
    return NONE if value is None else f"{value:,.0f}"


def axis_percent(share: float) -> str:
    """For an axis: 0.2 -> 20%."""
    return f"{100 * share:.6g}%"


def span(first: str, last: str) -> str:
    """Days of ISO form: 5 to 9 January 2026."""
    start, end = long_day(first).split(), long_day(last).split()
    shared = next(n for n in range(4) if start[n:] == end[n:])
    return " ".join([*start[:shared], "to", *end]) if shared else long_day(last)
