"""tools/second_implementation.mjs, which was made from the pages in another language, agrees with hangarlog."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from conftest import ROOT, tool
from store_by_the_page import Store
from test_reading_while_others_write import WRITER
from test_vectors import VECTORS, content, made
from test_verdicts import KINDS, damage, verdict
from test_verdicts import made as filled

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.cli.app import hangarlog
from hangarlog.filestore.erasing import Erasing
from hangarlog.maintenance.verify import verify_folder

SCRIPT = ROOT / "tools/second_implementation.mjs"
DRIVER = """
import { readFileSync, writeSync } from 'node:fs';
const script = await import(process.argv[1]);
for (const call of JSON.parse(readFileSync(0))) {
  const [out, err] = [[], []];
  const to = (lines) => (line) => lines.push(Buffer.from(line).toString('latin1'));
  const answer = `${JSON.stringify([script.run(call, to(out), to(err)), out, err])}\\n`;
  for (let rest = Buffer.from(answer); rest.length;) rest = rest.subarray(writeSync(1, rest));
}
"""
"""Runs many commands in one process of Node."""


class Answer(NamedTuple):
    code: int
    out: list[bytes]
    err: list[bytes]


@cache
def node_js() -> str:
    """The path of a Node that has `crc32`."""
    path = tool("node")
    if subprocess.run(
        [path, "-e", "require('zlib').crc32('') === 0 || fail"], check=False, capture_output=True
    ).returncode:
        pytest.skip("Node is older than 20.15")
    return path


def node(calls: Iterable[tuple[str, ...]]) -> list[Answer]:
    """What `second_implementation.mjs` answers to each of the commands."""
    done = subprocess.run(
        [node_js(), "--input-type=module", "-e", DRIVER, SCRIPT.as_uri()],
        input=json.dumps([*calls]).encode(),
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert not done.stderr, done.stderr.decode()
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [Answer(code, *([line.encode("latin1") for line in lines] for lines in texts)) for code, *texts in answers]


VECTORS_DRIVER = """
import { readFileSync } from 'node:fs';
const script = await import(process.argv[1]);
const parse = {
  'hangarlog.json': script.parseConfig,
  snapshot: script.parseSnapshot,
  'retained.json': (bytes) => script.parseRetained(bytes, 's-1'),
  'checkpoint.json': (bytes) => script.parseCheckpoint(bytes, 's-1'),
  cursors: (bytes) => script.parseCursors(bytes, 9),
};
const sections = {
  lines: (bytes) => Boolean(script.parseLine(bytes)?.data && !script.parseLine(bytes).erased),
  ids: (bytes) => (script.isStreamId(bytes.toString()) ? script.pathOf(bytes.toString()) : null),
  segments: (bytes) => script.segmentName(bytes.toString()),
  frames: (bytes) => script.ringFrames(bytes).map(({ block, first, last }) => [block, first, last]),
  files: (bytes, kind) => parse[kind](bytes),
};
console.log(JSON.stringify(JSON.parse(readFileSync(0)).map(([section, hex, kind]) =>
  sections[section](Buffer.from(hex, 'hex'), kind))));
