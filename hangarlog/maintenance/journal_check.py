"""The check of the journal up to the committed position.

Committed records do not change, so one pass is enough.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Iterator

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.eventstore.progress import Progress
from hangarlog.eventstore.stream_id import why_no_stream_has
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.hidden_events import without_left_over
from hangarlog.filestore.journal import Journal
from hangarlog.filestore.salvage import damage_at, read_journal_lines
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.maintenance.store_view import StoreView
from hangarlog.record.line import StoredEnvelope, is_erased, read_crc
from hangarlog.record.strict import shown_key

PROGRESS_RECORDS = 1000
"""Records between two reports of progress."""

MISSING = "it is missing"
"""The cause of the damage when an active segment does not exist."""


def open_segments(log: Log, compacted: int = -1) -> Iterator[tuple[Segment | CorruptionError, int | None]]:
    """Yield (segment, number in its name) in order; the number is None for the active segment.

    Each segment is closed when the next one is requested. One that cannot be opened is yielded as its error. Sealed
    segments that do not belong to this log are skipped, and those that a compaction up to version `compacted` has left.
    """
    active, begins = None, None
    try:
        with contextlib.suppress(CorruptionError):
            active = log.open_active()
            begins = active.first_number() if active else None
        oldest = log.begins() if isinstance(log, Journal) else 0
        sealed = [] if begins == oldest else log.sealed_before(begins)  # Listing a large folder is slow.
        for first in without_left_over(sealed, compacted):
            try:
                segment = log.open_sealed(first)
            except CorruptionError as error:
                yield error, first
                continue
            with contextlib.closing(segment):
                yield segment, first
        if active:
            yield active, None
        else:
            yield _missing_segment(log), None
    finally:
        if active:
            active.close()


def _missing_segment(log: Log) -> CorruptionError:
    """Return the error for an active segment that cannot be opened."""
    try:
        active = log.open_active()
        if active:
            active.close()
    except CorruptionError as error:
        return error
    return CorruptionError(log.active_path, os.path.basename(log.active_path), 0, MISSING)


def _first_position(segment: Segment) -> int | None:
    """Return the position of the first line, None if it is damaged."""
    record = next((record for _, _, record in read_journal_lines(segment)), "")
    return None if isinstance(record, str) else record.position


class StreamSummary(msgspec.Struct):
    """What the journal or the stream's own files hold of a stream.

    `last` is the last version, `count` the number of records, `sum` the sum of their checksums. `settled` is the last
    version that the stream cannot have lost in a crash.
    """

    last: int = -1
    count: int = 0
    sum: int = 0
    settled: int = -1

    def add(self, record: StoredEnvelope) -> None:
        """Count a record; its valid checksum stands for the whole record."""
        self.count += 1
        self.sum += read_crc(record)


class LostPositions:
    """Ranges of positions without a whole line in the journal."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Add positions `first` to `last`, which must be above those of the call before."""
        self._firsts.append(first)
        self._lasts.append(last)

    def __contains__(self, position: int) -> bool:
        at = bisect_right(self._firsts, position) - 1
        return at >= 0 and position <= self._lasts[at]

    def __bool__(self) -> bool:
        return bool(self._firsts)


