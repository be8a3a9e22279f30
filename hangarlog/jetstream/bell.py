"""Wakes those who wait for events or cursors: who has written rings, by a message that is not stored.

A ring may get lost, so those who wait look by themselves, too, from time to time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from hangarlog.jetstream.connection import FAILURES, Connection

LOOK_SECONDS = 0.5
"""Between two looks of somebody whom no ring has woken."""


class Bell:
    """The bell of a store, heard in all processes."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self._subject = connection, f"{name}.bell"
        self._rung = threading.Condition()
        self._hears = False
        self._rings = 0

    async def ring(self) -> None:
        """Tell all processes that there are events, or that a cursor has moved."""
        with contextlib.suppress(*FAILURES):  # Nobody loses more than time.
            await self._connection.nc.publish(self._subject, b"")

    def wake(self) -> None:
        """Let all who wait in this process look again."""
        with self._rung:
            self._rings += 1
            self._rung.notify_all()

    def listen(self) -> int:
        """Begin to hear, and return the number of rings so far: take it before you look."""
        if not self._hears:
            self._connection.run(self._subscribe())
            self._hears = True
        return self._rings

    async def _subscribe(self) -> None:
        await self._connection.nc.subscribe(self._subject, cb=self._heard)
        await self._connection.nc.flush()

    async def _heard(self, _: Any) -> None:
        self.wake()

    def wait(self, seconds: float, rings: int, done: Callable[[], bool]) -> None:
        """Sleep until it has rung more than `rings` times, or `done`, for at most `seconds`."""
        with self._rung:
            self._rung.wait_for(lambda: self._rings > rings or done(), min(seconds, LOOK_SECONDS))
