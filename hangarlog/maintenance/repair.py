"""Repair of a damaged store.

Replaced files and records that are taken out are kept beside the new ones.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple
from uuid import uuid4

import msgspec

from hangarlog.errors import CorruptionError, HangarlogError, LockTimeoutError, StoreFormatError, StoreOpenError
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.progress import Progress
from hangarlog.filestore.checkpoint import load_checkpoint, store_of_checkpoint
from hangarlog.filestore.commit_ring import Frame, read_ring, ring_owner
from hangarlog.filestore.folder import FORMAT, META_ADVICE, Folder, Meta, is_store_id
from hangarlog.filestore.line_scan import REBUILT, found_in, journal_files, opened, stream_files
from hangarlog.filestore.recovery.beginning import settle_beginning
from hangarlog.filestore.recovery.rebuild import SETTLED, UNFINISHED, Rebuilt, VersionSpan, rebuild
from hangarlog.filestore.recovery.rewriting import Replaced
from hangarlog.filestore.recovery.stream_repair import Mending, break_links, forget_indexes
from hangarlog.filestore.shared_state import SharedState
from hangarlog.filestore.store import FileEventStore
from hangarlog.log.segment_name import CACHES
from hangarlog.maintenance.cursor_check import drop_damaged_cursors
from hangarlog.maintenance.file_checks import checkpoint_damage, ring_damage
from hangarlog.maintenance.projection_check import drop_damaged_states
from hangarlog.maintenance.store_view import StoreView
from hangarlog.maintenance.verify import verify
from hangarlog.record.line import StoredEnvelope, erased_record
from hangarlog.record.timestamp import now
from hangarlog.system.file_copy import DAMAGED, keep_damaged
from hangarlog.system.file_lock import FileLock, alone
from hangarlog.system.filesystem import FRESH, NO_FILE, FileSystem

__all__ = ["DAMAGED", "Lost", "PutAside", "Repaired", "repair"]

_SEGMENT_BYTES = 64 << 20  # The default that a lost `hangarlog.json` is rebuilt with.


class Repaired(NamedTuple):
    """A repaired file: its path, the source of its new content, and the path of the old file ("" if there is none)."""

    path: str
    source: str
    kept: str = ""

    def __str__(self) -> str:
        kept = f"; the old file is kept as {os.path.basename(self.kept)}" if self.kept else ""
        return f"{self.path} from {self.source}{kept}"


class PutAside(NamedTuple):
    """Whole records that were moved to `put-aside.jsonl`.

    There are `events` of them, between positions `first` and `last`. `cause` is the reason. `committed` is true if they
    may have been committed before.
    """

    first: int
    last: int
    events: int
    cause: str
    committed: bool

    def __str__(self) -> str:
        return f"{self.events} events, positions {self.first} to {self.last}: {self.cause}; see put-aside.jsonl"


class Lost(NamedTuple):
    """Events without a whole copy: positions `first` to `last`, or versions of `stream_id` if that is not empty."""

    first: int
    last: int
    stream_id: str = ""

    @property
    def events(self) -> int:
        """The number of lost events."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        what = f"versions of {self.stream_id!r}" if self.stream_id else "positions"
        return f"{what} {self.first} to {self.last}: no whole copy is left"


Result = Repaired | PutAside | Lost | CorruptionError


def repair(
    path: str | os.PathLike[str],
    progress: Progress = lambda events: None,
    *,
    lock_timeout: float | None = 60.0,
    filesystem: FileSystem | None = None,
) -> Iterator[Result]:
    """Repair the store at `path` so that it opens, verifies and takes appends.

    Yield what was done and what is lost. The journal becomes the longest history that the files in the folder prove.
    Streams are brought to agree with the journal, and wrong caches are deleted. A replaced file is kept under its name
    with `.damaged`. You can interrupt a repair at any point and run it again, and other processes may use the store. A
    lost event keeps its place in a file as a damaged line; a `CorruptionError` in the results names that place.

    Raises:
        StoreOpenError: there is no store at `path`.
        StoreFormatError: the store has a newer format.
        LockTimeoutError: other processes held a lock for `lock_timeout` seconds (None waits without limit).
        OSError: the operating system refused a call.
    """
    filesystem = filesystem or FileSystem()
    with contextlib.closing(Folder(filesystem, os.fspath(path))) as folder:
        folder.enter()
        _check_is_store(folder)
        yield from _settle_copy(folder, lock_timeout)
        with _locked(folder, lock_timeout):
            results = _repair_files(folder)
        yield from results
        yield from _open_and_verify(folder, progress)


