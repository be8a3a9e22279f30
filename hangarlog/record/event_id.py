"""Ids for events that have none of their own."""

from __future__ import annotations

import time
from random import getrandbits


def new_event_id() -> str:
    """Return a new UUID of version 7 (RFC 9562): milliseconds since 1970, then 74 random bits."""
    millis, random = time.time_ns() // 1_000_000, getrandbits(74)
    return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031 - the fastest way
        millis >> 16,
        millis & 0xFFFF,
        random >> 62,
        0x8000 | (random >> 48) & 0x3FFF,
        random & 0xFFFF_FFFF_FFFF,
    )
