"""Row 3: a disk that is full at every byte, read-only, forbidden, or gone, while a store is open in two processes.

Limits of file sizes (RLIMIT_FSIZE) refuse at any byte without root. A tmpfs and an ext4 in an image are filled for
real; they are mounted in a mount namespace of the run's own, so nothing of them is left behind.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..disks import no_loop_mounts, no_mounts
from ..harness import Campaign, Figures
from ..jobs import run_in_a_process


def run(folder: Path, size: int, seed: int) -> Figures:
    mounts = no_mounts() is None
    job = f"{__package__}:limits-and-memory" if mounts else f"{__package__}:limits"
    figures: Figures = dict(run_in_a_process(job, folder, size, seed, mounts=mounts))
    rounds = max(2, size // 25)
    for kind, missing in (("tmpfs", no_mounts()), ("ext4", no_loop_mounts("ext4"))):
        if missing:
            figures[kind] = f"left out: {missing}"
            continue
        found = run_in_a_process(f"{__package__}:{kind}", folder, rounds, seed, mounts=True)
        figures |= {f"{kind}: {what}": number for what, number in found.items()}
    return figures


def missing() -> str | None:
    # Without root the limits still run; where everything must be there, that is not enough.
    return (no_mounts() or no_loop_mounts("ext4")) if os.environ.get("HANGARLOG_REQUIRE_TOOLS") else None


CAMPAIGN = Campaign(
    row=3,
    fault="a full disk, a read-only one, a folder that is forbidden or gone",
    promise="the append fails whole with its cause, everything stays readable, the next one works when there is room",
    how="RLIMIT_FSIZE at successive bytes; a tmpfs and a loop-mounted ext4 filled, freed and gone on with",
    ci=1_000,
    release=1_000,
    unit="limits",
    run=run,
    missing=missing,
)
