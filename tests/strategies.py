"""Listening logs in which ties, exact gaps, window ends and midnights are the rule.

A log is drawn for a spec: each event stands at a chosen distance from midnight or from the start or
end of an earlier event, and the distances are those at which the spec's rules change their answer
(and a microsecond to either side). Events are dicts as in `oracle`; `to_table` makes a table.
"""

from __future__ import annotations

import dataclasses
import datetime
import random
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
from hypothesis import strategies as st

from tests import oracle
from transforms import splits
from transforms.buckets import USER_HASH, user_hash
from transforms.events import STORE_SCHEMA
from transforms.specs import (
    DatasetSpec,
    RankingSpec,
    RetrievalSpec,
    SequencesSpec,
    SessionsSpec,
)

UTC = datetime.UTC
FIRST_DAY = datetime.date(2026, 1, 5)
FIRST_US = int(datetime.datetime(2026, 1, 5, tzinfo=UTC).timestamp()) * oracle.SECOND_US
TIMES = ("event_time", "received_time")
GIVEN_SESSIONS = [(None,), (None,), (None,), ("x", "x", "y"), (None, "x", "y")]
SOURCES = [(), ("s1",), ("s1", "s2"), ("s1", "s2"), ("s1", "s2", "canonical")]
NEAR_WINDOW_US = 54 * oracle.SECOND_US
_KINDS = {
    "ranking": RankingSpec,
    "retrieval": RetrievalSpec,
    "sequences": SequencesSpec,
    "sessions": SessionsSpec,
}
Pick = Callable[[Sequence[Any]], Any]  # one of some values, by Hypothesis or by a seed

