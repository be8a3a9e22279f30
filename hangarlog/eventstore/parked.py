"""Parked events: those that a subscriber could not process, in a stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from hangarlog.errors import EventsDroppedError, EventSerializationError, EventsGoneError, UpcastingError
from hangarlog.events.encoded_event import EncodedEvent
from hangarlog.eventstore.arguments import refuse_awaitable
from hangarlog.eventstore.expected_version import ANY
from hangarlog.eventstore.finding import ENVELOPE, Finding
from hangarlog.eventstore.pending import pending
from hangarlog.eventstore.record import Record
from hangarlog.eventstore.selection import Span
from hangarlog.record.cursor_move import CursorMove
from hangarlog.record.envelope import Envelope

CATEGORY = "parked"
PARKED, REPLAYED = "hangarlog.Parked", "hangarlog.Replayed"
_CAUSE_CHARACTERS = 2000
Failures = tuple[type[BaseException], ...]
Handler = Callable[[Record[Any]], object]


class ParkedEvent(msgspec.Struct, frozen=True):
    """An event that a subscriber could not process.

    `cause` is what the last attempt raised, and `attempts` the number of calls of the handler: 0 if the event cannot be
    read, or follows a parked one of its stream.
    """

    position: int
    stream_id: str
    stream_version: int
    event_type: str
    event_id: str
    cause: str
    attempts: int


class _Replayed(msgspec.Struct):
    position: int


def parked_stream(name: str) -> str:
    """Return the id of the stream of a subscriber's parked events."""
    return f"{CATEGORY}:{name}"


def park(store: Finding[Any], name: str, event: ParkedEvent, move: CursorMove | None = None) -> int:
    """Park an event, and make a move in the same append. Return the version of the stream of parked events."""
    return _append(store, name, EncodedEvent(PARKED, msgspec.json.encode(event)), move)


def mark_replayed(store: Finding[Any], name: str, event: ParkedEvent) -> None:
    """Note that a parked event was processed."""
    _append(store, name, EncodedEvent(REPLAYED, msgspec.json.encode(_Replayed(event.position))), None)


def _append(store: Finding[Any], name: str, event: EncodedEvent, move: CursorMove | None) -> int:
    one = pending(store.serializer, parked_stream(name), [event], ANY, None, True, False)
    results = store._commit([msgspec.structs.replace(one, cursor=move) if move else one])
    return int(results[one.stream_id])


def parked_events(store: Finding[Any], name: str) -> list[ParkedEvent]:
    """Return the parked events that were not replayed yet, in the order of their positions."""
    found: dict[int, ParkedEvent] = {}
    for block in store._blocks(Span(parked_stream(name))):
        for envelope in block:
            if envelope.event_type == PARKED:
                event = msgspec.json.decode(envelope.data, type=ParkedEvent)
                found[event.position] = event
            elif envelope.event_type == REPLAYED:
                found.pop(msgspec.json.decode(envelope.data, type=_Replayed).position, None)
    return [found[position] for position in sorted(found)]


def attempt(
    handler: Handler,
    records: Sequence[Record[Any]],
    attempts: int,
    passed_on: Failures,
    is_done: Callable[[Record[Any]], bool] = lambda record: False,
) -> None:
    """Call the handler for every record, each up to `attempts` times. Raises what the last attempt raised.

    What `passed_on` names is raised at once, and so is any error if the event `is_done` all the same.
    """
    for record in records:
        for left in reversed(range(attempts)):
            try:
                refuse_awaitable(handler(record))
                break
            except passed_on:
                raise
            except Exception:
                if not left or is_done(record):
                    raise


def cause_of(error: BaseException) -> str:
    """Return an error as text of a limited length."""
    text = f"{type(error).__name__}: {error}"
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _CAUSE_CHARACTERS else f"{text[:_CAUSE_CHARACTERS]}…"


def envelope_at(store: Finding[Any], position: int) -> Envelope:
    """Return the envelope at a position. Raises `EventsGoneError`, and what reads raise."""
    try:
        envelope = next((block[0] for block in store._blocks(Span(None, position - 1, limit=1))), None)
    except EventsDroppedError as error:
        raise EventsGoneError("the store", position - 1, error.first) from error
    if envelope is None or envelope.position != position:
        raise EventsGoneError("the store", position - 1, envelope.position if envelope else None)
    return envelope


def records_of(store: Finding[Any], envelope: Envelope) -> list[Record[Any]]:
    """Return the records that an event is read as: none if its type is dropped, several if it is split."""
    return [store._record(*pair) for pair in store.serializer.blocks(*ENVELOPE).pairs([envelope])]


UNREADABLE = EventSerializationError, UpcastingError
"""What a read raises at an event that cannot be read. The error has its position."""
