"""The calls of a file store that follow it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakSet

from hangarlog.errors import OutcomeUnknownError, StorageError, StoreOpenError
from hangarlog.eventstore.engine import StateSlot
from hangarlog.eventstore.queue import Place
from hangarlog.eventstore.record import Event
from hangarlog.filestore.batch_calls import BatchCalls
from hangarlog.filestore.cursor_sync import CursorSync
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.group_sync import JournalSync
from hangarlog.filestore.projection_files import read_state, write_state
from hangarlog.filestore.queues import BytePlace, owner_of
from hangarlog.filestore.reader import Reader
from hangarlog.filestore.running_calls import RunningCalls
from hangarlog.filestore.shared_state import SharedState
from hangarlog.filestore.tail import FileTail


class FollowingCalls(BatchCalls[Event]):
    """The part of a file store that deals with those who follow it."""

    if TYPE_CHECKING:
        folder: Folder
        _reader: Reader
        _state: SharedState
        _sync: JournalSync
        _cursor_sync: CursorSync
        _calls: RunningCalls

        def _refuse_closed(self) -> None: ...
        def _use_files_in_place(self) -> bool: ...
        def recover_after_dead_writer(self) -> None:
            """As `FileEventStore.recover_after_dead_writer`."""

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
        with self._calling():
            tail = FileTail(self, position, durable=durable, skip=skip)
            self._tails.add(tail)
        return tail

    @cached_property
    def _tails(self) -> WeakSet[FileTail]:
        return WeakSet()

    def _wake_tails(self) -> None:
        """Let the subscriptions and waits of this store notice that it was closed."""
        for tail in list(self._tails):
            tail.wake()
        self._wake_cursor_waits()

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

    def _owner_of(self, name: str) -> int | None:
        with self._calling(), self._refusals():
            return owner_of(self.folder.filesystem, self.folder.lock_path("subscribers"), name)
