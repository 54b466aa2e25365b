"""What differs between two published versions: settings, schema, counts, statistics and rows.

Memory: files of the two versions that can hold the same users are compared as one group, as bytes
plus the keys plus one column at a time (`row_diff`). A group is as large as the larger shard of the
two. If the user buckets of the files do not tell which belong together, everything is one group.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from transforms import manifest, row_diff, statistics
from transforms.buckets import bucket_of, user_hash
from transforms.errors import UsageError
from transforms.manifest import ColumnEntry, FileEntry, InputFileEntry, Manifest
from transforms.row_diff import A_ROW, A_SPLIT, B_ROW, B_SPLIT, RowDiff, RowTally
from transforms.statistics import SplitStatistics

ABSENT = "(absent)"
_USER = "user_id"
# Roles of the files that hold the rows of a version, by its kind.
_ROLES = {
    "dataset": ("train", "validation", "test"),
    "events": ("events",),
    "semantic_ids": ("codes",),
}
# Sums of the same doubles in another order differ by less than this share.
_NOISE = 1e-9

Measure = Literal["missing", "mean", "distinct"]
Measures = dict[Measure, float]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare.

    Attributes:
      columns: only these; None takes all. Rows are paired by their key in any case.
      examples: kept for each kind of difference: those with the smallest keys.
      tolerance: doubles are equal if they differ by at most this share of the larger one.
      rows: whether rows are compared.
    """

    columns: tuple[str, ...] | None = None
    examples: int = 3
    tolerance: float = 0.0
    rows: bool = True


@dataclasses.dataclass(frozen=True)
class Version:
    """A committed version and where it lies."""

    root: str
    manifest: Manifest

    def data(self) -> list[FileEntry]:
        """The files that hold its rows, in the order of splits and paths.

        Parquet; the TFRecord twins of a version that has only them, which can be counted, not read.
        """
        roles = _ROLES[self.manifest.kind]
        files = [entry for role in roles for entry in self.manifest.files_of(role)]
        parquet = [entry for entry in files if entry.format == "parquet"]
        return sorted(parquet or files, key=lambda entry: (roles.index(entry.role), entry.path))

    @property
    def is_parquet(self) -> bool:
        """Whether its rows can be read here."""
        return all(entry.format == "parquet" for entry in self.data())

    def read(self, entry: FileEntry) -> bytes:
        path = manifest.file_path(self.root, self.manifest, entry)
        return manifest.read_verified(path, entry)


@dataclasses.dataclass(frozen=True)
class Change:
    """A value that is not the same in both; ABSENT where a version does not have it."""

    name: str
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True)
class SchemaChange:
    """A column that only A has (removed), only B has (added), or both have in other ways."""

    column: str
    what: Literal["added", "removed", "type", "nullable"]
    a: str | None
    b: str | None


@dataclasses.dataclass(frozen=True)
class StatisticChange:
    """A measure of a split's column that changed, and by how much; see `measure_changes`."""

    split: str
    column: str
    measure: Measure
    a: float
    b: float
    change: float


@dataclasses.dataclass(frozen=True)
class Diff:
    """Everything that was compared; see the parts. `split_rows`: split -> rows in A and in B.
    `rows` is None if rows were not compared."""

    settings: list[Change]
    schema: list[SchemaChange]
    counts: list[Change]
    split_rows: dict[str, tuple[int, int]]
    statistics: list[StatisticChange]
    rows: RowDiff | None

    @property
    def same(self) -> bool:
        """Whether schema and rows are the same, as far as they were compared."""
        if self.schema:
            return False
        if self.rows is None:
            return not self.statistics and all(a == b for a, b in self.split_rows.values())
        return self.rows.same


