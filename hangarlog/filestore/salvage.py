"""Reads a damaged log in parts, taking each record from whichever copy is intact."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from hangarlog.errors import CorruptionError, CorruptionWarning, MissingExtraError
from hangarlog.filestore.file_names import stream_path
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.two_copies import missing_position
from hangarlog.log.compressed_segment import CompressedSegment
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import first_of, text_path
from hangarlog.record.envelope import LineError
from hangarlog.record.line import (
    StoredEnvelope,
    decode_places,
    decode_record,
    decode_records,
    erased_journal_record,
    erased_record,
    is_erased,
)
from hangarlog.record.strict import are_strict, record_or_cause, strict_records

MAX_PART_BYTES = 64 << 20
"""Bytes of lines kept in memory at a time."""

ENDLESS = sys.maxsize
_MAX_PLACES = 10_000  # Damaged lines whose places are kept; later ones are reported as missing.
_MAX_ONE_BY_ONE = 10_000  # Consecutive lost numbers reported one by one; a longer range is reported as one.
_BLOCK_RECORDS = 1000


def read_lines(segment: Segment, offset: int = 0) -> Iterator[tuple[int, bytes, StoredEnvelope | str]]:
    """Yield (offset, line, its record or why it is damaged) of every line, also of one without its newline."""
    while True:
        lines, following = segment.lines_at(offset)
        if not lines:
            break
        found: list[StoredEnvelope | str]
        try:
            found = list(strict_records(lines))
        except LineError:
            found = [record_or_cause(line) for line in lines]
        except MemoryError as error:
            error.add_note(f"the events in {segment.path} from offset {offset} on")
            raise
        for line, record in zip(lines, found, strict=True):
            yield offset, line, record
            offset += len(line) + 1
        offset = following
    if offset < segment.size:
        yield offset, b"", f"{segment.size - offset} bytes after the last whole line"


def read_journal_lines(segment: Segment, offset: int = 0) -> Iterator[tuple[int, bytes, StoredEnvelope | str]]:
    """Yield what `read_lines` yields of a segment of the journal. Erased lines have records."""
    for at, line, record in read_lines(segment, offset):
        yield at, line, (isinstance(record, str) and erased_journal_record(line)) or record


def segments_between(log: Log, first: int, last: int) -> Iterator[Segment]:
    """Yield, in order, the segments that may hold records `first` to `last`, except those that cannot be opened."""
    active = None
    with contextlib.suppress(CorruptionError):
        active = log.open_active()  # First, so that a segment sealed meanwhile is not missed.
    try:
        sealed = log.sealed()
        for start, following in pairwise([*sealed, ENDLESS]):
            if start <= last and first < following:
                with (
                    contextlib.suppress(CorruptionError, FileNotFoundError),
                    contextlib.closing(log.open_sealed(start)) as segment,
                ):
                    yield segment
        if active and (not sealed or sealed[-1] <= last):
            yield active
    finally:
        if active:
            active.close()


def _twins(log: Log, first: int, last: int) -> Iterator[Segment]:
    """Yield the compressed files beside plain sealed segments that may hold records `first` to `last`."""
    for start, following in pairwise([*log.sealed(), ENDLESS]):
        base = log.sealed_base(start)
        if start <= last and first < following and log.filesystem.is_there(text_path(base)):
            with (
                contextlib.suppress(CorruptionError, FileNotFoundError, MissingExtraError),
                contextlib.closing(CompressedSegment(log.filesystem, base, log.field)) as segment,
            ):
                yield segment


def bounds(log: Log, number: int) -> tuple[int, int]:
    """Return the (first, last) number of the segment that holds `number`, by the names of sealed segments.

    The active segment ends at `ENDLESS`.
    """
    firsts = [0, *log.sealed()]
    first = max(start for start in firsts if start <= number)
    following = min((start for start in firsts if start > number), default=ENDLESS)
    return first, following - 1 if following < ENDLESS else ENDLESS


def damage_at(segment: Segment, offset: int, line: bytes, cause: str) -> CorruptionError:
    """Return the error for a damaged line, with what can still be read of its place."""
    place: tuple[int | None, str | None, int | None] = (None, None, None)
    with contextlib.suppress(LineError):
        (found,) = decode_places([line])
        place = (found.position, found.stream_id, found.stream_version)
    return segment.damage(offset, cause, *place)


def stream_lines(folder: Folder) -> Iterator[tuple[bytes, StoredEnvelope]]:
    """Yield (line, record) of every intact record that stands in its own stream."""
    for category, log in _stream_logs(folder):
        for segment in segments_between(log, 0, ENDLESS):
            for _, line, record in read_lines(segment):
                if isinstance(record, StoredEnvelope) and stream_path(record.stream_id) == (category, log.name):
                    yield line, record


def _stream_logs(folder: Folder) -> Iterator[tuple[str, Log]]:
    """Yield (category folder, log) of every stream, of those without an active file too. Each folder is listed once."""
    filesystem = folder.filesystem
    categories = [entry.name for entry in filesystem.entries(folder.streams_path) if entry.is_dir()]
    for category in ["", *categories]:
        path = folder.category_path(category)
        firsts: defaultdict[str, set[int]] = defaultdict(set)
        for entry in filesystem.entries(path):
            name = entry.name.partition(".")[0]
            first = first_of(entry.name, name)
            if first is not None:
                firsts[name].add(first)
            elif entry.name == text_path(name):
                firsts[name] |= set()
        for name, sealed in firsts.items():
            log = Log(filesystem, path, name, "stream_version")
            log.listed = sorted(sealed)
            yield category, log


class Salvage:
    """The records of a log numbered `first` to `last` that either copy has.

    If they take more than `MAX_PART_BYTES`, the part is smaller: it ends earlier, or with `reverse` begins later.

    Attributes:
        first: The first number of the part.
        last: The last number of the part; `ENDLESS` for the end of the log.
        own: {number: line} of the log itself.
        other: {number: line} of the other copy.
        places: {number: damage} of the damaged lines; the number is the one expected there.

    `first_damage` is the damage that a reader reported; `stream_id` is None for the journal.
    """

    def __init__(
        self,
        log: Log,
        first_damage: CorruptionError,
        first: int,
        last: int,
        *,
        reverse: bool,
        stream_id: str | None = None,
    ) -> None:
        self._first_damage, self._stream_id = first_damage, stream_id
        self._log, self.first, self.last, self._reverse = log, first, last, reverse
        self.own: dict[int, bytes] = {}
        self.other: dict[int, bytes] = {}
        self.other_is_whole = True
        self.certain = True
        """True if the reported damage cannot be a write in progress."""
        self.erased_too = False
        """True if what the journal has erased of a stream counts: its last version is asked for."""
        self.known = -1
        """A number that must exist in the last part of a log, or -1."""
        self.places: dict[int, CorruptionError] = {}
        self._erased: set[int] = set()  # Of the journal: nothing is looked for, and nothing yielded.
        self.hidden_through = -1
        """The last version of a stream that the journal has erased and the stream lacks, -1 if there is none."""
        self._damaged_numbers: list[int] = []  # The sorted keys of `places`.
        self._size = 0
        self._conflicting: set[int] = set()

    def read_own(self, committed: int, expected: int) -> None:
        """Add the intact records of the log itself up to position `committed`. Its first number is `expected`."""
        end = None
        for segment in segments_between(self._log, self.first, self.last):
            for offset, line, record in read_lines(segment):
                if isinstance(record, str) and self._passes_erased(line):
                    expected += self._stream_id is None
                    continue  # It is hidden, or its mark is gone: a stream's other copy has the event.
                number = expected if isinstance(record, str) else segment.number_of(record)
                if isinstance(record, str):
                    self._note(expected, damage_at(segment, offset, line, record))
                elif record.position > committed or self._stream_id not in (None, record.stream_id):
                    continue
                else:
                    if number != expected:
                        self._note(expected, self._wrong_number(segment, offset, expected, number))
                    self._add(self.own, number, line)
                    if number in self._conflicting:
                        self._note(number, segment.damage(offset, f"{self._log.field} {number} comes twice"))
                expected = number + 1
            end = segment.damage(segment.size, f"{self._log.field} {expected} is missing at its end")
        if end and self.last < ENDLESS:
            self._note(expected, end)
        for number in self._conflicting & self.own.keys():
            del self.own[number]  # The other copy tells which line is right.

    def _passes_erased(self, line: bytes) -> bool:
        if self._stream_id is not None:
            return erased_record(line) is not None
        record = erased_journal_record(line)
        if record and self.first <= record.position <= self.last:
            self._erased.add(record.position)
        return record is not None

    def _read_twins(self) -> None:
        """Add what is missing from compressed files that a compression, or somebody, has left beside plain segments."""
        for segment in _twins(self._log, self.first, self.last):
            for _, line, record in read_lines(segment):
                if isinstance(record, StoredEnvelope) and self._stream_id in (None, record.stream_id):
                    number = segment.number_of(record)
                    if number not in self.own:
                        self._add(self.other, number, line)

    def _wrong_number(self, segment: Segment, offset: int, expected: int, number: int) -> CorruptionError:
        return segment.damage(offset, f"{self._log.field} {expected} must come here, not {number}")

    def _note(self, number: int, damage: CorruptionError) -> None:
        if self.first <= number <= self.last and len(self.places) < _MAX_PLACES:
            self.places.setdefault(number, damage)

    def _add(self, lines: dict[int, bytes], number: int, line: bytes) -> None:
        if not self.first <= number <= self.last:
            return
        if number not in lines:
            lines[number] = line
            self._size += len(line)
            if self._size > MAX_PART_BYTES:
                self._shrink()
        elif lines[number] != line:
            self._conflicting.add(number)

    def _shrink(self) -> None:
        numbers = sorted({*self.own, *self.other})
        half = numbers[len(numbers) // 2]
        if self._reverse:
            self.first = max(half, self.first + 1)
        else:
            self.last = max(half - 1, self.first)
        for lines in (self.own, self.other):
            for number in [number for number in lines if not self.first <= number <= self.last]:
                del lines[number]
        self._size = sum(map(len, self.own.values())) + sum(map(len, self.other.values()))

    def read_streams(self, folder: Folder) -> None:
        """Add the journal's missing records from the streams. Reads all streams."""
        self._conflicting.clear()
        self._read_twins()
        for line, record in stream_lines(folder):
            position = record.position
            if self.first <= position <= self.last and not (position in self.own or position in self._erased):
                self._add(self.other, position, line)
        for position in self._conflicting & self.other.keys():
            del self.other[position]  # Two streams claim it.

    def read_journal(self, folder: Folder, after: int, committed: int) -> None:
        """Add a stream's missing records from the journal. They come after position `after`."""
        self._read_twins()
        after, before = self._gap(max(after, folder.journal.begins() - 1), committed)
        position, whole = after, True
        for segment in segments_between(folder.journal, after + 1, before):
            for _, line, record in read_journal_lines(segment):
                if isinstance(record, str) or not position < record.position <= before:
                    continue
                whole &= record.position == position + 1
                position = record.position
                version = record.stream_version
                if record.stream_id == self._stream_id and version not in self.own:
                    if is_erased(record) and not self.erased_too:
                        self._hide_through(version)
                    else:
                        self._add(self.other, version, line)
                    if version == self.last:
                        return
        self.other_is_whole = whole and position == before  # Then the journal has no further ones.

    def _hide_through(self, version: int) -> None:
        """Leave out what comes up to a version that the journal has erased: a mark has hidden all of it."""
        self.hidden_through = version
        for lines in (self.own, self.other):
            for number in [number for number in lines if number <= version]:
                del lines[number]

    def _gap(self, after: int, committed: int) -> tuple[int, int]:
        """Return (a position before all missing records of the stream, a position at or after the last of them)."""
        lowest, highest = self.first, self.last
        while lowest in self.own:
            lowest += 1
        while highest in self.own:
            highest -= 1
        if lowest - 1 in self.own:
            after = decode_record(self.own[lowest - 1]).position
        if lowest <= highest < self.last:
            return after, decode_record(self.own[highest + 1]).position - 1
        return after, committed

    # Results

    @property
    def ends(self) -> bool:
        """True if nothing comes after this part."""
        return self.last == ENDLESS

    @property
    def is_complete(self) -> bool:
        """True if the log itself has every number of the part."""
        erased = sum(self.first <= number <= self.last for number in self._erased)
        return len(self.own) + erased > self.last - self.first

    def numbers(self) -> range:
        """Return the numbers to read: up to the last one known or found, and one more if damage may hide it."""
        if not self.ends:
            return range(self.first, self.last + 1)
        top = max(
            self.first - 1,
            self.known,
            self.hidden_through,
            *(max(lines, default=-1) for lines in (self.own, self.other, self._erased)),
        )
        return range(self.first, top + 1 + (top + 1 in self.places and not self.other_is_whole))

    def lines(self, numbers: range, skip: bool, served: CorruptionWarning) -> Iterator[list[bytes]]:
        """Yield the lines of these numbers in blocks. When a number is reached that neither copy has, raise its error.

        With `skip`, it is skipped with a warning instead. `served` is issued as a warning unless every damaged event is
        lost.
        """
        block: list[bytes] = []
        silent = True
        for found in self._ranges(numbers):
            first = found[0]
            line = self.own.get(first) or self.other.get(first)
            if line is None and (first in self._erased or first <= self.hidden_through):
                continue
            if block and (line is None or len(block) == _BLOCK_RECORDS):
                yield block
                block = []
            if silent and first in self.other:
                warnings.warn(served, stacklevel=2)
                silent = False
            if line is not None:
                block.append(line)
            elif skip:
                warnings.warn(CorruptionWarning(f"passed over: {self.damage(first, found[-1])}"), stacklevel=2)
                silent = False
            else:
                raise self.damage(first, found[-1])
        if block:
            yield block
        if silent and (self.places or self.certain):
            warnings.warn(served, stacklevel=2)

    def _ranges(self, numbers: range) -> Iterator[range]:
        """Yield each number as a range of one, but a long run of numbers that no copy has as one range.

        A forged record may claim any number, so such a run may be huge.
        """
        there = {number for lines in (self.own, self.other, self._erased) for number in lines if number in numbers}
        at = 0
        for stop in [*sorted(map(numbers.index, there)), len(numbers)]:
            missing = numbers[at:stop]
            if len(missing) > _MAX_ONE_BY_ONE:
                yield missing
            else:
                yield from (missing[n : n + 1] for n in range(len(missing)))
            if stop < len(numbers):
                yield numbers[stop : stop + 1]
            at = stop + 1

    def records(self, numbers: range, skip: bool, served: CorruptionWarning) -> Iterator[list[StoredEnvelope]]:
        """Yield what `lines` yields, decoded."""
        return map(decode_records, self.lines(numbers, skip, served))

    def damage(self, number: int, other_end: int | None = None) -> CorruptionError:
        """Return the error for a record that no copy has: `number`, or all from it to `other_end` in either order."""
        field = self._log.field
        number, last = sorted((number, number if other_end is None else other_end))
        place = self._place(number)
        cause = f"{place.cause}; the other copy of the event is damaged or missing, too"
        if last > number:
            cause = f"{place.cause}; {field} {number} to {last} are in neither copy"
        cause += '; on_damage="skip" (`--skip-damaged`) reads on without it'
        known = {name: getattr(place, name) for name in ("position", "stream_id", "stream_version")}
        if known[field] != number:  # The line claims another number, so nothing in it is believed.
            known = dict.fromkeys(known)
        known[field] = number
        known["stream_id"] = self._stream_id or known["stream_id"]
        return CorruptionError(place.path, place.segment, place.offset, cause, **known, mendable=False)

    def _place(self, number: int) -> CorruptionError:
        """Return the damage at a number, or the last damage before it."""
        if len(self._damaged_numbers) != len(self.places):
            self._damaged_numbers = sorted(self.places)
        at = bisect_right(self._damaged_numbers, number) - 1
        return self._first_damage if at < 0 else self.places[self._damaged_numbers[at]]


