"""Registries of event types: which class a stored name is read into, and its current schema version."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

import msgspec

from hangarlog.errors import EventSerializationError

_Class = TypeVar("_Class", bound=type)


class UntypedEvent(msgspec.Struct, frozen=True):
    """An event as stored, for which no class is needed: to read what nobody registered, or to append plain data."""

    event_type: str
    data: dict[str, Any]
    schema_version: int = 1
    event_id: str | None = None


class EventRegistry:
    """The event types of an application, or of a test. Assignments to its maps count as registrations do.

    `types`: stored event type -> the class it is read into. An old name may map to a class that is written under
    a new one. `versions`: event type -> its current schema version; 1 where there is no entry; a raised version needs
    its upcasters. `dropped`: the types that are passed over on purpose, each with the reason.
    """

    def __init__(self) -> None:
        self.types: dict[str, type] = {}
        self.versions: dict[str, int] = {}
        self.dropped: dict[str, str] = {}
        self._names: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()

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
        """Register a class for reading and writing events: a call, or a decorator with or without arguments.

        `name` is what is stored, by default the class's own; `version` its current schema version, by default what
        `versions` says, or 1; `aliases` are the names it had before, under which events are still stored. A later
        registration of a name replaces the earlier one.

        Raises:
            EventSerializationError: the class is none that msgspec can encode as a JSON object.
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

    def drop(self, *event_types: str, reason: str) -> None:
        """Have stored events of these types passed over on read. They stay in the store, with their places."""
        for event_type in event_types:
            self.dropped[event_type] = reason

    def current_version(self, event_type: str) -> int:
        """The current schema version of an event type; 1 if there is no entry."""
        return self.versions.get(event_type, 1)

    def stored_name(self, event_class: type) -> str:
        """The name that events of a class are written under.

        Raises:
            EventSerializationError: another class has that name, so the event would be read back as something else.
        """
        name = self._names.get(event_class, event_class.__name__)
        if self.types.get(name, event_class) is not event_class:
            if event_class in self._names:
                return name  # It was replaced under its own name, as at a reload.
            raise EventSerializationError(
                name,
                f"{event_class.__module__}.{event_class.__qualname__} would be read back as "
                f"{self.types[name].__qualname__}, which has this name; register it under another with name=",
            )
        return name

    def target_version(self, event_type: str) -> int:
        """The schema version a stored event type is brought to on read.

        Its own entry, else that of the name its class is written under: a renamed type needs none for its old name.
        """
        if event_type in self.versions:
            return self.versions[event_type]
        return self.current_version(self.canonical_name(event_type))

    def canonical_name(self, event_type: str) -> str:
        """The name that events of a stored type are written under today: its own, unless its class was renamed."""
        event_class = self.types.get(event_type)
        return event_type if event_class is None else self._names.get(event_class, event_class.__name__)


DEFAULT_REGISTRY = EventRegistry()
"""Where types are registered that name no other registry."""

EVENT_TYPE_MAP = DEFAULT_REGISTRY.types
"""Its types."""

EVENT_VERSION_MAP = DEFAULT_REGISTRY.versions
"""Its versions."""

event = register_event_type = DEFAULT_REGISTRY.event
"""`@event(version=3, aliases=["FormerName"])`."""


def get_current_version(event_type: str) -> int:
    """The current schema version of an event type in the default registry; 1 if the map has no entry."""
    return DEFAULT_REGISTRY.current_version(event_type)


def field_names(event_class: type) -> tuple[str, ...]:
    """The fields of a dataclass, or of a class that attrs made (known without importing attrs)."""
    if hasattr(event_class, "__dataclass_fields__"):
        from dataclasses import fields  # Whoever made the class has imported it.

        return tuple(field.name for field in fields(event_class))
    return tuple(field.name for field in getattr(event_class, "__attrs_attrs__", ()))


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
