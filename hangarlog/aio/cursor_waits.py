"""One thread that waits for cursors, for all tasks that do."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from typing import Any

from hangarlog.aio.threads import settle
from hangarlog.eventstore.base import EventStore

_PATIENCE_SECONDS = 1.0
"""Seconds after which the thread looks whether anybody still waits."""


class CursorWaits:
    """The waits of a store's tasks for its cursors."""

    def __init__(self, store: EventStore[Any]) -> None:
        self._store = store
        self._changed = threading.Lock()
        self._waiting: list[tuple[str, int, Future[bool]]] = []
        self._thread: threading.Thread | None = None

    def put(self, name: str, position: int) -> Future[bool]:
        """Return what becomes true when the cursor `name` gets to `position`. Cancel it to wait no more."""
        future: Future[bool] = Future()
        with self._changed:
            self._waiting.append((name, position, future))
            begins = self._thread is None
            if begins:
                self._thread = threading.Thread(target=self._run, name="hangarlog-cursors", daemon=True)
                self._thread.start()
        if not begins:
            self._store._wake_cursor_waits()  # The thread looks at this one, too.
        return future

    def close(self) -> None:
        """Wait until the thread has ended, as it does when the store is closed."""
        with self._changed:
            thread = self._thread
        if thread is not None:
            thread.join()

    # The thread

    def _run(self) -> None:
        while True:
            error: BaseException | None = None
            try:
                self._store._await_cursors(self._look, _PATIENCE_SECONDS)
            except BaseException as failure:
                error = failure
            with self._changed:
                if error is None and self._waiting:
                    continue
                self._thread, left = None, self._waiting
                self._waiting = []
            for _, _, future in left:
                if error is not None and future.set_running_or_notify_cancel():
                    future.set_exception(error)
            return

    def _look(self) -> bool:
        """End the waits whose cursor has got there. Return True if there are no others."""
        with self._changed:
            waiting = list(self._waiting)
        positions = {name: self._position_of(name) for name in {name for name, _, _ in waiting}}
        ended = {id(wait) for wait in waiting if _ends(positions[wait[0]], *wait[1:])}
        with self._changed:
            self._waiting = [wait for wait in self._waiting if id(wait) not in ended]
            return not self._waiting

    def _position_of(self, name: str) -> int | Exception:
        try:
            return self._store._cursor_position(name)
        except Exception as error:
            return error


def _ends(found: int | Exception, position: int, future: Future[bool]) -> bool:
    if isinstance(found, int) and found < position:
        return future.cancelled()
    if future.set_running_or_notify_cancel():
        settle(future, partial(_reached, found))
    return True


def _reached(found: int | Exception) -> bool:
    if isinstance(found, Exception):
        raise found
    return True
