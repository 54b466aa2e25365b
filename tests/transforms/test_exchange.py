"""The one shuffle: two modes of one meaning, and nothing left behind."""

from __future__ import annotations

import pathlib
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tests import jobs
from transforms import buckets, ingestion
from transforms.buckets import USER_HASH, split_by_bucket
from transforms.exchange import ExchangeByBucket, ExchangeMode

TOP = 1 << 64
hashes = st.lists(
    st.one_of(
        st.integers(0, TOP - 1),
        st.integers(0, 64).map(lambda i: i * (TOP // 64) % TOP),
        st.integers(1, 64).map(lambda i: i * (TOP // 64) - 1),
    ),
    max_size=60,
)
counts = st.integers(0, 8).map(lambda k: 1 << k)


def rows(values: list[int], tag: str = "") -> pl.DataFrame:
    return pl.DataFrame(
        {
            USER_HASH: pl.Series(values, dtype=pl.UInt64),
            "row": [f"{tag}{i}" for i in range(len(values))],
        },
        schema={USER_HASH: pl.UInt64, "row": pl.String},
    )


@given(hashes, counts)
def test_a_split_keeps_every_row_once_and_in_order(values: list[int], count: int) -> None:
    table = rows(values)
    parts = list(split_by_bucket(table, count))
    assert [bucket for bucket, _ in parts] == sorted({value * count // TOP for value in values})
    assert all(part.height for _, part in parts)
    for bucket, part in parts:
        expected = table.filter(pl.Series([v * count // TOP == bucket for v in values]))
        assert_frame_equal(part, expected)


@given(hashes, counts.filter(lambda count: count > 1))
def test_buckets_are_contiguous_and_doubling_splits_each_in_two(
    values: list[int], count: int
) -> None:
    array = np.array(sorted(values), dtype=np.uint64)
    fine, coarse = buckets.bucket_of(array, count), buckets.bucket_of(array, count // 2)
    assert (np.diff(fine) >= 0).all()
    assert (fine // 2 == coarse).all()
    assert ((fine >= 0) & (fine < count)).all()


def test_bucket_counts_are_powers_of_two() -> None:
    for good in (1, 2, 32, 1 << 16):
        assert buckets.check_bucket_count(good) == good
    for bad in (0, -1, 3, 48, 1 << 17):
        with pytest.raises(ValueError, match="power of two"):
            buckets.check_bucket_count(bad)


def test_users_spread_evenly_and_stay_in_their_bucket() -> None:
    users = pl.DataFrame({"user_id": [f"user-{i}" for i in range(32_000)]})
    hashed = users.select(buckets.user_hash(pl.col("user_id"), 0)).to_series()
    sizes = np.bincount(buckets.bucket_of(hashed.to_numpy(), 32), minlength=32)
    assert sizes.min() > 800
    assert sizes.max() < 1200
    assert hashed[0] == 18039088276204030811  # frozen: published stores depend on it


def exchanged(
    elements: list[tuple[str, int, pl.DataFrame]],
    mode: ExchangeMode,
    folder: pathlib.Path,
    count: int = 8,
) -> dict[int, pl.DataFrame]:
    """Bucket -> its table; written to files, since a DoFn's closure is a copy."""
    folder.mkdir()
    sink = str(folder)

    def keep(bucket: int, table: pl.DataFrame) -> None:
        table.write_ipc(f"{sink}/{bucket}.arrow")

    hint = tuple[str, int, pl.DataFrame]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create(elements).with_output_types(hint)
            | ExchangeByBucket(count, mode, str(folder / "spill"))
            | beam.MapTuple(keep)
        )
    return {int(path.stem): pl.read_ipc(path) for path in folder.glob("*.arrow")}


def test_by_value_and_by_reference_give_the_same_rows_in_the_same_order(
    tmp_path: pathlib.Path,
) -> None:
    random = np.random.default_rng(1)
    elements = []
    for source in ("b", "a", "a/../c", "ü"):
        for position in (0, 1, 2, 10):
            values = random.integers(0, TOP, 200, dtype=np.uint64).tolist()
            elements.append((source, position, rows(values, f"{source}{position}.")))
    elements.append(("empty", 0, rows([])))
    by_value = exchanged(elements, ExchangeMode.BY_VALUE, tmp_path / "value")
    by_reference = exchanged(elements[::-1], ExchangeMode.BY_REFERENCE, tmp_path / "reference")
    in_order = pl.concat([table for _, _, table in sorted(elements, key=lambda each: each[:2])])
    expected = dict(split_by_bucket(in_order, 8))
    assert set(by_value) == set(by_reference) == set(expected)
    for bucket, table in expected.items():
        assert_frame_equal(by_value[bucket], table)
        assert_frame_equal(by_reference[bucket], table)


def test_nothing_to_exchange_is_no_bucket(tmp_path: pathlib.Path) -> None:
    for mode in ExchangeMode:
        elements = [("a", 0, rows([]))]
        assert exchanged(elements, mode, tmp_path / mode.value) == {}


@settings(max_examples=5, deadline=None)
@given(st.lists(hashes, min_size=1, max_size=4))
def test_any_tables_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, many: list[list[int]]
) -> None:
    elements = [("s", i, rows(values, f"{i}.")) for i, values in enumerate(many)]
    folder = tmp_path_factory.mktemp("any")
    by_value = exchanged(elements, ExchangeMode.BY_VALUE, folder / "v", 4)
    by_reference = exchanged(elements, ExchangeMode.BY_REFERENCE, folder / "r", 4)
    assert {k: v.rows() for k, v in by_value.items()} == {
        k: v.rows() for k, v in by_reference.items()
    }
    assert sum(each.height for each in by_value.values()) == sum(map(len, many))


def test_both_modes_write_the_same_partition(
    simulated: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    raw = simulated / f"received={jobs.DAY}" / "*"
    value = jobs.ingest(raw, tmp_path / "value", "--shuffle", "value")
    reference = jobs.ingest(raw, tmp_path / "reference", "--shuffle", "reference")
    assert value.digest() == reference.digest()


def test_spill_files_are_gone_after_success(
    simulated: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    published = jobs.ingest(simulated / f"received={jobs.DAY}" / "*", tmp_path / "store")
    root = jobs.partition_root(tmp_path / "store")
    attempt = f"{published.version}/{published.run.attempt}"
    listed = [f"{attempt}/{entry.path}" for entry in published.files]
    expected = [*listed, f"{published.version}/manifest.json", "CURRENT.json"]
    assert jobs.files_below(root) == sorted(expected)


def test_spill_files_are_gone_after_failure(
    simulated: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a worker's disk is gone")

    monkeypatch.setattr(ingestion, "store_bucket", fail)
    store = tmp_path / "store"
    ended = jobs.call(*jobs.ingest_argv(simulated / f"received={jobs.DAY}" / "*", store))
    assert ended.code == 1
    assert jobs.files_below(store) == []
