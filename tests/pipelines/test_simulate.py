"""The simulation job: its files, its truth, its options."""

from __future__ import annotations

import datetime
import json
import pathlib
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import simulate
from transforms import adapters, events
from transforms.adapters.base import REJECT_REASON, InputFile
from transforms.errors import UsageError
from transforms.simulation import breakage, formats, listening, writing
from transforms.simulation.world import BLOCK_USERS, SimulationConfig


def _run(output: pathlib.Path, *more: str) -> dict[str, Any]:
    assert simulate.run(["--output", str(output), "--seed", "3", *more]) == 0
    result: dict[str, Any] = json.loads((output / "truth" / "summary.json").read_text())
    return result


def _raw(output: pathlib.Path) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in sorted(output.glob("raw/parquet/*/*")))


def _truth(output: pathlib.Path, table: str) -> pl.DataFrame:
    return pl.concat(
        pl.read_parquet(path) for path in sorted(output.glob(f"truth/{table}-*.parquet"))
    )


@pytest.fixture(scope="module")
def two_files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("simulate") / "out"
    _run(output, "--users", str(2 * BLOCK_USERS + 10), "--days", "2", "--files", "2",
         "--broken-share", "0.005")  # fmt: skip
    return output


def test_summary_is_what_was_written(two_files: pathlib.Path) -> None:
    summary = json.loads((two_files / "truth" / "summary.json").read_text())
    counts, raw = summary["counts"], _raw(two_files)
    assert raw.height == counts["records.good"] + counts["records.broken"]
    assert counts["records.good"] == counts["events"]
    assert counts["records.broken"] == sum(summary["broken"].values()) > 100
    assert set(summary["broken"]) == {kind.name for kind in breakage.KINDS["parquet"]}
    broken = _truth(two_files, "broken")
    by_kind = broken.group_by("kind").agg(pl.col("records").sum())
    assert dict(by_kind.rows()) == summary["broken"]
    assert counts["duplicates"] == _truth(two_files, "duplicates").height
    files = _truth(two_files, "files")
    assert set(files["path"]) == {
        str(path.relative_to(two_files)) for path in two_files.glob("raw/*/*/*")
    }
    for path, date, good, bad in files.rows():
        table = pl.read_parquet(two_files / path)
        assert table.height == good + bad
        assert (table["received_time"].dt.date() == date).all()
        assert f"received={date}" in path
    users = _truth(two_files, "users")
    assert users.height == summary["config"]["users"] == users["user_id"].n_unique()
    assert _truth(two_files, "impressions").height > 0
    assert set(users["user_id"]) >= set(raw.filter(pl.col("user_id") != "")["user_id"])


def test_files_have_the_schemas_types(two_files: pathlib.Path) -> None:
    assert dict(_raw(two_files).schema) == listening.EVENT_SCHEMA
    for table, schema in listening.TRUTH_SCHEMAS.items():
        assert _truth(two_files, table).schema == pl.Schema(schema)
    catalog = pl.read_parquet(two_files / "catalog.parquet")
    assert catalog.height == 20_000
    policy = pl.read_parquet(two_files / "truth" / "policy.parquet")
    assert policy["policy_day"].unique().sort().to_list() == [0, 1]


def test_relevance_of_anything_follows_from_the_truth_tables(two_files: pathlib.Path) -> None:
    tracks = pl.read_parquet(two_files / "truth" / "tracks.parquet")
    told = (
        _truth(two_files, "impressions")
        .head(5_000)
        .join(_truth(two_files, "requests").select("request_id", "taste_day"), "request_id")
        .join(_truth(two_files, "users").select("user_id", "taste", "drift", "drift_radians"),
              "user_id")
        .join(tracks, "track_id")
    )  # fmt: skip
    turn = (told["drift_radians"] * told["taste_day"]).to_numpy()[:, None]
    taste, drift, vector = (np.array(told[name].to_list()) for name in ("taste", "drift", "vector"))
    affinity = ((np.cos(turn) * taste + np.sin(turn) * drift) * vector).sum(axis=1)
    score = -1.9 + 2.4 * affinity + 0.5 * told["quality"].to_numpy()
    assert np.allclose(told["relevance"].to_numpy(), 0.8 / (1 + np.exp(-score)))


