"""Stores to rebuild, and what must hold afterwards."""

from __future__ import annotations

from pathlib import Path

from hangarlog import EventSerializer, FileEventStore, UntypedEvent
from hangarlog.maintenance.verify import verify
from hangarlog.record.line import decode_record, is_record
from hangarlog.testing import Unsynced

FILESYSTEM, SERIALIZER = Unsynced(), EventSerializer(unknown="untyped")
LONG = "n:" + "n" * 210  # Its file's name is cut, so that its id stands only in its lines.


def opened(path: Path, segment_bytes: int = 64 << 20) -> FileEventStore:
    return FileEventStore(path, serializer=SERIALIZER, segment_bytes=segment_bytes, filesystem=FILESYSTEM)


def event(number: int, size: int = 5) -> UntypedEvent:
    return UntypedEvent("Noted", {"number": number, "text": "x" * size})


def lines_of(path: Path) -> dict[int, bytes]:
    """The journal's whole lines by position."""
    lines = b"".join(file.read_bytes() for file in path.glob("journal*.jsonl")).split(b"\n")
    return {decode_record(line).position: line for line in lines if is_record(line)}


def works(path: Path) -> None:
    """It opens, also after a restart, verifies, and takes appends to every stream."""
    for _ in range(2):
        with opened(path) as store:
            assert list(verify(store)) == []
            for stream_id in store.list_streams():
                version = store.get_stream_version(stream_id)
                assert store.append(stream_id, [event(-1)], version) == version + 1
                assert store.read_stream(stream_id)[-1].data["number"] == -1
            assert list(verify(store)) == []
        (path / "state").unlink()
