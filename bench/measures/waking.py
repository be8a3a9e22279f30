"""From an append that has returned to its typed event in other processes: W9."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.harness.engine import Figures, Run, Session
from bench.harness.instruments import percentile
from bench.harness.payload import first_number
from bench.harness.process import CHILD_TIMEOUT_SECONDS, child_command

_STREAM = "provider:math"
_SETTLE_SECONDS = 0.3
_TICKS = os.sysconf("SC_CLK_TCK")


class _Writer:
    """Appends single events to one stream, and notes when each append returned."""

    def __init__(self, run: Run, session: Session) -> None:
        self._run, self._append, self._number = run, session.append, first_number()
        self._version, self.position = -1, 0

    def write(self, count: int, pause_ns: int = 0) -> tuple[list[int], float]:
        """Append `count` events; return when each append returned, and the appends per second without pauses."""
        clock, events, append = time.perf_counter_ns, self._run.events(count, self._number), self._append
        returned, version, busy, due = [], self._version, 0, clock()
        begin = due
        for event in events:
            if pause_ns:
                due += pause_ns
                time.sleep(max(0, due - clock()) / 1e9)
                began = clock()
            version = append(_STREAM, [event], version)
            now = clock()
            returned.append(now)
            if pause_ns:
                busy += now - began
        self._version, self._number, self.position = version, self._number + count, self.position + count
        return returned, count * 1e9 / (busy or clock() - begin)


def woken(run: Run) -> Figures:
    """Append alone and with followers in turn; return the ratio of the rates, and the percentiles of the delays."""
    count, processes, pause_ns = run.size("events"), run.size("processes"), run.size("pause_us") * 1000
    delays: list[int] = []
    with run.served() as target, run.session(target) as session:
        writer = _Writer(run, session)
        alone = [writer.write(count // 2, pause_ns)[1]]
        first = writer.position
        with _followers(run, target, processes, first, first + count) as children:
            time.sleep(_SETTLE_SECONDS)
            returned, rate = writer.write(count, pause_ns)
            for child in children:
                child.communicate(timeout=CHILD_TIMEOUT_SECONDS)
        alone.append(writer.write(count // 2, pause_ns)[1])
    for number in range(processes):
        received = array("q")
        received.frombytes(_times(run, number).read_bytes())
        delays += [max(0, at - begin) for at, begin in zip(received, returned, strict=True)]
    delays.sort()
    figures = {"ratio": rate / (sum(alone) / 2), "rate": rate, "alone": sum(alone) / 2}
    return {**figures, "p50": percentile(delays, 0.5) / 1e3, "p99": percentile(delays, 0.99) / 1e3}


def idle(run: Run) -> Figures:
    """Return the processor time per second of followers for whom nothing comes."""
    with run.served() as target, run.session(target) as session:
        writer = _Writer(run, session)
        writer.write(10)
        with _followers(run, target, run.size("processes"), 10, 11) as children:
            time.sleep(2.0)
            before = sum(_processor_seconds(child.pid) for child in children)
            time.sleep(run.seconds)
            spent = sum(_processor_seconds(child.pid) for child in children) - before
            writer.write(1)
            for child in children:
                child.communicate(timeout=CHILD_TIMEOUT_SECONDS)
    return {"ms": spent / run.seconds * 1e3}


def _processor_seconds(pid: int) -> float:
    try:  # In nanoseconds, of all threads.
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except FileNotFoundError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def _times(run: Run, number: int) -> Path:
    return Path(run.folder) / f"received-{number}"


@contextmanager
def _followers(run: Run, target: str, processes: int, first: int, last: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    sizes = {**run.task.sizes, "first": first, "last": last}
    children: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(processes):
            task = msgspec.structs.replace(run.task, role="wait", target=target, number=number, sizes=sizes)
            children.append(subprocess.Popen(child_command(task), stdout=subprocess.PIPE))
        for child in children:
            assert child.stdout
            if child.stdout.readline() != b"ready\n":
                raise RuntimeError("a follower did not start")
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def wait(run: Run) -> None:
    """Run a follower: note when each event was typed, up to the last one, and write that down."""
    received, last, clock = array("q"), run.size("last"), time.perf_counter_ns
    with run.session(run.task.target) as session:
        print("ready", flush=True)
        for position in session.follow(run.size("first")):
            received.append(clock())
            if position >= last:
                break
    _times(run, run.task.number).write_bytes(received.tobytes())
    sys.stdout.flush()
    os._exit(0)
