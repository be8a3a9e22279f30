"""Google's ADK, beside its SqliteSessionService."""

from __future__ import annotations

from typing import Any

from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

from bench.micro.agent_frameworks import Sides
from hangarlog.integrations.adk import SessionService

_WHO: Any = {"app_name": "app", "user_id": "user"}
_TEXT = "Some words of a turn. " * 10


def _event(number: int) -> Event:
    content = types.Content(role="user", parts=[types.Part(text=f"{_TEXT} {number}")])
    return Event(author="user", content=content, actions=EventActions(state_delta={"turn": number}))


async def _append(service: Any) -> int:
    session = await service.create_session(**_WHO, session_id="s")
    for number in range(300):
        await service.append_event(session, _event(number))
    return 300


async def _recent(service: Any) -> int:
    config = GetSessionConfig(num_recent_events=10)
    for _ in range(100):
        assert len((await service.get_session(**_WHO, session_id="s", config=config)).events) == 10
    return 100


async def _all(service: Any) -> int:
    for _ in range(20):
        assert len((await service.get_session(**_WHO, session_id="s")).events) == 300
    return 20


async def _create(service: Any) -> int:
    for number in range(100):
        await service.create_session(**_WHO, session_id=f"s{number}")
    return 100


async def _list(service: Any) -> int:
    for _ in range(20):
        assert len((await service.list_sessions(**_WHO)).sessions) == 101
    return 20


SIDES = Sides(
    "SqliteSessionService",
    lambda folder: SessionService(folder / "store"),
    lambda folder: SqliteSessionService(str(folder / "sessions.db")),
    {
        "append an event with a change of state": _append,
        "get a session with its last 10 events": _recent,
        "get a session with 300 events": _all,
        "create a session": _create,
        "list 101 sessions": _list,
    },
)
