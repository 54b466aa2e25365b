r"""The event store to one version of a dataset.

    python -m pipelines.build --store store --spec specs/ranking.yaml \
        --start-date 2026-01-06 --end-date 2026-01-07 --output datasets/ranking [Beam options]

For each shard: read the columns that are needed of its buckets -> sessions, attribution, features
as of each example, labels -> rows in keyed order -> write; then check and commit.
"""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import re
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

from pipelines import cli, console
from transforms.errors import DataRefusedError, UsageError
from transforms.version import __version__

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from transforms.building import BuildPlan
    from transforms.manifest import Manifest
    from transforms.publish import Draft
    from transforms.specs import RankingSpec
    from transforms.store import Partition

EXAMPLE = (
    "playhead build --store store --spec specs/ranking.yaml --start-date 2026-01-06 "
    "--end-date 2026-01-07 --output datasets/ranking"
)
_ONE_DAY = datetime.timedelta(days=1)


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead build", "Builds and publishes a dataset version from the event store.", EXAMPLE
    )
    parser.add_argument("--store", required=True, metavar="DIR", help="event store to read")
    parser.add_argument(
        "--spec",
        required=True,
        metavar="FILE",
        help="YAML spec of the dataset, or the name of one that comes with Playhead: ranking, "
        "listening",
    )
    parser.add_argument(
        "--start-date",
        required=True,
        type=cli.iso_date,
        metavar="D",
        help="first UTC day of examples, YYYY-MM-DD",
    )
    parser.add_argument(
        "--end-date",
        required=True,
        type=cli.iso_date,
        metavar="D",
        help="last UTC day of examples, inclusive",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder of the dataset's versions"
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="treat days without a partition as days without events",
    )
    return parser  # fmt: skip


def _spec_path(given: str) -> str:
    """The file, or the spec of that name that comes with Playhead (`ranking`, `listening`)."""
    import specs

    if os.path.exists(given) or not re.fullmatch(r"[a-z_]+", given):
        return given
    shipped = pathlib.Path(specs.__file__).with_name(f"{given}.yaml")
    return str(shipped) if shipped.exists() else given


def _days(first: datetime.date, last: datetime.date) -> list[datetime.date]:
    return [first + _ONE_DAY * i for i in range((last - first).days + 1)]


def _covered_days(partitions: list[Partition]) -> set[datetime.date]:
    """Days whose arrivals the partitions hold."""
    ranges = [partition.stands_for for partition in partitions]
    return {day for span in ranges if span is not None for day in _days(*span)}


def _check_days(
    wanted: list[datetime.date], covered: set[datetime.date], allow_missing: bool
) -> None:
    """Refuses a range with a day that has no partition.

    Raises:
      DataRefusedError: naming the days.
    """
    missing = [day.isoformat() for day in wanted if day not in covered]
    if missing and not allow_missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        held = f"it holds {min(covered)} to {max(covered)}" if covered else "it is empty"
        raise DataRefusedError(
            f"the store has no partition for {len(missing)} of {len(wanted)} days ({shown}); "
            f"{held}; ingest them, or give --allow-missing to treat them as days without events"
        )


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
    while day in imported or all(d in covered for d in _days(day, day + _ONE_DAY * lateness_days)):
        day += _ONE_DAY
    return day


def _sources_that_tell(event_type: str, partitions: list[Partition]) -> set[str]:
    """Sources whose format can tell of an event type."""
    return {
        source
        for partition in partitions
        if event_type in partition.manifest.config["event_types"]
        for source in partition.sources
    }


def _play_sources(spec: RankingSpec, partitions: list[Partition]) -> set[str]:
    """Sources whose plays are examples: unless the spec says, those without any impression.

    Asked of the whole store, not of the days that are built, so that the builds of single days add
    up to the build of their range.
    """
    if spec.examples.rows == "impression":
        return set()
    sources = {source for partition in partitions for source in partition.sources}
    if spec.examples.rows == "play":
        return sources
    return sources - {s for p in partitions for s in p.sources if p.count_of(s, "impression")}


def _may_hold(partition: Partition, first_us: int, end_us: int, lateness_us: int) -> bool:
    """Whether a partition may hold events of [first, end) that count."""
    from transforms.datasets.ranking import day_start_us

    days = partition.event_days
    if days is None or (partition.is_daily and day_start_us(partition.day) > end_us + lateness_us):
        return False
    return day_start_us(days[0]) < end_us and day_start_us(days[1] + _ONE_DAY) > first_us


