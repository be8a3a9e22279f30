"""Merges all intact lines of a store's files by position."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

from hangarlog.errors import CorruptionError
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.commit_ring import Frame
from hangarlog.filestore.file_names import stream_path
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.line_scan import Stretch, found_in, journal_files, opened, runs_in, stream_files
from hangarlog.filestore.snapshot_files import SnapshotFiles, snapshot_paths
from hangarlog.log.segment import CHUNK_BYTES, Segment
from hangarlog.record.line import StoredEnvelope, decode_record, is_erased
from hangarlog.record.strict import kept_record

WINDOW_BYTES = 16 << 20
"""Bytes of journal merged at a time, approximately."""

_BAD_LINE_BYTES = 256  # Bytes read for each damaged line, approximately.


class Candidate:
    """An intact line that claims a position, and the places where it was found.

    Attributes:
        runs: The runs of the journal that hold it.
        in_stream: True if a stream has it.
        in_ring: True if the commit ring has it.
        erased: True if only the event's place is left of it.
        before: The checksums of the lines before it in streams.
        after: The checksums of the lines that it follows, as the commit ring says.
    """

    __slots__ = ("after", "before", "erased", "in_ring", "in_stream", "line", "record", "runs")

    def __init__(self, line: bytes, record: StoredEnvelope) -> None:
        self.line, self.record = line, record
        self.runs: list[Stretch] = []
        self.in_stream = self.in_ring = False
        self.erased = is_erased(record)
        self.before: list[str] = []
        self.after: list[str] = []


_Window = defaultdict[int, list[Candidate]]


class _Cursor:
    """The reading position within a run. It keeps no open file and no text: there may be as many runs as streams."""

    def __init__(self, run: Stretch) -> None:
        self.run, self.next, self._offset = run, run.first, run.start
        self.before: StoredEnvelope | None = None

    def read(self, folder: Folder, stop: int) -> Iterator[tuple[int, bytes, StoredEnvelope | None]]:
        """Yield (position, line, record) of each line before position `stop`; the record of a damaged line is None."""
        with opened(folder.filesystem, self.run.path) as segment:
            if segment:
                if not self.run.whole:
                    yield from self._damaged_lines(segment, min(stop, self.run.last + 1))
                    return
                for _, found in found_in(segment, self._offset, self.run.end, journal=self.run.journal):
                    for line, record in found:
                        if record is None or self._offset >= self.run.end:
                            break
                        self.next = record.position
                        if self.next >= stop:
                            return
                        yield self.next, line, record
                        self.before = record
                        self._offset += len(line) + 1
        self.next = self.run.last + 1

    def _damaged_lines(self, segment: Segment, stop: int) -> Iterator[tuple[int, bytes, None]]:
        while self.next < stop:
            size = min(CHUNK_BYTES, _BAD_LINE_BYTES * (stop - self.next), max(1, self.run.end - self._offset))
            lines, following = segment.lines_at(self._offset, size)
            lines = lines or next(segment.rest(self._offset), [])
            if not lines:
                self.next = stop
                return
            due = lines[: stop - self.next]
            yield from ((position, line, None) for position, line in enumerate(due, self.next))
            self.next += len(due)
            self._offset = following if len(due) == len(lines) else self._offset + sum(len(line) + 1 for line in due)

    @property
    def done(self) -> bool:
        """True if nothing is left to read."""
        return self.next > self.run.last


class Merge:
    """What the files of a store, and `frames` of the commit ring, have at each position.

    Attributes:
        confirmed: {run of the journal: how many of its lines streams confirm, where other lines claim their position}.
        explained: True if each missing position belongs to a stream that is damaged, deleted or compacted. Otherwise
            there are records of another history.
        torn_apart: The runs of the journal before which lines are missing in their file.
    """

    def __init__(self, folder: Folder, frames: list[Frame]) -> None:
        self._folder, self._begins = folder, folder.journal.begins()
        self._snapshots = SnapshotFiles(folder.filesystem, folder.snapshots_path)
        self._runs: list[Stretch] = []
        self._files: set[tuple[str, str]] = set()
        self._damaged: set[tuple[str, str]] = set()
        self._ring: dict[int, list[tuple[bytes, str]]] = {}
        self.confirmed: defaultdict[Stretch, int] = defaultdict(int)
        self.explained = False
        self._snapshot = lru_cache(4096)(self._load)
        for file in journal_files(folder):
            self._runs += runs_in(folder.filesystem, file, journal=True, begins=self._begins)[0]
        self.torn_apart = [run for run in self._runs if run.whole and 0 < run.after < run.first - 1]
        whole = self._is_contiguous()
        for file in stream_files(folder):
            runs, damaged = runs_in(folder.filesystem, file, journal=False)
            self._runs += runs
            self._files.add((file.category(folder), file.name))
            if damaged:
                self._damaged.add((file.category(folder), file.name))
        for frame in frames:
            before = getattr(frame, "after", "")
            for line in frame.text.split(b"\n"):
                if record := kept_record(line):
                    self._ring.setdefault(record.position, []).append((line, before))
                    before = record.crc
        if not whole:
            self._scan_all()

    def _is_contiguous(self) -> bool:
        following = self._begins
        for run in sorted(self._runs):
            if run.first != following or not run.whole:
                return False
            following = run.last + 1
        return True

    def _load(self, stream_id: str) -> Snapshot | None:
        with contextlib.suppress(CorruptionError):
            return self._snapshots.load(stream_id)
        return None

    def through(self, stream_id: str) -> int:
        """Return the last version that a compaction has hidden from reads of a stream, or -1."""
        snapshot = self._snapshot(stream_id)
        return snapshot.compacted_through if snapshot else -1

    def _scan_all(self) -> None:
        """Read everything once to find `confirmed` and `explained`. Needed only if the journal is not intact."""
        last, missing = self._begins - 1, 0
        firsts: dict[str, int] = {}
        versions: defaultdict[str, int] = defaultdict(int)  # {stream id: how many of its records were found}
        tops: dict[str, int] = {}
        for position, candidates, _ in self.positions():
            for candidate in candidates if len(candidates) > 1 else ():
                for run in candidate.runs if candidate.in_stream else ():
                    self.confirmed[run] += 1
            if candidates:
                missing, last = missing + position - last - 1, position
                record = candidates[0].record
                versions[record.stream_id] += 1
                firsts.setdefault(record.stream_id, record.stream_version)
                tops[record.stream_id] = max(record.stream_version, tops.get(record.stream_id, 0))
        for mark in self._marks():
            tops.setdefault(mark.stream_id, mark.compacted_through)
        lost = dropped = 0
        for stream_id, top in tops.items():
            if self._explains(stream_id):
                hidden = min(firsts.get(stream_id, top + 1), self.through(stream_id) + 1) if self._begins > 1 else 0
                lost += top + 1 - versions[stream_id] - hidden
                dropped += hidden  # So many at most: the journal began earlier once.
        self.explained = missing > 0 and lost <= missing <= lost + dropped

    def _marks(self) -> Iterator[Snapshot]:
        """Yield the marks of the streams that hide events, as far as they can be read."""
        for path in snapshot_paths(self._folder.filesystem, self._folder.snapshots_path):
            with contextlib.suppress(CorruptionError, FileNotFoundError):
                mark = self._snapshots.read(path)
                if mark.compacted_through >= 0 and not mark.is_beginning:
                    yield mark

    def _explains(self, stream_id: str) -> bool:
        snapshot = self._snapshot(stream_id)
        compacted = snapshot is not None and not snapshot.is_beginning and snapshot.compacted_through >= 0
        key = stream_path(stream_id)
        return compacted or key in self._damaged or key not in self._files

    def positions(self) -> Iterator[tuple[int, list[Candidate], bytes | None]]:
        """Yield (position, intact lines that claim it, damaged line in its place) for each position found, in order.

        What lies before the journal's beginning is left out.
        """
        width = self._window_positions()
        waiting = sorted(map(_Cursor, self._runs), key=lambda cursor: cursor.next, reverse=True)
        active: list[_Cursor] = []
        ring = sorted(self._ring, reverse=True)
        while active or waiting or ring:
            nexts = [cursor.next for cursor in active] + [cursor.next for cursor in waiting[-1:]] + ring[-1:]
            stop = min(nexts) + width
            while waiting and waiting[-1].next < stop:
                active.append(waiting.pop())
            active.sort(key=lambda cursor: not cursor.run.journal)
            found: _Window = defaultdict(list)
            bad: dict[int, bytes] = {}
            for cursor in active:
                if cursor.next < stop:
                    self._read(cursor, stop, found, bad)
            while ring and ring[-1] < stop:
                for line, before in self._ring[ring.pop()]:
                    candidate = _candidate_of(found, line, decode_record(line))
                    candidate.in_ring = True
                    candidate.after += [before] if before else []
            active = [cursor for cursor in active if not cursor.done]
            for position in sorted(at for at in found.keys() | bad.keys() if at >= self._begins):
                yield position, found.get(position, []), bad.get(position)

    def _window_positions(self) -> int:
        """Return how many positions make a window."""
        whole = [run for run in self._runs if run.whole]
        size, count = sum(run.end - run.start for run in whole), sum(run.lines for run in whole)
        return max(1, WINDOW_BYTES * count // size) if size else 1

    def _read(self, cursor: _Cursor, stop: int, found: _Window, bad: dict[int, bytes]) -> None:
        for position, line, record in cursor.read(self._folder, stop):
            if record is None:
                bad.setdefault(position, line)
                continue
            candidate = _candidate_of(found, line, record)
            if cursor.run.journal:
                candidate.runs.append(cursor.run)
            else:
                before = cursor.before
                candidate.in_stream = True
                if before and (before.stream_id, before.stream_version + 1) == (
                    record.stream_id,
                    record.stream_version,
                ):
                    candidate.before.append(before.crc)


def _candidate_of(found: _Window, line: bytes, record: StoredEnvelope) -> Candidate:
    for candidate in found[record.position]:
        if candidate.line == line:
            return candidate
    candidate = Candidate(line, record)
    found[record.position].append(candidate)
    return candidate
