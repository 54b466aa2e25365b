"""TensorFlow Data Validation's schema inference and validation, without TensorFlow.

The package's `__init__` imports TensorFlow (8 s, 600 MB). What infers and validates is one C++
module that works on serialized protos and needs none of it, so it is loaded from its file (4 ms).
Its functions are those that `tensorflow_data_validation.api.validation_api` calls.
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib
from typing import Any, TypeAlias

from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from transforms.errors import UsageError

Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatistics

_PACKAGE = "tensorflow_data_validation"
_MODULE = f"{_PACKAGE}.pywrap.tensorflow_data_validation_extension"
_MAX_DOMAIN = 100  # texts of a column above which they are no enumeration


@functools.lru_cache(maxsize=1)
def _extension() -> Any:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise UsageError(
            "TensorFlow Data Validation is not installed, which checks a version's schema and "
            "drift: install the extra `statistics` (docs/install.md)"
        )
    folder = pathlib.Path(found.origin).parent / "pywrap"
    path = folder / "tensorflow_data_validation_extension.so"
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise UsageError(f"{path}: cannot be loaded, reinstall {_PACKAGE}: {error}") from None
    return module.validation


def check_installed() -> None:
    """Raises a one-line UsageError if TFDV is not there."""
    _extension()


def infer_schema(statistics: Statistics) -> schema_pb2.Schema:
    """The schema that TFDV infers: types, presence, value counts, and domains of few texts."""
    text = _extension().InferSchema(statistics.SerializeToString(), _MAX_DOMAIN, False)
    return schema_pb2.Schema.FromString(text)


def find_anomalies(
    statistics: Statistics,
    schema: schema_pb2.Schema,
    previous: Statistics | None = None,
    serving: Statistics | None = None,
) -> anomalies_pb2.Anomalies:
    """What of the statistics is not as the schema says, and as in the version before (drift
    comparators of the schema) and the serving log (skew comparators)."""
    optional = [b"" if each is None else each.SerializeToString() for each in (previous, serving)]
    found = _extension().ValidateFeatureStatistics(
        statistics.SerializeToString(),
        schema.SerializeToString(),
        b"",  # environment
        *optional,
        b"",  # previous version, for comparators of the number of examples
        b"",  # features needed
        b"",  # severities: the defaults
        False,  # no texts of what differs
    )
    return anomalies_pb2.Anomalies.FromString(found)
