"""Pseudonyms: without the key nothing leads back, and the key itself is nowhere."""

from __future__ import annotations

import logging
import pathlib

import apache_beam as beam
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ingest
from tests import jobs
from transforms import pseudonyms
from transforms.errors import UsageError

KEY = b"canary-key-0123456789-0123456789-abcdef"
OTHER = b"another-key-0123456789-0123456789-abcde"
USERS = [f"raw.person+{i}@example.org" for i in range(20)]
COUNT = 2000
REFERENCE = "env:PLAYHEAD_TEST_KEY"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setenv("PLAYHEAD_TEST_KEY", KEY.decode())
    return KEY


@pytest.fixture
def raw(tmp_path: pathlib.Path) -> pathlib.Path:
    """Plays of users whose ids are mail addresses; some are invalid, one file is truncated."""
    events = [
        {**event, "user_id": USERS[i % len(USERS)], "event_id": f"e{i}"}
        for i, event in enumerate(jobs.plays(COUNT))
    ]
    for event in events[:10]:
        event["played_ms"] = -1
    return jobs.write(tmp_path / "raw" / "a.parquet", events)


@given(st.text(), st.text())
def test_one_user_has_one_pseudonym_and_two_have_two(one: str, other: str) -> None:
    first = pseudonyms.pseudonym(KEY, one)
    assert first == pseudonyms.pseudonym(KEY, one)
    assert (first == pseudonyms.pseudonym(KEY, other)) == (one == other)
    assert first != pseudonyms.pseudonym(OTHER, one)
    assert first.startswith("p-")
    assert len(first) == 28


def test_a_pseudonym_is_what_the_docstring_says() -> None:
    assert pseudonyms.pseudonym(b"k" * 32, "u1") == "p-ziihajau53u75wqbztmdstr5nf"


def test_the_key_id_tells_keys_apart_and_is_no_pseudonym() -> None:
    assert pseudonyms.key_id(KEY) != pseudonyms.key_id(OTHER)
    assert pseudonyms.key_id(KEY) not in pseudonyms.pseudonym(KEY, "")


def test_every_row_of_a_user_gets_it_and_null_stays_null() -> None:
    table = pl.DataFrame({"user_id": ["a", "b", None, "a", ""], "x": [1, 2, 3, 4, 5]})
    done = pseudonyms.pseudonymize(table, KEY)
    expected = [pseudonyms.pseudonym(KEY, user) for user in ("a", "b")]
    assert done["user_id"].to_list()[:4] == [*expected, None, expected[0]]
    assert done["x"].to_list() == [1, 2, 3, 4, 5]
    for empty in (table[:0], table.with_columns(pl.lit(None, pl.String).alias("user_id"))):
        assert pseudonyms.pseudonymize(empty, KEY).equals(empty)


@pytest.mark.parametrize(
    "reference",
    [KEY.decode(), "", "env:", "file:", "ENV:PLAYHEAD_TEST_KEY", "hex:00", "env", KEY.decode()[:5]],
)
def test_only_references_are_taken_and_never_repeated(reference: str) -> None:
    with pytest.raises(UsageError, match="expected a reference, env:NAME or file:/path") as error:
        pseudonyms.read_key(reference)
    assert KEY.decode()[:5] not in str(error.value)


def test_a_key_in_place_of_a_name_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for reference in (f"env:{KEY.decode()}", f"file:{KEY.decode()}"):
        with pytest.raises(UsageError) as error:
            pseudonyms.read_key(reference)
        assert KEY.decode() not in str(error.value)


def test_short_and_missing_keys_are_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORT_KEY", "canary" * 5)
    with pytest.raises(UsageError, match="at least 32 bytes, got 30") as error:
        pseudonyms.read_key("env:SHORT_KEY")
    assert "canary" not in str(error.value)
    with pytest.raises(UsageError, match="NO_SUCH_KEY is not set"):
        pseudonyms.read_key("env:NO_SUCH_KEY")
    with pytest.raises(UsageError, match=r"cannot read .*none"):
        pseudonyms.read_key(f"file:{tmp_path}/none")
    with pytest.raises(UsageError, match="cannot read"):
        pseudonyms.read_key(f"file:{tmp_path}")
    (tmp_path / "key").write_bytes(KEY + b"\n")
    assert pseudonyms.read_key(f"file:{tmp_path}/key") == KEY
    (tmp_path / "blank").write_bytes(b" " * 40 + b"\n")
    with pytest.raises(UsageError, match="got 0"):
        pseudonyms.read_key(f"file:{tmp_path}/blank")


