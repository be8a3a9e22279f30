"""The instruments that measures share: percentiles, peak memory, disk space, and a quiet garbage collector."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path

from bench.harness.engine import Figures


def freeze_heap() -> None:
    """Collect garbage, then exempt all live objects, so that the collector does not scan them while the clock runs."""
    gc.collect()
    gc.freeze()


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the value below which `fraction` (0 to 1) of the sorted values lie."""
    return values[min(len(values) - 1, int(len(values) * fraction))]


def latencies(nanoseconds: list[int]) -> Figures:
    """Return p50 and p99 in microseconds."""
    ordered = sorted(nanoseconds)
    return {"p50": percentile(ordered, 0.5) / 1e3, "p99": percentile(ordered, 0.99) / 1e3}


def peak_memory_mb(pid: int | str = "self") -> float:
    """Return the peak resident memory of a process so far, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def disk_bytes(folder: str, skip_prefix: str = "") -> tuple[int, int]:
    """Return (files, bytes of their blocks) below a folder, without the files whose names begin with `skip_prefix`."""
    files = blocks = 0
    for path, _, names in os.walk(folder):
        for name in names:
            if not skip_prefix or not name.startswith(skip_prefix):
                files += 1
                blocks += os.lstat(os.path.join(path, name)).st_blocks
    return files, blocks * 512
