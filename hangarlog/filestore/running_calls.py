"""Tracks the running calls of a store, so that it closes no file that one of them uses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

_T = TypeVar("_T")
_PAUSE_SECONDS = 0.001


class RunningCalls:
    """The running calls, by thread. Cheap enough for every append: adding and removing are atomic operations of a list.

    A call adds its thread's id to `running`. It removes the id in a `finally` before it calls anything else, because an
    interrupt arrives after a call. Then, if `afterwards` is not empty, it calls `ended`.
    """

    def __init__(self) -> None:
        self.running: list[int] = []
        self.afterwards: list[Callable[[], None]] = []

    def during(self, check: Callable[[], None], call: Callable[[], _T]) -> _T:
        """Return what `call` returns, as a call that `wait` waits for. `check` may raise before it.

        A context manager made of a generator costs a microsecond more.
        """
        mark = threading.get_ident()
        try:
            self.running.append(mark)
            check()
            return call()
        finally:
            try:  # noqa: SIM105 - nothing may be called before
                self.running.remove(mark)
            except ValueError:
                pass  # An interrupt came before it was added.
            if self.afterwards:
                self.ended()

    def ended(self) -> None:
        """Call the function in `afterwards` if no call is running any more."""
        if self._active():
            return
        try:
            afterwards = self.afterwards.pop()
        except IndexError:
            return  # Another thread was quicker.
        afterwards()

    def wait(self, seconds: float | None, afterwards: Callable[[], None]) -> bool:
        """Wait until no call is running, for at most `seconds`. Return True if none is.

        If the time is up, or this thread is within a call itself, `afterwards` is called when the last call ends.
        """
        deadline = None if seconds is None else monotonic() + seconds
        here = threading.get_ident()
        while others := any(thread_id != here for thread_id in self._active()):
            if deadline is not None and monotonic() >= deadline:
                break
            threading.Event().wait(_PAUSE_SECONDS)
        if not others and here not in self.running:
            return True
        self.afterwards.append(afterwards)
        self.ended()  # The last call may have ended just before.
        return False

    def _active(self) -> list[int]:
        """Return the threads within a call; in the child of a fork, without those of its parent."""
        alive = {thread.ident for thread in threading.enumerate()}
        return [thread_id for thread_id in self.running if thread_id in alive]
