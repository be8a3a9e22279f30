"""Subscriptions: the events of a store, those that are there and those that come.

Catching up and following are one loop over what is visible, so there is no hand-over between them.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Generic, TypeVar

import msgspec

from hangarlog.errors import EventsGoneError
from hangarlog.eventstore.selection import Selection
from hangarlog.eventstore.tail import Tail
from hangarlog.record.envelope import Envelope

_Self = TypeVar("_Self", bound="Subscription[Any]")
_Item = TypeVar("_Item")


class Reading(msgspec.Struct, frozen=True):
    """How a subscription reads: what it wants, and how records are made.

    Attributes:
        selected: The events that are wanted.
        pairs: Returns the (envelope, event) pairs of a block.
        record: Makes a record of such a pair.
        splits: The stored types of which one event may become several.
        first_left: For one stream: returns (its first version that is not hidden, that event's position or None).
    """

    selected: Selection
    pairs: Callable[[Sequence[Envelope]], Iterable[tuple[Any, Any]]]
    record: Callable[[Envelope, Any], Any]
    splits: Collection[str] = ()
    first_left: Callable[[], tuple[int, int | None]] | None = None


class Subscription(Generic[_Item]):
    """Iterates over the events after a position, and waits for more. One thread iterates; any may `stop` it.

    Iterating ends after `timeout` seconds without an event. Iterate again to go on, also after an error or a `break`:
    no event is missed, and none comes twice. `None` comes every `heartbeat` seconds without an event.

    After `stop` it has ended for good; subscribe again from its `position`.
    """

    def __init__(self, tail: Tail, reading: Reading, timeout: float | None, heartbeat: float | None) -> None:
        self._tail, self._reading = tail, reading
        self._timeout, self._heartbeat = timeout, heartbeat
        self._position = tail.position
        self._stopped = self._closed = False
        self._running: Generator[_Item, None, None] | None = None
        self._in_use = threading.Lock()  # Held by the thread that iterates, also between two events.
        self._unsure = False  # True if the last iteration may have ended between two steps of the tail.

    @property
    def position(self) -> int:
        """The position up to which every event was delivered, or passed over because it is not wanted."""
        return self._position

    @property
    def lag(self) -> int:
        """The number of visible events after `position`, wanted or not."""
        return max(0, self._tail.end() - self._position)

    @property
    def stopped(self) -> bool:
        """True after `stop`."""
        return self._stopped

    def stop(self) -> None:
        """End the iteration after the batch that is being delivered. Any thread may call it, and a signal handler."""
        self._stopped = True
        self._tail.stop()

    def close(self) -> None:
        """End the iteration at once, and release all resources. Closing twice is fine, from any thread, too."""
        self._closed = True
        self.stop()
        try:
            if self._running is not None:
                self._running.close()
        except ValueError:
            return  # Its thread is inside, and releases them.
        self._release()

    def _release(self) -> None:
        if self._in_use.acquire(blocking=False):
            try:
                self._tail.close()
            finally:
                self._in_use.release()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[_Item]:
        if self._running is None:
            self._running = self._run()
        return self._running

    def __next__(self) -> _Item:
        return next(iter(self))

    @contextlib.contextmanager
    def _iterating(self) -> Iterator[None]:
        """Keep other threads out, and begin after `position`."""
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("another thread iterates over this subscription; make one for each thread")
        try:
            if self._unsure or self._tail.position != self._position:
                self._tail.seek(self._position)
            self._unsure = True
            yield
            self._unsure = False
        finally:
            self._running = None
            self._in_use.release()
            if self._closed:
                self._release()

    def _run(self) -> Generator[_Item, None, None]:
        tail, record, splits = self._tail, self._reading.record, self._reading.splits
        quiet_since = beat_at = monotonic()
        until, batch_end = math.inf, 0  # The end after a `stop`; the end of the batch that the last block is in.
        with self._iterating():
            while not self._closed:
                if self._stopped and until == math.inf:
                    until = max(self._position, batch_end)
                if self._position >= until:
                    return
                block = tail.step()
                if block is not None:
                    batch_end, delivered = block[-1].batch_end, False
                    for envelope, event in self._wanted(block):
                        position = envelope.position
                        if position > until:
                            break
                        item = record(envelope, event)
                        # Of an event that becomes several, some may still come.
                        self._position = position - (envelope.event_type in splits) if splits else position
                        yield item
                        delivered = True
                        if self._stopped and until == math.inf:
                            until = _end_of_batch(block, position)
                    self._position = int(min(tail.position, until))
                    if delivered:
                        quiet_since = beat_at = monotonic()
                        continue
                now = monotonic()
                if block is None and self._timeout is not None and now - quiet_since >= self._timeout:
                    return
                if self._heartbeat is not None and now - beat_at >= self._heartbeat:
                    beat_at = now
                    yield None  # type: ignore[misc] # Only with a heartbeat: see `EventStore.subscribe`.
                elif block is None:
                    tail.wait(self._left(now, quiet_since, beat_at))

    def _wanted(self, block: Sequence[Envelope]) -> Iterator[tuple[Any, Any]]:
        """Return the wanted (envelope, event) pairs of a block."""
        (part,) = self._reading.selected.wanted(iter((block,)))
        if part and self._reading.first_left:
            self._refuse_hidden(part[0], self._reading.first_left)
        return iter(self._reading.pairs(part))

    def _refuse_hidden(self, envelope: Envelope, first_left: Callable[[], tuple[int, int | None]]) -> None:
        version, position = first_left()
        if envelope.stream_version < version:
            raise EventsGoneError(envelope.stream_id, self._position, position)

    def _left(self, now: float, quiet_since: float, beat_at: float) -> float:
        left = math.inf if self._timeout is None else quiet_since + self._timeout - now
        return left if self._heartbeat is None else min(left, beat_at + self._heartbeat - now)


def _end_of_batch(block: Sequence[Envelope], position: int) -> int:
    """Return the position of the last event of the batch that has the event at `position`."""
    return max(position, next((each.batch_end for each in block if each.position == position), 0))
