"""What is acknowledged can be read: an event that could not be is refused before anything is written."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from hangarlog import (
    ANY,
    EventRegistry,
    EventSerializationError,
    EventSerializer,
    MemoryEventStore,
    UntypedEvent,
    UpcasterChain,
    UpcastingError,
)
from hangarlog.events.event_class import checks_deferred
from hangarlog.schema.check import check
from hangarlog.schema.lockfile import SchemaLock


class ToolCalled(msgspec.Struct):
    name: str
    ms: int


class Other(msgspec.Struct):
    n: int = 0


class Later(msgspec.Struct):
    node: NotYet  # type: ignore[name-defined]  # noqa: F821


class Never(msgspec.Struct):
    first: int
    node: Missing  # type: ignore[name-defined]  # noqa: F821


class Undecodable(msgspec.Struct):
    when: str | bytes


@dataclasses.dataclass
class Node:
    n: int


def registry_of(*event_classes: type, **named: type) -> EventRegistry:
    registry = EventRegistry()
    for event_class in event_classes:
        registry.event(event_class)
    for name, event_class in named.items():
        registry.event(event_class, name=name)
    return registry


def test_a_batch_with_one_bad_event_is_refused_whole_and_names_the_field() -> None:
    """The message has the path of the field."""
    store = MemoryEventStore(serializer=EventSerializer(registry=registry_of(ToolCalled)))
    good, bad = ToolCalled("ls", 12), ToolCalled("ls", 12.5)  # type: ignore[arg-type]
    for events in ([bad], [good, bad], [good] * 500 + [bad]):
        with pytest.raises(EventSerializationError, match=r"Expected `int`, got `float` - at `\$\.ms`") as caught:
            store.append("run:1", events, ANY)
        assert caught.value.event_type == "ToolCalled"
    assert store.get_stream_version("run:1") == -1


def test_validate_false_writes_what_msgspec_encodes() -> None:
    """Also an unregistered class."""
    serializer = EventSerializer(registry=registry_of(ToolCalled), validate=False)
    bad = ToolCalled("ls", 12.5)  # type: ignore[arg-type]
    stored = ("ToolCalled", None, b'{"_version":1,"name":"ls","ms":12.5}', None, None)
    assert [tuple(each) for each in serializer.encode_all([bad, bad])] == [stored] * 2
    assert serializer.encode(Other())[0] == "Other"
    assert serializer.encode(UntypedEvent("ToolCalled", {}))[0] == "ToolCalled"


def test_a_class_that_is_not_registered_is_refused() -> None:
    """The message says how to register it, also if it is known under another name."""
    registry = EventRegistry()
    for unknown in ("error", "untyped"):
        serializer = EventSerializer(registry=registry, unknown=unknown)  # type: ignore[arg-type]
        for events in ([Other()], [Other()] * 2):
            with pytest.raises(EventSerializationError, match=r"register it with event\(Other\)"):
                serializer.encode_all(events)
    registry.types["other"] = Other
    with pytest.raises(EventSerializationError, match=r"event\(Other, name='other'\)"):
        EventSerializer(registry=registry).encode(Other())


def test_a_class_counts_as_registered_if_its_stored_name_is_read_as_it() -> None:
    """By its own name, by another, with aliases, and by an assignment to the map."""
    registry = EventRegistry()
    registry.event(ToolCalled, name="called", aliases=["Called"])
    registry.types["Other"] = Other
    serializer = EventSerializer(registry=registry)
    for event, name in ((ToolCalled("ls", 1), "called"), (Other(1), "Other")):
        assert serializer.encode(event)[0] == name
        assert serializer.deserialize(*serializer.serialize(event)) == event
    del registry.types["Other"]
    with pytest.raises(EventSerializationError, match="no class is registered"):
        serializer.encode(Other(1))


def reloaded(**fields: Any) -> type:
    """Another `ToolCalled`, as a reload of this module makes it."""
    return msgspec.defstruct("ToolCalled", list(fields.items()), module=__name__)


def test_an_event_of_a_class_that_was_reloaded_is_read_as_its_successor() -> None:
    """Alone and in a batch. What the new class has lost is refused."""
    registry = registry_of(ToolCalled)
    serializer = EventSerializer(registry=registry)
    successor = reloaded(name=str, ms=int)
    registry.event(successor)
    for events in ([ToolCalled("ls", 1)], [ToolCalled("ls", 1)] * 2):
        assert [bytes(each[2]) for each in serializer.encode_all(events)] == [
            b'{"_version":1,"name":"ls","ms":1}'
        ] * len(events)
    registry.event(reloaded(name=str))
    with pytest.raises(EventSerializationError, match=r"\$\.ms"):
        serializer.encode(ToolCalled("ls", 1))
    registry.event(Other, name="ToolCalled")
    with pytest.raises(EventSerializationError, match="read back as Other"):
        serializer.encode(ToolCalled("ls", 1))


def test_a_forward_reference_is_resolved_at_the_first_write_at_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class may be registered before it resolves. If it never does, the field is named."""
    serializer = EventSerializer(registry=registry_of(Later, Never))
    monkeypatch.setitem(globals(), "NotYet", Node)
    event = Later(Node(1))
    assert serializer.deserialize(*serializer.serialize(event)) == event
    with pytest.raises(EventSerializationError, match=r"'Missing' is not defined - at `\$\.node`"):
        serializer.encode(Never(1, 2))


