"""One Polars script: a lazy scan, one sort by (user, time), running counts and as-of joins.

Counts over seven days are running counts looked up at t and at t - 7 days by `join_asof`. Ids are
Categorical codes.
"""

from __future__ import annotations

import glob

import polars as pl

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

WEEK_US = 7 * DAY_US
HISTORY = 10


def read_valid(task: Task) -> pl.DataFrame:
    """Valid, repaired events; `t`, `received` and `ended` in microseconds."""
    event = pl.col("event_time").dt.epoch("us")
    received = pl.col("received_time").dt.epoch("us")
    ahead = event > received
    is_track = (pl.col("track_id") != "").fill_null(value=False)
    follow = (pl.col("event_type") == "follow") & pl.col("artist_id").is_not_null()
    paths = sorted(path for pattern in task.raw for path in glob.glob(pattern))
    return (
        pl.scan_parquet(paths, hive_partitioning=False)
        .filter(
            pl.col("event_id") != "",
            pl.col("user_id") != "",
            pl.col("event_type").is_in(EVENT_TYPES),
            pl.col("time_quality").is_in(TIME_QUALITIES),
            is_track | follow,
            pl.col("event_id").str.len_bytes() <= 1024,
            pl.col("user_id").str.len_bytes() <= 1024,
            pl.col("track_id").str.len_bytes().fill_null(0) <= 1024,
            received.is_between(EARLIEST_US, task.import_end_us + 366 * DAY_US),
            event >= EARLIEST_US,
            event < task.import_end_us,
            event - received <= DAY_US,
            pl.col("played_ms").is_between(0, DAY_US // 1000).fill_null(value=True),
            pl.col("track_duration_ms").is_between(1000, DAY_US // 1000).fill_null(value=True),
            # NaN is greater than any number.
            ((pl.col("propensity") > 0) & (pl.col("propensity") <= 1)).fill_null(value=True),
            (pl.col("position") >= 0).fill_null(value=True),
            (pl.col("candidate_set_size") >= 1).fill_null(value=True),
            pl.col("source_skip_level").is_between(0, 3).fill_null(value=True),
        )
        .with_columns(
            pl.min_horizontal(event, received).alias("t"),
            received.alias("received"),
            pl.when(ahead).then(pl.lit("derived")).otherwise("time_quality").alias("time_quality"),
            pl.when(pl.col("surface").is_in(SURFACES) | pl.col("surface").is_null())
            .then("surface")
            .otherwise(pl.lit("unknown"))
            .alias("surface"),
            pl.col("country").str.to_uppercase(),
            pl.col("source").fill_null("parquet"),
        )
        .select(
            *(name for name in CARRIED if name != "event_time"),
            "t", "received", "client_id", "time_quality", "played_ms", "track_duration_ms",
            "reason_end", "source_skip_level",
        )
        .collect(engine="streaming")
    )  # fmt: skip


def deduplicate(table: pl.DataFrame) -> pl.DataFrame:
    """One row of each (user, event id), received first; heavy users out; near duplicates out."""
    repeated = table.select(pl.struct("user_id", "event_id").is_duplicated()).to_series()
    first = table.filter(repeated).sort("received").unique(["user_id", "event_id"], keep="first")
    table = pl.concat([table.filter(~repeated), first])
    per_day = table.group_by("user_id", pl.col("t") // DAY_US).len()
    heavy = per_day.filter(pl.col("len") > 5000)["user_id"]
    if len(heavy):
        table = table.filter(~pl.col("user_id").is_in(heavy.unique().implode()))
    return table


def without_near_duplicates(table: pl.DataFrame) -> pl.DataFrame:
    """Drops plays that repeat the user's play of the track by another client within a minute."""
    repeats = (
        table.lazy()
        .with_row_index("row")
        .filter("play")
        .select("row", "user", "track", "t", "event_id", "client_id")
        .sort("user", "track", "t", "event_id")
        .filter(
            pl.col("user") == pl.col("user").shift(),
            pl.col("track") == pl.col("track").shift(),
            pl.col("t").diff() <= 60_000_000,
            pl.col("client_id").ne_missing(pl.col("client_id").shift()),
        )
        .select("row")
        .collect()
    )
    keep = pl.repeat(value=True, n=table.height, dtype=pl.Boolean, eager=True)
    return table.filter(keep.scatter(repeats["row"], False))


def derive(table: pl.DataFrame) -> pl.DataFrame:
    """Codes, flags and the end of each event."""
    kind = pl.col("event_type")
    played = pl.col("played_ms")
    by_time = (played < 30_000) & ~pl.col("reason_end").is_in(NOT_A_SKIP).fill_null(value=False)
    skipped = pl.coalesce(by_time, pl.col("source_skip_level") >= 2)
    return table.with_columns(
        pl.col("user_id").cast(pl.Categorical).to_physical().cast(pl.Int64).alias("user"),
        pl.col("track_id").cast(pl.Categorical).to_physical().cast(pl.Int64).alias("track"),
        pl.col("artist_id").cast(pl.Categorical).to_physical().cast(pl.Int64).alias("artist"),
        pl.col("surface").cast(pl.Categorical).to_physical().cast(pl.Int64).alias("place"),
        (kind == "play").alias("play"),
        (kind == "impression").alias("shown"),
        pl.when(kind == "play")
        .then(pl.col("t") + pl.min_horizontal(played.fill_null(0) * 1000, DAY_US))
        .otherwise("t")
        .alias("ended"),
        (played >= 30_000).alias("streamed"),
        pl.when(pl.col("time_quality") != "sync").then(skipped).alias("skipped"),
        (played / pl.col("track_duration_ms")).clip(0.0, 1.0).alias("completion"),
    ).with_columns(
        (pl.col("user") * (1 << 32) + pl.col("track")).alias("user_track"),
        (pl.col("user") * (1 << 32) + pl.col("artist")).alias("user_artist"),
    )


def running(table: pl.DataFrame, key: str, instant: str, *columns: pl.Expr) -> pl.DataFrame:
    """Running values within a key; `table` is sorted by (key, instant)."""
    return table.select(key, pl.col(instant).alias("instant"), *(c.over(key) for c in columns))


def before(query: pl.DataFrame, at: pl.Expr, state: pl.DataFrame, key: str) -> pl.DataFrame:
    """The last state of the key strictly before an instant, row by row of `query`."""
    return (
        query.select(pl.col(key), at.alias("instant"))
        .join_asof(
            state, on="instant", by=key, strategy="backward", allow_exact_matches=False,
            check_sortedness=False,
        )
        .drop(key, "instant")
    )  # fmt: skip


def window(query: pl.DataFrame, state: pl.DataFrame, key: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """State at t, and what its counts grew by over the seven days before."""
    now = before(query, pl.col("t"), state, key)
    then = before(query, pl.col("t") - WEEK_US, state, key)
    counts = [name for name in now.columns if name.startswith("n_")]
    grown = now.select(
        pl.col(name).fill_null(0).cast(pl.Int64) - then[name].fill_null(0).cast(pl.Int64)
        for name in counts
    )
    return now, grown


def add_sessions(table: pl.DataFrame) -> pl.DataFrame:
    """Plays and impressions with `session_us`, the start of their session."""
    makers = table.filter(pl.col("play") | pl.col("shown"))
    quiet = pl.col("t") - pl.col("ended").cum_max().shift().over("user") >= 1_800_000_000
    return makers.with_columns(
        pl.when(quiet.fill_null(value=True)).then("t").forward_fill().alias("session_us")
    )


def history(plays: pl.DataFrame, last: pl.Series, query: pl.DataFrame) -> pl.DataFrame:
    """The latest plays before each query: `last` is the index of the last of them."""
    index = plays.select(
        pl.concat_list(pl.col("track_id").shift(i) for i in reversed(range(HISTORY))).alias("ids"),
        pl.concat_list(pl.col("t").shift(i) for i in reversed(range(HISTORY))).alias("times"),
    )
    length = pl.min_horizontal(pl.lit(query["n_plays"]), HISTORY)
    return (
        index[last.fill_null(0)]
        .with_columns(query["t"], length.alias("length"))
        .select(
            pl.col("ids").list.tail("length").alias("history_track_ids"),
            ((pl.col("t") - pl.col("times").list.tail("length")) // 1000).alias("history_ms_ago"),
        )
    )


def item_counts(makers: pl.DataFrame, query: pl.DataFrame) -> pl.DataFrame:
    """Plays, streams, impressions of the track on the 7 days before, known at midnight."""
    names = ["item_plays_7d", "item_streams_7d", "item_impressions_7d"]
    event_day, known_day = pl.col("t") // DAY_US, pl.col("received") // DAY_US
    days = (
        makers.lazy()
        .group_by("track", event_day.alias("event_day"), known_day.alias("known_day"))
        .agg(
            pl.col("play").sum().cast(pl.Int64).alias(names[0]),
            (pl.col("play") & pl.col("streamed")).sum().cast(pl.Int64).alias(names[1]),
            pl.col("shown").sum().cast(pl.Int64).alias(names[2]),
        )
        .with_columns(
            pl.int_ranges(
                pl.max_horizontal("event_day", "known_day") + 1, pl.col("event_day") + 8
            ).alias("day")
        )
        .filter(pl.col("day").list.len() > 0)
        .explode("day")
        .group_by("track", "day")
        .agg(pl.col(names).sum())
        .collect()
    )
    return (
        query.select("track", (pl.col("t") // DAY_US).alias("day"))
        .join(days, on=["track", "day"], how="left", maintain_order="left")
        .select(pl.col(names).fill_null(0))
    )


def outcomes(makers: pl.DataFrame, query: pl.DataFrame) -> pl.DataFrame:
    """What each query impression led to; nulls where nothing."""
    place = [pl.col("user_track"), pl.col("place")]
    plays = makers.filter("play").select(
        *place, "t", "event_id", "streamed", "skipped", "completion"
    )
    shown = makers.filter("shown").select(*place, "t", pl.col("row"), pl.col("t").alias("shown_us"))
    # Both are in store order, so the last of several impressions at one instant is found.
    first = (
        plays.join_asof(
            shown, on="t", by=["user_track", "place"], strategy="backward", check_sortedness=False
        )
        .filter(pl.col("t") - pl.col("shown_us") < 1_800_000_000)
        .sort("user_track", "t", "event_id")
        .unique("row", keep="first", maintain_order=True)
        .select("row", pl.col("t").alias("play_us"), "streamed", "skipped", "completion")
    )
    return query.select("row").join(first, on="row", how="left", maintain_order="left")


def resolved(table: pl.DataFrame, query: pl.DataFrame, yes: str, no: str) -> pl.Series:
    """Whether the latest `yes` or `no` in [t, t + 1 day) is a `yes`."""
    actions = table.filter(pl.col("event_type").is_in([yes, no])).select(
        "user_track",
        pl.col("t").alias("instant"),
        pl.col("t").alias("acted_us"),
        (pl.col("event_type") == yes).alias("yes"),
    )
    found = before(query, pl.col("t") + DAY_US, actions, "user_track")
    return (found["yes"] & (found["acted_us"] >= query["t"])).fill_null(value=False)


def run(task: Task) -> None:
    task.rows.mkdir(parents=True)
    everything = deduplicate(read_valid(task))
    # An import stands for all its days, so what is known ends with its last event's day.
    watermark_us = (int(everything["t"].max() or 0) // DAY_US + 1) * DAY_US
    table = without_near_duplicates(derive(everything))
    del everything
    table = (
        table.filter(
            pl.col("t") >= task.first_us - WEEK_US,
            pl.col("t") < task.end_us + DAY_US,
        )
        .sort("user", "t", "event_id")
        .with_row_index("row")
    )
    makers = add_sessions(table)
    query = makers.filter(
        pl.col("shown"),
        pl.col("t") >= task.first_us,
        pl.col("t") < task.end_us,
        pl.col("t") + DAY_US <= watermark_us,
    )
    plays = makers.filter("play")
    counted = (pl.col(n).cum_sum().alias(f"n_{n}") for n in ("play", "shown"))
    liked = (pl.col("event_type") == "like").cum_sum().alias("n_like")
    last_play = pl.when("play").then("t").forward_fill().alias("last_play_us")
    index = (pl.col("play").cum_sum().cast(pl.Int64) - 1).alias("last_play")
    state = running(table, "user", "t", *counted, liked, last_play)
    # The index of the last play runs over all users: it points into `plays`.
    state = state.with_columns(table.select(index).to_series())
    now, week = window(query, state, "user")
    ended = plays.sort("user", "ended")
    ends = running(
        ended,
        "user",
        "ended",
        pl.col("streamed").fill_null(value=False).cum_sum().alias("n_streamed"),
        pl.col("skipped").fill_null(value=False).cum_sum().alias("n_skipped"),
    )
    ends_now, ends_week = window(query, ends, "user")
    started = pl.col("session_us")
    at_start = before(query, started, state, "user").select("n_play", "n_shown").fill_null(0)
    ends_at_start = before(query, started, ends, "user").select("n_skipped").fill_null(0)

    def counter(table: pl.DataFrame, key: str, *more: pl.Expr) -> pl.DataFrame:
        ordered = table.select(key, "t").sort(key, "t")
        return running(ordered, key, "t", pl.int_range(1, pl.len() + 1).alias("n_"), *more)

    tracks = counter(plays, "user_track", pl.col("t").alias("last_us"))
    track_now, track_week = window(query, tracks, "user_track")
    _, shown_week = window(query, counter(makers.filter("shown"), "user_track"), "user_track")
    known = plays.filter(pl.col("artist").is_not_null())
    _, artist_week = window(query, counter(known, "user_artist"), "user_artist")

    inside = query["t"] - query["session_us"] <= DAY_US
    history_of = history(
        plays, now["last_play"], query.select("t", week["n_play"].alias("n_plays"))
    )
    led = outcomes(makers, query)
    was_played = led["play_us"].is_not_null()
    since_play = (
        pl.when(now["last_play_us"] >= query["session_us"])
        .then(query["t"] - now["last_play_us"])
        .alias("x")
    )
    seen = pl.when(inside)
    t = query["t"]
    found_track = track_week["n_"] > 0
    rows = query.select(
        *(
            pl.from_epoch("t", "us").dt.replace_time_zone("UTC").alias("event_time")
            if name == "event_time"
            else name
            for name in CARRIED
        ),
        seen.then(pl.struct("user", "session_us").hash()).alias("session_id"),
        *history_of,
        *item_counts(makers, query),
        seen.then((t - query["session_us"]) // 1000).alias("session_age_ms"),
        seen.then(now["n_play"].fill_null(0) - at_start["n_play"]).alias("session_plays"),
        seen.then(now["n_shown"].fill_null(0) - at_start["n_shown"]).alias("session_impressions"),
        seen.then(ends_now["n_skipped"].fill_null(0) - ends_at_start["n_skipped"]).alias(
            "session_skips"
        ),
        seen.then(since_play // 1000).alias("session_ms_since_play"),
        week["n_play"].alias("user_plays_7d"),
        week["n_shown"].alias("user_impressions_7d"),
        week["n_like"].alias("user_likes_7d"),
        ends_week["n_streamed"].alias("user_streams_7d"),
        ends_week["n_skipped"].alias("user_skips_7d"),
        track_week["n_"].alias("user_track_plays_7d"),
        pl.when(found_track)
        .then((t - track_now["last_us"]) // 1000)
        .alias("user_track_ms_since_play"),
        shown_week["n_"].alias("user_track_impressions_7d"),
        pl.when(query["artist"].is_not_null())
        .then(artist_week["n_"])
        .alias("user_artist_plays_7d"),
        was_played.alias("label_played"),
        ((led["play_us"] - t) // 1000).alias("label_play_delay_ms"),
        *(
            pl.when(was_played).then(led[name]).otherwise(absent).alias(f"label_{label}")
            for name, label, absent in (
                ("streamed", "streamed_30s", pl.lit(value=False)),
                ("completion", "completion", pl.lit(0.0)),
                ("skipped", "skip_2", pl.lit(value=False)),
            )
        ),
        resolved(table, query, "like", "unlike").alias("label_liked"),
        resolved(table, query, "save", "unsave").alias("label_saved"),
    ).with_columns(
        (
            pl.col("label_completion") * 0.5
            + pl.col("label_liked") * 2.0
            + pl.col("label_saved") * 2.0
            + pl.col("label_skip_2") * -0.5
            + pl.col("label_streamed_30s") * 1.0
        ).alias("label_reward")
    )
    rows.write_parquet(task.rows / "rows.parquet", compression="zstd", compression_level=1)


if __name__ == "__main__":
    main(run)