_WEIRD_REWARD = {
    "played": 0.1,
    "streamed_30s": 0.3,
    "scrobble": 0.9,
    "completion": 0.7,
    "skip_1": -0.2,
    "skip_2": -1.1,
    "skip_3": 1e-4,
    "liked": 1e-3,
    "saved": 3.3,
    "session_continued": 0.6,
}
_DAYS = [FIRST_DAY + datetime.timedelta(days=number) for number in range(3)]
_ARMS = {"x": ["a"], "y": ["a", "b"]}
# Two borders, with everything that keeps rows out of train; one border, rows censored, no gap.
_TWO_BORDERS = {
    "validation_from": _DAYS[1],
    "test_from": _DAYS[2],
    "holdout_user_share": 0.5,
    "experiment_holdouts": _ARMS,
}
_ONE_BORDER = {"test_from": _DAYS[1], "gap_hours": 0, "experiment_holdouts": {"x": ["a"]}}
_SHORT = {
    "sessions": {"gap_minutes": 10, "cap_hours": 1},
    "attribution": {"window_minutes": 5, "surface_window_minutes": {"radio": 60}},
    "history_length": 3,
}
_SHORT_LABELS = {
    "horizon_hours": 2,
    "skip_1_below_ms": 10_000,
    "skip_2_below_ms": 60_000,
    "skip_3_below_share": 0.5,
    "completion_cap": 2.0,
    "reward": _WEIRD_REWARD,
}
_ALL_NEGATIVES = {
    "sources": [
        {"type": "popularity", "count": 3, "alpha": 0.75},
        {"type": "exposed", "count": 1},
        {"type": "uniform", "count": 4},
        {"type": "skipped", "count": 1},
        {"type": "mixed", "count": 2, "in_batch_share": 0.3},
    ],
    "popularity_days": 7,
    "exclude_days": 1,
}
SPECS: dict[str, list[dict]] = {
    "ranking": [
        {},
        {**_SHORT, "labels": _SHORT_LABELS},
        {
            "examples": {"rows": "play", "surfaces": ["home", "radio"]},
            "sessions": {"gap_minutes": 1, "cap_hours": 0.5},
            "attribution": {"window_minutes": 1},
            "labels": {"horizon_hours": 1, "completion_cap": 1.5, "reward": {"skip_3": -1.0}},
            "history_length": 2,
            "splits": {"validation_from": _DAYS[1], "open_labels": "censor"},
        },
        {
            "examples": {"rows": "impression"},
            "sessions": {"gap_minutes": 60, "cap_hours": 2},
            "attribution": {"window_minutes": 1440, "surface_window_minutes": {"home": 1}},
            "labels": {"completion_cap": 2.0, "reward": {"liked": 1.0, "played": 1.0}},
            "history_length": 1,
            "splits": {**_ONE_BORDER, "open_labels": "censor"},
        },
        {
            "examples": {"rows": "play"},
            "labels": {
                "horizon_hours": 48,
                "skip_1_below_ms": 3_600_000,
                "skip_2_below_ms": 3_600_000,
                "reward": {"returned_24h": 1.0, "skip_1": 2.0},
            },
        },
        {
            "examples": {"rows": "auto", "surfaces": ["radio", "home"]},
            "sessions": {"gap_minutes": 1440, "cap_hours": 30},
            "attribution": {"window_minutes": 30, "surface_window_minutes": {"radio": 45}},
            "labels": {"horizon_hours": 0.75, "skip_1_below_ms": 1, "skip_2_below_ms": 1},
        },
        {
            "sessions": {"cap_hours": 2},
            "labels": {"horizon_hours": 6},
            "splits": {**_TWO_BORDERS, "gap_hours": 1},
        },
    ],
    "retrieval": [
        {"negatives": _ALL_NEGATIVES},
        {
            **_SHORT,
            "labels": _SHORT_LABELS,
            "positive": "liked",
            "negatives": {**_ALL_NEGATIVES, "popularity_days": 2, "later_positives": "exclude"},
            "splits": _TWO_BORDERS,
        },
        {
            "positive": "played",
            "surfaces": ["home", "radio"],
            "labels": {"horizon_hours": 1},
            "negatives": {
                "sources": [
                    {"type": "popularity", "count": 2, "alpha": 1.0},
                    {"type": "exposed", "count": 3},
                ]
            },
            "splits": _ONE_BORDER,
        },
        {
            "sessions": {"gap_minutes": 1440, "cap_hours": 48},
            "positive": "scrobble",
            "negatives": {
                "sources": [{"type": "skipped", "count": 2}, {"type": "exposed", "count": 2}],
                "later_positives": "exclude",
            },
        },
    ],
    "sequences": [
        {"min_length": 1},
        {
            **_SHORT,
            "labels": _SHORT_LABELS,
            "length": 5,
            "stride": 2,
            "history_days": 1,
            "period": "day",
            "splits": {**_TWO_BORDERS, "open_labels": "censor"},
        },
        {
            "length": 4,
            "history_days": 2,
            "min_length": 1,
            "labels": {"horizon_hours": 1},
            "vocabulary": {"min_plays": 2, "max_items": 2},
            "splits": {**_ONE_BORDER, "open_labels": "censor"},
        },
        {
            "length": 3,
            "stride": 1,
            "period": "day",
            "min_length": 3,
            "labels": {"horizon_hours": 6, "reward": {"session_continued": 1.0}},
            "splits": {**_TWO_BORDERS, "holdout_user_share": 0.0},
        },
    ],
    "sessions": [
        {},
        {
            **_SHORT,
            "labels": _SHORT_LABELS,
            "min_plays": 2,
            "splits": {**_TWO_BORDERS, "gap_hours": 1},
        },
        {
            "sessions": {"gap_minutes": 60, "cap_hours": 2},
            "labels": {"horizon_hours": 0.5, "reward": {"skip_2": 1.0}},
            "splits": _ONE_BORDER,
        },
        {"sessions": {"gap_minutes": 1440, "cap_hours": 30}, "labels": {"horizon_hours": 48}},
    ],
}


@dataclasses.dataclass(frozen=True)
class Log:
    """A spec, what it means, a range, and the events.

    `released`: release of each track of a catalog; None if there is no catalog.
    """

    spec: DatasetSpec
    rules: oracle.Rules
    within: oracle.Range
    events: list[dict]
    released: dict[str, int] | None = None

    def world(self, known: list[dict] | None = None) -> oracle.World:
        """What the oracle looks at; `known`: what item counts see, if not the events that count."""
        counted = oracle.prepared(self.events)
        return oracle.World(
            counted, self.rules, self.within, counted if known is None else known, self.released
        )


