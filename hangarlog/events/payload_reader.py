"""Reads the payloads of one stored event type: as its class, as events of other types if split, or not if dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from hangarlog.errors import EventSerializationError, HangarlogError, UpcastingError
from hangarlog.events.block_reader import Parts, Reader
from hangarlog.events.decodable import decoder_of
from hangarlog.events.event_class import field_names
from hangarlog.events.payload import check_version, decode_object, encode_plain, holds_raw
from hangarlog.events.registry import EventRegistry, UntypedEvent
from hangarlog.events.upcaster import Split, UpcasterChain

_FEW = 8  # Fewer payloads are faster read one by one.
_decode_objects: Callable[[bytes], list[dict[str, Any]]] = msgspec.json.Decoder(list[dict[str, Any]]).decode


class PayloadReader:
    """Reads payloads of one stored event type as its class."""

    parts = False

    def __init__(
        self,
        event_type: str,
        event_class: type | None,
        registry: EventRegistry,
        chain: UpcasterChain,
        dec_hook: Callable[[type, Any], Any] | None,
        newer: str,
    ) -> None:
        self._event_type, self.event_class, self._chain, self._dec_hook = event_type, event_class, chain, dec_hook
        self._registry, self.newer, self._split = registry, newer, chain.split_of(event_type)
        self.version = registry.target_version(event_type)
        self._alias_of = registry.canonical_name(event_type)
        self._extras: _Extras | None = None
        self.plain = event_class is not None and issubclass(event_class, msgspec.Struct)
        if event_class is None:
            return
        chain.check(event_type, self.version, self._alias_of)
        self._list: Any = list[event_class]  # type: ignore[valid-type]
        self._heads = (b'{"_version":%d,' % self.version, b'{"_version":%d}' % self.version)
        try:
            decoder = decoder_of(event_class, dec_hook)
        except Exception as error:  # An annotation is code of the application.
            raise EventSerializationError(
                event_type, f"{event_class.__qualname__} cannot be decoded: {error}"
            ) from error
        self._decode = decoder.decode
        self._holds_raw = holds_raw(event_class)
        if not self.plain:
            self._extras = _Extras(field_names(event_class))

    def current(self) -> bool:
        """True if the registry has not changed since."""
        name, registry = self._event_type, self._registry
        return (
            registry.types.get(name) is self.event_class
            and registry.target_version(name) == self.version
            and name not in registry.dropped
            and self._chain.split_of(name) == self._split
        )

    def __call__(self, data: Any) -> Any:
        """Return the event of a payload's bytes. Raises `EventSerializationError` and `UpcastingError`."""
        raw = bytes(data)
        try:
            if self.event_class is None or not raw.startswith(self._heads):
                return self.from_object(decode_object(raw))
            return self._read_current(raw)
        except (HangarlogError, MemoryError):
            raise
        except Exception as error:  # A hook, or the class's own check, may raise anything.
            raise _does_not_fit(self._event_type, error) from error

    def _read_current(self, raw: bytes) -> Any:
        event = self._decode(raw)
        return event if self._extras is None else self._extras.restore(event, raw)

    def read_all(self, payloads: list[Any]) -> list[Any]:
        """Return the events of payloads of any versions. Raises anything if one cannot be read."""
        if self.event_class is None or len(payloads) < _FEW:
            return list(map(self, payloads))
        raws = list(map(bytes, payloads))
        others = [at for at, raw in enumerate(raws) if not raw.startswith(self._heads)]
        if not others:
            return list(map(self._read_current, raws))
        objects = _decode_objects(b"[%b]" % b",".join([raws[at] for at in others]))
        if self.newer == "raw" and any(payload.get("_version", 1) > self.version for payload in objects):
            return list(map(self, payloads))
        upcast = iter(self.upcast_all(objects))
        places = set(others)
        return [next(upcast) if at in places else self._read_current(raw) for at, raw in enumerate(raws)]

    def from_object(self, payload: dict[str, Any]) -> Any:
        """Return the event of a decoded payload, whose `_version` is removed.

        Raises `UpcastingError` or one of `FAILURES`.
        """
        version = take_version(payload)
        if self.event_class is None:
            return UntypedEvent(self._event_type, payload, version)
        if version > self.version:
            if self.newer == "raw":
                return UntypedEvent(self._event_type, payload, version)
            if self.newer == "error":
                raise _too_new(self._event_type, version, self.version)
        _, payload = self._chain.upcast(
            self._event_type, version, payload, current_version=self.version, alias_of=self._alias_of
        )
        event = self._convert(payload)
        return event if self._extras is None else self._extras.set_from(payload, event)

    def _convert(self, payload: dict[str, Any]) -> Any:
        if self._holds_raw:  # Only a decoder makes a msgspec.Raw.
            return self._decode(encode_plain(payload))
        return msgspec.convert(payload, self.event_class, dec_hook=self._dec_hook, str_keys=True)

    def upcast_all(self, payloads: list[dict[str, Any]]) -> list[Any]:
        """Return the events of decoded payloads. Raises anything if one cannot be read.

        Read the payloads one by one to learn which, and why.
        """
        places: dict[int, list[int]] = {}
        for at, version in enumerate(map(take_version, payloads)):
            places.setdefault(version, []).append(at)
        if max(places) > self.version and self.newer != "pass":
            raise ValueError("a payload has a newer version")
        for version, at_version in places.items():
            upcast = self._chain.upcast_all(
                self._event_type,
                version,
                [payloads[at] for at in at_version],
                current_version=self.version,
                alias_of=self._alias_of,
            )
            for at, payload in zip(at_version, upcast, strict=True):
                payloads[at] = payload
        if self._holds_raw or len(payloads) < _FEW:
            events = [self._convert(payload) for payload in payloads]
        else:
            events = msgspec.convert(payloads, self._list, dec_hook=self._dec_hook, str_keys=True)
        if self._extras is not None:
            for payload, event in zip(payloads, events, strict=True):
                self._extras.set_from(payload, event)
        return events


