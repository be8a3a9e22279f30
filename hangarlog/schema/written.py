"""Which fields with a default every stored event has.

A class says so of itself. Earlier shapes of the same version tell whether events were stored before it had the field;
so do the stored events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import has_always, resolve, tag_of, tags


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
    for before, after in _parts_in_both(old, new):
        yield from _fields(before, after)


def _parts_in_both(old: Schema, new: Schema) -> Iterator[tuple[Schema, Schema]]:
    """Yield the parts of `new` other than unions, at any depth, each with the part of `old` at its place."""
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
        yield before, after
        left += [(pair.before, pair.after) for pair in _fields(before, after) if pair.before is not None]
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
    """Yield the alternatives of two unions that have the same type and tag, or are the only object in each."""
    both = [
        [resolve(part, root) for part in union.get("anyOf", [union])] for union, root in ((before, old), (after, new))
    ]
    few = all(sum(part.get("type") == "object" for part in parts) == 1 for parts in both)
    known = {_kind(part, few): part for part in both[0]}
    for part in both[1]:
        if _kind(part, few) in known:
            yield known[_kind(part, few)], part


def _kind(schema: Schema, few: bool) -> Any:
    return schema.get("type"), None if few and schema.get("type") == "object" else tag_of(schema)


def forget_omitted(new: Schema, earlier: Collection[Schema]) -> None:
    """Note in `new` what events of the same version may lack: fields that are `x-written`, tags that are required.

    They may also have a tag that is none any more. It is in `x-former`.
    """
    for old in earlier:
        for before, after in _parts_in_both(old, new):
            if "properties" in before and "properties" in after:
                _note_tags(before, after)
        for pair in fields_in_both(old, new):
            if not pair.always:
                pair.after.pop("x-written", None)


def _note_tags(before: Schema, after: Schema) -> None:
    was, now = dict(tags(before)), dict(tags(after))
    for name in now:
        if name in after["required"] and not (name in was and name in before["required"]):
            after["required"].remove(name)
    former = {**before.get("x-former", {}), **{name: before["properties"][name] for name in was}}
    former = {name: part for name, part in former.items() if name not in after["properties"]}
    if former:
        after["x-former"] = former
