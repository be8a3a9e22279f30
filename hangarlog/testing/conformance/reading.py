"""Conformance tests of reads: where they begin and end, which records they return."""

from __future__ import annotations

from hangarlog.eventstore.expected_version import NO_STREAM
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, raises


class ReadConformance(Opening):
    """How every event store reads."""

    def test_read_stream_begins_at_a_version(self) -> None:
        """The version is inclusive. Beyond the end, or without such a stream, the result is empty."""
        with self.store() as store:
            store.append("a:1", [Counted(n) for n in range(5)], NO_STREAM)
            for start in range(7):
                assert store.read_stream("a:1", from_version=start) == [Counted(n) for n in range(start, 5)]
            assert store.read_stream("a:none") == []

    def test_read_all_begins_after_a_position(self) -> None:
        """The position is exclusive, and without a limit all are read."""
        with self.store() as store:
            for start in range(0, 1200, 100):
                store.append_at_end("a:1", [Counted(n) for n in range(start, start + 100)])
            assert [p for p, _, _ in store.read_all()] == list(range(1, 1201))
            assert [p for p, _, _ in store.read_all(from_position=1150)] == list(range(1151, 1201))
            assert list(store.read_all(from_position=3, limit=2)) == [(4, "a:1", Counted(3)), (5, "a:1", Counted(4))]
            assert list(store.read_all(limit=0)) == list(store.read_all(from_position=1200)) == []

    def test_records_give_the_envelope_and_the_typed_event(self) -> None:
        """The envelope has the metadata and the event's own id."""
        with self.store() as store:
            store.append("a:1", [Counted(1, event_id="own")], NO_STREAM, metadata={"correlation_id": "c", "n": 1})
            store.append("a:1", [Counted(2), Counted(3)], 0)
            first, second, third = store.records("a:1")
            assert (first.position, first.stream_id, first.stream_version) == (1, "a:1", 0)
            assert (first.event_type, first.event_id, first.event) == ("Counted", "own", Counted(1, event_id="own"))
            assert first.metadata == {"correlation_id": "c", "n": 1}
            assert second.metadata is None
            assert first.recorded_at <= second.recorded_at == third.recorded_at
            assert first.recorded_at.utcoffset() is not None
            assert second.event_id != third.event_id

    def test_records_forwards_and_backwards_from_any_version_and_position(self) -> None:
        """Versions are inclusive, positions exclusive, in the direction of reading."""
        with self.store() as store:
            self.fill(store)
            versions = list(range(10))
            for at in range(11):
                forward = [r.stream_version for r in store.records("b:1", from_version=at)]
                backward = [r.stream_version for r in store.records("b:1", from_version=at, reverse=True)]
                assert forward == versions[at:]
                assert backward == versions[: at + 1][::-1]
            for at in range(31):
                assert [r.position for r in store.records(from_position=at)] == list(range(at + 1, 31))
                assert [r.position for r in store.records(from_position=at, reverse=True)] == list(range(at - 1, 0, -1))
                of_stream = [r.position for r in store.records("b:1", from_position=at)]
                assert of_stream == [p for p in range(2, 31, 3) if p > at]
                of_stream = [r.position for r in store.records("b:1", from_position=at, reverse=True)]
                assert of_stream == [p for p in range(29, 0, -3) if p < at]
            assert [r.position for r in store.records(limit=3, reverse=True)] == [30, 29, 28]

    def test_only_what_is_durable_can_be_asked_for(self) -> None:
        """Every read accepts `durable`, which ends at `durable_position`, and `on_damage`."""
        with self.store() as store:
            self.fill(store)
            seen = store.durable_position
            assert 0 <= seen <= 30
            assert [p for p, _, _ in store.read_all(durable=True, on_damage="skip")] == list(range(1, seen + 1))
            assert [r.position for r in store.records(durable=True, reverse=True)] == list(range(seen, 0, -1))
            of_stream = [r.event for r in store.records("a:1", on_damage="skip") if r.position <= seen]
            assert store.read_stream("a:1", durable=True) == of_stream
            assert sum(len(block) for block in store.envelopes("a:1", durable=True)) == len(of_stream)
            store.sync()
            assert store.durable_position == 30
            with raises(ValueError):
                store.read_stream("a:1", on_damage="pass")  # type: ignore[call-overload]

    def test_records_by_category_and_by_type(self) -> None:
        """A limit counts the records returned, not those skipped."""
        with self.store() as store:
            self.fill(store)
            assert {r.stream_id for r in store.records(category="a")} == {"a:1"}
            assert {r.stream_id for r in store.records(category="")} == {"plain"}
            assert len(list(store.records(category="a"))) == 10
            assert {r.event_type for r in store.records(event_types=["Noted"])} == {"Noted"}
            assert [r.position for r in store.records(event_types={"Counted"}, limit=3)] == [1, 3, 5]
            assert [r.position for r in store.records(category="b", event_types=["Noted"], reverse=True, limit=2)] == [
                26,
                20,
            ]

    def test_streams_are_listed_and_counted(self) -> None:
        """The list is sorted, and can be limited to a prefix."""
        with self.store() as store:
            assert store.list_streams() == []
            assert (store.get_event_count(), store.get_stream_count(), store.get_stream_version("a:1")) == (0, 0, -1)
            self.fill(store)
            assert store.list_streams() == store.get_all_stream_ids() == ["a:1", "b:1", "plain"]
            assert store.list_streams(prefix="a") == store.list_streams(prefix="a:") == ["a:1"]
            assert store.list_streams(prefix="z") == store.list_streams(prefix="a:2") == []
            assert (store.get_event_count(), store.get_stream_count(), store.get_stream_version("a:1")) == (30, 3, 9)