def test_records_do_not_depend_on_the_number_of_files(
    two_files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    args = ("--users", str(2 * BLOCK_USERS + 10), "--days", "2", "--broken-share", "0.005")
    one, again = tmp_path / "one", tmp_path / "again"
    summary = _run(one, *args, "--files", "1")
    first = json.loads((two_files / "truth" / "summary.json").read_text())
    for each in (first, summary):
        del each["files_a_day"], each["counts"]["files"]
    assert summary == first
    key = ["received_time", "event_id", "event_time"]
    assert _raw(one).sort(key).equals(_raw(two_files).sort(key))
    for table in ("users", "clicks", "impressions", "broken"):
        left, right = _truth(one, table), _truth(two_files, table)
        if table == "broken":
            by = ["received_date", "kind"]
            left = left.group_by(by).agg(pl.col("records").sum())
            right = right.group_by(by).agg(pl.col("records").sum())
        key = left.columns[:1] if table != "broken" else ["received_date", "kind"]
        assert left.sort(key).equals(right.sort(key)), table
    _run(again, *args, "--files", "2")
    for path in sorted(two_files.rglob("*.parquet")):
        assert path.read_bytes() == (again / path.relative_to(two_files)).read_bytes(), path


# Formats whose broken records ingest must count exactly as the truth says.
@pytest.mark.parametrize("name", sorted(formats.FORMATS))
def test_ingest_reads_each_format_and_finds_each_fault(name: str, tmp_path: pathlib.Path) -> None:
    config = SimulationConfig(users=60, days=1, seed=6, broken_share=0.2, bot_share=0.0)
    compression = "none" if formats.FORMATS[name].encode is None else "gzip"
    target = writing.Target(config, str(tmp_path), name, compression, 1, False)
    counts = writing.write_file(target, 0)
    adapter = adapters.get_adapter(name)
    rules = events.ValidityRules(config.start_date + datetime.timedelta(days=14), False)
    reasons: dict[str, int] = {}
    good, repairs = 0, 0
    for path in sorted(tmp_path.glob(f"raw/{name}/*/*")):
        source = InputFile(str(path), lambda path=path: path.open("rb"))  # type: ignore[misc]
        for table in adapter.read(source):
            adapted = adapter.to_events(table.rows)
            if not adapter.has_event_id:
                adapted = events.derive_event_ids(adapted)
            adapted, repaired_here = events.repair(adapted)
            adapted = events.mark_invalid(adapted, rules)
            repairs += sum(repaired_here.values())
            told = pl.concat([table.rejects[REJECT_REASON], adapted[REJECT_REASON].drop_nulls()])
            for reason in told:
                reasons[reason] = reasons.get(reason, 0) + 1
            good += adapted[REJECT_REASON].null_count()
    broken = _truth(tmp_path, "broken")
    expected = broken.filter(pl.col("outcome") == breakage.REJECT).group_by("reason")
    assert reasons == dict(expected.agg(pl.col("records").sum()).rows())
    repaired = broken.filter(pl.col("outcome") == breakage.REPAIR)["records"].sum()
    assert good == counts["records.good"] + repaired
    assert repairs == repaired
    assert set(broken["kind"]) == {kind.name for kind in breakage.KINDS[name]}


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_text_files_hold_the_same_lines_however_compressed(
    compression: str, tmp_path: pathlib.Path
) -> None:
    config = SimulationConfig(users=5, days=1, broken_share=0.1)
    texts = []
    for name in ("first", "second"):
        target = writing.Target(config, str(tmp_path / name), "jsonl", compression, 1, False)
        writing.write_file(target, 0)
        files = sorted((tmp_path / name).glob("raw/jsonl/*/*"))
        texts.append([path.read_bytes() for path in files])
    assert texts[0] == texts[1]
    suffix = formats.COMPRESSIONS[compression]
    assert all(path.name.endswith(f".jsonl{suffix}") for path in files)


def test_output_in_use_is_refused_and_overwritten_only_when_asked(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "old").write_text("old")
    args = ["--output", str(tmp_path), "--users", "3", "--days", "1"]
    with pytest.raises(UsageError, match="not empty"):
        simulate.run(args)
    assert (tmp_path / "raw" / "old").exists()
    assert simulate.run([*args, "--overwrite"]) == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "raw" / "old").exists()


def test_options_win_over_the_file_and_events_pick_users(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "world.yaml"
    path.write_text("users: 77\nslate_size: 6\nevents_per_user_day: 50\n")
    parser = simulate.build_parser()
    base = ["--output", str(tmp_path / "out"), "--config", str(path)]
    config = simulate.read_config(parser.parse_args(base))
    assert (config.users, config.slate_size) == (77, 6)
    assert simulate.read_config(parser.parse_args([*base, "--users", "9"])).users == 9
    more = [*base, "--events", "7000", "--days", "7"]
    assert simulate.read_config(parser.parse_args(more)).users == 20


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--format", "parqet"], "did you mean parquet"),
        (["--compression", "gzip"], "--compression: parquet"),
        (["--users", "5", "--events", "5"], "--events and --users"),
        (["--broken-share", "0.9"], "--broken-share"),
        (["--seed", "-1"], "--seed"),
        (["--start-date", "2026-02-30"], "--start-date"),
        (["--tracks", "100"], "artists"),
        (["--config", "missing.yaml"], "missing.yaml: cannot read it"),
    ],
)
def test_wrong_options_are_one_clear_line(
    args: list[str], problem: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        simulate.run(["--output", str(tmp_path / "out"), *args])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
