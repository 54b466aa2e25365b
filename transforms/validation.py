"""Gates on statistics: what a version has to pass before it is published.

| Gate               | Fails when                                                                  |
|--------------------|-----------------------------------------------------------------------------|
| `schema`           | a column is not what the dataset's schema says (TFDV's anomalies)           |
| `drift`            | values are distributed otherwise than in the version before                 |
| `skew`             | train's values are distributed otherwise than those that were served        |
| `label_rate`       | a boolean label is true more or less often than in the version before       |
| `null_share`       | a column is null more or less often than in the version before              |
| `rows_lost`        | a split has far fewer rows than in the version before                       |
| `quarantine_share` | too much of the input was quarantined                                       |

Schema, drift and skew are TFDV's, on statistics of `transforms.statistics`. A schema is inferred
once (`infer_schema`), kept as text in `schemas/datasets/<name>.pbtxt`, and edited by hand from then
on. Drift and skew are Jensen-Shannon divergences in bits: 0 for equal distributions, 1 for disjoint
ones. A column is compared if it has a `drift_comparator` or `skew_comparator` in the schema; a
threshold there goes before the gate's.

What chance does is no finding. Of two samples of n and m rows of one distribution over k values,
the divergence times 8 ln 2 / (1/n + 1/m) is, to second order, Pearson's chi-square with k - 1
degrees of freedom. CHANCE standard deviations of it pass (by the cube root of Wilson and Hilferty
1931), and as many standard errors of a share. For n and m listeners are counted, not rows, for rows
of one listener are alike.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import io
import math
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import polars as pl
import pydantic
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

import schemas
from schemas import LISTENING_EVENT
from transforms import storage
from transforms.config import StrictModel
from transforms.errors import UsageError
from transforms.findings import Finding
from transforms.labels import CENSORED, MATURE
from transforms.manifest import ColumnEntry
from transforms.statistics import CELLS, SplitStatistics, element_type, feature_type

CHANCE = 4.0

# Largest string domain that TFDV infers, and the share of the values that has to be of an inferred
# one: vocabularies such as countries grow.
_MAX_DOMAIN = 100
_MIN_DOMAIN_MASS = 0.97

# Ids of rollouts: their values change by decision, so no old value is expected to come again.
_ROLLOUTS = ("policy_id", "model_version", "experiment_id", "variant")
_VALUES = {
    **{field.name: field.symbols for field in LISTENING_EVENT.fields if field.symbols},
    "label_status": (MATURE, CENSORED),
}
_TRAIN = "train"
_MOST = 1e9  # what is told of a rate that was zero: JSON has no infinity

_Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatistics
_Feature: TypeAlias = statistics_pb2.FeatureNameStatistics
_INT, _FLOAT, _STRING = _Feature.INT, _Feature.FLOAT, _Feature.STRING
_QUANTILES = schema_pb2.HistogramSelection.QUANTILES
_TIMES = ("date32", "timestamp[us, tz=UTC]")
_SCHEMA_TYPES = {_INT: schema_pb2.INT, _FLOAT: schema_pb2.FLOAT, _STRING: schema_pb2.BYTES}

GateName = Literal[
    "schema", "drift", "skew", "label_rate", "null_share", "rows_lost", "quarantine_share"
]
_Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class GatesSpec(StrictModel):
    """What the gates allow; null turns a gate off.

    Attributes:
      check_schema: whether to hold the columns against the schema.
      max_drift, max_skew: divergence of a column that has no threshold of its own.
      max_label_rate_shift: change of a label's share of true, as a difference.
      max_label_rate_change: the same, in proportion to what it was before.
      max_null_share_shift: change of a column's share of nulls, as a difference.
      max_rows_lost: share of a split's rows that the version before had and this one has not.
      max_quarantine_share: rows quarantined of those read.
      warn_only: gates whose findings are told and keep nothing from being published.
    """

    check_schema: bool = True
    max_drift: _Share | None = 0.02
    max_skew: _Share | None = 0.1
    max_label_rate_shift: _Share | None = 0.03
    max_label_rate_change: float | None = pydantic.Field(0.25, ge=0, le=100)
    max_null_share_shift: _Share | None = 0.02
    max_rows_lost: _Share | None = 0.5
    max_quarantine_share: _Share | None = 0.01
    warn_only: tuple[GateName, ...] = ()

    @pydantic.field_validator("warn_only")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError(f"expected each gate once, got {', '.join(names)}")
        return names


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What `validate` found, and column -> drift of the values of train (or the first split)."""

    findings: list[Finding]
    drift: dict[str, float]


