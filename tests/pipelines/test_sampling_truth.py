"""Sampling and exposure against what is true of a simulated world, through the whole job.

What a row's draw could have been is told here from the raw log, in NumPy, without the project's
kernels: which tracks existed at midnight, how often each had been played, which the listener
had had. Every test is of one world with a fixed seed, so that it passes always or never.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import pathlib
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests import jobs
from transforms.simulation.world import SimulationConfig, World

FIRST = datetime.date(2026, 1, 5)
DAYS, BUILT_FROM, POOL_DAYS, EXCLUDE_DAYS = 5, 2, 2, 1
DAY_US = 86_400_000_000
STREAM_MS = 30_000
# Nothing that makes the log differ from what happened: what is tested is not cleaning.
WORLD = {
    "seed": 23, "users": 600, "tracks": 500, "artists": 60, "days": DAYS,
    "events_per_user_day": 60.0, "slate_size": 4, "candidate_set_size": 10, "offline_share": 0.0,
    "duplicate_share": 0.0, "near_duplicate_share": 0.0, "skewed_user_share": 0.0,
    "bot_share": 0.0, "experiment_lift": 0.25, "exploration_share": 0.2,
    "start_date": FIRST.isoformat(),
}  # fmt: skip
SHARED = "labels: {horizon_hours: 2, lateness_days: 1}\noutput: {shards: 1}\n"
SPECS = {
    "impressions": "kind: ranking\nexamples: {rows: impression}\n" + SHARED,
    "plays": "kind: ranking\nexamples: {rows: play}\n" + SHARED,
    "retrieval": f"""\
kind: retrieval
negatives:
  popularity_days: {POOL_DAYS}
  exclude_days: {EXCLUDE_DAYS}
  sources:
    - {{type: uniform, count: 4}}
    - {{type: popularity, count: 4, alpha: 0.75}}
    - {{type: mixed, count: 4, in_batch_share: 0.5}}
    - {{type: exposed, count: 2}}
    - {{type: skipped, count: 2}}
"""
    + SHARED,
    # All weight on what is popular: without the correction, what is popular is what is negative.
    "popular": f"""\
kind: retrieval
surfaces: [playlist, album, artist, radio, library, search, queue, now_playing]
negatives:
  popularity_days: {POOL_DAYS}
  exclude_days: {EXCLUDE_DAYS}
  sources: [{{type: popularity, count: 10, alpha: 1.0}}]
"""
    + SHARED,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Made:
    """A simulated world, its raw events and truth, and the datasets built from them."""

    world: World
    events: pl.DataFrame
    truth: pathlib.Path
    datasets: dict[str, pl.DataFrame]

    def truth_of(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.truth / f"{name}-*.parquet")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("sampling")
    (folder / "world.yaml").write_text(json.dumps(WORLD))
    jobs.ok("simulate", "--output", folder / "sim", "--config", folder / "world.yaml")
    received = sorted((folder / "sim" / "raw" / "parquet").iterdir())
    for number in range(DAYS + 1):
        day = FIRST + datetime.timedelta(days=number)
        files = folder / "sim" / "raw" / "parquet" / f"received={day}"
        if files not in received:
            jobs.write(files / "none.parquet", [])
        jobs.ingest(files / "*", folder / "store", "--date", day, "--buckets", 2)
    start, end = (FIRST + datetime.timedelta(days=n) for n in (BUILT_FROM, DAYS - 1))
    datasets = {}
    for name, text in SPECS.items():
        (folder / f"{name}.yaml").write_text(text)
        spec = folder / f"{name}.yaml"
        built = jobs.build(folder / "store", spec, start, end, folder / name)
        datasets[name] = jobs.rows(folder / name, built, "train")
    events = pl.concat(pl.read_parquet(path / "*.parquet") for path in received)
    world = World(SimulationConfig.model_validate(WORLD))
    return Made(world, events, folder / "sim" / "truth", datasets)


def us(times: pl.Series) -> np.ndarray:
    return times.dt.epoch("us").to_numpy()


# --- what each row's negatives could have been ----------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Eligible:
    """Of each row of retrieval and each track: whether it can be drawn, and the pool's counts."""

    tracks: list[str]
    allowed: np.ndarray
    plays: np.ndarray
    in_pool: np.ndarray


