"""Group commit: one sync serves every append whose records were written before it began."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING, Any

from hangarlog.errors import (
    HangarlogError,
    LockTimeoutError,
    OutcomeUnknownError,
    StorageError,
    StoreOpenError,
    SyncError,
)
from hangarlog.filestore.commit_ring import MAX_FRAME_BYTES, Ring
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.session import FolderWatch
from hangarlog.filestore.shared_state import (
    COMMITTED,
    FAILURES,
    JOURNAL_FIRST,
    JOURNAL_SIZE,
    LAYOUT,
    RING_FILE,
    SYNC_FAILED,
    SharedState,
    Words,
    consistent,
    covers,
    durable_in,
    ring_next,
)
from hangarlog.filestore.stream_ends import sealed_journal_line
from hangarlog.record.line import CRC_BYTES, stored_crc
from hangarlog.system.file_lock import FileLock, alone, enter
from hangarlog.system.futex import PATIENCE_SECONDS, give_way
from hangarlog.system.platform import BYTE_LOCKS

if TYPE_CHECKING:
    from hangarlog.eventstore.base import EventStore

_MAX_LOOKS = 1000
"""Attempts to read files or words that others keep changing."""
_MAX_GATHERINGS = 4
"""The most times that a sync lets other processes write before it starts. It stops once no new records come."""
SYNCS_BEFORE_RING = 64
"""Syncs of one store before it creates the ring: then what it saves has made up for its creation (2.6 ms here)."""
_PAUSE_SYNCS = 1000
"""After a failed attempt to create a ring, the next one comes after this many syncs."""


class JournalSync:
    """Makes the journal durable up to a position, through the ring or by a sync of the journal itself.

    One sync serves all waiters. `rejoin` is called, without a lock held, when the store's files or its session may have
    been replaced.
    """

    def __init__(
        self,
        folder: Folder,
        store_id: str,
        state: SharedState,
        lock: FileLock,
        rejoin: Callable[[], None],
        lock_seconds: float | None,
    ) -> None:
        self._filesystem, self._state, self._folder = folder.filesystem, state, folder
        self._path = folder.journal.active_path
        self._lock, self._lock_seconds = lock, lock_seconds
        self._watch, self._rejoin = FolderWatch(folder.filesystem, folder.fd, folder.path), rejoin
        self._ring = Ring(folder.filesystem, folder.ring_path, store_id)
        self._fd, self._fd_of = -1, (-1, -1, -1)  # A descriptor of the journal, and the segment that it belongs to.
        self._replacements = 0  # Incremented when files may have been replaced.
        self._last_was_shared = False  # True if other processes waited for the last sync.
        self._syncs_without_ring = SYNCS_BEFORE_RING  # Syncs left before the next attempt to create a ring.
        self._closed, self._look_at_ring = False, True

    def ensure_committed(self, failures: int | None = None) -> None:
        """Bring every record that is committed now to the device. `failures` and what it raises are as in `ensure`."""
        try:
            words = self._state.look()
        except OSError as error:
            raise self._unknown(error) from error
        self.ensure(words[COMMITTED], words[FAILURES] if failures is None else failures)

    def ensure(self, position: int, failures: int) -> None:
        """Bring every record up to `position` to the device.

        `failures` is how many syncs had failed when the records were written. A later failure may have lost them, even
        if the journal has been healed since.

        Raises:
            SyncError: the device refused a sync. What it holds is unknown.
            OutcomeUnknownError: a file could not be opened to sync it, another process held the sync lock for longer
                than `lock_timeout`, or the folder was moved or deleted meanwhile.
        """
        try:
            self._ensure(position, failures)
        except OutcomeUnknownError:
            raise
        except (OSError, HangarlogError) as error:
            raise self._unknown(error) from error

    def _unknown(self, error: Exception) -> OutcomeUnknownError:
        cause = error.cause if isinstance(error, StorageError) else error  # Its own text says that nothing is written.
        return OutcomeUnknownError(self._path, f"it is written, but could not be synced: {cause}")

    def _ensure(self, position: int, failures: int) -> None:
        seconds = left = self._lock_seconds
        deadline, looks, changed = None if seconds is None else monotonic() + seconds, 0, self._watch.changed
        while not (done := self._try_or_wait(position, failures, changed, left)):
            left = None if deadline is None else deadline - monotonic()
            if done is None:
                looks += 1
                if looks > _MAX_LOOKS and left is not None and left <= 0:
                    raise OutcomeUnknownError(self._path, "it is written, but its files change all the time")
                self._look_again(position, left)
                changed = self._watch.surely_changed  # The files were just checked: doubt is no reason to do it again.
            elif self._covers(position):  # Another process has synced it.
                return
            else:
                changed = self._watch.changed

    def _try_or_wait(
        self, position: int, failures: int, changed: Callable[[], bool], seconds: float | None
    ) -> bool | None:
        """Call `_try`, one thread at a time. If another process is syncing, wait for it and return False."""
        threads, entered = self._lock.threads, False
        try:  # As in `alone`: a generator would cost every append a microsecond.
            entered = enter(threads, seconds)
            if not entered:
                raise LockTimeoutError(self._folder.path, os.getpid(), self._lock_seconds or 0)
            deadline = None if seconds is None else monotonic() + seconds
            done = self._try(position, failures, changed)
            if done is False:
                heard = self._state.sync_futex.listen()
                done = self._try(position, failures, changed)
                if done is False:
                    self._last_was_shared = True
                    left = PATIENCE_SECONDS if deadline is None else deadline - monotonic()
                    if left <= 0:
                        self._raise_timeout()
                    self._state.sync_futex.wait(heard, left)
            return done
        finally:
            if entered or threads._is_owned():
                threads.release()

    def _look_again(self, position: int, seconds: float | None) -> None:
        """Use the files that are in place now."""
        moment = self._watch.now()
        if not self._all_in_place(seconds):
            self._rejoin()
        self._look_at_ring, self._replacements = True, self._replacements + 1
        self._watch.settle(moment)
        self._refuse_older(position)

    def _refuse_older(self, position: int) -> None:
        if self._state.committed < position:
            raise OutcomeUnknownError(self._path, "it was written, but older files were put in its place since")

    def _all_in_place(self, seconds: float | None) -> bool:
        """True if folder, state, journal and lock are still in place, as far as one sees without the write lock."""
        state, lock, filesystem = self._state, self._lock, self._filesystem
        self._folder.refuse_moved()
        if not (state.is_in_place and state.believes(state.look())):
            return False
        with alone(lock, seconds):
            if lock.inherited and BYTE_LOCKS:  # After a fork, the file was opened again.
                lock.open()
                # If members of the session hold its byte in the file, it is the right one.
                lock.opened = filesystem.held_byte(lock.fd, state.session) is None
            if not lock.is_in_place or lock.opened:
                return False
            for _ in range(_MAX_LOOKS):  # The journal may be in the middle of a roll.
                words, size = state.look(), filesystem.size_at(self._path)
                if self._fd >= 0 and self._fd_of[0] == words[JOURNAL_FIRST]:
                    return filesystem.identity(self._fd) == filesystem.identity_at(self._path)
                if size >= words[JOURNAL_SIZE]:
                    return True
                give_way()
            return False

    def _covers(self, position: int) -> bool:
        """True if a sync of this session has covered a position, and the folder has not changed since."""
        words = self._state.look()
        return self._is_covered(words, position) and self._state.believes(words) and not self._watch.surely_changed()

    def _is_covered(self, words: Words, position: int) -> bool:
        return covers(words, position)

    def _raise_timeout(self) -> None:
        pid = self._lock.holder()
        who = f"process {pid}" if pid else "another process"
        cause = (
            f"it is written, but {who} has held the sync lock for {self._lock_seconds:g} s, so it may not be durable"
        )
        raise OutcomeUnknownError(self._path, cause)

    def _try(self, position: int, failures: int, changed: Callable[[], bool]) -> bool | None:
        """Sync unless another process is syncing, and return True if everything up to `position` is on the device.

        Return None if the store's files may have been replaced: then other processes may use another lock.
        """
        state = self._state
        if self._closed:
            raise StoreOpenError(self._folder.path, "it was closed")
        try:
            taken = self._lock.take()
            words = state.look()
            if self._lock.opened or changed() or not state.believes(words):
                return None
            if self._is_covered(words, position):  # Another sync may have begun after the record was written.
                return True
            if words[FAILURES] != failures or words[SYNC_FAILED]:
                raise SyncError(self._path, "an earlier sync has failed")
            if not taken:
                return False
            if self._last_was_shared:
                self._gather()
                words = state.look()
            done = self._sync(words)
        finally:
            try:
                self._lock.release(everybody=True)
            except BaseException:
                self._lock.release(everybody=True)  # An interrupt came before the release.
                raise
        self._last_was_shared = self._lock.woke
        state.wake_durable_followers()
        return position <= done

    def _gather(self) -> None:
        """Let the processes that the last sync woke write first, so that this sync covers them too."""
        committed = -1
        for _ in range(_MAX_GATHERINGS):
            if self._state.committed == committed:
                return
            committed = self._state.committed
            give_way()

    def _sync(self, words: Words) -> int:
        """Under the sync lock: make every commit durable, publish that, and return the durable position."""
        state = self._state
        for _ in range(_MAX_LOOKS):
            if consistent(words):
                break
            words = state.look()
        known = consistent(words)  # If not, a writer died while publishing: sync the whole file, whatever counts in it.
        published = (words[COMMITTED], words[JOURNAL_FIRST], words[JOURNAL_SIZE]) if known else (words[COMMITTED], 0, 0)
        # Not in the `try`: failing to open a file is not a failed sync. After a roll this opens the new segment, which
        # is enough, because the roll has synced the old one.
        fd = self._journal_fd(words)
        began = perf_counter_ns()
        try:
            if not known:
                self._filesystem.sync_data(fd)
            following = self._sync_published(fd, words, published)
            took = perf_counter_ns() - began
            state.made_durable(published, following)
        except OSError as error:
            state.mark_sync_failed()
            raise SyncError(self._path, str(error)) from error
        if not known or durable_in(words, published[1]) < published[2]:  # Else there was nothing to sync.
            state.count_sync(took)
        return published[0]

    def _sync_published(self, fd: int, words: Words, published: tuple[int, int, int]) -> tuple[int, int]:
        """Sync the journal up to its published size, and return the (generation, block) of the ring's next frame."""
        _, first, size = published
        start, place = durable_in(words, first), ring_next(words)
        if start < size:
            following = self._through_ring(fd, words, start, published) if size - start <= MAX_FRAME_BYTES else None
            if following is not None:
                return following
            self._filesystem.sync_data(fd)
        return place

    def _through_ring(
        self, fd: int, words: Words, start: int, published: tuple[int, int, int]
    ) -> tuple[int, int] | None:
        """Sync the journal from `start` on through the ring, and return the place of the ring's next frame.

        Return None if the journal itself must be synced.
        """
        committed, _, size = published
        ring, generation_and_block = self._ring, ring_next(words)
        if self._look_at_ring:  # It may have been deleted or replaced.
            if self._filesystem.identity_at(self._folder.ring_path) != words[RING_FILE]:
                ring.close()
                return self._make_ring(fd, generation_and_block)
            self._look_at_ring = False
        if not (words[RING_FILE] and ring.open(words[RING_FILE])):
            return self._make_ring(fd, generation_and_block)
        before = min(start, CRC_BYTES + 1)  # The frame has the checksum of the line before it.
        text = self._filesystem.read(fd, size - start + before, start - before)
        previous_crc, text = text[:before][-11:-3], text[before:]
        first = text[12:32].partition(b",")[0]  # The position in `{"position":…,`.
        if len(text) != size - start or not (first.isdigit() and int(first) <= committed) or text[-1:] != b"\n":
            return None  # A roll has put another file in place, and synced this one.
        if not start:
            previous_crc = stored_crc(sealed_journal_line(self._folder, int(first) - 1) or b"")
        generation, block = generation_and_block
        following = ring.write(generation, block, int(first), committed, text, previous_crc)
        if following < 0:
            # The ring is full. Before it is overwritten, the journal itself must be on the device.
            self._filesystem.sync_data(fd)
            return generation + 1, 0
        return generation, following

    def _make_ring(self, fd: int, place: tuple[int, int]) -> tuple[int, int] | None:
        """Create the ring, and return the place of its next frame; None if it is too early for another attempt.

        Sync the journal first, because some of it may be durable only in an earlier ring.
        """
        if self._syncs_without_ring:
            self._syncs_without_ring -= 1
            return None
        state = self._state
        self._filesystem.sync_data(fd)
        try:
            state.ring_file = self._ring.create()
            state.keep()
        except OSError:
            self._syncs_without_ring = _PAUSE_SYNCS  # No room: syncs still work, but are slower.
            state.ring_file = 0
            return place
        return place[0] + 1, 0

    def _journal_fd(self, words: Words) -> int:
        # Not the writer's descriptor, which another thread may close in a roll. If this opens a newer segment, the roll
        # has synced the older one.
        which = (words[JOURNAL_FIRST], words[LAYOUT], self._replacements)
        if self._fd < 0 or self._fd_of != which:
            self._close_fd()
            self._fd, self._fd_of = self._filesystem.open_append(self._path), which
        return self._fd

    def _close_fd(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._filesystem.close(fd)

    def close(self, seconds: float | None = None) -> None:
        """Wait for the running sync, then close the files."""
        self._closed = True
        threads = self._lock.threads
        if threads.acquire(timeout=-1 if seconds is None else seconds):
            try:
                self._close_fd()
                self._ring.close()
                self._lock.close()
            finally:
                threads.release()


class IntervalSync(threading.Thread):
    """A thread that syncs the journal every `seconds` if there is something to sync, then calls `also`."""

    def __init__(self, sync: JournalSync, state: SharedState, seconds: float, also: Callable[[], None]) -> None:
        super().__init__(name="hangarlog-sync", daemon=True)
        self._sync, self._state, self._seconds, self._also = weakref.ref(sync), state, seconds, also
        self._ended = threading.Event()

    def run(self) -> None:
        """Sync until stopped. A failed sync ends the thread; the next append heals the journal and starts another."""
        while not self._ended.wait(self._seconds):
            sync = self._sync()
            if sync is None:
                return
            try:
                if self._state.sync_failed:
                    return
                sync.ensure(self._state.committed, self._state.failures)
                self._also()
            except SyncError:
                return
            except (HangarlogError, OSError):
                continue  # If it persists, the next append reports it, and this thread tries again.

    def stop(self, seconds: float | None = None) -> None:
        """End the thread and wait for it."""
        self._ended.set()
        if threading.current_thread() is not self:  # A finalizer may run in this thread too.
            self.join(seconds)


_syncing: weakref.WeakSet[EventStore[Any]] = weakref.WeakSet()


def sync_at_exit(store: EventStore[Any]) -> None:
    """When the interpreter exits, sync this store, which syncs at intervals, once more."""
    _syncing.add(store)


@atexit.register
def _sync_at_exit() -> None:
    """Sync once more the stores that sync at intervals, while threads still run. Close nothing: they may append."""
    for store in list(_syncing):
        with contextlib.suppress(HangarlogError, OSError):
            store.sync()


def _forked() -> None:
    """In the child of a fork: forget the parent's stores, which the parent syncs."""
    global _syncing
    _syncing = weakref.WeakSet()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
