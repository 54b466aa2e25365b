"""The last step of every job: count, check, commit.

It runs inside the pipeline, so that a launcher may leave after submitting, and it is the only step
with an effect that readers can see.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal, NoReturn

import apache_beam as beam

from transforms import counts as row_counts
from transforms import findings, manifest, storage, store, tombstones
from transforms.counts import Counts
from transforms.errors import DataRefusedError, UnreadableInputError, UsageError
from transforms.findings import Finding
from transforms.manifest import (
    ColumnEntry,
    FileEntry,
    InputFileEntry,
    InputVersionEntry,
    Manifest,
)
from transforms.tables import typed

_SHOWN_PROBLEMS = 10


@dataclasses.dataclass(frozen=True)
class Draft:
    """What is known of a version before its data are made. Field by field as in `Manifest`.

    `companion` is a (path, text) that has to exist beside the version with just this text: it is
    created before the first commit, and never changed. `requests` is the store that is read or
    written, and its `tombstones.names` when the work was planned. `keep_inputs` refuses to put the
    version in place of one that was made of files which are not among `inputs`.
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
    key: tuple[str, ...] = ("user_id", "event_id")
    companion: tuple[str, str] | None = None
    requests: tuple[str, tuple[str, ...]] | None = None
    keep_inputs: bool = False

    @property
    def attempt_root(self) -> str:
        return manifest.attempt_root(self.root, self.version, self.attempt)

    @property
    def spill_root(self) -> str:
        return storage.join(self.attempt_root, manifest.SPILL_FOLDER)

    def manifest(
        self, files: Iterable[FileEntry], counts: Counts, rows: int, is_refused: bool = False
    ) -> Manifest:
        """The manifest of what was made, of which a gate may have refused to publish it."""
        status: Literal["OK", "EMPTY", "REFUSED"] = "OK" if rows else "EMPTY"
        return Manifest(
            kind=self.kind,
            name=self.name,
            version=self.version,
            fingerprint=self.fingerprint,
            code_version=self.code_version,
            status="REFUSED" if is_refused else status,
            config=self.config,
            columns=self.columns,
            key=self.key,
            inputs=self.inputs,
            files=tuple(sorted(files, key=lambda entry: entry.path)),
            counts=counts,
            run=manifest.RunInfo(
                attempt=self.attempt,
                started_at=self.started_at,
                finished_at=utc_now(),
                runner=self.runner,
            ),
        )


def check_place(root: str, kind: str, name: str, option: str) -> None:
    """Refuses to publish into a folder that belongs to something else, before any work.

    Args:
      root: where versions are to lie.
      kind, name: of the version to be.
      option: that named the folder, for the message.

    Raises:
      UsageError: if the folder is an event store or a version, or if versions of another kind or
        name lie in it, whose readers would then get this.
    """
    if storage.exists(storage.join(root, manifest.MANIFEST_NAME)):
        raise UsageError(f"{option}: {root} is a version; expected a folder of versions, or none")
    if storage.exists(storage.join(root, store.STORE_FILE)):
        raise UsageError(f"{option}: {root} is an event store; expected a folder of its own")
    held = manifest.load_current(root)
    for version in manifest.versions(root) if held is None else ():
        held = held or manifest.load(root, version)
    if held is not None and (held.kind, held.name) != (kind, name):
        raise UsageError(
            f"{option}: {root} holds versions of {_called(held.kind, held.name)}, got "
            f"{_called(kind, name)}; expected a folder of its own"
        )


def _called(kind: str, name: str) -> str:
    words = {"events": "the event store's", "dataset": "the dataset"}
    return f"{words[kind]} {name}" if kind in words else kind.replace("_", " ")


Gate = Callable[[Counts, list[FileEntry]], list[str]]


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a job made of the whole version at its end.

    Attributes:
      manifest: of the version, side files included.
      refused_for: what the gates found that refuses it, and its manifest says REFUSED; the attempt
        is then kept for whoever has to find out why.
    """

    manifest: Manifest
    refused_for: list[Finding]


# (draft, total counts, files, what shards said) -> the manifest, and what speaks against it.
Finish = Callable[[Draft, Counts, list[FileEntry], list[bytes]], Finished]


def utc_now() -> str:
    """Wall-clock time for people to read; it never decides data."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def begin(root: str) -> str:
    """`started_at` of a run: now, or just after that of the current version where the clock of its
    host was ahead. Runs one after the other are in this order whatever clocks say, and it decides
    which version stays current.

    Raises:
      UsageError: if nothing can be published under `root`, before any work.
    """
    storage.check_can_publish(root)
    now = utc_now()
    current = manifest.load_current(root)
    if current is None or current.run.started_at < now:
        return now
    started = datetime.datetime.fromisoformat(current.run.started_at)
    return (started + datetime.timedelta(microseconds=1)).isoformat(timespec="microseconds")


def check_inputs_kept(draft: Draft) -> None:
    """Refuses a version that would take the place of one made of other files, if it must not.

    Raises:
      DataRefusedError: naming a file that is not among the draft's.
    """
    current = manifest.load_current(draft.root) if draft.keep_inputs else None
    lacking = [] if current is None else manifest.lacking_inputs(current, draft.inputs)
    if current is not None and lacking:
        raise DataRefusedError(
            f"{draft.root} was made of {len(current.inputs)} files, and {len(lacking)} of them are "
            f"not among the input ({lacking[0]}); a day is one complete set of files: give all of "
            "them, another --date, or --replace"
        )


_committing = threading.Lock()
_abandoned: set[str] = set()


