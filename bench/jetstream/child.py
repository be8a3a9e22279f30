"""One process of a comparison: `python -m bench.jetstream.child TASK`. It says when it is ready, and waits to begin."""

from __future__ import annotations

import os
import sys
from time import perf_counter_ns

import msgspec

from bench.jetstream.sides import SIDES, Place, Side


class Task(msgspec.Struct):
    """What a process does. `work` is "write" or "follow"; `number` is seconds, or how many events are awaited."""

    place: Place
    side: str
    work: str
    stream: str
    number: float
    position: int = 0
    """Where a follower begins; the event after it must be there."""


def _write(side: Side, task: Task) -> list[int]:
    """Append for some seconds; return when each append ended."""
    append = side.contend
    append(task.stream)
    _await_go()
    times = [perf_counter_ns()]
    until = times[0] + task.number * 1e9
    while times[-1] < until:
        append(task.stream)
        times.append(perf_counter_ns())
    return times


def _follow(side: Side, task: Task) -> list[int]:
    """Follow; return when each event came."""
    following, times = side.follow(task.position), list[int]()
    next(following)
    _await_go()
    while len(times) < task.number:
        next(following)
        times.append(perf_counter_ns())
    return times


def _await_go() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def main(argument: str) -> None:
    """Run a task."""
    task = msgspec.json.decode(argument, type=Task)
    side = SIDES[task.side](task.place)
    times = {"write": _write, "follow": _follow}[task.work](side, task)
    print(msgspec.json.encode(times).decode(), flush=True)
    os._exit(0)  # A consumer that is in the middle of its wait has no end of its own.


if __name__ == "__main__":
    main(sys.argv[1])
