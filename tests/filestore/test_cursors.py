"""Cursors in files: between processes, after kills and power cuts, with damaged and replaced files."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Added
from dying import Died, DyingFileSystem

from hangarlog import (
    ANY,
    CorruptionError,
    CorruptionWarning,
    CursorConflictError,
    EventSerializer,
    FileEventStore,
    StorageError,
    StoreOpenError,
    SyncError,
    UntypedEvent,
)
from hangarlog.filestore.cursor_file import LINE_BYTES, pairs_in
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.read_only import ReadOnly
from hangarlog.testing import Recording, Unsynced, crash_states


def filled(path: Path, count: int = 20, **options: Any) -> FileEventStore:
    store = FileEventStore(path, **{"durability": "relaxed", **options})
    store.append("in:1", [Added(n) for n in range(count)], ANY)
    return store


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of the file that are not blank."""
    return [json.loads(line) for line in (path / "cursors.jsonl").read_bytes().split(b"\n") if line.strip()]


def spoil(path: Path, line: int, at: int = 20) -> None:
    with (path / "cursors.jsonl").open("r+b") as file:
        file.seek(line * LINE_BYTES + at)
        file.write(b"#")


# Files


def test_the_file_is_lines_of_json_of_fixed_length(tmp_path: Path) -> None:
    """Two for each cursor, the rest blank; it is private, and as long as whole blocks."""
    with filled(tmp_path / "s") as store:
        assert not (tmp_path / "s/cursors.jsonl").exists()
        for number in range(5):
            store.cursor(f"c{number}").advance(number)
        store.cursor("c0").advance(7)
    content = (tmp_path / "s/cursors.jsonl").read_bytes()
    assert len(content) == 8192
    assert {len(line) for line in content.split(b"\n")[:-1]} == {LINE_BYTES - 1}
    assert [line["cursor"] for line in lines(tmp_path / "s")] == [f"c{n}" for n in range(5) for _ in range(2)]
    assert os.stat(tmp_path / "s/cursors.jsonl").st_mode & 0o777 == 0o600


