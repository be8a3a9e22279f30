"""The end of the journal made whole: what it has itself, what the commit ring has, what the streams have of it.

For the holder of the write lock only. A whole, valid batch counts, in the journal or in the ring; a torn end is cut
off; a damaged middle is mended where another copy is whole, and refused where none is. docs/recovery.md says why.
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
"""Bytes of journal that are read at a time: what is larger the system gives, and zeroes, anew each time."""

See = Callable[[list[StoredEnvelope], list[bytes]], None]


class End(msgspec.Struct):
    """What became of the journal's end.

    `last` is the position it ends with; `cut` counts bytes taken off, `joined` records written from the ring, `mended`
    records written from the streams, `put_aside` whole records that a power cut left unconnected. `damage` names what
    was replaced that no crash leaves.
    """

    last: int = 0
    cut: int = 0
    joined: int = 0
    mended: int = 0
    put_aside: int = 0
    damage: list[CorruptionError] = []


def last_sealed(log: Log, first: int) -> StoredEnvelope:
    """The last record of a sealed segment."""
    with contextlib.closing(log.open_sealed(first)) as segment:
        return segment.last_whole()


def make_end_whole(
    folder: Folder,
    live: ActiveSegment,
    start: tuple[int, int],
    promised: tuple[int, int],
    frames: list[Frame],
    see: See,
    *,
    restarted: bool,
) -> End:
    """Bring the live segment to whole batches, with everything that is known to have been committed.

    `start` is an offset that is known to be the end of a batch, and its last position; (0, position) where only that
    position is known. `promised` are (the position up to which nothing can be missing but by damage, the one up to
    which the streams are searched for what is missing). With `restarted` a power cut may have taken any page written
    since. `frames` are what the commit ring has. `see` is shown the records that are read to find the end.

    Raises:
        CorruptionError: it is damaged, and no other copy helps.
    """
    settled, wanted = promised
    whole, last, bad = _whole_batches(folder.journal, live, start, see)
    known = lines_of_frames(frames, last, live.crc_before(whole))
    settled = max([settled, *known])
    if bad is None and max(settled, wanted) <= last:
        return End(last)
    joining = _Joining(folder, live, whole, last, settled, bad or "it ends too early", restarted)
    joining.wanted = max(settled, wanted)
    return joining.run(known)


def _whole_batches(journal: Log, live: ActiveSegment, start: tuple[int, int], see: See) -> tuple[int, int, str | None]:
    """(the offset after the last whole batch, its last position, what is wrong behind it); read from `start` on."""
    if start[0]:
        return _batches_from(live, *start, see)
    lines, _ = live.lines_at(0, SECTOR_BYTES)
    begins = decode_record(lines[0]).position if lines and is_record(lines[0]) else None
    offset, last = 0, _last_before(journal, begins)
    if begins == last + 1:
        offset, number = live.seek(start[1] + 1, last + 1)
        last = number - 1
    return _batches_from(live, offset, last, see)


def _batches_from(live: ActiveSegment, offset: int, last: int, see: See) -> tuple[int, int, str | None]:
    whole, whole_last = offset, last
    while True:
        lines, following = live.lines_at(offset, READ_BYTES)
        if not lines:
            return whole, whole_last, None if whole == live.size else "it ends within a batch"
        records, bad = _records_after(last, lines)
        if records:
            see(records, lines[: len(records)])
        ended = _ended(records)
        if ended:
            whole = following - sum(len(line) + 1 for line in lines[ended:])
            whole_last = last + ended
        if bad is not None:
            return whole, whole_last, bad
        offset, last = following, last + len(lines)


def _ended(records: list[StoredEnvelope]) -> int:
    """How many of the records, from the first on, are of batches that end among them."""
    for count in range(len(records), 0, -1):
        record = records[count - 1]
        if record.ends_batch:
            return count
    return 0


def _records_after(last: int, lines: list[bytes]) -> tuple[list[StoredEnvelope], str | None]:
    """As many records as follow on position `last` one by one, and why the line after them does not."""
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
    """The last position before the live segment, which `begins` with a position, if its first line can be read."""
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
    return begins - 1  # The sealed segment is damaged; it is served from the streams, and for `repair` to mend.


class _Joining:
    """The slow way, where the text does not simply end with a whole batch."""

    def __init__(
        self, folder: Folder, live: ActiveSegment, whole: int, last: int, settled: int, cause: str, restarted: bool
    ) -> None:
        self._folder, self._live, self._whole, self._last = folder, live, whole, last
        self._settled, self._cause, self._restarted = settled, cause, restarted
        self.wanted = settled
        self._damaged = False  # Whether there are whole lines, without zeros, that are no records.
        self._doubled = False  # Whether a position comes twice, and no power cut has brought it back.
        self._holes: dict[int, bytes] = {}  # Such lines by the positions that they have, as those around them tell.
        self._bad = -1  # The offset of the first line that is none.
        self._zeros = False  # Whether a sector, or the rest of one, is zeros: what a power cut leaves among the lines.
        self._strange = False  # Whether it ends in lines, or a part of one, that no crash leaves.

    def run(self, ring: dict[int, bytes]) -> End:
        text = self._lines_of_text()
        for position, line in ring.items():
            if text.get(position, line) != line:
                raise self._damage(f"the commit ring has another record of position {position}")
        lines = text | ring
        last = self._connected(lines)
        mended: dict[int, bytes] = {}
        if last < self.wanted or self._strange or self._holes or self._unconnected(lines, last):
            mended = self._from_streams(lines)
            last = self._connected(lines | mended)
        if last < self._settled:
            raise self._damage(f"position {last + 1} is missing; {self._settled} events were committed")
        unconnected = self._unconnected(lines, last)
        if unconnected and not (self._restarted and (self._zeros or self._of_one_batch(unconnected))):
            raise self._damage(f"{self._cause}, but whole records follow")
        lost = [position for position in self._holes if position <= last and position not in lines | mended]
        if self._strange and not mended and last <= max([self._last, *text]):
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
        if self._strange or self._doubled or (self._damaged and (mended or end.joined)):
            self._folder.keep_damaged(self._live.path)
            end.damage.append(self._damage(f"{self._cause}; it was mended from the other copy"))
        if unconnected:
            self._folder.put_aside(unconnected)
        for damage in end.damage:
            damage.mendable = False  # It is mended, or cannot be.
        self._rewrite([lines.get(position) or self._holes[position] for position in added], end)
        return end

    def _lines_of_text(self) -> dict[int, bytes]:
        """Every whole record behind the last whole batch: {position: line}."""
        found: dict[int, bytes] = {}
        offset, before, bad = self._whole, self._last, list[bytes]()
        while True:
            lines, following = self._live.lines_at(offset)
            for line in lines:
                if not is_record(line):
                    self._note_bad(offset, line)
                    damaged = bool(line.strip()) and b"\0" not in line
                    self._strange |= damaged
                    self._damaged |= damaged
                    bad.append(line)
                elif (position := decode_record(line).position) > self._last:
                    if position == before + 1 + len(bad) and (position <= self._settled or not self._zeros):
                        self._holes.update(enumerate(bad, before + 1))
                    self._doubled |= position <= before and not self._restarted
                    before, bad = position, []
                    found[position] = line
                    self._strange = False
                else:
                    self._note_bad(offset, line)
                    self._doubled |= not self._restarted
                offset += len(line) + 1
            if not lines:
                self._note_bad(offset, b"")
                for at, piece in self._live.pieces(offset):
                    self._note_bad(at, piece)
                    if self._zeros:
                        break
                self._strange |= not self._live.rest_may_be_torn(offset)
                return found
            offset = following

    def _note_bad(self, offset: int, line: bytes) -> None:
        if self._bad < 0:
            self._bad = offset
        # The device has the sector as it was while the file ended here, and later ones with what was appended since.
        rest = SECTOR_BYTES - offset % SECTOR_BYTES
        self._zeros |= len(line) >= rest and not line[:rest].strip(b"\0")
        sector = -(-offset // SECTOR_BYTES) * SECTOR_BYTES
        while sector + SECTOR_BYTES <= offset + len(line) and not self._zeros:
            start = sector - offset
            self._zeros = not line[start : start + SECTOR_BYTES].strip(b"\0")
            sector += SECTOR_BYTES

    def _connected(self, lines: dict[int, bytes]) -> int:
        """The last position of the whole batches that follow on the last one without a gap."""
        position = last = self._last
        while (position := position + 1) in lines or position in self._holes:
            if position in lines and decode_record(lines[position]).ends_batch:
                last = position
        return last

    def _unconnected(self, lines: dict[int, bytes], last: int) -> list[bytes]:
        """The records that come behind a gap after position `last`, and after what is there of the next batch."""
        while last + 1 in lines or last + 1 in self._holes:
            last += 1
        return [lines[position] for position in sorted(lines) if position > last]

    def _from_streams(self, lines: dict[int, bytes]) -> dict[int, bytes]:
        last = sys.maxsize if self._strange else max([self.wanted, *lines])
        return journal_lines_in_streams(self._folder, Missing(self._last + 1, last, lines))

    @staticmethod
    def _of_one_batch(lines: list[bytes]) -> bool:
        """Whether all are of one batch, of which the device took a later page before an earlier one."""
        ends = {decode_record(line).batch_end for line in lines}
        return len(ends) == 1 and 0 not in ends

    def _damage(self, cause: str) -> CorruptionError:
        return self._live.damage(max(self._bad, self._whole), cause)

    def _rewrite(self, lines: Iterable[bytes], end: End) -> None:
        live = self._live
        text = b"".join(line + b"\n" for line in lines)
        old = live.size - self._whole
        kept = len(text) if live.read(len(text), self._whole) == text else 0
        if kept < old:
            end.cut = old - kept
            live.cut(self._whole + kept)
        if kept < len(text):
            live.append(text[kept:])
