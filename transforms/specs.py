"""What a dataset is: typed, validated specs read from YAML (`specs/*.yaml`)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pydantic

from schemas.listening_event import SURFACES
from transforms import labels
from transforms.attribution import Windows
from transforms.buckets import check_bucket_count
from transforms.config import StrictModel
from transforms.features import FEATURES
from transforms.sessions import SessionRule
from transforms.timeline import DAY_US, HOUR_US, MINUTE_US

Minutes = Annotated[float, pydantic.Field(gt=0, le=7 * 24 * 60)]


def _known_surface(name: str) -> str:
    if name not in SURFACES:
        raise ValueError(f"expected one of {', '.join(SURFACES)}, got {name!r}")
    return name


Surface = Annotated[str, pydantic.AfterValidator(_known_surface)]


class ExamplesSpec(StrictModel):
    """Which events become rows.

    Attributes:
      rows: `impression`, `play`, or `auto`: impressions, but plays for a source that has no
        impression at all in the store.
      surfaces: only rows of these surfaces; null takes all.
    """

    rows: Literal["auto", "impression", "play"] = "auto"
    surfaces: tuple[Surface, ...] | None = None


class SessionsSpec(StrictModel):
    """See `transforms.sessions`."""

    gap_minutes: Minutes = 30
    cap_hours: float = pydantic.Field(24, gt=0, le=7 * 24)

    @property
    def rule(self) -> SessionRule:
        return SessionRule(round(self.gap_minutes * MINUTE_US), round(self.cap_hours * HOUR_US))


class AttributionSpec(StrictModel):
    """See `transforms.attribution`."""

    window_minutes: Minutes = 30
    surface_window_minutes: dict[Surface, Minutes] = {}

    @property
    def windows(self) -> Windows:
        return Windows(
            round(self.window_minutes * MINUTE_US),
            {k: round(v * MINUTE_US) for k, v in sorted(self.surface_window_minutes.items())},
        )


class LabelsSpec(StrictModel):
    """See `transforms.labels`.

    Attributes:
      horizon_hours: labels look at [t, t + horizon).
      lateness_days: events that arrive up to this long after they happened count, and a day's rows
        wait for them; later ones are left out and counted.
      skip_below_ms: threshold of the skip rule.
      completion_cap: largest completion.
      reward: label name -> weight.
    """

    horizon_hours: float = pydantic.Field(24, gt=0, le=30 * 24)
    lateness_days: int = pydantic.Field(2, ge=0, le=90)
    skip_below_ms: int = pydantic.Field(30_000, ge=1, le=3_600_000)
    completion_cap: float = pydantic.Field(1.0, ge=1.0, le=100.0)
    reward: dict[str, float] = {
        "streamed_30s": 1.0,
        "completion": 0.5,
        "skipped": -0.5,
        "liked": 2.0,
        "saved": 2.0,
    }

    @pydantic.field_validator("reward")
    @classmethod
    def _labels_exist(cls, weights: dict[str, float]) -> dict[str, float]:
        if not weights:
            raise ValueError("expected at least one label with a weight, got none")
        for name, weight in weights.items():
            if name not in labels.LABELS:
                raise ValueError(f"unknown label {name!r}; expected {', '.join(labels.LABELS)}")
            if not math.isfinite(weight):
                raise ValueError(f"{name}: expected a finite weight, got {weight}")
        return weights

    @property
    def horizon_us(self) -> int:
        return round(self.horizon_hours * HOUR_US)


class RankingSpec(StrictModel):
    """A ranking dataset: a row per impression or play.

    Attributes:
      seed: keys the row order.
      features: names of registered features, in column order.
      history_length: plays in a history list.
      shards: files a split has; a power of two, at most the store's bucket count.
    """

    kind: Literal["ranking"]
    name: str = pydantic.Field("ranking", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    seed: int = pydantic.Field(0, ge=0, lt=1 << 63)
    examples: ExamplesSpec = ExamplesSpec()
    sessions: SessionsSpec = SessionsSpec()
    attribution: AttributionSpec = AttributionSpec()
    labels: LabelsSpec = LabelsSpec()
    features: tuple[str, ...] = tuple(FEATURES)
    history_length: int = pydantic.Field(10, ge=1, le=1000)
    shards: int = 8

    @pydantic.field_validator("features", mode="before")
    @classmethod
    def _all_features(cls, value: Any) -> Any:
        return tuple(FEATURES) if value == "all" else value

    @pydantic.field_validator("features")
    @classmethod
    def _features_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in FEATURES:
                raise ValueError(f"unknown feature {name!r}; expected one of {', '.join(FEATURES)}")
        if len(set(names)) != len(names):
            raise ValueError("a feature is named twice")
        return names

    @pydantic.field_validator("shards")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        return check_bucket_count(value)

    @pydantic.model_validator(mode="after")
    def _windows_fit(self) -> RankingSpec:
        widest = self.attribution.windows.widest_us
        if widest > self.labels.horizon_us:
            raise ValueError(
                f"attribution.window_minutes: expected at most labels.horizon_hours "
                f"({self.labels.horizon_hours:g} h), got {widest / HOUR_US:g} h"
            )
        return self

    @property
    def left_context_us(self) -> int:
        """How far before a day its build reads: a play that ended within a feature's window may
        have started up to the longest play before it."""
        windows = [FEATURES[name].feature.window_us for name in self.features]
        rule = self.sessions.rule
        return max(rule.left_context_us, max(windows, default=0) + rule.cap_us)

    @property
    def right_context_us(self) -> int:
        """How far after a day its labels look."""
        return self.labels.horizon_us

    @property
    def lateness_us(self) -> int:
        return self.labels.lateness_days * DAY_US
