"""Finds events by their ids: in a table that all processes share, and in memory what the table does not have yet.

The first call reads the journal. From then on each call reads what was committed since the last one. What has gathered
in memory goes into the table when it is worth a sync. A hit is proved by the record itself. A miss counts because the
table covers every event up to a position, which the header says, and the record there shows that it is this history.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hangarlog.errors import CorruptionError, HangarlogError, LockTimeoutError
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.selection import Span
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.id_table import Covered, IdTable, TableError
from hangarlog.filestore.shared_state import COMMITTED, FAILURES, LAYOUT, WRITING, SharedState, consistent
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.record.line import StoredEnvelope, read_crc
from hangarlog.system.file_lock import FileLock, alone, enter

_WORTH = 4096
"""The table is extended when this many ids have gathered in memory."""
_MAX_GATHERED = 1 << 18  # The most ids in memory, some 60 MiB. Beyond them, the journal is read for each call.
_FEW = 64  # So many events are read from the end of the journal.


class Moment(NamedTuple):
    """What a call sees of the store: the committed position, the layout, and the history.

    The history is (session, failed syncs): while it is the same, no committed event is taken back.
    """

    committed: int
    layout: int
    history: tuple[int, int]


def moment_of(state: SharedState) -> Moment | None:
    """Return what the shared state says of now, None if a writer is changing it or it is not believed."""
    words = state.look()
    if not state.believes(words) or words[WRITING] or not consistent(words):
        return None
    return Moment(words[COMMITTED], words[LAYOUT], (state.session, words[FAILURES]))


Read = Callable[[Span, Moment], Iterator[Sequence[StoredEnvelope]]]
"""Yields the committed records of a span."""


class EventIds:
    """The event ids of one store, in this process. Threads may share it, and so may a forked child.

    `sync` brings what is committed to the device. Calls raise `OSError`, and `CorruptionError` if the event that an id
    leads to is damaged in both copies. The id of an event that is damaged already when it is first met is not known.
    """

    def __init__(
        self, folder: Folder, store_id: str, read: Read, sync: Callable[[], None], lock_seconds: float | None
    ) -> None:
        self._filesystem, self._path, self._store_id = folder.filesystem, folder.ids_path, store_id
        self._store_path = folder.path
        self._read, self._sync, self._lock_seconds = read, sync, lock_seconds
        # A file of its own: the table is replaced when it is made anew or grows.
        self._lock = FileLock(folder.filesystem, folder.lock_path("event-ids"))
        self._table: IdTable | None = None
        self._bad = 0  # The file that is not to be used.
        self._now = Moment(0, -1, (-1, 0))
        # What the table does not have: {id, or (id, stream) of a further event with that id: position}.
        self._gathered: dict[str | tuple[str, str], int] = {}
        self._seen = 0  # Every event up to `_seen` is in the table or gathered.
        self._due = _WORTH
        self._noted: deque[dict[str, AppendResult]] = deque(maxlen=256)

    def close(self) -> None:
        """Close the file."""
        self._forget()
        self._lock.close()

    def _forget(self) -> None:
        if self._table:
            self._table.close()
        self._table, self._seen = None, 0
        self._gathered.clear()

    # Finding

    def find(
        self, event_id: str, stream_id: str | None, now: Moment, journal: ActiveSegment | None = None
    ) -> StoredEnvelope | None:
        """Return the first event with an id, of one stream or of all (None); None if there is none.

        The holder of the write lock passes the open `journal`.
        """
        threads, entered = self._lock.threads, False
        try:  # As in `alone`: a generator would cost every append a microsecond.
            entered = enter(threads, self._lock_seconds)
            if not entered:
                raise LockTimeoutError(self._store_path, os.getpid(), self._lock_seconds or 0)
            try:
                self._catch_up(now, journal=journal)
                return self._find(event_id, stream_id)
            except TableError:
                self._give_up_table()
                self._catch_up(now)
                return self._find(event_id, stream_id)
        finally:
            if entered or threads._is_owned():
                threads.release()

    def _find(self, event_id: str, stream_id: str | None) -> StoredEnvelope | None:
        table, unseen = self._table, self._seen
        found = [self._gathered.get(event_id, 0)]
        if table:
            key = table.key(event_id)
            found.insert(0, table.get(key))
        if stream_id is not None and any(found):
            found += [table.get(table.key(event_id, stream_id))] if table else []
            found.append(self._gathered.get((event_id, stream_id), 0))
        for position in filter(None, found):
            record = self._record(position)
            if record and record.event_id == event_id:
                if stream_id in (None, record.stream_id):
                    return record
            elif record and table and table.key(record.event_id) == key:
                unseen = 0  # Two ids have the same key.
        return self._search(event_id, stream_id, unseen)

    def _search(self, event_id: str, stream_id: str | None, after: int) -> StoredEnvelope | None:
        """Read the journal for an event, after a position."""
        if after < self._now.committed:
            for block in self._records(Span(None, after, skip=True)):
                for record in block:
                    if record.event_id == event_id and stream_id in (None, record.stream_id):
                        return record
        return None

    def _records(self, span: Span) -> Iterator[Sequence[StoredEnvelope]]:
        return self._read(span, self._now)

    def _record(self, position: int) -> StoredEnvelope | None:
        for block in self._records(Span(None, position - 1, limit=1)):
            return block[0] if block[0].position == position else None
        return None

    # Catching up

    def is_due(self, committed: int) -> bool:
        """True if `prepare` has something to do. `committed` is about the committed position."""
        table = self._table
        return committed - (table.covered.position if table else 0) >= self._due

    def prepare(self, now: Moment) -> None:
        """Bring the table up to date if that is worth it, so that `find` has little to read. Hold no lock of the store.

        A failure is not reported: `find` then reads more of the journal.
        """
        if self.is_due(now.committed):
            with contextlib.suppress(HangarlogError, OSError, TableError):
                self._due += _WORTH  # If it fails, try again later.
                self._sync()  # A power cut must not take back what the table covers.
                with alone(self._lock, self._lock_seconds):
                    self._catch_up(now, most=0)
                    if now.committed - self._seen + len(self._gathered) >= _WORTH:
                        self._extend(now)
                    self._due = _WORTH

    def note(self, results: dict[str, AppendResult]) -> None:
        """Note the events that this process has just committed."""
        self._noted.append(results)

    def _take_noted(self) -> None:
        """Gather what was noted, if it follows what is known; if not, it is read."""
        while self._noted:
            for stream_id, result in self._noted.popleft().items():
                first, last, ids = result.first_position, result.last_position, result.event_ids
                if (
                    result.written
                    and self._seen == first - 1
                    and last - first + 1 == len(ids)
                    and len(self._gathered) < _MAX_GATHERED
                ):
                    for position, event_id in enumerate(ids, first):
                        self._gather(event_id, stream_id, position)
                    self._seen = last

    def _gather(self, event_id: str, stream_id: str, position: int) -> None:
        if self._gathered.setdefault(event_id, position) != position:
            self._gathered.setdefault((event_id, stream_id), position)

    def _catch_up(self, now: Moment, most: int = _MAX_GATHERED, journal: ActiveSegment | None = None) -> None:
        """Know every committed event, but do not gather more than `most` ids in memory."""
        table, other = self._table, now.history != self._now.history
        self._take_noted()
        if other or (journal and now.committed < self._seen) or (table and not table.is_as_loaded):
            self._now = now
            self._load()
        if now.committed < self._seen:
            now = now._replace(committed=self._seen)  # Another thread has seen more.
        self._now = now
        if journal and now.committed - _FEW <= self._seen < now.committed:
            self._take_last(journal)
        if self._seen < now.committed and len(self._gathered) < most:
            for block in self._records(Span(None, self._seen, limit=now.committed - self._seen, skip=True)):
                for record in block:
                    self._gather(record.event_id, record.stream_id, record.position)
                self._seen = block[-1].position
                if len(self._gathered) >= most:
                    return
            self._seen = now.committed  # The last ones may be damaged.

    def _take_last(self, journal: ActiveSegment) -> None:
        """Gather the last events from the end of the journal, which is quicker than to look for where they begin."""
        first, committed = self._seen + 1, self._now.committed
        with contextlib.suppress(CorruptionError):
            records = journal.records_since(first)
            if [record.position for record in records] == [*range(first, committed + 1)]:
                for record in records:
                    self._gather(record.event_id, record.stream_id, record.position)
                self._seen = committed

    def _load(self) -> None:
        """Use the file at the path, if it is a table of this history."""
        self._forget()
        with contextlib.suppress(OSError, TableError):
            self._use(self._opened(writable=False))

    def _opened(self, *, writable: bool) -> IdTable:
        """Open the table at the path. Raises `OSError`, or `TableError` if it is not one of this history."""
        table = IdTable.open(self._filesystem, self._path, self._store_id, writable=writable)
        covered, record = table.covered, self._record(table.covered.position) if table.covered.position else None
        if table.identity == self._bad or (covered.position and not (record and read_crc(record) == covered.crc)):
            table.close()
            raise TableError("it is of another history")
        return table

    def _use(self, table: IdTable) -> None:
        self._forget()
        self._table, self._seen = table, table.covered.position

    def _give_up_table(self) -> None:
        """Never use the open table again, and have another one made."""
        if self._table:
            self._bad = self._table.identity
        self._forget()

    # Extending the table

    def _extend(self, now: Moment) -> None:
        """Put every event that is committed, and on the device, into the table at the path."""
        lock, known, committed = self._lock, self._table, now.committed
        try:
            if not self._locked():
                return
            table = self._table_to_write(committed)
            if known and known.is_as_loaded and known.identity == table.identity and known.covered == table.covered:
                known.close()
                self._table = table
            else:
                self._use(table)  # Another process has extended it, or made it anew.
            while True:
                self._catch_up(now)
                if self._table is not table:
                    return  # Its header was changed from outside.
                self._put(table, min(committed, self._seen))
                if self._seen >= committed:
                    return
        except TableError:
            self._give_up_table()
            raise
        finally:
            lock.release()
            lock.close()

    def _locked(self) -> bool:
        """Lock the file that is in place, made if it is missing."""
        lock = self._lock
        while lock.acquire(self._lock_seconds):
            if lock.is_in_place:
                return True
            lock.release()
            lock.close()
        return False

    def _table_to_write(self, committed: int) -> IdTable:
        try:
            return self._opened(writable=True)
        except (TableError, FileNotFoundError):
            self._bad = 0  # Another file may get its number.
            return IdTable.create(self._filesystem, self._path, self._store_id, committed)

    def _put(self, table: IdTable, last: int) -> None:
        """Move what is gathered up to position `last` into the table."""
        entries = [(name, position) for name, position in self._gathered.items() if position <= last]
        keys = [(self._key(table, name), position) for name, position in entries]
        while not table.has_room(len(keys)):
            table.grow()
        while True:
            try:
                self._put_keys(table, keys)
                break
            except OverflowError:
                table.grow()
        for block in self._records(Span(None, last + 1, reverse=True, skip=True, limit=1)):
            table.cover(Covered(block[0].position, read_crc(block[0])))
            break
        for name, _ in entries:
            del self._gathered[name]

    @staticmethod
    def _key(table: IdTable, name: str | tuple[str, str]) -> bytes:
        return table.key(name) if isinstance(name, str) else table.key(*name)

    def _put_keys(self, table: IdTable, keys: list[tuple[bytes, int]]) -> None:
        further, stale = [], []
        for key, position, there in table.put(keys):
            if self._leads_to(table, key, there):  # The id comes again.
                record = self._record(position)
                further += [(table.key(record.event_id, record.stream_id), position)] if record else []
            else:
                stale.append((key, position))
        table.put(further)
        table.put(stale, replace=True)

    def _leads_to(self, table: IdTable, key: bytes, position: int) -> bool:
        """True if a key is that of the event at a position, or if that event is damaged."""
        try:
            record = self._record(position)
        except CorruptionError:
            return True
        return record is not None and key in (
            table.key(record.event_id),
            table.key(record.event_id, record.stream_id),
        )
