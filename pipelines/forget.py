r"""Forgets users: leaves them out of the store and of datasets, and proves it.

    python -m pipelines.forget --store store --user 4711 --user-key env:PLAYHEAD_USER_KEY \
        --dataset datasets/ranking --dataset datasets/sequences [Beam options]

Tombstone -> rewrite the users' buckets in each partition that has them -> rewrite their shards in
each version that was built of such a partition -> search for them. docs/deletion.md has the rules.
"""

from __future__ import annotations

import argparse
import pathlib
import secrets
import sys
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from pipelines import cli, console
from transforms.errors import DataRefusedError, UsageError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from transforms.absence import Scan
    from transforms.forgetting import Job, Piece, RootPlan

EXAMPLE = "playhead forget --store store --user 4711 --dataset datasets/ranking"


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead forget",
        "Forgets users: rewrites their bucket of the store and their shard of datasets, keeps them "
        "out of whatever is ingested again, and searches for what may be left.",
        EXAMPLE,
    )
    parser.add_argument("--store", required=True, metavar="DIR", help="event store")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--user", action="append", metavar="ID", help="user id as logs have it; may be repeated"
    )
    who.add_argument(
        "--user-id", action="append", metavar="ID", help="user id as the store has it (a pseudonym)"
    )
    who.add_argument(
        "--users-file",
        metavar="FILE",
        help="user ids as logs have them, one a line; whom the store does not know is noted down",
    )
    parser.add_argument(
        "--user-key",
        metavar="REF",
        help="where the key of the store's pseudonyms is: env:NAME or file:/path",
    )
    parser.add_argument(
        "--at",
        type=cli.instant_us,
        metavar="T",
        help="forget what was received until then: YYYY-MM-DDTHH:MM:SSZ, or a day for its end "
        "(default: now); what comes later counts",
    )
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="DIR",
        help="folder of a dataset's versions that were built from the store; may be repeated",
    )
    parser.add_argument(
        "--scan",
        choices=["bucket", "all"],
        default="bucket",
        help="search the files that can hold the users (default), or every file that there is",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    only.add_argument("--verify-only", action="store_true", help="search again, change nothing")
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="go on although another run seems to be at work (it died on another machine)",
    )
    return parser


