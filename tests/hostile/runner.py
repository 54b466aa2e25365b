"""Runs commands one after the other in this process, under a limit of memory, and reports each.

    python -m tests.hostile.runner PLAN.json

PLAN: {"limit": bytes of address space, "commands": [[name, [argument, ...]], ...]}. Before each
command its name is written to standard output, and after it one line of JSON: whoever reads knows
which command ended the process, or never came back.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import resource
import sys
import time


def main() -> None:
    plan = json.loads(pathlib.Path(sys.argv[1]).read_text())
    resource.setrlimit(resource.RLIMIT_AS, (plan["limit"], plan["limit"]))
    from tests import jobs

    report = sys.stdout
    for name, argv in plan["commands"]:
        print(name, file=report, flush=True)
        started = time.process_time()
        ended = jobs.call(*argv)
        spent = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = {**dataclasses.asdict(ended), "seconds": spent, "peak_kib": peak}
        print(json.dumps(said), file=report, flush=True)


if __name__ == "__main__":
    main()
