"""A segment file: its names, and reading its lines from any offset in either direction."""

from __future__ import annotations

import os

from hangarlog.errors import CorruptionError
from hangarlog.filesystem import FileSystem
from hangarlog.index import Index
from hangarlog.record import Envelope, LineError, decode_record

LIVE = ".jsonl"
_DIGITS = 20
CHUNK = 256 << 10
_SMALL = 4 << 10


def sealed_name(name: str, first: int) -> str:
    """What a log's segment from record `first` on is called once sealed, without its suffix."""
    return f"{name}.{first:0{_DIGITS}d}"


def first_of(file_name: str, name: str) -> int | None:
    """The first record's number in the name of a sealed segment of the log `name`; None for any other file."""
    digits = file_name[len(name) + 1 : -len(LIVE)]
    whole = len(digits) == _DIGITS and digits.isdecimal() and file_name == f"{name}.{digits}{LIVE}"
    return int(digits) if whole else None


class Segment:
    """An open segment, read as it was when opened: `size` bytes. `base` is its path without the suffix.

    `fd`, if given, is an open descriptor of it that the segment closes in the end.
    """

    def __init__(self, filesystem: FileSystem, base: str, field: str, fd: int | None = None) -> None:
        self._filesystem, self.base, self._field = filesystem, base, field
        self.path = base + LIVE
        try:
            self.fd = filesystem.open_read(self.path) if fd is None else fd
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            raise self.damage(0, f"it cannot be opened as a file ({error.strerror})") from error
        try:
            self.size = filesystem.size(self.fd)
        except OSError:
            self.close()
            raise

    def __del__(self) -> None:
        # An interrupt may have come before whoever opened it could note that it is to be closed.
        if getattr(self, "fd", -1) >= 0:
            self.close()

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self._filesystem.close(fd)

    def number(self, record: Envelope) -> int:
        """The record's number in this log: its position in the journal, its stream version in a stream."""
        return int(getattr(record, self._field))

    def first(self) -> int | None:
        """The number of the first record, None if there is no whole line yet."""
        lines, _ = self.lines_at(0, _SMALL)
        return self.number(self.decode(lines[:1], 0)[0]) if lines else None

    def seek(self, number: int, first: int) -> tuple[int, int]:
        """(offset, number) of a record at or before `number`: at it where the index says so and is right."""
        index = Index.open(self._filesystem, f"{self.base}.index", first) if number > first else None
        if index is None:
            return 0, first
        try:
            number = min(number, first + index.count)
            offset = index.end(number - 1)
        finally:
            index.close()
        try:
            # What an index says is checked against the text, at the place itself or before the end.
            if offset < self.size:
                found = self.number(decode_record(self.lines_at(offset, _SMALL)[0][0]))
            else:
                found = self.number(decode_record(self.lines_before(self.size, _SMALL)[0][-1])) + 1
        except (LineError, IndexError):
            found = -1
        return (offset, number) if found == number and offset <= self.size else (0, first)

    def lines_at(self, offset: int, size: int = CHUNK) -> tuple[list[bytes], int]:
        """The whole lines from `offset` on, about `size` bytes of them, and the offset after them; none at the end."""
        while True:
            size = min(size, self.size - offset)
            chunk = self._filesystem.read(self.fd, size, offset)
            end = chunk.rfind(b"\n") + 1
            if end:
                lines = chunk[:end].split(b"\n")
                lines.pop()
                return lines, offset + end
            if offset + size >= self.size:
                return [], offset
            size *= 2

    def lines_before(self, offset: int, size: int = CHUNK) -> tuple[list[bytes], int]:
        """The whole lines that end at `offset`, about `size` bytes of them, and where the first begins."""
        while True:
            start = max(0, offset - size)
            chunk = self._filesystem.read(self.fd, offset - start, start)
            skip = chunk.find(b"\n") + 1 if start else 0
            if skip < len(chunk) or not start:
                lines = chunk[skip:].split(b"\n")
                lines.pop()
                return lines, start + skip
            size *= 2

    def end(self) -> int:
        """The offset after the last whole line."""
        stop = self.size
        while stop:
            start = max(0, stop - _SMALL)
            newline = self._filesystem.read(self.fd, stop - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            stop = start
        return 0

    def decode(self, lines: list[bytes], offset: int, expected: int | None = None) -> list[Envelope]:
        """Check and decode lines that begin at `offset`; with `expected`, they must be numbered from there on.

        Raises:
            CorruptionError: a line is not a whole record, or not the one that must come here.
        """
        records = []
        try:
            for line in lines:
                record = decode_record(line)
                if expected is not None:
                    if getattr(record, self._field) != expected:
                        raise LineError(f"{self._field} {expected} must come here, not {self.number(record)}")
                    expected += 1
                records.append(record)
        except LineError as error:
            raise self.damage(offset + sum(len(line) + 1 for line in lines[: len(records)]), str(error)) from error
        return records

    def damage(self, offset: int, cause: str) -> CorruptionError:
        """The error for a bad byte at `offset` of this segment."""
        return CorruptionError(self.path, os.path.basename(self.path), offset, cause)
