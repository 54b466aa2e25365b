"""The TFMD schema inferred from a published version, as text, for a person to curate.

    playhead schema datasets/ranking                             # printed
    playhead schema datasets/ranking/<version> --output mine.pbtxt

A build holds its rows against the schema of their kind that comes with Playhead, or against the one
that the spec names as `gates.schema_file`. What is inferred says of a column its type, whether it
may be null, and the values of enumerations; domains and limits are for a person to add.
"""

from __future__ import annotations

import sys

from pipelines import cli
from transforms.errors import UsageError

EXAMPLE = "playhead schema datasets/ranking --output mine.pbtxt"


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        "playhead schema",
        "Infers the schema of a published version, to be curated and named in the spec as "
        "gates.schema_file.",
        EXAMPLE,
    )
    parser.add_argument("version", metavar="VERSION", help="a dataset, or one of its versions")
    parser.add_argument(
        "--output", metavar="FILE", help="new file to write (default: standard output)"
    )
    return parser


def run(argv: list[str] | None = None) -> int:
    """Runs the tool with the given command line; returns the exit code."""
    args = build_parser().parse_args(argv)
    from transforms import gates, manifest, storage

    root, found = manifest.resolve(args.version)
    schema = gates.infer_from_version(root, found)
    text = f"# Inferred from {found.name}, version {found.version}.\n{gates.schema_text(schema)}"
    if args.output is None:
        print(text, end="")
        return 0
    with cli.naming(args.output):
        created = storage.create_if_absent(args.output, text.encode())
    if not created:
        raise UsageError(f"--output {args.output}: is there already; expected a new file")
    print(f"{args.output}: {len(schema.feature)} columns; name it in gates.schema_file")
    return 0


def main() -> int:
    return cli.main("playhead schema", run)


if __name__ == "__main__":
    sys.exit(main())
