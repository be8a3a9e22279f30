"""The serializer: converts events to payloads and back, with a registry, an upcaster chain and msgspec."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, Literal

import msgspec

from hangarlog.errors import EventSerializationError, UnknownEventTypeError, UpcastingError
from hangarlog.events.block_reader import Parts, Reader, TypedBlocks
from hangarlog.events.encoded_event import EncodedEvent, checked_type, encode_given, encode_given_all, own_id
from hangarlog.events.event_class import check_event_class, deferred, field_names
from hangarlog.events.payload import (
    FAILURES,
    checked_json,
    decode_object,
    encoded_object,
    is_plain,
    may_be_unset,
    may_hold_raw,
    plain_int,
    skip,
    too_deep,
)
from hangarlog.events.payload_reader import DroppedReader, PayloadReader, SplitReader, untyped
from hangarlog.events.proof import Proof
from hangarlog.events.registry import DEFAULT_REGISTRY, EventRegistry, UntypedEvent
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.record.envelope import Encoded
from hangarlog.record.nesting import MAX_NESTING

Hook = Callable[[Any], Any]
_event_id = attrgetter("event_id")
OWN_TYPES = "hangarlog."
"""Event types whose names begin so are a store's own. They need no class, and are read as `UntypedEvent`."""
_MAX_READERS = 10_000  # A store may have any number of types that are not registered.
_NO_EXTRAS: dict[str, Any] = {}
_MAX_KNOWN = 100  # The most sets of attributes that are remembered of a class.
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
        validate: prove, before an event is written, that it can be read back equal as its class. This decodes it, so
            its `__post_init__` runs once more. False writes what msgspec encodes, also of unregistered classes.

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
        validate: bool = True,
    ) -> None:
        if not isinstance(upcaster_chain, (UpcasterChain, type(None))):
            raise TypeError(f"upcaster_chain must be an UpcasterChain, not {upcaster_chain!r}")
        if not isinstance(registry, EventRegistry):
            raise TypeError(f"registry must be an EventRegistry, not {registry!r}")
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
        self.enc_hook, self._dec_hook, self.validate = enc_hook or plain_int, dec_hook, validate
        encoder = msgspec.json.Encoder(enc_hook=self.enc_hook)
        self._encode, self._encode_lines = encoder.encode, encoder.encode_lines
        self._writers: dict[type, _Writer] = {}
        self._readers: dict[str, Reader] = {}
        self._blocks: dict[tuple[str, ...], TypedBlocks] = {}
        self.check()

    def check(self) -> None:
        """Raise `UpcastingError` if the chain of a registered type is incomplete. A store calls it when it opens."""
        if deferred.get():
            return
        registry = self.registry
        for event_type in {**registry.types, **registry.versions, **dict.fromkeys(self.chain.split_types())}:
            target = registry.target_version(event_type)
            self.chain.check(event_type, target, registry.canonical_name(event_type))
            if event_type in registry.types:
                self._check_split(event_type, target)

    def _check_split(self, event_type: str, version: int) -> None:
        split = self.chain.split_of(event_type)
        if split and version <= split[0]:
            raise UpcastingError(
                event_type=event_type,
                from_version=version,
                message=f"{event_type!r} is split at v{split[0]}, so its class must have a later version than "
                f"{version}: events that you write would be split when they are read",
            )

    def serialize(self, event: Any) -> tuple[str, str]:
        """Return the event type and the payload, as JSON text with `_version` first.

        Raises:
            EventSerializationError: the event cannot be written as JSON and read back the same.
            UpcastingError: an `UntypedEvent` of a registered type cannot be brought to its current version.
        """
        event_type, _, data, *_ = self.encode(event)
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

    def encode(self, event: Any) -> Encoded:
        """Encode an event for an append. Raises what `serialize` raises."""
        writer = self._writers.get(type(event))
        if writer is None or not writer.current():
            if isinstance(event, (UntypedEvent, EncodedEvent)):
                encoded = _encode_untyped(event) if isinstance(event, UntypedEvent) else encode_given(event)
                self.prove(encoded[0], encoded[2])
                return encoded
            writer = self._new_writer(type(event))
        proof, extras = writer.proof, None
        try:
            value = event
            if writer.fields is not None:
                value, extras = writer.attributes(event)
            body = self._encode(value)
            if b"null" in body:  # msgspec writes NaN as null. Only the values tell it from None.
                is_plain(msgspec.to_builtins(value, enc_hook=self.enc_hook))
            data = writer.head + body[1:] if len(body) > 2 else writer.empty
            del body  # It may be large.
            if writer.needs_check or len(data) > 2 * MAX_NESTING or b"\n" in data:
                raw = writer.may_hold_raw(value, extras, len(data))
                data = checked_json(data, decode_object if raw else skip if proof is None else None)
            elif proof is None:
                skip(data)
        except FAILURES as error:
            raise EventSerializationError(writer.event_type, f"cannot be encoded as JSON: {error}") from error
        if proof is not None:
            if extras is None:
                if len(data) < _LARGE_BYTES or not proof.large(event, data):
                    proof.struct(event, data)
            else:
                proof.other(event, value, extras, data)
        event_id = getattr(event, "event_id", None)
        if event_id is not None and (type(event_id) is not str or not event_id or not event_id.isascii()):
            event_id = own_id(writer.event_type, event_id)
        return writer.event_type, event_id, data, None, None

    def encode_all(self, events: Sequence[Any]) -> list[Encoded]:
        """Encode events for an append. Raises what `serialize` raises."""
        if len(events) == 1:
            return [self.encode(events[0])]
        encoded = self._encode_same_class(events) if events else None
        return encoded if encoded is not None else [self.encode(event) for event in events]

    def _encode_same_class(self, events: Sequence[Any]) -> list[Encoded] | None:
        """Encode Structs of one class together. Return None if an event has another class or needs a closer check."""
        event_class = type(events[0])
        if not issubclass(event_class, msgspec.Struct) or set(map(type, events)) != {event_class}:
            return None
        writer = self._writers.get(event_class)
        if writer is None or not writer.current():
            if event_class is EncodedEvent:
                return self._encode_given(events)
            if event_class is UntypedEvent:
                return None
            writer = self._new_writer(event_class)
        if writer.raw_in_fields:
            return None
        try:
            text = self._encode_lines(events)
            if writer.proof is None:
                _skip_lines(text)
            elif not writer.proof.structs(events, text):
                return None  # `encode` of each will name the event.
        except FAILURES:
            return None
        bodies, ids = text.split(b"\n")[:-1], _own_ids(events)
        sizes = set(map(len, bodies))
        irregular = _null_in(text) or len(bodies) != len(events) or 2 in sizes
        if ids is None or irregular or (max(sizes) > 2 * MAX_NESTING and any(map(too_deep, bodies))):
            return None
        head = writer.head
        datas = [head + body[1:] for body in bodies]
        return list(zip(repeat(writer.event_type), ids, datas, repeat(None), repeat(None)))

    def _encode_given(self, events: Sequence[EncodedEvent]) -> list[Encoded] | None:
        encoded = encode_given_all(events)
        for name in {event[0] for event in encoded or ()}:
            if self._is_read(name):
                return None  # `encode` of each will prove it.
        return encoded

    def _is_read(self, event_type: str) -> bool:
        """True if stored events of this type become something else than an `UntypedEvent`."""
        return event_type in self.registry.types or bool(self.chain.split_of(event_type))

    def prove(self, event_type: str, data: bytes) -> None:
        """Prove that a payload can be read, if its type is registered, split or dropped.

        Raises:
            EventSerializationError: the payload does not fit the class of its type, or a part of it does not.
            UpcastingError: it cannot be brought to its current schema version.
        """
        if not self.validate or not self._is_read(event_type):
            return
        try:
            self.reader(event_type)(data)
        except UpcastingError:
            raise
        except Exception as error:  # `__post_init__` or a hook of the application may raise anything.
            why: object = error
            if isinstance(error, EventSerializationError) and error.event_type == event_type:
                why = error.message
            raise EventSerializationError(event_type, f"it could not be read: {why}; nothing was written") from error

    def _new_writer(self, event_class: type) -> _Writer:
        writer = _Writer(event_class, self.registry, self.chain)
        if self.validate:
            name, hook = writer.event_type, self._dec_hook
            read_class = self.registry.read_class(name, event_class)
            self._check_split(name, self.registry.target_version(name))
            writer.proof = Proof(name, event_class, read_class, self._encode, self.reader(name), hook)
        self._writers[event_class] = writer
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
        own = event_type.startswith(OWN_TYPES)
        if event_class is None and split is None and self.unknown == "error" and not own:
            known = ", ".join(sorted(registry.types)[:8]) or "none"
            raise UnknownEventTypeError(
                event_type,
                "no class is registered for this event type; register it with @event, say that it is dropped with "
                "registry.drop, or read it untyped with EventSerializer(unknown='untyped'); "
                f"known types: {known}",
            )
        whole = PayloadReader(event_type, event_class, registry, self.chain, self._dec_hook, self.newer)
        return whole if split is None else SplitReader(event_type, split, whole, self.chain, self.reader)


