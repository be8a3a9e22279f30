"""The folder of an archive: a store that takes no appends, with the same id, and only sealed segments of the journal.

A segment is copied, then the archive is opened: its recovery writes the streams. So it may stop at any point, and goes
on when it is run again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import zip_longest
from typing import Protocol

import msgspec

from hangarlog.errors import ArchiveError, CorruptionError, StoreFormatError, StoreOpenError
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.folder import Folder, Meta
from hangarlog.filestore.retention_plan import Sealed
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.log.compressed_segment import CompressedSegment
from hangarlog.log.compressing import proved
from hangarlog.log.index_check import index_flaw
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import index_path
from hangarlog.record.checksum import crc32
from hangarlog.record.line import decode_places, decode_record, is_erased
from hangarlog.record.timestamp import now
from hangarlog.system.file_copy import copy_file, copy_open
from hangarlog.system.file_lock import FileLock, held
from hangarlog.system.filesystem import NO_FILE, FileSystem


class OpenArchive(Protocol):
    """What is asked of the open store in an archive's folder."""

    @property
    def last_position(self) -> int:
        """The position of the last event."""

    def get_stream_version(self, stream_id: str) -> int:
        """Return the last version of a stream, -1 without one."""

    @property
    def sync_refused(self) -> bool:
        """True if the device has refused a sync since the machine started."""

    def seal_large(self, streams: Mapping[str, int], *, sync_refused: bool) -> None:
        """Seal the active segments of streams that are full, and make a checkpoint if no sync was refused."""

    def seal_journal(self) -> None:
        """Seal the active segment of the journal, if it has records."""

    def compress(self) -> object:
        """Compress what is sealed."""


Opened = Callable[[str], AbstractContextManager[OpenArchive]]
"""Opens the store in a folder."""


class Proof(msgspec.Struct):
    """What was read of a segment: the size and the checksum of its text, and the last version of each stream in it."""

    size: int = 0
    crc: int = 0
    streams: dict[str, int] = {}

    @classmethod
    def of(cls, segment: Segment, each: Sealed, go_on: Callable[[int], None]) -> Proof:
        """Read a sealed segment and check every line.

        Raises:
            CorruptionError: a line is damaged, or positions are missing.
        """
        proof, lines = cls(), 0
        for text, count in proved(segment, each.first):
            go_on(len(text))
            lines += count
            proof.size, proof.crc = proof.size + len(text), crc32(text, proof.crc)
            proof.streams |= {place.stream_id: place.stream_version for place in decode_places(text.split(b"\n")[:-1])}
        if each.first + lines != each.following:
            raise segment.damage(segment.size, f"it has {lines} events, not {each.following - each.first}")
        return proof


