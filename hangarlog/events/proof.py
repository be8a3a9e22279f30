"""The proof that an event can be read back: its text is decoded into its class again, before anything is written.

What comes back must be equal, in every field. So a value that JSON or msgspec changes silently is refused, too: an
offset with seconds, a time in a field of type Any, an integer in a float field that has no such float.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NoReturn

import msgspec

from hangarlog.errors import EventSerializationError
from hangarlog.events.decodable import has_fields
from hangarlog.events.event_class import field_names, full_name

_NOTHING: dict[str, Any] = {}
_TEXT = {str}
_PLAIN = frozenset([str, int, float, bool, type(None)])
_ANY = (Any, object)
_TEMPORAL = (datetime.datetime, datetime.time)
_IDENTITY = ("event_id", "occurred_at")
_Encode = Callable[[Any], bytes]
_struct_eq = msgspec.Struct.__eq__


class Proof:
    """Proves that events of one class can be read back.

    Args:
        event_type: the name under which the events are written.
        event_class: the class of the events.
        read_class: the class as which the type is read: the same, or a reload of it.
        encode: the encoder of the serializer, which compares values of types that only the application's hooks know.
        read: reads a payload as the store does, with the attributes that an event has beside its fields.
        dec_hook: msgspec's hook for decoding into unknown types.
    """

    def __init__(
        self,
        event_type: str,
        event_class: type,
        read_class: type,
        encode: _Encode,
        read: Callable[[bytes], Any],
        dec_hook: Callable[[type, Any], Any] | None,
    ) -> None:
        self._event_type, self._encode, self._read = event_type, encode, read
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(read_class, dec_hook=dec_hook)
        self._dec_hook = dec_hook
        self._struct_fields = msgspec.structs.fields(read_class) if issubclass(read_class, msgspec.Struct) else ()
        self._decode, self._decode_lines = decoder.decode, decoder.decode_lines
        self._shown = read_class.__qualname__
        self._fields = field_names(event_class)
        self._values: Callable[[Any], Any] = attrgetter(*self._fields) if self._fields else bool
        # A comparison in C; an `__eq__` of the application may leave out fields.
        self._compares_all = issubclass(event_class, msgspec.Struct) and event_class.__eq__ is _struct_eq

    def struct(self, event: Any, data: bytes) -> None:
        """Prove a Struct's payload. Raises `EventSerializationError`."""
        try:
            again = self._decode(data)
            if self._compares_all and again == event:
                return
        except Exception as error:  # `__post_init__`, a hook or a comparison of the application may raise anything.
            self._refuse(_said(error), error)
        self._compare(event, again)

    def other(self, event: Any, value: dict[str, Any], extras: dict[str, Any], data: bytes) -> None:
        """Prove the payload of a dataclass or an attrs class: its attributes, and those of them that are no fields."""
        try:
            again = self._decode(data)
            fresh: dict[str, Any] = getattr(again, "__dict__", _NOTHING)
            if fresh == value and not extras:
                return
            plain = not extras or self._are_restored(extras, fresh)
            if plain and self._values(again) == self._values(event):
                return
            if not plain:
                again = self._read(data)
        except Exception as error:
            self._refuse(_said(error), error)
        self._compare(event, again)
        if not plain:
            for name, value in extras.items():
                self._compare_attribute(name, value, again)

    def structs(self, events: Sequence[Any], lines: bytes) -> bool:
        """True if the lines of many Structs of the class can be read back. If not, prove each: that names the field."""
        try:
            again = self._decode_lines(lines)
            if len(again) != len(events):
                return False
            if self._compares_all and again == (events if type(events) is list else list(events)):
                return True
            return all(difference(*pair, self._encode) is None for pair in zip(events, again, strict=True))
        except Exception:
            return False

    def large(self, event: Any, data: bytes) -> bool:
        """True if a large Struct can be read back, without decoding its fields of type Any, which hold plain JSON.

        Decoded again, they may take twenty times the memory of their text.
        """
        loose = [field.name for field in self._struct_fields if field.type in _ANY]
        if not loose or not all(is_json(getattr(event, name)) for name in loose):
            return False
        typed = [field for field in self._struct_fields if field.type not in _ANY]
        rename = {field.name: field.encode_name for field in typed}
        rows = [(field.name, field.type, msgspec.UNSET) for field in typed]  # Unset: it is left out as its default.
        try:
            again = msgspec.json.decode(
                data, type=msgspec.defstruct("Typed", rows, rename=rename), dec_hook=self._dec_hook
            )
        except Exception as error:
            self._refuse(_said(error), error)
        for name in rename:
            found = getattr(again, name)
            if found is not msgspec.UNSET:
                self._compare_one(name, getattr(event, name), found)
        return True

    def _are_restored(self, extras: dict[str, Any], fresh: dict[str, Any]) -> bool:
        """True if a read restores these attributes as they are: they are plain, and as those of a fresh event."""
        for name, value in extras.items():
            kind = type(value)
            if kind not in _PLAIN or not (name in fresh or name in _IDENTITY):
                return False
            own = fresh.get(name)
            if own is not None and value is not None and type(own) is not kind:
                return False
        return True

    def _compare(self, event: Any, again: Any) -> None:
        for name in self._fields:
            self._compare_one(name, getattr(event, name, msgspec.UNSET), getattr(again, name, msgspec.UNSET))

    def _compare_attribute(self, name: str, value: Any, again: Any) -> None:
        if not hasattr(again, name):
            self._refuse(
                f"its attribute {name} is no field, and a new {self._shown} has none of this name; make it a field, or "
                "let its name begin with _ to leave it out"
            )
        self._compare_one(name, value, getattr(again, name))

    def _compare_one(self, name: str, value: Any, again: Any) -> None:
        found = difference(value, again, self._encode, f"$.{name}")
        if found is not None and not (name == "event_id" and isinstance(value, uuid.UUID) and str(value) == again):
            self._refuse(found)

    def _refuse(self, why: str, cause: Exception | None = None) -> NoReturn:
        raise EventSerializationError(
            self._event_type, f"it would not be read back as the same {self._shown}: {why}; nothing was written"
        ) from cause


