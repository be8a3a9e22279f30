"""`python -m bench.micro.large_payloads`: a stream of large events, read by hangarlog and by sqlite3 with msgspec.

Both read one stream into typed events, in turn, warm, and the best of many rounds counts.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.harness.payload import Noted, event_classes, noted
from hangarlog import FileEventStore

_STREAM = "run:1"
_SIZES_BYTES = 200, 1_000, 10_000, 100_000, 1_000_000
_STREAM_BYTES = 20_000_000
_ROUNDS = 30


def _sqlite3(path: Path, events: list[Noted]) -> Callable[[], list[Any]]:
    """Return a function that reads a stream from a table of these events."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE events (stream_id, stream_version, event_type, data BLOB)")
    connection.execute("CREATE UNIQUE INDEX places ON events (stream_id, stream_version)")
    rows = [(_STREAM, n, "Noted", msgspec.json.encode(event)) for n, event in enumerate(events)]
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
    decoders = {name: msgspec.json.Decoder[Any](cls).decode for name, cls in event_classes("1").items()}
    query = "SELECT event_type, data FROM events WHERE stream_id = ? ORDER BY stream_version"
    return lambda: [decoders[name](data) for name, data in connection.execute(query, (_STREAM,))]


def _hangarlog(path: Path, events: list[Noted], batch: int) -> Callable[[], list[Any]]:
    """Return a function that reads a stream from a store of these events, appended `batch` at a time."""
    store = FileEventStore(path, durability="relaxed")
    for at in range(0, len(events), batch):
        store.append(_STREAM, events[at : at + batch], at - 1)
    return lambda: store.read_stream(_STREAM)


def best_seconds(reads: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the shortest time of each function, which are called in turn."""
    best = dict.fromkeys(reads, float("inf"))
    for _ in range(rounds):
        for name, read in reads.items():
            begin = time.process_time()
            read()
            best[name] = min(best[name], time.process_time() - begin)
    return best


def main() -> None:
    """Print a row for each size of payload."""
    print("| payload | µs an event | sqlite3 + msgspec | of sqlite3's rate |\n| --- | --- | --- | --- |")
    for size in _SIZES_BYTES:
        count = _STREAM_BYTES // size if size > 5_000 else 2_000
        events = [noted(number, size) for number in range(count)]
        with tempfile.TemporaryDirectory(prefix="hangarlog-bench-") as folder:
            ours, theirs = _hangarlog(Path(folder, "store"), events, 1), _sqlite3(Path(folder, "events.db"), events)
            assert ours() == theirs() == events
            best = best_seconds({"ours": ours, "theirs": theirs}, _ROUNDS)
        each = [best[side] / count * 1e6 for side in ("ours", "theirs")]
        print(f"| {size:,} B | {each[0]:.1f} | {each[1]:.1f} | {each[1] / each[0]:.2f} |")


if __name__ == "__main__":
    main()
