"""Bringing any damaged store to one that works; what is replaced, and what is taken out, is kept beside it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple
from uuid import uuid4

import msgspec

from hangarlog.errors import CorruptionError, LockTimeoutError, StoreFormatError, StoreOpenError
from hangarlog.events.serializer import EventSerializer
from hangarlog.filestore.checkpoint import load_checkpoint
from hangarlog.filestore.commit_ring import Frame, read_ring, ring_owner
from hangarlog.filestore.folder import FORMAT, Folder, Meta, is_store_id
from hangarlog.filestore.recovery.mending import Mending, break_links, forget_indexes
from hangarlog.filestore.recovery.rebuild import SETTLED, UNFINISHED, Rebuilt, VersionSpan, rebuild
from hangarlog.filestore.recovery.rewriting import Replaced
from hangarlog.filestore.shared_state import SharedState
from hangarlog.filestore.store import FileEventStore
from hangarlog.filestore.survey import REBUILT, found_in, journal_files, opened, stream_files
from hangarlog.log.segment_name import INDEX
from hangarlog.maintenance.file_checks import checkpoint_damage, ring_damage
from hangarlog.maintenance.store_view import StoreView
from hangarlog.maintenance.verify import Progress, verify
from hangarlog.record.line import StoredEnvelope
from hangarlog.record.timestamp import now
from hangarlog.system.file_copy import DAMAGED, keep_damaged
from hangarlog.system.file_lock import FileLock, alone
from hangarlog.system.filesystem import FRESH, NO_FILE, FileSystem

__all__ = ["DAMAGED", "Lost", "PutAside", "Repaired", "repair"]

_SEGMENT_BYTES = 64 << 20


class Repaired(NamedTuple):
    """A file that was made whole: its path, from what, and the name under which the old one is kept ("": none)."""

    path: str
    source: str
    kept: str = ""

    def __str__(self) -> str:
        kept = f"; what was there is kept as {os.path.basename(self.kept)}" if self.kept else ""
        return f"{self.path} from {self.source}{kept}"


class PutAside(NamedTuple):
    """Whole records that are in `put-aside.jsonl` now: `events` of them, of positions `first` to `last`, and why.

    `committed` says whether they may have counted before.
    """

    first: int
    last: int
    events: int
    cause: str
    committed: bool

    def __str__(self) -> str:
        return f"{self.events} events, of positions {self.first} to {self.last}: {self.cause}; see put-aside.jsonl"


class Lost(NamedTuple):
    """Events of which no whole copy is left: positions, or versions of `stream_id`, from `first` to `last`."""

    first: int
    last: int
    stream_id: str = ""

    @property
    def events(self) -> int:
        """How many that are."""
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
    """Make the store at `path` one that opens, verifies and takes appends; say what was mended, put aside, and lost.

    The journal becomes the longest history that anything in the folder proves, streams become what the journal says;
    wrong caches are deleted. A file that is replaced is kept under its name with `.damaged`. It may be cut short at any
    point and run again; others may use the store. A `CorruptionError` names the place that a lost event has in a file.

    Raises:
        StoreOpenError: there is no store; StoreFormatError: its format is a newer one.
        LockTimeoutError: others had the store locked for `lock_timeout` seconds (None waits for ever).
        OSError: the system refused a call.
    """
    filesystem = filesystem or FileSystem()
    with contextlib.closing(Folder(filesystem, os.fspath(path))) as folder:
        folder.enter()
        _refuse_what_is_none(folder)
        with _locked(folder, lock_timeout):
            results = _mend(folder)
        yield from results
        yield from _opened(folder, progress)


@contextlib.contextmanager
def _locked(folder: Folder, seconds: float | None) -> Iterator[None]:
    """Both locks: nobody else may change the store, or use its ring."""
    deadline = None if seconds is None else time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        for lock in (folder.write_lock(), FileLock(folder.filesystem, folder.lock_path("sync"))):
            stack.enter_context(contextlib.closing(lock))
            stack.enter_context(alone(lock))
            stack.callback(lock.release)
            if not lock.acquire(None if deadline is None else max(0.0, deadline - time.monotonic())):
                raise LockTimeoutError(folder.path, 0, seconds or 0)
        yield


# What the store is


def _refuse_what_is_none(folder: Folder) -> None:
    """Raise unless it is a store, or what is left of one."""
    try:
        folder.open(1, create=False)
    except StoreOpenError:
        if _is_newer(folder) or not os.path.isdir(folder.path) or not _has_records(folder):
            raise


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
                    yield from (record for _, record in found if record)


def _has_records(folder: Folder) -> bool:
    return next(_records(folder), None) is not None or ring_owner(folder.filesystem, folder.ring_path) != ""


def _mend_meta(folder: Folder) -> tuple[Meta, list[Result]]:
    """What the store is; where nothing says it, that is written anew."""
    try:
        return folder.open(1, create=False), []
    except StoreOpenError as error:
        if not _has_records(folder) or folder.filesystem.is_link(folder.streams_path):
            raise
        first = next(_records(folder), None)
        owner = ring_owner(folder.filesystem, folder.ring_path)
        store_id = owner if is_store_id(owner) else str(uuid4())
        meta = Meta(FORMAT, store_id, first.recorded_at if first else now().decode(), _SEGMENT_BYTES)
        kept = keep_damaged(folder.filesystem, folder.meta_path)
        folder.filesystem.replace_file(folder.meta_path, msgspec.json.format(msgspec.json.encode(meta)) + b"\n")
        return folder.open(1, create=False), [Repaired(folder.meta_path, _source_of_meta(error), kept)]


def _source_of_meta(error: StoreOpenError) -> str:
    return (
        f"the commit ring and the defaults ({error.cause})" if isinstance(error, StoreFormatError) else "the defaults"
    )


# Mending


def _mend(folder: Folder) -> list[Result]:
    """Under the locks: everything made whole that can be."""
    results = [*_folders_put_away(folder)]
    meta, mended = _mend_meta(folder)
    results += mended
    frames: list[Frame] = []
    try:
        found = read_ring(folder.filesystem, folder.ring_path, meta.store_id)
        frames = found.older + found.frames
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        results.append(_put_away(folder, folder.ring_path, "nothing: it is no ring"))
    claimed = _claimed(folder)
    _distrust(folder)
    rebuilt = rebuild(folder, frames)
    results += _told(rebuilt, claimed)
    results += [_repaired(replaced, "the streams") for replaced in rebuilt.replaced]
    if not rebuilt.ring_fits:
        results.append(_put_away(folder, folder.ring_path, "nothing: it has what the journal has not"))
    with contextlib.closing(StoreView(folder, meta.store_id)) as watch:
        for damage in [*ring_damage(folder, watch)[:1], *checkpoint_damage(folder, watch)]:
            results.append(_put_away(folder, damage.path, f"nothing: {damage.cause}"))
    for replaced in Mending(folder, meta.segment_bytes, rebuilt.lost_versions).run():
        results.append(_repaired(replaced, "the journal"))
    results += [Repaired(path, "itself: another folder had it, too") for path in break_links(folder)]
    forget_indexes(folder)
    return results


def _repaired(replaced: Replaced, source: str) -> Repaired:
    return Repaired(replaced.path, source, replaced.kept)


def _put_away(folder: Folder, path: str, source: str) -> Repaired:
    return Repaired(path, source, keep_damaged(folder.filesystem, path, remove=True))


def _folders_put_away(folder: Folder) -> Iterator[Result]:
    """Move folders away that stand where the store makes files: nothing deletes or replaces a folder."""
    fixed = (folder.state_path, folder.catalog_path, folder.aside_path)
    for path in [folder.path, *folder.all_folders()]:
        folders = [entry for entry in folder.filesystem.entries(path) if entry.is_dir()]
        for entry in folders:
            if entry.path in fixed or entry.name.endswith((INDEX, FRESH, REBUILT)):
                yield _put_away(folder, entry.path, "nothing: it is a folder")


def _told(rebuilt: Rebuilt, claimed: int) -> Iterator[Result]:
    """What a rebuild took out of the store, and what it could not find; `claimed` is what was said to be committed."""
    spans = list(rebuilt.lost)
    known = max([rebuilt.last, *(span.last for span in spans), *(aside.last for aside in rebuilt.aside)])
    if claimed > known:
        spans.append(VersionSpan(known + 1, claimed))
    yield from (Lost(span.first, span.last) for span in spans)
    yield from (Lost(span.first, span.last, span.stream_id) for span in rebuilt.lost_versions)
    for aside in rebuilt.aside:
        yield PutAside(aside.first, aside.last, aside.count, aside.cause, aside.cause not in (UNFINISHED, SETTLED))


# The shared state, the checkpoint


def _claimed(folder: Folder) -> int:
    """The position that is said to have been committed, by the shared state or by the checkpoint."""
    claimed = 0
    with contextlib.suppress(OSError, ValueError):
        state = SharedState(folder.filesystem, folder.state_path, folder.home, writable=False)
        with contextlib.closing(state):
            claimed = max(state.promised)
    return max(claimed, load_checkpoint(folder).position)


def _distrust(folder: Folder) -> None:
    """Have whoever takes the write lock next recover as after a restart, and everybody open all files anew."""
    folder.filesystem.remove(folder.state_path)
    folder.filesystem.remove(folder.catalog_path)  # It may know of events that are lost.


def _opened(folder: Folder, progress: Progress) -> list[Result]:
    """Open the store, as anybody would, and see whether it is whole; wrong indexes are deleted."""
    serializer = EventSerializer(unknown="untyped")
    try:
        with FileEventStore(folder.path, serializer=serializer, create=False, filesystem=folder.filesystem) as store:
            damages = list(verify(store, progress))
            wrong = sorted({damage.path for damage in damages if damage.path.endswith(INDEX)})
            if wrong:
                with store.changing_files():
                    for path in wrong:
                        folder.filesystem.remove(path)
    except CorruptionError as error:
        return [error]
    cleared = [Repaired(path, "nothing: it is a cache") for path in wrong]
    return [*cleared, *(damage for damage in damages if damage.path not in wrong)]
