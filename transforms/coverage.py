"""Which days a store knows the arrivals of, and until when what counts is known.

A daily partition stands for its day. An import of a source that does not tell when events arrived
stands for every day from its first event to its last, but only before the store's first daily
partition: from then on a day without a partition of its own is missing, whatever an import holds.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable

from transforms.store import Partition
from transforms.timeline import DAY_US

ONE_DAY = datetime.timedelta(days=1)
_EPOCH = datetime.date(1970, 1, 1)


def day_start_us(day: datetime.date) -> int:
    """UTC microseconds of a day's first instant."""
    return (day - _EPOCH).days * DAY_US


def day_of(instant_us: int) -> datetime.date:
    """UTC day of an instant."""
    return _EPOCH + ONE_DAY * (instant_us // DAY_US)


def days(first: datetime.date, last: datetime.date) -> list[datetime.date]:
    """Inclusive range of days."""
    return [first + ONE_DAY * i for i in range((last - first).days + 1)]


def is_over(day: datetime.date, as_of_us: int | None) -> bool:
    """Whether a day's last microsecond is not after the instant; None is the end of time."""
    return as_of_us is None or day_start_us(day + ONE_DAY) <= as_of_us + 1


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Days whose arrivals are known.

    Attributes:
      daily: days with a partition of their own.
      imported: days that an import stands for; all of them before the first of `daily`.
      empty: days without a partition that are taken for days without events.
    """

    daily: frozenset[datetime.date]
    imported: frozenset[datetime.date]
    empty: frozenset[datetime.date] = frozenset()

    @classmethod
    def of(cls, partitions: list[Partition]) -> Coverage:
        daily = {p.day for p in partitions if p.is_daily}
        spans = [p.event_days for p in partitions if not p.is_daily]
        imported = {day for span in spans if span is not None for day in days(*span)}
        begin = min(daily, default=datetime.date.max)
        return cls(frozenset(daily), frozenset(day for day in imported if day < begin))

    def with_empty(self, more: Iterable[datetime.date]) -> Coverage:
        """The same with days that are taken for days without events."""
        return dataclasses.replace(self, empty=self.empty.union(more))

    @property
    def covered(self) -> frozenset[datetime.date]:
        return self.daily | self.imported | self.empty

    @property
    def last_daily(self) -> datetime.date | None:
        return max(self.daily, default=None)

    def complete_until(self, start: datetime.date, lateness_days: int) -> datetime.date:
        """The first day from `start` on of which events that count may still arrive.

        A day is complete when the arrivals of it and of the `lateness_days` after it are covered.
        After a day that an import stands for, only days of daily partitions may bring some.
        """
        covered, begin = self.covered, min(self.daily, default=datetime.date.max)

        def is_complete(day: datetime.date) -> bool:
            later = days(day + ONE_DAY, day + ONE_DAY * lateness_days)
            if day in self.imported:
                later = [each for each in later if each >= begin]
            return day in covered and covered.issuperset(later)

        day = start
        while is_complete(day):
            day += ONE_DAY
        return day
