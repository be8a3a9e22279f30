"""The part of the public interface that says how named subscribers are doing, and replays what they have parked."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Generic

import msgspec

from hangarlog.eventstore.arguments import whole_number
from hangarlog.eventstore.cursor import check_cursor_name
from hangarlog.eventstore.finding import Finding
from hangarlog.eventstore.named import STORE_FAILURES
from hangarlog.eventstore.parked import (
    Handler,
    ParkedEvent,
    attempt,
    cause_of,
    envelope_at,
    mark_replayed,
    park,
    parked_events,
    records_of,
)
from hangarlog.eventstore.record import Event, Record
from hangarlog.eventstore.selection import Span
from hangarlog.eventstore.share import share_of, split_name
from hangarlog.eventstore.subscriber_errors import HandlerError, ReplayBusyError


class SubscriberStatus(msgspec.Struct, frozen=True):
    """How a named subscriber is doing, or one of its shares (`NAME#1/4`).

    Attributes:
        name: that of its cursor.
        position: the cursor's: up to there, events are processed.
        lag: the number of events after it.
        lag_seconds: the age of the first of these, 0 without any.
        owner: the process id of the owner, as its own system gives it; None if nobody is.
        parked: the number of its parked events.
    """

    name: str
    position: int
    lag: int
    lag_seconds: float
    owner: int | None
    parked: int


class Subscribers(Finding[Event], Generic[Event]):
    """Named subscribers, as seen from outside."""

    def subscribers(self) -> list[SubscriberStatus]:
        """Return how every subscriber is doing that has a cursor, sorted by name."""
        committed, places = self._cursor_places()
        parked: dict[str, list[ParkedEvent]] = {}
        found = []
        for place in sorted(places, key=lambda place: place.name):
            name, number, workers = split_name(place.name)
            if name not in parked:
                parked[name] = parked_events(self, name)
            own = [event for event in parked[name] if workers is None or share_of(event.stream_id, workers) == number]
            lag = committed - place.position
            age = self._age_after(place.position) if lag else 0.0
            owner = self._owner_of(place.name)
            found.append(SubscriberStatus(place.name, place.position, lag, age, owner, len(own)))
        return found

    def _age_after(self, position: int) -> float:
        """Return the age in seconds of the first event after a position."""
        first = next((block[0] for block in self._blocks(Span(None, position, limit=1, skip=True))), None)
        return 0.0 if first is None else max(0.0, (datetime.now(UTC) - self._read(first)[0]).total_seconds())

    def parked(self, name: str) -> list[ParkedEvent]:
        """Return the events that a subscriber has parked and that were not replayed, in the order of positions."""
        return parked_events(self, check_cursor_name(name))

    def replay(self, name: str, handler: Handler, *, on_failure: str = "stop", attempts: int = 1) -> int:
        """Call `handler(record)` for each parked event of a subscriber, in order, and return how many it processed.

        The subscriber's position does not change, and it may be running. What was processed is no longer parked. If the
        handler fails in all `attempts`, "stop" raises `HandlerError`; "park" leaves the event parked, with the
        new cause and count, and with it the later ones of its stream. An event comes again if this process dies
        between the handler and the note that it was processed.

        Raises:
            HandlerError: an event could not be processed.
            ReplayBusyError: another replay of this subscriber is running.
        """
        replaying = self._replaying(name, on_failure, attempts)
        with contextlib.closing(replaying):
            try:
                records = next(replaying)
                while True:
                    try:
                        attempt(handler, records, attempts, STORE_FAILURES)
                    except Exception as error:
                        records = replaying.throw(error)
                    else:
                        records = next(replaying)
            except StopIteration as end:
                return int(end.value)

    def _replaying(self, name: str, on_failure: str, attempts: int) -> Generator[list[Record[Event]], None, int]:
        """Yield the records to handle, of one event at a time. Whoever handles them throws what the handler raised."""
        if on_failure not in ("stop", "park"):
            raise ValueError(f"on_failure of a replay is 'stop' or 'park', not {on_failure!r}")
        if whole_number("attempts", attempts) < 1:
            raise ValueError(f"attempts must be at least 1, not {attempts}")
        place = self._queue_for(f"{check_cursor_name(name)}#replay")
        try:
            if not place.is_first():
                raise ReplayBusyError(name, self._owner_of(f"{name}#replay") or 0)
            return (yield from self._replay(name, on_failure, attempts))
        finally:
            place.leave()

    def _replay(self, name: str, on_failure: str, attempts: int) -> Generator[list[Record[Event]], None, int]:
        done, failed = 0, set[str]()
        while left := [event for event in parked_events(self, name) if event.stream_id not in failed]:
            for event in left:  # The subscriber may park more meanwhile.
                if event.stream_id in failed:
                    continue
                try:
                    yield records_of(self, envelope_at(self, event.position))
                except STORE_FAILURES:
                    raise
                except Exception as error:
                    cause, count = cause_of(error), event.attempts + attempts
                    if on_failure == "stop":
                        place = event.position, event.stream_id, event.stream_version, event.event_type
                        raise HandlerError(name, *place, cause, count) from error
                    park(self, name, msgspec.structs.replace(event, cause=cause, attempts=count))
                    failed.add(event.stream_id)
                else:
                    mark_replayed(self, name, event)
                    done += 1
        return done
