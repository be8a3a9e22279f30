"""What a process takes: peak memory of writing, reading, verifying, following; the time to start."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from bench.child import environment
from bench.harness.workload import Figures, Run


def peak(pid: int | str = "self") -> float:
    """The peak resident memory of a process so far, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def writing(run: Run) -> Figures:
    """Append events in batches of a thousand."""
    before = peak()
    with run.opened() as session:
        version = -1
        for begin in range(0, run.size("events"), 1000):
            version = session.append("provider:math", run.events(1000, begin), version)
        return {"mb": peak() - before}


def reading(run: Run) -> Figures:
    """Go over all events."""
    before = peak()
    with run.opened() as session:
        session.read_all()
        return {"mb": peak() - before}


def verifying(run: Run) -> Figures:
    """Check every line of a hangarlog store."""
    from hangarlog import FileEventStore
    from hangarlog.maintenance.verify import verify

    before = peak()
    with FileEventStore(run.folder) as store:
        if damage := list(verify(store)):
            raise damage[0]
        return {"mb": peak() - before}


def following(run: Run) -> Figures:
    """`hangarlog tail -f` of a store that grows, above an interpreter that has imported hangarlog."""
    command = [sys.executable, "-m", "hangarlog", "tail", run.folder, "-f", "-n", "1"]
    with run.opened() as session:
        version = session.append("provider:math", run.events(1), -1)
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as tail:
            assert tail.stdout
            tail.stdout.readline()  # From here on it follows.
            drain = threading.Thread(target=_read_lines, args=(tail.stdout, run.size("events")))
            drain.start()
            for begin in range(0, run.size("events"), 1000):
                version = session.append("provider:math", run.events(1000, begin), version)
            drain.join()
            most = peak(tail.pid)
            tail.kill()
    return {"mb": most - _imported()}


def _read_lines(file: IO[bytes], count: int) -> None:
    for _ in range(count):
        file.readline()


def _imported() -> float:
    program = "import hangarlog; print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment(), check=True)
    return int(done.stdout.split()[1]) / 1024


_PROGRAMS = {
    "nothing": ["-c", "pass"],
    "import": ["-c", "import hangarlog"],
    "version": ["-m", "hangarlog", "--version"],
}


def starting(run: Run) -> Figures:
    """An interpreter that imports hangarlog over one that does nothing, and the command line's quickest command."""
    taken: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    for _ in range(run.size("runs")):
        for name, arguments in _PROGRAMS.items():
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments],
                stdout=subprocess.DEVNULL,
                env={**environment(), "PYTHONDONTWRITEBYTECODE": ""},
                cwd=os.path.dirname(run.folder),
                check=True,
            )
            taken[name].append((time.perf_counter() - begin) * 1e3)
    middle = {name: statistics.median(each) for name, each in taken.items()}
    return {"import": middle["import"] - middle["nothing"], "version": middle["version"]}
