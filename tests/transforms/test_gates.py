"""Each gate at its limit, normal days that pass, and anomalies that do not."""

from __future__ import annotations

import importlib
import math
import pathlib
from typing import Any

import numpy as np
import polars as pl
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import schema_pb2

import schemas
import specs
from schemas import forms
from transforms import gates
from transforms.config import parse_yaml
from transforms.datasets import sequences
from transforms.errors import UsageError
from transforms.findings import Finding
from transforms.gates import MIN_ROWS, GatesSpec, Side, Verdict
from transforms.manifest import ColumnEntry
from transforms.specs import SequencesSpec, load_spec
from transforms.statistics import SplitStatistics, element_type
from transforms.tfdv import Statistics

DAY_US = 86_400_000_000
ROWS = 20_000
PLATFORMS = pl.Series(["ios", "android", "web"])
KINDS = ("ranking", "retrieval", "sequences", "sessions")
OFF = GatesSpec(
    drift=None, skew=None, label_shift=None, null_shift=None, rows_fall=None, quarantine_share=None
)


def columns_of(table: pl.DataFrame, *nullable: str, **changes: dict[str, Any]) -> Any:
    """Declarations of a table's columns; what starts with label_ is a label."""
    return tuple(
        ColumnEntry(
            **{
                "name": name,
                "type": forms.type_name(kind),
                "nullable": name in nullable,
                "family": "label" if name.startswith("label_") else "context",
                "identifier": name.endswith("_id"),
                **changes.get(name, {}),
            }
        )
        for name, kind in table.schema.items()
    )


def statistics_of(table: pl.DataFrame, columns: Any, split: str = "train") -> Statistics:
    made = SplitStatistics(columns)
    made.add(table)
    return made.extract(split)


def day(number: int, rows: int = ROWS) -> pl.DataFrame:
    """Rows of a day: a weekend that differs a little, long tails, a new model every ten days."""
    draw = np.random.default_rng(number)
    wobble = 1 + 0.05 * math.sin(number) + 0.1 * (number % 7 >= 5)
    rate = 0.2 * draw.random(rows) * wobble  # listeners differ
    since = draw.lognormal(10, 2, rows).astype(np.int64)
    known = pl.Series(draw.random(rows) < 0.9)
    return pl.DataFrame(
        {
            "user_id": pl.Series(draw.integers(0, 5_000, rows)).cast(pl.String()),
            "event_time": pl.Series(number * DAY_US + draw.integers(0, DAY_US, rows)).cast(
                pl.Datetime("us", "UTC")
            ),
            "hour_of_day": draw.integers(0, 24, rows),
            "day_of_week": np.full(rows, number % 7),
            "platform": PLATFORMS.gather(draw.binomial(2, 0.3, rows)),
            "shelf": pl.Series((200 * draw.random(rows) ** 3).astype(np.int64)).cast(pl.String()),
            "model_version": pl.repeat(f"model-{number // 10}", rows, eager=True),
            "user_plays_7d": draw.lognormal(2.5 + 0.1 * wobble, 1.2, rows).astype(np.int64),
            "ms_since_play": since,
            "history_ms": pl.Series(draw.integers(0, 10**6, (rows, 3))).cast(pl.List(pl.Int64())),
            "propensity": draw.random(rows) ** 2,
            "label_liked": draw.random(rows) < rate / 20,
            "label_played": draw.random(rows) < rate,
            "label_reward": np.where(draw.random(rows) < rate, draw.random(rows), 0.0),
        }
    ).with_columns(pl.when(known).then("ms_since_play").alias("ms_since_play"))


COLUMNS = columns_of(day(0, 10), "ms_since_play")
_made: dict[int, Statistics] = {}


def of_day(number: int) -> Statistics:
    """Statistics of a day, made once."""
    if number not in _made:
        _made[number] = statistics_of(day(number), COLUMNS)
    return _made[number]


def judge(
    now: pl.DataFrame | Statistics,
    before: Statistics | None = None,
    spec: GatesSpec = GatesSpec(),  # noqa: B008  (immutable)
    columns: Any = COLUMNS,
    curated: str = "",
    serving: Statistics | None = None,
    quarantine_share: float = 0.0,
    beginning: bool = False,
) -> Verdict:
    """The verdict on a train split of one day, after another one."""
    if isinstance(now, pl.DataFrame):
        now = statistics_of(now, columns)
    return gates.judge(
        spec,
        curated,
        columns,
        Side({"train": now}, 1, beginning),
        None if before is None else Side({"train": before}, 1, is_beginning=False),
        serving,
        quarantine_share,
    )


def only(**limits: Any) -> GatesSpec:
    """Every gate off that can be, but these."""
    return OFF.model_copy(update=limits)


def flags(name: str, share: float, rows: int = ROWS) -> pl.DataFrame:
    true = round(share * rows)
    return pl.DataFrame({name: [True] * true + [False] * (rows - true)})


def with_nulls(nulls: int, rows: int = ROWS) -> pl.DataFrame:
    return pl.DataFrame({"played_ms": [None] * nulls + [7] * (rows - nulls)})


