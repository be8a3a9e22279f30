"""Events to payloads and back: the type and version maps, the upcaster chain, msgspec."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

import msgspec

from hangarlog.errors import EventSerializationError, UnknownEventTypeError, UpcastingError
from hangarlog.event import (
    EVENT_TYPE_MAP,
    EVENT_VERSION_MAP,
    UntypedEvent,
    canonical_name,
    check_event_class,
    field_names,
    get_current_version,
    stored_name,
    target_version,
)
from hangarlog.payload import (
    FAILURES,
    checked_json,
    decode_object,
    encode_plain,
    may_hold_raw,
    refuse_non_finite,
    too_deep,
)
from hangarlog.record import MAX_NESTING, EncodedEvent
from hangarlog.typed import TypedBlocks
from hangarlog.upcaster import UpcasterChain

Hook = Callable[[Any], Any]
_event_id = attrgetter("event_id")
_raw = msgspec.json.Decoder(msgspec.Raw)
_skip, _skip_lines = _raw.decode, _raw.decode_lines
_null_in = re.compile(b"null").search  # Twice as quick as `in` for a long text.


class EventSerializer:
    """Serializes events; safe to share between threads.

    Args:
        upcaster_chain: the steps that bring old payloads to their current version.
        unknown: what to do with a stored event type nobody registered: raise an "error", or give an `UntypedEvent`.
        enc_hook: msgspec's hook for encoding objects it does not know.
        dec_hook: msgspec's hook for decoding into types it does not know.

    Raises:
        UpcastingError: a version in `EVENT_VERSION_MAP` is not reached by a whole chain ("Missing upcaster …").
    """

    def __init__(
        self,
        upcaster_chain: UpcasterChain | None = None,
        *,
        unknown: Literal["error", "untyped"] = "error",
        enc_hook: Hook | None = None,
        dec_hook: Callable[[type, Any], Any] | None = None,
    ) -> None:
        if unknown not in ("error", "untyped"):
            raise ValueError(f"unknown must be 'error' or 'untyped', not {unknown!r}")
        self.chain = upcaster_chain if upcaster_chain is not None else UpcasterChain()
        self.unknown = unknown
        self._enc_hook, self._dec_hook = enc_hook, dec_hook
        encoder = msgspec.json.Encoder(enc_hook=enc_hook)
        self._encode, self._encode_lines = encoder.encode, encoder.encode_lines
        self._writers: dict[type, _Writer] = {}
        self._readers: dict[str, _Reader] = {}
        self._blocks: dict[tuple[str, ...], TypedBlocks] = {}
        self.check()

    def check(self) -> None:
        """Raise `UpcastingError` unless every registered type's chain is whole; the store asks again when it opens."""
        for event_type in {**EVENT_TYPE_MAP, **EVENT_VERSION_MAP}:
            self.chain.check(event_type, target_version(event_type), canonical_name(event_type))

    def serialize(self, event: Any) -> tuple[str, str]:
        """(event type, payload as JSON text with `_version` first).

        Raises:
            EventSerializationError: the event cannot be stored as JSON and read back the same.
        """
        event_type, _, data, _ = self.encode(event)
        return event_type, data.decode()

    def deserialize(self, event_type: str, data: str | bytes) -> Any:
        """The event that a payload holds, brought to its current schema version.

        Raises:
            UnknownEventTypeError: no class is registered for the type (and `unknown` is not "untyped").
            EventSerializationError: the payload is no JSON object, or does not fit the class.
            UpcastingError: an upcaster is missing or fails, or the payload is newer than the version known here.
        """
        try:
            raw = data.encode() if isinstance(data, str) else data
        except UnicodeEncodeError as error:
            raise EventSerializationError(event_type, str(error)) from error
        return self.reader(event_type)(raw)

    def encode(self, event: Any) -> EncodedEvent:
        """An event ready for the log. Raises `EventSerializationError`."""
        writer = self._writers.get(type(event))
        if writer is None or not writer.current():
            if isinstance(event, UntypedEvent):
                return _encode_untyped(event)
            writer = self._new_writer(type(event))
        try:
            value = event if writer.fields is None else _attributes(event, writer.fields)
            body = self._encode(value)
            if b"null" in body:  # What NaN becomes in msgspec; a look at the values tells it from None.
                refuse_non_finite(msgspec.to_builtins(value, enc_hook=self._enc_hook))
            data = writer.head + (body[1:] if body == b"{}" else b"," + body[1:])
            if writer.raw_in_fields or writer.fields is not None or len(data) > 2 * MAX_NESTING or b"\n" in data:
                data = checked_json(data, decode_object if writer.may_hold_raw(value) else _skip)
            else:
                _skip(data)
        except FAILURES as error:
            raise EventSerializationError(writer.event_type, f"cannot be encoded as JSON: {error}") from error
        event_id = getattr(event, "event_id", None)
        if event_id is not None and (type(event_id) is not str or not event_id or not event_id.isascii()):
            event_id = _own_id(writer.event_type, event_id)
        return writer.event_type, event_id, data, None

    def encode_all(self, events: Sequence[Any]) -> list[EncodedEvent]:
        """As `encode` of each."""
        if len(events) == 1:
            return [self.encode(events[0])]
        encoded = self._encode_alike(events) if events else None
        return encoded if encoded is not None else [self.encode(event) for event in events]

    def _encode_alike(self, events: Sequence[Any]) -> list[EncodedEvent] | None:
        """Structs of one class in a few calls for all of them; None where one is another, or needs a closer look."""
        event_class = type(events[0])
        if not issubclass(event_class, msgspec.Struct) or set(map(type, events)) != {event_class}:
            return None
        writer = self._writers.get(event_class)
        if writer is None or not writer.current():
            if event_class is UntypedEvent:
                return None
            writer = self._new_writer(event_class)
        try:
            text = self._encode_lines(events)
            _skip_lines(text)
        except FAILURES:
            return None  # `encode` says of which.
        bodies, ids = text.split(b"\n")[:-1], _own_ids(events)
        unlike = writer.raw_in_fields or _null_in(text) or len(bodies) != len(events) or b"{}" in bodies
        if ids is None or unlike or any(too_deep(body) for body in bodies if len(body) > 2 * MAX_NESTING):
            return None
        head = writer.head + b","
        datas = [head + body[1:] for body in bodies]
        return list(zip(repeat(writer.event_type), ids, datas, repeat(None)))

    def _new_writer(self, event_class: type) -> _Writer:
        writer = self._writers[event_class] = _Writer(event_class, self.chain)
        return writer

    def blocks(self, *fields: str) -> TypedBlocks:
        """What turns blocks of records into events, each with these fields of its envelope."""
        blocks = self._blocks.get(fields)
        if blocks is None:
            blocks = self._blocks[fields] = TypedBlocks(self.reader, self._dec_hook, fields)
        return blocks

    def reader(self, event_type: str) -> _Reader:
        """What turns payload bytes of a stored event type into an event. Resolve it once a read."""
        reader = self._readers.get(event_type)
        if reader is None or not reader.current():
            reader = self._readers[event_type] = self._new_reader(event_type)
        return reader

    def _new_reader(self, event_type: str) -> _Reader:
        event_class = EVENT_TYPE_MAP.get(event_type)
        if event_class is None and self.unknown == "error":
            known = ", ".join(sorted(EVENT_TYPE_MAP)[:8]) or "none"
            raise UnknownEventTypeError(
                event_type,
                "no class is registered for this event type; register it with register_event_type, or read it "
                f"untyped with EventSerializer(unknown='untyped'); known types: {known}",
            )
        return _Reader(event_type, event_class, self.chain, self._dec_hook)


