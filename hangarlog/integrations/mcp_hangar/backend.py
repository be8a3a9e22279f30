"""MCP Hangar's storage backend: the log and its delivery mark here, the other concerns in its SQLite files."""

from __future__ import annotations

import contextlib
from typing import Any

from mcp_hangar.domain.contracts.dispatch_checkpoint import IDispatchCheckpoint
from mcp_hangar.infrastructure.persistence.backends.sqlite import SqliteBackend

from hangarlog import CursorConflictError, StoreOpenError
from hangarlog.integrations.mcp_hangar.store import HangarlogEventStore
from hangarlog.opening import is_on_servers, shown_address

OPTIONS = ("compress", "durability", "lock_timeout", "mode", "segment_bytes", "unsafe_file_system")
"""The settings that are passed on to `hangarlog.open`. An address has the options of servers itself."""


class HangarlogCheckpoint(IDispatchCheckpoint):
    """How far events were handed to handlers: a cursor of the store, beside the events it counts."""

    NAME = "mcp-hangar:dispatch"

    def __init__(self, store: HangarlogEventStore) -> None:
        self._log, self._cursor = store.log, store.log.cursor(self.NAME)

    def read(self) -> int:
        """Return the position up to which events were handed over, 0 at first."""
        return self._cursor.position

    def advance(self, position: int) -> None:
        """Move forward, never back.

        It survives the death of the process. After a power cut it may be where it was before: handlers then get some
        events again, as MCP Hangar expects.
        """
        with contextlib.suppress(CursorConflictError):  # Another thread has handed over later events.
            self._cursor.advance(position, durability="relaxed")


class HangarlogBackend(SqliteBackend):
    """`persistence.backend: hangarlog`. Below `data_dir` it keeps the folder `events`, and MCP Hangar's databases.

    `event_store_path` may be another folder, or an address.
    """

    shared_across_instances = False

    def event_store(self) -> HangarlogEventStore:
        """Return the event store."""
        options = {name: self._config[name] for name in OPTIONS if name in self._config}
        path = self._path_for("event_store", "events")
        if is_on_servers(path) and (others := sorted(set(options) - {"durability"})):
            raise StoreOpenError(shown_address(path), f"{others[0]} is a setting of stores in folders: leave it out")
        store: HangarlogEventStore = self._cached("event_store", lambda: HangarlogEventStore(path, **options))
        return store

    def dispatch_checkpoint(self) -> HangarlogCheckpoint:
        """Return the delivery mark, a cursor of the event store."""
        mark: HangarlogCheckpoint = self._cached("dispatch_checkpoint", lambda: HangarlogCheckpoint(self.event_store()))
        return mark


def backend(config: dict[str, Any]) -> HangarlogBackend:
    """Return the backend for MCP Hangar's `persistence.hangarlog` settings."""
    return HangarlogBackend(config)
