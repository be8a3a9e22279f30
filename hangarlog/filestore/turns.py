"""Turns at a stream: after a conflict, one caller of `execute` goes first, and the others wait.

A turn is a lock on one byte of the file `turns.lock`, chosen by the stream's id. It excludes other processes and other
threads, because each holder opens the file. Where bytes cannot be locked, there are no turns.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from random import random
from time import monotonic
from zlib import crc32

from hangarlog.errors import LockTimeoutError
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.platform import BYTE_LOCKS

_PAUSE_SECONDS = 0.0005


class Turns:
    """The turns at the streams of one store, whose file is at `path`."""

    def __init__(self, filesystem: FileSystem, path: str, seconds: float | None) -> None:
        self._filesystem, self._path, self._seconds = filesystem, path, seconds

    def wait(self, stream_id: str) -> None:
        """Wait while somebody has the turn at a stream. Raises `LockTimeoutError`."""
        if not BYTE_LOCKS:
            return
        try:
            fd, at = self._filesystem.open_read(self._path), _byte_of(stream_id)
        except OSError:
            return  # Without the file there are no turns; the append will say what is wrong.
        try:
            self._until(lambda: self._filesystem.held_byte(fd, at) is None)
        finally:
            self._filesystem.close(fd)

    @contextlib.contextmanager
    def taken(self, stream_id: str) -> Iterator[None]:
        """Have the turn at a stream for the block. Raises `LockTimeoutError`.

        Where the system refuses it, there is no turn: the append will say what is wrong.
        """
        fd, at = -1, _byte_of(stream_id)
        try:
            with contextlib.suppress(OSError):
                if BYTE_LOCKS:
                    fd = self._filesystem.open_update(self._path, create=True)
                    self._until(lambda: self._take(fd, at))
            yield
        finally:
            with contextlib.suppress(OSError):
                if fd >= 0:
                    self._give_back(fd, at)

    def _give_back(self, fd: int, at: int) -> None:
        try:
            self._filesystem.leave_byte(fd, at)  # A close alone would leave it to a forked child.
        finally:
            self._filesystem.close(fd)

    def _take(self, fd: int, at: int) -> bool:
        try:
            self._filesystem.hold_byte(fd, at, alone=True)
        except BlockingIOError:
            return False
        return True

    def _until(self, done: Callable[[], bool]) -> None:
        deadline = None if self._seconds is None else monotonic() + self._seconds
        while not done():
            if deadline is not None and monotonic() > deadline:
                store = os.path.dirname(os.path.dirname(self._path))
                raise LockTimeoutError(store, 0, self._seconds or 0)
            threading.Event().wait(_PAUSE_SECONDS * (0.5 + random()))


def _byte_of(stream_id: str) -> int:
    return crc32(stream_id.encode())
