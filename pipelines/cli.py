"""What every job's command line shares: options, the runner, and one line for a user's mistake.

Nothing here imports Beam before a job starts or a Beam option has to be checked, so that `--help`
and most mistakes answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import errno
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from transforms.errors import PlayheadError, UsageError, closest

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from transforms.manifest import Manifest
    from transforms.publish import Draft

_LOG_LEVEL = "PLAYHEAD_LOG_LEVEL"
LOCAL_RUNNER = "FnApiRunner"
# DirectRunner would first try to download a Prism binary; on one machine it is the same engine.
_LOCAL_NAMES = {LOCAL_RUNNER, "DirectRunner"}

_STEP_NOTE = re.compile(r" ?\[while running '.*?'\]")
_REMOTE_ERROR = re.compile(r"^transforms\.errors\.(\w+): (.*)", re.MULTILINE | re.DOTALL)

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_REMOTE_DISK = re.compile(rf"^OSError: \[Errno ({'|'.join(map(str, _DISK))})\] ", re.MULTILINE)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UsageErrors and whose options are never abbreviated."""

    def __init__(self, prog: str, description: str, example: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    def option_names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]


def iso_date(text: str) -> datetime.date:
    """argparse type: a day as YYYY-MM-DD."""
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            raise ValueError
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a day as YYYY-MM-DD, got {text!r}") from None


def instant_us(text: str) -> int:
    """argparse type: an instant as YYYY-MM-DDTHH:MM:SSZ, or a day, which stands for its last
    microsecond; UTC microseconds since 1970."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        day = datetime.datetime.combine(iso_date(text), datetime.time.max, datetime.UTC)
        return _microseconds(day)
    try:
        instant = datetime.datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a day as YYYY-MM-DD or an instant as YYYY-MM-DDTHH:MM:SSZ, got {text!r}"
        ) from None
    return _microseconds(instant)


def _microseconds(instant: datetime.datetime) -> int:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (instant - epoch) // datetime.timedelta(microseconds=1)


def share(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text!r}")
    return value


def positive_int(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text!r}")
    return int(text)


def power_of_two(text: str) -> int:
    """argparse type: 1, 2, 4, ..."""
    from transforms.buckets import check_bucket_count

    try:
        return check_bucket_count(positive_int(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(parser: Parser, argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Own options and the rest, which is Beam's; refuses the rest if Beam does not know it either.

    Raises:
      UsageError: naming the wrong option and the one that was probably meant.
    """
    args, rest = parser.parse_known_args(argv)
    if rest:
        quiet_imports()
        from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

        class _Quiet(_BeamArgumentParser):
            def error(self, message: str) -> NoReturn:
                raise UsageError(f"{message} (an option of Beam)")

        beam_parser = _Quiet(allow_abbrev=False, add_help=False)
        for options_class in PipelineOptions.__subclasses__():
            options_class._add_argparse_args(beam_parser)
        beam_args, unknown = beam_parser.parse_known_args(rest)
        _check_runner(beam_args.runner)
        if unknown:
            known = parser.option_names() + list(beam_parser._option_string_actions)
            name = unknown[0].split("=", 1)[0]
            close = closest(name, known)
            hint = f"; did you mean {close}?" if close else ""
            raise UsageError(f"unknown option {name}{hint} (see `{parser.prog} --help`)")
    return args, rest


def _check_runner(name: str | None) -> None:
    from apache_beam.options.pipeline_options import StandardOptions

    known = [runner.rsplit(".", 1)[-1] for runner in StandardOptions.ALL_KNOWN_RUNNERS]
    if name is None or "." in name or name.lower() in (runner.lower() for runner in known):
        return
    close = closest(name, known)
    hint = f"; did you mean {close}?" if close else f"; expected one of {', '.join(known)}"
    raise UsageError(f"--runner: unknown runner {name!r}{hint}")


def quiet_imports() -> None:
    """Sets up logging before Beam does, and keeps its chatter away from a user's terminal.

    Beam logs every exception of a step with its traceback; the command line shows it once, in one
    line if it is the user's. PLAYHEAD_LOG_LEVEL=INFO shows everything.
    """
    logging.basicConfig(
        level=os.environ.get(_LOG_LEVEL, "CRITICAL").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\..*")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")  # of worker processes