def test_a_class_that_came_by_an_assignment_is_refused_at_its_first_write() -> None:
    """A registration would have refused it."""
    with pytest.raises(EventSerializationError, match=r"more than one str-like type .* at `\$\.when`"):
        registry_of(Undecodable)
    registry = EventRegistry()
    registry.types["Undecodable"] = Undecodable
    for validate in (True, False):
        with pytest.raises(EventSerializationError, match=r"\$\.when"):
            EventSerializer(registry=registry, validate=validate).encode(Undecodable("x"))


def test_the_schema_check_reports_a_class_that_cannot_be_read() -> None:
    """It came by an assignment, or was registered while the check loads the application."""
    assigned = EventRegistry()
    assigned.types["Undecodable"] = Undecodable
    with checks_deferred():
        registered = registry_of(Undecodable, Other)
    for registry in (assigned, registered):
        findings = check(EventSerializer(registry=registry), SchemaLock())
        (found,) = [finding for finding in findings if finding.fails]
        assert (found.event_type, found.kind) == ("Undecodable", "unreadable")
        assert "$.when" in found.message


def upcasting() -> EventSerializer:
    registry, chain = registry_of(ToolCalled, Other), UpcasterChain()
    registry.versions["ToolCalled"] = 2
    chain.upcaster("ToolCalled", 1)(lambda data: {"name": data["name"], "ms": data["s"] * 1000})
    chain.splitter("Both", 1)(lambda data: [("Other", {"n": data["n"]}), (data["type"], {})])
    registry.drop("Noise", reason="a test")
    return EventSerializer(chain, registry=registry)


@pytest.mark.parametrize(
    "event",
    [
        UntypedEvent("ToolCalled", {"name": "ls", "ms": 1}, 2),
        UntypedEvent("ToolCalled", {"name": "ls", "s": 1}),
        UntypedEvent("Both", {"n": 1, "type": "Other"}),
        UntypedEvent("Noise", {"any": "thing"}),
        UntypedEvent("Unheard", {"any": "thing"}, 7),
    ],
)
def test_an_untyped_event_is_taken_if_it_can_be_read(event: UntypedEvent) -> None:
    """Through the upcasters and splitters. A type that nobody has registered takes all."""
    upcasting().encode_all([event, event])


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        (UntypedEvent("ToolCalled", {"name": "ls", "ms": "1"}, 2), EventSerializationError, r"got `str` - at `\$.ms`"),
        (UntypedEvent("ToolCalled", {"name": "ls", "s": 0.5}), EventSerializationError, r"got `float` - at `\$.ms`"),
        (UntypedEvent("ToolCalled", {"name": "ls", "ms": 1}), UpcastingError, "v1 -> v2 failed: KeyError"),
        (UntypedEvent("ToolCalled", {"name": "ls", "ms": 1}, 3), UpcastingError, "newer than 2"),
        (UntypedEvent("Both", {"n": 1, "type": "Unheard"}), EventSerializationError, "Unheard"),
        (UntypedEvent("Both", {"n": "1", "type": "Other"}), EventSerializationError, r"\$.n"),
    ],
)
def test_an_untyped_event_of_a_registered_type_must_be_readable(
    event: UntypedEvent, error: type[Exception], message: str
) -> None:
    """It is refused before anything is written, whatever reads it."""
    store = MemoryEventStore(serializer=upcasting())
    for events in ([event], [event, event]):
        with pytest.raises(error, match=message):
            store.append("a:1", events, ANY)
    assert store.get_stream_version("a:1") == -1


def test_a_payload_can_be_proved_by_itself() -> None:
    """For those who have JSON already."""
    serializer = upcasting()
    serializer.prove("ToolCalled", b'{"_version":2,"name":"ls","ms":1}')
    serializer.prove("Unheard", b'{"x":1}')
    for data in (b'{"_version":2,"name":"ls"}', b"[]", b"{"):
        with pytest.raises(EventSerializationError, match="nothing was written"):
            serializer.prove("ToolCalled", data)
    with pytest.raises(UpcastingError):
        serializer.prove("ToolCalled", b'{"_version":1,"name":"ls"}')


def test_a_class_whose_type_is_split_later_is_refused() -> None:
    """Its events would be split when they are read."""
    registry, chain = registry_of(Other), UpcasterChain()
    serializer = EventSerializer(chain, registry=registry)
    chain.splitter("Other", 1)(lambda data: [])
    with pytest.raises(UpcastingError, match="later version"):
        serializer.encode(Other())


class Large(msgspec.Struct, rename="camel"):
    some_text: str
    any_value: Any = None
    some_number: int = 0


TEXT = "x" * 100_000


@pytest.mark.parametrize("value", [None, [1.5, "a", {"b": [True]}], (1, 2), msgspec.Raw(b'{"a":1}')])
def test_a_large_event_is_taken_as_a_small_one_is(value: Any) -> None:
    """Fields of type Any are not decoded, if they hold JSON."""
    serializer = EventSerializer(registry=registry_of(Large))
    event = Large(TEXT, value, 3)
    again = serializer.deserialize(*serializer.serialize(event))
    assert (again.some_text, again.some_number) == (TEXT, 3)


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (Large(TEXT, 1, 1.5), "$.someNumber"),  # type: ignore[arg-type]
        (Large(TEXT, {1: 1}), "$.any_value"),
        (Large(TEXT, [{1, 2}]), "$.any_value[0]"),
        (Large(TEXT, [dataclasses]), "cannot be encoded"),
        (Large(TEXT, float("nan")), "no JSON form"),
    ],
)
def test_a_large_event_is_refused_as_a_small_one_is(event: Large, field: str) -> None:
    serializer = EventSerializer(registry=registry_of(Large))
    for one in (event, Large("x", event.any_value, event.some_number)):
        with pytest.raises(EventSerializationError) as caught:
            serializer.encode(one)
        assert field in str(caught.value)
