"""Opening a store until a first append has succeeded: W8, as it was closed, after a death, and after a power cut."""

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

from bench.child import command
from bench.harness.payload import first_number
from bench.harness.workload import Figures, Run
from bench.measures.appending import settle


def clean(run: Run) -> Figures:
    """Of a store that was closed."""
    return {"ms": _open_and_append(run, 0) * 1e3}


def after_a_kill(run: Run) -> Figures:
    """Of a store whose writer was killed in the middle of appending; a server with it."""
    _kill(run, random.random() / 50)  # Somewhere in an append.
    return {"ms": _open_and_append(run, 1) * 1e3}


def alone(run: Run) -> Figures:
    """Of a store that was closed, and that nobody has open."""
    return {"ms": until_append(run, f"provider:{run.task.round % run.size('streams')}")}


def after_a_death(run: Run) -> Figures:
    """Of a store whose last process was killed when it had appended for a while, perhaps just before a checkpoint."""
    _kill(run, run.seconds * (1 + random.random()))
    return {"ms": until_append(run, "killed:0")}


def until_append(run: Run, stream: str) -> float:
    """Milliseconds until the first append to a stream of a store, opened for it."""
    new = run.events(1)
    settle()
    begin = time.perf_counter()
    with run.opened() as session:
        session.append(stream, new, session.version(stream))
        return (time.perf_counter() - begin) * 1e3


def _kill(run: Run, seconds: float) -> None:
    """Have a process append for so long, and kill it; a server with it."""
    task = msgspec.structs.replace(run.task, do="append for ever")
    with subprocess.Popen(command(task), stdout=subprocess.PIPE, start_new_session=True) as writer:
        assert writer.stdout
        began = writer.stdout.readline()
        time.sleep(seconds)
        os.killpg(writer.pid, signal.SIGKILL)
    if began != b"began\n":
        raise RuntimeError("the writer that was to be killed did not begin")


def after_a_power_cut(run: Run) -> Figures:
    """Of a hangarlog store without its shared state and checkpoint: all there is, is compared in both copies."""
    from hangarlog import FileEventStore

    _forget_what_is_durable(run)
    seconds = _open_and_append(run, 2)
    _forget_what_is_durable(run)  # Once more, to be told what was done.
    with FileEventStore(run.folder) as store:
        replayed = store.get_event_count() - (store.recovered.since if store.recovered else 0)
    return {"rate": replayed / seconds, "ms": seconds * 1e3, "replayed": replayed}


def _forget_what_is_durable(run: Run) -> None:
    os.remove(os.path.join(run.folder, "state"))
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(run.folder, "checkpoint.json"))


def _open_and_append(run: Run, part: int) -> float:
    """Seconds; an engine's server is started in them. Each round of each workload (`part`) has a stream of its own."""
    streams, each, block = run.size("streams"), run.size("each"), run.size("block")
    number = part * streams // 4 + run.task.round
    run = replace(run, task=msgspec.structs.replace(run.task, number=number))
    if (driven := run.engine.drive("open", run)) is not None:
        return driven["seconds"]
    new, last = run.events(1), (each - block) * streams + number * block + block
    settle()
    begin = time.perf_counter()
    with run.opened() as session:
        session.append(f"provider:{number}", new, session.expected(each - 1, last))
        return time.perf_counter() - begin


def append_for_ever(run: Run) -> None:
    """Be the writer that is killed."""
    if run.engine.drive("append for ever", run) is not None:
        return
    first, streams, size = first_number(), int(run.task.sizes.get("over", 1)), int(run.task.sizes.get("batch", 1))
    category = "killed" if "over" in run.task.sizes else f"killed-{os.getpid()}"
    versions = [-1] * streams
    with run.opened() as session:
        for number in count():
            stream, made = number % streams, run.events(size, first + number * size)
            versions[stream] = session.append(f"{category}:{stream}", made, versions[stream])
            if not number:
                print("began", flush=True)
