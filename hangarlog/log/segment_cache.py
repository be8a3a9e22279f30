"""The segment cache: the segments that a store keeps open between reads, as long as no file is replaced."""

from __future__ import annotations

import contextlib
from collections import OrderedDict

from hangarlog.log.sealed_times import KeptTimes
from hangarlog.log.segment import Segment
from hangarlog.system import descriptors
from hangarlog.system.platform import WINDOWS

MAX_SEGMENTS = 0 if WINDOWS else 1024
"""The most segments that a store keeps open, each with its index. On Windows, an open file would prevent a roll."""


class SegmentCache:
    """The segments that were last read, valid for one `layout` of the store. Threads and forked children may share it.

    `folders` are those known not to lead out of the store. The base of a segment or a log is its path without a suffix.
    `times` are the recorded times that reads have found. A segment closes when its last reader releases it.
    """

    def __init__(self, layout: int) -> None:
        self.layout = layout
        self.begins = 0
        """The first position of the journal, 0 while nobody has asked."""
        self.folders: set[str] = set()
        self.times = KeptTimes({}, {})
        self._segments: OrderedDict[str, Segment] = OrderedDict()
        self._listings: OrderedDict[str, tuple[int | None, list[int]]] = OrderedDict()

    @property
    def held(self) -> int:
        """The most descriptors that it holds: two per segment, one of them for the index."""
        return 2 * len(self._segments)

    def let_go(self) -> None:
        """Let go of the least recently used segment. Any thread may call it."""
        with contextlib.suppress(KeyError):
            self._segments.popitem(last=False)

    def active(self, base: str) -> Segment | None:
        """Return the active segment with this base as it is now, None if it is not cached."""
        segment = self._find(base)
        return segment.again() if segment else None

    def sealed(self, base: str) -> Segment | None:
        """Return the sealed segment with this base, None if it is not cached."""
        segment = self._find(base)
        return segment.again(grown=False) if segment else None

    def _find(self, base: str) -> Segment | None:
        segment = self._segments.get(base)
        if segment:
            with contextlib.suppress(KeyError):  # Another thread may have let it go.
                self._segments.move_to_end(base)
        return segment

    def keep(self, segment: Segment) -> Segment:
        """Keep a segment open, and return one to read it through. A full cache lets the least recently used one go."""
        if not MAX_SEGMENTS:
            return segment
        again = segment.again()
        if not self._segments:
            descriptors.watch(self)
        self._segments[segment.base] = segment
        if len(self._segments) > MAX_SEGMENTS:
            self.let_go()
        for _ in range(min(-(-descriptors.excess(self) // 2), len(self._segments) - 1)):
            self.let_go()
        return again

    def listing(self, base: str, active_first: int | None) -> list[int] | None:
        """Return the first numbers of a log's sealed segments, None if they were not listed since the last roll."""
        before, firsts = self._listings.get(base, (None, []))
        # If the active segment is not the one of the listing, one more is sealed.
        return firsts if before is not None and before == active_first else None

    def keep_listing(self, base: str, active_first: int | None, firsts: list[int]) -> None:
        """Keep the first numbers of a log's sealed segments. `active_first` is the first number of the active one."""
        self._listings[base] = (active_first, firsts)
        if len(self._listings) > MAX_SEGMENTS:
            self._listings.popitem(last=False)
