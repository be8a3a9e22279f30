"""Makes the streams match the journal. For the holder of the write lock only.

Most streams already do. So the journal's lines are sorted by stream, many at a time, and each stream's share is
compared in one read. Only if a share differs are its lines compared one by one and their checksums verified.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hangarlog.errors import CorruptionError
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.hidden_events import kept_lines
from hangarlog.filestore.open_streams import COLD_BYTES
from hangarlog.filestore.recovery.journal_end import READ_BYTES, last_record_of_sealed
from hangarlog.filestore.recovery.shares import Record, Share, Shares
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.filestore.stream_ends import cut_durably, put_records_aside
from hangarlog.filestore.two_copies import (
    better_copies,
    journal_blocks,
    missing_position,
    stream_lines_in_journal,
    whole_lines,
)
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.log import Log
from hangarlog.log.segment import CHUNK_BYTES, Segment
from hangarlog.record.cursor_move import CursorPlace, carried_move
from hangarlog.record.envelope import LineError
from hangarlog.record.line import (
    StoredEnvelope,
    decode_places,
    decode_record,
    decode_records,
    erased_in_journal,
    erased_line,
    is_erased,
    is_record,
    says_nothing,
)

if TYPE_CHECKING:
    from hangarlog.filestore.recovery.report import Recovered

WINDOW_BYTES = 64 << 20
"""Bytes of journal sorted by stream at a time: enough that one stream of many has a good share."""

_NEAR_BYTES = 4 << 10
_LINES_AT_ONCE = 100  # Lines compared per read: for more, the system would map and zero new memory each time.

_RecordsAndLines = tuple[Sequence[Record], list[bytes]]


class _End(NamedTuple):
    """The end of the verified part of a stream's active segment: `version` comes next, at `offset` of `size` bytes."""

    offset: int
    version: int
    size: int


