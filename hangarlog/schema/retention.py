"""Whether upcasters keep the fields that a type has before and after them.

A stored value is lost if the result is the same whatever it is. So each field's value is replaced by others of the same
field, and the upcasters run again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from hangarlog.schema.compare import breaking, compare_parts
from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import join_path, resolve

_MAX_PAYLOADS = 60  # Payloads that are compared, of all that were made up.
_MAX_OTHERS = 8  # Other values of a field that are tried in its place.
_MAX_FIELDS = 300  # Fields of one version that are looked at.

Upcast = Callable[[dict[str, Any]], Any]
_Keys = tuple[str, ...]
"""The way to a field: the names of the fields around it, `[]` for the items of a list, `{}` for a mapping's values."""


def unkept(payloads: Sequence[dict[str, Any]], old: Schema, new: Schema, upcast: Upcast) -> Iterator[tuple[str, bool]]:
    """Yield (path, whether the upcasters ask for it by name) of the fields that both shapes have and `upcast` loses.

    A field inside one that is lost is left out. `upcast` brings a payload of the shape `old` to `new`. It may raise
    anything, and then says nothing.
    """
    payloads = payloads[:_MAX_PAYLOADS]
    reached = [_result(upcast, payload) for payload in payloads]
    lost: list[_Keys] = []
    for keys, before, after in _common_fields(old, new):
        if any(keys[: len(each)] == each for each in lost):
            continue
        values = [_values_at(payload, keys) for payload in payloads]
        others = _distinct(values)
        tried = [at for at, result in enumerate(reached) if values[at] and isinstance(result, dict)][:_MAX_OTHERS]
        if len(others) > 1 and tried and not _has_influence(payloads, reached, tried, keys, others, upcast):
            if breaking(compare_parts(before, after, old, new)):
                continue  # The new type does not take the old values.
            lost.append(keys)
            yield _path(keys), _asks_for(upcast, payloads[tried[0]], keys)


def _has_influence(
    payloads: Sequence[dict[str, Any]],
    reached: Sequence[Any],
    tried: list[int],
    keys: _Keys,
    others: list[Any],
    upcast: Upcast,
) -> bool:
    """True if the result of some upcasting depends on the values of a field."""
    for at in tried:
        for other in others[:_MAX_OTHERS]:
            payload = copy.deepcopy(payloads[at])
            _replace(payload, keys, other)
            result = _result(upcast, payload)
            if result is None or _encoded(result) != _encoded(reached[at]):
                return True
    return False


def _result(upcast: Upcast, payload: dict[str, Any]) -> Any:
    try:
        return upcast(copy.deepcopy(payload))
    except Exception:  # An upcaster may raise anything. The check reports it.
        return None


def _common_fields(old: Schema, new: Schema) -> Iterator[tuple[_Keys, Schema, Schema]]:
    """Yield the fields that have the same place in both shapes, with their schemas."""
    left: list[tuple[Schema, Schema, _Keys]] = [(old, new, ())]
    count = 0
    for before, after, keys in left:
        before, after = _object_in(before, old), _object_in(after, new)
        if "properties" in before and "properties" in after:
            for name, part in before["properties"].items():
                other = after["properties"].get(name)
                if other is None or "const" in part:
                    continue
                count += 1
                if count > _MAX_FIELDS:
                    return
                yield (*keys, name), part, other
                if len(keys) < 6:
                    left.append((part, other, (*keys, name)))
        for word, mark in (("items", "[]"), ("additionalProperties", "{}")):
            if isinstance(before.get(word), dict) and isinstance(after.get(word), dict):
                left.append((before[word], after[word], (*keys, mark)))


def _object_in(schema: Schema, root: Schema) -> Schema:
    """Return a schema, or the only object or array among its alternatives."""
    schema = resolve(schema, root)
    parts = [resolve(part, root) for part in schema.get("anyOf", [schema])]
    found = [part for part in parts if part.get("type") in ("object", "array")]
    return found[0] if len(found) == 1 else {}


def _values_at(value: Any, keys: _Keys) -> list[Any]:
    """Return the values at a place of a payload; there may be several in a list or a mapping."""
    found = [value]
    for key in keys:
        inner: list[Any] = []
        for each in found:
            if key == "[]" and isinstance(each, list):
                inner += each
            elif isinstance(each, dict):
                inner += each.values() if key == "{}" else [each[key]] if key in each else []
        found = inner
    return found


def _replace(payload: Any, keys: _Keys, value: Any) -> None:
    """Put a value in the place of each that is there."""
    for owner in _values_at(payload, keys[:-1]):
        if isinstance(owner, dict) and keys[-1] in owner:
            owner[keys[-1]] = copy.deepcopy(value)


def _distinct(values: list[list[Any]]) -> list[Any]:
    found = {_encoded(value): value for each in values for value in each}
    return list(found.values())


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, order="deterministic")
    except (TypeError, ValueError):
        return repr(value).encode()


def _path(keys: _Keys) -> str:
    path = ""
    for key in keys:
        path = path + key if key in ("[]", "{}") else join_path(path, key)
    return path


def _asks_for(upcast: Upcast, payload: dict[str, Any], keys: _Keys) -> bool:
    """True if the upcasters look a field up by its name, so that it may have an influence for other values."""
    asked: set[str] = set()
    try:
        upcast(_watched(payload, asked))
    except Exception:
        return True
    return keys[-1] in asked


class _Watched(dict[str, Any]):
    """A dictionary that notes the names that are looked up."""

    asked: set[str]

    def __deepcopy__(self, memo: object) -> _Watched:
        return self

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        self.asked.add(name)
        return super().pop(name, *default)


def _watched(value: Any, asked: set[str]) -> Any:
    if isinstance(value, list):
        return [_watched(inner, asked) for inner in value]
    if not isinstance(value, dict):
        return value
    watched = _Watched({name: _watched(inner, asked) for name, inner in value.items()})
    watched.asked = asked
    return watched
