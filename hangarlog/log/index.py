"""The index sidecar of a segment: where each record ends. A cache of the text; the format is in docs/format.md.

After a 16-byte header (magic, then the number of the segment's first record) come 8 bytes a record: the offset of its
end, and 0; but the last record of a block has there the CRC-32 of the block's text, so that it is checked in one call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, compress

from hangarlog.errors import CorruptionError
from hangarlog.record.checksum import crc32
from hangarlog.record.line import MIN_LINE_BYTES
from hangarlog.system.filesystem import NO_FILE, FileSystem

STRIDE_BYTES = 64 << 10
"""Bytes of text beyond the index that are simply read; a sidecar is written, and grows, when there are this many."""

_BLOCK_BYTES = 4 * STRIDE_BYTES  # About the longest block: a big batch is divided into as many records each.
_MAGIC, _FORMER = b"HLINDEX2", b"HLINDEX1"
_HEADER = struct.Struct("<8sQ")
_ENTRY_BYTES = 8
_NO_INDEX = NO_FILE | {errno.ENOENT, errno.EACCES, errno.EPERM}
_ENTRIES_AT_ONCE = 512  # Entries: a page of them.
_MAX_BLOCK_ENTRIES = 128 * _ENTRIES_AT_ONCE  # Entries of a block: far more than any has.


class Index:
    """An open index file; close it when done. Its entries begin with that of record number `first`."""

    def __init__(self, filesystem: FileSystem, fd: int) -> None:
        self._filesystem, self._fd = filesystem, fd
        self.first = 0
        self._most = 0  # Lines that the segment may hold.
        self._entries = 0
        self._count: int | None = None

    @property
    def count(self) -> int:
        """How many records it covers, in whole blocks, as it was when this was first asked."""
        count = self._count
        if count is None:
            count = self._count = self._whole_blocks(self._measured())
        return count

    def grown(self, size: int) -> Index:
        """This one, after another look at how much it covers, of a segment of `size` bytes now."""
        self._most = size // MIN_LINE_BYTES
        if self._entries != self._measured():
            self._count = None
        return self

    def _measured(self) -> int:
        entries = (self._filesystem.size(self._fd) - _HEADER.size) // _ENTRY_BYTES
        self._entries = max(0, min(entries, self._most))
        return self._entries

    @property
    def is_too_long(self) -> bool:
        """Whether it has more entries than its segment may have lines."""
        return self._filesystem.size(self._fd) > _HEADER.size + (self._most + 1) * _ENTRY_BYTES

    def may_have(self, number: int) -> bool:
        """Whether there is an entry of record `number`, perhaps of a block that was never finished."""
        return number - self.first < self._entries or number - self.first < self._measured()

    def _whole_blocks(self, count: int) -> int:
        """How many of `count` entries come before the end of the last block: a writer may have died within one."""
        least = count - _MAX_BLOCK_ENTRIES
        while count > max(0, least):
            start = max(0, count - _ENTRIES_AT_ONCE)
            _, crcs = self.entries(self.first + start, count - start)
            for at in range(len(crcs), 0, -1):
                if crcs[at - 1]:
                    return start + at
            count = start
        return 0

    @classmethod
    def open(cls, filesystem: FileSystem, path: str, size: int, first: int | None = None) -> Index | None:
        """The index at `path`, or None if there is none, or not one of a segment that begins with `first`.

        A segment of a `size` below `STRIDE_BYTES` has none, and none has more entries than it may have lines. Raises
        `OSError` where the system refuses to say.
        """
        if size < STRIDE_BYTES:
            return None
        try:
            index = cls(filesystem, filesystem.open_read(path))
        except OSError as error:
            if error.errno not in _NO_INDEX:
                raise
            return None
        index._most = size // MIN_LINE_BYTES
        header = filesystem.read(index._fd, _HEADER.size, 0)
        if len(header) == _HEADER.size:
            magic, index.first = _HEADER.unpack(header)
            if magic == _MAGIC and first in (None, index.first):
                return index
        index.close()
        return None

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._filesystem.close(fd)

    def entries(self, number: int, count: int) -> tuple[Sequence[int], Sequence[int]]:
        """(end offsets, CRC-32 of a block where one ends and else 0) of `count` records from `number` on."""
        offset = _HEADER.size + (number - self.first) * _ENTRY_BYTES
        raw = self._filesystem.read(self._fd, count * _ENTRY_BYTES, offset)
        words = array("I", raw[: len(raw) // _ENTRY_BYTES * _ENTRY_BYTES])  # It may have been cut meanwhile.
        if sys.byteorder == "big":
            words.byteswap()
        return words[::2], words[1::2]

    def end(self, number: int) -> int:
        """The offset of the end of record `number`; 0 for the one before the first."""
        return self.entries(number, 1)[0][0] if number >= self.first else 0

    def block_of(self, number: int) -> tuple[int, int]:
        """(number, offset) of the first record of the block that holds record `number`; of the first one beyond."""
        start = self.first + self._whole_blocks(min(number - self.first, self.count))
        return start, self.end(start - 1)

    def blocks(self, number: int) -> Iterator[tuple[int, int, int]]:
        """(its records, the offset of its end, its CRC-32) of each block, from the one that begins with `number`."""
        stop = self.first + self.count
        at = number
        while at < stop:
            ends, crcs = self.entries(at, min(_ENTRIES_AT_ONCE, stop - at))
            for last in compress(range(len(crcs)), crcs):
                yield at + last + 1 - number, ends[last], crcs[last]
                number = at + last + 1
            at += len(crcs) or stop

    def size_up_to(self, number: int) -> int:
        """How long the file is with its whole blocks of records up to a number, and no more."""
        count = self._whole_blocks(max(0, min(number + 1 - self.first, self._measured())))
        return _HEADER.size + count * _ENTRY_BYTES

    def covered(self) -> int:
        """The offset up to which it covers the segment."""
        return self.end(self.first + self.count - 1)


def is_harmless(filesystem: FileSystem, path: str) -> bool:
    """Whether what is in an index's place and is none hides nothing: no file, a beginning of one, one of the past."""
    try:
        fd = filesystem.open_read(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in _NO_INDEX:
            raise
        return False
    try:
        start = filesystem.read(fd, _HEADER.size, 0)
    finally:
        filesystem.close(fd)
    return len(start) < _HEADER.size or start.startswith(_FORMER)


Covered = tuple[int, int]
"""How much of a segment an index covers: (its records, the offset of their end)."""


def covered(filesystem: FileSystem, path: str, size: int, first: int) -> Covered:
    """What the index at `path` covers, of a segment of `size` bytes that begins with record `first`: (0, 0) if none."""
    index = Index.open(filesystem, path, size, first)
    if index is None:
        return 0, 0
    with contextlib.closing(index):
        return index.count, index.covered()


def extend(
    filesystem: FileSystem, path: str, first: int, text: bytes, lengths: Sequence[int], before: Covered
) -> Covered:
    """Append entries for the lines of `text`, of these `lengths`, behind what it covers `before`; what it does then.

    If that is nothing, whatever is at `path` is replaced.

    Raises:
        CorruptionError: it is shorter than that, or has another name; nothing was written.
    """
    count, end = before
    size = _HEADER.size + count * _ENTRY_BYTES
    if not count:
        filesystem.remove(path)
    entries = _entries(text, lengths, end)
    fd = filesystem.open_append(path, create=not count)
    try:
        if filesystem.names(fd) > 1:
            raise CorruptionError(path, os.path.basename(path), 0, "it has another name (a hard link); delete it")
        found = filesystem.size(fd)
        if count and found < size:
            raise CorruptionError(path, os.path.basename(path), found, "it is shorter than it was")
        if count and found > size:
            filesystem.truncate(fd, size)  # What a writer that died has begun.
        filesystem.write(fd, entries.tobytes() if count else _HEADER.pack(_MAGIC, first) + entries.tobytes())
    finally:
        filesystem.close(fd)
    return count + len(lengths), end + len(text)


def _entries(text: bytes, lengths: Sequence[int], end: int) -> array[int]:
    """The entries of lines that begin at offset `end`, divided into blocks."""
    words = array("Q", accumulate(lengths, initial=end))
    step = max(1, len(lengths) * _BLOCK_BYTES // max(len(text), 1))
    view, start = memoryview(text), 0  # Not copied: large copies cost more than their checksums.
    for at in range(step, len(lengths) + step, step):
        last = min(at, len(lengths))
        stop = words[last] - end
        words[last] |= crc32(view[start:stop]) << 32
        start = stop
    if sys.byteorder == "big":
        words.byteswap()
    return words[1:]
