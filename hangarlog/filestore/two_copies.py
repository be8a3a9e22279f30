"""Reads the second copy of events whose first copy is damaged."""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Container, Iterator
from typing import NamedTuple

from hangarlog.errors import CorruptionError
from hangarlog.filestore.file_names import stream_path
from hangarlog.filestore.folder import Folder
from hangarlog.log.log import Log, RecordsAndLines
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import first_of
from hangarlog.record.line import ERASED_MARK, StoredEnvelope, decode_record, erased_line, is_erased, is_record
from hangarlog.record.strict import are_strict, record_or_cause

Line = tuple[StoredEnvelope, bytes]


def whole_lines(segment: Segment) -> Iterator[Line]:
    """Yield every intact record of a segment with its line."""
    for lines in segment.blocks():
        for line in lines:
            if is_record(line):
                yield decode_record(line), line


def segments(log: Log) -> Iterator[Segment]:
    """Yield all segments of a log, in order. Each is closed when the next is asked for."""
    active = log.open_active()
    try:
        for first in log.sealed():
            with contextlib.closing(log.open_sealed(first)) as segment:
                yield segment
        if active:
            yield active
    finally:
        if active:
            active.close()


def better_copies(segment: Segment, records: list[StoredEnvelope], lines: list[bytes]) -> list[bytes]:
    """Return lines of the journal, but the stream's copy of each that breaks the format, if that copy is whole.

    A line with a right checksum may break it, for example with a key that comes twice.
    """
    if not segment.size or are_strict(records, lines):
        return lines
    broken = {
        _place(record): at
        for at, (record, line) in enumerate(zip(records, lines, strict=True))
        if isinstance(record_or_cause(line), str) and not _keeps_erased(record, line)
    }
    better = [*lines]
    for record, line in whole_lines(segment) if broken else ():
        if _place(record) in broken and isinstance(record_or_cause(line), StoredEnvelope):
            better[broken[_place(record)]] = line
    return better


def _keeps_erased(record: StoredEnvelope, line: bytes) -> bool:
    return is_erased(record) and (ERASED_MARK in line or erased_line(record) == line + b"\n")


def _place(record: StoredEnvelope) -> tuple[int, str, int]:
    return record.position, record.stream_id, record.stream_version


class Missing(NamedTuple):
    """The positions from `first` to `last` that are not in `found`."""

    first: int
    last: int
    found: Container[int]

    def has(self, position: int) -> bool:
        """True if a position is one of them."""
        return self.first <= position <= self.last and position not in self.found


def journal_lines_in_streams(folder: Folder, missing: Missing) -> dict[int, bytes]:
    """Return {position: line} of the missing positions that streams have, except those that two streams claim.

    It reads every stream. That is slow, but damage is rare.
    """
    found: dict[int, bytes] = {}
    doubtful: set[int] = set()
    for category, name, _ in folder.stream_files():
        log = Log(folder.filesystem, folder.category_path(category), name, "stream_version")
        for segment in segments(log):
            for record, line in whole_lines(segment):
                position = record.position
                ours = missing.has(position) and stream_path(record.stream_id) == (category, name)
                if ours and not is_erased(record) and found.setdefault(position, line) != line:
                    doubtful.add(position)
    return {position: line for position, line in found.items() if position not in doubtful}


def stream_lines_in_journal(folder: Folder, stream_id: str, after: int = 0) -> Iterator[Line]:
    """Yield what the journal has of a stream after position `after`, in order.

    Raises:
        CorruptionError: the journal is damaged there, too.
    """
    for records, lines in folder.journal.forward_lines(after + 1):
        for record, line in zip(records, lines, strict=True):
            if record.stream_id == stream_id:
                yield record, line


def journal_blocks(
    folder: Folder, position: int, active_first: int, last: int, *, pass_over: bool = False
) -> Iterator[RecordsAndLines]:
    """Yield the journal from `position` to `last` in blocks; damaged lines come from the streams.

    If the streams lack one too, it is left out with `pass_over`. Otherwise `CorruptionError` is raised.
    """
    while position <= last:
        try:
            for records, lines in folder.journal.forward_lines(position):
                records, lines = records[: last + 1 - position], lines[: last + 1 - position]
                if not records:
                    return
                if records[0].position != position:
                    break
                yield records, lines
                position = records[-1].position + 1
            if position > last:
                return
            raise missing_position(folder.journal, position, last)
        except CorruptionError:
            _, stop = journal_bounds(folder, position, active_first, last)
            stop = min(stop, last)
            found = journal_lines(folder, position, stop)
            mended = [found[at] for at in range(position, stop + 1) if at in found]
            if len(mended) <= stop - position and not pass_over:
                raise
            if mended:
                yield [decode_record(line) for line in mended], mended
            position = stop + 1


def missing_position(journal: Log, position: int, last: int) -> CorruptionError:
    """Return the error for a committed event that the journal does not have."""
    cause = f"position {position} is missing; {last} events were committed"
    return CorruptionError(journal.active_path, os.path.basename(journal.active_path), 0, cause)


def journal_bounds(folder: Folder, position: int, active_first: int, last: int) -> tuple[int, int]:
    """Return the (first, last) position of the journal segment that holds `position`, by the names of all segments."""
    firsts = sorted({folder.journal.begins(), *folder.journal.sealed(), active_first})
    at = bisect_right(firsts, position) - 1
    return firsts[at], firsts[at + 1] - 1 if at + 1 < len(firsts) else last


def journal_lines(folder: Folder, first: int, last: int) -> dict[int, bytes]:
    """Return {position: line} of the positions from `first` to `last` that the journal or the streams have."""
    found: dict[int, bytes] = {}
    for segment in segments(folder.journal):
        start = first_of(os.path.basename(segment.path), folder.journal.name)
        if start is None or first <= start <= last:
            for record, line in whole_lines(segment):
                if first <= record.position <= last:
                    found.setdefault(record.position, line)
    return found | journal_lines_in_streams(folder, Missing(first, last, found))
