"""Comparison of two wire shapes, field by field: can events of one be read as the other without loss?

A definition that many others refer to is compared once with each definition that may take its place: the comparison
of a pair holds what differs in the pair itself, and links to the pairs that it refers to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from hangarlog.schema.default_change import default_change
from hangarlog.schema.describe import Schema
from hangarlog.schema.renames import guess_renames
from hangarlog.schema.scalars import CHECKED, enums, is_enum, limits, strings
from hangarlog.schema.scalars import Change as Change
from hangarlog.schema.shape import (
    ABSENT,
    MAX_EXACT,
    alternatives,
    default_of,
    enum_values,
    in_words,
    is_any,
    join_path,
    kind_of,
    resolve,
    tag_of,
    tags,
    value_text,
)

_MAX_PARTS = 2_000_000  # Parts to compare. A lock of 16 MiB can have more pairs of definitions than anybody waits for.
_MAX_PLACES = 3  # The places of one definition at which its changes are listed.
_MAX_CHANGES = 1_000  # Changes that are listed.
_MAX_PAIRS = 2_500  # Pairs of names or alternatives that are compared with each other.

ROUNDED = "whole numbers beyond 2^53 would change"
UNORDERED = "order and repeated values would be lost"
MOVED = "stored values would be read as another field's"
"""The losses of a changed type that a read does not refuse. They are reported also if an upcaster passes values on."""


def compare(old: Schema, new: Schema) -> list[Change]:
    """Return how `new` differs from `old`.

    A change is breaking if `new` does not read events of `old` as written. `new` must come from a class, not from a
    lock, because its patterns are run.
    """
    return Comparisons(runs_patterns=True).compare(old, new)


def compare_parts(old: Schema, new: Schema, old_root: Schema, new_root: Schema) -> list[Change]:
    """Compare two parts, such as fields, without running a pattern. Their references lead into these root schemas."""
    return Comparisons().pair(old, new, old_root, new_root).changes()


def are_few_enough(some: Collection[object], others: Collection[object]) -> bool:
    """True if the pairs of an item of each collection are few enough to compare them all."""
    return len(some) * len(others) <= _MAX_PAIRS


def breaking(changes: list[Change]) -> list[Change]:
    """Return the breaking changes."""
    return [change for change in changes if change.breaking]


class Comparisons:
    """The comparisons of a check. Events that share definitions share their comparisons.

    `renames` has (old name, new name) of fields that were probably renamed, because many types have lost the one and
    gained the other.
    """

    def __init__(self, *, runs_patterns: bool = False, renames: Collection[tuple[str, str]] = ()) -> None:
        self.runs_patterns, self.renames = runs_patterns, renames
        self.parts_left = _MAX_PARTS
        self._pairs: dict[tuple[int, int], Pair] = {}  # A pair keeps its schemas, so no other one gets their ids.

    def compare(self, old: Schema, new: Schema) -> list[Change]:
        """Return how `new` differs from `old`, both schemas of payloads."""
        return self.pair(old, new, old, new).changes()

    def pair(self, old: Schema, new: Schema, old_root: Schema, new_root: Schema) -> Pair:
        """Return the comparison of two parts, whose references lead into the root schemas."""
        old, new = resolve(old, old_root), resolve(new, new_root)
        found = self._pairs.get((id(old), id(new)))
        if found is None:
            found = self._pairs[id(old), id(new)] = Pair(self, old, new, old_root, new_root)
        return found


class Link(msgspec.Struct, frozen=True):
    """A reference of a pair to another one, at a path below it."""

    path: str
    pair: Any


class Pair:
    """The comparison of two schemas, or of two definitions."""

    def __init__(self, all_pairs: Comparisons, old: Schema, new: Schema, old_root: Schema, new_root: Schema) -> None:
        self.old, self.new, self.old_root, self.new_root = old, new, old_root, new_root
        self._all = all_pairs
        self._found: list[Change | Link] | None = None
        self._verdict: tuple[bool, bool] | None = None

    def found(self) -> list[Change | Link]:
        """Return the changes in the pair itself, and the links to other pairs."""
        if self._found is None:
            self._found = list(self._changes(self.old, self.new, ""))
        return self._found

    def changes(self) -> list[Change]:
        """Return all changes. Those of a definition are listed at the first places that refer to it."""
        if not self._judged()[0]:
            return []
        listed: list[Change] = []
        places: Counter[int] = Counter()
        active = {id(self)}
        stack = [("", self, iter(self.found()))]
        while stack and len(listed) < _MAX_CHANGES:
            path, pair, rest = stack[-1]
            for each in rest:
                place = join_path(path, each.path)
                if isinstance(each, Change):
                    listed.append(Change(place, each.what, each.breaking))
                elif id(each.pair) in active or not each.pair._judged()[0]:
                    continue
                elif places[id(each.pair)] < _MAX_PLACES:
                    places[id(each.pair)] += 1
                    active.add(id(each.pair))
                    stack.append((place, each.pair, iter(each.pair.found())))
                    break
            else:
                active.discard(id(pair))
                stack.pop()
        return list(dict.fromkeys(listed))

    def breaks(self) -> bool:
        """True if a change of the pair, or of one that it refers to, is breaking."""
        return self._judged()[1]

    def _judged(self) -> tuple[bool, bool]:
        """Return (whether there are changes, whether there are breaking ones), here or in what the pair refers to."""
        if self._verdict is None:
            reached = {id(self): self}
            users: dict[int, list[Pair]] = {}
            waiting = [self]
            while waiting:
                pair = waiting.pop()
                for each in pair.found():
                    if isinstance(each, Link):
                        users.setdefault(id(each.pair), []).append(pair)
                        if id(each.pair) not in reached:
                            reached[id(each.pair)] = each.pair
                            if each.pair._verdict is None:
                                waiting.append(each.pair)
            own = {key: pair._verdict or pair._own_verdict() for key, pair in reached.items()}
            both = [_with_users([key for key, found in own.items() if found[at]], users) for at in (0, 1)]
            for key, pair in reached.items():
                pair._verdict = key in both[0], key in both[1]
        assert self._verdict is not None
        return self._verdict

    def _own_verdict(self) -> tuple[bool, bool]:
        own = [each.breaking for each in self.found() if isinstance(each, Change)]
        return bool(own), any(own)

    def part(self, old: Schema, new: Schema) -> Pair:
        """Return the comparison of two parts of this pair."""
        return self._all.pair(old, new, self.old_root, self.new_root)

    def compared(self, old: Schema, new: Schema, path: str) -> Iterator[Change | Link]:
        """Yield the changes of two parts, or a link if one of them is a definition."""
        if "$ref" in old or "$ref" in new:
            yield Link(path, self.part(old, new))
        else:
            yield from self._changes(old, new, path)

    def _changes(self, old: Schema, new: Schema, path: str) -> Iterator[Change | Link]:
        self._all.parts_left -= 1
        if self._all.parts_left < 0:
            yield Change(path, _TOO_LARGE, True)
        elif is_any(new):
            if not is_any(old):
                yield Change(path, "takes any value now", False)
        elif is_any(old):
            yield Change(path, f"took any value, takes only {in_words(new)} now", True)
        elif "anyOf" in old or "anyOf" in new:
            yield from self._alternatives(old, new, path)
        elif "x-python" in old or "x-python" in new:
            yield from _hooks(old, new, path)
        elif is_enum(old) or is_enum(new):
            yield from enums(old, new, path, self._all.runs_patterns)
        elif old["type"] != new["type"]:
            widened = (old["type"], new["type"]) == ("integer", "number")
            beyond = f": {ROUNDED}" if widened and _may_be_large(old) else ""
            yield Change(path, f"was {in_words(old)}, is {in_words(new)}{beyond}", not widened)
            yield from limits(old, new, path)
        elif old["type"] == "array":
            yield from self._arrays(old, new, path)
        elif old["type"] == "object":
            yield from self._objects(old, new, path)
        else:
            yield from strings(old, new, path)
            yield from limits(old, new, path)

    def _alternatives(self, old: Schema, new: Schema, path: str) -> Iterator[Change | Link]:
        matches, unmatched = self.matches(old, new)
        tagged = [part for part, _ in matches if tag_of(part) is not None]
        several = sum(kind_of(part)[0] == "object" for part in alternatives(new, self.new_root)) > 1
        for part, match in matches:
            if match is None:
                yield Change(path, f"{in_words(part)} is no longer taken", True)
                continue
            name, tag = tag_of(part), tag_of(match)
            if name is not None and tag is None and len(tagged) > 1:
                yield Change(path, f"{in_words(part)} cannot be told apart any more: its tag was removed", True)
            inside = f"{path}<{name}>" if name is not None and len(tagged) > 1 else path
            if name is not None and several and len(tagged) == 1 and not _has_tags_always(part):
                yield Change(inside, f"{in_words(part)} was stored without its tag, too: it cannot be told apart", True)
            if kind_of(part)[0] in ("object", "array"):
                yield Link(inside, self.part(part, match))
            else:
                yield from self._changes(part, match, inside)
        for part in unmatched:
            yield Change(path, f"takes {in_words(part)}, too", False)

    def matches(self, old: Schema, new: Schema) -> tuple[list[tuple[Schema, Schema | None]], list[Schema]]:
        """Return (alternative of `old`, alternative of `new` that takes its place or None), and the others of `new`.

        An enum with values of several types counts as several alternatives.
        """
        before, after = (
            [each for part in alternatives(union, root) for each in _split_enum(part)]
            for union, root in ((old, self.old_root), (new, self.new_root))
        )
        by_kind: dict[Any, list[Schema]] = {}
        for part in after:
            by_kind.setdefault(kind_of(part), []).append(part)
        matches: list[tuple[Schema, Schema | None]] = []
        for part in before:
            found = next((by_kind[kind] for kind in _kinds_that_take(part, before, after) if kind in by_kind), [])
            matches.append((part, _closest(part, found)))
        taken = {id(match) for _, match in matches}
        return matches, [part for part in after if id(part) not in taken]

    def _may_hold(self, old: Schema, new: Schema) -> bool:
        """True if nothing but changes of definitions prevents reading a value of one part as the other."""
        if "$ref" in old or "$ref" in new:
            return kind_of(resolve(old, self.old_root)) == kind_of(resolve(new, self.new_root))
        return not any(isinstance(each, Change) and each.breaking for each in self._changes(old, new, ""))

    def _arrays(self, old: Schema, new: Schema, path: str) -> Iterator[Change | Link]:
        if "prefixItems" not in new:
            yield from limits(old, new, path)
        if new.get("uniqueItems") and not old.get("uniqueItems"):
            yield Change(path, f"was a list, is a set: {UNORDERED}", True)
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
            yield from self.compared(items, new["items"], f"{path}[]")

    def _tuple_items(self, old: Schema, new: Schema, path: str) -> Iterator[Change | Link]:
        """Compare the items of tuples by their place."""
        before, after = old.get("prefixItems", []), new.get("prefixItems", [])
        for at, name, other_name in _moved_fields(old, new):
            yield Change(f"{path}[{at}]", f"was {name}, is {other_name}: {MOVED}", True)
        for at, item in enumerate(before):
            other = after[at] if at < len(after) else new.get("items", True)
            if other is True or other is False:
                yield Change(f"{path}[{at}]", "was removed: its stored values would be lost", True)
            else:
                yield from self.compared(item, other, f"{path}[{at}]")
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

    def _objects(self, old: Schema, new: Schema, path: str) -> Iterator[Change | Link]:
        before, after = old.get("properties"), new.get("properties")
        if before is None and after is not None:
            yield Change(path, f"was {in_words(old)}, is {in_words(new)}", True)
        elif before is None:
            yield from limits(old, new, path)
            yield from self._keys(old.get("x-keys", _TEXT), new.get("x-keys", _TEXT), f"{path} keys")
            yield from self.compared(old["additionalProperties"], new["additionalProperties"], f"{path}{{}}")
        elif after is None:
            yield Change(path, f"was an object of fields, is {in_words(new)}", False)
            yield from self.compared({"enum": list(before)}, new.get("x-keys", _TEXT), f"{path} keys")
            yield from limits({"minProperties": len(old["required"]), "maxProperties": len(before)}, new, path)
            for name, part in {**before, **old.get("x-former", {})}.items():
                yield from self.compared(part, new["additionalProperties"], join_path(path, name))
        else:
            yield from self._fields(old, new, path)

    def _keys(self, old: Schema, new: Schema, path: str) -> Iterator[Change | Link]:
        if new == _TEXT != old:
            yield Change(path, f"were {in_words(old)}, are text", False)  # JSON stores all keys as strings.
        else:
            yield from self.compared(old, new, path)

    def _fields(self, old: Schema, new: Schema, path: str) -> Iterator[Change | Link]:
        checks = [name for name in new.get("x-checks", ()) if name not in old.get("x-checks", ())]
        if checks:
            yield Change(path, f"{CHECKED}: {', '.join(checks)}", False)
        before, after = old["properties"], new["properties"]
        removed = [name for name in before if name not in after]
        added = [name for name in after if name not in before]
        renamed = self.renamed(old, new)
        for name in removed:
            if "const" in before[name]:
                yield Change(join_path(path, name), "the tag was removed", new.get("additionalProperties") is False)
                continue
            hint = f"; was it renamed to {renamed[name]}?" if name in renamed else ""
            yield Change(join_path(path, name), f"was removed: its stored values would be lost{hint}", True)
        yield from self._added(old, new, added, path)
        for name in before:
            if name in after:
                yield from self.compared(before[name], after[name], join_path(path, name))
                if "const" not in after[name]:  # A tag that is not there is taken for it.
                    yield from self._defaults(old, new, name, join_path(path, name))

    def _added(self, old: Schema, new: Schema, added: list[str], path: str) -> Iterator[Change | Link]:
        """Compare the fields that only the new class has with the former tags of the old one, which are stored."""
        after, former = new["properties"], old.get("x-former", {})
        if new.get("additionalProperties") is False:
            for name in former.keys() - after.keys():
                yield Change(join_path(path, name), "was a tag, which stored events have: it is forbidden now", True)
        for name in added:
            place = join_path(path, name)
            if name in former:
                yield from self.compared(former[name], after[name], place)
            if "const" in after[name]:  # In a union, an object without a tag takes the place of no other one.
                yield Change(place, "a tag was added: events stored without it can be read", False)
            elif name in new["required"]:
                yield Change(place, "is new and has no default: events stored without it cannot be read", True)
            else:
                yield Change(place, f"is new, {_default_text(after[name])}", False)

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
        change = default_change((old, self.old_root), (new, self.new_root))
        if change is not None:
            why = _why_unneeded(old) or change.why_harmless
            what = f"its default was {value_text(change.then)}, is {value_text(change.now)}"
            yield Change(path, f"{what}: {why or change.effect}", not why)
        if old.get("x-written") is True and "x-written" not in new:
            yield Change(path, "is left out of events from now on where it is the default", False)

    def renamed(self, old: Schema, new: Schema) -> dict[str, str]:
        """Return {old name: new name} of the fields of two objects that were probably renamed."""
        before, after = old["properties"], new["properties"]
        removed = [name for name in before if name not in after and "const" not in before[name]]
        added = [name for name in after if name not in before and "const" not in after[name]]
        if not are_few_enough(removed, added):
            return {}
        return guess_renames(
            removed, added, lambda one, other: self._may_hold(before[one], after[other]), self._all.renames
        )


_TOO_LARGE = "is too large to compare: whether it has changed is unknown"
_TEXT: Schema = {"type": "string"}


def _moved_fields(old: Schema, new: Schema) -> Iterator[tuple[int, str, str]]:
    """Yield (place, old name, new name) where an array has another field now that has its values elsewhere."""
    before, after = old.get("x-names", []), new.get("x-names", [])
    first = len(old.get("prefixItems", [])) - len(before)  # The first item may be a tag.
    for at, (name, other) in enumerate(zip(before, after, strict=False)):
        if name != other and (name in after or other in before):
            yield first + at, name, other


def _kinds_that_take(part: Schema, before: list[Schema], after: list[Schema]) -> Iterator[Any]:
    """Yield the kinds of alternatives that may take the values of an alternative, the best first."""
    kind = kind_of(part)
    yield kind
    if kind[0] in ("object", "array"):
        yield kind[0], None  # One without a tag.
        if all(sum(kind_of(each)[0] == kind[0] for each in union) == 1 for union in (before, after)):
            yield from (kind_of(each) for each in after if kind_of(each)[0] == kind[0])
    if kind[0] == "integer":
        yield "number", None
    yield "any", None


def _closest(part: Schema, found: list[Schema]) -> Schema | None:
    """Return the schema that has most in common with a part. Few unions have two of a kind."""

    def in_common(other: Schema) -> tuple[bool, int]:
        fields = part.get("properties", {}).keys() & other.get("properties", {}).keys()
        return other == part, len(fields) + len([word for word, value in part.items() if other.get(word) == value])

    return max(found, key=in_common, default=None)


def _has_tags_always(schema: Schema) -> bool:
    """True if every stored object of a shape has its tag: the class had one from the first."""
    return all(name in schema["required"] for name, _ in tags(schema))


def _split_enum(schema: Schema) -> list[Schema]:
    """Split an enum with values of several types into one enum for each type."""
    values = enum_values(schema)
    kinds = {type(value) for value in values}
    if len(kinds) < 2 and values != [None]:
        return [schema]
    split = [[value for value in values if type(value) is kind] for kind in kinds]
    return [{"type": "null"} if group == [None] else {"enum": group} for group in split]


def _with_users(keys: list[int], users: dict[int, list[Pair]]) -> set[int]:
    """Return keys of pairs, with those of all pairs that refer to them."""
    found = set(keys)
    for key in keys:
        for user in users.get(key, ()):
            if id(user) not in found:
                found.add(id(user))
                keys.append(id(user))
    return found


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
    return not least or not most or min(least) < -MAX_EXACT or max(most) > MAX_EXACT


def _default_text(schema: Schema) -> str:
    default = default_of(schema)
    return "with a default" if default is ABSENT else f"by default {value_text(default)}"
