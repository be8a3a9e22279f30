"""What befalls the store of a session."""

from __future__ import annotations

import asyncio
from pathlib import Path

import faults
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions

from hangarlog.integrations.adk import SessionService

ONE = {"app_name": "app", "user_id": "user", "session_id": "s"}


class TestFaults(faults.Faults):
    stream = "adk:app/user/s"

    def open(self, path: Path) -> SessionService:
        return SessionService(path)

    def close(self, session: SessionService) -> None:
        asyncio.run(session.close())

    def add(self, session: SessionService, turn: int) -> None:
        async def run() -> None:
            found = await session.get_session(**ONE) or await session.create_session(**ONE)
            await session.append_event(found, Event(author=str(turn), actions=EventActions(state_delta={"turn": turn})))

        asyncio.run(run())

    def turns(self, session: SessionService) -> list[int]:
        found = asyncio.run(session.get_session(**ONE))
        turns = [int(event.author) for event in found.events] if found else []
        assert not turns or found.state == {"turn": turns[-1]}
        return turns

    def delete(self, session: SessionService, folder: Path) -> None:
        asyncio.run(session.delete_session(**ONE))
