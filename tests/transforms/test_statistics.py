"""Statistics agree with plain Python on any table, with TFDV on a large one, and merge."""

from __future__ import annotations

import datetime
import itertools
import math
import statistics as plain
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import statistics_pb2

from benchmarks import statistics as benchmark
from schemas import forms
from transforms import statistics
from transforms.manifest import ColumnEntry
from transforms.statistics import SplitStatistics

INT, FLOAT, STRING = (statistics_pb2.FeatureNameStatistics.Type.Value(n) for n in
                      ("INT", "FLOAT", "STRING"))  # fmt: skip
STANDARD, QUANTILES = statistics_pb2.Histogram.STANDARD, statistics_pb2.Histogram.QUANTILES
UTC = datetime.UTC


def entries(table, *identifiers):
    return [
        ColumnEntry(name=name, type=forms.type_name(kind), identifier=name in identifiers)
        for name, kind in table.schema.items()
    ]


def summarize(table, *identifiers):
    made = SplitStatistics(entries(table, *identifiers))
    made.add(table)
    return made


def features(made, name="train"):
    return {feature.path.step[0]: feature for feature in made.extract(name).features}


def feature_of(values, kind, *, identifier=False):
    table = pl.DataFrame({"x": pl.Series(values, dtype=kind)})
    return features(summarize(table, *(["x"] if identifier else [])))["x"]


def histogram(feature, kind):
    (found,) = (h for h in feature.num_stats.histograms if h.type == kind)
    return found


BETWEEN = {f"{end}_value": datetime.datetime(year, 1, 1)  # noqa: DTZ001  (the zone is drawn)
           for end, year in (("min", 1960), ("max", 2100))}  # fmt: skip
# What a 32-bit float can tell from zero, or zero.
finite = st.floats(-1e30, 1e30).map(lambda number: 0.0 if abs(number) < 1e-30 else number)
COLUMNS = {
    "flag": (pl.Boolean(), st.booleans()),
    "small": (pl.Int32(), st.integers(-600, 600)),
    "large": (pl.Int64(), st.integers(-(2**62), 2**62)),
    "number": (pl.Float64(), finite),
    "day": (pl.Date(), st.dates(datetime.date(1960, 1, 1), datetime.date(2100, 1, 1))),
    "time": (pl.Datetime("us", "UTC"), st.datetimes(timezones=st.just(UTC), **BETWEEN)),
    "text": (pl.String(), st.text("abé", max_size=3)),
    "numbers": (pl.List(pl.Int64()), st.lists(st.integers(-5, 5), max_size=4)),
    "texts": (pl.List(pl.String()), st.lists(st.text("ab", max_size=2), max_size=3)),
}


@st.composite
def tables(draw, max_rows=40):
    rows = draw(st.integers(0, max_rows))
    return pl.DataFrame(
        {
            name: pl.Series(
                draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), dtype=kind
            )
            for name, (kind, values) in COLUMNS.items()
        }
    )


def as_number(value):
    if isinstance(value, datetime.datetime):
        return (value - datetime.datetime(1970, 1, 1, tzinfo=UTC)) // datetime.timedelta(
            microseconds=1
        )
    if isinstance(value, datetime.date):
        return (value - datetime.date(1970, 1, 1)).days
    return value


