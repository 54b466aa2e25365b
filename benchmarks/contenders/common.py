"""What every contender is given, and how it reports.

A contender turns raw Parquet `ListeningEvent`s into the ranking rows of `specs/ranking.yaml`:
validity, clamped clocks, one row of each (user, event id), near duplicates out, users above the
daily cap out, sessions, attribution, labels, all features, maturity, all carried columns. What all
peers leave out, in their favour: the event store, counts and quarantine, the keyed order of rows,
pseudonyms, derived event ids, sessions given by a source, sources without impressions, sync bursts,
splits and cold flags, most of the delays, scrobbles, two of the three skip levels, returns, what
the session did next, statistics, gates and the report.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import pathlib
import time
from collections.abc import Callable

DAY_US = 86_400_000_000
EARLIEST_US = 1_009_843_200_000_000  # 2002-01-01

EVENT_TYPES = ("play", "impression", "like", "unlike", "save", "unsave", "hide", "follow")
TIME_QUALITIES = ("reported", "derived", "sync", "synthetic")
SURFACES = (
    "home", "now_playing", "search", "library", "playlist", "album", "artist", "radio", "queue",
    "other", "unknown",
)  # fmt: skip
NOT_A_SKIP = (
    "trackdone", "trackerror", "logout", "unexpected-exit", "unexpected-exit-while-paused",
    "appload", "reload", "switched-to-audio", "switched-to-video",
)  # fmt: skip
CARRIED = (
    "event_id", "event_type", "event_time", "user_id", "track_id", "artist_id", "album_id",
    "surface", "shelf", "position", "request_id", "candidate_set_size", "policy_id",
    "model_version", "propensity", "is_exploration", "experiment_id", "variant", "context_uri",
    "shuffle", "premium", "platform", "country", "source",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Task:
    """What to do.

    Attributes:
      raw: glob patterns of raw Parquet files.
      out: folder of this run; the rows go to `rows` in it.
      start_date, end_date: inclusive range of examples.
      import_end: midnight after the day of the import; nothing happened later.
    """

    raw: tuple[str, ...]
    out: pathlib.Path
    start_date: datetime.date
    end_date: datetime.date
    import_end: datetime.date

    @property
    def rows(self) -> pathlib.Path:
        return self.out / "rows"

    @property
    def first_us(self) -> int:
        return midnight_us(self.start_date)

    @property
    def end_us(self) -> int:
        return midnight_us(self.end_date) + DAY_US

    @property
    def import_end_us(self) -> int:
        return midnight_us(self.import_end)


def midnight_us(day: datetime.date) -> int:
    """UTC microseconds of a day's first instant."""
    return (day - datetime.date(1970, 1, 1)).days * DAY_US


def parse(argv: list[str] | None = None) -> Task:
    parser = argparse.ArgumentParser()
    parser.add_argument("--raw", required=True, action="append", metavar="GLOB")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR")
    for name in ("--start-date", "--end-date", "--import-date"):
        parser.add_argument(name, required=True, type=datetime.date.fromisoformat, metavar="D")
    args = parser.parse_args(argv)
    import_end = args.import_date + datetime.timedelta(days=1)
    return Task(tuple(args.raw), args.out, args.start_date, args.end_date, import_end)


def main(run: Callable[[Task], None], prepare: Callable[[], None] = lambda: None) -> None:
    """Runs a contender and prints a JSON line with the seconds between start-up and the end."""
    task = parse()
    task.out.mkdir(parents=True, exist_ok=True)
    prepare()
    started = time.monotonic()
    run(task)
    print(json.dumps({"work_s": time.monotonic() - started}), flush=True)
