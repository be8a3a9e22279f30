"""Who changes a store: the write lock, the commit, the roll, and what a dead writer left for this one to finish."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from hangarlog.commit import Pending, Share, encode_batch, now, settle
from hangarlog.errors import (
    ConcurrencyError,
    CorruptionError,
    HangarlogError,
    LockTimeoutError,
    OutcomeUnknownError,
    StorageError,
    StoreBusyError,
    StoreOpenError,
    SyncError,
)
from hangarlog.folder import Folder, Meta, journal_end
from hangarlog.late import importing
from hangarlog.live_end import LiveEnd
from hangarlog.lock import FileLock, Turnstile, held
from hangarlog.state import SharedState
from hangarlog.stream import WARM, StreamEnd, WarmStreams

if TYPE_CHECKING:
    from hangarlog.recovery import Recovered

_DYING = 0.2
"""Seconds that the end of an exclusive holder may take."""

_forks = 0
_pid = os.getpid()


class Writer:
    """One store's way to the write lock, in this process. Safe to share between threads, and over a fork.

    `recovered` says what the last recovery did that this writer had to make, None if there was none.
    """

    def __init__(
        self,
        folder: Folder,
        meta: Meta,
        state: SharedState,
        lock: Turnstile,
        sync_lock: FileLock,
        lock_seconds: float | None,
    ) -> None:
        self.path = folder.path
        self.recovered: Recovered | None = None
        self._folder, self._filesystem, self._segment_bytes = folder, folder.filesystem, meta.segment_bytes
        self._store_id, self._state = meta.store_id, state
        self._lock, self._sync_lock, self._lock_seconds = lock, sync_lock, lock_seconds
        self._checkpointing: threading.Thread | None = None
        self._journal: LiveEnd | None = None
        self._streams = WarmStreams(folder)
        self._seen = (-1, -1)  # The layout and the fork that the open files belong to.
        self._standing = b""  # What the shared state said when this writer's last commit was done.
        self._sealed_at: int | None = None  # The position up to which a journal segment was sealed in this commit.
        self._exclusive = False
        self._inside = -1  # The fork of whoever is inside the lock, in this process; another one's is not here.
        self._closed = False
        self.trusts_state = state.valid

    # The write lock

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """The write lock, with everything it protects known and whole.

        Raises:
            StoreOpenError: the store was closed, or may only be read here.
            StoreBusyError: another process holds it exclusively.
            CorruptionError: there was something to recover, and the journal is damaged.
            SyncError: a sync has failed since the machine started.
            StorageError: the operating system refused something that was done under the lock.
            RuntimeError: this thread is inside it already.
        """
        with self._lock.threads:
            self._refuse_inside()
            try:
                self._enter()
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

    def _enter(self, only: Pending | None = None) -> None:
        """Take the write lock, with everything it protects known and whole. Whatever happens, `_leave` it.

        If `only` that is to be written, it may be refused before everything is known.
        """
        self._inside = _forks
        if self._closed:
            raise StoreOpenError(self.path, "it was closed")
        state = self._state
        if not (state.writable or state.ask_again()):
            raise StoreOpenError(self.path, "it can only be read here: there is no permission to write")
        if self._exclusive:
            if self._seen[1] != _forks:
                raise StoreBusyError(self.path, state.exclusive)
        elif not self._lock.take_turn():
            self._wait_for_lock(only)
        journal = self._journal
        if journal is None or self._seen[1] != _forks or state.standing != self._standing:
            if only:
                self._refuse_overtaken(only)
            self._look()
        elif self._filesystem.size(journal.fd) != journal.size:
            self._look()

    def _leave(self) -> None:
        self._inside = -1
        if not self._exclusive:
            self._lock.release()

    def _refused(self, error: OSError) -> StorageError:
        if error.errno == errno.EIO:
            # Whatever call it was that met it: what was written before is not to be believed, as after a failed sync.
            self._state.mark_sync_failed()
        return StorageError(self.path, error.errno, str(error))

    def finish_for_the_dead(self) -> None:
        """Recover what a writer that died has left, unless somebody is writing, who has done so."""
        if not self._state.writing:
            return
        with self._lock.threads:
            try:
                free = self._lock.acquire(0)
            finally:
                self._lock.release()
        if free:
            with contextlib.suppress(HangarlogError), self.lock():  # The next append will say what is wrong.
                pass

    def _wait_for_lock(self, only: Pending | None) -> None:
        pid = self._state.exclusive
        if pid:
            # Either it is alive, or it died and another process holds the lock for a moment and takes the mark away.
            if self._lock.acquire(_DYING):
                return
            if self._state.exclusive == pid:
                raise StoreBusyError(self.path, pid)
        look = partial(self._refuse_overtaken, only) if only else None
        if not self._lock.acquire(self._lock_seconds, look):
            raise LockTimeoutError(self.path, self._state.writing, self._lock_seconds or 0)

    def hold(self) -> None:
        """Take the lock and keep it until `close`. Raises what `lock` raises."""
        with self.lock():
            self._state.exclusive = os.getpid()
            self._exclusive = True

    def _look(self) -> None:
        """Under the lock: notice what other processes did, and what one that died left undone."""
        state = self._state
        if state.exclusive and not self._exclusive:
            state.exclusive = 0  # Its holder died, else the lock would not be ours.
        if self._seen != (state.layout, _forks):
            self._forget()
        if not (state.writing or state.consistent):
            state.distrust()
            self.trusts_state = False
        if state.writing or not self.trusts_state:
            if state.writing or not state.valid:  # Else another process has just recovered.
                self._recover()
            self.trusts_state = True
        if self._journal is None:
            self._journal = journal_end(self._folder.journal)
        if self._filesystem.size(self._journal.fd) != state.journal_size:
            self._recover()
            self._journal = LiveEnd(self._folder.journal)
        self._journal.resize(state.journal_size)
        if state.sync_failed:
            self._heal()
            self._journal = journal_end(self._folder.journal)
        self._standing = state.standing

    def _recover(self) -> None:
        self._forget()
        self._state.reload()
        with held(self._sync_lock):  # Nobody may use the ring, or sync a journal that is being changed.
            self.recovered = recover(self._folder, self._store_id, self._state)
        self._seen = (self._state.layout, _forks)

    def _heal(self) -> None:
        """After a failed sync: have the journal written into a new file, whose sync can be believed.

        What the device has is to be found out, as after a restart. Raises `SyncError` if it still refuses.
        """
        self._forget()
        self._state.distrust()
        try:
            with held(self._sync_lock):
                self.recovered = recover(self._folder, self._store_id, self._state)
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
        self._seen = (self._state.layout, _forks)

    # The commit

    def commit(self, pendings: list[Pending]) -> dict[str, int]:
        """Write events to the journal and to their streams, all or none: {stream id: its new version}. Syncs nothing.

        Raises what `EventStore.append` raises.
        """
        with self._lock.threads:  # As in `lock`: a generator would cost every append a microsecond.
            if self._inside == _forks:
                self._refuse_inside()
            only = pendings[0] if len(pendings) == 1 else None
            try:
                self._enter(only)
                ends = {}
                to_write = []
                for pending in pendings:
                    end = ends[pending.stream_id] = self._streams.get(pending.stream_id)
                    if pending.expected == end.place[0] >= 0 and pending.events:
                        to_write.append((pending, pending.expected + 1))
                versions: dict[str, int] = {}
                if len(to_write) < len(pendings):
                    versions, to_write = settle(pendings, lambda stream_id: ends[stream_id].place, self._ids_at)
                if to_write:
                    self._write(to_write, ends, versions)
                sealed_at, self._sealed_at = self._sealed_at, None
            except OSError as error:
                raise self._refused(error) from error
            finally:
                try:
                    self._leave()
                except BaseException:
                    self._leave()  # An interrupt came first.
                    raise
        if sealed_at is not None:
            self._checkpoint(sealed_at)
        return versions

    def _refuse_overtaken(self, pending: Pending) -> None:
        """Raise `ConcurrencyError` if the stream can be seen to have gone on: for that nobody has to wait for the lock.

        What is committed stays, and was there before the stream was looked at. Any doubt is for whoever has the lock.
        """
        end, published = self._streams.seen(pending.stream_id), self._state.published()
        open_files_are_live = self._seen == (self._state.layout, _forks)
        if end is None or end.live is None or not (published and open_files_are_live and self.trusts_state):
            return
        expected = pending.expected
        if expected < 0 or not pending.events:
            return
        seen = end.seen if end.seen[0] == expected else (end.version, end.live.size)
        if seen[0] != expected:
            return
        with contextlib.suppress(OSError, CorruptionError):
            found = end.live.beyond(seen[1], published[0])
            if found:
                first, last, offset = found
                retried = first.event_id == pending.events[0][1]
                if first.stream_version == expected + 1 and not retried:
                    end.seen = (last.stream_version, offset)
                    raise ConcurrencyError(pending.stream_id, expected, last.stream_version)

    def _ids_at(self, stream_id: str, version: int, count: int) -> list[str]:
        live = self._streams.get(stream_id).live
        near = live.since(version) if live else []
        if near:
            return [record.event_id for record in near[:count]]
        ids: list[str] = []
        for block in self._folder.stream(stream_id).forward(version):
            if block[0].stream_version > version and not ids:
                break  # Compacted away.
            ids += [record.event_id for record in block[: count - len(ids)]]
            if len(ids) == count:
                break
        return ids

    def _write(self, to_write: list[tuple[Pending, int]], ends: dict[str, StreamEnd], versions: dict[str, int]) -> None:
        """Write a batch to the journal, then to its streams, then publish it; or leave everything as it was."""
        state = self._state
        position, first = state.end
        data, lengths, shares, last = encode_batch(to_write, position, now())
        published = False
        undo: list[tuple[StreamEnd, int]] = []
        size = -1
        state.begin(_pid)
        try:
            journal = self._journal
            assert journal
            if journal.size >= self._segment_bytes:
                journal = self._roll_journal(journal)
            size = journal.size
            if not size:
                first = position
            journal.append(data, lengths)
            for stream_id, its_data, its_lengths, _ in shares:
                end = ends[stream_id]
                live = end.live
                if live is None or live.size >= self._segment_bytes:
                    live = self._live_to_write(end, undo)
                undo.append((end, live.size))
                live.append(its_data, its_lengths)
                if len(undo) > WARM:
                    end.close()
            published = True
            self._standing = state.finish(last, first, journal.size)
            self._note(shares, ends, versions)
        except BaseException as error:
            try:
                if not published:
                    self._undo(undo, size, error)
            finally:
                for end in ends.values():
                    end.close()
                self._forget()
            raise

    def _note(self, shares: list[Share], ends: dict[str, StreamEnd], versions: dict[str, int]) -> None:
        """After a batch was published: where its streams are, and the indexes that are due."""
        for stream_id, _, _, place in shares:
            end = ends[stream_id]
            end.place = place
            versions[stream_id] = place[0]
            live = end.live
            if not end.warm:
                self._streams.keep(stream_id, end)
            if live and live.size >= live.index_due:
                live.extend_index()
        journal = self._journal
        if journal and journal.size >= journal.index_due:
            journal.extend_index()

    def _live_to_write(self, end: StreamEnd, undo: list[tuple[StreamEnd, int]]) -> LiveEnd:
        """The live segment of a stream, made or rolled if it is time; `undo` gets what to do about a file made here."""
        if not end.exists:
            undo.append((end, 0))  # Before there is a file.
            try:
                return end.open()
            except FileExistsError:
                undo.pop()  # It is not ours.
                raise
        live = end.live or end.open()
        return self._rolled(end, live) if live.size >= self._segment_bytes else live

    def _undo(self, undo: list[tuple[StreamEnd, int]], size: int, error: BaseException) -> None:
        if size < 0:
            return  # A roll failed; the mark stays, and the next writer looks how far it came.
        assert self._journal
        try:
            for end, end_size in reversed(undo):
                end.undo(end_size)
            if self._journal.cut(size):  # Last: as long as the batch is whole here, it counts.
                self._sync_now(self._journal)  # Else a power cut could bring back what is now said not to be there.
        except SyncError:
            raise
        except OSError as failure:
            raise OutcomeUnknownError(self.path, f"{error}; taking it back failed too: {failure}") from error
        self._state.abandon()

    def _roll_journal(self, journal: LiveEnd) -> LiveEnd:
        self._sync_now(journal)
        journal = self._journal = journal.roll()
        self._sealed_at = self._state.committed
        self._changed_layout()
        return journal

    def _rolled(self, end: StreamEnd, live: LiveEnd) -> LiveEnd:
        assert self._journal
        self._sync_now(self._journal)  # First: a sealed segment must hold nothing that the journal could lose.
        if self._state.failures:
            live = live.rewritten()  # Since a sync has failed, none of what was written before it can be believed.
        else:
            self._sync_now(live)
        live = end.live = live.roll()
        self._changed_layout()
        return live

    def _sync_now(self, live: LiveEnd) -> None:
        try:
            self._filesystem.sync_data(live.fd)
        except OSError as error:
            self._state.mark_sync_failed()
            raise SyncError(live.path, str(error)) from error

    def _changed_layout(self) -> None:
        self._state.change_layout()
        self._seen = (self._state.layout, _forks)

    def _checkpoint(self, position: int) -> None:
        """Have the streams brought to the device after a journal segment was sealed, unless that is being done."""
        # After a failed sync a later one proves nothing: recovery begins at the last good checkpoint until a restart.
        if not (self._state.failures or (self._checkpointing and self._checkpointing.is_alive())):
            with importing:
                from hangarlog.checkpoint import make_checkpoint
            work = partial(make_checkpoint, self._filesystem, self._folder, position, self._state)
            self._checkpointing = self._filesystem.in_background(work, "hangarlog-checkpoint")

    # Between commits

    @contextlib.contextmanager
    def changing_files(self) -> Iterator[None]:
        """Under the lock: what is done inside replaces files that other writers may have open."""
        self._forget()
        self._state.begin(_pid)
        yield
        self._changed_layout()
        self._state.abandon()

    def sync_journal(self) -> None:
        """Under the lock: return when everything committed is on the device."""
        assert self._journal
        self._sync_now(self._journal)

    def close(self) -> None:
        """Give the lock back if it is held, and close all files."""
        self._closed = True
        checkpointing = self._checkpointing
        # A finalizer may run in any thread, that one too.
        if checkpointing and self._seen[1] == _forks and checkpointing is not threading.current_thread():
            checkpointing.join()
        with contextlib.ExitStack() as closing:  # Whatever fails, the others are closed.
            closing.callback(self._lock.close)
            closing.callback(self._forget)
            if self._exclusive and self._seen[1] == _forks:
                self._state.exclusive = 0
                closing.callback(self._lock.release)


def recover(folder: Folder, store_id: str, state: SharedState) -> Recovered:
    """What `recovery.recover` does, which hardly anybody needs."""
    with importing:
        from hangarlog import recovery
    return recovery.recover(folder, store_id, state)


def _forked() -> None:
    global _forks, _pid
    _forks += 1
    _pid = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
