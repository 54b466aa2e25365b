"""`playhead signals`: what it lists, reports and refuses. The numbers: tests of the transform."""

from __future__ import annotations

import datetime
import json
import pathlib
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests import jobs
from transforms import manifest, storage
from transforms.features import FEATURES
from transforms.manifest import ColumnEntry, FileEntry, Manifest, RunInfo

START = datetime.datetime(2026, 1, 5, tzinfo=datetime.UTC)
COLUMNS = (
    ColumnEntry(name="event_time", type="timestamp[us, tz=UTC]", family="context"),
    ColumnEntry(name="user_id", type="string", family="context", identifier=True),
    ColumnEntry(name="surface", type="string", family="context"),
    ColumnEntry(name="user_plays_7d", type="int64", family="user"),
    ColumnEntry(name="user_skips_7d", type="int64", family="user"),
    ColumnEntry(name="history_track_ids", type="list<string>", family="history", identifier=True),
    ColumnEntry(name="label_status", type="string", family="label"),
    ColumnEntry(name="label_played", type="bool", family="label"),
    ColumnEntry(name="label_reward", type="double", family="label"),
)
FEATURE_NAMES = ["user_plays_7d", "user_skips_7d", "history_track_ids"]


def made_up(rows: int, day: int, seed: int) -> pl.DataFrame:
    """Rows of two days; the reward is made of both counts."""
    rng = np.random.default_rng(seed)
    plays, skips = rng.poisson(5, rows), rng.poisson(2, rows)
    reward = plays - 2 * skips + rng.normal(size=rows)
    days = [START + datetime.timedelta(days=day + i % 2) for i in range(rows)]
    return pl.DataFrame(
        {
            "event_time": pl.Series(days, dtype=pl.Datetime("us", "UTC")),
            "user_id": [f"u{i}" for i in range(rows)],
            "surface": [["home", "radio", None][i % 3] for i in range(rows)],
            "user_plays_7d": plays,
            "user_skips_7d": skips,
            "history_track_ids": [["t"]] * rows,
            "label_status": ["mature"] * rows,
            "label_played": reward > 1,
            "label_reward": reward,
        }
    )