def gates_of(verdict: Verdict) -> set[tuple[str, str | None, str]]:
    return {(each.gate, each.feature, each.severity) for each in verdict.findings}


# --- Normal days and anomalies --------------------------------------------------------------------


def test_a_hundred_normal_days_give_at_most_one_false_alarm() -> None:
    alarms = []
    for number in range(1, 101):
        verdict = judge(of_day(number), of_day(number - 1), quarantine_share=1e-4)
        alarms += [(number, verdict.findings)] if verdict.findings else []
        assert set(verdict.drift) == {c.name for c in COLUMNS} - {
            "user_id", "event_time", "day_of_week", "model_version"
        }  # fmt: skip
    assert len(alarms) <= 1, alarms


def hit(column: str, value: Any) -> pl.DataFrame:
    """The rows of day 2, one in twenty with another value; a label's is flipped."""
    table = day(2)
    of = table.schema[column]
    other = ~pl.col(column) if of == pl.Boolean() else pl.lit(value, of)
    spoilt = pl.when(pl.int_range(pl.len()) % 20 == 0).then(other).otherwise(column)
    return table.with_columns(spoilt.alias(column))


@pytest.mark.parametrize(
    ("column", "value", "gate"),
    [
        ("label_liked", "flipped", "label_shift"),
        ("label_played", "flipped", "label_shift"),
        ("ms_since_play", None, "null_shift"),
        ("propensity", None, "schema"),  # required
        ("hour_of_day", 24, "schema"),
        ("propensity", math.nan, "schema"),
        ("propensity", 1.5, "schema"),
        ("platform", "fridge", "schema"),
    ],
)
def test_five_percent_of_bad_rows_are_found_by_one_gate(column: str, value: Any, gate: str) -> None:
    curated = text_format.Parse(
        gates.schema_text(gates.infer_schema(of_day(1), COLUMNS)), schema_pb2.Schema()
    )
    by_name = {feature.name: feature for feature in curated.feature}
    by_name["hour_of_day"].int_domain.max = 23
    by_name["propensity"].float_domain.max = 1.0
    by_name["propensity"].float_domain.disallow_nan = True
    by_name["platform"].string_domain.value.extend(["ios", "android", "web"])
    text = gates.schema_text(curated)
    assert judge(of_day(2), of_day(1), curated=text).findings == []
    found = judge(hit(column, value), of_day(1), curated=text)
    wanted = {(gate, column, "error")}
    if value is None and gate == "schema":
        wanted.add(("null_shift", column, "error"))
    assert gates_of(found) == wanted
    assert all(column in each.message for each in found.findings)


# --- Each gate alone, at its limit ----------------------------------------------------------------


def test_the_quarantine_share_is_a_plain_limit() -> None:
    now = day(1, 50)
    assert judge(now, spec=only(quarantine_share=0.01), quarantine_share=0.01).findings == []
    verdict = judge(now, spec=only(quarantine_share=0.01), quarantine_share=0.0101)
    assert verdict.findings == [
        Finding(
            "quarantine_share", None, "error",
            "1.01% of the rows of the store's days were quarantined, at most 1.00% may be",
            0.0101, 0.01,
        )
    ]  # fmt: skip
    assert judge(now, spec=OFF, quarantine_share=1.0).findings == []
    assert judge(now, spec=only(quarantine_share=0.0), quarantine_share=1e-9).findings


@pytest.mark.parametrize(("nulls", "found"), [(400, False), (401, True)])
def test_null_shift_is_a_difference_of_shares(nulls: int, found: bool) -> None:
    columns = columns_of(with_nulls(0), "played_ms")
    before = statistics_of(with_nulls(0), columns)
    verdict = judge(with_nulls(nulls), before, only(null_shift=0.02), columns)
    expected = {("null_shift", "played_ms", "error")} if found else set()
    assert gates_of(verdict) == expected
    assert gates_of(judge(before, statistics_of(with_nulls(nulls), columns),
                          only(null_shift=0.02), columns)) == expected  # fmt: skip
    assert judge(with_nulls(ROWS), before, OFF, columns).findings == []


@pytest.mark.parametrize(
    ("share", "found"), [(0.5401, True), (0.5399, False), (0.4601, False), (0.4599, True)]
)
def test_label_shift_is_in_standard_deviations_of_the_label(share: float, found: bool) -> None:
    table = flags("label_liked", share)
    columns = columns_of(table)
    before = statistics_of(flags("label_liked", 0.5), columns)
    verdict = judge(table, before, only(label_shift=0.08), columns)
    assert gates_of(verdict) == ({("label_shift", "label_liked", "error")} if found else set())
    for finding in verdict.findings:
        assert finding.value == pytest.approx(abs(share - 0.5) / 0.5)
        assert finding.message == f"label_liked is true in {share:.2%} of train's rows, was 50.00%"
    assert judge(table, before, OFF, columns).findings == []