class _Writer:
    """How events of one class are written."""

    def __init__(self, event_class: type, chain: UpcasterChain) -> None:
        self.event_type = stored_name(event_class)
        self._mapped = EVENT_TYPE_MAP.get(self.event_type)
        check_event_class(self.event_type, event_class)
        self._version = get_current_version(self.event_type)
        chain.check(self.event_type, self._version, canonical_name(self.event_type))
        self.head = b'{"_version":%d' % self._version
        self.raw_in_fields = may_hold_raw(event_class)
        # A Struct is encoded as it is; other classes may carry attributes beside their fields.
        self.fields = None if issubclass(event_class, msgspec.Struct) else field_names(event_class)

    def current(self) -> bool:
        """Whether the maps still say what they said."""
        name = self.event_type
        return EVENT_VERSION_MAP.get(name, 1) == self._version and EVENT_TYPE_MAP.get(name) is self._mapped

    def may_hold_raw(self, value: Any) -> bool:
        """Whether a msgspec.Raw may be in an event that is to be encoded as `value`."""
        return self.raw_in_fields or (self.fields is not None and len(value) > len(self.fields))


class _Reader:
    """How payloads of one stored event type are read."""

    def __init__(
        self,
        event_type: str,
        event_class: type | None,
        chain: UpcasterChain,
        dec_hook: Callable[[type, Any], Any] | None,
    ) -> None:
        self._event_type, self.event_class, self._chain, self._dec_hook = event_type, event_class, chain, dec_hook
        self.version = target_version(event_type)
        self._alias_of = canonical_name(event_type)
        self._extras: _Extras | None = None
        self.plain = event_class is not None and issubclass(event_class, msgspec.Struct)
        if event_class is None:
            return
        chain.check(event_type, self.version, self._alias_of)
        self._list: Any = list[event_class]  # type: ignore[valid-type]
        self._heads = (b'{"_version":%d,' % self.version, b'{"_version":%d}' % self.version)
        try:
            decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(event_class, dec_hook=dec_hook)
        except (TypeError, NameError) as error:
            raise EventSerializationError(
                event_type, f"{event_class.__qualname__} cannot be decoded: {error}"
            ) from error
        self._decode = decoder.decode
        if not self.plain:
            self._extras = _Extras(field_names(event_class))

    def current(self) -> bool:
        """Whether the maps still say what they said."""
        name = self._event_type
        return EVENT_TYPE_MAP.get(name) is self.event_class and target_version(name) == self.version

    def __call__(self, data: Any) -> Any:
        raw = bytes(data)
        try:
            if self.event_class is None:
                return self._untyped(raw)
            if not raw.startswith(self._heads):
                return self._old(raw)
            event = self._decode(raw)
            return event if self._extras is None else self._extras.restore(event, raw)
        except FAILURES as error:
            raise EventSerializationError(self._event_type, f"the stored payload does not fit: {error}") from error

    def upcast_all(self, payloads: list[dict[str, Any]], version: int) -> list[Any]:
        """The events of decoded payloads that are of one older version.

        Raises one of `FAILURES` where any of them fails; a call for each says which, and why.
        """
        for payload in payloads:
            payload.pop("_version", None)
        payloads = self._chain.upcast_all(
            self._event_type, version, payloads, current_version=self.version, alias_of=self._alias_of
        )
        events: list[Any] = msgspec.convert(payloads, self._list, dec_hook=self._dec_hook, str_keys=True)
        if self._extras is not None:
            for payload, event in zip(payloads, events, strict=True):
                self._extras.set_from(payload, event)
        return events

    def _untyped(self, raw: bytes) -> UntypedEvent:
        payload = decode_object(raw)
        return UntypedEvent(self._event_type, payload, self._take_version(payload))

    def _old(self, raw: bytes) -> Any:
        payload = decode_object(raw)
        version = self._take_version(payload)
        if version > self.version:
            raise UpcastingError(
                event_type=self._event_type,
                from_version=version,
                message=f"{self._event_type!r} is stored with schema version {version}, newer than {self.version}, "
                "the one known here; a newer program wrote it: upgrade this one",
            )
        _, payload = self._chain.upcast(
            self._event_type, version, payload, current_version=self.version, alias_of=self._alias_of
        )
        event = msgspec.convert(payload, self.event_class, dec_hook=self._dec_hook, str_keys=True)
        return event if self._extras is None else self._extras.set_from(payload, event)

    @staticmethod
    def _take_version(payload: dict[str, Any]) -> int:
        version = payload.pop("_version", 1)
        if type(version) is not int or version < 1:
            raise ValueError(f"_version must be a whole number from 1 up, not {version!r}")
        return version


