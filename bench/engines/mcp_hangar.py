"""MCP Hangar's own event store on SQLite, with its event class and its serializer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from bench.harness.engine import Conflict, Engine, Session


class _Store(Session):
    def __init__(self, folder: str) -> None:
        from mcp_hangar.domain.contracts.event_store import ConcurrencyError
        from mcp_hangar.infrastructure.persistence.sqlite_event_store import SQLiteEventStore

        self.conflict = ConcurrencyError
        self.store = SQLiteEventStore(os.path.join(folder, "events.db"))

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        try:
            return int(self.store.append(stream, list(events), expected))
        except self.conflict as conflict:
            raise Conflict(self.version(stream)) from conflict

    def version(self, stream: str) -> int:
        return int(self.store.get_stream_version(stream))

    def read_stream(self, stream: str) -> Sequence[Any]:
        events: Sequence[Any] = self.store.read_stream(stream)
        return events

    def read_all(self) -> int:
        position = count = 0
        while page := list(self.store.read_all(position, 10_000)):
            position = page[-1][0]
            count += len(page)
        return count

    def read_by_position(self, position: int) -> Any:
        ((_, _, event),) = self.store.read_all(position - 1, 1)
        return event


class _McpHangar(Engine):
    title = "mcp-hangar SQLiteEventStore"
    package, module = "mcp-hangar", "mcp_hangar"
    settings = (
        "its SQLite store with defaults, McpServerStarted (formerly ProviderStarted) through its serializer, "
        "typed reads"
    )
    reads_slowly = True
    notes = (
        "opens a connection per call and has one mode only: relaxed figures are of that mode",
        "a conflict does not report the version, so the caller reads it",
    )
    unsupported = {  # noqa: RUF012
        "W6b": "as W6a; its eight processes start too slowly to measure twice",
        "W10 version": "reads from a version to the end, not one event",
    }

    def load(self) -> None:
        import logging

        import mcp_hangar.infrastructure.persistence.sqlite_event_store  # noqa: F401
        import structlog
        from mcp_hangar.domain.events import McpServerStarted

        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        self.event_class = McpServerStarted

    def convert_event(self, event: Any) -> Any:
        return self.event_class(
            event.provider_id,
            event.mode,
            event.tools_count,
            event.startup_duration_ms,
            event_id=event.event_id,
            occurred_at=event.occurred_at,
        )

    def open(self, target: str, *, durable: bool, variant: str = "", payload_kind: str = "") -> Session:
        return _Store(target)


ENGINE = _McpHangar()
