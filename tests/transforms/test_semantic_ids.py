"""The table of semantic IDs: the same for the same items, no two alike; how it is read."""

from __future__ import annotations

import itertools
import json
import math
import pathlib
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import jobs
from transforms import embeddings, semantic_ids
from transforms.errors import DataRefusedError, UsageError
from transforms.semantic_ids import Quantized, SemanticIds, SemanticIdsConfig

CONFIG = SemanticIdsConfig(levels=3, codebook_size=8, seed=1)
DAY_US = 86_400_000_000


def items(count: int, dimensions: int = 4, seed: int = 0) -> pl.DataFrame:
    """Items in clusters, some with equal vectors."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((10, dimensions))
    vectors = centres[rng.integers(0, 10, count)] + 0.3 * rng.standard_normal((count, dimensions))
    vectors[count - count // 10 :] = vectors[: count // 10]
    return pl.DataFrame(
        {
            "track_id": [f"t{i}" for i in range(count)],
            "embedding": pl.Series(vectors).cast(pl.List(pl.Float64)),
        }
    )


def quantize(
    folder: pathlib.Path, *tables: pl.DataFrame, config: SemanticIdsConfig = CONFIG
) -> Quantized:
    paths = []
    for number, table in enumerate(tables):
        paths.append(str(folder / f"{number}.parquet"))
        table.write_parquet(paths[-1])
    source = embeddings.describe(tuple(paths), "track_id", "embedding")
    return semantic_ids.quantize(source, config)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 300))
def test_order_of_rows_files_and_batches_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: int
) -> None:
    folder, table = tmp_path_factory.mktemp("order"), items(300)
    shuffled = table[random.Random(seed).sample(range(300), 300)]
    with pytest.MonkeyPatch.context() as patch:
        # Not all items are fitted, so which ones are must not depend on the order either.
        patch.setattr(semantic_ids, "FIT_ITEMS_PER_CODE", 20)
        made = [quantize(folder, table)]
        patch.setattr(embeddings, "BATCH_ROWS", 1 + cut)
        made.append(quantize(folder, shuffled[:cut], shuffled[cut:]))
    assert made[0].counts["fitted_items"] == 160
    first, second = (
        [entry.sha256 for entry in semantic_ids.write(each, str(folder / f"out{number}"))]
        for number, each in enumerate(made)
    )
    assert first == second
    assert made[0].counts == made[1].counts


def test_codes_are_the_nearest_centroids_and_errors_what_they_leave(tmp_path: pathlib.Path) -> None:
    table = items(500)
    made = quantize(tmp_path, table)
    sorted_items = table.sort("track_id")
    assert made.codes["track_id"].equals(sorted_items["track_id"])
    residuals = np.array(sorted_items["embedding"].to_list())
    variance = ((residuals - residuals.mean(axis=0)) ** 2).sum()
    errors = []
    for level in made.quality:
        book = made.codebooks.filter(pl.col("level") == level.level)
        assert book["code"].to_list() == list(range(8))
        centroids = np.array(book["centroid"].to_list())
        codes = made.codes[f"code_{level.level}"].to_numpy()
        distances = np.linalg.norm(residuals[:, None] - centroids[None], axis=2)
        # What is written is on the grid, the vectors here are not: 2^-20 of difference.
        np.testing.assert_allclose(
            distances[np.arange(500), codes], distances.min(axis=1), atol=1e-5
        )
        assert book["size"].to_list() == np.bincount(codes, minlength=8).tolist()
        residuals = residuals - centroids[codes]
        errors.append(level.reconstruction_error)
        assert errors[-1] == pytest.approx((residuals**2).sum() / variance, abs=1e-5)
    assert 1 > errors[0] > errors[1] > errors[2] > 0


def test_the_last_digit_tells_items_with_equal_codes_apart(tmp_path: pathlib.Path) -> None:
    made = quantize(tmp_path, items(500))
    seen: dict[tuple[int, ...], int] = {}
    for _, *codes, digit in made.codes.rows():
        assert digit == seen.get(tuple(codes), 0)
        seen[tuple(codes)] = digit + 1
    assert made.counts["collisions"] == 500 - len(seen) >= 50  # the equal vectors at least
    assert made.counts["largest_group"] == max(seen.values())
    assert made.codes.schema == {
        "track_id": pl.String,
        **dict.fromkeys(["code_0", "code_1", "code_2", "code_dedup"], pl.Int64),
    }
    names = [column.name for column in semantic_ids.columns(3)]
    assert names == made.codes.columns


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any))
def test_entropy_and_perplexity_are_those_of_the_shares(sizes: list[int]) -> None:
    quality = semantic_ids.level_quality(2, np.array(sizes), 0.25)
    total = sum(sizes)
    entropy = math.log2(total) - sum(n * math.log2(n) for n in sizes if n) / total
    used = sum(n > 0 for n in sizes)
    assert (quality.used, quality.dead) == (used, len(sizes) - used)
    assert quality.entropy_bits == pytest.approx(entropy, abs=2e-6)
    assert 0 <= quality.entropy_bits <= math.log2(used) + 1e-6
    assert 1 <= quality.perplexity <= used + 1e-5
    assert quality.perplexity == pytest.approx(2**entropy, abs=2e-5)
    assert quality.top_share == pytest.approx(max(sizes) / total, abs=1e-6)


def test_equally_used_codes_have_the_entropy_of_a_fair_die() -> None:
    quality = semantic_ids.level_quality(0, np.array([3] * 256), 0.5)
    assert (quality.entropy_bits, quality.perplexity, quality.dead) == (8.0, 256.0, 0)
    alone = semantic_ids.level_quality(0, np.array([0, 7, 0]), 0.5)
    assert str(alone.entropy_bits) == "0.0"
    assert (alone.perplexity, alone.top_share, alone.dead) == (1.0, 1.0, 2)


def test_items_that_cannot_be_told_apart_or_stand_twice_are_refused(
    tmp_path: pathlib.Path,
) -> None:
    table = items(20)
    with pytest.raises(
        DataRefusedError, match=r"track_id: 2 ids .* such as 't3'; expected one row"
    ):
        quantize(tmp_path, table, table[3:5])
    for vector, message in (([0.5, 1.0], "vectors are equal"), ([0.0, 0.0], "vectors are zero")):
        equal = table.with_columns(pl.Series("embedding", [vector] * 20))
        with pytest.raises(DataRefusedError, match=message):
            quantize(tmp_path, equal)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-02", DAY_US),
        ("2026-01-10", 20463 * DAY_US),
        ("2026-01-10T00:00:00Z", 20463 * DAY_US),
        ("2026-01-10T03:30:00.000001+03:30", 20463 * DAY_US + 1),
        ("1969-12-31T23:59:59.999999Z", -1),
    ],
)
def test_instants_are_utc_days_or_times_with_a_zone(text: str, expected: int) -> None:
    assert semantic_ids.parse_instant(text) == expected
    assert semantic_ids.parse_instant(semantic_ids.instant_text(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "2026-01-10T00:00:00", "20260110", "2026-02-30", "2026-W02-1", "yesterday", "１"]
)
def test_other_texts_are_no_instants(text: str) -> None:
    with pytest.raises(
        ValueError, match="expected a UTC day as YYYY-MM-DD or a time with its zone"
    ):
        semantic_ids.parse_instant(text)


# --- reading --------------------------------------------------------------------------------------


def table_of(codes: dict[str, list[int]], levels: int = 2) -> SemanticIds:
    names = [*semantic_ids.code_columns(levels), semantic_ids.DEDUP]
    columns = {
        "track_id": list(codes),
        **dict(zip(names, zip(*codes.values(), strict=True), strict=True)),
    }
    return SemanticIds("v", "d" * 64, 5 * DAY_US, levels, 8, pl.DataFrame(columns).sort("track_id"))


IDS = table_of({"a": [3, 0, 0], "b": [3, 0, 1], "c": [7, 5, 0]})
NAMES = ["sid_0", "sid_1", "sid_dedup"]
TRACK = st.sampled_from(["a", "b", "c", "unknown", None])


def digits(track: str | None) -> list[int]:
    """The slow way."""
    found = IDS.codes.rows_by_key("track_id", unique=True)
    return list(found.get(track, (semantic_ids.MISSING,) * 3))


@given(st.lists(st.none() | st.lists(TRACK, max_size=4), max_size=5))
def test_lists_of_tracks_get_lists_of_digits(tracks: list[list[str | None] | None]) -> None:
    joined = semantic_ids.join_codes(pl.Series("x", tracks, pl.List(pl.String)), IDS)
    assert joined.schema == dict.fromkeys(NAMES, pl.List(pl.Int64))
    for number, name in enumerate(NAMES):
        assert joined[name].to_list() == [
            None if row is None else [digits(track)[number] for track in row] for row in tracks
        ]


@given(st.lists(TRACK, max_size=6))
def test_tracks_get_digits(tracks: list[str | None]) -> None:
    joined = semantic_ids.join_codes(pl.Series("x", tracks, pl.String), IDS)
    assert joined.schema == dict.fromkeys(NAMES, pl.Int64)
    assert joined.rows() == [tuple(digits(track)) for track in tracks]


def test_ids_that_know_of_later_days_than_training_are_refused() -> None:
    for border in (5 * DAY_US, 6 * DAY_US):
        semantic_ids.check_border(IDS, border)
    with pytest.raises(
        UsageError,
        match=r"^sids: v was fitted on data until 1970-01-06T00:00:00Z, but train ends at "
        r"1970-01-05T23:59:59.999999Z; use",
    ):
        semantic_ids.check_border(IDS, 5 * DAY_US - 1, field="sids")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("published")
    items(100).write_parquet(folder / "items.parquet")
    for until, seed in (("2026-01-12", 0), ("2026-01-10T12:00:00Z", 1)):
        jobs.ok(
            *("semantic-ids", "--embeddings", folder / "items.parquet", "--trained-until", until),
            *("--output", folder / "sids", "--codebook-size", 8, "--seed", seed, "--levels", 2),
        )
    return folder / "sids"


def test_a_version_is_loaded_from_its_folder_or_the_one_above(published: pathlib.Path) -> None:
    current = semantic_ids.load(str(published))
    assert current.trained_until_us == semantic_ids.parse_instant("2026-01-10T12:00:00Z")
    assert (current.levels, current.codebook_size) == (2, 8)
    assert current.codes.height == 100
    folders = sorted(path for path in published.iterdir() if path.is_dir())
    loaded = [semantic_ids.load(f"{folder}/") for folder in folders]
    assert [each.version for each in loaded] == [folder.name for folder in folders]
    assert loaded[0].version.startswith("2026-01-10-")
    assert loaded[0].version == current.version
    assert loaded[0].digest == current.digest != loaded[1].digest
    assert not loaded[0].codes.equals(loaded[1].codes)
    assert json.loads((published / "CURRENT.json").read_text())["digest"] == current.digest


def test_what_is_no_table_of_ids_is_refused(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=rf"^{path}: nothing is published .* semantic IDs"):
            semantic_ids.load(str(path))
    store = jobs.partition_root(simulated_store)
    with pytest.raises(UsageError, match=rf"^{store}: is a version of kind events; expected sem"):
        semantic_ids.load(str(store))


def test_codes_that_were_changed_are_refused(
    published: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    version = next(path for path in published.iterdir() if path.is_dir())
    (attempt,) = (path for path in version.iterdir() if path.is_dir())
    copied = tmp_path / version.name / attempt.name
    copied.mkdir(parents=True)
    (copied.parent / "manifest.json").write_bytes((version / "manifest.json").read_bytes())
    data = (attempt / "codes.parquet").read_bytes()
    for change in (data[:-1], data.replace(b"t", b"u")):
        (copied / "codes.parquet").write_bytes(change)
        with pytest.raises(DataRefusedError, match=r"codes\.parquet: was changed"):
            semantic_ids.load(str(copied.parent))
    (copied / "codes.parquet").write_bytes(data)
    assert semantic_ids.load(str(copied.parent)).codes.height == 100


def test_every_pair_of_items_differs_in_some_digit(published: pathlib.Path) -> None:
    rows = semantic_ids.load(str(published)).codes.drop("track_id").rows()
    assert all(one != other for one, other in itertools.combinations(rows, 2))
