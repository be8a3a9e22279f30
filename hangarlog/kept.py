"""What a reader keeps open between two reads: the segments read last, for as long as no file is replaced."""

from __future__ import annotations

import contextlib
from collections import OrderedDict

from hangarlog.filesystem import WINDOWS
from hangarlog.segment import Segment

MOST = 0 if WINDOWS else 32
"""Segments, each with its index: two descriptors. On Windows an open file would keep a roll from happening."""


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

    def get(self, base: str, *, grown: bool = True) -> Segment | None:
        """A kept segment as it is now, None where it is not kept. One that is sealed has not `grown`."""
        segment = self._segments.get(base)
        if segment is None:
            return None
        with contextlib.suppress(KeyError):  # Another thread may have put it out.
            self._segments.move_to_end(base)
        return segment.again(grown=grown)

    def keep(self, segment: Segment) -> Segment:
        """Keep an open segment, and give what to read it through; the one unused for longest is let go."""
        if not MOST:
            return segment
        again = segment.again()
        self._segments[segment.base] = segment
        if len(self._segments) > MOST:
            self._segments.popitem(last=False)
        return again

    def sealed(self, base: str, live_first: int | None) -> list[int] | None:
        """The sealed segments of a log, as they were found when its live one began with that record."""
        found = self._sealed.get(base)
        return found[1] if found is not None and live_first is not None and found[0] == live_first else None

    def keep_sealed(self, base: str, live_first: int | None, firsts: list[int]) -> None:
        """Remember the sealed segments of a log."""
        self._sealed[base] = (live_first, firsts)
        if len(self._sealed) > MOST:
            self._sealed.popitem(last=False)