class Replay:
    """Writes the journal's records into each stream that lacks them, and notes in `report` what was done."""

    def __init__(
        self, folder: Folder, after: int, report: Recovered, catalog: Catalog, *, restarted: bool, synced: bool
    ) -> None:
        """Replay the records after position `after`, up to which all indexes are on the device if `synced`."""
        self._folder, self._report, self._restarted, self._catalog = folder, report, restarted, catalog
        self.size = 0
        """Bytes of journal that were replayed, plus an equivalent for each stream opened."""
        self.moves: dict[str, tuple[int, CursorPlace]] = {}
        """{name of a cursor: (position of the last record that carries a move of it, where that leads)}."""
        self._synced, self._position, self._checked = synced, after + 1, False
        self._seen: Shares | None = Shares()
        self._ends: dict[str, _End] = {}
        self._damaged: set[str] = set()  # Streams whose files are damaged.
        self._erased: dict[str, StoredEnvelope] = {}  # The last erased event of each stream that has some.
        self._lost = False  # True if both copies of an event are damaged, and its stream is unknown.

    def see(self, records: list[StoredEnvelope], lines: list[bytes]) -> None:
        """Keep verified records of the journal's end, so that they need not be read again."""
        skip = max(0, self._position - records[0].position)
        if self._seen is not None and skip < len(lines):
            self._seen.add(records[skip:], lines[skip:])
            if self._seen.size > WINDOW_BYTES:
                self._seen = None  # Too large to keep in memory.

    def run(self, active_first: int, last: int) -> Iterable[str]:
        """Make all streams match the journal's records up to `last`, and return the ids of those streams.

        Raises:
            CorruptionError: the journal is damaged, and the streams do not have what is missing.
        """
        journal = self._folder.journal
        seen, self._seen = self._seen, None
        try:
            if seen and seen.by_stream and seen.last <= last:  # Otherwise a part of it was cut off.
                self._replay(_unchecked(journal, self._position, seen.first - 1))
                if self._position == seen.first:
                    self._update_streams(seen)
            self._replay(_unchecked(journal, self._position, last))
            if self._position <= last:
                raise missing_position(journal, self._position, last)
        except (CorruptionError, LineError):
            # Again, with each line verified, and damaged ones read from the streams. If they have none, this raises.
            self._checked = True
            self._replay(journal_blocks(self._folder, self._position, active_first, last, pass_over=True))
        self._end_erased()
        for stream_id, end in self._ends.items():
            if end.size > end.offset:
                with contextlib.closing(ActiveSegment(self._folder.stream(stream_id))) as active:
                    self._cut_rest(active, end.offset)
        return {*self._ends, *self._damaged}

    def _cut_rest(self, active: ActiveSegment, offset: int) -> None:
        if self._lost and not all(is_record(line) for lines in active.blocks(offset) for line in lines):
            return  # The rest may be a lost event, whose version must not be given again.
        _keep_damage(self._folder, active, offset, self._report)
        cut(self._folder, active, offset, self._report)

    def _replay(self, blocks: Iterable[_RecordsAndLines]) -> None:
        shares = Shares()
        for records, lines in blocks:
            self._lost |= records[-1].position - (shares.last or self._position - 1) > len(lines)
            shares.add(records, lines)
            if shares.size > WINDOW_BYTES:
                self._update_streams(shares)
                shares = Shares()
        self._update_streams(shares)

    def _update_streams(self, shares: Shares) -> None:
        self.size += shares.size
        for stream_id, share in shares.by_stream.items():
            erased = map(erased_in_journal, share.erased)
            for move in filter(None, map(carried_move, [*erased, *share.lines])):
                if move[0] >= self.moves.get(move[1].name, move)[0]:
                    self.moves[move[1].name] = move
            if stream_id not in self._damaged:
                self.size += 0 if stream_id in self._ends else COLD_BYTES
                try:
                    if share.erased:
                        self._pass_over(stream_id, share.erased[-1])
                    if share.lines:
                        self._ends[stream_id] = self._update_stream(stream_id, share, self._ends.get(stream_id))
                except CorruptionError:
                    if not self._checked:
                        raise
                    self._damaged.add(stream_id)  # Reads use the journal instead, and `repair` restores the stream.
            self._catalog.put(stream_id, share.version, share.last)  # Only now: an unchecked line may be damaged.
        self._position = max(self._position, shares.last + 1)

    def _pass_over(self, stream_id: str, erased: StoredEnvelope) -> None:
        """Take note that the journal has erased what it has of a stream up to here."""
        self._erased[stream_id] = erased
        end = self._ends.get(stream_id)
        if end and end.version <= erased.stream_version:
            # Its file begins with what is hidden, too.
            with contextlib.closing(ActiveSegment(self._folder.stream(stream_id))) as active:
                log = self._folder.stream(stream_id)
                self._ends[stream_id] = rebuild(self._folder, log, active, stream_id, self._report)

    def _end_erased(self) -> None:
        """Keep the versions of the streams of which the journal has only erased events."""
        for stream_id, erased in self._erased.items():
            if stream_id in self._ends or stream_id in self._damaged:
                continue
            log = self._folder.stream(stream_id)
            with contextlib.suppress(CorruptionError):
                last = log.last_record()
                if last and last.stream_version == erased.stream_version:
                    self._damaged.add(stream_id)  # Nothing is missing.
                    continue
            share = Share([erased.stream_version], [erased_line(erased).removesuffix(b"\n")])
            try:
                self._ends[stream_id] = self._update_stream(stream_id, share, None)
            except CorruptionError:
                self._damaged.add(stream_id)

    def _update_stream(self, stream_id: str, share: Share, end: _End | None) -> _End:
        """Write what a stream lacks of its share, after cutting off what differs.

        The share continues where the stream's previous one ended, at `end`.
        """
        log = self._folder.stream(stream_id)
        with contextlib.closing(self._open(log, share, begins=end is None)) as active:
            if end is None:
                if self._restarted and self._synced:
                    active.trim_index(share.versions[0] - 1)
                else:
                    forget_index(active, restarted=self._restarted)
                place = _place_of(log, active, share)
                if place is None:
                    return rebuild(self._folder, log, active, stream_id, self._report)
                end = _End(*place, active.size)
            due = self._due(share, end.version)
            if due.lines and not end.offset:
                self._hide(stream_id, active, due)
            return self._write_missing(active, due, end) if due.lines else end

    def _open(self, log: Log, share: Share, *, begins: bool) -> ActiveSegment:
        if begins:
            with contextlib.suppress(FileNotFoundError):
                active = ActiveSegment(log)
                if not log.may_be_rolling(active):
                    return active  # The usual case: one open is enough.
                active.close()
            log.finish_roll()
        try:
            return ActiveSegment(log)
        except FileNotFoundError:
            _check_lines(share.lines)
            self._folder.make_category(log)
            return ActiveSegment(log, new=True)

    def _due(self, share: Share, version: int) -> Share:
        """Return the part of a share from `version` on.

        Everything before is in a sealed segment, which was synced before it was sealed.
        """
        versions, lines = share.versions, share.lines
        if versions == list(range(version, version + len(lines))):
            return share
        if self._checked and versions != list(range(versions[0], versions[0] + len(versions))):
            raise CorruptionError("", "", 0, "a version between is damaged in both copies")
        due, following = Share([], []), version
        for number, line in zip(versions, lines, strict=True):
            if number >= following:
                due.versions.append(number)
                due.lines.append(line)
                following = number + 1
        if not self._checked:
            # A line with a damaged stream id or version is missing in one share, and extra in another.
            if versions[0] > version or versions != list(range(versions[0], versions[0] + len(lines))):
                raise LineError("versions are missing")
            _check_lines(lines[: len(lines) - len(due.lines)])
        return due

    def _hide(self, stream_id: str, active: ActiveSegment, due: Share) -> None:
        """Take out of the lines that begin a segment what its stream no longer shows and does not have."""
        first = due.lines[0] + b"\n"
        if active.read(len(first), 0) == first or not is_record(due.lines[0]):
            return
        first = erased_line(decode_record(due.lines[0]))
        if active.read(len(first), 0) == first:
            due.lines[0] = first.removesuffix(b"\n")
        elif self._folder.filesystem.is_there(self._folder.snapshots_path):
            lines = better_copies(active, decode_records(due.lines), due.lines)
            kept = kept_lines(self._folder, stream_id, [(decode_record(line), line) for line in lines])
            due.versions, due.lines = due.versions[-len(kept) :], kept

    def _write_missing(self, active: ActiveSegment, share: Share, end: _End) -> _End:
        same, offset = _count_same(active, share.lines, end.offset)
        missing = share.lines[same:]
        if missing:
            records = decode_records(missing)  # Raises before anything is cut off for them.
            if offset < active.size and (better := better_copies(active, records, missing)) != missing:
                return self._write_missing(active, Share(share.versions, share.lines[:same] + better), end)
            _keep_damage(self._folder, active, offset, self._report, missing)
            self._report.rolled_forward += len(missing)
            cut(self._folder, active, offset, self._report, frozenset(missing))
            active.append(b"".join([line + b"\n" for line in missing]))
            offset = active.size
        return _End(offset, share.versions[-1] + 1, active.size)


