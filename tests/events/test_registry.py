"""A registration declares name, version and former names; the maps are views of it; registries do not mix."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from hangarlog import (
    EVENT_TYPE_MAP,
    EVENT_VERSION_MAP,
    EventRegistry,
    EventSerializationError,
    EventSerializer,
    FileEventStore,
    IEventUpcaster,
    MemoryEventStore,
    UnknownEventTypeError,
    UntypedEvent,
    UpcasterChain,
    UpcasterError,
    UpcastingError,
    event,
    get_current_version,
)
from hangarlog.testing import registered


class Started(msgspec.Struct):
    provider_id: str


class Other(msgspec.Struct):
    name: str = ""


def test_one_declaration_says_name_version_and_former_names() -> None:
    chain = UpcasterChain()
    chain.upcaster("started", 1)(lambda data: {"provider_id": data["id"]})
    with registered():
        event(Started, version=2, name="started", aliases=["Began", "Begun"])
        assert EVENT_TYPE_MAP["started"] is EVENT_TYPE_MAP["Began"] is EVENT_TYPE_MAP["Begun"] is Started
        assert EVENT_VERSION_MAP["started"] == get_current_version("started") == 2
        serializer = EventSerializer(chain)
        assert serializer.deserialize("Begun", '{"id":"math"}') == Started("math")
        assert serializer.serialize(Started("math"))[0] == "started"


def test_assignments_to_the_maps_count_as_registrations() -> None:
    with registered():
        EVENT_TYPE_MAP["Started"] = Started
        EVENT_VERSION_MAP["Started"] = 2
        with pytest.raises(UpcastingError, match=r"^Missing upcaster for 'Started' v1 -> v2"):
            EventSerializer()


def test_registries_do_not_know_each_others_types() -> None:
    mine, theirs = EventRegistry(), EventRegistry()
    mine.event(name="Happened")(Started)
    theirs.event(name="Happened")(Other)
    data = '{"provider_id":"math","name":"n"}'
    assert EventSerializer(registry=mine).deserialize("Happened", data) == Started("math")
    assert EventSerializer(registry=theirs).deserialize("Happened", data) == Other("n")
    assert "Happened" not in EVENT_TYPE_MAP
    with pytest.raises(UnknownEventTypeError):
        EventSerializer().deserialize("Happened", data)


@pytest.mark.parametrize("aliases", [["Started"], [""], [3], ["Other"]])
def test_an_alias_that_cannot_be_one_is_refused_before_anything_is_registered(aliases: Any) -> None:
    registry = EventRegistry()
    registry.event(Other)
    with pytest.raises(ValueError, match="alias"):
        registry.event(Started, aliases=aliases)
    assert list(registry.types) == ["Other"]


def test_a_class_of_a_dropped_type_is_not_written() -> None:
    """Else it would not be read back."""
    registry = EventRegistry()
    registry.event(Started)
    serializer = EventSerializer(registry=registry)
    assert serializer.deserialize("Started", '{"provider_id":"a"}') == Started("a")
    registry.drop("Started", reason="a test")
    with pytest.raises(EventSerializationError, match="dropped"):
        EventSerializer(registry=registry).serialize(Started("a"))
    assert serializer.deserialize_all("Started", '{"provider_id":"a"}') == []
    with pytest.raises(EventSerializationError, match="deserialize_all"):
        serializer.deserialize("Started", '{"provider_id":"a"}')


def test_a_writer_that_has_written_notices_a_drop_and_its_end() -> None:
    registry = EventRegistry()
    registry.event(Started)
    serializer = EventSerializer(registry=registry)
    stored = serializer.serialize(Started("a"))
    registry.drop("Started", reason="a test")
    for write in (lambda: serializer.serialize(Started("a")), lambda: serializer.encode_all([Started("a")] * 2)):
        with pytest.raises(EventSerializationError, match="dropped"):
            write()
    del registry.dropped["Started"]
    assert serializer.serialize(Started("a")) == stored
    assert serializer.deserialize(*stored) == Started("a")


NEWER = b'{"_version":3,"provider_id":"math","new":1}'


def test_a_newer_version_is_an_error_unless_a_policy_says_otherwise() -> None:
    registry = EventRegistry()
    registry.event(Started)
    with pytest.raises(UpcastingError, match="newer"):
        EventSerializer(registry=registry).deserialize("Started", NEWER)
    assert EventSerializer(registry=registry, newer="pass").deserialize("Started", NEWER) == Started("math")
    raw = EventSerializer(registry=registry, newer="raw").deserialize("Started", NEWER)
    assert raw == UntypedEvent("Started", {"provider_id": "math", "new": 1}, 3)
    with pytest.raises(ValueError, match="newer"):
        EventSerializer(newer="ignore")  # type: ignore[arg-type]


def test_what_a_newer_program_wrote_is_written_again_whole(store: FileEventStore) -> None:
    registry = EventRegistry()
    registry.event(Started)
    with FileEventStore(store.path, serializer=EventSerializer(registry=registry, newer="raw")) as opened:
        opened.append("a:1", [UntypedEvent("Started", {"provider_id": "math", "new": 1}, 3)], -1)
        opened.append("a:2", opened.read_stream("a:1"), -1)
        first, second = (bytes(block[0].data) for block in (*opened.envelopes("a:1"), *opened.envelopes("a:2")))
    assert first == second


class ProviderStartedV1ToV2(IEventUpcaster):
    """As an application of MCP Hangar writes it."""

    @property
    def event_type(self) -> str:
        return "ProviderStarted"

    @property
    def from_version(self) -> int:
        return 1

    @property
    def to_version(self) -> int:
        return 2

    def upcast(self, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "tags": []}


class DomainEvent:
    """MCP Hangar's base of all events."""

    def __init__(self) -> None:
        self.event_id = str(uuid.uuid4())
        self.occurred_at = time.time()


