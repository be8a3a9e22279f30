"""The serializer: converts events to payloads and back, with a registry, an upcaster chain and msgspec."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from itertools import repeat
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

import msgspec

from hangarlog.errors import EventSerializationError, UnknownEventTypeError, UpcastingError
from hangarlog.events.block_reader import Parts, Reader, TypedBlocks
from hangarlog.events.payload import (
    FAILURES,
    checked_json,
    decode_object,
    encoded_object,
    is_plain,
    may_hold_raw,
    skip,
    too_deep,
)
from hangarlog.events.payload_reader import DroppedReader, PayloadReader, SplitReader, untyped
from hangarlog.events.registry import DEFAULT_REGISTRY, EventRegistry, UntypedEvent, check_event_class, field_names
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.record.envelope import EncodedEvent
from hangarlog.record.nesting import MAX_NESTING

Hook = Callable[[Any], Any]
_event_id = attrgetter("event_id")
_MAX_READERS = 10_000  # A store may have any number of types that are not registered.
_LARGE_BYTES = 64 << 10  # For a larger payload, checking the values is faster than decoding the text.
_skip_lines = msgspec.json.Decoder(msgspec.Raw).decode_lines
_null_in = re.compile(b"null").search  # Twice as fast as `in` for a long text.


class EventSerializer:
    """Converts events to payloads and back. Threads may share it.

    Args:
        upcaster_chain: the upcasters and splitters that bring old payloads to their current version.
        registry: the event types, by default those registered with `hangarlog.event`.
        unknown: how to read an unregistered event type: "error" raises, "untyped" returns an `UntypedEvent`.
        newer: how to read a payload of a newer version than the registry's: "error" raises, "pass" decodes it as the
            class and ignores unknown fields, "raw" returns an `UntypedEvent`. "error" is the default because a program
            that writes back what it read would lose the ignored fields.
        unreadable: what reads of a store do at an event that cannot be read: "error" raises in its turn and names the
            place, "untyped" returns an `UntypedEvent` in its place, "skip" passes over it with an `UnreadableWarning`.
            It includes what `unknown` and `newer` leave at "error". `deserialize` raises where a payload does not fit.
        enc_hook: msgspec's hook for encoding objects of unknown types.
        dec_hook: msgspec's hook for decoding into unknown types.

    Raises:
        UpcastingError: the chain lacks an upcaster to a version in the registry ("Missing upcaster …").
    """

    def __init__(
        self,
        upcaster_chain: UpcasterChain | None = None,
        *,
        registry: EventRegistry = DEFAULT_REGISTRY,
        unknown: Literal["error", "untyped"] = "error",
        newer: Literal["error", "pass", "raw"] = "error",
        unreadable: Literal["error", "untyped", "skip"] = "error",
        enc_hook: Hook | None = None,
        dec_hook: Callable[[type, Any], Any] | None = None,
    ) -> None:
        if unknown not in ("error", "untyped"):
            raise ValueError(f"unknown must be 'error' or 'untyped', not {unknown!r}")
        if newer not in ("error", "pass", "raw"):
            raise ValueError(f"newer must be 'error', 'pass' or 'raw', not {newer!r}")
        if unreadable not in ("error", "untyped", "skip"):
            raise ValueError(f"unreadable must be 'error', 'untyped' or 'skip', not {unreadable!r}")
        if unreadable == "untyped":
            unknown = "untyped"
            newer = "raw" if newer == "error" else newer
        self.chain = upcaster_chain if upcaster_chain is not None else UpcasterChain()
        self.registry, self.unknown, self.newer, self.unreadable = registry, unknown, newer, unreadable
        self.enc_hook, self._dec_hook = enc_hook, dec_hook
        encoder = msgspec.json.Encoder(enc_hook=enc_hook)
        self._encode, self._encode_lines = encoder.encode, encoder.encode_lines
        self._writers: dict[type, _Writer] = {}
        self._readers: dict[str, Reader] = {}
        self._blocks: dict[tuple[str, ...], TypedBlocks] = {}
        self.check()

    def check(self) -> None:
        """Raise `UpcastingError` if the chain of a registered type is incomplete. A store calls it when it opens."""
        if _deferred.get():
            return
        registry = self.registry
        for event_type in {**registry.types, **registry.versions, **dict.fromkeys(self.chain.split_types())}:
            target = registry.target_version(event_type)
            self.chain.check(event_type, target, registry.canonical_name(event_type))
            split = self.chain.split_of(event_type)
            if split and event_type in registry.types and target <= split[0]:
                raise UpcastingError(
                    event_type=event_type,
                    from_version=target,
                    message=f"{event_type!r} is split at v{split[0]}, so its class must have a later version than "
                    f"{target}: events that you write would be split when they are read",
                )

    def serialize(self, event: Any) -> tuple[str, str]:
        """Return the event type and the payload, as JSON text with `_version` first.

        Raises:
            EventSerializationError: the event cannot be written as JSON and read back the same.
        """
        event_type, _, data, _ = self.encode(event)
        return event_type, data.decode()

    def deserialize(self, event_type: str, data: str | bytes) -> Any:
        """Return the event of a payload, brought to its current schema version.

        Raises:
            UnknownEventTypeError: no class is registered for the type (and `unknown` is not "untyped").
            EventSerializationError: the payload is not a JSON object or does not fit the class, or its type is split
                or dropped (use `deserialize_all`).
            UpcastingError: an upcaster is missing or fails, or the payload has a newer version than the registry's.
        """
        event = self._read(event_type, data)
        if type(event) is Parts:
            raise EventSerializationError(
                event_type, f"this type is dropped or split, this event becomes {len(event)}: use deserialize_all"
            )
        return event

    def deserialize_all(self, event_type: str, data: str | bytes) -> list[Any]:
        """Return the events of a payload: one, any number if its type is split, none if it is dropped.

        Raises what `deserialize` raises, for any of them.
        """
        event = self._read(event_type, data)
        return list(event) if type(event) is Parts else [event]

    def _read(self, event_type: str, data: str | bytes) -> Any:
        try:
            raw = data.encode() if isinstance(data, str) else data
        except UnicodeEncodeError as error:
            raise EventSerializationError(event_type, str(error)) from error
        return self.reader(event_type)(raw)

    def encode(self, event: Any) -> EncodedEvent:
        """Encode an event for an append. Raises `EventSerializationError`."""
        writer = self._writers.get(type(event))
        if writer is None or not writer.current():
            if isinstance(event, UntypedEvent):
                return _encode_untyped(event)
            writer = self._new_writer(type(event))
        try:
            value = event if writer.fields is None else _attributes(event, writer.fields)
            body = self._encode(value)
            if b"null" in body:  # msgspec writes NaN as null. Only the values tell it from None.
                is_plain(msgspec.to_builtins(value, enc_hook=self.enc_hook))
            data = writer.head + body[1:] if len(body) > 2 else writer.empty
            del body  # It may be large.
            if writer.needs_check or len(data) > 2 * MAX_NESTING or b"\n" in data:
                data = checked_json(data, decode_object if writer.may_hold_raw(value, len(data)) else skip)
            else:
                skip(data)
        except FAILURES as error:
            raise EventSerializationError(writer.event_type, f"cannot be encoded as JSON: {error}") from error
        event_id = getattr(event, "event_id", None)
        if event_id is not None and (type(event_id) is not str or not event_id or not event_id.isascii()):
            event_id = _own_id(writer.event_type, event_id)
        return writer.event_type, event_id, data, None

    def encode_all(self, events: Sequence[Any]) -> list[EncodedEvent]:
        """Encode events for an append. Raises `EventSerializationError`."""
        if len(events) == 1:
            return [self.encode(events[0])]
        encoded = self._encode_same_class(events) if events else None
        return encoded if encoded is not None else [self.encode(event) for event in events]

    def _encode_same_class(self, events: Sequence[Any]) -> list[EncodedEvent] | None:
        """Encode Structs of one class together. Return None if an event has another class or needs a closer check."""
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
            return None  # `encode` of each will name the event.
        bodies, ids = text.split(b"\n")[:-1], _own_ids(events)
        sizes = set(map(len, bodies))
        irregular = writer.raw_in_fields or _null_in(text) or len(bodies) != len(events) or 2 in sizes
        if ids is None or irregular or (max(sizes) > 2 * MAX_NESTING and any(map(too_deep, bodies))):
            return None
        head = writer.head
        datas = [head + body[1:] for body in bodies]
        return list(zip(repeat(writer.event_type), ids, datas, repeat(None)))

    def _new_writer(self, event_class: type) -> _Writer:
        writer = self._writers[event_class] = _Writer(event_class, self.registry, self.chain)
        return writer

    def blocks(self, *fields: str) -> TypedBlocks:
        """Return the reader of blocks of records whose envelopes have these fields."""
        blocks = self._blocks.get(fields)
        if blocks is None:
            blocks = self._blocks[fields] = TypedBlocks(self, self._dec_hook, fields)
        return blocks

    untyped = staticmethod(untyped)

    @property
    def definitions(self) -> tuple[Mapping[str, Any], ...]:
        """All that readers depend on: the registry's maps and the splitters. It shows every later change."""
        registry = self.registry
        return registry.types, registry.versions, registry.dropped, self.chain.splits

    def reader(self, event_type: str) -> Reader:
        """Return the reader of a stored event type's payloads. Call it once per read."""
        reader = self._readers.get(event_type)
        if reader is None or not reader.current():
            if len(self._readers) >= _MAX_READERS:
                self._readers.clear()
            reader = self._readers[event_type] = self._new_reader(event_type)
        return reader

    def _new_reader(self, event_type: str) -> Reader:
        registry = self.registry
        if event_type in registry.dropped:
            return DroppedReader(event_type, registry)
        split = self.chain.split_of(event_type)
        event_class = registry.types.get(event_type)
        if event_class is None and split is None and self.unknown == "error":
            known = ", ".join(sorted(registry.types)[:8]) or "none"
            raise UnknownEventTypeError(
                event_type,
                "no class is registered for this event type; register it with @event, say that it is dropped with "
                "registry.drop, or read it untyped with EventSerializer(unknown='untyped'); "
                f"known types: {known}",
            )
        whole = PayloadReader(event_type, event_class, registry, self.chain, self._dec_hook, self.newer)
        return whole if split is None else SplitReader(event_type, split, whole, self.chain, self.reader)