def beam_options(rest: list[str]) -> PipelineOptions:
    """Beam options of a job."""
    quiet_imports()
    from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions

    options = PipelineOptions(rest)
    worker = options.view_as(WorkerOptions)
    if is_local(options) and worker.default_sdk_harness_log_level is None:
        worker.default_sdk_harness_log_level = os.environ.get(_LOG_LEVEL, "CRITICAL").upper()
    return options


def runner_name(options: PipelineOptions) -> str:
    """The runner the options ask for; the local one if they do not."""
    from apache_beam.options.pipeline_options import StandardOptions

    name = options.view_as(StandardOptions).runner or LOCAL_RUNNER
    return LOCAL_RUNNER if name in _LOCAL_NAMES else str(name)


def is_local(options: PipelineOptions) -> bool:
    """Whether the job runs on this machine's FnApiRunner."""
    return runner_name(options) == LOCAL_RUNNER


def make_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """A pipeline on the runner the options name.

    The local runner is built by hand because only so its worker processes
    (`--direct_running_mode=multi_processing`) receive the pipeline options.
    """
    import apache_beam as beam

    if not is_local(options):
        return _without_folder(beam.Pipeline(options=options))
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    runner = fn_runner.FnApiRunner(
        provision_info=fn_runner.ExtendedProvisionInfo(
            beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
        )
    )
    return _without_folder(beam.Pipeline(runner=runner, options=options))


def _without_folder(pipeline: beam.Pipeline) -> beam.Pipeline:
    """Every pipeline makes a folder in /tmp for transforms of other languages, of which we have
    none, and forgets it if it is not run to its end."""
    with contextlib.suppress(OSError):
        os.rmdir(pipeline.local_tempdir)
    return pipeline


@contextlib.contextmanager
def attempt(draft: Draft, keep: tuple[str, ...] = ()) -> Iterator[None]:
    """Cleans up after an attempt that fails: what it wrote, except the folders in `keep`.

    What a gate refused stays readable there for whoever has to find out why, and stays whole if the
    attempt left an audit manifest. What is published, or may be, is not touched.
    """
    from transforms import manifest, publish, storage
    from transforms.errors import DataRefusedError, UnsettledError

    try:
        yield
    except BaseException as error:
        known = user_error(error)
        if isinstance(known, UnsettledError) or not publish.abandon(draft):
            raise
        refused = isinstance(known, DataRefusedError)
        if storage.exists(storage.join(draft.attempt_root, manifest.AUDIT_NAME)):
            raise
        if not refused or not storage.list_folder(draft.attempt_root):
            storage.delete_tree(draft.attempt_root)
        else:
            for name in storage.list_folder(draft.attempt_root):
                if name not in keep:
                    storage.delete_tree(storage.join(draft.attempt_root, name))
        version = manifest.version_root(draft.root, draft.version)
        for folder in (draft.attempt_root, version, draft.root):
            storage.delete_if_empty(folder)
        raise