def _keep_damage(
    folder: Folder, active: ActiveSegment, offset: int, report: Recovered, due: Collection[bytes] = ()
) -> None:
    """Keep a copy of a stream's file, and report damage, if no crash explains the text after `offset`.

    Called before that text is replaced. No crash leaves a complete line without zeros that is not a record, nor (unless
    the text has zeros) a line of `due` at another place.
    """
    due = () if due and any(b"\0" in piece for _, piece in active.pieces(offset)) else frozenset(due)
    for lines in active.blocks(offset):
        for line in lines:
            if line in due or not (says_nothing(line) or is_record(line)):
                folder.keep_damaged(active.path)
                cause = "it differed from the journal; it was mended from the journal"
                report.damage.append(active.damage(offset, cause))
                report.damage[-1].mendable = False  # It is repaired.
                return
            offset += len(line) + 1


def _count_same(active: ActiveSegment, lines: list[bytes], offset: int) -> tuple[int, int]:
    """Return (how many of the lines stand at `offset` in sequence, the offset after them)."""
    for at in range(0, len(lines), _LINES_AT_ONCE):
        some = lines[at : at + _LINES_AT_ONCE]
        expected = b"\n".join(some) + b"\n"
        found = active.read(len(expected), offset)
        if found != expected:
            same = start = 0
            while found.startswith(some[same] + b"\n", start):
                start += len(some[same]) + 1
                same += 1
            return at + same, offset + start
        offset += len(expected)
    return len(lines), offset


