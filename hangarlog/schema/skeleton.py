"""Drafts of upcasters, made from the wire shapes before and after."""

from __future__ import annotations

import re

import msgspec

from hangarlog.schema.compare import are_few_enough, breaking, compare_parts
from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import has_always, in_words

_FILL_IN = "FILL_IN"  # An undefined name: the check fails until you replace it.


def skeleton(event_type: str, version: int, before: Schema | None, after: Schema | None) -> str:
    """Return Python source for the upcaster from `version` to the next.

    `FILL_IN` marks what you must decide.
    """
    name = re.sub(r"\W", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", event_type)).lower()
    head = (
        f"@chain.upcaster({_quoted(event_type)}, from_version={version})\n"
        f"def {name}_v{version}_to_v{version + 1}(data: dict[str, Any]) -> dict[str, Any]:\n"
    )
    if before is None or after is None:
        return f"{head}    return {{**data, **{_FILL_IN}}}  # the fields that v{version} lacks or stores differently"
    return head + _body(before, after)


def _body(before: Schema, after: Schema) -> str:
    old, new = before.get("properties", {}), after.get("properties", {})
    removed = [name for name in old if name not in new]
    lines: list[str] = []
    for name in new:
        if name not in old:
            lines += _added(name, removed, before, after)
    for name in old:
        if name in new:
            lines += _kept(name, before, after)
    kept = "**data"
    first = ""
    if removed:
        names = ", ".join(map(_quoted, removed))
        first = f"    gone = {{{names}}}\n"
        kept = "**{name: value for name, value in data.items() if name not in gone}"
    inner = "".join(f"        {line}\n" for line in (f"{kept},", *lines))
    return f"{first}    return {{\n{inner}    }}"


def _added(name: str, removed: list[str], before: Schema, after: Schema) -> list[str]:
    """Return the line for a new field, which may be a removed one under a new name."""
    old, new = before["properties"], after["properties"]
    candidates = removed if are_few_enough(removed, new) else []
    renamed = [each for each in candidates if not breaking(compare_parts(old[each], new[name], before, after))]
    if len(renamed) == 1:
        return [f"{_quoted(name)}: {_value(renamed[0], before)},  # if it was renamed"]
    if name in after["required"]:
        return [f"{_quoted(name)}: {_FILL_IN},  # {_comment(in_words(new[name]))}: its value for events stored before"]
    return []


def _kept(name: str, before: Schema, after: Schema) -> list[str]:
    """Return the line for a field that has changed."""
    old, new = before["properties"][name], after["properties"][name]
    changes = breaking(compare_parts(old, new, before, after))
    if changes:
        what = "; ".join(change.what for change in changes)
        return [f"{_quoted(name)}: {_FILL_IN},  # {_comment(what)}; it was {_value(name, before)}"]
    optional = not _is_given(name, before)
    if optional and (name in after["required"] or old.get("default") != new.get("default")):
        return [f"{_quoted(name)}: {_value(name, before)},  # the old default"]
    return []


def _is_given(name: str, before: Schema) -> bool:
    """True if a payload has a field. One that events of an earlier version may lack has a default to write down."""
    return name in before["required"] or (has_always(before, name) and "default" not in before["properties"][name])


def _value(name: str, before: Schema) -> str:
    """Return the expression for a field's old value, with its old default."""
    if _is_given(name, before):
        return f"data[{_quoted(name)}]"
    schema = before["properties"][name]
    return f"data.get({_quoted(name)}, {_literal(schema['default']) if 'default' in schema else _FILL_IN})"


def _comment(text: str) -> str:
    """Return a text from a lock as one line, because text after a line break would be code."""
    return " ".join(text.splitlines())


def _literal(value: object) -> str:
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    """Return a Python string literal with double quotes, which a JSON string is."""
    return msgspec.json.encode(text).decode()
