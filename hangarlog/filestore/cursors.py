"""The cursors of a store: where they are, and moves of them under the write lock."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

from hangarlog.errors import CorruptionError, CorruptionWarning, SyncError
from hangarlog.eventstore.cursor import check_move
from hangarlog.filestore.cursor_file import (
    BLANK,
    GROWTH_BYTES,
    LINE_BYTES,
    MAX_CURSORS,
    PAIR_BYTES,
    UNKNOWN,
    Pair,
    Place,
    as_place,
    content_of,
    cursor_damage,
    encode_place,
    find_pair,
    pairs_in,
    read_content,
    read_pair,
)
from hangarlog.filestore.session import FolderWatch
from hangarlog.filestore.shared_state import DURABLE
from hangarlog.filestore.write_session import WriteSession
from hangarlog.record.cursor_move import CursorMove, CursorPlace
from hangarlog.record.timestamp import now
from hangarlog.system.futex import give_way

_MAX_LOOKS = 100
"""Attempts to read a cursor that others keep moving."""

CrcAt = Callable[[int, int], "str | None"]
"""Return the checksum of the record at a position, None if it is unknown. The second number is the last position."""


class Planned(NamedTuple):
    """A move that was checked: the pair of its cursor, what counts there now, and the offset of the line to overwrite.

    `durable` is the durable position when the lock was taken.
    """

    move: CursorMove
    pair: Pair
    current: Place
    offset: int
    durable: int


class Cursors:
    """The cursors of one store, in this process. Threads may share it."""

    def __init__(self, session: WriteSession, crc_at: CrcAt) -> None:
        self._session, self._filesystem, self._crc_at = session, session.filesystem, crc_at
        self._path = session.folder.cursors_path
        self._fd, self._identity = -1, 0
        # Not a look at the file itself: that would slow its next sync (docs/performance.md).
        watching = (self._filesystem, session.folder.fd, session.folder.path)
        self._watch, self._read_watch = FolderWatch(*watching), FolderWatch(*watching)
        self._offsets: dict[str, int] = {}
        self._last: tuple[bytes, Pair] = b"", read_pair(b"")
        self._proved: set[str] = set()  # Names of cursors that are of the history that the store has now.

    # Reading, without a lock

    def position(self, name: str, committed: Callable[[], int]) -> int:
        """Return the position of a cursor, 0 if it does not exist. `committed` returns the committed position."""
        pair, last = None, 0
        for _ in range(_MAX_LOOKS):
            last = committed()  # Before the cursor: a move that comes with an append counts with it.
            if self._read_watch.changed():
                moment = self._read_watch.now()
                self._proved.clear()
                self._read_watch.settle(moment)
            pair = find_pair(read_content(self._filesystem, self._path), name, self._path)
            if pair is None:
                return 0
            place = pair.counting(last)
            if place and place.tip <= last and not any(pair.damaged):
                self._prove(place, last, pair.offset)
                return min(place.position, last)
            give_way()  # Another process is writing it just now.
        assert pair
        place = pair.surviving(last)
        if place is None:
            raise self._lost(name, pair)
        self._warn(pair, place)
        if self._session.state.session:  # Else a recovery is due, which sets the cursor back to the last event.
            self._prove(place, last, pair.offset)
        return min(place.position, last)

    def places(self, committed: Callable[[], int]) -> tuple[int, list[CursorPlace]]:
        """Return (the committed position, where all cursors are). Damaged ones are left out, with a warning."""
        found: dict[str, CursorPlace] = {}
        last = committed()
        for pair in pairs_in(read_content(self._filesystem, self._path)):
            place = pair.surviving(last)
            if place:
                found.setdefault(place.cursor, as_place(place, last))
            elif pair.is_unreadable:
                warnings.warn(CorruptionWarning(str(cursor_damage(self._path, pair.offset, _UNREADABLE))), stacklevel=2)
        return last, list(found.values())

    def _lost(self, name: str, pair: Pair) -> CorruptionError:
        return cursor_damage(self._path, pair.offset, f"cursor {name!r} relies on events that are lost; {_ADVICE}")

    def _warn(self, pair: Pair, place: Place) -> None:
        if any(pair.damaged):
            offset = pair.offset + LINE_BYTES * pair.damaged.index(True)
            cause = (
                f"a line of cursor {place.cursor!r} is damaged; the other one counts, which may be of an earlier move"
            )
            warnings.warn(CorruptionWarning(str(cursor_damage(self._path, offset, cause))), stacklevel=3)

    def _prove(self, place: Place, committed: int, offset: int) -> None:
        """Raise `CorruptionError` unless the place was noted in the history that the store has now.

        It was if the last record of that time is still there. While the store is open, events stay, so one look is
        enough.
        """
        if place.cursor in self._proved:
            return
        crc = None if place.tip > committed else self._crc_at(place.tip, committed) if place.tip else ""
        if place.tip_crc == UNKNOWN or place.tip > committed or crc not in (None, place.tip_crc):
            cause = f"cursor {place.cursor!r} was at position {place.position} of another history; {_ADVICE}"
            raise cursor_damage(self._path, offset, cause)
        self._proved.add(place.cursor)

    # Moving, with the write lock

    def move(self, move: CursorMove) -> int:
        """Make a move. Return the position up to which events must be durable for the move to be."""
        planned = self.plan(move)
        current = planned.current
        appended = min(current.appended, self._session.committed)
        if move.position != current.position or move.back:
            tip = self._tip()
            try:
                self._write(planned, appended, *tip)
                if move.back:  # Both lines, so that damage of one cannot bring the old position back.
                    self._write(self._planned(move, self._read_pair(planned.pair.offset)), appended, *tip)
            except OSError:
                with contextlib.suppress(OSError):  # A part may be written, and count.
                    self._filesystem.write_at(self._fd, encode_place(current) * 2, planned.pair.offset)
                raise
        return max(move.position, appended)

    def _tip(self) -> tuple[int, str]:
        """Return the last position and the checksum of its record; (0, "") if that is unknown."""
        committed, journal = self._session.committed, self._session.journal
        crc = journal.crc_before(journal.size) if journal else ""
        if committed and not crc:  # The journal was just rolled.
            crc = self._crc_at(committed, committed) or ""
        return (committed, crc) if crc else (0, "")

    def plan(self, move: CursorMove) -> Planned:
        """Check a move, which raises what `Cursor.advance` raises, and create the cursor if it does not exist."""
        session = self._session
        pair, actual = None, 0
        try:
            pair = self._find(move.name)
            if pair:
                current = pair.counting(session.committed)
                if current is None:
                    raise self._lost(move.name, pair)
                actual = current.position
                self._prove(current, session.committed, pair.offset)
        except CorruptionError:
            if not move.back:
                raise
        check_move(move, actual, session.committed)
        return self._planned(move, pair or self._create(move.name))

    def _planned(self, move: CursorMove, pair: Pair) -> Planned:
        current = pair.counting(self._session.committed) or pair.whole[0]
        if any(pair.damaged):
            self._warn(pair, current)
        other = pair.offset + LINE_BYTES * (pair.places[0] is current)
        durable = int.from_bytes(self._session.raw[DURABLE * 8 : DURABLE * 8 + 8], sys.byteorder)
        return Planned(move, pair, current, other, durable)

    def move_with(self, planned: Planned, last: int, lines: bytes) -> None:
        """Make a move that counts when the append up to position `last` does. `lines` are the lines of the append."""
        self._write(planned, last, last, lines[-11:-3].decode())

    def take_back(self, planned: Planned) -> None:
        """Take back a move whose append failed."""
        self._filesystem.write_at(self._fd, encode_place(planned.current), planned.offset)

    def _write(self, planned: Planned, appended: int, tip: int, crc: str) -> None:
        move, current = planned.move, planned.current
        number = max(place.move for place in planned.pair.whole) + 1
        if appended <= planned.durable:
            fallback = None
        else:
            fallback = current.state if current.appended <= planned.durable else current.fallback
        made_at = now().decode()
        place = Place(move.name, move.position, made_at, number, tip, crc, current.created, appended, fallback)
        line, pair, second = encode_place(place), planned.pair, planned.offset > planned.pair.offset
        self._filesystem.write_at(self._fd, line, planned.offset)
        self._proved.add(move.name)
        data = self._last[0]  # The pair as `_planned` got it: the next move need not decode what this one wrote.
        if second:
            self._last = data[:LINE_BYTES] + line, Pair(pair.offset, (pair.places[0], place), (pair.damaged[0], False))
        else:
            self._last = line + data[LINE_BYTES:], Pair(pair.offset, (place, pair.places[1]), (False, pair.damaged[1]))

    def delete(self, name: str) -> None:
        """Delete a cursor, durably, if it exists."""
        pair = self._find(name)
        if pair:
            lines = self._filesystem.pread(self._fd, PAIR_BYTES, pair.offset)
            try:
                self._filesystem.write_at(self._fd, BLANK * 2, pair.offset)
            except OSError:
                with contextlib.suppress(OSError):  # Without the newer line, the older one would count.
                    self._filesystem.write_at(self._fd, lines, pair.offset)
                raise
            self._offsets.pop(name, None)
            self._sync()

    # The file

    def _find(self, name: str) -> Pair | None:
        if not self._open():
            return None
        offset = self._offsets.get(name)
        if offset is not None:
            pair = self._read_pair(offset)
            if pair.name == name:
                return pair
        content = self._filesystem.read(self._fd, MAX_CURSORS * PAIR_BYTES, 0)
        found = find_pair(content, name, self._path)
        if found:
            self._offsets[name] = found.offset
        return found

    def _read_pair(self, offset: int) -> Pair:
        data = self._filesystem.pread(self._fd, PAIR_BYTES, offset)
        if data != self._last[0] or offset != self._last[1].offset:
            self._last = data, read_pair(data, offset)
        return self._last[1]

    def _open(self) -> bool:
        """Open the file that is at the path now. Return False if there is none."""
        if self._fd >= 0 and not self._watch.changed():
            return True
        moment = self._watch.now()
        if self._fd < 0 or self._filesystem.identity_at(self._path) != self._identity:
            self.close()
            try:
                self._fd = self._filesystem.open_update(self._path)
            except FileNotFoundError:
                return False
            self._filesystem.sync_folder(os.path.dirname(self._path))  # Who made it may have died before this.
            self._identity = self._filesystem.identity(self._fd)
            if self._filesystem.names(self._fd) > 1:  # The other name, a hard link, keeps the file as it is.
                self._replace(self._filesystem.read(self._fd, MAX_CURSORS * PAIR_BYTES, 0))
        self._watch.settle(moment)
        return True

    def _replace(self, content: bytes) -> None:
        """Replace the file. Other processes see in the folder that it was."""
        self.close()
        self._filesystem.replace_file(self._path, content)
        self._fd = self._filesystem.open_update(self._path)
        self._identity = self._filesystem.identity(self._fd)

    def _create(self, name: str) -> Pair:
        """Create a cursor at position 0, durably: an append that moves it can then be durable by its own sync."""
        session = self._session
        session.sync_journal()
        place = Place(name, 0, now().decode(), 1, created=session.committed)
        text, offset = encode_place(place) * 2, 0
        if self._open():
            content = self._filesystem.read(self._fd, MAX_CURSORS * PAIR_BYTES, 0)
            end = -(-len(content) // PAIR_BYTES) * PAIR_BYTES
            free = (at for at in range(0, end, PAIR_BYTES) if read_pair(content, at, at).is_free)
            offset = next(free, end)
            if offset == MAX_CURSORS * PAIR_BYTES:
                raise ValueError(f"a store has at most {MAX_CURSORS} cursors; delete those that are not used")
            growth = BLANK * ((GROWTH_BYTES - PAIR_BYTES) // LINE_BYTES) if offset == end else b""
            self._filesystem.write_at(self._fd, text + growth, offset)
            self._sync()
        else:
            self._replace(content_of({0: text}))
        self._offsets[name] = offset
        return self._read_pair(offset)

    def _sync(self) -> None:
        try:
            self._filesystem.sync_data(self._fd)
        except OSError as error:
            self._session.state.mark_sync_failed()
            raise SyncError(self._path, str(error)) from error

    def close(self) -> None:
        """Close the file."""
        self._offsets.clear()
        self._proved.clear()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._filesystem.close(fd)


_ADVICE = "call reset(position) with one up to which its events are processed"
_UNREADABLE = "the position of a cursor cannot be read; call reset(position), or repair the store"
