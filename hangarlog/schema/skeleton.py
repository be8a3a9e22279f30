"""The upcaster that has to be written, as far as two wire shapes can tell."""

from __future__ import annotations

import re

import msgspec

from hangarlog.schema.compare import are_few, breaking, compare_parts
from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import shown

_FILL_IN = "FILL_IN"  # No name that there is: as long as it stands there, the check fails.


def skeleton(event_type: str, version: int, before: Schema | None, after: Schema | None) -> str:
    """Python source of the step from `version` to the next. What only a person can know is `FILL_IN`."""
    name = re.sub(r"\W", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", event_type)).lower()
    head = (
        f"@chain.upcaster({_quoted(event_type)}, from_version={version})\n"
        f"def {name}_v{version}_to_v{version + 1}(data: dict[str, Any]) -> dict[str, Any]:\n"
    )
    if before is None or after is None:
        return f"{head}    return {{**data, **{_FILL_IN}}}  # what v{version} lacks, or has otherwise"
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
    """The line for a new field: perhaps one that has gone is it."""
    old, new = before["properties"], after["properties"]
    candidates = removed if are_few(removed, new) else []
    renamed = [each for each in candidates if not breaking(compare_parts(old[each], new[name], before, after))]
    if len(renamed) == 1:
        return [f"{_quoted(name)}: {_value(renamed[0], before)},  # if it was renamed"]
    if name in after["required"]:
        return [f"{_quoted(name)}: {_FILL_IN},  # {_comment(shown(new[name]))}: what it was before it was stored"]
    return []


def _kept(name: str, before: Schema, after: Schema) -> list[str]:
    """The line for a field that has changed."""
    old, new = before["properties"][name], after["properties"][name]
    changes = breaking(compare_parts(old, new, before, after))
    if changes:
        what = "; ".join(change.what for change in changes)
        return [f"{_quoted(name)}: {_FILL_IN},  # {_comment(what)}; it was {_value(name, before)}"]
    optional = name not in before["required"]
    if optional and (name in after["required"] or old.get("default") != new.get("default")):
        return [f"{_quoted(name)}: {_value(name, before)},  # the default of then"]
    return []


def _value(name: str, before: Schema) -> str:
    """What a field's value is, with the default it had."""
    if name in before["required"]:
        return f"data[{_quoted(name)}]"
    schema = before["properties"][name]
    return f"data.get({_quoted(name)}, {_literal(schema['default']) if 'default' in schema else _FILL_IN})"


def _comment(text: str) -> str:
    """A text of a lock on the one line of a comment: what follows a line's end would be code."""
    return " ".join(text.splitlines())


def _literal(value: object) -> str:
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    """A Python string as formatters write it: what JSON makes of it is one."""
    return msgspec.json.encode(text).decode()
