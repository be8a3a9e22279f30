"""Conformance tests of appends: expected versions, retries, batches, stream ids."""

from __future__ import annotations

import contextlib
import threading
from datetime import UTC, datetime
from typing import Any

from hangarlog.errors import (
    ConcurrencyError,
    EventSerializationError,
    RetryUnknownError,
    StreamIdError,
)
from hangarlog.events.encoded_event import EncodedEvent
from hangarlog.events.registry import UntypedEvent
from hangarlog.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, Noted, raises


class AppendConformance(Opening):
    """How every event store appends."""

    def test_versions_count_from_zero_and_positions_from_one(self) -> None:
        """Both have no gaps."""
        with self.store() as store:
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
        with self.store() as store:
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
        with self.store() as store:
            assert store.append("a:1", [Counted(1)], ANY) == 0
            assert store.append("a:1", [Counted(2)], ANY) == 1
            assert store.append_at_end("a:1", [Counted(3)]) == 2
            assert store.append_at_end("a:2", [Counted(4)]) == 0

    def test_stream_exists_refuses_a_new_stream(self) -> None:
        """It accepts a stream with events."""
        with self.store() as store:
            with raises(ConcurrencyError):
                store.append("a:1", [Counted(1)], STREAM_EXISTS)
            store.append("a:1", [Counted(1)], NO_STREAM)
            assert store.append("a:1", [Counted(2)], STREAM_EXISTS) == 1

    def test_an_append_of_nothing_checks_and_writes_nothing(self) -> None:
        """It returns the stream's version."""
        with self.store() as store:
            store.append("a:1", [Counted(1)], NO_STREAM)
            assert store.append("a:1", [], 0) == 0
            assert store.append_at_end("a:1", []) == 0
            with raises(ConcurrencyError):
                store.append("a:1", [], 5)
            assert store.get_event_count() == 1

    def test_a_retry_by_event_id_succeeds_without_writing_twice(self) -> None:
        """The retry may name an exact version or the end, and may come after other appends."""
        with self.store() as store:
            first = [Counted(1, event_id="x1"), Counted(2, event_id="x2")]
            assert store.append("a:1", first, NO_STREAM) == 1
            assert store.append("a:1", first, NO_STREAM) == 1
            assert store.append_at_end("a:1", first) == 1
            store.append("a:1", [Counted(3, event_id="x3")], 1)
            assert store.append("a:1", first, NO_STREAM) == 1
            assert store.get_event_count() == 3

    def test_other_ids_at_that_place_are_a_conflict(self) -> None:
        """A batch is one too if only some of its events are there."""
        with self.store() as store:
            store.append("a:1", [Counted(1, event_id="x1")], NO_STREAM)
            with raises(ConcurrencyError):
                store.append("a:1", [Counted(1, event_id="other")], NO_STREAM)
            with raises(ConcurrencyError):
                store.append("a:1", [Counted(1, event_id="x1"), Counted(2, event_id="x2")], NO_STREAM)
            assert store.get_event_count() == 1

    def test_without_retry_event_ids_are_not_looked_at(self) -> None:
        """An append writes at a matching version and conflicts at any other, also in `append_many`."""
        with self.store() as store:
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
        with self.store() as store:
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
        with self.store() as store:
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
        with self.store() as store:
            store.append("a:1", [Counted(1)], NO_STREAM)
            with raises(ConcurrencyError) as caught:
                store.append_many([("a:2", [Counted(2)], NO_STREAM), ("a:1", [Counted(3)], NO_STREAM)])
            assert caught.error.stream_id == "a:1"
            assert store.list_streams() == ["a:1"]
            versions = store.append_many([("a:2", [Counted(2)], NO_STREAM), ("a:1", [Counted(3), Counted(4)], 0)])
            assert versions == {"a:2": 0, "a:1": 2}
            assert [r.position for r in store.records()] == [1, 2, 3, 4]

    def test_append_many_is_retried_as_a_whole(self) -> None:
        """It refuses a batch if only some of its streams were written."""
        with self.store() as store:
            batch = [("a:1", [Counted(1, event_id="x1")], NO_STREAM), ("a:2", [Counted(2, event_id="x2")], NO_STREAM)]
            assert store.append_many(batch) == {"a:1": 0, "a:2": 0}
            assert store.append_many(batch) == {"a:1": 0, "a:2": 0}
            assert store.get_event_count() == 2
            with raises(ConcurrencyError):
                store.append_many([batch[0], ("a:3", [Counted(3, event_id="x3")], NO_STREAM)])

    def test_an_append_says_where_the_events_are(self) -> None:
        """The result is the version. It knows the positions and ids, and whether anything was written."""
        with self.store() as store:
            store.append("a:1", [Counted(0)], NO_STREAM)
            result = store.append("b:1", [Counted(1, event_id="x1"), Counted(2)], NO_STREAM)
            assert isinstance(result, int)
            assert (result, result.first_version, result.first_position, result.last_position) == (1, 0, 2, 3)
            stored = [record.event_id for record in store.records("b:1")]
            assert list(result.event_ids) == stored
            assert stored[0] == "x1"
            assert result.written
            assert store.append("b:1", [Counted(3)], result).first_version == 2

    def test_a_retry_says_where_the_events_were_written(self) -> None:
        """Nothing is written. The positions are those of the first time."""
        with self.store() as store:
            batch = [Counted(n, event_id=f"x{n}") for n in range(3)]
            first = store.append("a:1", batch, NO_STREAM)
            store.append("b:1", [Counted(9)], NO_STREAM)
            for expected in (NO_STREAM, ANY, STREAM_EXISTS):
                again = store.append("a:1", batch, expected)
                assert (again, again.first_version, again.written) == (2, 0, False)
                assert (again.first_position, again.last_position) == (first.first_position, first.last_position)
                assert again.event_ids == first.event_ids == ("x0", "x1", "x2")
            empty = store.append("a:1", [], 2)
            assert (empty, empty.event_ids, empty.first_version, empty.last_position) == (2, (), 3, 0)
            assert not empty.written

    def test_append_many_says_where_and_may_name_a_stream_twice(self) -> None:
        """The appends follow each other, positions are in the order given, and a result spans the stream's events."""
        with self.store() as store:
            batch = [
                ("a:1", [Counted(1, event_id="x1")], NO_STREAM),
                ("b:1", [Counted(2, event_id="x2"), Counted(3, event_id="x3")], ANY),
                ("a:1", [Counted(4, event_id="x4")], 0),
                ("a:1", [Counted(5, event_id="x5")], ANY),
                ("a:1", [], STREAM_EXISTS),
            ]
            for written in (True, False):
                results = store.append_many(batch)
                assert results == {"a:1": 2, "b:1": 1}
                a, b = results["a:1"], results["b:1"]
                assert (a.first_version, a.first_position, a.last_position, a.event_ids) == (
                    0,
                    1,
                    5,
                    ("x1", "x4", "x5"),
                )
                assert (b.first_version, b.first_position, b.last_position, b.event_ids) == (0, 2, 3, ("x2", "x3"))
                assert a.written == b.written == written
            assert [r.event.number for r in store.records()] == [1, 2, 3, 4, 5]
            assert store.read_stream("a:1") == [batch[0][1][0], batch[2][1][0], batch[3][1][0]]
            for second in (NO_STREAM, 2, 4):
                with raises(ConcurrencyError):
                    store.append_many([("a:1", [Counted(6)], 2), ("a:1", [Counted(7)], second)])
            assert store.get_event_count() == 5

    def test_encoded_events_are_appended_as_they_are(self) -> None:
        """The payload is stored as given, with the id, the time and the metadata of the event."""
        moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
        data = b'{"_version":1,"number":1.50,"text":"\\u00e9"}'
        with self.store(unknown="untyped") as store:
            given = [
                EncodedEvent("Other", data, "x1", {"n": 1}, moment),
                EncodedEvent(
                    "Counted", b'{ "number" : 2 }', metadata=b'{"n":2}', recorded_at="2026-01-02T04:00:00+01:00"
                ),
                Counted(3),
            ]
            assert store.append("a:1", given, NO_STREAM, metadata={"all": True}).event_ids[0] == "x1"
            envelopes = [envelope for block in store.envelopes("a:1") for envelope in block]
            assert [bytes(e.data) for e in envelopes] == [
                data,
                b'{"number":2}',
                b'{"_version":1,"number":3,"event_id":null}',
            ]
            first, second, third = store.records("a:1")
            assert first.recorded_at == moment
            assert second.recorded_at == datetime(2026, 1, 2, 3, tzinfo=UTC)
            assert [r.metadata for r in (first, second, third)] == [
                {"all": True, "n": 1},
                {"all": True, "n": 2},
                {"all": True},
            ]
            assert second.event == Counted(2)
            assert first.event.data == {"number": 1.5, "text": "\u00e9"}

    def test_an_envelope_is_appended_again_as_an_encoded_event(self) -> None:
        """A copy takes over the payload, the id, the metadata (also none) and the time, all as they are stored."""
        with self.store(unknown="untyped") as store:
            given = [EncodedEvent("T", b'{"n": 1.50}', metadata=metadata) for metadata in ({"a": 1}, None, b"")]
            store.append("a:1", given, NO_STREAM)
            stored = [envelope for block in store.envelopes("a:1") for envelope in block]
            store.append(
                "a:2",
                [EncodedEvent(e.event_type, e.data, e.event_id, e.metadata, e.recorded_at) for e in stored],
                NO_STREAM,
            )
            copies = [envelope for block in store.envelopes("a:2") for envelope in block]
            for old, new in zip(stored, copies, strict=True):
                assert bytes(new.data) == b'{"n":1.50}' == bytes(old.data)
                assert (new.event_id, new.recorded_at) == (old.event_id, old.recorded_at)
                assert new.metadata_json == old.metadata_json

    def test_an_event_id_inside_a_payload_does_not_count(self) -> None:
        """The id of plain data is the one that is given beside it."""
        with self.store(unknown="untyped") as store:
            events = [EncodedEvent("T", b'{"event_id":"x1"}'), UntypedEvent("T", {"event_id": "x1"})]
            assert "x1" not in store.append("a:1", events, NO_STREAM).event_ids

    def test_encoded_events_that_no_reader_accepts_are_refused(self) -> None:
        """Nothing is written, also if other events of the batch are right."""
        with self.store() as store:
            for bad in (
                EncodedEvent("T", b"[]"),
                EncodedEvent("T", b'{"a":1'),
                EncodedEvent("T", b'{"a":1,"a":2}'),
                EncodedEvent("T", b'{"a": 1, "a": 2}'),
                EncodedEvent("T", b'{"_version":0}'),
                EncodedEvent("T", b'{"_version":true}'),
                EncodedEvent("T", b'{"a":"\xff"}'),
                EncodedEvent("T", b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}"),
                EncodedEvent("T", '{"a":1}'),  # type: ignore[arg-type]
                EncodedEvent("", b"{}"),
                EncodedEvent("T\ud800", b"{}"),
                EncodedEvent("T", b"{}", event_id=""),
                EncodedEvent("T", b"{}", event_id=7),  # type: ignore[arg-type]
                EncodedEvent("T", b"{}", metadata=b"[]"),
                EncodedEvent("T", b"{}", metadata=7),  # type: ignore[arg-type]
                EncodedEvent("T", b"{}", recorded_at="2026-01-02T03:04:05"),
                EncodedEvent("T", b"{}", recorded_at="yesterday"),
                EncodedEvent("T", b"{}", recorded_at=datetime(2026, 1, 1)),
                EncodedEvent("T", b"{}", recorded_at=5),  # type: ignore[arg-type]
            ):
                with raises(EventSerializationError):
                    store.append("a:1", [Counted(1), bad], NO_STREAM)
            assert store.get_event_count() == 0

    def test_each_event_may_have_metadata_of_its_own(self) -> None:
        """A list gives one dictionary, or None, for each event."""
        with self.store() as store:
            store.append("a:1", [Counted(n) for n in range(3)], NO_STREAM, metadata=[{"n": 0}, None, {"n": 2}])
            assert [record.metadata for record in store.records()] == [{"n": 0}, None, {"n": 2}]
            with raises(ValueError):
                store.append("a:1", [Counted(3)], 2, metadata=[])
            for wrong in ("text", 7, {1, 2}):
                with raises(TypeError):
                    store.append("a:1", [Counted(3)], 2, metadata=wrong)  # type: ignore[arg-type]
            with raises(TypeError):  # It would be the metadata of each append's first event.
                store.append_many([("a:1", [Counted(3)], 2)], metadata=[{"n": 3}])  # type: ignore[arg-type]
            with raises(EventSerializationError):
                store.append("a:1", [Counted(3)], 2, metadata=["text"])  # type: ignore[list-item]
            assert store.get_event_count() == 3

    def test_a_wrong_kind_of_argument_is_named(self) -> None:
        """A `TypeError` says which argument, and how it should be; nothing is written."""
        appends: list[Any] = [None, 5, "a:1", [()], [("a:1", [Counted(1)])], {"a:1": [Counted(1)]}, [5], ["abc"]]
        events: list[Any] = [None, 5, Counted(1), Noted("n"), "text", b"text", {"number": 1}]
        with self.store() as store:
            for wrong in appends:
                with raises(TypeError) as caught:
                    store.append_many(wrong)
                assert "(stream id, events, expected version)" in str(caught.error)
            for wrong in events:
                with raises(TypeError) as caught:
                    store.append("a:1", wrong, ANY)
                assert str(caught.error).startswith("events must be a list of events, not one ")
            assert store.get_event_count() == 0

    def test_an_event_that_cannot_be_encoded_fails_before_anything_is_written(self) -> None:
        """This includes NaN, infinity and lone surrogates, also at the end of a batch."""
        with self.store() as store:
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
        with self.store() as store:
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
        with self.store() as store:
            for number, stream_id in enumerate(ids):
                assert store.append(stream_id, [Counted(number)], NO_STREAM) == 0
            assert store.list_streams() == sorted(ids)
            for number, stream_id in enumerate(ids):
                assert store.read_stream(stream_id) == [Counted(number)]

    def test_threads_that_expect_versions_lose_and_double_nothing(self) -> None:
        """Eight threads append to one stream."""
        with self.store() as store:

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

    def test_the_result_of_an_append_serves_wherever_a_version_does(self) -> None:
        """It may be expected, read from, and stored in an event, in metadata and in a snapshot."""
        with self.store() as store:
            version = store.append("a:1", [Counted(1), Counted(2)], NO_STREAM)
            store.append("b:1", [Counted(version)], ANY, metadata={"after": version})
            (record,) = store.records("b:1")
            assert record.event == Counted(1)
            assert record.metadata == {"after": 1}
            assert store.read_stream("a:1", from_version=version) == [Counted(2)]
            store.save_snapshot("a:1", version, {"version": version})
            assert store.load_snapshot("a:1") == {"version": 1, "state": {"version": 1}}
            assert f"{version} {version!s}" == "1 1"
            assert "first_position=1" in repr(version)
