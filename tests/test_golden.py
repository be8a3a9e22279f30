"""A store of every format version that was ever written is kept here, and is read by today's code as it was then."""

from __future__ import annotations

import shutil
from pathlib import Path

from hangarlog import EVENT_TYPE_MAP, EventSerializer, FileEventStore, UntypedEvent
from hangarlog.maintenance.verify import verify

GOLDEN = Path(__file__).parent / "golden"


def test_the_store_of_format_1_is_read_and_gone_on_with(tmp_path: Path) -> None:
    """Sealed and live segments, indexes, odd and long names, metadata, a snapshot, a compacted stream."""
    del EVENT_TYPE_MAP["Added"]  # The suite's class of that name came later.
    path = shutil.copytree(GOLDEN / "format-1", tmp_path / "s")
    lines = {p.relative_to(path): p.read_bytes() for p in path.rglob("*.jsonl")}
    assert len(lines) > 10
    assert list(path.rglob("*.index"))
    with FileEventStore(path, serializer=EventSerializer(unknown="untyped"), durability="relaxed") as store:
        assert store.recovered
        assert store.recovered.journal_cut == store.recovered.rolled_forward == store.recovered.streams_cut == 0
        assert store.get_event_count() == 176
        assert store.list_streams() == ["Odd Name.é", "a:1", "big:1", "long:" + "n" * 300]
        assert store.read_stream("a:1") == [UntypedEvent("Added", {"number": n, "text": "café"}) for n in range(5, 12)]
        assert store.read_stream("Odd Name.é") == [UntypedEvent("Added", {"number": n}, 2) for n in range(12)]
        assert [r.event_id for r in store.records()] == [f"0199a1c2-0000-7000-8000-{n:012d}" for n in range(1, 177)]
        first = next(store.records())
        assert first.metadata == {"correlation_id": "c"}
        assert first.recorded_at.isoformat() == "2026-11-23T03:01:02.000001+00:00"
        assert store.load_snapshot("a:1") == {"version": 4, "state": {"sum": 10}}
        assert list(verify(store)) == []
        assert {p.relative_to(path): p.read_bytes() for p in path.rglob("*.jsonl")} == lines
        assert store.append("a:1", [UntypedEvent("Added", {"number": 12})], 11) == 12
        assert list(verify(store)) == []
