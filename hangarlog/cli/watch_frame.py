"""What `hangarlog stats --watch` shows: lines of text for a screen of any size."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from hangarlog.cli.display import fitted
from hangarlog.cli.sparkline import bar, sparkline
from hangarlog.watching.figures import short, sized, timed
from hangarlog.watching.subscriber_signs import SubscriberSigns
from hangarlog.watching.watcher import MOST_NAMES, Look, Rates

Part = tuple[str, dict[str, Any]]
Line = list[Part]

_TWO_COLUMNS = 76
"""From this width on, tables stand side by side."""
_GAP = 3
_LEAST_SPARKLINE = 4
_BAR = 8
_DIM, _BOLD = {"dim": True}, {"bold": True}
_MOST_PROBLEMS = 3

LOOKS = 500
"""So many looks are remembered for the sparklines: as many as the widest screen shows."""


class History:
    """The figures of the last looks."""

    def __init__(self) -> None:
        self.events: deque[float | None] = deque(maxlen=LOOKS)
        self.bytes: deque[float | None] = deque(maxlen=LOOKS)
        self.syncs: deque[float | None] = deque(maxlen=LOOKS)

    def add(self, rates: Rates | None) -> None:
        """Remember what a look has found."""
        if rates:
            self.events.append(rates.events_per_second)
            self.bytes.append(rates.bytes_per_second)
            self.syncs.append(rates.sync_p99)


class Table(NamedTuple):
    """A title, the heads of its columns of numbers, and rows of (name, share or None, numbers)."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, float | None, tuple[str, ...]]]


def frame(look: Look, history: History, width: int, height: int, *, unicode: bool, seconds: float) -> list[Line]:
    """Return the lines of a screen, at most `height`, each at most `width` columns wide."""
    lines = [_title(look, width, seconds), _summary(look, width, unicode)]
    if height >= 12:
        lines.append([])
    lines += _gauges(look, history, width, unicode)
    lines += [[(fitted(f"! {text}", width).rstrip(), {"fg": "red"})] for text in look.problems[:_MOST_PROBLEMS]]
    left = height - len(lines)
    if left >= 4:
        lines += _tables(look, width, left, unicode)
    return lines[:height]


def _title(look: Look, width: int, seconds: float) -> Line:
    clock = datetime.fromtimestamp(look.vitals.at, UTC).astimezone().strftime("%H:%M:%S")
    right = f"every {seconds:g} s  {clock}"
    room = width - len("hangarlog ") - len(right) - 2
    if room < 8:
        return [(fitted("hangarlog " + look.vitals.path, width).rstrip(), _BOLD)]
    return [("hangarlog ", _BOLD), (fitted(look.vitals.path, room), {"fg": "cyan"}), ("  ", {}), (right, _DIM)]


def _summary(look: Look, width: int, unicode: bool) -> Line:
    vitals = look.vitals
    state, files = vitals.state, vitals.files
    parts = [f"{vitals.committed:,} events" if vitals.committed is not None else "an unknown number of events"]
    if files:
        parts.append(f"{files.streams:,} streams")
        parts.append(sized(sum(part.bytes for part in files.parts.values())))
    elif vitals.journal:
        parts.append(f"{sized(vitals.journal.bytes)} of journal")
    if state.has_failed:
        parts.append("a sync has failed")
    elif vitals.unsynced:
        parts.append(f"{vitals.unsynced:,} not synced")
    if state.is_open is not None:
        parts.append("open" if state.is_open else "not open")
    return [
        (fitted((" · " if unicode else " - ").join(parts), width).rstrip(), {"fg": "red"} if state.has_failed else {})
    ]


def _gauges(look: Look, history: History, width: int, unicode: bool) -> Iterator[Line]:
    rates = look.rates or Rates(0.0)
    micro = "µ" if unicode else "u"
    p50, p99 = (
        f"  {name} {timed(value, micro):>6}" for name, value in (("p50", rates.sync_p50), ("p99", rates.sync_p99))
    )
    rows = [
        ("appends", f"{short(rates.events_per_second)}/s", history.events, "green"),
        ("bytes", f"{sized(rates.bytes_per_second)}/s", history.bytes, "green"),
        ("syncs", f"{short(rates.syncs_per_second)}/s", history.syncs, "yellow"),
    ]
    for name, value, values, color in rows:
        text = value if rates.seconds else "-"
        line: Line = [(f"{name:<8}", _DIM), (f"{text:>11}", _BOLD)]
        used = 8 + 11
        if name == "syncs":
            waits = next(text for text in (p50 + p99, p99, "") if used + len(text) <= width or not text)
            line.append((waits, {}))
            used += len(waits)
        room = width - used - 2
        if room >= _LEAST_SPARKLINE:
            line += [("  ", {}), (sparkline(list(values), room, unicode=unicode), {"fg": color})]
        yield _cut(line, width)


def _cut(line: Line, width: int) -> Line:
    """Return a line of narrow characters that fits into `width` columns."""
    kept: Line = []
    for text, style in line:
        if width > 0:
            kept.append((text[:width], style))
            width -= len(text)
    return kept


