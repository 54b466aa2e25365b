"""An engine that tries a bundle again: every step does its work and then fails, three times; or
four times, which is once too often."""

from __future__ import annotations

import collections
import pathlib
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.direct import transform_evaluator
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner

from pipelines import cli
from tests import jobs
from tests.crashes import rig
from tests.crashes.faulty import Plan

STEPS = {
    "ingest": ["ReadEvents/AdaptFile", "WriteBuckets/WriteBucket", "PublishPartition/Commit"],
    "build": ["BuildShards/WriteSideTables", "BuildShards/BuildShard", "PublishVersion/Commit"],
}
MAX_TRIES = 4  # of the runner, as of Dataflow


@pytest.fixture(scope="module", params=["ingest-local", "build-local"])
def job(request: Any, tmp_path_factory: pytest.TempPathFactory) -> rig.Job:
    return rig.job(request.param, tmp_path_factory.mktemp(request.param))


def fail(monkeypatch: pytest.MonkeyPatch, step: str, times: int) -> collections.Counter[str]:
    """The first bundles of every step of that name fail when their work is done.

    Returns:
      Label of each step -> how often its bundles were tried.
    """
    tries: collections.Counter[str] = collections.Counter()
    whole = transform_evaluator._ParDoEvaluator.finish_bundle

    def finish_bundle(evaluator: Any) -> Any:
        result = whole(evaluator)
        label = evaluator._applied_ptransform.full_label
        tries[label] += 1
        if step in label and tries[label] <= times:
            raise RuntimeError(f"{label} fails, try {tries[label]}")
        return result

    monkeypatch.setattr(transform_evaluator._ParDoEvaluator, "finish_bundle", finish_bundle)
    monkeypatch.setattr(
        cli, "make_pipeline",
        lambda options: beam.Pipeline(runner=BundleBasedDirectRunner(), options=options),
    )  # fmt: skip
    return tries


@pytest.mark.slow
def test_every_step_may_fail_three_times(
    job: rig.Job, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = job.copy(tmp_path / "place")
    tries = fail(monkeypatch, "", MAX_TRIES - 1)
    ended = place.run(Plan())
    assert ended.code == 0, ended.err
    place.check(ended, "retried")
    for step in STEPS[job.name]:
        assert any(step in label for label in tries)
    assert min(tries.values()) >= MAX_TRIES
    for found in rig.committed(place.root):
        folder = place.root / found.version
        listed = {f"{found.run.attempt}/{entry.path}" for entry in found.files}
        assert set(jobs.files_below(folder)) == {*listed, "manifest.json"}


@pytest.mark.slow
def test_a_step_that_fails_four_times_fails_the_job(
    job: rig.Job, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, step in enumerate(STEPS[job.name]):
        place = job.copy(tmp_path / str(number))
        with monkeypatch.context() as patched:
            fail(patched, step, MAX_TRIES)
            ended = place.run(Plan())
        assert ended.code == 1, step
        assert f"{step} fails, try {MAX_TRIES}" in ended.err
        place.check(None, step)
        names = [found.version for found in rig.committed(place.root)]
        if "Commit" in step:  # it did its work before it failed: published, and whole
            assert job.new.version in names
        else:
            assert names == [job.old.version]
        place.settle(step)
