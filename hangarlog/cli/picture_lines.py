"""What `hangarlog stats` draws on a terminal: when events came, and of which types they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hangarlog.cli.display import fitted
from hangarlog.cli.sparkline import bar
from hangarlog.cli.watch_frame import Line
from hangarlog.watching.figures import short
from hangarlog.watching.scales import interval_name, interval_of, time_ticks
from hangarlog.watching.survey import Survey

MOST_EVENTS, MOST_PLACES = 20_000, 50
"""So many events are read for a picture, at so many places."""

_ROWS, _TYPES = 5, 8
_NUMBERS = 15
"""The columns of a share and a number."""
_MOST_WIDTH, _LEAST_WIDTH = 100, 30
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_DIM, _BOLD = {"dim": True}, {"bold": True}


def picture(survey: Survey, width: int, *, unicode: bool) -> Iterator[Line]:
    """Yield the lines of a picture that is at most `width` columns wide; none if that is too narrow."""
    width = min(width, _MOST_WIDTH)
    if width >= _LEAST_WIDTH and survey.types:
        about = "" if survey.is_exact else f", estimated from {survey.looked_at:,} events"
        if survey.times and survey.times[-1] > survey.times[0]:
            yield []
            yield from _by_time(survey, width, about, unicode)
        yield []
        yield from _types(survey, width, about, unicode)


def _by_time(survey: Survey, width: int, about: str, unicode: bool) -> Iterator[Line]:
    first, last = survey.times[0], survey.times[-1]
    interval = interval_of(first, last, width - 10)
    start = first // interval * interval
    number = int((last - start) / interval) + 1
    counts = survey.events_by_time([start + interval * each for each in range(number + 1)])
    highest = max(counts)
    wide = max(1, (width - 8) // number)  # Few intervals get wide bars.
    yield [(fitted(f"events per {interval_name(interval)}{about}", width).rstrip(), _BOLD)]
    for row in reversed(range(_ROWS)):
        label = short(highest) if row == _ROWS - 1 else "0" if not row else ""
        marks = "".join(_mark(count / highest * _ROWS - row, unicode) * wide for count in counts)
        yield [(f"{label:>6}  ", _DIM), (marks.rstrip(), {"fg": "green"})]
    line = [" "] * (number * wide)
    end = -1
    for tick in time_ticks(start, start + interval * number, max(2, number * wide // 12)):
        at = round((tick.at - start) / interval * wide)
        if at > end and at + len(tick.label) <= len(line):
            line[at : at + len(tick.label)] = tick.label
            end = at + len(tick.label)
    yield [(" " * 8 + "".join(line).rstrip(), _DIM)]


def _mark(height: float, unicode: bool) -> str:
    """Return the part of a bar that is in a row: `height` rows of it begin here."""
    if not unicode:
        return "#" if height >= 0.5 else "." if height > 0 else " "
    return _EIGHTHS[min(8, max(0, round(height * 8)))] if height > 1 / 16 or height <= 0 else _EIGHTHS[1]


def _types(survey: Survey, width: int, about: str, unicode: bool) -> Iterator[Line]:
    yield [(fitted(f"event types{about}", width).rstrip(), _BOLD)]
    rows = [(each.name, each.events) for each in survey.types[:_TYPES]]
    rest = sum(each.events for each in survey.types[_TYPES:]) + (survey.other_types.events if survey.other_types else 0)
    if rest:
        rows.append(
            (f"all others ({len(survey.types) - _TYPES:,} types)" if not survey.other_types else "all others", rest)
        )
    yield from _shares(rows, survey.events, width, unicode)


def _shares(rows: Sequence[tuple[str, float]], total: float, width: int, unicode: bool) -> Iterator[Line]:
    highest = max((value for _, value in rows), default=0.0) or 1.0
    name_width = min(max(len(name) for name, _ in rows), width // 2, width - 2 - _NUMBERS)
    bar_width = width - name_width - 2 - _NUMBERS
    for name, value in rows:
        drawn = bar(value / highest, bar_width, unicode=unicode)
        part = min(1.0, value / total) if total else 0.0
        share = f"{100 * part:.0f}%" if part >= 0.01 else "<1%"
        yield [
            (fitted(name, name_width), {}),
            ("  ", {}),
            (drawn, {"fg": "blue"}),
            (f"{share:>6}{short(value):>9}", {}),
        ]
