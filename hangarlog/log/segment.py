"""A segment file: its names, and reading its lines from any offset in either direction."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from hangarlog.errors import CorruptionError
from hangarlog.log.index import STRIDE_BYTES, Index
from hangarlog.log.segment_name import index_path, text_path
from hangarlog.record.checksum import crc32
from hangarlog.record.envelope import LineError
from hangarlog.record.line import (
    CRC_BYTES,
    HEAD_BYTES,
    MAX_LINE_BYTES,
    TOO_LONG,
    StoredEnvelope,
    decode_record,
    may_be_torn,
)
from hangarlog.record.verified_block import VerifiedBlock
from hangarlog.system.filesystem import NO_FILE, FileSystem

CHUNK_BYTES = 256 << 10
FROM_FIRST = -1
"""As a number that is expected: whatever the first record has."""

SECTOR_BYTES = 512
"""The least that a device writes or loses."""

_SMALL_BYTES = 4 << 10
_LONG_LINE_BYTES = 1 << 20  # Bytes of a line. The end of a longer one is found before it is read: it may have none.
_SPARE_BYTES = 64
"""Bytes that a line may have beyond `MAX_LINE_BYTES`: a repair may give it a version with more digits."""
_MAX_BLOCK_BYTES = 16 << 20  # Bytes of a block that are read at once; in longer ones a record is looked at for itself.


class Segment:
    """An open segment, read as it was when opened: `size` bytes. `base` is its path without the suffix.

    `fd`, if given, is an open descriptor of it that the segment closes in the end.
    """

    def __init__(self, filesystem: FileSystem, base: str, field: str, fd: int | None = None) -> None:
        self.filesystem, self.base, self.field = filesystem, base, field
        self.path = text_path(base)
        self._owner: Segment | None = None
        self._index: Index | None = None
        self._begins: StoredEnvelope | None = None
        try:
            self.fd = filesystem.open_read(self.path) if fd is None else fd
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            raise self.damage(0, f"it cannot be opened as a file ({error.strerror})") from error
        try:
            self.size = filesystem.size(self.fd)
        except OSError:
            self.close()
            raise

    def again(self, *, grown: bool = True) -> Segment:
        """The segment as it is now, read through this one's file, which stays open as long as either is used.

        Without `grown` it is known to be as long as it was.
        """
        again = Segment.__new__(Segment)
        again.filesystem, again.base, again.field = self.filesystem, self.base, self.field
        again.path, again._owner, again._begins, again.fd = self.path, self._owner or self, self._begins, self.fd
        again.size = self.filesystem.size(self.fd) if grown else self.size
        return again

    @property
    def lasting(self) -> bool:
        """Whether the file was opened for this one, and is long enough that it pays to keep it open."""
        return self._owner is None and self.size >= STRIDE_BYTES

    def __del__(self) -> None:
        # Also: an interrupt may have come before whoever opened it could note that it is to be closed.
        if getattr(self, "fd", -1) >= 0:
            self.close()

    @property
    def is_in_place(self) -> bool:
        """Whether the file that is open is the one that has its name."""
        return self.filesystem.identity_at(self.path) == self.filesystem.identity(self.fd)

    def close(self) -> None:
        """Close the file, if it was opened here; closing twice is fine."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            if self._owner is None:
                self.filesystem.close(fd)
                if self._index is not None:
                    self._index.close()

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        return self.filesystem.read(self.fd, size, offset)

    def crc_before(self, offset: int) -> str:
        """The checksum of the line that ends at an offset, as it stands in its text; "" where no line ends there."""
        size = CRC_BYTES + 1
        tail = self.read(size, offset - size) if offset >= size else b""
        whole = tail[:8] == b',"crc":"' and tail[16:] == b'"}\n'
        return tail[8:16].decode("ascii", "replace") if whole else ""

    def number_of(self, record: StoredEnvelope) -> int:
        """The record's number in this log: its position in the journal, its stream version in a stream."""
        return int(getattr(record, self.field))

    def first_record(self) -> StoredEnvelope | None:
        """The first record, None if there is no whole line yet."""
        if self._begins is None:
            lines, _ = self.lines_at(0, _SMALL_BYTES)
            self._begins = self.decode(lines[:1], 0)[0] if lines else None
        return self._begins

    def first_number(self) -> int | None:
        """The number of the first record, None if there is no whole line yet."""
        begins = self.first_record()
        return None if begins is None else self.number_of(begins)

    def index(self, first: int) -> Index | None:
        """Its index sidecar, None where there is none of a segment that begins with record `first`."""
        holder = self._owner or self
        index = holder._index
        if index is not None and index.first == first:
            return index.grown(self.size)
        try:
            index = holder._index = Index.open(self.filesystem, index_path(self.base), self.size, first)
        except OSError:
            index = holder._index = None  # A cache: without it the text is read.
        return index

    def seek(self, number: int, first: int) -> tuple[int, int]:
        """(offset, number) of a record at or before `number`: at it where the index says so and is right."""
        index = self.index(first) if number > first else None
        if index is None:
            return 0, first
        number = min(number, first + index.count)
        try:
            offset = index.end(number - 1)
            # What an index says is checked against the text, at the place itself or before the end.
            if offset < self.size:
                found = self.number_of(decode_record(self.lines_at(offset, _SMALL_BYTES)[0][0]))
            else:
                found = self.number_of(decode_record(self.lines_before(self.size, _SMALL_BYTES)[0][-1])) + 1
        except (LineError, IndexError):
            found = -1
        return (offset, number) if found == number and offset <= self.size else (0, first)

    def records_at(self, number: int, first: int, count: int) -> list[StoredEnvelope]:
        """Up to `count` records from `number` on, if they are whole at the place that the index leads to; else none."""
        index = self.index(first) if number > first else None
        try:
            if index is None:
                offset, at = 0, first
            elif index.may_have(number):
                offset, at = index.end(number - 1), number
            else:
                offset, at = index.covered(), first + index.count
            lines, _ = self.lines_at(offset, _SMALL_BYTES if at == number else CHUNK_BYTES)
            return self.decode(lines[number - at : number - at + count], offset, number)
        except (CorruptionError, IndexError):
            return []

    def verified_blocks(self, number: int, first: int) -> Iterator[VerifiedBlock]:
        """The blocks of the index, from the one that holds record `number` on, up to one that its checksum refuses."""
        index = self.index(first)
        if index is None:
            return
        number, offset = index.block_of(number)
        for count, end, crc in index.blocks(number):
            if not offset < end <= min(self.size, offset + _MAX_BLOCK_BYTES):
                return
            text = self.filesystem.read(self.fd, end - offset, offset)
            if crc32(text) != crc:
                return
            try:
                run = VerifiedBlock(text, count, self.path, os.path.basename(self.path), offset)
            except LineError:
                return
            if (self.number_of(run.first), self.number_of(run.last)) != (number, number + count - 1):
                return
            yield run
            number, offset = number + count, end

    def lines_at(self, offset: int, size: int = CHUNK_BYTES) -> tuple[list[bytes], int]:
        """The whole lines from `offset` on, about `size` bytes of them, and the offset after them; none at the end.

        A line longer than any that is written comes alone, as `TOO_LONG`.
        """
        while offset < self.size:
            size = min(size, self.size - offset)
            chunk = self.filesystem.read(self.fd, size, offset)
            end = chunk.rfind(b"\n") + 1
            if end:
                lines = chunk[:end].split(b"\n")
                lines.pop()
                return lines, offset + end
            if offset + size >= self.size:
                break
            size = 2 * size if size < _LONG_LINE_BYTES else self._newline_after(offset + size) + 1 - offset
            if size > MAX_LINE_BYTES + _SPARE_BYTES:
                return [self._too_long(offset, offset + size)], offset + size
            if size <= 0:
                break
        return [], offset

    def blocks(self, offset: int = 0) -> Iterator[list[bytes]]:
        """All whole lines from `offset` on, as `lines_at` gives them."""
        while True:
            lines, offset = self.lines_at(offset)
            if not lines:
                return
            yield lines

    def lines_before(self, offset: int, size: int = CHUNK_BYTES) -> tuple[list[bytes], int]:
        """The whole lines that end at `offset`, about `size` bytes of them, and where the first begins.

        A line longer than any that is written comes alone, as `TOO_LONG`.
        """
        while True:
            start = max(0, offset - size)
            chunk = self.filesystem.read(self.fd, offset - start, start)
            skip = chunk.find(b"\n") + 1 if start else 0
            if skip < len(chunk) or not start:
                lines = chunk[skip:].split(b"\n")
                lines.pop()
                return lines, start + skip
            if size >= _LONG_LINE_BYTES:
                break
            size *= 2
        start = self._newline_before(start) + 1
        long = offset - start > MAX_LINE_BYTES + _SPARE_BYTES
        return [self._too_long(start, offset) if long else self.read(offset - 1 - start, start)], start

    def _too_long(self, start: int, stop: int) -> bytes:
        """`TOO_LONG` for the line between two offsets, with zeros behind it if a power cut may have left some there."""
        zeros = any(bytes(SECTOR_BYTES) in piece for _, piece in self.pieces(start, stop))
        return TOO_LONG + bytes(2 * SECTOR_BYTES) if zeros else TOO_LONG  # Wherever it begins, one of these is whole.

    def last_whole(self) -> StoredEnvelope:
        """The last record, whatever is damaged before it. Raises `CorruptionError` if that is none."""
        lines, offset = self.lines_before(self.end_offset())
        if not lines:
            raise self.damage(0, "there is no whole record")
        return self.decode(lines[-1:], offset + sum(len(line) + 1 for line in lines[:-1]))[0]

    def end_offset(self) -> int:
        """The offset after the last whole line."""
        start = max(0, self.size - _SMALL_BYTES)
        newline = self.filesystem.read(self.fd, self.size - start, start).rfind(b"\n")
        return (start + newline if newline >= 0 else self._newline_before(start)) + 1

    def _newline_after(self, offset: int) -> int:
        """The offset of the next newline, -1 where there is none."""
        for start, stop in self._data(offset, self.size):
            for at in range(start, stop, CHUNK_BYTES):
                newline = self.filesystem.read(self.fd, min(CHUNK_BYTES, stop - at), at).find(b"\n")
                if newline >= 0:
                    return at + newline
        return -1

    def _newline_before(self, offset: int) -> int:
        """The offset of the last newline before, -1 where there is none."""
        size = CHUNK_BYTES
        while offset > 0:
            before = max(0, offset - size)
            for start, stop in reversed([*self._data(before, offset)]):
                while stop > start:
                    at = max(start, stop - CHUNK_BYTES)
                    newline = self.filesystem.read(self.fd, stop - at, at).rfind(b"\n")
                    if newline >= 0:
                        return at + newline
                    stop = at
            offset, size = before, 2 * size
        return -1

    def _data(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The stretches of data between two offsets, without holes, which may be larger than any device."""
        while start < stop:
            begin, end = self.filesystem.data_from(self.fd, start)
            if begin >= stop or end <= start:  # It may have been cut meanwhile.
                return
            yield begin, min(end, stop)
            start = end

    def pieces(self, offset: int, stop: int = sys.maxsize) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of what follows, up to `stop`, divided at sector borders; of a hole only the start."""
        stop = min(stop, self.size)
        while offset < stop:
            begin, end = self.filesystem.data_from(self.fd, offset)
            if end <= offset:
                return
            if begin > offset:
                yield offset, bytes(min(CHUNK_BYTES, begin - offset, stop - offset))
            for at in range(begin - begin % CHUNK_BYTES, min(end, stop), CHUNK_BYTES):
                start = max(at, begin)
                yield start, self.filesystem.read(self.fd, min(at + CHUNK_BYTES, end, stop) - start, start)
            offset = end

    def rest(self, offset: int) -> Iterator[list[bytes]]:
        """The text after the last newline, from `offset` at least, if it may be a line without its newline."""
        start = max(offset, self.end_offset())
        if 0 < self.size - start < MAX_LINE_BYTES:
            yield [self.read(self.size - start, start)]

    def rest_may_be_torn(self, offset: int) -> bool:
        """Whether what follows the last newline may be the beginning of a record that a crash has cut short."""
        return may_be_torn(self.read(HEAD_BYTES, offset)) or any(b"\0" in piece for _, piece in self.pieces(offset))

    def decode(self, lines: list[bytes], offset: int, expected: int | None = None) -> list[StoredEnvelope]:
        """Check and decode lines that begin at `offset`; with `expected`, they must be numbered from there on.

        `FROM_FIRST` expects the number after the first one's, whatever that is.

        Raises:
            CorruptionError: a line is not a whole record, or not the one that must come here.
        """
        records = []
        field = self.field
        try:
            for line in lines:
                record = decode_record(line)
                if expected is not None:
                    number = getattr(record, field)
                    if number != expected and expected != FROM_FIRST:
                        raise LineError(f"{field} {expected} must come here, not {number}")
                    expected = number + 1
                records.append(record)
        except LineError as error:
            raise self.damage(offset + sum(len(line) + 1 for line in lines[: len(records)]), str(error)) from error
        return records

    def damage(self, offset: int, cause: str) -> CorruptionError:
        """The error for a bad byte at `offset` of this segment."""
        return CorruptionError(self.path, os.path.basename(self.path), offset, cause)
