"""The OpenAI Agents SDK, beside its SQLiteSession."""

from __future__ import annotations

import asyncio
from typing import Any

from agents import SQLiteSession

from bench.micro.agent_frameworks import Sides
from hangarlog.integrations.openai_agents import Session

_TEXT = "Some words of a turn. " * 10


class _Sessions:
    """Makes sessions of one store: the same one, and ones that know nothing yet."""

    def __init__(self, make: Any) -> None:
        self.make, self.session = make, make("one")
        self._made: list[Any] = []

    def cold(self) -> Any:
        self._made.append(self.make("one"))
        return self._made[-1]

    def close(self) -> None:
        for each in [self.session, *self._made]:
            each.close()


async def _add(sessions: Any) -> int:
    for number in range(300):
        await sessions.session.add_items([{"role": "user", "content": f"{_TEXT} {number}"}])
    return 300


async def _add_many(sessions: Any) -> int:
    for number in range(20):
        await sessions.session.add_items([{"role": "user", "content": f"{_TEXT} {number} {n}"} for n in range(100)])
    return 20


async def _gather(sessions: Any) -> int:
    items = [{"role": "user", "content": _TEXT}]
    await asyncio.gather(*(sessions.session.add_items(items) for _ in range(200)))
    return 200


async def _recent(sessions: Any) -> int:
    for _ in range(500):
        assert len(await sessions.session.get_items(10)) == 10
    return 500


async def _recent_cold(sessions: Any) -> int:
    for _ in range(100):
        assert len(await sessions.cold().get_items(10)) == 10
    return 100


async def _all(sessions: Any) -> int:
    for _ in range(20):
        assert len(await sessions.session.get_items()) == 2500
    return 20


async def _turns(sessions: Any) -> int:
    for number in range(100):
        assert await sessions.session.get_items(20)
        await sessions.session.add_items([{"role": "user", "content": f"{_TEXT} {number}"}] * 2)
    return 100


async def _pop(sessions: Any) -> int:
    for _ in range(100):
        assert await sessions.session.pop_item()
    return 100


SIDES = Sides(
    "SQLiteSession",
    lambda folder: _Sessions(lambda name: Session(name, folder / "store")),
    lambda folder: _Sessions(lambda name: SQLiteSession(name, folder / "sessions.db")),
    {
        "add an item": _add,
        "add 100 items": _add_many,
        "add an item, 200 tasks at once": _gather,
        "get the last 10 of 2,500": _recent,
        "the same by a new session object": _recent_cold,
        "get all 2,500": _all,
        "a turn: get 20, add 2": _turns,
        "pop an item": _pop,
    },
)
