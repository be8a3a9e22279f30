"""The recorder for dynamic consistency boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
from eventsourcing.dcb.api import (
    DCBAppendCondition,
    DCBEvent,
    DCBQuery,
    DCBReadResponse,
    DCBRecorder,
    DCBSequencedEvent,
    DCBSubscription,
)
from eventsourcing.dcb.popo import SimpleDCBReadResponse
from eventsourcing.persistence import IntegrityError, ProgrammingError

from hangarlog import ANY, ConcurrencyError, EncodedEvent, Envelope, EventSerializationError
from hangarlog.integrations.eventsourcing.payload import errors, payloads, state_members, state_of
from hangarlog.integrations.eventsourcing.recorder import HangarlogRecorder

_json = msgspec.json.Encoder().encode


class HangarlogDCBSubscription(DCBSubscription["HangarlogDCBRecorder"]):
    """Yields events that match a query as they are recorded, in any process. It waits without polling."""

    _last_position: int

    def __init__(self, recorder: HangarlogDCBRecorder, query: DCBQuery | None, after: int | None) -> None:
        super().__init__(recorder, query, after)
        self._matching = _Matching(query)
        self._events: Iterator[DCBSequencedEvent] = iter(())
        self._following = recorder.store.follow_envelopes(
            min(after or 0, recorder.store.get_event_count()),
            stream_id=None,
            heartbeat=None,
            durable=recorder._durable,
            category="dcb",
            event_types=self._matching.types,
        )

    def __exit__(self, *args: object, **kwargs: Any) -> None:
        super().__exit__(*args, **kwargs)
        self._following.close()

    def stop(self) -> None:
        """Stop the subscription."""
        super().stop()
        self._following.stop()

    def __next__(self) -> DCBSequencedEvent:
        while not self._has_been_stopped:
            for event in self._events:
                if event.position > self._last_position:
                    self._last_position = event.position
                    return event
            with errors:
                block = next(self._following, None)
                if block is None:
                    break
            self._events = self._matching.events(block)
        raise StopIteration


class _Matching:
    """The events that match a query. The store leaves out those of other types; tags are compared here."""

    def __init__(self, query: DCBQuery | None) -> None:
        self._items = [(frozenset(item.types), frozenset(item.tags)) for item in query.items] if query else []
        by_type = self._items and all(types for types, _ in self._items)
        self.types = sorted(frozenset[str]().union(*(types for types, _ in self._items))) if by_type else None

    def events(self, block: Sequence[Envelope]) -> Iterator[DCBSequencedEvent]:
        """Yield the events of a block that match."""
        for envelope, payload in zip(block, payloads(block), strict=True):
            if not self._items or any(
                (not types or envelope.event_type in types) and tags.issubset(payload.tags)
                for types, tags in self._items
            ):
                yield DCBSequencedEvent(
                    DCBEvent(envelope.event_type, state_of(payload), payload.tags), envelope.position
                )


class HangarlogDCBRecorder(HangarlogRecorder, DCBRecorder):
    """Records events for dynamic consistency boundaries, all in the one stream `dcb:events`.

    A condition is checked against the events after its position, then the append expects the stream as it was checked.
    """

    STREAM = "dcb:events"

    def read(
        self, query: DCBQuery | None = None, *, after: int | None = None, limit: int | None = None
    ) -> DCBReadResponse:
        """Return the events after a position that match the query."""
        with errors:
            head = self.store.get_event_count()
            events = list(self._matches(query, after, head, limit))
        if limit is not None:
            return SimpleDCBReadResponse(iter(events), events[-1].position if events else None)
        return SimpleDCBReadResponse(iter(events), head or None)

    def _matches(
        self, query: DCBQuery | None, after: int | None, head: int, limit: int | None = None
    ) -> Iterator[DCBSequencedEvent]:
        matching = _Matching(query)
        blocks = self.store.envelopes(
            from_position=after or 0, to_position=head, category="dcb", event_types=matching.types
        )
        return islice((event for block in blocks for event in matching.events(block)), limit)

    def append(self, events: Sequence[DCBEvent], condition: DCBAppendCondition | None = None) -> int:
        """Append events, unless one matches the condition, and return the position of the last.

        Raises `IntegrityError` if the condition fails, `DataError` if an event cannot be stored.
        """
        if not events:
            raise ProgrammingError("there must be at least one event to append")
        with errors:
            try:
                return self._append(_encoded(events), condition)
            except EventSerializationError:
                return self._append(_encoded(events, as_base64=True), condition)

    def _append(self, made: list[EncodedEvent], condition: DCBAppendCondition | None) -> int:
        if condition is None:
            return self.store.append(self.STREAM, made, ANY, retry=False).last_position
        after = condition.after or 0
        while True:
            version, head = self.store.get_stream_version(self.STREAM), self.store.get_event_count()
            if next(self._matches(condition.fail_if_events_match, after, head, 1), None):
                raise IntegrityError(condition)
            try:
                return self.store.append(self.STREAM, made, version, retry=False).last_position
            except ConcurrencyError:  # Somebody has appended since: only those events are left to check.
                after = max(after, head)

    def subscribe(self, query: DCBQuery | None = None, *, after: int | None = None) -> HangarlogDCBSubscription:
        """Return an iterator over the events after a position that match, which waits for more."""
        with errors:
            return HangarlogDCBSubscription(self, query, after)


def _encoded(events: Sequence[DCBEvent], *, as_base64: bool = False) -> list[EncodedEvent]:
    members = state_members([event.data for event in events], as_base64=as_base64)
    return [
        EncodedEvent(event.type, b'{"tags":%b,%b}' % (_json(list(event.tags)), member))
        for event, member in zip(events, members, strict=True)
    ]
