"""What a build reads and may know, decided from the store's manifests before any work.

A build of days needs the partitions that hold the events of those days and of their context on both
sides. A day without a partition is not an empty day: it stops the build, unless the caller says
otherwise. Days before the store's first one are its history's beginning, and days after its last
one are still to come: they are not missing.

As of an instant the store is what it was then: a partition, daily or import, is there when its day
is over, and later ones have no part in anything that is decided here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator
from typing import Any

from transforms import coverage, manifest, semantic_ids, splits, storage, store, tombstones
from transforms.building import KINDS, BuildPlan
from transforms.bursts import BURST_CONTEXT_US
from transforms.coverage import ONE_DAY, Coverage
from transforms.datasets.rows import BuildRange
from transforms.errors import DataRefusedError, UsageError
from transforms.features.item import WINDOW_DAYS
from transforms.manifest import FileEntry, InputVersionEntry
from transforms.specs import DatasetSpec, RankingSpec
from transforms.splits import MEMORY_US, Borders
from transforms.store import Partition, PartitionRef, StoreConfig
from transforms.timeline import DAY_US


@dataclasses.dataclass(frozen=True)
class Request:
    """What somebody asks to be built.

    Attributes:
      store: event store.
      spec: of the dataset.
      spec_name: how to call the spec in errors.
      first_day, last_day: inclusive range of UTC days.
      as_of_us: know only what was received by then; None for everything.
      catalog, semantic_ids, vocabulary: paths; None where not given.
      allow_missing: take days without a partition for days without events.
    """

    store: str
    spec: DatasetSpec
    spec_name: str
    first_day: datetime.date
    last_day: datetime.date
    as_of_us: int | None = None
    catalog: str | None = None
    semantic_ids: str | None = None
    vocabulary: str | None = None
    allow_missing: bool = False

    @property
    def first_us(self) -> int:
        return coverage.day_start_us(self.first_day)

    @property
    def end_us(self) -> int:
        return coverage.day_start_us(self.last_day + ONE_DAY)


@dataclasses.dataclass(frozen=True)
class Planned:
    """A build that can start.

    Attributes:
      plan: what it reads and makes; its paths are filled in by `placed`.
      store: of the events.
      inputs: versions that are read.
      config: everything else that decides the data, for the manifest.
      quarantine_share: rows quarantined of all that were read for the partitions.
      requests: the store's `tombstones.names`.
    """

    plan: BuildPlan
    store: StoreConfig
    inputs: tuple[InputVersionEntry, ...]
    config: dict[str, Any]
    quarantine_share: float
    requests: tuple[str, ...]

    def placed(self, attempt_root: str, spill_root: str, threads: int) -> BuildPlan:
        """The plan with the folders that it writes to."""
        return dataclasses.replace(
            self.plan, attempt_root=attempt_root, side_root=spill_root, threads=threads
        )


def plan_build(request: Request) -> Planned:
    """Everything that is decided before a pipeline exists.

    Raises:
      UsageError, DataRefusedError: for a range or spec that cannot be built, before any work.
    """
    spec = request.spec
    if request.last_day < request.first_day:
        raise UsageError(
            f"--end-date: expected {request.first_day} or later, got {request.last_day}"
        )
    if request.catalog is not None:
        if not spec.pool_days:
            raise UsageError(
                f"--catalog: only datasets that draw negatives (retrieval) use it, got {spec.kind}"
            )
        store.read_catalog(request.catalog)  # what is no catalog is refused now, not by a worker
    config = store.require_config(request.store)
    if spec.output.shards > config.bucket_count:
        raise UsageError(
            f"{request.spec_name}: output.shards: expected at most the store's "
            f"{config.bucket_count} buckets, got {spec.output.shards}"
        )
    try:
        borders = splits.resolve(
            spec.splits, request.first_day, request.last_day, spec.label_reach_us
        )
    except ValueError as error:
        raise UsageError(f"{request.spec_name}: {error}") from None
    # First who is forgotten, then what there is: who is missed here is refused at the commit.
    requests = tombstones.names(request.store)
    pending = tombstones.pending(request.store)
    known = _Known.of(request)
    there = known.partitions
    remembered_us = min(request.first_us, borders.train_end_us)
    read_first_us = min(
        request.first_us - spec.left_context_us,
        remembered_us - MEMORY_US - spec.sessions.rule.cap_us,
    )
    read_end_us = request.end_us + spec.right_context_us
    partitions = [p for p in there if _may_hold(p, read_first_us, read_end_us, spec.lateness_us)]
    count_days = max(WINDOW_DAYS, spec.pool_days)
    counted = [
        p
        for p in there
        if _may_hold(p, remembered_us - count_days * DAY_US, request.end_us, spec.lateness_us)
    ]
    covered, back = _check_days(request, known, read_first_us, read_end_us - BURST_CONTEXT_US)
    watermark_us = _watermark_us(request, known, covered, read_end_us)
    within = BuildRange(
        first_us=request.first_us,
        end_us=request.end_us,
        watermark_us=watermark_us,
        borders=borders,
        play_sources=tuple(sorted(_play_sources(spec, there))),
        like_sources=tuple(sorted(_sources_that_tell("like", there))),
        save_sources=tuple(sorted(_sources_that_tell("save", there))),
    )
    inputs = [
        _input_of(p)
        for p in sorted({id(p): p for p in partitions + counted}.values(), key=lambda p: p.day)
    ]
    levels, given = _codes(request, borders)
    inputs += given
    vocabulary = _vocabulary(request, borders)
    inputs += vocabulary.inputs
    kind = KINDS[spec.kind]
    columns = kind.columns(spec, levels) if spec.kind == "sequences" else kind.columns(spec)
    key = kind.key(spec) if spec.kind == "sequences" else kind.KEY
    plan = BuildPlan(
        spec=spec,
        within=within,
        columns=columns,
        key=key,
        read_first_us=read_first_us,
        read_end_us=read_end_us,
        as_of_us=request.as_of_us,
        event_partitions=tuple(_reference(p, spec) for p in partitions),
        item_day_partitions=tuple(_reference(p, spec) for p in counted),
        catalog=request.catalog,
        vocabulary=vocabulary.file,
        semantic_ids=request.semantic_ids,
        attempt_root="",
        side_root="",
        threads=1,
        forgotten=tombstones.union(each.forgotten for each in pending),
    )
    settings: dict[str, Any] = {
        "spec": spec.model_dump(mode="json"),
        "start_date": request.first_day.isoformat(),
        "end_date": request.last_day.isoformat(),
        "as_of_us": request.as_of_us,
        "watermark_us": watermark_us,
        "splits": {
            name: [max(first, request.first_us), min(end - borders.gap_us, request.end_us)]
            for name, first, end in borders.periods
            if first < request.end_us and end > request.first_us
        },
        "left_context_missing_days": back,
        "days_taken_for_empty": sorted(map(str, covered.empty if covered.daily else ())),
        "catalog": None if request.catalog is None else storage.checksum(request.catalog),
        "sources": {
            "play": list(within.play_sources),
            "like": list(within.like_sources),
            "save": list(within.save_sources),
        },
        **vocabulary.config,
    }
    if pending:
        settings["forgotten"] = [each.name for each in pending]
    return Planned(plan, config, tuple(inputs), settings, _quarantine_share(partitions), requests)


def _input_of(partition: Partition) -> InputVersionEntry:
    return InputVersionEntry(
        name=f"events/dt={partition.day.isoformat()}",
        version=partition.manifest.version,
        digest=partition.digest,
    )


def _may_hold(partition: Partition, first_us: int, end_us: int, lateness_us: int) -> bool:
    """Whether a partition may hold events of [first, end) that count."""
    held = partition.event_days
    if held is None or (
        partition.is_daily and coverage.day_start_us(partition.day) > end_us + lateness_us
    ):
        return False
    return (
        coverage.day_start_us(held[0]) < end_us
        and coverage.day_start_us(held[1] + ONE_DAY) > first_us
    )


@dataclasses.dataclass(frozen=True)
class _Known:
    """What the store had at the instant that is built as of.

    Attributes:
      partitions: those that were there, by day.
      coverage: the days that they stand for, and those that are taken for empty.
      is_cut: the store has more by now.
    """

    partitions: list[Partition]
    coverage: Coverage
    is_cut: bool

    @classmethod
    def of(cls, request: Request) -> _Known:
        held = store.partitions(request.store)
        there = [p for p in held if coverage.is_over(p.day, request.as_of_us)]
        return cls(there, Coverage.of(there), len(there) < len(held))

    @property
    def text(self) -> str:
        """Which days they are, for a message."""
        found = self.coverage.daily | self.coverage.imported
        held = f"it holds {min(found)} to {max(found)}" if found else "it is empty"
        return f"as known by --as-of {held}" if self.is_cut else held


def _check_days(
    request: Request, known: _Known, read_first_us: int, labelled_end_us: int
) -> tuple[Coverage, int]:
    """Refuses a range if a day of it, or of the context around it, has no partition.

    Args:
      request: range of days.
      known: of the store.
      read_first_us: of event_time; the context before begins here.
      labelled_end_us: labels look at events before this; what is late of them arrives after it.

    Returns:
      The coverage with the days that are taken for empty, and how many days of the context lie
      before the store's first.

    Raises:
      DataRefusedError: naming the days.
    """
    found = known.coverage
    wanted = coverage.days(request.first_day, request.last_day)
    before = coverage.days(coverage.day_of(read_first_us), request.first_day - ONE_DAY)
    if known.partitions and not found.daily:
        # A store of imports has no partition that could be missing: a day that no event is of was
        # a day without listening.
        return _with_empty(found, [*before, *wanted], request), 0
    begin = min(found.covered, default=request.first_day)
    until = coverage.day_of(labelled_end_us - 1) + ONE_DAY * request.spec.labels.lateness_days
    until = min(until, found.last_daily or request.last_day)
    after = coverage.days(request.last_day + ONE_DAY, until)
    read = [*(day for day in before if day >= begin), *wanted, *after]
    missing = [day for day in read if day not in found.covered]
    if missing and not request.allow_missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise DataRefusedError(
            f"the store has no partition for {len(missing)} of the days that are read ({shown}); "
            f"{known.text}; ingest them, or give --allow-missing to treat them as days without "
            "events"
        )
    return _with_empty(found, missing, request), sum(day < begin for day in before)


def _with_empty(found: Coverage, more: list[datetime.date], request: Request) -> Coverage:
    """The coverage with days without events, as far as they were over."""
    return found.with_empty(day for day in more if coverage.is_over(day, request.as_of_us))


def _watermark_us(request: Request, known: _Known, covered: Coverage, read_end_us: int) -> int:
    """Before which instant everything that counts is known.

    Raises:
      UsageError: naming the horizon, if it reaches beyond what is known for every row of the range.
    """
    labels = request.spec.labels
    until = covered.complete_until(request.first_day, labels.lateness_days)
    watermark_us = min(read_end_us, coverage.day_start_us(until))
    if request.first_us + labels.horizon_us > watermark_us:
        latest = max(covered.covered, default=None)
        beyond, cure = "the store, which holds", "ingest later days"
        if known.is_cut:
            beyond, cure = "what --as-of knows,", "give a later --as-of"
        raise UsageError(
            f"{request.spec_name}: labels.horizon_hours: the label windows of {request.first_day} "
            f"({labels.horizon_hours:g} h) and the {labels.lateness_days} days that late "
            f"events have (labels.lateness_days) reach beyond {beyond} what arrived "
            f"until {latest}; {cure}, build earlier ones, or shorten them"
        )
    return watermark_us


def _sources_that_tell(event_type: str, partitions: list[Partition]) -> set[str]:
    """Sources whose format can tell of an event type."""
    return {
        source
        for partition in partitions
        if event_type in partition.manifest.config["event_types"]
        for source in partition.sources
    }


def _play_sources(spec: DatasetSpec, partitions: list[Partition]) -> set[str]:
    """Sources whose plays are examples: unless the spec says, those without any impression.

    Asked of the whole store as it was known, not of the days that are built, so that the builds of
    single days add up to the build of their range.
    """
    if not isinstance(spec, RankingSpec) or spec.examples.rows == "impression":
        return set()
    sources = {source for partition in partitions for source in partition.sources}
    if spec.examples.rows == "play":
        return sources
    return sources - {s for p in partitions for s in p.sources if p.count_of(s, "impression")}


def _reference(partition: Partition, spec: DatasetSpec) -> PartitionRef:
    """What a plan holds of a partition: however late an event of an import arrived, it counts."""
    return PartitionRef(
        partition.root,
        partition.manifest.version,
        partition.digest,
        spec.labels.lateness_days if partition.is_daily else None,
    )


def _quarantine_share(partitions: list[Partition]) -> float:
    """Rows quarantined of all rows that were read for some partitions."""
    read = quarantined = 0
    for partition in partitions:
        read += partition.manifest.counts.get("read", 0)
        quarantined += sum(partition.manifest.counts.get("quarantined", {}).values())
    return quarantined / read if read else 0.0


@contextlib.contextmanager
def _naming(option: str) -> Iterator[None]:
    """Says which option a mistake is about."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None


