"""MCP Hangar's event store: hangarlog's beside its SQLite's, both with its serializer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import structlog
from mcp_hangar.domain.contracts.event_store import BEGINNING
from mcp_hangar.domain.events import ToolInvocationCompleted
from mcp_hangar.infrastructure.persistence.dispatch_checkpoint import SqliteDispatchCheckpoint
from mcp_hangar.infrastructure.persistence.sqlite_event_store import SQLiteEventStore

from bench.adapters.__main__ import Row
from hangarlog.integrations.mcp_hangar import HangarlogCheckpoint, HangarlogEventStore

names = count()


def completed(events: int) -> list[Any]:
    """Return events as the gateway publishes them with each call of a tool."""
    return [ToolInvocationCompleted("math", "add", "0199-correlation", 1.5, 120) for _ in range(events)]


def appends(store: Any, calls: int, events: int, *, new: bool = False) -> Callable[[], int]:
    """Return what appends at the end of one stream, or each time of a new one."""

    def work() -> int:
        for _ in range(calls):
            store.append_at_end(f"mcp_server:new-{next(names)}" if new else "mcp_server:math", completed(events))
        return calls * events

    return work


def publishes(store: Any, mark: Any, calls: int) -> Callable[[], int]:
    """Return what appends an event and moves the delivery mark, as the event bus does."""

    def work() -> int:
        for _ in range(calls):
            store.append_at_end("mcp_server:math", completed(1))
            mark.advance(store.get_event_count())
        return calls

    return work


def reads(store: Any, ids: list[str]) -> Callable[[], int]:
    """Return what reads whole streams."""
    return lambda: sum(len(store.read_stream(each)) for each in ids)


def tails(store: Any, size: int, most: int) -> Callable[[], int]:
    """Return what follows the log from its beginning, batch by batch."""

    def work() -> int:
        cursor, seen = BEGINNING, 0
        while seen < most:
            batch, cursor = store.read_since(cursor, size)
            seen += len(batch)
        return seen

    return work


def rows(folder: Path) -> Iterator[Row]:
    """Yield the rows."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    ours, theirs = HangarlogEventStore(folder / "hangarlog"), SQLiteEventStore(folder / "events.db")
    marks = HangarlogCheckpoint(ours), SqliteDispatchCheckpoint(str(folder / "events.db"))

    def row(title: str, work: Callable[..., Callable[[], int]], *arguments: Any, **options: Any) -> Row:
        return Row(title, *(work(each, *arguments, **options) for each in (ours, theirs)))

    yield row("append one event", appends, 200, 1)
    yield row("append 1,000 events", appends, 10, 1000)
    yield row("append the first event of a new stream", appends, 200, 1, new=True)
    yield Row("append one event and move the delivery mark", *map(publishes, (ours, theirs), marks, (100, 100)))
    short = [f"group:{number}" for number in range(200)]
    for store in (ours, theirs):
        for each in short:
            store.append(each, completed(10), -1)
        store.append("mcp_server:long", completed(10_000), -1)
    yield row("read streams of 10 events", reads, short)
    yield row("read a stream of 10,000 events", reads, ["mcp_server:long"])
    yield row("tail, 10 events at a time", tails, 10, 2_000)
    yield row("tail, 1,000 events at a time", tails, 1_000, 50_000)
    ours.close()