class ArchiveFolder:
    """The archive of one store. Enter it: it is then created if it is missing, and no other process changes it."""

    def __init__(self, source: Folder, path: str, opened: Opened, seconds: float | None) -> None:
        self._source, self._filesystem, self._opened, self._seconds = source, source.filesystem, opened, seconds
        self.folder = Folder(source.filesystem, path)
        self.path = self.folder.path
        self._sync_refused = False  # By the archive's device, since the machine started.

    def check(self, *, create: bool) -> None:
        """Raise `ArchiveError` unless the folder is the store's archive, or with `create` may become it."""
        path, source = self.path, os.path.realpath(self._source.path)
        target, above = os.path.realpath(path), os.path.dirname(path)
        if os.path.commonpath([source, target]) in (source, target):
            raise ArchiveError(path, "neither it nor the store may lie inside the other; name another folder")
        if os.path.lexists(path) and not os.path.isdir(path):
            raise ArchiveError(path, "it is a file, or a link to nothing; name a folder")
        if not os.path.isdir(above):  # It may be a disk that is not mounted, so it is not created.
            raise ArchiveError(path, f"there is no folder {above}; create it, or mount its disk")
        try:
            meta = self.folder.settings()
        except (StoreFormatError, OSError) as error:
            raise ArchiveError(path, f"it is not an archive of this store ({error}); name another folder") from error
        if meta is None and not create:
            raise ArchiveError(path, "it is no archive: it has no hangarlog.json; name the folder of one")
        if meta and meta.store_id != self._source.store_id:
            raise ArchiveError(path, "it is of another store; name another folder")
        if meta and not meta.archive:
            cause = "its hangarlog.json does not say that it is an archive; name another folder"
            advice = 'or, if a repair made that file anew, add "archive": true to it'
            raise ArchiveError(path, f"{cause}, {advice}")

    @contextlib.contextmanager
    def entered(self, settings: Meta, begins: int) -> Iterator[None]:
        """Create the archive if it is missing, with the store's settings; an empty one begins at position `begins`."""
        self.check(create=True)
        settings, folder = msgspec.structs.replace(settings, archive=True), self.folder
        with contextlib.closing(folder):
            try:
                folder.open(1, create=True, settings=settings)
            except StoreOpenError as error:
                raise ArchiveError(self.path, f"it cannot be made an archive ({error}); name another folder") from error
            self.check(create=False)  # Again: another process may have made it.
            with self._locked("retain"):
                if not folder.journal.sealed() and folder.journal.begins() != begins:
                    folder.journal.write_retained(begins)
                yield

    @contextlib.contextmanager
    def opened_folder(self) -> Iterator[None]:
        """Use an archive that is there. Raises `ArchiveError`."""
        self.check(create=False)
        with contextlib.closing(self.folder):
            self.folder.open(1, create=False)
            with self._locked("retain"):
                yield

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        lock = FileLock(self._filesystem, self.folder.lock_path(name))
        with contextlib.closing(lock), held(lock, self._seconds):
            yield

    def opened(self) -> AbstractContextManager[OpenArchive]:
        """Open the archive as a store."""
        return self._opened(self.path)

    # Taking segments

    def refuse_gap(self, first: int) -> None:
        """Raise `ArchiveError` unless the store, which begins with position `first`, goes on where the archive ends."""
        begins, last = self.folder.journal.begins(), self._last()
        if not begins <= first <= last + 1:
            cause = f"it has positions {begins} to {last}, and the store begins with {first}; name another folder"
            raise ArchiveError(self.path, cause)

    def _last(self) -> int:
        journal = self.folder.journal
        if not journal.sealed() and journal.last_record() is None:
            return journal.begins() - 1
        with self.opened() as archive:
            self._sync_refused |= archive.sync_refused
            archive.seal_journal()  # A repair may have left some records there.
            return archive.last_position

    def take(self, each: Sealed, hidden: Callable[[str], int], go_on: Callable[[int], None]) -> dict[str, int]:
        """Have a sealed segment of the store, proved and on the device. Return the last version of each stream in it.

        `hidden` returns the version up to which the store hides a stream.

        Raises:
            ArchiveError: the archive has something else there.
            CorruptionError: the segment is damaged.
            OSError: the operating system refused a call.
        """
        with contextlib.closing(self._source.journal.open_sealed(each.first)) as segment:
            proof = Proof.of(segment, each, go_on)
            if self._last() < each.first:
                self._hide(proof, hidden)
                self._copy(segment, proof, each, go_on)
            else:
                self._compare(segment, proof, each, go_on)
        with self.opened() as archive:  # It makes the streams.
            if archive.last_position < each.following - 1:
                cause = f"it ends at position {archive.last_position}, not {each.following - 1}"
                raise ArchiveError(self.path, f"{cause}; run `hangarlog verify` on it")
            archive.seal_large(proof.streams, sync_refused=self._sync_refused)
            self._sync_refused |= archive.sync_refused
        return proof.streams

    def _hide(self, proof: Proof, hidden: Callable[[str], int]) -> None:
        """Hide in the archive what the store hides and the archive has not had yet."""
        marks = SnapshotFiles(self._filesystem, self.folder.snapshots_path)
        has = self._versions(proof.streams) if self.folder.journal.sealed() else {}
        for stream_id, last in proof.streams.items():
            through = min(hidden(stream_id), last)
            if through > has.get(stream_id, -1):
                with self._write_locked():
                    marks.save(Snapshot(stream_id, saved_at=now().decode(), compacted_through=through))

    def _versions(self, streams: Mapping[str, int]) -> dict[str, int]:
        with self.opened() as archive:
            return {stream_id: archive.get_stream_version(stream_id) for stream_id in streams}

    @contextlib.contextmanager
    def _write_locked(self) -> Iterator[None]:
        with contextlib.closing(self.folder.write_lock()) as lock, held(lock, self._seconds):
            self.folder.refuse_moved()
            yield

    def _copy(self, segment: Segment, proof: Proof, each: Sealed, go_on: Callable[[int], None]) -> None:
        with self._write_locked():
            put_sealed(segment, self.folder, each.first)
            try:
                self._compare(segment, proof, each, go_on)
            except ArchiveError as error:
                self.folder.journal.remove_sealed(each.first)
                cause = f"what was copied reads differently ({error.cause}); the disk or the memory may be faulty"
                raise ArchiveError(self.path, cause) from error
            self._filesystem.remove(self.folder.state_path)  # The next to open it recovers, and writes the streams.

    def _compare(self, segment: Segment, proof: Proof, each: Sealed, go_on: Callable[[int], None]) -> None:
        """Read back what the archive has of a segment. Raises `ArchiveError` if that is something else."""
        journal = self.folder.journal
        advice = "name another folder, or restore it from a backup"
        try:
            with contextlib.closing(journal.open_sealed(each.first)) as copy:
                there = Proof.of(copy, each, go_on)
                same = (there.size, there.crc) == (proof.size, proof.crc) or _same_events(segment, copy)
        except FileNotFoundError as error:
            cause = f"it has position {each.first}, but no segment that begins with it; {advice}"
            raise ArchiveError(self.path, cause) from error
        except CorruptionError as error:
            raise ArchiveError(self.path, f"it is damaged: {error}; run `hangarlog repair` on it") from error
        if not same:
            raise ArchiveError(self.path, f"it has other events than the store from position {each.first} on; {advice}")
        self._filesystem.sync_folder(self.path)