def make_spec(fields: dict, kind: str = "ranking") -> DatasetSpec:
    return _KINDS[kind](kind=kind, **fields)


def rules_of(spec: DatasetSpec) -> oracle.Rules:
    """The same spec as the oracle reads it."""
    minute, hour = oracle.MINUTE_US, oracle.HOUR_US
    users = pl.DataFrame({"user_id": sorted(set(_USERS))})
    held_out = splits.is_held_out(pl.col("user_id"), spec.splits.holdout_user_share, spec.seed)
    of_kind: dict[str, Any] = {}
    if isinstance(spec, RankingSpec):
        of_kind = {"surfaces": spec.examples.surfaces}
    elif isinstance(spec, RetrievalSpec):
        of_kind = {
            "surfaces": spec.surfaces,
            "positive": spec.positive,
            "sources": tuple(
                (source.type, source.count, source.alpha or source.in_batch_share)
                for source in spec.negatives.sources
            ),
            "popularity_days": spec.negatives.popularity_days,
            "exclude_us": spec.negatives.exclude_days * oracle.DAY_US,
            "exclude_later": spec.negatives.later_positives == "exclude",
        }
    elif isinstance(spec, SequencesSpec):
        of_kind = {
            "length": spec.length,
            "stride": spec.stride or spec.length,
            "history_us": spec.history_days * oracle.DAY_US,
            "by_day": spec.period == "day",
            "min_length": spec.min_length,
            "min_track_plays": spec.vocabulary.min_plays,
            "max_items": spec.vocabulary.max_items,
        }
    elif isinstance(spec, SessionsSpec):
        of_kind = {"min_plays": spec.min_plays}
    return oracle.Rules(
        gap_us=round(spec.sessions.gap_minutes * minute),
        cap_us=round(spec.sessions.cap_hours * hour),
        window_us=round(spec.attribution.window_minutes * minute),
        surface_window_us=tuple(
            (surface, round(minutes * minute))
            for surface, minutes in spec.attribution.surface_window_minutes.items()
        ),
        horizon_us=round(spec.labels.horizon_hours * hour),
        skip_1_below_ms=spec.labels.skip_1_below_ms,
        skip_2_below_ms=spec.labels.skip_2_below_ms,
        skip_3_below_share=spec.labels.skip_3_below_share,
        completion_cap=spec.labels.completion_cap,
        reward=tuple(spec.labels.reward.items()),
        history_length=spec.history_length,
        border_gap_us=round(spec.splits.gap_hours * hour),
        censor=spec.splits.open_labels == "censor",
        held_out_users=frozenset(users.filter(held_out)["user_id"]),
        held_out_arms=frozenset(
            (experiment, arm)
            for experiment, arms in spec.splits.experiment_holdouts.items()
            for arm in arms
        ),
        **of_kind,
    )


def midnight_us(day: datetime.date) -> int:
    return FIRST_US + (day - FIRST_DAY).days * oracle.DAY_US


def event(number: int = 0, **fields) -> dict:
    """A valid event: a play at noon of the first day, with `fields` replaced."""
    time_us = fields.get("event_time", FIRST_US + 12 * oracle.HOUR_US)
    return {
        **dict.fromkeys(STORE_SCHEMA),
        "event_id": f"e{number:03}",
        "event_type": "play",
        "user_id": "u1",
        "track_id": "t1",
        "artist_id": "a1",
        "surface": "home",
        "time_quality": "reported",
        "source": "canonical",
        "near_duplicate": False,
        "event_time": time_us,
        "received_time": time_us,
        **fields,
    }


def to_table(events: list[dict]) -> pl.DataFrame:
    """The events as a table of the store, in the order given."""
    raw = {**STORE_SCHEMA, **dict.fromkeys(TIMES, pl.Int64())}
    return (
        pl.DataFrame(events, schema=raw, orient="row")
        .with_columns(pl.col(name).cast(STORE_SCHEMA[name]) for name in TIMES)
        .with_columns(user_hash(pl.col("user_id"), 0).alias(USER_HASH))
    )


