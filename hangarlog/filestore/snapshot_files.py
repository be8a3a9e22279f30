"""The snapshot files, one for each stream that has a snapshot.

A file has two halves of whole blocks, each with one snapshot or only blanks; the intact one with the higher `number`
counts. A save writes over the other half: one sync of existing blocks, as an append through the commit ring, where a
new file takes three. A power cut leaves the older snapshot whole. What hides events of the stream is the same in both
halves: a change of it, and a snapshot that does not fit, makes a new file. A large snapshot has its file alone.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator
from typing import Any

import msgspec

from hangarlog.errors import CorruptionError, EventSerializationError
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.file_names import stream_id_of, stream_path
from hangarlog.record.checked_json import with_crc, without_crc
from hangarlog.record.envelope import LineError
from hangarlog.system.filesystem import NO_FILE, FileSystem
from hangarlog.system.platform import WINDOWS

MAX_SNAPSHOT_BYTES = 128 << 20  # Larger files cannot have been written, and are not read.

_BLOCK_BYTES = 4 << 10  # So the write of one half cannot tear the other one.
_LARGEST_HALF_BYTES = 1 << 20
_BLANK = b" \n"
_READS = 5  # A writer may write over one half, then the other, while a reader reads both.
_PRIVATE: dict[str, Any] = {} if WINDOWS else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}

_decode = msgspec.json.Decoder(Snapshot).decode


def parse(content: bytes) -> tuple[Snapshot, bytes]:
    """Return (the snapshot that counts in a file's content, its text).

    Raises:
        LineError, msgspec.MsgspecError, RecursionError: none is intact.
    """
    middle = _middle(content)
    found = []
    for half in (content[:middle], content[middle:]) if middle else ():
        with contextlib.suppress(LineError, msgspec.MsgspecError, RecursionError):
            text = without_crc(half.rstrip(_BLANK))
            found.append((_decode(text), text))
    if found:
        return max(found, key=lambda each: each[0].number)
    text = without_crc(content.rstrip(_BLANK))
    return _decode(text), text


def _middle(content: bytes) -> int:
    """Return where the second half of a content begins; 0 if it has no halves."""
    return 0 if not content or len(content) % (2 * _BLOCK_BYTES) else len(content) // 2


class SnapshotFiles:
    """The folder `snapshots/`, with the same layout as `streams/`. Only the holder of the write lock changes it."""

    def __init__(self, filesystem: FileSystem, folder: str) -> None:
        self._filesystem, self._folder = filesystem, folder
        self._synced: dict[str, int] = {}  # {path: number of the snapshot that this process has brought to the device}

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
        """Return the snapshot in a file, whichever stream it belongs to. Raises what `read_whole` raises."""
        return self.read_whole(path)[0]

    def read_whole(self, path: str) -> tuple[Snapshot, bytes, bytes]:
        """Return (the snapshot in a file, its text, all bytes of the file).

        Raises:
            CorruptionError: it is not an intact snapshot.
            FileNotFoundError: there is no file.
        """
        for _ in range(_READS):
            try:
                content = self._filesystem.read_file(path, MAX_SNAPSHOT_BYTES)
                return *parse(content), content
            except FileNotFoundError:
                raise
            except (msgspec.MsgspecError, ValueError, RecursionError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in NO_FILE:
                    raise
                damage = self._damage(path, error)
                if isinstance(error, OSError):
                    break
        raise damage

    def all(self, prefix: str = "") -> Iterator[Snapshot]:
        """Yield the snapshots of the streams whose ids begin with `prefix`. Raises `CorruptionError`."""
        for path in snapshot_paths(self._filesystem, self._folder):
            category, name = os.path.split(os.path.relpath(path, self._folder))
            stream_id = stream_id_of(category, name.removesuffix(".json"))  # None for a shortened name.
            if stream_id is None or stream_id.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):
                    snapshot = self.read(path)
                    if snapshot.stream_id.startswith(prefix) and path == self.path(snapshot.stream_id):
                        yield snapshot

    def save(self, snapshot: Snapshot, before: Snapshot | None = None, *, in_place: bool = True) -> None:
        """Replace the snapshot of a stream, atomically and durably. `before` is the one that its file has, if known.

        A snapshot that says nothing removes the file. With `in_place` False, the file is not written over.

        Raises:
            CorruptionError: its folder is a symbolic link.
            EventSerializationError: it is too large.
        """
        path = self.path(snapshot.stream_id)
        if snapshot.says_nothing:
            self._remove(path)
            return
        snapshot = msgspec.structs.replace(snapshot, number=before.number + 1 if before else 0)
        content = with_crc(snapshot)
        if len(content) > MAX_SNAPSHOT_BYTES:
            raise EventSerializationError("snapshot", f"its {len(content)} bytes are more than {MAX_SNAPSHOT_BYTES}")
        if not (in_place and before and before.hides_as(snapshot) and self._overwrite(path, content, before.number)):
            for folder in (self._folder, os.path.dirname(path)):
                self._filesystem.make_folder(folder)
                if self._filesystem.is_link(folder):
                    cause = "it is a symbolic link; put a folder in its place"
                    raise CorruptionError(folder, os.path.basename(folder), 0, cause, mendable=False)
            half = -(-len(content) * 5 // 4 // _BLOCK_BYTES) * _BLOCK_BYTES  # With room for one that is a bit larger.
            if half <= _LARGEST_HALF_BYTES:
                content = _padded(content, half) + _padded(b"\n", half)
            self._filesystem.replace_file(path, content)
        if len(self._synced) > 8192:
            self._synced.clear()
        self._synced[path] = snapshot.number

    def is_synced(self, snapshot: Snapshot) -> bool:
        """True if this process has brought a stored snapshot to the device. Who wrote it may have died before that."""
        return self._synced.get(self.path(snapshot.stream_id)) == snapshot.number

    def _overwrite(self, path: str, content: bytes, number: int) -> bool:
        """Write over the half of a file that does not hold the snapshot `number`. Returns False if it cannot be."""
        filesystem = self._filesystem
        try:
            whole = filesystem.read_file(path, 2 * _LARGEST_HALF_BYTES)
            fd, synced = filesystem.open_synced(path)
        except OSError:
            return False
        try:
            half = _middle(whole)
            newest = [at for at in (0, half) if _number(whole[at : at + half]) == number]
            if len(content) > half or len(newest) != 1 or filesystem.names(fd) > 1:
                return False  # Another name of the file, as after `cp -al`, keeps what it has.
            if self._synced.get(path) != number:
                filesystem.sync_data(fd)  # Who wrote it may have died before its syncs.
                filesystem.sync_folder(os.path.dirname(path))
            page = memoryview(mmap.mmap(-1, half, **_PRIVATE))  # Aligned, as a write past the page cache needs it.
            page[:] = _padded(content, half)
            filesystem.write_at(fd, page, half - newest[0])
            if not synced:
                filesystem.sync_data(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: the device wants writes of other sizes.
                raise
            return False
        finally:
            filesystem.close(fd)
        return True

    def _remove(self, path: str) -> None:
        self._synced.pop(path, None)
        if self._filesystem.is_there(path):
            self._filesystem.remove(path)
            self._filesystem.sync_folder(os.path.dirname(path))

    def _damage(self, path: str, error: Exception) -> CorruptionError:
        advice = "`hangarlog repair` puts it aside, and hides again what the journal no longer has"
        cause = f"it is not an intact snapshot: {error}; {advice}"
        return CorruptionError(path, os.path.relpath(path, self._folder), 0, cause, mendable=False)


def snapshot_paths(filesystem: FileSystem, folder: str) -> list[str]:
    """Return the paths of all snapshots below `folder`, sorted."""
    found = []
    for entry in filesystem.entries(folder):
        below = filesystem.entries(entry.path) if entry.is_dir() else iter([entry])
        found += [each.path for each in below if each.name.endswith(".json")]
    return sorted(found)


def _padded(text: bytes, size: int) -> bytes:
    return text.removesuffix(b"\n").ljust(size - 1) + b"\n"


def _number(half: bytes) -> int:
    """Return the number of the snapshot in a half, -1 if it has none."""
    with contextlib.suppress(LineError, msgspec.MsgspecError, RecursionError):
        return _decode(without_crc(half.rstrip(_BLANK))).number
    return -1
