"""The write lock: one holder among all threads and processes, served in turn.

Two locks make a turnstile. Whoever waits for the store stands in the first one, alone, so that a process that comes
back at once must queue behind it. The descriptors stay open: opening a lock file costs more than the append.
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
"""So often whoever finds it busy lets others run and tries again; with 5 the writers of one stream did a fifth less."""


class Threads(Protocol):
    """What `threading.RLock` makes."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it."""

    def release(self) -> None:
        """Give it back."""

    def _is_owned(self) -> bool: ...


_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive lock on a file between processes. The file is created, and never deleted: two could lock two files.

    Between the threads of a process `threads` decides: whoever calls anything here has taken it by `enter`. Waiters
    sleep at `futex`, and are woken when the lock is given back. The lock itself is the kernel's: that of a process that
    dies is free.
    """

    def __init__(self, filesystem: FileSystem, path: str, futex: Futex | None = None) -> None:
        self._filesystem, self.path = filesystem, path
        self.futex = futex or Futex()
        self.threads: Threads = cast(Threads, threading.RLock())
        self.fd = -1
        self.opened = False
        """Whether the file was opened since the session that it belongs to was last joined."""
        self.inherited = False
        """Whether this is the child of a fork, which takes part in the session by its parent's locks until it joins."""
        self.woke = False
        """Whether somebody was waiting when it was last given back."""
        self._held = False  # Perhaps it is not, if this is set: an interrupt can come in between.
        _locks.add(self)

    def acquire(self, seconds: float | None = None) -> bool:
        """Take the lock, and say whether it was to be had in so many seconds (None: wait for ever, 0: do not wait).

        Whatever happens, `release` it: an interrupt may come just after it was taken.
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
        """Take the lock if it is free, and say whether it was; `release` it whatever happens."""
        if self.fd < 0:
            self.open()
        self._held = True
        if self._filesystem.lock(self.fd):
            return True
        self._held = False
        return False

    def open(self) -> None:
        """Open the file, where it is not; made if there is none."""
        if self.fd < 0:
            self.fd = self._open()
            self.opened = True

    def _wait(self, seconds: float | None) -> bool:
        deadline = None if seconds is None else monotonic() + seconds
        while True:
            heard = self.futex.listen()
            if self._filesystem.lock(self.fd):
                return True
            left = PATIENCE_SECONDS if deadline is None else deadline - monotonic()
            if left <= 0:
                return False
            self.futex.wait(heard, left)

    def _open(self) -> int:
        try:
            return self._filesystem.open_update(self.path, create=True)
        except FileNotFoundError:  # Lock files hold nothing: a copy of a store may come without their folder.
            self._filesystem.make_folder(os.path.dirname(self.path))
            return self._filesystem.open_update(self.path, create=True)

    @property
    def store_path(self) -> str:
        """The folder of the store that it is for."""
        return os.path.dirname(os.path.dirname(self.path))

    @property
    def is_in_place(self) -> bool:
        """Whether the file that is open is the one that has its name."""
        return self.fd >= 0 and self._filesystem.identity_at(self.path) == self._filesystem.identity(self.fd)

    def replace(self, seconds: float | None) -> bool:
        """While it is held: take the lock of the file that has the name now, made if there is none, in its stead."""
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
        """Give the lock back, if it was taken, and wake whoever has waited longest, or everybody.

        Explicitly: a forked child that still has the descriptor would keep it held.
        """
        if not self._held:
            return
        if self.fd >= 0:
            try:
                self._filesystem.unlock(self.fd)
            except BaseException as error:
                self.close()  # That gives it back, too.
                if not isinstance(error, OSError):
                    raise
        self._held = False
        self._wake(everybody=everybody)

    def _wake(self, *, everybody: bool) -> None:
        self.woke = self.futex.due
        if self.woke:
            self.futex.wake(everybody=everybody)

    def close_unless_in_place(self) -> None:
        """Close the file where another one has its name, or none, to open that one next time."""
        if self.fd >= 0 and not self.is_in_place:
            self.close()

    def holder(self) -> int:
        """The process that holds the lock, 0 where that is not to be found out."""
        return self._filesystem.lock_holder(self.fd) if self.fd >= 0 else 0

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self._filesystem.close(fd)

    __del__ = close

    def _forked(self) -> None:
        # In the child: the descriptor shares the parent's lock, and the thread that held the other may not exist here.
        self.threads = cast(Threads, threading.RLock())
        self._held, self.inherited = False, True
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)


class FairLock(FileLock):
    """A lock that serves its waiters in turn: whoever has to wait for it holds `gate` meanwhile.

    Whoever runs may take it again until the one at the gate has waited for `SOON_NS`.
    """

    def __init__(self, filesystem: FileSystem, folder: str, name: str) -> None:
        super().__init__(filesystem, os.path.join(folder, f"{name}.lock"))
        self._gate = FileLock(filesystem, os.path.join(folder, f"{name}-gate.lock"))
        self.since: int | None = None
        """Since when somebody was waiting when the lock was taken, as the holder read it; None: it has not looked."""

    def _wake(self, *, everybody: bool) -> None:
        # Nobody is due who came after the lock was taken, unless it was held for long: then they look by themselves.
        if self.futex.due if self.since is None else self.futex.is_due(self.since):
            self.futex.wake(everybody=everybody)
        self.since = None

    def renew_gate(self) -> None:
        """Use the gate's file that has the name now."""
        if self._gate.fd >= 0 and not self._gate.is_in_place:
            self._gate.close()

    def acquire(self, seconds: float | None = None, look: Callable[[], None] | None = None) -> bool:
        """As with any `FileLock`; `look` is called while it is busy, and may raise to give up."""
        tries = _TRIES
        while tries and not self.futex.due:
            if self.take():
                return True
            give_way()  # It is held for microseconds: to sleep and be woken takes longer.
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
                self._gate.release()  # An interrupt came first.
                raise

    def wake_with(self, gate_futex: Futex, lock_futex: Futex) -> None:
        """Use the futexes that all processes share, once they are known."""
        self._gate.futex, self.futex = gate_futex, lock_futex

    def close(self) -> None:
        """Close the files."""
        self._gate.close()
        super().close()


def enter(threads: Threads, seconds: float | None) -> bool:
    """Take the lock between threads within so many seconds (None: however long that takes), and say whether it was.

    Whatever happens, release it if that is so or `_is_owned` says so, and call nothing before: an interrupt comes after
    a call, this one too.
    """
    return threads.acquire(False) or threads.acquire(True, -1 if seconds is None else max(0.0, seconds))


@contextlib.contextmanager
def alone(lock: FileLock, seconds: float | None = None) -> Iterator[None]:
    """No other thread, within so many seconds. Raises `LockTimeoutError`."""
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
    """The lock, taken, within so many seconds (None: however long that takes). Raises `LockTimeoutError`."""
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
                lock.release()  # An interrupt came first.
                raise


def _after_fork() -> None:
    for lock in list(_locks):
        lock._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
