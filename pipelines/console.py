"""For the eye: progress while a job runs and a table when it ends.

On a terminal both are drawn (rich); elsewhere they are plain lines that a log can keep.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping

from transforms import progress

_LINE_EVERY_S = 5.0


def _share(done: float, total: float) -> float:
    return min(done / total, 1.0) if total else 0.0


class _PlainProgress:
    """Lines such as `read: 1,200,000 events, 450,000 events/s, 40 %` on standard error."""

    def __init__(self, totals: Mapping[str, float]) -> None:
        self._totals = totals
        self._lock = threading.Lock()
        self._events: dict[str, int] = {}
        self._done: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._spoke = time.monotonic()

    def advance(self, stage: str, events: int, done: float) -> None:
        with self._lock:
            now = time.monotonic()
            self._started.setdefault(stage, now)
            self._events[stage] = self._events.get(stage, 0) + events
            self._done[stage] = self._done.get(stage, 0.0) + done
            finished = done and self._done[stage] >= self._totals.get(stage, float("inf"))
            if finished or now - self._spoke > _LINE_EVERY_S:
                self._spoke = now
                print(self._line(stage, now), file=sys.stderr, flush=True)

    def _line(self, stage: str, now: float) -> str:
        seconds = max(now - self._started[stage], 1e-3)
        events = self._events[stage]
        share = _share(self._done[stage], self._totals.get(stage, 0.0))
        rate = f", {events / seconds:,.0f} events/s" if seconds > 1 else ""
        return f"{stage}: {events:,} events{rate}, {share:.0%}"


class _DrawnProgress:
    """One bar a stage, drawn by rich."""

    def __init__(self, totals: Mapping[str, float]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self.bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[events]:>14,} events"),
            TextColumn("{task.fields[rate]:>12,.0f} events/s"),
            console=Console(stderr=True),
            transient=True,
        )
        self._totals = totals
        self._tasks = {
            stage: self.bars.add_task(stage, total=total, events=0, rate=0.0)
            for stage, total in totals.items()
        }
        self._started: dict[str, float] = {}
        self._lock = threading.Lock()

    def advance(self, stage: str, events: int, done: float) -> None:
        with self._lock:
            now = time.monotonic()
            seconds = max(now - self._started.setdefault(stage, now), 0.1)
            task = self.bars.tasks[self._tasks[stage]]
            count = task.fields["events"] + events
            self.bars.update(task.id, advance=done, events=count, rate=count / seconds)


@contextlib.contextmanager
def show_progress(totals: Mapping[str, float], enabled: bool = True) -> Iterator[None]:
    """Shows the progress of a local run while the block runs.

    Args:
      totals: stage name to its size in the unit that `progress.advance` counts as done.
      enabled: False on engines whose workers are elsewhere.
    """
    if not enabled:
        yield
        return
    if sys.stderr.isatty():
        drawn = _DrawnProgress(totals)
        progress.install(drawn)
        try:
            with drawn.bars:
                yield
        finally:
            progress.install(None)
        return
    progress.install(_PlainProgress(totals))
    try:
        yield
    finally:
        progress.install(None)


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """Two columns on standard output; a name that starts with spaces is a part of the one above."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(justify="right")
        for name, value in rows:
            table.add_row(name, value)
        Console().print(table)
        return
    print(title)
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def cost_rows(started: float) -> list[tuple[str, str]]:
    """Seconds since `started` (time.monotonic) and the peak memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [("time", f"{time.monotonic() - started:.1f} s"), ("peak memory", f"{peak:,.0f} MiB")]


def share_text(part: int, whole: int) -> str:
    """`1,234 (5.6%)`; only the number where there is no whole."""
    return f"{part:,} ({part / whole:.2%})" if whole else f"{part:,}"
