"""Each hostile file is ingested beside a good one, under limits of memory and time, and ends as its
case says: in the quarantine, or in one message that names it. No traceback, no process that is
killed, no row that is lost without a word.

Files of a format share a run where the answer names each of them anyway; if a run does not end as
it should, each of its files gets a run of its own, so that the failure says which it was.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable

import pytest

from tests import jobs
from tests.hostile import corpus
from tests.hostile.corpus import Case, Refused, Rows

# Address space, of which 0.8 GiB are what the libraries map before they have read anything.
LIMIT_BYTES = 3 << 30
TIMEOUT_S = 240  # of all commands of a process, on a machine that does other work too
ENVIRONMENT = {
    "POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}  # fmt: skip
NAMED_IN_A_MESSAGE = 10  # files

Run = list[Case]


def run_limited(
    folder: pathlib.Path, commands: dict[str, list[str]]
) -> dict[str, jobs.Ended | str]:
    """Name -> how the command ended; or why the process that ran it ended before it."""
    left = dict(commands)
    ended: dict[str, jobs.Ended | str] = {}
    while left:
        plan = folder / "plan.json"
        plan.write_text(json.dumps({"limit": LIMIT_BYTES, "commands": list(left.items())}))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.runner", str(plan)],
            cwd=jobs.REPOSITORY, env={**os.environ, **ENVIRONMENT}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += f"\nkilled after {TIMEOUT_S} s"
        lines = out.splitlines()
        for name, said in zip(lines[::2], lines[1::2], strict=False):
            found = json.loads(said)
            ended[name] = jobs.Ended(found["code"], found["out"], found["err"])
        names = [name for name in left if name not in ended]
        if names:  # it ended with the first of them
            ended[names[0]] = f"the process ended with {process.returncode}: {err[-500:]}"
        left = {name: left[name] for name in names[1:]}
    return ended


def runs(cases: Iterable[Case]) -> Iterable[Run]:
    """The cases in runs whose answer names each of them."""
    groups = collections.defaultdict(list)
    for case in cases:
        groups[case.format, isinstance(case.ends, Refused)].append(case)
    # Refused ones last: libraries keep the address space that a bomb took from the process.
    for (_, refused), group in sorted(groups.items(), key=lambda item: item[0][1]):
        size = NAMED_IN_A_MESSAGE if refused else len(group)
        yield from (group[at : at + size] for at in range(0, len(group), size))


def command(folder: pathlib.Path, run: Run) -> list[str]:
    """Writes the files of a run; the ingest of them and of the good file of their format."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    name, data = corpus.GOOD[run[0].format]
    (raw / f"beside_{name}").write_bytes(data)
    for case in run:
        (raw / case.name).write_bytes(case.data)
    kind = run[0].format
    if kind in corpus.MAPPINGS:
        kind = str(folder / f"{kind}.yaml")
        pathlib.Path(kind).write_text(corpus.MAPPINGS[run[0].format])
    more = ("--max-quarantine", 1, "--buckets", 1, "--all-days")
    argv = jobs.ingest_argv(raw / "*", folder / "store", *more, format=kind)
    return [str(each) for each in argv]


