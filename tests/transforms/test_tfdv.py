"""TFDV's C++ module without TensorFlow: what it says is what TFDV's own API says."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import polars as pl
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from schemas import forms
from transforms import tfdv
from transforms.errors import UsageError
from transforms.manifest import ColumnEntry
from transforms.statistics import SplitStatistics
from transforms.tfdv import Statistics

# The kinds of what can be wrong, and comparators for both versions of each column.
SCHEMA = """
feature { name: "platform" type: BYTES presence { min_fraction: 1 }
          value_count { min: 1 max: 1 } string_domain { value: ["ios", "web"] }
          drift_comparator { jensen_shannon_divergence { threshold: 0.01 } } }
feature { name: "plays" type: INT int_domain { min: 0 max: 5 }
          drift_comparator { jensen_shannon_divergence { threshold: 0.01 } }
          skew_comparator { jensen_shannon_divergence { threshold: 0.9 } } }
feature { name: "share" type: FLOAT float_domain { min: 0 max: 1 disallow_nan: true }
          skew_comparator { jensen_shannon_divergence { threshold: 0.01 } } }
feature { name: "gone" type: INT presence { min_fraction: 1 } }
"""
ROWS = 60


def statistics(platforms: list[str], plays: range, divisor: float) -> Statistics:
    table = pl.DataFrame(
        {
            "platform": [platforms[i % len(platforms)] for i in range(ROWS)],
            "plays": [plays[i % len(plays)] for i in range(ROWS)],
            "share": [i / ROWS / divisor for i in range(ROWS)],
            "lists": [list(range(i % 4)) for i in range(ROWS)],
            "unheard_of": [None if i % 2 else i for i in range(ROWS)],
        }
    )
    columns = [ColumnEntry(name=n, type=forms.type_name(t)) for n, t in table.schema.items()]
    made = SplitStatistics(columns)
    made.add(table)
    return made.extract("train")


NOW = statistics(["ios", "web", "tv"], range(-1, 7), 0.5)
BEFORE = statistics(["ios", "web"], range(4), 1.0)
SERVED = statistics(["ios"], range(2, 9), 4.0)


def parsed() -> schema_pb2.Schema:
    return text_format.Parse(SCHEMA, schema_pb2.Schema())


@pytest.fixture
def fresh() -> Iterator[None]:
    """The module is looked for again, before and after."""
    tfdv._extension.cache_clear()
    yield
    tfdv._extension.cache_clear()


def test_anomalies_are_found_and_distances_measured() -> None:
    found = tfdv.find_anomalies(NOW, parsed(), previous=BEFORE, serving=SERVED)
    said = {name: info.short_description for name, info in found.anomaly_info.items()}
    assert said.keys() == {"platform", "plays", "share", "gone", "lists", "unheard_of"}
    assert "Column dropped" in said["gone"]
    assert "New column" in said["lists"]
    measured = {
        info.path.step[0]: (len(info.drift_measurements), len(info.skew_measurements))
        for info in found.drift_skew_info
    }
    assert measured == {"platform": (1, 0), "plays": (1, 1), "share": (0, 1)}


def test_what_a_schema_was_inferred_from_is_as_it_says() -> None:
    for each in (NOW, BEFORE, SERVED):
        schema = tfdv.infer_schema(each)
        assert [f.name for f in schema.feature] == [f.path.step[0] for f in each.features]
        assert dict(tfdv.find_anomalies(each, schema).anomaly_info) == {}
    (domain,) = tfdv.infer_schema(BEFORE).string_domain
    assert list(domain.value) == ["ios", "web"]


def test_nothing_of_tensorflow_is_imported() -> None:
    script = (
        "import sys; from transforms import tfdv; tfdv.check_installed(); "
        "from tensorflow_metadata.proto.v0 import statistics_pb2 as s; "
        "tfdv.infer_schema(s.DatasetFeatureStatistics(num_examples=1)); "
        "print([n for n in ('tensorflow', 'apache_beam', 'pandas') if n in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert out.stdout == "[]\n"


@pytest.mark.usefixtures("fresh")
def test_without_the_package_the_answer_is_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError) as caught:
        tfdv.check_installed()
    (line,) = str(caught.value).splitlines()
    assert "extra `statistics`" in line


@pytest.mark.usefixtures("fresh")
def test_a_package_without_its_module_is_answered_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    package = tmp_path / "tensorflow_data_validation"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    # Another test may have imported the real one, which would be found instead.
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    with pytest.raises(UsageError, match=rf"^{package}/pywrap/.*cannot be loaded") as caught:
        tfdv.check_installed()
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # imports TensorFlow
def test_tfdvs_own_functions_say_the_same() -> None:
    import tensorflow_data_validation as api

    def listed(each: Statistics) -> statistics_pb2.DatasetFeatureStatisticsList:
        return statistics_pb2.DatasetFeatureStatisticsList(datasets=[each])

    for each in (NOW, BEFORE, SERVED):
        expected = api.infer_schema(listed(each), infer_feature_shape=False)
        assert tfdv.infer_schema(each) == expected
        for others in ({}, {"previous": BEFORE}, {"serving": SERVED},
                       {"previous": SERVED, "serving": BEFORE}):  # fmt: skip
            expected = api.validate_statistics(
                listed(each),
                parsed(),
                **{f"{role}_statistics": listed(other) for role, other in others.items()},
            )
            found = tfdv.find_anomalies(each, parsed(), **others)
            assert isinstance(found, anomalies_pb2.Anomalies)
            assert len(found.drift_skew_info) == len(expected.drift_skew_info)
            for info in expected.anomaly_info.values():  # for notebooks: how to change the schema
                info.ClearField("diff_regions")
            assert found == expected
    assert found.drift_skew_info