@pytest.fixture(scope="module")
def eligible(made: Made) -> Eligible:
    rows, events = made.datasets["retrieval"], made.events
    tracks = sorted(set(events["track_id"].drop_nulls()))
    code = {track: number for number, track in enumerate(tracks)}
    start_us = made.world.config.start_us
    row_us = us(rows["event_time"])
    row_day = (row_us - start_us) // DAY_US
    dated = events.with_columns(
        day=(pl.col("event_time").dt.epoch("us") - start_us) // DAY_US,
        known=(pl.col("received_time").dt.epoch("us") - start_us) // DAY_US,
    )
    plays, pool = np.zeros((2, DAYS, len(tracks)), dtype=np.int64)
    for day in range(DAYS):
        seen = dated.filter(
            (pl.col("day") >= day - POOL_DAYS) & (pl.col("day") < day) & (pl.col("known") < day)
        )
        for kind, track in seen.select("event_type", "track_id").iter_rows():
            if track is not None:
                pool[day, code[track]] = 1
                plays[day, code[track]] += kind == "play"
    allowed = pool[row_day].astype(bool)
    had = events.filter((pl.col("event_type") == "play") & (pl.col("played_ms") >= STREAM_MS))
    by_user: dict[str, list[tuple[int, int]]] = {}
    for user, track, at in zip(had["user_id"], had["track_id"], us(had["event_time"]), strict=True):
        by_user.setdefault(user, []).append((at, code[track]))
    for number, (user, track, at) in enumerate(
        zip(rows["user_id"], rows["track_id"], row_us, strict=True)
    ):
        allowed[number, code[track]] = False
        for when, other in by_user[user]:
            if at - EXCLUDE_DAYS * DAY_US <= when < at:
                allowed[number, other] = False
    return Eligible(tracks, allowed, plays[row_day], pool[row_day].astype(bool))


def drawn_of(rows: pl.DataFrame, kind: str) -> pl.DataFrame:
    """row (number), track, log_q, weight of the negatives of a type."""
    lists = ["neg_track_ids", "neg_types", "neg_log_q", "neg_weights"]
    return (
        rows.select(*lists, "user_id", "session_id", "event_time")
        .with_row_index("row")
        .explode(lists)
        .filter(pl.col("neg_types") == kind)
    )


def weights_of(kind: str, eligible: Eligible) -> np.ndarray:
    plays = eligible.plays.astype(float)
    if kind == "uniform":
        return eligible.allowed.astype(float)
    if kind == "popularity":
        return eligible.allowed * plays**0.75
    share, items = plays.sum(axis=1, keepdims=True), eligible.in_pool.sum(axis=1, keepdims=True)
    return eligible.allowed * (0.5 * plays / share + 0.5 / items)


