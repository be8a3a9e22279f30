"""Waking other processes, with a futex on a word in shared memory if the system has futexes.

A futex is not a lock: a woken process must check its condition again. If a process dies before it wakes others, these
wait for one `PATIENCE_SECONDS`.
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
"""Seconds after which a waiter that nobody woke checks again."""

FAIR_AFTER_NS = 100_000
"""Nanoseconds that a process may wait before the others let it go first. Waking it takes as long as ten appends."""

_POLL_SECONDS = 0.001  # Used if the system has no futex.
_WAIT, _WAKE = 0, 1
ALL = (1 << 31) - 1
"""The number of waiters to wake if all are to be woken."""
_FAULT = -2  # `_futex` returns it if the word is in no page: its file was cut, or the disk is gone.
_PAIR, _WORD = Struct("=QQ"), Struct("=Q")

_now = time.monotonic_ns  # All processes of the machine share this clock.

give_way: Callable[[], None] = getattr(os, "sched_yield", partial(time.sleep, 0))
"""Let another process or thread run first, if one is ready."""


class Futex:
    """Two words of a shared file: a count of wake-ups, and since when somebody waits (monotonic ns; 0: nobody).

    A wake-up is due as soon as somebody waits, or with `gives_time` after `FAIR_AFTER_NS`. With `gives_time` only one
    process waits at a time, and calls `leave` when it is done.
    The words are read and written by system calls. Only the futex call uses a mapping, which only the kernel accesses.
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
        """Stop using the file."""
        self._filesystem, self._address, self._mapped = None, 0, None

    def _words(self) -> tuple[int, int]:
        """Return both words, zeros if the file cannot be read."""
        filesystem = self._filesystem
        try:
            data = filesystem.pread(self._fd, 16, self._offset) if filesystem else b""
        except OSError:
            return 0, 0
        return _PAIR.unpack(data) if len(data) == 16 else (0, 0)

    def _put(self, data: bytes, at: int) -> None:
        # A full or dead disk must not keep anybody from the lock. Waiters check again by themselves.
        with contextlib.suppress(OSError):
            if self._filesystem:
                self._filesystem.write_at(self._fd, data, self._offset + at)

    @property
    def due(self) -> bool:
        """True if a wake-up is due."""
        return self.is_due(self._words()[1])

    def is_due(self, since: int) -> bool:
        """True if a wake-up is due when the second word is `since`."""
        return since != 0 and not (self._gives_time and 0 <= _now() - since < FAIR_AFTER_NS)

    def listen(self) -> int:
        """Announce a waiter, and return the count for `wait`. Call it before you check the condition."""
        count, since = self._words()  # The count must come first: every wake-up from here on changes it.
        if not (self._gives_time and since):
            self._put(_WORD.pack(_now() if self._gives_time else 1), 8)
        return count

    def leave(self) -> None:
        """Announce that nobody waits any longer."""
        self._put(_WORD.pack(0), 8)

    def wait(self, count: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Sleep until a wake-up after `listen` returned `count`, for at most `seconds`. It may return early."""
        seconds = max(0.0, seconds)
        address = self._address or self._futex_word()
        limit = min(seconds, FAIR_AFTER_NS / 1e9 if self._gives_time else PATIENCE_SECONDS)
        if not address or _futex(address, _WAIT, count, limit) == _FAULT:
            threading.Event().wait(min(seconds, _POLL_SECONDS))

    def wake(self, *, everybody: bool = False) -> None:
        """Wake the process that has waited longest, or all. Make the condition true before you call it."""
        count, since = self._words()
        if not since:
            return
        # A process that calls `listen` from here on is seen. One that has called it but does not sleep yet finds the
        # count changed.
        self._put(_PAIR.pack((count + 1) & 0xFFFF_FFFF, 0), 0)
        address = self._address or self._futex_word()
        if address and _futex(address, _WAKE, ALL if everybody else 1) > 0 and not everybody:
            self._put(_WORD.pack(1), 8)  # Others may still sleep.

    def _futex_word(self) -> int:
        """Return the memory address of the count, 0 if it cannot be used as a futex."""
        if not self._address and self._filesystem is not None and has_futex():
            with contextlib.suppress(OSError, ValueError):  # The file may have been cut.
                self._mapped = mmap.mmap(self._fd, 0)
                self._address = library().addressof(library().c_uint32.from_buffer(self._mapped, self._offset))
        return self._address


NUMBER = {"x86_64": 202, "aarch64": 98}.get(os.uname().machine) if sys.platform == "linux" else None
"""The number of the futex system call, None if unknown."""


@cache
def library() -> Any:
    """Return the module `ctypes`."""
    with importing:
        import ctypes  # Needed only when somebody waits.
    return ctypes


def has_futex() -> bool:
    """True if the system has futexes, and its library could be loaded."""
    try:
        return NUMBER is not None and call() is not None
    except (OSError, ImportError):
        return False  # No descriptor is left to load the library with.


@cache
def call() -> Any:
    """Return the C function that makes a system call."""
    c = library()
    with importing:
        call = c.CDLL(None, use_errno=True).syscall
    call.restype = c.c_long
    call.argtypes = [c.c_long, c.c_void_p, c.c_int, c.c_uint32, c.c_void_p, c.c_void_p, c.c_uint32]
    return call


@lru_cache(maxsize=16)
def _timespec(seconds: float) -> Any:
    return (library().c_long * 2)(int(seconds), int(seconds % 1 * 1e9))


def _futex(address: int, operation: int, value: int, seconds: float = 0.0) -> int:
    limit = _timespec(seconds) if operation == _WAIT else None
    done = int(call()(NUMBER, address, operation, value, limit, None, 0))
    return _FAULT if done < 0 and library().get_errno() == errno.EFAULT else done