@settings(max_examples=60, deadline=None)
@given(tables())
def test_every_column_agrees_with_plain_python(table):
    found = features(summarize(table))
    for name, feature in found.items():
        present = [row for row in table[name].to_list() if row is not None]
        lists = [row if isinstance(row, list) else [row] for row in present]
        values = [as_number(value) for row in lists for value in row]
        is_text = table.schema[name] in (pl.String(), pl.List(pl.String()))
        stats = feature.string_stats if is_text else feature.num_stats
        common = stats.common_stats
        assert (common.num_non_missing, common.num_missing) == (
            len(present),
            table.height - len(present),
        )
        assert common.tot_num_values == len(values)
        assert common.min_num_values == min(map(len, lists), default=0)
        assert common.max_num_values == max(map(len, lists), default=0)
        if present:
            assert common.avg_num_values == pytest.approx(len(values) / len(present))
        if is_text:
            assert feature.type == STRING
            assert stats.unique == len(set(values))
            counted = sorted(((values.count(v), v) for v in set(values)), reverse=True)
            assert [(f.frequency, f.value) for f in stats.top_values] == counted[:20]
            ranked = [(b.sample_count, b.label) for b in stats.rank_histogram.buckets]
            assert ranked == counted
            if values:
                lengths = [len(v.encode()) for v in values]
                assert stats.avg_length == pytest.approx(plain.mean(lengths), rel=1e-6)
        elif values:
            assert feature.type == (FLOAT if name == "number" else INT)
            assert (stats.min, stats.max) == (float(min(values)), float(max(values)))
            scale = max(map(abs, values))
            assert stats.mean == pytest.approx(plain.fmean(values), rel=1e-9, abs=1e-9 * scale)
            assert stats.std_dev == pytest.approx(
                plain.pstdev(map(float, values)), rel=1e-6, abs=1e-9 * scale
            )
            assert stats.num_zeros == values.count(0)
            for kind in (STANDARD, QUANTILES):
                total = sum(b.sample_count for b in histogram(feature, kind).buckets)
                assert total == pytest.approx(len(values))
        else:
            assert not stats.histograms


@settings(max_examples=40, deadline=None)
@given(tables(), st.lists(st.integers(0, 40), max_size=3))
def test_rows_cut_in_any_way_and_merged_give_the_same_statistics(table, cuts):
    whole = summarize(table)
    merged = SplitStatistics(entries(table))
    borders = [0, *sorted(min(c, table.height) for c in cuts), table.height]
    for first, end in itertools.pairwise(borders):
        merged.merge(SplitStatistics.from_bytes(summarize(table[first:end]).to_bytes()))
    a, b = features(whole), features(merged)
    for name in table.columns:
        # Only mean and deviation are sums of floats.
        left, right = a[name].num_stats, b[name].num_stats
        scale = max(abs(left.min), abs(left.max))
        assert right.mean == pytest.approx(left.mean, rel=1e-9, abs=1e-9 * scale)
        assert right.std_dev == pytest.approx(left.std_dev, rel=1e-6, abs=1e-6 * scale)
        for number in (left, right):
            number.ClearField("mean")
            number.ClearField("std_dev")
        assert a[name] == b[name]


@settings(max_examples=30, deadline=None)
@given(tables(), tables())
def test_the_same_tables_in_the_same_order_give_the_same_bytes(first, second):
    def made():
        result = summarize(first)
        result.merge(summarize(second.clone()))
        return result

    assert made().to_bytes() == made().to_bytes()
    again = SplitStatistics.from_bytes(made().to_bytes())
    assert again.to_bytes() == made().to_bytes()
    assert statistics.encode(again.extract("a")) == statistics.encode(made().extract("a"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-500, 500), min_size=1, max_size=60).map(lambda v: (v, pl.Int64()))
    | st.lists(finite, min_size=1, max_size=60).map(lambda v: (v, pl.Float64()))
)
def test_quantiles_are_where_they_should_be(case):
    values, kind = case
    feature = feature_of(values, kind)
    found = histogram(feature, QUANTILES).buckets
    assert len(found) == 10
    edges = {rank / 10: bucket.high_value for rank, bucket in enumerate(found, start=1)}
    for share, edge in [*edges.items(), (0.5, feature.num_stats.median)]:
        slack = 0 if kind == pl.Int64() else abs(edge) / 256 + 1e-38
        # Not more than the share is certainly below, not less is possibly at or below.
        assert sum(v < edge - slack for v in values) <= len(values) * share + 1e-6
        assert sum(v <= edge + slack for v in values) >= len(values) * share - 1e-6
        assert min(values) <= edge <= max(values)


def test_a_standard_histogram_holds_small_integers_where_they_are():
    feature = feature_of([0, 0, 0, 1, 7, 10, 10], pl.Int64())
    held = [(b.low_value, b.sample_count) for b in histogram(feature, STANDARD).buckets]
    assert held == [(float(i), {0: 3, 1: 1, 7: 1, 9: 2}.get(i, 0)) for i in range(10)]


