"""Embedding files: what is read, and what is refused with the item's name."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms import embeddings
from transforms.errors import DataRefusedError, InputFileError, UsageError

IDS = ["b", "a", "c"]
VECTORS = [[1.0, 2.0], [-3.0, 0.5], [0.0, 4.0]]


def write(path: pathlib.Path, ids: Any, vectors: Any, **metadata: str) -> str:
    table = pa.table({"track_id": ids, "embedding": vectors, "title": ["x"] * len(ids)})
    said = {key.replace("__", "."): value for key, value in metadata.items()}
    pq.write_table(table.replace_schema_metadata(said or None), path)
    return str(path)


def read(*paths: str) -> tuple[list[str], list[list[float]]]:
    found = embeddings.describe(paths, "track_id", "embedding")
    batches = list(found.batches())
    assert sum(len(ids) for ids, _ in batches) == found.items
    assert all(vectors.dtype == np.float64 for _, vectors in batches)
    return (
        [item for ids, _ in batches for item in ids.to_list()],
        [row for _, vectors in batches for row in vectors.tolist()],
    )


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.list_(pa.float32()), pa.large_list(pa.float32()),
     pa.list_(pa.float32(), 2), pa.list_(pa.float16())],
    ids=str,
)  # fmt: skip
def test_vectors_of_any_list_type_are_read(tmp_path: pathlib.Path, kind: pa.DataType) -> None:
    values = [np.array(row, np.float16) for row in VECTORS] if "half" in str(kind) else VECTORS
    path = write(tmp_path / "e", IDS, pa.array(values, kind))
    assert read(path) == (IDS, VECTORS)


def test_whole_numbers_are_ids_by_their_decimal_text(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "e", pa.array([7, 12, 0], pa.uint32()), VECTORS)
    assert read(path)[0] == ["7", "12", "0"]


def test_batches_are_slices_of_all_files_in_order(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        write(tmp_path / "one", [f"i{i}" for i in range(5)], [[float(i), 1.0] for i in range(5)]),
        write(tmp_path / "none", pa.array([], pa.string()), pa.array([], pa.list_(pa.float64()))),
        write(tmp_path / "two", ["z"], [[9.0, 1.0]]),
    ]
    monkeypatch.setattr(embeddings, "BATCH_ROWS", 2)
    found = embeddings.describe(tuple(paths), "track_id", "embedding")
    assert (found.items, found.dimensions) == (6, 2)
    assert [len(ids) for ids, _ in found.batches()] == [2, 2, 1, 1]
    ids, vectors = read(*paths)
    assert ids == [*(f"i{i}" for i in range(5)), "z"]
    assert [row[0] for row in vectors] == [0, 1, 2, 3, 4, 9]


def test_what_files_say_of_their_training_is_told(tmp_path: pathlib.Path) -> None:
    one = write(tmp_path / "one", IDS, VECTORS, playhead__trained_until="2026-01-10")
    two = write(tmp_path / "two", IDS, VECTORS)
    found = embeddings.describe((one, two), "track_id", "embedding")
    assert found.trained_until == ((one, "2026-01-10"),)


FLOATS = pa.list_(pa.float64())
REFUSED = [
    (["a", None], [[1.0], [2.0]], DataRefusedError, "track_id: 1 ids are null"),
    (["a", "b"], pa.array([[1.0], None], FLOATS), DataRefusedError, "of 'b': .* got null"),
    (["a", "b"], [[1.0], [1.0, 2.0]], DataRefusedError, "of 'b': expected 1 numbers .* 2 numbers"),
    (["a", "b"], [[1.0], []], DataRefusedError, "of 'b': expected 1 numbers .* got 0 numbers"),
    (["a", "b"], [[1.0], [None]], DataRefusedError, "of 'b': expected finite numbers"),
    (["a", "b"], [[1.0], [float("nan")]], DataRefusedError, "of 'b': expected finite"),
    (["a", "b"], [[1.0], [float("-inf")]], DataRefusedError, "of 'b': expected finite"),
    (["a"], pa.array([None], FLOATS), DataRefusedError, "first vector is null or empty"),
    (["a"], pa.array([[]], FLOATS), DataRefusedError, "first vector is null or empty"),
    (pa.array([], pa.string()), pa.array([], FLOATS), DataRefusedError, "holds no item"),
    ([1.5], [[1.0]], UsageError, "--id-column: .* expected text or whole numbers, got Float64"),
    (["a"], [["x"]], UsageError, r"--vector-column: .* got List\(String\)"),
    (["a"], [1.0], UsageError, "--vector-column: .* got Float64"),
]  # fmt: skip


@pytest.mark.parametrize(("ids", "vectors", "error", "match"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_embedding_is_refused_in_a_line(
    tmp_path: pathlib.Path, ids: Any, vectors: Any, error: type[Exception], match: str
) -> None:
    path = write(tmp_path / "e.parquet", ids, vectors)
    with pytest.raises(error, match=match) as raised:
        read(path)
    assert "e.parquet" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_columns_and_damaged_files_are_named(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "e", IDS, VECTORS)
    with pytest.raises(UsageError, match=r"--vector-column: .*/e has no column 'vec'; it has"):
        embeddings.describe((path,), "track_id", "vec")
    with pytest.raises(UsageError, match=r"--id-column: .* no column 'item'"):
        embeddings.describe((path,), "item", "embedding")
    data = pathlib.Path(path).read_bytes()
    for damage in (b"", b"track_id,embedding\n", data[:-20], data[: len(data) // 2]):
        pathlib.Path(path).write_bytes(damage)
        with pytest.raises(InputFileError, match="Parquet"):
            read(path)
