"""The bytes of a version depend on input, spec and code alone: the whole path from raw files to the
shards of every kind, run in other surroundings, on other runners, from files cut another way.

Versions are compared whole: every file's checksum, statistics, report and card included.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import polars as pl
import pytest

from tests import jobs, retrying
from transforms import manifest

FIRST, LAST = datetime.date(2026, 1, 5), datetime.date(2026, 1, 6)
DAYS = [FIRST + datetime.timedelta(days=number) for number in range(5)]
SHARED = {
    "labels": {"horizon_hours": 6},
    "splits": {"validation_from": "2026-01-06", "gap_hours": 0, "holdout_user_share": 0.2},
    "output": {"shards": 2, "formats": ["parquet", "tfrecord"]},
}
SPECS: dict[str, dict] = {
    "ranking": {},
    "retrieval": {
        "negatives": {
            "sources": [{"type": kind, "count": 2} for kind in ("uniform", "popularity", "exposed")]
        }
    },
    "sequences": {"length": 30, "packing": "pack"},
    "sessions": {},
}
# What differs between two machines, or two runs on one.
SURROUNDINGS = {
    "west": {"PYTHONHASHSEED": "0", "TZ": "America/Los_Angeles", "LC_ALL": "C"},
    "far east": {"PYTHONHASHSEED": "9", "TZ": "Pacific/Kiritimati", "LC_ALL": "C.UTF-8",
                 "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"},
    "half an hour off": {"PYTHONHASHSEED": "4242", "TZ": "Asia/Kolkata", "LANG": "tr_TR.UTF-8",
                         "POLARS_MAX_THREADS": "3", "PYTHONUTF8": "0"},
}  # fmt: skip


def argv_of(raw: pathlib.Path, root: pathlib.Path, *options: str) -> list[list[str]]:
    """The commands from raw files to a version of each kind."""
    commands = [
        ["ingest", "--input", str(raw / f"received={day}" / "*"), "--format", "parquet", "--store",
         str(root / "store"), "--date", str(day), "--buckets", "2", *options]
        for day in DAYS
    ]  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    for name, fields in SPECS.items():
        spec = root / f"{name}.yaml"
        spec.write_text(json.dumps({"kind": name, **SHARED, **fields}))
        argv = jobs.build_argv(root / "store", spec, FIRST, LAST, root / name, *options)
        commands.append([str(each) for each in argv])
    return commands


def outcome(root: pathlib.Path) -> dict[str, dict[str, str]]:
    """Checksum of every file of every version, but for what names paths or times of its run."""
    found = {}
    for name in SPECS:
        version = manifest.require_current(str(root / name), "a dataset")
        found[name] = {"digest": version.digest()}
        found[name].update((entry.path, entry.sha256) for entry in version.files)
    for day in DAYS:
        partition = jobs.partition(root / "store", day)
        found[str(day)] = {entry.path: entry.sha256 for entry in partition.files}
    return found


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    made = tmp_path_factory.mktemp("raw")
    jobs.ok("simulate", "--output", made, "--users", 60, "--days", 3, "--seed", 8)
    for day in DAYS:
        if not (made / "raw" / "parquet" / f"received={day}").exists():
            jobs.write(made / "raw" / "parquet" / f"received={day}" / "none.parquet", [])
    return made / "raw" / "parquet"


@pytest.fixture(scope="module")
def plain(raw: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    root = tmp_path_factory.mktemp("plain")
    for argv in argv_of(raw, root):
        jobs.ok(*argv)
    return outcome(root)


def run_elsewhere(commands: list[list[str]], env: dict[str, str]) -> None:
    """Runs the commands in one process of its own."""
    code = (
        "import json, sys\nfrom pipelines import cli, main\n"
        "for argv in json.load(sys.stdin):\n"
        "    code = cli.main('playhead', main.run, argv)\n"
        "    if code: sys.exit(code)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(commands),
        env={**{k: v for k, v in os.environ.items() if not k.startswith("LC_")}, **env},
        cwd=jobs.REPOSITORY,
        text=True,
        capture_output=True,
        timeout=250,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_do_not_matter(
    raw: pathlib.Path, plain: dict[str, dict[str, str]], tmp_path: pathlib.Path, name: str
) -> None:
    run_elsewhere(argv_of(raw, tmp_path), SURROUNDINGS[name])
    assert outcome(tmp_path) == plain


def test_files_cut_shuffled_and_sent_twice_do_not_matter(
    raw: pathlib.Path, plain: dict[str, dict[str, str]], tmp_path: pathlib.Path
) -> None:
    """Rows are the same; inputs, and counts of duplicates, are those of other files."""
    for day in DAYS:
        files = sorted((raw / f"received={day}").glob("*.parquet"))
        table = pl.concat(pl.read_parquet(path) for path in files)
        twice = pl.concat([table, table]).sample(fraction=1.0, shuffle=True, seed=day.day)
        folder = tmp_path / "raw" / f"received={day}"
        folder.mkdir(parents=True)
        for part in range(5):
            twice[part::5].write_parquet(folder / f"{(part * 3) % 5}.parquet", row_group_size=61)
    for argv in argv_of(tmp_path / "raw", tmp_path / "out"):
        jobs.ok(*argv)
    found = outcome(tmp_path / "out")
    for name in SPECS:
        data = {path for path in plain[name] if path.startswith(("train/", "validation/", "test/"))}
        assert data
        assert {path: found[name][path] for path in data} == {p: plain[name][p] for p in data}


def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step fails twice after its work, and is done again."""
    retrying.fail_bundles(monkeypatch, "", 2)


RUNNERS: dict[str, tuple[list[str], Callable[[pytest.MonkeyPatch], None] | None]] = {
    "bundle runner": ([], retrying.use_bundle_runner),
    "steps that die": ([], failing),
    "bundle repeat": (["--direct_runner_bundle_repeat", "3"], None),
    "5 threads": (["--direct_running_mode", "multi_threading", "--direct_num_workers", "5"], None),
}


@pytest.mark.parametrize("name", RUNNERS)
def test_the_runner_does_not_matter(
    raw: pathlib.Path,
    plain: dict[str, dict[str, str]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    options, change = RUNNERS[name]
    if change is not None:
        change(monkeypatch)
    for argv in argv_of(raw, tmp_path, *options):
        jobs.ok(*argv)
    assert outcome(tmp_path) == plain


@pytest.mark.slow
def test_worker_processes_do_not_matter(
    raw: pathlib.Path, plain: dict[str, dict[str, str]], tmp_path: pathlib.Path
) -> None:
    """Three worker processes; for one day and one kind, for each starts with all its imports."""
    options = ["--direct_running_mode", "multi_processing", "--direct_num_workers", "3"]
    for argv in argv_of(raw, tmp_path):
        is_sample = argv[0] == "build" and "retrieval.yaml" in argv[4]
        jobs.ok(*argv, *(options if is_sample else []))
    assert outcome(tmp_path) == plain