def is_json(value: Any) -> bool:
    """True if a value is what JSON holds, so that it is read as it is: no other types, keys that are text."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is dict:
        return set(map(type, value)) <= _TEXT and all(map(is_json, value.values()))
    return kind in (list, tuple) and all(map(is_json, value))


def difference(value: Any, again: Any, encode: _Encode, path: str = "$") -> str | None:
    """Return where and how a value that was read back differs from the one that was written, None if it does not.

    A tuple equals a list: msgspec takes either where a class asks for the other.
    """
    if value is again:
        return None
    kind, other = type(value), type(again)
    if isinstance(value, dict) and isinstance(again, dict):
        return _of_dicts(value, again, encode, path)
    if isinstance(value, (list, tuple)) and isinstance(again, (list, tuple)):
        found = (difference(*pair, encode, f"{path}[{at}]") for at, pair in enumerate(zip(value, again, strict=False)))
        same = len(value) == len(again)
        return next(filter(None, found), None) if same else _differs(value, again, path)
    if isinstance(value, msgspec.Raw):
        same = _decoded(value) == _decoded(again)
    elif isinstance(value, _TEMPORAL):
        same = isinstance(again, _TEMPORAL) and _clock(value) == _clock(again)
    elif isinstance(value, decimal.Decimal):
        same = isinstance(again, decimal.Decimal) and str(value) == str(again)
    elif has_fields(kind) and full_name(kind) == full_name(other):  # A reload of a module makes its classes anew.
        unset = msgspec.UNSET
        pairs = ((name, getattr(value, name, unset), getattr(again, name, unset)) for name in field_names(kind))
        parts = (difference(one, two, encode, f"{path}.{name}") for name, one, two in pairs)
        return next(filter(None, parts), None)
    else:
        same = _equal(value, again, encode)
    return None if same else _differs(value, again, path)


def _of_dicts(value: dict[Any, Any], again: dict[Any, Any], encode: _Encode, path: str) -> str | None:
    for key, item in value.items():
        if key not in again:
            return f"the key {key!r} would become another key - at `{path}`"
        found = difference(item, again[key], encode, f"{path}[...]")
        if found is not None:
            return found
    return None if len(value) == len(again) else _differs(value, again, path)


def _differs(value: Any, again: Any, path: str) -> str:
    return f"{_short(value)} would become {_short(again)} - at `{path}`"


def _short(value: Any) -> str:
    if value is msgspec.UNSET:
        return "unset"
    text = value.isoformat() if isinstance(value, _TEMPORAL) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _clock(value: Any) -> tuple[Any, Any, bool]:
    """Return what a time says: two with different zones may be unequal in the hour that a clock repeats."""
    return type(value), value.replace(tzinfo=None), value.utcoffset()


def _decoded(value: Any) -> Any:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


def _equal(value: Any, again: Any, encode: _Encode) -> bool:
    """True if values are equal, or, if their class cannot tell, are written as the same text."""
    kind: Any = type(value)
    try:
        if kind.__eq__ is not object.__eq__ or kind is not type(again):
            return bool(value == again)
    except Exception:  # An `__eq__` of the application, such as that of an array.
        if kind is not type(again):
            return False
    return encode(value) == encode(again)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, (msgspec.MsgspecError, ValueError)) else repr(error)
