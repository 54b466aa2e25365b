r"""The event store to one version of a dataset.

    python -m pipelines.build --store store --spec specs/ranking.yaml \
        --start-date 2026-01-06 --end-date 2026-01-07 --output datasets/ranking [Beam options]

For each shard: read the columns that are needed of its buckets -> sessions, attribution, features
as of each example, labels -> rows in keyed order -> write; then check and commit.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Any

from pipelines import cli, console
from transforms.errors import UsageError, closest
from transforms.version import __version__

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from transforms.building import BuildPlan
    from transforms.counts import Counts
    from transforms.finishing import FinishDataset
    from transforms.manifest import Manifest
    from transforms.publish import Draft

EXAMPLE = (
    "playhead build --store store --spec specs/ranking.yaml --start-date 2026-01-06 "
    "--end-date 2026-01-07 --output datasets/ranking"
)
SHIPPED_SPECS = ("ranking", "retrieval", "sequences", "sessions", "listening")


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead build", "Builds and publishes a dataset version from the event store.", EXAMPLE
    )
    parser.add_argument("--store", required=True, metavar="DIR", help="event store to read")
    parser.add_argument(
        "--spec",
        required=True,
        metavar="FILE",
        help="YAML spec of the dataset, or the name of one that comes with Playhead: "
        + ", ".join(SHIPPED_SPECS),
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
        "--as-of",
        type=cli.instant_us,
        metavar="T",
        help="know only what had been received by then: YYYY-MM-DDTHH:MM:SSZ, or a day for its end",
    )
    parser.add_argument(
        "--catalog",
        metavar="FILE",
        help="Parquet table of CatalogTrack: a track can be a negative from its release on "
        "(without one, from the midnight after it was first seen)",
    )
    parser.add_argument(
        "--semantic-ids",
        metavar="DIR",
        help="version of `playhead semantic-ids`, whose codes sequences get",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="DIR",
        help="version of a sequences dataset whose item indices are taken over",
    )
    parser.add_argument(
        "--serving-log",
        metavar="FILE",
        help="Parquet table of features as they were served; their skew against train is a gate",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="treat days without a partition, up to the store's last, as days without events",
    )
    return parser  # fmt: skip


def _spec_path(given: str) -> str:
    """The file, or the spec of that name that comes with Playhead.

    Raises:
      UsageError: if there is neither.
    """
    import specs

    if os.path.exists(given):
        return given
    if given in SHIPPED_SPECS:
        return str(pathlib.Path(specs.__file__).with_name(f"{given}.yaml"))
    close = closest(pathlib.Path(given).stem, SHIPPED_SPECS)
    hint = f"did you mean {close}? " if close else ""
    raise UsageError(
        f"--spec {given}: no such file; {hint}expected a YAML file, or one of those that come with "
        f"Playhead: {', '.join(SHIPPED_SPECS)}"
    )


def plan(args: argparse.Namespace, runner: str) -> tuple[Draft, BuildPlan, FinishDataset, int]:
    """Everything that is decided before a pipeline exists.

    Returns:
      The draft of the version, the plan of the build and of its end, and the store's bucket count.

    Raises:
      UsageError, DataRefusedError: before any work, for a range or spec that cannot be built.
    """
    from transforms import manifest, publish
    from transforms.finishing import FinishDataset
    from transforms.planning import Request, plan_build
    from transforms.specs import load_spec

    path = _spec_path(args.spec)
    spec = load_spec(path)
    started_at = publish.begin(args.output)  # before the store is looked at
    publish.check_place(args.output, "dataset", spec.name, "--output")
    planned = plan_build(
        Request(
            store=args.store,
            spec=spec,
            spec_name=path,
            first_day=args.start_date,
            last_day=args.end_date,
            as_of_us=args.as_of,
            catalog=args.catalog,
            semantic_ids=args.semantic_ids,
            vocabulary=args.vocabulary,
            allow_missing=args.allow_missing,
        )
    )
    finish = FinishDataset.of(planned, os.path.dirname(path), args.serving_log)
    fingerprint = manifest.fingerprint(
        {
            "job": "build",
            "config": planned.config,
            "inputs": [entry.model_dump() for entry in planned.inputs],
            "gates": finish.digest(),
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
        config=planned.config,
        columns=planned.plan.columns,
        key=planned.plan.key,
        inputs=planned.inputs,
        requests=(args.store, planned.requests),
        attempt=manifest.new_attempt(),
        started_at=started_at,
        runner=runner,
    )
    # Workers elsewhere run several shards at a time by themselves.
    threads = os.cpu_count() or 1 if runner == cli.LOCAL_RUNNER else 1
    build_plan = planned.placed(draft.attempt_root, draft.spill_root, threads)
    return draft, build_plan, finish, planned.store.bucket_count


def build_graph(
    pipeline: Any, draft: Draft, build_plan: BuildPlan, finish: FinishDataset, bucket_count: int
) -> None:
    """The build graph; its last step commits."""
    import apache_beam as beam

    from transforms import building, publish, shards

    planned = shards.plan_shards(bucket_count, build_plan.spec.output.shards)
    _ = (
        pipeline
        | "ListShards" >> beam.Create([planned])
        | "BuildShards" >> building.BuildShards(build_plan)
        | "PublishVersion"
        >> publish.PublishVersion(draft, building.BuildGate(len(planned)), finish)
    )


def summary_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Lines of the table at the end."""
    from transforms import counts as row_counts

    counts = manifest.counts
    examples, after = counts.get("examples", 0), counts.get("after_as_of", 0)
    rows = [
        ("partitions read", f"{len(manifest.inputs):,}"),
        ("events read", f"{row_counts.events_read(counts):,}"),
        ("  late", f"{counts.get('late', 0):,}"),
        *([("  received after --as-of", f"{after:,}")] if after else []),
        ("  duplicates across partitions", f"{counts.get('duplicate_across_partitions', 0):,}"),
        ("    of other content", f"{counts.get('conflicting_across_partitions', 0):,}"),
        ("  near duplicates", f"{counts.get('near_duplicate', 0):,}"),
        *([("  forgotten", f"{counts['forgotten']:,}")] if "forgotten" in counts else []),
        ("events used", f"{counts.get('events', 0):,}"),
        ("examples", f"{examples:,}"),
        ("immature, withheld", f"{counts.get('immature', 0):,}"),
        ("sessions", f"{counts.get('sessions', 0):,}"),
    ]
    rows += [(f"rows of {split}", f"{n:,}") for split, n in counts["splits"].items() if n]
    if counts.get("censored"):
        rows.append(("censored, labels unknown", f"{counts['censored']:,}"))
    rows += [
        (f"dropped: {reason.replace('_', ' ')}", f"{n:,}")
        for reason, n in counts["split_dropped"].items()
        if n
    ]
    labelled = counts.get("labelled", 0)
    for name, tally in counts.get("labels", {}).items():
        known = labelled - tally["unknown"]
        if not known:
            rows.append((f"label: {name}", "unknown"))
        elif "true" in tally:
            rows.append((f"label: {name}", console.share_text(tally["true"], known)))
    if labelled:
        rows.append(("reward unknown", console.share_text(counts["reward_unknown"], labelled)))
    return rows


