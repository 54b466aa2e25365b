"""What a build reads and may know, decided from the store's manifests before any work.

A build of days needs the partitions that hold the events of those days and of their context on both
sides. A day without a partition is not an empty day: it stops the build, unless the caller says
otherwise. Days before the store's first one are its history's beginning, not missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterable, Iterator
from typing import Any

from transforms import manifest, semantic_ids, splits, storage, store
from transforms.building import KINDS, BuildPlan
from transforms.datasets.rows import BuildRange
from transforms.errors import DataRefusedError, UsageError
from transforms.features.item import WINDOW_DAYS
from transforms.manifest import FileEntry, InputVersionEntry
from transforms.specs import DatasetSpec, RankingSpec
from transforms.splits import MEMORY_US, Borders
from transforms.store import BucketFile, Partition, StoreConfig
from transforms.timeline import DAY_US, HOUR_US

_ONE_DAY = datetime.timedelta(days=1)
_EPOCH = datetime.date(1970, 1, 1)


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
        return day_start_us(self.first_day)

    @property
    def end_us(self) -> int:
        return day_start_us(self.last_day + _ONE_DAY)


@dataclasses.dataclass(frozen=True)
class Planned:
    """A build that can start.

    Attributes:
      plan: what it reads and makes; its paths are filled in by `placed`.
      store: of the events.
      inputs: versions that are read.
      config: everything else that decides the data, for the manifest.
      quarantine_share: rows quarantined of all that were read for the partitions.
    """

    plan: BuildPlan
    store: StoreConfig
    inputs: tuple[InputVersionEntry, ...]
    config: dict[str, Any]
    quarantine_share: float

    def placed(self, attempt_root: str, spill_root: str, threads: int) -> BuildPlan:
        """The plan with the folders that it writes to."""
        return dataclasses.replace(
            self.plan, attempt_root=attempt_root, side_root=spill_root, threads=threads
        )


def day_start_us(day: datetime.date) -> int:
    """UTC microseconds of a day's first instant."""
    return (day - _EPOCH).days * DAY_US


def days(first: datetime.date, last: datetime.date) -> list[datetime.date]:
    """Inclusive range of days."""
    return [first + _ONE_DAY * i for i in range((last - first).days + 1)]


def covered_days(partitions: Iterable[Partition]) -> set[datetime.date]:
    """Days whose arrivals the partitions hold."""
    ranges = [partition.stands_for for partition in partitions]
    return {day for span in ranges if span is not None for day in days(*span)}


def complete_until(
    start: datetime.date,
    covered: set[datetime.date],
    imported: set[datetime.date],
    lateness_days: int,
) -> datetime.date:
    """The first day from `start` on of which events that count may still arrive.

    A day is complete when an import stands for it, or when the arrivals of it and of the
    `lateness_days` after it are covered.
    """
    day = start
    while day in imported or all(d in covered for d in days(day, day + _ONE_DAY * lateness_days)):
        day += _ONE_DAY
    return day


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
    known = [p for p in store.partitions(request.store) if _was_there(p, request.as_of_us)]
    remembered_us = min(request.first_us, borders.train_end_us)
    read_first_us = min(
        request.first_us - spec.left_context_us,
        remembered_us - MEMORY_US - spec.sessions.rule.cap_us,
    )
    read_end_us = request.end_us + spec.right_context_us
    partitions = [p for p in known if _may_hold(p, read_first_us, read_end_us, spec.lateness_us)]
    count_days = max(WINDOW_DAYS, spec.pool_days)
    counted = [
        p
        for p in known
        if _may_hold(p, remembered_us - count_days * DAY_US, request.end_us, spec.lateness_us)
    ]
    covered, back = _check_days(request, known, read_first_us)
    watermark_us = _watermark_us(request, known, covered, read_end_us)
    settled = _over(known, request.as_of_us)
    within = BuildRange(
        first_us=request.first_us,
        end_us=request.end_us,
        watermark_us=watermark_us,
        borders=borders,
        play_sources=tuple(sorted(_play_sources(spec, settled))),
        like_sources=tuple(sorted(_sources_that_tell("like", settled))),
        save_sources=tuple(sorted(_sources_that_tell("save", settled))),
    )
    inputs = [
        _input_of(p)
        for p in sorted({id(p): p for p in partitions + counted}.values(), key=lambda p: p.day)
    ]
    levels, given = _codes(request, borders)
    inputs += given
    vocabulary, given = _vocabulary(request, borders)
    inputs += given
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
        event_files=_event_files(partitions, spec),
        item_day_files=[file for p in counted for file in p.files("item_day")],
        catalog=request.catalog,
        vocabulary=vocabulary,
        semantic_ids=request.semantic_ids,
        attempt_root="",
        side_root="",
        threads=1,
    )
    settings = {
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
        "catalog": None if request.catalog is None else storage.checksum(request.catalog),
        "sources": {
            "play": list(within.play_sources),
            "like": list(within.like_sources),
            "save": list(within.save_sources),
        },
    }
    return Planned(plan, config, tuple(inputs), settings, _quarantine_share(partitions))


def _input_of(partition: Partition) -> InputVersionEntry:
    return InputVersionEntry(
        name=f"events/dt={partition.day.isoformat()}",
        version=partition.manifest.version,
        digest=partition.manifest.digest(),
    )


