"""Reading typed events, each round in a fresh process: W4, W5, W7 read, W10, upcasting."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from bench.harness.workload import Figures, Run, latencies
from bench.measures.appending import settle


def _all_read(found: int, expected: int) -> None:
    if found != expected:
        raise AssertionError(f"read {found:,} events, not {expected:,}")


def one_stream(run: Run) -> Figures:
    """Open the store and read its one stream into typed objects."""
    with run.served() as target:
        settle()
        begin = time.perf_counter()
        with run.session(target) as session:
            count = len(session.read_stream("provider:math"))
            seconds = time.perf_counter() - begin
    _all_read(count, run.size("events"))
    return {"rate": count / seconds}


def everything(run: Run) -> Figures:
    """Open the store and go over all events of all streams."""
    with run.served() as target:
        settle()
        begin = time.perf_counter()
        with run.session(target) as session:
            count = session.read_all()
            seconds = time.perf_counter() - begin
    _all_read(count, run.size("streams") * run.size("each"))
    return {"rate": count / seconds}


def some_streams(run: Run) -> Figures:
    """Open the store and read some of its many short streams, each whole, at random."""
    chosen = random.Random(run.task.round).sample(range(run.size("streams")), run.size("read"))
    with run.served() as target:
        with run.session(target) as session:
            _read_each(run, session, chosen)  # So that all is in memory: the system may have put it out.
        settle()
        begin = time.perf_counter()
        with run.session(target) as session:
            found = _read_each(run, session, chosen)
            seconds = time.perf_counter() - begin
    _all_read(sum(found), sum(1 + n % 5 for n in chosen[: len(found)]))
    return {"rate": len(found) / seconds}


def _read_each(run: Run, session: Any, chosen: list[int]) -> list[int]:
    """How many events each of the streams has; of the first ones, where there is no time for all."""
    begin, found = time.perf_counter(), []
    for n in chosen:
        found.append(len(session.read_stream(f"provider:{n}")))
        if time.perf_counter() - begin > run.seconds:
            break
    return found


def one_by_version(run: Run) -> Figures:
    """One event by stream and version, at random places."""
    streams, each, dice = run.size("streams"), run.size("each"), random.Random(run.task.round)
    places = [(f"provider:{dice.randrange(streams)}", dice.randrange(each)) for _ in range(run.size("reads"))]
    with run.opened() as session:
        return _each_timed(session.by_version, places)


def one_by_position(run: Run) -> Figures:
    """One event by its place in the store, at random places."""
    total, dice = run.size("streams") * run.size("each"), random.Random(run.task.round)
    places = [(dice.randrange(total) + 1,) for _ in range(run.size("reads"))]
    with run.opened() as session:
        return _each_timed(session.by_position, places)


def _each_timed(read: Callable[..., Any], places: list[Any]) -> Figures:
    """Once to have all of it in memory, once for the figures."""
    settle()
    for place in places:
        read(*place)
    taken: list[int] = []
    for place in places:
        begin = time.perf_counter_ns()
        read(*place)
        taken.append(time.perf_counter_ns() - begin)
    return latencies(taken)
