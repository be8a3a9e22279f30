"""File locks between processes, and the fair lock that serves them in turn.

A fair lock is two locks. A waiting process holds the gate lock, so a process that just released the store queues behind
it. The lock files stay open, because opening one costs more than an append.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Protocol, cast

from hangarlog.errors import LockTimeoutError
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.futex import PATIENCE_SECONDS, Futex, give_way

_TRIES = 20
"""How often to yield and retry while the lock is busy. With 5 tries, the writers of one stream did a fifth less."""


class Threads(Protocol):
    """The type of `threading.RLock()`."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock."""

    def release(self) -> None:
        """Release the lock."""

    def _is_owned(self) -> bool: ...


_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive lock between processes, on a file that is created if missing and never deleted.

    `threads` excludes the other threads of this process: callers of any method must hold it, see `enter`. Waiting
    processes sleep on `futex` and are woken when the lock is released. If a process dies, the kernel releases its lock.
    """

    def __init__(self, filesystem: FileSystem, path: str, futex: Futex | None = None) -> None:
        self._filesystem, self.path = filesystem, path
        self.futex = futex or Futex()
        self.threads: Threads = cast(Threads, threading.RLock())
        self.fd = -1
        self.opened = False
        """True if the file was opened after its session was last joined."""
        self.inherited = False
        """True in the child of a fork that still takes part in the session by its parent's locks."""
        self.woke = False
        """True if a process was waiting when the lock was last released."""
        self._held = False  # After an interrupt it may be True although the lock is not held.
        _locks.add(self)

    def acquire(self, seconds: float | None = None) -> bool:
        """Take the lock within `seconds` (None: wait for ever, 0: do not wait), and return True if it was taken.

        Always call `release` afterwards, even after an exception: an interrupt may come just after the lock was taken.
        """
        if self.take():
            return True
        if seconds != 0:
            self._held = True
            if self._wait(seconds):
                return True
            self._held = False
        return False

    def take(self) -> bool:
        """Take the lock if it is free, and return True if it was taken. Always call `release` afterwards."""
        if self.fd < 0:
            self.open()
        self._held = True
        if self._filesystem.lock(self.fd):
            return True
        self._held = False
        return False

    def open(self) -> None:
        """Open the file unless it is open. Create it if it is missing."""
        if self.fd < 0:
            self.fd = self._open()
            self.opened = True

    def _wait(self, seconds: float | None) -> bool:
        deadline = None if seconds is None else monotonic() + seconds
        while True:
            count = self.futex.listen()
            if self._filesystem.lock(self.fd):
                return True
            left = PATIENCE_SECONDS if deadline is None else deadline - monotonic()
            if left <= 0:
                return False
            self.futex.wait(count, left)

    def _open(self) -> int:
        try:
            return self._filesystem.open_update(self.path, create=True)
        except FileNotFoundError:  # A copy of a store may lack the folder: lock files hold no data.
            self._filesystem.make_folder(os.path.dirname(self.path))
            return self._filesystem.open_update(self.path, create=True)

    @property
    def store_path(self) -> str:
        """The folder of the lock's store."""
        return os.path.dirname(os.path.dirname(self.path))

    @property
    def is_in_place(self) -> bool:
        """True if the open file is still the one at `path`."""
        return self.fd >= 0 and self._filesystem.identity_at(self.path) == self._filesystem.identity(self.fd)

    def replace(self, seconds: float | None) -> bool:
        """Swap a held lock for one on the file that is at `path` now, created if missing, within `seconds`.

        Return True if the new lock was taken. If not, the old one stays held.
        """
        fd, other = self._open(), FileLock(self._filesystem, self.path, self.futex)
        other.fd = fd
        if not other.acquire(seconds):
            other.close()
            return False
        self.fd, other.fd = fd, self.fd
        self.opened = True
        other.close()
        return True

    def release(self, *, everybody: bool = False) -> None:
        """Release the lock if it was taken, and wake the process that has waited longest, or all.

        It unlocks explicitly: after a close alone, a forked child that shares the descriptor would keep the lock.
        """
        if not self._held:
            return
        if self.fd >= 0:
            try:
                self._filesystem.unlock(self.fd)
            except BaseException as error:
                self.close()  # That releases it, too.
                if not isinstance(error, OSError):
                    raise
        self._held = False
        self._wake(everybody=everybody)

    def _wake(self, *, everybody: bool) -> None:
        self.woke = self.futex.due
        if self.woke:
            self.futex.wake(everybody=everybody)

    def close_unless_in_place(self) -> None:
        """Close the file if it is no longer the one at `path`. The next use opens that one."""
        if self.fd >= 0 and not self.is_in_place:
            self.close()

    def holder(self) -> int:
        """Return the id of the process that holds the lock, 0 if unknown."""
        return self._filesystem.lock_holder(self.fd) if self.fd >= 0 else 0

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self._filesystem.close(fd)

    __del__ = close

    def _forked(self) -> None:
        # In the child, the descriptor shares the parent's lock, and the thread that held `threads` may not exist.
        self.threads = cast(Threads, threading.RLock())
        self._held, self.inherited = False, True
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)


