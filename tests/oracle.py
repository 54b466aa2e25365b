"""Every rule of the ranking data set once more: plain Python, slow and obvious.

Written from the documentation alone, without the implementation, and imports nothing of it. An
event is a dict with the columns of the store; times are integer microseconds since 1970. A table is
a list of such dicts, in any order. Every question is answered by looking at all events.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

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
FEATURES = (
    "history_track_ids",
    "history_ms_ago",
    "item_plays_7d",
    "item_streams_7d",
    "item_impressions_7d",
    "session_age_ms",
    "session_plays",
    "session_impressions",
    "session_skips",
    "session_ms_since_play",
    "user_plays_7d",
    "user_impressions_7d",
    "user_likes_7d",
    "user_streams_7d",
    "user_skips_7d",
    "user_track_plays_7d",
    "user_track_ms_since_play",
    "user_track_impressions_7d",
    "user_artist_plays_7d",
)
LABELS = (
    "label_played",
    "label_play_delay_ms",
    "label_streamed_30s",
    "label_completion",
    "label_skipped",
    "label_liked",
    "label_saved",
    "label_reward",
)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a spec says, in microseconds."""

    surfaces: tuple[str, ...] | None = None
    gap_us: int = 30 * MINUTE_US
    cap_us: int = 24 * HOUR_US
    window_us: int = 30 * MINUTE_US
    surface_window_us: tuple[tuple[str, int], ...] = ()
    horizon_us: int = 24 * HOUR_US
    skip_below_ms: int = 30_000
    completion_cap: float = 1.0
    reward: tuple[tuple[str, float], ...] = (
        ("streamed_30s", 1.0),
        ("completion", 0.5),
        ("skipped", -0.5),
        ("liked", 2.0),
        ("saved", 2.0),
    )
    history_length: int = 10

    def window_of(self, surface):
        return dict(self.surface_window_us).get(surface, self.window_us)


@dataclasses.dataclass(frozen=True)
class Range:
    """Days of a build in microseconds, the watermark, and what sources are known to tell."""

    first_us: int
    end_us: int
    watermark_us: int
    play_sources: tuple[str, ...] = ()
    like_sources: tuple[str, ...] = ()
    save_sources: tuple[str, ...] = ()


# Events


def store_order(event):
    """Order within a user."""
    return event["event_time"], event["event_id"]


def key(event):
    """What identifies an event."""
    return event["user_id"], event["event_id"]


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


def prepared(events):
    """The events that count: without duplicates, then without near duplicates."""
    return [event for event in drop_duplicates(events) if not event["near_duplicate"]]


# Sessions


def end_of(event, cap_us):
    """End of a play, at most the cap after its start; any other event ends at once."""
    if event["event_type"] != "play" or event["played_ms"] is None:
        return event["event_time"]
    return event["event_time"] + min(event["played_ms"] * 1000, cap_us)


def sessions(events, gap_us, cap_us):
    """Key of each play and impression -> (first event of its session, past the cap).

    Events of a user to which the source gives the same session are one, until two of them in a row
    are more than the cap apart; the rule of the gap is among the events without a given session.
    """
    makers = [event for event in events if event["event_type"] in ("play", "impression")]
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


def is_skipped(play, skip_below_ms):
    """True, False, or None where it cannot be told."""
    if play["time_quality"] == "sync":
        return None
    if play["played_ms"] is not None:
        return play["played_ms"] < skip_below_ms and play["reason_end"] not in NOT_A_SKIP
    if play["source_skip_level"] is not None:
        return play["source_skip_level"] in (2, 3)
    return None


def is_streamed(play):
    """True, False, or None where the played time is unknown."""
    return None if play["played_ms"] is None else play["played_ms"] >= STREAM_MS


def completion(play, cap):
    """Share played, from 0 to the cap; None if the played time or the length is unknown."""
    if play["played_ms"] is None or play["track_duration_ms"] is None:
        return None
    return min(max(play["played_ms"] / play["track_duration_ms"], 0.0), cap)


def resolved(row, events, yes, no, horizon_us):
    """Whether the latest `yes` or `no` of the row's user and track in [t, t + horizon) is `yes`."""
    t = row["event_time"]
    actions = [
        event
        for event in events
        if event["event_type"] in (yes, no)
        and event["user_id"] == row["user_id"]
        and event["track_id"] == row["track_id"]
        and t <= event["event_time"] < t + horizon_us
    ]
    return bool(actions) and max(actions, key=store_order)["event_type"] == yes


