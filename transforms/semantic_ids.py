"""Semantic IDs: a versioned table that gives each item its code digits.

An item's digits are code_0 .. code_{L-1}, one of each level of residual k-means over its embedding
(`transforms.quantization`), and code_dedup, its rank by track_id among the items with the same
codes: so no two items share all digits. 3 levels of 256 codes and the de-duplication digit are the
layout of GRID (github.com/snap-research/GRID); -1 stands for an item without codes.

Leakage. Embeddings know what went into them. A version carries `trained_until_us`: all of it lies
before that instant. A dataset whose training rows end earlier must not use the version
(`check_border`).

Files of a version (kind "semantic_ids"):

    codes.parquet      track_id String, code_0.. Int64, code_dedup Int64; sorted by track_id
    codebooks.parquet  level Int64, code Int64, centroid List(Float64), size Int64 (items with it);
                       sorted by (level, code)
    quality.json       `LevelQuality` of each level

The same items give the same bytes, in any order of rows and files.

Making one takes one machine. Ids and codes are held whole, about 350 bytes an item; vectors only in
tables and as the sample that is fitted. Measured on 2 cores: 3 M items of 16 dimensions in 35 s and
1.3 GB. 100 M items take some 35 GB.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms import files, manifest, quantization
from transforms.counts import Counts
from transforms.embeddings import Embeddings
from transforms.errors import DataRefusedError, UsageError
from transforms.hashing import hash64
from transforms.manifest import ColumnEntry, FileEntry
from transforms.quantization import FloatArray, Grid, IntArray

KIND = "semantic_ids"
CODES_ROLE = "codes"
CODEBOOKS_ROLE = "codebooks"
QUALITY_ROLE = "quality"
ITEM = "track_id"
DEDUP = "code_dedup"
MISSING = -1

# As faiss (ClusteringParameters.max_points_per_centroid). Twice as many take twice the time and
# left 0.190 instead of 0.193 of the variance (300,000 vectors, 3 x 256 codes).
FIT_ITEMS_PER_CODE = 256

_DIGITS_SHOWN = 6
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


@dataclasses.dataclass(frozen=True)
class SemanticIdsConfig:
    """What to make: number of levels, codes of a level, and the seed of the fit."""

    levels: int
    codebook_size: int
    seed: int


@dataclasses.dataclass(frozen=True)
class LevelQuality:
    """How well one level uses its codes, over all items.

    Attributes:
      level: number of the level.
      used, dead: codes with and without items.
      entropy_bits: -sum p log2 p over the shares p of the codes; log2(codebook size) at most.
      perplexity: 2^entropy_bits: as many equally used codes would have that entropy.
      top_share: share of the most used code.
      reconstruction_error: mean squared residual after this level over the variance of the
        vectors; 1 is what their mean alone would leave.
    """

    level: int
    used: int
    dead: int
    entropy_bits: float
    perplexity: float
    top_share: float
    reconstruction_error: float


@dataclasses.dataclass(frozen=True)
class SemanticIds:
    """A published version, read and verified.

    Attributes:
      version, digest: name of the version and digest of its manifest.
      trained_until_us: the embeddings know of nothing at or after this instant.
      levels, codebook_size: see the module docstring.
      codes: track_id, code_0.., code_dedup; sorted by track_id.
    """

    version: str
    digest: str
    trained_until_us: int
    levels: int
    codebook_size: int
    codes: pl.DataFrame


def code_columns(levels: int) -> list[str]:
    """code_0 .. code_{levels-1}."""
    return [f"code_{level}" for level in range(levels)]


def columns(levels: int) -> tuple[ColumnEntry, ...]:
    """The columns of codes.parquet."""
    return (
        ColumnEntry(
            name=ITEM, type="string", nullable=False, description="item", identifier=True
        ),
        *(
            ColumnEntry(
                name=name,
                type="int64",
                nullable=False,
                description=f"code of level {level}; the nearest centroid of codebooks.parquet",
            )
            for level, name in enumerate(code_columns(levels))
        ),
        ColumnEntry(
            name=DEDUP,
            type="int64",
            nullable=False,
            description="rank by track_id among the items with the same codes, from 0",
        ),
    )  # fmt: skip


def parse_instant(text: str) -> int:
    """Microseconds since 1970 of a UTC day (its first instant) or an ISO time with its zone.

    Raises:
      ValueError: saying what was expected.
    """
    is_day = re.fullmatch(r"\d{4}-\d\d-\d\d", text)
    try:
        instant = datetime.datetime.fromisoformat(f"{text}T00:00:00Z" if is_day else text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise ValueError(
            "expected a UTC day as YYYY-MM-DD or a time with its zone as 2026-01-10T06:00:00Z, "
            f"got {text!r}"
        )
    return (instant - _EPOCH) // _MICROSECOND


def instant_text(instant_us: int) -> str:
    """ISO text of an instant, as `parse_instant` takes it."""
    return (_EPOCH + instant_us * _MICROSECOND).isoformat().replace("+00:00", "Z")


# --- making a version -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What `quantize` makes: the tables of the module docstring, the quality, and counts."""

    codes: pl.DataFrame
    codebooks: pl.DataFrame
    quality: tuple[LevelQuality, ...]
    counts: Counts


