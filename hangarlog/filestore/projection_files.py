"""The files of projections' states, in the folder `projections/`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hangarlog.eventstore.engine import StateSlot
from hangarlog.filestore.file_names import file_name
from hangarlog.filestore.folder import Folder
from hangarlog.system.filesystem import NO_FILE

MAX_STATE_BYTES = 1 << 30  # Larger files are not read.

_SUFFIXES: dict[StateSlot, str] = {"saved": ".json", "latest": ".latest.json", "rebuilding": ".rebuilding.json"}


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
    """Replace a file, atomically; None deletes it. Raises `OSError`.

    Without `sync`, a power cut may leave any part of it.
    """
    filesystem, path = folder.filesystem, state_path(folder, name, slot)
    if content is None:
        filesystem.remove(path)
        return
    try:
        filesystem.replace_file(path, content, sync=sync)
    except FileNotFoundError:
        folder.refuse_moved()
        filesystem.make_folder(folder.projections_path)
        filesystem.replace_file(path, content, sync=sync)


def saved_states(folder: Folder) -> Iterator[str]:
    """Yield the paths of the files whose content is on the device; torn files in other slots are normal."""
    for entry in folder.filesystem.entries(folder.projections_path):
        if entry.name.endswith(".json") and not entry.name.endswith((".latest.json", ".rebuilding.json")):
            yield entry.path
