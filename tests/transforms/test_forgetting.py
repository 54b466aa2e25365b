"""A bucket without some users is what ingest makes of their absence; what a scan finds."""

from __future__ import annotations

import datetime
import hashlib
import pathlib
import tempfile

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import jobs
from transforms import absence, buckets, forgetting, ingestion, manifest, store, tombstones
from transforms import counts as row_counts
from transforms.adapters.base import EVENT_COLUMNS
from transforms.forgetting import Job, Piece, Rewriting
from transforms.ingestion import BucketConfig
from transforms.store import StoreConfig
from transforms.tombstones import Forgotten

RULES = BucketConfig(max_user_events_per_day=4, near_duplicate_ms=60_000)
USERS = ["u1", "u2", "u3"]
HASHES = {text: user for user, text in tombstones.hashes_of(USERS, 0).items()}
moments = st.integers(0, 90)
events = st.lists(
    st.tuples(st.sampled_from(USERS), moments, st.integers(0, 30), st.sampled_from(["a", "b"])),
    min_size=1,
    max_size=24,
)


def table_of(drawn: list[tuple[str, int, int, str]]) -> pl.DataFrame:
    """Plays of few tracks close together: near duplicates and users above the cap are common."""
    rows = [
        jobs.event(
            event_id=f"e{number}",
            user_id=user,
            track_id=f"t{at % 2}",
            client_id=client,
            event_time=jobs.NOON + datetime.timedelta(seconds=20 * at),
            received_time=jobs.NOON + datetime.timedelta(seconds=20 * (at + delay)),
        )
        for number, (user, at, delay, client) in enumerate(drawn)
    ]
    table = jobs.table(rows)
    return table.select(*EVENT_COLUMNS, buckets.user_hash(pl.col("user_id"), 0))


def noon_us(at: int) -> int:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (jobs.NOON - epoch) // datetime.timedelta(microseconds=1) + 20_000_000 * at


@settings(max_examples=60, deadline=None)
@given(events, st.dictionaries(st.sampled_from(USERS), moments, min_size=1))
def test_bucket_without_users_is_that_of_the_log_without_them(
    drawn: list[tuple[str, int, int, str]], until: dict[str, int]
) -> None:
    """Bytes, counts; also of users who were above the cap, or whose play was a near duplicate of
    one that is gone."""
    table = table_of(drawn)
    forgotten = Forgotten({HASHES[user]: noon_us(at) for user, at in until.items()})
    rest = [
        each for each in drawn if not (each[0] in until and each[1] + each[2] <= until[each[0]])
    ]
    kept_ids = [f"e{n}" for n, each in enumerate(drawn) if each in rest]
    wanted = ingestion.store_bucket(table.filter(pl.col("event_id").is_in(kept_ids)), RULES)
    stored = ingestion.store_bucket(table, RULES)
    with tempfile.TemporaryDirectory() as root:
        before = ingestion.write_bucket(stored, 0, f"{root}/v-1/attempt-1")
        piece = Piece(
            of=Rewriting(root, "v-1", "", "v-2", "attempt-2", "r"),
            files=tuple((f"{root}/v-1/attempt-1/{entry.path}", entry) for entry in before),
            users=forgotten,
            seed=0,
            bucket_count=1,
            rules=RULES,
            columns=(),
        )
        part = forgetting.rewrite(piece)
        if len(rest) == len(drawn):
            assert part is None
            assert not (pathlib.Path(root) / "v-2").exists()
            return
        assert part is not None
        assert part["rows"] == len(drawn) - len(kept_ids)
        after = ingestion.write_bucket(wanted, 0, f"{root}/wanted/attempt")
        assert part["new"] == [entry.model_dump() for entry in after]
        total = row_counts.add(
            ingestion.count_stored(stored.kept, stored.set_aside), part["counts"]
        )
        again = ingestion.count_stored(wanted.kept, wanted.set_aside)
        assert row_counts.difference(total, again) == row_counts.difference(total, total)


# --- the scan finds what is left ------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: pathlib.Path) -> tuple[Job, dict[int, str]]:
    """A store of two listeners with long ids, and the job that was to forget one of them."""
    log = [
        jobs.event(event_id=f"e{n}", user_id=f"listener-{n % 2}", context_uri=f"mix:{n}")
        for n in range(6)
    ]
    jobs.ingest(jobs.write(tmp_path / "a.parquet", log), tmp_path / "store", "--buckets", 1)
    ids = tombstones.hashes_of(["listener-1"], 0)
    users = Forgotten(dict.fromkeys(ids, 1 << 60))
    config = StoreConfig(bucket_count=1)
    return Job(str(tmp_path / "store"), config, users, "attempt-1", "r"), ids


def rewrite_file(job: Job, table: pl.DataFrame) -> None:
    """Puts another table in place of the partition's one file of events."""
    root = store.partition_root(job.store, jobs.DAY)
    found = manifest.require_current(root, "a partition")
    (entry,) = found.files_of("events")
    path = pathlib.Path(manifest.file_path(root, found, entry))
    table.write_parquet(path)
    content = path.read_bytes()
    digest = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    others = [each for each in found.files if each is not entry]
    changed = found.model_copy(update={"files": (*others, entry.model_copy(update=digest))})
    (pathlib.Path(root) / found.version / manifest.MANIFEST_NAME).write_bytes(changed.to_json())
    manifest.point_to(root, changed)


def test_scan_finds_rows(published: tuple[Job, dict[int, str]]) -> None:
    job, ids = published
    found = absence.scan(job, ids, [], everything=False)
    (hit,) = found.hits
    assert hit.endswith("bucket-00000.parquet: 3 rows")


@pytest.mark.parametrize("column", ["user_id", "context_uri", "request_id"])
def test_scan_finds_an_id_in_rows_of_others(
    published: tuple[Job, dict[int, str]], column: str
) -> None:
    """A row whose hash is not the user's but that holds the id in some text."""
    job, ids = published
    table = jobs.stored(job.store).filter(user_id="listener-0")
    rewrite_file(job, table)
    assert absence.scan(job, ids, [], everything=True).hits == []
    rewrite_file(job, table.with_columns(pl.lit("listener-1").alias(column)))
    (hit,) = absence.scan(job, ids, [], everything=False).hits
    assert hit.endswith("3 values")


def test_scan_of_everything_finds_what_no_manifest_lists(
    published: tuple[Job, dict[int, str]],
) -> None:
    job, ids = published
    table = jobs.stored(job.store)
    rewrite_file(job, table.filter(user_id="listener-0"))
    folder = pathlib.Path(job.store) / "events" / "left"
    folder.mkdir()
    table.write_parquet(folder / "a.parquet")
    (folder / "log.txt").write_text("of listener-1, at noon")
    (folder / "b.parquet").write_bytes(b"PAR1")
    (folder / "spilled.arrow").write_bytes(b"")
    assert absence.scan(job, ids, [], everything=False).hits == []
    found = absence.scan(job, ids, [], everything=True)
    assert sorted(hit.rsplit("/", 1)[1] for hit in found.hits) == [
        "a.parquet: 3 values", "log.txt: 1 places",
    ]  # fmt: skip
    assert sorted(path.rsplit("/", 1)[1] for path in found.unread) == [
        "b.parquet", "spilled.arrow",
    ]  # fmt: skip
