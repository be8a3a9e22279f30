"""Bringing the streams to what the journal has for them. For the holder of the write lock only.

Most streams have it already. So the journal's lines are sorted by stream, many at a time, and each stream's share is
compared in one read; only where it differs one looks line by line, and only then at the lines' checksums.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hangarlog.errors import CorruptionError
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.open_streams import COLD_BYTES
from hangarlog.filestore.recovery.journal_end import READ_BYTES, last_sealed
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.filestore.stream_ends import put_records_aside
from hangarlog.filestore.two_copies import journal_blocks, missing_position, stream_lines_in_journal, whole_lines
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.log import Log
from hangarlog.log.segment import CHUNK_BYTES, Segment
from hangarlog.record.envelope import LineError, Place
from hangarlog.record.line import StoredEnvelope, decode_places, decode_record, decode_records, is_record

if TYPE_CHECKING:
    from hangarlog.filestore.recovery.report import Recovered

WINDOW_BYTES = 64 << 20
"""Bytes of journal whose lines are sorted by stream at a time: enough that one stream of many has a good share."""

_NEAR_BYTES = 4 << 10
_LINES_AT_ONCE = 100  # Lines: more than a few, and less memory than is asked of the system, and zeroed, each time.

_Record = StoredEnvelope | Place
_RecordsAndLines = tuple[Sequence[_Record], list[bytes]]


class _Share:
    """What the journal has of one stream: versions, and their lines; `last` is the position of the last one."""

    __slots__ = ("last", "lines", "versions")

    def __init__(self, versions: list[int], lines: list[bytes]) -> None:
        self.versions, self.lines, self.last = versions, lines, 0


class _Shares:
    """A part of the journal, sorted by stream: the lines of positions `first` to `last`, which have `size` bytes."""

    def __init__(self) -> None:
        self.by_stream: defaultdict[str, _Share] = defaultdict(lambda: _Share([], []))
        self.first = self.last = self.size = 0

    def add(self, records: Sequence[_Record], lines: list[bytes]) -> None:
        """Lines that follow on the last ones."""
        for record, line in zip(records, lines, strict=True):
            share = self.by_stream[record.stream_id]
            share.versions.append(record.stream_version)
            share.lines.append(line)
            share.last = record.position
        self.first = self.first or records[0].position
        self.last = records[-1].position
        self.size += sum(map(len, lines))


class _End(NamedTuple):
    """How far a stream's live segment is known: up to `offset`, where `version` comes next; it has `size` bytes."""

    offset: int
    version: int
    size: int


