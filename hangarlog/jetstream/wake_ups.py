"""Wakes those who wait for events or cursors. Who has written tells them, by a message that is not stored.

It may get lost, so those who wait look by themselves, too, from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import msgspec

from hangarlog.jetstream.connection import Connection

_TOGETHER_SECONDS = 0.001
LOOK_SECONDS = 0.5
"""Between two looks of somebody whom nothing has woken."""


class _Stored(msgspec.Struct):
    """What is of use in the server's answer to an append."""

    seq: int = 0


_decode = msgspec.json.Decoder(_Stored).decode


class WakeUps:
    """What wakes those who wait, in all processes that use a store.

    Attributes:
        position: the highest position that others have told of. Nobody has checked it.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self._subject = connection, f"{name}.wake"
        self._woken = threading.Condition()
        self.position = self._count = 0
        self._answer = b""
        self._hears = self._is_due = False
        self._told = 0.0

    def tell(self, answer: bytes) -> None:
        """Tell all processes of the server's `answer` to an append, or with b"" that a cursor has moved. For the loop.

        Many appends at once are told together, at once and a moment later.
        """
        self._answer = answer or self._answer
        left = self._told + _TOGETHER_SECONDS - monotonic()
        if left <= 0:
            self._tell()
        elif not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(left, self._tell)

    def _tell(self) -> None:
        self._is_due, self._told = False, monotonic()
        command = b"PUB %b %d\r\n%b\r\n" % (self._subject.encode(), len(self._answer), self._answer)
        self._connection.publish(command)  # If it cannot, nobody loses more than time.

    def wake(self) -> None:
        """Let all who wait in this process look again."""
        with self._woken:
            self._count += 1
            self._woken.notify_all()

    def listen(self) -> int:
        """Begin to hear, and return how often it has woken: take that before you look."""
        if not self._hears:
            self._connection.run(self._connection.hear(self._subject, self._heard))
            self._hears = True
        return self._count

    async def _heard(self, message: Any) -> None:
        with contextlib.suppress(msgspec.MsgspecError):  # It says nothing of events, or another program has sent it.
            self.position = max(self.position, _decode(message.data).seq)
        self.wake()

    def wait(self, seconds: float, count: int, done: Callable[[], bool]) -> None:
        """Sleep until it has woken more than `count` times, or `done`, for at most `seconds`."""
        with self._woken:
            self._woken.wait_for(lambda: self._count > count or done(), min(seconds, LOOK_SECONDS))
