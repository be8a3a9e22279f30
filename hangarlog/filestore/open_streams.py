"""The streams that a writer keeps open: the active segment of each, and the version it is at."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable

from hangarlog.errors import ConcurrencyError, CorruptionError, StreamDeletedError
from hangarlog.eventstore.expected_version import End
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.hidden_events import DeletedStreams
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.record.batch import Pending
from hangarlog.system import descriptors
from hangarlog.system.filesystem import FRESH
from hangarlog.system.import_lock import importing

MAX_OPEN_STREAMS = 256
"""The most streams that a store keeps open. A quarter of the files that the process may open, if that is less."""

COLD_BYTES = 2 << 10
"""The cost of opening a stream and comparing its end in a recovery, in bytes of journal that take as long."""

_UNSEEN_SECONDS = 0.001
"""Seconds after which an open stream is checked for replacement. Until then the journal serves its readers."""

with contextlib.suppress(ImportError):
    import resource

    MAX_OPEN_STREAMS = min(MAX_OPEN_STREAMS, max(8, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))


class StreamEnd:
    """The end of one stream, and its active segment while that is open.

    `last` is its last record, `deleted` the version up to which it was deleted, -1 if it never was. `is_kept` says that
    it is one of those kept open. `seen` is (version, end offset) of a record that another process has committed since.
    It was compared with the catalog in `turn`; its path was looked at at `seen_at`.
    """

    __slots__ = (
        "_folder",
        "active",
        "deleted",
        "exists",
        "gone",
        "is_kept",
        "last",
        "log",
        "seen",
        "seen_at",
        "stream_id",
        "turn",
    )

    def __init__(self, folder: Folder, stream_id: str) -> None:
        log = self.log = folder.stream(stream_id)
        self._folder, self.stream_id = folder, stream_id
        self.seen_at, self.turn = 0.0, -1
        self.active: ActiveSegment | None = None
        self.last: End = (-1, "", 0)
        self.seen = (-1, 0)
        self.is_kept = False
        self.deleted = -1
        try:
            self.active = ActiveSegment(log)
        except FileNotFoundError:
            if log.filesystem.is_there(log.active_path + FRESH):
                log.finish_roll()
                self.active = ActiveSegment(log)
        self.exists = self.active is not None
        self.gone = not self.exists and log.sealed_path(0) != ""
        if self.active:
            self._look(self.active)

    def _look(self, active: ActiveSegment) -> None:
        try:
            last = active.last_record() or self.log.last_record()
        except BaseException:
            self.close()
            raise
        self.last = (last.stream_version, last.event_id, last.position) if last else (-1, "", 0)

    @property
    def version(self) -> int:
        """The version of the stream, -1 if there is none."""
        return self.last[0]

    def refresh(self, active: ActiveSegment) -> None:
        """Read the version again after another process has appended to the active segment, or cut it."""
        active.refresh()
        self._look(active)

    def open(self) -> ActiveSegment:
        """Return the active segment, created if the stream is new."""
        if self.active is None:
            try:
                self.active = ActiveSegment(self.log, new=not self.exists)
            except FileNotFoundError:
                self._folder.make_category(self.log)
                self.active = ActiveSegment(self.log, new=not self.exists)
            self.exists = True
        return self.active

    def undo(self, size: int) -> None:
        """Cut the segment back to `size` bytes; remove the file if it was created for this append."""
        if self.version < 0 and not size:
            self.close()
            self.log.filesystem.remove(self.log.active_path)
            self.exists = False
        else:
            self.open().cut(size)

    def close(self) -> None:
        """Close the file."""
        self.is_kept = False
        if self.active:
            active, self.active = self.active, None
            active.close()


class OpenStreams:
    """The ends of the streams that were appended to last. Only the holder of the write lock uses them.

    When there are too many, the one unused for longest closes. It opens again on its next use, so a batch may span any
    number of streams. Another store that needs descriptors may close unused ends at any moment.
    """

    def __init__(self, folder: Folder, catalog: Catalog) -> None:
        self._folder, self._catalog = folder, catalog
        self._size = folder.filesystem.size
        self._ends: OrderedDict[str, StreamEnd] = OrderedDict()
        self.turn = 0
        """Incremented when others may have committed. Each end is then compared with the catalog before it is used."""
        self._deleted = DeletedStreams(folder)
        self._any_deleted: bool | None = None
        self.cold = 0
        """The number of streams opened since the last commit set it back to 0."""

    @property
    def held(self) -> int:
        """The number of descriptors held."""
        return len(self._ends)

    def let_go(self) -> None:
        """Release the end unused for longest; from any thread."""
        with contextlib.suppress(KeyError):
            self._ends.popitem(last=False)

    def get(self, stream_id: str, now: float, committed: int) -> StreamEnd:
        """Return the end of a stream as it is now. `now` is monotonic seconds, `committed` the last committed position.

        Raises:
            CorruptionError: its last record is damaged.
            StreamDeletedError: it was deleted for good.
        """
        end = self._ends.get(stream_id)
        if end is None:
            return self._opened(stream_id, now, committed)
        # A segment grows in place until its next roll, which empties this cache: its size tells its version.
        active = end.active
        try:  # noqa: SIM105 - of each append
            self._ends.move_to_end(stream_id)
        except KeyError:
            pass  # Another store has released it.
        try:
            if active and self._size(active.fd) != active.size:
                end.refresh(active)
                end.turn = -1
            right = end.turn == self.turn or self._is_right(end)
            if right and now - end.seen_at > _UNSEEN_SECONDS:
                right, end.seen_at = active is not None and active.is_in_place, now
            if not right:
                self._ends.pop(stream_id, None)
                end.close()
                return self._opened(stream_id, now, committed)
            end.turn = self.turn
        except BaseException:
            self._ends.pop(stream_id, None)  # Its version is no longer known.
            raise
        return end

    def _opened(self, stream_id: str, now: float, committed: int) -> StreamEnd:
        end = StreamEnd(self._folder, stream_id)
        try:
            self._folder.refuse_moved()  # Checked last: the folder may have been replaced before the open.
        except BaseException:
            end.close()
            raise
        self.cold += 1
        if end.gone or not self._is_right(end):
            end.close()
            self.settle([stream_id], committed)
            end = StreamEnd(self._folder, stream_id)
        end.turn, end.seen_at = self.turn, now
        try:
            self._note_deletion(end)
        except BaseException:
            end.close()
            raise
        if end.exists:
            self.keep(stream_id, end)
        return end

    def _note_deletion(self, end: StreamEnd) -> None:
        """Read whether a stream was deleted: every deletion, by any process, empties this cache.

        Raises:
            StreamDeletedError: it was deleted for good.
        """
        if self._any_deleted is None:
            self._any_deleted = self._deleted.any
        mark = self._deleted.mark_of(end.stream_id) if self._any_deleted else None
        if mark and mark.tombstone:
            raise StreamDeletedError(end.stream_id, end.version)
        end.deleted = mark.deleted_through if mark else -1

    def settle(self, stream_ids: Iterable[str], committed: int) -> None:
        """Bring the ends of streams in line with the journal. Raises `CorruptionError`."""
        with importing:
            from hangarlog.filestore.stream_ends import settle_stream
        for stream_id in stream_ids:
            settle_stream(self._folder, self._catalog, stream_id, committed)

    def _is_right(self, end: StreamEnd) -> bool:
        """True if a stream ends where the catalog says."""
        known = self._catalog.get(end.stream_id)
        version, _, position = end.last
        return version < 0 if known is None else known.version == version and known.is_at(position)

    def replaced(self) -> list[str]:
        """Return the streams whose file was replaced while it was open: later appends are missing in the new file."""
        found = []
        for name, end in list(self._ends.items()):
            with contextlib.suppress(OSError):  # The next process to open the store checks all of them.
                if end.active and not end.active.is_in_place:
                    found.append(name)
        return found

    def refuse_overtaken(self, pending: Pending, committed: int) -> None:
        """Raise `ConcurrencyError` if a stream has committed records that an append does not expect.

        Only one read is spent on it. A retry passes: the records are its own.
        """
        end, expected = self._ends.get(pending.stream_id), pending.expected
        if end is None or end.active is None or expected < 0 or not pending.events:
            return
        seen = end.seen if end.seen[0] == expected else (end.version, end.active.size)
        if seen[0] != expected:
            return
        with contextlib.suppress(OSError, CorruptionError):
            found = end.active.records_beyond(seen[1], committed)
            if found:
                first, last, offset = found
                retried = first.event_id == pending.events[0][1]
                if first.stream_version == expected + 1 and not retried:
                    end.seen = (last.stream_version, offset)
                    raise ConcurrencyError(pending.stream_id, expected, last.stream_version)

    def seen(self, stream_id: str) -> StreamEnd | None:
        """Return the end of a stream as it was left, None if it is not kept open."""
        return self._ends.get(stream_id)

    def keep(self, stream_id: str, end: StreamEnd) -> None:
        """Keep an open end; close the one unused for longest if there are too many."""
        if end.active is None:
            self._ends.pop(stream_id, None)  # A closed end cannot see appends of others.
            return
        if not self._ends:
            descriptors.watch(self)
        self._ends[stream_id] = end
        end.is_kept = True
        if len(self._ends) > MAX_OPEN_STREAMS:
            self._close_coldest()
        for _ in range(min(descriptors.excess(self), len(self._ends) - 1)):
            self._close_coldest()

    def clear(self) -> None:
        """Close all of them."""
        self._any_deleted = None
        while self._ends:
            self._close_coldest()

    def _close_coldest(self) -> None:
        with contextlib.suppress(KeyError):  # Another store may have released the last one.
            self._ends.popitem(last=False)[1].close()