class Replay:
    """The journal's records, written again into each stream that has not got them. What was done goes into `report`."""

    def __init__(self, folder: Folder, after: int, report: Recovered, catalog: Catalog, *, restarted: bool) -> None:
        """What is to be replayed are the records that come after position `after`."""
        self._folder, self._report, self._restarted, self._catalog = folder, report, restarted, catalog
        self.size = 0
        """How many bytes of journal there were to replay, or what takes as long."""
        self._after, self._position, self._checked = after, after + 1, False
        self._seen: _Shares | None = _Shares()
        self._ends: dict[str, _End] = {}
        self._left: set[str] = set()  # Streams whose files are damaged.
        self._lost = False  # Whether an event is damaged in both copies, and of a stream that nobody knows.

    def see(self, records: list[StoredEnvelope], lines: list[bytes]) -> None:
        """Keep records of the journal's end that somebody has checked, so that they need not be read once more."""
        skip = max(0, self._position - records[0].position)
        if self._seen is not None and skip < len(lines):
            self._seen.add(records[skip:], lines[skip:])
            if self._seen.size > WINDOW_BYTES:
                self._seen = None  # Too much to keep.

    def run(self, live_first: int, last: int) -> Iterable[str]:
        """Bring all streams of the records up to `last` to what the journal has; the ids of those streams.

        Raises:
            CorruptionError: the journal is damaged, and the streams' copy does not help.
        """
        journal = self._folder.journal
        seen, self._seen = self._seen, None
        try:
            if seen and seen.by_stream and seen.last <= last:  # Else some of it was cut off.
                self._all(_unchecked(journal, self._position, seen.first - 1))
                if self._position == seen.first:
                    self._bring_all_forward(seen)
            self._all(_unchecked(journal, self._position, last))
            if self._position <= last:
                raise missing_position(journal, self._position, last)
        except (CorruptionError, LineError):
            # Once more, each line checked, and what is damaged taken from the streams. Or it says what is wrong.
            self._checked = True
            self._all(journal_blocks(self._folder, self._position, live_first, last, pass_over=True))
        for stream_id, end in self._ends.items():
            if end.size > end.offset:
                with contextlib.closing(ActiveSegment(self._folder.stream(stream_id))) as live:
                    self._cut_rest(live, end.offset)
        return {*self._ends, *self._left}

    def _cut_rest(self, live: ActiveSegment, offset: int) -> None:
        if self._lost and not all(is_record(line) for lines in live.blocks(offset) for line in lines):
            return  # Perhaps that is what is left of such an event: its version must not be given again.
        _keep_damage(self._folder, live, offset, self._report)
        cut(self._folder, live, offset, self._report)

    def _all(self, blocks: Iterable[_RecordsAndLines]) -> None:
        shares = _Shares()
        for records, lines in blocks:
            self._lost |= records[-1].position - (shares.last or self._position - 1) > len(lines)
            shares.add(records, lines)
            if shares.size > WINDOW_BYTES:
                self._bring_all_forward(shares)
                shares = _Shares()
        self._bring_all_forward(shares)

    def _bring_all_forward(self, shares: _Shares) -> None:
        self.size += shares.size
        for stream_id, share in shares.by_stream.items():
            self._catalog.put(stream_id, share.versions[-1], share.last)
            if stream_id not in self._left:
                self.size += 0 if stream_id in self._ends else COLD_BYTES
                try:
                    self._ends[stream_id] = self._bring_forward(stream_id, share, self._ends.get(stream_id))
                except CorruptionError:
                    if not self._checked:
                        raise
                    self._left.add(stream_id)  # It is served from the journal, and for `repair` to mend.
        self._position = max(self._position, shares.last + 1)

    def _bring_forward(self, stream_id: str, share: _Share, end: _End | None) -> _End:
        """Write what the journal has for a stream and the stream has not, after cutting off what differs.

        `share` goes on where the stream's last one left off at `end`.
        """
        log = self._folder.stream(stream_id)
        with contextlib.closing(self._open(log, share, begins=end is None)) as live:
            if end is None:
                if self._restarted and self._after:
                    live.trim_index(share.versions[0] - 1)
                else:
                    forget_index(live, restarted=self._restarted)
                place = _place_of(log, live, share)
                if place is None:
                    return rebuild(self._folder, log, live, stream_id, self._report)
                end = _End(*place, live.size)
            due = self._due(share, end.version)
            return self._write_missing(live, due, end) if due.lines else end

    def _open(self, log: Log, share: _Share, *, begins: bool) -> ActiveSegment:
        if begins:
            with contextlib.suppress(FileNotFoundError):
                live = ActiveSegment(log)
                if not log.may_be_rolling(live):
                    return live  # As nearly always: it is opened once.
                live.close()
            log.finish_roll()
        try:
            return ActiveSegment(log)
        except FileNotFoundError:
            _prove(share.lines)
            self._folder.make_category(log)
            return ActiveSegment(log, new=True)

    def _due(self, share: _Share, version: int) -> _Share:
        """What is due from `version` on: all before is in a sealed segment, which was synced before it was sealed."""
        versions, lines = share.versions, share.lines
        if versions == list(range(version, version + len(lines))):
            return share
        if self._checked and versions != list(range(versions[0], versions[0] + len(versions))):
            raise CorruptionError("", "", 0, "a version between is damaged in both copies")
        due, following = _Share([], []), version
        for number, line in zip(versions, lines, strict=True):
            if number >= following:
                due.versions.append(number)
                due.lines.append(line)
                following = number + 1
        if not self._checked:
            # A line whose stream id or version is damaged is missing in one share, and too much in another.
            if versions[0] > version or versions != list(range(versions[0], versions[0] + len(lines))):
                raise LineError("versions are missing")
            _prove(lines[: len(lines) - len(due.lines)])
        return due

    def _write_missing(self, live: ActiveSegment, share: _Share, end: _End) -> _End:
        same, offset = _same(live, share.lines, end.offset)
        missing = share.lines[same:]
        if missing:
            _prove(missing)  # Before anything is cut off for them.
            _keep_damage(self._folder, live, offset, self._report, missing)
            self._report.rolled_forward += len(missing)
            cut(self._folder, live, offset, self._report, frozenset(missing))
            live.append(b"".join([line + b"\n" for line in missing]))
            offset = live.size
        return _End(offset, share.versions[-1] + 1, live.size)


