"""The calls of a file store that deal with cursors."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from hangarlog.errors import EventsDroppedError
from hangarlog.eventstore import engine
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.record import Event
from hangarlog.eventstore.selection import Span
from hangarlog.filestore.cursor_sync import CursorSync
from hangarlog.filestore.cursor_waiting import await_cursors
from hangarlog.filestore.cursors import Cursors
from hangarlog.filestore.group_sync import JournalSync
from hangarlog.filestore.reader import Reader
from hangarlog.filestore.shared_state import FAILURES, SharedState, covers
from hangarlog.filestore.write_session import WriteSession
from hangarlog.record.cursor_move import CursorMove, CursorPlace
from hangarlog.system.file_lock import FileLock


class CursorCalls(EventStore[Event]):
    """The part of a file store that deals with cursors."""

    if TYPE_CHECKING:
        _reader: Reader
        _durability: engine.Durability | float
        _sync: JournalSync
        _write_session: WriteSession

        @abstractmethod
        def _committed(self) -> int: ...
        @abstractmethod
        def _refusals(self) -> AbstractContextManager[None]: ...
        @abstractmethod
        def _sync_later(self, seconds: float) -> None: ...

    def _begin_cursors(self, session: WriteSession, reader: Reader, store_id: str, sync_lock: FileLock) -> None:
        self._cursors = Cursors(session, partial(_crc_at, reader, session.state))
        self._cursor_sync = CursorSync(
            session.folder, store_id, session.state, sync_lock, session.rejoin, session.lock_seconds
        )

    def _close_cursors(self, seconds: float | None) -> None:
        self._cursor_sync.close(seconds)
        self._cursors.close()

    @property
    def first_position(self) -> int:
        """As `EventStore.first_position`."""
        with self._calling(), self._refusals():
            self._committed()
            return self._reader.begins()

    @property
    def last_position(self) -> int:
        """As `EventStore.last_position`."""
        with self._calling(), self._refusals():
            return self._committed()

    def _cursor_position(self, name: str) -> int:
        with self._calling(), self._refusals():
            return self._cursors.position(name, self._committed)

    def _cursor_places(self) -> tuple[int, list[CursorPlace]]:
        with self._calling(), self._refusals():
            return self._cursors.places(self._committed)

    def _move_cursor(self, move: CursorMove, durability: engine.Durability | None = None) -> None:
        wanted, session = durability or self._durability, self._write_session
        with self._calling():
            with session.lock():
                needed = self._cursors.move(move)
                words = session.state.look() if wanted == "always" else ()
            session.state.wake_cursor_waiters()
            if words:
                if not covers(words, needed):
                    self._sync.ensure(needed, words[FAILURES])
                self._cursor_sync.ensure_moved(words)
                return
            self._cursor_sync.pending = True
            if wanted != "relaxed":
                self._sync_later(float(wanted))

    def _await_cursors(self, reached: Callable[[], bool], seconds: float) -> bool:
        return await_cursors(self._write_session.state, reached, self._calling, seconds)

    def _wake_cursor_waits(self) -> None:
        self._write_session.state.wake_cursor_waiters()

    def _delete_cursor(self, name: str) -> None:
        with self._calling(), self._write_session.lock():
            self._cursors.delete(name)


def _crc_at(reader: Reader, state: SharedState, position: int, committed: int) -> str | None:
    """Return the checksum of the record at a position, None if it is unknown."""
    reader.layout = state.layout
    span, record = Span(None, position - 1, limit=1, skip=True), None
    with contextlib.suppress(EventsDroppedError):
        record = next((block[0] for block in reader.blocks(span, committed)), None)
    return record.crc if record and record.position == position else None
