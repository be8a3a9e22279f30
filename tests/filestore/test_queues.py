"""Queues for the ownership of a name, among threads and processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hangarlog.filestore.queues import BytePlace, owner_of
from hangarlog.system.filesystem import FileSystem


def place(path: Path, name: str = "mailer") -> BytePlace:
    return BytePlace(FileSystem(), str(path / "lock"), name)


def test_a_queue_is_served_in_order(tmp_path: Path) -> None:
    """Who leaves from the middle lets nobody pass."""
    first, second, third, fourth = (place(tmp_path) for _ in range(4))
    assert [each.is_first() for each in (first, second, third, fourth)] == [True, False, False, False]
    second.leave()
    first.leave()
    first.leave()
    assert [each.is_first() for each in (third, fourth)] == [True, False]
    fifth = place(tmp_path)
    third.leave()
    assert [each.is_first() for each in (fourth, fifth)] == [True, False]


def test_other_names_have_other_queues(tmp_path: Path) -> None:
    """Each has an owner."""
    assert all(place(tmp_path, name).is_first() for name in ("a", "b", "a:1", "ä" * 50))


def test_the_kernel_gives_back_what_a_dead_process_held(tmp_path: Path) -> None:
    """Whatever it was doing."""
    ready, dying = os.pipe()
    pid = os.fork()
    if pid == 0:
        kept = place(tmp_path)
        os.write(dying, b"1" if kept.is_first() else b"0")
        signal.pause()
    assert os.read(ready, 1) == b"1"
    waiting = place(tmp_path)
    assert not waiting.is_first()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert waiting.is_first()
    os.close(ready)
    os.close(dying)


def test_the_owner_can_be_seen(tmp_path: Path) -> None:
    """Its process id is a lock, too: nothing of it is left when it is gone, and who waits is not seen."""
    path = str(tmp_path / "lock")
    assert owner_of(FileSystem(), path, "mailer") is None
    first, second = place(tmp_path), place(tmp_path)
    assert owner_of(FileSystem(), path, "mailer") == 0
    assert first.is_first()
    assert owner_of(FileSystem(), path, "mailer") == os.getpid()
    assert owner_of(FileSystem(), path, "other") is None
    first.leave()
    assert owner_of(FileSystem(), path, "mailer") == 0
    assert second.is_first()
    assert owner_of(FileSystem(), path, "mailer") == os.getpid()
    second.leave()
    assert owner_of(FileSystem(), path, "mailer") is None
