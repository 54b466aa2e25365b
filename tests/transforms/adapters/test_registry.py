"""Formats by name: built in, from a mapping file, from a module of the user's own."""

from __future__ import annotations

import pathlib
import pickle
import subprocess
import sys

import pytest

from transforms.adapters import get_adapter, list_adapters
from transforms.errors import UsageError

MODULE = """
from transforms.adapters.base import Adapter, conform

def read(file):
    yield from ()

ADAPTER = Adapter("mine", "a format of my own", read, lambda raw: conform(raw, {}, "mine"))
"""


def test_every_listed_format_is_there_under_its_own_name():
    listed = list_adapters()
    assert {"avro", "parquet", "jsonl", "spotify", "mssd"} <= {name for name, _ in listed}
    for name, summary in listed:
        assert get_adapter(name).name == name
        assert summary == get_adapter(name).summary
        assert "\n" not in summary


@pytest.mark.parametrize("name", [name for name, _ in list_adapters()])
def test_every_format_pickles(name):
    """What a worker is sent; to_events comes back whole, too."""
    adapter = pickle.loads(pickle.dumps(get_adapter(name)))
    assert (adapter.name, adapter.event_types) == (name, get_adapter(name).event_types)


def test_unknown_names_say_what_is_near_and_what_there_is():
    with pytest.raises(
        UsageError, match=r"'Parqet'; did you mean parquet\? expected one of avro, "
    ):
        get_adapter("Parqet")
    with pytest.raises(UsageError, match="unknown format 'zzzzzz'"):
        get_adapter("zzzzzz")


def test_mapping_file(tmp_path: pathlib.Path):
    path = tmp_path / "m.yml"
    path.write_text(
        "name: mine\ncontainer: csv\nfields: {event_type: {value: play}, user_id: u, "
        "event_time: {column: t, unit: s}}\n"
    )
    assert get_adapter(str(path)).name == "mine"


def test_module_by_path_and_by_dotted_name(tmp_path: pathlib.Path, monkeypatch):
    (tmp_path / "my_formats").mkdir()
    file = tmp_path / "my_formats" / "plays.py"
    file.write_text(MODULE)
    assert get_adapter(str(file)).summary == "a format of my own"
    monkeypatch.syspath_prepend(tmp_path)
    assert get_adapter("my_formats.plays").name == "mine"


@pytest.mark.parametrize("name", ["no_such_package.formats", "json.no_such", "absent.py"])
def test_a_module_that_is_not_there(name):
    with pytest.raises(UsageError, match="no "):
        get_adapter(name)


def test_a_module_without_an_adapter():
    with pytest.raises(UsageError, match="no ADAPTER"):
        get_adapter("json.decoder")


def test_a_module_that_fails_shows_its_own_error(tmp_path: pathlib.Path, monkeypatch):
    (tmp_path / "broken_format.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pkg_of_mine").mkdir()
    (tmp_path / "pkg_of_mine" / "broken.py").write_text("import no_such_dependency\n")
    for name in (str(tmp_path / "broken_format.py"), "pkg_of_mine.broken"):
        with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
            get_adapter(name)


def test_formats_are_imported_when_asked_for():
    code = (
        "import sys, transforms.adapters as a; a.get_adapter('parquet');"
        "assert not any('spotify' in m or m.endswith('adapters.mapping') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
