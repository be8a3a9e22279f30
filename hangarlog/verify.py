"""Checking a whole store: every line, both copies of every event, every index."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hangarlog.checksum import crc32
from hangarlog.errors import CorruptionError
from hangarlog.folder import Folder
from hangarlog.index import Index, is_harmless
from hangarlog.log import Log
from hangarlog.segment import Segment
from hangarlog.snapshot import SnapshotFiles
from hangarlog.store import FileEventStore

Progress = Callable[[int], None]


class _Expected(NamedTuple):
    """What the journal has of one stream: its last version, and a checksum over its lines after the compacted ones."""

    last: int
    crc: int


def verify(store: FileEventStore, progress: Progress = lambda events: None) -> Iterator[CorruptionError]:
    """Every damage there is in what is committed now, as the error that reading it would raise.

    `progress` is told from time to time how many more records were checked; each event counts twice, once a copy.
    The store may be written to meanwhile. Memory grows with the number of streams, not of events.
    """
    committed = store.get_event_count()
    folder = store.folder
    snapshots = SnapshotFiles(folder.filesystem, folder.snapshots_path)
    streams: dict[str, _Expected] = {}
    try:
        _read_journal(folder, snapshots, committed, streams, progress)
    except CorruptionError as error:
        # Without the whole journal the streams can only be checked for themselves.
        yield error
        streams = {}
    yield from _index_damage(folder.journal)
    stored = set(folder.stream_ids())
    for stream_id in sorted(stored | streams.keys()):
        try:
            log = folder.stream(stream_id)
        except CorruptionError as error:
            yield error
            continue
        try:
            _read_stream(log, stream_id, snapshots, committed, streams.get(stream_id), bool(streams), progress)
        except CorruptionError as error:
            yield error
        yield from _index_damage(log)


def _read_journal(
    folder: Folder, snapshots: SnapshotFiles, committed: int, streams: dict[str, _Expected], progress: Progress
) -> None:
    position = 0
    through: dict[str, int] = {}
    for records, lines in folder.journal.forward_lines(1):
        for record, line in zip(records, lines, strict=True):
            if record.position > committed:
                break
            stream_id = record.stream_id
            if stream_id not in through:
                snapshot = snapshots.load(stream_id)
                through[stream_id] = snapshot.compacted_through if snapshot else -1
            known = streams.get(stream_id)
            expected = known.last + 1 if known else max(0, min(record.stream_version, through[stream_id] + 1))
            if record.position != position + 1 or record.stream_version != expected:
                cause = f"position {record.position} is {stream_id!r} version {record.stream_version}, not {expected}"
                raise _damage(folder.journal, cause)
            crc = known.crc if known else 0
            if record.stream_version > through[stream_id]:
                crc = crc32(b"\n", crc32(line, crc))
            streams[stream_id] = _Expected(record.stream_version, crc)
            position = record.position
        progress(len(records))
    if position != committed:
        raise _damage(folder.journal, f"it ends at position {position}; {committed} events were committed")


def _read_stream(
    log: Log,
    stream_id: str,
    snapshots: SnapshotFiles,
    committed: int,
    expected: _Expected | None,
    compare: bool,
    progress: Progress,
) -> None:
    snapshot = snapshots.load(stream_id)
    through = snapshot.compacted_through if snapshot else -1
    crc, version = 0, through
    last = -1
    for records, lines in log.forward_lines(0):
        for record, line in zip(records, lines, strict=True):
            if record.position > committed:
                break
            if record.stream_id != stream_id:
                raise _damage(log, f"it holds a record of stream {record.stream_id!r}")
            last = record.stream_version
            if last > through:
                version += 1
                if last != version:
                    raise _damage(log, f"stream_version {version} to {last - 1} are missing")
                crc = crc32(b"\n", crc32(line, crc))
        progress(len(records))
    if not compare or (expected is None and last < 0):
        return
    if expected is None:
        raise _damage(log, "the journal has no record of this stream")
    if last != expected.last:
        raise _damage(log, f"it ends at version {last}, the journal has it up to {expected.last}")
    if crc != expected.crc:
        raise _damage(log, "its records differ from the journal's, although each of them is whole")


def _index_damage(log: Log) -> Iterator[CorruptionError]:
    """Index sidecars are caches, but a wrong one slows reads down: it should be deleted."""
    # Text that is damaged was reported as such.
    with contextlib.suppress(CorruptionError), log.opened() as (sealed, live_first, live):
        for first in sealed:
            with contextlib.closing(log.open_sealed(first)) as segment:
                yield from _segment_index_damage(log, segment, first)
        if live and live_first is not None:
            yield from _segment_index_damage(log, live, live_first)


def _segment_index_damage(log: Log, segment: Segment, first: int) -> Iterator[CorruptionError]:
    path = f"{segment.base}.index"
    index = Index.open(log.filesystem, path, first)
    if index is None:
        if not is_harmless(log.filesystem, path):
            yield CorruptionError(path, os.path.basename(path), 0, "it is no index of its segment; delete it")
        return
    with contextlib.closing(index):
        if not _agrees(index, segment):
            yield CorruptionError(path, os.path.basename(path), 0, "it does not match its segment; delete it")


def _agrees(index: Index, segment: Segment) -> bool:
    """Whether every entry is the end of a line, and every block's checksum that of its text."""
    offset = crc = 0
    number, stop = index.first, index.covered()
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


def _damage(log: Log, cause: str) -> CorruptionError:
    return CorruptionError(log.live_path, os.path.basename(log.live_path), 0, cause)
