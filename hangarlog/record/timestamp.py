"""Times in the form that records use."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_second = (-1, b"")


def time_text(moment: datetime) -> str:
    """Return an aware datetime in the form that records use. Raises `OverflowError` if UTC has no such year."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def now() -> bytes:
    """Return the current time as RFC 3339 in UTC with microseconds."""
    global _second
    seconds, micros = divmod(time.time_ns() // 1000, 1_000_000)
    known, text = _second
    if seconds != known:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        _second = (seconds, text)
    return b"%b.%06dZ" % (text, micros)