def test_a_flag_that_is_no_label_has_no_rate_to_keep() -> None:
    table = flags("shuffle", 0.9)
    columns = columns_of(table)
    before = statistics_of(flags("shuffle", 0.1), columns)
    assert judge(table, before, only(label_shift=0.08), columns).findings == []


@pytest.mark.parametrize(("before", "now"), [(0.0, 0.05), (0.05, 0.0), (1.0, 0.95)])
def test_a_label_that_was_never_or_always_true_can_shift(before: float, now: float) -> None:
    table = flags("label_saved", now)
    columns = columns_of(table)
    earlier = statistics_of(flags("label_saved", before), columns)
    verdict = judge(table, earlier, only(label_shift=0.08), columns)
    assert gates_of(verdict) == {("label_shift", "label_saved", "error")}


def test_a_label_that_nobody_can_tell_has_no_rate() -> None:
    nothing = pl.DataFrame({"label_liked": pl.Series([None] * ROWS, dtype=pl.Boolean())})
    columns = columns_of(nothing, "label_liked")
    unknown = statistics_of(nothing, columns)
    for now, before in ((nothing, flags("label_liked", 0.1)), (flags("label_liked", 0.1), nothing)):
        verdict = judge(now, statistics_of(before, columns), only(label_shift=0.01), columns)
        assert verdict.findings == []
    assert judge(unknown, unknown, GatesSpec(), columns).findings == []


def test_small_shifts_of_few_rows_are_noise() -> None:
    few = 1_500
    table = flags("label_liked", 0.55, few)
    columns = columns_of(table)
    before = statistics_of(flags("label_liked", 0.5, few), columns)
    assert judge(table, before, only(label_shift=0.08), columns).findings == []  # 2.7 errors
    worse = judge(flags("label_liked", 0.65, few), before, only(label_shift=0.08), columns)
    assert gates_of(worse) == {("label_shift", "label_liked", "error")}


