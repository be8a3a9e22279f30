"""Checking the journal up to the committed position; what is committed stays as it is, so one look is enough."""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.salvage import damage_at, read_lines
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.maintenance.store_view import StoreView
from hangarlog.record.line import StoredEnvelope, read_crc

STEP_RECORDS = 1000
"""Records between two reports of progress."""


def numbered(log: Log) -> Iterator[tuple[Segment | CorruptionError, int | None]]:
    """(segment, the number in its name, None for the live end) in order, each closed when the next is asked for.

    What cannot be opened comes as the error. Sealed segments that are not of this log are passed over.
    """
    live, begins = None, None
    try:
        with contextlib.suppress(CorruptionError):
            live = log.open_live()
            begins = live.first_number() if live else None
        oldest = 1 if log.field == "position" else 0
        sealed = [] if begins == oldest else log.sealed_before(begins)  # To list a folder may take long.
        for first in sealed:
            try:
                segment = log.open_sealed(first)
            except CorruptionError as error:
                yield error, first
                continue
            with contextlib.closing(segment):
                yield segment, first
        if live:
            yield live, None
        else:
            yield _gone(log), None
    finally:
        if live:
            live.close()


def _gone(log: Log) -> CorruptionError:
    try:
        live = log.open_live()
        if live:
            live.close()
    except CorruptionError as error:
        return error
    return CorruptionError(log.live_path, os.path.basename(log.live_path), 0, "it is gone")


class KnownStream(msgspec.Struct):
    """What one copy has of a stream: its last version, how many records, the sum of their checksums.

    `settled` is the last version that a crash cannot have taken from the stream.
    """

    last: int = -1
    count: int = 0
    sum: int = 0
    settled: int = -1

    def add(self, record: StoredEnvelope) -> None:
        """Count a record, which is whole: its checksum stands for it."""
        self.count += 1
        self.sum += read_crc(record)


class LostRecords:
    """Positions of which the journal has no whole line."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        """These; each call's are beyond those of the last one."""
        self._firsts.append(first)
        self._lasts.append(last)

    def __contains__(self, position: int) -> bool:
        at = bisect_right(self._firsts, position) - 1
        return at >= 0 and position <= self._lasts[at]

    def __bool__(self) -> bool:
        return bool(self._firsts)


class JournalCheck:
    """A check of the journal. When its damages were asked for, `streams` and `lost` say what it has, and has not."""

    def __init__(
        self, folder: Folder, watch: StoreView, through: dict[str, int], progress: Callable[[int], None]
    ) -> None:
        self._folder, self._watch, self._through, self._progress = folder, watch, through, progress
        self.streams: dict[str, KnownStream] = {}
        self.lost = LostRecords()
        self._position = 0
        self._bad = 0  # Damaged lines since the last whole one.
        self._batch_end = 0  # Of a batch that is not at its end yet.

    def last_version(self, stream_id: str) -> int:
        """The last version that the journal has of a stream, -1 if there is none."""
        known = self.streams.get(stream_id)
        return known.last if known else -1

    def damages(self) -> Iterator[CorruptionError]:
        """Every damaged line and every gap."""
        committed = self._watch.committed
        for segment, first in numbered(self._folder.journal):
            if isinstance(segment, CorruptionError):
                yield segment
                self._bad = committed  # Whatever is missing was in there.
                continue
            if first is not None and self._position + 1 < first <= committed:
                yield from self._gap(segment, 0, first)
            yield from self._read(segment)
        if self._position < committed:
            yield from self._ends_early(committed)
        elif self._batch_end > committed:
            yield self._at_the_end(f"the batch up to position {self._batch_end} is not whole")

    def _read(self, segment: Segment) -> Iterator[CorruptionError]:
        for offset, line, record in read_lines(segment):
            if self._position >= self._watch.committed:
                return
            if isinstance(record, str):
                self._bad += 1
                yield damage_at(segment, offset, line, record)
                continue
            if record.position > self._watch.committed and self._watch.is_committed(record.position):
                return  # Appended since.
            if not self._position < record.position <= self._watch.committed:
                cause = f"position {self._position + 1} must come here, not {record.position}"
                yield segment.damage(offset, cause)
                self._bad += 1
                continue
            if record.position > self._position + 1:
                yield from self._gap(segment, offset, record.position)
            self._position, self._bad = record.position, 0
            yield from self._in_its_batch(segment, offset, record)
            yield from self._in_its_stream(segment, offset, record)
            if record.position % STEP_RECORDS == 0:
                self._progress(STEP_RECORDS)

    def _gap(self, segment: Segment, offset: int, position: int) -> Iterator[CorruptionError]:
        """Positions before this one are missing: said, unless there are as many damaged lines."""
        if position - 1 - self._position > self._bad:
            yield segment.damage(offset, f"position {self._position + 1} to {position - 1} are missing before this")
        self.lost.add(self._position + 1, position - 1)
        self._position, self._batch_end = position - 1, 0

    def _ends_early(self, committed: int) -> Iterator[CorruptionError]:
        if committed - self._position > self._bad:
            yield self._at_the_end(f"it ends at position {self._position}; {committed} events were committed")
        self.lost.add(self._position + 1, committed)

    def _at_the_end(self, cause: str) -> CorruptionError:
        with contextlib.suppress(CorruptionError):
            live = self._folder.journal.open_live()
            if live:
                with contextlib.closing(live):
                    return live.damage(live.size, cause)
        return _gone(self._folder.journal)

    def _in_its_batch(self, segment: Segment, offset: int, record: StoredEnvelope) -> Iterator[CorruptionError]:
        end = self._batch_end
        if (end and record.batch_end != end) or 0 < record.batch_end < record.position:
            cause = f"the batch up to position {end or record.batch_end} is not whole before this record"
            yield segment.damage(offset, cause)
        self._batch_end = record.batch_end if record.batch_end > record.position else 0

    def _in_its_stream(self, segment: Segment, offset: int, record: StoredEnvelope) -> Iterator[CorruptionError]:
        version, through = record.stream_version, self._through.get(record.stream_id, -1)
        known = self.streams.get(record.stream_id)
        if known is None:
            known = self.streams[record.stream_id] = KnownStream()
            missing = version > through + 1 and not self._may_begin_later(record.stream_id)
        else:
            missing = version > known.last + 1
        if version <= known.last:
            cause = f"version {version} of stream {record.stream_id!r} comes twice, it is at {known.last} already"
            yield segment.damage(offset, cause)
        elif missing and not self.lost:
            cause = f"versions {known.last + 1} to {version - 1} of stream {record.stream_id!r} are missing before this"
            yield segment.damage(offset, cause)
        known.last = max(known.last, version)
        if record.position <= self._watch.settled:
            known.settled = known.last
        if version > through:
            known.add(record)

    def _may_begin_later(self, stream_id: str) -> bool:
        """Whether the stream has a snapshot that could not be read: it may have been imported without its beginning."""
        return stream_id not in self._through and self._folder.filesystem.is_there(
            SnapshotFiles(self._folder.filesystem, self._folder.snapshots_path).path(stream_id)
        )

    def behind(self) -> list[CorruptionError]:
        """What stands behind the last committed batch, while nobody writes: of no use to anybody."""
        live = self._folder.journal.open_live()
        if live is None:
            return []
        with contextlib.closing(live):
            now = self._watch.now()
            if now is None:
                return [self._watch.doubt] if self._watch.doubt else []
            if live.size > now[2] and not self._watch.settling:
                return [live.damage(now[2], f"{live.size - now[2]} bytes behind what was committed last")]
        return []
