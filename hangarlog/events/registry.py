"""Registries of event types: the class and the current schema version of each stored name."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

import msgspec

from hangarlog.errors import EventSerializationError
from hangarlog.events.event_class import check_event_class, is_same_class

_Class = TypeVar("_Class", bound=type)


class UntypedEvent(msgspec.Struct, frozen=True):
    """An event as stored, without a class: use it to read unregistered types, or to append plain data.

    `data` has no key `_version`: that is `schema_version`. `event_id` is for an append, which makes one if it is None.
    Reads leave it None: the id is in the `Record`.
    """

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
            EventSerializationError: events of the class could not be written as JSON objects, or not be read back.
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
        read_class = self.types.get(name, event_class)
        if read_class is not event_class:
            if event_class in self._names and is_same_class(event_class, read_class):
                return name  # A reload replaced the class under its own name.
            raise EventSerializationError(
                name,
                f"{event_class.__module__}.{event_class.__qualname__} would be read back as "
                f"{read_class.__qualname__}, which has this name; register it under another with name=",
            )
        return name

    def read_class(self, name: str, event_class: type) -> type:
        """Return the class as which events of a class, written under `name`, are read.

        Raises:
            EventSerializationError: no class has that name.
        """
        read_class = self.types.get(name)
        if read_class is None:
            shown = event_class.__qualname__
            others = [other for other, known in self.types.items() if known is event_class]
            advice = f"register it with event({shown}), or append an UntypedEvent"
            if others:
                advice = f"register it with event({shown}, name={others[0]!r})"
            raise EventSerializationError(
                name, f"no class is registered for this event type, so {shown} would not be read back; {advice}"
            )
        return read_class

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
