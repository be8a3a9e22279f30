"""The vital signs of a store, read without opening it: nothing is locked, recovered or written.

They come from the shared state, the journal's last line, the cursors and the sizes of files. What cannot be read is
None, and `problems` says why: also a damaged store tells what it can.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from hangarlog.errors import CorruptionError, StoreFormatError, StoreOpenError
from hangarlog.filestore.folder import Folder, Meta
from hangarlog.system.read_only import ReadOnly
from hangarlog.watching.journal_signs import JournalFiles, first_of_active, journal_files, last_event, seconds_of
from hangarlog.watching.state_signs import StateSigns, read_state
from hangarlog.watching.store_files import StoreFiles, scan_files
from hangarlog.watching.subscriber_signs import SubscriberSigns, read_subscribers

_Result = TypeVar("_Result")


class Space(msgspec.Struct, frozen=True):
    """The file system: its bytes, and those that this user may still write."""

    size: int
    free: int


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """The vital signs of a store at one moment. None stands for what cannot be told.

    Attributes:
        path: The folder.
        at: When they were read, in seconds since 1970.
        meta: The settings in `hangarlog.json`.
        state: What the shared state says.
        committed: The position of the last event.
        first: The position of the first event that the journal still has; 1 if it has all.
        last_at: When the last event was recorded, in seconds since 1970.
        journal: The segments of the journal.
        files: All files; None unless asked for.
        subscribers: How each named subscriber is doing, sorted by name.
        space: The file system.
        problems: What could not be read, and why.
    """

    path: str
    at: float
    meta: Meta | None = None
    state: StateSigns = StateSigns()
    committed: int | None = None
    first: int = 1
    last_at: float | None = None
    journal: JournalFiles | None = None
    files: StoreFiles | None = None
    subscribers: tuple[SubscriberSigns, ...] = ()
    space: Space | None = None
    problems: tuple[str, ...] = ()

    @property
    def events(self) -> int | None:
        """The number of events that the journal still has."""
        return None if self.committed is None else max(0, self.committed - self.first + 1)

    @property
    def unsynced(self) -> int | None:
        """The number of events that no sync has covered; None if no writer has the store open."""
        state = self.state
        if not state.is_believed or state.committed is None or state.durable is None:
            return None
        return state.committed - state.durable


def read_vitals(path: str | os.PathLike[str], *, files: bool = False, largest: int = 0) -> Vitals:
    """Return the vital signs of the store at `path`.

    With `files`, list all of its files, and name the `largest` streams: this takes a second for 100,000 streams.

    Raises:
        StoreOpenError: there is no store, or it cannot be read at all.
    """
    folder = Folder(ReadOnly(), os.fspath(path))
    with contextlib.closing(folder):
        return _Reading(folder).read(files, largest)


def files_of(path: str, largest: int) -> StoreFiles | None:
    """Return the files of the store at `path`, None if they cannot be listed."""
    with contextlib.suppress(OSError), contextlib.closing(Folder(ReadOnly(), path)) as folder:
        folder.enter()
        return scan_files(folder, largest)
    return None


class _Reading:
    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._problems: list[str] = []

    def read(self, files: bool, largest: int) -> Vitals:
        folder, now = self._folder, time.time()
        meta = self._enter()
        state = self._tried("the shared state", lambda: read_state(folder)) or StateSigns()
        if state.problem:
            self._problems.append(state.problem)
        journal = self._tried("the journal's folder", lambda: journal_files(folder))
        committed, last_at = self._end(state, journal)
        first = (journal.first if journal else None) or state.journal_first or first_of_active(folder) or 1
        subscribers, lost = self._tried("cursors.jsonl", lambda: read_subscribers(folder, committed, first, now)) or (
            (),
            [],
        )
        return Vitals(
            path=folder.path,
            at=now,
            meta=meta,
            state=state,
            committed=committed,
            first=first,
            last_at=last_at,
            journal=journal,
            files=self._tried("a folder", lambda: scan_files(folder, largest)) if files else None,
            subscribers=subscribers,
            space=self._tried("the file system", lambda: _space(folder.path)),
            problems=(*self._problems, *lost),
        )

    def _enter(self) -> Meta | None:
        """Enter the folder. Return its settings, None if they cannot be read. Raises `StoreOpenError`."""
        folder, filesystem = self._folder, self._folder.filesystem
        try:
            if not stat.S_ISDIR(os.stat(folder.path).st_mode):
                raise StoreOpenError(folder.path, "it is a file; a store is a folder")
            folder.enter()
            has_settings = filesystem.is_there(folder.meta_path)
            if not (has_settings or filesystem.is_there(folder.journal.active_path)):
                raise StoreOpenError(folder.path, "it is not a store: it has no hangarlog.json")
        except (FileNotFoundError, NotADirectoryError):
            raise StoreOpenError(folder.path, "there is no such folder") from None
        except OSError as error:
            raise StoreOpenError(folder.path, f"it cannot be read: {error.strerror}; run this as its user") from error
        if not has_settings:
            self._problems.append("hangarlog.json is missing")
            return None
        folder.home = filesystem.made_at(folder.meta_path)
        try:
            return self._tried("hangarlog.json", folder.settings)
        except StoreFormatError as error:
            self._problems.append(error.cause)
            return None

    def _tried(self, what: str, read: Callable[[], _Result]) -> _Result | None:
        try:
            return read()
        except CorruptionError as error:
            self._problems.append(str(error))
        except OSError as error:
            self._problems.append(f"{what} cannot be read: {error.strerror}")
        return None

    def _end(self, state: StateSigns, journal: JournalFiles | None) -> tuple[int | None, float | None]:
        """Return (the committed position, when its event was recorded).

        The words count while a writer has the store open, or if nobody has written to the journal since.
        """
        if journal and journal.active_bytes is None:
            self._problems.append("journal.jsonl is missing; run `hangarlog repair`")
        known = state.is_believed or (journal is not None and state.journal_size == journal.active_bytes)
        committed = state.committed if known else None
        if committed == 0:
            return 0, None
        last = self._tried("the journal", lambda: last_event(self._folder, committed))
        if committed is None:
            committed = last.position if last else 0 if journal and not journal.bytes else None
        return committed, seconds_of(last.recorded_at) if last else None


def _space(path: str) -> Space | None:
    if not hasattr(os, "statvfs"):
        return None
    found = os.statvfs(path)
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
