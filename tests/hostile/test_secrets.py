"""Neither the pseudonym key nor what is personal in a raw log is found in anything that is written.

Canaries stand in every place of the raw logs where something personal can: user ids, names,
addresses, in well-formed rows, broken rows and unknown fields. Then every file, every line of log
at level DEBUG, every message, and the graph that is sent to workers is searched for them: as text,
hex, base64, percent-encoded and UTF-16, and compressed files by what they hold.
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import pathlib
import pickle
import urllib.parse

import apache_beam as beam
import polars as pl
import pyarrow.parquet as pq
import pytest
import zstandard
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import cli, ingest
from tests import jobs
from transforms import pseudonyms, tfrecord

KEY = "canary/KEY+with=signs/0123456789abcdef-secret"
USERS = [f"canary.user{at}@listeners.example" for at in range(5)]
OTHERS = ["canary.mail@person.example", "203.0.113.77", "Ms Canary Name", "canary-device-4711"]
SECRETS = (KEY, *USERS, *OTHERS)


def forms(secret: str) -> set[bytes]:
    """The secret as it may be written."""
    raw = secret.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode()}
    found |= {secret.encode("utf-16-le"), secret.encode("utf-16-be")}
    found.add(urllib.parse.quote(secret, safe="").encode())
    found |= {json.dumps(secret)[1:-1].encode(), repr(raw)[2:-1].encode()}
    for shift in range(3):  # base64 of something that has it inside, whatever stands before it
        encoded = base64.b64encode(bytes(shift) + raw)[(0, 2, 3)[shift] : -4]
        found |= {encoded, encoded.replace(b"+", b"-").replace(b"/", b"_")}
    return found


NEEDLES = {form: secret for secret in SECRETS for form in forms(secret)}


def found_in(data: bytes) -> set[str]:
    return {secret for form, secret in NEEDLES.items() if form in data}


def contents(path: pathlib.Path) -> bytes:
    """A file's bytes, and what it holds if it is compressed."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        data += str(table.schema).encode() + str(table.schema.metadata).encode()
        data += "\n".join(map(str, pl.DataFrame(table).rows())).encode()
    elif data.startswith(b"\x1f\x8b"):
        plain = gzip.decompress(data)
        data += plain
        if ".tfrecord" in path.name:
            data += b"".join(tfrecord.read_records(plain))
    elif data.startswith(b"\x28\xb5\x2f\xfd"):
        data += zstandard.ZstdDecompressor().stream_reader(data).read()
    return data


def leaks(*roots: pathlib.Path) -> dict[str, set[str]]:
    found = {}
    for root in roots:
        for path in root.rglob("*"):
            said = found_in(str(path).encode())
            said |= found_in(contents(path)) if path.is_file() else set()
            if said:
                found[str(path)] = said
    return found


@pytest.mark.parametrize("secret", SECRETS)
def test_the_search_finds_what_is_there(secret: str, tmp_path: pathlib.Path) -> None:
    """A search that finds nothing anywhere would pass every test below."""
    pl.DataFrame({"a": [f"x {secret} y"] * 3}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"123" + secret.encode()))
    (tmp_path / "c.zst").write_bytes(zstandard.compress(secret.encode("utf-16")))
    for shift in range(3):
        encoded = base64.b64encode(b"z" * shift + secret.encode() + b"tail")
        (tmp_path / f"d{shift}").write_bytes(encoded)
    (tmp_path / "e").write_text(urllib.parse.quote(secret, safe=""))
    (tmp_path / "f").write_text(secret.encode().hex())
    (tmp_path / "g").write_bytes(pickle.dumps({"x": secret}))
    assert len(leaks(tmp_path)) == 9
    assert all(secret in each for each in leaks(tmp_path).values())


def raw_log(folder: pathlib.Path) -> pathlib.Path:
    """JSON lines with canaries in good rows, in broken rows, and in unknown keys."""
    lines = []
    for number, event in enumerate(jobs.plays(400, users=len(USERS))):
        event |= {"user_id": USERS[number % len(USERS)], "email": OTHERS[0], "ip_addr": OTHERS[1]}
        event |= {"profile": {"name": OTHERS[2], "device": [OTHERS[3]]}}
        lines.append(json.dumps(event, default=str))
    broken = [
        {"user_id": {"name": OTHERS[2]}}, {"user_id": [USERS[0]]}, {"played_ms": OTHERS[0]},
        {"event_time": OTHERS[0]}, {"event_time": USERS[1]}, {"time_quality": OTHERS[2]},
        {"event_type": OTHERS[3]}, {"played_ms": -5}, {"user_id": OTHERS[0] * 90},
    ]  # fmt: skip
    lines += [json.dumps(jobs.event(user_id=USERS[2]) | each, default=str) for each in broken]
    lines += [f'{{"user_id": "{USERS[0]}", cut', f"{OTHERS[0]},{OTHERS[1]}"]
    folder.mkdir()
    (folder / "log.jsonl").write_text("\n".join(lines))
    return folder / "log.jsonl"


