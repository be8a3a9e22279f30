"""Sessions tell whether `state` may be believed, and who begins the next session.

A process takes part in a session from its first append until it closes the store; or from opening the store, if it
opened it alone. It shares a lock on one byte, the session's number, of the store's folder and of both lock files. Such
a lock cannot be copied, restored or deleted. As long as a process takes part, the page cache lives and the words in
`state` stay valid. If nobody takes part, the opener begins a session, with a recovery as after a restart.

If somebody deletes `state` or the lock files, the first process to notice begins a session with a higher number, while
holding the old locks. The others follow it. A process changes nothing unless its session is the highest.
"""

from __future__ import annotations

import contextlib
import os
import threading
from random import getrandbits
from time import time_ns

from hangarlog.system.file_lock import FileLock
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.platform import BYTE_LOCKS

_STEP_BITS = 40  # Random bits in the step to the next session's number, a byte's number in a file: below 2^63.
_MAX_LOOKS = 50  # Attempts, a millisecond apart.
LOCKS_GONE = (
    "its lock files were deleted while another process has it open; have that process append once, which makes them "
    "anew, or close it there"
)
"""Said to a process whose lock files are not those of the other members."""

_RACY_NS = 20_000_000
"""Nanoseconds: two changes of a folder within this time may leave the same change time."""


class FolderWatch:
    """Notices when an entry of the store's folder was made, replaced or deleted, or the folder itself was moved."""

    def __init__(self, filesystem: FileSystem, fd: int, path: str) -> None:
        self._filesystem, self._fd, self._path = filesystem, fd, path
        self._looked_at, self._racy = -1, True

    def changed(self) -> bool:
        """True if something has changed since the last look, or may have: a look just after a change leaves doubt."""
        return self._racy or self.now() != self._looked_at

    def surely_changed(self) -> bool:
        """True if something has certainly changed since the last look."""
        return self.now() != self._looked_at

    def now(self) -> int:
        """Return when the folder changed last, in nanoseconds."""
        return self._filesystem.folder_changed_at(self._fd, self._path)

    def settle(self, moment: int) -> None:
        """Note that everything was checked after `now` returned `moment`."""
        self._looked_at, self._racy = moment, 0 <= time_ns() - moment < _RACY_NS


def session_going_on(filesystem: FileSystem, fd: int, last: int) -> int:
    """Return `last` if another process takes part in that session, else 0. `fd` is the open folder."""
    there = BYTE_LOCKS and 0 < last < 1 << 63 and filesystem.held_byte(fd, last) is not None
    return last if there else 0


class Session:
    """This store's membership in the sessions of its folder. `fd` is the folder's descriptor, and stays open."""

    def __init__(self, filesystem: FileSystem, fd: int, locks: tuple[FileLock, FileLock]) -> None:
        self._filesystem, self._fd, self._locks = filesystem, fd, locks
        self.number = 0
        """The session that this store takes part in, or 0."""
        self._joined = (-1, -1)
        self._file, self._name = -1, ""

    def forked(self) -> None:
        """In the child of a fork: take part in nothing yet. The parent keeps its own part."""
        self._filesystem.reopen_folder(self._fd)
        self.number, self._joined = 0, (-1, -1)

    @property
    def is_joined(self) -> bool:
        """True if this store takes part, with the lock files that it has open now."""
        opened = any(lock.opened for lock in self._locks)  # A new file may have the same descriptor number.
        return not opened and self.number != 0 and self._joined == tuple(lock.fd for lock in self._locks)

    @property
    def may_stay(self) -> bool:
        """True if the store's session is the highest, and its open lock files are those of the other members."""
        number = self.number
        if not number or self.latest() > number:
            return False
        return self.is_joined or not self.others_in(number) or self.has_our_locks(number)

    def next_number(self) -> int:
        """Return the number for a new session."""
        return max(self.number, self.latest()) + 1 + getrandbits(_STEP_BITS)

    def join(self, number: int) -> None:
        """Take part in a session, and leave the previous one. Needs the write lock. Raises `OSError`."""
        filesystem = self._filesystem
        self.open_locks()
        if BYTE_LOCKS:
            for fd in (self._fd, *[lock.fd for lock in self._locks]):
                filesystem.hold_byte(fd, number)
            if self.number not in (0, number):
                filesystem.leave_byte(self._fd, self.number)
        else:  # pragma: no cover - where there are no such locks: a locked file for each member
            self.leave()
            self._name = f"open-{number:016x}-{getrandbits(64):016x}.lock"
            self._file = filesystem.open_update(os.path.join(self._folder, self._name), create=True)
            filesystem.lock(self._file)
        for lock in self._locks:
            lock.opened = lock.inherited = False
        self.number, self._joined = number, (self._locks[0].fd, self._locks[1].fd)

    def latest(self) -> int:
        """Return the highest session that others take part in, or 0."""
        latest = 0
        if not BYTE_LOCKS:  # pragma: no cover
            return self._latest_file()
        while (found := self._filesystem.held_byte(self._fd, latest + 1, 0)) is not None:
            latest = found
        return latest

    def others_in(self, number: int) -> bool:
        """True if others take part in a session."""
        if not BYTE_LOCKS:  # pragma: no cover
            return self._latest_file() == number
        return 0 < number < 1 << 63 and self._filesystem.held_byte(self._fd, number) is not None

    def latest_with_locks(self) -> int:
        """Return `latest`, or -1 if its members have other lock files than ours, because ours were deleted.

        A process that dies or closes the store may lose its lock files a moment before its part in the session.
        """
        for _ in range(_MAX_LOOKS):
            latest = self.latest()
            if not latest or self.has_our_locks(latest):
                return latest
            threading.Event().wait(0.001)
        return -1

    def open_locks(self) -> None:
        """Open the lock files unless they are open."""
        for lock in self._locks:
            lock.open()

    def has_our_locks(self, number: int) -> bool:
        """True if our open lock files are those of the session's members."""
        if not BYTE_LOCKS:  # pragma: no cover - an open file cannot be deleted on Windows
            return True
        for lock in self._locks:
            lock.open()
            if self._filesystem.held_byte(lock.fd, number) is None:
                return False
        return True

    @property
    def _folder(self) -> str:  # pragma: no cover
        return os.path.dirname(self._locks[0].path)

    def _latest_file(self) -> int:  # pragma: no cover
        latest = 0
        for entry in list(self._filesystem.entries(self._folder)):
            parts = entry.name.removesuffix(".lock").split("-")
            if len(parts) == 3 and parts[0] == "open" and entry.name != self._name and self._is_locked(entry.path):
                latest = max(latest, int(parts[1], 16))
        return latest

    def _is_locked(self, path: str) -> bool:  # pragma: no cover
        try:
            fd = self._filesystem.open_update(path)
        except OSError:
            return True
        try:
            locked = not self._filesystem.lock(fd)
        finally:
            self._filesystem.close(fd)
        if not locked:
            self._filesystem.remove(path)  # Its owner died.
        return locked

    def leave(self) -> None:
        """Stop taking part. In the child of a fork, call `forked` first."""
        if BYTE_LOCKS and self.number and self._fd >= 0:
            with contextlib.suppress(OSError):
                self._filesystem.leave_byte(self._fd, self.number)
        if self._file >= 0:  # pragma: no cover
            fd, self._file = self._file, -1
            self._filesystem.close(fd)
            self._filesystem.remove(os.path.join(self._folder, self._name))
