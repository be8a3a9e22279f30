"""Whatever the classes: made-up events are of their shape, and a change that is called harmless loses none of them."""

from __future__ import annotations

import datetime
import decimal
import enum
import random
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from hangarlog import EventRegistry, EventSerializer, UpcasterChain
from hangarlog.schema.check import check, failing
from hangarlog.schema.compare import breaking, compare
from hangarlog.schema.describe import describe
from hangarlog.schema.gather import Gathered
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.schema.locking import make_lock
from hangarlog.schema.sample import samples
from hangarlog.testing.schema import stored_payloads


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Fewer(enum.Enum):
    RED = "red"


class Inner(msgspec.Struct):
    a: int
    b: str = "b"


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []


class Tagged(msgspec.Struct, tag="tagged"):
    x: int = 0


class Other(msgspec.Struct, tag="other"):
    y: str = ""


class Row(msgspec.Struct, array_like=True):
    n: int
    text: str = ""


PLAIN: list[Any] = [
    bool,
    int,
    float,
    str,
    None,
    bytes,
    datetime.datetime,
    Annotated[datetime.datetime, Meta(tz=True)],
    datetime.date,
    datetime.timedelta,
    uuid.UUID,
    decimal.Decimal,
    Colour,
    Fewer,
    Literal["a", "b"],
    Literal["a"],
    Literal[1, 2],
    Any,
    Inner,
    Tree,
    Row,
    Tagged | Other,
    Annotated[int, Meta(ge=0, le=10)],
    Annotated[int, Meta(gt=-1, lt=9)],
    Annotated[int, Meta(ge=0, multiple_of=2)],
    Annotated[str, Meta(min_length=2)],
    Annotated[str, Meta(max_length=3)],
    Annotated[str, Meta(pattern="^a")],
]


def _wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        inner.map(lambda kind: list[kind]),  # type: ignore[valid-type]
        inner.map(lambda kind: tuple[kind, ...]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda kinds: tuple[kinds]),  # type: ignore[valid-type]
        inner.map(lambda kind: dict[str, kind]),  # type: ignore[valid-type]
        inner.map(lambda kind: dict[int, kind]),  # type: ignore[valid-type]
        inner.map(lambda kind: kind | None if kind not in (None, Any) else kind),
        st.sampled_from([int, str, Colour, uuid.UUID]).map(lambda kind: set[kind]),  # type: ignore[valid-type]
    )


TYPES = st.recursive(st.sampled_from(PLAIN), _wider, max_leaves=3)
NAMES = st.sampled_from(["a", "b", "c"])
FIELDS = st.dictionaries(NAMES, st.tuples(TYPES, st.booleans()), max_size=3)


def struct(fields: dict[str, tuple[Any, bool]]) -> type:
    """A class of fields, some of which have a default that is left out where it is absent."""
    return msgspec.defstruct(
        "Event",
        [
            (name, kind | msgspec.UnsetType, msgspec.UNSET) if has else (name, kind)
            for name, (kind, has) in fields.items()
        ],
        kw_only=True,
        namespace={"Tree": Tree},
    )


def made(fields: dict[str, tuple[Any, bool]]) -> tuple[type, dict[str, Any]]:
    try:
        event_class = struct(fields)
        msgspec.json.Decoder(event_class)
    except TypeError:  # Some unions are none that msgspec takes.
        assume(False)
        raise
    return event_class, describe("Event", event_class)


