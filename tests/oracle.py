"""Every rule of every kind of dataset once more: plain Python, slow and obvious.

Written from the documentation alone, without the implementation, and imports nothing of it. An
event is a dict with the columns of the store; times are integer microseconds since 1970. A log is
a list of such dicts, in any order. Every question is answered by looking at all events.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import math
from collections import Counter
from fractions import Fraction

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
WEEK_US = 7 * DAY_US
STREAM_MS = 30_000

NOT_A_SKIP = {
    "trackdone",
    "trackerror",
    "logout",
    "unexpected-exit",
    "unexpected-exit-while-paused",
    "appload",
    "reload",
    "switched-to-audio",
    "switched-to-video",
}
CARRIED = (
    "event_id",
    "event_type",
    "event_time",
    "user_id",
    "track_id",
    "artist_id",
    "album_id",
    "surface",
    "shelf",
    "position",
    "request_id",
    "candidate_set_size",
    "policy_id",
    "model_version",
    "propensity",
    "is_exploration",
    "experiment_id",
    "variant",
    "context_uri",
    "shuffle",
    "premium",
    "platform",
    "country",
    "source",
)
FEATURES = {
    "history": ("history_track_ids", "history_ms_ago"),
    "item": ("item_plays_7d", "item_streams_7d", "item_impressions_7d"),
    "context": ("hour_of_day", "day_of_week"),
    "session": (
        "session_age_ms",
        "session_plays",
        "session_impressions",
        "session_skips",
        "session_ms_since_play",
    ),
    "user": (
        "user_plays_7d",
        "user_impressions_7d",
        "user_likes_7d",
        "user_streams_7d",
        "user_skips_7d",
    ),
    "user-item": (
        "user_track_plays_7d",
        "user_track_ms_since_play",
        "user_track_impressions_7d",
        "user_artist_plays_7d",
    ),
}
LABELS = (
    "label_status",
    "label_played",
    "label_play_delay_ms",
    "label_played_ms",
    "label_streamed_30s",
    "label_scrobble",
    "label_completion",
    "label_skip_1",
    "label_skip_2",
    "label_skip_3",
    "label_liked",
    "label_like_delay_ms",
    "label_saved",
    "label_save_delay_ms",
    "label_returned_24h",
    "label_session_continued",
    "label_reward",
)
BITS = {
    "streamed_30s": 1,
    "scrobble": 2,
    "skip_1": 4,
    "skip_2": 8,
    "skip_3": 16,
    "liked": 32,
    "saved": 64,
    "returned_24h": 128,
    "session_continued": 256,
}


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a spec says, in microseconds. Some fields are of one kind alone.

    `held_out_users` are those whose keyed hash falls below the share; `held_out_arms` are
    (experiment, variant).
    """

    gap_us: int = 30 * MINUTE_US
    cap_us: int = 24 * HOUR_US
    window_us: int = 30 * MINUTE_US
    surface_window_us: tuple[tuple[str, int], ...] = ()
    horizon_us: int = 24 * HOUR_US
    skip_1_below_ms: int = 5_000
    skip_2_below_ms: int = 30_000
    skip_3_below_share: float = 0.95
    completion_cap: float = 1.0
    reward: tuple[tuple[str, float], ...] = (
        ("streamed_30s", 1.0),
        ("completion", 0.5),
        ("skip_2", -0.5),
        ("liked", 2.0),
        ("saved", 2.0),
    )
    history_length: int = 10
    border_gap_us: int = 30 * MINUTE_US
    censor: bool = False
    held_out_users: frozenset[str] = frozenset()
    held_out_arms: frozenset[tuple[str, str]] = frozenset()
    # ranking, retrieval
    surfaces: tuple[str, ...] | None = None
    # retrieval
    positive: str = "streamed_30s"
    sources: tuple[tuple[str, int, float | None], ...] = ()  # type, count, option
    popularity_days: int = 28
    exclude_us: int = WEEK_US
    exclude_later: bool = False
    # sequences
    length: int = 200
    stride: int = 200
    history_us: int = 28 * DAY_US
    by_day: bool = False
    min_length: int = 2
    min_track_plays: int = 1
    max_items: int | None = None
    # sessions
    min_plays: int = 1

    def window_of(self, surface):
        return dict(self.surface_window_us).get(surface, self.window_us)


@dataclasses.dataclass(frozen=True)
class Range:
    """Days of a build in microseconds, the watermark, borders, and what sources can tell."""

    first_us: int
    end_us: int
    watermark_us: int
    play_sources: tuple[str, ...] = ()
    like_sources: tuple[str, ...] = ()
    save_sources: tuple[str, ...] = ()
    validation_us: int | None = None
    test_us: int | None = None