class FairLock(FileLock):
    """A lock that serves waiting processes in turn: the first of them holds the gate lock, the others queue for it.

    A running process may take the lock again until the process at the gate has waited for `FAIR_AFTER_NS`.
    """

    def __init__(self, filesystem: FileSystem, folder: str, name: str) -> None:
        super().__init__(filesystem, os.path.join(folder, f"{name}.lock"))
        self._gate = FileLock(filesystem, os.path.join(folder, f"{name}-gate.lock"))
        self.since: int | None = None
        """Since when a process had been waiting when the lock was taken (monotonic ns; 0: none, None: not read)."""

    def _wake(self, *, everybody: bool) -> None:
        # A process that came after the lock was taken need not be woken: if the lock is held for long, it looks again.
        if self.futex.due if self.since is None else self.futex.is_due(self.since):
            self.futex.wake(everybody=everybody)
        self.since = None

    def renew_gate(self) -> None:
        """Close the gate's file if it is no longer the one at its path. The next use opens that one."""
        if self._gate.fd >= 0 and not self._gate.is_in_place:
            self._gate.close()

    def acquire(self, seconds: float | None = None, look: Callable[[], None] | None = None) -> bool:
        """Take the lock as `FileLock.acquire` does. While it is busy, call `look`, which may raise to give up."""
        tries = _TRIES
        while tries and not self.futex.due:
            if self.take():
                return True
            give_way()  # The lock is held for microseconds: sleeping and waking up takes longer.
            if look:
                look()
            tries -= 1
        if look:
            look()
        deadline = None if seconds is None else monotonic() + seconds
        try:
            if not self._gate.acquire(seconds):
                return False
            taken = super().acquire(None if deadline is None else max(0.0, deadline - monotonic()))
            self.futex.leave()
            return taken
        finally:
            try:
                self._gate.release()
            except BaseException:
                self._gate.release()  # An interrupt came before the lock was released.
                raise

    def wake_with(self, gate_futex: Futex, lock_futex: Futex) -> None:
        """Wait on these futexes, which all processes share, from now on."""
        self._gate.futex, self.futex = gate_futex, lock_futex

    def close(self) -> None:
        """Close the files."""
        self._gate.close()
        super().close()


def enter(threads: Threads, seconds: float | None) -> bool:
    """Take a lock between threads within `seconds` (None: wait for ever), and return True if it was taken.

    In a `finally` block, release it if this returned True or `_is_owned()` does. Call nothing in between: an interrupt
    can come after any call, also after this one.
    """
    return threads.acquire(False) or threads.acquire(True, -1 if seconds is None else max(0.0, seconds))


@contextlib.contextmanager
def alone(lock: FileLock, seconds: float | None = None) -> Iterator[None]:
    """Exclude the other threads of this process from the block. Raises `LockTimeoutError` after `seconds`."""
    threads, entered = lock.threads, False
    try:
        entered = enter(threads, seconds)
        if not entered:
            raise LockTimeoutError(lock.store_path, os.getpid(), seconds or 0)
        yield
    finally:
        if entered or threads._is_owned():
            threads.release()


@contextlib.contextmanager
def held(lock: FileLock, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock for the block. Raises `LockTimeoutError` after `seconds` (None: wait for ever)."""
    began = monotonic()
    with alone(lock, seconds):
        try:
            if not lock.acquire(None if seconds is None else max(0.0, began + seconds - monotonic())):
                raise LockTimeoutError(lock.store_path, lock.holder(), seconds or 0)
            yield
        finally:
            try:
                lock.release()
            except BaseException:
                lock.release()  # An interrupt came before the lock was released.
                raise


def _after_fork() -> None:
    for lock in list(_locks):
        lock._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
