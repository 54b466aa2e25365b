"""Two committers of one root at once, in every order of their steps, and `fsck --delete` between.

A committer pauses in front of each operation that others can notice, or that looks at what others
did; a schedule says who goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import jobs
from tests.crashes import faulty, rig
from tests.crashes.faulty import Mode, Operation, Plan
from transforms import files, manifest, publish
from transforms.errors import DataRefusedError
from transforms.manifest import InputFileEntry, Manifest

STEPS = 5  # staged, before the manifest, before the pointer is read, and written, and after it


class Writer:
    """An attempt that is staged, and whose commit goes step by step."""

    def __init__(self, root: pathlib.Path, name: str, version: str, **more: Any) -> None:
        paths = more.pop("paths", ["raw/a"])
        self.name = name
        self.draft = publish.Draft(
            **{
                "root": faulty.url(root), "kind": "events", "name": "2026-01-05",
                "version": version, "fingerprint": version, "code_version": "0", "config": {},
                "columns": (), "attempt": f"attempt-{name}", "started_at": f"2026-01-05T00:0{name}",
                "inputs": tuple(InputFileEntry(path=p, bytes=1, checksum="0") for p in paths),
                "runner": "r", **more,
            }
        )  # fmt: skip
        rows = jobs.table(jobs.plays(len(version)))
        entry = files.write_table(rows, self.draft.attempt_root, "events/a.parquet", "events")
        self._entries = [entry.model_dump_json()]
        self.error: BaseException | None = None
        self._turn, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._commit, name=name, daemon=True)
        self.done = False

    def _commit(self) -> None:
        self._turn.acquire()
        commit = publish._CommitFn(self.draft, lambda *_: [], publish.FinishRows("events"))
        try:
            list(commit.process(0, self._entries, ['{"kept": 1}'], [], []))
        except Exception as error:
            self.error = error
        self.done = True
        self._paused.release()

    def pause(self) -> None:
        self._paused.release()
        self._turn.acquire()

    def start(self) -> None:
        self._thread.start()

    def step(self) -> None:
        """Goes on until the next pause."""
        if not self.done:
            self._turn.release()
            assert self._paused.acquire(timeout=60)


def pausing(writers: list[Writer]) -> Callable[[Operation], Mode | None]:
    by_thread = {writer.name: writer for writer in writers}
    staged: set[str] = set()

    def script(operation: Operation) -> None:
        writer = by_thread.get(threading.current_thread().name)
        if writer is None:
            return
        looks = operation.kind == "open" and operation.name == "CURRENT.json"
        if operation.kind in ("put", "delete") or looks:
            # The first look at the pointer comes with the staging.
            if looks and writer.name not in staged:
                staged.add(writer.name)
                return
            writer.pause()

    return script


def schedules(names: str) -> Iterator[tuple[str, ...]]:
    """Every order of the steps of two writers."""
    length = STEPS * 2
    for first in itertools.combinations(range(length), STEPS):
        yield tuple(names[0] if i in first else names[1] for i in range(length))


def interleave(
    root: pathlib.Path, writers: list[Writer], schedule: tuple[str, ...], between: Any = None
) -> None:
    """Runs writers to their end in an order; readers look after each step."""
    by_name = {writer.name: writer for writer in writers}
    with faulty.remote(Plan(pausing(writers))):
        for writer in writers:
            writer.start()
        rest = [name for name in by_name for _ in range(4 * STEPS)]
        for number, name in enumerate([*schedule, *rest]):
            if between is not None and between[0] == number:
                between[1]()
            by_name[name].step()
            current = manifest.require_current(str(root), "it")
            rig.read_whole(root, current)
        assert all(writer.done for writer in writers)


def first_version(root: pathlib.Path) -> Manifest:
    """What is there before."""
    writer = Writer(root, "0", "v-0")
    writer.start()
    writer.step()
    assert writer.error is None
    assert writer.done
    return manifest.require_current(str(root), "it")


def attempts(root: pathlib.Path, version: str) -> list[str]:
    """Those that have files."""
    return sorted({path.parent.parent.name for path in (root / version).rglob("*.parquet")})


@pytest.fixture(autouse=True)
def in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers do not share what a process has for its attempts."""
    monkeypatch.setattr(publish, "_abandoned", set())
    monkeypatch.setattr(publish, "_committing", contextlib.nullcontext())


def test_of_two_runs_of_the_same_work_one_is_published(tmp_path: pathlib.Path) -> None:
    won = set()
    for number, schedule in enumerate(schedules("12")):
        root = tmp_path / str(number)
        first_version(root)
        writers = [Writer(root, name, "v-same") for name in "12"]
        interleave(root, writers, schedule)
        assert [writer.error for writer in writers] == [None, None], schedule
        current = manifest.require_current(str(root), "it")
        assert current.version == "v-same"
        assert attempts(root, "v-same") == [current.run.attempt]
        won.add(current.run.attempt)
    assert won == {"attempt-1", "attempt-2"}


