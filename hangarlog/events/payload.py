"""Encodes and checks payloads and metadata: JSON objects that all readers accept and read back the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from hangarlog.errors import EventSerializationError
from hangarlog.record.nesting import MAX_NESTING, nesting
from hangarlog.record.strict import refuse_repeated_keys

FAILURES = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
"""The exceptions that msgspec raises if a value has no JSON form, or a text does not fit the type."""


def plain_int(value: Any) -> int:
    """An encoder's hook for kinds of `int`, such as the result of an append. Raises `TypeError` for anything else."""
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"objects of type {type(value).__name__} have no JSON form")


encode_plain = msgspec.json.Encoder(enc_hook=plain_int).encode
decode_object: Callable[[bytes], Any] = msgspec.json.Decoder(dict[str, Any]).decode
skip: Callable[[bytes], Any] = msgspec.json.Decoder(msgspec.Raw).decode
"""Check that a text is JSON without building its values, which may take ten times the memory of the text."""

_TEXT = frozenset([str])
_LEAVES = frozenset([str, int, bool, type(None)])


def encode_object(value: dict[str, Any], what: str) -> bytes:
    """Return a dictionary (metadata, a state) as compact JSON. Raises `EventSerializationError` about `what`."""
    try:
        if not isinstance(value, dict):
            raise TypeError(f"it must be a dictionary, not {type(value).__name__}")
        return encoded_object(value, value)
    except FAILURES as error:
        raise EventSerializationError(what, f"cannot be encoded as JSON: {error}") from error


def encoded_object(value: dict[str, Any], stored: dict[str, Any]) -> bytes:
    """Return the JSON of `stored`, which contains `value`. Raises one of `FAILURES`."""
    decode = skip if is_plain(value) else decode_object
    return checked_json(encode_plain(stored), decode)


def checked_json(data: bytes, decode: Callable[[bytes], Any] | None = decode_object) -> bytes:
    """Return a JSON object in a form that a line may hold: decodable, on one line, not too deep, no repeated keys.

    A msgspec.Raw in the event may have brought in any text. With `skip` as `decode`, for plain values, repeated keys
    are not checked. With None, the caller decodes the result. Raises one of `FAILURES`.
    """
    if decode is not None:
        decode(data)
        if decode is not skip:
            refuse_repeated_keys(data)
    if b"\n" in data:
        data = msgspec.json.format(data, indent=-1)
    if too_deep(data):
        raise ValueError(f"it is nested deeper than {MAX_NESTING} levels")
    return data


def check_version(version: object) -> int:
    """Return a payload's schema version. Raises `ValueError` if it is not a whole number from 1 up."""
    if type(version) is not int or version < 1:
        raise ValueError(f"_version must be a whole number from 1 up, not {version!r}")
    return version


def too_deep(data: bytes) -> bool:
    """True if a JSON text is nested deeper than `MAX_NESTING` levels."""
    return nesting(data) > MAX_NESTING


def may_hold_raw(event_class: type) -> bool:
    """True if an event of this class may hold a msgspec.Raw, whose text msgspec writes unchecked.

    Also True if it may hold a dictionary with keys of several types: 1 and "1" are written as the same key.
    """
    return any(
        isinstance(part, (msgspec.inspect.AnyType, msgspec.inspect.RawType, msgspec.inspect.CustomType))
        or (isinstance(part, msgspec.inspect.DictType) and isinstance(part.key_type, msgspec.inspect.UnionType))
        for part in _types_in(event_class)
    )


def may_be_unset(event_class: type) -> bool:
    """True if the default of a field is `UNSET`, which msgspec leaves out of an object, but not out of a dictionary."""
    none = msgspec.NODEFAULT
    fields = getattr(msgspec.inspect.type_info(event_class), "fields", ())
    return any(not field.required and field.default is none is field.default_factory for field in fields)


def holds_raw(event_class: type) -> bool:
    """True if a field of this class, or of a class in it, may be a msgspec.Raw."""
    return any(isinstance(part, msgspec.inspect.RawType) for part in _types_in(event_class))


def _types_in(event_class: type) -> Iterator[Any]:
    """Yield every type in a class and in its parts; only `AnyType` if it cannot be inspected."""
    try:
        left: list[Any] = [msgspec.inspect.type_info(event_class)]
    except (TypeError, NameError):
        left = [msgspec.inspect.AnyType()]
    seen = set()
    while left:
        part = left.pop()
        if isinstance(part, tuple):
            left += part
        elif isinstance(part, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(part) not in seen:
            seen.add(id(part))
            yield part
            left += msgspec.structs.astuple(part)


def is_plain(value: Any) -> bool:
    """True if a value consists of lists, text, numbers, and dictionaries with text keys, which msgspec writes checked.

    Raises `ValueError` if it holds a number that JSON cannot have.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no JSON form; it would be read back as null")
        return True
    if not isinstance(value, (dict, list, tuple, set, frozenset)):
        return type(value) in _LEAVES
    plain = not isinstance(value, dict) or _TEXT.issuperset(map(type, value))
    for item in value.values() if isinstance(value, dict) else value:
        if type(item) not in _LEAVES:
            plain &= is_plain(item)
    return plain
