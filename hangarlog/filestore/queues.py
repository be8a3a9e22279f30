"""Queues for the ownership of names, in locks on bytes of one file. The kernel gives back what a dead process held.

A name's bytes begin at a number made of its hash. Who queues locks the byte after the last locked one. The first is the
owner. Two names with the same hash share a queue: one of them waits longer than it needs to.
"""

from __future__ import annotations

import contextlib
from hashlib import blake2b

from hangarlog.eventstore.queue import Place
from hangarlog.system.filesystem import FileSystem

_LENGTH = 1 << 22
"""Bytes for each name. A queue that is never empty may take as many places; then it begins anew."""
_NAMES = 1 << 40


class BytePlace(Place):
    """A place in the queue for `name`, in the lock file at `path`, which is created if missing.

    Each place has an open file of its own, so it excludes other threads, too.
    """

    def __init__(self, filesystem: FileSystem, path: str, name: str) -> None:
        """Join the queue. Raises `OSError`."""
        self._filesystem = filesystem
        self._first = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") % _NAMES * _LENGTH
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
        return not before or self._filesystem.held_byte(self._fd, self._first, before) is None

    def leave(self) -> None:
        """As `Place.leave`."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                self._filesystem.leave_byte(fd, self._at)  # A close alone would leave it to a forked child.
            finally:
                self._filesystem.close(fd)