def test_a_deleted_cursor_gives_its_place_to_the_next(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as store:
        for number in range(30):
            store.cursor(f"c{number}").advance(1)
            store.cursor(f"c{number}").delete()
        assert store.cursors() == []
        assert (tmp_path / "s/cursors.jsonl").stat().st_size == 4096


def test_cursors_survive_a_close(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as store:
        store.cursor("a").advance(3)
        store.append("out:1", [Added(0)], ANY, cursor=store.cursor("b").at(5))
    with FileEventStore(tmp_path / "s") as store:
        assert [(c.name, c.position, c.lag) for c in store.cursors()] == [("a", 3, 18), ("b", 5, 16)]
        assert list(verify(store)) == []


# Syncs


class Watching(FileSystem):
    """Notes which files were synced."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def sync_data(self, fd: int) -> None:
        super().sync_data(fd)
        self.synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))


def test_a_durable_advance_is_one_sync_and_a_relaxed_one_none(tmp_path: Path) -> None:
    """A durable one also syncs the events up to its position, if they are not. An append syncs its move with itself."""
    filesystem = Watching()
    with filled(tmp_path / "s", durability="always", filesystem=filesystem) as store:
        cursor = store.cursor("a")
        cursor.advance(1)
        filesystem.synced.clear()
        cursor.advance(2)
        cursor.advance(2)
        assert filesystem.synced == ["cursors.jsonl"] * 2
        cursor.advance(3, durability="relaxed")
        assert filesystem.synced == ["cursors.jsonl"] * 2
        store.sync()
        store.sync()
        assert filesystem.synced == ["cursors.jsonl"] * 3
        filesystem.synced.clear()
        store.append("in:1", [Added(99)], ANY, durability="relaxed")
        cursor.advance(20)
        assert filesystem.synced == ["cursors.jsonl"]
        cursor.advance(21)
        assert filesystem.synced == ["cursors.jsonl", "ring", "cursors.jsonl"]
        store.append("out:1", [Added(0)], ANY, cursor=cursor.at(21))
        assert filesystem.synced[3:] == ["ring"]


def test_threads_share_the_syncs_of_different_cursors(tmp_path: Path) -> None:
    """One sync covers everybody who moved before it began."""

    class Slow(Watching):
        """Lets a sync take as long as all others need to write."""

        ready: Callable[[], bool] = staticmethod(lambda: True)

        def sync_data(self, fd: int) -> None:
            pause = threading.Event()
            while not self.ready():
                pause.wait(0.001)
            super().sync_data(fd)

    filesystem = Slow()
    with filled(tmp_path / "s", durability="always", filesystem=filesystem) as store:
        for number in range(16):
            store.cursor(f"c{number}").advance(1)
        filesystem.synced.clear()
        filesystem.ready = lambda: all(c.position == 2 for c in store.cursors())
        threads = [threading.Thread(target=store.cursor(f"c{n}").advance, args=(2,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(filesystem.synced) <= 2


def test_an_interval_syncs_cursors_too(tmp_path: Path) -> None:
    filesystem = Watching()
    with filled(tmp_path / "s", durability=3600.0, filesystem=filesystem) as store:
        store.cursor("a").advance(1)
        filesystem.synced.clear()
        store.cursor("a").advance(2)
    assert (filesystem.synced[-1], filesystem.synced.count("cursors.jsonl")) == ("cursors.jsonl", 1)


def test_a_failed_sync_is_no_durable_advance(tmp_path: Path) -> None:
    """The next append writes the file anew, and the position that was written stands."""

    class Failing(FileSystem):
        fails = False

        def sync_data(self, fd: int) -> None:
            if self.fails and os.readlink(f"/proc/self/fd/{fd}").endswith("cursors.jsonl"):
                self.fails = False
                raise OSError(5, "Input/output error")
            super().sync_data(fd)

    filesystem = Failing()
    with filled(tmp_path / "s", durability="always", filesystem=filesystem) as store:
        store.cursor("a").advance(1)
        filesystem.fails = True
        with pytest.raises(SyncError):
            store.cursor("a").advance(2)
        before = (tmp_path / "s/cursors.jsonl").stat().st_ino
        store.append("in:1", [Added(0)], ANY)
        assert (tmp_path / "s/cursors.jsonl").stat().st_ino != before
        assert store.cursor("a").position == 2
        store.cursor("a").advance(3)
        assert store.cursor("a").position == 3


# Processes

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


# Files put back


def test_an_older_file_of_cursors_may_be_put_back(tmp_path: Path) -> None:
    """They are then where they were, also in a store that is open."""
    with filled(tmp_path / "s") as store:
        cursor = store.cursor("a")
        cursor.advance(3)
        old = (tmp_path / "s/cursors.jsonl").read_bytes()
        cursor.advance(9)
        (tmp_path / "s/new").write_bytes(old)
        os.replace(tmp_path / "s/new", tmp_path / "s/cursors.jsonl")
        assert cursor.position == 3
        cursor.advance(4, expected=3, durability="always")
        assert cursor.position == 4


def test_a_cursor_of_another_history_is_refused_until_it_is_reset(tmp_path: Path) -> None:
    """An older store was put back, and went on otherwise: the cursor cannot tell which of its events were processed."""
    filled(tmp_path / "s", 5).close()
    shutil.copytree(tmp_path / "s", tmp_path / "old")
    with FileEventStore(tmp_path / "s") as store:
        store.append("in:1", [Added(n) for n in range(5)], ANY)
        store.cursor("a").advance(8)
    with FileEventStore(tmp_path / "old") as store:
        store.append("in:1", [Added(n) for n in range(9)], ANY)
    shutil.copy(tmp_path / "s/cursors.jsonl", tmp_path / "old/cursors.jsonl")
    with FileEventStore(tmp_path / "old") as store:
        cursor = store.cursor("a")
        for call in (lambda: cursor.position, lambda: cursor.advance(9)):
            with pytest.raises(CorruptionError, match=r"another history; call reset\(position\)"):
                call()
        with pytest.raises(CorruptionError, match="another history"):
            store.append("out:1", [Added(0)], ANY, cursor=cursor.at(9))
        assert "CorruptionError" in repr(cursor)
        assert [damage.segment for damage in verify(store)] == ["cursors.jsonl"]
        cursor.reset(5)
        assert cursor.position == 5
        assert list(verify(store)) == []


def test_a_store_put_back_as_a_whole_has_its_cursors(tmp_path: Path) -> None:
    with filled(tmp_path / "s", 5) as store:
        store.cursor("a").advance(3)
    shutil.copytree(tmp_path / "s", tmp_path / "old")
    with FileEventStore(tmp_path / "s") as store:
        store.append("in:1", [Added(n) for n in range(5)], ANY)
        store.cursor("a").advance(8)
    shutil.rmtree(tmp_path / "s")
    shutil.copytree(tmp_path / "old", tmp_path / "s")
    with FileEventStore(tmp_path / "s") as store:
        assert store.cursor("a").position == 3


def test_a_cursor_beyond_older_events_that_were_put_back_is_set_back(tmp_path: Path) -> None:
    """While nobody has the store open: the cursors are newer than the journal."""
    with filled(tmp_path / "s", 5) as store:
        store.cursor("a").advance(3)
    shutil.copytree(tmp_path / "s", tmp_path / "old")
    with FileEventStore(tmp_path / "s") as store:
        store.append("in:1", [Added(n) for n in range(5)], ANY)
        store.cursor("a").advance(8)
    shutil.copy(tmp_path / "s/cursors.jsonl", tmp_path / "old/cursors.jsonl")
    with FileEventStore(tmp_path / "old") as store:
        assert store.cursor("a").position == 5
        store.append("in:1", [Added(n) for n in range(9)], ANY)
        assert store.cursor("a").position == 5


def test_a_deleted_file_of_cursors_begins_them_anew(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as store:
        store.cursor("a").advance(3)
        (tmp_path / "s/cursors.jsonl").unlink()
        assert store.cursor("a").position == 0
        store.append("out:1", [Added(0)], ANY, cursor=store.cursor("a").at(1, expected=0))
        assert store.cursor("a").position == 1


def test_a_hard_link_of_the_file_keeps_its_content(tmp_path: Path) -> None:
    """As `cp -al` makes it: a move in one store does not show in the other."""
    with filled(tmp_path / "s") as store:
        store.cursor("a").advance(3)
    os.link(tmp_path / "s/cursors.jsonl", tmp_path / "other")
    with FileEventStore(tmp_path / "s") as store:
        before = (tmp_path / "other").read_bytes()
        store.cursor("a").advance(4)
        assert (tmp_path / "other").read_bytes() == before
        assert store.cursor("a").position == 4


def test_who_may_only_read_sees_what_a_recovery_would_show(tmp_path: Path) -> None:
    """Nobody has the store open, and its cursor is beyond its events."""
    path = tmp_path / "s"
    with filled(path, 5) as store:
        kept = (path / "journal.jsonl").read_bytes(), (path / "streams/in/1.jsonl").read_bytes()
        store.append("in:1", [Added(n) for n in range(5)], ANY)
        store.cursor("a").advance(8)
    (path / "journal.jsonl").write_bytes(kept[0])
    (path / "streams/in/1.jsonl").write_bytes(kept[1])
    for name in ("state", "catalog", "checkpoint.json", "ring"):
        (path / name).unlink(missing_ok=True)
    with FileEventStore(path, filesystem=ReadOnly()) as store:
        assert (store.cursor("a").position, store.cursors()[0].lag) == (5, 0)
        with pytest.raises(StoreOpenError):
            store.cursor("a").reset(3)


# Damage


def test_damage_of_one_line_leaves_the_other(tmp_path: Path) -> None:
    """With a warning, and `verify` says so; the next session mends it, and keeps the file as it was."""
    path = tmp_path / "s"
    with filled(path) as store:
        cursor = store.cursor("a")
        for to in (3, 4, 5):
            cursor.advance(to)
        newest = max((0, 1), key=lambda n: lines(path)[n]["position"])
        spoil(path, newest)
        with pytest.warns(CorruptionWarning, match="the other one counts"):
            assert cursor.position == 4
        assert [(damage.segment, damage.offset) for damage in verify(store)] == [("cursors.jsonl", newest * LINE_BYTES)]
    assert [damage.segment for damage in verify_folder(path)] == ["cursors.jsonl"]
    with pytest.warns(CorruptionWarning, match="was damaged"):
        store = FileEventStore(path)
    with store:
        assert store.cursor("a").position == 4
        assert list(verify(store)) == []
        assert (path / "cursors.jsonl.damaged").exists()


def test_damage_does_not_bring_back_the_position_before_a_reset(tmp_path: Path) -> None:
    """A consumer that wants events again must get them."""
    path = tmp_path / "s"
    for line in (0, 1):
        shutil.rmtree(path, ignore_errors=True)
        with filled(path) as store:
            store.cursor("a").advance(9)
            store.cursor("a").advance(10)
            store.cursor("a").reset(2)
            spoil(path, line)
            with pytest.warns(CorruptionWarning):
                assert store.cursor("a").position == 2


def test_damage_of_both_lines_is_an_error_for_who_may_be_meant(tmp_path: Path) -> None:
    """Other cursors go on. A reset, or a repair, mends it."""
    path = tmp_path / "s"
    with filled(path) as store:
        store.cursor("a").advance(3)
        store.cursor("b").advance(4)
        for line in (0, 1):
            spoil(path, line, at=3)
        for name in ("a", "new"):
            with pytest.raises(CorruptionError, match=r"call reset\(position\), or repair"):
                store.cursor(name).advance(5)
            with pytest.raises(CorruptionError):
                store.cursor(name).position  # noqa: B018 - reading it is the test
        store.cursor("b").advance(5)
        with pytest.warns(CorruptionWarning):
            assert [c.name for c in store.cursors()] == ["b"]
        store.cursor("a").reset(3)
        assert store.cursor("a").position == 3
        assert len(list(verify(store))) == 1
    done = [str(result) for result in repair(path)]
    assert len(done) == 1
    assert "cursors.jsonl" in done[0]
    with FileEventStore(path) as store:
        assert [(c.name, c.position) for c in store.cursors()] == [("a", 3), ("b", 5)]
        assert store.cursor("new").position == 0
        assert list(verify(store)) == []


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_what_is_no_file_in_its_place_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    filled(path).close()
    (tmp_path / "other").write_bytes(b"untouched")
    if kind == "link":
        (path / "cursors.jsonl").symlink_to(tmp_path / "other")
    elif kind == "folder":
        (path / "cursors.jsonl").mkdir()
    else:
        os.mkfifo(path / "cursors.jsonl")
    with pytest.warns(CorruptionWarning, match="move it away"):
        store = FileEventStore(path)
    with store:
        with pytest.raises(StorageError):
            store.cursor("a").advance(1)
        with pytest.raises(StorageError):
            store.cursors()
        store.append("in:1", [Added(0)], ANY)
        assert len(list(verify(store))) == 1
    assert (tmp_path / "other").read_bytes() == b"untouched"


def test_random_damage_is_an_error_a_warning_or_an_older_position(tmp_path: Path) -> None:
    """Never a position that the cursor was not at, and never another error."""
    path, rng = tmp_path / "s", random.Random(3)
    with filled(path) as store:
        for to in range(1, 9):
            store.cursor("a").advance(to)
            store.append("out:1", [Added(to)], ANY, cursor=store.cursor("b").at(to))
    content = (path / "cursors.jsonl").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        for _ in range(200):
            spoilt = bytearray(content)
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(2 * 1024)
                spoilt[at : at + rng.randrange(1, 600)] = rng.randbytes(rng.randrange(600))
            (path / "cursors.jsonl").write_bytes(spoilt)
            with FileEventStore(path, durability="relaxed") as store:
                for name in ("a", "b"):
                    try:
                        assert store.cursor(name).position in (0, 7, 8)
                        store.cursor(name).advance(8)
                    except CorruptionError:
                        store.cursor(name).reset(8)
                    assert store.cursor(name).position == 8
                    store.cursor(name).advance(9)


# Copies


def test_a_backup_has_the_cursors_as_of_its_events(tmp_path: Path) -> None:
    """They are not beyond them, though others write meanwhile; a second backup has the newer ones."""
    with filled(tmp_path / "s") as store:
        ended = threading.Event()

        def work() -> None:
            number = 0
            while not ended.is_set():
                position = store.append("out:1", [Added(number)], ANY) + 20
                store.append("out:2", [Added(number)], ANY, cursor=store.cursor("b").at(position))
                store.cursor("a").advance(position)
                number += 1

        worker = threading.Thread(target=work)
        worker.start()
        for _ in range(5):
            backup(tmp_path / "s", tmp_path / "copy")
            with FileEventStore(tmp_path / "copy") as copy:
                count = len(copy.read_stream("out:2"))
                assert all(cursor.lag >= 0 for cursor in copy.cursors())
                assert copy.cursor("b").position == (count + 19 if count else 0)
                assert list(verify(copy)) == []
        ended.set()
        worker.join()
        store.cursor("a").delete()
        backup(tmp_path / "s", tmp_path / "copy")
    with FileEventStore(tmp_path / "copy") as copy:
        assert [cursor.name for cursor in copy.cursors()] == ["b"]


def test_a_conflict_of_the_cursor_leaves_no_trace(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as store:
        store.cursor("a").advance(3)
        before = {p: p.read_bytes() for p in (tmp_path / "s").rglob("*.jsonl")}
        with pytest.raises(CursorConflictError):
            store.append("out:1", [Added(0)], ANY, cursor=store.cursor("a").at(4, expected=2))
        assert {p: p.read_bytes() for p in (tmp_path / "s").rglob("*.jsonl")} == before


def test_an_append_that_fails_takes_its_move_back(tmp_path: Path) -> None:
    """The journal could be written and the stream could not."""

    class Failing(FileSystem):
        fails = 0

        def write(self, fd: int, data: bytes) -> None:
            if self.fails:
                self.fails -= 1
                if not self.fails:
                    raise OSError(28, "No space left on device")
            super().write(fd, data)

        def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
            super().write_at(fd, data, offset)
            if self.fails:
                self.fails -= 1
                if not self.fails:
                    raise OSError(28, "No space left on device")

    filesystem = Failing()
    with filled(tmp_path / "s", filesystem=filesystem) as store:
        store.append("out:1", [Added(0)], ANY, cursor=store.cursor("a").at(3))
        for fails in range(1, 5):
            filesystem.fails = fails
            with pytest.raises(StorageError):
                store.append("out:1", [Added(1)], ANY, cursor=store.cursor("a").at(4))
            assert not filesystem.fails
            assert store.cursor("a").position == 3
            store.append("other:1", [Added(1)], ANY)
            assert store.cursor("a").position == 3
            with FileEventStore(tmp_path / "s") as other:
                assert other.cursor("a").position == 3
        store.append("out:1", [Added(1)], ANY, cursor=store.cursor("a").at(4))
        assert store.cursor("a").position == 4
