"""What the simulated users do: impressions, plays, actions, and the faults of real logs.

The unit of generation is one block of `world.BLOCK_USERS` users on one local day (04:00 to 04:00 in
each user's zone). Its random numbers are keyed by (seed, block, day); so a user's events depend on
the configuration and the user, not on the number of users, files or workers.

The generative model (symbols of `world`):

* Sessions. Their number is Poisson with rate proportional to the user's activity and to the day of
  the week; starts follow the local hour of day, weekdays and weekends apart. A session that would
  start before the previous one ended is moved behind it. A session has 1 + Geometric steps, each a
  visit of Home (chance `home_share`; never offline) or a play the user chose.
* Home. A request shows slate_size impressions, slot s after s x dwell. Slots are clicked
  independently with probability
    examination(s) x relevance(u, i, d) x (1 + lift if treated),
  and a click starts a play on surface "home" before the next slot appears. The next click of the
  same slate cuts that play short.
* Other plays. A favourite of the user (chance 0.3), else a track of the session's genre (chance
  0.15: another one), drawn by popularity among what was released when the session started. The
  session's genre is drawn by softmax(3 <x_u(d), c_g>).
* Skips. P(skip) = sigmoid(-0.2 - 2.2 affinity); a skipped play ends after an exponential time. The
  source's `skipped` flag says so for 70% of skips only. Others end with the track, except that the
  last play of a session may be left before its end.
* Actions. A play that was not skipped is liked, saved or its artist followed with chances
  proportional to relevance, 0.54 in all at most; a skipped one is hidden with chance 0.06. Actions
  come during the play or hours to days later; 5% of likes and saves are taken back later.
* Arrival. Plays are reported when they end, the rest at once, each with a delay of about a second.
  An offline session arrives at one time up to offline_max_days later.
* Faults, all in the truth. Exact retransmissions (same event_id, later received_time), plays
  reported by a second client (1 to 8 s later, other event_id and client_id), clocks that are wrong
  by a constant for a user (event_time is what the client wrote), bots (plays of about half a minute
  of five tracks, hour after hour).

Event times lie in [start_date, start_date + days) by the true clock, in whole milliseconds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from schemas import LISTENING_EVENT, forms
from transforms.simulation.world import (
    BLOCK_USERS,
    EXPERIMENT_ID,
    FAVOURITES,
    PLACES,
    PLATFORMS,
    POLICY_MODEL,
    POLICY_UNIFORM,
    PROPENSITY_GRID,
    RELEVANCE_MAX,
    SESSION_STEPS,
    STREAM_LISTENING,
    VARIANTS,
    IntArray,
    SimulationConfig,
    UserBlock,
    World,
)

SOURCE = "canonical"
EVENT_SCHEMA = forms.polars_schema(LISTENING_EVENT)

TRUTH_SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    # One row an impression. click_probability = examination(position) x relevance x lift.
    "impressions": {
        "event_id": pl.String(), "request_id": pl.String(), "user_id": pl.String(),
        "track_id": pl.String(), "position": pl.Int32(), "variant": pl.String(),
        "is_exploration": pl.Boolean(), "propensity": pl.Float64(), "relevance": pl.Float64(),
        "click_probability": pl.Float64(), "clicked": pl.Boolean(),
    },
    # One row a request; (policy_day, cluster) is the key of the policy table.
    "requests": {
        "request_id": pl.String(), "user_id": pl.String(), "taste_day": pl.Int32(),
        "policy_day": pl.Int32(), "cluster": pl.Int32(), "variant": pl.String(),
        "is_exploration": pl.Boolean(),
    },
    # One row a click: the impression and the play it started.
    "clicks": {"impression_event_id": pl.String(), "play_event_id": pl.String()},
    # One row a retransmission: the id that occurs once more.
    "duplicates": {"event_id": pl.String()},
    # One row a play reported twice: the second report's id and the first's.
    "near_duplicates": {"event_id": pl.String(), "original_event_id": pl.String()},
}  # fmt: skip

USERS_SCHEMA: dict[str, pl.DataType] = {
    "user_id": pl.String(), "zone": pl.String(), "country": pl.String(), "platform": pl.String(),
    "premium": pl.Boolean(), "is_bot": pl.Boolean(), "variant": pl.String(),
    "activity": pl.Float64(), "clock_skew_ms": pl.Int64(), "drift_radians": pl.Float64(),
    "taste": pl.List(pl.Float64()), "drift": pl.List(pl.Float64()),
}  # fmt: skip

_MS_HOUR = 3_600_000
_MS_DAY = 86_400_000
_DAY_START_HOUR = 4

# Weight of each local hour 0 to 23, and of each weekday from Monday on.
_WEEKDAY_HOURS = (
    5, 3, 2, 1, 1, 2, 6, 12, 14, 11, 9, 9, 11, 10, 9, 10, 12, 15, 16, 15, 15, 15, 13, 9,
)  # fmt: skip
_WEEKEND_HOURS = (
    9, 7, 5, 3, 2, 1, 2, 4, 8, 12, 14, 14, 14, 13, 13, 13, 13, 13, 14, 15, 16, 16, 15, 12,
)  # fmt: skip
_WEEK = np.array([0.96, 0.97, 0.98, 1.0, 1.08, 1.06, 0.95])

_TYPES = ("impression", "play", "like", "save", "follow", "hide", "unlike", "unsave")
_LIKE, _SAVE, _FOLLOW, _HIDE, _UNLIKE, _UNSAVE = range(2, 8)
_SURFACES = ("home", "playlist", "album", "artist", "radio", "library", "search", "queue",
             "now_playing")  # fmt: skip
_SURFACE_SHARE = np.cumsum([0.0, 0.36, 0.13, 0.12, 0.12, 0.14, 0.09, 0.04])
_NOW_PLAYING, _LIBRARY = 8, 5
_STARTS = ("clickrow", "trackdone", "fwdbtn", "playbtn", "appload")
_ENDS = ("trackdone", "fwdbtn", "clickrow", "endplay", "logout", "unexpected-exit", "backbtn")
_LAST_END_SHARE = np.cumsum([0.6, 0.25, 0.15])  # endplay, logout, unexpected-exit

_SHELF = "made-for-you"
_CONTEXT_SURFACES = (1, 4)  # playlist, radio

_NULL = pl.Series([None], dtype=pl.String)
_MAX_STEPS = 80
_MAX_ROWS = 1 << 24  # a row number has 24 bits of an event id, a day 12, a block 22
_LANE = 10**13  # more milliseconds than all sessions of a block and day last together
_NEAR_BIT = np.uint64(1 << 63)
_REQUEST_BIT = np.uint64(1 << 62)


@dataclasses.dataclass(frozen=True)
class Simulated:
    """A piece of the log and its truth.

    Attributes:
      events: columns and types of `ListeningEvent`, ordered by received_time.
      truth: table name to table, see TRUTH_SCHEMAS.
      counts: what happened, by name: `events`, `events.<type>`, `duplicates`, `near_duplicates`,
        `offline`, `late_over_1_day` (received a day or more after event_time), `skewed_clock`,
        `bot`, `clicks`, `clicks.<arm>`, `impressions.<arm>`, `requests.exploration`.
    """

    events: pl.DataFrame
    truth: dict[str, pl.DataFrame]
    counts: dict[str, int]


def empty() -> Simulated:
    """No events, all tables, with their types."""
    truth = {name: pl.DataFrame(schema=schema) for name, schema in TRUTH_SCHEMAS.items()}
    return Simulated(pl.DataFrame(schema=EVENT_SCHEMA), truth, {})


def simulate_users(world: World, block: int) -> Simulated:
    """All events of a block's users, all days; see `simulate_day`."""
    parts = [simulate_day(world, block, day) for day in local_days(world)]
    return Simulated(
        pl.concat([part.events for part in parts]).sort("received_time", maintain_order=True),
        {name: pl.concat([part.truth[name] for part in parts]) for name in TRUTH_SCHEMAS},
        add_counts(part.counts for part in parts),
    )


