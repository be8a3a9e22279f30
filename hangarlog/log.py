"""A segmented log of lines: the journal is one, each stream is one.

`NAME.jsonl` is always the live end; a roll gives it the name `NAME.<first record's number>.jsonl` and starts it anew.
"""

from __future__ import annotations

import contextlib
import os
import sys
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence

from hangarlog.errors import CorruptionError
from hangarlog.filesystem import FileSystem
from hangarlog.index import STRIDE, Index, extend
from hangarlog.kept import Kept
from hangarlog.record import Envelope
from hangarlog.segment import CHUNK, FROM_FIRST, LIVE, Segment, first_of, sealed_name

_RETRIES = 3
_FEW = 64  # Records that are found one by one; more are read a block at a time.
_LAST = 2 << 10

Block = tuple[list[Envelope], list[bytes]]


class Log:
    """The segments of one log. `field` is what numbers its records: `position` or `stream_version`."""

    def __init__(self, filesystem: FileSystem, folder: str, name: str, field: str) -> None:
        self.filesystem, self.folder, self.name, self.field = filesystem, folder, name, field
        self.base = os.path.join(folder, name)
        self.torn = False
        """Whether a read has met a live end that ends within a line: a write that is going on, or damage."""
        self.live_path = self.base + LIVE
        self._kept: Kept | None = None
        self._committed = 0

    def keeping(self, kept: Kept, committed: int) -> Log:
        """This log, with its segments kept open in `kept`; live ones only once they hold a record up to `committed`."""
        self._kept, self._committed = kept, committed
        return self

    def sealed(self) -> list[int]:
        """The first record numbers of the sealed segments, in order. It lists the folder: ask only where it matters."""
        firsts = (first_of(entry.name, self.name) for entry in self.filesystem.entries(self.folder))
        return sorted(first for first in firsts if first is not None)

    def sealed_base(self, first: int) -> str:
        """The path of a sealed segment without its suffix."""
        return os.path.join(self.folder, sealed_name(self.name, first))

    def open_sealed(self, first: int) -> Segment:
        """A sealed segment."""
        return Segment(self.filesystem, self.sealed_base(first), self.field)

    def open_live(self) -> Segment | None:
        """The live segment, None where the log does not exist."""
        try:
            return Segment(self.filesystem, self.base, self.field)
        except FileNotFoundError:
            return None

    def sealed_before(self, live_first: int | None) -> list[int]:
        """As `sealed`, of the segments before a live one that begins with that record."""
        return [first for first in self.sealed() if live_first is None or first < live_first]

    def _live(self) -> Segment | None:
        return (self._kept.live(self) if self._kept else None) or self.open_live()

    def _segment(self, first: int) -> Segment:
        return self._kept.sealed(self, first) if self._kept else self.open_sealed(first)

    def _sealed_before(self, live_first: int | None) -> list[int]:
        return self._kept.sealed_before(self, live_first) if self._kept else self.sealed_before(live_first)

    @contextlib.contextmanager
    def opened(
        self, oldest: int = 0, live: Segment | None = None
    ) -> Iterator[tuple[list[int], int | None, Segment | None]]:
        """The sealed segments that records from number `oldest` on may need, the live one's first number, the live one.

        The live one is opened first, if it is not yet, so that whatever is sealed meanwhile is still in hand.
        """
        kept = self._kept
        live = live or self._live()
        try:
            begins = live.begins() if live else None
            first = live.number(begins) if live and begins else None
            # A live segment without a committed record may be deleted again, with the append that made it.
            if kept and live and begins and live.lasting and begins.position <= self._committed:
                live = kept.keep(live)
            self.torn |= first is None and live is not None and live.size > 0
            if first is not None and first <= oldest:
                sealed = []
            elif live or os.path.lexists(self.live_path + ".new"):
                sealed = self._sealed_before(first)
                sealed = sealed[max(0, bisect_right(sealed, oldest) - 1) :]
            else:
                sealed = []
            yield sealed, first, live
        finally:
            if live:
                live.close()

    def forward(self, start: int, limit: int | None = None) -> Iterator[Sequence[Envelope]]:
        """The records numbered `start` and up, in order, some at a time; from the first there is, where that is later.

        Not more than `limit` of them will be wanted.

        Raises:
            CorruptionError: a record is damaged, or one is missing between two others.
        """
        if self._kept and limit is not None and limit <= _FEW and (few := self._kept.few(self, start, limit)):
            yield few
            start += len(few)
        live = self._live()
        if live and live.size < STRIDE:
            records, first = self._whole(live)
            if first <= start:
                live.close()
                if start - first < len(records):
                    yield records[start - first :] if start > first else records
                return
        with self.opened(start, live) as (sealed, live_first, live):
            number = start
            for first in sealed:
                with contextlib.closing(self._segment(first)) as segment:
                    number = yield from self._read_forward(segment, first, number, first == sealed[0], limit)
                    self._refuse_torn(segment)
            if live and live_first is not None:
                yield from self._read_forward(live, live_first, number, not sealed, limit)

    def _whole(self, live: Segment) -> tuple[list[Envelope], int]:
        """All records of a short live segment, and the number of the first: `sys.maxsize` where there is none."""
        try:
            records, _, following = self._records_at(live, 0, FROM_FIRST)
        except BaseException:
            live.close()
            raise
        self.torn |= following != live.size
        return records, live.number(records[0]) if records else sys.maxsize

    def forward_lines(self, start: int) -> Iterator[Block]:
        """As `forward`, with the lines the records were read from, each proved by its own checksum."""
        with self.opened(start) as (sealed, live_first, live):
            number = start
            for first in sealed:
                with contextlib.closing(self._segment(first)) as segment:
                    self._refuse_gap(segment, first, number, first == sealed[0])
                    number = yield from self._read_lines(segment, *segment.seek(number, first), number)
                    self._refuse_torn(segment)
            if live and live_first is not None:
                self._refuse_gap(live, live_first, number, not sealed)
                yield from self._read_lines(live, *live.seek(number, live_first), number)

    def _read_forward(
        self, segment: Segment, first: int, start: int, oldest: bool, limit: int | None
    ) -> Generator[Sequence[Envelope], None, int]:
        self._refuse_gap(segment, first, start, oldest)
        number = max(first, start)
        if limit is not None and limit <= _FEW and (records := segment.records_at(number, first, limit)):
            yield records
            number += len(records)
        offset = None
        for run in segment.runs(number, first):
            begins = segment.number(run.first)
            if number - begins < len(run):
                yield run[number - begins :]
            number = begins + len(run)
            offset = run.offset + len(run.text)
        place = segment.seek(number, first) if offset is None else (offset, number)
        for records, _ in self._read_lines(segment, *place, number):
            yield records
            number = segment.number(records[-1]) + 1
        return number

    def _refuse_gap(self, segment: Segment, first: int, start: int, oldest: bool) -> None:
        if first > start and not oldest:
            raise segment.damage(0, f"{self.field} {start} to {first - 1} are missing before this segment")

    @staticmethod
    def _refuse_torn(segment: Segment) -> None:
        end = segment.end()
        if end != segment.size:
            raise segment.damage(end, "a sealed segment ends within a line")

    def _read_lines(self, segment: Segment, offset: int, number: int, start: int) -> Generator[Block, None, int]:
        """From record `start` on, where record `number` is at `offset`; returns the number of the one that follows."""
        while True:
            records, lines, following = self._records_at(segment, offset, number)
            if not records:
                self.torn |= offset != segment.size
                return max(number, start)
            skip = max(0, start - number)
            if skip < len(records):
                yield (records[skip:], lines[skip:]) if skip else (records, lines)
            number += len(records)
            offset = following

    def _records_at(self, segment: Segment, offset: int, number: int) -> tuple[list[Envelope], list[bytes], int]:
        for _ in range(_RETRIES):
            lines, following = segment.lines_at(offset)
            try:
                return segment.decode(lines, offset, number), lines, following
            except CorruptionError as error:
                # A writer that cuts a torn tail off and appends at once can be met half-way: look again.
                damage = error
        raise damage

    def backward(self, start: int | None = None) -> Iterator[list[Envelope]]:
        """The records numbered `start` (default: the last) and down, latest first, some at a time.

        Raises:
            CorruptionError: a record is damaged, or one is missing between two others.
        """
        with self.opened(sys.maxsize) as (sealed, live_first, live):
            number = start
            newest = True  # Only the end of the log may come before `start`.
            if live and live_first is not None:
                if start is None or start >= live_first:
                    number = yield from self._read_backward(live, live_first, start, newest)
                newest = False
            if sealed or live_first:
                sealed = self._sealed_before(live_first)  # Only here: it may take long, and the end is in hand.
            for first in reversed(sealed):
                if number is None or number >= first:
                    with contextlib.closing(self._segment(first)) as segment:
                        number = yield from self._read_backward(segment, first, number, newest)
                newest = False

    def _read_backward(
        self, segment: Segment, first: int, number: int | None, newest: bool
    ) -> Generator[list[Envelope], None, int]:
        """Yield from record `number` (None: the last) down to the first, and return the number before that."""
        offset = segment.end()
        self.torn |= offset != segment.size
        if number is not None:
            offset, found = self._offset_after(segment, first, number)
            if found != number and not newest:
                raise segment.damage(offset, f"{self.field} {found + 1} to {number} are missing here")
            number = found
        size = _LAST
        while offset:
            lines, offset = segment.lines_before(offset, size)
            if not lines:
                raise segment.damage(offset, "there is no whole record")
            (oldest,) = segment.decode(lines[:1], offset)
            records = segment.decode(lines, offset, segment.number(oldest))[::-1]
            last = segment.number(records[0])
            if number is not None and last != number:
                raise segment.damage(offset, f"{self.field} {number} must come before here, not {last}")
            yield records
            number = last - len(records)
            size = CHUNK
        if number is not None and number != first - 1:
            raise segment.damage(0, f"{self.field} {first} must come here, not {number + 1}")
        return first - 1

    @staticmethod
    def _offset_after(segment: Segment, first: int, number: int) -> tuple[int, int]:
        """(the offset after record `number`, it), or (that after the last one, that one) if there are fewer."""
        offset, at = segment.seek(number + 1, first)
        while at <= number:
            lines, following = segment.lines_at(offset)
            if not lines:
                break
            wanted = lines[: number + 1 - at]
            at += len(wanted)
            offset = following if len(wanted) == len(lines) else offset + sum(len(line) + 1 for line in wanted)
        return offset, at - 1

    def finish_roll(self) -> None:
        """Under the write lock: finish, or forget, a roll that was cut short."""
        fresh = self.live_path + ".new"
        live = self.open_live()
        if live is None:
            if os.path.lexists(fresh):
                self.filesystem.rename(fresh, self.live_path)  # It was renamed, where it could not be linked.
            return
        with contextlib.closing(live):
            try:
                first = live.first()
            except CorruptionError:
                first = None
        # Also where the device has lost the name of the fresh file: what is appended would be appended to both names.
        if first is not None and os.path.lexists(self.sealed_base(first) + LIVE):
            self.filesystem.roll(self.live_path, self.sealed_base(first) + LIVE)
        else:
            self.filesystem.remove(fresh)

    def last_record(self) -> Envelope | None:
        """The last whole record, None if there is none."""
        for records in self.backward():
            return records[0]
        return None


