"""Subscriptions while the store's files change under them: every event once, and an error where that cannot be."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from following import LONG, Follower, opened, put, writer
from store_files import flip

from hangarlog import CorruptionError, FileEventStore, StoreOpenError, SyncError
from hangarlog.errors import PositionError
from hangarlog.maintenance.repair import repair
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.read_only import ReadOnly


def damage(path: Path, line: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = flip(lines[line - 1])
    with path.open("r+b") as file:
        file.write(b"".join(lines))


def everything(store: FileEventStore[Any], follower: Follower) -> None:
    """Both a follower from the start and a new one have every event once."""
    last = store.get_event_count()
    while not follower.found or follower.found[-1] < last:
        assert follower.is_alive(), follower.error
    follower.subscription.stop()
    assert follower.end() == list(range(1, last + 1)) == [r.position for r in store.subscribe(timeout=0)]


def test_rolls_and_compaction_and_a_rebuilt_state_leave_no_gap(tmp_path: Path) -> None:
    """Of the journal and of streams, by this process and by another, while the follower is at the end and behind."""
    path = tmp_path / "s"
    with opened(path, segment_bytes=3000) as store, opened(path) as other:
        follower = Follower(store.subscribe(timeout=LONG))
        steps: list[Callable[[], object]] = [
            lambda: put(other, 7, 100),
            lambda: put(store, 1, 100, "b:1"),
            lambda: put(other, 300, 100),
            lambda: store.truncate_stream("a:1", store.get_stream_version("a:1") - 2),
            lambda: os.remove(path / "state"),
            lambda: shutil.rmtree(path / "locks", ignore_errors=True),
            lambda: other.sync(),
            lambda: store.delete_stream("b:1") if store.get_stream_version("b:1") % 2 else None,
        ]
        for number in range(120):
            steps[number % 3]()
            if number % 7 == 3:
                step = steps[3 + number % 2]
                step()
            put(store if number % 2 else other)
        everything(store, follower)


def test_a_heal_after_a_failed_sync_takes_back_nothing_that_was_delivered(tmp_path: Path) -> None:
    """A follower of what is durable sees each event once, also those of the journal that was written anew."""

    class Failing(FileSystem):
        fails = False

        def sync_data(self, fd: int) -> None:
            if self.fails:
                raise OSError(errno.EIO, "the device refuses")
            super().sync_data(fd)

        def write_at(self, fd: int, data: bytes, offset: int) -> int:
            if self.fails and len(data) > 100:
                raise OSError(errno.EIO, "the device refuses")
            return super().write_at(fd, data, offset)

    device: Any = Failing()
    with opened(tmp_path / "s", durability="always", filesystem=device) as store:
        follower = Follower(store.subscribe(timeout=LONG))
        for number in range(20):
            put(store, 3)
            device.fails = number % 4 == 2
            if device.fails:
                with pytest.raises(SyncError):
                    put(store, 2)
            device.fails = False
        store.sync()
        everything(store, follower)


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
def test_a_damaged_line_is_read_from_its_other_copy(tmp_path: Path) -> None:
    """At the end, where the journal is read directly. What both copies have lost stops it, each time."""
    path = tmp_path / "s"
    with opened(path) as store:
        put(store, 3)
        subscription = store.subscribe(timeout=0)
        assert [r.position for r in subscription] == [1, 2, 3]
        put(store, 3)
        damage(path / "journal.jsonl", 4)
        assert [r.position for r in subscription] == [4, 5, 6]
        put(store, 3)
        damage(path / "journal.jsonl", 8)
        damage(path / "streams/a/1.jsonl", 8)
        for _ in range(2):
            with pytest.raises(CorruptionError):
                list(subscription)
            assert subscription.position == 7
        assert [r.position for r in store.subscribe(7, timeout=0, on_damage="skip")] == [9]


def test_a_store_that_was_open_before_a_repair_is_followed_on(tmp_path: Path) -> None:
    """The repair writes files anew."""
    path = tmp_path / "s"
    with opened(path) as store:
        put(store, 20)
        subscription = store.subscribe(timeout=0)
        assert len(list(subscription)) == 20
        damage(path / "streams/a/1.jsonl", 4)
        damage(path / "journal.jsonl", 9)
        assert any(repair(path))
        put(store, 2)
        assert [r.position for r in subscription] == [21, 22]


def test_older_files_put_in_place_are_an_error(tmp_path: Path) -> None:
    """The store is behind the subscriber then: going on would give it other events at positions it has seen."""
    path, copy = tmp_path / "s", tmp_path / "copy"
    with opened(path) as store:
        put(store, 5)
    shutil.copytree(path, copy)
    with opened(path) as store:
        put(store, 5)
        subscription = store.subscribe(timeout=LONG)
        assert [next(subscription).position for _ in range(10)] == list(range(1, 11))
        for name in ("journal.jsonl", "streams/a/1.jsonl"):
            shutil.copy(copy / name, path / f"{name}.new")
            os.replace(path / f"{name}.new", path / name)
        os.remove(path / "state")
        with pytest.raises((PositionError, StoreOpenError)):
            next(subscription)


def test_a_folder_that_is_deleted_or_moved_is_an_error(tmp_path: Path) -> None:
    """A store that is made anew at its path is another one."""
    path = tmp_path / "s"
    with opened(path) as store:
        put(store, 5)
        subscription = store.subscribe(timeout=LONG)
        assert len([next(subscription) for _ in range(5)]) == 5
        os.rename(path, tmp_path / "moved")
        with opened(path) as other:
            put(other, 9)
            with pytest.raises(StoreOpenError):
                next(subscription)


@pytest.mark.parametrize("made_before", [False, True])
def test_a_reader_without_permission_to_write_follows_by_polling(tmp_path: Path, made_before: bool) -> None:
    """From before there was a writer, and through the ends of several."""
    path = tmp_path / "s"
    with opened(path) as store:
        put(store, 3)
    if not made_before:
        os.remove(path / "state")
    with opened(path, filesystem=ReadOnly()) as reading:
        follower = Follower(reading.subscribe(timeout=LONG))
        for number in range(4):
            with writer(path, "always" if number % 2 else "relaxed") as process:
                for _ in range(3):
                    assert process.tell("append") == "done"
        everything(reading, follower)


def test_what_only_the_shared_state_shows_is_not_delivered_twice_by_a_store_that_is_read_only(tmp_path: Path) -> None:
    """After its last writer has died."""
    path = tmp_path / "s"
    with writer(path) as process:
        for _ in range(3):
            process.tell("append")
        with opened(path, filesystem=ReadOnly()) as reading:
            subscription = reading.subscribe(timeout=0)
            assert len(list(subscription)) == 3
            process.process.kill()
            process.process.wait()
            assert list(subscription) == []
            with opened(path) as store:
                put(store, 2)
                assert [r.position for r in subscription] == [4, 5]


def test_a_reader_without_permission_to_write_sees_what_came_between_two_looks(tmp_path: Path) -> None:
    """From a writer that has come and gone."""
    path = tmp_path / "s"
    with opened(path) as store:
        put(store)
    with opened(path, filesystem=ReadOnly()) as reading:
        subscription = reading.subscribe(timeout=0)
        assert [r.position for r in subscription] == [1]
        for number in range(2, 5):
            with opened(path) as store:
                put(store)
            os.utime(path)  # A look within a millisecond of the last one may overlook it.
            reading._watched_at = 0.0
            subscription._tail._checked_at = 0.0  # type: ignore[attr-defined]
            assert [r.position for r in subscription] == [number]
