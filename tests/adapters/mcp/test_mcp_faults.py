"""What befalls the store of what a session was sent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import faults
from mcp_types import JSONRPCNotification

from hangarlog import FileEventStore
from hangarlog.integrations.mcp import ResumableEvents


class TestFaults(faults.Faults):
    stream, makes_anew = "mcp:events", True

    def open(self, path: Path) -> ResumableEvents:
        return ResumableEvents(path, keep_seconds=1e9)

    def add(self, session: ResumableEvents, turn: int) -> None:
        message = JSONRPCNotification(jsonrpc="2.0", method="n", params={"turn": turn})
        asyncio.run(session.session("s").store_event("1", message))

    def turns(self, session: ResumableEvents) -> list[int]:
        """What a client gets that has the first message only."""
        found: list[int] = []

        async def send(sent: Any) -> None:
            found.append(sent.message.params["turn"])

        (folder,) = session._folder.glob("mcp-events-*")
        with FileEventStore.untyped(folder) as store:
            first = [each for block in store.envelopes(self.stream, limit=1) for each in block]
        for each in first:
            found.append(json.loads(bytes(each.data))["message"]["params"]["turn"])
            event_id = f"{folder.name.rpartition('-')[2]}-{each.stream_version}"
            asyncio.run(session.session("s").replay_events_after(event_id, send))
        return found
