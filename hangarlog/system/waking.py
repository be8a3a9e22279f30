"""Waking the processes that wait for a store to grow, with one futex word in shared memory.

Bit 0 of the word says that somebody waits; the upper bits count the wake-ups. A waiter sets the bit, looks once more
whether the store has grown, and sleeps while the word is as it was. Who has made it grow adds 1 if the bit is set, and
wakes one sleeper, in a single system call: if the process dies, it has done both or neither. The sleeper wakes the next
one. So a writer never pays for more than one waiter.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
from collections.abc import Callable
from time import monotonic_ns, sleep
from typing import TYPE_CHECKING

from hangarlog.system.futex import ALL, NUMBER, call, has_futex, library

if TYPE_CHECKING:
    from hangarlog.system.filesystem import FileSystem

_WAKE, _WAKE_OP, _WAIT_BITSET, _WAKE_BITSET = 1, 5, 9, 10
_ADD_1, _OR_1 = 1 << 28 | 1 << 12, 2 << 28 | 1 << 12
_WORD = 0xFFFF_FFFF
_POLL_SECONDS = 0.001

_Mapped = tuple[mmap.mmap | None, int]
"""A mapped file, which stays mapped as long as somebody keeps this, and the address of the word; 0 if there is none."""


class Waking:
    """The futex word in the first 4 of 8 bytes of a shared file. Nobody sleeps at the other 4.

    Only the kernel accesses the mapped word: a file that somebody cuts cannot kill the process. `read` reads it.
    Threads may share it: a call keeps the mapping that it uses, also if another thread calls `detach`.
    """

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._filesystem: FileSystem | None = None
        self._fd, self._offset = -1, 0
        self._mapped: _Mapped = None, 0

    def attach(self, filesystem: FileSystem, fd: int, offset: int) -> None:
        """Use the 8 bytes at `offset` of a shared file that is open for writing."""
        self._filesystem, self._fd, self._offset, self._mapped = filesystem, fd, offset, (None, 0)

    def detach(self) -> None:
        """Stop using the file."""
        self._filesystem, self._mapped = None, (None, 0)

    @property
    def works(self) -> bool:
        """True if the word is mapped. Otherwise waiters must poll."""
        return self._mapped[1] != 0

    def announce(self, seen: int | None = None) -> int:
        """Announce a waiter, and return the word for `wait`. Check the condition in between.

        `seen` is a word that was read before. If it has changed since then, `wait` ends at once.
        """
        mapped = self._mapped
        word = self._read() if seen is None else seen
        if not word & 1:
            _call(mapped, 4, _WAKE_OP, 1, 0, mapped[1], _OR_1)  # Fails if the file was cut; then `wait` does not sleep.
        return word | 1

    def wait(self, word: int, seconds: float) -> bool:
        """Sleep until a wake-up after `announce` returned `word`, for at most `seconds`. Return False if none came."""
        until = monotonic_ns() + int(seconds * 1e9)
        limit = (library().c_long * 2)(until // 1_000_000_000, until % 1_000_000_000)
        mapped = self._mapped
        if _call(mapped, 0, _WAIT_BITSET, word, limit, None, _bit(word)) == 0:
            return True
        error = library().get_errno() if mapped[1] else 0
        if error not in (errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR):
            sleep(min(seconds, _POLL_SECONDS))  # The file was cut, or its disk is gone.
        return error == errno.EAGAIN

    def wake(self) -> None:
        """Wake one waiter, and clear the bit. Make the condition true before you call it."""
        mapped = self.map()
        _call(mapped, 0, _WAKE_OP, 1, 0, mapped[1], _ADD_1)

    def relay(self, now: int | None = None) -> None:
        """Wake one of those who have slept since before the last wake-up. The others have seen what it was for.

        `now` is the word as it is now, if the caller has just read it.
        """
        _call(self._mapped, 0, _WAKE_BITSET, 1, None, None, _WORD ^ _bit(self._read() if now is None else now))

    def wake_everybody(self) -> None:
        """Wake all waiters, if the word is mapped."""
        mapped = self._mapped
        _call(mapped, 0, _WAKE_OP, ALL, 0, mapped[1], _ADD_1)

    def map(self) -> _Mapped:
        """Map the file if it is not mapped yet. It cannot be if it was cut, or the system has no futexes."""
        if not self._mapped[1] and self._filesystem is not None and has_futex():
            with contextlib.suppress(OSError, ValueError):  # The file may have been cut, or be read-only.
                mapped = mmap.mmap(self._fd, 0)
                self._mapped = mapped, library().addressof(library().c_uint32.from_buffer(mapped, self._offset))
        return self._mapped


def _call(mapped: _Mapped, beyond: int, *arguments: object) -> int:
    """Call the kernel for the word, or for the one `beyond` it; return -1 if there is none."""
    return int(call()(NUMBER, mapped[1] + beyond, *arguments)) if mapped[1] else -1


def _bit(word: int) -> int:
    """Return the bit of the wake-ups that `word` has counted."""
    return 1 << (word >> 1 & 31)
