"""The conformance suite that every event store must pass. It uses only the interface of `hangarlog.EventStore`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from hangarlog.errors import (
    CompactionError,
    ConcurrencyError,
    EventSerializationError,
    RetryUnknownError,
    StreamIdError,
    StreamNotFoundError,
    UnknownEventTypeError,
    UpcastingError,
)
from hangarlog.events.registry import DEFAULT_REGISTRY, EVENT_TYPE_MAP, EVENT_VERSION_MAP, UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS
from hangarlog.testing.events import Counted, Noted, raises, registered


class EventStoreConformance:
    """The tests that every event store must pass. Subclass it and define `open_store`. Each test opens a new store."""

    def open_store(self, serializer: EventSerializer) -> EventStore:
        """Return a new, empty store that uses `serializer`."""
        raise TypeError("a conformance test class must define open_store(serializer)")

    @contextlib.contextmanager
    def _store(self, chain: UpcasterChain | None = None, **options: Any) -> Iterator[EventStore]:
        with registered(Counted=Counted, Noted=Noted), self.open_store(EventSerializer(chain, **options)) as store:
            yield store

    # Appending

    def test_versions_count_from_zero_and_positions_from_one(self) -> None:
        """Both have no gaps."""
        with self._store() as store:
            assert store.append("a:1", [Counted(1), Counted(2)], NO_STREAM) == 1
            assert store.append("a:2", [Counted(3)], -1) == 0
            assert store.append("a:1", [Counted(4)], 1) == 2
            records = list(store.records())
            assert [r.position for r in records] == [1, 2, 3, 4]
            assert [(r.stream_id, r.stream_version) for r in records] == [
                ("a:1", 0),
                ("a:1", 1),
                ("a:2", 0),
                ("a:1", 2),
            ]

    def test_a_wrong_exact_version_is_a_conflict_that_writes_nothing(self) -> None:
        """The error has the stream, the expected and the actual version."""
        with self._store() as store:
            store.append("a:1", [Counted(1)], NO_STREAM)
            for expected in (NO_STREAM, 1, 7):
                with raises(ConcurrencyError) as caught:
                    store.append("a:1", [Counted(2)], expected)
                conflict = caught.error
                assert (conflict.stream_id, conflict.expected, conflict.actual) == ("a:1", expected, 0)
            assert store.read_stream("a:1") == [Counted(1)]
            assert store.get_event_count() == 1

    def test_any_matches_whatever_the_stream_holds(self) -> None:
        """The stream may be new or have events."""
        with self._store() as store:
            assert store.append("a:1", [Counted(1)], ANY) == 0
            assert store.append("a:1", [Counted(2)], ANY) == 1
            assert store.append_at_end("a:1", [Counted(3)]) == 2
            assert store.append_at_end("a:2", [Counted(4)]) == 0

    def test_stream_exists_refuses_a_new_stream(self) -> None:
        """It accepts a stream with events."""
        with self._store() as store:
            with raises(ConcurrencyError):
                store.append("a:1", [Counted(1)], STREAM_EXISTS)
            store.append("a:1", [Counted(1)], NO_STREAM)
            assert store.append("a:1", [Counted(2)], STREAM_EXISTS) == 1

    def test_an_append_of_nothing_checks_and_writes_nothing(self) -> None:
        """It returns the stream's version."""
        with self._store() as store:
            store.append("a:1", [Counted(1)], NO_STREAM)
            assert store.append("a:1", [], 0) == 0
            assert store.append_at_end("a:1", []) == 0
            with raises(ConcurrencyError):
                store.append("a:1", [], 5)
            assert store.get_event_count() == 1

    def test_a_retry_by_event_id_succeeds_without_writing_twice(self) -> None:
        """The retry may name an exact version or the end, and may come after other appends."""
        with self._store() as store:
            first = [Counted(1, event_id="x1"), Counted(2, event_id="x2")]
            assert store.append("a:1", first, NO_STREAM) == 1
            assert store.append("a:1", first, NO_STREAM) == 1
            assert store.append_at_end("a:1", first) == 1
            store.append("a:1", [Counted(3, event_id="x3")], 1)
            assert store.append("a:1", first, NO_STREAM) == 1
            assert store.get_event_count() == 3

    def test_other_ids_at_that_place_are_a_conflict(self) -> None:
        """A batch is one too if only some of its events are there."""
        with self._store() as store:
            store.append("a:1", [Counted(1, event_id="x1")], NO_STREAM)
            with raises(ConcurrencyError):
                store.append("a:1", [Counted(1, event_id="other")], NO_STREAM)
            with raises(ConcurrencyError):
                store.append("a:1", [Counted(1, event_id="x1"), Counted(2, event_id="x2")], NO_STREAM)
            assert store.get_event_count() == 1

    def test_without_retry_event_ids_are_not_looked_at(self) -> None:
        """An append writes at a matching version and conflicts at any other, also in `append_many`."""
        with self._store() as store:
            same = [Counted(1, event_id="x1")]
            assert store.append("a:1", same, NO_STREAM, retry=False) == 0
            assert store.append("a:1", same, 0, retry=False) == 1
            assert store.append_at_end("a:1", same, retry=False) == 2
            assert store.append_many([("a:1", same, STREAM_EXISTS)], retry=False) == {"a:1": 3}
            with raises(ConcurrencyError):
                store.append("a:1", same, NO_STREAM, retry=False)
            with raises(ConcurrencyError):
                store.append_many([("a:1", same, 2)], retry=False)
            assert store.get_event_count() == 4

    def test_what_is_a_retry_and_what_is_none(self) -> None:
        """With `ANY` and `STREAM_EXISTS`, only the stream's last events are a retry. Without ids, nothing is."""
        with self._store() as store:
            mine, other = [Counted(1, event_id="x1")], [Counted(2, event_id="x2")]
            store.append_at_end("a:1", mine)
            assert store.append("a:1", mine, STREAM_EXISTS) == 0
            assert store.append_at_end("a:1", other) == 1
            assert store.append_at_end("a:1", mine) == 2
            with raises(ConcurrencyError) as caught:
                store.append("a:1", [Counted(1)], NO_STREAM)
            assert type(caught.error) is ConcurrencyError
            assert store.get_event_count() == 3

    def test_a_retry_of_compacted_events_is_no_plain_conflict(self) -> None:
        """Compaction keeps only the last event's id, so the error says that the append may be a retry."""
        with self._store() as store:
            batch = [Counted(n, event_id=f"x{n}") for n in range(3)]
            store.append("a:1", batch, NO_STREAM)
            store.save_snapshot("a:1", 2, {})
            store.compact_stream("a:1")
            assert store.append("a:1", batch, NO_STREAM) == 2
            assert store.append_at_end("a:1", batch) == 2
            store.append("a:1", [Counted(3, event_id="x3")], 2)
            with raises(RetryUnknownError) as caught:
                store.append("a:1", batch, NO_STREAM)
            unknown = caught.error
            assert (unknown.stream_id, unknown.expected, unknown.actual) == ("a:1", NO_STREAM, 3)
            for events, expected in (([Counted(0)], NO_STREAM), (batch, 1)):
                with raises(ConcurrencyError) as caught:
                    store.append("a:1", events, expected)
                assert type(caught.error) is ConcurrencyError
            assert store.get_event_count() == 4

    def test_append_many_is_all_or_nothing_over_streams(self) -> None:
        """A conflict on one stream leaves the others unchanged."""
        with self._store() as store:
            store.append("a:1", [Counted(1)], NO_STREAM)
            with raises(ConcurrencyError) as caught:
                store.append_many([("a:2", [Counted(2)], NO_STREAM), ("a:1", [Counted(3)], NO_STREAM)])
            assert caught.error.stream_id == "a:1"
            assert store.list_streams() == ["a:1"]
            versions = store.append_many([("a:2", [Counted(2)], NO_STREAM), ("a:1", [Counted(3), Counted(4)], 0)])
            assert versions == {"a:2": 0, "a:1": 2}
            assert [r.position for r in store.records()] == [1, 2, 3, 4]

    def test_append_many_is_retried_as_a_whole(self) -> None:
        """It refuses a stream that is named twice, and a batch if only some of its streams were written."""
        with self._store() as store:
            batch = [("a:1", [Counted(1, event_id="x1")], NO_STREAM), ("a:2", [Counted(2, event_id="x2")], NO_STREAM)]
            assert store.append_many(batch) == {"a:1": 0, "a:2": 0}
            assert store.append_many(batch) == {"a:1": 0, "a:2": 0}
            assert store.get_event_count() == 2
            with raises(ConcurrencyError):
                store.append_many([batch[0], ("a:3", [Counted(3, event_id="x3")], NO_STREAM)])
            with raises(ValueError):
                store.append_many([batch[0], batch[0]])

    def test_an_event_that_cannot_be_encoded_fails_before_anything_is_written(self) -> None:
        """This includes NaN, infinity and lone surrogates, also at the end of a batch."""
        with self._store() as store:
            for bad in (
                Noted("x", level=float("nan")),  # type: ignore[arg-type]
                UntypedEvent("T", {"x": [1.0, float("inf")]}),
                UntypedEvent("T", {"x": {"y": float("-inf")}}),
                UntypedEvent("T", {"x": object()}),
                Noted("\ud800"),
                object(),
            ):
                with raises(EventSerializationError):
                    store.append("a:1", [Counted(1), bad], NO_STREAM)
            assert store.get_event_count() == 0
            assert store.list_streams() == []

    def test_bad_stream_ids_are_refused(self) -> None:
        """Both appends and reads refuse them."""
        with self._store() as store:
            for bad in (
                "",
                "  ",
                "/etc/passwd",
                "\\x",
                "C:\\x",
                "x/../../y",
                "\ud800",
                None,
                "..",
                "a:..",
                "../x",
                "$all",
                "x" * 2000,
                "a\nb",
                "a\x00b",
                ":x",
                "x:",
                7,
            ):
                with raises(StreamIdError):
                    store.append(bad, [Counted(1)], ANY)  # type: ignore[arg-type]
                with raises(StreamIdError):
                    store.read_stream(bad)  # type: ignore[arg-type]
            assert store.get_event_count() == 0

    def test_ids_that_look_alike_are_different_streams(self) -> None:
        """They may differ only in case, normal form, separator or length."""
        ids = [
            "a/b",
            "a_b",
            "A_b",
            "a:b",
            "a:b:c",
            "a:b%3Ac",
            "caf\u00e9",
            "cafe\u0301",
            "x:con",
            "x:CON",
            "x." + "0" * 20,
        ]
        ids += ["x", "con", "x.jsonl", "x.jsonl:y", "\u00e9" * 128, "\u00e9" * 129, "y:" + "z" * 500, "y:" + "z" * 501]
        with self._store() as store:
            for number, stream_id in enumerate(ids):
                assert store.append(stream_id, [Counted(number)], NO_STREAM) == 0
            assert store.list_streams() == sorted(ids)
            for number, stream_id in enumerate(ids):
                assert store.read_stream(stream_id) == [Counted(number)]

    def test_threads_that_expect_versions_lose_and_double_nothing(self) -> None:
        """Eight threads append to one stream."""
        with self._store() as store:

            def add(own: int) -> None:
                for number in range(20):
                    while True:
                        version = store.get_stream_version("a:1")
                        with contextlib.suppress(ConcurrencyError):
                            store.append("a:1", [Counted(own * 1000 + number)], version)
                            break

            threads = [threading.Thread(target=add, args=(own,)) for own in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            numbers = [event.number for event in store.read_stream("a:1")]
            assert sorted(numbers) == [own * 1000 + number for own in range(8) for number in range(20)]
            assert [r.stream_version for r in store.records("a:1")] == list(range(160))

    # Reading

    def _fill(self, store: EventStore) -> None:
        for number in range(30):
            stream_id = ("a:1", "b:1", "plain")[number % 3]
            event = Noted(f"n{number}") if number % 2 else Counted(number)
            store.append_at_end(stream_id, [event])

    def test_read_stream_begins_at_a_version(self) -> None:
        """The version is inclusive. Beyond the end, or without such a stream, the result is empty."""
        with self._store() as store:
            store.append("a:1", [Counted(n) for n in range(5)], NO_STREAM)
            for start in range(7):
                assert store.read_stream("a:1", from_version=start) == [Counted(n) for n in range(start, 5)]
            assert store.read_stream("a:none") == []

    def test_read_all_begins_after_a_position(self) -> None:
        """The position is exclusive, and the default limit is 1,000."""
        with self._store() as store:
            for start in range(0, 1200, 100):
                store.append_at_end("a:1", [Counted(n) for n in range(start, start + 100)])
            assert [p for p, _, _ in store.read_all()] == list(range(1, 1001))
            assert [p for p, _, _ in store.read_all(from_position=1150)] == list(range(1151, 1201))
            assert list(store.read_all(from_position=3, limit=2)) == [(4, "a:1", Counted(3)), (5, "a:1", Counted(4))]
            assert list(store.read_all(limit=0)) == list(store.read_all(from_position=1200)) == []

    def test_records_give_the_envelope_and_the_typed_event(self) -> None:
        """The envelope has the metadata and the event's own id."""
        with self._store() as store:
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
        with self._store() as store:
            self._fill(store)
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
        with self._store() as store:
            self._fill(store)
            seen = store.durable_position
            assert 0 <= seen <= 30
            assert [p for p, _, _ in store.read_all(durable=True, on_damage="skip")] == list(range(1, seen + 1))
            assert [r.position for r in store.records(durable=True, reverse=True)] == list(range(seen, 0, -1))
            of_stream = [r.event for r in store.records("a:1", on_damage="skip") if r.position <= seen]
            assert store.read_stream("a:1", durable=True) == of_stream
            assert sum(len(block) for block in store.envelopes("a:1", durable=True)) == len(of_stream)
            with raises(ValueError):
                store.read_stream("a:1", on_damage="pass")  # type: ignore[arg-type]

    def test_records_by_category_and_by_type(self) -> None:
        """A limit counts the records returned, not those skipped."""
        with self._store() as store:
            self._fill(store)
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
        with self._store() as store:
            assert store.list_streams() == []
            assert (store.get_event_count(), store.get_stream_count(), store.get_stream_version("a:1")) == (0, 0, -1)
            self._fill(store)
            assert store.list_streams() == store.get_all_stream_ids() == ["a:1", "b:1", "plain"]
            assert store.list_streams(prefix="a") == store.list_streams(prefix="a:") == ["a:1"]
            assert store.list_streams(prefix="z") == store.list_streams(prefix="a:2") == []
            assert (store.get_event_count(), store.get_stream_count(), store.get_stream_version("a:1")) == (30, 3, 9)

    # Types and schema versions

    def test_attributes_outside_the_fields_survive(self) -> None:
        """`event_id` is also the envelope's id."""
        with self._store() as store:
            event = Noted("x", level="warn")
            event.event_id, event.occurred_at = "mine", 1.5
            store.append("a:1", [event], NO_STREAM)
            (record,) = store.records("a:1")
            assert (record.event.event_id, record.event.occurred_at, record.event_id) == ("mine", 1.5, "mine")
            assert record.event == event

    def test_an_unregistered_type_is_a_clear_error_unless_untyped_is_asked_for(self) -> None:
        """Untyped events are read back unchanged."""
        event = UntypedEvent("Unheard", {"x": 1, "y": None}, schema_version=3)
        with self._store() as store:
            store.append("a:1", [event], NO_STREAM)
            with raises(UnknownEventTypeError) as caught:
                store.read_stream("a:1")
            assert caught.error.event_type == "Unheard"
        with self._store(unknown="untyped") as store:
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
        with self._store() as store:
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

    # Snapshots

    def test_the_latest_snapshot_is_loaded(self) -> None:
        """It is None if there is no snapshot, or only one of another schema version."""
        with self._store() as store:
            assert store.load_snapshot("a:1") is None
            store.append("a:1", [Counted(n) for n in range(5)], NO_STREAM)
            store.save_snapshot("a:1", 2, {"sum": 3, "names": ["\u00e9"]})
            assert store.load_snapshot("a:1") == {"version": 2, "state": {"sum": 3, "names": ["\u00e9"]}}
            store.save_snapshot("a:1", 4, {"sum": 10}, schema_version=2)
            assert store.load_snapshot("a:1") == {"version": 4, "state": {"sum": 10}}
            assert store.load_snapshot("a:1", schema_version=1) is None
            with raises(EventSerializationError):
                store.save_snapshot("a:1", 4, {"x": float("nan")})

    def test_compaction_drops_what_the_snapshot_covers_and_keeps_the_version(self) -> None:
        """A second compaction drops nothing, and appends continue."""
        with self._store() as store:
            with raises(StreamNotFoundError):
                store.compact_stream("a:1")
            store.append("a:1", [Counted(n) for n in range(10)], NO_STREAM)
            with raises(CompactionError):
                store.compact_stream("a:1")
            store.save_snapshot("a:1", 6, {"n": 6})
            assert store.compact_stream("a:1") == 7
            assert store.compact_stream("a:1") == 0
            assert store.read_stream("a:1") == [Counted(7), Counted(8), Counted(9)]
            assert [r.stream_version for r in store.records("a:1", reverse=True)] == [9, 8, 7]
            assert store.append("a:1", [Counted(10)], 9) == 10
            store.save_snapshot("a:1", 10, {"n": 10})
            assert store.compact_stream("a:1") == 4
            assert store.read_stream("a:1") == []
            assert store.get_stream_version("a:1") == 10
            assert store.load_snapshot("a:1") == {"version": 10, "state": {"n": 10}}
            assert store.append("a:1", [Counted(11)], 10) == 11
            assert store.read_stream("a:1") == [Counted(11)]
