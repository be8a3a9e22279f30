"""The streams that a writer keeps open: the active segment of each, and the version it is at."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable

from hangarlog.errors import ConcurrencyError, CorruptionError
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.folder import Folder
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.segment_name import text_path
from hangarlog.record.batch import Pending
from hangarlog.system import descriptors
from hangarlog.system.filesystem import FRESH
from hangarlog.system.import_lock import importing

MAX_OPEN_STREAMS = 256
"""At most so many streams a store keeps open, and a quarter of what the process may open."""

COLD_BYTES = 2 << 10
"""To open a stream and compare its end, in a recovery, takes as long as so many bytes of journal."""

_UNSEEN_SECONDS = 0.001
"""Seconds after which an open stream's file is looked for at its path; until then the journal serves its readers."""

with contextlib.suppress(ImportError):
    import resource

    MAX_OPEN_STREAMS = min(MAX_OPEN_STREAMS, max(8, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))


class StreamEnd:
    """The end of one stream, and its live segment when it is open.

    `place` is (its version, -1 for no stream; the id of the event there), `position` the position of that event.
    `is_kept` says that it is one of those kept open. `seen` is (version, end offset) of a record that another process
    has committed since. It was compared with the catalog in `turn`; its path was looked at at `seen_at`.
    """

    __slots__ = (
        "_folder",
        "exists",
        "gone",
        "is_kept",
        "live",
        "log",
        "place",
        "position",
        "seen",
        "seen_at",
        "stream_id",
        "turn",
    )

    def __init__(self, folder: Folder, stream_id: str) -> None:
        log = self.log = folder.stream(stream_id)
        self._folder, self.stream_id = folder, stream_id
        self.position = 0
        self.seen_at, self.turn = 0.0, -1
        self.live: ActiveSegment | None = None
        self.place = (-1, "")
        self.seen = (-1, 0)
        self.is_kept = False
        try:
            self.live = ActiveSegment(log)
        except FileNotFoundError:
            if log.filesystem.is_there(log.live_path + FRESH):
                log.finish_roll()
                self.live = ActiveSegment(log)
        self.exists = self.live is not None
        self.gone = not self.exists and log.filesystem.is_there(text_path(log.sealed_base(0)))
        if self.live:
            self._look(self.live)

    def _look(self, live: ActiveSegment) -> None:
        try:
            last = live.last_record() or self.log.last_record()
        except BaseException:
            self.close()
            raise
        self.place = (last.stream_version, last.event_id) if last else (-1, "")
        self.position = last.position if last else 0

    @property
    def version(self) -> int:
        """The version the stream is at, -1 where there is no stream."""
        return self.place[0]

    def refresh(self, live: ActiveSegment) -> None:
        """Read the version again: another process has appended to the live segment, or cut it."""
        live.refresh()
        self._look(live)

    def open(self) -> ActiveSegment:
        """The live segment, created if the stream is new."""
        if self.live is None:
            try:
                self.live = ActiveSegment(self.log, new=not self.exists)
            except FileNotFoundError:
                self._folder.make_category(self.log)
                self.live = ActiveSegment(self.log, new=not self.exists)
            self.exists = True
        return self.live

    def undo(self, size: int) -> None:
        """Take back what was appended beyond `size` bytes; a file that was created for it goes too."""
        if self.version < 0 and not size:
            self.close()
            self.log.filesystem.remove(self.log.live_path)
            self.exists = False
        else:
            self.open().cut(size)

    def close(self) -> None:
        """Close the file."""
        self.is_kept = False
        if self.live:
            live, self.live = self.live, None
            live.close()


