"""Events whose payload is JSON already: they are checked, and stored without encoding them again."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from hangarlog.errors import EventSerializationError
from hangarlog.events.payload import (
    FAILURES,
    check_version,
    checked_json,
    decode_object,
    encode_object,
    encode_plain,
    too_deep,
)
from hangarlog.record.envelope import Encoded
from hangarlog.record.timestamp import as_recorded


class EncodedEvent(msgspec.Struct, frozen=True):
    """An event whose payload is JSON already. Append it like any other event.

    `data` is a JSON object, with its schema version as `_version`; none means 1. `event_id` is made if it is None.
    `metadata` (a dictionary, or a JSON object as bytes) belongs to this event; with an append's own metadata, both are
    stored, and this one wins. `recorded_at` is an aware datetime, or RFC 3339 text; None means now.
    """

    event_type: str
    data: bytes
    event_id: str | UUID | None = None
    metadata: dict[str, Any] | bytes | None = None
    recorded_at: datetime | str | None = None


def encode_given(event: EncodedEvent) -> Encoded:
    """Check an event and return what an append stores of it. Raises `EventSerializationError`."""
    name = checked_type(event.event_type)
    try:
        if not isinstance(event.data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be the bytes of a JSON object, not {type(event.data).__name__}")
        data = _checked(bytes(event.data))
        time = None if event.recorded_at is None else _time(event.recorded_at)
    except FAILURES as error:
        raise EventSerializationError(name, f"cannot be stored: {error}") from error
    return name, own_id(name, event.event_id), data, time, _metadata(event.metadata)


def _checked(data: bytes) -> bytes:
    """Return a payload in the form that a line holds: compact, without repeated keys, not too deep."""
    payload = decode_object(data)
    check_version(payload.get("_version", 1))
    try:
        exact = encode_plain(payload) == data  # With spaces or a repeated key, the text would be longer.
    except OverflowError:  # An integer of more than 64 bits.
        exact = False
    if exact and not too_deep(data):
        return data
    return checked_json(msgspec.json.format(data, indent=-1))


def _time(given: datetime | str) -> str:
    if not isinstance(given, (datetime, str)):
        raise TypeError(f"recorded_at must be a datetime or text, not {type(given).__name__}")
    moment = datetime.fromisoformat(given) if isinstance(given, str) else given
    if moment.tzinfo is None:
        raise ValueError(f"recorded_at {given!s} has no time zone; give it one, such as datetime.UTC")
    return as_recorded(moment)


def _metadata(given: dict[str, Any] | bytes | None) -> bytes | None:
    if given is None:
        return None
    if isinstance(given, bytes):
        try:
            return checked_json(msgspec.json.format(given, indent=-1))
        except FAILURES as error:
            raise EventSerializationError("metadata", f"cannot be stored: {error}") from error
    return encode_object(given, "metadata")


def checked_type(event_type: object) -> str:
    """Return an event type if it is text that a line can hold. Raises `EventSerializationError`."""
    try:
        if not isinstance(event_type, str) or not event_type:
            raise TypeError(f"an event type must be text, not {event_type!r}")
        event_type.encode()
    except FAILURES as error:
        raise EventSerializationError(str(event_type), str(error)) from error
    return event_type


def own_id(event_type: str, event_id: Any) -> str | None:
    """Return an event's own id as text, None if it has none. Raises `EventSerializationError`."""
    if event_id is None:
        return None
    if isinstance(event_id, UUID):
        return str(event_id)
    if not isinstance(event_id, str) or not event_id:
        raise EventSerializationError(event_type, f"event_id must be text or a UUID, not {event_id!r}")
    try:
        event_id.encode()
    except UnicodeEncodeError as error:
        raise EventSerializationError(event_type, f"event_id: {error}") from error
    return event_id
