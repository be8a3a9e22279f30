"""The wire shape of an event class, as JSON Schema (2020-12).

The shape is taken from `msgspec.inspect`. msgspec's own generator omits what a comparison needs, such as the zone of a
time or the type of a mapping's keys, and refuses types and defaults without a schema. Seven keywords are added:
`x-python` names the class that a hook of the application decodes, and `x-keys` is the schema of a mapping's keys if
they are not plain strings. `x-default` says where a default without a value comes from, and `x-written` that every
event has a field although it has a default. `x-names` has the names of the fields of a class that is stored as an
array, and `x-former` the tags that a class has lost: its stored events have them. `x-checks` names the code of a class
that may refuse values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain, count
from typing import Any

import msgspec
from msgspec import inspect

from hangarlog.errors import EventSerializationError
from hangarlog.events.decodable import decoder_of, deep_recursion
from hangarlog.schema.defaults import Keywords, default_keywords, is_always_written
from hangarlog.schema.definitions import Definitions

Schema = dict[str, Any]
Hook = Callable[[Any], Any] | None

_TEXT_FORMATS: dict[type, str] = {
    inspect.DateType: "date",
    inspect.TimeDeltaType: "duration",
    inspect.UUIDType: "uuid",
    inspect.DecimalType: "decimal",
}
_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}
_LENGTHS = {"min_length": "min", "max_length": "max"}
_BYTES = (inspect.BytesType, inspect.ByteArrayType, inspect.MemoryViewType)
_ARRAYS = (inspect.CollectionType,)
_MAPPINGS = tuple(
    getattr(inspect, name) for name in ("DictType", "FrozenDictType") if hasattr(inspect, name)
)  # The second came with msgspec 0.20.
_CLASSES = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType, inspect.NamedTupleType)


def describe(event_type: str, event_class: type, enc_hook: Hook = None) -> Schema:
    """Return the JSON Schema of a class's payloads, without `_version`.

    Nested classes are in its `$defs`.

    Raises:
        EventSerializationError: msgspec cannot inspect the class.
    """
    schema = describe_all({event_type: event_class}, enc_hook)[event_type]
    if isinstance(schema, EventSerializationError):
        raise schema
    return schema


def described_defaults(event_class: type, enc_hook: Hook = None) -> Iterator[tuple[type, dict[str, Keywords]]]:
    """Yield a class and those nested in it, each with the keywords of its fields' defaults.

    Raises anything that the inspection of the application's types raises.
    """
    description = _Description(enc_hook)
    decoder_of(event_class)
    description.root_schema(inspect.type_info(event_class))
    for info in description.classes:
        fields = [field for field in info.fields if not field.required]
        yield info.cls, {field.name: default_keywords(info.cls, field, enc_hook) for field in fields}


def describe_all(types: Mapping[str, type], enc_hook: Hook = None) -> dict[str, Schema | EventSerializationError]:
    """Return the schemas of classes by event type. They share the definitions of nested classes.

    For a class that msgspec cannot inspect, the result is the error.
    """
    found: dict[str, Schema | EventSerializationError] = {}
    description = _Description(enc_hook)
    with deep_recursion():
        infos = _infos(types)
        for event_type, info in infos.items():
            try:
                if isinstance(info, Exception):
                    raise info
                found[event_type] = description.root_schema(info)
            except Exception as error:  # The application's types may raise anything.
                description = _Description(enc_hook)  # The other one has a part that is not complete.
                name = getattr(types[event_type], "__qualname__", types[event_type])
                cause = f"{name} has no schema: {str(error) or type(error).__name__}"
                found[event_type] = EventSerializationError(event_type, cause)
    return found


def _infos(types: Mapping[str, type]) -> dict[str, Any]:
    """Return what msgspec says of each class, or the exception that it raises."""
    found: dict[str, Any] = {}
    for event_type, event_class in types.items():
        try:
            decoder_of(event_class)
        except Exception as error:
            found[event_type] = error
    accepted = {name: event_class for name, event_class in types.items() if name not in found}
    try:
        found |= dict(zip(accepted, inspect.multi_type_info(accepted.values()), strict=True))
    except Exception:  # Find out which.
        found |= {name: _info(event_class) for name, event_class in accepted.items()}
    return {name: found[name] for name in types}


def _info(event_class: type) -> Any:
    try:
        return inspect.type_info(event_class)
    except Exception as error:
        return error


class _Description:
    def __init__(self, enc_hook: Hook) -> None:
        self._enc_hook = enc_hook
        self._names: dict[type, str] = {}
        self._defs: dict[str, Schema] = {}
        self.classes: list[Any] = []
        self._definitions = Definitions(self._defs)

    def root_schema(self, root: Any) -> Schema:
        return self._definitions.complete(self._object(root, nested=False))

    def _schema_of(self, info: Any) -> Schema:
        if isinstance(info, inspect.Metadata):
            return self._schema_of(info.type)
        kind = type(info)
        if kind in _TEXT_FORMATS:
            return {"type": "string", "format": _TEXT_FORMATS[kind]}
        if isinstance(info, inspect.UnionType):
            return _any_of([self._schema_of(part) for part in _with_one_literal(info.types)])
        if isinstance(info, _CLASSES):
            return self._reference(info)
        simple = _SIMPLE.get(kind)
        if simple is not None:
            return simple(info)
        if isinstance(info, _ARRAYS):
            return self._array(info)
        if isinstance(info, inspect.TupleType):
            items = [self._schema_of(item) for item in info.item_types]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        if isinstance(info, _MAPPINGS):
            return self._mapping(info)
        cls = getattr(info, "cls", kind)
        if cls is object:  # It takes any value, without a hook.
            return {}
        return {"x-python": f"{cls.__module__}.{cls.__qualname__}"}

    def _reference(self, info: Any) -> Schema:
        name = self._names.get(info.cls)
        if name is None:
            name = _unused_name(info.cls, self._defs)
            self._names[info.cls] = name
            self._defs[name] = {}  # Reserve the name: the class may contain itself.
            self._defs[name] = self._object(info, nested=True)
        return {"$ref": f"#/$defs/{name}"}

    def _object(self, info: Any, *, nested: bool) -> Schema:
        self.classes.append(info)
        if getattr(info, "array_like", False) or isinstance(info, inspect.NamedTupleType):
            return self._array_like(info, nested)
        properties: dict[str, Schema] = {}
        required: list[str] = []
        if getattr(info, "tag_field", None) is not None:
            properties[info.tag_field] = {"const": info.tag}
            required.append(info.tag_field)
        for field in info.fields:
            properties[field.encode_name] = self._field(info, field, nested)
            if field.required:
                required.append(field.encode_name)
        schema: Schema = {"type": "object", "properties": properties, "required": sorted(required)}
        if getattr(info, "forbid_unknown_fields", False):
            schema["additionalProperties"] = False
        if checks := _checks(info.cls):
            schema["x-checks"] = checks
        return schema

    def _array_like(self, info: Any, nested: bool) -> Schema:
        tag = getattr(info, "tag", None)
        items = [] if tag is None else [{"const": tag}]
        items += [self._field(info, field, nested) for field in info.fields]
        first = len(items) - len(info.fields)
        needed = max((at for at, field in enumerate(info.fields, first + 1) if field.required), default=first)
        names = [field.name for field in info.fields]
        return {"type": "array", "prefixItems": items, "minItems": needed, "x-names": names}

    def _field(self, info: Any, field: Any, nested: bool) -> Schema:
        schema = self._schema_of(field.type)
        if field.required:
            return schema
        always = {"x-written": True} if is_always_written(info, field, nested=nested) else {}
        return {**schema, **default_keywords(info.cls, field, self._enc_hook), **always}

    def _array(self, info: Any) -> Schema:
        schema = {"type": "array", "items": self._schema_of(info.item_type), **_lengths(info, "Items")}
        if isinstance(info, (inspect.SetType, inspect.FrozenSetType)):
            schema["uniqueItems"] = True
        return schema

    def _mapping(self, info: Any) -> Schema:
        schema = {"type": "object", "additionalProperties": self._schema_of(info.value_type)}
        keys = self._schema_of(info.key_type)
        if keys not in ({"type": "string"}, {}):
            schema["x-keys"] = keys
        return {**schema, **_lengths(info, "Properties")}


_Unset = msgspec.UnsetType


def _checks(cls: Any) -> list[str]:
    """Return what a class runs on values that are read: the fields that attrs validates, and a method of its own.

    They are the keyword `x-checks` of an object.
    """
    fields = [field.name for field in getattr(cls, "__attrs_attrs__", ()) if field.validator is not None]
    return sorted(fields) + [name for name in ("__attrs_post_init__", "__post_init__") if hasattr(cls, name)]


def _with_one_literal(types: Iterable[Any]) -> list[Any]:
    """Return the alternatives of a union without UNSET, with the values of all its Literals in one.

    A union with `str` takes every text, so the texts of its Literals say nothing more; so do numbers beside `int`.
    """
    found = [part for part in types if getattr(part, "cls", None) is not _Unset]
    literals = [part for part in found if isinstance(part, inspect.LiteralType)]
    others = [part for part in found if part not in literals]
    covered = tuple(kind for kind, part in ((str, inspect.StrType()), (int, inspect.IntType())) if part in others)
    values = {repr(value): value for each in literals for value in each.values if not isinstance(value, covered)}
    return [*others, inspect.LiteralType(tuple(values.values()))] if values else others


def _any_of(parts: Iterable[Schema]) -> Schema:
    found: list[Schema] = []
    for part in parts:
        if part not in found:
            found.append(part)
    found.sort(key=lambda part: msgspec.json.encode(part, order="sorted"))
    return found[0] if len(found) == 1 else {"anyOf": found}


def _bounds(info: Any, of: Schema) -> Schema:
    limits = {word: getattr(info, name) for name, word in _BOUNDS.items() if getattr(info, name) is not None}
    return {**of, **limits}


def _lengths(info: Any, what: str) -> Schema:
    found = {f"{word}{what}": getattr(info, name) for name, word in _LENGTHS.items()}
    return {word: value for word, value in found.items() if value is not None}


def _text(info: Any) -> Schema:
    schema: Schema = {"type": "string", **_lengths(info, "Length")}
    return schema if info.pattern is None else {**schema, "pattern": info.pattern}


def _time(info: Any, name: str) -> Schema:
    return {"type": "string", "format": name if info.tz is None else f"{name}-{'aware' if info.tz else 'naive'}"}


_SIMPLE: dict[Any, Callable[[Any], Schema]] = {
    inspect.AnyType: lambda info: {},
    inspect.RawType: lambda info: {},
    inspect.NoneType: lambda info: {"type": "null"},
    inspect.BoolType: lambda info: {"type": "boolean"},
    inspect.IntType: lambda info: _bounds(info, {"type": "integer"}),
    inspect.FloatType: lambda info: _bounds(info, {"type": "number"}),
    inspect.StrType: _text,
    inspect.DateTimeType: lambda info: _time(info, "date-time"),
    inspect.TimeType: lambda info: _time(info, "time"),
    inspect.EnumType: lambda info: {"enum": sorted((member.value for member in info.cls), key=repr)},
    inspect.LiteralType: lambda info: {"enum": sorted(info.values, key=repr)},
    **dict.fromkeys(_BYTES, lambda info: {"type": "string", "contentEncoding": "base64", **_lengths(info, "Length")}),
}


def _unused_name(cls: type, taken: Collection[str]) -> str:
    names = (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")
    more = (f"{cls.__name__} {number}" for number in count(2))
    return next(name for name in chain(names, more) if name not in taken)