# --- settings, schema, counts ---------------------------------------------------------------------


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value; lists are values."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """Paths whose values differ, in the order of A and then of B."""
    flat_a, flat_b = flatten(a), flatten(b)
    return [
        Change(name, flat_a.get(name, ABSENT), flat_b.get(name, ABSENT))
        for name in flat_a | flat_b
        if flat_a.get(name, ABSENT) != flat_b.get(name, ABSENT)
    ]


def settings_of(version: Manifest) -> dict[str, Any]:
    """What decided the data of a version: spec and options, code, and inputs with their content."""
    return {
        **version.config,
        "name": version.name,
        "code_version": version.code_version,
        "key": list(version.key),
        "inputs": {
            entry.path if isinstance(entry, InputFileEntry) else entry.name: (
                entry.checksum if isinstance(entry, InputFileEntry) else entry.version
            )
            for entry in version.inputs
        },
    }


def schema_changes(a: Sequence[ColumnEntry], b: Sequence[ColumnEntry]) -> list[SchemaChange]:
    """Columns removed, added, or of another type or nullability, in the order of A, then B."""
    in_a, in_b = ({column.name: column for column in columns} for columns in (a, b))
    found = []
    for name in in_a | in_b:
        left, right = in_a.get(name), in_b.get(name)
        if right is None:
            found.append(SchemaChange(name, "removed", in_a[name].type, None))
        elif left is None:
            found.append(SchemaChange(name, "added", None, right.type))
        else:
            if left.type != right.type:
                found.append(SchemaChange(name, "type", left.type, right.type))
            if left.nullable != right.nullable:
                nullable = ("nullable", "required")
                texts = (nullable[not column.nullable] for column in (left, right))
                found.append(SchemaChange(name, "nullable", *texts))
    return found


# --- files ----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Group:
    """Files of A and of B that hold the same users: those of buckets [first, end) of `of`."""

    a: list[FileEntry]
    b: list[FileEntry]
    first: int = 0
    end: int = 1
    of: int = 1


def _bucket_count(files: Sequence[FileEntry]) -> int:
    """The power of two that is enough for the buckets of a version's files."""
    return 1 << max((entry.last_bucket or 0 for entry in files), default=0).bit_length()


def align(a: list[FileEntry], b: list[FileEntry]) -> list[Group]:
    """The smallest groups of files such that a user's rows are in one group, in bucket order.

    The versions may have different bucket counts: buckets nest (`transforms.buckets`).
    """
    if any(entry.first_bucket is None or entry.last_bucket is None for entry in (*a, *b)):
        return [Group(a, b)]
    count = max(_bucket_count(a), _bucket_count(b))
    spans = []
    for files in (a, b):
        width = count // _bucket_count(files)
        for entry in files:
            first, last = entry.first_bucket or 0, entry.last_bucket or 0
            spans.append((first * width, (last + 1) * width, files is b, entry))
    groups: list[Group] = []
    for first, end, is_b, entry in sorted(spans, key=lambda span: span[:2]):
        if not groups or first >= groups[-1].end:
            groups.append(Group([], [], first, end, count))
        group = groups[-1]
        group.end = max(end, group.end)
        (group.b if is_b else group.a).append(entry)
    return [Group(a, b)] if len(groups) == 1 else groups


class _NotAligned(Exception):  # noqa: N818  (never leaves this module)
    """A user is not in the buckets that the files name: another group may have its other rows."""


class _Loaded:
    """The files that a version has in a group: bytes, of which columns are decoded as needed.

    `splits` names the split of each row (String).
    """

    def __init__(self, version: Version, entries: list[FileEntry]) -> None:
        self._files = [version.read(entry) for entry in entries]
        self.content = [(entry.role, entry.sha256) for entry in entries]
        roles = pl.DataFrame(
            {"role": [e.role for e in entries], "rows": [e.rows for e in entries]},
            schema={"role": pl.String, "rows": pl.Int64},
        )
        self.splits = roles.select(pl.col("role").repeat_by("rows").explode()).to_series()

    def read(self, columns: list[str]) -> pl.DataFrame:
        """Rows of all files in their order; of no file a table without columns."""
        tables = [pl.read_parquet(data, columns=columns) for data in self._files]
        return pl.concat(tables) if tables else pl.DataFrame()


def _check_users(users: pl.Series, group: Group) -> None:
    """Raises _NotAligned if a user is not in the group's buckets (stores with other hash seeds)."""
    hashes = users.to_frame().select(user_hash(pl.col(_USER), 0)).to_series().drop_nulls()
    bucket = bucket_of(hashes.to_numpy(), group.of)
    if len(bucket) and not (group.first <= bucket.min() and bucket.max() < group.end):
        raise _NotAligned


