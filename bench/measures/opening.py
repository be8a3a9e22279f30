"""Opening a store until the first append succeeds: W8, after a close, a death and a power cut."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from itertools import count

import msgspec

from bench.harness.engine import Figures, Run
from bench.harness.instruments import freeze_heap
from bench.harness.payload import first_number
from bench.harness.process import child_command

CLOSED_STORES = (
    ("1 k", "1", 1, 1000),
    ("100 k", "1", 1, 100_000),
    ("1 M", "1", 1, 1_000_000),
    ("1 k", "1,000", 1000, 1),
    ("100 k", "1,000", 1000, 100),
    ("1 M", "1,000", 1000, 1000),
    ("100 k", "100,000", 100_000, 1),
    ("1 M", "100,000", 100_000, 10),
)
"""Closed stores to open: events and streams as the page shows them, number of streams, events per stream."""

DEATHS = (
    ("few", "one event per append, ten streams", 10, 1),
    ("many", "one event per append, 10,000 streams", 10_000, 1),
    ("batches", "a thousand events per append, ten streams", 10, 1000),
)
"""Writers that die: name, description, number of streams, events per append."""


def clean(run: Run) -> Figures:
    """Open a store that was closed."""
    return {"ms": _open_and_append_seconds(run, 0) * 1e3}


def after_a_kill(run: Run) -> Figures:
    """Open a store whose writer, and its server, was killed in the middle of an append."""
    _append_then_kill(run, random.random() / 50)
    return {"ms": _open_and_append_seconds(run, 1) * 1e3}


def alone(run: Run) -> Figures:
    """Open a closed store that no other process has open."""
    return {"ms": open_and_append_ms(run, f"provider:{run.task.round % run.size('streams')}")}


def after_a_death(run: Run) -> Figures:
    """Open a store whose last process was killed after a while, perhaps just before a checkpoint."""
    _append_then_kill(run, run.seconds * (1 + random.random()))
    return {"ms": open_and_append_ms(run, "killed:0")}


def open_and_append_ms(run: Run, stream: str) -> float:
    """Open the store, append once to a stream, and return the milliseconds of both."""
    events = run.events(1)
    freeze_heap()
    begin = time.perf_counter()
    with run.opened() as session:
        session.append(stream, events, session.version(stream))
        return (time.perf_counter() - begin) * 1e3


def _append_then_kill(run: Run, seconds: float) -> None:
    """Let a process append for some seconds, then kill it and its server."""
    task = msgspec.structs.replace(run.task, role="append until killed")
    with subprocess.Popen(child_command(task), stdout=subprocess.PIPE, start_new_session=True) as writer:
        assert writer.stdout
        began = writer.stdout.readline()
        time.sleep(seconds)
        os.killpg(writer.pid, signal.SIGKILL)
    if began != b"began\n":
        raise RuntimeError("the writer to kill did not start")


def after_a_power_cut(run: Run) -> Figures:
    """Open a hangarlog store without shared state and checkpoint, so that it compares both copies of every event."""
    from hangarlog import FileEventStore

    _delete_state_and_checkpoint(run)
    seconds = _open_and_append_seconds(run, 2)
    _delete_state_and_checkpoint(run)  # The second opening reports how much it replays.
    with FileEventStore(run.folder) as store:
        replayed = store.get_event_count() - (store.recovered.since if store.recovered else 0)
    return {"rate": replayed / seconds, "ms": seconds * 1e3, "replayed": replayed}


def _delete_state_and_checkpoint(run: Run) -> None:
    os.remove(os.path.join(run.folder, "state"))
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(run.folder, "checkpoint.json"))


def _open_and_append_seconds(run: Run, quarter: int) -> float:
    """Start the server if there is one, open the store, append once, and return the seconds of all.

    Each workload uses its own quarter of the streams (0 to 3), and each round its own stream.
    """
    streams, each, block = run.size("streams"), run.size("each"), run.size("block")
    number = quarter * streams // 4 + run.task.round
    run = replace(run, task=msgspec.structs.replace(run.task, number=number))
    if (driven := run.engine.drive("open", run)) is not None:
        return driven["seconds"]
    events, last_position = run.events(1), (each - block) * streams + number * block + block
    freeze_heap()
    begin = time.perf_counter()
    with run.opened() as session:
        session.append(f"provider:{number}", events, session.expected_version(each - 1, last_position))
        return time.perf_counter() - begin


def append_until_killed(run: Run) -> None:
    """Run the writer that is killed: append for ever, and print `began` after the first append."""
    if run.engine.drive("append until killed", run) is not None:
        return
    sizes = run.task.sizes
    first, streams, size = first_number(), int(sizes.get("writer_streams", 1)), int(sizes.get("batch", 1))
    category = "killed" if "writer_streams" in sizes else f"killed-{os.getpid()}"
    versions = [-1] * streams
    with run.opened() as session:
        for number in count():
            stream, events = number % streams, run.events(size, first + number * size)
            versions[stream] = session.append(f"{category}:{stream}", events, versions[stream])
            if not number:
                print("began", flush=True)
