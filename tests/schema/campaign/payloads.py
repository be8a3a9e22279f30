"""Payloads of a class, as JSON values: every alternative of every part, its limits, and what is next to them."""

from __future__ import annotations

import random
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from types import ModuleType
from typing import Any

from .worlds import ROOT, Type, World

_MAX_DEPTH = 5
_TEXTS: dict[str, Sequence[str]] = {
    "datetime": ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678901+02:00", "2026-01-02T03:04:05", "0001-01-01T00:00"),
    "aware": ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678901+02:00"),
    "naive": ("2026-01-02T03:04:05", "9999-12-31T23:59:59.999999"),
    "time": ("03:04:05", "23:59:59.999999Z", "00:00:00+01:30"),
    "date": ("2026-01-02", "2024-02-29", "0001-01-01", "1999-01-01", "1999-01-02", "1999-01-03"),
    "timedelta": ("P1D", "PT0.5S", "-P2DT3H"),
    "UUID": (
        "00000000-0000-4000-8000-000000000007",
        "0a524171-703c-4acb-a0e8-3a5d07c6bdf1",
        *(f"{at}a524171-703c-4acb-a0e8-3a5d07c6bdf1" for at in range(1, 6)),
    ),
    "Decimal": ("0", "1.50", "-12345678901234567890.1"),
}
WORDS = ("", "a", "b", "ab", "abc", "text", "red", "0", "1", "3.5", "true", "null", "é 🙂", "x" * 40, "ba")
_INTEGERS = (
    0,
    1,
    -1,
    2,
    7,
    1 << 31,
    (1 << 53) + 1,
    -(1 << 53) - 1,
    (1 << 63) - 1,
    -(1 << 63),
    3 << 60,
    -(3 << 60),
    (1 << 64) - 1,
)
_FLOATS = (-1200.0, 0.0, 0.5, 1.0, -1.5, 2.0, 1e9, 1e300, 5e-324, -0.0)
_ANYTHING = (None, 0, "a", [1, "a", None], {"a": {"b": 1}}, True, 1.5, [], {}, 1 << 60, {"type": "a"})
_WITHIN: dict[str, Callable[[Any, Any], bool]] = {
    "ge": lambda value, limit: value >= limit,
    "gt": lambda value, limit: value > limit,
    "le": lambda value, limit: value <= limit,
    "lt": lambda value, limit: value < limit,
    "multiple_of": lambda value, limit: value % limit == 0,
    "min_length": lambda value, limit: len(value) >= limit,
    "max_length": lambda value, limit: len(value) <= limit,
    "pattern": lambda value, limit: re.search(limit, value) is not None,
}


class NoPayloadError(Exception):
    """A type has no value that could be made."""


class Hints:
    """Values that some classes tell apart: numbers, texts and lengths next to every limit, enum and literal."""

    def __init__(self, worlds: Collection[World] = ()) -> None:
        self.numbers: dict[Any, None] = {}
        self.texts: dict[str, None] = {}
        for world in worlds:
            for kind in all_types(world):
                for name, limit in kind.limits:
                    if name != "pattern":
                        self.numbers.update(dict.fromkeys((limit, limit - 1, limit + 1)))
                    if name.endswith("length"):
                        self.texts.update(dict.fromkeys("a" * max(0, limit + at) for at in (-1, 0, 1)))
                values = kind.args if kind.kind == "literal" else ()
                values += tuple(value for _, value in world.enums.get(kind.args[0], ())) if kind.kind == "enum" else ()
                for value in values:
                    if isinstance(value, str):
                        self.texts[value] = None
                    elif isinstance(value, int):
                        self.numbers.update(dict.fromkeys((value, value + 1)))


def all_types(world: World) -> Iterator[Type]:
    """Every type in the classes of a world, with those in it."""
    waiting = [each.type for made in world.classes.values() for each in made.fields]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting += [part for part in kind.args if isinstance(part, Type)]


def has_values(world: World) -> bool:
    """True if each class has a value: none holds itself without an end."""
    payloads = Payloads(world, None, random.Random(0), Hints())
    try:
        for name in world.classes:
            payloads.of(Type("ref", (name,)))
    except (NoPayloadError, RecursionError):
        return False
    return True


