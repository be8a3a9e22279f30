"""Backups: a consistent copy of a store up to one committed position, made while other processes write.

The copy takes no lock of the source, so writers do not wait. It needs none, because sealed segments do not change and
active segments only grow.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import msgspec

from hangarlog.errors import BackupError, CorruptionError, StoreOpenError
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.file_names import stream_path
from hangarlog.filestore.folder import Folder, Meta
from hangarlog.filestore.hidden_events import DeletedStreams
from hangarlog.filestore.journal import Journal
from hangarlog.filestore.line_scan import REBUILT, log_files, stream_files
from hangarlog.filestore.recovery.stream_repair import (
    Mending,
    forget_indexes,
    is_ahead,
    is_stream_name,
    load_snapshot,
)
from hangarlog.filestore.snapshot_files import snapshot_paths
from hangarlog.filestore.store import FileEventStore
from hangarlog.filestore.stream_ends import lines_of_stream
from hangarlog.log.compressed_segment import CompressedSegment
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import COMPRESSED, INDEX, TEXT, index_beside, index_path, text_path
from hangarlog.maintenance.cursor_check import cursors_for_copy, put_cursors, with_new_cursors
from hangarlog.maintenance.listing import Listing
from hangarlog.maintenance.projection_check import put_states, states_for_copy
from hangarlog.maintenance.verify import verify
from hangarlog.record.checked_json import with_crc
from hangarlog.record.line import StoredEnvelope, decode_record, is_erased, is_record
from hangarlog.system.file_copy import copy_open
from hangarlog.system.file_lock import held
from hangarlog.system.filesystem import FRESH, NO_FILE, FileSystem
from hangarlog.system.read_only import for_reading

BackupProgress = Callable[[str, int, int], None]
"""Called with (step, done, total). Step "copying" counts bytes, step "verifying" counts records."""

_MARKER_NAME = "backup.json"
"""File in the target while a backup is being made. It names the source store."""

_END_BYTES = 64 << 10  # Bytes at each end that are compared to tell whether two files are the same.
_MAX_ATTEMPTS = 100  # Per log: a roll or a compaction can make a copy of it start over.


class BackedUp(msgspec.Struct):
    """What a backup did.

    The copy holds every event up to `position`. `copied` files with `bytes_copied` bytes were copied, and `kept` files
    were there already.
    """

    position: int = 0
    copied: int = 0
    bytes_copied: int = 0
    kept: int = 0


def backup(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    progress: BackupProgress = lambda step, done, total: None,
    *,
    lock_timeout: float | None = 60.0,
    filesystem: FileSystem | None = None,
) -> BackedUp:
    """Copy the store at `path` as it is now to the folder `target`, and verify the copy.

    The copy is a store that opens as it is. Files that an earlier backup in `target` already has are not copied again.
    You can interrupt a backup at any point and run it again. The earlier backup stays unchanged until all new files are
    there.

    Raises:
        BackupError: the target is not a backup, belongs to another store, or has events that the store does not have;
            or the copy is not whole.
        StoreOpenError: there is no store at `path`.
        CorruptionError: the store is damaged.
        LockTimeoutError: another process held a lock of the store or the target for `lock_timeout` seconds (None waits
            without limit).
        OSError: the operating system refused a call.
    """
    source_filesystem, filesystem = filesystem or for_reading(os.fspath(path)), filesystem or FileSystem()
    serializer = EventSerializer(unknown="untyped")
    with contextlib.closing(Folder(filesystem, os.fspath(target))) as copy:
        with (
            FileEventStore(
                path, serializer=serializer, create=False, lock_timeout=lock_timeout, filesystem=source_filesystem
            ) as store,
            _entered(filesystem, store.folder),
        ):
            _check_target(store, copy)
            filesystem.make_folder(copy.path)
            copy.enter()
            with contextlib.closing(copy.write_lock()) as lock, held(lock, lock_timeout):
                _check_target(store, copy)  # Again: from here on no other process can create a store in it.
                _check_nothing_appended(store, copy)
                work = _Backup(store, copy, progress)
                work.stage()
                work.place()
        for fix in (work.rewrite_streams, work.copy_again):
            if not _verify_copy(copy, work.report.position, progress):
                return work.report
            with contextlib.closing(copy.write_lock()) as lock, held(lock, lock_timeout):
                fix()
        damages = _verify_copy(copy, work.report.position, progress)
        if damages:
            cause = f"the copy is not whole: {damages[0]}; verify the store, then run it again"
            raise BackupError(copy.path, cause)
        return work.report


@contextlib.contextmanager
def _entered(filesystem: FileSystem, source: Folder) -> Iterator[None]:
    """Make `filesystem`, which writes the copy, refuse links below the source too."""
    filesystem.enter(source.path, source.fd)
    try:
        yield
    finally:
        filesystem.leave(source.fd)


def _check_target(store: FileEventStore, copy: Folder) -> None:
    """Raise `BackupError` unless the target lies outside of the store and is empty or a backup of it."""
    source, target = os.path.realpath(store.path), os.path.realpath(copy.path)
    if os.path.commonpath([source, target]) in (source, target):
        raise BackupError(copy.path, "neither the target nor the store may lie inside the other; name another folder")
    if os.path.lexists(copy.path) and not os.path.isdir(copy.path):
        raise BackupError(copy.path, "it is a file; name a folder")
    above = os.path.dirname(os.path.abspath(copy.path))
    if not os.path.isdir(above):  # It may be a disk that is not mounted, so the backup does not create it.
        raise BackupError(copy.path, f"there is no folder {above}; create it, or mount its disk")
    try:
        entries = {entry.name for entry in copy.filesystem.entries(copy.path)}
        begun = {"locks", _MARKER_NAME + FRESH}  # What the first steps of a backup leave.
        if entries <= begun or _owner(copy) == store.meta.store_id:
            return
    except (StoreOpenError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BackupError(copy.path, f"it is not empty and not a backup of this store ({error})") from error
    raise BackupError(copy.path, "it is another store, or a backup of another store; name another folder")


def _owner(copy: Folder) -> str:
    """Return the id of the store that the target is a backup of, finished or not."""
    marker = os.path.join(copy.path, _MARKER_NAME)
    if copy.filesystem.is_there(marker):
        return msgspec.json.decode(copy.filesystem.read_file(marker), type=Meta).store_id
    return copy.open(1, create=False).store_id


def _check_nothing_appended(store: FileEventStore, copy: Folder) -> None:
    """Raise `BackupError` if the backup has appends of its own, which a new backup would delete."""
    marker = os.path.join(copy.path, _MARKER_NAME)
    if copy.filesystem.is_there(marker) or not copy.filesystem.is_there(copy.meta_path):
        return  # The last backup was interrupted, so everything in the target comes from the store.
    try:
        last = copy.journal.last_record()
    except CorruptionError:
        return
    if last is not None:
        dropped = last.position < store.folder.journal.begins()
        for block in () if dropped else store.folder.journal.backward(last.position):
            record = block[0]
            if record.crc == last.crc or (is_erased(record) and record.event_id == last.event_id):
                return
            break
        if dropped:
            cause = f"the store has dropped all of its events, up to position {last.position}"
            raise BackupError(copy.path, f"{cause}, so nothing tells that it is of this store; name another folder")
        cause = f"its event at position {last.position} is not in the store: somebody has appended to the backup"
        raise BackupError(copy.path, f"{cause}; name another folder")


class _Backup:
    """One run of a backup: copy every file under a temporary name, then rename all of them into place."""

    def __init__(self, store: FileEventStore, copy: Folder, progress: BackupProgress) -> None:
        self._source, self._copy, self._progress = store.folder, copy, progress
        self._filesystem, self._meta = copy.filesystem, store.meta
        # Read first, so that no cursor and no state is beyond the events of the copy.
        cursors = cursors_for_copy(store.folder, store.last_position)
        self._states = states_for_copy(store.folder)
        self.report = BackedUp(store.last_position)
        self._cursors = with_new_cursors(store.folder, cursors, self.report.position)
        self._begins = 1  # The first position of the source's journal.
        self._keeps_files = True  # Whether a file in the target with the right size and ends is kept.
        self._wanted: dict[str, None] = {}  # The paths that the target must have, in order.
        self._last_versions: dict[tuple[str, str], int] = {}  # By category folder and name of the stream.
        self._done = self._total = 0  # Bytes.

    # Copying

    def stage(self) -> None:
        """Copy the files that the target does not have yet. Begin anew if a retention drops events meanwhile."""
        for _ in range(_MAX_ATTEMPTS):
            self._begins = self._source.journal.begins()
            self._stage_files()
            if self._source.journal.begins() == self._begins:
                return
        raise BackupError(self._copy.path, "the store drops events all the time; run the backup again")

    def _stage_files(self) -> None:
        filesystem, source, copy = self._filesystem, self._source, self._copy
        self._wanted, self._done, self._total = {}, 0, sum(_sizes(filesystem, source.path))
        filesystem.replace_file(os.path.join(copy.path, _MARKER_NAME), msgspec.json.encode(self._meta) + b"\n")
        filesystem.make_folder(copy.streams_path)
        for category in ["", *_folders(filesystem, source.streams_path)]:
            self._stage_category(category)
        for path in snapshot_paths(filesystem, source.snapshots_path):
            self._stage_snapshot(path)
        self._stage_log(source.journal, copy.path, Listing(filesystem, source.path))

    def _stage_category(self, category: str) -> None:
        source, target = self._source.category_path(category), self._copy.category_path(category)
        listing = Listing(self._filesystem, source)
        self._filesystem.make_folder(target)
        for name in sorted(listing.names):
            if is_stream_name(category, name):
                log = Log(self._filesystem, source, name, "stream_version")
                last = self._stage_log(log, target, listing)
                if last:
                    self._last_versions[category, name] = last.stream_version

    def _stage_log(self, log: Log, target: str, listing: Listing) -> StoredEnvelope | None:
        """Stage a log up to the backup's position, and return its last record there."""
        for _ in range(_MAX_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):
                return self._try_log(log, target, listing)
            listing.refresh()  # The log was rolled or compacted.
            if log.name not in listing.names:
                return None  # The stream was new, and its first append failed.
        raise BackupError(self._copy.path, f"{log.active_path} changes too often; run the backup again")

    def _try_log(self, log: Log, target: str, listing: Listing) -> StoredEnvelope | None:
        """Stage a log once. Raises `FileNotFoundError` if a segment goes away meanwhile."""
        position, base = self.report.position, os.path.join(target, log.name)
        with contextlib.ExitStack() as stack:
            active = stack.enter_context(contextlib.closing(Segment(log.filesystem, log.base, log.field)))
            sealed = listing.sealed(log, active)
            if log.field == "position":
                sealed = [first for first in sealed if first <= position]
            size, last = _end_at(active, position)
            while sealed and not size:  # The active segment has no record up to the position.
                stack.close()
                active = stack.enter_context(contextlib.closing(log.open_sealed(sealed[-1])))
                size, last = _end_at(active, position)
                if size == active.size and isinstance(active, CompressedSegment):
                    size = 0  # All of it: it stays compressed, before an empty active segment.
                    break
                sealed.pop()
            if last is None and log.field == "stream_version":
                return None
            for first in sealed:
                while not self._stage_sealed(log, first, target):
                    pass  # It was replaced meanwhile, because events were erased in it.
            if isinstance(active, CompressedSegment):
                self._stage_content(text_path(base), active.read(size, 0))
            else:
                self._stage(text_path(base), active.fd, size)
            return last

    def _stage_sealed(self, log: Log, first: int, target: str) -> bool:
        """Stage a sealed segment and its index. Return False if these may be of two files."""
        with contextlib.closing(log.open_sealed(first)) as segment:
            path = os.path.join(target, os.path.basename(segment.path))
            self._stage(path, segment.fd, segment.file_bytes)
            self._stage_file(index_path(segment.base), index_beside(path))
            if segment.is_in_place:
                return True
            for staged in (path, index_beside(path)):
                self._wanted.pop(staged, None)
            return False

    def _stage_snapshot(self, path: str) -> None:
        found = load_snapshot(self._filesystem, path)
        if found is None:
            return  # It is damaged. The journal has all its events.
        snapshot, content = found
        last = self._last_versions.get(stream_path(snapshot.stream_id), -1)
        if is_ahead(snapshot, last):
            content = with_crc(snapshot := self._as_it_was(snapshot, last))
        if snapshot.says_nothing:
            return
        target = os.path.join(self._copy.snapshots_path, os.path.relpath(path, self._source.snapshots_path))
        for folder in (self._copy.snapshots_path, os.path.dirname(target)):
            self._filesystem.make_folder(folder)
        self._stage_content(target, content)
        if snapshot.deleted_through >= 0:
            DeletedStreams(self._copy).note(snapshot.stream_id)

    def _as_it_was(self, newer: Snapshot, last: int) -> Snapshot:
        """Return what a stream hid when it ended at version `last`, as far as the copy needs it, without a state.

        `rewrite_streams` restores the rest of the older stream from the journal.
        """
        hidden = newer.without_state()
        if newer.compacted_through <= last:
            return hidden
        through = -1
        if self._begins > 1:
            lines = lines_of_stream(self._source, newer.stream_id, 0, self.report.position)
            through = next((record.stream_version - 1 for record, _ in lines if not is_erased(record)), last)
        deleted = newer.deleted_through if newer.deleted_through <= last else -1
        return msgspec.structs.replace(hidden, compacted_through=through, deleted_through=deleted, tombstone=False)

    def _stage_content(self, path: str, content: bytes) -> None:
        """Get a file with this content into the target, at `path` or at its temporary name."""
        filesystem = self._filesystem
        if (
            self._keeps_files
            and filesystem.is_there(path)
            and filesystem.size_at(path) == len(content)
            and filesystem.read_file(path, len(content)) == content
        ):
            filesystem.remove(path + REBUILT)
            self.report.kept += 1
        else:
            filesystem.replace_file(path + REBUILT, content)
            self.report.copied += 1
            self.report.bytes_copied += len(content)
        self._wanted[path] = None

    def _stage_file(self, source: str, target: str) -> None:
        with self._opened(source) as fd:
            if fd is not None:  # It is a cache: leave it out if it is missing or not a regular file.
                self._stage(target, fd, self._filesystem.size(fd))

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int | None]:
        """Open the file at `path`; None if there is no regular file."""
        try:
            fd = self._filesystem.open_read(path)
        except OSError as error:
            if error.errno not in NO_FILE and not isinstance(error, FileNotFoundError):
                raise
            yield None
            return
        try:
            yield fd
        finally:
            self._filesystem.close(fd)

    def _stage(self, path: str, fd: int, size: int) -> None:
        """Get the first `size` bytes of an open file into the target, at `path` or at its temporary name."""
        if self._keeps_files and (self._is_copied(path, fd, size) or self._is_copied(path + REBUILT, fd, size)):
            self.report.kept += 1
        else:
            copy_open(self._filesystem, fd, size, path + REBUILT)
            self.report.copied += 1
            self.report.bytes_copied += size
        if self._is_copied(path, fd, size):
            self._filesystem.remove(path + REBUILT)
        self._wanted[path] = None
        self._done += size
        self._progress("copying", min(self._done, self._total), self._total)

    def _is_copied(self, path: str, fd: int, size: int) -> bool:
        """True if the file at `path` has this size, and the same bytes as `fd` at both ends.

        The ends are enough, because sealed segments do not change.
        """
        filesystem, offsets = self._filesystem, {0, max(0, size - _END_BYTES)} if size else ()
        with self._opened(path) as copied:
            if copied is None or filesystem.size(copied) != size:
                return False
            read = filesystem.read
            return all(read(copied, _END_BYTES, at) == read(fd, min(_END_BYTES, size - at), at) for at in offsets)

    # Placing

    def place(self) -> None:
        """Rename the copied files into place, the journal last, and delete files that are not in this backup."""
        filesystem, copy = self._filesystem, self._copy
        for name in (copy.state_path, copy.ring_path, copy.checkpoint_path, copy.catalog_path, copy.ids_path):
            filesystem.remove(name)
        for path in self._wanted:
            if filesystem.is_there(path + REBUILT):
                filesystem.rename(path + REBUILT, path)
        if self._begins > 1:  # Before the copy's segments are removed.
            Journal(filesystem, copy.path, copy.journal.name, self._meta.store_id).write_retained(self._begins)
        elif filesystem.is_there(copy.journal.retained_path):
            filesystem.remove(copy.journal.retained_path)
        journal = [file.path for file in log_files(filesystem, copy.path) if file.name == copy.journal.name]
        streams = [file.path for file in stream_files(copy)]
        for path in [*journal, *streams, *snapshot_paths(filesystem, copy.snapshots_path)]:
            if path not in self._wanted:
                filesystem.remove(path)
        for path in [*journal, *streams]:
            if index_beside(path) not in self._wanted:
                filesystem.remove(index_beside(path))
        forget_indexes(copy)
        put_cursors(filesystem, copy.cursors_path, self._cursors)
        put_states(copy, self._states)
        for folder in sorted({os.path.dirname(path) for path in self._wanted} | {copy.streams_path}):
            filesystem.sync_folder(folder)
        meta = filesystem.read_file(self._source.meta_path)
        if not filesystem.is_there(copy.meta_path) or filesystem.read_file(copy.meta_path) != meta:
            filesystem.replace_file(copy.meta_path, meta)
        filesystem.remove(os.path.join(copy.path, _MARKER_NAME))
        filesystem.sync_folder(copy.path)

    def copy_again(self) -> None:
        """Copy every file, because one that an earlier backup left has been damaged since."""
        self._keeps_files = False
        self.stage()
        self.place()
        self.rewrite_streams()

    def rewrite_streams(self) -> None:
        """Rewrite from the journal each stream that was compacted while it was copied."""
        for replaced in Mending(self._copy, self._meta.segment_bytes, []).run():
            if replaced.kept:
                self._filesystem.remove(replaced.kept)


