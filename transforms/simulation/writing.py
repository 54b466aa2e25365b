"""Writing a simulated log: the share of one file number, in bounded memory.

Layout under the output folder:

    raw/<format>/received=YYYY-MM-DD/part-00000-of-00004.<ext>    by UTC day of received_time
    catalog.parquet                                                schemas.CATALOG
    truth/users-00000-of-00004.parquet                             listening.USERS_SCHEMA
    truth/<table>-00000-of-00004.parquet                           listening.TRUTH_SCHEMAS
    truth/files-00000-of-00004.parquet                             FILES_SCHEMA: what is where
    truth/broken-00000-of-00004.parquet                            BROKEN_SCHEMA
    truth/policy.parquet                                           world.policy_table, all days
    truth/tracks.parquet                                           world.tracks_table
    truth/summary.json                                             configuration and counts

Blocks of users with number b lie in the files of number b % files, so the union of all files is the
same set of records for any number of files, and the bytes of each file depend on the configuration
and the number of files alone. File numbers without a block have no files.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
from typing import Any

import numpy as np
import polars as pl

from transforms import progress, storage
from transforms.simulation import breakage, formats, listening
from transforms.simulation.world import STREAM_BREAKAGE, SimulationConfig, World

STAGE = "simulate"  # progress; its total is blocks x local days

FILES_SCHEMA: dict[str, pl.DataType] = {
    "path": pl.String(), "received_date": pl.Date(), "good": pl.Int64(), "broken": pl.Int64(),
}  # fmt: skip
BROKEN_SCHEMA: dict[str, pl.DataType] = {
    "received_date": pl.Date(), "kind": pl.String(), "outcome": pl.String(),
    "reason": pl.String(), "records": pl.Int64(),
}  # fmt: skip

# Rows that a partition collects before they become a row group; late events come in few at a time.
_ROW_GROUP_ROWS = 24_576
_ONE_DAY = datetime.timedelta(days=1)
_DAY_US = 86_400_000_000


@dataclasses.dataclass(frozen=True)
class Target:
    """What to write, and where.

    Attributes:
      config: the simulation.
      output: folder, local or of any file system Beam knows.
      format: a name of `formats.FORMATS`.
      compression: a name of `formats.COMPRESSIONS`; text formats only.
      files: files a received day is spread over.
      full_truth: write the truth table of impressions, the largest by far, too.
    """

    config: SimulationConfig
    output: str
    format: str
    compression: str
    files: int
    full_truth: bool

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self) | {"config": self.config.model_dump_json()})

    @staticmethod
    def from_json(text: str) -> Target:
        fields = json.loads(text)
        fields["config"] = SimulationConfig.model_validate_json(fields["config"])
        return Target(**fields)

    def part(self, file: int) -> str:
        return f"{file:05d}-of-{self.files:05d}"

    def truth_path(self, table: str, file: int) -> str:
        return storage.join(self.output, "truth", f"{table}-{self.part(file)}.parquet")


@functools.lru_cache(maxsize=1)
def _world(config_json: str) -> World:
    """One world a worker process, however many files it writes."""
    return World(SimulationConfig.model_validate_json(config_json))


def write_world(target: Target) -> None:
    """Writes catalog.parquet, truth/policy.parquet and truth/tracks.parquet."""
    world = _world(target.config.model_dump_json())
    catalog = _open_table(storage.join(target.output, "catalog.parquet"))
    catalog.write(world.catalog())
    catalog.close()
    policy = _open_table(storage.join(target.output, "truth", "policy.parquet"))
    for day in range(target.config.days):
        policy.write(world.policy_table(day))
    policy.close()
    tracks = _open_table(storage.join(target.output, "truth", "tracks.parquet"))
    tracks.write(world.tracks_table())
    tracks.close()


def write_file(target: Target, file: int) -> dict[str, int]:
    """Writes all raw and truth files of one file number.

    Returns:
      Counts: those of `listening.Simulated`, and `records.good`, `records.broken`,
      `broken.<kind>`, `files`, as written in this format.
    """
    blocks = range(file, target.config.blocks, target.files)
    return _FileNumber(target, file).write(blocks) if blocks else {}


def _open_table(path: str) -> formats.ParquetFile:
    return formats.ParquetFile(storage.create_writer(path))


class _FileNumber:
    """The files of one number, open while their days can still get records."""

    def __init__(self, target: Target, file: int) -> None:
        self.target, self.file = target, file
        self.world = _world(target.config.model_dump_json())
        self.format = formats.FORMATS[target.format]
        self.partitions: dict[int, _Partition] = {}
        self.files: list[dict[str, Any]] = []
        self.broken: dict[tuple[int, str], list[Any]] = {}

    def write(self, blocks: range) -> dict[str, int]:
        target, world = self.target, self.world
        tables = {
            name: _TruthTable(target.truth_path(name, self.file), schema)
            for name, schema in listening.TRUTH_SCHEMAS.items()
            if name != "impressions" or target.full_truth
        }
        users = _TruthTable(target.truth_path("users", self.file), listening.USERS_SCHEMA)
        total: dict[str, int] = {}
        for block in blocks:
            users.write(listening.users_table(world, block))
        users.close()
        # Days outside, so that at any time only few received days are open.
        for day in listening.local_days(world):
            for block in blocks:
                part = listening.simulate_day(world, block, day)
                for name, table in tables.items():
                    table.write(part.truth[name])
                self._write_records(part.events, block, day)
                total = listening.add_counts([total, part.counts])
                progress.advance(STAGE, part.events.height, 1.0)
            # What local day `day` + 1 holds happens, and arrives, on UTC day `day` or later.
            for received in [each for each in self.partitions if each < day]:
                self._close(received)
        for received in sorted(self.partitions):
            self._close(received)
        for table in tables.values():
            table.close()
        self._write_lists()
        total["files"] = len(self.files)
        total["records.good"] = sum(each["good"] for each in self.files)
        total["records.broken"] = sum(each["broken"] for each in self.files)
        for (_, kind), (_, _, records) in self.broken.items():
            total[f"broken.{kind}"] = total.get(f"broken.{kind}", 0) + records
        return dict(sorted(total.items()))

    def _write_records(self, events: pl.DataFrame, block: int, day: int) -> None:
        if not events.height:
            return
        config = self.target.config
        raw = self.format.to_raw(events)
        for received, rows in _by_day(raw, config.start_us):
            self._partition(received).write(rows)
        rng = self.world.rng(STREAM_BREAKAGE, day, block)
        tag = f"broken-{block:x}-{day + 1:x}-"
        for broken in breakage.broken_records(self.format, raw, config.broken_share, rng, tag):
            self._write_broken(broken)

    def _write_broken(self, broken: breakage.Broken) -> None:
        kind, table = broken.kind, broken.table.with_row_index("_row")
        for received, rows in _by_day(table, self.target.config.start_us):
            partition = self._partition(received)
            if broken.records is None:
                partition.write(rows.drop("_row"), broken=True)
            else:
                partition.write_records([broken.records[row] for row in rows["_row"]])
            entry = self.broken.setdefault((received, kind.name), [kind.outcome, kind.reason, 0])
            entry[2] += rows.height

    def _partition(self, received: int) -> _Partition:
        if received not in self.partitions:
            target = self.target
            compression = formats.COMPRESSIONS[target.compression]
            path = (
                f"raw/{target.format}/received={_date(target, received)}/"
                f"part-{target.part(self.file)}{self.format.extension}{compression}"
            )
            self.partitions[received] = _Partition(target, self.format, path, received)
        return self.partitions[received]

    def _close(self, received: int) -> None:
        self.files.append(self.partitions.pop(received).close())

    def _write_lists(self) -> None:
        files = _TruthTable(self.target.truth_path("files", self.file), FILES_SCHEMA)
        files.write(pl.DataFrame(self.files, schema=FILES_SCHEMA))
        files.close()
        rows = [
            (_date(self.target, received), kind, *entry)
            for (received, kind), entry in sorted(self.broken.items())
        ]
        broken = _TruthTable(self.target.truth_path("broken", self.file), BROKEN_SCHEMA)
        broken.write(
            pl.DataFrame(rows, schema=list(BROKEN_SCHEMA), orient="row").cast(
                pl.Schema(BROKEN_SCHEMA)
            )
        )
        broken.close()


class _Partition:
    """One raw file: good rows are collected to row groups, broken records follow them."""

    def __init__(
        self, target: Target, raw_format: formats.Format, path: str, received: int
    ) -> None:
        stream = storage.create_writer(storage.join(target.output, path))
        self._file = raw_format.open(formats.compressed(stream, target.compression))
        self._held: list[pl.DataFrame] = []
        self._entry: dict[str, Any] = {
            "path": path, "received_date": _date(target, received), "good": 0, "broken": 0,
        }  # fmt: skip

    def write(self, rows: pl.DataFrame, broken: bool = False) -> None:
        self._entry["broken" if broken else "good"] += rows.height
        self._held.append(rows)
        if sum(table.height for table in self._held) >= _ROW_GROUP_ROWS:
            self._flush()

    def write_records(self, records: list[bytes]) -> None:
        self._entry["broken"] += len(records)
        self._file.write_records(records)

    def _flush(self) -> None:
        if self._held:
            self._file.write(pl.concat(self._held))
            self._held = []

    def close(self) -> dict[str, Any]:
        self._flush()
        self._file.close()
        return self._entry


class _TruthTable:
    """A truth file, written in row groups; it exists with its types even without rows."""

    def __init__(self, path: str, schema: dict[str, pl.DataType]) -> None:
        self._file = _open_table(path)
        self._held = [pl.DataFrame(schema=schema)]

    def write(self, rows: pl.DataFrame) -> None:
        self._held.append(rows)
        if sum(table.height for table in self._held) >= 4 * _ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._file.write(pl.concat(self._held))
        self._held = [self._held[0].clear()]

    def close(self) -> None:
        self._flush()
        self._file.close()


def _date(target: Target, received: int) -> datetime.date:
    return target.config.start_date + _ONE_DAY * received


def _by_day(raw: pl.DataFrame, start_us: int) -> list[tuple[int, pl.DataFrame]]:
    """(received day after the start, its rows); rows of a day are a run in every raw table."""
    day = ((raw[formats.RECEIVED].to_physical() - start_us) // _DAY_US).to_numpy()
    starts = np.flatnonzero(np.diff(day, prepend=day[0] - 1))
    ends = np.append(starts[1:], len(day))
    return [
        (int(day[start]), _compact(raw.slice(start, end - start), raw.height))
        for start, end in zip(starts, ends, strict=True)
    ]


def _compact(rows: pl.DataFrame, of: int) -> pl.DataFrame:
    """Copies a small slice, which would keep the whole table's memory while it waits."""
    if rows.height * 2 > of:
        return rows
    copied = pl.from_arrow(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
    assert isinstance(copied, pl.DataFrame)
    return copied
