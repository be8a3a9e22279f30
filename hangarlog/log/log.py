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
from hangarlog.log.index import STRIDE_BYTES
from hangarlog.log.segment import CHUNK_BYTES, FROM_FIRST, Segment
from hangarlog.log.segment_cache import SegmentCache
from hangarlog.log.segment_name import first_of, sealed_base, text_path
from hangarlog.record.line import StoredEnvelope
from hangarlog.system.filesystem import FRESH, FileSystem

_RETRIES = 3
_FEW_RECORDS = 64  # Records that are found one by one; more are read a block at a time.
_LAST_BYTES = 2 << 10

RecordsAndLines = tuple[list[StoredEnvelope], list[bytes]]


class Log:
    """The segments of one log. `field` is what numbers its records: `position` or `stream_version`."""

    def __init__(self, filesystem: FileSystem, folder: str, name: str, field: str) -> None:
        self.filesystem, self.folder, self.name, self.field = filesystem, folder, name, field
        self.base = os.path.join(folder, name)
        self.torn = False
        """Whether a read has met a live end that ends within a line: a write that is going on, or damage."""
        self.live_path = text_path(self.base)
        self.listed: list[int] | None = None
        """What `sealed` gives, if the folder was listed once for many logs."""
        self._cache: SegmentCache | None = None
        self._committed = 0

    def cached_in(self, cache: SegmentCache, committed: int) -> Log:
        """This log, its segments kept open in `cache`; live ones only once they hold a record up to `committed`."""
        self._cache, self._committed = cache, committed
        return self

    def sealed(self) -> list[int]:
        """The first record numbers of the sealed segments, in order. It lists the folder: ask only where it matters."""
        if self.listed is not None:
            return self.listed
        firsts = (first_of(entry.name, self.name) for entry in self.filesystem.entries(self.folder))
        return sorted(first for first in firsts if first is not None)

    def sealed_base(self, first: int) -> str:
        """The path of a sealed segment without its suffix."""
        return sealed_base(self.base, first)

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
        return (self._cache.live(self.base) if self._cache else None) or self.open_live()

    def _segment(self, first: int) -> Segment:
        cache = self._cache
        if cache is None:
            return self.open_sealed(first)
        return cache.sealed(self.sealed_base(first)) or cache.keep(self.open_sealed(first))

    def _sealed_before(self, live_first: int | None) -> list[int]:
        cache = self._cache
        if cache is None:
            return self.sealed_before(live_first)
        firsts = cache.listing(self.base, live_first)
        if firsts is None:
            firsts = self.sealed_before(live_first)
            cache.keep_listing(self.base, live_first, firsts)
        return firsts

    def _few(self, cache: SegmentCache, start: int, count: int) -> list[StoredEnvelope]:
        """Up to `count` records from number `start` on, where the way to them is known already; else none."""
        live = cache.live(self.base)
        first = live.first_number() if live else None
        if live is None or first is None:
            return []
        if first <= start:
            return live.records_at(start, first, count)
        sealed = cache.listing(self.base, first)
        if not sealed or start < sealed[0]:
            return []
        first = sealed[bisect_right(sealed, start) - 1]
        return self._segment(first).records_at(start, first, count)

    @contextlib.contextmanager
    def opened(
        self, oldest: int = 0, live: Segment | None = None
    ) -> Iterator[tuple[list[int], int | None, Segment | None]]:
        """The sealed segments that records from number `oldest` on may need, the live one's first number, the live one.

        The live one is opened first, if it is not yet, so that whatever is sealed meanwhile is still in hand.
        """
        cache = self._cache
        live = live or self._live()
        try:
            begins = live.first_record() if live else None
            first = live.number_of(begins) if live and begins else None
            # A live segment without a committed record may be deleted again, with the append that made it.
            if cache and live and begins and live.lasting and begins.position <= self._committed:
                live = cache.keep(live)
            self.torn |= first is None and live is not None and live.size > 0
            if first is not None and first <= oldest:
                sealed = []
            elif live or self.filesystem.is_there(self.live_path + FRESH):
                sealed = self._sealed_before(first)
                sealed = sealed[max(0, bisect_right(sealed, oldest) - 1) :]
            else:
                sealed = []
            yield sealed, first, live
        finally:
            if live:
                live.close()

    def forward(self, start: int, limit: int | None = None) -> Iterator[Sequence[StoredEnvelope]]:
        """The records numbered `start` and up, in order, some at a time; from the first there is, where that is later.

        Not more than `limit` of them will be wanted.

        Raises:
            CorruptionError: a record is damaged, or one is missing between two others.
        """
        cache = self._cache
        if cache and limit is not None and limit <= _FEW_RECORDS and (few := self._few(cache, start, limit)):
            yield few
            start += len(few)
        live = self._live()
        if live and live.size < STRIDE_BYTES:
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

    def _whole(self, live: Segment) -> tuple[list[StoredEnvelope], int]:
        """All records of a short live segment, and the number of the first: `sys.maxsize` where there is none."""
        try:
            records, _, following = self._records_at(live, 0, FROM_FIRST)
        except BaseException:
            live.close()
            raise
        self.torn |= following != live.size
        return records, live.number_of(records[0]) if records else sys.maxsize

    def forward_lines(self, start: int) -> Iterator[RecordsAndLines]:
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
    ) -> Generator[Sequence[StoredEnvelope], None, int]:
        self._refuse_gap(segment, first, start, oldest)
        number = max(first, start)
        if limit is not None and limit <= _FEW_RECORDS and (records := segment.records_at(number, first, limit)):
            yield records
            number += len(records)
        offset = None
        for run in segment.verified_blocks(number, first):
            begins = segment.number_of(run.first)
            if number - begins < len(run):
                yield run[number - begins :]
            number = begins + len(run)
            offset = run.offset + len(run.text)
        place = segment.seek(number, first) if offset is None else (offset, number)
        for records, _ in self._read_lines(segment, *place, number):
            yield records
            number = segment.number_of(records[-1]) + 1
        return number

    def _refuse_gap(self, segment: Segment, first: int, start: int, oldest: bool) -> None:
        if first > start and not oldest:
            raise segment.damage(0, f"{self.field} {start} to {first - 1} are missing before this segment")

    @staticmethod
    def _refuse_torn(segment: Segment) -> None:
        end = segment.end_offset()
        if end != segment.size:
            raise segment.damage(end, "a sealed segment ends within a line")

    def _read_lines(
        self, segment: Segment, offset: int, number: int, start: int
    ) -> Generator[RecordsAndLines, None, int]:
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

    def _records_at(self, segment: Segment, offset: int, number: int) -> tuple[list[StoredEnvelope], list[bytes], int]:
        for _ in range(_RETRIES):
            lines, following = segment.lines_at(offset)
            try:
                return segment.decode(lines, offset, number), lines, following
            except CorruptionError as error:
                # A writer that cuts a torn tail off and appends at once can be met half-way: look again.
                damage = error
        raise damage

    def backward(self, start: int | None = None) -> Iterator[list[StoredEnvelope]]:
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
    ) -> Generator[list[StoredEnvelope], None, int]:
        """Yield from record `number` (None: the last) down to the first, and return the number before that."""
        offset = segment.end_offset()
        self.torn |= offset != segment.size
        if number is not None:
            offset, found = self._offset_after(segment, first, number)
            if found != number and not newest:
                raise segment.damage(offset, f"{self.field} {found + 1} to {number} are missing here")
            number = found
        size = _LAST_BYTES
        while offset:
            lines, offset = segment.lines_before(offset, size)
            if not lines:
                raise segment.damage(offset, "there is no whole record")
            (oldest,) = segment.decode(lines[:1], offset)
            records = segment.decode(lines, offset, segment.number_of(oldest))[::-1]
            last = segment.number_of(records[0])
            if number is not None and last != number:
                raise segment.damage(offset, f"{self.field} {number} must come before here, not {last}")
            yield records
            number = last - len(records)
            size = CHUNK_BYTES
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

    def finish_roll(self) -> bool:
        """Under the write lock: finish, or forget, a roll that was cut short.

        Says whether an older file had been put back in place of the live or the sealed one.
        """
        fresh = self.live_path + FRESH
        live = self.open_live()
        if live is None:
            if self.filesystem.is_there(fresh):
                self.filesystem.rename(fresh, self.live_path)  # It was renamed, where it could not be linked.
            return False
        with contextlib.closing(live):
            sealed = self._sealed_as(live)
        if not sealed:
            self.filesystem.remove(fresh)
        elif self._agrees_with(sealed):
            # Also where the device has lost the name of the fresh file: what is appended would be appended to both.
            self.filesystem.roll(self.live_path, sealed)
        else:
            return True
        return False

    def may_be_rolling(self, live: Segment) -> bool:
        """Whether `finish_roll` may have something to do, where `live` is the live segment."""
        return self.filesystem.is_there(self.live_path + FRESH) or self._sealed_as(live) != ""

    def _sealed_as(self, live: Segment) -> str:
        """The path of a sealed segment that begins with the same record as the live one, "" where there is none."""
        first = None
        with contextlib.suppress(CorruptionError):
            first = live.first_number()
        sealed = "" if first is None else text_path(self.sealed_base(first))
        return sealed if sealed and self.filesystem.is_there(sealed) else ""

    def _agrees_with(self, sealed: str) -> bool:
        """Whether the live file has what a sealed one of the same first record has; where an older one was put back in
        place of either, the longer one is taken.

        Raises:
            CorruptionError: they have different records.
        """
        filesystem = self.filesystem
        if filesystem.identity_at(self.live_path) == filesystem.identity_at(sealed):
            return True
        longer = filesystem.size_at(self.live_path) - filesystem.size_at(sealed)
        if not filesystem.begin_alike(self.live_path, sealed):
            cause = f"it and {os.path.basename(sealed)} have different records from the same one on"
            raise CorruptionError(self.live_path, os.path.basename(self.live_path), 0, cause)
        if longer > 0:
            filesystem.rename(self.live_path, sealed)
            filesystem.close(filesystem.open_new(self.live_path))
            filesystem.sync_folder(self.folder)
        elif longer < 0:
            filesystem.replace_file(self.live_path, b"")
        return longer == 0

    def last_record(self) -> StoredEnvelope | None:
        """The last whole record, None if there is none."""
        for records in self.backward():
            return records[0]
        return None
