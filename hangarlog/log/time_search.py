"""Finds the ranges of a log that may hold records of a time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from hangarlog.errors import CorruptionError, MissingExtraError
from hangarlog.log.log import Log
from hangarlog.log.sealed_times import KeptTimes, SealedTimes
from hangarlog.log.segment import Segment
from hangarlog.log.times import Times, grown, load_times, save_times

Range = tuple[int | None, int | None]
"""The first and the last number, inclusive, in the direction of reading. None: where the log begins or ends."""

_MAX_KEPT = 4096
_BEFORE_ALL = -sys.maxsize
_UNREADABLE = OSError, CorruptionError, MissingExtraError


def ranges_in_time(
    log: Log,
    kept: KeptTimes,
    start: int | None,
    stop: int | None,
    since: str | None,
    until: str | None,
    reverse: bool,
) -> Iterator[Range]:
    """Yield, in order, the ranges from `start` to `stop` that may hold records from `since` to before `until`.

    Everything that no cache excludes is in them, damage too. `kept` are the times found before.
    """
    if since is not None and until is not None and since >= until:
        return
    sign = -1 if reverse else 1  # In reverse, numbers are negative here, so that they rise too.
    begin = _BEFORE_ALL if start is None else sign * start
    end = sys.maxsize if stop is None else sign * stop
    low, high = (sign * end, sign * begin) if reverse else (begin, end)
    times = _times_of(log, kept, (max(0, low), high), (since or "", until or "~"), reverse)
    for first, last in _outside(times, since or "", until or "~", reverse):
        if first > end:
            break
        if begin < first:
            yield (None if begin == _BEFORE_ALL else sign * begin), sign * (first - 1)
        begin = max(begin, last + 1)
    if begin <= end:
        yield (None if begin == _BEFORE_ALL else sign * begin), stop


def _outside(found: Iterator[Times], since: str, until: str, reverse: bool) -> Iterator[tuple[int, int]]:
    for times in found:
        outside = times.outside(since, until)
        yield from ((-last, -first) for first, last in reversed([*outside])) if reverse else outside


def _times_of(
    log: Log, kept: KeptTimes, numbers: tuple[int, int], wanted: tuple[str, str], reverse: bool
) -> Iterator[Times]:
    """Yield the times of the segments that may hold records of these numbers, in order.

    Those of a sealed segment without a `wanted` time are one block.
    """
    firsts: list[int] = []
    newest = following = None
    low, high = numbers
    # What cannot be read is not excluded: the read itself meets the damage.
    with contextlib.suppress(OSError, CorruptionError), log.opened(low) as (sealed, first, active):
        firsts, following = [one for one in sealed if one <= high], first
        if active and first is not None and first <= high:
            newest = _times(log, kept, active, first)
    if reverse and newest:
        yield newest
    if firsts:
        if firsts[0] > low:
            _spans(log, kept).forget_before(firsts[0])
        yield from _sealed_times(log, kept, [*firsts, following or sys.maxsize], wanted, reverse)
    if newest and not reverse:
        yield newest


def _spans(log: Log, kept: KeptTimes) -> SealedTimes:
    spans = kept.logs.get(log.base)
    if spans is None:
        spans = kept.logs[log.base] = SealedTimes(log.filesystem, log.base)
    return spans


def _sealed_times(
    log: Log, kept: KeptTimes, firsts: list[int], wanted: tuple[str, str], reverse: bool
) -> Iterator[Times]:
    """Yield the times of sealed segments. The last of `firsts` is the number that follows them."""
    spans = _spans(log, kept)
    for at in reversed(range(len(firsts) - 1)) if reverse else range(len(firsts) - 1):
        first = firsts[at]
        times = kept.segments.get(log.sealed_base(first))
        if times is None:
            mark, span = None, spans.proved.get(first)
            if span is None:
                with contextlib.suppress(OSError):
                    mark = log.sealed_mark(first)
                span = spans.find(first, mark)
            if span and span.is_outside(*wanted):
                yield span.times(firsts[at + 1])
                continue
            with contextlib.suppress(*_UNREADABLE), contextlib.closing(log.open_sealed(first)) as segment:
                times = _times(log, kept, segment, first)
            if times and not span:
                spans.add(times, mark)
        if times:
            if not times.is_outside(*wanted):
                spans.save()  # Not at the end of the read, which may be left before.
            yield times
    spans.save()


def _times(log: Log, kept: KeptTimes, segment: Segment, first: int) -> Times | None:
    known = kept.segments.get(segment.base)
    if known is None or not known.is_of(segment, first):
        known = load_times(segment, first, log.base)
    times = grown(segment, first, known)
    if times:
        save_times(segment, times, known, sealed=segment.base != log.base)
        if len(kept.segments) >= _MAX_KEPT:
            kept.segments.clear()
        kept.segments[segment.base] = times
    return times


def note_sealed(log: Log, firsts: list[int]) -> None:
    """Note the times of the sealed segments that begin with these records, so that the first read finds them."""
    for _ in _sealed_times(log, KeptTimes({}, {}), [*firsts, sys.maxsize], ("", "~"), False):
        pass


def latest_time(log: Log, first: int, following: int) -> str | None:
    """Return the latest time in the sealed segment of numbers `first` to before `following`; None if unknown.

    It takes what the caches say, and reads the segment only for its cache.
    """
    span = SealedTimes(log.filesystem, log.base).find(first, log.sealed_mark(first))
    if span:
        return span.latest if span.following >= following else None
    with contextlib.suppress(*_UNREADABLE), contextlib.closing(log.open_sealed(first)) as segment:
        times = _times(log, KeptTimes({}, {}), segment, first)
        return times.latest if times and times.end == segment.size else None
    return None
