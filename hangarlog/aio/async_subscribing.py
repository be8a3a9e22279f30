"""The calls of an async store that follow it: subscriptions, waits for cursors, parked events."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Generic, overload

import anyio

from hangarlog.aio.async_named import AsyncHandler, AsyncNamedSubscription, attempt_async
from hangarlog.aio.async_subscription import AsyncSubscription
from hangarlog.aio.chunks import Chunk, decoded
from hangarlog.aio.cursor_waits import CursorWaits
from hangarlog.aio.event_loop import result_of
from hangarlog.aio.hub import Hub
from hangarlog.aio.threads import Threads
from hangarlog.eventstore.arguments import seconds_or_none
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.finding import ENVELOPE
from hangarlog.eventstore.parked import ParkedEvent
from hangarlog.eventstore.record import Event, Record
from hangarlog.eventstore.selection import OnDamage, Selection
from hangarlog.eventstore.subscribers import SubscriberStatus
from hangarlog.eventstore.subscribing import Categories, EventTypes, Start
from hangarlog.eventstore.subscription import Reading
from hangarlog.eventstore.tail import Tail


class AsyncSubscribing(Generic[Event]):
    """The part of an async store that follows it."""

    def __init__(self, store: EventStore[Event], threads: Threads) -> None:
        self._store, self._threads = store, threads
        self._hubs: dict[bool, Hub] = {}
        self._cursor_waits = CursorWaits(store)

    @overload
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        stream_id: str | None = None,
        category: Categories | None = None,
        not_category: Categories | None = None,
        event_types: EventTypes | None = None,
        name: None = None,
        batch: int | None = None,
        workers: int | None = None,
        timeout: float | None = None,
        heartbeat: None = None,
        durable: bool | None = None,
        on_damage: OnDamage = "raise",
    ) -> AsyncSubscription[Record[Event]]: ...
    @overload
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        stream_id: str | None = None,
        category: Categories | None = None,
        not_category: Categories | None = None,
        event_types: EventTypes | None = None,
        name: None = None,
        batch: int | None = None,
        workers: int | None = None,
        timeout: float | None = None,
        heartbeat: float,
        durable: bool | None = None,
        on_damage: OnDamage = "raise",
    ) -> AsyncSubscription[Record[Event] | None]: ...
    @overload
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        stream_id: str | None = None,
        category: Categories | None = None,
        not_category: Categories | None = None,
        event_types: EventTypes | None = None,
        name: str,
        batch: int | None = None,
        workers: int | None = None,
        timeout: float | None = None,
        heartbeat: None = None,
        durable: bool | None = None,
        on_damage: OnDamage = "raise",
    ) -> AsyncNamedSubscription[Record[Event]]: ...
    @overload
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        stream_id: str | None = None,
        category: Categories | None = None,
        not_category: Categories | None = None,
        event_types: EventTypes | None = None,
        name: str,
        batch: int | None = None,
        workers: int | None = None,
        timeout: float | None = None,
        heartbeat: float,
        durable: bool | None = None,
        on_damage: OnDamage = "raise",
    ) -> AsyncNamedSubscription[Record[Event] | None]: ...
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        name: str | None = None,
        timeout: float | None = None,
        heartbeat: float | None = None,
        durable: bool | None = None,
        **options: Any,
    ) -> AsyncSubscription[Any] | AsyncNamedSubscription[Any]:
        """As `EventStore.subscribe`, as an async iterator. What that call raises comes when the iteration begins.

        All subscriptions share one thread that waits. Those without a name share what it reads and decodes, too.
        """
        call: Callable[..., Any] = self._store.subscribe
        subscribe = partial(call, from_position, name=name, timeout=timeout, durable=durable, **options)
        hub = self._hub(durable=self._store._follows_durable if durable is None else bool(durable))
        if name is not None:
            return AsyncNamedSubscription(self._threads, subscribe, hub, name, heartbeat)
        return AsyncSubscription(
            self._threads,
            partial(subscribe, heartbeat=heartbeat),
            hub,
            max(0, from_position) if isinstance(from_position, int) else 0,
            timeout,
            heartbeat,
        )

    def _hub(self, *, durable: bool) -> Hub:
        hub = self._hubs.get(durable)
        if hub is None:
            store, serializer = self._store, self._store.serializer
            pairs = serializer.blocks(*ENVELOPE).pairs
            reading = Reading(Selection(stream_id=None), pairs, store._record, serializer.chain.split_types())

            def read(tail: Tail) -> Chunk | None:
                before, block = tail.position, tail.step()
                return None if block is None else Chunk(before, tail.position, *decoded(block, reading))

            hub = Hub(lambda position: store._tail(position, durable=durable, skip=False), read)
            hub = self._hubs.setdefault(durable, hub)
        return hub

    async def wait(self, name: str, position: int, timeout: float | None = None) -> bool:
        """As `EventStore.wait`. A cancellation ends it at once. All waits share one thread."""
        seconds = seconds_or_none("timeout", timeout)
        if await self._threads.run(self._store.wait, name, position, 0):
            return True
        with anyio.move_on_after(math.inf if seconds is None else seconds):
            return await result_of(self._cursor_waits.put(name, position))
        return False

    async def subscribers(self) -> list[SubscriberStatus]:
        """As `EventStore.subscribers`."""
        return await self._threads.run(self._store.subscribers)

    async def parked(self, name: str) -> list[ParkedEvent]:
        """As `EventStore.parked`."""
        return await self._threads.run(self._store.parked, name)

    async def replay(self, name: str, handler: AsyncHandler, *, on_failure: str = "stop", attempts: int = 1) -> int:
        """As `EventStore.replay`. The handler runs in the event loop, and may be a coroutine function."""
        replaying, error = self._store._replaying(name, on_failure, attempts), None
        try:
            while isinstance(found := await self._threads.run(_step, replaying, error), list):
                error = None
                try:
                    await attempt_async(handler, found, attempts)
                except Exception as failure:
                    error = failure
            return found
        finally:
            await self._threads.run_to_the_end(replaying.close)

    def _end_following(self) -> None:
        """After the store was closed: end the threads."""
        for hub in self._hubs.values():
            hub.close()
        self._cursor_waits.close()


def _step(replaying: Generator[list[Record[Event]], None, int], error: Exception | None) -> list[Record[Event]] | int:
    """Return the records to handle next; at the end, the number of events that were processed."""
    try:
        return next(replaying) if error is None else replaying.throw(error)
    except StopIteration as end:
        return int(end.value)
