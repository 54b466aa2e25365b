"""Playhead itself, as a user would run it: `ingest` into a fresh store, then `build`.

Besides what the peers do, it writes the event store, the quarantine and the item counts, checks
conservation, hashes all files, and puts the rows into keyed order. The clock starts after imports.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import pathlib

from benchmarks.contenders.common import Task, main

SPEC = pathlib.Path(__file__).parents[2] / "specs" / "ranking.yaml"


def prepare() -> None:
    """Imports what the jobs would import when they start."""
    from pipelines import build, cli, ingest

    cli.quiet_imports()
    cli.beam_options([])
    import apache_beam  # noqa: F401

    from transforms import building, exchange, ingestion, publish  # noqa: F401
    from transforms.adapters import get_adapter

    get_adapter("parquet")
    assert build.run
    assert ingest.run


def run(task: Task) -> None:
    from pipelines import build, ingest

    store, days = str(task.out / "store"), (task.start_date, task.end_date)
    last_day = task.import_end - datetime.timedelta(days=1)
    # Progress goes to standard error, summaries to standard output, which is the harness's.
    with contextlib.redirect_stdout(io.StringIO()):
        inputs = [word for pattern in task.raw for word in ("--input", pattern)]
        ingest.run(
            [
                *inputs, "--format", "parquet", "--store", store, "--all-days",
                "--date", last_day.isoformat(), "--buckets", "32",
            ]
        )  # fmt: skip
        build.run(
            [
                "--store", store, "--spec", str(SPEC), "--output", str(task.rows),
                "--start-date", days[0].isoformat(), "--end-date", days[1].isoformat(),
            ]
        )  # fmt: skip


if __name__ == "__main__":
    main(run, prepare)
