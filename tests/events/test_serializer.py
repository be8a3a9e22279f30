"""Events of every kind of class survive the round trip; what cannot be stored is refused with its reason."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from typing import Any

import msgspec
import pytest
from event_classes import (
    ADataclass,
    AFrozenDataclass,
    AnAttrs,
    AnAttrsWithMore,
    ASlottedDataclass,
    AStruct,
    Colour,
    Inner,
)

from hangarlog import (
    EVENT_TYPE_MAP,
    EventSerializationError,
    EventSerializer,
    UntypedEvent,
    get_current_version,
    register_event_type,
)
from hangarlog.events.payload import encode_object
from hangarlog.testing import registered


def round_trip(event: Any, **options: Any) -> Any:
    register_event_type(type(event))
    serializer = EventSerializer(**options)
    return serializer.deserialize(*serializer.serialize(event))


def test_a_struct_with_every_sort_of_field_survives() -> None:
    event = AStruct(
        datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, datetime.UTC),
        datetime.date(2026, 1, 2),
        uuid.UUID(int=7),
        Colour.RED,
        [Inner(1)],
        {3: (4, "x")},
        b"\x00\xff",
    )
    assert round_trip(event) == event


def test_attributes_that_a_base_class_sets_survive_in_every_kind_of_class() -> None:
    for event in (ADataclass("math"), AFrozenDataclass(1), AnAttrsWithMore(1)):
        object.__setattr__(event, "event_id", "stored")
        object.__setattr__(event, "occurred_at", 99.5)
        again = round_trip(event)
        assert again == event
        assert (again.event_id, again.occurred_at) == ("stored", 99.5)
        assert not hasattr(again, "_secret") or again._secret is not getattr(event, "_secret", None)


def test_defaults_are_written_even_if_the_event_came_out_of_a_store() -> None:
    """A default that changes later must not change history."""
    register_event_type(ADataclass)
    serializer = EventSerializer()
    again = serializer.deserialize("ADataclass", '{"provider_id":"math"}')
    _, text = serializer.serialize(again)
    assert '"count":3' in text
    assert '"tags":[]' in text


def test_slotted_and_attrs_classes_survive() -> None:
    for event in (ASlottedDataclass(1), AnAttrs(1, ["x"])):
        assert round_trip(event) == event


def test_the_payload_begins_with_its_schema_version_and_has_no_blanks() -> None:
    register_event_type(Inner)
    assert EventSerializer().serialize(Inner(1)) == ("Inner", '{"_version":1,"a":1}')

    @register_event_type
    class Empty(msgspec.Struct):
        pass

    assert EventSerializer().serialize(Empty()) == ("Empty", '{"_version":1}')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_without_a_json_form_are_refused_wherever_they_are(value: float) -> None:
    """msgspec would write null."""

    @register_event_type
    class Holder(msgspec.Struct):
        x: Any = None
        y: float = 0.0

    for event in (Holder(y=value), Holder(x=[{"a": (value,)}]), Holder(x={"k": None, "v": value})):
        with pytest.raises(EventSerializationError, match="no JSON form"):
            EventSerializer().serialize(event)
    assert round_trip(Holder(x=[None, "null"])) == Holder(x=[None, "null"])


def test_what_json_cannot_hold_is_refused() -> None:
    class Holder(msgspec.Struct):
        x: Any

    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for value in (object(), "\ud800", {1j: 1}, deep):
        with pytest.raises(EventSerializationError):
            EventSerializer().serialize(Holder(value))


def test_a_raw_field_cannot_break_the_line() -> None:
    """msgspec.Raw is written as it is, newlines and all."""

    @register_event_type
    class Holder(msgspec.Struct):
        x: msgspec.Raw

    _, text = EventSerializer().serialize(Holder(msgspec.Raw(b'{\n"a": 1}')))
    assert text == '{"_version":1,"x":{"a":1}}'


def test_classes_that_cannot_be_read_back_are_refused_at_registration() -> None:
    class ArrayLike(msgspec.Struct, array_like=True):
        a: int

    class Forbidding(msgspec.Struct, forbid_unknown_fields=True):
        a: int

    class Versioned(msgspec.Struct):
        version: int = msgspec.field(name="_version")

    class Plain:
        pass

    for bad in (ArrayLike, Forbidding, Versioned, Plain, int, 7):
        with pytest.raises(EventSerializationError):
            register_event_type(bad)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="from 1 up"):
        register_event_type(Inner, version=0)


def test_registering_is_a_call_or_a_decorator() -> None:
    @register_event_type
    class One(msgspec.Struct):
        pass

    @register_event_type(version=1, name="second")
    class Two(msgspec.Struct):
        pass

    assert EVENT_TYPE_MAP["One"] is One
    assert EVENT_TYPE_MAP["second"] is Two
    assert EventSerializer().serialize(Two())[0] == "second"
    assert (get_current_version("second"), get_current_version("never heard of")) == (1, 1)


def test_an_event_that_would_be_read_back_as_another_class_is_refused() -> None:
    def define() -> type:
        class Inner(msgspec.Struct):
            b: int

        return Inner

    register_event_type(Inner)
    with pytest.raises(EventSerializationError, match="read back as"):
        EventSerializer().serialize(define()(1))


def test_unknown_keys_of_a_payload_are_ignored_and_missing_ones_named() -> None:
    register_event_type(Inner)
    assert EventSerializer().deserialize("Inner", '{"_version":1,"a":1,"b":2}') == Inner(1)
    assert EventSerializer().deserialize("Inner", b'{"a":1}') == Inner(1)
    with pytest.raises(EventSerializationError, match="`a`"):
        EventSerializer().deserialize("Inner", '{"_version":1}')


@pytest.mark.parametrize(
    "data", ["", "[]", "{", "null", '{"_version":0}', '{"_version":"1"}', '{"_version":true}', "\ud800"]
)
def test_payloads_that_are_none_are_errors(data: str) -> None:
    register_event_type(Inner)
    for serializer in (EventSerializer(), EventSerializer(unknown="untyped")):
        for name in ("Inner", "Unheard"):
            with pytest.raises(EventSerializationError):
                serializer.deserialize(name, data)


def test_hooks_are_passed_on() -> None:
    class Holder(msgspec.Struct):
        x: complex

    event = round_trip(Holder(1 + 2j), enc_hook=lambda c: [c.real, c.imag], dec_hook=lambda _, pair: complex(*pair))
    assert event == Holder(1 + 2j)


def test_event_ids_are_text_or_uuids() -> None:
    serializer = EventSerializer()

    @register_event_type
    @dataclasses.dataclass
    class Holder:
        event_id: Any

    assert serializer.encode(Holder("x"))[1] == "x"
    assert serializer.encode(Holder(uuid.UUID(int=1)))[1] == str(uuid.UUID(int=1))
    assert serializer.encode(Holder(None))[1] is None
    for bad in (7, "", b"x"):
        with pytest.raises(EventSerializationError, match="event_id"):
            serializer.encode(Holder(bad))
    with pytest.raises(EventSerializationError, match="event_id"):
        serializer.encode(UntypedEvent("T", {}, event_id=7))  # type: ignore[arg-type]


def test_untyped_events_and_metadata_are_checked_as_typed_ones_are() -> None:
    """Whatever would make a line that cannot be read, or an event that cannot, is refused before it is written."""
    serializer = EventSerializer(unknown="untyped")
    raw = msgspec.Raw
    for bad in (
        UntypedEvent(5, {}),  # type: ignore[arg-type]
        UntypedEvent("", {}),
        UntypedEvent("\ud800", {}),
        UntypedEvent("T", {"_version": 1}),
        UntypedEvent("T", {}, 0),
        UntypedEvent("T", {}, 1.5),  # type: ignore[arg-type]
        UntypedEvent("T", {"a": raw(b"{")}),
        UntypedEvent("T", {"a": raw(b"1\n2")}),
        UntypedEvent("T", {"a": raw(b"")}),
        UntypedEvent("T", {"a": raw(b"NaN")}),
    ):
        with pytest.raises(EventSerializationError):
            serializer.encode(bad)
    for metadata in ({"a": raw(b"1\n2")}, {"a": raw(b"{")}, [], {"a": float("nan")}):
        with pytest.raises(EventSerializationError):
            encode_object(metadata, "metadata")  # type: ignore[arg-type]


def test_a_raw_field_that_is_no_json_is_refused() -> None:
    class Holder(msgspec.Struct):
        x: msgspec.Raw

    for bad in (b"{", b"", b"NaN", b"1,2", b'{"a":'):
        with pytest.raises(EventSerializationError):
            EventSerializer().serialize(Holder(msgspec.Raw(bad)))


def test_nesting_has_a_limit_that_readers_can_always_take() -> None:
    """Brackets within strings do not count."""

    class Holder(msgspec.Struct):
        x: Any

    def deep(levels: int) -> Any:
        value: Any = "[" * 500 + '\\"{'
        for _ in range(levels):
            value = [value]
        return value

    assert round_trip(Holder(deep(127))) == Holder(deep(127))
    for levels in (128, 900):
        with pytest.raises(EventSerializationError, match="nested deeper than 128"):
            EventSerializer().serialize(Holder(deep(levels)))


def test_times_and_ids_beside_the_fields_come_back_as_what_they_were() -> None:
    @dataclasses.dataclass
    class Timed:
        a: int

        def __post_init__(self) -> None:
            self.event_id = uuid.uuid4()
            self.occurred_at = datetime.datetime.now(datetime.UTC)
            if self.a > 1:
                self.more = {"x": 1}

    for event in (Timed(1), Timed(2), Timed(1)):
        assert vars(round_trip(event)) == vars(event)


def test_an_init_var_is_refused() -> None:
    @dataclasses.dataclass
    class WithInitVar:
        a: dataclasses.InitVar[int]

    with pytest.raises(EventSerializationError, match="InitVar"):
        register_event_type(WithInitVar)


@pytest.mark.parametrize("validate", [True, False])
def test_many_events_are_encoded_as_each_of_them_is(validate: bool) -> None:
    """Also where one among them is of another class, has no plain id, is not finite, or brings its own JSON."""

    @register_event_type
    class Plain(msgspec.Struct):
        event_id: Any
        value: Any = 1

    @register_event_type
    class Empty(msgspec.Struct):
        pass

    @register_event_type
    class Named(msgspec.Struct):
        name: str
        size: float = 0.0

    deep: Any = "x" * 300
    for _ in range(40):
        deep = [deep]
    serializer = EventSerializer(validate=validate)
    for events in (
        [Named("a"), Named("b", 1.5)],
        [Named("a"), Named("b" * 400), Named("{}")],
        [Named("a"), Plain("1")],
        [Plain("1"), Plain("2", deep)],
        [Plain("1"), Plain(None), Plain(uuid.UUID(int=1)), Plain("é")],
        [Plain("1", None), Plain("2", "null")],
        [Plain("1", msgspec.Raw(b'{"a":\n1}')), Plain("2")],
        [Named(msgspec.Raw(b'"a\\n"')), Named("b")],  # type: ignore[arg-type]
        [Empty(), Empty()],
        [UntypedEvent("A", {"b": 1}), UntypedEvent("B", {})],
        [],
    ):
        assert serializer.encode_all(events) == [serializer.encode(event) for event in events]
    for bad in (
        [Named("a"), Named("b", float("nan"))],
        [Named("a"), Named(msgspec.Raw(b"{"))],  # type: ignore[arg-type]
        [Plain("1"), Plain("")],
        [Plain("1"), Plain("2", msgspec.Raw(b"[" * 300 + b"]" * 300))],
        [Named("a"), Named(msgspec.Raw(b"[" * 300 + b"]" * 300))],  # type: ignore[arg-type]
    ):
        with pytest.raises(EventSerializationError):
            serializer.encode_all(bad)


def test_whatever_a_hook_raises_is_an_event_that_does_not_fit() -> None:
    """The error names the event type, and has no place if no store has read the event."""

    class Money:
        pass

    def hook(kind: type, value: Any) -> Any:
        raise KeyError(value)

    with registered(Paid=msgspec.defstruct("Paid", [("amount", Money)])):
        with pytest.raises(EventSerializationError, match="does not fit") as caught:
            EventSerializer(dec_hook=hook).deserialize("Paid", b'{"_version":1,"amount":3}')
        assert (caught.value.stream_id, caught.value.stream_version, caught.value.position) == (None, None, None)


def test_options_for_unreadable_events_are_checked() -> None:
    """Untyped includes `unknown` and `newer`, except where "pass" is asked for."""
    with pytest.raises(ValueError, match="unreadable"):
        EventSerializer(unreadable="drop")  # type: ignore[arg-type]
    assert EventSerializer(unreadable="untyped").unknown == "untyped"
    assert EventSerializer(unreadable="untyped").newer == "raw"
    assert EventSerializer(unreadable="untyped", newer="pass").newer == "pass"
    assert EventSerializer(unreadable="skip").unknown == "error"
