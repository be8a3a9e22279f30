"""MCP Hangar's storage on hangarlog: `persistence: {backend: hangarlog}`.

The event log and its delivery mark are in hangarlog, MCP Hangar's other concerns in its own SQLite files.
"""

from hangarlog.integrations.mcp_hangar.backend import HangarlogBackend, HangarlogCheckpoint, backend
from hangarlog.integrations.mcp_hangar.store import HangarlogEventStore

__all__ = ["HangarlogBackend", "HangarlogCheckpoint", "HangarlogEventStore", "backend"]
