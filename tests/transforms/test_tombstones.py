"""Tombstones: who is forgotten and until when, whatever the order and number of requests."""

from __future__ import annotations

import datetime
import json
import pathlib
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import buckets, tombstones
from transforms.errors import DataRefusedError, UsageError
from transforms.tombstones import Forgotten, Request

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
hashes = st.integers(0, (1 << 64) - 1)
users_until = st.dictionaries(st.sampled_from([0, 1, 7, 1 << 63, (1 << 64) - 1]), st.integers(0, 9))


def request(until_us: int, *users: int, recorded_at: str = "then") -> Request:
    named = tuple(sorted(map(tombstones.hash_text, users)))
    return Request(forgotten_at_us=until_us, recorded_at=recorded_at, users=named)


@given(
    until=users_until, rows=st.lists(st.tuples(st.sampled_from([0, 1, 2, 7]), st.integers(0, 9)))
)
def test_flags_are_those_of_the_definition(
    until: dict[int, int], rows: list[tuple[int, int]]
) -> None:
    """Received up to and including the instant."""
    table = pl.DataFrame(
        {"user_hash": [u for u, _ in rows], "received_time": [t for _, t in rows]},
        schema={"user_hash": pl.UInt64, "received_time": pl.Datetime("us", "UTC")},
    )
    wanted = [user in until and time <= until[user] for user, time in rows]
    assert Forgotten(until).flags(table).to_list() == wanted


@given(st.lists(users_until))
def test_latest_instant_counts(parts: list[dict[int, int]]) -> None:
    found = tombstones.union(map(Forgotten, parts)).until_us
    assert dict(found) == {
        user: max(part[user] for part in parts if user in part)
        for user in {user for part in parts for user in part}
    }


@given(st.dictionaries(hashes, st.integers(0, 9)), st.sampled_from([1, 4, 64]))
def test_users_are_in_their_bucket(until: dict[int, int], count: int) -> None:
    found = Forgotten(until).by_bucket(count)
    assert tombstones.union(found.values()).until_us == until
    for bucket, inside in found.items():
        assert all(user * count >> 64 == bucket for user in inside.until_us)


@given(users_until, st.integers(0, 9), st.integers(0, 9))
def test_what_matters_to_a_day(until: dict[int, int], first: int, last: int) -> None:
    """Events received within the day are told apart as before, and later wishes look the same."""
    found = Forgotten(until).touching(first, last)
    for user, received in ((u, t) for u in until for t in range(first, last + 1)):
        assert (received <= until[user]) == (received <= found.until_us.get(user, -1))
    later = Forgotten({user: time + 10 for user, time in until.items()})
    assert later.touching(first, last) == later.touching(first, min(last, 9))


def test_hash_is_that_of_the_store() -> None:
    ids = ["u1", "ü", "p-x"]
    table = pl.DataFrame({"user_id": ids}).select(buckets.user_hash(pl.col("user_id"), 3))
    assert tombstones.hashes_of([*ids, "u1"], 3) == dict(
        zip(table["user_hash"].to_list(), ids, strict=True)
    )


def test_requests_are_written_once(tmp_path: pathlib.Path) -> None:
    store = str(tmp_path)
    first, later = request(5, 1, 2), request(7, 2)
    assert tombstones.names(store) == ()
    assert tombstones.record(store, first)
    assert not tombstones.record(store, request(5, 1, 2, recorded_at="another day"))
    assert tombstones.record(store, later)
    assert tombstones.names(store) == (first.name, later.name)
    assert tombstones.all_of(store).until_us == {1: 5, 2: 7}
    assert tombstones.pending(store) == [first, later]
    tombstones.mark_done(store, first, "now")
    assert tombstones.pending(store) == [later]
    assert tombstones.names(store) == (first.name, later.name)


@pytest.mark.parametrize(
    "change",
    [
        {"forgotten_at_us": 4},
        {"users": ["0000000000000003"]},
        {"users": ["p-abc"]},
        {"users": []},
        {"users": ["0000000000000002", "0000000000000001"]},
        {"more": 1},
    ],
)
def test_tampered_tombstone_is_refused(tmp_path: pathlib.Path, change: dict[str, object]) -> None:
    store = str(tmp_path)
    tombstones.record(store, request(5, 1))
    (path,) = (tmp_path / "tombstones").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataRefusedError, match=path.name):
        tombstones.all_of(store)


def test_lock_of_a_dead_process_does_not_count(tmp_path: pathlib.Path) -> None:
    store = str(tmp_path)
    dead = (
        "from transforms import tombstones; import os\n"
        f"held = tombstones.lock({store!r}, 'then', False); held.__enter__(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", dead], check=True, timeout=60)
    lock = tmp_path / "tombstones" / "lock.json"
    assert lock.exists()
    with tombstones.lock(store, "now", take_over=False):
        assert json.loads(lock.read_text())["started_at"] == "now"
    assert not lock.exists()


def test_lock_of_another_machine_counts(tmp_path: pathlib.Path) -> None:
    lock = tmp_path / "tombstones" / "lock.json"
    lock.parent.mkdir()
    lock.write_text(json.dumps({"host": "other", "pid": 1, "started_at": "2026-01-05T00:00:00"}))
    with pytest.raises(UsageError, match="--take-over"):  # noqa: SIM117  (nothing is entered)
        with tombstones.lock(str(tmp_path), "now", take_over=False):
            pass
    with tombstones.lock(str(tmp_path), "now", take_over=True):
        pass
    assert not lock.exists()
