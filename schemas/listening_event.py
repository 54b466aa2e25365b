"""`ListeningEvent`: the one shape every raw log is adapted to.

Time: `event_time` is when a play STARTED or an impression was shown; `received_time` is when the
server got the event. A source's adapter says how it derives both (`transforms/adapters/`).
"""

from __future__ import annotations

from schemas.fields import Field, Kind, Schema

EVENT_TYPES = ("play", "impression", "like", "unlike", "save", "unsave", "hide", "follow")

# Spotify's extended streaming history and the MSSD log use these codes; `unknown` also stands for
# a code this list does not know (counted as a repair, never silently).
REASONS_START = (
    "trackdone", "fwdbtn", "backbtn", "clickrow", "clickside", "playbtn", "appload", "remote",
    "uriopen", "endplay", "trackerror", "popup", "autoplay", "persisted", "nextbtn", "reload",
    "switched-to-audio", "switched-to-video", "unknown",
)  # fmt: skip
REASONS_END = (
    "trackdone", "fwdbtn", "backbtn", "clickrow", "clickside", "playbtn", "appload", "remote",
    "uriopen", "endplay", "trackerror", "popup", "logout", "unexpected-exit",
    "unexpected-exit-while-paused", "nextbtn", "reload", "autoplay", "persisted",
    "switched-to-audio", "switched-to-video", "unknown",
)  # fmt: skip

SURFACES = (
    "home", "now_playing", "search", "library", "playlist", "album", "artist", "radio", "queue",
    "other", "unknown",
)  # fmt: skip

TIME_QUALITIES = ("reported", "derived", "sync", "synthetic")

_S, _B, _I32, _I64, _F, _T = (
    Kind.STRING,
    Kind.BOOL,
    Kind.INT32,
    Kind.INT64,
    Kind.FLOAT64,
    Kind.TIMESTAMP_US,
)

LISTENING_EVENT = Schema(
    name="ListeningEvent",
    version=1,
    doc="One thing a listener did or was shown. Times are UTC microseconds.",
    fields=(
        Field("event_id", _S, "Id of the event; a retransmission carries the same id.", True),
        Field("event_type", _S, "What happened.", True, symbols=EVENT_TYPES),
        Field("user_id", _S, "Listener; a pseudonym where a key is configured.", True),
        Field("track_id", _S, "Track; null only on `follow`."),
        Field("artist_id", _S, "Main artist of the track, or the artist followed."),
        Field("album_id", _S, "Album the track was played from."),
        Field("event_time", _T, "Start of the play, or moment of the impression or action.", True),
        Field("received_time", _T, "When the server received the event.", True),
        Field(
            "time_quality", _S,
            "How event_time came about: reported by the client, derived (end minus played), sync "
            "(stamped when an offline device synced), synthetic (source has no absolute time).",
            True, symbols=TIME_QUALITIES,
        ),
        Field("played_ms", _I64, "Milliseconds of audio played; null when the source does not "
              "say. Plays only.", unit="ms", post_decision=True),
        Field("track_duration_ms", _I64, "Length of the track; null when unknown.", unit="ms"),
        Field("reason_start", _S, "Why the play started.", symbols=REASONS_START,
              fallback="unknown"),
        Field("reason_end", _S, "Why the play ended.", symbols=REASONS_END, fallback="unknown",
              post_decision=True),
        Field("skipped", _B, "The source's own skip flag; never trusted alone.",
              post_decision=True),
        Field("source_skip_level", _I32, "Skip level given by a source without durations (MSSD): "
              "0 not skipped, 1 most played, 2 briefly, 3 very briefly.", unit="1",
              post_decision=True),
        Field("surface", _S, "Where in the product the item was shown or the play was started.",
              symbols=SURFACES, fallback="unknown"),
        Field("shelf", _S, "Shelf (row) of the surface."),
        Field("position", _I32, "0-based slot in the shelf.", unit="1"),
        Field("request_id", _S, "Recommendation request that the impression answered."),
        Field("candidate_set_size", _I32, "Number of candidates the policy chose from.", unit="1"),
        Field("policy_id", _S, "Logging policy that chose the item."),
        Field("model_version", _S, "Version of the model behind the policy."),
        Field("propensity", _F, "Probability, 0 < p <= 1, with which the policy put this item "
              "into this slot.", unit="1"),
        Field("is_exploration", _B, "The slot was filled by the exploration arm."),
        Field("experiment_id", _S, "A/B test the user was in."),
        Field("variant", _S, "Arm of that test."),
        Field("context_uri", _S, "Playlist, album or station the play belongs to."),
        Field("shuffle", _B, "Shuffle mode was on."),
        Field("offline", _B, "The device was offline during the play."),
        Field("premium", _B, "The user had a paid plan."),
        Field("platform", _S, "Client platform, such as ios, android, desktop, web."),
        Field("country", _S, "ISO 3166-1 alpha-2 country of the connection."),
        Field("client_id", _S, "Which client or device sent the event; tells two reports of one "
              "play apart."),
        Field("source_session_id", _S, "Session id given by a source whose sessions are given "
              "(MSSD); null elsewhere."),
        Field("source", _S, "Adapter that produced the event.", True),
    ),
)  # fmt: skip
