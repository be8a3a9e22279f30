"""Conformance tests of snapshots and compaction."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum

from hangarlog.errors import (
    CompactionError,
    EventSerializationError,
    SnapshotError,
    StreamNotFoundError,
)
from hangarlog.eventstore.expected_version import NO_STREAM
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, raises


class SnapshotConformance(Opening):
    """How every event store keeps snapshots."""

    def test_the_latest_snapshot_is_loaded(self) -> None:
        """It is None if there is no snapshot, or only one of another schema version."""
        with self.store() as store:
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
        with self.store() as store:
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

    def test_a_snapshot_ahead_of_its_stream_is_refused(self) -> None:
        """So is one of a stream that does not exist; nothing is saved."""
        with self.store() as store:
            store.append("a:1", [Counted(n) for n in range(3)], NO_STREAM)
            with raises(SnapshotError) as caught:
                store.save_snapshot("a:1", 3, {"n": 3})
            assert caught.error.stream_id == "a:1"
            assert "version 2" in str(caught.error)
            with raises(StreamNotFoundError):
                store.save_snapshot("b:1", 0, {})
            assert store.list_snapshots() == []
            assert store.get_stream_version("b:1") == -1

    def test_a_snapshot_may_be_ahead_if_the_caller_says_so(self) -> None:
        """The stream need not exist; it cannot be compacted before it has got there."""
        with self.store() as store:
            store.save_snapshot("a:1", 5, {"n": 5}, ahead=True)
            assert store.load_snapshot("a:1") == {"version": 5, "state": {"n": 5}}
            assert (store.list_streams(), store.get_stream_version("a:1")) == ([], -1)
            store.append("a:1", [Counted(n) for n in range(3)], NO_STREAM)
            assert store.load_snapshot("a:1") == {"version": 5, "state": {"n": 5}}
            assert store.read_stream("a:1") == [Counted(n) for n in range(3)]
            with raises(CompactionError):
                store.compact_stream("a:1")
            with raises(TypeError):
                store.save_snapshot("a:1", 6, {}, ahead=1)  # type: ignore[arg-type]

    def test_a_snapshot_older_than_the_stored_one_is_refused(self) -> None:
        """One of the same version replaces it, and an older one does if the stored one is of a lower schema version."""
        with self.store() as store:
            store.append("a:1", [Counted(n) for n in range(4)], NO_STREAM)
            store.save_snapshot("a:1", 2, {"n": 2})
            with raises(SnapshotError):
                store.save_snapshot("a:1", 1, {"n": 1})
            store.save_snapshot("a:1", 2, {"n": "again"})
            assert store.load_snapshot("a:1") == {"version": 2, "state": {"n": "again"}}
            store.save_snapshot("a:1", 1, {"m": 1}, schema_version=2)
            assert store.load_snapshot("a:1", schema_version=2) == {"version": 1, "state": {"m": 1}}
            with raises(SnapshotError):
                store.save_snapshot("a:1", 0, {"n": 0}, schema_version=1)
            store.save_snapshot("a:1", 3, {"n": 3}, schema_version=1)
            assert store.load_snapshot("a:1") == {"version": 3, "state": {"n": 3}}

    def test_many_snapshots_of_one_stream_leave_the_last(self) -> None:
        """Whether it is larger or smaller than the ones before."""
        with self.store() as store:
            store.append("a:1", [Counted(1)], NO_STREAM)
            for size in (1, 10, 3_000, 5, 5_000, 40_000, 2, 2_000_000, 7, 7):
                store.save_snapshot("a:1", 0, {"text": "x" * size})
                assert store.load_snapshot("a:1") == {"version": 0, "state": {"text": "x" * size}}

    def test_snapshots_are_listed_without_their_states(self) -> None:
        """By prefix, and those saved since a time, so that a tool can copy what has changed."""
        with self.store() as store:
            for stream_id in ("b:1", "a:2", "a:1", "plain"):
                store.append(stream_id, [Counted(1)], NO_STREAM)
                if stream_id != "a:2":
                    store.save_snapshot(stream_id, 0, {"n": 1}, schema_version=3)
            store.save_snapshot("b:1", 0, {"n": 2}, saved_at="2026-01-01T00:00:00Z")
            listed = store.list_snapshots()
            assert [info.stream_id for info in listed] == ["a:1", "b:1", "plain"]
            assert (listed[0].version, listed[0].schema_version) == (0, 3)
            assert listed[0].saved_at == store.snapshot_time("a:1")
            assert [info.stream_id for info in store.list_snapshots("a:")] == ["a:1"]
            assert [info.stream_id for info in store.list_snapshots("p")] == ["plain"]
            late = ["a:1", "plain"]
            assert [info.stream_id for info in store.list_snapshots(since="2026-01-01T00:00:00.5+00:00")] == late
            assert len(store.list_snapshots(since=datetime(2026, 1, 1, tzinfo=UTC))) == 3
            for naive in (datetime(2026, 1, 1), "2026-01-01T00:00:00", "yesterday"):
                with raises(ValueError):
                    store.list_snapshots(since=naive)

    def test_a_snapshot_can_be_deleted(self) -> None:
        """Deleting it again is fine, and a new one can be saved, also an older one."""
        with self.store() as store:
            store.append("a:1", [Counted(1), Counted(2)], NO_STREAM)
            assert store.delete_snapshot("a:1") is False
            store.save_snapshot("a:1", 1, {"n": 1})
            assert store.delete_snapshot("a:1") is True
            assert store.delete_snapshot("a:1") is False
            assert store.load_snapshot("a:1") is None
            assert store.list_snapshots() == []
            assert store.snapshot_time("a:1") is None
            store.save_snapshot("a:1", 0, {"n": 0})
            assert store.load_snapshot("a:1") == {"version": 0, "state": {"n": 0}}

    def test_the_only_state_of_compacted_events_is_not_deleted_by_accident(self) -> None:
        """With `force` it is, and the events stay hidden."""
        with self.store() as store:
            store.append("a:1", [Counted(n) for n in range(4)], NO_STREAM)
            store.save_snapshot("a:1", 2, {"n": 2})
            store.compact_stream("a:1")
            with raises(CompactionError):
                store.delete_snapshot("a:1")
            assert store.load_snapshot("a:1") == {"version": 2, "state": {"n": 2}}
            assert store.delete_snapshot("a:1", force=True) is True
            assert store.load_snapshot("a:1") is None
            assert store.read_stream("a:1") == [Counted(3)]
            with raises(SnapshotError):
                store.save_snapshot("a:1", 1, {"n": 1})

    def test_a_snapshot_has_a_time_with_a_zone(self) -> None:
        """It is given as a datetime or as text, and listed in UTC. What is no time is refused."""
        with self.store() as store:
            store.append("a:1", [Counted(1)], NO_STREAM)
            store.save_snapshot("a:1", 0, {}, saved_at="2026-01-01T02:00:00+02:00")
            assert store.snapshot_time("a:1") == "2026-01-01T00:00:00.000000Z"
            store.save_snapshot("a:1", 0, {}, saved_at=datetime(2026, 1, 2, tzinfo=UTC))
            assert store.snapshot_time("a:1") == "2026-01-02T00:00:00.000000Z"
            assert len(store.list_snapshots(since="2026-01-02T00:00:00Z")) == 1
            assert store.list_snapshots(since="2026-01-02T00:00:00.000001Z") == []
            for wrong in ("", "2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+05:00", datetime(2026, 1, 3)):
                with raises(ValueError):
                    store.save_snapshot("a:1", 0, {}, saved_at=wrong)
            with raises(TypeError):
                store.save_snapshot("a:1", 0, {}, saved_at=5)  # type: ignore[arg-type]
            assert store.snapshot_time("a:1") == "2026-01-02T00:00:00.000000Z"

    def test_the_version_of_a_state_is_a_whole_number(self) -> None:
        """A member of an `IntEnum` is one. Anything else is refused, also when it is asked for."""

        class Form(IntEnum):
            SECOND = 2

        with self.store() as store:
            store.append("a:1", [Counted(1)], NO_STREAM)
            store.save_snapshot("a:1", 0, {"n": 1}, schema_version=Form.SECOND)
            assert store.load_snapshot("a:1", schema_version=Form.SECOND) == {"version": 0, "state": {"n": 1}}
            for wrong in ("2", 2.0, True):
                with raises(TypeError):
                    store.save_snapshot("a:1", 0, {}, schema_version=wrong)  # type: ignore[arg-type]
                with raises(TypeError):
                    store.load_snapshot("a:1", schema_version=wrong)  # type: ignore[arg-type]
