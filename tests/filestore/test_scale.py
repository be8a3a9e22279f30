"""Many streams, long streams: written, read, and found again, with few files open and few files made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Added

import hangarlog.filestore.open_streams
import hangarlog.filestore.writer
from hangarlog import ANY, FileEventStore
from hangarlog.maintenance.verify import verify

STREAMS = int(os.environ.get("HANGARLOG_STREAMS", "5000"))


def test_a_store_of_very_many_streams_is_written_and_read(tmp_path: Path) -> None:
    """One small file each, no sidecar, a bounded number of open files. HANGARLOG_STREAMS=100000 is the full size."""
    path = tmp_path / "s"
    fds = Path("/proc/self/fd")
    open_before = len(os.listdir(fds)) if fds.is_dir() else 0
    with FileEventStore(path, durability="relaxed") as store:
        for number in range(STREAMS):
            store.append(f"s:{number}", [Added(number)] * (1 + number % 5), -1)
        if fds.is_dir():
            assert len(os.listdir(fds)) - open_before < 300
    with FileEventStore(path, durability="relaxed") as store:
        assert store.get_stream_count() == STREAMS
        assert store.get_event_count() == sum(1 + number % 5 for number in range(STREAMS))
        for number in range(0, STREAMS, max(1, STREAMS // 1000)):
            assert store.read_stream(f"s:{number}") == [Added(number)] * (1 + number % 5)
        assert len(store.list_streams("s:")) == STREAMS
        assert sum(1 for _ in store.read_all(limit=10**9)) == store.get_event_count()
        assert list(verify(store)) == []
    files = [name for _, _, names in os.walk(path / "streams") for name in names]
    assert len(files) == STREAMS
    blocks = sum((path / "streams/s" / name).stat().st_blocks * 512 for name in files) if fds.is_dir() else 0
    assert blocks <= STREAMS * 4608


def test_any_event_of_a_long_stream_is_found_from_its_version_and_its_position(tmp_path: Path) -> None:
    """Over sealed segments with their sidecars and the live one, in both directions, with records of any length."""
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=400_000) as store:
        count = 0
        while count < 6000:
            size = 1 + count % 7
            store.append("a:1", [Added(n, "x" * (n * 37 % 900)) for n in range(count, count + size)], ANY)
            count += size
        store.append("b:1", [Added(0)], ANY)
        assert len(store.folder.stream("a:1").sealed()) > 3
        assert len(list((tmp_path / "s/streams/a").glob("*.index"))) > 3
        for version in [*range(0, count, 97), count - 1]:
            (forward,) = store.records("a:1", from_version=version, limit=1)
            (backward,) = store.records("a:1", from_version=version, limit=1, reverse=True)
            (placed,) = store.records(from_position=version, limit=1)
            (before,) = store.records(from_position=version + 2, limit=1, reverse=True)
            assert forward == backward == placed == before
            assert forward.event.number == version
        assert list(verify(store)) == []
    for index in (tmp_path / "s").rglob("*.index"):
        index.write_bytes(index.read_bytes()[:-3])  # A writer that died within an entry.
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        assert [r.stream_version for r in store.records("a:1", from_version=count - 50)] == list(
            range(count - 50, count)
        )


def test_records_of_a_megabyte_are_events_like_others(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=3_000_000) as store:
        events = [Added(number, "é" * 600_000) for number in range(8)]
        for event in events:
            store.append("a:1", [event], ANY)
        assert store.read_stream("a:1") == events
        assert [r.event for r in store.records(reverse=True)] == events[::-1]
        assert store.get_stream_version("a:1") == 7
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        assert store.append("a:1", [Added(9)], 7) == 8
        assert list(verify(store)) == []


def test_a_batch_over_more_streams_than_stay_open_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old ones and new ones, some of them put out by others of the same batch."""
    for module in (hangarlog.filestore.open_streams, hangarlog.filestore.writer):
        monkeypatch.setattr(module, "MAX_OPEN_STREAMS", 4)
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        versions: dict[str, int] = {}
        counts = []
        for turn in range(8):
            wanted = [f"a:{number}" for number in range(turn, turn + 9)]
            appends = [(stream_id, [Added(turn)], versions.get(stream_id, -1)) for stream_id in wanted]
            versions |= store.append_many(appends)
            for stream_id in wanted[:6]:
                versions[stream_id] = store.append(stream_id, [Added(turn)], versions[stream_id])
            counts.append(len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)
        assert len(set(counts[1:])) == 1, counts
        assert list(verify(store)) == []
        assert {stream_id: store.get_stream_version(stream_id) for stream_id in versions} == versions
