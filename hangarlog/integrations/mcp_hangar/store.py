"""MCP Hangar's event store, in a hangarlog store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, ClassVar

from mcp_hangar.domain.contracts.event_store import ConcurrencyError, IDurableEventStore, TailCursor
from mcp_hangar.domain.events import DomainEvent
from mcp_hangar.domain.exceptions import CompactionError
from mcp_hangar.infrastructure.persistence.event_serializer import EventSerializationError, EventSerializer
from mcp_hangar.metrics import record_events_compacted

import hangarlog
from hangarlog import EncodedEvent, SnapshotError, StreamNotFoundError
from hangarlog.integrations.mcp_hangar.native import NativeReader


class HangarlogEventStore(IDurableEventStore):
    """Domain events in hangarlog, one stream for each aggregate. Any number of threads and processes may use a store.

    `path` is a folder or an address, such as `nats://host:4222/hangar`. `serializer` writes the events, and reads those
    of classes that are not plain. The options are those of `hangarlog.open`, which opens `log`.
    """

    positions_are_commit_ordered: ClassVar[bool] = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        serializer: EventSerializer | None = None,
        **options: Any,
    ) -> None:
        self._serializer = serializer or EventSerializer()
        self._reader = NativeReader(self._serializer)
        self.log = hangarlog.open(path, serializer=self._reader.serializer, **options)
        self._durable = self.log.durability == "always"

    def _native(self) -> NativeReader:
        if not self._reader.is_current():  # A class, a version or an upcaster was registered meanwhile.
            self._reader = NativeReader(self._serializer)
            self.log.serializer = self._reader.serializer
        return self._reader

    def _encoded(self, event: DomainEvent) -> EncodedEvent:
        event_type, text = self._serializer.serialize(event)
        try:
            return EncodedEvent(event_type, text.encode(), event.event_id)
        except UnicodeEncodeError as error:
            raise EventSerializationError(event_type, str(error)) from error

    def _append(self, stream_id: str, events: list[DomainEvent], expected: int) -> int:
        try:
            return int(self.log.append(stream_id, [self._encoded(event) for event in events], expected, retry=False))
        except hangarlog.ConcurrencyError as error:
            raise ConcurrencyError(error.stream_id, error.expected, error.actual) from error
        except hangarlog.EventSerializationError as error:
            raise EventSerializationError(error.event_type, str(error)) from error

    def append(self, stream_id: str, events: list[DomainEvent], expected_version: int) -> int:
        """Append events at the expected version, all or none. Raises MCP Hangar's `ConcurrencyError`."""
        return self._append(stream_id, events, expected_version) if events else expected_version

    def append_at_end(self, stream_id: str, events: list[DomainEvent]) -> int:
        """Append events after whatever the stream holds, all or none."""
        return self._append(stream_id, events, hangarlog.ANY) if events else self.get_stream_version(stream_id)

    def read_stream(self, stream_id: str, from_version: int = 0) -> list[DomainEvent]:
        """Return the events of a stream. Raises MCP Hangar's `EventSerializationError` if one cannot be read."""
        native = self._native()
        return native.events(self.log.read_stream(stream_id, from_version))

    def read_all(self, from_position: int = 0, limit: int = 1000) -> Iterator[tuple[int, str, DomainEvent]]:
        """Yield (position, stream id, event) in the order of commits."""
        native = self._native()
        return native.placed(self.log.read_all(from_position, limit))

    def read_since(self, cursor: TailCursor, limit: int = 1000) -> tuple[list[tuple[str, DomainEvent]], TailCursor]:
        """Return the (stream id, event) after a cursor, once they are on the device, and the cursor after them."""
        position, batch = int(cursor.token or 0), []
        read = self.log.read_all(position, limit, durable=self._durable)
        for position, stream_id, event in self._native().placed(read):  # noqa: B007
            batch.append((stream_id, event))
        return batch, TailCursor(str(position))

    def tail_head(self) -> TailCursor:
        """Return the cursor after everything that is committed."""
        return TailCursor(str(self.log.get_event_count()))

    def get_stream_version(self, stream_id: str) -> int:
        """Return the version of a stream, -1 if there is none."""
        return self.log.get_stream_version(stream_id)

    def list_streams(self, prefix: str = "") -> list[str]:
        """Return the ids of all streams that begin with `prefix`, sorted."""
        return self.log.list_streams(prefix)

    def get_all_stream_ids(self) -> list[str]:
        """Return the ids of all streams, sorted."""
        return self.log.list_streams()

    def get_event_count(self) -> int:
        """Return how many events were ever appended, compacted ones included."""
        return self.log.get_event_count()

    def get_stream_count(self) -> int:
        """Return how many streams there are."""
        return self.log.get_stream_count()

    def save_snapshot(self, stream_id: str, version: int, state: dict[str, Any]) -> None:
        """Save an aggregate's state. It may be ahead of the events; a newer one that is stored stays."""
        try:
            self.log.save_snapshot(stream_id, version, state, ahead=True)
        except SnapshotError:
            stored = self.log.load_snapshot(stream_id)
            if stored is None or stored["version"] < version:
                raise

    def load_snapshot(self, stream_id: str) -> dict[str, Any] | None:
        """Return the latest snapshot as {"version": …, "state": …}, None if there is none."""
        return self.log.load_snapshot(stream_id)

    def compact_stream(self, stream_id: str) -> int:
        """Hide the events that the snapshot covers, and return how many. Raises MCP Hangar's `CompactionError`."""
        try:
            dropped = self.log.compact_stream(stream_id)
        except (hangarlog.CompactionError, StreamNotFoundError) as error:
            cause = getattr(error, "cause", "no snapshot exists; create a snapshot before compacting")
            raise CompactionError(stream_id, cause) from error
        record_events_compacted(stream_id, dropped)
        return dropped

    def migrate(self) -> None:
        """Do nothing: a store of an older format is opened as it is."""

    def close(self) -> None:
        """Close the store."""
        self.log.close()

    def get_storage_stats(self) -> dict[str, Any]:
        """Return what MCP Hangar's monitoring shows of a store."""
        stats = self.log.stats()
        return {
            "total_events": stats.events,
            "total_streams": stats.streams,
            "storage_bytes": stats.bytes,
            "oldest_event_timestamp": stats.first_recorded_at and stats.first_recorded_at.isoformat(),
        }