def validate(
    gates: GatesSpec,
    schema: schema_pb2.Schema,
    columns: Sequence[ColumnEntry],
    statistics: Mapping[str, _Statistics],
    previous: Mapping[str, _Statistics] | None = None,
    serving: _Statistics | None = None,
    quarantine_share: float | None = None,
) -> Verdict:
    """Applies the gates.

    Args:
      gates: limits.
      schema: of `infer_schema`, edited or not.
      columns: of the rows; says which are labels.
      statistics: split -> its statistics, in the order in which findings are told.
      previous: the same of the version before; null if there is none to compare with.
      serving: of the columns as they were served; null if there is no serving log.
      quarantine_share: rows quarantined of those read; null if it is not known.

    Returns:
      Findings by split, in the order of the table above, then of the columns.

    Raises:
      UsageError: if TFDV is needed and not installed.
    """
    findings: list[Finding] = []
    drift: dict[str, float] = {}
    for split, now in statistics.items():
        before = None if previous is None else previous.get(split)
        served = serving if split == _TRAIN else None
        found, moved = _tfdv_gates(gates, schema, now, before, served)
        drift = drift or moved
        if before is not None:
            found += _label_rates(gates, columns, now, before)
            found += _null_shares(gates, now, before)
        findings += [dataclasses.replace(f, message=f"{split}: {f.message}") for f in found]
    if previous is not None and gates.max_rows_lost is not None:
        findings += _rows_lost(gates.max_rows_lost, statistics, previous)
    limit = gates.max_quarantine_share
    if limit is not None and quarantine_share is not None and quarantine_share > limit:
        message = f"{quarantine_share:.2%} of the rows read were quarantined, limit {limit:.2%}"
        findings.append(_error("quarantine_share", None, message, quarantine_share, limit))
    return Verdict(
        [
            dataclasses.replace(f, severity="warning") if f.gate in gates.warn_only else f
            for f in findings
        ],
        drift,
    )


def check_installed(gates: GatesSpec) -> None:
    """Before any work.

    Raises:
      UsageError: if a gate needs TFDV and it is not installed.
    """
    if gates.check_schema or gates.max_drift is not None or gates.max_skew is not None:
        _tfdv()


def describe(findings: Sequence[Finding], most: int = 20) -> list[str]:
    """One line a finding, errors first, on one screen."""
    ordered = sorted(findings, key=lambda finding: finding.severity != "error")
    lines = [
        f"{f.severity:<7}  {f.gate}  {f.feature or '(dataset)'}  {f.message}"
        for f in ordered[:most]
    ]
    if len(ordered) > most:
        lines.append(f"and {len(ordered) - most} more")
    return lines


# Schemas.


def infer_schema(
    columns: Sequence[ColumnEntry], statistics: Sequence[_Statistics]
) -> schema_pb2.Schema:
    """What TFDV infers from the statistics of some splits, corrected by what is declared.

    A column that is not nullable has to be in every row, and a scalar has one value. Declared
    enumerations admit no other value; of a string domain that was inferred, 3 % of the values may
    be new. Numbers that were never negative must not become so, and floats have to be finite.
    Identifiers, rollouts, dates and timestamps have neither domain nor comparators, and labels are
    not compared with what was served.

    Raises:
      UsageError: if TFDV is not installed.
    """
    tfdv = _tfdv()
    first, *others = (each.SerializeToString() for each in statistics)
    data = tfdv.InferSchema(first, _MAX_DOMAIN, False)
    for other in others:
        data = tfdv.UpdateSchema(data, other, _MAX_DOMAIN)
    inferred = schema_pb2.Schema.FromString(data)
    features = {feature.name: feature for feature in inferred.feature}
    domains = {domain.name: domain for domain in inferred.string_domain}
    lowest: dict[str, float] = {}
    for each in statistics:
        for found in each.features:
            name = found.path.step[0]
            lowest[name] = min(lowest.get(name, 0.0), found.num_stats.min)
    result = schema_pb2.Schema()
    for column in columns:
        feature = result.feature.add()
        feature.CopyFrom(features[column.name])
        _declare(feature, column, lowest[column.name])
        if feature.HasField("domain"):
            result.string_domain.append(domains[feature.domain])
    return result


