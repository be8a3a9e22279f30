"""The write lock of a store. Its holder finds everything that it protects up to date and recovered."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from hangarlog.errors import HangarlogError, LockTimeoutError, StorageError, StoreBusyError, StoreOpenError, SyncError
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.checkpointing import Checkpointing
from hangarlog.filestore.folder import Folder, Meta, active_journal
from hangarlog.filestore.open_streams import OpenStreams
from hangarlog.filestore.session import LOCKS_GONE, FolderWatch, Session
from hangarlog.filestore.shared_state import (
    COMMITTED,
    EXCLUSIVE,
    FOLLOWED_AT,
    JOURNAL_FIRST,
    JOURNAL_SIZE,
    LAYOUT,
    LOCK_WAITERS,
    STANDING,
    SYNC_FAILED,
    TAIL,
    WAITING,
    WRITING,
    SharedState,
    consistent,
    words_of,
)
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.record.batch import Pending
from hangarlog.system.file_lock import FairLock, FileLock, alone, held
from hangarlog.system.import_lock import importing

if TYPE_CHECKING:
    from hangarlog.filestore.recovery.report import Recovered

_DYING_SECONDS = 0.2
"""Seconds to wait for an exclusive holder that may be dying."""
_UNWATCHED_SECONDS = 0.001
"""Seconds for which a relaxed append may overlook a change of the store's folder. Nothing durable is lost in them."""
_NOBODY = bytes(8)
_forks = 0


