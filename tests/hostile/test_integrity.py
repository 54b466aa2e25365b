"""No reader takes what is not the file that was published: it refuses, and names the file.

Readers are: builds (of the store's files), `inspect` and `diff` (of a dataset's), all by way of
`manifest.read_verified`; and what the formats themselves offer to who reads without a manifest:
checksums of Parquet pages and of TFRecord records.
"""

from __future__ import annotations

import io
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import jobs
from transforms import hashing, manifest, tfrecord
from transforms.errors import DataRefusedError
from transforms.manifest import FileEntry, Manifest

OFFSETS = 200
ENDS = 12  # bytes at the start and at the end, each of which is flipped too

SHARED = """\
labels: {horizon_hours: 6}
splits: {validation_from: 2026-01-06, test_from: 2026-01-07, gap_hours: 0}
output: {shards: 1, formats: [parquet, tfrecord], tfrecord_gzip: GZIP}
gates: {drift: null, rows_fall: null, label_shift: null}
"""
KINDS = {
    "ranking": "false", "retrieval": "true", "sequences": "false", "sessions": "true",
}  # fmt: skip

MORE = {
    "retrieval": "negatives: {sources: [{type: uniform, count: 2}]}\n",
    "sequences": "length: 20\nstride: 5\nhistory_days: 2\n",
    "sessions": "min_plays: 2\n",
}


@pytest.fixture(scope="module")
def built(
    simulated_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, Manifest]]:
    """A version of each kind; TFRecord of two of them is compressed."""
    root = tmp_path_factory.mktemp("integrity")
    found = {}
    for kind, gzip in KINDS.items():
        spec = root / f"{kind}.yaml"
        spec.write_text(f"kind: {kind}\n{MORE.get(kind, '')}" + SHARED.replace("GZIP", gzip))
        output = root / kind
        found[kind] = (
            str(output),
            jobs.build(simulated_store, spec, "2026-01-05", "2026-01-07", output),
        )
    return found


def offsets(name: str, size: int) -> list[int]:
    """The places of a file that are flipped: the same in every run."""
    drawn = [hashing.hash_text(f"{name}|{at}", "flip") % size for at in range(OFFSETS)]
    return sorted({*drawn, *range(min(ENDS, size)), *range(max(0, size - ENDS), size)})


