"""The snapshot files, one for each stream that has a snapshot."""

from __future__ import annotations

import os

import msgspec

from hangarlog.errors import CorruptionError, EventSerializationError
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.file_names import stream_path
from hangarlog.record.checked_json import with_crc, without_crc
from hangarlog.system.filesystem import NO_FILE, FileSystem

MAX_SNAPSHOT_BYTES = 128 << 20  # Larger files cannot have been written, and are not read.


_decode = msgspec.json.Decoder(Snapshot).decode


class SnapshotFiles:
    """The folder `snapshots/`, with the same layout as `streams/`."""

    def __init__(self, filesystem: FileSystem, folder: str) -> None:
        self._filesystem, self._folder = filesystem, folder

    def path(self, stream_id: str) -> str:
        """Return the path of a stream's snapshot."""
        folder, name = stream_path(stream_id)
        return os.path.join(self._folder, folder, f"{name}.json")

    def load(self, stream_id: str) -> Snapshot | None:
        """Return the snapshot of a stream, or None.

        Raises:
            CorruptionError: the file is not a snapshot of this stream.
        """
        path = self.path(stream_id)
        try:
            snapshot = self.read(path)
        except FileNotFoundError:
            return None
        if snapshot.stream_id != stream_id:
            raise self._damage(path, ValueError(f"it belongs to stream {snapshot.stream_id!r}"))
        return snapshot

    def read(self, path: str) -> Snapshot:
        """Return the snapshot in a file, whichever stream it belongs to.

        Raises:
            CorruptionError: it is not an intact snapshot.
            FileNotFoundError: there is no file.
        """
        try:
            return _decode(without_crc(self._filesystem.read_file(path, MAX_SNAPSHOT_BYTES)))
        except FileNotFoundError:
            raise
        except (msgspec.MsgspecError, ValueError, RecursionError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_FILE:
                raise
            raise self._damage(path, error) from error

    def save(self, snapshot: Snapshot) -> None:
        """Replace the snapshot of a stream, atomically and durably.

        Raises:
            CorruptionError: its folder is a symbolic link.
            EventSerializationError: it is too large.
        """
        path, content = self.path(snapshot.stream_id), with_crc(snapshot)
        if len(content) > MAX_SNAPSHOT_BYTES:
            raise EventSerializationError("snapshot", f"its {len(content)} bytes are more than {MAX_SNAPSHOT_BYTES}")
        for folder in (self._folder, os.path.dirname(path)):
            self._filesystem.make_folder(folder)
            if self._filesystem.is_link(folder):
                cause = "it is a symbolic link; put a folder in its place"
                raise CorruptionError(folder, os.path.basename(folder), 0, cause, mendable=False)
        self._filesystem.replace_file(path, content)

    def _damage(self, path: str, error: Exception) -> CorruptionError:
        cause = f"it is not an intact snapshot: {error}; delete it, a snapshot can be made again"
        return CorruptionError(path, os.path.relpath(path, self._folder), 0, cause, mendable=False)
