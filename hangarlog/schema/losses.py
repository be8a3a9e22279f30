"""What reads of stored events lose without an error: names without a field, values that a step drops or changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from hangarlog.schema.describe import Schema
from hangarlog.schema.places import may_match
from hangarlog.schema.shape import default_of, join_path, resolve, same_value, value_text

_MAX_PATHS = 50  # Places of each type and version at which losses are counted.
_MAX_EXACT = 1 << 53
_MAX_PLANS = 1_000  # Sets of names of one class that are remembered.
_MAX_SHOWN = 60  # Characters of a value in a message.

LossKind = Literal["unread", "default", "dropped", "changed", "rounded"]
Note = Callable[[LossKind, str, Any, Any], None]
"""Called with (kind, path, the stored value, the value that is read)."""


class Seen(msgspec.Struct):
    """The values of a field before and after the upcasters: the first ones, and whether there are others."""

    before: Any
    after: Any
    before_varies: bool = False
    after_varies: bool = False

    def add(self, before: Any, after: Any) -> None:
        """Count an event's values."""
        self.before_varies = self.before_varies or before != self.before
        self.after_varies = self.after_varies or after != self.after

    def merge(self, other: Seen) -> None:
        """Add the values of another share."""
        self.add(other.before, other.after)
        self.before_varies |= other.before_varies
        self.after_varies |= other.after_varies


class Loss(msgspec.Struct):
    """One kind of loss at one place of the payloads of a type and version.

    `position` is that of the first event, and `before` and `after` are its values.
    """

    kind: LossKind
    path: str
    count: int
    position: int
    before: Any = None
    after: Any = None

    def merge(self, other: Loss) -> None:
        """Add the events of another share."""
        self.count += other.count
        if other.position < self.position:
            self.position, self.before, self.after = other.position, other.before, other.after

    def fails(self, seen: Seen | None) -> bool:
        """True if a stored value is gone: a default is no loss, nor is a value that a step changes into another."""
        if self.kind == "changed":
            return seen is not None and seen.before_varies and not seen.after_varies
        return self.kind != "default"

    def text(self, total: int, seen: Seen | None) -> str:
        """Return the loss in a sentence. `total` is the number of events of the type and version."""
        of, first = f"{self.count:,} of {total:,} events", f"first at position {self.position}"
        if self.kind == "unread":
            return f"{of} have {self.path!r}, which no field reads; {first}: {_shown(self.before)}"
        if self.kind == "default":
            return f"{of} lack {self.path!r} and are read with its default, {self.after}; {first}"
        if self.kind == "dropped":
            return (
                f"the upcasters drop {self.path!r}, which is still a field, from {of}; {first}: {_shown(self.before)}"
            )
        change = f"{first}: {_shown(self.before)} becomes {_shown(self.after)}"
        if self.kind == "rounded":
            return f"{of} have a whole number in {self.path!r} that a float cannot hold; {change}"
        all_of_them = ", as every value does" if self.fails(seen) else ""
        return f"the upcasters change {self.path!r} in {of}; {change}{all_of_them}"


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def add_loss(losses: list[Loss], loss: Loss) -> None:
    """Count a loss. Beyond the limit of places, all further ones share the place `*`."""
    for path in (loss.path, "*"):
        for each in losses:
            if (each.kind, each.path) == (loss.kind, path):
                each.merge(loss)
                return
        if len(losses) < _MAX_PATHS or path == "*":
            loss.path = path
            losses.append(loss)
            return


def field_paths(root: Schema) -> dict[int, str]:
    """Return the path of each object or tuple of a shape, by the id of its schema: the first that leads to it."""
    paths: dict[int, str] = {}
    left: list[tuple[Schema, str]] = [(root, "")]
    for part, path in left:
        part = resolve(part, root)
        if "anyOf" in part:
            left += [(each, path) for each in part["anyOf"]]
        elif id(part) not in paths and part.get("type") in ("object", "array"):
            paths[id(part)] = path
            left += [(inner, join_path(path, name)) for name, inner in part.get("properties", {}).items()]
            left += [(inner, f"{path}[{at}]") for at, inner in enumerate(part.get("prefixItems", []))]
            for word, mark in (("items", "[]"), ("additionalProperties", "{}")):
                if isinstance(part.get(word), dict):
                    left.append((part[word], path + mark))
    return paths


