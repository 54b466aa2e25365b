r"""Raw listening logs to one partition of the event store.

    python -m pipelines.ingest --input 'raw/2026-01-05/*.parquet' --format parquet \
        --store store --date 2026-01-05 [Beam options]

Files -> adapt, validate, reject with reasons -> exchange by user bucket -> deduplicate, flag, sort,
write -> check conservation and the quarantine share -> commit.
"""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Any

from pipelines import cli, console
from transforms.errors import UsageError, printable
from transforms.version import __version__

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from transforms.ingestion import IngestPlan
    from transforms.manifest import Manifest
    from transforms.publish import Draft

EXAMPLE = (
    "playhead ingest --input 'raw/received=2026-01-05/*.parquet' --format parquet "
    "--store store --date 2026-01-05"
)


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead ingest", "Adapts raw logs and publishes one day of the event store.", EXAMPLE
    )
    parser.add_argument(
        "--input",
        required=True,
        action="append",
        metavar="GLOB",
        help="raw files; may be given more than once",
    )
    parser.add_argument(
        "--format",
        required=True,
        metavar="NAME",
        help="log format: a name of `playhead formats`, a mapping file (.yaml), or a module "
        "with an ADAPTER",
    )
    parser.add_argument("--store", required=True, metavar="DIR", help="event store to publish to")
    parser.add_argument(
        "--date",
        required=True,
        type=cli.iso_date,
        metavar="D",
        help="UTC day that the files arrived on, YYYY-MM-DD; rows received on another day are "
        "left to that day's run",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="publish even if files that the day was made of before are not among the input",
    )
    parser.add_argument(
        "--all-days",
        action="store_true",
        help="take rows of any received day: a one-off import that stands for all its days",
    )
    parser.add_argument(
        "--max-quarantine",
        type=cli.share,
        default=0.001,
        metavar="SHARE",
        help="publish nothing if more than this share of rows is invalid (default 0.001)",
    )
    parser.add_argument(
        "--max-user-events",
        type=cli.positive_int,
        default=5000,
        metavar="N",
        help="set users aside who have more events than this on a day (default 5000)",
    )
    parser.add_argument(
        "--near-duplicate-s",
        type=cli.positive_int,
        default=60,
        metavar="SECONDS",
        help="flag a play that another client reported within this time (default 60)",
    )
    parser.add_argument(
        "--buckets",
        type=cli.power_of_two,
        metavar="N",
        help="user buckets of a new store, a power of two (default 32); fixed from then on",
    )
    parser.add_argument(
        "--user-key",
        metavar="REF",
        help="replace user ids by keyed pseudonyms; REF says where the key is: env:NAME or "
        "file:/path",
    )
    parser.add_argument(
        "--shuffle",
        choices=["auto", "value", "reference"],
        default="auto",
        help="how tables travel: by reference on this machine, by value on clusters",
    )
    return parser  # fmt: skip


def _list_inputs(patterns: list[str]) -> list[tuple[str, int]]:
    from transforms import storage

    listed: dict[str, int] = {}
    for pattern in patterns:
        found = storage.list_files(pattern)
        if not found:
            raise UsageError(
                f"--input: no file matches {pattern!r} (quote the pattern; a missing day is not "
                "an empty day)"
            )
        listed.update((storage.absolute(path), size) for path, size in found)
    for path in listed:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"--input: {printable(path)}: expected a name in UTF-8; rename the file"
            ) from None
    return sorted(listed.items())


def _checksum(path: str) -> str:
    from transforms import storage

    try:
        return storage.checksum(path)
    except OSError as error:
        raise UsageError(f"--input: cannot read {path}: {error.strerror or error}") from None


