"""Events whose payload is JSON already: they are checked, and stored without encoding them again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import repeat
from operator import attrgetter
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
from hangarlog.record.nesting import MAX_NESTING
from hangarlog.record.timestamp import as_recorded

_decode_lines = msgspec.json.Decoder(dict[str, Any]).decode_lines
_encode_lines = msgspec.json.Encoder().encode_lines
_data, _types = attrgetter("data"), attrgetter("event_type")
_rest = attrgetter("event_id", "metadata", "recorded_at")


class EncodedEvent(msgspec.Struct, frozen=True):
    """An event whose payload is JSON already. Append it like any other event.

    `data` is a JSON object, with its schema version as `_version`; none means 1. It is stored as given, but for blanks
    between its tokens. `event_id` is made if it is None; one inside `data` does not count.
    `metadata` (a dictionary, or a JSON object as bytes; empty bytes mean none) belongs to this event; with an append's
    own metadata, both are stored, and this one wins. `recorded_at` is an aware datetime, or RFC 3339 text; None means
    now. Both `data` and `metadata` may be the `msgspec.Raw` of an `Envelope`.
    """

    event_type: str
    data: bytes | msgspec.Raw
    event_id: str | UUID | None = None
    metadata: dict[str, Any] | bytes | msgspec.Raw | None = None
    recorded_at: datetime | str | None = None


def encode_given(event: EncodedEvent) -> Encoded:
    """Check an event and return what an append stores of it. Raises `EventSerializationError`."""
    name = checked_type(event.event_type)
    try:
        if not isinstance(event.data, (bytes, bytearray, memoryview, msgspec.Raw)):
            raise TypeError(f"data must be the bytes of a JSON object, not {type(event.data).__name__}")
        data = _checked(bytes(event.data))
        time = None if event.recorded_at is None else _time(event.recorded_at)
    except FAILURES as error:
        raise EventSerializationError(name, f"cannot be stored: {error}") from error
    return name, own_id(name, event.event_id), data, time, _metadata(event.metadata)


def encode_given_all(events: Sequence[EncodedEvent]) -> list[Encoded] | None:
    """Return what `encode_given` returns of each event. Return None if one of them needs a closer look.

    All payloads are decoded and written again in two calls. If that gives the same text, each is what a line holds.
    """
    datas = list(map(_data, events))
    if set(map(type, datas)) != {bytes}:
        return None
    text = b"%b\n" % b"\n".join(datas)
    try:
        payloads = _decode_lines(text)
        if len(payloads) != len(datas) or _encode_lines(payloads) != text:
            return None
        if b'"_version"' in text:
            for payload in payloads:
                check_version(payload.get("_version", 1))
        del payloads  # They may be large.
        types = list(map(_types, events))
        for name in set(types):
            checked_type(name)
    except (*FAILURES, EventSerializationError):
        return None
    if max(map(len, datas)) > 2 * MAX_NESTING and any(map(too_deep, datas)):
        return None
    rest = list(map(_rest, events))
    if set(map(type, rest[0])) == {type(None)} and rest.count(rest[0]) == len(rest):
        return list(zip(types, repeat(None), datas, repeat(None), repeat(None)))
    try:
        return [
            (name, own_id(name, event_id), data, None if time is None else _time(time), _metadata(metadata))
            for name, data, (event_id, metadata, time) in zip(types, datas, rest, strict=True)
        ]
    except (*FAILURES, EventSerializationError):
        return None


def _checked(data: bytes) -> bytes:
    """Return a payload in the form that a line holds: compact, without repeated keys, not too deep."""
    payload = decode_object(data)
    check_version(payload.get("_version", 1))
    try:
        plain = encode_plain(payload)
    except OverflowError:  # An integer of more than 64 bits.
        plain = None
    if plain != data:  # As json.dumps writes it, with blanks.
        data = msgspec.json.format(data, indent=-1)
    if plain == data and not too_deep(data):  # With a repeated key, the text would be longer.
        return data
    return checked_json(data)


def _time(given: datetime | str) -> str:
    if not isinstance(given, (datetime, str)):
        raise TypeError(f"recorded_at must be a datetime or text, not {type(given).__name__}")
    moment = datetime.fromisoformat(given) if isinstance(given, str) else given
    if moment.utcoffset() is None:
        raise ValueError(f"recorded_at {given!s} has no time zone; give it one, such as datetime.UTC")
    return as_recorded(moment)


def _metadata(given: dict[str, Any] | bytes | msgspec.Raw | None) -> bytes | None:
    if given is None:
        return None
    if isinstance(given, (bytes, msgspec.Raw)):
        given = bytes(given)
        if not given:  # The metadata of an envelope without any.
            return None
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
