"""Memory, and the time to open, of a store with many streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

import hangarlog
from bench.harness.paths import ROOT
from bench.harness.payload import events
from bench.jetstream.sides import Place
from hangarlog import NO_STREAM

_STREAMS, _TOGETHER = 100_000, 1000


class Figures(msgspec.Struct):
    """What a fresh process saw: seconds to open and until the first append, to list, and MB after each."""

    open_seconds: float
    append_seconds: float
    list_seconds: float
    imported_mb: float
    open_mb: float
    listed_mb: float


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_rows(cluster: Any, place: Place) -> list[str]:
    """Return the rows of a store with 100,000 streams."""
    place = Place(place.servers, place.replicas, "many")
    pids = [server.process.pid for server in cluster.servers]
    before = max(map(resident_mb, pids))
    with hangarlog.open(place.address) as store:
        for first in range(0, _STREAMS, _TOGETHER):
            numbers = range(first, first + _TOGETHER)
            given = events(_TOGETHER, first=first)
            store.append_many(
                [(f"s:{number}", [event], NO_STREAM) for number, event in zip(numbers, given, strict=True)]
            )
    after = max(map(resident_mb, pids))
    command = [sys.executable, "-m", "bench.jetstream.memory", place.address]
    seen = msgspec.json.decode(
        subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout, type=Figures
    )
    title = f"memory, {_STREAMS:,} streams"
    opened = f"{seen.open_seconds * 1e3:.0f} ms, {seen.append_seconds * 1e3:.0f} ms"
    return [
        f"| {title}: server, before and with them | {before:.0f}, {after:.0f} MB | | | |",
        f"| … client: imports, open, listed | "
        f"{seen.imported_mb:.0f}, {seen.open_mb:.0f}, {seen.listed_mb:.0f} MB | | | |",
        f"| … time to open, until the first append | {opened} | | | |",
        f"| … time to list them | {seen.list_seconds:.2f} s | | | |",
    ]


def main(address: str) -> None:
    """Open a store, append, list, and print the figures."""
    import hangarlog.jetstream  # It is imported by the first opening, and is not to be measured.

    own, begin = os.getpid(), perf_counter()
    imported = resident_mb(own)
    with hangarlog.open(address) as store:
        opened = perf_counter()
        store.append("s:7", events(1), 0)
        appended, open_mb = perf_counter(), resident_mb(own)
        count = len(store.list_streams())
        listed = perf_counter()
        if count != _STREAMS:
            raise RuntimeError(f"{count} streams were listed")
        figures = Figures(opened - begin, appended - begin, listed - appended, imported, open_mb, resident_mb(own))
    print(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    main(sys.argv[1])
