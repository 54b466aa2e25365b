"""`playhead diff` on versions that builds and ingests made."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import polars as pl
import pytest

from pipelines import diff
from tests import jobs
from transforms import manifest
from transforms.diff import Change
from transforms.manifest import Manifest

SPEC = "kind: ranking\nname: ranking\nfeatures: [user_plays_7d, history_track_ids]\n"
BEFORE = f"{SPEC}output: {{shards: 4}}\n"
AFTER = f"{SPEC}output: {{shards: 2}}\nlabels: {{reward: {{streamed_30s: 1.0, liked: 4.0}}}}\n"
KEY = ["user_id", "event_id"]
LIGHT = """
import sys
from pipelines import cli, main
assert cli.main("playhead", main.run, ["diff", *sys.argv[1:]]) == 0
print([name for name in ("apache_beam", "tensorflow") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def dataset(
    simulated_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, Manifest, Manifest]:
    """A dataset of two versions, the second with another reward and half the shards."""
    folder = tmp_path_factory.mktemp("compared")

    def build(name: str, spec: str) -> Manifest:
        path = folder / f"{name}.yaml"
        path.write_text(spec)
        return jobs.build(simulated_store, path, jobs.DAY, jobs.DAY, folder / "dataset")

    return folder / "dataset", build("before", BEFORE), build("after", AFTER)


@pytest.fixture
def paths(dataset: tuple[pathlib.Path, Manifest, Manifest]) -> tuple[str, str]:
    """The older version by its folder, the current one by the dataset's."""
    root, before, _ = dataset
    return f"{root}/{before.version}/", str(root)


def all_rows(root: pathlib.Path, published: Manifest) -> pl.DataFrame:
    return pl.concat(
        jobs.rows(root, published, split)
        for split in ("train", "validation", "test")
        if published.files_of(split)
    )


def test_a_changed_reward_is_told_in_a_screen(paths: tuple[str, str]) -> None:
    lines = jobs.ok("diff", *paths).out.splitlines()
    assert lines[0].startswith("DIFFERENT: ")
    assert len(lines) <= 60
    assert all(len(line) <= 140 for line in lines)
    assert any(line.split()[:2] == ["spec.output.shards", "4"] for line in lines)
    start = lines.index("columns that differ")
    (column,) = [line.split() for line in lines[start + 2 :][: lines[start + 2 :].index("")]]
    assert column[0] == "label_reward"
    examples = lines[lines.index("rows that differ, from the smallest key") + 1 :]
    assert len(examples) == 6
    assert all(line.startswith("    label_reward ") for line in examples[1::2])


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (30_000, 20_000, "30,000 -> 20,000"),
        (True, None, "True -> null"),
        ("x" * 50, "", f"{'x' * 37}... -> "),
        (jobs.NOON, None, "2026-01-05T12:00:00Z -> null"),
        (["home"], ["home", "radio"], "['home'] -> ['home', 'radio']"),
        (list(range(99)), list(range(98)), "99 -> 98 values"),
        (["t"] * 99, ["t"] * 70 + ["s"] * 29, "value 70: t -> s"),
    ],
)
def test_a_change_is_told_in_a_few_words(a: object, b: object, told: str) -> None:
    assert diff._change(a, b) == told


@pytest.mark.parametrize(
    ("name", "a", "b", "told"),
    [
        ("as_of_us", None, 1_767_916_800_000_000, ["as_of", "null -> 2026-01-09T00:00:00Z"]),
        ("splits.train", [-(1 << 62), 1_767_916_800_000_000], "(absent)",
         ["splits.train", "the beginning to 2026-01-09T00:00:00Z -> (absent)"]),
        ("splits.test", [1_767_916_800_000_000, 1 << 62], "(absent)",
         ["splits.test", "2026-01-09T00:00:00Z to the end -> (absent)"]),
        ("spec.labels.lateness_days", 2, 3, ["spec.labels.lateness_days", "2 -> 3"]),
    ],
)  # fmt: skip
def test_settings_that_are_instants_are_told_as_such(
    name: str, a: object, b: object, told: list[str]
) -> None:
    assert diff._setting_row(Change(name, a, b)) == told