def abandon(draft: Draft) -> bool:
    """Gives an attempt of this process up: a commit that is going on is waited for, and none comes
    later. True if it was not published, so that its files may be deleted."""
    with _committing:
        _abandoned.add(draft.attempt)
    done = manifest.load(draft.root, draft.version)
    return done is None or done.run.attempt != draft.attempt


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
    def __init__(self, draft: Draft, gate: Gate, finish: Finish) -> None:
        self._draft = draft
        self._gate = gate
        self._finish = finish

    def process(
        self,
        _seed: int,
        files: list[str],
        counts: list[str],
        file_errors: list[str],
        summaries: list[bytes],
    ) -> Iterable[str]:
        draft = self._draft
        done = manifest.load(draft.root, draft.version)
        if done is not None and done.run.attempt == draft.attempt:
            # This step committed and was then run again: its files are not to be touched.
            manifest.set_current(draft.root, done, draft.keep_inputs)
            return [done.version]
        check_file_errors(file_errors, len(draft.inputs))
        entries = sorted(
            (FileEntry.model_validate_json(text) for text in files), key=lambda entry: entry.path
        )
        total = row_counts.total(json.loads(text) for text in counts)
        problems = self._gate(total, entries)
        if problems:
            raise DataRefusedError("; ".join(problems))
        finished = self._finish(draft, total, entries, summaries)
        ours = finished.manifest
        storage.delete_tree(draft.spill_root)
        if finished.refused_for:
            _keep_for_audit(draft, ours, finished.refused_for)
        if draft.companion is not None:
            path, text = draft.companion
            created = storage.create_if_absent(path, text.encode())
            if not created and storage.read_bytes(path).decode() != text:
                raise DataRefusedError(f"{path}: another run made it with other settings meanwhile")
        if draft.requests is not None:
            tombstones.check_unchanged(*draft.requests)
        check_inputs_kept(draft)
        _settle_files(draft, ours)
        with _committing:
            if draft.attempt in _abandoned:
                raise InterruptedError("this attempt was given up")
            winner = manifest.commit(draft.root, ours, draft.keep_inputs)
        if winner.run.attempt != draft.attempt:
            storage.delete_tree(draft.attempt_root)
        check_inputs_kept(draft)  # another run may have become current since
        return [winner.version]


def _settle_files(draft: Draft, ours: Manifest) -> None:
    """Sees to it that the files are all there, and on the disk before the manifest is.

    Raises:
      DataRefusedError: if somebody removed or cut one since it was written.
    """
    there = {listed.path: listed.bytes for listed in storage.list_tree(draft.attempt_root)}
    entries = {manifest.file_path(draft.root, ours, entry): entry for entry in ours.files}
    own = {path: e for path, e in entries.items() if path.startswith(draft.attempt_root + "/")}
    for path, entry in own.items():
        if there.get(path) != entry.bytes:
            raise DataRefusedError(
                f"{path}: was removed or changed while this run was at work (expected "
                f"{entry.bytes} bytes, got {there.get(path, 'nothing')}); nothing was published"
            )
    storage.sync_below(draft.root, list(own))


def _keep_for_audit(draft: Draft, refused: Manifest, errors: list[Finding]) -> NoReturn:
    """Leaves what a manifest would have said beside the files, and refuses the version."""
    with storage.writing(storage.join(draft.attempt_root, manifest.AUDIT_NAME)) as stream:
        stream.write(refused.to_json())
    listed = "\n".join(f"  {line}" for line in findings.describe(errors))
    raise DataRefusedError(
        f"{findings.counted(errors)}; nothing was published:\n{listed}\n"
        f"what was made can be read at {draft.attempt_root}"
    )


@dataclasses.dataclass(frozen=True)
class FinishRows:
    """A version that is its files; `role` is that of those that hold its rows."""

    role: str

    def __call__(
        self, draft: Draft, counts: Counts, files: list[FileEntry], _summaries: list[bytes]
    ) -> Finished:
        rows = sum(entry.rows for entry in files if entry.role == self.role)
        return Finished(draft.manifest(files, counts, rows), [])


@dataclasses.dataclass
class PublishVersion(beam.PTransform):
    """Commits a version from the descriptions of what was written.

    Input: a dict of PCollections: `files` (FileEntry as JSON text), `counts` (Counts as JSON text),
    `file_errors` (text; any refuses the version), and `summaries` (bytes, for `finish`). Those of
    the last two that are not there are empty. Output: one element, the version's name.

    Attributes:
      draft: what is known beforehand.
      gate: (total counts, files) -> reasons to refuse, empty to publish.
      finish: makes the manifest, and side files of the whole version.
    """

    draft: Draft
    gate: Gate
    finish: Finish

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> beam.PCollection[str]:
        pipeline = pcolls["files"].pipeline
        kinds = {"files": str, "counts": str, "file_errors": str, "summaries": bytes}
        for name, kind in kinds.items():
            given = [pcolls[name]] if name in pcolls else []
            # Not as it is: of a step with several outputs the bundle runner makes one side input.
            gathered = given | f"Gather_{name}" >> beam.Flatten(pipeline=pipeline)
            pcolls = {**pcolls, name: typed(gathered, kind)}
        return (
            pipeline
            | "StartCommit" >> beam.Create([0])
            | "Commit"
            >> beam.ParDo(
                _CommitFn(self.draft, self.gate, self.finish),
                **{name: beam.pvalue.AsList(pcolls[name]) for name in kinds},
            ).with_output_types(str)
        )
