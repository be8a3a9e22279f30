"""The check of one stream against the journal."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from hangarlog.errors import CorruptionError
from hangarlog.eventstore.progress import Progress
from hangarlog.filestore.file_owners import JournalNames
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.salvage import damage_at, read_lines
from hangarlog.log.segment import Segment
from hangarlog.maintenance.journal_check import MISSING, PROGRESS_RECORDS, LostPositions, StreamSummary, open_segments
from hangarlog.maintenance.store_view import StoreView
from hangarlog.record.line import StoredEnvelope, erased_record, read_crc, says_nothing
from hangarlog.record.strict import record_or_cause

_KNOWN = 1 << 32  # A bit above the checksums, set for each line that there is.


class JournalCrcs:
    """The checksums of the journal's lines of one stream, by version from `first` on."""

    def __init__(self, first: int) -> None:
        self._first, self._crcs = first, array("Q")

    def add(self, record: StoredEnvelope) -> None:
        """Take the checksum of one line of the journal."""
        at = record.stream_version - self._first
        if 0 <= at < record.position:  # A higher version is forged, and would make the array too long.
            self._crcs.extend([0] * (at + 1 - len(self._crcs)))
            self._crcs[at] = read_crc(record) | _KNOWN

    def of(self, version: int) -> int | None:
        """Return the checksum of the line of a version, None if the journal has no such line."""
        at = version - self._first
        found = self._crcs[at] if 0 <= at < len(self._crcs) else 0
        return found & ~_KNOWN if found else None


