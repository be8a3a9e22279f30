"""The machine that the figures come from."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine(folder: str) -> dict[str, str]:
    """Return the properties of this machine by name, as the page shows them; `folder` holds the stores."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "file system": file_system(folder),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "open files": _open_files(),
    }


def _open_files() -> str:
    """Return how many files a process may open; hangarlog keeps a share of them open."""
    try:
        import resource
    except ImportError:
        return "unknown"
    return f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} per process"


def _processor() -> str:
    return _first_value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _memory() -> str:
    total = _first_value("/proc/meminfo", "MemTotal")
    return f"{int(total.split()[0]) / (1 << 20):.0f} GiB" if total else "unknown"


def _first_value(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def file_system(folder: str) -> str:
    """Return the type of the file system that holds a folder."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    path = os.path.realpath(folder)
    inside = [(len(at), kind) for _, at, kind, *_ in mounts if os.path.commonpath([at, path]) == at]
    return max(inside)[1] if inside else "unknown"
