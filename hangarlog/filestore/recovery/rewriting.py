"""Rewrites a log next to its files. Files that differ are replaced, and the old ones kept."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from hangarlog.errors import CorruptionError
from hangarlog.filestore.line_scan import REBUILT, File, found_in, log_files, opened
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import index_beside, text_path
from hangarlog.record.line import StoredEnvelope
from hangarlog.system.file_copy import keep_damaged, names_from

_PART_BYTES = 1 << 20


class Replaced(NamedTuple):
    """A file that was replaced, and the path where the old one is kept ("" if there was none)."""

    path: str
    kept: str


class _Bounds:
    """The numbers at which the existing segments of a log begin."""

    def __init__(self, log: Log) -> None:
        self.names: set[int] = set()  # Of sealed segments whose contents match their names.
        self.begins: set[int] = set()
        self.active: int | None = None
        for file in log_files(log.filesystem, log.folder):
            if file.name == log.name and not file.spare:
                with opened(log.filesystem, file.path) as segment:
                    if segment:
                        self._note(log, file, segment)

    def _note(self, log: Log, file: File, segment: Segment) -> None:
        first = first_number(log, segment)
        if file.sealed is None:
            self.active = first
        elif first is None or first >= file.sealed:
            self.names.add(file.sealed)
            self.begins.add(file.sealed)
            last = last_number(log, segment)
            if last is not None:
                self.begins.add(last + 1)


def _number(log: Log, record: StoredEnvelope) -> int:
    return int(getattr(record, log.field))


def first_number(log: Log, segment: Segment) -> int | None:
    """Return the number that a segment begins with, or None if it has no intact line."""
    before = 0
    for _, found in found_in(segment, journal=log.field == "position"):
        for _, record in found:
            if record:
                return _number(log, record) - before
            before += 1
    return None


def last_number(log: Log, segment: Segment) -> int | None:
    """Return the number of a segment's last line, or None if that line is damaged."""
    end = segment.end_offset()
    if end != segment.size or not end:
        return None
    with contextlib.suppress(CorruptionError):
        lines, offset = segment.lines_before(end, _PART_BYTES)
        return _number(log, segment.decode(lines[-1:], offset)[0]) if lines else None
    return None


class Rewriting:
    """Writes the lines of a log as they should be, in segments like the existing ones.

    New files have temporary names until `put_in_place`, so an interruption loses nothing.
    """

    def __init__(self, log: Log, segment_bytes: int) -> None:
        self._log, self._filesystem, self._segment_bytes = log, log.filesystem, segment_bytes
        with contextlib.suppress(CorruptionError, FileExistsError):
            log.finish_roll()
        self._bounds = _Bounds(log)
        self._first: int | None = None
        self._text: list[bytes] = []
        self._size = 0
        self._lost_through = 0  # Lines up to the last lost one.
        self._correct: set[str] = set()
        self._pending: list[tuple[str, str]] = []

    @property
    def begins(self) -> int | None:
        """The lowest number in the name of a sealed segment."""
        return min(self._bounds.names, default=None)

    def add(self, number: int, line: bytes, *, may_begin: bool = True, hole: bool = False) -> None:
        """Add the next line. A segment may begin with it if `may_begin`. A `hole` stands for a lost line."""
        if self._first is None:
            self._first = number
        elif may_begin and self._begins_with(number):
            self._seal()
            self._first = number
        self._text.append(line + b"\n")
        self._size += len(line) + 1
        if hole:
            self._lost_through = len(self._text)

    def _begins_with(self, number: int) -> bool:
        bounds = self._bounds
        if number in bounds.begins or self._size >= self._segment_bytes:
            return True
        return number == bounds.active and self._first in bounds.names

    def _seal(self) -> None:
        assert self._first is not None
        path, kept = text_path(self._log.sealed_base(self._first)), self._log.sealed_path(self._first)
        self._write(kept if kept and self._has_text(kept, b"".join(self._text)) else path)
        self._text, self._size, self._lost_through = [], 0, 0

    def _write(self, path: str) -> None:
        text = b"".join(self._text)
        if not self._has_text(path, text):
            names = names_from(path, REBUILT)
            waiting = next(name for name in names if self._has_text(name, text) or not self._filesystem.is_there(name))
            if not self._filesystem.is_there(waiting):
                self._filesystem.replace_file(waiting, text)
            self._pending.append((waiting, path))
        self._correct.add(path)

    def _has_text(self, path: str, text: bytes) -> bool:
        with opened(self._filesystem, path) as segment:
            if segment is None or segment.size != len(text):
                return False
            return segment.read(segment.size, 0) == text

    def finish(self) -> None:
        """Write the last segments, when all lines were added."""
        if self._lost_through and self._first is not None:
            # Writers check the end of the active segment, so it may have no lost line.
            text, hole = self._text, self._lost_through
            self._text = text[:hole]
            following = self._first + hole
            self._seal()
            self._first, self._text = following, text[hole:]
        if self._first in self._bounds.names:
            self._seal()
        self._write(self._log.active_path)

    @property
    def changes(self) -> bool:
        """True if any file differs from the new text."""
        return bool(self._pending or self._obsolete())

    def _obsolete(self) -> list[File]:
        """Return the existing files of this log that are no longer needed."""
        files = log_files(self._filesystem, self._log.folder)
        waiting = {path for path, _ in self._pending}
        return [f for f in files if f.name == self._log.name and f.path not in self._correct and f.path not in waiting]

    def put_in_place(self) -> list[Replaced]:
        """Replace the old files with the new ones."""
        filesystem, replaced = self._filesystem, []
        rest = self._obsolete()
        for waiting, path in self._pending:
            kept = keep_damaged(filesystem, path)
            filesystem.remove(index_beside(path))
            filesystem.rename(waiting, path)
            replaced.append(Replaced(path, kept))
        if self._pending:
            filesystem.sync_folder(self._log.folder)
        for file in rest:
            if file.spare:
                filesystem.remove(file.path)
            else:
                filesystem.remove(index_beside(file.path))
                replaced.append(Replaced(file.path, keep_damaged(filesystem, file.path, remove=True)))
        return replaced
