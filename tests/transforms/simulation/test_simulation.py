"""The simulated world does what its documentation says, and its truth is true."""

from __future__ import annotations

import functools

import numpy as np
import polars as pl
import pydantic
import pytest

from schemas import CATALOG, LISTENING_EVENT, forms
from transforms.simulation import listening
from transforms.simulation.world import (
    BLOCK_USERS,
    PROPENSITY_GRID,
    RELEVANCE_MAX,
    SimulationConfig,
    World,
)


@functools.cache
def _simulated(**fields: object) -> tuple[World, listening.Simulated]:
    world = World(SimulationConfig.model_validate(fields))
    parts = [listening.simulate_users(world, block) for block in range(world.config.blocks)]
    return world, listening.Simulated(
        pl.concat([part.events for part in parts]),
        {name: pl.concat([part.truth[name] for part in parts]) for name in listening.TRUTH_SCHEMAS},
        listening.add_counts(part.counts for part in parts),
    )


def _default() -> tuple[World, listening.Simulated]:
    return _simulated(users=2 * BLOCK_USERS, days=3, seed=5, bot_share=0.002, duplicate_share=0.02)


def _unique_plays(simulated: listening.Simulated) -> pl.DataFrame:
    near = simulated.truth["near_duplicates"]["event_id"].implode()
    plays = simulated.events.filter(pl.col("event_type") == "play", ~pl.col("event_id").is_in(near))
    return plays.unique("event_id")


def test_columns_have_the_schemas_types() -> None:
    world, simulated = _default()
    assert dict(simulated.events.schema) == listening.EVENT_SCHEMA
    assert list(simulated.events.columns) == list(listening.EVENT_SCHEMA)
    for name, schema in listening.TRUTH_SCHEMAS.items():
        assert simulated.truth[name].schema == pl.Schema(schema), name
    assert dict(world.catalog().schema) == forms.polars_schema(CATALOG)
    assert listening.users_table(world, 0).schema == pl.Schema(listening.USERS_SCHEMA)
    assert dict(listening.empty().events.schema) == listening.EVENT_SCHEMA


def test_required_fields_and_enumerations_hold() -> None:
    _, simulated = _default()
    for field in LISTENING_EVENT.fields:
        column = simulated.events[field.name]
        if field.required:
            assert column.null_count() == 0, field.name
        if field.symbols:
            assert set(column.drop_nulls().unique()) <= set(field.symbols), field.name
    play = simulated.events.filter(pl.col("event_type") == "play")
    assert play["played_ms"].null_count() == 0
    assert play["played_ms"].min() >= 0  # type: ignore[operator]
    assert (play["played_ms"] <= play["track_duration_ms"]).all()


def test_same_seed_same_events_and_another_seed_others() -> None:
    config = SimulationConfig(users=100, days=1, seed=9)
    first = listening.simulate_users(World(config), 0).events
    assert first.equals(listening.simulate_users(World(config), 0).events)
    other = listening.simulate_users(World(config.model_copy(update={"seed": 10})), 0).events
    assert not set(first["event_id"]) & set(other["event_id"])


def test_a_users_events_do_not_depend_on_the_number_of_users() -> None:
    few = listening.simulate_users(World(SimulationConfig(users=50, days=1)), 0).events
    many = listening.simulate_users(World(SimulationConfig(users=900, days=1)), 0).events
    assert few.height > 1000
    assert few.equals(many.filter(pl.col("user_id").is_in(few["user_id"].unique().implode())))


def test_event_ids_are_unique_but_for_the_duplicates() -> None:
    _, simulated = _default()
    again = simulated.events.filter(pl.col("event_id").is_duplicated())
    duplicates = simulated.truth["duplicates"]["event_id"]
    assert duplicates.is_unique().all()
    assert set(again["event_id"]) == set(duplicates)
    assert again.height == 2 * len(duplicates) > 1000
    same = again.drop("received_time").unique()
    assert same.height == len(duplicates)
    assert again.group_by("event_id").agg(pl.col("received_time").n_unique())[
        "received_time"
    ].to_list() == [2] * len(duplicates)


def test_counts_are_what_is_in_the_events() -> None:
    world, simulated = _default()
    events, counts = simulated.events, simulated.counts
    assert counts["events"] == events.height
    for name, count in events["event_type"].value_counts().rows():
        assert counts[f"events.{name}"] == count
    assert counts["duplicates"] == simulated.truth["duplicates"].height
    assert counts["near_duplicates"] == simulated.truth["near_duplicates"].height > 0
    assert counts["offline"] == events["offline"].sum() > 0
    users = pl.concat([listening.users_table(world, block) for block in range(2)])
    told = events.join(users.select("user_id", "clock_skew_ms", "is_bot"), "user_id")
    true_time = pl.col("event_time") - pl.duration(milliseconds="clock_skew_ms")
    lag = told.select((pl.col("received_time") - true_time).dt.total_milliseconds()).to_series()
    assert lag.min() > 0  # type: ignore[operator]
    assert counts["late_over_1_day"] == (lag >= 86_400_000).sum() > 0
    assert counts["skewed_clock"] == (told["clock_skew_ms"] != 0).sum() > 0
    assert counts["bot"] == told["is_bot"].sum() > 0


