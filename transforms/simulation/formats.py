"""The raw formats of a simulated log: from events to a source's own columns, and its files.

Every format has a pure function `to_raw(events) -> table` (the source's columns as
`transforms/adapters/` documents them, plus the helpers below) and a container that writes such
tables bit by bit. Bytes depend on the tables alone: no time stamp, host or random marker is in
them.

| Format               | Holds                 | Container                      |
|----------------------|-----------------------|--------------------------------|
| parquet, avro, jsonl | every event           | as named; jsonl .gz, .zst      |
| lastfm1k             | plays                 | tab separated; .gz, .zst       |
| listenbrainz         | plays                 | JSON lines; .gz, .zst          |
| spotify              | plays                 | JSON array; .gz, .zst          |
| yambda_multi_event   | plays, likes, hides   | Parquet                        |

A real Spotify export is one person's: simulate one user for one. In lastfm1k each written piece is
newest first, not the whole file.
"""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, cast

import polars as pl

from schemas import LISTENING_EVENT, forms

# Columns beside the source's own; they are never written.
RECEIVED = "_received_time"  # Datetime us UTC: decides the partition
TYPE = "_event_type"  # String: `play`, `impression`, ...: what can be broken in which way

_SYNC_MARKER = b"playhead-sim-avr"  # 16 bytes; a random one would make every file another
_HELPERS = (pl.col("received_time").alias(RECEIVED), pl.col("event_type").alias(TYPE))
_TIMES = {"event_time", "received_time", "timestamp"}
_DISTINCT = _TIMES | {"event_id", "propensity", "played_ms", "relevance", "click_probability"}
_JSON_TIME = "%Y-%m-%dT%H:%M:%S%.3fZ"

COMPRESSIONS = {"none": "", "gzip": ".gz", "zstd": ".zst"}


class RawFile(Protocol):
    """An open file of some container."""

    def write(self, table: pl.DataFrame) -> None:
        """Appends the rows of a raw table, without its helper columns."""

    def write_records(self, records: list[bytes]) -> None:
        """Appends records that are already encoded, and may be broken; text containers only."""

    def close(self) -> None:
        """Finishes the container and closes the stream."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A raw format.

    Attributes:
      name: as the ingest's `--format` calls it.
      extension: of its files, without a compression's.
      to_raw: events (ListeningEvent columns) to the source's columns, RECEIVED and TYPE; rows
        that the source cannot hold are left out, the others stay in order.
      open: from a binary stream to a RawFile, which closes the stream.
      encode: one bytes object a row, for text formats.
    """

    name: str
    extension: str
    to_raw: Callable[[pl.DataFrame], pl.DataFrame]
    open: Callable[[BinaryIO], RawFile]
    encode: Callable[[pl.DataFrame], list[bytes]] | None = None


def compressed(stream: BinaryIO, compression: str) -> BinaryIO:
    """The stream behind a compressor: `none`, `gzip` or `zstd`. Closing it closes both."""
    if compression == "gzip":
        return cast(BinaryIO, _Gzip(stream))
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=3).stream_writer(stream, closefd=True)
    return stream


class _Gzip(gzip.GzipFile):
    """Without name and time in the header, so that equal content has equal bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0)
        self._below = stream

    def close(self) -> None:
        super().close()
        self._below.close()


# --- containers -----------------------------------------------------------------------------------


def _own(table: pl.DataFrame) -> pl.DataFrame:
    return table.drop(RECEIVED, TYPE, strict=False)


class _TypedFile:
    """What typed containers share: they hold no record that is not typed."""

    def write_records(self, records: list[bytes]) -> None:
        if records:
            raise ValueError("a typed container takes no encoded records")


class ParquetFile(_TypedFile):
    """Parquet, one row group a `write`. Snappy: fast, and what loggers write.

    A file without any `write` is empty, which is no Parquet: write a table without rows at least.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._writer: Any = None

    def write(self, table: pl.DataFrame) -> None:
        import pyarrow.parquet as pq

        rows = _own(table).to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            # Without Arrow's own schema, text is plain UTF-8 to any reader. A dictionary of values
            # that never repeat only costs time.
            self._writer = pq.ParquetWriter(
                self._stream,
                rows.schema,
                compression="snappy",
                store_schema=False,
                use_dictionary=[name for name in rows.column_names if name not in _DISTINCT],
                write_statistics=[name for name in rows.column_names if name in _TIMES],
            )
        self._writer.write_table(rows, row_group_size=max(rows.num_rows, 1))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._stream.close()


