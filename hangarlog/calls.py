"""Which calls of a store are running, so that its files are closed under none of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

_PAUSE = 0.001


class Calls:
    """The running calls, by their threads. Cheap enough for each append: two operations of a list, which are atomic.

    A call puts its thread's number into `running`, and takes it out in a `finally` before it calls anything else: an
    interrupt comes after a call. Then, if there is something to do `afterwards`, it says that it has `ended`.
    """

    def __init__(self) -> None:
        self.running: list[int] = []
        self.afterwards: Callable[[], None] | None = None

    def ended(self, mark: int) -> None:
        """Do what was left for when this thread, or another one, has ended its call."""
        if self.afterwards and mark not in self.running:
            afterwards, self.afterwards = self.afterwards, None
            afterwards()

    def wait(self, seconds: float | None, afterwards: Callable[[], None]) -> bool:
        """Return when no call is running, at the latest after so many seconds; says whether that is so.

        Where this thread is within a call itself, or the time is up, `afterwards` is called when that call, or another
        one, ends.
        """
        deadline = None if seconds is None else monotonic() + seconds
        while others := self._others():
            if deadline is not None and monotonic() >= deadline:
                break
            threading.Event().wait(_PAUSE)
        if not others and threading.get_ident() not in self.running:
            return True
        self.afterwards = afterwards
        return False

    def _others(self) -> bool:
        """Whether another thread is within a call; in the child of a fork, other threads are none."""
        alive = {thread.ident for thread in threading.enumerate()}
        return any(mark != threading.get_ident() and mark in alive for mark in self.running)
