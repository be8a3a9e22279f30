"""Checks of time: how fast a store grows, when its disk will be full, and whether clocks went wrong."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import pairwise

from hangarlog.doctor.finding import Finding, Severity, command, duration, found, size
from hangarlog.doctor.look import Look, seconds_of
from hangarlog.errors import CorruptionError
from hangarlog.log.segment import Segment
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, decode_record

DAY = 86_400.0
_DAYS = 14
_HALF_LIFE_DAYS = 2.0
_YOUNGEST_SECONDS = 3600
_COPIES = 2
"""The journal and the streams have each event."""
_PROBLEM_DAYS, _WARNING_DAYS, _NOTE_DAYS = 3, 30, 365
_STEP_BYTES = 8 << 10
_MOST_SEGMENTS, _MOST_RECORDS = 64, 100
_BACK_SECONDS = 1.0
_AHEAD_SECONDS = 60.0


class _Piece:
    """A segment of the journal on the time line: when it begins, and how many bytes of the disk it takes."""

    def __init__(self, first: int | None, size: int) -> None:
        self.first, self.size = first, size


class _TimeLine:
    """Where in the journal a time is, by a binary search: times are taken to rise."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._pieces = [_Piece(file.first, file.size) for file in look.sealed]
        with contextlib.suppress(FileNotFoundError):
            self._pieces.append(_Piece(None, look.filesystem.size_at(look.folder.journal.active_path)))
        self._begins: dict[int, float | None] = {}

    def _open(self, at: int) -> Segment | None:
        first = self._pieces[at].first
        with contextlib.suppress(FileNotFoundError):
            return self._look.folder.journal.open_active() if first is None else self._look.open_sealed(first)
        return None

    def begins(self, at: int) -> float | None:
        """Return when the first record of a piece was recorded, None if unknown."""
        if at not in self._begins:
            self._begins[at] = None
            segment = self._open(at)
            if segment:
                with contextlib.closing(segment), contextlib.suppress(CorruptionError):
                    record = segment.first_record()
                    self._begins[at] = seconds_of(record.recorded_at) if record else None
        return self._begins[at]

    def start(self) -> float | None:
        """Return when the journal begins, None if it has no record."""
        return next((time for at in range(len(self._pieces)) if (time := self.begins(at)) is not None), None)

    def bytes_after(self, time: float) -> float:
        """Return how many bytes of the disk the events since `time` take in the journal."""
        low, high = 0, len(self._pieces)  # The pieces before `low` begin before the time.
        while low < high:
            middle = (low + high) // 2
            begins = self.begins(middle)
            if begins is not None and begins < time:
                low = middle + 1
            else:
                high = middle
        after = sum(piece.size for piece in self._pieces[low:])
        return after + (self._pieces[low - 1].size * (1 - self._share_before(low - 1, time)) if low else 0)

    def _share_before(self, at: int, time: float) -> float:
        """Return which share of a piece's text was recorded before a time."""
        segment = self._open(at)
        if segment is None:
            return 1.0
        with contextlib.closing(segment):
            low, high = 0, segment.size
            while high - low > _STEP_BYTES:
                middle = (low + high) // 2
                recorded = _time_after(segment, middle)
                low, high = (middle, high) if recorded is not None and recorded < time else (low, middle)
            return high / segment.size if segment.size else 1.0


def _time_after(segment: Segment, offset: int) -> float | None:
    """Return the time of the first record that begins after an offset, None if there is none."""
    lines, _ = segment.lines_at(offset, _STEP_BYTES)
    if len(lines) == 1:
        lines, _ = segment.lines_at(offset, 4 * _STEP_BYTES)
    for line in lines[1:]:  # The first one may be the rest of a line.
        with contextlib.suppress(LineError):
            return seconds_of(decode_record(line).recorded_at)
    return None