_Stored = tuple[tuple[str, ...], tuple[str, ...]]
"""The names of the attributes that are stored, and those among them that are no fields."""


class _Writer:
    """The encoder's data about one event class."""

    def __init__(self, event_class: type, registry: EventRegistry, chain: UpcasterChain) -> None:
        self.event_type = registry.stored_name(event_class)
        if self.event_type in registry.dropped:
            raise EventSerializationError(self.event_type, "this type is dropped, so it would not be read back")
        self._types, self._versions, self._dropped = registry.types, registry.versions, registry.dropped
        self._mapped = self._types.get(self.event_type)
        check_event_class(self.event_type, event_class, forward_references=False)
        self._version = registry.current_version(self.event_type)
        chain.check(self.event_type, self._version, registry.canonical_name(self.event_type))
        self.head, self.empty = b'{"_version":%d,' % self._version, b'{"_version":%d}' % self._version
        self.raw_in_fields = may_hold_raw(event_class)
        # A Struct is encoded as it is. Other classes may have attributes beside their fields.
        self.fields = None if issubclass(event_class, msgspec.Struct) else field_names(event_class)
        self.proof: Proof | None = None
        self._attributes: dict[tuple[str, ...], _Stored] = {}
        self._may_be_unset = self.fields is not None and may_be_unset(event_class)
        self.needs_check = self.raw_in_fields or self.fields is not None

    def current(self) -> bool:
        """True if the registry has not changed since."""
        name = self.event_type
        if name in self._dropped:
            return False
        return self._versions.get(name, 1) == self._version and self._types.get(name) is self._mapped

    def attributes(self, event: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what is stored of an event that is no Struct, and the part of it that is not in fields."""
        own: dict[str, Any] = getattr(event, "__dict__", _NO_EXTRAS)
        present = tuple(own)
        known = self._attributes.get(present)
        if known is None:
            known = self._attributes[present] = self._stored_names(event, present)
        names, beside = known
        value = own if names == present else {name: getattr(event, name) for name in names}
        if self._may_be_unset:
            value = {name: item for name, item in value.items() if item is not msgspec.UNSET}
        return value, {name: value[name] for name in beside} if beside else _NO_EXTRAS

    def _stored_names(self, event: Any, present: tuple[str, ...]) -> _Stored:
        if len(self._attributes) > _MAX_KNOWN:
            self._attributes.clear()
        fields = self.fields or ()
        beside = tuple(
            name
            for name in present
            # A descriptor of the class that keeps what it has computed, such as a cached_property, computes it again.
            if not (name.startswith("_") or name in fields or hasattr(getattr(type(event), name, None), "__get__"))
        )
        return fields + beside, beside

    def may_hold_raw(self, value: Any, extras: dict[str, Any] | None, size: int) -> bool:
        """True if an event that is encoded as `value`, in `size` bytes, may hold a msgspec.Raw."""
        if not (self.raw_in_fields or extras):
            return False
        return size < _LARGE_BYTES or not is_plain(msgspec.structs.asdict(value) if self.fields is None else value)


def _own_ids(events: Sequence[Any]) -> list[Any] | None:
    """Return the events' own ids, None if one of them is not ASCII text."""
    try:
        ids = list(map(_event_id, events))
    except AttributeError:
        ids = [getattr(event, "event_id", None) for event in events]
    kinds = set(map(type, ids))
    plain = kinds == {type(None)} or (kinds == {str} and all(ids) and "".join(ids).isascii())
    return ids if plain else None


def _encode_untyped(event: UntypedEvent) -> Encoded:
    name = checked_type(event.event_type)
    try:
        if type(event.schema_version) is not int or event.schema_version < 1:
            raise ValueError(f"schema_version must be a whole number from 1 up, not {event.schema_version!r}")
        if "_version" in event.data:
            raise ValueError("the payload has a key _version, which is the schema version; give it as schema_version")
        data = encoded_object(event.data, {"_version": event.schema_version, **event.data})
    except FAILURES as error:
        raise EventSerializationError(name, f"cannot be encoded as JSON: {error}") from error
    return name, own_id(name, event.event_id), data, None, None
