"""Row 12: eight processes that all want to append, all the time: each gets its turn, and the longest wait is told.

A ninth compresses, retains, archives and backs up meanwhile.

How long a wait is depends on the machine and on what else it does, so no length is asserted; that every process gets
on is.
"""

from __future__ import annotations

import os
import shutil
import time
from array import array
from itertools import chain
from pathlib import Path

from hangarlog import ANY, FileEventStore, RetentionPolicy, UntypedEvent
from hangarlog.filestore.store import Durability
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.verify import verify

from .child import Child
from .harness import Campaign, Figures

PROCESSES = 8
STARVED = 0.2  # Of what the fastest process gets on. A starved one is near 0; the scheduler alone costs some.

PHASES: dict[str, tuple[Durability, bool]] = {  # (durability, whether all append to one stream)
    "streams": ("relaxed", False),
    "one stream": ("relaxed", True),
    "durable": ("always", False),
}


def contend(path: Path, stream_id: str, durability: Durability, seconds: float, start: int, report: int) -> None:
    """Append without a pause from the start to the end of the phase, and report how long each append took."""
    clock, took = time.perf_counter_ns, array("q")
    with FileEventStore(path, durability=durability) as store:
        os.write(report, b".")
        os.read(start, 1)  # Ends when the other end is closed: all begin at once.
        now = clock()
        end = now + int(seconds * 1e9)
        while now < end:
            began = now
            store.append(stream_id, [UntypedEvent("Waited", {"text": "x" * 100})], ANY)
            now = clock()
            took.append(now - began)
    with path.with_name(f"{path.name}-{os.getpid()}").open("wb") as file:
        took.tofile(file)


def keep_small(path: Path, seconds: float, start: int, report: int) -> None:
    """Compress, retain, archive and back up the store, again and again, from the start to the end of the phase."""
    with FileEventStore.untyped(path, durability="relaxed") as store:
        os.write(report, b".")
        os.read(start, 1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            store.append("gone:1", [UntypedEvent("Kept", {})] * 2, ANY)
            store.compress(seal=True)
            store.retain(RetentionPolicy(prefix="gone:", max_events_per_stream=1))
            backed_up = store.last_position
            backup(path, path.with_name("backup"))
            store.archive(path.with_name("archive"), before=backed_up)  # The next backup goes on with the rest.


def phase(path: Path, seconds: float, durability: Durability, together: bool) -> list[array[int]]:
    """How many nanoseconds each append of each process took."""
    with FileEventStore(path):
        pass
    reading, writing = os.pipe()
    children: list[Child] = []
    keepers: list[Child] = []
    try:
        for own in range(PROCESSES):
            stream_id = "s:all" if together else f"s:{own}"

            def work(report: int, stream_id: str = stream_id) -> None:
                os.close(writing)
                contend(path, stream_id, durability, seconds, reading, report)

            children.append(Child(work))

        def keep(report: int) -> None:
            os.close(writing)
            keep_small(path, seconds, reading, report)

        keepers.append(Child(keep))
        for child in (*children, *keepers):
            child.reported()
        os.close(writing)
        writing = -1
        for child in (*children, *keepers):
            child.rest()
            assert child.wait() == 0, f"a process ended with {child.status}"
    finally:
        for child in (*children, *keepers):
            child.end()
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    results = []
    for child in children:
        took = array("q")
        took.frombytes(path.with_name(f"{path.name}-{child.pid}").read_bytes())
        results.append(took)
    return results


def check(path: Path, appends: int) -> None:
    """Whatever the hurry, all is there, here or in the archive."""
    with (
        FileEventStore.untyped(path, create=False) as store,
        FileEventStore.untyped(path.with_name("archive"), create=False) as archive,
    ):
        first = store.first_position
        records = chain(archive.records(to_position=first - 1), store.records(from_position=first - 1))
        found = sum(record.event_type == "Waited" for record in records)
        assert found == appends, f"{appends} appends, {found} events"
        for one in (store, archive):
            damage = list(verify(one))
            assert not damage, f"verify finds {damage}"


def figures_of(took: list[array[int]]) -> Figures:
    waits = sorted(wait for one in took for wait in one)

    def milliseconds(share: float) -> float:
        return round(waits[min(len(waits) - 1, int(len(waits) * share))] / 1e6, 3)

    counts = [len(one) for one in took]
    return {
        "appends": len(waits),
        "slowest / fastest process": round(min(counts) / max(counts), 2),
        "p50 ms": milliseconds(0.5),
        "p99 ms": milliseconds(0.99),
        "p99.9 ms": milliseconds(0.999),
        "longest ms": milliseconds(1),
    }


def run(folder: Path, size: int, seed: int) -> Figures:
    figures: Figures = {}
    for name, (durability, together) in PHASES.items():
        path = folder / name.replace(" ", "-")
        try:
            took = phase(path, size, durability, together)
            counts = [len(one) for one in took]
            check(path, sum(counts))
            assert min(counts) >= STARVED * max(counts), f"a process starved: the appends of each were {counts}"
        except Exception as error:
            raise AssertionError(f"seed {seed}, {size} s, phase {name!r}: {error!r}") from error
        figures |= {f"{name}: {what}": figure for what, figure in figures_of(took).items()}
        for each in (path, path.with_name("archive"), path.with_name("backup")):
            shutil.rmtree(each)
    return figures


CAMPAIGN = Campaign(
    row=12,
    fault="8 processes in contention for one store",
    promise="none starves: the slowest gets on at a fifth of the fastest's pace at least",
    how="8 processes append without a pause: to a stream each, all to one, and durably, while a ninth "
    "compresses, retains, archives and backs up; every wait is measured",
    ci=4,
    release=60,
    unit="seconds of each sort",
    run=run,
    missing=lambda: None if hasattr(os, "fork") else "this system has no fork",
)
