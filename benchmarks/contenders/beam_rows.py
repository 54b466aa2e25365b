"""The textbook Beam pipeline: a dict an event, GroupByKey(user), plain Python a user.

ReadFromParquet -> valid dicts -> GroupByKey -> one user's list of dicts -> WriteToParquet; item
counts go through CombinePerKey and come back as a side input. The Python is not careless: it sorts
once and answers every question with bisect on sorted lists.
"""

from __future__ import annotations

import bisect
import datetime
import math
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.contenders.common import (
    CARRIED,
    DAY_US,
    EARLIEST_US,
    EVENT_TYPES,
    NOT_A_SKIP,
    SURFACES,
    TIME_QUALITIES,
    Task,
    main,
)

Event = dict[str, Any]

WEEK_US = 7 * DAY_US
GAP_US = WINDOW_US = 30 * 60_000_000
HISTORY = 10
NEEDED = (
    *CARRIED, "received_time", "client_id", "time_quality", "played_ms", "track_duration_ms",
    "reason_end", "source_skip_level",
)  # fmt: skip
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


def _is_valid(event: Event, import_end_us: int) -> bool:
    """The rules of Playhead's ingest."""
    t, received = event["event_time"], event["received_time"]
    track = event["track_id"]
    if not event["event_id"] or not event["user_id"] or event["event_type"] not in EVENT_TYPES:
        return False
    if event["time_quality"] not in TIME_QUALITIES or t is None or received is None:
        return False
    if not track and (event["event_type"] != "follow" or event["artist_id"] is None):
        return False
    if any(
        len((event[name] or "").encode()) > 1024 for name in ("event_id", "user_id", "track_id")
    ):
        return False
    if not EARLIEST_US <= received <= import_end_us + 366 * DAY_US:
        return False
    if not EARLIEST_US <= t < import_end_us or t - received > DAY_US:
        return False

    def inside(name: str, low: float, high: float = math.inf) -> bool:
        return event[name] is None or low <= event[name] <= high

    propensity = event["propensity"]
    return (
        inside("played_ms", 0, 86_400_000)
        and inside("track_duration_ms", 1000, 86_400_000)
        and (propensity is None or 0 < propensity <= 1)
        and inside("position", 0)
        and inside("candidate_set_size", 1)
        and inside("source_skip_level", 0, 3)
    )


def adapt(row: Event, import_end_us: int) -> Iterator[tuple[str, Event]]:
    """(user, event with times in microseconds), if it is valid."""
    event = {name: row.get(name) for name in NEEDED}
    for name in ("event_time", "received_time"):
        value = event[name]
        event[name] = None if value is None else (value - _EPOCH) // _MICROSECOND
    if not _is_valid(event, import_end_us):
        return
    if event["event_time"] > event["received_time"]:
        event["event_time"], event["time_quality"] = event["received_time"], "derived"
    if event["surface"] is not None and event["surface"] not in SURFACES:
        event["surface"] = "unknown"
    if event["country"] is not None:
        event["country"] = event["country"].upper()
    event["source"] = event["source"] or "parquet"
    yield event["user_id"], event


def keep(events: Iterable[Event]) -> list[Event]:
    """A user's events in store order: no duplicates, none above the cap, near duplicates marked."""
    first: dict[str, Event] = {}
    for event in events:
        other = first.get(event["event_id"])
        if other is None or event["received_time"] < other["received_time"]:
            first[event["event_id"]] = event
    kept = sorted(first.values(), key=lambda e: (e["event_time"], e["event_id"]))
    per_day: dict[int, int] = {}
    latest: dict[str, Event] = {}
    for event in kept:
        day = event["event_time"] // DAY_US
        per_day[day] = per_day.get(day, 0) + 1
        event["near"] = False
        if event["event_type"] == "play":
            last = latest.get(event["track_id"])
            event["near"] = (
                last is not None
                and event["event_time"] - last["event_time"] <= 60_000_000
                and last["client_id"] != event["client_id"]
            )
            latest[event["track_id"]] = event
    return [] if per_day and max(per_day.values()) > 5000 else kept


