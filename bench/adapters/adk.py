"""Google's ADK, beside its SqliteSessionService."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

from bench.adapters.__main__ import Row
from bench.adapters.agents import Pair
from hangarlog.integrations.adk import SessionService

_WHO: Any = {"app_name": "app", "user_id": "user"}
_FILLED: Any = {"app_name": "filled", "user_id": "user"}
_TEXT = "Some words of a turn. " * 10


def _event(number: int) -> Event:
    content = types.Content(role="user", parts=[types.Part(text=f"{_TEXT} {number}")])
    return Event(author="user", content=content, actions=EventActions(state_delta={"turn": number}))


_numbers = count()


async def _append(service: Any) -> int:
    session = await service.create_session(**_WHO)
    for number in range(50):
        await service.append_event(session, _event(number))
    return 50


async def _fill(service: Any) -> None:
    session = await service.create_session(app_name="filled", user_id="user", session_id="s")
    for number in range(300):
        await service.append_event(session, _event(number))
    for number in range(100):
        await service.create_session(app_name="filled", user_id="user", session_id=f"s{number}")


async def _recent(service: Any) -> int:
    config = GetSessionConfig(num_recent_events=10)
    for _ in range(50):
        assert len((await service.get_session(**_FILLED, session_id="s", config=config)).events) == 10
    return 50


async def _all(service: Any) -> int:
    for _ in range(5):
        assert len((await service.get_session(**_FILLED, session_id="s")).events) == 300
    return 5


async def _create(service: Any) -> int:
    for _ in range(50):
        await service.create_session(**_WHO, session_id=f"s{next(_numbers)}")
    return 50


async def _list(service: Any) -> int:
    for _ in range(5):
        assert len((await service.list_sessions(**_FILLED)).sessions) == 101
    return 5


def rows(folder: Path) -> Iterator[Row]:
    """Yield the rows."""
    pair = Pair(SessionService(folder / "store"), SqliteSessionService(str(folder / "sessions.db")))
    pair.fill(_fill)
    yield pair.row("append an event with a change of state", _append)
    yield pair.row("get a session with its last 10 events", _recent)
    yield pair.row("get a session with 300 events", _all)
    yield pair.row("create a session", _create)
    yield pair.row("list 101 sessions", _list)
    pair.close()