class Payloads:
    """Makes payloads of a world. At each place every option is taken in turn, then random ones."""

    def __init__(self, world: World, module: ModuleType | None, choose: random.Random, hints: Hints) -> None:
        self.world, self.module, self._random, self._hints = world, module, choose, hints
        self._turns: Counter[str] = Counter()
        self._waiting: set[str] = set()

    def some(self, least: int, most: int) -> Iterator[dict[str, Any]]:
        """Payloads of the event, up to `most`, until every option was taken at every place."""
        for number in range(most):
            if number >= least and not self._waiting:
                return
            try:
                yield self._object(ROOT, "", 0)
            except (NoPayloadError, RecursionError):
                continue

    def of(self, kind: Type, path: str = "", depth: int = 0) -> Any:
        """A value of a type. Raises `NoPayloadError`."""
        name = kind.kind
        if name == "enum":
            return self._choose(path, [value for _, value in self.world.enums[kind.args[0]]])
        if name == "literal":
            return self._choose(path, kind.args)
        if name == "union":
            parts = kind.args
            if depth > _MAX_DEPTH:
                parts = tuple(part for part in parts if part.kind == "None") or parts
            at = self._choose(path, range(len(parts)))
            return self.of(parts[at], f"{path}|{parts[at].kind}{parts[at].args[:1]}", depth)
        if name == "ref":
            return self._object(kind.args[0], path, depth + 1)
        if name == "tuple":
            return [self.of(part, f"{path}[{at}]", depth + 1) for at, part in enumerate(kind.args)]
        if name in ("list", "many", "set", "frozenset"):
            return self._array(kind, path, depth)
        if name == "dict":
            return self._mapping(kind, path, depth)
        return self._choose(path, self._scalars(kind))

    def _choose(self, path: str, options: Sequence[Any]) -> Any:
        if not options:
            raise NoPayloadError(path)
        turn = self._turns[path]
        self._turns[path] += 1
        if turn + 1 < len(options):
            self._waiting.add(path)
        else:
            self._waiting.discard(path)
        return options[turn] if turn < len(options) else self._random.choice(options)

    def _scalars(self, kind: Type) -> Sequence[Any]:
        name = kind.kind
        values: Sequence[Any]
        if name == "bool":
            values = (False, True)
        elif name == "None":
            values = (None,)
        elif name == "Any":
            values = _ANYTHING
        elif name == "int":
            values = dict.fromkeys([*(each for each in self._hints.numbers if type(each) is int), *_INTEGERS])
        elif name == "float":
            values = list(dict.fromkeys([*(float(each) for each in self._hints.numbers), *_FLOATS]))
            values += [each + 0.5 for each in values if abs(each) < 10_000]
        elif name == "str":
            values = list(dict.fromkeys([*self._hints.texts, *WORDS, *(each[0] for each in _TEXTS.values())]))
        elif name == "bytes":
            raw = [b"", b"\0\xff", b"hangarlog", *(each.encode() for each in self._hints.texts)]
            raw = [each for each in raw if all(_WITHIN[word](each, limit) for word, limit in kind.limits)]
            return [b64encode(each).decode() for each in raw]
        else:
            values = _TEXTS[name]
        return [each for each in values if all(_WITHIN[word](each, limit) for word, limit in kind.limits)]

    def _size(self, kind: Type, path: str, depth: int) -> int:
        limits = dict(kind.limits)
        least = limits.get("min_length", 0)
        if depth > _MAX_DEPTH:
            return least
        most = max(least, min(limits.get("max_length", least + 6), least + 6))
        sizes = {least, min(least + 1, most), min(least + 2, most), limits.get("max_length", least)}
        sizes |= {each for each in self._hints.numbers if isinstance(each, int) and least <= each <= most}
        return int(self._choose(f"{path} size", sorted(sizes)))

    def _array(self, kind: Type, path: str, depth: int) -> list[Any]:
        size = self._size(kind, path, depth)
        made: list[Any] = []
        distinct = kind.kind in ("set", "frozenset")
        for _ in range(size * (10 if distinct else 1)):
            item = self.of(kind.args[0], f"{path}[]", depth + 1)
            if len(made) < size and not (distinct and item in made):
                made.append(item)
        if len(made) < dict(kind.limits).get("min_length", 0):
            raise NoPayloadError(path)
        return made

    def _mapping(self, kind: Type, path: str, depth: int) -> dict[str, Any]:
        size = self._size(kind, path, depth)
        made: dict[str, Any] = {}
        for _ in range(size * 10):
            if len(made) == size:
                break
            key = self.of(kind.args[0], f"{path} key", depth + 1)
            made[key if isinstance(key, str) else str(key)] = self.of(kind.args[1], f"{path}{{}}", depth + 1)
        if len(made) < dict(kind.limits).get("min_length", 0):
            raise NoPayloadError(path)
        return made

    def _object(self, name: str, path: str, depth: int) -> Any:
        made, cls = self.world.classes[name], getattr(self.module, name, None)
        names = getattr(cls, "__struct_encode_fields__", None) or tuple(each.name for each in made.fields)
        by_name = {each.name: each for each in made.fields}
        order = getattr(cls, "__struct_fields__", tuple(by_name))
        config = getattr(cls, "__struct_config__", None)
        tagged = config is not None and config.tag is not None
        if config is not None and config.array_like:
            return self._row([by_name[each] for each in order], [config.tag] if tagged else [], path, depth)
        found: dict[str, Any] = {config.tag_field: config.tag} if config is not None and tagged else {}
        for attribute, wire in zip(order, names, strict=True):
            each = by_name[attribute]
            if each.default is None or (depth <= _MAX_DEPTH and self._choose(f"{path}.{wire}?", (False, True))):
                found[wire] = self.of(each.type, f"{path}.{wire}", depth)
        return found

    def _row(self, fields: list[Any], first: list[Any], path: str, depth: int) -> list[Any]:
        needed = max((at for at, each in enumerate(fields, 1) if each.default is None), default=0)
        count = self._choose(f"{path} length", range(needed, len(fields) + 1)) if depth <= _MAX_DEPTH else needed
        return [*first, *(self.of(each.type, f"{path}[{at}]", depth) for at, each in enumerate(fields[:count]))]
