"""Subscriptions: the events of a store, those that are there and those that come.

Catching up and following are one loop over what is visible, so there is no hand-over between them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Generic, NoReturn, TypeVar

import msgspec

from hangarlog.errors import EventSerializationError, EventsGoneError, UpcastingError
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

    _lets_wait = False
    """True if the caller waits: the iteration yields None where it would."""

    def __init__(self, tail: Tail, reading: Reading, timeout: float | None, heartbeat: float | None) -> None:
        self._tail, self._reading = tail, reading
        self._timeout, self._heartbeat = timeout, heartbeat
        self._position = tail.position
        self._batch_end = 0  # Of the batch that `position` is in, or ends with.
        self._read_end = 0  # Up to here events are read. Only if the caller waits.
        self._quiet_since = self._beat_at = 0.0
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

    def wait(self, seconds: float) -> None:
        """Sleep until there are events after `position`, or `stop` is called, for at most `seconds`.

        It may return early. Call it only when an iteration with `timeout=0` has ended.
        """
        self._tail.wait(seconds)

    def stop(self) -> None:
        """End the iteration after the batch that is being delivered. Any thread may call it, and a signal handler."""
        self._stopped = True
        self._tail.stop()

    def close(self) -> None:
        """End the iteration at once, and release all resources. Closing twice is fine, from any thread, too."""
        self._closed = True
        self.stop()
        try:
            self._end_iteration()
        except ValueError:
            return  # Its thread is inside, and releases them.
        self._release()

    def _end_iteration(self) -> None:
        """End the iteration between two events. Raises `ValueError` if a thread is inside of it."""
        if self._running is not None:
            self._running.close()

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

    def __reduce__(self) -> NoReturn:
        raise TypeError("a subscription cannot be copied or pickled; subscribe again, from its position or its name")

    def __iter__(self) -> Iterator[_Item]:
        if self._running is None:
            self._running = self._run()
        return self._running

    def __next__(self) -> _Item:
        return next(iter(self))

    def _run(self) -> Generator[_Item, None, None]:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("another thread iterates over this subscription; make one for each thread")
        try:
            self._quiet_since = self._beat_at = monotonic()
            yield from self._iterate()
            self._unsure = False
        finally:
            self._running = None
            self._in_use.release()
            if self._closed:
                self._release()

    def _iterate(self) -> Iterator[_Item]:
        self._seek()
        yield from self._deliver()

    def _seek(self) -> None:
        """Let the tail go on after `position`."""
        if self._unsure or self._tail.position != self._position:
            self._tail.seek(self._position)
        self._unsure, self._batch_end = True, 0

    def _deliver(self) -> Iterator[_Item]:
        tail = self._tail
        while not self._closed and (not self._stopped or tail.position < self._batch_end):
            block = tail.step()
            if block is not None and (yield from self._records(block)):
                self._quiet_since = self._beat_at = monotonic()
            if self._passed():
                return
            now = monotonic()
            if block is None and (self._timed_out(now) or self._stopped):
                return
            if self._beats(now) or (block is None and self._lets_wait):
                yield None  # type: ignore[misc] # Only with a heartbeat: see `EventStore.subscribe`.
            elif block is None:
                tail.wait(self._left(now))

    def _records(self, block: Sequence[Envelope]) -> Generator[_Item, None, bool]:
        """Yield the wanted records of a block, and keep `position` true. Return True if there was one."""
        reading, delivered = self._reading, False
        record, splits = reading.record, reading.splits
        for part in self._wanted(block):
            if part and reading.first_left:
                self._refuse_hidden(part[0], reading.first_left)
            if part and self._lets_wait:
                self._read_end = part[-1].position
            try:
                for envelope, event in reading.pairs(part):
                    position = envelope.position
                    if self._stopped and position > self._batch_end:
                        self._position = max(self._position, self._batch_end)
                        return delivered
                    item = record(envelope, event)
                    self._batch_end = envelope.batch_end or position
                    # Of an event that becomes several, some may still come.
                    self._position = position - (envelope.event_type in splits) if splits else position
                    yield item
                    delivered = True
            except (EventSerializationError, UpcastingError) as error:
                self._position = self._position if error.position is None else error.position - 1
                if not self._stopped or self._position < self._batch_end:
                    raise
                return delivered
        self._position = self._tail.position
        self._batch_end = max(self._batch_end, block[-1].batch_end)  # The block may end within a batch.
        return delivered

    def _wanted(self, block: Sequence[Envelope]) -> Iterator[Sequence[Envelope]]:
        return self._reading.selected.wanted(iter((block,)))

    def _passed(self) -> bool:
        """Called when everything up to `position` was delivered or passed over, and the consumer asks for more.

        Return True to end the iteration.
        """
        return False

    def _refuse_hidden(self, envelope: Envelope, first_left: Callable[[], tuple[int, int | None]]) -> None:
        version, position = first_left()
        if envelope.stream_version < version:
            raise EventsGoneError(envelope.stream_id, self._position, position)

    def _timed_out(self, now: float) -> bool:
        return self._timeout is not None and now - self._quiet_since >= self._timeout

    def _beats(self, now: float) -> bool:
        """True if a heartbeat is due; it then counts as given."""
        if self._heartbeat is None or now - self._beat_at < self._heartbeat:
            return False
        self._beat_at = now
        return True

    def _left(self, now: float) -> float:
        left = math.inf if self._timeout is None else self._quiet_since + self._timeout - now
        return left if self._heartbeat is None else min(left, self._beat_at + self._heartbeat - now)