def put_sealed(segment: Segment, folder: Folder, first: int) -> None:
    """Copy a sealed segment into another store's folder, as it is, atomically and durably. Hold its write lock.

    Raises `CorruptionError` if the tables of a compressed one are damaged.
    """
    filesystem, path = folder.filesystem, os.path.join(folder.path, os.path.basename(segment.path))
    if isinstance(segment, CompressedSegment) and not segment.has_tables_for(first):
        damage = segment.damage(segment.size, "its tables are damaged; run `hangarlog compress` on its store")
        damage.mendable = False  # By a repair.
        raise damage
    folder.journal.remove_sealed(first)  # With caches, which may be of another text.
    copy_open(filesystem, segment.fd, segment.file_bytes, path)
    if not index_flaw(segment, first):
        _copy_index(filesystem, segment.base, folder.journal.sealed_base(first))
    try:
        filesystem.sync_folder(folder.path)
    except OSError:
        filesystem.remove(path)  # A later sync would prove nothing of this name.
        raise


def _copy_index(filesystem: FileSystem, base: str, to: str) -> None:
    try:
        copy_file(filesystem, index_path(base), index_path(to))
    except OSError as error:
        if error.errno not in NO_FILE and not isinstance(error, FileNotFoundError):
            raise  # Else it is a cache that is missing.


def _same_events(segment: Segment, copy: Segment) -> bool:
    """True if two segments have the same lines, but for those that the first one has erased."""
    for one, other in zip_longest(lines_of(segment), lines_of(copy)):
        if one != other:
            if one is None or other is None:
                return False
            record, kept = decode_record(one), decode_record(other)
            places = [(each.position, each.stream_id, each.stream_version, each.event_id) for each in (record, kept)]
            if places[0] != places[1] or not is_erased(record):
                return False
    return True


def lines_of(segment: Segment) -> Iterator[bytes]:
    """Yield the lines of a segment, without newlines."""
    for lines in segment.blocks():
        yield from lines
