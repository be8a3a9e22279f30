"""Walks through a payload and its wire shape in parallel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from hangarlog.schema.compare import ROUNDED, UNORDERED
from hangarlog.schema.default_change import default_change
from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import MAX_EXACT, enum_values, has_type, is_any, join_path, resolve, same_value, tags

SchemaPlace = tuple[str, Any, Schema | None]

_MAX_ALTERNATIVES = 20  # Alternatives of a union that are tried.
_MAX_NESTED = 3  # Depth of nested unions; in deeper ones only the first matching alternative is tried.


def places(
    value: Any, schema: Schema, root: Schema | None = None, path: str = "", nested: int = 0
) -> Iterator[SchemaPlace]:
    """Yield (path, value, schema) for every value in a payload.

    The schema is None if the wire shape has no such field. A read ignores such a value. `nested` is the number of
    unions around `value` whose alternatives were tried.
    """
    root = schema if root is None else root
    schema = resolve(schema, root)
    if "anyOf" in schema:
        limit = _MAX_ALTERNATIVES if nested < _MAX_NESTED else 1
        parts = list(islice((part for part in schema["anyOf"] if may_match(value, part, root)), limit))
        nested += len(parts) > 1
        found = [list(places(value, part, root, path, nested)) for part in parts]
        yield from min(found, key=lambda each: len(unknown_paths(each)), default=[])
    elif isinstance(value, dict) and "properties" in schema:
        fields = {**schema.get("x-former", {}), **schema["properties"]}
        for name, inner in value.items():
            if name in fields:
                yield from places(inner, fields[name], root, join_path(path, name), nested)
            else:
                yield join_path(path, name), inner, None
    elif isinstance(value, dict) and isinstance(schema.get("additionalProperties"), dict):
        for name, inner in value.items():
            yield from places(inner, schema["additionalProperties"], root, f"{path}{{{name}}}", nested)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for inner in value:
            yield from places(inner, schema["items"], root, f"{path}[]", nested)
    elif isinstance(value, list) and "prefixItems" in schema:
        known = schema["prefixItems"]
        for at, inner in enumerate(value[: len(known)]):
            yield from places(inner, known[at], root, f"{path}[{at}]", nested)
        yield from ((f"{path}[{at}]", value[at], None) for at in range(len(known), len(value)))
    else:
        yield path, value, schema


def unknown_paths(found: Iterable[SchemaPlace]) -> list[str]:
    """Return the paths for which the wire shape has no field."""
    return [path for path, _, schema in found if schema is None]


def last_name(path: str) -> str:
    """Return the name of the field at a path."""
    return path.rpartition(".")[2]


def extra_names(events: list[Any]) -> set[str]:
    """Return the names other than fields that payloads may have, such as attributes that events of MCP Hangar keep."""
    extras = [vars(event) for event in events if hasattr(event, "__dict__")]
    return {"_version", *chain.from_iterable(extras), *(("event_id", "occurred_at") if extras else ())}


def may_match(value: Any, schema: Schema, root: Schema) -> bool:
    """True if the type and the tag of a value match an alternative of a union."""
    schema = resolve(schema, root)
    if enum_values(schema):
        return any(same_value(value, each) for each in enum_values(schema))
    if isinstance(value, dict):
        return schema.get("type", "object") == "object" and all(
            same_value(value.get(name, tag), tag) for name, tag in tags(schema)
        )
    if isinstance(value, list):
        tag = schema.get("prefixItems", [{}])[:1]
        return bool(schema.get("type", "array") == "array") and (
            not value or not tag or "const" not in tag[0] or same_value(value[0], tag[0]["const"])
        )
    return "type" not in schema or has_type(value, schema["type"])


def lists_all_values(schema: Schema) -> bool:
    """True if a schema lists every value that it takes."""
    return bool(enum_values(schema)) or schema.get("type") in ("boolean", "null")


def changed_defaults(stored: Any, reached: Any, old: Schema, new: Schema) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, old default, new default) of fields that are missing before and after upcasting.

    `stored` is the payload as stored, `reached` the payload after the upcasters.
    """
    return _Defaults(old, new).changed(stored, reached, old, new, "")


class _Defaults:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new

    def changed(self, stored: Any, reached: Any, old: Schema, new: Schema, path: str) -> Iterator[tuple[str, Any, Any]]:
        old, new = _matching_alternative(stored, old, self._old), _matching_alternative(reached, new, self._new)
        if type(stored) is not type(reached) or not isinstance(stored, (dict, list)):
            return
        before, after = _child_schemas(stored, old), _child_schemas(reached, new)
        had, has = _children(stored), _children(reached)
        for name in before:
            place = join_path(path, name) if isinstance(name, str) else f"{path}[{name}]"
            if name not in after:
                for other in _moved_to(name, had, has, before, after):
                    yield from self.changed(had[name], has[other], before[name], after[other], place)
            elif name in had and name in has:
                yield from self.changed(had[name], has[name], before[name], after[name], place)
            elif name not in had and name not in has:
                change = default_change((before[name], self._old), (after[name], self._new))
                if change is not None and not change.why_harmless:
                    yield place, change.then, change.now


def _moved_to(name: Any, had: dict[Any, Any], has: dict[Any, Any], before: Any, after: Any) -> list[Any]:
    """Return the new field that has the object or array of a field that is gone, in a list; none if it is not clear."""
    if not isinstance(had.get(name), (dict, list)):
        return []
    found = [other for other in has if other in after and other not in before and has[other] == had[name]]
    return found if len(found) == 1 else []


def silent_losses(stored: dict[str, Any], reached: Any, old: Schema, new: Schema | None) -> list[str]:
    """Return what a read of a payload loses without an error, although upcasters pass it on, each with its path.

    `stored` is the payload as stored, `reached` the payload after the upcasters.
    """
    if new is None or not isinstance(reached, dict):
        return []
    before, after = old["properties"], new.get("properties", {})
    found = [
        f"{path}: was integer, is number: {ROUNDED}"
        for path, value, part in places(reached, new)
        if type(value) is int and abs(value) >= MAX_EXACT and part is not None and part.get("type") == "number"
    ]
    for name in before.keys() - after.keys():
        for other in _moved_to(name, stored, reached, before, after):
            was, now = (
                _matching_alternative(stored[name], *each) for each in ((before[name], old), (after[other], new))
            )
            if now.get("uniqueItems") and not was.get("uniqueItems"):
                found.append(f"{other}: was a list, is a set: {UNORDERED}")
    return found


def _matching_alternative(value: Any, schema: Schema, root: Schema) -> Schema:
    schema = resolve(schema, root)
    if is_any(schema) or not isinstance(value, (dict, list)):
        return {}
    parts = (resolve(part, root) for part in schema.get("anyOf", [schema]) if may_match(value, part, root))
    return next(parts, {})


def _children(value: dict[str, Any] | list[Any]) -> dict[Any, Any]:
    """Return the values in an object by name, or in an array by index."""
    return value if isinstance(value, dict) else dict(enumerate(value))


def _child_schemas(value: dict[str, Any] | list[Any], schema: Schema) -> dict[Any, Schema]:
    """Return the schemas of the values in an object by name, or in an array by index."""
    if isinstance(value, dict):
        return schema.get("properties") or dict.fromkeys(value, schema.get("additionalProperties") or {})
    items = dict.fromkeys(range(len(value)), schema.get("items") or {})
    return {**items, **dict(enumerate(schema.get("prefixItems", [])))}