def test_bots_have_enormous_counts_and_others_about_the_configured() -> None:
    world, simulated = _default()
    per_user = simulated.events.group_by("user_id").len()
    users = pl.concat([listening.users_table(world, block) for block in range(2)])
    told = users.join(per_user, "user_id", how="left").with_columns(pl.col("len").fill_null(0))
    people, bots = told.filter(~pl.col("is_bot")), told.filter("is_bot")
    assert bots["len"].min() > 1000 * 3  # type: ignore[operator]
    assert 0.75 * 40 * 3 < people["len"].mean() < 1.25 * 40 * 3  # type: ignore[operator]
    share = simulated.events.filter(~pl.col("user_id").is_in(bots["user_id"].implode()))
    impressions = (share["event_type"] == "impression").mean()
    assert 0.5 < impressions < 0.65  # type: ignore[operator]


def test_near_duplicates_are_the_same_play_of_another_client() -> None:
    _, simulated = _default()
    events = simulated.events.unique("event_id")
    both = (
        simulated.truth["near_duplicates"]
        .join(events, "event_id")
        .join(events, left_on="original_event_id", right_on="event_id", suffix="_first")
    )
    assert both.height == simulated.truth["near_duplicates"].height
    assert (both["track_id"] == both["track_id_first"]).all()
    assert (both["client_id"] != both["client_id_first"]).all()
    shift = (both["event_time"] - both["event_time_first"]).dt.total_milliseconds()
    assert shift.is_between(1_000, 8_000).all()


def test_no_event_before_the_release_and_none_out_of_range() -> None:
    world, simulated = _default()
    users = pl.concat([listening.users_table(world, block) for block in range(2)])
    right = users.filter(pl.col("clock_skew_ms") == 0)["user_id"].implode()
    events = simulated.events.filter(pl.col("user_id").is_in(right))
    told = events.join(world.catalog().select("track_id", "release_time"), "track_id")
    assert (told["event_time"] >= told["release_time"]).all()
    fresh = told.filter(pl.col("release_time").dt.date() >= world.config.start_date)
    assert fresh.height > 0
    assert (events["event_time"].dt.epoch("us") >= world.config.start_us).all()
    assert events["event_time"].dt.date().n_unique() == 3


def test_plays_of_a_user_do_not_overlap() -> None:
    _, simulated = _default()
    plays = _unique_plays(simulated).sort("user_id", "event_time")
    start = plays["event_time"].dt.epoch("ms")
    end = start + plays["played_ms"]
    same = plays["user_id"] == plays["user_id"].shift()
    assert ((start - end.shift()).filter(same) >= 0).all()


def test_a_clicks_play_follows_its_impression_within_seconds() -> None:
    world, simulated = _default()
    events = simulated.events.unique("event_id")
    clicks = (
        simulated.truth["clicks"]
        .join(events, left_on="impression_event_id", right_on="event_id")
        .join(events, left_on="play_event_id", right_on="event_id", suffix="_play")
    )
    assert clicks.height == simulated.counts["clicks"] > 1000
    assert (clicks["track_id"] == clicks["track_id_play"]).all()
    assert (clicks["surface_play"] == "home").all()
    wait = (clicks["event_time_play"] - clicks["event_time"]).dt.total_milliseconds()
    assert wait.is_between(1, 4_000).all()
    linked = clicks["request_id_play"].is_not_null()
    assert linked.mean() == pytest.approx(world.config.linked_play_share, abs=0.03)
    assert (clicks["request_id"] == clicks["request_id_play"]).filter(linked).all()
    truth = simulated.truth["impressions"]
    clicked = truth.filter("clicked")["event_id"]
    assert set(clicked) == set(clicks["impression_event_id"])


def test_policy_sums_to_one_and_a_slate_repeats_nothing() -> None:
    world, simulated = _default()
    policy = world.policy(1)
    assert (policy.weight.sum(axis=2) == PROPENSITY_GRID).all()
    assert policy.weight.min() > 0
    for cluster in policy.items:
        assert len(np.unique(cluster)) == cluster.size
    sums = world.policy_table(1).group_by("cluster", "position").agg(pl.col("propensity").sum())
    assert (sums["propensity"] == 1.0).all()
    slates = (
        simulated.truth["impressions"].group_by("request_id").agg(pl.col("track_id").n_unique())
    )
    assert (slates["track_id"] == world.config.slate_size).all()


