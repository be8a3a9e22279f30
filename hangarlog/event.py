"""Event types: which class a stored name is read into, and its current schema version."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

from hangarlog.errors import EventSerializationError

EVENT_TYPE_MAP: dict[str, type] = {}
"""Stored event type -> the class it is read into. An old name may map to a class that is written under a new one."""

EVENT_VERSION_MAP: dict[str, int] = {}
"""Event type -> its current schema version; 1 where there is no entry. A raised version needs its upcasters."""

_names: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()

_Class = TypeVar("_Class", bound=type)


class UntypedEvent(msgspec.Struct, frozen=True):
    """An event as stored, for which no class is needed: to read what nobody registered, or to append plain data."""

    event_type: str
    data: dict[str, Any]
    schema_version: int = 1
    event_id: str | None = None


@overload
def register_event_type(event_class: _Class, *, version: int | None = None, name: str | None = None) -> _Class: ...
@overload
def register_event_type(*, version: int | None = None, name: str | None = None) -> Callable[[_Class], _Class]: ...
def register_event_type(
    event_class: _Class | None = None, *, version: int | None = None, name: str | None = None
) -> _Class | Callable[[_Class], _Class]:
    """Register a class for reading and writing events: a call, or a decorator with or without arguments.

    `name` is what is stored, by default the class's own; `version` its current schema version, by default what
    `EVENT_VERSION_MAP` says, or 1. A later registration of a name replaces the earlier one.

    Raises:
        EventSerializationError: the class is none that msgspec can encode as a JSON object.
        ValueError: the version is not a whole number from 1 up.
    """
    if event_class is None:
        return lambda cls: register_event_type(cls, version=version, name=name)
    stored = name or str(getattr(event_class, "__name__", event_class))
    if version is not None and (type(version) is not int or version < 1):
        raise ValueError(f"schema version of {stored!r} must be a whole number from 1 up, not {version!r}")
    check_event_class(stored, event_class)
    EVENT_TYPE_MAP[stored] = event_class
    _names[event_class] = stored
    if version is not None:
        EVENT_VERSION_MAP[stored] = version
    return event_class


def get_current_version(event_type: str) -> int:
    """The current schema version of an event type; 1 if the map has no entry."""
    return EVENT_VERSION_MAP.get(event_type, 1)


def stored_name(event_class: type) -> str:
    """The name that events of a class are written under.

    Raises:
        EventSerializationError: another class has that name, so the event would be read back as something else.
    """
    name = _names.get(event_class, event_class.__name__)
    if EVENT_TYPE_MAP.get(name, event_class) is not event_class:
        if event_class in _names:
            return name  # It was replaced under its own name, as at a reload.
        raise EventSerializationError(
            name,
            f"{event_class.__module__}.{event_class.__qualname__} would be read back as "
            f"{EVENT_TYPE_MAP[name].__qualname__}, which has this name; register it under another with name=",
        )
    return name


def target_version(event_type: str) -> int:
    """The schema version a stored event type is brought to on read.

    Its own entry, else that of the name its class is written under: a renamed type needs none for its old name.
    """
    if event_type in EVENT_VERSION_MAP:
        return EVENT_VERSION_MAP[event_type]
    return get_current_version(canonical_name(event_type))


def canonical_name(event_type: str) -> str:
    """The name that events of a stored type are written under today: its own, unless its class was renamed."""
    event_class = EVENT_TYPE_MAP.get(event_type)
    return event_type if event_class is None else _names.get(event_class, event_class.__name__)


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