@dataclasses.dataclass(frozen=True)
class World:
    """All that a build may look at.

    `events` are those of `prepared`; `known` is what item counts see, `released` says when a
    catalog's tracks were, if there is a catalog.
    """

    events: list[dict]
    rules: Rules
    within: Range
    known: list[dict]
    released: dict[str, int] | None = None

    @functools.cached_property
    def session_of(self):
        return sessions(self.events, self.rules.gap_us, self.rules.cap_us)

    @functools.cached_property
    def positives(self):
        """Plays whose label named by `positive` is true."""
        name = f"label_{self.rules.positive}"
        plays = [event for event in self.events if event["event_type"] == "play"]
        return [play for play in plays if labels(play, self)[name] is True]

    def of_user(self, user_id):
        """Events of a user in store order."""
        return sorted(
            (event for event in self.events if event["user_id"] == user_id), key=store_order
        )


# Events


def store_order(event):
    """Order within a user."""
    return event["event_time"], event["event_id"]


def key(event):
    """What identifies an event."""
    return event["user_id"], event["event_id"]


def by_user(event):
    return event["user_id"], *store_order(event)


def drop_duplicates(events):
    """One event of each (user, event id): the one that was received first.

    Two candidates received at one instant are told apart by a content hash, which is not restated
    here: they must not differ.
    """
    kept = {}
    for event in events:
        other = kept.get(key(event))
        if other is None or event["received_time"] < other["received_time"]:
            kept[key(event)] = event
    return list(kept.values())


def near_duplicates(events, window_us):
    """Keys of plays that repeat the user's previous play of the track by another client."""
    flagged = set()
    for play in events:
        if play["event_type"] != "play":
            continue
        earlier = [
            other
            for other in events
            if other["event_type"] == "play"
            and other["user_id"] == play["user_id"]
            and other["track_id"] == play["track_id"]
            and store_order(other) < store_order(play)
        ]
        if not earlier:
            continue
        previous = max(earlier, key=store_order)
        close = play["event_time"] - previous["event_time"] <= window_us
        if close and previous["client_id"] != play["client_id"]:
            flagged.add(key(play))
    return flagged


