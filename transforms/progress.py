"""How far a local run is: counters that work advances and a console reads.

In the process of a local run the console installs itself as the listener. Workers elsewhere have
none, and advancing is then free; their progress is in the runner's own metrics.
"""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """What a console implements."""

    def advance(self, stage: str, events: int, done: float) -> None:
        """`events` more events passed `stage`, which is `done` more units of its total."""


_listener: Listener | None = None


def install(listener: Listener | None) -> None:
    """Sends progress of this process to `listener`; None stops it."""
    global _listener
    _listener = listener


def advance(stage: str, events: int, done: float = 0.0) -> None:
    """Reports `events` events through `stage`; `done` is in the unit of the stage's total."""
    if _listener is not None:
        _listener.advance(stage, events, done)
