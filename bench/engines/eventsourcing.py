"""eventsourcing: its SQLite recorder with msgspec, and as intended, with its mapper and JSON transcoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.harness.engine import Conflict, Engine, Session
from bench.harness.payload import ProviderStarted

_PAGE_EVENTS = 10_000


@dataclass(frozen=True)
class Started:
    """ProviderStarted as a domain event of the library, which contains its stream and version."""

    originator_id: str
    originator_version: int
    provider_id: str
    mode: str
    tools_count: int
    startup_duration_ms: float
    event_id: str
    occurred_at: float


class _Recorder(Session):
    """Encodes and decodes payloads with msgspec."""

    def __init__(self, folder: str, *, durable: bool) -> None:
        from eventsourcing.persistence import IntegrityError, StoredEvent
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

        self.datastore = SQLiteDatastore(
            os.path.join(folder, "events.db"), lock_timeout=60, pool_size=1, max_overflow=0, originator_id_type="text"
        )
        if not durable:
            with self.datastore.transaction(commit=False) as cursor:
                cursor.execute("SELECT 1")
            with self.datastore.get_connection(commit=True) as connection:
                connection.cursor().execute("PRAGMA synchronous = NORMAL")
        self.recorder = SQLiteApplicationRecorder(self.datastore)
        self.recorder.create_table()
        self.conflict, self.stored_event = IntegrityError, StoredEvent
        self.json_encode = msgspec.json.Encoder().encode
        self.json_decode = msgspec.json.Decoder(ProviderStarted).decode

    def encode(self, stream: str, version: int, event: Any) -> Any:
        return self.stored_event(stream, version, type(event).__name__, self.json_encode(event))

    def decode(self, stored: Any) -> Any:
        return self.json_decode(stored.state)

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        stored = [self.encode(stream, version, event) for version, event in enumerate(events, expected + 1)]
        try:
            self.recorder.insert_events(stored)
        except self.conflict as conflict:
            raise Conflict(self.version(stream)) from conflict
        return expected + len(events)

    def version(self, stream: str) -> int:
        last = self.recorder.select_events(stream, desc=True, limit=1)
        return last[0].originator_version if last else -1

    def read_stream(self, stream: str) -> Sequence[Any]:
        return [self.decode(stored) for stored in self.recorder.select_events(stream)]

    def read_all(self) -> int:
        position = count = 0
        while page := self.recorder.select_notifications(position + 1, _PAGE_EVENTS):
            for notification in page:
                self.decode(notification)
            position = page[-1].id
            count += len(page)
        return count

    def read_by_version(self, stream: str, version: int) -> Any:
        (stored,) = self.recorder.select_events(stream, gt=version - 1, lte=version)
        return self.decode(stored)

    def read_by_position(self, position: int) -> Any:
        (stored,) = self.recorder.select_notifications(position, 1)
        return self.decode(stored)

    def close(self) -> None:
        self.datastore.close()


class _Mapped(_Recorder):
    """Encodes and decodes domain events with the library's mapper."""

    def __init__(self, folder: str, *, durable: bool) -> None:
        super().__init__(folder, durable=durable)
        from eventsourcing.persistence import JSONTranscoder, Mapper

        mapper = Mapper(JSONTranscoder())
        self.to_stored, self.decode = mapper.to_stored_event, mapper.to_domain_event  # type: ignore[method-assign]

    def encode(self, stream: str, version: int, event: Any) -> Any:
        return self.to_stored(Started(stream, version, *msgspec.structs.astuple(event)))


class _Eventsourcing(Engine):
    title = "eventsourcing"
    package = module = "eventsourcing"
    settings = (
        "SQLite application recorder, WAL, one connection, lock timeout 60 s, synchronous FULL if durable and NORMAL "
        "if relaxed; payloads by msgspec, or (mapper) by its Mapper with its JSONTranscoder"
    )
    notes = (
        "the version check is the unique key (id, version)",
        "a conflict does not report the version, so the caller reads it",
        "mapper: domain events are dataclasses, created with their version during the append",
    )

    def load(self) -> None:
        import eventsourcing.sqlite  # noqa: F401

    def open(self, target: str, *, durable: bool, variant: str = "", payload_kind: str = "") -> Session:
        """Open a store; the variant is `mapper` or none."""
        return (_Mapped if variant == "mapper" else _Recorder)(target, durable=durable)


ENGINE = _Eventsourcing()
