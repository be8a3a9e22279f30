"""Conformance tests of deleted and truncated streams."""

from __future__ import annotations

from typing import Any

from hangarlog.errors import ConcurrencyError, SnapshotError, StreamDeletedError, StreamNotFoundError
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, raises


def _filled(store: EventStore, count: int = 4) -> None:
    for stream_id in ("a:1", "a:2"):
        store.append(stream_id, [Counted(n, f"{stream_id}-{n}") for n in range(count)], NO_STREAM)


def _numbers(store: EventStore, stream_id: str) -> list[int]:
    return [event.number for event in store.read_stream(stream_id)]


class DeletionConformance(Opening):
    """How every event store deletes and truncates streams."""

    def test_a_deleted_stream_reads_as_empty_and_is_not_listed(self) -> None:
        """It keeps its version. Deleting it again is fine."""
        with self.store() as store:
            _filled(store)
            assert store.delete_stream("a:1") == 4
            for _ in range(2):
                assert store.read_stream("a:1") == []
                assert list(store.records("a:1", reverse=True)) == []
                assert store.list_streams() == ["a:2"] == store.list_streams("a:")
                assert store.get_stream_count() == 1
                assert store.get_stream_version("a:1") == 3
                assert store.delete_stream("a:1") == 0
            assert _numbers(store, "a:2") == [0, 1, 2, 3]

    def test_a_store_still_has_the_events_of_a_deleted_stream(self) -> None:
        """Reads of the whole store have every event, until retention drops them."""
        with self.store() as store:
            _filled(store)
            store.delete_stream("a:1")
            assert store.get_event_count() == 8
            assert [event.number for _, _, event in store.read_all()] == [0, 1, 2, 3] * 2

    def test_a_deleted_stream_begins_anew_with_the_next_version(self) -> None:
        """For an append that expects no stream, any version or the last one. Only what is new is read."""
        for expected in (NO_STREAM, ANY, 3):
            with self.store() as store:
                _filled(store)
                store.delete_stream("a:1")
                assert store.append("a:1", [Counted(4)], expected) == 4
                assert _numbers(store, "a:1") == [4]
                assert store.list_streams() == ["a:1", "a:2"]
                assert store.get_stream_count() == 2
                assert store.append("a:1", [Counted(5)], STREAM_EXISTS) == 5
                with raises(ConcurrencyError):
                    store.append("a:1", [Counted(6)], NO_STREAM)
                assert store.delete_stream("a:1") == 2
                assert store.read_stream("a:1") == []
                assert store.list_streams() == ["a:2"]

    def test_a_deleted_stream_does_not_exist(self) -> None:
        """An append that expects a stream, or another version than its last, is a conflict."""
        with self.store() as store:
            _filled(store)
            store.delete_stream("a:1")
            for expected, actual in ((STREAM_EXISTS, -1), (2, 3), (4, 3)):
                with raises(ConcurrencyError) as caught:
                    store.append("a:1", [Counted(9)], expected)
                assert caught.error.actual == actual

    def test_a_retry_of_deleted_events_brings_nothing_back(self) -> None:
        """Of the last append before the deletion. A retry of the first append after it is one, too."""
        with self.store() as store:
            events = [Counted(1, "e1"), Counted(2, "e2")]
            store.append("a:1", events, NO_STREAM)
            store.delete_stream("a:1")
            for expected in (NO_STREAM, ANY):
                assert store.append("a:1", events, expected) == 1
            assert store.read_stream("a:1") == []
            later = [Counted(3, "e3")]
            assert store.append("a:1", later, NO_STREAM) == 2
            assert store.append("a:1", later, NO_STREAM) == 2
            assert store.append("a:1", [Counted(4)], 2) == 3
            assert store.append("a:1", later, NO_STREAM) == 2
            assert _numbers(store, "a:1") == [3, 4]

    def test_a_stream_that_is_deleted_for_good_takes_no_events(self) -> None:
        """With no expected version; a batch with it fails as a whole. The error has the stream and its version."""
        with self.store() as store:
            _filled(store)
            store.append("a:1", [Counted(4)], 3)
            assert store.delete_stream("a:1", permanent=True) == 5
            for expected in (NO_STREAM, ANY, STREAM_EXISTS, 4, 7):
                with raises(StreamDeletedError) as caught:
                    store.append("a:1", [Counted(9)], expected)
                assert (caught.error.stream_id, caught.error.version) == ("a:1", 4)
            with raises(StreamDeletedError):
                store.append_many([("a:2", [Counted(9)], 3), ("a:1", [Counted(9)], ANY)])
            assert store.get_event_count() == 9
            assert (store.get_stream_version("a:1"), store.get_stream_version("a:2")) == (4, 3)
            assert store.delete_stream("a:1") == 0 == store.delete_stream("a:1", permanent=True)
            with raises(StreamDeletedError):
                store.append("a:1", [Counted(9)], ANY)

    def test_a_deleted_stream_can_be_deleted_for_good(self) -> None:
        """Before it begins anew or after."""
        with self.store() as store:
            _filled(store)
            for stream_id in ("a:1", "a:2"):
                store.delete_stream(stream_id)
            store.append("a:2", [Counted(4)], NO_STREAM)
            assert store.delete_stream("a:1", permanent=True) == 0
            assert store.delete_stream("a:2", permanent=True) == 1
            for stream_id in ("a:1", "a:2"):
                with raises(StreamDeletedError):
                    store.append(stream_id, [Counted(9)], ANY)
            assert store.list_streams() == []

    def test_a_deletion_may_expect_a_version(self) -> None:
        """Then it conflicts with an append of another. A stream that never was is not found."""
        with self.store() as store:
            _filled(store)
            with raises(StreamNotFoundError):
                store.delete_stream("a:3")
            with raises(ConcurrencyError) as caught:
                store.delete_stream("a:1", expected_version=2)
            assert (caught.error.expected, caught.error.actual) == (2, 3)
            assert len(store.read_stream("a:1")) == 4
            assert store.delete_stream("a:1", expected_version=3) == 4
            assert store.delete_stream("a:1", expected_version=3) == 0
            with raises(ConcurrencyError):
                store.delete_stream("a:1", expected_version=STREAM_EXISTS)
            bad: list[Any] = [NO_STREAM, -7, "3", True]
            for wrong in bad:
                with raises(ValueError):
                    store.delete_stream("a:2", expected_version=wrong)

    def test_the_snapshot_of_a_deleted_stream_goes_too(self) -> None:
        """None can be saved until the stream begins anew."""
        with self.store() as store:
            _filled(store)
            store.save_snapshot("a:1", 2, {"n": 2})
            store.delete_stream("a:1")
            assert store.load_snapshot("a:1") is None
            assert store.list_snapshots() == []
            for version in (2, 3):
                with raises(SnapshotError):
                    store.save_snapshot("a:1", version, {})
            store.append("a:1", [Counted(4)], NO_STREAM)
            store.save_snapshot("a:1", 4, {"n": 4})
            assert store.load_snapshot("a:1") == {"version": 4, "state": {"n": 4}}
            assert store.compact_stream("a:1") == 1
            assert store.list_streams() == ["a:1", "a:2"]
            assert store.append("a:1", [Counted(5)], STREAM_EXISTS) == 5
            assert _numbers(store, "a:1") == [5]

    def test_a_truncated_stream_begins_with_the_version_given(self) -> None:
        """A version that is dropped already changes nothing; one beyond the end drops all; versions go on."""
        with self.store() as store:
            with raises(StreamNotFoundError):
                store.truncate_stream("a:1", 2)
            _filled(store)
            assert store.truncate_stream("a:1", 0) == 0
            assert store.truncate_stream("a:1", 2) == 2
            assert store.truncate_stream("a:1", 1) == 0
            assert _numbers(store, "a:1") == [2, 3]
            assert [r.stream_version for r in store.records("a:1", reverse=True)] == [3, 2]
            assert store.truncate_stream("a:1", 99) == 2
            assert store.read_stream("a:1") == []
            assert store.get_stream_version("a:1") == 3
            assert store.list_streams() == ["a:1", "a:2"]
            assert store.get_stream_count() == 2
            assert store.append("a:1", [Counted(4)], STREAM_EXISTS) == 4
            assert _numbers(store, "a:1") == [4]
            bad: list[Any] = [-1, "2", None, True]
            for wrong in bad:
                with raises(ValueError):
                    store.truncate_stream("a:2", wrong)

    def test_a_truncation_drops_a_snapshot_that_would_miss_events(self) -> None:
        """One that covers them stays, and what follows on it is read."""
        with self.store() as store:
            _filled(store)
            store.save_snapshot("a:1", 1, {"n": 1})
            store.save_snapshot("a:2", 1, {"n": 1})
            store.truncate_stream("a:1", 2)
            store.truncate_stream("a:2", 3)
            assert store.load_snapshot("a:1") == {"version": 1, "state": {"n": 1}}
            assert store.load_snapshot("a:2") is None
            assert _numbers(store, "a:1") == [2, 3]
            with raises(SnapshotError):
                store.save_snapshot("a:2", 1, {"n": 1})
            store.save_snapshot("a:2", 3, {"n": 3})
            assert store.load_snapshot("a:2") == {"version": 3, "state": {"n": 3}}
