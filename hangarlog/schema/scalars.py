"""Comparison of two schemas without parts: lists of values, texts, and limits. And what a difference is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import ge, gt, le, lt
from typing import Any

import msgspec

from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import enum_values, has_type, in_words, listed

_MAX_PATTERN_CHARS = 20  # Characters of the longest string that a pattern is run on.


CHECKED = "its class checks more when it is read"


class Change(msgspec.Struct, frozen=True):
    """One difference.

    `path` is the place in the payload; it is empty for the payload itself. `[]` stands for the items of an array, `{}`
    for the values of a mapping, and `<tag>` for an alternative of a union.
    """

    path: str
    what: str
    breaking: bool

    def __str__(self) -> str:
        return f"{self.path or 'payload'}: {self.what}"

    @property
    def is_open(self) -> bool:
        """True if only stored events can tell whether the change is breaking."""
        return self.what.startswith(CHECKED)


def is_enum(schema: Schema) -> bool:
    """True if a schema lists its values, also if it lists none."""
    return "enum" in schema or "const" in schema


def enums(old: Schema, new: Schema, path: str, runs_patterns: bool) -> Iterator[Change]:
    """Yield how lists of values, or one and another schema, differ."""
    before, after = enum_values(old), enum_values(new)
    if old.get("type") == "null":
        before = [None]
    elif not is_enum(old):
        yield Change(path, f"was {in_words(old)}, is only {in_words(new)} now", True)
        return
    if is_enum(new):
        gone = _missing(before, after)
        more = _missing(after, before)
        if gone:
            yield Change(path, f"no longer takes {listed(gone)}", True)
        if more:
            yield Change(path, f"takes {listed(more)}, too", False)
        return
    fits = all(has_type(value, new.get("type")) and _within(value, new, runs_patterns) for value in before)
    yield Change(path, f"was {in_words(old)}, is {in_words(new)}", not fits)


def _missing(values: list[Any], others: list[Any]) -> list[Any]:
    """Return the values that are not among others, compared as in JSON: `1` equals `1.0`, but not `true`."""
    known = {(isinstance(value, bool), value) for value in others}
    return [value for value in values if (isinstance(value, bool), value) not in known]


def _within(value: Any, schema: Schema, runs_patterns: bool) -> bool:
    """True if a value is within the limits of a schema of its type."""
    if "format" in schema or "contentEncoding" in schema or ("multipleOf" in schema and value % schema["multipleOf"]):
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


def strings(old: Schema, new: Schema, path: str) -> Iterator[Change]:
    """Yield how the formats and patterns of texts differ."""
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


def limits(old: Schema, new: Schema, path: str) -> Iterator[Change]:
    """Yield how the limits of values differ."""
    for word in (*_LOWER_LIMITS, *_UPPER_LIMITS):
        before, after = old.get(word), new.get(word)
        if after != before:
            narrower = after is not None and not _is_implied(old, word, after)
            yield Change(path, f"{word} was {_limit_text(before)}, is {_limit_text(after)}", narrower)
    before, after = old.get("multipleOf", 1 if old.get("type") == "integer" else None), new.get("multipleOf")
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
