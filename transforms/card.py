"""The dataset card of a version: README.md, for people and for the Hugging Face Hub.

It is a pure function of the manifest and knows no clock, so equal data have an equal card. The
manifest is complete but for the card, croissant.json and itself; paths are relative to the folder
of the attempt, in which the card lies.

The front matter is what `datasets.load_dataset(<folder>)` and the Hub's viewer read: each split
with every Parquet file by name, never a glob; the features; rows and bytes. Bytes are those of the
files: what the rows take in memory is not known without reading them. A version without Parquet
files has no `configs`, and the viewer is switched off. The licence is for the owner of the data to
choose, so it is `unknown` until they do.

(Source: the Hub's dataset card reference, github.com/huggingface/hub-docs, datasetcard.md.)
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import yaml

from transforms import vocabulary
from transforms.manifest import ColumnEntry, FileEntry, InputVersionEntry, Manifest
from transforms.splits import SPLITS
from transforms.timeline import DAY_US

CARD_NAME = "README.md"

PRIVACY = (
    "User ids are as the store holds them: pseudonyms if `playhead ingest` was given a key, else "
    "the ids of the source. A listening history is personal data under a pseudonym, too: do not "
    "join it with other data, and do not try to find out who somebody is."
)
LICENCE = (
    "Not stated. Whoever owns the listening data has to choose one; until then, do not pass the "
    "dataset on."
)


class Kind(NamedTuple):
    """What there is to say about a kind of dataset: a row, its task on the Hub, its promise."""

    row: str
    tasks: tuple[str, ...]
    promises: tuple[str, ...]


_STRICT = "A feature at t sees events with `event_time` < t, strictly."
KINDS = {
    "ranking": Kind(
        "A row is an item that was shown to a listener: what was known before, and what came of "
        "it. A source that logs no impressions has a row a play instead.",
        ("tabular-classification", "tabular-regression"),
        (
            _STRICT,
            "Counts of an item over all listeners are those known at the midnight before t.",
        ),
    ),
    "retrieval": Kind(
        "A row is a play that counts as a positive: what was known of its listener before it, and "
        "the negatives it stands against.",
        ("other",),
        (
            _STRICT,
            "Draws (`uniform`, `popularity`, `mixed`) rest on what was known at midnight before t.",
            "What is `exposed` or `skipped` was so in the session of t, before t.",
        ),
    ),
    "sequences": Kind(
        "A row is a window of a listener's plays, oldest first; its lists go together, position by "
        "position. Plays with `is_target` are targets of this row and of no other.",
        ("other",),
        (
            "`action_masks` and `played_ratios` say what was known when the next play started.",
            "They say no more than was known at the end of the play's label window.",
            "The vocabulary knows the tracks of train's days only.",
        ),
    ),
    "sessions": Kind(
        "A row is a session of listening, with its plays as lists, oldest first.",
        ("other",),
        (
            "What is said of the listener is as of the session's first event.",
            "All else happened in the session, or after it, and may predict nothing of it.",
        ),
    ),
}

FAMILIES = {
    "context": "who, when and where",
    "session": "the session",
    "user": "the listener",
    "item": "the track",
    "user-item": "the listener and the track",
    "history": "the latest plays",
    "negative": "what the positive stands against",
    "sequence": "the plays of the window",
    "split": "what the splits say of a row",
}

SIDE_FILES = {
    "report": "the statistics and checks, to look at",
    "statistics": "statistics of a split (TensorFlow Metadata, binary)",
    "schema": "the schema they are checked against (TensorFlow Metadata, text)",
    "tallies": "counts behind the checks",
    "anomalies": "what the checks found",
    "vocabulary": "track of each `item_index`",
}

# What the counts of a build say, in the order of its stages; others are shown under their names.
# Rows of sequences are windows: there `unit`, what is withheld or in no split, is plays.
_COUNTS = {
    "events": "events used",
    "late": "events left out: received too late",
    "after_as_of": "events left out: received after the instant of `--as-of`",
    "duplicate_across_partitions": "events left out: received again on a later day",
    "near_duplicate": "events left out: one play reported by two clients",
    "forgotten": "events left out: of users that are forgotten",
    "sessions": "sessions",
    "immature": "{unit} withheld: their label window was not over",
    "too_short": "{short} left out: too few plays",
    "targets": "plays that are targets",
    "targets_too_short": "plays withheld: only in rows of too few plays",
    "examples": "rows made",
    "plays": "plays in them",
    "labelled": "{unit} with labels",
    "without_session": "{unit} without a session: past its cap, or stamped at sync time",
    "reward_unknown": "{unit} without a reward: one of its labels is unknown",
}
_COUNT_GROUPS = {
    "split_dropped": "{unit} in no split: ",
    "targets_unknown_track": "targets of tracks outside the vocabulary: ",
    "negatives": "negatives: ",
    "negatives_unfilled": "negatives that were not found: ",
}

_NEGATIVES = """\
`neg_types` says where a negative comes from: `uniform`, `popularity` and `mixed` are draws from the
tracks of the day; `exposed` was shown in the session before t and led to no play, also not after
t; `skipped` was played in the session before t and skipped.

