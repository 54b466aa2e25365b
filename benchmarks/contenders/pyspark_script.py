"""One PySpark job on local[2], DataFrames and window functions.

Spark recomputes a sliding RANGE frame row by row, so counts over seven days are running counts (one
pass) looked up at t and at t - 7 days: the lookups are rows of the window themselves.
"""

from __future__ import annotations

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

WEEK_US = 7 * DAY_US
Frame = Any  # pyspark.sql.DataFrame, which need not be installed

_spark: Any = None


def prepare() -> None:
    """Starts the session: a Java process and its start-up are not the work."""
    from pyspark.sql import SparkSession

    global _spark
    _spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "8g")
        .config("spark.sql.shuffle.partitions", "8")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.io.compression.codec", "lz4")
        .getOrCreate()
    )
    _spark.sparkContext.setLogLevel("ERROR")
    _spark.range(1).count()


def read_valid(task: Task) -> Frame:
    """Valid, repaired events; `t`, `received` in microseconds."""
    from pyspark.sql import functions as fn

    c = fn.col
    event, received = fn.unix_micros("event_time"), fn.unix_micros("received_time")

    def inside(name: str, low: float, high: float) -> Any:
        return c(name).isNull() | c(name).between(low, high)

    track = (c("track_id") != "") | ((c("event_type") == "follow") & c("artist_id").isNotNull())
    surface = fn.when(c("surface").isNull() | c("surface").isin(*SURFACES), c("surface"))
    return (
        _spark.read.parquet(*task.raw)
        .where((c("event_id") != "") & (c("user_id") != "") & track)
        .where(c("event_type").isin(*EVENT_TYPES) & c("time_quality").isin(*TIME_QUALITIES))
        .where((fn.octet_length("event_id") <= 1024) & (fn.octet_length("user_id") <= 1024))
        .where(fn.coalesce(fn.octet_length("track_id"), fn.lit(0)) <= 1024)
        .where(received.between(EARLIEST_US, task.import_end_us + 366 * DAY_US))
        .where((event >= EARLIEST_US) & (event < task.import_end_us) & (event - received <= DAY_US))
        .where(inside("played_ms", 0, 86_400_000))
        .where(inside("track_duration_ms", 1000, 86_400_000))
        .where(c("propensity").isNull() | ((c("propensity") > 0) & (c("propensity") <= 1)))
        .where(inside("position", 0, 2**31 - 1) & inside("candidate_set_size", 1, 2**31 - 1))
        .where(inside("source_skip_level", 0, 3))
        .select(
            *(n for n in CARRIED if n not in ("event_time", "surface", "country", "source")),
            fn.least(event, received).alias("t"),
            received.alias("received"),
            fn.when(event > received, "derived").otherwise(c("time_quality")).alias("time_quality"),
            fn.when(c("surface").isNull(), None)
            .otherwise(fn.coalesce(surface, fn.lit("unknown")))
            .alias("surface"),
            fn.upper("country").alias("country"),
            fn.coalesce("source", fn.lit("parquet")).alias("source"),
            "client_id", "played_ms", "track_duration_ms", "reason_end", "source_skip_level",
        )
    )  # fmt: skip


def kept(valid: Frame) -> Frame:
    """One row of each (user, event id), users above the cap out, near duplicates marked."""
    from pyspark.sql import Window
    from pyspark.sql import functions as fn

    c = fn.col
    order = Window.partitionBy("user_id", "event_id").orderBy("received")
    once = valid.withColumn("n", fn.row_number().over(order)).where("n = 1").drop("n")
    per_day = once.groupBy("user_id", fn.floor(c("t") / DAY_US).alias("d")).count()
    heavy = per_day.where("count > 5000").select("user_id").distinct()
    once = once.join(heavy, "user_id", "left_anti")
    play = c("event_type") == "play"
    previous = Window.partitionBy("user_id", "track_id", play).orderBy("t", "event_id")
    near = (
        play
        & (c("t") - fn.lag("t").over(previous) <= 60_000_000)
        & ~c("client_id").eqNullSafe(fn.lag("client_id").over(previous))
    )
    return once.withColumn("near", fn.coalesce(near, fn.lit(False)))


