"""The environment is what the code counts on: versions, import costs, named dependencies."""

import ast
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = [
    name
    for name in ("pipelines", "specs", "transforms", "schemas", "readers")
    if (ROOT / name).is_dir()
]

# Import name to distribution, where normalizing the name does not lead there.
DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.bigquery_storage": "google-cloud-bigquery",
    "google.cloud.bigquery_storage_v1": "google-cloud-bigquery",
    "google.cloud.storage": "apache-beam",  # its extra [gcp]
    "google.api_core": "google-cloud-bigquery",
    "google.auth": "google-cloud-bigquery",
    "google.protobuf": "protobuf",
    "botocore": "boto3",
    "sklearn": "scikit-learn",
}
# Packages that model code brings itself: a module of `readers` needs the one it is for.
READER_PEERS = {"torch", "tensorflow", "datasets", "ray", "pyspark"}
# tensorflow comes with tensorflow-data-validation, where statistics and TFRecord are written.
COMES_WITH = {"tensorflow": "tensorflow-data-validation"}


def python(code):
    """Runs `code` in a fresh interpreter; returns the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def modules_of(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def third_party_imports():
    """(file, top-level or google.x.y name) of every import in the packages, nested ones too."""
    for package in PACKAGES:
        for _, path in modules_of(package):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                else:
                    continue
                for name in names:
                    parts = name.split(".")
                    if parts[0] in sys.stdlib_module_names or parts[0] in PACKAGES:
                        continue
                    depth = 1
                    if parts[0] == "google":
                        depth = 3 if parts[1] == "cloud" else 2
                    yield path.relative_to(ROOT), ".".join(parts[:depth])


def declared():
    """Normalized names of the distributions setup.py asks for, extras included."""
    (call,) = [
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    ]
    arguments = {keyword.arg: keyword.value for keyword in call.keywords}
    requirements = list(ast.literal_eval(arguments["install_requires"]))
    for extra in ast.literal_eval(arguments["extras_require"]).values():
        requirements += extra
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}


def test_every_third_party_import_is_named_in_setup_py():
    names = declared()
    missing = []
    for path, name in third_party_imports():
        if path.parts[0] == "readers" and name in READER_PEERS:
            continue
        distribution = COMES_WITH.get(name) or DISTRIBUTIONS.get(name) or name
        if distribution.replace("_", "-").lower() not in names:
            missing.append(f"{path}: {name}")
    assert missing == []


def test_every_package_folder_is_a_package():
    # find_packages would leave a folder without __init__.py out of the distribution
    bare = {
        str(path.parent.relative_to(ROOT))
        for package in PACKAGES
        for _, path in modules_of(package)
        if not (path.parent / "__init__.py").exists()
    }
    assert bare == set()


def test_the_lock_pins_with_hashes_and_names_no_host():
    for name in ("bootstrap.txt", "lock.txt", "bench.txt"):
        text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
        assert not re.search(r"://|--index|--find-links|--trusted-host|(?<!\w)-[if] ", text), name
        pins = re.findall(r"^[a-z0-9][\w.-]*==\S+ \\\n    --hash=sha256:", text, re.M)
        assert len(pins) == len(re.findall(r"^[a-z0-9]", text, re.M)), name


def test_the_bench_environment_has_the_versions_of_the_lock():
    def pins(name):
        text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
        return set(re.findall(r"^([a-z0-9][\w.-]*==\S+)", text, re.M))

    assert pins("lock.txt") <= pins("bench.txt")


def test_pyarrow_is_not_one_with_a_known_hole():
    version = importlib.metadata.version("pyarrow")
    assert tuple(map(int, version.split(".")[:3])) >= (14, 0, 1), version  # CVE-2023-47248


def test_importing_beam_does_not_import_tensorflow():
    assert (
        python("import sys, json, apache_beam; print(json.dumps('tensorflow' in sys.modules))")
        is False
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_the_modules_does_not_import_tensorflow(package):
    imports_peer = re.compile(rf"^(?:import|from) ({'|'.join(sorted(READER_PEERS))})\b", re.M)
    names = [
        name
        for name, path in modules_of(package)
        # `__main__` runs on import; a reader's module may import the framework it is for
        if path.name != "__main__.py"
        and not (package == "readers" and imports_peer.search(path.read_text(encoding="utf-8")))
    ]
    heavy = ["tensorflow", "tensorflow_data_validation", "tfx_bsl"]
    found = python(
        f"""
import importlib, json, sys
found = []
for name in {names}:
    importlib.import_module(name)
    for heavy in {heavy}:
        if heavy in sys.modules:
            print(json.dumps([name, heavy])); sys.exit()
print(json.dumps(None))
"""
    )
    assert found is None, "{} imports {}: import it in the function that needs it".format(*found)


def test_tfdv_computes_and_validates_statistics():
    result = python(
        """
import json
import pyarrow as pa
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics import stats_impl
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

batch = pa.RecordBatch.from_pydict({
    "genre": pa.array([[b"jazz"], [b"jazz"], [b"folk"], None], pa.list_(pa.binary())),
    "played_ms": pa.array([[1], [2], [3], [6]], pa.list_(pa.int64())),
})
statistics = stats_impl.generate_statistics_in_memory(batch, tfdv.StatsOptions())
schema = tfdv.infer_schema(statistics)
features = {f.path.step[0]: f for f in statistics.datasets[0].features}
other = stats_impl.generate_statistics_in_memory(batch.select(["genre"]), tfdv.StatsOptions())
print(json.dumps({
    "rows": statistics.datasets[0].num_examples,
    "missing": features["genre"].string_stats.common_stats.num_missing,
    "top": features["genre"].string_stats.top_values[0].value,
    "mean": features["played_ms"].num_stats.mean,
    "same": sorted(tfdv.validate_statistics(statistics, schema).anomaly_info),
    "other": sorted(tfdv.validate_statistics(other, schema).anomaly_info),
    "examples": len(RecordBatchToExamplesEncoder().encode(batch)),
}))
"""
    )
    assert result == {
        "rows": 4, "missing": 1, "top": "jazz", "mean": 3.0, "same": [], "other": ["played_ms"],
        "examples": 4,
    }  # fmt: skip


def test_the_version_has_one_source():
    from transforms.version import __version__

    assert importlib.metadata.version("playhead") == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in changelog
