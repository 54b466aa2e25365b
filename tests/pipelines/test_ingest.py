"""The whole ingest job: nothing lost in silence, nothing published by half, the same bytes."""

from __future__ import annotations

import datetime
import functools
import gzip
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import fastavro
import polars as pl
import pytest
import zstandard

from pipelines import ingest
from schemas import LISTENING_EVENT, forms
from tests import jobs, retrying
from transforms import buckets, ingestion, manifest
from transforms.events import STORE_SCHEMA
from transforms.store import ITEM_DAY_SCHEMA, QUARANTINE_SCHEMA

NEXT_DAY = jobs.DAY + datetime.timedelta(days=1)
LATER = jobs.DAY + datetime.timedelta(days=30)
LONG_AGO = jobs.NOON - datetime.timedelta(days=400)


def day_of(simulated: pathlib.Path) -> pathlib.Path:
    return simulated / f"received={jobs.DAY}"


def accounted(published: manifest.Manifest) -> int:
    counts = published.counts
    return sum(
        [
            counts.get("kept", 0),
            counts.get("duplicate", 0),
            counts.get("other_day", 0),
            *counts.get("quarantined", {}).values(),
            *counts.get("set_aside", {}).values(),
            *counts.get("excluded", {}).values(),
        ]
    )


# --- what is published ----------------------------------------------------------------------------


