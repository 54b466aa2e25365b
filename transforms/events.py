"""From adapted rows to stored events: validity, repairs, ids, duplicates, order.

All functions are pure, vectorized, and keep the order of rows unless they say otherwise. Their
tables have the columns of `adapters.base.EVENT_COLUMNS` with the types of EVENT_SCHEMA.
"""

from __future__ import annotations

import dataclasses
import datetime

import polars as pl

from schemas import LISTENING_EVENT, Kind
from transforms import hashing
from transforms.adapters.base import EVENT_COLUMNS, EVENT_SCHEMA, REJECT_REASON
from transforms.buckets import USER_HASH

DAY_MS = 86_400_000
UTC = datetime.UTC

NEAR_DUPLICATE = "near_duplicate"

# Store columns in order: the event, then what ingest adds.
STORE_SCHEMA: dict[str, pl.DataType] = {
    **EVENT_SCHEMA,
    USER_HASH: pl.UInt64(),
    NEAR_DUPLICATE: pl.Boolean(),
}

_MAX_ID_BYTES = 1024
_EARLIEST = datetime.datetime(2002, 1, 1, tzinfo=UTC)  # before any scrobble or listening log


@dataclasses.dataclass(frozen=True)
class ValidityRules:
    """Bounds of a valid event. Times are UTC.

    Attributes:
      day: the partition's day: what the server received on it.
      one_day_only: rows received on another day are not of this partition (counted `other_day`,
        not quarantined); False for sources that do not know when an event arrived.
      max_ahead_ms: how far a client clock may run ahead of the server; within it event_time is
        clamped to received_time (repair `clock_ahead`), beyond it the row is invalid.
      max_delay_ms: how late an offline play may arrive; only checked where arrival is known.
      max_played_ms: longest believable play.
      max_track_duration_ms: longest believable track.
    """

    day: datetime.date
    one_day_only: bool
    max_ahead_ms: int = DAY_MS
    max_delay_ms: int = 90 * DAY_MS
    max_played_ms: int = DAY_MS
    max_track_duration_ms: int = DAY_MS

    @property
    def day_start(self) -> datetime.datetime:
        return datetime.datetime.combine(self.day, datetime.time(), tzinfo=UTC)

    @property
    def day_end(self) -> datetime.datetime:
        return self.day_start + datetime.timedelta(days=1)

    @property
    def received_us(self) -> tuple[int, int]:
        """First and last received_time of the day, UTC microseconds since 1970."""
        first = int(self.day_start.timestamp()) * 1_000_000
        return first, first + DAY_MS * 1000 - 1

    @property
    def latest(self) -> datetime.datetime:
        """No time of an event is later than this."""
        return self.day_end + datetime.timedelta(days=366)


def derive_event_ids(table: pl.DataFrame) -> pl.DataFrame:
    """Fills null event ids from content, for sources that have none.

    The id hashes every column that tells two events apart (source, user, type, item, event_time,
    played time, client), so the same record read twice, from whichever file, is one event, and so
    is a listen that the source received again later.
    """
    parts = ["source", "event_type", "user_id", "track_id", "artist_id", "client_id"]
    numbers = ["event_time", "played_ms", "source_skip_level"]
    content = [pl.col(name) for name in parts]
    content += [pl.col(name).to_physical() for name in numbers]
    derived = hashing.content_id(content, "event")
    return table.with_columns(pl.coalesce("event_id", derived).alias("event_id"))