def bytes_a_day(look: Look) -> tuple[float, float] | None:
    """Return (bytes that the journal gains a day, the seconds that this was seen for); None if it is too young.

    The last days count most: the weight of a day is half of that of two days later.
    """
    line = _TimeLine(look)
    start = line.start()
    if start is None or look.now - start < _YOUNGEST_SECONDS:
        return None
    seen = min(_DAYS * DAY, look.now - start)
    total = weights = newer = 0.0
    day = 0
    while day * DAY < seen:
        share = min(1.0, seen / DAY - day)
        since = line.bytes_after(look.now - (day + share) * DAY)
        weight = 0.5 ** (day / _HALF_LIFE_DAYS)
        total += weight * (since - newer)
        weights += weight * share
        newer, day = since, day + 1
    return max(0.0, total / weights), seen


def check_growth(look: Look) -> Iterator[Finding]:
    """Yield how much the store grows, and when the disk will be full."""
    journal = look.folder.journal.active_path
    if look.meta is None or not hasattr(os, "statvfs"):
        return
    rate = bytes_a_day(look)
    if rate is None:
        yield found("growth", "ok", "too young, or too new here, to tell how fast it grows", journal)
        return
    grows, free = _COPIES * rate[0], os.statvfs(look.path)
    said = f"grows by about {size(grows)} a day in both copies, by the times of the last {duration(rate[1])}"
    yield found("growth", "ok", said, journal, bytes_a_day=round(grows), seconds=round(rate[1]))
    if grows >= 1:
        days = free.f_bavail * free.f_frsize / grows
        if days < _NOTE_DAYS:
            severity: Severity = "note"
            if days < _WARNING_DAYS and rate[1] >= DAY:  # An hour of an import tells little of the next days.
                severity = "problem" if days < _PROBLEM_DAYS else "warning"
            said = f"at {size(grows)} a day, its disk is full in about {duration(days * DAY)}"
            text = f"{command('df', '-h', look.path)}  # then free space, or move the store"
            yield found("disk-full-soon", severity, said, look.path, text, days=round(days, 1))


def check_clock(look: Look) -> Iterator[Finding]:
    """Yield recorded times that go back, or are in the future."""
    if look.meta is None:
        return
    records = [*_firsts(look), *_latest(look)]
    times = [(record.position, time) for record in records if (time := seconds_of(record.recorded_at)) is not None]
    steps = [(before[1] - after[1], after[0]) for before, after in pairwise(times) if before[0] < after[0]]
    back, position = max(steps, default=(0.0, 0))
    ahead = max((time for _, time in times), default=0.0) - look.now
    journal = look.folder.journal.active_path
    among = f"among {len(times):,} events, of the beginnings of segments and the journal's end"
    if back > _BACK_SECONDS:
        said = f"the time goes back by {duration(back)} before or at position {position}, {among}"
        text = command("hangarlog", "read", look.path, "--from", str(max(0, position - 2)), "--limit", "2")
        yield found("clock-back", "note", said, journal, text, seconds=back, position=position)
    if ahead > _AHEAD_SECONDS:
        said = f"events were recorded {duration(ahead)} in the future"
        yield found("clock-ahead", "warning", said, journal, "date -u; timedatectl", seconds=ahead)
    if back <= _BACK_SECONDS and ahead <= _AHEAD_SECONDS:
        yield found("clock", "ok", f"the recorded times rise, {among}", journal)


def _firsts(look: Look) -> Iterator[StoredEnvelope]:
    """Yield the first record of each of the newest sealed segments."""
    for file in look.sealed[-_MOST_SEGMENTS:]:
        with contextlib.suppress(FileNotFoundError, CorruptionError):
            with contextlib.closing(look.open_sealed(file.first)) as segment:
                record = segment.first_record()
            if record:
                yield record


def _latest(look: Look) -> list[StoredEnvelope]:
    """Return the last records of the journal, in order: those of its first blocks read backwards."""
    records: list[StoredEnvelope] = []
    for block in look.folder.journal.backward():
        records += block
        if len(records) > _MOST_RECORDS:
            break
    return records[::-1]
