"""Checks of the files beside a store's events: checkpoint, commit ring, snapshots, indexes, times, names."""

from __future__ import annotations

import contextlib
import os
import sys
from bisect import bisect_right
from collections.abc import Iterator

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore import commit_ring
from hangarlog.filestore.checkpoint import Checkpoint, load_checkpoint
from hangarlog.filestore.commit_ring import BLOCK_BYTES, Frame, block_after, frames_in, ring_content
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.hidden_events import DeletedStreams
from hangarlog.filestore.id_table import IdTable, TableError
from hangarlog.filestore.salvage import read_journal_lines, segments_between
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.log.compressed_segment import CompressedSegment
from hangarlog.log.index_check import index_flaw
from hangarlog.log.log import Log
from hangarlog.log.sealed_times import SealedTimes, Span
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import index_path, sealed_times_path, times_path
from hangarlog.log.times import Times, load_times
from hangarlog.maintenance.store_view import StoreView
from hangarlog.record.checked_json import without_crc
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, decode_records, is_erased, read_crc
from hangarlog.record.strict import kept_record, record_or_cause, snapshot_flaw
from hangarlog.system.filesystem import FRESH

_RECORDS_AT_ONCE = 1 << 16


def file_damage(path: str, offset: int, cause: str, position: int | None = None) -> CorruptionError:
    """Return the error for a file that has no second copy to be repaired from."""
    return CorruptionError(path, os.path.basename(path), offset, cause, position, mendable=False)


def checkpoint_damage(folder: Folder, view: StoreView) -> list[CorruptionError]:
    """Return the damage of the checkpoint: it cannot be read, or it is ahead of the journal.

    A recovery would take a checkpoint that is ahead as proof that the journal had more.
    """
    path = folder.checkpoint_path
    try:
        found = msgspec.json.decode(without_crc(folder.filesystem.read_file(path)), type=Checkpoint)
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        cause = f"it is damaged ({error}); delete it, and the next recovery reads the whole journal"
        return [file_damage(path, 0, cause)]
    if view.is_committed(found.position) or load_checkpoint(folder) != found:  # A foreign checkpoint is ignored.
        return []
    cause = f"it is of position {found.position}, which the journal does not have; delete it if it never had"
    return [file_damage(path, 0, cause)]


# The commit ring


def ring_damage(folder: Folder, view: StoreView) -> list[CorruptionError]:
    """Return the damage of the ring: current frames that are missing, and records that differ from the journal's."""
    path = folder.ring_path
    try:
        ring, size = ring_content(folder.filesystem, path)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [file_damage(path, 0, f"it cannot be read ({error}); delete it while nobody has the store open")]
    if size != commit_ring.RING_BYTES:
        return [
            file_damage(path, size, f"it has {size} bytes, not {commit_ring.RING_BYTES}; the next sync replaces it")
        ]
    frames = {block: frame for block, frame in frames_in(ring) if frame.store == view.store_id}
    generation, following = view.ring_next
    newest = max((frame.generation for frame in frames.values()), default=0)
    if generation < newest or not following:
        generation, following = newest, 0
    current = {block: frame for block, frame in frames.items() if frame.generation == generation}
    # A power cut may have torn the first frame of the next generation, which overwrites the first ones of this one.
    begins = 0 if following else min(current, default=0)
    damages = [
        file_damage(path, block * BLOCK_BYTES, "a frame is missing before later ones; a full ring begins again")
        for block in _missing_frames(ring, current, begins, max([following - 1, *current]))
    ]
    for block, frame in current.items():
        damages += _frame_damage(folder, view, block, frame)
    return damages


def _missing_frames(ring: bytes, frames: dict[int, Frame], block: int, last: int) -> Iterator[int]:
    """Yield the first block of each gap between frames, from `block` to `last`."""
    in_gap = False
    while block <= last:
        frame = frames.get(block)
        if frame is None:
            if not in_gap:
                yield block
            in_gap, block = True, block + 1
        else:
            in_gap, block = False, block_after(ring, block, frame)


