"""Tallies: the integer counts of a split's rows that a version's report is drawn from.

Nested dicts of integers with string keys: those of any number of tables add up with `counts.total`,
to the same however the rows were bundled. Nothing is divided here. A table holds all rows that a
listener has in the split (a shard does), so that distinct listeners and sessions add up too.

| key                                        | integers                                          |
|--------------------------------------------|---------------------------------------------------|
| `rows`, `users`                            | rows, distinct listeners                          |
| `days` / UTC day                           | rows                                              |
| `surfaces` / surface                       | rows; targets of sequences                        |
| `status` / `label_status`                  | rows                                              |
| `labels` / column / `days` / day           | `known` rows, and `true` rows, or their `sum`, or |
|                                            | for fractions `sum_micro`                         |
| `labels` / column / `surfaces` / surface   | the same                                          |
| `features` / column / `days` / day         | `known` (not null) and `nonzero` rows             |
| `histograms` / name / lower edge           | see below                                         |
| `popularity` / group / lower edge          | positives, and negatives of a type, by the plays  |
|                                            | of their track, in bins that double               |
| `experiments` / id / `users`               | distinct listeners                                |
| `experiments` / id / `variants` / variant  | `rows`, `users`, `reward_known`,                  |
|                                            | `reward_sum_micro`                                |

`sum_micro` is in millionths, each row rounded before it is added. A feature is zero where it has
nothing to tell: 0, false, an empty text or list. A row of sequences stands on the day of its last
event, and its labels are those of its targets, each on the target's own day; a row of sessions
stands on the day and surface of its start.

Histograms count sessions by `session_rows`, `session_tracks` (distinct) and `session_minutes`, rows
by `window_events`, in bins that double: lower edges 0, 1, 2, 4, ...; and plays by `play_percent`,
how much of the track was played: 0, 5, ..., 95, and 100 for all of it and more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from transforms.counts import Counts
from transforms.datasets.sequences import BITS
from transforms.manifest import ColumnEntry
from transforms.timeline import IntArray

MICRO = 1_000_000

PERCENT_STEP = 5  # width of a bin of `play_percent`

_TIMES = {
    "ranking": pl.col("event_time"),
    "retrieval": pl.col("event_time"),
    "sequences": pl.col("event_times").list.last(),
    "sessions": pl.col("session_start"),
}
_SURFACES = {
    "ranking": pl.col("surface"),
    "retrieval": pl.col("surface"),
    "sequences": pl.lit("unknown"),  # those of its targets take their place
    "sessions": pl.col("first_surface"),
}
_DAY, _SURFACE, _ROWS = "__day", "__surface", "__rows"


def tally(
    rows: pl.DataFrame,
    kind: str,
    columns: tuple[ColumnEntry, ...],
    popularity: pl.DataFrame | None = None,
) -> Counts:
    """The tallies of a table of one split's rows.

    Args:
      rows: rows of a dataset; for each of its listeners, all that the split has.
      kind: of the dataset: ranking, retrieval, sequences or sessions.
      columns: of the dataset, which say what is a label and what is covered.
      popularity: `track_id` (distinct) and `plays`, for the popularity of positives and negatives;
        a track it lacks has none. Without it, `item_plays_7d` tells that of positives.
    """
    labels = [c.name for c in columns if c.family == "label" and _is_number(rows[c.name].dtype)]
    covered = [c.name for c in columns if _is_covered(c, rows[c.name].dtype)]
    found = _by_day_and_surface(rows, _TIMES[kind], _SURFACES[kind], labels, covered)
    if kind == "sequences":
        targets = _targets(rows)
        judged = [name for name in targets.columns if name.startswith("label_")]
        of_targets = _by_day_and_surface(
            targets, pl.col("event_times"), pl.col("surfaces"), judged, []
        )
        found |= {key: of_targets[key] for key in ("surfaces", "labels")}
    return {
        "rows": rows.height,
        **found,
        "status": _values(rows["label_status"]) if "label_status" in rows.columns else {},
        "histograms": _histograms(rows, kind),
        "popularity": _popularity(rows, popularity),
        **_listeners(rows),
    }


def _is_number(kind: pl.DataType) -> bool:
    return kind.is_numeric() or kind == pl.Boolean()


def _is_covered(column: ColumnEntry, kind: pl.DataType) -> bool:
    """Ids and times are there in every row; lists of ids may be empty."""
    is_key = column.identifier and not isinstance(kind, pl.List)
    return column.family != "label" and not is_key and not kind.is_temporal()


def _by_day_and_surface(
    rows: pl.DataFrame, time: pl.Expr, surface: pl.Expr, labels: list[str], covered: list[str]
) -> Counts:
    """`days`, `surfaces`, `labels` and `features`, by one pass that groups by day and surface."""
    sums: list[tuple[str, str, str, pl.Expr]] = []  # section, column, what is counted, of a row
    for section, names, value in (
        ("labels", labels, _label_value),
        ("features", covered, _nonzero),
    ):
        for name in names:
            if rows[name].null_count():  # else it is known in all rows, which are counted anyway
                sums.append((section, name, "known", pl.col(name).is_not_null()))
            sums.append((section, name, *value(name, rows[name].dtype)))
    cells = (
        rows.select(
            time.dt.date().alias(_DAY),
            surface.fill_null("unknown").alias(_SURFACE),
            pl.lit(1, pl.Int64).alias(_ROWS),
            *(value.alias(str(index)) for index, (*_, value) in enumerate(sums)),
        )
        .group_by(_DAY, _SURFACE)
        .agg(pl.all().sum().cast(pl.Int64))
        .with_columns(pl.col(_DAY).cast(pl.String))
    )
    result: Counts = {"labels": {}, "features": {}}
    for axis, key in (("days", _DAY), ("surfaces", _SURFACE)):
        by_key = cells.group_by(key).agg(pl.exclude(_DAY, _SURFACE).sum()).sort(key)
        keys = by_key[key].to_list()
        result[axis] = _paired(keys, by_key[_ROWS])
        for index, (section, name, what, _) in enumerate(sums):
            if axis == "days" or section == "labels":
                columns = result[section].setdefault(name, {})
                if axis not in columns:
                    columns[axis] = {text: {"known": n} for text, n in result[axis].items()}
                for text, number in _paired(keys, by_key[str(index)]).items():
                    columns[axis][text][what] = number
    return result


def _paired(keys: Iterable[str], numbers: pl.Series) -> Counts:
    return dict(zip(keys, numbers.to_list(), strict=True))


def _label_value(name: str, kind: pl.DataType) -> tuple[str, pl.Expr]:
    """("true", "sum" or "sum_micro", what a row adds to it)."""
    if kind == pl.Boolean():
        return "true", pl.col(name).fill_null(value=False)
    if kind.is_float():
        return "sum_micro", _micro(name)
    return "sum", pl.col(name).cast(pl.Int64).fill_null(0)


def _micro(name: str) -> pl.Expr:
    return (pl.col(name) * MICRO).round().cast(pl.Int64).fill_null(0)


def _nonzero(name: str, kind: pl.DataType) -> tuple[str, pl.Expr]:
    column = pl.col(name)
    if isinstance(kind, pl.List):
        column = column.list.len() > 0
    elif kind == pl.String():
        column = column.str.len_bytes() > 0
    elif kind != pl.Boolean():
        column = column != 0
    return "nonzero", column.fill_null(value=False)


def _targets(rows: pl.DataFrame) -> pl.DataFrame:
    """The targets of sequences with a column for each label; null where a bit is not known."""
    lists = ("event_times", "surfaces", "is_target", "label_masks", "label_known_masks", "rewards")
    events = rows.select(lists).explode(lists, empty_as_null=False).filter("is_target")
    return events.select(
        "event_times",
        "surfaces",
        *(
            pl.when(pl.col("label_known_masks") & bit != 0)
            .then(pl.col("label_masks") & bit != 0)
            .alias(f"label_{name}")
            for name, bit in BITS.items()
        ),
        pl.col("rewards").fill_nan(None).alias("label_reward"),
    )


def _values(column: pl.Series) -> Counts:
    return dict(column.value_counts().sort(column.name).iter_rows())


def _doubling(values: Any) -> Counts:
    """Counts of whole numbers >= 0 in bins that double: 0, 1, 2 to 3, 4 to 7, ..."""
    return _doubled(_doubling_bins(values))


def _doubling_bins(values: Any) -> IntArray:
    """The bin of each whole number >= 0: that of 0, and one for each number of bits."""
    # frexp is exact where a logarithm is not: v = m 2^e with 0.5 <= m < 1.
    return np.frexp(np.asarray(values, dtype=np.float64))[1]


def _doubled(bins: IntArray) -> Counts:
    return {str((1 << bit) >> 1): n for bit, n in enumerate(np.bincount(bins).tolist()) if n}


def _percent(shares: pl.Series) -> Counts:
    """Counts in bins of `PERCENT_STEP`; null and NaN are no share."""
    known = shares.fill_nan(None).drop_nulls().to_numpy()
    bins = np.floor(np.clip(known, 0, 1) * (100 // PERCENT_STEP)).astype(np.int64)
    return {str(i * PERCENT_STEP): n for i, n in enumerate(np.bincount(bins).tolist()) if n}


def _histograms(rows: pl.DataFrame, kind: str) -> Counts:
    if kind == "sequences":
        return {
            "window_events": _doubling(rows["track_ids"].list.len()),
            "play_percent": _percent(rows["played_ratios"].explode(empty_as_null=False)),
        }
    if kind == "sessions":
        return {
            "session_tracks": _doubling(rows["tracks"]),
            "session_minutes": _doubling(
                (rows["session_end"] - rows["session_start"]).dt.total_minutes()
            ),
            "play_percent": _percent(rows["completions"].explode(empty_as_null=False)),
        }
    sessions = rows.select("session_id").drop_nulls().group_by("session_id").len()
    return {
        "session_rows": _doubling(sessions["len"]),
        "play_percent": _percent(rows["label_completion"].filter(rows["label_played"])),
    }


def _popularity(rows: pl.DataFrame, popularity: pl.DataFrame | None) -> Counts:
    """By group, the bins of its tracks' plays: `positive` for rows that are or led to a play,
    `not played` for shown ones that did not, and a group for each type of sampled negative."""
    if "track_id" not in rows.columns:
        return {}
    played = pl.col("label_played")
    group = pl.when(played).then(pl.lit("positive")).when(~played).then(pl.lit("not played"))
    if popularity is not None:
        groups = [rows.select("track_id", group=group)]
        if "neg_track_ids" in rows.columns:
            negatives = rows.select(track_id="neg_track_ids", group="neg_types")
            groups.append(negatives.explode("track_id", "group", empty_as_null=False))
        counted = pl.concat(groups)
        # As an Enum a track is its row in `popularity`: half of the time of a join.
        track = counted["track_id"].cast(pl.Enum(popularity["track_id"]), strict=False)
        plays = popularity["plays"].gather(track.to_physical())
        counted = counted.select("group").with_columns(plays=plays)
    elif "item_plays_7d" in rows.columns:
        counted = rows.select(plays="item_plays_7d", group=group)
    else:
        return {}
    bins = _doubling_bins(counted["plays"].fill_null(0))
    names = counted["group"].unique().drop_nulls()
    in_group = {name: (counted["group"] == name).fill_null(value=False) for name in names}
    return {name: _doubled(bins[mask.to_numpy()]) for name, mask in in_group.items()}


def _listeners(rows: pl.DataFrame) -> Counts:
    """`users`, and `experiments` of the rows that were in one."""
    if "experiment_id" not in rows.columns:
        packed = "user_id" not in rows.columns
        users = rows["user_ids"].explode(empty_as_null=False) if packed else rows["user_id"]
        return {"users": users.n_unique(), "experiments": {}}
    arms = rows.group_by("experiment_id", "variant", "user_id").agg(
        rows=pl.len().cast(pl.Int64),
        reward_known=pl.col("label_reward").count().cast(pl.Int64),
        reward_sum_micro=_micro("label_reward").sum(),
    )
    experiments: Counts = {}
    tried = arms.drop_nulls("experiment_id").with_columns(pl.col("variant").fill_null("unknown"))
    for (name,), table in tried.partition_by("experiment_id", as_dict=True).items():
        variants = table.group_by("variant").agg(
            pl.col("rows", "reward_known", "reward_sum_micro").sum(),
            users=pl.col("user_id").n_unique().cast(pl.Int64),
        )
        experiments[str(name)] = {
            "users": table["user_id"].n_unique(),
            "variants": {row.pop("variant"): row for row in variants.iter_rows(named=True)},
        }
    return {"users": arms["user_id"].n_unique(), "experiments": experiments}
