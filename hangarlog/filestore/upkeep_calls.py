"""The calls of a file store that keep it small, and what it does for that by itself."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from time import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hangarlog.errors import CorruptionError, HangarlogError, StreamDeletedError
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.arguments import seconds_of
from hangarlog.eventstore.record import Event
from hangarlog.filestore.file_owners import JournalNames
from hangarlog.filestore.following_calls import FollowingCalls
from hangarlog.filestore.writer import Writer
from hangarlog.system.import_lock import importing
from hangarlog.system.open_folder import Entry

if TYPE_CHECKING:
    from hangarlog.eventstore.retention_policy import RetentionPolicy, RetentionReport
    from hangarlog.eventstore.snapshot import Snapshot
    from hangarlog.filestore.archive_folder import ArchiveFolder
    from hangarlog.filestore.archiving import ArchiveProgress, Archiving, Before
    from hangarlog.filestore.compression import Compressed, Compression, CompressionProgress
    from hangarlog.filestore.folder import Meta
    from hangarlog.filestore.reader import Reader
    from hangarlog.filestore.retaining import Retention, RetentionProgress
    from hangarlog.filestore.retention_plan import Streams
    from hangarlog.filestore.unarchiving import Unarchiving
    from hangarlog.record.cursor_move import CursorPlace

Work = TypeVar("Work", "Compression", "Retention", "Archiving", "Unarchiving")

_WORTH_SEALING_BYTES = 16 << 10
"""Compressing a smaller segment would free a block of the disk or two, and take another file."""


def seconds_after(compress: str | None) -> float | None:
    """Return the seconds in an option such as "after 1d", None for None. Raises `ValueError`."""
    if compress is None:
        return None
    after, _, age = compress.partition(" ") if isinstance(compress, str) else ("", "", "")
    seconds = seconds_of(age) if after == "after" else None
    if seconds is None:
        raise ValueError(f"compress must be 'after' and a time such as 'after 1d' (s, m, h, d or w), not {compress!r}")
    return seconds


def _is_due(entry: Entry, before: float | None) -> bool:
    with contextlib.suppress(FileNotFoundError):
        status = entry.stat()
        return status.st_size >= _WORTH_SEALING_BYTES and (before is None or status.st_mtime < before)
    return False


class UpkeepCalls(FollowingCalls[Event]):
    """The part of a file store that keeps it small."""

    _compress_after: float | None = None
    _policies: tuple[RetentionPolicy, ...] = ()
    _behind: threading.Thread | None = None
    _tended_layout = -1

    def __init__(self, serializer: EventSerializer | None = None) -> None:
        super().__init__(serializer)
        self._running: set[Compression | Retention] = set()

    if TYPE_CHECKING:
        meta: Meta
        _closed: bool
        _lock_timeout: float | None
        _reader: Reader
        _writer: Writer

        def _calling(self) -> AbstractContextManager[None]: ...

    def compress(
        self,
        *,
        older_than: float = 0,
        seal: bool = False,
        progress: CompressionProgress = lambda done, total: None,
    ) -> Compressed:
        """Compress the sealed segments that were last written at least `older_than` seconds ago; return what was done.

        With `seal`, first seal the active segments of that age that have 16 KiB or more. Streams that get few events
        are never sealed otherwise.

        Other threads and processes read and write meanwhile. You may interrupt it, and run it again.

        Raises:
            MissingExtraError: zstd is not installed.
            LockTimeoutError: another process compresses the store for longer than `lock_timeout`.
            OSError: the operating system refused a call, as on a full disk. What is done stays.
            Otherwise what `append` raises.
        """
        with self._calling():
            before = time() - older_than if older_than else None
            if seal:
                self._seal(before)
            return self._run(before, progress, self._lock_timeout)

    def _seal(self, before: float | None) -> None:
        folder, names = self._write_session.folder, JournalNames(self._write_session.folder.journal)
        due = [(part, name, file.path) for part, name, file in folder.stream_files() if _is_due(file, before)]
        for category, name, path in due:
            if self._closed:
                return
            with contextlib.suppress(CorruptionError, StreamDeletedError):  # The compression will report damage.
                stream_id = folder.stream_id_at(category, name, path, names)
                if stream_id is not None:
                    self._writer.seal(stream_id)
        journal = folder.journal.active_path
        if any(file.path == journal and _is_due(file, before) for file in folder.filesystem.entries(folder.path)):
            self._writer.seal(None)

    def _run(self, before: float | None, *arguments: Any) -> Compressed:
        with importing:
            from hangarlog.filestore.compression import Compression
        with self._stoppable(Compression(self._write_session)) as compression:
            return compression.run(before, *arguments)

    @contextlib.contextmanager
    def _stoppable(self, work: Work) -> Iterator[Work]:
        self._running.add(work)
        try:
            if self._closed:
                work.stop()  # `close` may have looked before it was added.
            yield work
        finally:
            self._running.discard(work)

    def retain(
        self,
        *policies: RetentionPolicy,
        dry_run: bool = False,
        progress: RetentionProgress = lambda done, total: None,
    ) -> RetentionReport:
        """Let go of the events that policies do not keep, and return what went; with `dry_run`, what would go.

        Each policy hides events of streams, as `truncate_stream` does: a snapshot of a lower version goes too. Then the
        journal drops its first segments, as far as every event in them is hidden and every named subscriber, cursor and
        projection has read it. Without policies it drops what deletions, truncations and compactions have hidden.
        Positions and versions go on.

        Other threads and processes read and write meanwhile. You may interrupt it, and run it again.

        Raises:
            LockTimeoutError: another process does the same for longer than `lock_timeout`.
            CorruptionError: the mark of a stream, or the end of one, is damaged.
            OSError: the operating system refused a call. What is done stays.
            Otherwise what `append` raises.
        """
        with self._calling():
            return self._retain(policies, dry_run=dry_run, progress=progress, seconds=self._lock_timeout)

    def _retain(self, policies: tuple[RetentionPolicy, ...], **options: Any) -> RetentionReport:
        with importing:
            from hangarlog.filestore.retaining import Retention
        with self._stoppable(Retention(self._write_session, *self._retaining())) as retention:
            return retention.run(policies, **options)

    def _retaining(self) -> tuple[Streams, Callable[[str, int], int], list[CursorPlace]]:
        """Return what a retention asks of the store."""
        with importing:
            from hangarlog.filestore.retention_plan import Streams

        def snapshot(stream_id: str) -> Snapshot | None:
            found = self._load_snapshot(stream_id)
            return found if found and found.version >= 0 and self._matches(found) else None

        def hide(stream_id: str, through: int) -> int:
            return self._hide_through(stream_id, lambda version: min(through, version))

        return Streams(self.get_stream_version, snapshot), hide, self._cursor_places()[1]

    def archive(
        self,
        target: str | os.PathLike[str],
        *,
        before: Before,
        compress: bool = False,
        past_subscribers: bool = False,
        dry_run: bool = False,
        progress: ArchiveProgress = lambda done, total: None,
    ) -> RetentionReport:
        """Move the journal's first segments to the folder `target`, and return what went.

        Those go that end before a position, before a time (a datetime, or RFC 3339), or at an age such as "90d" or
        more, up to what a named subscriber, cursor or projection has not read yet. The archive is a store itself, which
        takes no appends; a later call adds to it. With `compress`, its segments are compressed. When all is proved and
        on the device there, the events are hidden here and the segments removed, as by `retain`: positions and versions
        go on. With `dry_run`, only say what would go.

        Other threads and processes read and write meanwhile. You may interrupt it, and run it again.

        Raises:
            ArchiveError: the target is no archive of this store, or does not end where this store begins.
            CorruptionError: a segment is damaged. It stays; run `hangarlog repair`.
            LockTimeoutError: another process does the same for longer than `lock_timeout`.
            OSError: the operating system refused a call, as on a full disk. What is done stays.
            Otherwise what `retain` raises.
        """
        options = {"compress": compress, "past_subscribers": past_subscribers, "dry_run": dry_run}
        with importing:
            from hangarlog.filestore.archiving import Archiving
        seconds = self._lock_timeout
        with self._calling(), self._stoppable(Archiving(self._write_session, *self._retaining())) as work:
            folder = self._archive_in(target)
            return work.archive(folder, self.meta, before, **options, progress=progress, seconds=seconds)

    def restore_archive(
        self, target: str | os.PathLike[str], *, progress: ArchiveProgress = lambda done, total: None
    ) -> RetentionReport:
        """Bring what `archive` has moved to the folder `target` back, and return which segments that were.

        The journal begins earlier again, and streams show their archived events, but for those that something else
        hides: a deletion, or a later truncation, compaction or retention. A snapshot that was dropped stays dropped.
        The archive stays as it is. Other threads and processes read and write meanwhile. You may interrupt it, and run
        it again.

        Raises what `archive` raises.
        """
        with importing:
            from hangarlog.filestore.unarchiving import Unarchiving
        with self._calling(), self._stoppable(Unarchiving(self._write_session, *self._retaining())) as work:
            return work.restore(self._archive_in(target), progress=progress, seconds=self._lock_timeout)

    def _archive_in(self, target: str | os.PathLike[str]) -> ArchiveFolder:
        with importing:
            from hangarlog.filestore.archive_folder import ArchiveFolder
        session = self._write_session
        options = {"lock_timeout": self._lock_timeout, "create": False, "filesystem": session.filesystem}
        untyped, seconds = cast("Any", type(self)).untyped, self._lock_timeout
        return ArchiveFolder(session.folder, os.fspath(target), lambda path: untyped(path, **options), seconds)

    @property
    def sync_refused(self) -> bool:
        """True if the device has refused a sync since the machine started."""
        return self._write_session.state.failures > 0

    def seal_large(self, streams: Mapping[str, int], *, sync_refused: bool) -> None:
        """Seal the active segments of streams that are full, and make a checkpoint: for an archive.

        If the device has refused a sync, also before the shared state was made anew, no later sync proves anything, so
        there is no checkpoint.
        """
        session = self._write_session
        with session.lock():
            pass  # Refuses a store that may only be read, as on a full disk: it may lack the streams.
        if sync_refused and not session.state.failures:
            session.state.mark_sync_failed()
        for stream_id in streams:
            path = session.folder.stream(stream_id).active_path
            if session.filesystem.size_at(path) >= session.segment_bytes:
                self._writer.seal(stream_id)
        session.checkpointing.make(self._lock_timeout)

    def seal_journal(self) -> None:
        """Seal the active segment of the journal, if it has records: for an archive."""
        self._writer.seal(None)

    def _begin_upkeep(self, after: float | None, policies: Sequence[RetentionPolicy]) -> None:
        self._compress_after, self._policies = after, tuple(policies)
        if after is not None:
            with importing:
                from hangarlog.log.zstd import zstd
            zstd(self._write_session.path)  # Raise now what the thread could tell nobody.
        if after is not None or policies:
            self._write_session.checkpointing.afterwards = self._tend_behind

    def _tend_behind(self) -> None:
        """Do in a thread what is due, if segments were sealed since it was last done here."""
        session = self._write_session
        if self._closed:
            return
        if session.state.layout != self._tended_layout and not (self._behind and self._behind.is_alive()):
            self._behind = session.filesystem.in_background(self._tend_due, "hangarlog-upkeep")

    def _tend_due(self) -> None:
        with contextlib.suppress(HangarlogError, OSError):  # The next roll tries again.
            if self._policies:
                self._retain(self._policies, dry_run=False)
            if self._compress_after is not None:
                self._run(time() - self._compress_after)
            self._tended_layout = self._write_session.state.layout

    def _stop_upkeep(self) -> None:
        """Let what runs end soon."""
        for work in self._running.copy():
            work.stop()

    def _end_upkeep(self, seconds: float | None) -> None:
        """Wait for what runs in the background."""
        self._stop_upkeep()
        behind = self._behind
        if behind is not None and behind is not threading.current_thread():
            behind.join(seconds)
