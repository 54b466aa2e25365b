"""User buckets: which users are handled together.

A user belongs to one of 2^k buckets by the top k bits of a keyed hash of the user id: contiguous
ranges of buckets are contiguous ranges of hashes, and doubling the count splits each bucket in two.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms import hashing

USER_HASH = "user_hash"
MAX_BUCKETS = 1 << 16


def check_bucket_count(count: int) -> int:
    """Returns `count` if it is a power of two from 1 to MAX_BUCKETS, else raises ValueError."""
    if not 1 <= count <= MAX_BUCKETS or count & (count - 1):
        raise ValueError(f"expected a power of two from 1 to {MAX_BUCKETS}, got {count}")
    return count


def user_hash(user_id: pl.Expr, seed: int) -> pl.Expr:
    """UInt64 hash that orders and buckets users."""
    return hashing.hash64(user_id, "user", seed).alias(USER_HASH)


def bucket_of(hashes: npt.NDArray[np.uint64], bucket_count: int) -> npt.NDArray[np.int64]:
    """Bucket (int64) of each user hash (uint64): its top bits."""
    bits = bucket_count.bit_length() - 1
    if bits == 0:
        return np.zeros(len(hashes), dtype=np.int64)
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def split_by_bucket(table: pl.DataFrame, bucket_count: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """(bucket, rows of that bucket) for every bucket that has rows, in bucket order.

    Args:
      table: has USER_HASH (UInt64). Rows of a bucket keep their order.
    """
    if table.is_empty():
        return
    bucket = bucket_of(table[USER_HASH].to_numpy(), bucket_count)
    order = np.argsort(bucket, kind="stable")
    ends = np.cumsum(np.bincount(bucket, minlength=bucket_count))
    grouped = table[order]
    start = 0
    for index, end in enumerate(ends.tolist()):
        if end > start:
            yield index, grouped.slice(start, end - start)
        start = end
