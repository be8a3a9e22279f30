"""Compares a stream's end with the journal, and makes it match.

A stream's file may have been deleted, emptied, cut, or replaced by an older one. It may also end in records of a commit
that a power cut took back. The journal decides. The catalog only tells where to look in it.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from bisect import bisect_right
from collections.abc import Collection, Iterator
from itertools import chain

from hangarlog.errors import CorruptionError, CorruptionWarning, HangarlogError
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.hidden_events import kept_lines
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.record.line import StoredEnvelope, decode_record, is_erased, is_record, stream_key
from hangarlog.system.file_copy import keep_damaged

_CHUNK_BYTES = 1 << 20


def journal_line(folder: Folder, position: int) -> bytes | None:
    """Return the journal's line at a position, or None if it has no intact one."""
    with contextlib.suppress(OSError, CorruptionError):
        active = folder.journal.open_active()
        if active:
            with contextlib.closing(active):
                first = active.first_number()
                if first is not None and first <= position:
                    return _line_at(active, position, first)
    return sealed_journal_line(folder, position)


def sealed_journal_line(folder: Folder, position: int) -> bytes | None:
    """Return the line at a position in the journal's sealed segments, or None if they have no intact one."""
    with contextlib.suppress(OSError, HangarlogError):
        sealed = folder.journal.sealed()
        if sealed and sealed[0] <= position:
            first = sealed[bisect_right(sealed, position) - 1]
            with contextlib.closing(folder.journal.open_sealed(first)) as segment:
                return _line_at(segment, position, first)
    return None


def _line_at(segment: Segment, position: int, first: int) -> bytes | None:
    offset, number = segment.seek(position, first)
    while True:
        lines, offset = segment.lines_at(offset)
        if position - number < len(lines):
            line = lines[position - number]
            return line if is_record(line) and decode_record(line).position == position else None
        if not lines:
            return None
        number += len(lines)


def conflicts_with_journal(folder: Folder, stream_id: str, version: int, position: int) -> bool:
    """True if the journal has another intact record at this position."""
    line = journal_line(folder, position)
    record = decode_record(line) if line else None
    return record is not None and (record.stream_id, record.stream_version) != (stream_id, version)


def ends_early(log: Log, stream_id: str, version: int, known: int, position: int) -> CorruptionError:
    """Return the error for a stream that ends at `version` although version `known` was committed at `position`."""
    where = f"at position {position}" if position else "before the next one, which the journal has"
    cause = f"it ends at version {version}; version {known} was committed {where}"
    path = log.active_path
    return CorruptionError(path, os.path.basename(path), 0, cause, position or None, stream_id, known)


def disproved_by_journal(folder: Folder, record: StoredEnvelope, committed: int) -> bool:
    """True if the journal shows that a stream's record was not committed: another one, or none, is at its position.

    A damaged or missing part of the journal shows nothing.
    """
    return record.position > committed or conflicts_with_journal(
        folder, record.stream_id, record.stream_version, record.position
    )


def lines_of_stream(folder: Folder, stream_id: str, after: int, through: int) -> Iterator[tuple[StoredEnvelope, bytes]]:
    """Yield what the journal has of a stream after position `after`, up to `through`.

    It searches the text for the stream's id: a gigabyte takes less than a second.
    """
    key = stream_key(stream_id)
    with folder.journal.opened(after + 1) as (sealed, active_first, active):
        for first in sealed:
            with contextlib.closing(folder.journal.open_sealed(first)) as segment:
                yield from _lines_in(segment, first, key, after, through)
        if active and active_first is not None:
            yield from _lines_in(active, active_first, key, after, through)


def _lines_in(
    segment: Segment, first: int, key: bytes, after: int, through: int
) -> Iterator[tuple[StoredEnvelope, bytes]]:
    offset, _ = segment.seek(after + 1, first)
    while True:
        lines, offset = segment.lines_at(offset, _CHUNK_BYTES)
        if not lines:
            return
        for line in lines:
            if key in line and is_record(line):
                record = decode_record(line)
                if after < record.position <= through and key == stream_key(record.stream_id):
                    yield record, line


def put_records_aside(folder: Folder, active: ActiveSegment, offset: int, but_for: Collection[bytes]) -> int:
    """Put aside the intact records after `offset` of a stream, except the lines in `but_for`; return their number."""
    count = 0
    for lines in chain(active.blocks(offset), active.rest(offset)):
        aside = [line for line in lines if line not in but_for and is_record(line)]
        if aside:
            folder.put_aside(aside)
        count += len(aside)
    return count


def cut_durably(active: ActiveSegment, size: int) -> None:
    """Cut a stream to `size` bytes. What is cut off was not committed.

    If the device brought it back with an older journal, a recovery could take it for an event that the journal lost.
    """
    if active.cut(size):
        with contextlib.suppress(OSError):  # Then the next recovery cuts it again.
            active.filesystem.sync_data(active.fd)