def labels(row, events, rules, within):
    """The label columns of one example."""
    if row["event_type"] == "play":
        play, delay_ms = row, None
    else:
        play, delay_ms = outcome_of(row, events, rules), None
        if play is not None:
            delay_ms = (play["event_time"] - row["event_time"]) // 1000
    values = {
        "played": play is not None,
        "streamed_30s": False if play is None else is_streamed(play),
        "completion": 0.0 if play is None else completion(play, rules.completion_cap),
        "skipped": False if play is None else is_skipped(play, rules.skip_below_ms),
        "liked": None,
        "saved": None,
    }
    if row["source"] in within.like_sources:
        values["liked"] = resolved(row, events, "like", "unlike", rules.horizon_us)
    if row["source"] in within.save_sources:
        values["saved"] = resolved(row, events, "save", "unsave", rules.horizon_us)
    reward = 0.0
    for name, weight in sorted(rules.reward):
        if values[name] is None:
            reward = None
            break
        reward += weight * float(values[name])
    return {
        **{f"label_{name}": value for name, value in values.items()},
        "label_play_delay_ms": delay_ms,
        "label_reward": reward,
    }


# Features


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
        "item_streams_7d": sum(is_streamed(play) is True for play in plays),
        "item_impressions_7d": sum(event["event_type"] == "impression" for event in seen),
    }


def features(row, events, session_of, rules):
    """Every registered feature of one example, but for the item family."""
    t, user = row["event_time"], row["user_id"]
    past = sorted(
        (event for event in events if event["user_id"] == user and event["event_time"] < t),
        key=store_order,
    )
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
    result = {
        "history_track_ids": [event["track_id"] for event in latest],
        "history_ms_ago": [(t - event["event_time"]) // 1000 for event in latest],
        "user_plays_7d": len(plays),
        "user_impressions_7d": len(shown),
        "user_likes_7d": sum(event["event_type"] == "like" for event in week),
        "user_streams_7d": sum(is_streamed(event) is True for event in ended),
        "user_skips_7d": sum(is_skipped(event, rules.skip_below_ms) is True for event in ended),
        "user_track_plays_7d": len(of_track),
        "user_track_ms_since_play": (
            (t - of_track[-1]["event_time"]) // 1000 if of_track else None
        ),
        "user_track_impressions_7d": sum(event["track_id"] == row["track_id"] for event in shown),
        "user_artist_plays_7d": (
            None
            if row["artist_id"] is None
            else sum(event["artist_id"] == row["artist_id"] for event in plays)
        ),
    }
    return {**result, **session_features(row, past, session_of, rules)}


def session_features(row, past, session_of, rules):
    """The session family; all None past the session's cap."""
    first, overflow = session_of[key(row)]
    if overflow:
        return dict.fromkeys(name for name in FEATURES if name.startswith("session_"))
    t = row["event_time"]
    mine = [
        event
        for event in past
        if key(event) in session_of and key(session_of[key(event)][0]) == key(first)
    ]
    plays = [event for event in mine if event["event_type"] == "play"]
    return {
        "session_age_ms": (t - first["event_time"]) // 1000,
        "session_plays": len(plays),
        "session_impressions": sum(event["event_type"] == "impression" for event in mine),
        "session_skips": sum(
            is_skipped(event, rules.skip_below_ms) is True and end_of(event, rules.cap_us) < t
            for event in plays
        ),
        "session_ms_since_play": (t - plays[-1]["event_time"]) // 1000 if plays else None,
    }


# Ranking rows


def is_example(event, rules, within):
    """Whether an event becomes a row of the range, mature or not."""
    wanted = "play" if event["source"] in within.play_sources else "impression"
    return (
        event["event_type"] == wanted
        and (rules.surfaces is None or event["surface"] in rules.surfaces)
        and within.first_us <= event["event_time"] < within.end_us
    )


def is_mature(event, rules, within):
    return event["event_time"] + rules.horizon_us <= within.watermark_us


def ranking_rows(events, rules, within, known=None):
    """Rows of the range by (user, time, event id).

    `session_id` is (user, id of the session's first event), or None past the cap.

    Args:
      events: of `prepared`.
      rules: of the spec.
      within: range and watermark.
      known: what the item counts see, where that is not `events`.
    """
    session_of = sessions(events, rules.gap_us, rules.cap_us)
    rows = []
    for event in sorted(events, key=lambda event: (event["user_id"], *store_order(event))):
        if not (is_example(event, rules, within) and is_mature(event, rules, within)):
            continue
        first, overflow = session_of[key(event)]
        day = event["event_time"] // DAY_US
        rows.append(
            {
                **{name: event[name] for name in CARRIED},
                "session_id": None if overflow else key(first),
                **features(event, events, session_of, rules),
                **item_counts(event["track_id"], day, events if known is None else known),
                **labels(event, events, rules, within),
            }
        )
    return rows
