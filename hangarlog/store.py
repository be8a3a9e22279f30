"""The store in a folder: the commit and the reads."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Literal

from hangarlog.checkpoint import save_checkpoint
from hangarlog.commit import Pending, encode_batch, now, settle
from hangarlog.compaction import compact
from hangarlog.errors import (
    CorruptionError,
    OutcomeUnknownError,
    StorageError,
    StoreBusyError,
    StoreOpenError,
    SyncError,
)
from hangarlog.eventstore import EventStore
from hangarlog.filesystem import FileSystem
from hangarlog.folder import Folder
from hangarlog.index import STRIDE
from hangarlog.lock import FileLock
from hangarlog.log import LiveEnd
from hangarlog.naming import check_stream_id
from hangarlog.record import Envelope
from hangarlog.recovery import Recovered, recover
from hangarlog.serializer import EventSerializer
from hangarlog.snapshot import Snapshot, SnapshotFiles
from hangarlog.state import SharedState, create_state
from hangarlog.stream import WARM, StreamEnd, WarmStreams
from hangarlog.sync import IntervalSync, JournalSync

Durability = Literal["always", "relaxed"] | float

_forks = 0


class FileEventStore(EventStore):
    """An event store that is a folder of plain text, shared by any number of threads and processes.

    Args:
        path: the folder; it is created if there is none.
        serializer: types, versions and upcasters; by default what is registered, with no upcasters.
        durability: "always" (an append returns when it is on the device), "relaxed" (the operating system decides when;
            it survives the death of the process, not a power cut), or the seconds between syncs.
        segment_bytes: size at which a segment is sealed and the next begun. Fixed when the store is created.
        exclusive: hold the write lock until `close`; faster, and every other writer gets `StoreBusyError`.
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
        create: bool = True,
        filesystem: FileSystem | None = None,
    ) -> None:
        self._closed = True
        super().__init__(serializer)
        seconds = 1.0 if durability in ("always", "relaxed") else durability
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
            raise ValueError(f"durability must be 'always', 'relaxed' or seconds between syncs, not {durability!r}")
        self._durability = durability
        self._filesystem = filesystem or FileSystem()
        self.folder = Folder(self._filesystem, os.fspath(path))
        self.meta = self.folder.open(segment_bytes, create=create)
        self.recovered: Recovered | None = None
        self._lock = self.folder.write_lock()
        self._state = self._map_state()
        self._snapshots = SnapshotFiles(self._filesystem, self.folder.snapshots_path)
        self._sync = JournalSync(self._filesystem, self.folder.journal.base, self.folder.lock_path("sync"), self._state)
        self._interval: IntervalSync | None = None
        self._journal: LiveEnd | None = None
        self._streams = WarmStreams(self.folder)
        self._seen = (-1, -1)  # The layout and the fork that the open files belong to.
        self._sealed_at: int | None = None  # The position up to which a journal segment was sealed in this commit.
        self._trusted = self._state.valid
        self._held: threading.Lock | None = None
        self._closed = False
        try:
            if self._state.writable and not self._trusted:
                self._acquire()
                self._release()
            if exclusive:
                self._hold()
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """The folder of the store."""
        return self.folder.path

    def _map_state(self) -> SharedState:
        path = self.folder.state_path
        with contextlib.suppress(OSError, ValueError):
            return SharedState(self._filesystem, path)
        with contextlib.suppress(OSError):
            self._lock.acquire()
            try:
                create_state(self._filesystem, path)
            finally:
                self._lock.release()
            return SharedState(self._filesystem, path)
        try:  # Perhaps the folder may only be read.
            return SharedState(self._filesystem, path, writable=False)
        except (OSError, ValueError) as error:
            cause = f"its shared state can neither be written nor read ({error}); open it once with write permission"
            raise StoreOpenError(self.path, cause) from error

    # The write lock

    def _acquire(self) -> None:
        """Take the write lock, with everything it protects known and whole."""
        if self._closed:
            raise StoreOpenError(self.path, "it was closed")
        if not self._state.writable:
            raise StoreOpenError(self.path, "it can only be read here: there is no permission to write")
        if self._held:
            if self._seen[1] != _forks:
                raise StoreBusyError(self.path, self._state.exclusive)
            self._held.acquire()
        elif not self._lock.try_acquire():
            self._wait_for_lock()
        try:
            self._look()
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        if self._held:
            self._held.release()
        else:
            self._lock.release()

    def _wait_for_lock(self) -> None:
        pid = self._state.exclusive
        if pid:
            # Either it is alive, or it died and another process holds the lock for a moment and takes the mark away.
            for _ in range(20):
                if self._lock.try_acquire():
                    return
                threading.Event().wait(0.01)
            if self._state.exclusive == pid:
                raise StoreBusyError(self.path, pid)
        self._lock.acquire()

    def _hold(self) -> None:
        self._acquire()
        self._state.exclusive = os.getpid()
        self._held = threading.Lock()

    def _look(self) -> None:
        """Under the lock: notice what other processes did, and what one that died left undone."""
        state = self._state
        if state.exclusive and not self._held:
            state.exclusive = 0  # Its holder died, else the lock would not be ours.
        if self._seen != (state.layout, _forks):
            self._forget()
        if state.writing or not self._trusted:
            if state.writing or not state.valid:  # Else another process has just recovered.
                self._recover()
            self._trusted = True
        if self._journal is None:
            self._journal = LiveEnd(self.folder.journal, create=True)
        if self._filesystem.size(self._journal.fd) != state.journal_size:
            self._recover()
            self._journal = LiveEnd(self.folder.journal)
        self._journal.size = state.journal_size
        if state.sync_failed:
            raise SyncError(self._journal.path, "an earlier sync of the journal has failed")

    def _recover(self) -> None:
        self._forget()
        self._state.reload()
        self.recovered = recover(self.folder, self._state)
        self._seen = (self._state.layout, _forks)

    def _forget(self) -> None:
        """Close what is open: it may no longer be the live end of anything."""
        self._streams.clear()
        if self._journal:
            journal, self._journal = self._journal, None
            journal.close()
        self._seen = (self._state.layout, _forks)

    # The commit

    def _commit(self, pendings: list[Pending]) -> dict[str, int]:
        versions = self.append_encoded(pendings)
        if self._durability == "always":
            self.sync()
        elif self._durability != "relaxed":
            self._sync_later()
        return versions

    def append_encoded(self, pendings: list[Pending]) -> dict[str, int]:
        """Append events that are encoded already, as a relaxed `append_many`: call `sync` to make them durable."""
        self._acquire()
        try:
            ends: dict[str, StreamEnd] = {}
            versions, to_write = settle(pendings, self._end_in(ends), self._ids_at)
            if to_write:
                self._write(to_write, ends, versions)
            sealed_at, self._sealed_at = self._sealed_at, None
        except OSError as error:
            raise StorageError(self.path, error.errno, str(error)) from error
        finally:
            self._release()
        if sealed_at is not None:
            self._checkpoint(sealed_at)
        return versions

    def sync(self) -> None:
        """Return when every event committed so far is on the device, whatever the durability.

        Raises:
            SyncError: the device refused.
        """
        self._sync.ensure(self._state.committed)

    def begin_stream(self, stream_id: str, version: int) -> None:
        """Say of a stream that is to be imported that its events before `version` are gone."""
        self._change_snapshot(stream_id, lambda _: Snapshot(stream_id, compacted_through=version - 1))

    def _end_in(self, ends: dict[str, StreamEnd]) -> Callable[[str], tuple[int, str]]:
        def end_of(stream_id: str) -> tuple[int, str]:
            end = ends[stream_id] = self._streams.get(stream_id)
            return end.version, end.last_event_id

        return end_of

    def _ids_at(self, stream_id: str, version: int, count: int) -> list[str]:
        ids: list[str] = []
        for block in self.folder.stream(stream_id).forward(version):
            if block[0].stream_version > version and not ids:
                break  # Compacted away.
            ids += [record.event_id for record in block[: count - len(ids)]]
            if len(ids) == count:
                break
        return ids

    def _write(self, to_write: list[tuple[Pending, int]], ends: dict[str, StreamEnd], versions: dict[str, int]) -> None:
        """Write a batch to the journal, then to its streams, then publish it; or leave everything as it was."""
        state = self._state
        position = state.committed + 1
        batch = encode_batch(to_write, position, now())
        published = False
        undo: list[tuple[StreamEnd, int]] = []
        size = -1
        state.begin()
        try:
            journal, first = self._journal_end(position)
            size = journal.size
            journal.append(batch[0].data if len(batch) == 1 else b"".join([placed.data for placed in batch]))
            for placed in batch:
                end = ends[placed.stream_id]
                live = self._stream_end(end)
                undo.append((end, live.size))
                live.append(placed.data)
                if len(undo) > WARM:
                    end.close()
            published = True
            state.finish(position + sum(len(pending.events) for pending, _ in to_write) - 1, first, journal.size)
            for placed in batch:
                end = ends[placed.stream_id]
                end.version, end.last_event_id = placed.version, placed.event_id
                versions[placed.stream_id] = placed.version
                self._streams.keep(placed.stream_id, end)
                self._extend_index(end.live)
            self._extend_index(journal)
        except BaseException as error:
            try:
                if not published:
                    self._undo(undo, size, error)
            finally:
                for end in ends.values():
                    end.close()
                self._forget()
            raise

    def _undo(self, undo: list[tuple[StreamEnd, int]], size: int, error: BaseException) -> None:
        if size < 0:
            return  # A roll failed; the mark stays, and the next writer looks how far it came.
        assert self._journal
        try:
            for end, end_size in reversed(undo):
                end.undo(end_size)
            self._journal.cut(size)  # Last: as long as the batch is whole here, it counts.
        except OSError as failure:
            raise OutcomeUnknownError(self.path, f"{error}; taking it back failed too: {failure}") from error
        self._state.abandon()

    def _journal_end(self, position: int) -> tuple[LiveEnd, int]:
        """The journal's live end, rolled if it is time, and its first position if `position` is written next."""
        assert self._journal
        if self._journal.size >= self.meta.segment_bytes:
            self._sync_now(self._journal)
            self._journal = self._journal.roll()
            self._sealed_at = self._state.committed
            self._state.durable = max(self._state.durable, self._sealed_at)
            self._changed_layout()
        return self._journal, self._state.journal_first if self._journal.size else position

    def _stream_end(self, end: StreamEnd) -> LiveEnd:
        live = end.open()
        if live.size >= self.meta.segment_bytes:
            assert self._journal
            self._sync_now(self._journal)  # First: a sealed segment must hold nothing that the journal could lose.
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

    @staticmethod
    def _extend_index(live: LiveEnd | None) -> None:
        # The batch is committed: trouble with a cache of it must not look like a failed append.
        if live and live.size >= STRIDE:
            with contextlib.suppress(OSError, CorruptionError):
                if live.index_due:
                    live.extend_index()

    def _sync_later(self) -> None:
        if self._interval is None or not self._interval.is_alive():
            self._interval = IntervalSync(self._sync, self._state, float(self._durability))
            self._interval.start()

    def _checkpoint(self, position: int) -> None:
        """Bring the streams to the device after a journal segment was sealed, unless another process is at it."""
        lock = FileLock(self._filesystem, self.folder.lock_path("checkpoint"))
        # Without a checkpoint a recovery has more to read; that is no reason to fail an append that is committed.
        with contextlib.suppress(OSError), contextlib.closing(lock):
            if lock.acquire(blocking=False):
                try:
                    save_checkpoint(self._filesystem, self.folder, position)
                finally:
                    lock.release()

    # Reading

    def _committed(self) -> int:
        if self._closed:
            raise StoreOpenError(self.path, "it was closed")
        if self._trusted or self._state.valid:
            return self._state.committed
        # It may only be read here, and nobody has written since the machine started: the journal itself says.
        for block in self.folder.journal.backward():
            for record in block:
                if record.ends_batch:
                    return record.position
        return 0

    def _stream(self, stream_id: str, from_version: int | None, reverse: bool) -> Iterator[list[Envelope]]:
        committed = self._committed()
        through = self._compacted_through(stream_id)
        log = self.folder.stream(stream_id)
        if reverse:
            for block in _up_to(log.backward(from_version), committed):
                kept = [record for record in block if record.stream_version > through]
                if kept:
                    yield kept
                if len(kept) < len(block):
                    return
            return
        start = max(from_version or 0, through + 1)
        while True:
            try:
                for block in _up_to(log.forward(start), committed):
                    if block[0].stream_version != start:
                        missing = f"stream_version {start} to {block[0].stream_version - 1} are missing"
                        raise CorruptionError(log.live_path, os.path.basename(log.live_path), 0, missing)
                    yield block
                    start = block[-1].stream_version + 1
            except (CorruptionError, FileNotFoundError):
                through = self._compacted_through(stream_id)
                if through < start:
                    raise
                start = through + 1  # The stream was compacted while it was read.
            else:
                return

    def _all(self, from_position: int | None, reverse: bool) -> Iterator[list[Envelope]]:
        committed = self._committed()
        journal = self.folder.journal
        if reverse:
            start = committed if from_position is None else min(from_position - 1, committed)
            if start >= 1:
                yield from journal.backward(start)
            return
        position = from_position or 0
        if position >= committed:
            return
        for block in _up_to(journal.forward(position + 1), committed):
            if block[0].position != position + 1:
                break
            yield block
            position = block[-1].position
        if position < committed:
            cause = f"position {position + 1} is missing; {committed} events were committed"
            raise CorruptionError(journal.live_path, os.path.basename(journal.live_path), 0, cause)

    def _compacted_through(self, stream_id: str) -> int:
        # Most stores have no snapshots at all, and then no stream's has to be looked for.
        if not os.path.isdir(self.folder.snapshots_path):
            return -1
        snapshot = self._snapshots.load(stream_id)
        return snapshot.compacted_through if snapshot else -1

    def get_stream_version(self, stream_id: str) -> int:
        """The version of a stream's last event, -1 when there is no such stream.

        Raises:
            CorruptionError: the end of the stream is damaged.
        """
        log = self.folder.stream(check_stream_id(stream_id))
        for block in _up_to(log.backward(), self._committed()):
            return block[0].stream_version
        return -1

    def list_streams(self, prefix: str = "") -> list[str]:
        """The ids of all streams that begin with `prefix`, sorted."""
        return sorted(self.folder.stream_ids(prefix))

    def get_event_count(self) -> int:
        """How many events the store holds: the position of the last one."""
        return self._committed()

    def get_stream_count(self) -> int:
        """How many streams the store holds."""
        return sum(1 for _ in self.folder.stream_ids())

    # Snapshots

    def _load_snapshot(self, stream_id: str) -> Snapshot | None:
        return self._snapshots.load(stream_id)

    def _change_snapshot(self, stream_id: str, change: Callable[[Snapshot | None], Snapshot | None]) -> None:
        self._acquire()
        try:
            before = self._snapshots.load(stream_id)
            after = change(before)
            if after is None:
                return
            if after.compacted_through > (before.compacted_through if before else -1):
                # What is to be deleted from the stream must be nothing that the journal could still lose.
                assert self._journal
                self._sync_now(self._journal)
            self._snapshots.save(after)
        except OSError as error:
            raise StorageError(self.path, error.errno, str(error)) from error
        finally:
            self._release()

    def _reclaim(self, stream_id: str, through: int) -> None:
        self._acquire()
        try:
            self._state.begin()
            compact(self.folder.stream(stream_id), through)
            self._state.change_layout()
            self._state.abandon()
        except OSError as error:
            raise StorageError(self.path, error.errno, str(error)) from error
        finally:
            self._forget()
            self._release()

    # Closing

    def close(self) -> None:
        """Close all files; with an interval, sync once more first. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        if self._interval:
            self._interval.stop()
            with contextlib.suppress(SyncError):
                self._sync.ensure(self._state.committed)
        if self._held and self._seen[1] == _forks:
            self._state.exclusive = 0
            self._lock.release()
        self._forget()
        self._lock.close()
        self._sync.close()
        self._state.close()

    def __del__(self) -> None:
        self.close()


def _up_to(blocks: Iterator[list[Envelope]], committed: int) -> Iterator[list[Envelope]]:
    """Only what is committed: a record that is being written is in its file before it counts."""
    for block in blocks:
        if block[0].position <= committed >= block[-1].position:
            yield block
        else:
            kept = [record for record in block if record.position <= committed]
            if kept:
                yield kept


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