def _settle_copy(folder: Folder, lock_timeout: float | None) -> list[Result]:
    """Let a copy open that was made while events were dropped. Then it recovers as other copies do, before the repair.

    A repair by itself would keep places for all that the copy lacks.
    """
    settled: list[Result] = []
    with contextlib.suppress(OSError, ValueError, HangarlogError):
        with contextlib.closing(
            SharedState(folder.filesystem, folder.state_path, folder.home, writable=False)
        ) as state:
            is_of_copy = state.is_of_copy
        if is_of_copy and folder.store_id:
            with _locked(folder, lock_timeout):
                settled = [Repaired(*each) for each in settle_beginning(folder)]
            if settled:
                FileEventStore.untyped(folder.path, create=False, filesystem=folder.filesystem).close()
    return settled


@contextlib.contextmanager
def _locked(folder: Folder, seconds: float | None) -> Iterator[None]:
    """Hold the write lock and the sync lock, so that no other process changes the store or its commit ring."""
    deadline = None if seconds is None else time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        for lock in (folder.write_lock(), FileLock(folder.filesystem, folder.lock_path("sync"))):
            stack.enter_context(contextlib.closing(lock))
            stack.enter_context(alone(lock))
            stack.callback(lock.release)
            if not lock.acquire(None if deadline is None else max(0.0, deadline - time.monotonic())):
                raise LockTimeoutError(folder.path, 0, seconds or 0)
        yield


# The store's identity


def _check_is_store(folder: Folder) -> None:
    """Raise `StoreOpenError` unless the folder is a store or holds the remains of one."""
    try:
        folder.open(1, create=False)
    except StoreOpenError as error:
        if _is_newer(folder) or not os.path.isdir(folder.path):
            raise
        if not _has_records(folder):
            if not error.cause.endswith(META_ADVICE):
                raise
            advice = "it has no event to repair it from: delete that file and create the store anew"
            raise StoreFormatError(folder.path, f"{error.cause.removesuffix(META_ADVICE)}; {advice}") from error


def _is_newer(folder: Folder) -> bool:
    with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = msgspec.json.decode(folder.filesystem.read_file(folder.meta_path), type=dict[str, object])
        number = found.get("format")
        return isinstance(number, int) and number > FORMAT
    return False


def _records(folder: Folder) -> Iterator[StoredEnvelope]:
    for files in (journal_files(folder), stream_files(folder)):
        for file in files:
            with opened(folder.filesystem, file.path) as segment:
                for _, found in found_in(segment) if segment else ():
                    yield from filter(None, (record or erased_record(line) for line, record in found))


def _has_records(folder: Folder) -> bool:
    return next(_records(folder), None) is not None or ring_owner(folder.filesystem, folder.ring_path) != ""


def _repair_meta(folder: Folder) -> tuple[Meta, list[Result]]:
    """Return the content of `hangarlog.json`, rebuilt from other files, records and defaults if needed."""
    try:
        return folder.open(1, create=False), []
    except StoreOpenError as error:
        if not _has_records(folder) or folder.filesystem.is_link(folder.streams_path):
            raise
        first = next(_records(folder), None)
        owner = ring_owner(folder.filesystem, folder.ring_path)
        with contextlib.suppress(CorruptionError):
            owner = owner or getattr(folder.journal.read_retained(), "store_id", "")
        owner = owner or store_of_checkpoint(folder)
        store_id = owner if is_store_id(owner) else str(uuid4())
        created = first.recorded_at if first else now().decode()
        meta = Meta(FORMAT, store_id, created, _SEGMENT_BYTES, archive=_was_archive(folder))
        kept = keep_damaged(folder.filesystem, folder.meta_path)
        folder.filesystem.replace_file(folder.meta_path, msgspec.json.format(msgspec.json.encode(meta)) + b"\n")
        return folder.open(1, create=False), [Repaired(folder.meta_path, _source_of_meta(error), kept)]


def _was_archive(folder: Folder) -> bool:
    """True if a damaged `hangarlog.json` says that the store is an archive."""
    with contextlib.suppress(OSError):
        return b'"archive": true' in folder.filesystem.read_file(folder.meta_path)
    return False


def _source_of_meta(error: StoreOpenError) -> str:
    if not isinstance(error, StoreFormatError):
        return "the defaults"
    return f"what other files say, and the defaults ({error.cause.removesuffix(META_ADVICE)})"


# The repair


