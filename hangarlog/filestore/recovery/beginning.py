"""Where a journal begins after a drop that was cut short, in a copy, and after damage. Hold the write lock.

`retained.json` decides. Only a repair settles it anew, from the first position of the journal's files.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from hangarlog.errors import CorruptionError
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.commit_ring import lines_of_frames, read_ring
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.hidden_events import HiddenEvents
from hangarlog.filestore.journal import Journal
from hangarlog.filestore.line_scan import journal_files, opened
from hangarlog.filestore.recovery.gaps import refuse_gaps
from hangarlog.filestore.recovery.rewriting import first_number, last_number
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.record.line import decode_record
from hangarlog.system.file_copy import keep_damaged


def remove_left_over(folder: Folder) -> None:
    """Remove the segments that a drop, cut short, has left before the journal's beginning.

    Raises:
        CorruptionError: `retained.json` is not of these files: it is newer than they are.
    """
    journal = folder.journal
    if cause := _why_not_left_over(folder, journal.begins()):
        raise journal.retained_damage(cause)
    journal.write_retained(journal.begins())  # A sync of it may have failed: then it is not on the device.
    for first in journal.left_over():
        journal.remove_sealed(first)


def _why_not_left_over(folder: Folder, begins: int) -> str:
    """Return why the segments before `begins` are not left over from a drop; "" if they are."""
    journal, hidden = folder.journal, HiddenEvents(folder)
    if begins not in [*journal.sealed(), _active_first(journal)]:
        return f"the journal has earlier segments, but none begins at its position {begins}"
    for first in journal.left_over():
        if shown := hidden.first_shown(journal, first):
            return f"{shown}, which is before its position {begins}"
    return ""


def _active_first(journal: Journal) -> int | None:
    with contextlib.suppress(CorruptionError):
        if active := journal.open_active():
            with contextlib.closing(active):
                return active.first_number()
    return None


def _first_left(folder: Folder, *, dropped: bool) -> int:
    """Return the position that the journal may begin with, by its files: the lowest one in them; 1 without any.

    If events were `dropped` before, it is the lowest one from which on the segments follow on each other.
    """
    journal, lowest, begins, following = folder.journal, sys.maxsize, 1, 1
    for file in sorted(journal_files(folder), key=lambda file: (file.sealed is None, file.sealed or 0)):
        with opened(folder.filesystem, file.path) as segment:
            first = first_number(journal, segment) if segment and not file.spare else None
            if segment is None or first is None:
                continue
            if file.sealed not in (None, first):
                return 1  # It has the lines of another segment.
            lowest = min(lowest, first)
            begins = begins if first == following else first
            following = (last_number(journal, segment) or sys.maxsize - 1) + 1
    return 1 if lowest == sys.maxsize else begins if dropped else lowest


def refuse_dropped(folder: Folder) -> None:
    """Raise `CorruptionError` if a copy lacks the beginning of the journal because the store had dropped it.

    It was copied while that happened: its `retained.json` is older than its segments.
    """
    begins = folder.journal.begins()
    first = _first_left(folder, dropped=begins > 1)
    if first > begins and _hides_any(folder) and _is_hidden(folder, first):
        cause = f"the journal begins at position {first}, which it does not say; the store was copied meanwhile"
        raise folder.journal.retained_damage(cause)


def _hides_any(folder: Folder) -> bool:
    marks = SnapshotFiles(folder.filesystem, folder.snapshots_path).all()
    with contextlib.suppress(CorruptionError):
        return any(mark.compacted_through >= 0 and not mark.is_beginning for mark in marks)
    return False


def _is_hidden(folder: Folder, first: int) -> bool:
    """True if the marks of the streams hide every event before position `first`, and no stream lacks a later one."""
    journal, hidden, seen, later = folder.journal, HiddenEvents(folder), set[str](), 0
    with contextlib.suppress(CorruptionError):
        if not _shows_none_before(folder, first):
            return False
        if any(hidden.first_shown(journal, each) for each in journal.sealed() if each < first):
            return False
        for block in journal.forward(first):
            for record in block:
                through = hidden.through(record.stream_id)
                later += record.stream_version <= through
                if record.stream_id not in seen:
                    seen.add(record.stream_id)
                    if record.stream_version > through + 1:
                        return False
        return _are_so_many_hidden(folder, first - 1 + later)
    return False


def _are_so_many_hidden(folder: Folder, events: int) -> bool:
    """True if all marks together hide that many events: of a stream whose files are gone nothing else tells.

    An archive has no marks of the streams that had ended before its beginning.
    """
    settings = folder.settings()
    marks = SnapshotFiles(folder.filesystem, folder.snapshots_path).all()
    return (settings is not None and settings.archive) or sum(mark.compacted_through + 1 for mark in marks) >= events


def _shows_none_before(folder: Folder, first: int) -> bool:
    """True if neither a stream nor the ring shows an event from before position `first`, and no stream has a gap."""
    hidden = HiddenEvents(folder)
    frames = read_ring(folder.filesystem, folder.ring_path, folder.journal.store_id)
    with contextlib.suppress(CorruptionError):
        refuse_gaps(folder, first)
        for line in lines_of_frames([*frames.older, *frames.frames], 0, "").values():
            record = decode_record(line)
            if record.position < first and record.stream_version > hidden.through(record.stream_id):
                return False
        return True
    return False


def settle_beginning(folder: Folder) -> Iterator[tuple[str, str, str]]:
    """For a repair: make `retained.json` say where the journal begins, and remove what is left over.

    Yield (path, what it was made from, where the old file is kept) of each file that was changed.
    """
    journal, filesystem = folder.journal, folder.filesystem
    shown = kept = damage = ""
    try:
        begins = journal.begins()
        first = _first_left(folder, dropped=begins > 1)
        shown = _why_not_left_over(folder, begins) if journal.left_over() else ""
        settles = _is_hidden(folder, first) if first > begins else first < begins and shown != ""
    except CorruptionError as error:
        if not filesystem.is_there(journal.retained_path):
            raise
        damage, kept = error.cause, keep_damaged(filesystem, journal.retained_path, remove=True)
        first = _first_left(folder, dropped=False)
        settles = _shows_none_before(folder, first)  # Nothing else is left.
    if settles and first > 1:
        kept = kept or (keep_damaged(filesystem, journal.retained_path) if shown else "")
        journal.write_retained(first)
        yield journal.retained_path, f"the journal, which begins at position {first}", kept
    elif damage or settles:
        kept = kept or keep_damaged(filesystem, journal.retained_path, remove=True)
        yield journal.retained_path, f"nothing: the journal begins at position 1 ({damage or shown})", kept
    for left in journal.left_over():
        path = journal.sealed_path(left)
        kept = keep_damaged(filesystem, path, remove=True) if shown else ""
        journal.remove_sealed(left)
        yield path, "nothing: its events were dropped", kept


def note_dropped_streams(folder: Folder, catalog: Catalog) -> None:
    """Put the streams into a new catalog whose events were all dropped from the journal."""
    begins = folder.journal.begins()
    for stream_id in folder.stream_ids() if begins > 1 else ():
        if catalog.get(stream_id) is None:
            with contextlib.suppress(CorruptionError):
                last = folder.stream(stream_id).last_record()
                if last and last.position < begins:
                    catalog.put(stream_id, last.stream_version, last.position)
    for mark in SnapshotFiles(folder.filesystem, folder.snapshots_path).all() if begins > 1 else ():
        # The stream's file is gone, too. Its versions must not be given again.
        if mark.compacted_through >= 0 and not mark.is_beginning and catalog.get(mark.stream_id) is None:
            catalog.put(mark.stream_id, mark.compacted_through, begins - 1)
