"""Group commit: one sync of the journal for everybody whose records were written before it began."""

from __future__ import annotations

import threading
import weakref

from hangarlog.errors import SyncError
from hangarlog.filesystem import FileSystem
from hangarlog.lock import FileLock
from hangarlog.segment import LIVE
from hangarlog.state import SharedState


class JournalSync:
    """Makes the journal durable up to a position, once for all who wait."""

    def __init__(self, filesystem: FileSystem, journal_base: str, lock_path: str, state: SharedState) -> None:
        self._filesystem, self._path, self._state = filesystem, journal_base + LIVE, state
        self._lock = FileLock(filesystem, lock_path)
        self._fd, self._fd_first = -1, -1

    def ensure(self, position: int) -> None:
        """Return when every record up to `position` is on the device.

        Raises:
            SyncError: the device refused; nobody can say what it holds, and no later sync may be believed.
        """
        state = self._state
        if self._covered(position):
            return
        with self._lock:
            if self._covered(position):  # Whoever held the lock before began after our record was written.
                return
            if state.sync_failed:
                raise SyncError(self._path, "an earlier sync of the journal has failed")
            target = state.committed
            try:
                self._filesystem.sync_data(self._live_fd())
            except OSError as error:
                state.mark_sync_failed()
                raise SyncError(self._path, str(error)) from error
            state.durable = target

    def _covered(self, position: int) -> bool:
        return position <= self._state.durable <= self._state.committed  # Beyond that it is not to be believed.

    def _live_fd(self) -> int:
        # Own descriptor: an appending thread may close its own at a roll. A roll syncs what it seals, so a segment
        # newer than `target` needs nothing of the older one.
        first = self._state.journal_first
        if self._fd < 0 or self._fd_first != first:
            self._close_fd()
            self._fd, self._fd_first = self._filesystem.open_append(self._path), first
        return self._fd

    def _close_fd(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._filesystem.close(fd)

    def close(self) -> None:
        """Close the files."""
        self._close_fd()
        self._lock.close()


class IntervalSync(threading.Thread):
    """Syncs the journal every so many seconds while there is something to sync."""

    def __init__(self, sync: JournalSync, state: SharedState, seconds: float) -> None:
        super().__init__(name="hangarlog-sync", daemon=True)
        self._sync, self._state, self._seconds = weakref.ref(sync), state, seconds
        self._ended = threading.Event()

    def run(self) -> None:
        """Sync until stopped; a failed sync ends it, and the next append reports the failure."""
        while not self._ended.wait(self._seconds):
            sync = self._sync()
            if sync is None or self._state.sync_failed:
                return
            try:
                sync.ensure(self._state.committed)
            except SyncError:
                return

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._ended.set()
        self.join()
