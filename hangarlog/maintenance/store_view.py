"""The view that a check has of a store while others write: what is committed, and which damage is real."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from hangarlog.errors import CorruptionError, HangarlogError
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.recovery.unrecovered import Unrecovered
from hangarlog.filestore.session import session_going_on
from hangarlog.filestore.shared_state import JOURNAL_SIZE, WRITING, SharedState, ring_next
from hangarlog.filestore.store import FileEventStore

Check = Callable[[], list[CorruptionError]]

_MAX_CHECKS = 20
_MAX_LOOKS = 1000


class StoreView:
    """The state of a store that is being checked.

    `store` is given if this process has the store open. The journal is checked up to position `committed`, and streams
    up to position `settled`. The two differ only if no session is in progress, so that the shared state is unknown: a
    crash may have taken later records from the streams. The ring may then have more of the journal. `doubt` is the
    damage that hides where the journal ends, or None.
    """

    def __init__(self, folder: Folder, store_id: str, store: FileEventStore | None = None) -> None:
        self.store_id, self._store = store_id, store
        self._folder, self._journal_path = folder, folder.journal.active_path
        self._state: SharedState | None = None
        self.doubt: CorruptionError | None = None
        if store:
            store.get_event_count()  # Recovers the shared state if it was damaged or replaced.
            store.recover_after_dead_writer()
        with contextlib.suppress(OSError, ValueError):
            self._state = SharedState(folder.filesystem, folder.state_path, folder.home, writable=False)
            last = self._state.last_session
            self._state.session = last if store else session_going_on(folder.filesystem, folder.fd, last)
        published = self.published() if self._state and self._state.valid else None
        if published:
            self.committed = self.settled = self._joined = published[0]
        else:
            self.close()
            found = Unrecovered(folder, store_id)
            self.committed, self.settled, self.doubt = found.stored, found.settled, found.doubt
            self._joined = found.committed

    def close(self) -> None:
        """Close the shared state."""
        if self._state:
            self._state.close()
            self._state = None

    def published(self) -> tuple[int, int, int] | None:
        """Return (committed position, first position of the active journal segment, its committed bytes).

        Return None if the shared state is unknown.
        """
        if self._state:
            for _ in range(_MAX_LOOKS):  # A commit may be publishing them.
                published = self._state.published()
                if published:
                    return published
        return None

    def is_committed(self, position: int) -> bool:
        """True if the record at this position is committed now."""
        published = self.published()
        return position <= (published[0] if published else self.committed)

    def has(self, position: int) -> bool:
        """True if the event at this position is committed now, perhaps by the ring alone."""
        return position <= self._joined or self.is_committed(position)

    @property
    def layout(self) -> int:
        """A number that changes after each roll, compaction and recovery; 0 if the shared state is unknown."""
        return self._state.layout if self._state else 0

    @property
    def ring_next(self) -> tuple[int, int]:
        """(generation, block) of the commit ring's next frame; zeros if the shared state is unknown."""
        return ring_next(self._state.look()) if self._state else (0, 0)

    @property
    def write_in_progress(self) -> bool:
        """True if another process is writing, or died while writing.

        Then bytes after the committed position are not damage: that writer, or the next recovery, deals with them.
        """
        if self._state is None:
            return False
        words = self._state.look()
        if words[WRITING] == os.getpid():
            return False
        return words[WRITING] != 0 or words[JOURNAL_SIZE] != self._folder.filesystem.size_at(self._journal_path)

    def confirm(self, check: Check) -> list[CorruptionError]:
        """Return the damage that `check` finds and that no concurrent write explains.

        The check is repeated until a run sees no write. If writers never pause, it runs under the write lock. If that
        lock is not available, only damage that every run found counts.
        """
        found = _run(check)
        for _ in range(_MAX_CHECKS):
            if not found or self._state is None:
                return found
            before = self._fingerprint()
            with contextlib.suppress(FileNotFoundError):
                places = {(damage.path, damage.offset, damage.cause) for damage in found}
                again = check()
                if not self.write_in_progress and self._fingerprint() == before:
                    return again
                found = [damage for damage in again if (damage.path, damage.offset, damage.cause) in places]
        with self._write_lock() as held:
            return check() if held else found

    def _fingerprint(self) -> tuple[object, ...]:
        """Return words of the shared state that differ after any write."""
        state = self._state
        return (state.published(), state.layout, ring_next(state.look()), state.durable) if state else ()

    @contextlib.contextmanager
    def _write_lock(self) -> Iterator[bool]:
        """Hold the write lock if possible, and yield True if it is held."""
        is_held = False
        with contextlib.ExitStack() as held:
            if self._store:
                with contextlib.suppress(HangarlogError):  # The store may be open for reading only.
                    held.enter_context(self._store.changing_files())
                    is_held = True
            yield is_held


def _run(check: Check) -> list[CorruptionError]:
    """Run `check`. Repeat it if a file disappears during the run, as in a roll or a compaction."""
    for _ in range(_MAX_CHECKS):
        with contextlib.suppress(FileNotFoundError):
            return check()
    return check()
