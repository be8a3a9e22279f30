"""What the processes of these tests run: `python subscriber_programs.py COMMAND STORE NAME WORKERS`.

They report on standard output: the position of each event that was processed, `lost` if another owner has moved the
cursor.
"""

from __future__ import annotations

import sys

from hangarlog import CursorConflictError, FileEventStore, UntypedEvent


def answer(path: str, name: str, workers: int) -> None:
    """Answer every event of the category `in` with one, and move the cursor in the same append."""
    store = FileEventStore.untyped(path, durability="relaxed")
    with store.subscribe(name=name, workers=workers or None, category="in") as subscription:
        print("ready", flush=True)
        try:
            for record in subscription:
                answered = UntypedEvent("Answered", {"position": record.position})
                store.append_at_end(f"out:{record.stream_id[3:]}", [answered], cursor=subscription.move())
                print(record.position, flush=True)
        except CursorConflictError:
            print("lost", flush=True)


def note(path: str, name: str, workers: int) -> None:
    """Answer every event of the category `in`, and let the cursor move by itself."""
    store = FileEventStore.untyped(path, durability="relaxed")
    with store.subscribe(name=name, workers=workers or None, batch=7, category="in") as subscription:
        for record in subscription:
            answered = UntypedEvent("Answered", {"position": record.position})
            store.append_at_end(f"out:{record.stream_id[3:]}", [answered])


def process(path: str, name: str, batch: int) -> None:
    """Process every event, and let the cursor move by itself."""
    store = FileEventStore.untyped(path, durability="relaxed")
    with store.subscribe(name=name, batch=batch) as subscription:
        for record in subscription:
            print(record.position, flush=True)


def write(path: str, stream_id: str, count: int) -> None:
    """Append events, one by one and in batches over two streams."""
    with FileEventStore.untyped(path, durability="relaxed") as store:
        for number in range(count):
            events = [UntypedEvent("Written", {"number": number})]
            store.append_at_end(stream_id, events * (1 + number % 3))
            print(number, flush=True)


if __name__ == "__main__":
    command, path, name, number = sys.argv[1:]
    {"answer": answer, "note": note, "process": process, "write": write}[command](path, name, int(number))
