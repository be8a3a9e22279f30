"""Reading a segment: its lines, from any offset in either direction."""

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
"""As `expected` in `Segment.decode`: accept any number for the first record."""

SECTOR_BYTES = 512
"""The smallest unit that a device writes or loses."""

_SMALL_BYTES = 4 << 10
_LONG_LINE_BYTES = 1 << 20  # The end of a longer line is searched before the line is read, because it may have none.
_SPARE_BYTES = 64
"""A line may exceed `MAX_LINE_BYTES` by this much, because a repair may give it a version with more digits."""
_MAX_BLOCK_BYTES = 16 << 20  # Larger blocks are not read as a whole. Their records are checked one by one.


class Segment:
    """An open segment. Reads see the `size` bytes that it had when opened. `base` is its path without the suffix.

    `fd`, if given, is an open descriptor of the file, which the segment then closes.
    """

    def __init__(self, filesystem: FileSystem, base: str, field: str, fd: int | None = None) -> None:
        self.filesystem, self.base, self.field = filesystem, base, field
        self.path = self.path_of(base)
        self._owner: Segment | None = None
        self._index: Index | None = None
        self._first: StoredEnvelope | None = None
        try:
            self.fd = filesystem.open_read(self.path) if fd is None else fd
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            raise self.damage(0, f"it cannot be opened as a file ({error.strerror})") from error
        try:
            self.size = self._measured()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def path_of(base: str) -> str:
        """Return the path of the segment with this base."""
        return text_path(base)

    def _measured(self) -> int:
        """Return the size of the text, in bytes."""
        return self.filesystem.size(self.fd)

    @property
    def file_bytes(self) -> int:
        """The size of the file."""
        return self.filesystem.size(self.fd)

    def again(self, *, grown: bool = True) -> Segment:
        """Return the segment as it is now. It shares the open file, which closes when neither is used any more.

        Pass `grown=False` if its size cannot have changed.
        """
        again = Segment.__new__(type(self))
        again.filesystem, again.base, again.field = self.filesystem, self.base, self.field
        again.path, again._owner, again._first, again.fd = self.path, self._owner or self, self._first, self.fd
        again.size = self.filesystem.size(self.fd) if grown else self.size
        return again

    @property
    def worth_caching(self) -> bool:
        """True if this segment owns its open file, and is large enough that keeping it open pays."""
        return self._owner is None and self.size >= STRIDE_BYTES

    def __del__(self) -> None:
        # An interrupt may come before the caller can arrange to close it.
        if getattr(self, "fd", -1) >= 0:
            self.close()

    @property
    def is_in_place(self) -> bool:
        """True if the open file is still the one at `path`."""
        return self.filesystem.identity_at(self.path) == self.filesystem.identity(self.fd)

    def close(self) -> None:
        """Close the file, if this segment owns it; closing twice is fine."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            if self._owner is None:
                self.filesystem.close(fd)
                if self._index is not None:
                    self._index.close()

    def read(self, size: int, offset: int) -> bytes:
        """Return `size` bytes of text from `offset`, fewer only at the end."""
        return self.filesystem.read(self.fd, size, offset)

    def data_from(self, offset: int) -> tuple[int, int]:
        """Return (start, end) of the next text, not hole, from `offset` on; (size, size) if there is none."""
        return self.filesystem.data_from(self.fd, offset)

    def crc_before(self, offset: int) -> str:
        """Return the checksum stored in the line that ends at `offset`, "" if no line ends there."""
        size = CRC_BYTES + 1
        tail = self.read(size, offset - size) if offset >= size else b""
        whole = tail[:8] == b',"crc":"' and tail[16:] == b'"}\n'
        return tail[8:16].decode("ascii", "replace") if whole else ""

    def number_of(self, record: StoredEnvelope) -> int:
        """Return a record's number in this log: its position in the journal, or its version in a stream."""
        return int(getattr(record, self.field))

    def first_record(self) -> StoredEnvelope | None:
        """Return the first record, None if there is no whole line yet."""
        if self._first is None:
            lines, _ = self.lines_at(0, _SMALL_BYTES)
            self._first = self.decode(lines[:1], 0)[0] if lines else None
        return self._first

    def first_number(self) -> int | None:
        """Return the number of the first record, None if there is no whole line yet."""
        record = self.first_record()
        return None if record is None else self.number_of(record)

    def index(self, first: int) -> Index | None:
        """Return its index, None if there is none for a segment that begins with record `first`."""
        holder = self._owner or self
        index = holder._index
        if index is not None and index.first == first:
            return index.grown(self.size)
        try:
            index = holder._index = Index.open(self.filesystem, index_path(self.base), self.size, first)
        except OSError:
            index = holder._index = None  # Without the index, which is a cache, the text is read.
        return index

    def seek(self, number: int, first: int) -> tuple[int, int]:
        """Return the (offset, number) of a record at or before `number`: that record, if a correct index covers it."""
        index = self.index(first) if number > first else None
        if index is None:
            return 0, first
        number = min(number, first + index.count)
        try:
            offset = index.end(number - 1)
            # Check the index against the text, at the offset itself or at the end of the segment.
            if offset < self.size:
                found = self.number_of(decode_record(self.lines_at(offset, _SMALL_BYTES)[0][0]))
            else:
                found = self.number_of(decode_record(self.lines_before(self.size, _SMALL_BYTES)[0][-1])) + 1
        except (LineError, IndexError):
            found = -1
        return (offset, number) if found == number and offset <= self.size else (0, first)

    def records_at(self, number: int, first: int, count: int) -> list[StoredEnvelope]:
        """Return up to `count` records from `number` on if the index leads to them and they are valid, else none."""
        index = self.index(first) if number > first else None
        try:
            if index is None:
                offset, at = 0, first
            elif index.has_entry(number):
                offset, at = index.end(number - 1), number
            else:
                offset, at = index.covered(), first + index.count
            lines, _ = self.lines_at(offset, _SMALL_BYTES if at == number else CHUNK_BYTES)
            return self.decode(lines[number - at : number - at + count], offset, number)
        except (CorruptionError, IndexError):
            return []

    def verified_blocks(self, number: int, first: int) -> Iterator[VerifiedBlock]:
        """Yield the verified blocks from that of record `number` on, up to the first block that fails its checksum."""
        index = self.index(first)
        if index is None:
            return
        number, offset = index.block_of(number)
        for count, end, crc in index.blocks(number):
            if not offset < end <= min(self.size, offset + _MAX_BLOCK_BYTES):
                return
            text = self.read(end - offset, offset)
            if crc32(text) != crc:
                return
            block = self._block(text, count, offset, number)
            if block is None:
                return
            yield block
            number, offset = number + count, end

    def _block(self, text: bytes, count: int, offset: int, number: int) -> VerifiedBlock | None:
        """Return the block of a text at `offset`, None unless it has `count` records from `number` on."""
        try:
            block = VerifiedBlock(text, count, self.path, os.path.basename(self.path), offset)
        except LineError:
            return None
        numbers = self.number_of(block.first), self.number_of(block.last)
        return block if numbers == (number, number + count - 1) else None

    def lines_at(self, offset: int, size: int = CHUNK_BYTES) -> tuple[list[bytes], int]:
        """Return whole lines from `offset` on, about `size` bytes, and the offset after them; no lines at the end.

        A line over `MAX_LINE_BYTES` is returned alone, as `TOO_LONG`.
        """
        while offset < self.size:
            size = min(size, self.size - offset)
            chunk = self.read(size, offset)
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
        """Yield all whole lines from `offset` on, in blocks, as `lines_at` returns them."""
        while True:
            lines, offset = self.lines_at(offset)
            if not lines:
                return
            yield lines

    def lines_before(self, offset: int, size: int = CHUNK_BYTES) -> tuple[list[bytes], int]:
        """Return whole lines that end at `offset`, about `size` bytes, and the offset of the first.

        A line over `MAX_LINE_BYTES` is returned alone, as `TOO_LONG`.
        """
        while True:
            start = max(0, offset - size)
            chunk = self.read(offset - start, start)
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
        """Return `TOO_LONG` for the line between two offsets, followed by zeros if the line has a sector of zeros."""
        zeros = any(bytes(SECTOR_BYTES) in piece for _, piece in self.pieces(start, stop))
        return TOO_LONG + bytes(2 * SECTOR_BYTES) if zeros else TOO_LONG  # Two sectors always contain an aligned one.

    def last_whole(self) -> StoredEnvelope:
        """Return the last record, even if there is damage before it. Raises `CorruptionError` if it is damaged."""
        lines, offset = self.lines_before(self.end_offset())
        if not lines:
            raise self.damage(0, "there is no whole record")
        return self.decode(lines[-1:], offset + sum(len(line) + 1 for line in lines[:-1]))[0]

    def end_offset(self) -> int:
        """Return the offset after the last whole line."""
        start = max(0, self.size - _SMALL_BYTES)
        newline = self.read(self.size - start, start).rfind(b"\n")
        return (start + newline if newline >= 0 else self._newline_before(start)) + 1

    def _newline_after(self, offset: int) -> int:
        """Return the offset of the next newline, -1 if there is none."""
        for start, stop in self._data(offset, self.size):
            for at in range(start, stop, CHUNK_BYTES):
                newline = self.read(min(CHUNK_BYTES, stop - at), at).find(b"\n")
                if newline >= 0:
                    return at + newline
        return -1

    def _newline_before(self, offset: int) -> int:
        """Return the offset of the last newline before `offset`, -1 if there is none."""
        size = CHUNK_BYTES
        while offset > 0:
            before = max(0, offset - size)
            for start, stop in reversed([*self._data(before, offset)]):
                while stop > start:
                    at = max(start, stop - CHUNK_BYTES)
                    newline = self.read(stop - at, at).rfind(b"\n")
                    if newline >= 0:
                        return at + newline
                    stop = at
            offset, size = before, 2 * size
        return -1

    def _data(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, end) of the data between two offsets. Holes, which may be huge, are left out."""
        while start < stop:
            begin, end = self.data_from(start)
            if begin >= stop or end <= start:  # The file may have been cut meanwhile.
                return
            yield begin, min(end, stop)
            start = end

    def pieces(self, offset: int, stop: int = sys.maxsize) -> Iterator[tuple[int, bytes]]:
        """Yield the (offset, bytes) of pieces up to `stop`, split at sector borders, but only the start of a hole."""
        stop = min(stop, self.size)
        while offset < stop:
            begin, end = self.data_from(offset)
            if end <= offset:
                return
            if begin > offset:
                yield offset, bytes(min(CHUNK_BYTES, begin - offset, stop - offset))
            for at in range(begin - begin % CHUNK_BYTES, min(end, stop), CHUNK_BYTES):
                start = max(at, begin)
                yield start, self.read(min(at + CHUNK_BYTES, end, stop) - start, start)
            offset = end

    def rest(self, offset: int) -> Iterator[list[bytes]]:
        """Yield the text after the last newline, from `offset` at the earliest, if it may be a line without newline."""
        start = max(offset, self.end_offset())
        if 0 < self.size - start < MAX_LINE_BYTES:
            yield [self.read(self.size - start, start)]

    def rest_may_be_torn(self, offset: int) -> bool:
        """True if the text from `offset`, which is after the last newline, may be a torn tail."""
        start, blank = self.read(HEAD_BYTES, offset), True
        if start.strip() and may_be_torn(start):
            return True
        for _, piece in self.pieces(offset):
            if b"\0" in piece:
                return True
            blank = blank and not piece.strip()
        return blank

    def decode(self, lines: list[bytes], offset: int, expected: int | None = None) -> list[StoredEnvelope]:
        """Check and decode lines that begin at `offset`. With `expected`, their numbers must count up from it.

        `FROM_FIRST` accepts any number for the first record.
        Raises:
            CorruptionError: a line is not a valid record, or has the wrong number.
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

    def damage(
        self,
        offset: int,
        cause: str,
        position: int | None = None,
        stream_id: str | None = None,
        version: int | None = None,
    ) -> CorruptionError:
        """Return the error for damage at `offset` of this segment, and the event there as far as it is known."""
        return CorruptionError(self.path, os.path.basename(self.path), offset, cause, position, stream_id, version)
