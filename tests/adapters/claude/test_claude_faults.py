"""What befalls the store of a session."""

from __future__ import annotations

import asyncio
from pathlib import Path

import faults

from hangarlog.integrations.claude import SessionStore

KEY = {"project_key": "p", "session_id": "s"}


class TestFaults(faults.Faults):
    stream = "claude:p/s"

    def open(self, path: Path) -> SessionStore:
        return SessionStore(path)

    def add(self, session: SessionStore, turn: int) -> None:
        entries = [{"type": "user", "uuid": f"u{turn}", "turn": turn}, {"type": "mode", "turn": turn}]
        asyncio.run(session.append(KEY, entries))

    def turns(self, session: SessionStore) -> list[int]:
        said = [entry["turn"] for entry in asyncio.run(session.load(KEY)) or []]
        assert said[::2] == said[1::2]
        return said[::2]

    def delete(self, session: SessionStore, folder: Path) -> None:
        asyncio.run(session.delete(KEY))
