"""Keyed stable hashes: the only source of anything that looks random in a dataset.

xxHash (polars-hash) of UTF-8 text, keyed by a purpose. A value depends on the text, the purpose and
the seed alone: not on the process, the platform, PYTHONHASHSEED, or the number of workers.
Published ids and row orders depend on these functions, so changing one is a new major version.
"""

from __future__ import annotations

import hashlib

import polars as pl
import polars_hash  # noqa: F401  (registers the `nchash` expression namespace)

# Between the parts of a hashed key; cannot occur in ids that come from UTF-8 text lines.
_SEPARATOR = "\x1f"
_NULL = "\x00"


def key_of(purpose: str, seed: int = 0) -> int:
    """A 63-bit key for one purpose, so that two uses of one id never share a hash stream."""
    digest = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def hash64(text: pl.Expr, purpose: str, seed: int = 0) -> pl.Expr:
    """UInt64 hash (xxHash64) of a String expression; null stays null."""
    hashed: pl.Expr = text.nchash.xxhash64(seed=key_of(purpose, seed))  # type: ignore[attr-defined]
    return hashed


def hash_text(text: str, purpose: str, seed: int = 0) -> int:
    """`hash64` of a single text; same value."""
    return int(pl.select(hash64(pl.lit(text), purpose, seed)).item())


def content_id(parts: list[pl.Expr], purpose: str) -> pl.Expr:
    """A String id from the content of several columns (128-bit xxh3, in decimal).

    Nulls take part as a value of their own, so the id is never null and differs between a null and
    an empty text.
    """
    texts = [part.cast(pl.String).fill_null(_NULL) for part in parts]
    joined = pl.concat_str(texts, separator=_SEPARATOR)
    hashed: pl.Expr = joined.nchash.xxh3_128(seed=key_of(purpose))  # type: ignore[attr-defined]
    return hashed.cast(pl.String)