`neg_log_q` is the natural logarithm of the probability q with which its source drew it for this
row. Subtract it from the track's score in a sampled softmax, s - log q (Bengio and Senécal 2008; Yi
et al. 2019): else popular tracks, which are drawn more often, are punished for it. Do the same for
the positive: with `positive_log_q`, or with `positive_in_batch_log_q` where the negatives are the
other positives of a batch. `neg_is_later_positive` marks negatives that became a positive of the
listener within the label window."""

_INDEXES = (
    (f"{vocabulary.PADDING}", "padding"),
    (f"{vocabulary.UNKNOWN}", "a track that is not in the vocabulary"),
    (f"{vocabulary.MASK}", "mask"),
    (f"{vocabulary.SEPARATOR}", "separator"),
    (f"from {vocabulary.FIRST_ITEM}", "the tracks of `vocabulary.parquet`"),
)

_COLUMN_HEADER = ("Column", "Type", "Unit", "Null", "Meaning")
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_HUB_TYPES = {"double": "float64"}  # all others have their Arrow name
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def data_files(manifest: Manifest) -> dict[str, list[FileEntry]]:
    """Split -> its Parquet files that hold rows, both in their order.

    Files and splits without rows are left out, for `datasets` fails on them.
    """
    found = {}
    for split in SPLITS:
        entries = [e for e in manifest.files_of(split) if e.format == "parquet" and e.rows]
        if entries:
            found[split] = sorted(entries, key=lambda entry: entry.path)
    return found


def kind_of(manifest: Manifest) -> Kind:
    """What there is to say about a dataset of this kind."""
    return KINDS[manifest.config["spec"]["kind"]]


def title(manifest: Manifest) -> str:
    """Name and days, such as `ranking, 2026-01-05 to 2026-01-09`."""
    first, last = manifest.config["start_date"], manifest.config["end_date"]
    return f"{manifest.name}, {first}" + ("" if first == last else f" to {last}")


def unwrap(type_name: str) -> tuple[str, int]:
    """Type of the values and depth of the lists around them: `list<int64>` is int64, 1."""
    depth = 0
    while type_name.startswith("list<"):
        type_name, depth = type_name.removeprefix("list<").removesuffix(">"), depth + 1
    return type_name, depth


def unit_of(column: ColumnEntry) -> str:
    """The unit of a column; empty for text and for plain numbers, whose unit is 1."""
    return "" if column.unit in (None, "1") else str(column.unit)


def limits(manifest: Manifest) -> list[str]:
    """What the rows cannot tell, a sentence or two each."""
    spec, counts = manifest.config["spec"], manifest.counts
    names = {column.name for column in manifest.columns}
    lateness = spec.get("labels", {}).get("lateness_days")
    found = []
    if "propensity" in names:
        found.append(
            "What was shown is what a recommender chose: who learns from the rows learns its "
            "habits. `propensity`, where it was logged, allows to correct for them."
        )
    if any(column.family == "label" for column in manifest.columns):
        found.append("A label that is null, or NaN in a list, is unknown. It is not negative.")
    if counts.get("immature"):
        unit = "plays" if spec["kind"] == "sequences" else "rows"
        found.append(
            f"{counts['immature']:,} {unit} are withheld, for their label window was not over. "
            "A later build of the same days has them."
        )
    if lateness is not None:
        found.append(
            f"Events that were received more than {lateness} days after they happened are left "
            f"out ({counts.get('late', 0):,} here)."
        )
    if manifest.config.get("left_context_missing_days"):
        found.append(
            f"The store begins {manifest.config['left_context_missing_days']} days after the "
            "first that features look at, so the first rows see less than the last."
        )
    return found


def front_matter(manifest: Manifest) -> dict[str, Any]:
    """The metadata of the card, as YAML will hold it."""
    parquet = data_files(manifest)
    rows = _split_rows(manifest)
    result: dict[str, Any] = {
        "pretty_name": title(manifest),
        "license": "unknown",
        "tags": ["music", "recommendation", manifest.config["spec"]["kind"], "playhead"],
        "task_categories": list(kind_of(manifest).tasks),
        "size_categories": [_size_category(sum(rows.values()))],
    }
    if not parquet:
        return result | {"viewer": False}
    return result | {
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": [entry.link for entry in entries]}
                    for split, entries in parquet.items()
                ],
            }
        ],
        "dataset_info": {
            "features": [_hub_feature(column) for column in manifest.columns],
            "splits": [
                {"name": split, "num_bytes": _total_bytes(entries), "num_examples": rows[split]}
                for split, entries in parquet.items()
            ],
            "download_size": sum(_total_bytes(entries) for entries in parquet.values()),
        },
    }


def render_card(manifest: Manifest) -> str:
    """The text of README.md."""
    head = yaml.safe_dump(front_matter(manifest), sort_keys=False, allow_unicode=True, width=10_000)
    parts = (
        f"---\n{head}---",
        f"# {title(manifest)}",
        _summary(manifest),
        _loading(manifest),
        _point_in_time(manifest),
        _splits(manifest),
        _labels(manifest),
        _families(manifest),
        _counts(manifest),
        _limits(manifest),
        f"## Privacy\n\n{PRIVACY}",
        f"## Licence\n\n{LICENCE}",
        _making(manifest),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


# The sections of the body.


def _summary(manifest: Manifest) -> str:
    rows = sum(_split_rows(manifest).values())
    key = " and ".join(f"`{name}`" for name in manifest.key)
    return (
        f"{kind_of(manifest).row}\n\n"
        f"{rows:,} rows, one for each {key}, of the UTC days {manifest.config['start_date']} to "
        f"{manifest.config['end_date']}, both included. "
        f"Version `{manifest.version}`, made by Playhead {manifest.code_version}."
    )


def _loading(manifest: Manifest) -> str:
    if not any(_split_rows(manifest).values()):
        return "This version has no rows."
    if not data_files(manifest):
        return (
            "The rows are written as TFRecord only, which Hugging Face `datasets` cannot load. The "
            "manifest, `../manifest.json`, lists the files."
        )
    return (
        "```python\n"
        "from datasets import load_dataset\n\n"
        'splits = load_dataset("path/of/this/folder")\n'
        "```"
    )


def _point_in_time(manifest: Manifest) -> str:
    rules = manifest.config["spec"].get("labels", {})
    promises = list(kind_of(manifest).promises)
    if "horizon_hours" in rules:
        promises.append(
            f"A label sees events in [t, t + {rules['horizon_hours']:g} h). A row is written when "
            "that window is over and its late events have arrived, so its labels never change."
        )
    if (as_of := manifest.config["as_of_us"]) is not None:
        promises.append(f"Nothing that was received after {_instant(as_of)} is seen.")
    return (
        "## Point in time\n\n"
        "Nothing that happened, or became known, after the moment t of a row can reach its "
        f"features.\n\n{_bullets(promises)}"
    )


def _splits(manifest: Manifest) -> str:
    first, end = _range_us(manifest)
    borders, counted = manifest.config["splits"], _split_rows(manifest)
    rows = []
    for split in SPLITS:
        if split in borders:
            start_us, end_us = max(borders[split][0], first), min(borders[split][1], end)
            span = (_minute(start_us), _minute(end_us)) if start_us < end_us else ("", "")
            paths = len(manifest.files_of(split))
            rows.append((f"`{split}`", f"{counted.get(split, 0):,}", f"{paths}", *span))
    table = _table(("Split", "Rows", "Files", "From", "To, exclusive"), rows)
    return (
        "## Splits\n\n"
        "By time, and by the start of a row's session, so that no session is in two. A listener is "
        f"in one file of a split only, in each format. Times are UTC.\n\n{table}"
    )


def _labels(manifest: Manifest) -> str:
    known = manifest.counts.get("labels", {})
    rows = []
    for column in manifest.columns:
        if column.family == "label":
            seen = known.get(column.name.removeprefix("label_"), {})
            numbers = (f"{seen[key]:,}" if key in seen else "" for key in ("unknown", "true"))
            rows.append((*_column_cells(column), *numbers))
    if not rows:
        return ""
    table = _table((*_COLUMN_HEADER, "Unknown", "True"), rows)
    return f"## Labels\n\nThey were known only after t: none of them is a feature.\n\n{table}"


def _families(manifest: Manifest) -> str:
    given = [column.family or "other" for column in manifest.columns]
    order = [*FAMILIES, *(name for name in dict.fromkeys(given) if name not in FAMILIES)]
    parts = ["## Columns"]
    for family in order:
        rows = [
            _column_cells(column)
            for column, name in zip(manifest.columns, given, strict=True)
            if name == family
        ]
        if family == "label" or not rows:
            continue
        meaning = f": {FAMILIES[family]}" if family in FAMILIES else ""
        parts.append(f"### {_text(family)}{meaning}\n\n{_table(_COLUMN_HEADER, rows)}")
        if family == "negative":
            parts.append(_NEGATIVES)
    if any(column.name == "item_index" for column in manifest.columns):
        parts.append(
            "`item_index` is a number of the vocabulary:\n\n"
            + _table(("Index", "Stands for"), _INDEXES)
        )
    return "\n\n".join(parts)


def _column_cells(column: ColumnEntry) -> tuple[str, ...]:
    nullable = "yes" if column.nullable else "no"
    name, kind = f"`{column.name}`", f"`{column.type}`"
    return name, kind, unit_of(column), nullable, column.description


def _counts(manifest: Manifest) -> str:
    counts, is_windows = manifest.counts, manifest.config["spec"]["kind"] == "sequences"
    words = {
        "unit": "plays" if is_windows else "rows",
        "short": "windows" if is_windows else "sessions",
    }
    shown = [(t.format(**words), counts[name]) for name, t in _COUNTS.items() if name in counts]
    for group, text in _COUNT_GROUPS.items():
        shown += [
            (text.format(**words) + _words(name), n)
            for name, n in sorted(counts.get(group, {}).items())
        ]
    shown += [
        (_words(name), n)
        for name, n in sorted(counts.items())
        if name not in _COUNTS and isinstance(n, int)
    ]
    rows = [(what, f"{number:,}") for what, number in shown]
    return "## What was counted\n\n" + _table(("What", "Number"), rows)


def _limits(manifest: Manifest) -> str:
    known = limits(manifest)
    return "## Known limits\n\n" + _bullets(known) if known else ""


def _making(manifest: Manifest) -> str:
    spec = yaml.safe_dump(manifest.config["spec"], sort_keys=True, allow_unicode=True, width=10_000)
    others = [
        f"- [`{entry.path}`]({entry.link}): {SIDE_FILES[entry.role]}"
        for entry in sorted(manifest.files, key=lambda entry: entry.path)
        if entry.role in SIDE_FILES
    ]
    files = "\n\nBeside the rows there are:\n\n" + "\n".join(others) if others else ""
    return (
        f"## How it was made\n\n```\n{_command(manifest)}\n```\n\n"
        f"from {len(manifest.inputs)} published inputs, most of them days of the store. The "
        "manifest, `../manifest.json`, names them, and every file with its SHA-256. The same "
        f"inputs, spec and version of Playhead give the same bytes.{files}\n\n"
        f"<details><summary>spec.yaml</summary>\n\n```yaml\n{spec}```\n\n</details>"
    )


def _command(manifest: Manifest) -> str:
    config = manifest.config
    parts = [
        "playhead build --store STORE --spec spec.yaml --output OUTPUT",
        f"--start-date {config['start_date']} --end-date {config['end_date']}",
    ]
    if config["as_of_us"] is not None:
        parts.append(f"--as-of {_instant(config['as_of_us']).isoformat()}")
    if config.get("catalog"):
        parts.append("--catalog CATALOG")
    parts += [
        f"--{entry.name.replace('_', '-')} {entry.version}"
        for entry in manifest.inputs
        if isinstance(entry, InputVersionEntry) and entry.name in ("semantic_ids", "vocabulary")
    ]
    return " \\\n    ".join(parts)


# Numbers, types and text.


def _split_rows(manifest: Manifest) -> dict[str, int]:
    """Rows of each split that has files: those of one format, for all hold the same rows."""
    result = {}
    for split in SPLITS:
        if entries := manifest.files_of(split):
            one = entries[0].format
            result[split] = sum(entry.rows for entry in entries if entry.format == one)
    return result


def _total_bytes(entries: list[FileEntry]) -> int:
    return sum(entry.bytes for entry in entries)


def _size_category(rows: int) -> str:
    """The Hub's class of a number of rows, such as `10K<n<100K`."""
    if rows < 1000:
        return "n<1K"
    power = (len(str(rows)) - 1) - 3
    if power >= len(_SIZES) - 1:
        return f"n>{_SIZES[-1]}"
    return f"{_SIZES[power]}<n<{_SIZES[power + 1]}"


