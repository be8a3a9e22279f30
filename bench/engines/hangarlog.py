"""hangarlog itself, through its public interface."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from bench.harness.engine import Conflict, Engine, Session
from bench.harness.payload import event_classes
from hangarlog import (
    ConcurrencyError,
    EventSerializer,
    FileEventStore,
    UpcasterChain,
    __version__,
    register_event_type,
)
from hangarlog.record.checksum import crc32


class _Store(Session):
    def __init__(self, path: str, serializer: EventSerializer, *, durable: bool, exclusive: bool) -> None:
        durability = "always" if durable else "relaxed"
        self.store = FileEventStore(path, serializer=serializer, durability=durability, exclusive=exclusive)  # type: ignore[arg-type]

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        try:
            return self.store.append(stream, events, expected)
        except ConcurrencyError as conflict:
            raise Conflict(conflict.actual) from conflict

    def version(self, stream: str) -> int:
        return self.store.get_stream_version(stream)

    def read_stream(self, stream: str) -> Sequence[Any]:
        return self.store.read_stream(stream)

    def read_all(self) -> int:
        count = 0
        for _ in self.store.read_all():
            count += 1
        return count

    def read_new(self, position: int) -> int:
        last = position
        if self.store.get_event_count() > position:
            for last, _, _ in self.store.read_all(position):  # noqa: B007 - only the last position matters
                pass
        return last

    def follow(self, position: int) -> Iterator[int]:
        with self.store.subscribe(position) as subscription:
            for record in subscription:
                yield record.position

    def read_by_version(self, stream: str, version: int) -> Any:
        (record,) = self.store.records(stream, from_version=version, limit=1)
        return record.event

    def read_by_position(self, position: int) -> Any:
        ((_, _, event),) = self.store.read_all(position - 1, 1)
        return event

    def close(self) -> None:
        self.store.close()


def _chain(steps: int) -> EventSerializer:
    """Return a serializer with `steps` upcasters for events stored at schema version 1."""
    chain = UpcasterChain()
    register_event_type(event_classes("")["ProviderStarted"], version=steps + 1)
    for version in range(1, steps + 1):
        chain.upcaster("ProviderStarted", version)(lambda data: {**data, "mode": "docker"})
    return EventSerializer(upcaster_chain=chain)


class _Hangarlog(Engine):
    title = "hangarlog"
    settings = f"defaults; durability always or relaxed; checksums by {'zlib' if crc32 is zlib.crc32 else 'isal'}"

    def version(self) -> str:
        return __version__

    def prepared_variant(self, variant: str) -> str:
        return ""

    def open(self, target: str, *, durable: bool, variant: str = "", payload_kind: str = "") -> Session:
        """Open a store; variants are `exclusive`, and `chain of N` for upcasting."""
        event_classes(payload_kind)  # Registers the event types.
        serializer = _chain(int(variant.split()[-1])) if variant.startswith("chain") else EventSerializer()
        return _Store(target, serializer, durable=durable, exclusive=variant == "exclusive")


ENGINE = _Hangarlog()
