"""Checking one stream against what the journal has of it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from hangarlog.errors import CorruptionError
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.owners import JournalNames
from hangarlog.filestore.salvage import damage_at, read_lines
from hangarlog.log.segment import Segment
from hangarlog.maintenance.journal_check import STEP_RECORDS, KnownStream, LostRecords, numbered
from hangarlog.maintenance.store_view import StoreView
from hangarlog.record.line import StoredEnvelope, may_be_torn, read_crc

ALL_VERSIONS = 1 << 32
"""Set with the checksum of a line that there is: 0 is one, too."""


class StreamCheck:
    """A check of a stream; `expected` is what the journal has of it, None if it knows no such stream.

    Of one that it does not know the sealed segments are those in `names`: there may be thousands of such files.
    """

    def __init__(
        self, folder: Folder, watch: StoreView, stream_id: str, expected: KnownStream | None, names: JournalNames
    ) -> None:
        self.log = folder.stream(stream_id)
        if expected is None:
            self.log.listed = names.sealed(self.log)
        self._watch, self._stream_id, self._expected = watch, stream_id, expected
        self._through: int | None = None
        self._lines: array[int] = array("Q")
        self._lost = LostRecords()
        self._last = -1  # The last version met.
        self._next: int | None = None  # The version that must come now, None before the first that is shown.
        self._bad = 0  # Damaged lines since the last whole one.

    def doubtful(self, through: int, progress: Callable[[int], None]) -> bool:
        """Whether its files are anything but what the journal says, as far as one quick look can tell."""
        found, steps = KnownStream(), 0
        try:
            for segment, _ in numbered(self.log):
                if isinstance(segment, CorruptionError):
                    return True
                for _, _, record in read_lines(segment):
                    if isinstance(record, str) or record.stream_id != self._stream_id:
                        return True
                    if record.position > self._watch.committed:
                        if not self._watch.is_committed(record.position):
                            return True
                        continue
                    last, found.last = found.last, record.stream_version
                    if found.last > through:
                        if found.last != max(last, through) + 1:
                            return True
                        found.add(record)
                    steps += 1
                    if steps % STEP_RECORDS == 0:
                        progress(STEP_RECORDS)
        except (CorruptionError, FileNotFoundError):
            return True
        expected = self._expected or KnownStream()
        return (found.last, found.count, found.sum) != (expected.last, expected.count, expected.sum)

    def damages(self, through: int | None, lines: array[int], lost: LostRecords) -> Iterator[CorruptionError]:
        """Everything that is wrong, line by line, while nobody writes.

        Up to version `through` it is compacted, None if nobody knows; `lines` are the checksums of the journal's lines
        by version, `lost` the positions that the journal has not.
        """
        self._through, self._lines, self._lost = through, lines, lost
        for segment, first in numbered(self.log):
            if isinstance(segment, CorruptionError):
                if not self._left_out(segment):
                    yield segment
                self._bad += 1
                continue
            if first is not None:
                begins = next((r for _, _, r in read_lines(segment) if isinstance(r, StoredEnvelope)), None)
                if begins and begins.stream_version != first:
                    yield segment.damage(0, f"its name says {first}, it begins with version {begins.stream_version}")
            yield from self._read(segment)
            if first is None:
                yield from self._ends_early(segment)

    def _left_out(self, damage: CorruptionError) -> bool:
        """Whether a file is gone of a stream that is not there, or that a crash may have left without one."""
        return damage.cause == "it is gone" and self._least() < 0

    def _least(self) -> int:
        """The version that it must have: where nobody knows what a crash has taken, that up to the checkpoint."""
        expected = self._expected or KnownStream()
        return expected.last if self._watch.now() else expected.settled

    def _read(self, segment: Segment) -> Iterator[CorruptionError]:
        pending: list[CorruptionError] = []
        for offset, line, record in read_lines(segment):
            if isinstance(record, str):
                self._bad += 1
                pending.append(damage_at(segment, offset, line, record))
                continue
            if record.position > self._watch.committed and not self._watch.is_committed(record.position):
                if self._watch.now() and not self._watch.settling:
                    cause = f"its record of position {record.position} is behind what was committed last"
                    yield segment.damage(offset, cause)
                continue
            yield from pending
            pending.clear()
            yield from self._record(segment, offset, record)
        if pending and not self._left_by_a_crash(segment, pending[0].offset):
            yield from pending

    def _left_by_a_crash(self, segment: Segment, offset: int) -> bool:
        """Whether what is damaged from here on was never settled, and a recovery would cut it off."""
        if (self._watch.now() and not self._watch.settling) or self._last < self._least():
            return False
        lines = (line for lines in segment.blocks(offset) for line in lines)
        return all(map(may_be_torn, lines)) and segment.rest_may_be_torn(segment.end_offset())

    def _record(self, segment: Segment, offset: int, record: StoredEnvelope) -> Iterator[CorruptionError]:
        if record.stream_id != self._stream_id:
            self._bad += 1
            yield segment.damage(offset, f"it holds a record of stream {record.stream_id!r}")
            return
        version = record.stream_version
        last, self._last = self._last, max(self._last, version)
        if self._through is not None and version <= self._through:
            return
        if self._next is None:
            self._next = version if self._through is None else self._through + 1
        if version < self._next:
            yield segment.damage(offset, f"version {version} comes again, after {last}")
            return
        if version - self._next > self._bad:
            yield segment.damage(offset, f"stream_version {self._next} to {version - 1} are missing before this")
        self._next, self._bad = version + 1, 0
        if record.position <= self._watch.committed and record.position not in self._lost:
            yield from self._compare(segment, offset, record)

    def _compare(self, segment: Segment, offset: int, record: StoredEnvelope) -> Iterator[CorruptionError]:
        version = record.stream_version
        found = self._lines[version] if version < len(self._lines) else 0
        if not found:
            cause = "the journal has no record of this version, and another one of this position"
            yield damage_at(segment, offset, b"", cause)
        elif found != read_crc(record) | ALL_VERSIONS:
            yield damage_at(segment, offset, b"", "it differs from the journal's copy, although both are whole")

    def _ends_early(self, live: Segment) -> Iterator[CorruptionError]:
        """The journal has more; unless that is lost in damaged lines, or a crash has taken it."""
        last = self._least()
        if last - self._last > self._bad:
            cause = f"it ends at version {self._last}, the journal has it up to {last}"
            yield live.damage(live.size, cause)
