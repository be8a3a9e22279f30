"""Which streams and types are busy: the journal's new lines, counted in bounded memory."""

from __future__ import annotations

import contextlib
import heapq
from collections import Counter
from collections.abc import Iterable
from math import exp
from time import monotonic

import msgspec

from hangarlog.errors import HangarlogError
from hangarlog.events.registry import UntypedEvent
from hangarlog.eventstore.tail import Tail
from hangarlog.filestore.store import FileEventStore
from hangarlog.system.read_only import ReadOnly

WINDOW_EVENTS = 2000
"""Shares are of about so many of the last events, or of ten looks if these bring more."""
_WINDOW_LOOKS = 10
_MOST_NAMES = 8192
"""So many names are counted at once. Of more, the rarer half is forgotten."""
_MOST_CHARACTERS = 1024


class Share(msgspec.Struct, frozen=True):
    """A name, and which part of the recent events it has, 0 to 1."""

    name: str
    share: float


class Tally:
    """Counts names, the recent ones with more weight, in bounded memory."""

    def __init__(self) -> None:
        self._scores: dict[str, float] = {}
        self._total = 0.0

    def add(self, names: Iterable[str]) -> None:
        """Count names."""
        for name, count in Counter(names).items():
            self._scores[name] = self._scores.get(name, 0.0) + count
            self._total += count
        if len(self._scores) > _MOST_NAMES:
            self._scores = dict(heapq.nlargest(_MOST_NAMES // 2, self._scores.items(), key=lambda item: item[1]))

    def fade(self, factor: float) -> None:
        """Give all that was counted so far less weight."""
        self._total *= factor
        self._scores = {name: score * factor for name, score in self._scores.items() if score * factor > 0.01}

    def take(self, other: Tally, weight: float) -> None:
        """Add all that another tally has counted, each `weight` times."""
        for name, score in other._scores.items():
            self._scores[name] = self._scores.get(name, 0.0) + score * weight
        self._total += other._total * weight
        self.add(())

    def most(self, count: int) -> tuple[Share, ...]:
        """Return the most frequent names, the most frequent first."""
        if not self._total:
            return ()
        found = heapq.nsmallest(count, self._scores.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Share(name, min(1.0, score / self._total)) for name, score in found)


class Activity:
    """Follows a store, which it opens without writing to it, and counts streams and types.

    `problem` says why it cannot, None if it can. `is_sample` is True if events came faster than they could be counted,
    so that some were left out.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._store: FileEventStore[UntypedEvent] | None = None
        self._tail: Tail | None = None
        self.streams, self.types = Tally(), Tally()
        self.problem: str | None = None
        self.is_sample = False

    def update(self, seconds: float, first: int = 1) -> None:
        """Count what is new, for at most `seconds` or so. `first` is the first position that the journal has."""
        try:
            self._count(self._tail or self._follow(first), seconds)
            self.problem = None
        except (HangarlogError, OSError) as error:
            self.problem = str(error)
            self.close()

    def _follow(self, first: int) -> Tail:
        self._store = FileEventStore.untyped(self._path, create=False, lock_timeout=0, filesystem=ReadOnly())
        committed = self._store.last_position
        position = min(committed, max(first - 1, committed - WINDOW_EVENTS))
        self._tail = self._store._tail(position, durable=False, skip=True)
        return self._tail

    def _count(self, tail: Tail, seconds: float) -> None:
        new, counted = max(0, tail.end() - tail.position), 0
        deadline = monotonic() + seconds
        streams, types = Tally(), Tally()
        while (block := tail.step()) is not None:
            counted += len(block)
            streams.add([envelope.stream_id for envelope in block])
            types.add([envelope.event_type[:_MOST_CHARACTERS] for envelope in block])
            if monotonic() > deadline:
                tail.seek(tail.end())
                break
        self.is_sample = counted < new
        window = max(WINDOW_EVENTS, _WINDOW_LOOKS * new)
        for all_, some in ((self.streams, streams), (self.types, types)):
            all_.fade(exp(-new / window))
            all_.take(some, max(1.0, new / counted) if counted else 1.0)

    def close(self) -> None:
        """Close the store; the next update opens it again."""
        tail, store, self._tail, self._store = self._tail, self._store, None, None
        with contextlib.suppress(HangarlogError, OSError):
            if tail:
                tail.close()
            if store:
                store.close()
