"""What a stream no longer shows: the events before a mark in its snapshot file, or all of them if it is deleted.

The mark decides. A deleted stream also has an empty file in `deleted/`, made before the mark, with the path of its
snapshot: so the few deleted streams are found without a look at every snapshot.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache

from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.file_names import stream_path
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.log.log import Log
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, decode_record, decode_records, erased_line, is_erased, is_record


def kept_lines(folder: Folder, stream_id: str, lines: list[tuple[StoredEnvelope, bytes]]) -> list[bytes]:
    """Return what a stream's file has of these lines, the first ones in it and the last of the stream.

    Hidden events are not written again; the last of the stream is, as an erased line. What comes before an event that
    the journal has erased is hidden, too. The lines have no newlines.
    """
    mark = SnapshotFiles(folder.filesystem, folder.snapshots_path).load(stream_id)
    through = max([mark.compacted_through if mark else -1, *(r.stream_version for r, _ in lines if is_erased(r))])
    kept = [line for record, line in lines if record.stream_version > through]
    return kept or [erased_line(record).removesuffix(b"\n") for record, _ in lines[-1:]]


def without_left_over(sealed: list[int], through: int) -> list[int]:
    """Return a stream's sealed segments without those that a compaction up to version `through`, cut short, has left.

    It has written the segment that begins after that version, and not yet removed those before it.
    """
    return [first for first in sealed if first > through] if through + 1 in sealed else sealed


class HiddenEvents:
    """The events that no read of a stream shows, by the marks of their streams; `more` may hide further ones."""

    def __init__(self, folder: Folder, more: Mapping[str, int] | None = None) -> None:
        self._snapshots, self._more = SnapshotFiles(folder.filesystem, folder.snapshots_path), more or {}
        self.through = lru_cache(1 << 16)(self._through)

    def _through(self, stream_id: str) -> int:
        """Return the last version of a stream that is hidden, -1 if none is. Raises `CorruptionError`."""
        mark = self._snapshots.load(stream_id)
        return max(mark.compacted_through if mark else -1, self._more.get(stream_id, -1))

    def first_shown(self, log: Log, first: int) -> str:
        """Say which event of the sealed segment that begins with `first` is not hidden, or damaged; "" if none is."""
        with contextlib.closing(log.open_sealed(first)) as segment:
            for lines in segment.blocks():
                try:
                    records = decode_records(lines)
                except LineError:
                    records = [decode_record(line) for line in lines if is_record(line)]
                    if any(not is_record(line) and b'"lost":' not in line for line in lines):
                        return f"a line of {segment.path} is damaged"
                for record in records:
                    if record.stream_version > self.through(record.stream_id) and not is_erased(record):
                        return f"stream {record.stream_id!r} shows the event at position {record.position}"
            if segment.end_offset() != segment.size:
                return f"{segment.path} ends within a line"
        return ""


class DeletedStreams:
    """The streams of a store that are deleted, and the marks that say so."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._filesystem = folder, folder.filesystem
        self._snapshots = SnapshotFiles(folder.filesystem, folder.snapshots_path)

    def path(self, stream_id: str) -> str:
        """Return the path of a deleted stream's empty file."""
        return os.path.join(self._folder.deleted_path, *stream_path(stream_id))

    @property
    def any(self) -> bool:
        """True if a stream was ever deleted."""
        return self._filesystem.is_there(self._folder.deleted_path)

    def knows(self, stream_id: str) -> bool:
        """True if a stream has its empty file."""
        return self._filesystem.is_there(self.path(stream_id))

    def note(self, stream_id: str) -> None:
        """Make a stream's empty file, durably, before its mark."""
        path = self.path(stream_id)
        for folder in (self._folder.deleted_path, os.path.dirname(path)):
            self._filesystem.make_folder(folder)
        made = not self.knows(stream_id)
        with contextlib.suppress(FileExistsError):
            self._filesystem.close(self._filesystem.open_new(path))
        try:
            self._filesystem.sync_folder(os.path.dirname(path))
        except OSError:
            if made:
                self._filesystem.remove(path)  # A later sync would prove nothing of this file.
            raise

    def mark_of(self, stream_id: str) -> Snapshot | None:
        """Return the mark of a stream that was deleted, None if it never was. Raises `CorruptionError`."""
        mark = self._snapshots.load(stream_id) if self.knows(stream_id) else None
        return mark if mark and mark.deleted_through >= 0 else None

    def marks(self) -> Iterator[Snapshot]:
        """Yield the marks of the streams that were deleted, also if they began anew. Raises `CorruptionError`."""
        top = self._folder.deleted_path
        for entry in self._filesystem.entries(top):
            for each in self._filesystem.entries(entry.path) if entry.is_dir() else iter([entry]):
                below = os.path.relpath(each.path, top)
                with contextlib.suppress(FileNotFoundError):
                    mark = self._snapshots.read(os.path.join(self._folder.snapshots_path, f"{below}.json"))
                    if mark.deleted_through >= 0:
                        yield mark
