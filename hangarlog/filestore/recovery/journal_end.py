"""Recovers the end of the journal from its own text, the commit ring and the streams.

For the holder of the write lock only. An intact batch counts, whether the journal or the ring has it. A torn tail is
cut off. A damaged line before the end is restored from another copy. docs/recovery.md gives the reasons.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore.commit_ring import Frame, lines_of_frames
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.journal import Journal
from hangarlog.filestore.stream_ends import journal_line, sealed_journal_line
from hangarlog.filestore.two_copies import Missing, journal_lines_in_streams
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.log import Log
from hangarlog.log.segment import SECTOR_BYTES
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, decode_record, decode_records, is_record, says_nothing, stored_crc

READ_BYTES = 64 << 10
"""Bytes of journal read at a time. For larger reads the system maps and zeroes new memory each time."""

OnRecords = Callable[[list[StoredEnvelope], list[bytes]], None]


class JournalEnd(msgspec.Struct):
    """The end of the journal after its recovery, and what the recovery did.

    Attributes:
        last: The journal's last position.
        cut: Bytes cut off.
        joined: Records written from the commit ring.
        mended: Records written from the streams.
        put_aside: Intact records after a gap that a power cut made, or of another history.
        damage: Damage that no crash explains: restored from another copy, or found in both copies.
    """

    last: int = 0
    cut: int = 0
    joined: int = 0
    mended: int = 0
    put_aside: int = 0
    damage: list[CorruptionError] = []


def last_record_of_sealed(log: Log, first: int) -> StoredEnvelope:
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
) -> JournalEnd:
    """Make the active segment end with a complete batch, and restore every batch known to be committed.

    Args:
        folder: The store's folder.
        active: The journal's active segment.
        start: The end of a batch as (offset, last position); (0, position) if only the position is known.
        promised: (settled, wanted). A record missing up to position `settled` is damage. Records missing up to
            position `wanted` are searched for in the streams.
        frames: The frames of the commit ring.
        on_records: Called with the records that are read to find the end, and with their lines.
        restarted: True if a power cut may have lost any page written after `start`.

    Raises:
        CorruptionError: the journal is damaged, and no other copy helps.
    """
    settled, wanted = promised
    batches_end, last, bad = _complete_batches(folder.journal, active, start, on_records)
    ring_lines = lines_of_frames(frames, last, _crc_before(folder, active, batches_end, last)) if frames else {}
    settled = max([settled, *ring_lines])
    if bad is None and max(settled, wanted) <= last:
        return JournalEnd(last)
    recovery = _EndRecovery(folder, active, batches_end, last, settled, bad or "it ends too early", restarted)
    recovery.wanted = max(settled, wanted)
    recovery.open_batch = _open_batch(folder.journal, active, batches_end, last)
    return recovery.run(ring_lines)


def _crc_before(folder: Folder, active: ActiveSegment, batches_end: int, last: int) -> str:
    """Return the checksum of the line at `last`, where the complete batches end; "" if there is no intact one."""
    if batches_end:
        return active.crc_before(batches_end)
    return stored_crc(sealed_journal_line(folder, last) or b"").decode("ascii")


def _open_batch(journal: Journal, active: ActiveSegment, batches_end: int, last: int) -> int | None:
    """Return the end of the batch that the record at `last` is within; 0 if it ends its batch, None if unknown.

    A damaged sealed segment may end within a batch.
    """
    record = None
    with contextlib.suppress(CorruptionError, LineError):
        if batches_end:
            record = decode_record(active.lines_before(batches_end)[0][-1])
        elif last < journal.begins():
            return 0
        elif sealed := journal.sealed():
            record = last_record_of_sealed(journal, sealed[-1])
    if record is None or record.position != last:
        return None
    return record.open_batch


def _complete_batches(
    journal: Journal, active: ActiveSegment, start: tuple[int, int], on_records: OnRecords
) -> tuple[int, int, str | None]:
    """Return (offset after the last complete batch, its last position, what is wrong after it or None)."""
    if start[0]:
        return _batches_from(active, *start, on_records)
    lines, _ = active.lines_at(0, SECTOR_BYTES)
    active_first = decode_record(lines[0]).position if lines and is_record(lines[0]) else None
    offset, last = 0, _last_before(journal, active_first)
    if active_first == last + 1:
        offset, number = active.seek(start[1] + 1, last + 1)
        last = number - 1
    return _batches_from(active, offset, last, on_records)


def _batches_from(active: ActiveSegment, offset: int, last: int, on_records: OnRecords) -> tuple[int, int, str | None]:
    """Do the same for the batches from `offset` on. `last` is the position before them."""
    batches_end, batches_last = offset, last
    while True:
        lines, following = active.lines_at(offset, READ_BYTES)
        if not lines:
            return batches_end, batches_last, None if batches_end == active.size else "it ends within a batch"
        records, bad = _records_after(last, lines)
        if records:
            on_records(records, lines[: len(records)])
        ended = _count_in_ended_batches(records)
        if ended:
            batches_end = following - sum(len(line) + 1 for line in lines[ended:])
            batches_last = last + ended
        if bad is not None:
            return batches_end, batches_last, bad
        offset, last = following, last + len(lines)


def _count_in_ended_batches(records: list[StoredEnvelope]) -> int:
    """Return how many records, from the first on, belong to batches whose last record is among them."""
    for count in range(len(records), 0, -1):
        record = records[count - 1]
        if record.ends_batch:
            return count
    return 0


def _records_after(last: int, lines: list[bytes]) -> tuple[list[StoredEnvelope], str | None]:
    """Return (the first records, which follow position `last` without a gap; why the next line does not, or None)."""
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


def _last_before(journal: Journal, active_first: int | None) -> int:
    """Return the last position before the active segment. `active_first` is the first one in it, None if unreadable."""
    sealed = journal.sealed()
    if not sealed:
        return journal.begins() - 1
    with contextlib.closing(journal.open_sealed(sealed[-1])) as segment:
        torn = segment.end_offset() != segment.size
    try:
        if not (torn and active_first):
            return last_record_of_sealed(journal, sealed[-1]).position
    except CorruptionError:
        if active_first is None:
            raise
    assert active_first
    return active_first - 1  # The sealed segment is damaged. Reads use the streams instead, and `repair` restores it.


class _EndRecovery:
    """The slow path, for a journal that does not simply end with a complete batch, or ends too early."""

    def __init__(
        self,
        folder: Folder,
        active: ActiveSegment,
        batches_end: int,
        last: int,
        settled: int,
        cause: str,
        restarted: bool,
    ) -> None:
        self._folder, self._active, self._batches_end, self._last = folder, active, batches_end, last
        self._settled, self._cause, self._restarted = settled, cause, restarted
        self.wanted = settled  # The streams are searched up to this position.
        self.open_batch: int | None = 0  # As `_open_batch` gives it.
        self._damaged = False  # True if a line is not a record and has no zeros.
        self._duplicated = False  # True if a position comes twice, and no power cut explains it.
        self._damaged_lines: dict[int, bytes] = {}  # {position: damaged line}; the lines around it tell its position.
        self._first_bad = -1  # The offset of the first line that is not a record.
        self._zeroed = False  # True if a sector, or the rest of one, is all zeros, as a power cut leaves it.
        self._repeated: dict[int, bytes] = {}  # {position: line} of positions up to `last`, which come again.
        self._unexplained = False  # True if no crash explains the lines at the end.

    def run(self, ring_lines: dict[int, bytes]) -> JournalEnd:
        """Join the lines of the journal, the ring and the streams by position, and write what the journal lacks."""
        journal_lines = self._intact_lines()
        for position, line in ring_lines.items():
            if journal_lines.get(position, line) != line:
                raise self._damage(f"the commit ring has another record of position {position}")
        lines = journal_lines | ring_lines
        last = self._connected(lines, self._last)[0]
        stream_lines: dict[int, bytes] = {}
        if last < self.wanted or self._unexplained or self._damaged_lines or self._unconnected(lines, last):
            stream_lines = self._from_streams(lines)
            last = self._connected(lines | stream_lines, self._last)[0]
        if last < self._settled:
            raise self._damage(f"position {last + 1} is missing; {self._settled} events were committed")
        unconnected = self._unconnected(lines, last)
        # Intact records after a gap are damage, unless a power cut lost the pages between: it leaves zeros there, or
        # only a part of one batch.
        if unconnected and not (self._restarted and (self._zeroed or self._of_one_batch(unconnected))):
            raise self._damage(f"{self._cause}, but intact records follow")
        unconnected += self._of_another_history() + self._half_a_batch(lines, last)
        lines |= stream_lines
        lost = [position for position in self._damaged_lines if position <= last and position not in lines]
        if self._unexplained and not stream_lines and last <= max([self._last, *journal_lines]):
            raise self._damage(f"{self._cause}, and no crash leaves such a line")
        added = range(self._last + 1, last + 1)
        end = JournalEnd(
            last,
            joined=sum(position in ring_lines and position not in journal_lines for position in added),
            mended=sum(position in stream_lines for position in added),
            put_aside=len(unconnected),
        )
        for position in lost:
            end.damage.append(self._damage(f"position {position} is damaged here and in its stream"))
        if self._unexplained or self._duplicated or (self._damaged and (stream_lines or end.joined)):
            self._folder.keep_damaged(self._active.path)
            end.damage.append(self._damage(f"{self._cause}; it was mended from the other copy"))
        if unconnected:
            self._folder.put_aside(unconnected)
        for damage in end.damage:
            damage.mendable = False  # It is restored already, or has no other copy.
        self._rewrite([lines.get(position) or self._damaged_lines[position] for position in added], end)
        return end

    def _intact_lines(self) -> dict[int, bytes]:
        """Return {position: line} of every intact record after the last complete batch, and note what is between."""
        found: dict[int, bytes] = {}
        offset, before, bad = self._batches_end, self._last, list[bytes]()
        while True:
            lines, following = self._active.lines_at(offset)
            for line in lines:
                if not is_record(line):
                    self._note_bad(offset, line)
                    damaged = not says_nothing(line)
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
                    self._repeated[position] = line
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
        """Note where damage begins, and whether it has a sector of zeros."""
        if self._first_bad < 0:
            self._first_bad = offset
        # After a power cut, one sector may be as old as when the file ended here, and the sectors after it newer.
        rest = SECTOR_BYTES - offset % SECTOR_BYTES
        self._zeroed |= len(line) >= rest and not line[:rest].strip(b"\0")
        sector = -(-offset // SECTOR_BYTES) * SECTOR_BYTES
        while sector + SECTOR_BYTES <= offset + len(line) and not self._zeroed:
            start = sector - offset
            self._zeroed = not line[start : start + SECTOR_BYTES].strip(b"\0")
            sector += SECTOR_BYTES

    def _connected(self, lines: dict[int, bytes], last: int) -> tuple[int, int]:
        """Return the last positions of the complete batches, and of the lines, that follow `last` without a gap.

        Damaged lines are no gap. A line that continues another batch than the line before it is one: it belongs to
        another history.
        """
        position = last
        open_batch = self.open_batch if last == self._last else 0  # None if the line before is damaged.
        while (following := position + 1) in lines or following in self._damaged_lines:
            if following in lines:
                record = decode_record(lines[following])
                if open_batch is not None and not record.may_follow(open_batch):
                    break
                open_batch = record.open_batch
                last = following if record.ends_batch else last
            else:
                open_batch = None
            position = following
        return last, position

    def _unconnected(self, lines: dict[int, bytes], last: int) -> list[bytes]:
        """Return the lines after the first gap that follows position `last`."""
        connected = self._connected(lines, last)[1]
        return [lines[position] for position in sorted(lines) if position > connected]

    def _half_a_batch(self, lines: dict[int, bytes], last: int) -> list[bytes]:
        """Return the lines of a batch that was committed, and of which the rest is lost."""
        connected = self._connected(lines, last)[1]
        return [lines[position] for position in range(last + 1, min(connected, self.wanted) + 1) if position in lines]

    def _of_another_history(self) -> list[bytes]:
        """Return the lines that come again with other text than before, as behind older sealed segments."""
        line_at = journal_line if self._batches_end else sealed_journal_line
        return [line for position, line in self._repeated.items() if line_at(self._folder, position) != line]

    def _from_streams(self, lines: dict[int, bytes]) -> dict[int, bytes]:
        """Return {position: line} of records in the streams that are not in `lines`."""
        last = sys.maxsize if self._unexplained else max([self.wanted, *lines])
        return journal_lines_in_streams(self._folder, Missing(self._last + 1, last, lines))

    @staticmethod
    def _of_one_batch(lines: list[bytes]) -> bool:
        """True if all lines are of one batch. The device may have written a later page of it before an earlier one."""
        ends = {decode_record(line).batch_end for line in lines}
        return len(ends) == 1 and 0 not in ends

    def _damage(self, cause: str) -> CorruptionError:
        return self._active.damage(max(self._first_bad, self._batches_end), cause)

    def _rewrite(self, lines: Iterable[bytes], end: JournalEnd) -> None:
        """Replace the text after the last complete batch by these lines, unless it begins with them already."""
        active = self._active
        text = b"".join(line + b"\n" for line in lines)
        old = active.size - self._batches_end
        kept = len(text) if active.read(len(text), self._batches_end) == text else 0
        if kept < old:
            end.cut = old - kept
            active.cut(self._batches_end + kept)
        if kept < len(text):
            active.append(text[kept:])