@pytest.mark.parametrize(
    ("rows", "days", "found"),
    [(1_000, 1, False), (999, 1, True), (2_000, 2, False), (1_999, 2, True), (5_000, 1, False)],
)
def test_rows_fall_counts_rows_a_day_of_all_splits(rows: int, days: int, found: bool) -> None:
    def side(total: int, days: int) -> Side:
        train = day(0, total - total // 4)
        parts = {"train": train, "test": day(1, total // 4)}
        made = {split: statistics_of(table, COLUMNS, split) for split, table in parts.items()}
        return Side(made, days, is_beginning=True)

    now, before = side(rows, days), side(2_000, 1)
    verdict = gates.judge(only(rows_fall=0.5), "", COLUMNS, now, before, None, 0.0)
    assert gates_of(verdict) == ({("rows_fall", None, "error")} if found else set())
    assert gates.judge(OFF, "", COLUMNS, now, before, None, 0.0).findings == []


def test_rows_fall_needs_enough_rows_before() -> None:
    nothing = Side({}, 1, is_beginning=False)
    for rows, found in ((MIN_ROWS, 1), (MIN_ROWS - 1, 0)):
        before = Side({"train": statistics_of(day(0, rows), COLUMNS)}, 1, is_beginning=False)
        verdict = gates.judge(only(rows_fall=0.5), "", COLUMNS, nothing, before, None, 0.0)
        assert len(verdict.findings) == found


@pytest.mark.parametrize("gate", ["drift", "skew"])
def test_a_divergence_at_its_limit(gate: str) -> None:
    moved = day(2).with_columns(pl.col("hour_of_day") // 2)

    def found(limit: float | None) -> list[Finding]:
        spec = only(**{gate: limit})
        if gate == "drift":
            return judge(moved, of_day(1), spec).findings
        return judge(moved, None, spec, serving=of_day(1)).findings

    (finding,) = found(0.1)
    assert finding.value is not None
    assert (finding.gate, finding.feature, finding.severity) == (gate, "hour_of_day", "error")
    assert found(finding.value) == []
    assert len(found(finding.value - 1e-9)) == 1
    assert found(None) == []


# --- What is compared, and how --------------------------------------------------------------------


def jensen_shannon(a: Any, b: Any) -> float:
    """In bits, of two columns of counts."""
    p, q = np.asarray(a) / np.sum(a), np.asarray(b) / np.sum(b)
    middle = (p + q) / 2
    return float(sum(np.sum(x[x > 0] * np.log2(x[x > 0] / middle[x > 0])) for x in (p, q)) / 2)


def test_the_drift_of_small_integers_and_texts_is_the_divergence_of_their_counts() -> None:
    draw = np.random.default_rng(3)
    now, before = (
        pl.DataFrame({"plays": draw.poisson(mean, ROWS) % 16}).with_columns(
            pl.col("plays").cast(pl.String()).alias("shelf")
        )
        for mean in (2.0, 3.0)
    )
    columns = columns_of(now)
    drift = judge(now, statistics_of(before, columns), columns=columns).drift
    counts = [[int((t["plays"] == i).sum()) for i in range(16)] for t in (now, before)]
    expected = jensen_shannon(*counts)
    assert drift == {
        "plays": pytest.approx(expected, rel=1e-4), "shelf": pytest.approx(expected, rel=1e-4)
    }  # fmt: skip


def test_one_outlier_is_no_drift() -> None:
    """The cells of what is compared do not depend on the extremes, as those of TFDV's own do."""
    table = pl.DataFrame({"delay_ms": np.random.default_rng(4).lognormal(7, 0.5, ROWS)})
    far = pl.concat([table, pl.DataFrame({"delay_ms": [1e9]})])
    columns = columns_of(table)
    assert judge(far, statistics_of(table, columns), columns=columns).drift["delay_ms"] < 1e-3


def test_few_values_differ_by_chance() -> None:
    """40 values of a column are enough for no verdict, though their divergence is high."""

    def of(seed: int, known: int) -> pl.DataFrame:
        draw = np.random.default_rng(seed)
        values = draw.lognormal(10, 1, ROWS)
        return pl.DataFrame({"delay_ms": [*values[:known], *[None] * (ROWS - known)]})

    columns = columns_of(of(1, 40), "delay_ms")
    verdict = judge(of(1, 40), statistics_of(of(2, 40), columns), only(drift=0.2), columns)
    assert verdict.drift["delay_ms"] > 0.2
    assert verdict.findings == []
    shifted = of(1, 4_000).with_columns(pl.col("delay_ms") * 4)
    verdict = judge(shifted, statistics_of(of(2, 4_000), columns), only(drift=0.2), columns)
    assert gates_of(verdict) == {("drift", "delay_ms", "error")}


def test_days_of_the_week_ids_times_and_rollouts_do_not_drift() -> None:
    table = day(9, 2_000)
    now = table.with_columns(
        pl.lit(6, pl.Int64()).alias("day_of_week"),
        pl.lit("model-7").alias("model_version"),
        pl.col("event_time") + pl.duration(days=30),
        user_id=pl.lit("somebody else"),
    )
    verdict = judge(now, statistics_of(table, COLUMNS))
    assert verdict.findings == []
    assert "day_of_week" not in verdict.drift
    assert judge(now, serving=statistics_of(table, COLUMNS)).findings == []


def test_a_column_without_values_on_one_side_does_not_drift() -> None:
    table = day(1, 2_000)
    empty = table.with_columns(pl.lit(None, pl.Int64()).alias("ms_since_play"))
    for now, before in ((table, empty), (empty, table), (empty, empty)):
        verdict = judge(now, statistics_of(before, COLUMNS), only(drift=0.3))
        assert verdict.findings == []
        assert "ms_since_play" not in verdict.drift


def test_a_threshold_in_the_schema_goes_before_the_gates() -> None:
    moved = day(2).with_columns(pl.col("hour_of_day") // 2)
    for gate, comparator in (("drift", "drift_comparator"), ("skew", "skew_comparator")):
        for limit, threshold, found in ((0.1, 0.9, 0), (0.9, 0.1, 1)):
            line = (
                f'feature {{ name: "hour_of_day" type: INT {comparator} '
                f"{{ jensen_shannon_divergence {{ threshold: {threshold} }} }} }}"
            )
            others = {"before" if gate == "drift" else "serving": of_day(1)}
            verdict = judge(moved, spec=only(**{gate: limit}), curated=line, **others)
            assert len([f for f in verdict.findings if f.gate == gate]) == found
    # A comparator is no reason of its own where there is nothing to compare with.
    assert {f.severity for f in judge(moved, spec=OFF, curated=line).findings} == {"warning"}


def test_at_the_beginning_of_history_drift_and_shifts_are_warnings() -> None:
    now = hit("label_played", "flipped").with_columns(
        pl.col("hour_of_day") // 4,
        pl.when(pl.int_range(pl.len()) % 2 == 0).then("ms_since_play").alias("ms_since_play"),
    )
    expected = {
        ("drift", "hour_of_day"), ("label_shift", "label_played"), ("null_shift", "ms_since_play")
    }  # fmt: skip
    for beginning, severity in ((True, "warning"), (False, "error")):
        verdict = judge(now, of_day(1), beginning=beginning)
        assert gates_of(verdict) == {(*each, severity) for each in expected}
    before = Side({"train": of_day(1)}, 1, is_beginning=True)
    side = Side({"train": statistics_of(now, COLUMNS)}, 1, is_beginning=False)
    verdict = gates.judge(GatesSpec(), "", COLUMNS, side, before, None, 0.0)
    assert {each.severity for each in verdict.findings} == {"warning"}


@pytest.mark.parametrize(("rows", "compared"), [(MIN_ROWS, True), (MIN_ROWS - 1, False)])
def test_few_rows_are_not_compared(rows: int, compared: bool) -> None:
    few = day(2, rows).with_columns(pl.lit(value=True).alias("label_liked"))
    many = of_day(1)
    for now, before in ((statistics_of(few, COLUMNS), many), (many, statistics_of(few, COLUMNS))):
        verdict = judge(now, before, GatesSpec(rows_fall=None))
        assert bool(verdict.drift) == compared
        assert bool(verdict.findings) == compared


def test_splits_without_train_are_counted_and_not_compared() -> None:
    spec = GatesSpec(rows_fall=0.5)
    before = Side({"train": of_day(1)}, 1, is_beginning=False)
    now = Side({"test": statistics_of(day(2, 5), COLUMNS, "test")}, 1, is_beginning=False)
    verdict = gates.judge(spec, "", COLUMNS, now, before, of_day(1), 0.5)
    assert gates_of(verdict) == {("quarantine_share", None, "error"), ("rows_fall", None, "error")}
    assert [feature.name for feature in verdict.schema.feature] == [c.name for c in COLUMNS]
    # Nor is train with a version before that had none.
    verdict = gates.judge(spec, "", COLUMNS, before, now, None, 0.0)
    assert (verdict.findings, verdict.drift) == ([], {})


# --- Schemas --------------------------------------------------------------------------------------


def test_every_split_is_held_against_the_schema() -> None:
    line = 'feature { name: "hour_of_day" type: INT int_domain { min: 0 max: 23 } }'
    table = pl.DataFrame({"hour_of_day": [0, 23]})
    columns = columns_of(table)
    tables = {"train": table, "validation": table, "test": table + 1}
    sides = {split: statistics_of(each, columns, split) for split, each in tables.items()}
    side = Side(sides, 1, is_beginning=False)
    (finding,) = gates.judge(OFF, line, columns, side, None, None, 0.0).findings
    assert (finding.gate, finding.feature, finding.severity) == ("schema", "hour_of_day", "error")
    assert finding.message.startswith("hour_of_day in test: Out-of-range values: ")


def test_a_new_column_is_taken_as_inferred_and_said_and_a_dropped_one_left_out() -> None:
    table = pl.DataFrame({"hour_of_day": [0, 23], "new_count": [1, 2], "new_text": ["a", "b"]})
    columns = columns_of(table)
    curated = (
        'feature { name: "gone" type: INT presence { min_fraction: 1 } }\n'
        'feature { name: "hour_of_day" type: INT int_domain { max: 23 } }\n'
    )
    verdict = judge(table, columns=columns, curated=curated)
    (finding,) = verdict.findings
    assert finding == Finding(
        "schema", None, "warning",
        "new_count, new_text: not in the schema; taken as inferred from train (`playhead schema`)",
    )  # fmt: skip
    assert [feature.name for feature in verdict.schema.feature] == table.columns
    assert verdict.schema.feature[0].int_domain.max == 23
    # Without a curated schema everything is inferred, which is nothing to tell.
    assert judge(table, columns=columns).findings == []


def test_what_a_schema_says_beside_its_columns_is_kept() -> None:
    curated = (
        'string_domain { name: "platforms" value: ["ios", "web"] }\n'
        'feature { name: "platform" type: BYTES domain: "platforms" }\n'
    )
    table = pl.DataFrame({"platform": ["ios", "web"]})
    columns = columns_of(table)
    assert judge(table, columns=columns, curated=curated).findings == []
    (finding,) = judge(pl.DataFrame({"platform": ["ios", "tv"]}), columns=columns,
                       curated=curated).findings  # fmt: skip
    assert "Unexpected string values" in finding.message


def test_a_column_without_values_breaks_no_domain() -> None:
    table = pl.DataFrame(
        {"neg_weights": [[], []], "candidates": [None, None]},
        schema={"neg_weights": pl.List(pl.Float64()), "candidates": pl.Int64()},
    )
    curated = (
        'feature { name: "neg_weights" type: FLOAT presence { min_fraction: 1 } '
        "value_count { min: 0 } float_domain { min: 1 } }\n"
        'feature { name: "candidates" type: INT value_count { min: 1 max: 1 } '
        "int_domain { min: 1 } }\n"
    )
    columns = columns_of(table, "candidates")
    assert judge(table, columns=columns, curated=curated).findings == []


def test_an_inferred_schema_says_what_is_declared() -> None:
    table = pl.DataFrame(
        {
            "surface": ["home", None],
            "first_surface": ["home", "home"],
            "shuffle": [True, False],
            "gap_ms": [0, 5],
            "offsets_ms": [[1], [2]],
            "share": [0.5, 0.25],
            "nothing": pl.Series([None, None], dtype=pl.Float64()),
        }
    )
    ms = {"unit": "ms"}
    columns = columns_of(table, "surface", "nothing", gap_ms=ms, offsets_ms=ms)
    schema = gates.infer_schema(statistics_of(table, columns), columns)
    found = {feature.name: feature for feature in schema.feature}
    assert list(found) == table.columns
    for name in ("surface", "first_surface"):
        assert list(found[name].string_domain.value) == list(
            schemas.LISTENING_EVENT["surface"].symbols
        )
    assert found["shuffle"].HasField("bool_domain")
    assert found["gap_ms"].int_domain == schema_pb2.IntDomain(min=0)
    assert found["share"].float_domain.disallow_nan
    assert found["share"].float_domain.disallow_inf
    assert {n: f.presence.min_fraction for n, f in found.items()} == {
        name: 0.0 if name in ("surface", "nothing") else 1.0 for name in found
    }
    assert found["offsets_ms"].value_count == schema_pb2.ValueCount(min=0)
    types = {name: schema_pb2.FeatureType.Name(feature.type) for name, feature in found.items()}
    assert types == {
        "surface": "BYTES", "first_surface": "BYTES", "shuffle": "INT", "gap_ms": "INT",
        "offsets_ms": "INT", "share": "FLOAT", "nothing": "FLOAT",
    }  # fmt: skip


def test_a_digit_of_semantic_ids_may_be_none_whatever_train_has() -> None:
    """A track without codes has -1, though no row of train may have such a track."""
    spec = SequencesSpec(kind="sequences")
    digits = [column for column in sequences.columns(spec, 3) if column.name.startswith("sid_")]
    assert [column.name for column in digits] == ["sid_0", "sid_1", "sid_2", "sid_dedup"]
    table = pl.DataFrame({column.name: [[0, 7], [3]] for column in digits})
    schema = gates.infer_schema(statistics_of(table, tuple(digits)), digits)
    for feature in schema.feature:
        assert feature.int_domain == schema_pb2.IntDomain(min=-1)
    curated = gates.schema_text(schema)
    unknown = table.with_columns(pl.lit([-1, -1], pl.List(pl.Int64())).alias("sid_1"))
    assert judge(unknown, columns=tuple(digits), curated=curated).findings == []
    below = table.with_columns(pl.lit([-2], pl.List(pl.Int64())).alias("sid_1"))
    assert gates_of(judge(below, columns=tuple(digits), curated=curated)) == {
        ("schema", "sid_1", "error")
    }


def test_rows_of_all_splits_are_counted_for_a_fall() -> None:
    """That test takes a part of what was train is no fall."""
    spec, (one, other) = only(rows_fall=0.45), map(of_day, (1, 2))
    whole, half = (Side(s, 1, False) for s in ({"train": one, "test": other}, {"train": other}))
    (finding,) = gates.judge(spec, "", COLUMNS, half, whole, None, 0.0).findings
    assert finding.message.endswith("a fall of 50%, at most 45% may be")
    halves = Side({"train": one}, 1, False), Side({"validation": one, "test": other}, 2, False)
    assert gates.judge(spec, "", COLUMNS, *halves, None, 0.0).findings == []


_VALUES: dict[pl.DataType, st.SearchStrategy[Any]] = {
    pl.String(): st.text(max_size=3),
    pl.Boolean(): st.booleans(),
    pl.Int64(): st.integers(0, 2**53),
    pl.Float64(): st.floats(width=32, allow_nan=False, allow_infinity=False),
}


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    """A column of each type, and of lists of it, with nulls and empty lists."""
    rows = draw(st.integers(1, 6))
    schema, data = {}, {}
    for number, (kind, values) in enumerate(_VALUES.items()):
        schema |= {f"scalar_{number}": kind, f"list_{number}": pl.List(kind)}
        of_row = st.lists(st.none() | values, min_size=rows, max_size=rows)
        data[f"scalar_{number}"] = draw(of_row)
        some = st.none() | st.lists(values, max_size=3)
        data[f"list_{number}"] = draw(st.lists(some, min_size=rows, max_size=rows))
    return pl.DataFrame(data, schema=schema)


@settings(max_examples=40, deadline=None)
@given(tables())
def test_a_table_is_as_its_inferred_schema_says(table: pl.DataFrame) -> None:
    nullable = [name for name in table.columns if table[name].null_count()]
    columns = columns_of(table, *nullable)
    statistics = statistics_of(table, columns)
    schema = gates.infer_schema(statistics, columns)
    verdict = judge(table, columns=columns, curated=gates.schema_text(schema))
    assert verdict.findings == []
    assert verdict.schema == schema


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_found(value: float) -> None:
    good = pl.DataFrame({"share": [0.5, 1.0, 2.0]})
    columns = columns_of(good)
    curated = gates.schema_text(gates.infer_schema(statistics_of(good, columns), columns))
    bad = pl.DataFrame({"share": [0.5, value, 2.0]})
    (found,) = judge(bad, columns=columns, curated=curated).findings
    assert (found.gate, found.feature, found.severity) == ("schema", "share", "error")


def test_a_schema_is_a_line_for_each_column() -> None:
    schema = gates.infer_schema(of_day(1), COLUMNS)
    schema.string_domain.add(name="platforms").value.append('"odd"\n')
    text = gates.schema_text(schema)
    assert text_format.Parse("# By hand.\n" + text, schema_pb2.Schema()) == schema
    lines = [line for line in text.splitlines() if line.startswith("feature {")]
    assert len(lines) == len(COLUMNS)
    assert gates.schema_text(schema_pb2.Schema()) == ""


# --- The schemas that come with Playhead ----------------------------------------------------------


def shipped(kind: str) -> dict[str, schema_pb2.Feature]:
    parsed = text_format.Parse(gates.curated_schema(GatesSpec(), kind), schema_pb2.Schema())
    assert len({feature.name for feature in parsed.feature}) == len(parsed.feature)
    return {feature.name: feature for feature in parsed.feature}


def kind_columns(kind: str) -> dict[str, ColumnEntry]:
    """Columns that a dataset of the kind can have."""
    spec: Any = load_spec(str(pathlib.Path(specs.__file__).with_name(f"{kind}.yaml")))
    module = importlib.import_module(f"transforms.datasets.{kind}")
    if kind != "sequences":
        return {column.name: column for column in module.columns(spec)}
    packed = spec.model_copy(update={"packing": "pack"})
    both = (*module.columns(spec, 3), *module.columns(packed, 3))
    return {column.name: column for column in both}


@pytest.mark.parametrize("kind", KINDS)
def test_a_shipped_schema_has_the_columns_of_its_kind(kind: str) -> None:
    columns, found = kind_columns(kind), shipped(kind)
    assert list(found) == [name for name in found if name in columns]
    assert set(found) == set(columns)
    for name, column in columns.items():
        feature = found[name]
        assert (feature.presence.min_fraction == 1.0) != column.nullable, name
        is_list = element_type(column) != column.type
        assert (feature.value_count.max == 1) != is_list, name
        if element_type(column) == "bool":
            assert feature.HasField("bool_domain"), name
        wanted = {"double": schema_pb2.FLOAT, "string": schema_pb2.BYTES}
        assert feature.type == wanted.get(element_type(column), schema_pb2.INT), name


def good_and_bad(feature: schema_pb2.Feature) -> tuple[list[Any], list[Any]]:
    """Values on the borders of a feature's domain, and values outside of it."""
    of = feature.WhichOneof("domain_info")
    if of == "string_domain":
        return list(feature.string_domain.value), ["somewhere else"]
    if of == "bool_domain":
        return [0, 1], [2]
    if of is None:
        return [], []
    domain = getattr(feature, of)
    step = 1 if of == "int_domain" else 0.001
    good: list[Any] = [getattr(domain, end) for end in ("min", "max") if domain.HasField(end)]
    bad: list[Any] = [domain.min - step] if domain.HasField("min") else []
    bad += [domain.max + step] if domain.HasField("max") else []
    if of == "float_domain":
        bad.append(math.inf)
        (bad if domain.disallow_nan else good).append(math.nan)
    return good, bad


@pytest.mark.parametrize("kind", KINDS)
def test_a_shipped_schema_admits_its_borders_and_nothing_beyond(kind: str) -> None:
    columns = kind_columns(kind)
    text = gates.curated_schema(GatesSpec(), kind)
    checked = 0
    for name, feature in shipped(kind).items():
        column, (good, bad) = columns[name], good_and_bad(feature)
        is_list = element_type(column) != column.type
        # A bool that is 2 cannot be in a table; in statistics of something else it can.
        of = "int64" if element_type(column) == "bool" else element_type(column)
        entry = column.model_copy(update={"type": f"list<{of}>" if is_list else of})

        def found(values: list[Any], entry: Any = entry, is_list: bool = is_list) -> list[Finding]:
            data = [values] if is_list else values
            return judge(pl.DataFrame({entry.name: data}), columns=(entry,), curated=text).findings

        if good:
            assert found(good) == [], name
            if column.nullable:
                assert found([*good, None]) == [], name
                kinds = {"double": pl.Float64(), "string": pl.String()}
                nulls = pl.Series(name, [None], dtype=kinds.get(of, pl.Int64()))
                assert judge(nulls.to_frame(), columns=(entry,), curated=text).findings == []
        for value in bad:
            (finding,) = found([*good, value])
            assert (finding.gate, finding.feature) == ("schema", name)
            checked += 1
    assert checked > 10


def test_another_schema_can_be_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.pbtxt"
    path.write_text('# Mine.\nfeature { name: "a" type: INT }\n')
    assert gates.curated_schema(GatesSpec(schema_file=str(path)), "ranking") == path.read_text()
    assert gates.curated_schema(GatesSpec(), "no such kind") == ""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "can't decode"),
        (b'feature { name: "a"\ntypo: INT }', "2:1 : "),
    ],
)
def test_a_schema_file_that_is_none_is_answered_in_one_line(
    tmp_path: pathlib.Path, data: bytes | None, reason: str
) -> None:
    path = tmp_path / "mine.pbtxt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        gates.curated_schema(GatesSpec(schema_file=str(path)), "ranking")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"gates.schema_file: {path}: expected a TFMD schema as text")
    assert reason in line


# --- What was served ------------------------------------------------------------------------------


def write(path: pathlib.Path, table: pl.DataFrame) -> str:
    table.write_parquet(path)
    return str(path)


def test_skew_against_the_columns_that_were_served(tmp_path: pathlib.Path) -> None:
    served = day(3, 2_000).select(
        pl.col("hour_of_day").cast(pl.Int8()),
        pl.col("propensity").cast(pl.Float32()),
        "platform",
        "history_ms",
        pl.col("event_time").dt.cast_time_unit("ms"),
        pl.lit(1).alias("of_the_log_only"),
    )
    log = gates.read_serving_log(write(tmp_path / "log.parquet", served), COLUMNS)
    assert [str(feature.path.step[0]) for feature in log.features] == [
        column.name for column in COLUMNS if column.name in served.columns
    ]
    spec = only(skew=0.1)
    verdict = judge(of_day(2), spec=spec, serving=log)
    assert (verdict.findings, verdict.drift) == ([], {})
    skewed = served.with_columns(pl.lit("ios").alias("platform"), pl.col("propensity") / 8)
    log = gates.read_serving_log(write(tmp_path / "skewed.parquet", skewed), COLUMNS)
    verdict = judge(of_day(2), of_day(1), spec, serving=log, beginning=True)
    assert gates_of(verdict) == {("skew", "platform", "error"), ("skew", "propensity", "error")}
    assert "platform" in verdict.drift
    assert all("from the serving log" in each.message for each in verdict.findings)
    values = [each.value or 0 for each in verdict.findings]
    assert values == sorted(values, reverse=True)


NOT_COMPARED = (
    "has no column whose values can be compared; expected some of hour_of_day, platform, shelf, "
    "user_plays_7d, ms_since_play, history_ms, propensity, label_liked, label_played, label_reward"
)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"other": [1]}, f"{NOT_COMPARED}; got other"),
        ({"user_id": ["u"], "day_of_week": [1]}, f"{NOT_COMPARED}; got user_id, day_of_week"),
        ({"platform": [1]}, "platform: expected string, got Int64"),
        ({"hour_of_day": ["1"]}, "hour_of_day: expected int64, got String"),
        ({"hour_of_day": [1.5]}, "hour_of_day: expected int64, got Float64"),
        ({"propensity": [1]}, "propensity: expected double, got Int64"),
        ({"label_liked": [0.5]}, "label_liked: expected bool, got Float64"),
        ({"event_time": [1]}, "event_time: expected timestamp[us, tz=UTC], got Int64"),
        ({"history_ms": [1]}, "history_ms: expected list<int64>, got Int64"),
        ({"hour_of_day": [[1]]}, "hour_of_day: expected int64, got List(Int64)"),
    ],
)
def test_a_serving_log_of_something_else_is_answered_in_one_line(
    tmp_path: pathlib.Path, table: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path / "log.parquet", pl.DataFrame(table))
    with pytest.raises(UsageError) as caught:
        gates.read_serving_log(path, COLUMNS)
    assert str(caught.value) == f"--serving-log: {path}: {reason}"


