"""Registries of event types: the class and the current schema version of each stored name."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

import msgspec

from hangarlog.errors import EventSerializationError

_Class = TypeVar("_Class", bound=type)


class UntypedEvent(msgspec.Struct, frozen=True):
    """An event as stored, without a class: use it to read unregistered types, or to append plain data."""

    event_type: str
    data: dict[str, Any]
    schema_version: int = 1
    event_id: str | None = None


class EventRegistry:
    """The event types of an application or of a test. You may also assign to its maps.

    `types` maps a stored event type to its class. A former name maps to the class that is now written under a new name.
    `versions` maps an event type to its current schema version, by default 1. A higher version needs upcasters.
    `dropped` maps an event type that reads skip to the reason.
    """

    def __init__(self) -> None:
        self.types: dict[str, type] = {}
        self.versions: dict[str, int] = {}
        self.dropped: dict[str, str] = {}
        self._names: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
        self._claims: dict[str, weakref.WeakSet[type]] = {}  # The classes that were registered, by stored name.
        self._places: dict[str, weakref.WeakSet[type]] = {}  # And by qualified name.

    @overload
    def event(
        self, event_class: _Class, *, version: int | None = None, name: str | None = None, aliases: Iterable[str] = ()
    ) -> _Class: ...
    @overload
    def event(
        self, *, version: int | None = None, name: str | None = None, aliases: Iterable[str] = ()
    ) -> Callable[[_Class], _Class]: ...
    def event(
        self,
        event_class: _Class | None = None,
        *,
        version: int | None = None,
        name: str | None = None,
        aliases: Iterable[str] = (),
    ) -> _Class | Callable[[_Class], _Class]:
        """Register an event class. Call it, or use it as a decorator with or without arguments.

        `name` is the stored event type, by default the class's name. `version` is its current schema version, by
        default that of `versions`, or 1. `aliases` are its former names, under which events are still stored. A reload
        replaces a class. If another class has the name, the later one reads its events: `schema check` refuses that,
        and so does an append of the earlier one.

        Raises:
            EventSerializationError: msgspec cannot encode the class as a JSON object.
            ValueError: the version is not a whole number from 1 up, or an alias is the name of another class.
        """
        if event_class is None:
            return lambda cls: self.event(cls, version=version, name=name, aliases=aliases)
        stored = name or str(getattr(event_class, "__name__", event_class))
        former = (aliases,) if isinstance(aliases, str) else tuple(aliases)
        if version is not None and (type(version) is not int or version < 1):
            raise ValueError(f"schema version of {stored!r} must be a whole number from 1 up, not {version!r}")
        check_event_class(stored, event_class)
        for alias in former:
            self._check_alias(stored, alias)
        self._claim(event_class, (stored, *former))
        self.types[stored] = event_class
        self._names[event_class] = stored
        if version is not None:
            self.versions[stored] = version
        for alias in former:
            self.types[alias] = event_class
        return event_class

    def _check_alias(self, name: str, alias: str) -> None:
        if not isinstance(alias, str) or not alias:
            raise ValueError(f"an alias of {name!r} must be text, not {alias!r}")
        taken = self.types.get(alias)
        if alias == name or (taken is not None and self._names.get(taken) == alias):
            raise ValueError(f"{alias!r} cannot be an alias of {name!r}: it is the name of a registered event type")

    def _claim(self, event_class: type, names: Iterable[str]) -> None:
        """Note the names of a class, and forget those of the class that it replaces, as after a reload."""
        alike = self._places.setdefault(event_class.__qualname__, weakref.WeakSet())
        for other in [each for each in alike if is_same_class(each, event_class)]:
            alike.discard(other)
            for claims in self._claims.values():
                claims.discard(other)
        alike.add(event_class)
        for name in names:
            self._claims.setdefault(name, weakref.WeakSet()).add(event_class)

    def rivals(self, name: str) -> list[type]:
        """Return the classes that were registered under a name besides the one that reads its events."""
        return [each for each in self._claims.get(name, ()) if each is not self.types.get(name)]

    def drop(self, *event_types: str, reason: str) -> None:
        """Make reads skip stored events of these types. The events keep their places in the store."""
        for event_type in event_types:
            self.dropped[event_type] = reason

    def current_version(self, event_type: str) -> int:
        """Return the current schema version of an event type, 1 if `versions` has no entry."""
        return self.versions.get(event_type, 1)

    def stored_name(self, event_class: type) -> str:
        """Return the name under which events of a class are written.

        Raises:
            EventSerializationError: another class has that name, so the event would be read back as that class.
        """
        name = self._names.get(event_class, event_class.__name__)
        if self.types.get(name, event_class) is not event_class:
            if event_class in self._names and is_same_class(event_class, self.types[name]):
                return name  # A reload replaced the class under its own name.
            raise EventSerializationError(
                name,
                f"{event_class.__module__}.{event_class.__qualname__} would be read back as "
                f"{self.types[name].__qualname__}, which has this name; register it under another with name=",
            )
        return name

    def target_version(self, event_type: str) -> int:
        """Return the schema version to which reads bring a stored event type.

        If a former name has no entry of its own, the version of its present name counts.
        """
        if event_type in self.versions:
            return self.versions[event_type]
        return self.current_version(self.canonical_name(event_type))

    def canonical_name(self, event_type: str) -> str:
        """Return the name under which events of a stored type are written today: the new one of a renamed class."""
        event_class = self.types.get(event_type)
        return event_type if event_class is None else self._names.get(event_class, event_class.__name__)


DEFAULT_REGISTRY = EventRegistry()
"""The registry that is used unless you give another."""

EVENT_TYPE_MAP = DEFAULT_REGISTRY.types
"""The types of the default registry."""

EVENT_VERSION_MAP = DEFAULT_REGISTRY.versions
"""The versions of the default registry."""

event = register_event_type = DEFAULT_REGISTRY.event
"""Register a class in the default registry: `@event(version=3, aliases=["FormerName"])`."""


def get_current_version(event_type: str) -> int:
    """Return the current schema version of an event type in the default registry, 1 if it has no entry."""
    return DEFAULT_REGISTRY.current_version(event_type)


def field_names(event_class: type) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass or an attrs class. It does not import attrs."""
    if hasattr(event_class, "__dataclass_fields__"):
        from dataclasses import fields  # The class's own module has imported it already.

        return tuple(field.name for field in fields(event_class))
    return tuple(field.name for field in getattr(event_class, "__attrs_attrs__", ()))