def _tables(look: Look, width: int, height: int, unicode: bool) -> list[Line]:
    """Return the tables, side by side if there is room, as many of them as fit."""
    rate = look.rates.events_per_second if look.rates else None
    mark = "~" if look.is_sample else ""
    share_heads = ("ev/s", "share")
    busy = Table(f"{mark}busy streams", share_heads, [(s.name, s.share, _shares(s.share, rate)) for s in look.streams])
    types = Table(f"{mark}types", share_heads, [(s.name, s.share, _shares(s.share, rate)) for s in look.types])
    files = look.vitals.files
    large = Table(
        "large streams", ("size",), [(s.name, None, (sized(s.bytes),)) for s in files.largest] if files else []
    )
    followers = Table("followers", ("lag", "behind", "owner"), [_follower(each) for each in _most_behind(look)])
    if width >= _TWO_COLUMNS:
        half = (width - _GAP) // 2
        left = _column([busy, large], half, height, unicode)
        right = _column([types, followers], width - _GAP - half, height, unicode)
        return _beside(left, right, half)
    return _column([busy, types, followers, large], width, height, unicode)


def _shares(share: float, rate: float | None) -> tuple[str, ...]:
    return (short(None if rate is None else share * rate), f"{share * 100:.0f}%")


def _most_behind(look: Look) -> list[SubscriberSigns]:
    return sorted(look.vitals.subscribers, key=lambda each: (-(each.lag or 0), each.name))[:MOST_NAMES]


def _follower(signs: SubscriberSigns) -> tuple[str, float | None, tuple[str, ...]]:
    owner = "-" if signs.is_owned is None else "none" if not signs.is_owned else str(signs.owner or "?")
    return signs.name, None, (short(signs.lag), _behind(signs), owner)


def _behind(signs: SubscriberSigns) -> str:
    return "0 s" if not signs.lag else timed(signs.lag_seconds and max(0.001, signs.lag_seconds))


def _column(tables: list[Table], width: int, height: int, unicode: bool) -> list[Line]:
    """Return tables one below the other. Each gets as many rows as it has, or its share of the height."""
    shown = [table for table in tables if table.rows] or tables[:1]
    shown = shown[: max(1, height // 4)]  # A blank line, a head, and two rows.
    lines: list[Line] = []
    for number, table in enumerate(shown):
        rest = sum(len(later.rows) + 2 for later in shown[number + 1 :])
        fair = (height - len(lines)) // (len(shown) - number)
        room = max(fair, height - len(lines) - rest) - 2
        if room >= 1:
            lines += [[], *_rows(table, width, room, unicode)]
    return lines


def _rows(table: Table, width: int, most: int, unicode: bool) -> Iterator[Line]:
    rows = table.rows[:most]
    columns = list(zip(table.heads, *(numbers for _, _, numbers in rows), strict=True))
    widths = [max(map(len, column)) for column in columns]
    taken = sum(each + 2 for each in widths)
    while widths and width - taken < 8:  # A tiny screen: the name counts most.
        taken -= widths.pop() + 2
    bars = _BAR + 1 if width - taken >= 24 and any(share is not None for _, share, _ in rows) else 0
    name_width = max(0, width - taken - bars)
    heads = "".join(f"  {head:>{each}}" for head, each in zip(table.heads, widths, strict=False))
    yield [(fitted(table.title, name_width), _DIM), (" " * bars + heads, _DIM)]
    for name, share, numbers in rows:
        line: Line = [(fitted(name, name_width), {})]
        if bars:
            line.append((" " + bar(share or 0.0, _BAR, unicode=unicode), {"fg": "blue"}))
        line.append(("".join(f"  {text:>{each}}" for text, each in zip(numbers, widths, strict=False)), {}))
        yield line
    if not rows:
        yield [(fitted("none yet", width), _DIM)]


def _beside(left: list[Line], right: list[Line], width: int) -> list[Line]:
    """Return two columns side by side; the left one is padded to `width`."""
    lines = []
    for number in range(max(len(left), len(right))):
        one = left[number] if number < len(left) else []
        other = right[number] if number < len(right) else []
        lines.append([*(one or [(" " * width, {})]), (" " * _GAP, {}), *other] if other else one)
    return lines


def one_line(look: Look, *, unicode: bool) -> str:
    """Return the most important figures on a line, for a terminal without a cursor."""
    rates, micro = look.rates or Rates(0.0), "µ" if unicode else "u"
    clock = datetime.fromtimestamp(look.vitals.at, UTC).astimezone().strftime("%H:%M:%S")
    events = "?" if look.vitals.committed is None else f"{look.vitals.committed:,}"
    lag = max((each.lag or 0 for each in look.vitals.subscribers), default=0)
    figures = [
        f"{events} events",
        f"{short(rates.events_per_second)}/s",
        f"{sized(rates.bytes_per_second)}/s",
        f"{short(rates.syncs_per_second)} syncs/s (p99 {timed(rates.sync_p99, micro)})",
        f"lag {short(lag)}",
    ]
    return f"{clock}  {', '.join(figures)}{'; ' + look.problems[0] if look.problems else ''}"