class LossFinder:
    """Compares payloads with the wire shape of the class that reads them."""

    def __init__(self, shape: Schema) -> None:
        self._root, self._paths = shape, field_paths(shape)
        self._plans: dict[int, dict[tuple[str, ...], _Plan]] = {key: {} for key in self._paths}
        self._leaves: dict[int, bool] = {}

    def find(self, payload: dict[str, Any], note: Note) -> None:
        """Note the names that no field reads, the defaults that are needed, and the numbers that are rounded."""
        self._find_in_object(payload, self._root, note)

    def compare(self, stored: dict[str, Any], reached: dict[str, Any], note: Note, seen: dict[str, Seen]) -> None:
        """Note the fields that the upcasters drop or change, although they are still fields."""
        fields = self._root["properties"]
        for name, value in stored.items():
            if name not in fields:
                continue
            if name not in reached:
                if not same_value(value, default_of(fields[name])):
                    note("dropped", name, value, None)
                continue
            after = reached[name]
            if name in seen:
                seen[name].add(value, after)
            elif len(seen) < _MAX_PATHS:
                seen[name] = Seen(value, after)
            if value != after and type(value) is type(after) and not (isinstance(value, (dict, list)) and after):
                note("changed", name, value, after)

    def _find(self, value: Any, schema: Schema, path: str, note: Note) -> None:
        if "$ref" in schema:
            schema = resolve(schema, self._root)
        if "anyOf" in schema:
            parts = (part for part in schema["anyOf"] if may_match(value, part, self._root))
            schema = resolve(next(parts, {}), self._root)
        if type(value) is dict:
            if "properties" in schema:
                self._find_in_object(value, schema, note)
            elif isinstance(schema.get("additionalProperties"), dict):
                for inner in value.values():
                    self._find(inner, schema["additionalProperties"], f"{path}{{}}", note)
        elif type(value) is list:
            self._find_in_array(value, schema, path, note)
        elif schema.get("type") == "number":
            _note_rounded(value, path, note)

    def _find_in_array(self, value: list[Any], schema: Schema, path: str, note: Note) -> None:
        items, fixed = schema.get("items"), schema.get("prefixItems", ())
        if not fixed and isinstance(items, dict):
            items, path = resolve(items, self._root), f"{path}[]"
            for inner in value:
                self._find(inner, items, path, note)
            return
        for inner, part in zip(value, fixed, strict=False):
            self._find(inner, part, path, note)
        if isinstance(items, dict):
            for inner in [] if self._is_leaf(items) else value[len(fixed) :]:
                self._find(inner, items, f"{path}[]", note)
            return
        place = self._paths.get(id(schema), path)
        for at in range(len(fixed), len(value) if fixed else 0):
            note("unread", f"{place}[{at}]", value[at], None)
        for at in range(len(value), len(fixed)):
            note("default", f"{place}[{at}]", None, value_text(default_of(fixed[at])))

    def _find_in_object(self, value: dict[str, Any], schema: Schema, note: Note) -> None:
        names = tuple(value)
        plan = self._plans[id(schema)].get(names) or self._new_plan(names, schema)
        for name, path in plan.unread:
            note("unread", path, value[name], None)
        for name, path in plan.numbers:
            if type(value[name]) is int:
                _note_rounded(value[name], path, note)
        for name, path, part in plan.deeper:
            self._find(value[name], part, path, note)
        for path, default in plan.lacking:
            note("default", path, None, default)

    def _new_plan(self, names: tuple[str, ...], schema: Schema) -> _Plan:
        """Return what there is to do for objects with these names. Most objects of a class have the same ones."""
        fields, path, needed = schema["properties"], self._paths[id(schema)], {*schema["required"]}
        unread = [(name, join_path(path, name)) for name in names if name not in fields]
        deeper = [
            (name, join_path(path, name), fields[name])
            for name in names
            if name in fields and not self._is_leaf(fields[name]) and fields[name].get("type") != "number"
        ]
        numbers = [(name, join_path(path, name)) for name in names if fields.get(name, {}).get("type") == "number"]
        lacking = [
            (join_path(path, name), value_text(default_of(part)))
            for name, part in fields.items()
            if name not in needed and name not in names and part.get("x-default") != "unset"
        ]
        plans = self._plans[id(schema)]
        if len(plans) >= _MAX_PLANS:
            plans.clear()
        plans[names] = plan = _Plan(unread, numbers, deeper, lacking)
        return plan

    def _is_leaf(self, schema: Schema) -> bool:
        """True if values of a schema lose nothing, whatever they are."""
        schema = resolve(schema, self._root)
        leaf = self._leaves.get(id(schema))
        if leaf is None:
            self._leaves[id(schema)] = False  # One that contains itself is none.
            leaf = self._leaves[id(schema)] = self._holds_leaves(schema)
        return leaf

    def _holds_leaves(self, schema: Schema) -> bool:
        if "anyOf" in schema:
            return all(map(self._is_leaf, schema["anyOf"]))
        if "properties" in schema or "prefixItems" in schema:
            return False
        parts = [schema[word] for word in ("items", "additionalProperties") if isinstance(schema.get(word), dict)]
        return schema.get("type") != "number" and all(map(self._is_leaf, parts))


class _Plan(NamedTuple):
    """What there is to do for objects with the same names.

    `unread` has names that no field reads, `numbers` and `deeper` fields whose values may lose something, and `lacking`
    the defaults of fields that are not there; each with its path.
    """

    unread: list[tuple[str, str]]
    numbers: list[tuple[str, str]]
    deeper: list[tuple[str, str, Schema]]
    lacking: list[tuple[str, str]]


def _note_rounded(value: Any, path: str, note: Note) -> None:
    if type(value) is int and abs(value) > _MAX_EXACT and float(value) != value:
        note("rounded", path, value, float(value))


def losses_in_order(losses: list[Loss]) -> Iterator[Loss]:
    """Yield the losses by kind and path."""
    yield from sorted(losses, key=lambda loss: (loss.kind == "default", loss.kind, loss.path))