def _declare(feature: schema_pb2.Feature, column: ColumnEntry, lowest: float) -> None:
    kind = element_type(column)
    feature.type = _SCHEMA_TYPES[feature_type(column)]
    if column.description:
        feature.annotation.comment.append(column.description)
    for inferred in ("presence", "shape", "value_count"):
        feature.ClearField(inferred)
    feature.presence.min_count = 0 if column.nullable else 1
    if not column.nullable:
        feature.presence.min_fraction = 1.0
    if kind == column.type:
        feature.value_count.min = feature.value_count.max = 1

    comparable = not (column.identifier or column.name in _ROLLOUTS or kind in _TIMES)
    domain = feature.WhichOneof("domain_info")
    if domain and not (domain == "domain" and comparable):
        feature.ClearField(domain)
    if column.name in _VALUES:
        feature.string_domain.name = column.name
        feature.string_domain.value.extend(_VALUES[column.name])
        feature.distribution_constraints.min_domain_mass = 1.0
    elif domain == "domain" and comparable:
        feature.distribution_constraints.min_domain_mass = _MIN_DOMAIN_MASS
    elif feature.type == schema_pb2.FLOAT:
        feature.float_domain.disallow_nan = feature.float_domain.disallow_inf = True
        if lowest >= 0:
            feature.float_domain.min = 0.0
    elif feature.type == schema_pb2.INT and comparable:
        if lowest >= 0:
            feature.int_domain.min = 0
        if kind == "bool":
            feature.int_domain.max = 1
    if comparable:
        compared = [feature.drift_comparator]
        if column.family != "label":
            compared.append(feature.skew_comparator)
        for comparator in compared:
            comparator.jensen_shannon_divergence.source.type = _QUANTILES


def schema_text(schema: schema_pb2.Schema) -> str:
    """The text form, which people edit and versions keep."""
    return text_format.MessageToString(schema)


def parse_schema(text: str, name: str) -> schema_pb2.Schema:
    """Inverse of `schema_text`.

    Args:
      text: of a schema.
      name: what to call it in errors.

    Raises:
      UsageError: naming the line.
    """
    try:
        return text_format.Parse(text, schema_pb2.Schema())
    except text_format.ParseError as error:
        problem = str(error).split(" : ", 1)[-1]
        raise UsageError(
            f"{name}:{error.GetLine()}: expected a TFMD schema as text: {problem}"
        ) from None


def write_schema(path: str, schema: schema_pb2.Schema) -> None:
    """Writes a schema as a text file to be edited; replaces what is there."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(schema_text(schema), encoding="utf-8")


def load_schema(path: str) -> schema_pb2.Schema:
    """`parse_schema` of a local file.

    Raises:
      UsageError: if it cannot be read, or is no schema.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot read it as a TFMD schema: {error}") from None
    return parse_schema(text, path)


def schema_path(dataset: str) -> pathlib.Path:
    """Where the schema of a dataset stands, be it there or not."""
    return pathlib.Path(schemas.__file__).parent / "datasets" / f"{dataset}.pbtxt"


# What was served.


def serving_statistics(table: pl.DataFrame, columns: Sequence[ColumnEntry]) -> _Statistics:
    """Statistics of a serving log: of those of the columns that it has.

    Raises:
      UsageError: if it has none of them, or one of another type.
    """
    logged = [column for column in columns if column.name in table.columns]
    if not logged:
        raise UsageError(
            f"serving log: expected columns of the dataset, such as {columns[0].name}, "
            f"got {', '.join(table.columns[:5])}"
        )
    for column in logged:
        got = table.schema[column.name]
        if not _is_of(got, column):
            raise UsageError(f"serving log: {column.name}: expected {column.type}, got {got}")
    made = SplitStatistics(logged)
    made.add(table)
    return made.extract("serving")


