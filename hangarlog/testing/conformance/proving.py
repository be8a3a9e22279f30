"""Conformance tests of the proof: what an append acknowledges can be read back."""

from __future__ import annotations

from typing import Any

from hangarlog.errors import EventSerializationError, UpcastingError
from hangarlog.events.registry import EVENT_VERSION_MAP, UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.eventstore.expected_version import ANY
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, Noted, raises, registered


class ProofConformance(Opening):
    """How every event store refuses what it could not read back."""

    def test_an_event_that_could_not_be_read_is_refused_before_anything_is_written(self) -> None:
        """Alone, among others, in one of several streams, and as an attribute of a dataclass. The field is named."""
        wrong: Any = 1.5
        with self.store() as store:
            for bad, field in ((Counted(wrong), "$.number"), (Noted(wrong), "$.text")):
                for events in ([bad], [Counted(1), bad], [bad] * 3):
                    with raises(EventSerializationError) as caught:
                        store.append("a:1", events, ANY)
                    assert field in str(caught.error)
                with raises(EventSerializationError):
                    store.append_many([("a:1", [Counted(1)], ANY), ("a:2", [bad], ANY)])
            assert store.get_event_count() == 0

    def test_an_event_whose_class_is_not_registered_is_refused(self) -> None:
        """Unless the proof is switched off."""
        with registered(), self.open_store(EventSerializer()) as store:
            with raises(EventSerializationError):
                store.append("a:1", [Counted(1)], ANY)
            assert store.get_stream_version("a:1") == -1
        with registered(), self.open_store(EventSerializer(validate=False)) as store:
            store.append("a:1", [Counted(1)], ANY)

    def test_an_untyped_event_of_a_registered_type_must_reach_its_class(self) -> None:
        """Through the upcasters."""
        chain = UpcasterChain()
        chain.upcaster("Counted", 1)(lambda data: {"number": data["n"]})
        with registered(Counted=Counted):
            EVENT_VERSION_MAP["Counted"] = 2
            with self.open_store(EventSerializer(chain)) as store:
                store.append("a:1", [UntypedEvent("Counted", {"n": 1})], ANY)
                with raises(EventSerializationError):
                    store.append("a:1", [UntypedEvent("Counted", {"n": "x"})], ANY)
                with raises(UpcastingError):
                    store.append("a:1", [UntypedEvent("Counted", {"other": 1})], ANY)
                assert store.read_stream("a:1") == [Counted(1)]
