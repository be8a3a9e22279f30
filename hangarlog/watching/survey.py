"""An overview of a store's events for pictures: when they were recorded, of which types, how large their payloads are.

A small store is read as a whole. Of a large one, events at places that are evenly spread are read, so that a store of
any size takes a second or so.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from hangarlog.errors import HangarlogError
from hangarlog.filestore.store import FileEventStore
from hangarlog.record.envelope import Envelope
from hangarlog.system.read_only import ReadOnly
from hangarlog.watching.journal_signs import seconds_of

MOST_EVENTS, MOST_PLACES = 100_000, 200
_MOST_TYPES = 1000
"""So many types are told apart. Of more, the rarer ones are one."""
_NAME_CHARACTERS = 200
_EARLIEST, _LATEST = -30_610_224_000.0, 221_845_392_000.0
"""Times of the years 1000 to 9000, which calendars can round in both directions. Others are left out."""


class TypeShare(msgspec.Struct, frozen=True):
    """An event type; about how many events have it, and how many bytes their payloads have."""

    name: str
    events: float
    bytes: float


class Survey(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        events: The number of events in the journal.
        looked_at: How many of them were read. If not all, the other figures are estimates from these.
        times: When the events that were read were recorded, sorted, in seconds since 1970.
        types: The event types, the most frequent first.
        other_types: All types beyond these, together; None without any.
        payload_sizes: {n: about how many payloads have 2^(n-1) to 2^n - 1 bytes}.
        problem: Why not all that was wanted was read, None if it was.
    """

    events: int
    looked_at: int
    times: list[float]
    types: tuple[TypeShare, ...]
    other_types: TypeShare | None
    payload_sizes: dict[int, float]
    problem: str | None

    @property
    def is_exact(self) -> bool:
        """True if all events were read."""
        return self.looked_at >= self.events

    def events_by_time(self, bounds: Sequence[float]) -> list[float]:
        """Return about how many events were recorded between each two of these times; the last bound belongs to it."""
        weight = self.events / max(1, len(self.times))
        counts = [0.0] * (len(bounds) - 1)
        place = 0
        for time in self.times:
            while place < len(counts) - 1 and time >= bounds[place + 1]:
                place += 1
            if bounds[0] <= time <= bounds[-1]:
                counts[place] += weight
        return counts


def survey(
    path: str, first: int, committed: int, most_events: int = MOST_EVENTS, most_places: int = MOST_PLACES
) -> Survey:
    """Return an overview of the events from position `first` to `committed`. The store is not opened for writing."""
    events = max(0, committed - first + 1)
    found = _Counts()
    problem = None
    try:
        with FileEventStore.untyped(path, create=False, lock_timeout=0, filesystem=ReadOnly()) as store:
            for start, limit in _places(first - 1, events, most_events, most_places):
                for block in store.envelopes(from_position=start, limit=limit, on_damage="skip"):
                    found.add(block)
    except (HangarlogError, OSError) as error:
        problem = str(error)
    return found.survey(events, problem)


def _places(before: int, events: int, most_events: int, most_places: int) -> Iterator[tuple[int, int]]:
    """Yield (position before the first, number) of the events to read."""
    if events <= most_events:
        yield before, events
        return
    each = max(1, most_events // most_places)
    for place in range(most_places):
        yield before + (events - each) * place // (most_places - 1), each


class _Counts:
    def __init__(self) -> None:
        self._events = 0
        self._types: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._times: list[float] = []
        self._seconds: dict[str, float | None] = {}

    def add(self, block: Sequence[Envelope]) -> None:
        """Count events."""
        self._events += len(block)
        sizes = [memoryview(envelope.data).nbytes for envelope in block]
        self._sizes.update(map(int.bit_length, sizes))
        types, largest = self._types, self._bytes
        for envelope, size in zip(block, sizes, strict=True):
            name = envelope.event_type
            if name not in types:
                name = name[:_NAME_CHARACTERS] if len(types) < _MOST_TYPES else ""  # No event has that.
            types[name] = types.get(name, 0) + 1
            largest[name] = largest.get(name, 0) + size
        times = (self._time(envelope.recorded_at) for envelope in block)
        self._times += (time for time in times if time is not None and _EARLIEST <= time <= _LATEST)

    def _time(self, recorded_at: str) -> float | None:
        second = recorded_at[:19]  # Many events have the same second, and only its part needs a calendar.
        if len(recorded_at) == 27 and recorded_at.endswith("Z"):
            if second not in self._seconds:
                if len(self._seconds) > MOST_EVENTS:
                    self._seconds.clear()
                self._seconds[second] = seconds_of(f"{second}Z")
            whole = self._seconds[second]
            with contextlib.suppress(ValueError):
                return None if whole is None else whole + float(recorded_at[19:26])
        return seconds_of(recorded_at)

    def survey(self, events: int, problem: str | None) -> Survey:
        """Return what was counted, for this number of events."""
        weight = events / max(1, self._events)
        shares = [
            TypeShare(name, count * weight, self._bytes[name] * weight) for name, count in self._types.most_common()
        ]
        other = next((share for share in shares if not share.name), None)
        sizes = {bits: count * weight for bits, count in sorted(self._sizes.items())}
        named = tuple(share for share in shares if share.name)
        return Survey(events, self._events, sorted(self._times), named, other, sizes, problem)
