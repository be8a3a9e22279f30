"""Finds every intact line in a store's files, to detect damage and to rebuild the store."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from hangarlog.filestore.folder import Folder
from hangarlog.log.compressed_segment import segment_of
from hangarlog.log.segment import CHUNK_BYTES, Segment
from hangarlog.log.segment_name import first_of
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, erased_journal_record, may_be_torn
from hangarlog.record.strict import kept_record, strict_records
from hangarlog.system.filesystem import NO_FILE, FileSystem

REBUILT = ".rebuilt"
"""The suffix of a new file until it replaces the old one."""

_FILE = re.compile(rf"([^.]+)(?:\.jsonl|\.[0-9]{{20}}\.jsonl(?:\.zst)?)((?:\.new|{REBUILT})(?:\.[0-9]+)?)?").fullmatch


class File(NamedTuple):
    """A file of a log, with the log's folder and name. A `spare` file is a new one that waits to replace another."""

    path: str
    folder: str
    name: str
    spare: bool

    @property
    def sealed(self) -> int | None:
        """The number in the name of a sealed segment; None for any other file."""
        return first_of(os.path.basename(self.path), self.name)

    def category(self, folder: Folder) -> str:
        """Return the folder of a stream's category."""
        return "" if self.folder == folder.streams_path else os.path.basename(self.folder)


def log_files(filesystem: FileSystem, folder: str) -> list[File]:
    """Return the files of all logs in a folder, sorted, including links and folders with such names."""
    found = []
    for entry in filesystem.entries(folder):
        match = _FILE(entry.name)
        if match:
            found.append(File(entry.path, folder, match[1], bool(match[2])))
    return sorted(found)


def journal_files(folder: Folder) -> list[File]:
    """Return all files that may hold a part of the journal."""
    return [file for file in log_files(folder.filesystem, folder.path) if file.name == folder.journal.name]


def stream_files(folder: Folder) -> Iterator[File]:
    """Yield all files that may hold a part of a stream, one category after the other."""
    yield from log_files(folder.filesystem, folder.streams_path)
    for entry in folder.filesystem.entries(folder.streams_path):
        if entry.is_dir():
            yield from log_files(folder.filesystem, entry.path)


Found = list[tuple[bytes, StoredEnvelope | None]]
"""Lines with their records; None for a line that is not a record."""


@contextlib.contextmanager
def opened(filesystem: FileSystem, path: str) -> Iterator[Segment | None]:
    """Open the file at `path` as a segment; None if there is no regular file."""
    try:
        fd = filesystem.open_read(path)
    except OSError as error:
        if error.errno not in NO_FILE and not isinstance(error, FileNotFoundError):
            raise
        yield None
        return
    with contextlib.closing(segment_of(filesystem, path, "position", fd)) as segment:
        yield segment


def found_in(
    segment: Segment, offset: int = 0, stop: int | None = None, *, journal: bool = False
) -> Iterator[tuple[int, Found]]:
    """Yield (offset, lines) of each block from `offset` up to `stop`, without text after the last newline.

    In the `journal`, an erased line has a record, too.
    """
    stop = segment.size if stop is None else stop
    while offset < stop:
        lines, following = segment.lines_at(offset, min(CHUNK_BYTES, stop - offset))
        if not lines:
            return
        records: list[StoredEnvelope | None]
        try:
            records = [*strict_records(lines)]
        except LineError:
            records = [kept_record(line) or (erased_journal_record(line) if journal else None) for line in lines]
        yield offset, list(zip(lines, records, strict=True))
        offset = following


class Stretch(NamedTuple):
    """A run of consecutive lines in a file.

    Attributes:
        first: The position of the first line.
        last: The position of the last line. In the journal every position between is there.
        path: The file.
        start: The offset of the first line.
        end: The offset after the last line.
        lines: The number of lines.
        after: The position of the previous intact line in the file, or 0.
        skipped: The bytes between that line and this run.
        journal: True if the file belongs to the journal.
        whole: False if the lines are damaged, but stand where these positions belong.
    """

    first: int
    last: int
    path: str
    start: int
    end: int
    lines: int
    after: int
    skipped: int
    journal: bool
    whole: bool = True


class _Scan:
    """The state of reading through one file."""

    def __init__(self, file: File, *, journal: bool, begins: int) -> None:
        self._file, self._journal, self._begins = file, journal, begins
        self._sealed = file.sealed if journal else None
        self.runs: list[Stretch] = []
        self._after = 0  # The position of the last intact line.
        self._after_end = 0  # The offset after that line.
        self._damaged = 0  # The damaged lines since then.
        self._skipped = 0  # The bytes of the damaged lines: one damaged line may have been several records.
        self._foreign = False  # True if one of them is not a damaged record.

    def add(self, offset: int, line: bytes, record: StoredEnvelope | None) -> None:
        """Take the line at `offset`, and its record if it is intact."""
        if record is None:
            self._damaged += 1
            self._skipped += len(line) + 1
            self._foreign |= b"\0" in line or not may_be_torn(line)
            return
        position, size = record.position, len(line) + 1
        last, end = self._after, offset + size
        follows = position == last + 1 if self._journal else position > last
        if self.runs and not self._damaged and follows:
            run = self.runs[-1]
            self.runs[-1] = run._replace(last=position, end=end, lines=run.lines + 1)
        else:
            before = last or (self._sealed or self._begins) - 1
            if self._damaged and self._journal and position - before - 1 == self._damaged:
                self._note_bad(before, offset)
            path = self._file.path
            self.runs.append(Stretch(position, position, path, offset, end, 1, last, self._skipped, self._journal))
        self._after, self._after_end, self._damaged, self._foreign, self._skipped = position, end, 0, False, 0

    def _note_bad(self, before: int, end: int) -> None:
        first, last = before + 1, before + self._damaged
        run = Stretch(first, last, self._file.path, self._after_end, end, self._damaged, self._after, 0, True, False)
        self.runs.append(run)

    def finish(self, size: int, torn: bool) -> None:
        """Take the end of the file at `size`; `torn` if it ends within a line."""
        if self._sealed is not None:
            self._damaged += torn
            self._foreign = False
        # The active segment may end in text that was never committed.
        if self._journal and self._damaged and not self._foreign:
            self._note_bad(self._after or (self._sealed or self._begins) - 1, size)


def runs_in(filesystem: FileSystem, file: File, *, journal: bool, begins: int = 1) -> tuple[list[Stretch], bool]:
    """Return (the runs of lines in a file, True if it holds anything else). The journal `begins` at that position."""
    scan, damaged, offset = _Scan(file, journal=journal, begins=begins), False, 0
    with opened(filesystem, file.path) as segment:
        if segment is None:
            return [], False
        for offset, found in found_in(segment, journal=journal):
            for line, record in found:
                scan.add(offset, line, record)
                damaged |= record is None
                offset += len(line) + 1
        torn = segment.end_offset() < segment.size
        scan.finish(segment.size, torn)
    return scan.runs, damaged or torn