def _keep_damage(
    folder: Folder, live: ActiveSegment, offset: int, report: Recovered, due: Collection[bytes] = ()
) -> None:
    """Keep and report what follows an offset in a stream, before it is replaced, if no crash leaves such a line.

    Such a line is whole, without zeros, and not a record; or it is `due`, but elsewhere, and nothing here is zeros.
    """
    due = () if due and any(b"\0" in piece for _, piece in live.pieces(offset)) else frozenset(due)
    for lines in live.blocks(offset):
        for line in lines:
            if line in due or (line and b"\0" not in line and not is_record(line)):
                folder.keep_damaged(live.path)
                cause = "the journal has another text; it was mended from the journal"
                report.damage.append(live.damage(offset, cause))
                report.damage[-1].mendable = False  # It is mended.
                return
            offset += len(line) + 1


def _same(live: ActiveSegment, lines: list[bytes], offset: int) -> tuple[int, int]:
    """(how many of the lines stand at `offset` one behind the other, the offset after them)."""
    for at in range(0, len(lines), _LINES_AT_ONCE):
        some = lines[at : at + _LINES_AT_ONCE]
        expected = b"\n".join(some) + b"\n"
        found = live.read(len(expected), offset)
        if found != expected:
            same = start = 0
            while found.startswith(some[same] + b"\n", start):
                start += len(some[same]) + 1
                same += 1
            return at + same, offset + start
        offset += len(expected)
    return len(lines), offset


def _prove(lines: list[bytes]) -> None:
    """Raise `LineError` unless each line is a whole record."""
    decode_records(lines)


def _unchecked(journal: Log, position: int, last: int) -> Iterator[_RecordsAndLines]:
    """The journal's lines from `position` to `last`, with their places; nobody has looked at their checksums."""
    if position > last:
        return
    with journal.opened(position) as (sealed, live_first, live):
        for first in sealed:
            with contextlib.closing(journal.open_sealed(first)) as segment:
                position = yield from _unchecked_in(segment, first, position, last)
        if live and live_first is not None:
            yield from _unchecked_in(live, live_first, position, last)


def _unchecked_in(segment: Segment, first: int, position: int, last: int) -> Generator[_RecordsAndLines, None, int]:
    offset, number = segment.seek(position, first)
    if position < number:
        raise segment.damage(0, f"positions {position} to {number - 1} are missing before this segment")
    while number <= last:
        lines, following = segment.lines_at(offset, READ_BYTES)
        if not lines:
            break
        places = decode_places(lines)
        if [place.position for place in places] != list(range(number, number + len(lines))):
            raise segment.damage(offset, f"position {number} and what follows it must come here")
        wanted = slice(max(0, position - number), max(0, last + 1 - number))
        if lines[wanted]:
            yield places[wanted], lines[wanted]
        offset, number = following, number + len(lines)
    return max(number, position)


def forget_index(live: ActiveSegment, *, restarted: bool) -> None:
    """Delete an index sidecar that may cover what is not there: any, after a restart."""
    if restarted:
        live.forget_index()
    else:
        live.forget_longer_index()


def _place_of(log: Log, live: ActiveSegment, share: _Share) -> tuple[int, int] | None:
    """(offset, version) where in the live segment a share belongs, or the first record that the segment can hold.

    None where the segment does not say, being damaged or short of records before it.
    """
    version, size = share.versions[0], sum(map(len, share.lines)) + len(share.lines)
    offset = _standing(live, share, size)
    if offset is not None:
        return offset, version
    lines, _ = live.lines_at(0, _NEAR_BYTES)
    if not lines:
        sealed = log.sealed()
        after = last_sealed(log, sealed[-1]).stream_version + 1 if sealed else 0
        return (0, after) if after >= version else None
    if not is_record(lines[0]):
        return None
    first = decode_record(lines[0]).stream_version
    if first >= version:
        return 0, first
    offset = _after_from_end(live, version - 1, size + _NEAR_BYTES)
    if offset is None:
        offset = _after_from_start(live, version - 1, first)
    return None if offset is None else (offset, version)


