"""Opening a store until a first append has succeeded: W8, as it was closed, after a kill, and after a power cut."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from itertools import count

import msgspec

from bench.appending import settle
from bench.child import command
from bench.engine import Unsupported
from bench.payload import first_number
from bench.workload import Figures, Run


def clean(run: Run) -> Figures:
    """Of a store that was closed."""
    return {"ms": _open_and_append(run, 0) * 1e3}


def after_a_kill(run: Run) -> Figures:
    """Of a store whose writer was killed in the middle of appending; a server with it."""
    task = msgspec.structs.replace(run.task, do="append for ever")
    with subprocess.Popen(command(task), stdout=subprocess.PIPE, start_new_session=True) as writer:
        assert writer.stdout
        began = writer.stdout.readline()
        time.sleep(random.random() / 50)  # Somewhere in an append.
        os.killpg(writer.pid, signal.SIGKILL)
    if began != b"began\n":
        raise RuntimeError("the writer that was to be killed did not begin")
    return {"ms": _open_and_append(run, 1) * 1e3}


def after_a_power_cut(run: Run) -> Figures:
    """Of a hangarlog store without its shared state, as after a restart: from the last checkpoint on, all is compared.

    Every round begins at the checkpoint that the first one found, or (a variant) at none.
    """
    from hangarlog import FileEventStore

    _cut_power(run)
    seconds = _open_and_append(run, 2 if run.variant else 3)
    _cut_power(run)  # Once more, to be told what was done.
    with FileEventStore(run.folder) as store:
        replayed = store.get_event_count() - (store.recovered.since if store.recovered else 0)
    return {"rate": replayed / seconds, "ms": seconds * 1e3, "replayed": replayed}


def _cut_power(run: Run) -> None:
    checkpoint, kept = os.path.join(run.folder, "checkpoint.json"), f"{run.folder}.checkpoint"
    if not os.path.exists(kept):
        if not (os.path.exists(checkpoint) or run.variant):
            raise Unsupported("the store is too small to have a checkpoint")
        if os.path.exists(checkpoint):
            shutil.copyfile(checkpoint, kept)
    os.remove(os.path.join(run.folder, "state"))
    if run.variant == "no checkpoint":
        with contextlib.suppress(FileNotFoundError):
            os.remove(checkpoint)
    else:
        shutil.copyfile(kept, checkpoint)


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
    first, stream = first_number(), f"killed:{os.getpid()}"
    with run.opened() as session:
        version = session.append(stream, run.events(1, first), -1)
        print("began", flush=True)
        for number in count(first + 1):
            version = session.append(stream, run.events(1, number), version)
