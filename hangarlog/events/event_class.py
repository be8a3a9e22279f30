"""Event classes: their fields, and which of them can never be read back."""

from __future__ import annotations

import contextlib
import sys
import typing
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import msgspec

from hangarlog.errors import EventSerializationError
from hangarlog.events.decodable import UNRESOLVED, decoder_of, has_fields

deferred = ContextVar("checks_deferred", default=False)  # Other threads go on checking.


@contextlib.contextmanager
def checks_deferred() -> Iterator[None]:
    """Make registrations and new serializers in the block skip their checks, so that a caller can report all findings.

    An event class must still be a class that msgspec writes as a JSON object.
    """
    before = deferred.set(True)
    try:
        yield
    finally:
        deferred.reset(before)


def full_name(kind: type) -> tuple[str, str]:
    """Return the (module, qualified name) of a class, which its reload has, too."""
    return kind.__module__, kind.__qualname__


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


def field_names(event_class: Any) -> tuple[str, ...]:
    """Return the names of the fields of a Struct, a dataclass or an attrs class. It does not import attrs."""
    if issubclass(event_class, msgspec.Struct):
        return tuple(event_class.__struct_fields__)
    if hasattr(event_class, "__dataclass_fields__"):
        from dataclasses import fields  # The class's own module has imported it already.

        return tuple(field.name for field in fields(event_class))
    return tuple(field.name for field in getattr(event_class, "__attrs_attrs__", ()))


def check_event_class(name: str, event_class: type, *, forward_references: bool = True) -> None:
    """Raise `EventSerializationError` if events of the class cannot be stored and read back.

    With `forward_references`, a class whose annotations name a class that does not exist yet passes: check it again
    before an event is written.
    """
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
    elif has_fields(event_class):
        fields = field_names(event_class)
    else:
        raise EventSerializationError(name, f"{shown} must be a msgspec Struct, a dataclass or an attrs class")
    if "_version" in fields:
        raise EventSerializationError(name, f"{shown} has a field _version, which is the payload's schema version")
    if not deferred.get():
        check_decodable(name, event_class, forward_references=forward_references)


def check_decodable(name: str, event_class: type, *, forward_references: bool = False) -> None:
    """Raise `EventSerializationError`, which names the field, if msgspec cannot decode into the class."""
    try:
        decoder_of(event_class)
    except Exception as error:  # An annotation is code of the application: evaluating it may raise anything.
        if isinstance(error, UNRESOLVED) and forward_references:
            return
        raise EventSerializationError(
            name,
            f"{event_class.__qualname__} could not be read back: {error} - at `{_culprit(event_class, '$', set())}`",
        ) from error


def _culprit(kind: Any, path: str, seen: set[Any]) -> str:
    """Return the path of the innermost field, in or below a type, that msgspec cannot decode."""
    seen.add(kind)
    for name, part in _parts(kind):
        if part not in seen and not _is_decodable(part):
            return _culprit(part, path if name is None else f"{path}.{name}", seen)
    return path


def _parts(kind: Any) -> Iterator[tuple[str | None, Any]]:
    """Yield the (name, type) of each field of a class, or (None, argument) of each argument of a generic type."""
    hints = vars(kind).get("__annotations__") if isinstance(kind, type) else None
    if hints is None:
        for argument in typing.get_args(kind):
            yield None, argument
        return
    for owner in reversed(kind.__mro__):
        for name, hint in vars(owner).get("__annotations__", {}).items():
            try:
                # One by one: only the unresolved one should fail.
                holder = type(owner.__name__, (), {"__annotations__": {name: hint}, "__module__": owner.__module__})
                hint = typing.get_type_hints(holder, include_extras=True)[name]
            except Exception:
                yield name, hint
            else:
                if typing.get_origin(hint) is not typing.ClassVar:
                    yield name, hint


def _is_decodable(kind: Any) -> bool:
    if isinstance(kind, str):
        return False  # An annotation that could not be evaluated.
    try:
        decoder_of(kind)
    except Exception:
        return False
    return True