_deferred = ContextVar("checks_deferred", default=False)  # Other threads go on checking.


@contextlib.contextmanager
def checks_deferred() -> Iterator[None]:
    """Make serializers created in the block skip their check, so that a caller can report all findings at once."""
    before = _deferred.set(True)
    try:
        yield
    finally:
        _deferred.reset(before)


class _Writer:
    """The encoder's data about one event class."""

    def __init__(self, event_class: type, registry: EventRegistry, chain: UpcasterChain) -> None:
        self.event_type = registry.stored_name(event_class)
        if self.event_type in registry.dropped:
            raise EventSerializationError(self.event_type, "this type is dropped, so it would not be read back")
        self._types, self._versions, self._dropped = registry.types, registry.versions, registry.dropped
        self._mapped = self._types.get(self.event_type)
        check_event_class(self.event_type, event_class)
        self._version = registry.current_version(self.event_type)
        chain.check(self.event_type, self._version, registry.canonical_name(self.event_type))
        self.head, self.empty = b'{"_version":%d,' % self._version, b'{"_version":%d}' % self._version
        self.raw_in_fields = may_hold_raw(event_class)
        # A Struct is encoded as it is. Other classes may have attributes beside their fields.
        self.fields = None if issubclass(event_class, msgspec.Struct) else field_names(event_class)
        self.needs_check = self.raw_in_fields or self.fields is not None

    def current(self) -> bool:
        """True if the registry has not changed since."""
        name = self.event_type
        if name in self._dropped:
            return False
        return self._versions.get(name, 1) == self._version and self._types.get(name) is self._mapped

    def may_hold_raw(self, value: Any, size: int) -> bool:
        """True if an event that is encoded as `value`, in `size` bytes, may hold a msgspec.Raw."""
        if not (self.raw_in_fields or (self.fields is not None and len(value) > len(self.fields))):
            return False
        return size < _LARGE_BYTES or not is_plain(msgspec.structs.asdict(value) if self.fields is None else value)


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
    """Return the events' own ids, None if one of them is not ASCII text."""
    try:
        ids = list(map(_event_id, events))
    except AttributeError:
        ids = [getattr(event, "event_id", None) for event in events]
    kinds = set(map(type, ids))
    plain = kinds == {type(None)} or (kinds == {str} and all(ids) and "".join(ids).isascii())
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
        data = encoded_object(event.data, {"_version": event.schema_version, **event.data})
    except FAILURES as error:
        raise EventSerializationError(str(event.event_type), f"cannot be encoded as JSON: {error}") from error
    return event.event_type, _own_id(event.event_type, event.event_id), data, None
