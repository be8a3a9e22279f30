"""Processes that follow a store by polling while one process appends."""

from __future__ import annotations

import select
import subprocess
import sys
import time

import msgspec

from bench.harness.engine import Figures, Run
from bench.harness.payload import first_number
from bench.harness.process import CHILD_TIMEOUT_SECONDS, child_command

_POLL_SECONDS = 0.001
_STREAM = "provider:math"


def followed(run: Run) -> Figures:
    """Append relaxed for some seconds while followers read, then let them read to the end."""
    with run.served() as target, run.session(target) as session:
        version = session.append(_STREAM, run.events(1), -1)
        children = [_start_follower(run, target) for _ in range(run.size("processes"))]
        done, number, begin = 0, first_number() + 1, time.perf_counter()
        while time.perf_counter() < begin + run.seconds:
            version = session.append(_STREAM, run.events(1, number), version)
            number, done = number + 1, done + 1
        seconds = time.perf_counter() - begin
        for child in children:
            assert child.stdin
            child.stdin.write(b"%d\n" % (done + 1))
            child.stdin.flush()
        lag_seconds = [float(child.communicate(timeout=CHILD_TIMEOUT_SECONDS)[0]) for child in children]
    return {"rate": done / seconds, "late": max(lag_seconds) * 1e3}


def _start_follower(run: Run, target: str) -> subprocess.Popen[bytes]:
    task = msgspec.structs.replace(run.task, role="follow", target=target)
    child = subprocess.Popen(child_command(task), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout
    if child.stdout.readline() != b"ready\n":
        raise RuntimeError("a follower did not start")
    return child


def follow(run: Run) -> None:
    """Run a follower: read new events until the last position arrives on stdin, then print the lag in seconds."""
    with run.session(run.task.target) as session:
        position, last_position, informed_at = session.read_new(0), 0, 0.0
        print("ready", flush=True)
        while not last_position or position < last_position:
            position = session.read_new(position)
            if not last_position and select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
                last_position, informed_at = int(input()), time.perf_counter()
        print(time.perf_counter() - informed_at, flush=True)
