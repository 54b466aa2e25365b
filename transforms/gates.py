"""The gates that a version's statistics have to pass before it is published.

| gate               | refuses a version whose                                                  |
|--------------------|--------------------------------------------------------------------------|
| `schema`           | columns are not what the schema says (TFDV), in any split                |
| `drift`            | train has a column that is further from the version before: Jensen-      |
|                    | Shannon divergence (TFDV)                                                |
| `skew`             | train has a column that is further from the serving log                  |
| `label_shift`      | label is true more or less often than before, in standard deviations of  |
|                    | the label: abs(p - q) / sqrt(q (1 - q))                                  |
| `null_shift`       | column is null more or less often than before: abs(p - q)                |
| `rows_fall`        | splits together have fewer rows a day than before: 1 - now / before      |
| `quarantine_share` | store has a larger share of quarantined rows                             |

Shifts and divergences have to be beyond sampling noise as well: more than NOISE standard errors, or
NOISE times the divergence that samples of n and m rows of one distribution over k values have on
average, (k - 1)(1/n + 1/m) / (8 ln 2) bits (to second order it is Pearson's chi-square; rows of one
listener are alike, hence the margin). Comparisons with the version before need MIN_ROWS rows in
both. Where one of them lies at the beginning of the store's history, so that windows of features
were cut, drift and shifts are warnings.

The schema is TFMD text, inferred once by `playhead schema`, curated by a person, and kept in
`schemas/datasets/<kind>.pbtxt`. A column that it does not know is taken as inferred from train, and
said so; one that the spec leaves out is left out. A threshold in a column's `drift_comparator` or
`skew_comparator` (`jensen_shannon_divergence`) goes before the gate's limit.
"""

from __future__ import annotations

import dataclasses
import io
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import polars as pl
import pydantic
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, path_pb2, schema_pb2, statistics_pb2

import schemas
from schemas import LISTENING_EVENT
from transforms import manifest, storage, tfdv
from transforms.config import StrictModel
from transforms.errors import UsageError
from transforms.findings import Finding, Severity, apart
from transforms.manifest import ColumnEntry, Manifest
from transforms.splits import SPLITS
from transforms.statistics import CELLS, SplitStatistics, decode, element_type, feature_type
from transforms.tfdv import Statistics

MIN_ROWS = 1_000
NOISE = 6.0

_COMPARED = (
    anomalies_pb2.AnomalyInfo.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH,
    anomalies_pb2.AnomalyInfo.COMPARATOR_CONTROL_DATA_MISSING,
)
_SHOWN = 12

# What differs between days by definition (no day is the day of the week that the one before was),
# or because somebody decided so (a rollout).
_OF_THE_DAY = ("day_of_week", "policy_id", "model_version", "experiment_id", "variant")


class GatesSpec(StrictModel):
    """Limits of the gates; null turns one off.

    Attributes:
      schema_file: TFMD schema as text; a relative path starts at the folder of the spec's file.
        Null takes that of the kind in schemas/datasets.
      drift, skew: Jensen-Shannon divergence, 0 to 1.
      label_shift, null_shift, rows_fall, quarantine_share: see the module.
    """

    schema_file: str | None = None
    drift: float | None = pydantic.Field(0.15, gt=0, le=1)
    skew: float | None = pydantic.Field(0.1, gt=0, le=1)
    label_shift: float | None = pydantic.Field(0.08, gt=0, le=10)
    null_shift: float | None = pydantic.Field(0.02, gt=0, le=1)
    rows_fall: float | None = pydantic.Field(0.5, gt=0, le=1)
    quarantine_share: float | None = pydantic.Field(0.01, ge=0, le=1)


