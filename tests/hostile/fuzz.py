"""Coverage-guided fuzzing of what reads files of others, with atheris (requirements/soak.in).

    python -m tests.hostile.fuzz jsonl -max_total_time=60 [options of libFuzzer] [folder of seeds]

The first argument is a format of `corpus.GOOD`, `spec` or `manifest`; `--list` names them. An
exception that is not ours, more than 2 GiB, or 60 s for one input end the run; the input lies in
`crash-...` then.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["transforms", "fastavro", "yaml"]):
    from tests.hostile import corpus, test_fuzz
    from transforms import manifest
    from transforms.adapters.mapping import parse_mapping
    from transforms.config import parse_yaml
    from transforms.errors import PlayheadError
    from transforms.specs import RankingSpec


def _spec(data: bytes) -> None:
    text = data.decode(errors="replace")
    for read in (lambda: parse_yaml(text, RankingSpec, "x"), lambda: parse_mapping(text, "x")):
        with contextlib.suppress(PlayheadError):
            read()


def _manifest(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        for name in ("CURRENT.json", "v/manifest.json"):
            path = pathlib.Path(root, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        for read in (lambda: manifest.load_current(root), lambda: manifest.load(root, "v")):
            with contextlib.suppress(PlayheadError):
                read()


_OWN = {"spec": _spec, "manifest": _manifest}


def main() -> None:
    kind = sys.argv.pop(1)
    if kind == "--list":
        print(*corpus.GOOD, *_OWN)
        return
    read = _OWN.get(kind)
    folder = pathlib.Path(tempfile.mkdtemp())
    if read is None:
        name, _ = corpus.GOOD[kind]
        seeds = [data for _, data in test_fuzz.seeds()[kind]]

        def read(data: bytes) -> None:
            test_fuzz.read(kind, name, data)

    elif kind == "spec":
        seeds = [*test_fuzz.TEXTS, *test_fuzz.SPECS]
    else:
        from tests import small_version

        seeds = [small_version.manifest().to_json()]
    for number, seed in enumerate(seeds):
        (folder / f"{number:05d}").write_bytes(seed)
    limits = ["-rss_limit_mb=2048", "-timeout=60"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(folder)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
