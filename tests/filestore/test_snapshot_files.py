"""The files of snapshots: saved in place, over the older of two."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from hangarlog import CorruptionError, FileEventStore, StorageError, SyncError, UntypedEvent
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing import Recording, crash_states

FILE = "snapshots/a/1.json"


def filled(path: Path, count: int = 4, **options: Any) -> FileEventStore:
    store = FileEventStore(path, **options)
    store.append("a:1", [UntypedEvent("T", {"n": n}) for n in range(count)], -1)
    return store


def saved(store: FileEventStore) -> int:
    snapshot = store.load_snapshot("a:1")
    assert snapshot
    return int(snapshot["state"]["n"])


class Counting(FileSystem):
    """It counts syncs; a write that syncs itself is not used."""

    syncs = 0

    def sync_data(self, fd: int) -> None:
        self.syncs += 1
        super().sync_data(fd)

    def sync_folder(self, path: str) -> None:
        self.syncs += 1
        super().sync_folder(path)


def test_saving_a_snapshot_again_takes_one_sync(tmp_path: Path) -> None:
    """As a durable append does, for the process that saved it last; another one first syncs what it may have left."""
    filesystem = Counting()
    with filled(tmp_path / "s", filesystem=filesystem) as store:
        store.save_snapshot("a:1", 0, {"n": 0})
        for n in range(5):
            before = filesystem.syncs
            store.save_snapshot("a:1", 1, {"n": n})
            assert filesystem.syncs == before + 1
        assert saved(store) == 4
    again = Counting()
    with FileEventStore(tmp_path / "s", filesystem=again) as store:
        before = again.syncs
        store.save_snapshot("a:1", 1, {"n": 5})
        assert again.syncs == before + 3
        assert saved(store) == 5


def test_a_power_cut_leaves_the_older_snapshot_or_the_newer(tmp_path: Path) -> None:
    """Whole, at every step of many saves: of the same size, larger, and of another schema version."""
    path = tmp_path / "s"
    with filled(path, durability="always") as store:
        store.save_snapshot("a:1", 0, {"n": 0})
    recording = Recording(path)
    with FileEventStore(path, filesystem=recording) as store:
        for n in range(1, 7):
            store.save_snapshot("a:1", n % 4, {"n": n, "text": "x" * (6_000 if n == 4 else 600 * n)}, schema_version=n)
            recording.note(n)
    states = 0
    for state in crash_states(recording.operations, random.Random(1), 8):
        where = tmp_path / f"crashed-{states}"
        where.mkdir()
        state.write_to(where)
        with FileEventStore(where) as store:
            told = state.notes[-1] if state.notes else 0
            assert saved(store) in (told, told + 1), (state.at, state.lost)
            assert list(verify(store)) == []
            store.save_snapshot("a:1", 3, {"n": 99}, schema_version=9)
            assert saved(store) == 99
        states += 1
    assert states > 50


def test_a_save_whose_process_died_before_its_sync_is_not_relied_on(tmp_path: Path) -> None:
    """The next one brings it to the device before it writes over the other half: a power cut may tear only one."""
    path = tmp_path / "s"
    with filled(path) as store:
        store.save_snapshot("a:1", 0, {"n": 0})
        store.save_snapshot("a:1", 0, {"n": 1})
    recording = Recording(path)
    file = path / FILE
    text = file.read_bytes()
    with FileEventStore(path, filesystem=recording) as dying:
        dying.save_snapshot("a:1", 0, {"n": 2})
    # Without the sync of that save, and continued by another process.
    number = max(at for at, operation in enumerate(recording.operations) if operation.kind == "write")
    recording.operations[:] = recording.operations[: number + 1]
    with FileEventStore(path, filesystem=recording) as store:
        store.save_snapshot("a:1", 0, {"n": 3})
    assert text != file.read_bytes()
    for number, state in enumerate(crash_states(recording.operations, random.Random(2), 20)):
        where = tmp_path / f"crashed-{number}"
        where.mkdir()
        state.write_to(where)
        with FileEventStore(where) as store:
            assert saved(store) in (1, 2, 3)


def test_a_failed_sync_does_not_cost_the_older_snapshot(tmp_path: Path) -> None:
    """The next save makes a new file, as a later sync of this one proves nothing."""
    path = tmp_path / "s"

    class Failing(Counting):
        fails = False

        def sync_data(self, fd: int) -> None:
            if self.fails:
                raise OSError(5, "it failed")
            super().sync_data(fd)

    filesystem = Failing()
    with filled(path, filesystem=filesystem) as store:
        store.save_snapshot("a:1", 0, {"n": 0})
        store.save_snapshot("a:1", 0, {"n": 1})
        inode = (path / FILE).stat().st_ino
        filesystem.fails = True
        with pytest.raises((StorageError, SyncError)):
            store.save_snapshot("a:1", 0, {"n": 2})
        filesystem.fails = False
        store.save_snapshot("a:1", 0, {"n": 3})
        assert (path / FILE).stat().st_ino != inode
        assert saved(store) == 3


def test_a_file_with_another_name_is_not_written_over(tmp_path: Path) -> None:
    """As in a backup that was made with `cp -al`."""
    with filled(tmp_path / "s") as store:
        for n in range(3):
            store.save_snapshot("a:1", 0, {"n": n})
        os.link(tmp_path / "s" / FILE, tmp_path / "linked")
        text = (tmp_path / "linked").read_bytes()
        store.save_snapshot("a:1", 0, {"n": 3})
        assert (tmp_path / "linked").read_bytes() == text
        assert saved(store) == 3


def test_a_half_that_is_torn_is_passed_over_and_two_are_damage(tmp_path: Path) -> None:
    """The older snapshot counts; a file without one is named."""
    with filled(tmp_path / "s") as store:
        for n in range(4):
            store.save_snapshot("a:1", 0, {"n": n})
        file = tmp_path / "s" / FILE
        text = file.read_bytes()
        assert len(text) == 8192
        file.write_bytes(text.replace(b'"n":3', b'"n":7'))
        assert saved(store) == 2
        assert list(verify(store)) == []
        store.save_snapshot("a:1", 0, {"n": 4})
        assert saved(store) == 4
        file.write_bytes(file.read_bytes().replace(b'"n":', b'"m":'))
        with pytest.raises(CorruptionError, match="snapshot"):
            store.load_snapshot("a:1")
        assert [damage.path for damage in verify(store)][:1] == [str(file)]


def test_readers_see_a_whole_snapshot_while_others_are_saved(tmp_path: Path) -> None:
    """The older one or the newer one, never less, and what is read never goes back."""
    with filled(tmp_path / "s", durability="relaxed") as store:
        store.save_snapshot("a:1", 0, {"n": 0})
        stop = threading.Event()
        found: list[int] = []
        errors: list[Exception] = []

        def read() -> None:
            try:
                with FileEventStore(tmp_path / "s", durability="relaxed") as reader:
                    while not stop.is_set():
                        found.append(saved(reader))
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        for n in range(1, 300):
            store.save_snapshot("a:1", 0, {"n": n})
        stop.set()
        thread.join()
    assert errors == []
    assert found == sorted(found)


def test_a_backup_and_a_repair_keep_a_snapshot_that_was_saved_in_place(tmp_path: Path) -> None:
    """Also a second backup, of which only that snapshot has changed in its middle."""
    path, target = tmp_path / "s", tmp_path / "backup"
    with filled(path) as store:
        for n in (1, 2):
            store.save_snapshot("a:1", 0, {"n": n, "text": "x" * 400_000})
        backup(path, target)
        store.save_snapshot("a:1", 0, {"n": 3, "text": "x" * 400_000})
        backup(path, target)
    with FileEventStore(target) as copy:
        assert saved(copy) == 3
    assert list(repair(path)) == []
    with FileEventStore(path) as store:
        assert saved(store) == 3


def test_a_file_of_one_snapshot_is_read_and_written_anew(tmp_path: Path) -> None:
    """As older versions wrote it."""
    with filled(tmp_path / "s") as store:
        store.save_snapshot("a:1", 0, {"n": 1})
        file = tmp_path / "s" / FILE
        file.write_bytes(file.read_bytes().split(b"\n")[0].rstrip() + b"\n")
        assert saved(store) == 1
        store.save_snapshot("a:1", 0, {"n": 2})
        assert saved(store) == 2
        assert file.stat().st_size == 8192
