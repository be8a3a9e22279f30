"""Erases from the journal what streams no longer show, while others read and write.

The streams' marks decide; the journal follows. A sealed segment in which enough is hidden is written anew beside the
old one, with an erased line for each hidden event, so positions stay dense. Only the names are changed under the write
lock. So it may stop at any point, and goes on when it is run again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.eventstore.retention_policy import ErasedSegment
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.checkpoint import load_checkpoint
from hangarlog.filestore.snapshot_files import SnapshotFiles, snapshot_paths
from hangarlog.filestore.write_session import WriteSession
from hangarlog.log.compressed_segment import CompressedSegment
from hangarlog.log.compressing import proved, write_compressed
from hangarlog.log.rewriting import Change, forget_changed, write_changed
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import (
    COMPRESSED,
    ERASED,
    compressed_path,
    erased_path,
    index_path,
    text_path,
    times_path,
)
from hangarlog.record.envelope import Place
from hangarlog.record.line import ERASED_MARK, decode_places, decode_record, erased_in_journal, erased_journal_record
from hangarlog.system.file_lock import FileLock, held
from hangarlog.system.filesystem import FRESH

ErasingProgress = Callable[[int, int], None]
"""Called with the bytes of text that are looked at, and with those that there are to look at."""

LEAST_HIDDEN = 0.25
"""A segment is written anew once this share of its bytes is hidden, or it has an event of a deleted stream."""


class Erased(msgspec.Struct):
    """What was erased. `damaged` are the paths of segments that were left as they are, because they are damaged."""

    segments: list[ErasedSegment] = msgspec.field(default_factory=list)
    damaged: list[str] = msgspec.field(default_factory=list)


class _Hidden(msgspec.Struct):
    """What is hidden in a segment and not erased yet: events, their bytes of text, whether a deleted stream has any."""

    events: int = 0
    size: int = 0
    deleted: bool = False


class _StoppedError(Exception):
    pass


class Erasing:
    """Erases hidden events from the sealed journal segments of one store. One thread uses it; any may call `stop`."""

    def __init__(self, session: WriteSession) -> None:
        self._session, self._filesystem, self._folder = session, session.filesystem, session.folder
        self._hidden: dict[str, Snapshot] = {}
        self._session_number = 0
        self._stopped = False

    def stop(self) -> None:
        """Stop after the current part. What is not done stays as it was."""
        self._stopped = True

    def run(
        self,
        progress: ErasingProgress = lambda done, total: None,
        seconds: float | None = 0,
        *,
        least: float = LEAST_HIDDEN,
        dry_run: bool = False,
        between: tuple[int, int] = (1, sys.maxsize),
        planned: Mapping[str, int] | None = None,
    ) -> Erased:
        """Erase what is hidden, and return what was done. If another one is erasing or compressing, wait for it.

        Segments of which a share below `least` is hidden stay as they are, unless they have events of deleted streams.
        Nor is anything erased outside of the positions `between` a first one and the one after the last. With
        `dry_run`, nothing is changed: the result says what would be, if the `planned` versions of streams were hidden.

        Raises:
            LockTimeoutError: the other one takes too long.
            What taking the write lock raises.
        """
        report = Erased()
        with self.alone(seconds):
            if not dry_run:
                self._remove_leftovers()
            self._read_marks()
            for stream_id, through in (planned or {}).items():
                mark = self._hidden.get(stream_id) or Snapshot(stream_id)
                hides = max(through, mark.compacted_through)
                self._hidden[stream_id] = msgspec.structs.replace(mark, compacted_through=hides)
            with contextlib.suppress(_StoppedError):
                self._run(report, progress, least, between, dry_run=dry_run)
            if self._hidden and not dry_run:
                self._give_up_ring()
        return report

    @contextlib.contextmanager
    def alone(self, seconds: float | None) -> Iterator[None]:
        """Keep others from erasing and compressing meanwhile. `stop` ends the block. Raises `LockTimeoutError`."""
        with self._session.lock():
            pass  # Refuses a store that may only be read, and finishes a roll that was cut short.
        lock = FileLock(self._filesystem, self._folder.lock_path("compress"))
        with contextlib.closing(lock), held(lock, seconds), contextlib.suppress(_StoppedError):
            with self._session.lock():
                self._session_number = self._session.state.session
            yield

    def _remove_leftovers(self) -> None:
        """Delete what a killed erasing, or compression of the journal, was writing."""
        for entry in self._filesystem.entries(self._folder.path):
            if entry.name.endswith((ERASED, COMPRESSED + FRESH)):
                self._filesystem.remove(entry.path)

    def _read_marks(self) -> None:
        """Read what is hidden. Those who hide something have it on the device before they leave the write lock."""
        folder = self._folder
        files = SnapshotFiles(self._filesystem, folder.snapshots_path)
        for path in snapshot_paths(self._filesystem, folder.snapshots_path):
            with contextlib.suppress(CorruptionError, FileNotFoundError):
                mark = files.read(path)
                if mark.compacted_through >= 0 and path == files.path(mark.stream_id):
                    self._hidden[mark.stream_id] = mark.without_state()

    def _run(
        self, report: Erased, progress: ErasingProgress, least: float, between: tuple[int, int], *, dry_run: bool
    ) -> None:
        due = [each for each in self._due() if between[0] <= each[0] and each[1] <= between[1]]
        done, total = 0, sum(self._size_of(first) for first, _ in due)

        def go_on(size: int) -> None:
            nonlocal done
            done += size
            progress(min(done, total), total)
            if self._stopped:
                raise _StoppedError

        for first, following in due:
            try:
                with contextlib.closing(self._folder.journal.open_sealed(first)) as segment:
                    self._look_at(segment, first, following, go_on, report, least, dry_run)
            except FileNotFoundError:
                continue  # A repair has removed it.
            except CorruptionError as damage:
                report.damaged.append(damage.path)

    def _due(self) -> list[tuple[int, int]]:
        """Return (first position, that of the next segment) of each segment that a checkpoint has settled.

        A recovery may begin at the checkpoint, and the ring and retries look at the last record.
        """
        if not self._hidden:
            return []
        firsts = self._folder.journal.sealed()
        checkpoint = load_checkpoint(self._folder).first
        if firsts and checkpoint <= firsts[-1]:
            being_made = FileLock(self._filesystem, self._folder.lock_path("checkpoint"))
            with contextlib.closing(being_made), held(being_made, self._session.lock_seconds):
                pass
            self._session.checkpointing.make()
            checkpoint = load_checkpoint(self._folder).first
        due = [*pairwise(firsts), *((first, checkpoint) for first in firsts[-1:])]
        return [(first, following) for first, following in due if first < following <= checkpoint]

    def _size_of(self, first: int) -> int:
        path = self._folder.journal.sealed_path(first)
        with contextlib.suppress(FileNotFoundError):
            return self._filesystem.size_at(path) if path else 0
        return 0

    def _look_at(
        self,
        segment: Segment,
        first: int,
        following: int,
        go_on: Callable[[int], None],
        report: Erased,
        least: float,
        dry_run: bool,
    ) -> None:
        hidden, lines = _Hidden(), 0
        for text, count in proved(segment, first):
            self._count(text, hidden)
            lines += count
            go_on(segment.file_bytes * len(text) // max(1, segment.size))
        if first + lines != following:
            raise segment.damage(segment.size, f"it ends at position {first + lines - 1}, before {following}")
        twin = not isinstance(segment, CompressedSegment) and compressed_path(segment.base)
        stale = bool(twin and self._filesystem.is_there(twin))  # It may have what was erased here.
        if not hidden.deleted and (not hidden.events or hidden.size < least * segment.size):
            if stale and not dry_run:
                self._remove_twin(segment)
            return
        freed = hidden.size * segment.file_bytes // segment.size
        if not dry_run:
            before = segment.file_bytes
            if not self.rewrite(segment, first, lambda marks: lambda text: self._erased(text, marks)):
                return
            freed = before - self._size_of(first)
        report.segments.append(ErasedSegment(os.path.basename(segment.path), first, hidden.events, freed))

    def _count(self, text: bytes, hidden: _Hidden) -> None:
        marks = self._hidden
        lines = text.split(b"\n")[:-1]
        for place, line in zip(decode_places(lines), lines, strict=True):
            if place.stream_id in marks and self._hides(place, line):
                hidden.events += 1
                hidden.size += len(line) + 1
                hidden.deleted |= place.stream_version <= marks[place.stream_id].deleted_through

    def _erased(self, text: bytes, marks: int) -> bytes:
        """Return some lines with those erased that are hidden."""
        found = text.split(b"\n")[:-1]
        lines = (
            erased_in_journal(decode_record(line), marks)[:-1] if self._hides(place, line) else line
            for line, place in zip(found, decode_places(found), strict=True)
        )
        return b"\n".join([*lines, b""])

    def _hides(self, place: Place, line: bytes) -> bool:
        """True if the event of a line is hidden, and not erased yet."""
        mark = self._hidden.get(place.stream_id)
        return mark is not None and place.stream_version <= mark.compacted_through and not _is_erased(line)

    # Writing

    def rewrite(self, segment: Segment, first: int, change: Callable[[int], Change]) -> bool:
        """Write a segment anew, and put it in place. Return False if the segment was replaced meanwhile.

        `change` is given the number of marks of an erased line: with another one, the text has another size.
        """
        filesystem = self._filesystem
        try:
            path = write_changed(segment, first, change(1), self._may_go_on)
            if filesystem.size_at(path) == segment.size:  # A backup tells files by their sizes.
                path = write_changed(segment, first, change(2), self._may_go_on)
            if isinstance(segment, CompressedSegment):
                return self._replace_compressed(segment, first, path)
            return self._replace_plain(segment, path)
        finally:
            forget_changed(segment)

    def _may_go_on(self, size: int) -> None:
        if self._stopped:
            raise _StoppedError

    def _replace_plain(self, segment: Segment, path: str) -> bool:
        filesystem, folder, base = self._filesystem, self._folder.path, segment.base
        for cache in (index_path(base), times_path(base)):
            filesystem.remove(cache)
        filesystem.sync_folder(folder)  # First: a power cut must not leave them beside the new text.
        with self._session.lock():
            if not self._may_replace(segment):
                return False
            filesystem.remove(compressed_path(base))  # A compression was cut short: the plain file is whole.
            filesystem.rename(path, segment.path)
            identity = filesystem.identity_at(segment.path)
            self._session.changed_layout()
        filesystem.sync_folder(folder)
        with self._session.lock():
            index = erased_path(index_path(base))
            if filesystem.is_there(index) and filesystem.identity_at(segment.path) == identity:
                filesystem.rename(index, index_path(base))
        return True

    def _replace_compressed(self, segment: Segment, first: int, path: str) -> bool:
        filesystem = self._filesystem
        plain = Segment(filesystem, segment.base, segment.field, filesystem.open_read(path))
        with contextlib.closing(plain):
            packed = write_compressed(plain, first, self._may_go_on)
        try:
            filesystem.remove(times_path(segment.base))
            with self._session.lock():
                if not self._may_replace(segment) or filesystem.is_there(text_path(segment.base)):
                    return False
                filesystem.rename(packed, segment.path)
                self._session.changed_layout()
        finally:
            filesystem.remove(packed)
        filesystem.sync_folder(self._folder.path)
        return True

    def _may_replace(self, segment: Segment) -> bool:
        """True if a segment is in place, and the marks count: a repair, which may change both, ends the session."""
        return segment.is_in_place and self._session.state.session == self._session_number

    def _remove_twin(self, segment: Segment) -> None:
        """Delete the compressed file beside a plain segment that is proved to be whole."""
        with self._session.lock():
            if self._may_replace(segment):
                self._filesystem.remove(compressed_path(segment.base))
        self._filesystem.sync_folder(self._folder.path)

    # The ring

    def _give_up_ring(self) -> None:
        """Delete the commit ring, which may hold the text of hidden events. The next syncs make another one."""
        state, filesystem, path = self._session.state, self._filesystem, self._folder.ring_path
        lock = FileLock(filesystem, self._folder.lock_path("sync"), state.sync_futex)
        with self._session.lock(), contextlib.closing(lock), held(lock, self._session.lock_seconds):
            if not filesystem.is_there(path) or not filesystem.read_file(path, 1 << 30).strip(b"\0"):
                return
            self._session.sync_journal()  # First: something may be durable only in the ring.
            state.ring_file = 0
            state.keep()
            filesystem.remove(path)
            filesystem.sync_folder(self._folder.path)


def _is_erased(line: bytes) -> bool:
    return ERASED_MARK in line and erased_journal_record(line) is not None
