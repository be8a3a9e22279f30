"""A look at a store from outside: what several checks need, read once. It writes nothing and takes no lock."""

from __future__ import annotations

import contextlib
import os
import re
import time
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple

from hangarlog.errors import CorruptionError, HangarlogError
from hangarlog.filestore.folder import Folder, Meta
from hangarlog.filestore.session import session_going_on
from hangarlog.filestore.shared_state import SharedState
from hangarlog.log.segment import Segment
from hangarlog.record.line import StoredEnvelope
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.mounts import unsafe_mounts
from hangarlog.system.read_only import ReadOnly

_sealed_name = re.compile(r"journal\.(\d{20})\.jsonl(?:\.[a-z]+)?", re.ASCII).fullmatch
_MAX_LOOKS = 100


class SealedFile(NamedTuple):
    """A sealed segment of the journal: the number of its first record, its path, and its bytes on the disk."""

    first: int
    path: str
    size: int


class Look:
    """A store as its files and the system show it.

    `meta` is None if the folder is no store, and `refused` is then why. `skipped` says what was left out to be quick.
    """

    def __init__(self, path: str, *, thorough: bool = False, filesystem: FileSystem | None = None) -> None:
        self.filesystem = filesystem or ReadOnly()
        self.folder = Folder(self.filesystem, path)
        self.path, self.thorough = self.folder.path, thorough
        self.now = time.time()
        self.skipped: list[str] = []
        self.meta: Meta | None = None
        self.refused: HangarlogError | OSError | None = None
        try:
            self.folder.enter()
            accepted = ",".join(kind for _, kind in unsafe_mounts(self.filesystem))
            self.meta = self.folder.open(1, create=False, unsafe_file_system=accepted)
        except (HangarlogError, OSError) as error:
            self.refused = error

    def close(self) -> None:
        """Close the files."""
        if "state" in vars(self) and self.state:
            self.state.close()
        self.folder.close()

    @property
    def is_folder(self) -> bool:
        """True if there is a folder to look at."""
        return os.path.isdir(self.path)

    @cached_property
    def state(self) -> SharedState | None:
        """The shared state, None if it cannot be read. Its session is set if processes have the store open."""
        if not (self.meta and self.filesystem.is_there(self.folder.state_path)):
            return None
        with contextlib.suppress(OSError, ValueError):
            state = SharedState(self.filesystem, self.folder.state_path, self.folder.home, writable=False)
            state.session = session_going_on(self.filesystem, self.folder.fd, state.last_session)
            return state
        return None

    @property
    def is_in_use(self) -> bool:
        """True if a process takes part in the session of the store, so that the shared state is right."""
        return self.state is not None and self.state.valid

    def published(self) -> tuple[int, int, int] | None:
        """Return (committed position, first position and size of the active journal segment); None if unknown."""
        if self.state and self.state.valid:
            for _ in range(_MAX_LOOKS):  # A commit may be publishing them.
                if published := self.state.published():
                    return published
        return None

    @cached_property
    def sealed(self) -> list[SealedFile]:
        """The sealed segments of the journal, in order; compressed ones, too."""
        files: dict[int, SealedFile] = {}
        for entry in self.filesystem.entries(self.path):
            match = _sealed_name(entry.name)
            if match and entry.is_file():
                file = SealedFile(int(match[1]), entry.path, entry.stat().st_size)
                files[file.first] = min(files.get(file.first, file), file, key=lambda each: each.size)
        return [files[first] for first in sorted(files)]

    def open_sealed(self, first: int) -> Segment:
        """Open a sealed segment of the journal. Raises `FileNotFoundError` if it is gone by now."""
        return self.folder.journal.open_sealed(first)

    @cached_property
    def last_record(self) -> StoredEnvelope | None:
        """The last whole record of the journal, None if it has none. Raises `CorruptionError` if it is damaged."""
        active = self.folder.journal.open_active()
        if active:
            with contextlib.closing(active):
                if active.first_record() is not None:
                    return active.last_whole()
        if self.sealed:
            with contextlib.closing(self.open_sealed(self.sealed[-1].first)) as segment:
                return segment.last_whole()
        return None

    @property
    def committed(self) -> int:
        """The last committed position, or what comes close to it if nobody has the store open."""
        published = self.published()
        if published:
            return published[0]
        return self.last_record.position if self.last_record else 0

    @cached_property
    def journal_bytes(self) -> int:
        """The bytes of the journal's segments on the disk."""
        active = 0
        with contextlib.suppress(FileNotFoundError):
            active = self.filesystem.size_at(self.folder.journal.active_path)
        return active + sum(file.size for file in self.sealed)

    def record_at(self, position: int) -> StoredEnvelope | None:
        """Return the record at a position, or the first one after it; None if there is none.

        Raises `CorruptionError`.
        """
        for block in self.folder.journal.forward(position, 1):
            return block[0]
        return None


def seconds_of(recorded_at: str) -> float | None:
    """Return a time of a record in seconds since 1970, None if it is not in any form that is understood."""
    with contextlib.suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(recorded_at)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None


def damage_of(error: CorruptionError) -> tuple[str, str]:
    """Return (path, cause) of damage."""
    return error.path, f"offset {error.offset}: {error.cause}"
