"""The measures of one process: appends beside the bare calls, and JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from time import monotonic
from typing import Any

import msgspec

from hangarlog.benchmark.payloads import Payloads
from hangarlog.benchmark.turn import TimedFileSystem, Turn, repeat
from hangarlog.errors import ANY
from hangarlog.events.registry import UntypedEvent
from hangarlog.filestore.group_sync import SYNCS_BEFORE_RING
from hangarlog.filestore.sizes import sizes_of_files
from hangarlog.filestore.store import FileEventStore
from hangarlog.system.filesystem import FileSystem

INTERVAL_SECONDS = 0.1
"""The interval of the measure that syncs at intervals. It fits into a turn, so turns include syncs."""
_CODED = 100
"""Payloads that are encoded or decoded per sample: one takes little longer than reading the clock."""


class Alone:
    """The stores and the file of one round. `most_bytes` is how much a turn may write.

    Appends are watched for syncs in a store of their own, so that watching costs the other appends nothing. Each turn
    ends with syncs that do not count, so that no turn pays for the one before.
    """

    def __init__(self, folder: str, payloads: Payloads, most_bytes: int, ring_seconds: float = 0.0) -> None:
        self._payloads, self._most_bytes = payloads, most_bytes
        self._timed = TimedFileSystem()
        path, serializer = os.path.join, payloads.serializer
        self._durable: FileEventStore[Any] = FileEventStore(
            path(folder, "durable"), serializer=serializer, filesystem=self._timed
        )
        self._relaxed: FileEventStore[Any] = FileEventStore(
            path(folder, "relaxed"), serializer=serializer, durability="relaxed"
        )
        self._interval: FileEventStore[Any] = FileEventStore(
            path(folder, "interval"), serializer=serializer, durability=INTERVAL_SECONDS
        )
        self._bare = self._timed.open_new(path(folder, "bare.jsonl"))
        create_ring(self._durable, ring_seconds)

    def close(self) -> None:
        """Close the stores and the file."""
        self._timed.close(self._bare)
        for store in (self._durable, self._relaxed, self._interval):
            store.close()

    def durable(self, seconds: float, batch: int = 1) -> Turn:
        """Append batches that are on the device when the append returns."""
        return self._append(self._durable, seconds, batch, self._timed)

    def interval(self, seconds: float) -> Turn:
        """Append single events that are synced at intervals."""
        return self._append(self._interval, seconds, 1)

    def relaxed(self, seconds: float, batch: int = 1) -> Turn:
        """Append batches that the operating system has when the append returns."""
        return self._append(self._relaxed, seconds, batch)

    def _append(
        self, store: FileEventStore[Any], seconds: float, batch: int, timed: TimedFileSystem | None = None
    ) -> Turn:
        payloads = self._payloads
        append, stream_id = store.append, f"bench:{batch}"
        version = store.get_stream_version(stream_id)
        batches = cycle(list(zip(payloads.batches(batch), _grown(payloads, batch), strict=True)))

        def call() -> int:
            nonlocal version
            events, size = next(batches)
            version = append(stream_id, events, version, retry=False)  # The same event ids come again and again.
            return size

        turn = repeat(call, seconds, self._most_bytes, batch, timed)
        settle(store.path)
        return turn

    def bare_synced(self, seconds: float, batch: int = 1) -> Turn:
        """Append the lines of a batch to a file with one `write`, and call `fdatasync`."""
        write, sync, fd = self._timed.write, self._timed.sync_data, self._bare
        texts = cycle([(text, len(text)) for text in self._payloads.batch_lines(batch)])

        def call() -> int:
            text, size = next(texts)
            write(fd, text)
            sync(fd)
            return size

        return repeat(call, seconds, self._most_bytes, batch, self._timed)

    def bare(self, seconds: float, batch: int = 1) -> Turn:
        """Append the lines of a batch to a file with one `write`."""
        write, fd = self._timed.write, self._bare
        texts = cycle([(text, len(text)) for text in self._payloads.batch_lines(batch)])

        def call() -> int:
            text, size = next(texts)
            write(fd, text)
            return size

        turn = repeat(call, seconds, self._most_bytes, batch)
        self._timed.sync_data(fd)
        return turn

    def encode(self, seconds: float) -> Turn:
        """Encode payloads as JSON."""
        return _code(msgspec.json.Encoder().encode, _bodies(self._payloads.events), seconds)

    def decode(self, seconds: float) -> Turn:
        """Decode the JSON of payloads."""
        kinds = {type(event) for event in self._payloads.events} if self._payloads.classes == 1 else {dict}
        (kind,) = kinds
        return _code(msgspec.json.Decoder(kind).decode, self._payloads.texts, seconds)


def create_ring(store: FileEventStore[Any], seconds: float) -> None:
    """Append durably until the store has its commit ring, as a store in use has, for `seconds` at most."""
    last = monotonic() + seconds
    for _ in range(SYNCS_BEFORE_RING + 1):
        store.append("bench:ring", [UntypedEvent("RingCreated", {})], ANY)
        if monotonic() >= last:
            break


def settle(folder: str) -> None:
    """Sync every file below a folder: the store itself syncs only what it must, such as the journal."""
    filesystem = FileSystem()
    for path, _ in sizes_of_files(filesystem, folder):
        fd = filesystem.open_update(path)
        try:
            filesystem.sync_data(fd)
        finally:
            filesystem.close(fd)


def _bodies(events: Sequence[Any]) -> list[Any]:
    """Return what of the events is encoded as JSON."""
    return [event.data if isinstance(event, UntypedEvent) else event for event in events]


def _grown(payloads: Payloads, batch: int) -> list[int]:
    """Return by how many bytes a store grows with each of the batches: it keeps two copies."""
    return [2 * len(text) for text in payloads.batch_lines(batch)]


def _code(code: Callable[[Any], object], items: Sequence[Any], seconds: float) -> Turn:
    going_round = cycle(items)

    def call() -> int:
        for item in islice(going_round, _CODED):
            code(item)
        return 0

    return repeat(call, seconds, 1, _CODED)