def read_serving_log(path: str, columns: Sequence[ColumnEntry]) -> _Statistics:
    """`serving_statistics` of a Parquet file: rows of features as they were served.

    Raises:
      UsageError: if there is no such file, or it is not Parquet.
    """
    try:
        table = pl.read_parquet(io.BytesIO(storage.read_bytes(path)))
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file; expected a serving log") from None
    except pl.exceptions.PolarsError as error:
        problem = str(error).splitlines()[0]
        raise UsageError(f"{path}: expected a serving log as Parquet: {problem}") from None
    return serving_statistics(table, columns)


def _is_of(got: pl.DataType, column: ColumnEntry) -> bool:
    """Whether values of a Polars type can stand for the column's, whatever the width."""
    if isinstance(got, pl.List) != (element_type(column) != column.type):
        return False
    inner = got.inner if isinstance(got, pl.List) else got
    assert inner is not None
    if feature_type(column) == _STRING:
        return inner == pl.String()
    if feature_type(column) == _FLOAT:
        return inner.is_float()
    if element_type(column) in _TIMES:
        return inner.is_temporal()
    return inner.is_integer() or inner == pl.Boolean()


# Schema, drift and skew, by TFDV.


@functools.cache
def _tfdv() -> Any:
    """TFDV's C++ functions, which take and give serialized protos.

    The package's own import brings TensorFlow, which these do not need: 9 s and 600 MB. So the
    extension module is loaded from its file, under its own name, so that TFDV finds it if it is
    imported later. How they are called is what `tensorflow_data_validation/api/validation_api.py`
    does.

    Raises:
      UsageError: if TFDV is not installed.
    """
    name = "tensorflow_data_validation.pywrap.tensorflow_data_validation_extension"
    if name not in sys.modules:
        package = importlib.util.find_spec("tensorflow_data_validation")
        if package is None or package.origin is None:
            raise UsageError(
                "the gates schema, drift and skew need TFDV: install playhead[statistics] "
                "(docs/install.md), or set check_schema: false, max_drift: null, max_skew: null"
            )
        path = pathlib.Path(package.origin).parent / "pywrap" / f"{name.rsplit('.', 1)[1]}.so"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name].validation


def _tfdv_gates(
    gates: GatesSpec,
    schema: schema_pb2.Schema,
    now: _Statistics,
    before: _Statistics | None,
    served: _Statistics | None,
) -> tuple[list[Finding], dict[str, float]]:
    """Findings on a split, and column -> drift."""
    others = {
        "drift": before if gates.max_drift is not None else None,
        "skew": served if gates.max_skew is not None else None,
    }
    if not now.num_examples or not (gates.check_schema or any(others.values())):
        return [], {}
    applied = schema_pb2.Schema()
    applied.CopyFrom(schema)
    for feature in applied.feature:
        _set_comparator(feature, "drift_comparator", gates.max_drift, now, others["drift"])
        _set_comparator(feature, "skew_comparator", gates.max_skew, now, others["skew"])
    data = _tfdv().ValidateFeatureStatistics(
        _comparable(now),
        applied.SerializeToString(),
        b"",  # environment
        _comparable(others["drift"]),
        _comparable(others["skew"]),
        b"",  # statistics of another version of the same span
        b"",  # features needed
        b"",  # validation config
        False,  # diff regions
    )
    anomalies = anomalies_pb2.Anomalies.FromString(data)
    findings = _schema_findings(anomalies) if gates.check_schema else []
    drift = {}
    for info in anomalies.drift_skew_info:
        (name,) = info.path.step
        measured = {"drift": info.drift_measurements, "skew": info.skew_measurements}
        for gate, other in others.items():
            for measurement in measured[gate]:
                value = min(measurement.value, 1.0)  # but for rounding
                if gate == "drift":
                    drift[name] = value
                if value > max(measurement.threshold, _chance(name, now, other)):
                    findings.append(_moved(gate, name, value, measurement.threshold))
    order = {feature.path.step[0]: at for at, feature in enumerate(now.features)}
    at_gate = ("schema", *others)
    findings.sort(key=lambda f: (at_gate.index(f.gate), order.get(f.feature or "", -1), f.message))
    return findings, drift


