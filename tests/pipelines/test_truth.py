"""The whole job against what is true of simulated logs."""

from __future__ import annotations

import datetime

import polars as pl
import pytest

from tests import jobs

FIRST = datetime.date(2026, 1, 5)
DAYS = 4


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Ranking rows of a simulated log, each with the truth of its impression."""
    folder = tmp_path_factory.mktemp("truth")
    jobs.ok(
        *("simulate", "--output", folder / "sim", "--users", 400, "--days", DAYS, "--seed", 11),
        *("--start-date", FIRST.isoformat(), "--broken-share", "0.0003"),
    )
    for received in sorted((folder / "sim" / "raw" / "parquet").iterdir()):
        day = received.name.removeprefix("received=")
        argv = ("--date", day, "--buckets", 4, "--max-quarantine", "0.01")
        jobs.ingest(received / "*", folder / "store", *argv)
    spec = folder / "spec.yaml"
    spec.write_text("kind: ranking\noutput: {shards: 2}\n")
    last = FIRST + datetime.timedelta(days=DAYS - 1)
    built = jobs.build(folder / "store", spec, FIRST, last, folder / "dataset")
    truth = pl.concat(
        pl.read_parquet(path) for path in (folder / "sim" / "truth").glob("impressions-*.parquet")
    )
    rows = jobs.rows(folder / "dataset", built, "train")
    return rows.join(truth, on="event_id", how="left", suffix="_truth", validate="1:1")


def test_every_row_is_an_impression_that_was_made(joined: pl.DataFrame) -> None:
    assert joined.height > 20_000
    assert joined["clicked"].null_count() == 0
    assert joined["propensity"].equals(joined["propensity_truth"], check_names=False)


def test_attribution_finds_the_plays_that_impressions_led_to(joined: pl.DataFrame) -> None:
    clicked, played = joined["clicked"], joined["label_played"]
    assert (played & ~clicked).sum() == 0
    assert (played & clicked).sum() >= 0.999 * clicked.sum()


def test_exploration_is_logged_with_its_propensity(joined: pl.DataFrame) -> None:
    explored = joined.filter("is_exploration")
    expected = 1 / explored["candidate_set_size"]
    assert (explored["propensity"] - expected).abs().max() < 1e-12
