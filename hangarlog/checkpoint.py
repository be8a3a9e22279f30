"""The checkpoint: the position up to which every stream is known to be on the device, so that recovery starts there."""

from __future__ import annotations

import time

import msgspec

from hangarlog.filesystem import FileSystem
from hangarlog.folder import Folder
from hangarlog.record import seal, unseal


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


def save_checkpoint(filesystem: FileSystem, folder: Folder, position: int) -> None:
    """Bring every stream to the device, then say so. All records up to `position` must be in their streams."""
    began_at = time.time()
    filesystem.sync_everything(folder.path, (file.path for _, _, file in folder.stream_files()))
    filesystem.replace_file(folder.checkpoint_path, seal(Checkpoint(position, began_at)))
