"""The checkpoint: the position up to which every stream is known to be on the device, so that recovery starts there."""

from __future__ import annotations

import contextlib
import time

import msgspec

from hangarlog.filesystem import FileSystem
from hangarlog.folder import Folder
from hangarlog.lock import FileLock
from hangarlog.record import seal, unseal
from hangarlog.state import SharedState


class Checkpoint(msgspec.Struct, frozen=True):
    """What `checkpoint.json` holds."""

    position: int = 0
    began_at: float = 0.0  # Seconds since 1970; what was written to a stream since may not be on the device.


def load_checkpoint(folder: Folder) -> Checkpoint:
    """The last checkpoint; one at 0 if there is none that can be read."""
    try:
        return msgspec.json.decode(unseal(folder.filesystem.read_file(folder.checkpoint_path)), type=Checkpoint)
    except (OSError, msgspec.MsgspecError, ValueError):
        return Checkpoint()


def make_checkpoint(filesystem: FileSystem, folder: Folder, position: int, state: SharedState) -> None:
    """Bring every stream to the device, then say so, unless another process is at it or the device refuses.

    All records up to `position` must be in their streams, and their journal segments sealed. Without a checkpoint a
    recovery has more to read; that is no reason to fail anything.
    """
    lock = FileLock(filesystem, folder.lock_path("checkpoint"))
    with contextlib.suppress(OSError), contextlib.closing(lock):
        try:
            if lock.acquire(0):
                _save(filesystem, folder, position, state)
        finally:
            lock.release()


def _save(filesystem: FileSystem, folder: Folder, position: int, state: SharedState) -> None:
    began_at = time.time()
    try:
        filesystem.sync_everything(folder.path, (file.path for _, _, file in folder.stream_files()))
    except OSError:
        state.mark_sync_failed()
        raise
    if not state.failures:
        filesystem.replace_file(folder.checkpoint_path, seal(Checkpoint(position, began_at)))
