"""What a dataset is: typed, validated specs read from YAML (`specs/*.yaml`)."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import pydantic

from schemas.listening_event import SURFACES
from transforms import labels, splits
from transforms.attribution import Windows
from transforms.buckets import check_bucket_count
from transforms.bursts import BURST_CONTEXT_US
from transforms.config import StrictModel, load_yaml
from transforms.exposure import ExposureSpec
from transforms.features import FEATURES
from transforms.features.registry import FAMILIES
from transforms.gates import GatesSpec
from transforms.labels import PlayRule
from transforms.negatives import NegativesSpec
from transforms.sessions import SessionRule
from transforms.splits import SplitsSpec
from transforms.timeline import DAY_US, HOUR_US, MINUTE_US
from transforms.vocabulary import VocabularySpec

Minutes = Annotated[float, pydantic.Field(gt=0, le=7 * 24 * 60)]


def _known_surface(name: str) -> str:
    if name not in SURFACES:
        raise ValueError(f"expected one of {', '.join(SURFACES)}, got {name!r}")
    return name


Surface = Annotated[str, pydantic.AfterValidator(_known_surface)]


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"([a-z0-9][a-z0-9_-]{0,63})?", name):
        raise ValueError(
            f"expected at most 64 of a-z, 0-9, _ and -, the first a letter or digit, got {name!r}"
        )
    return name


class ExamplesSpec(StrictModel):
    """Which events become rows.

    Attributes:
      rows: `impression`, `play`, or `auto`: impressions, but plays for a source that has no
        impression at all in the store.
      surfaces: only rows of these surfaces; null takes all.
    """

    rows: Literal["auto", "impression", "play"] = "auto"
    surfaces: tuple[Surface, ...] | None = None


class SessionRuleSpec(StrictModel):
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
      skip_1_below_ms, skip_2_below_ms, skip_3_below_share: thresholds of the three skip levels.
      completion_cap: largest completion.
      reward: label name -> weight.
    """

    horizon_hours: float = pydantic.Field(24, gt=0, le=30 * 24)
    lateness_days: int = pydantic.Field(2, ge=0, le=90)
    skip_1_below_ms: int = pydantic.Field(5_000, ge=1, le=3_600_000)
    skip_2_below_ms: int = pydantic.Field(30_000, ge=1, le=3_600_000)
    skip_3_below_share: float = pydantic.Field(0.95, gt=0.0, le=1.0)
    completion_cap: float = pydantic.Field(1.0, ge=1.0, le=100.0)
    reward: dict[str, float] = {
        "streamed_30s": 1.0,
        "completion": 0.5,
        "skip_2": -0.5,
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

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> LabelsSpec:
        if self.skip_1_below_ms > self.skip_2_below_ms:
            raise ValueError(
                f"skip_1_below_ms: expected at most skip_2_below_ms ({self.skip_2_below_ms}), for "
                f"the levels are nested, got {self.skip_1_below_ms}"
            )
        if "returned_24h" in self.reward and self.horizon_us < labels.RETURN_US:
            raise ValueError(
                f"reward: returned_24h needs horizon_hours of at least 24, got "
                f"{self.horizon_hours:g}"
            )
        return self

    @property
    def horizon_us(self) -> int:
        return round(self.horizon_hours * HOUR_US)

    @property
    def play_rule(self) -> PlayRule:
        return PlayRule(
            self.skip_1_below_ms,
            self.skip_2_below_ms,
            self.skip_3_below_share,
            self.completion_cap,
        )


class OutputSpec(StrictModel):
    """How rows are written.

    Attributes:
      formats: `parquet`, `tfrecord`; the same rows in each.
      tfrecord_gzip: whether TFRecord files are compressed.
      shards: files that a split has in each format; a power of two, at most the store's buckets.
    """

    formats: tuple[Literal["parquet", "tfrecord"], ...] = ("parquet",)
    tfrecord_gzip: bool = False
    shards: int = 8

    @pydantic.field_validator("formats")
    @classmethod
    def _some_once(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        if not formats or len(set(formats)) != len(formats):
            raise ValueError(f"expected parquet, tfrecord or both, got {', '.join(formats)}")
        return formats

    @pydantic.field_validator("shards")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        return check_bucket_count(value)


class DatasetSpec(StrictModel):
    """What every kind of dataset shares.

    Attributes:
      kind: what a row is.
      name: of the dataset.
      seed: keys every hash that orders or samples rows.
      features: names of registered features, in column order, or "all" that suit the kind.
      history_length: plays in a history list.
      gates: what a version has to pass before it is published.
      exposure: checks of the impressions that were logged.
    """

    families: ClassVar[tuple[str, ...]] = FAMILIES

    kind: str
    name: Annotated[str, pydantic.AfterValidator(_plain_name)] = ""
    seed: int = pydantic.Field(0, ge=0, lt=1 << 63)
    sessions: SessionRuleSpec = SessionRuleSpec()
    attribution: AttributionSpec = AttributionSpec()
    labels: LabelsSpec = LabelsSpec()
    features: tuple[str, ...] = pydantic.Field("all", validate_default=True)
    history_length: int = pydantic.Field(10, ge=1, le=1000)
    splits: SplitsSpec = SplitsSpec()
    gates: GatesSpec = GatesSpec()
    exposure: ExposureSpec = ExposureSpec()
    output: OutputSpec = OutputSpec()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _named_after_kind(cls, data: Any) -> Any:
        named = isinstance(data, dict) and data.get("name") not in (None, "")
        kind = None if named or not isinstance(data, dict) else data.get("kind")
        return {**data, "name": kind} if isinstance(kind, str) else data

    @pydantic.field_validator("features", mode="before")
    @classmethod
    def _all_features(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "all":
            raise ValueError(f"expected a list of names, or all, got {value!r}")
        if value != "all":
            return value
        return tuple(n for n, e in FEATURES.items() if e.feature.family in cls.families)

    @pydantic.field_validator("features")
    @classmethod
    def _features_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in FEATURES:
                raise ValueError(f"unknown feature {name!r}; expected one of {', '.join(FEATURES)}")
            family = FEATURES[name].feature.family
            if family not in cls.families:
                raise ValueError(
                    f"{name!r} is of the family {family}, which rows of this kind cannot have; "
                    f"expected {', '.join(cls.families)}"
                )
        if len(set(names)) != len(names):
            raise ValueError("a feature is named twice")
        return names

    @pydantic.model_validator(mode="after")
    def _windows_fit(self) -> Self:
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
        longest = max([splits.MEMORY_US, *windows])
        return max(rule.left_context_us, longest + rule.cap_us) + BURST_CONTEXT_US

    @property
    def label_reach_us(self) -> int:
        """How long after t the labels of a row are open."""
        return self.labels.horizon_us

    @property
    def right_context_us(self) -> int:
        """How far after a day its labels look: its last row is a microsecond before its end."""
        return self.label_reach_us + BURST_CONTEXT_US - 1

    @property
    def pool_days(self) -> int:
        """Days before a day whose item counts its negatives are drawn by; 0 if none are drawn."""
        return 0

    @property
    def lateness_us(self) -> int:
        return self.labels.lateness_days * DAY_US


class RankingSpec(DatasetSpec):
    """A row per impression or play."""

    kind: Literal["ranking"]
    examples: ExamplesSpec = ExamplesSpec()


class RetrievalSpec(DatasetSpec):
    """A row per positive play, with negatives.

    Features of the track (families item and user-item) are refused: the negatives would not have
    them, and a model would learn which item has.

    Attributes:
      positive: label that makes a play a positive.
      surfaces: only positives of these surfaces; null takes all.
      negatives: see `transforms.negatives`.
    """

    families: ClassVar[tuple[str, ...]] = ("context", "user", "session", "history")

    kind: Literal["retrieval"]
    positive: Literal["played", "streamed_30s", "scrobble", "liked", "saved"] = "streamed_30s"
    surfaces: tuple[Surface, ...] | None = None
    negatives: NegativesSpec

    @property
    def left_context_us(self) -> int:
        return max(super().left_context_us, self.negatives.exclude_days * DAY_US)

    @pydantic.model_validator(mode="after")
    def _no_censored(self) -> RetrievalSpec:
        return _refuse_censored(self)

    @property
    def label_reach_us(self) -> int:
        """A like or save decides whether a later play is a positive within that play's horizon."""
        own = self.labels.horizon_us
        return own * 2 if self.positive in ("liked", "saved") else own

    @property
    def pool_days(self) -> int:
        return self.negatives.popularity_days


class SequencesSpec(DatasetSpec):
    """A row per user and window of plays; see `transforms.datasets.sequences`.

    Attributes:
      length: plays in a row, at most (N).
      stride: targets in a row, at most; the newest row is full.
      history_days: how far before its period's first instant a row reaches.
      period: `day`: the targets of a row are of one UTC day, and builds of days add up to the build
        of their range; `range`: of the whole range that is built.
      packing: `none`, or `pack`: rows of several windows, filled up to `length`.
      min_length: plays that a row has at least; shorter ones are left out and counted.
      vocabulary: which tracks have an index of their own.
    """

    families: ClassVar[tuple[str, ...]] = ()

    kind: Literal["sequences"]
    length: int = pydantic.Field(200, ge=2, le=100_000)
    stride: int | None = pydantic.Field(None, ge=1, le=100_000)
    history_days: int = pydantic.Field(28, ge=1, le=3660)
    period: Literal["day", "range"] = "range"
    packing: Literal["none", "pack"] = "none"
    min_length: int = pydantic.Field(2, ge=1, le=100_000)
    vocabulary: VocabularySpec = VocabularySpec()

    @pydantic.model_validator(mode="after")
    def _rows_fit(self) -> SequencesSpec:
        for name in ("stride", "min_length"):
            value = getattr(self, name)
            if value is not None and value > self.length:
                raise ValueError(f"{name}: expected at most length ({self.length}), got {value}")
        return self

    @property
    def stride_or_length(self) -> int:
        return self.stride or self.length

    @property
    def left_context_us(self) -> int:
        history_us = self.history_days * DAY_US
        return max(super().left_context_us, history_us + BURST_CONTEXT_US)


class SessionsSpec(DatasetSpec):
    """A row per session.

    Attributes:
      min_plays: plays that a session has at least; shorter ones are left out and counted.
    """

    families: ClassVar[tuple[str, ...]] = ("context", "user", "history")

    kind: Literal["sessions"]
    min_plays: int = pydantic.Field(1, ge=1, le=100_000)

    @pydantic.model_validator(mode="after")
    def _no_censored(self) -> SessionsSpec:
        return _refuse_censored(self)

    @property
    def right_context_us(self) -> int:
        """A session that starts on the last instant may last for the cap."""
        return super().right_context_us + self.sessions.rule.cap_us + self.sessions.rule.gap_us


SpecT = TypeVar("SpecT", bound=DatasetSpec)


def _refuse_censored(spec: SpecT) -> SpecT:
    """A row of these kinds is made of what is known at the end of its label window."""
    if spec.splits.open_labels != "drop":
        raise ValueError(
            f"splits.open_labels: expected drop, for rows of kind {spec.kind} cannot be censored, "
            f"got {spec.splits.open_labels}"
        )
    return spec


_KINDS: dict[str, type[DatasetSpec]] = {
    "ranking": RankingSpec,
    "retrieval": RetrievalSpec,
    "sequences": SequencesSpec,
    "sessions": SessionsSpec,
}


class _AnyKind(StrictModel):
    """Just the kind, to choose the model that the whole document has to fit."""

    model_config = pydantic.ConfigDict(extra="ignore")

    kind: Literal["ranking", "retrieval", "sequences", "sessions"]


def load_spec(path: str) -> DatasetSpec:
    """The spec in a YAML file.

    Raises:
      UsageError: with one line for each mistake.
    """
    return load_yaml(path, _KINDS[load_yaml(path, _AnyKind).kind])
