"""Each task measures what it says, and the page shows it."""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import kinds, run

EVENTS = 6_000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    data = run.make_data(folder / "raw", EVENTS)
    return kinds.make_store(folder, data, 8)


def test_a_store_is_made_once(store):
    nothing = run.Data([], [], 0, 1, run.START)
    assert kinds.make_store(store.parent, nothing, 8) == store


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_a_build_and_what_its_pages_add(kind, store, tmp_path):
    built = kinds.perform("build", kind, store, tmp_path / "out", 1)
    assert EVENTS / 2 < built["events"] < EVENTS * 2
    assert built["rows"] > 10
    assert built["work_s"] > 0
    timed = kinds.perform("summary", kind, store, tmp_path / "out", 1)
    (full,), (bare,) = timed["with"], timed["without"]
    assert full["rows"] == bare["rows"] == built["rows"]
    assert full["work_cpu_s"] > bare["work_cpu_s"]


@pytest.mark.slow
def test_formats_and_buckets(store, tmp_path):
    told = kinds.perform("formats", "sessions", store, tmp_path / "out", 2)
    for clock in (told["seconds"], told["cpu_seconds"]):
        assert set(clock) == {"parquet", "tfrecord", "stock"}
        assert all(len(each) == 2 and min(each) > 0 for each in clock.values())
    assert told["rows"] > 0
    told = kinds.perform("bucket", "sessions", store, tmp_path / "out", 1)
    assert told["buckets"] == 8
    assert told["events"] / 8 <= told["largest_bucket"] < told["events"]
    assert told["added_mib"] >= 0  # so few events may fit into what the imports had taken


def test_without_pages_a_build_has_none_and_the_same_rows(store, tmp_path):
    code = """
import argparse, json, pathlib, sys
from benchmarks import kind_tasks
args = argparse.Namespace(**json.loads(sys.argv[1]))
for out, way in (("full", kind_tasks.contextlib.nullcontext), ("bare", kind_tasks.nothing_told)):
    with way():
        kind_tasks.run(kind_tasks.plan(args, pathlib.Path(args.out) / out))
"""
    first, last = run.START.isoformat(), kinds.LAST.isoformat()
    args = argparse.Namespace(
        store=str(store), spec="ranking", out=str(tmp_path), start_date=first, end_date=last
    )
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(vars(args))]
    subprocess.run(command, cwd=run.REPOSITORY, check=True, stdout=subprocess.DEVNULL)

    def files(name: str) -> dict[str, bytes]:
        (manifest,) = (tmp_path / name).glob("*/manifest.json")
        attempt = json.loads(manifest.read_bytes())["run"]["attempt"]
        root = pathlib.Path(manifest.parent, attempt)
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    full, bare = files("full"), files("bare")
    assert {"report.html", "tallies.json", "README.md"} <= set(full) - set(bare)
    assert bare == {name: data for name, data in full.items() if name.endswith(".parquet")}


def test_a_task_that_fails_says_why(tmp_path):
    with pytest.raises(run.ContenderError, match="not an event store"):
        kinds.perform("build", "ranking", tmp_path / "none", tmp_path / "out", 1)


def test_the_page_has_a_table_a_section_and_begins_with_the_figures_of_each_kind():
    columns = {title: ["kind"] for title in kinds.NOTES}
    for title, column in kinds.GLANCE.values():
        columns[title].append(column)
    sections = {
        title: [names, *([kind, *(f"{kind} {name} {turn}" for name in names[1:])]
                         for turn in (1, 2) for kind in kinds.KINDS)]
        for title, names in columns.items()
    }  # fmt: skip
    lines = kinds.page(5, 3, sections).splitlines()
    for title, note in kinds.NOTES.items():
        at = lines.index(f"## {title}") + 2
        end = at + len(note.splitlines())
        assert lines[at:end] == note.splitlines()
        shown = [line.strip("| ").split(" | ") for line in lines[end + 1 : end + 11]]
        assert [shown[0], *shown[2:]] == sections[title]
        assert shown[1] == ["---"] + ["---:"] * (len(columns[title]) - 1)
    first = [line for line in lines if line.startswith("|")][:6]
    assert first[0] == f"| kind | {' | '.join(kinds.GLANCE)} |"
    for kind, line in zip(kinds.KINDS, first[2:], strict=True):
        figures = [f"{kind} {column} 1" for _, column in kinds.GLANCE.values()]
        assert line == f"| {' | '.join([kind, *figures])} |"
    assert kinds.spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0 to 3.0)"
