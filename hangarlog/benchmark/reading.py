"""The measures of reading: a stream, the whole store, and the bare bytes of the journal."""

from __future__ import annotations

import os
from collections import deque
from itertools import cycle, islice
from typing import Any

from hangarlog.benchmark.alone import settle
from hangarlog.benchmark.payloads import Payloads
from hangarlog.benchmark.turn import Turn, repeat
from hangarlog.errors import ANY
from hangarlog.filestore.store import FileEventStore
from hangarlog.system.filesystem import FileSystem

_MOST_EVENTS = 50_000
_EVENTS_A_SECOND = 5_000
"""Events for each second of the run, so that a short one is not spent with preparing."""
_BATCH = 500
_STREAM = "read:whole"
_BLOCK_BYTES = 1 << 20


class Reading:
    """A store that is written once and read in each round: half of its events are in one stream, the others in 100."""

    def __init__(self, folder: str, payloads: Payloads, most_bytes: int, seconds: float) -> None:
        """`most_bytes` is what the files may take, `seconds` how long the run is."""
        events_at_most = min(_MOST_EVENTS, seconds * _EVENTS_A_SECOND, most_bytes / 2 / payloads.line_bytes)
        half = max(1, int(events_at_most / 2))
        self._filesystem = FileSystem()
        self._store: FileEventStore[Any] = FileEventStore(
            os.path.join(folder, "reading"), serializer=payloads.serializer, durability="relaxed"
        )
        self._half, self._events = half, 2 * half
        events, streams = cycle(payloads.events), cycle([f"read:{number}" for number in range(100)])
        for first in range(0, half, _BATCH):
            count = min(_BATCH, half - first)
            others = [(stream, [event], ANY) for stream, event in islice(zip(streams, events, strict=False), count)]
            self._store.append_many([(_STREAM, list(islice(events, count)), ANY), *others], retry=False)
        settle(self._store.path)

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def stream(self, seconds: float) -> Turn:
        """Read the events of one stream into a list."""

        def call() -> int:
            self._store.read_stream(_STREAM)
            return 0

        return repeat(call, seconds, 1, self._half)

    def all(self, seconds: float) -> Turn:
        """Iterate over the events of the store in commit order."""

        def call() -> int:
            deque(self._store.read_all(), maxlen=0)
            return 0

        return repeat(call, seconds, 1, self._events)

    def bare(self, seconds: float) -> Turn:
        """Read the bytes of the journal."""
        filesystem, path = self._filesystem, self._store.folder.journal.active_path  # It is too small to have rolled.

        def call() -> int:
            fd, offset = filesystem.open_read(path), 0
            while block := filesystem.read(fd, _BLOCK_BYTES, offset):
                offset += len(block)
            filesystem.close(fd)
            return 0

        return repeat(call, seconds, 1, self._events)
