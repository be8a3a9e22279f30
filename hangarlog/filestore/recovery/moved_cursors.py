"""Makes the cursors agree with the journal. For the holder of the write lock only.

A cursor must not be beyond the journal's end: other events may get those positions. An append and the move that it
carries count together. The journal says which of both count.
"""

from __future__ import annotations

import contextlib

from msgspec.structs import replace

from hangarlog.errors import CorruptionError
from hangarlog.filestore.cursor_file import (
    BLANK,
    PAIR_BYTES,
    UNKNOWN,
    Pair,
    Place,
    content_of,
    cursor_damage,
    encode_place,
    pairs_in,
    read_content,
)
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.recovery.journal_end import last_record_of_sealed
from hangarlog.filestore.recovery.report import Recovered
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.record.cursor_move import CursorPlace, carried_move
from hangarlog.system.filesystem import NO_FILE

Moves = dict[str, tuple[int, CursorPlace]]
"""{name of a cursor: (position of the last record that carries a move of it, where that leads)}."""


def settle_cursors(
    folder: Folder, moves: Moves, active: ActiveSegment, report: Recovered, *, restarted: bool, anew: bool
) -> None:
    """Set back cursors that the journal, which ends at `report.last`, does not reach; make the moves that it carries.

    If `restarted`, changes are on the device when this returns. With `anew`, the file is written anew in any case.
    """
    filesystem, path = folder.filesystem, folder.cursors_path
    try:
        content = read_content(filesystem, path)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        report.damage.append(cursor_damage(path, 0, f"it cannot be opened as a file ({error.strerror}); move it away"))
        return
    pairs: dict[int, bytes] = {}
    changes: dict[int, bytes] = {}
    end = _End(folder, active, report, moves)
    for pair in pairs_in(content):
        place = _settled(pair, end, restarted=restarted)
        if place or pair.is_free:
            changes[pair.offset] = encode_place(place) * 2 if place else BLANK * 2
        if place and any(pair.damaged):
            cause = f"a line of cursor {place.cursor!r} was damaged; its other line counts"
            report.damage.append(cursor_damage(path, pair.offset, cause))
        pairs[pair.offset] = content[pair.offset : pair.offset + PAIR_BYTES].ljust(PAIR_BYTES, b"\0")
    if any(damage.path == path for damage in report.damage):
        folder.keep_damaged(path)
    if (anew and content) or (changes and (restarted or filesystem.has_other_names(path))):
        filesystem.replace_file(path, content_of(pairs | changes))
    elif changes:
        fd = filesystem.open_update(path)
        try:
            for offset, text in changes.items():
                filesystem.write_at(fd, text, offset)
        finally:
            filesystem.close(fd)


class _End:
    """The end of the journal, and the moves that its records carry."""

    def __init__(self, folder: Folder, active: ActiveSegment, report: Recovered, moves: Moves) -> None:
        self._folder, self._active, self._moves = folder, active, moves
        self.since, self.last = report.since, report.last

    def move_after(self, position: int, name: str) -> tuple[int, CursorPlace] | None:
        """Return the last move of a cursor that a record after `position` carries, None if there is none.

        Raises `CorruptionError` if the journal is damaged there.
        """
        found = self._moves.get(name)
        if found is None and position < self.since:
            for records, lines in self._folder.journal.forward_lines(position + 1):
                for move in filter(None, map(carried_move, lines)):
                    found = move if move[1].name == name else found
                if records[-1].position >= self.since:
                    break
        return found if found and found[0] > position else None

    def crc(self) -> str:
        """Return the checksum of the last record, "" if there is none."""
        crc = self._active.crc_before(self._active.size)
        if not crc and self.last:
            journal = self._folder.journal
            with contextlib.suppress(CorruptionError, IndexError):
                crc = last_record_of_sealed(journal, journal.sealed()[-1]).crc
        return crc


def _settled(pair: Pair, end: _End, *, restarted: bool) -> Place | None:
    """Return where the cursor of a pair is, None if the pair says so already, or has no cursor."""
    whole, last = pair.whole, end.last
    if not whole:
        return None
    latest, place = whole[0], pair.surviving(last)
    appended = max(place.appended if place else 0, latest.created)
    if latest.appended <= last and not any(pair.damaged):  # Up to the last checkpoint, the pair has all moves.
        appended = max(appended, end.since)
    carried = None
    try:
        carried = end.move_after(appended, latest.cursor)
    except CorruptionError:
        place = None  # The damaged record may carry one.
    if carried:
        fallback = place and (place.fallback or place.state)
        moved = carried[1]
        place = replace(latest, position=moved.position, moved_at=moved.moved_at, appended=carried[0])
        place = replace(place, tip=last, tip_crc=end.crc(), fallback=fallback)
    elif place is None:
        place = replace(latest, tip=last, tip_crc=UNKNOWN, appended=last, fallback=None)
    elif place is latest and len(whole) == 2 and place.position <= last and (place.tip <= last or not restarted):
        return None
    elif place.tip > last:
        place = replace(place, tip=last, tip_crc=end.crc())
    place = replace(place, position=min(place.position, last), created=min(place.created, last), move=latest.move + 1)
    return replace(place, fallback=None) if restarted else place
