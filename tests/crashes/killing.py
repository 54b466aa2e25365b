"""Kills a job at one operation after the other.

    python -m tests.crashes.killing NAME MADE WORK CASES

Everything is imported once, and each run is a fork of that, made before any thread is started. A
kill in front of a read leaves what a kill after the write before it left: what one state of the
disk leads to is seen once.

Prints JSON: kills, states of the disk that they left, and what went wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable

from tests.crashes import faulty, rig
from tests.crashes.faulty import Mode, Plan

# What a job imports when it runs.
for _module in ("pipelines.ingest", "pipelines.build", "pipelines.console", "transforms.ingestion",
                "transforms.adapters.canonical", "transforms.finishing"):  # fmt: skip
    importlib.import_module(_module)

_NAMES = re.compile(r"[0-9a-f]{8,16}")


def forked(work: Callable[[], None], log: pathlib.Path) -> int:
    """Exit code of `work` in a process of its own; negative for a signal. It speaks into a file."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        with log.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                try:
                    work()
                    code = 0
                except BaseException:
                    traceback.print_exc()
    finally:
        os._exit(code)


def state(folder: pathlib.Path) -> str:
    """What lies in a folder, whatever its random names are."""
    sizes = [
        (_NAMES.sub("*", str(path.relative_to(folder))), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    ]
    return json.dumps(sorted(sizes))


def main() -> None:
    name, made, work, cases = sys.argv[1:]
    job = rig.job(name, pathlib.Path(made))
    folder, log = pathlib.Path(work), pathlib.Path(work) / "log"
    folder.mkdir()
    seen: set[str] = set()
    wrong = []
    kills = 0
    for number, mode in json.loads(cases):
        said = f"{name} {number} {mode}"
        place = job.copy(folder / f"{number}-{mode}")
        plan = Plan(faulty.at(number, Mode(mode)))
        code = forked(lambda: print(place.run(plan)), log)  # noqa: B023
        kills += code == -signal.SIGKILL
        if code != -signal.SIGKILL:
            wrong.append(f"{said}: ended with {code}: {log.read_text()}")
        left = state(place.folder)
        if left not in seen:
            seen.add(left)

            def settle() -> None:
                place.check(None, said)  # noqa: B023
                place.settle(said)  # noqa: B023

            if forked(settle, log):
                wrong.append(f"{said}: {log.read_text()}")
        shutil.rmtree(place.folder)
    print(json.dumps([kills, len(seen), wrong]))


if __name__ == "__main__":
    main()
