"""Times in the form that records use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

_second = (-1, b"")
_FORM = b"0000-00-00T00:00:00.000000Z"
_TO_ZERO = bytes(ord("0") if ord("0") <= byte <= ord("9") else byte for byte in range(256))


def now() -> bytes:
    """Return the current time as RFC 3339 in UTC with microseconds."""
    global _second
    seconds, micros = divmod(time.time_ns() // 1000, 1_000_000)
    known, text = _second
    if seconds != known:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        _second = (seconds, text)
    return b"%b.%06dZ" % (text, micros)


def in_form(texts: Sequence[str]) -> bool:
    """True if all these times have the form of records, so that they sort as text in the order of time."""
    same_length = set(map(len, texts)) <= {len(_FORM)}
    return same_length and "".join(texts).encode(errors="replace").translate(_TO_ZERO) == _FORM * len(texts)


def as_recorded(moment: datetime) -> str:
    """Return an aware time in the form of records. Raises `OverflowError` if UTC has no such year."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[: len(_FORM) - 1] + "Z"
