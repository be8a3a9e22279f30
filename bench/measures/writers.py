"""Many processes that append at once: W6."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import msgspec

from bench.child import command
from bench.harness.engine import Conflict, Session
from bench.harness.payload import first_number
from bench.harness.workload import Figures, Run, percentile


class Written(msgspec.Struct):
    """What one process did: nanoseconds of each append, conflicts, seconds."""

    taken: list[int]
    conflicts: int
    seconds: float


def together(run: Run) -> Figures:
    """Start the processes, let them go at once, and add up what they did."""
    with run.served() as target:
        with run.session(target):
            pass  # It is made by one.
        done = [_read(child) for child in _gone(run, target)]
    rates = [len(each.taken) / each.seconds for each in done]
    taken = sorted(time for each in done for time in each.taken)
    return {
        "rate": sum(rates),
        "p50": percentile(taken, 0.5) / 1e3,
        "p99": percentile(taken, 0.99) / 1e3,
        "longest": taken[-1] / 1e3,
        "fairness": min(rates) / max(rates),
        "conflicts": sum(each.conflicts for each in done) / len(taken),
    }


def _gone(run: Run, target: str) -> list[subprocess.Popen[bytes]]:
    """The processes, all of which have been told to begin."""
    children = []
    for number in range(run.size("processes")):
        task = msgspec.structs.replace(run.task, do="write", target=target, number=number)
        children.append(subprocess.Popen(command(task), stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    for child in children:
        assert child.stdout
        if child.stdout.readline() != b"ready\n":
            raise RuntimeError("a writer did not begin")
    for child in children:
        assert child.stdin
        child.stdin.write(b"go\n")
        child.stdin.flush()
    return children


def _read(child: subprocess.Popen[bytes]) -> Written:
    last = child.communicate(timeout=180)[0].splitlines()[-1:]
    if not last or child.returncode:
        raise RuntimeError("a writer failed; what it said is above")
    return msgspec.json.decode(last[0], type=Written)


def write(run: Run) -> None:
    """Be one of the processes: say ready, wait for the word, append, and say what was done."""
    task = run.task
    stream = f"provider:{task.number if run.size('shared') == 0 else 0}"
    with run.session(task.target) as session:
        version = _begin(run, session, stream)
        print("ready", flush=True)
        input()
        done = _until(run, session, stream, version)
    print(msgspec.json.encode(done).decode(), flush=True)


def _begin(run: Run, session: Session, stream: str) -> int:
    """Append once, so that what is done once is done."""
    return _appended(session, stream, run.events(1, first_number() - 1), -1)[0]


def _until(run: Run, session: Session, stream: str, version: int) -> Written:
    taken: list[int] = []
    conflicts, number = 0, first_number()
    begin = before = time.perf_counter_ns()
    last = begin + run.seconds * 1e9
    while before < last:
        version, tries = _appended(session, stream, run.events(1, number), version)
        conflicts += tries
        number += 1
        now = time.perf_counter_ns()
        taken.append(now - before)
        before = now
    return Written(taken, conflicts, (before - begin) / 1e9)


def _appended(session: Session, stream: str, each: list[Any], version: int) -> tuple[int, int]:
    """(new version, conflicts): append at the version last seen, and at a conflict again at the one it told."""
    conflicts = 0
    while True:
        try:
            return session.append(stream, each, version), conflicts
        except Conflict as conflict:
            version = conflict.actual
            conflicts += 1