def problem(folder: pathlib.Path, run: Run, ended: jobs.Ended | str) -> str | None:
    """What is not as the cases of a run say; None if all is."""
    if isinstance(ended, str):
        return ended
    if "Traceback" in ended.err:
        return ended.err[-2000:]
    store = folder / "store"
    if isinstance(run[0].ends, Refused):
        if ended.code != 4 or [*store.rglob("manifest.json")]:
            return f"exit code {ended.code}: {ended.err}"
        wrong = []
        for case in run:
            assert isinstance(case.ends, Refused)
            named = [line for line in ended.err.splitlines() if f"/{case.name}: " in line]
            if len(named) != 1 or case.ends.part not in named[0]:
                wrong.append(f"{case.name}: expected {case.ends.part!r}, got {named}")
        return "\n".join(wrong) or None
    if ended.code != 0:
        return f"exit code {ended.code}: {ended.err}"
    counts = jobs.partition(store).counts
    found: dict[str, dict[str, int]] = {case.name: {} for case in run}
    quarantine = jobs.stored(store, role="quarantine")
    if quarantine.height:
        for path, reason, n in quarantine.group_by("file", "reason").len().iter_rows():
            found[pathlib.Path(path).name][reason] = n
    wrong = [
        f"{case.name}: expected {case.ends.rejects}, got {found[case.name]}"
        for case in run
        if isinstance(case.ends, Rows) and found[case.name] != case.ends.rejects
    ]
    if wrong:
        return "\n".join(wrong)
    good = 3 if run[0].format in corpus.WITH_IDS else 1
    kept = good + sum(case.ends.kept for case in run if isinstance(case.ends, Rows))
    if counts["kept"] + counts["duplicate"] != kept or counts["excluded"] or counts["other_day"]:
        return f"expected {kept} rows beside those of the quarantine, got {counts}"
    stored = jobs.stored(store)
    if good == 3 and not set(corpus.BESIDE) <= set(stored["event_id"]):
        return "rows of the good file are lost"
    return None


def failures(folder: pathlib.Path, cases: list[Case]) -> list[str]:
    """What is wrong, file by file."""

    def attempt(chosen: list[Run], where: str) -> dict[str, tuple[Run, str]]:
        folders = {f"{where}-{at}": folder / f"{where}-{at}" for at in range(len(chosen))}
        by_name = dict(zip(folders, chosen, strict=True))
        commands = {name: command(folders[name], run) for name, run in by_name.items()}
        ended = run_limited(folder, commands)
        found = {name: problem(folders[name], run, ended[name]) for name, run in by_name.items()}
        return {name: (by_name[name], what) for name, what in found.items() if what is not None}

    together = attempt(list(runs(cases)), "run")
    alone = [[case] for run, _ in together.values() for case in run]
    single = attempt(alone, "alone")
    if together and not single:
        return [f"only together: {what}" for _, what in together.values()]
    return [f"{run[0].name}: {what}" for run, what in single.values()]


@pytest.mark.slow
@pytest.mark.parametrize("part", corpus.PARTS)
def test_a_hostile_file_ends_as_it_should(
    part: str, tmp_path: pathlib.Path, record_property: Callable[[str, object], None]
) -> None:
    cases = list(corpus.PARTS[part]())
    assert failures(tmp_path, cases) == []
    quarantined = sum(isinstance(case.ends, Rows) and bool(case.ends.rejects) for case in cases)
    refused = sum(isinstance(case.ends, Refused) for case in cases)
    counts = {"tried": len(cases), "quarantined": quarantined, "refused": refused}
    record_property("hostile files", counts)


def test_the_corpus_is_small_and_names_each_file_once() -> None:
    names: collections.Counter[str] = collections.Counter()
    for make in corpus.PARTS.values():
        for case in make():
            names[case.name.lower()] += 1
            assert len(case.data) <= corpus.MIB, case.name
    assert names.most_common(1)[0][1] == 1


def test_the_limit_is_one_that_ends_a_process(tmp_path: pathlib.Path) -> None:
    """Else nothing above would be shown: a command that takes more than the limit fails."""
    code = (
        "import sys; sys.argv[1:] = [sys.argv[1]]; from tests.hostile import runner\n"
        "from tests import jobs\n"
        "jobs.call = lambda *_: bytearray(int(3.5 * 2**30))\n"
        "runner.main()\n"
    )
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"limit": LIMIT_BYTES, "commands": [["greedy", []]]}))
    done = subprocess.run(
        [sys.executable, "-c", code, str(plan)], cwd=jobs.REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert "MemoryError" in done.stderr
    assert done.stdout.splitlines() == ["greedy"]