def run(argv: list[str] | None = None) -> int:
    """Runs the job with the given command line; returns the exit code."""
    args, rest = cli.parse(build_parser(), argv)
    return build(args, cli.beam_options(rest))


def build(args: argparse.Namespace, options: PipelineOptions) -> int:
    """Plans, runs and reports one build."""
    started = time.monotonic()
    from transforms import manifest

    draft, build_plan, finish, bucket_count = plan(args, cli.runner_name(options))
    published = cli.run_and_publish(
        draft,
        options,
        {"build": float(bucket_count)},
        lambda pipeline: build_graph(pipeline, draft, build_plan, finish, bucket_count),
    )
    if published is not None:
        _note_days(draft)
        _note_unknown_reward(published)
        rows = summary_rows(published) + _page_rows(draft.root, published)
        rows += console.cost_rows(started)
        console.print_table(f"Published {manifest.version_root(draft.root, draft.version)}", rows)
        if published.status == "EMPTY":
            _warn_empty(draft.root, published)
    return 0


def _page_rows(root: str, published: Manifest) -> list[tuple[str, str]]:
    """Where to read on, and how much the checks found."""
    from transforms import manifest

    (found,) = published.files_of("anomalies")
    text = manifest.read_verified(manifest.file_path(root, published, found), found)
    warnings = len(json.loads(text)["findings"])  # with errors nothing would be published
    (page,) = published.files_of("report")
    return [
        ("warnings of the checks", f"{warnings:,}"),
        ("report", manifest.file_path(root, published, page)),
    ]


def _warn_empty(root: str, published: Manifest) -> None:
    """Says on standard error that there is nothing to train on, why, and what is current."""
    from transforms import manifest

    print(f"warning: the version is EMPTY: {why_empty(published.counts)}", file=sys.stderr)
    current = manifest.load_current(root)
    stays = "nothing is current here" if current is None else f"{current.version} stays current"
    print(f"note: a version without rows does not become current: {stays}", file=sys.stderr)


def why_empty(counts: Counts) -> str:
    """What was there, and what became of it."""
    events = f"of {counts['events']:,} events that were read"
    lost = {reason.replace("_", " "): n for reason, n in counts["split_dropped"].items()}
    lost |= {"too short": counts.get("too_short", 0), "immature": counts["immature"]}
    found = [f"{reason} {n:,}" for reason, n in lost.items() if n]
    if not found:
        return (
            f"{events} none is an example of the spec (its kind, surfaces and sources) on these "
            "days; `playhead inspect` shows the store"
        )
    text = f"{events} all examples were left out: {', '.join(found)}"
    if counts["immature"]:
        text += (
            "; the days after immature ones have to be ingested first (labels.horizon_hours and "
            "labels.lateness_days say how many)"
        )
    return text


def _note_unknown_reward(published: Manifest) -> None:
    """Says on standard error if no row has a reward, and which labels are the reason."""
    counts = published.counts
    labelled = counts.get("labelled", 0)
    if not labelled or counts["reward_unknown"] < labelled:
        return
    weighted = published.config["spec"]["labels"]["reward"]
    unknown = [name for name in weighted if counts["labels"][name]["unknown"] == labelled]
    print(
        "note: the reward is unknown in every row, for the source cannot tell "
        f"{', '.join(unknown)}; leave them out of labels.reward to have one",
        file=sys.stderr,
    )


def _note_days(draft: Draft) -> None:
    """Says on standard error which days had no partition, and were taken for empty or early."""
    empty = draft.config["days_taken_for_empty"]
    if empty:
        print(
            f"note: --allow-missing: days without a partition are taken for days without events: "
            f"{', '.join(empty)}",
            file=sys.stderr,
        )
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
