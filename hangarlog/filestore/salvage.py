"""Reading what is whole of a log where it is damaged: a part at a time, each record from whichever copy has it."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

from hangarlog.errors import CorruptionError, CorruptionWarning
from hangarlog.filestore.file_names import stream_path
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.two_copies import missing_position
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, decode_places, decode_record, decode_records
from hangarlog.record.strict import are_strict, record_or_cause, strict_records

MAX_PART_BYTES = 64 << 20
"""Bytes of lines that are kept at a time."""

ENDLESS = sys.maxsize
_MAX_PLACES = 10_000  # Damaged lines whose places are kept; the others are said to be missing.
_MAX_ONE_BY_ONE = 10_000  # Numbers in a row that are said to be lost each by itself.
_BLOCK_RECORDS = 1000


def read_lines(segment: Segment, offset: int = 0) -> Iterator[tuple[int, bytes, StoredEnvelope | str]]:
    """(offset, line, its record or why it is none) of every line; the rest after the last newline counts as one."""
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


def segments_between(log: Log, first: int, last: int) -> Iterator[Segment]:
    """The segments that may hold records numbered `first` to `last`, in order; those that cannot be opened are not."""
    live = None
    with contextlib.suppress(CorruptionError):
        live = log.open_live()  # First: what is sealed meanwhile is still in hand.
    try:
        sealed = log.sealed()
        for start, following in pairwise([*sealed, ENDLESS]):
            if start <= last and first < following:
                with (
                    contextlib.suppress(CorruptionError, FileNotFoundError),
                    contextlib.closing(log.open_sealed(start)) as segment,
                ):
                    yield segment
        if live and (not sealed or sealed[-1] <= last):
            yield live
    finally:
        if live:
            live.close()


def bounds(log: Log, number: int) -> tuple[int, int]:
    """(first, last) number of the part that holds `number`, by the names of sealed segments; the last is endless."""
    firsts = [0, *log.sealed()]
    first = max(start for start in firsts if start <= number)
    following = min((start for start in firsts if start > number), default=ENDLESS)
    return first, following - 1 if following < ENDLESS else ENDLESS


def damage_at(segment: Segment, offset: int, line: bytes, cause: str) -> CorruptionError:
    """The error for a damaged line, with what the line says of itself, where it can be made out."""
    place: tuple[int | None, str | None, int | None] = (None, None, None)
    with contextlib.suppress(LineError):
        (found,) = decode_places([line])
        place = (found.position, found.stream_id, found.stream_version)
    return CorruptionError(segment.path, os.path.basename(segment.path), offset, cause, *place)


def stream_lines(folder: Folder) -> Iterator[tuple[bytes, StoredEnvelope]]:
    """(line, record) of all that is whole in the streams, and belongs there."""
    for category, name, _ in folder.stream_files():
        log = Log(folder.filesystem, folder.category_path(category), name, "stream_version")
        for segment in segments_between(log, 0, ENDLESS):
            for _, line, record in read_lines(segment):
                if isinstance(record, StoredEnvelope) and stream_path(record.stream_id) == (category, name):
                    yield line, record


class Salvage:
    """The records of a log numbered `first` to `last`, as far as either copy has them; `ENDLESS` is up to the last.

    Where they take more than `MAX_PART_BYTES` the part is smaller: it ends earlier, or with `reverse` begins later.
    `own` are lines of the log itself, `other` those of the other copy, by number; `places` are damaged lines of the
    log, by the number that must come there. `met` is the damage that a reader has met; `stream_id` the stream
    that the log is of, None for the journal.
    """

    def __init__(
        self,
        log: Log,
        met: CorruptionError,
        first: int,
        last: int,
        *,
        reverse: bool,
        stream_id: str | None = None,
    ) -> None:
        self._met, self._stream_id = met, stream_id
        self._log, self.first, self.last, self._reverse = log, first, last, reverse
        self.own: dict[int, bytes] = {}
        self.other: dict[int, bytes] = {}
        self.other_is_whole = True
        self.certain = True
        """Whether what was met is damage for sure, and not what a writer at work has left behind all of this so far."""
        self.known = -1
        """A number that there is for sure, of an endless part."""
        self.places: dict[int, CorruptionError] = {}
        self._places_at: list[int] = []  # Its numbers, sorted.
        self._size = 0
        self._twice: set[int] = set()

    def read_own(self, committed: int, expected: int) -> None:
        """Take what is whole in the log itself, up to position `committed`; `expected` is its first number."""
        end = None
        for segment in segments_between(self._log, self.first, self.last):
            for offset, line, record in read_lines(segment):
                number = expected if isinstance(record, str) else segment.number_of(record)
                if isinstance(record, str):
                    self._note(expected, damage_at(segment, offset, line, record))
                elif record.position > committed or self._stream_id not in (None, record.stream_id):
                    continue
                else:
                    if number != expected:
                        self._note(expected, self._must_come(segment, offset, expected, number))
                    self._take(self.own, number, line)
                    if number in self._twice:
                        self._note(number, segment.damage(offset, f"{self._log.field} {number} comes twice"))
                expected = number + 1
            end = segment.damage(segment.size, f"{self._log.field} {expected} must follow")
        if end and self.last < ENDLESS:
            self._note(expected, end)
        for number in self._twice & self.own.keys():
            del self.own[number]  # The other copy knows which one is right.

    def _must_come(self, segment: Segment, offset: int, expected: int, number: int) -> CorruptionError:
        return segment.damage(offset, f"{self._log.field} {expected} must come here, not {number}")

    def _note(self, number: int, damage: CorruptionError) -> None:
        if self.first <= number <= self.last and len(self.places) < _MAX_PLACES:
            self.places.setdefault(number, damage)

    def _take(self, lines: dict[int, bytes], number: int, line: bytes) -> None:
        if not self.first <= number <= self.last:
            return
        if number not in lines:
            lines[number] = line
            self._size += len(line)
            if self._size > MAX_PART_BYTES:
                self._shrink()
        elif lines[number] != line:
            self._twice.add(number)

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
        """Take the journal's records that are missing here from the streams, all of which are read."""
        self._twice.clear()
        for line, record in stream_lines(folder):
            if self.first <= record.position <= self.last and record.position not in self.own:
                self._take(self.other, record.position, line)
        for position in self._twice & self.other.keys():
            del self.other[position]  # Two streams claim it.

    def read_journal(self, folder: Folder, after: int, committed: int) -> None:
        """Take a stream's records that are missing here from the journal, where they come after position `after`."""
        after, before = self._gap(after, committed)
        position, whole = after, True
        for segment in segments_between(folder.journal, after + 1, before):
            for _, line, record in read_lines(segment):
                if isinstance(record, str) or not position < record.position <= before:
                    continue
                whole &= record.position == position + 1
                position = record.position
                if record.stream_id == self._stream_id and record.stream_version not in self.own:
                    self._take(self.other, record.stream_version, line)
                    if record.stream_version == self.last:
                        return
        self.other_is_whole = whole and position == before  # Then there are no others.

    def _gap(self, after: int, committed: int) -> tuple[int, int]:
        """(a position before those of the records that are missing in a stream, one that is not before them)."""
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

    # What it gives

    @property
    def ends(self) -> bool:
        """Whether nothing comes after this part."""
        return self.last == ENDLESS

    def numbers(self) -> range:
        """The numbers up to the last that is known or that a copy has, and the next unless both are whole."""
        if not self.ends:
            return range(self.first, self.last + 1)
        top = max(self.first - 1, self.known, max(self.own, default=-1), max(self.other, default=-1))
        return range(self.first, top + 1 + (top + 1 in self.places and not self.other_is_whole))

    def lines(self, numbers: range, skip: bool, served: CorruptionWarning) -> Iterator[list[bytes]]:
        """The lines of these numbers, some at a time; in the turn of one that no copy has its error is raised.

        With `skip` that one is passed over, with a warning. `served` is warned of unless all that is wrong is lost.
        """
        block: list[bytes] = []
        silent = True
        for found in self._stretches(numbers):
            first = found[0]
            line = self.own.get(first) or self.other.get(first)
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

    def _stretches(self, numbers: range) -> Iterator[range]:
        """Each of these numbers; but many in a row that no copy has together: a record may say it is of any number."""
        there = {number for lines in (self.own, self.other) for number in lines if number in numbers}
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
        """As `lines`, decoded."""
        return map(decode_records, self.lines(numbers, skip, served))

    def damage(self, number: int, other_end: int | None = None) -> CorruptionError:
        """The error for a record that no copy has, at its place in the log; for all of them up to `other_end`."""
        field = self._log.field
        number, last = sorted((number, number if other_end is None else other_end))
        place = self._place(number)
        cause = f"{place.cause}; the other copy of the event is damaged or gone, too"
        if last > number:
            cause = f"{place.cause}; {field} {number} to {last} are in neither copy"
        cause += '; on_damage="skip" (`--skip-damaged`) reads on without it'
        known = {name: getattr(place, name) for name in ("position", "stream_id", "stream_version")}
        if known[field] != number:  # It says something else of itself: nothing that it says is believed.
            known = dict.fromkeys(known)
        known[field] = number
        known["stream_id"] = self._stream_id or known["stream_id"]
        return CorruptionError(place.path, place.segment, place.offset, cause, **known, mendable=False)

    def _place(self, number: int) -> CorruptionError:
        """The damage in the log at a number, or the last before it."""
        if len(self._places_at) != len(self.places):
            self._places_at = sorted(self.places)
        at = bisect_right(self._places_at, number) - 1
        return self._met if at < 0 else self.places[self._places_at[at]]


