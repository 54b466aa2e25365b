"""The command line: answers at once, says what was wrong in a line, ends with the right code."""

from __future__ import annotations

import datetime
import errno
import importlib
import io
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import apache_beam as beam
import polars as pl
import pytest

from pipelines import cli, inspect
from pipelines import main as playhead
from tests import jobs
from transforms import building, ingestion, storage
from transforms.errors import DataRefusedError, InputFileError, UsageError

COMMANDS = list(playhead.COMMANDS)

LIGHT = """
import contextlib, io, json, sys
from pipelines import cli, main
heavy = ("apache_beam", "polars", "pyarrow", "tensorflow", "grpc", "numpy")
said = {}
for argv in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = cli.main("playhead", main.run, argv)
        except SystemExit as end:
            code = end.code
    loaded = [name for name in heavy if name in sys.modules]
    said[" ".join(argv)] = [code, out.getvalue(), loaded, len(sys.modules)]
print(json.dumps(said))
"""


def light(*commands: list[str]) -> dict[str, list[Any]]:
    """What commands print, and what a fresh process has imported by then."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(commands)],
        cwd=jobs.REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said: dict[str, list[Any]] = json.loads(done.stdout)
    return said


def test_help_and_typos_are_answered_without_loading_an_engine() -> None:
    day = ["--date", "2026-01-05"]
    said = light(
        ["--help"], ["--version"], *[[name, "--help"] for name in COMMANDS],
        ["ingst"], ["ingest"], ["build", "--store", "x"], ["inspect"],
        ["ingest", "--input", "x", "--format", "avro", "--store", "s", "--date", "5.1.2026"],
        ["ingest", "--input", "x", "--format", "avro", "--store", "s", *day, "--max-quarantine=2"],
    )  # fmt: skip
    for command, (code, text, loaded, modules) in said.items():
        wanted = 0 if command.endswith("--help") or command == "--version" else 2
        assert code == wanted, text
        assert loaded == [], command
        assert modules < 400, command
        if command.endswith("--help") and command != "--help":
            assert f"usage: playhead {command.split()[0]}" in text
            assert "example:\n  playhead " in text


def test_looking_at_things_needs_no_engine(simulated_store: pathlib.Path) -> None:
    store = str(simulated_store)
    said = light(["formats"], ["signals"], ["inspect", store], ["fsck", store, "--verify"])
    for command, (code, _, loaded, _) in said.items():
        assert code == 0, command
        assert "apache_beam" not in loaded, command
        assert "tensorflow" not in loaded, command


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_the_help_is_a_command_that_parses(name: str) -> None:
    module = importlib.import_module(playhead.COMMANDS[name][0])
    parser = module.build_parser()
    example = parser.epilog.removeprefix("example:\n  ")
    words = shlex.split(example)
    assert words[:2] == ["playhead", name]
    parser.parse_args(words[2:])
    assert all(each.help for each in parser._actions), "an option without help"


def test_every_command_is_in_the_usage() -> None:
    out = jobs.ok("--help").out
    for name, (_, text) in playhead.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", out, re.MULTILINE)
    assert jobs.call().code == 2


INGEST = ["ingest", "--input", "none/*", "--format", "parquet", "--store", "s", "--date",
          "2026-01-05"]  # fmt: skip
BUILD = ["build", "--store", "none", "--spec", "specs/ranking.yaml", "--start-date", "2026-01-05",
         "--end-date", "2026-01-05", "--output", "o"]  # fmt: skip
USER_ERRORS: list[tuple[list[str], str]] = [
    (["ingset"], "did you mean ingest?"),
    (["xyz"], "unknown command 'xyz'"),
    (["--ingest"], "unknown command '--ingest'"),
    (["ingest"], "required: --input, --format, --store, --date"),
    (["ingest", "--inptu", "x"], "--input"),
    ([*INGEST, "--max-quarantin", "0.1"], "did you mean --max-quarantine?"),
    ([*INGEST, "--max"], "unknown option --max"),
    ([*INGEST, "--runer", "DirectRunner"], "did you mean --runner?"),
    ([*INGEST, "--direct_num_workers", "many"], "direct_num_workers"),
    ([*INGEST, "stray"], "stray"),
    (INGEST, "no file matches 'none/*'"),
    ([*INGEST[:-1], "2026-02-30"], "expected a day as YYYY-MM-DD, got '2026-02-30'"),
    ([*INGEST[:-1], "20260105"], "expected a day as YYYY-MM-DD"),
    ([*INGEST[:-1], "2026-W02-1"], "expected a day as YYYY-MM-DD"),
    ([*INGEST, "--buckets", "3"], "power of two"),
    ([*INGEST, "--buckets", "0"], ">= 1"),
    ([*INGEST, "--max-quarantine", "nan"], "share from 0 to 1, got 'nan'"),
    ([*INGEST, "--max-user-events", "-1"], ">= 1"),
    ([*INGEST, "--max-user-events", "²"], ">= 1"),
    ([*INGEST, "--shuffle", "magic"], "choose from"),
    ([*INGEST[:3], "--format", "parket", *INGEST[5:]], "did you mean parquet?"),
    ([*INGEST[:3], "--format", "no.such.module", *INGEST[5:]], "no module of that name"),
    ([*INGEST[:3], "--format", "none.yaml", *INGEST[5:]], "none.yaml"),
    ([*INGEST[:3], "--format", "none.py", *INGEST[5:]], "none.py: no such file"),
    ([*INGEST, "--user-key", "0123456789abcdef0123456789abcdef"], ""),
    ([*INGEST, "--store", "gs://bucket/store"], "cannot publish to gs://"),
    (BUILD, "is not an event store"),
    ([*BUILD[:-1], "s3://bucket/dataset"], "cannot publish to s3://"),
    (["fsck"], "arguments are required: PATH"),
    (["fsck", "none"], "got nothing"),
    (["fsck", "none", "--older-than", "5m"], "expected an age of at least 1h"),
    ([*BUILD[:4], "none.yaml", *BUILD[5:]], "none.yaml: no such file"),
    (["inspect", "none"], "nothing is published here"),
    (["inspect", "none", "--rows", "0"], ">= 1"),
    (["inspect"], "arguments are required: PATH"),
    (["formats", "--all"], "--all"),
    (["demo", "--events", "many"], ">= 1"),
    (["simulate"], "required: --output"),
]


@pytest.mark.parametrize(("argv", "part"), USER_ERRORS, ids=range(len(USER_ERRORS)))
def test_a_users_mistake_is_one_line_and_exit_code_2(
    argv: list[str], part: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "specs/ranking.yaml" not in argv:
        monkeypatch.chdir(tmp_path)
    ended = jobs.call(*argv)
    assert ended.code == 2, ended.err[-600:]
    assert ended.out == ""
    (line,) = ended.err.strip().splitlines()
    assert line.startswith("playhead")
    assert part in line
    if "specs/ranking.yaml" not in argv:
        assert list(tmp_path.iterdir()) == []


def test_each_kind_of_error_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def raising(error: BaseException) -> Any:
        def run(_: Any) -> int:
            raise error

        return run

    for error, code in (
        (UsageError("x"), 2), (DataRefusedError("x"), 3), (InputFileError("f", "cut"), 4),
        (KeyboardInterrupt(), 130), (ValueError("a bug"), 1),
        (RuntimeError("transforms.errors.DataRefusedError: remote\n\nmore"), 3),
    ):  # fmt: skip
        assert cli.main("playhead x", raising(error)) == code
        said = capsys.readouterr().err
        assert said.startswith("playhead x: ") or code == 1
        assert ("Traceback" in said) == (code == 1)
    wrapped = RuntimeError("as a runner wraps it")
    wrapped.__cause__ = UsageError("the cause")
    assert cli.main("playhead x", raising(wrapped)) == 2
    assert "the cause" in capsys.readouterr().err


def test_a_bug_that_happens_while_a_users_error_is_handled_stays_a_bug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(_: Any) -> int:
        try:
            raise UsageError("a mistake")
        except UsageError:
            raise ZeroDivisionError("and a bug") from None

    assert cli.main("playhead x", run) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_an_unknown_runner_is_a_users_mistake(
    simulated: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    raw = simulated / f"received={jobs.DAY}" / "a.parquet"
    ended = jobs.call(*jobs.ingest_argv(raw, tmp_path / "store", "--runner", "NoSuchRunner"))
    assert ended.code == 2
    assert "NoSuchRunner" in ended.err
    assert "Traceback" not in ended.err


# --- output ---------------------------------------------------------------------------------------


def test_off_a_terminal_progress_is_plain_lines_on_standard_error(
    simulated: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    raw = simulated / f"received={jobs.DAY}" / "*"
    ended = jobs.ok(*jobs.ingest_argv(raw, tmp_path / "store", "--buckets", 2))
    lines = ended.err.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["read", "store"]
    for line in lines:
        assert re.fullmatch(r"\w+: [\d,]+ events(, [\d,]+ events/s)?, \d+ ?%", line)
    assert not set("\r\x1b") & set(ended.out + ended.err)
    assert ended.out.startswith("Published ")
    for name in ("rows read", "kept", "duplicates dropped", "quarantined", "time", "peak memory"):
        assert re.search(rf"^  {name} +\S", ended.out, re.MULTILINE)
    assert all(len(line) <= 100 for line in ended.out.splitlines()[1:])


@pytest.mark.parametrize("argv", [["formats"], ["signals"], ["--help"]])
def test_a_reader_that_leaves_early_is_no_error(argv: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    process = jobs.spawn(*argv, stdout=write)
    os.close(write)
    ended = jobs.wait(process)
    assert (ended.code, ended.err) == (0, "")


def interrupting(whole: Any, by: signal.Signals = signal.SIGINT) -> Any:
    def step(*args: Any) -> Any:
        os.kill(os.getpid(), by)
        time.sleep(0.2)
        return whole(*args)

    return step


def test_an_interrupted_ingest_publishes_nothing_and_leaves_nothing(
    simulated: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "store_bucket", interrupting(ingestion.store_bucket))
    store = tmp_path / "store"
    ended = jobs.call(*jobs.ingest_argv(simulated / f"received={jobs.DAY}" / "*", store))
    assert ended.code == 130
    assert ended.err.strip().splitlines()[-1] == (
        "playhead ingest: interrupted; nothing was published"
    )
    assert "Traceback" not in ended.err
    assert set(jobs.files_below(store)) <= {"store.json"}


def test_an_interrupted_build_publishes_nothing_and_leaves_nothing(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spec.yaml").write_text("kind: ranking\noutput: {shards: 4}\n")
    monkeypatch.setattr(building, "build_shard", interrupting(building.build_shard))
    argv = jobs.build_argv(
        simulated_store, tmp_path / "spec.yaml", jobs.DAY, jobs.DAY, tmp_path / "dataset"
    )
    assert jobs.call(*argv).code == 130
    assert not (tmp_path / "dataset").exists()


def test_a_terminated_job_leaves_nothing_either(
    simulated: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = interrupting(ingestion.store_bucket, signal.SIGTERM)
    monkeypatch.setattr(ingestion, "store_bucket", step)
    before = signal.getsignal(signal.SIGTERM)
    store = tmp_path / "store"
    ended = jobs.call(*jobs.ingest_argv(simulated / f"received={jobs.DAY}" / "*", store))
    assert (ended.code, ended.err.strip().splitlines()[-1]) == (
        128 + signal.SIGTERM, "playhead ingest: terminated; nothing was published"
    )  # fmt: skip
    assert set(jobs.files_below(store)) <= {"store.json"}
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("is_run", [True, False])
def test_a_pipeline_makes_no_folder_of_its_own(
    is_run: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one that is never run, as after a mistake in its graph."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pipeline = cli.make_pipeline(cli.beam_options([]))
    if is_run:
        _ = pipeline | beam.Create([1])
        pipeline.run().wait_until_finish()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(
    simulated: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write to an open file fails without a name."""

    class Full(io.BytesIO):
        def write(self, _data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "create_writer", lambda _path: Full())
    raw = simulated / f"received={jobs.DAY}" / "*"
    ended = jobs.call(*jobs.ingest_argv(raw, tmp_path / "store"))
    last = ended.err.strip().splitlines()[-1]
    where = re.escape(str(jobs.partition_root(tmp_path / "store")))
    assert ended.code == 1
    said = "No space left on device; nothing was published"
    assert re.fullmatch(rf"playhead ingest: {where}/v-\w+/attempt-\w+: {said}", last)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("rankin", "did you mean ranking? "),
        ("Ranking", "did you mean ranking? "),
        ("specs/retreival.yaml", "did you mean retrieval? "),
        ("nothing/like/it.yml", ""),
    ],
)
def test_a_spec_that_is_not_there_is_answered_with_those_that_are(spec: str, hint: str) -> None:
    ended = jobs.call(*jobs.build_argv("store", spec, jobs.DAY, jobs.DAY, "out"))
    assert ended == jobs.Ended(
        2, "", f"playhead build: --spec {spec}: no such file; {hint}expected a YAML file, or one "
        "of those that come with Playhead: ranking, retrieval, sequences, sessions, listening\n",
    )  # fmt: skip