def local_days(world: World) -> range:
    """The local days that can hold an event of the configured UTC days."""
    return range(-1, world.config.days + 1)


def add_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Sums by name, names in order."""
    total: dict[str, int] = {}
    for each in counts:
        for name, value in each.items():
            total[name] = total.get(name, 0) + value
    return dict(sorted(total.items()))


def users_table(world: World, block: int) -> pl.DataFrame:
    """The truth about a block's users: USERS_SCHEMA; `taste`, `drift` are a_u, b_u."""
    users = world.user_block(block)
    frame = pl.DataFrame(
        {
            "user_id": users.names,
            "zone": _pick([zone for _, zone, _ in PLACES], users.place),
            "country": _pick([country for country, *_ in PLACES], users.place),
            "platform": _pick(PLATFORMS, users.platform),
            "premium": users.premium,
            "is_bot": users.is_bot,
            "variant": _pick(VARIANTS, users.variant),
            "activity": users.activity,
            "clock_skew_ms": users.skew_ms,
            "drift_radians": users.angle,
            "taste": pl.Series(users.taste.tolist()),
            "drift": pl.Series(users.drift.tolist()),
        }
    ).cast(pl.Schema(USERS_SCHEMA))
    return frame.head(world.config.users - users.first)


def simulate_day(world: World, block: int, day: int) -> Simulated:
    """The events of a block's users on one local day.

    Args:
      world: the world.
      block: block number, below `world.config.blocks`.
      day: local day, 0-based; -1 and `config.days` hold the edges of the UTC range.
    """
    return _Day(world, block, day).simulate()


