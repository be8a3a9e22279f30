"""Row 10: ids, payloads, lines, files and databases of somebody who wishes the store ill.

Each part runs in a process of its own, which tells every case before it begins, watches its own memory, and ends with
the stacks if a case hangs. A fence of files around the store is compared before and after every case.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..harness import Campaign, Figures
from .co_users import co_users
from .compressed import compressed
from .databases import databases, sources
from .files import foreign, names, swaps
from .ids import ids
from .lines import lines, proved
from .locks import locks
from .modes import modes
from .payloads import payloads
from .sizes import counts, sizes
from .small_files import small_files
from .terminal import terminal

PARTS = (
    *(lines, small_files, sizes, counts, swaps, payloads, sources, databases, locks, ids, terminal, proved, names),
    *(foreign, modes, co_users, compressed),
)


def run_part(name: str, folder: Path, size: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Run a part in a process of its own: what it counted, and what it found broken."""
    process = subprocess.Popen(
        [sys.executable, "-m", str(__package__), name, str(folder), str(size), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    try:
        output, errors = process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, 9)
        process.communicate()
    figures: Counter[str] = Counter()
    broken, last = [], ""
    for line in output.splitlines():
        word, _, text = line.partition(" ")
        if word == "case":
            last = text
        elif word == "broken":
            broken.append(f"{name}: {text}")
        elif word == "figures":
            figures.update(json.loads(text))
    if process.returncode:
        broken.append(f"{name}: it ended with {process.returncode} in the case {last!r}: {errors[-1500:]}")
    return figures, broken


def run(folder: Path, size: int, seed: int) -> Figures:
    figures: Counter[str] = Counter()
    broken: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        for counted, found in pool.map(lambda part: run_part(part.__name__, folder / part.__name__, size, seed), PARTS):
            figures += counted
            broken += found
    assert not broken, f"seed {seed}: {len(broken)} of {figures['cases']} cases:\n  " + "\n  ".join(broken)
    return dict(figures)


CAMPAIGN = Campaign(
    row=10,
    fault="ids, payloads, lines, files, databases and co-users who wish ill",
    promise="nothing outside the store is read or written, memory is bounded, nothing hangs, and each refusal says why",
    how="stream ids; every file swapped for links, FIFOs, folders; another user who swaps parts of the store in the "
    "middle of every call; nesting, numbers and surrogates; lines with right checksums and wrong contents; files of a "
    "terabyte and counts that lie, each command with a limit on memory and processor time; compressed files with wrong "
    "tables, bombs, and frames without number; databases and schema locks; umask 0; a pseudo-terminal",
    ci=250,
    release=2_000,
    unit="stream ids",
    run=run,
    missing=lambda: None if hasattr(os, "mkfifo") else "this system has no FIFOs",
)