def _check_lines(lines: list[bytes]) -> None:
    """Raise `LineError` unless each line is an intact record."""
    decode_records(lines)


def _unchecked(journal: Log, position: int, last: int) -> Iterator[_RecordsAndLines]:
    """Yield the journal's lines from `position` to `last` with their places; checksums are not verified."""
    if position > last:
        return
    with journal.opened(position) as (sealed, active_first, active):
        for first in sealed:
            with contextlib.closing(journal.open_sealed(first)) as segment:
                position = yield from _unchecked_in(segment, first, position, last)
        if active and active_first is not None:
            yield from _unchecked_in(active, active_first, position, last)


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
            raise segment.damage(offset, f"positions from {number} on must come here")
        wanted = slice(max(0, position - number), max(0, last + 1 - number))
        if lines[wanted]:
            yield places[wanted], lines[wanted]
        offset, number = following, number + len(lines)
    return max(number, position)


def forget_index(active: ActiveSegment, *, restarted: bool) -> None:
    """Delete an index that may cover missing text: after a restart, any index."""
    if restarted:
        active.forget_index()
    else:
        active.forget_longer_index()


def _place_of(log: Log, active: ActiveSegment, share: Share) -> tuple[int, int] | None:
    """Return (offset, version) of a share's place in the active segment, or of the segment's first record if later.

    Returns None if the segment is damaged, or lacks records before the share.
    """
    version, size = share.versions[0], sum(map(len, share.lines)) + len(share.lines)
    offset = _share_offset(active, share, size)
    if offset is not None:
        return offset, version
    lines, _ = active.lines_at(0, _NEAR_BYTES)
    if not lines:
        sealed = log.sealed()
        after = last_record_of_sealed(log, sealed[-1]).stream_version + 1 if sealed else 0
        return (0, after) if after >= version else None
    if not is_record(lines[0]):
        return None
    first = decode_record(lines[0]).stream_version
    if first >= version:
        return 0, first
    offset = _after_from_end(active, version - 1, size + _NEAR_BYTES)
    if offset is None:
        offset = _after_from_start(active, version - 1, first)
    return None if offset is None else (offset, version)


def _share_offset(active: ActiveSegment, share: Share, size: int) -> int | None:
    """Return a share's offset if it begins the segment, or begins `size` bytes before its end; else None."""
    line = share.lines[0] + b"\n"
    if active.read(len(line), 0) == line:
        return 0
    offset = active.size - size
    return offset if offset > 0 and active.read(len(line) + 1, offset - 1) == b"\n" + line else None


def _after_from_end(active: ActiveSegment, version: int, size: int) -> int | None:
    """Return the offset after the record of `version`, searching from the end; None if that record is not intact."""
    offset = active.end_offset()
    while offset:
        stop = offset
        lines, offset = active.lines_before(offset, size)
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


def _after_from_start(active: ActiveSegment, version: int, first: int) -> int | None:
    """Return that offset, searching forwards from the nearest place in the index, or from the beginning."""
    offset, number = active.seek(version + 1, first)
    while number <= version:
        lines, _ = active.lines_at(offset)
        for line in lines[: version + 1 - number]:
            if not is_record(line) or decode_record(line).stream_version != number:
                return None
            offset, number = offset + len(line) + 1, number + 1
        if not lines:
            return None
    return offset


