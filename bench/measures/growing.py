"""The points of the curves over growing stores: the cost to append, read and open at a size."""

from __future__ import annotations

import random
import time

from bench.harness.engine import Figures, Run, Session
from bench.harness.instruments import freeze_heap, peak_memory_mb
from bench.measures.opening import open_and_append_ms

_STREAM = "provider:math"
_SAMPLES = 500


def _median_us(taken_ns: list[int]) -> float:
    return sorted(taken_ns)[len(taken_ns) // 2] / 1e3


def longer_stream(run: Run) -> Figures:
    """Extend one stream from one length to another, then append to it and read single events."""
    begin, end = run.size("from"), run.size("to")
    before_mb = peak_memory_mb()
    with run.opened() as session:
        version = session.version(_STREAM)
        for at in range(begin, end, 1000):
            version = session.append(_STREAM, run.events(min(1000, end - at), at), version)
        grown_mb = peak_memory_mb() - before_mb
        freeze_heap()
        read_us = _read_us(session, version)
        return {"append": _append_us(run, session, version), "version": read_us, "write_mb": grown_mb}


def _append_us(run: Run, session: Session, version: int) -> float:
    taken_ns = []
    for event in run.events(_SAMPLES):
        begin = time.perf_counter_ns()
        version = session.append(_STREAM, [event], version)
        taken_ns.append(time.perf_counter_ns() - begin)
    return _median_us(taken_ns)


def _read_us(session: Session, last_version: int) -> float:
    taken_ns = []
    for version in random.Random(last_version).choices(range(last_version + 1), k=_SAMPLES):
        begin = time.perf_counter_ns()
        session.read_by_version(_STREAM, version)
        taken_ns.append(time.perf_counter_ns() - begin)
    return _median_us(taken_ns)


def whole_store(run: Run) -> Figures:
    """Open the store and read everything in it."""
    before_mb = peak_memory_mb()
    freeze_heap()
    begin = time.perf_counter()
    with run.opened() as session:
        count = session.read_all()
        return {"rate": count / (time.perf_counter() - begin), "read_mb": peak_memory_mb() - before_mb}


def open_long_stream(run: Run) -> Figures:
    """Open the store and append to the end of its one stream."""
    return {"open": open_and_append_ms(run, _STREAM)}


def open_many_streams(run: Run) -> Figures:
    """Open the store and append to a stream that still has only its first event."""
    return {"open": open_and_append_ms(run, f"provider:{run.size('to') - 1}")}


def more_streams(run: Run) -> Figures:
    """Create streams of one event up to a number, then append to some of them."""
    begin, end = run.size("from"), run.size("to")
    with run.opened() as session:
        started = time.perf_counter()
        versions = {n: session.append(f"provider:{n}", run.events(1), -1) for n in range(begin, end)}
        seconds = time.perf_counter() - started
        freeze_heap()
        chosen = random.Random(end).sample(range(begin, end), min(_SAMPLES, end - begin))
        taken_ns = []
        for n, event in zip(chosen, run.events(len(chosen)), strict=True):
            started_ns = time.perf_counter_ns()
            session.append(f"provider:{n}", [event], versions[n])
            taken_ns.append(time.perf_counter_ns() - started_ns)
    return {"create": seconds / (end - begin) * 1e6, "append": _median_us(taken_ns)}
