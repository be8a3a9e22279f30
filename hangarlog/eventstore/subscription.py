"""Subscriptions: the events of a store, those that are there and those that come.

Catching up and following are one loop over what is visible, so there is no hand-over between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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

    Iterating ends after `timeout` seconds without an event, or after `stop`. Iterate again to go on: no event is
    missed, and none comes twice. `None` comes every `heartbeat` seconds without an event.
    """

    def __init__(self, tail: Tail, reading: Reading, timeout: float | None, heartbeat: float | None) -> None:
        self._tail, self._reading = tail, reading
        self._timeout, self._heartbeat = timeout, heartbeat
        self._position = tail.position
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
            if self._tail.position != self._position:
                self._tail.seek(self._position)  # The last iteration ended within a block.
            yield from self._deliver()
        finally:
            self._running = None

    def _deliver(self) -> Iterator[_Item]:
        tail, deliver = self._tail, self._records
        quiet_since = beat_at = monotonic()
        while not self._stopped:
            block = tail.step()
            if block is not None:
                before = self._position
                for record in deliver(block):
                    yield record
                    before = -1
                if self.stopped:
                    return  # The rest of the block was not delivered.
                self._position = tail.position
                if before < 0:
                    quiet_since = beat_at = monotonic()
                continue
            now = monotonic()
            if self._timeout is not None and now - quiet_since >= self._timeout:
                return
            if self._heartbeat is not None and now - beat_at >= self._heartbeat:
                beat_at = now
                yield None  # type: ignore[misc] # Only with a heartbeat: see `EventStore.subscribe`.
                continue
            tail.wait(self._left(now, quiet_since, beat_at))

    def _records(self, block: Sequence[Envelope]) -> Iterator[_Item]:
        """Yield the wanted records of a block, and keep `position` true."""
        reading = self._reading
        record, splits = reading.record, reading.splits
        for part in reading.selected.wanted(iter((block,))):
            if part and reading.first_left:
                self._refuse_hidden(part[0], reading.first_left)
            for envelope, event in reading.pairs(part):
                # Of an event that becomes several, some may still come.
                self._position = envelope.position - (envelope.event_type in splits)
                yield record(envelope, event)
                if self._stopped and any(e.ends_batch for e in part if e.position == envelope.position):
                    return

    def _refuse_hidden(self, envelope: Envelope, first_left: Callable[[], tuple[int, int | None]]) -> None:
        version, position = first_left()
        if envelope.stream_version < version:
            raise EventsGoneError(envelope.stream_id, self._position, position)

    def _left(self, now: float, quiet_since: float, beat_at: float) -> float:
        left = math.inf if self._timeout is None else quiet_since + self._timeout - now
        return left if self._heartbeat is None else min(left, beat_at + self._heartbeat - now)
