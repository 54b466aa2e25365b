"""What is wrong is found, by the gate it belongs to; normal days pass."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from schemas import forms
from schemas.listening_event import SURFACES
from transforms import validation
from transforms.config import parse_yaml
from transforms.errors import UsageError
from transforms.findings import Finding
from transforms.manifest import ColumnEntry
from transforms.statistics import SplitStatistics
from transforms.validation import GatesSpec, describe, infer_schema, validate

DAY_US = 86_400_000_000
LISTENERS = 100_000
TASTE = np.random.default_rng(0).beta(2, 5, LISTENERS)
ACTIVITY = np.random.default_rng(1).lognormal(2.5, 1.2, LISTENERS)
OFF = GatesSpec(
    check_schema=False,
    max_drift=None,
    max_skew=None,
    max_label_rate_shift=None,
    max_label_rate_change=None,
    max_null_share_shift=None,
    max_rows_lost=None,
    max_quarantine_share=None,
)


def day(number, rows=20_000, users=15_000):
    """Rows of a day: of listeners that differ, with a weekend, a new model every ten days."""
    draw = np.random.default_rng(number)
    weekend = number % 7 >= 5
    user = draw.choice(LISTENERS, users, replace=False)[draw.integers(0, users, rows)]
    played = draw.random(rows) < np.clip(TASTE[user] + 0.01 * weekend, 0, 1)
    platform = np.array([0.4, 0.4, 0.1, 0.1]) + weekend * np.array([0.03, 0, -0.03, 0])
    since = draw.lognormal(10 + 0.1 * weekend, 2, rows).astype(np.int64)
    known = pl.Series(draw.random(rows) < 0.9)

    def names(prefix, numbers):
        return pl.select(pl.format(prefix + "-{}", pl.Series(numbers))).to_series()

    return pl.DataFrame(
        {
            "event_id": names(f"event-{number}", np.arange(rows)),
            "user_id": names("user", user),
            "event_time": pl.Series(number * DAY_US + draw.integers(0, DAY_US, rows)).cast(
                pl.Datetime("us", "UTC")
            ),
            "surface": draw.choice(["home", "search", "radio", "playlist"], rows),
            "platform": draw.choice(["ios", "android", "desktop", "web"], rows, p=platform),
            "country": names("C", np.minimum(draw.zipf(1.6, rows), 40)),
            "model_version": [f"model-{number // 10}"] * rows,
            "user_plays_7d": draw.poisson(ACTIVITY[user] * (1.1 if weekend else 1)),
            "ms_since_play": pl.select(pl.when(known).then(pl.Series(since))).to_series(),
            "propensity": draw.beta(2, 5, rows),
            "history_ms": pl.Series(draw.integers(0, 1_000, (rows, 3)).tolist()),
            "shuffle": draw.random(rows) < 0.4,
            "label_played": played,
            "label_completion": np.where(played, np.minimum(1.2 * draw.random(rows), 1), 0.0),
            "label_liked": draw.random(rows) < TASTE[user] * 0.1,
        }
    )  # fmt: skip


COLUMNS = tuple(
    ColumnEntry(
        name=name,
        type=forms.type_name(kind),
        nullable=name == "ms_since_play",
        identifier=name in ("event_id", "user_id"),
        family="label" if name.startswith("label_") else "context",
        description=f"What {name} is.",
    )
    for name, kind in day(0, rows=10).schema.items()
)


def statistics_of(table, name="train"):
    made = SplitStatistics(COLUMNS)
    made.add(table)
    return made.extract(name)


@pytest.fixture(scope="module")
def before():
    return statistics_of(day(1))


@pytest.fixture(scope="module")
def schema(before):
    return infer_schema(COLUMNS, [before])


def judge(table, schema, before, gates=GatesSpec(), **others):  # noqa: B008  (immutable)
    return validate(
        gates, schema, COLUMNS, {"train": statistics_of(table)}, {"train": before}, **others
    ).findings


def spoilt(column, value):
    """The rows of a day, one in twenty with another value."""
    table = day(2)
    return table.with_columns(
        pl.when(pl.int_range(pl.len()) % 20 == 0)
        .then(pl.lit(value, table.schema[column]))
        .otherwise(column)
        .alias(column)
    )


def test_a_hundred_normal_days_give_at_most_one_false_alarm():
    days = [statistics_of(day(number, rows=8_000, users=6_000)) for number in range(101)]
    schema = infer_schema(COLUMNS, days[:1])
    alarms = []
    for number, (previous, now) in enumerate(itertools.pairwise(days), start=1):
        found = validate(
            GatesSpec(), schema, COLUMNS, {"train": now}, {"train": previous}, quarantine_share=1e-4
        ).findings
        alarms += [(number, found)] if found else []
    assert len(alarms) <= 1, alarms


@pytest.mark.parametrize(
    ("column", "value", "gate"),
    [
        ("surface", "hom", "schema"),  # not of the enumeration
        ("platform", "smart_fridge", "schema"),  # new, and more than a few
        ("user_plays_7d", -1, "schema"),  # an error code where no number was negative
        ("propensity", float("nan"), "schema"),
        ("propensity", float("inf"), "schema"),
        ("shuffle", None, "schema"),  # required
        ("ms_since_play", None, "null_share"),
        ("propensity", 0.0, "drift"),
        ("ms_since_play", 2**31 - 1, "drift"),
        ("label_played", True, "label_rate"),
        ("label_liked", True, "label_rate"),
    ],
)
def test_five_percent_of_bad_rows_are_found(column, value, gate, schema, before):
    assert judge(day(2), schema, before) == []
    found = judge(spoilt(column, value), schema, before)
    assert (gate, column, "error") in {(f.gate, f.feature, f.severity) for f in found}
    assert {f.feature for f in found} == {column}
    for finding in found:
        assert finding.message.startswith("train: ")
        assert json.loads(json.dumps(finding.to_dict())) == finding.to_dict()
        if finding.gate != "schema":
            assert finding.value > finding.limit


@pytest.mark.parametrize(
    ("gates", "column", "value", "expected"),
    [
        ({"check_schema": True}, "surface", "hom", "schema"),
        ({"max_drift": 0.02}, "propensity", 0.0, "drift"),
        ({"max_label_rate_shift": 0.03}, "label_played", True, "label_rate"),
        ({"max_label_rate_change": 0.25}, "label_liked", True, "label_rate"),
        ({"max_null_share_shift": 0.02}, "ms_since_play", None, "null_share"),
    ],
)
def test_each_gate_works_alone_and_can_only_warn(gates, column, value, expected, schema, before):
    table = spoilt(column, value)
    assert judge(table, schema, before, OFF) == []
    (finding,) = judge(table, schema, before, OFF.model_copy(update=gates))
    assert (finding.gate, finding.feature, finding.severity) == (expected, column, "error")
    gentle = OFF.model_copy(update={**gates, "warn_only": (expected,)})
    (finding,) = judge(table, schema, before, gentle)
    assert finding.severity == "warning"


def test_a_limit_is_what_is_allowed(schema, before):
    def shares(limit):
        gates = OFF.model_copy(update={"max_null_share_shift": limit})
        return judge(spoilt("ms_since_play", None), schema, before, gates)

    (finding,) = shares(0.02)
    assert finding.value == pytest.approx(0.05, abs=0.02)
    assert shares(finding.value) == []
    assert len(shares(finding.value - 1e-9)) == 1


def test_lost_rows_are_found_also_of_a_split_that_is_gone(schema):
    gates = OFF.model_copy(update={"max_rows_lost": 0.5})
    earlier = {split: statistics_of(day(1, rows=100), split) for split in ("train", "test")}
    now = {"train": statistics_of(day(2, rows=51))}
    (finding,) = validate(gates, schema, COLUMNS, now, earlier).findings
    assert finding == Finding(
        "rows_lost", None, "error",
        "test: 0 rows, 100% fewer than the 100 of the version before, limit 50%", 1.0, 0.5,
    )  # fmt: skip
    now = {split: statistics_of(day(2, rows=49), split) for split in ("train", "test")}
    found = validate(gates, schema, COLUMNS, now, earlier).findings
    assert [(f.gate, f.value) for f in found] == [("rows_lost", 0.51)] * 2


def test_the_quarantine_share_is_a_plain_number(schema, before):
    now = {"train": statistics_of(day(2))}
    gates = OFF.model_copy(update={"max_quarantine_share": 0.01})
    for share, found in ((None, 0), (0.01, 0), (0.011, 1)):
        findings = validate(gates, schema, COLUMNS, now, quarantine_share=share).findings
        assert [f.gate for f in findings] == ["quarantine_share"] * found
    assert findings[0].message == "1.10% of the rows read were quarantined, limit 1.00%"


def test_drift_is_measured_of_train_and_told_without_a_finding(schema, before):
    now = {split: statistics_of(day(2), split) for split in ("train", "test")}
    verdict = validate(GatesSpec(), schema, COLUMNS, now, {"train": before, "test": before})
    assert verdict.findings == []
    assert set(verdict.drift) == {c.name for c in COLUMNS} - {
        "event_id", "user_id", "event_time", "model_version"
    }  # fmt: skip
    assert all(0 <= value < 0.02 for value in verdict.drift.values())
    assert validate(GatesSpec(), schema, COLUMNS, now).drift == {}


def test_a_threshold_in_the_schema_goes_before_the_gate(schema, before):
    edited = schema_pb2.Schema()
    edited.CopyFrom(schema)
    (feature,) = (f for f in edited.feature if f.name == "propensity")
    feature.drift_comparator.jensen_shannon_divergence.threshold = 0.5
    assert judge(spoilt("propensity", 0.0), edited, before) == []


def test_few_listeners_differ_by_chance(schema):
    few = statistics_of(day(1, rows=3_000, users=20))
    assert judge(day(2, rows=3_000, users=20), schema, few) == []
    # The same rows of many listeners are another matter.
    alone = [table.with_columns(pl.col("event_id").alias("user_id")) for table in (
        day(1, rows=3_000, users=20), day(2, rows=3_000, users=20))]  # fmt: skip
    found = judge(alone[1], schema, statistics_of(alone[0]))
    assert {f.gate for f in found} >= {"drift"}


def test_a_split_without_rows_or_values_is_no_mistake(schema, before):
    gates = GatesSpec(max_rows_lost=None)
    assert judge(day(2).clear(), schema, before, gates) == []
    assert judge(day(2), schema, statistics_of(day(1).clear()), gates) == []
    bare = day(2).with_columns(pl.lit(None, pl.Int64).alias("ms_since_play"))
    (finding,) = judge(bare, schema, before, gates)
    assert (finding.gate, finding.feature) == ("null_share", "ms_since_play")


def test_a_column_that_the_schema_does_not_have_is_found(schema, before):
    shorter = schema_pb2.Schema()
    shorter.CopyFrom(schema)
    del shorter.feature[-1]
    (finding,) = judge(day(2), shorter, before)
    assert (finding.gate, finding.feature) == ("schema", "label_liked")
    assert "not in schema" in finding.message


# Schemas.


def test_a_schema_says_what_is_declared(schema):
    found = {feature.name: feature for feature in schema.feature}
    assert list(found) == [column.name for column in COLUMNS]
    assert found["surface"].string_domain.value == list(SURFACES)
    assert found["surface"].distribution_constraints.min_domain_mass == 1.0
    domains = {domain.name: list(domain.value) for domain in schema.string_domain}
    assert sorted(domains) == ["country", "platform"]
    assert sorted(domains["platform"]) == ["android", "desktop", "ios", "web"]
    for name, feature in found.items():
        required = name != "ms_since_play"
        assert feature.presence.min_fraction == float(required)
        assert feature.value_count.max == (0 if name == "history_ms" else 1)
        compared = name not in ("event_id", "user_id", "event_time", "model_version")
        assert feature.HasField("drift_comparator") == compared
        assert feature.HasField("skew_comparator") == (compared and not name.startswith("label_"))
        assert feature.annotation.comment == [f"What {name} is."]
    assert (found["user_plays_7d"].type, found["propensity"].type) == (
        schema_pb2.INT,
        schema_pb2.FLOAT,
    )
    assert found["shuffle"].int_domain.max == 1


def test_a_schema_of_several_splits_admits_the_values_of_all(schema):
    other = day(2).with_columns(
        pl.lit("watch").alias("platform"), pl.lit(-1).alias("ms_since_play")
    )
    wider = infer_schema(COLUMNS, [statistics_of(day(1)), statistics_of(other)])
    (platform,) = (d for d in wider.string_domain if d.name == "platform")
    assert "watch" in platform.value
    (since,) = (f for f in wider.feature if f.name == "ms_since_play")
    assert not since.int_domain.HasField("min")


def test_a_schema_is_written_to_be_edited(schema, tmp_path):
    path = tmp_path / "datasets" / "mine.pbtxt"
    validation.write_schema(str(path), schema)
    assert validation.load_schema(str(path)) == schema
    text = path.read_text()
    assert validation.parse_schema("# edited\n" + text, "mine") == schema
    path.write_text(text.replace("feature {", "feature [", 1))
    with pytest.raises(UsageError, match=rf"^{path}:2: expected a TFMD schema") as caught:
        validation.load_schema(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot read it as a TFMD schema"):
        validation.load_schema(str(tmp_path / "absent.pbtxt"))
    assert validation.schema_path("mine").parts[-3:] == ("schemas", "datasets", "mine.pbtxt")


# What was served.


def test_skew_against_what_was_served(schema, tmp_path):
    gates = OFF.model_copy(update={"max_skew": 0.02})
    now = {"train": statistics_of(day(2)), "test": statistics_of(day(2), "test")}
    served = day(3).select(
        "user_id", "platform", "propensity", pl.col("user_plays_7d").cast(pl.Int32)
    )
    path = tmp_path / "served.parquet"

    def found(table):
        table.write_parquet(path)
        log = validation.read_serving_log(str(path), COLUMNS)
        return validate(gates, schema, COLUMNS, now, serving=log).findings

    assert found(served) == []
    (finding,) = found(served.with_columns(pl.col("user_plays_7d") + 10))
    assert (finding.gate, finding.feature, finding.limit) == ("skew", "user_plays_7d", 0.02)
    assert finding.message.startswith("train: values differ by ")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"platform": [1]}, "serving log: platform: expected string, got Int64"),
        ({"propensity": ["x"]}, "serving log: propensity: expected double, got String"),
        ({"shuffle": [0.5]}, "serving log: shuffle: expected bool, got Float64"),
        ({"event_time": [1]}, "serving log: event_time: expected timestamp"),
        ({"history_ms": [1]}, "serving log: history_ms: expected list<int64>, got Int64"),
        (
            {"user_plays_7d": [[1]]},
            "user_plays_7d: expected int64, got List",
        ),
        ({"other": [1]}, "expected columns of the dataset, such as event_id, got other"),
    ],
)
def test_a_serving_log_of_other_columns_is_refused(table, message):
    with pytest.raises(UsageError, match=message):
        validation.serving_statistics(pl.DataFrame(table), COLUMNS)


def test_a_serving_log_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "served.parquet"
    with pytest.raises(UsageError, match="there is no such file; expected a serving log"):
        validation.read_serving_log(str(path), COLUMNS)
    path.write_text("no Parquet")
    with pytest.raises(UsageError, match="expected a serving log as Parquet"):
        validation.read_serving_log(str(path), COLUMNS)


# Configuration and words.


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_drift: 1.5", "max_drift: expected less than or equal to 1, got 1.5"),
        ("max_skew: -0.1", "max_skew: expected greater than or equal to 0, got -0.1"),
        ("max_label_rate_shift: 2", "max_label_rate_shift: expected less than"),
        ("max_label_rate_change: -1", "max_label_rate_change: expected greater than"),
        ("max_null_share_shift: x", "max_null_share_shift: expected a valid number"),
        ("max_rows_lost: 1.01", "max_rows_lost: expected less than or equal to 1"),
        ("max_quarantine_share: .nan", "max_quarantine_share: expected a finite number"),
        ("check_schema: maybe", "check_schema: expected a valid boolean"),
        ("warn_only: [drift, drift]", "warn_only: expected each gate once, got drift, drift"),
        ("warn_only: [drifts]", "warn_only.0: expected 'schema', 'drift', 'skew'"),
        ("max_drfit: 0.1", "max_drfit: unknown field"),
    ],
)
def test_a_mistake_in_the_gates_is_answered_in_one_line(text, problem):
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, GatesSpec, "gates.yaml")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"gates.yaml:1: {problem}")


def test_null_turns_a_gate_off():
    text = "\n".join(f"{name}: null" for name in GatesSpec.model_fields if name.startswith("max_"))
    assert parse_yaml(text + "\ncheck_schema: false", GatesSpec, "gates.yaml") == OFF


def test_findings_are_described_on_one_screen_errors_first():
    warning = Finding("drift", "platform", "warning", "train: values differ", 0.3, 0.1)
    error = Finding("rows_lost", None, "error", "train: 0 rows", 1.0, 0.5)
    assert describe([]) == []
    assert describe([warning, error]) == [
        "error    rows_lost  (dataset)  train: 0 rows",
        "warning  drift  platform  train: values differ",
    ]
    lines = describe([warning] * 50)
    assert len(lines) == 21
    assert lines[-1] == "and 30 more"


# TFDV itself.


def test_the_gates_do_without_tensorflow():
    script = (
        "import sys; from transforms import validation; validation._tfdv();"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_without_tfdv_the_answer_is_what_to_install(schema, before, monkeypatch):
    monkeypatch.setattr(validation.importlib.util, "find_spec", lambda _: None)
    for name in [name for name in sys.modules if name.startswith("tensorflow_data_validation")]:
        monkeypatch.delitem(sys.modules, name)
    validation._tfdv.cache_clear()
    with pytest.raises(UsageError, match=r"install playhead\[statistics\]"):
        validation.check_installed(GatesSpec())
    validation.check_installed(OFF)
    found = judge(spoilt("ms_since_play", None), schema, before,
                  GatesSpec(check_schema=False, max_drift=None, max_skew=None))  # fmt: skip
    assert [f.gate for f in found] == ["null_share"]


@pytest.mark.slow  # importing TFDV
def test_the_gates_say_what_tfdv_says(schema, before, monkeypatch):
    import tensorflow_data_validation as tfdv

    class Recorded:
        def __init__(self, extension):
            self.extension, self.calls = extension, []

        def ValidateFeatureStatistics(self, *args):  # noqa: N802
            self.calls.append((args, self.extension.ValidateFeatureStatistics(*args)))
            return self.calls[-1][1]

    def listed(data):
        return statistics_pb2.DatasetFeatureStatisticsList(
            datasets=[statistics_pb2.DatasetFeatureStatistics.FromString(data)]
        )

    recorded = Recorded(validation._tfdv())
    monkeypatch.setattr(validation, "_tfdv", lambda: recorded)
    served = validation.serving_statistics(day(9).select("platform", "propensity"), COLUMNS)
    for column, value in (("propensity", 0.0), ("surface", "hom"), ("user_plays_7d", -1)):
        found = judge(spoilt(column, value), schema, before, serving=served)
        args, answer = recorded.calls[-1]
        expected = tfdv.validate_statistics(
            listed(args[0]),
            schema_pb2.Schema.FromString(args[1]),
            previous_statistics=listed(args[3]),
            serving_statistics=listed(args[4]),
        )
        got = anomalies_pb2.Anomalies.FromString(answer)
        for anomalies in (expected, got):  # TFDV also shows how the schema could be changed
            for info in anomalies.anomaly_info.values():
                info.ClearField("diff_regions")
        assert got == expected
        assert set(expected.anomaly_info) == {column} == {f.feature for f in found}
    statistics = statistics_pb2.DatasetFeatureStatisticsList(datasets=[before])
    inferred = tfdv.infer_schema(statistics, infer_feature_shape=False)
    data = recorded.extension.InferSchema(before.SerializeToString(), 100, False)
    assert schema_pb2.Schema.FromString(data) == inferred