class StreamCheck:
    """A check of one stream.

    `summary` is what the journal holds of it, None if the journal does not know the stream. Sealed segments of an
    unknown stream are taken from `names`, because there may be thousands of such files.
    """

    def __init__(
        self, folder: Folder, view: StoreView, stream_id: str, summary: StreamSummary | None, names: JournalNames
    ) -> None:
        self.log = folder.stream(stream_id)
        if summary is None:
            self.log.listed = names.sealed(self.log)
        self._view, self._stream_id, self._summary = view, stream_id, summary
        self._compacted: int | None = None
        self._journal_crcs = JournalCrcs(0)
        self._lost = LostPositions()
        self._last = -1  # The last version read.
        self._expected_version: int | None = None  # The version that must come next; None before the first record.
        self._damaged_lines = 0  # Since the last whole line.

    def is_suspect(self, compacted: int, progress: Progress) -> bool:
        """True if one quick pass over the stream's files finds a difference from the journal.

        `compacted` is the last compacted version, -1 if there is none.
        """
        found, steps = StreamSummary(), 0
        try:
            for segment, first in open_segments(self.log, compacted):
                if isinstance(segment, CorruptionError) or self._misnamed(segment, first, compacted):
                    return True
                for _, line, found_record in read_lines(segment):
                    record = self._hidden(line, compacted) or found_record
                    if isinstance(record, str) or record.stream_id != self._stream_id:
                        return True
                    if record.position > self._view.committed:
                        if not self._view.is_committed(record.position):
                            return True
                        continue
                    last, found.last = found.last, record.stream_version
                    if found.last > compacted:
                        if found.last != max(last, compacted) + 1:
                            return True
                        found.add(record)
                    steps += 1
                    if steps % PROGRESS_RECORDS == 0:
                        progress(PROGRESS_RECORDS)
        except (CorruptionError, FileNotFoundError):
            return True
        summary = self._summary or StreamSummary()
        return (found.last, found.count, found.sum) != (summary.last, summary.count, summary.sum)

    def damages(
        self, compacted: int | None, journal_crcs: JournalCrcs, lost: LostPositions
    ) -> Iterator[CorruptionError]:
        """Yield all damage, line by line.

        Run it with `StoreView.confirm`. `compacted` is the last compacted version, None if the snapshot cannot be read.
        `lost` are the positions that the journal does not have.
        """
        self._compacted, self._journal_crcs, self._lost = compacted, journal_crcs, lost
        for segment, first in open_segments(self.log, -1 if compacted is None else compacted):
            if isinstance(segment, CorruptionError):
                if not self._may_be_missing(segment):
                    yield segment
                self._damaged_lines += 1
                continue
            if misnamed := self._misnamed(segment, first, compacted):
                yield misnamed
            yield from self._read(segment, active=first is None)
            if first is None:
                yield from self._check_end(segment)

    def _misnamed(self, segment: Segment, first: int | None, compacted: int | None) -> CorruptionError | None:
        """Return the damage if a sealed segment's first line is whole, and is not that of version `first`."""
        for _, line, found in read_lines(segment) if first is not None else ():
            record = self._hidden(line, compacted) or found
            if isinstance(record, str) or record.stream_version == first:
                break
            return segment.damage(0, f"its name says {first}, but it begins with version {record.stream_version}")
        return None

    def _may_be_missing(self, damage: CorruptionError) -> bool:
        """True if a missing active segment is no damage, because the stream need not have any version."""
        return damage.cause == MISSING and self._required_version() < 0

    def _required_version(self) -> int:
        """Return the last version that the stream must have, -1 if none.

        It is the last version in the journal, or up to the checkpoint if a crash may have taken later records.
        """
        summary = self._summary or StreamSummary()
        return summary.last if self._view.published() else summary.settled

    def _read(self, segment: Segment, *, active: bool) -> Iterator[CorruptionError]:
        pending: list[CorruptionError] = []
        for offset, line, found in read_lines(segment):
            record = self._hidden(line, self._compacted) or found
            if isinstance(record, str):
                self._damaged_lines += 1
                pending.append(damage_at(segment, offset, line, record))
                continue
            if record.position > self._view.committed and not self._view.is_committed(record.position):
                if self._view.published() and not self._view.write_in_progress:
                    cause = f"its record of position {record.position} was never committed"
                    yield segment.damage(offset, cause)
                continue
            yield from pending
            pending.clear()
            yield from self._check_record(segment, offset, record)
        if pending and not (active and self._may_be_torn(segment, pending[0].offset)):  # A sealed one was synced.
            yield from pending

    def _hidden(self, line: bytes, compacted: int | None) -> StoredEnvelope | None:
        """Return the record of an erased line in its place: up to version `compacted` (None: unknown)."""
        record = erased_record(line)
        return record if record and (compacted is None or record.stream_version <= compacted) else None

    def _may_be_torn(self, segment: Segment, offset: int) -> bool:
        """True if a recovery would cut off the damaged lines from `offset` on as a torn tail."""
        if (self._view.published() and not self._view.write_in_progress) or self._last < self._required_version():
            return False
        lines = (line for block in segment.blocks(offset) for line in block)
        bad = (line for line in lines if isinstance(record_or_cause(line), str))  # The others were never committed.
        return all(map(says_nothing, bad)) and segment.rest_may_be_torn(segment.end_offset())

    def _check_record(self, segment: Segment, offset: int, record: StoredEnvelope) -> Iterator[CorruptionError]:
        if record.stream_id != self._stream_id:
            self._damaged_lines += 1
            yield segment.damage(offset, f"it holds a record of stream {record.stream_id!r}")
            return
        version = record.stream_version
        last, self._last = self._last, max(self._last, version)
        if self._compacted is not None and version <= self._compacted:
            return
        if self._expected_version is None:
            self._expected_version = version if self._compacted is None else self._compacted + 1
        if version < self._expected_version:
            yield segment.damage(offset, f"version {version} comes again, after version {last}")
            return
        if version - self._expected_version > self._damaged_lines:
            cause = f"stream_version {self._expected_version} to {version - 1} are missing before this"
            yield segment.damage(offset, cause)
        self._expected_version, self._damaged_lines = version + 1, 0
        if record.position <= self._view.committed and record.position not in self._lost:
            yield from self._compare(segment, offset, record)

    def _compare(self, segment: Segment, offset: int, record: StoredEnvelope) -> Iterator[CorruptionError]:
        version = record.stream_version
        found = self._journal_crcs.of(version)
        if found is None:
            cause = "the journal has no record of this version, and a different one at this position"
            yield damage_at(segment, offset, b"", cause)
        elif found != read_crc(record):
            yield damage_at(segment, offset, b"", "it differs from the journal's copy, though both are whole")

    def _check_end(self, active: Segment) -> Iterator[CorruptionError]:
        """Yield damage if the journal has later versions that damaged lines do not account for."""
        last = self._required_version()
        if last - self._last > self._damaged_lines:
            cause = f"it ends at version {self._last}, but the journal has it up to {last}"
            yield active.damage(active.size, cause)
