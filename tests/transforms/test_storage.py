"""Files: atomic creation above all, since publishing stands on it."""

from __future__ import annotations

import errno
import hashlib
import os
import pathlib
import subprocess
import sys
import threading

import google_crc32c
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.crashes import faulty
from tests.jobs import REPOSITORY
from transforms import storage
from transforms.errors import UsageError

RACE = """
import sys
from transforms import storage
me, folder = sys.argv[1:]
sys.stdin.readline()
for i in range(25):
    if storage.create_if_absent(f"{folder}/{i}", me.encode() * 200_000):
        print(i)
"""


def test_of_many_threads_exactly_one_creates_the_file(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "deep" / "manifest.json")
    start, won = threading.Barrier(24), []

    def race(me: int) -> None:
        start.wait()
        if storage.create_if_absent(path, b"%02d" % me * 50_000):
            won.append(me)

    threads = [threading.Thread(target=race, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    assert storage.read_bytes(path) == b"%02d" % winner * 50_000
    assert storage.list_folder(str(tmp_path / "deep")) == ["manifest.json"]


def test_of_many_processes_exactly_one_creates_each_file_and_none_is_seen_in_part(
    tmp_path: pathlib.Path,
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, me, str(tmp_path)],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for me in "abcd"
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    while any(process.poll() is None for process in processes):
        for i in range(25):
            path = tmp_path / str(i)
            if path.exists():
                seen = path.read_bytes()
                assert len(seen) == 200_000
                assert len(set(seen)) == 1
    won = [line for process in processes for line in process.communicate()[0].split()]
    assert sorted(won, key=int) == [str(i) for i in range(25)]
    assert len(list(tmp_path.iterdir())) == 25


def test_an_existing_file_is_left_alone(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "a")
    assert storage.create_if_absent(path, b"first")
    assert not storage.create_if_absent(path, b"second")
    assert storage.read_bytes(path) == b"first"


def test_a_create_that_fails_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for write in (storage.create_if_absent, storage.replace):
        with pytest.raises(OSError, match=r"No space.*/a'"):
            write(str(tmp_path / "a"), b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_scheme_without_conditional_create_is_refused() -> None:
    with pytest.raises(UsageError, match="gs://"):
        storage.create_if_absent("gs://bucket/manifest.json", b"x")


def test_replace_is_whole_for_every_reader(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "CURRENT.json")
    storage.replace(path, b"0" * 300_000)
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(storage.read_bytes(path))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(1, 40):
        storage.replace(path, str(i % 10).encode() * 300_000)
    done.set()
    reader.join()
    assert all(len(each) == 300_000 and len(set(each)) == 1 for each in seen)
    assert storage.list_folder(str(tmp_path)) == ["CURRENT.json"]


def test_checksums_are_those_of_the_standards(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a"
    for data in (b"", b"123456789", b"x" * (3 << 20)):
        path.write_bytes(data)
        assert storage.sha256(str(path)) == (hashlib.sha256(data).hexdigest(), len(data))
        assert storage.checksum(str(path)) == f"{google_crc32c.value(data):08x}"
    path.write_bytes(b"123456789")
    assert storage.checksum(str(path)) == "e3069283"


def test_a_missing_file_is_not_an_empty_one(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(str(tmp_path / "none"))
    assert storage.list_folder(str(tmp_path / "none")) == []
    storage.delete_tree(str(tmp_path / "none"))


def test_files_are_listed_in_order_without_folders(tmp_path: pathlib.Path) -> None:
    (tmp_path / "c").mkdir()
    for name in ("b", "a", "c/x"):
        (tmp_path / name).write_text(name)
    listed = storage.list_files(f"{tmp_path}/*")
    assert listed == [(f"{tmp_path}/a", 1), (f"{tmp_path}/b", 1)]


@pytest.mark.parametrize("name", ["plain", "with space", "a[1]b", "a*b", "a?b", "ü\U0001f3b5"])
def test_a_tree_is_deleted_whatever_its_name_and_nothing_else(
    tmp_path: pathlib.Path, name: str
) -> None:
    for folder in (name, "a1b", "axxb"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "deep" / "file").write_text("x")
    storage.delete_tree(str(tmp_path / name / "deep"))
    assert storage.list_folder(str(tmp_path / name)) == []
    assert (tmp_path / "a1b" / "deep" / "file").exists()
    assert (tmp_path / "axxb" / "deep" / "file").exists()


def test_only_an_empty_folder_is_removed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for name in ("empty", "full", "none"):
        storage.delete_if_empty(str(tmp_path / name))
    assert storage.list_folder(str(tmp_path)) == ["full"]


def test_an_error_of_writing_names_the_path_whoever_wrote(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a full disk, of a library that says it in its own words, and of one that does not say."""
    table = pl.DataFrame({"a": range(100_000)})
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    for write in (
        lambda stream: stream.write(bytes(1 << 20)),
        lambda stream: table.write_ipc(stream, compression="uncompressed"),
        lambda stream: pq.write_table(table.to_arrow(), stream),
    ):
        with pytest.raises(OSError) as caught, storage.writing(str(path)) as stream:
            write(stream)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    with pytest.raises(OSError) as caught, storage.writing(str(tmp_path / "a")):
        raise OSError("something of its own")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "a"))
    assert caught.value.strerror == "something of its own"


def test_a_swap_happens_if_nothing_changed_meanwhile(tmp_path: pathlib.Path) -> None:
    for root in (str(tmp_path), faulty.url(tmp_path / "remote")):
        path = f"{root}/CURRENT.json"
        assert not storage.swap(path, b"1", b"2")
        assert storage.swap(path, None, b"1")
        assert not storage.swap(path, None, b"2")
        assert not storage.swap(path, b"0", b"2")
        assert storage.swap(path, b"1", b"2")
        assert storage.read_bytes(path) == b"2"


def test_of_many_threads_each_swap_is_one_step(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "counter")
    storage.swap(path, None, b"0")

    def count() -> None:
        for _ in range(20):
            while not storage.swap(path, now := storage.read_bytes(path), b"%d" % (int(now) + 1)):
                pass

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read_bytes(path) == b"80"
    assert storage.list_folder(str(tmp_path)) == ["counter"]


def test_a_tree_is_listed_with_sizes_and_times_and_links_are_not_followed(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x").write_bytes(b"123")
    (tmp_path / "a" / "empty").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    os.utime(tmp_path / "a" / "deep" / "x", (7, 7))
    found = storage.list_tree(str(tmp_path))
    assert [each.path.removeprefix(f"{tmp_path}/") for each in found] == [
        "a/deep/x",
        "a/empty/",
        "b",
    ]
    assert (found[0].bytes, found[0].modified_s) == (3, 7.0)
    assert storage.list_tree(str(tmp_path / "none")) == []
    storage.delete_files([each.path for each in found], str(tmp_path))
    assert list(tmp_path.iterdir()) == []
