"""What is committed in a store that needs recovery, for a process that may not write to it.

The journal's complete batches count, and what the commit ring has after them. A torn tail is skipped. From the
checkpoint on, streams may be shorter or longer than the journal says, so later records are read from the journal.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from functools import cached_property

from hangarlog.errors import CorruptionError
from hangarlog.filestore.catalog import LOW, NO_STREAM, Catalog, Known
from hangarlog.filestore.checkpoint import load_checkpoint
from hangarlog.filestore.commit_ring import lines_of_frames, read_ring
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.salvage import ENDLESS, read_journal_lines, segments_between, stream_lines
from hangarlog.log.segment import Segment
from hangarlog.record.line import MIN_LINE_BYTES, StoredEnvelope, decode_record, is_record, says_nothing
from hangarlog.system.filesystem import FRESH


class Unrecovered:
    """What is committed, as the files alone tell.

    Attributes:
        committed: The committed position.
        stored: The last position of the journal itself.
        tail: The records after `stored`, from the commit ring.
        settled: The position up to which streams have all their records.
        ends: {stream id: last version} of the streams with records after `settled`.
        doubt: Why only a recovery, which must write, can tell what is committed; None if the files tell.

    Damage before intact records is reported when somebody reads it.
    """

    def __init__(self, folder: Folder, store_id: str) -> None:
        self.doubt: CorruptionError | None = None
        checkpoint = load_checkpoint(folder)
        dropped = folder.journal.begins() - 1
        self.stored = self.settled = max(checkpoint.position, dropped)
        self._crc = checkpoint.line_crc if checkpoint.position >= dropped else ""  # Of the line at `stored`.
        self.ends: dict[str, int] = {}
        self._starts: dict[str, int] = {}  # Their first versions after it.
        self._folder, self._mark = folder, checkpoint.mark
        self._last_seen = 0
        known = self._read_journal(folder)
        if self._last_seen < self.settled and self.settled > dropped:
            cause = f"it is at position {self.settled}, but the journal ends at {self._last_seen}"
            ahead = CorruptionError(folder.checkpoint_path, os.path.basename(folder.checkpoint_path), 0, cause)
            self.stored, self.settled, self._crc = dropped, dropped, ""
            known = self._read_journal(folder)
            self.doubt = ahead
        path = folder.journal.active_path
        if not any(map(folder.filesystem.is_there, (path, path + FRESH))):
            self.doubt = CorruptionError(path, os.path.basename(path), 0, "it is missing")
        frames = read_ring(folder.filesystem, folder.ring_path, store_id).frames
        joined = lines_of_frames(frames, self.stored, self._crc)
        known |= {position: decode_record(line) for position, line in joined.items()}
        position = self.committed = self.stored
        while (position := position + 1) in known:
            if known[position].ends_batch:
                self.committed = position
        beyond = max(known, default=0)
        if beyond >= position:  # Otherwise they begin a batch that was never committed.
            cause = f"position {position} is missing; there are records up to position {beyond}"
            self.doubt = self.doubt or CorruptionError(path, os.path.basename(path), 0, cause, position)
        self.tail = [known[position] for position in range(self.stored + 1, self.committed + 1)]
        self._note(self.tail)

    def known(self, stream_id: str) -> Known:
        """Return a stream's last version up to `settled`, -1 if it has none, and its position.

        The next version tells, which the journal has: then the position is 0. Or the catalog with the checkpoint's
        mark, or else the journal.
        """
        if stream_id in self._starts:
            return Known(self._starts[stream_id] - 1, 0)
        catalog = Catalog(self._folder.filesystem, self._folder.catalog_path)
        with contextlib.closing(catalog), contextlib.suppress(OSError):
            if catalog.open(reading=True) and self._mark in catalog.marks():
                known = catalog.get(stream_id) or NO_STREAM
                if not known.is_after(self.settled):  # What came later is taken back.
                    return known
        return self._in_journal.get(stream_id, NO_STREAM)

    @cached_property
    def _in_journal(self) -> dict[str, Known]:
        """{stream id: its last record up to `settled`}, by the whole journal."""
        journal, found = self._folder.journal, dict[str, Known]()
        for segment in segments_between(journal, journal.begins(), self.settled):
            for _, _, record in read_journal_lines(segment):
                if not isinstance(record, str) and record.position <= self.settled:
                    found[record.stream_id] = Known(record.stream_version, record.position & LOW)
        return found

    def _read_journal(self, folder: Folder) -> dict[int, StoredEnvelope]:
        """Find the last complete batch, and return {position: record} of what follows it."""
        batch: list[StoredEnvelope] = []
        unconnected: dict[int, StoredEnvelope] = {}
        before, latest = self.stored, 0
        damaged: CorruptionError | None = None  # The first line after the last complete batch that no crash explains.
        lost: list[range] = []
        may_be_lost = 0  # The most lines that the damaged text may have held: a forged record may claim any position.
        for segment in segments_between(folder.journal, before + 1, ENDLESS):
            for offset, line, record in read_journal_lines(segment):
                if isinstance(record, str) and is_record(line):
                    record = decode_record(line)  # It breaks the format, but keeps its place, as for a recovery.
                if isinstance(record, str):
                    may_be_lost += 1 + len(line) // MIN_LINE_BYTES
                    if damaged is None and not _is_torn(segment, offset, line, folder.journal.active_path):
                        damaged = segment.damage(offset, record)
                    continue
                self._last_seen = max(self._last_seen, record.position)
                if record.position <= before:
                    damaged, may_be_lost = None, 0  # It was among the settled records.
                if damaged and 0 < record.position - before - len(batch) - 1 <= may_be_lost:
                    lost.append(range(before + len(batch) + 1, record.position))
                    before = record.position - len(batch) - 1
                if record.position == before + len(batch) + 1:
                    batch.append(record)
                elif record.position > before:
                    unconnected[record.position] = record
                if batch and batch[-1] is record and record.ends_batch:
                    self._note(batch)
                    self.stored = before = record.position
                    self._crc = record.crc
                    batch, damaged, may_be_lost = [], None, 0
                elif before < record.position < latest:
                    damaged = damaged or segment.damage(offset, f"position {record.position} comes after {latest}")
                latest = max(latest, record.position)
        self._note_lost(folder, lost)
        self.doubt = damaged
        return unconnected | {record.position: record for record in batch}

    def _note(self, records: list[StoredEnvelope]) -> None:
        for record in records:
            if record.position > self.settled:
                first = self._starts.get(record.stream_id, record.stream_version)
                self._starts[record.stream_id] = min(record.stream_version, first)
            self.ends[record.stream_id] = max(record.stream_version, self.ends.get(record.stream_id, -1))

    def _note_lost(self, folder: Folder, lost: list[range]) -> None:
        """Note what the streams have at positions damaged in the journal. The ranges come in order."""
        claims: dict[int, set[bytes]] = {}
        for line, record in stream_lines(folder) if lost else ():  # Read once for all ranges.
            at = bisect_right(lost, record.position, key=lambda positions: positions.start) - 1
            if at >= 0 and record.position in lost[at]:
                claims.setdefault(record.position, set()).add(line)
        self._note([decode_record(*lines) for lines in claims.values() if len(lines) == 1])


def _is_torn(segment: Segment, offset: int, line: bytes, active_path: str) -> bool:
    """True if a crash may have left a line that is no record, or the text after the last newline, at `offset`."""
    if offset == segment.end_offset():
        return segment.path == active_path and segment.rest_may_be_torn(offset)
    return says_nothing(line)
