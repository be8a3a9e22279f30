"""The measures of several processes: durable appends at once, and following."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import cycle
from time import perf_counter_ns
from typing import Any

from hangarlog.benchmark.alone import create_ring, settle
from hangarlog.benchmark.crew import Crew
from hangarlog.benchmark.payloads import Payloads
from hangarlog.benchmark.turn import Turn
from hangarlog.benchmark.worker import END_STREAM, Task
from hangarlog.errors import ANY
from hangarlog.events.registry import UntypedEvent
from hangarlog.filestore.store import FileEventStore
from hangarlog.system.filesystem import FileSystem

PACE_NS = 1_000_000
"""Nanoseconds from the beginning of one append to the next, while another process follows."""


class Together:
    """The store and the files of one round, which `processes` processes write. `most_bytes` is for all of them."""

    def __init__(
        self, folder: str, payloads: Payloads, crew: Crew, processes: int, most_bytes: int, ring_seconds: float
    ) -> None:
        self._folder, self._crew, self._processes = folder, crew, processes
        self._batches = [[event] for event in payloads.events]
        self._line_bytes, self._most_bytes = int(payloads.line_bytes), most_bytes
        filesystem = FileSystem()
        self._events, self._lines = os.path.join(folder, "events.jsonl"), os.path.join(folder, "lines.jsonl")
        payloads.save(filesystem, self._events)
        filesystem.replace_file(self._lines, b"".join(payloads.lines), sync=False)
        self._shared = os.path.join(folder, "shared")
        with FileEventStore.untyped(self._shared) as store:
            create_ring(store, ring_seconds)
        self._followed: FileEventStore[Any] = FileEventStore(
            os.path.join(folder, "followed"), serializer=payloads.serializer
        )
        create_ring(self._followed, ring_seconds)

    def close(self) -> None:
        """Close the store."""
        self._followed.close()

    def own_streams(self, seconds: float) -> Turn:
        """Append durably in each process, to a stream of its own."""
        return self._append(seconds, lambda number: f"bench:{number}")

    def one_stream(self, seconds: float) -> Turn:
        """Append durably in each process, all to one stream, with any expected version."""
        return self._append(seconds, lambda number: "bench:shared")

    def _append(self, seconds: float, stream_id: Callable[[int], str]) -> Turn:
        turn = self._all(
            [
                Task(
                    "append",
                    os.fsencode(self._shared),
                    os.fsencode(self._events),
                    stream_id(number),
                    seconds,
                    self._most_bytes // self._processes,
                    2 * self._line_bytes,
                )
                for number in range(self._processes)
            ]
        )
        settle(self._shared)
        return turn

    def bare(self, seconds: float) -> Turn:
        """Append with `write` and `fdatasync` in each process, to a file of its own."""
        most_bytes = self._most_bytes // self._processes
        return self._all(
            [
                Task(
                    "bare",
                    os.fsencode(os.path.join(self._folder, f"bare-{number}.jsonl")),
                    os.fsencode(self._lines),
                    seconds=seconds,
                    most_bytes=most_bytes,
                    event_bytes=self._line_bytes,
                )
                for number in range(self._processes)
            ]
        )

    def _all(self, tasks: list[Task]) -> Turn:
        """Return the turns of all processes as one."""
        turns = self._crew.together(tasks)
        return Turn(
            [sample for turn in turns for sample in turn.samples],
            [],
            sum(turn.events for turn in turns),
            min(turn.begin for turn in turns),
            max(turn.end for turn in turns),
            sum(turn.written for turn in turns),
        )

    def follow(self, seconds: float) -> Turn:
        """Append durably at a steady pace, and measure how long after each append another process has the event."""
        store, batches, clock = self._followed, cycle(self._batches), perf_counter_ns
        self._crew.begin(
            [Task("follow", os.fsencode(store.path), os.fsencode(self._events), position=store.last_position)]
        )
        returned: list[int] = []
        due = begin = clock()
        last = begin + int(seconds * 1e9)
        most = max(2, self._most_bytes // (2 * self._line_bytes))
        while len(returned) < 2 or (due < last and len(returned) < most):
            time.sleep(max(0, due - clock()) / 1e9)
            store.append("bench:followed", next(batches), ANY, retry=False)
            returned.append(clock())
            due = max(due + PACE_NS, returned[-1])
        store.append(END_STREAM, [UntypedEvent("BenchmarkEnded", {})], ANY)
        came = self._crew.answer(0).samples
        settle(store.path)
        # Without the first one: before it, the follower was not asleep yet.
        delays = [max(0, at - since) for at, since in zip(came, returned, strict=True)][1:]
        return Turn(delays, [], len(delays), begin, returned[-1], 2 * len(returned) * self._line_bytes)
