"""Conformance tests of snapshots and compaction."""

from __future__ import annotations

from hangarlog.errors import (
    CompactionError,
    EventSerializationError,
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
