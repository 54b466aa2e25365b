"""A job is killed at each of its operations; readers and the next run do not mind."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import jobs
from tests.crashes import rig
from tests.crashes.faulty import Mode, Operation, Plan

SOAK = bool(os.environ.get("PLAYHEAD_SOAK"))
# An ingest is killed at each operation, always. A build writes Parquet in hundreds of small writes
# and ends in the same commit: `make test` kills it at some, and where it commits.
EVERY = {"ingest-local": 1, "build-local": 60, **({"ingest-remote": 1} if SOAK else {})}
HALVES = ("write", "close", "delete", "rmtree")
COMMITS = ("link", "unlink", "replace", "rmtree")


def cases(operations: list[Operation], every: int) -> list[tuple[int, str]]:
    """(operation, way) of each kill: in front of it, in the middle if it has one, and after the
    last."""
    found = []
    for operation in operations:
        if SOAK or operation.kind in COMMITS or operation.number % every == 0:
            found.append((operation.number, Mode.KILL.value))
            if operation.kind in HALVES and (SOAK or operation.number % 3 == 0):
                found.append((operation.number, Mode.KILL_HALF.value))
    return [*found, (operations[-1].number, Mode.KILL_AFTER.value)]


@pytest.mark.slow
@pytest.mark.timeout(7200 if SOAK else 1200)
@pytest.mark.parametrize("name", list(EVERY))
def test_killed_anywhere_the_version_is_the_old_or_the_new_one_and_the_next_run_is_whole(
    name: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    job = rig.job(name, tmp_path / "made")
    plan = Plan()
    clean = job.copy(tmp_path / "clean")
    clean.check(clean.run(plan), "clean")
    chosen = cases(plan.seen, EVERY[name])
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.crashes.killing", name, str(tmp_path / "made"),
            str(tmp_path / "work"), json.dumps(chosen),
        ],
        cwd=jobs.REPOSITORY, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    kills, states, wrong = json.loads(done.stdout.splitlines()[-1])
    assert not wrong, "\n".join(wrong)
    assert kills == len(chosen)
    assert states > kills // 4
    request.node.user_properties.append(
        ("counted", f"{name}: {len(plan.seen)} operations, {kills} kills, {states} states after")
    )
