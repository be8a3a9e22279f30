"""Sample payloads generated from a wire shape."""

from __future__ import annotations

import math
import random
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from hangarlog.schema.describe import Schema
from hangarlog.schema.shape import LENGTHS, all_limits, has_always, is_any, resolve

_Option = TypeVar("_Option")
_MAX_DEPTH = 4  # Below this depth, recursive schemas end as soon as they can.
_MIN_SAMPLES, _MAX_SAMPLES = 10, 500
"""The samples of each schema, and the most further ones while some alternative has not occurred."""

_MAX_LENGTH = 10_000  # The longest string or array that is generated, if a schema requires it.
_MAX_SIZE = 200  # The largest array or mapping that is made because another shape has a limit there.
_MAX_EDGES = 30
_MAX_VALUES, _ALL_VALUES = 20_000, 200_000  # Values in one sample, and in all samples of a schema.


class CannotSampleError(Exception):
    """A schema has a part for which no value can be generated."""


class Chooser(Protocol):
    """Chooses the value at each place in a payload."""

    def choose(self, path: str, options: Sequence[_Option]) -> _Option: ...  # noqa: D102
    def integer(self, path: str, schema: Schema) -> int: ...  # noqa: D102
    def number(self, path: str, schema: Schema) -> float: ...  # noqa: D102
    def text(self, path: str, schema: Schema) -> str: ...  # noqa: D102


class Edges(NamedTuple):
    """Numbers and lengths that another shape tells apart."""

    numbers: Sequence[float] = ()
    lengths: Sequence[int] = ()


_NO_EDGES = Edges()


def edges_of(schema: Schema | None) -> Edges:
    """Return the limits of a shape, and what is next to them."""
    numbers: dict[float, None] = {}
    lengths: dict[int, None] = {}
    for word, limit in all_limits(schema or {}):
        near = dict.fromkeys((limit - 1, limit, limit + 1))
        if word in LENGTHS:
            lengths.update(near)
        else:
            numbers.update(near)
    return Edges(list(numbers)[:_MAX_EDGES], [each for each in lengths if 0 <= each <= _MAX_LENGTH][:_MAX_EDGES])


def samples(
    schema: Schema, patterns: Collection[str] | None = None, edges: Edges = _NO_EDGES
) -> Iterator[dict[str, Any]]:
    """Yield payloads that cover every alternative, every enum value, and the presence and absence of every field.

    The payloads are the same every time. Numbers and lengths in `edges` occur where the schema takes them. Only
    patterns in `patterns` are run, because foreign ones may take exponential time. With None all are run; the schema
    must then come from a class, not from a lock.

    Raises:
        CannotSampleError: the schema has a part for which no value can be generated.
    """
    source = _CoveringChooser(patterns, edges)
    values = 0
    try:
        for number in range(_MIN_SAMPLES + _MAX_SAMPLES):
            if (number >= _MIN_SAMPLES and source.covered) or values > _ALL_VALUES:
                return
            one = _Sample(schema, source, edges.lengths)
            yield one.of(schema, "", 0)
            values += one.values
    except RecursionError:
        raise CannotSampleError("it contains itself without an end") from None


def sample(schema: Schema, source: Chooser) -> Any:
    """Return one value of a schema. Raises `CannotSampleError`."""
    return _Sample(schema, source).of(schema, "", 0)


