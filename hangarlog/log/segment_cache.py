"""The segments that a reader keeps open between two reads, by path, for as long as no file is replaced."""

from __future__ import annotations

import contextlib
from collections import OrderedDict

from hangarlog.log.segment import Segment
from hangarlog.system import descriptors
from hangarlog.system.platform import WINDOWS

MAX_SEGMENTS = 0 if WINDOWS else 1024
"""Segments, each with its index, that a store keeps open. On Windows an open file would prevent a roll."""


class SegmentCache:
    """The segments read last while the store's `layout` is this one. Threads may share it, and so may a forked child.

    `folders` are those of which it is known that they do not lead out of the store. The base of a segment or a log is
    its path without a suffix.

    Nobody closes a segment that another may be reading: it is closed when the last one lets go of it.
    """

    def __init__(self, layout: int) -> None:
        self.layout = layout
        self.folders: set[str] = set()
        self._segments: OrderedDict[str, Segment] = OrderedDict()
        self._listings: OrderedDict[str, tuple[int | None, list[int]]] = OrderedDict()

    @property
    def held(self) -> int:
        """How many descriptors it holds at most: a segment and its index take two."""
        return 2 * len(self._segments)

    def let_go(self) -> None:
        """Let go of the segment that was unused for longest, from any thread."""
        with contextlib.suppress(KeyError):
            self._segments.popitem(last=False)

    def live(self, base: str) -> Segment | None:
        """The live segment with this base as it is now, None where it is not kept."""
        segment = self._find(base)
        return segment.again() if segment else None

    def sealed(self, base: str) -> Segment | None:
        """The sealed segment with this base, None where it is not kept."""
        segment = self._find(base)
        return segment.again(grown=False) if segment else None

    def _find(self, base: str) -> Segment | None:
        segment = self._segments.get(base)
        if segment:
            with contextlib.suppress(KeyError):  # Another thread may have put it out.
                self._segments.move_to_end(base)
        return segment

    def keep(self, segment: Segment) -> Segment:
        """Keep an open segment, and give what to read it through; the one unused for longest is let go."""
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

    def listing(self, base: str, live_first: int | None) -> list[int] | None:
        """The first numbers of a log's sealed segments, where they were listed with the live one as it is now."""
        before, firsts = self._listings.get(base, (None, []))
        # With another live segment than when they were listed, one more is sealed.
        return firsts if before is not None and before == live_first else None

    def keep_listing(self, base: str, live_first: int | None, firsts: list[int]) -> None:
        """Keep what a listing of a log's sealed segments gave, before a live one that begins with that record."""
        self._listings[base] = (live_first, firsts)
        if len(self._listings) > MAX_SEGMENTS:
            self._listings.popitem(last=False)