def journal_part(
    folder: Folder, journal: Log, damage: CorruptionError, positions: tuple[int, int], *, reverse: bool = False
) -> Salvage:
    """What both copies have of the first segment, or with `reverse` the last, of those that hold these positions."""
    first, last = positions
    begins, ends = bounds(journal, last if reverse else first)
    part = Salvage(journal, damage, max(first, begins), min(last, ends), reverse=reverse)
    part.read_own(last, begins or 1)
    if len(part.own) <= part.last - part.first:
        part.read_streams(folder)
    return part


def _refuse_loose(journal: Log, lines: list[bytes]) -> None:
    """Raise `CorruptionError` if one of these lines is no record to the letter."""
    cause = next((found for found in map(record_or_cause, lines) if isinstance(found, str)), None)
    if cause is not None:
        raise CorruptionError(journal.live_path, os.path.basename(journal.live_path), 0, cause)


def journal_lines(folder: Folder, committed: int, *, skip: bool) -> Iterator[list[bytes]]:
    """The journal's lines up to position `committed`, some at a time, each from whichever copy has it whole.

    What is lost is raised in its turn, or with `skip` passed over. Raises `CorruptionError`.
    """
    position = 1
    while position <= committed:
        try:
            for records, lines in folder.journal.forward_lines(position):
                if records[0].position != position:
                    break
                lines = lines[: committed + 1 - position]
                if not are_strict(records[: len(lines)], lines):
                    _refuse_loose(folder.journal, lines)
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
