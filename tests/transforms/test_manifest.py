"""The manifest: the commit, and what a forged or damaged one can do (nothing)."""

from __future__ import annotations

import json
import pathlib
import threading
from typing import Any

import pydantic
import pytest

from transforms import manifest
from transforms.errors import DataRefusedError, UsageError
from transforms.manifest import FileEntry, InputFileEntry, Manifest, Pointer, RunInfo

HOSTILE = [
    "../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "..", "./a", "a/", "%2e%2e/x", "a/%2e%2e",
    "a\x00b", "a" * 4096, "..\\x", "a\\..\\b", "\uff0e\uff0e/x", "\u2024\u2024/x", "a\u2215b",
    "~/x", "C:/x", "gs://b/x", "file:///etc/passwd", "a b", "-rf", ".hidden", "a\n", "a\n/b",
    "a\r", "$HOME", "*", "a?b",
]  # fmt: skip
SHA = "0" * 64


def make(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "kind": "dataset",
        "name": "ranking",
        "version": "v-1",
        "fingerprint": "0123456789ab",
        "code_version": "0",
        "status": "OK",
        "config": {"a": 1},
        "columns": (),
        "inputs": (InputFileEntry(path="raw/a", bytes=1, checksum="00000000"),),
        "files": (FileEntry(path="train/a.parquet", role="train", rows=1, bytes=2, sha256=SHA),),
        "counts": {"read": 1},
        "run": run("attempt-1"),
    }
    return Manifest(**(fields | changes))


def run(attempt: str) -> RunInfo:
    return RunInfo(attempt=attempt, started_at="then", finished_at="now", runner="r")


