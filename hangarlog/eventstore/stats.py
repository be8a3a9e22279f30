"""How much a store holds."""

from __future__ import annotations

from datetime import datetime

import msgspec


class StoreStats(msgspec.Struct, frozen=True):
    """How much a store holds.

    `bytes` is the size of all its files, `segments` the number of its text files: of the journal and of all streams.
    The times are those at which the first and the last event were recorded, None if there is none.
    """

    events: int
    streams: int
    bytes: int
    segments: int
    first_recorded_at: datetime | None
    last_recorded_at: datetime | None