def _set_comparator(
    feature: schema_pb2.Feature,
    name: str,
    limit: float | None,
    now: _Statistics,
    other: _Statistics | None,
) -> None:
    """Gives a comparator the gate's limit, or takes it away where there is nothing to compare."""
    if not feature.HasField(name):
        return
    ours, theirs = (None if each is None else _find(each, feature.name) for each in (now, other))
    if limit is None or ours is None or theirs is None or not _are_comparable(ours, theirs):
        feature.ClearField(name)
        return
    comparator = getattr(feature, name)
    divergence = comparator.jensen_shannon_divergence
    if comparator.HasField("jensen_shannon_divergence") and not divergence.HasField("threshold"):
        divergence.threshold = limit


def _are_comparable(ours: _Feature, theirs: _Feature) -> bool:
    """Whether TFDV can compare them: both numbers or both texts, and both with a value."""
    return ours.WhichOneof("stats") == theirs.WhichOneof("stats") and all(
        each.string_stats.rank_histogram.buckets
        or any(found.buckets for found in each.num_stats.histograms)
        for each in (ours, theirs)
    )


def _comparable(statistics: _Statistics | None) -> bytes:
    """The statistics with CELLS in place of the quantiles, which TFDV compares."""
    if statistics is None:
        return b""
    result = _Statistics()
    result.CopyFrom(statistics)
    for feature in result.features:
        for found in feature.num_stats.histograms:
            cells = _cells(feature)
            if found.type == found.QUANTILES and cells is not None:
                found.ClearField("buckets")
                found.buckets.extend(cells.buckets)
    return bytes(result.SerializeToString())


def _chance(name: str, now: _Statistics, other: _Statistics | None) -> float:
    """The divergence that may be chance."""
    values: set[Any] = set()
    scale = 0.0
    for each in (now, other):
        assert each is not None
        feature = _find(each, name)
        assert feature is not None
        cells = _cells(feature)
        values.update(bucket.label for bucket in feature.string_stats.rank_histogram.buckets)
        values.update(b.low_value for b in (cells.buckets if cells else ()) if b.sample_count)
        scale += 1 / max(1, _independent(each, _common(feature).num_non_missing))
    freedom = max(1, len(values) - 1)
    spread = 2 / (9 * freedom)
    chi_square = freedom * (1 - spread + CHANCE * math.sqrt(spread)) ** 3
    return chi_square * scale / (8 * math.log(2))


def _moved(gate: str, name: str, value: float, limit: float) -> Finding:
    what = "from the version before" if gate == "drift" else "from what was served"
    message = f"values differ by {value:.3g} {what} (divergence), limit {limit:.3g}"
    return _error(gate, name, message, value, limit)


_TOLD_BY_VALUE = (
    anomalies_pb2.AnomalyInfo.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH,
    anomalies_pb2.AnomalyInfo.COMPARATOR_L_INFTY_HIGH,
)


def _schema_findings(anomalies: anomalies_pb2.Anomalies) -> list[Finding]:
    """A finding for every reason of an anomaly but divergences, which `_moved` tells."""
    infos = [(info.path.step[0], info) for _, info in sorted(anomalies.anomaly_info.items())]
    return [
        Finding(
            gate="schema",
            feature=feature,
            severity="error" if info.severity == anomalies_pb2.AnomalyInfo.ERROR else "warning",
            message=reason.description.strip() or reason.short_description,
        )
        for feature, info in [*infos, (None, anomalies.dataset_anomaly_info)]
        for reason in info.reason
        if reason.type not in _TOLD_BY_VALUE
    ]


# Shares and counts.


