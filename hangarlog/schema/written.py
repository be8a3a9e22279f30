"""Which fields with a default every stored event has.

A class says so of itself. Earlier shapes of the same version tell whether events were stored before it had the field;
so do the stored events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import has_always, resolve, tags


class FieldPair(NamedTuple):
    """A field of a shape, and the same field of an earlier one.

    `owner` and `name` say where the field is in the new shape. `always` is True if the earlier events have it always.
    """

    owner: Schema
    name: str | int
    before: Schema | None
    after: Schema
    always: bool


def fields_in_both(old: Schema, new: Schema) -> Iterator[FieldPair]:
    """Yield the fields of `new`, at any depth, in objects that `old` describes too."""
    seen: set[tuple[int, int]] = set()
    left = [(old, new)]
    while left:
        before, after = (resolve(part, root) for part, root in zip(left.pop(), (old, new), strict=True))
        if (id(before), id(after)) in seen:
            continue
        seen.add((id(before), id(after)))
        if "anyOf" in before or "anyOf" in after:
            left += _same_alternatives(before, after, old, new)
            continue
        for pair in _fields(before, after):
            yield pair
            if pair.before is not None:
                left.append((pair.before, pair.after))
        for word in ("items", "additionalProperties"):
            if isinstance(before.get(word), dict) and isinstance(after.get(word), dict):
                left.append((before[word], after[word]))


def _fields(before: Schema, after: Schema) -> Iterator[FieldPair]:
    if "properties" in before and "properties" in after:
        for name, part in after["properties"].items():
            had = before["properties"].get(name)
            yield FieldPair(after, name, had, part, had is not None and has_always(before, name))
    elif "prefixItems" in before and "prefixItems" in after:
        for at, part in enumerate(after["prefixItems"]):
            had = before["prefixItems"][at] if at < len(before["prefixItems"]) else None
            always = had is not None and (at < before.get("minItems", 0) or bool(had.get("x-written")))
            yield FieldPair(after, at, had, part, always)


def _same_alternatives(before: Schema, after: Schema, old: Schema, new: Schema) -> Iterator[tuple[Schema, Schema]]:
    """Yield the alternatives of two unions that are objects with the same tag, or arrays."""
    known: dict[Any, Schema] = {}
    for part in before.get("anyOf", [before]):
        part = resolve(part, old)
        known[_kind(part)] = part
    for part in after.get("anyOf", [after]):
        part = resolve(part, new)
        if _kind(part) in known:
            yield known[_kind(part)], part


def _kind(schema: Schema) -> Any:
    return schema.get("type"), str(tags(schema))


def forget_omitted(new: Schema, earlier: Collection[Schema]) -> None:
    """Remove `x-written` from the fields of `new` that some event of the same version may lack."""
    for old in earlier:
        for pair in fields_in_both(old, new):
            if not pair.always:
                pair.after.pop("x-written", None)