def _was_there(partition: Partition, as_of_us: int | None) -> bool:
    """Whether a partition may hold something that was received by the instant."""
    return as_of_us is None or day_start_us(partition.day) <= as_of_us


def _over(partitions: list[Partition], as_of_us: int | None) -> list[Partition]:
    """Those whose day was over by the instant, and imports: what a manifest counts of a day that
    went on may have been received after it."""
    if as_of_us is None:
        return partitions
    return [
        partition
        for partition in partitions
        if not partition.is_daily or day_start_us(partition.day + _ONE_DAY) <= as_of_us + 1
    ]


def _may_hold(partition: Partition, first_us: int, end_us: int, lateness_us: int) -> bool:
    """Whether a partition may hold events of [first, end) that count."""
    held = partition.event_days
    if held is None or (partition.is_daily and day_start_us(partition.day) > end_us + lateness_us):
        return False
    return day_start_us(held[0]) < end_us and day_start_us(held[1] + _ONE_DAY) > first_us


def _check_days(
    request: Request, known: list[Partition], read_first_us: int
) -> tuple[set[datetime.date], int]:
    """Refuses a range if a day of it, or of the context before it, has no partition.

    Returns:
      The days that are covered, and how many days of the context lie before the store's first.

    Raises:
      DataRefusedError: naming the days.
    """
    covered = covered_days(known)
    wanted = days(request.first_day, request.last_day)
    before = days(_EPOCH + _ONE_DAY * (read_first_us // DAY_US), request.first_day - _ONE_DAY)
    if known and not any(partition.is_daily for partition in known):
        # A store of imports has no partition that could be missing: a day that no event is of was
        # a day without listening.
        return covered.union(before, wanted), 0
    begin = min(covered, default=request.first_day)
    missing = [day for day in before if day >= begin and day not in covered]
    missing += [day for day in wanted if day not in covered]
    if missing and not request.allow_missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        held = f"it holds {min(covered)} to {max(covered)}" if covered else "it is empty"
        raise DataRefusedError(
            f"the store has no partition for {len(missing)} of the days that are read ({shown}); "
            f"{held}; ingest them, or give --allow-missing to treat them as days without events"
        )
    return covered.union(missing), sum(day < begin for day in before)


def _watermark_us(
    request: Request, known: list[Partition], covered: set[datetime.date], read_end_us: int
) -> int:
    """Before which instant everything that counts is known.

    Raises:
      UsageError: naming the horizon, if it reaches beyond the store for every row of the range.
    """
    spec, as_of_us = request.spec, request.as_of_us

    def over(found: set[datetime.date]) -> set[datetime.date]:
        if as_of_us is None:
            return found
        return {day for day in found if day_start_us(day + _ONE_DAY) <= as_of_us + 1}

    imported = over(covered_days(p for p in known if not p.is_daily))
    until = complete_until(request.first_day, over(covered), imported, spec.labels.lateness_days)
    watermark_us = min(read_end_us, day_start_us(until))
    if request.first_us + spec.labels.horizon_us > watermark_us:
        latest = max(over(covered), default=None)
        raise UsageError(
            f"{request.spec_name}: labels.horizon_hours: the label windows of {request.first_day} "
            f"({spec.labels.horizon_hours:g} h) and the {spec.labels.lateness_days} days that late "
            f"events have (labels.lateness_days) reach beyond the store, which holds what arrived "
            f"until {latest}; ingest later days, build earlier ones, or shorten them"
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


def _event_files(partitions: list[Partition], spec: DatasetSpec) -> dict[int, list[BucketFile]]:
    """The files of each bucket, in partition order."""
    found: dict[int, list[BucketFile]] = {}
    for partition in partitions:
        lateness_days = spec.labels.lateness_days if partition.is_daily else None
        for path, entry in partition.files("events"):
            file = BucketFile(path, entry, lateness_days)
            found.setdefault(entry.first_bucket or 0, []).append(file)
    return found


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


def _vocabulary(
    request: Request, borders: Borders
) -> tuple[tuple[str, FileEntry] | None, list[InputVersionEntry]]:
    """File of the vocabulary that was given, None if none; and what to list as input."""
    if request.vocabulary is None:
        return None, []
    if request.spec.kind != "sequences":
        raise UsageError(
            f"--vocabulary: only datasets of kind sequences have one, got {request.spec.kind}"
        )
    with _naming("--vocabulary"):
        root, found = manifest.resolve(request.vocabulary, "a dataset of kind sequences")
    files = found.files_of("vocabulary")
    if not files:
        raise UsageError(
            f"--vocabulary: {request.vocabulary}: a dataset of kind sequences was expected, for "
            "others have no vocabulary"
        )
    until_us, border_us = found.config["splits"].get("train", [0, 0])[1], borders.train_end_us
    if until_us > min(border_us, request.end_us):
        hours = (until_us - border_us) / HOUR_US
        raise UsageError(
            f"--vocabulary: {found.version} was fitted on days until {hours:g} h after train ends; "
            "use one of no later days"
        )
    entry = InputVersionEntry(name="vocabulary", version=found.version, digest=found.digest())
    return (manifest.file_path(root, found, files[0]), files[0]), [entry]
