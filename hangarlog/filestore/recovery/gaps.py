"""Detects segments that are missing, or older or newer than the journal.

Copies made file by file and partly restored backups have such gaps. These functions look only at both ends of each
segment, and list each folder once.
"""

from __future__ import annotations

import contextlib

from hangarlog.errors import CorruptionError
from hangarlog.filestore.commit_ring import Frame, lines_of_frames
from hangarlog.filestore.file_owners import JournalNames
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.hidden_events import without_left_over
from hangarlog.filestore.line_scan import found_in, journal_files, opened
from hangarlog.filestore.rolled_streams import rolled_streams
from hangarlog.filestore.salvage import read_journal_lines, stream_lines
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import text_path
from hangarlog.record.line import StoredEnvelope

_MAX_GAP = 1 << 20  # The longest gap, in positions, that is searched when a store is opened.


def refuse_gaps(folder: Folder, begins: int) -> None:
    """Raise `CorruptionError` if a stream, or the journal from position `begins` on, lacks a segment.

    It is a gap, too, if a stream shows an event from before that position.
    """
    _refuse_gaps(folder.journal, [first for first in folder.journal.sealed() if first >= begins], begins, begins)
    rolled = {(names.category, names.log.name): names for names in rolled_streams(folder)}
    snapshots = SnapshotFiles(folder.filesystem, folder.snapshots_path)
    journal_names = JournalNames(folder.journal)
    for category, name, file in folder.stream_files():
        names = rolled.pop((category, name), None)
        stream_id = folder.stream_id_at(category, name, file.path, journal_names)
        if stream_id is not None:
            snapshot = snapshots.load(stream_id)
            log = Log(folder.filesystem, folder.category_path(category), name, "stream_version")
            following = snapshot.compacted_through + 1 if snapshot else 0
            _refuse_gaps(log, without_left_over(names.sealed if names else [], following - 1), 0, following)
            shown = next(log.forward(following, 1), None) if begins > 1 else None
            if shown and shown[0].position < begins:
                raise CorruptionError(log.active_path, text_path(name), 0, f"the journal begins at position {begins}")
    for names in rolled.values():
        raise CorruptionError(names.log.active_path, text_path(names.log.name), 0, "its active segment is missing")


def _refuse_gaps(log: Log, sealed: list[int], least: int, most: int) -> None:
    """Check one log, whose first number must be from `least` to `most`."""
    active = log.open_active()
    active_first = None
    if active:
        with contextlib.closing(active):
            active_first = active.first_number()
    begins = sealed[0] if sealed else active_first
    expected = most if begins is None or not least <= begins <= most else begins
    for first in sealed:
        with contextlib.closing(log.open_sealed(first)) as segment:
            if first != expected:
                raise segment.damage(0, f"{log.field} {expected} must come here, not {first}")
            expected = segment.number_of(segment.last_whole()) + 1
    if active and active_first not in (None, expected):
        raise active.damage(0, f"{log.field} {expected} must come here, not {active_first}")


def ring_fills_gap(folder: Folder, frames: list[Frame], before: StoredEnvelope | None, following: int) -> bool:
    """True if the streams lack a part of a gap in the journal, and these frames of the commit ring have that part.

    The gap lies between the record `before`, None for the beginning, and the position `following`. If the streams have
    all of it, nothing needs to be restored: reads take it from there.
    """
    after, crc = (before.position, before.crc) if before else (folder.journal.begins() - 1, "")
    in_ring = {position for position in lines_of_frames(frames, after, crc) if position < following}
    if not in_ring or following - after > _MAX_GAP:
        return False
    missing = set(range(after + 1, following)) - {record.position for _, record in stream_lines(folder)}
    return bool(missing) and missing <= in_ring


def is_whole(folder: Folder) -> bool:
    """True if every line of the journal is an intact record, and none is missing from its beginning on."""
    try:
        begins = folder.journal.begins()
        _refuse_gaps(folder.journal, folder.journal.sealed(), begins, begins)
    except CorruptionError:
        return False
    for file in journal_files(folder):
        with opened(folder.filesystem, file.path) as segment:
            if segment is None or not _counts_up(segment):
                return False
    return True


def _counts_up(segment: Segment) -> bool:
    """True if every line of a segment of the journal is a record, each with the position after that of the last."""
    following = None
    for _, _, record in read_journal_lines(segment):
        if isinstance(record, str) or record.position != (following or record.position):
            return False
        following = record.position + 1
    return True


def lines_beyond(folder: Folder, last: int) -> list[bytes]:
    """Return the lines of the streams' sealed segments whose records come after the journal's `last` position."""
    found: list[bytes] = []
    for names in rolled_streams(folder):
        for first in reversed(names.sealed):
            with contextlib.closing(names.log.open_sealed(first)) as segment:
                with contextlib.suppress(CorruptionError):
                    if segment.last_whole().position <= last:
                        break
                blocks = [lines for _, lines in found_in(segment)]
            found += [line for lines in blocks for line, record in lines if record and record.position > last]
    return found
