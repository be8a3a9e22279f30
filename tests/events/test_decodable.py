"""No class of an application makes msgspec crash the process, whether it takes the class or refuses it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import dataclasses, enum, gc, itertools
from typing import *
import msgspec
from msgspec import Meta, Struct
from hangarlog import EventRegistry, EventSerializationError, EventSerializer
from hangarlog.events.decodable import decoder_of
from hangarlog.schema.check import check
from hangarlog.schema.lockfile import SchemaLock

Small, Code = Annotated[int, Meta(ge=0, lt=9)], Annotated[str, Meta(pattern="^a")]
Odd = enum.Enum("Odd", {"A": 1, "B": "b"})  # msgspec refuses it.
Item = TypeVar("Item")

def refused(kind):
    try:
        decoder_of(kind)
    except TypeError as error:
        return str(error)

"""


def run(program: str) -> str:
    """Run a program with memory checks, and collect what it leaves."""
    done = subprocess.run(
        [sys.executable, "-c", f"{BEGIN}{textwrap.dedent(program)}\nfor _ in range(3): gc.collect()"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


@pytest.mark.parametrize(
    "kind",
    [
        "tuple[()] | Small",
        "Union[tuple[int, str], Annotated[str, Meta(max_length=5)], None]",
        "Optional[Union[NewType('Two', Tuple[int, int]), Annotated[float, Meta(gt=0)]]]",
        "list[dict[str, tuple[int, int] | Small]]",
    ],
)
def test_a_union_of_a_tuple_of_fixed_length_and_a_type_with_limits_is_refused(kind: str) -> None:
    """msgspec takes the limits for the tuple's length."""
    program = f"""
    class Moved(Struct):
        to: {kind}
    class Holder(Struct):
        moves: list[Moved]
    for event_class in (Moved, Holder):
        try:
            EventRegistry().event(event_class)
        except EventSerializationError as error:
            print(error)
        registry = EventRegistry()
        registry.types["Moved"] = event_class
        print([found.kind for found in check(EventSerializer(registry=registry), SchemaLock())])
    """
    said = run(program)
    assert said.count("tuple of fixed length") == 2
    assert said.count("['unreadable']") == 2


def test_other_unions_with_tuples_and_limits_are_taken() -> None:
    """Neither alone is wrong."""
    program = """
    class Moved(Struct):
        one: tuple[int, ...] | Small
        two: tuple[int, str] | str | None
        three: tuple[Small, Code] | None
        four: list[int] | Small
        five: Tuple | Small
    print(decoder_of(Moved).decode('{"one":3,"two":[1,"a"],"three":[2,"ab"],"four":[1],"five":[]}'))
    """
    assert run(program) == "Moved(one=3, two=(1, 'a'), three=(2, 'ab'), four=[1], five=())\n"


def test_a_class_with_a_union_of_a_collection_and_text_with_a_pattern_may_go() -> None:
    """msgspec frees the pattern as if it were a part of the type."""
    program = """
    def use(kind):
        made = msgspec.defstruct("Made", [("to", kind)])
        registry = EventRegistry()
        registry.event(made)
        print(EventSerializer(registry=registry).deserialize("Made", '{"_version":1,"to":"ab"}').to)
    for kind in (list[int] | Code, dict[str, int] | Code | None, set[int] | Code, tuple[int, ...] | Code):
        use(kind)
        gc.collect()
    for _ in range(20):
        assert refused(msgspec.defstruct("Made", [("to", list[int] | Code), ("bad", Odd)]))
        gc.collect()
    """
    assert run(program) == "ab\n" * 4


def test_a_class_that_holds_a_refused_one_is_refused_also_if_the_refused_one_holds_it() -> None:
    """It was analyzed while the other one was not yet refused, and refers to what is left of it."""
    program = """
    class Outer(Struct):
        inner: "Inner | None"
        bad: Odd
    class Inner(Struct):
        outer: "Outer | None" = None
    @dataclasses.dataclass
    class Other:
        inner: Inner | None
    assert refused(Outer) and refused(Inner) and refused(Other)
    registry = EventRegistry()
    registry.types.update(Outer=Outer, Inner=Inner, Other=Other)
    serializer = EventSerializer(registry=registry)
    print([found.kind for found in check(serializer, SchemaLock())])
    for name in registry.types:
        try:
            serializer.deserialize(name, '{"_version":1,"outer":{"inner":null,"bad":1}}')
        except EventSerializationError as error:
            print(error)
    """
    said = run(program)
    assert said.startswith("['unreadable', 'unreadable', 'unreadable']\n")
    assert said.count("Enums must contain either all str or all int values") == 3


def test_a_forward_reference_in_a_cycle_may_be_resolved_after_the_first_class_was_registered() -> None:
    """Classes that were analyzed before refer to the class as it is in the end."""
    program = """
    registry = EventRegistry()
    @registry.event
    class Outer(Struct):
        inner: "Inner | None"
        late: "Late | None"
    @registry.event
    class Inner(Struct):
        outer: "Outer | None" = None
    @registry.event
    class Late(Struct):
        last: "Last | None" = None
    class Last(Struct):
        at: int = 0
    read = EventSerializer(registry=registry).deserialize
    print(read("Inner", '{"_version":1,"outer":{"inner":{"outer":{"inner":null,"late":{"last":{}}}},"late":null}}'))
    """
    expected = "Inner(outer=Outer(inner=Inner(outer=Outer(inner=None, late=Late(last=Last(at=0)))), late=None))\n"
    assert run(program) == expected


def test_hundreds_of_classes_in_a_cycle_are_read() -> None:
    """The default recursion limit would interrupt the analysis, and half of it would be kept."""
    program = """
    count = 600
    for at in range(count):
        globals()[f"C{at}"] = msgspec.defstruct(f"C{at}", [("next", f"C{(at + 1) % count} | None")], module=__name__)
    value = decoder_of(C0).decode('{"next":' * 700 + "null" + "}" * 700)
    for _ in range(700):
        value = value.next
    print(value)
    """
    assert run(program) == "None\n"


def test_a_generic_class_that_holds_ever_more_of_itself_is_refused() -> None:
    """Its parameters are replaced as msgspec does it."""
    program = """
    class Endless(Struct, Generic[Item]):
        more: "Endless[list[Item]] | None" = None
    class Holder(Struct):
        held: Endless[int]
    class Either(Struct, Generic[Item]):
        one: tuple[int, int] | Item
    print(refused(Holder))
    assert "fixed length" in refused(msgspec.defstruct("A", [("held", Either[Small])]))
    assert refused(msgspec.defstruct("B", [("held", Either[int])])) is None
    """
    assert run(program) == "Endless holds ever more of itself\n"
