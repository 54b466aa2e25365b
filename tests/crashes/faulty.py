"""File systems that fail on demand: which operation of a job, and in what way, is a script.

* `faulty:///some/folder` is a Beam file system over a local folder, with the manners of an object
  store: what is written appears as a whole when the stream is closed, there are no folders, and a
  file can be put on a condition.
* `local(script)` does the same to the local operations of `transforms.storage`, which do not pass
  through Beam: links, syncs, renames, and files that can be seen while they are written.

Operations are numbered from 0 in the order in which they come.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import enum
import errno
import io
import os
import pathlib
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from apache_beam.io.filesystems import FileSystems

from transforms import storage

SCHEME = "faulty"
T = TypeVar("T")


class Mode(enum.Enum):
    """How an operation goes wrong."""

    BEFORE = "before"  # it raises and did nothing
    AFTER = "after"  # it raises, but did it: the answer is lost
    PARTIAL = "partial"  # it raises and did half of it
    LATE = "late"  # it raises, and happens after the job has ended
    DELAY = "delay"  # it takes longer
    FULL = "full"  # it raises, for there is no space
    KILL = "kill"  # the process is gone before it
    KILL_HALF = "kill half"  # the process is gone in the middle of it
    KILL_AFTER = "kill after"  # the process is gone after it


KILLS = (Mode.KILL, Mode.KILL_HALF, Mode.KILL_AFTER)


@dataclasses.dataclass(frozen=True)
class Operation:
    """What a job asks of the file system."""

    number: int
    kind: str
    path: str

    @property
    def name(self) -> str:
        return os.path.basename(self.path.rstrip("/"))


# What is to be done about an operation; it may also wait, or call what it likes.
Script = Callable[[Operation], Mode | None]


def at(number: int, mode: Mode) -> Script:
    """One operation goes wrong."""
    return lambda operation: mode if operation.number == number else None


def nothing(_operation: Operation) -> None:
    """All goes well."""


class Plan:
    """A script, the operations that came, and what is still on its way."""

    def __init__(self, script: Script = nothing) -> None:
        self.script = script
        self.seen: list[Operation] = []
        self.done: list[tuple[Operation, Mode]] = []
        self._late: list[Callable[[], Any]] = []
        self._lock = threading.Lock()

    def run(
        self, kind: str, path: str, act: Callable[[], T], half: Callable[[], Any] | None = None
    ) -> T:
        """Performs an operation, or not; `half` is what PARTIAL does."""
        with self._lock:
            operation = Operation(len(self.seen), kind, path)
            self.seen.append(operation)
        mode = self.script(operation)
        if mode is None:
            return act()
        self.done.append((operation, mode))
        if mode is Mode.DELAY:
            time.sleep(0.01)
            return act()
        if mode is Mode.LATE:
            self._late.append(act)
        elif mode in (Mode.PARTIAL, Mode.KILL_HALF) and half is not None:
            half()
        elif mode in (Mode.AFTER, Mode.KILL_AFTER):
            act()
        if mode in KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        code = errno.ENOSPC if mode is Mode.FULL else errno.EIO
        raise OSError(code, os.strerror(code), path)

    def land(self) -> None:
        """What was on its way arrives."""
        for act in self._late:
            with contextlib.suppress(OSError):
                act()
        self._late.clear()


_plan = Plan()


@contextlib.contextmanager
def remote(plan: Plan) -> Iterator[Plan]:
    """`faulty://` follows a plan inside the block."""
    global _plan
    before, _plan = _plan, plan
    try:
        yield plan
    finally:
        _plan = before


# --- faulty:// ------------------------------------------------------------------------------------


def url(path: pathlib.Path | str) -> str:
    return f"{SCHEME}://{path}"


def _local(path: str) -> str:
    return path.removeprefix(f"{SCHEME}://")


def _put(path: str, data: bytes) -> None:
    """Locally what a put is to an object store: whole or not at all."""
    target = pathlib.Path(_local(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent.parent / f".{threading.get_ident()}.put"
    temporary.write_bytes(data)
    temporary.replace(target)


class _Object(io.BytesIO):
    """A stream whose bytes appear when it is closed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def write(self, data: Any) -> int:
        return _plan.run("write", self._path, lambda: super(_Object, self).write(data))

    def close(self) -> None:
        if self.closed:
            return
        data = self.getvalue()
        super().close()
        _plan.run(
            "close", self._path, lambda: _put(self._path, data),
            lambda: _put(self._path, data[: len(data) // 2]),
        )  # fmt: skip

    def __del__(self) -> None:
        super().close()  # an upload that nobody closed is given up


class FaultyFileSystem(FileSystem):
    """A local folder behind `faulty://`."""

    @classmethod
    def scheme(cls) -> str:
        return SCHEME

    def join(self, basepath: str, *paths: str) -> str:
        return storage.join(basepath, *paths)

    def split(self, path: str) -> tuple[str, str]:
        head, tail = path.rsplit("/", 1)
        return head, tail

    def mkdirs(self, path: str) -> None:
        raise NotImplementedError

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        return iter(_plan.run("list", dir_or_prefix, lambda: list(_under(dir_or_prefix))))

    def create(self, path: str, *_: Any, **__: Any) -> BinaryIO:
        return _plan.run("create", path, lambda: _Object(path))

    def open(self, path: str, *_: Any, **__: Any) -> BinaryIO:
        return _plan.run("open", path, lambda: open(_local(path), "rb"))

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise NotImplementedError

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise NotImplementedError

    def exists(self, path: str) -> bool:
        return _plan.run("exists", path, lambda: os.path.isfile(_local(path)))

    def size(self, path: str) -> int:
        return int(self.metadata(path).size_in_bytes)

    def last_updated(self, path: str) -> float:
        return float(self.metadata(path).last_updated_in_seconds)

    def checksum(self, path: str) -> str:
        return _plan.run("checksum", path, lambda: str(os.path.getsize(_local(path))))

    def metadata(self, path: str) -> FileMetadata:
        stat = os.stat(_local(path))
        return _plan.run("metadata", path, lambda: FileMetadata(path, stat.st_size, stat.st_mtime))

    def delete(self, paths: list[str]) -> None:
        def remove(chosen: list[str]) -> None:
            for path in chosen:
                if not os.path.isfile(_local(path)):
                    raise BeamIOError("Delete operation failed", {path: "no such file"})
                os.unlink(_local(path))

        _plan.run(
            "delete", paths[0] if paths else "", lambda: remove(paths),
            lambda: remove(paths[: len(paths) // 2]),
        )  # fmt: skip


def _under(prefix: str) -> Iterator[FileMetadata]:
    start = _local(prefix)
    for folder, _, names in os.walk(start if start.endswith("/") else os.path.dirname(start)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if path.startswith(start) and not name.endswith(".put"):
                stat = os.stat(path)
                yield FileMetadata(url(path), stat.st_size, stat.st_mtime)


_conditions = threading.Lock()


def _conditional_put(path: str, data: bytes, expected: bytes | None) -> bool:
    def put() -> bool:
        with _conditions:
            file = pathlib.Path(_local(path))
            if (file.read_bytes() if file.exists() else None) != expected:
                return False
            _put(path, data)
            return True

    return _plan.run("put", path, put)


storage.register_conditional_put(SCHEME, _conditional_put)
assert FileSystems.get_scheme(url("/")) == SCHEME


# --- local ----------------------------------------------------------------------------------------


class _File:
    """A local file that is written; what is written can be seen at once."""

    def __init__(self, plan: Plan, path: str) -> None:
        self._plan, self._path = plan, path
        self._file = builtins.open(path, "wb", buffering=0)  # noqa: SIM115

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        return self._plan.run(
            "write", self._path, lambda: self._file.write(view),
            lambda: self._file.write(view[: len(view) // 2]),
        )  # fmt: skip

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
            self._plan.run("close", self._path, lambda: None)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Os:
    """`os` with counted operations."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        whole = getattr(os, name)
        if name not in ("link", "unlink", "replace", "makedirs", "rmdir", "fsync", "listdir"):
            return whole

        def call(*args: Any, **kwargs: Any) -> Any:
            path = args[-1]
            if name == "fsync":
                path = os.readlink(f"/proc/self/fd/{path}")
            return self._plan.run(name, str(path), lambda: whole(*args, **kwargs))

        return call


class _Shutil:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def rmtree(self, path: str, ignore_errors: bool = False) -> None:
        def half() -> None:
            found = sorted(file for file in pathlib.Path(path).rglob("*") if file.is_file())
            for file in found[: len(found) // 2]:
                file.unlink()

        # As the real one with ignore_errors: what cannot be deleted stays.
        with contextlib.suppress(OSError if ignore_errors else ()):
            self._plan.run(
                "rmtree", path, lambda: shutil.rmtree(path, ignore_errors=ignore_errors), half
            )


@contextlib.contextmanager
def local(plan: Plan) -> Iterator[Plan]:
    """`transforms.storage` follows a plan on local paths inside the block."""

    def counted(path: str, mode: str = "r") -> Any:
        if mode == "rb":
            return plan.run("open", path, lambda: builtins.open(path, mode))
        return plan.run("create", path, lambda: _File(plan, path))

    fakes = {"os": _Os(plan), "open": counted, "shutil": _Shutil(plan)}
    before = {name: vars(storage)[name] for name in fakes if name in vars(storage)}
    vars(storage).update(fakes)
    try:
        yield plan
    finally:
        del vars(storage)["open"]
        vars(storage).update(before)
