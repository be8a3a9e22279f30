"""What a reader keeps open between two reads: the segments read last, for as long as no file is replaced."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING

from hangarlog.log.segment import Segment
from hangarlog.record.line import StoredEnvelope
from hangarlog.system import descriptors
from hangarlog.system.platform import WINDOWS

if TYPE_CHECKING:
    from hangarlog.log.log import Log

MOST = 0 if WINDOWS else 1024
"""Segments, each with its index, that a store keeps at most. On Windows an open file would prevent a roll."""


class Kept:
    """The segments read last while the store's `layout` is this one. Threads may share it, and so may a forked child.

    `folders` are those of which it is known that they do not lead out of the store.

    Nobody closes a segment that another may be reading: it is closed when the last one lets go of it.
    """

    def __init__(self, layout: int) -> None:
        self.layout = layout
        self.folders: set[str] = set()
        self._segments: OrderedDict[str, Segment] = OrderedDict()
        self._sealed: OrderedDict[str, tuple[int | None, list[int]]] = OrderedDict()

    @property
    def held(self) -> int:
        """How many descriptors it holds at most: a segment and its index take two."""
        return 2 * len(self._segments)

    def let_go(self) -> None:
        """Let go of the segment that was unused for longest, from any thread."""
        with contextlib.suppress(KeyError):
            self._segments.popitem(last=False)

    def live(self, log: Log) -> Segment | None:
        """The live segment of a log as it is now, None where it is not kept."""
        segment = self._find(log.base)
        return segment.again() if segment else None

    def sealed(self, log: Log, first: int) -> Segment:
        """A sealed segment of a log."""
        base = log.sealed_base(first)
        segment = self._find(base)
        return segment.again(grown=False) if segment else self.keep(log.open_sealed(first))

    def _find(self, base: str) -> Segment | None:
        segment = self._segments.get(base)
        if segment:
            with contextlib.suppress(KeyError):  # Another thread may have put it out.
                self._segments.move_to_end(base)
        return segment

    def keep(self, segment: Segment) -> Segment:
        """Keep an open segment, and give what to read it through; the one unused for longest is let go."""
        if not MOST:
            return segment
        again = segment.again()
        if not self._segments:
            descriptors.watch(self)
        self._segments[segment.base] = segment
        if len(self._segments) > MOST:
            self.let_go()
        for _ in range(min(-(-descriptors.excess(self) // 2), len(self._segments) - 1)):
            self.let_go()
        return again

    def sealed_before(self, log: Log, live_first: int | None) -> list[int]:
        """The sealed segments of a log before a live one that begins with that record, listed once."""
        known = self._known(log, live_first)
        if known is None:
            known = log.sealed_before(live_first)
            self._sealed[log.base] = (live_first, known)
            if len(self._sealed) > MOST:
                self._sealed.popitem(last=False)
        return known

    def _known(self, log: Log, live_first: int | None) -> list[int] | None:
        before, known = self._sealed.get(log.base, (None, []))
        # With another live segment than when they were listed, one more is sealed.
        return known if before is not None and before == live_first else None

    def few(self, log: Log, start: int, count: int) -> list[StoredEnvelope]:
        """Up to `count` records of a log from number `start` on, where the way to them is known already; else none."""
        live = self.live(log)
        first = live.first() if live else None
        if live is None or first is None:
            return []
        if first <= start:
            return live.records_at(start, first, count)
        sealed = self._known(log, first)
        if not sealed or start < sealed[0]:
            return []
        first = sealed[bisect_right(sealed, start) - 1]
        return self.sealed(log, first).records_at(start, first, count)
