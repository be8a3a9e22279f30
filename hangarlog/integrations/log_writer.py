"""Writes what threads log: at once, together with what other threads log meanwhile; or a moment later, in batches.

Without `linger`, a record is in the store when `write` returns: nothing waits in memory for an exit, a fork or a kill.
With it, records wait so many seconds at most, and are written before a fork, and at the end of the process: the thread
that writes them is one that Python waits for, also in a child of multiprocessing, which calls no exit handlers.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Any

from hangarlog.errors import (
    CorruptionError,
    HangarlogError,
    OutcomeUnknownError,
    StorageError,
    StoreBusyError,
    StoreOpenError,
)
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.engine import Durability
from hangarlog.eventstore.expected_version import ANY
from hangarlog.filestore.store import FileEventStore
from hangarlog.opening import folder_path
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import Encoded
from hangarlog.record.event_id import new_event_id

_MAX_BATCH = 1000
_MAX_LINGER, _STEP = 60.0, 0.05
LOCK_TIMEOUT = 10.0
"""Seconds that a record waits for other processes at most. A log should not stop its program for a minute."""

_STORE_FAILURES = (StorageError, StoreBusyError, StoreOpenError, OutcomeUnknownError, CorruptionError, OSError)
"""No record of a batch is their cause: to try each by itself might wait as long again for each."""

Store = str | os.PathLike[str] | EventStore[Any]
Failed = Callable[[], None]
"""Called within the `except` block of what kept a record from being stored."""


class _Entry:
    """A record that waits to be written. With `in_doubt`, an append of it may have been cut short."""

    __slots__ = ("event", "failed", "in_doubt", "is_done", "stream_id")

    def __init__(self, stream_id: str, event: Encoded, failed: Failed) -> None:
        self.stream_id, self.event, self.failed = stream_id, event, failed
        self.is_done = self.in_doubt = False


class LogWriter:
    """Writes to a store, which is given open, or as its path. That one is opened when it is needed, and closed."""

    def __init__(self, store: Store, durability: Durability | float | None, linger: float = 0.0) -> None:
        if not 0 <= linger <= _MAX_LINGER:
            raise ValueError(f"linger must be a number of seconds from 0 to {_MAX_LINGER:g}, not {linger!r}")
        self._linger = linger
        self._path = None if isinstance(store, EventStore) else os.path.abspath(folder_path(store))
        self._store = store if isinstance(store, EventStore) else None
        self._durability = durability if durability or self._store else "relaxed"
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        self._waiting = deque[_Entry]()
        self._writing = threading.RLock()  # A signal's handler may log at any moment.
        self._writer = 0  # The thread that writes.
        self._later: threading.Thread | None = None

    def open(self) -> EventStore[Any]:
        """Return the store. Raises what opening one raises."""
        if self._store is None:
            assert self._path is not None
            durability = self._durability or "relaxed"
            self._store = FileEventStore.untyped(self._path, durability=durability, lock_timeout=LOCK_TIMEOUT)
        return self._store

    def write(
        self, stream_id: str, event_type: str, data: bytes, time: str | None, failed: Failed, *, now: bool = False
    ) -> None:
        """Write a record. It is in the store, or `failed` was called, when this returns, unless records linger.

        With `now`, this one does not linger. If this thread is in a call of the store (which warns, and warnings are
        logged), the record is written a moment later.
        """
        entry = _Entry(stream_id, (event_type, new_event_id(), data, time, None), failed)
        self._waiting.append(entry)
        if self._is_in_call():
            if self._writer != threading.get_ident():  # Or a store that warns at each append would never rest.
                self._write_later()
        elif now or not self._linger or len(self._waiting) >= _MAX_BATCH or not self._write_later():
            self._drain(entry)

    def _write_later(self) -> bool:
        """Let a thread write what waits. Return False if none can be started any more."""
        if self._later is None:
            self._later = threading.Thread(target=self._linger_and_drain, name="hangarlog-logging")
            try:
                self._later.start()
            except RuntimeError:  # The process ends, or has too many.
                self._later = None
                return False
        return True

    def _linger_and_drain(self) -> None:
        until, main, me = monotonic() + (self._linger or _STEP), threading.main_thread(), threading.current_thread()
        while self._later is me and main.is_alive() and (left := until - monotonic()) > 0:
            sleep(min(left, _STEP))
        if self._later is me:
            self._later = None  # What comes from now on starts another thread.
        self._drain(None)

    def flush(self) -> None:
        """Write what waits."""
        self._later = None
        if self._waiting:
            self._drain(None)

    def close(self) -> None:
        """Write what waits, and close the store if it was given as a path. A later record opens it again."""
        for _ in range(2):  # The close may warn.
            self.flush()
            if self._path is not None and self._store is not None and not self._is_in_call():
                with self._writing:
                    self._writer, store, self._store = threading.get_ident(), self._store, None
                    try:
                        store.close()
                    finally:
                        self._writer = 0

    def _is_in_call(self) -> bool:
        """True if this thread is in a call of the store, and may hold its locks."""
        calls = getattr(self._store, "_calls", None)
        return self._writer == threading.get_ident() or (calls is not None and threading.get_ident() in calls.running)

    def _drain(self, entry: _Entry | None) -> None:
        if self._is_in_call():
            return
        with self._writing:
            if entry and entry.is_done:
                return  # Another thread took it along.
            self._writer = threading.get_ident()
            try:
                self._write_waiting()
                self._write_waiting()  # What the first has logged. What this one logs waits, or it would never end.
            finally:
                self._writer = 0

    def _write_waiting(self) -> None:
        left = len(self._waiting)
        while left > 0:
            batch = [self._waiting[number] for number in range(min(left, _MAX_BATCH))]
            left -= len(batch)
            in_doubt = any(entry.in_doubt for entry in batch)
            for entry in batch:
                entry.in_doubt = True  # Until it is out of the queue: Ctrl-C may come at any moment.
            try:
                self._append(batch, idempotent=in_doubt)
            except _STORE_FAILURES:
                _fail(batch)
            except Exception:  # One of them may be too large.
                self._one_by_one(batch)
            for entry in batch:
                entry.is_done = True
                self._waiting.popleft()

    def _one_by_one(self, batch: list[_Entry]) -> None:
        for number, entry in enumerate(batch):
            try:
                self._append([entry], idempotent=True)  # It may have been written.
            except _STORE_FAILURES:
                _fail(batch[number:])
                return
            except Exception:
                _fail([entry])

    def _append(self, batch: Sequence[_Entry], *, idempotent: bool) -> None:
        store = self.open()
        if idempotent and len(batch) > 1:
            for entry in batch:
                self._append([entry], idempotent=True)
            return
        pendings = list[Pending]()
        for entry in batch:
            if pendings and pendings[-1].stream_id == entry.stream_id:
                pendings[-1].events.append(entry.event)
            else:
                pendings.append(Pending(entry.stream_id, [entry.event], ANY, retry=False, idempotent=idempotent))
        wanted: Any = None if self._path else self._durability
        try:
            store._commit(pendings, wanted)
        except StoreOpenError:  # Its folder was moved or deleted, as logs are.
            if self._path is None:
                raise
            self._store = None
            with contextlib.suppress(HangarlogError):
                store.close()
            self.open()._commit(pendings, wanted)


def _fail(entries: list[_Entry]) -> None:
    """Tell of entries that could not be stored, within the `except` block of the cause."""
    for entry in entries:
        with contextlib.suppress(Exception):  # The application goes on.
            entry.failed()


_writers: weakref.WeakSet[LogWriter] = weakref.WeakSet()


def _flush_before() -> None:
    """Before a fork: what waits is written by the parent, so a child has no part of it."""
    for writer in [*_writers]:
        writer.flush()


def _begin_in_child() -> None:
    """After a fork: what waits is the parent's to write, and the thread that wrote is not here."""
    for writer in [*_writers]:
        writer._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_flush_before, after_in_child=_begin_in_child)