def settle_stream(folder: Folder, catalog: Catalog, stream_id: str, committed: int) -> None:
    """Make a stream's end match the journal. Needs the write lock.

    Raises:
        CorruptionError: the journal lacks a version, or the stream's end is damaged.
    """
    log = folder.stream(stream_id)
    with contextlib.ExitStack() as closing:
        active = _open_active(log)
        if active:
            closing.enter_context(contextlib.closing(active))
        last, keep = _last_confirmed(folder, log, active, committed)
        due = list(lines_of_stream(folder, stream_id, last.position if last else 0, committed))
        _refuse_gap(log, last.stream_version if last else None, [record for record, _ in due])
        if active and last and any(is_erased(record) for record, _ in due):
            _cut_hidden(folder, log, active, [record for record, _ in due if is_erased(record)][-1])
            last, keep = None, 0
        lines = [line for _, line in due] if last or not due else kept_lines(folder, stream_id, due)
        text = b"".join([line + b"\n" for line in lines])
        if active is None and (text or last):
            folder.make_category(log)
            active = closing.enter_context(contextlib.closing(ActiveSegment(log, new=True)))
        if active:
            _replace_end(folder, active, keep, text)
    end = due[-1][0] if due else last
    version, known = end.stream_version if end else -1, catalog.get(stream_id)
    if known and known.version > version:
        position = known.position_before(committed)
        if position > 0 and not conflicts_with_journal(folder, stream_id, known.version, position):
            raise ends_early(log, stream_id, version, known.version, position)  # The version must not be given again.
    catalog.put(stream_id, version, end.position if end else 0)
    if due:
        old = last.stream_version if last else -1
        cause = f"{log.active_path} ended at version {old}, but the journal has versions up to {version}"
        warnings.warn(CorruptionWarning(f"{cause}; the missing events were written again"), stacklevel=2)


def _cut_hidden(folder: Folder, log: Log, active: ActiveSegment, erased: StoredEnvelope) -> None:
    """Cut off all of a stream, as the journal has erased a later event, if its mark hides it."""
    mark = SnapshotFiles(folder.filesystem, folder.snapshots_path).load(erased.stream_id)
    if log.sealed() or mark is None or mark.compacted_through < erased.stream_version:
        cause = f"the journal has erased version {erased.stream_version}, but not what comes before it here"
        raise active.damage(active.size, cause, erased.position, erased.stream_id, erased.stream_version)
    active.cut(0)


def _open_active(log: Log) -> ActiveSegment | None:
    try:
        return ActiveSegment(log)
    except FileNotFoundError:
        return None


def _last_confirmed(
    folder: Folder, log: Log, active: ActiveSegment | None, committed: int
) -> tuple[StoredEnvelope | None, int]:
    """Return (the stream's last committed record, the offset after it in the active segment)."""
    offset = active.end_offset() if active else 0
    while active and offset:
        lines, start = active.lines_before(offset)
        for line in reversed(lines):
            record = decode_record(line) if is_record(line) else None
            if record and not disproved_by_journal(folder, record, committed):
                return record, offset
            offset -= len(line) + 1
        offset = start
    sealed = log.sealed()
    if not sealed:
        return None, 0
    with contextlib.closing(log.open_sealed(sealed[-1])) as segment:
        last = segment.last_whole()
        if disproved_by_journal(folder, last, committed):
            raise segment.damage(
                0, f"its version {last.stream_version}, at position {last.position}, is not in the journal"
            )
        return last, 0


def _refuse_gap(log: Log, last: int | None, due: list[StoredEnvelope]) -> None:
    expected = None if last is None else last + 1
    for record in due:
        if expected is not None and record.stream_version != expected:
            cause = f"stream_version {expected} is missing here and in the journal"
            raise CorruptionError(log.active_path, os.path.basename(log.active_path), 0, cause)
        expected = record.stream_version + 1


def put_left_over_aside(active: ActiveSegment) -> None:
    """Put aside sealed segments that begin with a record of the active one, or behind it: it is about to be sealed.

    They are left over from a newer state of the store. Once it is sealed, reads would take their records for its own.
    """
    log, filesystem = active.log, active.filesystem
    first = active.first_number_or_raise()
    for other in log.sealed():
        while other >= first and (path := log.sealed_path(other)):
            same_size = filesystem.size_at(path) == active.size
            if other == first and same_size and filesystem.begin_alike(active.path, path):
                break  # A roll was cut short. The next one finishes it.
            kept = keep_damaged(filesystem, path, remove=True)
            cause = f"{path} was left over beside {active.path}, which has the same versions"
            warnings.warn(CorruptionWarning(f"{cause}; it is kept as {os.path.basename(kept)}"), stacklevel=2)
            if not log.sealed_path(other):
                log.remove_sealed(other)  # Its caches.


def _replace_end(folder: Folder, active: ActiveSegment, keep: int, text: bytes) -> None:
    """Replace the text after offset `keep`."""
    if active.size - keep == len(text) and active.read(len(text), keep) == text:
        return
    put_records_aside(folder, active, keep, frozenset(text.split(b"\n")))
    cut_durably(active, keep)
    if text:
        active.append(text)
