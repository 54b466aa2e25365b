"""An engine that tries again: Beam's bundle runner, and bundles that fail after their work."""

from __future__ import annotations

import collections
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.direct import transform_evaluator
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner

from pipelines import cli

MAX_TRIES = 4  # of the runner, as of Dataflow


def use_bundle_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cli,
        "make_pipeline",
        lambda options: beam.Pipeline(runner=BundleBasedDirectRunner(), options=options),
    )


def fail_bundles(
    monkeypatch: pytest.MonkeyPatch, step: str, times: int
) -> collections.Counter[str]:
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
    use_bundle_runner(monkeypatch)
    return tries
