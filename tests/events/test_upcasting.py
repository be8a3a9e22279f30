"""Old payloads go through their upcasters, in order; gaps and bad upcasters are refused with their place."""

from __future__ import annotations

from typing import Any

import pytest
from event_classes import ADataclass, Inner

from hangarlog import (
    EVENT_TYPE_MAP,
    EVENT_VERSION_MAP,
    EventSerializer,
    IEventUpcaster,
    UpcasterChain,
    UpcasterError,
    UpcastingError,
    register_event_type,
)


class InnerV1ToV2(IEventUpcaster):
    """MCP Hangar's own shape: three properties."""

    @property
    def event_type(self) -> str:
        return "Inner"

    @property
    def from_version(self) -> int:
        return 1

    @property
    def to_version(self) -> int:
        return 2

    def upcast(self, data: dict[str, Any]) -> dict[str, Any]:
        assert "_version" not in data
        data["a"] = data.pop("old")
        return data


class Stranger:
    """Of the same shape, but of no base class of ours."""

    event_type, from_version, to_version = "Inner", 2, 3

    def upcast(self, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "a": data["a"] * 10}


def test_upcasters_of_every_shape_register_and_run_in_order() -> None:
    register_event_type(Inner, version=4)
    chain = UpcasterChain()
    chain.register(InnerV1ToV2())
    chain.register(Stranger())

    @chain.upcaster("Inner", from_version=3)
    def last(data: dict[str, Any]) -> dict[str, Any]:
        return {"a": data["a"] + 1}

    serializer = EventSerializer(chain)
    assert serializer.deserialize("Inner", '{"old":7}') == Inner(71)
    assert serializer.deserialize("Inner", '{"_version":2,"a":7}') == Inner(71)
    assert serializer.deserialize("Inner", '{"a":7,"_version":3}') == Inner(8)
    assert serializer.deserialize("Inner", '{"_version":4,"a":7}') == Inner(7)
    assert chain.upcast("Inner", 1, {"old": 7}, current_version=3) == (3, {"a": 70})
    assert last({"a": 1}) == {"a": 2}


def test_a_gap_names_type_and_version_when_the_serializer_is_built() -> None:
    register_event_type(Inner, version=4)
    chain = UpcasterChain()
    chain.upcaster("Inner", 1)(dict)
    chain.upcaster("Inner", 3)(dict)
    with pytest.raises(UpcastingError, match=r"^Missing upcaster for 'Inner' v2 -> v3") as caught:
        EventSerializer(upcaster_chain=chain)
    assert (caught.value.event_type, caught.value.from_version) == ("Inner", 2)


def test_a_version_raised_after_the_serializer_was_built_is_noticed() -> None:
    register_event_type(Inner)
    serializer = EventSerializer()
    assert serializer.deserialize("Inner", '{"a":1}') == Inner(1)
    EVENT_VERSION_MAP["Inner"] = 2
    for use in (lambda: serializer.deserialize("Inner", '{"a":1}'), lambda: serializer.serialize(Inner(1))):
        with pytest.raises(UpcastingError, match="Missing upcaster"):
            use()


def test_bad_upcasters_are_refused_when_they_are_registered() -> None:
    class Leap(InnerV1ToV2):
        @property
        def to_version(self) -> int:
            return 3

    chain = UpcasterChain()
    chain.register(InnerV1ToV2())
    for bad, why in (
        (Leap(), "'Inner' v1 -> v3 must advance exactly one"),
        (InnerV1ToV2(), "'Inner' v1 -> v2 meets another"),
    ):
        with pytest.raises(UpcasterError, match=why) as caught:
            chain.register(bad)
        assert isinstance(caught.value, UpcastingError)
        assert isinstance(caught.value, ValueError)
    with pytest.raises(TypeError, match=r"InnerV1ToV2\(\)"):
        chain.register(InnerV1ToV2)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        chain.register(object())  # type: ignore[arg-type]
    with pytest.raises(UpcasterError):
        chain.upcaster("Inner", 0)(dict)


def test_an_upcaster_that_fails_or_returns_nothing_is_named() -> None:
    register_event_type(Inner, version=2)
    for step, why in ((lambda data: data["no such key"], "KeyError"), (lambda data: None, "NoneType")):
        chain = UpcasterChain()
        chain.upcaster("Inner", 1)(step)
        with pytest.raises(UpcastingError, match=f"'Inner' v1 -> v2 .*{why}"):
            EventSerializer(chain).deserialize("Inner", '{"a":1}')


def test_a_newer_payload_than_is_known_here_is_an_error() -> None:
    register_event_type(Inner)
    with pytest.raises(UpcastingError, match="newer"):
        EventSerializer().deserialize("Inner", '{"_version":2,"a":1}')


def test_an_alias_goes_the_way_of_its_new_name_unless_it_has_steps_of_its_own() -> None:
    register_event_type(Inner, version=2)
    EVENT_TYPE_MAP["Outer"] = Inner
    chain = UpcasterChain()
    chain.upcaster("Inner", 1)(lambda data: {"a": data["b"]})
    assert EventSerializer(chain).deserialize("Outer", '{"b":5}') == Inner(5)
    chain.upcaster("Outer", 1)(lambda data: {"a": data["c"]})
    assert EventSerializer(chain).deserialize("Outer", '{"c":6}') == Inner(6)
    assert EventSerializer(chain).deserialize("Inner", '{"b":7}') == Inner(7)


def test_an_old_payload_keeps_its_other_attributes_on_the_way() -> None:
    register_event_type(ADataclass, version=2)
    chain = UpcasterChain()
    chain.upcaster("ADataclass", 1)(lambda data: {**data, "provider_id": data["id"]})
    event = EventSerializer(chain).deserialize("ADataclass", '{"id":"m","event_id":"e","occurred_at":5.5}')
    assert (event.provider_id, event.event_id, event.occurred_at) == ("m", "e", 5.5)
