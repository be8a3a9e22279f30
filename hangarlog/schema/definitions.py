"""Definitions, the schemas of nested classes, and what refers to them: `{"$ref": "#/$defs/NAME"}`.

In memory, the schema of each event type has the definitions that it refers to in its `$defs`. Schemas of one
application or lock share them as objects, so that each is compared once. A lock's file has each definition once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import msgspec

_Schema = dict[str, Any]
PREFIX = "#/$defs/"
_VALUES = ("default", "enum", "const")  # The keywords with values, not with schemas.
MAX_DEPTH = 32  # Levels of nesting in a schema, and in a default.
_MAX_ROUNDS = 2_000  # Rounds in which equal definitions are told apart, one for each link of the longest chain.


def bounded(value: Any, depth: int = 0) -> Any:
    """Return a JSON value that a lock may hold.

    Raises:
        ValueError: it has a number beyond 64 bits, or is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"a default is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise ValueError("a number is beyond 64 bits")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        bounded(inner, depth + 1)
    return value


def references(part: Any) -> Iterator[str]:
    """Yield the references in a schema, without those in its `$defs`, in the order of its sorted keywords."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
            return
        for word in sorted(part):
            inner = part[word]
            if word in ("properties", "$defs"):
                for name in sorted(inner) if word == "properties" else ():
                    yield from references(inner[name])
            elif word not in _VALUES:
                yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def with_references(part: Any, renamed: Callable[[str], str]) -> Any:
    """Return a copy of a schema with other references, and without its `$defs`."""
    if isinstance(part, list):
        return [with_references(inner, renamed) for inner in part]
    if not isinstance(part, dict):
        return part
    if isinstance(part.get("$ref"), str):
        return {**part, "$ref": renamed(part["$ref"])}
    made = {}
    for word, inner in part.items():
        if word == "properties":
            made[word] = {name: with_references(each, renamed) for name, each in inner.items()}
        elif word in _VALUES:
            made[word] = inner
        elif word != "$defs":
            made[word] = with_references(inner, renamed) if isinstance(inner, (dict, list)) else inner
    return made


class Definitions:
    """Shared definitions by name, for schemas that refer to them."""

    def __init__(self, by_name: Mapping[str, _Schema]) -> None:
        self._by_name = by_name
        self._names: dict[str, list[str]] = {}

    def complete(self, schema: _Schema) -> _Schema:
        """Add the definitions that a schema refers to as its `$defs`, and return it."""
        found: dict[str, None] = {}
        waiting = _names(schema)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = None
                if name not in self._names:
                    self._names[name] = _names(self._by_name[name])
                waiting += self._names[name]
        if found:
            schema["$defs"] = {name: self._by_name[name] for name in sorted(found)}
        return schema


def _names(schema: _Schema) -> list[str]:
    return [reference.removeprefix(PREFIX) for reference in references(schema)]


def share(schemas: Sequence[_Schema], names: Sequence[str], prefix: str) -> tuple[list[_Schema], dict[str, _Schema]]:
    """Return (schemas without `$defs`, shared definitions), with equal definitions as one.

    `names` are those of the schemas, for one that refers to itself. The first schema that has a definition names it.
    References begin with `prefix`.
    """
    graph = _Graph(schemas, names)
    kinds = graph.kinds()
    named: dict[int, str] = {}
    taken: dict[str, _Schema] = {}

    def renamed(node: int) -> Callable[[str], str]:
        return lambda reference: prefix + named[kinds[graph.target(node, reference)]]

    used = {kinds[target] for targets in graph.targets for target in targets}
    chosen: list[tuple[str, int]] = []
    for node, local in enumerate(graph.names):
        if kinds[node] in used and kinds[node] not in named:
            base = local.rpartition("~")[0] if local.rpartition("~")[2].isdecimal() and "~" in local else local
            name = next(
                each
                for each in (local, base, *(f"{base}~{at}" for at in range(2, len(graph.names) + 3)))
                if each not in taken
            )
            named[kinds[node]] = name
            taken[name] = {}
            chosen.append((name, node))
    definitions = {name: with_references(graph.schemas[node], renamed(node)) for name, node in sorted(chosen)}
    return [with_references(schema, renamed(at)) for at, schema in enumerate(schemas)], definitions


class _Graph:
    """The schemas, followed by their definitions, and what each refers to."""

    def __init__(self, schemas: Sequence[_Schema], names: Sequence[str]) -> None:
        self.schemas, self.names = list(schemas), list(names)
        self._roots = list(range(len(schemas)))
        self._nodes: dict[tuple[int, str], int] = {}
        known: dict[int, int] = {}
        for root, schema in enumerate(schemas):
            for name, definition in schema.get("$defs", {}).items():
                # A definition that refers to its root is not shared as an object.
                if id(definition) not in known:
                    known[id(definition)] = len(self.schemas)
                    self.schemas.append(definition)
                    self.names.append(name)
                    self._roots.append(root)
                self._nodes[root, name] = known[id(definition)]
        self._references = [list(references(schema)) for schema in self.schemas]
        self.targets = [
            [self.target(node, reference) for reference in found] for node, found in enumerate(self._references)
        ]

    def target(self, node: int, reference: str) -> int:
        """Return the node that a reference in a node leads to."""
        root = self._roots[node]
        return root if reference == "#" else self._nodes[root, reference.split("/", 2)[-1]]

    def kinds(self) -> list[int]:
        """Return a number for each node, equal for nodes that mean the same.

        Nodes of equal text are told apart by what they refer to, until no more can be.
        """
        texts = [
            msgspec.json.encode(with_references(schema, lambda reference: ""), order="deterministic")
            for schema in self.schemas
        ]
        kinds = _numbered(texts)
        for _ in range(_MAX_ROUNDS):
            finer = _numbered(
                [(kind, *(kinds[each] for each in found)) for kind, found in zip(kinds, self.targets, strict=True)]
            )
            if max(finer, default=0) == max(kinds, default=0):
                return kinds
            kinds = finer
        return list(range(len(kinds)))  # Thousands of definitions in a row, as only a foreign lock has them.


def _numbered(keys: Sequence[Any]) -> list[int]:
    """Return a number for each key, equal for equal keys."""
    numbers: dict[Any, int] = {}
    source = count()
    return [numbers[key] if key in numbers else numbers.setdefault(key, next(source)) for key in keys]