_IDENTITY = {"event_id": None, "occurred_at": None}


class _Extras:
    """Attributes that an event carries beside its fields, as MCP Hangar's `event_id` and `occurred_at`.

    Those are set back whose names a fresh event has, and these two where they were stored.
    """

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._fields = frozenset(fields)
        self._decoders: dict[tuple[str, ...], Callable[[bytes], Any]] = {}

    def restore(self, event: Any, raw: bytes) -> Any:
        """Set the stored values back on a fresh event."""
        names = self._names_on(event)
        decode = self._decoders.get(names)
        if decode is None:
            wanted = msgspec.defstruct("Extras", [(name, Any, msgspec.UNSET) for name in names])
            decode = self._decoders[names] = msgspec.json.Decoder[Any](wanted).decode
        stored = decode(raw)
        for name in names:
            self._set(event, name, getattr(stored, name))
        return event

    def set_from(self, payload: dict[str, Any], event: Any) -> Any:
        """The same from a decoded payload."""
        for name in self._names_on(event):
            self._set(event, name, payload.get(name, msgspec.UNSET))
        return event

    def _names_on(self, event: Any) -> tuple[str, ...]:
        attributes = getattr(event, "__dict__", None)
        if attributes is None:
            return ()
        names = {**attributes, **_IDENTITY}
        return tuple(name for name in names if name not in self._fields and not name.startswith("_"))

    @staticmethod
    def _set(event: Any, name: str, value: Any) -> None:
        if value is msgspec.UNSET:
            return
        fresh = getattr(event, name, None)
        if fresh is not None and value is not None and type(value) is not type(fresh):
            value = msgspec.convert(value, type(fresh))  # A time or a UUID is text in JSON.
        object.__setattr__(event, name, value)  # The class may be frozen.


