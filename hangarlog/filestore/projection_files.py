"""The files of projections' states, in the folder `projections/`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from hangarlog.eventstore.engine import StateSlot
from hangarlog.filestore.file_names import file_name
from hangarlog.filestore.folder import Folder
from hangarlog.system.filesystem import NO_FILE, FileSystem

MAX_STATE_BYTES = 1 << 30  # Larger files are not read.

_SUFFIXES: dict[StateSlot, str] = {
    "saved": ".json",
    "rebuilding": ".rebuilding.json",
    "latest": ".latest.json",
    "latest-2": ".latest-2.json",
}
_UNSYNCED = tuple(suffix for slot, suffix in _SUFFIXES.items() if slot != "saved")


def state_path(folder: Folder, name: str, slot: StateSlot) -> str:
    """Return the path of a projection's state."""
    return os.path.join(folder.projections_path, file_name(name) + _SUFFIXES[slot])


def read_state(folder: Folder, name: str, slot: StateSlot, size: int | None = None) -> bytes | None:
    """Return the content of a file, or its first `size` bytes; None if there is none. Raises `OSError`."""
    filesystem, path = folder.filesystem, state_path(folder, name, slot)
    try:
        if size is None:
            return filesystem.read_file(path, MAX_STATE_BYTES)
        fd = filesystem.open_read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in NO_FILE:
            return b""  # What is in its place is no state.
        raise
    try:
        return filesystem.read(fd, size, 0)
    finally:
        filesystem.close(fd)


def write_state(folder: Folder, name: str, slot: StateSlot, content: bytes | None, *, sync: bool) -> None:
    """Replace a file; None deletes it. Raises `OSError`.

    With `sync` it is replaced atomically. Without, it is overwritten in place: a rename takes milliseconds on ext4.
    """
    filesystem, path = folder.filesystem, state_path(folder, name, slot)
    if content is None:
        filesystem.remove(path)
        return
    write = filesystem.replace_file if sync else partial(_overwrite, filesystem)
    try:
        write(path, content)
    except FileNotFoundError:
        folder.refuse_moved()
        filesystem.make_folder(folder.projections_path)
        write(path, content)


def _overwrite(filesystem: FileSystem, path: str, content: bytes) -> None:
    fd = filesystem.open_update(path, create=True)
    try:
        filesystem.write_at(fd, content, 0)
        if filesystem.size(fd) > len(content):
            filesystem.truncate(fd, len(content))
    finally:
        filesystem.close(fd)


def saved_states(folder: Folder) -> Iterator[str]:
    """Yield the paths of the files whose content is on the device; torn files in other slots are normal."""
    for entry in folder.filesystem.entries(folder.projections_path):
        if entry.name.endswith(".json") and not entry.name.endswith(_UNSYNCED):
            yield entry.path
