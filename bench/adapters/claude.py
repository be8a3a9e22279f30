"""The Claude Agent SDK. It has no store on disk: beside a table of sqlite3 that does the same."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from claude_agent_sdk import fold_session_summary

from bench.adapters.__main__ import Row
from bench.adapters.agents import Pair
from hangarlog.integrations.claude import SessionStore

_KEY: Any = {"project_key": "p", "session_id": "s"}
_TEXT = "Some words of an answer. " * 12


class _Table:
    """Transcripts in a table, with a unique index on their entries' ids."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "t.db", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE entries (n INTEGER PRIMARY KEY, key TEXT, uuid TEXT, entry TEXT)")
        self._db.execute("CREATE UNIQUE INDEX once ON entries (key, uuid)")
        self._db.execute("CREATE TABLE summaries (key TEXT PRIMARY KEY, summary TEXT)")

    async def append(self, key: Any, entries: list[Any]) -> None:
        await asyncio.to_thread(self._append, key, entries)

    def _append(self, whole: Any, entries: list[Any]) -> None:
        key = json.dumps(whole)
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            found = self._db.execute("SELECT summary FROM summaries WHERE key = ?", (key,)).fetchone()
            summary = fold_session_summary(json.loads(found[0]) if found else None, whole, entries)
            self._db.execute("INSERT OR REPLACE INTO summaries VALUES (?, ?)", (key, json.dumps(summary)))
            rows = [(key, entry["uuid"], json.dumps(entry)) for entry in entries]
            self._db.executemany("INSERT OR IGNORE INTO entries (key, uuid, entry) VALUES (?, ?, ?)", rows)

    async def load(self, key: Any) -> list[Any]:
        return await asyncio.to_thread(self._load, json.dumps(key))

    def _load(self, key: str) -> list[Any]:
        found = self._db.execute("SELECT entry FROM entries WHERE key = ? ORDER BY n", (key,))
        return [json.loads(entry) for (entry,) in found]

    def close(self) -> None:
        self._db.close()


def _entries(turn: int, count: int) -> list[Any]:
    message = {"role": "assistant", "content": [{"type": "text", "text": _TEXT}]}
    return [{"type": "assistant", "uuid": f"{turn}-{n}", "sessionId": "s", "message": message} for n in range(count)]


_numbers = count()


async def _batches(store: Any) -> int:
    for _ in range(100):
        await store.append(_KEY, _entries(next(_numbers), 5))
    return 500


async def _large(store: Any) -> int:
    for _ in range(5):
        await store.append({**_KEY, "session_id": "large"}, _entries(next(_numbers), 500))
    return 2500


async def _fill(store: Any) -> None:
    for turn in range(60):
        await store.append({**_KEY, "session_id": "filled"}, _entries(turn, 100))


async def _load(store: Any) -> int:
    assert len(await store.load({**_KEY, "session_id": "filled"})) == 6000
    return 6000


def rows(folder: Path) -> Iterator[Row]:
    """Yield the rows."""
    pair = Pair(SessionStore(folder / "store"), _Table(folder))
    pair.fill(_fill)
    yield pair.row("append 5 entries", _batches)
    yield pair.row("append 500 entries", _large)
    yield pair.row("load 6,000 entries", _load)
    pair.close()
