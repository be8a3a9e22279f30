"""Row 5: any byte of any file may rot. What is read is right, from the other copy, or refused with its place."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import tempfile
import traceback
import warnings
from pathlib import Path

from hangarlog import CorruptionWarning

from ..harness import Campaign, Figures
from .archives import run_archives
from .check import HARMLESS, LOST, RECOVERED, REFUSED, REPAIRED, SERVED, UNREAD, Broken, Check
from .damages import RUNNING, Case, choose
from .folder import Folder
from .store import Truth, fill, small_limits

WORKERS = 2
OF_AN_ARCHIVE = 60
"""One damage in so many is done to an archive."""

COUNTED = (SERVED, RECOVERED, REFUSED, HARMLESS, LOST, UNREAD, REPAIRED)


class Hang(Exception):
    """A case takes a minute."""


def hangs(*_: object) -> None:
    raise Hang("it hangs")


def work(path: str, truth: Truth, cases: list[Case], counted: dict[str, int]) -> str:
    """Check cases, and say what the first failure was."""
    told: list[str] = []
    warnings.simplefilter("always", CorruptionWarning)
    warnings.filterwarnings("ignore", ".*no whole history leads to", CorruptionWarning)
    warnings.showwarning = lambda message, *_: told.append(str(message))
    signal.signal(signal.SIGALRM, hangs)
    folders = Folder(path), Folder(f"{path}-kept", kept=True)
    for number, case in enumerate(cases):
        folder = folders[case.mode == RUNNING]
        signal.alarm(60)
        try:
            result, repaired = Check(folder, truth, case, told).run(number)
        except Exception as error:
            why = str(error) if isinstance(error, Broken) else "".join(traceback.format_exception(error))
            return f"{case}: {why}"
        counted[result] += 1
        counted[REPAIRED] += repaired
    signal.alarm(0)
    return ""


def run(folder: Path, size: int, seed: int) -> Figures:
    """`size` damages in two processes."""
    scratch = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else folder, prefix="hangarlog-"))
    try:
        with small_limits():
            fill(str(scratch / "0"))
            truth = Truth(str(scratch / "0"))
            for worker in range(1, WORKERS):
                shutil.copytree(scratch / "0", scratch / str(worker))
            for worker in range(WORKERS):
                shutil.copytree(scratch / "0", scratch / f"{worker}-kept")
            cases, possible = choose(Folder(str(scratch / "0")).texts, size, seed)
            counted = share_out(scratch, truth, cases, seed)
            counted |= run_archives(scratch / "archived", size // OF_AN_ARCHIVE, seed)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {"cases": len(cases), "of possible": possible, **counted}


def share_out(scratch: Path, truth: Truth, cases: list[Case], seed: int) -> dict[str, int]:
    """What the workers counted, together; the first failure ends them all."""
    workers: dict[int, int] = {}
    total = dict.fromkeys(COUNTED, 0)
    try:
        for worker in range(WORKERS):
            reading, writing = os.pipe()
            pid = os.fork()
            if not pid:
                counted = dict.fromkeys(COUNTED, 0)
                try:
                    failure = work(str(scratch / str(worker)), truth, cases[worker::WORKERS], counted)
                    os.write(writing, json.dumps([failure[:4_000], counted]).encode())
                finally:
                    os._exit(0)
            os.close(writing)
            workers[reading] = pid
        waiting = set(workers)
        while waiting:
            for reading in select.select(list(waiting), [], [])[0]:
                waiting.remove(reading)
                answer = os.read(reading, 1 << 20)
                assert answer, (
                    f"a worker ended with {os.waitstatus_to_exitcode(os.waitpid(workers.pop(reading), 0)[1])}"
                )
                failure, counted = json.loads(answer)
                assert not failure, f"HANGARLOG_SEED={seed}: {failure}"
                for what, count in counted.items():
                    total[what] += count
    finally:
        for reading, pid in workers.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reading)
    return total


CAMPAIGN = Campaign(
    row=5,
    fault="bit rot, in any file",
    promise="what is read is right, from the other copy and with a warning, or refused with its place; repair mends it",
    how="bits flipped, bytes set, files cut and zeroed, lines swapped, doubled and removed, in every file of a store, "
    "running and restarted; then all is read in both directions, verified, appended to and repaired; and in every "
    "file of an archive, which is then read, repaired and restored",
    ci=12_000,
    release=100_000,
    unit="damages",
    run=run,
)