def format_digest(name: str) -> str | None:
    """Digest of a user's own mapping or module, which decides data like code does."""
    path = pathlib.Path(name)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def plan(args: argparse.Namespace, runner: str) -> tuple[Draft, IngestPlan]:
    """Everything that is decided before a pipeline exists.

    Raises:
      UsageError: for options that do not fit each other, the files or the store.
    """
    from schemas import forms
    from transforms import events, ingestion, manifest, pseudonyms, publish, store, tombstones
    from transforms.adapters import get_adapter

    root = store.partition_root(args.store, args.date)
    started_at = publish.begin(root)  # before the files are listed: who begins later knows more
    adapter = get_adapter(args.format)
    store.check_place(args.store)
    publish.check_place(root, "events", args.date.isoformat(), "--store")
    inputs = _list_inputs(args.input)
    requests = tombstones.names(args.store)
    key_id = pseudonyms.key_id(pseudonyms.read_key(args.user_key)) if args.user_key else None
    store_config = store.plan_config(args.store, args.buckets, key_id)
    rules = events.ValidityRules(
        day=args.date, one_day_only=adapter.arrival_known and not args.all_days
    )
    bucket = ingestion.BucketConfig(args.max_user_events, args.near_duplicate_s * 1000)
    config = {
        "format": args.format,
        "format_digest": format_digest(args.format),
        "event_types": list(adapter.event_types),
        "date": args.date.isoformat(),
        "one_day_only": rules.one_day_only,
        "max_user_events_per_day": bucket.max_user_events_per_day,
        "near_duplicate_ms": bucket.near_duplicate_ms,
        "store": store_config.model_dump(),
    }
    forgotten = tombstones.union(r.forgotten for r in tombstones.load(args.store, requests))
    if rules.one_day_only:
        forgotten = forgotten.touching(*rules.received_us)
    if forgotten:
        config["forgotten"] = forgotten.digest()
    entries = tuple(
        manifest.InputFileEntry(path=path, bytes=size, checksum=_checksum(path))
        for path, size in inputs
    )
    fingerprint = manifest.fingerprint(
        {
            "job": "ingest",
            "config": config,
            "inputs": [entry.model_dump() for entry in entries],
            "code": __version__,
        }
    )
    draft = publish.Draft(
        root=root,
        kind="events",
        name=args.date.isoformat(),
        version=f"v-{fingerprint}",
        fingerprint=fingerprint,
        code_version=__version__,
        config=config,
        columns=tuple(
            manifest.ColumnEntry(name=name, type=forms.type_name(kind))
            for name, kind in events.STORE_SCHEMA.items()
        ),
        inputs=entries,
        attempt=manifest.new_attempt(),
        started_at=started_at,
        runner=runner,
        companion=store.config_file(args.store, store_config),
        requests=(args.store, requests),
        keep_inputs=not args.replace,
    )
    ingest_plan = ingestion.IngestPlan(
        paths=tuple((entry.path, entry.bytes, entry.checksum) for entry in entries),
        adapt=ingestion.AdaptConfig(
            adapter, rules, store_config.hash_seed, args.user_key, forgotten
        ),
        bucket=bucket,
        bucket_count=store_config.bucket_count,
        max_quarantine=args.max_quarantine,
    )
    return draft, ingest_plan


def build_graph(pipeline: Any, draft: Draft, ingest_plan: IngestPlan, shuffle: str) -> None:
    """The ingest graph; its last step commits. `shuffle` as in the option."""
    import apache_beam as beam

    from transforms import exchange, ingestion, publish, storage

    if shuffle == "auto":
        shuffle = "reference" if draft.runner == cli.LOCAL_RUNNER else "value"
    by_bucket = exchange.ExchangeByBucket(
        ingest_plan.bucket_count, exchange.ExchangeMode(shuffle), draft.spill_root
    )
    root = draft.attempt_root
    read = (
        pipeline
        | "ListFiles" >> beam.Create(ingest_plan.paths).with_output_types(tuple[str, int, str])
        | "ReadEvents" >> ingestion.ReadEvents(ingest_plan.adapt)
    )
    written = (
        read["tables"]
        | "ExchangeByBucket" >> by_bucket
        | "WriteBuckets" >> ingestion.WriteBuckets(ingest_plan.bucket, root)
    )
    item_days = written["item_days"] | "WriteItemDays" >> ingestion.WriteItemDays(root)
    rejected = read["rejected"] | "WriteQuarantine" >> ingestion.WriteQuarantine(root)
    files = (written["files"], item_days, rejected) | "AllFiles" >> beam.Flatten()
    counts = (read["counts"], written["counts"]) | "AllCounts" >> beam.Flatten()
    gate = ingestion.IngestGate(
        ingest_plan.adapt.rules.day,
        len(ingest_plan.paths),
        ingest_plan.max_quarantine,
        storage.join(root, "quarantine"),
    )
    _ = {
        "files": files,
        "counts": counts,
        "file_errors": read["file_errors"],
    } | "PublishPartition" >> publish.PublishVersion(draft, gate, publish.FinishRows("events"))


