"""The index of a segment: where each record ends. It is a file beside the segment, and a cache of its text.

docs/format.md has the format. After a 16-byte header (magic, number of the first record) come 8 bytes per record: the
offset of its end, then 0, or for the last record of a block the CRC-32 of the block's text. So one call checks a block.
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
"""The index is written, and extended, when this many bytes of text are not indexed. Up to then they are simply read."""

_BLOCK_BYTES = 4 * STRIDE_BYTES  # The approximate size of the longest block. A bigger batch is divided evenly.
_MAGIC, _ANY_MAGIC = b"HLINDEX2", b"HLINDEX"
_HEADER = struct.Struct("<8sQ")
_ENTRY_BYTES = 8
_NO_INDEX = NO_FILE | {errno.ENOENT, errno.EACCES, errno.EPERM}
_ENTRIES_AT_ONCE = 512  # One page.
_MAX_BLOCK_ENTRIES = 128 * _ENTRIES_AT_ONCE  # Far more entries than any block has.


class Index:
    """An open index file; close it when done. Its first entry is that of record number `first`."""

    def __init__(self, filesystem: FileSystem, fd: int) -> None:
        self._filesystem, self._fd = filesystem, fd
        self.first = 0
        self._max_entries = 0  # The most lines that the segment can hold.
        self._entries = 0
        self._count: int | None = None

    @property
    def count(self) -> int:
        """The number of records that it covers in whole blocks. It is read once and then remembered."""
        count = self._count
        if count is None:
            count = self._count = self._whole_blocks(self._measured())
        return count

    def grown(self, size: int) -> Index:
        """Read again how much the index covers, of a segment that now has `size` bytes. Return the index."""
        self._max_entries = size // MIN_LINE_BYTES
        if self._entries != self._measured():
            self._count = None
        return self

    def _measured(self) -> int:
        entries = (self._filesystem.size(self._fd) - _HEADER.size) // _ENTRY_BYTES
        self._entries = max(0, min(entries, self._max_entries))
        return self._entries

    @property
    def is_too_long(self) -> bool:
        """True if the index has more entries than its segment can hold lines."""
        return self._filesystem.size(self._fd) > _HEADER.size + (self._max_entries + 1) * _ENTRY_BYTES

    def has_entry(self, number: int) -> bool:
        """True if there is an entry of record `number`. Its block may be unfinished."""
        return number - self.first < self._entries or number - self.first < self._measured()

    def _whole_blocks(self, count: int) -> int:
        """Return how many of the first `count` entries are in whole blocks: a writer may have died within a block."""
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
        """Open the index at `path`. Return None if there is none, or if its segment does not begin with `first`.

        `size` is that of the segment, in bytes: it bounds the number of entries, and below `STRIDE_BYTES` there is no
        index. Raises `OSError` if the system refuses to open the file.
        """
        if size < STRIDE_BYTES:
            return None
        try:
            index = cls(filesystem, filesystem.open_read(path))
        except OSError as error:
            if error.errno not in _NO_INDEX:
                raise
            return None
        index._max_entries = size // MIN_LINE_BYTES
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
        """Return (end offsets, CRC-32s) of `count` records from `number` on. Within a block, the CRC-32 is 0."""
        offset = _HEADER.size + (number - self.first) * _ENTRY_BYTES
        raw = self._filesystem.read(self._fd, count * _ENTRY_BYTES, offset)
        words = array("I", raw[: len(raw) // _ENTRY_BYTES * _ENTRY_BYTES])  # The file may have been cut meanwhile.
        if sys.byteorder == "big":
            words.byteswap()
        return words[::2], words[1::2]

    def end(self, number: int) -> int:
        """Return the offset of the end of record `number`, 0 for the number before the first."""
        return self.entries(number, 1)[0][0] if number >= self.first else 0

    def block_of(self, number: int) -> tuple[int, int]:
        """Return the (number, offset) at which the block of record `number` begins, or at which the index ends."""
        start = self.first + self._whole_blocks(min(number - self.first, self.count))
        return start, self.end(start - 1)

    def blocks(self, number: int) -> Iterator[tuple[int, int, int]]:
        """Yield the (number of records, end offset, CRC-32) of each block from the one that begins with `number` on."""
        stop = self.first + self.count
        at = number
        while at < stop:
            ends, crcs = self.entries(at, min(_ENTRIES_AT_ONCE, stop - at))
            for last in compress(range(len(crcs)), crcs):
                yield at + last + 1 - number, ends[last], crcs[last]
                number = at + last + 1
            at += len(crcs) or stop

    def size_up_to(self, number: int) -> int:
        """Return the size of the index file, in bytes, if cut after its whole blocks up to record `number`."""
        count = self._whole_blocks(max(0, min(number + 1 - self.first, self._measured())))
        return _HEADER.size + count * _ENTRY_BYTES

    def covered(self) -> int:
        """Return the offset up to which the index covers the segment."""
        return self.end(self.first + self.count - 1)


def is_harmless(filesystem: FileSystem, path: str) -> bool:
    """True if the file at `path` is missing, truncated, of another format, or begins with zeros after a power cut.

    None of these hides damage, and the next text that is indexed replaces the file.
    """
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
    other = start.startswith(_ANY_MAGIC) and not start.startswith(_MAGIC)
    return other or len(start) < _HEADER.size or not start.strip(b"\0")


Covered = tuple[int, int]
"""How much of a segment an index covers: (number of records, end offset)."""


def covered(filesystem: FileSystem, path: str, size: int, first: int) -> Covered:
    """Return what the index at `path` covers of a segment of `size` bytes that begins with record `first`.

    Return (0, 0) if there is no such index.
    """
    index = Index.open(filesystem, path, size, first)
    if index is None:
        return 0, 0
    with contextlib.closing(index):
        return index.count, index.covered()


def extend(
    filesystem: FileSystem, path: str, first: int, text: bytes, lengths: Sequence[int], before: Covered
) -> Covered:
    """Append entries for the lines of `text` to the index at `path`, and return what it covers then.

    `lengths` are those of the lines, in bytes. `before` is what the index covers; if it is nothing, the file is
    replaced.

    Raises:
        CorruptionError: the file is shorter than `before` says, or has another name; nothing was written.
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
            filesystem.truncate(fd, size)  # Drop the entries of a writer that died.
        filesystem.write(fd, entries.tobytes() if count else _HEADER.pack(_MAGIC, first) + entries.tobytes())
    finally:
        filesystem.close(fd)
    return count + len(lengths), end + len(text)


def _entries(text: bytes, lengths: Sequence[int], end: int) -> array[int]:
    """Return the entries of lines that begin at offset `end`, divided into blocks."""
    words = array("Q", accumulate(lengths, initial=end))
    step = max(1, len(lengths) * _BLOCK_BYTES // max(len(text), 1))
    view, start = memoryview(text), 0  # No copies: they would cost more than the checksums.
    for at in range(step, len(lengths) + step, step):
        last = min(at, len(lengths))
        stop = words[last] - end
        words[last] |= crc32(view[start:stop]) << 32
        start = stop
    if sys.byteorder == "big":
        words.byteswap()
    return words[1:]