class WriteSession:
    """The write lock of one store, in this process, and what it protects: the journal, open streams, shared words.

    Threads may share it, and so may a forked child.

    `recovered` is the report of the last recovery that this process made, None before one. `raw` holds the shared
    words as they were when the lock was taken; `committed`, `journal_first` and `tail` are three of them. `standing`
    holds the words that only writers change, as the last commit of this process left them.
    """

    def __init__(
        self,
        folder: Folder,
        meta: Meta,
        state: SharedState,
        catalog: Catalog,
        locks: tuple[FairLock, FileLock],
        lock_seconds: float | None,
    ) -> None:
        self.path = folder.path
        self.recovered: Recovered | None = None
        self.folder, self.filesystem, self.segment_bytes = folder, folder.filesystem, meta.segment_bytes
        self._meta, self.state, self.catalog = meta, state, catalog
        self.write_lock, self._sync_lock = locks
        self.lock_seconds = lock_seconds
        self._session = Session(folder.filesystem, folder.fd, locks)
        self._watch = FolderWatch(folder.filesystem, folder.fd, folder.path)
        self._watched_at = 0.0
        self.checkpointing = Checkpointing(folder, state)
        self.journal: ActiveSegment | None = None
        self.streams = OpenStreams(folder, catalog)
        self._seen = (-1, -1)  # The layout and the fork that the open files belong to.
        self.raw = self.standing = b""
        self.committed = self.journal_first = self.tail = self._announced = 0
        self._exclusive = False
        self._inside = -1  # The fork that is inside the lock. A thread of another fork does not exist here.
        self._closed = self._close_later = False
        self._fork = _forks
        self._deadline: float | None = None

    # The write lock

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the write lock, with everything that it protects up to date and recovered.

        Raises:
            StoreOpenError: the store is closed or read-only here, or its folder was moved or deleted.
            StoreBusyError: another process holds it exclusively.
            LockTimeoutError: others held it for too long.
            CorruptionError: a recovery found the journal damaged.
            SyncError: a sync failed earlier, and the device still refuses.
            StorageError: the operating system refused a call under the lock.
            RuntimeError: this thread holds it already.
        """
        now = monotonic()
        with alone(self.write_lock, self.lock_seconds):
            self.refuse_inside()
            try:
                self.enter(now)
                yield
            except OSError as error:
                raise self.refused(error) from error
            finally:
                try:
                    self.leave()
                except BaseException:
                    self.leave()  # An interrupt came before the release.
                    raise

    def refuse_inside(self) -> None:
        """Raise `RuntimeError` if this process is inside the lock already."""
        if self._inside == _forks:
            raise RuntimeError("a store was changed from within a change of it, by a signal handler or a finalizer")

    def enter(self, now: float, only: Pending | None = None) -> None:
        """Take the write lock, and bring what it protects up to date. Always `leave` it, also after an error.

        A batch of one stream, `only`, may be refused early. `now` is when the call began (monotonic seconds).
        """
        self._inside = _forks
        if self._closed:
            raise StoreOpenError(self.path, "it was closed")
        state = self.state
        if not (state.writable or state.retry_writable(self.write_lock, self.lock_seconds)):
            raise StoreOpenError(self.path, "it can only be read here: there is no permission to write")
        seconds = self.lock_seconds
        self._deadline = None if seconds is None else now + seconds
        if self._exclusive:
            raw = state.raw()
            if self._seen[1] != _forks:
                raise StoreBusyError(self.path, state.exclusive)
        else:
            raw = self._take_lock(only)
        journal = self.journal
        strange = raw[:STANDING] != self.standing or self.write_lock.opened or self._sync_lock.fd < 0
        if strange or journal is None or self._seen[1] != _forks:
            if only:
                self._refuse_overtaken(only)
            self._look(raw)
        else:
            unwatched = now - self._watched_at > _UNWATCHED_SECONDS
            if self.filesystem.size(journal.fd) != journal.size or (unwatched and self._watch.changed()):
                self._look(raw)
            else:
                self.raw = raw
                if not unwatched:
                    return
        self._watched_at = now

    def _take_lock(self, only: Pending | None) -> bytes:
        lock, state = self.write_lock, self.state
        if lock.take():
            raw = state.raw()
            lock.since = 0 if raw[WAITING] == _NOBODY else words_of(raw)[LOCK_WAITERS]
            if not (lock.since and lock.futex.is_due(lock.since)):
                return raw
            lock.release()  # Another process has waited too long: queue behind it.
        self._wait_for_lock(only)
        return state.raw()

    def _left(self) -> float | None:
        """Return the seconds left for this call, None without a limit."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def leave(self) -> None:
        """Give the write lock back, unless it is held exclusively."""
        if self._close_later:
            self._close()
        self._inside = -1
        if not self._exclusive:
            self.write_lock.release()
        if self.committed != self._announced:
            raw = self.raw
            if self._exclusive or len(raw) <= FOLLOWED_AT or raw[FOLLOWED_AT] & 1:
                self.state.announce(b"" if self._exclusive else raw)
            self._announced = self.committed

    def refused(self, error: OSError) -> StorageError:
        """Return the error for a system call that failed under the lock."""
        if error.errno == errno.EIO:
            # No matter which call failed: earlier writes cannot be trusted, as after a failed sync.
            with contextlib.suppress(OSError):
                self.state.mark_sync_failed()
        return StorageError(self.path, error.errno, str(error))

    def see_session(self) -> None:
        """Trust the shared state while its session has members. Takes no lock."""
        if not self.state.writable:
            self.state.reopen_if_replaced()
        last = self.state.last_session
        self.state.session = last if self._session.others_in(last) else 0
        if self.state.session and self.state.writable:
            self._session.open_locks()  # The lock files may be deleted before the first append.
        with contextlib.suppress(OSError):  # Without the catalog, reads know less about where a stream ends.
            if self.state.session:
                self.catalog.open(self.state.session, reading=not self.state.writable)

    def rejoin(self) -> None:
        """Check everything again under the lock. Raises what `lock` raises."""
        with alone(self.write_lock, self.lock_seconds):
            self.standing = b""
        with self.lock():
            pass

    def recover_after_dead_writer(self) -> None:
        """Recover after a writer that died. If another process is writing, it has recovered already."""
        if not (self.state.writable and self._left_something()):
            return
        free = False
        with contextlib.suppress(LockTimeoutError), held(self.write_lock, 0):
            free = True
        if free and self._left_something():
            with contextlib.suppress(HangarlogError), self.lock():  # The next append reports the error.
                pass

    def _left_something(self) -> bool:
        words = self.state.look()
        with contextlib.suppress(OSError):
            size = self.filesystem.size_at(self.folder.journal.active_path)
            return bool(words[WRITING]) or size != words[JOURNAL_SIZE]
        return True

    def _wait_for_lock(self, only: Pending | None) -> None:
        pid = self.state.exclusive
        if pid:
            # The holder may be alive, or may have died while another process clears its mark.
            if self.write_lock.acquire(_DYING_SECONDS):
                return
            if self.state.exclusive == pid:
                raise StoreBusyError(self.path, pid)
        look = partial(self._refuse_overtaken, only) if only else None
        if not self.write_lock.acquire(self._left(), look):
            raise LockTimeoutError(self.path, self.write_lock.holder(), self.lock_seconds or 0)

    def hold(self) -> None:
        """Hold the lock until `close`. Raises what `lock` raises."""
        with self.lock():
            self.state.exclusive = os.getpid()
            self._exclusive = True

    def _look(self, raw: bytes) -> None:
        """Under the lock: catch up with other processes, and finish what a dead one left."""
        state, words = self.state, words_of(raw)
        if self._fork != _forks:
            self._session.forked()
            self._fork = _forks
        moment, changed = self._watch.now(), self._watch.changed()
        if changed or self.write_lock.opened or not (self._session.is_joined and state.believes(words)):
            self._take_part()
            words = state.look()
        if words[EXCLUSIVE] and not self._exclusive:
            state.exclusive = 0  # Its holder died: the lock is ours now.
        if self._seen != (words[LAYOUT], _forks):
            self.forget()
            self._seen = (words[LAYOUT], _forks)
        if not (words[WRITING] or consistent(words)):
            state.distrust()
            self._begin_session()
        elif words[WRITING]:
            self._recover()
        if self.journal and changed and not self.journal.is_in_place:
            self.forget()  # Another file was put in its place, perhaps not yet on the device.
            self.journal = self._open_journal()
            self.sync_now(self.journal)
        self.journal = self.journal or self._open_journal()
        words = state.look()
        known = state.believes(words)  # Else somebody has emptied the state meanwhile.
        if known and self.filesystem.size(self.journal.fd) != words[JOURNAL_SIZE]:
            self._recover()
            self.journal = self._open_journal()
            words = state.look()
        self.journal.resize(words[JOURNAL_SIZE] if known else self.journal.size)
        if known and words[SYNC_FAILED]:
            self._heal()
            self.journal = self._open_journal()
        if changed and state.ring_file not in (0, self.filesystem.identity_at(self.folder.ring_path)):
            self.sync_now(self.journal)  # The ring is gone, and some events were durable only through it.
        self._watch.settle(moment)
        self._note_words(state.raw())
        self.streams.turn += 1
        if not state.believes(words_of(self.raw)):
            self._look(self.raw)

    def _note_words(self, raw: bytes) -> None:
        words = words_of(raw)
        self.raw, self.standing = raw, raw[:STANDING]
        self.committed, self.journal_first, self.tail = words[COMMITTED], words[JOURNAL_FIRST], words[TAIL]
        self._announced = self.committed

    def _open_journal(self) -> ActiveSegment:
        try:
            return ActiveSegment(self.folder.journal)
        except FileNotFoundError:
            self._recover()  # It was deleted: rebuild it from the other copies.
            return active_journal(self.folder.journal)

    # Sessions

    def _take_part(self) -> None:
        """Under the lock: stay in the session, join the current one, or begin one, with the files now in place.

        Raises:
            StoreOpenError: the folder was moved or deleted, or the lock files were deleted under another process.
        """
        self.folder.refuse_moved()
        session, state = self._session, self.state
        self.write_lock.renew_gate()
        if session.may_stay:
            in_place = self.write_lock.is_in_place and self._sync_lock.is_in_place
            if not (in_place and state.is_in_place and state.valid):
                self._begin_session()
            elif not session.is_joined:
                session.join(session.number)  # A lock file was closed because it could not be unlocked.
        else:
            self._follow()
        if not self.catalog.follow(state.session):
            self._begin_session()

    def _follow(self) -> None:
        """Join the current session, or begin one if it has no members."""
        session, state = self._session, self.state
        self.forget()
        latest = session.latest()
        if not latest or not session.has_our_locks(latest):
            self._sync_lock.close_unless_in_place()
            if not self.write_lock.is_in_place:
                self.write_lock.release()
                self.write_lock.close()
                self._wait_for_lock(None)
            latest = session.latest_with_locks()
            if latest < 0:
                self.filesystem.touch_folder(self.path)  # The others watch this folder, not the one of the locks.
                raise StoreOpenError(self.path, LOCKS_GONE)
        in_place = self.write_lock.is_in_place and self._sync_lock.is_in_place
        state.reload()
        if in_place and latest and state.last_session == latest:
            session.join(latest)
            state.session = latest
        else:
            self._begin_session()

    def _begin_session(self) -> None:
        """Begin a session with the lock files, state and catalog now in place; create those that are missing.

        Nothing else changes the store meanwhile: both locks of the last session are held, or it has no members.
        """
        self.forget()
        session, state, left = self._session, self.state, self._left()
        with held(self._sync_lock, left):
            for lock in (self.write_lock, self._sync_lock):
                if not lock.is_in_place and not lock.replace(self._left()):
                    raise LockTimeoutError(self.path, 0, self.lock_seconds or 0)
            number = session.next_number()
            session.join(number)
            state.reload()
            state.session = number
            self._run_recovery(begins=True)

    def _recover(self) -> None:
        """Finish what a dead writer left."""
        self.forget()
        with held(self._sync_lock, self._left()):  # Else others might use the ring now, or sync the journal.
            self._run_recovery()

    def _run_recovery(self, *, begins: bool = False) -> None:
        with importing:
            from hangarlog.filestore.recovery.recover import recover
        self.recovered = recover(self.folder, self._meta, self.state, self.catalog, begins=begins)
        self.state.wake_followers()
        self._seen = (self.state.layout, _forks)

    def _heal(self) -> None:
        """After a failed sync: write the journal into a new file, whose sync can be trusted.

        Find out what the device holds, as after a restart. Raises `SyncError` if it still refuses.
        """
        self.forget()
        self.state.distrust()
        try:
            with held(self._sync_lock, self._left()):
                self._run_recovery()
                self.filesystem.remove(self.folder.ring_path)
                self.state.ring_file = 0
        except OSError as error:
            raise SyncError(self.folder.journal.active_path, f"the device still refuses: {error}") from error
        self._seen = (self.state.layout, _forks)

    def forget(self) -> None:
        """Close the open files: they may no longer be active segments."""
        self.streams.clear()
        if self.journal:
            journal, self.journal = self.journal, None
            journal.close()
        self._seen = (-1, _forks)

    def _refuse_overtaken(self, pending: Pending) -> None:
        """Raise `ConcurrencyError` without waiting for the lock if the stream is certainly past the expected version.

        Committed records stay, and the committed position is read before the stream. If in doubt, wait for the lock.
        """
        published = self.state.published()
        if published and self._files_are_live() and self._session.is_joined:
            self.streams.refuse_overtaken(pending, published[0])

    def _files_are_live(self) -> bool:
        """True if the open files are the active ones, as far as is known without the lock."""
        return self._seen == (self.state.layout, _forks)

    # Around changes

    @contextlib.contextmanager
    def changing_files(self) -> Iterator[None]:
        """Under the lock: mark the block as replacing files, then make other processes reopen theirs."""
        self.forget()
        self.state.begin(os.getpid())
        yield
        self.changed_layout()
        self.state.abandon()

    def sync_journal(self) -> None:
        """Under the lock: bring everything committed to the device."""
        assert self.journal
        self.sync_now(self.journal)

    def close(self, seconds: float | None = None) -> None:
        """Wait for the running call, give the lock back, and close all files.

        If a signal handler or a finalizer calls this inside a change, the files close at the end of the change.
        """
        self._closed = True
        threads = self.write_lock.threads
        if threads.acquire(timeout=-1 if seconds is None else seconds):
            try:
                if self._inside == _forks:
                    self._close_later = True
                else:
                    self._close()
            finally:
                threads.release()
        else:
            self._close_later = True

    def _close(self) -> None:
        self._close_later = False
        mine = self._fork == _forks
        if mine:
            self.checkpointing.end(self.lock_seconds)
        with contextlib.ExitStack() as closing:  # Close all, also if one fails.
            closing.callback(self.write_lock.close)
            if mine:
                closing.callback(self._session.leave)  # Before the lock files: a member holds them.
            closing.callback(self.forget)
            if mine:
                closing.callback(self._leave_whole)
            if self._exclusive and mine:
                self.state.exclusive = 0
                closing.callback(self.write_lock.release)

    def _leave_whole(self) -> None:
        """Mend streams whose files were replaced; make a checkpoint if this is the session's last member."""
        state, session = self.state, self._session
        if session.is_joined and state.valid and (replaced := self.streams.replaced()):
            with contextlib.suppress(HangarlogError), held(self.write_lock, self.lock_seconds):
                self.streams.settle(replaced, state.committed)
        if session.number and not session.others_in(session.number):
            self.checkpointing.make_last()

    def sync_now(self, active: ActiveSegment) -> None:
        """Bring a segment to the device. Raises `SyncError`."""
        try:
            self.filesystem.sync_data(active.fd)
        except OSError as error:
            self.state.mark_sync_failed()
            raise SyncError(active.path, str(error)) from error

    def changed_layout(self) -> None:
        """Tell readers and other writers that files were rolled or replaced."""
        self.state.change_layout()
        self._seen = (self.state.layout, _forks)


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