@pytest.mark.usefixtures("offline")
def test_the_direct_runner_reaches_for_no_network(
    simulated: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"opens {args}")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("apache_beam.runners.portability.prism_runner.urlopen", refuse)
    raw = simulated / f"received={jobs.DAY}" / "a.parquet"
    for i, runner in enumerate(("DirectRunner", "FnApiRunner")):
        jobs.ok(*jobs.ingest_argv(raw, tmp_path / f"{i}", "--runner", runner))


# --- inspect, formats, demo -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(
    simulated_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("inspected")
    (folder / "spec.yaml").write_text("kind: ranking\noutput: {shards: 4}\n")
    jobs.build(simulated_store, folder / "spec.yaml", jobs.DAY, jobs.DAY, folder / "dataset")
    return folder / "dataset"


def test_inspect_shows_schema_counts_and_rows_of_a_dataset_or_a_version(
    dataset: pathlib.Path,
) -> None:
    shown = jobs.ok("inspect", dataset, "--rows", 2).out
    (version,) = [path for path in dataset.iterdir() if path.is_dir()]
    assert jobs.ok("inspect", f"{version}/", "--rows", 2).out.replace(str(version), "") == (
        shown.replace(str(version), "")
    )
    for part in (f"version {version.name}: OK", "schema", "counts", "rows of train/", "examples: "):
        assert part in shown
    assert shown.count("\n  event_id ") == 3  # once in the schema, once a row
    assert all(len(line) < 250 for line in shown.splitlines())


