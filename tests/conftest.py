"""What tests of whole jobs share: inputs made once, and commands run in this process."""

from __future__ import annotations

import pathlib
import socket
import tempfile
from collections.abc import Iterator
from typing import Any, NoReturn

import polars as pl
import pytest

from tests import jobs

# Here, for the process that prints the summary collects no tests where others run them.
from tests.summary import pytest_terminal_summary  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files of what is tested go when the tests end: every Beam pipeline that is made and
    not run leaves a folder. Folders of tests stay where pytest keeps them."""
    tmp_path_factory.getbasetemp()
    with (
        tempfile.TemporaryDirectory(prefix="playhead-tests-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A raw log of about 20,000 events that happened on 3 days, two Parquet files a day.

    <folder>/received=<day>/a.parquet and b.parquet; phones that were offline sync for 5 more days.
    """
    made = tmp_path_factory.mktemp("simulated")
    jobs.ok("simulate", "--output", made / "sim", "--events", 20_000, "--days", 3, "--seed", 5)
    for path in sorted((made / "sim" / "raw" / "parquet").glob("*/*.parquet")):
        table = pl.read_parquet(path)
        folder = made / path.parent.name
        folder.mkdir(exist_ok=True)
        half = table.height // 2
        table[:half].write_parquet(folder / "a.parquet")
        table[half:].write_parquet(folder / "b.parquet")
    return made


@pytest.fixture(scope="session")
def simulated_store(
    simulated: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The event store of `simulated`, 4 buckets. Read it; a test that writes copies it."""
    store = tmp_path_factory.mktemp("stored") / "store"
    for folder in sorted(simulated.glob("received=*")):
        day = folder.name.removeprefix("received=")
        jobs.ingest(folder / "*", store, "--date", day, "--buckets", 4)
    return store


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Any look-up or connection beyond this machine fails, and the test with it."""
    tried: list[Any] = []
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def refuse(what: Any) -> NoReturn:
        tried.append(what)
        raise OSError(f"a test without network reached for {what}")

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        return resolve(host, *args, **kwargs) if host in jobs.OWN_HOSTS else refuse(host)

    def connect_own(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in jobs.OWN_HOSTS:
            refuse(address)
        connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connect_own)
    yield tried
    assert tried == []
