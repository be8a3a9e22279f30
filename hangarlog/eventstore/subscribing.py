"""The part of the public interface that follows a store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Generic, Literal, overload

import msgspec

from hangarlog.errors import CursorNameError
from hangarlog.eventstore.arguments import flag, is_whole, seconds_or_none, whole_number
from hangarlog.eventstore.cursor import check_cursor_name
from hangarlog.eventstore.finding import ENVELOPE
from hangarlog.eventstore.named import NamedSubscription
from hangarlog.eventstore.record import Event, Record
from hangarlog.eventstore.selection import OnDamage, Span, selection, skips
from hangarlog.eventstore.share import share_name, split_name
from hangarlog.eventstore.subscribers import Subscribers
from hangarlog.eventstore.subscription import Reading, Subscription
from hangarlog.eventstore.tail import Tail
from hangarlog.record.envelope import Envelope

Start = int | Literal["end"]
Categories = str | Collection[str]
EventTypes = str | type | Collection[str | type]


class Subscribing(Subscribers[Event], Generic[Event]):
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
        name: None = None,
        batch: int | None = None,
        workers: int | None = None,
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
        name: None = None,
        batch: int | None = None,
        workers: int | None = None,
        timeout: float | None = None,
        heartbeat: float,
        durable: bool | None = None,
        on_damage: OnDamage = "raise",
    ) -> Subscription[Record[Event] | None]: ...
    @overload
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        stream_id: str | None = None,
        category: Categories | None = None,
        not_category: Categories | None = None,
        event_types: EventTypes | None = None,
        name: str,
        batch: int | None = None,
        workers: int | None = None,
        timeout: float | None = None,
        heartbeat: None = None,
        durable: bool | None = None,
        on_damage: OnDamage = "raise",
    ) -> NamedSubscription[Record[Event]]: ...
    @overload
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        stream_id: str | None = None,
        category: Categories | None = None,
        not_category: Categories | None = None,
        event_types: EventTypes | None = None,
        name: str,
        batch: int | None = None,
        workers: int | None = None,
        timeout: float | None = None,
        heartbeat: float,
        durable: bool | None = None,
        on_damage: OnDamage = "raise",
    ) -> NamedSubscription[Record[Event] | None]: ...
    def subscribe(
        self,
        from_position: Start = 0,
        *,
        stream_id: str | None = None,
        category: Categories | None = None,
        not_category: Categories | None = None,
        event_types: EventTypes | None = None,
        name: str | None = None,
        batch: int | None = None,
        workers: int | None = None,
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

        With a `name`, it begins at the cursor of that name, or at `from_position` if there is none. Then only one
        subscription of that name delivers at a time, the others wait. With `batch`, the cursor moves by itself, behind
        each `batch` events, when none are left, and at the end: an event is processed when you ask for the next one.
        Without, you move it: see `NamedSubscription`. With `workers`, so many subscriptions deliver at a time: the
        events of a stream come in order, to one of them.

        Raises:
            PositionError: `from_position` is beyond the last event.
            CursorNameError: the name is invalid.
            WorkersError: the named subscriber has cursors of another number of workers.
            EventsGoneError: the stream's events after `from_position` are compacted or deleted.

        The subscription raises these, and what `records` raises. Iterate again after an error to try it again.
        """
        filters = {
            "category": category,
            "not_category": not_category,
            "event_types": event_types,
            "on_damage": on_damage,
        }
        if name is None and not (batch is None and workers is None):
            raise TypeError("batch and workers need a name")
        named = None if name is None else _named(name, batch, workers)
        seconds = seconds_or_none("timeout", timeout), seconds_or_none("heartbeat", heartbeat)
        reading, tail = self._following(from_position, stream_id, filters, durable)
        if named is None:
            return Subscription(tail, reading, *seconds)
        hides = stream_id is None and category is None
        return NamedSubscription(tail, reading, *seconds, store=self, hides_parked=hides, **named)

    def _following(
        self, from_position: Start, stream_id: str | None, filters: dict[str, Any], durable: bool | None
    ) -> tuple[Reading, Tail]:
        selected = selection(stream_id, filters, self.serializer)
        selected = msgspec.structs.replace(selected, stream_id=None, of_stream=selected.stream_id)
        durable = self._follows_durable if durable is None else flag("durable", durable)
        if from_position != "end" and not is_whole(from_position):
            raise TypeError(f"from_position must be a whole number or 'end', not {from_position!r}")
        start = from_position if is_whole(from_position) else None
        pairs = selected.parts_of(self.serializer.blocks(*ENVELOPE, "batch_end").pairs)
        first_left = None if stream_id is None else lambda: self._first_left(selected.of_stream or "")
        reading = Reading(selected, pairs, self._record, self.serializer.chain.split_types(), first_left)
        skip = skips(selected.on_damage)
        return reading, self._tail(None if start is None else max(0, int(start)), durable=durable, skip=skip)

    def follow_envelopes(
        self,
        from_position: int,
        *,
        stream_id: str | None,
        heartbeat: float | None,
        durable: bool = False,
        **filters: Any,
    ) -> Subscription[Sequence[Envelope] | None]:
        """Yield the events after `from_position` as `envelopes` does, in blocks, and wait for more.

        `durable` yields an event once it is on the device, not once it is committed. `heartbeat` is that of
        `subscribe`, which also has the filters. No event types need to be registered. Events
        that were compacted meanwhile come, too.
        """
        selected = selection(stream_id, filters, self.serializer)
        selected = msgspec.structs.replace(selected, stream_id=None, of_stream=selected.stream_id)
        tail = self._tail(from_position, durable=durable, skip=skips(selected.on_damage))
        reading = Reading(selected, lambda part: [(part[-1], part)] if part else [], lambda _, part: part)
        return Subscription(tail, reading, None, heartbeat)

    def _first_left(self, stream_id: str) -> tuple[int, int | None]:
        """Return (the first version of a stream that is not hidden, the position of its first event left or None)."""
        snapshot = self._load_snapshot(stream_id)
        if snapshot is None or snapshot.compacted_through < 0:
            return 0, None
        first = next((block[0] for block in self._blocks(Span(stream_id, limit=1))), None)
        return snapshot.compacted_through + 1, first.position if first else None


def _named(name: str, batch: int | None, workers: int | None) -> dict[str, Any]:
    """Return the checked arguments of a named subscription."""
    if split_name(check_cursor_name(name))[2] is not None:
        raise CursorNameError(name, "it is the name of a share; use the name before '#', and workers=")
    for what, number in (("batch", batch), ("workers", workers)):
        if number is not None and whole_number(what, number) < 1:
            raise ValueError(f"{what} must be at least 1, not {number}")
    check_cursor_name(share_name(name, (workers or 1) - 1, workers))
    return {"name": name, "batch": batch, "workers": workers}