def _hub_feature(column: ColumnEntry) -> dict[str, Any]:
    item, depth = unwrap(column.type)
    feature: Any = _HUB_TYPES.get(item, item)
    for _ in range(depth):
        feature = {"list": feature}
    return {"name": column.name, **(feature if depth else {"dtype": feature})}


def _range_us(manifest: Manifest) -> tuple[int, int]:
    """First instant of the build's days, and the end of the last."""
    first, last = (
        (datetime.date.fromisoformat(manifest.config[name]) - _EPOCH.date()).days
        for name in ("start_date", "end_date")
    )
    return first * DAY_US, (last + 1) * DAY_US


def _instant(time_us: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(microseconds=time_us)


def _minute(time_us: int) -> str:
    return f"{_instant(time_us):%Y-%m-%d %H:%M}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {_text(sentence)}" for sentence in sentences)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header)]
    lines += [tuple(_cell(cell) for cell in row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text in a cell: a pipe ends one, also in code, if the backslashes before it are even."""
    return re.sub(r"\\*\|", lambda found: found[0][:-1] * 2 + "\\|", _text(text))


def _text(text: str) -> str:
    """Text on one line in which nothing can begin an HTML tag, but in code, where none can."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part
        if part.startswith("`") and part.endswith("`")
        else re.sub(r"<(?=[\w/!?])", "&lt;", part)
        for part in parts
    )
