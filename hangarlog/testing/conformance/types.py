"""Conformance tests of event types: upcasters, renamed, split, dropped and unknown types."""

from __future__ import annotations

from hangarlog.errors import (
    UnknownEventTypeError,
    UpcastingError,
)
from hangarlog.events.registry import DEFAULT_REGISTRY, EVENT_TYPE_MAP, EVENT_VERSION_MAP, UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.eventstore.expected_version import ANY, NO_STREAM
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, Noted, raises, registered


class TypeConformance(Opening):
    """How every event store reads types and schema versions."""

    def test_attributes_outside_the_fields_survive(self) -> None:
        """`event_id` is also the envelope's id."""
        with self.store() as store:
            event = Noted("x", level="warn")
            event.event_id, event.occurred_at = "mine", 1.5
            store.append("a:1", [event], NO_STREAM)
            (record,) = store.records("a:1")
            assert (record.event.event_id, record.event.occurred_at, record.event_id) == ("mine", 1.5, "mine")
            assert record.event == event

    def test_an_unregistered_type_is_a_clear_error_unless_untyped_is_asked_for(self) -> None:
        """Untyped events are read back unchanged."""
        event = UntypedEvent("Unheard", {"x": 1, "y": None}, schema_version=3)
        with self.store() as store:
            store.append("a:1", [event], NO_STREAM)
            with raises(UnknownEventTypeError) as caught:
                store.read_stream("a:1")
            assert caught.error.event_type == "Unheard"
        with self.store(unknown="untyped") as store:
            store.append("a:1", [event, Counted(1)], NO_STREAM)
            assert store.read_stream("a:1") == [event, Counted(1)]

    def test_old_payloads_are_upcast_on_read(self) -> None:
        """Upcasters run step by step, unknown keys are ignored, and a newer payload is an error."""
        chain = UpcasterChain()
        chain.upcaster("Counted", 1)(lambda data: {"n": data["old"]})
        chain.upcaster("Counted", 2)(lambda data: {"number": data["n"], "gone": True})
        with registered(Counted=Counted):
            EVENT_VERSION_MAP["Counted"] = 3
            with self.open_store(EventSerializer(chain)) as store:
                store.append("a:1", [UntypedEvent("Counted", {"old": 1}), UntypedEvent("Counted", {"n": 2}, 2)], ANY)
                store.append("a:1", [Counted(3)], 1)
                assert store.read_stream("a:1") == [Counted(1), Counted(2), Counted(3)]
            with self.open_store(EventSerializer(chain, validate=False)) as store:
                store.append("a:2", [UntypedEvent("Counted", {"number": 4}, 4)], ANY)
                with raises(UpcastingError):
                    store.read_stream("a:2")

    def test_a_gap_in_a_chain_is_said_when_the_store_is_built(self) -> None:
        """The error names the type and the version."""
        with registered(Counted=Counted):
            serializer = EventSerializer()
            EVENT_VERSION_MAP["Counted"] = 2
            with raises(UpcastingError) as caught:
                self.open_store(serializer)
            assert str(caught.error).startswith("Missing upcaster")
            assert (caught.error.event_type, caught.error.from_version) == ("Counted", 1)

    def test_a_renamed_type_stays_readable_through_its_old_name(self) -> None:
        """New events are written under its new name."""
        with self.store() as store:
            store.append("a:1", [UntypedEvent("Tallied", {"number": 1})], NO_STREAM)
            EVENT_TYPE_MAP["Tallied"] = Counted
            store.append("a:1", [Counted(2)], 0)
            assert store.read_stream("a:1") == [Counted(1), Counted(2)]
            assert [r.event_type for r in store.records("a:1")] == ["Tallied", "Counted"]

    def test_a_split_type_gives_its_parts_and_a_dropped_one_nothing(self) -> None:
        """The parts have the position and version of the stored event. A dropped event keeps its own."""
        chain = UpcasterChain()
        chain.splitter("Twice", 1)(
            lambda data: [("Counted", {"number": data["a"]}), ("Counted", {"number": data["b"]})]
        )
        with registered(Counted=Counted):
            DEFAULT_REGISTRY.drop("Noise", reason="a test")
            with self.open_store(EventSerializer(chain)) as store:
                stored = [
                    UntypedEvent("Twice", {"a": 1, "b": 2}),
                    UntypedEvent("Noise", {}),
                    UntypedEvent("Counted", {"number": 3}),
                ]
                store.append("a:1", stored, NO_STREAM)
                assert store.read_stream("a:1") == [Counted(1), Counted(2), Counted(3)]
                assert [(place, event.number) for place, _, event in store.read_all()] == [(1, 1), (1, 2), (3, 3)]
                assert [r.stream_version for r in store.records("a:1")] == [0, 0, 2]
                assert [r.event.number for r in store.records("a:1", reverse=True)] == [3, 1, 2]
                assert store.get_stream_version("a:1") == 2
