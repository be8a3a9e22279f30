"""A log written anew beside what is there: what differs takes the old file's place, and that is kept."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from hangarlog.errors import CorruptionError
from hangarlog.filestore.survey import REBUILT, File, found_in, log_files, opened
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import index_beside, text_path
from hangarlog.record.line import StoredEnvelope
from hangarlog.system.file_copy import keep_damaged, names_from

_PART_BYTES = 1 << 20


class Replaced(NamedTuple):
    """A file that was replaced, and under which name the old one is kept; "" where there was none."""

    path: str
    kept: str


class _Bounds:
    """Where segments of a log begin, by the files that are there."""

    def __init__(self, log: Log) -> None:
        self.names: set[int] = set()  # Of sealed segments that hold what their names say.
        self.begins: set[int] = set()
        self.live: int | None = None
        for file in log_files(log.filesystem, log.folder):
            if file.name == log.name and not file.spare:
                with opened(log.filesystem, file.path) as segment:
                    if segment:
                        self._note(log, file, segment)

    def _note(self, log: Log, file: File, segment: Segment) -> None:
        first = _first(log, segment)
        if file.sealed is None:
            self.live = first
        elif first is None or first >= file.sealed:
            self.names.add(file.sealed)
            self.begins.add(file.sealed)
            last = last_number(log, segment)
            if last is not None:
                self.begins.add(last + 1)


def _number(log: Log, record: StoredEnvelope) -> int:
    return int(getattr(record, log.field))


def _first(log: Log, segment: Segment) -> int | None:
    """The number that a segment begins with, None if no line of it is whole."""
    before = 0
    for _, found in found_in(segment):
        for _, record in found:
            if record:
                return _number(log, record) - before
            before += 1
    return None


def last_number(log: Log, segment: Segment) -> int | None:
    """The number of a segment's last line, None where that is damaged."""
    end = segment.end_offset()
    if end != segment.size or not end:
        return None
    with contextlib.suppress(CorruptionError):
        lines, offset = segment.lines_before(end, _PART_BYTES)
        return _number(log, segment.decode(lines[-1:], offset)[0]) if lines else None
    return None


class Rewriting:
    """The lines of a log as they should be, in segments like those that are there.

    What is written waits under names of its own until `put_in_place`, so that dying on the way loses nothing.
    """

    def __init__(self, log: Log, segment_bytes: int) -> None:
        self._log, self._filesystem, self._segment_bytes = log, log.filesystem, segment_bytes
        with contextlib.suppress(CorruptionError, FileExistsError):
            log.finish_roll()
        self._bounds = _Bounds(log)
        self._first: int | None = None
        self._text: list[bytes] = []
        self._size = 0
        self._hole = 0  # Lines up to the last one that is none.
        self._right: set[str] = set()
        self._waiting: list[tuple[str, str]] = []

    @property
    def begins(self) -> int | None:
        """The first number that a sealed segment is named after."""
        return min(self._bounds.names, default=None)

    def add(self, number: int, line: bytes, *, may_begin: bool = True, hole: bool = False) -> None:
        """The next line; a segment may begin with it, or not, being within a batch. A `hole` stands for a lost line."""
        if self._first is None:
            self._first = number
        elif may_begin and self._begins_with(number):
            self._seal()
            self._first = number
        self._text.append(line + b"\n")
        self._size += len(line) + 1
        if hole:
            self._hole = len(self._text)

    def _begins_with(self, number: int) -> bool:
        bounds = self._bounds
        if number in bounds.begins or self._size >= self._segment_bytes:
            return True
        return number == bounds.live and self._first in bounds.names

    def _seal(self) -> None:
        assert self._first is not None
        self._write(text_path(self._log.sealed_base(self._first)))
        self._text, self._size, self._hole = [], 0, 0

    def _write(self, path: str) -> None:
        text = b"".join(self._text)
        if not self._is(path, text):
            names = names_from(path, REBUILT)
            waiting = next(name for name in names if self._is(name, text) or not self._filesystem.is_there(name))
            if not self._filesystem.is_there(waiting):
                self._filesystem.replace_file(waiting, text)
            self._waiting.append((waiting, path))
        self._right.add(path)

    def _is(self, path: str, text: bytes) -> bool:
        with opened(self._filesystem, path) as segment:
            if segment is None or segment.size != len(text):
                return False
            return self._filesystem.read(segment.fd, segment.size, 0) == text

    def finish(self) -> None:
        """There are no more lines."""
        if self._hole and self._first is not None:
            # What is lost must not be in the way of whoever appends: he looks at the end of the live segment.
            text, hole = self._text, self._hole
            self._text = text[:hole]
            following = self._first + hole
            self._seal()
            self._first, self._text = following, text[hole:]
        if self._first in self._bounds.names:
            self._seal()
        self._write(self._log.live_path)

    @property
    def changes(self) -> bool:
        """Whether anything differs from what is there."""
        return bool(self._waiting or self._rest())

    def _rest(self) -> list[File]:
        """The files of this log that hold nothing which is not in the others."""
        files = log_files(self._filesystem, self._log.folder)
        waiting = {path for path, _ in self._waiting}
        return [f for f in files if f.name == self._log.name and f.path not in self._right and f.path not in waiting]

    def put_in_place(self) -> list[Replaced]:
        """Let the new files take the places of the old ones."""
        filesystem, replaced = self._filesystem, []
        rest = self._rest()
        for waiting, path in self._waiting:
            kept = keep_damaged(filesystem, path)
            filesystem.remove(index_beside(path))
            filesystem.rename(waiting, path)
            replaced.append(Replaced(path, kept))
        if self._waiting:
            filesystem.sync_folder(self._log.folder)
        for file in rest:
            if file.spare:
                filesystem.remove(file.path)
            else:
                filesystem.remove(index_beside(file.path))
                replaced.append(Replaced(file.path, keep_damaged(filesystem, file.path, remove=True)))
        return replaced