def _attributes(event: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    attributes = {name: getattr(event, name) for name in fields}
    for name, value in getattr(event, "__dict__", {}).items():
        if name not in attributes and not name.startswith("_"):
            attributes[name] = value
    return attributes


def _own_id(event_type: str, event_id: Any) -> str | None:
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


def _own_ids(events: Sequence[Any]) -> list[Any] | None:
    """The events' own ids; None where one of them is not plain text."""
    try:
        ids = list(map(_event_id, events))
    except AttributeError:
        ids = [getattr(event, "event_id", None) for event in events]
    kinds = set(map(type, ids))
    plain = kinds == {type(None)} or (kinds == {str} and all(ids) and "".join(map(str, ids)).isascii())
    return ids if plain else None


def _encode_untyped(event: UntypedEvent) -> EncodedEvent:
    try:
        if not isinstance(event.event_type, str) or not event.event_type:
            raise TypeError(f"an event type must be text, not {event.event_type!r}")
        event.event_type.encode()
        if type(event.schema_version) is not int or event.schema_version < 1:
            raise ValueError(f"schema_version must be a whole number from 1 up, not {event.schema_version!r}")
        if "_version" in event.data:
            raise ValueError("the payload has a key _version, which is the schema version; give it as schema_version")
        refuse_non_finite(event.data)
        data = checked_json(encode_plain({"_version": event.schema_version, **event.data}))
    except FAILURES as error:
        raise EventSerializationError(str(event.event_type), f"cannot be encoded as JSON: {error}") from error
    return event.event_type, _own_id(event.event_type, event.event_id), data, None
