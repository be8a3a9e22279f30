"""The store in a folder: opening it, reading it, and how durable its appends are."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from hangarlog import eventstore
from hangarlog.commit import Pending
from hangarlog.errors import OutcomeUnknownError, StorageError, StoreOpenError
from hangarlog.eventstore import EventStore
from hangarlog.filesystem import FileSystem
from hangarlog.folder import Folder
from hangarlog.late import importing
from hangarlog.lock import FileLock, Turnstile, held
from hangarlog.naming import check_stream_id
from hangarlog.reader import Reader
from hangarlog.record import Envelope
from hangarlog.serializer import EventSerializer
from hangarlog.snapshot import Snapshot, SnapshotFiles
from hangarlog.state import SharedState, create_state
from hangarlog.sync import IntervalSync, JournalSync
from hangarlog.writer import Writer

if TYPE_CHECKING:
    from hangarlog.recovery import Recovered

Durability = eventstore.Durability | float


class FileEventStore(EventStore):
    """An event store that is a folder of plain text, shared by any number of threads and processes.

    Args:
        path: the folder; it is created if there is none.
        serializer: types, versions and upcasters; by default what is registered, with no upcasters.
        durability: "always" (an append returns when it is on the device), "relaxed" (the operating system decides when;
            it survives the death of the process, not a power cut), or the seconds between syncs.
        segment_bytes: size at which a segment is sealed and the next begun. Fixed when the store is created.
        exclusive: hold the write lock until `close`; faster, and every other writer gets `StoreBusyError`.
        lock_timeout: seconds to wait for other processes before `LockTimeoutError`; None waits for ever.
        create: with False, a folder that is no store is an error instead of becoming one.
        filesystem: the seam to the operating system, for tests.

    Raises:
        StoreOpenError, StoreFormatError: the folder is no store, cannot be read, or is of another format.
        StoreBusyError: another process holds it exclusively.
        UpcastingError: the serializer's chain has a gap.
        CorruptionError: a crash is to be recovered from, and the journal is damaged.
    """

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
        filesystem: FileSystem | None = None,
    ) -> None:
        self._closed = True
        super().__init__(serializer)
        seconds = 1.0 if durability in ("always", "relaxed") else durability
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
            raise ValueError(f"durability must be 'always', 'relaxed' or seconds between syncs, not {durability!r}")
        if lock_timeout is not None and not lock_timeout >= 0:
            raise ValueError(f"lock_timeout must be seconds from 0 on, or None, not {lock_timeout!r}")
        self._durability = durability
        self._filesystem = filesystem or FileSystem()
        self.folder = Folder(self._filesystem, os.fspath(path))
        self.meta = self.folder.open(segment_bytes, create=create)
        lock = self.folder.write_lock()
        state = self._state = self._map_state(lock)
        lock.wake_with(state.gate_bell, state.lock_bell)
        sync_lock = self._sync_lock = FileLock(self._filesystem, self.folder.lock_path("sync"), state.sync_bell)
        self._writer = Writer(self.folder, self.meta, state, lock, sync_lock, lock_timeout)
        self._sync = JournalSync(self.folder, self.meta.store_id, state, sync_lock)
        self._interval: IntervalSync | None = None
        self._snapshots = SnapshotFiles(self._filesystem, self.folder.snapshots_path)
        self._reader = Reader(self.folder, self._snapshots, state)
        self._closed = False
        try:
            if self._state.writable and not self._writer.trusts_state:
                with self._writer.lock():
                    pass  # Taking it recovers.
            elif self._state.writable:
                self._writer.finish_for_the_dead()
            if exclusive:
                self._writer.hold()
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """The folder of the store."""
        return self.folder.path

    @property
    def recovered(self) -> Recovered | None:
        """What this store had to make whole after a crash, None if nothing yet."""
        return self._writer.recovered

    def _map_state(self, lock: Turnstile) -> SharedState:
        path = self.folder.state_path
        with contextlib.suppress(OSError, ValueError):
            return SharedState(self._filesystem, path)
        try:
            with held(lock):
                create_state(self._filesystem, path)
            return SharedState(self._filesystem, path)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                with contextlib.suppress(OSError, ValueError):
                    return SharedState(self._filesystem, path, writable=False)
            cause = f"its shared state can neither be made nor read: {error}; open it once with write permission"
            raise StoreOpenError(self.path, cause) from error

    # Appending

    def _commit(self, pendings: list[Pending], durability: eventstore.Durability | None = None) -> dict[str, int]:
        if self._closed:
            self._refuse_closed()
        wanted = durability or self._durability
        if wanted == "relaxed":
            return self._writer.commit(pendings)
        failures = self._state.failures
        versions = self._writer.commit(pendings)
        if wanted == "always":
            self._sync.ensure(self._state.committed, failures)
        else:
            self._sync_later(float(wanted))
        return versions

    def append_encoded(self, pendings: list[Pending]) -> dict[str, int]:
        """Append events that are encoded already, as a relaxed `append_many`: call `sync` to make them durable."""
        self._refuse_closed()
        return self._writer.commit(pendings)

    def sync(self) -> None:
        """Return when every event committed so far is on the device, whatever the durability.

        Raises:
            SyncError: the device refused.
        """
        self._refuse_closed()
        self._sync.ensure(self._state.committed, self._state.failures)

    def _sync_later(self, seconds: float) -> None:
        if self._interval is None or not self._interval.is_alive():
            self._interval = IntervalSync(self._sync, self._state, seconds)
            self._interval.start()
            _syncing.add(self)

    def begin_stream(self, stream_id: str, version: int) -> None:
        """Say of a stream that is to be imported that its events before `version` are gone."""
        self._change_snapshot(stream_id, lambda _: Snapshot(stream_id, compacted_through=version - 1))

    # Reading

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreOpenError(self.path, "it was closed")

    def _committed(self) -> int:
        self._refuse_closed()
        if self._writer.trusts_state or self._state.valid:
            published = self._state.published()
            return published[0] if published else self._committed_after_all()
        # It may only be read here, and nobody has written since the machine started: the files themselves say.
        with self._refusals():
            return self._reader.unrecovered(self.meta.store_id).committed

    def _committed_after_all(self) -> int:
        """The committed position where the state does not say it: somebody is publishing, died at it, or it rotted."""
        for _ in range(1000):
            published = self._state.published()
            if published:
                return published[0]
        if self._state.writable:
            with self._writer.lock():  # Taking it recovers.
                return self._state.committed
        raise StoreOpenError(self.path, "its shared state is damaged; open it once with permission to write")

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """What the operating system refuses a reader comes out as `StorageError`."""
        try:
            yield
        except OSError as error:
            raise StorageError(self.path, error.errno, str(error), reading=True) from error

    def _stream(
        self,
        stream_id: str,
        from_version: int | None,
        reverse: bool,
        limit: int | None = None,
        *,
        skip: bool = False,
        durable: bool = False,
    ) -> Iterator[Sequence[Envelope]]:
        with self._refusals():
            seen = self.durable_position if durable else self._committed()
            yield from self._reader.stream(stream_id, from_version, reverse, seen, limit, skip)

    def _all(
        self,
        from_position: int | None,
        reverse: bool,
        limit: int | None = None,
        *,
        skip: bool = False,
        durable: bool = False,
    ) -> Iterator[Sequence[Envelope]]:
        with self._refusals():
            seen = self.durable_position if durable else self._committed()
            yield from self._reader.everything(from_position, reverse, seen, limit, skip)

    def get_stream_version(self, stream_id: str) -> int:
        """The version of a stream's last event, -1 when there is no such stream.

        Raises:
            CorruptionError: the end of the stream is damaged, and the journal's copy of it, too.
        """
        with self._refusals():
            return self._reader.version(check_stream_id(stream_id), self._committed())

    def list_streams(self, prefix: str = "") -> list[str]:
        """The ids of all streams that begin with `prefix`, sorted."""
        with self._refusals():
            return sorted(self.folder.stream_ids(prefix))

    def get_event_count(self) -> int:
        """How many events the store holds: the position of the last one."""
        return self._committed()

    @property
    def durable_position(self) -> int:
        """The position up to which every event is known to be on the device: what a sync has covered."""
        committed = self._committed()
        return min(self._state.durable, committed) if self._state.valid else committed

    def get_stream_count(self) -> int:
        """How many streams the store holds."""
        with self._refusals():
            return sum(1 for _ in self.folder.stream_ids())

    # Snapshots

    def _load_snapshot(self, stream_id: str) -> Snapshot | None:
        with self._refusals():
            return self._snapshots.load(stream_id)

    def _change_snapshot(self, stream_id: str, change: Callable[[Snapshot | None], Snapshot | None]) -> None:
        with self._writer.lock():
            before = self._snapshots.load(stream_id)
            after = change(before)
            if after is None:
                return
            if after.compacted_through > (before.compacted_through if before else -1):
                self._writer.sync_journal()  # What is deleted from a stream must not be what the journal could lose.
            self._snapshots.save(after)

    @contextlib.contextmanager
    def changing_files(self) -> Iterator[None]:
        """The write lock, for what replaces files that others may have open. Raises what an append raises."""
        with self._writer.lock(), self._writer.changing_files():
            yield

    def _reclaim(self, stream_id: str, through: int) -> None:
        with importing:
            from hangarlog.compaction import compact
        with self.changing_files():
            compact(self.folder.stream(stream_id), through)

    # Closing

    def close(self) -> None:
        """Close all files; with an interval, sync once more first. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        with self._refusals(), contextlib.ExitStack() as closing:  # Whatever fails, the others are closed.
            closing.callback(self._state.close)
            closing.callback(self._reader.close)
            closing.callback(self._sync_lock.close)
            closing.callback(self._sync.close)
            closing.callback(self._writer.close)
            if self._interval:
                self._interval.stop()
                with contextlib.suppress(OutcomeUnknownError):
                    self._sync.ensure(self._state.committed, self._state.failures)

    def __del__(self) -> None:
        # At the interpreter's end threads stand still, perhaps with a lock; the system takes files and locks back.
        if not sys.is_finalizing():
            self.close()


_syncing: weakref.WeakSet[FileEventStore] = weakref.WeakSet()


@atexit.register
def _close_at_exit() -> None:
    """What is synced at intervals is synced once more while threads still run."""
    for store in list(_syncing):
        store.close()