def test_of_two_versions_that_one_began_later_stays_current(tmp_path: pathlib.Path) -> None:
    for number, schedule in enumerate(schedules("12")):
        root = tmp_path / str(number)
        first_version(root)
        writers = [Writer(root, "1", "v-older"), Writer(root, "2", "v-newest")]
        interleave(root, writers, schedule)
        assert [writer.error for writer in writers] == [None, None], schedule
        assert manifest.require_current(str(root), "it").version == "v-newest", schedule
        for version, name in (("v-older", "1"), ("v-newest", "2")):
            assert attempts(root, version) == [f"attempt-{name}"]


def test_of_two_versions_made_of_other_files_the_second_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    """A day is one complete set of files, for runs at once as for runs one after the other."""
    won, published = set(), 0
    for number, schedule in enumerate(schedules("12")):
        root = tmp_path / str(number)
        first_version(root)
        writers = [
            Writer(root, "1", "v-b", paths=["raw/a", "raw/b"], keep_inputs=True),
            Writer(root, "2", "v-cc", paths=["raw/a", "raw/c"], keep_inputs=True),
        ]
        interleave(root, writers, schedule)
        (loser,) = [writer for writer in writers if writer.error is not None]
        (winner,) = [writer for writer in writers if writer.error is None]
        assert isinstance(loser.error, DataRefusedError)
        assert "one complete set of files" in str(loser.error)
        current = manifest.require_current(str(root), "it")
        assert current.run.attempt == winner.draft.attempt, schedule
        won.add(winner.name)
        beside = len(rig.committed(root)) - 2
        assert not (beside and number == 0), "the second saw the first, and published"
        published += beside
    assert won == {"1", "2"}
    assert published  # in some orders the loser is published beside the winner, but not current


def test_a_removal_of_strays_between_the_steps_takes_nothing_that_counts(
    tmp_path: pathlib.Path,
) -> None:
    for number, (schedule, moment) in enumerate(
        itertools.product(list(schedules("12"))[::18], range(2 * STEPS))
    ):
        root = tmp_path / str(number)
        first_version(root)
        writers = [Writer(root, name, "v-same") for name in "12"]
        dead = root / "v-dead" / "attempt-dead" / "events" / "a.parquet"
        dead.parent.mkdir(parents=True)
        dead.touch()
        os.utime(dead, (0, 1))
        sweep = moment, lambda: jobs.ok("fsck", faulty.url(root), "--delete")  # noqa: B023
        interleave(root, writers, schedule, sweep)
        assert not dead.exists()
        assert [writer.error for writer in writers] == [None, None]
        current = manifest.require_current(str(root), "it")
        assert (current.version, attempts(root, "v-same")) == ("v-same", [current.run.attempt])


def test_an_attempt_whose_files_were_taken_away_is_refused(tmp_path: pathlib.Path) -> None:
    """As from a run that stood still for longer than the age that strays are removed at."""
    root = tmp_path / "root"
    before = first_version(root)
    for name, change in (("1", pathlib.Path.unlink), ("2", lambda path: path.write_bytes(b"PAR"))):
        writer = Writer(root, name, "v-1")
        change(root / "v-1" / f"attempt-{name}" / "events" / "a.parquet")
        writer.start()
        writer.step()
        assert isinstance(writer.error, DataRefusedError)
        assert "was removed or changed while this run was at work" in str(writer.error)
        assert manifest.require_current(str(root), "it") == before


def test_an_attempt_that_was_given_up_does_not_commit_later(tmp_path: pathlib.Path) -> None:
    """As a thread that goes on while the interrupted main thread cleans up."""
    root = tmp_path / "root"
    before = first_version(root)
    writer = Writer(root, "1", "v-1")
    assert publish.abandon(writer.draft)
    writer.start()
    writer.step()
    assert isinstance(writer.error, InterruptedError)
    assert rig.committed(root) == [before]
    published = Writer(root, "2", "v-1")
    published.start()
    published.step()
    assert not publish.abandon(published.draft), "its files are those of a version"


def test_runs_one_after_the_other_are_in_order_whatever_the_clocks_say(
    tmp_path: pathlib.Path,
) -> None:
    root = tmp_path / "root"
    assert publish.begin(str(root)) <= publish.utc_now()
    ahead = Writer(root, "1", "v-1", started_at="2999-12-31T23:59:59.999999+00:00")
    ahead.start()
    ahead.step()
    assert ahead.error is None
    started_at = publish.begin(str(root))
    assert started_at == "3000-01-01T00:00:00.000000+00:00"
    later = Writer(root, "2", "v-2", started_at=started_at)
    later.start()
    later.step()
    assert manifest.require_current(str(root), "it").version == "v-2"