def repair(table: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Replaces what has a documented substitute, and counts each repair.

    * A value outside an enumeration that has a fallback becomes the fallback: `<field>_unknown`.
    * The country code is upper-cased (not counted).

    Returns:
      The table and repair name -> rows (zero counts left out).
    """
    exprs, flags = [], {}
    for field in LISTENING_EVENT.fields:
        if field.fallback is None:
            continue
        outside = pl.col(field.name).is_not_null() & ~pl.col(field.name).is_in(list(field.symbols))
        flags[f"{field.name}_unknown"] = outside
        exprs.append(
            pl.when(outside).then(pl.lit(field.fallback)).otherwise(field.name).alias(field.name)
        )
    exprs.append(pl.col("country").str.to_uppercase())
    counts = table.select(flag.sum().alias(name) for name, flag in flags.items()).row(0, named=True)
    return table.with_columns(exprs), {name: int(n) for name, n in counts.items() if n}


def _invalid_when(rules: ValidityRules) -> list[tuple[str, pl.Expr]]:
    """(reason, condition) in the order in which reasons win."""
    checks: list[tuple[str, pl.Expr]] = []
    for field in LISTENING_EVENT.fields:
        column = pl.col(field.name)
        if field.required:
            missing = column.is_null()
            if field.kind is Kind.STRING:
                missing |= column == ""
            checks.append((f"missing_{field.name}", missing))
        if field.symbols and field.fallback is None:
            checks.append((f"unknown_{field.name}", ~column.is_in(list(field.symbols))))
    follow = pl.col("event_type") == "follow"
    no_track = pl.col("track_id").is_null() | (pl.col("track_id") == "")
    checks.append(("missing_track_id", no_track & ~(follow & pl.col("artist_id").is_not_null())))
    checks += [
        (f"{name}_too_long", pl.col(name).str.len_bytes() > _MAX_ID_BYTES)
        for name in ("event_id", "user_id", "track_id")
    ]

    event, received = pl.col("event_time"), pl.col("received_time")
    latest = rules.latest
    checks.append(("event_time_out_of_range", ~event.is_between(_EARLIEST, latest)))
    checks.append(("received_time_out_of_range", ~received.is_between(_EARLIEST, latest)))
    ahead = datetime.timedelta(milliseconds=rules.max_ahead_ms)
    checks.append(("event_time_ahead_of_received_time", event - received > ahead))
    if rules.one_day_only:
        delay = datetime.timedelta(milliseconds=rules.max_delay_ms)
        checks.append(("event_time_too_old", received - event > delay))
    else:
        checks.append(("event_time_after_import_day", event >= rules.day_end))

    played, duration = pl.col("played_ms"), pl.col("track_duration_ms")
    checks += [
        ("negative_played_ms", played < 0),
        ("played_ms_too_long", played > rules.max_played_ms),
        ("track_duration_ms_not_positive", duration <= 0),
        # A track of less than a second is a duration in seconds where milliseconds are due.
        ("track_duration_ms_too_short", duration < 1000),
        ("track_duration_ms_too_long", duration > rules.max_track_duration_ms),
        ("propensity_out_of_range", ~((pl.col("propensity") > 0) & (pl.col("propensity") <= 1))),
        ("negative_position", pl.col("position") < 0),
        ("candidate_set_size_not_positive", pl.col("candidate_set_size") < 1),
        ("source_skip_level_out_of_range", ~pl.col("source_skip_level").is_between(0, 3)),
    ]
    return checks


def mark_invalid(table: pl.DataFrame, rules: ValidityRules) -> pl.DataFrame:
    """Fills REJECT_REASON of every invalid row that has none yet.

    A null in a comparison is not a violation. The reasons are the names in `_invalid_when`, and the
    first that applies wins, so each row has exactly one.
    """
    checks = [
        (reason, condition.fill_null(value=False)) for reason, condition in _invalid_when(rules)
    ]
    # Nearly every row is valid: which rule a row breaks is asked of the others only (4 times less
    # work than one cascade of reasons over all rows).
    broken = table.select(pl.any_horizontal(*(condition for _, condition in checks))).to_series()
    if not broken.any():
        return table
    reasons = [pl.when(condition).then(pl.lit(reason)) for reason, condition in checks]
    found = table.filter(broken).select(pl.coalesce(REJECT_REASON, *reasons)).to_series()
    return table.with_columns(table[REJECT_REASON].scatter(broken.arg_true(), found))


def of_other_day(rules: ValidityRules) -> pl.Expr:
    """True for rows, valid or not, that belong to another day's partition.

    A row whose received_time is missing or unbelievable belongs to the day its file was given for.
    """
    if not rules.one_day_only:
        return pl.lit(value=False)
    received = pl.col("received_time")
    other = (received < rules.day_start) | (received >= rules.day_end)
    return (other & received.is_between(_EARLIEST, rules.latest)).fill_null(value=False)


def clamp_clock(table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Moves event_time back to received_time where a client clock ran ahead.

    An event cannot happen after the server received it. time_quality of such rows becomes
    `derived`. Returns the table and the number of rows moved.
    """
    ahead = pl.col("event_time") > pl.col("received_time")
    count = int(table.select(ahead.sum()).item())
    if not count:
        return table, 0
    moved = table.with_columns(
        pl.when(ahead).then("received_time").otherwise("event_time").alias("event_time"),
        pl.when(ahead).then(pl.lit("derived")).otherwise("time_quality").alias("time_quality"),
    )
    return moved, count


def drop_duplicates(table: pl.DataFrame) -> tuple[pl.DataFrame, int, int]:
    """Keeps one row of each (user, event id).

    The winner is the row with the smallest received_time, then the smallest content hash: the same
    whatever the order of the input.

    Args:
      table: some or all of STORE_SCHEMA's columns; rows of a user are all here.

    Returns:
      The table, rows dropped, and how many of those had another content than the winner
      ("conflicting": the client sent two versions of one event).
    """
    key = hashing.hash64(pl.col("event_id"), "duplicate") ^ pl.col(USER_HASH)
    suspects = table.select(key.alias("key").is_duplicated()).to_series()
    if not suspects.any():
        return table, 0, 0
    columns = [name for name in EVENT_COLUMNS if name in table.columns and name != "received_time"]
    content = hashing.content_id([pl.col(name).to_physical() for name in columns], "content")
    some = table.filter(suspects).with_columns(content.alias("content"))
    kept = some.sort("user_id", "event_id", "received_time", "content").unique(
        ["user_id", "event_id"], keep="first", maintain_order=True
    )
    distinct = some.select(pl.struct("user_id", "event_id", "content").n_unique()).item()
    result = pl.concat([table.filter(~suspects), kept.select(table.columns)])
    return result, table.height - result.height, int(distinct) - kept.height


def mark_near_duplicates(table: pl.DataFrame, window_ms: int) -> pl.DataFrame:
    """Sets NEAR_DUPLICATE: the play repeats the previous play of its track by another client.

    Two clients that report one listening differ in event id and by some seconds (up to 54 s were
    seen: ListenBrainz issue 201). A play is flagged if the user's previous play of the same track
    began at most `window_ms` before it and came from another client (or one of the two has no
    client id while the other has). Other rows are false. Rows keep their order.
    """
    play = pl.col("event_type") == "play"
    plays = (
        table.select(USER_HASH, "track_id", "event_time", "event_id", "client_id", "event_type")
        .with_row_index("row")
        .filter(play)
        .with_columns(hashing.hash64(pl.col("track_id"), "near"))
        .sort(USER_HASH, "track_id", "event_time", "event_id")
    )
    same = (pl.col(USER_HASH) == pl.col(USER_HASH).shift()) & (
        pl.col("track_id") == pl.col("track_id").shift()
    )
    close = pl.col("event_time").diff() <= datetime.timedelta(milliseconds=window_ms)
    other_client = pl.col("client_id").ne_missing(pl.col("client_id").shift())
    rows = plays.filter(same & close & other_client)["row"]
    flags = pl.repeat(value=False, n=table.height, dtype=pl.Boolean, eager=True)
    if len(rows):
        flags = flags.scatter(rows, True)
    return table.with_columns(flags.alias(NEAR_DUPLICATE))


def above_cap(table: pl.DataFrame, max_events_per_day: int) -> pl.Series:
    """True for every row of a user with more than the cap on any one UTC day of event_time.

    No person listens that much; such a user (a bot, a shop, a stuck client) would also make one
    bucket hold up all others. The whole user is set aside, so that no half of them remains.
    """
    if table.height <= max_events_per_day:
        return pl.repeat(value=False, n=table.height, dtype=pl.Boolean, eager=True)
    per_day = table.group_by(USER_HASH, pl.col("event_time").dt.date().alias("day")).len()
    heavy = per_day.filter(pl.col("len") > max_events_per_day)[USER_HASH].unique()
    return table[USER_HASH].is_in(heavy.implode())


def sort_events(table: pl.DataFrame) -> pl.DataFrame:
    """Store order: user hash, event_time, event id. Total, since (user, event id) is unique."""
    return table.sort(USER_HASH, "event_time", "event_id")


def users_collide(table: pl.DataFrame) -> bool:
    """Whether two users of a sorted table share a user hash (0.7 % likely with 500 M users)."""
    same = pl.col(USER_HASH) == pl.col(USER_HASH).shift()
    return bool(
        table.select((same & (pl.col("user_id") != pl.col("user_id").shift())).any()).item()
    )
