"""The cost of one append beside its floor, and its system calls: `python -m bench.measures.append_cost`.

Each figure is a median over rounds, in microseconds. In a round, the store and its floor take turns in one process, so
that drift of the machine affects both. The payload is MCP Hangar's ProviderStarted with its event id and time, about
200 bytes. The figures say nothing about other machines, other payloads, or more than one process.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from bench.harness.payload import event
from bench.harness.process import child_environment
from hangarlog import ANY, FileEventStore

LINE = b"x" * 420 + b"\n"
"""As long as a stored line."""

Work = Callable[[str, int], None]
"""Appends (folder, count)."""


def store_work(durability: str, batch: int = 1, *, exclusive: bool = False, new_streams: bool = False) -> Work:
    """Return appends to a store."""

    def work(folder: str, count: int) -> None:
        with FileEventStore(folder, durability=durability, exclusive=exclusive) as store:  # type: ignore[arg-type]
            version = store.append("warm:up", [event(0)], ANY)
            for number in range(count):
                events = [event(number)] * batch
                if new_streams:
                    store.append(f"new:{number}", events, -1)
                else:
                    version = store.append("warm:up", events, version)

    return work


def floor_work(durability: str, batch: int = 1, *, new_files: bool = False) -> Work:
    """Return the bare calls: one write of the encoded lines, and a sync where the store makes one."""

    def work(folder: str, count: int) -> None:
        fd = os.open(os.path.join(folder, "floor"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        for number in range(count):
            if new_files:
                os.close(fd)
                fd = os.open(os.path.join(folder, f"floor-{number}"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.write(fd, b"".join([msgspec.json.encode(event(number)) + LINE[200:] for _ in range(batch)]))
            if durability == "always":
                os.fdatasync(fd)
        os.close(fd)

    return work


CASES: list[tuple[str, Work, Work, int, int]] = [
    ("relaxed, one event", store_work("relaxed"), floor_work("relaxed"), 5000, 1),
    ("relaxed, one event, exclusive", store_work("relaxed", exclusive=True), floor_work("relaxed"), 5000, 1),
    ("relaxed, 1,000 events", store_work("relaxed", 1000), floor_work("relaxed", 1000), 20, 1000),
    (
        "relaxed, first of a new stream",
        store_work("relaxed", new_streams=True),
        floor_work("relaxed", new_files=True),
        2000,
        1,
    ),
    ("durable, one event", store_work("always"), floor_work("always"), 300, 1),
    ("durable, 1,000 events", store_work("always", 1000), floor_work("always", 1000), 20, 1000),
]
"""(name, store, floor, appends, events per append)."""


def event_microseconds(work: Work, count: int, batch: int) -> float:
    """Return the microseconds of one event."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        os.mkdir(path)
        start = time.perf_counter()
        work(path, count)
        return (time.perf_counter() - start) / count / batch * 1e6


def system_calls(case: int) -> str:
    """Return the system calls of one append: strace counts two runs, and the second makes 1,000 appends more."""
    if not shutil.which("strace"):
        return "strace is not installed"
    counts = []
    for count in (200, 1200):
        with tempfile.TemporaryDirectory() as folder:  # Deleted out here, because that is no cost of an append.
            command = ["strace", "-f", "-c", "-o", "/dev/stderr", sys.executable, "-m", "bench.measures.append_cost"]
            command += ["--run", str(case), str(count), folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=child_environment())
        rows = [line.split() for line in done.stderr.splitlines()]
        rows = [row for row in rows if row and row[0].replace(".", "").isdigit()]
        counts.append(Counter({row[-1]: int(row[3]) for row in rows if row[-1] != "total"}))
    per_append = {name: (counts[1][name] - counts[0][name]) / 1000 for name in counts[1]}
    shown = sorted(((calls, name) for name, calls in per_append.items() if calls > 0.02), reverse=True)
    return ", ".join(f"{name} {calls:.3g}" for calls, name in shown)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        case, count, folder = options.run
        CASES[int(case)][1](folder, int(count))
        return
    machine = f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    print(f"{machine}, msgspec {msgspec.__version__}\n")
    print("| append | µs per event | floor µs | floor / store | system calls per append |")
    print("| --- | --- | --- | --- | --- |")
    for case, (name, store, floor, count, batch) in enumerate(CASES):
        pairs = [
            (event_microseconds(store, count, batch), event_microseconds(floor, count, batch))
            for _ in range(options.rounds)
        ]
        store_us, floor_us = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(floor_us / store_us for store_us, floor_us in pairs)
        calls = system_calls(case) if batch == 1 else ""
        print(f"| {name} | {store_us:.1f} | {floor_us:.1f} | {ratio:.2f} | {calls} |", flush=True)


if __name__ == "__main__":
    main()
