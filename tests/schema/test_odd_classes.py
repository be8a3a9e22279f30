"""Classes and changes that once ended a check with a traceback, or made it last."""

from __future__ import annotations

import enum
from typing import Any, Generic, TypeVar

import attrs
import msgspec
import pytest

from hangarlog import EventRegistry, EventSerializer
from hangarlog.schema.check import check, failing
from hangarlog.schema.compare import breaking, compare
from hangarlog.schema.describe import describe, describe_all
from hangarlog.schema.lockfile import SchemaLock
from hangarlog.schema.locking import make_lock

Part = TypeVar("Part")


class Empty(msgspec.Struct):
    pass


class Box(msgspec.Struct, Generic[Part]):
    held: Part


class Grows(msgspec.Struct, Generic[Part]):
    held: Part
    more: Grows[list[Part]] | None = None


class Self(msgspec.Struct):
    name: str
    children: list[Self] = []
    parent: Self | None = None


def one(kind: Any) -> dict[str, Any]:
    return describe("Event", msgspec.defstruct("Event", [("x", kind)]))


def test_an_empty_nested_class_that_becomes_a_mapping_is_compared() -> None:
    for kind in (dict[str, int], dict[int, str], dict[str, Any]):
        assert breaking(compare(one(Empty), one(kind))) == []


def test_a_class_that_msgspec_cannot_inspect_is_a_finding() -> None:
    """As are an attrs class whose factory takes the object, and a generic class that has no end."""
    taking = attrs.make_class(
        "Taking", {"a": attrs.field(type=int, default=attrs.Factory(lambda it: 1, takes_self=True))}
    )
    described = describe_all({"Taking": taking, "Grows": Grows[int], "Empty": Empty})
    assert [type(each).__name__ for each in described.values()] == [
        "EventSerializationError",
        "EventSerializationError",
        "dict",
    ]
    serializer = EventSerializer(registry=EventRegistry())
    serializer.registry.types["Taking"] = taking
    (finding,) = failing(check(serializer, SchemaLock()))
    assert (finding.event_type, finding.kind) == ("Taking", "unreadable")
    assert "takes_self=True" in finding.message


def test_a_generic_class_is_another_class_for_each_parameter() -> None:
    schema = describe("Event", msgspec.defstruct("Event", [("a", Box[int]), ("b", Box[str])]))
    first, second = (schema["$defs"][part["$ref"].rsplit("/", 1)[-1]] for part in schema["properties"].values())
    assert (first["properties"]["held"]["type"], second["properties"]["held"]["type"]) == ("integer", "string")
    assert breaking(compare(one(Box[int]), one(Box[str])))
    assert compare(one(Box[int]), one(Box[int])) == []


def test_a_class_that_refers_to_itself_has_a_definition_of_its_own() -> None:
    assert compare(describe("Self", Self), describe("Self", Self)) == []
    assert list(describe("Self", Self)["$defs"]) == ["Self"]


@pytest.mark.parametrize("length", [100, 500])
def test_hundreds_of_classes_in_a_row_are_described(length: int) -> None:
    """Deeper than Python's usual limit of recursion."""
    inner: Any = int
    for number in range(length):
        inner = msgspec.defstruct(f"Level{number}", [("inner", inner | None)])
    registry = EventRegistry()
    registry.event(inner)
    serializer = EventSerializer(registry=registry)
    assert check(serializer, make_lock(serializer, SchemaLock())) == []


def test_many_values_of_an_enum_are_counted_in_messages() -> None:
    huge, other = (enum.Enum("Huge", {f"M{at}": at for at in range(first, first + 5000)}) for first in (0, 4000))
    text = " ".join(change.what for change in compare(one(huge), one(other)))
    assert "3980 more" in text
    assert len(text) < 500


def linked(count: int, leaf: Any) -> Any:
    """A class that reaches many classes, each of which refers to the next one in six ways, also in unions by tag."""
    tagged = [msgspec.defstruct(f"Leaf{at}", [("a", leaf)], tag=True) for at in range(6)]
    inner: Any = tagged[0]
    for number in range(count):
        union = msgspec.defstruct(f"Node{number}", [("inner", inner)], tag=True)
        kinds = [inner, inner | None, list[inner], dict[str, inner], union | inner, union | tagged[1] | tagged[2]]
        inner = msgspec.defstruct(f"Next{number}", [(f"f{at}", kind) for at, kind in enumerate(kinds)], tag=True)
    return inner


def test_a_pair_of_definitions_is_compared_once_however_many_paths_lead_to_it() -> None:
    """Of these, more than 6 ** 40 do."""
    before, after = (describe("Event", linked(40, leaf)) for leaf in (int, str))
    assert compare(before, describe("Event", linked(40, int))) == []
    changes = compare(before, after)
    assert {change.what for change in breaking(changes)} == {"was integer, is text"}
    assert len(changes) <= 1000


def test_a_default_that_no_lock_may_hold_is_left_out() -> None:
    """A lock with it could be written and not be read."""
    fields = [("a", int, 1 << 70), ("b", dict[str, int], msgspec.field(default_factory=lambda: {"x": -(1 << 70)}))]
    described = describe("Event", msgspec.defstruct("Event", fields))
    assert "1180591620717411303424" not in str(described)
