"""One DuckDB script, `duckdb.sql`, on two threads.

The slow parts were tried in two ways, and the faster one is kept: counts over seven days as running
counts looked up by ASOF joins (against RANGE frames), histories as one list a play (against slices
of one list a user), duplicates by ranking only repeated ids (against ranking all rows).
"""

from __future__ import annotations

import pathlib

from benchmarks.contenders.common import Task, main

SCRIPT = pathlib.Path(__file__).with_suffix(".sql")


def prepare() -> None:
    import duckdb  # noqa: F401


def run(task: Task, threads: int = 2) -> None:
    import duckdb

    task.rows.mkdir(parents=True)
    raw = "[" + ", ".join(f"'{pattern}'" for pattern in task.raw) + "]"
    with duckdb.connect() as connection:
        connection.execute(
            f"SET threads = {threads}; SET TimeZone = 'UTC'; SET preserve_insertion_order = false;"
            f"SET VARIABLE raw = {raw}; SET VARIABLE first_us = {task.first_us};"
            f"SET VARIABLE end_us = {task.end_us};"
            f"SET VARIABLE import_end_us = {task.import_end_us};"
        )
        connection.execute(SCRIPT.read_text().replace("$out", str(task.rows / "rows.parquet")))


if __name__ == "__main__":
    main(run, prepare)