def derive(table: Frame) -> Frame:
    """Flags and ends, and of plays and impressions the start of their session."""
    from pyspark.sql import Window
    from pyspark.sql import functions as fn

    c = fn.col
    play = c("event_type") == "play"
    ended = c("t") + fn.least(fn.coalesce(c("played_ms"), fn.lit(0)) * 1000, fn.lit(DAY_US))
    by_time = (c("played_ms") < 30_000) & ~fn.coalesce(
        c("reason_end").isin(*NOT_A_SKIP), fn.lit(False)
    )
    skipped = fn.coalesce(by_time, c("source_skip_level") >= 2)
    ratio = c("played_ms") / c("track_duration_ms")
    table = (
        table.where("not near")
        .drop("near", "client_id")
        .withColumn("play", play)
        .withColumn("shown", c("event_type") == "impression")
        .withColumn("maker", c("play") | c("shown"))
        .withColumn("ended", fn.when(play, ended).otherwise(c("t")))
        .withColumn("streamed", c("played_ms") >= 30_000)
        .withColumn("skipped", fn.when(c("time_quality") != "sync", skipped))
        .withColumn("completion", fn.least(fn.greatest(ratio, fn.lit(0.0)), fn.lit(1.0)))
    )
    # Other events are in a partition of their own: they make no sessions.
    user = Window.partitionBy("user_id", "maker").orderBy("t", "event_id")
    before = user.rowsBetween(Window.unboundedPreceding, -1)
    starts = fn.coalesce(c("t") - fn.max("ended").over(before) >= 1_800_000_000, fn.lit(True))
    return table.withColumn("starts", starts).withColumn(
        "session_us", fn.max(fn.when(c("starts"), c("t"))).over(user)
    )


