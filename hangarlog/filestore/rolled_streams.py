"""Finds the streams that have sealed segments, by the names of their files."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from hangarlog.errors import CorruptionError
from hangarlog.filestore.folder import Folder
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import first_of, text_path
from hangarlog.system.filesystem import FRESH, FileSystem
from hangarlog.system.open_folder import Entry


class RolledStream(NamedTuple):
    """A stream's segments by their names: first versions of the `sealed` ones, and whether there is an `active` one."""

    category: str
    log: Log
    sealed: list[int]
    active: bool

    def doubtful(self) -> bool:
        """True if the sealed segments may not belong to this stream."""
        if not self.active:
            return True
        with contextlib.suppress(CorruptionError, FileNotFoundError):
            with contextlib.closing(Segment(self.log.filesystem, self.log.base, self.log.field)) as active:
                begins = active.first_number()
            return begins is not None and self.sealed[-1] >= begins
        return False


def sealed_files(folder: Folder) -> Iterator[tuple[Log, int, Entry]]:
    """Yield (log, first number, file) of all sealed segments, the journal's first, from one listing of each folder."""
    for entry in folder.filesystem.entries(folder.path):
        first = first_of(entry.name, folder.journal.name)
        if first is not None:
            yield folder.journal, first, entry
    categories = [entry.path for entry in folder.filesystem.entries(folder.streams_path) if entry.is_dir()]
    for path in [folder.streams_path, *categories]:
        for entry in folder.filesystem.entries(path):
            name = entry.name.partition(".")[0]
            first = first_of(entry.name, name)
            if first is not None:
                yield Log(folder.filesystem, path, name, "stream_version"), first, entry


def highest_sealed(filesystem: FileSystem, path: str) -> dict[str, int]:
    """Return {name: first version of its last sealed segment} of the streams in a folder that have one."""
    found: dict[str, int] = {}
    for entry in filesystem.entries(path):
        name = entry.name.partition(".")[0]
        first = first_of(entry.name, name)
        if first is not None:
            found[name] = max(first, found.get(name, -1))
    return found


def rolled_streams(folder: Folder) -> Iterator[RolledStream]:
    """Yield the streams that have sealed segments, from one listing of each folder."""
    categories = [entry.name for entry in folder.filesystem.entries(folder.streams_path) if entry.is_dir()]
    for category in ["", *categories]:
        path = folder.category_path(category)
        active: set[str] = set()
        sealed: defaultdict[str, set[int]] = defaultdict(set)
        for entry in folder.filesystem.entries(path):
            name = entry.name.partition(".")[0]
            first = first_of(entry.name, name)
            if first is not None:
                sealed[name].add(first)
            elif entry.name in (text_path(name), text_path(name) + FRESH):
                active.add(name)
        for name, firsts in sealed.items():
            yield RolledStream(
                category, Log(folder.filesystem, path, name, "stream_version"), sorted(firsts), name in active
            )