@given(st.lists(st.integers(-600, 600), max_size=40), st.lists(finite, max_size=40))
def test_cells_have_borders_that_do_not_depend_on_the_sample(integers, numbers):
    for values, kind in ((integers, pl.Int64()), (numbers, pl.Float64())):
        seen = np.array(values, dtype=np.float32)
        customs = feature_of(values, kind).custom_stats
        assert [custom.name for custom in customs] == [statistics.CELLS] * bool(values)
        held = [bucket for custom in customs for bucket in custom.histogram.buckets]
        for left, right in itertools.pairwise(held):
            assert left.low_value < left.high_value == right.low_value < right.high_value
        for bucket in held:
            if not bucket.sample_count:
                continue
            low, high = bucket.low_value, bucket.high_value
            inside = (low <= seen) & (seen < high)
            if kind == pl.Float64() and low < 0:
                inside = (low < seen) & (seen <= high)
            assert inside.sum() == bucket.sample_count
            one = [values[int(np.flatnonzero(inside)[0])]]
            (alone,) = feature_of(one, kind).custom_stats
            assert [(b.low_value, b.high_value) for b in alone.histogram.buckets] == [(low, high)]
        assert sum(bucket.sample_count for bucket in held) == len(values)


def test_an_empty_table_and_columns_without_a_value():
    table = pl.DataFrame(
        {name: pl.Series([None, None], dtype=kind) for name, (kind, _) in COLUMNS.items()}
    )
    for rows in (table, table.clear()):
        made = summarize(rows)
        merged = SplitStatistics(entries(table))
        merged.merge(made)
        assert merged.to_bytes() == made.to_bytes()
        assert made.extract("x").num_examples == rows.height
        for feature in features(made).values():
            stats = feature.num_stats if feature.HasField("num_stats") else feature.string_stats
            assert stats.common_stats.num_missing == rows.height
            assert stats.common_stats.num_non_missing == 0
            assert not feature.num_stats.histograms
            assert feature.string_stats.unique == 0
    table = pl.DataFrame({"x": pl.Series([[], []], dtype=pl.List(pl.Int64()))})
    common = features(summarize(table))["x"].num_stats.common_stats
    assert (common.num_non_missing, common.tot_num_values, common.max_num_values) == (2, 0, 0)


def test_what_is_not_finite_is_counted_and_left_out():
    feature = feature_of([math.nan, math.inf, -math.inf, 1.0, 3.0, math.inf], pl.Float64())
    stats = feature.num_stats
    assert (stats.mean, stats.std_dev, stats.min, stats.max) == (2.0, 1.0, -math.inf, math.inf)
    for found in stats.histograms:
        assert (found.num_nan, found.num_undefined) == (1, 3)
        assert sum(bucket.sample_count for bucket in found.buckets) == pytest.approx(2)
    only = feature_of([math.nan, math.nan], pl.Float64()).num_stats
    assert [found.num_nan for found in only.histograms] == [2, 2]
    assert only.common_stats.num_non_missing == 2
    endless = feature_of([math.inf], pl.Float64()).num_stats
    assert (endless.min, endless.max) == (math.inf, math.inf)


def test_extreme_numbers_and_times_do_not_break_the_cells():
    huge = feature_of([1e300, -1e300, 5e-324, 0.0, -0.0], pl.Float64()).num_stats
    assert (huge.min, huge.max, huge.num_zeros) == (-1e300, 1e300, 2)
    assert all(math.isfinite(b.high_value) for h in huge.histograms for b in h.buckets)
    unsigned = feature_of([2**64 - 1, 0], pl.UInt64()).num_stats
    assert unsigned.max == float(2**64 - 1)
    far = feature_of([0, 2**60, 2**60], pl.Datetime("us", "UTC")).num_stats
    assert far.median == pytest.approx(2**60, rel=1e-9)