class _Day:
    """The steps of one block and day. Arrays are per session, step, slot (a Home slot), or play."""

    def __init__(self, world: World, block: int, day: int) -> None:
        self.world, self.config = world, world.config
        self.block, self.day = block, day
        self.rng = world.rng(STREAM_LISTENING, day, block)
        self.users = world.user_block(block)
        self.taste = self.users.taste_on(day)
        self.cluster = (self.taste @ world.centroids.T).argmax(axis=1)
        self.end_ms = self.config.days * _MS_DAY

    def simulate(self) -> Simulated:
        self._sessions()
        if len(self.session_user) == 0:
            return empty()
        self._steps()
        self._home()
        self._plays()
        self._clock()
        return self._assemble()

    def _sessions(self) -> None:
        """Who starts a session when: true UTC milliseconds since the start date."""
        config, users, rng = self.config, self.users, self.rng
        weekday = (config.start_date.weekday() + self.day) % 7
        rate = users.activity * config.events_per_user_day / _events_per_session(config)
        count = rng.poisson(rate * (_WEEK[weekday] / _WEEK.mean()))
        count = np.where(users.is_bot, 1, count)
        user = np.repeat(np.arange(BLOCK_USERS), count)
        hours = np.roll(_WEEKEND_HOURS if weekday >= 5 else _WEEKDAY_HOURS, -_DAY_START_HOUR)
        shares = np.cumsum(hours) / np.sum(hours)
        hour = np.searchsorted(shares, rng.random(len(user)), side="right") + _DAY_START_HOUR
        local = hour * _MS_HOUR + (rng.random(len(user)) * _MS_HOUR).astype(np.int64)
        local = np.where(users.is_bot[user], _DAY_START_HOUR * _MS_HOUR, local)
        offset = self.world.utc_offset_ms(self.day)[users.place]
        tomorrow = self.world.utc_offset_ms(self.day + 1)[users.place]
        start = self.day * _MS_DAY + local - offset[user]
        # The user's day ends here, so that sessions of two days never overlap.
        self.limit = np.minimum(
            (self.day + 1) * _MS_DAY + _DAY_START_HOUR * _MS_HOUR - tomorrow, self.end_ms
        )
        inside = (start >= 0) & (start < self.limit[user])
        user, start = user[inside], start[inside]
        order = np.lexsort((start, user))
        self.session_user, self.session_start = user[order], start[order]

    def _steps(self) -> None:
        """The steps of each session, and what is common to the plays of a session."""
        config, users, rng = self.config, self.users, self.rng
        user, sessions = self.session_user, len(self.session_user)
        bot = users.is_bot[user]
        steps = np.minimum(rng.geometric(1.0 / SESSION_STEPS, sessions), _MAX_STEPS)
        steps = np.where(bot, config.bot_plays_per_day, steps)
        self.offline = (rng.random(sessions) < config.offline_share) & ~bot
        appeal = np.exp(3.0 * (self.taste @ self.world.centroids.T))
        shares = np.cumsum(appeal, axis=1) / appeal.sum(axis=1, keepdims=True)
        genre = (shares[user] < rng.random(sessions)[:, None]).sum(axis=1)
        self.session_genre = np.minimum(genre, config.genres - 1)
        surface = np.searchsorted(_SURFACE_SHARE, rng.random(sessions), side="right")
        self.session_surface = np.minimum(surface, len(_SURFACE_SHARE) - 1)
        self.session_shuffle = rng.random(sessions) < 0.3
        self.session_context = self.session_genre * 64 + rng.integers(0, 64, sessions)
        wait = np.exp(rng.standard_normal(sessions)) * 20 * _MS_HOUR
        self.sync_wait = np.minimum(wait, config.offline_max_days * _MS_DAY).astype(np.int64)

        self.step_session = np.repeat(np.arange(sessions), steps)
        last = np.cumsum(steps) - 1
        self.session_first = last - steps + 1
        self.step_last = np.zeros(len(self.step_session), np.bool_)
        self.step_last[last] = True
        online = ~(self.offline | bot)
        self.step_home = rng.random(len(self.step_session)) < config.home_share
        self.step_home &= online[self.step_session]

    def _home(self) -> None:
        """Requests, their slates by the logging policy, and the clicks."""
        config, world, rng = self.config, self.world, self.rng
        slots, size = config.slate_size, config.candidate_set_size
        self.request_step = np.flatnonzero(self.step_home)
        requests = len(self.request_step)
        session = self.step_session[self.request_step]
        user = self.session_user[session]
        self.request_user = user
        self.request_day = self.session_start[session] // _MS_DAY
        self.request_explores = rng.random(requests) < config.exploration_share
        self.dwell = rng.integers(1_000, 4_000, requests)

        self.slot_request = np.repeat(np.arange(requests), slots)
        self.slot_position = np.tile(np.arange(slots), requests)
        count = requests * slots
        ticket = rng.random(count)
        cluster, slot_user = self.cluster[user][self.slot_request], user[self.slot_request]
        slot_day, explores = (
            self.request_day[self.slot_request],
            self.request_explores[self.slot_request],
        )
        self.slot_track = np.zeros(count, np.int64)
        self.propensity = np.full(count, 1.0 / size)
        for day in np.unique(self.request_day):
            policy = world.policy(int(day))
            rows = np.flatnonzero(slot_day == day)
            c, s = cluster[rows], self.slot_position[rows]
            chosen = policy.draw(c, s, (ticket[rows] * PROPENSITY_GRID).astype(np.int64))
            chosen = np.where(explores[rows], (ticket[rows] * size).astype(np.int64), chosen)
            cell = (c * slots + s) * size + chosen
            self.slot_track[rows] = policy.items.ravel()[cell]
            p = policy.weight.ravel()[cell] / PROPENSITY_GRID
            self.propensity[rows] = np.where(explores[rows], 1.0 / size, p)
        self.slot_affinity = world.affinity(self.taste[slot_user], self.slot_track)
        self.relevance = world.relevance(self.slot_affinity, self.slot_track)
        lift = world.lift(self.users.variant)[slot_user]
        self.click_probability = world.examination()[self.slot_position] * self.relevance * lift
        self.clicked = rng.random(count) < self.click_probability
        self.slot_offset = self.slot_position * self.dwell[self.slot_request]
        self.click_slot = np.flatnonzero(self.clicked)

    def _plays(self) -> None:
        """All plays: first the users' own (one a step), then those from clicks on Home."""
        config, world, users, rng = self.config, self.world, self.users, self.rng
        self.own_step = np.flatnonzero(~self.step_home)
        own, clicks = len(self.own_step), len(self.click_slot)
        own_session = self.step_session[self.own_step]
        own_user = self.session_user[own_session]
        bot = users.is_bot[own_user]

        genre = self.session_genre[own_session]
        stray = rng.random(own) < 0.15
        genre = np.where(stray, rng.integers(0, config.genres, own), genre)
        track = world.draw_tracks(genre, self.session_start[own_session], rng.random(own))
        ticket = rng.random(own)
        depth = np.minimum(rng.geometric(0.18, own) - 1, FAVOURITES - 1)
        depth = np.where(bot, depth % 5, depth)
        favourite = users.favourites[own_user, depth]
        track = np.where((ticket < 0.3) | bot, favourite, track)

        click_step = self.request_step[self.slot_request[self.click_slot]]
        affinity = world.affinity(self.taste[own_user], track)
        self.play_step = np.concatenate([self.own_step, click_step])
        self.play_track = np.concatenate([track, self.slot_track[self.click_slot]])
        affinity = np.concatenate([affinity, self.slot_affinity[self.click_slot]])
        self.play_relevance = world.relevance(affinity, self.play_track)
        self.play_session = self.step_session[self.play_step]
        self.play_user = self.session_user[self.play_session]
        self.play_length = world.duration_ms[self.play_track]
        plays, length = own + clicks, self.play_length
        bot = users.is_bot[self.play_user]

        self.play_skip = rng.random(plays) < 1.0 / (1.0 + np.exp(0.2 + 2.2 * affinity))
        self.play_skip &= ~bot
        heard = np.minimum(rng.exponential(25_000.0, plays) + 400.0, 0.9 * length)
        left = self.step_last[self.play_step] & (rng.random(plays) < 0.5)
        part = rng.random(plays)
        played = np.where(self.play_skip, heard, np.where(left, part * length, length))
        played = np.where(bot, np.minimum(31_000 + 4_000 * part, length), played)
        self.played = played.astype(np.int64)
        ticket = rng.random(plays)
        end = np.where(left, 3 + np.searchsorted(_LAST_END_SHARE, ticket, side="right"), 0)
        end = np.where(self.play_skip, np.where(ticket < 0.8, 1, np.where(ticket < 0.9, 6, 2)), end)
        self.play_end = np.where(bot, 1, end)

        # A click's play starts before the next slot appears, and the slate's next click ends it.
        request = self.slot_request[self.click_slot]
        into = (0.2 + 0.7 * rng.random(clicks)) * self.dwell[request]
        self.click_offset = self.slot_offset[self.click_slot] + into.astype(np.int64)
        following = np.flatnonzero(request[1:] == request[:-1])
        cut = self.click_offset[following + 1] - self.click_offset[following]
        is_cut = cut < self.played[own + following]
        following, cut = following[is_cut], cut[is_cut]
        self.played[own + following] = cut
        self.play_end[own + following] = 2
        self.play_skip[own + following] = False

        # Why it started: a click, else what ended the step before it.
        step_skip = np.zeros(len(self.step_session), np.bool_)
        step_skip[self.own_step] = self.play_skip[:own]
        before = np.maximum(self.own_step - 1, 0)
        chain = (self.own_step > self.session_first[own_session]) & ~self.step_home[before]
        first = np.where(rng.random(own) < 0.7, 0, np.where(rng.random(own) < 0.6, 3, 4))
        start = np.where(chain, np.where(step_skip[before], 2, 1), first)
        self.play_start = np.concatenate([start, np.zeros(clicks, np.int64)])

    def _clock(self) -> None:
        """When each step happens, and which rows lie inside the user's day."""
        users, rng = self.users, self.rng
        own, steps = len(self.own_step), len(self.step_session)
        length = np.zeros(steps, np.int64)
        length[self.own_step] = self.played[:own]
        length[self.request_step] = self.dwell * self.config.slate_size
        click_step = self.play_step[own:]
        np.maximum.at(length, click_step, self.click_offset + self.played[own:])
        pause = rng.exponential(1_500.0, steps) + 200.0
        long = (rng.random(steps) < 0.04) & ~users.is_bot[self.session_user][self.step_session]
        length += (pause + np.where(long, rng.random(steps) * 600_000, 0.0)).astype(np.int64)

        before = np.cumsum(length) - length
        inside = before - before[self.session_first][self.step_session]
        total = np.add.reduceat(length, self.session_first)
        # A session starts at its own time or when the user's session before it is over.
        earlier = np.cumsum(total) - total
        lane = self.session_user * _LANE
        begin = np.maximum.accumulate(self.session_start - earlier + lane) - lane + earlier
        time = begin[self.step_session] + inside
        step_user = self.session_user[self.step_session]
        self.step_keep = time + length <= self.limit[step_user]
        self.step_keep &= step_user < self.config.users - users.first
        self.slot_time = time[self.request_step][self.slot_request] + self.slot_offset
        self.play_time = time[self.play_step]
        self.play_time[own:] += self.click_offset
        self.sync = begin + total + self.sync_wait

    def _assemble(self) -> Simulated:
        """Rows of all kinds in one numbering: slots, plays, actions, actions taken back."""
        config, world, users, rng = self.config, self.world, self.users, self.rng
        slots, own, plays = len(self.slot_track), len(self.own_step), len(self.play_track)
        play_keep = self.step_keep[self.play_step]
        offline = self.offline[self.play_session]

        # Actions that follow a play, some taken back.
        taste = self.play_relevance / RELEVANCE_MAX
        ticket = rng.random(plays)
        action = np.searchsorted([0.30, 0.50, 0.54], ticket / taste, side="right") + _LIKE
        action = np.where(self.play_skip, np.where(ticket < 0.06, _HIDE, 0), action)
        action = np.where((action > _HIDE) | ((action == _HIDE) & ~self.play_skip), 0, action)
        action = np.where(users.is_bot[self.play_user], 0, action)
        acted = np.flatnonzero(action)
        kind = action[acted]
        at_once = (rng.random(len(acted)) < 0.7) | (kind == _HIDE)
        moment = self.play_time[acted] + (rng.random(len(acted)) * self.played[acted]).astype(int)
        later = rng.exponential(14.0 * _MS_HOUR, len(acted)).astype(np.int64)
        later += self.play_time[acted] + self.played[acted]
        acted_time = np.where(at_once, moment, later)
        regret = np.flatnonzero((kind <= _SAVE) & (rng.random(len(acted)) < 0.05))
        regret_time = acted_time[regret] + 60_000
        regret_time += rng.exponential(48.0 * _MS_HOUR, len(regret)).astype(np.int64)
        cause = np.concatenate([acted, acted[regret]])
        action_type = np.concatenate([kind, np.where(kind[regret] == _LIKE, _UNLIKE, _UNSAVE)])
        action_time = np.concatenate([acted_time, regret_time])
        now_playing = np.concatenate([at_once, np.zeros(len(regret), np.bool_)])
        actions = len(cause)

        slot_user = self.request_user[self.slot_request]
        user = np.concatenate([slot_user, self.play_user, self.play_user[cause]])
        track = np.concatenate([self.slot_track, self.play_track, self.play_track[cause]])
        time = np.concatenate([self.slot_time, self.play_time, action_time])
        keep = np.concatenate(
            [
                self.step_keep[self.request_step][self.slot_request],
                play_keep,
                play_keep[cause] & (action_time < self.end_ms),
            ]
        )
        event_type = np.concatenate([np.zeros(slots, int), np.ones(plays, int), action_type])
        is_offline = np.concatenate([np.zeros(slots, np.bool_), offline, offline[cause]])
        rows = slots + plays + actions
        if rows >= _MAX_ROWS:
            raise ValueError(f"more than {_MAX_ROWS} events of one block and day")

        reported = time + (rng.exponential(900.0, rows) + 20.0).astype(np.int64)
        reported[slots : slots + plays] += self.played
        sync = self.sync[self.play_session]
        sync = np.concatenate([np.zeros(slots, np.int64), sync, sync[cause]])
        received = np.where(is_offline, np.maximum(reported, sync), reported)

        # The same record again; and the same play, told by another client.
        again = keep & (rng.random(rows) < config.duplicate_share)
        again_wait = (rng.exponential(1.0, rows) ** 3 * 60_000 + 500).astype(np.int64)
        near = keep[slots : slots + plays] & (rng.random(plays) < config.near_duplicate_share)
        near_shift = rng.integers(1_000, 8_000, plays)
        linked = rng.random(plays - own) < config.linked_play_share
        flag = rng.random(plays) < 0.7

        base = np.uint64((self.block << 36) | ((self.day + 1) << 24))
        number = base + np.arange(rows, dtype=np.uint64)
        ids = _hex_ids(np.concatenate([number, number[slots : slots + plays] | _NEAR_BIT]), config)
        requests = len(self.request_step)
        request_ids = _hex_ids(base + np.arange(requests, dtype=np.uint64) | _REQUEST_BIT, config)

        kept, twice, near = np.flatnonzero(keep), np.flatnonzero(again), np.flatnonzero(near)
        row = np.concatenate([kept, twice, slots + near])
        of_id = np.concatenate([kept, twice, rows + near])
        second = np.zeros(len(row), np.int64)
        second[len(kept) + len(twice) :] = 1
        arrival = received[row]
        arrival[len(kept) : len(kept) + len(twice)] += again_wait[twice]
        arrival[len(kept) + len(twice) :] += near_shift[near]
        moment = time[row]
        moment[len(kept) + len(twice) :] += near_shift[near]
        order = np.argsort(arrival, kind="stable")
        row, of_id, second = row[order], of_id[order], second[order]
        arrival, moment, who, what = arrival[order], moment[order], user[row], track[row]
        written = moment + users.skew_ms[who]

        # Columns over all rows, -1 for null, taken at `row`.
        def column(slot: ArrayLike, play: ArrayLike, act: ArrayLike = -1) -> IntArray:
            whole = np.empty(rows, np.int64)
            whole[:slots], whole[slots : slots + plays] = slot, play
            whole[slots + plays :] = act
            taken: IntArray = whole[row]
            return taken

        def clicked_only(values: IntArray) -> IntArray:
            return np.concatenate([np.full(own, -1), np.where(linked, values[self.click_slot], -1)])

        kind = event_type[row]
        is_slot = kind == 0
        own_session = self.play_session[:own]
        surface = self.session_surface[own_session]
        model_version = np.where(self.request_explores, -1, self.request_day // 7)
        request = column(self.slot_request, clicked_only(self.slot_request))
        has_context = np.isin(surface, _CONTEXT_SURFACES)
        context = np.where(
            has_context, surface * config.genres * 64 + self.session_context[own_session], -1
        )
        shuffle = self.session_shuffle[self.play_session]
        explores = column(self.request_explores[self.slot_request], -1)
        position = column(self.slot_position, clicked_only(self.slot_position))
        surface = column(
            0,
            np.concatenate([surface, np.zeros(plays - own, np.int64)]),
            np.where(now_playing, _NOW_PLAYING, _LIBRARY),
        )
        artist = world.artist[what]
        is_follow = kind == _FOLLOW
        variant = users.variant[who]
        propensity = np.zeros(rows)
        propensity[:slots] = self.propensity
        track_index = np.where(is_follow, -1, what)
        start = config.start_us
        events = pl.DataFrame(
            {
                "event_id": ids[_index(of_id)],
                "event_type": _pick(_TYPES, kind),
                "user_id": users.names[_index(who)],
                "track_id": _pick(world.track_ids, track_index),
                "artist_id": world.artist_ids[_index(artist)],
                "album_id": _pick(world.album_ids, np.where(is_follow, -1, world.album[what])),
                "event_time": start + written * 1000,
                "received_time": start + arrival * 1000,
                "played_ms": _number(column(-1, self.played)),
                "track_duration_ms": _number(np.where(is_follow, -1, world.duration_ms[what])),
                "reason_start": _pick(_STARTS, column(-1, self.play_start)),
                "reason_end": _pick(_ENDS, column(-1, self.play_end)),
                "skipped": _flag(column(-1, self.play_skip & flag)),
                "surface": _pick(_SURFACES, surface),
                "shelf": _pick([_SHELF], np.where(position >= 0, 0, -1)),
                "position": _number(position, np.int32),
                "request_id": _pick(request_ids, request),
                "candidate_set_size": _number(
                    np.where(is_slot, config.candidate_set_size, -1), np.int32
                ),
                "policy_id": _pick((POLICY_MODEL, POLICY_UNIFORM), explores),
                "model_version": _pick(
                    _versions(config.days), column(model_version[self.slot_request], -1)
                ),
                "propensity": _masked(propensity[row], is_slot),
                "is_exploration": _flag(explores),
                "experiment_id": _pick([EXPERIMENT_ID], np.minimum(variant, 0)),
                "variant": _pick(VARIANTS, variant),
                "context_uri": _pick(
                    _contexts(config.genres),
                    column(-1, np.concatenate([context, np.full(plays - own, -1)])),
                ),
                "shuffle": _flag(column(-1, shuffle)),
                "offline": pl.Series(is_offline[row]),
                "premium": pl.Series(users.premium[who]),
                "platform": _pick(PLATFORMS, users.platform[who]),
                "country": _pick([country for country, *_ in PLACES], users.place[who]),
                "client_id": _clients(users)[_index(who * 2 + second)],
            }
        ).with_columns(
            pl.col("event_time", "received_time").cast(EVENT_SCHEMA["event_time"]),
            time_quality=pl.lit("reported"),
            source_skip_level=pl.lit(None, pl.Int32),
            source_session_id=pl.lit(None, pl.String),
            source=pl.lit(SOURCE),
        )

        slot = kept[: np.searchsorted(kept, slots)]
        slot_request = self.slot_request[slot]
        clicks = self.click_slot[play_keep[own:]]
        shown = np.unique(slot_request)
        variants = users.variant[slot_user[slot]]
        truth = {
            "impressions": pl.DataFrame(
                {
                    "event_id": ids[_index(slot)],
                    "request_id": request_ids[_index(slot_request)],
                    "user_id": users.names[_index(slot_user[slot])],
                    "track_id": world.track_ids[_index(self.slot_track[slot])],
                    "position": self.slot_position[slot].astype(np.int32),
                    "variant": _pick(VARIANTS, variants),
                    "is_exploration": self.request_explores[slot_request],
                    "propensity": self.propensity[slot],
                    "relevance": self.relevance[slot],
                    "click_probability": self.click_probability[slot],
                    "clicked": self.clicked[slot],
                }
            ),
            "requests": pl.DataFrame(
                {
                    "request_id": request_ids[_index(shown)],
                    "user_id": users.names[_index(self.request_user[shown])],
                    "taste_day": np.full(len(shown), self.day, np.int32),
                    "policy_day": self.request_day[shown].astype(np.int32),
                    "cluster": self.cluster[self.request_user[shown]].astype(np.int32),
                    "variant": _pick(VARIANTS, users.variant[self.request_user[shown]]),
                    "is_exploration": self.request_explores[shown],
                }
            ),
            "clicks": pl.DataFrame(
                {
                    "impression_event_id": ids[_index(clicks)],
                    "play_event_id": ids[_index(slots + own + np.flatnonzero(play_keep[own:]))],
                }
            ),
            "duplicates": pl.DataFrame({"event_id": ids[_index(twice)]}),
            "near_duplicates": pl.DataFrame(
                {
                    "event_id": ids[_index(rows + near)],
                    "original_event_id": ids[_index(slots + near)],
                }
            ),
        }
        counts = {
            "events": len(row),
            "duplicates": len(twice),
            "near_duplicates": len(near),
            "offline": int(is_offline[row].sum()),
            "late_over_1_day": int((arrival - moment >= _MS_DAY).sum()),
            "skewed_clock": int((users.skew_ms[who] != 0).sum()),
            "bot": int(users.is_bot[who].sum()),
            "clicks": len(clicks),
            "requests": len(shown),
            "requests.exploration": int(self.request_explores[shown].sum()),
        }
        for code, count in enumerate(np.bincount(kind, minlength=len(_TYPES))):
            counts[f"events.{_TYPES[code]}"] = int(count)
        for code, name in [(-1, "none"), *enumerate(VARIANTS)]:
            arm = variants == code
            counts[f"impressions.{name}"] = int(arm.sum())
            counts[f"clicks.{name}"] = int(self.clicked[slot][arm].sum())
        return Simulated(events.select(list(EVENT_SCHEMA)), truth, counts)


def _events_per_session(config: SimulationConfig) -> float:
    """Mean events of a session, from the shares above (clicks 0.15 a slot, actions 0.14 a play)."""
    home = config.home_share * (1 - config.offline_share)
    plays = home * config.slate_size * 0.15 + 1 - home
    return SESSION_STEPS * (home * config.slate_size + plays * 1.14)


def _hex_ids(numbers: NDArray[np.uint64], config: SimulationConfig) -> pl.Series:
    """16 hex digits each: a bijection of the numbers (so ids stay unique), keyed by the seed."""
    with np.errstate(over="ignore"):
        z = numbers + np.uint64(config.seed) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    digits = _hex_table()[z.astype(">u8").view(">u2")]
    offsets = np.arange(len(numbers) + 1, dtype=np.int64) * 16
    text = pa.LargeStringArray.from_buffers(
        len(numbers), pa.py_buffer(offsets), pa.py_buffer(digits)
    )
    result = pl.from_arrow(text)
    assert isinstance(result, pl.Series)
    return result


@functools.cache
def _hex_table() -> NDArray[np.uint32]:
    """The four hex digits of each 16-bit number, as the 4 bytes of a uint32."""
    digit = np.frombuffer(b"0123456789abcdef", np.uint8)
    number = np.arange(1 << 16)
    text = np.stack([digit[number >> shift & 15] for shift in (12, 8, 4, 0)], axis=1)
    return np.ascontiguousarray(text).view(np.uint32).ravel()


@functools.cache
def _contexts(genres: int) -> pl.Series:
    """Context by surface x genres x 64 + number; only _CONTEXT_SURFACES are used."""
    return pl.Series(
        [
            f"playhead:{surface}:g{genre}-{number}"
            for surface in _SURFACES[: max(_CONTEXT_SURFACES) + 1]
            for genre in range(genres)
            for number in range(64)
        ]
    )


@functools.cache
def _versions(days: int) -> pl.Series:
    """The model is trained anew each week."""
    return pl.Series([f"week{week:03d}" for week in range(days // 7 + 1)])


def _clients(users: UserBlock) -> pl.Series:
    """client_id by 2 x user + (0: the usual device, 1: the second one)."""
    names = pl.DataFrame({"name": users.names})
    both = names.select(
        pl.concat_list(pl.concat_str("name", pl.lit("-1")), pl.concat_str("name", pl.lit("-2")))
    )
    return both.to_series().explode()


def _index(values: NDArray[Any]) -> pl.Series:
    return pl.Series(values.astype(np.uint32))


def _pick(options: Sequence[str] | pl.Series, codes: IntArray) -> pl.Series:
    """The option of each code; null where the code is -1."""
    if not isinstance(options, pl.Series):
        options = _series(tuple(options))
    if codes.size and codes.min() >= 0:
        return options[_index(codes)]
    # One more entry, null, which -1 means.
    with_null = pl.concat([options, _NULL])
    return with_null[_index(np.where(codes < 0, len(options), codes))]


@functools.cache
def _series(options: tuple[str, ...]) -> pl.Series:
    return pl.Series(options)


def _number(values: IntArray, dtype: type[np.signedinteger[Any]] = np.int64) -> pl.Series:
    """The values; null where negative."""
    return _masked(values.astype(dtype), values >= 0)


def _flag(values: IntArray) -> pl.Series:
    """True, False; null where negative."""
    return _masked(values > 0, values >= 0)


def _masked(values: NDArray[Any], known: NDArray[np.bool_]) -> pl.Series:
    """The values; null where not known."""
    # From buffers: Arrow's own conversion of NumPy arrays imports pandas first.
    valid = pa.py_buffer(np.packbits(known, bitorder="little"))
    if values.dtype == np.bool_:
        values = np.packbits(values, bitorder="little")
        dtype = pa.bool_()
    else:
        dtype = pa.from_numpy_dtype(values.dtype)
    data = pa.py_buffer(np.ascontiguousarray(values))
    series = pl.from_arrow(pa.Array.from_buffers(dtype, len(known), [valid, data]))
    assert isinstance(series, pl.Series)
    return series
