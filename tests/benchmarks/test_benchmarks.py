"""All contenders write the same rows, and the comparison sees it when they do not."""

from __future__ import annotations

import datetime
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import polars as pl
import pytest

from benchmarks import compare, run

EVENTS = 20_000
NEEDS = {"duckdb": "duckdb", "pyspark_script": "pyspark"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return run.make_data(tmp_path_factory.mktemp("data") / "raw", EVENTS)


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("playhead") / "out"
    run.measure("playhead", data.patterns, out, data.import_date)
    return out / "rows"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["polars_script", "duckdb", "beam_rows", "pyspark_script"])
def test_a_peer_writes_the_rows_of_playhead(name, data, expected, tmp_path):
    needed = NEEDS.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed; it is in the environment of `make bench`")
    if name == "pyspark_script" and shutil.which("java") is None:
        pytest.skip("no Java on this machine")
    measured = run.measure(name, data.patterns, tmp_path / name, data.import_date)
    assert run.check([expected, tmp_path / name / "rows"]) == []
    assert compare.digest(expected).rows > EVENTS / 3
    assert 0 < measured.work_s < measured.wall_s
    assert measured.peak_mib > 30
    assert measured.written_mib > 0


def _write(folder, **columns):
    folder.mkdir()
    table = pl.DataFrame(
        {
            "user_id": ["u", "u", "v"],
            "event_id": ["1", "2", "1"],
            "session_id": [7, 7, 8],
            "count": [1, 2, None],
            "share": [0.1, 0.2, None],
            "ids": [["a"], [], ["a", "b"]],
            **columns,
        }
    )
    table.write_parquet(folder / "rows.parquet")
    return folder


@pytest.fixture
def three_rows(tmp_path):
    return _write(tmp_path / "expected")


def test_order_of_rows_files_and_columns_does_not_matter(three_rows, tmp_path):
    table = pl.read_parquet(three_rows / "rows.parquet")
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    mixed = table.select(reversed(table.columns))
    mixed[[2, 0]].write_parquet(other / "b.parquet")
    mixed[[1]].write_parquet(other / "deep" / "a.parquet")
    assert compare.differences(compare.digest(three_rows), compare.digest(other)) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"session_id": [11, 11, 3]},
        {"session_id": ["x", "x", "y"]},
        {"share": [0.1 + 1e-12, 0.2, None]},
        {"count": pl.Series([1, 2, None], dtype=pl.Int32)},
    ],
)
def test_what_counts_as_equal(columns, three_rows, tmp_path):
    other = _write(tmp_path / "other", **columns)
    assert compare.differences(compare.digest(three_rows), compare.digest(other)) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("session_id", [7, 8, 8]),
        ("session_id", [7, None, 8]),
        ("count", [2, 1, None]),
        ("count", [1, 2, 0]),
        ("share", [0.1, 0.2 + 1e-8, None]),
        ("ids", [["a"], [], ["b", "a"]]),
        ("ids", [["a"], None, ["a", "b"]]),
    ],
)
def test_a_difference_is_named_and_shown(name, values, three_rows, tmp_path):
    other = _write(tmp_path / "other", **{name: values})
    different = compare.differences(compare.digest(three_rows), compare.digest(other))
    assert different == [name]
    assert f"{name}: " in compare.describe(three_rows, other, different)


def test_missing_rows_and_columns_are_named(three_rows, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    table = pl.read_parquet(three_rows / "rows.parquet")
    table.drop("count").head(2).write_parquet(other / "rows.parquet")
    different = compare.differences(compare.digest(three_rows), compare.digest(other))
    assert {"(rows)", "count"} <= set(different)
    report = compare.describe(three_rows, other, different)
    assert "1 rows missing" in report
    assert "count: only in one of them" in report


def test_the_table_has_medians_and_ratios():
    base = run.Measurement(2.0, 5.0, 4.0, 100.0, 10.0)
    slow = run.Measurement(3.0, 6.0, 5.0, 250.0, 10.0)
    rows = run.table({"playhead": [base, base, slow], "beam_rows": [base.scaled(10.0)]})
    assert rows[1][1] == "2.0 (2.0-3.0)"
    assert rows[2][1] == "20.0"
    assert rows[2][-3:] == ["10.00", "10.00", "1.00"]


def test_a_contender_that_fails_says_why(tmp_path):
    nothing = [str(tmp_path / "none" / "*.parquet")]
    with pytest.raises(run.ContenderError, match="no file matches"):
        run.measure("playhead", nothing, tmp_path / "out", datetime.date(2026, 1, 12))


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_results_and_fails_on_disagreement(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.run", "--events", "3000"]
    command += ["--runs", "1", "--contenders", "playhead,polars", "--workdir", str(tmp_path)]
    root = pathlib.Path(run.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Polars, one script" in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["problems"] == []
    assert set(results["measured"]) == {"playhead", "polars_script"}
    assert "checked by digest" in run.markdown(results)
