"""The checkpoint: a place in the journal up to which every file is known to be on the device: recovery starts there."""

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

_TRIES = 100
_LINE_BYTES = 2 << 10  # Bytes that hold most lines.


_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Checkpoint(msgspec.Struct, frozen=True):
    """What `checkpoint.json` holds.

    `position` is the last one that is covered; its line ends at offset `end` of the journal segment that begins with
    position `first`, with the checksum `line_crc`. `mark` is what the catalog was marked with. What was written before
    `begun`, in seconds since 1970 as the file system has them, it covers. `store` is the id of the store it is of.
    """

    position: _Number = 0
    first: _Number = 0
    end: _Number = 0
    line_crc: str = ""
    mark: _Number = 0
    begun: float = 0.0
    store: str = ""


def load_checkpoint(folder: Folder) -> Checkpoint:
    """The last checkpoint; one at 0 if there is none that can be read, or it is of another store."""
    try:
        checkpoint = _read(folder)
        return checkpoint if checkpoint.store == _store_id(folder) else Checkpoint()
    except (OSError, msgspec.MsgspecError, ValueError):
        return Checkpoint()


class _Store(msgspec.Struct):
    store_id: str = ""


def _store_id(folder: Folder) -> str:
    return msgspec.json.decode(folder.filesystem.read_file(folder.meta_path), type=_Store).store_id


def drop_damaged_checkpoint(folder: Folder) -> None:
    """Delete a checkpoint that says nothing: the next one takes its place."""
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
    """Whether the journal still has, at its place, the line that a checkpoint was made after."""
    journal = folder.journal
    with contextlib.suppress(OSError, CorruptionError):
        live = journal.open_live()
        if live and live.first_number() == checkpoint.first:
            with contextlib.closing(live):
                return _is_after(checkpoint, live)
        with contextlib.closing(journal.open_sealed(checkpoint.first)) as segment:
            return _is_after(checkpoint, segment)
    return False


def _is_after(checkpoint: Checkpoint, segment: Segment) -> bool:
    if segment.crc_before(checkpoint.end) != checkpoint.line_crc:
        return False
    lines, _ = segment.lines_before(checkpoint.end, _LINE_BYTES)
    with contextlib.suppress(LineError):  # It may have rotted since.
        return [place.position for place in decode_places(lines[-1:])] == [checkpoint.position]
    return True


def make_checkpoint(filesystem: FileSystem, folder: Folder, state: SharedState) -> None:
    """Bring everything to the device, then say so, unless another process is at it or the device refuses.

    Without a checkpoint a recovery has more to read; that is no reason to fail anything.
    """
    lock = FileLock(filesystem, folder.lock_path("checkpoint"))
    with contextlib.suppress(OSError, CorruptionError, msgspec.MsgspecError), contextlib.closing(lock):
        try:
            if lock.acquire(0):
                _save(filesystem, folder, state)
        finally:
            lock.release()


def _save(filesystem: FileSystem, folder: Folder, state: SharedState) -> None:
    store = _store_id(folder)  # First: another store may be in its place by the end.
    checkpoint, before = _place(folder, state), load_checkpoint(folder)
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
        # It may have grown meanwhile: into a new file, which was synced with the mark in it.
        if catalog.open() and catalog.marks()[1] == checkpoint.mark and not state.failures:
            checkpoint = msgspec.structs.replace(checkpoint, begun=begun, store=store)
            filesystem.replace_file(folder.checkpoint_path, with_crc(checkpoint))


def _place(folder: Folder, state: SharedState) -> Checkpoint | None:
    """Where the journal ends now, None where that is not to be seen: others roll it again and again."""
    for _ in range(_TRIES):
        published = state.published()
        live = folder.journal.open_live()
        if published and live:
            position, first, end = published
            with contextlib.closing(live):
                crc = live.crc_before(end) if live.first_number() == first else ""
            if crc:
                return Checkpoint(position, first, end, crc, getrandbits(62) | 1)
    return None
