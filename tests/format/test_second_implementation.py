"""tools/second_implementation.mjs, which was made from the pages in another language, agrees with hangarlog."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT, tool
from store_by_the_page import RefusedError, Store
from test_vectors import VECTORS, content, made
from test_verdicts import KINDS, damage, verdict
from test_verdicts import made as filled

from hangarlog import ANY, FileEventStore, HangarlogError, UntypedEvent
from hangarlog.filestore.erasing import Erasing
from hangarlog.filestore.stored_lines import as_stored

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


def node(calls: Iterable[tuple[str, ...]]) -> list[Answer]:
    """What `second_implementation.mjs` answers to each of the commands."""
    done = subprocess.run(
        [tool("node"), "--input-type=module", "-e", DRIVER, SCRIPT.as_uri()],
        input=json.dumps([*calls]).encode(),
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert not done.stderr, done.stderr.decode()
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [Answer(code, *([line.encode("latin1") for line in lines] for lines in texts)) for code, *texts in answers]


def lines_of(path: Path) -> list[bytes]:
    """What `hangarlog read --raw` prints, up to the first event that is lost. A store that needs it is recovered."""
    found: list[bytes] = []
    try:
        with FileEventStore.untyped(path, create=False) as store:
            for _, lines in as_stored(store, store.envelopes()):
                found += lines
    except HangarlogError:
        pass
    return found


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
        same += shown.out == lines_of(path)
    assert 40 < found < 100
    assert same > 90
