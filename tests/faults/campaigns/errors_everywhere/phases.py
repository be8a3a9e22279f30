"""The phases of a store's life, and the stores that they begin with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hangarlog import ANY, EventSerializer, FileEventStore, HangarlogError, UntypedEvent
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing import Unsynced


def event(event_id: str, size: int = 10) -> UntypedEvent:
    return UntypedEvent("Added", {"text": "x" * size}, event_id=event_id)


def opened(path: Path, **options: Any) -> FileEventStore:
    options = {"durability": "relaxed", "filesystem": Unsynced(), **options}
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), **options)


def seen(store: FileEventStore, stream_id: str | None = None, *, reverse: bool = False) -> list[str]:
    return [record.event_id for record in store.records(stream_id, reverse=reverse)]


@dataclass
class Run:
    """One phase on one copy of its store, with one fault."""

    path: Path
    filesystem: FileSystem
    store: FileEventStore | None = None

    def beside(self, name: str) -> Path:
        """A place for a store of its own beside this one."""
        return self.path.with_name(f"{self.path.name}-{name}")

    def open(self, **options: Any) -> None:
        self.store = opened(self.path, filesystem=self.filesystem, **options)


@dataclass
class Phase:
    """What is done with the fault, on a store of which base, and which events it appends (to a stream each)."""

    name: str
    base: str
    act: Callable[[Run], Any]
    adds: tuple[tuple[str, str], ...] = ()
    durability: str = "relaxed"
    opens: bool = False
    reads: bool = False
    interrupts: bool = True
    at_first: Callable[[Run], Any] = lambda run: None
    hides: dict[str, int] = field(default_factory=dict)  # Stream: how many of its first events.
    moves: tuple[str, int, int] = ("worker", 2, 2)  # A cursor, from where, and to where.
    snapshots: tuple[Any, Any] = (None, None)  # Of a:1, before and after.
    in_parts: bool = False  # What it appends are several appends.
    drops: tuple[str, ...] = ()  # The ids of the events that the journal no longer has afterwards.
    returns: bool = False  # What it hides and drops was so before, and is not afterwards.
    raises: tuple[type[Exception], ...] = (HangarlogError,)  # What an error of the system comes out as.
    again: Callable[[Run, FileEventStore], Any] | None = None  # It is done once more at the end, and then is whole.


BATCH = (("a:1", "act-1"), ("b:1", "act-2"), ("new:1", "act-3"), ("plain", "act-4"))


def append(run: Run) -> None:
    run.store.append("a:1", [event("act-1")], ANY)


def append_batch(run: Run) -> None:
    run.store.append_many([(stream_id, [event(event_id)], ANY) for stream_id, event_id in BATCH])


def append_large(run: Run) -> None:
    run.store.append("a:1", [event("act-1", 70_000)], ANY)


def save(run: Run, version: int = 1) -> None:
    run.store.save_snapshot("a:1", version, {"n": version})


def saved(version: int) -> dict[str, Any]:
    return {"version": version, "state": {"n": version}}


def append_moving(run: Run) -> None:
    run.store.append_many([(s, [event(e)], ANY) for s, e in BATCH], cursor=run.store.cursor("worker").at(4, expected=2))


def append_idempotent(run: Run) -> None:
    run.store.append("a:1", [event("act-1")], ANY, idempotent=True)


def execute(run: Run) -> None:
    """Somebody comes between, so there is a turn."""

    def decide(events: list[Any], version: int) -> list[UntypedEvent]:
        if len(events) == 3:
            run.store.append("a:1", [event("act-1")], ANY)
        return [event("act-2")]

    run.store.execute("a:1", decide)


def read_by_time(run: Run) -> list[str]:
    since = next(run.store.records(limit=1)).recorded_at
    return [record.event_id for record in run.store.records(since=since)]


def ask_for_ids(run: Run) -> Any:
    return run.store.contains("base-3"), run.store.contains("nobody"), run.store.event("base-4").position


def ask_for_cursors(run: Run) -> Any:
    return run.store.cursor("worker").position, run.store.cursors()


def ask(run: Run) -> Any:
    store = run.store
    return store.list_streams(), store.list_streams("a:"), store.get_stream_version("a:1"), store.get_event_count()


PHASES = [
    Phase("create", "none", lambda run: run.open(segment_bytes=600), opens=True),
    Phase("open", "rolled", lambda run: run.open(), opens=True, at_first=lambda run: opened(run.path).close()),
    Phase("open and recover", "torn", lambda run: run.open(), opens=True),
    Phase("open exclusively", "wide", lambda run: run.open(exclusive=True), opens=True, interrupts=False),
    Phase("append", "wide", append, BATCH[:1]),
    Phase("durable append", "wide", append, BATCH[:1], durability="always"),
    Phase("batch", "wide", append_batch, BATCH),
    Phase("append that rolls", "rolled", append, BATCH[:1], durability="always"),
    Phase("batch that rolls", "rolled", append_batch, BATCH, interrupts=False),
    Phase("append with an index", "indexed", append_large, BATCH[:1], interrupts=False),
    Phase("snapshot", "rolled", save, snapshots=(None, saved(1))),
    Phase("snapshot again", "rolled", lambda run: save(run, 2), at_first=save, snapshots=(saved(1), saved(2))),
    Phase(
        "compact",
        "rolled",
        lambda run: run.store.compact_stream("a:1"),
        at_first=save,
        hides={"a:1": 2},
        snapshots=(saved(1), saved(1)),
    ),
    Phase("truncate", "rolled", lambda run: run.store.truncate_stream("a:1", 2), hides={"a:1": 2}),
    Phase("delete", "wide", lambda run: run.store.delete_stream("b:1"), hides={"b:1": 1}),
    Phase("bury", "rolled", lambda run: run.store.delete_stream("b:1", permanent=True), hides={"b:1": 1}),
    Phase("first move", "wide", lambda run: run.store.cursor("new").advance(3), moves=("new", 0, 3)),
    Phase("move", "wide", lambda run: run.store.cursor("worker").advance(3), moves=("worker", 2, 3)),
    Phase(
        "durable move",
        "wide",
        lambda run: run.store.cursor("worker").advance(3),
        durability="always",
        moves=("worker", 2, 3),
    ),
    Phase("delete a cursor", "wide", lambda run: run.store.cursor("worker").delete(), moves=("worker", 2, 0)),
    Phase("move with a batch", "wide", append_moving, BATCH, durability="always", moves=("worker", 2, 4)),
    Phase("idempotent append", "ids", append_idempotent, BATCH[:1]),
    Phase("first idempotent append", "wide", append_idempotent, BATCH[:1], interrupts=False),
    Phase("execute", "wide", execute, (("a:1", "act-1"), ("a:1", "act-2")), in_parts=True),
    Phase("ask for ids", "ids", ask_for_ids, reads=True, interrupts=False),
    Phase("ask for cursors", "wide", ask_for_cursors, reads=True, interrupts=False),
    Phase("read by time", "indexed", read_by_time, reads=True, interrupts=False),
    Phase("read a stream", "rolled", lambda run: seen(run.store, "a:1"), reads=True),
    Phase("read all backwards", "rolled", lambda run: seen(run.store, reverse=True), reads=True),
    Phase("list", "rolled", ask, reads=True, interrupts=False),
    Phase("close", "wide", lambda run: run.store.close(), durability="always"),
]


def make_bases(folder: Path) -> dict[str, Path]:
    """The stores that the phases begin with."""
    bases = {name: folder / name for name in ("wide", "rolled", "short", "indexed", "ids", "torn", "none")}
    sizes = (("wide", 1 << 20, 10), ("rolled", 500, 10), ("indexed", 66_000, 66_000), ("ids", 1 << 20, 10))
    sizes += (("short", 300, 10),)
    for name, segment_bytes, size in sizes:
        with opened(bases[name], segment_bytes=segment_bytes) as store:
            for number in range(3):
                store.append("a:1", [event(f"base-{number}", size)], ANY)
            if name == "ids":
                assert store.contains("base-1")  # It makes the table, which has not everything then.
            store.append_many([("b:1", [event("base-3")], ANY), ("plain", [event("base-4")], ANY)])
            store.cursor("worker").advance(2)
    shutil.copytree(bases["wide"], bases["torn"])
    with open(bases["torn"] / "journal.jsonl", "ab") as journal:
        journal.write(b'{"position":6,"stream_id":"a:1"')
    stream = bases["torn"] / "streams/a/1.jsonl"
    os.truncate(stream, stream.stat().st_size - 100)
    return bases
