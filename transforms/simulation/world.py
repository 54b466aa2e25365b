"""The simulated world: its configuration, catalog, users and logging policy.

Everything here is a pure function of `SimulationConfig`: a worker rebuilds it from the config alone
and gets the same tables, however many workers there are. Random numbers come from Philox with key
(seed, stream) and counter (0, 0, day, block): each table, block and day has its own stream, so no
draw depends on the order of work. Numbers that decide much (vectors, policy probabilities) are
rounded to a binary grid, so that the last bit of a CPU's `exp` does not show in the data.

The model, with d = days since `start_date`:

* a genre is a unit vector c_g, a track i of genre g a unit vector v_i near c_g (tracks of one
  artist nearer to each other), with popularity w_i (Zipf over ranks) and quality q_i ~ N(0, 0.5);
* a user's taste is x_u(d) = cos(t_u d) a_u + sin(t_u d) b_u, a_u and b_u orthogonal unit vectors:
  it drifts by the angle t_u a day;
* affinity(u, i, d) = <x_u(d), v_i>, and
  relevance(u, i, d) = 0.8 sigmoid(-1.9 + 2.4 affinity + 0.5 q_i);
* a user's cluster on day d is the genre with the largest <x_u(d), c_g>.

Logging policy of Home. For each (day, cluster) a retrieval step picks slate_size x
candidate_set_size released tracks and deals them at random into one candidate list a slot; lists of
a slate are disjoint, so a slate never repeats a track and the slots are independent draws. Slot s
draws from its list of K candidates
  p(i) = (1 - floor) softmax(score_i / temperature) + floor / K,  score_i = <c_cluster, v_i> + q_i/2
rounded to multiples of 2^-24 that sum to exactly 1, and drawn with integers: the recorded
propensity is exact. A request of the exploration arm (its own policy_id) draws uniformly, with
propensity 1 / K. So mean(1 / propensity) is K for either arm, and exactly K for exploration.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools

import numpy as np
import polars as pl
import pydantic
from numpy.typing import NDArray

from schemas import CATALOG, forms
from transforms.config import StrictModel

# Users generated together: the unit of work and of random streams. Part of the data's identity:
# changing it changes every log.
BLOCK_USERS = 1024

TASTE_DIMS = 8
FAVOURITES = 20
PROPENSITY_GRID = 1 << 24
RELEVANCE_MAX = 0.8  # times (1 + the largest lift, 0.25) is at most 1
SESSION_STEPS = 10.0  # mean steps (plays or Home visits) of a session

POLICY_MODEL = "home-softmax-v1"
POLICY_UNIFORM = "home-uniform-v1"
EXPERIMENT_ID = "home-ranking-1"
VARIANTS = ("control", "treatment")
PLATFORMS = ("ios", "android", "desktop", "web")

# Country, zone, share of users.
PLACES = (
    ("US", "America/New_York", 0.18),
    ("US", "America/Los_Angeles", 0.12),
    ("BR", "America/Sao_Paulo", 0.12),
    ("GB", "Europe/London", 0.10),
    ("DE", "Europe/Berlin", 0.12),
    ("SE", "Europe/Stockholm", 0.06),
    ("IN", "Asia/Kolkata", 0.14),
    ("JP", "Asia/Tokyo", 0.08),
    ("AU", "Australia/Sydney", 0.05),
    ("KE", "Africa/Nairobi", 0.03),
)

# Share of the catalog's future: tracks not yet released at the start appear over this many days.
RELEASE_HORIZON_DAYS = 90

_MS_DAY = 86_400_000
_GENRE_NAMES = (
    "pop", "rock", "hiphop", "electronic", "jazz", "classical", "metal", "folk", "soul", "latin",
    "country", "ambient",
)  # fmt: skip

# Streams of random numbers.
_CATALOG, _USERS, _POLICY, STREAM_LISTENING, STREAM_BREAKAGE = range(1, 6)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def _share(default: float, doc: str, high: float = 1.0) -> float:
    field: float = pydantic.Field(default, ge=0.0, le=high, description=doc)
    return field


class SimulationConfig(StrictModel):
    """What to simulate. Shares are fractions, 0 to 1; times and days are UTC.

    The log depends on these values only. Raising `users` adds users and leaves the events of the
    others as they are.
    """

    seed: int = pydantic.Field(
        1, ge=0, lt=1 << 63, description="Seed of every random number, 0 to 2^63 - 1."
    )
    users: int = pydantic.Field(1_000, ge=1, le=1 << 32, description="Listeners, bots included.")
    tracks: int = pydantic.Field(
        20_000, ge=64, le=20_000_000, description="Tracks in the catalog, later releases included."
    )
    artists: int = pydantic.Field(2_000, ge=1, le=5_000_000, description="Artists, at most tracks.")
    genres: int = pydantic.Field(12, ge=2, le=64, description="Genres; also clusters of listeners.")
    start_date: datetime.date = pydantic.Field(
        datetime.date(2026, 1, 5), description="First UTC day of the log."
    )
    days: int = pydantic.Field(7, ge=1, le=4_000, description="UTC days of event times.")
    events_per_user_day: float = pydantic.Field(
        40.0, ge=1.0, le=500.0, description="Mean events of a listener and day, all types; about."
    )
    home_share: float = _share(0.22, "Chance that a step of a session is a visit of Home.")
    drift_degrees: float = pydantic.Field(
        1.5, ge=0.0, le=45.0, description="Mean drift of a taste, degrees a day."
    )
    premium_share: float = _share(0.45, "Users with a paid plan.")
    new_release_share: float = _share(
        0.1, "Tracks released after start_date, spread over 90 days.", high=0.9
    )
    slate_size: int = pydantic.Field(8, ge=1, le=50, description="Slots of Home's shelf.")
    candidate_set_size: int = pydantic.Field(
        40, ge=2, le=1_000, description="Candidates K the policy chooses from, for one slot."
    )
    temperature: float = pydantic.Field(
        0.25, gt=0.0, le=100.0, description="Temperature of the policy's softmax."
    )
    policy_floor: float = pydantic.Field(
        0.1, gt=0.0, le=1.0, description="Uniform part of the model's policy; weights <= K / floor."
    )
    exploration_share: float = _share(0.1, "Requests answered by the uniform policy.")
    position_exponent: float = pydantic.Field(
        0.6, ge=0.0, le=5.0, description="Examination of slot s is (s + 1) ^ -exponent."
    )
    linked_play_share: float = _share(
        0.9, "Plays from Home that carry the request_id, position and shelf of their impression."
    )
    experiment_share: float = _share(1.0, "Users in the experiment.")
    treatment_share: float = _share(0.5, "Of those, users in the treatment arm.")
    experiment_lift: float = pydantic.Field(
        0.1, ge=-0.9, le=0.25,
        description="True effect: treatment multiplies the click probability by 1 + lift.",
    )  # fmt: skip
    offline_share: float = _share(0.04, "Sessions on a device without a network.")
    offline_max_days: float = pydantic.Field(
        5.0, gt=0.0, le=30.0, description="Longest wait of an offline session for its sync, days."
    )
    duplicate_share: float = _share(0.005, "Records sent again with the same event_id.", high=0.5)
    near_duplicate_share: float = _share(
        0.003, "Plays reported by a second client, 1 to 8 s later, under another event_id.", 0.5
    )
    skewed_user_share: float = _share(0.02, "Users whose clock is wrong.")
    skew_max_minutes: float = pydantic.Field(
        120.0, gt=0.0, le=10_000.0, description="Largest clock error, minutes, fast or slow."
    )
    bot_share: float = _share(0.0005, "Users that are bots.")
    bot_plays_per_day: int = pydantic.Field(
        1_500, ge=1, le=2_400, description="Plays of a bot a day."
    )
    broken_share: float = _share(
        0.0, "Broken records ADDED beside the good ones, as a fraction of those.", 0.5
    )

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> SimulationConfig:
        if self.artists > self.tracks:
            raise ValueError(f"artists ({self.artists}) must be at most tracks ({self.tracks})")
        if not 1990 <= self.start_date.year <= 2100:
            raise ValueError("start_date must lie in the years 1990 to 2100")
        released = self.tracks - int(self.tracks * self.new_release_share)
        if self.slate_size * self.candidate_set_size > released:
            raise ValueError(
                f"slate_size x candidate_set_size ({self.slate_size} x {self.candidate_set_size}) "
                f"must be at most the tracks released at the start ({released})"
            )
        if released < self.genres:
            raise ValueError(f"genres ({self.genres}) must be at most {released}")
        return self

    @property
    def blocks(self) -> int:
        """Number of user blocks."""
        return -(-self.users // BLOCK_USERS)

    @property
    def start_us(self) -> int:
        """start_date 00:00 UTC in microseconds since 1970."""
        return (self.start_date - datetime.date(1970, 1, 1)).days * _MS_DAY * 1000


@dataclasses.dataclass(frozen=True)
class UserBlock:
    """The users of one block, always BLOCK_USERS of them; `config.users` may cut the last block.

    Attributes (arrays have one entry a user):
      first: number of the first user.
      names: user_id.
      place: index into PLACES.
      platform: index into PLATFORMS.
      premium, is_bot: flags.
      variant: -1 outside the experiment, else index into VARIANTS.
      activity: multiplier of the session rate, mean 1.
      skew_ms: clock error; what the client writes is the true time plus this.
      taste, drift: unit vectors a_u, b_u; angle: radians a day.
      favourites: track numbers, released before the start, dearest first.
    """

    first: int
    names: pl.Series
    place: IntArray
    platform: IntArray
    premium: BoolArray
    is_bot: BoolArray
    variant: IntArray
    activity: FloatArray
    skew_ms: IntArray
    taste: FloatArray
    drift: FloatArray
    angle: FloatArray
    favourites: IntArray

    def taste_on(self, day: int) -> FloatArray:
        """x_u(day), one row a user."""
        turn = (self.angle * day)[:, None]
        result: FloatArray = np.cos(turn) * self.taste + np.sin(turn) * self.drift
        return result


@dataclasses.dataclass(frozen=True)
class DayPolicy:
    """The model policy of one UTC day.

    Attributes:
      items: track number by [cluster, slot, candidate].
      weight: probability in units of 1 / PROPENSITY_GRID, same shape; each list sums to the grid.
      cumulative: flat, list after list, of cumulative weight plus list number x grid.
    """

    items: IntArray
    weight: IntArray
    cumulative: IntArray

    def draw(self, cluster: IntArray, slot: IntArray, ticket: IntArray) -> IntArray:
        """Candidate numbers for tickets uniform on [0, PROPENSITY_GRID)."""
        _, slots, size = self.items.shape
        row = cluster * slots + slot
        found = np.searchsorted(self.cumulative, row * PROPENSITY_GRID + ticket, side="right")
        result: IntArray = found - row * size
        return result


class World:
    """Catalog, users and policy of one configuration; see the module docstring.

    Attributes (arrays have one entry a track):
      genre, artist, album: numbers. duration_ms. quality. popularity.
      release_ms: milliseconds after start_date 00:00 UTC, negative for older tracks.
      vectors: v_i. centroids: c_g, one row a genre.
    """

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config
        rng = self.rng(_CATALOG)
        tracks, artists, genres = config.tracks, config.artists, config.genres
        self.centroids = _unit(rng.standard_normal((genres, TASTE_DIMS)))
        # Artists of low number have more tracks; every genre has at least one track.
        artist_genre = rng.integers(0, genres, artists)
        artist_noise = rng.standard_normal((artists, TASTE_DIMS))
        self.artist: IntArray = (artists * rng.random(tracks) ** 2).astype(np.int64)
        self.genre: IntArray = artist_genre[self.artist]
        self.genre[:genres] = np.arange(genres)
        self.album: IntArray = self.artist * 4 + rng.integers(0, 4, tracks)
        noise = 0.25 * artist_noise[self.artist] + 0.2 * rng.standard_normal((tracks, TASTE_DIMS))
        self.vectors = _unit(self.centroids[self.genre] + noise)
        self.quality: FloatArray = np.round(0.5 * rng.standard_normal(tracks), 4)
        rank = rng.permutation(tracks)
        self.popularity: FloatArray = np.round(1e6 * (rank + 10.0) ** -0.8, 3)
        self.duration_ms: IntArray = np.clip(
            210_000 * np.exp(0.35 * rng.standard_normal(tracks)), 45_000, 900_000
        ).astype(np.int64)
        old = -(1000.0 * _MS_DAY * rng.exponential(1.0, tracks)).astype(np.int64) - 1
        coming = (rng.random(tracks) * RELEASE_HORIZON_DAYS * 86_400).astype(np.int64) * 1000
        is_coming = np.zeros(tracks, np.bool_)
        # Not among the first `genres` tracks, so that each genre has something to play at once.
        fresh = int(tracks * config.new_release_share)
        is_coming[genres + rng.permutation(tracks - genres)[:fresh]] = True
        self.release_ms: IntArray = np.where(is_coming, coming, old // 1000 * 1000)

        # Tracks by genre, then release: what a genre offers at a time is a prefix of its run.
        order = np.lexsort((self.release_ms, self.genre))
        self._by_release: IntArray = order.astype(np.int64)
        self._genre_start = np.searchsorted(self.genre[order], np.arange(genres + 1))
        # One sorted key for (genre, release): genre number in steps of a span above any release.
        self._span = 1 << 45
        self._release_key = self.genre[order] * self._span + self.release_ms[order]
        self._cumulative = np.cumsum(self.popularity[order])
        self._by_popularity = np.argsort(rank, kind="stable")

        self.track_ids = _names("t", tracks, 7)
        self.artist_ids = _names("a", artists, 6)
        self.album_ids = _names("al", artists * 4, 7)

    def rng(self, stream: int, day: int = 0, block: int = 0) -> np.random.Generator:
        """The random numbers of one (stream, day, block)."""
        key = np.array([self.config.seed, stream], np.uint64)
        counter = np.array([0, 0, day + 2, block], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def catalog(self) -> pl.DataFrame:
        """The catalog, columns and types of `schemas.CATALOG`, by track number."""
        start = self.config.start_us
        names = [
            _GENRE_NAMES[g] if g < len(_GENRE_NAMES) else f"genre{g}"
            for g in range(self.config.genres)
        ]
        number = pl.Series(np.arange(self.config.tracks))
        artist = _index(self.artist)
        frame = pl.DataFrame(
            {
                "track_id": self.track_ids,
                "track_name": pl.select(pl.format("Track {}", number)).to_series(),
                "artist_id": self.artist_ids.gather(artist),
                "artist_name": pl.select(pl.format("Artist {}", pl.Series(artist))).to_series(),
                "album_id": self.album_ids.gather(_index(self.album)),
                "genre": pl.Series(names).gather(_index(self.genre)),
                "track_duration_ms": self.duration_ms,
                "release_time": start + self.release_ms * 1000,
            }
        )
        return frame.cast(pl.Schema(forms.polars_schema(CATALOG)))

    @functools.lru_cache(maxsize=128)  # noqa: B019 - see `policy`; about 50 MB
    def user_block(self, block: int) -> UserBlock:
        """The users of a block; the same for any `config.users`."""
        config, n = self.config, BLOCK_USERS
        rng = self.rng(_USERS, block=block)
        first = block * n
        weights = np.cumsum([share for *_, share in PLACES])
        place = np.searchsorted(weights / weights[-1], rng.random(n), side="right")
        platform = np.searchsorted([0.35, 0.75, 0.92], rng.random(n), side="right")
        premium = rng.random(n) < config.premium_share
        is_bot = rng.random(n) < config.bot_share
        variant = np.where(rng.random(n) < config.treatment_share, 1, 0)
        variant = np.where(rng.random(n) < config.experiment_share, variant, -1)
        activity = np.minimum(np.exp(0.8 * rng.standard_normal(n) - 0.32), 6.0)
        skew = np.exp(rng.random(n) * np.log(config.skew_max_minutes * 60_000 / 1000) + 0.0) * 1000
        skew = np.where(rng.random(n) < 0.5, skew, -skew)
        skew = np.where(rng.random(n) < config.skewed_user_share, skew, 0.0)
        home = rng.integers(0, config.genres, n)
        taste = _unit(self.centroids[home] + 0.35 * rng.standard_normal((n, TASTE_DIMS)))
        other = rng.standard_normal((n, TASTE_DIMS))
        other = other - (other * taste).sum(axis=1, keepdims=True) * taste
        angle = np.radians(config.drift_degrees) * rng.exponential(1.0, n)
        favourites = self.draw_tracks(
            np.repeat(home, FAVOURITES), np.zeros(n * FAVOURITES, np.int64),
            rng.random(n * FAVOURITES),
        ).reshape(n, FAVOURITES)  # fmt: skip
        return UserBlock(
            first=first,
            names=_names("u", n, 8, first),
            place=place.astype(np.int64),
            platform=platform.astype(np.int64),
            premium=premium,
            is_bot=is_bot,
            variant=variant,
            activity=activity,
            skew_ms=np.round(skew).astype(np.int64),
            taste=taste,
            drift=_unit(other),
            angle=np.round(angle, 8),
            favourites=favourites,
        )

    def draw_tracks(self, genre: IntArray, at_ms: IntArray, uniform: FloatArray) -> IntArray:
        """Tracks of the genres, released by `at_ms`, in proportion to popularity.

        Exact by inversion: a genre's tracks lie in order of release, so what exists at a time is a
        prefix of their cumulative popularity. Every genre has a track older than the start.
        """
        begin = self._genre_start[genre]
        end = np.searchsorted(self._release_key, genre * self._span + at_ms, side="right")
        base = np.where(begin > 0, self._cumulative[begin - 1], 0.0)
        target = base + uniform * (self._cumulative[end - 1] - base)
        found = np.searchsorted(self._cumulative, target, side="right")
        result: IntArray = self._by_release[np.clip(found, begin, end - 1)]
        return result

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a World lives as long as its worker
    def policy(self, day: int) -> DayPolicy:
        """The model policy of UTC day `day` (0-based); candidates were released before that day."""
        config = self.config
        slots, size, genres = config.slate_size, config.candidate_set_size, config.genres
        need = slots * size
        by_popularity = self._by_popularity
        released = by_popularity[self.release_ms[by_popularity] <= day * _MS_DAY]
        pool_size = min(len(released), 8 * need)
        head = pool_size // 4  # the hits, and a random sample of the rest
        items = np.empty((genres, slots, size), np.int64)
        for cluster in range(genres):
            rng = self.rng(_POLICY, day, cluster)
            tail = rng.choice(len(released) - head, pool_size - head, replace=False, shuffle=False)
            pool = released[np.concatenate([np.arange(head), head + np.sort(tail)])]
            appeal = 4.0 * (self.vectors[pool] @ self.centroids[cluster])
            key = np.round(appeal + rng.gumbel(size=pool_size), 9)
            best = pool[np.argsort(-key, kind="stable")[:need]]
            items[cluster] = rng.permutation(best).reshape(slots, size)
        score = np.einsum("cskd,cd->csk", self.vectors[items], self.centroids)
        score += 0.5 * self.quality[items]
        score -= score.max(axis=2, keepdims=True)
        soft = np.exp(score / config.temperature)
        soft /= soft.sum(axis=2, keepdims=True)
        p = (1 - config.policy_floor) * soft + config.policy_floor / size
        weight = np.maximum(np.floor(p * PROPENSITY_GRID), 1).astype(np.int64)
        # What rounding left over goes to the likeliest candidate.
        top = weight.argmax(axis=2)[..., None]
        rest = PROPENSITY_GRID - weight.sum(axis=2, keepdims=True)
        np.put_along_axis(weight, top, np.take_along_axis(weight, top, 2) + rest, 2)
        flat = weight.reshape(-1, size).cumsum(axis=1)
        flat = flat + np.arange(len(flat))[:, None] * PROPENSITY_GRID
        return DayPolicy(items, weight, flat.ravel())

    def policy_table(self, day: int) -> pl.DataFrame:
        """The model policy of a day as a truth table.

        Returns:
          policy_day Int32 (0-based UTC day), cluster Int32, position Int32, track_id String,
          propensity Float64; the propensities of one (day, cluster, position) sum to exactly 1.
          The exploration arm draws from the same lists with 1 / candidate_set_size.
        """
        policy = self.policy(day)
        cluster, slot, _ = np.indices(policy.items.shape)
        return pl.DataFrame(
            {
                "policy_day": pl.Series(np.full(cluster.size, day, np.int32)),
                "cluster": pl.Series(cluster.ravel().astype(np.int32)),
                "position": pl.Series(slot.ravel().astype(np.int32)),
                "track_id": self.track_ids.gather(_index(policy.items.ravel())),
                "propensity": policy.weight.ravel() / PROPENSITY_GRID,
            }
        )

    def tracks_table(self) -> pl.DataFrame:
        """The truth about tracks: with the users' vectors, the relevance of any track to anyone.

        Returns:
          track_id String, quality Float64, popularity Float64, vector List(Float64) (v_i).
        """
        return pl.DataFrame(
            {
                "track_id": self.track_ids,
                "quality": self.quality,
                "popularity": self.popularity,
                "vector": pl.Series(self.vectors).cast(pl.List(pl.Float64)),
            }
        )

    def affinity(self, taste: FloatArray, track: IntArray) -> FloatArray:
        """<x, v_i> row by row."""
        result: FloatArray = np.einsum("nd,nd->n", taste, self.vectors[track])
        return result

    def relevance(self, affinity: FloatArray, track: IntArray) -> FloatArray:
        """Chance in [0, 0.8] that a listener who examines the track on Home clicks it."""
        result: FloatArray = RELEVANCE_MAX / (
            1.0 + np.exp(1.9 - 2.4 * affinity - 0.5 * self.quality[track])
        )
        return result

    def examination(self) -> FloatArray:
        """Chance that a slot is looked at, by position."""
        slots = np.arange(1, self.config.slate_size + 1, dtype=np.float64)
        result: FloatArray = slots**-self.config.position_exponent
        return result

    def lift(self, variant: IntArray) -> FloatArray:
        """The experiment's multiplier of the click probability."""
        result: FloatArray = np.where(variant == 1, 1.0 + self.config.experiment_lift, 1.0)
        return result

    def utc_offset_ms(self, day: int) -> IntArray:
        """Offset of local time from UTC at noon of local day `day`, by place.

        From the zone data inside Polars, not the machine's. On a day of a clock change the hours
        before it are off by one; nobody's rhythm is that exact.
        """
        noon = datetime.datetime.combine(
            self.config.start_date, datetime.time(12)
        ) + datetime.timedelta(days=day)
        naive = pl.Series([noon], dtype=pl.Datetime("ms"))
        utc = [naive.dt.replace_time_zone(zone).dt.epoch("ms").item() for _, zone, _ in PLACES]
        return naive.dt.epoch("ms").item() - np.array(utc, np.int64)


def _unit(rows: FloatArray) -> FloatArray:
    """Rows of length 1, rounded to multiples of 2^-20."""
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    result: FloatArray = np.round(rows / length * (1 << 20)) / (1 << 20)
    return result


def _index(values: IntArray) -> pl.Series:
    return pl.Series(values.astype(np.uint32))


def _names(prefix: str, count: int, width: int, first: int = 0) -> pl.Series:
    number = pl.Series(np.arange(first, first + count)).cast(pl.String)
    return pl.select(pl.lit(prefix) + number.str.zfill(width)).to_series()