def _frame_damage(folder: Folder, view: StoreView, block: int, frame: Frame) -> Iterator[CorruptionError]:
    """Yield damage for records of a frame that differ from the journal's, or were never committed."""
    lines = {
        record.position: line
        for line in frame.text.split(b"\n")[:-1]
        if isinstance(record := record_or_cause(line), StoredEnvelope)
    }
    place = (folder.ring_path, block * BLOCK_BYTES)
    beyond = [position for position in lines if not view.is_committed(position)]
    if beyond and view.published():
        yield file_damage(*place, f"its record of position {beyond[0]} was never committed", beyond[0])
    for segment in segments_between(folder.journal, frame.first, frame.last):
        offset = 0
        with contextlib.suppress(CorruptionError):  # Its first line may be damaged.
            offset, _ = segment.seek(frame.first, segment.first_number() or 1)
        for _, line, record in read_journal_lines(segment, offset):
            if isinstance(record, str) or record.position not in lines:
                if isinstance(record, StoredEnvelope) and record.position > frame.last:
                    break
                continue
            if line != lines[record.position] and not is_erased(record) and view.is_committed(record.position):
                cause = f"its record of position {record.position} differs from the journal's"
                yield file_damage(*place, cause, record.position)


# The table of event ids


def ids_damage(folder: Folder, view: StoreView) -> list[CorruptionError]:
    """Return the damage of the table of event ids: an event that it covers and does not have.

    A table that is torn, or of another history, is not used, so it is no damage.
    """
    path = folder.ids_path
    try:
        table = IdTable.open(folder.filesystem, path, view.store_id, writable=False)
    except (FileNotFoundError, TableError):
        return []
    except OSError as error:
        return [file_damage(path, 0, f"it cannot be read ({error}); delete it")]
    with contextlib.closing(table), contextlib.suppress(TableError):
        lacks, covered = 0, False
        for records in _records_up_to(folder, table.covered.position):
            covered = read_crc(records[-1]) == table.covered.crc and records[-1].position == table.covered.position
            keys = {table.key(record.event_id): record.position for record in records}
            lacks = lacks or min((keys[key] for key in table.missing(keys)), default=0)
        if lacks and covered:
            return [file_damage(path, 0, f"it does not have the event at position {lacks}; delete it", lacks)]
    return []


def _records_up_to(folder: Folder, last: int) -> Iterator[list[StoredEnvelope]]:
    """Yield the whole records of the journal up to a position, many at a time."""
    records: list[StoredEnvelope] = []
    for segment in segments_between(folder.journal, 1, last):
        for _, _, record in read_journal_lines(segment):
            if not isinstance(record, StoredEnvelope):
                continue
            if record.position > last:
                break
            records.append(record)
            if len(records) == _RECORDS_AT_ONCE:
                yield records
                records = []
    if records:
        yield records


# Snapshots


def snapshot_damage(folder: Folder, compacted: dict[str, int]) -> Iterator[CorruptionError]:
    """Yield damage for snapshots that are not whole, or whose file name belongs to another stream.

    Fills `compacted`: the last compacted version of each stream with a snapshot, -1 if none is compacted.
    """
    snapshots, deleted = SnapshotFiles(folder.filesystem, folder.snapshots_path), DeletedStreams(folder)
    for path in _files(folder, folder.snapshots_path, ".json"):
        try:
            snapshot, text, _ = snapshots.read_whole(path)
            flaw = snapshot_flaw(text, snapshot.version)
        except FileNotFoundError:
            continue
        except CorruptionError as error:
            yield error
            continue
        if flaw:
            yield file_damage(path, 0, f"{flaw}; delete it, and save a new snapshot")
        if snapshot.deleted_through >= 0 and not deleted.knows(snapshot.stream_id):
            yield file_damage(path, 0, "its stream is deleted, but not in `deleted`, so it is listed")
        if path == snapshots.path(snapshot.stream_id):
            compacted[snapshot.stream_id] = snapshot.compacted_through
        else:
            cause = f"it is of stream {snapshot.stream_id!r}, whose snapshot has another file name; delete it"
            yield file_damage(path, 0, cause)


def _files(folder: Folder, top: str, suffix: str) -> Iterator[str]:
    """Yield the files with a suffix in `top` and in its folders, one level down."""
    for entry in folder.filesystem.entries(top):
        if entry.is_dir():
            for file in folder.filesystem.entries(entry.path):
                if file.name.endswith(suffix):
                    yield file.path
        elif entry.name.endswith(suffix):
            yield entry.path


# Names of segments


