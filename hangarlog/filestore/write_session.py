"""The write lock of a store: taking part in its session, and finding everything that the lock protects whole."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from hangarlog.errors import HangarlogError, LockTimeoutError, StorageError, StoreBusyError, StoreOpenError, SyncError
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.folder import Folder, Meta, journal_end
from hangarlog.filestore.open_streams import OpenStreams
from hangarlog.filestore.session import FolderWatch, Session
from hangarlog.filestore.shared_state import (
    COMMITTED,
    EXCLUSIVE,
    FAILURES,
    JOURNAL_FIRST,
    JOURNAL_SIZE,
    LAYOUT,
    LOCK_WAITERS,
    STANDING,
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
"""Seconds that the end of an exclusive holder may take."""

_UNWATCHED_SECONDS = 0.001
"""Seconds that an append which is not durable may miss a change of the store's folder: nothing is lost in them."""

_REPLAYED_AT_ONCE_BYTES = 256 << 10
"""So many take two milliseconds: the last one to close the store leaves as much to the next one to open it."""

_LOCKS_GONE = (
    "its lock files were deleted while another process has it open; have that process append once, which makes them "
    "anew, or close it there"
)

_NOBODY = bytes(8)

_forks = 0


class WriteSession:
    """One store's way to the write lock, in this process, with everything that it protects known and whole.

    Safe to share between threads, and over a fork.

    `recovered` says what the last recovery did that this writer had to make, None if there was none.
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
        self._folder, self._filesystem, self._segment_bytes = folder, folder.filesystem, meta.segment_bytes
        self._meta, self._state, self._catalog = meta, state, catalog
        self._lock, self._sync_lock = locks
        self._lock_seconds = lock_seconds
        self._session = Session(folder.filesystem, folder.fd, locks)
        self._watch = FolderWatch(folder.filesystem, folder.fd, folder.path)
        self._watched_at = 0.0
        self._checkpointing: threading.Thread | None = None
        self._journal: ActiveSegment | None = None
        self._streams = OpenStreams(folder, catalog)
        self._seen = (-1, -1)  # The layout and the fork that the open files belong to.
        self._raw = b""  # The shared words, as they were when the lock was taken.
        self._standing = b""  # Those of a writer's concern, as this one's last commit left them.
        self._committed = self._journal_first = self._tail = 0  # What they say.
        self._checkpoint_due = False
        self._exclusive = False
        self._inside = -1  # The fork of whoever is inside the lock, in this process; another one's is not here.
        self._closed = self._close_later = False
        self._fork = _forks
        self._deadline: float | None = None

    # The write lock

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """The write lock, with everything it protects known and whole.

        Raises:
            StoreOpenError: the store was closed, or may only be read here, or its folder was moved or deleted.
            StoreBusyError: another process holds it exclusively.
            LockTimeoutError: others held it for too long.
            CorruptionError: there was something to recover, and the journal is damaged.
            SyncError: a sync has failed since the machine started.
            StorageError: the operating system refused something that was done under the lock.
            RuntimeError: this thread is inside it already.
        """
        now = monotonic()
        with alone(self._lock, self._lock_seconds):
            self._refuse_inside()
            try:
                self._enter(now)
                yield
            except OSError as error:
                raise self._refused(error) from error
            finally:
                try:
                    self._leave()
                except BaseException:
                    self._leave()  # An interrupt came first.
                    raise

    def _refuse_inside(self) -> None:
        if self._inside == _forks:
            raise RuntimeError("a store was changed from within a change of it, by a signal handler or a finalizer")

    def _enter(self, now: float, only: Pending | None = None) -> None:
        """Take the write lock, with everything it protects known and whole. Whatever happens, `_leave` it.

        If `only` that is to be written, it may be refused before everything is known. `now` is when the call began.
        """
        self._inside = _forks
        if self._closed:
            raise StoreOpenError(self.path, "it was closed")
        state = self._state
        if not (state.writable or state.ask_again()):
            raise StoreOpenError(self.path, "it can only be read here: there is no permission to write")
        seconds = self._lock_seconds
        self._deadline = None if seconds is None else now + seconds
        if self._exclusive:
            raw = state.raw()
            if self._seen[1] != _forks:
                raise StoreBusyError(self.path, state.exclusive)
        else:
            raw = self._take_lock(only)
        journal = self._journal
        strange = raw[:STANDING] != self._standing or self._lock.opened or self._sync_lock.fd < 0
        if strange or journal is None or self._seen[1] != _forks:
            if only:
                self._refuse_overtaken(only)
            self._look(raw)
        else:
            unwatched = now - self._watched_at > _UNWATCHED_SECONDS
            if self._filesystem.size(journal.fd) != journal.size or (unwatched and self._watch.changed()):
                self._look(raw)
            else:
                self._raw = raw
                if not unwatched:
                    return
        self._watched_at = now

    def _take_lock(self, only: Pending | None) -> bytes:
        lock, state = self._lock, self._state
        if lock.take():
            raw = state.raw()
            lock.since = 0 if raw[WAITING] == _NOBODY else words_of(raw)[LOCK_WAITERS]
            if not (lock.since and lock.futex.is_due(lock.since)):
                return raw
            lock.release()  # Somebody has waited for long: queue behind.
        self._wait_for_lock(only)
        return state.raw()

    def _left(self) -> float | None:
        """The seconds left of this call's time, None for ever."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def _leave(self) -> None:
        if self._close_later:
            self._close()
        self._inside = -1
        if not self._exclusive:
            self._lock.release()

    def _refused(self, error: OSError) -> StorageError:
        if error.errno == errno.EIO:
            # Whatever call it was that met it: what was written before is not to be believed, as after a failed sync.
            with contextlib.suppress(OSError):
                self._state.mark_sync_failed()
        return StorageError(self.path, error.errno, str(error))

    def see_session(self) -> None:
        """Believe what `state` says while others take part in the session that it belongs to. Takes no lock."""
        if not self._state.writable:
            self._state.look_for()
        last = self._state.last_session
        self._state.session = last if self._session.others_in(last) else 0
        if self._state.session and self._state.writable:
            self._session.know_locks()  # They may be deleted before the first append.
        with contextlib.suppress(OSError):  # Without it reads are only less sure of where a stream ends.
            if self._state.session:
                self._catalog.open(self._state.session, reading=not self._state.writable)

    def rejoin(self) -> None:
        """Look at everything anew. Raises what `lock` raises."""
        with alone(self._lock, self._lock_seconds):
            self._standing = b""
        with self.lock():
            pass

    def finish_for_the_dead(self) -> None:
        """Recover what a writer that died has left, unless somebody is writing, who has done so."""
        if not (self._state.writable and self._left_something()):
            return
        free = False
        with contextlib.suppress(LockTimeoutError), held(self._lock, 0):
            free = True
        if free and self._left_something():
            with contextlib.suppress(HangarlogError), self.lock():  # The next append will say what is wrong.
                pass

    def _left_something(self) -> bool:
        words = self._state.look()
        with contextlib.suppress(OSError):
            size = self._filesystem.size_at(self._folder.journal.live_path)
            return bool(words[WRITING]) or size != words[JOURNAL_SIZE]
        return True

    def _wait_for_lock(self, only: Pending | None) -> None:
        pid = self._state.exclusive
        if pid:
            # The holder may be alive, or may have died while another process clears its mark.
            if self._lock.acquire(_DYING_SECONDS):
                return
            if self._state.exclusive == pid:
                raise StoreBusyError(self.path, pid)
        look = partial(self._refuse_overtaken, only) if only else None
        if not self._lock.acquire(self._left(), look):
            raise LockTimeoutError(self.path, self._lock.holder(), self._lock_seconds or 0)

    def hold(self) -> None:
        """Take the lock and keep it until `close`. Raises what `lock` raises."""
        with self.lock():
            self._state.exclusive = os.getpid()
            self._exclusive = True

    def _look(self, raw: bytes) -> None:
        """Under the lock: notice what other processes did, and what one that died left undone."""
        state, words = self._state, words_of(raw)
        if self._fork != _forks:
            self._session.forked()
            self._fork = _forks
        moment, changed = self._watch.now(), self._watch.changed()
        if changed or self._lock.opened or not (self._session.is_joined and state.believes(words)):
            self._take_part()
            words = state.look()
        if words[EXCLUSIVE] and not self._exclusive:
            state.exclusive = 0  # Its holder died, else the lock would not be ours.
        if self._seen != (words[LAYOUT], _forks):
            self._forget()
            self._seen = (words[LAYOUT], _forks)
        if not (words[WRITING] or consistent(words)):
            state.distrust()
            self._begin_session()
        elif words[WRITING]:
            self._recover()
        if self._journal and changed and not self._journal.is_in_place:
            self._forget()  # Somebody has put another file there, of which nothing need be on the device.
            self._journal = self._open_journal()
            self._sync_now(self._journal)
        if self._journal is None:
            self._journal = self._open_journal()
        if self._filesystem.size(self._journal.fd) != state.journal_size:
            self._recover()
            self._journal = self._open_journal()
        self._journal.resize(state.journal_size)
        if state.sync_failed:
            self._heal()
            self._journal = self._open_journal()
        if changed and state.ring_file not in (0, self._filesystem.identity_at(self._folder.ring_path)):
            self._sync_now(self._journal)  # What was durable by the ring alone.
        self._watch.settle(moment)
        self._note_words(state.raw())
        self._streams.turn += 1

    def _note_words(self, raw: bytes) -> None:
        words = words_of(raw)
        self._raw, self._standing = raw, raw[:STANDING]
        self._committed, self._journal_first, self._tail = words[COMMITTED], words[JOURNAL_FIRST], words[TAIL]

    def _open_journal(self) -> ActiveSegment:
        try:
            return ActiveSegment(self._folder.journal)
        except FileNotFoundError:
            self._recover()  # Somebody has deleted it: it is made anew of its other copies.
            return journal_end(self._folder.journal)

    # Sessions

    def _take_part(self) -> None:
        """Under the lock: be in the session that goes on, with the files that have the store's names now; or begin one.

        Raises:
            StoreOpenError: the folder was moved or deleted.
            StoreOpenError: the lock files were deleted under a process that has the store open.
        """
        self._folder.refuse_moved()
        session, state = self._session, self._state
        self._lock.renew_gate()
        if session.may_stay:
            in_place = self._lock.is_in_place and self._sync_lock.is_in_place
            if not (in_place and state.is_in_place and state.valid):
                self._begin_session()
            elif not session.is_joined:
                session.join(session.number)  # A lock file was closed, as one that could not be unlocked is.
        else:
            self._follow()
        if not self._catalog.follow(state.session):
            self._begin_session()

    def _follow(self) -> None:
        """Join the session that others take part in; where nobody does, begin one."""
        session, state = self._session, self._state
        self._forget()
        latest = session.latest()
        if not latest or not session.has_our_locks(latest):
            self._sync_lock.close_unless_in_place()
            if not self._lock.is_in_place:
                self._lock.release()
                self._lock.close()
                self._wait_for_lock(None)
            latest = session.latest_with_locks()
            if latest < 0:
                self._filesystem.touch_folder(self.path)  # They see a change of this folder, not of that of the locks.
                raise StoreOpenError(self.path, _LOCKS_GONE)
        in_place = self._lock.is_in_place and self._sync_lock.is_in_place
        state.reload()
        if in_place and latest and state.last_session == latest:
            session.join(latest)
            state.session = latest
        else:
            self._begin_session()

    def _begin_session(self) -> None:
        """Begin a session, with the lock files, the state and the catalog that have those names, made where missing.

        Nobody else changes anything meanwhile: both locks of the session before are held, or it has no members.
        """
        self._forget()
        session, state, left = self._session, self._state, self._left()
        with held(self._sync_lock, left):
            for lock in (self._lock, self._sync_lock):
                if not lock.is_in_place and not lock.replace(self._left()):
                    raise LockTimeoutError(self.path, 0, self._lock_seconds or 0)
            number = session.next_number()
            session.join(number)
            state.reload()
            state.session = number
            self._run_recovery(begins=True)

    def _recover(self) -> None:
        """Finish what a writer that died has left."""
        self._forget()
        with held(self._sync_lock, self._left()):  # Nobody may use the ring, or sync a journal that is being changed.
            self._run_recovery()

    def _run_recovery(self, *, begins: bool = False) -> None:
        with importing:
            from hangarlog.filestore.recovery.recover import recover
        self.recovered = recover(self._folder, self._meta, self._state, self._catalog, begins=begins)
        self._seen = (self._state.layout, _forks)

    def _heal(self) -> None:
        """After a failed sync: have the journal written into a new file, whose sync can be believed.

        What the device has is to be found out, as after a restart. Raises `SyncError` if it still refuses.
        """
        self._forget()
        self._state.distrust()
        try:
            with held(self._sync_lock, self._left()):
                self._run_recovery()
                self._filesystem.remove(self._folder.ring_path)
                self._state.ring_file = 0
        except OSError as error:
            raise SyncError(self._folder.journal.live_path, f"the device still refuses: {error}") from error
        self._seen = (self._state.layout, _forks)

    def _forget(self) -> None:
        """Close what is open: it may no longer be the live end of anything."""
        self._streams.clear()
        if self._journal:
            journal, self._journal = self._journal, None
            journal.close()
        self._seen = (-1, _forks)

    def _refuse_overtaken(self, pending: Pending) -> None:
        """Raise `ConcurrencyError` if an append can be seen to have no chance, before the lock is waited for."""

    def _files_are_live(self) -> bool:
        """Whether the open files are the live ones for all that is known without the lock."""
        return self._seen == (self._state.layout, _forks)

    # Around changes

    @contextlib.contextmanager
    def changing_files(self) -> Iterator[None]:
        """Under the lock: what is done inside replaces files that other writers may have open."""
        self._forget()
        self._state.begin(os.getpid())
        yield
        self._changed_layout()
        self._state.abandon()

    def sync_journal(self) -> None:
        """Under the lock: return when everything committed is on the device."""
        assert self._journal
        self._sync_now(self._journal)

    def close(self, seconds: float | None = None) -> None:
        """Wait for the call that is running, give the lock back if it is held, and close all files.

        Called from within a change, by a signal handler or a finalizer, it closes them when that is done.
        """
        self._closed = True
        threads = self._lock.threads
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
        checkpointing = self._checkpointing
        # A finalizer may run in any thread, that one too.
        if checkpointing and mine and checkpointing is not threading.current_thread():
            checkpointing.join(self._lock_seconds)
        with contextlib.ExitStack() as closing:  # Whatever fails, the others are closed.
            closing.callback(self._lock.close)
            if mine:
                closing.callback(self._session.leave)  # First: who is there has its lock files.
            closing.callback(self._forget)
            if mine:
                closing.callback(self._last_checkpoint)
            if self._exclusive and mine:
                self._state.exclusive = 0
                closing.callback(self._lock.release)

    def _last_checkpoint(self) -> None:
        """The last one to leave makes a checkpoint, where the next one to open the store would have much to replay."""
        state, session = self._state, self._session
        if not session.number or session.others_in(session.number):
            return
        words = state.look()
        quiet = state.believes(words) and consistent(words) and not words[WRITING] and not words[FAILURES]
        if quiet and words[TAIL] > _REPLAYED_AT_ONCE_BYTES:
            self._make_checkpoint()

    def _sync_now(self, live: ActiveSegment) -> None:
        try:
            self._filesystem.sync_data(live.fd)
        except OSError as error:
            self._state.mark_sync_failed()
            raise SyncError(live.path, str(error)) from error

    def _changed_layout(self) -> None:
        self._state.change_layout()
        self._seen = (self._state.layout, _forks)

    def _make_checkpoint(self) -> None:
        with importing:
            from hangarlog.filestore.checkpoint import make_checkpoint
        make_checkpoint(self._filesystem, self._folder, self._state)


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