class _AvroFile(_TypedFile):
    """Avro with deflate. Row by row, as the container is: about 40 times slower than Parquet."""

    def __init__(self, stream: BinaryIO) -> None:
        from fastavro.write import Writer

        self._stream = stream
        self._writer = Writer(
            stream, forms.avro_schema(LISTENING_EVENT), codec="deflate", sync_marker=_SYNC_MARKER
        )

    def write(self, table: pl.DataFrame) -> None:
        rows = _own(table).with_columns(pl.col("event_time", "received_time").to_physical())
        for row in rows.iter_rows(named=True):
            self._writer.write(row)

    def close(self) -> None:
        self._writer.flush()
        self._stream.close()


class _TextFile:
    """Encoded records one after the other, with something before, between and after them."""

    def __init__(
        self,
        stream: BinaryIO,
        encode: Callable[[pl.DataFrame], list[bytes]],
        frame: tuple[bytes, bytes, bytes] = (b"", b"\n", b"\n"),
    ) -> None:
        self._stream, self._encode = stream, encode
        self._before, self._between, self._after = frame

    def write(self, table: pl.DataFrame) -> None:
        self.write_records(self._encode(table))

    def write_records(self, records: list[bytes]) -> None:
        if records:
            self._stream.write(self._before + self._between.join(records))
            self._before = self._between

    def close(self) -> None:
        self._stream.write(self._after)
        self._stream.close()


def encode_json(table: pl.DataFrame) -> list[bytes]:
    """One JSON object a row, nulls written out."""
    return _own(table).write_ndjson().encode().splitlines() if table.height else []


def encode_tabs(table: pl.DataFrame) -> list[bytes]:
    """Tab separated values a row, nulls empty, nothing quoted."""
    text = _own(table).write_csv(separator="\t", include_header=False, quote_style="never")
    return text.encode().split(b"\n")[:-1]


# --- columns --------------------------------------------------------------------------------------


def canonical(events: pl.DataFrame) -> pl.DataFrame:
    """ListeningEvents as they are."""
    return events.with_columns(_HELPERS)


def canonical_json(events: pl.DataFrame) -> pl.DataFrame:
    """ListeningEvents with times as ISO 8601 text in UTC, milliseconds."""
    times = pl.col("event_time", "received_time").dt.strftime(_JSON_TIME)
    return events.with_columns(_HELPERS).with_columns(times)


def _plays(events: pl.DataFrame) -> pl.DataFrame:
    return events.filter(pl.col("event_type") == "play").with_columns(_HELPERS)


def _number(column: str, prefix: str) -> pl.Expr:
    """The number in an id such as `t0000017`."""
    return pl.col(column).str.strip_prefix(prefix).cast(pl.Int64)


def _named(word: str, column: str, prefix: str) -> pl.Expr:
    """The name the catalog gives to an id: `Track 17`."""
    return pl.concat_str(pl.lit(f"{word} "), _number(column, prefix).cast(pl.String))


def lastfm1k(events: pl.DataFrame) -> pl.DataFrame:
    """Last.fm 1K: user, start of the play (whole seconds), artist id and name, track id and name.

    Sorted by start, newest first. Arrival is not told.
    """
    plays = _plays(events).sort("event_time", descending=True, maintain_order=True)
    # Partitions are cut from runs of the received day, so it is kept in runs.
    plays = plays.sort(pl.col(RECEIVED).dt.date(), maintain_order=True)
    return plays.select(
        pl.col("user_id"),
        pl.col("event_time").dt.strftime("%Y-%m-%dT%H:%M:%SZ").alias("timestamp"),
        pl.col("artist_id").alias("artist_mbid"),
        _named("Artist", "artist_id", "a").alias("artist_name"),
        pl.col("track_id").alias("track_mbid"),
        _named("Track", "track_id", "t").alias("track_name"),
        RECEIVED,
        TYPE,
    )


def spotify(events: pl.DataFrame) -> pl.DataFrame:
    """Spotify extended streaming history: ts is the END of the play, or the sync of an offline one.

    offline_timestamp is the client's start in seconds, for offline plays.
    """
    end = (
        pl.when("offline")
        .then("received_time")
        .otherwise(pl.col("event_time") + pl.duration(milliseconds="played_ms", time_unit="us"))
    )
    nothing = pl.lit(None, pl.String)
    return _plays(events).select(
        end.dt.strftime("%Y-%m-%dT%H:%M:%SZ").alias("ts"),
        pl.col("user_id").alias("username"),
        "platform",
        pl.col("played_ms").alias("ms_played"),
        pl.col("country").alias("conn_country"),
        pl.lit("192.0.2.1").alias("ip_addr"),  # an address of the documentation range
        _named("Track", "track_id", "t").alias("master_metadata_track_name"),
        _named("Artist", "artist_id", "a").alias("master_metadata_album_artist_name"),
        _named("Album", "album_id", "al").alias("master_metadata_album_album_name"),
        pl.concat_str(pl.lit("spotify:track:"), "track_id").alias("spotify_track_uri"),
        nothing.alias("episode_name"),
        nothing.alias("episode_show_name"),
        nothing.alias("spotify_episode_uri"),
        "reason_start",
        "reason_end",
        "shuffle",
        "skipped",
        "offline",
        pl.when("offline").then(pl.col("event_time").dt.epoch("s")).alias("offline_timestamp"),
        pl.lit(False).alias("incognito_mode"),
        RECEIVED,
        TYPE,
    )  # fmt: skip


