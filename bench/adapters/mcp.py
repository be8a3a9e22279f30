"""The MCP SDK. Its own event store is an example in memory: beside a table of sqlite3."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcp_types import JSONRPCNotification, jsonrpc_message_adapter

from bench.adapters.__main__ import Row
from bench.adapters.agents import Pair
from hangarlog.integrations.mcp import ResumableEvents

_PARAMS: dict[str, Any] = {"progressToken": "p", "progress": 1, "message": "Some words of progress. " * 5}
_MESSAGE = JSONRPCNotification(jsonrpc="2.0", method="notifications/progress", params=_PARAMS)


class _Table:
    """Events in a table, unsynced, with an index on their streams."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "events.db", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, stream TEXT, message TEXT)")
        self._db.execute("CREATE INDEX by_stream ON events (stream, id)")

    async def store_event(self, stream_id: str, message: Any) -> str:
        text = None if message is None else message.model_dump_json(by_alias=True, exclude_unset=True)
        return str(await asyncio.to_thread(self._put, stream_id, text))

    def _put(self, stream_id: str, text: str | None) -> int | None:
        with self._db:
            return self._db.execute("INSERT INTO events (stream, message) VALUES (?, ?)", (stream_id, text)).lastrowid

    async def replay_events_after(self, last: str, send: Any) -> str:
        stream, rows = await asyncio.to_thread(self._after, int(last))
        for _, text in rows:
            await send(jsonrpc_message_adapter.validate_json(text, by_name=False))
        return stream

    def _after(self, last: int) -> tuple[str, list[Any]]:
        (stream,) = self._db.execute("SELECT stream FROM events WHERE id = ?", (last,)).fetchone()
        wanted = "SELECT id, message FROM events WHERE stream = ? AND id > ? AND message IS NOT NULL ORDER BY id"
        return stream, self._db.execute(wanted, (stream, last)).fetchall()

    def session(self, name: str) -> Any:
        return self

    def close(self) -> None:
        self._db.close()


async def _store(events: Any) -> int:
    session = events.session("s")
    for number in range(300):
        await session.store_event(str(number // 50), _MESSAGE)
    return 300


async def _replay(events: Any) -> int:
    session, got = events.session("s"), []

    async def take(message: Any) -> None:
        got.append(message)

    first = await session.store_event("last", None)
    for _ in range(20):
        await session.store_event("last", _MESSAGE)
    for _ in range(50):
        got.clear()
        assert await session.replay_events_after(first, take) == "last"
        assert len(got) == 20
    return 50


def rows(folder: Path) -> Iterator[Row]:
    """Yield the rows."""
    pair = Pair(ResumableEvents(folder / "sent"), _Table(folder))
    yield pair.row("store an event", _store)
    yield pair.row("replay 20 events", _replay)
    pair.close()