def test_nulls_in_a_list_are_values_that_are_not_summarized():
    stats = feature_of([[1, None], [3]], pl.List(pl.Int64())).num_stats
    assert (stats.common_stats.tot_num_values, stats.mean) == (3, 2.0)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([(cell << 48) + low for cell in (0, 7, 65_535) for low in range(4)]))
)
def test_hashes_are_counted_as_one_by_one_where_many_share_a_cell(drawn):
    hashes = np.array(drawn, np.uint64)
    found = statistics._Hashes.of(hashes, (hashes >> np.uint64(48)).astype(np.int64))
    counted = zip(found.hashes.tolist(), found.counts.tolist(), strict=True)
    assert sorted(counted) == sorted(Counter(drawn).items())
    assert hashes[found.at].tolist() == found.hashes.tolist()


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("distinct", [3_000, 4_095, 40_000])
def test_distinct_identifiers_are_counted_by_their_smallest_hashes(distinct, parts):
    ids = pl.Series([f"track-{i}" for i in range(distinct)] * 3)
    table = pl.DataFrame({"x": ids.sample(fraction=1, shuffle=True, seed=1)})
    made = SplitStatistics(entries(table, "x"))
    for part in range(parts):
        made.add(table[part::parts])
    unique = features(made)["x"].string_stats.unique
    assert unique == (distinct if distinct < 4_096 else pytest.approx(distinct, rel=0.06))


@pytest.mark.parametrize("parts", [1, 5])
def test_frequent_identifiers_are_counted_almost_in_full(parts):
    popular = {f"popular-{i}": 2_000 - 60 * i for i in range(25)}
    ids = [name for name, times in popular.items() for _ in range(times)]
    ids += [f"rare-{i}" for i in range(30_000)]
    table = pl.DataFrame({"x": pl.Series(ids).sample(fraction=1, shuffle=True, seed=2)})
    made = SplitStatistics(entries(table, "x"))
    for part in range(parts):
        made.add(table[part::parts])
    stats = features(made)["x"].string_stats
    assert [found.value for found in stats.top_values] == list(popular)[:20]
    for found in stats.top_values:
        assert 0 <= popular[found.value] - found.frequency <= 0.002 * len(ids)
    assert not stats.rank_histogram.buckets  # identifiers are never listed


def test_texts_that_are_not_identifiers_but_too_many_are_shortened():
    texts = ["often"] * 500 + [f"text-{i}" for i in range(12_000)]
    stats = features(summarize(pl.DataFrame({"x": texts})))["x"].string_stats
    assert [(f.value, f.frequency) for f in stats.top_values] == [("often", 499)]
    assert stats.unique == pytest.approx(12_001, rel=0.06)


def test_a_column_that_the_accumulator_does_not_have_does_not_merge():
    with pytest.raises(ValueError, match="different columns"):
        summarize(pl.DataFrame({"x": [1]})).merge(summarize(pl.DataFrame({"y": [1]})))


def test_a_file_is_a_list_of_one_dataset():
    made = summarize(pl.DataFrame({"x": [1, 2]})).extract("train")
    data = statistics.encode(made)
    assert statistics.decode(data) == made
    (listed,) = statistics_pb2.DatasetFeatureStatisticsList.FromString(data).datasets
    assert (listed.name, listed.num_examples) == ("train", 2)


@pytest.mark.slow  # importing TFDV
def test_statistics_agree_with_tfdv():
    from tensorflow_data_validation.statistics import stats_impl

    table, columns = benchmark.ranking_like(30_000)
    extra = table.with_columns(
        pl.when(pl.int_range(pl.len()) % 3 > 0).then("history_ms_ago").alias("history_ms_ago"),
        pl.col("history_track_ids").list.head(pl.col("position") % 4),
        pl.lit(None, pl.Int64).alias("ms_0"),
        (pl.col("plays_3") - 9).alias("plays_3"),
    )
    batch = benchmark.tfdv_batch(extra, columns)
    (expected,) = stats_impl.generate_statistics_in_memory(batch).datasets
    made = SplitStatistics(columns)
    for first in range(0, extra.height, 7_000):
        made.add(extra[first : first + 7_000])
    assert made.extract("train").num_examples == expected.num_examples == extra.height
    found = features(made)
    assert list(found) == [feature.path.step[0] for feature in expected.features]
    for theirs in expected.features:
        ours = found[theirs.path.step[0]]
        assert ours.type == theirs.type
        if theirs.type == STRING:
            same_texts(ours, theirs)
        else:
            same_numbers(ours, theirs, extra[theirs.path.step[0]])


