"""The index sidecar of a segment: where each record ends. A cache of the text; the format is in docs/format.md.

After a 16-byte header (magic, then the number of the segment's first record) come 8 bytes a record: the offset of its
end, and the CRC-32 of the segment from its start to there, so that any run of records can be checked in one call.
"""

from __future__ import annotations

import os
import struct
from zlib import crc32

from hangarlog.errors import CorruptionError
from hangarlog.filesystem import FileSystem

STRIDE = 64 << 10
"""Bytes of text beyond the index that are simply read; a sidecar is written, and grows, when there are this many."""

HEADER_BYTES = 16
"""An index file shorter than this was being made when its writer died; it is made anew when it is needed."""

_MAGIC = b"HLINDEX1"
_HEADER = struct.Struct("<8sQ")
_ENTRY = struct.Struct("<II")


class Index:
    """An open index file; close it when done. `count` records from number `first` on are covered."""

    def __init__(self, filesystem: FileSystem, fd: int, first: int) -> None:
        self._filesystem, self._fd, self.first = filesystem, fd, first
        # A writer may have died within an entry; whole ones count.
        self.count = max(0, filesystem.size(fd) - _HEADER.size) // _ENTRY.size

    @classmethod
    def open(cls, filesystem: FileSystem, path: str, first: int | None = None) -> Index | None:
        """The index at `path`, or None if there is none, or not one of a segment that begins with `first`."""
        try:
            fd = filesystem.open_read(path)
        except OSError:
            return None
        try:
            header = filesystem.read(fd, _HEADER.size, 0)
            if len(header) == _HEADER.size:
                magic, found = _HEADER.unpack(header)
                if magic == _MAGIC and found == (found if first is None else first):
                    index = cls(filesystem, fd, found)
                    fd = -1
                    return index
        finally:
            if fd >= 0:
                filesystem.close(fd)
        return None

    def close(self) -> None:
        """Close the file."""
        self._filesystem.close(self._fd)

    def entry(self, number: int) -> tuple[int, int]:
        """(end offset, CRC-32 of the segment up to there) of record `number`; (0, 0) for the one before the first."""
        if number < self.first:
            return 0, 0
        raw = self._filesystem.read(self._fd, _ENTRY.size, _HEADER.size + (number - self.first) * _ENTRY.size)
        end, crc = _ENTRY.unpack(raw)
        return end, crc

    def last(self) -> tuple[int, int]:
        """(end offset, CRC-32) of what is covered."""
        return self.entry(self.first + self.count - 1)


def extend(filesystem: FileSystem, path: str, first: int, lines: list[bytes]) -> None:
    """Append entries for `lines` (without newlines), the ones that follow what the index at `path` covers.

    A file that is no index of this segment is replaced; then `lines` must be all of the segment.
    """
    index = Index.open(filesystem, path, first)
    if index is None:
        filesystem.remove(path)
        count, end, crc, content = 0, 0, 0, _HEADER.pack(_MAGIC, first)
    else:
        count, (end, crc), content = index.count, index.last(), b""
        index.close()
    entries = []
    for line in lines:
        end += len(line) + 1
        crc = crc32(b"\n", crc32(line, crc))
        entries.append(_ENTRY.pack(end, crc))
    fd = filesystem.open_append(path, create=True)
    try:
        if filesystem.names(fd) > 1:
            raise CorruptionError(path, os.path.basename(path), 0, "it has another name (a hard link); delete it")
        if count:
            filesystem.truncate(fd, _HEADER.size + count * _ENTRY.size)
        filesystem.write(fd, content + b"".join(entries))
    finally:
        filesystem.close(fd)
