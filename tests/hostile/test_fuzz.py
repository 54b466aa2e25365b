"""Mutated files of every format, specs, mappings and manifests: a result or an error of ours.

Seeds are the good files and the small ones of the corpus. PLAYHEAD_SOAK=1 (`make soak`) tries a
hundred times as many, after new seeds.
"""

from __future__ import annotations

import functools
import io
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import jobs
from tests.hostile import corpus, test_hostile_configs
from transforms import manifest
from transforms.adapters import get_adapter
from transforms.adapters.base import EVENT_COLUMNS, InputFile
from transforms.adapters.mapping import parse_mapping
from transforms.errors import DataRefusedError, InputFileError, PlayheadError
from transforms.specs import load_spec

SOAK = bool(os.environ.get("PLAYHEAD_SOAK"))
SEED_BYTES = 4096


def examples(count: int) -> Any:
    return settings(
        max_examples=count * 100 if SOAK else count,
        deadline=None, derandomize=not SOAK, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@functools.cache
def seeds() -> dict[str, list[tuple[str, bytes]]]:
    """Format -> (name, bytes) of files to start from."""
    found = {kind: [good] for kind, good in corpus.GOOD.items()}
    for make in corpus.PARTS.values():
        for case in make():
            if len(case.data) <= SEED_BYTES:
                found[case.format].append((case.name, case.data))
    return found


ADAPTERS = {
    kind: parse_mapping(corpus.MAPPINGS[kind], kind)
    if kind in corpus.MAPPINGS
    else get_adapter(kind)
    for kind in corpus.GOOD
}
ODD = [
    b"\0",
    b"\xff" * 4,
    b"\xff" * 9 + b"\x01",
    b"\x80" * 8,
    b'"',
    b"[" * 99,
    b"-",
    b"1e999",
    b"\n",
]


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """The data after some of: a byte changed, a piece cut, repeated, or something odd put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        end = min(len(changed), at + draw(st.integers(1, 16)))
        what = draw(st.sampled_from(["flip", "cut", "repeat", "odd", "tail"]))
        if what == "flip" and at < len(changed):
            changed[at] = draw(st.integers(0, 255))
        elif what == "cut":
            del changed[at:end]
        elif what == "repeat":
            changed[at:at] = changed[at:end] * draw(st.integers(1, 8))
        elif what == "odd":
            changed[at:end] = draw(st.sampled_from(ODD))
        elif what == "tail":
            del changed[at:]
    return bytes(changed)


def read(kind: str, name: str, data: bytes) -> None:
    adapter = ADAPTERS[kind]
    try:
        for raw in adapter.read(InputFile(name, lambda: io.BytesIO(data))):
            table = adapter.to_events(raw.rows)
            assert table.height == raw.rows.height
            assert set(EVENT_COLUMNS) < set(table.columns)
    except InputFileError as error:
        assert error.path == name  # noqa: PT017


@pytest.mark.parametrize("kind", corpus.GOOD)
@examples(120)
@given(data=st.data())
def test_any_bytes_are_tables_or_an_input_file_error(kind: str, data: st.DataObject) -> None:
    name, seed = data.draw(st.sampled_from(seeds()[kind]))
    read(kind, name, data.draw(mutated(seed)))


TEXTS = [text.encode() if isinstance(text, str) else text
         for text in test_hostile_configs.YAML.values() if len(text) < 2000]  # fmt: skip
SPECS = [path.read_bytes() for path in sorted((jobs.REPOSITORY / "specs").glob("*.yaml"))]


@examples(100)
@given(data=st.data())
def test_any_text_is_a_spec_a_mapping_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    given_texts = [*TEXTS, *SPECS, *(text.encode() for text in corpus.MAPPINGS.values())]
    text = data.draw(mutated(data.draw(st.sampled_from(given_texts))))
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(text)
    try:
        load_spec(str(path))
    except PlayheadError as error:
        assert "fuzzed.yaml" in str(error)  # noqa: PT017
    try:
        parse_mapping(text.decode(errors="replace"), "fuzzed.yaml")
    except PlayheadError as error:
        assert "fuzzed.yaml" in str(error)  # noqa: PT017


@examples(150)
@given(data=st.data())
def test_any_bytes_are_a_manifest_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    from tests import small_version

    root = tmp_path_factory.getbasetemp() / "fuzzed"
    good = small_version.manifest()
    folder = root / good.version
    folder.mkdir(parents=True, exist_ok=True)
    document = data.draw(mutated(good.to_json()))
    (folder / "manifest.json").write_bytes(document)
    pointer = b'{"version": "%s", "digest": "%s"}' % (good.version.encode(), b"0" * 64)
    (root / "CURRENT.json").write_bytes(data.draw(st.just(pointer) | mutated(pointer)))
    for read_it in (lambda: manifest.load(str(root), good.version),
                    lambda: manifest.load_current(str(root))):  # fmt: skip
        try:
            found = read_it()
        except DataRefusedError as error:
            assert ".json" in str(error)  # noqa: PT017
        else:
            assert found is None or found.digest()
