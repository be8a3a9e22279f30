"""The checkpoint: a place in the journal up to which every file is on the device. Recovery starts there."""

from __future__ import annotations

import contextlib
import errno
from random import getrandbits
from typing import Annotated

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.shared_state import SharedState
from hangarlog.log.segment import Segment
from hangarlog.record.checked_json import with_crc, without_crc
from hangarlog.record.envelope import LineError
from hangarlog.record.line import decode_places
from hangarlog.system.file_lock import FileLock
from hangarlog.system.filesystem import FileSystem

_FORMAT = 1
_TRIES = 100
_LINE_BYTES = 2 << 10  # Most lines are no longer.


_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Checkpoint(msgspec.Struct, frozen=True):
    """The contents of `checkpoint.json`.

    Attributes:
        position: The last position covered.
        first: The first position of the journal segment with that record.
        end: The offset after that record's line.
        line_crc: The checksum of that line.
        mark: The number that the checkpoint wrote into the catalog.
        begun: Everything written before this time is covered. Seconds since 1970, by the file system's clock.
        store: The store's id.
        format: The format of the file. One of another format is not used.
    """

    position: _Number = 0
    first: _Number = 0
    end: _Number = 0
    line_crc: str = ""
    mark: _Number = 0
    begun: float = 0.0
    store: str = ""
    format: int = _FORMAT


def load_checkpoint(folder: Folder) -> Checkpoint:
    """Return the last checkpoint; one at position 0 if it is missing, not readable, or of another store or format."""
    try:
        checkpoint = _read(folder)
        ours = (checkpoint.store, checkpoint.format) == (_store_id(folder), _FORMAT)
        return checkpoint if ours else Checkpoint()
    except (OSError, msgspec.MsgspecError, ValueError):
        return Checkpoint()


def store_of_checkpoint(folder: Folder) -> str:
    """Return the store's id as the checkpoint has it, "" if there is none that fits the journal."""
    with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
        checkpoint = _read(folder)
        return checkpoint.store if fits(checkpoint, folder) else ""
    return ""


class _Store(msgspec.Struct):
    store_id: str = ""


def _store_id(folder: Folder) -> str:
    return msgspec.json.decode(folder.filesystem.read_file(folder.meta_path), type=_Store).store_id


def drop_damaged_checkpoint(folder: Folder) -> None:
    """Delete a damaged checkpoint. The next one replaces it."""
    try:
        _read(folder)
    except FileNotFoundError:
        return
    except (msgspec.MsgspecError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EFBIG:
            raise
        folder.filesystem.remove(folder.checkpoint_path)


def _read(folder: Folder) -> Checkpoint:
    return msgspec.json.decode(without_crc(folder.filesystem.read_file(folder.checkpoint_path)), type=Checkpoint)


def fits(checkpoint: Checkpoint, folder: Folder) -> bool:
    """True if the journal still has the checkpoint's line at its place."""
    journal = folder.journal
    with contextlib.suppress(OSError, CorruptionError):
        active = journal.open_active()
        if active and active.first_number() == checkpoint.first:
            with contextlib.closing(active):
                return _has_line(checkpoint, active)
        with contextlib.closing(journal.open_sealed(checkpoint.first)) as segment:
            return _has_line(checkpoint, segment)
    return False


def _has_line(checkpoint: Checkpoint, segment: Segment) -> bool:
    if segment.crc_before(checkpoint.end) != checkpoint.line_crc:
        return False
    lines, _ = segment.lines_before(checkpoint.end, _LINE_BYTES)
    with contextlib.suppress(LineError):  # The line may be damaged by now.
        return [place.position for place in decode_places(lines[-1:])] == [checkpoint.position]
    return True


def make_checkpoint(filesystem: FileSystem, folder: Folder, state: SharedState, seconds: float | None = 0) -> None:
    """Sync everything, then record a checkpoint. Do nothing if the device refuses.

    Wait for `seconds` (None: without limit) while another process makes one, then do nothing.

    No error is raised: without a checkpoint, recovery only has more to read.
    """
    lock = FileLock(filesystem, folder.lock_path("checkpoint"))
    with contextlib.suppress(OSError, CorruptionError, msgspec.MsgspecError), contextlib.closing(lock):
        try:
            if lock.acquire(seconds):
                _save(filesystem, folder, state)
        finally:
            lock.release()


def _save(filesystem: FileSystem, folder: Folder, state: SharedState) -> None:
    store = _store_id(folder)  # First, because another store may be in its place by the end.
    checkpoint, before = _journal_end(folder, state), load_checkpoint(folder)
    catalog = Catalog(filesystem, folder.catalog_path)
    if checkpoint is None or not catalog.open():
        return
    with contextlib.closing(catalog):
        catalog.mark(before.mark, checkpoint.mark)
        begun = filesystem.modified_at(folder.catalog_path)
        try:
            filesystem.sync_everything(folder.path, folder.all_folders())
        except OSError:
            state.mark_sync_failed()
            raise
        # It may have grown meanwhile, into a new file that was synced with the mark in it.
        if catalog.open() and catalog.marks()[1] == checkpoint.mark and not state.failures:
            checkpoint = msgspec.structs.replace(checkpoint, begun=begun, store=store)
            filesystem.replace_file(folder.checkpoint_path, with_crc(checkpoint))


def _journal_end(folder: Folder, state: SharedState) -> Checkpoint | None:
    """Return where the journal ends now, or None if writers keep rolling it.

    If the active segment is empty, as in an archive, it ends with the last sealed one.
    """
    for _ in range(_TRIES):
        published = state.published()
        active = folder.journal.open_active()
        if published and active:
            position, first, end = published
            with contextlib.closing(active):
                crc = active.crc_before(end) if active.first_number() == first else ""
            if not active.size and (sealed := folder.journal.sealed()):
                with contextlib.closing(folder.journal.open_sealed(first := sealed[-1])) as segment:
                    crc, end = segment.crc_before(segment.size), segment.size
                    if not _has_line(Checkpoint(position, first, end, crc), segment):
                        continue
            if crc:
                return Checkpoint(position, first, end, crc, getrandbits(62) | 1)
    return None
