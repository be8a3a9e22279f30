"""The phases of a store's life, and the stores that they begin with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hangarlog import ANY, EventSerializer, FileEventStore, UntypedEvent
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


BATCH = (("a:1", "act-1"), ("b:1", "act-2"), ("new:1", "act-3"), ("plain", "act-4"))


def append(run: Run) -> None:
    run.store.append("a:1", [event("act-1")], ANY)


def append_batch(run: Run) -> None:
    run.store.append_many([(stream_id, [event(event_id)], ANY) for stream_id, event_id in BATCH])


def append_large(run: Run) -> None:
    run.store.append("a:1", [event("act-1", 70_000)], ANY)


def save(run: Run) -> None:
    run.store.save_snapshot("a:1", 1, {"n": 1})


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
    Phase("snapshot", "rolled", save),
    Phase("compact", "rolled", lambda run: run.store.compact_stream("a:1"), at_first=save),
    Phase("read a stream", "rolled", lambda run: seen(run.store, "a:1"), reads=True),
    Phase("read all backwards", "rolled", lambda run: seen(run.store, reverse=True), reads=True),
    Phase("list", "rolled", ask, reads=True, interrupts=False),
    Phase("close", "wide", lambda run: run.store.close(), durability="always"),
]


def make_bases(folder: Path) -> dict[str, Path]:
    """The stores that the phases begin with."""
    bases = {name: folder / name for name in ("wide", "rolled", "indexed", "torn", "none")}
    for name, segment_bytes, size in (("wide", 1 << 20, 10), ("rolled", 500, 10), ("indexed", 66_000, 66_000)):
        with opened(bases[name], segment_bytes=segment_bytes) as store:
            for number in range(3):
                store.append("a:1", [event(f"base-{number}", size)], ANY)
            store.append_many([("b:1", [event("base-3")], ANY), ("plain", [event("base-4")], ANY)])
    shutil.copytree(bases["wide"], bases["torn"])
    with open(bases["torn"] / "journal.jsonl", "ab") as journal:
        journal.write(b'{"position":6,"stream_id":"a:1"')
    stream = bases["torn"] / "streams/a/1.jsonl"
    os.truncate(stream, stream.stat().st_size - 100)
    return bases