def to_dicts(table: pl.DataFrame) -> list[dict]:
    """Rows of a table with integer microseconds for times."""
    integers = {pl.Datetime: pl.Int64(), pl.List(pl.Datetime("us", "UTC")): pl.List(pl.Int64)}
    return table.cast(
        {kind: to for kind, to in integers.items() if kind in table.dtypes}
    ).to_dicts()


def _deltas(rules: oracle.Rules) -> list[int]:
    """Distances between events at which a rule changes its answer; short ones more often."""
    second = oracle.SECOND_US
    edges = {
        30 * second,
        NEAR_WINDOW_US,
        rules.gap_us,
        rules.cap_us,
        rules.window_us,
        rules.window_of("radio"),
        rules.window_of("home"),
        rules.horizon_us,
        oracle.DAY_US,
        oracle.WEEK_US,
        10 * second,
    }
    far = {rules.horizon_us, rules.cap_us, oracle.DAY_US, oracle.WEEK_US}
    near = [0, 0, 0, 0, 1, 1, -1, 999, 1000, second, 10 * second, 10 * second, -10 * second]
    close = [edge + step for edge in sorted(edges - far) for step in (-1, 0, 0, 1)]
    distant = [edge + step for edge in sorted(far) for step in (-1, 0, 1)]
    return near * 4 + close * 2 + distant + [-edge for edge in sorted(edges)]


def _played(rules: oracle.Rules) -> list[int | None]:
    gap, cap = rules.gap_us // 1000, rules.cap_us // 1000
    return [
        None,
        None,
        0,
        0,
        1,
        1_000,
        1_000,
        10_000,
        10_000,
        29_999,
        30_000,
        30_000,
        30_001,
        59_999,
        60_000,
        200_000,
        200_000,
        15_000,
        7_200_000,
        189_999,
        190_000,
        239_999,
        240_000,
        rules.skip_1_below_ms - 1,
        rules.skip_1_below_ms,
        rules.skip_2_below_ms - 1,
        rules.skip_2_below_ms,
        gap,
        min(cap, 86_400_000),
        min(cap + 1, 86_400_000),
        86_400_000,
    ]


_EVENT_TYPES = (
    ["play"] * 9
    + ["impression"] * 8
    + [
        "like",
        "like",
        "unlike",
        "save",
        "save",
        "unsave",
        "hide",
        "follow",
    ]
)
_USERS = ["u1", "u1", "u1", "u2"]
_ARM_OF = {0: ("x", "a"), 1: ("x", "b"), 2: ("y", "a")}  # of 40
_REASONS_END = [
    None,
    "fwdbtn",
    "fwdbtn",
    "backbtn",
    "endplay",
    "unknown",
    "trackdone",
    "appload",
    "trackerror",
]


