"""The states of projections in a verification, a repair and a backup."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.projection_files import MAX_STATE_BYTES, saved_states, state_path
from hangarlog.maintenance.store_view import StoreView
from hangarlog.projections.saved import SavedState, parse
from hangarlog.record.envelope import LineError
from hangarlog.system.file_copy import keep_damaged
from hangarlog.system.filesystem import NO_FILE

_ADVICE = "delete it: the next run of the projection builds it anew"


def projections_damage(folder: Folder, view: StoreView) -> list[CorruptionError]:
    """Return the damage of the states that are on the device. What may be torn by a power cut is none."""
    found = []
    for path in saved_states(folder):
        saved = _read(folder, path)
        cause = saved if isinstance(saved, str) else _flaw(folder, view, path, saved)
        if cause:
            found.append(_damage(path, f"{cause}; {_ADVICE}"))
    return found


def _damage(path: str, cause: str) -> CorruptionError:
    return CorruptionError(path, os.path.basename(path), 0, cause, mendable=False)


def _read(folder: Folder, path: str) -> SavedState | str:
    """Return what is in a file, or why nothing is."""
    try:
        return parse(folder.filesystem.read_file(path, MAX_STATE_BYTES))
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        return f"it is no file ({error.strerror})"
    except (LineError, msgspec.MsgspecError, RecursionError) as error:
        return f"it is not an intact state of a projection ({error})"


def _flaw(folder: Folder, view: StoreView, path: str, saved: SavedState) -> str | None:
    if path != state_path(folder, saved.projection, "saved"):
        return f"it is of projection {saved.projection!r}, whose state has another file name"
    if not view.has(saved.position):
        return f"it has events up to position {saved.position}, which the store does not have"
    return None


def drop_damaged_states(folder: Folder) -> Iterator[tuple[str, str]]:
    """Put states aside that are not whole, and yield (path, where it is kept) of each."""
    for path in list(saved_states(folder)):
        if isinstance(_read(folder, path), str):
            yield path, keep_damaged(folder.filesystem, path, remove=True)


def states_for_copy(folder: Folder) -> dict[str, bytes]:
    """Return {file name: content} of the states that are whole. A copy made later has the events in them."""
    return {
        os.path.basename(path): folder.filesystem.read_file(path, MAX_STATE_BYTES)
        for path in saved_states(folder)
        if not isinstance(_read(folder, path), str)
    }


def put_states(copy: Folder, states: dict[str, bytes]) -> None:
    """Put the states into a copy, and delete those of an earlier one."""
    filesystem = copy.filesystem
    for entry in list(filesystem.entries(copy.projections_path)):
        if entry.name not in states and entry.is_file():
            filesystem.remove(entry.path)
    if states:
        filesystem.make_folder(copy.projections_path)
    for name, content in states.items():
        filesystem.replace_file(os.path.join(copy.projections_path, name), content)
