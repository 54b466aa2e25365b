"""Exposure checks: whether logged propensities and experiment arms can be what they say they are.

Off-policy estimators divide by the propensity, so a wrong one is a wrong answer and no error. What
the log itself can refute is counted per bucket of users (`count`) and judged once for the dataset
(`check`):

| gate                     | what must hold                                                       |
|--------------------------|----------------------------------------------------------------------|
| `propensity_range`       | 0 < p <= 1                                                           |
| `propensity_sum`         | p sums to 1 over a slot whose candidates are all logged              |
| `exploration_propensity` | on exploration traffic mean(1 / p) is near the mean candidate count  |
| `sample_ratio`           | users of an experiment's arms are as many as the arms' shares say    |
| `two_variants`           | a user is in one arm of an experiment                                |

Exploration: a candidate that is drawn with p and weighted with 1 / p counts 1 on average, so
E[1 / p] is the number K of candidates, for any policy that can draw each of them (the random policy
of the Open Bandit data has 34 items and logs 1/34). The deviation 1 / p - K of the rows gives the
standard error; it is 0 row by row under uniform exploration.

Sample ratio: Pearson's chi-square test of goodness of fit, with one degree of freedom less than
there are arms. (Kohavi, Tang and Xu, Trustworthy Online Controlled Experiments, chapter 21.)

Rows without a propensity, and users without an experiment, are no fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl
import pydantic

from transforms.config import StrictModel
from transforms.counts import Counts
from transforms.findings import Finding

# What `count` reads of an impression.
COLUMNS = (
    "user_id", "track_id", "request_id", "shelf", "position", "candidate_set_size", "propensity",
    "is_exploration", "policy_id", "experiment_id", "variant",
)  # fmt: skip

SUM_TOLERANCE = 1e-6
MIN_EXPLORED = 100  # rows of a policy; fewer have no standard error to speak of
MIN_EXPECTED_USERS = 5  # in an arm; below, a chi-square test does not hold (Cochran 1954)

_CELL_BITS = 18  # of a slot's hash
_MICRO = 1_000_000
_MAX_INVERSE = 1e9  # 1 / p is taken as this at most, which keeps its square finite


class ExposureSpec(StrictModel):
    """What `check` allows; null turns a check off.

    Attributes:
      max_out_of_range_share: of the logged propensities.
      max_wrong_sum_share: of the slots whose candidates are all logged.
      inverse_tolerance: deviation of mean(1 / p), as a share of the mean candidate count. A
        deviation within `inverse_standard_errors` is allowed as well.
      inverse_standard_errors: see there.
      min_ratio_p_value: a sample ratio less likely than this under the expected shares is refused.
      experiments: experiment id -> variant -> expected share of the users. Arms of an experiment
        that is not named here are expected to be of equal size.
      max_two_variants_share: of an experiment's users.
    """

    max_out_of_range_share: float | None = pydantic.Field(0.0, ge=0, le=1)
    max_wrong_sum_share: float | None = pydantic.Field(0.0, ge=0, le=1)
    inverse_tolerance: float | None = pydantic.Field(0.01, ge=0, le=1)
    inverse_standard_errors: float = pydantic.Field(4.0, gt=0, le=100)
    min_ratio_p_value: float | None = pydantic.Field(0.001, gt=0, lt=1)
    experiments: dict[str, dict[str, float]] = pydantic.Field({})
    max_two_variants_share: float | None = pydantic.Field(0.001, ge=0, le=1)

    @pydantic.field_validator("experiments")
    @classmethod
    def _shares_are_whole(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for name, shares in value.items():
            if min(shares.values(), default=0.0) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
                raise ValueError(f"{name}: expected shares above 0 that sum to 1, got {shares}")
        return value


def count(impressions: pl.DataFrame) -> Counts:
    """What the checks need to know of the impressions of some users.

    Everything is an integer, so counts of disjoint users add up to those of all of them, bit by
    bit. Policies, experiments and variants become keys: they are few.

    Args:
      impressions: COLUMNS, in any order; all impressions of each of its users, without duplicates.

    Returns:
      `propensities`: `logged`, `out_of_range`.
      `slots`: `whole` (all candidates are logged), `wrong_sum`.
      `exploration`: policy ("" for none) -> `rows`; `unusable`, those of them without a valid
        propensity or a candidate count; and of the usable ones the sum of `candidates`, and of
        `deviation_micro` and `deviation_squared_micro`: 1 / p - K and its square in millionths,
        each row rounded.
      `experiments`: experiment -> `users`, `two_variants` (users in more than one arm),
        `without_variant` (rows), `variants`: variant -> users.
    """
    rows = impressions.lazy().select(COLUMNS)
    return {
        "propensities": _propensities(rows),
        "slots": _slots(rows),
        "exploration": _exploration(rows),
        "experiments": _experiments(rows),
    }


_P = pl.col("propensity")
_K = pl.col("candidate_set_size")
_VALID = (_P > 0) & (_P <= 1)


def _propensities(rows: pl.LazyFrame) -> Counts:
    logged = rows.select(logged=_P.count(), out_of_range=(~_VALID).sum())
    return logged.collect().to_dicts()[0]


def _slots(rows: pl.LazyFrame) -> Counts:
    """A slot is whole if it has as many rows as candidates, each of another track."""
    key = ("user_id", "request_id", "shelf", "position")
    chosen = rows.filter(_K > 1, _VALID, pl.col("request_id", "position").is_not_null())
    # Most logs hold the winner of a slot alone, and grouping those by four texts took most of the
    # time of all checks. Rows of a whole slot share a cell of its hash, so it has as many or more.
    keyed = chosen.with_columns(hash=pl.struct(key).hash()).collect()
    cells = (keyed["hash"].to_numpy() >> np.uint64(64 - _CELL_BITS)).view(np.int64)
    enough = np.bincount(cells)[cells] >= keyed["candidate_set_size"].to_numpy()
    # Summed as integers: the order of the rows decides nothing.
    share = (_P * 1e12).round().cast(pl.Int64)
    slots = (
        keyed.lazy()
        .filter(pl.Series(enough))
        .group_by(key)
        .agg(
            size=pl.len(),
            smallest=_K.min(),
            largest=_K.max(),
            total=share.sum(),
            tracks=pl.col("track_id"),
        )
        .filter(pl.col("size") == pl.col("smallest"), pl.col("size") == pl.col("largest"))
        .filter(pl.col("tracks").list.n_unique() == pl.col("size"))
    )
    wrong = (pl.col("total") * 1e-12 - 1).abs() > SUM_TOLERANCE
    return slots.select(whole=pl.len(), wrong_sum=wrong.sum()).collect().to_dicts()[0]


def _exploration(rows: pl.LazyFrame) -> Counts:
    usable = (_VALID & (_K >= 1)).fill_null(value=False)
    deviation = pl.when(usable).then((1 / _P).clip(upper_bound=_MAX_INVERSE) - _K)
    policies = (
        rows.filter("is_exploration")
        .group_by(pl.col("policy_id").fill_null(""))
        .agg(
            rows=pl.len(),
            unusable=(~usable).sum(),
            candidates=_K.filter(usable).cast(pl.Int64).sum(),
            deviation_micro=_micro(deviation).sum(),
            deviation_squared_micro=_micro(deviation**2).sum(),
        )
    )
    return _by(policies.collect(), "policy_id")


def _micro(value: pl.Expr) -> pl.Expr:
    return (value * _MICRO).round().cast(pl.Int128)


def _experiments(rows: pl.LazyFrame) -> Counts:
    inside = rows.filter(pl.col("experiment_id").is_not_null())
    # A row an arm that a user was in, which all that follows is counted from; null is none.
    arms = (
        inside.group_by("experiment_id", "user_id", "variant").agg(rows=pl.len()).collect().lazy()
    )
    no_variant = pl.col("variant").is_null()
    users = arms.group_by("experiment_id", "user_id").agg(
        arms=pl.col("variant").count(), without_variant=pl.col("rows").filter(no_variant).sum()
    )
    totals = users.group_by("experiment_id").agg(
        users=pl.len(),
        two_variants=(pl.col("arms") > 1).sum(),
        without_variant=pl.col("without_variant").sum(),
    )
    sizes = arms.filter(~no_variant).group_by("experiment_id", "variant").agg(users=pl.len())
    found, counted = pl.collect_all([totals, sizes])
    result = _by(found, "experiment_id")
    for experiment in result.values():
        experiment["variants"] = {}
    for name, variant, users in counted.iter_rows():
        result[name]["variants"][variant] = users
    return result


def _by(table: pl.DataFrame, key: str) -> Counts:
    """Rows as dicts under the value of a column."""
    return {row.pop(key): row for row in table.sort(key).to_dicts()}


def check(counts: Counts, spec: ExposureSpec) -> list[Finding]:
    """What the counts of a whole dataset refute, in the order of the gates and by name.

    Args:
      counts: sum of what `count` made of every bucket; empty if there was none.
      spec: limits.
    """
    if not counts:
        return []
    return [
        *_shares(counts["propensities"], counts["slots"], spec),
        *_check_exploration(counts["exploration"], spec),
        *_check_experiments(counts["experiments"], spec),
    ]


def _shares(propensities: Counts, slots: Counts, spec: ExposureSpec) -> Iterator[Finding]:
    yield from _above(
        "propensity_range", None, propensities["out_of_range"], propensities["logged"],
        spec.max_out_of_range_share, "propensities are not in (0, 1]",
    )  # fmt: skip
    yield from _above(
        "propensity_sum", None, slots["wrong_sum"], slots["whole"], spec.max_wrong_sum_share,
        "slots with all their candidates logged have propensities that do not sum to 1",
    )  # fmt: skip


def _above(
    gate: str, feature: str | None, part: int, whole: int, limit: float | None, what: str
) -> Iterator[Finding]:
    """A finding if `part` is a larger share of `whole` than the limit."""
    if limit is not None and part > limit * whole:
        share = part / whole
        message = f"{part:,} of {whole:,} {what} ({share:.4%}; expected at most {limit:.4%})"
        yield Finding(gate, feature, "error", message, share, limit)


def _check_exploration(policies: Counts, spec: ExposureSpec) -> Iterator[Finding]:
    if spec.inverse_tolerance is None:
        return
    gate = "exploration_propensity"
    for policy, seen in sorted(policies.items()):
        if seen["unusable"]:
            message = (
                f"policy {policy!r}: {seen['unusable']:,} of {seen['rows']:,} exploration rows "
                "have no valid propensity or no candidate_set_size, and were not checked"
            )
            yield Finding(gate, policy, "warning", message, seen["unusable"], 0.0)
        usable = seen["rows"] - seen["unusable"]
        if usable < MIN_EXPLORED:
            continue
        candidates = seen["candidates"] / usable
        deviation = seen["deviation_micro"] / _MICRO / usable
        squared = seen["deviation_squared_micro"] / _MICRO / usable
        error = math.sqrt(max(squared - deviation**2, 0.0) / (usable - 1))
        allowed = max(spec.inverse_standard_errors * error, spec.inverse_tolerance * candidates)
        if abs(deviation) > allowed:
            message = (
                f"policy {policy!r}: mean of 1 / propensity is {candidates + deviation:.4g} over "
                f"{usable:,} exploration rows; expected the mean candidate count "
                f"{candidates:.4g} +- {allowed:.2g}"
            )
            yield Finding(gate, policy, "error", message, candidates + deviation, candidates)


def _check_experiments(experiments: Counts, spec: ExposureSpec) -> Iterator[Finding]:
    found = sorted(experiments.items())
    if spec.min_ratio_p_value is not None:
        for name, seen in found:
            yield from _check_ratio(
                name, seen["variants"], spec.experiments.get(name), spec.min_ratio_p_value
            )
    for name, seen in found:
        yield from _above(
            "two_variants", name, seen["two_variants"], seen["users"],
            spec.max_two_variants_share, f"users of experiment {name!r} are in two variants of it",
        )  # fmt: skip


def _check_ratio(
    name: str, variants: Counts, stated: dict[str, float] | None, limit: float
) -> Iterator[Finding]:
    shares = stated or dict.fromkeys(sorted(variants), 1 / max(len(variants), 1))
    unknown = sorted(set(variants) - set(shares))
    users = {variant: variants.get(variant, 0) for variant in sorted(shares)}
    total = sum(users.values())
    if unknown:
        message = (
            f"experiment {name!r}: variant {unknown[0]!r} has {variants[unknown[0]]:,} users; "
            f"expected one of {', '.join(users)}"
        )
        yield Finding("sample_ratio", name, "error", message)
    if len(users) < 2 or total * min(shares.values()) < MIN_EXPECTED_USERS:
        return
    p_value = _goodness_of_fit((users[variant], total * shares[variant]) for variant in users)
    if p_value < limit:
        sizes = ", ".join(f"{variant} {number:,}" for variant, number in users.items())
        expected = ", ".join(f"{shares[variant]:.4g}" for variant in users)
        hint = "" if stated else "; if other shares are meant, state them in `experiments`"
        message = (
            f"experiment {name!r}: {sizes} users are not in the ratio {expected} "
            f"(p = {p_value:.2g}; expected at least {limit:g}){hint}"
        )
        yield Finding("sample_ratio", name, "error", message, p_value, limit)


def _goodness_of_fit(pairs: Iterable[tuple[int, float]]) -> float:
    """P-value of observed numbers against expected ones (Pearson's chi-square test)."""
    terms = [(observed - expected) ** 2 / expected for observed, expected in pairs]
    return chi_square_tail(math.fsum(terms), len(terms) - 1)


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Probability that a chi-square variable exceeds `statistic`.

    In closed form for whole degrees of freedom (Abramowitz and Stegun, 26.4.4 and 26.4.5).
    """
    half = statistic / 2
    if half <= 0:
        return 1.0
    odd = freedom % 2
    powers = [place + odd / 2 for place in range(freedom // 2)]
    terms = [math.exp(power * math.log(half) - half - math.lgamma(power + 1)) for power in powers]
    return (math.erfc(math.sqrt(half)) if odd else 0.0) + math.fsum(terms)
