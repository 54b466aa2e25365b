"""Keyed pseudonyms for user ids.

`pseudonym = base32(HMAC-SHA-256(key, "playhead/user/" + user id))`, 26 characters (130 bits),
prefixed `p-`. Without the key a pseudonym cannot be recomputed from a guessed id. The key itself is
never an option: an option names where it is kept (`env:NAME` or `file:/path`), and each worker
reads it there. Manifests hold the key's id, a hash of it under another domain.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import pathlib
import re

import polars as pl

from transforms.errors import UsageError

_USER_DOMAIN = b"playhead/user/"
_KEY_ID_DOMAIN = b"playhead/key-id/"
MIN_KEY_BYTES = 32
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


def read_key(reference: str) -> bytes:
    """The key that `reference` names.

    Args:
      reference: `env:NAME` (an environment variable) or `file:/path` (a file; trailing white space
        does not count). Workers on other machines need the same variable or file.

    Raises:
      UsageError: no such reference, or a key shorter than 32 bytes. The message never holds what
        was given if it could be the key itself.
    """
    kind, _, name = reference.partition(":")
    if kind == "env" and _VARIABLE.fullmatch(name):
        value = os.environ.get(name)
        if value is None:
            raise UsageError(f"--user-key: the environment variable {name} is not set")
        key = value.encode()
    elif kind == "file" and name.startswith("/"):
        try:
            key = pathlib.Path(name).read_bytes().strip()
        except OSError as error:
            raise UsageError(f"--user-key: cannot read {name}: {error.strerror}") from None
    else:
        raise UsageError(
            "--user-key: expected a reference, env:NAME or file:/path, never the key itself"
        )
    if len(key) < MIN_KEY_BYTES:
        raise UsageError(
            f"--user-key: expected a key of at least {MIN_KEY_BYTES} bytes, got {len(key)}; "
            "make one with `openssl rand -hex 32`"
        )
    return key


def key_id(key: bytes) -> str:
    """Names a key in manifests without revealing it."""
    return hmac.new(key, _KEY_ID_DOMAIN, hashlib.sha256).hexdigest()[:16]


def pseudonym(key: bytes, user_id: str) -> str:
    """The pseudonym of one user id."""
    digest = hmac.new(key, _USER_DOMAIN + user_id.encode(), hashlib.sha256).digest()
    return "p-" + base64.b32encode(digest).decode().lower()[:26]


def pseudonymize(table: pl.DataFrame, key: bytes) -> pl.DataFrame:
    """Replaces `user_id` by its pseudonym; null stays null."""
    users = table["user_id"].unique().drop_nulls()
    mapped = pl.Series([pseudonym(key, user) for user in users.to_list()], dtype=pl.String)
    return table.with_columns(
        pl.col("user_id").replace_strict(users, mapped, default=None, return_dtype=pl.String)
    )