def chi_square_z(found: np.ndarray, expected: np.ndarray) -> float:
    """Wilson and Hilferty's normal score of a chi-square sum; cells below 10 are put together."""
    rare = expected < 10
    found = np.append(found[~rare], found[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    assert found[~kept].sum() == 0
    total = ((found[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    free = kept.sum() - 1
    return ((total / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))


@pytest.mark.parametrize("kind", ["uniform", "popularity", "mixed"])
def test_catalog_negatives_are_drawn_as_their_log_q_says(
    made: Made, eligible: Eligible, kind: str
) -> None:
    """Each log q is the truth of its row, and the tracks come as often as those say."""
    weights = weights_of(kind, eligible)
    chances = weights / weights.sum(axis=1, keepdims=True)
    drawn = drawn_of(made.datasets["retrieval"], kind)
    code = {track: number for number, track in enumerate(eligible.tracks)}
    track = np.array([code[t] for t in drawn["neg_track_ids"]])
    row = drawn["row"].to_numpy()
    assert drawn.height == 4 * len(chances) > 100_000
    off = np.abs(np.exp(drawn["neg_log_q"].to_numpy()) / chances[row, track] - 1)
    assert off.max() < (1e-3 if kind == "popularity" else 1e-9)  # weights in units of 2^-16
    assert (drawn["neg_weights"] == 1).all()
    found = np.bincount(track, minlength=len(eligible.tracks))
    assert abs(chi_square_z(found, 4 * chances.sum(axis=0))) < 4
    # The test can refuse: popularity and uniform are not each other.
    other = weights_of("uniform" if kind == "popularity" else "popularity", eligible)
    wrong = 4 * (other / other.sum(axis=1, keepdims=True)).sum(axis=0)
    assert chi_square_z(found, wrong) > 20


def candidates_of(made: Made, kind: str) -> pl.DataFrame:
    """row, track and rank (0: the one met last) of what the session offered before each row."""
    name = "impressions" if kind == "exposed" else "plays"
    met = made.datasets[name].filter(
        ~pl.col("label_played") if kind == "exposed" else pl.col("label_skip_2")
    )
    rows = made.datasets["retrieval"].with_row_index("row")
    pairs = rows.select("row", "user_id", "session_id", "event_time", "track_id").join(
        met.select("user_id", "session_id", met_at="event_time", met_track="track_id"),
        on=["user_id", "session_id"],
    )
    had = made.events.filter((pl.col("event_type") == "play") & (pl.col("played_ms") >= STREAM_MS))
    had = had.select("user_id", had_at="event_time", met_track="track_id")
    pairs = pairs.filter(
        (pl.col("met_at") < pl.col("event_time"))
        & (pl.col("met_track") != pl.col("track_id"))
        & (pl.col("met_at") >= pl.col("event_time") - pl.duration(hours=24))
    )
    known = pairs.join(had, on=["user_id", "met_track"]).filter(
        (pl.col("had_at") < pl.col("event_time"))
        & (pl.col("had_at") >= pl.col("event_time") - pl.duration(days=EXCLUDE_DAYS))
    )
    found = pairs.join(known, on=["row", "met_track"], how="anti")
    return (
        found.group_by("row", "met_track")
        .agg(pl.col("met_at").max())
        .sort("row", "met_at", "met_track")
        .with_columns(rank=pl.int_range(pl.len()).over("row"), size=pl.len().over("row"))
    )


@pytest.mark.parametrize("kind", ["exposed", "skipped"])
def test_negatives_of_the_session_are_any_of_its_candidates(made: Made, kind: str) -> None:
    """Those that are kept are candidates, log q and weight say of how many, and each candidate is
    kept as often as any other."""
    drawn = drawn_of(made.datasets["retrieval"], kind)
    candidates = candidates_of(made, kind)
    joined = drawn.join(
        candidates, left_on=["row", "neg_track_ids"], right_on=["row", "met_track"], how="left"
    )
    # A row at the built range's start may have met tracks the day before.
    first_us = made.world.config.start_us + (BUILT_FROM + 1) * DAY_US
    joined = joined.filter(pl.col("event_time").dt.epoch("us") >= first_us)
    assert joined.height > 5_000
    assert joined["size"].null_count() == 0
    size = joined["size"].to_numpy()
    assert np.allclose(joined["neg_log_q"], -np.log(size), rtol=1e-12)
    kept = joined.select(pl.len().over("row")).to_series().to_numpy()
    assert (kept == np.minimum(2, size)).all()
    assert np.allclose(joined["neg_weights"], size / kept)
    for width in (3, 4, 5):
        ranks = joined.filter(pl.col("size") == width)["rank"].to_numpy()
        expected = np.full(width, len(ranks) / width)
        assert len(ranks) > 100
        # Two of a row are drawn without replacement: the sum of squares is smaller than chi-square.
        assert ((np.bincount(ranks, minlength=width) - expected) ** 2 / expected).sum() < 20


# --- training on them -----------------------------------------------------------------------------


def trained_biases(rows: pl.DataFrame, is_corrected: bool, steps: int = 400) -> dict[str, float]:
    """A bias for each track by sampled softmax over each positive and its negatives (Adam)."""
    ids = np.column_stack([rows["track_id"].to_numpy(), np.array(rows["neg_track_ids"].to_list())])
    names, code = np.unique(ids, return_inverse=True)
    code = code.reshape(ids.shape)
    log_q = np.column_stack(
        [rows["positive_log_q"].to_numpy(), np.array(rows["neg_log_q"].to_list())]
    )
    bias, moment, square = np.zeros((3, len(names)))
    for step in range(1, steps + 1):
        score = bias[code] - (log_q if is_corrected else 0.0)
        share = np.exp(score - score.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        share[:, 0] -= 1.0
        slope = np.bincount(code.ravel(), share.ravel(), len(names)) / len(code)
        moment, square = 0.9 * moment + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        scale = np.sqrt(square / (1 - 0.99**step)) + 1e-9
        bias -= 0.05 * moment / (1 - 0.9**step) / scale
    return dict(zip(names.tolist(), bias.tolist(), strict=True))


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(each)) for each in (left, right)]
    return float(np.corrcoef(*ranks)[0, 1])


def test_log_q_correction_recovers_the_true_ranking(made: Made) -> None:
    """The world draws what people choose to play by a track's popularity within its genre: that is
    the ranking to recover. Negatives in proportion to plays take just that away, unless corrected.
    """
    rows = made.datasets["popular"].filter(
        (pl.col("neg_track_ids").list.len() == 10) & pl.col("positive_log_q").is_not_null()
    )
    assert rows.height > 20_000
    world = made.world
    named = zip(world.track_ids, world.genre, world.popularity, strict=True)
    truth = {track: (genre, popularity) for track, genre, popularity in named}
    often = rows["track_id"].value_counts().filter(pl.col("count") >= 30)["track_id"].to_list()
    found = {}
    for is_corrected in (True, False):
        bias = trained_biases(rows, is_corrected)
        within = []
        for genre in range(world.config.genres):
            of_genre = [track for track in often if truth[track][0] == genre]
            if len(of_genre) >= 8:
                learned = np.array([bias[track] for track in of_genre])
                true = np.array([truth[track][1] for track in of_genre])
                within.append(spearman(learned, true))
        assert len(within) >= 5
        found[is_corrected] = float(np.mean(within))
    assert found[True] > 0.9
    assert found[False] < 0.6


# --- exposure -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(made: Made) -> pl.DataFrame:
    """Home's impressions as rows of the dataset, with what is true of their request."""
    requests = made.truth_of("requests").select("request_id", "taste_day", "policy_day", "cluster")
    truth = made.truth_of("impressions").select("event_id", "click_probability")
    rows = made.datasets["impressions"].join(truth, on="event_id", validate="1:1")
    return rows.join(requests, on="request_id", validate="m:1")


def greedy_policies(made: Made, shown: pl.DataFrame) -> dict[str, tuple[Any, ...]]:
    """Of each policy to judge: its probability of the track that was shown, and its true value.

    The value of a slot is sum over candidates of pi(a) x examination x relevance(user, a) x lift.
    """
    world = made.world
    number = {track: n for n, track in enumerate(world.track_ids)}
    shown_track = np.array([number[track] for track in shown["track_id"]])
    block = world.user_block(0)
    user = shown["user_id"].str.slice(1).cast(pl.Int64).to_numpy()
    taste = np.zeros((shown.height, world.vectors.shape[1]))
    for day in shown["taste_day"].unique():
        of_day = (shown["taste_day"] == day).to_numpy()
        taste[of_day] = block.taste_on(day)[user[of_day]]
    day, cluster, slot = (shown[c].to_numpy() for c in ("policy_day", "cluster", "position"))
    items = np.stack([world.policy(d).items for d in range(DAYS)])[day, cluster, slot]
    weight = np.stack([world.policy(d).weight for d in range(DAYS)])[day, cluster, slot]
    width = items.shape[1]
    relevance = np.column_stack(
        [world.relevance(world.affinity(taste, items[:, k]), items[:, k]) for k in range(width)]
    )
    clicks = relevance * (world.examination()[slot] * world.lift(block.variant[user]))[:, None]
    quality = world.quality[items]
    softer = np.exp(quality / 0.5)
    new = {
        "uniform": np.full(items.shape, 1.0 / width),
        "logged model": weight / weight.sum(axis=1, keepdims=True),
        "quality": softer / softer.sum(axis=1, keepdims=True),
        "anything but quality": (1 / softer) / (1 / softer).sum(axis=1, keepdims=True),
    }
    is_shown = items == shown_track[:, None]
    assert (is_shown.sum(axis=1) == 1).all()
    return {
        name: ((chance * is_shown).sum(axis=1), (chance * clicks).sum(axis=1))
        for name, chance in new.items()
    }


def test_estimates_of_a_new_policys_reward_hold_its_true_value(
    made: Made, shown: pl.DataFrame
) -> None:
    """Inverse-propensity and self-normalized estimates from the rows' propensity and label: the
    true value lies in the 95 % interval (clustered by user; Bonferroni over the eight estimates),
    where the plain mean's does not."""
    reward = shown["label_played"].cast(pl.Float64).to_numpy()
    propensity = shown["propensity"].to_numpy()
    user = np.unique(shown["user_id"], return_inverse=True)[1]
    plain_misses = 0
    for chance, value in greedy_policies(made, shown).values():
        ratio = chance / propensity
        true = value.mean()
        for label, weight in (("ips", np.ones_like(ratio)), ("snips", ratio)):
            estimate = (ratio * reward).sum() / weight.sum()
            # Delta method over users: rows of one user are not independent.
            part = ratio * reward - estimate * weight
            if label == "ips":
                part = ratio * reward - value  # the contexts are given
            error = math.sqrt((np.bincount(user, part) ** 2).sum()) / weight.sum()
            z = (estimate - true) / error
            assert abs(z) < 2.73
            assert error < 0.1 * true
        part = reward - reward.mean()
        error = math.sqrt((np.bincount(user, part) ** 2).sum()) / len(part)
        plain_misses += abs(reward.mean() - true) > 3 * error
    assert plain_misses >= 2


def test_a_known_experiment_effect_is_recovered(made: Made, shown: pl.DataFrame) -> None:
    """Treatment multiplies the chance of a click by 1 + lift: the ratio of the arms' rates, of
    users that are as they are (each user's clicks over what was expected without the lift)."""
    lift = made.world.config.experiment_lift
    assert set(shown["variant"]) == {"control", "treatment"}
    base = shown["click_probability"] / pl.select(
        pl.when(shown["variant"] == "treatment").then(1 + lift).otherwise(1.0)
    ).to_series()  # fmt: skip
    by_user = (
        shown.with_columns(base=base)
        .group_by("user_id", "variant")
        .agg(pl.col("label_played").sum().alias("clicks"), pl.col("base").sum())
    )
    log_rate, variance = {}, {}
    for arm in ("control", "treatment"):
        arms = by_user.filter(pl.col("variant") == arm)
        clicks, expected = (arms[c].to_numpy().astype(float) for c in ("clicks", "base"))
        rate = clicks.sum() / expected.sum()
        log_rate[arm] = math.log(rate)
        variance[arm] = ((clicks - rate * expected) ** 2).sum() / clicks.sum() ** 2
    effect = math.expm1(log_rate["treatment"] - log_rate["control"])
    error = (1 + effect) * math.sqrt(sum(variance.values()))
    assert abs(effect - lift) < 1.96 * error
    assert effect > 5 * error
