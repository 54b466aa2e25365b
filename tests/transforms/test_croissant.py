"""Croissant metadata: by its specification, and as its reference library reads it."""

from __future__ import annotations

import datetime
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from schemas import forms
from tests import small_version
from tests.small_version import SHA, config
from transforms import croissant
from transforms.manifest import FileEntry, Manifest
from transforms.splits import SPLITS

# Of the specification: what is schema.org's, and what is Croissant's own.
SCHEMA_ORG = {
    "contentSize", "contentUrl", "creator", "datePublished", "description",
    "distribution", "encodingFormat", "identifier", "keywords", "license", "name", "sha256",
    "temporalCoverage", "url", "version",
}  # fmt: skip
CROISSANT = {
    "arrayShape", "citeAs", "column", "data", "dataType", "extract", "field", "fileProperty",
    "fileSet", "includes", "isArray", "key", "recordSet", "references", "regex", "source",
    "transform",
}  # fmt: skip
REQUIRED = {
    "@context", "@type", "conformsTo", "creator", "datePublished", "description", "distribution",
    "license", "name", "url",
}  # fmt: skip
ATOMIC = {
    "user_id": "sc:Text", "event_id": "sc:Text", "event_time": "sc:DateTime", "day": "sc:Date",
    "position": "sc:Integer", "shuffle": "sc:Boolean", "propensity": "sc:Float",
    "session_id": "sc:Integer", "bucket": "sc:Integer", "history_track_ids": "sc:Text",
    "history_ms_ago": "sc:Integer", "label_liked": ["sc:Boolean", "cr:Label"],
    "label_rewards": ["sc:Float", "cr:Label"],
}  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    return json.loads(croissant.render_croissant(small_version.manifest(**changes)))


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document but its context and embedded data."""
    if isinstance(value, dict):
        yield value
        for key, child in value.items():
            if key not in ("@context", "data"):
                yield from nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from nodes(child)


def of_type(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [node for node in nodes(found) if node.get("@type") == name]


def test_required_properties() -> None:
    found = document()
    assert set(found) >= REQUIRED
    assert found["@type"] == "sc:Dataset"
    assert found["conformsTo"][0] == "http://mlcommons.org/croissant/1.1"
    assert found["version"] == "0.2.0+0123456789ab"
    assert found["datePublished"] == "2026-01-11"
    assert found["temporalCoverage"] == "2026-01-05/2026-01-07"
    assert found["license"]["name"] == "not stated"


def test_context_gives_every_term_its_meaning() -> None:
    found = document()
    context = found["@context"]
    assert {name: context[name] for name in ("@vocab", "sc", "cr", "dct", "rai")} == {
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "rai": "http://mlcommons.org/croissant/RAI/",
    }
    assert context["conformsTo"] == "dct:conformsTo"
    used = {key for node in nodes(found) for key in node if not key.startswith("@")}
    assert {key for key in used if ":" not in key} == SCHEMA_ORG | CROISSANT | {"conformsTo"}
    for term in CROISSANT:
        meaning = context[term]
        assert (meaning["@id"] if isinstance(meaning, dict) else meaning) == f"cr:{term}"
    for term in SCHEMA_ORG - {"name", "description"}:
        assert term not in context


def test_every_file_of_rows_is_there_with_its_checksum() -> None:
    record = FileEntry(
        path="train/a.tfrecord", role="train", rows=4, bytes=7, sha256="1" * 64, format="tfrecord"
    )
    page = FileEntry(path="report.html", role="report", rows=0, bytes=1, sha256=SHA, format="other")
    files = (*small_version.manifest().files, record, page)
    objects = {node["@id"]: node for node in of_type(document(files=files), "cr:FileObject")}
    assert list(objects) == sorted([*small_version.PARTS, "train/a.tfrecord"])
    for entry in files[:-1]:
        node = objects[entry.path]
        assert node["contentUrl"] == entry.path
        assert node["contentSize"] == f"{entry.bytes} B"
        assert node["sha256"] == entry.sha256
        assert node["encodingFormat"] == f"application/x-{entry.format}"
    (rows,) = of_type(document(files=files), "cr:FileSet")
    assert rows["includes"] == sorted(filter(_has_rows, small_version.PARTS))


def _has_rows(path: str) -> bool:
    return bool(small_version.PARTS[path])


def test_ids_are_unique_and_references_lead_somewhere() -> None:
    defined, referred = [], set()
    for node in nodes(document()):
        if set(node) == {"@id"}:
            referred.add(node["@id"])
        elif "@id" in node:
            defined.append(node["@id"])
    assert len(set(defined)) == len(defined)
    assert referred <= set(defined)
    assert {"rows/user_id", "rows/event_id", "parquet", "splits/name"} <= referred
    assert not any(re.search(r"\s", name) for name in defined)


def test_fields_are_the_columns() -> None:
    _, rows = document()["recordSet"]
    fields = {field["name"]: field for field in rows["field"]}
    assert list(fields) == ["split", *(entry.name for entry in small_version.COLUMNS)]
    for entry in small_version.COLUMNS:
        field = fields[entry.name]
        assert field["dataType"] == ATOMIC[entry.name]
        assert field["source"]["extract"] == {"column": entry.name}
        assert field["description"].startswith(entry.description)
        assert (field.get("isArray"), field.get("arrayShape")) == (
            (True, "-1") if entry.type.startswith("list<") else (None, None)
        )
    assert fields["history_ms_ago"]["description"].endswith("Unit: ms.")
    assert "Unit" not in fields["bucket"]["description"]


def test_every_type_of_a_column_has_a_data_type() -> None:
    kinds = [
        pl.String(), pl.Boolean(), pl.Int32(), pl.Int64(), pl.UInt64(), pl.Float64(), pl.Date(),
        pl.Datetime("us", "UTC"),
    ]  # fmt: skip
    assert {forms.type_name(kind) for kind in kinds} == set(croissant.DATA_TYPES)


def test_splits_are_the_folders_of_the_files() -> None:
    splits, rows = document()["recordSet"]
    assert splits["dataType"] == "cr:Split"
    assert splits["data"] == [
        {"splits/name": "train", "splits/url": "cr:TrainingSplit"},
        {"splits/name": "validation", "splits/url": "cr:ValidationSplit"},
    ]
    assert set(croissant.SPLIT_TERMS) == set(SPLITS)
    pattern = rows["field"][0]["source"]["transform"]["regex"]
    for path in filter(_has_rows, small_version.PARTS):
        match = re.match(pattern, path)
        assert match
        assert match[1] == path.split("/")[0]
        assert re.match(pattern, match[1])


def test_a_version_without_parquet_has_no_records() -> None:
    for files in ((), tuple(e for e in small_version.manifest().files if not e.rows)):
        found = document(files=files, status="EMPTY")
        assert "recordSet" not in found
        assert len(found["distribution"]) == len(files)


def test_equal_data_have_equal_metadata() -> None:
    ours = small_version.manifest()
    run = ours.run.model_copy(update={"attempt": "attempt-2", "finished_at": "later"})
    text = croissant.render_croissant(ours)
    assert croissant.render_croissant(ours.model_copy(update={"run": run})) == text
    assert croissant.render_croissant(Manifest.model_validate_json(ours.to_json())) == text
    later = config(watermark_us=small_version.FIRST_US)
    assert document(config=later)["datePublished"] == "2026-01-05"


def test_the_reference_library_reads_the_same_rows(tmp_path: pathlib.Path) -> None:
    mlcroissant = pytest.importorskip(
        "mlcroissant", reason="pip install mlcroissant, which is not among the requirements"
    )
    from mlcroissant._src.core.context import CroissantVersion
    from mlcroissant._src.core.rdf import make_context

    described = small_version.write(tmp_path)
    path = tmp_path / "croissant.json"
    path.write_text(croissant.render_croissant(described), encoding="utf-8")

    dataset = mlcroissant.Dataset(str(path))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert not issues.warnings
    version = mlcroissant.Context(conforms_to=CroissantVersion.V_1_1)
    assert make_context(version) == croissant.CONTEXT
    expected = [
        {"split": split} | plain(small_version.row(number))
        for split, numbers in (("train", range(4)), ("validation", [4]))
        for number in numbers
    ]
    assert [repr(row) for row in read(dataset)] == [repr(row) for row in expected]
    for split in ("train", "validation"):
        # A filter changes the dataset that it is asked of.
        found = read(mlcroissant.Dataset(str(path)), {"rows/split": split})
        assert [repr(row) for row in found] == [
            repr(row) for row in expected if row["split"] == split
        ]


def read(dataset: Any, filters: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The rows of a dataset."""
    return [
        plain({name.removeprefix("rows/"): value for name, value in record.items()})
        for record in dataset.records("rows", filters=filters)
    ]


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Python's own values: the library has bytes for text, and classes of NumPy and pandas."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime.date):
        return datetime.datetime.fromisoformat(value.isoformat()[:26])
    return value.item() if hasattr(value, "item") else value
