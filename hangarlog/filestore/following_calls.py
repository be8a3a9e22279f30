"""The calls of a file store that follow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hangarlog.errors import OutcomeUnknownError, StoreOpenError
from hangarlog.eventstore.queue import Place
from hangarlog.eventstore.record import Event
from hangarlog.filestore.cursor_calls import CursorCalls
from hangarlog.filestore.cursor_sync import CursorSync
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.group_sync import JournalSync
from hangarlog.filestore.queues import BytePlace
from hangarlog.filestore.reader import Reader
from hangarlog.filestore.shared_state import SharedState
from hangarlog.filestore.tail import FileTail


class FollowingCalls(CursorCalls[Event]):
    """The part of a file store that deals with those who follow it."""

    if TYPE_CHECKING:
        folder: Folder
        _reader: Reader
        _state: SharedState
        _sync: JournalSync
        _cursor_sync: CursorSync

    def _sync_from_here(self) -> Callable[[bool], None]:
        with self._calling(), self._refusals():
            failures = self._state.failures

        def sync(cursors: bool) -> None:
            try:
                with self._calling():
                    self._sync.ensure_committed(failures)
                    if cursors:
                        self._cursor_sync.ensure_pending()
            except StoreOpenError as error:
                raise OutcomeUnknownError(
                    self.folder.path, "it is written, but not synced: the store was closed"
                ) from error

        return sync

    def _tail(self, position: int | None, *, durable: bool, skip: bool) -> FileTail:
        return FileTail(self, position, durable=durable, skip=skip)

    @property
    def _follows_durable(self) -> bool:
        return self._durability != "relaxed"

    def _queue_for(self, name: str) -> Place:
        with self._calling(), self._refusals():
            return BytePlace(self.folder.filesystem, self.folder.lock_path("subscribers"), name)
