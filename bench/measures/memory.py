"""The peak memory of a process that writes, reads, verifies or follows, in MB above its memory after the imports."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import IO

from bench.harness.engine import Figures, Run
from bench.harness.instruments import peak_memory_mb
from bench.harness.process import child_environment

_STREAM = "provider:math"


def writing(run: Run) -> Figures:
    """Append events in batches of 1,000."""
    before_mb = peak_memory_mb()
    with run.opened() as session:
        version = -1
        for begin in range(0, run.size("events"), 1000):
            version = session.append(_STREAM, run.events(1000, begin), version)
        return {"mb": peak_memory_mb() - before_mb}


def reading(run: Run) -> Figures:
    """Read all events."""
    before_mb = peak_memory_mb()
    with run.opened() as session:
        session.read_all()
        return {"mb": peak_memory_mb() - before_mb}


def verifying(run: Run) -> Figures:
    """Verify a hangarlog store."""
    from hangarlog import FileEventStore
    from hangarlog.maintenance.verify import verify

    before_mb = peak_memory_mb()
    with FileEventStore(run.folder) as store:
        if damage := list(verify(store)):
            raise damage[0]
        return {"mb": peak_memory_mb() - before_mb}


def following(run: Run) -> Figures:
    """Follow a growing store with `hangarlog tail -f`; the baseline is an interpreter that imported hangarlog."""
    command = [sys.executable, "-m", "hangarlog", "tail", run.folder, "-f", "-n", "1"]
    with run.opened() as session:
        version = session.append(_STREAM, run.events(1), -1)
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=child_environment()) as tail:
            assert tail.stdout
            tail.stdout.readline()  # Once it printed the first event, it follows.
            drain = threading.Thread(target=_read_lines, args=(tail.stdout, run.size("events")))
            drain.start()
            for begin in range(0, run.size("events"), 1000):
                version = session.append(_STREAM, run.events(1000, begin), version)
            drain.join()
            peak_mb = peak_memory_mb(tail.pid)
            tail.kill()
    return {"mb": peak_mb - _import_mb()}


def _read_lines(file: IO[bytes], count: int) -> None:
    for _ in range(count):
        file.readline()


def _import_mb() -> float:
    program = "import hangarlog; print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=child_environment(), check=True)
    return int(done.stdout.split()[1]) / 1024
