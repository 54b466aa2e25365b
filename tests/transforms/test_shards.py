from __future__ import annotations

import pathlib

import polars as pl
import pyarrow.parquet as pq
import pytest

from transforms import shards, tfrecord
from transforms.errors import DataRefusedError
from transforms.manifest import ColumnEntry
from transforms.shards import Shard, plan_shards
from transforms.specs import OutputSpec

COLUMNS = (
    ColumnEntry(name="id", type="string", identifier=True),
    ColumnEntry(name="surface", type="string"),
    ColumnEntry(name="tracks", type="list<string>", identifier=True),
    ColumnEntry(name="counts", type="list<int64>"),
    ColumnEntry(name="share", type="double"),
)
SHARD = Shard(1, 4, 8, 15)


def make_table(rows: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"event-{i}" for i in range(rows)],
            "surface": [("home", None, "radio")[i % 3] for i in range(rows)],
            "tracks": [[f"t{i}"] * (i % 3) for i in range(rows)],
            "counts": [list(range(i % 4)) for i in range(rows)],
            "share": [i / 7 if i % 5 else None for i in range(rows)],
        },
        schema={
            "id": pl.String(),
            "surface": pl.String(),
            "tracks": pl.List(pl.String()),
            "counts": pl.List(pl.Int64()),
            "share": pl.Float64(),
        },
    )


def write(table: pl.DataFrame, root: pathlib.Path, **output):
    return shards.write_shard(
        table, COLUMNS, SHARD, "train", str(root), OutputSpec(**output), "example"
    )


@pytest.mark.parametrize("buckets", [1, 2, 8, 32])
@pytest.mark.parametrize("wanted", [1, 4, 64])
def test_shards_are_contiguous_equal_and_cover_all_buckets(buckets, wanted):
    planned = plan_shards(buckets, wanted)
    assert len(planned) == min(buckets, wanted)
    covered = [b for shard in planned for b in range(shard.first_bucket, shard.last_bucket + 1)]
    assert covered == list(range(buckets))
    assert len({shard.last_bucket - shard.first_bucket for shard in planned}) == 1


def test_what_is_written_is_what_can_be_read(tmp_path):
    table = make_table(1000)
    parquet, records = write(table, tmp_path, formats=("parquet", "tfrecord"))
    assert parquet.path == "train/part-00001-of-00004.parquet"
    assert records.path == "train/part-00001-of-00004.tfrecord"
    assert (parquet.rows, records.rows) == (1000, 1000)
    assert (parquet.first_bucket, parquet.last_bucket) == (8, 15)
    assert pl.read_parquet(tmp_path / parquet.path).equals(table)
    data = (tmp_path / records.path).read_bytes()
    assert [b"event-999" in record for record in tfrecord.read_records(data)][-1]


def test_the_same_table_has_the_same_bytes(tmp_path):
    first = write(make_table(500), tmp_path / "a", formats=("parquet", "tfrecord"))
    again = write(make_table(500), tmp_path / "b", formats=("parquet", "tfrecord"))
    assert [entry.sha256 for entry in first] == [entry.sha256 for entry in again]


def test_parquet_is_made_for_its_readers(tmp_path):
    write(make_table(150_000), tmp_path)
    path = tmp_path / "train/part-00001-of-00004.parquet"
    meta = pq.read_metadata(path)
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [65_536, 65_536,
                                                                                18_928]  # fmt: skip
    group = meta.row_group(0)
    chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    has_dictionary = {name: chunk.has_dictionary_page for name, chunk in chunks.items()}
    assert has_dictionary == {
        "id": False,
        "surface": True,
        "tracks.list.element": False,
        "counts.list.element": True,
        "share": False,
    }
    assert {str(field.type) for field in pq.read_schema(path)} == {
        "string", "list<element: string>", "list<element: int64>", "double",
    }  # fmt: skip


def test_a_flipped_byte_of_a_page_is_found_by_its_checksum(tmp_path):
    write(make_table(10_000), tmp_path)
    path = tmp_path / "train/part-00001-of-00004.parquet"
    data = bytearray(path.read_bytes())
    data[2_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


def test_a_file_that_did_not_arrive_whole_is_refused(tmp_path, monkeypatch):
    def short(table, columns, path):
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        table.head(3).write_parquet(path)

    monkeypatch.setattr(shards, "write_parquet", short)
    with pytest.raises(DataRefusedError, match="wrote 10 rows, read back 3"):
        write(make_table(10), tmp_path)