def _stored_ids(args: argparse.Namespace) -> list[str]:
    """The users' ids as the store has them.

    Raises:
      UsageError: for a file without ids, or a key that is not the store's.
    """
    from transforms import pseudonyms, store

    if args.user_id:
        return [str(text) for text in args.user_id]
    raw = args.user
    if args.users_file:
        try:
            lines = pathlib.Path(args.users_file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--users-file: cannot read {args.users_file}: {error}") from None
        raw = [line for line in lines if line]
        if not raw:
            raise UsageError(f"--users-file: {args.users_file}: expected a user id a line")
    key = pseudonyms.read_key(args.user_key) if args.user_key else None
    store.plan_config(args.store, None, None if key is None else pseudonyms.key_id(key))
    return raw if key is None else [pseudonyms.pseudonym(key, text) for text in raw]


def _instant_us(args: argparse.Namespace) -> int:
    now_us = time.time_ns() // 1000
    if args.at is None:
        return now_us
    if args.at > now_us:
        raise UsageError("--at: expected an instant that has passed: what is still to come counts")
    return int(args.at)


def run(argv: list[str] | None = None) -> int:
    """Runs the job with the given command line; returns the exit code."""
    args, rest = cli.parse(build_parser(), argv)
    return forget(args, cli.beam_options(rest))


def forget(args: argparse.Namespace, options: PipelineOptions) -> int:
    """Plans, runs, verifies and reports one run."""
    started = time.monotonic()
    from transforms import absence, forgetting, publish, store, tombstones

    config = store.require_config(args.store)
    for root in args.dataset:
        forgetting.check_dataset(root)
    ids = tombstones.hashes_of(_stored_ids(args), config.hash_seed)
    known = tombstones.all_of(args.store).only(ids)

    def job_of(users: tombstones.Forgotten) -> Job:
        attempt = f"attempt-{secrets.token_hex(6)}"
        return forgetting.Job(args.store, config, users, attempt, cli.runner_name(options))

    def verify(lines: list[tuple[str, str]]) -> int:
        job = job_of(tombstones.all_of(args.store).only(ids))
        found = absence.scan(job, ids, args.dataset, args.scan == "all")
        return _report(found, ids, lines, started)

    if args.verify_only:
        if len(known.until_us) < len(ids):
            raise UsageError(
                f"--verify-only: {len(ids) - len(known.until_us)} of {len(ids)} users were never "
                "forgotten in this store; run without it"
            )
        return verify([])

    now = publish.utc_now()
    request = tombstones.Request(
        forgotten_at_us=_instant_us(args),
        recorded_at=now,
        users=tuple(sorted(map(tombstones.hash_text, ids))),
    )
    own = tombstones.union([request.forgotten, known])
    if args.dry_run or not (args.users_file or len(known.until_us) == len(ids)):
        seen, lines = _look(job_of(own), args.dataset if args.dry_run else [])
        if not args.users_file:
            _check_known(args.store, ids, seen.union(known.until_us))
        if args.dry_run:
            console.print_table("Would be forgotten", lines + console.cost_rows(started))
            return 0
    with tombstones.lock(args.store, now, args.take_over):
        tombstones.record(args.store, request)
        requests = {each.name: each for each in (*tombstones.pending(args.store), request)}
        job = job_of(tombstones.union([own, *(each.forgotten for each in requests.values())]))
        days = store.partition_days(args.store)
        plans = [forgetting.plan_partition(job, day) for day in days]
        lines = _rewrite("versions of partitions", plans, options)
        for each in requests.values():
            tombstones.mark_done(args.store, each, publish.utc_now())
        plans = [forgetting.plan_dataset(job, root) for root in args.dataset]
        lines += _rewrite("versions of datasets", plans, options)
        return verify(lines)


def _check_known(store: str, ids: Collection[int], seen: set[int]) -> None:
    lacking = len([user for user in ids if user not in seen])
    if lacking:
        what = "the user" if len(ids) == 1 else f"{lacking} of the {len(ids)} users"
        raise UsageError(
            f"{store} has no event of {what}: check the id, and how it is given (--user as logs "
            "have it, --user-id as the store has it); --users-file notes down unknown users too"
        )


def _look(job: Job, datasets: list[str]) -> tuple[set[int], list[tuple[str, str]]]:
    """Whom the store has, and what a run would rewrite; nothing is changed."""
    from transforms import forgetting, store

    held: dict[tuple[str, str], frozenset[int]] = {}
    counted: list[tuple[str, int, int, int]] = []

    def count(what: str, plans: Iterable[RootPlan]) -> list[tuple[Piece, frozenset[int]]]:
        found = [(piece, forgetting.look(piece)) for plan in plans for piece in plan.pieces]
        hits = [(piece, each) for piece, each in found if each.rows]
        versions = {(piece.of.root, piece.of.version) for piece, _ in hits}
        files = sum(len(piece.files) for piece, _ in hits)
        counted.append((what, len(versions), files, sum(each.rows for _, each in hits)))
        return [(piece, each.users) for piece, each in hits]

    days = store.partition_days(job.store)
    seen: set[int] = set()
    for piece, users in count("partitions", (forgetting.plan_partition(job, d) for d in days)):
        name = "events/" + piece.of.root.rsplit("/", 1)[1]
        key = name, piece.of.version
        held[key] = held.get(key, frozenset()) | users
        seen |= users
    if datasets:
        known = forgetting.held_by(job, held)
        count("dataset versions", (forgetting.plan_dataset(job, root, known) for root in datasets))
    lines = [("users", f"{len(job.users.until_us):,}"), ("  in the store", f"{len(seen):,}")]
    for what, versions, files, rows in counted:
        lines += [(what, f"{versions:,}"), ("  files", f"{files:,}"), ("  rows", f"{rows:,}")]
    return seen, lines


def _rewrite(what: str, plans: list[RootPlan], options: PipelineOptions) -> list[tuple[str, str]]:
    """Does what was planned; lines of the table at the end."""
    from transforms import forgetting, manifest, storage

    for plan in plans:
        for root, old, new in plan.finished:
            forgetting.finish(root, old, new)
        for path in plan.left:
            storage.delete_file(path)
    pieces = [piece for plan in plans for piece in plan.pieces]
    counts = dict.fromkeys(forgetting.COUNTERS, 0)
    counts["versions"] = sum(len(plan.finished) for plan in plans)
    if pieces:
        try:
            found = _run(pieces, options)
        except BaseException:
            for of in {piece.of for piece in pieces}:
                done = manifest.load(of.root, of.successor, withdrawn_too=True)
                if done is None or done.run.attempt != of.attempt:
                    storage.delete_tree(of.attempt_root)
                    storage.delete_if_empty(manifest.version_root(of.root, of.successor))
            raise
        counts = {name: n + found.get(name, 0) for name, n in counts.items()}
    refused = counts["refused-attempts"]
    return [
        (f"{what} rewritten", f"{counts['versions']:,}"),
        ("  rows left out", f"{counts['rows']:,}"),
        *([("  refused attempts deleted", f"{refused:,}")] if refused else []),
    ]


def _run(pieces: list[Piece], options: PipelineOptions) -> dict[str, int]:
    """Runs the graph to its end; its counters."""
    import apache_beam as beam
    from apache_beam.metrics import MetricsFilter

    from transforms import forgetting

    pipeline = cli.make_pipeline(options)
    _ = (
        pipeline
        | "ListPieces" >> beam.Create(pieces)
        | "RewriteVersions" >> forgetting.RewriteVersions()
    )
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace(forgetting.METRICS))
    return {each.key.metric.name: int(each.result) for each in found["counters"]}


def _report(found: Scan, ids: Collection[int], lines: list[tuple[str, str]], started: float) -> int:
    """Prints what was done and searched.

    Raises:
      DataRefusedError: if somebody was found.
    """
    rows = [
        ("users", f"{len(ids):,}"),
        *lines,
        ("files searched", f"{found.files:,}"),
        ("  bytes", f"{found.bytes:,}"),
        ("  hits", f"{len(found.hits):,}"),
        *([("  users who came back", f"{len(found.returned):,}")] if found.returned else []),
    ]
    console.print_table("Forgotten", rows + console.cost_rows(started))
    if found.unread:
        print(
            f"note: {len(found.unread)} files that no manifest lists cannot be searched "
            f"({found.unread[0]}); they were left by work that was cut off",
            file=sys.stderr,
        )
    if found.hits:
        raise DataRefusedError(
            f"{len(found.hits)} files still hold a forgotten user; something was published "
            f"meanwhile, so run it again:\n{found.describe()}"
        )
    return 0


def main() -> int:
    return cli.main("playhead forget", run)


if __name__ == "__main__":
    sys.exit(main())