def events(
    pick: Pick,
    size: int,
    rules: oracle.Rules,
    anchors: list[int],
    deltas: list[int],
    prefix: str = "",
    given: Sequence[str | None] = (None,),
    tracks: Sequence[str] = ("t1", "t1", "t1", "t2"),
) -> list[dict]:
    """Events, each `deltas` away from an anchor or from the start or end of an earlier one."""
    made: list[dict] = []
    for number in range(size):
        reference = pick(["start", "start", "end", "end", "anchor"])
        which = pick(range(31))
        if reference == "anchor" or not made:
            base = anchors[which % len(anchors)]
        else:
            other = made[-1 - which % min(len(made), 12)]
            base = oracle.end_of(other, rules.cap_us) if reference == "end" else other["event_time"]
        time_us = base + pick(deltas)
        if abs(time_us - anchors[0]) > 9 * oracle.DAY_US:  # a chain must not leave the range
            time_us = pick(anchors) + pick(deltas)
        event_type, user, artist = pick(_EVENT_TYPES), pick(_USERS), pick(["a1", "a1", "a2", None])
        is_play, reason_end = event_type == "play", pick(_REASONS_END)
        # A skip level next to a natural end is a question of its own: see test_labels.
        levels = [None] if reason_end in oracle.NOT_A_SKIP else [None, None, 0, 1, 2, 3]
        arm = _ARM_OF.get(pick(range(40)), (None, None))
        midnight = time_us - time_us % -oracle.DAY_US  # the next one, or this instant
        received = pick(
            [
                time_us,
                time_us,
                time_us + oracle.SECOND_US,
                midnight,
                midnight + 1,
                time_us + 3 * oracle.DAY_US,
            ]
        )
        # Ids are unique for a user, but not in time order, and two users share some.
        serial = number if user == "u1" else number - 1
        made.append(
            event(
                event_id=f"{prefix}{pick(['a', 'b', 'B', 'é', 'z'])}{serial}",
                event_type=event_type,
                user_id=user,
                track_id=None if event_type == "follow" else pick(tracks),
                artist_id=artist or ("a1" if event_type == "follow" else None),
                surface=pick(["home", "home", "home", "radio", None]),
                event_time=time_us,
                received_time=received,
                time_quality=pick(["reported"] * 3 + ["derived", "synthetic", "sync"]),
                played_ms=pick(_played(rules)) if is_play else None,
                track_duration_ms=pick(
                    [None, 1_000, 30_000, 30_001, 200_000, 480_000, 210_007, 10_800_000]
                ),
                reason_end=reason_end if is_play else None,
                source_skip_level=pick(levels) if is_play else None,
                skipped=which % 2 == 0 if is_play else None,
                source=pick(["s1", "s1", "s2"]),
                client_id=pick(["c1", "c1", "c2", None]),
                source_session_id=pick(given),
                position=number if which % 3 else None,
                experiment_id=arm[0],
                variant=arm[1],
                propensity=1 / (number + 1) if which % 4 else None,
                premium=which % 2 == 0,
                shelf="top" if which % 5 else "",
            )
        )
    return made


def mark_near(log: list[dict], window_us: int = NEAR_WINDOW_US) -> list[dict]:
    """The events with their near-duplicate flags."""
    flagged = oracle.near_duplicates(log, window_us)
    return [{**item, "near_duplicate": oracle.key(item) in flagged} for item in log]


def _borders(spec: DatasetSpec) -> list[int | None]:
    days = [spec.splits.validation_from, spec.splits.test_from]
    return [None if day is None else midnight_us(day) for day in days]


def make_log(pick: Pick, sizes: Sequence[int], spec: DatasetSpec, mature: bool, given: bool) -> Log:
    """A log and what to build from it.

    `mature`: every row's horizon is over; `given`: some sources may give sessions.
    """
    rules = rules_of(spec)
    borders = _borders(spec)
    days = pick([3, 3, 3, 2] if any(borders) else [1, 2, 3])
    anchors = [FIRST_US + day * oracle.DAY_US for day in range(days + 1)]
    anchors += [FIRST_US + 12 * oracle.HOUR_US, FIRST_US + 20 * oracle.HOUR_US]
    anchors += [FIRST_US + oracle.DAY_US - oracle.WEEK_US]
    for border in filter(None, borders):
        anchors += [border - rules.border_gap_us, border - rules.horizon_us]
    ids = pick(GIVEN_SESSIONS if given else [(None,)])
    tracks = ["t1", "t1", "t2", "t2", "t3", "t4", "t5"]
    if spec.kind in ("ranking", "sessions"):  # where nothing is said of other tracks
        tracks = ["t1", "t1", "t1", "t2"]
    size, deltas = pick(sizes), _deltas(rules)
    drawn = mark_near(events(pick, size, rules, anchors, deltas, given=ids, tracks=tracks))
    end_us = FIRST_US + days * oracle.DAY_US
    watermark_us = end_us + 30 * oracle.DAY_US
    if not mature and drawn and pick([False] * 6 + [True]):
        watermark_us = pick(drawn)["event_time"] + rules.horizon_us + pick([-1, 0, 1])
    within = oracle.Range(
        FIRST_US,
        end_us,
        watermark_us,
        _play_sources(pick, spec, drawn),
        pick(SOURCES),
        pick(SOURCES),
        *borders,
    )
    released = None
    if isinstance(spec, RetrievalSpec) and pick([False, True]):
        of_days = [pick([-9, 0, 0, 1]) * oracle.DAY_US + pick([-1, 0, 1]) for _ in range(3)]
        released = dict(zip(["t1", "t3", "t9"], (FIRST_US + of for of in of_days), strict=True))
    return Log(spec, rules, within, drawn, released)


