"""Waking other processes: a word in shared memory that is waited at, with a futex where the system has one.

A futex is no lock: whoever is woken looks again whether what it waits for is so. A waker that dies before it wakes
costs its waiters one `PATIENCE_SECONDS`.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import cache, lru_cache, partial
from struct import Struct
from typing import TYPE_CHECKING, Any

from hangarlog.system.import_lock import importing

if TYPE_CHECKING:
    from hangarlog.system.filesystem import FileSystem

PATIENCE_SECONDS = 0.05
"""Seconds after which a waiter looks again although nobody woke it."""

SOON_NS = 100_000
"""Nanoseconds that somebody may wait before the others let them go first: to be woken takes as long as ten appends."""

_POLL_SECONDS = 0.001  # Where no futex is to be had.
_WAIT, _WAKE = 0, 1
_EVERYBODY = (1 << 31) - 1
_FAULT = -2  # What `_futex` answers where the word is in no page: its file was cut, or the disk is gone.
_PAIR, _WORD = Struct("=QQ"), Struct("=Q")

_now = time.monotonic_ns  # Of the machine: all processes share it.

give_way: Callable[[], None] = getattr(os, "sched_yield", partial(time.sleep, 0))
"""Let whoever else could run do so first, for a moment; nothing where nobody can."""


class Futex:
    """Two words of a shared file: a count of wake-ups, and since when somebody waits (0: nobody does).

    It is due as soon as anybody waits, or `SOON_NS` later if it `gives_time`: then one at a time waits, and says
    `leave`.
    The words are read and written by calls. Only the futex call is given a mapping, which the kernel alone looks at.
    """

    def __init__(self, *, gives_time: bool = False) -> None:
        self._gives_time = gives_time
        self._filesystem: FileSystem | None = None
        self._fd, self._offset, self._address = -1, 0, 0
        self._mapped: mmap.mmap | None = None

    def attach(self, filesystem: FileSystem, fd: int, offset: int) -> None:
        """Use the 16 bytes at `offset` of an open shared file."""
        self._filesystem, self._fd, self._offset, self._address = filesystem, fd, offset, 0

    def detach(self) -> None:
        """Let go of the file."""
        self._filesystem, self._address, self._mapped = None, 0, None

    def _words(self) -> tuple[int, int]:
        """(count, since when somebody waits)."""
        filesystem = self._filesystem
        try:  # As in `_put`.
            data = filesystem.pread(self._fd, 16, self._offset) if filesystem else b""
        except OSError:
            return 0, 0
        return _PAIR.unpack(data) if len(data) == 16 else (0, 0)

    def _put(self, data: bytes, at: int) -> None:
        # A disk that takes no more must not keep anybody from the lock: waiters look again by themselves.
        with contextlib.suppress(OSError):
            if self._filesystem:
                self._filesystem.write_at(self._fd, data, self._offset + at)

    @property
    def due(self) -> bool:
        """Whether it is time for somebody who may be waiting."""
        return self.is_due(self._words()[1])

    def is_due(self, since: int) -> bool:
        """The same, where `since` is what the second word said."""
        return since != 0 and not (self._gives_time and 0 <= _now() - since < SOON_NS)

    def listen(self) -> int:
        """Say that somebody waits, before looking at what is waited for; the result is for `wait`."""
        count, since = self._words()  # The count first: who rings from here on changes it.
        if not (self._gives_time and since):
            self._put(_WORD.pack(_now() if self._gives_time else 1), 8)
        return count

    def leave(self) -> None:
        """Say that nobody waits any longer."""
        self._put(_WORD.pack(0), 8)

    def wait(self, heard: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Return when it was woken since `listen` gave `heard`, at the latest after `seconds`; perhaps sooner."""
        seconds = max(0.0, seconds)
        address = self._address or self._futex_word()
        limit = min(seconds, SOON_NS / 1e9 if self._gives_time else PATIENCE_SECONDS)
        if not address or _futex(address, _WAIT, heard, limit) == _FAULT:
            threading.Event().wait(min(seconds, _POLL_SECONDS))

    def wake(self, *, everybody: bool = False) -> None:
        """Wake the one who has waited longest, or everybody. What was waited for must be so already."""
        count, since = self._words()
        if not since:
            return
        # Whoever says so from here on is not overlooked, and whoever has said so but does not sleep yet finds the count
        # changed.
        self._put(_PAIR.pack((count + 1) & 0xFFFF_FFFF, 0), 0)
        address = self._address or self._futex_word()
        if address and _futex(address, _WAKE, _EVERYBODY if everybody else 1) > 0 and not everybody:
            self._put(_WORD.pack(1), 8)  # Perhaps others sleep on.

    def _futex_word(self) -> int:
        """Where the count is in memory; 0 where there is no futex to wait at it with."""
        if not self._address and self._filesystem is not None and _has_futex():
            with contextlib.suppress(OSError, ValueError):  # It may have been cut.
                self._mapped = mmap.mmap(self._fd, 0)
                self._address = _c().addressof(_c().c_uint32.from_buffer(self._mapped, self._offset))
        return self._address


_NUMBER = {"x86_64": 202, "aarch64": 98}.get(os.uname().machine) if sys.platform == "linux" else None
"""The number of the system call, where it is known."""


@cache
def _c() -> Any:
    with importing:
        import ctypes  # Only whoever has to wait, or has somebody wait, needs it.
    return ctypes


def _has_futex() -> bool:
    try:
        return _NUMBER is not None and _call() is not None
    except (OSError, ImportError):
        return False  # There is no descriptor left to load it with.


@cache
def _call() -> Any:
    c = _c()
    with importing:
        call = c.CDLL(None, use_errno=True).syscall
    call.restype = c.c_long
    call.argtypes = [c.c_long, c.c_void_p, c.c_int, c.c_uint32, c.c_void_p, c.c_void_p, c.c_int]
    return call


@lru_cache(maxsize=16)
def _timespec(seconds: float) -> Any:
    return (_c().c_long * 2)(int(seconds), int(seconds % 1 * 1e9))


def _futex(address: int, operation: int, value: int, seconds: float = 0.0) -> int:
    limit = _timespec(seconds) if operation == _WAIT else None
    done = int(_call()(_NUMBER, address, operation, value, limit, None, 0))
    return _FAULT if done < 0 and _c().get_errno() == errno.EFAULT else done