@given(fields=FIELDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_made_up_events_are_of_their_shape_and_read_by_their_class(fields: dict[str, Any]) -> None:
    """A validator of JSON Schema, which others wrote, agrees."""
    event_class, schema = made(fields)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for payload in samples(schema):
        validator.validate(payload)
        msgspec.json.decode(msgspec.json.encode(payload), type=event_class)


RELATED: list[Any] = [
    lambda kind: kind | None if kind not in (None, Any) else kind,
    lambda kind: Any,
    lambda kind: float if kind is int else str,
    lambda kind: Colour if kind is Fewer else Fewer,
    lambda kind: list[kind],
    lambda kind: set[kind] if kind in (int, str) else list[kind],
    lambda kind: Annotated[int, Meta(ge=-1, le=10)],
    lambda kind: Literal["a", "b"],
    lambda kind: datetime.datetime,
]


@st.composite
def changed(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a class, and the same a little changed."""
    before = draw(FIELDS)
    after = dict(before)
    for name in draw(st.lists(NAMES, max_size=2)):
        what = draw(st.sampled_from(["type", "default", "gone"]))
        kind, has = after.get(name, (draw(TYPES), True))
        if what == "type":
            after[name] = draw(st.sampled_from(RELATED))(kind), has
        elif what == "default":
            after[name] = kind, not has
        else:
            after.pop(name, None)
    return before, after


def plain(value: Any) -> Any:
    """A value as JSON, without the order of arrays, which a set does not keep."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return sorted(map(plain, value), key=repr)
    return float(value) if type(value) is int else value


def test_what_a_harmless_change_has_stored_is_read_and_nothing_of_it_is_lost() -> None:
    """Written by the old class, read and written by the new one, it still has every value."""
    harmless, breaks = [0], [0]

    @given(pair=changed())
    @settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
    def reads(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
        (old_class, old), (new_class, new) = map(made, pair)
        if breaking(compare(old, new)):
            breaks[0] += 1
            return
        harmless[0] += old != new
        for payload in samples(old):
            stored = msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(payload), type=old_class))
            again = msgspec.json.encode(msgspec.json.decode(stored, type=new_class))
            was, now = plain(msgspec.json.decode(stored)), plain(msgspec.json.decode(again))
            assert {name: now.get(name) for name in was} == was

    reads()
    assert harmless[0] > 30
    assert breaks[0] > 30


def test_a_change_that_is_called_breaking_is_one() -> None:
    """Where nothing but a type changes, some made-up event of the old class is refused, or comes back as another."""
    said, shown = 0, 0
    for old_kind in PLAIN:
        for new_kind in PLAIN:
            (old_class, old), (new_class, new) = (made({"a": (kind, False)}) for kind in (old_kind, new_kind))
            if breaking(compare(old, new)):
                said += 1
                shown += _differs(old, old_class, new_class)
    assert said > 400
    assert shown > 0.97 * said, f"of {said} changes called breaking only {shown} were seen to be"


def _differs(old: dict[str, Any], old_class: type, new_class: type) -> bool:
    for payload in samples(old):
        event = msgspec.json.decode(msgspec.json.encode(payload), type=old_class)
        try:
            again = msgspec.json.decode(msgspec.json.encode(event), type=new_class)
        except msgspec.ValidationError:
            return True
        if type(again.a) is not type(event.a):
            return True
    return False


@given(fields=FIELDS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_a_shape_is_the_same_as_itself_after_its_file(fields: dict[str, Any], tmp_path_factory: Any) -> None:
    event_class, schema = made(fields)
    registry = EventRegistry()
    registry.event(event_class)
    path = str(tmp_path_factory.mktemp("lock") / "event-schema.json")
    write_lock(path, make_lock(EventSerializer(registry=registry), SchemaLock()))
    found = read_lock(path).events["Event"].schema(1)
    assert found is not None
    assert compare(found, schema) == compare(schema, found) == []


@given(fields=FIELDS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_a_raised_version_whose_upcaster_keeps_all_there_is_passes(fields: dict[str, Any]) -> None:
    """Whatever the class, and read as itself or as one more field of it."""
    event_class, _ = made(fields)
    more, _ = made({**fields, "new": (int, False)})
    lock = make_lock(serializer_of(event_class, 1), SchemaLock())
    assert failing(check(serializer_of(event_class, 2, dict), lock)) == []
    assert failing(check(serializer_of(more, 2, lambda data: {**data, "new": 1}), lock)) == []
    assert failing(check(serializer_of(more, 2, dict), lock)) != []


def serializer_of(event_class: type, version: int, step: Callable[..., Any] = dict) -> EventSerializer:
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(event_class, version=version)
    if version > 1:
        chain.upcaster("Event", 1)(step)
    return EventSerializer(chain, registry=registry)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


@given(values=st.lists(st.dictionaries(NAMES, JSON, max_size=3), min_size=1, max_size=8), split=st.integers(0, 8))
@settings(max_examples=150, deadline=None)
def test_a_gathered_shape_describes_all_it_was_gathered_from(values: list[dict[str, Any]], split: int) -> None:
    """Also in two parts that are merged."""
    whole, first, second = Gathered(), Gathered(), Gathered()
    for number, value in enumerate(values):
        whole.add(value)
        (first if number < split else second).add(value)
    first.merge(second)
    assert first.schema() == whole.schema() or compare(first.schema(), whole.schema()) == []
    validator = jsonschema.Draft202012Validator(whole.schema())
    for value in values:
        validator.validate(value)


class First(msgspec.Struct, omit_defaults=True):
    provider_id: str
    colour: Colour
    count: Annotated[int, Meta(ge=0)] = 0
    parts: list[Inner] = []


class Second(msgspec.Struct):
    server_id: str
    colour: str
    count: int
    parts: dict[str, Inner]


def test_events_of_every_locked_version_reach_the_class_of_today() -> None:
    """As an application proves it for itself."""
    before, registry, chain = EventRegistry(), EventRegistry(), UpcasterChain()
    before.event(First, name="Started")
    lock = make_lock(EventSerializer(registry=before), SchemaLock())
    registry.event(Second, name="Started", version=2)

    @chain.upcaster("Started", 1)
    def step(data: dict[str, Any]) -> dict[str, Any]:
        return {
            "server_id": data["provider_id"],
            "colour": data["colour"],
            "count": data.get("count", 0),
            "parts": {str(at): part for at, part in enumerate(data.get("parts", []))},
        }

    serializer = EventSerializer(chain, registry=registry)
    lock = make_lock(serializer, lock)
    seen = set()

    @given(stored_payloads(lock))
    @settings(max_examples=200, deadline=None)
    def reaches(stored: tuple[str, bytes]) -> None:
        (event,) = serializer.deserialize_all(*stored)
        assert type(event) is Second
        seen.add(stored[1][:13])

    reaches()
    assert seen == {b'{"_version":1', b'{"_version":2'}
    with pytest.raises(ValueError, match="no version"):
        stored_payloads(lock, ["Nobody"])


def test_the_samples_of_a_shape_are_the_same_every_time_and_hold_every_alternative() -> None:
    schema = describe("First", First)
    state = random.getstate()
    first, second = list(samples(schema)), list(samples(schema))
    assert first == second
    assert random.getstate() == state
    assert {payload["colour"] for payload in first} == {"red", "blue"}
    assert {"count" in payload for payload in first} == {True, False}
