"""The part of the public interface that follows a store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Generic, Literal, overload

import msgspec

from hangarlog.eventstore.arguments import flag, is_whole, seconds_or_none
from hangarlog.eventstore.finding import ENVELOPE, Finding
from hangarlog.eventstore.record import Event, Record
from hangarlog.eventstore.selection import OnDamage, Span, selection, skips
from hangarlog.eventstore.subscription import Reading, Subscription
from hangarlog.record.envelope import Envelope

Start = int | Literal["end"]
Categories = str | Collection[str]
EventTypes = str | type | Collection[str | type]


class Subscribing(Finding[Event], Generic[Event]):
    """Subscriptions to the events of a store."""

    @overload
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        stream_id: str | None = None,
        category: Categories | None = None,
        not_category: Categories | None = None,
        event_types: EventTypes | None = None,
        timeout: float | None = None,
        heartbeat: None = None,
        durable: bool | None = None,
        on_damage: OnDamage = "raise",
    ) -> Subscription[Record[Event]]: ...
    @overload
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        stream_id: str | None = None,
        category: Categories | None = None,
        not_category: Categories | None = None,
        event_types: EventTypes | None = None,
        timeout: float | None = None,
        heartbeat: float,
        durable: bool | None = None,
        on_damage: OnDamage = "raise",
    ) -> Subscription[Record[Event] | None]: ...
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        stream_id: str | None = None,
        category: Categories | None = None,
        not_category: Categories | None = None,
        event_types: EventTypes | None = None,
        timeout: float | None = None,
        heartbeat: float | None = None,
        durable: bool | None = None,
        on_damage: OnDamage = "raise",
    ) -> Subscription[Any]:
        """Iterate over the events after `from_position` (exclusive), and wait for those that come.

        The events come in the order of their positions, each once, and as `records` yields them. `from_position="end"`
        begins after the last event that is visible now. The filters are those of `records`: see `ReadOptions`. The
        iteration ends after `timeout` seconds without a wanted event (None: never), and when `stop` is called. With
        `heartbeat`, None comes each time that so many seconds pass without a wanted event.

        `durable` delivers an event once it is on the device; False, once it is committed. By default it is True, unless
        this store was opened with the durability "relaxed". Events that others append relaxed, and do not sync, are
        synced by the subscription after a second.

        Raises:
            PositionError: `from_position` is beyond the last event.
            EventsGoneError: the stream's events after `from_position` are compacted or deleted.

        The subscription raises these, and what `records` raises. Iterate again after an error to try it again.
        """
        filters = {
            "category": category,
            "not_category": not_category,
            "event_types": event_types,
            "on_damage": on_damage,
        }
        selected = selection(stream_id, filters, self.serializer)
        selected = msgspec.structs.replace(selected, stream_id=None, of_stream=selected.stream_id)
        durable = self._follows_durable if durable is None else flag("durable", durable)
        if from_position != "end" and not is_whole(from_position):
            raise TypeError(f"from_position must be a whole number or 'end', not {from_position!r}")
        start = from_position if is_whole(from_position) else None
        tail = self._tail(None if start is None else max(0, int(start)), durable=durable, skip=skips(on_damage))
        pairs = selected.parts_of(self.serializer.blocks(*ENVELOPE).pairs)
        first_left = None if stream_id is None else lambda: self._first_left(selected.of_stream or "")
        reading = Reading(selected, pairs, self._record, self.serializer.chain.split_types(), first_left)
        seconds = seconds_or_none("timeout", timeout), seconds_or_none("heartbeat", heartbeat)
        return Subscription(tail, reading, *seconds)

    def follow_envelopes(
        self, from_position: int, *, stream_id: str | None, heartbeat: float, **filters: Any
    ) -> Subscription[Sequence[Envelope] | None]:
        """Yield the committed events after `from_position` as `envelopes` does, in blocks, and wait for more.

        `heartbeat` is that of `subscribe`, which also has the filters. No event types need to be registered. Events
        that were compacted meanwhile come, too.
        """
        selected = selection(stream_id, filters, self.serializer)
        selected = msgspec.structs.replace(selected, stream_id=None, of_stream=selected.stream_id)
        tail = self._tail(from_position, durable=False, skip=skips(selected.on_damage))
        reading = Reading(selected, lambda part: [(part[-1], part)] if part else [], lambda _, part: part)
        return Subscription(tail, reading, None, heartbeat)

    def _first_left(self, stream_id: str) -> tuple[int, int | None]:
        """Return (the first version of a stream that is not hidden, the position of its first event left or None)."""
        snapshot = self._load_snapshot(stream_id)
        if snapshot is None or snapshot.compacted_through < 0:
            return 0, None
        first = next((block[0] for block in self._blocks(Span(stream_id, limit=1))), None)
        return snapshot.compacted_through + 1, first.position if first else None
