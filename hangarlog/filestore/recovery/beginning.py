"""Where a journal begins after a drop that was cut short, in a copy, and after damage. Hold the write lock.

`retained.json` decides. Only a repair settles it anew, from the first position of the journal's files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hangarlog.errors import CorruptionError
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.hidden_events import HiddenEvents
from hangarlog.filestore.journal import Journal
from hangarlog.filestore.line_scan import journal_files, opened
from hangarlog.filestore.recovery.gaps import refuse_gaps
from hangarlog.filestore.recovery.rewriting import first_number
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.system.file_copy import keep_damaged


def remove_left_over(folder: Folder) -> None:
    """Remove the segments that a drop, cut short, has left before the journal's beginning.

    Raises:
        CorruptionError: `retained.json` is not of these files: it is newer than they are.
    """
    journal = folder.journal
    if cause := _why_not_left_over(folder, journal.begins()):
        raise journal.retained_damage(cause)
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


def first_position(folder: Folder) -> int | None:
    """Return the lowest position that the files of the journal begin with, None without any."""
    found = []
    for file in journal_files(folder):
        with opened(folder.filesystem, file.path) as segment:
            first = first_number(folder.journal, segment) if segment and not file.spare else None
            found += [] if first is None else [file.sealed or first]
    return min(found, default=None)


def refuse_dropped(folder: Folder) -> None:
    """Raise `CorruptionError` if a copy lacks the beginning of the journal because the store had dropped it.

    It was copied while that happened: its `retained.json` is older than its segments.
    """
    first = first_position(folder)
    if first is not None and first > folder.journal.begins() and _hides_any(folder) and _proves(folder, first):
        cause = f"the journal begins at position {first}, which it does not say; the store was copied meanwhile"
        raise folder.journal.retained_damage(cause)


def _hides_any(folder: Folder) -> bool:
    marks = SnapshotFiles(folder.filesystem, folder.snapshots_path).all()
    with contextlib.suppress(CorruptionError):
        return any(mark.compacted_through >= 0 and not mark.is_beginning for mark in marks)
    return False


def _proves(folder: Folder, first: int) -> bool:
    """True if no stream shows an event from before position `first`, and nothing is missing after that."""
    with contextlib.suppress(CorruptionError):
        refuse_gaps(folder, first)
        return True
    return False


def settle_beginning(folder: Folder) -> Iterator[tuple[str, str, str]]:
    """For a repair: make `retained.json` say where the journal begins, and remove what is left over.

    Yield (path, what it was made from, where the old file is kept) of each file that was changed.
    """
    journal, damage, begins, kept = folder.journal, "", 1, ""
    first = first_position(folder)
    try:
        begins = journal.begins()
        if first is not None and first < begins:
            damage = _why_not_left_over(folder, begins)
            if not damage:
                for left in journal.left_over():
                    path = journal.sealed_path(left)
                    journal.remove_sealed(left)
                    yield path, "nothing: its events were dropped", ""
                return
    except CorruptionError as error:
        damage = error.cause
        if not folder.filesystem.is_there(journal.retained_path):
            raise
    if damage:
        kept = keep_damaged(folder.filesystem, journal.retained_path, remove=True)
    if first is not None and first > 1 and (first < begins or (first > begins and _proves(folder, first))):
        journal.write_retained(first)
        source = f"the journal, which begins at position {first}; no stream shows an earlier event"
        yield journal.retained_path, source, kept
    elif damage:
        yield journal.retained_path, f"nothing: the journal begins at position 1 ({damage})", kept


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
