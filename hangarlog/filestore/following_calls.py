"""The calls of a file store that follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hangarlog.eventstore.queue import Place
from hangarlog.eventstore.record import Event
from hangarlog.filestore.cursor_calls import CursorCalls
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.queues import BytePlace, owner_of
from hangarlog.filestore.reader import Reader
from hangarlog.filestore.shared_state import SharedState
from hangarlog.filestore.tail import FileTail


class FollowingCalls(CursorCalls[Event]):
    """The part of a file store that deals with those who follow it."""

    if TYPE_CHECKING:
        folder: Folder
        _reader: Reader
        _state: SharedState

    def _tail(self, position: int | None, *, durable: bool, skip: bool) -> FileTail:
        return FileTail(self, position, durable=durable, skip=skip)

    @property
    def _follows_durable(self) -> bool:
        return self._durability != "relaxed"

    def _queue_for(self, name: str) -> Place:
        with self._calling(), self._refusals():
            return BytePlace(self.folder.filesystem, self.folder.lock_path("subscribers"), name)

    def _owner_of(self, name: str) -> int | None:
        with self._calling(), self._refusals():
            return owner_of(self.folder.filesystem, self.folder.lock_path("subscribers"), name)
