"""Queues for the ownership of names, in locks on bytes of one file. The kernel gives back what a dead process held.

A name's bytes begin at a number made of its hash. Who queues locks the byte after the last locked one. The first is the
owner. Two names with the same hash share a queue: one of them waits longer than it needs to. An owner also locks the
byte of its process id, so who it is can be read, and is never what a dead process has left behind.
"""

from __future__ import annotations

import contextlib
import os
from hashlib import blake2b

from hangarlog.eventstore.queue import Place
from hangarlog.system.filesystem import FileSystem

_LENGTH = 1 << 22
"""Bytes for each name. A queue that is never empty may take as many places; then it begins anew."""
_NAMES = 1 << 40
_PROCESS_IDS = _NAMES * _LENGTH
"""Where the bytes of process ids begin: for each name as many, because a process id has at most 22 bits."""


def _first_byte(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") % _NAMES * _LENGTH


def owner_of(filesystem: FileSystem, path: str, name: str) -> int | None:
    """Return the process id of the owner of `name`, None if nobody is, 0 if it has not looked yet. Raises `OSError`."""
    try:
        fd = filesystem.open_read(path)
    except FileNotFoundError:
        return None
    try:
        first = _first_byte(name)
        if filesystem.held_byte(fd, first, _LENGTH) is None:
            return None
        found = filesystem.held_byte(fd, _PROCESS_IDS + first, _LENGTH)
        return 0 if found is None else found - _PROCESS_IDS - first
    finally:
        filesystem.close(fd)


class BytePlace(Place):
    """A place in the queue for `name`, in the lock file at `path`, which is created if missing.

    Each place has an open file of its own, so it excludes other threads, too.
    """

    def __init__(self, filesystem: FileSystem, path: str, name: str) -> None:
        """Join the queue. Raises `OSError`."""
        self._filesystem = filesystem
        self._first, self._process_id = _first_byte(name), -1
        self._joined_by = os.getpid()
        self._fd = filesystem.open_update(path, create=True)
        try:
            self._at = self._join()
        except BaseException:
            filesystem.close(self._fd)
            raise

    def _join(self) -> int:
        while True:
            at, end = self._first, self._first + _LENGTH
            while at < end and (found := self._filesystem.held_byte(self._fd, at, end - at)) is not None:
                at = found + 1
            with contextlib.suppress(BlockingIOError):  # Somebody was quicker.
                self._filesystem.hold_byte(self._fd, min(at, end - 1), alone=True)
                return min(at, end - 1)

    def is_first(self) -> bool:
        """As `Place.is_first`."""
        before = self._at - self._first
        if before and self._filesystem.held_byte(self._fd, self._first, before) is not None:
            return False
        if self._process_id < 0:
            at = _PROCESS_IDS + self._first + os.getpid() % _LENGTH
            with contextlib.suppress(BlockingIOError):  # Another name with the same hash, of this process.
                self._filesystem.hold_byte(self._fd, at, alone=True)
                self._process_id = at
        return True

    def leave(self) -> None:
        """As `Place.leave`."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                if self._joined_by == os.getpid():  # A forked child has no place to give up: it is its parent's.
                    if self._process_id >= 0:
                        self._filesystem.leave_byte(fd, self._process_id)
                    self._filesystem.leave_byte(fd, self._at)  # A close alone would leave it to a forked child.
            finally:
                self._filesystem.close(fd)