def _end_at(segment: Segment, position: int) -> tuple[int, StoredEnvelope | None]:
    """Return (end, record): the last record up to a position, and the offset after it; (0, None) if there is none."""
    offset = segment.end_offset()
    while offset:
        lines, start = segment.lines_before(offset)
        for line in reversed(lines):
            if is_record(line) and (record := decode_record(line)).position <= position:
                return offset, record
            offset -= len(line) + 1
        offset = start
    return 0, None


def _verify_copy(copy: Folder, position: int, progress: BackupProgress) -> list[CorruptionError]:
    """Open the copy and return its damage; a count other than `position` events is damage too."""
    done = 0

    def advance(records: int) -> None:
        nonlocal done
        done += records
        progress("verifying", done, 2 * position)

    serializer = EventSerializer(unknown="untyped")
    try:
        with FileEventStore(copy.path, serializer=serializer, create=False, filesystem=copy.filesystem) as store:
            count, path = store.last_position, copy.journal.active_path
            if count != position:
                cause = f"it ends at position {count}; {position} events were committed"
                return [CorruptionError(path, os.path.basename(path), 0, cause)]
            return list(verify(store, advance))
    except CorruptionError as error:
        return [error]


def _sizes(filesystem: FileSystem, path: str, levels: int = 3) -> Iterator[int]:
    """Yield the size in bytes of each file to copy, ignoring folders deeper than a store's own."""
    for entry in filesystem.entries(path):
        if entry.is_dir():
            if levels > 1:
                yield from _sizes(filesystem, entry.path, levels - 1)
        elif entry.name.endswith((TEXT, COMPRESSED, INDEX, ".json")):
            with contextlib.suppress(FileNotFoundError):
                yield entry.stat().st_size


def _folders(filesystem: FileSystem, path: str) -> list[str]:
    return sorted(entry.name for entry in filesystem.entries(path) if entry.is_dir())
