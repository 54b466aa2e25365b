"""Writes the generated forms of every schema, or says which one drifted.

python -m schemas.generate            # rewrite schemas/generated/
python -m schemas.generate --check    # exit 1 and name each file that differs
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from schemas import CATALOG, LISTENING_EVENT, Schema, forms

GENERATED = pathlib.Path(__file__).parent / "generated"
FILE_STEMS = {"listening_event": LISTENING_EVENT, "catalog_track": CATALOG}


def _arrow_text(schema: Schema) -> str:
    lines = [f"# {schema.name} version {schema.version}: Arrow schema"]
    lines += [
        f"{field.name}: {field.type}{'' if field.nullable else ' not null'}"
        for field in forms.arrow_schema(schema)
    ]
    return "\n".join(lines) + "\n"


def render() -> dict[str, str]:
    """File name under `schemas/generated/` to its text, for every schema and form."""
    from google.protobuf import text_format

    texts = {}
    for stem, schema in FILE_STEMS.items():
        texts[f"{stem}.avsc"] = json.dumps(forms.avro_schema(schema), indent=2) + "\n"
        texts[f"{stem}.arrow.txt"] = _arrow_text(schema)
        texts[f"{stem}.bigquery.json"] = json.dumps(forms.bigquery_schema(schema), indent=2) + "\n"
        texts[f"{stem}.tfmd.pbtxt"] = text_format.MessageToString(forms.tfmd_schema(schema))
    return texts


def drifted(directory: pathlib.Path = GENERATED) -> list[str]:
    """Names of generated files that are missing, differ from the source, or have no source."""
    expected = render()
    present = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    wrong = [
        name
        for name, text in expected.items()
        if name not in present or (directory / name).read_text(encoding="utf-8") != text
    ]
    return sorted(wrong + [name for name in present if name not in expected])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m schemas.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on drift")
    args = parser.parse_args(argv)
    if args.check:
        wrong = drifted()
        for name in wrong:
            print(f"schemas/generated/{name} drifted: run `python -m schemas.generate`")
        return 1 if wrong else 0
    GENERATED.mkdir(exist_ok=True)
    for name, text in render().items():
        (GENERATED / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