def summary_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Lines of the table at the end."""
    counts = manifest.counts
    read = counts.get("read", 0)
    quarantined = counts.get("quarantined", {})
    rows = [
        ("files", f"{counts.get('files', 0):,}"),
        ("rows read", f"{read:,}"),
        ("kept", console.share_text(counts.get("kept", 0), read)),
        ("  near duplicates (flagged)", f"{counts.get('near_duplicate', 0):,}"),
        ("duplicates dropped", f"{counts.get('duplicate', 0):,}"),
        ("  of them conflicting", f"{counts.get('conflicting_duplicate', 0):,}"),
        ("quarantined", console.share_text(sum(quarantined.values()), read)),
        *((f"  {reason}", f"{n:,}") for reason, n in quarantined.items()),
        *((f"excluded: {reason}", f"{n:,}") for reason, n in counts.get("excluded", {}).items()),
        ("set aside", f"{sum(counts.get('set_aside', {}).values()):,}"),
        *((f"  {reason}", f"{n:,}") for reason, n in counts.get("set_aside", {}).items()),
        ("of another day", f"{counts.get('other_day', 0):,}"),
        *([("forgotten", f"{counts['forgotten']:,}")] if "forgotten" in counts else []),
        *((f"repaired: {name}", f"{n:,}") for name, n in counts.get("repaired", {}).items()),
    ]
    by_type: dict[str, int] = {}
    for kinds in counts.get("by_source", {}).values():
        for kind, n in kinds.items():
            by_type[kind] = by_type.get(kind, 0) + n
    rows += [(f"events: {kind}", f"{n:,}") for kind, n in sorted(by_type.items())]
    days = list(counts.get("by_event_day", {}))
    if days:
        rows.append(("event days", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"))
    return rows


def run(argv: list[str] | None = None) -> int:
    """Runs the job with the given command line; returns the exit code."""
    args, rest = cli.parse(build_parser(), argv)
    options = cli.beam_options(rest)
    return ingest(args, options)


def ingest(args: argparse.Namespace, options: PipelineOptions) -> int:
    """Plans, runs and reports one ingest."""
    started = time.monotonic()
    from transforms import manifest, publish

    draft, ingest_plan = plan(args, cli.runner_name(options))
    if manifest.load(draft.root, draft.version) is None:
        publish.check_inputs_kept(draft)
    totals = {
        "read": float(sum(size for _, size, _ in ingest_plan.paths)),
        "store": float(ingest_plan.bucket_count),
    }
    published = cli.run_and_publish(
        draft,
        options,
        totals,
        lambda pipeline: build_graph(pipeline, draft, ingest_plan, args.shuffle),
        keep=("quarantine",),
    )
    if published is None:
        return 0
    rows = summary_rows(published) + console.cost_rows(started)
    console.print_table(f"Published {manifest.version_root(draft.root, draft.version)}", rows)
    if published.status == "EMPTY":
        print("warning: no event was kept; the partition is published as EMPTY", file=sys.stderr)
    return 0


def main() -> int:
    return cli.main("playhead ingest", run)


if __name__ == "__main__":
    sys.exit(main())
