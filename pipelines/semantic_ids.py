r"""Item embeddings to a versioned table of semantic IDs.

    python -m pipelines.semantic_ids --embeddings item_embeddings.parquet \
        --trained-until 2026-01-10 --output semantic_ids/v [Beam options]

One step fits the codebooks and gives every item its codes, on one machine (how large it has to be
says `transforms.semantic_ids`); the next one commits.

`--trained-until` says until when data went into the embeddings. A dataset refuses IDs whose
embeddings know something of its validation or test days, so a date too early hides a leak.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import sys
import time
from typing import TYPE_CHECKING

from pipelines import cli, console
from transforms.errors import UsageError
from transforms.version import __version__

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from transforms.counts import Counts
    from transforms.embeddings import Embeddings
    from transforms.manifest import FileEntry, InputFileEntry, Manifest
    from transforms.publish import Draft
    from transforms.semantic_ids import SemanticIdsConfig

EXAMPLE = (
    "playhead semantic-ids --embeddings item_embeddings.parquet --trained-until 2026-01-10 "
    "--output semantic_ids/v"
)
_LIBRARY = "scikit-learn"


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead semantic-ids",
        "Fits residual k-means on item embeddings and publishes the codes of the items.",
        EXAMPLE,
    )
    parser.add_argument(
        "--embeddings",
        required=True,
        metavar="FILE",
        help="Parquet file of an id and a vector an item, or a quoted pattern of several",
    )
    parser.add_argument(
        "--trained-until",
        required=True,
        metavar="TIME",
        help="the vectors know only of what happened before this UTC day or ISO time",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder of the table's versions"
    )
    parser.add_argument(
        "--levels", type=cli.positive_int, default=3, metavar="N", help="codes an item (default 3)"
    )
    parser.add_argument(
        "--codebook-size",
        type=cli.positive_int,
        default=256,
        metavar="N",
        help="codes to choose from on each level (default 256)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the fit (default 0)"
    )
    parser.add_argument(
        "--id-column",
        default="track_id",
        metavar="NAME",
        help="column of ids, text or whole numbers (default track_id)",
    )
    parser.add_argument(
        "--vector-column",
        default="embedding",
        metavar="NAME",
        help="column of vectors, lists of numbers of one length (default embedding)",
    )
    return parser


def _list_inputs(pattern: str) -> tuple[InputFileEntry, ...]:
    from transforms import storage
    from transforms.manifest import InputFileEntry

    found = storage.list_files(pattern)
    if not found:
        raise UsageError(f"--embeddings: no file matches {pattern!r}")
    return tuple(
        InputFileEntry(path=storage.absolute(path), bytes=size, checksum=storage.checksum(path))
        for path, size in found
    )


def _trained_until_us(given: str, embeddings: Embeddings) -> int:
    """The instant of `--trained-until`, which files that say it too have to confirm."""
    from transforms.semantic_ids import parse_instant

    try:
        instant_us = parse_instant(given)
    except ValueError as error:
        raise UsageError(f"--trained-until: {error}") from None
    for path, said in embeddings.trained_until:
        try:
            agrees = parse_instant(said) == instant_us
        except ValueError:
            agrees = False
        if not agrees:
            raise UsageError(
                f"--trained-until: got {given}, but the metadata of {path} say "
                f"playhead.trained_until = {said}; give what is true, or correct the file"
            )
    return instant_us


def plan(args: argparse.Namespace, runner: str) -> tuple[Draft, Embeddings, SemanticIdsConfig]:
    """Everything that is decided before a pipeline exists.

    Raises:
      UsageError: for options that do not fit the files or each other.
      InputFileError, DataRefusedError: from `embeddings.describe`.
    """
    from transforms import embeddings, manifest, publish, semantic_ids
    from transforms.quantization import Grid

    if importlib.util.find_spec("sklearn") is None:
        raise UsageError(f"{_LIBRARY} is not installed; pip install 'playhead[semantic-ids]'")
    started_at = publish.begin(args.output)  # before the files are listed
    publish.check_place(args.output, semantic_ids.KIND, semantic_ids.KIND, "--output")
    inputs = _list_inputs(args.embeddings)
    source = embeddings.describe(
        tuple(entry.path for entry in inputs), args.id_column, args.vector_column
    )
    until_us = _trained_until_us(args.trained_until, source)
    if args.codebook_size > source.items:
        raise UsageError(
            f"--codebook-size: expected at most the {source.items:,} items there are, "
            f"got {args.codebook_size:,}"
        )
    Grid.of(1.0, source.dimensions, args.levels)  # raises if the levels are too many
    config = semantic_ids.SemanticIdsConfig(args.levels, args.codebook_size, args.seed)
    settings = {
        **dataclasses.asdict(config),
        "trained_until_us": until_us,
        "dimensions": source.dimensions,
        "distance": "euclidean",
        "id_column": args.id_column,
        "vector_column": args.vector_column,
        "fit_items_per_code": semantic_ids.FIT_ITEMS_PER_CODE,
        "library": f"{_LIBRARY} {importlib.metadata.version(_LIBRARY)}",
    }
    fingerprint = manifest.fingerprint(
        {
            "job": "semantic-ids",
            "config": settings,
            "inputs": [entry.model_dump() for entry in inputs],
            "code": __version__,
        }
    )
    draft = publish.Draft(
        root=args.output,
        kind=semantic_ids.KIND,
        name=semantic_ids.KIND,
        version=f"{semantic_ids.instant_text(until_us)[:10]}-{fingerprint}",
        fingerprint=fingerprint,
        code_version=__version__,
        config=settings,
        columns=semantic_ids.columns(args.levels),
        key=(semantic_ids.ITEM,),
        inputs=inputs,
        attempt=manifest.new_attempt(),
        started_at=started_at,
        runner=runner,
    )
    return draft, source, config


def _fit_and_write(
    attempt_root: str, source: Embeddings, config: SemanticIdsConfig
) -> tuple[list[str], str]:
    """FileEntry and Counts as JSON text."""
    from transforms import semantic_ids

    made = semantic_ids.quantize(source, config)
    entries = semantic_ids.write(made, attempt_root)
    return [entry.model_dump_json() for entry in entries], json.dumps(made.counts)


def gate(counts: Counts, files: list[FileEntry]) -> list[str]:
    """Conservation: every item of the input has its row."""
    from transforms import semantic_ids

    rows = sum(entry.rows for entry in files if entry.role == semantic_ids.CODES_ROLE)
    return [] if rows == counts["items"] else [f"{counts['items']} items read, {rows} written"]


def build_graph(
    pipeline: beam.Pipeline, draft: Draft, source: Embeddings, config: SemanticIdsConfig
) -> None:
    """The graph; its last step commits."""
    import apache_beam as beam

    from transforms import publish, semantic_ids

    written = (
        pipeline
        | "Start" >> beam.Create([draft.attempt_root])
        | "FitAndWrite"
        >> beam.Map(_fit_and_write, source, config).with_output_types(tuple[list[str], str])
    )
    _ = {
        "files": written | "Files" >> beam.FlatMap(lambda result: result[0]).with_output_types(str),
        "counts": written | "Counts" >> beam.Map(lambda result: result[1]).with_output_types(str),
    } | "PublishVersion" >> publish.PublishVersion(
        draft, gate, publish.FinishRows(semantic_ids.CODES_ROLE)
    )


def summary_rows(published: Manifest, root: str) -> list[tuple[str, str]]:
    """Lines of the table at the end."""
    from transforms import manifest, semantic_ids

    counts, config = published.counts, published.config
    rows = [
        ("items", f"{counts['items']:,}"),
        ("  fitted", console.share_text(counts["fitted_items"], counts["items"])),
        ("dimensions", f"{config['dimensions']:,}"),
        ("trained until", semantic_ids.instant_text(config["trained_until_us"])),
        (
            "codes shared with another item",
            console.share_text(counts["collisions"], counts["items"]),
        ),
        ("  items of the largest one", f"{counts['largest_group']:,}"),
    ]
    (entry,) = published.files_of(semantic_ids.QUALITY_ROLE)
    text = manifest.read_verified(manifest.file_path(root, published, entry), entry)
    for level in json.loads(text)["levels"]:
        rows += [
            (f"level {level['level']}: entropy", f"{level['entropy_bits']:.3f} bits"),
            ("  perplexity", f"{level['perplexity']:,.1f} of {config['codebook_size']:,}"),
            ("  dead codes", f"{level['dead']:,}"),
            ("  items of the most used code", f"{level['top_share']:.2%}"),
            ("  reconstruction error", f"{level['reconstruction_error']:.4f} of the variance"),
        ]
    return rows


def run(argv: list[str] | None = None) -> int:
    """Runs the job with the given command line; returns the exit code."""
    args, rest = cli.parse(build_parser(), argv)
    return make_ids(args, cli.beam_options(rest))


def make_ids(args: argparse.Namespace, options: PipelineOptions) -> int:
    """Plans, runs and reports one version."""
    started = time.monotonic()
    from transforms import manifest

    draft, source, config = plan(args, cli.runner_name(options))
    published = cli.run_and_publish(
        draft, options, {}, lambda pipeline: build_graph(pipeline, draft, source, config)
    )
    if published is not None:
        rows = summary_rows(published, draft.root) + console.cost_rows(started)
        console.print_table(f"Published {manifest.version_root(draft.root, draft.version)}", rows)
    return 0


def main() -> int:
    return cli.main("playhead semantic-ids", run)


if __name__ == "__main__":
    sys.exit(main())