def above_cap(events, most):
    """Users with more than `most` events on one UTC day of event_time."""
    counts = Counter((event["user_id"], event["event_time"] // DAY_US) for event in events)
    return {user for (user, _), count in counts.items() if count > most}


def sync_bursts(events):
    """Keys of plays that a device can only have sent at once, long after it played them."""
    flagged = set()
    for user in {event["user_id"] for event in events}:
        plays = [e for e in events if e["event_type"] == "play" and e["user_id"] == user]
        long = sorted(
            (play for play in plays if (play["played_ms"] or 0) >= 60_000), key=store_order
        )
        runs = []
        for play in long:
            if runs and play["event_time"] - runs[-1][-1]["event_time"] <= 10 * SECOND_US:
                runs[-1].append(play)
            else:
                runs.append([play])
        of_bursts = [play for run in runs if len(run) >= 3 for play in run]
        for play in plays:
            if any(abs(play["event_time"] - b["event_time"]) <= 10 * SECOND_US for b in of_bursts):
                flagged.add(key(play))
    return flagged


def prepared(events):
    """The events that count: without duplicates, then without near duplicates, bursts marked."""
    kept = [event for event in drop_duplicates(events) if not event["near_duplicate"]]
    bursts = sync_bursts(kept)
    return [{**e, "time_quality": "sync"} if key(e) in bursts else e for e in kept]


# Sessions


def end_of(event, cap_us):
    """End of a play, at most the cap after its start; any other event ends at once."""
    if event["event_type"] != "play" or event["played_ms"] is None:
        return event["event_time"]
    return event["event_time"] + min(event["played_ms"] * 1000, cap_us)


def sessions(events, gap_us, cap_us):
    """Key of each play and impression with a time -> (first event of its session, past the cap).

    Events of a user to which the source gives the same session are one, until two of them in a row
    are more than the cap apart; the rule of the gap is among the events without a given session.
    What is stamped at sync takes no part.
    """
    makers = [
        event
        for event in events
        if event["event_type"] in ("play", "impression") and event["time_quality"] != "sync"
    ]
    result = {}
    for user, given in {(event["user_id"], event["source_session_id"]) for event in makers}:
        mine = sorted(
            (
                event
                for event in makers
                if event["user_id"] == user and event["source_session_id"] == given
            ),
            key=store_order,
        )
        first = None
        for i, event in enumerate(mine):
            t = event["event_time"]
            if i == 0:
                starts = True
            elif given is not None:
                starts = t - mine[i - 1]["event_time"] > cap_us
            else:
                starts = all(t - end_of(past, cap_us) >= gap_us for past in mine[:i])
            if starts:
                first = event
            result[key(event)] = first, t - first["event_time"] > cap_us
    return result


def session_start(event, world):
    """First event of the event's session; None if it has none, or is past the cap."""
    first, overflow = world.session_of.get(key(event), (None, False))
    return None if overflow else first


def session_key(event, world):
    """What the session id is a hash of."""
    first = session_start(event, world)
    return None if first is None else key(first)


def session_members(first, world):
    """Events of the session that starts with `first`, in store order."""
    return [
        event for event in world.of_user(first["user_id"]) if session_start(event, world) is first
    ]


# Attribution


def credited_to(play, events, rules):
    """The impression that a play is credited to, or None."""
    window_us = rules.window_of(play["surface"])
    candidates = [
        shown
        for shown in events
        if shown["event_type"] == "impression"
        and all(shown[name] == play[name] for name in ("user_id", "track_id", "surface"))
        and 0 <= play["event_time"] - shown["event_time"] < window_us
    ]
    return max(candidates, key=store_order, default=None)


def outcome_of(shown, events, rules):
    """The play that an impression led to, or None."""
    credited = []
    for play in events:
        if play["event_type"] == "play" and play["user_id"] == shown["user_id"]:
            impression = credited_to(play, events, rules)
            if impression is not None and key(impression) == key(shown):
                credited.append(play)
    return min(credited, key=store_order, default=None)


# Labels


def skips(play, rules):
    """The three nested levels, each True, False, or None where it cannot be told."""
    names = "skip_1", "skip_2", "skip_3"
    played_ms, level = play["played_ms"], play["source_skip_level"]
    if play["time_quality"] == "sync":
        return dict.fromkeys(names)
    if played_ms is None and level is None:
        return dict.fromkeys(names)
    if played_ms is None:  # 3 very briefly, 2 briefly, 1 most of it, 0 not skipped
        return {"skip_1": level >= 3, "skip_2": level >= 2, "skip_3": level >= 1}
    if play["reason_end"] in NOT_A_SKIP:
        return dict.fromkeys(names, False)
    skip_1 = played_ms < rules.skip_1_below_ms
    skip_2 = skip_1 or played_ms < rules.skip_2_below_ms
    if skip_2:
        skip_3 = True
    elif play["track_duration_ms"] is None:
        skip_3 = None
    else:
        skip_3 = played_ms < rules.skip_3_below_share * play["track_duration_ms"]
    return {"skip_1": skip_1, "skip_2": skip_2, "skip_3": skip_3}


def is_skip(play, rules):
    """Skipped at level 2; unknown counts as no."""
    return skips(play, rules)["skip_2"] is True


def is_streamed(play):
    """True, False, or None where the played time is unknown."""
    return None if play["played_ms"] is None else play["played_ms"] >= STREAM_MS


def is_scrobble(play):
    """Half of the track or four minutes of it, of a track over 30 s; None if it cannot be told."""
    played_ms, length_ms = play["played_ms"], play["track_duration_ms"]
    if played_ms is None:
        return None
    if length_ms is None:
        return True if played_ms >= 240_000 else None
    return length_ms > 30_000 and (played_ms >= 240_000 or 2 * played_ms >= length_ms)


def completion(play, cap):
    """Share played, from 0 to the cap; None if the played time or the length is unknown."""
    if play["played_ms"] is None or play["track_duration_ms"] is None:
        return None
    return min(max(play["played_ms"] / play["track_duration_ms"], 0.0), cap)


def decided_by(row, events, yes, no, until_us):
    """The latest `yes` or `no` of the row's user and track in [t, until) if it is a `yes`."""
    actions = [
        event
        for event in events
        if event["event_type"] in (yes, no)
        and event["user_id"] == row["user_id"]
        and event["track_id"] == row["track_id"]
        and row["event_time"] <= event["event_time"] < until_us
    ]
    latest = max(actions, key=store_order, default=None)
    return latest if latest is not None and latest["event_type"] == yes else None


def returned_24h(row, world):
    """Whether a session of the user starts in (t, t + 24 h); None if the horizon is shorter."""
    if world.rules.horizon_us < DAY_US:
        return None
    t = row["event_time"]
    starts = [
        first["event_time"]
        for first, _ in world.session_of.values()
        if first["user_id"] == row["user_id"]
    ]
    return any(t < start < t + DAY_US for start in starts)


def session_continued(row, outcome, world):
    """Whether a play other than the outcome starts in the session in (t, t + horizon)."""
    first = session_start(row, world)
    if first is None:
        return None
    t = row["event_time"]
    return any(
        event["event_type"] == "play"
        and event is not outcome
        and t < event["event_time"] < t + world.rules.horizon_us
        for event in session_members(first, world)
    )


def delay_ms(later, earlier):
    return None if later is None else (later["event_time"] - earlier["event_time"]) // 1000


def labels(row, world, censored=False):
    """The label columns of an impression or a play."""
    if censored:
        return {**dict.fromkeys(LABELS), "label_status": "censored"}
    rules = world.rules
    is_play = row["event_type"] == "play"
    play = row if is_play else outcome_of(row, world.events, rules)
    values = {
        "played": play is not None,
        "play_delay_ms": None if is_play else delay_ms(play, row),
        "played_ms": 0,
        "streamed_30s": False,
        "scrobble": False,
        "completion": 0.0,
        "skip_1": False,
        "skip_2": False,
        "skip_3": False,
        "liked": None,
        "like_delay_ms": None,
        "saved": None,
        "save_delay_ms": None,
        "returned_24h": returned_24h(row, world),
        "session_continued": session_continued(row, play, world),
    }
    if play is not None:
        values["played_ms"] = play["played_ms"]
        values["streamed_30s"] = is_streamed(play)
        values["scrobble"] = is_scrobble(play)
        values["completion"] = completion(play, rules.completion_cap)
        values.update(skips(play, rules))
    until_us = row["event_time"] + rules.horizon_us
    if row["source"] in world.within.like_sources:
        like = decided_by(row, world.events, "like", "unlike", until_us)
        values["liked"], values["like_delay_ms"] = like is not None, delay_ms(like, row)
    if row["source"] in world.within.save_sources:
        save = decided_by(row, world.events, "save", "unsave", until_us)
        values["saved"], values["save_delay_ms"] = save is not None, delay_ms(save, row)
    return {
        "label_status": "mature",
        **{f"label_{name}": value for name, value in values.items()},
        "label_reward": reward(values, rules),
    }


def reward(values, rules):
    """Sum of weight times label in order of name; None if one of them is."""
    total = 0.0
    for name, weight in sorted(rules.reward):
        if values[name] is None:
            return None
        total += weight * float(values[name])
    return total


# Features


def is_timed(play):
    return play["played_ms"] is not None


def tells_skips(play):
    return is_timed(play) or play["source_skip_level"] is not None


def if_told(plays, tells, is_one):
    """How many plays are one; None if there are plays and none of them can tell."""
    if plays and not any(tells(play) for play in plays):
        return None
    return sum(is_one(play) is True for play in plays)


def item_counts(track_id, day, events):
    """Plays, streams, impressions of a track on the 7 days before a day, received before it."""
    seen = [
        event
        for event in events
        if event["track_id"] == track_id
        and day - 7 <= event["event_time"] // DAY_US < day
        and event["received_time"] < day * DAY_US
    ]
    plays = [event for event in seen if event["event_type"] == "play"]
    return {
        "item_plays_7d": len(plays),
        "item_streams_7d": if_told(plays, is_timed, is_streamed),
        "item_impressions_7d": sum(event["event_type"] == "impression" for event in seen),
    }


def features(row, world):
    """Every registered feature of one example."""
    rules, t = world.rules, row["event_time"]
    past = [event for event in world.of_user(row["user_id"]) if event["event_time"] < t]
    week = [event for event in past if event["event_time"] >= t - WEEK_US]
    plays = [event for event in week if event["event_type"] == "play"]
    shown = [event for event in week if event["event_type"] == "impression"]
    ended = [
        event
        for event in past
        if event["event_type"] == "play" and t - WEEK_US <= end_of(event, rules.cap_us) < t
    ]
    of_track = [event for event in plays if event["track_id"] == row["track_id"]]
    latest = plays[-rules.history_length :]
    at = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=t)
    return {
        "hour_of_day": at.hour,
        "day_of_week": at.weekday(),
        "history_track_ids": [event["track_id"] for event in latest],
        "history_ms_ago": [delay_ms(row, event) for event in latest],
        "user_plays_7d": len(plays),
        "user_impressions_7d": len(shown),
        "user_likes_7d": (
            sum(event["event_type"] == "like" for event in week)
            if any(event["source"] in world.within.like_sources for event in [*week, row])
            else None
        ),
        "user_streams_7d": if_told(ended, is_timed, is_streamed),
        "user_skips_7d": if_told(ended, tells_skips, lambda play: is_skip(play, rules)),
        "user_track_plays_7d": len(of_track),
        "user_track_ms_since_play": delay_ms(row, of_track[-1]) if of_track else None,
        "user_track_impressions_7d": sum(event["track_id"] == row["track_id"] for event in shown),
        "user_artist_plays_7d": (
            None
            if row["artist_id"] is None
            else sum(event["artist_id"] == row["artist_id"] for event in plays)
        ),
        **session_features(row, world),
        **item_counts(row["track_id"], t // DAY_US, world.known),
    }


def session_features(row, world):
    """The session family; all None without a session."""
    first = session_start(row, world)
    if first is None:
        return dict.fromkeys(FEATURES["session"])
    t = row["event_time"]
    mine = [event for event in session_members(first, world) if event["event_time"] < t]
    plays = [event for event in mine if event["event_type"] == "play"]
    return {
        "session_age_ms": delay_ms(row, first),
        "session_plays": len(plays),
        "session_impressions": sum(event["event_type"] == "impression" for event in mine),
        "session_skips": if_told(
            [play for play in plays if end_of(play, world.rules.cap_us) < t],
            tells_skips,
            lambda play: is_skip(play, world.rules),
        ),
        "session_ms_since_play": delay_ms(row, plays[-1]) if plays else None,
    }


# Splits


def borders_of(world):
    """(split, first instant, end without the gap, next border) of each split there is."""
    validation_us, test_us = world.within.validation_us, world.within.test_us
    starts = [("train", -math.inf)]
    starts += [("validation", validation_us)] if validation_us is not None else []
    starts += [("test", test_us)] if test_us is not None else []
    found = []
    for number, (name, first_us) in enumerate(starts):
        border_us = starts[number + 1][1] if number + 1 < len(starts) else math.inf
        found.append((name, first_us, border_us - world.rules.border_gap_us, border_us))
    return found


def border_behind_us(split, world):
    """The border behind a split; infinite if there is none."""
    return next(border_us for name, _, _, border_us in borders_of(world) if name == split)


def split_of(row, start_us, closes_us, known_us, world):
    """(split, censored), or (None, why it is dropped), of a row.

    Its session starts at `start_us`, its label window ends at `closes_us`, and what its labels
    judge is known at `known_us`. Events of a held-out arm count until the window ends, or the
    border if that is earlier.
    """
    for name, first_us, end_us, border_us in borders_of(world):
        if not first_us <= start_us < border_us:
            continue
        if start_us >= end_us:
            return None, "gap"
        if row["event_time"] >= end_us:
            return None, "behind the end"
        if name == "train" and row["user_id"] in world.rules.held_out_users:
            return None, "held-out user"
        if name == "train" and is_near_held_out_arm(row, min(closes_us, border_us), world):
            return None, "held-out arm"
        is_open = max(closes_us, known_us) > border_us
        if is_open and not world.rules.censor:
            return None, "open labels"
        return name, is_open
    raise AssertionError("splits cover all time")


def is_of_held_out_arm(event, world):
    return (event["experiment_id"], event["variant"]) in world.rules.held_out_arms


def is_near_held_out_arm(row, until_us, world):
    """Whether the user has an event of a held-out arm in [t - 7 d, until)."""
    return any(
        is_of_held_out_arm(event, world)
        and row["event_time"] - WEEK_US <= event["event_time"] < until_us
        for event in world.of_user(row["user_id"])
    )


def train_end_us(world):
    """End of train, without its gap; infinite if all is train."""
    return borders_of(world)[0][2]


def cold_flags(row, world):
    """No play of the user, or of the track by anyone, in the 7 days before t or train's end."""
    until_us = min(row["event_time"], train_end_us(world))
    plays = [
        event
        for event in world.of_user(row["user_id"])
        if event["event_type"] == "play" and until_us - WEEK_US <= event["event_time"] < until_us
    ]
    counts = item_counts(row["track_id"], until_us // DAY_US, world.known)
    return {"is_cold_user": not plays, "is_cold_item": counts["item_plays_7d"] == 0}


def over_us(event):
    """When a play was over, however long it was; any other event is over at once."""
    is_play = event["event_type"] == "play" and event["played_ms"] is not None
    return event["event_time"] + (event["played_ms"] * 1000 if is_play else 0)


def chosen(candidates, reach_us, world, known_us=over_us):
    """Mature rows of the range with their split, and counts of what is left out.

    Args:
      candidates: events that may be rows.
      reach_us: length of the label window.
      known_us: when what the labels of a row judge is known.

    Returns:
      (event, split, censored) by user and time, and the counts.
    """
    kept, counts = [], Counter()
    for event in sorted(candidates, key=by_user):
        t = event["event_time"]
        if not world.within.first_us <= t < world.within.end_us:
            continue
        if t + reach_us > world.within.watermark_us:
            counts["immature"] += 1
            continue
        first = session_start(event, world)
        start_us = t if first is None else first["event_time"]
        split, what = split_of(event, start_us, t + reach_us, known_us(event), world)
        if split is None:
            counts["dropped"] += 1
            continue
        kept.append((event, split, what))
    return kept, counts


# Ranking


def ranking_rows(world):
    """Rows with their `split`, by (user, time, event id), and counts of what is left out.

    `session_id` is (user, id of the session's first event), or None.
    """
    within, surfaces = world.within, world.rules.surfaces
    examples = [
        event
        for event in world.events
        if event["event_type"]
        == ("play" if event["source"] in within.play_sources else "impression")
        and (surfaces is None or event["surface"] in surfaces)
    ]

    def known_us(event):
        shown = event["event_type"] == "impression"
        return over_us((outcome_of(event, world.events, world.rules) or event) if shown else event)

    kept, counts = chosen(examples, world.rules.horizon_us, world, known_us)
    return [event_row(event, split, censored, world) for event, split, censored in kept], counts


def event_row(event, split, censored, world, families=tuple(FEATURES)):
    computed = features(event, world)
    return {
        "split": split,
        **{name: event[name] for name in CARRIED},
        "session_id": session_key(event, world),
        **{name: computed[name] for family in families for name in FEATURES[family]},
        **cold_flags(event, world),
        **labels(event, world, censored),
    }


# Retrieval


def reach_of_positive_us(world):
    """How long after t it is open which later plays are positives: a like of one may come late."""
    return world.rules.horizon_us * (2 if world.rules.positive in ("liked", "saved") else 1)


def retrieval_rows(world):
    """Rows without their negatives, and counts of what is left out."""
    surfaces = world.rules.surfaces
    examples = [play for play in world.positives if surfaces is None or play["surface"] in surfaces]
    # A play of the last instant of the horizon is a positive or not this much later.
    seconds = {"streamed_30s": 30, "scrobble": 240}.get(world.rules.positive, 0)

    def known_us(play):
        horizon_ends_us = play["event_time"] + world.rules.horizon_us
        return max(over_us(play), horizon_ends_us + seconds * SECOND_US)

    kept, counts = chosen(examples, reach_of_positive_us(world), world, known_us)
    families = ("context", "user", "session", "history")
    return [event_row(*found, world, families) for found in kept], counts


def pool_of(day, world):
    """Track -> plays, of the tracks that could be drawn on a day."""
    first_day = day - world.rules.popularity_days
    seen = [
        event
        for event in world.known
        if event["event_type"] in ("play", "impression", "like")
        and first_day <= event["event_time"] // DAY_US < day
        and event["received_time"] < day * DAY_US
    ]
    in_train = [
        event
        for event in seen
        if (event["event_time"] // DAY_US + 1) * DAY_US <= train_end_us(world)
    ]
    tracks = {event["track_id"] for event in seen}
    for track, released_us in (world.released or {}).items():
        tracks.discard(track)
        if released_us <= day * DAY_US:
            tracks.add(track)
    return {
        track: sum(e["event_type"] == "play" and e["track_id"] == track for e in in_train)
        for track in tracks
    }


def proposal_of(kind, option, pool):
    """Track -> weight of a drawing source, exact; their sum is not 1."""
    plays = sum(pool.values())
    if kind == "uniform":
        return dict.fromkeys(pool, Fraction(1))
    if kind == "popularity":  # in units of 2^-16
        return {track: Fraction(round(count**option * 2**16)) for track, count in pool.items()}
    assert kind == "mixed"
    if not plays:
        return dict.fromkeys(pool, Fraction(1))
    share = Fraction(option)
    return {track: share * count / plays + (1 - share) / len(pool) for track, count in pool.items()}


@dataclasses.dataclass(frozen=True)
class Negatives:
    """What a row's negatives may be.

    Attributes:
      draws: drawing source -> track -> its log-probability in each draw.
      free: drawing source -> how probable it is that a try hits one of them.
      exposed, skipped: candidates.
      later: tracks of positives in [t, t + horizon).
      positive_log_q, positive_in_batch_log_q: of the row's own track.
    """

    draws: dict[str, dict[str, float]]
    free: dict[str, Fraction]
    exposed: set[str]
    skipped: set[str]
    later: set[str]
    positive_log_q: float | None
    positive_in_batch_log_q: float | None


def negatives_of(row, world):
    """What the negatives of a positive play may be."""
    rules, t, own = world.rules, row["event_time"], row["track_id"]
    positives = [
        (play["event_time"], play["track_id"])
        for play in world.positives
        if play["user_id"] == row["user_id"]
    ]
    later = {track for time_us, track in positives if t <= time_us < t + rules.horizon_us}
    barred = {track for time_us, track in positives if t - rules.exclude_us <= time_us < t} | {own}
    if rules.exclude_later:
        barred |= later
    pool = pool_of(t // DAY_US, world)
    draws, free_share, chances = {}, {}, []
    for kind, count, option in rules.sources:
        if kind in ("exposed", "skipped"):
            continue
        weights = proposal_of(kind, option, pool)
        free = sum(weight for track, weight in weights.items() if track not in barred)
        draws[kind] = {
            track: log(weight / free)
            for track, weight in weights.items()
            if weight and track not in barred
        }
        whole = sum(weights.values())
        free_share[kind] = free / whole if whole else Fraction(0)
        if whole:  # else it draws nothing
            chances += [weights.get(own, Fraction(0)) / whole] * count
    chance = sum(chances) / len(chances) if chances else 0
    plays = sum(pool.values())
    first = session_start(row, world)
    before = [
        event
        for event in ([] if first is None else session_members(first, world))
        if event["event_time"] < t
    ]
    return Negatives(
        draws=draws,
        free=free_share,
        exposed={
            event["track_id"]
            for event in before
            if event["event_type"] == "impression"
            and event["event_time"] >= t - DAY_US
            and outcome_of(event, world.events, rules) is None
        }
        - barred,
        skipped={
            event["track_id"]
            for event in before
            if event["event_type"] == "play" and is_skip(event, rules)
        }
        - barred,
        later=later,
        positive_log_q=log(chance) if chance else None,
        positive_in_batch_log_q=log(Fraction(pool[own], plays)) if pool.get(own) else None,
    )


def log(chance):
    """Natural logarithm of a Fraction, to the last few bits of a double."""
    return math.log(chance.numerator) - math.log(chance.denominator)


# Sequences


def vocabulary(world):
    """Track -> index: the tracks played on train's whole days and known by their end, from 4 on."""
    last_us = min(train_end_us(world), world.within.end_us) // DAY_US * DAY_US
    plays = Counter(
        event["track_id"]
        for event in world.known
        if event["event_type"] == "play"
        and world.within.first_us <= event["event_time"] < last_us
        and event["received_time"] < last_us
    )
    enough = [track for track, count in plays.items() if count >= world.rules.min_track_plays]
    ordered = sorted(enough, key=lambda track: (-plays[track], track))[: world.rules.max_items]
    return {track: index for index, track in enumerate(ordered, 4)}


def sequence_rows(world):
    """Rows with their `split`, by (user, end, split), and counts of what is left out."""
    rules, rows = world.rules, []
    plays = [event for event in world.events if event["event_type"] == "play"]
    kept, counts = chosen(plays, rules.horizon_us, world)
    periods = {}
    for event, split, censored in kept:
        t = event["event_time"]
        start_us = t // DAY_US * DAY_US if rules.by_day else world.within.first_us
        periods.setdefault((event["user_id"], split, start_us), {})[key(event)] = censored
    for (user_id, split, start_us), targets in periods.items():
        usable = [
            event
            for event in world.of_user(user_id)
            if event["event_type"] == "play"
            and not (split == "train" and is_of_held_out_arm(event, world))
        ]
        places = [place for place, event in enumerate(usable) if key(event) in targets]
        newest = max(places)
        chunks = {}
        for place in places:
            chunks.setdefault((newest - place) // rules.stride, []).append(place)
        for chunk in chunks.values():
            last = max(chunk)
            window = range(max(0, last + 1 - rules.length), last + 1)
            window = [
                place
                for place in window
                if usable[place]["event_time"] >= start_us - rules.history_us
            ]
            if len(window) < rules.min_length:
                counts["too_short"] += 1
                counts["targets_too_short"] += len(chunk)
                continue
            steps = [
                step_of(
                    usable[place],
                    place in chunk,
                    targets.get(key(usable[place])),
                    border_behind_us(split, world),
                    world,
                )
                for place in window
            ]
            rows.append(
                {
                    "split": split,
                    "user_id": user_id,
                    "end_time": usable[last]["event_time"],
                    **{name: [step[name] for step in steps] for name in steps[0]},
                }
            )
    return sorted(rows, key=lambda row: (row["user_id"], row["end_time"], row["event_ids"])), counts


def step_of(play, is_target, censored, border_us, world):
    """What a row says of one of its plays; labels of its targets alone."""
    found = labels(play, world, censored) if is_target else dict.fromkeys(LABELS)
    ratio, actions = input_of(play, border_us, world)
    return {
        "event_ids": play["event_id"],
        "track_ids": play["track_id"],
        "event_times": play["event_time"],
        "surfaces": play["surface"] or "unknown",
        "item_index": vocabulary(world).get(play["track_id"], 1),
        "is_target": is_target,
        "played_ratios": ratio,
        "action_masks": actions,
        "label_masks": mask({name: found[f"label_{name}"] is True for name in BITS}),
        "label_known_masks": mask({name: found[f"label_{name}"] is not None for name in BITS}),
        "rewards": math.nan if found["label_reward"] is None else found["label_reward"],
    }


def input_of(play, border_us, world):
    """(share played, mask of actions): what was known of a play when the next one started, or at
    the border behind the row's split."""
    rules, t = world.rules, play["event_time"]
    later = [
        event
        for event in world.of_user(play["user_id"])
        if event["event_type"] == "play" and store_order(event) > store_order(play)
    ]
    until_us = min([t + rules.horizon_us, border_us, *(event["event_time"] for event in later)])
    so_far = dict(play)
    if play["played_ms"] is not None:
        so_far["played_ms"] = min(play["played_ms"], (until_us - t) // 1000)
    ratio = completion(so_far, rules.completion_cap)
    values = {"streamed_30s": is_streamed(so_far), "scrobble": is_scrobble(so_far)}
    if t + (play["played_ms"] or 0) * 1000 <= until_us:
        values.update(skips(play, rules))
    values["liked"] = decided_by(play, world.events, "like", "unlike", until_us) is not None
    values["saved"] = decided_by(play, world.events, "save", "unsave", until_us) is not None
    return math.nan if ratio is None else ratio, mask(values)


def mask(values):
    """Bits of what is true."""
    return sum(BITS[name] for name, value in values.items() if value is True)


# Sessions as rows


def session_rows(world):
    """Rows with their `split`, by (user, start), and counts of what is left out."""
    rows, counts = [], Counter()
    firsts = {key(first): first for first, _ in world.session_of.values()}
    for first in sorted(firsts.values(), key=by_user):
        start_us = first["event_time"]
        if not world.within.first_us <= start_us < world.within.end_us:
            continue
        members = session_members(first, world)
        if sum(event["event_type"] == "play" for event in members) < world.rules.min_plays:
            counts["too_short"] += 1
            continue
        closes_us = session_closes_us(first, members, world)
        if closes_us > world.within.watermark_us:
            counts["immature"] += 1
            continue
        split, _ = split_of(first, start_us, closes_us, max(map(over_us, members)), world)
        if split is None:
            counts["dropped"] += 1
        else:
            rows.append({"split": split, **session_row(first, members, world)})
    return rows, counts


def session_end_us(members, world):
    return max(end_of(event, world.rules.cap_us) for event in members)


def session_closes_us(first, members, world):
    """When a session is known to be over and the label window of its last event is closed.

    Past the cap nothing joins it. Before, an event may for as long as the gap after its end; one
    that the source gives goes on however long nothing happens.
    """
    rules = world.rules
    over_us = first["event_time"] + rules.cap_us + 1
    if first["source_session_id"] is None:
        over_us = min(over_us, session_end_us(members, world) + rules.gap_us)
    return max(over_us, members[-1]["event_time"] + rules.horizon_us)


def session_row(first, members, world):
    rules = world.rules
    plays = [event for event in members if event["event_type"] == "play"]
    computed = features(first, world)
    completions = [completion(play, rules.completion_cap) for play in plays]
    rewards = [labels(play, world)["label_reward"] for play in plays]
    return {
        "user_id": first["user_id"],
        "session_id": key(first),
        "session_start": first["event_time"],
        "session_end": session_end_us(members, world),
        "plays": len(plays),
        "impressions": len(members) - len(plays),
        "tracks": len({play["track_id"] for play in plays}),
        "streams": sum(is_streamed(play) is True for play in plays),
        "skips": sum(is_skip(play, rules) for play in plays),
        "label_returned_24h": returned_24h(first, world),
        **{
            f"first_{name}": first[name]
            for name in ("surface", "premium", "platform", "country", "source")
        },
        **{
            name: computed[name]
            for family in ("context", "user", "history")
            for name in FEATURES[family]
        },
        "is_cold_user": cold_flags(first, world)["is_cold_user"],
        "track_ids": [play["track_id"] for play in plays],
        "artist_ids": [play["artist_id"] or "" for play in plays],
        "surfaces": [play["surface"] or "unknown" for play in plays],
        "offsets_ms": [delay_ms(play, first) for play in plays],
        "completions": [math.nan if share is None else share for share in completions],
        "rewards": [math.nan if value is None else value for value in rewards],
    }
