"""Axes of plots: ticks at round numbers and round times."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from math import ceil, floor, log10
from typing import NamedTuple

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_STEPS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(minutes * _MINUTE for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 6, 12)),
    *(days * _DAY for days in (1, 2, 7, 14)),
)
"""Steps between ticks of times, in seconds. Longer ones are whole months."""
_MONTH_STEPS = (1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1200)


class Tick(NamedTuple):
    """A place on an axis, and its label."""

    at: float
    label: str


def round_steps(highest: float, most: int) -> list[float]:
    """Return round numbers from 0 to at least `highest`, at equal distances, at most `most` of them."""
    if highest <= 0:
        return [0.0, 1.0]
    raw = highest / max(1, most - 1)
    power = 10.0 ** floor(log10(raw))
    step = next(each * power for each in (1, 2, 2.5, 5, 10, 20) if each * power * (most - 1) >= highest * (1 - 1e-9))
    return [step * number for number in range(ceil(highest / step - 1e-9) + 1)]


def time_ticks(first: float, last: float, most: int) -> list[Tick]:
    """Return ticks at round times (UTC) between two times in seconds since 1970, at most `most` of them."""
    span = last - first
    step = next((each for each in _STEPS if span / each <= most - 1), None)
    if step is None:
        return list(_month_ticks(first, last, most))
    start = ceil(first / step) * step
    ticks = [start + step * number for number in range(int((last - start) / step + 1e-9) + 1)] if last >= start else []
    return [Tick(at, _label(at, step)) for at in ticks]


def _month_ticks(first: float, last: float, most: int) -> Iterator[Tick]:
    begin, end = datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC)
    months = (end.year - begin.year) * 12 + end.month - begin.month
    step = next((each for each in _MONTH_STEPS if months / each <= most - 1), _MONTH_STEPS[-1])
    number = (begin.year * 12 + begin.month - 1) // step * step
    while number // 12 <= end.year and number // 12 <= 9999:
        if number // 12 >= 1:
            at = datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
            if begin <= at <= end:
                yield Tick(at.timestamp(), f"{at.year}" if step % 12 == 0 else f"{at:%Y-%m}")
        number += step


def _label(at: float, step: float) -> str:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=round(at, 3))
    if step >= _DAY:
        return f"{moment:%m-%d}"
    if step >= _MINUTE:
        return f"{moment:%m-%d}" if at % _DAY == 0 else f"{moment:%H:%M}"
    if step >= 1:
        return f"{moment:%H:%M:%S}"
    return f"{moment:%M:%S}.{moment.microsecond // 1000:03}"


def interval_of(first: float, last: float, most: int) -> float:
    """Return a round number of seconds that divides a time into at most `most` intervals."""
    span = max(last - first, 1e-3)
    found = next((each for each in _STEPS if span / each <= most - 1), None)
    return found or ceil(span / (most - 1) / _DAY) * float(_DAY)


def interval_name(seconds: float) -> str:
    """Return an interval as text: `10 minutes`, `day`, `200 ms`."""
    for each, unit in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute"), (1, "second")):
        if seconds >= each:
            count = seconds / each
            return unit if count == 1 else f"{count:g} {unit}s"
    return "ms" if seconds == 0.001 else f"{seconds * 1000:g} ms"
