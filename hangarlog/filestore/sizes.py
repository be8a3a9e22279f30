"""The sizes of a store's files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from hangarlog.log.segment_name import COMPRESSED, TEXT
from hangarlog.system.filesystem import FileSystem


def sizes_of_files(filesystem: FileSystem, folder: str, levels: int = 3) -> Iterator[tuple[str, int]]:
    """Yield (path, size in bytes) of each file of a store, ignoring folders deeper than its own."""
    for entry in filesystem.entries(folder):
        if entry.is_dir():
            if levels > 1:
                with contextlib.suppress(PermissionError):  # `locks` is private also where others may read.
                    yield from sizes_of_files(filesystem, entry.path, levels - 1)
        else:
            with contextlib.suppress(FileNotFoundError):  # A roll or a compaction has removed it.
                yield entry.path, entry.stat().st_size


def part_of(folder: str, path: str) -> str:
    """Return which part of a store a file belongs to: "journal" or "streams" for text, else "other"."""
    top, *below = os.path.relpath(path, folder).split(os.sep)
    if not path.endswith((TEXT, COMPRESSED)):
        return "other"
    if below:
        return "streams" if top == "streams" else "other"
    return "journal" if top.startswith("journal.") else "other"  # The file of cursors is none.


def is_text(folder: str, path: str) -> bool:
    """True if a file is a segment of the journal or of a stream."""
    return part_of(folder, path) != "other"
