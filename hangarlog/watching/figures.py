"""Numbers as people read them on a screen: short, with a unit."""

from __future__ import annotations

UNKNOWN = "-"


def short(value: float | None) -> str:
    """Return a number in at most six characters: `0.4`, `12`, `1,204`, `55.6k`, `1.23M`."""
    if value is None:
        return UNKNOWN
    if value < 99.95:
        return f"{value:.1f}" if value % 1 and value < 10 else f"{value:.0f}"
    for limit, unit, each in ((99_999.5, "", 1.0), (999.95e3, "k", 1e3), (999.95e6, "M", 1e6), (999.95e9, "G", 1e9)):
        if value < limit:
            return f"{value / each:,.0f}" if each == 1 else _three_digits(value / each) + unit
    return f"{value:.0e}"


def sized(size: float | None) -> str:
    """Return a number of bytes: `512 B`, `3.4 kB`, `1.23 GB`."""
    if size is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5:
            return f"{size:.0f} B" if unit == "B" else f"{_three_digits(size)} {unit}"
        size /= 1000
    return f"{size:,.0f} PB"


def timed(seconds: float | None, micro: str = "µ") -> str:
    """Return a duration: `92 µs`, `1.4 ms`, `3.2 s`, `5 min`, `7 h`, `12 d`."""
    if seconds is None:
        return UNKNOWN
    if seconds >= 99.5:
        for limit, unit, each in ((5400.0, "min", 60.0), (172_800.0, "h", 3600.0), (float("inf"), "d", 86_400.0)):
            if seconds < limit:
                return f"{seconds / each:,.0f} {unit}"
    if seconds == 0:
        return "0 s"
    for limit, unit, each in ((0.9995e-3, f"{micro}s", 1e-6), (0.9995, "ms", 1e-3)):
        if seconds < limit:
            return f"{_two_digits(seconds / each)} {unit}"
    return f"{_two_digits(seconds)} s"


def _two_digits(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