def same_common(ours, theirs):
    counts = ("num_non_missing", "num_missing", "min_num_values", "max_num_values",
              "tot_num_values", "avg_num_values")  # fmt: skip
    for name in counts:
        assert getattr(ours, name) == getattr(theirs, name)
    left, right = ours.num_values_histogram.buckets, theirs.num_values_histogram.buckets
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.low_value, a.high_value) == pytest.approx((b.low_value, b.high_value), abs=1)


def same_texts(ours, theirs):
    a, b = ours.string_stats, theirs.string_stats
    same_common(a.common_stats, b.common_stats)
    assert a.avg_length == pytest.approx(b.avg_length, rel=1e-6)
    assert a.unique == (b.unique if b.unique < 4_096 else pytest.approx(b.unique, rel=0.08))
    if a.rank_histogram.buckets:  # not an identifier
        assert a.top_values == b.top_values
        assert a.rank_histogram == b.rank_histogram
    values = a.common_stats.tot_num_values
    for left, right in zip(a.top_values, b.top_values, strict=False):
        assert left.frequency == pytest.approx(right.frequency, abs=0.004 * values)


def same_numbers(ours, theirs, column):
    a, b = ours.num_stats, theirs.num_stats
    same_common(a.common_stats, b.common_stats)
    assert (a.num_zeros, a.min, a.max) == (b.num_zeros, b.min, b.max)
    assert (a.mean, a.std_dev) == pytest.approx((b.mean, b.std_dev), rel=1e-9)
    assert len(a.histograms) == len(b.histograms)
    if not b.histograms:
        return
    values = column.drop_nulls()
    values = values.explode() if isinstance(column.dtype, pl.List) else values
    numbers = np.sort(values.to_physical().to_numpy().astype(float))

    def rank(number):
        """Between which shares of the numbers it lies; an edge is somewhere in a cell."""
        slack = abs(number) / 256 + 1e-37
        return (
            np.searchsorted(numbers, number - slack) / len(numbers),
            np.searchsorted(numbers, number + slack, side="right") / len(numbers),
        )

    for share, left, right in [
        (0.5, a.median, b.median),
        *(
            (i / statistics.HISTOGRAM_BUCKETS, x.high_value, y.high_value)
            for i, (x, y) in enumerate(
                zip(*(histogram(f, QUANTILES).buckets for f in (ours, theirs)), strict=True), 1
            )
        ),
    ]:
        # Both are that quantile: TFDV's up to its error of 1 %, ours up to the width of a cell.
        for number in (left, right):
            low, high = rank(number)
            assert low - 0.011 <= share <= high + 0.011
    reached = 0
    for x, y in zip(*(histogram(f, STANDARD).buckets for f in (ours, theirs)), strict=True):
        assert (x.low_value, x.high_value) == pytest.approx(
            (y.low_value, y.high_value), rel=1e-9, abs=1e-9 * (a.max - a.min)
        )
        reached += x.sample_count / len(numbers)
        low, high = rank(x.high_value)
        assert low - 1e-9 <= reached <= high + 1e-9


def test_without_names_of_users():
    """Ids of users and of what they did are not listed; all else is as it was."""
    table = pl.DataFrame(
        {
            "user_id": ["listener-1", "listener-1", "listener-2"],
            "request_id": ["r1", "r2", "r2"],
            "track_id": ["t1", "t1", "t2"],
            "history_track_ids": [["t1"], [], ["t3"]],
            "country": ["SE", "SE", "NO"],
            "n": [1, 2, 3],
        }
    )
    made = summarize(table, "user_id", "request_id", "track_id", "history_track_ids")
    data = statistics.encode(made.extract("train"))
    assert b"listener-1" in data
    nameless = statistics.without_names(data, entries(table, *table.columns[:4]))
    for text in (b"listener", b"r1", b"r2"):
        assert text not in nameless
    left = statistics.decode(nameless)
    for before, after in zip(statistics.decode(data).features, left.features, strict=True):
        if before.path.step[0] in ("user_id", "request_id"):
            del before.string_stats.top_values[:]
        assert before == after
    assert statistics.without_names(nameless, entries(table, *table.columns[:4])) == nameless