def test_every_number_of_the_manifest_can_be_recounted(
    simulated: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store = tmp_path / "store"
    published = jobs.ingest(day_of(simulated) / "*", store, "--buckets", 8)
    raw = pl.concat(pl.read_parquet(path) for path in day_of(simulated).glob("*"))
    events = jobs.stored(store)
    assert published.counts["read"] == raw.height == accounted(published)
    assert published.counts["kept"] == events.height
    assert published.counts["files"] == 2
    assert published.counts["near_duplicate"] == events["near_duplicate"].sum()
    assert events.select("user_id", "event_id").is_duplicated().sum() == 0
    assert set(events["event_id"]) == set(raw["event_id"])
    by_type = dict(events.group_by("event_type").len().iter_rows())
    assert published.counts["by_source"] == {"canonical": by_type}
    assert dict(events.schema) == STORE_SCHEMA
    assert [column.name for column in published.columns] == list(STORE_SCHEMA)
    items = jobs.stored(store, role="item_day")
    assert dict(items.schema) == ITEM_DAY_SCHEMA
    plays = events.filter((pl.col("event_type") == "play") & ~pl.col("near_duplicate"))
    assert items["plays"].sum() == plays.height
    assert items["streams"].sum() == (plays["played_ms"] >= 30_000).sum()


def test_each_bucket_is_sorted_and_holds_its_users_only(simulated_store: pathlib.Path) -> None:
    published = jobs.partition(simulated_store)
    entries = published.files_of("events")
    assert [entry.first_bucket for entry in entries] == [0, 1, 2, 3]
    for entry in entries:
        path = manifest.file_path(str(jobs.partition_root(simulated_store)), published, entry)
        table = pl.read_parquet(path)
        key = ["user_hash", "event_time", "event_id"]
        assert table.select(key).equals(table.select(key).sort(key))
        assert set(buckets.bucket_of(table["user_hash"].to_numpy(), 4)) == {entry.first_bucket}
        hashed = table.select(buckets.user_hash(pl.col("user_id"), 0)).to_series()
        assert hashed.equals(table["user_hash"])


def test_quarantine_says_what_and_where_and_holds_nothing_personal(tmp_path: pathlib.Path) -> None:
    good = jobs.plays(300)
    bad = [
        jobs.event(user_id="secret@example.org", event_id="b1", played_ms=-5),
        jobs.event(user_id=None, event_id="b2"),
        jobs.event(user_id="secret@example.org", event_id="b3", event_type="dance"),
        jobs.event(user_id="x" * 2000, event_id="b4"),
        jobs.event(user_id="secret", event_id="b5", event_time=LONG_AGO, received_time=jobs.NOON),
        jobs.event(user_id="secret", event_id="b6", track_id="", event_time=None,
                   received_time=jobs.NOON),
    ]  # fmt: skip
    first = jobs.write(tmp_path / "raw" / "a.parquet", good[:100] + bad[:3] + good[100:])
    second = jobs.write(tmp_path / "raw" / "b.parquet", bad[3:])
    published = jobs.ingest(tmp_path / "raw" / "*", tmp_path / "store", "--max-quarantine", 0.05)
    rows = jobs.stored(tmp_path / "store", role="quarantine")
    assert dict(rows.schema) == QUARANTINE_SCHEMA
    assert sorted(rows.rows()) == sorted(
        [
            ("negative_played_ms", str(first), 100),
            ("missing_user_id", str(first), 101),
            ("unknown_event_type", str(first), 102),
            ("user_id_too_long", str(second), 0),
            ("event_time_too_old", str(second), 1),
            ("missing_event_time", str(second), 2),
        ]
    )
    assert sum(published.counts["quarantined"].values()) == 6
    assert accounted(published) == published.counts["read"] == 306


def test_an_empty_file_among_others_is_fine(tmp_path: pathlib.Path) -> None:
    jobs.write(tmp_path / "raw" / "a.parquet", [])
    jobs.write(tmp_path / "raw" / "b.parquet", jobs.plays(20))
    published = jobs.ingest(tmp_path / "raw" / "*", tmp_path / "store")
    assert (published.status, published.counts["kept"], published.counts["files"]) == ("OK", 20, 2)


def test_an_empty_day_is_published_as_empty_with_a_warning(tmp_path: pathlib.Path) -> None:
    raw = jobs.write(tmp_path / "raw" / "a.parquet", [])
    ended = jobs.ok(*jobs.ingest_argv(raw, tmp_path / "store"))
    assert "warning" in ended.err
    assert "EMPTY" in ended.err
    published = jobs.partition(tmp_path / "store")
    assert published.status == "EMPTY"
    assert published.files_of("events") == []
    assert "no events" in jobs.ok("inspect", tmp_path / "store").out


def test_a_missing_day_is_not_an_empty_day(tmp_path: pathlib.Path) -> None:
    ended = jobs.call(*jobs.ingest_argv(tmp_path / "raw" / "*", tmp_path / "store"))
    assert ended.code == 2
    assert "no file matches" in ended.err
    assert not (tmp_path / "store").exists()


def test_duplicates_within_and_across_files_are_one_event(tmp_path: pathlib.Path) -> None:
    events = jobs.plays(60)
    later = [
        {**event, "received_time": event["received_time"] + datetime.timedelta(seconds=9)}
        for event in events[:30]
    ]
    jobs.write(tmp_path / "raw" / "a.parquet", later + events[:10])
    jobs.write(tmp_path / "raw" / "b.parquet", events + events[5:15])
    published = jobs.ingest(tmp_path / "raw" / "*", tmp_path / "store")
    assert published.counts["kept"] == 60
    assert published.counts["duplicate"] == 50
    assert published.counts["conflicting_duplicate"] == 0
    kept = jobs.stored(tmp_path / "store")
    assert (kept["received_time"] == kept["event_time"]).all()  # the earliest arrival wins


def test_one_id_with_two_contents_is_one_event_and_counted(tmp_path: pathlib.Path) -> None:
    events = [*jobs.plays(30), {**jobs.plays(1)[0], "track_id": "another"}]
    stores = []
    for name, order in (("a", events), ("b", events[::-1])):
        raw = jobs.write(tmp_path / name / "a.parquet", order)
        stores.append(jobs.ingest(raw, tmp_path / f"store-{name}"))
    assert stores[0].counts["conflicting_duplicate"] == 1
    assert jobs.checksums(stores[0]) == jobs.checksums(stores[1])


def test_one_event_id_of_two_users_is_two_events(tmp_path: pathlib.Path) -> None:
    raw = jobs.write(tmp_path / "a.parquet", [jobs.event(user_id=user) for user in "abc"])
    assert jobs.ingest(raw, tmp_path / "store").counts["kept"] == 3


def test_near_duplicates_of_two_clients_are_flagged_not_dropped(tmp_path: pathlib.Path) -> None:
    def at(seconds: int, client: str | None, name: str) -> dict[str, Any]:
        when = jobs.NOON + datetime.timedelta(seconds=seconds)
        return jobs.event(event_id=name, event_time=when, received_time=when, client_id=client)

    events = [
        at(0, "phone", "a"), at(54, "web", "b"), at(400, "phone", "c"), at(410, "phone", "d"),
        at(1000, "phone", "e"), at(1060, None, "f"), at(2000, "x", "g"), at(2061, "y", "h"),
    ]  # fmt: skip
    raw = jobs.write(tmp_path / "a.parquet", events)
    published = jobs.ingest(raw, tmp_path / "store")
    kept = jobs.stored(tmp_path / "store")
    assert set(kept.filter("near_duplicate")["event_id"]) == {"b", "f"}
    assert (published.counts["near_duplicate"], published.counts["kept"]) == (2, 8)
    wider = jobs.ingest(raw, tmp_path / "wider", "--near-duplicate-s", 61)
    assert wider.counts["near_duplicate"] == 3
    assert jobs.stored(tmp_path / "store", role="item_day")["plays"].sum() == 6


def test_users_above_the_cap_are_set_aside_whole(tmp_path: pathlib.Path) -> None:
    bot = [
        jobs.event(event_id=f"bot{i}", user_id="bot",
                   event_time=jobs.NOON + datetime.timedelta(seconds=i))
        for i in range(101)
    ]  # fmt: skip
    raw = jobs.write(tmp_path / "a.parquet", [*jobs.plays(70), *bot])
    published = jobs.ingest(raw, tmp_path / "store", "--max-user-events", 100)
    assert published.counts["set_aside"] == {"user_event_cap": 101}
    assert published.counts["kept"] == 70
    assert set(jobs.stored(tmp_path / "store", role="set_aside")["user_id"]) == {"bot"}
    assert "bot" not in set(jobs.stored(tmp_path / "store")["user_id"])
    assert jobs.stored(tmp_path / "store", role="item_day")["plays"].sum() == 70
    exactly = jobs.ingest(raw, tmp_path / "exactly", "--max-user-events", 101)
    assert exactly.counts["set_aside"] == {}


# --- gates ----------------------------------------------------------------------------------------


def test_a_share_above_the_threshold_refuses_and_shows_where_to_look(
    tmp_path: pathlib.Path,
) -> None:
    raw, store = tmp_path / "raw" / "a.parquet", tmp_path / "store"
    jobs.write(raw, jobs.plays(100))
    before = jobs.ingest(raw, store)
    jobs.write(raw, [*jobs.plays(98), *[jobs.event(event_id=f"b{i}", user_id=None)
                                        for i in range(2)]])  # fmt: skip
    ended = jobs.call(*jobs.ingest_argv(raw, store, "--max-quarantine", 0.0199))
    assert ended.code == 3
    message = ended.err.strip().splitlines()[-1]
    assert "2 of 100 rows (2.00%) are invalid" in message
    assert "missing_user_id 2" in message
    folder = pathlib.Path(message.rsplit(" ", 1)[1])
    rows = pl.concat(pl.read_parquet(path) for path in sorted(folder.glob("*.parquet")))
    assert rows.sort("offset").rows() == [
        ("missing_user_id", str(raw), 98), ("missing_user_id", str(raw), 99),
    ]  # fmt: skip
    left = {path.name for path in folder.parent.iterdir()}
    assert left == {"quarantine"}
    assert jobs.partition(store) == before
    after = jobs.ingest(raw, store, "--max-quarantine", 0.02)  # exactly the share is allowed
    assert after.counts["kept"] == 98


def test_the_default_threshold_is_one_in_a_thousand(tmp_path: pathlib.Path) -> None:
    bad = jobs.event(event_id="bad", played_ms=-1)
    raw = jobs.write(tmp_path / "a.parquet", [*jobs.plays(999), bad])
    assert jobs.ingest(raw, tmp_path / "store").counts["kept"] == 999
    raw = jobs.write(tmp_path / "b.parquet", [*jobs.plays(998), bad])
    assert jobs.call(*jobs.ingest_argv(raw, tmp_path / "other")).code == 3


def test_rows_of_other_days_do_not_thin_the_share(tmp_path: pathlib.Path) -> None:
    bad = [jobs.event(event_id=f"bad{i}", played_ms=-1) for i in range(2)]
    others = jobs.plays(5000, day=NEXT_DAY)
    raw = jobs.write(tmp_path / "a.parquet", [*jobs.plays(100), *bad, *others])
    assert jobs.call(*jobs.ingest_argv(raw, tmp_path / "store")).code == 3


def test_counts_that_do_not_add_up_refuse_the_partition(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = jobs.write(tmp_path / "a.parquet", jobs.plays(50))
    whole = ingestion.store_bucket

    def lossy(table: pl.DataFrame, config: Any) -> Any:
        return whole(table.head(table.height - 1), config)

    monkeypatch.setattr(ingestion, "store_bucket", lossy)
    ended = jobs.call(*jobs.ingest_argv(raw, tmp_path / "store", "--buckets", 1))
    assert ended.code == 3
    assert "conservation: read 50 rows, but accounted for 49" in ended.err
    assert not (jobs.partition_root(tmp_path / "store") / "CURRENT.json").exists()


def test_a_file_that_lost_rows_after_it_was_written_refuses_the_partition(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = jobs.write(tmp_path / "a.parquet", jobs.plays(50))
    whole = pl.DataFrame.write_parquet

    def lossy(self: pl.DataFrame, *args: Any, **kwargs: Any) -> None:
        whole(self.head(max(self.height - 1, 0)), *args, **kwargs)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", lossy)
    ended = jobs.call(*jobs.ingest_argv(raw, tmp_path / "store"))
    assert ended.code == 3
    assert "read back" in ended.err


def test_a_wrong_date_is_refused_and_a_mixed_file_gives_each_day_its_rows(
    tmp_path: pathlib.Path,
) -> None:
    raw = jobs.write(tmp_path / "a.parquet", jobs.plays(40))
    store = tmp_path / "store"
    ended = jobs.call(*jobs.ingest_argv(raw, store, "--date", NEXT_DAY))
    assert ended.code == 3
    assert "is --date right?" in ended.err
    both = jobs.write(tmp_path / "b.parquet", [*jobs.plays(40), *jobs.plays(25, day=NEXT_DAY)])
    first = jobs.ingest(both, store)
    second = jobs.ingest(both, store, "--date", NEXT_DAY)
    assert (first.counts["kept"], first.counts["other_day"]) == (40, 25)
    assert (second.counts["kept"], second.counts["other_day"]) == (25, 40)
    assert accounted(first) == accounted(second) == 65


def test_all_days_is_one_import_of_every_day(tmp_path: pathlib.Path) -> None:
    raw = jobs.write(tmp_path / "b.parquet", [*jobs.plays(40), *jobs.plays(25, day=NEXT_DAY)])
    published = jobs.ingest(raw, tmp_path / "store", "--date", NEXT_DAY, "--all-days")
    assert published.counts["kept"] == 65
    assert published.counts["by_event_day"] == {str(jobs.DAY): 40, str(NEXT_DAY): 25}
    assert published.config["one_day_only"] is False


def test_an_import_takes_no_event_after_its_day(tmp_path: pathlib.Path) -> None:
    raw = jobs.write(tmp_path / "b.parquet", [*jobs.plays(40), *jobs.plays(25, day=NEXT_DAY)])
    ended = jobs.call(*jobs.ingest_argv(raw, tmp_path / "store", "--all-days"))
    assert ended.code == 3
    assert "event_time_after_import_day 25" in ended.err


# --- files that cannot be trusted -----------------------------------------------------------------


def avro_bytes(events: list[dict[str, Any]], folder: pathlib.Path) -> bytes:
    path = folder / "whole.avro.part"
    with path.open("wb") as stream:
        records = [{name: event.get(name) for name in LISTENING_EVENT_NAMES} for event in events]
        fastavro.writer(stream, forms.avro_schema(LISTENING_EVENT), records, codec="deflate",
                        sync_interval=2000)  # fmt: skip
    data = path.read_bytes()
    path.unlink()
    return data


LISTENING_EVENT_NAMES = [field.name for field in LISTENING_EVENT.fields]


def json_lines(events: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(event, default=lambda t: t.isoformat()) + "\n" for event in events
                   ).encode()  # fmt: skip


def in_format(kind: str, events: list[dict[str, Any]], folder: pathlib.Path) -> bytes:
    if kind == "avro":
        return avro_bytes(events, folder)
    if kind == "parquet":
        return jobs.write(folder / "x.part", events).read_bytes()
    lines = json_lines(events)
    if kind == "jsonl.gz":
        return gzip.compress(lines)
    return zstandard.compress(lines) if kind == "jsonl.zst" else lines


@pytest.mark.parametrize("kind", ["avro", "parquet", "jsonl.gz", "jsonl.zst"])
def test_truncated_files_among_good_ones_publish_nothing_and_are_all_named(
    tmp_path: pathlib.Path, kind: str
) -> None:
    folder, store = tmp_path / "raw", tmp_path / "store"
    folder.mkdir()
    data = in_format(kind, jobs.plays(600), tmp_path)
    (folder / f"good.{kind}").write_bytes(data)
    format_name = kind.split(".")[0]
    argv = jobs.ingest_argv(folder / f"*.{kind}", store, format=format_name)
    jobs.ok(*argv)
    before = jobs.partition(store)
    for name, end in (("cut", len(data) // 2), ("short", len(data) - 3), ("stub", 5), ("nil", 0)):
        (folder / f"{name}.{kind}").write_bytes(data[:end])
    ended = jobs.call(*argv)
    assert ended.code == 4
    assert "4 of 5 input files cannot be read to the end; nothing was published" in ended.err
    for name in ("cut", "short", "stub", "nil"):
        assert f"{name}.{kind}: " in ended.err
    assert "good" not in ended.err
    assert "Traceback" not in ended.err
    assert jobs.partition(store) == before
    root = jobs.partition_root(store)
    assert {path.name for path in root.iterdir()} == {"CURRENT.json", before.version}


def test_a_file_that_goes_away_is_named_not_a_stack_trace(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = jobs.write(tmp_path / "raw" / "a.parquet", jobs.plays(5))
    whole = ingest.plan

    def plan_and_lose(*args: Any) -> Any:
        result = whole(*args)
        raw.unlink()
        return result

    monkeypatch.setattr(ingest, "plan", plan_and_lose)
    ended = jobs.call(*jobs.ingest_argv(raw, tmp_path / "store"))
    assert ended.code == 4
    assert "a.parquet" in ended.err
    assert "Traceback" not in ended.err


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest names the checksum of what was read; another file must not pass under it."""
    raw = jobs.write(tmp_path / "raw" / "a.parquet", jobs.plays(5))
    whole = ingest.plan

    def plan_and_change(*args: Any) -> Any:
        result = whole(*args)
        jobs.write(raw, jobs.plays(6))
        return result

    monkeypatch.setattr(ingest, "plan", plan_and_change)
    assert jobs.call(*jobs.ingest_argv(raw, tmp_path / "store")).code == 4


def test_a_file_without_permission_is_one_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = jobs.write(tmp_path / "raw" / "a.parquet", jobs.plays(5))
    whole = open

    def locked(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path) == str(raw):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", locked)
    ended = jobs.call(*jobs.ingest_argv(raw, tmp_path / "store"))
    assert ended.code in (2, 4)
    assert "a.parquet" in ended.err
    assert "Traceback" not in ended.err


# --- again ----------------------------------------------------------------------------------------


def test_the_same_run_again_does_nothing_and_says_so(tmp_path: pathlib.Path) -> None:
    raw, store = jobs.write(tmp_path / "a.parquet", jobs.plays(50)), tmp_path / "store"
    jobs.ingest(raw, store)
    before = {path: (store / path).stat().st_mtime_ns for path in jobs.files_below(store)}
    ended = jobs.ok(*jobs.ingest_argv(raw, store))
    assert "already published from this input; nothing to do" in ended.out
    del before[f"events/dt={jobs.DAY}/CURRENT.json"]
    assert {path: (store / path).stat().st_mtime_ns for path in before} == before
    assert len(jobs.files_below(store)) == len(before) + 1


def test_a_rerun_of_older_input_does_not_take_the_newer_version_away(
    tmp_path: pathlib.Path,
) -> None:
    """A retried task of before a correction says there is nothing to do, so it must do nothing."""
    store = tmp_path / "store"
    first = jobs.write(tmp_path / "first.parquet", jobs.plays(9))
    corrected = jobs.write(tmp_path / "corrected.parquet", jobs.plays(12))
    jobs.ingest(first, store)
    refused = jobs.call(*jobs.ingest_argv(corrected, store))
    assert refused.code == 3
    assert "first.parquet" in refused.err
    assert "--replace" in refused.err
    newer = jobs.ingest(corrected, store, "--replace")
    assert "nothing to do" in jobs.ok(*jobs.ingest_argv(first, store)).out
    assert jobs.partition(store).version == newer.version


def test_the_same_bytes_under_another_name_are_the_same_version_and_data(
    tmp_path: pathlib.Path,
) -> None:
    """Equal fingerprints must give equal digests, or two runs at once refuse each other."""
    one = jobs.ingest(jobs.write(tmp_path / "a.parquet", jobs.plays(9)), tmp_path / "one")
    two = jobs.ingest(jobs.write(tmp_path / "b.parquet", jobs.plays(9)), tmp_path / "two")
    assert (one.version == two.version) == (one.digest() == two.digest())


def test_one_file_named_twice_is_read_once(tmp_path: pathlib.Path) -> None:
    raw = jobs.write(tmp_path / "a.parquet", jobs.plays(9))
    again = f"{tmp_path}/./a.parquet"
    published = jobs.ingest(raw, tmp_path / "store", "--input", again)
    assert published.counts["read"] == 9


def test_leftovers_of_a_run_that_died_do_not_matter(
    simulated: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    clean = jobs.ingest(day_of(simulated) / "*", tmp_path / "clean")
    store = tmp_path / "store"
    shutil.copytree(tmp_path / "clean", store)
    root = jobs.partition_root(store)
    (root / "CURRENT.json").unlink()
    (root / clean.version / "manifest.json").rename(root / clean.version / "manifest.json.00.tmp")
    dead = root / clean.version / clean.run.attempt
    dead.rename(dead.with_name("attempt-dead"))
    for name in ("part-99999.parquet", ".x.crc", "empty.parquet"):
        (root / clean.version / "attempt-dead" / "events" / name).touch()
    assert jobs.call("inspect", root).code == 2  # not published, so not there
    again = jobs.ingest(day_of(simulated) / "*", store)
    assert again.digest() == clean.digest()
    assert jobs.row_digest(jobs.stored(store)) == jobs.row_digest(jobs.stored(tmp_path / "clean"))


def test_a_crash_between_manifest_and_pointer_is_mended_by_the_next_run(
    tmp_path: pathlib.Path,
) -> None:
    raw, store = jobs.write(tmp_path / "a.parquet", jobs.plays(50)), tmp_path / "store"
    published = jobs.ingest(raw, store)
    (jobs.partition_root(store) / "CURRENT.json").unlink()
    jobs.ok(*jobs.ingest_argv(raw, store))
    assert jobs.partition(store) == published


def test_options_that_contradict_the_store_are_refused(tmp_path: pathlib.Path) -> None:
    raw, store = jobs.write(tmp_path / "a.parquet", jobs.plays(5)), tmp_path / "store"
    jobs.ingest(raw, store, "--buckets", 4)
    ended = jobs.call(*jobs.ingest_argv(raw, store, "--buckets", 8))
    assert ended.code == 2
    assert "has 4, got 8" in ended.err
    jobs.ok(*jobs.ingest_argv(raw, store, "--buckets", 4))
    jobs.ok(*jobs.ingest_argv(raw, store))


def test_a_first_run_that_fails_does_not_fix_the_stores_options(tmp_path: pathlib.Path) -> None:
    bad = jobs.write(tmp_path / "bad.parquet", [jobs.event(played_ms=-1)])
    store = tmp_path / "store"
    assert jobs.call(*jobs.ingest_argv(bad, store, "--buckets", 64)).code == 3
    raw = jobs.write(tmp_path / "a.parquet", jobs.plays(5))
    assert jobs.ingest(raw, store, "--buckets", 4).counts["kept"] == 5


def test_a_damaged_store_is_one_line(tmp_path: pathlib.Path) -> None:
    raw = jobs.write(tmp_path / "a.parquet", jobs.plays(5))
    (tmp_path / "store").mkdir()
    for text in ("{", "[]", '{"bucket_count": 3}', ""):
        (tmp_path / "store" / "store.json").write_text(text)
        ended = jobs.call(*jobs.ingest_argv(raw, tmp_path / "store"))
        assert (ended.code, len(ended.err.strip().splitlines())) == (3, 1)
        assert "store.json: not a valid store" in ended.err


@pytest.mark.parametrize("name", ["with space", "a[1]", "star*", "ü🎵", "q?"])
def test_any_folder_name_is_fine_for_a_store(tmp_path: pathlib.Path, name: str) -> None:
    raw = jobs.write(tmp_path / "a.parquet", jobs.plays(5))
    assert jobs.ingest(raw, tmp_path / name / "store").counts["kept"] == 5


def test_an_input_file_may_have_any_name(tmp_path: pathlib.Path) -> None:
    for name in ("a [1].parquet", "b 2.parquet", "ü🎵.parquet"):
        raw = jobs.write(tmp_path / "raw" / name, jobs.plays(5))
        assert jobs.ingest(raw, tmp_path / "stores" / name.split(".")[0][:1]).counts["kept"] == 5


# --- the same bytes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(simulated: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of the data files of one day, as a plain run makes them."""
    store = tmp_path_factory.mktemp("reference") / "store"
    return jobs.checksums(jobs.ingest(day_of(simulated) / "*", store, "--buckets", 4))


def day_table(simulated: pathlib.Path) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in sorted(day_of(simulated).glob("*")))


@pytest.mark.parametrize("files", [1, 13])
def test_how_rows_lie_in_files_does_not_matter(
    simulated: pathlib.Path, reference: dict[str, str], tmp_path: pathlib.Path, files: int
) -> None:
    shuffled = day_table(simulated).sample(fraction=1.0, shuffle=True, seed=files)
    for i in range(files):
        folder = tmp_path / f"{(i * 7) % files}"
        folder.mkdir()
        shuffled[i::files].write_parquet(folder / "x.parquet", row_group_size=97)
    published = jobs.ingest(tmp_path / "*" / "*.parquet", tmp_path / "store", "--buckets", 4)
    assert jobs.checksums(published) == reference


def test_each_event_three_times_gives_the_same_partition(
    simulated: pathlib.Path, reference: dict[str, str], tmp_path: pathlib.Path
) -> None:
    table = day_table(simulated)
    for name in "abc":
        table.sample(fraction=1.0, shuffle=True, seed=ord(name)).write_parquet(tmp_path / name)
    published = jobs.ingest(tmp_path / "[abc]", tmp_path / "store", "--buckets", 4)
    assert jobs.checksums(published) == reference


RUNNERS = {
    "DirectRunner": ["--runner", "DirectRunner"],
    "bundle repeat": ["--direct_runner_bundle_repeat", "2"],
    "by value": ["--shuffle", "value"],
    "threads": ["--direct_running_mode", "multi_threading", "--direct_num_workers", "3"],
}


@pytest.mark.parametrize("options", RUNNERS.values(), ids=RUNNERS)
def test_how_it_is_run_does_not_matter(
    simulated: pathlib.Path, reference: dict[str, str], tmp_path: pathlib.Path, options: list[str]
) -> None:
    store = tmp_path / "store"
    published = jobs.ingest(day_of(simulated) / "*", store, "--buckets", 4, *options)
    assert jobs.checksums(published) == reference
    listed = {f"{published.version}/{published.run.attempt}/{e.path}" for e in published.files}
    found = set(jobs.files_below(jobs.partition_root(store)))
    assert found - listed == {"CURRENT.json", f"{published.version}/manifest.json"}


@pytest.mark.slow
def test_worker_processes_make_the_same_bytes(
    simulated: pathlib.Path, reference: dict[str, str], tmp_path: pathlib.Path
) -> None:
    published = jobs.ingest(
        day_of(simulated) / "*", tmp_path / "store", "--buckets", 4,
        "--direct_running_mode", "multi_processing", "--direct_num_workers", 2,
    )  # fmt: skip
    assert jobs.checksums(published) == reference
    data = gzip.compress(json_lines(jobs.plays(600)))[:-9]
    (tmp_path / "cut.jsonl.gz").write_bytes(data)
    ended = jobs.call(
        *jobs.ingest_argv(tmp_path / "cut.jsonl.gz", tmp_path / "other", format="jsonl"),
        "--direct_running_mode", "multi_processing", "--direct_num_workers", 2,
    )  # fmt: skip
    assert ended.code == 4
    assert "cut.jsonl.gz" in ended.err
    assert "Traceback" not in ended.err


def test_bundles_that_fail_and_are_tried_again_make_the_same_bytes(
    simulated: pathlib.Path,
    reference: dict[str, str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The retrying runner, and steps that write and then die on their first attempts."""
    died: dict[str, int] = {}
    deaths = tmp_path / "deaths"
    deaths.mkdir()

    def dying(kind: type[beam.DoFn]) -> None:
        whole = kind.process
        name = kind.__name__

        @functools.wraps(whole)  # and with it the type hints
        def process(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            made = list(whole(self, *args, **kwargs) or [])
            count = len(list(deaths.glob(f"{name}-*")))
            if count < 2:
                (deaths / f"{name}-{count}").touch()
                raise RuntimeError(f"{name} died after its work was done")
            return iter(made)

        monkeypatch.setattr(kind, "process", process)

    from transforms import exchange, publish

    for kind in (
        ingestion._ReadEventsFn, ingestion._WriteBucketFn, exchange._SpillFn, publish._CommitFn,
    ):  # fmt: skip
        dying(kind)
    retrying.use_bundle_runner(monkeypatch)
    store = tmp_path / "store"
    published = jobs.ingest(day_of(simulated) / "*", store, "--buckets", 4)
    assert len(list(deaths.iterdir())) == 8, died
    assert jobs.checksums(published) == reference
    listed = {f"{published.version}/{published.run.attempt}/{e.path}" for e in published.files}
    found = set(jobs.files_below(jobs.partition_root(store)))
    assert found - listed == {"CURRENT.json", f"{published.version}/manifest.json"}


def test_the_process_and_its_surroundings_do_not_matter(
    simulated: pathlib.Path, reference: dict[str, str], tmp_path: pathlib.Path
) -> None:
    env = {
        "PYTHONHASHSEED": "4242", "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "C",
        "POLARS_MAX_THREADS": "1", "PYTHONUTF8": "0",
    }  # fmt: skip
    store = tmp_path / "store"
    argv = jobs.ingest_argv(day_of(simulated) / "*", store, "--buckets", 4)
    ended = jobs.wait(jobs.spawn(*argv, env=env))
    assert ended.code == 0, ended.err
    assert jobs.checksums(jobs.partition(store)) == reference
    assert os.environ.get("TZ") != env["TZ"]


# --- every format through the whole job -----------------------------------------------------------

SPOTIFY = {
    "ts": "2023-05-01T10:03:20Z", "username": "secret-user", "platform": "ios",
    "ms_played": 200_000, "conn_country": "DE", "ip_addr_decrypted": "203.0.113.7",
    "master_metadata_track_name": "Song", "master_metadata_album_artist_name": "Artist",
    "spotify_track_uri": "spotify:track:0000000000000000000001", "reason_start": "clickrow",
    "reason_end": "trackdone", "shuffle": False, "offline": False, "incognito_mode": False,
}  # fmt: skip
SPOTIFY_SMALL = {
    "endTime": "2023-05-01 10:03", "artistName": "A", "trackName": "T", "msPlayed": 61_000,
}  # fmt: skip
LISTENBRAINZ = {
    "user_id": 42, "user_name": "secret-user", "listened_at": 1682935200,
    "inserted_at": 1682935460.25, "recording_msid": "3b1a1a5e-0000-4000-8000-000000000001",
    "track_metadata": {"artist_name": "A", "track_name": "T", "additional_info": {}},
}  # fmt: skip
LASTFM = "user_000001\t2009-05-04T12:08:57Z\t\tAn Artist\t\tA Track\n"
MSSD = (
    "session_id,session_position,session_length,track_id_clean,skip_1,skip_2,skip_3,not_skipped,"
    "context_switch,no_pause_before_play,short_pause_before_play,long_pause_before_play,"
    "hist_user_behavior_n_seekfwd,hist_user_behavior_n_seekback,hist_user_behavior_is_shuffle,"
    "hour_of_day,date,premium,context_type,hist_user_behavior_reason_start,"
    "hist_user_behavior_reason_end\n"
    "0_a,1,20,t_0479f24c,false,false,false,true,0,0,0,0,0,0,true,16,2018-07-15,true,radio,"
    "trackdone,trackdone\n"
)
MAPPING = """
name: acme
container: csv
fields:
  event_type: {value: play}
  user_id: uid
  track_id: track
  event_time: {column: at, unit: s}
"""
YAMBDA = {"uid": 10, "timestamp": 500, "item_id": 69, "is_organic": 1, "event_type": "listen",
          "played_ratio_pct": 100, "track_length_seconds": 180}  # fmt: skip


def yambda(path: pathlib.Path) -> None:
    small = {"uid": pl.UInt32, "timestamp": pl.UInt32, "item_id": pl.UInt32, "is_organic": pl.UInt8,
             "played_ratio_pct": pl.UInt16, "track_length_seconds": pl.UInt32}  # fmt: skip
    kinds = [{**YAMBDA, "event_type": kind} for kind in ("listen", "like", "undislike")]
    pl.DataFrame(kinds).cast(small).write_parquet(path)


# format -> (file name, writes it, events by type, excluded)
TINY: dict[str, tuple[str, Any, dict[str, int], dict[str, int]]] = {
    "spotify": ("endsong_0.json", lambda p: p.write_text(json.dumps([SPOTIFY])), {"play": 1}, {}),
    "spotify_small": (
        "StreamingHistory_music_0.json", lambda p: p.write_text(json.dumps([SPOTIFY_SMALL])),
        {"play": 1}, {},
    ),
    "listenbrainz": ("1.listens", lambda p: p.write_text(json.dumps(LISTENBRAINZ) + "\n"),
                     {"play": 1}, {}),
    "lastfm1k": ("plays.tsv", lambda p: p.write_text(LASTFM), {"play": 1}, {}),
    "yambda_multi_event": ("multi_event.parquet", yambda, {"play": 1, "like": 1},
                           {"undislike_not_supported": 1}),
    "mssd": ("log.csv", lambda p: p.write_text(MSSD), {"play": 1}, {}),
    "avro": ("a.avro", lambda p: p.write_bytes(avro_bytes(jobs.plays(9), p.parent)),
             {"play": 9}, {}),
    "parquet": ("a.parquet", lambda p: jobs.write(p, jobs.plays(9)), {"play": 9}, {}),
    "jsonl": ("a.jsonl.gz", lambda p: p.write_bytes(gzip.compress(json_lines(jobs.plays(9)))),
              {"play": 9}, {}),
    "mapping": ("a.csv", lambda p: p.write_text("uid,track,at\nu,t,1600000000\n"),
                {"play": 1}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_file_of_every_format_becomes_a_dataset(tmp_path: pathlib.Path, name: str) -> None:
    file, write, by_type, excluded = TINY[name]
    raw, store = tmp_path / "raw" / file, tmp_path / "store"
    raw.parent.mkdir()
    write(raw)
    kind = name
    if name == "mapping":
        kind = str(tmp_path / "acme.yaml")
        pathlib.Path(kind).write_text(MAPPING)
    day = jobs.DAY if name in ("avro", "parquet", "jsonl") else LATER
    published = jobs.ingest(raw, store, "--date", day, "--buckets", 2, "--all-days", format=kind)
    (kinds,) = published.counts["by_source"].values()
    assert kinds == by_type
    assert published.counts["excluded"] == excluded
    assert accounted(published) == published.counts["read"]
    for path in (tmp_path / "store").rglob("*.parquet"):
        assert "secret" not in str(pl.read_parquet(path).rows())
    first = datetime.date.fromisoformat(min(published.counts["by_event_day"]))
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "kind: ranking\noutput: {shards: 2}\nlabels: {lateness_days: 0, horizon_hours: 1}\n"
    )
    dataset = jobs.build(store, spec, first, first, tmp_path / "dataset")
    assert dataset.counts["examples"] == by_type["play"]
    assert str(dataset.version) in jobs.ok("inspect", tmp_path / "dataset").out


def test_the_same_files_are_the_same_partition_however_they_are_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = jobs.write(tmp_path / "raw" / "a.parquet", [*jobs.plays(200), jobs.event(user_id="")])
    monkeypatch.chdir(tmp_path)
    found = [
        jobs.ingest(name, tmp_path / store, "--max-quarantine", "0.1")
        for store, name in (("a", raw), ("b", "raw/*.parquet"), ("c", "raw/../raw/a.parquet"))
    ]
    assert len({each.digest() for each in found}) == 1
    roles = ("events", "quarantine")
    assert len({str(jobs.checksums(each, *roles)) for each in found}) == 1
    ended = jobs.ok(*jobs.ingest_argv("raw/a.parquet", tmp_path / "a"))
    assert "nothing to do" in ended.out
