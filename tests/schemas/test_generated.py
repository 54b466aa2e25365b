"""The files under schemas/generated/ are what the source says, and a drift of any is noticed."""

import json
import shutil

import fastavro
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from schemas import generate

FILES = sorted(generate.render())


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(generate.GENERATED, tmp_path / "generated")


def test_nothing_has_drifted():
    assert generate.drifted() == []


def test_every_schema_has_every_form():
    assert len(FILES) == 4 * len(generate.FILE_STEMS)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_character_is_a_drift(copy, name):
    text = (copy / name).read_text(encoding="utf-8")
    (copy / name).write_text(text.replace("track_id", "track_ld", 1), encoding="utf-8")
    assert generate.drifted(copy) == [name]


def test_a_missing_file_and_a_file_without_source_are_drifts(copy):
    (copy / FILES[0]).unlink()
    (copy / "old_name.avsc").write_text("{}", encoding="utf-8")
    assert generate.drifted(copy) == sorted([FILES[0], "old_name.avsc"])


def test_a_missing_folder_is_a_drift_of_all(tmp_path):
    assert generate.drifted(tmp_path / "nowhere") == FILES


def test_check_names_the_file_and_the_remedy_and_writing_repairs(copy, monkeypatch, capsys):
    monkeypatch.setattr(generate, "GENERATED", copy)
    monkeypatch.setattr(generate.drifted, "__defaults__", (copy,))
    (copy / FILES[0]).write_text("", encoding="utf-8")
    assert generate.main(["--check"]) == 1
    out = capsys.readouterr().out
    assert FILES[0] in out
    assert "python -m schemas.generate" in out
    assert (copy / FILES[0]).read_text(encoding="utf-8") == ""  # --check writes nothing
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


@pytest.mark.parametrize("stem", generate.FILE_STEMS)
def test_tools_parse_the_files(stem):
    avro = json.loads((generate.GENERATED / f"{stem}.avsc").read_text(encoding="utf-8"))
    fastavro.parse_schema(avro)
    text = (generate.GENERATED / f"{stem}.tfmd.pbtxt").read_text(encoding="utf-8")
    parsed = text_format.Parse(text, schema_pb2.Schema())
    assert [feature.name for feature in parsed.feature] == generate.FILE_STEMS[stem].names


def test_tfdv_validates_statistics_against_the_file():
    try:
        import tensorflow_data_validation as tfdv
    except ImportError:
        pytest.skip("tensorflow-data-validation is not installed")
    from tensorflow_metadata.proto.v0 import statistics_pb2

    def statistics(event_type):
        """A slice of ten rows, where every required column is complete."""
        result = statistics_pb2.DatasetFeatureStatisticsList()
        dataset = result.datasets.add(name="", num_examples=10)
        types = {
            schema_pb2.BYTES: statistics_pb2.FeatureNameStatistics.STRING,
            schema_pb2.INT: statistics_pb2.FeatureNameStatistics.INT,
            schema_pb2.FLOAT: statistics_pb2.FeatureNameStatistics.FLOAT,
        }
        for wanted in schema.feature:
            feature = dataset.features.add(type=types[wanted.type])
            feature.path.step.append(wanted.name)
            is_text = wanted.type == schema_pb2.BYTES
            stats = feature.string_stats if is_text else feature.num_stats
            common = stats.common_stats
            common.num_non_missing = common.tot_num_values = 10
            common.min_num_values = common.max_num_values = 1
            common.avg_num_values = 1.0
            if is_text:
                values = wanted.string_domain.value
                value = event_type if wanted.name == "event_type" else (list(values) or ["a"])[0]
                stats.unique = 1
                stats.rank_histogram.buckets.add(label=value, sample_count=10.0)
                stats.top_values.add(value=value, frequency=10.0)
        return result

    schema = tfdv.load_schema_text(str(generate.GENERATED / "listening_event.tfmd.pbtxt"))
    good = tfdv.validate_statistics(statistics("play"), schema)
    assert dict(good.anomaly_info) == {}
    bad = tfdv.validate_statistics(statistics("hum"), schema)
    assert list(bad.anomaly_info) == ["event_type"]