def flips(name: str, data: bytes) -> Iterator[tuple[int, bytes]]:
    for at in offsets(name, len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        yield at, bytes(changed)


def shard_files(built: dict[str, tuple[str, Manifest]], kind: str) -> list[tuple[str, FileEntry]]:
    """The shards of train."""
    root, published = built[kind]
    return [
        (manifest.file_path(root, published, entry), entry)
        for entry in published.files
        if entry.role == "train" and entry.rows
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_one_flipped_byte_anywhere_is_refused(
    built: dict[str, tuple[str, Manifest]], kind: str, tmp_path: pathlib.Path,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    copy, tried = tmp_path / "shard", 0
    shards = shard_files(built, kind)
    assert {entry.format for _, entry in shards} == {"parquet", "tfrecord"}
    for path, entry in shards:
        data = pathlib.Path(path).read_bytes()
        for _, changed in flips(entry.path, data):
            copy.write_bytes(changed)
            with pytest.raises(DataRefusedError, match="was changed after it was published"):
                manifest.read_verified(str(copy), entry)
            tried += 1
    record_property("flipped bytes", {"by the manifest": tried})


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_manifest_checksums_of_pages_and_records_see_it(
    built: dict[str, tuple[str, Manifest]], kind: str,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    """The footer of a Parquet file has none: for that there is the manifest's SHA-256. The header
    of a page has none either, but no change of it gives other rows."""
    counts = {"by checksums of records": 0, "by checksums of pages": 0}
    for path, entry in shard_files(built, kind):
        data = pathlib.Path(path).read_bytes()
        if entry.format == "tfrecord":
            gzip = path.endswith(".gz")
            whole = list(tfrecord.read_records(data, gzip))
            for at, changed in flips(entry.path, data):
                # A gzip header and the end of its last block have bits that say nothing.
                try:
                    assert list(tfrecord.read_records(changed, gzip)) == whole, f"byte {at}"
                    assert gzip, f"byte {at}"
                except DataRefusedError:
                    counts["by checksums of records"] += 1
            assert len(whole) == entry.rows
            continue
        table = read_table(data)
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        for at, changed in flips(entry.path, data):
            if 4 <= at < footer:
                try:
                    assert read_table(changed).equals(table), f"byte {at} of {path}"
                except (OSError, pa.ArrowException):
                    counts["by checksums of pages"] += 1
    assert all(counts.values())
    record_property("flipped bytes", counts)


def read_table(data: bytes) -> pl.DataFrame:
    read = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True).read()
    return pl.DataFrame(read)  # in which a NaN is equal to a NaN


def test_a_build_refuses_a_flipped_file_of_the_store_and_names_it(
    simulated_store: pathlib.Path, tmp_path: pathlib.Path,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    store = tmp_path / "store"
    shutil.copytree(simulated_store, store)
    spec = tmp_path / "spec.yaml"
    spec.write_text("kind: ranking\nlabels: {horizon_hours: 6}\noutput: {shards: 1}\n")
    root = jobs.partition_root(store, "2026-01-06")
    published = jobs.partition(store, "2026-01-06")
    tried = 0
    for role in ("events", "item_day"):
        entry = published.files_of(role)[0]
        path = pathlib.Path(manifest.file_path(str(root), published, entry))
        data = path.read_bytes()
        for at, (_, changed) in enumerate(flips(entry.path, data)):
            path.write_bytes(changed)
            with pytest.raises(DataRefusedError) as caught:
                manifest.read_verified(str(path), entry)
            assert str(path) in str(caught.value)
            tried += 1
            if at == OFFSETS // 2:  # one of them by the whole job
                argv = jobs.build_argv(store, spec, "2026-01-05", "2026-01-06", tmp_path / "out")
                ended = jobs.call(*argv)
                assert ended.code == 3, ended.err
                assert str(path) in ended.err
                assert "Traceback" not in ended.err
                assert [*tmp_path.glob("out/**/manifest.json")] == []
        path.write_bytes(data)
    record_property("flipped bytes", {"of the store": tried})


def first_shard(root: str, published: Manifest) -> pathlib.Path:
    """The one that `inspect` shows rows of."""
    shards = [e for e in published.files_of("train") if e.format == "parquet" and e.rows]
    return pathlib.Path(manifest.file_path(root, published, shards[0]))


def test_missing_cut_swapped_and_endless_files_are_refused_and_strays_are_not_seen(
    built: dict[str, tuple[str, Manifest]], tmp_path: pathlib.Path
) -> None:
    root, published = built["ranking"]
    other = tmp_path / "ranking"
    shutil.copytree(root, other)
    path = first_shard(str(other), published)
    data = path.read_bytes()

    def refused(part: str) -> None:
        for command in (["inspect", other], ["diff", root, other]):
            ended = jobs.call(*command)
            assert ended.code == 3, (command, ended.err)
            assert str(path) in ended.err
            assert part in ended.err
            assert "Traceback" not in ended.err

    path.unlink()
    refused("is not there")
    path.write_bytes(data[:-1])
    refused("was changed")
    path.write_bytes(data + b"\0")
    refused("was changed")
    path.write_bytes(b"")
    refused("was changed")
    path.write_bytes(first_shard(*built["retrieval"]).read_bytes())  # valid, and another's
    refused("was changed")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused("was changed")
    path.unlink()
    os.mkfifo(path)
    refused("was changed")
    path.unlink()
    path.write_bytes(data)
    before = jobs.ok("inspect", other).out
    for stray in ("part-99999.parquet", ".hidden.crc", "part-00000-of-00009.parquet", "x.tmp"):
        (path.parent / stray).write_bytes(data[:50])
    assert jobs.ok("inspect", other).out == before
    assert jobs.ok("diff", root, other, "--exit-code").code == 0
