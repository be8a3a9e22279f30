"""Decide and append in a task: as `hangarlog.eventstore.execute`, with a decision that may await."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import ContextVar
from random import random
from typing import Any, TypeVar

import anyio

from hangarlog.aio.threads import Threads
from hangarlog.errors import ConcurrencyError
from hangarlog.events.encoded_event import EncodedEvent
from hangarlog.events.registry import UntypedEvent
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.arguments import whole_number
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.record import Event

Found = TypeVar("Found")
Decided = Sequence[Event | UntypedEvent | EncodedEvent] | None
AsyncDecide = Callable[[list[Event], int], Decided[Event] | Awaitable[Decided[Event]]]
"""A decision, as `Decide`; it may be a coroutine function."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.0005, 0.05

_has_turn: ContextVar[bool] = ContextVar("hangarlog has a turn", default=False)


class Turns:
    """The turns at the streams of a store, among tasks and, by the store's own turns, among processes."""

    def __init__(self, store: EventStore[Any], threads: Threads) -> None:
        self._store, self._threads = store, threads
        self._locks: dict[str, list[Any]] = {}  # By stream: the lock, and how many use it.

    async def wait(self, stream_id: str) -> None:
        """Wait while somebody has the turn at a stream."""
        await self._threads.run_waiting(lambda: self._store._await_turn(stream_id))

    @asynccontextmanager
    async def taken(self, stream_id: str) -> AsyncIterator[None]:
        """Have the turn at a stream for the block."""
        entry = self._locks.setdefault(stream_id, [anyio.Lock(), 0])
        entry[1] += 1
        try:
            async with entry[0]:  # So that only one task of this process waits in a thread.
                turn = self._store._turn(stream_id)
                await self._threads.run_waiting(turn.__enter__)
                try:
                    yield
                finally:
                    await self._threads.run_to_the_end(lambda: _leave(turn))
        finally:
            entry[1] -= 1
            if not entry[1]:
                self._locks.pop(stream_id, None)


def _leave(turn: AbstractContextManager[None]) -> None:
    turn.__exit__(None, None, None)


async def until_written(
    attempt: Callable[[], Awaitable[AppendResult | ConcurrencyError]], turns: Turns, stream_id: str, attempts: int
) -> AppendResult:
    """Call `attempt` until it returns a result, and return that; after the first conflict, in its turn.

    A decision that executes another one while it has a turn waits for none: it could wait for its own.

    Raises the last `ConcurrencyError` after `attempts`.
    """
    if whole_number("attempts", attempts) < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    if _has_turn.get():
        return await _again(attempt, attempts)
    await turns.wait(stream_id)
    result = await attempt()
    if isinstance(result, AppendResult):
        return result
    if attempts == 1:
        raise result
    async with turns.taken(stream_id):
        before = _has_turn.set(True)
        try:
            return await _again(attempt, attempts - 1)
        finally:
            _has_turn.reset(before)


async def _again(attempt: Callable[[], Awaitable[AppendResult | ConcurrencyError]], attempts: int) -> AppendResult:
    count = 0
    while not isinstance(result := await attempt(), AppendResult):
        count += 1
        if count >= attempts:
            raise result
        # Plain appends do not wait for turns. A random pause keeps two writers from meeting again and again.
        await anyio.sleep(random() * min(_FIRST_PAUSE_SECONDS * 2**count, _LONGEST_PAUSE_SECONDS))
    return result


async def decided(found: Found | Awaitable[Found]) -> Found:
    """Return what a function returned, also if it must be awaited."""
    return await found if inspect.isawaitable(found) else found
