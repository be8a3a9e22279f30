"""The stores in use, and what was promised about them."""

from __future__ import annotations

import shutil
from pathlib import Path

from hangarlog import ANY

from ..cells import Cell, Device, event, opened
from ..mutations import WHOLE

SEALED_JOURNAL = "journal.00000000000000000001"
SEALED_STREAM = "streams/big/1.00000000000000000000"
TARGETS = (
    "journal.jsonl",
    f"{SEALED_JOURNAL}.jsonl",
    f"{SEALED_JOURNAL}.index",
    "streams/a/1.jsonl",
    "streams/big/1.jsonl",
    f"{SEALED_STREAM}.jsonl",
    f"{SEALED_STREAM}.index",
    "state",
    "ring",
    "checkpoint.json",
    "catalog",
    "locks/write.lock",
    "locks/sync.lock",
    "locks",
    "streams",
    "streams/a",
    "snapshots",
    "snapshots/a/1.json",
    "hangarlog.json",
    WHOLE,
)


def make_bases(folder: Path) -> None:
    """Two stores: one with sealed segments, and one of which the next append also rolls the journal and a stream."""
    with opened(folder / "plain", segment_bytes=80_000, durability="always", filesystem=Device()) as store:
        store.append("big:1", [event("big-0", 290_000), event("big-1", 20_000)], ANY)
        for number in range(2):  # The first rolls the journal.
            store.append("a:1", [event(f"a-{number}")], ANY)
        store.append("big:1", [event("big-2")], ANY)  # And this the stream.
        store.append_many([("b:1", [event("b-0")], ANY), ("plain", [event("plain-0")], ANY)])
        store.save_snapshot("a:1", 1, {"n": 1})
    shutil.copytree(folder / "plain", folder / "full")
    with opened(folder / "full", durability="always", filesystem=Device()) as store:
        store.append("big:1", [event("big-3", 85_000)], ANY)


class Ledger:
    """What was tried, acknowledged, refused; and which promises of it were broken."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.told: dict[str, tuple[str, int]] = {}  # Event: the place that was acknowledged.
        self.tried: set[str] = set()
        self.refused: dict[str, str] = {}  # Event: the error that said that it is not there.
        self.doubted: set[str] = set()
        self.durable: set[str] = set()  # What was acknowledged before the last durable append was.

    def version(self, stream_id: str) -> int:
        return max((version for at, version in self.told.values() if at == stream_id), default=-1)

    def acknowledge(self, event_id: str, stream_id: str, version: int, *, durable: bool) -> None:
        twice = [other for other, place in self.told.items() if place == (stream_id, version)]
        if twice:
            self.cell.breaks(f"a version is given twice ({event_id[0]} after {twice[0][0]})")
        self.told[event_id] = (stream_id, version)
        if durable:
            self.durable = set(self.told)