def _repair_files(folder: Folder) -> list[Result]:
    """Repair every file; the caller holds both locks."""
    results = [*_set_folders_aside(folder)]
    meta, mended = _repair_meta(folder)
    results += mended
    frames: list[Frame] = []
    try:
        found = read_ring(folder.filesystem, folder.ring_path, meta.store_id)
        frames = found.older + found.frames
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        results.append(_set_aside(folder, folder.ring_path, "nothing: it is not a ring"))
    committed = _committed_before(folder)
    results += [Repaired(*each) for each in settle_beginning(folder)]
    _delete_caches(folder)
    rebuilt = rebuild(folder, frames)
    results += _results_of_rebuild(rebuilt, committed)
    results += [_repaired(replaced, "the streams") for replaced in rebuilt.replaced]
    if not rebuilt.ring_fits:
        results.append(_set_aside(folder, folder.ring_path, "nothing: it has records that the journal does not"))
    with contextlib.closing(StoreView(folder, meta.store_id)) as view:
        for damage in [*ring_damage(folder, view)[:1], *checkpoint_damage(folder, view)]:
            results.append(_set_aside(folder, damage.path, f"nothing: {damage.cause}"))
    for replaced in Mending(folder, meta.segment_bytes, rebuilt.lost_versions).run():
        results.append(_repaired(replaced, "the journal"))
    results += [Repaired(path, "itself: another folder has it too") for path in break_links(folder)]
    kept = drop_damaged_cursors(folder)
    if kept is not None:
        results.append(Repaired(folder.cursors_path, "its lines that are whole", kept))
    for path, aside in drop_damaged_states(folder):
        results.append(Repaired(path, "nothing: the projection builds it anew", aside))
    forget_indexes(folder)
    return results


def _repaired(replaced: Replaced, source: str) -> Repaired:
    return Repaired(replaced.path, source, replaced.kept)


def _set_aside(folder: Folder, path: str, source: str) -> Repaired:
    return Repaired(path, source, keep_damaged(folder.filesystem, path, remove=True))


def _set_folders_aside(folder: Folder) -> Iterator[Result]:
    """Rename folders that are in the place of the store's files, because no other step replaces a folder."""
    fixed = (folder.state_path, folder.catalog_path, folder.ids_path, folder.aside_path)
    for path in [folder.path, *folder.all_folders()]:
        folders = [entry for entry in folder.filesystem.entries(path) if entry.is_dir()]
        for entry in folders:
            if entry.path in fixed or entry.name.endswith((*CACHES, FRESH, REBUILT)):
                yield _set_aside(folder, entry.path, "nothing: it is a folder")


def _results_of_rebuild(rebuilt: Rebuilt, committed: int) -> Iterator[Result]:
    """Yield what a rebuild put aside or did not find; `committed` is the last position known before."""
    spans = list(rebuilt.lost)
    known = max([rebuilt.last, *(span.last for span in spans), *(aside.last for aside in rebuilt.aside)])
    if committed > known:
        spans.append(VersionSpan(known + 1, committed))
    yield from (Lost(span.first, span.last) for span in spans)
    yield from (Lost(span.first, span.last, span.stream_id) for span in rebuilt.lost_versions)
    for aside in rebuilt.aside:
        yield PutAside(aside.first, aside.last, aside.count, aside.cause, aside.cause not in (UNFINISHED, SETTLED))


# Caches


def _committed_before(folder: Folder) -> int:
    """Return the last committed position according to the shared state and the checkpoint."""
    committed = 0
    with contextlib.suppress(OSError, ValueError):
        state = SharedState(folder.filesystem, folder.state_path, folder.home, writable=False)
        with contextlib.closing(state):
            committed = max(state.promised)
    return max(committed, load_checkpoint(folder).position)


def _delete_caches(folder: Folder) -> None:
    """Delete the shared state and the caches of history: the next writer recovers, every process reopens its files."""
    folder.filesystem.remove(folder.state_path)
    folder.filesystem.remove(folder.catalog_path)  # It may name events that are lost.
    folder.filesystem.remove(folder.ids_path)  # It may lack events that are found again.


def _open_and_verify(folder: Folder, progress: Progress) -> list[Result]:
    """Open the store, verify it, and delete the indexes and times that are wrong."""
    serializer = EventSerializer(unknown="untyped")
    try:
        with FileEventStore(folder.path, serializer=serializer, create=False, filesystem=folder.filesystem) as store:
            damages = list(verify(store, progress))
            wrong = sorted({damage.path for damage in damages if damage.path.endswith(CACHES)})
            if wrong:
                with store.changing_files():
                    for path in wrong:
                        folder.filesystem.remove(path)
    except CorruptionError as error:
        return [error]
    cleared = [Repaired(path, "nothing: it is a cache") for path in wrong]
    return [*cleared, *(damage for damage in damages if damage.path not in wrong)]
