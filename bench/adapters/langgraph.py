"""LangGraph, beside its AsyncSqliteSaver."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from bench.adapters.__main__ import Row
from bench.adapters.agents import Pair
from hangarlog.integrations.langgraph import Saver

_MESSAGES = [{"role": "user", "content": "Some words of a turn. " * 10}] * 20


def _config(thread: str, checkpoint_id: str | None = None) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}}


_numbers = count()


async def _step(saver: Any, thread: str, number: int) -> None:
    checkpoint: Any = {
        "v": 4,
        "id": f"{number:06}",
        "ts": "2026-11-27T00:00:00+00:00",
        "channel_values": {"messages": _MESSAGES},
        "channel_versions": {"messages": number},
        "versions_seen": {},
        "updated_channels": None,
    }
    config = await saver.aput(_config(thread), checkpoint, {"source": "loop", "step": number}, {})
    await saver.aput_writes(config, [("messages", _MESSAGES[0])], "task")


async def _steps(saver: Any) -> int:
    """Each is a checkpoint and the writes of one task."""
    for _ in range(100):
        await _step(saver, "steps", next(_numbers))
    return 100


async def _fill(saver: Any) -> None:
    for number in range(200):
        await _step(saver, "1", number)


async def _latest(saver: Any) -> int:
    for _ in range(200):
        assert (await saver.aget_tuple(_config("1"))).checkpoint["id"] == "000199"
    return 200


async def _recent(saver: Any) -> int:
    for _ in range(20):
        assert len([each async for each in saver.alist(_config("1"), limit=10)]) == 10
    return 200


async def _history(saver: Any) -> int:
    assert len([each async for each in saver.alist(_config("1"))]) == 200
    return 200


def rows(folder: Path) -> Iterator[Row]:
    """Yield the rows."""
    pair = Pair(Saver(folder / "store"), AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.db")))
    pair.fill(_fill)
    yield pair.row("put a checkpoint and its writes", _steps)
    yield pair.row("get the latest of 200", _latest)
    yield pair.row("list the last 10", _recent)
    yield pair.row("list all 200", _history)
    pair.close()