def _label_rates(
    gates: GatesSpec, columns: Sequence[ColumnEntry], now: _Statistics, before: _Statistics
) -> Iterator[Finding]:
    for column in columns:
        if column.family != "label" or column.type != "bool":
            continue
        ours, theirs = _Ratio.of_true(now, column.name), _Ratio.of_true(before, column.name)
        if ours is None or theirs is None or not ours.differs(theirs):
            continue
        shift = abs(ours.share - theirs.share)
        change = shift / theirs.share if theirs.share else math.inf
        message = f"true in {ours.share:.2%}, in the version before {theirs.share:.2%}"
        for value, limit, what in (
            (shift, gates.max_label_rate_shift, "shift"),
            (change, gates.max_label_rate_change, "change"),
        ):
            if limit is not None and value > limit:
                told = f"{message}: {what} above {limit:.2%}"
                yield _error("label_rate", column.name, told, min(value, _MOST), limit)
                break


def _null_shares(gates: GatesSpec, now: _Statistics, before: _Statistics) -> Iterator[Finding]:
    limit = gates.max_null_share_shift
    for feature in now.features:
        name = feature.path.step[0]
        ours, theirs = _Ratio.of_nulls(now, name), _Ratio.of_nulls(before, name)
        if limit is None or ours is None or theirs is None or not ours.differs(theirs):
            continue
        shift = abs(ours.share - theirs.share)
        if shift > limit:
            message = (
                f"null in {ours.share:.2%} of the rows, in the version before {theirs.share:.2%}: "
                f"shift above {limit:.2%}"
            )
            yield _error("null_share", name, message, shift, limit)


def _rows_lost(
    limit: float, statistics: Mapping[str, _Statistics], previous: Mapping[str, _Statistics]
) -> Iterator[Finding]:
    """Also of a split that is gone altogether."""
    for split, before in previous.items():
        rows = statistics[split].num_examples if split in statistics else 0
        lost = 1 - rows / before.num_examples if before.num_examples else 0.0
        if lost > limit:
            message = (
                f"{split}: {rows:,} rows, {lost:.0%} fewer than the {before.num_examples:,} of the "
                f"version before, limit {limit:.0%}"
            )
            yield _error("rows_lost", None, message, lost, limit)


@dataclasses.dataclass(frozen=True)
class _Ratio:
    """A share of some rows, of which `independent` are as good as independent."""

    share: float
    independent: int

    @classmethod
    def of_true(cls, statistics: _Statistics, name: str) -> _Ratio | None:
        """Of a boolean column's values; null if it has none."""
        feature = _find(statistics, name)
        if feature is None or not feature.num_stats.histograms:
            return None
        return cls(
            feature.num_stats.mean, _independent(statistics, _common(feature).num_non_missing)
        )

    @classmethod
    def of_nulls(cls, statistics: _Statistics, name: str) -> _Ratio | None:
        """Of all rows; null if there is no row or no such column."""
        feature, rows = _find(statistics, name), statistics.num_examples
        if feature is None or not rows:
            return None
        return cls(_common(feature).num_missing / rows, _independent(statistics, rows))

    def differs(self, other: _Ratio) -> bool:
        """By more than chance."""
        total = self.independent + other.independent
        pooled = (self.share * self.independent + other.share * other.independent) / total
        variance = pooled * (1 - pooled) * (1 / self.independent + 1 / other.independent)
        return abs(self.share - other.share) > CHANCE * math.sqrt(max(variance, 0.0))


def _independent(statistics: _Statistics, rows: int) -> int:
    """How many of the rows are as good as independent: one a listener, if they are known."""
    users = _find(statistics, "user_id")
    return min(rows, users.string_stats.unique or rows) if users is not None else rows


def _find(statistics: _Statistics, name: str) -> _Feature | None:
    return next((each for each in statistics.features if each.path.step[0] == name), None)


def _common(feature: _Feature) -> Any:
    is_text = feature.HasField("string_stats")
    return (feature.string_stats if is_text else feature.num_stats).common_stats


def _cells(feature: _Feature) -> Any:
    """The histogram CELLS, or null."""
    return next((each.histogram for each in feature.custom_stats if each.name == CELLS), None)


def _error(gate: str, feature: str | None, message: str, value: float, limit: float) -> Finding:
    return Finding(gate, feature, "error", message, value, limit)
