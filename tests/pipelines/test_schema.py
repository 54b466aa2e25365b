"""`playhead schema`, and what a build does with the schema and the other gates."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import polars as pl
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from tests import jobs
from transforms import gates, manifest, statistics
from transforms.gates import GatesSpec
from transforms.manifest import Manifest

DAY_2 = "2026-01-06"
SPEC = "kind: ranking\nname: ranking\noutput: {shards: 2}\n"
LIGHT = """
import sys
from pipelines import cli, main
assert cli.main("playhead", main.run, ["schema", *sys.argv[1:]]) == 0
print([name for name in ("apache_beam", "tensorflow") if name in sys.modules], file=sys.stderr)
"""


@pytest.fixture(scope="module")
def dataset(
    simulated_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, Manifest]:
    """A dataset with one version, of the first day. Read it; a test that writes copies it."""
    folder = tmp_path_factory.mktemp("schema")
    (folder / "spec.yaml").write_text(SPEC)
    output = folder / "dataset"
    return output, jobs.build(simulated_store, folder / "spec.yaml", jobs.DAY, jobs.DAY, output)


@pytest.fixture
def copied(dataset: tuple[pathlib.Path, Manifest], tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(dataset[0], tmp_path / "dataset"))


def parse(text: str) -> schema_pb2.Schema:
    return text_format.Parse(text, schema_pb2.Schema())


def side_file(root: Any, published: Manifest, path: str) -> bytes:
    (entry,) = (each for each in published.files if each.path == path)
    return manifest.read_verified(manifest.file_path(str(root), published, entry), entry)


# --- The command ----------------------------------------------------------------------------------


def test_the_schema_of_a_version_is_printed_as_text(
    dataset: tuple[pathlib.Path, Manifest],
) -> None:
    root, published = dataset
    printed = jobs.ok("schema", root)
    assert printed.err == ""
    assert printed.out == jobs.ok("schema", root / published.version).out
    assert printed.out.startswith(f"# Inferred from ranking, version {published.version}.\n")
    found = parse(printed.out)
    train = statistics.decode(side_file(root, published, "statistics/train.pb"))
    assert found == gates.infer_schema(train, published.columns)
    assert [f.name for f in found.feature] == [column.name for column in published.columns]


def test_the_schema_is_written_curated_and_named_in_the_spec(
    dataset: tuple[pathlib.Path, Manifest], simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path, spec = tmp_path / "new" / "mine.pbtxt", tmp_path / "spec.yaml"
    said = jobs.ok("schema", dataset[0], "--output", path).out
    assert said == f"{path}: 65 columns; name it in gates.schema_file\n"
    assert path.read_text() == jobs.ok("schema", dataset[0]).out

    edited = re.sub(r'("hour_of_day".*)int_domain { min: 0 }', r"\1int_domain { max: 99 }",
                    path.read_text())  # fmt: skip
    path.write_text(f"# Curated.\n{edited}")
    spec.write_text(f"{SPEC}gates: {{schema_file: {path}}}\n")
    published = jobs.build(simulated_store, spec, jobs.DAY, jobs.DAY, tmp_path / "out")
    applied = parse(side_file(tmp_path / "out", published, "schema.pbtxt").decode())
    assert applied == parse(path.read_text()) != parse(jobs.ok("schema", dataset[0]).out)

    # What a person has curated is not written over.
    refused = jobs.call("schema", dataset[0], "--output", path)
    assert refused.code == 2
    assert refused.err == (
        f"playhead schema: --output {path}: is there already; expected a new file\n"
    )
    assert path.read_text().startswith("# Curated.\n")


def test_a_version_without_rows_of_train_has_the_schema_of_another_split(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"{SPEC}splits: {{test_from: {jobs.DAY}}}\n")
    output = tmp_path / "out"
    published = jobs.build(simulated_store, spec, jobs.DAY, jobs.DAY, output)
    assert [entry.path for entry in published.files_of("statistics")] == ["statistics/test.pb"]
    found = parse(jobs.ok("schema", output).out)
    test = statistics.decode(side_file(output, published, "statistics/test.pb"))
    assert found == gates.infer_schema(test, published.columns)


def test_it_imports_neither_beam_nor_tensorflow(
    dataset: tuple[pathlib.Path, Manifest],
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIGHT, dataset[0]],
        cwd=jobs.REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == "[]\n"


def test_what_has_no_schema_is_answered_in_one_line(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    partition = jobs.partition_root(simulated_store)
    for argv, said in (
        ([tmp_path], f"{tmp_path}: nothing is published here; expected a dataset"),
        ([partition], "expected a dataset version with rows, got one without statistics"),
        ([], "the following arguments are required: VERSION (see `playhead schema --help`)"),
        ([tmp_path, "--outptu", "x"], "unrecognized arguments: --outptu x"),
    ):
        ended = jobs.call("schema", *argv)
        assert (ended.code, ended.out) == (2, "")
        (line,) = ended.err.splitlines()
        assert line.startswith("playhead schema: ")
        assert said in line


def test_statistics_that_were_changed_are_refused(
    copied: pathlib.Path, dataset: tuple[pathlib.Path, Manifest]
) -> None:
    (path,) = copied.glob("*/*/statistics/train.pb")
    path.write_bytes(path.read_bytes()[:-1])
    ended = jobs.call("schema", copied)
    assert ended.code == 3
    assert "train.pb: was changed after it was published" in ended.err
    assert len(ended.err.splitlines()) == 1


# --- Gates of a build -----------------------------------------------------------------------------


def test_a_version_is_held_against_the_schema_of_its_kind(
    dataset: tuple[pathlib.Path, Manifest],
) -> None:
    root, published = dataset
    shipped = parse(gates.curated_schema(GatesSpec(), "ranking"))
    by_name = {feature.name: feature for feature in shipped.feature}
    applied = parse(side_file(root, published, "schema.pbtxt").decode())
    assert list(applied.feature) == [by_name[column.name] for column in published.columns]
    assert json.loads(side_file(root, published, "anomalies.json")) == {"findings": [], "drift": {}}


def serving_log(path: pathlib.Path, rows: pl.DataFrame) -> pathlib.Path:
    """Features as a server saw them that counts hours from 13 and plays by the dozen."""
    rows.select(
        (pl.col("hour_of_day") % 12 + 13).alias("hour_of_day"),
        pl.col("user_plays_7d") * 12,
        "propensity",
    ).write_parquet(path)
    return path


def test_failed_gates_leave_a_version_unpublished_and_readable(
    copied: pathlib.Path,
    dataset: tuple[pathlib.Path, Manifest],
    simulated_store: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    published = dataset[1]
    pointer, before = copied / manifest.POINTER_NAME, jobs.files_below(copied)
    named = pointer.read_bytes()
    strict = tmp_path / "strict.pbtxt"
    strict.write_text('feature { name: "position" type: INT int_domain { min: 0 max: 1 } }\n')
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"{SPEC}gates: {{schema_file: {strict.name}, drift: null, label_shift: null}}\n"
    )
    log = serving_log(tmp_path / "log.parquet", jobs.rows(copied, published, "train"))
    argv = jobs.build_argv(simulated_store, spec, DAY_2, DAY_2, copied, "--serving-log", log)

    refused = jobs.call(*argv)
    assert refused.code == 3
    message = refused.err[refused.err.index("playhead build: ") :].splitlines()
    assert re.fullmatch(
        r"playhead build: \d findings of 2 gates; nothing was published:", message[0]
    )
    reasons = "\n".join(message[1:-1])
    for reason in (
        "  schema: position in train: Out-of-range values: Unexpectedly large value: ",
        "  skew: hour_of_day is ",
        "  skew: user_plays_7d is ",
    ):
        assert reason in reasons
    assert "propensity" not in reasons
    assert len(message) < 20
    attempt = pathlib.Path(message[-1].removeprefix("what was made can be read at "))

    # Nothing that readers use has changed; what was made is whole and says why.
    assert pointer.read_bytes() == named
    assert manifest.require_current(str(copied), "a dataset") == published
    assert attempt.parent.parent == copied
    assert not (attempt.parent / manifest.MANIFEST_NAME).exists()
    assert set(before) <= set(jobs.files_below(copied))
    root, audit = manifest.resolve(str(attempt))
    assert (root, audit.run.attempt) == (str(copied), attempt.name)
    listed = [entry.path for entry in audit.files]
    assert jobs.files_below(attempt) == sorted([*listed, manifest.AUDIT_NAME])
    findings = json.loads(side_file(copied, audit, "anomalies.json"))["findings"]
    assert message[0].split(": ")[1].split(" ")[0] == str(
        sum(f["severity"] == "error" for f in findings)
    )
    failed = {f["gate"] for f in findings if f["severity"] == "error"}
    assert failed == {"schema", "skew"}
    assert "position" in (attempt / "report.html").read_text()

    inspected = jobs.ok("inspect", attempt, "--rows", 1).out
    assert inspected.startswith(f"dataset ranking, version {audit.version}: REFUSED\n")
    assert "\n".join(message[1:-1]) in inspected
    assert "not published: " in inspected
    page = (attempt / "report.html").read_text()
    assert "<b>Not published</b>: refused by <code>schema</code>, <code>skew</code>." in page
    assert "Not published" not in side_file(copied, published, "report.html").decode()
    rows = sum(entry.rows for entry in audit.files if entry.role == "train")
    assert f"{rows:,} rows" in inspected
    compared = jobs.ok("diff", copied / published.version, attempt, "--rows", 1).out
    assert compared.startswith("DIFFERENT")
    assert parse(jobs.ok("schema", attempt).out).feature

    # A run again makes an attempt of its own; without the gates it is published.
    again = jobs.call(*argv)
    assert (again.code, attempt.exists()) == (3, True)
    assert len(list(attempt.parent.iterdir())) == 2
    spec.write_text(f"{SPEC}gates: {{drift: null, label_shift: null, skew: null}}\n")
    mended = jobs.build(simulated_store, spec, DAY_2, DAY_2, copied, "--serving-log", log)
    assert mended.version != published.version
    assert pointer.read_bytes() != named


@pytest.mark.parametrize(
    ("gates_yaml", "more", "said"),
    [
        ("{schema_file: missing.pbtxt}", [], "/missing.pbtxt: expected a TFMD"),
        ("{drift: 2}", [], "spec.yaml:4: gates.drift: expected a number of at most 1, got 2"),
        ("{}", ["--serving-log", "missing.parquet"], "--serving-log: missing.parquet: expected a"),
    ],
)
def test_a_mistake_is_answered_before_any_work(
    simulated_store: pathlib.Path,
    tmp_path: pathlib.Path,
    gates_yaml: str,
    more: list[str],
    said: str,
) -> None:
    spec, output = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(f"{SPEC}gates: {gates_yaml}\n")
    ended = jobs.call(*jobs.build_argv(simulated_store, spec, jobs.DAY, jobs.DAY, output, *more))
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert said in line
    assert not output.exists()


def test_days_follow_one_another_without_a_false_alarm(
    dataset: tuple[pathlib.Path, Manifest],
    copied: pathlib.Path,
    simulated_store: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    """The shipped gates on the second day of a store: what is far from the first one is told."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    second = jobs.build(simulated_store, tmp_path / "spec.yaml", DAY_2, DAY_2, copied)
    told = json.loads(side_file(copied, second, "anomalies.json"))
    assert {finding["severity"] for finding in told["findings"]} <= {"warning"}
    assert "day_of_week" not in told["drift"]
    assert told["drift"]["hour_of_day"] < 0.1
