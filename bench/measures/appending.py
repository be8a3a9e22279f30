"""Appending by one process: W1, W2, W3, W7."""

from __future__ import annotations

import gc
import time
from typing import Any

from bench.harness.engine import Session
from bench.harness.payload import first_number
from bench.harness.workload import Figures, Run, disk_bytes, latencies

_STREAM = "provider:math"
_WARM_UP = 20


def settle() -> None:
    """What was made before the clock starts is no work of the garbage collector's meanwhile."""
    gc.collect()
    gc.freeze()


def one_a_call(run: Run) -> Figures:
    """One event a call, at the version it is expected at, until the events or the seconds are used up."""
    made = run.events(run.size("events") + _WARM_UP)
    with run.opened() as session:
        version = -1
        for each in made[:_WARM_UP]:
            version = session.append(_STREAM, [each], version)
        settle()
        taken, seconds = _timed(session, made[_WARM_UP:], version, run.seconds)
    return {"rate": len(taken) / seconds, **latencies(taken)}


def _timed(session: Session, made: list[Any], version: int, seconds: float) -> tuple[list[int], float]:
    """(nanoseconds of each append, seconds of all)."""
    taken: list[int] = []
    clock, append, note = time.perf_counter_ns, session.append, taken.append
    begin = before = clock()
    last = begin + seconds * 1e9
    for each in made:
        version = append(_STREAM, [each], version)
        now = clock()
        note(now - before)
        before = now
        if now > last:
            break
    return taken, (before - begin) / 1e9


def batches(run: Run) -> Figures:
    """Batches of a thousand to one stream; at least two."""
    size, count = run.size("batch"), run.size("batches")
    made = [run.events(size, first_number() + n * size) for n in range(count)]
    taken: list[int] = []
    with run.opened() as session:
        version = session.append(_STREAM, run.events(size, first_number() + count * size), -1)
        settle()
        begin = before = time.perf_counter_ns()
        for batch in made:
            version = session.append(_STREAM, batch, version)
            now = time.perf_counter_ns()
            taken.append(now - before)
            before = now
            if now - begin > run.seconds * 1e9 and len(taken) > 1:
                break
    each = latencies(taken)
    return {"rate": len(taken) * size / (before - begin) * 1e9, "batch_ms": each["p50"] / 1e3}


def new_streams(run: Run) -> Figures:
    """A first append to each of many streams, with one to five events; then what that took on disk."""
    first, count = first_number(), run.size("streams")
    made = [(f"provider:{n}", run.events(1 + n % 5, first + 5 * n)) for n in range(count)]
    with run.opened() as session:
        settle()
        append, done = session.append, 0
        begin = time.perf_counter()
        last = begin + run.seconds
        for stream, its_events in made:
            append(stream, its_events, -1)
            done += 1
            if not done % 16 and time.perf_counter() > last:
                break
        seconds = time.perf_counter() - begin
    return {"rate": done / seconds, "streams": done, **_space(run.folder, done)}


def _space(folder: str, streams: int) -> Figures:
    files, _ = disk_bytes(folder)
    _, beside = disk_bytes(folder, leave_out="journal")
    return {"files": files / streams, "kilobytes": beside / streams / 1024}
