"""Which calls of a store are running, so that its files are closed under none of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

_PAUSE_SECONDS = 0.001


class RunningCalls:
    """The running calls, by their threads. Cheap enough for each append: two operations of a list, which are atomic.

    A call puts its thread's number into `running`, and takes it out in a `finally` before it calls anything else: an
    interrupt comes after a call. Then, if there is something to do `afterwards`, it says that it has `ended`.
    """

    def __init__(self) -> None:
        self.running: list[int] = []
        self.afterwards: list[Callable[[], None]] = []

    def ended(self) -> None:
        """Do what was left for when the last call has ended, if this was the last one."""
        if self._live():
            return
        try:
            afterwards = self.afterwards.pop()
        except IndexError:
            return  # Another thread was quicker.
        afterwards()

    def wait(self, seconds: float | None, afterwards: Callable[[], None]) -> bool:
        """Return when no call is running, at the latest after so many seconds; says whether that is so.

        Where this thread is within a call itself, or the time is up, `afterwards` is called when the last call ends.
        """
        deadline = None if seconds is None else monotonic() + seconds
        here = threading.get_ident()
        while others := any(mark != here for mark in self._live()):
            if deadline is not None and monotonic() >= deadline:
                break
            threading.Event().wait(_PAUSE_SECONDS)
        if not others and here not in self.running:
            return True
        self.afterwards.append(afterwards)
        self.ended()  # The last call may have ended just before.
        return False

    def _live(self) -> list[int]:
        """The threads within a call; in the child of a fork, those of its parent are none."""
        alive = {thread.ident for thread in threading.enumerate()}
        return [mark for mark in self.running if mark in alive]
