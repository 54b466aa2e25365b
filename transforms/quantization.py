"""Residual k-means: a vector becomes one code a level.

Level 0 clusters the vectors, level l what levels 0 to l - 1 leave of them: the residual
r_0 = x, r_{l+1} = r_l - c_l[code_l]. A code is the centroid with the smallest Euclidean distance,
the lowest one of equals (for cosine similarity, give unit vectors). Codebooks are fitted by
scikit-learn's KMeans (k-means++, Lloyd) and depend on its version.

Determinism. All arithmetic on items is exact. Values are laid on a grid of whole numbers, small
enough that no sum of products here exceeds 2^53: so codes and error sums are the same for any order
of rows, size of batches, number of threads and BLAS. KMeans alone is not exact (it centres the
data, and its sums depend on the threads): it runs on one thread, on items in the order of their
ids, and its centroids are rounded to the grid.
"""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import numpy.typing as npt

from transforms.errors import UsageError
from transforms.hashing import key_of

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_EXACT_BITS = 53  # whole numbers up to 2^53 are exact in float64
_MIN_GRID_BITS = 10


@dataclasses.dataclass(frozen=True)
class Grid:
    """Whole numbers of 2^-shift in place of vectors.

    Made by `of`. `bits` is what the largest coordinate takes; 20 for 3 levels of 64 dimensions.
    """

    shift: int
    bits: int

    @classmethod
    def of(cls, largest: float, dimensions: int, levels: int) -> Grid:
        """The finest grid on which all levels are exact.

        With |x| <= M = 2^bits in every coordinate, residuals of level l are at most 2^l M and
        squared norms after the last level at most dimensions x (2^levels M)^2 <= 2^53.

        Args:
          largest: largest absolute coordinate of all vectors; positive.
          dimensions: length of a vector.
          levels: number of levels.

        Raises:
          UsageError: if fewer than 10 bits would be left.
        """
        bits = (_EXACT_BITS - math.ceil(math.log2(dimensions))) // 2 - levels
        if bits < _MIN_GRID_BITS:
            raise UsageError(
                f"--levels: {levels} levels of {dimensions} dimensions leave {bits} bits a number, "
                f"expected at least {_MIN_GRID_BITS}; give fewer levels"
            )
        return cls(shift=bits - math.frexp(largest)[1], bits=bits)

    def lay(self, vectors: FloatArray) -> FloatArray:
        """Vectors as whole numbers (of type float64)."""
        laid: FloatArray = np.rint(np.ldexp(vectors, self.shift))
        return laid

    def lift(self, laid: FloatArray) -> FloatArray:
        """Whole numbers back in the unit of the vectors."""
        lifted: FloatArray = np.ldexp(laid, -self.shift)
        return lifted


def fit_codebook(residuals: FloatArray, size: int, seed: int, level: int) -> FloatArray:
    """Centroids of one level on the grid, `size` rows.

    Args:
      residuals: at least `size` rows on the grid, in an order that the data decide.
      size: number of codes.
      seed: of the version; every level has a stream of its own.
      level: number of the level.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    stream = key_of(f"semantic-ids/level-{level}", seed) % (1 << 32)
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct residuals than codes: some codes stay dead, and are counted as such.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(size, init="k-means++", n_init=1, random_state=stream).fit(residuals)
    centroids: FloatArray = np.rint(model.cluster_centers_)
    return centroids


def assign(residuals: FloatArray, centroids: FloatArray) -> IntArray:
    """The nearest centroid of each row; the lowest number of equally near ones."""
    # |r - c|^2 less |r|^2, which is the same for all c.
    scores = residuals @ (-2.0 * centroids.T)
    scores += np.einsum("kd,kd->k", centroids, centroids)
    return scores.argmin(axis=1)


def encode(laid: FloatArray, codebooks: list[FloatArray]) -> tuple[IntArray, IntArray]:
    """Codes of vectors on the grid, and what is left of them.

    Returns:
      codes: a row an item, a column a level.
      squared_errors: squared norm of the residual after each level, in squared grid units; same
        shape.
    """
    codes = np.empty((len(laid), len(codebooks)), dtype=np.int64)
    squared_errors = np.empty_like(codes)
    residuals = laid
    for level, centroids in enumerate(codebooks):
        codes[:, level] = assign(residuals, centroids)
        residuals = residuals - centroids[codes[:, level]]
        squared_errors[:, level] = squared_norms(residuals)
    return codes, squared_errors


def fit(laid: FloatArray, levels: int, size: int, seed: int) -> list[FloatArray]:
    """Codebooks of all levels, fitted on vectors on the grid."""
    codebooks = []
    residuals = laid
    for level in range(levels):
        centroids = fit_codebook(residuals, size, seed, level)
        residuals = residuals - centroids[assign(residuals, centroids)]
        codebooks.append(centroids)
    return codebooks


def squared_norms(laid: FloatArray) -> IntArray:
    """Exact squared norm of each row."""
    return np.einsum("nd,nd->n", laid, laid).astype(np.int64)
