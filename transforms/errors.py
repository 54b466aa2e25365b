"""The errors a user can cause, each shown as one line without a stack trace.

Anything else that escapes a job is a bug of Playhead and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str | None:
    """What was probably meant, or None."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.7)
    return close[0] if close else None


def printable(text: str) -> str:
    """The text on one line, with escapes for what a terminal would obey instead of show."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )


class PlayheadError(Exception):
    """Base of all errors that are not bugs. The message says what was wrong and what to do.

    `exit_code` is what the command line returns.
    """

    exit_code = 1


class UsageError(PlayheadError):
    """A wrong option, spec, mapping file or path: nothing was started."""

    exit_code = 2


class DataRefusedError(PlayheadError):
    """The data did not pass a gate (quarantine share, conservation, conflict): nothing was
    published, the previous version stays current."""

    exit_code = 3


class InputFileError(PlayheadError):
    """A whole input file cannot be trusted: truncated, corrupt, or not of the stated format."""

    exit_code = 4

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.problem}"


class UnreadableInputError(PlayheadError):
    """Some input files of a run could not be read to their end; nothing was published."""

    exit_code = 4


class UnsettledError(PlayheadError):
    """A write of the commit failed in a way that leaves open whether the version is published, or
    is current. Nothing was deleted; the same command again settles it."""

    exit_code = 1
