"""Compresses sealed segments while others read and write.

The long work needs no lock, because a sealed segment does not change. Only the names are changed under the write lock:
the compressed file gets its own, and once that is on the device, the plain one is deleted. In between there are both,
which read the same; readers take the plain one. So it may stop at any point, and goes on when it is run again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore.rolled_streams import sealed_files
from hangarlog.filestore.write_session import WriteSession
from hangarlog.log.compressed_segment import CompressedSegment
from hangarlog.log.compressing import write_compressed
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import compressed_path, index_path, is_compressed
from hangarlog.system.file_lock import FileLock, held

CompressionProgress = Callable[[int, int], None]
"""Called with the bytes of text that are compressed, and with those that there are to compress."""


class Compressed(msgspec.Struct):
    """What was compressed.

    `segments` with `text_bytes` of text now take `file_bytes`. `damaged` are the paths of those that were left as they
    are, because they are damaged.
    """

    segments: int = 0
    text_bytes: int = 0
    file_bytes: int = 0
    damaged: list[str] = msgspec.field(default_factory=list)


class _StoppedError(Exception):
    pass


class Compression:
    """Compresses the sealed segments of one store. One thread uses it; any may call `stop`."""

    def __init__(self, session: WriteSession) -> None:
        self._session, self._filesystem = session, session.filesystem
        self._stopped = False

    def stop(self) -> None:
        """Stop after the current frame. What is not done stays as it was."""
        self._stopped = True

    def run(
        self,
        sealed_before: float | None = None,
        progress: CompressionProgress = lambda done, total: None,
        seconds: float | None = 0,
    ) -> Compressed:
        """Compress what is sealed, and return what was done. If another one is compressing, wait for it.

        With `sealed_before`, only segments that were last written before that time (seconds since 1970).

        Raises:
            LockTimeoutError: the other one takes too long.
            MissingExtraError: there is no zstd.
            What taking the write lock raises.
        """
        lock = FileLock(self._filesystem, self._session.folder.lock_path("compress"))
        with contextlib.closing(lock), held(lock, seconds):
            return self._run(sealed_before, progress)

    def _run(self, sealed_before: float | None, progress: CompressionProgress) -> Compressed:
        report = Compressed()
        found = [*self._due(sealed_before)]
        done, total = 0, sum(size for _, _, size in found)

        def go_on(size: int) -> None:
            nonlocal done
            done += size
            progress(done, total)
            if self._stopped:
                raise _StoppedError

        with contextlib.suppress(_StoppedError):
            for log, first, _ in found:
                try:
                    self._compress(log, first, go_on, report)
                except FileNotFoundError:
                    continue  # A compaction has removed it, or another process has compressed it.
                except CorruptionError as damage:
                    report.damaged.append(damage.path)
        return report

    def _due(self, sealed_before: float | None) -> Iterator[tuple[Log, int, int]]:
        """Yield (log, first number, size) of the sealed segments that are not compressed, or not yet alone."""
        for log, first, entry in sealed_files(self._session.folder):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                due = sealed_before is None or status.st_mtime < sealed_before
                if due and (not is_compressed(entry.name) or self._lacks_tables(log, first)):
                    yield log, first, status.st_size

    def _lacks_tables(self, log: Log, first: int) -> bool:
        with contextlib.closing(log.open_sealed(first)) as segment:
            return isinstance(segment, CompressedSegment) and not segment.has_tables_for(first)

    def _compress(self, log: Log, first: int, go_on: Callable[[int], None], report: Compressed) -> None:
        with contextlib.closing(log.open_sealed(first)) as segment:
            temporary = write_compressed(segment, first, go_on)
            try:
                if not self._put_beside(log, segment, temporary):
                    return
            finally:
                self._filesystem.remove(temporary)
            self._filesystem.sync_folder(log.folder)  # First: else a power cut could undo the rename, not the removal.
            self._remove_plain(segment)
            report.segments += 1
            report.text_bytes += segment.size
            report.file_bytes += self._filesystem.size_at(compressed_path(segment.base))

    def _put_beside(self, log: Log, segment: Segment, temporary: str) -> bool:
        """Give the compressed file its name. Return False if the segment was replaced meanwhile."""
        with self._session.lock():
            if not segment.is_in_place or self._is_active(log, segment):
                return False
            self._filesystem.rename(temporary, compressed_path(segment.base))
            return True

    def _is_active(self, log: Log, segment: Segment) -> bool:
        """True if a roll that was cut short has left the active segment with two names."""
        return self._filesystem.identity_at(log.active_path) == self._filesystem.identity(segment.fd)

    def _remove_plain(self, segment: Segment) -> None:
        with self._session.lock():
            if isinstance(segment, CompressedSegment) or not segment.is_in_place:
                return  # It was compressed before, without tables; or it was replaced.
            self._filesystem.remove(segment.path)
            self._filesystem.remove(index_path(segment.base))
            self._session.changed_layout()  # So that others close the plain file, and its space is free.