@pytest.mark.parametrize("data", [None, b"", b"no Parquet\nat all"])
def test_a_serving_log_that_cannot_be_read_is_answered_in_one_line(
    tmp_path: pathlib.Path, data: bytes | None
) -> None:
    path = tmp_path / "log.parquet"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(
        UsageError, match=r"^--serving-log: .*: expected a Parquet file: "
    ) as caught:
        gates.read_serving_log(str(path), COLUMNS)
    assert "\n" not in str(caught.value)


# --- Configuration and words ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("drift: 1.5", "drift: expected a number of at most 1, got 1.5"),
        ("skew: 0", "skew: expected a number greater than 0, got 0"),
        ("label_shift: -1", "label_shift: expected a number greater than 0, got -1"),
        ("null_shift: much", "null_shift: expected a number"),
        ("rows_fall: 50", "rows_fall: expected a number of at most 1, got 50"),
        ("quarantine_share: .nan", "quarantine_share: expected a finite number"),
        ("schema_file: 7", "schema_file: expected text, got 7"),
        ("drfit: 0.1", "drfit: unknown field"),
    ],
)
def test_a_mistake_in_the_gates_names_its_field(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, GatesSpec, "gates.yaml")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"gates.yaml:1: {problem}")


def test_null_turns_every_gate_off() -> None:
    names = [name for name in GatesSpec.model_fields if name != "schema_file"]
    spec = parse_yaml("\n".join(f"{name}: null" for name in names), GatesSpec, "gates.yaml")
    assert spec == OFF
    bad = day(2, 2_000).with_columns(
        pl.lit(value=True).alias("label_liked"), pl.lit(3, pl.Int64()).alias("user_plays_7d"),
        pl.lit(None, pl.Int64()).alias("ms_since_play"),
    )  # fmt: skip
    assert judge(bad, of_day(1), serving=of_day(1), quarantine_share=1.0).findings
    verdict = judge(bad, of_day(1), spec, serving=of_day(1), quarantine_share=1.0)
    assert verdict.findings == []
    assert verdict.drift["user_plays_7d"] > 0.3  # is shown all the same


def test_the_same_statistics_give_the_same_verdict() -> None:
    now = hit("label_played", "flipped").with_columns(pl.col("hour_of_day") // 4)
    first, second = (judge(now, of_day(1), serving=of_day(5)) for _ in range(2))
    assert first.findings == second.findings
    assert first.drift == second.drift
    assert list(first.drift) == sorted(first.drift)
