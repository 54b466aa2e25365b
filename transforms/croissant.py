"""Croissant metadata of a version: croissant.json, for tools that find, check and load datasets.

JSON-LD as of MLCommons Croissant 1.1, a pure function of the manifest like the card it lies beside;
paths are relative to it. Every Parquet and TFRecord file is a FileObject with size and SHA-256. The
Parquet files with rows make one FileSet, listed by name, and its rows the RecordSet `rows`: a field
a column, and `split`, which is the folder of the file and refers to the RecordSet `splits`.

The specification asks for what no program can know. Licence and creator are stated as not stated,
`url` is the card, and `datePublished` is the day up to which events were known: never the clock.
The version is semantic, as asked for: Playhead's, with the fingerprint of the work behind the plus.

The context is that of the reference library, `mlcroissant`: it has schema.org under https, where
the text of the specification has http, and reads nothing else. It reads by way of pandas, which
makes floats of an integer column with nulls: take large ids from the Parquet files then.

(Sources: github.com/mlcommons/croissant, docs/croissant-spec-1.1.md and croissant-rai-spec.md.)
"""

from __future__ import annotations

import datetime
import json
from typing import Any

from transforms import card
from transforms.manifest import ColumnEntry, FileEntry, Manifest

CONFORMS_TO = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{
        term: f"cr:{term}"
        for term in (
            "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract",
            "field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray",
            "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
            "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
            "subField", "transform",
        )
    },
}  # fmt: skip

DATA_TYPES = {
    "string": "sc:Text",
    "bool": "sc:Boolean",
    "int32": "sc:Integer",
    "int64": "sc:Integer",
    "uint64": "sc:Integer",
    "double": "sc:Float",
    "date32": "sc:Date",
    "timestamp[us, tz=UTC]": "sc:DateTime",
}
ENCODINGS = {"parquet": "application/x-parquet", "tfrecord": "application/x-tfrecord"}
SPLIT_TERMS = {
    "train": "cr:TrainingSplit",
    "validation": "cr:ValidationSplit",
    "test": "cr:TestSplit",
}

_NOT_STATED = "not stated"
_EPOCH = datetime.date(1970, 1, 1)


def croissant(manifest: Manifest) -> dict[str, Any]:
    """The JSON-LD document of a version."""
    config = manifest.config
    splits = card.data_files(manifest)
    by_path = sorted(manifest.files, key=lambda entry: entry.path)
    known_until = _EPOCH + datetime.timedelta(microseconds=config["watermark_us"])
    document: dict[str, Any] = {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS_TO),
        "name": manifest.name,
        "description": card.kind_of(manifest).row,
        "identifier": manifest.version,
        "version": f"{manifest.code_version}+{manifest.fingerprint}",
        "citeAs": f"{card.title(manifest)}. Version {manifest.version}, made by Playhead.",
        "url": card.CARD_NAME,
        "license": {"@type": "sc:CreativeWork", "name": _NOT_STATED, "description": card.LICENCE},
        "creator": {"@type": "sc:Organization", "name": _NOT_STATED},
        "datePublished": known_until.isoformat(),
        "temporalCoverage": f"{config['start_date']}/{config['end_date']}",
        "keywords": card.front_matter(manifest)["tags"],
        "rai:dataLimitations": card.limits(manifest),
        "rai:personalSensitiveInformation": card.PRIVACY,
        "distribution": [_file_object(entry) for entry in by_path if entry.format in ENCODINGS],
    }
    if splits:
        document["distribution"].append(
            {
                "@type": "cr:FileSet",
                "@id": "parquet",
                "name": "parquet",
                "description": "The rows.",
                "encodingFormat": ENCODINGS["parquet"],
                "includes": [entry.path for entries in splits.values() for entry in entries],
            }
        )
        document["recordSet"] = [_split_records(list(splits)), _rows(manifest, list(splits))]
    return document


def render_croissant(manifest: Manifest) -> str:
    """The text of croissant.json."""
    return json.dumps(croissant(manifest), indent=1, ensure_ascii=False) + "\n"


def _file_object(entry: FileEntry) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": entry.path,
        "name": entry.path,
        "contentUrl": entry.path,
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": ENCODINGS[entry.format],
        "sha256": entry.sha256,
    }


def _split_records(splits: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": "What the splits are for.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            _field("splits", "name", "Name of the split.", "sc:Text"),
            _field("splits", "url", "What it is for.", "sc:URL"),
        ],
        "data": [{"splits/name": name, "splits/url": SPLIT_TERMS[name]} for name in splits],
    }


def _rows(manifest: Manifest, splits: list[str]) -> dict[str, Any]:
    # The part after the name is optional since mlcroissant applies the expression twice.
    folder = f"^({'|'.join(splits)})(?:/.+\\.parquet)?$"
    split = _field("rows", "split", "Split of the row.", "sc:Text") | {
        "references": {"field": {"@id": "splits/name"}},
        "source": {
            "fileSet": {"@id": "parquet"},
            "extract": {"fileProperty": "fullpath"},
            "transform": {"regex": folder},
        },
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "rows",
        "name": "rows",
        "description": card.kind_of(manifest).row,
        "key": [{"@id": f"rows/{name}"} for name in manifest.key],
        "field": [split, *(_column_field(column) for column in manifest.columns)],
    }


def _column_field(column: ColumnEntry) -> dict[str, Any]:
    item, depth = card.unwrap(column.type)
    kind = DATA_TYPES[item]
    unit = f" Unit: {card.unit_of(column)}." if card.unit_of(column) else ""
    field = _field(
        "rows",
        column.name,
        column.description + unit,
        [kind, "cr:Label"] if column.family == "label" else kind,
    )
    field["source"] = {"fileSet": {"@id": "parquet"}, "extract": {"column": column.name}}
    if depth:
        field |= {"isArray": True, "arrayShape": ",".join(["-1"] * depth)}
    return field


def _field(record_set: str, name: str, description: str, kind: str | list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": description,
        "dataType": kind,
    }
