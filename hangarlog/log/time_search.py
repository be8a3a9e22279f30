"""Finds the ranges of a log that may hold records of a time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from hangarlog.errors import CorruptionError
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.times import Times, grown, load_times, save_times

Range = tuple[int | None, int | None]
"""The first and the last number, inclusive, in the direction of reading. None: where the log begins or ends."""

_MAX_KEPT = 4096
_BEFORE_ALL = -sys.maxsize


def ranges_in_time(
    log: Log,
    kept: dict[str, Times],
    start: int | None,
    stop: int | None,
    since: str | None,
    until: str | None,
    reverse: bool,
) -> Iterator[Range]:
    """Yield, in order, the ranges from `start` to `stop` that may hold records from `since` to before `until`.

    Everything that no cache excludes is in them, damage too. `kept` are the times found before, by base.
    """
    if since is not None and until is not None and since >= until:
        return
    sign = -1 if reverse else 1  # In reverse, numbers are negative here, so that they rise too.
    begin = _BEFORE_ALL if start is None else sign * start
    end = sys.maxsize if stop is None else sign * stop
    low, high = (sign * end, sign * begin) if reverse else (begin, end)
    for first, last in _outside(_times_of(log, kept, max(0, low), high, reverse), since or "", until or "~", reverse):
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


def _times_of(log: Log, kept: dict[str, Times], low: int, high: int, reverse: bool) -> Iterator[Times]:
    """Yield the times of the segments that may hold records `low` to `high`, in order."""
    firsts: list[int] = []
    newest = None
    # What cannot be read is not excluded: the read itself meets the damage.
    with contextlib.suppress(OSError, CorruptionError), log.opened(low) as (sealed, first, active):
        firsts = [one for one in sealed if one <= high]
        if active and first is not None and first <= high:
            newest = _times(log, kept, active, first)
    if reverse and newest:
        yield newest
    for first in reversed(firsts) if reverse else firsts:
        times = kept.get(log.sealed_base(first))
        with contextlib.suppress(OSError, CorruptionError):
            if times is None:
                with contextlib.closing(log.open_sealed(first)) as segment:
                    times = _times(log, kept, segment, first)
        if times:
            yield times
    if newest and not reverse:
        yield newest


def _times(log: Log, kept: dict[str, Times], segment: Segment, first: int) -> Times | None:
    known = kept.get(segment.base)
    if known is None or not known.is_of(segment, first):
        known = load_times(segment, first, log.base)
    times = grown(segment, first, known)
    if times:
        save_times(segment, times, known, sealed=segment.base != log.base)
        if len(kept) >= _MAX_KEPT:
            kept.clear()
        kept[segment.base] = times
    return times