@pytest.mark.parametrize("path", HOSTILE, ids=range(len(HOSTILE)))
def test_no_path_can_leave_the_folder_of_its_version(path: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        FileEntry(path=path, role="train", rows=1, bytes=1, sha256=SHA)
    with pytest.raises(pydantic.ValidationError):
        make(version=path)
    with pytest.raises(pydantic.ValidationError):
        Pointer(version=path, digest=SHA)


@pytest.mark.parametrize("path", HOSTILE, ids=range(len(HOSTILE)))
def test_a_forged_attempt_cannot_lead_out_of_the_version(path: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        make(run=run(path))


def test_plain_paths_are_fine() -> None:
    for path in ("train/part-00000-of-00008.parquet", "events/bucket-1.parquet", "dt=2026-01-05/a"):
        assert FileEntry(path=path, role="r", rows=0, bytes=0, sha256=SHA).path == path


def test_digest_leaves_out_the_run_and_nothing_else() -> None:
    ours = make()
    assert make(run=run("attempt-2")).digest() == ours.digest()
    others: list[dict[str, Any]] = [
        {"kind": "events"}, {"name": "n"}, {"version": "v-2"}, {"fingerprint": "f"},
        {"code_version": "1"}, {"status": "EMPTY"}, {"config": {"a": 2}}, {"inputs": ()},
        {"files": ()}, {"counts": {}}, {"key": ("event_id",)},
        {"columns": (manifest.ColumnEntry(name="c", type="string"),)},
    ]  # fmt: skip
    assert {next(iter(other)) for other in others} == set(Manifest.model_fields) - {
        "run", "format_version",
    }  # fmt: skip
    digests = {make(**other).digest() for other in others}
    assert len(digests | {ours.digest()}) == len(others) + 1


def test_json_round_trip_keeps_the_digest(tmp_path: pathlib.Path) -> None:
    ours = make()
    manifest.commit(str(tmp_path), ours)
    loaded = manifest.load(str(tmp_path), "v-1")
    assert loaded == ours
    assert loaded.digest() == ours.digest()
    assert manifest.load_current(str(tmp_path)) == ours


def test_the_same_work_twice_is_one_version_of_the_first_attempt(tmp_path: pathlib.Path) -> None:
    first = manifest.commit(str(tmp_path), make())
    written = (tmp_path / "v-1" / "manifest.json").read_bytes()
    second = manifest.commit(str(tmp_path), make(run=run("attempt-2")))
    assert second == first
    assert (tmp_path / "v-1" / "manifest.json").read_bytes() == written


def test_other_data_under_the_same_version_is_refused(tmp_path: pathlib.Path) -> None:
    first = manifest.commit(str(tmp_path), make())
    with pytest.raises(DataRefusedError, match="already published with other data"):
        manifest.commit(str(tmp_path), make(counts={"read": 2}))
    assert manifest.load_current(str(tmp_path)) == first


def test_of_many_attempts_one_wins_and_all_know_which(tmp_path: pathlib.Path) -> None:
    start, winners = threading.Barrier(12), []

    def attempt(number: int) -> None:
        ours = make(run=run(f"attempt-{number}"))
        start.wait()
        winners.append(manifest.commit(str(tmp_path), ours).run.attempt)

    threads = [threading.Thread(target=attempt, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 12
    assert len(set(winners)) == 1
    current = manifest.load_current(str(tmp_path))
    assert current is not None
    assert current.run.attempt == winners[0]


def test_nothing_published_is_none_or_a_line(tmp_path: pathlib.Path) -> None:
    assert manifest.load(str(tmp_path), "v-1") is None
    assert manifest.load_current(str(tmp_path)) is None
    with pytest.raises(UsageError, match="nothing is published here; expected a dataset"):
        manifest.require_current(str(tmp_path), "a dataset")


def test_a_pointer_to_a_version_that_is_not_committed(tmp_path: pathlib.Path) -> None:
    manifest.set_current(str(tmp_path), make(version="v-2"))
    with pytest.raises(DataRefusedError, match="v-2, which is not committed"):
        manifest.load_current(str(tmp_path))


def test_a_manifest_that_was_changed_after_publishing(tmp_path: pathlib.Path) -> None:
    manifest.commit(str(tmp_path), make())
    path = tmp_path / "v-1" / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 1', '"rows": 2'))
    with pytest.raises(DataRefusedError, match="changed after it was published"):
        manifest.load_current(str(tmp_path))


def test_a_manifest_of_another_version_in_the_folder(tmp_path: pathlib.Path) -> None:
    manifest.commit(str(tmp_path), make(version="v-2"))
    (tmp_path / "v-1").mkdir()
    (tmp_path / "v-1" / "manifest.json").write_bytes(make(version="v-2").to_json())
    with pytest.raises(DataRefusedError):
        manifest.load(str(tmp_path), "v-1")


DAMAGED = [
    b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b"\x00" * 100, b"[" * 100_000,
    b'{"version": NaN}', make().to_json()[:-40], make().to_json() + b"{}",
    make().to_json().replace(b'"format_version": 1', b'"format_version": 2'),
    make().to_json().replace(b'"rows": 1', b'"rows": -1'),
    make().to_json().replace(b'"rows": 1', b'"rows": ' + b"9" * 5000),
    make().to_json().replace(b'"status"', b'"extra": 1, "status"'),
]  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_files_are_one_line_that_names_them(tmp_path: pathlib.Path, data: bytes) -> None:
    manifest.commit(str(tmp_path), make())
    (tmp_path / "v-1" / "manifest.json").write_bytes(data)
    with pytest.raises(DataRefusedError, match=r"v-1/manifest\.json: ") as refused:
        manifest.load(str(tmp_path), "v-1")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500
    (tmp_path / "CURRENT.json").write_bytes(data)
    with pytest.raises(DataRefusedError, match=r"CURRENT\.json: ") as refused:
        manifest.load_current(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_pointer_cannot_lead_elsewhere(tmp_path: pathlib.Path) -> None:
    manifest.commit(str(tmp_path / "other"), make())
    root = tmp_path / "mine"
    root.mkdir()
    pointer = {"version": "../other/v-1", "digest": make().digest()}
    (root / "CURRENT.json").write_text(json.dumps(pointer))
    with pytest.raises(DataRefusedError, match="name of a folder"):
        manifest.load_current(str(root))


def test_fingerprints_depend_on_every_part_and_not_on_their_order() -> None:
    parts = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert manifest.fingerprint(parts) == manifest.fingerprint(dict(reversed(parts.items())))
    assert manifest.fingerprint(parts) != manifest.fingerprint({**parts, "a": 2})
    assert manifest.fingerprint(parts) != manifest.fingerprint({**parts, "b": {"c": [2, 1]}})


@pytest.mark.parametrize("folder", [*HOSTILE, "a", "a/b/c"])
def test_a_file_of_another_version_cannot_lie_outside(folder: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        FileEntry(path="a", role="train", rows=1, bytes=1, sha256=SHA, folder=folder)
    with pytest.raises(pydantic.ValidationError):
        manifest.Withdrawn(withdrawn_at="now", successor=folder + "/", files=())


def test_a_file_of_another_version_is_found_where_it_lies() -> None:
    entry = FileEntry(path="train/a.parquet", role="train", rows=1, bytes=2, sha256=SHA)
    there = entry.model_copy(update={"folder": "v-0/attempt-0"})
    made = make(files=(entry, there))
    assert manifest.file_path("r", made, entry) == "r/v-1/attempt-1/train/a.parquet"
    assert manifest.file_path("r", made, there) == "r/v-0/attempt-0/train/a.parquet"
    assert (entry.link, there.link) == ("train/a.parquet", "../../v-0/attempt-0/train/a.parquet")


def test_folder_takes_part_in_the_digest_only_where_there_is_one() -> None:
    made = make()
    text = json.loads(made.to_json())
    del text["files"][0]["folder"]  # as written before there was such a field
    old = Manifest.model_validate(text)
    assert old.digest() == made.digest()
    there = made.files[0].model_copy(update={"folder": "v-0/attempt-0"})
    assert make(files=(there,)).digest() != made.digest()


def test_a_withdrawn_version_says_what_to_use(tmp_path: pathlib.Path) -> None:
    root = str(tmp_path)
    manifest.commit(root, make())
    said = manifest.Withdrawn(withdrawn_at="2026-01-05T10:00:00", successor="v-2", files=("v-1/a",))
    manifest.withdraw(root, "v-1", said)
    manifest.withdraw(root, "v-1", said.model_copy(update={"successor": "v-3"}))
    line = "v-1: withdrawn on 2026-01-05 for a deletion; use v-2$"
    with pytest.raises(DataRefusedError, match=line):
        manifest.load(root, "v-1")
    with pytest.raises(DataRefusedError, match=line):
        manifest.load_current(root)
    with pytest.raises(DataRefusedError, match=line):
        manifest.resolve(f"{root}/v-1")
    found = manifest.load(root, "v-1", withdrawn_too=True)
    assert found is not None
    assert found.version == "v-1"
    assert manifest.versions(root) == ["v-1"]
    assert manifest.load_withdrawn(root, "v-1") == said