class JournalCheck:
    """A check of the journal.

    It fills `streams` and `lost` while you iterate over `damages()`. `compacted` is the last compacted version of each
    stream with a snapshot.
    """

    def __init__(self, folder: Folder, view: StoreView, compacted: dict[str, int], progress: Progress) -> None:
        self._folder, self._view, self._compacted, self._progress = folder, view, compacted, progress
        self.streams: dict[str, StreamSummary] = {}
        self.lost = LostPositions()
        self._position = folder.journal.begins() - 1
        self._damaged_lines = 0  # Since the last whole line.
        self._batch_end = 0  # The last position of a batch that has begun, 0 between batches.

    def last_version(self, stream_id: str) -> int:
        """Return the last version of a stream in the journal, -1 if there is none."""
        known = self.streams.get(stream_id)
        return known.last if known else -1

    def damages(self) -> Iterator[CorruptionError]:
        """Yield every damaged line and every gap."""
        committed = self._view.committed
        for segment, first in open_segments(self._folder.journal):
            if isinstance(segment, CorruptionError):
                yield segment
                self._damaged_lines = committed  # All positions missing after it may have been in this segment.
                continue
            if first is not None and first <= committed:
                begins = _first_position(segment)
                if begins not in (None, first):
                    yield segment.damage(0, f"its name says {first}, but it begins with position {begins}")
                elif self._position + 1 < first:
                    yield from self._gap(segment, 0, first)
            yield from self._read(segment)
        if self._position < committed:
            yield from self._check_end(committed)
        elif self._batch_end > committed:
            yield self._damage_at_end(f"the batch up to position {self._batch_end} is not whole")

    def _read(self, segment: Segment) -> Iterator[CorruptionError]:
        for offset, line, record in read_journal_lines(segment):
            if self._position >= self._view.committed:
                return
            if not isinstance(record, str) and is_erased(record) and not self._is_hidden(record):
                record = "it is erased, but no mark hides the event; its stream may still have it"
            if isinstance(record, str):
                self._damaged_lines += 1
                yield damage_at(segment, offset, line, record)
                continue
            if record.position > self._view.committed and self._view.is_committed(record.position):
                return  # It was appended after the check began.
            if not self._position < record.position <= self._view.committed:
                cause = f"position {self._position + 1} must come here, not {record.position}"
                yield segment.damage(offset, cause)
                self._damaged_lines += 1
                continue
            if record.position > self._position + 1:
                yield from self._gap(segment, offset, record.position)
            self._position, self._damaged_lines = record.position, 0
            yield from self._check_batch(segment, offset, record)
            yield from self._check_stream(segment, offset, record)
            if record.position % PROGRESS_RECORDS == 0:
                self._progress(PROGRESS_RECORDS)

    def _is_hidden(self, record: StoredEnvelope) -> bool:
        """True if a mark hides a record, or may do so: one that is damaged is reported itself."""
        if record.stream_version > self._compacted.get(record.stream_id, -1):
            snapshots = SnapshotFiles(self._folder.filesystem, self._folder.snapshots_path)
            with contextlib.suppress(CorruptionError):  # The mark may have come since.
                snapshot = snapshots.load(record.stream_id)
                return snapshot is not None and record.stream_version <= snapshot.compacted_through
        return True

    def _gap(self, segment: Segment, offset: int, position: int) -> Iterator[CorruptionError]:
        """Note missing positions before `position`: damage, unless as many damaged lines account for them."""
        if position - 1 - self._position > self._damaged_lines:
            yield segment.damage(offset, f"position {self._position + 1} to {position - 1} are missing before this")
        self.lost.add(self._position + 1, position - 1)
        self._position, self._batch_end = position - 1, 0

    def _check_end(self, committed: int) -> Iterator[CorruptionError]:
        """Note missing positions up to `committed`, as `_gap` does."""
        if committed - self._position > self._damaged_lines:
            yield self._damage_at_end(f"it ends at position {self._position}; {committed} events were committed")
        self.lost.add(self._position + 1, committed)

    def _damage_at_end(self, cause: str) -> CorruptionError:
        with contextlib.suppress(CorruptionError):
            active = self._folder.journal.open_active()
            if active:
                with contextlib.closing(active):
                    return active.damage(active.size, cause)
        return _missing_segment(self._folder.journal)

    def _check_batch(self, segment: Segment, offset: int, record: StoredEnvelope) -> Iterator[CorruptionError]:
        end = self._batch_end
        if (end and record.batch_end != end) or 0 < record.batch_end < record.position:
            cause = f"the batch up to position {end or record.batch_end} is not whole before this record"
            yield segment.damage(offset, cause)
        self._batch_end = record.open_batch

    def _check_stream(self, segment: Segment, offset: int, record: StoredEnvelope) -> Iterator[CorruptionError]:
        version, compacted = record.stream_version, self._compacted.get(record.stream_id, -1)
        known = self.streams.get(record.stream_id)
        if known is None:
            known = self.streams[record.stream_id] = StreamSummary()
            if cause := why_no_stream_has(record.stream_id):
                shown = shown_key(record.stream_id)
                damage = segment.damage(offset, f"no stream may have the id {shown}: {cause}; it can only be read")
                damage.mendable = False
                yield damage
            missing = version > compacted + 1 and not self._may_lack_beginning(record.stream_id)
        else:
            missing = version > known.last + 1
        if version <= known.last:
            cause = f"version {version} of stream {record.stream_id!r} comes again, after version {known.last}"
            yield segment.damage(offset, cause)
        elif missing and not self.lost:
            cause = f"versions {known.last + 1} to {version - 1} of stream {record.stream_id!r} are missing before this"
            yield segment.damage(offset, cause)
        known.last = max(known.last, version)
        if record.position <= self._view.settled:
            known.settled = known.last
        if version > compacted and not is_erased(record):
            known.add(record)

    def _may_lack_beginning(self, stream_id: str) -> bool:
        """True if the snapshot that may say where the stream begins cannot be read."""
        return stream_id not in self._compacted and self._folder.filesystem.is_there(
            SnapshotFiles(self._folder.filesystem, self._folder.snapshots_path).path(stream_id)
        )

    def trailing_bytes(self) -> list[CorruptionError]:
        """Return damage if bytes follow the last committed batch and no writer is at work."""
        active = self._folder.journal.open_active()
        if active is None:
            return []
        with contextlib.closing(active):
            published = self._view.published()
            if published is None:
                return [self._view.doubt] if self._view.doubt else []
            _, _, size = published
            if active.size > size and not self._view.write_in_progress:
                return [active.damage(size, f"{active.size - size} bytes follow the last committed batch")]
        return []
