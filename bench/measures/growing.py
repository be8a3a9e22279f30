"""Points of the curves: a store that has grown to a size, and what it then takes to append, to read and to open."""

from __future__ import annotations

import random
import time

from bench.harness.engine import Session
from bench.harness.workload import Figures, Run
from bench.measures.appending import settle
from bench.measures.opening import until_append
from bench.measures.processes import peak

_STREAM = "provider:math"
_TIMES = 500


def _median(taken: list[int]) -> float:
    """In microseconds."""
    return sorted(taken)[len(taken) // 2] / 1e3


def longer_stream(run: Run) -> Figures:
    """Bring one stream from a length to another; then append to it and read single events of it."""
    begin, end = run.size("from"), run.size("to")
    before = peak()
    with run.opened() as session:
        version = session.version(_STREAM)
        for at in range(begin, end, 1000):
            version = session.append(_STREAM, run.events(min(1000, end - at), at), version)
        grown = peak() - before
        settle()
        reads = _timed_reads(session, version)
        return {"append": _appends(run, session, version), "version": reads, "write_mb": grown}


def _appends(run: Run, session: Session, version: int) -> float:
    taken = []
    for each in run.events(_TIMES):
        begin = time.perf_counter_ns()
        version = session.append(_STREAM, [each], version)
        taken.append(time.perf_counter_ns() - begin)
    return _median(taken)


def _timed_reads(session: Session, last: int) -> float:
    taken = []
    for version in random.Random(last).choices(range(last + 1), k=_TIMES):
        begin = time.perf_counter_ns()
        session.by_version(_STREAM, version)
        taken.append(time.perf_counter_ns() - begin)
    return _median(taken)


def read_whole(run: Run) -> Figures:
    """Open the store and go over everything in it."""
    before = peak()
    settle()
    begin = time.perf_counter()
    with run.opened() as session:
        count = session.read_all()
        return {"rate": count / (time.perf_counter() - begin), "read_mb": peak() - before}


def open_long_stream(run: Run) -> Figures:
    """Open until the first append, at the end of the stream."""
    return {"open": until_append(run, _STREAM)}


def open_some_stream(run: Run) -> Figures:
    """Open until the first append, to a stream that nothing was appended to since it was made."""
    return {"open": until_append(run, f"provider:{run.size('to') - 1}")}


def more_streams(run: Run) -> Figures:
    """Make streams of one event until there are so many; then append to some of them."""
    begin, end = run.size("from"), run.size("to")
    with run.opened() as session:
        started = time.perf_counter()
        versions = {n: session.append(f"provider:{n}", run.events(1), -1) for n in range(begin, end)}
        seconds = time.perf_counter() - started
        settle()
        chosen = random.Random(end).sample(range(begin, end), min(_TIMES, end - begin))
        taken = []
        for n, each in zip(chosen, run.events(len(chosen)), strict=True):
            started_ns = time.perf_counter_ns()
            session.append(f"provider:{n}", [each], versions[n])
            taken.append(time.perf_counter_ns() - started_ns)
    return {"create": seconds / (end - begin) * 1e6, "append": _median(taken)}
