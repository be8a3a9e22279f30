"""Waking other processes: a word in shared memory that is waited at, with a futex where the system has one.

A bell is not a lock: whoever is woken looks again whether what it waits for is so. A ringer that dies before it rings
costs its waiters one `PATIENCE`.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

from hangarlog.late import importing

PATIENCE = 0.05
"""Seconds after which a waiter looks again although nobody rang."""

SOON = 100_000
"""Nanoseconds that somebody may wait before the others let them go first: to be woken takes as long as ten appends."""

_POLL = 0.001  # Where no futex is to be had.
_WAIT, _WAKE = 0, 1
_EVERYBODY = (1 << 31) - 1

_now = time.monotonic_ns  # Of the machine: all processes share it.

give_way: Callable[[], None] = getattr(os, "sched_yield", partial(time.sleep, 0))
"""Let whoever else could run do so first, for a moment; nothing where nobody can."""


class Bell:
    """Two words of a shared mapping: a count of ringings, and since when somebody waits (0: nobody does).

    It is due as soon as anybody waits, or after `SOON` if it `gives_time`: then one at a time waits, who says `leave`.
    """

    def __init__(self, *, gives_time: bool = False) -> None:
        self._gives_time = gives_time
        self._mapped: mmap.mmap | None = None
        self._offset = self._address = 0
        self._words: memoryview | None = None

    def hang(self, mapped: mmap.mmap, offset: int) -> None:
        """Use the 16 bytes at `offset` of a writable shared mapping."""
        self._mapped, self._offset, self._address = mapped, offset, 0
        self._words = memoryview(mapped)[offset : offset + 16].cast("Q")

    def take_down(self) -> None:
        """Let go of the mapping."""
        if self._words:
            self._words.release()
        self._words = self._mapped = None
        self._address = 0

    @property
    def awaited(self) -> bool:
        """Whether somebody may be waiting."""
        return self._words is not None and self._words[1] != 0

    @property
    def due(self) -> bool:
        """Whether it is time for somebody who may be waiting."""
        since = self._words[1] if self._words is not None else 0
        return since != 0 and not (self._gives_time and 0 <= _now() - since < SOON)

    def listen(self) -> int:
        """Say that somebody waits, before looking at what is waited for; the result is for `wait`."""
        if self._words is None:
            return 0
        if not (self._gives_time and self._words[1]):
            self._words[1] = _now() if self._gives_time else 1
        return self._words[0]

    def leave(self) -> None:
        """Say that nobody waits any longer."""
        if self._words is not None:
            self._words[1] = 0

    def wait(self, heard: int, seconds: float = PATIENCE) -> None:
        """Return when the bell has rung since `listen` gave `heard`, at the latest after `seconds`; perhaps sooner."""
        address = self._address or self._futex_word()
        if self._words is None or not address:
            threading.Event().wait(min(seconds, _POLL))
        elif self._words[0] == heard:
            _futex(address, _WAIT, heard, min(seconds, SOON / 1e9 if self._gives_time else PATIENCE))

    def ring(self, *, everybody: bool = False) -> None:
        """Wake the one who has waited longest, or everybody. What was waited for must be so already."""
        words = self._words
        if words is None or not words[1]:
            return
        # In this order: whoever says so from here on is not overlooked, and whoever has said so but does not sleep yet
        # finds the count changed.
        words[1] = 0
        words[0] = (words[0] + 1) & 0xFFFF_FFFF
        address = self._address or self._futex_word()
        if address and _futex(address, _WAKE, _EVERYBODY if everybody else 1) and not everybody:
            words[1] = 1  # Perhaps others sleep on.

    def _futex_word(self) -> int:
        """Where the count is in memory; 0 where there is no futex to wait at it with."""
        if not self._address and self._mapped is not None and _has_futex():
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
    return int(_call()(_NUMBER, address, operation, value, limit, None, 0))