class _PartsReader:
    """The base of the readers that return `Parts`."""

    event_class: type | None = None
    version: int
    plain = False
    parts = True

    def upcast_all(self, payloads: list[dict[str, Any]]) -> list[Any]:
        """Return the events of each payload."""
        return list(map(self.from_object, payloads))

    def read_all(self, payloads: list[Any]) -> list[Any]:
        """Return the events of each payload."""
        return list(map(self, payloads))

    def __call__(self, data: Any) -> Parts:
        """Return the events of a payload's bytes. Raises `EventSerializationError` and `UpcastingError`."""
        raise NotImplementedError

    def from_object(self, payload: dict[str, Any]) -> Parts:
        """Return the events of a decoded payload. Raises `UpcastingError` or one of `FAILURES`."""
        raise NotImplementedError


class DroppedReader(_PartsReader):
    """Reads a dropped type: it returns no events."""

    version = 0

    def __init__(self, event_type: str, registry: EventRegistry) -> None:
        self._event_type, self._registry = event_type, registry

    def current(self) -> bool:
        """True if the type is still dropped."""
        return self._event_type in self._registry.dropped

    def __call__(self, data: Any) -> Parts:
        """Return no events."""
        return Parts()

    def from_object(self, payload: dict[str, Any]) -> Parts:
        """Return no events."""
        return Parts()


class SplitReader(_PartsReader):
    """Reads a split type: payloads up to the version of the split become events of other types."""

    def __init__(
        self,
        event_type: str,
        split: tuple[int, Split],
        whole: PayloadReader,
        chain: UpcasterChain,
        reader: Callable[[str], Reader],
    ) -> None:
        self._event_type, self._whole, self._chain, self._reader = event_type, whole, chain, reader
        self.version, self._split = split

    def current(self) -> bool:
        """True if the registry has not changed since."""
        return self._whole.current() and self._chain.split_of(self._event_type) == (self.version, self._split)

    def __call__(self, data: Any) -> Parts:
        """Return the events of a payload's bytes. Raises `EventSerializationError` and `UpcastingError`."""
        try:
            return self.from_object(decode_object(bytes(data)))
        except (HangarlogError, MemoryError):
            raise
        except Exception as error:  # As in `PayloadReader`.
            raise _does_not_fit(self._event_type, error) from error

    def from_object(self, payload: dict[str, Any]) -> Parts:
        """Return the events of a decoded payload. Raises `UpcastingError` or one of `FAILURES`."""
        version = payload.get("_version", 1)
        if type(version) is int and version > self.version:
            if self._whole.event_class is None and self._whole.newer == "error":
                raise _too_new(self._event_type, version, self.version)
            return Parts([self._whole.from_object(payload)])
        _, payload = self._chain.upcast(self._event_type, take_version(payload), payload, current_version=self.version)
        events: list[Any] = []
        for event_type, part in self._split_up(payload):
            if event_type == self._event_type and part.get("_version", 1) <= self.version:
                raise ValueError(f"it was split at v{self.version}, so a part of the same type needs a later _version")
            event = self._reader(event_type).from_object(dict(part))
            events += event if type(event) is Parts else (event,)
        return Parts(events)

    def _split_up(self, payload: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        try:
            return [(event_type, {**part}) for event_type, part in self._split(payload)]
        except Exception as error:  # The user's function may raise anything.
            raise UpcastingError(
                event_type=self._event_type,
                from_version=self.version,
                message=f"Splitter for {self._event_type!r} v{self.version} failed: {error!r}",
            ) from error


def untyped(event_type: str, data: Any) -> UntypedEvent:
    """Return the event of a payload's bytes without its class. Raises one of `FAILURES` if it is no JSON object."""
    payload = decode_object(bytes(data))
    version = payload.get("_version", 1)
    if type(version) is int and version > 0:
        payload.pop("_version", None)
        return UntypedEvent(event_type, payload, version)
    return UntypedEvent(event_type, payload)


def take_version(payload: dict[str, Any]) -> int:
    """Remove the schema version from a decoded payload and return it. Raises `ValueError` if it is invalid."""
    return check_version(payload.pop("_version", 1))


_IDENTITY = {"event_id": None, "occurred_at": None}


class _Extras:
    """Restores attributes that an event has beside its fields, such as `event_id` and `occurred_at` of MCP Hangar.

    It restores the attributes that a fresh event has, and always these two if they were stored.
    """

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._fields = frozenset(fields)
        self._decoders: dict[tuple[str, ...], Callable[[bytes], Any]] = {}

    def restore(self, event: Any, raw: bytes) -> Any:
        """Set the attributes of a fresh event to the values stored in `raw`."""
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
        """Set the attributes of a fresh event to the values of a decoded payload."""
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


def _does_not_fit(event_type: str, error: Exception) -> EventSerializationError:
    return EventSerializationError(event_type, f"the stored payload does not fit: {error}")


def _too_new(event_type: str, version: int, known: int) -> UpcastingError:
    return UpcastingError(
        event_type=event_type,
        from_version=version,
        message=f"{event_type!r} is stored with schema version {version}, newer than {known}, the one known here; "
        "a newer program wrote it: upgrade this one, or use EventSerializer(newer='raw')",
    )
