"""Walks of a payload beside its wire shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import ABSENT, is_a, join, named, resolve, same, tags

SchemaPlace = tuple[str, Any, Schema | None]
_MAX_ALTERNATIVES, _MAX_NESTED = (
    20,
    3,
)  # So many alternatives are tried, where so many are within each other; else the first.


def places(
    value: Any, schema: Schema, root: Schema | None = None, path: str = "", tried: int = 0
) -> Iterator[SchemaPlace]:
    """(path, value, its schema) of all that is in a payload; without one where a wire shape has no field for it.

    What has none is passed over on read. `tried` is in how many alternatives the payload is, that were tried.
    """
    root = schema if root is None else root
    schema = resolve(schema, root)
    if "anyOf" in schema:
        parts = [part for part in schema["anyOf"] if may_be(value, part, root)][
            : _MAX_ALTERNATIVES if tried < _MAX_NESTED else 1
        ]
        tried += len(parts) > 1
        found = [list(places(value, part, root, path, tried)) for part in parts]
        yield from min(found, key=lambda each: len(unknown(each)), default=[])
    elif isinstance(value, dict) and "properties" in schema:
        for name, inner in value.items():
            if name in schema["properties"]:
                yield from places(inner, schema["properties"][name], root, join(path, name), tried)
            else:
                yield join(path, name), inner, None
    elif isinstance(value, dict) and isinstance(schema.get("additionalProperties"), dict):
        for name, inner in value.items():
            yield from places(inner, schema["additionalProperties"], root, f"{path}{{{name}}}", tried)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for inner in value:
            yield from places(inner, schema["items"], root, f"{path}[]", tried)
    elif isinstance(value, list) and "prefixItems" in schema:
        known = schema["prefixItems"]
        for at, inner in enumerate(value[: len(known)]):
            yield from places(inner, known[at], root, f"{path}[{at}]", tried)
        yield from ((f"{path}[{at}]", value[at], None) for at in range(len(known), len(value)))
    else:
        yield path, value, schema


def unknown(found: Iterable[SchemaPlace]) -> list[str]:
    """The paths of places that a wire shape does not have."""
    return [path for path, _, schema in found if schema is None]


def may_be(value: Any, schema: Schema, root: Schema) -> bool:
    """Whether a value can be of an alternative, as far as its type and its tag tell."""
    schema = resolve(schema, root)
    if named(schema):
        return any(same(value, each) for each in named(schema))
    if isinstance(value, dict):
        return schema.get("type", "object") == "object" and all(value.get(name) == tag for name, tag in tags(schema))
    if isinstance(value, list):
        return bool(schema.get("type", "array") == "array")
    return "type" not in schema or is_a(value, schema["type"])


def is_closed(schema: Schema) -> bool:
    """Whether a schema names every value there may be."""
    return bool(named(schema)) or schema.get("type") in ("boolean", "null")


def changed_defaults(stored: Any, reached: Any, old: Schema, new: Schema) -> Iterator[tuple[str, Any, Any]]:
    """(path, default then, default now) of fields that neither a stored payload has, nor what upcasters made of it."""
    return _Defaults(old, new).changed(stored, reached, old, new, "")


class _Defaults:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new

    def changed(self, stored: Any, reached: Any, old: Schema, new: Schema, path: str) -> Iterator[tuple[str, Any, Any]]:
        old, new = _alternative(stored, old, self._old), _alternative(reached, new, self._new)
        if type(stored) is not type(reached) or not isinstance(stored, (dict, list)):
            return
        before, after = _fields(stored, old), _fields(reached, new)
        had, has = _values(stored), _values(reached)
        for name in filter(after.__contains__, before):
            place = join(path, name) if isinstance(name, str) else f"{path}[{name}]"
            then, now = before[name].get("default", ABSENT), after[name].get("default", ABSENT)
            if name in had and name in has:
                yield from self.changed(had[name], has[name], before[name], after[name], place)
            elif name not in had and name not in has and not same(then, now):
                yield place, then, now


def _alternative(value: Any, schema: Schema, root: Schema) -> Schema:
    schema = resolve(schema, root)
    parts = [resolve(part, root) for part in schema.get("anyOf", [schema]) if may_be(value, part, root)]
    return parts[0] if parts else {}


def _values(value: dict[str, Any] | list[Any]) -> dict[Any, Any]:
    """What is in an object by name, and in an array by place."""
    return value if isinstance(value, dict) else dict(enumerate(value))


def _fields(value: dict[str, Any] | list[Any], schema: Schema) -> dict[Any, Schema]:
    """The schemas of what may be there."""
    if isinstance(value, dict):
        return schema.get("properties") or dict.fromkeys(value, schema.get("additionalProperties") or {})
    items = dict.fromkeys(range(len(value)), schema.get("items") or {})
    return {**items, **dict(enumerate(schema.get("prefixItems", [])))}