def foreign_segments(log: Log) -> list[CorruptionError]:
    """Return damage for sealed segments that cannot belong to a log, because its active segment begins before them.

    A log with sealed segments and no active one is damaged too.
    """
    active = log.open_active()
    if active is None:
        if log.filesystem.is_there(log.active_path + FRESH) or not any(
            _holds_records(log, first) for first in log.sealed()
        ):
            return []
        cause = "it is missing, but the log has sealed segments"
        return [CorruptionError(log.active_path, os.path.basename(log.active_path), 0, cause)]
    damages = []
    with contextlib.closing(active):
        begins = None
        with contextlib.suppress(CorruptionError):
            begins = active.first_number()
        identity = log.filesystem.identity(active.fd)
        for first in log.sealed() if begins is not None else []:
            path = log.sealed_path(first)
            other = log.filesystem.identity_at(path) != identity  # After an interrupted roll it is the same file,
            other = other and not (first == begins and _is_same_text(log, path))  # or in a copy the same text.
            if begins is not None and first >= begins and other and _holds_records(log, first):
                cause = f"this log's active segment begins with {log.field} {begins}, before this one; move it away"
                damages.append(file_damage(path, 0, cause))
    return damages


def _is_same_text(log: Log, path: str) -> bool:
    """True if a file has the same bytes as the active segment."""
    same_size = log.filesystem.size_at(path) == log.filesystem.size_at(log.active_path)
    return same_size and log.filesystem.begin_alike(log.active_path, path)


def _holds_records(log: Log, first: int) -> bool:
    """True if a file named like a sealed segment begins with a record; other files are not the store's."""
    with contextlib.suppress(CorruptionError, FileNotFoundError), contextlib.closing(log.open_sealed(first)) as segment:
        return segment.first_number() is not None
    return False


# Indexes and times


def index_damage(log: Log) -> list[CorruptionError]:
    """Return damage for indexes and recorded times that do not match their segments.

    Both are caches. A wrong index slows reads down; wrong times may hide events from reads that ask for a time.
    """
    found: list[CorruptionError] = []
    # Damaged lines are reported by the checks of the log.
    with contextlib.suppress(CorruptionError), log.opened() as (sealed, active_first, active):
        spans = SealedTimes(log.filesystem, log.base) if sealed else None
        for first in sealed:
            with contextlib.closing(log.open_sealed(first)) as segment:
                found += _segment_index_damage(log, segment, first)
                found += _segment_times_damage(segment, first)
                if spans and (span := spans.find(first, log.sealed_mark(first))):
                    found += _span_damage(log, segment, span)
        if active and active_first is not None:
            found += _segment_index_damage(log, active, active_first)
            found += _segment_times_damage(active, active_first)
    return found


def _segment_index_damage(log: Log, segment: Segment, first: int) -> Iterator[CorruptionError]:
    if isinstance(segment, CompressedSegment) and not segment.has_tables_for(first):
        cause = "its tables are damaged, so it is unpacked as a whole; `hangarlog compress` writes them anew"
        yield CorruptionError(segment.path, os.path.basename(segment.path), segment.file_bytes, cause, mendable=False)
    elif isinstance(segment, CompressedSegment) and not segment.compressed.tables_agree():
        cause = "its tables do not match its text; run `zstd -d --rm` on it, then `hangarlog compress`"
        yield CorruptionError(segment.path, os.path.basename(segment.path), segment.file_bytes, cause, mendable=False)
    if cause := index_flaw(segment, first):
        path = index_path(segment.base)
        yield CorruptionError(path, os.path.basename(path), 0, f"{cause}; delete it")


def _segment_times_damage(segment: Segment, first: int) -> Iterator[CorruptionError]:
    times = load_times(segment, first, segment.base)
    if times and not _holds_all_times(times, segment):
        path = times_path(segment.base)
        yield CorruptionError(path, os.path.basename(path), 0, "it does not match its segment; delete it")


def _span_damage(log: Log, segment: Segment, span: Span) -> Iterator[CorruptionError]:
    """Yield damage if a segment has a time outside of its span in the file of the log's sealed segments."""
    own, times = load_times(segment, span.first, segment.base), span.times(sys.maxsize)
    proved = own and own.earliest >= span.earliest and own.latest <= span.latest and own.blocks[-1][0] >= span.following
    if not proved and not _holds_all_times(times, segment):
        path = sealed_times_path(log.base)
        yield CorruptionError(
            path, os.path.basename(path), 0, f"it does not match {os.path.basename(segment.path)}; delete it"
        )


def _holds_all_times(times: Times, segment: Segment) -> bool:
    """True if every record of the blocks was recorded between the earliest and the latest time of its block."""
    ends = [following for following, _, _ in times.blocks]
    for lines in segment.blocks():
        try:
            records = decode_records(lines)
        except LineError:  # The checks of the log report it.
            records = [*filter(None, map(kept_record, lines))]
        for record in records:
            at = bisect_right(ends, segment.number_of(record))
            if at == len(ends):
                return True
            _, earliest, latest = times.blocks[at]
            if not max(times.earliest, earliest) <= record.recorded_at <= min(times.latest, latest):
                return False
    return True