def journal_part(
    folder: Folder, journal: Log, damage: CorruptionError, positions: tuple[int, int], *, reverse: bool = False
) -> Salvage:
    """Return what both copies have of the first segment (with `reverse` the last) that holds one of these positions."""
    first, last = positions
    begins, ends = bounds(journal, last if reverse else first)
    part = Salvage(journal, damage, max(first, begins), min(last, ends), reverse=reverse)
    part.read_own(last, begins or folder.journal.begins())
    if not part.is_complete:
        part.read_streams(folder)
    return part


def _refuse_invalid(journal: Log, lines: list[bytes]) -> None:
    """Raise `CorruptionError` if one of these lines is not valid in the full format."""
    cause = next((found for found in map(record_or_cause, lines) if isinstance(found, str)), None)
    if cause is not None:
        raise CorruptionError(journal.active_path, os.path.basename(journal.active_path), 0, cause)


def journal_lines(folder: Folder, committed: int, *, skip: bool) -> Iterator[list[bytes]]:
    """Yield the journal's lines up to position `committed` in blocks, each line from whichever copy is intact.

    A lost event raises `CorruptionError` in its turn, or is skipped with a warning if `skip` is given.
    """
    position = folder.journal.begins()
    while position <= committed:
        try:
            for records, lines in folder.journal.forward_lines(position):
                if records[0].position != position:
                    break
                shown = [
                    (record, line)
                    for record, line in zip(records[: committed + 1 - position], lines, strict=False)
                    if not erased_journal_record(line)
                ]
                lines = [line for _, line in shown]
                if not are_strict([record for record, _ in shown], lines):
                    _refuse_invalid(folder.journal, lines)
                if lines:
                    yield lines
                position = records[-1].position + 1
                if position > committed:
                    return
            raise missing_position(folder.journal, position, committed)
        except CorruptionError as error:
            damage = error.with_traceback(None)
        part = journal_part(folder, folder.journal, damage, (position, committed))
        yield from part.lines(part.numbers(), skip, CorruptionWarning(f"served from the streams: {damage}"))
        position = part.last + 1