def listenbrainz(events: pl.DataFrame) -> pl.DataFrame:
    """ListenBrainz dump: listened_at is the START in seconds, inserted_at the arrival."""
    info = pl.struct(
        pl.col("track_duration_ms").alias("duration_ms"),
        pl.lit(None, pl.Int64).alias("duration"),
        pl.col("played_ms").alias("ms_played"),
        pl.col("client_id").alias("submission_client"),
    )
    mapping = pl.struct(
        pl.col("track_id").alias("recording_mbid"),
        pl.col("album_id").alias("release_mbid"),
        pl.concat_list("artist_id").alias("artist_mbids"),
    )
    return _plays(events).select(
        _number("user_id", "u").alias("user_id"),
        pl.col("event_time").dt.epoch("s").alias("listened_at"),
        (pl.col("received_time").dt.epoch("us") / 1e6).alias("inserted_at"),
        pl.concat_str(pl.lit("msid-"), "track_id").alias("recording_msid"),
        pl.struct(
            _named("Artist", "artist_id", "a").alias("artist_name"),
            _named("Track", "track_id", "t").alias("track_name"),
            _named("Album", "album_id", "al").alias("release_name"),
            mapping.alias("mbid_mapping"),
            info.alias("additional_info"),
        ).alias("track_metadata"),
        RECEIVED,
        TYPE,
    )


_YAMBDA_ACTIONS = {"play": "listen", "like": "like", "unlike": "unlike", "hide": "dislike"}
_YAMBDA_EPOCH_S = 1_704_067_200  # 2024-01-01, where the adapter lays the source's zero


def yambda_multi_event(events: pl.DataFrame) -> pl.DataFrame:
    """Yambda multi_event: seconds, rounded down to 5, since 2024-01-01 (or 0 if before)."""
    played = pl.col("played_ms") * 100 // pl.col("track_duration_ms")
    listened = pl.col("event_type") == "play"
    seconds = (pl.col("event_time").dt.epoch("s") - _YAMBDA_EPOCH_S).clip(lower_bound=0)
    kept = events.filter(pl.col("event_type").is_in(list(_YAMBDA_ACTIONS)))
    return kept.select(
        _number("user_id", "u").cast(pl.UInt32).alias("uid"),
        (seconds // 5 * 5).cast(pl.UInt32).alias("timestamp"),
        _number("track_id", "t").cast(pl.UInt32).alias("item_id"),
        (pl.col("surface") != "home").cast(pl.UInt8).alias("is_organic"),
        pl.when(listened).then(played).cast(pl.UInt16).alias("played_ratio_pct"),
        pl.when(listened)
        .then(pl.col("track_duration_ms") // 1000)
        .cast(pl.UInt32)
        .alias("track_length_seconds"),
        pl.col("event_type").replace(_YAMBDA_ACTIONS).alias("event_type"),
        *_HELPERS,
    )


def _text(
    name: str,
    extension: str,
    to_raw: Callable[[pl.DataFrame], pl.DataFrame],
    encode: Callable[[pl.DataFrame], list[bytes]],
    frame: tuple[bytes, bytes, bytes] = (b"", b"\n", b"\n"),
) -> Format:
    return Format(name, extension, to_raw, lambda stream: _TextFile(stream, encode, frame), encode)


FORMATS = {
    each.name: each
    for each in (
        Format("parquet", ".parquet", canonical, ParquetFile),
        Format("avro", ".avro", canonical, _AvroFile),
        _text("jsonl", ".jsonl", canonical_json, encode_json),
        _text("lastfm1k", ".tsv", lastfm1k, encode_tabs),
        _text("spotify", ".json", spotify, encode_json, (b"[\n", b",\n", b"\n]\n")),
        _text("listenbrainz", ".jsonl", listenbrainz, encode_json),
        Format("yambda_multi_event", ".parquet", yambda_multi_event, ParquetFile),
    )
}