class _Sample:
    def __init__(self, root: Schema, source: Chooser, lengths: Sequence[int] = ()) -> None:
        self._root, self.source, self._lengths = root, source, lengths
        self.values = 0

    def of(self, schema: Schema, path: str, depth: int) -> Any:
        schema = resolve(schema, self._root)
        self.values += 1 + schema.get("minLength", 0) // 100
        if self.values > _MAX_VALUES:
            raise CannotSampleError(f"it holds more than {_MAX_VALUES} values, the limit for samples")
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.source.choose(path, schema["enum"])
        if "anyOf" in schema:
            parts = schema["anyOf"]
            if depth > _MAX_DEPTH:
                parts = [part for part in parts if "$ref" not in part] or parts
            at = self.source.choose(path, range(len(parts)))
            return self.of(parts[at], f"{path}|{at}", depth)
        if "x-python" in schema:
            raise CannotSampleError(f"{path or 'the payload'} is a {schema['x-python']}, which only a hook decodes")
        if is_any(schema):
            return self.source.choose(path, _ANYTHING)
        return _MAKERS[schema["type"]](self, schema, path, depth)

    def object(self, schema: Schema, path: str, depth: int) -> dict[str, Any]:
        if "properties" not in schema:
            return self._mapping(schema, path, depth)
        made = {}
        for name, part in schema["properties"].items():
            place = f"{path}.{name}"
            present = has_always(schema, name) or (
                depth <= _MAX_DEPTH and self.source.choose(f"{place}?", (False, True))
            )
            if present:
                made[name] = self.of(part, place, depth + 1)
        for name, part in schema.get("x-former", {}).items():
            if self.source.choose(f"{path}.{name}?", (False, True)):
                made[name] = self.of(part, f"{path}.{name}", depth + 1)
        return made

    def _mapping(self, schema: Schema, path: str, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        size = self._choose_size(path, schema.get("minProperties", 0), schema.get("maxProperties"), depth)
        for _ in range(size * 10):
            if len(made) == size:
                break
            key = self.of(schema.get("x-keys", {"type": "string"}), f"{path} key", depth + 1)
            if key is None or isinstance(key, bool):
                continue  # No key is read as one.
            made[key if isinstance(key, str) else msgspec.json.encode(key).decode()] = self.of(
                schema["additionalProperties"], f"{path}{{}}", depth + 1
            )
        if len(made) < schema.get("minProperties", 0):
            raise CannotSampleError(f"{path} is a mapping that needs more keys than were found")
        return made

    def array(self, schema: Schema, path: str, depth: int) -> list[Any]:
        fixed = schema.get("prefixItems", [])
        least = schema.get("minItems", 0)
        if "prefixItems" in schema:
            least = max([least, *(at for at, part in enumerate(fixed, 1) if part.get("x-written"))])
            count = self.source.choose(f"{path} length", range(min(least, len(fixed)), len(fixed) + 1))
            return [self.of(part, f"{path}[{at}]", depth + 1) for at, part in enumerate(fixed[:count])]
        made: list[Any] = []
        unique = schema.get("uniqueItems")
        for _ in range(self._choose_size(path, least, schema.get("maxItems"), depth) * (10 if unique else 1)):
            item = self.of(schema["items"], f"{path}[]", depth + 1)
            if not (unique and (item in made or (isinstance(item, (list, dict)) and is_any(schema["items"])))):
                made.append(item)
        return made[: schema.get("maxItems")]

    def _choose_size(self, path: str, least: int, most: int | None, depth: int) -> int:
        if least > _MAX_LENGTH:
            raise CannotSampleError(f"{path} holds {least} values or more")
        if depth > _MAX_DEPTH:
            return least
        highest = least + 2 if most is None else min(most, least + 2)
        sizes: Sequence[int] = range(least, highest + 1)
        if self._lengths:
            more = [size for size in self._lengths if highest < size <= (size if most is None else most)]
            sizes = [*sizes, *(size for size in more if size <= _MAX_SIZE)]
        return self.source.choose(f"{path} size", sizes)


_MAKERS: dict[str, Callable[[_Sample, Schema, str, int], Any]] = {
    "object": _Sample.object,
    "array": _Sample.array,
    "string": lambda made, schema, path, depth: made.source.text(path, schema),
    "integer": lambda made, schema, path, depth: made.source.integer(path, schema),
    "number": lambda made, schema, path, depth: made.source.number(path, schema),
    "boolean": lambda made, schema, path, depth: made.source.choose(path, (False, True)),
    "null": lambda made, schema, path, depth: None,
}

_ANYTHING = (None, 1, "text", [1, "a"], {"a": {"b": 1}}, True, 1.5)

TEXTS: dict[str, Sequence[str]] = {
    "date-time": ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678901+02:00", "2026-01-02T03:04:05"),
    "date-time-aware": ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678901+02:00"),
    "date-time-naive": ("2026-01-02T03:04:05", "2026-12-31T23:59:59.999999"),
    "time": ("03:04:05", "23:59:59.999999Z"),
    "time-aware": ("03:04:05Z",),
    "time-naive": ("03:04:05",),
    "date": ("2026-01-02", "2024-02-29", *(f"1999-01-{day:02}" for day in range(1, 11))),
    "duration": ("P1D", "PT0.5S", "-P2DT3H"),
    "uuid": (
        "00000000-0000-4000-8000-000000000007",
        *(f"{digit:x}a524171-703c-4acb-a0e8-3a5d07c6bdf1" for digit in range(12)),
    ),
    "decimal": ("0", "1.50", "-12345678901234567890.1"),
    "base64": ("", "AP8=", "aGFuZ2FybG9n"),
}
"""Sample strings of each format."""

_WORDS = ("text", "a", "", "0", "A-1", "é 🙂", "one two", "3.5", "a@b.example", "https://a.example/b", "x" * 40)
_HEX = "0a524171703c4acba0e83a5d07c6bdf1"


class _CoveringChooser:
    """Takes every option at a place in turn, then random ones."""

    def __init__(self, patterns: Collection[str] | None, edges: Edges) -> None:
        self._patterns, self._edges = patterns, edges
        self._turns: Counter[str] = Counter()
        self._random = random.Random(0)
        self._uncovered: set[str] = set()

    @property
    def covered(self) -> bool:
        """True if every option was taken at every place reached."""
        return not self._uncovered

    def choose(self, path: str, options: Sequence[_Option]) -> _Option:
        turn = self._turns[path]
        self._turns[path] += 1
        if turn + 1 < len(options):
            self._uncovered.add(path)
        else:
            self._uncovered.discard(path)
        return options[turn] if turn < len(options) else self._random.choice(options)

    def integer(self, path: str, schema: Schema) -> int:
        return int(self.choose(path, _numbers(schema, (1, 0, -1, 7, 1 << 31, -(1 << 53)), 1, self._edges)))

    def number(self, path: str, schema: Schema) -> float:
        return float(self.choose(path, _numbers(schema, (0.5, 0.0, 1.0, -1.5, 1e9), 0.5, self._edges)))

    def text(self, path: str, schema: Schema) -> str:
        return self.choose(path, _texts(path, schema, self._patterns, self._edges.lengths))


def _texts(path: str, schema: Schema, patterns: Collection[str] | None, lengths: Sequence[int] = ()) -> Sequence[str]:
    kind = schema.get("format") or schema.get("contentEncoding")
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    words: Sequence[str] = (
        TEXTS[kind] if kind in TEXTS else (*_WORDS, _HEX, *(text for of in TEXTS.values() for text in of))
    )
    pattern = schema.get("pattern")
    if least > _MAX_LENGTH:
        raise CannotSampleError(f"{path} is text of at least {least} characters")
    if kind == "base64":
        words = [
            b64encode(bytes(size)).decode()
            for size in dict.fromkeys([least, least + 1, min(most or least + 2, _MAX_LENGTH), *lengths])
            if least <= size <= (size if most is None else most)
        ]
    elif kind is None and pattern is None:
        words = [word if len(word) >= least else (word or "a") * least for word in _WORDS]
        words = [word[:most] for word in words]
        words += ["a" * size for size in lengths if least <= size <= (size if most is None else most)]
    elif pattern is not None and patterns is not None and pattern not in patterns:
        raise CannotSampleError(f"{path} is text that matches {pattern!r}; a pattern that no class has is not run")
    elif pattern is not None:
        words = [word for word in words if re.search(pattern, word) and least <= len(word) <= (most or len(word))]
    if not words:
        raise CannotSampleError(f"{path} is text that matches {pattern}; no sample matches it")
    return words


def _numbers(schema: Schema, usual: Sequence[float], step: float, edges: Edges = _NO_EDGES) -> list[float]:
    """Return some numbers within a schema's bounds."""
    step = schema.get("multipleOf", step)
    least, most = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    ends = [end for end in (least, most) if end is not None]
    ends += [above + step] if above is not None else []
    ends += [below - step] if below is not None else []
    if schema["type"] == "number":  # A step beside a large number is none.
        ends += [math.nextafter(above, math.inf)] if above is not None else []
        ends += [math.nextafter(below, -math.inf)] if below is not None else []
    if above is not None and below is not None:
        ends.append((above + below) / 2 if isinstance(step, float) else (above + below) // 2)

    def fits(value: float) -> bool:
        return (
            (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
            and ("multipleOf" not in schema or value % step == 0)
        )

    more = [float(each) if schema["type"] == "number" else each for each in edges.numbers]
    few = dict.fromkeys([*usual, *ends, *(end * step for end in range(-3, 4))])
    found = [*islice(filter(fits, few), 20), *(each for each in more if each not in few and fits(each))]
    if not found:
        raise CannotSampleError(f"no sample number fits {schema}")
    return found