def assert_nowhere(root: pathlib.Path, *texts: str) -> None:
    for path in root.rglob("*"):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":  # compressed: look at what it holds
            data += str(pl.read_parquet(path).rows()).encode()
        for text in texts:
            assert text.encode() not in data, f"{text} in {path.name}"
            assert text not in str(path)


def test_neither_key_nor_raw_ids_are_written_or_printed(
    key: bytes, raw: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("PLAYHEAD_LOG_LEVEL", "DEBUG")
    caplog.set_level(logging.DEBUG)
    store, dataset = tmp_path / "store", tmp_path / "dataset"
    options = ("--user-key", REFERENCE, "--max-user-events", 99, "--max-quarantine", 0.5)
    ended = [jobs.ok(*jobs.ingest_argv(raw, store, *options))]
    published = jobs.partition(store)
    assert published.config["store"]["user_key_id"] == pseudonyms.key_id(key)
    assert published.counts["quarantined"] == {"negative_played_ms": 10}
    assert published.counts["kept"] + published.counts["set_aside"]["user_event_cap"] == COUNT - 10
    assert published.counts["set_aside"]["user_event_cap"] > 0
    spec = tmp_path / "spec.yaml"
    spec.write_text("kind: ranking\nlabels: {lateness_days: 0}\n")
    more = jobs.build_argv(store, spec, jobs.DAY, jobs.DAY, dataset)
    ended += [jobs.ok(*more), jobs.ok("inspect", dataset), jobs.ok("inspect", store)]
    # A run that a gate refuses, and one that a damaged file stops.
    ended.append(jobs.call(*jobs.ingest_argv(raw, store, "--user-key", REFERENCE, "--all-days")))
    assert ended[-1].code == 3
    (raw.parent / "b.parquet").write_bytes(raw.read_bytes()[:-100])
    ended.append(jobs.call(*jobs.ingest_argv(raw.parent / "*", store, *options)))
    assert ended[-1].code == 4
    said = "".join(each.out + each.err for each in ended) + caplog.text
    for secret in (KEY.decode(), *USERS):
        assert secret not in said
    assert_nowhere(store, KEY.decode(), *USERS)
    assert_nowhere(dataset, KEY.decode(), *USERS)
    roles = [jobs.stored(store, role=role)["user_id"] for role in ("events", "set_aside")]
    assert set(pl.concat(roles)) == {pseudonyms.pseudonym(key, user) for user in USERS}


def test_the_graph_that_is_sent_to_workers_holds_the_reference_only(
    key: bytes, raw: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    argv = jobs.ingest_argv(raw, tmp_path / "store", "--user-key", REFERENCE)[1:]
    draft, plan = ingest.plan(ingest.build_parser().parse_args(map(str, argv)), "FnApiRunner")
    pipeline = beam.Pipeline(runner="FnApiRunner")
    ingest.build_graph(pipeline, draft, plan, "value")
    graph = pipeline.to_runner_api().SerializeToString()
    assert KEY not in graph
    assert KEY not in repr((draft, plan)).encode()


def test_a_store_has_one_key(
    key: bytes, raw: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    argv = jobs.ingest_argv(raw, store, "--max-quarantine", 0.5)
    jobs.ok(*argv, "--user-key", REFERENCE)
    before = jobs.files_below(store)
    ended = jobs.call(*argv)
    assert ended.code == 2
    assert "one store has one key" in ended.err
    monkeypatch.setenv("PLAYHEAD_OTHER_KEY", OTHER.decode())
    ended = jobs.call(*argv, "--user-key", "env:PLAYHEAD_OTHER_KEY")
    assert ended.code == 2
    assert OTHER.decode() not in ended.err
    assert jobs.files_below(store) == before
    keyless = tmp_path / "keyless"
    jobs.ok(*jobs.ingest_argv(raw, keyless, "--max-quarantine", 0.5))
    assert jobs.call(*argv[:5], keyless, *argv[6:], "--user-key", REFERENCE).code == 2


def test_the_same_key_by_another_reference_is_the_same_store(
    key: bytes, raw: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "key").write_bytes(key)
    argv = jobs.ingest_argv(raw, tmp_path / "store", "--max-quarantine", 0.5, "--user-key")
    jobs.ok(*argv, REFERENCE)
    assert "nothing to do" in jobs.ok(*argv, f"file:{tmp_path}/key").out
