"""Comparison of the defaults of a field in two shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import ABSENT, COMPUTED, UNSET, default_of, enum_values, is_any, resolve, same_value, tags

Rooted = tuple[Schema, Schema]
"""A field's schema, and the root into which its references lead."""


class DefaultChange(NamedTuple):
    """A field's default that was another.

    `why_harmless` says why an event without the field has not changed; it is empty if it has. `effect` says what would
    change.
    """

    then: Any
    now: Any
    why_harmless: str = ""
    effect: str = "events stored without it would change"


def default_change(old: Rooted, new: Rooted) -> DefaultChange | None:
    """Return how a field's default has changed, None if it is read as the same value."""
    then, now = default_of(old[0]), default_of(new[0])
    if then is ABSENT and (now is COMPUTED or now is UNSET):
        return None  # Locks of an earlier version have no word for these.
    if _is_same(then, now, old, new):
        return None
    if then is COMPUTED:
        return DefaultChange(then, now, "events stored without it were read with another one each time")
    if then is UNSET and now is None:
        if _takes_null(*old):
            return DefaultChange(then, now, effect="events stored without it would be read like those with null")
        return DefaultChange(then, now, "events stored without it still have no value")
    return DefaultChange(then, now)


def _takes_null(schema: Schema, root: Schema) -> bool:
    schema = resolve(schema, root)
    parts = [resolve(part, root) for part in schema.get("anyOf", [schema])]
    return any(is_any(part) or part.get("type") == "null" or None in enum_values(part) for part in parts)


def _is_same(then: Any, now: Any, old: Rooted, new: Rooted) -> bool:
    """True if two defaults are read as the same value.

    The defaults of nested fields are filled in first: a nested class that gains a field with one does not change the
    default of the field that holds it.
    """
    if same_value(then, now):
        return True
    if not isinstance(then, (dict, list)) or not isinstance(now, (dict, list)):
        return False
    return _same(_filled(_filled(then, *old), *new), _filled(now, *new))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return same_value(one, other)


def _filled(value: Any, schema: Schema, root: Schema) -> Any:
    """Return a value with the defaults and tags that a read would fill in."""
    schema = resolve(schema, root)
    if "anyOf" in schema:
        parts = [resolve(part, root) for part in schema["anyOf"]]
        kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else ""
        parts = [part for part in parts if part.get("type") == kind and _has_tags(value, part)]
        schema = parts[0] if parts else {}
    if isinstance(value, dict) and "properties" in schema:
        filled = {name: _filled(inner, schema["properties"].get(name, {}), root) for name, inner in value.items()}
        for name, part in schema["properties"].items():
            if name not in filled and ("default" in part or "const" in part):
                filled[name] = _filled(part["default"], part, root) if "default" in part else part["const"]
        return filled
    if isinstance(value, dict) and isinstance(schema.get("additionalProperties"), dict):
        return {name: _filled(inner, schema["additionalProperties"], root) for name, inner in value.items()}
    if isinstance(value, list) and "prefixItems" in schema:
        parts = schema["prefixItems"]
        filled_items = [_filled(inner, part, root) for inner, part in zip(value, parts, strict=False)]
        more = [_filled(part["default"], part, root) for part in parts[len(value) :] if "default" in part]
        return [*filled_items, *value[len(parts) :], *more]
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [_filled(inner, schema["items"], root) for inner in value]
    return value


def _has_tags(value: Any, schema: Schema) -> bool:
    """True if a value does not contradict the tag of an alternative."""
    return not isinstance(value, dict) or all(same_value(value.get(name, tag), tag) for name, tag in tags(schema))
