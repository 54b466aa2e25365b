"""The dataset card: what the Hub reads of it, and what people do."""

from __future__ import annotations

import pathlib
import re
import shlex
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests import small_version
from tests.small_version import SHA, SPEC, column, config
from transforms import card
from transforms.manifest import FileEntry, InputVersionEntry, Manifest

RETRIEVAL = (
    column("user_id", "string", "context"),
    column("neg_log_q", "list<double>", "negative"),
    column("positive_log_q", "double", "negative"),
)
SEQUENCES = (
    column("window_id", "int64", "sequence"),
    column("item_index", "list<int64>", "sequence"),
    column("is_target", "list<bool>", "split"),
    column("odd", "int64", "something else"),
)


def front(text: str) -> dict[str, Any]:
    """The front matter of a card, found as the Hub finds it."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match
    return yaml.safe_load(match[1])


def of_kind(kind: str, **changes: Any) -> Manifest:
    return small_version.manifest(config=config(spec={**SPEC, "kind": kind}), **changes)


def cells(line: str) -> list[str]:
    """The cells of a row of a table, by the rule of GitHub's parser, unescaped."""
    found = re.findall(r"(?:\\[!-/:-@\[-`{-~]|[^|])+(?=\|)", line[1:])
    return [cell.strip().replace("\\|", "|") for cell in found]


def file(path: str, rows: int, file_format: str) -> FileEntry:
    role = path.split("/")[0]
    return FileEntry.model_validate(
        {"path": path, "role": role, "rows": rows, "bytes": 9, "sha256": SHA, "format": file_format}
    )


def test_front_matter_names_every_file_that_has_rows_and_no_other() -> None:
    read = front(card.render_card(small_version.manifest()))
    assert read["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {
                    "split": "train",
                    "path": [
                        "train/part-00000-of-00003.parquet",
                        "train/part-00002-of-00003.parquet",
                    ],
                },
                {"split": "validation", "path": ["validation/part-00000-of-00003.parquet"]},
            ],
        }
    ]
    assert read["dataset_info"]["splits"] == [
        {"name": "train", "num_bytes": 103 + 101, "num_examples": 4},
        {"name": "validation", "num_bytes": 101, "num_examples": 1},
    ]
    assert read["dataset_info"]["download_size"] == 305
    assert read["pretty_name"] == "ranking, 2026-01-05 to 2026-01-07"
    assert read["license"] == "unknown"
    assert read["size_categories"] == ["n<1K"]
    assert read["task_categories"] == ["tabular-classification", "tabular-regression"]


def test_features_have_the_types_of_the_hub() -> None:
    read = front(card.render_card(small_version.manifest()))["dataset_info"]["features"]
    assert [feature["name"] for feature in read] == [c.name for c in small_version.COLUMNS]
    kinds = [feature.get("dtype") or ("list", feature["list"]) for feature in read]
    assert kinds == [
        "string", "string", "timestamp[us, tz=UTC]", "date32", "int32", "bool", "float64", "int64",
        "uint64", ("list", "string"), ("list", "int64"), "bool", ("list", "float64"),
    ]  # fmt: skip
    assert card.unwrap("list<list<int64>>") == ("int64", 2)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9_999, "1K<n<10K"),
        (10_000, "10K<n<100K"), (999_999_999, "100M<n<1B"), (10**12 - 1, "100B<n<1T"),
        (10**12, "n>1T"), (10**15, "n>1T"),
    ],
)  # fmt: skip
def test_size_category(rows: int, expected: str) -> None:
    files = (file("train/a.parquet", rows, "parquet"),)
    assert front(card.render_card(small_version.manifest(files=files)))["size_categories"] == [
        expected
    ]


def test_equal_data_have_an_equal_card() -> None:
    ours = small_version.manifest()
    other = ours.run.model_copy(update={"attempt": "attempt-2", "finished_at": "later"})
    text = card.render_card(ours)
    assert card.render_card(ours.model_copy(update={"run": other})) == text
    # The manifest on disk has its keys in another order, and lists for tuples.
    assert card.render_card(Manifest.model_validate_json(ours.to_json())) == text


def test_tfrecord_alone_is_not_offered_to_the_hub() -> None:
    text = card.render_card(
        small_version.manifest(files=(file("train/a.tfrecord.gz", 5, "tfrecord"),))
    )
    assert "configs" not in front(text)
    assert front(text)["viewer"] is False
    assert "TFRecord only" in text
    assert "load_dataset" not in text
    assert "| `train` | 5 | 1 |" in text


def test_rows_in_two_formats_count_once() -> None:
    files = (file("train/a.parquet", 5, "parquet"), file("train/a.tfrecord", 5, "tfrecord"))
    text = card.render_card(small_version.manifest(files=files))
    assert front(text)["dataset_info"]["splits"][0]["num_examples"] == 5
    assert "| `train` | 5 | 2 |" in text


def test_a_version_without_rows_says_so() -> None:
    for files in ((), (file("train/a.parquet", 0, "parquet"),)):
        text = card.render_card(small_version.manifest(files=files, status="EMPTY"))
        assert "This version has no rows." in text
        assert "configs" not in front(text)


