"""The last step of every job: count, check, commit.

It runs inside the pipeline, so that a launcher may leave after submitting, and it is the only step
with an effect that readers can see.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam

from transforms import counts as row_counts
from transforms import manifest, storage
from transforms.counts import Counts
from transforms.errors import DataRefusedError, UnreadableInputError
from transforms.manifest import ColumnEntry, FileEntry, InputFileEntry, InputVersionEntry

SPILL_FOLDER = "spill"
_SHOWN_PROBLEMS = 10


@dataclasses.dataclass(frozen=True)
class Draft:
    """What is known of a version before its data are made. Field by field as in `Manifest`.

    `companion` is a (path, text) that has to exist beside the version with just this text: it is
    created before the first commit, and never changed.
    """

    root: str
    kind: str
    name: str
    version: str
    fingerprint: str
    code_version: str
    config: dict[str, Any]
    columns: tuple[ColumnEntry, ...]
    inputs: tuple[InputFileEntry | InputVersionEntry, ...]
    attempt: str
    started_at: str
    runner: str
    companion: tuple[str, str] | None = None

    @property
    def attempt_root(self) -> str:
        return manifest.attempt_root(self.root, self.version, self.attempt)

    @property
    def spill_root(self) -> str:
        return storage.join(self.attempt_root, SPILL_FOLDER)


Gate = Callable[[Counts, list[FileEntry]], list[str]]


def utc_now() -> str:
    """Wall-clock time for people to read; it never decides data."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def check_file_errors(errors: Iterable[str], file_count: int) -> None:
    """Raises UnreadableInputError with one line a file if there are any."""
    listed = sorted(errors)
    if not listed:
        return
    lines = listed[:_SHOWN_PROBLEMS]
    if len(listed) > len(lines):
        lines.append(f"... and {len(listed) - len(lines)} more")
    raise UnreadableInputError(
        f"{len(listed)} of {file_count} input files cannot be read to the end; "
        "nothing was published:\n" + "\n".join(f"  {line}" for line in lines)
    )


class _CommitFn(beam.DoFn):
    def __init__(self, draft: Draft, gate: Gate, rows_role: str) -> None:
        self._draft = draft
        self._gate = gate
        self._rows_role = rows_role

    def process(
        self,
        _seed: int,
        files: list[str],
        counts: list[str],
        file_errors: list[str],
    ) -> Iterable[str]:
        draft = self._draft
        check_file_errors(file_errors, len(draft.inputs))
        entries = sorted(
            (FileEntry.model_validate_json(text) for text in files), key=lambda entry: entry.path
        )
        total = row_counts.total(json.loads(text) for text in counts)
        problems = self._gate(total, entries)
        if problems:
            raise DataRefusedError("; ".join(problems))
        kept = sum(entry.rows for entry in entries if entry.role == self._rows_role)
        ours = manifest.Manifest(
            kind=draft.kind,
            name=draft.name,
            version=draft.version,
            fingerprint=draft.fingerprint,
            code_version=draft.code_version,
            status="OK" if kept else "EMPTY",
            config=draft.config,
            columns=draft.columns,
            inputs=draft.inputs,
            files=tuple(entries),
            counts=total,
            run=manifest.RunInfo(
                attempt=draft.attempt,
                started_at=draft.started_at,
                finished_at=utc_now(),
                runner=draft.runner,
            ),
        )
        storage.delete_tree(draft.spill_root)
        if draft.companion is not None:
            path, text = draft.companion
            created = storage.create_if_absent(path, text.encode())
            if not created and storage.read_bytes(path).decode() != text:
                raise DataRefusedError(f"{path}: another run made it with other settings meanwhile")
        winner = manifest.commit(draft.root, ours)
        if winner.run.attempt != draft.attempt:
            storage.delete_tree(draft.attempt_root)
        return [winner.version]


@dataclasses.dataclass
class PublishVersion(beam.PTransform):
    """Commits a version from the descriptions of what was written.

    Input: a dict of PCollections of JSON text: `files` (FileEntry), `counts` (Counts), and
    `file_errors` (plain text; any refuses the version). Output: one element, the version's name.

    Attributes:
      draft: what is known beforehand.
      gate: (total counts, files) -> reasons to refuse, empty to publish.
      rows_role: role of the files that hold the version's rows.
    """

    draft: Draft
    gate: Gate
    rows_role: str

    def expand(self, pcolls: dict[str, beam.PCollection[str]]) -> beam.PCollection[str]:
        pipeline = pcolls["files"].pipeline
        return (
            pipeline
            | "StartCommit" >> beam.Create([0])
            | "Commit"
            >> beam.ParDo(
                _CommitFn(self.draft, self.gate, self.rows_role),
                files=beam.pvalue.AsList(pcolls["files"]),
                counts=beam.pvalue.AsList(pcolls["counts"]),
                file_errors=beam.pvalue.AsList(pcolls["file_errors"]),
            ).with_output_types(str)
        )
