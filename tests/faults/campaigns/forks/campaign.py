"""Row 11: fork, spawn and threads: a store that is used on both sides of every way a process can come from another.

Each cell is a small program, run by itself (__main__.py), so that what hangs can be ended with all its children.
Every event is announced before it is appended and reported after: what is found must agree.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from hangarlog.maintenance.verify import verify

from ..harness import Campaign, Figures
from .cell import CELLS, GUARD, MODES, opened


def run_cell(cell: str, mode: str, path: Path) -> Counter[str]:
    """Run a cell, and compare what it reported with what is in its store."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", str(__package__), cell, mode, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    where = f"{cell}, {mode}"
    try:
        output, errors = process.communicate(timeout=GUARD)
    except subprocess.TimeoutExpired:
        # All of them say where they are, which is worth more than that they hang.
        os.killpg(process.pid, signal.SIGUSR1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"{where}: a deadlock:\n{process.communicate()[1][-30000:]}") from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    lines = [line.split() for line in output.splitlines()]
    failed = [" ".join(line) for line in lines if line[0] == "failed"]
    assert (process.returncode, failed, errors) == (0, [], ""), f"{where}: {failed} {errors[-1500:]}"
    tried = {event_id for word, *ids in lines if word == "tries" for event_id in ids}
    acknowledged = {event_id for word, *ids in lines if word == "acknowledged" for event_id in ids}
    with opened(str(path), durability="relaxed") as store:
        found = Counter(record.event_id for record in store.records())
        assert not (twice := [event_id for event_id, count in found.items() if count > 1]), f"{where}: twice {twice}"
        assert not (lost := acknowledged - found.keys()), f"{where}: lost {lost}"
        assert not (phantoms := found.keys() - tried), f"{where}: phantoms {phantoms}"
        halves = [event_id for event_id in found if f"{event_id[:-1]}{1 - int(event_id[-1])}" not in found]
        assert not halves, f"{where}: half batches {halves}"
        assert not (damages := list(verify(store))), f"{where}: {damages}"
    return Counter({"events": len(found), "unacknowledged": len(found) - len(acknowledged)})


def run(folder: Path, size: int, seed: int) -> Figures:
    figures: Counter[str] = Counter()
    broken = []
    for turn in range(size):
        for cell in CELLS:
            for mode in MODES:
                figures["cells"] += 1
                try:
                    figures += run_cell(cell, mode, folder / f"{turn}-{cell}-{mode}")
                except AssertionError as error:
                    broken.append(str(error))
    assert not broken, f"seed {seed} (no part in it), {len(broken)} of {figures['cells']}:\n  " + "\n  ".join(broken)
    return dict(figures)


CAMPAIGN = Campaign(
    row=11,
    fault="fork, spawn and threads at any moment",
    promise="nothing is lost or doubled, nobody waits for ever, and a child's end gives nothing of its parent's back",
    how="every cell of {forked idle, under the lock, in an append, in a sync, under load; used, closed and opened on "
    "either side; every way to exit; multiprocessing's ways to start} x {relaxed, always, interval, exclusive}",
    ci=1,
    release=10,
    unit="rounds of every cell",
    run=run,
    missing=lambda: None if hasattr(os, "fork") else "this system has no fork",
)