@dataclasses.dataclass(frozen=True)
class Side:
    """One version, as far as the gates compare it.

    Attributes:
      statistics: of its splits.
      days: UTC days that it covers.
      is_beginning: windows of its features reach back before the store's first day.
    """

    statistics: Mapping[str, Statistics]
    days: int
    is_beginning: bool


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`schema` that was applied, what was found, and the drift of each column that has one."""

    schema: schema_pb2.Schema
    findings: list[Finding]
    drift: dict[str, float]


def curated_schema(spec: GatesSpec, kind: str, folder: str = "") -> str:
    """Text of the schema for a kind of dataset; empty if there is none.

    Args:
      spec: of the dataset.
      kind: of the dataset.
      folder: that of the spec's file, from which a relative `schema_file` starts.

    Raises:
      UsageError: if the file that the spec names is no TFMD schema.
    """
    if spec.schema_file is None:
        shipped = pathlib.Path(schemas.__file__).parent / "datasets" / f"{kind}.pbtxt"
        return shipped.read_text("utf-8") if shipped.exists() else ""
    path = spec.schema_file
    if storage.is_local(path):
        path = storage.join(folder, path)
    try:
        text = storage.read_bytes(path).decode()
        text_format.Parse(text, schema_pb2.Schema())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"gates.schema_file: {path}: expected a TFMD schema as text (see "
            f"`playhead schema`), got: {reason}"
        ) from None
    return text


def infer_schema(statistics: Statistics, columns: Iterable[ColumnEntry]) -> schema_pb2.Schema:
    """TFDV's inference, with what the columns declare: which may be null, lists that may be empty,
    enumerations, the smallest value. Where none is declared, what was never negative stays so."""
    declared = {column.name: column for column in columns}
    lowest = {_name_of(each.path): each.num_stats.min for each in statistics.features}
    schema = tfdv.infer_schema(statistics)
    del schema.string_domain[:]
    for feature in schema.feature:
        column = declared[feature.name]
        feature.ClearField("presence")
        if not column.nullable:
            feature.presence.min_fraction = 1.0
        if column.type.startswith("list<"):
            feature.ClearField("shape_type")
            feature.value_count.min = 0
        feature.ClearField("domain_info")
        name = column.name.removeprefix("first_")
        symbols = LISTENING_EVENT[name].symbols if name in LISTENING_EVENT else ()
        if symbols:
            feature.string_domain.value.extend(symbols)
        elif column.type == "bool":
            feature.bool_domain.SetInParent()
        elif feature.type == schema_pb2.INT and column.minimum is not None:
            feature.int_domain.min = column.minimum
        elif feature.type == schema_pb2.INT and not column.identifier and lowest[column.name] >= 0:
            feature.int_domain.min = 0
        elif column.type == "double":  # in lists NaN stands for unknown, elsewhere null does
            feature.float_domain.disallow_nan = feature.float_domain.disallow_inf = True
    return schema


def infer_from_version(root: str, version: Manifest) -> schema_pb2.Schema:
    """`infer_schema` of a published version: of train, or the first split that has rows.

    Raises:
      UsageError: if it has no statistics.
      DataRefusedError: if their file was changed.
    """
    entries = {entry.path: entry for entry in version.files_of("statistics")}
    for entry in (entries.get(f"statistics/{split}.pb") for split in SPLITS):
        if entry is not None:
            data = manifest.read_verified(manifest.file_path(root, version, entry), entry)
            return infer_schema(decode(data), version.columns)
    raise UsageError(
        f"{manifest.version_root(root, version.version)}: expected a dataset version with rows, "
        "got one without statistics"
    )


def schema_text(schema: schema_pb2.Schema) -> str:
    """The schema as it is kept in a file: a line for each column."""
    rest = schema_pb2.Schema()
    rest.CopyFrom(schema)
    rest.ClearField("feature")
    lines = [text_format.MessageToString(each, as_one_line=True) for each in schema.feature]
    return text_format.MessageToString(rest) + "".join(f"feature {{ {x} }}\n" for x in lines)


def applied_schema(
    curated: str, statistics: Statistics, columns: tuple[ColumnEntry, ...]
) -> tuple[schema_pb2.Schema, list[Finding]]:
    """The curated schema for the columns that there are; others are inferred, and said so."""
    inferred = {f.name: f for f in infer_schema(statistics, columns).feature}
    schema = text_format.Parse(curated, schema_pb2.Schema())
    known = {f.name: f for f in schema.feature}
    schema.ClearField("feature")
    new = []
    for column in columns:
        if column.name in known:
            schema.feature.append(known[column.name])
        elif column.name in inferred:
            schema.feature.append(inferred[column.name])
            new.append(column.name)
    if not new or not curated:
        return schema, []
    text = f"{', '.join(new)}: not in the schema; taken as inferred from train (`playhead schema`)"
    return schema, [Finding("schema", None, "warning", text)]


def read_serving_log(path: str, columns: tuple[ColumnEntry, ...]) -> Statistics:
    """Statistics of the columns of a dataset that a log of served features has.

    Args:
      path: Parquet file; columns that the dataset does not have are not read.
      columns: of the dataset.

    Raises:
      UsageError: if it is no such file.
    """
    try:
        source = io.BytesIO(storage.read_bytes(path))
        names = list(pl.read_parquet_schema(source))
        common = [column for column in columns if column.name in names]
        table = pl.read_parquet(source, columns=[column.name for column in common])
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UsageError(
            f"--serving-log: {path}: expected a Parquet file: {str(error).splitlines()[0]}"
        ) from None
    for column in common:
        got = table.schema[column.name]
        if not _fits(got, column):
            raise UsageError(
                f"--serving-log: {path}: {column.name}: expected {column.type}, got {got}"
            )
    wanted = [column.name for column in columns if _is_compared(column)]
    if not set(wanted) & set(names):
        raise UsageError(
            f"--serving-log: {path}: has no column whose values can be compared; expected some of "
            f"{_listed(wanted)}; got {_listed(names)}"
        )
    served = SplitStatistics(common)
    served.add(table)
    return served.extract("serving")


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _fits(got: Any, column: ColumnEntry) -> bool:
    """Whether values of a Polars type can stand for those of the column, of whatever width."""
    kind = element_type(column)
    if isinstance(got, pl.List) != (kind != column.type):
        return False
    inner = got.inner if isinstance(got, pl.List) else got
    if "timestamp" in kind or "date" in kind:
        return bool(inner.is_temporal())
    if feature_type(column) == statistics_pb2.FeatureNameStatistics.INT:
        return bool(inner.is_integer() or inner == pl.Boolean())
    return bool(inner.is_float()) if kind == "double" else bool(inner == pl.String())


def judge(
    spec: GatesSpec,
    curated: str,
    columns: tuple[ColumnEntry, ...],
    now: Side,
    before: Side | None,
    serving: Statistics | None,
    quarantine_share: float,
) -> Verdict:
    """Applies all gates.

    Args:
      spec: limits.
      curated: of `curated_schema`.
      columns: of the rows.
      now: this version; its statistics have the splits that have rows.
      before: the version before; None for the first one.
      serving: of `read_serving_log`; None if there is none.
      quarantine_share: of the store's partitions that were read.
    """
    findings = list(_quarantine(spec, quarantine_share))
    described = next(iter(now.statistics.values()), None)  # train, if it has rows
    if described is None:
        findings += _rows_fall(spec, now, before)
        return Verdict(schema_pb2.Schema(), findings, {})
    schema, new = applied_schema(curated, described, columns)
    findings += new
    for split, statistics in now.statistics.items():
        findings += _schema_findings(schema, statistics, split)
    drift: dict[str, float] = {}
    train = now.statistics.get("train")
    if train is None:
        findings += _rows_fall(spec, now, before)
        return Verdict(schema, findings, drift)
    comparable = before if _is_comparable(now, before) else None
    if serving is not None:
        skew = _distances("skew", schema, columns, train, serving)
        if spec.skew is not None:
            limits = _limits("skew", spec.skew, schema, train, serving)
            findings += _far("skew", "the serving log", skew, limits, is_soft=False)
    if comparable is not None:
        soft = now.is_beginning or comparable.is_beginning
        earlier = comparable.statistics["train"]
        drift = _distances("drift", schema, columns, train, earlier)
        if spec.drift is not None:
            limits = _limits("drift", spec.drift, schema, train, earlier)
            findings += _far("drift", "the version before", drift, limits, soft)
        findings += _shifts(spec, columns, train, earlier, soft)
    findings += _rows_fall(spec, now, before)
    return Verdict(schema, findings, drift)


def _quarantine(spec: GatesSpec, share: float) -> Iterator[Finding]:
    limit = spec.quarantine_share
    if limit is not None and share > limit:
        got, most = apart(share, limit)
        text = f"{got} of the rows of the store's days were quarantined, at most {most} may be"
        yield Finding("quarantine_share", None, "error", text, share, limit)


def _schema_findings(
    schema: schema_pb2.Schema, statistics: Statistics, split: str
) -> Iterator[Finding]:
    checked = schema_pb2.Schema()
    checked.CopyFrom(schema)
    filled = _with_values(statistics)
    for feature in checked.feature:
        if feature.name not in filled:  # TFDV takes its extremes for 0
            feature.ClearField("domain_info")
    found = tfdv.find_anomalies(statistics, checked)
    for name, info in sorted(found.anomaly_info.items()):
        reasons = [reason for reason in info.reason if reason.type not in _COMPARED]
        if reasons:
            said = " ".join(f"{r.short_description}: {r.description}" for r in reasons)
            yield Finding("schema", name, "error", f"{name} in {split}: {said}")


def _is_comparable(now: Side, before: Side | None) -> bool:
    if before is None or "train" not in before.statistics:
        return False
    return min(side.statistics["train"].num_examples for side in (now, before)) >= MIN_ROWS


def _is_compared(column: ColumnEntry) -> bool:
    """Ids are other ones tomorrow, and so are times."""
    is_other_daily = column.identifier or "timestamp" in column.type or column.name in _OF_THE_DAY
    return not is_other_daily


def _distances(
    gate: Literal["drift", "skew"],
    schema: schema_pb2.Schema,
    columns: tuple[ColumnEntry, ...],
    train: Statistics,
    other: Statistics,
) -> dict[str, float]:
    """Jensen-Shannon divergence of each column from the version before, or the serving log."""
    compared_names = {column.name for column in columns if _is_compared(column)}
    wanted = _with_values(train) & _with_values(other) & compared_names
    compared = schema_pb2.Schema()
    for feature in schema.feature:
        copy = compared.feature.add(name=feature.name, type=feature.type)
        if feature.name in wanted:
            # TFDV measures only what has a threshold; it tells no anomaly with the largest one.
            getattr(copy, f"{gate}_comparator").jensen_shannon_divergence.threshold = 1.0
    role = "previous" if gate == "drift" else "serving"
    found = tfdv.find_anomalies(_on_cells(train), compared, **{role: _on_cells(other)})
    measured = {
        _name_of(info.path): each.value
        for info in found.drift_skew_info
        for each in getattr(info, f"{gate}_measurements")
    }
    return dict(sorted(measured.items()))


def _on_cells(statistics: Statistics) -> Statistics:
    """The same with CELLS for histograms: the edges of the others move from sample to sample, which
    the divergence takes for a difference."""
    result = Statistics()
    result.CopyFrom(statistics)
    for feature in result.features:
        for cells in (each.histogram for each in feature.custom_stats if each.name == CELLS):
            for histogram in feature.num_stats.histograms:
                histogram.ClearField("buckets")
                histogram.buckets.extend(cells.buckets)
    return result


def _limits(
    gate: str, limit: float, schema: schema_pb2.Schema, train: Statistics, other: Statistics
) -> dict[str, float]:
    """Largest divergence that each column may have: its own limit or the gate's, and no less than
    what chance makes."""
    features = [{_name_of(f.path): f for f in each.features} for each in (train, other)]
    limits = {}
    for feature in schema.feature:
        own = getattr(feature, f"{gate}_comparator").jensen_shannon_divergence
        pair = [each[feature.name] for each in features if feature.name in each]
        values: set[Any] = set()
        for each in pair:
            values.update(bucket.label for bucket in each.string_stats.rank_histogram.buckets)
            for custom in each.custom_stats:
                buckets = custom.histogram.buckets
                values.update(bucket.low_value for bucket in buckets if bucket.sample_count)
        rows = [max(_common(each).num_non_missing, 1) for each in pair]
        chance = (len(values) - 1) * sum(1 / n for n in rows) / (8 * math.log(2))
        limits[feature.name] = max(
            own.threshold if own.HasField("threshold") else limit, NOISE * chance
        )
    return limits


def _name_of(path: path_pb2.Path) -> str:
    return str(path.step[0])


def _with_values(statistics: Statistics) -> set[str]:
    return {
        _name_of(feature.path)
        for feature in statistics.features
        if _common(feature).num_non_missing and _common(feature).tot_num_values
    }


def _common(feature: Any) -> Any:
    return getattr(feature, feature.WhichOneof("stats")).common_stats


def _far(
    gate: str, what: str, distances: dict[str, float], limits: dict[str, float], is_soft: bool
) -> Iterator[Finding]:
    for name, value in sorted(distances.items(), key=lambda item: (-item[1], item[0])):
        limit = limits[name]
        if value > limit:
            severity: Severity = "warning" if is_soft else "error"
            got, most = apart(value, limit, "f", 3)
            text = f"{name} is {got} from {what} (Jensen-Shannon), at most {most} may be"
            yield Finding(gate, name, severity, text, value, limit)


def _shifts(
    spec: GatesSpec,
    columns: tuple[ColumnEntry, ...],
    now: Statistics,
    before: Statistics,
    is_soft: bool,
) -> Iterator[Finding]:
    """Label rates and shares of nulls that moved further than the limits and than noise."""
    severity: Severity = "warning" if is_soft else "error"
    features: list[dict[str, Any]] = [
        {_name_of(f.path): f for f in each.features} for each in (now, before)
    ]
    for column in columns:
        if not all(column.name in each for each in features):
            continue
        pair = [each[column.name] for each in features]
        common = [_common(feature) for feature in pair]
        known = [each.num_non_missing for each in common]
        rows = [now.num_examples, before.num_examples]
        nulls = [each.num_missing / n for each, n in zip(common, rows, strict=True)]
        if spec.null_shift is not None and _is_beyond(nulls, rows, spec.null_shift):
            shares = apart(*nulls)
            text = f"{column.name} is null in {shares[0]} of train's rows, was {shares[1]}"
            value = abs(nulls[0] - nulls[1])
            yield Finding("null_shift", column.name, severity, text, value, spec.null_shift)
        if column.family != "label" or column.type != "bool" or not min(known):
            continue
        rates = [feature.num_stats.mean for feature in pair]
        spread = math.sqrt(rates[1] * (1 - rates[1])) or math.sqrt(rates[0] * (1 - rates[0]))
        if spec.label_shift is None or not spread:
            continue
        value = abs(rates[0] - rates[1]) / spread
        if value > spec.label_shift and _is_beyond(rates, known, 0.0):
            shares = apart(*rates)
            text = f"{column.name} is true in {shares[0]} of train's rows, was {shares[1]}"
            yield Finding("label_shift", column.name, severity, text, value, spec.label_shift)


def _is_beyond(shares: list[float], rows: list[int], limit: float) -> bool:
    """Whether two shares differ by more than the limit and than NOISE standard errors."""
    pooled = sum(s * n for s, n in zip(shares, rows, strict=True)) / sum(rows)
    error = math.sqrt(pooled * (1 - pooled) * sum(1 / n for n in rows))
    return abs(shares[0] - shares[1]) > max(limit, NOISE * error)


def _rows_fall(spec: GatesSpec, now: Side, before: Side | None) -> Iterator[Finding]:
    if spec.rows_fall is None or before is None:
        return
    rows = [
        sum(each.num_examples for each in side.statistics.values()) / side.days
        for side in (now, before)
    ]
    fall = 1 - rows[0] / rows[1] if rows[1] else 0.0
    if rows[1] * before.days >= MIN_ROWS and fall > spec.rows_fall:
        got, most = apart(fall, spec.rows_fall, "%", 0)
        text = (
            f"{rows[0]:,.0f} rows a day in all splits, were {rows[1]:,.0f}: a fall of {got}, "
            f"at most {most} may be"
        )
        yield Finding("rows_fall", None, "error", text, fall, spec.rows_fall)
