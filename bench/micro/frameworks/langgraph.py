"""LangGraph, beside its AsyncSqliteSaver."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from bench.micro.agent_frameworks import Sides
from hangarlog.integrations.langgraph import Saver

_MESSAGES = [{"role": "user", "content": "Some words of a turn. " * 10}] * 20


def _config(thread: str, checkpoint_id: str | None = None) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}}


async def _steps(saver: Any) -> int:
    """Each is a checkpoint and the writes of one task."""
    for number in range(200):
        checkpoint: Any = {
            "v": 4,
            "id": f"{number:06}",
            "ts": "2026-11-27T00:00:00+00:00",
            "channel_values": {"messages": _MESSAGES},
            "channel_versions": {"messages": number},
            "versions_seen": {},
            "updated_channels": None,
        }
        config = await saver.aput(_config("1"), checkpoint, {"source": "loop", "step": number}, {})
        await saver.aput_writes(config, [("messages", _MESSAGES[0])], "task")
    return 200


async def _latest(saver: Any) -> int:
    for _ in range(200):
        assert (await saver.aget_tuple(_config("1"))).checkpoint["id"] == "000199"
    return 200


async def _history(saver: Any) -> int:
    for _ in range(3):
        assert len([each async for each in saver.alist(_config("1"))]) == 200
    return 3


async def _recent(saver: Any) -> int:
    for _ in range(50):
        assert len([each async for each in saver.alist(_config("1"), limit=10)]) == 10
    return 50


SIDES = Sides(
    "AsyncSqliteSaver",
    lambda folder: Saver(folder / "store"),
    lambda folder: AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.db")),
    {
        "put a checkpoint and its writes": _steps,
        "get the latest of 200": _latest,
        "list the last 10": _recent,
        "list all 200": _history,
    },
)
