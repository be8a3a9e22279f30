"""A process that measures for another one: it reads tasks from standard input, and answers on standard output.

Tasks and answers are lines of JSON. A worker says `ready` once it has opened what it needs, and begins at the next
line, so that all workers begin together.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from time import perf_counter_ns
from typing import Any, Literal

import msgspec

from hangarlog.benchmark.payloads import load
from hangarlog.benchmark.turn import Turn, repeat
from hangarlog.errors import ANY, HangarlogError
from hangarlog.filestore.store import FileEventStore
from hangarlog.system.filesystem import FileSystem

READY = b"ready\n"
END_STREAM = "bench:end"
"""The stream whose first event tells a follower that no more come."""


class Task(msgspec.Struct):
    """What a worker does: durable appends to a stream, bare ones to a file, or following a store from a position.

    Attributes:
        kind: Which of them.
        path: The store or the file.
        payloads: The file that has the events, or the lines.
        stream_id: Where to append.
        seconds, most_bytes: When to end.
        event_bytes: By how much an event makes files grow.
        position: Where to follow from.
    """

    kind: Literal["append", "bare", "follow"]
    path: bytes  # As bytes: not every name of a file is UTF-8.
    payloads: bytes = b""
    stream_id: str = ""
    seconds: float = 0
    most_bytes: int = 0
    event_bytes: int = 0
    position: int = 0


def serve() -> None:
    """Answer tasks until standard input ends. Interrupts are for the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks, answers = sys.stdin.buffer, sys.stdout.buffer
    try:
        while line := tasks.readline():
            try:
                with _prepared(msgspec.json.decode(line, type=Task)) as work:
                    answers.write(READY)
                    answers.flush()
                    if not tasks.readline():
                        return
                    turn = work()
            except BrokenPipeError:
                raise
            except (HangarlogError, OSError) as error:
                turn = Turn(error=re.sub(r"^\[Errno \d+\] ", "", str(error)), errno=errno_of(error))
            answers.write(msgspec.json.encode(turn) + b"\n")
            answers.flush()
    except BrokenPipeError:  # The process that reads the answers has ended.
        os._exit(0)


def errno_of(error: BaseException | None) -> int:
    """Return the number of the system's error that led to an error, 0 if there was none."""
    while error is not None:
        number = getattr(error, "errno", None)
        if isinstance(number, int):
            return number
        error = error.__cause__
    return 0


@contextlib.contextmanager
def _prepared(task: Task) -> Iterator[Callable[[], Turn]]:
    """Open what a task needs, and yield the function that does it."""
    filesystem = FileSystem()
    if task.kind == "bare":
        fd = filesystem.open_append(os.fsdecode(task.path), create=True)
        try:
            lines = filesystem.read_file(os.fsdecode(task.payloads), limit=1 << 40).splitlines(keepends=True)
            yield lambda: _bare(task, filesystem, fd, lines)
        finally:
            filesystem.close(fd)
        return
    events, serializer = load(filesystem, os.fsdecode(task.payloads))
    with FileEventStore(os.fsdecode(task.path), serializer=serializer, create=False) as store:
        yield lambda: _follow(task, store) if task.kind == "follow" else _append(task, store, events)


def _append(task: Task, store: FileEventStore[Any], events: list[Any]) -> Turn:
    append, stream_id, batches = store.append, task.stream_id, cycle([[event] for event in events])

    def call() -> int:
        append(stream_id, next(batches), ANY, retry=False)
        return task.event_bytes

    return repeat(call, task.seconds, task.most_bytes)


def _bare(task: Task, filesystem: FileSystem, fd: int, lines: list[bytes]) -> Turn:
    write, sync, texts = filesystem.write, filesystem.sync_data, cycle(lines)

    def call() -> int:
        write(fd, next(texts))
        sync(fd)
        return task.event_bytes

    return repeat(call, task.seconds, task.most_bytes)


def _follow(task: Task, store: FileEventStore[Any]) -> Turn:
    """Note when each event came, until the one that ends it."""
    came: list[int] = []
    with store.subscribe(task.position) as subscription:
        for record in subscription:
            now = perf_counter_ns()
            if record.stream_id == END_STREAM:
                break
            came.append(now)
    return Turn(came)
