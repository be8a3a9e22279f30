"""The wire shape of stored payloads, inferred from the payloads themselves."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import msgspec

from hangarlog.schema.describe import Schema

_MAX_KEYS = 200
"""An object with this many different names is taken for a mapping."""

_FORMATS = {
    "date-time": re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?\Z"),
    "date": re.compile(r"\d{4}-\d\d-\d\d\Z"),
    "uuid": re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z"),
}
_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


class Gathered(msgspec.Struct):
    """What was seen at one place in payloads: the count of each JSON type and string format, and the same below it."""

    types: Counter[str] = msgspec.field(default_factory=Counter)
    formats: Counter[str] = msgspec.field(default_factory=Counter)
    fields: dict[str, Gathered] = {}
    items: Gathered | None = None

    def add(self, value: Any) -> None:
        """Count a value."""
        kind = _TYPES[type(value)]
        self.types[kind] += 1
        if kind == "object":
            for name, inner in value.items():
                self.field(name).add(inner)
        elif kind == "array":
            for inner in value:
                self.array_items().add(inner)
        elif kind == "string" and len(value) < 40:
            for name, pattern in _FORMATS.items():
                if pattern.match(value):
                    self.formats[name] += 1

    def merge(self, other: Gathered) -> None:
        """Add the counts of another part of the store."""
        self.types.update(other.types)
        self.formats.update(other.formats)
        for name, inner in other.fields.items():
            self.field(name).merge(inner)
        if other.items is not None:
            self.array_items().merge(other.items)

    def field(self, name: str) -> Gathered:
        """Return the counts for a field of objects; beyond the limit, all further names share the name `*`."""
        if name not in self.fields and len(self.fields) >= _MAX_KEYS:
            name = "*"
        found = self.fields.get(name)
        if found is None:
            found = self.fields[name] = Gathered()
        return found

    def array_items(self) -> Gathered:
        """Return the counts for the items of arrays."""
        if self.items is None:
            self.items = Gathered()
        return self.items

    def schema(self) -> Schema:
        """Return the JSON Schema that all values fit."""
        parts = [self._part(kind) for kind in sorted(self.types) if not (kind == "integer" and self.types["number"])]
        return {} if not parts else parts[0] if len(parts) == 1 else {"anyOf": parts}

    def _part(self, kind: str) -> Schema:
        if kind == "array":
            return {"type": kind, "items": {} if self.items is None else self.items.schema()}
        if kind == "object":
            return self._object()
        formats = [name for name, count in self.formats.items() if count == self.types["string"]]
        return {"type": kind, "format": formats[0]} if kind == "string" and formats else {"type": kind}

    def _object(self) -> Schema:
        if len(self.fields) >= _MAX_KEYS:
            together = Gathered()
            for inner in self.fields.values():
                together.merge(inner)
            return {"type": "object", "additionalProperties": together.schema()}
        every = self.types["object"]
        return {
            "type": "object",
            "properties": {name: inner.schema() for name, inner in self.fields.items()},
            "required": sorted(name for name, inner in self.fields.items() if sum(inner.types.values()) == every),
        }

    def shown(self) -> dict[str, str]:
        """Return the fields of objects with their types: `{"mode": "string", "tags": "array of string (optional)"}`."""
        every = self.types["object"]
        return {
            name: f"{inner.name()}{'' if sum(inner.types.values()) == every else ' (optional)'}"
            for name, inner in self.fields.items()
        }

    def name(self) -> str:
        """Return the types in a few words."""
        names = []
        for kind in sorted(self.types):
            formats = [name for name, count in self.formats.items() if count == self.types["string"]]
            if kind == "array" and self.items is not None:
                names.append(f"array of {self.items.name()}")
            else:
                names.append(formats[0] if kind == "string" and formats else kind)
        return " or ".join(names)