"""


def parsed(vectors: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """What its functions make of vectors."""
    calls = [(section, content_of(vector).hex(), vector.get("kind")) for section, vector in vectors]
    done = subprocess.run(
        [node_js(), "--input-type=module", "-e", VECTORS_DRIVER, SCRIPT.as_uri()],
        input=json.dumps(calls).encode(),
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert not done.stderr, done.stderr.decode()
    return [*json.loads(done.stdout)]


def content_of(vector: dict[str, Any]) -> bytes:
    text = vector.get("id", vector.get("file"))
    return content(vector) if text is None else str(text).encode()


def test_vectors_of_parts() -> None:
    # JavaScript's strings are of UTF-16: bytes that are no UTF-8 never become an id.
    vectors = [
        (section, vector)
        for section in ("lines", "ids", "segments", "frames", "files")
        for vector in VECTORS[section]
        if (section != "ids" or "id" in vector) and not is_too_long(vector)
    ]
    for (section, vector), found in zip(vectors, parsed(vectors), strict=True):
        if section == "lines":
            assert found is vector["record"], vector
        elif section == "ids":
            assert found == vector["path"], vector
        elif section == "segments":
            assert found == (vector["log"] and {"log": vector["log"], "first": vector["first"]}), vector
        elif section == "frames":
            assert found == vector["frames"], vector
        elif vector["kind"] == "cursors":
            assert (not found["problems"]) is vector["valid"], vector
            assert not vector["valid"] or found["cursors"] == vector["means"], vector
        else:
            means = {key: value for key, value in vector.get("means", {}).items() if key not in DEFAULTS}
            assert (found is not None) is vector["valid"], vector
            assert not vector["valid"] or means.items() <= found.items(), vector


def is_too_long(vector: dict[str, Any]) -> bool:
    """True for a file of which nothing is read."""
    return vector.get("kind", "").endswith(".json") and len(content(vector)) > 1 << 16


def test_vectors_of_files_that_are_too_long(tmp_path: Path) -> None:
    vectors = [vector for vector in VECTORS["files"] if is_too_long(vector)]
    paths = [made(tmp_path / str(n), **{each["kind"]: content(each)}) for n, each in enumerate(vectors)]
    assert [answer.code for answer in node(("verify", str(path)) for path in paths)] == [1] * len(vectors)


DEFAULTS = {"mode", "archive", "saved_at", "schema_version", "event_id", "tombstone"}
"""What it has no need to fill in."""


def test_vectors_of_journals_and_tails(tmp_path: Path) -> None:
    damaged = {}
    for number, vector in enumerate(VECTORS["journals"]):
        files = {kind: content({"hex": vector[key]}) for key, kind in EXTRA.items() if key in vector}
        if "ring" in files:
            files["ring"] = files["ring"].ljust(1 << 20, b"\0")
        damaged[made(tmp_path / f"journal {number}", vector["text"].encode(), **files)] = vector["damaged"]
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for name in ("a:1", "b"):
            store.append(name, [UntypedEvent("Added", {"number": 1})] * 2, -1)
    for number, vector in enumerate(VECTORS["tails"]):
        for where in ("journal.jsonl", "streams/a/1.jsonl"):
            path = shutil.copytree(tmp_path / "s", tmp_path / f"tail {number} {where[0]}")
            with (path / where).open("ab") as file:
                file.write(content(vector))
            damaged[path] = not vector["torn"]
    for (path, expected), (code, out, _) in zip(
        damaged.items(), node(("verify", str(p)) for p in damaged), strict=True
    ):
        assert bool(code) is bool(out) is expected, (path, out)


EXTRA = {"ring": "ring", "checkpoint": "checkpoint.json"}


def lines_of(path: Path) -> list[bytes]:
    """What `hangarlog read --raw` prints; of a damaged store, up to the first event that is lost."""
    return CliRunner().invoke(hangarlog, ["read", str(path), "--raw"]).stdout_bytes.split(b"\n")[:-1]


# Healthy stores


def erased(path: Path, chosen: random.Random) -> None:
    with FileEventStore.untyped(path, durability="relaxed", segment_bytes=700) as store:
        for number in range(chosen.randint(12, 30)):
            store.append(f"a:{number % 3}", [UntypedEvent("Added", {"number": number})], ANY)
        store.delete_stream("a:0")
        store.truncate_stream("a:1", 2)
        assert Erasing(store._write_session).run(seconds=60.0, least=0.0).segments


def archived(path: Path, chosen: random.Random) -> None:
    filled("plain", path, chosen)
    with FileEventStore.untyped(path, durability="relaxed") as store:
        for number in range(20):
            store.append("a:1", [UntypedEvent("Added", {"number": number})], ANY)
        store.archive(path.with_name(f"{path.name}-archive"), before=15, compress=chosen.random() < 0.5)


def after_a_power_cut(path: Path, chosen: random.Random) -> None:
    """The ring has what the journal and the streams have lost."""
    filled("ring", path, chosen)
    (path / "checkpoint.json").unlink(missing_ok=True)
    joined = Store(path)
    durable = sum(len(text) for _, _, _, text in joined.frames)
    journal = (path / "journal.jsonl").read_bytes()
    last = journal.splitlines(keepends=True)[-1]
    os.truncate(path / "journal.jsonl", len(journal) - (len(last) if durable else 0))
    for name in ("state", "catalog"):
        (path / name).unlink()


def copied(path: Path, chosen: random.Random) -> None:
    filled("plain", path.with_name(f"{path.name}-first"), chosen)
    shutil.copytree(path.with_name(f"{path.name}-first"), path)


HEALTHY: dict[str, Callable[[Path, random.Random], None]] = {
    **{kind: lambda path, chosen, kind=kind: filled(kind, path, chosen) for kind in KINDS},  # type: ignore[misc]
    "erased": erased,
    "archived": archived,
    "after a power cut": after_a_power_cut,
    "copied": copied,
}


@pytest.mark.usefixtures("ring_at_once")
def test_it_reads_and_verifies_healthy_stores(tmp_path: Path) -> None:
    paths = []
    for kind, make in HEALTHY.items():
        for seed in range(6):
            make(tmp_path / f"{kind} {seed}", random.Random(f"{kind} {seed}"))
    paths = sorted(path for path in tmp_path.iterdir() if (path / "hangarlog.json").is_file())
    assert len(paths) >= 60
    answers = node((command, str(path)) for path in paths for command in ("verify", "read"))
    for path, verified, shown in zip(paths, answers[::2], answers[1::2], strict=True):
        assert not verdict(path), path.name
        assert verified == (0, [], []), path.name
        assert (shown.code, shown.err) == (0, []), path.name
        assert shown.out == lines_of(path), path.name


# Damaged stores


@pytest.mark.usefixtures("ring_at_once")
@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_the_same_stores_damaged(tmp_path: Path, kind: str) -> None:
    """In place, and in a copy, which no `state` is believed of."""
    stores: dict[Path, list[str]] = {}
    for seed in range(100):
        chosen, path = random.Random(f"second {kind} {seed}"), tmp_path / str(seed)
        filled(kind, path, chosen)
        if seed % 2:
            path = shutil.copytree(path, tmp_path / f"{seed}-copy")
        stores[path] = [damage(path, chosen) for _ in range(chosen.choice([1, 1, 2, 3]))]
    answers = node((command, str(path)) for path in stores for command in ("verify", "read"))
    found = same = 0
    for (path, done), verified, shown in zip(stores.items(), answers[::2], answers[1::2], strict=True):
        assert bool(verified.code) is bool(verified.out) is verdict(path), (path, done, verified.out)
        found += verified.code
        ours = lines_of(path)
        same += shown.out == ours
        if shown.out != ours:
            # hangarlog opens a damaged store for writing, if it can: it recovers what the checkpoint, `state` and the
            # streams tell, so it may have more. Or it refuses the store. And it stops some lines before an event of
            # which no copy is whole: at the beginning of the block it reads.
            shorter, longer = sorted((shown.out, ours), key=len)
            assert longer[: len(shorter)] == shorter, (path, done)
            assert shorter is shown.out or verified.code, (path, done)
            assert shorter is shown.out or not ours or b"is lost" in shown.err[0], (path, done)
    assert 40 < found < 100
    assert same >= 80


def signed(body: bytes) -> bytes:
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def value(**keys: object) -> bytes:
    """A JSON object without its last brace."""
    return json.dumps(keys, separators=(",", ":"))[:-1].encode()


ODD = [
    b"",
    b',"x":1,"x":2',
    b',"x":' + b"[" * 200 + b"]" * 200,
    b',"x":1e999',
    b',"x":' + b"9" * 4301,
    b',"x":"\\ud800"',
    b',"x":"\xff"',
]


def test_it_judges_odd_values_in_json_files_as_hangarlog_does(tmp_path: Path) -> None:
    first = tmp_path / "s"
    with FileEventStore.untyped(first, durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("Added", {"number": n}) for n in range(4)], -1)
        store_id = json.loads((first / "hangarlog.json").read_bytes())["store_id"]
        for name in ("constructor", "__proto__"):
            store.cursor(name).advance(3)
    checkpoint = {"first": 1, "end": 0, "line_crc": "", "mark": 1, "begun": 1, "store": store_id}
    projection = {"generation": 0, "version": 1, "event_id": "", "saved_at": "2026-01-01T00:00:00.000000Z", "state": 1}
    contents = {
        "retained.json": [value(retained=1, store_id=store_id, first_position=n) for n in (1, 1.0)],
        "checkpoint.json": [value(position=n, **checkpoint) for n in (4, 9, None)],
        "snapshots/a/1.json": [value(stream_id=name, version=1, state={}) for name in ("a:1", "a:2")],
        "projections/m.json": [value(projection=name, position=n, **projection) for name in ("m", "n") for n in (4, 9)],
    }
    files = [(name, signed(body + odd)) for name, bodies in contents.items() for body in bodies for odd in ODD]
    config = (first / "hangarlog.json").read_bytes().rstrip()[:-1]
    files += [("hangarlog.json", config + odd + b"}\n") for odd in ODD]
    paths = []
    for number, (name, text) in enumerate(files):
        paths.append(shutil.copytree(first, tmp_path / str(number)))
        (paths[-1] / name).parent.mkdir(parents=True, exist_ok=True)
        (paths[-1] / name).write_bytes(text)
    answers = node(("verify", str(path)) for path in paths)
    for path, (name, text), answer in zip(paths, files, answers, strict=True):
        assert bool(answer.code) is verdict(path), (name, text[:300], answer.out)
    assert 10 < sum(answer.code for answer in answers) < len(answers) - 10


def test_a_link_in_place_of_a_folder_is_damage(tmp_path: Path) -> None:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("Added", {})], -1)
    (tmp_path / "s/streams/a").rename(tmp_path / "a")
    (tmp_path / "s/streams/a").symlink_to(tmp_path / "a")
    (answer,) = node([("verify", str(tmp_path / "s"))])
    assert answer.code
    assert verdict(tmp_path / "s")


# A store that a process writes to


def test_it_reads_and_verifies_a_store_while_a_process_writes(tmp_path: Path) -> None:
    path, events = tmp_path / "s", 1500
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, str(path), str(events)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"open\n"
        reads: list[list[bytes]] = [[]]
        while len(reads[-1]) < events:
            answers = node([("verify", str(path)), ("read", str(path))] * 3)
            assert {(answer.code, *answer.err) for answer in answers} == {(0,)}, answers
            assert not any(answer.out for answer in answers[::2])
            reads += [answer.out for answer in answers[1::2]]
        (refused,) = node([("append", str(path), "a:1", "Added", "{}")])
        writer.kill()
    # In a container /proc/locks may lack the locks of others: then it cannot know.
    assert refused.code == 1 or b"OFDLCK" not in Path("/proc/locks").read_bytes()
    shown = lines_of(path)
    assert len(shown) == events
    for before, after in pairwise(reads):
        assert after[: len(before)] == before
        assert shown[: len(after)] == after


# Its writer


PAYLOADS = [
    {},
    {"_version": 2, "text": '\u2028 \x7f " \\ \n \x01 é 😀'},
    {"numbers": [-5, 2.5, 10**40, 1e300, None, True]},
]


@pytest.mark.usefixtures("ring_at_once")
@pytest.mark.parametrize("kind", ["by hand", "empty", *HEALTHY])
def test_it_appends_in_turns_with_hangarlog(tmp_path: Path, kind: str) -> None:
    """hangarlog opens, verifies and appends to what it wrote, and the other way round."""
    path, chosen = tmp_path / "s", random.Random(kind)
    if kind == "by hand":
        made(path)
    elif kind in HEALTHY:
        HEALTHY[kind](path, chosen)
    with FileEventStore.untyped(path, durability="relaxed") as store:
        expected = [record.event.data for record in store.records()]
    written = 0
    for number in range(6):
        payload = {"turn": number, **chosen.choice(PAYLOADS)}
        stream_id = chosen.choice(["a:1", "b", "Odd Name.é", "new:" + "x" * 300, f"x:{number}"])
        command = ("append", str(path), stream_id, "Added", json.dumps(payload, indent=chosen.choice([None, 2])))
        ((code, _, err),) = node([command])
        if not code or b"is full" not in err[0]:  # It does not roll a full segment: hangarlog does, the next time.
            assert (code, err) == (0, []), err
            expected.append({key: value for key, value in payload.items() if key != "_version"})
            written += 1
        assert not [*verify_folder(path)]
        with FileEventStore.untyped(path, durability="relaxed") as store:
            assert not store.recovered or not store.recovered.damage
            store.append(stream_id, [UntypedEvent("Added", {"by": "hangarlog"})], ANY)
            expected.append({"by": "hangarlog"})
            assert [record.event.data for record in store.records()][-len(expected) :] == expected
        verified, shown = node([("verify", str(path)), ("read", str(path))])
        assert verified == (0, [], [])
        assert shown.out == lines_of(path)
    assert written


def test_it_is_short() -> None:
    lines = SCRIPT.read_text().splitlines()
    assert len(lines) < 415
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    "arguments", [(), ("read",), ("read", "a", "b"), ("append", "s", "a:1", "T"), ("help", "s"), ("verify", "s", "t")]
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([node_js(), str(SCRIPT), *arguments], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"usage: ")
