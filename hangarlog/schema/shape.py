"""Queries on a wire shape: references, enumerated values, tags, and descriptions for messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


MAX_EXACT = 1 << 53  # The largest whole number up to which floats hold all.
_MAX_SHOWN = 20  # Values of an enum that a message lists.


def resolve(part: Schema, root: Schema) -> Schema:
    """Return the schema that a part refers to, or the part itself if it is not a reference."""
    while "$ref" in part:
        name = definition_name(part["$ref"])
        part = root if name is None else root["$defs"][name]
    return part


def definition_name(reference: str) -> str | None:
    """Return the name in a reference to a definition, None for a reference to the payload itself."""
    return None if reference == "#" else reference.split("/", 2)[-1]


def is_any(schema: Schema) -> bool:
    """True if a schema takes any value."""
    return not schema.keys() - {"default", "x-default", "x-written", "$defs"} or any(
        map(is_any, schema.get("anyOf", ()))
    )


LENGTHS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
NUMBERS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


def all_patterns(schemas: Iterable[Schema]) -> set[str]:
    """Return the patterns in schemas and in their parts."""
    return {part["pattern"] for part in _all_parts(schemas) if isinstance(part.get("pattern"), str)}


def all_limits(schema: Schema) -> Iterator[tuple[str, Any]]:
    """Yield the limits of numbers and lengths in a schema and in its parts, each with its keyword."""
    for part in _all_parts([schema]):
        for word in (*LENGTHS, *NUMBERS):
            if isinstance(part.get(word), (int, float)):
                yield word, part[word]


def all_tags(schemas: Iterable[Schema]) -> set[tuple[str, Any]]:
    """Return the (name, value) of the tags in schemas and in their parts, also of former ones."""
    found = set()
    for part in _all_parts(schemas):  # Among them are names of fields, and defaults, which may hold anything.
        for fields in (part.get("properties"), part.get("x-former")):
            for name, each in fields.items() if isinstance(fields, dict) else ():
                if isinstance(each, dict) and isinstance(each.get("const"), (str, int)):
                    found.add((name, each["const"]))
    return found


def _all_parts(schemas: Iterable[Schema]) -> Iterator[dict[str, Any]]:
    """Yield schemas with their parts. A definition that they share is searched once."""
    seen: set[int] = set()
    waiting: list[Any] = list(schemas)
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and id(part) not in seen:
            seen.add(id(part))
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def in_words(schema: Schema) -> str:
    """Describe a schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(map(in_words, schema["anyOf"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "enum" in schema or "const" in schema:
        return "one of " + listed(enum_values(schema))
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
    of = _JSON_TYPES.get(type(value))
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


def tag_of(schema: Schema) -> str | None:
    """Return the value that tags an object or array in a union as text, None if it has no tag."""
    values = [value for _, value in tags(schema)] or [
        part["const"] for part in schema.get("prefixItems", [])[:1] if "const" in part
    ]
    return str(values[0]) if values else None


def kind_of(schema: Schema) -> tuple[str, str | None]:
    """Return (JSON type, tag or hook's class): what tells the alternatives of a union apart."""
    if "x-python" in schema:
        return "python", str(schema["x-python"]).rpartition(".")[2]  # A class may move to another module.
    if values := enum_values(schema):
        return _JSON_TYPES.get(type(values[0]), "object"), None
    if is_any(schema):
        return "any", None
    return str(schema.get("type", "enum")), tag_of(schema)


_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def alternatives(schema: Schema, root: Schema) -> list[Schema]:
    """Return the alternatives of a union without their references, or the schema itself if it is none."""
    found: dict[int, Schema] = {}
    waiting = [schema]
    while waiting:
        part = resolve(waiting.pop(), root)
        if "anyOf" in part and id(part) not in found:
            waiting += reversed(part["anyOf"])
        found.setdefault(id(part), part)
    return [part for part in found.values() if "anyOf" not in part]


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


def listed(values: list[Any]) -> str:
    """Return the first values of an enum, and the number of the others, for a message."""
    more = [f"{len(values) - _MAX_SHOWN} more"] if len(values) > _MAX_SHOWN else []
    return ", ".join([*map(value_text, values[:_MAX_SHOWN]), *more])


def join_path(path: str, name: str) -> str:
    """Return the path of a field below `path`."""
    return f"{path}.{name}" if path and name and name[0] not in "[{< " else f"{path}{name}"
