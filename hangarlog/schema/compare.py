"""Comparison of two wire shapes, field by field: can events of one be read as the other without loss?"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from operator import ge, gt, le, lt
from typing import Any

import msgspec

from hangarlog.schema.default_change import default_change
from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import (
    ABSENT,
    default_of,
    enum_values,
    has_type,
    in_words,
    is_any,
    join_path,
    resolve,
    tags,
    value_text,
)

_MAX_PARTS = 50_000  # Pairs of parts to compare. A small lock with nested references can describe 2 ** 60 parts.
_MAX_PATTERN_CHARS = 20  # Characters of the longest string that a pattern is run on.
_MAX_EXACT = 1 << 53  # The largest whole number up to which floats hold all.
_MAX_PAIRS = 2_500  # Pairs of names or alternatives that are compared with each other.


class Change(msgspec.Struct, frozen=True):
    """One difference.

    `path` is the place in the payload; it is empty for the payload itself.
    """

    path: str
    what: str
    breaking: bool

    def __str__(self) -> str:
        return f"{self.path or 'payload'}: {self.what}"


def compare(old: Schema, new: Schema) -> list[Change]:
    """Return how `new` differs from `old`.

    A change is breaking if `new` does not read events of `old` as written. `new` must come from a class, not from a
    lock, because its patterns are run.
    """
    return list(_Comparison(old, new, runs_patterns=True).changes(old, new, ""))


def compare_parts(old: Schema, new: Schema, old_root: Schema, new_root: Schema) -> list[Change]:
    """Compare two parts, such as fields, without running a pattern. Their references lead into these root schemas."""
    return list(_Comparison(old_root, new_root, runs_patterns=False).changes(old, new, ""))


def are_few_enough(some: Collection[object], others: Collection[object]) -> bool:
    """True if the pairs of an item of each collection are few enough to compare them all."""
    return len(some) * len(others) <= _MAX_PAIRS


def breaking(changes: list[Change]) -> list[Change]:
    """Return the breaking changes."""
    return [change for change in changes if change.breaking]


class _Comparison:
    def __init__(self, old: Schema, new: Schema, *, runs_patterns: bool) -> None:
        self._old, self._new, self._runs_patterns = old, new, runs_patterns
        self._comparing: set[tuple[int, int]] = set()  # Pairs in progress, so that recursive schemas end.
        self._in_union = self._needs_tag = False  # Whether the old object, or the new one, stands in a union of them.
        self._parts_left = _MAX_PARTS

    def changes(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        old, new = resolve(old, self._old), resolve(new, self._new)
        pair = id(old), id(new)
        if pair in self._comparing:
            return
        self._parts_left -= 1
        if self._parts_left < 0:
            yield Change(path, _TOO_LARGE, True)
            return
        self._comparing.add(pair)
        try:
            yield from self._changes(old, new, path)
        finally:
            self._comparing.remove(pair)

    def _changes(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        if is_any(new):
            if not is_any(old):
                yield Change(path, "takes any value now", False)
        elif is_any(old):
            yield Change(path, f"took any value, takes only {in_words(new)} now", True)
        elif "anyOf" in old or "anyOf" in new:
            yield from self._alternatives(old, new, path)
        elif "x-python" in old or "x-python" in new:
            yield from _hooks(old, new, path)
        elif enum_values(old) or enum_values(new):
            yield from _enums(old, new, path, self._runs_patterns)
        elif old["type"] != new["type"]:
            widened = (old["type"], new["type"]) == ("integer", "number")
            beyond = ": whole numbers beyond 2^53 would change" if widened and _may_be_large(old) else ""
            yield Change(path, f"was {in_words(old)}, is {in_words(new)}{beyond}", not widened)
            yield from _limits(old, new, path)
        elif old["type"] == "array":
            yield from self._arrays(old, new, path)
        elif old["type"] == "object":
            yield from self._objects(old, new, path)
        else:
            yield from _strings(old, new, path)
            yield from _limits(old, new, path)

    def _alternatives(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        before, after = old.get("anyOf", [old]), new.get("anyOf", [new])
        if "anyOf" in new:
            before = [each for part in before for each in _split_enum(resolve(part, self._old))]
        if not are_few_enough(before, after):
            yield Change(path, _TOO_LARGE, True)
            return
        matched: set[int] = set()
        for part in before:
            outside = self._in_union, self._needs_tag
            self._in_union = sum("properties" in resolve(each, self._old) for each in before) > 1
            self._needs_tag = sum("properties" in resolve(each, self._new) for each in after) > 1
            tried = [list(self.changes(part, other, path)) for other in after]
            self._in_union, self._needs_tag = outside
            best = min(range(len(after)), key=lambda at: (len(breaking(tried[at])), len(tried[at])))
            if breaking(tried[best]) and not self._is_same_alternative(part, after[best]):
                yield Change(path, f"{in_words(resolve(part, self._old))} is no longer taken", True)
            else:
                matched.add(best)
                yield from tried[best]
        for at, part in enumerate(after):
            if at not in matched:
                yield Change(path, f"takes {in_words(resolve(part, self._new))}, too", False)

    def _is_same_alternative(self, old: Schema, new: Schema) -> bool:
        """True if two alternatives are one that has changed, not two different ones."""
        old, new = resolve(old, self._old), resolve(new, self._new)
        kinds = ["enum" if enum_values(part) else part.get("type") for part in (old, new)]
        return kinds[0] == kinds[1] and (kinds[0] != "object" or tags(old) == tags(new))

    def _arrays(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        if "prefixItems" not in new:
            yield from _limits(old, new, path)
        if new.get("uniqueItems") and not old.get("uniqueItems"):
            yield Change(path, "was a list, is a set: order and repeated values would be lost", True)
        elif old.get("uniqueItems") and not new.get("uniqueItems"):
            yield Change(path, "was a set, is a list", False)
        yield from self._tuple_items(old, new, path)
        items = old.get("items", False)
        if items is False:
            return
        if new.get("prefixItems"):
            yield Change(path, f"was {in_words(old)}, is {in_words(new)}", True)
        elif not isinstance(new.get("items"), dict):
            yield Change(path, f"was {in_words(old)}, is {in_words(new)}: its stored items would be lost", True)
        else:
            yield from self.changes(items, new["items"], f"{path}[]")

    def _tuple_items(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        """Compare the items of tuples by their place."""
        before, after = old.get("prefixItems", []), new.get("prefixItems", [])
        for at, item in enumerate(before):
            other = after[at] if at < len(after) else new.get("items", True)
            if other is True or other is False:
                yield Change(f"{path}[{at}]", "was removed: its stored values would be lost", True)
            else:
                yield from self.changes(item, other, f"{path}[{at}]")
                if at < len(after) and at >= max(old.get("minItems", 0), new.get("minItems", 0)):
                    yield from self._default_change(item, other, f"{path}[{at}]")
        for at in range(len(before), len(after)):
            if at < new.get("minItems", 0):
                yield Change(
                    f"{path}[{at}]", "is new and has no default: arrays stored without it cannot be read", True
                )
            else:
                yield Change(f"{path}[{at}]", f"is new, {_default_text(after[at])}", False)
        needed = before[old.get("minItems", 0) : new.get("minItems", 0)]
        if not all("x-written" in item for item in needed):
            yield Change(path, "has lost defaults: arrays stored without them cannot be read", True)

    def _objects(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        before, after = old.get("properties"), new.get("properties")
        if before is None and after is not None:
            yield Change(path, f"was {in_words(old)}, is {in_words(new)}", True)
        elif before is None:
            yield from _limits(old, new, path)
            yield from self._keys(old.get("x-keys", _TEXT), new.get("x-keys", _TEXT), f"{path} keys")
            yield from self.changes(old["additionalProperties"], new["additionalProperties"], f"{path}{{}}")
        elif after is None:
            yield Change(path, f"was an object of fields, is {in_words(new)}", False)
            yield from self.changes({"enum": list(before)}, new.get("x-keys", _TEXT), f"{path} keys")
            yield from _limits({"minProperties": len(old["required"]), "maxProperties": len(before)}, new, path)
            for name, part in before.items():
                yield from self.changes(part, new["additionalProperties"], join_path(path, name))
        else:
            yield from self._fields(old, new, path)

    def _keys(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        if new == _TEXT != old:
            yield Change(path, f"were {in_words(old)}, are text", False)  # JSON stores all keys as strings.
        else:
            yield from self.changes(old, new, path)

    def _fields(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        before, after = old["properties"], new["properties"]
        in_union, needs_tag = self._in_union, self._needs_tag
        self._in_union = self._needs_tag = False  # The fields' own values stand in none.
        removed = [name for name in before if name not in after]
        added = [name for name in after if name not in before]
        hints = added if are_few_enough(removed, added) else []
        for name in removed:
            if "const" in before[name]:
                lost = in_union or new.get("additionalProperties") is False
                yield Change(join_path(path, name), "the tag was removed", lost)
                continue
            alike = [other for other in hints if not breaking(self._compare_alone(before[name], after[other]))]
            hint = f"; was it renamed to {alike[0]}?" if len(alike) == 1 else ""
            yield Change(join_path(path, name), f"was removed: its stored values would be lost{hint}", True)
        for name in added:
            place = join_path(path, name)
            if "const" in after[name] and not needs_tag:
                yield Change(place, "a tag was added: events stored without it can be read", False)
            elif name in new["required"]:
                yield Change(place, "is new and has no default: events stored without it cannot be read", True)
            else:
                yield Change(place, f"is new, {_default_text(after[name])}", False)
        for name in before:
            if name in after:
                yield from self.changes(before[name], after[name], join_path(path, name))
                yield from self._defaults(old, new, name, join_path(path, name))

    def _defaults(self, old: Schema, new: Schema, name: str, path: str) -> Iterator[Change]:
        was_required, is_required = name in old["required"], name in new["required"]
        if was_required and not is_required:
            yield Change(path, f"is optional now, {_default_text(new['properties'][name])}", False)
        elif is_required and not was_required:
            why = _why_unneeded(old["properties"][name])
            yield Change(path, f"has lost its default: {why or 'events stored without it cannot be read'}", not why)
        elif not is_required:
            yield from self._default_change(old["properties"][name], new["properties"][name], path)

    def _default_change(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        change = default_change((old, self._old), (new, self._new))
        if change is not None:
            why = _why_unneeded(old) or change.why_harmless
            what = f"its default was {value_text(change.then)}, is {value_text(change.now)}"
            yield Change(path, f"{what}: {why or change.effect}", not why)
        if old.get("x-written") is True and "x-written" not in new:
            yield Change(path, "is left out of events from now on where it is the default", False)

    def _compare_alone(self, old: Schema, new: Schema) -> list[Change]:
        """Compare two fields for a hint, outside of any union."""
        outside, self._in_union = self._in_union, False
        changes = list(self.changes(old, new, ""))
        self._in_union = outside
        return changes


_TOO_LARGE = "is too large to compare: whether it has changed is unknown"
_TEXT: Schema = {"type": "string"}


def _split_enum(schema: Schema) -> list[Schema]:
    """Split an enum with values of several types into one enum for each type."""
    values = enum_values(schema)
    kinds = {type(value) for value in values}
    if len(kinds) < 2:
        return [schema]
    split = [[value for value in values if type(value) is kind] for kind in kinds]
    return [{"type": "null"} if group == [None] else {"enum": group} for group in split]


def _enums(old: Schema, new: Schema, path: str, runs_patterns: bool) -> Iterator[Change]:
    before, after = enum_values(old), enum_values(new)
    if not before:
        yield Change(path, f"was {in_words(old)}, is only {in_words(new)} now", True)
        return
    if after:
        gone = _missing(before, after)
        more = _missing(after, before)
        if gone:
            yield Change(path, f"no longer takes {', '.join(map(value_text, gone))}", True)
        if more:
            yield Change(path, f"takes {', '.join(map(value_text, more))}, too", False)
        return
    fits = all(has_type(value, new.get("type")) and _within(value, new, runs_patterns) for value in before)
    yield Change(path, f"was {in_words(old)}, is {in_words(new)}", not fits)


def _missing(values: list[Any], others: list[Any]) -> list[Any]:
    """Return the values that are not among others, compared as in JSON: `1` equals `1.0`, but not `true`."""
    known = {(isinstance(value, bool), value) for value in others}
    return [value for value in values if (isinstance(value, bool), value) not in known]


def _within(value: Any, schema: Schema, runs_patterns: bool) -> bool:
    """True if a value is within the limits of a schema of its type."""
    if "format" in schema or "contentEncoding" in schema or "multipleOf" in schema:
        return False
    if isinstance(value, str):
        pattern = schema.get("pattern", "")
        # A foreign pattern may take exponential time, and so may a trusted one on a long string.
        fits = not pattern or (
            runs_patterns and len(value) <= _MAX_PATTERN_CHARS and re.search(pattern, value) is not None
        )
        return fits and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
    return not any(
        limit in schema and not within(value, schema[limit])
        for limit, within in (("minimum", ge), ("maximum", le), ("exclusiveMinimum", gt), ("exclusiveMaximum", lt))
    )


def _strings(old: Schema, new: Schema, path: str) -> Iterator[Change]:
    if old.get("contentEncoding") != new.get("contentEncoding"):
        yield Change(path, f"was {in_words(old)}, is {in_words(new)}", True)
    elif old.get("format") != new.get("format"):
        yield Change(
            path, f"was {in_words(old)}, is {in_words(new)}", not _accepts_format(old.get("format"), new.get("format"))
        )
    if new.get("pattern") != old.get("pattern"):
        what = f"must match {new['pattern']} now" if "pattern" in new else "has no pattern any more"
        yield Change(path, what, "pattern" in new)


def _accepts_format(old: str | None, new: str | None) -> bool:
    """True if format `new` takes every string of format `old`: "date-time" takes "date-time-aware" and "-naive"."""
    return new is None or (old is not None and old.rpartition("-")[0] == new and old.endswith(("-aware", "-naive")))


_LOWER_LIMITS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_LIMITS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def _limits(old: Schema, new: Schema, path: str) -> Iterator[Change]:
    for word in (*_LOWER_LIMITS, *_UPPER_LIMITS):
        before, after = old.get(word), new.get(word)
        if after != before:
            narrower = after is not None and not _is_implied(old, word, after)
            yield Change(path, f"{word} was {_limit_text(before)}, is {_limit_text(after)}", narrower)
    before, after = old.get("multipleOf"), new.get("multipleOf")
    if after is not None and (before is None or before % after):
        yield Change(path, f"must be a multiple of {after} now", True)


def _limit_text(value: Any) -> str:
    return "none" if value is None else str(value)


def _is_implied(old: Schema, word: str, limit: Any) -> bool:
    """True if every value that `old` takes is within a limit."""
    if word == "maxItems" and old.get("items") is False:
        return len(old["prefixItems"]) <= int(limit)
    strict = word.startswith("exclusive")
    plain = word.removeprefix("exclusive")
    plain = plain[0].lower() + plain[1:]
    own, other = old.get(word), old.get(plain if strict else f"exclusive{plain[0].upper()}{plain[1:]}")
    is_lower = word in _LOWER_LIMITS
    for value, is_strict in ((own, strict), (other, not strict)):
        if value is None:
            continue
        if is_strict and old.get("type") == "integer" and type(value) is int:
            value, is_strict = value + (1 if is_lower else -1), False
        within = value > limit if is_lower else value < limit
        if within or (value == limit and (is_strict or not strict)):
            return True
    return word in ("minLength", "minItems", "minProperties") and limit == 0


def _why_unneeded(old: Schema) -> str:
    """Return why no stored event needs a field's default, an empty text if one may."""
    written = old.get("x-written")
    return written if isinstance(written, str) else "every stored event has it" if written else ""


def _hooks(old: Schema, new: Schema, path: str) -> Iterator[Change]:
    before, after = old.get("x-python", ""), new.get("x-python", "")
    if before == after:
        return
    moved = before.rpartition(".")[2] == after.rpartition(".")[2]
    where = ": its module has changed; what a hook makes of stored values is tried by `check --store`" if moved else ""
    yield Change(path, f"was {in_words(old)}, is {in_words(new)}{where}", not moved)


def _may_be_large(schema: Schema) -> bool:
    """True if a schema takes whole numbers that a float cannot hold."""
    least = [schema[word] for word in ("minimum", "exclusiveMinimum") if word in schema]
    most = [schema[word] for word in ("maximum", "exclusiveMaximum") if word in schema]
    return not least or not most or min(least) < -_MAX_EXACT or max(most) > _MAX_EXACT


def _default_text(schema: Schema) -> str:
    default = default_of(schema)
    return "with a default" if default is ABSENT else f"by default {value_text(default)}"
