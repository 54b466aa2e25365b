"""Last.fm 1K: `userid-timestamp-artid-artname-traid-traname.tsv` (Celma, 2010; non-commercial use).

Source: the data set's README. Tab separated, no header, no quoting, UTF-8: user id, time, artist
MBID (may be empty), artist name, track MBID (may be empty), track name. Newest first.

Time. ISO 8601 with Z: when the play STARTED, stamped by the client (`reported`). Arrival is not
told: received_time = event_time.

Units. None: no durations, so played_ms and track_duration_ms are null.

Ids. user_id is the data set's own pseudonym. artist_id is the MBID, else the artist's name;
track_id is the MBID, else `<artist> - <track>`, both in NFC. A track that has an MBID in one line
and none in another counts as two tracks.
The profile file (gender, age, country) is never read.
"""

from __future__ import annotations

import functools

import polars as pl

from transforms.adapters.base import Adapter, Parsed, conform, iso_time, non_empty
from transforms.adapters.containers import read_delimited

COLUMNS = ("user_id", "timestamp", "artist_mbid", "artist_name", "track_mbid", "track_name")


def _events(raw: pl.DataFrame) -> pl.DataFrame:
    # What several fields need is computed once.
    rows = raw.with_columns(
        _time=iso_time(pl.col("timestamp")).value,
        _written=non_empty(pl.col("timestamp")),
        _artist=non_empty(pl.col("artist_name")).str.normalize(),
        _track=non_empty(pl.col("track_name")).str.normalize(),
    )
    time = Parsed(pl.col("_time"), pl.col("_written"))
    return conform(
        rows,
        {
            "event_type": pl.lit("play"),
            "user_id": non_empty(pl.col("user_id")),
            "track_id": pl.coalesce(
                non_empty(pl.col("track_mbid")), pl.concat_str("_artist", pl.lit(" - "), "_track")
            ),
            "artist_id": pl.coalesce(non_empty(pl.col("artist_mbid")), "_artist"),
            "event_time": time,
            "received_time": time,
            "time_quality": pl.lit("reported"),
        },
        "lastfm1k",
    )


ADAPTERS = {
    "lastfm1k": Adapter(
        "lastfm1k",
        "Last.fm 1K users (tab separated, no header)",
        functools.partial(read_delimited, columns=COLUMNS, separator="\t", has_header=False),
        _events,
        event_types=("play",),
    )
}
