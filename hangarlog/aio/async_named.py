"""Named subscriptions of tasks: the loop of the blocking ones, whose waits are those of the event loop."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from hangarlog.aio.event_loop import Result, loop_calls
from hangarlog.aio.executing import decided
from hangarlog.aio.hub import Hub, Waiter, WakeUp
from hangarlog.aio.threads import Threads
from hangarlog.eventstore.arguments import seconds_or_none
from hangarlog.eventstore.engine import Durability
from hangarlog.eventstore.named import STANDBY_SECONDS, STORE_FAILURES, NamedSubscription, OnFailure, check_handling
from hangarlog.eventstore.parked import UNREADABLE
from hangarlog.eventstore.record import Record
from hangarlog.record.cursor_move import CursorMove

_Item = TypeVar("_Item")
_Self = TypeVar("_Self", bound="AsyncNamedSubscription[Any]")

AsyncHandler = Callable[[Record[Any]], object | Awaitable[object]]
"""A handler, as `run` and `replay` call it; it may be a coroutine function."""

_TURN = 256
"""Records after which other tasks run, and a cancellation is noticed."""


class AsyncNamedSubscription(AsyncIterator[_Item], Generic[_Item]):
    """A named subscription: as `hangarlog.NamedSubscription`, for tasks. One task iterates; any thread may `stop` it.

    An event is processed when the task asks for the next one. Leave it with `async with`, or `aclose`: that gives the
    name to the next in line, also after a cancellation. Iterate it again after a cancellation to go on. It holds no
    thread while it waits.
    """

    def __init__(
        self,
        threads: Threads,
        subscribe: Callable[[], NamedSubscription[_Item]],
        hub: Hub,
        name: str,
        heartbeat: float | None,
    ) -> None:
        self._threads, self._subscribe, self._hub = threads, subscribe, hub
        self._name, self._heartbeat = name, seconds_or_none("heartbeat", heartbeat)
        self._subscription: NamedSubscription[_Item] | None = None
        self._items: Iterator[_Item] | None = None
        self._in_use = threading.Lock()  # Between threads: who has it uses the subscription.
        self._iterating = self._stopped = self._closed = False
        self._turn = _TURN
        self._beat_at = 0.0
        self._failed_at = -1
        self._wake_up: WakeUp | None = None

    @property
    def name(self) -> str:
        """The subscriber's name."""
        return self._name

    @property
    def position(self) -> int:
        """As `Subscription.position`; 0 before it has begun."""
        return 0 if self._subscription is None else self._subscription.position

    @property
    def stopped(self) -> bool:
        """True after `stop`."""
        return self._stopped

    async def lag(self) -> int:
        """Return the number of visible events after `position`, wanted or not."""
        subscription = await self._begin()
        return await self._threads.run(lambda: subscription.lag)

    async def advance(self, to: int | None = None, *, durability: Durability | None = None) -> None:
        """As `NamedSubscription.advance`: the events up to `to`, or those delivered so far, are processed."""
        subscription = await self._begin()
        await self._threads.run(self._alone, partial(subscription.advance, to, durability=durability))

    def move(self, to: int | None = None) -> CursorMove:
        """As `NamedSubscription.move`: return the move that `advance` makes, for an append that makes it too."""
        if self._subscription is None:
            raise ValueError(f"subscriber {self._name!r} has no event to move behind; iterate first")
        return self._subscription.move(to)

    def stop(self) -> None:
        """End the iteration after the batch that is being delivered. Any thread may call it, and a signal handler."""
        self._stopped = True
        subscription, wake_up = self._subscription, self._wake_up
        if subscription is not None:
            subscription.stop()
        if wake_up is not None:
            wake_up()

    async def aclose(self) -> None:
        """As `NamedSubscription.close`: give the name to the next in line, and release all resources."""
        self._closed = True
        self.stop()
        subscription = self._subscription
        if subscription is not None:
            await self._threads.run_to_the_end(partial(self._alone, subscription.close))

    async def __aenter__(self: _Self) -> _Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # The loop

    def __aiter__(self: _Self) -> _Self:
        self._beat_at = 0.0
        return self

    async def __anext__(self) -> _Item:
        if self._iterating:
            raise RuntimeError("another task iterates over this subscription; give each task a subscription of its own")
        self._iterating = True
        try:
            return await self._find_next()
        finally:
            self._iterating = False

    async def _find_next(self) -> _Item:
        if self._closed:
            raise StopAsyncIteration
        subscription = await self._begin()
        self._beat_at = self._beat_at or monotonic()
        if not self._turn:
            await checkpoint()
            self._turn = _TURN
        while True:
            found = await self._step(subscription)
            if found is _END:
                self._beat_at = 0.0
                raise StopAsyncIteration
            if found is not None:
                self._turn -= 1
                self._beat_at = 0.0
                item: _Item = found
                return item
            now = monotonic()
            if self._heartbeat is not None and now - self._beat_at >= self._heartbeat:
                self._beat_at = now
                return None  # type: ignore[return-value] # Only with a heartbeat: see `AsyncEventStore.subscribe`.
            await self._wait(subscription, now)

    async def _begin(self) -> NamedSubscription[_Item]:
        if self._subscription is None:
            subscription = await self._threads.run(self._subscribe)
            subscription._lets_wait = True
            self._subscription = self._subscription or subscription
            if self._stopped:
                self._subscription.stop()
        return self._subscription

    async def _step(self, subscription: NamedSubscription[_Item]) -> Any:
        """Return the next item, `_END` if there is none, None if it would wait."""
        if subscription._is_at_hand() and self._in_use.acquire(blocking=False):
            try:
                return next(subscription, _END)
            finally:
                self._in_use.release()
        self._turn = _TURN
        return await self._threads.run(self._alone, lambda: next(subscription, _END))

    def _alone(self, function: Callable[[], Result]) -> Result:
        with self._in_use:
            return function()

    async def _wait(self, subscription: NamedSubscription[_Item], now: float) -> None:
        """Wait until there may be an event, a share, or a cursor to move."""
        seconds = subscription._left(now)
        if self._heartbeat is not None:
            seconds = min(seconds, self._beat_at + self._heartbeat - now)
        if not subscription._own.shares:
            seconds = min(seconds, STANDBY_SECONDS)
        if seconds <= 0:
            return
        if not subscription._own.shares:
            await self._rest(WakeUp(loop_calls()), seconds)
            return
        waiter = Waiter(subscription._tail.position)
        if self._hub.wait(waiter, at_end=True) != "waits" or (wake_up := waiter.wake_up) is None:
            return
        try:
            await self._rest(wake_up, seconds)
        finally:
            self._hub.leave(waiter)
        if wake_up.error is not None:
            if self._failed_at == waiter.position:
                raise wake_up.error
            self._failed_at = waiter.position  # Perhaps it failed at what this subscription passes over: look again.

    async def _rest(self, wake_up: WakeUp, seconds: float) -> None:
        self._wake_up = wake_up
        try:
            if not self._stopped:
                with anyio.move_on_after(seconds):
                    await wake_up.event.wait()
        finally:
            self._wake_up = None

    # Handlers

    async def run(self, handler: AsyncHandler, *, on_failure: OnFailure = "stop", attempts: int = 1) -> None:
        """As `NamedSubscription.run`. The handler runs in the event loop, and may be a coroutine function.

        If it is cancelled, the next run begins with the same event.
        """
        check_handling(on_failure, attempts)
        subscription = await self._begin()
        failed = 0
        while True:
            try:
                record: Any = await self.__anext__()
            except StopAsyncIteration:
                return
            except UNREADABLE as error:
                await self._settled(partial(subscription._settle_unreadable, error, on_failure))
                continue
            if record is not None and record.position != failed:
                try:
                    failed = await self._handle(subscription, record, handler, on_failure, attempts)
                except BaseException:
                    rewind = partial(subscription._rewind, record.position - 1, record)
                    await self._threads.run_to_the_end(partial(self._alone, rewind))
                    raise

    async def _handle(
        self,
        subscription: NamedSubscription[_Item],
        record: Record[Any],
        handler: AsyncHandler,
        on_failure: OnFailure,
        attempts: int,
    ) -> int:
        """Call the handler. Return the record's position if it failed and was settled, else 0."""
        if on_failure == "park_stream" and await self._settled(partial(subscription._parks_too, record, on_failure)):
            return record.position
        try:
            await attempt_async(
                handler, [record], attempts, lambda record: self._settled(partial(subscription._is_past, record))
            )
        except Exception as error:
            await self._settled(partial(subscription._settle_failure, record, error, attempts, on_failure))
            return record.position
        return 0

    async def _settled(self, settle: Callable[[], Result]) -> Result:
        return await self._threads.run(self._alone, settle)


async def attempt_async(
    handler: AsyncHandler,
    records: Sequence[Record[Any]],
    attempts: int,
    is_done: Callable[[Record[Any]], Awaitable[bool]] | None = None,
) -> None:
    """As `hangarlog.eventstore.parked.attempt`: call the handler for every record, up to `attempts` times each."""
    for record in records:
        for left in reversed(range(attempts)):
            try:
                await decided(handler(record))
                break
            except STORE_FAILURES:
                raise
            except Exception:
                if not left or (is_done is not None and await is_done(record)):
                    raise


_END: Any = object()
