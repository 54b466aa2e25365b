"""`playhead fsck`, as a user runs it: what it lists, what it removes, and what it never touches."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import time

import pytest

from tests import jobs
from tests.crashes import faulty, rig
from transforms import fsck, manifest, storage

DAY_S = 86_400


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A store of one day in two versions, as `store`, and a dataset of it, as `dataset`."""
    folder = tmp_path_factory.mktemp("made")
    jobs.write(folder / "raw" / "a.parquet", jobs.plays(40))
    jobs.ingest(folder / "raw" / "*", folder / "store", "--buckets", 2)
    jobs.write(folder / "raw" / "b.parquet", jobs.plays(60))
    jobs.ingest(folder / "raw" / "*", folder / "store")
    for day in (rig.D6, rig.D7):
        raw = jobs.write(folder / f"{day}.parquet", jobs.plays(9, day=day))
        jobs.ingest(raw, folder / "store", "--date", day)
    (folder / "spec.yaml").write_text(rig.SPEC)
    more = ["--allow-missing"]
    jobs.build(folder / "store", folder / "spec.yaml", rig.D5, rig.D5, folder / "dataset", *more)
    return folder


@pytest.fixture
def store(made: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(made / "store", tmp_path / "store")
    return tmp_path / "store"


def age(path: pathlib.Path, days: float) -> None:
    """Makes a file, or all below a folder, that old."""
    then = time.time() - days * DAY_S
    for each in [path, *path.rglob("*")]:
        os.utime(each, (then, then))


def leave(path: pathlib.Path, days: float, text: str = "left") -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    age(path, days)
    return path


def lines(out: str, kind: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(f"{kind}:")]


def test_what_is_published_is_clean(made: pathlib.Path) -> None:
    for name, versions in (("store", 4), ("dataset", 1)):
        ended = jobs.ok("fsck", made / name, "--verify")
        assert f"{made / name}: {versions} versions" in ended.out
        assert ended.out.endswith("no strays\n")
        assert len(ended.out.splitlines()) == 2


def strays_of(store: pathlib.Path) -> dict[str, tuple[pathlib.Path, bool]]:
    """Leaves one stray of each kind, a week old: kind -> (path, may be removed)."""
    root = jobs.partition_root(store)
    current = jobs.partition(store)
    won = root / current.version / current.run.attempt
    return {
        "attempt": (leave(root / "v-0" / "attempt-0" / "events" / "x.parquet", 7), True),
        "attempt of a published version": (
            leave(root / current.version / "attempt-1" / "events" / "x.parquet", 7), True,
        ),
        "refused attempt": (leave(root / "v-1" / "attempt-2" / "audit.json", 7), True),
        "spill": (leave(won / "spill" / "0123.arrow", 7), True),
        "file": (leave(won / "events" / "part-99999.parquet", 7), True),
        "empty file": (leave(won / ".x.crc", 7, ""), True),
        "manifest half written": (
            leave(root / current.version / "manifest.json.0123abcd.tmp", 7), True,
        ),
        "pointer half written": (leave(root / "CURRENT.json.0123abcd.tmp", 7), True),
        "store half written": (leave(store / "store.json.0123abcd.tmp", 7), True),
        "note": (leave(store / "README.txt", 7), False),
        "note in a partition": (leave(root / "why" / "note.txt", 7), False),
        "note in a version": (leave(root / current.version / "note.txt", 7), False),
    }  # fmt: skip


def test_every_kind_of_stray_is_listed_and_removed_when_asked(store: pathlib.Path) -> None:
    before = {path: (store / path).read_bytes() for path in jobs.files_below(store)}
    left = strays_of(store)
    dry = jobs.ok("fsck", store)
    assert len(lines(dry.out, "stray")) == len(left)
    kinds = {line.split("  ")[0].removeprefix("stray: ") for line in lines(dry.out, "stray")}
    assert kinds == {"attempt", "refused attempt", "spill", "file", "temporary", "foreign"}
    removable = [path for path, may in left.values() if may]
    assert dry.out.count("would be removed  ") == len(removable)
    assert f"{len(removable)} would be removed" in dry.out
    assert all(path.exists() for path, _ in left.values())

    done = jobs.ok("fsck", store, "--delete")
    assert f"{len(removable)} removed" in done.out
    assert {kind for kind, (path, may) in left.items() if path.exists() == may} == set()
    assert not (jobs.partition_root(store) / "v-0").exists(), "an empty folder is left"
    after = set(jobs.files_below(store)) - {
        str(path.relative_to(store)) for path, may in left.values() if not may
    }
    assert after == set(before)
    assert all((store / path).read_bytes() == data for path, data in before.items())
    jobs.ok("fsck", store, "--verify")


@pytest.mark.parametrize(
    ("days", "option", "removed"),
    [
        (2.9, [], False), (3.1, [], True), (0.9, ["--older-than", "1d"], False),
        (1.1, ["--older-than", "1d"], True), (0.04, ["--older-than", "1h"], False),
        (0.05, ["--older-than", "1h"], True), (-1, ["--older-than", "1h"], False),
    ],
)  # fmt: skip
def test_only_what_is_old_enough_is_removed(
    store: pathlib.Path, days: float, option: list[str], removed: bool
) -> None:
    attempt = jobs.partition_root(store) / "v-0" / "attempt-0"
    leave(attempt / "events" / "old.parquet", 30)
    leave(attempt / "events" / "new.parquet", days)  # the newest file protects the attempt
    jobs.ok("fsck", store, "--delete", *option)
    assert attempt.exists() != removed


def test_a_stray_whose_age_is_unknown_stays(
    store: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that does not tell when a file was written."""
    left = leave(jobs.partition_root(store) / "v-0" / "attempt-0" / "x", 30)
    monkeypatch.setattr(
        faulty.FaultyFileSystem, "_list",
        lambda _, prefix: iter(
            faulty.FileMetadata(each.path, each.size_in_bytes) for each in faulty._under(prefix)
        ),
    )  # fmt: skip
    ended = jobs.ok("fsck", faulty.url(store), "--delete")
    assert "unknown" in lines(ended.out, "stray")[0]
    assert left.exists()


def test_it_works_on_any_file_system(store: pathlib.Path) -> None:
    left = strays_of(store)
    ended = jobs.ok("fsck", faulty.url(store), "--delete", "--verify")
    assert len(lines(ended.out, "stray")) == len(left)
    assert all(path.exists() != may for path, may in left.values())
    (jobs.partition_root(store) / "CURRENT.json").write_text("{")
    assert jobs.call("fsck", faulty.url(store)).code == 3


def test_an_attempt_that_comes_to_life_meanwhile_stays(
    store: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing and the removal a run writes on, or commits."""
    root = jobs.partition_root(store)
    current = jobs.partition(store)
    writes = leave(root / "v-0" / "attempt-0" / "x", 30)
    commits = root / "v-copied"
    shutil.copytree(root / current.version, commits)
    (commits / "manifest.json").unlink()
    age(commits, 30)
    whole = fsck.remove

    def late(*args: object) -> list[fsck.Stray]:
        leave(root / "v-0" / "attempt-0" / "y", 0)
        renamed = current.model_copy(update={"version": "v-copied"})
        (commits / "manifest.json").write_bytes(renamed.to_json())
        return whole(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(fsck, "remove", late)
    ended = jobs.ok("fsck", store, "--delete")
    assert "2 strays: 0 removed (0.0 MB), 2 kept" in ended.out
    assert writes.exists()
    rig.read_whole(root, manifest.load(str(root), "v-copied"))


def test_problems_of_published_versions_are_named_and_end_with_3(store: pathlib.Path) -> None:
    root = jobs.partition_root(store)
    current = jobs.partition(store)
    gone, cut, changed = [
        pathlib.Path(manifest.file_path(str(root), current, entry)) for entry in current.files[:3]
    ]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    quick = jobs.call("fsck", store)
    assert quick.code == 3
    assert [
        line for line in lines(quick.out, "problem") if str(gone) in line and "not there" in line
    ]
    assert [line for line in lines(quick.out, "problem") if str(cut) in line and "bytes" in line]
    assert len(lines(quick.out, "problem")) == 2
    slow = jobs.call("fsck", store, "--verify")
    assert len(lines(slow.out, "problem")) == 3
    assert [line for line in lines(slow.out, "problem") if str(changed) in line]
    assert slow.err.startswith("playhead fsck: 3 problems")


@pytest.mark.parametrize("damaged", ["manifest.json", "CURRENT.json", "digest", "nowhere"])
def test_with_a_damaged_manifest_or_pointer_nothing_is_removed(
    store: pathlib.Path, damaged: str
) -> None:
    root = jobs.partition_root(store)
    current = jobs.partition(store)
    left = leave(root / "v-0" / "attempt-0" / "x", 30)
    elsewhere = leave(jobs.partition_root(store, rig.D6) / "v-0" / "attempt-0" / "x", 30)
    if damaged == "manifest.json":
        (root / current.version / "manifest.json").write_text("{")
    elif damaged == "CURRENT.json":
        (root / "CURRENT.json").write_text("")
    else:
        version = current.version if damaged == "digest" else "v-nowhere"
        pointer = {"version": version, "digest": "0" * 64}
        (root / "CURRENT.json").write_text(json.dumps(pointer))
    ended = jobs.call("fsck", store, "--delete")
    assert ended.code == 3
    assert len(lines(ended.out, "problem")) == 1
    assert left.exists()
    assert not elsewhere.exists()
    for entry in current.files:
        assert os.path.exists(manifest.file_path(str(root), current, entry))


def test_a_version_that_is_not_current_yet_is_noted(store: pathlib.Path) -> None:
    root = jobs.partition_root(store)
    current = jobs.partition(store)
    (root / "CURRENT.json").unlink()
    assert "none is current" in lines(jobs.ok("fsck", store).out, "note")[0]
    (older,) = [each for each in rig.committed(root) if each.version != current.version]
    manifest.set_current(str(root), older)
    assert f"{current.version} is published and later" in jobs.ok("fsck", store).out


def test_a_file_that_another_version_lists_is_no_stray(tmp_path: pathlib.Path) -> None:
    """What is referenced is decided over all manifests, whatever folder a file lies in."""
    listing = [
        storage.Listed(f"{tmp_path}/v-1/attempt-1/train/{name}.parquet", 2, 0.0) for name in "ab"
    ]
    entry = manifest.FileEntry(
        path="train/a.parquet", role="train", rows=1, bytes=2, sha256="0" * 64
    )
    root = fsck.Root(str(tmp_path), listing, {}, {}, None, [])
    (stray,) = fsck.examine(root, {listing[0].path: entry}).strays
    assert (stray.kind, stray.path, stray.files) == ("file", listing[1].path, (listing[1],))


def test_what_is_no_root_is_one_line(made: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "home" / "v-1").mkdir(parents=True)
    (tmp_path / "home" / "v-1" / "letter.txt").touch()
    version = next((made / "dataset").glob("2026*"))
    for path, part in (
        (tmp_path / "none", "got nothing"), (tmp_path / "home", "got other files"),
        (version, "is one version"),
    ):  # fmt: skip
        ended = jobs.call("fsck", path, "--delete")
        assert (ended.code, ended.out) == (2, "")
        assert part in ended.err
        assert len(ended.err.splitlines()) == 1
    for wrong in ("3", "0d", "-1d", "3w", "1.5d", "", "59m"):
        ended = jobs.call("fsck", made / "store", f"--older-than={wrong}")
        assert ended.code == 2
        assert "at least 1h" in ended.err


def test_a_store_that_forgot_somebody_is_whole(tmp_path: pathlib.Path) -> None:
    """Withdrawn versions lack files on purpose, and are said; tombstones are no strays."""
    raw = jobs.write(tmp_path / "raw.parquet", jobs.plays(40))
    jobs.ingest(raw, tmp_path / "store", "--buckets", 2)
    jobs.ok("forget", "--store", tmp_path / "store", "--user", "u3")
    ended = jobs.ok("fsck", tmp_path / "store", "--verify")
    assert "no strays" in ended.out
    assert "withdrawn for a deletion" in ended.out + ended.err
