"""Processes that follow a store by polling, while one appends."""

from __future__ import annotations

import select
import subprocess
import sys
import time

import msgspec

from bench.child import command
from bench.harness.payload import first_number
from bench.harness.workload import Figures, Run, Task

_PAUSE = 0.001  # Seconds between two looks of a follower.
_STREAM = "provider:math"


def followed(run: Run) -> Figures:
    """One process appends relaxed, for some seconds; each follower reads everything until it has it all."""
    with run.served() as target, run.session(target) as session:
        version = session.append(_STREAM, run.events(1), -1)
        children = [_started(run, target) for _ in range(run.size("processes"))]
        done, number, begin = 0, first_number() + 1, time.perf_counter()
        while time.perf_counter() < begin + run.seconds:
            version = session.append(_STREAM, run.events(1, number), version)
            number, done = number + 1, done + 1
        seconds = time.perf_counter() - begin
        for child in children:
            assert child.stdin
            child.stdin.write(b"%d\n" % (done + 1))
            child.stdin.flush()
        late = [float(child.communicate(timeout=180)[0]) for child in children]
    return {"rate": done / seconds, "late": max(late) * 1e3}


def _started(run: Run, target: str) -> subprocess.Popen[bytes]:
    task: Task = msgspec.structs.replace(run.task, do="follow", target=target)
    child = subprocess.Popen(command(task), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout
    if child.stdout.readline() != b"ready\n":
        raise RuntimeError("a follower did not begin")
    return child


def follow(run: Run) -> None:
    """Be a follower: read what is new until told where the end is; then say how many seconds it was behind."""
    with run.session(run.task.target) as session:
        position, last, told = session.read_new(0), 0, 0.0
        print("ready", flush=True)
        while not last or position < last:
            position = session.read_new(position)
            if not last and select.select([sys.stdin], [], [], _PAUSE)[0]:
                last, told = int(input()), time.perf_counter()
        print(time.perf_counter() - told, flush=True)
