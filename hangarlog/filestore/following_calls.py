"""The calls of a file store that follow it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakSet

from hangarlog.eventstore.queue import Place
from hangarlog.eventstore.record import Event
from hangarlog.filestore.cursor_calls import CursorCalls
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.queues import BytePlace
from hangarlog.filestore.reader import Reader
from hangarlog.filestore.running_calls import RunningCalls
from hangarlog.filestore.shared_state import SharedState
from hangarlog.filestore.tail import FileTail


class FollowingCalls(CursorCalls[Event]):
    """The part of a file store that deals with those who follow it."""

    if TYPE_CHECKING:
        folder: Folder
        _reader: Reader
        _state: SharedState
        _calls: RunningCalls

        def _refuse_closed(self) -> None: ...
        def recover_after_dead_writer(self) -> None:
            """As `FileEventStore.recover_after_dead_writer`."""

    def _tail(self, position: int | None, *, durable: bool, skip: bool) -> FileTail:
        tail = FileTail(self, position, durable=durable, skip=skip)
        self._tails.add(tail)
        return tail

    @cached_property
    def _tails(self) -> WeakSet[FileTail]:
        return WeakSet()

    def _wake_tails(self) -> None:
        """Let the subscriptions of this store notice that it was closed."""
        for tail in list(self._tails):
            tail.wake()

    @property
    def _follows_durable(self) -> bool:
        return self._durability != "relaxed"

    def _queue_for(self, name: str) -> Place:
        with self._calling(), self._refusals():
            return BytePlace(self.folder.filesystem, self.folder.lock_path("subscribers"), name)
