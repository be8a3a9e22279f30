"""Reads of typed events, each round in a fresh process: W4, W5, W7 read, W10, upcasting."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from bench.harness.engine import Figures, Run, Session
from bench.harness.instruments import freeze_heap, latencies


def _check_count(found: int, expected: int) -> None:
    if found != expected:
        raise AssertionError(f"read {found:,} events, not {expected:,}")


def one_stream(run: Run) -> Figures:
    """Open the store and read its one stream into typed objects."""
    with run.served() as target:
        freeze_heap()
        begin = time.perf_counter()
        with run.session(target) as session:
            count = len(session.read_stream("provider:math"))
            seconds = time.perf_counter() - begin
    _check_count(count, run.size("events"))
    return {"rate": count / seconds}


def all_streams(run: Run) -> Figures:
    """Open the store and read all events of all streams in order."""
    with run.served() as target:
        freeze_heap()
        begin = time.perf_counter()
        with run.session(target) as session:
            count = session.read_all()
            seconds = time.perf_counter() - begin
    _check_count(count, run.size("streams") * run.size("each"))
    return {"rate": count / seconds}


def some_streams(run: Run) -> Figures:
    """Open the store and read some of its many short streams, chosen at random."""
    chosen = random.Random(run.task.round).sample(range(run.size("streams")), run.size("read"))
    with run.served() as target:
        with run.session(target) as session:
            _read_each(run, session, chosen)  # Loads the page cache, which may have lost the files.
        freeze_heap()
        begin = time.perf_counter()
        with run.session(target) as session:
            found = _read_each(run, session, chosen)
            seconds = time.perf_counter() - begin
    _check_count(sum(found), sum(1 + n % 5 for n in chosen[: len(found)]))
    return {"rate": len(found) / seconds}


def _read_each(run: Run, session: Session, chosen: list[int]) -> list[int]:
    """Read streams until the time is up, and return the number of events in each."""
    begin, found = time.perf_counter(), []
    for n in chosen:
        found.append(len(session.read_stream(f"provider:{n}")))
        if time.perf_counter() - begin > run.seconds:
            break
    return found


def one_by_version(run: Run) -> Figures:
    """Read single events by stream and version, at random places."""
    streams, each, dice = run.size("streams"), run.size("each"), random.Random(run.task.round)
    places = [(f"provider:{dice.randrange(streams)}", dice.randrange(each)) for _ in range(run.size("reads"))]
    with run.opened() as session:
        return _timed(session.read_by_version, places)


def one_by_position(run: Run) -> Figures:
    """Read single events by position in the store, at random places."""
    total, dice = run.size("streams") * run.size("each"), random.Random(run.task.round)
    places = [(dice.randrange(total) + 1,) for _ in range(run.size("reads"))]
    with run.opened() as session:
        return _timed(session.read_by_position, places)


def _timed(read: Callable[..., Any], places: list[Any]) -> Figures:
    """Read every place twice: once to load the page cache, once for the figures."""
    freeze_heap()
    for place in places:
        read(*place)
    taken_ns: list[int] = []
    for place in places:
        begin = time.perf_counter_ns()
        read(*place)
        taken_ns.append(time.perf_counter_ns() - begin)
    return latencies(taken_ns)
