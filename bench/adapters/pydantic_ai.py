"""pydantic-ai. Its own store is in memory: beside one of sqlite3, with a table of records and one of entries."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
)
from pydantic_ai.conversation_store import ConversationStore as Base
from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelRequest, ModelResponse, TextPart, UserPromptPart

from bench.adapters.__main__ import Row
from bench.adapters.agents import Pair
from hangarlog.integrations.pydantic_ai import ConversationStore

_RECORD = TypeAdapter(ConversationRecord)
_TEXT = "Some words of a turn. " * 10


class _Sqlite(Base):
    """Records and entries in two tables; a history is read in one query."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "conversations.db", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE records (id TEXT PRIMARY KEY, revision TEXT, record TEXT)")
        self._db.execute("CREATE TABLE entries (id TEXT PRIMARY KEY, parent TEXT, message TEXT)")

    def close(self) -> None:
        self._db.close()

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        found = await asyncio.to_thread(
            lambda: self._db.execute("SELECT record FROM records WHERE id = ?", (conversation_id,)).fetchone()
        )
        return _RECORD.validate_json(found[0]) if found else None

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> Sequence[ConversationRecord]:
        rows = await asyncio.to_thread(lambda: self._db.execute("SELECT record FROM records").fetchall())
        return [_RECORD.validate_json(row[0]) for row in rows][:limit]

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        await asyncio.to_thread(self._write, record, new_entries, expected_revision)

    def _write(self, record: Any, new_entries: Any, expected: Any) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            name = (record.conversation_id,)
            found = self._db.execute("SELECT revision FROM records WHERE id = ?", name).fetchone()
            if (found[0] if found else None) != expected:
                raise ConversationConflict(record.conversation_id)
            rows = [(e.id, e.parent_id, ModelMessagesTypeAdapter.dump_json([e.message]).decode()) for e in new_entries]
            self._db.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
            row = (record.conversation_id, record.revision, _RECORD.dump_json(record).decode())
            self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", row)

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        raise NotImplementedError

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        return (await self.read_history(entry_id, limit=1))[0]

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        wanted = (
            "WITH RECURSIVE h(id, parent, message, n) AS (SELECT id, parent, message, 1 FROM entries WHERE id = ?"
            " UNION ALL SELECT e.id, e.parent, e.message, n + 1 FROM entries e JOIN h ON e.id = h.parent WHERE n < ?)"
            " SELECT id, parent, message FROM h"
        )
        rows = await asyncio.to_thread(lambda: self._db.execute(wanted, (head_id, limit or 1 << 40)).fetchall())
        return [
            ConversationEntry(id=i, parent_id=p, message=ModelMessagesTypeAdapter.validate_json(m)[0])
            for i, p, m in reversed(rows)
        ]


_numbers = count()


async def _turn(store: Any, conversation_id: str, limit: int | None) -> None:
    conversation = await store.load(conversation_id, limit=limit) or Conversation(conversation_id=conversation_id)
    conversation.messages.append(ModelRequest(parts=[UserPromptPart(_TEXT)]))
    conversation.messages.append(ModelResponse(parts=[TextPart(_TEXT)]))
    await store.save(conversation)


async def _turns(store: Any) -> int:
    conversation_id = f"turns {next(_numbers)}"
    for _ in range(50):
        await _turn(store, conversation_id, None)
    return 50


async def _windows(store: Any) -> int:
    for _ in range(50):
        await _turn(store, "windows", 10)
    return 50


async def _fill(store: Any) -> None:
    for _ in range(200):
        await _turn(store, "filled", 2)


async def _load(store: Any) -> int:
    for _ in range(10):
        assert len((await store.load("filled")).messages) == 400
    return 10


async def _recent(store: Any) -> int:
    for _ in range(100):
        assert len((await store.load("filled", limit=10)).messages) == 10
    return 100


def rows(folder: Path) -> Iterator[Row]:
    """Yield the rows."""
    pair = Pair(ConversationStore(folder / "store"), _Sqlite(folder))
    pair.fill(_fill)
    yield pair.row("load up to 100 messages, add 2, save", _turns)
    yield pair.row("load the last 10, add 2, save", _windows)
    yield pair.row("load 400 messages", _load)
    yield pair.row("load the last 10", _recent)
    pair.close()