def _codes(request: Request, borders: Borders) -> tuple[int, list[InputVersionEntry]]:
    """Levels of the semantic ids that were given, 0 if none; and what to list as input."""
    if request.semantic_ids is None:
        return 0, []
    if request.spec.kind != "sequences":
        raise UsageError(
            f"--semantic-ids: only datasets of kind sequences have them, got {request.spec.kind}"
        )
    with _naming("--semantic-ids"):
        ids = semantic_ids.load(request.semantic_ids)
    semantic_ids.check_border(ids, min(borders.train_end_us, request.end_us))
    return ids.levels, [
        InputVersionEntry(name="semantic_ids", version=ids.version, digest=ids.digest)
    ]


@dataclasses.dataclass(frozen=True)
class _Vocabulary:
    """Of a sequences dataset.

    Attributes:
      file: of the version that was given; None to fit one.
      inputs: what to list as input.
      days: half open range of the days that it is, or was, fitted on; None for other kinds.
    """

    file: tuple[str, FileEntry] | None = None
    inputs: tuple[InputVersionEntry, ...] = ()
    days: tuple[datetime.date, datetime.date] | None = None

    @property
    def config(self) -> dict[str, Any]:
        return {} if self.days is None else {"vocabulary_days": list(map(str, self.days))}


def _vocabulary(request: Request, borders: Borders) -> _Vocabulary:
    """The vocabulary that was given, or the days that one is fitted on.

    Days of train that are not built are no leak: a vocabulary of a range is that of its days too.

    Raises:
      UsageError: if there is neither, or it was fitted on days that do not lie whole in train.
    """
    is_sequences = request.spec.kind == "sequences"
    if request.vocabulary is None:
        if not is_sequences:
            return _Vocabulary()
        end = min(borders.train_end_day, request.last_day + ONE_DAY)
        if end <= request.first_day:
            raise UsageError(
                f"--vocabulary: no day from {request.first_day} to {request.last_day} lies whole "
                f"in train, which ends {_text(borders.train_end_us)}, so there is none to fit a "
                "vocabulary on; give a version with days of train, or build more days"
            )
        return _Vocabulary(days=(request.first_day, end))
    if not is_sequences:
        raise UsageError(
            f"--vocabulary: only datasets of kind sequences have one, got {request.spec.kind}"
        )
    with _naming("--vocabulary"):
        root, found = manifest.resolve(request.vocabulary, "a dataset of kind sequences")
        if found.status == "REFUSED":
            raise UsageError(
                f"{request.vocabulary}: expected a published version, got a refused one"
            )
    files = found.files_of("vocabulary")
    if not files:
        raise UsageError(
            f"--vocabulary: {request.vocabulary}: a dataset of kind sequences was expected, for "
            "others have no vocabulary"
        )
    first, end = map(datetime.date.fromisoformat, found.config["vocabulary_days"])
    if end > borders.train_end_day:
        raise UsageError(
            f"--vocabulary: {found.version} was fitted on days until {end - ONE_DAY}, but train "
            f"ends {_text(borders.train_end_us)}; use one of no later days"
        )
    entry = InputVersionEntry(name="vocabulary", version=found.version, digest=found.digest())
    return _Vocabulary(
        (manifest.file_path(root, found, files[0]), files[0]), (entry,), (first, end)
    )


def _text(instant_us: int) -> str:
    """A UTC minute, for a message."""
    return (
        f"{datetime.datetime.fromtimestamp(instant_us // 1_000_000, datetime.UTC):%Y-%m-%d %H:%M}"
    )
