"""What the processes of these tests run, `python writers.py COMMAND STORE …`; they report on standard output."""

from __future__ import annotations

import sys

import msgspec

from hangarlog import ANY, ConcurrencyError, FileEventStore, register_event_type
from hangarlog.filestore.turns import Turns
from hangarlog.system.filesystem import FileSystem


class Added(msgspec.Struct, frozen=True):
    number: int
    text: str = ""
    event_id: str | None = None


register_event_type(Added)


def expecting(path: str, stream_id: str, own: int, count: int) -> None:
    """Append `count` events, each with the version that was just read; print what was acknowledged."""
    with FileEventStore(path, durability="relaxed") as store:
        for number in range(count):
            event = Added(own * 1_000_000 + number)
            while True:
                version = store.get_stream_version(stream_id)
                try:
                    acknowledged = store.append(stream_id, [event], version)
                except ConcurrencyError as conflict:
                    if not (conflict.expected == version and conflict.actual > version):
                        raise
                else:
                    print(acknowledged, event.number, flush=True)
                    break


def endless(path: str, stream_id: str, own: int, size: int) -> None:
    """Append batches over two streams until killed; print each acknowledged one before the next is begun."""
    store = FileEventStore(path, durability="relaxed")
    text = "x" * size
    number = 0
    while True:
        ids = [f"{own}-{number}-{part}" for part in range(3)]
        events = [Added(number, text, event_id) for event_id in ids]
        store.append_many([(stream_id, events[:2], ANY), (f"own:{own}", events[2:], ANY)])
        print(" ".join(ids), flush=True)
        number += 1


def deciding(path: str, stream_id: str, own: int, count: int) -> None:
    """Once started, count in a stream with `execute`; print the most attempts that one call needed."""
    with FileEventStore(path, durability="relaxed") as store:
        most = 0
        sys.stdin.readline()
        for _ in range(count):
            calls: list[int] = []

            def decide(events: list[Added], version: int, calls: list[int] = calls) -> list[Added]:
                calls.append(version)
                return [Added(len(events))]

            store.execute(stream_id, decide)
            most = max(most, len(calls))
        print(most)


def holding(path: str, stream_id: str, own: int, amount: int) -> None:
    """Take the turn at a stream, say so, and keep it until killed."""
    with Turns(FileSystem(), path, None).taken(stream_id):
        print("taken", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    command, path, stream_id, own, amount = sys.argv[1:]
    {"expecting": expecting, "endless": endless, "deciding": deciding, "holding": holding}[command](
        path, stream_id, int(own), int(amount)
    )
