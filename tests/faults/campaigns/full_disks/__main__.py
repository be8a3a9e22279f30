"""The jobs of row 3, each in a process of its own: `python -m … JOB FOLDER SIZE SEED`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from ..disks import Disk
from ..jobs import main
from .filled import fill
from .limits import Limits
from .refusing import forbidden, read_only, vanished

TMPFS_BYTES = 3 << 20
IMAGE_BYTES = 8 << 20


def _limits(folder: Path, size: int, seed: int) -> dict[str, Any]:
    return _limits_in(folder, folder, size, seed)


def _limits_and_memory(folder: Path, size: int, seed: int) -> dict[str, Any]:
    """With the stores of which each limit wants a new one in memory, where making them takes no time."""
    disk = Disk("tmpfs", folder, 64 << 20)
    disk.mount()
    return _limits_in(folder, disk.folder, size, seed)


def _limits_in(folder: Path, many: Path, size: int, seed: int) -> dict[str, Any]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = Limits(folder, many, seed)
    limits.run(size)
    return dict(limits.counted + vanished(many, seed) + forbidden(seed))


def _tmpfs(folder: Path, size: int, seed: int) -> dict[str, Any]:
    disk = Disk("tmpfs", folder, TMPFS_BYTES)
    return dict(fill(disk, size, seed) + read_only(disk, seed))


def _ext4(folder: Path, size: int, seed: int) -> dict[str, Any]:
    disk = Disk("ext4", folder, IMAGE_BYTES)
    return dict(fill(disk, size, seed) + read_only(disk, seed))


JOBS = {"limits": _limits, "limits-and-memory": _limits_and_memory, "tmpfs": _tmpfs, "ext4": _ext4}

if __name__ == "__main__":
    main(JOBS)
