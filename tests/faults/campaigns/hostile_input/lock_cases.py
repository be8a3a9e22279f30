"""Schema locks of somebody who wishes ill: each is refused with its path, or is checked in bounded time and memory."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hangarlog import EventRegistry, EventSerializer, SchemaLockError, UpcasterChain
from hangarlog.schema.check import check
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.schema.locking import make_lock


class Node(msgspec.Struct):
    name: str
    left: Node | None = None
    right: Node | None = None


class Address(msgspec.Struct, tag=True):
    street: str
    code: Annotated[str, Meta(pattern="^[0-9]+$", max_length=9)] = "1"


class Place(msgspec.Struct, tag=True):
    at: tuple[float, float]


class Ordered(msgspec.Struct):
    tree: Node
    to: Address | Place
    amounts: dict[str, Annotated[int, Meta(ge=0, le=100, multiple_of=5)]]
    notes: list[str | int | None] = []
    blob: bytes = b""


def application() -> EventSerializer:
    """Events at their third version, whose former ones only a lock knows."""
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(Ordered, name="Ordered", version=3)
    registry.event(Node, name="Grown")
    chain.upcaster("Ordered", 1)(dict)
    chain.upcaster("Ordered", 2)(dict)
    return EventSerializer(chain, registry=registry)


def honest() -> dict[str, Any]:
    """A lock that the application could have made."""
    lock = json.loads(make_lock(application(), SchemaLock()).encode())
    schemas = lock["events"]["Ordered"]["schemas"]
    schemas["2"] = copy.deepcopy(schemas["3"])
    del schemas["2"]["properties"]["notes"]
    schemas["1"] = copy.deepcopy(schemas["2"])
    schemas["1"]["properties"]["to"]["anyOf"].pop()
    assert isinstance(lock, dict)
    return lock


def answer(path: Path) -> int:
    """How much a check has to say of a lock. Raises `SchemaLockError` where it is refused."""
    lock = read_lock(str(path))
    said = len([str(msgspec.to_builtins(finding)) for finding in check(application(), lock)])
    made = make_lock(application(), lock)
    write_lock(str(path), made)
    assert read_lock(str(path)).encode() == made.encode()
    return said


def of(schema: dict[str, Any], **definitions: Any) -> dict[str, Any]:
    """A lock with a former shape of one field."""
    whole = {"type": "object", "properties": {"a": schema}, "required": ["a"], "$defs": definitions}
    return {"hangarlog_schema": 1, "events": {"Ordered": {"version": 2, "schemas": {"1": whole, "2": whole}}}}


def doubling(levels: int) -> dict[str, Any]:
    """A shape whose values hold 2 ** levels of them."""
    made: dict[str, Any] = {"D0": {"type": "string"}}
    for level in range(1, levels):
        both = {"$ref": f"#/$defs/D{level - 1}"}
        made[f"D{level}"] = {"type": "object", "properties": {"l": both, "r": both}, "required": ["l", "r"]}
    return of({"$ref": f"#/$defs/D{levels - 1}"}, **made)


def deep(levels: int, of_what: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    default: Any = 1
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
        default = [default]
    return of(schema if of_what == "types" else {"type": "array", "items": {}, "default": default})


def alike(count: int, levels: int) -> dict[str, Any]:
    """Unions of many objects that look the same, within each other."""
    made: dict[str, Any] = {"D0": {"type": "string"}}
    for level in range(1, levels):
        one = {"type": "object", "properties": {"x": {"$ref": f"#/$defs/D{level - 1}"}}, "required": ["x"]}
        made[f"D{level}"] = {"anyOf": [one] * count}
    return of({"$ref": f"#/$defs/D{levels - 1}"}, **made)


def by_hand() -> Iterator[tuple[str, dict[str, Any]]]:
    for pattern in ("(x+x+)+y", "(.*)*$" * 20, "(", "[[", "a{99999999999}", "(" * 5000, "x" * 100_000, "\\"):
        yield f"pattern {pattern[:20]}", of({"type": "string", "pattern": pattern})
    for levels in (20, 60, 300):
        yield f"doubling {levels}", doubling(levels)
    for levels in (10, 40, 400):
        yield f"types {levels} deep", deep(levels, "types")
        yield f"a default {levels} deep", deep(levels, "default")
    for count, levels in ((30, 30), (1000, 10), (20_000, 2)):
        yield f"{count} alternatives, {levels} deep", alike(count, levels)
    itself = {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "string"}]}
    yield "an alternative that is itself", of({"$ref": "#/$defs/A"}, A=itself)
    yield (
        "alternatives that are each other",
        of({"$ref": "#/$defs/A"}, A={"anyOf": [{"$ref": "#/$defs/B"}, {}]}, B={"anyOf": [{"$ref": "#/$defs/A"}, {}]}),
    )
    yield "what holds itself for ever", of({"$ref": "#"})
    many = {f"n{number}": {"type": "string"} for number in range(20_000)}
    yield "20,000 fields", of({"type": "object", "properties": many, "required": [*many]})
    yield "20,000 values", of({"enum": [*range(20_000)]})
    locked = of({})["events"]["Ordered"]
    yield "5,000 types", {"hangarlog_schema": 1, "events": {f"T{number}": locked for number in range(5_000)}}
    for word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        for value in (10**400, -(10**400), 1e308, -1e308, 5e-324, 2**63, 2**64, 0, -1):
            for kind in ("integer", "number"):
                yield (
                    f"{kind}, {word} {value:.3g}"[:60] if abs(value) < 1e300 else f"{kind}, {word} huge",
                    of({"type": kind, word: value}),
                )
    for word in ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"):
        for number in (0, 10_000, 10**12, 2**63, 10**400):
            sized = [{"type": "string"}, {"type": "string", "contentEncoding": "base64"}]
            sized += [{"type": "array", "items": {}}, {"type": "object", "additionalProperties": {}}]
            for schema in sized:
                yield (
                    f"{schema}, {word} {number:.3g}" if number < 1e300 else f"{word} huge",
                    of({**schema, word: number}),
                )
    for text in ("x\nimport os", "\x1b]52;c;AA\x07", "\u202e", "", "x" * 100_000):
        yield f"a class {text[:9]!r}", of({"x-python": text})
        yield f"a format {text[:9]!r}", of({"type": "string", "format": text})
        yield f"a field {text[:9]!r}", of({"type": "object", "properties": {text: {}}, "required": [text]})


def mutated(rng: random.Random, lock: dict[str, Any]) -> dict[str, Any]:
    """A lock in which some parts stand in the place of others, or are something else."""
    lock = copy.deepcopy(lock)
    places: list[tuple[Any, Any]] = []
    left: list[Any] = [lock["events"]]
    while left:
        part = left.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        places += [(part, key) for key in keys]
        left += [part[key] for key in keys]
    # fmt: off
    wild: list[Any] = [
        None, True, 0, -1, 1.5, 10**400, "", "x", [], {}, [{}], {"type": "string"}, {"$ref": "#"}, {"anyOf": [{}, {}]},
        {"enum": [1, "1", None]}, {"const": 1}, {"type": "object", "additionalProperties": {"$ref": "#"}}, 2**63, 1e300,
        {"type": "array", "prefixItems": [{}], "items": False, "minItems": 5}, "^(a+)+$", {"type": "null"},
        {"type": "integer", "minimum": 5, "maximum": 1}, {"type": "string", "minLength": 5, "maxLength": 1},
    ]
    # fmt: on
    for _ in range(rng.choice((1, 1, 2, 5))):
        part, key = rng.choice(places)
        kind = rng.randrange(4)
        other, at = rng.choice(places)
        if kind == 0 and isinstance(part, dict):
            part.pop(key, None)
        elif kind == 1 and key in part if isinstance(part, dict) else False:
            part[str(at)] = part.pop(key)
        elif isinstance(part, dict) or key < len(part):
            there = other.get(at) if isinstance(other, dict) else other[at] if at < len(other) else None
            part[key] = copy.deepcopy(there) if kind == 2 else rng.choice(wild)
    return lock


def tries(rng: random.Random, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is made by hand, then as many that are made by chance."""
    yield from by_hand()
    lock = honest()
    for number in range(count):
        yield f"mutation {number}", mutated(rng, lock)


def refused(path: Path, lock: dict[str, Any]) -> bool:
    """Whether a lock is refused; everything else that could come of it is an error of the check."""
    path.write_text(json.dumps(lock))
    try:
        answer(path)
    except SchemaLockError:
        return True
    return False
