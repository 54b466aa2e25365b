"""Hostile specs, mappings, manifests, pointers, stores, side tables and names: one line each."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

import pyarrow as pa
import pytest

from tests import jobs
from tests.hostile import corpus
from transforms import manifest, tfrecord

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]\n" for at in range(1, 12)
)
YAML: dict[str, str | bytes] = {
    "laughs": LAUGHS,
    "laughs_in_a_field": LAUGHS + "kind: *a11\n",
    "merge_loop": "a: &a {<<: *a}\n",
    "list_loop": "kind: &a [*a]\n",
    "python_object": "kind: !!python/object/apply:os.system ['touch /tmp/playhead-canary']\n",
    "python_name": "kind: !!python/name:os.system\n",
    "python_module": "!!python/module:os\n",
    "unknown_tag": "kind: !acme x\n",
    "brackets": "[" * 20_000,
    "braces": "{a: " * 20_000,
    "dashes": "- " * 20_000,
    "bad_date": "kind: 2026-99-99\n",
    "bad_time": "kind: 2026-01-05 99:99:99\n",
    "int_tag": "kind: !!int x\n",
    "float_tag": "kind: !!float x\n",
    "timestamp_tag": "kind: !!timestamp x\n",
    "binary_tag": "kind: !!binary '*'\n",
    "bool_tag": "kind: !!bool x\n",
    "set_tag": "kind: !!set [a]\n",
    "pairs_tag": "kind: !!pairs x\n",
    "hex_without_digits": "kind: 0x_\n",
    "5000_digits": "kind: " + "9" * 5000 + "\n",
    "infinity": "labels: {completion_cap: .inf}\n",
    "nan": "labels: {completion_cap: .nan}\n",
    "list_key": "? [a]\n: b\n",
    "map_key": "? {a: b}\n: c\n",
    "null_key": "~: a\n",
    "number_key": "1: a\n2.5: b\n",
    "date_key": "2026-01-05: a\n",
    "nul": "kind: a\0b\n",
    "escaped_nul": 'kind: "a\\0b"\n',
    "surrogate": 'kind: "\\ud800"\n',
    "escape": 'kind: "\\e[2J"\n',
    "long": "kind: " + "x" * 900_000 + "\n",
    "utf16": "kind: ranking\n".encode("utf-16"),
    "not_utf8": b"kind: \xff\n",
    "empty": "",
    "two_documents": "a: b\n---\nc: d\n",
    "tabs": "kind:\n\t- x\n",
    "directive": "%YAML 9.9\n---\nkind: x\n",
    "text": "x",
    "path_as_name": "kind: ranking\nname: ../../x\n",
    "shards_of_2_40": f"kind: ranking\noutput: {{shards: {1 << 40}}}\n",
    "seed_of_2_64": f"kind: ranking\nseed: {1 << 64}\n",
}  # fmt: skip


def one_line(ended: jobs.Ended, code: int, name: str) -> None:
    """One message that names the file; never a traceback, never what a terminal obeys."""
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert name in ended.err
    assert len(ended.err) < 20_000
    assert "\x1b" not in ended.err


@pytest.mark.parametrize("name", YAML)
def test_a_hostile_spec_or_mapping_is_one_line(
    name: str, tmp_path: pathlib.Path, simulated_store: pathlib.Path
) -> None:
    path, text = tmp_path / "hostile.yaml", YAML[name]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    days = ("2026-01-05", "2026-01-05")
    one_line(jobs.call(*jobs.build_argv(simulated_store, path, *days, tmp_path / "out")), 2,
             "hostile.yaml")  # fmt: skip
    raw = tmp_path / "a.jsonl"
    raw.write_bytes(b"{}")
    one_line(jobs.call(*jobs.ingest_argv(raw, tmp_path / "s", format=str(path))), 2, "hostile.yaml")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.jsonl", "hostile.yaml"]
    assert not pathlib.Path("/tmp/playhead-canary").exists()


DOCUMENTS: dict[str, bytes] = {
    "empty": b"", "null": b"null", "list": b"[]", "number": b"1", "text": b"\xff\xfe",
    "cut": b'{"version": "v', "brackets": b"[" * 100_000, "braces": b'{"a":' * 100_000,
    "nan": b'{"version": NaN}', "digits": b'{"version": ' + b"9" * 5000 + b"}",
    "surrogate": b'{"version": "\\ud800", "digest": "x"}', "nul": bytes(1000),
    "twice": b'{"version": "a", "version": "../../etc", "digest": "x"}',
    "climbs": b'{"version": "../../../etc", "digest": "x"}',
    "absolute": b'{"version": "/etc", "digest": "x"}',
    "back": b'{"version": "..\\\\x", "digest": "x"}',
    "encoded": b'{"version": "%2e%2e", "digest": "x"}',
    "long": b'{"version": "' + b"v" * 4096 + b'", "digest": "x"}',
    "not_there": b'{"version": "v-0", "digest": "x"}',
    "more": b'{"version": "v-0", "digest": "x", "more": 1}',
}  # fmt: skip


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("small")
    jobs.ingest(jobs.write(root / "raw" / "a.parquet", jobs.plays(20)), root / "store",
                "--buckets", 1)  # fmt: skip
    return root / "store"


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("which", ["CURRENT.json", "manifest.json", "store.json"])
def test_a_hostile_document_of_a_store_is_one_line(
    which: str, name: str, small_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(small_store, store)
    (path,) = store.rglob(which)
    path.write_bytes(DOCUMENTS[name])
    one_line(jobs.call("inspect", store), 3, which if name != "not_there" else ".json")


CATALOG = {"track_id": pa.array(["t"]), "release_time": pa.array([0], pa.timestamp("us", "UTC"))}


def catalogs() -> dict[str, bytes]:
    good = corpus.parquet(CATALOG)
    body, footer = corpus.footer_of(good)
    return {
        "empty": b"", "text": b"x" * 99, "cut": good[:-1], "magic": b"PAR1PAR1",
        "zeros": corpus.with_footer(body, bytes(len(footer))),
        "forged": corpus.with_footer(body, footer, (1 << 32) - 1),
        "wrong_types": corpus.parquet(CATALOG | {"release_time": pa.array(["x"])}),
        "lists": corpus.parquet(CATALOG | {"track_id": pa.array([["t"]])}),
        "decimal256": corpus.parquet(
            CATALOG | {"track_id": pa.array(["1"]).cast(pa.decimal256(70, 2))}),
        "not_utf8": corpus.parquet(CATALOG | {"track_id": pa.array([b"\xff"])}),
        "nulls": corpus.parquet(CATALOG | {"track_id": pa.nulls(1, pa.string())}),
    }  # fmt: skip


# A serving log may lack values, and columns of a catalog's types.
_FINE_AS_LOG = ("wrong_types", "nulls")
SIDE_TABLES = [
    (option, name)
    for option in ("--catalog", "--serving-log")
    for name in catalogs()
    if option == "--catalog" or name not in _FINE_AS_LOG
]


@pytest.mark.parametrize(("option", "name"), SIDE_TABLES)
def test_a_hostile_side_table_is_one_line(
    option: str, name: str, small_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "side.parquet"
    path.write_bytes(catalogs()[name])
    spec = tmp_path / "spec.yaml"
    drawn = "kind: retrieval\nnegatives: {sources: [{type: uniform, count: 1}]}\n"
    spec.write_text(f"{drawn}labels: {{lateness_days: 0}}\noutput: {{shards: 1}}\n")
    argv = jobs.build_argv(small_store, spec, jobs.DAY, jobs.DAY, tmp_path / "out", option, path)
    one_line(jobs.call(*argv), 2, "side.parquet")


def forged_heads() -> dict[str, Callable[[bytes], bytes]]:
    return {
        "2_gb": lambda data: (2**31).to_bytes(8, "little") + data[8:],
        "2_63": lambda data: (2**63).to_bytes(8, "little") + data[8:],
        "more": lambda data: (len(data) + 1).to_bytes(8, "little") + data[8:],
        "zeros": lambda data: bytes(len(data)),
        "cut": lambda data: data[:-1],
    }


@pytest.mark.parametrize("name", forged_heads())
def test_a_forged_tfrecord_is_refused(name: str) -> None:
    table = jobs.table(jobs.plays(3)).select("user_id", "played_ms")
    data = b"".join(bytes(each) for each in tfrecord.file_blocks(table, "example", gzip=False))
    with pytest.raises(manifest.DataRefusedError, match=r"record [02]"):
        list(tfrecord.read_records(forged_heads()[name](data)))


HOSTILE_NAMES = [b"caf\xe9.jsonl", b"a\nb.jsonl", b"\x1b[2J.jsonl", "\u202eabc.jsonl".encode()]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
def test_a_hostile_name_of_a_file_is_one_line(name: bytes, tmp_path: pathlib.Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    path = os.path.join(os.fsencode(raw), name)
    with open(path, "wb") as stream:
        stream.write(b"\x1f\x8b")
    ended = jobs.call(*jobs.ingest_argv(raw / "*", tmp_path / "store", format="jsonl"))
    assert ended.code in (2, 4), ended.err
    assert "Traceback" not in ended.err
    assert "\x1b" not in ended.err
    assert "\u202e" not in ended.err
    assert "a\nb" not in ended.err
