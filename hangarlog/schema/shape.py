"""Queries on a wire shape: references, enumerated values, tags, and descriptions for messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from hangarlog.schema.describe import Schema

ABSENT: Any = object()
"""Stands for the default of a field whose schema has none, because it has no JSON form."""

COMPUTED: Any = object()
"""Stands for a default that is computed for each event, or is another in each process."""

UNSET: Any = object()
"""Stands for a default that is not stored: msgspec's UNSET."""

_NO_VALUES = {COMPUTED: "computed for each event", UNSET: "UNSET", ABSENT: "one that has no JSON form"}


def resolve(part: Schema, root: Schema) -> Schema:
    """Return the schema that a part refers to, or the part itself if it is not a reference."""
    while "$ref" in part:
        name = part["$ref"].removeprefix("#/$defs/")
        part = root if name == "#" else root["$defs"][name]
    return part


def is_any(schema: Schema) -> bool:
    """True if a schema takes any value."""
    return not schema.keys() - {"default", "x-default", "x-written", "$defs"}


def patterns_of(part: Any) -> Iterator[str]:
    """Yield the patterns in a schema and in its parts."""
    if isinstance(part, dict):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from patterns_of(inner)


def in_words(schema: Schema) -> str:
    """Describe a schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(map(in_words, schema["anyOf"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if enum_values(schema):
        return "one of " + ", ".join(map(value_text, enum_values(schema)))
    if "x-python" in schema:
        return str(schema["x-python"])
    if is_any(schema):
        return "any value"
    if schema["type"] == "array":
        return "a set" if schema.get("uniqueItems") else "a tuple" if "prefixItems" in schema else "an array"
    if tags(schema):
        name, value = tags(schema)[0]
        return f"an object whose {name} is {value_text(value)}"
    if schema["type"] == "object":
        return "an object" if "properties" in schema else "a mapping"
    name = str(schema.get("format") or schema.get("contentEncoding") or schema["type"])
    return {"base64": "bytes", "boolean": "true or false", "string": "text"}.get(name, name)


def enum_values(schema: Schema) -> list[Any]:
    """Return the values of a `const` or `enum`, an empty list for other schemas."""
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def has_type(value: Any, kind: object) -> bool:
    """True if a value other than an object or array has this JSON Schema `type`."""
    of = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}.get(type(value))
    return of == kind or (of == "integer" and kind == "number")


def same_value(one: Any, other: Any) -> bool:
    """True if two values are equal in JSON: `1` equals `1.0`, but not `true`."""
    if one is other:
        return True
    kinds = {type(one), type(other)}
    return (len(kinds) == 1 or kinds == {int, float}) and bool(one == other)


def tags(schema: Schema) -> Any:
    """Return [(name, value)] of the field that tags an object in a union, or an empty list."""
    return [(name, part["const"]) for name, part in schema.get("properties", {}).items() if "const" in part]


def value_text(value: Any) -> str:
    """Return a value, such as a default, for a message."""
    for mark, text in _NO_VALUES.items():
        if value is mark:
            return text
    return msgspec.json.encode(value).decode()


def default_of(schema: Schema) -> Any:
    """Return the default of a field, or `COMPUTED`, `UNSET` or `ABSENT`."""
    marks = {"computed": COMPUTED, "unset": UNSET}
    return schema["default"] if "default" in schema else marks.get(schema.get("x-default", ""), ABSENT)


def has_always(owner: Schema, name: str) -> bool:
    """True if every stored object of a shape has a field."""
    return name in owner["required"] or bool(owner["properties"][name].get("x-written"))


def join_path(path: str, name: str) -> str:
    """Return the path of a field below `path`."""
    return f"{path}.{name}" if path else name