def publish(root: pathlib.Path, splits: dict[str, list[pl.DataFrame]], **changes: Any) -> Manifest:
    """A version with a file for each table, and its TFRecord twin, which is not for this job."""
    files = []
    for split, tables in splits.items():
        for number, table in enumerate(tables):
            path = f"{split}/part-{number:05}-of-{len(tables):05}.parquet"
            file = root / "v-1" / "attempt-1" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            table.write_parquet(file)
            digest, size = storage.sha256(str(file))
            entry = FileEntry(path=path, role=split, rows=table.height, bytes=size, sha256=digest)
            twin = {"path": path.replace("parquet", "tfrecord"), "format": "tfrecord"}
            files += [entry, entry.model_copy(update=twin)]
    fields: dict[str, Any] = {
        "kind": "dataset", "name": "ranking", "version": "v-1", "fingerprint": "0123456789ab",
        "code_version": "0", "status": "OK", "columns": COLUMNS, "inputs": (), "counts": {},
        "config": {"spec": {"kind": "ranking", "features": FEATURE_NAMES}}, "files": tuple(files),
        "run": RunInfo(attempt="attempt-1", started_at="then", finished_at="now", runner="r"),
    }  # fmt: skip
    return manifest.commit(str(root), Manifest(**(fields | changes)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("ranking")
    publish(
        root,
        {
            "train": [made_up(400, 0, 1), made_up(200, 0, 2)],
            "validation": [made_up(100, 2, 3)],
            "test": [made_up(100, 4, 4)],
        },
    )
    return root


def reports(*argv: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(jobs.ok("signals", "--json", *argv).out)
    return found


def refused(*argv: Any) -> str:
    ended = jobs.call("signals", *argv)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    return ended.err


def test_lists_every_registered_feature_with_what_it_declares() -> None:
    head, *lines = jobs.ok("signals").out.splitlines()
    assert [line.split()[0] for line in lines] == list(FEATURES)
    place = head.index("description")
    for line, (name, entry) in zip(lines, FEATURES.items(), strict=True):
        assert line[place:] == entry.feature.description, name
        assert line[head.index("family") :].startswith(entry.feature.family)
    assert "7 d" in lines[list(FEATURES).index("user_plays_7d")]


def test_lists_as_json() -> None:
    listed = json.loads(jobs.ok("signals", "--json").out)
    assert [item["name"] for item in listed] == list(FEATURES)
    (plays,) = (item for item in listed if item["name"] == "user_plays_7d")
    assert (plays["type"], plays["nullable"]) == ("int64", False)
    assert plays["window_us"] == FEATURES["user_plays_7d"].feature.window_us


def test_reports_on_a_candidate(root: pathlib.Path) -> None:
    (found,) = reports("--report", root, "--candidate", "user_plays_7d")
    assert (found["candidate"], found["target"]) == ("user_plays_7d", "label_reward")
    assert (found["fitted_on"], found["measured_on"]) == (["train"], ["validation", "test"])
    assert found["coverage"]["rows"] == 800
    assert found["association"]["rows"] == 200
    assert found["association"]["spearman"] > 0.3
    assert found["increment"]["features"] == 1  # the other number; not the list, not itself
    assert found["increment"]["partial_spearman"] > 0.7
    assert [near["feature"] for near in found["redundancy"]] == ["user_skips_7d"]
    assert [day["day"] for day in found["days"]] == [f"2026-01-{day:02}" for day in range(5, 11)]


def test_several_candidates_and_a_flag_as_target(root: pathlib.Path) -> None:
    names = ("--candidate", "user_plays_7d", "--candidate", "user_skips_7d")
    for against in ("played", "label_played"):
        plays, skips = reports("--report", root, *names, "--against", against)
        assert plays["association"]["auc"] > 0.5 > skips["association"]["auc"]
        assert plays["increment"]["features"] == skips["increment"]["features"] == 0


def test_a_name_can_be_a_candidate(root: pathlib.Path) -> None:
    (found,) = reports("--report", root, "--candidate", "surface")
    assert found["coverage"]["known"] == pytest.approx(2 / 3, abs=0.01)
    assert found["increment"]["features"] == 2


def test_the_text_has_the_numbers_of_the_json(root: pathlib.Path) -> None:
    argv = ("--report", root, "--candidate", "user_plays_7d", "--against", "played")
    (found,) = reports(*argv)
    text = jobs.ok("signals", *argv).out
    assert "800 of 800 rows" in text
    for number in (
        found["association"]["spearman"],
        found["association"]["auc"],
        found["association"]["information_bits"],
        found["increment"]["partial_spearman"],
        *(day["drift_before"] for day in found["days"][1:]),
    ):
        assert f"{number:.4f}" in text
    head, *days = text.splitlines()[-1 - len(found["days"]) :]
    assert head.split()[:2] == ["day", "rows"]
    assert [line.split()[0] for line in days] == [day["day"] for day in found["days"]]
    assert {len(line) for line in days} == {len(head)}


def test_a_version_can_be_named_by_its_folder(root: pathlib.Path) -> None:
    argv = ("--candidate", "user_plays_7d")
    assert reports("--report", root / "v-1", *argv) == reports("--report", root, *argv)


def test_large_splits_are_sampled_from_every_file(root: pathlib.Path) -> None:
    argv = ("--report", root, "--candidate", "user_plays_7d", "--max-rows", 150)
    (found,) = reports(*argv)
    assert found["coverage"]["rows"] == 100 + 50 + 100 + 100
    assert "350 of 800 rows" in jobs.ok("signals", *argv).out


def test_a_version_with_train_only_is_measured_on_train(tmp_path: pathlib.Path) -> None:
    publish(tmp_path, {"train": [made_up(50, 0, 1)]})
    (found,) = reports("--report", tmp_path, "--candidate", "user_plays_7d")
    assert found["measured_on"] == ["train"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--candidate", "user_play_7d"], "'user_play_7d'; did you mean user_plays_7d?"),
        (["--candidate", "zzz"], "expected one of surface, user_plays_7d, user_skips_7d"),
        (["--candidate", "label_played"], "label_played: is a label column"),
        (["--candidate", "user_id"], "user_id: is an id"),
        (["--candidate", "event_time"], "event_time: is of type timestamp"),
        (["--candidate", "user_plays_7d", "--against", "rewrd"], "did you mean label_reward?"),
        (["--candidate", "surface", "--against", "status"], "expected one of label_played, "),
        ([], "expected --candidate COLUMN"),
        (["--candidate", "surface", "--max-rows", "0"], "expected a whole number >= 1"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    root: pathlib.Path, argv: list[str], expected: str
) -> None:
    assert expected in refused("--report", root, *argv)


def test_other_mistakes(tmp_path: pathlib.Path) -> None:
    assert "expected --report PATH" in refused("--candidate", "surface")
    argv = ("--candidate", "user_plays_7d")
    assert "nothing is published here" in refused("--report", tmp_path, *argv)
    publish(tmp_path / "empty", {})
    assert "has no rows" in refused("--report", tmp_path / "empty", *argv)
    publish(tmp_path / "other", {}, columns=COLUMNS[1:])
    assert "expected a ranking or retrieval dataset" in refused(
        "--report", tmp_path / "other", *argv
    )


def test_a_file_that_was_changed_is_refused(tmp_path: pathlib.Path) -> None:
    publish(tmp_path, {"train": [made_up(50, 0, 1)]})
    (file,) = tmp_path.rglob("*.parquet")
    made_up(50, 0, 2).write_parquet(file)
    ended = jobs.call("signals", "--report", tmp_path, "--candidate", "user_plays_7d")
    assert ended.code == 3
    assert "was changed after it was published" in ended.err


def test_files_that_the_manifest_does_not_list_are_not_read(tmp_path: pathlib.Path) -> None:
    publish(tmp_path, {"train": [made_up(50, 0, 1)]})
    (file,) = tmp_path.rglob("*.parquet")
    made_up(50, 0, 2).write_parquet(file.with_name("part-00009-of-00010.parquet"))
    (found,) = reports("--report", tmp_path, "--candidate", "user_plays_7d")
    assert found["coverage"]["rows"] == 50
