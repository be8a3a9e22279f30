"""The store that rots, and what must be read of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hangarlog.filestore.commit_ring
import hangarlog.log.active_segment
import hangarlog.log.index
import hangarlog.log.index_check
import hangarlog.log.log
import hangarlog.log.segment
from hangarlog import ANY, EventSerializer, FileEventStore, RetentionPolicy, UntypedEvent
from hangarlog.filestore.checkpoint import load_checkpoint
from hangarlog.filestore.commit_ring import read_ring
from hangarlog.filestore.erasing import Erasing
from hangarlog.maintenance.verify import verify
from hangarlog.testing import Unsynced

SEGMENT_BYTES, STRIDE = 1100, 500
COMPACTED = "k:1"
LONG = "n:" + "n" * 210  # Its file's name is cut, so that its id stands only in its lines.

FILESYSTEM, SERIALIZER = Unsynced(), EventSerializer(unknown="untyped")
Row = tuple[int, str, int, str, bytes]


@contextlib.contextmanager
def small_limits() -> Iterator[None]:
    """A ring of four frames, and sidecars for segments of a few hundred bytes."""
    places = [(hangarlog.filestore.commit_ring, "RING_BYTES", 4 * hangarlog.filestore.commit_ring.BLOCK_BYTES)]
    modules = (
        hangarlog.log.index,
        hangarlog.log.index_check,
        hangarlog.log.active_segment,
        hangarlog.log.log,
        hangarlog.log.segment,
    )
    places += [(module, "STRIDE_BYTES", STRIDE) for module in modules]
    before = [getattr(module, name) for module, name, _ in places]
    for module, name, value in places:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(places, before, strict=True):
            setattr(module, name, value)


def open_store(path: str) -> FileEventStore:
    return FileEventStore(path, serializer=SERIALIZER, create=False, filesystem=FILESYSTEM)


def fill(path: str) -> None:
    """Streams that a checkpoint has settled and others, one compacted, one of a long name; sealed and live segments.

    The beginning of the journal is dropped, a deleted stream erased in it, and the first sealed segments compressed.
    """
    number = 0

    def append(store: FileEventStore, *streams: str, size: int = 5, durability: Any = "always") -> None:
        nonlocal number
        appends = []
        for stream_id in dict.fromkeys(streams):
            events = []
            for _ in range(streams.count(stream_id)):
                number += 1
                events.append(UntypedEvent("Added", {"n": number, "text": "x" * size}, event_id=f"e{number}"))
            appends.append((stream_id, events, ANY))
        store.append_many(appends, durability=durability)

    with FileEventStore(path, serializer=SERIALIZER, segment_bytes=SEGMENT_BYTES, filesystem=FILESYSTEM) as store:
        for _ in range(8):
            append(store, "old:1")
        store.retain(RetentionPolicy(prefix="old:", max_events=1))
        assert store.first_position > 1
        append(store, "gone:1")
        for streams in ("k:1", "s:1"), ("k:1", "k:1", "l"), ("l",), ("s:1",), ("l", "k:1"), ("l", "k:1"), ("l",):
            append(store, *streams)
        store.delete_stream("gone:1")
        assert Erasing(store._write_session).run(seconds=60.0, least=0.0).segments
        assert store.compress().segments
        append(store, LONG)
        store.save_snapshot(COMPACTED, 2, {"n": 3})
        store.compact_stream(COMPACTED)
        hour = 3600 * 10**9
        for file in Path(path, "streams").rglob("*.jsonl"):
            os.utime(file, ns=(0, file.stat().st_mtime_ns - hour))
        append(store, "l", size=200)
        append(store, "b:1", "l", size=4300)
        append(store, "b:1", LONG)  # It rolls the journal, and the checkpoint is made.
        append(store, "l", durability="relaxed")
        append(store, "b:1", "m:1", "m:1", "l")
        append(store, "l")
        append(store, "m:1", "b:1", "m:1")
        append(store, "m:1", durability="relaxed")
        append(store, "b:1", "m:1", durability="relaxed")


def rows(blocks: Iterator[list[Any]]) -> list[Row]:
    return [(e.position, e.stream_id, e.stream_version, e.event_id, bytes(e.data)) for block in blocks for e in block]


class Truth:
    """What is to be read: `events` in order, `ends` the positions that end batches, `only` those of no second copy."""

    def __init__(self, path: str) -> None:
        with open_store(path) as store:
            self.events = rows(store.envelopes())
            self.first, self.last = store.first_position, store.last_position
            self.ends = {e.position for block in store.envelopes() for e in block if e.ends_batch}
            self.streams = store.list_streams()
            self.kept = {stream_id: rows(store.envelopes(stream_id))[0][2] for stream_id in self.streams}
            self.snapshot = store.load_snapshot(COMPACTED)
            self.only = {*range(self.first, self.last + 1)} - {e[0] for e in self.events if e[2] >= self.kept[e[1]]}
            self.checkpoint = load_checkpoint(store.folder).position
            frames = read_ring(FILESYSTEM, store.folder.ring_path, store.meta.store_id).frames
            self.durable = max(frame.last for frame in frames)
            assert list(verify(store)) == []
        assert 0 < max(self.only) < self.checkpoint < self.durable < self.last
        self._of: dict[int, dict[str, list[Row]]] = {}

    def of(self, last: int) -> dict[str, list[Row]]:
        """The events of each stream where those up to position `last` are there."""
        if last not in self._of:
            events = [each for each in self.events if each[0] <= last]
            self._of[last] = {s: [e for e in events if e[1] == s and e[2] >= self.kept[s]] for s in self.streams}
        return self._of[last]