def test_split_borders_are_those_of_the_build() -> None:
    text = card.render_card(small_version.manifest())
    assert "| `train` | 4 | 3 | 2026-01-05 00:00 | 2026-01-06 23:30 |" in text
    assert "| `validation` | 1 | 1 | 2026-01-07 00:00 | 2026-01-08 00:00 |" in text
    assert "| `test` | 0 | 1 |  |  |" in text


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("ranking", small_version.COLUMNS), ("retrieval", RETRIEVAL), ("sequences", SEQUENCES),
        ("sessions", small_version.COLUMNS),
    ],
)  # fmt: skip
def test_every_column_is_told_once(kind: str, columns: tuple[Any, ...]) -> None:
    text = card.render_card(of_kind(kind, columns=columns))
    for entry in columns:
        lines = [line for line in text.splitlines() if line.startswith(f"| `{entry.name}` |")]
        assert len(lines) == 1
        unit = "ms" if entry.name == "history_ms_ago" else ""
        null = "yes" if entry.nullable else "no"
        told = [f"`{entry.name}`", f"`{entry.type}`", unit, null, entry.description]
        assert cells(lines[0])[:5] == told


def test_what_a_kind_needs_is_told_where_it_is_needed() -> None:
    texts = {
        "ranking": card.render_card(small_version.manifest()),
        "retrieval": card.render_card(of_kind("retrieval", columns=RETRIEVAL)),
        "sequences": card.render_card(of_kind("sequences", columns=SEQUENCES)),
    }
    told = {
        "s - log q": "retrieval",
        "| 0 | padding |": "sequences",
        "| from 4 | the tracks of `vocabulary.parquet` |": "sequences",
        "## Labels": "ranking",
    }
    for words, kind in told.items():
        assert [name for name, text in texts.items() if words in text] == [kind]


def test_every_count_is_told() -> None:
    text = card.render_card(small_version.manifest())
    for number in ("20,214", "38", "1,203", "17", "451"):
        assert f"| {number} |" in text
    assert "| rows in no split: label window | 4 |" in text
    assert "| unheard of | 333 |" in text
    assert "70,007" not in text  # the report has the checks of exposure
    liked = next(line for line in text.splitlines() if line.startswith("| `label_liked`"))
    assert cells(liked)[-2:] == ["1", "2"]


def test_limits_are_those_of_the_version() -> None:
    said = " ".join(card.limits(small_version.manifest()))
    assert "1,203 rows are withheld" in said
    assert "more than 2 days after they happened are left out (38 here)" in said
    assert "begins" not in said
    known = small_version.manifest(config=config(left_context_missing_days=8), counts={})
    said = " ".join(card.limits(known))
    assert "begins 8 days after" in said
    assert "withheld" not in said
    bare = small_version.manifest(columns=(), config=config(spec={"kind": "sessions"}))
    assert "## Known limits" not in card.render_card(bare.model_copy(update={"counts": {}}))


def test_the_command_and_the_spec_can_be_taken_from_the_card() -> None:
    codes = InputVersionEntry(name="semantic_ids", version="v-7", digest=SHA)
    settings = config(as_of_us=small_version.FIRST_US + 3_600_000_000, catalog="0123")
    text = card.render_card(small_version.manifest(config=settings, inputs=(codes,)))
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0]) == SPEC
    assert "Nothing that was received after 2026-01-05 01:00:00+00:00 is seen." in text
    command = shlex.split(text.split("made\n\n```\n")[1].split("```")[0].replace("\\\n", ""))
    assert command == shlex.split(
        "playhead build --store STORE --spec spec.yaml --output OUTPUT --start-date 2026-01-05 "
        "--end-date 2026-01-07 --as-of 2026-01-05T01:00:00+00:00 --catalog CATALOG "
        "--semantic-ids v-7"
    )


def test_side_files_are_linked() -> None:
    report = FileEntry(
        path="report.html", role="report", rows=0, bytes=1, sha256=SHA, format="other"
    )
    ours = small_version.manifest()
    assert "(report.html)" not in card.render_card(ours)
    files = (*ours.files, report)
    assert "[`report.html`](report.html)" in card.render_card(
        ours.model_copy(update={"files": files})
    )


@given(st.text(st.sampled_from("ab |\\`<>/!\n\r\t*é"), max_size=30))
def test_no_description_breaks_its_table(words: str) -> None:
    entry = column("x", "list<string>", "context").model_copy(update={"description": words})
    text = card.render_card(small_version.manifest(columns=(entry,)))
    (line,) = [line for line in text.splitlines() if line.startswith("| `x`")]
    assert len(cells(line)) == 5
    said = cells(line)[-1]
    outside = " ".join(re.split(r"`[^`]*`", said))
    assert not re.search(r"<[\w/!?]", outside)
    if not re.search(r"[\\<]", words):
        assert said == " ".join(words.split())


def test_hugging_face_loads_the_same_rows(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reason = "pip install datasets, which is not among the requirements"
    datasets = pytest.importorskip("datasets", reason=reason)
    hub = pytest.importorskip("huggingface_hub", reason=reason)
    folder = tmp_path / "version"
    text = card.render_card(small_version.write(folder))
    (folder / card.CARD_NAME).write_text(text, encoding="utf-8")

    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train", "validation"]
    for split, numbers in (("train", [0, 1, 2, 3]), ("validation", [4])):
        # As text, for NaN is not equal to itself.
        expected = [small_version.row(number) for number in numbers]
        assert [repr(row) for row in plain(loaded[split].to_list())] == [
            repr(row) for row in plain(expected)
        ]
    data = hub.DatasetCard(text).data
    assert data.pretty_name == "ranking, 2026-01-05 to 2026-01-07"
    assert data.to_dict()["configs"] == front(text)["configs"]


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Times as text, whatever class holds their zone."""
    return [{**row, "event_time": row["event_time"].isoformat()} for row in rows]
