"""What a check of a store may believe while others write to it: how far it is committed, what only looks damaged."""

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

Look = Callable[[], list[CorruptionError]]

_MAX_LOOKS = 20


class StoreView:
    """A store that is being checked, opened as `store` or not at all.

    Up to position `committed` its journal is checked, and its streams up to `settled`: where the shared state says
    nothing, because nobody has opened the store since the machine started, a crash may have taken what comes after, and
    `doubt` is what keeps one from saying how far the journal goes.
    """

    def __init__(self, folder: Folder, store_id: str, store: FileEventStore | None = None) -> None:
        self.store_id, self._store = store_id, store
        self._folder, self._journal_path = folder, folder.journal.live_path
        self._state: SharedState | None = None
        self.doubt: CorruptionError | None = None
        if store:
            store.get_event_count()  # Which recovers what somebody has done to the shared state.
            store.finish_for_the_dead()
        with contextlib.suppress(OSError, ValueError):
            self._state = SharedState(folder.filesystem, folder.state_path, folder.home, writable=False)
            last = self._state.last_session
            going_on = last if store else session_going_on(folder.filesystem, folder.fd, last)
            self._state.session = going_on
        now = self.now() if self._state and self._state.valid else None
        if now:
            self.committed = self.settled = now[0]
        else:
            self.close()
            found = Unrecovered(folder, store_id)
            self.committed, self.settled, self.doubt = found.stored, found.settled, found.doubt

    def close(self) -> None:
        """Let go of the shared state."""
        if self._state:
            self._state.close()
            self._state = None

    def now(self) -> tuple[int, int, int] | None:
        """(committed position, first one of the live journal segment, its size) as of now; None: nobody knows."""
        for _ in range(1000 if self._state else 0):
            assert self._state
            published = self._state.published()
            if published:
                return published
        return None

    def is_committed(self, position: int) -> bool:
        """Whether a record at this position is committed by now."""
        now = self.now()
        return position <= (now[0] if now else self.committed)

    @property
    def layout(self) -> int:
        """A number that changes after each roll, compaction and recovery; 0 where nobody knows."""
        return self._state.layout if self._state else 0

    @property
    def ring_next(self) -> tuple[int, int]:
        """(generation, block) of the commit ring's next frame; zeros where nobody knows."""
        return ring_next(self._state.look()) if self._state else (0, 0)

    @property
    def settling(self) -> bool:
        """Whether another process is writing, or died at it: what is behind the committed position is its affair."""
        if self._state is None:
            return False
        words = self._state.look()
        if words[WRITING] == os.getpid():
            return False
        return words[WRITING] != 0 or words[JOURNAL_SIZE] != self._folder.filesystem.size_at(self._journal_path)

    def confirmed(self, look: Look) -> list[CorruptionError]:
        """What `look` finds while nobody writes, or else finds at every look, in the end with the write lock held."""
        found = _while_files_go(look)
        for _ in range(_MAX_LOOKS):
            if not found or self._state is None:
                return found
            before = self._moment()
            with contextlib.suppress(FileNotFoundError):
                places = {(damage.path, damage.offset, damage.cause) for damage in found}
                again = look()
                if not self.settling and self._moment() == before:
                    return again
                found = [damage for damage in again if (damage.path, damage.offset, damage.cause) in places]
        with self._held() as held:
            return look() if held else found

    def _moment(self) -> tuple[object, ...]:
        state = self._state
        return (state.published(), state.layout, ring_next(state.look()), state.durable) if state else ()

    @contextlib.contextmanager
    def _held(self) -> Iterator[bool]:
        """The write lock, if it is to be had: says whether it is."""
        is_held = False
        with contextlib.ExitStack() as held:
            if self._store:
                with contextlib.suppress(HangarlogError):  # It may only be read here.
                    held.enter_context(self._store.changing_files())
                    is_held = True
            yield is_held


def _while_files_go(look: Look) -> list[CorruptionError]:
    """What `look` finds, made again where a file goes meanwhile: others roll and compact."""
    for _ in range(_MAX_LOOKS):
        with contextlib.suppress(FileNotFoundError):
            return look()
    return look()
