"""Verification of a whole store: every line, both copies of every event, and the files an append or recovery uses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from itertools import islice

from hangarlog.errors import CorruptionError, StorageError
from hangarlog.eventstore.progress import Progress
from hangarlog.filestore.file_owners import JournalNames
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.rolled_streams import RolledStream, rolled_streams
from hangarlog.filestore.salvage import read_lines
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.filestore.store import FileEventStore
from hangarlog.maintenance.cursor_check import cursors_damage
from hangarlog.maintenance.file_checks import (
    checkpoint_damage,
    file_damage,
    foreign_segments,
    ids_damage,
    index_damage,
    ring_damage,
    snapshot_damage,
)
from hangarlog.maintenance.journal_check import JournalCheck, open_segments
from hangarlog.maintenance.projection_check import projections_damage
from hangarlog.maintenance.store_view import StoreView
from hangarlog.maintenance.stream_check import JournalCrcs, StreamCheck
from hangarlog.system.filesystem import FileSystem

_MAX_STREAM_DAMAGES = 10_000
"""The damage of one stream is listed up to this number of places."""


def verify(store: FileEventStore, progress: Progress = lambda events: None) -> Iterator[CorruptionError]:
    """Yield all damage in the events that are committed now, each with its place.

    `progress` counts records. Each event counts twice, once for each copy.

    Other processes may write meanwhile. What looks like damage is checked again, finally under the write lock. Memory
    grows with the number of streams, not with the number of events.

    Raises:
        StorageError: the operating system refused a read.
    """
    folder = store.folder
    try:
        before = store.recovered
        with contextlib.closing(StoreView(folder, store.meta.store_id, store)) as view:
            if store.recovered is not before:  # The view has recovered the store.
                yield from mended(store)
            yield from _Check(folder, view, progress).run()
    except OSError as error:
        raise StorageError(folder.path, error.errno, str(error), reading=True) from error


def mended(store: FileEventStore) -> Iterator[CorruptionError]:
    """Yield the damage that the last recovery of `store` has already repaired."""
    done = store.recovered
    if done is None:
        return
    yield from done.damage
    if done.mended and not done.damage:
        cause = f"{done.mended} events after position {done.since} were damaged; they were restored from their streams"
        yield _mended(store.folder.journal.active_path, cause)
    if done.put_aside:
        cause = f"{done.put_aside} records that no history leads to were put aside here"
        yield _mended(store.folder.aside_path, cause)


def _mended(path: str, cause: str) -> CorruptionError:
    return CorruptionError(path, os.path.basename(path), 0, cause, mendable=False)


def verify_folder(
    path: str | os.PathLike[str],
    progress: Progress = lambda events: None,
    *,
    filesystem: FileSystem | None = None,
) -> Iterator[CorruptionError]:
    """Verify the store at `path` as `verify` does, but without creating, locking, recovering or changing anything.

    What the next writer would recover after a crash is not damage.

    Raises:
        StoreOpenError: there is no store at `path`.
        StorageError: the operating system refused a read.
    """
    with contextlib.closing(Folder(filesystem or FileSystem(), os.fspath(path))) as folder:
        meta = folder.open(1, create=False)
        try:
            with contextlib.closing(StoreView(folder, meta.store_id)) as view:
                yield from _Check(folder, view, progress).run()
        except OSError as error:
            raise StorageError(folder.path, error.errno, str(error), reading=True) from error


def count_events(path: str | os.PathLike[str], *, filesystem: FileSystem | None = None) -> int:
    """Return the number of committed events in the store at `path`, changing nothing.

    Raises:
        StoreOpenError: there is no store at `path`.
    """
    with contextlib.closing(Folder(filesystem or FileSystem(), os.fspath(path))) as folder:
        meta = folder.open(1, create=False)
        with contextlib.closing(StoreView(folder, meta.store_id)) as view:
            return max(0, view.committed - folder.journal.begins() + 1)


class _Check:
    """One verification: the snapshots, then the journal, then the caches, then the streams."""

    def __init__(self, folder: Folder, view: StoreView, progress: Progress) -> None:
        self._folder, self._view, self._progress = folder, view, progress
        self._snapshots = SnapshotFiles(folder.filesystem, folder.snapshots_path)
        self._compacted: dict[str, int] = {}
        self._names, self._layout = JournalNames(folder.journal), view.layout

    def run(self) -> Iterator[CorruptionError]:
        """Yield all damage, once: the lines of a damaged frame are one damage."""
        before = ""
        for damage in self._all():
            if str(damage) != before:
                yield damage
            before = str(damage)

    def _all(self) -> Iterator[CorruptionError]:
        folder, confirm = self._folder, self._view.confirm
        try:
            folder.journal.begins()
        except CorruptionError as damage:
            yield damage  # Nothing else tells what must be there.
            return
        yield from snapshot_damage(folder, self._compacted)
        journal = JournalCheck(folder, self._view, self._compacted, self._progress)
        yield from journal.damages()
        yield from confirm(journal.trailing_bytes)
        yield from confirm(lambda: foreign_segments(folder.journal))
        yield from confirm(lambda: index_damage(folder.journal))
        yield from confirm(lambda: checkpoint_damage(folder, self._view))
        yield from confirm(lambda: ring_damage(folder, self._view))
        yield from confirm(lambda: cursors_damage(folder, self._view))
        yield from confirm(lambda: ids_damage(folder, self._view))
        yield from confirm(lambda: projections_damage(folder, self._view))
        yield from self._snapshots_beyond(journal)
        yield from self._streams(journal)

    def _snapshots_beyond(self, journal: JournalCheck) -> Iterator[CorruptionError]:
        """Yield damage for snapshots that compact versions which their stream does not have yet."""
        if self._folder.is_archive:
            return  # One that was cut short may hide what its store has not moved into it yet.
        for stream_id, compacted in self._compacted.items():
            if compacted > journal.last_version(stream_id):
                yield from self._view.confirm(partial(self._beyond, stream_id))

    def _beyond(self, stream_id: str) -> list[CorruptionError]:
        with contextlib.suppress(CorruptionError):
            snapshot, last = self._snapshots.load(stream_id), self._folder.stream(stream_id).last_record()
            version = last.stream_version if last else -1
            begun = last or (snapshot and not snapshot.is_beginning)  # False after an interrupted import.
            if snapshot and begun and snapshot.compacted_through > version:
                compacted = snapshot.compacted_through
                cause = f"it covers compacted events up to version {compacted}, but the stream ends at {version}"
                return [file_damage(self._snapshots.path(stream_id), 0, cause)]
        return []

    def _streams(self, journal: JournalCheck) -> Iterator[CorruptionError]:
        folder, confirm = self._folder, self._view.confirm
        suspects: dict[str, JournalCrcs] = {}
        for names in list(filter(RolledStream.doubtful, rolled_streams(folder))):
            if names.active or not self._known(journal, names):
                yield from confirm(partial(foreign_segments, names.log))
        for stream_id in sorted({*folder.stream_ids(), *journal.streams}):
            check = self._check(journal, stream_id)
            compacted = self._compacted.get(stream_id, -1)
            if check.is_suspect(compacted, self._progress):
                suspects[stream_id] = JournalCrcs(compacted + 1)
            else:
                yield from confirm(partial(index_damage, check.log))
        self._read_journal(suspects)
        for stream_id, crcs in suspects.items():
            yield from confirm(partial(self._stream_damage, journal, stream_id, crcs))

    def _known(self, journal: JournalCheck, names: RolledStream) -> bool:
        """True if the journal has this stream, so that the checks of streams cover it."""
        with contextlib.suppress(FileNotFoundError):
            category, log = names.category, names.log
            stream_id = self._folder.stream_id_at(category, log.name, log.active_path, self._names)
            return stream_id is not None and journal.last_version(stream_id) >= 0
        return False

    def _check(self, journal: JournalCheck, stream_id: str) -> StreamCheck:
        if self._layout != self._view.layout:  # A segment was rolled since the folders were listed.
            self._layout = self._view.layout
            self._names = JournalNames(self._folder.journal)
        return StreamCheck(self._folder, self._view, stream_id, journal.streams.get(stream_id), self._names)

    def _read_journal(self, wanted: dict[str, JournalCrcs]) -> None:
        """Fill `wanted`: for each stream id the checksums of its lines in the journal."""
        for segment, _ in open_segments(self._folder.journal) if wanted else ():
            for _, _, record in () if isinstance(segment, CorruptionError) else read_lines(segment):
                if isinstance(record, str) or record.position > self._view.committed:
                    continue
                if crcs := wanted.get(record.stream_id):
                    crcs.add(record)

    def _stream_damage(self, journal: JournalCheck, stream_id: str, crcs: JournalCrcs) -> list[CorruptionError]:
        """Return the damage of one stream, found line by line."""
        compacted: int | None = None
        with contextlib.suppress(CorruptionError):
            snapshot = self._snapshots.load(stream_id)
            compacted = snapshot.compacted_through if snapshot else -1
        try:
            check = self._check(journal, stream_id)
            damages = islice(check.damages(compacted, crcs, journal.lost), _MAX_STREAM_DAMAGES)
            return [*damages, *index_damage(check.log)]
        except CorruptionError as error:
            return [error]