def quantize(embeddings: Embeddings, config: SemanticIdsConfig) -> Quantized:
    """Fits codebooks on a sample of the items, then gives all of them their digits.

    The sample are the codebook_size x FIT_ITEMS_PER_CODE items with the lowest keyed hash of their
    id, or all if there are no more.

    Raises:
      InputFileError, DataRefusedError: from `Embeddings.batches`.
      DataRefusedError: two rows with one id; vectors that are all equal.
    """
    ids, largest = _scan(embeddings)
    grid = Grid.of(largest, embeddings.dimensions, config.levels)
    sample = _sample(embeddings, grid, ids, config)
    codebooks = quantization.fit(sample, config.levels, config.codebook_size, config.seed)

    codes, errors = _encode(embeddings, grid, codebooks)
    table = codes_table(ids, codes)
    sizes = [
        np.bincount(table[name].to_numpy(), minlength=config.codebook_size)
        for name in code_columns(config.levels)
    ]
    quality = tuple(
        level_quality(level, sizes[level], errors[level]) for level in range(config.levels)
    )
    counts = {
        "items": table.height,
        "fitted_items": len(sample),
        "collisions": int((table[DEDUP] > 0).sum()),
        "largest_group": int(table[DEDUP].to_numpy().max()) + 1,
        "levels": {
            str(level.level): {"used_codes": level.used, "dead_codes": level.dead}
            for level in quality
        },
    }
    return Quantized(table, _codebooks_table(codebooks, sizes, grid), quality, counts)


def _scan(embeddings: Embeddings) -> tuple[pl.Series, float]:
    """All ids in the order of the files, and the largest absolute coordinate."""
    parts, largest = [], 0.0
    for ids, vectors in embeddings.batches():
        parts.append(ids)
        largest = max(largest, float(np.abs(vectors).max()))
    ids = pl.concat(parts).alias(ITEM)
    repeated = ids.filter(ids.is_duplicated())
    if len(repeated):
        raise DataRefusedError(
            f"{embeddings.id_column}: {repeated.n_unique()} ids stand in more than one row, such "
            f"as {repeated.min()!r}; expected one row an item"
        )
    if not largest:
        raise DataRefusedError("all vectors are zero; expected embeddings")
    return ids, largest


def _sample(
    embeddings: Embeddings, grid: Grid, ids: pl.Series, config: SemanticIdsConfig
) -> FloatArray:
    """Vectors of the items that are fitted, on the grid, by id."""
    hashes = ids.to_frame().select(hash64(pl.col(ITEM), "semantic-ids/fit", config.seed))
    keys = hashes.to_series().to_numpy()
    wanted = min(len(keys), config.codebook_size * FIT_ITEMS_PER_CODE)
    highest = np.partition(keys, wanted - 1)[wanted - 1]
    chosen, vectors, start = keys <= highest, [], 0
    for batch_ids, batch in embeddings.batches():
        vectors.append(batch[chosen[start : start + len(batch_ids)]])
        start += len(batch_ids)
    order = ids.filter(chosen).arg_sort()
    laid: FloatArray = grid.lay(np.concatenate(vectors)[order.to_numpy()])
    return laid


def _encode(
    embeddings: Embeddings, grid: Grid, codebooks: list[FloatArray]
) -> tuple[npt.NDArray[np.int32], list[float]]:
    """Codes of all items in the order of the files; the reconstruction error of each level."""
    codes = np.empty((embeddings.items, len(codebooks)), dtype=np.int32)
    start = 0
    # Python's integers: the sums of many batches may pass 63 bits.
    left = [0] * len(codebooks)
    squares, sums = 0, [0] * embeddings.dimensions
    for _, vectors in embeddings.batches():
        laid = grid.lay(vectors)
        found, errors = quantization.encode(laid, codebooks)
        codes[start : start + len(found)] = found
        start += len(found)
        left = [total + sum(each.tolist()) for total, each in zip(left, errors.T, strict=True)]
        squares += sum(quantization.squared_norms(laid).tolist())
        sums = [total + int(each) for total, each in zip(sums, laid.sum(axis=0), strict=True)]
    # Of all items together and times their number, which keeps it whole.
    variance = start * squares - sum(each * each for each in sums)
    if not variance:
        raise DataRefusedError("all vectors are equal; expected embeddings that tell items apart")
    return codes, [start * each / variance for each in left]


