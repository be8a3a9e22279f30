"""What may stand in a payload, or in metadata: a JSON object that every reader takes and that comes back the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from hangarlog.errors import EventSerializationError
from hangarlog.record.nesting import MAX_NESTING, nesting
from hangarlog.record.strict import refuse_repeated_keys

FAILURES = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
"""What msgspec raises where a value has no JSON form, or a text does not fit."""

encode_plain = msgspec.json.Encoder().encode
decode_object: Callable[[bytes], Any] = msgspec.json.Decoder(dict[str, Any]).decode
skip: Callable[[bytes], Any] = msgspec.json.Decoder(msgspec.Raw).decode
"""Checks that a text is JSON without building values, which may take ten times the memory of the text."""

_TEXT = frozenset([str])
_LEAVES = frozenset([str, int, bool, type(None)])


def encode_object(value: dict[str, Any], what: str) -> bytes:
    """A dictionary (metadata, a snapshot's state) as compact JSON. Raises `EventSerializationError` about `what`."""
    try:
        if not isinstance(value, dict):
            raise TypeError(f"it must be a dictionary, not {type(value).__name__}")
        return encoded_object(value, value)
    except FAILURES as error:
        raise EventSerializationError(what, f"cannot be encoded as JSON: {error}") from error


def encoded_object(value: dict[str, Any], stored: dict[str, Any]) -> bytes:
    """The JSON of `stored`, which holds all of `value`. Raises one of `FAILURES`."""
    decode = skip if is_plain(value) else decode_object
    return checked_json(encode_plain(stored), decode)


def checked_json(data: bytes, decode: Callable[[bytes], Any] = decode_object) -> bytes:
    """A JSON object as it may stand in a line: one that `decode` reads, whatever a msgspec.Raw brought in.

    No object in it may have a key twice. With `skip` as `decode`, for plain values, that is not checked.
    """
    decode(data)
    if decode is not skip:
        refuse_repeated_keys(data)
    if b"\n" in data:
        data = msgspec.json.format(data, indent=-1)
    if too_deep(data):
        raise ValueError(f"it is nested deeper than {MAX_NESTING} levels")
    return data


def too_deep(data: bytes) -> bool:
    """Whether a JSON text is nested deeper than every reader can take."""
    return nesting(data) > MAX_NESTING


def may_hold_raw(event_class: type) -> bool:
    """Whether a msgspec.Raw may be somewhere in such an event: it is written unchecked, with what no decoder takes.

    Or a dictionary with keys of several kinds: 1 and "1" are written as the same one.
    """
    try:
        left: list[Any] = [msgspec.inspect.type_info(event_class)]
    except (TypeError, NameError):
        return True
    seen = set()
    while left:
        part = left.pop()
        if isinstance(part, (msgspec.inspect.AnyType, msgspec.inspect.RawType, msgspec.inspect.CustomType)):
            return True
        if isinstance(part, msgspec.inspect.DictType) and isinstance(part.key_type, msgspec.inspect.UnionType):
            return True
        if isinstance(part, tuple):
            left += part
        elif isinstance(part, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(part) not in seen:
            seen.add(id(part))
            left += msgspec.structs.astuple(part)
    return False


def is_plain(value: Any) -> bool:
    """Whether a value is made of lists, texts, numbers, and dictionaries by text: nothing in it is written unchecked.

    Raises `ValueError` if there is a number in it that JSON cannot have.
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
