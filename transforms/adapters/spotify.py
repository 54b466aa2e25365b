"""Spotify listening history: the files a person gets with an export of their own account.

Sources: Spotify's help page "Understanding your data", and files of published exports.

`spotify`: extended streaming history (`endsong_N.json`, `Streaming_History_Audio_*.json`), one JSON
array a file. `spotify_small`: the short account data (`StreamingHistory_music_N.json`), likewise.

Person. Both files are about one person and name them only in columns that must not be read, so
`user_id` is the constant `me`. `username`, `ip_addr*` and `user_agent*` are not in the schemas
below, so they are never loaded. `platform` can carry a device model; only its family is kept.

Time. `ts` (ISO 8601, Z) and `endTime` (whole minutes, UTC) are when a stream ENDED.
* event_time = end - ms_played, time_quality `derived`. Pauses make it later than the true start;
  in the small form it is up to a minute early, and plays of one minute may change places.
* `offline_timestamp` is event_time (`reported`) where `offline` is true and it is plausible: after
  Spotify's launch, and the play ends by the end stamp with 60 s to spare for clocks. Else it is
  stale (by days, in real files) and not used. The source mixes units: above 1e11 it is
  milliseconds, else seconds; null and 0 are unknown.
* Sync bursts. A device that was offline may stamp all its plays when it comes back. One device
  plays one thing at a time, so in a run of stamps at most 10 s apart at most one play began before
  the first stamp, and the others fit between the first and the last:
      sum(ms_played) - max(ms_played) <= last - first + stamp resolution + 12 s for each crossfade.
  Plays of a run that breaks this get time_quality `sync` and event_time = the stamp, less one
  microsecond for each later play of the run so that the order of the file is kept. The same record
  twice counts once. Plays with a client start are not part of runs. `read` gives the whole file as
  one table, so no run is cut, except where the export itself starts a new file.
* received_time = the end stamp, the earliest moment the server can have known of the play. When it
  really arrived is not told (`arrival_known` is False).

Units. `ms_played`, `msPlayed` are milliseconds; never rescaled.

Nulls and rejects. `incognito`: a private session. `not_music`: an episode or audiobook and no
track. `missing_played_ms`: nothing to derive the start from. Rows with no uri at all have a null
track_id, rejected downstream. `conn_country` ZZ is unknown, so null. Empty reason codes are null;
unknown ones pass as they are and are repaired downstream.

Ids. track_id is the id of `spotify:track:<id>`, or a bare id; other uris stay whole (the last part
of `spotify:local:...` is a length, not an id). Artists and albums have names only: artist_id and
album_id are the names in NFC. The small form has no ids: track_id is `<artist> - <track>` in NFC,
so its tracks do not join with those of the extended history.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterator, Mapping

import polars as pl

from transforms.adapters.base import (
    Adapter,
    InputFile,
    Parsed,
    RawTable,
    conform,
    iso_time,
    non_empty,
)
from transforms.adapters.containers import read_json_array
from transforms.errors import InputFileError

USER_ID = "me"

_EXTENDED: dict[str, pl.DataType] = {
    "ts": pl.String(),
    "platform": pl.String(),
    "ms_played": pl.Int64(),
    "conn_country": pl.String(),
    "master_metadata_album_artist_name": pl.String(),
    "master_metadata_album_album_name": pl.String(),
    "spotify_track_uri": pl.String(),
    "spotify_episode_uri": pl.String(),
    "audiobook_uri": pl.String(),
    "audiobook_chapter_uri": pl.String(),
    "reason_start": pl.String(),
    "reason_end": pl.String(),
    "shuffle": pl.Boolean(),
    "skipped": pl.Boolean(),
    "offline": pl.Boolean(),
    "offline_timestamp": pl.Int64(),
    "incognito_mode": pl.Boolean(),
}
_SMALL: dict[str, pl.DataType] = {
    "endTime": pl.String(),
    "artistName": pl.String(),
    "trackName": pl.String(),
    "podcastName": pl.String(),  # StreamingHistory_podcast_N.json lies in the same folder
    "msPlayed": pl.Int64(),
}

_LAUNCH = datetime.datetime(2008, 10, 7, tzinfo=datetime.UTC)
_CLOCK_SLACK = datetime.timedelta(seconds=60)
_RUN_GAP = datetime.timedelta(seconds=10)
_CROSSFADE_MS = 12_000  # the longest the app offers
_MAX_PLAYED_MS = 10**12  # 31 years: bounds the arithmetic only, played_ms itself is kept

_UNIT_RULE = 10**11  # offline_timestamp: seconds up to here, milliseconds above
_LAST_MICROS = 9 * 10**18

# First match wins. `Partner` devices (televisions, speakers) name the platform they run on too.
_PLATFORMS = {
    r"^web": "web",
    r"^partner": "other",
    r"^ios|iphone|ipad": "ios",
    r"android": "android",
    r"windows": "windows",
    r"os ?x|macos": "macos",
    r"linux": "linux",
}


def _read(file: InputFile, schema: Mapping[str, pl.DataType]) -> Iterator[RawTable]:
    """At most one table, since sync bursts must not be cut."""
    tables = list(read_json_array(file, schema))
    if tables:
        rows = pl.concat([table.rows for table in tables])
        stamp = "ts" if "ts" in schema else "endTime"
        if rows.height and rows[stamp].null_count() == rows.height:
            raise InputFileError(
                file.path,
                f"no record has `{stamp}`; --format spotify is for the extended history, "
                "spotify_small for StreamingHistory_music_N.json",
            )
        yield RawTable(rows, pl.concat([table.rejects for table in tables]))


def _first_match(text: pl.Expr, patterns: Mapping[str, str], default: str) -> pl.Expr:
    matches = [
        pl.when(text.str.contains(pattern)).then(pl.lit(value))
        for pattern, value in patterns.items()
    ]
    return pl.when(text.is_not_null()).then(pl.coalesce(*matches, pl.lit(default)))


def _client_start(end: pl.Expr, played: pl.Expr) -> pl.Expr:
    """`offline_timestamp` as an instant where it can be trusted as the start, else null."""
    stamp = pl.col("offline_timestamp")
    micros = (
        pl.when(stamp.is_between(1, _UNIT_RULE))
        .then(stamp * 1_000_000)
        .when(stamp.is_between(_UNIT_RULE + 1, _LAST_MICROS // 1000))
        .then(stamp * 1000)
    )
    start = micros.cast(pl.Datetime("us", "UTC"))
    plausible = (
        pl.col("offline")
        & (start >= _LAUNCH)
        & (start <= end)
        & (start + played <= end + _CLOCK_SLACK)
    )
    return pl.when(plausible).then(start)


def _place(
    raw: pl.DataFrame,
    end: pl.Expr,
    played_ms: pl.Expr,
    track: tuple[str, ...],
    stamp_ms: int,
    client_start: Callable[[pl.Expr, pl.Expr], pl.Expr] | None = None,
) -> pl.DataFrame:
    """Adds `_end`, `_start` (Datetime us UTC) and `_quality` by the rules of the module docstring.

    Args:
      raw: a whole file; its order is kept.
      end: when each play ended, Datetime us UTC.
      played_ms: milliseconds played; negative counts as 0.
      track: columns that name what was played.
      stamp_ms: resolution of `end`.
      client_start: from end and played time (Duration) to the client's start, null where unknown.
    """
    played = pl.duration(milliseconds=pl.col("_played"), time_unit="us")
    client = pl.lit(None, pl.Datetime("us", "UTC"))
    if client_start is not None:
        client = client_start(pl.col("_end"), played)
    stamped = pl.col("_client").is_null() & pl.col("_played").is_not_null()
    # The same record twice is one play: it fills no time, and must get the same start.
    record = ("_end", "_played", "_client", *track)
    counted = pl.col("_row") == pl.col("_row").min().over(record)
    # A null stamp ends the run before it and is a run of its own.
    new_run = (pl.col("_stamp").diff() > _RUN_GAP).fill_null(value=True)
    filled = pl.col("_played").filter("_counted")
    span = (pl.col("_stamp").max() - pl.col("_stamp").min()).dt.total_milliseconds()
    room = span + stamp_ms + (filled.len().cast(pl.Int64) - 1) * _CROSSFADE_MS
    burst = filled.sum() - filled.max() > room
    later = pl.len().cast(pl.Int64) - 1 - pl.int_range(pl.len())
    return (
        raw.with_columns(_end=end, _played=played_ms.clip(0, _MAX_PLAYED_MS))
        .with_columns(_client=client)
        .with_columns(_stamp=pl.when(stamped).then("_end"))
        .with_row_index("_row")
        .with_columns(_counted=counted)
        .sort("_stamp", "_row", nulls_last=True)
        .with_columns(_run=new_run.cum_sum())
        .with_columns(
            _burst=burst.over("_run").fill_null(value=False),
            _later=pl.duration(microseconds=later.over("_run"), time_unit="us"),
        )
        .with_columns(
            _start=pl.coalesce(
                "_client",
                pl.when("_burst")
                .then((pl.col("_end") - pl.col("_later")).first().over(record))
                .otherwise(pl.col("_end") - played),
            ),
            _quality=pl.when(pl.col("_client").is_not_null())
            .then(pl.lit("reported"))
            .when("_burst")
            .then(pl.lit("sync"))
            .otherwise(pl.lit("derived")),
        )
        .sort("_row")
    )


def _conform(
    placed: pl.DataFrame,
    end_text: str,
    played: str,
    not_music: pl.Expr,
    incognito: pl.Expr,
    fields: Mapping[str, pl.Expr],
    source: str,
) -> pl.DataFrame:
    """What the two forms share: the fields of time and person, and the rejects."""
    reason = (
        pl.when(incognito)
        .then(pl.lit("incognito"))
        .when(not_music)
        .then(pl.lit("not_music"))
        .when(pl.col(played).is_null())
        .then(pl.lit("missing_played_ms"))
    )
    return conform(
        placed,
        {
            "event_type": pl.lit("play"),
            "user_id": pl.lit(USER_ID),
            "event_time": Parsed(pl.col("_start"), pl.col(end_text)),
            "received_time": Parsed(pl.col("_end"), pl.col(end_text)),
            "time_quality": pl.col("_quality"),
            "played_ms": pl.col(played),
            **fields,
        },
        source,
        reject=reason,
    )


def _extended_events(raw: pl.DataFrame) -> pl.DataFrame:
    placed = _place(
        raw,
        end=iso_time(pl.col("ts")).value,
        played_ms=pl.col("ms_played"),
        track=("spotify_track_uri", "spotify_episode_uri", "audiobook_chapter_uri"),
        stamp_ms=1000,
        client_start=_client_start,
    )
    uri = non_empty(pl.col("spotify_track_uri"))
    spoken = [
        non_empty(pl.col(name)).is_not_null()
        for name in ("spotify_episode_uri", "audiobook_uri", "audiobook_chapter_uri")
    ]
    country = non_empty(pl.col("conn_country"))
    return _conform(
        placed,
        end_text="ts",
        played="ms_played",
        not_music=uri.is_null() & pl.any_horizontal(*spoken),
        incognito=pl.col("incognito_mode"),
        fields={
            "track_id": uri.str.strip_prefix("spotify:track:"),
            "artist_id": non_empty(pl.col("master_metadata_album_artist_name")).str.normalize(),
            "album_id": non_empty(pl.col("master_metadata_album_album_name")).str.normalize(),
            "reason_start": non_empty(pl.col("reason_start")),
            "reason_end": non_empty(pl.col("reason_end")),
            "skipped": pl.col("skipped"),
            "shuffle": pl.col("shuffle"),
            "offline": pl.col("offline"),
            "platform": _first_match(
                non_empty(pl.col("platform")).str.to_lowercase(), _PLATFORMS, "other"
            ),
            "country": pl.when(country != "ZZ").then(country),
        },
        source="spotify",
    )


def _small_events(raw: pl.DataFrame) -> pl.DataFrame:
    placed = _place(
        raw,
        end=pl.col("endTime").str.to_datetime(
            "%Y-%m-%d %H:%M", time_unit="us", time_zone="UTC", strict=False
        ),
        played_ms=pl.col("msPlayed"),
        track=("artistName", "trackName", "podcastName"),
        stamp_ms=60_000,
    )
    artist = non_empty(pl.col("artistName")).str.normalize()
    track = non_empty(pl.col("trackName")).str.normalize()
    return _conform(
        placed,
        end_text="endTime",
        played="msPlayed",
        not_music=track.is_null() & non_empty(pl.col("podcastName")).is_not_null(),
        incognito=pl.lit(False),
        fields={"track_id": pl.concat_str(artist, pl.lit(" - "), track), "artist_id": artist},
        source="spotify_small",
    )


EXCLUDED = ("incognito", "not_music")

ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        Adapter(
            "spotify",
            "Spotify extended streaming history of one person (JSON array)",
            functools.partial(_read, schema=_EXTENDED),
            _extended_events,
            event_types=("play",),
            excluded_reasons=EXCLUDED,
        ),
        Adapter(
            "spotify_small",
            "Spotify account data, StreamingHistory_music_N.json of one person (JSON array)",
            functools.partial(_read, schema=_SMALL),
            _small_events,
            event_types=("play",),
            excluded_reasons=EXCLUDED,
        ),
    )
}
