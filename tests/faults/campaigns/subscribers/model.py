"""What a subscriber must be given, from the journal's lines; and what it was given, from its log.

A log is a file of pairs of numbers. The first pair is (the position it began after, the number of its filter). Then
comes (a position, the checksum of the event's id) for each event, (the position, `STOPPED`) where a `stop` has ended a
subscription, from which the next one goes on, and (the position, `STARTED`) where a process begins, perhaps after a
kill within a batch.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any

from hangarlog.log.zstd import zstd

PAIR = Struct("=QQ")
STOPPED, STARTED = 1 << 63, 1 << 62

FILTERS: list[dict[str, Any]] = [
    {},
    {},
    {"category": "a"},
    {"not_category": "b"},
    {"event_types": "Odd"},
    {"stream_id": "kept:1"},
]
_WANTED: list[Callable[[Any], bool]] = [
    lambda line: True,
    lambda line: True,
    lambda line: bool(line["stream_id"].startswith("a:")),
    lambda line: not line["stream_id"].startswith("b:"),
    lambda line: bool(line["event_type"] == "Odd"),
    lambda line: bool(line["stream_id"] == "kept:1"),
]


def number_of(event_id: str) -> int:
    return zlib.crc32(event_id.encode())


class Model:
    """The committed sequence, read from the files of the journal."""

    def __init__(self, store: Path) -> None:
        files = {
            file.name.split(".")[1]: file for file in (*store.glob("journal.0*.zst"), *store.glob("journal.0*.jsonl"))
        }
        sealed = [files[first] for first in sorted(files)]
        self.lines = [json.loads(line) for file in [*sealed, store / "journal.jsonl"] for line in _lines(file)]
        assert [line["position"] for line in self.lines] == list(range(1, len(self.lines) + 1)), "the journal has gaps"
        self._given = [[(one["position"], number_of(one["event_id"])) for one in self.lines if w(one)] for w in _WANTED]

    def ends_batch(self, position: int) -> bool:
        """True if a batch ends at a position, or nothing has come yet."""
        return position == 0 or self.lines[position - 1].get("batch_end", position) == position

    def check(self, log: Path, *, to_the_end: bool) -> int:
        """Return the number of events that a log has. Fails if they are not those that its subscriber had to get."""
        pairs = list(logged(log))
        begin, which = pairs[0]
        events = [pair for pair in pairs[1:] if pair[1] < STARTED]
        wanted = [pair for pair in self._given[which] if pair[0] > begin]
        if events != wanted[: len(events)]:
            at = next(i for i, pair in enumerate(events) if i >= len(wanted) or pair != wanted[i])
            raise AssertionError(f"{log.name}, after {begin}, {FILTERS[which]}: {_difference(events, wanted, at)}")
        missing = len(wanted) - len(events)
        assert not (to_the_end and missing), f"{log.name}: the last {missing} events never came"
        for at, (position, mark) in enumerate(pairs[1:], 1):
            if mark == STOPPED:
                begun = pairs[at - 1] == (position, STARTED)
                assert begun or self.ends_batch(position), f"{log.name}: a stop at {position}, within a batch"
                count = sum(pair[1] < STARTED for pair in pairs[1:at])
                left = next((pair[0] for pair in wanted[count : count + 1]), position + 1)
                assert left > position, f"{log.name}: stopped at {position}, but {left} had not come"
        return len(events)


def _difference(events: list[tuple[int, int]], wanted: list[tuple[int, int]], at: int) -> str:
    came, due = events[at], wanted[at] if at < len(wanted) else (0, 0)
    kind = "another event at" if came[0] == due[0] else "a gap before" if came[0] > due[0] else "a double at"
    return f"{kind} {came[0]}: {due[0]} was due, after {events[max(0, at - 3) : at]}"


def _lines(file: Path) -> list[bytes]:
    content = file.read_bytes()
    return (zstd("").decompress(content) if file.suffix == ".zst" else content).splitlines(keepends=True)


def logged(log: Path) -> Iterator[tuple[int, int]]:
    data = log.read_bytes()
    return PAIR.iter_unpack(data[: len(data) // PAIR.size * PAIR.size])
