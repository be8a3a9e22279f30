"""Checking a whole store: every line, both copies of every event, and what an append or a recovery relies on."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from hangarlog.errors import CorruptionError, StorageError
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.owners import JournalNames
from hangarlog.filestore.rolled_streams import RolledStream, rolled_streams
from hangarlog.filestore.salvage import read_lines
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.filestore.store import FileEventStore
from hangarlog.maintenance.file_checks import (
    checkpoint_damage,
    foreign_segments,
    index_damage,
    of_file,
    ring_damage,
    snapshot_damage,
)
from hangarlog.maintenance.journal_check import JournalCheck, numbered
from hangarlog.maintenance.store_view import StoreView
from hangarlog.maintenance.stream_check import ALL_VERSIONS, StreamCheck
from hangarlog.record.line import read_crc
from hangarlog.system.filesystem import FileSystem

Progress = Callable[[int], None]

_MAX_STREAMS = 10_000
"""Damages of one stream that are listed."""


def verify(store: FileEventStore, progress: Progress = lambda events: None) -> Iterator[CorruptionError]:
    """Every damage there is in what is committed now, each at its place.

    `progress` is told from time to time how many more records were checked; each event counts twice, once a copy.
    The store may be written to meanwhile: what looks like damage is looked at again, in the end with the write lock
    held. Memory grows with the number of streams, not of events.

    Raises:
        StorageError: the operating system refused to read.
    """
    folder = store.folder
    try:
        before = store.recovered
        with contextlib.closing(StoreView(folder, store.meta.store_id, store)) as watch:
            if store.recovered is not before:
                yield from mended(store)
            yield from _Check(folder, watch, progress).run()
    except OSError as error:
        raise StorageError(folder.path, error.errno, str(error), reading=True) from error


def mended(store: FileEventStore) -> Iterator[CorruptionError]:
    """What the last recovery that `store` made has mended: it was damage, and is not there any more."""
    done = store.recovered
    if done is None:
        return
    yield from done.damage
    if done.mended and not done.damage:
        cause = f"{done.mended} events after position {done.since} were damaged; they were restored from their streams"
        yield _mended(store.folder.journal.live_path, cause)
    if done.put_aside:
        cause = f"{done.put_aside} records that lead to nothing in the journal were put here"
        yield _mended(store.folder.aside_path, cause)


def _mended(path: str, cause: str) -> CorruptionError:
    return CorruptionError(path, os.path.basename(path), 0, cause, mendable=False)


def verify_folder(
    path: str | os.PathLike[str],
    progress: Progress = lambda events: None,
    *,
    filesystem: FileSystem | None = None,
) -> Iterator[CorruptionError]:
    """As `verify`, of the store at `path` as it is: nothing in it is made, locked, recovered or changed.

    What a crash may have left, for the next writer to recover, is no damage.

    Raises:
        StoreOpenError: there is no store.
        StorageError: the operating system refused to read.
    """
    with contextlib.closing(Folder(filesystem or FileSystem(), os.fspath(path))) as folder:
        meta = folder.open(1, create=False)
        try:
            with contextlib.closing(StoreView(folder, meta.store_id)) as watch:
                yield from _Check(folder, watch, progress).run()
        except OSError as error:
            raise StorageError(folder.path, error.errno, str(error), reading=True) from error


def count_events(path: str | os.PathLike[str], *, filesystem: FileSystem | None = None) -> int:
    """How many events are committed in the store at `path`. It does, and raises, what `verify_folder` does."""
    with contextlib.closing(Folder(filesystem or FileSystem(), os.fspath(path))) as folder:
        meta = folder.open(1, create=False)
        with contextlib.closing(StoreView(folder, meta.store_id)) as watch:
            return watch.committed


class _Check:
    def __init__(self, folder: Folder, watch: StoreView, progress: Progress) -> None:
        self._folder, self._watch, self._progress = folder, watch, progress
        self._snapshots = SnapshotFiles(folder.filesystem, folder.snapshots_path)
        self._through: dict[str, int] = {}
        self._names, self._layout = JournalNames(folder.journal), watch.layout

    def run(self) -> Iterator[CorruptionError]:
        folder, confirmed = self._folder, self._watch.confirmed
        yield from snapshot_damage(folder, self._through)
        journal = JournalCheck(folder, self._watch, self._through, self._progress)
        yield from journal.damages()
        yield from confirmed(journal.behind)
        yield from confirmed(lambda: foreign_segments(folder.journal))
        yield from confirmed(lambda: index_damage(folder.journal))
        yield from confirmed(lambda: checkpoint_damage(folder, self._watch))
        yield from confirmed(lambda: ring_damage(folder, self._watch))
        yield from self._snapshots_beyond(journal)
        yield from self._streams(journal)

    def _snapshots_beyond(self, journal: JournalCheck) -> Iterator[CorruptionError]:
        """Snapshots that hide events which the stream has not had yet."""
        for stream_id, through in self._through.items():
            if through > journal.last_version(stream_id):
                yield from self._watch.confirmed(partial(self._beyond, stream_id))

    def _beyond(self, stream_id: str) -> list[CorruptionError]:
        with contextlib.suppress(CorruptionError):
            snapshot, last = self._snapshots.load(stream_id), self._folder.stream(stream_id).last_record()
            version = last.stream_version if last else -1
            begun = last or (snapshot and snapshot.version >= 0)  # Else an import was cut short before the stream.
            if snapshot and begun and snapshot.compacted_through > version:
                through = snapshot.compacted_through
                cause = f"it says that events up to version {through} are compacted, the stream ends at {version}"
                return [of_file(self._snapshots.path(stream_id), 0, cause)]
        return []

    def _streams(self, journal: JournalCheck) -> Iterator[CorruptionError]:
        folder, confirmed = self._folder, self._watch.confirmed
        doubtful: dict[str, array[int]] = {}
        for names in list(filter(RolledStream.doubtful, rolled_streams(folder))):
            if names.live or not self._known(journal, names):
                yield from confirmed(partial(foreign_segments, names.log))
        for stream_id in sorted({*folder.stream_ids(), *journal.streams}):
            check = self._check(journal, stream_id)
            if check.doubtful(self._through.get(stream_id, -1), self._progress):
                doubtful[stream_id] = array("Q")
            else:
                yield from confirmed(partial(index_damage, check.log))
        self._read_journal(doubtful)
        for stream_id, lines in doubtful.items():
            yield from confirmed(partial(self._look, journal, stream_id, lines))

    def _known(self, journal: JournalCheck, names: RolledStream) -> bool:
        """Whether the journal has this stream, so that it is looked at anyway."""
        with contextlib.suppress(FileNotFoundError):
            category, log = names.category, names.log
            stream_id = self._folder.stream_id_at(category, log.name, log.live_path, self._names)
            return stream_id is not None and journal.last_version(stream_id) >= 0
        return False

    def _check(self, journal: JournalCheck, stream_id: str) -> StreamCheck:
        if self._layout != self._watch.layout:  # Somebody has rolled a segment since the folders were listed.
            self._layout = self._watch.layout
            self._names = JournalNames(self._folder.journal)
        return StreamCheck(self._folder, self._watch, stream_id, journal.streams.get(stream_id), self._names)

    def _read_journal(self, wanted: dict[str, array[int]]) -> None:
        """Note the checksum of each line that the journal has of these streams, by version."""
        for segment, _ in numbered(self._folder.journal) if wanted else ():
            for _, _, record in () if isinstance(segment, CorruptionError) else read_lines(segment):
                lines = None if isinstance(record, str) else wanted.get(record.stream_id)
                if lines is None or isinstance(record, str) or record.position > self._watch.committed:
                    continue
                version = record.stream_version
                if version < record.position:  # Else no store has written it.
                    lines.extend([0] * (version + 1 - len(lines)))
                    lines[version] = read_crc(record) | ALL_VERSIONS

    def _look(self, journal: JournalCheck, stream_id: str, lines: array[int]) -> list[CorruptionError]:
        """What is wrong with a stream, line by line."""
        through: int | None = None
        with contextlib.suppress(CorruptionError):
            snapshot = self._snapshots.load(stream_id)
            through = snapshot.compacted_through if snapshot else -1
        try:
            check = self._check(journal, stream_id)
            return [*islice(check.damages(through, lines, journal.lost), _MAX_STREAMS), *index_damage(check.log)]
        except CorruptionError as error:
            return [error]