class LiveEnd(Segment):
    """The live segment of a log, open for appending. For the holder of the write lock only."""

    def __init__(self, log: Log, *, create: bool = False, new: bool = False) -> None:
        """Open `NAME.jsonl`; `FileNotFoundError` if there is none and neither `create` nor `new` is given.

        With `new` there must be none: `FileExistsError`.
        """
        open_new, open_append = log.filesystem.open_new, log.filesystem.open_append
        fd = open_new(log.live_path) if new else open_append(log.live_path, create=create)
        super().__init__(log.filesystem, log.base, log.field, fd)
        self.log = log
        self._recent: list[bytes] = []  # The last lines, as they were written: the index need not read them again.
        self.index_due = STRIDE
        """The size at which the index is to be looked at: enough text has gathered beyond it then."""
        self._first: int | None = None
        try:
            if not new:
                self._refuse_other_names()
        except BaseException:
            self.close()
            raise

    def _refuse_other_names(self) -> None:
        """Raise `CorruptionError` if the file is known by another name: that one's owner does not want our lines."""
        names = self._filesystem.names(self.fd)
        first = None
        if names > 1:
            with contextlib.suppress(CorruptionError):
                first = self.first()
        if first is not None:  # Perhaps a roll was cut short, which gave it the name that it is sealed under.
            sealed = self._filesystem.identity_at(self.log.sealed_base(first) + LIVE)
            names -= sealed == self._filesystem.identity(self.fd)
        if names > 1:
            raise self.damage(0, "it has another name (a hard link); copy it, and put the copy in its place")

    def append(self, data: bytes, lines: Sequence[bytes] = ()) -> None:
        """Write whole lines at the end; `lines` are those of `data`, where they are at hand."""
        self._filesystem.write(self.fd, data)
        self.size += len(data)
        if lines:
            self._recent += lines
        else:
            self._recent = []

    def resize(self, size: int) -> None:
        """Take note that the segment is `size` bytes long."""
        if size != self.size:
            self.size = size
            self._recent = []  # Others have written.

    def cut(self, size: int) -> bool:
        """Cut the segment to `size` bytes, and forget an index that covers more; says whether there was more."""
        longer = self._filesystem.size(self.fd) != size
        if longer:
            self._filesystem.truncate(self.fd, size)
        self.resize(size)
        self.forget_longer_index()
        return longer

    def forget_index(self) -> None:
        """Delete the index sidecar, of which a power cut may have left anything; it is made anew when it is due."""
        self._filesystem.remove(self.index_path)
        self.index_due = STRIDE

    def forget_longer_index(self) -> None:
        """Delete an index sidecar that covers more than the segment has."""
        index = Index.open(self._filesystem, self.index_path)
        if index:
            with contextlib.closing(index):
                covered = index.covered()
            if covered > self.size:
                self.forget_index()

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        return self._filesystem.read(self.fd, size, offset)

    def refresh(self) -> None:
        """Look at the size again."""
        self.resize(self._filesystem.size(self.fd))

    def start(self) -> int:
        """The number of the first record; the segment must not be empty."""
        if self._first is None:
            self._first = self.first()
            if self._first is None:
                raise self.damage(0, "there is no whole record")
        return self._first

    def last(self) -> Envelope | None:
        """The last record, None if the segment is empty.

        Raises:
            CorruptionError: the segment does not end in a whole record.
        """
        if not self.size:
            return None
        end = self.size
        lines, offset = self.lines_before(end, _LAST)
        if offset + sum(map(len, lines)) + len(lines) != end:
            end = self.end()
            raise self.damage(end, f"{self.size - end} bytes after the last whole line")
        # The one before it, too, where it is at hand: an exchanged or repeated line must not be taken for the last.
        offset += sum(len(line) + 1 for line in lines[:-2])
        records = self.decode(lines[-2:], offset)
        if self.number(records[-1]) != self.number(records[0]) + len(records) - 1:
            raise self.damage(offset, f"{self._field} {self.number(records[0]) + 1} must come after this record")
        return records[-1]

    def since(self, number: int) -> list[Envelope]:
        """The records from `number` on if they begin near the end of the segment, else nothing."""
        size = _LAST
        while size <= CHUNK:
            lines, offset = self.lines_before(self.size, size)
            records = self.decode(lines, offset)
            if records and self.number(records[0]) <= number:
                return records[number - self.number(records[0]) :]
            if not offset:
                break
            size *= 4
        return []

    @property
    def index_path(self) -> str:
        """Where the index sidecar is."""
        return f"{self.base}.index"

    def _index_end(self) -> tuple[int, int]:
        """(the number of the first record beyond the index, its offset)."""
        found = Index.open(self._filesystem, self.index_path, self.start())
        if found is None:
            return self.start(), 0
        with contextlib.closing(found):
            offset = found.covered()
            return (found.first + found.count, offset) if offset <= self.size else (self.start(), 0)

    def extend_index(self) -> None:
        """Let the index sidecar grow if enough has gathered; the segment must hold committed records only.

        Whatever hinders it: it is a cache, and the next one to write tries again when as much has gathered once more.
        """
        self.index_due = self.size + STRIDE
        with contextlib.suppress(OSError, CorruptionError):
            number, offset = self._index_end()
            if self.size - offset >= STRIDE:
                self._complete_index(number, offset)
            else:
                self.index_due = offset + STRIDE

    def _complete_index(self, number: int, offset: int) -> None:
        try:
            self._extend_index_from(number, offset)
        except CorruptionError:
            self._extend_index_from(self.start(), 0)  # Perhaps the old index was not of this text.
        self._recent = []

    def _seal_index(self) -> None:
        """The whole segment's index, on the device."""
        self._complete_index(*self._index_end())
        fd = self._filesystem.open_append(self.index_path)
        try:
            self._filesystem.sync_data(fd)
        finally:
            self._filesystem.close(fd)

    def _extend_index_from(self, number: int, offset: int) -> None:
        if not offset:
            self._filesystem.remove(self.index_path)
        recent = self.size - sum(map(len, self._recent))
        stop = recent if offset <= recent else self.size
        while offset < stop:
            lines, following = self.lines_at(offset, min(CHUNK, stop - offset))
            if not lines:
                break
            self.decode(lines, offset, number)  # Only what proves itself is indexed.
            extend(self._filesystem, self.index_path, self.start(), [line + b"\n" for line in lines])
            number, offset = number + len(lines), following
        if offset == recent and self._recent:
            extend(self._filesystem, self.index_path, self.start(), self._recent)

    def rewritten(self) -> LiveEnd:
        """Put the text into a new file, synced; this one is closed."""
        self._filesystem.replace_file(self.path, self.read(self.size, 0))
        self.close()
        return LiveEnd(self.log)

    def roll(self) -> LiveEnd:
        """Seal the segment, which must be synced, and return the new, empty live end; this one is closed."""
        sealed = self.log.sealed_base(self.start())
        if self.size >= STRIDE:
            try:
                self._seal_index()
                self._filesystem.rename(self.index_path, f"{sealed}.index")
            except CorruptionError:
                self._filesystem.remove(self.index_path)  # Damage shows when it is read; it must not stop the log.
        self._filesystem.roll(self.path, sealed + LIVE)
        self.close()
        return LiveEnd(self.log)
