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
from hangarlog.record.cursor_move import CursorPlace
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
        content, _ = read_content(filesystem, path)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        report.damage.append(cursor_damage(path, 0, f"it cannot be opened as a file ({error.strerror}); move it away"))
        return
    pairs: dict[int, bytes] = {}
    changes: dict[int, bytes] = {}
    end = _End(folder, active, report.last)
    for pair in pairs_in(content):
        place = _settled(pair, moves.get(pair.name or ""), end, restarted=restarted)
        if place or pair.is_free:
            changes[pair.offset] = encode_place(place) * 2 if place else BLANK * 2
        if place and any(pair.damaged):
            cause = f"a line of cursor {place.cursor!r} was damaged; its other line counts"
            report.damage.append(cursor_damage(path, pair.offset, cause))
        pairs[pair.offset] = content[pair.offset : pair.offset + PAIR_BYTES].ljust(PAIR_BYTES, b"\0")
    if any(damage.path == path for damage in report.damage):
        folder.keep_damaged(path)
    if (anew and content) or (changes and restarted):
        filesystem.replace_file(path, content_of(pairs | changes))
    elif changes:
        fd = filesystem.open_update(path)
        try:
            for offset, text in changes.items():
                filesystem.write_at(fd, text, offset)
        finally:
            filesystem.close(fd)


class _End:
    """The end of the journal: the position of its last record, and the checksum of that."""

    def __init__(self, folder: Folder, active: ActiveSegment, last: int) -> None:
        self._folder, self._active, self.last = folder, active, last

    def crc(self) -> str:
        """Return the checksum of the last record, "" if there is none."""
        crc = self._active.crc_before(self._active.size)
        if not crc and self.last:
            journal = self._folder.journal
            with contextlib.suppress(CorruptionError, IndexError):
                crc = last_record_of_sealed(journal, journal.sealed()[-1]).crc
        return crc


def _settled(pair: Pair, carried: tuple[int, CursorPlace] | None, end: _End, *, restarted: bool) -> Place | None:
    """Return where the cursor of a pair is, None if the pair says so already, or has no cursor."""
    whole, last = pair.whole, end.last
    if not whole:
        return None
    latest, place = whole[0], pair.surviving(last)
    if carried and carried[0] > (place.appended if place else 0):
        appended, moved = carried
        fallback = place and (place.fallback or place.state)
        place = replace(latest, position=moved.position, moved_at=moved.moved_at, appended=appended, fallback=fallback)
        place = replace(place, tip=last, tip_crc=end.crc())
    elif place is None:
        place = replace(latest, tip=last, tip_crc=UNKNOWN, appended=last, fallback=None)
    elif place is latest and len(whole) == 2 and place.position <= last and (place.tip <= last or not restarted):
        return None
    elif place.tip > last:
        place = replace(place, tip=last, tip_crc=end.crc())
    fallback = None if restarted else place.fallback
    return replace(place, position=min(place.position, last), move=latest.move + 1, fallback=fallback)
