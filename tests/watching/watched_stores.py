"""What the tests of watching share."""

from __future__ import annotations

import os
from pathlib import Path

Snapshot = dict[str, tuple[int, int, int, bytes]]


def snapshot(folder: Path) -> Snapshot:
    """Each file and folder below `folder`: its inode, mode, time of change and content."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = os.lstat(path)
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (status.st_ino, status.st_mode, status.st_ctime_ns, content)
    return found
