"""Every whole line in a store's files, whatever lies between them: for finding what is damaged, and rebuilding it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from hangarlog.filestore.folder import Folder
from hangarlog.log.segment import CHUNK_BYTES, Segment
from hangarlog.log.segment_name import TEXT, first_of
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, may_be_torn
from hangarlog.record.strict import kept_record, strict_records
from hangarlog.system.filesystem import NO_FILE, FileSystem

REBUILT = ".rebuilt"
"""What the name of a file that is to take another one's place ends in, until it does."""

_FILE = re.compile(rf"([^.]+)(?:\.[0-9]{{20}})?\.jsonl((?:\.new|{REBUILT})(?:\.[0-9]+)?)?").fullmatch


class File(NamedTuple):
    """A file of a log: the log's folder and name; `spare` are those that wait to take another one's place."""

    path: str
    folder: str
    name: str
    spare: bool

    @property
    def sealed(self) -> int | None:
        """The number in the name of a sealed segment, None of any other file."""
        return first_of(os.path.basename(self.path), self.name)

    def category(self, folder: Folder) -> str:
        """The folder of a stream's category."""
        return "" if self.folder == folder.streams_path else os.path.basename(self.folder)


def log_files(filesystem: FileSystem, folder: str) -> list[File]:
    """The files of all logs in a folder, sorted; links and folders of their names too."""
    found = []
    for entry in filesystem.entries(folder):
        match = _FILE(entry.name)
        if match:
            found.append(File(entry.path, folder, match[1], bool(match[2])))
    return sorted(found)


def journal_files(folder: Folder) -> list[File]:
    """Whatever holds a part of the journal."""
    return [file for file in log_files(folder.filesystem, folder.path) if file.name == folder.journal.name]


def stream_files(folder: Folder) -> Iterator[File]:
    """Whatever holds a part of a stream, a category at a time."""
    yield from log_files(folder.filesystem, folder.streams_path)
    for entry in folder.filesystem.entries(folder.streams_path):
        if entry.is_dir():
            yield from log_files(folder.filesystem, entry.path)


Found = list[tuple[bytes, StoredEnvelope | None]]
"""Lines with their records; None where a line is none."""


@contextlib.contextmanager
def opened(filesystem: FileSystem, path: str) -> Iterator[Segment | None]:
    """The file at `path` as a segment, None where something else is in its place."""
    try:
        fd = filesystem.open_read(path)
    except OSError as error:
        if error.errno not in NO_FILE and not isinstance(error, FileNotFoundError):
            raise
        yield None
        return
    with contextlib.closing(Segment(filesystem, path.removesuffix(TEXT), "position", fd)) as segment:
        yield segment


def found_in(segment: Segment, offset: int = 0, stop: int | None = None) -> Iterator[tuple[int, Found]]:
    """(offset, lines) from `offset` up to `stop`, a block at a time, but for a last one without its newline."""
    stop = segment.size if stop is None else stop
    while offset < stop:
        lines, following = segment.lines_at(offset, min(CHUNK_BYTES, stop - offset))
        if not lines:
            return
        records: list[StoredEnvelope | None]
        try:
            records = [*strict_records(lines)]
        except LineError:
            records = [*map(kept_record, lines)]
        yield offset, list(zip(lines, records, strict=True))
        offset = following


class Stretch(NamedTuple):
    """Lines that stand one behind the other in the file `path`, from offset `start` to `end`, `lines` of them.

    Their positions go up from `first` to `last`, in the journal one by one. `after` is the position of the whole line
    before them in the file, 0 where there is none, and `skipped` the bytes of the lines between. Lines that are not
    `whole` stand where these positions should.
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
    """One file, on the way through it."""

    def __init__(self, file: File, *, journal: bool) -> None:
        self._file, self._journal = file, journal
        self._sealed = file.sealed if journal else None
        self.runs: list[Stretch] = []
        self._after = 0  # The position of the last whole line, and the offset after it.
        self._after_end = 0
        self._bad = 0  # Lines since, and their bytes: those that one may have, however long it seems.
        self._skipped = 0
        self._strange = False  # Whether one of them is no record that was damaged.

    def see(self, offset: int, line: bytes, record: StoredEnvelope | None) -> None:
        """A line at `offset`, and its record, if it is one."""
        if record is None:
            self._bad += 1
            self._skipped += len(line) + 1
            self._strange |= b"\0" in line or not may_be_torn(line)
            return
        position, size = record.position, len(line) + 1
        last, end = self._after, offset + size
        follows = position == last + 1 if self._journal else position > last
        if self.runs and not self._bad and follows:
            run = self.runs[-1]
            self.runs[-1] = run._replace(last=position, end=end, lines=run.lines + 1)
        else:
            before = last or (self._sealed or 1) - 1
            if self._bad and self._journal and position - before - 1 == self._bad:
                self._note_bad(before, offset)
            path = self._file.path
            self.runs.append(Stretch(position, position, path, offset, end, 1, last, self._skipped, self._journal))
        self._after, self._after_end, self._bad, self._strange, self._skipped = position, end, 0, False, 0

    def _note_bad(self, before: int, end: int) -> None:
        first, last = before + 1, before + self._bad
        run = Stretch(first, last, self._file.path, self._after_end, end, self._bad, self._after, 0, True, False)
        self.runs.append(run)

    def finish(self, size: int, torn: bool) -> None:
        """The file ends at `size`; `torn` says whether within a line."""
        if self._sealed is not None:
            self._bad += torn
            self._strange = False
        if self._journal and self._bad and not self._strange:  # A live one may end in what never was committed.
            self._note_bad(self._after or (self._sealed or 1) - 1, size)


def runs_in(filesystem: FileSystem, file: File, *, journal: bool) -> tuple[list[Stretch], bool]:
    """(the runs of lines in a file, whether it holds anything else)."""
    scan, damaged, offset = _Scan(file, journal=journal), False, 0
    with opened(filesystem, file.path) as segment:
        if segment is None:
            return [], False
        for offset, found in found_in(segment):
            for line, record in found:
                scan.see(offset, line, record)
                damaged |= record is None
                offset += len(line) + 1
        torn = segment.end_offset() < segment.size
        scan.finish(segment.size, torn)
    return scan.runs, damaged or torn