def test_inspect_shows_chosen_columns_and_knows_their_names(dataset: pathlib.Path) -> None:
    shown = jobs.ok("inspect", dataset, "--columns", "track_id,label_played", "--rows", 1).out
    rows = shown.split("rows of", 1)[1].strip().splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["track_id", "label_played"]
    ended = jobs.call("inspect", dataset, "--columns", "track_id,lable_played")
    assert ended.code == 2
    assert "no column 'lable_played'; did you mean label_played?" in ended.err
    assert ended.out == ""


def test_inspect_lists_the_partitions_of_a_store(simulated_store: pathlib.Path) -> None:
    shown = jobs.ok("inspect", simulated_store).out
    assert shown.count("\n  dt=2026-01-") == 8
    kept = sum(
        jobs.partition(simulated_store, jobs.DAY + datetime.timedelta(days=i)).counts["kept"]
        for i in range(8)
    )
    assert f"{kept:,} events in all" in shown
    one = jobs.ok("inspect", jobs.partition_root(simulated_store)).out
    assert "events 2026-01-05, version v-" in one


@pytest.mark.parametrize("damage", ["missing", "truncated", "swapped"])
def test_inspect_of_a_damaged_version_is_one_line(
    tmp_path: pathlib.Path, simulated_store: pathlib.Path, damage: str
) -> None:
    (tmp_path / "spec.yaml").write_text(
        "kind: ranking\noutput: {shards: 1}\nfeatures: [user_plays_7d]\n"
    )
    built = jobs.build(
        simulated_store, tmp_path / "spec.yaml", jobs.DAY, jobs.DAY, tmp_path / "dataset"
    )
    path = (
        tmp_path / "dataset" / built.version / built.run.attempt / built.files_of("train")[0].path
    )
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        pl.DataFrame({"other": [1]}).write_parquet(path)
    ended = jobs.call("inspect", tmp_path / "dataset")
    assert ended.code in (3, 4)
    assert path.name in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_formats_lists_every_format() -> None:
    from transforms.adapters import list_adapters

    shown = jobs.ok("formats").out
    for name, summary in list_adapters():
        assert re.search(rf"^{name} +{re.escape(summary)}$", shown, re.MULTILINE)


