"""What may not stand where files of others are read, and versions with known holes."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from collections.abc import Iterator

import pytest

from tests import jobs

CODE = [
    path
    for folder in ("transforms", "pipelines", "readers", "schemas", "specs")
    for path in sorted((jobs.REPOSITORY / folder).rglob("*.py"))
]
# Modules that run what they load.
RUNS_DATA = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {
    "eval", "exec", "compile", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load",
    "torch.load", "os.system", "os.popen", "pl.deserialize", "pl.DataFrame.deserialize",
    "pa.deserialize",
}  # fmt: skip
# What of others is read as Arrow IPC: nothing. The files of a shuffle are our own.
IPC = {"read_ipc", "scan_ipc", "open_file", "open_stream", "read_feather"}
OWN_FILES = {"transforms/exchange.py", "transforms/tables.py", "transforms/building.py"}


def forbidden(tree: ast.AST) -> Iterator[str]:
    """What a module must not do, as it stands there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (name for name in names if name.split(".")[0] in RUNS_DATA)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS:
                yield called
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                    yield "allow_pickle"
                if keyword.arg == "shell" and ast.unparse(keyword.value) != "False":
                    yield "shell"


def test_nothing_that_is_read_is_run() -> None:
    found = {
        str(path.relative_to(jobs.REPOSITORY)): list(forbidden(ast.parse(path.read_text())))
        for path in CODE
    }
    assert len(found) > 50
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from dill import loads", "yaml.load(x, Loader=l)", "eval(x)",
     "np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)", "import marshal as m"],
)  # fmt: skip
def test_the_gate_sees_it(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


def test_arrow_ipc_is_read_of_our_own_shuffle_only() -> None:
    users = {
        str(path.relative_to(jobs.REPOSITORY))
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in IPC
    }
    assert users <= OWN_FILES, users


@pytest.mark.parametrize(
    ("package", "least", "why"),
    [
        ("pyarrow", (14, 0, 1), "CVE-2023-47248"),
        ("orjson", (3, 11, 6), "CVE-2024-27454, CVE-2025-67221"),
        ("pyyaml", (5, 4), "CVE-2020-14343"),
        ("zstandard", (0, 15, 1), "bundled libraries before it"),
    ],
)
def test_versions_with_known_holes_are_not_installed(
    package: str, least: tuple[int, ...], why: str
) -> None:
    version = importlib.metadata.version(package)
    assert tuple(map(int, re.findall(r"\d+", version)[:3])) >= least, why
    lock = (jobs.REPOSITORY / "requirements" / "lock.txt").read_text()
    pinned = re.search(rf"^{package}==(\S+)", lock, re.M)
    assert pinned is not None
    assert tuple(map(int, re.findall(r"\d+", pinned[1])[:3])) >= least, why


def test_protobuf_parses_in_c() -> None:
    """The Python implementation recurses without bound (CVE-2025-4565)."""
    from google.protobuf.internal import api_implementation

    assert api_implementation.Type() in ("upb", "cpp")
