"""Segmented logs of lines: the journal is one, and so is each stream.

`NAME.jsonl` is the active segment. A roll renames it to `NAME.<first record's number>.jsonl` and starts a new one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from itertools import zip_longest

from hangarlog.errors import CorruptionError
from hangarlog.log.compressed_segment import CompressedSegment, open_segment
from hangarlog.log.index import STRIDE_BYTES
from hangarlog.log.segment import CHUNK_BYTES, FROM_FIRST, Segment
from hangarlog.log.segment_cache import SegmentCache
from hangarlog.log.segment_name import (
    base_of,
    compressed_path,
    erased_path,
    first_of,
    index_path,
    is_compressed,
    sealed_base,
    text_path,
    times_path,
)
from hangarlog.record.line import StoredEnvelope, decode_record, is_erased, is_record
from hangarlog.system.filesystem import FRESH, FileSystem

_RETRIES = 3
_FEW_RECORDS = 64  # Up to this many records are looked up one by one. More are read in blocks.
_LAST_BYTES = 2 << 10

RecordsAndLines = tuple[list[StoredEnvelope], list[bytes]]


class Log:
    """The segments of one log. `field` is the field that numbers its records: `position` or `stream_version`."""

    def __init__(self, filesystem: FileSystem, folder: str, name: str, field: str) -> None:
        self.filesystem, self.folder, self.name, self.field = filesystem, folder, name, field
        self.base = os.path.join(folder, name)
        self.torn = False
        """True if a read found an active segment that ends within a line: a write in progress, or damage."""
        self.active_path = text_path(self.base)
        self.listed: list[int] | None = None
        """The result of `sealed`, if the folder was listed once for many logs."""
        self._cache: SegmentCache | None = None
        self._committed = 0

    def cached_in(self, cache: SegmentCache, committed: int) -> Log:
        """Keep segments open in `cache`, active ones only if they hold a record up to position `committed`.

        Return the log.
        """
        self._cache, self._committed = cache, committed
        return self

    def sealed(self) -> list[int]:
        """Return the first record numbers of the sealed segments, in order. This lists the folder, which is slow."""
        if self.listed is not None:
            return self.listed
        firsts = {first_of(entry.name, self.name) for entry in self.filesystem.entries(self.folder)}
        return sorted(first for first in firsts if first is not None)  # A set: one may be compressed at this moment.

    def sealed_base(self, first: int) -> str:
        """Return the base of the sealed segment that begins with record `first`."""
        return sealed_base(self.base, first)

    def open_sealed(self, first: int) -> Segment:
        """Open the sealed segment that begins with record `first`, compressed or not."""
        return open_segment(self.filesystem, self.sealed_base(first), self.field)

    def sealed_path(self, first: int) -> str:
        """Return the path of the sealed segment that begins with record `first`; "" if there is none."""
        base = self.sealed_base(first)
        return next(filter(self.filesystem.is_there, (text_path(base), compressed_path(base))), "")

    def remove_sealed(self, first: int) -> None:
        """Delete a sealed segment, its caches, and what was left by a killed compression or erasing of it.

        Hold the write lock.
        """
        base = self.sealed_base(first)
        packed = compressed_path(base)
        waiting = (packed + FRESH, erased_path(text_path(base)), erased_path(index_path(base)))
        for path in (text_path(base), packed, *waiting, index_path(base), times_path(base)):
            self.filesystem.remove(path)

    def sealed_mark(self, first: int) -> tuple[int, int, int, int] | None:
        """Return what changes whenever the file of a sealed segment does; None if there is none."""
        base, mark_at = self.sealed_base(first), self.filesystem.mark_at
        return mark_at(text_path(base)) or mark_at(compressed_path(base))

    def open_active(self) -> Segment | None:
        """Open the active segment. Return None if the log does not exist."""
        try:
            return Segment(self.filesystem, self.base, self.field)
        except FileNotFoundError:
            return None

    def sealed_before(self, active_first: int | None) -> list[int]:
        """Return what `sealed` returns, but only for segments that begin before record `active_first` (None: all)."""
        return [first for first in self.sealed() if active_first is None or first < active_first]

    def _active(self) -> Segment | None:
        return (self._cache.active(self.base) if self._cache else None) or self.open_active()

    def _segment(self, first: int) -> Segment:
        cache = self._cache
        if cache is None:
            return self.open_sealed(first)
        return cache.sealed(self.sealed_base(first)) or cache.keep(self.open_sealed(first))

    def _sealed_before(self, active_first: int | None) -> list[int]:
        cache = self._cache
        if cache is None:
            return self.sealed_before(active_first)
        firsts = cache.listing(self.base, active_first)
        if firsts is None:
            firsts = self.sealed_before(active_first)
            cache.keep_listing(self.base, active_first, firsts)
        return firsts

    def _few_records(self, cache: SegmentCache, start: int, count: int) -> list[StoredEnvelope]:
        """Return up to `count` records from number `start` on, none if the cache does not lead to them."""
        active = cache.active(self.base)
        first = active.first_number() if active else None
        if active is None or first is None:
            return []
        if first <= start:
            return active.records_at(start, first, count)
        sealed = cache.listing(self.base, first)
        if not sealed or start < sealed[0]:
            return []
        first = sealed[bisect_right(sealed, start) - 1]
        return self._segment(first).records_at(start, first, count)

    @contextlib.contextmanager
    def opened(
        self, oldest: int = 0, active: Segment | None = None
    ) -> Iterator[tuple[list[int], int | None, Segment | None]]:
        """Open the segments that a read from record `oldest` on may need.

        Yield (first numbers of the sealed segments, first number of the active one, the active segment). The active
        segment is opened first: if it is sealed meanwhile, the read still has it.
        """
        cache = self._cache
        active = active or self._active()
        try:
            record = active.first_record() if active else None
            first = active.number_of(record) if active and record else None
            # An active segment without a committed record may be deleted again, if the append that made it fails.
            if cache and active and record and active.worth_caching and record.position <= self._committed:
                active = cache.keep(active)
            self.torn |= first is None and active is not None and active.size > 0
            if first is not None and first <= oldest:
                sealed = []
            elif active or self.filesystem.is_there(self.active_path + FRESH):
                sealed = self._sealed_before(first)
                sealed = sealed[max(0, bisect_right(sealed, oldest) - 1) :]
            else:
                sealed = []
            yield sealed, first, active
        finally:
            if active:
                active.close()

    def forward(self, start: int, limit: int | None = None) -> Iterator[Sequence[StoredEnvelope]]:
        """Yield the records from number `start` on, or from the first existing one on, in order and in blocks.

        The caller uses at most `limit` of them.

        Raises:
            CorruptionError: a record is damaged, or one is missing between two others.
        """
        cache = self._cache
        if cache and limit is not None and limit <= _FEW_RECORDS and (few := self._few_records(cache, start, limit)):
            yield few
            start += len(few)
        active = self._active()
        if active and active.size < STRIDE_BYTES:
            records, first = self._all_records(active)
            if first <= start:
                active.close()
                if start - first < len(records):
                    yield records[start - first :] if start > first else records
                return
        with self.opened(start, active) as (sealed, active_first, active):
            number = start
            for first in sealed:
                with contextlib.closing(self._segment(first)) as segment:
                    number = yield from self._read_forward(segment, first, number, first == sealed[0], limit)
                    self._refuse_torn(segment)
            if active and active_first is not None:
                yield from self._read_forward(active, active_first, number, not sealed, limit)

    def _all_records(self, active: Segment) -> tuple[list[StoredEnvelope], int]:
        """Return all records of a short active segment, and the number of the first (`sys.maxsize` if none)."""
        try:
            records, _, following = self._records_at(active, 0, FROM_FIRST)
        except BaseException:
            active.close()
            raise
        self.torn |= following != active.size
        return records, active.number_of(records[0]) if records else sys.maxsize

    def forward_lines(self, start: int) -> Iterator[RecordsAndLines]:
        """Yield what `forward` yields, with the lines of the records. Each line is verified by its own checksum."""
        with self.opened(start) as (sealed, active_first, active):
            number = start
            for first in sealed:
                with contextlib.closing(self._segment(first)) as segment:
                    self._refuse_gap(segment, first, number, first == sealed[0])
                    number = yield from self._read_lines(segment, *segment.seek(number, first), number)
                    self._refuse_torn(segment)
            if active and active_first is not None:
                self._refuse_gap(active, active_first, number, not sealed)
                yield from self._read_lines(active, *active.seek(number, active_first), number)

    def _read_forward(
        self, segment: Segment, first: int, start: int, oldest: bool, limit: int | None
    ) -> Generator[Sequence[StoredEnvelope], None, int]:
        self._refuse_gap(segment, first, start, oldest)
        number = max(first, start)
        if limit is not None and limit <= _FEW_RECORDS and (records := segment.records_at(number, first, limit)):
            yield records
            number += len(records)
        offset = None
        for block in segment.verified_blocks(number, first):
            block_first = segment.number_of(block.first)
            if number == block_first:
                yield block
            elif number - block_first < block.size:
                yield block[number - block_first :]
            number = block_first + block.size
            offset = block.offset + len(block.text)
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
        """Yield the records from `start` on, and return the number after the last. Record `number` is at `offset`."""
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
                # A writer may be cutting off a torn tail and appending at this moment: read again.
                damage = error
        raise damage

    def backward(self, start: int | None = None, wanted: int | None = None) -> Iterator[list[StoredEnvelope]]:
        """Yield the records from number `start` (default: the last) down, latest first and in blocks.

        The first blocks have no more records than `wanted`, so that none is decoded for nothing.

        Raises:
            CorruptionError: a record is damaged, or one is missing between two others.
        """
        with self.opened(sys.maxsize) as (sealed, active_first, active):
            number, left = start, [wanted or 0]
            newest = True  # Only the newest segment may end before `start`.
            if active and active_first is not None:
                if start is None or start >= active_first:
                    number = yield from self._read_backward(active, active_first, start, newest, left)
                newest = False
            if sealed or active_first:
                sealed = self._sealed_before(active_first)  # Listed only now, because it may take long.
            for first in reversed(sealed):
                if number is None or number >= first:
                    with contextlib.closing(self._segment(first)) as segment:
                        number = yield from self._read_backward(segment, first, number, newest, left)
                newest = False

    def _read_backward(
        self, segment: Segment, first: int, number: int | None, newest: bool, left: list[int]
    ) -> Generator[list[StoredEnvelope], None, int]:
        """Yield the records from `number` (None: the last) down to the first, and return the number before that.

        `left` holds how many are still wanted, 0 if that is not known.
        """
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
            if left[0]:
                offset += sum(len(line) + 1 for line in lines[: -left[0]])
                lines = lines[-left[0] :]
                left[0] -= len(lines)
            (oldest,) = segment.decode(lines[:1], offset)
            records = segment.decode(lines, offset, segment.number_of(oldest))[::-1]
            last = segment.number_of(records[0])
            if number is not None and last != number:
                raise segment.damage(offset, f"{self.field} {number} must come before here, not {last}")
            yield records
            number = last - len(records)
            size = min(4 * size, CHUNK_BYTES)  # Who wants the last ten stops soon.
        if number is not None and number != first - 1:
            raise segment.damage(0, f"{self.field} {first} must come here, not {number + 1}")
        return first - 1

    @staticmethod
    def _offset_after(segment: Segment, first: int, number: int) -> tuple[int, int]:
        """Return the (end offset, number) of record `number`, or of the last record if the segment ends before."""
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
        """Finish or undo a roll that was cut short. Hold the write lock.

        Return True if an older file had been put back in place of the active or the sealed segment.
        """
        fresh = self.active_path + FRESH
        active = self.open_active()
        if active is None:
            if self.filesystem.is_there(fresh):
                self.filesystem.rename(fresh, self.active_path)  # A roll without hard links renames it.
            return False
        with contextlib.closing(active):
            sealed = self._sealed_as(active)
        if not sealed:
            self.filesystem.remove(fresh)
        elif self._agrees_with(sealed):
            # If the device has lost the rename of the index alone, it may have lost a part of the index, too.
            self.filesystem.remove(index_path(self.base))
            # Do this even if the device has lost the name of the fresh file: else appends would go to both names.
            self.filesystem.roll(self.active_path, sealed)
        else:
            return True
        return False

    def may_be_rolling(self, active: Segment) -> bool:
        """True if `finish_roll` may have something to do. `active` is the active segment."""
        return self.filesystem.is_there(self.active_path + FRESH) or self._sealed_as(active) != ""

    def _sealed_as(self, active: Segment) -> str:
        """Return the path of the sealed segment that begins with the same record as the active one, "" if none does."""
        first = None
        with contextlib.suppress(CorruptionError):
            first = active.first_number()
        return "" if first is None else self.sealed_path(first)

    def _agrees_with(self, sealed: str) -> bool:
        """True if the active segment and a sealed one with the same first record are the same.

        If an older file was put back in place of one of them, keep the longer one.

        Raises:
            CorruptionError: they have different records.
        """
        filesystem = self.filesystem
        if filesystem.identity_at(self.active_path) == filesystem.identity_at(sealed):
            return True
        alike = not is_compressed(sealed) and filesystem.begin_alike(self.active_path, sealed)
        if alike:
            longer = filesystem.size_at(self.active_path) - filesystem.size_at(sealed)
        else:
            longer = self._lines_more_than(sealed)
        if longer > 0:
            filesystem.rename(self.active_path, text_path(base_of(sealed)))
            filesystem.close(filesystem.open_new(self.active_path))
            filesystem.sync_folder(self.folder)
        elif longer < 0 or not alike:
            filesystem.replace_file(self.active_path, b"")
        return longer == 0 and alike

    def _lines_more_than(self, sealed: str) -> int:
        """Return how many lines the active segment has more than a sealed one, which may be compressed, or erased in.

        Raises:
            CorruptionError: they have different records.
        """
        with (
            contextlib.closing(Segment(self.filesystem, self.base, self.field)) as active,
            contextlib.closing(
                (CompressedSegment if is_compressed(sealed) else Segment)(self.filesystem, base_of(sealed), self.field)
            ) as other,
        ):
            more = 0
            for ours, theirs in zip_longest(_lines_of(active), _lines_of(other)):
                more += (theirs is None) - (ours is None)
                if ours != theirs and ours and theirs and not _are_of_one_event(ours, theirs):
                    cause = f"it and {os.path.basename(sealed)} have different records from the same one on"
                    raise active.damage(0, cause)
            return more

    def last_record(self) -> StoredEnvelope | None:
        """Return the last whole record, None if there is none."""
        for records in self.backward():
            return records[0]
        return None


def _lines_of(segment: Segment) -> Iterator[bytes]:
    lines, offset = segment.lines_at(0)
    while lines:
        yield from lines
        lines, offset = segment.lines_at(offset)


def _are_of_one_event(one: bytes, other: bytes) -> bool:
    """True if one of two lines is the other one erased."""
    if not (is_record(one) and is_record(other)):
        return False
    records = decode_record(one), decode_record(other)
    return any(map(is_erased, records)) and len({(each.position, each.event_id) for each in records}) == 1
