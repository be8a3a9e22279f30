"""Which position of the target an event of the source has."""

from __future__ import annotations

from array import array
from bisect import bisect_right


class Positions:
    """Maps positions of the source to those of the target, by the runs of events that follow on each other in both."""

    def __init__(self) -> None:
        self._first, self._last, self._target = array("q"), array("q"), array("q")
        self.source = self.target = 0
        """The positions of the last event that is in both."""

    @property
    def kept(self) -> bool:
        """True if every event has the same position in both."""
        return self._first == self._target

    def note(self, source: int, target: int, count: int = 1) -> None:
        """Note where an event is, and that `count - 1` others follow it in both stores."""
        if not self._first or (source, target) != (self.source + 1, self.target + 1):
            self._first.append(source)
            self._last.append(source)
            self._target.append(target)
        self.source, self.target = source + count - 1, target + count - 1
        self._last[-1] = self.source

    def bounds(self, source: int) -> tuple[int, int]:
        """Return between which positions of the target a position of the source is, both inclusive.

        They are one, unless the source has lost events that the target has: those may be before it, or behind it.
        """
        at = bisect_right(self._first, source) - 1
        if at < 0:
            return 0, self._target[0] - 1 if self._target else self.target
        last = self._last[at]
        low = self._target[at] + min(source, last) - self._first[at]
        if source <= last:
            return low, low
        if at + 1 == len(self._first):
            return low, self.target
        high, gap = self._target[at + 1] - 1, self._first[at + 1] - 1 - last
        if gap == high - low:  # The target has all that the source has lost there.
            return low + source - last, low + source - last
        return low, high

    def in_target(self, source: int) -> int:
        """Return the position in the target up to which its events are certainly those up to one of the source."""
        return self.bounds(source)[0]