def _compare_group(
    a: Version, b: Version, group: Group, columns: Sequence[str], tally: RowTally
) -> None:
    """Adds the rows of a group of files.

    Raises:
      _NotAligned: if they may also have partners in other groups.
    """
    key = list(a.manifest.key)
    names = list(dict.fromkeys([*key, _USER] if group.of > 1 else key))
    loaded_a, loaded_b = _Loaded(a, group.a), _Loaded(b, group.b)
    keys_a, keys_b = loaded_a.read(names), loaded_b.read(names)
    if not group.a:
        keys_a = keys_b.clear()
    if not group.b:
        keys_b = keys_a.clear()
    if group.of > 1:
        _check_users(keys_a[_USER], group)
        _check_users(keys_b[_USER], group)
    pairs = row_diff.pair_rows(
        keys_a.select(*key, loaded_a.splits.alias(A_SPLIT)),
        keys_b.select(*key, loaded_b.splits.alias(B_SPLIT)),
        key,
    )
    del keys_a, keys_b
    paired = (pairs[A_ROW].is_not_null() & pairs[B_ROW].is_not_null()).to_numpy()
    both = pairs.filter(paired)
    differs = np.zeros(pairs.height, dtype=bool)
    if both.height and loaded_a.content != loaded_b.content:
        for name in columns:
            left = loaded_a.read([name]).to_series().gather(both[A_ROW])
            right = loaded_b.read([name]).to_series().gather(both[B_ROW])
            differs[paired] |= tally.add_column(name, both, left, right)
    tally.add_pairs(pairs, differs)


def _compare_rows(a: Version, b: Version, columns: Sequence[str], options: Options) -> RowDiff:
    """The row differences in columns that both versions have, of one type."""
    identifiers = _identifiers(a) | _identifiers(b)
    whole = Group(a.data(), b.data())

    def tally(groups: list[Group]) -> RowDiff:
        found = RowTally(a.manifest.key, identifiers, options.tolerance, options.examples)
        for group in groups:
            _compare_group(a, b, group, columns, found)
        return found.result(_splits(a, b))

    try:
        return tally(align(whole.a, whole.b))
    except _NotAligned:
        return tally([whole])


# --- statistics -----------------------------------------------------------------------------------


def measures_of(feature: Any) -> Measures:
    """What is compared of a TFMD `FeatureNameStatistics`: the share of rows that are null, the mean
    of numbers, the distinct texts; nothing of no rows, and no mean of no numbers."""
    stats = getattr(feature, feature.WhichOneof("stats"))
    present, missing = stats.common_stats.num_non_missing, stats.common_stats.num_missing
    if not present + missing:
        return {}
    found: Measures = {"missing": missing / (present + missing)}
    if feature.WhichOneof("stats") == "string_stats":
        found["distinct"] = stats.unique
    elif present:
        found["mean"] = stats.mean
    return found


def measure_changes(
    a: Measures, b: Measures, tolerance: float
) -> Iterator[tuple[Measure, float, float, float]]:
    """(measure, value in A, value in B, size of the change) of the measures of both that differ.

    The size is the difference of missing shares, and of others the difference as a share of the
    larger value. Means within `tolerance`, such a share, are the same.
    """
    for measure in sorted(a.keys() & b.keys()):
        left, right = a[measure], b[measure]
        size = abs(right - left)
        if size and measure != "missing":
            size /= max(abs(left), abs(right))
        if size > (max(_NOISE, tolerance) if measure == "mean" else 0.0):
            yield measure, left, right, size


