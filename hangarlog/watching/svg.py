"""Plots as inline SVG. Colours come from the page's style sheet; all text is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from hangarlog.watching.scales import Tick, round_steps

WIDTH, HEIGHT = 480, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 26, 34
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_GAP = 1.0
"""Between two bars."""


class Bar(NamedTuple):
    """A bar: its height, and what it says when it is pointed at."""

    value: float
    title: str


class Mark(NamedTuple):
    """A vertical line at a place between bars, and its label."""

    at: float
    label: str


def clean(text: str) -> str:
    """Return a text for a page: what XML cannot hold, and lone surrogates, as escapes; markup escaped."""
    shown = "".join(
        each if each.isprintable() and not "\ud800" <= each <= "\udfff" else f"\\u{ord(each):04x}" for each in text
    )
    return escape(shown, quote=True)


def _opened(label: str) -> list[str]:
    return [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{clean(label)}">']


def _y(value: float, highest: float) -> float:
    return _TOP + _PLOT_HEIGHT * (1 - value / highest)


def _value_axis(highest: float, name: str) -> tuple[float, list[str]]:
    """Return (the highest tick, the lines and labels of the axis). `name` is the unit."""
    steps = round_steps(highest, 6)
    parts = []
    for step in steps:
        y = _y(step, steps[-1])
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{compact(step)}</text>')
    parts.append(f'<text class="unit" x="{_LEFT - 6}" y="10" text-anchor="end">{clean(name)}</text>')
    return steps[-1], parts


def compact(value: float) -> str:
    """Return a number as the label of a tick: `250`, `1.5k`, `20M`."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def _base_line() -> str:
    y = _TOP + _PLOT_HEIGHT
    return f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'


def _labels_below(ticks: Sequence[tuple[float, str]]) -> list[str]:
    """Return the labels of places, given as shares of the width. Labels that would overlap are left out."""
    parts, end = [], -1.0
    for share, label in ticks:
        x = _LEFT + _PLOT_WIDTH * share
        half = 4.4 * len(label)  # Also as wide as a phone shows them.
        left = min(x, WIDTH - half) - half
        if left < end:
            continue
        end = left + 2 * half
        y = _TOP + _PLOT_HEIGHT
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>')
        parts.append(
            f'<text class="tick" x="{left + half:.1f}" y="{y + 18}" text-anchor="middle">{clean(label)}</text>'
        )
    return parts


def area(label: str, unit: str, points: Sequence[tuple[float, float]], ticks: Sequence[Tick]) -> str:
    """Return a line with its area below: points of (x, y), sorted by x, with at least two different x."""
    first, last = points[0][0], points[-1][0]
    highest, axis = _value_axis(max(y for _, y in points), unit)
    places = [(_LEFT + _PLOT_WIDTH * (x - first) / (last - first), _y(y, highest)) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    base = _TOP + _PLOT_HEIGHT
    parts = [*_opened(label), *axis]
    parts.append(f'<polygon class="area" points="{places[0][0]:.1f},{base} {line} {places[-1][0]:.1f},{base}"/>')
    parts.append(f'<polyline class="line" points="{line}"/>')
    parts += [
        _base_line(),
        *_labels_below([((tick.at - first) / (last - first), tick.label) for tick in ticks]),
        "</svg>",
    ]
    return "".join(parts)


def bars(
    label: str, unit: str, values: Sequence[Bar], ticks: Sequence[tuple[float, str]], marks: Sequence[Mark] = ()
) -> str:
    """Return vertical bars side by side. Ticks and marks stand at numbers of bars: 0 is the left edge of the first."""
    highest, axis = _value_axis(max((bar.value for bar in values), default=0), unit)
    each = _PLOT_WIDTH / max(1, len(values))
    gap = min(_GAP, each * 0.2)
    parts = [*_opened(label), *axis]
    for number, bar in enumerate(values):
        if bar.value > 0:
            y = min(_y(bar.value, highest), _TOP + _PLOT_HEIGHT - 1)  # One event is to be seen, too.
            x, height = _LEFT + each * number + gap / 2, _TOP + _PLOT_HEIGHT - y
            parts.append(
                f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{each - gap:.1f}" height="{height:.1f}">'
                f"<title>{clean(bar.title)}</title></rect>"
            )
    parts.append(_base_line())
    parts += _labels_below([(at / max(1, len(values)), text) for at, text in ticks])
    parts += _marks(marks, each, len(values))
    return "".join([*parts, "</svg>"])


def _marks(marks: Sequence[Mark], each: float, count: int) -> Iterator[str]:
    """Yield vertical lines. The first has its label on its left, the others on their right, if there is room."""
    for number, mark in enumerate(marks):
        x = _LEFT + each * mark.at
        left = x + 10 * len(mark.label) > WIDTH if number else mark.at > count * 0.3
        yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + _PLOT_HEIGHT}"/>'
        yield (
            f'<text class="mark-label" x="{x + (-5 if left else 5):.1f}" y="{_TOP + 10 + 16 * number}" '
            f'text-anchor="{"end" if left else "start"}">{clean(mark.label)}</text>'
        )


def meter(share: float) -> str:
    """Return a bar that fills a share, 0 to 1, of its width."""
    width = 100 * min(1.0, max(0.0, share))
    return (
        '<svg class="meter" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" width="100" height="8"/><rect class="bar" width="{width:.2f}" height="8"/></svg>'
    )