def plan(args: argparse.Namespace, runner: str) -> tuple[Draft, BuildPlan, int]:
    """Everything that is decided before a pipeline exists.

    Returns:
      The draft of the version, the plan of the build, and the store's bucket count.

    Raises:
      UsageError, DataRefusedError: before any work, for a range or spec that cannot be built.
    """
    from transforms import building, manifest, publish, storage, store
    from transforms.config import load_yaml
    from transforms.datasets import ranking
    from transforms.specs import RankingSpec
    from transforms.timeline import DAY_US

    if args.end_date < args.start_date:
        raise UsageError(f"--end-date: expected {args.start_date} or later, got {args.end_date}")
    spec = load_yaml(_spec_path(args.spec), RankingSpec)
    config = store.require_config(args.store)
    if spec.shards > config.bucket_count:
        raise UsageError(
            f"{args.spec}: shards: expected at most the store's {config.bucket_count} buckets, "
            f"got {spec.shards}"
        )
    first_us = ranking.day_start_us(args.start_date)
    end_us = ranking.day_start_us(args.end_date + _ONE_DAY)
    read_first_us = first_us - spec.left_context_us
    read_end_us = end_us + spec.right_context_us

    everything = store.partitions(args.store)
    partitions = [
        partition
        for partition in everything
        if _may_hold(partition, read_first_us, read_end_us, spec.lateness_us)
    ]
    wanted = _days(args.start_date, args.end_date)
    back = -(-spec.left_context_us // DAY_US)
    before = _days(args.start_date - _ONE_DAY * back, args.start_date - _ONE_DAY)
    covered = _covered_days(everything)
    if everything and not any(partition.is_daily for partition in everything):
        # A store of imports has no partition that could be missing: a day that no event is of was
        # a day without listening.
        covered |= {*before, *wanted}
    _check_days(wanted, covered, args.allow_missing)
    known_until = complete_until(
        args.start_date,
        covered.union(wanted),
        _covered_days([p for p in everything if not p.is_daily]),
        spec.labels.lateness_days,
    )
    within = ranking.BuildRange(
        first_us=first_us,
        end_us=end_us,
        watermark_us=min(read_end_us, ranking.day_start_us(known_until)),
        play_sources=tuple(sorted(_play_sources(spec, everything))),
        like_sources=tuple(sorted(_sources_that_tell("like", everything))),
        save_sources=tuple(sorted(_sources_that_tell("save", everything))),
    )
    inputs = tuple(
        manifest.InputVersionEntry(
            name=f"events/dt={partition.day.isoformat()}",
            version=partition.manifest.version,
            digest=partition.manifest.digest(),
        )
        for partition in partitions
    )
    settings: dict[str, Any] = {
        "spec": spec.model_dump(mode="json"),
        "start_date": args.start_date.isoformat(),
        "end_date": args.end_date.isoformat(),
        "watermark_us": within.watermark_us,
        "left_context_missing_days": sum(day not in covered for day in before),
        "sources": {
            "play": list(within.play_sources),
            "like": list(within.like_sources),
            "save": list(within.save_sources),
        },
    }
    fingerprint = manifest.fingerprint(
        {
            "job": "build",
            "config": settings,
            "inputs": [entry.model_dump() for entry in inputs],
            "code": __version__,
        }
    )
    draft = publish.Draft(
        root=args.output,
        kind="dataset",
        name=spec.name,
        version=f"{args.start_date}_{args.end_date}-{fingerprint}",
        fingerprint=fingerprint,
        code_version=__version__,
        config=settings,
        columns=ranking.columns(spec),
        inputs=inputs,
        attempt=f"attempt-{secrets.token_hex(6)}",
        started_at=publish.utc_now(),
        runner=runner,
    )
    event_files: dict[int, list[store.BucketFile]] = {}
    for partition in partitions:
        lateness_days = spec.labels.lateness_days if partition.is_daily else None
        for path, entry in partition.files("events"):
            file = store.BucketFile(path, entry, lateness_days)
            event_files.setdefault(entry.first_bucket or 0, []).append(file)
    build_plan = building.BuildPlan(
        spec=spec,
        within=within,
        read_first_us=read_first_us,
        read_end_us=read_end_us,
        event_files=event_files,
        item_day_files=[file for p in partitions for file in p.files("item_day")],
        attempt_root=draft.attempt_root,
        snapshot_path=storage.join(draft.spill_root, "item_snapshots.arrow"),
        # Workers elsewhere run several shards at a time by themselves.
        threads=os.cpu_count() or 1 if runner == cli.LOCAL_RUNNER else 1,
    )
    return draft, build_plan, config.bucket_count


def build_graph(pipeline: Any, draft: Draft, build_plan: BuildPlan, bucket_count: int) -> None:
    """The build graph; its last step commits."""
    import apache_beam as beam

    from transforms import building, publish

    shards = building.plan_shards(bucket_count, build_plan.spec.shards)
    built = (
        pipeline
        | "ListShards" >> beam.Create(shards)
        | "BuildShards" >> building.BuildShards(build_plan)
    )
    no_errors = pipeline | "NoFileErrors" >> beam.Create([]).with_output_types(str)
    _ = {**built, "file_errors": no_errors} | "PublishVersion" >> publish.PublishVersion(
        draft, building.BuildGate(), building.SPLIT
    )


def summary_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Lines of the table at the end."""
    counts = manifest.counts
    examples = counts.get("examples", 0)
    rows = [
        ("partitions read", f"{len(manifest.inputs):,}"),
        ("events read", f"{counts.get('events', 0):,}"),
        ("duplicates across partitions", f"{counts.get('duplicate_across_partitions', 0):,}"),
        ("late events left out", f"{counts.get('late', 0):,}"),
        ("near duplicates left out", f"{counts.get('near_duplicate', 0):,}"),
        ("examples", f"{examples:,}"),
        ("immature, withheld", f"{counts.get('immature', 0):,}"),
        ("sessions", f"{counts.get('sessions', 0):,}"),
    ]
    for name, tally in counts.get("labels", {}).items():
        known = examples - tally["unknown"]
        if not known:
            rows.append((f"label: {name}", "unknown"))
        elif "true" in tally:
            rows.append((f"label: {name}", console.share_text(tally["true"], known)))
    rows.append(("reward unknown", console.share_text(counts.get("reward_unknown", 0), examples)))
    return rows


def run(argv: list[str] | None = None) -> int:
    """Runs the job with the given command line; returns the exit code."""
    args, rest = cli.parse(build_parser(), argv)
    return build(args, cli.beam_options(rest))


def build(args: argparse.Namespace, options: PipelineOptions) -> int:
    """Plans, runs and reports one build."""
    started = time.monotonic()
    from transforms import manifest

    draft, build_plan, bucket_count = plan(args, cli.runner_name(options))
    published = cli.run_and_publish(
        draft,
        options,
        {"build": float(bucket_count)},
        lambda pipeline: build_graph(pipeline, draft, build_plan, bucket_count),
    )
    if published is not None:
        _note_short_context(draft)
        _note_unknown_reward(published)
        rows = summary_rows(published) + console.cost_rows(started)
        console.print_table(f"Published {manifest.version_root(draft.root, draft.version)}", rows)
        if published.status == "EMPTY":
            print(f"warning: the version is EMPTY: {_why_empty(published)}", file=sys.stderr)
            current = manifest.load_current(draft.root)
            if current is not None and current.version != published.version:
                print(f"note: {current.version} stays the current version", file=sys.stderr)
    return 0


def _why_empty(published: Manifest) -> str:
    immature = published.counts["immature"]
    if immature:
        return (
            f"{immature:,} examples are immature; the days after them have to be ingested first "
            "(labels.horizon_hours and labels.lateness_days say how many)"
        )
    return "no event of these days is an example of the spec; `playhead inspect` shows the store"


def _note_unknown_reward(published: Manifest) -> None:
    """Says on standard error if no row has a reward, and which labels are the reason."""
    counts = published.counts
    if not counts["examples"] or counts["reward_unknown"] < counts["examples"]:
        return
    weighted = published.config["spec"]["labels"]["reward"]
    unknown = [name for name in weighted if counts["labels"][name]["unknown"] == counts["examples"]]
    print(
        "note: label_reward is null in every row, for the source cannot tell "
        f"{', '.join(unknown)}; leave them out of labels.reward to have one",
        file=sys.stderr,
    )


def _note_short_context(draft: Draft) -> None:
    """Says on standard error if features of the first days look back beyond the store."""
    missing = draft.config["left_context_missing_days"]
    if missing:
        print(
            f"note: the store has no partition for {missing} of the days before the range that "
            "features look back to; they count what there is",
            file=sys.stderr,
        )


def main() -> int:
    return cli.main("playhead build", run)


if __name__ == "__main__":
    sys.exit(main())
