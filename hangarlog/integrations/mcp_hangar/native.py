"""Reads MCP Hangar's events as its serializer does, but a block of them in one call of msgspec.

Only plain event classes are read so. All others, and payloads that do not fit, go through MCP Hangar's serializer.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

from mcp_hangar.domain.events import LEGACY_EVENT_TYPE_NAMES, DomainEvent
from mcp_hangar.domain.events.producer import UNKNOWN_PRODUCER
from mcp_hangar.domain.value_objects.compat import accepts_legacy_provider_id
from mcp_hangar.infrastructure.persistence import event_serializer as theirs

from hangarlog import EventRegistry, EventSerializer, HangarlogError, UntypedEvent, UpcasterChain

_PLAIN = {str, int, float, bool, type(None), datetime, Any}
_CONTAINERS = {list, dict, typing.Union, types.UnionType}


def _is_plain(hint: Any) -> bool:
    """True if msgspec makes of JSON what MCP Hangar's serializer makes of it, for a field with this type."""
    origin = typing.get_origin(hint)
    if origin is None:
        return hint in _PLAIN or hint in (list, dict)
    part_is_plain = _holds_no_time if origin in (list, dict) else _is_plain
    return origin in _CONTAINERS and all(map(part_is_plain, typing.get_args(hint)))


def _holds_no_time(hint: Any) -> bool:
    return hint is not datetime and _is_plain(hint)


def _twin(event_class: type[DomainEvent]) -> type | None:
    """Return a class with the same fields, in which `produced_by` is unknown by default; None if there can be none.

    An instance of it is given the event's own class once it is decoded. So a row without `produced_by` is not taken for
    one that this process has written.
    """
    if event_class.rehydrate.__func__ is not DomainEvent.rehydrate.__func__ or "__slots__" in vars(event_class):  # type: ignore[attr-defined]
        return None
    if not _is_usual(event_class.__init__):
        return None
    hints = typing.get_type_hints(event_class)
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(event_class):
        if not field.init or not _is_plain(hints[field.name]):
            return None
        default: Any = UNKNOWN_PRODUCER if field.name == "produced_by" else field.default
        given: dict[str, Any] = {"kw_only": True}
        if default is not dataclasses.MISSING:  # A factory, so that each instance is given it, and not only the class.
            given["default_factory"] = partial(_same, default)
        elif field.default_factory is not dataclasses.MISSING:
            given["default_factory"] = field.default_factory
        fields.append((field.name, hints[field.name], dataclasses.field(**given)))
    bases = DomainEvent.__bases__  # The class of an instance can only be changed to one with alike bases.
    twin: type[Any] = dataclasses.make_dataclass(event_class.__name__, fields, bases=bases)
    if _does_not_fit(twin, event_class):
        return None
    twin._event_class = event_class
    return twin


def _is_usual(constructor: Any) -> bool:
    """True if a constructor is the one that `dataclass` makes, perhaps in MCP Hangar's wrapper for a former name."""
    if constructor.__code__.co_filename == accepts_legacy_provider_id.__code__.co_filename:
        constructor = inspect.unwrap(constructor)
    return bool(constructor.__code__.co_filename == "<string>")


def _does_not_fit(twin: type, event_class: type) -> bool:
    try:
        instance: Any = object.__new__(twin)
        instance.__class__ = event_class
    except TypeError:
        return True
    return False


class NativeReader:
    """Turns what a store has read into MCP Hangar's events. `serializer` is what the store reads with.

    It is made for the classes, versions and upcasters of now: make a new one when `is_current` is False.
    """

    def __init__(self, fallback: theirs.EventSerializer) -> None:
        self._fallback, self._made_for = fallback, self._definitions(fallback)
        registry, chain = EventRegistry(), UpcasterChain()
        if type(fallback) is theirs.EventSerializer:  # One of another class may read otherwise.
            for name, event_class in list(theirs.EVENT_TYPE_MAP.items()):
                self._add(registry, chain, name, event_class)
        self.serializer = EventSerializer(
            upcaster_chain=chain,
            registry=registry,
            unknown="untyped",
            newer="pass",
            unreadable="untyped",
            validate=False,
        )

    @staticmethod
    def _definitions(fallback: theirs.EventSerializer) -> Any:
        upcasters = {name: dict(steps) for name, steps in fallback._upcaster_chain._upcasters.items()}
        return dict(theirs.EVENT_TYPE_MAP), dict(theirs.EVENT_VERSION_MAP), upcasters

    def is_current(self) -> bool:
        """True if nothing was registered since."""
        return bool(self._made_for == self._definitions(self._fallback))

    def _add(self, registry: EventRegistry, chain: UpcasterChain, name: str, event_class: type[DomainEvent]) -> None:
        """Register a class, unless its payloads need more than msgspec does."""
        if self._fallback._upcaster_chain._upcasters.get(name):
            return
        version = theirs.get_current_version(name)
        aliases = [old for old, new in LEGACY_EVENT_TYPE_NAMES.items() if new == name]
        try:
            twin = _twin(event_class)
            if twin is None:
                return
            registry.event(twin, name=name, version=version, aliases=aliases)
        except (HangarlogError, ValueError, TypeError, NameError, AttributeError):
            registry.types.pop(name, None)
            return
        for each in (name, *aliases):
            registry.versions[each] = version
            for step in range(1, version):  # Without upcasters, MCP Hangar reads an older payload as it is.
                chain.upcaster(each, from_version=step)(_same)

    def event(self, read: Any) -> DomainEvent:
        """Return the event of what the store has read. Raises MCP Hangar's `EventSerializationError`."""
        event_class = getattr(type(read), "_event_class", None)
        if event_class is not None:
            read.__class__ = event_class
            event = typing.cast("DomainEvent", read)
            try:
                event.__post_init__()
            except Exception as error:
                raise theirs.EventSerializationError(event_class.__name__, str(error)) from error
            return event
        untyped: UntypedEvent = read
        payload = {"_version": untyped.schema_version, **untyped.data}
        return self._fallback.deserialize(untyped.event_type, json.dumps(payload))

    def events(self, read: Iterable[Any]) -> list[DomainEvent]:
        """Return the events of what the store has read."""
        return list(map(self.event, read))

    def placed(self, read: Iterable[tuple[int, str, Any]]) -> Iterator[tuple[int, str, DomainEvent]]:
        """Yield the same with events."""
        event = self.event
        for position, stream_id, each in read:
            yield position, stream_id, event(each)


def _same(value: Any) -> Any:
    return value