def looked_up(
    points: Frame, queries: Frame, keys: list[str], values: dict[str, Any], instants: dict[str, Any]
) -> Frame:
    """Running values strictly before some instants.

    Args:
      points: keys, `instant`, and what `values` need.
      queries: keys, `user_id`, `event_id`, and what `instants` need.
      keys: a running value is within these.
      values: name -> aggregate over points.
      instants: name -> instant.

    Returns:
      `user_id`, `event_id`, and `<instant>_<value>` for each.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as fn

    c = fn.col
    lookups = (
        queries.select(
            *(c(key).alias(f"k{i}") for i, key in enumerate(keys)),
            "user_id",
            "event_id",
            fn.explode(
                fn.array(
                    *(
                        fn.struct(fn.lit(n).alias("at"), e.alias("instant"))
                        for n, e in instants.items()
                    )
                )
            ).alias("x"),
        )
        .select("*", "x.at", "x.instant")
        .drop("x")
    )
    points = points.select(
        *(c(key).alias(f"k{i}") for i, key in enumerate(keys)),
        *(name for name in points.columns if name not in keys),
    )
    window = (
        Window.partitionBy(*(f"k{i}" for i in range(len(keys))))
        .orderBy("instant")
        .rangeBetween(Window.unboundedPreceding, -1)
    )
    both = points.unionByName(lookups, allowMissingColumns=True)
    found = both.select(
        "user_id", "event_id", "at", *(v.over(window).alias(n) for n, v in values.items())
    )
    return (
        found.where(c("at").isNotNull())
        .groupBy("user_id", "event_id")
        .agg(
            *(
                fn.max(fn.when(c("at") == at, c(name))).alias(f"{at}_{name}")
                for at in instants
                for name in values
            )
        )
    )


def by_user(table: Frame, query: Frame) -> Frame:
    """User and session counts, and the latest plays."""
    from pyspark.sql import Window
    from pyspark.sql import functions as fn

    c = fn.col
    no = fn.lit(False)
    order = Window.partitionBy("user_id").orderBy("t", "event_id")
    plays = table.where("play").select(
        "user_id",
        c("t").alias("instant"),
        fn.lit("play").alias("kind"),
        fn.struct(
            fn.row_number().over(order).alias("n"),
            fn.collect_list(fn.struct("t", "track_id"))
            .over(order.rowsBetween(-9, 0))
            .alias("plays"),
        ).alias("latest"),
    )
    ends = table.where("play").select(
        "user_id",
        c("ended").alias("instant"),
        fn.coalesce("streamed", no).alias("streamed"),
        fn.coalesce("skipped", no).alias("skipped"),
    )
    others = table.where(c("event_type").isin("impression", "like")).select(
        "user_id", c("t").alias("instant"), c("event_type").alias("kind")
    )
    points = plays.unionByName(ends, allowMissingColumns=True).unionByName(
        others, allowMissingColumns=True
    )
    values = {
        "plays": fn.count(fn.when(c("kind") == "play", 1)),
        "impressions": fn.count(fn.when(c("kind") == "impression", 1)),
        "likes": fn.count(fn.when(c("kind") == "like", 1)),
        "streams": fn.count(fn.when(c("streamed"), 1)),
        "skips": fn.count(fn.when(c("skipped"), 1)),
        "latest": fn.max("latest"),
    }
    instants = {"now": c("t"), "then": c("t") - WEEK_US, "start": c("session_us")}
    return looked_up(points, query, ["user_id"], values, instants)


def by_item(table: Frame, query: Frame) -> Frame:
    """Counts of (user, track) and of (user, artist)."""
    from pyspark.sql import functions as fn

    c = fn.col
    instants = {"now": c("t"), "then": c("t") - WEEK_US}
    track = looked_up(
        table.where("maker").select("user_id", "track_id", c("t").alias("instant"), "play"),
        query,
        ["user_id", "track_id"],
        {
            "track_plays": fn.count(fn.when(c("play"), 1)),
            "track_shown": fn.count(fn.when(~c("play"), 1)),
            "track_last_us": fn.max(fn.when(c("play"), c("instant"))),
        },
        instants,
    )
    artist = looked_up(
        table.where("play and artist_id is not null").select(
            "user_id", "artist_id", c("t").alias("instant"), fn.lit(True).alias("play")
        ),
        query.where("artist_id is not null"),
        ["user_id", "artist_id"],
        {"artist_plays": fn.count(fn.when(c("play"), 1))},
        instants,
    )
    return track.join(artist, ["user_id", "event_id"], "left")


def item_counts(table: Frame) -> Frame:
    """Counts of (track, day): the seven days before, as known at midnight."""
    from pyspark.sql import functions as fn

    c = fn.col
    happened, known = fn.floor(c("t") / DAY_US), fn.floor(c("received") / DAY_US)
    return (
        table.where("maker")
        .groupBy("track_id", happened.alias("happened"), known.alias("known"))
        .agg(
            fn.count_if(c("play")).alias("plays"),
            fn.count_if(c("play") & c("streamed")).alias("streams"),
            fn.count_if(c("shown")).alias("impressions"),
        )
        .where("greatest(happened, known) + 1 <= happened + 7")
        .withColumn(
            "day", fn.expr("explode(sequence(greatest(happened, known) + 1, happened + 7))")
        )
        .groupBy("track_id", "day")
        .agg(
            fn.sum("plays").alias("item_plays_7d"),
            fn.sum("streams").alias("item_streams_7d"),
            fn.sum("impressions").alias("item_impressions_7d"),
        )
    )


def outcomes(table: Frame) -> Frame:
    """What impressions led to, by (user_id, event_id) of the impression."""
    from pyspark.sql import Window
    from pyspark.sql import functions as fn

    c = fn.col
    order = (
        Window.partitionBy("user_id", "track_id", "surface")
        .orderBy("t", "play", "event_id")
        .rowsBetween(Window.unboundedPreceding, 0)
    )
    latest = fn.last(fn.when(c("shown"), fn.struct("event_id", "t")), ignorenulls=True).over(order)
    result = fn.struct("t", c("event_id").alias("id"), "streamed", "skipped", "completion")
    return (
        table.where("maker")
        .select("user_id", "play", result.alias("led"), latest.alias("credited"))
        .where(c("play") & (c("led.t") - c("credited.t") < 1_800_000_000))
        .groupBy("user_id", c("credited.event_id").alias("event_id"))
        .agg(fn.min_by("led", fn.struct("led.t", "led.id")).alias("led"))
    )


def resolved(table: Frame, query: Frame, yes: str, no: str) -> Frame:
    """The latest `yes` or `no` before t + 1 day, by (user_id, event_id)."""
    from pyspark.sql import functions as fn

    c = fn.col
    actions = table.where(c("event_type").isin(yes, no)).select(
        "user_id",
        "track_id",
        c("t").alias("instant"),
        fn.struct(c("t"), c("event_id").alias("id"), (c("event_type") == yes).alias("yes")).alias(
            "act"
        ),
    )
    # Only queries of tracks that were ever acted on can find something.
    acted = actions.select("user_id", "track_id").distinct()
    values, instants = {yes: fn.max("act")}, {"end": c("t") + DAY_US}
    few = query.join(acted, ["user_id", "track_id"], "left_semi")
    return looked_up(actions, few, ["user_id", "track_id"], values, instants)


def run(task: Task) -> None:
    from pyspark import StorageLevel
    from pyspark.sql import functions as fn

    c = fn.col
    everything = kept(read_valid(task)).persist(StorageLevel.MEMORY_AND_DISK)
    last_day = everything.agg(fn.floor(fn.max("t") / DAY_US)).first()[0]
    # An import stands for all its days, so what is known ends with its last event's day.
    watermark_us = (int(last_day or 0) + 1) * DAY_US
    read = c("t").between(task.first_us - WEEK_US, task.end_us + DAY_US - 1)
    table = derive(everything.where(read)).persist(StorageLevel.MEMORY_AND_DISK)
    table.count()
    everything.unpersist()
    latest_us = min(task.end_us - 1, watermark_us - DAY_US)
    examples = table.where("shown").where(c("t").between(task.first_us, latest_us))
    query = examples.select("user_id", "event_id", "track_id", "artist_id", "t", "session_us")
    key = ["user_id", "event_id"]
    joined = (
        examples.join(by_user(table, query), key)
        .join(by_item(table, query), key)
        .join(outcomes(table), key, "left")
        .join(resolved(table, query, "like", "unlike"), key, "left")
        .join(resolved(table, query, "save", "unsave"), key, "left")
        .withColumn("day", fn.floor(c("t") / DAY_US))
        .join(fn.broadcast(item_counts(table)), ["track_id", "day"], "left")
    )
    _rows(joined).write.parquet(str(task.rows))


def _rows(joined: Frame) -> Frame:
    from pyspark.sql import functions as fn

    c = fn.col
    t, zero, no = c("t"), fn.lit(0), fn.lit(False)
    inside = t - c("session_us") <= DAY_US
    history = fn.coalesce(
        fn.filter("now_latest.plays", lambda play: play["t"] >= t - WEEK_US), fn.array()
    )

    def ms(us: Any) -> Any:
        return fn.floor(us / 1000).cast("long")

    def so_far(name: str) -> Any:
        return fn.when(inside, c(f"now_{name}") - c(f"start_{name}"))

    def week(name: str) -> Any:
        return c(f"now_{name}") - c(f"then_{name}")

    last_us = fn.element_at(c("now_latest.plays"), -1)["t"]
    played = c("led").isNotNull()

    def label(name: str, absent: Any) -> Any:
        return fn.when(played, c(f"led.{name}")).otherwise(absent)

    def found(action: str) -> Any:
        act = f"end_{action}"
        return fn.coalesce(c(f"{act}.yes") & (c(f"{act}.t") >= t), no)

    track_plays = week("track_plays")
    rows = joined.select(
        *(fn.timestamp_micros("t").alias(n) if n == "event_time" else c(n) for n in CARRIED),
        fn.when(inside, fn.xxhash64("user_id", "session_us")).alias("session_id"),
        fn.transform(history, lambda play: play["track_id"]).alias("history_track_ids"),
        fn.transform(history, lambda play: ms(t - play["t"])).alias("history_ms_ago"),
        *(
            fn.coalesce(f"item_{n}_7d", zero).alias(f"item_{n}_7d")
            for n in ("plays", "streams", "impressions")
        ),
        fn.when(inside, ms(t - c("session_us"))).alias("session_age_ms"),
        *(so_far(n).alias(f"session_{n}") for n in ("plays", "impressions", "skips")),
        fn.when(inside & (last_us >= c("session_us")), ms(t - last_us)).alias(
            "session_ms_since_play"
        ),
        *(
            week(n).alias(f"user_{n}_7d")
            for n in ("plays", "impressions", "likes", "streams", "skips")
        ),
        track_plays.alias("user_track_plays_7d"),
        fn.when(track_plays > 0, ms(t - c("now_track_last_us"))).alias("user_track_ms_since_play"),
        week("track_shown").alias("user_track_impressions_7d"),
        week("artist_plays").alias("user_artist_plays_7d"),
        played.alias("label_played"),
        ms(c("led.t") - t).alias("label_play_delay_ms"),
        label("streamed", no).alias("label_streamed_30s"),
        label("completion", fn.lit(0.0)).alias("label_completion"),
        label("skipped", no).alias("label_skip_2"),
        found("like").alias("label_liked"),
        found("save").alias("label_saved"),
    )

    def number(name: str) -> Any:
        return c(f"label_{name}").cast("double")

    return rows.withColumn(
        "label_reward",
        number("completion") * 0.5
        + number("liked") * 2.0
        + number("saved") * 2.0
        + number("skip_2") * -0.5
        + number("streamed_30s"),
    )


if __name__ == "__main__":
    main(run, prepare)
    _spark.stop()