def as_dataclass() -> type:
    @dataclasses.dataclass
    class ProviderStarted(DomainEvent):
        provider_id: str
        tags: list[str]

        def __post_init__(self) -> None:
            super().__init__()

    return ProviderStarted


def as_struct() -> type:
    class ProviderStarted(msgspec.Struct):
        provider_id: str
        tags: list[str]
        event_id: str | None = None
        occurred_at: float | None = None

    return ProviderStarted


@pytest.mark.parametrize("make", [as_dataclass, as_struct])
def test_mcp_hangars_way_to_evolve_an_event_works_as_it_is(store: FileEventStore, make: Callable[[], type]) -> None:
    """Alone, and in blocks of many records; what was written then has its own id and time still."""
    stored = {"provider_id": "math", "event_id": "0a52", "occurred_at": 1.5}
    store.append("provider:math", [UntypedEvent("ProviderStarted", stored)], -1)
    store.append("provider:many", [UntypedEvent("ProviderStarted", {"provider_id": "math"})] * 1000, -1)
    with registered(ProviderStarted=make()):
        EVENT_VERSION_MAP["ProviderStarted"] = 2

        chain = UpcasterChain()
        chain.register(ProviderStartedV1ToV2())

        serializer = EventSerializer(upcaster_chain=chain)
        with FileEventStore(store.path, serializer=serializer) as opened:
            (event,) = opened.read_stream("provider:math")
            assert (event.provider_id, event.tags, event.event_id, event.occurred_at) == ("math", [], "0a52", 1.5)
            assert [each.tags for each in opened.read_stream("provider:many")] == [[]] * 1000
            opened.append("provider:math", [event], 0)
            assert vars_of(opened.read_stream("provider:math")[1]) == vars_of(event)
            (block,) = opened.envelopes("provider:math", from_version=1)
            assert bytes(block[0].data).startswith(b'{"_version":2,"provider_id":"math","tags":[]')


