"""The OpenAI Agents SDK, beside its SQLiteSession."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents import SQLiteSession

from bench.adapters.__main__ import Row
from bench.adapters.agents import Pair
from hangarlog.integrations.openai_agents import Session

_TEXT = "Some words of a turn. " * 10


class _Sessions:
    """Makes sessions of one store: ones that stay, and ones that know nothing yet."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._made: list[Any] = []
        self.growing, self.filled, self.turns = make("growing"), make("filled"), make("turns")

    def cold(self) -> Any:
        self._made.append(self._make("filled"))
        return self._made[-1]

    def close(self) -> None:
        for each in [self.growing, self.filled, self.turns, *self._made]:
            each.close()


def _items(number: int) -> list[Any]:
    return [{"role": "user", "content": f"{_TEXT} {n}"} for n in range(number)]


async def _fill(sessions: Any) -> None:
    await sessions.filled.add_items(_items(2500))
    await sessions.turns.add_items(_items(20))


async def _add(sessions: Any) -> int:
    for _ in range(100):
        await sessions.growing.add_items(_items(1))
    return 100


async def _add_many(sessions: Any) -> int:
    for _ in range(10):
        await sessions.growing.add_items(_items(100))
    return 1000


async def _gather(sessions: Any) -> int:
    await asyncio.gather(*(sessions.growing.add_items(_items(1)) for _ in range(200)))
    return 200


async def _recent(sessions: Any) -> int:
    for _ in range(200):
        assert len(await sessions.filled.get_items(10)) == 10
    return 200


async def _recent_cold(sessions: Any) -> int:
    for _ in range(50):
        assert len(await sessions.cold().get_items(10)) == 10
    return 50


async def _all(sessions: Any) -> int:
    for _ in range(5):
        assert len(await sessions.filled.get_items()) == 2500
    return 5


async def _turns(sessions: Any) -> int:
    for _ in range(50):
        assert await sessions.turns.get_items(20)
        await sessions.turns.add_items(_items(2))
    return 50


async def _pop(sessions: Any) -> int:
    for _ in range(50):
        assert await sessions.growing.pop_item()
    return 50


def rows(folder: Path) -> Iterator[Row]:
    """Yield the rows."""
    pair = Pair(
        _Sessions(lambda name: Session(name, folder / "store")),
        _Sessions(lambda name: SQLiteSession(name, folder / "sessions.db")),
    )
    pair.fill(_fill)
    yield pair.row("add an item", _add)
    yield pair.row("add 100 items", _add_many)
    yield pair.row("add an item, 200 tasks at once", _gather)
    yield pair.row("get the last 10 of 2,500", _recent)
    yield pair.row("the same by a new session object", _recent_cold)
    yield pair.row("get all 2,500", _all)
    yield pair.row("a turn: get 20, add 2", _turns)
    yield pair.row("pop an item", _pop)
    pair.close()
