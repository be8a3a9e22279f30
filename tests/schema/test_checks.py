"""What a check says of shapes, samples, steps and skeletons, where a row of the page of changes is too coarse."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from hangarlog import EventRegistry, EventSerializer, UpcasterChain
from hangarlog.schema.check import Finding, check, failing
from hangarlog.schema.compare import breaking, compare
from hangarlog.schema.describe import describe
from hangarlog.schema.lockfile import SchemaLock
from hangarlog.schema.locking import make_lock
from hangarlog.schema.purity import ImpureUpcasterError, pure_result
from hangarlog.schema.sample import CannotSampleError, samples
from hangarlog.schema.skeleton import skeleton


def one(kind: Any) -> type:
    """A class with one field."""
    return msgspec.defstruct("Event", [("x", kind)])


def shape(kind: Any) -> dict[str, Any]:
    return describe("Event", one(kind))


def serializer(event_class: type, version: int = 1, step: Callable[..., Any] = dict) -> EventSerializer:
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(event_class, name="Event", version=version)
    for at in range(1, version):
        chain.upcaster("Event", at)(step)
    return EventSerializer(chain, registry=registry)


def locked(event_class: type, version: int = 1) -> SchemaLock:
    return make_lock(serializer(event_class, version), SchemaLock())


def said(found: list[Finding]) -> list[str]:
    return [finding.kind for finding in found]


# Shapes


class Pair(msgspec.Struct):
    a: int
    b: int = 0


class Left(msgspec.Struct, tag="left"):
    a: int = 0


class Right(msgspec.Struct, tag="right"):
    a: int = 0


class Bare(msgspec.Struct):
    a: int = 0


class Row(msgspec.Struct, array_like=True):
    a: int
    b: int = 0


class Longer(msgspec.Struct, array_like=True):
    a: int
    b: int = 0
    c: int = 0


class Later(msgspec.Struct, array_like=True, kw_only=True):
    """Both are needed: what has a default stands before what has none."""

    a: int = 0
    b: int


@pytest.mark.parametrize(
    ("before", "after", "breaks"),
    [
        (Left, Bare, False),
        (Left | None, Bare | None, False),
        (Left | Right, Bare, True),
        (list[int], tuple[()], True),
        (tuple[int, int], tuple[int], True),
        (Row, Longer, False),
        (Row, Later, False),
        (Later, Row, False),
        (str, Annotated[str, Meta(min_length=0)], False),
        (dict[str, int], Annotated[dict[str, int], Meta(min_length=0)], False),
        (Pair, dict[str, int], False),
        (Pair, dict[Literal["a", "b"], int], False),
        (Pair, dict[Literal["a"], int], True),
        (Pair, Annotated[dict[str, int], Meta(min_length=1, max_length=2)], False),
        (Pair, Annotated[dict[str, int], Meta(min_length=2)], True),
        (Pair, Annotated[dict[str, int], Meta(max_length=1)], True),
        (Annotated[dict[str, int], Meta(max_length=2)], dict[str, int], False),
        (Literal["a", 1], str | int, False),
        (Literal["a", 1, None], str | int, True),
        (Literal["ab"], Annotated[str, Meta(min_length=2, max_length=2, pattern="b$")], False),
        (Literal["ab"], Annotated[str, Meta(pattern="^b")], True),
        (Literal["ab"], Annotated[str, Meta(max_length=1)], True),
        (Literal[1, 2], Annotated[int, Meta(gt=0, lt=3)], False),
        (Literal[1, 2], Annotated[int, Meta(gt=1)], True),
        (Annotated[int, Meta(gt=0, lt=9)], Annotated[int, Meta(ge=1, le=8)], False),
        (Annotated[int, Meta(gt=0)], Annotated[int, Meta(ge=2)], True),
        (Annotated[float, Meta(gt=0)], Annotated[float, Meta(ge=1)], True),
    ],
    ids=str,
)
def test_a_changed_field_breaks_if_something_stored_in_it_is_not_read(before: Any, after: Any, breaks: bool) -> None:
    assert bool(breaking(compare(shape(before), shape(after)))) is breaks


def test_nested_classes_of_one_name_are_all_described() -> None:
    """Even where module and qualified name are the same, as of classes that a function makes."""
    classes = [msgspec.defstruct("Same", [(field, int)], module="here") for field in "abc"]
    event_class = msgspec.defstruct("Event", [(f"x{at}", inner) for at, inner in enumerate(classes)])
    defined = describe("Event", event_class)["$defs"]
    assert sorted(list(schema["properties"]) for schema in defined.values()) == [["a"], ["b"], ["c"]]


def test_a_default_that_a_factory_makes_anew_is_not_compared() -> None:
    class Timed(msgspec.Struct):
        at: int = msgspec.field(default_factory=time.time_ns)
        parts: list[int] = msgspec.field(default_factory=lambda: [1])

    properties = describe("Event", Timed)["properties"]
    assert "default" not in properties["at"]
    assert properties["at"]["x-default"] == "computed"
    assert properties["parts"]["default"] == [1]
    assert compare(describe("Event", Timed), describe("Event", Timed)) == []


# Samples


def test_samples_hold_every_option_at_every_place() -> None:
    """Also where one of a few options decides whether a place is come by."""
    colours = Literal["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]
    holder = msgspec.defstruct("Holder", [("colour", colours | msgspec.UnsetType, msgspec.UNSET)])
    found = {payload["x"].get("colour") for payload in samples(shape(holder | None)) if isinstance(payload["x"], dict)}
    assert found == {None, *"abcdefghijkl"}


def test_mappings_are_made_as_large_as_they_must_be_and_no_larger() -> None:
    sizes = {
        len(payload["x"]) for payload in samples(shape(Annotated[dict[str, int], Meta(min_length=3, max_length=4)]))
    }
    assert sizes == {3, 4}


def test_bytes_are_made_as_long_as_they_must_be() -> None:
    event_class = one(Annotated[bytes, Meta(min_length=5, max_length=6)])
    lengths = {
        len(msgspec.json.decode(msgspec.json.encode(payload), type=event_class).x)
        for payload in samples(describe("Event", event_class))
    }
    assert lengths == {5, 6}


class Endless(msgspec.Struct):
    within: Endless


@pytest.mark.parametrize(
    "kind",
    [
        Annotated[str, Meta(min_length=1 << 40)],
        Annotated[list[int], Meta(min_length=1 << 40)],
        Annotated[dict[Literal["a"], int], Meta(min_length=2)],
        Endless,
    ],
    ids=str,
)
def test_what_cannot_be_made_up_is_said(kind: Any) -> None:
    with pytest.raises(CannotSampleError):
        list(samples(shape(kind)))


# Steps


def test_a_step_that_is_impure_only_at_its_first_call_is_caught() -> None:
    kept: list[str] = []

    def step(data: dict[str, Any]) -> dict[str, Any]:
        if not kept:
            kept.append(str(time.time()))
        return {**data, "at": kept[0]}

    with pytest.raises(ImpureUpcasterError, match=r"time\.time"):
        pure_result(step, {})


def test_a_step_that_ends_the_program_does_not_end_the_check() -> None:
    """With exit code 0 a build would take it for passed."""

    def step(data: dict[str, Any]) -> dict[str, Any]:
        raise SystemExit(0)

    assert said(failing(check(serializer(one(str), 2, step), locked(one(int))))) == ["impure"]


def test_a_result_that_cannot_be_copied_is_not_taken_for_the_payload_before() -> None:
    bytes_of = serializer(msgspec.defstruct("Event", [("y", bytes)]), 2, lambda data: {"y": memoryview(b"text")})
    assert failing(check(bytes_of, locked(one(int)))) == []


def test_what_importing_does_is_not_held_against_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_late.py").write_text("import time\nAT = time.time()\nNAME = 'late'\n")
    monkeypatch.syspath_prepend(tmp_path)

    def step(data: dict[str, Any]) -> dict[str, Any]:
        import imported_late  # type: ignore[import-not-found]

        return {**data, "name": imported_late.NAME}

    assert pure_result(step, {}) == {"name": "late"}


def test_a_check_that_runs_while_a_module_is_imported_sees_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checks_at_import.py").write_text(
        "import time\nfrom hangarlog.schema.purity import pure_result\n"
        "pure_result(lambda data: {'at': time.time()}, {})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImpureUpcasterError, match=r"time\.time"):
        importlib.import_module("checks_at_import")


def test_what_is_done_when_garbage_is_collected_is_not_held_against_a_step() -> None:
    """As profilers, and hypothesis, measure how long that takes."""

    def step(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "many": [[at] for at in range(5000)]}

    def measured(phase: str, info: dict[str, int]) -> None:
        time.perf_counter()

    gc.callbacks.append(measured)
    try:
        assert len(pure_result(step, {})["many"]) == 5000
    finally:
        gc.callbacks.remove(measured)
    assert gc.isenabled()


def test_a_value_that_is_left_under_an_unknown_name_is_found_at_any_depth() -> None:
    class Holder(msgspec.Struct):
        pairs: dict[str, list[Pair | None]]

    found = check(
        serializer(Holder, 2, lambda data: {"pairs": {"k": [None, {"a": data["x"], "c": 0}]}}), locked(one(int))
    )
    (finding,) = failing(found)
    assert finding.kind == "lost"
    assert "leave 'pairs{k}[].c' in the payload" in finding.message


class Then(msgspec.Struct, omit_defaults=True):
    number: int
    mode: str = "then"


class Now(msgspec.Struct, omit_defaults=True):
    number: int
    mode: str = "now"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Then, Now),
        (list[Then], list[Now]),
        (dict[str, Then | None], dict[str, Now | None]),
        (tuple[int, Then], tuple[int, Now]),
    ],
    ids=["alone", "list", "mapping", "tuple"],
)
def test_a_default_that_was_another_is_written_down_by_the_upcaster_wherever_it_is(before: Any, after: Any) -> None:
    def written(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(written, value))
        if isinstance(value, dict) and "number" in value:
            return {"mode": "then", **value}
        return {name: written(inner) for name, inner in value.items()} if isinstance(value, dict) else value

    lock = locked(one(before))
    assert failing(check(serializer(one(after), 2, lambda data: {"x": written(data["x"])}), lock)) == []
    (finding,) = failing(check(serializer(one(after), 2), lock))
    assert finding.kind == "lost"
    assert 'mode\', whose default was "then" in v1 and is "now" now' in finding.message


def test_a_default_that_was_another_at_the_end_of_an_array_is_written_down_too() -> None:
    class Before(msgspec.Struct, array_like=True):
        a: int
        mode: str = "then"

    class After(msgspec.Struct, array_like=True):
        a: int
        mode: str = "now"

    class First(msgspec.Struct, array_like=True):
        a: int

    lock = make_lock(serializer(one(Before)), locked(one(First)))
    assert failing(check(serializer(one(After), 2, lambda data: {"x": (data["x"] + ["then"])[:2]}), lock)) == []
    (finding,) = failing(check(serializer(one(After), 2), lock))
    assert "leave out 'x[1]', whose default was" in finding.message


def test_an_error_that_a_made_up_value_explains_fails_only_where_nothing_gets_through() -> None:
    lock = locked(one(str))
    known = serializer(one(int), 2, lambda data: {"x": {"text": 1, "a": 2}[data["x"]]})
    assert "untried" in said(check(known, lock))
    assert failing(check(known, lock)) == []
    nothing = serializer(one(int), 2, lambda data: {"x": {}[data["x"]]})
    assert said(failing(check(nothing, lock))) == ["unreadable"]
    misspelled = serializer(one(int), 2, lambda data: {"x": data["y"]})
    assert said(failing(check(misspelled, lock))) == ["unreadable"]


def test_a_key_error_that_a_named_value_explains_is_no_accident_of_the_samples() -> None:
    """What a Literal, an enum or a union names may be stored, unlike any text."""
    lock = locked(one(Literal["a", "b"] | int | None))
    for table in ({"a": 1, "b": 2}, {"a": 1, None: 2}):
        step = serializer(one(int), 2, lambda data, table=table: {"x": table[data["x"]]})
        assert said(failing(check(step, lock))) == ["unreadable"]
    open_only = serializer(one(int), 2, lambda data: {"x": {"a": 1, "b": 2, None: 3}[data["x"]]})
    assert failing(check(open_only, lock)) == []


def test_parts_of_a_split_may_be_of_any_kind_of_class() -> None:
    """What a dataclass carries beside its fields is not lost; a part that goes on at an old version is left to it."""

    @dataclasses.dataclass
    class Carrying:
        a: int

        def __post_init__(self) -> None:
            self.event_id = ""

    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(Carrying)
    registry.event(Pair, version=2)
    chain.upcaster("Pair", 1)(lambda data: {"a": data["old"]})
    chain.splitter("Event", 1)(
        lambda data: [("Pair", {"old": data["x"]}), ("Carrying", {"a": data["x"], "event_id": "1"})]
    )
    assert failing(check(EventSerializer(chain, registry=registry), locked(one(int)))) == []


# Versions


def two_names(event_class: type, version: int, **steps: Callable[..., Any]) -> EventSerializer:
    """A class that was called Former once, with a step from version 1 for each name."""
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(event_class, name="Event", version=version, aliases=["Former"])
    for name, step in steps.items():
        chain.upcaster(name, 1)(step)
    return EventSerializer(chain, registry=registry)


def test_a_former_name_is_tried_by_its_own_steps() -> None:
    """They come before those of the name of today."""
    lock = make_lock(two_names(one(int), 1), SchemaLock())
    fine = two_names(one(str), 2, Event=lambda data: {"x": str(data["x"])})
    assert failing(check(fine, lock)) == []
    (finding,) = failing(check(two_names(one(str), 2, Event=lambda data: {"x": str(data["x"])}, Former=dict), lock))
    assert (finding.event_type, finding.kind) == ("Former", "unreadable")


def test_a_former_name_is_tried_where_the_name_of_today_is_dropped() -> None:
    lock = make_lock(two_names(one(int), 1), SchemaLock())
    for event_class, expected in ((one(int), []), (one(str), ["changed"])):
        found = two_names(event_class, 1)
        found.registry.drop("Event", reason="a test")
        assert said(failing(check(found, lock))) == expected


def test_a_type_that_was_dropped_before_it_was_locked_is_called_untried() -> None:
    before, after = EventRegistry(), EventRegistry()
    before.drop("Event", reason="a test")
    after.event(one(int), name="Event")
    lock = make_lock(EventSerializer(registry=before), SchemaLock())
    (finding,) = check(EventSerializer(registry=after), lock)
    assert (finding.kind, "check --store" in finding.message) == ("untried", True)


def test_a_version_that_the_lock_knows_a_shape_of_may_not_be_above_todays() -> None:
    """Also where it was only ever seen in a store."""
    lock = locked(one(int))
    lock.events["Event"].schemas["3"] = shape(int)
    (finding,) = failing(check(serializer(one(int)), lock))
    assert (finding.kind, finding.message[:15]) == ("lowered", "was at version ")


def test_a_newer_version_that_was_gathered_is_no_lowered_one_where_the_policy_lets_it_pass() -> None:
    registry = EventRegistry()
    registry.event(one(int), name="Event")
    lock = locked(one(int))
    lock.events["Event"].schemas["3"] = shape(int)
    lock.events["Event"].inferred.append(3)
    assert said(failing(check(EventSerializer(registry=registry), lock))) == ["lowered"]
    assert failing(check(EventSerializer(registry=registry, newer="raw"), lock)) == []


def test_a_split_below_the_locked_version_is_a_lowered_version() -> None:
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(one(int), name="Part")
    chain.splitter("Event", 1)(lambda data: [("Part", {"x": 1})])
    found = failing(check(EventSerializer(chain, registry=registry), locked(one(int), 2)))
    assert said(found) == ["lowered"]
    assert "was at version 2, is at 1" in found[0].message


def test_a_shape_that_was_gathered_is_no_promise_of_todays_version() -> None:
    """What happened to be stored may have been less than the class takes."""
    lock = locked(one(int))
    lock.events["Event"].schemas["1"] = shape(int)
    lock.events["Event"].inferred.append(1)
    assert failing(check(serializer(one(str)), lock)) == []


def test_versions_that_nothing_was_written_at_are_not_called_untried() -> None:
    """From 1 to 3 in one release: there never was an event of version 2."""
    found = check(serializer(one(int), 3), locked(one(int)))
    assert said(found) == ["raised"]


# Skeletons


def run(code: str) -> Iterator[tuple[str, int, Callable[[dict[str, Any]], Any]]]:
    """The steps that a skeleton registers."""
    chain = UpcasterChain()
    exec(code, {"chain": chain, "Any": Any})  # noqa: S102 - it was written here
    return chain.steps()


def test_a_skeleton_cannot_be_taken_for_finished() -> None:
    """What only a person can know is a name that there is not."""
    before, after = (
        describe("Event", Pair),
        describe("Event", msgspec.defstruct("Event", [("a", str), ("c", list[int])])),
    )
    code = skeleton('it\'s "Event"\n', 1, before, after)
    assert "FILL_IN" in code
    assert 'CONFIRM({"b"})' in code
    ((name, version, step),) = run(code)
    assert (name, version) == ('it\'s "Event"\n', 1)
    with pytest.raises(NameError, match="CONFIRM"):
        step({"a": 1})
    ((_, _, step),) = run(code.replace("CONFIRM", ""))
    with pytest.raises(NameError, match="FILL_IN"):
        step({"a": 1})


def test_a_skeleton_gives_optional_fields_the_default_of_then() -> None:
    before = msgspec.defstruct("Event", [("a", str, 'say "it"'), ("b", bool, True), ("arrived", int, 3)])
    after = msgspec.defstruct("Event", [("a", str), ("b", bool, False), ("arrivedAt", int)], kw_only=True)
    code = skeleton("Event", 1, describe("", before), describe("", after))
    assert 'CONFIRM(data.get("arrived", 3)),  # was it renamed from arrived?' in code
    ((_, _, step),) = run(code.replace("CONFIRM", ""))
    assert step({}) == {"a": 'say "it"', "b": True, "arrivedAt": 3}
