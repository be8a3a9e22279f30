"""Cursors in files: between processes, after kills and power cuts, with damaged and replaced files."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Added
from cursor_stores import filled

from hangarlog import (
    ANY,
    CorruptionError,
    CorruptionWarning,
    CursorConflictError,
    FileEventStore,
    StorageError,
    StoreOpenError,
    SyncError,
)
from hangarlog.filestore.cursor_file import LINE_BYTES
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.read_only import ReadOnly

pytestmark = pytest.mark.usefixtures("ring_at_once")


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


def test_the_journal_mends_a_move_that_came_with_an_append(tmp_path: Path) -> None:
    """Its record still carries it, also from before the last checkpoint."""
    path = tmp_path / "s"
    with filled(path, durability="always") as store:
        for to in (3, 4):
            store.append("out:1", [Added(to)], ANY, cursor=store.cursor("a").at(to))
        store._write_session.checkpointing.make()
    assert (path / "checkpoint.json").exists()
    spoil(path, max((0, 1), key=lambda n: lines(path)[n]["position"]))
    with pytest.warns(CorruptionWarning, match="was damaged"):
        store = FileEventStore(path)
    with store:
        assert store.cursor("a").position == 4


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
