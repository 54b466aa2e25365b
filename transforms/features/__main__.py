"""Writes docs/features.md from the declarations, or says that it drifted.

python -m transforms.features            # rewrite it
python -m transforms.features --check    # exit 1 if it differs
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from schemas import forms
from transforms.features import FEATURES
from transforms.features.registry import FAMILIES
from transforms.timeline import DAY_US

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "features.md"
_HEAD = """\
# Features

Written from the declarations in `transforms/features/` by `python -m transforms.features`; a new
signal appears here with its declaration. How they are computed: [datasets.md](datasets.md).
"""


def render() -> str:
    """The page."""
    lines = [_HEAD]
    for family in FAMILIES:
        lines += [f"## {family}", "", "| Feature | Type | Unit | Window | Null | What it is |"]
        lines.append("| --- | --- | --- | --- | --- | --- |")
        for entry in FEATURES.values():
            feature = entry.feature
            if feature.family == family:
                window = f"{feature.window_us // DAY_US} d" if feature.window_us else ""
                null = "yes" if feature.nullable else ""
                lines.append(
                    f"| `{feature.name}` | {forms.type_name(feature.type)} | {feature.unit} | "
                    f"{window} | {null} | {feature.description} |"
                )
        lines.append("")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Writes or checks the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m transforms.features", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on drift")
    args = parser.parse_args(argv)
    if not args.check:
        PAGE.write_text(render(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != render():
        print(f"{PAGE.name} drifted: run `python -m transforms.features`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
