"""Lists the log formats that `playhead ingest --format` takes."""

from __future__ import annotations

import sys

from pipelines import cli


def build_parser() -> cli.Parser:
    return cli.Parser("playhead formats", "Lists the log formats.", "playhead formats")


def run(argv: list[str] | None = None) -> int:
    """Prints one line a format."""
    build_parser().parse_args(argv)
    from transforms.adapters import list_adapters

    listed = list_adapters()
    width = max(len(name) for name, _ in listed)
    for name, summary in listed:
        print(f"{name:<{width}}  {summary}")
    print(f"{'FILE.yaml':<{width}}  your own columns, described in a mapping file")
    print(f"{'your.module':<{width}}  your own module with an ADAPTER")
    return 0


def main() -> int:
    return cli.main("playhead formats", run)


if __name__ == "__main__":
    sys.exit(main())
