"""Jobs small enough to be run once for each of their operations, and what holds after each."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from tests import jobs
from tests.crashes import faulty
from tests.crashes.faulty import Plan
from transforms import manifest
from transforms.manifest import Manifest

D5, D6, D7 = (datetime.date(2026, 1, day) for day in (5, 6, 7))
SPEC = """
kind: ranking
name: ranking
output: {shards: 2}
labels: {lateness_days: 0, horizon_hours: 2}
"""


@dataclasses.dataclass(frozen=True)
class Job:
    """A job over a place that holds a version already.

    Attributes:
      before: folder as it is before the job; never written to.
      root: of the versions, relative to the folder.
      argv: (folder as the job sees it, path of a made input as the job sees it) -> command line.
      old, new: the manifests before and after a clean run.
    """

    name: str
    before: pathlib.Path
    root: str
    argv: Callable[[str], list[Any]]
    old: Manifest
    new: Manifest
    remote: bool

    def __str__(self) -> str:
        return f"{self.name}-{'remote' if self.remote else 'local'}"

    def copy(self, place: pathlib.Path) -> Place:
        shutil.copytree(self.before, place)
        return Place(self, place)


@dataclasses.dataclass(frozen=True)
class Place:
    """A copy of what there was before a job, for one run that goes wrong."""

    job: Job
    folder: pathlib.Path

    @property
    def root(self) -> pathlib.Path:
        return self.folder / self.job.root

    def command(self) -> list[str]:
        where = faulty.url(self.folder) if self.job.remote else str(self.folder)
        return [str(each) for each in self.job.argv(where)]

    def run(self, plan: Plan) -> jobs.Ended:
        with following(plan, self.job.remote):
            return jobs.call(*self.command())

    def check(self, ended: jobs.Ended | None, said: str) -> None:
        """What holds whatever went wrong: readers see one whole version, and it was told."""
        current = manifest.load_current(str(self.root))
        assert current is not None, said
        old, new = self.job.old.digest(), self.job.new.digest()
        assert current.digest() in (old, new), said
        for found in committed(self.root):
            assert found.digest() in (old, new), said
            read_whole(self.root, found)
        if ended is not None and ended.code == 0:
            assert current.digest() == new, said
        if ended is not None and ended.code != 0:
            assert f"\nplayhead {self.job.name}: " in f"\n{ended.err}", f"{said}: {ended.err}"
            assert "Traceback" not in ended.err, f"{said}: {ended.err}"

    def settle(self, said: str) -> None:
        """The same command again, with nothing in its way, makes what a clean run makes."""
        ended = self.run(Plan())
        assert ended.code == 0, f"{said}: {ended.err}"
        self.check(ended, said)
        versions = [found.version for found in committed(self.root)]
        assert sorted(versions) == sorted({self.job.old.version, self.job.new.version}), said


def committed(root: pathlib.Path) -> list[Manifest]:
    """Every version there is."""
    found = [manifest.load(str(root), path.parent.name) for path in root.glob("*/manifest.json")]
    return [each for each in found if each is not None]


def read_whole(root: pathlib.Path, found: Manifest) -> None:
    for entry in found.files:
        manifest.read_verified(manifest.file_path(str(root), found, entry), entry)


@contextlib.contextmanager
def following(plan: Plan, remote: bool) -> Iterator[None]:
    """Operations follow a plan, and come in the same order each time."""
    fails = faulty.remote if remote else faulty.local
    with mock.patch.object(os, "cpu_count", return_value=1), fails(plan):
        yield


def job(name: str, made: pathlib.Path) -> Job:
    """`ingest` or `build`, `-local` or `-remote`; made in a folder once, and found there again."""
    kind, where = name.split("-")
    return {"ingest": ingest_job, "build": build_job}[kind](made, where == "remote")


def ingest_job(made: pathlib.Path, remote: bool) -> Job:
    """A day that is ingested again, with a file more: plays, a broken row, users above the cap."""
    raw, before = made / "raw", made / "before"
    see = faulty.url if remote else str

    def argv(folder: str) -> list[Any]:
        return jobs.ingest_argv(
            see(raw / "*.parquet"), f"{folder}/store",
            "--buckets", 2, "--max-quarantine", 1, "--max-user-events", 5,
        )  # fmt: skip

    if not before.exists():
        jobs.write(raw / "a.parquet", jobs.plays(30))
        jobs.ok(*argv(see(before)))
        broken = jobs.event(event_id="broken", played_ms=-1)
        jobs.write(raw / "b.parquet", [*jobs.plays(40), broken])
    return _job("ingest", before, f"store/events/dt={jobs.DAY}", argv, remote)


def build_job(made: pathlib.Path, remote: bool) -> Job:
    """A dataset that gets a version of the next day."""
    store, before = made / "store", made / "before"
    see = faulty.url if remote else str

    def argv(folder: str, day: datetime.date = D6) -> list[Any]:
        return jobs.build_argv(
            see(store), made / "spec.yaml", day, day, f"{folder}/dataset", "--allow-missing"
        )

    if not before.exists():
        for day in (D5, D6, D7):
            raw = jobs.write(made / "raw" / f"{day}.parquet", jobs.plays(40, day=day))
            jobs.ingest(raw, store, "--date", day, "--buckets", 2)
        (made / "spec.yaml").write_text(SPEC)
        jobs.ok(*argv(see(before), D5))
    return _job("build", before, "dataset", argv, remote)


def _job(
    name: str, before: pathlib.Path, root: str, argv: Callable[[str], list[Any]], remote: bool
) -> Job:
    clean = before.with_name("clean")
    if not clean.exists():
        shutil.copytree(before, clean)
        jobs.ok(*argv(faulty.url(clean) if remote else str(clean)))
    old, new = (manifest.require_current(str(each / root), "it") for each in (before, clean))
    assert old.digest() != new.digest()
    return Job(name, before, root, argv, old, new, remote)
