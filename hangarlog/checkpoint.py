"""The checkpoint: the position up to which every stream is known to be on the device, so that recovery starts there."""

from __future__ import annotations

import os

import msgspec

from hangarlog.filesystem import FileSystem
from hangarlog.folder import Folder


class Checkpoint(msgspec.Struct, frozen=True):
    """What `checkpoint.json` holds."""

    position: int = 0


def load_checkpoint(folder: Folder) -> tuple[Checkpoint, float]:
    """The last checkpoint and when it was made (seconds since 1970); one at 0 if there is none that can be read."""
    path = folder.checkpoint_path
    try:
        return msgspec.json.decode(folder.filesystem.read_file(path), type=Checkpoint), os.stat(path).st_mtime
    except (OSError, msgspec.MsgspecError):
        return Checkpoint(), 0.0


def save_checkpoint(filesystem: FileSystem, folder: Folder, position: int) -> None:
    """Bring every stream to the device, then say so. All records up to `position` must be in their streams."""
    filesystem.sync_everything(folder.path, (file.path for _, _, file in folder.stream_files()))
    filesystem.replace_file(folder.checkpoint_path, msgspec.json.encode(Checkpoint(position)) + b"\n")
