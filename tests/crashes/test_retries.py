"""An engine that tries a bundle again: every step does its work and then fails, three times; or
four times, which is once too often.

The steps of a build are done over in place here; `test_determinism.py` runs whole builds on the
retrying runner.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import pytest

from tests import jobs
from tests.crashes import rig
from tests.crashes.faulty import Plan
from tests.retrying import MAX_TRIES, fail_bundles
from transforms import building, ingestion, publish

STEPS = ["ReadEvents/AdaptFile", "WriteBuckets/WriteBucket", "PublishPartition/Commit"]
BUILD_STEPS = [
    (building, "write_side_tables"),
    (building._BuildShardFn, "process"),
    (publish._CommitFn, "process"),
]


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> rig.Job:
    return rig.job("ingest-local", tmp_path_factory.mktemp("ingest"))


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> rig.Job:
    return rig.job("build-local", tmp_path_factory.mktemp("build"))


@pytest.mark.slow
def test_every_step_may_fail_three_times(
    ingest: rig.Job, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ingest.copy(tmp_path / "place")
    tries = fail_bundles(monkeypatch, "", MAX_TRIES - 1)
    ended = place.run(Plan())
    assert ended.code == 0, ended.err
    place.check(ended, "retried")
    for step in STEPS:
        assert any(step in label for label in tries)
    assert min(tries.values()) >= MAX_TRIES
    nothing_else(place)


def nothing_else(place: rig.Place) -> None:
    """Nothing lies beside what the manifests list."""
    for found in rig.committed(place.root):
        listed = {f"{found.run.attempt}/{entry.path}" for entry in found.files}
        found_files = set(jobs.files_below(place.root / found.version))
        assert found_files == {*listed, "manifest.json"}


@pytest.mark.slow
def test_a_step_that_fails_four_times_fails_the_job(
    ingest: rig.Job, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, step in enumerate(STEPS):
        place = ingest.copy(tmp_path / str(number))
        with monkeypatch.context() as patched:
            fail_bundles(patched, step, MAX_TRIES)
            ended = place.run(Plan())
        assert ended.code == 1, step
        assert step in ended.err
        assert f"fails, try {MAX_TRIES}" in ended.err
        place.check(None, step)
        names = [found.version for found in rig.committed(place.root)]
        if "Commit" in step:  # it did its work before it failed: published, and whole
            assert ingest.new.version in names
        else:
            assert names == [ingest.old.version]


def again(whole: Any, times: int, fails: bool) -> Any:
    """The function, done over that many times before; then it fails, or not."""

    @functools.wraps(whole)
    def call(*args: Any, **kwargs: Any) -> Any:
        for _ in range(times):
            list(whole(*args, **kwargs))
        made = list(whole(*args, **kwargs))
        if fails:
            raise RuntimeError(f"{whole.__qualname__} fails for good")
        return made

    return call


def test_every_step_of_a_build_may_be_done_over(
    build: rig.Job, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name in BUILD_STEPS:
        monkeypatch.setattr(owner, name, again(getattr(owner, name), MAX_TRIES - 1, fails=False))
    place = build.copy(tmp_path / "place")
    ended = place.run(Plan())
    assert ended.code == 0, ended.err
    place.check(ended, "done over")
    nothing_else(place)


def test_a_step_of_a_build_that_fails_for_good_fails_the_job(
    build: rig.Job, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (owner, name) in enumerate(BUILD_STEPS):
        place = build.copy(tmp_path / str(number))
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, again(getattr(owner, name), 0, fails=True))
            ended = place.run(Plan())
        assert ended.code == 1
        assert "fails for good" in ended.err
        place.check(None, name)
        names = {found.version for found in rig.committed(place.root)}
        # The last step did its work before it failed: published, and whole.
        last = {build.new.version} if owner is publish._CommitFn else set()
        assert names == {build.old.version} | last
        place.settle(name)


def test_what_an_engine_loses_on_the_way_to_the_last_step_is_not_published() -> None:
    """What comes of one shard or file, counts and files alike, does not reach the commit."""
    gate = building.BuildGate(shards=4)
    assert gate({}, []) == ["conservation: 4 shards were planned, but 0 built"]
    assert gate({"shards": 3}, []) == ["conservation: 4 shards were planned, but 3 built"]
    day = ingestion.IngestGate(jobs.DAY, files=2, max_quarantine=0.0, quarantine_root="")
    assert day({}, []) == ["conservation: 2 files were given, but 0 read"]
    assert day({"files": 1}, []) == ["conservation: 2 files were given, but 1 read"]
    assert day({"files": 2}, []) == []
