"""The event store in a folder: opening, appending, reading, closing."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from hangarlog.errors import HangarlogError, LinkedFileError, StorageError, StoreOpenError
from hangarlog.events.registry import EventRegistry, UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore import engine
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.arguments import patience, text
from hangarlog.eventstore.record import Event
from hangarlog.eventstore.selection import Span
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.filestore.catalog import Catalog, Known
from hangarlog.filestore.event_ids import EventIds, Moment, moment_of
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.group_sync import IntervalSync, JournalSync, sync_at_exit
from hangarlog.filestore.hidden_events import DeletedStreams
from hangarlog.filestore.opening import open_state
from hangarlog.filestore.options import Durability, StoreOptions
from hangarlog.filestore.reader import Reader
from hangarlog.filestore.running_calls import RunningCalls
from hangarlog.filestore.session import FolderWatch
from hangarlog.filestore.shared_state import COMMITTED, LAYOUT, Words, consistent
from hangarlog.filestore.sizes import is_text, sizes_of_files
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.filestore.turns import Turns
from hangarlog.filestore.upkeep_calls import UpkeepCalls, seconds_after
from hangarlog.filestore.write_session import WriteSession
from hangarlog.filestore.writer import Writer
from hangarlog.record.batch import Pending
from hangarlog.record.line import StoredEnvelope, is_erased
from hangarlog.system.file_lock import FileLock
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.import_lock import importing

if TYPE_CHECKING:
    from hangarlog.eventstore.retention_policy import RetentionPolicy
    from hangarlog.eventstore.selection import ReadOptions
    from hangarlog.filestore.recovery.report import Recovered


_UNWATCHED_SECONDS = 0.001
"""Seconds for which a read may overlook a change of the store's folder."""


