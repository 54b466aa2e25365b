r"""Raw listening logs with a known truth.

    python -m pipelines.simulate --output sim --users 10000 --days 7 --start-date 2026-01-05 \
        --seed 7 --files 4 --format parquet --broken-share 0.0005 [Beam options]

File numbers -> generate their blocks of users and write their raw files and truth -> sum the counts
-> truth/summary.json, last. What lies where: `transforms.simulation.writing`; what is simulated:
`transforms.simulation.world` and `.listening`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from pipelines import cli, console
from transforms.errors import UsageError, closest

if TYPE_CHECKING:
    import apache_beam as beam

    from transforms.simulation.world import SimulationConfig
    from transforms.simulation.writing import Target

EXAMPLE = "playhead simulate --output sim --users 10000 --days 7 --format parquet --seed 7"

# Command line option -> field of SimulationConfig.
_FIELDS = ("seed", "users", "days", "start_date", "tracks", "artists", "broken_share")


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead simulate", "Makes raw listening logs with a known truth.", EXAMPLE
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder to write; empty or not there yet"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="first delete raw/, truth/ and catalog.parquet of an earlier simulation in DIR",
    )
    parser.add_argument(
        "--config",
        metavar="FILE.yaml",
        help="fields of SimulationConfig; the options below win over it",
    )
    parser.add_argument(
        "--users", type=cli.positive_int, metavar="N", help="listeners (default 1000)"
    )
    parser.add_argument(
        "--events",
        type=cli.positive_int,
        metavar="N",
        help="instead of --users: as many users as make about N events in all",
    )
    parser.add_argument("--days", type=cli.positive_int, metavar="N", help="UTC days (default 7)")
    parser.add_argument(
        "--start-date", type=cli.iso_date, metavar="D", help="first day (default 2026-01-05)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of all randomness (default 1)")
    parser.add_argument(
        "--tracks", type=cli.positive_int, metavar="N", help="tracks (default 20000)"
    )
    parser.add_argument(
        "--artists", type=cli.positive_int, metavar="N", help="artists (default 2000)"
    )
    parser.add_argument(
        "--broken-share",
        type=cli.share,
        metavar="SHARE",
        help="broken records added, as a share of the good ones, at most 0.5 (default 0)",
    )
    parser.add_argument(
        "--format",
        default="parquet",
        metavar="NAME",
        help="parquet, avro, jsonl, lastfm1k, listenbrainz, spotify or yambda_multi_event "
        "(default parquet)",
    )
    parser.add_argument(
        "--compression",
        choices=["none", "gzip", "zstd"],
        default="none",
        help="of text formats (default none)",
    )
    parser.add_argument(
        "--files",
        type=cli.positive_int,
        default=1,
        metavar="N",
        help="files a day; each holds whole blocks of 1024 users (default 1)",
    )
    parser.add_argument(
        "--truth",
        choices=["full", "small"],
        default="full",
        help="small leaves out the truth of each impression, the largest table (default full)",
    )
    return parser  # fmt: skip


def read_config(args: argparse.Namespace) -> SimulationConfig:
    """The configuration of the file and the options.

    Raises:
      UsageError: for values that are out of range or do not fit each other.
    """
    import pydantic

    from transforms.config import load_yaml
    from transforms.simulation.world import SimulationConfig

    base = load_yaml(args.config, SimulationConfig) if args.config else SimulationConfig()
    given = {name: getattr(args, name) for name in _FIELDS if getattr(args, name) is not None}
    if args.events is not None:
        if args.users is not None:
            raise UsageError("--events and --users: give one of them")
        days = given.get("days", base.days)
        given["users"] = math.ceil(args.events / (base.events_per_user_day * days))
    try:
        return SimulationConfig.model_validate(base.model_dump() | given)
    except pydantic.ValidationError as error:
        problems = []
        for item in error.errors():
            name = "--" + str(item["loc"][0]).replace("_", "-") + ": " if item["loc"] else ""
            problems.append(name + item["msg"].removeprefix("Value error, "))
        raise UsageError("; ".join(problems)) from None


def plan(args: argparse.Namespace) -> Target:
    """Everything that is decided before a pipeline exists; deletes nothing.

    Raises:
      UsageError: for options that do not fit each other, or an output that is in use.
    """
    from transforms import storage
    from transforms.simulation.formats import FORMATS
    from transforms.simulation.writing import Target

    if args.format not in FORMATS:
        close = closest(args.format, list(FORMATS))
        hint = f"; did you mean {close}?" if close else f"; expected one of {', '.join(FORMATS)}"
        raise UsageError(f"--format: unknown format {args.format!r}{hint}")
    if args.compression != "none" and FORMATS[args.format].encode is None:
        raise UsageError(f"--compression: {args.format} files are compressed as they are")
    config = read_config(args)
    if not args.overwrite and storage.list_folder(args.output):
        raise UsageError(
            f"--output: {args.output} is not empty; choose another folder, or --overwrite it"
        )
    return Target(
        config=config,
        output=args.output,
        format=args.format,
        compression=args.compression,
        files=args.files,
        full_truth=args.truth == "full",
    )


def _clear(output: str) -> None:
    """Deletes what a simulation writes, and nothing else that may lie there."""
    from transforms import storage

    for name in ("raw", "truth", "catalog.parquet"):
        storage.delete_tree(storage.join(output, name))


def build_graph(pipeline: beam.Pipeline, target: Target) -> None:
    """The pipeline; its elements are file numbers and small JSON texts of counts."""
    import apache_beam as beam

    text = target.to_json()
    (
        pipeline
        | "CreateWorlds" >> beam.Create([text])
        | "WriteWorld" >> beam.Map(_write_world).with_output_types(str)
    )
    (
        pipeline
        | "CreateFileNumbers" >> beam.Create(range(target.files))
        | "SpreadOverWorkers" >> beam.Reshuffle().with_output_types(int)
        | "WriteFiles" >> beam.Map(_write_file, text).with_output_types(str)
        | "SumCounts" >> beam.CombineGlobally(_sum_counts).with_output_types(str)
        | "WriteSummary" >> beam.Map(_write_summary, text).with_output_types(str)
    )


def _write_world(text: str) -> str:
    from transforms.simulation.writing import Target, write_world

    write_world(Target.from_json(text))
    return text


def _write_file(file: int, text: str) -> str:
    from transforms.simulation.writing import Target, write_file

    return json.dumps(write_file(Target.from_json(text), file))


def _sum_counts(counts: Any) -> str:
    from transforms.simulation.listening import add_counts

    return json.dumps(add_counts(json.loads(each) for each in counts))


def summary(target: Target, counts: dict[str, int]) -> dict[str, Any]:
    """truth/summary.json: configuration, layout, counts, and the true effect of the experiment.

    `observed_lift` is what the log shows: the ratio of click rates, whose mean is about
    1 + `true_lift`; users differ, so compare it with an interval over users.
    """
    config = target.config
    rates = {
        arm: counts.get(f"clicks.{arm}", 0) / max(counts.get(f"impressions.{arm}", 0), 1)
        for arm in ("control", "treatment")
    }
    return {
        "config": config.model_dump(mode="json"),
        "format": target.format,
        "compression": target.compression,
        "files_a_day": target.files,
        "counts": counts,
        "broken": {
            name.removeprefix("broken."): value
            for name, value in counts.items()
            if name.startswith("broken.")
        },
        "experiment": {
            "true_lift": config.experiment_lift,
            "click_rate": rates,
            "observed_lift": rates["treatment"] / rates["control"] - 1
            if rates["control"]
            else None,
        },
        "position_examination": [
            (slot + 1.0) ** -config.position_exponent for slot in range(config.slate_size)
        ],
    }


def _write_summary(counts: str, text: str) -> str:
    from transforms import storage
    from transforms.simulation.writing import Target

    target = Target.from_json(text)
    content = json.dumps(summary(target, json.loads(counts)), indent=2, sort_keys=True) + "\n"
    storage.replace(storage.join(target.output, "truth", "summary.json"), content.encode())
    return target.output


def _print_summary(target: Target, started: float) -> None:
    from transforms import storage

    path = storage.join(target.output, "truth", "summary.json")
    counts = json.loads(storage.read_bytes(path))["counts"]
    seconds = time.monotonic() - started
    events = counts.get("events", 0)
    rows = [("events", f"{events:,}")]
    kinds = [(name.removeprefix("events."), n) for name, n in counts.items() if "events." in name]
    rows += [(f"  {name}", f"{n:,}") for name, n in sorted(kinds, key=lambda kind: -kind[1]) if n]
    rows += [
        (name.replace("_", " "), f"{counts.get(name, 0):,}")
        for name in ("duplicates", "near_duplicates", "offline", "late_over_1_day", "bot")
    ]
    rows += [
        ("broken records added", f"{counts.get('records.broken', 0):,}"),
        ("records written", f"{counts.get('records.good', 0):,} good"),
        ("raw files", f"{counts.get('files', 0):,}"),
        ("rate", f"{events / max(seconds, 1e-3):,.0f} events/s"),
    ]
    console.print_table(target.output, rows + console.cost_rows(started))


def run(argv: list[str] | None = None) -> int:
    """Simulates; returns 0.

    Raises:
      UsageError: for wrong options; nothing was written.
    """
    args, rest = cli.parse(build_parser(), argv)
    target = plan(args)
    options = cli.beam_options(rest)
    if args.overwrite:
        _clear(target.output)
    from transforms.simulation.writing import STAGE

    total = target.config.blocks * (target.config.days + 2)
    local = cli.is_local(options)
    started = time.monotonic()
    with (
        cli.naming(target.output),
        console.show_progress({STAGE: total}, enabled=local),
        cli.make_pipeline(options) as pipeline,
    ):
        build_graph(pipeline, target)
    _print_summary(target, started)
    return 0


def main() -> int:
    return cli.main("playhead simulate", run)


if __name__ == "__main__":
    sys.exit(main())