def test_recorded_propensities_are_those_of_the_policy_table() -> None:
    world, simulated = _default()
    impressions = simulated.truth["impressions"].join(
        simulated.truth["requests"].select("request_id", "policy_day", "cluster"), "request_id"
    )
    table = pl.concat([world.policy_table(day) for day in range(3)])
    keys = ["policy_day", "cluster", "position", "track_id"]
    told = impressions.join(table.rename({"propensity": "model"}), keys, how="left")
    size = world.config.candidate_set_size
    expected = pl.when("is_exploration").then(1 / size).otherwise("model")
    assert told.select((pl.col("propensity") == expected).all()).item()
    logged = simulated.events.filter(pl.col("event_type") == "impression").unique("event_id")
    both = logged.join(impressions, "event_id", suffix="_truth")
    assert both.height == impressions.height
    assert (both["propensity"] == both["propensity_truth"]).all()


def test_drawn_frequencies_fit_the_propensities() -> None:
    _, simulated = _simulated(
        users=BLOCK_USERS, days=1, seed=2, tracks=200, artists=20, genres=2, slate_size=2,
        candidate_set_size=5, events_per_user_day=60.0, exploration_share=0.3,
    )  # fmt: skip
    truth = simulated.truth["impressions"].join(
        simulated.truth["requests"].select("request_id", "policy_day", "cluster"), "request_id"
    )
    cell = ["policy_day", "cluster", "position", "is_exploration"]
    seen = truth.group_by(*cell, "track_id").agg(pl.len(), pl.col("propensity").first())
    seen = seen.with_columns(expected=pl.col("propensity") * pl.col("len").sum().over(cell))
    # Every candidate was drawn, so the cells of a list are complete.
    assert (seen.group_by(cell).agg(pl.len())["len"] == 5).all()
    chi = seen.select(((pl.col("len") - pl.col("expected")) ** 2 / pl.col("expected")).sum()).item()
    freedom = seen.height - seen.select(cell).n_unique()
    assert abs(chi - freedom) < 4 * np.sqrt(2 * freedom)


def test_mean_inverse_propensity_is_the_candidate_set_size() -> None:
    world, simulated = _default()
    size = world.config.candidate_set_size
    truth = simulated.truth["impressions"].with_columns(weight=1 / pl.col("propensity"))
    explored = truth.filter("is_exploration")["weight"]
    assert explored.mean() == pytest.approx(size)
    model = truth.filter(~pl.col("is_exploration"))["weight"]
    error = model.std() / np.sqrt(len(model))
    assert abs(model.mean() - size) < 4 * error  # type: ignore[operator]
    share = len(explored) / truth.height
    assert share == pytest.approx(world.config.exploration_share, abs=0.02)


def test_off_policy_value_from_exploration_fits_the_models_own() -> None:
    # What the model policy earns, estimated from the uniform arm's log, against its own log.
    world, simulated = _simulated(
        users=3 * BLOCK_USERS, days=2, seed=8, exploration_share=0.5, candidate_set_size=10,
        policy_floor=0.3,
    )  # fmt: skip
    truth = simulated.truth["impressions"].join(
        simulated.truth["requests"].select("request_id", "policy_day", "cluster"), "request_id"
    )
    table = pl.concat([world.policy_table(day) for day in range(2)])
    told = truth.join(
        table.rename({"propensity": "model"}),
        ["policy_day", "cluster", "position", "track_id"],
        how="left",
    )
    explored = told.filter("is_exploration")
    weight = (explored["model"] / explored["propensity"]).to_numpy()
    reward = explored["clicked"].cast(pl.Float64).to_numpy()
    ips, snips = (weight * reward).mean(), (weight * reward).sum() / weight.sum()
    on_policy = told.filter(~pl.col("is_exploration"))["clicked"].mean()
    plain = reward.mean()
    error = (weight * reward).std() / np.sqrt(len(reward))
    assert abs(ips - on_policy) < 5 * error  # users are clustered: somewhat more than 3
    assert abs(snips - on_policy) < 5 * error
    assert on_policy - plain > 10 * error  # the policies differ, so the weights did the work


