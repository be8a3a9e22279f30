"""What an event means, and what of it another class has not kept: the truth that the check is held against.

Fields count by their name in events; those of a class that is stored as an array by their name in Python.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from msgspec import UNSET


@dataclass(slots=True)
class Object:
    """An event, or an object in one. `tag` is (the tag's field, the tag) or None."""

    tag: tuple[str, Any] | None
    fields: dict[str, Any]
    cls: str


@dataclass(slots=True)
class Row(Object):
    """An object that is stored as an array."""


@dataclass(slots=True)
class Unordered:
    """The items of a set, sorted."""

    items: list[Any]


_plans: dict[type, tuple[type, Any, tuple[tuple[str, str], ...]]] = {}
_PLAIN = (str, bool, int, float, type(None))


def meaning(value: Any) -> Any:
    """A value as JSON has it, but with each object's defaults, and without the order of sets."""
    kind = type(value)
    if kind in _PLAIN or value is UNSET:
        return value
    if kind in (list, tuple):
        return [meaning(each) for each in value]
    if kind is dict:
        return {_key(name): meaning(each) for name, each in value.items()}
    if kind in (set, frozenset):
        return Unordered(sorted(map(meaning, value), key=_order))
    if isinstance(value, enum.Enum):
        return value.value
    plan = _plans.get(kind)
    if plan is None:
        made = _plan(kind)
        if made is None:
            return msgspec.to_builtins(value)
        plan = _plans[kind] = made
    shape, tag, names = plan
    return shape(tag, {wire: meaning(getattr(value, name)) for name, wire in names}, kind.__name__)


def forget_classes() -> None:
    """Forget what is known of classes, so that they can go."""
    _plans.clear()


def _plan(kind: type) -> tuple[type, Any, tuple[tuple[str, str], ...]] | None:
    if issubclass(kind, msgspec.Struct):
        config = kind.__struct_config__
        tag = None if config.tag is None else (config.tag_field or "type", config.tag)
        names = kind.__struct_fields__
        wires = names if config.array_like else kind.__struct_encode_fields__
        return (Row if config.array_like else Object), tag, tuple(zip(names, wires, strict=True))
    fields = getattr(kind, "__attrs_attrs__", None)
    if fields is None:
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else None
    return None if fields is None else (Object, None, tuple((each.name, each.name) for each in fields))


def _key(name: Any) -> str:
    plain = msgspec.to_builtins(name.value if isinstance(name, enum.Enum) else name)
    return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()


def _number(key: str) -> Any:
    try:
        return Decimal(key)
    except InvalidOperation:
        return key


def _rounded(key: Any) -> Any:
    return float(key) if isinstance(key, Decimal) else key


def _order(value: Any) -> tuple[str, str]:
    return type(value).__name__, repr(value)


class Readings:
    """Which alternatives of a union were read as one class that cannot tell them apart."""

    def __init__(self) -> None:
        self._tags: dict[tuple[str, str], set[Any]] = {}

    def add(self, path: str, cls: str, tag: Any) -> bool:
        """False if events with another tag were read as this class."""
        found = self._tags.setdefault((path, cls), set())
        found.add(tag)
        return len(found) < 2


def unkept(was: Any, now: Any, readings: Readings, path: str = "") -> Iterator[str]:
    """Yield in what `now` does not keep what `was` meant, each as "PATH: why"."""
    if isinstance(was, Object):
        yield from _of_object(was, now, readings, path)
    elif now is None and (was is None or was is UNSET):
        if not readings.add(path, "null", was is None):
            yield f"{path}: null and no value told apart no more"
    elif was is UNSET or now is UNSET:
        if was is not now:
            yield f"{path}: {'had no value' if was is UNSET else 'lost'}"
    elif isinstance(was, dict):
        yield from _of_mapping(was, now, readings, path)
    elif isinstance(was, (list, Unordered)):
        yield from _of_array(was, now, readings, path)
    elif not _same(was, now):
        rounded = isinstance(was, int) and isinstance(now, float) and float(was) == now
        yield f"{path}: {'rounded' if rounded else 'value'}"


def _of_mapping(was: dict[Any, Any], now: Any, readings: Readings, path: str) -> Iterator[str]:
    if not isinstance(now, (Object, dict)):
        yield f"{path}: value"
        return
    more = now if isinstance(now, dict) else was  # A class may have more fields.
    now = now if isinstance(now, dict) else now.fields
    if was.keys() != now.keys():  # A key that is a number may be written otherwise.
        was, now, more = ({_number(key): value for key, value in each.items()} for each in (was, now, more))
    if was.keys() != now.keys() and {_rounded(key) for key in was} == {_rounded(key) for key in now}:
        if any(
            isinstance(key, Decimal) and key != Decimal(repr(float(key))) for key in was
        ):  # Else they were rounded before, and are now as they are stored.
            yield f"{path}: rounded"
        return
    if was.keys() - now.keys() or more.keys() - was.keys():
        yield f"{path}: keys"
        return
    for name, value in was.items():
        yield from unkept(value, now[name], readings, f"{path}{{}}")


def _of_object(was: Object, now: Any, readings: Readings, path: str) -> Iterator[str]:
    if isinstance(now, (dict, list)) and isinstance(was, Row) == isinstance(now, list):
        yield from _of_plain(was, now, readings, path)  # It has all that was stored.
        return
    if not isinstance(now, Object) or isinstance(was, Row) != isinstance(now, Row):
        yield f"{path}: value"
        return
    if was.tag is not None and now.tag is not None and was.tag[0] == now.tag[0] and not _same(was.tag[1], now.tag[1]):
        yield f"{path}: another class"
    if was.tag is not None and not readings.add(path, now.cls, was.tag[1]):
        yield f"{path}: told apart no more"
    for name, value in was.fields.items():
        place = f"{path}.{name}"
        if isinstance(was, Row) and _has_moved(was, now, name):
            yield f"{place}: moved"
        elif name in now.fields:
            yield from unkept(value, now.fields[name], readings, place)
        elif value is not UNSET and not (isinstance(was, Row) and _has_name_instead(was, now, name, readings)):
            yield f"{place}: lost"


def _has_moved(was: Object, now: Object, name: str) -> bool:
    """True if a field is at another place of the array."""
    return name in now.fields and list(was.fields).index(name) != list(now.fields).index(name)


def _has_name_instead(was: Row, now: Object, name: str, readings: Readings) -> bool:
    """True if the field at this place of the array has a new name, and the value."""
    at, names = list(was.fields).index(name), list(now.fields)
    if at >= len(names) or names[at] in was.fields:
        return False
    return not list(unkept(was.fields[name], now.fields[names[at]], readings))


def _of_plain(was: Object, now: Any, readings: Readings, path: str) -> Iterator[str]:
    """What was an object is plain JSON, which has no defaults."""
    if isinstance(now, list):
        values = [*([was.tag[1]] if was.tag else []), *was.fields.values()]
        for at, (value, other) in enumerate(zip(values, now, strict=False)):
            yield from unkept(value, other, readings, f"{path}[{at}]")
        return
    for name, value in was.fields.items():
        if name in now:
            yield from unkept(value, now[name], readings, f"{path}.{name}")


def _of_array(was: Any, now: Any, readings: Readings, path: str) -> Iterator[str]:
    items = was.items if isinstance(was, Unordered) else was
    if isinstance(now, Unordered):
        if not isinstance(was, Unordered) and len(was) > 1:
            yield f"{path}: order"
            return
        others = now.items
    elif isinstance(now, Row):
        others = list(now.fields.values())
    elif isinstance(now, list):
        others = sorted(now, key=_order) if isinstance(was, Unordered) else now
    else:
        yield f"{path}: value"
        return
    if isinstance(was, Unordered):  # Their items may be written otherwise now, and so have another order.
        if len(items) > len(others) or (len(items) < len(others) and isinstance(now, Unordered)):
            yield f"{path}: items"  # A list may have those again that the set did not repeat.
            return
        for one in items:
            reasons = [list(unkept(one, each, Readings(), f"{path}[]")) for each in others]
            yield from min(reasons, key=lambda each: [not why.endswith("rounded") for why in each])
        return
    if len(items) > len(others) or (len(items) < len(others) and not isinstance(now, Row)):
        yield f"{path}: items"
        return
    for at, (value, other) in enumerate(zip(items, others, strict=False)):
        yield from unkept(value, other, readings, f"{path}[{at if isinstance(now, Row) else ''}]")


def _same(was: Any, now: Any) -> bool:
    if type(was) is type(now):
        return bool(was == now)
    if isinstance(was, bool) or isinstance(now, bool):
        return False
    if isinstance(was, (int, float)) and isinstance(now, (int, float)):
        return bool(was == now) or (isinstance(was, float) and was == float(now))  # As the rounded one is stored.
    if {type(was), type(now)} in ({int, str}, {float, str}):  # A Decimal, which is text in JSON.
        if isinstance(was, float):  # It may have been rounded, and a Decimal is not.
            return bool(was == _rounded(_number(str(now))))
        return bool(_number(str(was)) == _number(str(now)))
    return False
