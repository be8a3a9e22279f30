"""Cursors that many processes move, that are killed, or whose machine loses power."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Added
from cursor_stores import filled
from dying import Died, DyingFileSystem

from hangarlog import ANY, EventSerializer, FileEventStore, UntypedEvent
from hangarlog.filestore.cursor_file import pairs_in
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing import Recording, Unsynced, crash_states

WORKER = """
import sys
from hangarlog import *
import msgspec
@register_event_type
class Added(msgspec.Struct, frozen=True):
    number: int
    text: str = ""
path, own, how = sys.argv[1:]
with FileEventStore(path, durability="relaxed") as store:
    cursor = store.cursor("worker")
    print("ready", flush=True)
    sys.stdin.readline()
    while (position := cursor.position) < COUNT:
        try:
            if how == "append":
                move = cursor.at(position + 1, expected=position)
                store.append_at_end("out:" + own, [Added(position + 1)], cursor=move)
            else:
                cursor.advance(position + 1, expected=position)
                print(position + 1, flush=True)
        except CursorConflictError:
            pass
"""


def start(path: Path, own: int, how: str, count: int) -> subprocess.Popen[str]:
    program = WORKER.replace("COUNT", str(count))
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(own), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def release(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("how", ["advance", "append"])
def test_of_processes_that_race_each_position_is_won_by_one(tmp_path: Path, how: str) -> None:
    filled(tmp_path / "s", 300).close()
    processes = [start(tmp_path / "s", n, how, 300) for n in range(3)]
    for process in processes:
        release(process)
    won = [int(number) for process in processes for number in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0, 0]
    with FileEventStore(tmp_path / "s") as store:
        if how == "append":
            won = [e.number for s in store.list_streams("out:") for e in store.read_stream(s)]
        assert sorted(won) == list(range(1, 301))
        assert store.cursor("worker").position == 300


def test_killed_workers_lose_no_position_and_do_none_twice(tmp_path: Path) -> None:
    """Each output comes with its move of the cursor, whenever the worker is killed."""
    filled(tmp_path / "s", 100_000).close()
    rng = random.Random(4)
    for number in range(12):
        process = start(tmp_path / "s", number % 2, "append", 100_000)
        release(process)
        reached = 0
        with FileEventStore(tmp_path / "s", durability="relaxed") as store:
            begin, more = store.cursor("worker").position, rng.randrange(1, 200)
            while reached < begin + more:
                reached = store.cursor("worker").position
            process.kill()
            process.communicate()
            position = store.cursor("worker").position
            assert position >= reached
            done = [e.number for s in store.list_streams("out:") for e in store.read_stream(s)]
            assert sorted(done) == list(range(1, position + 1))


# A process that dies at any call

MOVES: list[tuple[str, int]] = [
    ("plain", 1),
    ("append", 3),
    ("append", 4),
    ("durable", 5),
    ("append", 6),
    ("plain", 7),
    ("durable append", 9),
    ("append", 11),
    ("append", 12),
    ("plain", 13),
    ("plain", 14),
    ("plain", 15),
]


def make(store: FileEventStore, kind: str, to: int) -> None:
    cursor = store.cursor("worker")
    durability: Any = "always" if "durable" in kind else "relaxed"
    if "append" in kind:
        event = UntypedEvent("Out", {"to": to, "text": "x" * 300}, event_id=f"out-{to}")
        store.append_many(
            [("out:1", [event], ANY), ("out:2", [event], ANY)], durability=durability, cursor=cursor.at(to)
        )
    else:
        cursor.advance(to, durability=durability)


def open_untyped(path: Path, filesystem: FileSystem) -> FileEventStore:
    serializer = EventSerializer(unknown="untyped")
    return FileEventStore(path, serializer=serializer, durability="relaxed", segment_bytes=2_000, filesystem=filesystem)


def check(store: FileEventStore, possible: set[int]) -> None:
    """The cursor is at a possible position, and every output is there exactly if the cursor says so. Life goes on."""
    position = store.cursor("worker").position
    assert position in possible
    outputs = {record.event_id for record in store.records() if record.event_type == "Out"}
    assert outputs == {f"out-{to}" for kind, to in MOVES if "append" in kind and to <= position}
    make(store, "append", 20)
    assert store.cursor("worker").position == 20
    assert list(verify(store)) == []


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_process_may_die_at_any_call(tmp_path: Path, share: float) -> None:
    """What was acknowledged stands; of what was not, a move and its append are both there or neither."""
    at = 0
    while True:
        path = tmp_path / f"died-{at}"
        with open_untyped(path, Unsynced()) as store:
            store.append("in:1", [UntypedEvent("In", {"n": n}) for n in range(20)], ANY)
        done = -1
        try:
            store = open_untyped(path, DyingFileSystem(at, share))
            for move in MOVES:
                make(store, *move)
                done += 1
            break
        except Died:
            with open_untyped(path, Unsynced()) as other:
                check(other, {to for _, to in [("", 0), *MOVES][done + 1 : done + 3]})
        at += 1
    store.close()
    assert at > 50


# Power cuts


def record(path: Path, seed: int) -> Recording:
    """Moves of all kinds, each noted before and after."""
    path.mkdir(mode=0o700)
    recording = Recording(path)
    with open_untyped(path, recording) as store:
        store.append("in:1", [UntypedEvent("In", {"n": n}) for n in range(20)], ANY, durability="always")
        rng = random.Random(seed)
        for number, (kind, to) in enumerate(MOVES):
            if rng.random() < 0.3:
                store.append("in:1", [UntypedEvent("In", {"n": to})], ANY)
            recording.note(("began", number))
            make(store, kind, to)
            recording.note(("durable" if "durable" in kind else "done", number))
    return recording


def is_torn(content: bytes) -> bool:
    """True if a line was cut within a sector, which no device does."""
    return any(any(pair.damaged) for pair in pairs_in(content))


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
@pytest.mark.parametrize("seed", range(2))
def test_after_a_power_cut_a_cursor_and_the_events_agree(tmp_path: Path, seed: int) -> None:
    """What was moved durably stands; no position is skipped; appends and their moves are both there or neither."""
    recording = record(tmp_path / "recorded", seed)
    checked = 0
    for number, state in enumerate(crash_states(recording.operations, random.Random(seed), 12)):
        path = tmp_path / "state"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        state.write_to(path)
        began = max((n for what, n in state.notes if what == "began"), default=-1)
        durable = max((n for what, n in state.notes if what == "durable"), default=-1)
        positions = [0, *(to for _, to in MOVES)]
        possible = set(positions[durable + 1 : began + 2])
        if is_torn(state.files.get("cursors.jsonl", b"")):
            possible |= set(positions[: began + 2])
        if not began >= 0:
            continue
        what = f"state {number}, after operation {state.at}, without {state.lost}"
        try:
            with open_untyped(path, Unsynced()) as store:
                check(store, possible)
        except Exception as error:
            raise AssertionError(what) from error
        checked += 1
    assert checked > 300


def test_a_relaxed_cursor_skips_no_events_that_get_lost_positions_again(tmp_path: Path) -> None:
    """The device kept the cursor but not the events: it is set back to the last event, before others come."""
    with filled(tmp_path / "s", 10, durability="always") as store:
        store.cursor("b").advance(4)
        kept = (tmp_path / "s/journal.jsonl").read_bytes(), (tmp_path / "s/streams/in/1.jsonl").read_bytes()
        store.append("in:1", [Added(n) for n in range(10)], ANY, durability="relaxed")
        store.cursor("a").advance(18, durability="relaxed")
        store.cursor("a").advance(20, durability="relaxed")
    (tmp_path / "s/journal.jsonl").write_bytes(kept[0])
    (tmp_path / "s/streams/in/1.jsonl").write_bytes(kept[1])
    for name in ("state", "catalog", "checkpoint.json"):
        (tmp_path / "s" / name).unlink(missing_ok=True)
    with FileEventStore(tmp_path / "s") as store:
        store.append("in:1", [Added(n) for n in range(50)], ANY)
        assert [(c.name, c.position) for c in store.cursors()] == [("a", 10), ("b", 4)]
        store.cursor("a").advance(11)
