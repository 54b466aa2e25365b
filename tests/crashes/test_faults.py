"""Every operation of a small job goes wrong in every way, and readers never notice.

`make test` takes every operation of the commit, and one of each kind of the others; PLAYHEAD_SOAK=1
takes all of them.
"""

from __future__ import annotations

import collections
import os
import pathlib
from typing import Any

import pytest

from tests.crashes import rig
from tests.crashes.faulty import Mode, Operation, Plan, at
from transforms import manifest

SOAK = bool(os.environ.get("PLAYHEAD_SOAK"))
# What decides which version there is: all of these go wrong in every way, always.
COMMIT_FILES = ("manifest.json", "CURRENT.json", "store.json")
COMMIT_KINDS = ("put", "link", "replace", "delete", "rmtree")
WITH_HALVES = ("write", "close", "delete", "rmtree")
WITH_LATENESS = ("put", "close", "delete")


@pytest.fixture(
    scope="module",
    params=["ingest-remote", "ingest-local", "build-local", *(["build-remote"] if SOAK else [])],
)
def job(request: Any, tmp_path_factory: pytest.TempPathFactory) -> rig.Job:
    return rig.job(request.param, tmp_path_factory.mktemp(request.param))


def ways(operation: Operation, remote: bool) -> list[Mode]:
    """How an operation can go wrong."""
    modes = [Mode.BEFORE, Mode.DELAY]
    if SOAK or remote or operation.kind in COMMIT_KINDS:  # a lost answer that others can notice
        modes.append(Mode.AFTER)
    if operation.kind in WITH_HALVES:
        modes.append(Mode.PARTIAL)
    if remote and operation.kind in WITH_LATENESS:
        modes.append(Mode.LATE)
    return modes


def of_commit(operation: Operation) -> bool:
    """Whether it decides which version there is."""
    changes = operation.kind not in ("open", "exists", "list", "checksum", "makedirs")
    named = any(name in operation.path for name in COMMIT_FILES)
    return operation.kind in COMMIT_KINDS or (named and changes)


def chosen(job: rig.Job, operations: list[Operation]) -> list[tuple[Operation, Mode]]:
    """What to let go wrong: all of the commit, and one of each kind and way of the others. The
    commit of a build is that of an ingest, but it takes twice as long to get there."""
    cases = []
    others = collections.defaultdict(list)
    for operation in operations:
        for mode in ways(operation, job.remote):
            exhaust = (
                of_commit(operation) if job.name == "ingest" else operation.kind in COMMIT_KINDS
            )
            if SOAK or (exhaust and mode is not Mode.DELAY):
                cases.append((operation, mode))
            elif mode is not Mode.DELAY:
                others[operation.kind, mode].append(operation)
    cases += [(found[len(found) // 2], mode) for (_, mode), found in others.items()]
    return cases


@pytest.mark.slow
@pytest.mark.timeout(7200 if SOAK else 1200)
def test_whatever_goes_wrong_readers_see_the_old_version_or_the_new_one(
    job: rig.Job, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    clean = Plan()
    place = job.copy(tmp_path / "clean")
    place.check(place.run(clean), "clean")
    cases = chosen(job, clean.seen)
    kinds = {operation.kind for operation in clean.seen}
    assert {operation.kind for operation, _ in cases} == kinds
    failed = 0
    request.node.user_properties.append(
        ("counted", f"{job}: {len(clean.seen)} operations, {len(cases)} faults")
    )
    for operation, mode in cases:
        said = f"{job} {operation} {mode}"
        place = job.copy(tmp_path / f"{operation.number}-{mode.name}")
        plan = Plan(at(operation.number, mode))
        ended = place.run(plan)
        assert len(plan.done) == 1, said
        if mode is Mode.DELAY:
            assert ended.code == 0, said
        place.check(ended, said)
        plan.land()
        place.check(None, said)
        place.settle(said)
        failed += ended.code != 0
    assert failed > len(cases) // 2  # most of it is not survived by luck


def test_an_operation_that_takes_long_changes_nothing(job: rig.Job, tmp_path: pathlib.Path) -> None:
    place = job.copy(tmp_path / "slow")
    plan = Plan(lambda operation: Mode.DELAY if operation.kind != "write" else None)
    place.check(place.run(plan), "slow")
    assert len(plan.done) > 50


@pytest.mark.slow
@pytest.mark.parametrize("job", ["ingest-local", "build-local"], indirect=True)
def test_a_full_disk_is_one_line_that_names_the_file(job: rig.Job, tmp_path: pathlib.Path) -> None:
    """At the first write of each kind of file; of the manifest and of the pointer, too."""
    clean = Plan()
    assert job.copy(tmp_path / "clean").run(clean).code == 0
    firsts: dict[str, Operation] = {}
    for operation in clean.seen:
        if operation.kind in ("write", "put"):
            kind = operation.name.split(".json")[0]  # store, manifest, CURRENT
            if "/attempt-" in operation.path:
                kind = operation.path.split("/attempt-")[1].split("/")[1]
            firsts.setdefault(kind, operation)
    assert len(firsts) > 5
    for kind, operation in firsts.items():
        place = job.copy(tmp_path / kind)
        ended = place.run(Plan(at(operation.number, Mode.FULL)))
        said = f"{job} {kind} {operation}: {ended.err}"
        assert ended.code == 1, said
        (line,) = [line for line in ended.err.splitlines() if "playhead" in line.split(":")[0]]
        assert "No space left on device" in line, said
        assert str(place.folder) in line, said
        place.check(ended, said)
        assert manifest.require_current(str(place.root), "it") == job.old, said
        new = [each for each in rig.committed(place.root) if each.version == job.new.version]
        assert bool(new) == (kind == "CURRENT"), said
        if kind not in ("manifest", "CURRENT"):
            assert not list((place.root / job.new.version).rglob("*.parquet")), said


@pytest.mark.parametrize("job", ["ingest-local", "build-local"], indirect=True)
def test_files_are_on_the_disk_before_the_manifest_that_lists_them(
    job: rig.Job, tmp_path: pathlib.Path
) -> None:
    """Or a power cut leaves a version without its data."""
    place = job.copy(tmp_path / "place")
    plan = Plan()
    assert place.run(plan).code == 0
    new = manifest.require_current(str(place.root), "it")
    (link,) = [
        each.number for each in plan.seen if each.kind == "link" and "manifest.json" in each.path
    ]
    synced = {each.path for each in plan.seen[:link] if each.kind == "fsync"}
    written = {each.path: each.number for each in plan.seen if each.kind == "close"}
    for entry in new.files:
        path = manifest.file_path(str(place.root), new, entry)
        assert path in synced
        assert written[path] < link
        folder = pathlib.Path(path).parent
        while folder != place.root.parent.parent:
            assert str(folder) in synced
            folder = folder.parent