def test_no_canary_is_written_logged_or_sent(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raw, store, output = raw_log(tmp_path / "raw"), tmp_path / "store", tmp_path / "dataset"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("PLAYHEAD_CANARY_KEY", KEY)
    monkeypatch.setenv("PLAYHEAD_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("TMPDIR", str(scratch))
    caplog.set_level(logging.DEBUG)
    key_file = tmp_path / "secret" / "key"
    key_file.parent.mkdir()
    key_file.write_text(KEY)
    options = ["--user-key", "env:PLAYHEAD_CANARY_KEY", "--max-quarantine", 0.5, "--buckets", 2]
    argv = jobs.ingest_argv(raw, store, *options, format="jsonl")
    ended = [jobs.ok(*argv)]
    assert sum(jobs.partition(store).counts["quarantined"].values()) == 10
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "kind: ranking\nlabels: {lateness_days: 0}\ngates: {quarantine_share: 0.5}\n"
        "output: {shards: 1, formats: [parquet, tfrecord], tfrecord_gzip: true}\n"
    )
    ended.append(jobs.ok(*jobs.build_argv(store, spec, jobs.DAY, jobs.DAY, output)))
    again = jobs.build_argv(store, spec, jobs.DAY, jobs.DAY, tmp_path / "again")
    ended += [jobs.ok(*again), jobs.ok("diff", output, tmp_path / "again")]
    ended += [jobs.ok("inspect", output, "--rows", 50), jobs.ok("inspect", store)]
    ended += [jobs.ok("signals"), jobs.ok("schema", output, "--output", tmp_path / "s.pbtxt")]
    # What goes wrong: too much quarantined, a damaged file, a key of the wrong form, another key.
    refused = tmp_path / "refused"
    argv = jobs.ingest_argv(raw, refused, *options[:2], format="jsonl")
    ended.append(jobs.call(*argv))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(raw.read_bytes())[:-9])
    ended.append(jobs.call(*jobs.ingest_argv(cut, refused, *options, format="jsonl")))
    for reference in (KEY, f"env:{KEY}", f"key:{KEY}", f"file:{KEY}"):
        argv = jobs.ingest_argv(raw, refused, "--user-key", reference, format="jsonl")
        ended.append(jobs.call(*argv))
    codes = [each.code for each in ended[-6:]]
    assert codes == [3, 4, 2, 2, 2, 2]
    argv = jobs.ingest_argv(raw, refused, "--user-key", f"file:{key_file}", format="jsonl")
    ended.append(jobs.call(*argv))
    assert ended[-1].code == 3
    assert not any("Traceback" in each.err for each in ended)
    said = "".join(each.out + each.err for each in ended) + caplog.text
    assert found_in(said.encode()) == set()
    wrote = [
        path for path in (store, output, tmp_path / "again", refused, scratch) if path.exists()
    ]
    assert leaks(*wrote, tmp_path / "s.pbtxt") == {}
    users = set(jobs.stored(store)["user_id"])
    known = [*USERS, OTHERS[0] * 90]  # a pseudonym is short, however long the id was
    assert users == {pseudonyms.pseudonym(KEY.encode(), user) for user in known}


def test_no_canary_is_in_the_graph_the_options_or_the_display_data(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYHEAD_CANARY_KEY", KEY)
    raw = raw_log(tmp_path / "raw")
    argv = jobs.ingest_argv(raw, tmp_path / "store", "--user-key", "env:PLAYHEAD_CANARY_KEY",
                            format="jsonl")[1:]  # fmt: skip
    draft, plan = ingest.plan(ingest.build_parser().parse_args(map(str, argv)), cli.LOCAL_RUNNER)
    options = PipelineOptions([])
    pipeline = beam.Pipeline(options=options, runner="FnApiRunner")
    ingest.build_graph(pipeline, draft, plan, "value")
    proto = pipeline.to_runner_api()
    assert proto.components.transforms
    said = [
        proto.SerializeToString(),
        str(proto).encode(),
        json.dumps(options.get_all_options(), default=str).encode(),
        str(options.display_data()).encode(),
        repr((draft, plan)).encode(),
        pickle.dumps(plan),
        json.dumps([str(each) for each in argv]).encode(),
    ]
    assert [found_in(each) for each in said] == [set()] * len(said)


def test_a_dictionary_of_all_ids_does_not_find_them_without_the_key() -> None:
    """S16: neither a plain hash nor one under another key of a known id is a pseudonym."""
    ours = {pseudonyms.pseudonym(KEY.encode(), user) for user in USERS}
    guessed = {pseudonyms.pseudonym(bytes(32), user) for user in USERS}
    assert not ours & guessed