def run_and_publish(
    draft: Draft,
    options: PipelineOptions,
    stages: dict[str, float],
    build_graph: Callable[[beam.Pipeline], None],
    keep: tuple[str, ...] = (),
) -> Manifest | None:
    """Runs a job whose graph commits `draft`, and shows its progress.

    Args:
      draft: of the version.
      options: Beam's.
      stages: stage name to its total, for `console.show_progress`.
      build_graph: adds the steps to a pipeline.
      keep: see `attempt`.

    Returns:
      The published manifest; None if there was nothing to do or the job runs elsewhere (a line on
      standard output says which).
    """
    from pipelines import console
    from transforms import manifest

    where = manifest.version_root(draft.root, draft.version)
    done = manifest.load(draft.root, draft.version)
    if done is not None:
        # Its run may have died before it made it current.
        current = manifest.set_current(draft.root, done, draft.keep_inputs)
        print(f"{where} is already published from this input; nothing to do")
        if current is not None and current.version != done.version:
            print(f"note: the current version is another one, {current.version}")
        return None
    shown = console.show_progress(stages, is_local(options))
    with naming(draft.attempt_root), attempt(draft, keep), shown:
        pipeline = make_pipeline(options)
        build_graph(pipeline)
        result = pipeline.run()
        if not is_local(options):
            print(f"submitted to {draft.runner}; the job publishes {where}")
            return None
        result.wait_until_finish()
    published = manifest.load(draft.root, draft.version)
    if published is not None and published.run.attempt != draft.attempt:
        print(f"{where} was published by another run meanwhile, from the same input")
        return None
    latest = manifest.load_current(draft.root)
    if latest is not None and latest.run.started_at > draft.started_at:
        print(
            f"note: {latest.version} stays the current version; its run began later",
            file=sys.stderr,
        )
    return published


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it came from; runners wrap exceptions in others."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def user_error(error: BaseException) -> PlayheadError | None:
    """The user's error inside whatever a runner made of it; None if it is a bug."""
    for seen in _chain(error):
        if isinstance(seen, PlayheadError):
            return seen
    # Worker processes send their traceback as text.
    found = _REMOTE_ERROR.search(str(error))
    if found:
        from transforms import errors

        kind: Any = getattr(errors, found.group(1), None)
        if isinstance(kind, type) and issubclass(kind, PlayheadError):
            message = found.group(2).split("\n\n", 1)[0]
            if kind is errors.InputFileError:  # its message is made of two parts
                kind = errors.UnreadableInputError
            result: PlayheadError = kind(message)
            return result
    return None


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """An error of a disk within the block names `path` if it names no file itself: writes to an
    open file do not, and of a full disk a user has to know which."""
    try:
        yield
    except BaseException as error:
        for seen in _chain(error):
            if isinstance(seen, OSError) and seen.errno and seen.filename is None:
                seen.filename = path
        remote = _REMOTE_DISK.search(str(error))
        if remote:
            raise OSError(int(remote.group(1)), os.strerror(int(remote.group(1))), path) from error
        raise


def _file_trouble(prog: str, error: OSError) -> int:
    """One line about a path that cannot be used (2), or a disk or object store that is full or
    broken (1)."""
    # Beam's error names each path with what happened to it.
    details: dict[Any, Any] = getattr(error, "exception_details", None) or {}
    if details:
        path, inner = next(iter(details.items()))
        if isinstance(inner, OSError) and inner.errno:
            error = inner
        else:
            error = OSError(errno.EIO, str(inner), str(path))
        error.filename = error.filename or path
    where = f"{error.filename}: " if error.filename else ""
    print(f"{prog}: {where}{error.strerror}; nothing was published", file=sys.stderr)
    return 1 if error.errno in _DISK else 2


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is to leave as little behind as Ctrl-C."""


def _on_sigterm(_signal: int, _frame: object) -> NoReturn:
    raise _Terminated


def _interrupted(prog: str, error: BaseException) -> int:
    is_term = any(isinstance(seen, _Terminated) for seen in _chain(error))
    is_term |= _Terminated.__name__ in str(error)
    what = "terminated" if is_term else "interrupted"
    print(f"{prog}: {what}; nothing was published", file=sys.stderr)
    return 128 + (signal.SIGTERM if is_term else signal.SIGINT)


@contextlib.contextmanager
def _clean_ending() -> Iterator[None]:
    """Lets SIGTERM end the block by an exception; signals belong to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(prog: str, run: Callable[[list[str] | None], int], argv: list[str] | None = None) -> int:
    """Runs a job and turns what it raises into an exit code.

    0 done, 1 a bug (with its traceback), 2 a wrong option or spec, 3 data refused by a gate,
    4 unreadable input, 130 interrupted, 143 terminated.
    """
    try:
        with _clean_ending():
            return run(argv)
    except KeyboardInterrupt as error:
        return _interrupted(prog, error)
    except BrokenPipeError:
        # The reader of our output (head, less) left; that is its right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        known = user_error(error)
        wrapped = ("KeyboardInterrupt", _Terminated.__name__)  # as the local runner has them
        if known is None and any(name in str(error) for name in wrapped):
            return _interrupted(prog, error)
        for seen in _chain(error) if known is None else ():
            if isinstance(seen, OSError) and (seen.errno or hasattr(seen, "exception_details")):
                return _file_trouble(prog, seen)
        if known is None:
            traceback.print_exc()
            print(f"{prog}: this is a bug of Playhead; please report the above", file=sys.stderr)
            return 1
        message = _STEP_NOTE.sub("", str(known)).strip()
        print(f"{prog}: {message}", file=sys.stderr)
        return known.exit_code
