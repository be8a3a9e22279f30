"""The write lock: one holder among all threads and processes, served in turn.

Two locks make a turnstile. Whoever waits for the store stands in the first one, alone, so that a process that comes
back at once must queue behind it. The descriptors stay open: opening a lock file costs more than the append.
"""

from __future__ import annotations

import os
import threading
import weakref
from time import monotonic
from types import TracebackType

from filelock import lock_descriptor, unlock_descriptor

from hangarlog.bell import PATIENCE, Bell
from hangarlog.filesystem import FileSystem

_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive lock on a file between processes, and between the threads of this one.

    The file is created, and never deleted: two holders could lock two files of one name. It is not for nesting: a
    thread that takes it while it holds it was kept by an interrupt from giving it back, and goes on with it.

    Waiters sleep at `bell`, which is rung when the lock is given back. The lock itself is the kernel's: that of a
    process that dies is free at once.
    """

    def __init__(self, filesystem: FileSystem, path: str, bell: Bell | None = None) -> None:
        self._filesystem, self.path = filesystem, path
        self.bell = bell or Bell()
        self._fd = -1
        self._held = False
        self._threads = threading.RLock()
        _locks.add(self)

    def acquire(self, seconds: float | None = None) -> bool:
        """Take the lock, and say whether it was to be had in so many seconds (None: wait for ever, 0: do not wait)."""
        deadline = None if seconds is None else monotonic() + seconds
        if not self._threads.acquire(timeout=-1 if seconds is None else seconds):
            return False
        try:
            if self._held:
                self._threads.release()  # The level that the interrupt left.
                return True
            if self._fd < 0:
                self._fd = self._open()
            if lock_descriptor(self._fd, blocking=False) or (seconds != 0 and self._wait(deadline)):
                self._held = True
                return True
        except BaseException:
            self._held = False
            if self._fd >= 0:
                unlock_descriptor(self._fd)  # An interrupt may have come just after the lock was taken.
            self._threads.release()
            raise
        self._threads.release()
        return False

    def _wait(self, deadline: float | None) -> bool:
        while True:
            heard = self.bell.listen()
            if lock_descriptor(self._fd, blocking=False):
                return True
            left = PATIENCE if deadline is None else deadline - monotonic()
            if left <= 0:
                return False
            self.bell.wait(heard, left)

    def _open(self) -> int:
        try:
            return self._filesystem.open_update(self.path, create=True)
        except FileNotFoundError:  # Lock files hold nothing: a copy of a store may come without their folder.
            self._filesystem.make_folder(os.path.dirname(self.path))
            return self._filesystem.open_update(self.path, create=True)

    def release(self, *, everybody: bool = False) -> None:
        """Give the lock back and wake whoever has waited longest, or everybody.

        Explicitly: a forked child that still has the descriptor would keep it held.
        """
        self._held = False
        unlock_descriptor(self._fd)
        self._threads.release()
        self.bell.ring(everybody=everybody)

    def close(self) -> None:
        """Close the file; the lock must not be held."""
        with self._threads:
            if self._fd >= 0:
                self._filesystem.close(self._fd)
                self._fd = -1

    def _forked(self) -> None:
        # In the child: the descriptor shares the parent's lock, and the thread that held the other may not exist here.
        self._threads = threading.RLock()
        self._held = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Turnstile:
    """A lock that serves its waiters in turn: `gate` is held only while waiting for `lock`."""

    def __init__(self, filesystem: FileSystem, folder: str, name: str) -> None:
        self._gate = FileLock(filesystem, os.path.join(folder, f"{name}-gate.lock"))
        self._lock = FileLock(filesystem, os.path.join(folder, f"{name}.lock"))

    def acquire(self, seconds: float | None = None) -> bool:
        """Take the lock, and say whether it was to be had in so many seconds (None: wait for ever, 0: do not wait)."""
        deadline = None if seconds is None else monotonic() + seconds
        if not self._gate.acquire(seconds):
            return False
        try:
            return self._lock.acquire(None if deadline is None else max(0.0, deadline - monotonic()))
        finally:
            self._gate.release()

    def wake_with(self, gate_bell: Bell, lock_bell: Bell) -> None:
        """Use the bells that all processes share, once they are known."""
        self._gate.bell, self._lock.bell = gate_bell, lock_bell

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def close(self) -> None:
        """Close the files; the lock must not be held."""
        self._gate.close()
        self._lock.close()


def _after_fork() -> None:
    for lock in list(_locks):
        lock._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
