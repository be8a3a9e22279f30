"""Checks of what a store keeps beside its events: snapshots, checkpoint, commit ring, index sidecars, file names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore import commit_ring
from hangarlog.filestore.checkpoint import Checkpoint, load_checkpoint
from hangarlog.filestore.commit_ring import BLOCK_BYTES, Frame, block_after, frames_in, ring_content
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.salvage import read_lines, segments_between
from hangarlog.filestore.snapshot_files import MAX_SNAPSHOT_BYTES, SnapshotFiles
from hangarlog.log.index import STRIDE_BYTES, Index, is_harmless
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import index_path, text_path
from hangarlog.maintenance.store_view import StoreView
from hangarlog.record.checked_json import without_crc
from hangarlog.record.checksum import crc32
from hangarlog.record.line import StoredEnvelope
from hangarlog.record.strict import record_or_cause, snapshot_flaw
from hangarlog.system.filesystem import FRESH


def of_file(path: str, offset: int, cause: str, position: int | None = None) -> CorruptionError:
    """The error for a small file, which `repair` leaves as it is."""
    return CorruptionError(path, os.path.basename(path), offset, cause, position, mendable=False)


def checkpoint_damage(folder: Folder, watch: StoreView) -> list[CorruptionError]:
    """A checkpoint that cannot be read, or is ahead of the journal: a recovery would believe that more was there."""
    path = folder.checkpoint_path
    try:
        found = msgspec.json.decode(without_crc(folder.filesystem.read_file(path)), type=Checkpoint)
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        return [of_file(path, 0, f"it is no whole checkpoint ({error}); delete it, a recovery reads more then")]
    if watch.is_committed(found.position) or load_checkpoint(folder) != found:  # One of another store is not believed.
        return []
    cause = f"it is of position {found.position}, which the journal does not have; delete it if that was never there"
    return [of_file(path, 0, cause)]


# The ring


def ring_damage(folder: Folder, watch: StoreView) -> list[CorruptionError]:
    """A ring with a frame that is not whole among those that count, or with other records than the journal."""
    path = folder.ring_path
    try:
        ring, size = ring_content(folder.filesystem, path)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [of_file(path, 0, f"it cannot be read ({error}); delete it while nobody has the store open")]
    if size != commit_ring.RING_BYTES:
        return [of_file(path, size, f"it has {size} bytes, not {commit_ring.RING_BYTES}; the next sync makes it anew")]
    frames = {block: frame for block, frame in frames_in(ring) if frame.store == watch.store_id}
    generation, following = watch.ring_next
    newest = max((frame.generation for frame in frames.values()), default=0)
    if generation < newest or not following:
        generation, following = newest, 0
    current = {block: frame for block, frame in frames.items() if frame.generation == generation}
    # A power cut may have torn the first frame of the next generation, which was written over those of this one.
    begins = 0 if following else min(current, default=0)
    damages = [
        of_file(
            path, block * BLOCK_BYTES, "there is no whole frame here, and later ones follow; a full ring begins anew"
        )
        for block in _holes(ring, current, begins, max([following - 1, *current]))
    ]
    for block, frame in current.items():
        damages += _contradictions(folder, watch, block, frame)
    return damages


def _holes(ring: bytes, frames: dict[int, Frame], block: int, last: int) -> Iterator[int]:
    """The first block of each stretch from `block` to block `last` that belongs to no frame."""
    hole = False
    while block <= last:
        frame = frames.get(block)
        if frame is None:
            if not hole:
                yield block
            hole, block = True, block + 1
        else:
            hole, block = False, block_after(ring, block, frame)


def _contradictions(folder: Folder, watch: StoreView, block: int, frame: Frame) -> Iterator[CorruptionError]:
    """Records of a frame that are others than the journal's, or that were never committed."""
    lines = {
        record.position: line
        for line in frame.text.split(b"\n")[:-1]
        if isinstance(record := record_or_cause(line), StoredEnvelope)
    }
    place = (folder.ring_path, block * BLOCK_BYTES)
    beyond = [position for position in lines if not watch.is_committed(position)]
    if beyond and watch.now():
        yield of_file(*place, f"its record of position {beyond[0]} is behind what was committed", beyond[0])
    for segment in segments_between(folder.journal, frame.first, frame.last):
        offset = 0
        with contextlib.suppress(CorruptionError):  # Its first line may be damaged.
            offset, _ = segment.seek(frame.first, segment.first_number() or 1)
        for _, line, record in read_lines(segment, offset):
            if isinstance(record, str) or record.position not in lines:
                if isinstance(record, StoredEnvelope) and record.position > frame.last:
                    break
                continue
            if line != lines[record.position] and watch.is_committed(record.position):
                cause = f"its record of position {record.position} is another one than the journal's"
                yield of_file(*place, cause, record.position)


