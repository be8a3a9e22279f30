"""Appends by one process: W1, W2, W3, W7."""

from __future__ import annotations

import time
from typing import Any

from bench.harness.engine import Figures, Run, Session
from bench.harness.instruments import disk_bytes, freeze_heap, latencies
from bench.harness.payload import first_number

_STREAM = "provider:math"
_WARM_UP_APPENDS = 20


def one_per_call(run: Run) -> Figures:
    """Append one event per call at its expected version, until the events or the seconds run out."""
    events = run.events(run.size("events") + _WARM_UP_APPENDS)
    with run.opened() as session:
        version = -1
        for event in events[:_WARM_UP_APPENDS]:
            version = session.append(_STREAM, [event], version)
        freeze_heap()
        taken_ns, seconds = _timed(session, events[_WARM_UP_APPENDS:], version, run.seconds)
    return {"rate": len(taken_ns) / seconds, **latencies(taken_ns)}


def _timed(session: Session, events: list[Any], version: int, seconds: float) -> tuple[list[int], float]:
    """Return (nanoseconds of each append, seconds of all)."""
    taken_ns: list[int] = []
    clock, append, note = time.perf_counter_ns, session.append, taken_ns.append
    begin = before = clock()
    last = begin + seconds * 1e9
    for event in events:
        version = append(_STREAM, [event], version)
        now = clock()
        note(now - before)
        before = now
        if now > last:
            break
    return taken_ns, (before - begin) / 1e9


def batches(run: Run) -> Figures:
    """Append batches to one stream, at least two."""
    size, count = run.size("batch"), run.size("batches")
    prepared = [run.events(size, first_number() + n * size) for n in range(count)]
    taken_ns: list[int] = []
    with run.opened() as session:
        version = session.append(_STREAM, run.events(size, first_number() + count * size), -1)
        freeze_heap()
        begin = before = time.perf_counter_ns()
        for batch in prepared:
            version = session.append(_STREAM, batch, version)
            now = time.perf_counter_ns()
            taken_ns.append(now - before)
            before = now
            if now - begin > run.seconds * 1e9 and len(taken_ns) > 1:
                break
    rate = len(taken_ns) * size / (before - begin) * 1e9
    return {"rate": rate, "batch_ms": latencies(taken_ns)["p50"] / 1e3}


def new_streams(run: Run) -> Figures:
    """Create many streams with a first append of one to five events each, and measure the disk space they take."""
    first, count = first_number(), run.size("streams")
    prepared = [(f"provider:{n}", run.events(1 + n % 5, first + 5 * n)) for n in range(count)]
    with run.opened() as session:
        freeze_heap()
        append, done = session.append, 0
        begin = time.perf_counter()
        last = begin + run.seconds
        for stream, events in prepared:
            append(stream, events, -1)
            done += 1
            if not done % 16 and time.perf_counter() > last:
                break
        seconds = time.perf_counter() - begin
    return {"rate": done / seconds, "streams": done, **_space_per_stream(run.folder, done)}


def _space_per_stream(folder: str, streams: int) -> Figures:
    files, _ = disk_bytes(folder)
    _, without_journal = disk_bytes(folder, skip_prefix="journal")
    return {"files": files / streams, "kilobytes": without_journal / streams / 1024}