def vars_of(event: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(event)
    return {**found, "event_id": event.event_id, "occurred_at": event.occurred_at}


def test_an_upcaster_that_keeps_the_shape_is_not_passed_over_in_blocks_of_many_records(store: FileEventStore) -> None:
    """The payload before it fits the class, too."""
    store.append("a:1", [UntypedEvent("Started", {"provider_id": f"p{n}"}) for n in range(3000)], -1)
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(Started, version=2)
    chain.upcaster("Started", 1)(lambda data: {"provider_id": data["provider_id"].upper()})
    with FileEventStore(store.path, serializer=EventSerializer(chain, registry=registry)) as opened:
        assert opened.read_stream("a:1") == [Started(f"P{n}") for n in range(3000)]


# Splits


def splitting(function: Any, *, version: int = 1) -> tuple[EventRegistry, UpcasterChain]:
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(Started)
    registry.event(Other)
    chain.splitter("Whole", version)(function)
    return registry, chain


def test_old_versions_are_brought_to_the_split_first_and_parts_to_their_class() -> None:
    registry, chain = splitting(lambda data: [("Started", {"id": data["b"]}), ("Other", {"_version": 1})], version=2)
    registry.versions["Started"] = 2
    chain.upcaster("Whole", 1)(lambda data: {"b": data["a"]})
    chain.upcaster("Started", 1)(lambda data: {"provider_id": data["id"]})
    serializer = EventSerializer(chain, registry=registry)
    assert serializer.deserialize_all("Whole", '{"a":"x"}') == [Started("x"), Other()]
    assert serializer.deserialize_all("Whole", '{"_version":2,"b":"y"}') == [Started("y"), Other()]
    with pytest.raises(UpcastingError, match="newer than 2"):
        EventSerializer(chain, registry=registry, newer="error").deserialize_all("Whole", '{"_version":3}')


def test_a_type_that_is_split_may_go_on_at_a_later_version() -> None:
    registry, chain = splitting(
        lambda data: [("Whole", {"_version": 2, "name": data["n"]}), ("Started", {"provider_id": "p"})]
    )

    class Rest(msgspec.Struct):
        name: str

    registry.event(Rest, name="Whole", version=2)
    serializer = EventSerializer(chain, registry=registry)
    assert serializer.deserialize_all("Whole", '{"n":"x"}') == [Rest("x"), Started("p")]
    assert serializer.deserialize_all(*serializer.serialize(Rest("y"))) == [Rest("y")]


def test_a_reader_that_has_read_notices_a_split() -> None:
    """Alone, and in blocks of many records."""
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(Started)
    serializer = EventSerializer(chain, registry=registry, unknown="untyped")
    whole = UntypedEvent("Whole", {"provider_id": "a"})
    store = MemoryEventStore(serializer=serializer)
    store.append("a:1", [whole] * 3, -1)
    assert serializer.deserialize_all("Whole", '{"provider_id":"a"}') == [whole]
    assert store.read_stream("a:1") == [whole] * 3
    chain.splitter("Whole", 1)(lambda data: [("Started", data)] * 2)
    assert serializer.deserialize_all("Whole", '{"provider_id":"a"}') == [Started("a")] * 2
    assert store.read_stream("a:1") == [Started("a")] * 6


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda data: [("Nobody", {})], UnknownEventTypeError, "Nobody"),
        (lambda data: [("Started", {})], EventSerializationError, "provider_id"),
        (lambda data: [("Whole", {})], EventSerializationError, "later _version"),
        (lambda data: [("Started", None)], UpcastingError, "Splitter for 'Whole' v1 failed"),
        (lambda data: data["gone"], UpcastingError, "KeyError"),
        (lambda data: 3, UpcastingError, "TypeError"),
        (lambda data: [("Started", {"_version": "x"})], EventSerializationError, "_version"),
    ],
)
def test_a_splitter_that_gives_nonsense_is_an_error_with_its_place(function: Any, error: Any, message: str) -> None:
    registry, chain = splitting(function)
    with pytest.raises(error, match=message):
        EventSerializer(chain, registry=registry).deserialize_all("Whole", "{}")


def test_what_contradicts_a_split_is_refused_when_it_is_said() -> None:
    chain = UpcasterChain()
    chain.splitter("Whole", 1)(lambda data: [])
    with pytest.raises(UpcasterError, match="another"):
        chain.splitter("Whole", 2)(lambda data: [])
    with pytest.raises(UpcasterError, match="same version"):
        chain.upcaster("Whole", 1)(lambda data: data)
    chain.upcaster("Other", 1)(lambda data: data)
    with pytest.raises(UpcasterError, match="same version"):
        chain.splitter("Other", 1)(lambda data: [])
    with pytest.raises(UpcasterError, match="from 1 up"):
        chain.splitter("Third", 0)(lambda data: [])
    registry = EventRegistry()
    registry.event(Other, name="Whole")
    with pytest.raises(UpcastingError, match="later version"):
        EventSerializer(chain, registry=registry)


def test_a_split_before_which_the_chain_has_a_gap_is_refused() -> None:
    chain = UpcasterChain()
    chain.splitter("Whole", 3)(lambda data: [])
    chain.upcaster("Whole", 1)(lambda data: data)
    with pytest.raises(UpcastingError, match="v2 -> v3"):
        EventSerializer(chain, registry=EventRegistry())


def test_indexed_blocks_with_split_dropped_and_plain_events_give_what_their_lines_give(store: FileEventStore) -> None:
    """Far more than the 64 KiB from which reads decode whole blocks."""
    registry, chain = splitting(lambda data: [("Started", {"provider_id": data["p"]})] * data["times"])
    registry.drop("Noise", reason="a test")
    kinds = [
        lambda n: UntypedEvent("Whole", {"p": f"p{n}", "times": n % 3}),
        lambda n: UntypedEvent("Noise", {"n": n}),
        lambda n: UntypedEvent("Other", {"name": f"n{n}"}),
    ]
    store.append("a:1", [kinds[n % 7 % 3](n) for n in range(3000)], -1)
    serializer = EventSerializer(chain, registry=registry)
    with FileEventStore(store.path, serializer=serializer) as opened:
        expected = [
            (envelope.position, part)
            for block in opened.envelopes()
            for envelope in block
            for part in serializer.deserialize_all(envelope.event_type, bytes(envelope.data))
        ]
        assert len(expected) > 2000
        assert [(position, part) for position, _, part in opened.read_all(limit=3000)] == expected
        assert opened.read_stream("a:1") == [part for _, part in expected]
        assert [(record.position, record.event) for record in opened.records()] == expected
