"""Jobs of a campaign that run in a process of their own, with mounts that nobody else sees."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hangarlog.filestore.group_sync


def ring_at_once() -> None:
    """Let the stores of this process create their commit ring at the first sync: most cells make only a few."""
    hangarlog.filestore.group_sync.SYNCS_BEFORE_RING = 0


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def run_in_a_process(job: str, folder: Path, size: int, seed: int, *, mounts: bool = False) -> dict[str, Any]:
    """What `JOBS[job]` of a module counts, run in a process of its own, with mounts that nobody else sees."""
    module, _, name = job.partition(":")
    done = subprocess.run(
        [
            *(["unshare", "-m", "--"] if mounts else []),
            sys.executable,
            "-m",
            module,
            name,
            folder,
            *map(str, (size, seed)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, f"{job} ended with {done.returncode}: {done.stderr[-6000:]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert "broken" not in found, found["broken"]
    return found


def main(jobs: dict[str, Callable[[Path, int, int], dict[str, Any]]]) -> None:
    """The other end of `run_in_a_process`."""
    die_with_parent()
    ring_at_once()
    name, folder, size, seed = sys.argv[1:]
    try:
        found: dict[str, Any] = jobs[name](Path(folder), int(size), int(seed))
    except AssertionError as error:
        found = {"broken": str(error)}
    print(json.dumps(found))
