"""Small pictures in a line of text: sparklines and bars, also in ASCII."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

_LEVELS = {True: "▁▂▃▄▅▆▇█", False: "_.:-=+*#"}
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def sparkline(values: Sequence[float | None], width: int, *, unicode: bool) -> str:
    """Return the last `width` values as a line of that width, from 0 to the highest; blanks stand for unknown ones."""
    shown = values[-width:] if width > 0 else []
    levels = _LEVELS[unicode]
    highest = max((value for value in shown if value is not None), default=0.0)
    marks = [
        " " if value is None else levels[min(7, ceil(value / highest * 7))] if highest > 0 else levels[0]
        for value in shown
    ]
    return "".join(marks).rjust(max(0, width))


def bar(share: float, width: int, *, unicode: bool) -> str:
    """Return a bar that fills a share, 0 to 1, of `width` columns."""
    share = min(1.0, max(0.0, share))
    if not unicode:
        return ("#" * round(share * width)).ljust(width)
    eighths = round(share * width * 8)
    text = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return text.ljust(width)
