"""Session rows: one a session with its plays as lists, for embeddings and session models.

A session (see `transforms.sessions`) is owned by the UTC day of its start. Its plays are those that
start within the cap. It is mature when it is over (nothing of the user within the gap after its
last end, or the cap is past) and the label window of its last play is closed. Features are as of
its first event; everything else is what happened in it, so nothing here but the features may
predict it.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from schemas import LISTENING_EVENT, forms
from transforms import timeline
from transforms.datasets import rows
from transforms.datasets.rows import BuildRange, Built, SideTables
from transforms.features.context import FeatureContext
from transforms.features.registry import FEATURES, compute
from transforms.listening import Listening
from transforms.manifest import ColumnEntry
from transforms.specs import SessionsSpec
from transforms.timeline import BoolArray, IntArray

KEY = ("user_id", "session_id")

_FIRST = ("surface", "premium", "platform", "country", "source")

_UTC = pl.Datetime("us", "UTC")
_SCALARS: dict[str, tuple[pl.DataType, str, str]] = {
    "user_id": (pl.String(), "context", "Listener."),
    "session_id": (pl.Int64(), "session", "Hash of the user and the session's first event."),
    "session_start": (_UTC, "context", "When its first event happened."),
    "session_end": (_UTC, "session", "When its last play ended, or its last impression was shown."),
    "plays": (pl.Int64(), "session", "Plays in it."),
    "impressions": (pl.Int64(), "session", "Impressions in it."),
    "tracks": (pl.Int64(), "session", "Distinct tracks played in it."),
    "streams": (pl.Int64(), "session", "Its plays of at least 30 s; unknown counts as no."),
    "skips": (pl.Int64(), "session", "Its plays skipped at level 2; unknown counts as no."),
    "label_returned_24h": (
        pl.Boolean(),
        "label",
        "Another session started within 24 h of its start; null if the horizon is shorter.",
    ),
}
_LISTS: dict[str, tuple[pl.DataType, str, str]] = {
    "track_ids": (pl.String(), "session", "Tracks of its plays, oldest first."),
    "artist_ids": (pl.String(), "session", "Their artists; empty where unknown."),
    "surfaces": (pl.String(), "session", "Surface of each play; unknown where there is none."),
    "offsets_ms": (pl.Int64(), "session", "Milliseconds from the session's start to each play."),
    "completions": (pl.Float64(), "session", "Share of each track played; NaN if unknown."),
    "rewards": (pl.Float64(), "label", "Reward of each play; NaN if unknown."),
}


def schema(spec: SessionsSpec) -> dict[str, pl.DataType]:
    """Column name -> Polars type, in order."""
    events = forms.polars_schema(LISTENING_EVENT)
    return {
        **{name: kind for name, (kind, _, _) in _SCALARS.items()},
        **{f"first_{name}": events[name] for name in _FIRST},
        **{name: FEATURES[name].feature.type for name in spec.features},
        **{name: kind for name, (kind, _) in rows.SPLIT_COLUMNS.items() if "user" in name},
        **{name: pl.List(kind) for name, (kind, _, _) in _LISTS.items()},
    }


def columns(spec: SessionsSpec) -> tuple[ColumnEntry, ...]:
    """The columns as the manifest lists them."""
    said = {name: (family, text) for name, (_, family, text) in {**_SCALARS, **_LISTS}.items()}
    entries = {entry.name: entry for entry in rows.row_columns(spec)}
    nullable = {"label_returned_24h"} | {f"first_{name}" for name in _FIRST}
    result = []
    for name, kind in schema(spec).items():
        if name in said or name.startswith("first_"):
            family, text = said.get(name, ("context", ""))
            if name.startswith("first_"):
                text = f"Of its first event. {entries[name.removeprefix('first_')].description}"
            result.append(
                ColumnEntry(
                    name=name,
                    type=forms.type_name(kind),
                    nullable=name in nullable,
                    description=text,
                    family=family,
                    unit="ms" if name.endswith("_ms") else None,
                    identifier=name in ("user_id", "session_id", "track_ids", "artist_ids"),
                )
            )
        else:
            result.append(entries[name])
    return tuple(result)


def build(listening: Listening, spec: SessionsSpec, within: BuildRange, side: SideTables) -> Built:
    """The sessions that start in the range."""
    sessions = _Sessions(listening, spec)
    wanted = np.zeros(listening.events.height, dtype=bool)
    wanted[sessions.first] = sessions.plays >= spec.min_plays
    closes_us = listening.time_us.copy()
    closes_us[sessions.first] = sessions.closes_us
    known_us = listening.time_us.copy()
    known_us[sessions.first] = sessions.over_us
    chosen = rows.choose(listening, wanted, closes_us, known_us, spec, within)
    in_range = (listening.time_us[sessions.first] >= within.first_us) & (
        listening.time_us[sessions.first] < within.end_us
    )
    counts = {
        **chosen.counts,
        "sessions": len(chosen.rows),
        "too_short": int((in_range & (sessions.plays < spec.min_plays)).sum()),
    }
    at = np.searchsorted(sessions.first, chosen.rows)
    table = sessions.table(at, spec, within, side)
    counts |= {"plays": int(sessions.plays[at].sum())}
    return Built(rows.by_split(table, chosen.split), counts)


class _Sessions:
    """Every session of a bucket: the event that starts it, and its events in order."""

    def __init__(self, listening: Listening, spec: SessionsSpec) -> None:
        self._listening = listening
        makers, found = listening.makers, listening.sessions
        inside = np.flatnonzero(~found.overflow)
        order = inside[np.argsort(found.start[inside], kind="stable")]
        self._events = makers[order]  # by session, then time
        starts, begins = np.unique(found.start[order], return_index=True)
        self._begins = np.append(begins, len(order)).astype(np.int64)
        self.first = makers[starts]
        plays = timeline.prefix_sums(listening.is_play[self._events])
        self.plays = plays[self._begins[1:]] - plays[self._begins[:-1]]
        self._end_us = self._largest(listening.end_us)
        rule = spec.sessions.rule
        start_us = listening.time_us[self.first]
        # Past the cap nothing joins it; before, an event may for as long as the gap after its end,
        # and one of a session that the source gives whenever it comes.
        full_us = start_us + rule.cap_us + 1
        given = listening.events["source_session_id"].gather(self.first).is_not_null().to_numpy()
        over_us = np.where(given, full_us, np.minimum(self._end_us + rule.gap_us, full_us))
        last_us = self._largest(listening.time_us)
        self.closes_us = np.maximum(over_us, last_us + spec.labels.horizon_us)
        self.over_us = self._largest(listening.played_out_us)

    def _largest(self, values: IntArray) -> IntArray:
        """Largest value over each session's events."""
        if not len(self._events):
            return np.zeros(0, dtype=np.int64)
        return np.maximum.reduceat(values[self._events], self._begins[:-1])

    def _sum(self, at: IntArray, flags: BoolArray) -> IntArray:
        sums = timeline.prefix_sums(flags[self._events])
        return sums[self._begins[at + 1]] - sums[self._begins[at]]

    def table(
        self, at: IntArray, spec: SessionsSpec, within: BuildRange, side: SideTables
    ) -> pl.DataFrame:
        """`schema` rows of some sessions."""
        listening = self._listening
        first = self.first[at]
        context = FeatureContext.at(
            listening, first, spec.history_length, side.item_snapshots, within.like_sources
        )
        flat, _ = timeline.flat_ranges(self._begins[at], self._begins[at + 1])
        played = self._events[flat]
        played = played[listening.is_play[played]]
        offsets = np.concatenate(([0], np.cumsum(self.plays[at])))
        of_play = FeatureContext.at(
            listening, played, spec.history_length, side.item_snapshots, within.like_sources
        )
        censored = np.zeros(len(played), dtype=bool)
        outcome = rows.outcomes(listening, spec.attribution.windows)
        labelled = rows.label_table(of_play, outcome, censored, spec, within)
        of_first = rows.label_table(
            context, outcome, np.zeros(len(first), dtype=bool), spec, within
        )
        events = listening.events[played]
        session_start_us = np.repeat(listening.time_us[first], self.plays[at])
        distinct = np.zeros(len(played), dtype=bool)
        session = np.repeat(np.arange(len(at)), self.plays[at])
        pairs = session * len(listening.user) + listening.tracks[played]
        distinct[np.unique(pairs, return_index=True)[1]] = True
        tracks = timeline.prefix_sums(distinct)
        lists = {
            "track_ids": events["track_id"],
            "artist_ids": events["artist_id"].fill_null(""),
            "surfaces": events["surface"].fill_null("unknown"),
            "offsets_ms": pl.Series((listening.time_us[played] - session_start_us) // 1000),
            "completions": labelled["label_completion"].fill_null(float("nan")),
            "rewards": labelled["label_reward"].fill_null(float("nan")),
        }
        ends = pl.Series(self._end_us[at]).cast(_UTC)
        flags = rows.split_flags(context, within.borders)
        return pl.DataFrame(
            {
                "user_id": listening.events["user_id"].gather(first),
                "session_id": listening.session_id.gather(first),
                "session_start": listening.events["event_time"].gather(first),
                "session_end": ends,
                "plays": self.plays[at],
                "impressions": self._sum(at, listening.is_impression),
                "tracks": tracks[offsets[1:]] - tracks[offsets[:-1]],
                "streams": self._sum(at, listening.is_stream),
                "skips": self._sum(at, listening.is_skip),
                "label_returned_24h": of_first["label_returned_24h"],
                **{f"first_{n}": listening.events[n].gather(first) for n in _FIRST},
                **compute(context, spec.features).to_dict(),
                "is_cold_user": flags["is_cold_user"],
                **{name: timeline.as_lists(each, offsets) for name, each in lists.items()},
            }
        ).select(list(schema(spec)))
