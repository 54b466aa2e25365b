"""The end of a build: what the shards said of their rows becomes statistics, checks, and the pages
that describe the version. It runs once, in the step that commits.

    statistics/<split>.pb   DatasetFeatureStatisticsList of the split (transforms.statistics)
    schema.pbtxt            the TFMD schema that it was checked against (transforms.gates)
    tallies.json            split -> counts that the report is drawn from (transforms.tallies)
    anomalies.json          what the gates found
    report.html             for people (transforms.report)
    README.md, croissant.json   for Hugging Face and for Croissant readers
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from typing import Any

from transforms import (
    card,
    croissant,
    exposure,
    files,
    gates,
    manifest,
    report,
    splits,
    statistics,
    tfdv,
)
from transforms import counts as row_counts
from transforms.building import Summary
from transforms.counts import Counts
from transforms.manifest import FileEntry, Manifest
from transforms.planning import Planned
from transforms.publish import Draft, Finished
from transforms.specs import DatasetSpec
from transforms.splits import SPLITS
from transforms.statistics import SplitStatistics
from transforms.tfdv import Statistics


@dataclasses.dataclass(frozen=True)
class Previous:
    """The version that was current before: what drift is measured against."""

    manifest: Manifest
    tallies: dict[str, Counts]
    statistics: dict[str, Statistics]

    @classmethod
    def of(cls, root: str, draft: Draft) -> Previous | None:
        """None if there is none, or its rows are other things than those of the draft."""
        found = manifest.load_current(root)
        if found is None or found.status == "EMPTY" or _unit(found.config) != _unit(draft.config):
            return None
        read = {}
        for role in ("statistics", "tallies"):
            for entry in found.files_of(role):
                path = manifest.file_path(root, found, entry)
                read[entry.path] = manifest.read_verified(path, entry)
        return cls(
            found,
            json.loads(read["tallies.json"]),
            {
                split: statistics.decode(read[path])
                for split in SPLITS
                for path in [statistics_path(split)]
                if path in read
            },
        )


# Fields of a spec that say what a row stands for: counts and distributions of rows of other units
# are no drift.
_UNITS = {
    "ranking": (),
    "retrieval": ("positive",),
    "sequences": ("length", "stride", "period", "packing", "min_length"),
    "sessions": ("min_plays",),
}


def _unit(config: dict[str, Any]) -> tuple[Any, ...]:
    """What a row of a version stands for. Of what else a spec says, such as surfaces or labels, a
    change is for the gates to see."""
    spec = config["spec"]
    rows = spec["examples"]["rows"] if spec["kind"] == "ranking" else None
    return spec["kind"], rows, *(spec[field] for field in _UNITS[spec["kind"]])


def statistics_path(split: str) -> str:
    """File of a split's statistics."""
    return f"statistics/{split}.pb"


@dataclasses.dataclass(frozen=True)
class FinishDataset:
    """Makes the side files and the manifest of a dataset version, and applies its gates.

    Attributes:
      spec: of the dataset.
      schema: curated TFMD schema as text; empty if there is none.
      serving: statistics of what was served, encoded; empty if there is no serving log.
      quarantine_share: rows quarantined of those read for the store's partitions.
    """

    spec: DatasetSpec
    schema: str
    serving: bytes
    quarantine_share: float

    @classmethod
    def of(cls, planned: Planned, spec_folder: str, serving_log: str | None) -> FinishDataset:
        """Reads the schema that the spec names and the serving log, before any work.

        Raises:
          UsageError: if one of them is not what it should be.
        """
        tfdv.check_installed()
        spec, columns = planned.plan.spec, planned.plan.columns
        serving = b""
        if serving_log is not None:
            serving = statistics.encode(gates.read_serving_log(serving_log, columns))
        return cls(
            spec,
            gates.curated_schema(spec.gates, spec.kind, spec_folder),
            serving,
            planned.quarantine_share,
        )

    def digest(self) -> str:
        """Of what the gates compare with: other schemas and serving logs are another version."""
        return hashlib.sha256(self.schema.encode() + b"\0" + self.serving).hexdigest()

    def __call__(
        self, draft: Draft, counts: Counts, entries: list[FileEntry], summaries: list[bytes]
    ) -> Finished:
        parts = sorted(map(Summary.from_bytes, summaries), key=lambda part: part.shard)
        by_split = {split: [p for p in parts if p.split == split] for split in SPLITS}
        filled = {split: found for split, found in by_split.items() if found}
        tallied = {s: row_counts.total(p.tallies for p in found) for s, found in filled.items()}
        computed = {s: _merge(s, draft, found) for s, found in filled.items()}
        previous = Previous.of(draft.root, draft)

        verdict = gates.judge(
            self.spec.gates,
            self.schema,
            draft.columns,
            _side_of(draft.config, computed),
            None if previous is None else _side_of(previous.manifest.config, previous.statistics),
            statistics.decode(self.serving) if self.serving else None,
            self.quarantine_share,
        )
        findings, drift = verdict.findings, verdict.drift
        findings += splits.check(counts, draft.config["splits"])
        if "exposure" in counts:
            findings += exposure.check(counts["exposure"], self.spec.exposure)
        encoded = {split: statistics.encode(each) for split, each in computed.items()}
        side = _SideFiles(draft)
        for split, data in encoded.items():
            side.write(statistics_path(split), "statistics", data)
        side.write("schema.pbtxt", "schema", gates.schema_text(verdict.schema).encode())
        side.write("tallies.json", "tallies", _json(tallied))
        found_json = {"findings": [each.to_dict() for each in findings], "drift": drift}
        side.write("anomalies.json", "anomalies", _json(found_json))

        errors = [each for each in findings if each.severity == "error"]

        def described_now() -> Manifest:
            rows = sum(counts["splits"].values())
            return draft.manifest([*entries, *side.entries], counts, rows, bool(errors))

        described = described_now()
        shown = report.ReportInput(
            manifest=described,
            tallies=tallied,
            statistics=encoded,
            previous=None if previous is None else (previous.manifest, previous.tallies),
            findings=findings,
            drift=drift,
        )
        side.write("report.html", "report", report.render(shown).encode())
        side.write("README.md", "card", card.render_card(described).encode())
        side.write("croissant.json", "croissant", croissant.render_croissant(described).encode())
        return Finished(described_now(), errors)


def _side_of(config: dict[str, Any], found: dict[str, Statistics]) -> gates.Side:
    """A version with this config and these statistics."""
    first, last = (datetime.date.fromisoformat(config[f"{end}_date"]) for end in ("start", "end"))
    return gates.Side(found, (last - first).days + 1, config["left_context_missing_days"] > 0)


def _merge(split: str, draft: Draft, parts: list[Summary]) -> Statistics:
    merged = SplitStatistics(draft.columns)
    for part in parts:
        merged.merge(SplitStatistics.from_bytes(part.statistics))
    return merged.extract(split)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


@dataclasses.dataclass
class _SideFiles:
    """Writes files of the version that are no tables, and lists them."""

    draft: Draft
    entries: list[FileEntry] = dataclasses.field(default_factory=list)

    def write(self, path: str, role: str, data: bytes) -> None:
        self.entries.append(files.write_bytes(data, self.draft.attempt_root, path, role))
