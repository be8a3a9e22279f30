"""A consistent copy of a store, made while others write: everything up to one position, and nothing beyond it.

Nobody is held up: it takes no lock of the store's. Sealed segments do not change, and a live one only grows.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator

import msgspec

from hangarlog.errors import BackupError, CorruptionError, StoreOpenError
from hangarlog.events.serializer import EventSerializer
from hangarlog.filestore.file_names import stream_path
from hangarlog.filestore.folder import Folder, Meta
from hangarlog.filestore.recovery.mending import (
    Mending,
    forget_indexes,
    is_ahead,
    load_snapshot,
    may_be_stream,
    snapshot_paths,
)
from hangarlog.filestore.recovery.rewriting import last_number
from hangarlog.filestore.store import FileEventStore
from hangarlog.filestore.survey import REBUILT, log_files, opened, stream_files
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import INDEX, TEXT, index_beside, index_path, text_path
from hangarlog.maintenance.verify import verify
from hangarlog.record.line import StoredEnvelope, decode_record, is_record
from hangarlog.system.file_copy import copy_open
from hangarlog.system.file_lock import held
from hangarlog.system.filesystem import NO_FILE, FileSystem
from hangarlog.system.read_only import for_reading

Progress = Callable[[str, int, int], None]
"""Told what is done ("copying", "verifying"), how much of it is done, and of how much: bytes, then records."""

_MARK = "backup.json"
"""In the target while a backup is being made: whose it is."""

_END_BYTES = 64 << 10
_TRIES = 100


class BackedUp(msgspec.Struct):
    """What a backup did: it holds everything up to `position`; how many files were `copied`, with how many bytes."""

    position: int = 0
    copied: int = 0
    bytes_copied: int = 0
    kept: int = 0


def backup(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    progress: Progress = lambda step, done, total: None,
    *,
    lock_timeout: float | None = 60.0,
    filesystem: FileSystem | None = None,
) -> BackedUp:
    """Make `target` a copy of the store at `path` as it is now; it is a store that opens at once.

    What an earlier backup has in the target is not copied again. It may be cut short at any point and run again; until
    the new files are all there, the earlier backup stays as it was. The copy is verified in the end.

    Raises:
        BackupError: the target is something else, or of another store, or has events that the store has not; or the
            copy is not whole.
        StoreOpenError: there is no store at `path`; CorruptionError: it is damaged.
        LockTimeoutError: somebody else had one of the two locked for `lock_timeout` seconds (None waits for ever).
        OSError: the system refused a call.
    """
    reading, filesystem = filesystem or for_reading(os.fspath(path)), filesystem or FileSystem()
    serializer = EventSerializer(unknown="untyped")
    with contextlib.closing(Folder(filesystem, os.fspath(target))) as copy:
        with (
            FileEventStore(
                path, serializer=serializer, create=False, lock_timeout=lock_timeout, filesystem=reading
            ) as store,
            _read_through(filesystem, store.folder),
        ):
            _refuse(store, copy)
            filesystem.make_folder(copy.path)
            copy.enter()
            with contextlib.closing(copy.write_lock()) as lock, held(lock, lock_timeout):
                _refuse(store, copy)  # Once more: now the folder is there, and nobody else makes a store of it.
                _refuse_further(store, copy)
                work = _Backup(store, copy, progress)
                work.stage()
                work.place()
        for mend in (work.mend_streams, work.copy_anew):
            if not _damages(copy, work.report.position, progress):
                return work.report
            with contextlib.closing(copy.write_lock()) as lock, held(lock, lock_timeout):
                mend()
        damages = _damages(copy, work.report.position, progress)
        if damages:
            cause = f"the copy is not whole: {damages[0]}; verify the store, then run it again"
            raise BackupError(copy.path, cause)
        return work.report


@contextlib.contextmanager
def _read_through(filesystem: FileSystem, source: Folder) -> Iterator[None]:
    """Have `filesystem` follow no link below the source either."""
    filesystem.enter(source.path, source.fd)
    try:
        yield
    finally:
        filesystem.leave(source.fd)


def _refuse(store: FileEventStore, copy: Folder) -> None:
    """Raise unless the target is no part of the store, and empty or a backup of it."""
    source, target = os.path.realpath(store.path), os.path.realpath(copy.path)
    if os.path.commonpath([source, target]) in (source, target):
        raise BackupError(copy.path, "it must lie outside of the store, and the store outside of it")
    if os.path.lexists(copy.path) and not os.path.isdir(copy.path):
        raise BackupError(copy.path, "it is a file; name a folder")
    try:
        entries = {entry.name for entry in copy.filesystem.entries(copy.path)}
        if entries <= {"locks"} or _owner(copy) == store.meta.store_id:
            return
    except (StoreOpenError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BackupError(copy.path, f"it is not empty, and no backup of this store ({error})") from error
    raise BackupError(copy.path, "it is a backup of another store, or that store itself; name another folder")


def _owner(copy: Folder) -> str:
    """The id of the store that the target is a backup of, or becomes one."""
    mark = os.path.join(copy.path, _MARK)
    if copy.filesystem.is_there(mark):
        return msgspec.json.decode(copy.filesystem.read_file(mark), type=Meta).store_id
    return copy.open(1, create=False).store_id


def _refuse_further(store: FileEventStore, copy: Folder) -> None:
    """Raise if somebody has appended to the backup: it would be lost."""
    if copy.filesystem.is_there(os.path.join(copy.path, _MARK)) or not copy.filesystem.is_there(copy.meta_path):
        return  # The last one was cut short: what it has is of the store.
    try:
        last = copy.journal.last_record()
    except CorruptionError:
        return
    if last is not None:
        for block in store.envelopes(from_position=last.position - 1, limit=1):
            if block[0].crc == last.crc:
                return
        cause = f"its event at position {last.position} is not the store's: somebody has appended to it"
        raise BackupError(copy.path, f"{cause}; name another folder")


class _Listing:
    """The logs in a folder, and their sealed segments: listed once, and again where that turns out to be too old."""

    def __init__(self, filesystem: FileSystem, folder: str) -> None:
        self._filesystem, self._folder = filesystem, folder
        self.look()

    def look(self) -> None:
        """List the folder."""
        self.names: set[str] = set()
        self._sealed: defaultdict[str, list[int]] = defaultdict(list)
        for file in log_files(self._filesystem, self._folder):
            if file.sealed is None:
                self.names.add(file.name)
            elif not file.spare:
                self._sealed[file.name].append(file.sealed)

    def sealed(self, log: Log, live: Segment) -> list[int]:
        """The sealed segments before a live one, which is open: whatever is sealed from now on is in hand."""
        first = live.first_number()
        if first is None or not (first == 0 or self._reaches(log, first)):
            self.look()
        return sorted(n for n in self._sealed[log.name] if first is None or n < first)

    def _reaches(self, log: Log, first: int) -> bool:
        before = [n for n in self._sealed[log.name] if n < first]
        if not before:
            return first == 1 and log.field == "position"
        with contextlib.closing(log.open_sealed(max(before))) as segment:
            return last_number(log, segment) == first - 1


class _Backup:
    """One backup: first every file is copied under a name of its own, then they take their places."""

    def __init__(self, store: FileEventStore, copy: Folder, progress: Progress) -> None:
        self._source, self._copy, self._progress = store.folder, copy, progress
        self._filesystem, self._meta = copy.filesystem, store.meta
        self.report = BackedUp(store.get_event_count())
        self._trusting = True
        self._right: dict[str, None] = {}  # The files that the target is to have, in order.
        self._lasts: dict[tuple[str, str], int] = {}
        self._done = self._total = 0

    # Copying

    def stage(self) -> None:
        """Copy what the target has not."""
        filesystem, source, copy = self._filesystem, self._source, self._copy
        self._right, self._done, self._total = {}, 0, sum(_sizes(filesystem, source.path))
        filesystem.replace_file(os.path.join(copy.path, _MARK), msgspec.json.encode(self._meta) + b"\n")
        filesystem.make_folder(copy.streams_path)
        for category in ["", *_folders(filesystem, source.streams_path)]:
            self._stage_category(category)
        for path in snapshot_paths(source):
            self._stage_snapshot(path)
        self._stage_log(source.journal, copy.path, _Listing(filesystem, source.path))

    def _stage_category(self, category: str) -> None:
        source, target = self._source.category_path(category), self._copy.category_path(category)
        listing = _Listing(self._filesystem, source)
        self._filesystem.make_folder(target)
        for name in sorted(listing.names):
            if may_be_stream(category, name):
                log = Log(self._filesystem, source, name, "stream_version")
                last = self._stage_log(log, target, listing)
                if last:
                    self._lasts[category, name] = last.stream_version

    def _stage_log(self, log: Log, target: str, listing: _Listing) -> StoredEnvelope | None:
        """Stage what a log has up to the position; returns its last record there."""
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                return self._try_log(log, target, listing)
            listing.look()  # It was rolled or compacted.
            if log.name not in listing.names:
                return None  # A stream that was new, and whose append failed.
        raise BackupError(self._copy.path, f"{log.live_path} changes too often; run it again")

    def _try_log(self, log: Log, target: str, listing: _Listing) -> StoredEnvelope | None:
        position, base = self.report.position, os.path.join(target, log.name)
        with contextlib.ExitStack() as stack:
            live = stack.enter_context(contextlib.closing(Segment(log.filesystem, log.base, log.field)))
            sealed = listing.sealed(log, live)
            if log.field == "position":
                sealed = [first for first in sealed if first <= position]
            size, last = _end_at(live, position)
            while sealed and not size:  # The live one has nothing yet that counts here.
                stack.close()
                live = stack.enter_context(contextlib.closing(log.open_sealed(sealed.pop())))
                size, last = _end_at(live, position)
            if last is None and log.field == "stream_version":
                return None
            for first in sealed:
                with contextlib.closing(log.open_sealed(first)) as segment:
                    path = os.path.join(target, os.path.basename(segment.path))
                    self._stage(path, segment.fd, segment.size)
                self._stage_file(index_path(segment.base), index_beside(path))
            self._stage(text_path(base), live.fd, size)
            return last

    def _stage_snapshot(self, path: str) -> None:
        snapshot = load_snapshot(self._filesystem, path)
        if snapshot is None:
            return  # It is damaged; the journal has what it stands for.
        last = self._lasts.get(stream_path(snapshot.stream_id), -1)
        if not is_ahead(snapshot, last):  # Else it was made since: the stream is written anew as it was.
            below = os.path.relpath(path, self._source.snapshots_path)
            self._filesystem.make_folder(self._copy.snapshots_path)
            self._filesystem.make_folder(os.path.dirname(os.path.join(self._copy.snapshots_path, below)))
            self._stage_file(path, os.path.join(self._copy.snapshots_path, below))

    def _stage_file(self, source: str, target: str) -> None:
        try:
            fd = self._filesystem.open_read(source)
        except OSError as error:
            if error.errno not in NO_FILE and not isinstance(error, FileNotFoundError):
                raise
            return  # Something else is in the place of a cache.
        try:
            self._stage(target, fd, self._filesystem.size(fd))
        finally:
            self._filesystem.close(fd)

    def _stage(self, path: str, fd: int, size: int) -> None:
        """Have the first `size` bytes of an open file in the target, under its name or for it."""
        if self._trusting and (self._has(path, fd, size) or self._has(path + REBUILT, fd, size)):
            self.report.kept += 1
        else:
            copy_open(self._filesystem, fd, size, path + REBUILT)
            self.report.copied += 1
            self.report.bytes_copied += size
        if self._has(path, fd, size):
            self._filesystem.remove(path + REBUILT)
        self._right[path] = None
        self._done += size
        self._progress("copying", min(self._done, self._total), self._total)

    def _has(self, path: str, fd: int, size: int) -> bool:
        """Whether a file has this size, and begins and ends so: sealed segments do not change."""
        with opened(self._filesystem, path) as there:
            if there is None or there.size != size:
                return False
            places = {0, max(0, size - _END_BYTES)} if size else ()
            read = self._filesystem.read
            return all(read(there.fd, _END_BYTES, at) == read(fd, min(_END_BYTES, size - at), at) for at in places)

    # Placing

    def place(self) -> None:
        """Let what was copied take its place, the journal last; then delete what does not belong to this backup."""
        filesystem, copy = self._filesystem, self._copy
        for name in (copy.state_path, copy.ring_path, copy.checkpoint_path, os.path.join(copy.path, "catalog")):
            filesystem.remove(name)
        for path in self._right:
            if filesystem.is_there(path + REBUILT):
                filesystem.rename(path + REBUILT, path)
        journal = [file.path for file in log_files(filesystem, copy.path) if file.name == copy.journal.name]
        streams = [file.path for file in stream_files(copy)]
        for path in [*journal, *streams, *snapshot_paths(copy)]:
            if path not in self._right:
                filesystem.remove(path)
        for path in [copy.journal.live_path, *streams]:
            if index_beside(path) not in self._right:
                filesystem.remove(index_beside(path))
        forget_indexes(copy)
        for folder in sorted({os.path.dirname(path) for path in self._right} | {copy.streams_path}):
            filesystem.sync_folder(folder)
        meta = filesystem.read_file(self._source.meta_path)
        if not filesystem.is_there(copy.meta_path) or filesystem.read_file(copy.meta_path) != meta:
            filesystem.replace_file(copy.meta_path, meta)
        filesystem.remove(os.path.join(copy.path, _MARK))
        filesystem.sync_folder(copy.path)

    def copy_anew(self) -> None:
        """Copy everything once more: what an earlier backup had has rotted since."""
        self._trusting = False
        self.stage()
        self.place()
        self.mend_streams()

    def mend_streams(self) -> None:
        """Make streams that were compacted while they were copied as they were, from the journal."""
        for replaced in Mending(self._copy, self._meta.segment_bytes, []).run():
            if replaced.kept:
                self._filesystem.remove(replaced.kept)


def _end_at(segment: Segment, position: int) -> tuple[int, StoredEnvelope | None]:
    """(the offset after the last record up to a position, that record)."""
    offset = segment.end_offset()
    while offset:
        lines, start = segment.lines_before(offset)
        for line in reversed(lines):
            if is_record(line) and (record := decode_record(line)).position <= position:
                return offset, record
            offset -= len(line) + 1
        offset = start
    return 0, None


def _damages(copy: Folder, position: int, progress: Progress) -> list[CorruptionError]:
    """Open the copy and verify it."""
    done = 0

    def advance(records: int) -> None:
        nonlocal done
        done += records
        progress("verifying", done, 2 * position)

    serializer = EventSerializer(unknown="untyped")
    try:
        with FileEventStore(copy.path, serializer=serializer, create=False, filesystem=copy.filesystem) as store:
            count, path = store.get_event_count(), copy.journal.live_path
            if count != position:
                cause = f"it ends at position {count}; {position} events were committed"
                return [CorruptionError(path, os.path.basename(path), 0, cause)]
            return list(verify(store, advance))
    except CorruptionError as error:
        return [error]


def _sizes(filesystem: FileSystem, path: str, levels: int = 3) -> Iterator[int]:
    """The sizes of the files that a copy takes, but for those in deeper folders than a store has."""
    for entry in filesystem.entries(path):
        if entry.is_dir():
            if levels > 1:
                yield from _sizes(filesystem, entry.path, levels - 1)
        elif entry.name.endswith((TEXT, INDEX, ".json")):
            with contextlib.suppress(FileNotFoundError):
                yield entry.stat().st_size


def _folders(filesystem: FileSystem, path: str) -> list[str]:
    return sorted(entry.name for entry in filesystem.entries(path) if entry.is_dir())