def test_the_demo_refuses_a_folder_that_is_not_its_own(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    ended = jobs.call("demo", "--output", tmp_path)
    assert ended.code == 2
    assert "holds other files" in ended.err
    assert jobs.files_below(tmp_path) == ["thesis.txt"]


def test_the_demo_does_not_take_a_file_for_a_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("years of work")
    ended = jobs.call("demo", "--output", tmp_path / "file")
    assert ended.code == 2
    assert len(ended.err.strip().splitlines()) == 1


def test_an_output_that_cannot_be_written_is_one_line(
    simulated: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    raw = simulated / f"received={jobs.DAY}" / "a.parquet"
    ended = jobs.call(*jobs.ingest_argv(raw, tmp_path / "file" / "store"))
    assert ended.code == 2
    assert len(ended.err.strip().splitlines()) == 1
    assert "file" in ended.err


def test_the_demo_shows_what_it_runs_and_where_the_results_lie(tmp_path: pathlib.Path) -> None:
    out = jobs.ok("demo", "--output", tmp_path / "demo", "--events", 3000).out
    for command in ("simulate", "ingest", "build", "inspect"):
        assert f"$ playhead {command} " in out
    made = out.split("What was made")[1]
    assert made.count("report.html") == 4
    assert str(tmp_path / "demo" / "datasets") in made
    assert "label_reward" in out


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (jobs.NOON, "2026-01-05T12:00:00Z"),
        ([jobs.NOON, None], "2026-01-05T12:00:00Z, null"),
        (["t"] * 1_000, f"{'t, ' * 19}...  (1,000 values)"),
        ("x" * 61, f"{'x' * 57}..."),
    ],
)
def test_inspect_shows_a_value_on_a_line(value: object, shown: str) -> None:
    assert inspect._short(value) == shown
