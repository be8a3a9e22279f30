"""Recovers the end of the journal from its own text, the commit ring and the streams.

For the holder of the write lock only. An intact batch counts, whether the journal or the ring has it. A torn tail is
cut off. A damaged line before the end is restored from another copy, or refused if there is none. docs/recovery.md
gives the reasons.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore.commit_ring import Frame, lines_of_frames
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.two_copies import Missing, journal_lines_in_streams
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.log import Log
from hangarlog.log.segment import SECTOR_BYTES
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, decode_record, decode_records, is_record

READ_BYTES = 64 << 10
"""Bytes of journal read at a time. For larger reads the system maps and zeroes new memory each time."""

OnRecords = Callable[[list[StoredEnvelope], list[bytes]], None]


class End(msgspec.Struct):
    """What was done to the end of the journal.

    Attributes:
        last: The journal's last position.
        cut: Bytes cut off.
        joined: Records written from the commit ring.
        mended: Records written from the streams.
        put_aside: Intact records that a power cut left behind a gap.
        damage: Replaced damage that no crash explains.
    """

    last: int = 0
    cut: int = 0
    joined: int = 0
    mended: int = 0
    put_aside: int = 0
    damage: list[CorruptionError] = []


def last_sealed(log: Log, first: int) -> StoredEnvelope:
    """Return the last record of a sealed segment."""
    with contextlib.closing(log.open_sealed(first)) as segment:
        return segment.last_whole()


def recover_journal_end(
    folder: Folder,
    active: ActiveSegment,
    start: tuple[int, int],
    promised: tuple[int, int],
    frames: list[Frame],
    on_records: OnRecords,
    *,
    restarted: bool,
) -> End:
    """Make the active segment end with a complete batch, and restore every batch known to be committed.

    Args:
        folder: The store's folder.
        active: The journal's active segment.
        start: The end of a batch as (offset, last position); (0, position) if only the position is known.
        promised: The position up to which only damage can explain a missing record, and the one up to which the
            streams are searched for missing records.
        frames: The frames of the commit ring.
        on_records: Called with the records, and their lines, that are read to find the end.
        restarted: True if a power cut may have lost any page written after `start`.

    Raises:
        CorruptionError: the journal is damaged, and no other copy helps.
    """
    settled, wanted = promised
    whole, last, bad = _whole_batches(folder.journal, active, start, on_records)
    known = lines_of_frames(frames, last, active.crc_before(whole))
    settled = max([settled, *known])
    if bad is None and max(settled, wanted) <= last:
        return End(last)
    recovery = _EndRecovery(folder, active, whole, last, settled, bad or "it ends too early", restarted)
    recovery.wanted = max(settled, wanted)
    return recovery.run(known)


def _whole_batches(
    journal: Log, active: ActiveSegment, start: tuple[int, int], on_records: OnRecords
) -> tuple[int, int, str | None]:
    """Return (offset after the last complete batch, its last position, what is wrong after it), from `start` on."""
    if start[0]:
        return _batches_from(active, *start, on_records)
    lines, _ = active.lines_at(0, SECTOR_BYTES)
    begins = decode_record(lines[0]).position if lines and is_record(lines[0]) else None
    offset, last = 0, _last_before(journal, begins)
    if begins == last + 1:
        offset, number = active.seek(start[1] + 1, last + 1)
        last = number - 1
    return _batches_from(active, offset, last, on_records)


def _batches_from(active: ActiveSegment, offset: int, last: int, on_records: OnRecords) -> tuple[int, int, str | None]:
    whole, whole_last = offset, last
    while True:
        lines, following = active.lines_at(offset, READ_BYTES)
        if not lines:
            return whole, whole_last, None if whole == active.size else "it ends within a batch"
        records, bad = _records_after(last, lines)
        if records:
            on_records(records, lines[: len(records)])
        ended = _count_in_ended_batches(records)
        if ended:
            whole = following - sum(len(line) + 1 for line in lines[ended:])
            whole_last = last + ended
        if bad is not None:
            return whole, whole_last, bad
        offset, last = following, last + len(lines)


def _count_in_ended_batches(records: list[StoredEnvelope]) -> int:
    """Return how many of the records, from the first on, belong to batches that end among them."""
    for count in range(len(records), 0, -1):
        record = records[count - 1]
        if record.ends_batch:
            return count
    return 0


def _records_after(last: int, lines: list[bytes]) -> tuple[list[StoredEnvelope], str | None]:
    """Return the leading records that continue position `last` without a gap, and why the next line does not."""
    with contextlib.suppress(LineError):
        records = decode_records(lines)
        if [record.position for record in records] == list(range(last + 1, last + 1 + len(lines))):
            return records, None
    records = []
    try:
        for position, line in enumerate(lines, last + 1):
            record = decode_record(line)
            if record.position != position:
                raise LineError(f"position {position} must come here, not {record.position}")
            records.append(record)
    except LineError as error:
        return records, str(error)
    return records, None


def _last_before(journal: Log, begins: int | None) -> int:
    """Return the last position before the active segment; `begins` is its first one, or None if not readable."""
    sealed = journal.sealed()
    if not sealed:
        return 0
    with contextlib.closing(journal.open_sealed(sealed[-1])) as segment:
        torn = segment.end_offset() != segment.size
    try:
        if not (torn and begins):
            return last_sealed(journal, sealed[-1]).position
    except CorruptionError:
        if begins is None:
            raise
    assert begins
    return begins - 1  # The sealed segment is damaged. Reads use the streams instead, and `repair` restores it.


class _EndRecovery:
    """The slow path, for text that does not simply end with a complete batch."""

    def __init__(
        self, folder: Folder, active: ActiveSegment, whole: int, last: int, settled: int, cause: str, restarted: bool
    ) -> None:
        self._folder, self._active, self._whole, self._last = folder, active, whole, last
        self._settled, self._cause, self._restarted = settled, cause, restarted
        self.wanted = settled
        self._damaged = False  # True if a line is not a record and has no zeros.
        self._duplicated = False  # True if a position comes twice, and no power cut explains it.
        self._damaged_lines: dict[int, bytes] = {}  # {position: damaged line}; the lines around it tell its position.
        self._first_bad = -1  # The offset of the first line that is not a record.
        self._zeroed = False  # True if a sector, or the rest of one, is all zeros, as a power cut leaves it.
        self._unexplained = False  # True if no crash explains the lines at the end.

    def run(self, ring: dict[int, bytes]) -> End:
        text = self._lines_of_text()
        for position, line in ring.items():
            if text.get(position, line) != line:
                raise self._damage(f"the commit ring has another record of position {position}")
        lines = text | ring
        last = self._connected(lines)
        mended: dict[int, bytes] = {}
        if last < self.wanted or self._unexplained or self._damaged_lines or self._unconnected(lines, last):
            mended = self._from_streams(lines)
            last = self._connected(lines | mended)
        if last < self._settled:
            raise self._damage(f"position {last + 1} is missing; {self._settled} events were committed")
        unconnected = self._unconnected(lines, last)
        if unconnected and not (self._restarted and (self._zeroed or self._of_one_batch(unconnected))):
            raise self._damage(f"{self._cause}, but intact records follow")
        lost = [position for position in self._damaged_lines if position <= last and position not in lines | mended]
        if self._unexplained and not mended and last <= max([self._last, *text]):
            raise self._damage(f"{self._cause}, and no crash leaves such a line")
        lines |= mended
        added = range(self._last + 1, last + 1)
        end = End(
            last,
            joined=sum(position in ring and position not in text for position in added),
            mended=sum(position in mended for position in added),
            put_aside=len(unconnected),
        )
        for position in lost:
            end.damage.append(self._damage(f"position {position} is damaged here and in its stream"))
        if self._unexplained or self._duplicated or (self._damaged and (mended or end.joined)):
            self._folder.keep_damaged(self._active.path)
            end.damage.append(self._damage(f"{self._cause}; it was mended from the other copy"))
        if unconnected:
            self._folder.put_aside(unconnected)
        for damage in end.damage:
            damage.mendable = False  # It is restored, or cannot be.
        self._rewrite([lines.get(position) or self._damaged_lines[position] for position in added], end)
        return end

    def _lines_of_text(self) -> dict[int, bytes]:
        """Return {position: line} of every intact record after the last complete batch."""
        found: dict[int, bytes] = {}
        offset, before, bad = self._whole, self._last, list[bytes]()
        while True:
            lines, following = self._active.lines_at(offset)
            for line in lines:
                if not is_record(line):
                    self._note_bad(offset, line)
                    damaged = bool(line.strip()) and b"\0" not in line
                    self._unexplained |= damaged
                    self._damaged |= damaged
                    bad.append(line)
                elif (position := decode_record(line).position) > self._last:
                    if position == before + 1 + len(bad) and (position <= self._settled or not self._zeroed):
                        self._damaged_lines.update(enumerate(bad, before + 1))
                    self._duplicated |= position <= before and not self._restarted
                    before, bad = position, []
                    found[position] = line
                    self._unexplained = False
                else:
                    self._note_bad(offset, line)
                    self._duplicated |= not self._restarted
                offset += len(line) + 1
            if not lines:
                self._note_bad(offset, b"")
                for at, piece in self._active.pieces(offset):
                    self._note_bad(at, piece)
                    if self._zeroed:
                        break
                self._unexplained |= not self._active.rest_may_be_torn(offset)
                return found
            offset = following

    def _note_bad(self, offset: int, line: bytes) -> None:
        if self._first_bad < 0:
            self._first_bad = offset
        # The device has this sector as it was when the file ended here, and later sectors with newer text.
        rest = SECTOR_BYTES - offset % SECTOR_BYTES
        self._zeroed |= len(line) >= rest and not line[:rest].strip(b"\0")
        sector = -(-offset // SECTOR_BYTES) * SECTOR_BYTES
        while sector + SECTOR_BYTES <= offset + len(line) and not self._zeroed:
            start = sector - offset
            self._zeroed = not line[start : start + SECTOR_BYTES].strip(b"\0")
            sector += SECTOR_BYTES

    def _connected(self, lines: dict[int, bytes]) -> int:
        """Return the last position of the complete batches that continue the last one without a gap."""
        position = last = self._last
        while (position := position + 1) in lines or position in self._damaged_lines:
            if position in lines and decode_record(lines[position]).ends_batch:
                last = position
        return last

    def _unconnected(self, lines: dict[int, bytes], last: int) -> list[bytes]:
        """Return the lines after the first gap that follows position `last`."""
        while last + 1 in lines or last + 1 in self._damaged_lines:
            last += 1
        return [lines[position] for position in sorted(lines) if position > last]

    def _from_streams(self, lines: dict[int, bytes]) -> dict[int, bytes]:
        last = sys.maxsize if self._unexplained else max([self.wanted, *lines])
        return journal_lines_in_streams(self._folder, Missing(self._last + 1, last, lines))

    @staticmethod
    def _of_one_batch(lines: list[bytes]) -> bool:
        """True if all lines are of one batch: the device wrote a later page of it before an earlier one."""
        ends = {decode_record(line).batch_end for line in lines}
        return len(ends) == 1 and 0 not in ends

    def _damage(self, cause: str) -> CorruptionError:
        return self._active.damage(max(self._first_bad, self._whole), cause)

    def _rewrite(self, lines: Iterable[bytes], end: End) -> None:
        active = self._active
        text = b"".join(line + b"\n" for line in lines)
        old = active.size - self._whole
        kept = len(text) if active.read(len(text), self._whole) == text else 0
        if kept < old:
            end.cut = old - kept
            active.cut(self._whole + kept)
        if kept < len(text):
            active.append(text[kept:])
