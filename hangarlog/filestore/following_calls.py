"""The calls of a file store that follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hangarlog.errors import StorageError
from hangarlog.eventstore.engine import StateSlot
from hangarlog.eventstore.queue import Place
from hangarlog.eventstore.record import Event
from hangarlog.filestore.cursor_calls import CursorCalls
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.projection_files import read_state, write_state
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

    def _tail(self, position: int | None, *, durable: bool, skip: bool) -> FileTail:
        return FileTail(self, position, durable=durable, skip=skip)

    @property
    def _follows_durable(self) -> bool:
        return self._durability != "relaxed"

    def _read_state(self, name: str, slot: StateSlot, size: int | None = None) -> bytes | None:
        with self._calling(), self._refusals():
            return read_state(self.folder, name, slot, size)

    def _write_state(self, name: str, slot: StateSlot, content: bytes | None, *, sync: bool) -> None:
        with self._calling():
            try:
                write_state(self.folder, name, slot, content, sync=sync)
            except OSError as error:
                raise StorageError(self.folder.path, error.errno, str(error)) from error

    def _queue_for(self, name: str) -> Place:
        with self._calling(), self._refusals():
            return BytePlace(self.folder.filesystem, self.folder.lock_path("subscribers"), name)
