"""Subscriptions of tasks: the events of a store, those that are there and those that come."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from functools import partial
from operator import length_hint
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from hangarlog.aio.chunks import Chunk, Unreadable, decoded
from hangarlog.aio.hub import Hub, Waiter, WakeUp
from hangarlog.aio.threads import Threads
from hangarlog.eventstore.subscription import Reading, Subscription
from hangarlog.record.envelope import Envelope

_Item = TypeVar("_Item")
_Self = TypeVar("_Self", bound="AsyncSubscription[Any]")

_NOTHING: Iterator[Any] = iter(())
_TURN = 256
"""Records after which other tasks run, and a cancellation is noticed."""


class AsyncSubscription(AsyncIterator[_Item], Generic[_Item]):
    """Iterates over the events after a position, and waits for more. One task iterates; any thread may `stop` it.

    It begins when it is entered (`async with`) or first iterated. Iterate again after a break, an error or a
    cancellation to go on: no event is missed, and none comes twice. It holds no thread and no lock between two events.
    """

    def __init__(
        self,
        threads: Threads,
        subscribe: Callable[[], Subscription[_Item]],
        hub: Hub,
        position: int,
        timeout: float | None,
        heartbeat: float | None,
    ) -> None:
        self._threads, self._subscribe, self._hub = threads, subscribe, hub
        self._timeout, self._heartbeat = timeout, heartbeat
        self._position = position
        self._subscription: Subscription[_Item] | None = None
        self._splits: Collection[str] = ()
        self._reading = threading.Lock()  # Between threads: nothing is closed that one of them reads.
        self._stopped = self._iterating = False
        self._chunk: Chunk | None = None
        self._envelopes: list[Envelope] = []
        self._records: list[Any] = []
        self._next = 0  # The place in the chunk.
        self._run: Iterator[Any] = _NOTHING  # Records up to the place `_run_end`, which need no further look.
        self._quick, self._run_end = self._run, 0  # `_quick` is the run, or nothing after `stop`.
        self._turn = _TURN
        self._quiet_since = self._beat_at = 0.0  # 0: the iteration has not begun.
        self._wake_up: WakeUp | None = None

    # As `Subscription`

    @property
    def position(self) -> int:
        """The position up to which every event was delivered, or passed over because it is not wanted.

        Before a subscription from "end" has begun, it is 0.
        """
        self._note_run()
        return self._position

    @property
    def stopped(self) -> bool:
        """True after `stop`."""
        return self._stopped

    async def lag(self) -> int:
        """Return the number of visible events after `position`, wanted or not."""
        tail = (await self._begin())._tail
        return max(0, await self._threads.run(tail.end) - self.position)

    def stop(self) -> None:
        """End the iteration after the batch that is being delivered. Any thread may call it, and a signal handler."""
        self._stopped = True
        self._quick = _NOTHING
        wake_up = self._wake_up
        if wake_up is not None:
            wake_up()

    async def aclose(self) -> None:
        """Stop, and release all resources; closing twice is fine."""
        self.stop()
        self._note_run()
        self._use(None, [], [])
        subscription = self._subscription
        if subscription is not None:
            await self._threads.run_to_the_end(partial(self._close, subscription))

    def _close(self, subscription: Subscription[_Item]) -> None:
        with self._reading:
            subscription.close()

    async def __aenter__(self: _Self) -> _Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self: _Self) -> _Self:
        self._quiet_since = 0.0
        return self

    async def __anext__(self) -> _Item:
        for item in self._quick:
            return item  # type: ignore[no-any-return]
        if self._iterating:
            raise RuntimeError("another task iterates over this subscription; give each task a subscription of its own")
        self._iterating = True
        try:
            return await self._find_next()
        finally:
            self._iterating = False

    # The loop

    async def _begin(self) -> Subscription[_Item]:
        if self._subscription is None:
            subscription = await self._threads.run(self._subscribe)
            if self._subscription is None:
                self._subscription, self._position = subscription, subscription.position
                self._splits = subscription._reading.splits
        return self._subscription

    async def _find_next(self) -> _Item:
        subscription = self._subscription or await self._begin()
        reading = subscription._reading
        self._note_run()
        if not self._quiet_since:
            self._quiet_since = self._beat_at = monotonic()
        while True:
            if self._next < len(self._records):
                if self._stopped and (not self._next or self._envelopes[self._next - 1].ends_batch):
                    self._end()
                if not self._turn:
                    await self._let_others_run()
                    continue
                return self._deliver(reading)
            self._leave_chunk()
            if self._stopped:
                self._end()
            if await self._next_chunk(subscription, reading):
                continue
            now = monotonic()
            if self._timeout is not None and now - self._quiet_since >= self._timeout:
                self._end()
            if self._heartbeat is not None and now - self._beat_at >= self._heartbeat:
                self._beat_at = now
                return None  # type: ignore[return-value] # Only with a heartbeat: see `AsyncEventStore.subscribe`.

    def _deliver(self, reading: Reading) -> _Item:
        record = self._records[self._next]
        if type(record) is Unreadable:
            envelope = self._envelopes[self._next]
            self._use(None, [], [])  # The next iteration tries again.
            record.refuse(reading, envelope)
        self._note(record, 1)
        if self._chunk is not None and self._chunk.readable and not self._stopped:
            self._begin_run()
        item: _Item = record
        return item

    def _note(self, record: Any, count: int) -> None:
        """Note that `count` records more were delivered, and `record` as the last one."""
        self._next, self._turn = self._next + count, self._turn - count
        # Of an event that becomes several, some may still come.
        self._position = record.position - (record.event_type in self._splits)

    def _begin_run(self) -> None:
        """Let `__anext__` take what is left of the chunk and of this turn."""
        end = min(self._next + self._turn, len(self._records))
        self._run_end = end
        self._quick = self._run = iter(self._records[self._next : end])
        if self._stopped:  # Meanwhile, in another thread.
            self._quick = _NOTHING

    def _note_run(self) -> None:
        """Note what `__anext__` has taken."""
        count = self._run_end - length_hint(self._run) - self._next
        if count > 0:
            self._note(self._records[self._next + count - 1], count)

    def _use(self, chunk: Chunk | None, envelopes: list[Envelope], records: list[Any]) -> None:
        self._chunk, self._envelopes, self._records, self._next = chunk, envelopes, records, 0
        self._quick, self._run, self._run_end = _NOTHING, _NOTHING, 0

    async def _let_others_run(self) -> None:
        await checkpoint()
        self._turn = _TURN

    def _leave_chunk(self) -> None:
        if self._chunk is not None and self._next >= len(self._records):
            self._position = max(self._position, self._chunk.last)
            if self._records:
                self._quiet_since = self._beat_at = monotonic()
                self._use(self._chunk, [], [])

    def _end(self) -> None:
        self._quiet_since = 0.0
        raise StopAsyncIteration

    # Chunks

    async def _next_chunk(self, subscription: Subscription[_Item], reading: Reading) -> bool:
        """Take the next chunk; else wait for it, until the next event of the loop. Return True to go on."""
        following = self._chunk.following if self._chunk is not None else None
        chunk = following or self._hub.after(self._position)
        if chunk is not None:
            self._take(chunk, reading)
            self._turn -= 1
            if self._turn <= 0:
                await self._let_others_run()
            return True
        woken = await self._wait(at_end=False)
        if woken:
            return True
        # Behind what is shared, or the time is up: to be sure, this subscription looks by itself.
        if await self._read(subscription, reading):
            return True
        return bool(await self._wait(at_end=True))

    def _take(self, chunk: Chunk, reading: Reading) -> None:
        envelopes, records = chunk.wanted(reading)
        if chunk.before < self._position:
            first = next((n for n, each in enumerate(envelopes) if each.position > self._position), len(envelopes))
            envelopes, records = envelopes[first:], records[first:]
        self._use(chunk, envelopes, records)

    async def _read(self, subscription: Subscription[_Item], reading: Reading) -> bool:
        """Read by itself, in a thread. Return True if there was something."""
        chunk = await self._threads.run(self._step, subscription, reading)
        if chunk is None:
            return False
        self._use(chunk, chunk.envelopes, chunk.records)
        return True

    def _step(self, subscription: Subscription[_Item], reading: Reading) -> Chunk | None:
        """In a thread: return the wanted part of what comes next."""
        with self._reading:
            return None if self._stopped else self._step_of(subscription, reading)

    def _step_of(self, subscription: Subscription[_Item], reading: Reading) -> Chunk | None:
        tail = subscription._tail
        before = self._position
        if tail.position != before:
            tail.seek(before)
        block = tail.step()
        if block is None:
            tail.seek(before)  # It keeps no file open while the hub reads.
            return None
        envelopes: list[Envelope] = []
        records: list[Any] = []
        for part in reading.selected.wanted(iter((block,))):
            if part and reading.first_left is not None:
                subscription._refuse_hidden(part[0], reading.first_left)
            some_envelopes, some_records = decoded(part, reading)
            envelopes += some_envelopes
            records += some_records
        return Chunk(before, tail.position, envelopes, records)

    async def _wait(self, *, at_end: bool) -> bool | None:
        """Wait at the hub. Return True if there is more to see, False if the time is up, None if it must look first."""
        waiter = Waiter(self._position)
        seconds = self._seconds_left()
        if seconds <= 0:
            return None
        found = self._hub.wait(waiter, at_end=at_end)
        if found != "waits" or (wake_up := waiter.wake_up) is None:
            return True if found == "look" or at_end else None
        self._wake_up = wake_up
        try:
            if not self._stopped:
                if seconds == math.inf:
                    await wake_up.event.wait()
                else:
                    with anyio.move_on_after(seconds):
                        await wake_up.event.wait()
        finally:
            self._wake_up = None
            self._hub.leave(waiter)
        self._turn = _TURN
        if wake_up.error is not None and at_end:
            raise wake_up.error
        return True if wake_up.event.is_set() or self._stopped else None

    def _seconds_left(self) -> float:
        now = monotonic()
        left = math.inf if self._timeout is None else self._quiet_since + self._timeout - now
        return left if self._heartbeat is None else min(left, self._beat_at + self._heartbeat - now)