def test_position_bias_is_recoverable_from_exploration() -> None:
    world, simulated = _simulated(
        users=3 * BLOCK_USERS, days=2, seed=8, exploration_share=0.5, candidate_set_size=10,
        policy_floor=0.3,
    )  # fmt: skip
    explored = simulated.truth["impressions"].filter("is_exploration")
    rates = explored.group_by("position").agg(
        rate=pl.col("clicked").mean(), relevance=pl.col("relevance").mean(), n=pl.len()
    )
    rates = rates.sort("position")
    observed = (rates["rate"] / rates["relevance"]).to_numpy()
    error = (
        np.sqrt(rates["rate"].to_numpy() / rates["n"].to_numpy()) / rates["relevance"].to_numpy()
    )
    # Treated users click more by the experiment's lift, on half of the traffic.
    expected = world.examination() * (1 + world.config.experiment_lift / 2)
    assert (np.abs(observed - expected) < 4 * error + 0.01).all()


def test_experiment_effect_is_recoverable() -> None:
    world, simulated = _simulated(
        users=4 * BLOCK_USERS, days=2, seed=4, experiment_lift=0.2, bot_share=0.0,
        events_per_user_day=60.0,
    )  # fmt: skip
    per_user = (
        simulated.truth["impressions"]
        .group_by("user_id", "variant")
        .agg(clicks=pl.col("clicked").sum(), shown=pl.len())
    )
    # Ratio of ratios, variance by the delta method over users.
    log_rate, variance = [], []
    for arm in ("control", "treatment"):
        users = per_user.filter(pl.col("variant") == arm)
        clicks, shown = users["clicks"].to_numpy(), users["shown"].to_numpy()
        rate = clicks.sum() / shown.sum()
        log_rate.append(np.log(rate))
        variance.append(((clicks - rate * shown) ** 2).sum() / (rate * shown.sum()) ** 2)
    lift, error = log_rate[1] - log_rate[0], np.sqrt(sum(variance))
    assert abs(lift - np.log(1.2)) < 3 * error
    assert error < 0.04
    by_chance = simulated.truth["impressions"].with_columns(
        exam=pl.col("position").replace_strict(
            dict(enumerate(world.examination())), return_dtype=pl.Float64
        )
    )
    ratio = by_chance["click_probability"] / (by_chance["relevance"] * by_chance["exam"])
    treated = by_chance["variant"] == "treatment"
    assert np.allclose(ratio.filter(treated), 1.2)
    assert np.allclose(ratio.filter(~treated), 1.0)
    assert by_chance["relevance"].max() <= RELEVANCE_MAX  # type: ignore[operator]


def test_local_hours_have_a_rhythm() -> None:
    world, simulated = _default()
    users = pl.concat([listening.users_table(world, block) for block in range(2)])
    people = users.filter(~pl.col("is_bot")).select("user_id", "zone")
    plays = _unique_plays(simulated).filter(~pl.col("offline")).join(people, "user_id")
    hours = np.zeros(24)
    for (zone,), part in plays.group_by("zone"):
        local = part["event_time"].dt.convert_time_zone(str(zone)).dt.hour()
        hours += np.bincount(local, minlength=24)
    assert hours[17:21].sum() > 4 * hours[2:6].sum() > 0
    assert world.utc_offset_ms(0).max() - world.utc_offset_ms(0).min() > 12 * 3_600_000


def test_skips_depend_on_taste_and_the_flag_is_not_to_be_trusted() -> None:
    world, simulated = _default()
    home = simulated.truth["clicks"].join(
        simulated.truth["impressions"], left_on="impression_event_id", right_on="event_id"
    )
    plays = home.join(simulated.events.unique("event_id"), left_on="play_event_id",
                      right_on="event_id")  # fmt: skip
    skipped = plays["reason_end"] == "fwdbtn"
    liked = plays["relevance"] > plays["relevance"].median()
    assert skipped.filter(~liked).mean() > 1.3 * skipped.filter(liked).mean()  # type: ignore[operator]
    assert 0.5 < plays["skipped"].filter(skipped).mean() < 0.9  # type: ignore[operator]
    assert world.config.seed == 5


def test_tastes_drift() -> None:
    world = World(SimulationConfig(users=10, days=30))
    block = world.user_block(0)
    close = (block.taste_on(0) * block.taste_on(1)).sum(axis=1)
    far = (block.taste_on(0) * block.taste_on(29)).sum(axis=1)
    assert close.mean() > 0.999 > 0.95 > far.mean()
    assert np.allclose(np.linalg.norm(block.taste_on(17), axis=1), 1.0, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"artists": 30_000}, "artists"),
        ({"tracks": 100, "artists": 10}, "slate_size x candidate_set_size"),
        ({"broken_share": 0.9}, "broken_share"),
        ({"days": 0}, "days"),
        ({"usres": 1}, "usres"),
    ],
)
def test_configuration_is_checked(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=problem):
        SimulationConfig.model_validate(fields)