def _play_sources(pick: Pick, spec: DatasetSpec, drawn: list[dict]) -> tuple[str, ...]:
    if not isinstance(spec, RankingSpec):
        return ()
    shown = {item["source"] for item in drawn if item["event_type"] == "impression"}
    auto = tuple(sorted({item["source"] for item in drawn} - shown))
    choices = {"impression": [()], "play": [("s1", "s2")], "auto": [auto, (), (), ("s1",)]}
    return pick(choices[spec.examples.rows])


def log_of(
    drawn: list[dict], fields: dict | None = None, kind: str = "ranking", days: int = 1
) -> Log:
    """Given events, and a range in which every row is mature; all sources tell of everything."""
    spec = make_spec(fields or {}, kind)
    end_us = FIRST_US + days * oracle.DAY_US
    told = ("canonical",)
    within = oracle.Range(
        FIRST_US, end_us, end_us + 30 * oracle.DAY_US, (), told, told, *_borders(spec)
    )
    return Log(spec, rules_of(spec), within, drawn)


def random_log(
    seed: int, fields: dict, kind: str = "ranking", size: int = 60, given: bool = True
) -> Log:
    """A longer log than Hypothesis would draw in the time: more coincidences in each."""
    choice = random.Random(seed).choice
    return make_log(choice, [size], make_spec(fields, kind), mature=False, given=given)


@st.composite
def logs(
    draw: st.DrawFn,
    kind: str = "ranking",
    max_size: int = 14,
    mature: bool = False,
    given: bool = True,
) -> Log:
    """`make_log` for Hypothesis."""

    def pick(of: Sequence[Any]) -> Any:
        return draw(st.sampled_from(of))

    sizes = [size for size in (8, 10, 12, 14, 6, 5, 4, 3, 2, 1, 0) if size <= max_size]
    return make_log(pick, sizes, make_spec(pick(SPECS[kind]), kind), mature, given)


@st.composite
def later_events(
    draw: st.DrawFn, rules: oracle.Rules, t_us: int, given: Sequence[str | None] = (None,)
) -> list[dict]:
    """Events at or after an instant, with ids of their own."""
    deltas = [abs(delta) for delta in _deltas(rules)]

    def pick(of: Sequence[Any]) -> Any:
        return draw(st.sampled_from(of))

    # The letter first: new ids come before and after the ids that are there.
    prefix = pick(["!", "~~"])
    return events(pick, pick(range(7)), rules, [t_us], deltas, prefix, given)


@st.composite
def partitioned(draw: st.DrawFn, kind: str = "ranking") -> tuple[Log, list[list[dict]]]:
    """A log spread over partitions; some events stand in two of them, received at other times."""
    log = draw(logs(kind, max_size=10))
    parts: list[list[dict]] = [[], [], []]
    every: list[dict] = []
    for item in log.events:
        home, copies = draw(st.sampled_from([(0, ()), (1, ()), (0, (1,)), (2, (0, 1)), (1, (2,))]))
        original = {**item, "near_duplicate": draw(st.sampled_from([False, bool(copies)]))}
        parts[home].append(original)
        every.append(original)
        for number, part in enumerate(copies, 1):
            later = draw(st.sampled_from([1, 0, oracle.DAY_US]))
            copy = dict(original)
            if later:  # a later version may say anything
                copy["received_time"] += later * number
                copy["event_time"] += draw(st.sampled_from([0, -1, 1]))
                copy["track_id"] = draw(st.sampled_from([copy["track_id"], "t2"]))
                copy["near_duplicate"] = draw(st.booleans())
            parts[part].append(copy)
            every.append(copy)
    order = draw(st.permutations(range(3)))
    return dataclasses.replace(log, events=every), [parts[number] for number in order]
