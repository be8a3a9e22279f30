"""The Claude Agent SDK. It has no store on disk: beside a table of sqlite3 that does the same."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

from claude_agent_sdk import fold_session_summary

from bench.micro.agent_frameworks import Sides
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


async def _batches(store: Any) -> int:
    for turn in range(200):
        await store.append(_KEY, _entries(turn, 5))
    return 200


async def _large(store: Any) -> int:
    for turn in range(10):
        await store.append(_KEY, _entries(1000 + turn, 500))
    return 10


async def _load(store: Any) -> int:
    for _ in range(10):
        assert len(await store.load(_KEY)) == 6000
    return 10


SIDES = Sides(
    "sqlite3, one table",
    lambda folder: SessionStore(folder / "store"),
    _Table,
    {"append 5 entries": _batches, "append 500 entries": _large, "load 6,000 entries": _load},
)
