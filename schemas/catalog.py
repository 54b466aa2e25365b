"""`CatalogTrack`: what is known of a track, and since when."""

from __future__ import annotations

from schemas.fields import Field, Kind, Schema

CATALOG = Schema(
    name="CatalogTrack",
    version=1,
    doc="One track of the catalog. A track exists for recommendation from its release time on.",
    fields=(
        Field("track_id", Kind.STRING, "Track.", True),
        Field("track_name", Kind.STRING, "Title as displayed."),
        Field("artist_id", Kind.STRING, "Main artist.", True),
        Field("artist_name", Kind.STRING, "Artist as displayed."),
        Field("album_id", Kind.STRING, "Album; null for a single without one."),
        Field("genre", Kind.STRING, "Main genre."),
        Field("track_duration_ms", Kind.INT64, "Length of the track.", True, unit="ms"),
        Field("release_time", Kind.TIMESTAMP_US, "First moment the track could be played.", True),
    ),
)