def clean(keyed: tuple[str, Iterable[Event]]) -> tuple[str, list[Event]]:
    return keyed[0], keep(keyed[1])


def last_day_end(keyed: tuple[str, list[Event]]) -> int:
    """Midnight after the user's last event."""
    return max((e["event_time"] // DAY_US + 1) * DAY_US for e in keyed[1]) if keyed[1] else 0


def latest(values: Iterable[int]) -> int:
    return max(values, default=0)


def item_days(keyed: tuple[str, list[Event]]) -> Iterator[tuple[tuple[str, int], list[int]]]:
    """((track, day), [plays, streams, impressions]) for each day that may look back on an event."""
    for event in keyed[1]:
        kind = event["event_type"]
        if event["near"] or kind not in ("play", "impression"):
            continue
        happened = event["event_time"] // DAY_US
        known = event["received_time"] // DAY_US
        play = kind == "play"
        counts = [int(play), int(play and (event["played_ms"] or 0) >= 30_000), int(not play)]
        for day in range(max(happened, known) + 1, happened + 8):
            yield (event["track_id"], day), counts


def add(counts: Iterable[list[int]]) -> list[int]:
    total = [0, 0, 0]
    for each in counts:
        for i in range(3):
            total[i] += each[i]
    return total


def _end(event: Event) -> int:
    if event["event_type"] != "play":
        return int(event["event_time"])
    return int(event["event_time"] + min((event["played_ms"] or 0) * 1000, DAY_US))


def _skipped(play: Event) -> bool | None:
    if play["time_quality"] == "sync":
        return None
    if play["played_ms"] is not None:
        return play["played_ms"] < 30_000 and play["reason_end"] not in NOT_A_SKIP
    return None if play["source_skip_level"] is None else play["source_skip_level"] >= 2


def _streamed(play: Event) -> bool | None:
    return None if play["played_ms"] is None else play["played_ms"] >= 30_000


def _completion(play: Event) -> float | None:
    if play["played_ms"] is None or play["track_duration_ms"] is None:
        return None
    return min(max(play["played_ms"] / play["track_duration_ms"], 0.0), 1.0)


def _within(times: list[int], t: int, window_us: int) -> int:
    """How many of the sorted times lie in [t - window, t)."""
    return bisect.bisect_left(times, t) - bisect.bisect_left(times, t - window_us)


class _Timeline:
    """Sorted lists over one user's events."""

    def __init__(self, events: list[Event]) -> None:
        self.plays = [e for e in events if e["event_type"] == "play"]
        self.shown = [e for e in events if e["event_type"] == "impression"]
        self.play_times = [e["event_time"] for e in self.plays]
        self.shown_times = [e["event_time"] for e in self.shown]
        self.likes = [e["event_time"] for e in events if e["event_type"] == "like"]
        self.streams = sorted(_end(e) for e in self.plays if _streamed(e))
        self.skips = sorted(_end(e) for e in self.plays if _skipped(e))
        self.track_plays = self._by(self.plays, "track_id")
        self.track_shown = self._by(self.shown, "track_id")
        self.artist_plays = self._by(self.plays, "artist_id")
        self.actions: dict[tuple[bool, str], list[tuple[int, str]]] = {}
        for event in events:
            if event["event_type"] in ("like", "unlike", "save", "unsave"):
                key = event["event_type"].endswith("like"), event["track_id"]
                self.actions.setdefault(key, []).append((event["event_time"], event["event_type"]))
        self._find_sessions(events)
        self._find_outcomes()

    @staticmethod
    def _by(events: list[Event], name: str) -> dict[str, list[int]]:
        times: dict[str, list[int]] = {}
        for event in events:
            times.setdefault(event[name], []).append(event["event_time"])
        return times

    def _find_sessions(self, events: list[Event]) -> None:
        ended: int | None = None
        start = None
        for event in events:
            if event["event_type"] not in ("play", "impression"):
                continue
            if ended is None or event["event_time"] - ended >= GAP_US:
                start = event
            event["session"] = start
            ended = max(_end(event), _end(event) if ended is None else ended)

    def _find_outcomes(self) -> None:
        shown: dict[tuple[str, str | None], list[Event]] = {}
        times: dict[tuple[str, str | None], list[int]] = {}
        for event in self.shown:
            key = event["track_id"], event["surface"]
            shown.setdefault(key, []).append(event)
            times.setdefault(key, []).append(event["event_time"])
        for play in self.plays:
            key = play["track_id"], play["surface"]
            at = bisect.bisect_right(times.get(key, []), play["event_time"]) - 1
            if at >= 0 and play["event_time"] - times[key][at] < WINDOW_US:
                shown[key][at].setdefault("outcome", play)

    def resolved(self, like: bool, track: str, t: int, yes: str) -> bool:
        actions = self.actions.get((like, track), [])
        at = bisect.bisect_left(actions, (t + DAY_US, "")) - 1
        return at >= 0 and actions[at][0] >= t and actions[at][1] == yes


def ranking_rows(
    keyed: tuple[str, list[Event]],
    items: dict[tuple[str, int], list[int]],
    last_day_end_us: int,
    task: Task,
) -> Iterator[Event]:
    """All rows of one user."""
    events = [
        e
        for e in keyed[1]
        if not e["near"] and task.first_us - WEEK_US <= e["event_time"] < task.end_us + DAY_US
    ]
    line = _Timeline(events)
    for event in line.shown:
        t = event["event_time"]
        if task.first_us <= t < task.end_us and t + DAY_US <= last_day_end_us:
            counts = items.get((event["track_id"], t // DAY_US), [0, 0, 0])
            yield {
                **{name: event[name] for name in CARRIED},
                **_history(line, t),
                "item_plays_7d": counts[0],
                "item_streams_7d": counts[1],
                "item_impressions_7d": counts[2],
                **_session(line, event),
                **_activity(line, event),
                **_labels(line, event),
            }


def _history(line: _Timeline, t: int) -> Event:
    after = bisect.bisect_left(line.play_times, t)
    first = max(bisect.bisect_left(line.play_times, t - WEEK_US), after - HISTORY)
    return {
        "history_track_ids": [play["track_id"] for play in line.plays[first:after]],
        "history_ms_ago": [(t - at) // 1000 for at in line.play_times[first:after]],
    }


def _session(line: _Timeline, event: Event) -> Event:
    t, start = event["event_time"], event["session"]
    age_us = t - start["event_time"]
    names = ("age_ms", "plays", "impressions", "skips", "ms_since_play")
    if age_us > DAY_US:
        return {"session_id": None, **{f"session_{name}": None for name in names}}
    plays = _within(line.play_times, t, age_us)
    last = line.play_times[bisect.bisect_left(line.play_times, t) - 1] if plays else None
    values = (
        age_us // 1000,
        plays,
        _within(line.shown_times, t, age_us),
        _within(line.skips, t, age_us),
        None if last is None else (t - last) // 1000,
    )
    return {
        "session_id": start["event_id"],
        **{f"session_{name}": value for name, value in zip(names, values, strict=True)},
    }


def _activity(line: _Timeline, event: Event) -> Event:
    t, track, artist = event["event_time"], event["track_id"], event["artist_id"]
    of_track = line.track_plays.get(track, [])
    plays = _within(of_track, t, WEEK_US)
    return {
        "user_plays_7d": _within(line.play_times, t, WEEK_US),
        "user_impressions_7d": _within(line.shown_times, t, WEEK_US),
        "user_likes_7d": _within(line.likes, t, WEEK_US),
        "user_streams_7d": _within(line.streams, t, WEEK_US),
        "user_skips_7d": _within(line.skips, t, WEEK_US),
        "user_track_plays_7d": plays,
        "user_track_ms_since_play": (
            (t - of_track[bisect.bisect_left(of_track, t) - 1]) // 1000 if plays else None
        ),
        "user_track_impressions_7d": _within(line.track_shown.get(track, []), t, WEEK_US),
        "user_artist_plays_7d": (
            None if artist is None else _within(line.artist_plays.get(artist, []), t, WEEK_US)
        ),
    }


def _labels(line: _Timeline, event: Event) -> Event:
    t, play = event["event_time"], event.get("outcome")
    labels = {
        "completion": 0.0 if play is None else _completion(play),
        "liked": line.resolved(True, event["track_id"], t, "like"),
        "saved": line.resolved(False, event["track_id"], t, "save"),
        "skip_2": False if play is None else _skipped(play),
        "streamed_30s": False if play is None else _streamed(play),
    }
    weights = {"completion": 0.5, "liked": 2.0, "saved": 2.0, "skip_2": -0.5, "streamed_30s": 1.0}
    known = None not in labels.values()
    return {
        **{f"label_{name}": value for name, value in labels.items()},
        "label_played": play is not None,
        "label_play_delay_ms": None if play is None else (play["event_time"] - t) // 1000,
        "label_reward": sum(float(labels[n] or 0) * w for n, w in weights.items())
        if known
        else None,
    }


_TEXTS = (
    "event_id", "event_type", "user_id", "track_id", "artist_id", "album_id", "surface", "shelf",
    "request_id", "policy_id", "model_version", "experiment_id", "variant", "context_uri",
    "platform", "country", "source", "session_id",
)  # fmt: skip
_BOOLEANS = (
    "is_exploration", "shuffle", "premium", "label_liked", "label_saved", "label_skip_2",
    "label_streamed_30s", "label_played",
)  # fmt: skip


def schema() -> Any:
    """Arrow schema of the rows."""
    import pyarrow as pa

    names = [*CARRIED, "history_track_ids", "history_ms_ago", "item_plays_7d", "item_streams_7d"]
    names += ["item_impressions_7d", "session_id", "session_age_ms", "session_plays"]
    names += ["session_impressions", "session_skips", "session_ms_since_play", "user_plays_7d"]
    names += ["user_impressions_7d", "user_likes_7d", "user_streams_7d", "user_skips_7d"]
    names += ["user_track_plays_7d", "user_track_ms_since_play", "user_track_impressions_7d"]
    names += ["user_artist_plays_7d", "label_completion", "label_liked", "label_saved"]
    names += ["label_skip_2", "label_streamed_30s", "label_played", "label_play_delay_ms"]
    names += ["label_reward"]
    types = dict.fromkeys(_TEXTS, pa.string()) | dict.fromkeys(_BOOLEANS, pa.bool_())
    types |= {
        "event_time": pa.timestamp("us", "UTC"),
        "propensity": pa.float64(),
        "label_completion": pa.float64(),
        "label_reward": pa.float64(),
        "history_track_ids": pa.list_(pa.string()),
        "history_ms_ago": pa.list_(pa.int64()),
    }
    return pa.schema([(name, types.get(name, pa.int64())) for name in names])


def prepare() -> None:
    import apache_beam  # noqa: F401
    from apache_beam.io import parquetio  # noqa: F401


def run(task: Task) -> None:
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        users = (
            pipeline
            | "ListFiles" >> beam.Create(list(task.raw))
            | "ReadFiles" >> beam.io.ReadAllFromParquet(columns=list(NEEDED))
            | "Adapt" >> beam.FlatMap(adapt, task.import_end_us)
            | "GroupByUser" >> beam.GroupByKey()
            | "Clean" >> beam.Map(clean)
        )
        last_day = (
            users | "LastDay" >> beam.Map(last_day_end) | "Latest" >> beam.CombineGlobally(latest)
        )
        items = (
            users | "ItemDays" >> beam.FlatMap(item_days) | "AddItems" >> beam.CombinePerKey(add)
        )
        _ = (
            users
            | "RankingRows"
            >> beam.FlatMap(
                ranking_rows,
                beam.pvalue.AsDict(items),
                beam.pvalue.AsSingleton(last_day),
                task,
            )
            | "Write"
            >> beam.io.WriteToParquet(
                str(task.rows / "part"), schema(), codec="zstd", file_name_suffix=".parquet"
            )
        )


if __name__ == "__main__":
    main(run, prepare)
