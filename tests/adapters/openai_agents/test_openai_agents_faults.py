"""What befalls the store of a session."""

from __future__ import annotations

import asyncio
from pathlib import Path

import faults

from hangarlog.integrations.openai_agents import Session


class TestFaults(faults.Faults):
    stream = "openai-agents:s"

    def open(self, path: Path) -> Session:
        return Session("s", path)

    def add(self, session: Session, turn: int) -> None:
        asyncio.run(session.add_items([{"role": who, "content": str(turn)} for who in ("user", "assistant")]))

    def turns(self, session: Session) -> list[int]:
        said = [int(item["content"]) for item in asyncio.run(session.get_items())]
        assert said[::2] == said[1::2]
        return said[::2]

    def delete(self, session: Session, folder: Path) -> None:
        asyncio.run(session.clear_session())
