"""Concurrent writers, one process each: W6."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import msgspec

from bench.harness.engine import Conflict, Figures, Run, Session
from bench.harness.instruments import percentile
from bench.harness.payload import first_number
from bench.harness.process import CHILD_TIMEOUT_SECONDS, child_command


class Written(msgspec.Struct):
    """The work of one writer: nanoseconds of each append, conflicts, seconds in all."""

    taken_ns: list[int]
    conflicts: int
    seconds: float


def together(run: Run) -> Figures:
    """Start the writers, let them begin at the same moment, and sum up their work."""
    with run.served() as target:
        with run.session(target):
            pass  # Creates the store before the writers open it.
        done = [_result(child) for child in _start_writers(run, target)]
    rates = [len(each.taken_ns) / each.seconds for each in done]
    taken_ns = sorted(each_ns for each in done for each_ns in each.taken_ns)
    return {
        "rate": sum(rates),
        "p50": percentile(taken_ns, 0.5) / 1e3,
        "p99": percentile(taken_ns, 0.99) / 1e3,
        "longest": taken_ns[-1] / 1e3,
        "fairness": min(rates) / max(rates),
        "conflicts": sum(each.conflicts for each in done) / len(taken_ns),
    }


def _start_writers(run: Run, target: str) -> list[subprocess.Popen[bytes]]:
    """Start the writers, and tell them to begin once all are ready."""
    children = []
    for number in range(run.size("processes")):
        task = msgspec.structs.replace(run.task, role="write", target=target, number=number)
        children.append(subprocess.Popen(child_command(task), stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    for child in children:
        assert child.stdout
        if child.stdout.readline() != b"ready\n":
            raise RuntimeError("a writer did not start")
    for child in children:
        assert child.stdin
        child.stdin.write(b"go\n")
        child.stdin.flush()
    return children


def _result(child: subprocess.Popen[bytes]) -> Written:
    last = child.communicate(timeout=CHILD_TIMEOUT_SECONDS)[0].splitlines()[-1:]
    if not last or child.returncode:
        raise RuntimeError("a writer failed; its output is above")
    return msgspec.json.decode(last[0], type=Written)


def write(run: Run) -> None:
    """Run one writer: print `ready`, wait for a line on stdin, append until the time is up, and print the result."""
    task = run.task
    stream = f"provider:{task.number if run.size('shared') == 0 else 0}"
    with run.session(task.target) as session:
        warm_up = run.events(1, first_number() - 1)
        version, _ = _append(session, stream, warm_up, -1)
        print("ready", flush=True)
        input()
        done = _write_for_seconds(run, session, stream, version)
    print(msgspec.json.encode(done).decode(), flush=True)


def _write_for_seconds(run: Run, session: Session, stream: str, version: int) -> Written:
    taken_ns: list[int] = []
    conflicts, number = 0, first_number()
    begin = before = time.perf_counter_ns()
    last = begin + run.seconds * 1e9
    while before < last:
        version, tries = _append(session, stream, run.events(1, number), version)
        conflicts += tries
        number += 1
        now = time.perf_counter_ns()
        taken_ns.append(now - before)
        before = now
    return Written(taken_ns, conflicts, (before - begin) / 1e9)


def _append(session: Session, stream: str, events: list[Any], version: int) -> tuple[int, int]:
    """Append at the last seen version, and again at the actual one after a conflict. Return (version, conflicts)."""
    conflicts = 0
    while True:
        try:
            return session.append(stream, events, version), conflicts
        except Conflict as conflict:
            version = conflict.actual
            conflicts += 1
