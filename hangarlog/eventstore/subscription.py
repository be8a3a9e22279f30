"""Subscriptions: the events of a store, those that are there and those that come.

Catching up and following are one loop over what is visible, so there is no hand-over between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Generic, TypeVar

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

    Iterating ends after `timeout` seconds without an event, or after `stop`. Iterate again to go on: no event is
    missed, and none comes twice. `None` comes every `heartbeat` seconds without an event.
    """

    def __init__(self, tail: Tail, reading: Reading, timeout: float | None, heartbeat: float | None) -> None:
        self._tail, self._reading = tail, reading
        self._timeout, self._heartbeat = timeout, heartbeat
        self._position = tail.position
        self._batch_end = 0  # Of the event delivered last.
        self._quiet_since = self._beat_at = 0.0
        self._stopped = False
        self._running: Iterator[_Item] | None = None

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
        """Stop, and release all resources; closing twice is fine."""
        self.stop()
        self._tail.close()

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

    def _run(self) -> Iterator[_Item]:
        try:
            self._quiet_since = self._beat_at = monotonic()
            if self._tail.position != self._position:
                self._tail.seek(self._position)  # The last iteration ended within a block.
            yield from self._deliver()
        finally:
            self._running = None

    def _deliver(self) -> Iterator[_Item]:
        tail, deliver = self._tail, self._records
        while not self._stopped or tail.position < self._batch_end:  # A block may end within a batch.
            block = tail.step()
            if block is not None:
                quiet = True
                for record in deliver(block):
                    yield record
                    quiet = False
                if not quiet:
                    self._quiet_since = self._beat_at = monotonic()
                if self._passed():
                    return
                continue
            if self._passed():
                return
            now = monotonic()
            if self._timed_out(now) or self._stopped:
                return
            if self._beats(now):
                yield None  # type: ignore[misc] # Only with a heartbeat: see `EventStore.subscribe`.
                continue
            tail.wait(self._left(now))

    def _records(self, block: Sequence[Envelope]) -> Iterator[_Item]:
        """Yield the wanted records of a block, and keep `position` true."""
        reading = self._reading
        record, splits = reading.record, reading.splits
        for part in self._wanted(block):
            if part and reading.first_left:
                self._refuse_hidden(part[0], reading.first_left)
            try:
                for envelope, event in reading.pairs(part):
                    position = envelope.position
                    if self._stopped and position > self._batch_end:
                        self._position = position - 1
                        return
                    self._batch_end = envelope.batch_end or position
                    # Of an event that becomes several, some may still come.
                    self._position = position - (envelope.event_type in splits)
                    yield record(envelope, event)
            except (EventSerializationError, UpcastingError) as error:
                self._position = self._position if error.position is None else error.position - 1
                if not self._stopped or self._position < self._batch_end:
                    raise
                return
        self._position = self._tail.position

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
