"""When checkpoints are made: in the background as the journal grows, and by the last process that closes the store."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from hangarlog.errors import HangarlogError
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.shared_state import FAILURES, TAIL, WRITING, SharedState, consistent
from hangarlog.log.log import Log
from hangarlog.log.time_search import note_sealed
from hangarlog.system.import_lock import importing

_REPLAYED_IN_TIME_BYTES = 6 << 20
"""A checkpoint is due after this many bytes of journal, which a recovery reads in 0.1 s. Streams count as bytes too."""

_REPLAYED_AT_ONCE_BYTES = 256 << 10
"""The most bytes that the last process to close a store leaves to replay. A recovery reads them in 2 ms."""

_MOST_LOGS, _MOST_SEGMENTS = 64, 64
"""Of so many logs, the times of so many segments are noted after a checkpoint. Reads find those of others."""


class Checkpointing:
    """The checkpoints of one store, in this process. All calls but `begin` need the write lock."""

    def __init__(self, folder: Folder, state: SharedState) -> None:
        self._folder, self._state = folder, state
        self._running: threading.Thread | None = None
        self._sealed: dict[str, tuple[Log, list[int]]] = {}  # By base: the log, and its segments without noted times.
        self._latest: dict[str, int] = {}  # By base: the segment noted last.
        self.due = False
        """True if a checkpoint is due after the current commit."""
        self.afterwards: Callable[[], None] = lambda: None
        """Called in the background after a checkpoint."""

    def tail_after(self, tail: int, added: int) -> int:
        """Return the bytes to replay after a commit of `added` bytes; 0 if a checkpoint is due now."""
        tail += added
        if tail < _REPLAYED_IN_TIME_BYTES:
            return tail
        self.due = True
        return 0

    def begin(self) -> None:
        """Make a checkpoint in the background, unless one is being made."""
        if not (self._running and self._running.is_alive()):
            self._running = self._folder.filesystem.in_background(self._make_and_go_on, "hangarlog-checkpoint")

    def sealed(self, log: Log, first: int) -> None:
        """Have the recorded times of a segment that was just sealed noted in the background."""
        _, firsts = self._sealed.get(log.base, (log, []))
        if len(firsts) < _MOST_SEGMENTS and (firsts or len(self._sealed) < _MOST_LOGS):
            self._sealed[log.base] = log, [*firsts, first]

    def _make_and_go_on(self) -> None:
        self.make()
        while self._sealed:
            try:
                base, (log, firsts) = self._sealed.popitem()
            except KeyError:  # The store is being closed.
                break
            # Once more the one before: the file of all of a log's sealed segments does not take the very latest.
            before = self._latest.pop(base, None)
            if len(self._latest) < _MOST_LOGS:
                self._latest[base] = firsts[-1]
            with contextlib.suppress(OSError, HangarlogError):
                note_sealed(log, firsts if before is None else [before, *firsts])
        self.afterwards()

    def make(self, seconds: float | None = 0) -> None:
        """Bring the streams to the device, so that a recovery has little to replay.

        If another process does so for `seconds`, do nothing.
        """
        with importing:
            from hangarlog.filestore.checkpoint import make_checkpoint
        make_checkpoint(self._folder.filesystem, self._folder, self._state, seconds)

    def make_last(self) -> None:
        """Make a checkpoint if the next process to open the store would have much to replay."""
        words = self._state.look()
        quiet = self._state.believes(words) and consistent(words) and not words[WRITING] and not words[FAILURES]
        if quiet and words[TAIL] > _REPLAYED_AT_ONCE_BYTES:
            self.make()

    def end(self, seconds: float | None) -> None:
        """Wait for the checkpoint that is being made. Times that are not noted yet are left to reads."""
        self._sealed.clear()
        self.wait(seconds)

    def wait(self, seconds: float | None) -> None:
        """Wait for what runs in the background."""
        running = self._running
        # A finalizer may run in that thread too.
        if running and running is not threading.current_thread():
            running.join(seconds)
