"""The words of a wire shape: what a part of it stands for, which values it names, and how it is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from hangarlog.schema.describe import Schema

ABSENT: Any = object()
"""The default of a field where none can be written down."""


def resolve(part: Schema, root: Schema) -> Schema:
    """What a reference stands for."""
    while "$ref" in part:
        name = part["$ref"].removeprefix("#/$defs/")
        part = root if name == "#" else root["$defs"][name]
    return part


def is_any(schema: Schema) -> bool:
    """Whether a schema says nothing of the value."""
    return not schema.keys() - {"default", "$defs"}


def patterns_of(part: Any) -> Iterator[str]:
    """The patterns in a schema, wherever they are."""
    if isinstance(part, dict):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from patterns_of(inner)


def shown(schema: Schema) -> str:
    """A schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(map(shown, schema["anyOf"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if named(schema):
        return "one of " + ", ".join(map(text_of, named(schema)))
    if "x-python" in schema:
        return str(schema["x-python"])
    if is_any(schema):
        return "any value"
    if schema["type"] == "array":
        return "a set" if schema.get("uniqueItems") else "a tuple" if "prefixItems" in schema else "an array"
    if tags(schema):
        name, value = tags(schema)[0]
        return f"an object whose {name} is {text_of(value)}"
    if schema["type"] == "object":
        return "an object" if "properties" in schema else "a mapping"
    name = str(schema.get("format") or schema.get("contentEncoding") or schema["type"])
    return {"base64": "bytes", "boolean": "true or false", "string": "text"}.get(name, name)


def named(schema: Schema) -> list[Any]:
    """All values that a schema takes, where it names them."""
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def is_a(value: Any, kind: object) -> bool:
    """Whether a value is of a `type` of JSON Schema."""
    of = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}.get(type(value))
    return of == kind or (of == "integer" and kind == "number")


def same(one: Any, other: Any) -> bool:
    """Whether two values are one in JSON: `1` and `1.0` are, `1` and `true` are not."""
    if one is other:
        return True
    kinds = {type(one), type(other)}
    return (len(kinds) == 1 or kinds == {int, float}) and bool(one == other)


def tags(schema: Schema) -> Any:
    """(name, value) of the fields that tell an object from others, of which there is one at most."""
    return [(name, part["const"]) for name, part in schema.get("properties", {}).items() if "const" in part]


def text_of(value: Any) -> str:
    """A value, such as a default, as people read it."""
    return "made anew for each" if value is ABSENT else msgspec.json.encode(value).decode()


def join(path: str, name: str) -> str:
    """The place of a field."""
    return f"{path}.{name}" if path else name
