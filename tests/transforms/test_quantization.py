"""Residual k-means: exact, independent of order and threads, and it finds what is there."""

from __future__ import annotations

import itertools
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import sklearn.cluster  # noqa: F401  (limits of threads reach only libraries that are loaded)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from threadpoolctl import threadpool_limits

from transforms import quantization
from transforms.errors import UsageError
from transforms.quantization import FloatArray, Grid

SMALL = st.integers(-3, 3).map(float)  # few values: equal distances are the rule


def nearest(row: list[float], centroids: list[list[float]]) -> int:
    """The slow way: fractions, one pair at a time, the first of equals."""
    distances = [
        sum((Fraction(x) - Fraction(c)) ** 2 for x, c in zip(row, centroid, strict=True))
        for centroid in centroids
    ]
    return distances.index(min(distances))


@st.composite
def problems(draw: st.DrawFn) -> tuple[FloatArray, list[FloatArray]]:
    """Vectors on a grid and codebooks of 1 to 3 levels."""
    dimensions = draw(st.integers(1, 3))
    shapes = [draw(st.integers(1, 6)) for _ in range(draw(st.integers(1, 3)))]
    rows = draw(arrays.arrays(np.float64, (draw(st.integers(1, 8)), dimensions), elements=SMALL))
    return rows, [
        draw(arrays.arrays(np.float64, (size, dimensions), elements=SMALL)) for size in shapes
    ]


@given(problems())
def test_codes_are_those_of_the_slow_way(problem: tuple[FloatArray, list[FloatArray]]) -> None:
    rows, codebooks = problem
    codes, errors = quantization.encode(rows, codebooks)
    for row, found, left in zip(rows.tolist(), codes.tolist(), errors.tolist(), strict=True):
        residual = row
        for level, codebook in enumerate(codebooks):
            code = nearest(residual, codebook.tolist())
            residual = [x - c for x, c in zip(residual, codebook[code].tolist(), strict=True)]
            assert found[level] == code
            assert left[level] == sum(x * x for x in residual)


@given(st.floats(5e-324, 1.7e308), st.integers(1, 4096), st.integers(1, 6), st.floats(-1, 1))
def test_the_grid_is_exact_and_as_fine_as_that_allows(
    largest: float, dimensions: int, levels: int, part: float
) -> None:
    grid = Grid.of(largest, dimensions, levels)
    assert (
        dimensions * 4 ** (levels + grid.bits) <= 2**53 < dimensions * 4 ** (levels + grid.bits + 2)
    )
    vectors = np.array([largest, -largest, largest * part])
    laid = grid.lay(vectors)
    assert 2 ** (grid.bits - 1) <= laid[0] <= 2**grid.bits
    assert laid[1] == -laid[0]
    assert laid.tolist() == [round(x) for x in laid.tolist()]
    if largest > 1e-300:  # below, the grid is finer than numbers are
        assert abs(grid.lift(laid) - vectors).max() <= math.ldexp(0.5, -grid.shift)


def test_levels_that_cannot_be_exact_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--levels: 12 levels of 1024 dimensions leave 9 bits"):
        Grid.of(1.0, 1024, 12)


def test_the_largest_numbers_of_a_grid_are_summed_exactly() -> None:
    # One unit in the last place decides; rounding anywhere would lose it.
    dimensions, levels = 64, 3
    top = float(2 ** (Grid.of(1.0, dimensions, levels).bits + levels - 1))
    row = np.full((1, dimensions), top)
    centroids = np.full((3, dimensions), -top)
    centroids[1:, -1] += [1.0, 2.0]
    codes, errors = quantization.encode(row, [centroids])
    assert codes.tolist() == [[2]]
    assert errors[0, 0] == (dimensions - 1) * int(2 * top) ** 2 + int(2 * top - 2) ** 2


def clusters(count: int, items: int, dimensions: int, spread: float, seed: int) -> tuple:
    """(cluster of each item, vectors on a grid)."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, dimensions))
    which = np.arange(items) % count
    vectors = centres[which] + spread * rng.standard_normal((items, dimensions))
    return which, Grid.of(float(abs(vectors).max()), dimensions, 3).lay(vectors)


def test_codes_do_not_depend_on_batches_or_threads() -> None:
    _, laid = clusters(200, 3_000, 32, 0.5, 1)
    codebooks = [laid[:256], laid[256:512] / 2 // 1]
    with threadpool_limits(1):
        codes, errors = quantization.encode(laid, codebooks)
    for size in (1, 7, 999):
        parts = [
            quantization.encode(laid[start : start + size], codebooks)
            for start in range(0, 3_000 if size > 1 else 300, size)
        ]
        height = sum(len(part[0]) for part in parts)
        np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), codes[:height])
        np.testing.assert_array_equal(np.concatenate([p[1] for p in parts]), errors[:height])


def test_the_fit_does_not_depend_on_threads() -> None:
    # Left to itself, KMeans answers differently for these on one and on two threads.
    _, laid = clusters(200, 5_000, 64, 0.5, 2)
    fits = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            fits.append(quantization.fit_codebook(laid, 256, seed=3, level=0))
    np.testing.assert_array_equal(*fits)
    assert (fits[0] == np.rint(fits[0])).all()


def test_seeds_and_levels_have_streams_of_their_own() -> None:
    _, laid = clusters(50, 1_000, 4, 1.0, 3)
    made = {
        quantization.fit_codebook(laid, 8, seed, level).tobytes()
        for seed, level in itertools.product(range(2), range(2))
    }
    assert len(made) == 4


def test_clusters_that_are_there_are_found() -> None:
    which, laid = clusters(12, 1_200, 8, 0.01, 4)
    codes, _ = quantization.encode(laid, quantization.fit(laid, 1, 12, seed=0))
    assert len({*zip(which.tolist(), codes[:, 0].tolist(), strict=True)}) == 12
    assert len(set(codes[:, 0].tolist())) == 12


def test_what_is_a_sum_of_two_parts_gets_two_codes_that_say_so() -> None:
    rng = np.random.default_rng(5)
    coarse, fine = rng.integers(-1000, 1000, (6, 5)) * 1000.0, rng.integers(-300, 300, (5, 5)) * 1.0
    fine -= np.rint(fine.mean(axis=0))
    pairs = list(itertools.product(range(6), range(5))) * 4
    laid = np.array([coarse[i] + fine[j] for i, j in pairs])
    codes, errors = quantization.encode(laid, quantization.fit(laid, 2, 6, seed=0))
    groups = {(i, code) for (i, _), code in zip(pairs, codes[:, 0].tolist(), strict=True)}
    assert len(groups) == 6
    assert len({(pair, *code) for pair, code in zip(pairs, codes.tolist(), strict=True)}) == 30
    assert errors[:, 1].max() <= 5  # centroids are rounded: at most half a unit a coordinate


def test_fewer_distinct_vectors_than_codes_leave_codes_unused_and_no_warning() -> None:
    laid = np.repeat([[0.0, 8.0], [8.0, 0.0]], 10, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codebooks = quantization.fit(laid, 2, 5, seed=0)
    codes, errors = quantization.encode(laid, codebooks)
    assert len(set(map(tuple, codes.tolist()))) == 2
    assert errors.tolist() == [[0, 0]] * 20