def test_json_counts_what_two_lines_of_polars_count(
    dataset: tuple[pathlib.Path, Manifest, Manifest], paths: tuple[str, str]
) -> None:
    root, before, after = dataset
    told = json.loads(jobs.ok("diff", *paths, "--json", "--rows", 5).out)
    both = all_rows(root, before).join(all_rows(root, after), on=KEY, suffix="_b").sort(KEY)
    changed = both.filter(pl.col("label_reward").ne_missing(pl.col("label_reward_b")))
    rows = told["rows"]
    assert told["verdict"] == "DIFFERENT"
    assert (told["a"]["version"], told["b"]["version"]) == (before.version, after.version)
    assert told["schema"] == []
    assert rows["total"]["rows_a"] == rows["total"]["rows_b"] == both.height
    assert rows["total"]["different"] == changed.height > 0
    assert rows["total"]["same"] == both.height - changed.height
    assert list(rows["columns"]) == ["label_reward"]
    gap = (changed["label_reward"] - changed["label_reward_b"]).abs()
    column = rows["columns"]["label_reward"]
    assert column["max_abs"] == gap.max()
    assert column["mean_abs"] == pytest.approx(gap.mean())
    shown = [(*each["key"], each["a"], each["b"]) for each in column["examples"]]
    assert shown == changed.select(*KEY, "label_reward", "label_reward_b").head(5).rows()
    assert {each["name"] for each in told["settings"]} >= {"spec.output.shards"}
    means = [each for each in told["statistics"] if each["measure"] == "mean"]
    assert {each["column"] for each in means} == {"label_reward"}


def test_the_exit_code_tells_only_if_it_is_asked_to(paths: tuple[str, str]) -> None:
    before, current = paths
    assert jobs.call("diff", before, current).code == 0
    assert jobs.call("diff", before, current, "--exit-code").code == 5
    same = jobs.call("diff", before, current, "--columns", "user_plays_7d", "--exit-code")
    assert (same.code, same.err) == (0, "")
    assert same.out.startswith("SAME (only columns user_plays_7d): ")
    assert jobs.call("diff", before, before, "--exit-code", "--json").code == 0
    assert jobs.call("diff", before, current, "--exit-code", "--no-rows").code == 5
    assert jobs.call("diff", before, current, "--exit-code", "--tolerance", 0.1).code == 5


def test_a_day_that_is_ingested_into_other_buckets_is_the_same(
    simulated: pathlib.Path, simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    raw = simulated / f"received={jobs.DAY}" / "*"
    jobs.ingest(raw, tmp_path / "store", "--buckets", 2)
    partitions = [jobs.partition_root(store) for store in (simulated_store, tmp_path / "store")]
    told = jobs.ok("diff", *partitions)
    assert told.out.startswith("SAME: ")
    assert "store.bucket_count  4 -> 2" in told.out
    raw = jobs.write(tmp_path / "other.parquet", jobs.plays(9))
    jobs.ingest(raw, tmp_path / "other", "--buckets", 2)
    out = jobs.ok("diff", partitions[0], jobs.partition_root(tmp_path / "other")).out
    assert "9 only in B" in out.splitlines()[0]
    assert "rows only in A" in out


def test_a_mistake_is_one_line(
    paths: tuple[str, str], simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    before, current = paths
    partition = jobs.partition_root(simulated_store)
    for argv, part in (
        ([before, tmp_path / "none"], "none: nothing is published here; expected a dataset"),
        ([simulated_store, current], "nothing is published here"),
        ([partition, current], "one kind, got events and dataset"),
        ([before], "required: B"),
        ([before, current, "--columns", "lable_reward"], "did you mean label_reward?"),
        ([before, current, "--tolerance", "2"], "share from 0 to 1"),
        ([before, current, "--row", "2"], "unrecognized arguments: --row"),
    ):
        ended = jobs.call("diff", *argv)
        assert (ended.code, ended.out) == (2, ""), argv
        (line,) = ended.err.strip().splitlines()
        assert part in line


def test_a_damaged_file_is_refused(
    dataset: tuple[pathlib.Path, Manifest, Manifest], tmp_path: pathlib.Path
) -> None:
    root, before, _ = dataset
    copy = tmp_path / before.version
    entry = next(entry for entry in before.files if entry.role == "train" and entry.rows)
    target = copy / before.run.attempt / entry.path
    target.parent.mkdir(parents=True)
    (copy / "manifest.json").write_bytes((root / before.version / "manifest.json").read_bytes())
    source = manifest.file_path(str(root), before, entry)
    target.write_bytes(pathlib.Path(source).read_bytes()[:-1])
    ended = jobs.call("diff", root / before.version, copy)
    assert (ended.code, ended.out) == (3, "")
    assert len(ended.err.strip().splitlines()) == 1


def test_nothing_heavy_is_loaded(paths: tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *paths],
        cwd=jobs.REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