def _standing(live: ActiveSegment, share: _Share, size: int) -> int | None:
    """Where a share stands if it begins the segment, or begins `size` bytes before its end; else None."""
    line = share.lines[0] + b"\n"
    if live.read(len(line), 0) == line:
        return 0
    offset = live.size - size
    return offset if offset > 0 and live.read(len(line) + 1, offset - 1) == b"\n" + line else None


def _after_from_end(live: ActiveSegment, version: int, size: int) -> int | None:
    """The offset after the record of `version`, looked for from the end; None where that is not whole."""
    offset = live.end_offset()
    while offset:
        stop = offset
        lines, offset = live.lines_before(offset, size)
        if not lines or not is_record(lines[0]):
            return None
        before = version - decode_record(lines[0]).stream_version
        if before >= 0:
            found = before < len(lines) and is_record(lines[before])
            if not found or decode_record(lines[before]).stream_version != version:
                return None
            return stop - sum(map(len, lines[before + 1 :])) - len(lines[before + 1 :])
        size = CHUNK_BYTES
    return None


def _after_from_start(live: ActiveSegment, version: int, first: int) -> int | None:
    """The same, from the place that the index knows on, or from the beginning."""
    offset, number = live.seek(version + 1, first)
    while number <= version:
        lines, _ = live.lines_at(offset)
        for line in lines[: version + 1 - number]:
            if not is_record(line) or decode_record(line).stream_version != number:
                return None
            offset, number = offset + len(line) + 1, number + 1
        if not lines:
            return None
    return offset


def rebuild(folder: Folder, log: Log, live: ActiveSegment, stream_id: str, report: Recovered) -> _End:
    """Put what the whole journal has of a stream in the place of its live segment, at once."""
    sealed = log.sealed()
    version = last_sealed(log, sealed[-1]).stream_version + 1 if sealed else _first_kept(folder, stream_id)
    lines = [(record.stream_version, line + b"\n") for record, line in stream_lines_in_journal(folder, stream_id)]
    text = b"".join(line for number, line in lines if number >= version)
    _keep_others(folder, log, live, dict(lines), report)
    report.rolled_forward += sum(number >= version for number, _ in lines)
    report.streams_cut += live.size
    _keep_damage(folder, live, 0, report)
    log.filesystem.remove(live.index_path)
    log.filesystem.replace_file(log.live_path, text)
    return _End(len(text), lines[-1][0] + 1 if lines else version, len(text))


def _keep_others(folder: Folder, log: Log, live: ActiveSegment, lines: dict[int, bytes], report: Recovered) -> None:
    """Keep records of a stream that the journal has not, before the stream's live segment is made anew.

    Raises:
        CorruptionError: the journal has later ones: what it lacks is only here.
    """
    others = {
        record.stream_version: line for record, line in whole_lines(live) if lines.get(record.stream_version) is None
    }
    if others and min(others) < max(lines, default=-1):
        cause = f"it has stream_version {min(others)}, which the journal has lost"
        raise CorruptionError(log.live_path, os.path.basename(log.live_path), 0, cause)
    if others:
        folder.put_aside(others.values())
        report.put_aside += len(others)


def _first_kept(folder: Folder, stream_id: str) -> int:
    """The first version that a compaction has left to a stream."""
    snapshot = SnapshotFiles(folder.filesystem, folder.snapshots_path).load(stream_id)
    return snapshot.compacted_through + 1 if snapshot else 0


def cut(
    folder: Folder, live: ActiveSegment, offset: int, report: Recovered, but_for: Collection[bytes] = frozenset()
) -> None:
    """Cut a stream; what was a whole record, `but_for` those that are written again, goes where a person finds it."""
    report.put_aside += put_records_aside(folder, live, offset, but_for)
    report.streams_cut += live.size - offset
    live.cut(offset)
