"""Drafts of upcasters, made from the wire shapes before and after.

A draft cannot be taken for finished. `FILL_IN` stands for a value that only you know, and `CONFIRM` is around what was
guessed; neither name exists, so the check fails until you have replaced both. A nested object that has changed gets a
function of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import msgspec

from hangarlog.schema.compare import Change, Comparisons, Pair
from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import ABSENT, has_always, in_words, join_path, kind_of, same_value, tag_of, tags

_FILL_IN, _CONFIRM = "FILL_IN", "CONFIRM"
_MIN_SHARED = 3  # Types with the same renames that get one step together.
_MAX_FUNCTIONS = 50  # Functions for nested objects in a draft.
_TESTS = {
    "string": "isinstance({}, str)",
    "integer": "type({}) is int",
    "number": "type({}) in (int, float)",
    "boolean": "isinstance({}, bool)",
    "null": "{} is None",
    "array": "isinstance({}, list)",
    "object": "isinstance({}, dict)",
}
"""The test for a value of a JSON type."""

Renames = tuple[tuple[str, str], ...]


def skeleton(event_type: str, version: int, before: Schema | None, after: Schema | None) -> str:
    """Return Python source for the upcaster from `version` to the next."""
    return Drafts().draft(event_type, version, before, after)


class Drafts:
    """The drafts of a check. Types with the same renames, and no other change, share a step."""

    def __init__(self, renames: Collection[tuple[str, str]] = ()) -> None:
        self._comparisons = Comparisons(renames=renames)  # The shapes may come from a lock, so no pattern is run.
        self._renamed: dict[Renames, dict[str, tuple[str, int]]] = {}

    def changes(self, before: Schema, after: Schema) -> list[Change]:
        """Return the changes from a version to the next."""
        return self._comparisons.compare(before, after)

    def draft(self, event_type: str, version: int, before: Schema | None, after: Schema | None) -> str:
        """Return Python source for the upcaster from `version` to the next."""
        head = f"@chain.upcaster({_quoted(event_type)}, from_version={version})\n"
        step = _function_name(event_type, version)
        if before is None or after is None:
            return (
                f"{head}def {step}(data: dict[str, Any]) -> dict[str, Any]:\n"
                f"    return {{**data, **{_FILL_IN}}}  # the fields that v{version} lacks or stores differently"
            )
        draft = _Draft(version, step)
        code = draft.code(self._comparisons.pair(before, after, before, after), head)
        if draft.only_renames:
            self._renamed.setdefault(draft.only_renames, {})[code] = event_type, version
        return code

    def shown(self, code: str) -> str:
        """Return a draft as it is to be shown when all are made: once for all types with the same renames."""
        for renames, types in self._renamed.items():
            if code in types and len(types) >= _MIN_SHARED:
                first = next(iter(types))
                if code != first:
                    return f"# the step of {_comment(types[first][0])} is for this type too"
                return _shared_step(renames, sorted(types.values()))
        return code


def _shared_step(renames: Renames, types: list[tuple[str, int]]) -> str:
    """Return one step for many types whose fields have new names."""
    names = "".join(f"    {_quoted(old)}: {_quoted(new)},\n" for old, new in renames)
    steps = "".join(f"@chain.upcaster({_quoted(name)}, from_version={version})\n" for name, version in types)
    return (
        f"renamed = {_CONFIRM}({{\n{names}}})\n\n\n"
        f"{steps}def with_new_names(data: dict[str, Any]) -> dict[str, Any]:\n"
        "    return {renamed.get(name, name): value for name, value in data.items()}"
    )


class _Draft:
    """One upcaster, with functions for the nested objects that have changed."""

    def __init__(self, version: int, step: str) -> None:
        self._version = version
        self._names: dict[int, str] = {}
        self._taken = {step}
        self._waiting: list[tuple[str, Pair, str]] = []
        self._step = step
        self.only_renames: Renames = ()

    def code(self, pair: Pair, head: str) -> str:
        """Return the source, with the functions for nested objects first."""
        signature = "(data: dict[str, Any]) -> dict[str, Any]:\n"
        step = f"{head}def {self._step}{signature}{self._body(pair, '')}"
        functions: list[str] = []
        while self._waiting:
            name, inner, path = self._waiting.pop(0)
            functions.append(f"def {name}{signature}    # {_comment(path)}\n{self._body(inner, path)}\n\n\n")
        if functions:
            self.only_renames = ()
        return "".join(reversed(functions)) + step

    def _body(self, pair: Pair, path: str) -> str:
        old, new = pair.old.get("properties", {}), pair.new.get("properties", {})
        renamed = pair.renamed(pair.old, pair.new) if old and new else {}
        lines = [line for name in new if name not in old for line in self._added(name, renamed, pair, path)]
        only_renames = len(lines) == len(renamed) and all(_is_plain_rename(pair, *names) for names in renamed.items())
        kept = [line for name in old if name in new for line in self._kept(name, pair, path)]
        dropped = [name for name in old if name not in new and name not in renamed and "const" not in old[name]]
        if renamed and only_renames and not kept and not dropped and not path:
            self.only_renames = tuple(sorted(renamed.items()))
        gone = [name for name in old if name not in new]
        first, rest = "", "**data"
        if gone:
            sets = [
                f"{{{', '.join(map(_quoted, names))}}}"
                for names in ([each for each in gone if each not in dropped], dropped)
            ]
            sure, unsure = sets[0] if len(gone) > len(dropped) else "", f"{_CONFIRM}({sets[1]})" if dropped else ""
            why = "  # the values in CONFIRM would be lost" if dropped else ""
            first = f"    gone = {' | '.join(filter(None, (sure, unsure)))}{why}\n"
            rest = "**{name: value for name, value in data.items() if name not in gone}"
        inner = "".join(f"        {line}\n" for line in (f"{rest},", *lines, *kept))
        return f"{first}    return {{\n{inner}    }}"

    def _added(self, name: str, renamed: dict[str, str], pair: Pair, path: str) -> list[str]:
        """Return the line for a new field, which may be a removed one under a new name."""
        schema = pair.new["properties"][name]
        former = next((old for old, new in renamed.items() if new == name), None)
        if former is not None:
            value, _ = self._value(
                pair, pair.old["properties"][former], schema, _stored(former, pair.old), join_path(path, name)
            )
            return [f"{_quoted(name)}: {_CONFIRM}({value}),  # was it renamed from {_comment(former)}?"]
        if "const" in schema:
            return [f"{_quoted(name)}: {_literal(schema['const'])},"]
        if name in pair.new["required"]:
            what = _comment(in_words(schema))
            return [f"{_quoted(name)}: {_FILL_IN},  # {what}: its value for events stored before"]
        return []

    def _kept(self, name: str, pair: Pair, path: str) -> list[str]:
        """Return the line for a field that has changed."""
        old, new = pair.old["properties"][name], pair.new["properties"][name]
        if "const" in new:
            changed = not same_value(old.get("const", ABSENT), new["const"])
            return [f"{_quoted(name)}: {_literal(new['const'])},"] if changed else []
        required = _is_given(name, pair.old)
        source = _stored(name, pair.old)
        if pair.part(old, new).breaks():
            value, notes = self._value(pair, old, new, source, join_path(path, name))
            line = f"{_quoted(name)}: {value},"
            if not required and "default" not in old and name not in pair.new["required"]:
                value, _ = self._value(pair, old, new, f"data[{_quoted(name)}]", join_path(path, name))
                line = f"**({{{_quoted(name)}: {value}}} if {_quoted(name)} in data else {{}}),"
            return [line + (f"  # {_comment('; '.join(notes))}" if notes else "")]
        if not required and (name in pair.new["required"] or not _same_default(old, new)):
            return [f"{_quoted(name)}: {source},  # the old default"]
        return []

    def _value(
        self, pair: Pair, old: Schema, new: Schema, source: str, path: str, depth: int = 1
    ) -> tuple[str, list[str]]:
        """Return (expression that makes a value of `new` from one of `old`, notes on what is to be filled in)."""
        inner = pair.part(old, new)
        if not inner.breaks():
            return source, []
        before, after = inner.old, inner.new
        each = "each" if depth == 1 else f"each_{depth}"
        if "properties" in before and "properties" in after and len(self._names) < _MAX_FUNCTIONS:
            return f"{self._function(inner, old, path)}({source})", []
        if not any(change.breaking and change.path in ("", " keys") for change in _own(inner)):
            if isinstance(before.get("items"), dict) and isinstance(after.get("items"), dict):
                value, notes = self._value(inner, before["items"], after["items"], each, f"{path}[]", depth + 1)
                return f"[{value} for {each} in {source}]", notes
            if isinstance(before.get("additionalProperties"), dict) and "additionalProperties" in after:
                parts = before["additionalProperties"], after["additionalProperties"]
                value, notes = self._value(inner, *parts, each, f"{path}{{}}", depth + 1)
                return f"{{key: {value} for key, {each} in {source}.items()}}", notes
        if "anyOf" in before:
            return self._union(inner, source, path, depth)
        what = "; ".join(dict.fromkeys(change.what for change in inner.changes() if change.breaking))
        return _FILL_IN, [f"{path}: {what}; it was {source}"]

    def _union(self, pair: Pair, source: str, path: str, depth: int) -> tuple[str, list[str]]:
        """Return the expression for a value of a union, and notes."""
        matches, _ = pair.matches(pair.old, pair.new)
        several = sum(tag_of(part) is not None for part, _ in matches) > 1
        changed: list[tuple[str, str]] = []
        same: list[Schema] = []
        notes: list[str] = []
        for part, match in matches:
            place = f"{path}<{tag_of(part)}>" if several and tag_of(part) else path
            if match is None:
                changed.append((_test(part, source), _FILL_IN))
                notes.append(f"{place}: {in_words(part)} is no longer taken; it was {source}")
                continue
            value, more = self._value(pair, part, match, source, place, depth)
            if value == source:
                same.append(part)
            else:
                changed.append((_test(part, source), value))
                notes += more
        if len(changed) == 1 and [kind_of(part)[0] for part in same] == ["null"]:
            return f"(None if {source} is None else {changed[0][1]})", notes
        last = source if same or not changed else changed.pop()[1]
        return "(" + "".join(f"{value} if {test} else " for test, value in changed) + f"{last})", notes

    def _function(self, pair: Pair, old: Schema, path: str) -> str:
        """Return the name of the function for a nested object."""
        if id(pair) not in self._names:
            label = old["$ref"].rsplit("/", 1)[-1] if "$ref" in old else path
            label = tag_of(pair.old) or label if old is pair.old else label
            base = _function_name(label, self._version)
            name, number = base, 1
            while name in self._taken:
                number += 1
                name = f"{base}_{number}"
            self._taken.add(name)
            self._names[id(pair)] = name
            self._waiting.append((name, pair, path))
        return self._names[id(pair)]


def _own(pair: Pair) -> list[Change]:
    return [each for each in pair.found() if isinstance(each, Change)]


def _test(part: Schema, source: str) -> str:
    """Return the expression that tells an alternative of a union from the others."""
    kind = kind_of(part)[0]
    test = _TESTS.get(kind, _FILL_IN).format(source)
    for name, value in tags(part)[:1]:
        return f"{test} and {source}.get({_quoted(name)}) == {_literal(value)}"
    if kind == "array" and tag_of(part) is not None:
        return f"{test} and {source}[:1] == [{_literal(part['prefixItems'][0]['const'])}]"
    return test


def _is_plain_rename(pair: Pair, old: str, new: str) -> bool:
    """True if a renamed field needs nothing but its new name."""
    before, after = pair.old["properties"][old], pair.new["properties"][new]
    if pair.part(before, after).breaks():
        return False
    return old in pair.old["required"] or (new not in pair.new["required"] and _same_default(before, after))


def _same_default(old: Schema, new: Schema) -> bool:
    return same_value(old.get("default", ABSENT), new.get("default", ABSENT))


def _is_given(name: str, before: Schema) -> bool:
    """True if a payload has a field. One that events of an earlier version may lack has a default to write down."""
    return name in before["required"] or (has_always(before, name) and "default" not in before["properties"][name])


def _stored(name: str, before: Schema) -> str:
    """Return the expression for a field's old value, with its old default."""
    if _is_given(name, before):
        return f"data[{_quoted(name)}]"
    schema = before["properties"][name]
    return f"data.get({_quoted(name)}, {_literal(schema['default']) if 'default' in schema else _FILL_IN})"


def _function_name(label: str, version: int) -> str:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", label)
    name = re.sub(r"\W+", "_", snake[:60], flags=re.ASCII).strip("_").lower() or "value"
    return f"{'from_' if name[0].isdecimal() else ''}{name}_v{version}_to_v{version + 1}"


def _comment(text: str) -> str:
    """Return a text from a lock as one line, because text after a line break would be code."""
    return " ".join(text.splitlines())


def _literal(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    """Return a Python string literal with double quotes, which a JSON string is."""
    return msgspec.json.encode(text).decode()