class OpenStreams:
    """The ends of the streams appended to last. For the holder of the write lock only.

    An end that is closed because others came is opened again when it is used, so a batch may span any number. Where
    another store needs descriptors more, it takes the coldest ends out, at any moment; one in use stays open meanwhile.
    """

    def __init__(self, folder: Folder, catalog: Catalog) -> None:
        self._folder, self._catalog = folder, catalog
        self._size = folder.filesystem.size
        self._ends: OrderedDict[str, StreamEnd] = OrderedDict()
        self.turn = 0
        """Raised when others may have committed: then each end is compared with the catalog before it is used."""
        self.cold = 0
        """How many streams were opened since somebody last asked, and set it back."""

    @property
    def held(self) -> int:
        """How many descriptors it holds."""
        return len(self._ends)

    def let_go(self) -> None:
        """Take the coldest end out, from any thread."""
        with contextlib.suppress(KeyError):
            self._ends.popitem(last=False)

    def get(self, stream_id: str, now: float, committed: int) -> StreamEnd:
        """The end of a stream as it is now; `now` is the time (monotonic), `committed` the last position.

        Raises:
            CorruptionError: its last record is damaged.
        """
        end = self._ends.get(stream_id)
        if end is None:
            return self._opened(stream_id, now, committed)
        # A segment grows in place until its next roll, which empties this cache: its size tells its version.
        live = end.live
        try:  # noqa: SIM105 - of each append
            self._ends.move_to_end(stream_id)
        except KeyError:
            pass  # Another store has taken it out.
        try:
            if live and self._size(live.fd) != live.size:
                end.refresh(live)
                end.turn = -1
            right = end.turn == self.turn or self._is_right(end)
            if right and now - end.seen_at > _UNSEEN_SECONDS:
                right, end.seen_at = live is not None and live.is_in_place, now
            if not right:
                self._ends.pop(stream_id, None)
                end.close()
                return self._opened(stream_id, now, committed)
            end.turn = self.turn
        except BaseException:
            self._ends.pop(stream_id, None)  # Its version is not known any more.
            raise
        return end

    def _opened(self, stream_id: str, now: float, committed: int) -> StreamEnd:
        end = StreamEnd(self._folder, stream_id)
        try:
            self._folder.refuse_moved()  # After it was opened: else it may be another store's.
        except BaseException:
            end.close()
            raise
        self.cold += 1
        if end.gone or not self._is_right(end):
            end.close()
            self.settle([stream_id], committed)
            end = StreamEnd(self._folder, stream_id)
        end.turn, end.seen_at = self.turn, now
        if end.exists:
            self.keep(stream_id, end)
        return end

    def settle(self, stream_ids: Iterable[str], committed: int) -> None:
        """Bring streams' ends to what the journal has for them. Raises `CorruptionError`."""
        with importing:
            from hangarlog.filestore.stream_ends import settle_stream
        for stream_id in stream_ids:
            settle_stream(self._folder, self._catalog, stream_id, committed)

    def _is_right(self, end: StreamEnd) -> bool:
        """Whether a stream ends where the catalog says."""
        known = self._catalog.get(end.stream_id)
        version = end.place[0]
        return version < 0 if known is None else known.version == version and known.is_at(end.position)

    def replaced(self) -> list[str]:
        """The streams whose open file is not the one at its path any more: what was appended since is not there."""
        found = []
        for name, end in list(self._ends.items()):
            with contextlib.suppress(OSError):  # The next one to open the store looks at all of them.
                if end.live and not end.live.is_in_place:
                    found.append(name)
        return found

    def refuse_overtaken(self, pending: Pending, committed: int) -> None:
        """Raise `ConcurrencyError` if a stream has records, up to position `committed`, that an append does not expect.

        Only what is seen at once counts. A retry is not refused: its own records are there.
        """
        end, expected = self._ends.get(pending.stream_id), pending.expected
        if end is None or end.live is None or expected < 0 or not pending.events:
            return
        seen = end.seen if end.seen[0] == expected else (end.version, end.live.size)
        if seen[0] != expected:
            return
        with contextlib.suppress(OSError, CorruptionError):
            found = end.live.records_beyond(seen[1], committed)
            if found:
                first, last, offset = found
                retried = first.event_id == pending.events[0][1]
                if first.stream_version == expected + 1 and not retried:
                    end.seen = (last.stream_version, offset)
                    raise ConcurrencyError(pending.stream_id, expected, last.stream_version)

    def seen(self, stream_id: str) -> StreamEnd | None:
        """The end of a stream as it was left, if it is kept open."""
        return self._ends.get(stream_id)

    def keep(self, stream_id: str, end: StreamEnd) -> None:
        """Keep an end that is in use and open; the coldest one is closed."""
        if end.live is None:
            self._ends.pop(stream_id, None)  # A closed one could not tell whether others append to it.
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
        while self._ends:
            self._close_coldest()

    def _close_coldest(self) -> None:
        with contextlib.suppress(KeyError):  # Another store may have taken the last one out.
            self._ends.popitem(last=False)[1].close()