def is_same_class(one: type, other: type) -> bool:
    """True if two classes come from the same place in a source file: one is a reload of the other.

    A module may have two names, such as `__main__`. A function, or a cell of a notebook, makes its classes anew.
    """
    if one.__qualname__ != other.__qualname__:
        return False
    source = _source_of(one)
    return one.__module__ == other.__module__ or (source is not None and source == _source_of(other))


def _source_of(cls: type) -> str | None:
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def check_event_class(name: str, event_class: type) -> None:
    """Raise `EventSerializationError` if events of the class cannot be stored and read back."""
    if not isinstance(event_class, type):
        raise EventSerializationError(name, f"an event type must be a class, not {event_class!r}")
    shown = event_class.__qualname__
    if issubclass(event_class, msgspec.Struct):
        config = event_class.__struct_config__
        if config.array_like:
            raise EventSerializationError(name, f"{shown} is array_like, its payload would not be a JSON object")
        if config.forbid_unknown_fields:
            raise EventSerializationError(name, f"{shown} forbids unknown fields, but a payload also has _version")
        fields = event_class.__struct_encode_fields__
        if config.tag is not None and config.tag_field is not None:
            fields += (config.tag_field,)
    elif hasattr(event_class, "__dataclass_fields__"):
        if any("InitVar" in str(kind) for kind in vars(event_class).get("__annotations__", {}).values()):
            raise EventSerializationError(name, f"{shown} has an InitVar, which is not stored")
        fields = field_names(event_class)
    elif hasattr(event_class, "__attrs_attrs__"):
        fields = field_names(event_class)
    else:
        raise EventSerializationError(name, f"{shown} must be a msgspec Struct, a dataclass or an attrs class")
    if "_version" in fields:
        raise EventSerializationError(name, f"{shown} has a field _version, which is the payload's schema version")