class FileEventStore(UpkeepCalls[Event]):
    """An event store that is a folder of plain text, shared by any number of threads and processes.

    Args:
        path: the folder; it is created if there is none.
        serializer: types, versions and upcasters; by default what is registered, with no upcasters.
        durability: "always" (an append returns when it is on the device), "relaxed" (an append survives the death of
            the process, not a power cut), or the seconds between syncs.
        segment_bytes: size at which a segment is sealed and the next begun. Fixed when the store is created.
        exclusive: hold the write lock until `close`; faster, and every other writer gets `StoreBusyError`.
        lock_timeout: seconds to wait for other processes before `LockTimeoutError`; None waits for ever.
        create: with False, a folder that is no store is an error instead of becoming one.
        mode: the permissions of the store's files, such as 0o640, whatever the umask; folders get the right to enter
            with each right to read. Fixed when the store is created, by default 0o600; a folder that is there before
            keeps its own.
        unsafe_file_system: the type, or types with commas between, of file systems to use although their locks or
            shared memory may fail; by default the value of the variable HANGARLOG_UNSAFE_FILE_SYSTEM.
        compress: compress segments in the background once they are sealed for a time, such as "after 1d".
        retain: policies whose `retain` runs in the background whenever a segment was sealed.
        filesystem: the seam to the operating system, for tests.

    Raises:
        StoreOpenError, StoreFormatError: the folder is no store, cannot be read, or is of another format.
        UnsafeFileSystemError: it is on a network file system, or another one where it is not safe.
        StoreBusyError: another process holds it exclusively.
        UpcastingError: the serializer's chain has a gap.
        CorruptionError: a recovery found the journal damaged.
    """

    _closed = True  # Until it is open: a store that failed to open has nothing to close.

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        serializer: EventSerializer | None = None,
        durability: Durability = "always",
        segment_bytes: int = 64 << 20,
        exclusive: bool = False,
        lock_timeout: float | None = 60.0,
        create: bool = True,
        mode: int | None = None,
        unsafe_file_system: str | None = None,
        compress: str | None = None,
        retain: Sequence[RetentionPolicy] = (),
        filesystem: FileSystem | None = None,
    ) -> None:
        super().__init__(serializer)
        compress_after = seconds_after(compress)
        seconds = 1.0 if durability in ("always", "relaxed") else durability
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
            raise ValueError(f"durability must be 'always', 'relaxed' or seconds between syncs, not {durability!r}")
        lock_timeout = patience("lock_timeout", lock_timeout)
        self._durability = durability if isinstance(durability, str) else float(durability)
        self._filesystem, self._lock_timeout = filesystem or FileSystem(), lock_timeout
        self.folder = Folder(self._filesystem, os.fspath(path))
        self.meta = self.folder.open(segment_bytes, create=create, mode=mode, unsafe_file_system=unsafe_file_system)
        lock = self.folder.write_lock()
        state = self._state = open_state(self.folder, lock, lock_timeout)
        lock.wake_with(state.gate_futex, state.lock_futex)
        sync_lock = FileLock(self._filesystem, self.folder.lock_path("sync"), state.sync_futex)
        catalog = self._catalog = Catalog(self._filesystem, self.folder.catalog_path)
        session = WriteSession(self.folder, self.meta, state, catalog, (lock, sync_lock), lock_timeout)
        self._write_session = session
        self._sync = JournalSync(self.folder, self.meta.store_id, state, sync_lock, session.rejoin, lock_timeout)
        self._interval: IntervalSync | None = None
        self._calls = RunningCalls()
        self._starting = threading.Lock()
        self._snapshots = SnapshotFiles(self._filesystem, self.folder.snapshots_path)
        self._reader = Reader(self.folder, self._snapshots, state, catalog)
        self._begin_cursors(session, self._reader, self.meta.store_id, sync_lock)
        self._ids = EventIds(
            self.folder, self.meta.store_id, self._reader.blocks_at, self._sync.ensure_committed, lock_timeout
        )
        self._writer = Writer(session, self._ids, self._cursors)
        self._turns = Turns(self._filesystem, self.folder.lock_path("turns"), lock_timeout)
        self._read_watch, self._watched_at = FolderWatch(self._filesystem, self.folder.fd, self.folder.path), 0.0
        self._unattended: Words = ()
        self._closed = False
        try:
            with self._refusals():
                self._begin(exclusive)
                self._begin_upkeep(compress_after, retain)
        except BaseException:
            self.close()
            raise

    @classmethod
    def untyped(
        cls: type[FileEventStore[Any]], path: str | os.PathLike[str], **options: Unpack[StoreOptions]
    ) -> FileEventStore[UntypedEvent]:
        """Open a store that reads every event as an `UntypedEvent`. No type needs to be registered.

        Append `UntypedEvent`s or `EncodedEvent`s to it. The options and the errors are those of `FileEventStore`.
        """
        return cls(path, serializer=EventSerializer(registry=EventRegistry(), unknown="untyped"), **options)

    def _begin(self, exclusive: bool) -> None:
        state = self._state
        self._write_session.see_session()
        if state.writable and not state.session:
            try:
                with self._write_session.lock():
                    pass  # Taking it recovers.
            except (LinkedFileError, StorageError):
                if state.writable:
                    raise  # A store that is read-only here is read without a recovery.
        elif state.writable:
            self._write_session.recover_after_dead_writer()
        if exclusive:
            self._write_session.hold()
        if isinstance(self._durability, float) and state.writable and state.durable < state.committed:
            self._sync_later(self._durability)  # A process may have died before it synced what it had promised.

    @property
    def path(self) -> str:
        """The folder of the store."""
        return self.folder.path

    @property
    def recovered(self) -> Recovered | None:
        """The report of the last recovery that this store made, None before one."""
        return self._write_session.recovered

    # Appending

    def _commit(self, pendings: list[Pending], durability: engine.Durability | None = None) -> dict[str, AppendResult]:
        calls, wanted, mark = self._calls, durability or self._durability, threading.get_ident()
        try:  # As in `_calling`: a generator would cost every append a microsecond.
            calls.running.append(mark)
            if self._closed:
                self._refuse_closed()
            results, position, failures = self._writer.commit(pendings)
            if wanted == "always":
                self._sync.ensure(position, failures)
            elif wanted != "relaxed":
                self._sync_later(float(wanted))
            return results
        finally:
            try:  # noqa: SIM105 - nothing may be called before
                calls.running.remove(mark)
            except ValueError:
                pass  # An interrupt came before it was added.
            if calls.afterwards:
                calls.ended()

    def sync(self) -> None:
        """As `EventStore.sync`."""
        with self._calling():
            self._sync_all()

    def _sync_all(self) -> None:
        self._sync.ensure_committed()
        self._cursor_sync.ensure_pending()

    def _sync_later(self, seconds: float) -> None:
        if self._interval is None or not self._interval.is_alive():
            with self._starting:
                if not self._closed and (self._interval is None or not self._interval.is_alive()):
                    self._interval = IntervalSync(self._sync, self._state, seconds, self._cursor_sync.ensure_pending)
                    self._interval.start()
                    sync_at_exit(self)

    # Reading

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        """A call that `close` waits for. Raises `StoreOpenError` if the store is closed."""
        calls, mark = self._calls, threading.get_ident()
        try:
            calls.running.append(mark)
            self._refuse_closed()
            yield
        finally:
            try:  # noqa: SIM105 - nothing may be called before
                calls.running.remove(mark)
            except ValueError:
                pass  # An interrupt came before it was added.
            if calls.afterwards:
                calls.ended()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreOpenError(self.path, "it was closed")

    def _use_files_in_place(self) -> bool:
        """Return True if files may have been replaced. Raises `StoreOpenError` if the store was closed or moved."""
        self._refuse_closed()
        now = monotonic()
        if now - self._watched_at <= _UNWATCHED_SECONDS:
            return False
        if changed := self._read_watch.changed():
            self._look_again()
        self._watched_at = now
        return changed

    def _committed(self) -> int:
        self._use_files_in_place()
        words = self._state.look()
        self._reader.layout = words[LAYOUT]
        if self._state.readable(words):
            return words[COMMITTED] if consistent(words) else self._committed_after_all()
        if self._state.session or words != self._unattended:
            self._unattended = words  # While nobody writes, they stay.
            self._look_again()
            if self._state.session:
                return self._committed_after_all()
        # The store is read-only here and no writer has it open: the files themselves say.
        with self._refusals():
            return self._reader.unrecovered(self.meta.store_id).committed

    def _moment(self) -> Moment | None:
        """Return what stays the same as long as no read would find anything else; None if nothing can tell."""
        self._use_files_in_place()
        return moment_of(self._state)

    def _committed_after_all(self) -> int:
        """Return the committed position if the shared state has none: a writer is publishing it, or it is damaged."""
        for _ in range(1000):
            published = self._state.published()
            if published:
                return published[0]
        if self._state.writable:
            with self._write_session.lock():  # Taking it recovers.
                return self._state.committed
        raise StoreOpenError(self.path, "its shared state is damaged; open it once with permission to write")

    def _look_again(self) -> None:
        """Before a read: use the files that are in place now. Raises `StoreOpenError` if the folder was moved."""
        moment = self._read_watch.now()
        self.folder.refuse_moved()
        state = self._state
        if not (state.is_in_place and state.readable(state.look())):
            see = self._write_session.rejoin if state.writable else self._write_session.see_session
            see()
        self._reader.look_again()
        self._read_watch.settle(moment)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn an `OSError` into `StorageError`, or into `StoreOpenError` if the store was closed meanwhile."""
        try:
            yield
        except OSError as error:
            self._refuse_closed()
            raise StorageError(self.path, error.errno, str(error), reading=True) from error

    def _blocks(self, span: Span) -> Iterator[Sequence[StoredEnvelope]]:
        with self._refusals():
            yield from self._reader.blocks(span, self.durable_position if span.durable else self._committed())

    def _find(self, event_id: str) -> StoredEnvelope | None:
        with self._calling(), self._refusals():
            now = Moment(self._committed(), self._reader.layout, self._state.history)
            if self._state.writable:
                self._ids.prepare(now)
            found = self._ids.find(event_id, None, now)
            if found and is_erased(found):  # Another stream may have an event with the same id.
                blocks = self._reader.blocks(Span(None, found.position), now.committed)
                return next((record for block in blocks for record in block if record.event_id == event_id), None)
            return found

    if TYPE_CHECKING:

        def envelopes(
            self, stream_id: str | None = None, **options: Unpack[ReadOptions]
        ) -> Iterator[Sequence[StoredEnvelope]]:
            """As `EventStore.envelopes`. The envelopes have the checksums of their lines."""

    def get_stream_version(self, stream_id: str) -> int:
        """The version of a stream's last event, -1 if it never had one. A stream that was deleted keeps its version.

        Raises:
            CorruptionError: the end of the stream is damaged, and the journal's copy of it, too.
        """
        with self._calling(), self._refusals():
            return self._reader.version(check_stream_id(stream_id), self._committed())

    def list_streams(self, prefix: str = "") -> list[str]:
        """The ids of all streams that begin with `prefix`, sorted. Deleted streams are not listed."""
        with self._calling(), self._refusals():
            return sorted(set(self._streams(text("prefix", prefix))).difference(self._deleted_streams()))

    def _deleted_streams(self) -> Iterator[str]:
        deleted, catalog = DeletedStreams(self.folder), self._catalog
        for mark in deleted.marks() if deleted.any else ():
            known = catalog.get(mark.stream_id) if catalog.is_open else None
            if known is None or known.version > mark.deleted_through:  # Begun anew, or the catalog is damaged.
                version = self._reader.version(mark.stream_id, self._committed())
            else:
                version = known.version
            if 0 <= version <= mark.deleted_through:
                yield mark.stream_id

    def _streams(self, prefix: str = "") -> list[str]:
        """Return the streams with a committed event. A power cut may leave files of others, and files may be gone."""
        committed, catalog = self._committed(), self._catalog
        known: dict[str, Known] = {}
        if catalog.is_open:
            found = set(self.folder.stream_ids())  # Of every prefix, to learn whether the catalog has more.
            known, missing = catalog.compare(found)
            if missing:
                found |= self._reader.stream_ids(committed)  # Streams whose files were deleted or moved.
        else:
            found = set(self.folder.stream_ids(prefix))
        found = {stream_id for stream_id in found if stream_id.startswith(prefix)}
        sure = {stream_id for stream_id in found if stream_id in known and known[stream_id].position <= committed}
        return [*sure, *self._reader.committed_among(found - sure, committed)]

    def get_event_count(self) -> int:
        """How many events the store holds: those from the first position on that no retention dropped."""
        with self._calling(), self._refusals():
            return max(0, self._committed() - self._reader.begins() + 1)

    @property
    def durable_position(self) -> int:
        """The position up to which syncs have brought every event to the device."""
        committed = self._committed()
        return min(self._state.durable, committed) if self._state.valid else committed

    def get_stream_count(self) -> int:
        """How many streams the store holds. Deleted streams do not count."""
        with self._calling(), self._refusals():
            self._committed()
            count = self._catalog.count() if self._catalog.is_open else len(self._streams())
            return count - len(set(self._deleted_streams()))

    def _size(self) -> tuple[int, int]:
        with self._refusals():
            sizes = [(path, size) for path, size in sizes_of_files(self._filesystem, self.path)]
        return sum(size for _, size in sizes), sum(is_text(self.path, path) for path, _ in sizes)

    def _await_turn(self, stream_id: str) -> None:
        with self._refusals():
            self._turns.wait(stream_id)

    def _turn(self, stream_id: str) -> AbstractContextManager[None]:
        return self._turns.taken(stream_id)

    # Snapshots

    def _load_snapshot(self, stream_id: str) -> Snapshot | None:
        with self._calling(), self._refusals():
            return self._snapshots.load(stream_id)

    def _change_snapshot(self, stream_id: str, change: Callable[[Snapshot | None], Snapshot | None]) -> None:
        with self._calling(), self._write_session.lock():
            before = self._snapshots.load(stream_id)
            after = change(before)
            if after is None:
                return
            # After a failed sync, a later one of the same file proves nothing.
            self._snapshots.save(after, before, in_place=not self._state.failures)

    def recover_after_dead_writer(self) -> None:
        """Recover after a writer that died, unless another process is writing. Leave damage as it is."""
        with self._calling():
            self._write_session.recover_after_dead_writer()

    @contextlib.contextmanager
    def changing_files(self) -> Iterator[None]:
        """Hold the write lock to replace files that others may have open. Raises what an append raises."""
        with self._calling(), self._write_session.lock(), self._write_session.changing_files():
            yield

    def _stored_snapshots(self, prefix: str) -> Iterator[Snapshot]:
        with self._refusals():
            yield from self._snapshots.all(prefix)

    def _hide_events(self, stream_id: str, change: Callable[[int, Snapshot | None], Snapshot | None]) -> None:
        with importing:
            from hangarlog.filestore.compaction import compact, end_of
        session, snapshots = self._write_session, self._snapshots
        with self._calling(), session.lock():
            end = end_of(session, stream_id)
            before = snapshots.load(stream_id)
            after = change(end.version if end else -1, before)
            if after is None or end is None:
                return
            saves = after != before or not snapshots.is_synced(after)
            if saves:
                session.sync_journal()  # What is hidden must not be what the journal could still lose.
            if after.deleted_through >= 0:  # It may have begun anew.
                DeletedStreams(self.folder).note(stream_id)
            with session.changing_files():
                if saves:
                    snapshots.save(after, before, in_place=not self._state.failures)
                compact(session, after, end)

    # Closing

    def close(self) -> None:
        """Wait for running calls, then close all files; if syncs are at intervals, sync once more first.

        Later calls raise `StoreOpenError`. Closing twice is fine, from several threads, too. Called from within a call,
        by a signal handler or a finalizer, it closes the files when that call ends.
        """
        if self._closed:
            return
        self._closed = True
        # At interpreter exit threads stop, perhaps with a lock held. The system closes files and frees locks.
        if sys.is_finalizing():
            return
        try:
            self._stop_upkeep()
            self._wake_tails()
        finally:
            if self._calls.wait(self._lock_timeout, self._close):
                self._close()

    def _close(self) -> None:
        seconds = self._lock_timeout
        with self._closing_refusals(), contextlib.ExitStack() as closing:  # Close all, also if one fails.
            closing.callback(self.folder.close)
            closing.callback(self._state.close)
            closing.callback(self._catalog.close)
            closing.callback(self._ids.close)
            closing.callback(self._reader.close)
            closing.callback(self._sync.close, seconds)
            closing.callback(self._close_cursors, seconds)
            closing.callback(self._write_session.close, seconds)  # First: a session needs both lock files.
            closing.callback(self._end_upkeep, seconds)
            if self._interval:
                self._interval.stop(seconds)
                with contextlib.suppress(HangarlogError):
                    self._sync_all()

    @contextlib.contextmanager
    def _closing_refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(self.path, error.errno, str(error)) from error

    def __repr__(self) -> str:
        folder = getattr(self, "folder", None)  # Opening it may have failed.
        shown = "closed" if self._closed else f"durability={self._durability!r}"
        return f"<FileEventStore {folder.path if folder else '?'} ({shown})>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a FileEventStore cannot be copied or pickled; open it there: FileEventStore({self.path!r})")

    def __del__(self) -> None:
        self.close()
