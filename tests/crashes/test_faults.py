"""Every operation of a small job goes wrong in every way, and readers never notice.

`make test` takes every operation of the commit, and a spread of the others; PLAYHEAD_SOAK=1 takes
all of them.
"""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.crashes import rig
from tests.crashes.faulty import Mode, Operation, Plan, at

SOAK = bool(os.environ.get("PLAYHEAD_SOAK"))
# What decides which version there is: all of these go wrong in every way, always.
COMMIT_FILES = ("manifest.json", "CURRENT.json", "store.json")
COMMIT_KINDS = ("put", "link", "replace", "delete", "rmtree")
WITH_HALVES = ("write", "close", "delete", "rmtree")
WITH_LATENESS = ("put", "close", "delete")
# Of other operations, how many of a kind and way.
SPREAD = 2

MAKERS: dict[str, tuple[Callable[..., rig.Job], bool]] = {
    "ingest-remote": (rig.ingest_job, True),
    "ingest-local": (rig.ingest_job, False),
    "build-remote": (rig.build_job, True),
    "build-local": (rig.build_job, False),
}


@pytest.fixture(scope="module", params=list(MAKERS))
def job(request: Any, tmp_path_factory: pytest.TempPathFactory) -> rig.Job:
    make, remote = MAKERS[request.param]
    return make(tmp_path_factory.mktemp(request.param), remote)


def ways(operation: Operation, remote: bool) -> list[Mode]:
    """How an operation can go wrong."""
    modes = [Mode.BEFORE, Mode.AFTER, Mode.DELAY]
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


def chosen(operations: list[Operation], remote: bool) -> list[tuple[Operation, Mode]]:
    """What to let go wrong: all of the commit, and first, last and some between of the others."""
    cases = []
    others = collections.defaultdict(list)
    for operation in operations:
        for mode in ways(operation, remote):
            if SOAK or (of_commit(operation) and mode is not Mode.DELAY):
                cases.append((operation, mode))
            elif mode is not Mode.DELAY:
                others[operation.kind, mode].append(operation)
    for (_, mode), found in others.items():
        step = max(1, (len(found) - 1) // (SPREAD - 1) if SPREAD > 1 else len(found))
        cases += [(operation, mode) for operation in found[::step][:SPREAD]]
    return cases


def test_whatever_goes_wrong_readers_see_the_old_version_or_the_new_one(
    job: rig.Job, tmp_path: pathlib.Path
) -> None:
    clean = Plan()
    place = job.copy(tmp_path / "clean")
    place.check(place.run(clean), "clean")
    cases = chosen(clean.seen, job.remote)
    kinds = {operation.kind for operation in clean.seen}
    assert {operation.kind for operation, _ in cases} == kinds
    failed = 0
    for operation, mode in cases:
        said = f"{job.name} {operation} {mode}"
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