def rebuild(folder: Folder, log: Log, active: ActiveSegment, stream_id: str, report: Recovered) -> _End:
    """Replace a stream's active segment, in one step, with what the whole journal has of the stream."""
    sealed = log.sealed()
    first = _first_kept(folder, stream_id)
    version = last_record_of_sealed(log, sealed[-1]).stream_version + 1 if sealed else first
    found = [*stream_lines_in_journal(folder, stream_id)]
    better = better_copies(active, [record for record, _ in found], [line for _, line in found])
    records = decode_records(better)
    lines = [(record.stream_version, line + b"\n") for record, line in zip(records, better, strict=True)]
    erased = {record.stream_version for record in records if is_erased(record)}
    _refuse_to_erase(active, erased, version, sealed=bool(sealed))
    begins = max([version, *(number + 1 for number in erased)])  # What comes before an erased event is hidden, too.
    text = b"".join(line for number, line in lines if number >= begins)
    if lines and not text and not sealed:
        text = erased_line(decode_record(lines[-1][1].removesuffix(b"\n")))
    _put_others_aside(folder, log, active, dict(lines), max([first, *(number + 1 for number in erased)]), report)
    report.rolled_forward += sum(number >= version for number, _ in lines)
    report.streams_cut += active.size
    _keep_damage(folder, active, 0, report)
    log.filesystem.remove(active.index_path)
    log.filesystem.replace_file(log.active_path, text)
    return _End(len(text), lines[-1][0] + 1 if lines else version, len(text))


def _refuse_to_erase(active: ActiveSegment, erased: set[int], first: int, *, sealed: bool) -> None:
    """Raise `CorruptionError` if the stream has an event, from version `first` on, that the journal has erased.

    So it does if the journal has erased one behind the `sealed` segments.
    """
    if sealed and max(erased, default=-1) >= first:
        raise active.damage(0, f"the journal has erased version {max(erased)}, but not what is sealed here")
    for record, _ in whole_lines(active) if erased else ():
        if record.stream_version >= first and record.stream_version in erased and not is_erased(record):
            cause = f"the journal has erased version {record.stream_version}, but no mark hides it"
            raise active.damage(0, cause, record.position, record.stream_id, record.stream_version)


def _put_others_aside(
    folder: Folder, log: Log, active: ActiveSegment, lines: dict[int, bytes], first: int, report: Recovered
) -> None:
    """Put aside the records that only the stream has, before its active segment is replaced.

    Among them are those of another history: from the `first` version that is shown on, the journal has other lines.

    Raises:
        CorruptionError: the journal has later records, so it has lost these.
    """
    others, positions, of_another = {}, [], []
    for record, line in whole_lines(active):
        known = lines.get(record.stream_version)
        if known is None:
            others[record.stream_version] = line
            positions.append(record.position)
        elif known != line + b"\n" and record.stream_version >= first:
            of_another.append(line)
    if others:
        lost, end = min(others), folder.journal.last_record()
        later = end is not None and min(positions) < end.position
        if later or lost < max(lines, default=-1):
            cause = f"it has stream_version {lost}, which the journal has lost"
            raise CorruptionError(log.active_path, os.path.basename(log.active_path), 0, cause)
    if aside := [*others.values(), *of_another]:
        folder.put_aside(aside)
        report.put_aside += len(aside)


def _first_kept(folder: Folder, stream_id: str) -> int:
    """Return the first version that compaction has left in a stream."""
    snapshot = SnapshotFiles(folder.filesystem, folder.snapshots_path).load(stream_id)
    return snapshot.compacted_through + 1 if snapshot else 0


def cut(
    folder: Folder, active: ActiveSegment, offset: int, report: Recovered, but_for: Collection[bytes] = frozenset()
) -> None:
    """Cut a stream at `offset`, and put aside the intact records cut off, except the lines in `but_for`."""
    report.put_aside += put_records_aside(folder, active, offset, but_for)
    report.streams_cut += active.size - offset
    cut_durably(active, offset)