def _statistics(
    version: Version, columns: Sequence[ColumnEntry]
) -> dict[tuple[str, str], Measures]:
    """(Split, column) -> measures: as published with the version, else of its rows, a file and a
    column at a time."""
    published = {
        posixpath.splitext(posixpath.basename(entry.path))[0]: entry
        for entry in version.manifest.files_of("statistics")
    }
    found: dict[tuple[str, str], Measures] = {}
    for split, entries in itertools.groupby(version.data(), lambda entry: entry.role):
        if split in published:
            features = list(statistics.decode(version.read(published[split])).features)
        elif version.is_parquet:
            tallies = [SplitStatistics([column]) for column in columns]
            for entry in entries:
                data = version.read(entry)
                for column, tally in zip(columns, tallies, strict=True):
                    tally.add(pl.read_parquet(data, columns=[column.name]))
            features = [tally.extract(split).features[0] for tally in tallies]
        else:
            features = []
        found |= {(split, feature.path.step[0]): measures_of(feature) for feature in features}
    return found


def _compare_statistics(
    a: Version, b: Version, columns: Sequence[ColumnEntry], tolerance: float
) -> list[StatisticChange]:
    """Changes in the given columns, which both versions have; largest first.

    Means of ids and of times say nothing and are left out.
    """
    no_mean = _identifiers(a) | _identifiers(b)
    no_mean |= {c.name for c in columns if statistics.element_type(c).startswith(("date", "time"))}
    in_a, in_b = _statistics(a, columns), _statistics(b, columns)
    wanted = {column.name for column in columns}
    found = [
        StatisticChange(split, column, measure, left, right, change)
        for split, column in in_a.keys() & in_b.keys()
        if column in wanted
        for measure, left, right, change in measure_changes(
            in_a[split, column], in_b[split, column], tolerance
        )
        if not (measure == "mean" and column in no_mean)
    ]
    return sorted(found, key=lambda c: (-c.change, c.split, c.column, c.measure))


# --- versions -------------------------------------------------------------------------------------


def _identifiers(version: Version) -> set[str]:
    return {column.name for column in version.manifest.columns if column.identifier}


def _splits(a: Version, b: Version) -> list[str]:
    return list(dict.fromkeys(entry.role for entry in (*a.data(), *b.data())))


def _check_comparable(a: Version, b: Version, options: Options) -> None:
    """Raises UsageError if there is no sense in comparing the versions, or no way to pair rows."""
    left, right = a.manifest, b.manifest
    if left.kind != right.kind:
        raise UsageError(
            f"expected two versions of one kind, got {left.kind} and {right.kind}: {a.root} and "
            f"{b.root}"
        )
    if not options.rows:
        return
    keys = []
    for each in (left, right):
        types = {column.name: column.type for column in each.columns}
        keys.append(", ".join(f"{name} {types.get(name, '(missing)')}" for name in each.key))
    if keys[0] != keys[1]:
        raise UsageError(
            f"rows cannot be paired: A has the key ({keys[0]}), B has ({keys[1]}); "
            "give --no-rows to compare the rest"
        )
    for version in (a, b):
        if not version.is_parquet:
            raise UsageError(
                f"{version.root}: version {version.manifest.version} has no Parquet files to "
                "compare rows of; give --no-rows to compare the rest"
            )


def compare(a: Version, b: Version, options: Options) -> Diff:
    """Everything that differs between two versions.

    Raises:
      UsageError: if they are not of one kind, or rows are to be compared but cannot be paired.
      DataRefusedError: if a file is not the one that was published.
    """
    _check_comparable(a, b, options)
    columns_a, columns_b = (
        [c for c in each.manifest.columns if options.columns is None or c.name in options.columns]
        for each in (a, b)
    )
    types_b = {column.name: column.type for column in columns_b}
    common = [column for column in columns_a if types_b.get(column.name) == column.type]
    rows_of = [collections.Counter[str]() for _ in range(2)]
    for counter, version in zip(rows_of, (a, b), strict=True):
        for entry in version.data():
            counter[entry.role] += entry.rows
    return Diff(
        settings=changes(settings_of(a.manifest), settings_of(b.manifest)),
        schema=schema_changes(columns_a, columns_b),
        counts=changes(a.manifest.counts, b.manifest.counts),
        split_rows={split: (rows_of[0][split], rows_of[1][split]) for split in _splits(a, b)},
        statistics=_compare_statistics(a, b, common, options.tolerance),
        rows=_compare_rows(a, b, [c.name for c in common], options) if options.rows else None,
    )