def codes_table(ids: pl.Series, codes: npt.NDArray[Any]) -> pl.DataFrame:
    """codes.parquet of the items `ids` (distinct, any order) with a row of `codes` each."""
    names = code_columns(codes.shape[1])
    digits = {name: codes[:, level] for level, name in enumerate(names)}
    return (
        pl.DataFrame({ITEM: ids, **digits})
        .with_columns(pl.col(names).cast(pl.Int64))
        .sort(ITEM)
        .with_columns(pl.int_range(pl.len(), dtype=pl.Int64).over(names).alias(DEDUP))
    )


def _codebooks_table(
    codebooks: list[FloatArray], sizes: list[IntArray], grid: Grid
) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame(
            {
                "level": np.full(len(centroids), level),
                "code": np.arange(len(centroids)),
                "centroid": pl.Series(grid.lift(centroids)).cast(pl.List(pl.Float64)),
                "size": size,
            }
        )
        for level, (centroids, size) in enumerate(zip(codebooks, sizes, strict=True))
    )


def level_quality(level: int, sizes: IntArray, reconstruction_error: float) -> LevelQuality:
    """The quality of a level from the number of items of each code, zeros included."""
    used = sizes[sizes > 0]
    shares = used / used.sum()
    # abs: one code of all items has entropy 0, not -0.
    entropy = abs(float(-(shares * np.log2(shares)).sum()))
    return LevelQuality(
        level=level,
        used=len(used),
        dead=len(sizes) - len(used),
        entropy_bits=round(entropy, _DIGITS_SHOWN),
        perplexity=round(2.0**entropy, _DIGITS_SHOWN),
        top_share=round(float(shares.max()), _DIGITS_SHOWN),
        reconstruction_error=round(reconstruction_error, _DIGITS_SHOWN),
    )


def write(made: Quantized, attempt_root: str) -> list[FileEntry]:
    """Writes the files of a version; same tables, same bytes."""
    quality = {"levels": [dataclasses.asdict(level) for level in made.quality]}
    text = json.dumps(quality, indent=1, sort_keys=True) + "\n"
    return [
        files.write_table(made.codes, attempt_root, "codes.parquet", CODES_ROLE),
        files.write_table(made.codebooks, attempt_root, "codebooks.parquet", CODEBOOKS_ROLE),
        files.write_bytes(text.encode(), attempt_root, "quality.json", QUALITY_ROLE),
    ]


# --- reading a version ----------------------------------------------------------------------------


def load(path: str) -> SemanticIds:
    """The version at `path`: a folder of versions, whose current one is taken, or one of them.

    Raises:
      UsageError: if there is no version, or one of something else.
      DataRefusedError: if its manifest or its codes are not those that were published.
    """
    expected = "semantic IDs, as `playhead semantic-ids` writes them"
    root, found = manifest.resolve(path, expected)
    if found.kind != KIND:
        raise UsageError(f"{path}: is a version of kind {found.kind}; expected {expected}")
    (entry,) = found.files_of(CODES_ROLE)
    data = manifest.read_verified(manifest.file_path(root, found, entry), entry)
    return SemanticIds(
        version=found.version,
        digest=found.digest(),
        trained_until_us=found.config["trained_until_us"],
        levels=found.config["levels"],
        codebook_size=found.config["codebook_size"],
        codes=pl.read_parquet(io.BytesIO(data)),
    )


def check_border(ids: SemanticIds, border_us: int, field: str = "--semantic-ids") -> None:
    """Refuses IDs that know more than training rows may: all of these lie before `border_us`.

    Raises:
      UsageError: naming `field`, if the embeddings were trained on data until after the border.
    """
    if ids.trained_until_us > border_us:
        raise UsageError(
            f"{field}: {ids.version} was fitted on data until {instant_text(ids.trained_until_us)},"
            f" but train ends at {instant_text(border_us)}; use a version fitted on no later data"
        )


def join_codes(track_ids: pl.Series, ids: SemanticIds) -> pl.DataFrame:
    """Digits of tracks, row for row.

    Args:
      track_ids: String, or List(String); nulls allowed.
      ids: of `load`.

    Returns:
      sid_0 .. sid_{levels-1}, sid_dedup: Int64 or List(Int64) as `track_ids`. A track without codes
      and a null track have MISSING in all of them; a null list stays null.
    """
    in_lists = isinstance(track_ids.dtype, pl.List)
    flat = track_ids.explode() if in_lists else track_ids
    # The look-up table is made of the tracks that occur: a bucket has few of a large catalog.
    occurring = flat.unique().alias(ITEM).to_frame()
    found = ids.codes.join(occurring, on=ITEM, how="semi")
    digits = {}
    for name in [*code_columns(ids.levels), DEDUP]:
        code = pl.element() if in_lists else pl.lit(track_ids)
        code = code.replace_strict(found[ITEM], found[name], default=MISSING, return_dtype=pl.Int64)
        column = track_ids.list.eval(code) if in_lists else pl.select(code).to_series()
        digits[name.replace("code_", "sid_")] = column
    return pl.DataFrame(digits)
