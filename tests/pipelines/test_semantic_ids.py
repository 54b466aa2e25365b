"""`playhead semantic-ids`, as a user runs it, on the vectors of the simulated catalog."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
import time
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests import jobs
from transforms import manifest, semantic_ids
from transforms.manifest import Manifest

UNTIL = "2026-01-08"


@pytest.fixture(scope="module")
def tracks(simulated: pathlib.Path) -> pathlib.Path:
    """track_id, vector, ... of the simulated catalog."""
    return simulated / "sim" / "truth" / "tracks.parquet"


def argv(source: Any, output: Any, *more: Any) -> list[Any]:
    return [
        *("semantic-ids", "--embeddings", source, "--vector-column", "vector"),
        *("--output", output, "--codebook-size", 32, *more),
        *(() if "--trained-until" in more else ("--trained-until", UNTIL)),
    ]


def current(output: Any) -> Manifest:
    return manifest.require_current(str(output), "semantic IDs")


@pytest.fixture(scope="module")
def made(
    tracks: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, jobs.Ended]:
    output = tmp_path_factory.mktemp("made") / "sids"
    return output, jobs.ok(*argv(tracks, output))


def test_every_track_of_the_catalog_gets_its_codes(
    made: tuple[pathlib.Path, jobs.Ended], tracks: pathlib.Path, simulated: pathlib.Path
) -> None:
    output, _ = made
    published = current(output)
    codes = jobs.rows(output, published, "codes")
    assert codes["track_id"].equals(pl.read_parquet(tracks)["track_id"].sort())
    assert published.kind == "semantic_ids"
    assert published.key == ("track_id",)
    assert [column.name for column in published.columns] == codes.columns
    assert published.config["trained_until_us"] == semantic_ids.parse_instant(UNTIL)
    assert published.config["dimensions"] == 8
    assert published.counts["items"] == codes.height
    assert codes.drop("track_id").is_unique().all()
    # A track's vector lies near its genre's, so a first code is mostly of one of the 12 genres.
    genres = pl.read_parquet(simulated / "sim" / "catalog.parquet", columns=["track_id", "genre"])
    by_code = codes.join(genres, on="track_id").group_by("code_0", "genre").len()
    purest = by_code.group_by("code_0").agg(pl.col("len").max())["len"].sum()
    assert purest / codes.height > 0.7


def test_the_table_at_the_end_and_quality_json_say_the_same(
    made: tuple[pathlib.Path, jobs.Ended],
) -> None:
    output, ended = made
    published = current(output)
    codes, books = (jobs.rows(output, published, role) for role in ("codes", "codebooks"))
    (entry,) = published.files_of("quality")
    quality = json.loads(
        manifest.read_verified(manifest.file_path(str(output), published, entry), entry)
    )
    assert (entry.format, entry.rows) == ("other", 0)
    for number, level in enumerate(quality["levels"]):
        sizes = codes[f"code_{number}"].value_counts()["count"]
        assert books.filter(level=number)["size"].sum() == codes.height
        assert (level["level"], level["used"], level["dead"]) == (
            number,
            len(sizes),
            32 - len(sizes),
        )
        shares = sizes / codes.height
        assert level["entropy_bits"] == pytest.approx(-(shares * shares.log(2)).sum(), abs=1e-6)
        assert published.counts["levels"][str(number)] == {
            "used_codes": level["used"], "dead_codes": level["dead"],
        }  # fmt: skip
        assert f"level {number}: entropy" in ended.out
        assert f"{level['perplexity']:,.1f} of 32" in ended.out
    errors = [level["reconstruction_error"] for level in quality["levels"]]
    assert errors == sorted(errors, reverse=True)
    assert ended.out.startswith(f"Published {output}/{published.version}\n")
    assert f"{published.counts['collisions']:,} (" in ended.out
    assert ended.err == ""


def test_a_rerun_does_nothing_and_other_options_make_another_version(
    made: tuple[pathlib.Path, jobs.Ended], tracks: pathlib.Path
) -> None:
    output, _ = made
    before, published = jobs.files_below(output), current(output)
    assert "nothing to do" in jobs.ok(*argv(tracks, output)).out
    assert jobs.files_below(output) == before
    for more in (["--seed", 1], ["--levels", 1], ["--trained-until", "2026-01-09"]):
        jobs.ok(*argv(tracks, output, *more))
    assert len([path for path in output.iterdir() if path.is_dir()]) == 4
    assert current(output).version.startswith("2026-01-09-")
    jobs.ok(*argv(tracks, output))  # an older version stays what it was, and the later one current
    assert current(output).version != published.version


def test_other_files_of_the_same_items_and_fewer_threads_give_the_same_bytes(
    made: tuple[pathlib.Path, jobs.Ended], tracks: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    first = manifest.load(str(made[0]), made[1].out.splitlines()[0].rsplit("/", 1)[1])
    table = pl.read_parquet(tracks).sample(fraction=1.0, shuffle=True, seed=1)
    table[:7000].write_parquet(tmp_path / "a.parquet")
    table[7000:].write_parquet(tmp_path / "b.parquet", row_group_size=1000)
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    ended = jobs.wait(jobs.spawn(*argv(tmp_path / "*.parquet", tmp_path / "sids"), env=one))
    assert ended.code == 0, ended.err
    assert first is not None
    wanted = ("codes", "codebooks", "quality")
    assert jobs.checksums(current(tmp_path / "sids"), *wanted) == jobs.checksums(first, *wanted)


def small(path: pathlib.Path, **columns: Any) -> pathlib.Path:
    """40 items."""
    vectors = np.random.default_rng(0).standard_normal((40, 3)).tolist()
    pl.DataFrame(
        {"track_id": [f"t{i}" for i in range(40)], "vector": vectors, **columns}
    ).write_parquet(path)
    return path


def test_a_file_that_says_until_when_it_was_trained_is_believed(tmp_path: pathlib.Path) -> None:
    source = small(tmp_path / "e.parquet")
    table = pq.read_table(source)
    said = {"playhead.trained_until": "2026-01-08T01:00:00+01:00"}
    pq.write_table(table.replace_schema_metadata(said), source)
    jobs.ok(*argv(source, tmp_path / "sids", "--trained-until", UNTIL))
    for other in ("2026-01-07", "2026-01-09"):
        ended = jobs.call(*argv(source, tmp_path / "other", "--trained-until", other))
        assert ended.code == 2
        assert f"got {other}, but the metadata of {source} say" in ended.err
        assert said["playhead.trained_until"] in ended.err
    pq.write_table(table.replace_schema_metadata({"playhead.trained_until": "soon"}), source)
    assert "= soon" in jobs.call(*argv(source, tmp_path / "other")).err
    assert not (tmp_path / "other").exists()


MISTAKES: list[tuple[list[Any], int, str]] = [
    (["--trained-untl", "2026-01-08"], 2, "did you mean --trained-until?"),
    (["--trained-until", "2026-01-08T00:00:00"], 2, "--trained-until: expected a UTC day"),
    (["--trained-until", "8.1.2026"], 2, "got '8.1.2026'"),
    (["--embeddings", "none*.parquet"], 2, "--embeddings: no file matches 'none*.parquet'"),
    (["--embeddings", "text.csv"], 4, "text.csv: truncated or damaged Parquet file"),
    (["--id-column", "item_id"], 2, "no column 'item_id'; it has track_id, vector"),
    (["--vector-column", "embedding"], 2, "no column 'embedding'"),
    (["--vector-column", "track_id"], 2, "--vector-column: expected another column than"),
    (["--codebook-size", "41"], 2, "expected at most the 40 items there are, got 41"),
    (["--codebook-size", "0"], 2, ">= 1"),
    (["--levels", "18"], 2, "--levels: 18 levels of 3 dimensions leave 7 bits"),
    (["--embeddings", "twice.parquet"], 3, "20 ids stand in more than one row, such as 't0'"),
    (["--embeddings", "nan.parquet"], 3, "vector of 't7': expected finite numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "code", "part"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_users_mistake_is_one_line_and_leaves_nothing(
    more: list[Any], code: int, part: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small(pathlib.Path("e.parquet"))
    small(pathlib.Path("twice.parquet"), track_id=[f"t{i % 20}" for i in range(40)])
    vectors = [[1.0, float("nan") if i == 7 else float(i)] for i in range(40)]
    small(pathlib.Path("nan.parquet"), vector=vectors)
    pathlib.Path("text.csv").write_text("track_id,embedding\n")
    before = sorted(tmp_path.iterdir())
    ended = jobs.call(*argv("e.parquet", "sids", *more))
    assert ended.code == code, ended.err[-600:]
    assert ended.out == ""
    (line,) = ended.err.strip().splitlines()
    assert line.startswith("playhead semantic-ids: ")
    assert part in line
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupted_run_publishes_nothing_and_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = semantic_ids.write

    def interrupted(*args: Any) -> Any:
        written = write(*args)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return written

    monkeypatch.setattr(semantic_ids, "write", interrupted)
    source = small(tmp_path / "e.parquet")
    ended = jobs.call(*argv(source, tmp_path / "sids"))
    assert ended.code == 130
    assert ended.err.strip().splitlines()[-1].endswith("interrupted; nothing was published")
    assert not (tmp_path / "sids").exists()
    monkeypatch.undo()
    jobs.ok(*argv(source, tmp_path / "sids"))


def test_without_scikit_learn_the_message_says_how_to_get_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    ended = jobs.call(*argv(small(tmp_path / "e.parquet"), tmp_path / "sids"))
    assert ended.code == 2
    assert "pip install 'playhead[semantic-ids]'" in ended.err
