"""Which split a row is in: train, validation or test, by global time.

With borders V (validation starts) and T (test starts), both midnights, and a gap G before each:

    train [.., V - G)      validation [V, T - G)      test [T, ..)

* A row belongs to the split of its session's start, so that no session is in two splits. A row
  without a session goes by its own time.
* A row of train or validation whose label window [t, t + horizon) ends behind the border that
  follows, or whose play was over only then, is dropped (`label_window`), or kept as censored with
  its labels null, as the spec says: no label of a split is decided by what happened in the next.
* Rows in a gap are dropped (`gap`), and so are rows at or behind the end of their split whose
  session began in it (`session_straddles`).
* Users of the holdout share (by a keyed hash) are never in train (`user_holdout`), nor is a user
  around an event of a held-out arm of an experiment (`experiment_holdout`).

All of it depends on the row and the borders alone, so the splits of single days' builds add up to
those of their range. Vocabulary, popularity and cold flags see the days that lie whole in train.
(Source: Yambda's global time split with gap; its restriction to users of train is a flag here, for
dropping cold users hides what a product has to serve. TFX: splits by hash are stable over days.)
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable
from typing import Literal

import numpy as np
import polars as pl
import pydantic

from transforms import hashing
from transforms.config import StrictModel
from transforms.counts import Counts
from transforms.findings import Finding
from transforms.timeline import DAY_US, HOUR_US, BoolArray, IntArray

SPLITS = ("train", "validation", "test")
REASONS = ("gap", "session_straddles", "label_window", "user_holdout", "experiment_holdout")

# A row is of a held-out arm if its user has an event of that arm less than this before it, or in
# its label window as far as that is before the border. Also the window of the cold flags.
MEMORY_US = 7 * DAY_US

NO_BORDER_US = 1 << 62  # an instant behind all others

_EPOCH = datetime.date(1970, 1, 1)


class SplitsSpec(StrictModel):
    """How rows are split by time.

    Attributes:
      validation_from, test_from: first UTC day of the split.
      validation_days, test_days: the same, counted back from the last day that is built.
      gap_hours: silence before each border.
      open_labels: what becomes of a row whose label window crosses the border behind it.
      holdout_user_share: share of users that are never in train.
      experiment_holdouts: experiment id -> arms that are never in train.
    """

    validation_from: datetime.date | None = None
    test_from: datetime.date | None = None
    validation_days: int | None = pydantic.Field(None, ge=1, le=3660)
    test_days: int | None = pydantic.Field(None, ge=1, le=3660)
    gap_hours: float = pydantic.Field(0.5, ge=0, le=30 * 24)
    open_labels: Literal["drop", "censor"] = "drop"
    holdout_user_share: float = pydantic.Field(0.0, ge=0, le=0.5)
    experiment_holdouts: dict[str, tuple[str, ...]] = {}

    @pydantic.model_validator(mode="after")
    def _one_form(self) -> SplitsSpec:
        for name in ("validation", "test"):
            if getattr(self, f"{name}_from") and getattr(self, f"{name}_days"):
                raise ValueError(f"{name}_from, {name}_days: expected one of the two, got both")
        if self.validation_from and self.test_from and self.validation_from >= self.test_from:
            raise ValueError(
                f"test_from: expected a day after validation_from ({self.validation_from}), "
                f"got {self.test_from}; the splits would overlap"
            )
        return self

    @property
    def gap_us(self) -> int:
        return round(self.gap_hours * HOUR_US)


@dataclasses.dataclass(frozen=True)
class Borders:
    """Where the splits of a build begin, in UTC microseconds; None where there is no such split."""

    validation_us: int | None
    test_us: int | None
    gap_us: int

    @property
    def periods(self) -> list[tuple[str, int, int]]:
        """(split, first instant, border behind it) in order of time."""
        starts = [
            (name, start)
            for name, start in zip(
                SPLITS, (-NO_BORDER_US, self.validation_us, self.test_us), strict=True
            )
            if start is not None
        ]
        ends = [start for _, start in starts[1:]] + [NO_BORDER_US]
        return [(name, start, end) for (name, start), end in zip(starts, ends, strict=True)]

    @property
    def train_border_us(self) -> int:
        """The border behind train; far in the future if all is train."""
        return self.periods[0][2]

    @property
    def train_end_us(self) -> int:
        """End of the train period, the gap left out; far in the future if all is train."""
        return self.train_border_us - self.gap_us

    def behind_us(self, split: IntArray) -> IntArray:
        """The border behind each split, index in SPLITS; far in the future if there is none."""
        border = np.full(len(SPLITS), NO_BORDER_US, dtype=np.int64)
        for name, _, border_us in self.periods:
            border[SPLITS.index(name)] = border_us
        return border[split]

    @property
    def train_end_day(self) -> datetime.date:
        """The first day that does not lie whole in the train period."""
        return _EPOCH + datetime.timedelta(days=min(self.train_end_us // DAY_US, 1_000_000))


def resolve(
    spec: SplitsSpec, first_day: datetime.date, last_day: datetime.date, horizon_us: int
) -> Borders:
    """The borders for a build of an inclusive range of days.

    Raises:
      ValueError: naming the field, if the splits overlap, leave no day for train, or are so short
        that the label window of no row closes in them.
    """
    one = datetime.timedelta(days=1)
    test = spec.test_from
    if spec.test_days:
        test = last_day + one - one * spec.test_days
    validation = spec.validation_from
    if spec.validation_days:
        validation = (test or last_day + one) - one * spec.validation_days
    for name, start in (("validation", validation), ("test", test)):
        counted = getattr(spec, f"{name}_days")
        if counted and start is not None and start <= first_day:
            raise ValueError(
                f"splits.{name}_days: {counted} days back from the end of {first_day} to "
                f"{last_day} leave no day for train; build more days or take fewer"
            )
    if validation and test:
        closing_us = horizon_us if spec.open_labels == "drop" else 0
        room_us = (test - validation).days * DAY_US
        if room_us <= max(spec.gap_us, closing_us):
            raise ValueError(
                f"splits: validation is from {validation} to {test}: expected more than gap_hours "
                f"({spec.gap_hours:g} h) and labels.horizon_hours ({horizon_us / HOUR_US:g} h), "
                "for the label windows of its rows have to close before test starts; take more "
                "days, or a shorter horizon"
            )
    return Borders(_midnight_us(validation), _midnight_us(test), spec.gap_us)


def _midnight_us(day: datetime.date | None) -> int | None:
    return None if day is None else (day - _EPOCH).days * DAY_US


@dataclasses.dataclass(frozen=True)
class Assigned:
    """Where rows go.

    Attributes:
      split: index in SPLITS, -1 for a dropped row.
      reason: index in REASONS of a dropped row, -1 for others.
      censored: the row is kept, but its label window is cut by a border.
    """

    split: IntArray
    reason: IntArray
    censored: BoolArray

    @property
    def counts(self) -> dict[str, int]:
        """Dropped rows by reason."""
        return {name: int((self.reason == i).sum()) for i, name in enumerate(REASONS)}


def assign(
    borders: Borders,
    time_us: IntArray,
    session_start_us: IntArray,
    closes_us: IntArray,
    held_out_user: BoolArray,
    held_out_arm: BoolArray,
    open_labels: str,
) -> Assigned:
    """Applies the rules of this module; of two reasons to drop a row the first in REASONS counts.

    Args:
      borders: of the build.
      time_us: of each row.
      session_start_us: of its session; `time_us` where it has none.
      closes_us: from when on all its labels are known.
      held_out_user, held_out_arm: never in train.
      open_labels: "drop" or "censor".
    """
    periods = borders.periods
    starts = np.array([start for _, start, _ in periods])
    at = np.searchsorted(starts, session_start_us, side="right") - 1
    border = np.array([border for _, _, border in periods])[at]
    split = np.array([SPLITS.index(name) for name, _, _ in periods])[at]
    train = split == SPLITS.index("train")
    is_open = closes_us > border
    dropped = (
        session_start_us >= border - borders.gap_us,
        time_us >= border - borders.gap_us,
        is_open & (open_labels == "drop"),
        train & held_out_user,
        train & held_out_arm,
    )
    reason = np.full(len(time_us), -1, dtype=np.int64)
    for i in reversed(range(len(REASONS))):
        reason[dropped[i]] = i
    return Assigned(np.where(reason < 0, split, -1), reason, is_open & (reason < 0))


def check(counts: Counts, periods: Iterable[str]) -> list[Finding]:
    """Warnings of what a spec asks for and the data do not have: a misspelled arm holds out nobody.

    Args:
      counts: of the whole dataset: rows of `splits`, and events of `held_out_arms` if there are.
      periods: splits that have days in the range that is built.
    """
    found = [
        Finding("splits", None, "warning", f"{split} has days in the range, but no rows", 0.0)
        for split in periods
        if not counts["splits"][split]
    ]
    for experiment, arms in counts.get("held_out_arms", {}).items():
        for arm, events in arms.items():
            text = (
                f"splits.experiment_holdouts: no event is of arm {arm!r} of experiment "
                f"{experiment!r}; nobody is held out by it"
            )
            if not events:
                found.append(Finding("experiment_holdouts", experiment, "warning", text, 0.0))
    return found


def is_held_out(user_id: pl.Expr, share: float, seed: int) -> pl.Expr:
    """Whether a user is of the holdout share: the same on every day and in every dataset of the
    seed."""
    return hashing.hash64(user_id, "user-holdout", seed) < int(share * (1 << 64))
