"""What all recorders share: a store, and appends that say where they go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventsourcing.persistence import IntegrityError, Recorder

import hangarlog
from hangarlog import (
    NO_STREAM,
    AppendResult,
    ConcurrencyError,
    EncodedEvent,
    EventRegistry,
    EventSerializer,
    EventStore,
    UntypedEvent,
)
from hangarlog.integrations.eventsourcing.payload import payloads

Store = EventStore[UntypedEvent]
Append = tuple[str, Sequence[EncodedEvent | UntypedEvent], int]
"""An append of `append_many`: (stream id, events, expected version)."""

StreamEvents = tuple[str, list[tuple[int, str, bytes]]]
"""Events to record in one stream: (stream id, [(version, event type, member with the state)])."""

KNOWN_ENDS = 10_000
"""Of how many streams a recorder remembers the end."""


def opened(address: str, **options: Any) -> Store:
    """Open a store for recorders, by its path or its address on NATS. The options and errors are `hangarlog.open`'s."""
    serializer = EventSerializer(registry=EventRegistry(), unknown="untyped")
    return hangarlog.open(address, serializer=serializer, **options)


class HangarlogRecorder(Recorder):
    """A recorder in a store. Several recorders, in any processes, may use one store.

    `text_ids` says that the ids of aggregates are text, not UUIDs.
    """

    def __init__(self, store: Store, *, text_ids: bool = False) -> None:
        self.store, self._text_ids = store, text_ids
        self._durable = store.durability != "relaxed"
        self._ends: dict[str, tuple[int, int]] = {}  # Of a stream: (its version, the version in its last payload).

    def _end(self, stream_id: str) -> tuple[int, int]:
        """Return where a stream ends: (its version, the version in its last payload), both -1 if it is empty."""
        last = next((block for block in self.store.envelopes(stream_id, reverse=True, limit=1) if block), None)
        if last is None:
            return self.store.get_stream_version(stream_id), -1
        return last[0].stream_version, payloads(last)[0].version

    def _note_end(self, stream_id: str, end: tuple[int, int]) -> None:
        if len(self._ends) >= KNOWN_ENDS:
            self._ends.clear()
        self._ends[stream_id] = end

    def _commit(self, runs: list[StreamEvents], *more: Append) -> dict[str, AppendResult]:
        """Append runs and `more`, all or nothing.

        Versions must grow in each stream. Where a stream ends is known from the last read or append; if another process
        has appended since, the append conflicts, and is made anew from the true end.
        """
        looked = set[str]()
        while True:
            ends = dict[str, tuple[int, int]]()
            appends = [self._placed(ends, looked, stream_id, given) for stream_id, given in runs]
            try:
                results = self.store.append_many([*appends, *more], retry=False)
            except ConcurrencyError as conflict:
                if conflict.stream_id not in ends:
                    raise
                looked.add(conflict.stream_id)
                self._ends.pop(conflict.stream_id, None)
                continue
            for stream_id, end in ends.items():
                self._note_end(stream_id, end)
            return results

    def _placed(
        self, ends: dict[str, tuple[int, int]], looked: set[str], stream_id: str, given: list[tuple[int, str, bytes]]
    ) -> Append:
        """Return the append of events to a stream, whose end is in `ends` then."""
        end, first = ends.get(stream_id) or self._ends.get(stream_id), given[0][0]
        if end is None and first in (0, 1) and stream_id not in looked:
            end = (NO_STREAM, -1)  # It is most likely a new aggregate.
        elif end is None or (first <= end[1] and stream_id not in ends):  # Or it was deleted, and begins anew.
            end = self._end(stream_id)
        expected, version = end
        made = []
        for each, event_type, state in given:
            if each <= version:
                raise IntegrityError(f"{stream_id} is at version {version}, so there can be no new version {each}")
            version = each
            made.append(EncodedEvent(event_type, b'{"version":%d,%b}' % (each, state)))
        ends[stream_id] = expected + len(made), version
        return stream_id, made, expected
