"""The active segment of a log, where lines are appended. It extends its index, and is rolled when it is full.

Only the holder of the write lock may use it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from hangarlog.errors import CorruptionError, LinkedFileError
from hangarlog.log.index import STRIDE_BYTES, Covered, Index, covered, extend
from hangarlog.log.log import Log
from hangarlog.log.segment import CHUNK_BYTES, Segment
from hangarlog.log.segment_name import index_path, text_path
from hangarlog.record.line import StoredEnvelope
from hangarlog.system.file_copy import replace_with
from hangarlog.system.filesystem import NO_FILE

_LAST_BYTES = 2 << 10


class ActiveSegment(Segment):
    """The active segment of a log, open for appending. Only the holder of the write lock may use it."""

    def __init__(self, log: Log, *, new: bool = False) -> None:
        """Open `NAME.jsonl`, or with `new` create it. Raises `FileNotFoundError`, or with `new` `FileExistsError`."""
        filesystem = log.filesystem
        try:
            fd = filesystem.open_new(log.active_path) if new else filesystem.open_append(log.active_path)
        except OSError as error:
            if new or error.errno not in NO_FILE:
                raise
            cause = f"it cannot be opened as a file ({error.strerror})"
            raise CorruptionError(log.active_path, os.path.basename(log.active_path), 0, cause) from error
        super().__init__(log.filesystem, log.base, log.field, fd)
        self.log = log
        self._recent: list[bytes] = []  # The text appended last, kept so that the index need not read it again.
        self._lengths: list[int] = []  # The lengths of its lines.
        self._covered: Covered | None = None  # What the index covers, if this object has written it.
        self.index_due = STRIDE_BYTES
        """The segment size at which `extend_index` is worth a call."""
        try:
            if not new:
                self._refuse_other_names()
        except BaseException:
            self.close()
            raise

    def _refuse_other_names(self) -> None:
        """Raise `LinkedFileError` if the file has another name: new lines would show there too."""
        names = self.filesystem.names(self.fd)
        first = None
        if names > 1:
            with contextlib.suppress(CorruptionError):
                first = self.first_number()
        if first is not None:  # A roll that was cut short may have given it the name of a sealed segment.
            sealed = self.filesystem.identity_at(text_path(self.log.sealed_base(first)))
            names -= sealed == self.filesystem.identity(self.fd)
        if names > 1:
            raise LinkedFileError(self.path, os.path.basename(self.path), 0, "it has another name (a hard link)")

    def append(self, data: bytes, lengths: Sequence[int] = ()) -> None:
        """Append whole lines. `lengths` are their lengths in bytes, if known."""
        self.filesystem.write(self.fd, data)
        self.size += len(data)
        if lengths:
            self._recent.append(data)
            self._lengths += lengths
        else:
            self._forget_recent()

    def _forget_recent(self) -> None:
        self._recent, self._lengths = [], []

    def resize(self, size: int) -> None:
        """Note that the segment is now `size` bytes long."""
        if size != self.size:
            if size < self.size:
                self._first = None  # The first record may be another one now.
            self.size = size
            self._covered = None  # Another process has written.
            self._forget_recent()

    def cut(self, size: int) -> bool:
        """Cut the segment to `size` bytes, and delete an index that covers more. Return True if the size changed."""
        longer = self.filesystem.size(self.fd) != size
        if longer:
            self.filesystem.truncate(self.fd, size)
        self.resize(size)
        self.forget_longer_index()
        return longer

    def forget_index(self) -> None:
        """Delete the index, which a power cut may have damaged. It is rebuilt when it is due."""
        self.filesystem.remove(self.index_path)
        self.index_due, self._covered = STRIDE_BYTES, None

    def trim_index(self, number: int) -> None:
        """Cut the index to its whole blocks up to record `number`, because a power cut may have damaged the rest.

        An index that has another name (a hard link) is deleted instead, because the other name's file must not change.
        So is one that was of this segment's predecessor: a power cut may have undone its renaming.
        """
        first = None
        with contextlib.suppress(CorruptionError):
            first = self.first_number()
        index = Index.open(self.filesystem, self.index_path, sys.maxsize, first)
        if index is None:
            self.filesystem.remove(self.index_path)
        else:
            with contextlib.closing(index):
                size = index.size_up_to(number)
            fd = self.filesystem.open_append(self.index_path)
            try:
                linked = self.filesystem.names(fd) > 1
                if not linked and self.filesystem.size(fd) > size:
                    self.filesystem.truncate(fd, size)
            finally:
                self.filesystem.close(fd)
            if linked:
                self.filesystem.remove(self.index_path)
        self.index_due, self._covered = STRIDE_BYTES, None

    def forget_longer_index(self) -> None:
        """Delete an index that covers more than the segment."""
        index = Index.open(self.filesystem, self.index_path, sys.maxsize)
        if index:
            with contextlib.closing(index):
                covered = index.covered()
            if covered > self.size:
                self.forget_index()

    def refresh(self) -> None:
        """Read the size of the segment again."""
        self.resize(self.filesystem.size(self.fd))

    def first_number_or_raise(self) -> int:
        """Return the number of the first record. Raises `CorruptionError` if there is no whole record."""
        first = self.first_number()
        if first is None:
            raise self.damage(0, "there is no whole record")
        return first

    def last_record(self) -> StoredEnvelope | None:
        """Return the last record, None if the segment is empty.

        Raises:
            CorruptionError: the segment does not end in a whole record.
        """
        if not self.size:
            return None
        end = self.size
        lines, offset = self.lines_before(end, _LAST_BYTES)
        if offset + sum(map(len, lines)) + len(lines) != end:
            end = self.end_offset()
            raise self.damage(end, f"{self.size - end} bytes after the last whole line")
        # Check the record before it too, if it was read: a swapped or repeated line must not be taken for the last.
        offset += sum(len(line) + 1 for line in lines[:-2])
        records = self.decode(lines[-2:], offset)
        if self.number_of(records[-1]) != self.number_of(records[0]) + len(records) - 1:
            raise self.damage(offset, f"{self.field} {self.number_of(records[0]) + 1} must come after this record")
        return records[-1]

    def records_beyond(self, offset: int, committed: int) -> tuple[StoredEnvelope, StoredEnvelope, int] | None:
        """Return what others have appended from `offset` on, up to position `committed`.

        The result is (first record, last record, end offset), or None if there is nothing or more than one chunk.

        Raises:
            CorruptionError: one of the two records is damaged.
        """
        size = self.filesystem.size(self.fd)
        if not 0 < size - offset <= CHUNK_BYTES:
            return None
        lines = self.filesystem.read(self.fd, size - offset, offset).split(b"\n")
        lines.pop()
        while lines:
            last_at = offset + sum(map(len, lines[:-1])) + len(lines) - 1
            (last,) = self.decode(lines[-1:], last_at)
            if last.position <= committed:
                first = last if len(lines) == 1 else self.decode(lines[:1], offset)[0]
                whole = self.number_of(last) == self.number_of(first) + len(lines) - 1
                return (first, last, last_at + len(lines[-1]) + 1) if whole else None
            lines.pop()
        return None

    def records_since(self, number: int) -> list[StoredEnvelope]:
        """Return the records from `number` on if they begin near the end of the segment, else none."""
        size = _LAST_BYTES
        while size <= CHUNK_BYTES:
            lines, offset = self.lines_before(self.size, size)
            records = self.decode(lines, offset)
            if records and self.number_of(records[0]) <= number:
                return records[number - self.number_of(records[0]) :]
            if not offset:
                break
            size *= 4
        return []

    @property
    def index_path(self) -> str:
        """The path of the index."""
        return index_path(self.base)

    def extend_index(self) -> None:
        """Extend the index if there is enough new text. The segment must hold only committed records.

        Errors are ignored, because the index is a cache. The next attempt comes after as much new text again.
        """
        self.index_due = self.size + STRIDE_BYTES
        with contextlib.suppress(OSError, CorruptionError):
            covered = self._index_end()
            if self.size - covered[1] >= STRIDE_BYTES:
                self._complete_index(covered)
            else:
                self.index_due = covered[1] + STRIDE_BYTES

    def _index_end(self) -> Covered:
        found = self._covered or covered(self.filesystem, self.index_path, self.size, self.first_number_or_raise())
        return found if found[1] <= self.size else (0, 0)

    def _complete_index(self, covered: Covered) -> None:
        self._covered = None
        try:
            self._covered = self._extended_index(covered)
        except (CorruptionError, FileNotFoundError):
            self._covered = self._extended_index((0, 0))  # The old index may belong to another text.
        self._forget_recent()

    def _seal_index(self) -> None:
        """Complete the index of the whole segment, and sync it."""
        self._complete_index(self._index_end())
        fd = self.filesystem.open_append(self.index_path)
        try:
            self.filesystem.sync_data(fd)
        finally:
            self.filesystem.close(fd)

    def _extended_index(self, covered: Covered) -> Covered:
        recent = self.size - sum(self._lengths)
        stop = recent if covered[1] <= recent else self.size
        while covered[1] < stop:
            lines, _ = self.lines_at(covered[1], min(CHUNK_BYTES, stop - covered[1]))
            if not lines:
                break
            # Index only records that are valid.
            self.decode(lines, covered[1], self.first_number_or_raise() + covered[0])
            covered = self._extend(
                b"".join([line + b"\n" for line in lines]), [len(line) + 1 for line in lines], covered
            )
        if covered[1] == recent and self._recent:
            covered = self._extend(b"".join(self._recent), self._lengths, covered)
        return covered

    def _extend(self, text: bytes, lengths: Sequence[int], covered: Covered) -> Covered:
        return extend(self.filesystem, self.index_path, self.first_number_or_raise(), text, lengths, covered)

    def rewritten(self) -> ActiveSegment:
        """Copy the segment into a new, synced file in its place, and return that. This one is closed."""
        replace_with(self.filesystem, self.fd, self.size, self.path)
        self.close()
        return ActiveSegment(self.log)

    def roll(self) -> ActiveSegment:
        """Seal the segment, which must be synced, and return the new, empty active segment. This one is closed."""
        sealed = self.log.sealed_base(self.first_number_or_raise())
        if self.size >= STRIDE_BYTES:
            try:
                self._seal_index()
                self.filesystem.rename(self.index_path, index_path(sealed))
            except CorruptionError:
                self.filesystem.remove(self.index_path)  # Damage must not stop appends. Reads will report it.
        self.filesystem.roll(self.path, text_path(sealed))
        self.close()
        return ActiveSegment(self.log)