# Snapshots


def snapshot_damage(folder: Folder, through: dict[str, int]) -> Iterator[CorruptionError]:
    """Snapshots that are not whole, or not of the stream whose name they have; fills `through`, by stream.

    That is the last version which is compacted away.
    """
    snapshots = SnapshotFiles(folder.filesystem, folder.snapshots_path)
    for path in _files(folder, folder.snapshots_path, ".json"):
        try:
            snapshot = snapshots.read(path)
            flaw = snapshot_flaw(folder.filesystem.read_file(path, MAX_SNAPSHOT_BYTES), snapshot.version)
        except FileNotFoundError:
            continue
        except CorruptionError as error:
            yield error
            continue
        if flaw:
            yield of_file(path, 0, f"{flaw}; delete it, a snapshot can be made again")
        if path == snapshots.path(snapshot.stream_id):
            through[snapshot.stream_id] = snapshot.compacted_through
        else:
            cause = f"it is of stream {snapshot.stream_id!r}, which has another name; delete it"
            yield of_file(path, 0, cause)


def _files(folder: Folder, top: str, suffix: str) -> Iterator[str]:
    for entry in folder.filesystem.entries(top):
        if entry.is_dir():
            for file in folder.filesystem.entries(entry.path):
                if file.name.endswith(suffix):
                    yield file.path
        elif entry.name.endswith(suffix):
            yield entry.path


# RolledStream


def foreign_segments(log: Log) -> list[CorruptionError]:
    """Sealed segments that are none of a log, because it has a live end that begins before them."""
    live = log.open_live()
    if live is None:
        if log.filesystem.is_there(log.live_path + FRESH) or not any(
            _holds_records(log, first) for first in log.sealed()
        ):
            return []
        cause = "it is gone; its sealed segments are there"
        return [CorruptionError(log.live_path, os.path.basename(log.live_path), 0, cause)]
    damages = []
    with contextlib.closing(live):
        begins = None
        with contextlib.suppress(CorruptionError):
            begins = live.first_number()
        identity = log.filesystem.identity(live.fd)
        for first in log.sealed() if begins is not None else []:
            path = text_path(log.sealed_base(first))
            other = log.filesystem.identity_at(path) != identity  # Else a roll was cut short.
            if begins is not None and first >= begins and other and _holds_records(log, first):
                cause = f"it is no segment of this log, whose live end begins with {log.field} {begins}; move it away"
                damages.append(of_file(path, 0, cause))
    return damages


def _holds_records(log: Log, first: int) -> bool:
    """Whether a file with the name of a sealed segment begins with a record: else it is somebody else's."""
    with contextlib.suppress(CorruptionError, FileNotFoundError), contextlib.closing(log.open_sealed(first)) as segment:
        return segment.first_number() is not None
    return False


# Indexes


def index_damage(log: Log) -> list[CorruptionError]:
    """Index sidecars are caches, but a wrong one slows reads down: it should be deleted."""
    found: list[CorruptionError] = []
    # Text that is damaged was reported as such.
    with contextlib.suppress(CorruptionError), log.opened() as (sealed, live_first, live):
        for first in sealed:
            with contextlib.closing(log.open_sealed(first)) as segment:
                found += _segment_index_damage(log, segment, first)
        if live and live_first is not None:
            found += _segment_index_damage(log, live, live_first)
    return found


def _segment_index_damage(log: Log, segment: Segment, first: int) -> Iterator[CorruptionError]:
    path = index_path(segment.base)
    index = Index.open(log.filesystem, path, max(segment.size, STRIDE_BYTES), first)
    if index is None:
        if not is_harmless(log.filesystem, path):
            yield CorruptionError(path, os.path.basename(path), 0, "it is no index of its segment; delete it")
        return
    with contextlib.closing(index):
        covered = index.covered()
        with contextlib.closing(segment.again()) as grown:  # A writer may have appended since it was opened.
            if index.is_too_long or not _agrees(index, grown, covered):
                yield CorruptionError(path, os.path.basename(path), 0, "it does not match its segment; delete it")


def _agrees(index: Index, segment: Segment, stop: int) -> bool:
    """Whether every entry is the end of a line, and every block's checksum that of its text, up to offset `stop`."""
    offset = crc = 0
    number = index.first
    while offset < stop:
        lines, following = segment.lines_at(offset)
        ends, crcs = index.entries(number, min(len(lines), index.first + index.count - number))
        if not ends:
            return False
        for line, end, block_crc in zip(lines, ends, crcs, strict=False):
            crc = crc32(b"\n", crc32(line, crc))
            offset += len(line) + 1
            if end != offset or block_crc not in (0, crc):
                return False
            crc = 0 if block_crc else crc
        number, offset = number + len(ends), min(following, stop)
    return True
